"""The default market against what public requests met, computed as those were seen.

``python benchmarks/market_fit.py [--fit]``.  In May 2025 others sent 50 one-instance spot requests
at once to one pool, 478 times, and about 7 of each 50 were read.  The pools are sorted by T3: the
largest capacity, in steps of five, for which EC2 still scored them 3.  Bursts every 15 minutes to
twelve pools show how long a state lasts.  The same is drawn here from the market, equally often for
each T3, with as many requests seen.  ``--fit`` tries other numbers and prints which of them agree.
"""

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spotlib.sandbox import catalogue
from spotlib.sandbox.market import DAY_S, Market, Pool
from spotlib.sandbox.numbers import PROFILES

REGIONS = ("us-east-1", "us-west-2", "ap-northeast-1", "eu-west-1")
MAY_2025 = 1747699200.0  # 2025-05-20T00:00:00Z
STEPS = (1, *range(5, 51, 5))  # the capacities asked for
CLASSES = {"1-10": (1, 5, 10), "15-25": (15, 20, 25), "30-50": (30, 35, 40, 45, 50)}
BURST, SEEN_SHARE, SEEN_LEAST = 50, 7 / 50, 4
LAGS_S = (900.0, 1800.0, 3600.0, 7200.0, 14400.0)


@dataclass(frozen=True)
class Published:
    """Aggregates of one class, with 95 % intervals over bursts."""

    accepted: float
    accepted_within: tuple[float, float]
    correlation: float
    correlation_within: tuple[float, float]
    full: float
    empty: float
    mixed: float


PUBLISHED = {
    "1-10": Published(0.389, (0.322, 0.456), 0.44, (0.32, 0.56), 0.145, 0.318, 0.536),
    "15-25": Published(0.772, (0.696, 0.842), 0.77, (0.60, 0.92), 0.670, 0.146, 0.184),
    "30-50": Published(0.877, (0.831, 0.919), 0.82, (0.64, 0.95), 0.835, 0.074, 0.090),
}
# By T3, after 15, 30, 60, 120 and 240 minutes; four pools each, over one day.
SAME_STATE = {
    50: (0.96, 0.97, 0.95, 0.93, 0.92),
    25: (0.83, 0.80, 0.78, 0.73, 0.66),
    1: (0.70, 0.70, 0.66, 0.53, 0.56),
}
SHARE_CORRELATION = (0.97, 0.94, 0.92, 0.89, 0.78)  # of the accepted share, over all twelve


def sold_pools(regions: Sequence[str] = REGIONS, *, every: int = 1) -> list[Pool]:
    """Return every so manieth pool that is sold as spot in these regions."""
    pools = [
        Pool(name, zone_id, region)
        for region in regions
        for name, zone_ids in catalogue.offered(region).items()
        if (kind := catalogue.instance_type(name)) and kind.sold_as_spot
        for zone_id in zone_ids
    ]
    return pools[::every]


def largest_scored_3(market: Market, pools: list[Pool], at: float) -> NDArray[np.int64]:
    """Return T3 of each pool; 0 if it is not scored 3 for one instance."""
    largest = np.zeros(len(pools), dtype=np.int64)
    for capacity in STEPS:
        largest[market.placement_scores(pools, at, capacity=capacity)[:, 0] == 3] = capacity
    return largest


def draw_shares(
    market: Market, pools: list[Pool], moments: Sequence[float], *, most: int = 400
) -> dict[int, NDArray[np.float64]]:
    """Return for each T3 the accepted shares of bursts: one row each, now and after the lags."""
    drawn: dict[int, list[NDArray[np.float64]]] = {step: [] for step in STEPS}
    rng = np.random.default_rng(0)
    for at in moments:
        largest = largest_scored_3(market, pools, at)
        for step, rows in drawn.items():
            some = rng.permutation(np.flatnonzero(largest == step))[:most]
            times = at + np.array((0.0, *LAGS_S))
            burst = [pools[i] for i in some]
            room = market.free_capacities(burst, times) / BURST
            rows.append(np.minimum(market.accepted_shares(burst, times), room))
    return {step: np.concatenate(rows) for step, rows in drawn.items()}


def see(
    share: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many requests of each burst are seen, and how many of those were accepted.

    The requests of a burst are decided one by one, so those seen are a fair sample.
    """
    seen = np.maximum(rng.binomial(BURST, SEEN_SHARE, share.shape), 2)
    return seen, rng.binomial(seen, share)


def class_row(
    shares: dict[int, NDArray[np.float64]], steps: Sequence[int], rng: np.random.Generator
) -> dict[str, float]:
    """Return what the bursts of a class show, each T3 counting alike."""
    parts = []
    for step in steps:
        seen, accepted = see(np.repeat(shares[step][:, 0], 20), rng)
        enough = seen >= SEEN_LEAST
        pair = accepted * (accepted - 1) / (seen * (seen - 1))
        parts.append(
            {
                "accepted": accepted.sum() / seen.sum(),
                "pair": pair.mean(),
                "full": np.mean((accepted == seen)[enough]),
                "empty": np.mean((accepted == 0)[enough]),
            }
        )
    row = pd.DataFrame(parts).mean()
    mean = row["accepted"]
    return {
        "accepted": mean,
        "correlation": (row["pair"] - mean**2) / max(mean - mean**2, 1e-9),
        "full": row["full"],
        "empty": row["empty"],
        "mixed": 1.0 - row["full"] - row["empty"],
    }


def class_table(shares: dict[int, NDArray[np.float64]], *, seed: int = 1) -> pd.DataFrame:
    """Return one row per class, as the published table has them."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: class_row(shares, steps, rng) for name, steps in CLASSES.items()}).T


def persistence(
    shares: dict[int, NDArray[np.float64]], *, seed: int = 1
) -> tuple[dict[int, list[float]], list[float]]:
    """Return by T3 how many bursts are in the same state after each lag; the shares' correlation.

    The states are full, empty and mixed, of the requests seen.
    """
    rng = np.random.default_rng(seed)
    same = {}
    for step in SAME_STATE:
        seen, accepted = see(np.repeat(shares[step], 20, axis=0), rng)
        state = np.where(accepted == seen, 2, np.where(accepted == 0, 0, 1))
        enough = seen >= SEEN_LEAST
        same[step] = [
            float(np.mean((state[:, i] == state[:, 0])[enough[:, i] & enough[:, 0]]))
            for i in range(1, state.shape[1])
        ]
    least = min(len(shares[step]) for step in SAME_STATE)
    alike = np.concatenate([shares[step][:least] for step in SAME_STATE])
    return same, np.corrcoef(alike.T)[0, 1:].tolist()


def misfits(table: pd.DataFrame) -> list[str]:
    """Return what of the class table disagrees with the published one; empty if nothing."""
    found = []
    for name, published in PUBLISHED.items():
        row = table.loc[name]
        for what in ("accepted", "correlation"):
            low, high = getattr(published, f"{what}_within")
            if not low <= row[what] <= high:
                found.append(f"{name} {what} {row[what]:.3f} not in {low:g} to {high:g}")
        for what in ("full", "empty", "mixed"):
            if abs(row[what] - getattr(published, what)) > 0.1:
                found.append(f"{name} {what} {row[what]:.3f}, not {getattr(published, what):.3f}")
    return found


def distance(table: pd.DataFrame) -> float:
    """Return the squared distance from the published table, in half widths or tenths."""
    total = 0.0
    for name, published in PUBLISHED.items():
        row = table.loc[name]
        for what in ("accepted", "correlation"):
            low, high = getattr(published, f"{what}_within")
            total += ((row[what] - getattr(published, what)) / (high - low) * 2.0) ** 2
        for what in ("full", "empty", "mixed"):
            total += ((row[what] - getattr(published, what)) / 0.1) ** 2
    return total


def show(market: Market, pools: list[Pool], moments: Sequence[float]) -> None:
    """Print one market beside the published aggregates."""
    shares = draw_shares(market, pools, moments)
    table = class_table(shares)
    print(f"\nmarket {market.name}, bursts: {sum(map(len, shares.values()))}")
    print("T3     accepted        published [95 %]     correlation  published [95 %]")
    for name, row in table.iterrows():
        p = PUBLISHED[str(name)]
        print(
            f"{name:6} {row['accepted']:.3f}    {p.accepted:.3f} {list(p.accepted_within)}"
            f"    {row['correlation']:.2f}    {p.correlation:.2f} {list(p.correlation_within)}"
        )
    print("T3     full, empty, mixed       published")
    for name, row in table.iterrows():
        p = PUBLISHED[str(name)]
        print(
            f"{name:6} {row['full']:.3f} {row['empty']:.3f} {row['mixed']:.3f}"
            f"        {p.full:.3f} {p.empty:.3f} {p.mixed:.3f}"
        )
    same, correlation = persistence(shares)
    print("same state after 15, 30, 60, 120, 240 min        published")
    for step, row in same.items():
        print(f"T3 {step:2}  {_digits(row)}    {_digits(SAME_STATE[step])}")
    print(f"shares {_digits(correlation)}    {_digits(SHARE_CORRELATION)}")
    print("outside: " + ("; ".join(misfits(table)) or "nothing"))


def fit(pools: list[Pool], moments: Sequence[float]) -> None:
    """Print the best numbers of a grid, and for each the range in which nothing is outside."""
    grid = {
        "contested_at": (0.74, 0.76, 0.78, 0.80, 0.82, 0.84, 0.86),
        "rivals_median": (0.06, 0.1, 0.15, 0.2, 0.3),
        "rivals_sigma": (1.0, 1.5, 2.0),
    }
    rows = []
    for values in itertools.product(*grid.values()):
        numbers = replace(PROFILES["fitted"], **dict(zip(grid, values, strict=True)))
        table = class_table(draw_shares(Market(numbers=numbers), pools, moments, most=200))
        rows.append((*values, distance(table), len(misfits(table))))
    found = pd.DataFrame(rows, columns=[*grid, "distance", "outside"]).sort_values("distance")
    print(found.head(10).to_string(index=False, float_format="{:.2f}".format))
    best = found.iloc[0]
    for name in grid:
        alone = found[[*grid]].drop(columns=name).eq(best[[*grid]].drop(name)).all(axis=1)
        agree = found[alone & (found["outside"] == 0)][name]
        print(f"{name}: {best[name]:g}, nothing outside from {agree.min():g} to {agree.max():g}")


def main() -> None:
    """Print the comparison, or fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", nargs="+", default=["fitted"], choices=list(PROFILES))
    parser.add_argument("--fit", action="store_true", help="search a grid of numbers (minutes)")
    given = parser.parse_args()
    pools, moments = sold_pools(), MAY_2025 + np.arange(4) * 7 * DAY_S
    print("SIMULATED, beside public outcomes of 2025-05; about 7 of a burst's 50 requests seen")
    if given.fit:
        fit(sold_pools(every=4), moments)
    for profile in [] if given.fit else given.profiles:
        show(Market(profile=profile), pools, moments.tolist())


def _digits(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()

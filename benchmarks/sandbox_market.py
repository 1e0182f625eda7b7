"""Properties of 100,000 simulated launches beside the numbers they are drawn from.

``python benchmarks/sandbox_market.py [--launches 100000]``: requests for ten instances in random
pools at random moments of a month; then how much of their outcome the archive's CoV ranking
explains.  The results say nothing about AWS.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from spotlib.sandbox import catalogue, history
from spotlib.sandbox.chance import Floats, uniforms
from spotlib.sandbox.market import DAY_S, Market, Pool

AUGUST = 1722470400.0  # 2024-08-01T00:00:00Z
EACH = 10  # instances per request


@dataclass(frozen=True)
class Launches:
    """Simulated requests: how many of ten were fulfilled at once, and their boots."""

    filled: Floats  # 0..10, one per request
    score: Floats  # the placement score just before
    boot_s: Floats  # one row per request; NaN where not fulfilled


def all_pools() -> list[Pool]:
    """Every pool of the default regions that is sold as spot."""
    return [
        Pool(name, zone_id, region)
        for region in catalogue.DEFAULT_REGIONS
        for name, zone_ids in catalogue.offered(region).items()
        if (kind := catalogue.instance_type(name)) and kind.sold_as_spot
        for zone_id in zone_ids
    ]


def launch(market: Market, pools: list[Pool], requests: int) -> Launches:
    """Requests for ten instances, each in one pool at one moment."""
    which, when = uniforms(2 * requests, "launches").reshape(2, requests)
    at = AUGUST + np.floor(when * 31 * DAY_S)
    chosen = [pools[int(share * len(pools))] for share in which]
    filled, score = np.empty(requests), np.empty(requests)
    boot_s = np.full((requests, EACH), np.nan)
    for i, pool in enumerate(chosen):
        filled[i] = sum(
            bool(market.accepts(pool, at[i], held=j, request=str(i), index=j)) for j in range(EACH)
        )
        score[i] = float(market.placement_score(pool, at[i]))
        for j in range(int(filled[i])):
            boot_s[i, j] = market.boot(pool, at[i], request=str(i), index=j).boot_s
    return Launches(filled, score, boot_s)


def accepted(market: Market, pools: list[Pool], at: Floats) -> Floats:
    """The share of single requests that EC2 would accept: one row per pool."""
    return np.minimum(market.free_capacities(pools, at), market.accepted_shares(pools, at))


def within_request(boot_s: Floats) -> float:
    """Correlation between the logarithms of two boots of one request."""
    pairs = np.log(boot_s[~np.isnan(boot_s).any(axis=1)])
    return float(np.corrcoef(pairs[:, 0], pairs[:, 1])[0, 1])


def day_cycle(market: Market, pools: list[Pool]) -> tuple[float, float]:
    """(share accepted at 3 h, at 15 h local time) in pools near the edge."""
    n = market.numbers
    edge_at = min(n.contested_at, n.full_at)
    some = [p for p in pools if p.region == "eu-west-1"]  # one hour east
    near = np.abs(market.tightnesses(some, AUGUST + np.arange(28) * DAY_S).mean(axis=1) - edge_at)
    edge = [some[i] for i in np.argsort(near)[:60]]
    days = AUGUST + np.arange(28) * DAY_S
    share = [accepted(market, edge, days + hour * 3600.0) for hour in (2, 14)]
    return float(share[0].mean()), float(share[1].mean())


def ranking_explains(market: Market, pools: list[Pool]) -> tuple[float, float, int]:
    """Spearman of a target's CoV of SPS with its median launch time and its share fulfilled."""
    targets: dict[tuple[str, str], list[Pool]] = {}
    for pool in pools:
        targets.setdefault((pool.instance_type, pool.region), []).append(pool)
    hours = AUGUST + np.arange(31 * 24) * 3600.0
    rows = []
    for name, members in targets.items():
        scores = market.placement_scores(members, hours)
        share = accepted(market, members, hours[:: 24 * 3])
        boots = [
            market.boot(members[i % len(members)], at, request=f"{name} {i}", index=0).boot_s
            for i, at in enumerate(hours[::62])
        ]
        rows.append((scores.std() / scores.mean(), np.median(boots), share.mean()))
    cov, boot, filled = np.array(rows).T
    time_rho = float(spearmanr(cov, boot).statistic)
    return time_rho, float(spearmanr(cov, filled).statistic), len(rows)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=100_000)
    parser.add_argument("--profile", default="fitted")
    given = parser.parse_args()
    began_s = time.perf_counter()
    market, pools = Market(profile=given.profile), all_pools()
    n = market.numbers
    done = launch(market, pools, given.launches // EACH)
    share = done.filled / EACH
    boots = done.boot_s[~np.isnan(done.boot_s)]
    print(f"{len(done.filled) * EACH} launches in requests of {EACH}, profile {given.profile}")
    print(f"  filled at once {share.mean():.1%}; whole requests {np.mean(share == 1):.1%}")
    print(f"  nothing {np.mean(share == 0):.1%}, a part {np.mean((share > 0) & (share < 1)):.1%}")
    for score in (3, 2, 1):
        here = done.score == score
        print(f"  SPS {score}: {here.mean():.1%} of requests, {share[here].mean():.1%} filled")
    print(
        f"  boot: median {np.median(boots):.2f} s (table {n.boot_median_s:g}), "
        f"95 % within {np.quantile(boots, 0.95):.1f} s"
    )
    print(f"  correlation of log boots within a request {within_request(done.boot_s):.2f}")
    night, day = day_cycle(market, pools)
    print(f"  accepted in pools at the edge, local 3 h {night:.1%}, 15 h {day:.1%}")
    small = history.pools_of(history.DEMO_REGIONS, history.small_types())
    time_rho, filled_rho, targets = ranking_explains(market, small)
    print(f"  Spearman over {targets} targets of the CoV of SPS")
    print(
        f"    with the median launch time {time_rho:+.2f}, with the share filled {filled_rho:+.2f}"
    )
    print(f"  {time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()

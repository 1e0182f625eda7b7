"""Launches drawn straight from the sandbox's market, without its endpoint: hundreds of runs.

Each run is a plan of ``n`` instances in a round.  EC2 chooses the pool, decides once for the
call, holds it while the pool is full and tries again.  Then each instance boots and passes its
checks.  A poll every 3 s, with a random phase, shows it.  The rows are those of ``load_launches``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spotlib.record.columns import LAUNCH_COLUMNS
from spotlib.sandbox import catalogue
from spotlib.sandbox.chance import Floats
from spotlib.sandbox.market import Market, Pool

START = pd.Timestamp("2024-09-01", tz="UTC")
POLL_S, LATENCY_S, TIMEOUT_S = 3.0, 0.7, 600.0
LADDER = (1, 2, 5, 10, 20, 50)  # target capacities whose scores make T3


def choose_targets(
    market: Market, count: int, *, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Return types and regions, about as many from each class of T3 at the start."""
    classes: dict[int, list[tuple[str, str]]] = {}
    each = -(-count // (len(LADDER) + 1))
    offers = [(t, r) for r in catalogue.DEFAULT_REGIONS for t in sorted(catalogue.offered(r))]
    for index in rng.permutation(len(offers)):
        if sum(map(len, classes.values())) == each * (len(LADDER) + 1):
            break  # there are 16,000 offers
        found = classes.setdefault(t3(market, pools_of(*offers[index]), START.timestamp()), [])
        if len(found) < each:
            found.append(offers[index])
    return [offer for _, found in sorted(classes.items()) for offer in found][:count]


def t3(market: Market, pools: Sequence[Pool], at: float) -> int:
    """Return the largest capacity of the ladder that scores 3 in one of the pools; 0 if none."""
    scores = [market.placement_scores(pools, at, capacity=each).max() for each in LADDER]
    return max((each for each, score in zip(LADDER, scores, strict=True) if score >= 3), default=0)


def pools_of(instance_type: str, region: str) -> list[Pool]:
    """Return the pools that EC2 may choose from where no zone is named."""
    return [Pool(instance_type, zone, region) for zone in catalogue.offered(region)[instance_type]]


def simulate_launches(
    market: Market,
    targets: Sequence[tuple[str, str]],
    *,
    rounds: int,
    n: int,
    every_s: float,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return one row per request, of ``rounds`` rounds of ``n`` instances per target."""
    rows = [
        row
        for number in range(rounds)
        for plan, target in enumerate(targets)
        for row in _run(market, target, number, plan, n=n, every_s=every_s, rng=rng)
    ]
    table = pd.DataFrame(rows, columns=list(LAUNCH_COLUMNS))
    for name in ("sent_at", "sps_at", "t3_at", "if_at"):
        table[name] = pd.to_datetime(table[name], utc=True)
    for name in ("round", "plan", "n", "sps", "t3"):
        table[name] = table[name].astype("Int64")
    numbers = [name for name in LAUNCH_COLUMNS if name.endswith(("_s", "_usd"))]
    return table.astype(dict.fromkeys([*numbers, "if_score"], "float64"))


def oracle_shares(
    market: Market, runs: pd.DataFrame, times_s: Floats, *, rng: np.random.Generator, draws: int
) -> Floats:
    """Return the share ready over time that is expected of each run, (runs, times).

    Who knows the state of every pool expects the mean over other draws of the same request: which
    zone EC2 takes, how long it decides, how long each instance boots.
    """
    shares = np.zeros((len(runs), times_s.size))
    for row, run in enumerate(runs.to_dict("records")):
        pools, at = pools_of(*run["target"].split(" in ")), run["sent_at"].timestamp()
        for call in (f"{run['round']}/{run['plan']}/again/{draw}" for draw in range(draws)):
            pool = market.choose_zone(pools, at, call)
            ready_s = [each[-1] for each in _events(market, pool, at, call, run["n"])]
            shown_s = np.array(ready_s) + LATENCY_S + rng.uniform(0.0, POLL_S)
            shares[row] += (shown_s[:, None] <= times_s).mean(axis=0)
    return shares / draws


def _run(
    market: Market,
    target: tuple[str, str],
    number: int,
    plan: int,
    *,
    n: int,
    every_s: float,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    name, region = target
    at = START.timestamp() + number * every_s + rng.uniform(0.0, 60.0)
    call = f"{number}/{plan}"
    pools = pools_of(name, region)
    pool = market.choose_zone(pools, at, call)
    sps = float(market.placement_scores(pools, at, capacity=n).max())
    phase_s = rng.uniform(0.0, POLL_S)
    when = START + pd.Timedelta(seconds=at - START.timestamp())
    price = float(market.prices_usd(pools, at).min())
    common = {
        "simulated": True,
        "world": f"market-{market.seed}",
        "endpoint": "sandbox",
        "batch_id": f"20240901T000000Z-{market.seed:06x}",
        "round": number,
        "plan": plan,
        "instance_type": name,
        "region": region,
        "placement": "region",
        "method": "request_spot_instances",
        "purchase": "spot",
        "wanted": "ready",
        "n": n,
        "timeout_s": TIMEOUT_S,
        "sent_at": when,
        "price_usd": price,
        "on_demand_usd": market.on_demand_usd(name, region),
        "sps": sps,
        "sps_at": when,
        "t3": t3(market, pools, at),
        "t3_at": when,
        "t3_source": "placement scores",
        "if_score": float(market.interruption_score(name, region, at)),
        "if_at": when,
        "since_last_s": every_s if number else None,
    }
    for index, times_s in enumerate(_events(market, pool, at, call, n)):
        yield {**common, "request_id": f"sir-{call}/{index}", **_watched(times_s, phase_s)}


def _events(
    market: Market, pool: Pool, at: float, call: str, n: int
) -> Iterator[tuple[float, float, float]]:
    """Yield when each instance was fulfilled, running and ready; inf if never."""
    decided_s, _ = market.decision_s(call)
    tries_s = decided_s + market.numbers.reevaluate_s * np.arange(30)
    for index in range(n):
        room = np.flatnonzero(
            market.accepts(pool, at + tries_s, held=index, request=call, index=index)
        )
        if room.size == 0:
            yield np.inf, np.inf, np.inf
            continue
        _, flight_s = market.decision_s(call, index)
        fulfilled_s = float(tries_s[room[0]]) + flight_s
        boot = market.boot(pool, at + fulfilled_s, request=call, index=index)
        running_s = fulfilled_s + boot.boot_s
        yield fulfilled_s, running_s, running_s + boot.ok_s


def _watched(times_s: tuple[float, float, float], phase_s: float) -> dict[str, Any]:
    """Return what polls every 3 s showed: brackets, and where the watching ended."""
    asked_s = np.arange(phase_s, TIMEOUT_S, POLL_S)
    seen: dict[str, Any] = {"accepted_after_s": 0.0, "accepted_by_s": 1.0}
    for stage, happened_s in zip(("fulfilled", "running", "ready"), times_s, strict=True):
        poll = int(np.searchsorted(asked_s, happened_s))
        if poll < asked_s.size:
            seen[f"{stage}_after_s"] = float(asked_s[poll - 1]) if poll else 0.0
            seen[f"{stage}_by_s"] = float(asked_s[poll]) + LATENCY_S
            seen["watched_s"] = float(asked_s[poll])
    if "ready_by_s" in seen:
        return seen | {"outcome": "ready", "status_code": "fulfilled"}
    code = "fulfilled" if "fulfilled_by_s" in seen else "capacity-not-available"
    return seen | {"outcome": "timed_out", "status_code": code, "watched_s": float(asked_s[-1])}

"""Launches made by hand or drawn from the sandbox's market, as ``load_launches`` returns them."""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from spotlib.forecast.training import training_table
from spotlib.record.columns import LAUNCH_COLUMNS
from spotlib.sandbox.market import Market

INF = float("inf")
MARKET = runpy.run_path(
    str(Path(__file__).parents[1] / "benchmarks" / "forecast_market.py"), run_name="forecast_market"
)


def run_rows(ready_s, *, number=0, plan=0, until_s=599.0, **fields):
    """Yield one run, from the times at which a poll first showed each request ready (inf: none)."""
    common = {
        "simulated": True,
        "world": "w-1",
        "endpoint": "sandbox",
        "batch_id": "20240901T000000Z-aaaaaa",
        "round": number,
        "plan": plan,
        "instance_type": "t3.nano",
        "region": "sa-east-1",
        "placement": "region",
        "method": "request_spot_instances",
        "purchase": "spot",
        "wanted": "ready",
        "n": len(ready_s),
        "timeout_s": 600.0,
        "sent_at": pd.Timestamp("2024-09-01", tz="UTC") + pd.Timedelta(minutes=15 * number),
        "price_usd": 0.002,
        "on_demand_usd": 0.008,
        "sps": 3,
    }
    for index, by_s in enumerate(ready_s):
        row = common | {"request_id": f"sir-{number:04d}{plan}{index:03d}"}
        if by_s < INF:
            seen = {"ready_after_s": by_s - 3.0, "ready_by_s": by_s, "outcome": "ready"}
            row |= seen | {"watched_s": by_s - 0.5, "status_code": "fulfilled"}
        else:
            row |= {"outcome": "timed_out", "watched_s": until_s}
        yield row | fields


def table_of(*runs):
    """Return the rows of runs as ``load_launches`` returns them."""
    table = pd.DataFrame([row for run in runs for row in run], columns=list(LAUNCH_COLUMNS))
    for name in ("sent_at", "sps_at", "t3_at", "if_at"):
        table[name] = pd.to_datetime(table[name], utc=True)
    numbers = [name for name in LAUNCH_COLUMNS if name.endswith(("_s", "_usd"))]
    counts = dict.fromkeys(["round", "plan", "n", "sps", "t3"], "Int64")
    return table.astype(dict.fromkeys([*numbers, "if_score"], "float64") | counts)


@cache
def drawn(*, targets=20, rounds=20, n=5, profile="tight", seed=1):
    """Return launches of many targets over days, drawn from the market."""
    rng = np.random.default_rng(seed)
    market = Market(profile=profile)
    chosen = MARKET["choose_targets"](market, targets, rng=rng)
    return MARKET["simulate_launches"](
        market, chosen, rounds=rounds, n=n, every_s=4 * 3600.0, rng=rng
    )


@cache
def drawn_training(**settings):
    """Return the training table of drawn launches."""
    return training_table(drawn(**settings))

"""What each baseline's forecast of the ready count is worth, on the sandbox's market.

``python benchmarks/forecast_skill.py [--targets 40 --rounds 40 --n 5]``: many runs are drawn
straight from the market, each model learns from a part of them and is scored on the rest, split
by time and by unseen target.  Nothing here is a finding about AWS.
"""

import argparse
import time

import numpy as np
import pandas as pd
from forecast_market import choose_targets, simulate_launches

from spotlib.forecast_score import row_split_flatters, score_forecasts
from spotlib.sandbox.market import Market
from spotlib.training import training_table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--every-s", type=float, default=3 * 3600.0)
    parser.add_argument("--profile", default="tight")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    market = Market(profile=given.profile)
    launches = simulate_launches(
        market,
        choose_targets(market, given.targets, rng=rng),
        rounds=given.rounds,
        n=given.n,
        every_s=given.every_s,
        rng=rng,
    )
    training = training_table(launches)
    print(f"SIMULATED, market {given.profile!r}: {given.targets} targets, {given.rounds} rounds,")
    print(f"n={given.n}; {launches['ready_by_s'].notna().mean():.2f} of the requests came in time")
    pd.set_option("display.width", 200, "display.max_columns", 20, "display.precision", 3)
    for split in ("time", "target"):
        began_s = time.perf_counter()
        scores = score_forecasts(training, split=split, rng=rng)
        took_s = time.perf_counter() - began_s
        print(f"\nsplit by {split}, intervals over {scores.resampled}s ({took_s:.0f} s)")
        print(scores.table.to_string(index=False))
        for model, values in scores.pit.items():
            share = np.histogram(values, bins=10, range=(0.0, 1.0))[0] / values.size
            print(f"  PIT of {model:18} {' '.join(f'{each:.2f}' for each in share)}")
    print("\nthe same flexible model by four splits: by row it is flattered")
    print(row_split_flatters(training, rng=rng).to_string(index=False))


if __name__ == "__main__":
    main()

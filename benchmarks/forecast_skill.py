"""What each baseline's forecast of the ready count is worth, on the sandbox's market.

``python benchmarks/forecast_skill.py [--targets 40 --rounds 40 --n 5 --repeats 5]``: many runs are
drawn straight from the market.  Each model learns from a part of them and is scored on the rest,
split by time and by unseen target.  Repeats draw other targets and other runs; all tables of the
first are printed.  Nothing here is a finding about AWS.
"""

import argparse

import numpy as np
import pandas as pd
from forecast_market import choose_targets, simulate_launches

from spotlib.forecast.score import Scores, score_forecasts
from spotlib.forecast.training import training_table
from spotlib.sandbox.market import Market


def draw(given: argparse.Namespace, seed: int) -> pd.DataFrame:
    """Return the training table of one repeat."""
    rng = np.random.default_rng(seed)
    market = Market(profile=given.profile)
    launches = simulate_launches(
        market,
        choose_targets(market, given.targets, rng=rng),
        rounds=given.rounds,
        n=given.n,
        every_s=given.every_s,
        rng=rng,
    )
    ready = launches["ready_by_s"].notna().mean()
    print(f"seed {seed}: {ready:.2f} of the requests were ready in time")
    return training_table(launches)


def show(scores: Scores) -> None:
    """Print all scores of one split."""
    print(f"\nsplit by {scores.split}, intervals over {scores.resampled}s")
    print(scores.table.to_string(index=False, float_format="{:.3f}".format))
    for model, values in scores.pit.items():
        share = np.histogram(values, bins=10, range=(0.0, 1.0))[0] / values.size
        print(f"  PIT of {model:18} {' '.join(f'{each:.2f}' for each in share)}")


def main() -> None:
    """Print the tables of the first repeat, and the best model of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--every-s", type=float, default=3 * 3600.0)
    parser.add_argument("--profile", default="tight")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    print(f"SIMULATED, market {given.profile!r}, {given.targets} targets, n={given.n}")
    best = []
    for seed in range(given.seed, given.seed + given.repeats):
        training, rng = draw(given, seed), np.random.default_rng(seed)
        for split in ("time", "target"):
            scores = score_forecasts(training, split=split, rng=rng)
            best.append({"seed": seed, "split": split, **scores.table.iloc[0]})
            if seed == given.seed:
                show(scores)
    print("\nthe best model of each repeat")
    print(pd.DataFrame(best).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()

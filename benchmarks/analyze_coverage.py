"""How often 95 % intervals cover the truth, over runs and, wrongly, over instances.

``python benchmarks/analyze_coverage.py [--studies 1000 --runs 12 20 --seed 1]``: studies of 12
and of 20 runs of 10 requests.  Instances share their run's luck, 10 % are never ready, polls are
3 s apart and 5 % of them are lost.
"""

import argparse

import numpy as np
import pandas as pd
from analyze_study import Truth, simulate

from spotlib.analyze.intervals import Estimate
from spotlib.analyze.launch_times import launch_times
from spotlib.model import Stage

TRUTH = Truth(median_s=60.0, between=0.4, within=0.3, never=0.1)
HORIZON_S, TIME_S = 240.0, 60.0


def covers(estimate: Estimate, true: float) -> bool:
    """Whether the interval contains the truth."""
    return bool(estimate.low <= true <= estimate.high)


def coverage(
    *, studies: int, runs: int, count: int = 10, resamples: int = 299, seed: int = 1
) -> pd.DataFrame:
    """One row per study: whether each interval contains the truth, by what was resampled."""
    rng = np.random.default_rng(seed)
    truths = {
        "median": TRUTH.quantile(0.5),
        "restricted mean": TRUTH.restricted_mean_s(HORIZON_S),
        f"share by {TIME_S:.0f} s": TRUTH.share_by(TIME_S),
    }
    rows = []
    for _ in range(studies):
        launches = simulate(TRUTH, runs=runs, count=count, rng=rng, timeout_s=300.0)
        alone = launches.assign(run=launches.index.astype(str))
        row = {}
        for name, table in (("run", launches), ("instance", alone)):
            distributions = launch_times(table, Stage.READY, resamples=resamples)
            [times] = distributions.values()
            found = (times.quantile(), times.restricted_mean(HORIZON_S), times.share_ready(TIME_S))
            for (what, true), estimate in zip(truths.items(), found, strict=True):
                row[name, what] = covers(estimate, true)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.set_axis(pd.MultiIndex.from_tuples(table.columns), axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--runs", type=int, nargs="*", default=[12, 20])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for runs in options.runs:
        share = coverage(studies=options.studies, runs=runs, seed=options.seed).mean()
        print(
            f"{options.studies} studies of {runs} runs x 10, seed {options.seed}:"
            " the 95 % intervals cover"
        )
        for what in dict.fromkeys(what for _, what in share.index):
            by_run, by_instance = share[("run", what)], share[("instance", what)]
            print(f"  {what:16} over runs {by_run:6.1%}   over instances {by_instance:6.1%}")


if __name__ == "__main__":
    main()

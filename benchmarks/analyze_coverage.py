"""How often 95 % intervals cover the truth, over runs and, wrongly, over instances.

``python benchmarks/analyze_coverage.py [--studies 60 --runs 8 12 20 40 --seed 1 --exact]``: first
studies of 12 runs of 10 requests of a lognormal law, whose instances share their run's luck.  Then
a law with a heavy tail, correlated within a run by 0.3 and 0.7, of which 0 to 40 % are never ready:
its median, its share by 30, 60 and 290 s, its mean up to 240 s, and the band of its whole curve.
Polls are 3 s apart and 5 % of them are lost.  With ``--exact`` all times are known instead, so that
thousands of studies show what the limits of the shares are worth.
"""

import argparse

import numpy as np
import pandas as pd
from analyze_study import HeavyTail, Truth, simulate

from spotlib.analyze.intervals import Estimate, ShareLimits
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


def heavy_coverage(truth: HeavyTail, *, studies: int, runs: int, seed: int) -> pd.DataFrame:
    """One row per study of 10 requests per run: whether each interval and band covers."""
    rng = np.random.default_rng([seed, runs, int(10 * truth.alike), int(10 * truth.never)])
    times_s = np.linspace(1.0, 290.0, 290)
    rows = []
    for _ in range(studies):
        launches = simulate(truth, runs=runs, count=10, rng=rng, timeout_s=300.0)
        [times] = launch_times(launches, Stage.READY, resamples=499).values()
        band = times.band(times_s)
        within = band["curve_low"].le(truth.share_by(times_s) + 1e-9)
        within &= band["curve_high"].ge(truth.share_by(times_s) - 1e-9)
        mean_s = truth.restricted_mean_s(HORIZON_S)
        row = {"median": covers(times.quantile(), truth.quantile(0.5))}
        for time_s in (30.0, TIME_S, 290.0):
            row[f"{time_s:.0f} s"] = covers(times.share_ready(time_s), truth.share_by(time_s))
        row["mean"] = covers(times.restricted_mean(HORIZON_S), mean_s)
        rows.append(row | {"whole curve": bool(within.all())})
    return pd.DataFrame(rows)


def exact_coverage(truth: HeavyTail, *, studies: int, runs: int, seed: int) -> pd.DataFrame:
    """One row per study: whether limits cover if every time up to 300 s were known exactly.

    The curve is then the average of those of the runs, and a study takes milliseconds.
    """
    rng = np.random.default_rng([seed, runs, int(10 * truth.alike), int(10 * truth.never)])
    times_s = np.linspace(1.0, 290.0, 290)
    true = truth.share_by(times_s)
    rows = []
    for _ in range(studies):
        drawn_s = truth.draw(runs=runs, count=10, rng=rng)
        knots_s = np.unique(np.append(drawn_s[drawn_s < 300.0], 0.0))
        by_run = (drawn_s[:, :, None] <= knots_s).mean(axis=1)
        again = rng.multinomial(runs, np.full(runs, 1 / runs), size=499) @ by_run / runs
        limits = ShareLimits.of(by_run.mean(axis=0), again, runs=runs, requests=10 * runs)
        shares = (drawn_s.ravel() <= times_s[:, None]).mean(axis=1)
        within, whole = (
            (low <= true + 1e-9) & (true <= high + 1e-9)
            for low, high in (limits.pointwise(shares), limits.whole_curve(shares))
        )
        row = {f"{times_s[place]:.0f} s": within[place] for place in (29, 59, 289)}
        rows.append(row | {"whole curve": whole.all()})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--runs", type=int, nargs="*", default=[8, 12, 20, 40])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exact", action="store_true", help="times known exactly, many studies")
    options = parser.parse_args()
    law_coverage = exact_coverage if options.exact else heavy_coverage
    if not options.exact:
        print_lognormal(options.studies, options.seed)
    laws = [HeavyTail(alike=alike, never=never) for alike in (0.3, 0.7) for never in (0, 0.1, 0.4)]
    for runs in options.runs:
        print(f"{options.studies} studies of {runs} runs x 10 of each heavy tail, over runs")
        found = []
        for law in laws:
            found.append(law_coverage(law, studies=options.studies, runs=runs, seed=options.seed))
            words = "  ".join(f"{name} {each:6.1%}" for name, each in found[-1].mean().items())
            print(f"  alike {law.alike:.1f}, never ready {law.never:3.0%}:  {words}", flush=True)
        words = "  ".join(f"{name} {each:6.1%}" for name, each in pd.concat(found).mean().items())
        print(f"  all of them:                {words}", flush=True)


def print_lognormal(studies: int, seed: int) -> None:
    """How often intervals over runs and over instances cover, for a lognormal law."""
    share = coverage(studies=studies, runs=12, seed=seed).mean()
    print(f"{studies} studies of 12 runs x 10, lognormal: the 95 % intervals cover")
    for what in dict.fromkeys(what for _, what in share.index):
        by_run, by_instance = share[("run", what)], share[("instance", what)]
        print(f"  {what:16} over runs {by_run:6.1%}   over instances {by_instance:6.1%}")


if __name__ == "__main__":
    main()

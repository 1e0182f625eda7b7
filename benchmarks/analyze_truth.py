"""Bias of median and restricted mean against known truth, ours and that of the first sighting.

``python benchmarks/analyze_truth.py [--studies 40]``: 200 runs of 10 requests each, polls 3 s apart
at a random phase, 5 % of them lost, a timeout of 600 s, 30 % never ready.
"""

import argparse

import numpy as np
from analyze_study import Truth, simulate

from spotlib.analyze.curve import Curve, Observed, smoothed
from spotlib.analyze.launch_times import observe
from spotlib.analyze.turnbull import turnbull
from spotlib.model import Stage

HORIZON_S = 590.0


def first_seen(observed: Observed) -> Curve:
    """The curve through the times of the first polls that showed the stage: the usual way."""
    by_s, counts = np.unique(observed.by_s, return_counts=True)
    after_s = np.where(np.isfinite(by_s), by_s - 1e-9, HORIZON_S)
    return Curve(after_s, by_s, counts / counts.sum(), np.inf)


def errors(truth: Truth, *, studies: int, seed: int) -> np.ndarray:
    """By how much each study's estimates miss the true times of its own requests.

    One row per study: the median, ours and of the first polls, then the restricted mean of both.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(studies):
        launches = simulate(truth, runs=200, count=10, rng=rng)
        true_s = launches["true_s"].to_numpy()
        median_s = np.median(true_s)
        mean_s = np.minimum(true_s, HORIZON_S).mean()
        observed = observe(launches, Stage.READY)
        ours = smoothed(turnbull(observed), observed.width_s / 2)
        curves = (ours, first_seen(observed))
        rows.append(
            [curve.quantile(0.5) - median_s for curve in curves]
            + [curve.restricted_mean_s(HORIZON_S) - mean_s for curve in curves]
        )
    return np.array(rows, dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=40)
    options = parser.parse_args()
    print("bias in seconds: estimate less the true times of the same requests, +- standard error")
    for median_s in (5.0, 20.0, 120.0):
        rows = errors(Truth(median_s=median_s, never=0.3), studies=options.studies, seed=1)
        bias, error = rows.mean(axis=0), rows.std(axis=0, ddof=1) / np.sqrt(len(rows))
        words = [f"{b:+.3f} +- {e:.3f}" for b, e in zip(bias, error, strict=True)]
        print(f"true median {median_s:.0f} s of those that become ready, 30 % never ready")
        print(f"  median:          ours {words[0]}, first seen {words[1]}")
        print(f"  restricted mean: ours {words[2]}, first seen {words[3]}")


if __name__ == "__main__":
    main()

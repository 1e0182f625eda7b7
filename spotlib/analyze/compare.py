"""Which of two targets is faster, and how sure that is.

Owns the comparisons between targets.  Targets launched in one round share its time of day and
the state of the market, so labels are exchanged only within a round: a difference between times
is never read as a difference between targets.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import ceil, log

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from spotlib.analyze.intervals import FEWEST_RUNS, Estimate, run_level_interval
from spotlib.analyze.launch_times import LaunchTimes
from spotlib.analyze.turnbull import Floats

EXCHANGES = 4096  # of labels: all there are up to 12 rounds, random ones beyond
_COLUMNS = (
    *("first", "second", "rounds", "ratio", "ratio_low", "ratio_high"),
    *("difference", "difference_low", "difference_high", "p_value", "more_runs", "why"),
)


def compare_targets(
    distributions: Mapping[str, LaunchTimes],
    *,
    horizon_s: float,
    rng: np.random.Generator,
    precision: float = 0.1,
) -> pd.DataFrame:
    """Compare every pair of targets, one row per pair.

    Parameters
    ----------
    distributions : dict of {str: LaunchTimes}
        As from ``launch_times``.
    horizon_s : float
        Shares and restricted means are up to this time.
    rng : numpy.random.Generator
        Draws exchanges of labels beyond 12 rounds.
    precision : float, default 0.1
        How well a ratio is to be known: 0.1 is within 10 %.

    Returns
    -------
    DataFrame
        ``first``, ``second``: the targets; ``rounds`` in which both were launched.
        ``ratio`` of the medians (first over second), with its interval over rounds.  It is NaN if
        one median was not reached; the interval may still bound it from one side.
        ``difference`` of the shares by the horizon, with Newcombe's interval (Statistics in
        Medicine 1998).
        ``p_value`` of the difference in restricted mean if labels are exchanged within rounds,
        and ``p_holm``, adjusted over all pairs (Holm, Scandinavian Journal of Statistics 1979).
        ``more_runs`` that the ratio needs for ``precision``, at the scatter seen.
        ``why`` something is missing.
    """
    rows = [
        _compare(
            *(distributions[first], distributions[second]),
            horizon_s=horizon_s,
            rng=rng,
            precision=precision,
        )
        for first, second in combinations(sorted(distributions), 2)
    ]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.assign(p_holm=holm(table["p_value"].to_numpy(dtype=np.float64)))


def _compare(
    first: LaunchTimes,
    second: LaunchTimes,
    *,
    horizon_s: float,
    rng: np.random.Generator,
    precision: float,
) -> dict[str, object]:
    runs = min(first.observed.runs, second.observed.runs)
    again = _ratio(first.resampled.quantile(0.5), second.resampled.quantile(0.5))
    needed = runs_needed(again, runs=runs, precision=precision)
    medians = np.array([each.curve.quantile(0.5) for each in (first, second)])
    here = medians[0] / medians[1] if np.isfinite(medians).all() else np.nan
    ratio = run_level_interval(float(here), again, runs=runs)
    unreached = [e.target for e, s in zip((first, second), medians, strict=True) if np.isinf(s)]
    difference = _difference(first.share_ready(horizon_s), second.share_ready(horizon_s))
    paired = _round_differences(first, second, horizon_s=horizon_s)
    return {
        "first": first.target,
        "second": second.target,
        "rounds": len(paired),
        "ratio": ratio.value,
        "ratio_low": ratio.low,
        "ratio_high": ratio.high,
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": exchange_p_value(paired, rng=rng),
        "more_runs": max(needed - runs, 0.0),
        "why": _missing(paired, ratio, unreached),
    }


def _ratio(first: Floats, second: Floats) -> Floats:
    """First over second; NaN where neither was reached."""
    unknown = np.isinf(first) & np.isinf(second)
    ratio: Floats = np.where(unknown, np.nan, first) / np.where(unknown, 1.0, second)
    return ratio


def _difference(first: Estimate, second: Estimate) -> Estimate:
    value = first.value - second.value
    low = np.hypot(first.value - first.low, second.high - second.value)
    high = np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, float(value - low), float(value + high), first.why or second.why)


def _missing(paired: Floats, ratio: Estimate, unreached: Sequence[str]) -> str:
    if len(paired) == 0:
        return "never launched in the same round: target and time cannot be separated"
    if unreached:
        return f"no ratio: half of {' and of '.join(unreached)} not reached while watched"
    return f"no interval: {ratio.why}" if ratio.why else ""


def _round_differences(first: LaunchTimes, second: LaunchTimes, *, horizon_s: float) -> Floats:
    """First less second in the rounds they share, by the score of ``run_means_s``."""
    scores = [
        dict(zip(each.rounds, each.run_means_s(horizon_s), strict=True)) for each in (first, second)
    ]
    shared = [each for each in scores[0] if each in scores[1]]
    return np.array([scores[0][each] - scores[1][each] for each in shared], dtype=np.float64)


def exchange_p_value(differences: ArrayLike, *, rng: np.random.Generator) -> float:
    """Two-sided p-value of a mean difference if labels are exchanged within each round.

    It is exact up to 12 rounds under the hypothesis that labels mean nothing (Fisher 1935), and
    from 4,096 random exchanges beyond.  It is NaN without a round and at least 2 / 2^rounds.
    """
    paired = np.asarray(differences, dtype=np.float64)
    if len(paired) < 2:  # scipy needs two; a single difference and its mirror are equally likely
        return 1.0 if len(paired) else np.nan
    test = stats.permutation_test(
        (paired,),
        lambda values, axis: np.abs(values.mean(axis=axis)),  # both tails, so less random error
        permutation_type="samples",
        alternative="greater",
        n_resamples=EXCHANGES,
        vectorized=True,
        rng=rng,
    )
    return float(test.pvalue)


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment; NaN stays NaN and does not count as a test."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    tests = int(np.isfinite(values).sum())
    adjusted = np.full(len(values), np.nan)
    highest = 0.0
    for rank, place in enumerate(order[:tests]):
        highest = max(highest, min(1.0, float(values[place]) * (tests - rank)))
        adjusted[place] = highest
    return adjusted


def runs_needed(resampled: Floats, *, runs: int, precision: float) -> float:
    """How many runs yield a ratio, or a time, within a factor of 1 + precision at 95 %.

    The standard error of its logarithm falls with the root of the runs.  NaN below 6 runs or if a
    resample is infinite, because the scatter is then unknown.
    """
    unknown = not np.all(np.isfinite(resampled)) or np.any(resampled <= 0)
    if runs < FEWEST_RUNS or unknown:
        return np.nan
    error = np.log(resampled).std(ddof=1)
    return float(ceil(runs * (stats.norm.ppf(0.975) * error / log(1 + precision)) ** 2))

"""95 % intervals over runs, and the estimate that carries one.

Owns how a resampled quantile, mean or share becomes an interval, and from how many runs on there
is one.  It resamples nothing itself.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spotlib.analyze.turnbull import Floats

FEWEST_RUNS = 6  # the range of 6 draws covers their median in 97 % of cases, of 5 in 94 %
NOT_REACHED = "not reached while watched"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over runs.

    ``value`` is NaN if it is unknown or was not reached while watched.  ``high`` is infinity if
    the interval does not end within that time.  Without an interval both ends are NaN and ``why``
    has the reason.
    """

    value: float
    low: float
    high: float
    why: str = ""

    def words(self, unit: str = "s", *, digits: int = 1) -> str:
        """``21.3 s (19.8 to 23.1)``, ``21.3 s (19.8 or more)``, or what is not known."""
        if np.isnan(self.value):
            return NOT_REACHED
        here = f"{self.value:.{digits}f}{unit and ' '}{unit}"
        if np.isnan(self.low):
            return f"{here} (no interval: {self.why})"
        return f"{here} ({self.ends(digits)})"

    def ends(self, digits: int = 1) -> str:
        """``19.8 to 23.1``, or ``19.8 or more``."""
        high = f"to {self.high:.{digits}f}" if np.isfinite(self.high) else "or more"
        return f"{self.low:.{digits}f} {high}"


@lru_cache(maxsize=256)  # thousands of pairs of targets ask for the same
def _expanded(runs: int, level: float) -> tuple[float, float]:
    """The percentiles that an interval over so many runs reaches out to."""
    spread = stats.t.ppf(0.5 + level / 2, runs - 1) * np.sqrt(runs / (runs - 1))
    low, high = stats.norm.cdf([-spread, spread])
    return float(low), float(high)


def run_level_interval(
    value: float, resampled: Floats, *, runs: int, level: float = 0.95
) -> Estimate:
    """The expanded percentile interval of an estimate that was resampled over whole runs.

    Hesterberg, The American Statistician 2015: plain percentiles are too narrow in small samples,
    so they are moved outwards by Student's t and the divisor n - 1.  Infinite replicates (a median
    that was not reached) count as infinite.
    """
    why = _too_few(runs)
    point = value if np.isfinite(value) else np.nan
    known = resampled[~np.isnan(resampled)]
    if why or len(known) < len(resampled) or len(known) == 0:
        return Estimate(point, np.nan, np.nan, why or "not every resample has a value")
    low, high = np.quantile(known, _expanded(runs, level), method="inverted_cdf")
    return Estimate(point, float(low) if np.isfinite(low) else np.nan, float(high))


def studentized(
    value: float,
    resampled: Floats,
    *,
    scores: Floats,
    draws: NDArray[np.integer],
    level: float = 0.95,
) -> Estimate:
    """The bootstrap-t interval of a mean over runs.

    Efron, Canadian Journal of Statistics 1981.  Run means of launch times are skewed, so the error
    of their average is asymmetric and percentile intervals cover too seldom.  ``scores`` (runs,)
    and ``draws`` (resamples, runs) yield the standard errors of the mean and of its resamples.
    """
    runs = len(scores)
    if _too_few(runs) or np.isnan(value) or np.isnan(resampled).any():
        return run_level_interval(value, resampled, runs=runs)
    moments = [draws @ scores**power / runs for power in (1, 2)]
    errors = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0) / (runs - 1))
    if errors.min() <= 0:  # a resample of one run repeated has no standard error
        return run_level_interval(value, resampled, runs=runs)
    off = (resampled - value) / errors
    high, low = np.quantile(off, [0.5 - level / 2, 0.5 + level / 2])
    error = float(scores.std(ddof=1) / np.sqrt(runs))
    return Estimate(value, max(value - float(low) * error, 0.0), value - float(high) * error)


def share_interval(
    value: float, resampled: Floats, *, runs: int, requests: int, level: float = 0.95
) -> Estimate:
    """The interval of one share (see ``share_limits``)."""
    why = _too_few(runs)
    if not why and (np.isnan(value) or np.isnan(resampled).any()):
        why = "not every resample has a value"
    shares, again = np.array([value]), resampled[:, None]
    [low], [high] = share_limits(shares, again, runs=runs, requests=requests, level=level)
    return Estimate(value, float(low), float(high), why)


def share_limits(
    shares: Floats, resampled: Floats, *, runs: int, requests: int, level: float = 0.95
) -> tuple[Floats, Floats]:
    """The Wilson limits of shares at their effective sample size; NaN below 6 runs.

    ``resampled`` has shape (resamples, shares).
    """
    size = _effective_size(shares, resampled, runs=runs, requests=requests, level=level)
    z = stats.norm.ppf(0.5 + level / 2)
    middle = (shares + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(shares * (1 - shares) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return (middle - half).clip(min=0.0), (middle + half).clip(max=1.0)


def _effective_size(
    shares: Floats, resampled: Floats, *, runs: int, requests: int, level: float
) -> Floats:
    """How many independent requests are as sure of each share; NaN below 6 runs.

    It follows from the design effect, the between-run variance over the binomial one (Korn and
    Graubard, Survey Methodology 1998), with Student's t, and is at most ``requests``.  If all
    resamples agree (20 of 20 ready) it is the number of runs, because such a sample is not
    certainty.
    """
    if _too_few(runs):
        return np.full_like(shares, np.nan)
    variance = resampled.var(axis=0) * runs / (runs - 1)
    agree = variance <= 1e-12
    size = np.where(agree, runs, shares * (1 - shares) / np.where(agree, 1.0, variance))
    ends = 0.5 + level / 2
    factor = stats.norm.ppf(ends) / stats.t.ppf(ends, runs - 1)
    effective: Floats = size.clip(1.0, requests) * factor**2
    return effective


def whole_curve_limits(
    shares: Floats, resampled: Floats, *, runs: int, requests: int, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Limits between which the whole curve lies, at all places at once, with this probability.

    They are exact binomial limits (Clopper and Pearson, Biometrika 1934) at the effective sample
    size and a higher level: that at which a normal number is as rare as the largest standardised
    deviation of a resampled curve, on the scale of arcsin(sqrt(share)), where shares vary alike.
    A share never falls, so a lower limit holds at all later places and an upper one at all
    earlier ones.  NaN below 6 runs.
    """
    scaled = [np.arcsin(np.sqrt(each.clip(0.0, 1.0))) for each in (shares, resampled)]
    error = scaled[1].std(axis=0)
    # With less than a run on one side the resamples show too little of the spread between runs:
    # there the effective size is at most that of the nearest place where they do.
    varies = (error > 1e-6) & (np.minimum(shares, 1 - shares) * runs >= 1)
    largest = (np.abs(scaled[1] - scaled[0])[:, varies] / error[varies]).max(axis=1, initial=0.0)
    beyond = max(float(np.quantile(largest, level)), float(stats.norm.ppf(0.5 + level / 2)))
    tail = float(stats.norm.sf(beyond))
    size = _effective_size(shares, resampled, runs=runs, requests=requests, level=level)
    if varies.any():
        first, last = np.flatnonzero(varies)[[0, -1]]
        size = np.minimum(size, size[np.arange(len(size)).clip(first, last)])
    count = shares * size
    low = np.where(count > 0, stats.beta.ppf(tail, count, size - count + 1), 0.0)
    high = np.where(count < size, stats.beta.isf(tail, count + 1, size - count), 1.0)
    return np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]


def _too_few(runs: int) -> str:
    """Why so few runs have no interval; "" if they are enough."""
    if runs >= FEWEST_RUNS:
        return ""
    return f"{runs} run{'s' * (runs != 1)}, at least {FEWEST_RUNS} are needed"

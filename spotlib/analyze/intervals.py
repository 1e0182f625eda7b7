"""95 % intervals over runs, and the estimate that carries one.

Owns how a resampled quantile, mean or share becomes an interval, and from how many runs on there
is one.  It resamples nothing itself.
"""

from dataclasses import dataclass

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
        high = f"to {self.high:.{digits}f}" if np.isfinite(self.high) else "or more"
        return f"{here} ({self.low:.{digits}f} {high})"


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
    spread = stats.t.ppf(0.5 + level / 2, runs - 1) * np.sqrt(runs / (runs - 1))
    tails = stats.norm.cdf([-spread, spread])
    low, high = np.quantile(known, tails, method="inverted_cdf")
    return Estimate(point, float(low) if np.isfinite(low) else np.nan, float(high))


def studentized(
    value: float,
    resampled: Floats,
    *,
    scores: Floats,
    draws: NDArray[np.int64],
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
    """The Wilson interval of a share at its effective sample size.

    The effective sample size follows from the design effect, the between-run variance over the
    binomial one (Korn and Graubard, Survey Methodology 1998), with Student's t, and is at most
    ``requests``.  If all resamples agree (20 of 20 ready) it is the number of runs, because such a
    sample is not certainty.
    """
    why = _too_few(runs)
    if why or np.isnan(value) or np.isnan(resampled).any():
        return Estimate(value, np.nan, np.nan, why or "not every resample has a value")
    variance = float(resampled.var()) * runs / (runs - 1)
    size = value * (1 - value) / variance if variance > 1e-12 else float(runs)
    z, t = stats.norm.ppf(0.5 + level / 2), stats.t.ppf(0.5 + level / 2, runs - 1)
    size = float(np.clip(size, 1.0, requests)) * (z / t) ** 2
    middle = (value + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * np.sqrt(value * (1 - value) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    return Estimate(value, max(float(middle - half), 0.0), min(float(middle + half), 1.0))


def _too_few(runs: int) -> str:
    """Why so few runs have no interval; "" if they are enough."""
    if runs >= FEWEST_RUNS:
        return ""
    return f"{runs} run{'s' * (runs != 1)}, at least {FEWEST_RUNS} are needed"

"""TODO."""

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

    ``value`` is NaN where it is unknown or was not reached while watched; ``high`` is infinity
    where the interval has no end within that time.  Without an interval ``why`` says why.
    """

    value: float
    low: float
    high: float
    why: str = ""

    def words(self, unit: str = "s", *, digits: int = 1) -> str:
        """``21.3 s (19.8 to 23.1)``, or what is not known."""
        if np.isnan(self.value):
            return NOT_REACHED
        here = f"{self.value:.{digits}f}{unit and ' '}{unit}"
        if np.isnan(self.low):
            return f"{here} (no interval: {self.why})"
        high = f"to {self.high:.{digits}f}" if np.isfinite(self.high) else "upwards"
        return f"{here} ({self.low:.{digits}f} {high})"


def run_level_interval(
    value: float, resampled: Floats, *, runs: int, level: float = 0.95
) -> Estimate:
    """The expanded percentile interval of an estimate that was resampled over whole runs.

    Hesterberg, The American Statistician 2015: the percentiles are moved out as Student's t and
    the divisor n - 1 would, for the plain ones are too narrow in small samples.  Infinite
    replicates (a median that was not reached) count as such.
    """
    why = few_runs(runs)
    point = value if np.isfinite(value) else np.nan
    known = resampled[~np.isnan(resampled)]
    if why or len(known) < len(resampled) or len(known) == 0:
        return Estimate(point, np.nan, np.nan, why or "it is not known in every resample")
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

    Efron, Canadian Journal of Statistics 1981: run means of launch times are skewed, so their
    average is not off by as much on either side; percentiles cover too seldom then.  ``scores``
    (runs,) give the standard errors, ``draws`` (resamples, runs) those of the resamples.
    """
    runs = len(scores)
    if few_runs(runs) or np.isnan(value) or np.isnan(resampled).any():
        return run_level_interval(value, resampled, runs=runs)
    moments = [draws @ scores**power / runs for power in (1, 2)]
    errors = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0) / (runs - 1))
    if errors.min() <= 0:  # a resample of one and the same run: it has no error of its own
        return run_level_interval(value, resampled, runs=runs)
    off = (resampled - value) / errors
    high, low = np.quantile(off, [0.5 - level / 2, 0.5 + level / 2])
    error = float(scores.std(ddof=1) / np.sqrt(runs))
    return Estimate(value, max(value - float(low) * error, 0.0), value - float(high) * error)


def share_interval(
    value: float, resampled: Floats, *, runs: int, requests: int, level: float = 0.95
) -> Estimate:
    """Wilson's interval for a share, at the number of independent requests it is worth.

    That number is what a binomial share would need for the variance seen over resampled runs, in
    the manner of Korn and Graubard (Survey Methodology 1998), Student's t included, and never more
    than there are.  Where the resamples all agree (20 of 20 ready) it is the number of runs:
    certainty is not on offer.
    """
    why = few_runs(runs)
    if why or np.isnan(value) or np.isnan(resampled).any():
        return Estimate(value, np.nan, np.nan, why or "it is not known in every resample")
    variance = float(resampled.var()) * runs / (runs - 1)
    worth = value * (1 - value) / variance if variance > 1e-12 else float(runs)
    z, t = stats.norm.ppf(0.5 + level / 2), stats.t.ppf(0.5 + level / 2, runs - 1)
    worth = float(np.clip(worth, 1.0, requests)) * (z / t) ** 2
    middle = (value + z**2 / (2 * worth)) / (1 + z**2 / worth)
    half = z * np.sqrt(value * (1 - value) / worth + z**2 / (4 * worth**2)) / (1 + z**2 / worth)
    return Estimate(value, max(float(middle - half), 0.0), min(float(middle + half), 1.0))


def few_runs(runs: int) -> str:
    """Why there is no interval, or nothing."""
    if runs >= FEWEST_RUNS:
        return ""
    return f"{runs} run{'s' * (runs != 1)}, and fewer than {FEWEST_RUNS} cannot bound a median"

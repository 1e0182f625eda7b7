"""95 % intervals over runs, and the estimate that carries one.

Owns how a resampled quantile, mean or share becomes an interval, and how many runs an interval
needs.  It resamples nothing itself.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from spotlib.analyze.curve import Floats
from spotlib.words import counted, rounded

_LEVEL = 0.95  # of an interval, if nothing else is asked for
FEWEST_RUNS = 6  # the range of 6 draws covers their median in 97 % of cases, of 5 in 94 %
NOT_REACHED = "not reached while watched"


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over runs.

    ``value`` is NaN if it is unknown or was not reached while watched.  ``high`` is infinity if
    the interval does not end within that time.  Without an interval both ends are NaN and ``why``
    has the reason.  Where polls tell no more than limits, ``value`` is NaN and both ends are
    finite, for few runs too.  A time of which they tell limits has ``seen_by``, the later one in
    these very runs: it was reached by then, even if the interval has no upper end.
    """

    value: float
    low: float
    high: float
    why: str = ""
    seen_by: float = np.nan

    def words(self, unit: str = "s", *, digits: int = 1) -> str:
        """``21.3 s (19.8 to 23.1)``, ``21.3 s (19.8 or more)``, or what is not known."""
        if self.has_limits_only:
            return self.limits(digits, unit)
        if np.isnan(self.value):
            return NOT_REACHED
        here = f"{rounded(self.value, digits)}{unit and ' '}{unit}"
        if np.isnan(self.low):
            return f"{here} (no interval: {self.why})"
        return f"{here} ({self.ends(digits)})"

    @property
    def has_limits_only(self) -> bool:
        """Whether nothing but limits is known, because brackets are as wide as the number."""
        return self.is_reached and bool(np.isnan(self.value))

    @property
    def is_reached(self) -> bool:
        """Whether the number is known, or limits of it, in these runs at least."""
        return bool(np.isfinite(self.at_most))

    @property
    def at_most(self) -> float:
        """The number or, of limits, the upper one, if need be of these runs; else not finite."""
        if np.isfinite(self.value):
            return self.value
        return self.high if np.isfinite(self.high) else self.seen_by

    def limits(self, digits: int, unit: str = "") -> str:
        """``at most 1.5 s``, or ``1.0 to 3.0 s``, of a number that ``has_limits_only``."""
        least = f"{rounded(self.low, digits)} to" if self.low > 0 else "at most"
        words = f"{least} {rounded(self.at_most, digits)}{unit and ' '}{unit}"
        return words + " in these runs (no upper end)" * (not np.isfinite(self.high))

    def ends(self, digits: int) -> str:
        """``19.8 to 23.1``, or ``19.8 or more``."""
        high = f"to {rounded(self.high, digits)}" if np.isfinite(self.high) else "or more"
        return f"{rounded(self.low, digits)} {high}"


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
    why = too_few(runs)
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
    if too_few(runs) or np.isnan(value) or np.isnan(resampled).any():
        return run_level_interval(value, resampled, runs=runs)
    moments = [draws @ scores**power / runs for power in (1, 2)]
    errors = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0.0) / (runs - 1))
    if errors.min() <= 0:  # a resample of one run repeated has no standard error
        return run_level_interval(value, resampled, runs=runs)
    off = (resampled - value) / errors
    high, low = np.quantile(off, [0.5 - level / 2, 0.5 + level / 2])
    error = float(scores.std(ddof=1) / np.sqrt(runs))
    return Estimate(value, max(value - float(low) * error, 0.0), value - float(high) * error)


def student_interval(values: Floats, *, level: float = _LEVEL) -> tuple[float, float]:
    """Student's interval of the mean of independent values; NaN below 6 and if all are alike."""
    if too_few(len(values)) or np.ptp(values) == 0:  # alike in all tells no error
        return np.nan, np.nan
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    beyond = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    return float(values.mean()) - beyond, float(values.mean()) + beyond


@dataclass(frozen=True)
class ShareLimits:
    """Limits of the shares of a curve: at each place, and for the whole curve at once.

    Jeffreys' limits (Brown, Cai, DasGupta, Statistical Science 2001) at the effective sample size
    of each share (see ``_effective_sizes``), with Student's t.  If all runs ended alike, they do
    not show how strongly the requests of a run are correlated, because a run that fails as a whole
    may still come.  Then each run counts as one request.  These limits also bound all others: no
    lower limit is above, and no upper one below, that of runs which all ended alike.  So stages
    that the same requests reached have nearly the same limits.

    Limits follow from the share alone and never fall as it rises.  Where the formula would let one
    fall, the limit that is further from its share counts, so it may differ between stages.  In
    simulated studies 92 to 97 % of intervals contain the share, and more where runs that all end
    alike are likely.  No rule that is also valid for runs that fail as a whole can avoid this
    (``benchmarks/README.md``).

    ``shares`` of the curve from the lowest to the highest, ``sizes`` of these, and ``beyond`` how
    many standard errors a resampled curve is away at most, with 95 % probability.
    """

    runs: int
    shares: Floats
    sizes: Floats
    beyond: float

    @classmethod
    def of(cls, shares: Floats, resampled: Floats, *, runs: int, requests: int) -> "ShareLimits":
        """The limits of a curve with so many resamples, (resamples, places); NaN below 6 runs.

        The standardised deviation of a curve is the largest on the scale of arcsin(sqrt(share)),
        where the standard error is 1 / (2 sqrt(size)) at any share.  Resampled runs vary by only
        (n - 1) / n of the variance between runs.
        """
        if too_few(runs):
            return cls(runs, shares, np.full_like(shares, np.nan), np.nan)
        sizes = _effective_sizes(shares, resampled, runs=runs, requests=requests)
        off = np.arcsin(np.sqrt(resampled)) - np.arcsin(np.sqrt(shares))
        errors = np.sqrt((runs - 1) / runs / sizes) / 2
        beyond = np.quantile((np.abs(off) / errors).max(axis=1), 0.95)
        return cls(runs, shares, sizes, max(float(beyond), float(stats.norm.ppf(0.975))))

    @property
    def why(self) -> str:
        """Why there is no limit; "" if there is."""
        return too_few(self.runs)

    def interval(self, share: float, *, level: float = _LEVEL) -> Estimate:
        """The share with its interval."""
        low, high = self.pointwise(np.array(share), level=level)
        why = "not watched so long" if np.isnan(share) else ""
        return Estimate(share, float(low), float(high), self.why or why)

    def pointwise(self, shares: Floats, *, level: float = _LEVEL) -> tuple[Floats, Floats]:
        """The limits of each of these shares of the curve."""
        if level == _LEVEL:
            return self._of(shares, self._usual)
        return self._of(shares, self._limits(tail=(1 - level) / 2, level=level))

    def whole_curve(self, shares: Floats) -> tuple[Floats, Floats]:
        """Limits between which the curve lies at all places at once, with 95 % probability."""
        return self._of(shares, self._limits(tail=float(stats.norm.sf(self.beyond)), level=_LEVEL))

    def reaching(self, share: float) -> tuple[float, float]:
        """The shares of the curve at which the upper and the lower limit reach a share.

        Between their times lies the time of that share (Brookmeyer and Crowley, Biometrics 1982).
        The second is infinity if the lower limit does not reach it.
        """
        low, high = self.pointwise(self.shares)
        lowest = np.interp(share, high, self.shares, right=np.inf)
        highest = np.interp(share, low, self.shares, right=np.inf)
        return float(lowest), float(highest)

    def _of(self, shares: Floats, limits: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
        low, high = (_between(shares, self.shares, each) for each in limits)
        return low, high

    @cached_property
    def _usual(self) -> tuple[Floats, Floats]:
        """The limits that each share and quantile asks for; to make them takes milliseconds."""
        return self._limits(tail=(1 - _LEVEL) / 2, level=_LEVEL)

    def _limits(self, *, tail: float, level: float) -> tuple[Floats, Floats]:
        """The limits of its own shares."""
        # Twice the degrees of freedom of a variance between runs: it is drawn towards what is known
        # beforehand (see ``_effective_sizes``), and studies confirm it (``benchmarks/README.md``).
        ends, freedom = 0.5 + level / 2, 2 * (self.runs - 1)
        student = (stats.norm.ppf(ends) / stats.t.ppf(ends, freedom)) ** 2
        counts = [each * self.sizes * student + 0.5 for each in (self.shares, 1 - self.shares)]
        alike = float(stats.beta.ppf(tail, self.runs * student + 0.5, 0.5))  # limit if all ended so
        low = np.minimum(stats.beta.ppf(tail, *counts), np.minimum(self.shares, alike))
        high = np.maximum(stats.beta.isf(tail, *counts), np.maximum(self.shares, 1 - alike))
        return np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)


def _between(shares: Floats, knots: Floats, limits: Floats) -> Floats:
    """Limits between knots.  None exceeds that of the next knot, not even by rounding."""
    following = np.searchsorted(knots, shares, side="right").clip(max=len(knots) - 1)
    return np.asarray(np.minimum(np.interp(shares, knots, limits), limits[following]))


def _effective_sizes(shares: Floats, resampled: Floats, *, runs: int, requests: int) -> Floats:
    """The effective sample size of each share: as many independent requests have its variance.

    It is the binomial variance over that between runs (Korn and Graubard, Survey Methodology 1998),
    at most ``requests``.  If nearly none or nearly all are ready, few runs differ, and their
    variance says little.  Therefore the size is shrunk towards the number of runs (as if all
    requests of a run were alike), with the weight of a tenth of a run.
    """
    binomial = shares * (1 - shares)
    variance = resampled.var(axis=0) * runs / (runs - 1)
    sizes: Floats = (binomial + 0.1 / runs) / (variance + 0.1 / runs**2)
    return sizes.clip(max=requests)


def too_few(runs: int, unit: str = "run") -> str:
    """Why so few runs (or other units) have no interval; "" if they are enough."""
    if runs >= FEWEST_RUNS:
        return ""
    return f"{counted(runs, unit)}, at least {FEWEST_RUNS} are needed"

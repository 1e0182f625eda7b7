"""A lognormal distribution of launch times, fitted to their brackets."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from spotlib.analyze.curve import Floats, Observed


@dataclass(frozen=True)
class LognormalFit:
    """A lognormal distribution of the times of the requests shown at the stage."""

    median_s: float
    sigma: float

    def quantile_s(self, share: float) -> float:
        """The time by which this share of them were at the stage."""
        return float(stats.lognorm.ppf(share, self.sigma, scale=self.median_s))


def fit_lognormal(observed: Observed) -> LognormalFit:
    """Maximum likelihood of a lognormal over the brackets of the requests shown at the stage.

    The likelihood of a bracket is its probability, and equal brackets are one with its count: this
    takes a tenth of the time of scipy's ``CensoredData``, which finds the same.
    Requests that were never shown are left out, because a lognormal that counts them as
    right-censored would stretch to reach them.  The fit therefore does not estimate the share at
    the stage, and is too short if many requests were still waiting when the watch ended.

    Raises
    ------
    ValueError
        With fewer than 5 such requests or 3 different brackets, where numbers would still be found,
        and if all brackets begin at 0: nothing says then how short the times may be.
    """
    shown = np.isfinite(observed.by_s)
    brackets = np.column_stack([observed.after_s, observed.by_s])[shown]
    distinct, counts = np.unique(brackets, axis=0, return_counts=True)
    if len(brackets) < 5 or len(distinct) < 3:
        raise ValueError(
            f"a fit needs at least 5 requests shown at the stage and 3 different brackets, "
            f"got {len(brackets)} and {len(distinct)}"
        )
    if not brackets[:, 0].any():
        raise ValueError("a fit needs brackets that begin after 0, got none: poll more often")
    times = np.log(brackets.mean(axis=1))
    start = [np.median(times), np.log(max(times.std(), 0.05))]
    with np.errstate(divide="ignore"):
        ends = np.log(distinct)  # a bracket may begin at 0
    found = optimize.minimize(_unlikely, start, (ends, counts), method="Nelder-Mead", tol=1e-6)
    middle, width = found.x
    return LognormalFit(float(np.exp(middle)), float(np.exp(width)))


def _unlikely(shape: Floats, ends: Floats, counts: Floats) -> float:
    """The negative log-likelihood of brackets of a normal distribution, in the upper tail too."""
    middle, width = shape
    begin, end = ((ends - middle) / np.exp(width)).T
    begin, end = np.where(begin > 0, (-end, -begin), (begin, end))
    with np.errstate(all="ignore"):  # trial values may be far off
        before, until = special.log_ndtr(begin), special.log_ndtr(end)
        logs = until + np.log(-np.expm1(before - until))
    return float(-(counts @ logs))

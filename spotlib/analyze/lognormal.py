"""A lognormal distribution of launch times, fitted to their brackets."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from spotlib.analyze.curve import Observed


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

    The likelihood of a bracket is its probability (scipy's ``CensoredData``); the location is 0.
    Requests that were never shown are left out, because a lognormal that counts them as
    right-censored would stretch to reach them.  The fit therefore does not estimate the share at
    the stage, and is too short if many requests were still waiting when the watch ended.

    Raises
    ------
    ValueError
        With fewer than 5 such requests or 3 different brackets.  scipy would still return numbers.
    """
    shown = np.isfinite(observed.by_s)
    brackets = np.column_stack([observed.after_s, observed.by_s])[shown]
    distinct = len(np.unique(brackets, axis=0))
    if len(brackets) < 5 or distinct < 3:
        raise ValueError(
            f"a fit needs at least 5 requests shown at the stage and 3 different brackets, "
            f"got {len(brackets)} and {distinct}"
        )
    data = stats.CensoredData(interval=brackets)
    start = np.log(brackets.mean(axis=1))
    with np.errstate(all="ignore"):  # trial values of the optimizer may overflow
        sigma, _, scale = stats.lognorm.fit(
            data, max(start.std(), 0.05), floc=0, scale=np.exp(np.median(start))
        )
    return LognormalFit(float(scale), float(sigma))

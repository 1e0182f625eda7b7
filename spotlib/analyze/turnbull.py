"""Curves through brackets: the mathematics of interval-censored times, and nothing of EC2.

Owns the nonparametric estimate (Turnbull) and what is read off it, and the lognormal fit.  Pure:
no table, no file, no random number.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, stats

Floats = NDArray[np.float64]

_SMALL = 100_000  # a table of fewer numbers is quicker dense, for a single curve


@dataclass(frozen=True)
class Observed:
    """One row a request: its time lies in ``(after_s, by_s]``; both are (requests,) arrays.

    Not shown while watched: ``by_s`` is infinity.  Ended otherwise: both are.  ``run`` numbers
    the run of each from 0.
    """

    after_s: Floats
    by_s: Floats
    run: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse brackets that no look can have made."""
        never = np.isposinf(self.after_s) & np.isposinf(self.by_s)
        if not np.all((self.after_s < self.by_s) | never) or np.any(self.after_s < 0):
            raise ValueError("brackets need 0 <= after_s < by_s, without NaN")
        if len(self.after_s) == 0:
            raise ValueError("there is no request to estimate from")

    @property
    def runs(self) -> int:
        """How many runs: the size of the sample."""
        return int(self.run.max()) + 1

    @property
    def width_s(self) -> float:
        """The median width of the brackets of what was shown; 0 if nothing was."""
        widths = (self.by_s - self.after_s)[np.isfinite(self.by_s)]
        return float(np.median(widths)) if len(widths) else 0.0

    @property
    def events(self) -> int:
        """How many requests were shown at the stage."""
        return int(np.isfinite(self.by_s).sum())


def widened(observed: Observed, seconds: float) -> Observed:
    """The same brackets if each look may have shown what was true ``seconds`` before it."""
    return replace(observed, after_s=np.maximum(observed.after_s - seconds, 0.0))


@dataclass(frozen=True)
class Curve:
    """The share that has come by a time, or many such curves on the same pieces.

    ``mass[..., j]`` came in ``(after_s[j], by_s[j]]``; the data do not say when within, so it is
    spread evenly.  The last piece reaches to infinity: later than watched, or never.  Beyond
    ``known_until_s`` nobody looked, and the answer is NaN.
    """

    after_s: Floats
    by_s: Floats
    mass: Floats
    known_until_s: float

    def share_by(self, time_s: ArrayLike) -> Floats:
        """The share come by each time; shape ``mass.shape[:-1] + time_s.shape``."""
        time_s = np.asarray(time_s, dtype=np.float64)
        width = np.where(np.isfinite(self.by_s), self.by_s - self.after_s, np.inf)
        part = np.clip((time_s[..., None] - self.after_s) / width, 0.0, 1.0)
        share = np.clip(np.tensordot(self.mass, part, axes=(-1, -1)), 0.0, 1.0) + 0.0
        return np.where(time_s > self.known_until_s, np.nan, share)

    def quantile(self, share: float) -> Floats:
        """The first time by which ``share`` of the requested have come; infinity if not reached.

        Infinity means later than watched, or never.  Shape ``mass.shape[:-1]``.
        """
        finite = np.isfinite(self.by_s)
        after_s, by_s, mass = self.after_s[finite], self.by_s[finite], self.mass[..., finite]
        reached = mass.sum(axis=-1) >= share - 1e-6  # a sum of many may miss it by rounding
        low = np.zeros(mass.shape[:-1])
        high = np.full(mass.shape[:-1], by_s.max(initial=0.0))
        for _ in range(40):  # halves the longest time to well below a microsecond
            middle = (low + high) / 2.0
            part = np.clip((middle[..., None] - after_s) / (by_s - after_s), 0.0, 1.0)
            enough = (mass * part).sum(axis=-1) >= share - 1e-6
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached, high, np.inf)

    def interquartile_s(self) -> float:
        """How far apart the quartiles of what came are; 0 if nothing came.  For a single curve."""
        came = float(self.mass[np.isfinite(self.by_s)].sum())
        if came < 1e-6:
            return 0.0
        return float(self.quantile(0.75 * came) - self.quantile(0.25 * came))

    def restricted_mean_s(self, horizon_s: float) -> Floats:
        """The mean of min(time, horizon): the area above the curve up to the horizon.

        Irwin, Journal of Hygiene 1949; it needs no law and counts those that never come.
        """
        by_s = np.where(np.isfinite(self.by_s), self.by_s, self.after_s + 1.0)
        low, high = np.minimum(self.after_s, horizon_s), np.minimum(by_s, horizon_s)
        inside = (high**2 - low**2) / 2.0 + horizon_s * (by_s - high - (self.after_s - low))
        each = np.where(np.isfinite(self.by_s), inside / (by_s - self.after_s), horizon_s)
        mean: Floats = self.mass @ each
        return mean if horizon_s <= self.known_until_s else np.full_like(mean, np.nan)


def smoothed(curve: Curve, width_s: float) -> Curve:
    """The curve averaged over a window of ``width_s``, by spreading each piece at least so wide.

    Means are kept, and no piece begins before 0 or ends after the last look.  Turnbull's curve
    alone errs locally by the cube root of the sample, so a median read off it is rough; averaged
    it is not (the smoothed maximum-likelihood estimator: Groeneboom, Jongbloed, Witte, Annals of
    Statistics 2010).  Half a bracket is enough, and too little to bend the curve: with looks every
    3 s and a median of 5 s a whole one makes the median 0.1 s late.
    """
    finite = np.isfinite(curve.by_s)
    by_s = np.where(finite, curve.by_s, curve.after_s)
    middle_s = (curve.after_s + by_s) / 2.0
    room_s = np.minimum(middle_s, curve.known_until_s - middle_s)
    half_s = np.minimum(np.maximum(by_s - curve.after_s, width_s) / 2.0, room_s)
    return replace(
        curve,
        after_s=np.where(finite, middle_s - half_s, curve.after_s),
        by_s=np.where(finite, middle_s + half_s, np.inf),
    )


def turnbull(
    observed: Observed, *, draws: ArrayLike | None = None, near: Curve | None = None
) -> Curve:
    """The nonparametric maximum-likelihood curve through brackets.

    Turnbull, JRSS B 1976: all mass lies in the innermost brackets, and self-consistency finds it.
    Where nothing but right-censoring occurs this is Kaplan and Meier's curve.

    Parameters
    ----------
    draws : array_like, shape (resamples, runs), optional
        How often each run is counted; one curve for each row.  Without, each run counts once.
    near
        A curve of the same requests to start from: it saves most of the steps.
    """
    after_s, by_s, ends_s = _innermost(observed)
    first = np.searchsorted(after_s, ends_s[0], side="left")
    last = np.searchsorted(by_s, ends_s[1], side="right") - 1
    spread = _spread(first, last, len(by_s))
    if draws is None and spread.shape[0] * spread.shape[1] < _SMALL:
        spread = spread.toarray()
    weight = 1.0 / np.bincount(observed.run)[observed.run]
    counted = np.ones((1, observed.runs)) if draws is None else np.asarray(draws, np.float64)
    weights = counted[:, observed.run] * weight
    even = np.full(len(by_s), 1.0 / len(by_s))
    start = even if near is None else 0.9 * near.mass + 0.1 * even
    mass = _self_consistent(spread, weights, start, tolerance=1e-8 if draws is None else 1e-4)
    return Curve(after_s, by_s, mass if draws is not None else mass[0], _known_until_s(observed))


def _known_until_s(observed: Observed) -> float:
    """The longest that a request still waiting was looked at; infinity if none was left waiting."""
    waiting = np.isfinite(observed.after_s) & np.isposinf(observed.by_s)
    seen = np.concatenate([observed.after_s[waiting], observed.by_s[np.isfinite(observed.by_s)]])
    return float(seen.max()) if waiting.any() else np.inf


def _innermost(observed: Observed) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
    """The pieces that can hold mass, and the brackets with "never" put after all other times."""
    finite = np.concatenate([observed.after_s, observed.by_s])
    beyond = finite[np.isfinite(finite)].max(initial=0.0) + 1.0
    after_s = np.where(np.isinf(observed.after_s), beyond, observed.after_s)
    left, right = np.unique(after_s), np.unique(observed.by_s)
    # A piece: from a beginning up to the next end, if no other beginning lies between.
    end = right[np.searchsorted(right, left, side="right").clip(max=len(right) - 1)]
    following = np.append(left[1:], np.inf)
    inner = (end > left) & (end <= following)
    return left[inner], end[inner], (after_s, observed.by_s)


def _spread(first: NDArray[np.int64], last: NDArray[np.int64], pieces: int) -> Any:
    """Which pieces each bracket holds, as differences: +1 at its first, -1 after its last.

    So the sums over all brackets' pieces are one product, and the way back is another.
    """
    rows = np.arange(len(first))
    ends = (np.concatenate([rows, rows]), np.concatenate([first, last + 1]))
    signs = np.concatenate([np.ones(len(rows)), -np.ones(len(rows))])
    return sparse.csr_array((signs, ends), shape=(len(rows), pieces + 1))


def _self_consistent(
    spread: Any, weight: Floats, start: Floats, *, tolerance: float, most: int = 5000
) -> Floats:
    """EM for all rows of ``weight`` (resamples, requests) at once; mass (resamples, pieces)."""
    mass = np.tile(start, (len(weight), 1))
    below = np.zeros((len(weight), len(start) + 1))
    total = weight.sum(axis=1, keepdims=True)
    back = spread.T.copy()
    for _ in range(most):
        np.cumsum(mass, axis=1, out=below[:, 1:])
        chance = np.maximum(-(below @ back), 1e-300)
        share = np.cumsum((weight / chance) @ spread, axis=1)[:, :-1]
        renewed = mass * np.maximum(share, 0.0) / total
        moved = np.abs(renewed - mass).max()
        mass = renewed
        if moved < tolerance:
            break
    normal: Floats = mass / mass.sum(axis=1, keepdims=True)
    return normal


@dataclass(frozen=True)
class LognormalFit:
    """A lognormal law of those that came, and the share that did."""

    median_s: float
    sigma: float
    events: int

    def quantile_s(self, share: float) -> float:
        """The time by which this share of those that came have come."""
        return float(stats.lognorm.ppf(share, self.sigma, scale=self.median_s))


def fit_lognormal(observed: Observed) -> LognormalFit:
    """Maximum likelihood of a lognormal over the brackets of the requests that came.

    The probability of each bracket is its likelihood (scipy's ``CensoredData``), the location is
    fixed at 0.  It is the law *of those that came*: one lognormal over all, with those that never
    come as right-censored, would stretch to reach them.  So it says nothing of the share that
    comes, and is short if many were still to come when the watch ended.

    Raises
    ------
    ValueError
        Below 5 requests that came, or 3 different brackets: a fit would return a number all the
        same.
    """
    came = np.isfinite(observed.by_s)
    brackets = np.column_stack([observed.after_s, observed.by_s])[came]
    distinct = len(np.unique(brackets, axis=0))
    if len(brackets) < 5 or distinct < 3:
        raise ValueError(
            f"a fit needs at least 5 requests that came and 3 different brackets, "
            f"got {len(brackets)} and {distinct}"
        )
    data = stats.CensoredData(interval=brackets)
    start = np.log(brackets.mean(axis=1))
    with np.errstate(all="ignore"):  # of trial values on the way
        sigma, _, scale = stats.lognorm.fit(
            data, max(start.std(), 0.05), floc=0, scale=np.exp(np.median(start))
        )
    return LognormalFit(float(scale), float(sigma), int(came.sum()))

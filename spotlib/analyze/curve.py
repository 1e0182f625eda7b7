"""Brackets of launch times, and the curves through them.

Owns the type of the brackets, and everything that is computed from a curve.  It knows nothing of
EC2, reads no table and no file, and estimates nothing.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


_ROUNDING = 1e-6  # by which a sum of many weights may miss a share
_NO_WAIT_S = 0.01  # a piece that ends so early tells the time, however short it is


@dataclass(frozen=True)
class Observed:
    """The bracket of each request: its time lies in ``(after_s, by_s]``; arrays (requests,).

    ``by_s`` is infinity if the stage was not shown while watched; both are infinity if a competing
    event ended the request.  ``run`` is the number of its run, from 0.
    """

    after_s: Floats
    by_s: Floats
    run: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Refuse brackets that no poll can have made."""
        never = np.isposinf(self.after_s) & np.isposinf(self.by_s)
        if not np.all((self.after_s < self.by_s) | never) or np.any(self.after_s < 0):
            raise ValueError("brackets need 0 <= after_s < by_s, without NaN")
        if len(self.after_s) == 0:
            raise ValueError("there is no request to estimate from")

    @property
    def runs(self) -> int:
        """The number of runs: the sample size."""
        return int(self.run.max()) + 1

    @property
    def width_s(self) -> float:
        """The median width of the finite brackets; 0 without one."""
        shown = np.isfinite(self.by_s)
        widths = self.by_s[shown] - self.after_s[shown]
        return float(np.median(widths)) if len(widths) else 0.0

    def left_open(self, share: float) -> tuple[float, float]:
        """The limits between which these very requests reached the share, for any distribution.

        Each run has the same weight.  No time lies before its bracket begins or after it ends, so
        neither does a quantile of the times.
        """
        reached = max(share - _ROUNDING, 0.0)
        first, last = (
            np.quantile(each, reached, weights=self._weights, method="inverted_cdf")
            for each in (self.after_s, self.by_s)
        )
        return float(first), float(last)

    def mean_left_open(self, horizon_s: float) -> tuple[float, float]:
        """The same of the mean of min(time, horizon)."""
        first, last = (
            np.average(np.minimum(each, horizon_s), weights=self._weights)
            for each in (self.after_s, self.by_s)
        )
        return float(first), float(last)

    @property
    def _weights(self) -> Floats:
        weights: Floats = 1.0 / np.bincount(self.run)[self.run]
        return weights

    @property
    def events(self) -> int:
        """The number of requests shown at the stage."""
        return int(np.isfinite(self.by_s).sum())


def widened(observed: Observed, seconds: float) -> Observed:
    """The same brackets if each poll may have shown a state that was up to ``seconds`` old."""
    return replace(observed, after_s=np.maximum(observed.after_s - seconds, 0.0))


@dataclass(frozen=True)
class Curve:
    """The share at the stage by each time, or many such curves on the same pieces.

    ``mass[..., j]`` lies in ``(after_s[j], by_s[j]]``.  The data do not say where within, so it is
    spread evenly.  The last piece reaches to infinity: later than watched, or never.  Beyond
    ``known_until_s`` nothing was watched and the share is NaN.
    """

    after_s: Floats
    by_s: Floats
    mass: Floats
    known_until_s: float

    def share_by(self, time_s: ArrayLike) -> Floats:
        """The share at the stage by one time or (times,); ``mass.shape[:-1] + time_s.shape``."""
        time_s = np.asarray(time_s, dtype=np.float64)
        width = np.where(np.isfinite(self.by_s), self.by_s - self.after_s, np.inf)
        part = np.clip((time_s[..., None] - self.after_s) / width, 0.0, 1.0)
        # A single curve is summed in one order at every time, so rounding makes none fall.
        single = self.mass.ndim == 1
        share = (self.mass * part).sum(axis=-1) if single else self.mass @ part.T
        share = np.clip(share, 0.0, 1.0)
        return np.where(time_s > self.known_until_s, np.nan, share)

    def quantile(self, share: float) -> Floats:
        """The first time by which ``share`` of the requested are at the stage.

        Infinity means later than watched, or never.  Shape ``mass.shape[:-1]``.  It is kept.
        """
        if share not in self._quantiles:
            self._quantiles[share] = self._quantile(share)
        return self._quantiles[share]

    @cached_property
    def _quantiles(self) -> dict[float, Floats]:
        return {}

    def _quantile(self, share: float) -> Floats:
        finite = np.isfinite(self.by_s)
        after_s, by_s, mass = self.after_s[finite], self.by_s[finite], self.mass[..., finite]
        reached = mass.sum(axis=-1) >= share - _ROUNDING
        low, high = np.zeros_like(reached, float), by_s.max(initial=0.0)
        for _ in range(40):  # halves the longest time to well below a microsecond
            middle = (low + high) / 2.0
            part = np.clip((middle[..., None] - after_s) / (by_s - after_s), 0.0, 1.0)
            enough = (mass * part).sum(axis=-1) >= share - _ROUNDING
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return np.where(reached, high, np.inf)

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which pieces of a single curve are at least as wide as the time in their middle.

        Where in a piece its mass lies is an assumption.  In these nothing but the assumption would
        make a time: the data tell limits only.
        """
        has_mass = (self.mass > _ROUNDING) & np.isfinite(self.by_s) & (self.by_s > _NO_WAIT_S)
        return has_mass & (self.by_s - self.after_s >= (self.by_s + self.after_s) / 2)

    def open_until_s(self, share: float) -> float:
        """The end of the open piece in which a single curve reaches a share; NaN: in none."""
        place = int(np.searchsorted(np.cumsum(self.mass), share - _ROUNDING))
        is_open = place < len(self.mass) and self.is_open[place]
        return float(self.by_s[place]) if is_open else np.nan

    def is_open_at(self, share: float) -> bool:
        """Whether a single curve reaches a share within an open piece."""
        return bool(np.isfinite(self.open_until_s(share)))

    def is_mean_open(self, horizon_s: float) -> bool:
        """Whether the mean of min(time, horizon) may vary within pieces by as much as it is."""
        never = ~np.isfinite(self.by_s)
        first_s, last_s = (
            float(self.mass @ np.where(never, horizon_s, np.minimum(each, horizon_s)))
            for each in (self.after_s, self.by_s)
        )
        return last_s > _NO_WAIT_S and last_s - first_s >= (first_s + last_s) / 2

    def interquartile_s(self) -> float:
        """The interquartile range of the finite times of a single curve; 0 without one."""
        shown = self.shown_share()
        return float(self.quantile(0.75 * shown) - self.quantile(0.25 * shown))

    def shown_share(self) -> float:
        """The share of a single curve that ever reached the stage while watched."""
        return float(self.mass[np.isfinite(self.by_s)].sum())

    def restricted_mean_s(self, horizon_s: float) -> Floats:
        """The restricted mean, of min(time, horizon): the area above the curve up to the horizon.

        Irwin, Journal of Hygiene 1949.  It assumes no distribution and counts the never ready.
        """
        by_s = np.where(np.isfinite(self.by_s), self.by_s, self.after_s + 1.0)
        low, high = np.minimum(self.after_s, horizon_s), np.minimum(by_s, horizon_s)
        inside = (high**2 - low**2) / 2.0 + horizon_s * (by_s - high - (self.after_s - low))
        each = np.where(np.isfinite(self.by_s), inside / (by_s - self.after_s), horizon_s)
        mean: Floats = self.mass @ each
        return mean if horizon_s <= self.known_until_s else np.full_like(mean, np.nan)


def smoothed(curve: Curve, width_s: float) -> Curve:
    """The curve averaged over a window: each piece is spread over at least ``width_s``.

    Means are kept, and no piece begins before 0 or ends after the last poll.  The Turnbull curve
    itself converges only with the cube root of the sample size, so its median is rough.  The
    smoothed maximum-likelihood estimator converges faster (Groeneboom, Jongbloed, Witte, Annals
    of Statistics 2010).  Half a bracket is wide enough and does not bend the curve; a whole one
    makes a median of 5 s, polled every 3 s, 0.1 s late.
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

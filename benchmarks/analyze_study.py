"""Studies with a known truth: times drawn directly, watched as the loop watches.

Polls are 3 s apart from a random phase, each taking its own time, and show the state of a moment
within it.  The brackets are those of ``spotlib.track.advance``; a test holds them to it.  The
instances of a run share its luck.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import integrate, optimize, special, stats

from spotlib.model import Outcome


@dataclass(frozen=True)
class Truth:
    """Lognormal times, scattered ``between`` and ``within`` runs; ``never`` is a share."""

    median_s: float = 20.0
    between: float = 0.4
    within: float = 0.3
    never: float = 0.0
    never_alike: float = 0.5  # correlation of being never ready within a run

    def share_by(self, time_s: float) -> float:
        """The share ready by a time."""
        spread = np.hypot(self.between, self.within)
        return float((1 - self.never) * stats.norm.cdf(np.log(time_s / self.median_s) / spread))

    def quantile(self, share: float) -> float:
        """The time by which a share of the requested is ready."""
        spread = np.hypot(self.between, self.within)
        return float(self.median_s * np.exp(spread * stats.norm.ppf(share / (1 - self.never))))

    def restricted_mean_s(self, horizon_s: float) -> float:
        """The mean of min(time, horizon)."""
        share = integrate.quad(self.share_by, 1e-9, horizon_s, limit=200)[0]
        return horizon_s - float(share)

    def draw(self, *, runs: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """True times, (runs, count); infinity for the never ready."""
        level = self.between * rng.standard_normal((runs, 1))
        own = self.within * rng.standard_normal((runs, count))
        times_s = self.median_s * np.exp(level + own)
        if self.never:
            apart = (1 - self.never_alike) / self.never_alike
            shares = rng.beta(self.never * apart, (1 - self.never) * apart, (runs, 1))
            times_s[rng.random((runs, count)) < shares] = np.inf
        return times_s


@dataclass(frozen=True)
class HeavyTail:
    """Four fifths lognormal times, one fifth of a Pareto tail, and a share never ready.

    Not the sandbox's law.  ``alike`` is the correlation within a run, of the normal scores of the
    times and of those of being never ready.  The tail has no variance.
    """

    median_s: float = 60.0
    alike: float = 0.3
    never: float = 0.1
    tail: float = 0.2
    sigma: float = 0.4
    shape: float = 1.2

    def share_by(self, time_s: Any) -> Any:
        """The share ready by each time."""
        relative = np.asarray(time_s) / self.median_s
        body = special.ndtr(np.log(relative) / self.sigma)
        beyond = 1 - np.maximum(relative, 1.0) ** -self.shape
        return (1 - self.never) * ((1 - self.tail) * body + self.tail * beyond)

    def quantile(self, share: float) -> float:
        """The time by which a share of the requested is ready."""
        return float(optimize.brentq(lambda s: self.share_by(s) - share, 1e-3, 1e9))

    def restricted_mean_s(self, horizon_s: float) -> float:
        """The mean of min(time, horizon)."""
        share = integrate.quad(self.share_by, 1e-9, horizon_s, limit=200, points=[self.median_s])
        return horizon_s - float(share[0])

    def draw(self, *, runs: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """True times, (runs, count); infinity for the never ready."""
        times_s = np.geomspace(1e-2, 1e8, 20_001)
        shares = self.share_by(times_s) / (1 - self.never)
        found = np.interp(alike_ranks(self.alike, runs, count, rng), shares, times_s)
        return np.where(alike_ranks(self.alike, runs, count, rng) < self.never, np.inf, found)


def alike_ranks(alike: float, runs: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Even numbers from 0 to 1, (runs, count), whose normal scores correlate within a run."""
    shared, own = rng.standard_normal((runs, 1)), rng.standard_normal((runs, count))
    return special.ndtr(np.sqrt(alike) * shared + np.sqrt(1 - alike) * own)


def draw_polls(
    *, poll_s: float, timeout_s: float, lost: float, rng: np.random.Generator
) -> np.ndarray:
    """(polls, 2): when each poll that was not lost was asked and answered."""
    asked_s = np.arange(rng.uniform(0, poll_s), timeout_s, poll_s)
    answered_s = asked_s + 0.25 * np.exp(0.3 * rng.standard_normal(len(asked_s)))
    return np.column_stack([asked_s, answered_s])[rng.random(len(asked_s)) >= lost]


def watch(times_s: np.ndarray, polls: np.ndarray, seen_at_s: np.ndarray) -> dict[str, np.ndarray]:
    """The brackets of requests of one run; each poll saw one moment of its duration."""
    first = np.searchsorted(seen_at_s, times_s)
    shown = first < len(polls)
    place = np.minimum(first, len(polls) - 1)
    before = np.where(first > 0, polls[np.maximum(first - 1, 0), 0], 0.0)
    return {
        "watched_s": polls[place, 0],
        "ready_after_s": np.where(shown, before, np.nan),
        "ready_by_s": np.where(shown, polls[place, 1], np.nan),
    }


def simulate(
    truth: Truth | HeavyTail,
    *,
    runs: int,
    count: int,
    rng: np.random.Generator,
    poll_s: float = 3.0,
    timeout_s: float = 600.0,
    lost: float = 0.05,
    moment: float | None = None,
    target: str = "t3.nano in sa-east-1",
) -> pd.DataFrame:
    """A study as the table of launches that the estimators read.

    ``moment`` is when within a poll the state is read: 0 its start, 1 its end, None anywhere.
    """
    times_s = truth.draw(runs=runs, count=count, rng=rng)
    seen = []
    for lives in times_s:
        polls = draw_polls(poll_s=poll_s, timeout_s=timeout_s, lost=lost, rng=rng)
        part = rng.random(len(polls)) if moment is None else moment
        seen.append(watch(lives, polls, polls[:, 0] + part * (polls[:, 1] - polls[:, 0])))
    columns = {name: np.concatenate([each[name] for each in seen]) for name in seen[0]}
    number = np.repeat(np.arange(runs), count)
    batch = "20240901T000000Z-abcdef"
    return pd.DataFrame(columns).assign(
        target=target,
        run=[f"{batch}/{run}/{target}" for run in number],
        batch_id=batch,
        round=number,
        outcome=np.where(np.isnan(columns["ready_by_s"]), Outcome.TIMED_OUT, Outcome.READY),
        kind=None,
        true_s=times_s.ravel(),
    )

"""Studies with a known truth: times drawn directly, watched through the loop's own bracket rule.

Every poll that is not lost goes through ``spotlib.model.advance`` as in a real batch: 3 s apart
from a random phase, each taking its own time.  The instances of a run share its luck.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import integrate, stats

from spotlib.model import Outcome, Sighting, Stage, Track, advance, conclude

WAITING = Sighting(status_code="pending-evaluation")
SHOWN = Sighting(
    instance_id="i-1", instance_state="running", checks={"instance": "ok", "system": "ok"}
)


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


def draw_times(truth: Truth, *, runs: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """True times, (runs, count); infinity for the never ready."""
    level = truth.between * rng.standard_normal((runs, 1))
    own = truth.within * rng.standard_normal((runs, count))
    times_s = truth.median_s * np.exp(level + own)
    if truth.never:
        apart = (1 - truth.never_alike) / truth.never_alike
        shares = rng.beta(truth.never * apart, (1 - truth.never) * apart, (runs, 1))
        times_s[rng.random((runs, count)) < shares] = np.inf
    return times_s


def draw_polls(
    *, poll_s: float, timeout_s: float, lost: float, rng: np.random.Generator
) -> np.ndarray:
    """(polls, 2): when each poll that was not lost was asked and answered."""
    asked_s = np.arange(rng.uniform(0, poll_s), timeout_s, poll_s)
    answered_s = asked_s + 0.25 * np.exp(0.3 * rng.standard_normal(len(asked_s)))
    return np.column_stack([asked_s, answered_s])[rng.random(len(asked_s)) >= lost]


def watch(time_s: float, polls: np.ndarray, *, rng: np.random.Generator) -> Track:
    """One request as the loop would have recorded it; a poll sees one moment of its duration."""
    track = Track("sir-1", 0.0)
    for asked_s, answered_s in polls:
        seen_at_s = rng.uniform(asked_s, answered_s)
        sighting = SHOWN if time_s <= seen_at_s else WAITING
        moved = advance(track, sighting, asked_s=float(asked_s), answered_s=float(answered_s))
        track = conclude(moved, wanted=Stage.READY)
        if track.outcome is not None:
            break
    return track


def simulate(
    truth: Truth,
    *,
    runs: int,
    count: int,
    rng: np.random.Generator,
    poll_s: float = 3.0,
    timeout_s: float = 600.0,
    lost: float = 0.05,
    target: str = "t3.nano in sa-east-1",
) -> pd.DataFrame:
    """A study as the table of launches that the estimators read."""
    rows = []
    times_s = draw_times(truth, runs=runs, count=count, rng=rng)
    for run, lives in enumerate(times_s):
        polls = draw_polls(poll_s=poll_s, timeout_s=timeout_s, lost=lost, rng=rng)
        for time_s in lives:
            # Of the polls that show it waiting only the last leaves a trace: three are enough.
            start = max(int(np.searchsorted(polls[:, 1], time_s)) - 3, 0)
            track = watch(time_s, polls[start : start + 8], rng=rng)
            rows.append(_row(track, run, target, time_s))
    return pd.DataFrame(rows)


def _row(track: Track, run: int, target: str, time_s: float) -> dict[str, object]:
    shown = track.brackets.get(Stage.READY)
    return {
        "target": target,
        "run": f"20240901T000000Z-abcdef/{run}/{target}",
        "batch_id": "20240901T000000Z-abcdef",
        "round": run,
        "outcome": track.outcome or Outcome.TIMED_OUT,
        "kind": None,
        "watched_s": track.polled_s,
        "ready_after_s": shown.after_s if shown else np.nan,
        "ready_by_s": shown.by_s if shown else np.nan,
        "true_s": time_s,
    }

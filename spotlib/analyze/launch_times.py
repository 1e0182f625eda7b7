"""How long until a stage, and how many reach it: the distribution of the times, per target.

Owns the interval in which each request's time lies, the curve through all of them, and its
resamples.  It reads no file, and the same rounds are always resampled in the same way.

- **The time of a request** is when the API first showed the stage.  Polls only bracket it: it is
  interval-censored.  A request still waiting at its last poll is right-censored there.
- **A request that EC2 ended before the stage is never there.**  If it was interrupted, failed
  inside EC2, or was refused for capacity or price, it stays in the count with the time infinity.
  The curve is therefore the cumulative incidence, the share of the *requested* (Gray, Annals of
  Statistics 1988; with brackets: Hudgens, Satten, Longini, Biometrics 2001).  Dropping or
  censoring such requests would answer another question: how fast, if nothing ever ended.
- **An end of ours is right-censored** (``ValidUntil`` passed, we stopped watching, a user
  cancelled), because it says nothing of what EC2 would have done.
- **The run is the sample.**  Each run has the same weight, regardless of its n, and intervals
  resample whole runs.
- **Few runs are resampled by estimating anew, many by influence values**, which is as good as soon
  as no run weighs much, and takes one estimate instead of a thousand.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from spotlib.analyze.comparable import (
    censored_s,
    ended_by_ec2,
    name_runs,
    require_same_variable,
    why_not,
)
from spotlib.analyze.curve import Curve, Floats, Observed, smoothed
from spotlib.analyze.intervals import FEWEST_RUNS, Estimate, ShareLimits, studentized
from spotlib.analyze.turnbull import influence, refitted, turnbull
from spotlib.model import Stage
from spotlib.processes import each_of
from spotlib.words import counted

Draws = NDArray[np.int16]  # how often each run is drawn: shape (resamples, runs)
_REFITTED = 40  # runs, up to which resamples are estimated anew
# Estimating so many takes longer than starting processes.
_NO_WAIT_S = 1e-3  # a bracket needs a width
_MANY_TARGETS, _MANY_REQUESTS = 20, 20_000
WATCHED = 0.9  # of a horizon; the last poll of what times out is sent a little before its timeout
_KNOTS = 201  # shares of a curve at which its limits are made


def launch_times(
    launches: pd.DataFrame,
    stage: Stage,
    *,
    since: Stage | None = None,
    resamples: int = 999,
    executor: Executor | None = None,
) -> dict[str, "LaunchTimes"]:
    """Estimate the distribution of the time to a stage, for each target.

    The Turnbull curve of each target (see ``turnbull``) is averaged over half a bracket, or over
    its own interquartile range if that is less (see ``smoothed``), and resampled over whole runs.
    Which runs are drawn follows from the names of the rounds.  So the same data yield the same
    numbers, and of two targets that were launched in the same rounds the same rounds are drawn:
    their resamples can be compared one by one.

    Parameters
    ----------
    launches : DataFrame
        One row per request, as from ``load_launches``.  Requests that say nothing about the market
        (a quota, a missing permission) and repeats of a simulated world are left out.  A table
        with a column ``run``, as from ``load_comparable``, is used as it is; it needs ``target``,
        ``outcome``, ``kind``, ``watched_s`` and the brackets of the stages.
    stage : Stage
        The stage whose time is estimated.
    since : Stage, optional
        Measure from this stage instead of from the request, over the requests that reached it.
    resamples : int, default 999
        How many times the runs are resampled.
    executor : Executor, optional
        Estimates the targets at once.  By default they are estimated here, one after another, or
        in a process per core where there are 20 targets or 20,000 requests.

    Returns
    -------
    dict of {str: LaunchTimes}
        By target name, sorted.  Empty if no request can be used.  Times are seconds, shares are
        of the instances requested.  Numbers beyond what was watched are NaN, and below 6 runs
        there is no interval.

    Raises
    ------
    ValueError
        If the launches are different variables (real and simulated, other methods, ...).

    See Also
    --------
    spotlib.load_launches : Read the launches.
    spotlib.analyze.load.load_comparable : Read the newest launches that are one variable.

    Examples
    --------
    Eight runs of one instance each, polled every 3 s; the last was not ready after 60 s:

    >>> import numpy as np
    >>> import pandas as pd
    >>> from spotlib import Stage, launch_times
    >>> ready_by_s = np.array([21.0, 24.0, 24.0, 27.0, 27.0, 33.0, 39.0, np.nan])
    >>> launches = pd.DataFrame(
    ...     {
    ...         "target": "t3.nano in sa-east-1",
    ...         "run": [f"batch/{number}/0" for number in range(8)],
    ...         "outcome": ["ready"] * 7 + ["timed_out"],
    ...         "kind": None,
    ...         "watched_s": [18.0, 21.0, 21.0, 24.0, 24.0, 30.0, 36.0, 60.0],
    ...         "ready_after_s": ready_by_s - 3.0,
    ...         "ready_by_s": ready_by_s,
    ...     }
    ... )
    >>> times = launch_times(launches, Stage.READY)
    >>> nano = times["t3.nano in sa-east-1"]
    >>> print("median:", nano.quantile(0.5).words())
    median: 25.5 s (20.8 or more)
    >>> print("share ready by 30 s:", nano.share_ready(30.0).words("", digits=2))
    share ready by 30 s: 0.63 (0.24 to 0.91)
    """
    spans = {str(stage.label): (since, stage)}
    return launch_times_of(launches, spans, resamples=resamples, executor=executor)[stage.label]


def launch_times_of(
    launches: pd.DataFrame,
    spans: Mapping[str, tuple[Stage | None, Stage]],
    *,
    resamples: int = 999,
    executor: Executor | None = None,
) -> dict[str, dict[str, "LaunchTimes"]]:
    """``launch_times`` of several spans at once, each since a stage (None: the request)."""
    rows = launches if "run" in launches else _observations(launches)
    jobs = [
        (span, *job) for span, (since, stage) in spans.items() for job in _jobs(rows, stage, since)
    ]
    many = rows["target"].nunique() >= _MANY_TARGETS or len(rows) >= _MANY_REQUESTS
    work = partial(_estimated, resamples=resamples)
    found: dict[str, dict[str, LaunchTimes]] = {span: {} for span in spans}
    estimates = each_of(work, jobs, executor=executor, worth_processes=many)
    for (span, name, observed, run_names), curves in zip(jobs, estimates, strict=True):
        found[span][name] = LaunchTimes(name, spans[span][1], observed, *curves, run_names)
    return found


@dataclass(frozen=True)
class LaunchTimes:
    """The distribution of one target's times to a stage, its resamples over runs, their names.

    ``curve`` is the estimate, ``resampled`` has one curve per row of ``draws``, ``pieces`` is the
    curve before it was smoothed, and ``run_names`` has the name of each run, sorted: what is one
    number per run has this order.

    Within a piece times are taken as spread evenly.  Where a piece is as wide as the times in it
    (``Curve.is_open``), that assumption alone would make the number: then it is NaN, and both ends
    are what is known.
    """

    target: str
    stage: Stage
    observed: Observed
    curve: Curve
    resampled: Curve
    pieces: Curve
    run_names: tuple[str, ...]

    @property
    def rounds(self) -> tuple[str, ...]:
        """The round of each run."""
        return tuple(map(round_of, self.run_names))

    @property
    def draws(self) -> Draws:
        """How often each run is drawn, (resamples, runs): computed on demand, as seldom needed."""
        return draw_runs(self.rounds, len(self.resampled.mass))

    def __repr__(self) -> str:
        """The target and the median; all the resamples would fill pages."""
        runs = f"{self.observed.runs} run{'s' * (self.observed.runs != 1)}"
        what = f"{self.target} to {self.stage.label}"
        return f"<LaunchTimes of {what}: {runs}, median {self.quantile(0.5).words()}>"

    def share_ready(self, time_s: float, *, level: float = 0.95) -> Estimate:
        """The share of the requested at the stage by a time, in Jeffreys' limits over runs.

        See ``ShareLimits``.  There is no interval if fewer than 6 runs were watched so long.
        """
        least, most = (float(each) for each in self._share_ends(np.array(time_s)))
        if least == most or np.isnan(most):
            return self._sure(self._limits.interval(most, level=level), time_s)
        low = self._limits.interval(least, level=level).low
        high = self._limits.interval(most, level=level).high
        share = Estimate(np.nan, low, high, self._limits.why)
        return self._sure(share, time_s, known=(least, most))

    def shares(self, time_s: Floats) -> Floats:
        """The curve at some times; NaN within a piece that tells limits only."""
        least, most = self._share_ends(time_s)
        return np.where(least == most, least, np.nan)

    def _share_ends(self, time_s: Floats) -> tuple[Floats, Floats]:
        """Between which shares the curve lies at each time: apart only within an open piece."""
        earlier_s, later_s = self._around(time_s)
        return self.curve.share_by(earlier_s), self.curve.share_by(later_s)

    def _around(self, time_s: Floats) -> tuple[Floats, Floats]:
        """The ends of the open piece in which each time lies; else twice the time itself."""
        earlier_s, later_s = time_s, time_s
        is_open = self.pieces.is_open
        for after_s, by_s in zip(
            self.pieces.after_s[is_open], self.pieces.by_s[is_open], strict=True
        ):
            inside = (after_s < time_s) & (time_s < by_s)
            earlier_s = np.where(inside, after_s, earlier_s)
            later_s = np.where(inside, min(by_s, self.curve.known_until_s), later_s)
        return earlier_s, later_s

    def quantile(self, share: float = 0.5) -> Estimate:
        """The time by which a share of the requested is at the stage; 0.5 is the median.

        Its interval ends where the pointwise band crosses that share (Brookmeyer and Crowley,
        Biometrics 1982), but holds at least what the brackets leave open (``left_open``).  Where
        times differ by less than a bracket is wide, all mass is where brackets overlap, and so is
        that of each resample: the band alone is then far too narrow (``benchmarks/README.md``).
        Where a piece as wide as the time itself holds that share, there is no value, only limits,
        and ``seen_by`` is by when these very requests had reached it.
        """
        value = float(self.curve.quantile(share))
        reached_s = value if np.isfinite(value) else np.nan
        first, last = self.observed.left_open(share)
        seen_by = self.pieces.open_until_s(share)
        is_open = np.isfinite(seen_by)
        seen_by = last if is_open and np.isfinite(last) else seen_by  # the curve's, if some stopped
        known = (first, seen_by) if is_open else None
        point = np.nan if is_open else reached_s
        if why := self._limits.why:
            return self._sure(Estimate(point, np.nan, np.nan, why, seen_by), np.nan, known)
        least, most = (self.curve.quantile(each) for each in self._limits.reaching(share))
        low, high = float(self._around(least)[0]), float(self._around(most)[1])
        low = min(low, first) if np.isfinite(low) else np.nan
        if low == 0 and np.isnan(reached_s):
            low = np.nan  # no bound
        return self._sure(Estimate(point, low, max(high, last), "", seen_by), reached_s, known)

    def restricted_mean(self, horizon_s: float) -> Estimate:
        """The mean of min(time, horizon), with a bootstrap-t interval (see ``studentized``).

        It holds at least what the brackets leave open, as in ``quantile``.
        """
        value, scores = float(self.curve.restricted_mean_s(horizon_s)), self.run_means_s(horizon_s)
        mean = studentized(
            value,
            self.resampled.restricted_mean_s(horizon_s),
            scores=np.where(np.isnan(scores), value, scores),
            draws=self.draws,
        )
        first, last = self.observed.mean_left_open(horizon_s)
        high = min(max(mean.high, last), horizon_s)
        known = (first, last) if self.is_mean_open(horizon_s) else None
        mean = replace(mean, low=min(mean.low, first), high=high)
        return self._sure(replace(mean, value=np.nan) if known else mean, horizon_s, known)

    def is_mean_open(self, horizon_s: float) -> bool:
        """Whether polls tell limits of the restricted mean only (see ``Curve.is_mean_open``)."""
        return horizon_s <= self.pieces.known_until_s and self.pieces.is_mean_open(horizon_s)

    def run_means_s(self, horizon_s: float) -> Floats:
        """The mean of min(time, horizon) of each run, with the middle of a bracket as the time.

        A request not shown at the stage counts as the horizon.  NaN as in ``run_shares``.  This is
        a score for tests and for scatter, not an estimate.
        """
        seen = self.observed
        shown = np.isfinite(seen.by_s)
        middle_s = np.where(shown, (np.where(shown, seen.after_s, 0.0) + seen.by_s) / 2, horizon_s)
        return self._run_means(np.minimum(middle_s, horizon_s), horizon_s=horizon_s)

    def run_shares(self, horizon_s: float) -> Floats:
        """The share of each run's requests that were shown at the stage by the horizon.

        NaN if the run was not watched so long: one of its requests was not shown, was not ended by
        EC2, and was last polled before nine tenths of the horizon.
        """
        return self._run_means(self.observed.by_s <= horizon_s, horizon_s=horizon_s)

    def _run_means(self, numbers: NDArray[Any], *, horizon_s: float) -> Floats:
        run = self.observed.run
        means: Floats = np.bincount(run, numbers) / np.bincount(run)
        return np.where(self._watched(horizon_s), means, np.nan)

    def runs_watched(self, time_s: ArrayLike) -> NDArray[np.int64]:
        """How many runs were watched until each time, as in ``run_shares``."""
        return np.asarray(self._watched(time_s).sum(axis=-1))

    @property
    def half_watched_s(self) -> float:
        """The longest time until which at least half of the runs were watched."""
        return float(np.sort(self._last_s)[len(self._last_s) // 2])

    @property
    def half_after_s(self) -> float:
        """The longest time until which at least 6 runs were watched, where half surely come later.

        NaN below 6 runs, and if the interval of the share by then reaches half.
        """
        ends_s = np.concatenate([self.observed.after_s, self.observed.by_s])
        ends_s = ends_s[np.isfinite(ends_s)]
        if self._limits.why or not len(ends_s):
            return np.nan
        until_s = float(min(np.sort(self._last_s)[-FEWEST_RUNS], ends_s.max()))
        return until_s if self.share_ready(until_s).high < 0.5 else np.nan

    def last_polls_s(self, from_s: float) -> Floats:
        """The last polls of what was not shown, of those from a time on."""
        polled_s = self.observed.after_s[np.isposinf(self.observed.by_s)]
        return polled_s[np.isfinite(polled_s) & (polled_s >= from_s)]

    def _watched(self, time_s: ArrayLike) -> NDArray[np.bool_]:
        """Whether each run was watched until each time, (times, runs)."""
        return np.asarray(self._last_s >= WATCHED * np.asarray(time_s)[..., None])

    @cached_property
    def _last_s(self) -> Floats:
        """The last poll of each run; infinity if nothing of it could change any more."""
        seen = self.observed
        last_s = np.full(seen.runs, np.inf)
        np.minimum.at(last_s, seen.run, np.where(np.isinf(seen.by_s), seen.after_s, np.inf))
        return last_s

    def _sure(
        self, estimate: Estimate, time_s: float, known: tuple[float, float] | None = None
    ) -> Estimate:
        """The estimate without its interval if too few runs were watched until a time.

        Of limits that are all that is ``known``, those of these very requests then remain.
        """
        why, watched = estimate.why, int(self.runs_watched(np.nan_to_num(time_s)))
        if not why and not np.isnan(time_s) and watched < FEWEST_RUNS:
            why = f"{counted(watched, 'run')} watched so long, at least {FEWEST_RUNS} are needed"
        if not why:
            return estimate
        low, high = known or (np.nan, np.nan)
        return replace(estimate, low=low, high=high, why=why)

    def band(self, time_s: Floats) -> pd.DataFrame:
        """The curve at some times, with two 95 % bands.

        ``low`` and ``high`` are pointwise: at each time the interval of ``share_ready``.
        ``curve_low`` and ``curve_high`` hold for the whole curve at once.  No limit depends on
        which other times are asked for, and none falls (see ``ShareLimits``).  They end where fewer
        than 6 runs were watched so long.  ``share`` is as from ``shares``.
        """
        least, most = self._share_ends(time_s)
        shares = np.where(least == most, least, np.nan)
        limits = {
            f"{name}{end}": of(each)[place]
            for name, of in (("", self._limits.pointwise), ("curve_", self._limits.whole_curve))
            for place, (end, each) in enumerate((("low", least), ("high", most)))
        }
        known = self.runs_watched(time_s) >= FEWEST_RUNS
        limits = {name: np.where(known, limit, np.nan) for name, limit in limits.items()}
        return pd.DataFrame({"time_s": time_s, "share": shares, **limits})

    @cached_property
    def _limits(self) -> ShareLimits:
        """The limits of its shares, made at many of them, most near the lowest and the highest."""
        has_mass = (self.curve.mass > 0) & np.isfinite(self.curve.by_s)
        ends_s = np.concatenate([self.curve.after_s[has_mass], self.curve.by_s[has_mass]])
        bends_s = np.unique(np.append(ends_s, 0.0).clip(max=self.curve.known_until_s))
        reached = self.curve.share_by(bends_s)
        shares = reached[-1] * np.sin(np.linspace(0.0, np.pi / 2, _KNOTS)) ** 2
        again = self.resampled.share_by(np.interp(shares, reached, bends_s))
        seen = self.observed
        return ShareLimits.of(shares, again, runs=seen.runs, requests=len(seen.run))


def observe(launches: pd.DataFrame, stage: Stage, *, since: Stage | None = None) -> Observed:
    """The brackets of the times of these requests to a stage.

    With ``since``, both ends of a wait are brackets (doubly censored; De Gruttola, Lagakos,
    Biometrics 1989).  It lies between the difference of their inner and that of their outer ends,
    so its bracket is never too narrow.  USABLE comes from the guest, not from a poll: status checks
    can be ok before it, and it can be before the API showed running.  Then there was no wait.

    Raises
    ------
    ValueError
        If no request is left.
    """
    rows = recorded(launches, stage, since)
    unshown_s = censored_s(rows, stage).to_numpy(dtype=np.float64)
    by_s = rows[f"{stage.label}_by_s"].fillna(np.inf).to_numpy(dtype=np.float64)
    after_s = rows[f"{stage.label}_after_s"].to_numpy(dtype=np.float64)
    ended = ended_by_ec2(rows).to_numpy() & (unshown_s >= rows["watched_s"].to_numpy())
    after_s = np.where(np.isfinite(by_s), after_s, np.where(ended, np.inf, unshown_s))
    if since is not None:
        first, last = (rows[f"{since.label}_{end}_s"].to_numpy() for end in ("after", "by"))
        after_s, by_s = np.maximum(after_s - last, 0.0), np.maximum(by_s - first, _NO_WAIT_S)
    return Observed(after_s, by_s, pd.factorize(rows["run"], sort=True)[0].astype(np.int64))


def recorded(rows: pd.DataFrame, stage: Stage, since: Stage | None = None) -> pd.DataFrame:
    """The requests that recorded a stage, and were shown at the one that it is measured from."""
    if stage is Stage.USABLE:
        rows = rows[rows["usable_by_s"].notna() | rows["usable_watched_s"].notna()]
    return rows if since is None else rows[rows[f"{since.label}_by_s"].notna()]


def round_of(run: str) -> str:
    """The round of a run: everything that was launched at the same time."""
    return run.rsplit("/", 1)[0]


def _observations(launches: pd.DataFrame) -> pd.DataFrame:
    kept = launches[why_not(launches) == ""]
    require_same_variable(kept)
    return name_runs(kept)


def _jobs(
    rows: pd.DataFrame, stage: Stage, since: Stage | None
) -> Iterator[tuple[str, Observed, tuple[str, ...]]]:
    """Each target's name, its brackets and the names of its runs."""
    ends = [f"{each.label}_{end}_s" for each in (since, stage) if each for end in ("after", "by")]
    ends += ["usable_watched_s"] if stage is Stage.USABLE else []
    rows = rows[["target", "run", "outcome", "kind", "watched_s", *ends]]  # groups are copies
    rows = recorded(rows, stage, since)
    for name, here in rows.groupby("target"):
        yield str(name), observe(here, stage, since=since), tuple(sorted(set(here["run"])))


def _estimated(
    job: tuple[str, str, Observed, tuple[str, ...]], *, resamples: int
) -> tuple[Curve, Curve, Curve]:
    """The smoothed curve, its smoothed resamples, and the curve before it was smoothed."""
    _, _, observed, run_names = job
    draws = draw_runs(tuple(map(round_of, run_names)), resamples)
    found = turnbull(observed)
    if observed.runs <= _REFITTED:
        again = refitted(observed, draws, near=found)
    else:
        moved = influence(observed, found)
        once = found.mass[found.mass > 0] - moved.mass.sum(axis=0)
        again = replace(moved, mass=once + draws @ moved.mass)
    width_s = min(observed.width_s / 2, found.interquartile_s())
    return smoothed(found, width_s), smoothed(again, width_s), found


@lru_cache(maxsize=4)  # targets of the same rounds, and each of their stages, share a drawing
def draw_runs(rounds: tuple[str, ...], resamples: int) -> Draws:
    """How often each run is drawn; a function of the names of the rounds and nothing else."""
    runs = len(rounds)
    seed = int.from_bytes(sha256("\n".join(rounds).encode()).digest()[:8])
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(runs, np.full(runs, 1.0 / runs), size=resamples).astype(np.int16)
    draws.setflags(write=False)
    return draws

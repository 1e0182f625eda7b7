"""How long until a stage, and how many reach it: the distribution of the times, per target.

Owns the interval in which each request's time lies, the curve through all of them, and its
resamples.  It reads no file and draws random numbers only from the generator it is handed.

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
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spotlib.analyze.comparable import ended_by_ec2, name_runs, require_same_variable, why_not
from spotlib.analyze.intervals import Estimate, run_level_interval, share_interval, studentized
from spotlib.analyze.turnbull import Curve, Floats, Observed, smoothed, turnbull
from spotlib.model import Stage

Draws = NDArray[np.int64]


def launch_times(
    launches: pd.DataFrame,
    stage: Stage,
    *,
    rng: np.random.Generator,
    since: Stage | None = None,
    resamples: int = 999,
) -> dict[str, "LaunchTimes"]:
    """Estimate the distribution of the time to a stage, for each target.

    The Turnbull curve of each target (see ``turnbull``) is averaged over half a bracket, or over
    its own interquartile range if that is less (see ``smoothed``), and resampled over whole runs.
    If every target was launched in every round, whole rounds are drawn, the same for all targets:
    resamples of two targets can then be compared one by one.  Otherwise the runs of each target
    are drawn separately.

    Parameters
    ----------
    launches : DataFrame
        One row per request, as from ``load_launches``.  Requests that say nothing about the market
        (a quota, a missing permission) and repeats of a simulated world are left out.  A table
        with a column ``run``, as from ``load_comparable``, is used as it is; it needs ``target``,
        ``outcome``, ``kind``, ``watched_s`` and the brackets of the stages.
    stage : Stage
        The stage whose time is estimated.
    rng : numpy.random.Generator
        Draws the resamples.
    since : Stage, optional
        Measure from this stage instead of from the request, over the requests that reached it.
    resamples : int, default 999
        How many times the runs are resampled.

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
    >>> times = launch_times(launches, Stage.READY, rng=np.random.default_rng(0))
    >>> nano = times["t3.nano in sa-east-1"]
    >>> print("median:", nano.quantile(0.5).words())
    median: 25.5 s (21.0 to 37.5)
    >>> print("share ready by 30 s:", nano.share_ready(30.0).words("", digits=2))
    share ready by 30 s: 0.62 (0.25 to 0.89)
    """
    rows = launches if "run" in launches else _observations(launches)
    rows = rows if since is None else rows[rows[f"{since.label}_by_s"].notna()]
    if rows.empty:
        return {}
    runs = {str(name): list(dict.fromkeys(here["run"])) for name, here in rows.groupby("target")}
    rounds = {name: tuple(map(round_of, here)) for name, here in runs.items()}
    draws = _draw_runs(rounds, resamples, rng=rng)
    return {
        str(name): _distribution(str(name), stage, observe(here, stage, since=since), rounds, draws)
        for name, here in rows.groupby("target")
    }


@dataclass(frozen=True)
class LaunchTimes:
    """The distribution of one target's times to a stage, its resamples over runs, its rounds.

    ``curve`` is the estimate, ``resampled`` has one curve per row of ``draws`` (resamples, runs).
    ``rounds`` names the round of each run.
    """

    target: str
    stage: Stage
    observed: Observed
    curve: Curve
    resampled: Curve
    draws: Draws
    rounds: tuple[str, ...]

    def __repr__(self) -> str:
        """The target and the median; all the resamples would fill pages."""
        runs = f"{self.observed.runs} run{'s' * (self.observed.runs != 1)}"
        what = f"{self.target} to {self.stage.label}"
        return f"<LaunchTimes of {what}: {runs}, median {self.quantile(0.5).words()}>"

    def share_ready(self, time_s: float) -> Estimate:
        """The share of the requested that is at the stage by a time."""
        return self._share(float(self.curve.share_by(time_s)), self.resampled.share_by(time_s))

    def quantile(self, share: float = 0.5) -> Estimate:
        """The time by which a share of the requested is at the stage; 0.5 is the median."""
        value, resampled = float(self.curve.quantile(share)), self.resampled.quantile(share)
        return run_level_interval(value, resampled, runs=self.observed.runs)

    def restricted_mean(self, horizon_s: float) -> Estimate:
        """The mean of min(time, horizon), with a bootstrap-t interval (see ``studentized``)."""
        return studentized(
            float(self.curve.restricted_mean_s(horizon_s)),
            self.resampled.restricted_mean_s(horizon_s),
            scores=self.run_means_s(horizon_s),
            draws=self.draws,
        )

    def run_means_s(self, horizon_s: float) -> Floats:
        """The mean of min(time, horizon) of each run, with the middle of a bracket as the time.

        A request not shown at the stage counts as the horizon.  This is a score for tests and for
        scatter, not an estimate.
        """
        seen = self.observed
        shown = np.isfinite(seen.by_s)
        middle_s = np.where(shown, (np.where(shown, seen.after_s, 0.0) + seen.by_s) / 2, horizon_s)
        totals = np.bincount(seen.run, np.minimum(middle_s, horizon_s))
        means: Floats = totals / np.bincount(seen.run)
        return means

    def band(self, time_s: Floats) -> pd.DataFrame:
        """``time_s``, ``share``, ``low``, ``high``: the curve with a pointwise 95 % band.

        A share never falls, so a lower limit holds at all later times and an upper limit at all
        earlier ones.
        """
        shares, resampled = self.curve.share_by(time_s), self.resampled.share_by(time_s)
        each = [self._share(float(v), r) for v, r in zip(shares, resampled.T, strict=True)]
        band = pd.DataFrame({"time_s": time_s, "share": shares})
        band["low"] = pd.Series([one.low for one in each], dtype="float64").cummax()
        band["high"] = pd.Series([one.high for one in each], dtype="float64")[::-1].cummin()[::-1]
        return band

    def _share(self, value: float, resampled: Floats) -> Estimate:
        seen = self.observed
        return share_interval(value, resampled, runs=seen.runs, requests=len(seen.run))


def observe(launches: pd.DataFrame, stage: Stage, *, since: Stage | None = None) -> Observed:
    """The brackets of the times of these requests to a stage.

    With ``since``, both ends of a wait are brackets (doubly censored; De Gruttola, Lagakos,
    Biometrics 1989).  It lies between the difference of their inner and that of their outer ends,
    so its bracket is never too narrow.

    Raises
    ------
    ValueError
        If no request is left.
    """
    rows = launches if since is None else launches[launches[f"{since.label}_by_s"].notna()]
    watched_s = rows["watched_s"].to_numpy(dtype=np.float64)
    by_s = rows[f"{stage.label}_by_s"].fillna(np.inf).to_numpy(dtype=np.float64)
    after_s = rows[f"{stage.label}_after_s"].to_numpy(dtype=np.float64)
    ended = np.isposinf(by_s) & ended_by_ec2(rows).to_numpy()
    after_s = np.where(np.isfinite(by_s), after_s, np.where(ended, np.inf, watched_s))
    if since is not None:
        first, last = (rows[f"{since.label}_{end}_s"].to_numpy() for end in ("after", "by"))
        after_s, by_s = np.maximum(after_s - last, 0.0), by_s - first
    return Observed(after_s, by_s, pd.factorize(rows["run"])[0].astype(np.int64))


def round_of(run: str) -> str:
    """The round of a run: everything that was launched at the same time."""
    return run.rsplit("/", 1)[0]


def _observations(launches: pd.DataFrame) -> pd.DataFrame:
    kept = launches[why_not(launches) == ""]
    require_same_variable(kept)
    return name_runs(kept)


def _distribution(
    target: str,
    stage: Stage,
    observed: Observed,
    rounds: Mapping[str, tuple[str, ...]],
    draws: Mapping[str, Draws],
) -> LaunchTimes:
    found = turnbull(observed)
    again = turnbull(observed, draws=draws[target], near=found)
    width_s = min(observed.width_s / 2, found.interquartile_s())
    curve, resampled = (smoothed(each, width_s) for each in (found, again))
    return LaunchTimes(target, stage, observed, curve, resampled, draws[target], rounds[target])


def _draw_runs(
    rounds: Mapping[str, tuple[str, ...]], resamples: int, *, rng: np.random.Generator
) -> dict[str, Draws]:
    """How often each run of each target is drawn: shapes (resamples, runs)."""

    def draw(runs: int) -> Draws:
        drawn: Draws = rng.multinomial(runs, np.full(runs, 1.0 / runs), size=resamples)
        return drawn

    every = list(dict.fromkeys(each for here in rounds.values() for each in here))
    if any(sorted(here) != sorted(every) for here in rounds.values()):
        return {name: draw(len(here)) for name, here in rounds.items()}
    drawn = draw(len(every))
    place = {each: number for number, each in enumerate(every)}
    return {name: drawn[:, [place[one] for one in here]] for name, here in rounds.items()}

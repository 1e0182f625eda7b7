"""How long until a stage, and how many ever come: estimates from brackets, by target.

Owns the law of a launch time: which interval each request's time lies in, the curve through all
of them, and how sure it is.  No file is read here and no random number drawn but from the
generator that is handed in.

Definitions used throughout:

- **The time of a request** is when the API first showed the stage.  A look only brackets it, so
  it is interval-censored; still waiting when last looked at, it is right-censored there.
- **A request that ended otherwise never comes.**  Interrupted, failed inside EC2 or refused for
  capacity or price before the stage, it stays in the count with the time infinity: the curve is
  the cumulative incidence, the share of what was *requested* (Gray, Annals of Statistics 1988;
  with brackets: Hudgens, Satten, Longini, Biometrics 2001).  Dropping or censoring it would
  answer another question: how fast, if nothing ever ended.  An end that is ours (its ``ValidUntil``
  passed, we stopped looking, a user cancelled it) says nothing of what EC2 would have done, so it
  is right-censored.
- **The run is the sample** and each run weighs the same, whatever its n.  Intervals resample
  whole runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spotlib.analyze.comparable import ended_by_ec2
from spotlib.analyze.intervals import Estimate, run_level_interval, share_interval, studentized
from spotlib.analyze.turnbull import Curve, Floats, Observed, fit_lognormal, smoothed, turnbull
from spotlib.model import Stage

TO_HORIZON = ("share", "restricted_mean_s")


def observe(launches: pd.DataFrame, stage: Stage, *, since: Stage | None = None) -> Observed:
    """The times of these requests to a stage, as brackets.

    Parameters
    ----------
    since
        Count from this stage instead of from the request, over the requests that were shown at
        it.  Then both ends are brackets and the wait lies between the difference of their inner
        and that of their outer ends: never too narrow (doubly censored; De Gruttola, Lagakos,
        Biometrics 1989).

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


@dataclass(frozen=True)
class LaunchTimes:
    """The law of one target's times to a stage, its resamples over runs, and their rounds."""

    target: str
    stage: Stage
    observed: Observed
    curve: Curve
    resampled: Curve
    draws: NDArray[np.int64]
    rounds: tuple[str, ...]

    def share_ready(self, time_s: float) -> Estimate:
        """The share of the requested that has come by a time."""
        return self._share(float(self.curve.share_by(time_s)), self.resampled.share_by(time_s))

    def quantile(self, share: float = 0.5) -> Estimate:
        """The time by which a share of the requested have come; 0.5 is the median."""
        return self._estimate(float(self.curve.quantile(share)), self.resampled.quantile(share))

    def restricted_mean(self, horizon_s: float) -> Estimate:
        """The mean of min(time, horizon), with a bootstrap-t interval (see ``studentized``)."""
        return studentized(
            float(self.curve.restricted_mean_s(horizon_s)),
            self.resampled.restricted_mean_s(horizon_s),
            scores=self.run_means_s(horizon_s),
            draws=self.draws,
        )

    def run_means_s(self, horizon_s: float) -> Floats:
        """The mean of min(time, horizon) of each run, the middle of a bracket for the time.

        The horizon stands for what had not come: a score for tests and scatter, no estimate.
        """
        seen = self.observed
        came = np.isfinite(seen.by_s)
        middle_s = np.where(came, (np.where(came, seen.after_s, 0.0) + seen.by_s) / 2, horizon_s)
        totals = np.bincount(seen.run, np.minimum(middle_s, horizon_s))
        means: Floats = totals / np.bincount(seen.run)
        return means

    def band(self, time_s: Floats) -> pd.DataFrame:
        """``time_s``, ``share``, ``low``, ``high``: the curve with a pointwise 95 % band.

        A share never falls, so a limit from below holds from there on, and one from above until
        there.
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

    def _estimate(self, value: float, resampled: Floats) -> Estimate:
        return run_level_interval(value, resampled, runs=self.observed.runs)


def launch_time_distribution(
    launches: pd.DataFrame,
    stage: Stage,
    *,
    rng: np.random.Generator,
    since: Stage | None = None,
    resamples: int = 999,
) -> dict[str, LaunchTimes]:
    """The law of the time to a stage, for each target that has any request to tell of it.

    Turnbull's curve (see ``turnbull``), averaged over half a bracket, or over its own
    interquartile range if that is less (see ``smoothed``), and resampled over whole runs.  Where
    every target was launched in every round, whole rounds are drawn, the same ones for all
    targets, so that their resamples can be compared one by one; otherwise each target's runs are
    drawn on their own.  ``since`` counts from another stage than the request, over the requests
    that reached that one.
    """
    rows = launches if since is None else launches[launches[f"{since.label}_by_s"].notna()]
    if rows.empty:
        return {}
    runs = {str(name): list(dict.fromkeys(here["run"])) for name, here in rows.groupby("target")}
    rounds = {name: tuple(map(round_of, here)) for name, here in runs.items()}
    draws = _draw_runs(rounds, resamples, rng=rng)
    return {
        str(name): _law(str(name), stage, observe(here, stage, since=since), rounds, draws)
        for name, here in rows.groupby("target")
    }


def _law(
    target: str,
    stage: Stage,
    observed: Observed,
    rounds: Mapping[str, tuple[str, ...]],
    draws: Mapping[str, NDArray[np.int64]],
) -> LaunchTimes:
    found = turnbull(observed)
    again = turnbull(observed, draws=draws[target], near=found)
    width_s = min(observed.width_s / 2, found.interquartile_s())
    curve, resampled = (smoothed(each, width_s) for each in (found, again))
    return LaunchTimes(target, stage, observed, curve, resampled, draws[target], rounds[target])


def round_of(run: str) -> str:
    """The round of a run: all that was launched at the same time."""
    return run.rsplit("/", 1)[0]


def _draw_runs(
    rounds: Mapping[str, tuple[str, ...]], resamples: int, *, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """How often each run of each target is drawn: shapes (resamples, runs)."""
    every = list(dict.fromkeys(each for here in rounds.values() for each in here))
    if all(sorted(here) == sorted(every) for here in rounds.values()):
        drawn = resample_runs(len(every), resamples, rng=rng)
        place = {each: number for number, each in enumerate(every)}
        return {name: drawn[:, [place[one] for one in here]] for name, here in rounds.items()}
    return {name: resample_runs(len(here), resamples, rng=rng) for name, here in rounds.items()}


def resample_runs(runs: int, resamples: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each run is drawn in each resample: shape (resamples, runs)."""
    drawn: NDArray[np.int64] = rng.multinomial(runs, np.full(runs, 1.0 / runs), size=resamples)
    return drawn


def common_horizon_s(laws: Sequence[LaunchTimes], *, timeout_s: float) -> float:
    """The longest time that every target was watched for, in whole seconds."""
    known = [law.curve.known_until_s for law in laws]
    return float(np.floor(min([*known, timeout_s])))


def summarize(laws: Sequence[LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """One row a target: the numbers of its law, each with its interval over runs."""
    rows = []
    for law in laws:
        estimates = {
            "share": law.share_ready(horizon_s),
            "median_s": law.quantile(0.5),
            "p90_s": law.quantile(0.9),
            "restricted_mean_s": law.restricted_mean(horizon_s),
        }
        row = {"target": law.target, "stage": law.stage.label, "runs": law.observed.runs}
        row |= {"requests": len(law.observed.run), "shown": law.observed.events}
        for name, estimate in estimates.items():
            ends = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {name: estimate.value, **ends}
        rows.append(row | {"why_no_interval": estimates["share"].why})
    return pd.DataFrame(rows)


PHASES = {
    "request to fulfilled": (None, Stage.FULFILLED),
    "fulfilled to running": (Stage.FULFILLED, Stage.RUNNING),
    "running to ready": (Stage.RUNNING, Stage.READY),
}


def phases(
    launches: pd.DataFrame, last: Stage, *, rng: np.random.Generator, resamples: int = 999
) -> pd.DataFrame:
    """The median of each phase up to ``last``: ``target``, ``phase``, ``median_s``, its interval.

    Each over the requests that began the phase; a median of all is no sum of those of its parts.
    """
    rows = []
    for phase, (since, stage) in PHASES.items():
        if stage > last:
            continue
        laws = launch_time_distribution(launches, stage, rng=rng, since=since, resamples=resamples)
        for target, law in laws.items():
            median = law.quantile(0.5)
            ends = {"low_s": median.low, "high_s": median.high, "runs": law.observed.runs}
            rows.append({"target": target, "phase": phase, "median_s": median.value, **ends})
    return pd.DataFrame(rows)


def lognormal_table(laws: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """The lognormal fit of each target beside its curve, of those that came, or why there is none.

    ``median_s``, ``sigma``, ``p90_s`` of the fit (see ``fit_lognormal``); ``curve_median_s`` is the
    nonparametric median of the same requests.
    """
    rows = []
    for target, law in laws.items():
        came = float(law.curve.mass[np.isfinite(law.curve.by_s)].sum())
        row: dict[str, object] = {"target": target, "events": law.observed.events}
        try:
            fit = fit_lognormal(law.observed)
        except ValueError as error:
            row |= {"why": str(error)}
        else:
            p90_s = fit.quantile_s(0.9)
            row |= {"median_s": fit.median_s, "sigma": fit.sigma, "p90_s": p90_s, "why": ""}
            row |= {"curve_median_s": float(law.curve.quantile(0.5 * came))}
        rows.append(row)
    names = ["target", "events", "median_s", "curve_median_s", "sigma", "p90_s", "why"]
    return pd.DataFrame(rows, columns=names)


def ready_counts(polls: pd.DataFrame, stage: Stage = Stage.READY) -> pd.DataFrame:
    """How many of the n requested each run has been shown to have, look by look.

    One row a look that succeeded, and one at 0 s: ``target``, ``run``, ``time_s`` (the look was
    answered, so the count was reached by then), ``asked_s``, ``count``, ``n``, ``share``.
    """
    seen = polls[polls[stage.label].notna()].sort_values(["target", "run", "tick"])
    names = ["target", "run", "answered_s", "asked_s", stage.label, "n"]
    table = seen[names].rename(columns={"answered_s": "time_s", stage.label: "count"})
    starts = table.drop_duplicates("run").assign(time_s=0.0, asked_s=0.0, count=0)
    table = pd.concat([starts, table]).sort_values(["target", "run", "time_s"], kind="stable")
    table = table.astype({"count": "float64", "n": "float64"})
    return table.assign(share=table["count"] / table["n"]).reset_index(drop=True)


def server_times(launches: pd.DataFrame) -> pd.DataFrame:
    """EC2's own timestamps beside the brackets, one row a target.

    ``created_to_fulfilled_s`` and ``created_to_launched_s`` are means of differences of EC2's
    whole-second stamps: the rounding cancels in the mean, no clock of ours is in it, and the time
    before EC2 created the request is not.  ``request_to_fulfilled_s`` is the mean of the middles
    of our brackets over the same requests.
    """
    rows = []
    for target, here in launches.groupby("target"):
        came = here[here["fulfilled_at"].notna() & here["created_at"].notna()]
        stamped = came["fulfilled_at"] - came["created_at"]
        launched = came["launched_at"] - came["created_at"]
        middle = (came["fulfilled_after_s"] + came["fulfilled_by_s"]) / 2
        rows.append(
            {
                "target": target,
                "requests": len(came),
                "created_to_fulfilled_s": stamped.dt.total_seconds().mean(),
                "created_to_launched_s": launched.dt.total_seconds().mean(),
                "request_to_fulfilled_s": middle.mean(),
            }
        )
    return pd.DataFrame(rows)

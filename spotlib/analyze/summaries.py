"""Tables of launch times: per target, per phase, per poll.

Owns what the tables of ``03_analyze`` on launch times hold, not how a number is estimated.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
import pandas as pd

from spotlib.analyze.intervals import Estimate
from spotlib.analyze.launch_times import WATCHED, LaunchTimes, launch_times_of
from spotlib.analyze.lognormal import fit_lognormal
from spotlib.model import Stage, watched_stages
from spotlib.processes import release_memory

# From which stage to which; none is the request.
DURATIONS = {
    "request to granted": (None, Stage.GRANTED),
    "request to fulfilled": (None, Stage.FULFILLED),
    "request to running": (None, Stage.RUNNING),
    "request to usable": (None, Stage.USABLE),
    "request to ready": (None, Stage.READY),
    "fulfilled to ready": (Stage.FULFILLED, Stage.READY),
    "fulfilled to running": (Stage.FULFILLED, Stage.RUNNING),
    "running to ready": (Stage.RUNNING, Stage.READY),
    "running to usable": (Stage.RUNNING, Stage.USABLE),
    "usable to ready": (Stage.USABLE, Stage.READY),
}
PHASES = (
    *("request to granted", "request to fulfilled", "fulfilled to running", "running to ready"),
    *("running to usable", "usable to ready"),
)
SHOWN = (*(name for name in DURATIONS if name.startswith("request")), "fulfilled to ready")
READY_AT_S = (60.0, 120.0, 180.0, 300.0)
Durations = Mapping[str, Mapping[str, LaunchTimes]]


def durations(
    launches: pd.DataFrame,
    last: Stage,
    *,
    resamples: int = 999,
    executor: Executor | None = None,
) -> dict[str, dict[str, LaunchTimes]]:
    """Every duration of ``DURATIONS`` up to a stage, estimated once per target.

    A duration that no request began is left out, and so is one that was not watched for.  The
    executor is as for ``launch_times``.
    """
    watched = watched_stages(last, usable=has_usable(launches))
    known = {None, *watched}
    spans = {name: span for name, span in DURATIONS.items() if known.issuperset(span)}
    found = launch_times_of(launches, spans, resamples=resamples, executor=executor)
    release_memory()
    return {name: each for name, each in found.items() if each}


def has_usable(launches: pd.DataFrame) -> bool:
    """Whether the guest of any of these launches said when it was usable."""
    return "usable_by_s" in launches and bool(launches["usable_by_s"].notna().any())


def ready_counts(
    polls: pd.DataFrame, stage: Stage = Stage.READY, *, refused: pd.DataFrame | None = None
) -> pd.DataFrame:
    """How many of the n requested instances each run was shown to have at a stage, poll by poll.

    One row per successful poll and one at 0 s: ``target``, ``run``, ``time_s`` (the poll was
    answered, so the count was reached by then), ``asked_s``, ``count``, ``n``, ``share``.  The runs
    ``refused`` (see ``Comparable``) were never polled: they have 0 until their timeout.
    """
    names = ["target", "run", "answered_s", "asked_s", stage.label, "n"]
    table = polls.loc[polls[stage.label].notna(), names]
    table = table.rename(columns={"answered_s": "time_s", stage.label: "count"})
    starts = table.drop_duplicates("run").assign(time_s=0.0, asked_s=0.0, count=0)
    parts = [starts, table]
    if refused is not None and len(refused):
        never = refused[["target", "run", "n"]].assign(asked_s=0.0, count=0)
        parts += [never.assign(time_s=0.0), never.assign(time_s=refused["timeout_s"])]
    table = pd.concat(parts).sort_values(["target", "run", "time_s"], kind="stable")
    table = table.astype({"count": "float64", "n": "float64"})
    return table.assign(share=table["count"] / table["n"]).reset_index(drop=True)


def planned_s(launches: pd.DataFrame) -> float:
    """The shortest timeout of the targets, in each the one that nine of ten runs had at least."""
    timeouts_s = launches.drop_duplicates("run").groupby("target")["timeout_s"]
    return float(timeouts_s.quantile(0.1, interpolation="lower").min())


def common_horizon_s(distributions: Mapping[str, LaunchTimes], launches: pd.DataFrame) -> float:
    """The end of what is compared, in whole seconds: the last polls before the planned timeout.

    It follows from what was planned (``planned_s``), not from what became of it.  A run that was
    stopped is censored there, and shortens the end only with half of the runs of its target.
    """
    ends_s = [until_s := planned_s(launches)]
    for each in distributions.values():
        ends_s += [each.half_watched_s, *each.last_polls_s(WATCHED * until_s)]
    return float(np.floor(min(ends_s)))


def fastest_first(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> list[str]:
    """The targets by their median; those without one come last, by their share at the horizon.

    A median of which only limits are known has the place of its upper one, and where that is
    infinite, of the one in these runs.
    """

    def place(name: str) -> tuple[float, float]:
        share = np.nan_to_num(round(distributions[name].share_ready(horizon_s).value, 9))
        return np.nan_to_num(distributions[name].quantile(0.5).at_most, nan=np.inf), -share

    return sorted(distributions, key=place)


def both_ends(ranked: Sequence[str], most: int) -> list[str]:
    """At most so many of the targets: the first and the last."""
    last = most // 2 if len(ranked) > most else 0
    return [*ranked[: most - last], *ranked[len(ranked) - last :]]


def ready_of_n(
    distributions: Mapping[str, LaunchTimes], launches: pd.DataFrame, *, horizon_s: float
) -> pd.DataFrame:
    """How many of n instances are ready on average at ``READY_AT_S`` and at the horizon.

    One row per target, fastest first: ``target``, ``runs`` and how many of them were ``watched``
    until the horizon (the others count as far as they were watched), ``n`` of its last request,
    ``least_n`` and ``most_n`` of all its requests, and the columns
    ``ready_60s``, ``ready_60s_low``, ``ready_60s_high`` and so on: n times the share ready and the
    ends of its interval.  ``half_s`` is the time by which half are ready, with its ends;
    ``half_s_by`` where polls tell only limits of it (see ``Estimate.seen_by``).
    """
    by_target = launches.sort_values("sent_at", kind="stable").groupby("target")["n"]
    n, least, most = by_target.last(), by_target.min(), by_target.max()
    times_s = [*(time_s for time_s in READY_AT_S if time_s < horizon_s), horizon_s]
    rows = []
    for target in fastest_first(distributions, horizon_s=horizon_s):
        each, requested = distributions[target], int(n[target])
        row = {"target": target, **_runs(each, horizon_s), "n": requested}
        row |= {"least_n": int(least[target]), "most_n": int(most[target])}
        for time_s in times_s:
            share = each.share_ready(time_s)
            row |= _with_ends(f"ready_{time_s:.0f}s", share, times=requested)
        rows.append(row | _with_limits("half_s", each.quantile(0.5)))
    return pd.DataFrame(rows)


def _runs(times: LaunchTimes, horizon_s: float) -> dict[str, int]:
    """How many runs an estimate rests on, and how many of them were watched until the horizon."""
    return {"runs": times.observed.runs, "watched": int(times.runs_watched(horizon_s))}


def common_n(of_n: pd.DataFrame) -> int | None:
    """How many instances each run of ``ready_of_n`` requested, None if it is not the same."""
    least, most = int(of_n["least_n"].min()), int(of_n["most_n"].max())
    return least if least == most else None


def _with_ends(name: str, estimate: Estimate, *, times: float = 1.0) -> dict[str, float]:
    ends = {f"{name}_low": estimate.low * times, f"{name}_high": estimate.high * times}
    return {name: estimate.value * times} | ends


def _with_limits(name: str, estimate: Estimate) -> dict[str, float]:
    return _with_ends(name, estimate) | {f"{name}_by": estimate.seen_by}


def summarize(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """One row per target: share, median, 90th percentile and restricted mean, with intervals.

    ``runs``, ``watched`` and the columns in ``_by`` are as in ``ready_of_n``.
    """
    rows = []
    for target, each in distributions.items():
        share = each.share_ready(horizon_s)
        seen = each.observed
        row = {"target": target, "stage": each.stage.label, **_runs(each, horizon_s)}
        row |= {"requests": len(seen.run), "shown": seen.events}
        row |= _with_ends("share", share)
        row |= _with_limits("median_s", each.quantile(0.5))
        row |= _with_limits("p90_s", each.quantile(0.9))
        row |= _with_ends("restricted_mean_s", each.restricted_mean(horizon_s))
        rows.append(row | {"why_no_interval": share.why})
    return pd.DataFrame(rows)


def all_times(estimates: Durations, *, horizon_s: float) -> pd.DataFrame:
    """The rows of ``summarize`` for each duration, which the column ``time`` names."""
    tables = [
        summarize(each, horizon_s=horizon_s).assign(time=name) for name, each in estimates.items()
    ]
    return pd.concat(tables, ignore_index=True)


def only(table: pd.DataFrame, targets: Sequence[str]) -> pd.DataFrame:
    """The rows of these targets, in their order."""
    here, place = table[table["target"].isin(targets)], {name: n for n, name in enumerate(targets)}
    return here.sort_values(
        "target", key=lambda names: names.map(place), kind="stable", ignore_index=True
    )


def last_round(launches: pd.DataFrame) -> pd.DataFrame:
    """The requests of the newest batch's last round."""
    place = launches[["batch_id", "round"]]
    last = place.sort_values(["batch_id", "round"]).iloc[-1]
    return launches[(place == last).all(axis="columns")]


def phases(estimates: Durations) -> pd.DataFrame:
    """The median of each phase, over the requests that began the phase (see ``durations``).

    One row per phase and target: ``target``, ``phase``, ``median_s``, ``low_s``, ``high_s``,
    ``runs``, and whether half was ``reached`` while watched.  Medians of phases do not add up to
    the median of the whole.  The time from running to ready is in two parts where the guests said
    when they were usable.
    """
    rows = []
    split = estimates.get("usable to ready", {})
    for phase in PHASES:
        for target, each in estimates.get(phase, {}).items():
            if phase == "running to ready" and target in split:
                continue
            median = each.quantile(0.5)
            no_bound = np.isnan(median.low) and not median.is_reached
            row = {"target": target, "phase": phase, "median_s": median.value}
            row |= {"low_s": each.half_after_s if no_bound else median.low, "high_s": median.high}
            rows.append(row | {"runs": each.observed.runs, "reached": median.is_reached})
    return pd.DataFrame(rows)


def lognormal_table(distributions: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """The lognormal fit of each target beside its curve, or why there is no fit.

    ``median_s``, ``sigma`` and ``p90_s`` are of the fit (see ``fit_lognormal``).
    ``curve_median_s`` is the nonparametric median of the same requests.
    """
    rows = []
    for target, each in distributions.items():
        row: dict[str, object] = {"target": target, "events": each.observed.events}
        try:
            fit = fit_lognormal(each.observed)
        except ValueError as error:
            row |= {"why": str(error)}
        else:
            p90_s = fit.quantile_s(0.9)
            row |= {"median_s": fit.median_s, "sigma": fit.sigma, "p90_s": p90_s, "why": ""}
            row |= {"curve_median_s": each.quantile(0.5 * each.curve.shown_share()).value}
        rows.append(row)
    names = ["target", "events", "median_s", "curve_median_s", "sigma", "p90_s", "why"]
    return pd.DataFrame(rows, columns=names)


def server_times(launches: pd.DataFrame) -> pd.DataFrame:
    """EC2's own timestamps beside the brackets, one row per target.

    ``created_to_fulfilled_s`` and ``created_to_launched_s`` are mean differences of EC2's
    whole-second timestamps.  Their rounding cancels in the mean and no clock of ours enters, but
    they miss the time before EC2 created the request.  ``request_to_fulfilled_least_s`` and
    ``request_to_fulfilled_most_s`` are the means of both ends of our brackets, over the same
    requests.
    """
    names = ["fulfilled_at", "created_at", "launched_at", "fulfilled_after_s", "fulfilled_by_s"]
    rows = []
    for target, here in launches[["target", *names]].groupby("target"):
        stamped = here[here["fulfilled_at"].notna() & here["created_at"].notna()]
        fulfilled = stamped["fulfilled_at"] - stamped["created_at"]
        launched = stamped["launched_at"] - stamped["created_at"]
        rows.append(
            {
                "target": target,
                "requests": len(stamped),
                "created_to_fulfilled_s": fulfilled.dt.total_seconds().mean(),
                "created_to_launched_s": launched.dt.total_seconds().mean(),
                "request_to_fulfilled_least_s": stamped["fulfilled_after_s"].mean(),
                "request_to_fulfilled_most_s": stamped["fulfilled_by_s"].mean(),
            }
        )
    return pd.DataFrame(rows)

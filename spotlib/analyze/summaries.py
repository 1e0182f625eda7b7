"""Tables of launch times: per target, per phase, per poll.

Owns what the tables of ``03_analyze`` on launch times hold, not how a number is estimated.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from spotlib.analyze.launch_times import LaunchTimes, launch_times
from spotlib.analyze.turnbull import fit_lognormal
from spotlib.model import Stage

# From which stage to which; none is the request.
DURATIONS = {
    "request to fulfilled": (None, Stage.FULFILLED),
    "request to running": (None, Stage.RUNNING),
    "request to ready": (None, Stage.READY),
    "fulfilled to ready": (Stage.FULFILLED, Stage.READY),
    "fulfilled to running": (Stage.FULFILLED, Stage.RUNNING),
    "running to ready": (Stage.RUNNING, Stage.READY),
}
PHASES = ("request to fulfilled", "fulfilled to running", "running to ready")
SHOWN = (*(name for name in DURATIONS if name.startswith("request")), "fulfilled to ready")
Durations = Mapping[str, Mapping[str, LaunchTimes]]


def durations(
    launches: pd.DataFrame, last: Stage, *, resamples: int = 999
) -> dict[str, dict[str, LaunchTimes]]:
    """Every duration of ``DURATIONS`` up to a stage, estimated once per target.

    A duration that no request began is left out.
    """
    found = {
        name: launch_times(launches, stage, since=since, resamples=resamples)
        for name, (since, stage) in DURATIONS.items()
        if stage <= last
    }
    return {name: each for name, each in found.items() if each}


def ready_counts(polls: pd.DataFrame, stage: Stage = Stage.READY) -> pd.DataFrame:
    """How many of the n requested instances each run was shown to have at a stage, poll by poll.

    One row per successful poll and one at 0 s: ``target``, ``run``, ``time_s`` (the poll was
    answered, so the count was reached by then), ``asked_s``, ``count``, ``n``, ``share``.
    """
    names = ["target", "run", "answered_s", "asked_s", stage.label, "n"]
    table = polls.loc[polls[stage.label].notna(), names]
    table = table.rename(columns={"answered_s": "time_s", stage.label: "count"})
    starts = table.drop_duplicates("run").assign(time_s=0.0, asked_s=0.0, count=0)
    table = pd.concat([starts, table]).sort_values(["target", "run", "time_s"], kind="stable")
    table = table.astype({"count": "float64", "n": "float64"})
    return table.assign(share=table["count"] / table["n"]).reset_index(drop=True)


def common_horizon_s(distributions: Mapping[str, LaunchTimes], *, timeout_s: float) -> float:
    """The longest time for which every target was watched, in whole seconds."""
    known = [each.curve.known_until_s for each in distributions.values()]
    return float(np.floor(min([*known, timeout_s])))


def summarize(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """One row per target: share, median, 90th percentile and restricted mean, with intervals."""
    rows = []
    for target, each in distributions.items():
        estimates = {
            "share": each.share_ready(horizon_s),
            "median_s": each.quantile(0.5),
            "p90_s": each.quantile(0.9),
            "restricted_mean_s": each.restricted_mean(horizon_s),
        }
        row = {"target": target, "stage": each.stage.label, "runs": each.observed.runs}
        row |= {"requests": len(each.observed.run), "shown": each.observed.events}
        for name, estimate in estimates.items():
            ends = {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {name: estimate.value, **ends}
        rows.append(row | {"why_no_interval": estimates["share"].why})
    return pd.DataFrame(rows)


def phases(estimates: Durations) -> pd.DataFrame:
    """The median of each phase, over the requests that began the phase (see ``durations``).

    One row per phase and target: ``target``, ``phase``, ``median_s``, ``low_s``, ``high_s``,
    ``runs``.  Medians of phases do not add up to the median of the whole.
    """
    rows = []
    for phase in PHASES:
        for target, each in estimates.get(phase, {}).items():
            median = each.quantile(0.5)
            ends = {"low_s": median.low, "high_s": median.high, "runs": each.observed.runs}
            rows.append({"target": target, "phase": phase, "median_s": median.value, **ends})
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
            row |= {"curve_median_s": float(each.curve.quantile(0.5 * each.curve.shown_share()))}
        rows.append(row)
    names = ["target", "events", "median_s", "curve_median_s", "sigma", "p90_s", "why"]
    return pd.DataFrame(rows, columns=names)


def server_times(launches: pd.DataFrame) -> pd.DataFrame:
    """EC2's own timestamps beside the brackets, one row per target.

    ``created_to_fulfilled_s`` and ``created_to_launched_s`` are mean differences of EC2's
    whole-second timestamps.  Their rounding cancels in the mean and no clock of ours enters, but
    they miss the time before EC2 created the request.  ``request_to_fulfilled_s`` is the mean of
    the middles of our brackets over the same requests.
    """
    rows = []
    for target, here in launches.groupby("target"):
        stamped = here[here["fulfilled_at"].notna() & here["created_at"].notna()]
        fulfilled = stamped["fulfilled_at"] - stamped["created_at"]
        launched = stamped["launched_at"] - stamped["created_at"]
        middle_s = (stamped["fulfilled_after_s"] + stamped["fulfilled_by_s"]) / 2
        rows.append(
            {
                "target": target,
                "requests": len(stamped),
                "created_to_fulfilled_s": fulfilled.dt.total_seconds().mean(),
                "created_to_launched_s": launched.dt.total_seconds().mean(),
                "request_to_fulfilled_s": middle_s.mean(),
            }
        )
    return pd.DataFrame(rows)

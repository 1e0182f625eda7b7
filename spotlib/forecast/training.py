"""Launches as tables to learn from: per run and elapsed time, and per request.

A run is one plan in one round of a batch; it is the sampling unit.  Both tables hold what was known
before the request, and what happened after it.  ``COLUMNS`` describes each column once, and the
data dictionary is made from it.  No file is read or written, nothing is estimated but the censoring
weights, and a mixture of simulated and real launches is refused.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from spotlib.analyze.comparable import (
    COMPETING,
    RUN,
    SAME_VARIABLE,
    censored_s,
    ended_by_ec2,
    why_not,
)
from spotlib.forecast.history import add_history
from spotlib.model import Stage, watched_stages

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One column of an exported table, as the data dictionary describes it."""

    name: str
    unit: str
    meaning: str
    missing: str = "never missing"


_UNKNOWN = "NaN where it was not known before the request"
_NO_STAMP = "NaN where that was not asked for, or not seen"
_NO_EVENT = "NaN where events were not read, or none came"
_CLOCKS = "whether the event and the polls agree or contradict each other"
_NO_RUN = "NaN if no run and no probe had ended before this round began"
_RUN_COLUMNS = (
    Column("simulated", "boolean", "whether the run happened in the sandbox, not in EC2"),
    Column("world", "name", "the sandbox's world that a simulated run belongs to", "empty if real"),
    Column("endpoint", "name", "where requests went: aws, sandbox/MARKET or other"),
    Column("batch_id", "name", "names the run together with round and plan"),
    Column("round", "count", "the round within the batch, from 0"),
    Column("plan", "count", "the plan within the round, from 0"),
    Column("instance_type", "name", "EC2 instance type"),
    Column("region", "name", "AWS region"),
    Column("availability_zone_id", "name", "the zone asked for", "empty where EC2 chose it"),
    Column("placement", "name", "region (EC2 chose the zone) or zone; different variables"),
    Column("method", "name", "EC2's call, and what it asks for; different variables"),
    Column("purchase", "name", "spot or on-demand; different variables"),
    Column(
        *("image_family", "name", "Amazon Linux, its kernel line and architecture; else image id"),
        "empty where no image is known",
    ),
    Column("wanted", "name", "the stage at which the watching of a request ended"),
    Column("stage", "name", "the stage whose launch times and counts this table holds"),
    Column("n", "instances", "instances requested in the one call"),
    Column("timeout_s", "s", "the longest time for which the run was to be watched"),
    Column("sent_at", "UTC time", "when the request call was sent"),
    Column("hour_utc", "h", "hour of the day of sent_at, with its fraction, 0 to 24"),
    Column(
        "price_usd", "USD/h", "spot price when requested, also of one bought on demand", _UNKNOWN
    ),
    Column("on_demand_usd", "USD/h", "on-demand price: what one bought on demand costs", _UNKNOWN),
    Column("price_share", "ratio", "price_usd / on_demand_usd", _UNKNOWN),
    Column("sps", "score", "spot placement score for n instances, higher is better", _UNKNOWN),
    Column("sps_at", "UTC time", "when the placement score was asked for", "empty with sps"),
    Column("t3", "instances", "most instances that scored 3 or more there, 0 if none", _UNKNOWN),
    Column("t3_at", "UTC time", "when the scores behind t3 were asked for", "empty with t3"),
    Column("t3_source", "name", "placement scores, or selection: its archive", "empty with t3"),
    Column("if_score", "score", "3.0 few interruptions ... 1.0 many (SpotLake's IF)", _UNKNOWN),
    Column("if_at", "UTC time", "when the interruption score was taken", "empty with if_score"),
    Column("since_last_s", "s", "since our own last launch there", "NaN if none is recorded"),
    Column(
        *("last_share", "ratio", "how its last run ended: at the stage / n; of a probe: granted"),
        _NO_RUN,
    ),
    Column("last3_share", "ratio", "the mean of that over its last three runs", _NO_RUN),
    Column("last_run_s", "s", "since its last run was sent", _NO_RUN),
)


def _told(name: str, what: str) -> tuple[Column, Column]:
    """The two ends of the bracket of an event."""
    return (
        Column(f"{name}_after_s", "s", f"{what}: after it, since the call was sent", _NO_EVENT),
        Column(f"{name}_by_s", "s", f"{what}: by then", _NO_EVENT),
    )


COLUMNS: dict[str, tuple[Column, ...]] = {
    "training": (
        *_RUN_COLUMNS,
        Column("elapsed_s", "s", "since the request call was sent; no row after the last poll"),
        Column("ready", "instances", "shown at the stage by a poll answered by elapsed_s"),
        Column("ready_most", "instances", "upper bound: the stage may be reached between polls"),
        Column("weight", "ratio", "1 / probability that the run was still watched (IPCW)"),
    ),
    "requests": (
        *_RUN_COLUMNS,
        Column(
            "request_id",
            "name",
            "id of EC2's spot request, or of the instance where a method launches without one",
            "empty if refused",
        ),
        Column("instance_id", "name", "id of its instance", "empty without one"),
        Column("zone_id", "name", "the zone of its instance", "empty without one"),
        Column("lower_s", "s", "not shown at the stage until then, since the call was sent"),
        Column("upper_s", "s", "shown at the stage by then; inf if never shown"),
        Column("event", "0 or 1", "1: reached within (lower_s, upper_s]; 0: censored at lower_s"),
        Column("cause", "name", "the stage if reached; else outcome or unfinished"),
        Column("status_code", "name", "EC2's last status code", "empty while unfinished"),
        Column("instance_reason", "name", "EC2's StateReason of its instance", "empty if none"),
        Column("impaired_after_s", "s", "no status check had failed until then", "NaN if none did"),
        Column("impaired_by_s", "s", "a status check was shown failed by then", "NaN if none did"),
        Column("watched_s", "s", "when the last poll of the request was sent"),
        Column("usable_after_s", "s", "its guest was not usable until then", _NO_STAMP),
        Column("usable_by_s", "s", "its guest was usable by then, as it says itself", _NO_STAMP),
        Column("guest_uptime_s", "s", "from its kernel's start to usable", _NO_STAMP),
        *_told("fulfilled_event", "fulfilled, as EC2's own event tells"),
        *_told("running_event", "running, as EC2's own event tells"),
        Column("fulfilled_clocks", "name", _CLOCKS, "empty without one of the two"),
        Column("running_clocks", "name", _CLOCKS, "empty without one of the two"),
        *_told("interruption", "warned by EC2 of its interruption"),
        *_told("rebalance", "told by EC2 that it may be interrupted"),
    ),
    "batches": (
        *_RUN_COLUMNS[:4],
        Column("started_at", "UTC time", "when the batch began"),
        Column("account", "name", "the AWS account", "empty where unknown"),
        Column("rounds", "count", "rounds planned"),
        Column("every_s", "s", "from the start of one round to the next"),
        Column("poll_s", "s", "from one poll to the next"),
        Column("phase_s", "s", "random offset of the polling schedule"),
    ),
}


def names_of(table: str) -> list[str]:
    """Return the columns of an exported table, in order."""
    return [column.name for column in COLUMNS[table]]


def data_dictionary() -> pd.DataFrame:
    """Return one row per column of the exported tables: table, column, unit, meaning, missing."""
    rows = [
        (table, column.name, column.unit, column.meaning, column.missing)
        for table, columns in COLUMNS.items()
        for column in columns
    ]
    return pd.DataFrame(rows, columns=["table", "column", "unit", "meaning", "missing"])


def request_table(
    launches: pd.DataFrame, *, stage: Stage = Stage.READY, probes: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return one row per request: the bracket of ``stage``, or the time of censoring.

    A request shown at the stage has ``event`` 1 and the bracket ``(lower_s, upper_s]``.  Any
    other has ``event`` 0, ``upper_s`` inf, and had not reached the stage by ``lower_s``: the last
    poll if it was still waiting (timed out, expired, abandoned, or not finished), and at least
    ``timeout_s`` if it can no longer reach the stage (refused for capacity or price, interrupted,
    or failed in EC2).  Whole runs that say nothing about the market are left out; ``left_out``
    counts them.  ``probes`` are requests of probes that count: they are in no row, but part of the
    own history of their targets.

    Raises
    ------
    ValueError
        If there is no launch to learn from, or launches of different variables are mixed.
    """
    found = launches[why_not(launches) == ""]
    _require_alike(found, stage)
    found = found[censored_s(found, stage).notna() | found[f"{stage.label}_by_s"].notna()]
    table = _describe_runs(found).assign(stage=stage.label)
    shown = table[f"{stage.label}_by_s"].notna()
    waited_s = censored_s(table, stage)
    ended = ended_by_ec2(table) & (waited_s >= table["watched_s"])
    waited_s = waited_s.where(~ended, table[["watched_s", "timeout_s"]].max(axis=1))
    table["event"] = shown.astype("int64")
    table["lower_s"] = table[f"{stage.label}_after_s"].where(shown, waited_s)
    table["upper_s"] = table[f"{stage.label}_by_s"].fillna(np.inf)
    table["cause"] = table["outcome"].fillna("unfinished").mask(shown, stage.label)
    return add_history(table, probes)[names_of("requests")].reset_index(drop=True)


def training_table(
    launches: pd.DataFrame,
    *,
    stage: Stage = Stage.READY,
    probes: pd.DataFrame | None = None,
    step_s: float = 15.0,
    horizon_s: float | None = None,
) -> pd.DataFrame:
    """Return one row per run and elapsed time: the features and the count at ``stage``.

    Texts are categories.
    ``ready`` counts the requests that polls had shown at the stage, so it lags the event by at
    most one poll; ``ready_most`` is an upper bound.  A run keeps its count to the end once each
    of its requests has reached the stage or can no longer reach it.  There is no row for a time
    after the run was last watched.  ``weight`` corrects for this: inverse probability of
    censoring, from a Kaplan-Meier estimate over runs (Robins and Finkelstein, Biometrics 2000).

    Parameters
    ----------
    launches : pd.DataFrame
        From ``load_launches``.
    stage : Stage
        The stage to count.
    probes : pd.DataFrame, optional
        As for ``request_table``.
    step_s : float
        Seconds from one elapsed time to the next.
    horizon_s : float, optional
        The last elapsed time.  Default: 95 % of the shortest timeout.  The last poll of a run
        that times out is sent a little before its timeout; a later horizon would keep the fast
        runs and lose the slow ones.

    Raises
    ------
    ValueError
        As ``request_table``; or if ``horizon_s`` is shorter than ``step_s``.
    """
    requests = request_table(launches, stage=stage, probes=probes)
    counts = count_runs(requests, step_s=step_s, horizon_s=horizon_s)
    kept, times_s = counts.observed.ravel(), counts.times_s
    # A text is kept once, whatever the number of rows that hold it: there may be millions.
    known = counts.known.astype(
        dict.fromkeys(counts.known.select_dtypes(["str", "object"]), "category")
    )
    runs = known.iloc[np.repeat(np.arange(len(known)), times_s.size)[kept]].assign(
        elapsed_s=np.tile(times_s, len(known))[kept],
        ready=counts.ready.ravel()[kept],
        ready_most=counts.ready_most.ravel()[kept],
        weight=counts.weight.ravel()[kept],
    )
    return runs[names_of("training")].reset_index(drop=True)


@dataclass(frozen=True)
class RunCounts:
    """The training table with one row per run: what was ``known``, and counts (runs, times).

    Where ``observed`` is false the table has no row.
    """

    known: pd.DataFrame
    times_s: Floats
    ready: NDArray[np.int64]
    ready_most: NDArray[np.int64]
    observed: NDArray[np.bool_]
    weight: Floats


def count_runs(
    requests: pd.DataFrame, *, step_s: float = 15.0, horizon_s: float | None = None
) -> RunCounts:
    """Count each run of a request table as in ``training_table``, in the order of ``RUN``.

    Raises
    ------
    ValueError
        If ``horizon_s`` is shorter than ``step_s``.
    """
    requests = requests.sort_values(RUN, kind="stable")
    last_s = horizon_s or 0.95 * float(requests["timeout_s"].min())
    times_s = np.arange(step_s, last_s + 1e-9, step_s)
    if not times_s.size:
        raise ValueError(f"need 0 < step_s <= horizon_s, got {step_s=}, horizon_s={last_s:g}")
    first = np.flatnonzero(~requests.duplicated(RUN).to_numpy())
    return RunCounts(
        requests[[name for name in names_of("training") if name in requests]].iloc[first],
        times_s,
        *_count(requests, first, times_s=times_s),
        _weights(requests, first, times_s=times_s),
    )


def left_out(launches: pd.DataFrame) -> pd.DataFrame:
    """Count what the tables leave out: reason, runs, requests; no row if nothing is left out."""
    reasons = why_not(launches)
    dropped = launches.assign(reason=reasons)[reasons != ""]
    runs = dropped.drop_duplicates(RUN).groupby("reason").size()
    counts = {"runs": runs, "requests": dropped.groupby("reason").size()}
    return pd.DataFrame(counts, dtype="int64").rename_axis("reason").reset_index()


def _require_alike(launches: pd.DataFrame, stage: Stage) -> None:
    if launches.empty:
        raise ValueError("there is no launch to learn from: run 02_collect first")
    for name in SAME_VARIABLE:
        found = sorted(map(str, launches[name].unique()))
        if found[1:]:
            raise ValueError(f"launches of different {name} are never pooled, got {found}")
    [words] = map(str, launches["wanted"].unique())
    wanted = next((each for each in Stage if each.label == words), None)
    if wanted is None:
        raise ValueError(f"wanted must be a stage, got {words!r}")
    recorded = censored_s(launches, stage).notna() | launches[f"{stage.label}_by_s"].notna()
    if stage not in watched_stages(wanted, usable=bool(recorded.any())):
        raise ValueError(f"{stage.label} was not watched for, only {wanted.label}")


def _describe_runs(launches: pd.DataFrame) -> pd.DataFrame:
    clock = launches["sent_at"].dt
    return launches.assign(
        simulated=launches["simulated"].astype(bool),
        **{name: launches[name].astype("int64") for name in ("round", "plan", "n")},
        **{name: launches[name].astype("float64") for name in ("sps", "t3")},
        hour_utc=clock.hour + clock.minute / 60 + clock.second / 3600,
        price_share=launches["price_usd"] / launches["on_demand_usd"],
        t3_source=known_t3_source(launches),
    )


def known_t3_source(launches: pd.DataFrame) -> "pd.Series[str]":
    """Return where the T3 of each request is from; empty where the log says why it has none."""
    return launches["t3_source"].where(launches["t3"].notna())


def _count(
    requests: pd.DataFrame, first: NDArray[np.intp], *, times_s: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return ready, at most ready, and whether they were observed: each (runs, times).

    ``first`` holds the row of each run's first request.
    """
    lower, upper = (requests[[name]].to_numpy() for name in ("lower_s", "upper_s"))
    shown = requests[["event"]].to_numpy() == 1
    ready = np.add.reduceat(upper <= times_s, first, dtype=np.int64)
    most = np.add.reduceat(shown & (lower < times_s), first, dtype=np.int64)
    observed = shown | _never(requests) | (lower >= times_s)
    return ready, most, np.logical_and.reduceat(observed, first)


def _never(requests: pd.DataFrame) -> NDArray[np.bool_]:
    """Return whether each request can no longer reach the stage, (requests, 1)."""
    never: NDArray[np.bool_] = requests[["cause"]].isin(COMPETING).to_numpy()
    return never


def _weights(requests: pd.DataFrame, first: NDArray[np.intp], *, times_s: Floats) -> Floats:
    """Return 1 / P(watched until min(t, the run's last event)), (runs, times)."""
    lower, upper, watched_s = (
        requests[name].to_numpy() for name in ("lower_s", "upper_s", "watched_s")
    )
    open_ = (requests["event"].to_numpy() == 0) & ~_never(requests).ravel()
    until = np.minimum.reduceat(np.where(open_, lower, np.inf), first)
    # Refused at once is before lost at once: whoever was refused could not be lost any more.
    ended = np.where(watched_s > 0, watched_s, -1.0)
    over = np.where(np.isfinite(upper), upper, ended)
    done = np.where(np.isinf(until), np.maximum.reduceat(over, first), np.inf)
    lost = until < times_s[-1]
    if not lost.any():
        return np.ones((first.size, times_s.size))
    ends = np.minimum(np.minimum(until, done), times_s[-1])
    watched = stats.ecdf(stats.CensoredData.right_censored(ends, ~lost)).sf
    asked = np.minimum(times_s, done[:, None])
    return np.asarray(1.0 / np.maximum(watched.evaluate(np.nextafter(asked, -np.inf)), 1e-9))

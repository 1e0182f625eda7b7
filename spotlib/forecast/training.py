"""The runs as tables to learn from: one row a run and elapsed time, and one row a request.

A run is one plan in one round of a batch; it is the sample.  Both tables hold what was known
before the request beside what came of it, and every column is described once, here
(``COLUMNS``), from where the data dictionary is written.  No file is read or written, nothing is
estimated but the weights, and simulated and real launches in one table are refused.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from spotlib.analyze.comparable import COMPETING, RUN, SAME_VARIABLE, ended_by_ec2, why_not
from spotlib.model import Stage

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One column of an exported table: what the data dictionary says of it."""

    name: str
    unit: str
    meaning: str
    missing: str = "never missing"
    identity: str = ""  # what it would tell of us: published as a salted alias


_UNKNOWN = "NaN where it was not known before the request"
_RUN_COLUMNS = (
    Column("simulated", "boolean", "whether the run happened in the sandbox, not in EC2"),
    Column("world", "name", "the pretend world of a simulated run", "empty where real"),
    Column(
        "endpoint",
        "name",
        "where requests went: aws, sandbox/MARKET or other",
        identity="host",
    ),
    Column("batch_id", "name", "with round and plan it names the run", identity="batch"),
    Column("round", "count", "the round within the batch, from 0"),
    Column("plan", "count", "the plan within the round, from 0"),
    Column("instance_type", "name", "EC2 instance type"),
    Column("region", "name", "AWS region"),
    Column("availability_zone_id", "name", "the zone asked for", "empty where EC2 chose it"),
    Column("placement", "name", "region (EC2 chose the zone) or zone; different variables"),
    Column("method", "name", "the API call that launched; different variables"),
    Column("wanted", "name", "the stage that ended the watching of a request"),
    Column("stage", "name", "the stage whose launch times and counts this table holds"),
    Column("n", "instances", "instances asked for in the one call"),
    Column("timeout_s", "s", "how long the run was to be watched at most"),
    Column("sent_at", "UTC time", "when the request call was sent"),
    Column("hour_utc", "h", "hour of the day of sent_at, with its fraction, 0 to 24"),
    Column("price_usd", "USD/h", "spot price of an instance when requested", _UNKNOWN),
    Column("on_demand_usd", "USD/h", "on-demand price of an instance", _UNKNOWN),
    Column("price_share", "ratio", "price_usd / on_demand_usd", _UNKNOWN),
    Column("sps", "score", "spot placement score for n instances, higher is better", _UNKNOWN),
    Column("sps_at", "UTC time", "when the placement score was asked for", "empty with sps"),
    Column("if_score", "score", "3.0 few interruptions ... 1.0 many (SpotLake's IF)", _UNKNOWN),
    Column("if_at", "UTC time", "when the interruption score was taken", "empty with if_score"),
    Column("since_last_s", "s", "since our own last launch there", "NaN at the batch's first"),
)
COLUMNS: dict[str, tuple[Column, ...]] = {
    "training": (
        *_RUN_COLUMNS,
        Column("elapsed_s", "s", "time since the request call was sent; rows only where known"),
        Column("ready", "instances", "shown at the stage by a look answered by elapsed_s"),
        Column("ready_most", "instances", "that may have come by elapsed_s, between two looks"),
        Column("weight", "ratio", "1 / chance that the run was still watched (IPCW)"),
    ),
    "requests": (
        *_RUN_COLUMNS,
        Column("request_id", "name", "EC2's spot request", "empty where refused", "request"),
        Column("instance_id", "name", "the instance it got", "empty without one", "instance"),
        Column("zone_id", "name", "the zone the instance came in", "empty where it got none"),
        Column("lower_s", "s", "not at the stage until then, since the request was sent"),
        Column("upper_s", "s", "at the stage by then; inf where it was never shown there"),
        Column("event", "0 or 1", "1: came within (lower_s, upper_s]; 0: censored at lower_s"),
        Column("cause", "name", "the stage if it came; else the outcome, or unfinished"),
        Column("status_code", "name", "EC2's own word at the end", "empty while unfinished"),
        Column("watched_s", "s", "when the last look at it was sent"),
    ),
    "batches": (
        *_RUN_COLUMNS[:4],
        Column("started_at", "UTC time", "when the batch began"),
        Column("account", "name", "the AWS account", "empty where unknown", "account"),
        Column("rounds", "count", "rounds planned"),
        Column("every_s", "s", "from the start of one round to the next"),
        Column("poll_s", "s", "from one look to the next"),
        Column("phase_s", "s", "random start of the looks' schedule"),
    ),
}


def data_dictionary() -> pd.DataFrame:
    """One row a column of the exported tables: table, column, unit, meaning, missing."""
    rows = [
        (table, column.name, column.unit, column.meaning, column.missing)
        for table, columns in COLUMNS.items()
        for column in columns
    ]
    return pd.DataFrame(rows, columns=["table", "column", "unit", "meaning", "missing"])


def request_table(launches: pd.DataFrame, *, stage: Stage = Stage.READY) -> pd.DataFrame:
    """One row a request: the interval in which it came to ``stage``, or where it is censored.

    A request that came has ``event`` 1 and its bracket ``(lower_s, upper_s]``.  One that did not
    has ``event`` 0 and ``upper_s`` inf: until ``lower_s`` it certainly had not come.  That is
    the last look if it was still waiting (timed out, expired at the end we set, abandoned,
    terminated by a user, or still under way), and at least ``timeout_s`` if it can never come
    (refused for capacity or price, taken back, failed inside EC2).  What says nothing of the
    market is left out whole run by run; ``left_out`` counts it.

    Raises
    ------
    ValueError
        If there is nothing to learn from, or launches that are different variables are mixed.
    """
    found = launches[why_not(launches) == ""]
    _require_alike(found, stage)
    table = _describe_runs(found).assign(stage=stage.label)
    shown = table[f"{stage.label}_by_s"].notna()
    ended = ended_by_ec2(table) & ~shown
    by_user = table["outcome"].isin(COMPETING) & ~ended_by_ec2(table)
    waited_s = table["watched_s"].where(~ended, table[["watched_s", "timeout_s"]].max(axis=1))
    table["event"] = shown.astype("int64")
    table["lower_s"] = table[f"{stage.label}_after_s"].where(shown, waited_s)
    table["upper_s"] = table[f"{stage.label}_by_s"].fillna(np.inf)
    cause = table["outcome"].fillna("unfinished").mask(by_user, "stopped_by_user")
    table["cause"] = cause.mask(shown, stage.label)
    return table[names_of("requests")].reset_index(drop=True)


def training_table(
    launches: pd.DataFrame,
    *,
    stage: Stage = Stage.READY,
    step_s: float = 15.0,
    horizon_s: float | None = None,
) -> pd.DataFrame:
    """One row a run and elapsed time: what was known before, and how many had come to ``stage``.

    ``ready`` counts what looks had shown, so it lags the event by at most one look;
    ``ready_most`` bounds it from above.  A run whose requests have all come or can never come
    keeps its count to the end.  Where a run was no longer watched there is no row, and
    ``weight`` lets the runs that were stand in for it: inverse probability of censoring, by
    Kaplan and Meier over runs (Robins and Finkelstein, Biometrics 2000).

    ``horizon_s`` is the last elapsed time; default 95 % of the shortest timeout, since the last
    look of a run that times out comes a little before its timeout, and a grid that goes on to it
    would keep the fast runs and lose the slow ones.

    Raises
    ------
    ValueError
        As ``request_table``; or if ``horizon_s`` is shorter than a step.
    """
    requests = request_table(launches, stage=stage).sort_values(RUN, kind="stable")
    last_s = horizon_s or 0.95 * float(requests["timeout_s"].min())
    times_s = np.arange(step_s, last_s + 1e-9, step_s)
    if times_s.size == 0:
        raise ValueError(f"need 0 < step_s <= horizon_s, got {step_s=}, horizon_s={last_s:g}")
    first = np.flatnonzero(~requests.duplicated(RUN).to_numpy())
    ready, most, known = _count(requests, first, times_s)
    weight = _weights(requests, first, times_s)
    runs = requests.iloc[np.repeat(first, times_s.size)].assign(
        elapsed_s=np.tile(times_s, first.size),
        ready=ready.ravel(),
        ready_most=most.ravel(),
        weight=weight.ravel(),
    )
    return runs[known.ravel()][names_of("training")].reset_index(drop=True)


def left_out(launches: pd.DataFrame) -> pd.DataFrame:
    """What the tables leave out: reason, runs and requests; empty where nothing is."""
    reasons = why_not(launches)
    told = launches.assign(reason=reasons)[reasons != ""]
    runs = told.drop_duplicates(RUN).groupby("reason").size()
    counts = {"runs": runs, "requests": told.groupby("reason").size()}
    return pd.DataFrame(counts, dtype="int64").rename_axis("reason").reset_index()


def _require_alike(launches: pd.DataFrame, stage: Stage) -> None:
    if launches.empty:
        raise ValueError("there is no launch to learn from: run 02_collect first")
    for name in SAME_VARIABLE:
        found = sorted(map(str, launches[name].unique()))
        if len(found) > 1:
            raise ValueError(f"launches of different {name} are never pooled, got {found}")
    wanted = Stage[str(launches["wanted"].iloc[0]).upper()]
    if stage > wanted:
        raise ValueError(
            f"{stage.label} was not watched for: these launches ended at {wanted.label}"
        )


def _describe_runs(launches: pd.DataFrame) -> pd.DataFrame:
    clock = launches["sent_at"].dt
    return launches.assign(
        simulated=launches["simulated"].astype(bool),
        **{name: launches[name].astype("int64") for name in ("round", "plan", "n")},
        sps=launches["sps"].astype("float64"),
        hour_utc=clock.hour + clock.minute / 60 + clock.second / 3600,
        price_share=launches["price_usd"] / launches["on_demand_usd"],
    )


def names_of(table: str) -> list[str]:
    """The columns of an exported table, in order."""
    return [column.name for column in COLUMNS[table]]


def _count(
    requests: pd.DataFrame, first: NDArray[np.intp], times_s: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Ready, at most ready, and whether that is known: each (runs, times)."""
    lower, upper = (requests[[name]].to_numpy() for name in ("lower_s", "upper_s"))
    came = requests[["event"]].to_numpy() == 1
    ready = np.add.reduceat((upper <= times_s).astype(np.int64), first)
    most = np.add.reduceat((came & (lower < times_s)).astype(np.int64), first)
    return ready, most, np.logical_and.reduceat(came | _never(requests) | (lower >= times_s), first)


def _never(requests: pd.DataFrame) -> NDArray[np.bool_]:
    never: NDArray[np.bool_] = requests[["cause"]].isin(COMPETING).to_numpy()
    return never


def _weights(requests: pd.DataFrame, first: NDArray[np.intp], times_s: Floats) -> Floats:
    """1 / P(watched until min(t, the run's last event)), (runs, times)."""
    lower, upper = (requests[name].to_numpy() for name in ("lower_s", "upper_s"))
    open_ = (requests["event"].to_numpy() == 0) & ~_never(requests)[:, 0]
    until = np.minimum.reduceat(np.where(open_, lower, np.inf), first)
    came = np.where(np.isfinite(upper), upper, 0.0)
    done = np.where(np.isinf(until), np.maximum.reduceat(came, first), np.inf)
    lost = until < times_s[-1]
    if not lost.any():
        return np.ones((first.size, times_s.size))
    ends = np.minimum(np.minimum(until, done), times_s[-1])
    watched = stats.ecdf(stats.CensoredData.right_censored(ends, ~lost)).sf
    asked = np.minimum(times_s, done[:, None])
    return np.asarray(1.0 / np.maximum(watched.evaluate(np.nextafter(asked, 0.0)), 1e-9))


def run_count(table: pd.DataFrame) -> int:
    """How many runs stand in a table: the sample size, whatever its number of rows."""
    return len(table.drop_duplicates(RUN))

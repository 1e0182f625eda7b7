"""Tables out of the logs: batches, launches and polls.

Tables are derived from the logs whenever they are wanted and are stored nowhere.  Logs that are
still being written are read too.  Nothing is estimated here.

``load_*`` refuse a file that cannot be read.  ``load_readable`` names it and reads the others.

Many logs are read in parts of some megabytes, each in one pass, here or on an executor.  What is
the same for all rows of a run, or of a poll, is kept once until the rows are joined.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET
from msgspec.structs import asdict
from numpy.typing import NDArray

from spotlib.model import Outcome, Stage, failure_kind, image_family
from spotlib.processes import each_of
from spotlib.record.events import BatchEvent, Features, OutcomeEvent, StageEvent
from spotlib.record.folder import Fault, Logs, Paths, find_logs
from spotlib.record.replay import RecordedBatch, RecordedRequest, RecordedRun, replay

_PLACE = ("simulated", "world", "endpoint", "batch_id")
_PLAN = (
    *("round", "plan", "instance_type", "region", "availability_zone_id", "placement"),
    *("method", "purchase", "wanted", "n", "timeout_s"),
)
_FEATURES = Features.__struct_fields__
_STAGES = tuple(stage.label for stage in Stage)
_BRACKETS = tuple(f"{stage}_{end}_s" for stage in _STAGES for end in ("after", "by"))
BATCH_COLUMNS = (
    *_PLACE,
    *("started_at", "account", "profile", "rounds", "every_s", "poll_s", "phase_s", "seed"),
    *("plans", "requests", "ended", "clean", "torn"),
    *("spotlib_version", "python_version", "botocore_version"),
)
LAUNCH_COLUMNS = (
    *_PLACE,
    *_PLAN,
    *("request_id", "instance_id", "zone_id", "image", "image_family", "max_price_usd", "sent_at"),
    *("outcome", "status_code", "instance_reason", "instance_message", "kind", "watched_s"),
    *_BRACKETS,
    *("impaired_after_s", "impaired_by_s", "refused_after_s", "refused_by_s"),
    *("held_after_s", "held_by_s"),
    *("usable_watched_s", "guest_uptime_s", "guest_at", "guest_synchronised"),
    *("created_at", "fulfilled_at", "launched_at"),
    *_FEATURES,
)
POLL_COLUMNS = (*_PLACE, *_PLAN, "poll", "asked_s", "answered_s", "at", *_STAGES, "error")
_POLL = ("poll", "asked_s", "answered_s", "at", "error")  # what is the same for all plans of a poll
_RUN = (
    *_PLACE,
    *_PLAN,
    "image",
    "image_family",
    "max_price_usd",
    "sent_at",
    *_FEATURES,
)  # for all of its requests
_REQUEST = tuple(name for name in LAUNCH_COLUMNS if name not in _RUN)
_COUNTS = ("of_poll", "of_run", *_STAGES)
_WHOLE = {
    *("round", "plan", "n", "poll", *_STAGES),
    *("rounds", "plans", "requests", "ended", "seed", "sps", "t3"),
}
_WORTH_PARTS = 4  # reading so many takes longer than starting processes
_YES_OR_NO = {"simulated", "torn", "clean", "guest_synchronised"}
_RunsAndRequests = tuple[pd.DataFrame, NDArray[np.intp], pd.DataFrame]  # and the run of each


def load_batches(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read batches from event logs.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per batch
        What ran, where, and ``clean``: whether it is confirmed that nothing is left (missing
        while the batch has no end).  ``torn`` says that the log's last line is not whole.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_batches
    >>> load_batches("results/launches")[["simulated", "rounds", "requests", "ended", "clean"]]
       simulated  rounds  requests  ended  clean
    0       True       1         2      2   True
    """
    (batches,) = _load(_Batches, paths=paths, polls=False, executor=executor)
    return _concatenated(batches)


def load_launches(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read launches from event logs: every request, its brackets, its outcome, its features.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per request
        ``<stage>_after_s`` and ``<stage>_by_s`` are the bracket of a stage, in seconds since the
        plan's request call was sent.  A stage never shown has NaN brackets and is right-censored
        at ``watched_s``.  A refused call has its ``n`` rows without a request id.  A request that
        is under way, or whose writer died, has no outcome yet.

        ``instance_reason`` and ``instance_message`` are EC2's StateReason of an instance that
        ended while it was watched.  ``kind`` says what a refusal is about, or a failure that is
        the account's own.  ``impaired_*`` is the bracket of the first failed status check.
        ``refused_*`` is the bracket of a refusal: from the request call to its answer.
        ``granted_*`` is known of probes only, and so is ``held_*``: when EC2 was first seen to
        hold the request.
        ``usable_*`` is the bracket of the guest's own stamp, where plans record it, and ``guest_*``
        what the stamp says.  Without a stamp it is censored at ``usable_watched_s``: a request that
        ran may have been usable unseen, unless its whole console was read after its end.
        ``image_family`` is what all releases of an Amazon Linux share, or the image's own id.
        ``price_usd`` is the spot price and ``on_demand_usd`` the on-demand price, whatever was
        bought: ``purchase`` says which of them was to be paid.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_launches
    >>> launches = load_launches("results/launches")
    >>> launches[["instance_type", "region", "outcome"]]
      instance_type     region outcome
    0       t3.nano  sa-east-1   ready
    1       t3.nano  sa-east-1   ready
    >>> bool((launches["ready_after_s"] < launches["ready_by_s"]).all())
    True
    """
    (launches,) = _load(_Launches, paths=paths, polls=False, executor=executor)
    return _launches(launches)


def load_polls(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read polls from event logs: how many requests of each run were at each stage, and when.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per poll and plan
        ``asked_s`` and ``answered_s`` are seconds since the plan's request call was sent,
        ``poll`` the number of the poll in the batch's schedule.  A missed poll has no counts, and
        ``error`` says why.  ``granted`` is counted for probes only, ``usable`` where it is
        recorded.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_polls
    >>> polls = load_polls("results/launches")
    >>> polls[["accepted", "ready"]].iloc[[0, -1]].to_dict("list")
    {'accepted': [2, 2], 'ready': [0, 2]}
    """
    (polls,) = _load(_Polls, paths=paths, executor=executor)
    return Polled.joined(polls).table()


@dataclass(frozen=True)
class Polled:
    """Polls as they are kept until somebody wants the rows of some runs: they are many.

    ``runs`` has one row per run, ``polls`` one per poll, and ``counts`` one per poll and run, with
    the places of both; a count is -1 where the poll failed.
    """

    runs: pd.DataFrame
    polls: pd.DataFrame
    counts: pd.DataFrame

    @classmethod
    def joined(cls, parts: Sequence["Polled"]) -> "Polled":
        """The polls of all parts."""
        counts, polls, runs = [], 0, 0
        for part in parts:
            places = {
                "of_poll": part.counts["of_poll"] + polls,
                "of_run": part.counts["of_run"] + runs,
            }
            counts.append(part.counts.assign(**places))
            polls, runs = polls + len(part.polls), runs + len(part.runs)
        return cls(
            _concatenated([part.runs for part in parts]),
            _concatenated([part.polls for part in parts]),
            pd.concat(counts, ignore_index=True),
        )

    def of(self, kept: "pd.Series[bool]") -> "Polled":
        """The polls of the runs for which ``kept`` is true, one value per row of ``runs``."""
        return replace(self, counts=self.counts[kept.to_numpy()[self.counts["of_run"]]])

    def made(self) -> pd.DataFrame:
        """One row per poll: ``batch_id``, ``round``, ``region``, ``poll``, ``error``."""
        first = self.counts.drop_duplicates("of_poll")
        run = self.runs[["batch_id", "round", "region"]].astype(
            {"batch_id": "category", "region": "category"}
        )
        run = run.take(first["of_run"].to_numpy())
        poll = self.polls[["poll", "error"]].take(first["of_poll"].to_numpy())
        return pd.concat([run.reset_index(drop=True), poll.reset_index(drop=True)], axis=1)

    def table(self) -> pd.DataFrame:
        """One row per poll and run, as from ``load_polls``."""
        rows = self.runs.take(self.counts["of_run"].to_numpy()).reset_index(drop=True)
        polled = self.polls.take(self.counts["of_poll"].to_numpy()).reset_index(drop=True)
        sent_s = rows.pop("sent_s")
        polled[["asked_s", "answered_s"]] = polled[["asked_s", "answered_s"]].sub(sent_s, axis=0)
        counts = {name: _whole(self.counts[name].to_numpy()) for name in _STAGES}
        return pd.concat([rows, polled.assign(**counts)], axis=1)[list(POLL_COLUMNS)]


@dataclass(frozen=True)
class Readable:
    """What the logs that can be read say, and of every other file a sentence.

    ``launches`` and ``batches`` are as from ``load_launches`` and ``load_batches``; ``polled`` has
    what ``load_polls`` shows.  ``faults`` cannot be read, ``notes`` are of copies and hidden files.
    """

    launches: pd.DataFrame
    batches: pd.DataFrame
    polled: Polled
    faults: list[Fault]
    notes: list[str]


def load_readable(paths: Paths, *, executor: Executor | None = None) -> Readable:
    """Read every log that can be read whole, also its polls; no damaged one hides the others.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    """
    found = find_logs(paths)
    batches, launches, polls = _read(found, (_Batches, _Launches, _Polls), executor=executor)
    return Readable(
        launches=_launches(launches),
        batches=_concatenated(batches),
        polled=Polled.joined(polls),
        faults=found.faults,
        notes=found.notes,
    )


def _load(
    *kinds: "type[_Rows]", paths: Paths, polls: bool = True, executor: Executor | None
) -> list[list[Any]]:
    """Read the logs; refuse what cannot be read, and warn of copies."""
    found = find_logs(paths)
    for words in found.notes:
        warnings.warn(words, stacklevel=3)
    found.require()
    tables = _read(found, kinds, polls=polls, executor=executor)
    found.require()
    return tables


def _read(
    found: Logs,
    kinds: "Sequence[type[_Rows]]",
    *,
    polls: bool = True,
    executor: Executor | None,
) -> list[list[Any]]:
    """Read the logs in parts; of each kind, the tables of all parts."""
    parts = list(found.parts())
    work = partial(_read_part, kinds=kinds, polls=polls)
    tables: list[list[Any]] = [[] for _ in kinds]
    worth = len(parts) >= _WORTH_PARTS
    for made, faults in each_of(work, parts, executor=executor, worth_processes=worth):
        found.faults += faults
        for table, each in zip(tables, made, strict=True):
            table.append(each)
    return tables


def _read_part(
    part: Logs, *, kinds: "Sequence[type[_Rows]]", polls: bool
) -> tuple[list[Any], list[Fault]]:
    made = [kind() for kind in kinds]
    for record in part.read(polls=polls):
        for each in made:
            each.add(record)
    return [each.table() for each in made], part.faults


def _table(rows: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name == "at" or name.endswith("_at"):
            table[name] = pd.to_datetime(table[name], utc=True)
        elif name in _WHOLE:
            table[name] = table[name].astype("Int64")
        elif name.endswith(("_s", "_usd")) or name == "if_score":
            table[name] = table[name].astype("float64")
        elif name in _YES_OR_NO:
            table[name] = table[name].astype("boolean")
        elif table[name].isna().all():
            table[name] = table[name].astype("object")
        elif pd.api.types.is_numeric_dtype(table[name]):
            table[name] = table[name].astype("float64")
        else:
            table[name] = table[name].astype("str")
    return table


def _concatenated(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of all parts, each as from ``_table``: a column is text if it is in any part."""
    table = pd.concat(parts, ignore_index=True)
    for name in table.columns[table.dtypes == "object"]:
        if table[name].notna().any():
            table[name] = table[name].astype("str")
    return table


def _launches(parts: Sequence[_RunsAndRequests]) -> pd.DataFrame:
    """One row per request, with what is the same for all requests of its run."""
    runs, places, requests = zip(*parts, strict=True)
    before = np.cumsum([0, *map(len, runs)])
    of_run = np.concatenate([each + more for each, more in zip(places, before, strict=False)])
    known = _concatenated(runs).take(of_run).reset_index(drop=True)
    return pd.concat([known, _concatenated(requests)], axis=1)[list(LAUNCH_COLUMNS)]


def _whole(numbers: NDArray[np.integer[Any]]) -> pd.arrays.IntegerArray:
    """Whole numbers with -1 for what is missing, as the tables show them."""
    return pd.arrays.IntegerArray(numbers.astype(np.int64), numbers < 0)


def _place(batch: BatchEvent) -> dict[str, Any]:
    """Where it ran.  Another market of the sandbox is another endpoint: never pooled."""
    endpoint = f"{batch.endpoint}/{batch.market}" if batch.market else batch.endpoint
    return {name: getattr(batch, name) for name in _PLACE} | {"endpoint": endpoint}


class _Rows:
    """The rows of some logs, collected log by log."""

    def add(self, record: RecordedBatch) -> None:
        """Add what a log says."""
        raise NotImplementedError

    def table(self) -> Any:
        """What was collected, so small that it can be handed from process to process."""
        raise NotImplementedError


class _Batches(_Rows):
    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, record: RecordedBatch) -> None:
        self._rows.append(
            {
                **asdict(record.batch),
                **_place(record.batch),
                "plans": len(record.runs),
                "requests": len(record.requests),
                "ended": sum(each.outcome is not None for each in record.requests.values()),
                "clean": record.clean and record.clean.confirmed,
                "torn": record.torn,
                "spotlib_version": record.batch.host.spotlib,
                "python_version": record.batch.host.python,
                "botocore_version": record.batch.host.botocore,
            }
        )

    def table(self) -> pd.DataFrame:
        return _table(self._rows, BATCH_COLUMNS)


class _Launches(_Rows):
    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._of_run: list[int] = []  # of each request
        self._requests: list[dict[str, Any]] = []

    def add(self, record: RecordedBatch) -> None:
        if not record.polls and any(each.outcome is None for each in record.requests.values()):
            # Its last complete poll censors a request without an outcome.
            record = replay(record.path) or record
        place = _place(record.batch)
        places: dict[tuple[int, int], int] = {}
        for run in record.runs.values():
            if answer := run.requested or run.refused:
                places[run.key] = len(self._runs)
                self._runs.append(_known_before(place, run) | {"sent_at": answer.at})
        for run in record.refused:
            rows = _refused_rows(run)
            self._of_run += [places[run.key]] * len(rows)
            self._requests += rows
        self._of_run += [places[each.run.key] for each in record.requests.values()]
        self._requests += map(_request_row, record.requests.values())

    def table(self) -> _RunsAndRequests:
        runs, requests = _table(self._runs, _RUN), _table(self._requests, _REQUEST)
        return runs, np.array(self._of_run, dtype=np.intp), requests


class _Polls(_Rows):
    _seen = attrgetter(*_STAGES)
    _optional = tuple(  # with its place from the end of the row
        (stage.label, _STAGES.index(stage.label) - len(_STAGES))
        for stage in (Stage.GRANTED, Stage.USABLE)
    )

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._polls: list[tuple[Any, ...]] = []
        self._counts: list[int] = []  # flat: one object less per poll and run

    def add(self, record: RecordedBatch) -> None:
        place = _place(record.batch)
        places = {key: len(self._runs) + number for number, key in enumerate(record.runs)}
        for run in record.runs.values():
            sent_s = run.requested.asked_s if run.requested else None
            self._runs.append({**place, **_plan(run), "sent_s": sent_s})
        for poll in record.polls:
            for plan, seen in poll.plans.items():
                self._counts += (len(self._polls), places[poll.round, plan])
                self._counts += (-1,) * len(_STAGES) if seen is None else _Polls._seen(seen)
                for name, from_end in _Polls._optional if seen is not None else ():
                    if getattr(seen, name) is UNSET:
                        self._counts[from_end] = -1
            self._polls.append((poll.number, poll.asked_s, poll.answered_s, poll.at, poll.error))

    def table(self) -> Polled:
        counts = np.array(self._counts, dtype=np.int32).reshape(-1, len(_COUNTS))
        return Polled(
            runs=_table(self._runs, (*_PLACE, *_PLAN, "sent_s")),
            polls=_table(self._polls, _POLL),
            counts=pd.DataFrame(counts, columns=list(_COUNTS)),
        )


def _plan(run: RecordedRun) -> dict[str, Any]:
    return {name: getattr(run.intent, name) for name in _PLAN}


def _known_before(place: dict[str, Any], run: RecordedRun) -> dict[str, Any]:
    intent = run.intent
    more = {
        "image": intent.image,
        "image_family": image_family(intent.image, intent.image_name, intent.image_owner),
        "max_price_usd": intent.max_price_usd,
    }
    return {**place, **_plan(run), **asdict(intent.features), **more}


def _refused_rows(run: RecordedRun) -> list[dict[str, Any]]:
    """One row per instance that was refused: all of the run, or those that others came without."""
    answer, lacking = run.refused or run.requested, run.requested and run.requested.lacking
    why, count = (lacking, lacking.count) if lacking else (run.refused, run.intent.n)
    assert answer is not None
    assert why is not None
    row = {
        "outcome": Outcome.REFUSED,
        "status_code": why.code,
        "kind": why.kind,
        "watched_s": 0.0,
        "refused_by_s": _minus(answer.answered_s, answer.asked_s),
    }
    row["refused_after_s"] = None if row["refused_by_s"] is None else 0.0
    row["usable_watched_s"] = 0.0 if run.intent.usable else None
    return [row] * count


def _request_row(request: RecordedRequest) -> dict[str, Any]:
    requested, sent_s = request.run.requested, request.sent_s
    assert requested is not None
    row = {
        "request_id": request.request_id,
        "accepted_after_s": 0.0,
        "accepted_by_s": _minus(requested.answered_s, sent_s),
        "watched_s": request.watched_s - sent_s,
    }
    for event in request.stages:
        _add_stage(row, event, sent_s)
    if request.run.intent.usable and "usable_by_s" not in row:
        row["usable_watched_s"] = _not_usable_until_s(request, row)
    if request.impaired is not None:
        row["impaired_after_s"] = request.impaired.after_s - sent_s
        row["impaired_by_s"] = request.impaired.by_s - sent_s
    if request.outcome is not None:
        row |= _ending(request.outcome) | _hold(request.outcome, sent_s)
    return row


def _not_usable_until_s(request: RecordedRequest, row: dict[str, Any]) -> float:
    """Until when a request without a stamp was certainly not usable."""
    read = request.console
    if read is not None and read.last and read.posted and read.error is None:
        return float(row["watched_s"])
    return float(min(row.get("running_after_s", row["watched_s"]), row["watched_s"]))


def _ending(event: OutcomeEvent) -> dict[str, Any]:
    failed = event.outcome is Outcome.FAILED
    return {
        "outcome": event.outcome,
        "status_code": event.status_code or None,
        "instance_reason": event.instance_reason,
        "instance_message": event.instance_message,
        "kind": failure_kind(event.status_code, event.instance_reason) if failed else None,
    }


def _hold(event: OutcomeEvent, sent_s: float) -> dict[str, float]:
    """When EC2 was first seen to hold a request, if that ended it."""
    ends = {"held_after_s": event.held_after_s, "held_by_s": event.held_by_s}
    return {name: end - sent_s for name, end in ends.items() if end is not UNSET}


def _minus(moment_s: float | None, sent_s: float) -> float | None:
    return None if moment_s is None else moment_s - sent_s


def _add_stage(row: dict[str, Any], event: StageEvent, sent_s: float) -> None:
    row[f"{event.stage}_after_s"] = event.after_s - sent_s
    row[f"{event.stage}_by_s"] = event.by_s - sent_s
    row["instance_id"] = event.instance_id
    row["zone_id"] = event.availability_zone_id
    row["created_at"] = event.created_at
    if event.stage == Stage.FULFILLED.label:  # EC2 overwrites this time at the next status change
        row["fulfilled_at"] = event.status_updated_at
    row["launched_at"] = event.launched_at or row.get("launched_at")
    if event.stamp is not UNSET:
        row["guest_uptime_s"] = event.stamp.uptime_s
        row["guest_at"] = event.stamp.clock_at
        row["guest_synchronised"] = event.stamp.synchronised

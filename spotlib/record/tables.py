"""Tables out of the logs: batches, launches and polls.

Tables are derived from the logs whenever they are wanted and are stored nowhere.  Logs that are
still being written are read too.  Nothing is estimated here.

``load_*`` refuse a file that cannot be read.  ``load_readable`` names it and reads the others.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from msgspec.structs import asdict

from spotlib.model import Outcome, Stage, failure_kind
from spotlib.record.events import BatchEvent, Features, IntentEvent, OutcomeEvent, StageEvent
from spotlib.record.folder import Fault, Paths, find_logs
from spotlib.record.replay import RecordedBatch, RecordedRequest, RecordedRun, replay

_PLACE = ("simulated", "world", "endpoint", "batch_id")
_PLAN = (
    *("round", "plan", "instance_type", "region", "availability_zone_id", "placement"),
    *("method", "wanted", "n", "timeout_s"),
)
_FEATURES = Features.__struct_fields__
_STAGES = tuple(stage.label for stage in Stage)
_BRACKETS = tuple(f"{stage}_{end}_s" for stage in _STAGES for end in ("after", "by"))
BATCH_COLUMNS = (
    *_PLACE,
    *("started_at", "account", "profile", "rounds", "every_s", "poll_s", "phase_s", "seed"),
    *("plans", "requests", "ended", "clean", "torn"),
)
LAUNCH_COLUMNS = (
    *_PLACE,
    *_PLAN,
    *("request_id", "instance_id", "zone_id", "image", "max_price_usd", "sent_at"),
    *("outcome", "status_code", "instance_reason", "instance_message", "kind", "watched_s"),
    *_BRACKETS,
    *("impaired_after_s", "impaired_by_s"),
    *("created_at", "fulfilled_at", "launched_at"),
    *_FEATURES,
)
POLL_COLUMNS = (*_PLACE, *_PLAN, "poll", "asked_s", "answered_s", "at", *_STAGES, "error")
_POLL = ("poll", "asked_s", "answered_s", "at", "error")  # what is the same for all plans of a poll
_WHOLE = {
    *("round", "plan", "n", "poll", *_STAGES),
    *("rounds", "plans", "requests", "ended", "seed", "sps", "t3"),
}
_YES_OR_NO = {"simulated", "torn", "clean"}


def load_batches(paths: Paths) -> pd.DataFrame:
    """Read batches from event logs.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.

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
    rows = [_batch_row(record) for record in _records(paths, polls=False)]
    return _table(rows, BATCH_COLUMNS)


def load_launches(paths: Paths) -> pd.DataFrame:
    """Read launches from event logs: every request, its brackets, its outcome, its features.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.

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
    rows = [row for record in _records(paths, polls=False) for row in _launch_rows(record)]
    return _table(rows, LAUNCH_COLUMNS)


def load_polls(paths: Paths) -> pd.DataFrame:
    """Read polls from event logs: how many requests of each run were at each stage, and when.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.

    Returns
    -------
    DataFrame, one row per poll and plan
        ``asked_s`` and ``answered_s`` are seconds since the plan's request call was sent,
        ``poll`` the number of the poll in the batch's schedule.  A missed poll has no counts, and
        ``error`` says why.

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
    plans: list[dict[str, Any]] = []
    polls: list[tuple[Any, ...]] = []
    counts: list[tuple[Any, ...]] = []
    for record in _records(paths):
        _add_polls(record, plans, polls, counts)
    return _polls(plans, polls, counts)


@dataclass(frozen=True)
class Readable:
    """What the logs that can be read say, and of every other file a sentence.

    ``launches`` and ``batches`` are as from ``load_launches`` and ``load_batches``; ``logs`` has
    the file of each batch.  ``faults`` cannot be read, ``notes`` are of copies and hidden files.
    """

    launches: pd.DataFrame
    batches: pd.DataFrame
    logs: dict[str, Path]
    faults: list[Fault]
    notes: list[str]


def load_readable(paths: Paths) -> Readable:
    """Read every log that can be read whole, also its polls; no damaged one hides the others.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    """
    found = find_logs(paths)
    logs: dict[str, Path] = {}
    batches: list[dict[str, Any]] = []
    launches: list[dict[str, Any]] = []
    for record in found.read():
        logs[record.batch.batch_id] = record.path
        batches.append(_batch_row(record))
        launches += _launch_rows(record)
    return Readable(
        launches=_table(launches, LAUNCH_COLUMNS),
        batches=_table(batches, BATCH_COLUMNS),
        logs=logs,
        faults=found.faults,
        notes=found.notes,
    )


def _records(paths: Paths, *, polls: bool = True) -> Iterator[RecordedBatch]:
    """Read the logs; refuse what cannot be read, and warn of copies."""
    found = find_logs(paths)
    for words in found.notes:
        warnings.warn(words, stacklevel=3)
    found.require()
    for record in found.read(polls=polls):
        found.require()
        yield record
    found.require()


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


def _place(batch: BatchEvent) -> dict[str, Any]:
    """Where it ran.  Another market of the sandbox is another endpoint: never pooled."""
    endpoint = f"{batch.endpoint}/{batch.market}" if batch.market else batch.endpoint
    return {name: getattr(batch, name) for name in _PLACE} | {"endpoint": endpoint}


def _plan(intent: IntentEvent) -> dict[str, Any]:
    return {name: getattr(intent, name) for name in _PLAN}


def _batch_row(record: RecordedBatch) -> dict[str, Any]:
    return {
        **asdict(record.batch),
        **_place(record.batch),
        "plans": len(record.runs),
        "requests": len(record.requests),
        "ended": sum(each.outcome is not None for each in record.requests.values()),
        "clean": record.clean and record.clean.confirmed,
        "torn": record.torn,
    }


def _launch_rows(record: RecordedBatch) -> Iterator[dict[str, Any]]:
    if not record.polls and any(each.outcome is None for each in record.requests.values()):
        # Its last complete poll censors a request without an outcome.
        record = replay(record.path) or record
    place = _place(record.batch)
    for run in record.refused:
        yield from _refused_rows(place, run)
    for request in record.requests.values():
        yield _request_row(place, request)


def _known_before(place: dict[str, Any], run: RecordedRun) -> dict[str, Any]:
    intent = run.intent
    image = {"image": intent.image, "max_price_usd": intent.max_price_usd}
    return {**place, **_plan(intent), **asdict(intent.features), **image}


def _refused_rows(place: dict[str, Any], run: RecordedRun) -> Iterator[dict[str, Any]]:
    assert run.refused is not None
    row = _known_before(place, run) | {
        "sent_at": run.refused.at,
        "outcome": Outcome.REFUSED,
        "status_code": run.refused.code,
        "kind": run.refused.kind,
        "watched_s": 0.0,
    }
    yield from (dict(row) for _ in range(run.intent.n))


def _request_row(place: dict[str, Any], request: RecordedRequest) -> dict[str, Any]:
    requested, sent_s = request.run.requested, request.sent_s
    assert requested is not None
    row = _known_before(place, request.run) | {
        "request_id": request.request_id,
        "sent_at": requested.at,
        "accepted_after_s": 0.0,
        "accepted_by_s": _minus(requested.answered_s, sent_s),
        "watched_s": request.watched_s - sent_s,
    }
    for event in request.stages:
        _add_stage(row, event, sent_s)
    if request.impaired is not None:
        row["impaired_after_s"] = request.impaired.after_s - sent_s
        row["impaired_by_s"] = request.impaired.by_s - sent_s
    if request.outcome is not None:
        row |= _ending(request.outcome)
    return row


def _ending(event: OutcomeEvent) -> dict[str, Any]:
    failed = event.outcome is Outcome.FAILED
    return {
        "outcome": event.outcome,
        "status_code": event.status_code,
        "instance_reason": event.instance_reason,
        "instance_message": event.instance_message,
        "kind": failure_kind(event.status_code, event.instance_reason) if failed else None,
    }


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


def _add_polls(
    record: RecordedBatch,
    plans: list[dict[str, Any]],
    polls: list[tuple[Any, ...]],
    counts: list[tuple[Any, ...]],
) -> None:
    """Add a log's plans, its polls, and the counts of each plan in each poll, by their places."""
    place = _place(record.batch)
    places = {key: len(plans) + number for number, key in enumerate(record.runs)}
    for run in record.runs.values():
        sent_s = run.requested.asked_s if run.requested else None
        plans.append({**place, **_plan(run.intent), "sent_s": sent_s})
    for poll in record.polls:
        for plan, seen in poll.plans.items():
            row = [getattr(seen, stage, None) for stage in _STAGES]
            counts.append((len(polls), places[poll.round, plan], *row))
        polls.append((poll.number, poll.asked_s, poll.answered_s, poll.at, poll.error))


def _polls(
    plans: list[dict[str, Any]], polls: list[tuple[Any, ...]], counts: list[tuple[Any, ...]]
) -> pd.DataFrame:
    """Join each row from its plan, its poll and its counts, so nothing is built twice."""
    which = pd.DataFrame(counts, columns=["of_poll", "of_plan", *_STAGES])
    about = _table(plans, (*_PLACE, *_PLAN, "sent_s"))
    seen = _table(polls, _POLL)
    rows = about.take(which.pop("of_plan").to_numpy()).reset_index(drop=True)
    polled = seen.take(which.pop("of_poll").to_numpy()).reset_index(drop=True)
    sent_s = rows.pop("sent_s")
    polled[["asked_s", "answered_s"]] = polled[["asked_s", "answered_s"]].sub(sent_s, axis=0)
    return pd.concat([rows, polled, which.astype("Int64")], axis=1)[list(POLL_COLUMNS)]

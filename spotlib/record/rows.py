"""Events become rows: batches, and launches whose shared values are kept once per run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from msgspec import UNSET
from msgspec.structs import asdict
from numpy.typing import NDArray

from spotlib.model import Outcome, Stage, image_family
from spotlib.record.columns import (
    BATCH_COLUMNS,
    EACH_REQUEST,
    EACH_RUN,
    LAUNCH_COLUMNS,
    PLACE,
    PLAN,
    TOLD,
    WARNED,
    concatenated,
    typed,
)
from spotlib.record.events import BatchEvent, OutcomeEvent, StageEvent
from spotlib.record.replay import RecordedBatch, RecordedRequest, RecordedRun, replay
from spotlib.track import failure_kind

RunsAndRequests = tuple[pd.DataFrame, NDArray[np.intp], pd.DataFrame]  # and the run of each


class Batches:
    """The rows of the batches' table, collected log by log."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def add(self, record: RecordedBatch) -> None:
        self._rows.append(
            {
                **asdict(record.batch),
                **place_of(record.batch),
                "plans": len(record.runs),
                "rounds_done": record.rounds_done,
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
        return typed(self._rows, BATCH_COLUMNS)


class Launches:
    """The rows of the launches' table, collected log by log, and apart from them their runs."""

    def __init__(self) -> None:
        self._runs: list[dict[str, Any]] = []
        self._of_run: list[int] = []  # of each request
        self._requests: list[dict[str, Any]] = []

    def add(self, record: RecordedBatch) -> None:
        if not record.polls and any(each.outcome is None for each in record.requests.values()):
            # Its last complete poll censors a request without an outcome.
            record = replay(record.path) or record
        place = place_of(record.batch)
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

    def table(self) -> RunsAndRequests:
        runs, requests = typed(self._runs, EACH_RUN), typed(self._requests, EACH_REQUEST)
        return runs, np.array(self._of_run, dtype=np.intp), requests


def joined_launches(parts: Sequence[RunsAndRequests]) -> pd.DataFrame:
    """One row per request, with what is the same for all requests of its run."""
    runs, places, requests = zip(*parts, strict=True)
    before = np.cumsum([0, *map(len, runs)])
    of_run = np.concatenate([each + more for each, more in zip(places, before, strict=False)])
    known = concatenated(runs).take(of_run).reset_index(drop=True)
    return pd.concat([known, concatenated(requests)], axis=1)[list(LAUNCH_COLUMNS)]


def place_of(batch: BatchEvent) -> dict[str, Any]:
    """Where it ran.  Another market of the sandbox is another endpoint: never pooled."""
    endpoint = f"{batch.endpoint}/{batch.market}" if batch.market else batch.endpoint
    return {name: getattr(batch, name) for name in PLACE} | {"endpoint": endpoint}


def plan_of(run: RecordedRun) -> dict[str, Any]:
    """What was asked for."""
    return {name: getattr(run.intent, name) for name in PLAN}


def _known_before(place: dict[str, Any], run: RecordedRun) -> dict[str, Any]:
    intent = run.intent
    more = {
        "image": intent.image,
        "image_family": image_family(intent.image, intent.image_name, intent.image_owner),
        "max_price_usd": intent.max_price_usd,
    }
    return {**place, **plan_of(run), **asdict(intent.features), **more}


def _refused_rows(run: RecordedRun) -> list[dict[str, Any]]:
    """One row per instance that was refused: all of the run, or those that were not launched."""
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
    if request.notices:
        row |= _told(request, row)
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
    """The bracket in which EC2 was first seen to hold a request, if that ended it."""
    ends = {"held_after_s": event.held_after_s, "held_by_s": event.held_by_s}
    return {name: end - sent_s for name, end in ends.items() if end is not UNSET}


def _told(request: RecordedRequest, row: dict[str, Any]) -> dict[str, Any]:
    """What EC2's own events report, in addition to the polls.  Of copies the earliest counts."""
    first: dict[str, tuple[float, float]] = {}
    for each in sorted(request.notices, key=lambda each: -each.by_s):
        first[each.about] = each.after_s - request.sent_s, each.by_s - request.sent_s
    told = {f"{stage}_event": first[stage] for stage in TOLD if stage in first}
    told |= {about: first[about] for about in WARNED if about in first}
    clocks: dict[str, str] = {}
    for stage in TOLD:
        if stage in first and f"{stage}_by_s" in row:
            shown = row[f"{stage}_after_s"], row[f"{stage}_by_s"]
            both = max(shown[0], first[stage][0]), min(shown[1], first[stage][1])
            clocks[f"{stage}_clocks"] = "agree" if both[0] < both[1] else "contradict"
            told |= {f"{stage}_both": both} if both[0] < both[1] else {}
    ends = {f"{name}_after_s": after_s for name, (after_s, _) in told.items()}
    return ends | {f"{name}_by_s": by_s for name, (_, by_s) in told.items()} | clocks


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

"""Builds the events that the loop writes, from what it knows of a run and its requests."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import UNSET

from spotlib.collect.batch import Batch, Run
from spotlib.ec2.console import ConsoleRead
from spotlib.ec2.events import Notice
from spotlib.ec2.methods.method import Answer
from spotlib.ec2.poll import Poll
from spotlib.ec2.refusals import Refusal
from spotlib.model import Outcome, Stage
from spotlib.record.events import (
    ConsoleEvent,
    Features,
    GuestStamp,
    ImpairedEvent,
    IntentEvent,
    Lacking,
    NoticeEvent,
    OutcomeEvent,
    PollEvent,
    RefusedEvent,
    RequestedEvent,
    StageCounts,
    StageEvent,
)
from spotlib.stamp import Stamp
from spotlib.track import Bracket, Sighting, Track, count_stages


def intent_event(
    batch: Batch, run: Run, *, valid_until: datetime, features: Features, request: dict[str, Any]
) -> IntentEvent:
    """Build the event that is written before a request call."""
    plan, prepared, clock = run.plan, run.prepared, batch.connection.clock
    return IntentEvent(
        **_key(run),
        at_s=batch.since_s(clock.now_s()),
        at=clock.utc(),
        instance_type=plan.target.instance_type,
        region=plan.target.region,
        availability_zone_id=plan.target.availability_zone_id,
        placement=plan.target.placement,
        method=plan.method,
        purchase=plan.purchase,
        usable=plan.is_stamped,
        wanted=plan.wanted.label,
        n=plan.count,
        timeout_s=plan.timeout_s,
        max_price_usd=plan.max_price_usd,
        image=prepared.image,
        image_name=prepared.image_name,
        image_owner=prepared.image_owner,
        vcpus=prepared.vcpus,
        valid_until=valid_until,
        shutdown_after_min=prepared.shutdown_after_min,
        features=features,
        request=request,
    )


def answer_event(batch: Batch, run: Run, answer: Answer) -> RequestedEvent | RefusedEvent:
    """Build the event that says how a request call went."""
    call: dict[str, Any] = {
        **_key(run),
        "asked_s": batch.since_s(answer.asked_s),
        "answered_s": batch.since_s(answer.answered_s, up=True),
        "at": answer.asked_at,
        "attempts": answer.attempts,
    }
    if answer.refusal is not None:
        return RefusedEvent(**call, **_words(answer.refusal))
    rows, lacking = answer.given.rows, answer.given.lacking
    return RequestedEvent(
        **call,
        request_ids=rows,
        server_date=answer.server_date,
        lacking=_lacking(run.plan.count - len(rows), lacking) if lacking else UNSET,
    )


def _lacking(count: int, refusal: Refusal) -> Lacking:
    return Lacking(count=count, **_words(refusal) | {"code": refusal.code or None})


def _words(refusal: Refusal) -> dict[str, Any]:
    return {
        "code": refusal.code,
        "message": refusal.message,
        "kind": refusal.kind,
        "advice": refusal.advice,
    }


def poll_event(
    batch: Batch, runs: Sequence[Run], poll: Poll, *, round_number: int, number: int
) -> PollEvent:
    """Build the event of one poll of the runs that are watched in a region."""
    return PollEvent(
        round=round_number,
        number=number,
        region=poll.region,
        due_s=round(batch.due_s(number), 6),
        asked_s=batch.since_s(poll.asked_s),
        answered_s=batch.since_s(poll.answered_s, up=True),
        at=poll.asked_at,
        server_date=poll.server_date,
        calls=poll.calls,
        plans={run.index: None if poll.error else _counts(run) for run in runs},
        error=poll.error,
        seen=_instance_ids(poll) if poll.error else {},
    )


def _counts(run: Run) -> StageCounts:
    tracks = run.tracks.values()
    codes = Counter(each.sighting.status_code for each in tracks if each.sighting)
    counts = count_stages(tracks)
    stages: dict[str, int] = {stage.label: counts[stage] for stage in run.plan.stages}
    return StageCounts(**stages, codes=dict(sorted(codes.items())))


def _instance_ids(poll: Poll) -> dict[str, str]:
    """The ids that a failed poll saw: the clean-up may need them.  They prove no absence."""
    found = {each: sighting.instance_id for each, sighting in poll.sightings.items()}
    return {each: instance_id for each, instance_id in found.items() if instance_id}


def stage_event(
    run: Run, track: Track, stage: Stage, sighting: Sighting, stamp: Stamp | None = None
) -> StageEvent:
    """Build the event that a request was first shown at a stage, by its guest's stamp if given."""
    return StageEvent(
        **_key(run),
        request_id=track.request_id,
        stage=stage.label,
        after_s=track.brackets[stage].after_s,
        by_s=track.brackets[stage].by_s,
        instance_id=sighting.instance_id,
        availability_zone_id=sighting.availability_zone_id,
        status_code=sighting.status_code,
        created_at=sighting.created_at,
        status_updated_at=sighting.status_updated_at,
        launched_at=sighting.launched_at,
        stamp=UNSET if stamp is None else GuestStamp(**vars(stamp)),
    )


def console_event(
    batch: Batch, run: Run, row: str, read: ConsoleRead, *, last: bool
) -> ConsoleEvent:
    """Build the event of a read that showed no stamp."""
    return ConsoleEvent(
        **_key(run),
        request_id=row,
        instance_id=read.instance_id,
        asked_s=batch.since_s(read.asked_s),
        answered_s=batch.since_s(read.answered_s, up=True),
        posted=bool(read.output),
        last=last,
        error=read.error,
    )


def notice_event(
    run: Run, row: str, notice: Notice, *, read: Bracket, reached: Bracket
) -> NoticeEvent:
    """Build the event that records one of EC2's own events about a row."""
    return NoticeEvent(
        **_key(run),
        **vars(notice),
        request_id=row,
        asked_s=read.after_s,
        answered_s=read.by_s,
        after_s=reached.after_s,
        by_s=reached.by_s,
    )


def impaired_event(run: Run, track: Track, sighting: Sighting) -> ImpairedEvent:
    """Build the event that an instance was first shown with a failed status check."""
    assert track.impaired is not None
    return ImpairedEvent(
        **_key(run),
        request_id=track.request_id,
        after_s=track.impaired.after_s,
        by_s=track.impaired.by_s,
        instance_id=sighting.instance_id,
        status_code=sighting.status_code,
        checks=dict(sighting.checks or {}),
    )


def outcome_event(run: Run, track: Track) -> OutcomeEvent:
    """Build the event that a request ended."""
    assert track.outcome is not None
    sighting, held = track.sighting, track.held if track.outcome is Outcome.HELD else None
    return OutcomeEvent(
        **_key(run),
        request_id=track.request_id,
        outcome=track.outcome,
        status_code=sighting.status_code if sighting else None,
        status_message=sighting.status_message if sighting else None,
        instance_id=sighting.instance_id if sighting else None,
        instance_state=sighting.instance_state if sighting else None,
        instance_reason=sighting.instance_reason if sighting else None,
        instance_message=sighting.instance_message if sighting else None,
        watched_s=track.polled_s,
        held_after_s=held.after_s if held else UNSET,
        held_by_s=held.by_s if held else UNSET,
    )


def _key(run: Run) -> dict[str, Any]:
    return {"round": run.round, "plan": run.index}

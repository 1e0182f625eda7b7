"""Watch a wave of runs: send each, poll all on one schedule, end each when it is due.

The rules are in ``track``; this module applies them to EC2's answers and records everything.
"""

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import msgspec

from spotlib.cleanup.close import Released, release, release_event
from spotlib.collect.batch import Batch, Run
from spotlib.collect.cost import VALID_MARGIN_S
from spotlib.collect.events import note_events, read_due
from spotlib.collect.features import since_last_launch_s
from spotlib.collect.recording import (
    answer_event,
    console_event,
    impaired_event,
    intent_event,
    outcome_event,
    poll_event,
    stage_event,
)
from spotlib.collect.usable import stamped, unstamped
from spotlib.ec2.calls import TAG_BATCH, TAG_EXPIRES, TAG_PLAN, TAG_ROUND, tag_instances
from spotlib.ec2.console import ConsoleRead, read_console
from spotlib.ec2.methods.method import Answer, Given, Order, launch
from spotlib.ec2.poll import Known, Poll, See, poll
from spotlib.ec2.resource import Survey
from spotlib.ec2.survey import survey
from spotlib.model import Kind, Outcome, Stage, Target, is_instance_id
from spotlib.record.events import Features, SkippedEvent, TaggedEvent
from spotlib.stamp import Stamp
from spotlib.track import Bracket, Sighting, Track, advance, conclude, failure_kind

_LAST_READS_S = 20.0  # to read the consoles of ended instances: nothing waits for these reads
_LOOK_EVERY_S = 900.0  # several times before EC2 forgets anything, because a call may fail
_ADVICE = {
    Kind.PARAMETERS: "check image, type and zone",
    Kind.QUOTA: "see Service Quotas > EBS",
    Kind.ACCOUNT: "see who or what in the account ended it (a person, a tool, a key, a policy)",
}


def watch(batch: Batch, runs: Sequence[Run], features: Mapping[Target, Features]) -> None:
    """Send the runs and watch them until all have ended, or a stop is asked for.

    Requests are sent between polls; a poll that is due comes first.
    """
    unsent = deque(runs)
    batch.look_at_s = batch.now_s() + _LOOK_EVERY_S
    batch.next_poll = max(batch.next_poll, math.ceil(batch.polls_due()))
    while batch.stopping.by is None:
        if not all(run.ended for run in runs):
            read_due(batch)
        batch.land()
        _note_missed(batch, runs)
        _end_due(batch, runs)
        if all(run.ended for run in runs) and not batch.flying:
            return
        if batch.now_s() >= batch.due_s(batch.next_poll):
            _poll_regions(batch, runs)
        elif batch.now_s() >= batch.look_at_s:
            _look_what_is_over(batch)
        elif unsent:
            run = unsent.popleft()
            _send(batch, run, features[run.plan.target])
        else:
            due_s = min(batch.due_s(batch.next_poll), batch.look_at_s)
            due_s = min(due_s, batch.queues.next_s(batch.now_s()))
            batch.rest(min(due_s, _next_deadline_s(batch, runs)))


def _next_deadline_s(batch: Batch, runs: Sequence[Run]) -> float:
    deadlines = [run.deadline_s for run in runs if not run.ended]
    return max(min(deadlines, default=math.inf), batch.now_s())


def _send(batch: Batch, run: Run, features: Features) -> None:
    """Log the intent, then send the call: its token is on the disk before anything can launch."""
    connection, target, prepared = batch.connection, run.plan.target, run.prepared
    valid_until = _whole_second_after(
        connection.server_utc() + timedelta(seconds=run.plan.timeout_s + VALID_MARGIN_S)
    )
    order = Order(
        run.plan,
        image=prepared.image,
        token=f"{batch.batch_id}-{run.round}-{run.index}",
        valid_until=valid_until,
        tags={
            TAG_BATCH: batch.batch_id,
            TAG_ROUND: batch.round_tag(run.round),
            TAG_PLAN: str(run.index),
            TAG_EXPIRES: valid_until.isoformat(),
        },
        shutdown_after_min=prepared.shutdown_after_min,
        subnet_id=prepared.subnet_id,
        group_id=prepared.group_id,
    )
    parameters = run.method.parameters(order)
    features = msgspec.structs.replace(
        features,
        on_demand_usd=prepared.on_demand_usd,
        since_last_s=since_last_launch_s(batch.last_launches, target, connection.clock.utc()),
    )
    intent = intent_event(
        batch, run, valid_until=valid_until, features=features, request=parameters
    )
    batch.log.append(intent, sync=True)
    batch.last_launches[target] = connection.clock.utc()
    run.asked_s = batch.now_s()
    call = (connection, run.region, run.method, parameters, run.plan.count)
    batch.submit(partial(_sent, batch, run), launch, *call)


def _sent(batch: Batch, run: Run, future: Future[Answer]) -> None:
    answer = future.result()
    event, given = answer_event(batch, run, answer), answer.given
    run.given = given.rows  # they are ended even if the next line cannot be written
    run.instances = {row: row for row in given.rows if is_instance_id(row)}
    batch.log.append(event, sync=True)  # before any line that names one of them
    if given.lacking is not None and not given.lacking.is_outcome:
        batch.problems.append(f"{run.plan.target}: {given.lacking}")
    if answer.refusal is not None:
        run.ended = run.refused = True
    else:
        assert event.answered_s is not None
        accepted = Bracket(event.asked_s, event.answered_s)
        run.sent_s = event.asked_s
        tracks = (_accepted(each, given, accepted) for each in given.rows)
        run.tracks = {each.request_id: conclude(each, wanted=run.plan.wanted) for each in tracks}
        run.lacking = run.plan.count - len(given.rows) if given.lacking is not None else 0
        if run.plan.is_probe:
            batch.poll_soon()
    for track in run.tracks.values():
        _note_progress(batch, run, Track(track.request_id, event.asked_s), track)


def _accepted(row: str, given: Given, answered: Bracket) -> Track:
    """The track of a new row.  Stages that the answer shows were reached during the call."""
    track = Track(row, answered.after_s, {Stage.ACCEPTED: answered})
    if row not in given.shown:
        return track
    moments = {"asked_s": answered.after_s, "answered_s": answered.by_s}
    return advance(track, given.shown[row], **moments)


def _note_missed(batch: Batch, runs: Sequence[Run]) -> None:
    """Record the polls that were due and not made: we were slow, or the machine slept."""
    due = math.floor(batch.polls_due())
    if due > batch.next_poll:
        if any(run.watched for run in runs):
            missed = tuple(range(batch.next_poll, due))
            batch.log.append(SkippedEvent(round=runs[0].round, polls=missed, reason="late"))
        batch.next_poll = due


def _poll_regions(batch: Batch, runs: Sequence[Run]) -> None:
    """Poll each region once; one whose last poll is still in flight is skipped."""
    number, batch.next_poll = batch.next_poll, batch.next_poll + 1
    for region in sorted({run.region for run in runs if run.watched}):
        here = [run for run in runs if run.region == region and run.watched]
        round_number = here[0].round
        if region in batch.polling:
            skipped = SkippedEvent(
                round=round_number, polls=(number,), reason="busy", region=region
            )
            batch.log.append(skipped)
            continue
        batch.polling.add(region)
        rows: dict[See, list[str]] = {}
        for run in here:
            rows.setdefault(run.method.see, []).extend(run.pending)
        batch.submit(
            partial(_polled, batch, here, number),
            poll,
            batch.connection,
            region,
            round_tag=batch.round_tag(round_number),
            rows=rows,
            known={
                row: Known(str(run.index), run.instances.get(row))
                for run in here
                for row in run.tracks
            },
        )


def _polled(batch: Batch, runs: Sequence[Run], number: int, future: Future[Poll]) -> None:
    """Take in a poll: advance every track, then record what was shown for the first time."""
    shown = future.result()
    batch.polling.discard(shown.region)
    asked_s = batch.since_s(shown.asked_s)
    answered_s = batch.since_s(shown.answered_s, up=True)
    watched = [run for run in runs if run.watched]
    before = {request_id: track for run in watched for request_id, track in run.tracks.items()}
    if shown.error is None:
        for run in watched:
            run.tracks = {
                each.request_id: _after(each, shown, run, asked_s, answered_s)
                for each in run.tracks.values()
            }
    batch.log.append(poll_event(batch, watched, shown, round_number=runs[0].round, number=number))
    for run in watched:
        for track in run.tracks.values():
            _note_progress(batch, run, before[track.request_id], track)
    new = itertools.chain.from_iterable(_new_instances(run, shown) for run in watched)
    _tag(batch, shown.region, tuple(new))
    batch.consoles.hear(shown.region, asked_s, answered_s, shown.server_date)
    _read_consoles(batch, watched)
    note_events(batch)
    batch.show_progress()


def _after(track: Track, shown: Poll, run: Run, asked_s: float, answered_s: float) -> Track:
    sighting = shown.sightings.get(track.request_id)
    moved = advance(track, sighting, asked_s=asked_s, answered_s=answered_s)
    return conclude(moved, wanted=run.plan.wanted)


def _read_consoles(batch: Batch, runs: Sequence[Run]) -> None:
    """Read the consoles that are due; a poll does not wait for them."""
    for run, row in batch.consoles.due(runs, batch.now_s()):
        batch.consoles.begin(row, batch.now_s())
        call = (batch.connection, run.region, run.instances[row])
        batch.submit(partial(_console_read, batch, run, row), read_console, *call, latest=True)


def _console_read(batch: Batch, run: Run, row: str, future: Future[ConsoleRead]) -> None:
    batch.consoles.reading.discard(row)
    _take_read(batch, run, row, future.result())


def _take_read(batch: Batch, run: Run, row: str, read: ConsoleRead, *, last: bool = False) -> None:
    """Record what a read showed: the stamp, or that there is none."""
    asked_s, answered_s = batch.since_s(read.asked_s), batch.since_s(read.answered_s, up=True)
    batch.consoles.hear(run.region, asked_s, answered_s, read.server_date)
    if read.stamp is None:
        batch.log.append(console_event(batch, run, row, read, last=last))
        return
    assert run.sent_s is not None
    before, window = run.tracks[row], Bracket(run.sent_s, answered_s)
    run.tracks[row] = stamped(before, read.stamp, window, batch.consoles.told(run.region))
    _note_progress(batch, run, before, run.tracks[row], read.stamp)


def read_last_consoles(batch: Batch) -> None:
    """Read the consoles of ended instances without a stamp, for some seconds, or until a stop.

    If the newest output is not available any more, the output that EC2 posted at the end is read.
    """
    ends_s = batch.now_s() + _LAST_READS_S
    for run, row in [*unstamped(batch.runs)]:
        if batch.now_s() >= ends_s or batch.stopping.by is not None:
            return
        if row not in batch.consoles.ended:
            call = (batch.connection, run.region, run.instances[row])
            read = read_console(*call, latest=True)
            posted = read if read.output else read_console(*call, latest=False)
            batch.consoles.ended.add(row)
            _take_read(batch, run, row, posted if posted.stamp else read, last=True)


def _note_progress(
    batch: Batch, run: Run, before: Track, after: Track, stamp: Stamp | None = None
) -> None:
    """Record what is new about a row.  The line of the answer already says that it was accepted."""
    new = after.brackets.keys() - before.brackets.keys() - {Stage.ACCEPTED}
    for stage in sorted(new.intersection(run.plan.stages)):
        assert after.sighting is not None
        batch.log.append(stage_event(run, after, stage, after.sighting, stamp))
    if before.impaired is None and after.impaired is not None:
        assert after.sighting is not None
        batch.log.append(impaired_event(run, after, after.sighting))
    if before.outcome is None and after.outcome is not None:
        ended = outcome_event(run, after)
        batch.log.append(ended)
        batch.cleared.update([ended.request_id] if ended.is_over else [])
        if after.outcome is Outcome.FAILED and after.sighting is not None:
            batch.problems += _own_failure(run.plan.target, after.sighting)


def _own_failure(target: Target, sighting: Sighting) -> list[str]:
    """EC2's own words for a failure that says nothing about the market, and what to do."""
    kind = failure_kind(sighting.status_code, sighting.instance_reason)
    if kind is None:
        return []
    said = {
        sighting.status_code: sighting.status_message,
        sighting.instance_reason: sighting.instance_message,
    }
    words = ", ".join(f"{code} ({message})" for code, message in said.items() if code)
    return [f"{target}: failed, which says nothing about the market: {words}: {_ADVICE[kind]}"]


def _new_instances(run: Run, shown: Poll) -> list[str]:
    """Remember the instances that a poll showed for the first time; return those without tags.

    A poll that failed may show some too.
    """
    seen = {
        each: shown.sightings[each].instance_id for each in run.tracks if each in shown.sightings
    }
    new = {each: found for each, found in seen.items() if found and each not in run.instances}
    run.instances |= new
    return [] if run.method.tags_at_birth else list(new.values())


def _tag(batch: Batch, region: str, ids: tuple[str, ...]) -> None:
    if ids:
        tagged = partial(_tagged, batch, region, ids)
        args = (batch.connection, region, ids)
        batch.submit(tagged, tag_instances, *args, batch_id=batch.batch_id)


def _tagged(batch: Batch, region: str, ids: tuple[str, ...], future: Future[str | None]) -> None:
    batch.log.append(TaggedEvent(region=region, instance_ids=ids, error=future.result()))


def _end_due(batch: Batch, runs: Sequence[Run]) -> None:
    """End the runs that are done or timed out; if their region is being polled, after that."""
    for run in runs:
        if not run.watched or run.region in batch.polling:
            continue
        if not run.pending or batch.now_s() >= run.deadline_s:
            end(batch, run, Outcome.TIMED_OUT)
            batch.submit(
                partial(_released, batch, run),
                release,
                batch.connection,
                run.region,
                open_ids=run.open_ids,
                live_ids=tuple(run.instances.values()),
                request_ids=run.ids,
            )


def _look_what_is_over(batch: Batch) -> None:
    """See what has ended before EC2 forgets it: an instance after an hour, a request after four.

    A request that has an outcome is not polled any more, but its run may last for hours.
    """
    batch.look_at_s += _LOOK_EVERY_S
    for region, ids in batch.uncleared.items():
        looked = partial(_looked, batch, region)
        batch.submit(looked, survey, batch.connection, region, resources=(), ids=ids)


def _looked(batch: Batch, region: str, future: Future[Survey]) -> None:
    found = future.result()
    if found.over:
        batch.note(release_event(Released(region, (), (), found)))


def end(batch: Batch, run: Run, outcome: Outcome) -> None:
    """Give this outcome to every request of a run that has none yet.

    If the guest has reported since the last poll that it is usable, that decides the outcome.
    """
    run.ended = True
    late = {item: conclude(run.tracks[item], wanted=run.plan.wanted) for item in run.pending}
    late = {item: replace(each, outcome=each.outcome or outcome) for item, each in late.items()}
    run.tracks |= late
    for track in late.values():
        batch.log.append(outcome_event(run, track))


def _released(batch: Batch, run: Run, future: Future[Released]) -> None:
    batch.note(release_event(future.result(), round_number=run.round, plan=run.index))


def _whole_second_after(moment: datetime) -> datetime:
    return (moment + timedelta(microseconds=999_999)).replace(microsecond=0)

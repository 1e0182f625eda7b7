"""Watch a wave of plans: send each, look at all on one schedule, end each when its time has come.

The rules are ``model``'s; here they are applied to what EC2 answers, and everything is recorded.
"""

import itertools
import math
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from spotlib.cleanup.close import Released, note_release, release
from spotlib.collect.batch import Batch, Progress, Run, known
from spotlib.collect.cost import VALID_MARGIN_S
from spotlib.collect.features import Known, since_last_launch_s
from spotlib.ec2.calls import (
    TAG_BATCH,
    TAG_EXPIRES,
    TAG_PLAN,
    TAG_ROUND,
    Answer,
    Look,
    look,
    request,
    request_parameters,
    tag_instances,
)
from spotlib.ec2.refusals import Refusal
from spotlib.model import (
    OPEN_STATES,
    Bracket,
    Outcome,
    Stage,
    Track,
    advance,
    conclude,
    count_stages,
)


def watch(batch: Batch, runs: Sequence[Run], facts: Known) -> None:
    """Send the runs and watch them until all have ended, or a stop is asked for.

    Requests are sent between looks, never instead of one that is due.
    """
    unsent = deque(runs)
    batch.tick = max(batch.tick, math.ceil((batch.now_s() - batch.phase_s) / batch.poll_s))
    while batch.stopping.by is None:
        batch.land()
        _note_missed(batch, runs)
        _end_due(batch, runs)
        if all(run.ended for run in runs) and not batch.flying:
            return
        if batch.now_s() >= batch.due_s(batch.tick):
            _look_around(batch, runs)
        elif unsent:
            _send(batch, unsent.popleft(), facts)
        else:
            batch.rest(min(batch.due_s(batch.tick), _next_deadline_s(batch, runs)))


def _next_deadline_s(batch: Batch, runs: Sequence[Run]) -> float:
    deadlines = [run.deadline_s for run in runs if not run.ended]
    return max(min(deadlines, default=math.inf), batch.now_s())


def _send(batch: Batch, run: Run, facts: Known) -> None:
    """Journal the intent, then send it: whatever happens after, the token is on the disk."""
    connection, target = batch.connection, run.plan.target
    valid_until = _whole_second_after(
        connection.server_utc() + timedelta(seconds=run.plan.timeout_s + VALID_MARGIN_S)
    )
    parameters = request_parameters(
        run.plan,
        image=run.prepared.image,
        token=f"{batch.batch_id}-{run.round}-{run.index}",
        valid_until=valid_until,
        tags={
            TAG_BATCH: batch.batch_id,
            TAG_ROUND: batch.round_tag(run.round),
            TAG_PLAN: str(run.index),
            TAG_EXPIRES: valid_until.isoformat(),
        },
        shutdown_after_min=run.prepared.shutdown_after_min,
        subnet_id=run.prepared.subnet_id,
        group_id=run.prepared.group_id,
    )
    facts_now = {
        **facts[target],
        "on_demand_usd": known(run.prepared.on_demand_usd),
        "since_last_s": since_last_launch_s(batch.launched_at, target, connection.clock.utc()),
    }
    batch.events.append(
        "intent",
        sync=True,
        **_key(run),
        at_s=batch.since_s(connection.clock.now_s()),
        at=connection.clock.utc(),
        **_plan_fields(run),
        valid_until=valid_until,
        shutdown_after_min=run.prepared.shutdown_after_min,
        known=facts_now,
        request=parameters,
    )
    batch.launched_at[target] = connection.clock.utc()
    batch.submit(partial(_sent, batch, run), request, connection, run.region, parameters)


def _sent(batch: Batch, run: Run, future: Future[Answer]) -> None:
    answer = future.result()
    asked_s = batch.since_s(answer.asked_s)
    answered_s = batch.since_s(answer.answered_s, up=True)
    told: dict[str, Any] = {
        **_key(run),
        "asked_s": asked_s,
        "answered_s": answered_s,
        "at": answer.asked_at,
        "attempts": answer.attempts,
    }
    if answer.refusal is not None:
        run.ended = True
        _note_refused(batch, run, told, answer.refusal)
        return
    run.sent_s = asked_s
    accepted = {Stage.ACCEPTED: Bracket(asked_s, answered_s)}
    run.tracks = {each: Track(each, asked_s, accepted) for each in answer.request_ids}
    batch.events.append(
        "requested",
        sync=True,
        **told,
        request_ids=answer.request_ids,
        server_date=answer.server_date,
    )


def _note_refused(batch: Batch, run: Run, told: dict[str, Any], refusal: Refusal) -> None:
    if not refusal.is_outcome:
        batch.problems.append(f"{run.plan.target}: {refusal}")
    batch.events.append(
        "refused",
        sync=True,
        **told,
        code=refusal.code,
        message=refusal.message,
        kind=refusal.kind,
        advice=refusal.advice,
    )


def _note_missed(batch: Batch, runs: Sequence[Run]) -> None:
    """Ticks that passed without a look, because we were slow or the machine slept."""
    due = math.floor((batch.now_s() - batch.phase_s) / batch.poll_s)
    if due > batch.tick:
        if any(run.watched for run in runs):
            ticks = list(range(batch.tick, due))
            batch.events.append("skipped", round=runs[0].round, ticks=ticks, reason="late")
        batch.tick = due


def _look_around(batch: Batch, runs: Sequence[Run]) -> None:
    """One look a region, for the tick that is due."""
    tick, batch.tick = batch.tick, batch.tick + 1
    for region in sorted({run.region for run in runs if run.watched}):
        here = [run for run in runs if run.region == region and run.watched]
        if region in batch.looking:
            batch.events.append(
                "skipped", round=here[0].round, ticks=[tick], region=region, reason="busy"
            )
            continue
        batch.looking.add(region)
        batch.submit(
            partial(_looked, batch, here, tick),
            look,
            batch.connection,
            region,
            round_tag=batch.round_tag(here[0].round),
            request_ids=list(itertools.chain.from_iterable(run.pending for run in here)),
        )


def _looked(batch: Batch, runs: Sequence[Run], tick: int, future: Future[Look]) -> None:
    seen = future.result()
    batch.looking.discard(seen.region)
    asked_s = batch.since_s(seen.asked_s)
    answered_s = batch.since_s(seen.answered_s, up=True)
    watched = [run for run in runs if run.watched]
    before = {run.index: run.tracks for run in watched}
    if seen.error is None:
        for run in watched:
            run.tracks = {
                each.request_id: _after(each, seen, run, asked_s, answered_s)
                for each in run.tracks.values()
            }
    batch.events.append(
        "look",
        round=runs[0].round,
        tick=tick,
        region=seen.region,
        due_s=round(batch.due_s(tick), 6),
        asked_s=asked_s,
        answered_s=answered_s,
        at=seen.asked_at,
        server_date=seen.server_date,
        calls=seen.calls,
        plans={str(run.index): _counts(run, seen) for run in watched},
        error=seen.error,
        seen=_instance_ids(seen) if seen.error else {},
    )
    came: list[str] = []
    for run in watched:
        for track in run.tracks.values():
            old = before[run.index][track.request_id]
            _note_progress(batch, run, old, track)
            came += _new_instance(old, track)
    if came:
        tagged = partial(_tagged, batch, seen.region, came)
        args = (batch.connection, seen.region, came)
        batch.submit(tagged, tag_instances, *args, batch_id=batch.batch_id)
    _tell(batch)


def _new_instance(before: Track, after: Track) -> list[str]:
    known = before.sighting and before.sighting.instance_id
    now = after.sighting and after.sighting.instance_id
    return [now] if now and not known else []


def _tagged(batch: Batch, region: str, ids: Sequence[str], future: Future[str | None]) -> None:
    batch.events.append("tagged", region=region, instance_ids=ids, error=future.result())


def _after(track: Track, seen: Look, run: Run, asked_s: float, answered_s: float) -> Track:
    sighting = seen.sightings.get(track.request_id)
    moved = advance(track, sighting, asked_s=asked_s, answered_s=answered_s)
    return conclude(moved, wanted=run.plan.wanted)


def _counts(run: Run, seen: Look) -> dict[str, Any] | None:
    if seen.error is not None:
        return None
    codes = Counter(each.sighting.status_code for each in run.tracks.values() if each.sighting)
    stages = count_stages(run.tracks.values())
    return {**{stage.label: n for stage, n in stages.items()}, "codes": dict(sorted(codes.items()))}


def _instance_ids(seen: Look) -> dict[str, Any]:
    """What a failed look did see: no proof of absence, but ids that the clean-up may need."""
    found = {each: sighting.instance_id for each, sighting in seen.sightings.items()}
    return {each: instance_id for each, instance_id in found.items() if instance_id}


def _note_progress(batch: Batch, run: Run, before: Track, after: Track) -> None:
    sighting = after.sighting
    for stage in sorted(after.brackets.keys() - before.brackets.keys()):
        assert sighting is not None
        batch.events.append(
            "stage",
            **_key(run),
            request_id=after.request_id,
            stage=stage.label,
            after_s=after.brackets[stage].after_s,
            by_s=after.brackets[stage].by_s,
            instance_id=sighting.instance_id,
            availability_zone_id=sighting.availability_zone_id,
            status_code=sighting.status_code,
            created_at=sighting.created_at,
            status_updated_at=sighting.status_updated_at,
            launched_at=sighting.launched_at,
        )
    if before.outcome is None and after.outcome is not None:
        _note_outcome(batch, run, after)


def _note_outcome(batch: Batch, run: Run, track: Track) -> None:
    sighting = track.sighting
    batch.events.append(
        "outcome",
        **_key(run),
        request_id=track.request_id,
        outcome=track.outcome,
        status_code=sighting.status_code if sighting else None,
        status_message=sighting.status_message if sighting else None,
        instance_id=sighting.instance_id if sighting else None,
        instance_state=sighting.instance_state if sighting else None,
        instance_reason=sighting.instance_reason if sighting else None,
        watched_s=track.looked_s,
    )


def _end_due(batch: Batch, runs: Sequence[Run]) -> None:
    """End the runs that are done or out of time; one whose look is in flight waits for it."""
    for run in runs:
        if not run.watched or run.region in batch.looking:
            continue
        if not run.pending or batch.now_s() >= run.deadline_s:
            end(batch, run, Outcome.TIMED_OUT)
            batch.submit(
                partial(_released, batch, run),
                release,
                batch.connection,
                run.region,
                open_ids=_open_ids(run),
                known=tuple(run.tracks),
            )


def end(batch: Batch, run: Run, outcome: Outcome) -> None:
    """Give every request of a run that has none yet this outcome: it is censored there."""
    run.ended = True
    late = {item: replace(run.tracks[item], outcome=outcome) for item in run.pending}
    run.tracks |= late
    for track in late.values():
        _note_outcome(batch, run, track)


def _open_ids(run: Run) -> list[str]:
    return [
        each.request_id
        for each in run.tracks.values()
        if each.sighting is None or each.sighting.request_state in OPEN_STATES
    ]


def _released(batch: Batch, run: Run, future: Future[Released]) -> None:
    note_release(batch.note, future.result(), **_key(run))


def _tell(batch: Batch) -> None:
    if batch.on_look is None:
        return
    runs = [run for run in batch.runs if run.sent_s is not None]
    latest = runs[-1].round
    tracks = [track for run in runs if run.round == latest for track in run.tracks.values()]
    started_s = min(run.sent_s for run in runs if run.round == latest and run.sent_s is not None)
    batch.on_look(
        Progress(
            round=latest,
            rounds=batch.rounds,
            elapsed_s=batch.now_s() - started_s,
            timeout_s=max(run.plan.timeout_s for run in runs if run.round == latest),
            ready=sum(track.outcome is Outcome.READY for track in tracks),
            requests=len(tracks),
        )
    )


def _key(run: Run) -> dict[str, Any]:
    return {"round": run.round, "plan": run.index}


def _plan_fields(run: Run) -> dict[str, Any]:
    plan, prepared = run.plan, run.prepared
    return {
        "instance_type": plan.target.instance_type,
        "region": plan.target.region,
        "availability_zone_id": plan.target.availability_zone_id,
        "placement": plan.target.placement,
        "method": plan.method,
        "wanted": plan.wanted.label,
        "n": plan.count,
        "timeout_s": plan.timeout_s,
        "max_price_usd": plan.max_price_usd,
        "image": prepared.image,
        "image_name": prepared.image_name,
        "vcpus": prepared.vcpus,
    }


def _whole_second_after(moment: Any) -> Any:
    return (moment + timedelta(microseconds=999_999)).replace(microsecond=0)

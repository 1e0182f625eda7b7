"""Events with everything that they need, to make logs of: a test gives what it is about."""

from datetime import UTC, datetime, timedelta

from spotlib.model import Kind
from spotlib.record.events import (
    BatchEvent,
    CleanEvent,
    ConsoleEvent,
    Features,
    Host,
    ImpairedEvent,
    IntentEvent,
    NoticeEvent,
    OutcomeEvent,
    PollEvent,
    RefusedEvent,
    RequestedEvent,
    StageCounts,
    StageEvent,
)
from spotlib.record.log import EventLog

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HOST = Host(name="here", pid=1, spotlib="1", python="3", boto3="1")


def at(more_s):
    return NOON + timedelta(seconds=more_s)


def batch(**given):
    usual = {"schema": 2, "batch_id": "b", "simulated": False, "world": None, "world_seed": None}
    usual |= {"endpoint": "aws", "market": None, "url": None, "started_at": NOON, "rounds": 3}
    usual |= {"every_s": 900.0, "poll_s": 1.0, "phase_s": 0.0, "seed": 1, "settle_s": 30.0}
    usual |= {"notes": {}, "account": None, "arn": None, "profile": None, "expected_usd": 1.0}
    return BatchEvent(**usual | {"bound_usd": 2.0, "warnings": (), "host": HOST} | given)


def intent(number=0, plan=0, **given):
    usual = {"round": number, "plan": plan, "at_s": 10.0, "at": at(10), "instance_type": "t3.nano"}
    usual |= {"region": "sa-east-1", "availability_zone_id": None, "placement": "region"}
    usual |= {"method": "request_spot_instances", "wanted": "ready", "n": 2, "timeout_s": 600.0}
    usual |= {"max_price_usd": None, "image": "ami-1", "image_name": "x", "vcpus": 2}
    usual |= {"valid_until": at(900), "shutdown_after_min": 20, "features": Features()}
    return IntentEvent(**usual | {"request": {}} | given)


def answer(event, number=0, plan=0, **given):
    usual = {"round": number, "plan": plan, "asked_s": 10.0, "answered_s": 10.5, "at": at(10)}
    return event(**usual | {"attempts": ()} | given)


def requested(*ids, **given):
    return answer(RequestedEvent, **{"request_ids": ids, "server_date": None} | given)


def refused(code="No", **given):
    said = {"code": code, "message": "", "kind": Kind.CAPACITY, "advice": ""}
    return answer(RefusedEvent, **said | given)


def stage(name, after_s, by_s, request_id="sir-1", **given):
    usual = {"round": 0, "plan": 0, "request_id": request_id, "instance_id": "i-1"}
    usual |= {"status_code": "fulfilled", "availability_zone_id": "sae1-az1", "created_at": at(11)}
    usual |= {"status_updated_at": at(by_s), "launched_at": None}
    return StageEvent(**usual | {"stage": name, "after_s": after_s, "by_s": by_s} | given)


def outcome(what="timed_out", request_id="sir-1", **given):
    usual = {"round": 0, "plan": 0, "request_id": request_id, "instance_id": None}
    usual |= {"status_code": "fulfilled", "status_message": None, "instance_state": None}
    usual |= {"instance_reason": None, "watched_s": 50.0}
    return OutcomeEvent(**usual | {"outcome": what} | given)


def counts(accepted=2, fulfilled=1, running=1, ready=0, **given):
    usual = {"accepted": accepted, "fulfilled": fulfilled, "running": running, "ready": ready}
    return StageCounts(**usual | {"codes": {}} | given)


def poll(plans, number=0, asked_s=20.0, **given):
    usual = {"round": 0, "number": number, "region": "sa-east-1", "due_s": 20.0}
    usual |= {"asked_s": asked_s, "answered_s": 21.0, "at": at(20), "server_date": None}
    return PollEvent(**usual | {"calls": 1, "plans": plans, "error": None, "seen": {}} | given)


def impaired(after_s=30.0, by_s=33.0, **given):
    usual = {"round": 0, "plan": 0, "request_id": "sir-1", "instance_id": "i-1"}
    usual |= {"status_code": None, "after_s": after_s, "by_s": by_s, "checks": {}}
    return ImpairedEvent(**usual | given)


def console(**given):
    usual = {"round": 0, "plan": 0, "request_id": "sir-1", "instance_id": "i-1", "asked_s": 60.0}
    return ConsoleEvent(**usual | {"answered_s": 61.0, "posted": True, "last": True} | given)


def notice(about, after_s, by_s):
    return NoticeEvent(
        **{"round": 0, "plan": 0, "request_id": "sir-1", "instance_id": "i-1", "about": about},
        **{"event_at": NOON, "sent_at": NOON, "asked_s": by_s, "answered_s": by_s},
        **{"after_s": after_s, "by_s": by_s},
    )


def clean(confirmed, spent_usd=None):
    left = {"open_requests": {}, "live_instances": {}, "errors": {}}
    return CleanEvent(confirmed=confirmed, **left, spent_at_most_usd=spent_usd)


def written(folder, *events, first=None):
    """A log of these events."""
    first = first or batch()
    log = EventLog(folder / f"{first.batch_id}.jsonl")
    for each in (first, *events):
        log.append(each)
    log.close()
    return log.path


ONE = (intent(), requested("sir-1", "sir-2"))  # a run of two requests

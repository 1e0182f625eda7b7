"""After a crash: complete the log by appending, so that analysis needs no special case.

Pure: from the events that are there, and the requests that EC2 lists by our tags, follow the
events that are missing.  Every request that was launched ends with exactly one outcome.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from spotlib.ec2.calls import Ours
from spotlib.model import Outcome
from spotlib.record.log import Event

Key = tuple[int, int]  # round, plan


def missing_events(events: Iterable[Event], listed: Iterable[Ours]) -> Iterator[Event]:
    """The ``requested`` and ``outcome`` events that the dead writer did not get to write.

    A request that nobody had written down is known by its tags; it was sent after its intent and
    never looked at, so it is censored there.  An intent without any request, written down or
    listed, was not executed as far as anybody can tell, and gets nothing.
    """
    known = list(events)
    intents = {_key(event): event for event in known if event["event"] == "intent"}
    answered = {_key(event) for event in known if event["event"] in ("requested", "refused")}
    sent = {_key(event): event["asked_s"] for event in known if event["event"] == "requested"}
    requests = {
        request_id: _key(event)
        for event in known
        if event["event"] == "requested"
        for request_id in event["request_ids"]
    }
    for key, ids in _unanswered(intents, answered, listed).items():
        intent = intents[key]
        sent[key] = intent["at_s"]
        requests |= dict.fromkeys(ids, key)
        yield _requested(intent, ids)
    ended = {event["request_id"] for event in known if event["event"] == "outcome"}
    looked, shown = _last_looks(known), _last_stages(known)
    for request_id, key in requests.items():
        if request_id not in ended:
            until_s = looked.get(key, sent[key])
            yield _outcome(key, request_id, intents[key], shown.get(request_id), until_s)


def _key(event: Event) -> Key:
    return event["round"], event["plan"]


def _unanswered(
    intents: dict[Key, Event], answered: set[Key], listed: Iterable[Ours]
) -> dict[Key, list[str]]:
    found: dict[Key, list[str]] = {}
    for each in listed:
        if each.round is None or each.plan is None:
            continue
        key = (each.round, each.plan)
        if key in intents and key not in answered:
            found.setdefault(key, []).append(each.request_id)
    return found


def _requested(intent: Event, ids: list[str]) -> Event:
    return {
        "event": "requested",
        "round": intent["round"],
        "plan": intent["plan"],
        "asked_s": intent["at_s"],
        "answered_s": None,
        "at": intent["at"],
        "attempts": [],
        "request_ids": sorted(ids),
        "server_date": None,
        "recovered": True,
    }


def _last_looks(events: Iterable[Event]) -> dict[Key, float]:
    """When each plan's last complete look was sent."""
    return {
        (event["round"], int(plan)): event["asked_s"]
        for event in events
        if event["event"] == "look" and event["error"] is None
        for plan in event["plans"]
    }


def _last_stages(events: Iterable[Event]) -> dict[str, Event]:
    """The furthest stage that each request was shown at."""
    return {event["request_id"]: event for event in events if event["event"] == "stage"}


def _outcome(
    key: Key, request_id: str, intent: Event, stage: Event | None, until_s: float
) -> dict[str, Any]:
    ready = stage is not None and stage["stage"] == intent["wanted"]
    return {
        "event": "outcome",
        "round": key[0],
        "plan": key[1],
        "request_id": request_id,
        "outcome": Outcome.READY if ready else Outcome.ABANDONED,
        "status_code": stage["status_code"] if stage else None,
        "status_message": None,
        "instance_id": stage["instance_id"] if stage else None,
        "instance_state": None,
        "instance_reason": None,
        "watched_s": until_s,
        "recovered": True,
    }

"""Spot requests: how they and their instances are polled, what is left of them, how they end."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import (
    MOST_FILTER_VALUES,
    PAGE,
    TAG_ROUND,
    Ended,
    batch_of,
    chunks,
    end_each,
)
from spotlib.ec2.connection import Connection
from spotlib.ec2.foreign import forgotten, instance_filter, remember, request_of
from spotlib.ec2.instances import instances_by, instances_of, state_of
from spotlib.ec2.poll import Seen
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import NOT_DESCRIBED, Resource, Survey, filters_by, tag_filter
from spotlib.track import ENDED_STATES, GONE_STATES

_ID = "SpotInstanceRequestId"
_DESCRIBE = "describe_spot_instance_requests"
_IN_FLIGHT = timedelta(minutes=10)  # after so long an ended request launches nothing: a choice


def see_requests(seen: Seen, round_tag: str, request_ids: Sequence[str]) -> None:
    """Look for spot requests by their round's tag, and for their instances by request id.

    No state filter is used: such filters have been seen to miss what ids show.
    """
    filters = [{"Name": f"tag:{TAG_ROUND}", "Values": [round_tag]}]
    for reply in seen.replies(_DESCRIBE, Filters=filters, MaxResults=PAGE):
        for item in reply["SpotInstanceRequests"]:
            seen.requests[item[_ID]] = item
        remember(seen.connection, reply["SpotInstanceRequests"])
    ours = set(request_ids)
    name, values = instance_filter(seen.connection, seen.region, request_ids)
    for each in filters_by(name, values):
        for reply in seen.replies("describe_instances", Filters=[each], MaxResults=PAGE):
            for instance in instances_of(reply):
                owner = request_of(seen.connection, instance)
                if owner in ours:  # an endpoint may ignore the filter
                    seen.instances[owner] = instance


def _survey(
    connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
) -> Survey:
    """Find requests, by id and by a batch's tag, and their instances.

    It uses filters only: EC2 answers "none yet" to a filter, but NotFound to an id.  An endpoint
    may ignore a filter, so every result is checked against the filter.  An instance that a request
    of ours names is ours even if it is not shown, until the request says it ended.

    A request is over if it and its instance have ended.  If it has no instance, a launch may have
    been in flight when it ended.
    """
    wanted = set(ids)
    requests, error = _requests(connection, region, wanted, batch_id)
    remember(connection, requests.values())
    named = {item["InstanceId"]: item for item in requests.values() if item.get("InstanceId")}
    seen, owners, unread = _instances(connection, region, wanted | requests.keys(), named.keys())
    unseen = [each for each, item in named.items() if unread or _may_run(item)]
    instances = dict.fromkeys(unseen, NOT_DESCRIBED) | seen
    states = {each: item.get("State", NOT_DESCRIBED) for each, item in requests.items()}
    missing = frozenset(wanted - states.keys() - forgotten(connection, instances))
    owners |= {each: item[_ID] for each, item in named.items()}
    alive = {owners[each] for each, state in instances.items() if state not in GONE_STATES}
    ended = {each for each in wanted & states.keys() if states[each] in ENDED_STATES} - alive
    long_ago, launched = connection.server_utc() - _IN_FLIGHT, set(owners.values())
    over = {each for each in ended if each in launched or _since(requests[each], long_ago)}
    error = error or unread
    return Survey(states, instances, missing, error, frozenset(() if error else over))


def _requests(
    connection: Caller, region: str, ids: Collection[str], batch_id: str | None
) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Find requests by id and by a batch's tag; the second is the error that ended it, if any."""
    found: dict[str, dict[str, Any]] = {}
    filters = filters_by("spot-instance-request-id", sorted(ids))
    filters += [tag_filter(batch_id)] if batch_id is not None else []
    try:
        for item in chain.from_iterable(_pages(connection, region, each) for each in filters):
            if item[_ID] in ids or (batch_id is not None and batch_of(item) == batch_id):
                found[item[_ID]] = item
    except Refusal as refusal:
        return found, str(refusal)
    return found, None


def _instances(
    connection: Connection, region: str, ours: Collection[str], named: Collection[str]
) -> tuple[dict[str, str], dict[str, str | None], str | None]:
    """Find the instances of our requests, and those that they name.

    Returns their states, the requests of those found by request, and the error as above.
    """
    states, owners = dict[str, str](), dict[str, str | None]()
    try:
        name, values = instance_filter(connection, region, sorted(ours))
        for instance in instances_by(connection, region, filters_by(name, values)):
            owner = request_of(connection, instance)
            if owner in ours:
                states[instance["InstanceId"]] = state_of(instance)
                owners[instance["InstanceId"]] = owner
        late = filters_by("instance-id", sorted(set(named) - states.keys()))
        for instance in instances_by(connection, region, late):
            if instance["InstanceId"] in named:
                states[instance["InstanceId"]] = state_of(instance)
    except Refusal as refusal:
        return states, owners, str(refusal)
    return states, owners, None


def _pages(connection: Caller, region: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    filters = [wanted]
    key = "SpotInstanceRequests"
    yield from connection.pages(region, _DESCRIBE, key, Filters=filters, MaxResults=PAGE)


def _tagged(
    connection: Caller, region: str, wanted: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((item[_ID], item) for item in _pages(connection, region, wanted))


def _may_run(request: Mapping[str, Any]) -> bool:
    """Whether the instance that a request names may run, as far as the request says."""
    ended = "instance-terminated" in request.get("Status", {}).get("Code", "")
    return not ended and request.get("State") not in ("closed", "failed")


def _since(request: Mapping[str, Any], moment: datetime) -> bool:
    """Whether a request has not changed since then, according to its own timestamp."""
    changed_at = request.get("Status", {}).get("UpdateTime")
    return changed_at is not None and changed_at <= moment


def cancel(connection: Connection, region: str, request_ids: Sequence[str]) -> Ended:
    """Cancel requests.  It does not end their instances, and a launch may be in flight."""
    sets = chunks(request_ids, MOST_FILTER_VALUES)
    ended = end_each(connection, region, "cancel_spot_instance_requests", _named, sets)
    connection.memory.cancelled.update(ended.ids)
    return ended


def _named(ids: list[str]) -> dict[str, Any]:
    return {"SpotInstanceRequestIds": ids}


def _commands(where: str, ids: Sequence[str]) -> list[str]:
    """Cancel, then look for what was launched a moment before."""
    return [
        f"aws ec2 cancel-spot-instance-requests {where} "
        f"--spot-instance-request-ids {' '.join(ids)}",
        f"aws ec2 describe-instances {where} --filters "
        f"Name=spot-instance-request-id,Values={','.join(ids)} "
        "--query 'Reservations[].Instances[].[InstanceId,State.Name]'",
    ]


SPOT_REQUESTS = Resource(
    prefix="sir-",
    survey=_survey,
    tagged=_tagged,
    end=cancel,
    commands=_commands,
    dry_run=("cancel_spot_instance_requests", _named(["sir-00000000"])),
    listed_for=timedelta(hours=3),  # four, says EC2
)

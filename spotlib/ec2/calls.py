"""The calls to EC2 that no launch method has of its own: poll, tag, cancel, terminate.

An empty id list is never sent: EC2 reads it as "everything in the account".
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.connection import Connection
from spotlib.ec2.foreign import instance_filter, remember, request_of
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Sighting

TAG_BATCH = "spotlib:batch"
TAG_ROUND = "spotlib:round"
TAG_PLAN = "spotlib:plan"
TAG_EXPIRES = "spotlib:expires"

MOST_FILTER_VALUES = 200  # per call; EC2: FilterLimitExceeded
_MOST_STATUS_IDS = 100  # DescribeInstanceStatus, explicit ids
_MOST_TERMINATED = 500  # per call; EC2 allows 1000
PAGE = 1000


def warm(connection: Connection, region: str, *, round_tag: str) -> None:
    """Open the connection that a request call will use: its handshake is no launch time."""
    filters = [{"Name": f"tag:{TAG_ROUND}", "Values": [round_tag]}]
    with contextlib.suppress(Refusal):  # the request call itself will say what is wrong
        connection.call(region, "describe_spot_instance_requests", Filters=filters)


@dataclass(frozen=True)
class Poll:
    """One poll of one region.  With an ``error`` it is a missed poll and proves no absence."""

    region: str
    asked_s: float
    answered_s: float
    asked_at: datetime
    calls: int
    server_date: str | None
    sightings: Mapping[str, Sighting]
    error: str | None


def poll(
    connection: Connection, region: str, *, round_tag: str, request_ids: Sequence[str]
) -> Poll:
    """Poll all of a round's requests in a region.

    Requests are found by tag, their instances by request id without a state filter (such filters
    have been seen to miss what ids show), and the status checks of running instances by their id.
    """
    clock = connection.clock
    asked_s, asked_at = clock.now_s(), clock.utc()
    seen = _Seen(connection, region)
    try:
        seen.requests(round_tag)
        seen.instances(request_ids)
        seen.statuses()
        error = None
    except Refusal as refusal:
        error = f"{refusal.code}: {refusal.message}"
    return Poll(
        region=region,
        asked_s=asked_s,
        answered_s=clock.now_s(),
        asked_at=asked_at,
        calls=seen.calls,
        server_date=seen.server_date,
        sightings={item: seen.sighting(item) for item in request_ids if seen.shows(item)},
        error=error,
    )


class _Seen:
    """EC2's answers to one poll, gathered call by call and turned into our type once."""

    def __init__(self, connection: Connection, region: str) -> None:
        self._connection = connection
        self._region = region
        self.calls = 0
        self.server_date: str | None = None
        self.by_request: dict[str, dict[str, Any]] = {}
        self._instance: dict[str, dict[str, Any]] = {}
        self._checks: dict[str, dict[str, str]] = {}

    def requests(self, round_tag: str) -> None:
        filters = [{"Name": f"tag:{TAG_ROUND}", "Values": [round_tag]}]
        for reply in self._replies(
            "describe_spot_instance_requests", Filters=filters, MaxResults=PAGE
        ):
            for item in reply["SpotInstanceRequests"]:
                self.by_request[item["SpotInstanceRequestId"]] = item
            remember(self._connection, reply["SpotInstanceRequests"])

    def instances(self, request_ids: Sequence[str]) -> None:
        ours = set(request_ids)
        name, values = instance_filter(self._connection, self._region, request_ids)
        for some in chunks(values, MOST_FILTER_VALUES):
            filters = [{"Name": name, "Values": some}]
            for reply in self._replies("describe_instances", Filters=filters, MaxResults=PAGE):
                for instance in _instances_of(reply):
                    owner = request_of(self._connection, instance)
                    if owner in ours:  # an endpoint may ignore the filter
                        self._instance[owner] = instance

    def statuses(self) -> None:
        running = [
            instance["InstanceId"]
            for instance in self._instance.values()
            if instance["State"]["Name"] == "running"
        ]
        for some in chunks(running, _MOST_STATUS_IDS):
            for reply in self._replies("describe_instance_status", InstanceIds=some):
                for item in reply["InstanceStatuses"]:
                    self._checks[item["InstanceId"]] = _checks_of(item)

    def _replies(self, action: str, **given: Any) -> Iterator[dict[str, Any]]:
        while True:
            self.calls += 1
            reply = self._connection.call(self._region, action, quick=True, **given)
            self.server_date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
            yield reply
            if not reply.get("NextToken"):
                return
            given["NextToken"] = reply["NextToken"]

    def shows(self, request_id: str) -> bool:
        """Whether the request was listed, or only its instance: reads can be stale."""
        return request_id in self.by_request or request_id in self._instance

    def sighting(self, request_id: str) -> Sighting:
        item = self.by_request.get(request_id, {})
        instance = self._instance.get(request_id, {})
        status, placement = item.get("Status", {}), instance.get("Placement", {})
        instance_id = instance.get("InstanceId") or item.get("InstanceId")
        return Sighting(
            request_state=item.get("State", ""),
            status_code=status.get("Code", ""),
            status_message=status.get("Message", ""),
            instance_id=instance_id,
            instance_state=instance.get("State", {}).get("Name"),
            instance_reason=instance.get("StateReason", {}).get("Code"),
            instance_message=instance.get("StateReason", {}).get("Message"),
            checks=self._checks.get(instance_id) if instance_id else None,
            availability_zone_id=item.get("LaunchedAvailabilityZoneId")
            or placement.get("AvailabilityZoneId"),
            created_at=item.get("CreateTime"),
            status_updated_at=status.get("UpdateTime"),
            launched_at=instance.get("LaunchTime"),
        )


def _checks_of(item: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "instance": item.get("InstanceStatus"),
        "system": item.get("SystemStatus"),
        "attached_ebs": item.get("AttachedEbsStatus"),
    }
    return {name: status["Status"] for name, status in found.items() if status}


def _instances_of(reply: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for reservation in reply["Reservations"]:
        yield from reservation["Instances"]


def ask_near(
    connection: Caller, regions: Sequence[str], action: str, **given: Any
) -> dict[str, Any]:
    """Ask about the account in the first of these regions that answers.

    An organisation may forbid the use of a whole region, also of the partition's home region, and
    a private network may reach its own region only.

    Raises
    ------
    Refusal
        That of the first region, if none answers.
    """
    refusals: list[Refusal] = []
    for region in dict.fromkeys(regions):
        try:
            return connection.call(region, action, **given)
        except Refusal as refusal:
            refusals.append(refusal)
            if refusal.kind not in (Kind.PERMISSION, Kind.UNREACHABLE):
                break
    raise refusals[0]


def tag_instances(
    connection: Connection, region: str, instance_ids: Sequence[str], *, batch_id: str
) -> str | None:
    """Tag instances, which start untagged, to find them on the bill; return the refusal if any."""
    tags = [{"Key": TAG_BATCH, "Value": batch_id}]
    try:
        connection.call(region, "create_tags", Resources=list(instance_ids), Tags=tags)
    except Refusal as refusal:
        return str(refusal)
    return None


@dataclass(frozen=True)
class Ended:
    """What EC2 took of a cancel or terminate: these ids, and the errors of the others."""

    ids: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


def cancel(connection: Connection, region: str, request_ids: Sequence[str]) -> Ended:
    """Cancel requests.  It does not end their instances, and a launch may be in flight."""
    name = "SpotInstanceRequestIds"
    sets = chunks(request_ids, MOST_FILTER_VALUES)
    ended = _end_each(connection, region, "cancel_spot_instance_requests", name, sets)
    connection.memory.cancelled.update(ended.ids)
    return ended


def terminate(connection: Connection, region: str, instance_ids: Sequence[str]) -> Ended:
    """Terminate instances."""
    sets = chunks(instance_ids, _MOST_TERMINATED)
    return _end_each(connection, region, "terminate_instances", "InstanceIds", sets)


def _end_each(
    connection: Connection, region: str, action: str, name: str, sets: Iterable[list[str]]
) -> Ended:
    """One call for each set of ids; one that fails keeps no other from being made.

    One bad id fails a whole call, so then each is tried by itself.  A single one that is not known
    is no error, and never "gone": the next survey says what is.
    """
    ended, errors = list[str](), list[str]()
    for some in sets:
        given: dict[str, Any] = {name: some}
        try:
            connection.call(region, action, **given)
            ended += some
        except Refusal as refusal:
            if not refusal.code.startswith(("InvalidInstanceID", "InvalidSpotInstanceRequestID")):
                errors.append(str(refusal))
            elif len(some) > 1:
                alone = _end_each(connection, region, action, name, chunks(some, 1))
                ended += alone.ids
                errors += alone.errors
    return Ended(tuple(ended), tuple(errors))


def chunks(ids: Sequence[str], most: int) -> Iterator[list[str]]:
    """Yield ``ids`` in pieces of at most ``most``; no ids give no piece, and so no call."""
    for start in range(0, len(ids), most):
        yield list(ids[start : start + most])

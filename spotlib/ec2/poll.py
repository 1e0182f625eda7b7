"""One poll of a region: what EC2 shows of every row that is watched there.

A *row* stands for one requested instance: it is the id of its spot request, or its own id, or its
number in a fleet.  Each launch method says how its rows are seen (``See``); status checks are asked
for all of them at once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

from spotlib.ec2.calls import chunks
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import Refusal
from spotlib.track import Sighting

_MOST_STATUS_IDS = 100  # DescribeInstanceStatus, explicit ids


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


@dataclass(frozen=True)
class Known:
    """What is known about a row before a poll: the plan that its tags name, and its instance."""

    plan: str
    instance_id: str | None = None


class Seen:
    """EC2's answers to one poll, gathered call by call and turned into our type once."""

    def __init__(
        self, connection: Connection, region: str, known: Mapping[str, Known] = MappingProxyType({})
    ) -> None:
        self.connection = connection
        self.region = region
        self.known = known  # by row, also of rows that are not looked for any more
        self.calls = 0
        self.server_date: str | None = None
        self.requests: dict[str, dict[str, Any]] = {}  # spot requests, by row
        self.instances: dict[str, dict[str, Any]] = {}  # by row
        self._checks: dict[str, dict[str, str]] = {}  # by instance

    def replies(self, action: str, **given: Any) -> Iterator[dict[str, Any]]:
        """Yield the answer of every page."""
        while True:
            self.calls += 1
            reply = self.connection.call(self.region, action, quick=True, **given)
            self.server_date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
            yield reply
            if not reply.get("NextToken"):
                return
            given["NextToken"] = reply["NextToken"]

    def ask_checks(self) -> None:
        """Ask for the status checks of what runs."""
        running = [
            instance["InstanceId"]
            for instance in self.instances.values()
            if instance["State"]["Name"] == "running"
        ]
        for some in chunks(running, _MOST_STATUS_IDS):
            for reply in self.replies("describe_instance_status", InstanceIds=some):
                for item in reply["InstanceStatuses"]:
                    self._checks[item["InstanceId"]] = _checks_of(item)

    def shows(self, row: str) -> bool:
        """Whether its request was listed, or only its instance: reads can be stale."""
        return row in self.requests or row in self.instances

    def sighting(self, row: str) -> Sighting:
        """What was shown of a row."""
        request, instance = self.requests.get(row, {}), self.instances.get(row, {})
        return sighting_of(request, instance, self._checks)


See = Callable[[Seen, str, Sequence[str]], None]  # looks for rows; the text is their round's tag


def poll(
    connection: Connection,
    region: str,
    *,
    round_tag: str,
    rows: Mapping[See, Sequence[str]],
    known: Mapping[str, Known] = MappingProxyType({}),
) -> Poll:
    """Poll all of a round's rows in a region, each in the way in which it is seen."""
    clock = connection.clock
    asked_s, asked_at = clock.now_s(), clock.utc()
    seen = Seen(connection, region, known)
    try:
        for see, some in rows.items():
            see(seen, round_tag, some)
        seen.ask_checks()
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
        sightings={
            row: seen.sighting(row) for some in rows.values() for row in some if seen.shows(row)
        },
        error=error,
    )


def sighting_of(
    request: Mapping[str, Any],
    instance: Mapping[str, Any],
    checks: Mapping[str, Mapping[str, str]] | None = None,
) -> Sighting:
    """Turn what EC2 said of a spot request and of an instance, either perhaps empty, into ours."""
    status, placement = request.get("Status", {}), instance.get("Placement", {})
    instance_id = instance.get("InstanceId") or request.get("InstanceId")
    return Sighting(
        request_state=request.get("State", ""),
        status_code=status.get("Code", ""),
        status_message=status.get("Message", ""),
        instance_id=instance_id,
        instance_state=instance.get("State", {}).get("Name"),
        instance_reason=instance.get("StateReason", {}).get("Code"),
        instance_message=instance.get("StateReason", {}).get("Message"),
        checks=(checks or {}).get(instance_id) if instance_id else None,
        availability_zone_id=request.get("LaunchedAvailabilityZoneId")
        or placement.get("AvailabilityZoneId"),
        created_at=request.get("CreateTime"),
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

"""What is left at EC2: of a set of requests, or with our tags.  It reads and changes nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spotlib.ec2.calls import (
    MOST_FILTER_VALUES,
    PAGE,
    TAG_BATCH,
    TAG_EXPIRES,
    TAG_PLAN,
    TAG_ROUND,
    chunks,
)
from spotlib.ec2.connection import Connection
from spotlib.ec2.foreign import forgotten, instance_filter, remember, request_of
from spotlib.model import LIVE_STATES, OPEN_STATES


@dataclass(frozen=True)
class Survey:
    """What is left of a set of requests: every clean-up decision rests on it.

    ``missing`` are requests we know of that EC2 does not list (yet); they never count as gone.
    Only a foreign endpoint may forget a request: one that it has cancelled, or whose instance has
    ended.
    """

    requests: Mapping[str, str]  # id -> state
    instances: Mapping[str, str]  # id -> state
    missing: frozenset[str]

    @property
    def open_requests(self) -> list[str]:
        """Requests that can still launch something."""
        return [item for item, state in self.requests.items() if state in OPEN_STATES]

    @property
    def live_instances(self) -> list[str]:
        """Instances that cost money, or may again."""
        return [item for item, state in self.instances.items() if state in LIVE_STATES]

    @property
    def quiet(self) -> bool:
        """Nothing open, nothing alive, and nothing unaccounted for."""
        return not (self.open_requests or self.live_instances or self.missing)


def survey(
    connection: Connection,
    region: str,
    *,
    batch_id: str | None = None,
    request_ids: Iterable[str] = (),
) -> Survey:
    """Find requests, by id and by a batch's tag, and their instances.

    It uses filters only: EC2 answers "none yet" to a filter, but NotFound to an id.
    """
    ids = sorted(set(request_ids))
    filters = [[{"Name": "spot-instance-request-id", "Values": some}] for some in _filter_sets(ids)]
    if batch_id is not None:
        filters.append([{"Name": f"tag:{TAG_BATCH}", "Values": [batch_id]}])
    requests: dict[str, dict[str, Any]] = {}
    for each in filters:
        for item in connection.pages(
            region,
            "describe_spot_instance_requests",
            "SpotInstanceRequests",
            Filters=each,
            MaxResults=PAGE,
        ):
            requests[item["SpotInstanceRequestId"]] = item
    remember(connection, requests.values())
    ours = {*ids, *requests}
    name, values = instance_filter(connection, region, sorted(ours))
    instances: dict[str, str] = {}
    for some in _filter_sets(values):
        by_request = [{"Name": name, "Values": some}]
        for reservation in connection.pages(
            region, "describe_instances", "Reservations", Filters=by_request, MaxResults=PAGE
        ):
            for instance in reservation["Instances"]:
                if request_of(connection, instance) in ours:
                    instances[instance["InstanceId"]] = instance["State"]["Name"]
    states = {request_id: item["State"] for request_id, item in requests.items()}
    missing = frozenset(ids) - states.keys() - forgotten(connection, instances)
    return Survey(states, instances, missing)


@dataclass(frozen=True)
class Ours:
    """A request that carries our tags; ``expires_at`` is when it would end by itself."""

    request_id: str
    batch_id: str
    round: int | None
    plan: int | None
    expires_at: datetime | None


def find_ours(connection: Connection, region: str, *, batch_id: str | None = None) -> list[Ours]:
    """Return every request in a region that carries our tag, or the tag of one batch."""
    wanted = {"Name": "tag-key", "Values": [TAG_BATCH]}
    if batch_id is not None:
        wanted = {"Name": f"tag:{TAG_BATCH}", "Values": [batch_id]}
    found = connection.pages(
        region,
        "describe_spot_instance_requests",
        "SpotInstanceRequests",
        Filters=[wanted],
        MaxResults=PAGE,
    )
    return [_ours(item) for item in found]


def _ours(item: Mapping[str, Any]) -> Ours:
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    _, _, number = tags.get(TAG_ROUND, "").rpartition("/")
    plan, expires = tags.get(TAG_PLAN, ""), tags.get(TAG_EXPIRES)
    return Ours(
        request_id=item["SpotInstanceRequestId"],
        batch_id=tags[TAG_BATCH],
        round=int(number) if number.isdecimal() else None,
        plan=int(plan) if plan.isdecimal() else None,
        expires_at=datetime.fromisoformat(expires) if expires else None,
    )


def _filter_sets(ids: Sequence[str]) -> list[list[str]]:
    return list(chunks(ids, MOST_FILTER_VALUES))

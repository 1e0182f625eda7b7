"""What is left at EC2: of a set of requests, or with our tags.  It reads and changes nothing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
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
from spotlib.ec2.connection import Caller, Connection
from spotlib.ec2.foreign import forgotten, instance_filter, remember, request_of
from spotlib.ec2.refusals import Refusal
from spotlib.model import ENDED_STATES, GONE_STATES

NOT_DESCRIBED = "not described"  # the state of what is known, but was not seen


@dataclass(frozen=True)
class Survey:
    """What is left of a set of requests: every clean-up decision rests on it.

    ``missing`` are requests we know of that EC2 does not list (yet); they never count as gone.
    Only a foreign endpoint may forget a request: one that it has cancelled, or whose instance has
    ended.
    With an ``error`` it is not complete: it proves nothing gone, but what it has is there.
    A state that is not known to be an end counts as open or alive.
    """

    requests: dict[str, str]  # id -> state
    instances: dict[str, str]  # id -> state
    missing: frozenset[str]
    error: str | None = None

    @property
    def open_requests(self) -> list[str]:
        """Requests that can still launch something."""
        return [item for item, state in self.requests.items() if state not in ENDED_STATES]

    @property
    def live_instances(self) -> list[str]:
        """Instances that cost money, or may again."""
        return [item for item, state in self.instances.items() if state not in GONE_STATES]

    @property
    def idle(self) -> bool:
        """Nothing open and nothing alive is shown, whatever is unaccounted for."""
        return not (self.error or self.open_requests or self.live_instances)

    @property
    def quiet(self) -> bool:
        """Nothing open, nothing alive, and nothing unaccounted for."""
        return self.idle and not self.missing


def survey(
    connection: Connection,
    region: str,
    *,
    batch_id: str | None = None,
    request_ids: Collection[str] = (),
) -> Survey:
    """Find requests, by id and by a batch's tag, and their instances.

    It uses filters only: EC2 answers "none yet" to a filter, but NotFound to an id.  An endpoint
    may ignore a filter, so everything found must itself name what it was found by.  An instance
    that a request of ours names is ours even if it is not shown, until the request says it ended.
    """
    ids, error = set(request_ids), None
    requests: dict[str, dict[str, Any]] = {}
    try:
        for item in _requests(connection, region, sorted(ids), batch_id):
            if item["SpotInstanceRequestId"] in ids or batch_id in _batches_of(item):
                requests[item["SpotInstanceRequestId"]] = item
    except Refusal as refusal:
        error = str(refusal)
    remember(connection, requests.values())
    instances: dict[str, str] = {}
    ours = ids | set(requests)
    named = {item["InstanceId"]: item for item in requests.values() if item.get("InstanceId")}
    unseen: list[str] = [*named]
    try:
        name, values = instance_filter(connection, region, sorted(ours))
        for instance in _instances(connection, region, name, values):
            if request_of(connection, instance) in ours:
                instances[instance["InstanceId"]] = _state_of(instance)
        late = sorted(named.keys() - instances.keys())
        for instance in _instances(connection, region, "instance-id", late):
            if instance["InstanceId"] in named:
                instances[instance["InstanceId"]] = _state_of(instance)
        unseen = [each for each, item in named.items() if _may_run(item)]
    except Refusal as refusal:
        error = error or str(refusal)
    instances = dict.fromkeys(unseen, NOT_DESCRIBED) | instances
    states = {each: item.get("State", NOT_DESCRIBED) for each, item in requests.items()}
    missing = frozenset(ids - set(states) - forgotten(connection, instances))
    return Survey(states, instances, missing, error)


def _requests(
    connection: Connection, region: str, ids: Sequence[str], batch_id: str | None
) -> Iterator[dict[str, Any]]:
    filters = [{"Name": "spot-instance-request-id", "Values": some} for some in _filter_sets(ids)]
    if batch_id is not None:
        filters.append({"Name": f"tag:{TAG_BATCH}", "Values": [batch_id]})
    for each in filters:
        yield from connection.pages(
            region,
            "describe_spot_instance_requests",
            "SpotInstanceRequests",
            Filters=[each],
            MaxResults=PAGE,
        )


def _instances(
    connection: Connection, region: str, name: str, values: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for some in _filter_sets(values):
        for reservation in connection.pages(
            region,
            "describe_instances",
            "Reservations",
            Filters=[{"Name": name, "Values": some}],
            MaxResults=PAGE,
        ):
            yield from reservation["Instances"]


def _state_of(instance: Mapping[str, Any]) -> str:
    return str(instance.get("State", {}).get("Name", NOT_DESCRIBED))


def _may_run(request: Mapping[str, Any]) -> bool:
    """Whether the instance that a request names may run, as far as the request says."""
    ended = "instance-terminated" in request.get("Status", {}).get("Code", "")
    return not ended and request.get("State") not in ("closed", "failed")


def _batches_of(item: Mapping[str, Any]) -> list[str]:
    """The batch that a request says it is of; none if it does not carry our tag."""
    return [tag["Value"] for tag in item.get("Tags", []) if tag["Key"] == TAG_BATCH]


@dataclass(frozen=True)
class Ours:
    """A request that carries our tags; ``expires_at`` is when it would end by itself."""

    request_id: str
    batch_id: str
    round: int | None
    plan: int | None
    expires_at: datetime | None


def find_ours(connection: Caller, region: str, *, batch_id: str | None = None) -> list[Ours]:
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
    ours = [_ours(item) for item in found if _batches_of(item)]  # the filter may be ignored
    return [each for each in ours if batch_id in (None, each.batch_id)]


def _ours(item: Mapping[str, Any]) -> Ours:
    tags = {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}
    _, _, number = tags.get(TAG_ROUND, "").rpartition("/")
    plan = tags.get(TAG_PLAN, "")
    return Ours(
        request_id=item["SpotInstanceRequestId"],
        batch_id=tags[TAG_BATCH],
        round=int(number) if number.isdecimal() else None,
        plan=int(plan) if plan.isdecimal() else None,
        expires_at=_moment(tags.get(TAG_EXPIRES, "")),
    )


def _moment(words: str) -> datetime | None:
    """The moment that a tag names; None if it names none: people can edit a tag."""
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _filter_sets(ids: Sequence[str]) -> list[list[str]]:
    return list(chunks(ids, MOST_FILTER_VALUES))

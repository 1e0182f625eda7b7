"""Instances that are tagged from birth: how they are polled, what is left of them, how they end.

An instance is ours if its launch call named it to us, or if it carries our tag.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import PAGE, Ended, batch_of, chunks, end_each
from spotlib.ec2.connection import Connection
from spotlib.ec2.poll import Seen
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import NOT_DESCRIBED, Resource, Survey, filters_by, tag_filter
from spotlib.track import GONE_STATES

_MOST_TERMINATED = 500  # per call; EC2 allows 1000
_ID = "instance-id"


def see_instances(seen: Seen, _: str, instance_ids: Sequence[str]) -> None:
    """Look for instances by a filter: to an id that it does not know yet EC2 answers NotFound."""
    ours = set(instance_ids)
    for each in filters_by(_ID, instance_ids):
        for reply in seen.replies("describe_instances", Filters=[each], MaxResults=PAGE):
            for instance in instances_of(reply):
                if instance["InstanceId"] in ours:  # an endpoint may ignore the filter
                    seen.instances[instance["InstanceId"]] = instance


def _survey(
    connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
) -> Survey:
    wanted, found, error = set(ids), dict[str, str](), None
    filters = filters_by(_ID, sorted(wanted))
    filters += [tag_filter(batch_id)] if batch_id is not None else []
    try:
        for instance in instances_by(connection, region, filters):
            name, owner = instance["InstanceId"], batch_of(instance)
            if name in wanted or (batch_id is not None and owner == batch_id):
                found[name] = state_of(instance)
                connection.memory.owners |= {name: owner} if owner is not None else {}
    except Refusal as refusal:
        error = str(refusal)
    over = frozenset(each for each in wanted if found.get(each) in GONE_STATES)
    return Survey({}, found, frozenset(wanted - found.keys()), error, over)


def instances_by(
    connection: Caller, region: str, filters: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the instances that pass each of the filters in turn."""
    for each in filters:
        for reservation in connection.pages(
            region, "describe_instances", "Reservations", Filters=[each], MaxResults=PAGE
        ):
            yield from reservation["Instances"]


def instances_of(reply: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the instances of one answer."""
    for reservation in reply["Reservations"]:
        yield from reservation["Instances"]


def state_of(instance: Mapping[str, Any]) -> str:
    """The state of an instance, as far as it is described."""
    return str(instance.get("State", {}).get("Name", NOT_DESCRIBED))


def _tagged(
    connection: Caller, region: str, wanted: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((item["InstanceId"], item) for item in instances_by(connection, region, [wanted]))


def terminate(connection: Connection, region: str, instance_ids: Sequence[str]) -> Ended:
    """Terminate instances."""
    sets = chunks(instance_ids, _MOST_TERMINATED)
    return end_each(connection, region, "terminate_instances", _named, sets)


def _named(ids: list[str]) -> dict[str, Any]:
    return {"InstanceIds": ids}


def _commands(where: str, ids: Sequence[str]) -> list[str]:
    return [f"aws ec2 terminate-instances {where} --instance-ids {' '.join(ids)}"]


INSTANCES = Resource(
    prefix="i-",
    survey=_survey,
    tagged=_tagged,
    end=terminate,
    commands=_commands,
    dry_run=("terminate_instances", _named(["i-00000000000000000"])),
    # A new one is listed within minutes.  About an hour after its end it is listed no more: that
    # may be before it expires, so one that was seen ended is not asked for again.
    listed_for=timedelta(minutes=15),
)

"""What all calls to EC2 share: our tags, sets of ids, and what became of a call that ends things.

An empty id list is never sent: EC2 reads it as "everything in the account".
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind

TAG_BATCH = "spotlib:batch"
TAG_ROUND = "spotlib:round"
TAG_PLAN = "spotlib:plan"
TAG_EXPIRES = "spotlib:expires"

MOST_FILTER_VALUES = 200  # per call; EC2: FilterLimitExceeded
PAGE = 1000
_NOT_KNOWN = ("InvalidInstanceID", "InvalidSpotInstanceRequestID", "InvalidLaunchTemplate")


def warm(connection: Connection, region: str, *, round_tag: str) -> None:
    """Open the connection of a request call beforehand: a handshake is no part of a launch time."""
    filters = [{"Name": f"tag:{TAG_ROUND}", "Values": [round_tag]}]
    with contextlib.suppress(Refusal):  # the request call itself will say what is wrong
        connection.call(region, "describe_spot_instance_requests", Filters=filters)


def batch_of(item: Mapping[str, Any]) -> str | None:
    """The batch that something says it is of; None if it does not carry our tag."""
    return tags_of(item).get(TAG_BATCH)


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """The tags of anything that EC2 describes."""
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", [])}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as a call takes them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def ask_near(
    connection: Caller, regions: Sequence[str], action: str, **given: Any
) -> dict[str, Any]:
    """Ask about the account in the first of these regions that answers.

    An organisation may forbid a whole region, even the partition's home region, and a private
    network may reach only its own region.

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
    tags = tag_list({TAG_BATCH: batch_id})
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


def end_each(
    connection: Connection,
    region: str,
    action: str,
    given: Callable[[list[str]], dict[str, Any]],
    sets: Iterable[list[str]],
) -> Ended:
    """One call for each set of ids; if one fails, the others are still made.

    One bad id makes a whole call fail, so then each id is tried by itself.  A single unknown id is
    no error, but it does not count as gone: only the next survey decides that.
    """
    ended, errors = list[str](), list[str]()
    for some in sets:
        try:
            connection.call(region, action, **given(some))
            ended += some
        except Refusal as refusal:
            if not refusal.code.startswith(_NOT_KNOWN):
                errors.append(str(refusal))
            elif len(some) > 1:
                alone = end_each(connection, region, action, given, chunks(some, 1))
                ended += alone.ids
                errors += alone.errors
    return Ended(tuple(ended), tuple(errors))


def chunks(ids: Sequence[str], most: int) -> Iterator[list[str]]:
    """Yield ``ids`` in pieces of at most ``most``; no ids give no piece, and so no call."""
    for start in range(0, len(ids), most):
        yield list(ids[start : start + most])

"""Fleets that wait for capacity: how they and their instances are polled, what is left, their end.

The instances of such a fleet have no names before they exist.  Therefore each requested instance
has a row from the answer on (``fleet-...#1`` and so on), and an instance that is shown for the
first time is assigned to the first row that has none.  All rows are equal, so it does not matter
which.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import PAGE, TAG_PLAN, TAG_ROUND, Ended, batch_of, chunks, tags_of
from spotlib.ec2.connection import Connection
from spotlib.ec2.instances import instances_of
from spotlib.ec2.poll import Seen
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Resource, Survey
from spotlib.track import DELETED_STATES

_MOST_NAMED = 100  # fleets per call
_DESCRIBE = "describe_fleets"
_NOT_KNOWN = "InvalidFleetId"
# Never "gone": the next survey says what is.
_NO_ERRORS = ("fleetIdDoesNotExist", "fleetIdMalformed", "fleetNotInDeletableState")
_UNKNOWN_AT = datetime.min.replace(tzinfo=UTC)


def rows_of(fleet_id: str, count: int) -> tuple[str, ...]:
    """The rows of a fleet that so many instances were asked of."""
    return tuple(f"{fleet_id}#{number}" for number in range(1, count + 1))


def fleets_of(names: Iterable[str]) -> list[str]:
    """The fleets that are named by their ids or by their rows, each once."""
    return list(dict.fromkeys(_fleet_of(each) for each in names))


def _fleet_of(name: str) -> str:
    return name.partition("#")[0]


def see_fleets(seen: Seen, round_tag: str, rows: Sequence[str]) -> None:
    """Look for the instances of fleets by their round's tag, and give them to the rows of a plan.

    An instance stays with its row.  If there are more instances than were requested, the others
    have no row: clean-up finds them by their tag.  A row without an instance shows the state of its
    fleet.
    """
    owners = {known.instance_id: row for row, known in seen.known.items() if known.instance_id}
    wanted, free = set(rows), dict[str, list[str]]()
    for row in rows:
        if not seen.known[row].instance_id:
            free.setdefault(seen.known[row].plan, []).append(row)
    fleets = _described(seen, [row for some in free.values() for row in some])
    for instance in _launched(seen, round_tag):
        waiting = free.get(tags_of(instance).get(TAG_PLAN, ""), [])
        row = owners.get(instance["InstanceId"]) or (waiting.pop(0) if waiting else "")
        if row in wanted:
            seen.instances[row] = instance
    for row in (row for some in free.values() for row in some):
        if fleet := fleets.get(_fleet_of(row)):
            code = _code(fleet, seen.connection.server_utc())
            seen.requests[row] = {"State": fleet["FleetState"], "Status": {"Code": code}}


def _launched(seen: Seen, round_tag: str) -> list[dict[str, Any]]:
    """The instances of a round, oldest first; an endpoint may ignore the filter."""
    filters = [{"Name": f"tag:{TAG_ROUND}", "Values": [round_tag]}]
    found = {
        instance["InstanceId"]: instance
        for reply in seen.replies("describe_instances", Filters=filters, MaxResults=PAGE)
        for instance in instances_of(reply)
        if tags_of(instance).get(TAG_ROUND) == round_tag
    }
    return sorted(found.values(), key=lambda each: (_launched_at(each), each["InstanceId"]))


def _launched_at(instance: Mapping[str, Any]) -> datetime:
    found: datetime = instance.get("LaunchTime", _UNKNOWN_AT)
    return found


def _described(seen: Seen, rows: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The fleets of rows by id, as far as EC2 knows them yet: a new one fails the whole call."""
    found: dict[str, dict[str, Any]] = {}
    for some in chunks(fleets_of(rows), _MOST_NAMED):
        try:
            for reply in seen.replies(_DESCRIBE, FleetIds=some):
                found |= {each["FleetId"]: each for each in reply["Fleets"]}
        except Refusal as refusal:
            if not refusal.code.startswith(_NOT_KNOWN):
                raise
    return found


def _code(fleet: Mapping[str, Any], now_at: datetime) -> str:
    """What EC2 says of a fleet: how far it has come, or how it ended."""
    state = str(fleet["FleetState"])
    if state not in DELETED_STATES:
        return str(fleet.get("ActivityStatus", state))
    return "expired" if fleet.get("ValidUntil", now_at) < now_at else state


def _survey(
    connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
) -> Survey:
    """Find fleets by listing all: no filter finds one by its tag, and an unknown id is refused.

    Their instances carry the batch's tag too, and are surveyed for themselves.
    """
    wanted, states, error = set(fleets_of(ids)), dict[str, str](), None
    try:
        for fleet in _listed(connection, region):
            name, owner = fleet["FleetId"], batch_of(fleet)
            if name in wanted or (batch_id is not None and owner == batch_id):
                states[name] = fleet["FleetState"]
    except Refusal as refusal:
        error = str(refusal)
    missing = frozenset(each for each in ids if _fleet_of(each) not in states)
    over = frozenset(each for each in ids if states.get(_fleet_of(each)) == "deleted")
    return Survey(states, {}, missing, error, over)


def _listed(connection: Caller, region: str) -> Iterator[dict[str, Any]]:
    yield from connection.pages(region, _DESCRIBE, "Fleets", MaxResults=PAGE)


def _tagged(
    connection: Caller, region: str, _: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((item["FleetId"], item) for item in _listed(connection, region))


def delete(connection: Connection, region: str, names: Sequence[str]) -> Ended:
    """Delete fleets with their instances.  An answer 200 may name fleets that were not deleted."""
    done, errors = set[str](), list[str]()
    for some in chunks(fleets_of(names), _MOST_NAMED):
        try:
            reply = connection.call(region, "delete_fleets", **_named(some))
        except Refusal as refusal:
            errors.append(str(refusal))
            continue
        done.update(each["FleetId"] for each in reply.get("SuccessfulFleetDeletions", []))
        for each in reply.get("UnsuccessfulFleetDeletions", []):
            error = each["Error"]
            if error["Code"] not in _NO_ERRORS:
                words = f"{error['Code']} ({error.get('Message', '')})"
                errors.append(f"delete_fleets in {region}: {each['FleetId']}: {words}")
    return Ended(tuple(each for each in names if _fleet_of(each) in done), tuple(errors))


def _named(ids: list[str]) -> dict[str, Any]:
    return {"FleetIds": ids, "TerminateInstances": True}


def _commands(where: str, names: Sequence[str]) -> list[str]:
    ids = " ".join(fleets_of(names))
    return [f"aws ec2 delete-fleets {where} --terminate-instances --fleet-ids {ids}"]


FLEETS = Resource(
    prefix="fleet-",
    survey=_survey,
    tagged=_tagged,
    end=delete,
    commands=_commands,
    dry_run=("delete_fleets", _named(["fleet-00000000-0000-0000-0000-000000000000"])),
    listed_for=timedelta(days=1),  # two days after its end, says EC2
    special=True,
    rows=rows_of,
)

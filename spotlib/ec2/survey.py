"""Find and end what is left at EC2, of every kind, so that clean-up need not know the kinds."""

from collections.abc import Collection, Iterable, Sequence

from spotlib.ec2.calls import Ended
from spotlib.ec2.connection import Connection
from spotlib.ec2.events import EVENTS
from spotlib.ec2.fleets import FLEETS
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES
from spotlib.ec2.resource import Resource, Survey
from spotlib.ec2.spot_requests import SPOT_REQUESTS

# What can still launch something comes first: it is ended first.
LAUNCHED = (FLEETS, SPOT_REQUESTS, LAUNCH_TEMPLATES, INSTANCES)
RESOURCES = (*LAUNCHED, EVENTS)


def survey(
    connection: Connection,
    region: str,
    *,
    resources: Iterable[Resource],
    batch_id: str | None = None,
    ids: Collection[str] = (),
) -> Survey:
    """Survey these kinds by a batch's tag, and every id, whatever kind it is of."""
    wanted = set(resources)
    parts = [
        each.survey(connection, region, batch_id=batch_id, ids=mine)
        for each in RESOURCES
        if (mine := each.of(ids)) or each in wanted
    ]
    return parts[0] if len(parts) == 1 else Survey.joined(parts)


def end_things(connection: Connection, region: str, ids: Sequence[str]) -> Ended:
    """End what these ids name, each in the way of its kind."""
    ends = [each.end(connection, region, each.of(ids)) for each in RESOURCES]
    return Ended(
        tuple(name for each in ends for name in each.ids),
        tuple(words for each in ends for words in each.errors),
    )

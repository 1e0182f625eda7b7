"""Launch templates, which a fleet needs: made before the call, and deleted by the clean-up.

One launches nothing by itself and costs nothing, but an account holds only so many.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import TAG_BATCH, Ended, batch_of, end_each
from spotlib.ec2.connection import Connection
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Resource, Survey, tag_filter

VERSION = "1"  # by its number: what $Latest means could change between two attempts
MAKE = "create_launch_template"
_DESCRIBE = "describe_launch_templates"
_ID = "LaunchTemplateId"
_THERE = "there"  # the state of one that exists
_SHOWN_AFTER_S = (0.5, 1.0, 2.0, 4.0)  # a new template may be unknown for seconds


def make(connection: Connection, region: str, parameters: Mapping[str, Any]) -> None:
    """Make a template and wait until it is listed; to make it again changes nothing.

    Raises
    ------
    Refusal
        If it cannot be made.
    """
    patient = Patient(connection)
    patient.call(region, MAKE, **parameters)
    named = {"Name": "launch-template-name", "Values": [parameters["LaunchTemplateName"]]}
    for pause_s in _SHOWN_AFTER_S:
        if any(_pages(patient, region, named)):
            return
        connection.clock.sleep(pause_s)


def _survey(
    connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
) -> Survey:
    """A template that is not listed is gone: it is made long before clean-up, and listed at once.

    So none is ever missing, and one that is deleted is not waited for.
    """
    wanted = set(ids)  # no filter finds one by its id, and an id that is unknown is refused
    filters = [{"Name": "tag-key", "Values": [TAG_BATCH]}] if wanted else []
    filters += [tag_filter(batch_id)] if batch_id is not None else []
    found: dict[str, str] = {}
    try:
        for each in filters:
            for item in _pages(connection, region, each):
                if item[_ID] in wanted or (batch_id is not None and batch_of(item) == batch_id):
                    found[item[_ID]] = _THERE
    except Refusal as refusal:
        return Survey(found, {}, frozenset(), str(refusal))
    return Survey(found, {}, frozenset())


def _pages(connection: Caller, region: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from connection.pages(region, _DESCRIBE, "LaunchTemplates", Filters=[wanted])


def _tagged(
    connection: Caller, region: str, wanted: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((item[_ID], item) for item in _pages(connection, region, wanted))


def _delete(connection: Connection, region: str, template_ids: Sequence[str]) -> Ended:
    sets = ([each] for each in template_ids)
    return end_each(connection, region, "delete_launch_template", _named, sets)


def _named(ids: list[str]) -> dict[str, Any]:
    return {_ID: ids[0]}


def _commands(where: str, ids: Sequence[str]) -> list[str]:
    return [f"aws ec2 delete-launch-template {where} --launch-template-id {each}" for each in ids]


LAUNCH_TEMPLATES = Resource(
    prefix="lt-",
    survey=_survey,
    tagged=_tagged,
    end=_delete,
    commands=_commands,
    dry_run=("delete_launch_template", _named(["lt-00000000000000000"])),
    listed_for=timedelta(0),
    special=True,
)

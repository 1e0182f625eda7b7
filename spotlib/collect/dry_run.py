"""Whether the calls that change something would be allowed: EC2 is asked with DryRun.

EC2 answers ``DryRunOperation`` for yes.  An endpoint that executes the call instead is refused, and
what it launched is ended at once.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from spotlib.cleanup.close import settle
from spotlib.cleanup.commands import aws_options
from spotlib.collect.answers import Answers
from spotlib.collect.cost import PreparedPlan
from spotlib.ec2.calls import TAG_BATCH
from spotlib.ec2.connection import Connection
from spotlib.ec2.console import GET
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.methods.method import Method, Order
from spotlib.ec2.methods.registry import METHODS, left_by
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import PASSING_KINDS, Refusal
from spotlib.ec2.survey import RESOURCES
from spotlib.model import Kind, Stage
from spotlib.record.events import ReleaseEvent

_VALID = timedelta(minutes=5)  # so that even an ignored DryRun ends by itself
_PERHAPS = (
    "whether what is launched may be ended is not known: {}; a policy that allows it only for what "
    "carries our tag refuses the made-up id of this question, too"
)
_YES = "DryRunOperation"
_NO_INSTANCE = "i-00000000000000000"
# Ids are made up, and EC2 may look for them first.
_NO_SUCH_ID = re.compile(
    r"Invalid(InstanceID|SpotInstanceRequestID|FleetId|LaunchTemplate(Id|Name))\.(Malformed|NotFound.*)"
)


def ask_dry_runs(answers: Answers, region: str, prepared: Sequence[PreparedPlan]) -> None:
    """Note what would prevent the calls in a region; those of the clean-up are tried first.

    Raises
    ------
    ValueError
        If the endpoint executes a call that was only asked about.
    """
    patient, names = answers.connection, {each.plan.method for each in prepared}
    left = {INSTANCES, *left_by(names)}
    only_ours = all(METHODS[name].tags_at_birth for name in names)
    for action, given in (each.dry_run for each in RESOURCES if each in left and each.dry_run):
        refusal = _asked(patient, region, action, given)
        if only_ours and refusal.kind is Kind.PERMISSION:
            answers.warnings.append(_PERHAPS.format(refusal))
        elif not _is_yes(refusal):  # another program may fail at an id that is made up
            failed = refusal.kind in PASSING_KINDS
            (answers.lacks if failed else answers.problems.append)(str(refusal))
    stamped = [each.plan for each in prepared if each.plan.is_stamped]
    if stamped:
        refusal = _asked(patient, region, GET, {"InstanceId": _NO_INSTANCE})
        if not _is_yes(refusal):
            needed = any(plan.wanted is Stage.USABLE for plan in stamped)
            sentence = f"when a guest is usable cannot be seen: {refusal}"
            (answers.problems if needed else answers.warnings).append(sentence)
    different = {
        (each.plan.arm, each.subnet_id, each.family, each.image): each
        for each in reversed(prepared)
    }
    for each in different.values():
        method = METHODS[each.plan.method]
        for action, given in method.calls(method.parameters(_order(patient, each))).items():
            refusal = _asked(patient, region, action, given, method)
            if not _is_yes(refusal) and not refusal.is_outcome:  # the market's state is measured
                answers.problems.append(str(refusal))


def _is_yes(refusal: Refusal) -> bool:
    return refusal.code == _YES or _NO_SUCH_ID.fullmatch(refusal.code) is not None


def _order(patient: Patient, each: PreparedPlan) -> Order:
    name = f"dry-run-{secrets.token_hex(4)}"
    return Order(
        each.plan,
        image=each.image,
        token=name,
        valid_until=patient.server_utc().replace(microsecond=0) + _VALID,
        tags={TAG_BATCH: name},
        shutdown_after_min=each.shutdown_after_min,
        subnet_id=each.subnet_id,
        group_id=each.group_id,
    )


def _asked(
    patient: Patient,
    region: str,
    action: str,
    given: Mapping[str, Any],
    method: Method | None = None,
) -> Refusal:
    """Return the refusal that a DryRun always has."""
    try:
        reply = patient.call(region, action, DryRun=True, **given)
    except Refusal as refusal:
        return refusal
    undone = "nothing was launched"
    if method is not None:
        rows = method.read(reply, 0).rows if action == method.action else ()
        undone = _undo(patient.connection, region, method, given["ClientToken"], rows)
    raise ValueError(
        f"{patient.connection.endpoint} executed {action} in {region}, although it was only asked "
        f"about it (DryRun): {undone}; use another endpoint"
    )


def _undo(
    connection: Connection, region: str, method: Method, name: str, rows: Sequence[str]
) -> str:
    """End what was launched or made; say what became of it."""
    passes: list[ReleaseEvent] = []
    cleaned = settle(
        connection,
        batch_id=name,
        request_ids={region: rows},
        resources=method.leaves,
        note=passes.append,
    )
    if not cleaned.confirmed:
        commands = cleaned.commands(aws_options(connection))
        return f"it is NOT confirmed that it was ended, finish with: {' && '.join(commands)}"
    ended = {*rows, *(name for one in passes for name in (*one.cancelled, *one.terminated))}
    return f"what it launched was ended, and nothing of it is left ({', '.join(sorted(ended))})"

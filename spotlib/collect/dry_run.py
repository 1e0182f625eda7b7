"""Whether the calls that change something would be allowed: EC2 is asked with DryRun.

EC2 answers ``DryRunOperation`` for yes.  An endpoint that executes the call instead is refused, and
what it launched is ended at once.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from spotlib.cleanup.close import settle
from spotlib.cleanup.commands import aws_options
from spotlib.collect.cost import PreparedPlan
from spotlib.ec2.calls import TAG_BATCH
from spotlib.ec2.connection import Connection
from spotlib.ec2.methods.request_spot_instances import request_parameters
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.record.events import ReleaseEvent

_VALID = timedelta(minutes=5)  # so that even an ignored DryRun ends by itself
_YES = frozenset({"DryRunOperation"})
_NO_SUCH_ID = frozenset(  # the ids are made up, and EC2 may look for them first
    {
        "InvalidInstanceID.Malformed",
        "InvalidInstanceID.NotFound",
        "InvalidSpotInstanceRequestID.Malformed",
        "InvalidSpotInstanceRequestID.NotFound",
    }
)


def dry_run_problems(
    patient: Patient, region: str, prepared: Sequence[PreparedPlan]
) -> Iterator[str]:
    """Yield what stands in the way of the calls in a region, those of the clean-up first.

    Raises
    ------
    ValueError
        If the endpoint executes a call that was only asked about.
    """
    made_up: dict[str, dict[str, Any]] = {
        "cancel_spot_instance_requests": {"SpotInstanceRequestIds": ["sir-00000000"]},
        "terminate_instances": {"InstanceIds": ["i-00000000000000000"]},
    }
    for action, given in made_up.items():
        refusal = _asked(patient, region, action, given)
        if refusal.code not in _YES | _NO_SUCH_ID:
            yield str(refusal)
    different = {(each.subnet_id, each.family, each.image): each for each in reversed(prepared)}
    for each in different.values():
        refusal = _asked(patient, region, "request_spot_instances", _request(patient, each))
        if refusal.code not in _YES and not refusal.is_outcome:  # the market's state is measured
            yield str(refusal)


def _request(patient: Patient, each: PreparedPlan) -> dict[str, Any]:
    name = f"dry-run-{secrets.token_hex(4)}"
    return request_parameters(
        each.plan,
        image=each.image,
        token=name,
        valid_until=patient.server_utc().replace(microsecond=0) + _VALID,
        tags={TAG_BATCH: name},
        shutdown_after_min=each.shutdown_after_min,
        subnet_id=each.subnet_id,
        group_id=each.group_id,
    )


def _asked(patient: Patient, region: str, action: str, given: Mapping[str, Any]) -> Refusal:
    """Return the refusal that a DryRun always has."""
    try:
        reply = patient.call(region, action, DryRun=True, **given)
    except Refusal as refusal:
        return refusal
    undone = _undo(patient.connection, region, given, reply)
    raise ValueError(
        f"{patient.connection.endpoint} executed {action} in {region}, although it was only asked "
        f"about it (DryRun): {undone}; use another endpoint"
    )


def _undo(
    connection: Connection, region: str, given: Mapping[str, Any], reply: Mapping[str, Any]
) -> str:
    """End what was launched, if anything was; say what became of it."""
    ids = [item["SpotInstanceRequestId"] for item in reply.get("SpotInstanceRequests", [])]
    if not ids:
        return "nothing was launched"
    name = given["ClientToken"]
    passes: list[ReleaseEvent] = []
    cleaned = settle(connection, batch_id=name, request_ids={region: ids}, note=passes.append)
    if not cleaned.confirmed:
        commands = cleaned.commands(aws_options(connection))
        return f"it is NOT confirmed that it was ended, finish with: {' && '.join(commands)}"
    terminated = {each for one in passes for each in one.terminated}
    ended = ", ".join([*ids, *sorted(terminated)])
    return f"what it launched was ended, and nothing of it is left ({ended})"

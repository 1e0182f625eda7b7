"""CreateFleet of type ``instant``, spot or on demand: what EC2 can launch at once, once.

A row is an instance, as with RunInstances.  The call answers 200 also if nothing was launched, and
then its token is spent: it is not sent again.  Each fleet has a launch template of its own, which
the clean-up deletes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from spotlib.ec2.instances import INSTANCES, see_instances
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES, MAKE
from spotlib.ec2.methods import fleet, launch
from spotlib.ec2.methods.method import Given, Method, Order, Parameters
from spotlib.ec2.poll import sighting_of
from spotlib.ec2.refusals import Refusal, garbled, refusal_of_code
from spotlib.model import Kind


def _parameters(order: Order) -> Parameters:
    parameters = {"Type": "instant", **fleet.fleet_parameters(order)}
    parameters["TagSpecifications"] += launch.tag_specifications(order)
    return {MAKE: fleet.template_parameters(order), fleet.ACTION: parameters}


def _read(reply: Mapping[str, Any], count: int) -> Given:
    shown = {
        name: sighting_of(
            {},
            {
                "InstanceId": name,
                "Placement": {"AvailabilityZoneId": each.get("AvailabilityZoneId")},
            },
        )
        for each in reply.get("Instances", [])
        for name in each["InstanceIds"]
    }
    lacking = _why(reply.get("Errors", [])) if len(shown) < count else None
    return Given(tuple(shown), shown, lacking)


def _why(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """Why instances were not launched.  There is an error for each pool, not for each instance.

    A pool that was not tried, because a quota was full or the fleet was throttled, might have had
    capacity: then the refusal says nothing about the market.  A pool that does not offer the type
    at all counts only if there is no other error.

    Raises
    ------
    Refusal
        If there is no error: the answer cannot be read, and is asked for again.
    """
    found = [
        refusal_of_code(each["ErrorCode"], each.get("ErrorMessage", ""), action=fleet.ACTION)
        for each in errors
    ]
    if not found:
        raise garbled("instance and no error", action=fleet.ACTION, region="")
    market = [each for each in found if each.is_outcome]
    untried = [e for e in found if not e.is_outcome and e.kind is not Kind.PARAMETERS]
    return (untried or market or found)[0]


CREATE_FLEET_INSTANT = Method(
    action=fleet.ACTION,
    parameters=_parameters,
    read=_read,
    see=see_instances,
    row=INSTANCES,
    leaves=(LAUNCH_TEMPLATES, INSTANCES),
    permissions=fleet.PERMISSIONS,
    prepare=fleet.prepare,
    role=fleet.ROLE,
)

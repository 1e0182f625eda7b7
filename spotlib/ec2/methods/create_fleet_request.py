"""CreateFleet of type ``request``, spot or on demand: EC2 holds it until it has capacity.

It is what AWS recommends instead of RequestSpotInstances.  A row is an instance asked for: it is
accepted at the answer, and fulfilled when an instance of the fleet is first shown for it.  EC2
itself deletes the fleet with its instances when it expires.
"""

from collections.abc import Mapping
from typing import Any

from spotlib.ec2.calls import tag_list
from spotlib.ec2.fleets import FLEETS, rows_of, see_fleets
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES, MAKE
from spotlib.ec2.methods import launch
from spotlib.ec2.methods.create_fleet_instant import (
    CREATE_FLEET_INSTANT,
    fleet_parameters,
    template_parameters,
)
from spotlib.ec2.methods.method import Given, Method, Order, Parameters


def _parameters(order: Order) -> Parameters:
    """The template tags the instances: such a fleet can tag itself only."""
    template = template_parameters(order)
    template["LaunchTemplateData"]["TagSpecifications"] = launch.tag_specifications(order)
    fleet = {
        **fleet_parameters(order),
        "Type": "request",
        "ValidUntil": order.valid_until.isoformat(),
        "TerminateInstancesWithExpiration": True,
        "TagSpecifications": [{"ResourceType": "fleet", "Tags": tag_list(order.tags)}],
    }
    return {MAKE: template, CREATE_FLEET_INSTANT.action: fleet}


def _read(reply: Mapping[str, Any], count: int) -> Given:
    return Given(rows_of(reply["FleetId"], count))


_SEE_FLEETS = {"Sid": "SeeFleets", "Action": "ec2:DescribeFleets", "Resource": "*"}
_DELETE_OUR_FLEETS = {
    "Sid": "DeleteOnlyOurFleets",
    "Action": "ec2:DeleteFleets",
    "Resource": "arn:aws:ec2:*:*:fleet/*",
    "Condition": launch.TERMINATE_OURS["Condition"],
}
CREATE_FLEET_REQUEST = Method(
    action=CREATE_FLEET_INSTANT.action,
    parameters=_parameters,
    read=_read,
    see=see_fleets,
    row=FLEETS,
    leaves=(FLEETS, LAUNCH_TEMPLATES, INSTANCES),
    permissions=(*CREATE_FLEET_INSTANT.permissions, _SEE_FLEETS, _DELETE_OUR_FLEETS),
    prepare=CREATE_FLEET_INSTANT.prepare,
    role=CREATE_FLEET_INSTANT.role,
)

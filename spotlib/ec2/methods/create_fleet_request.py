"""CreateFleet of type ``request``, spot or on demand: EC2 holds it until it has capacity.

AWS recommends it instead of RequestSpotInstances.  A row is a requested instance: it is accepted at
the answer, and fulfilled when an instance of the fleet is first assigned to it.  EC2 itself deletes
the fleet with its instances when it expires.
"""

from collections.abc import Mapping
from typing import Any

from spotlib.ec2.fleets import FLEETS, rows_of, see_fleets
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES, MAKE
from spotlib.ec2.methods import fleet, launch
from spotlib.ec2.methods.method import Given, Method, Order, Parameters


def _parameters(order: Order) -> Parameters:
    """The template tags the instances: such a fleet can tag itself only."""
    template = fleet.template_parameters(order)
    template["LaunchTemplateData"]["TagSpecifications"] = launch.tag_specifications(order)
    parameters = {
        "Type": "request",
        **fleet.fleet_parameters(order),
        "ValidUntil": order.valid_until.isoformat(),
        "TerminateInstancesWithExpiration": True,
    }
    return {MAKE: template, fleet.ACTION: parameters}


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
    action=fleet.ACTION,
    parameters=_parameters,
    read=_read,
    see=see_fleets,
    row=FLEETS,
    leaves=(FLEETS, LAUNCH_TEMPLATES, INSTANCES),
    permissions=(*fleet.PERMISSIONS, _SEE_FLEETS, _DELETE_OUR_FLEETS),
    prepare=fleet.prepare,
    role=fleet.ROLE,
)

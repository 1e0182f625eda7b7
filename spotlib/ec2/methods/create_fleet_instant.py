"""CreateFleet of type ``instant``, spot or on demand: what EC2 can launch at once, once.

A row is an instance, as with RunInstances.  The call answers 200 also if nothing was launched, and
then its token is spent: it is not sent again.  Each fleet has a launch template of its own, which
the clean-up deletes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from spotlib.ec2.calls import tag_list
from spotlib.ec2.connection import Connection
from spotlib.ec2.instances import INSTANCES, see_instances
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES, MAKE, VERSION, make
from spotlib.ec2.methods import launch
from spotlib.ec2.methods.method import Given, Method, Order, Parameters
from spotlib.ec2.poll import sighting_of
from spotlib.ec2.refusals import Refusal, garbled, refusal_of_code
from spotlib.model import SPOT, Kind

_ACTION = "create_fleet"


def _parameters(order: Order) -> Parameters:
    return {MAKE: template_parameters(order), _ACTION: _fleet_parameters(order)}


def template_parameters(order: Order) -> Parameters:
    """What CreateLaunchTemplate sends; its name is that of the run."""
    return {
        "ClientToken": order.token,
        "LaunchTemplateName": f"spotlib-{order.token}",
        "LaunchTemplateData": {
            "ImageId": order.image,
            "InstanceType": order.plan.target.instance_type,
            "InstanceInitiatedShutdownBehavior": "terminate",  # else the switch only stops it
            "UserData": launch.user_data(order),  # botocore sends it as it is
            **launch.network_interfaces(order),
        },
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": tag_list(order.tags)}],
    }


def _fleet_parameters(order: Order) -> Parameters:
    plan = order.plan
    override: Parameters = {"InstanceType": plan.target.instance_type}
    if plan.max_price_usd is not None:
        override["MaxPrice"] = f"{plan.max_price_usd:.6f}"
    parameters: Parameters = {
        "ClientToken": order.token,
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateName": f"spotlib-{order.token}",
                    "Version": VERSION,
                },
                "Overrides": [override],
            }
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": plan.count,
            "DefaultTargetCapacityType": plan.purchase,
        },
        "TagSpecifications": [
            {"ResourceType": "fleet", "Tags": tag_list(order.tags)},
            *launch.tag_specifications(order),
        ],
    }
    if plan.purchase == SPOT:
        parameters["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized"}
    return parameters


def _prepare(connection: Connection, region: str, calls: Mapping[str, Parameters]) -> None:
    make(connection, region, calls[MAKE])


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
    """Why instances did not come.  There is an error for each pool, not for each instance.

    A pool that was not tried, because a quota was full or the fleet was throttled, might have had
    capacity: then it is not the market's answer.  A pool that does not offer the type at all says
    nothing beside others.

    Raises
    ------
    Refusal
        If there is no error: the answer cannot be read, and is asked for again.
    """
    found = [
        refusal_of_code(each["ErrorCode"], each.get("ErrorMessage", ""), action=_ACTION)
        for each in errors
    ]
    if not found:
        raise garbled("instance and no error", action=_ACTION, region="")
    market = [each for each in found if each.is_outcome]
    untried = [e for e in found if not e.is_outcome and e.kind is not Kind.PARAMETERS]
    return (untried or market or found)[0]


CREATE_FLEET_INSTANT = Method(
    action=_ACTION,
    parameters=_parameters,
    read=_read,
    see=see_instances,
    row=INSTANCES,
    leaves=(LAUNCH_TEMPLATES, INSTANCES),
    permissions=(
        launch.LAUNCH,
        launch.MAKE_FLEETS,
        launch.TAG_AT_BIRTH,
        launch.TAG_FLEETS,
        launch.TERMINATE_OURS,
        launch.DELETE_OUR_TEMPLATES,
    ),
    prepare=_prepare,
    role=("AWSServiceRoleForEC2Fleet", "ec2fleet.amazonaws.com"),
)

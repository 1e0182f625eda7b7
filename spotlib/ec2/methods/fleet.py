"""What the calls of all fleets share: a launch template of their own, and what they ask for.

The clean-up deletes the template.
"""

from collections.abc import Mapping

from spotlib.ec2.calls import tag_list
from spotlib.ec2.connection import Connection
from spotlib.ec2.launch_templates import MAKE, VERSION, make
from spotlib.ec2.methods import launch
from spotlib.ec2.methods.method import Order, Parameters
from spotlib.model import SPOT

ACTION = "create_fleet"
ROLE = ("AWSServiceRoleForEC2Fleet", "ec2fleet.amazonaws.com")
PERMISSIONS = (
    launch.LAUNCH,
    launch.MAKE_FLEETS,
    launch.TAG_AT_BIRTH,
    launch.TAG_FLEETS,
    launch.TERMINATE_OURS,
    launch.DELETE_OUR_TEMPLATES,
)


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


def fleet_parameters(order: Order) -> Parameters:
    """What CreateFleet sends; it launches from the run's own template."""
    plan = order.plan
    override: Parameters = {"InstanceType": plan.target.instance_type}
    if plan.max_price_usd is not None:
        override["MaxPrice"] = f"{plan.max_price_usd:.6f}"
    parameters: Parameters = {
        "ClientToken": order.token,
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
        "TagSpecifications": [{"ResourceType": "fleet", "Tags": tag_list(order.tags)}],
    }
    if plan.purchase == SPOT:
        parameters["SpotOptions"] = {"AllocationStrategy": "price-capacity-optimized"}
    return parameters


def prepare(connection: Connection, region: str, calls: Mapping[str, Parameters]) -> None:
    """Make the template."""
    make(connection, region, calls[MAKE])

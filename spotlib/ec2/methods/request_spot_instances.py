"""RequestSpotInstances: EC2 holds each request until it has capacity, or until it expires.

A row is a spot request: it has an id at the answer, and an instance later.
"""

from collections.abc import Mapping
from typing import Any

from spotlib.ec2.calls import tag_list
from spotlib.ec2.methods.launch import network_interfaces, user_data
from spotlib.ec2.methods.method import Given, Method, Order, Parameters
from spotlib.ec2.spot_requests import SPOT_REQUESTS, see_requests


def _parameters(order: Order) -> Parameters:
    """A region target names no subnet, because naming one pins the zone.

    A zone target names the zone's default subnet and takes no public address, which only such a
    call can do without.
    """
    plan = order.plan
    specification: Parameters = {
        "ImageId": order.image,
        "InstanceType": plan.target.instance_type,
        "UserData": user_data(order),  # botocore sends it as it is
        **network_interfaces(order),
    }
    parameters: Parameters = {
        "ClientToken": order.token,
        "InstanceCount": plan.count,
        "Type": "one-time",
        "InstanceInterruptionBehavior": "terminate",
        "ValidUntil": order.valid_until.isoformat(),
        "TagSpecifications": [
            {
                "ResourceType": "spot-instances-request",  # EC2 refuses any other here
                "Tags": tag_list(order.tags),
            }
        ],
        "LaunchSpecification": specification,
    }
    if plan.max_price_usd is not None:
        parameters["SpotPrice"] = f"{plan.max_price_usd:.6f}"
    return parameters


def _read(reply: Mapping[str, Any], _: int) -> Given:
    return Given(tuple(item["SpotInstanceRequestId"] for item in reply["SpotInstanceRequests"]))


# Its instances start without tags, so the right to terminate cannot be limited to ours.
_PERMISSIONS = (
    {
        "Sid": "LaunchAndCleanUp",
        "Action": [
            "ec2:CancelSpotInstanceRequests",
            "ec2:RequestSpotInstances",
            "ec2:TerminateInstances",
        ],
        "Resource": "*",
    },
    {
        "Sid": "TagRequestsAndTheirInstances",
        "Action": "ec2:CreateTags",
        "Resource": [
            "arn:aws:ec2:*:*:spot-instances-request/*",
            "arn:aws:ec2:*:*:instance/*",
        ],
    },
)
REQUEST_SPOT_INSTANCES = Method(
    action="request_spot_instances",
    parameters=_parameters,
    read=_read,
    see=see_requests,
    row=SPOT_REQUESTS,
    leaves=(SPOT_REQUESTS,),  # its instances are found through them
    permissions=_PERMISSIONS,
    tags_at_birth=False,
)

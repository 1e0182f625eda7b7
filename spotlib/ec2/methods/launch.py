"""What a launch says of its instances, whichever method sends it."""

import base64

from spotlib.ec2.calls import tag_list
from spotlib.ec2.methods.method import Order, Parameters

_BORN_TAGGED = ("instance", "volume", "network-interface")
_OURS = {"StringLike": {"aws:ResourceTag/spotlib:batch": "*"}}
LAUNCH = {"Sid": "Launch", "Action": "ec2:RunInstances", "Resource": "*"}
TAG_AT_BIRTH = {
    "Sid": "TagWhatIsLaunched",
    "Action": "ec2:CreateTags",
    "Resource": [f"arn:aws:ec2:*:*:{kind}/*" for kind in _BORN_TAGGED],
    "Condition": {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateFleet"]}},
}
TERMINATE_OURS = {
    "Sid": "TerminateOnlyOurs",
    "Action": "ec2:TerminateInstances",
    "Resource": "arn:aws:ec2:*:*:instance/*",
    "Condition": _OURS,
}
MAKE_FLEETS = {
    "Sid": "MakeFleets",
    "Action": ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:DescribeLaunchTemplates"],
    "Resource": "*",
}
TAG_FLEETS = {
    "Sid": "TagFleetsAndTemplates",
    "Action": "ec2:CreateTags",
    "Resource": ["arn:aws:ec2:*:*:fleet/*", "arn:aws:ec2:*:*:launch-template/*"],
    "Condition": {"StringEquals": {"ec2:CreateAction": ["CreateFleet", "CreateLaunchTemplate"]}},
}
DELETE_OUR_TEMPLATES = {
    "Sid": "DeleteOnlyOurTemplates",
    "Action": "ec2:DeleteLaunchTemplate",
    "Resource": "arn:aws:ec2:*:*:launch-template/*",
    "Condition": _OURS,
}


def network_interfaces(order: Order) -> Parameters:
    """Pin a zone by its default subnet, without a public address; nothing for a region target."""
    if order.subnet_id is None:
        return {}
    return {
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": order.subnet_id,
                "Groups": [order.group_id],
                "AssociatePublicIpAddress": False,
                "DeleteOnTermination": True,
            }
        ]
    }


def tag_specifications(order: Order) -> list[Parameters]:
    """Tag the instances, and what comes with each, from birth.

    Spot requests get no tags here: each is one-time and has its instance at the answer, so it
    closes with it and nothing of it is ever looked for.
    """
    tags = tag_list(order.tags)
    return [{"ResourceType": kind, "Tags": tags} for kind in _BORN_TAGGED]


def switch_script(shutdown_after_min: int) -> str:
    """Return the dead-man's switch: a script with which the instance shuts itself down."""
    return f'#!/bin/sh\nshutdown -h +{shutdown_after_min} "spotlib dead-man\'s switch"\n'


def user_data(shutdown_after_min: int) -> str:
    """Return the switch as user data, in base64, encoded once.

    cloud-init silently ignores a script whose first bytes are not ``#!``.
    """
    return base64.b64encode(switch_script(shutdown_after_min).encode()).decode()

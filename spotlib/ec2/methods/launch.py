"""What a launch specifies about its instances, the same for every method."""

import base64
from collections.abc import Sequence

from spotlib.ec2.calls import tag_list
from spotlib.ec2.methods.method import Order, Parameters
from spotlib.stamp import script_lines

_BORN_TAGGED = ("instance", "volume", "network-interface")


def _tagging(sid: str, kinds: Sequence[str], *, by: Sequence[str]) -> Parameters:
    """The permission to tag things of these kinds, in the calls that make them only."""
    return {
        "Sid": sid,
        "Action": "ec2:CreateTags",
        "Resource": [f"arn:aws:ec2:*:*:{kind}/*" for kind in kinds],
        "Condition": {"StringEquals": {"ec2:CreateAction": [*by]}},
    }


def _ending_ours(sid: str, action: str, kind: str) -> Parameters:
    """The permission to end things of a kind, of those that carry our tag only."""
    return {
        "Sid": sid,
        "Action": action,
        "Resource": f"arn:aws:ec2:*:*:{kind}/*",
        "Condition": {"StringLike": {"aws:ResourceTag/spotlib:batch": "*"}},
    }


LAUNCH = {"Sid": "Launch", "Action": "ec2:RunInstances", "Resource": "*"}
TAG_AT_BIRTH = _tagging("TagWhatIsLaunched", _BORN_TAGGED, by=("RunInstances", "CreateFleet"))
TERMINATE_OURS = _ending_ours("TerminateOnlyOurs", "ec2:TerminateInstances", "instance")
MAKE_FLEETS = {
    "Sid": "MakeFleets",
    "Action": ["ec2:CreateFleet", "ec2:CreateLaunchTemplate", "ec2:DescribeLaunchTemplates"],
    "Resource": "*",
}
TAG_FLEETS = _tagging(
    "TagFleetsAndTemplates",
    ("fleet", "launch-template"),
    by=("CreateFleet", "CreateLaunchTemplate"),
)
DELETE_OUR_TEMPLATES = _ending_ours(
    "DeleteOnlyOurTemplates", "ec2:DeleteLaunchTemplate", "launch-template"
)


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
    closes with its instance and is never searched for.
    """
    tags = tag_list(order.tags)
    return [{"ResourceType": kind, "Tags": tags} for kind in _BORN_TAGGED]


def script(order: Order) -> str:
    """Return what each instance runs: the dead-man's switch, with which it shuts itself down.

    If the plan records when a guest is usable, the guest reports it after the switch is set.
    """
    minutes = order.shutdown_after_min
    switch = f'#!/bin/sh\nshutdown -h +{minutes} "spotlib dead-man\'s switch"\n'
    return switch + script_lines() * order.plan.is_stamped


def user_data(order: Order) -> str:
    """Return the script as user data, in base64, encoded once.

    cloud-init silently ignores a script whose first bytes are not ``#!``.
    """
    return base64.b64encode(script(order).encode()).decode()

"""The smallest IAM policy for some launch methods: what each needs, and what all of them ask.

``spotlib policy`` prints it.  ``policy.json`` is that of the default method.
"""

from collections.abc import Iterable
from typing import Any

from spotlib.ec2.events import PREFIX
from spotlib.ec2.methods.registry import METHODS
from spotlib.model import require_arms, require_events

_LOOK = (
    *("ec2:DescribeImages", "ec2:DescribeInstanceStatus", "ec2:DescribeInstanceTypeOfferings"),
    *("ec2:DescribeInstanceTypes", "ec2:DescribeInstances", "ec2:DescribeRegions"),
    *("ec2:DescribeSecurityGroups", "ec2:DescribeSpotInstanceRequests"),
    *("ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets", "ec2:DescribeVpcs"),
    "ssm:GetParameters",
)
_OPTIONAL = (
    *("ec2:GetSpotPlacementScores", "iam:GetRole", "pricing:GetProducts"),
    *("servicequotas:ListAWSDefaultServiceQuotas", "servicequotas:ListServiceQuotas"),
)
_USABLE = ("ec2:GetConsoleOutput",)
_READ_QUEUE = ("sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage")
_MAKE_EVENTS = (
    *("events:DeleteRule", "events:DescribeRule", "events:ListTagsForResource", "events:PutRule"),
    *("events:PutTargets", "events:RemoveTargets", "events:TagResource"),
    *("sqs:CreateQueue", "sqs:DeleteQueue", "sqs:ListQueueTags", "sqs:TagQueue", *_READ_QUEUE),
)
_LIST_EVENTS = ("events:ListRules", "sqs:ListQueues")


def policy(
    methods: Iterable[str], *, usable: bool = False, events: bool | str = False
) -> dict[str, Any]:
    """Return the policy for these methods, as JSON has it; a statement of several stands once.

    ``:on-demand`` changes nothing: a method needs the same permissions, whatever it buys.
    With ``usable`` the policy allows to see when a guest is usable, with ``events`` to make queues
    and rules for EC2's own events, or to read a queue of this name.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    arms = list(dict.fromkeys(methods))
    require_arms(arms)
    require_events(events)
    names = [arm.partition(":")[0] for arm in arms]
    needed = [each for name in names for each in METHODS[name].permissions]
    statements: dict[str, dict[str, Any]] = {
        each["Sid"]: {"Effect": "Allow", **each} for each in needed
    }
    shared = {"Look": _LOOK, "OptionalFacts": _OPTIONAL} | ({"Usable": _USABLE} if usable else {})
    if isinstance(events, str):
        statements["Queue"] = _allowed("Queue", _READ_QUEUE, f"arn:aws:sqs:*:*:{events}")
    elif events:
        ours = f"arn:aws:sqs:*:*:{PREFIX}*", f"arn:aws:events:*:*:rule/{PREFIX}*"
        statements["Events"] = _allowed("Events", _MAKE_EVENTS, list(ours))
        shared["ListEvents"] = _LIST_EVENTS
    for name, actions in shared.items():
        statements[name] = _allowed(name, actions, "*")
    order = ("Sid", "Effect", "Action", "Resource", "Condition")
    ordered = [{key: each[key] for key in order if key in each} for each in statements.values()]
    return {"Version": "2012-10-17", "Statement": ordered}


def _allowed(name: str, actions: Iterable[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Sid": name, "Action": list(actions), "Resource": resource}

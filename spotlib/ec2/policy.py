"""The smallest IAM policy for some launch methods: what each needs, and what all of them ask.

``spotlib policy`` prints it.  ``policy.json`` is that of the default method.
"""

from collections.abc import Iterable
from typing import Any

from spotlib.ec2.methods.registry import METHODS
from spotlib.model import require_arms

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


def policy(methods: Iterable[str], *, usable: bool = False) -> dict[str, Any]:
    """Return the policy for these methods, as JSON has it; a statement of several stands once.

    ``:on-demand`` changes nothing: a method needs the same permissions, whatever it buys.
    With ``usable`` the policy allows to see when a guest is usable.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    arms = list(dict.fromkeys(methods))
    require_arms(arms)
    names = [arm.partition(":")[0] for arm in arms]
    needed = [each for name in names for each in METHODS[name].permissions]
    statements: dict[str, dict[str, Any]] = {
        each["Sid"]: {"Effect": "Allow", **each} for each in needed
    }
    shared = {"Look": _LOOK, "OptionalFacts": _OPTIONAL} | ({"Usable": _USABLE} if usable else {})
    for name, actions in shared.items():
        statements[name] = {
            "Effect": "Allow",
            "Sid": name,
            "Action": list(actions),
            "Resource": "*",
        }
    order = ("Sid", "Effect", "Action", "Resource", "Condition")
    ordered = [{key: each[key] for key in order if key in each} for each in statements.values()]
    return {"Version": "2012-10-17", "Statement": ordered}

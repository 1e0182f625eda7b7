"""Calls that moto answers: about the parts of an account that no spot request changes.

Subnets, VPCs, security groups, zones, SSM parameters.  moto's backends are process-wide, shared by
all worlds, and only read here.  ``mock_aws`` is never used: it would replace the credentials and
block every other AWS call of the process.
"""

from __future__ import annotations

import re
from typing import Any

from spotlib.sandbox.catalogue import import_moto
from spotlib.sandbox.protocol import Answer, ParsedCall, write

_READS = {
    "ec2": {
        "DescribeAvailabilityZones",
        "DescribeInstanceTypeOfferings",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "DescribeVpcs",
    },
    "ssm": {"GetParameter", "GetParameters", "GetParametersByPath"},
}
_OF_VPC = {
    "DescribeSecurityGroups": "SecurityGroups",
    "DescribeSubnets": "Subnets",
    "DescribeVpcs": "Vpcs",
}
_ACCOUNT = "123456789012"


def answers(call: ParsedCall) -> bool:
    """Whether moto answers this call."""
    return call.action in _READS.get(call.service, ())


def pass_on(call: ParsedCall, *, without_vpc: bool = False) -> Answer:
    """moto's answer to the call; the only VPC it knows is the default one."""
    if without_vpc and call.action in _OF_VPC:
        return write(call, {_OF_VPC[call.action]: []}, "")
    from moto.core.request import Request  # noqa: PLC0415 (moto's backends are slow to import)

    url = f"https://{call.service}.{call.region}.amazonaws.com/"
    backend = _backend(call.service, call.region)
    request = Request.from_primitives("POST", url, call.headers, call.body)
    handle = next(h for pattern, h in backend.urls.items() if re.match(pattern, url))
    status, headers, answer = handle(request, url, request.headers)
    body = answer.encode() if isinstance(answer, str) else answer
    # moto's other headers contain this machine's date.
    return status, {"Content-Type": str(headers["Content-Type"])}, body


def subnet_zones(region: str) -> dict[str, str]:
    """Subnet id -> id of its availability zone."""
    return {
        subnet.id: subnet.availability_zone_id
        for subnet in _backend("ec2", region).describe_subnets()
    }


def _backend(service: str, region: str) -> Any:
    import_moto()
    from moto.backends import get_backend  # noqa: PLC0415
    from moto.moto_api._internal import mock_random  # noqa: PLC0415

    # moto draws the ids of a region's subnets at first use: here the same in every process.
    mock_random.seed(f"{service}/{region}")
    find: Any = get_backend
    return find(service)[_ACCOUNT][region]

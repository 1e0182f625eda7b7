"""RequestSpotInstances: what one call sends, and what its answer means.

A request call is always sent again with the client token that is in the log.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import PASSING_KINDS, Refusal
from spotlib.model import Plan

_ATTEMPTS = 5


def request_parameters(
    plan: Plan,
    *,
    image: str,
    token: str,
    valid_until: datetime,
    tags: Mapping[str, str],
    shutdown_after_min: int,
    subnet_id: str | None = None,
    group_id: str | None = None,
) -> dict[str, Any]:
    """Return the exact parameters of one RequestSpotInstances call, as they stand in the log.

    A region target names no subnet, because naming one pins the zone.  A zone target names the
    zone's default subnet and takes no public address, which only such a call can do without.
    """
    specification: dict[str, Any] = {
        "ImageId": image,
        "InstanceType": plan.target.instance_type,
        "UserData": user_data(shutdown_after_min),
    }
    if subnet_id is not None:
        specification["NetworkInterfaces"] = [
            {
                "DeviceIndex": 0,
                "SubnetId": subnet_id,
                "Groups": [group_id],
                "AssociatePublicIpAddress": False,
                "DeleteOnTermination": True,
            }
        ]
    parameters: dict[str, Any] = {
        "ClientToken": token,
        "InstanceCount": plan.count,
        "Type": "one-time",
        "InstanceInterruptionBehavior": "terminate",
        "ValidUntil": valid_until.isoformat(),
        "TagSpecifications": [
            {
                "ResourceType": "spot-instances-request",  # EC2 refuses any other here
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
        ],
        "LaunchSpecification": specification,
    }
    if plan.max_price_usd is not None:
        parameters["SpotPrice"] = f"{plan.max_price_usd:.6f}"
    return parameters


def user_data(shutdown_after_min: int) -> str:
    """Return the dead-man's switch: a script with which the instance shuts itself down.

    It is base64, encoded once: botocore sends the user data of this call as it is, and cloud-init
    silently ignores a script whose first bytes are not ``#!``.
    """
    script = f'#!/bin/sh\nshutdown -h +{shutdown_after_min} "spotlib dead-man\'s switch"\n'
    return base64.b64encode(script.encode()).decode()


@dataclass(frozen=True)
class Answer:
    """How a request call went: its ids or the refusal, and when it was sent and answered.

    ``attempts`` has the codes of the failed attempts.  The time starts with the first attempt that
    EC2 may have executed: one that was certainly not executed is no part of the launch.
    """

    request_ids: tuple[str, ...]
    asked_s: float
    answered_s: float
    asked_at: datetime
    server_date: str | None = None
    attempts: tuple[str, ...] = ()
    refusal: Refusal | None = None


def request(connection: Connection, region: str, parameters: Mapping[str, Any]) -> Answer:
    """Send one request call; after a passing error send it again with the same token."""
    clock, attempts = connection.clock, list[str]()
    first: tuple[float, datetime] | None = None
    while True:
        asked_s, asked_at = first or (clock.now_s(), clock.utc())
        try:
            reply = connection.call(region, "request_spot_instances", **parameters)
            ids = tuple(item["SpotInstanceRequestId"] for item in reply["SpotInstanceRequests"])
        except Refusal as refusal:
            attempts.append(refusal.code)
            if refusal.kind not in PASSING_KINDS or len(attempts) == _ATTEMPTS:
                done_s, tries = clock.now_s(), tuple(attempts)
                return Answer((), asked_s, done_s, asked_at, attempts=tries, refusal=refusal)
            first = first or ((asked_s, asked_at) if refusal.maybe_done else None)
            clock.sleep(2.0 ** len(attempts) / 2)
            continue
        return Answer(
            request_ids=ids,
            asked_s=asked_s,
            answered_s=clock.now_s(),
            asked_at=asked_at,
            server_date=reply["ResponseMetadata"]["HTTPHeaders"].get("date"),
            attempts=tuple(attempts),
        )

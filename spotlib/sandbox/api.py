"""The table of actions, and what holds for all of them: permission, dry runs, regions, errors.

``execute`` runs one parsed call in the world.  What an action does is in the module of its
subject; how calls travel is ``wire``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from spotlib.sandbox import catalogue, instance_api, market_api, spot_api
from spotlib.sandbox.protocol import ApiError, Asked
from spotlib.sandbox.world import World

Handler = Callable[[World, str, dict[str, Any]], dict[str, Any]]

ACTIONS: Mapping[tuple[str, str], Handler] = {
    ("ec2", "RequestSpotInstances"): spot_api.request_spot_instances,
    ("ec2", "DescribeSpotInstanceRequests"): spot_api.describe_spot_instance_requests,
    ("ec2", "CancelSpotInstanceRequests"): spot_api.cancel_spot_instance_requests,
    ("ec2", "DescribeInstances"): instance_api.describe_instances,
    ("ec2", "DescribeInstanceStatus"): instance_api.describe_instance_status,
    ("ec2", "TerminateInstances"): instance_api.terminate_instances,
    ("ec2", "CreateTags"): instance_api.create_tags,
    ("ec2", "DescribeTags"): instance_api.describe_tags,
    ("ec2", "DescribeImages"): market_api.describe_images,
    ("ec2", "DescribeInstanceTypes"): market_api.describe_instance_types,
    ("ec2", "DescribeSpotPriceHistory"): market_api.describe_spot_price_history,
    ("ec2", "GetSpotPlacementScores"): market_api.get_spot_placement_scores,
    ("service-quotas", "ListServiceQuotas"): market_api.list_service_quotas,
    ("service-quotas", "GetServiceQuota"): market_api.get_service_quota,
    ("service-quotas", "GetAWSDefaultServiceQuota"): market_api.get_service_quota,
    ("pricing", "GetProducts"): market_api.get_products,
    ("iam", "GetRole"): market_api.get_role,
    ("sts", "GetCallerIdentity"): market_api.get_caller_identity,
}

MUTATING = frozenset(
    {"RequestSpotInstances", "CancelSpotInstanceRequests", "TerminateInstances", "CreateTags"}
)


def latency_kind(action: str) -> str:
    """Which of the market's latencies a call has."""
    if action == "RequestSpotInstances":
        return "request"
    return "mutate" if action in MUTATING else "describe"


def authorize(world: World, asked: Asked) -> None:
    """Refuse what the caller may not do, and answer dry runs."""
    if asked.service == "ec2" and not catalogue.opted_in(asked.region):
        message = "AWS was not able to validate the provided access credentials"
        raise ApiError("AuthFailure", message, 401)
    name = f"{asked.service}:{asked.action}"
    if name in world.denied:
        code = "UnauthorizedOperation" if asked.service == "ec2" else "AccessDenied"
        message = f"You are not authorized to perform this operation: {name}"
        raise ApiError(code, message, 403)
    if asked.params.get("DryRun", False):
        if asked.action == "TerminateInstances":  # EC2 looks at the ids first
            instance_api.find_instances(world, asked.region, asked.params.get("InstanceIds", []))
        message = "Request would have succeeded, but DryRun flag is set."
        raise ApiError("DryRunOperation", message, 412)


def execute(world: World, asked: Asked) -> dict[str, Any]:
    """The result of one authorized call."""
    handler = ACTIONS.get((asked.service, asked.action))
    if handler is None:
        message = f"{asked.service}:{asked.action} is not modelled by the sandbox."
        raise ApiError("UnsupportedOperation", message)
    return handler(world, asked.region, asked.params)

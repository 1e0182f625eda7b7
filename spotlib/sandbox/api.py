"""The table of actions, and what all of them share: permission, throttling, dry runs, regions.

``execute`` runs one parsed call in the world.  The module of each subject says what an action does;
``wire`` carries the calls.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spotlib.sandbox import (
    borrowed,
    event_api,
    fleet_api,
    fleet_reads_api,
    identity,
    instance_api,
    market_api,
    network_api,
    queue_api,
    quota_api,
    run_api,
    spot_api,
    template_api,
)
from spotlib.sandbox.account import Region, SpotRequest
from spotlib.sandbox.protocol import (
    ApiError,
    ParsedCall,
    end_dry_run,
    missing,
    refuse_others,
    required,
    unsupported,
)
from spotlib.sandbox.world import World

Handler = Callable[[World, str, dict[str, Any]], dict[str, Any]]

ACTIONS: Mapping[tuple[str, str], Handler] = {
    ("ec2", "RequestSpotInstances"): spot_api.request_spot_instances,
    ("ec2", "DescribeSpotInstanceRequests"): spot_api.describe_spot_instance_requests,
    ("ec2", "CancelSpotInstanceRequests"): spot_api.cancel_spot_instance_requests,
    ("ec2", "RunInstances"): run_api.run_instances,
    ("ec2", "CreateLaunchTemplate"): template_api.create_launch_template,
    ("ec2", "DescribeLaunchTemplates"): template_api.describe_launch_templates,
    ("ec2", "DescribeLaunchTemplateVersions"): template_api.describe_launch_template_versions,
    ("ec2", "DeleteLaunchTemplate"): template_api.delete_launch_template,
    ("ec2", "CreateFleet"): fleet_api.create_fleet,
    ("ec2", "DeleteFleets"): fleet_api.delete_fleets,
    ("ec2", "DescribeFleets"): fleet_reads_api.describe_fleets,
    ("ec2", "DescribeFleetInstances"): fleet_reads_api.describe_fleet_instances,
    ("ec2", "DescribeFleetHistory"): fleet_reads_api.describe_fleet_history,
    ("ec2", "DescribeInstances"): instance_api.describe_instances,
    ("ec2", "DescribeInstanceStatus"): instance_api.describe_instance_status,
    ("ec2", "GetConsoleOutput"): instance_api.get_console_output,
    ("ec2", "TerminateInstances"): instance_api.terminate_instances,
    ("ec2", "CreateTags"): instance_api.create_tags,
    ("ec2", "DescribeTags"): instance_api.describe_tags,
    ("ec2", "DescribeRegions"): market_api.describe_regions,
    ("ec2", "DescribeImages"): market_api.describe_images,
    ("ec2", "DescribeInstanceTypes"): market_api.describe_instance_types,
    ("ec2", "DescribeInstanceTypeOfferings"): market_api.describe_instance_type_offerings,
    ("ec2", "DescribeAvailabilityZones"): network_api.describe_availability_zones,
    ("ec2", "DescribeVpcs"): network_api.describe_vpcs,
    ("ec2", "DescribeSubnets"): network_api.describe_subnets,
    ("ec2", "DescribeSecurityGroups"): network_api.describe_security_groups,
    ("ec2", "DescribeKeyPairs"): network_api.describe_key_pairs,
    ("ec2", "DescribeSpotPriceHistory"): market_api.describe_spot_price_history,
    ("ec2", "GetSpotPlacementScores"): market_api.get_spot_placement_scores,
    ("service-quotas", "ListServiceQuotas"): quota_api.list_service_quotas,
    ("service-quotas", "GetServiceQuota"): quota_api.get_service_quota,
    ("service-quotas", "GetAWSDefaultServiceQuota"): quota_api.get_aws_default_service_quota,
    ("service-quotas", "ListAWSDefaultServiceQuotas"): quota_api.list_aws_default_service_quotas,
    ("pricing", "GetProducts"): market_api.get_products,
    ("iam", "GetRole"): market_api.get_role,
    ("sts", "AssumeRole"): identity.assume_role,
    ("sts", "GetCallerIdentity"): market_api.get_caller_identity,
    ("sqs", "CreateQueue"): queue_api.create_queue,
    ("sqs", "GetQueueUrl"): queue_api.get_queue_url,
    ("sqs", "ListQueues"): queue_api.list_queues,
    ("sqs", "GetQueueAttributes"): queue_api.get_queue_attributes,
    ("sqs", "SetQueueAttributes"): queue_api.set_queue_attributes,
    ("sqs", "TagQueue"): queue_api.tag_queue,
    ("sqs", "ListQueueTags"): queue_api.list_queue_tags,
    ("sqs", "ReceiveMessage"): queue_api.receive_message,
    ("sqs", "DeleteMessage"): queue_api.delete_message,
    ("sqs", "DeleteMessageBatch"): queue_api.delete_message_batch,
    ("sqs", "PurgeQueue"): queue_api.purge_queue,
    ("sqs", "DeleteQueue"): queue_api.delete_queue,
    ("events", "PutRule"): event_api.put_rule,
    ("events", "DescribeRule"): event_api.describe_rule,
    ("events", "ListRules"): event_api.list_rules,
    ("events", "DeleteRule"): event_api.delete_rule,
    ("events", "PutTargets"): event_api.put_targets,
    ("events", "ListTargetsByRule"): event_api.list_targets_by_rule,
    ("events", "RemoveTargets"): event_api.remove_targets,
    ("events", "TagResource"): event_api.tag_resource,
    ("events", "ListTagsForResource"): event_api.list_tags_for_resource,
}

# Every parameter that an action of EC2, SQS or EventBridge reads here, beside those of nearly all
# describe calls.  One that AWS has and the sandbox does not read is refused, never ignored.
_COMMON = frozenset({"DryRun", "Filters", "MaxResults", "NextToken"})
_PARAMETERS: Mapping[str, str] = {
    "RequestSpotInstances": "ClientToken InstanceCount InstanceInterruptionBehavior "
    "LaunchSpecification SpotPrice TagSpecifications Type ValidUntil",
    "DescribeSpotInstanceRequests": "SpotInstanceRequestIds",
    "CancelSpotInstanceRequests": "SpotInstanceRequestIds",
    "RunInstances": "ClientToken CreditSpecification EbsOptimized IamInstanceProfile ImageId "
    "InstanceInitiatedShutdownBehavior InstanceMarketOptions InstanceType KeyName LaunchTemplate "
    "MaxCount MetadataOptions MinCount Monitoring NetworkInterfaces Placement SecurityGroupIds "
    "SecurityGroups SubnetId TagSpecifications UserData",
    "CreateLaunchTemplate": "ClientToken LaunchTemplateData LaunchTemplateName TagSpecifications "
    "VersionDescription",
    "DescribeLaunchTemplates": "LaunchTemplateIds LaunchTemplateNames",
    "DescribeLaunchTemplateVersions": "LaunchTemplateId LaunchTemplateName Versions",
    "DeleteLaunchTemplate": "LaunchTemplateId LaunchTemplateName",
    "CreateFleet": "ClientToken LaunchTemplateConfigs OnDemandOptions SpotOptions "
    "TagSpecifications TargetCapacitySpecification TerminateInstancesWithExpiration Type "
    "ValidUntil",
    "DeleteFleets": "FleetIds TerminateInstances",
    "DescribeFleets": "FleetIds",
    "DescribeFleetInstances": "FleetId",
    "DescribeFleetHistory": "EventType FleetId StartTime",
    "DescribeInstances": "InstanceIds IncludeManagedResources",
    "DescribeInstanceStatus": "InstanceIds IncludeAllInstances IncludeManagedResources",
    "GetConsoleOutput": "InstanceId Latest",
    "TerminateInstances": "InstanceIds",
    "CreateTags": "Resources Tags",
    "DescribeTags": "",
    "DescribeRegions": "AllRegions RegionNames",
    "DescribeImages": "ImageIds IncludeDeprecated IncludeDisabled Owners",
    "DescribeInstanceTypes": "InstanceTypes",
    "DescribeInstanceTypeOfferings": "LocationType",
    "DescribeAvailabilityZones": "AllAvailabilityZones ZoneIds ZoneNames",
    "DescribeVpcs": "VpcIds",
    "DescribeSubnets": "SubnetIds",
    "DescribeSecurityGroups": "GroupIds GroupNames",
    "DescribeKeyPairs": "IncludePublicKey KeyNames KeyPairIds",
    "DescribeSpotPriceHistory": "AvailabilityZone AvailabilityZoneId EndTime InstanceTypes "
    "ProductDescriptions StartTime",
    "GetSpotPlacementScores": "InstanceTypes RegionNames SingleAvailabilityZone TargetCapacity "
    "TargetCapacityUnitType",
    "CreateQueue": "Attributes QueueName tags",
    "GetQueueUrl": "QueueName QueueOwnerAWSAccountId",
    "ListQueues": "QueueNamePrefix",
    "GetQueueAttributes": "AttributeNames QueueUrl",
    "SetQueueAttributes": "Attributes QueueUrl",
    "TagQueue": "QueueUrl Tags",
    "ListQueueTags": "QueueUrl",
    "ReceiveMessage": "AttributeNames MaxNumberOfMessages MessageAttributeNames "
    "MessageSystemAttributeNames QueueUrl VisibilityTimeout WaitTimeSeconds",
    "DeleteMessage": "QueueUrl ReceiptHandle",
    "DeleteMessageBatch": "Entries QueueUrl",
    "PurgeQueue": "QueueUrl",
    "DeleteQueue": "QueueUrl",
    "PutRule": "Description EventBusName EventPattern Name State Tags",
    "DescribeRule": "EventBusName Name",
    "ListRules": "EventBusName Limit NamePrefix",
    "DeleteRule": "EventBusName Force Name",
    "PutTargets": "EventBusName Rule Targets",
    "ListTargetsByRule": "EventBusName Limit Rule",
    "RemoveTargets": "EventBusName Force Ids Rule",
    "TagResource": "ResourceARN Tags",
    "ListTagsForResource": "ResourceARN",
}

_LAUNCHING = frozenset({"RequestSpotInstances", "RunInstances", "CreateFleet"})
MUTATING = _LAUNCHING | {
    "CancelSpotInstanceRequests",
    "CreateLaunchTemplate",
    "CreateTags",
    "DeleteFleets",
    "DeleteLaunchTemplate",
    "TerminateInstances",
    "CreateQueue",
    "SetQueueAttributes",
    "TagQueue",
    "DeleteMessage",
    "DeleteMessageBatch",
    "PurgeQueue",
    "DeleteQueue",
    "PutRule",
    "DeleteRule",
    "PutTargets",
    "RemoveTargets",
    "TagResource",
}

_UNLIMITED = ("events", "sqs")
_DENIED = {"ec2": "UnauthorizedOperation", "events": "AccessDeniedException"}
# A parameter of tags, and the action that one must be permitted to give it.
_TAGGING = {"CreateQueue": ("tags", "TagQueue"), "PutRule": ("Tags", "TagResource")}
_MODELLED = {name: _COMMON | set(text.split()) for name, text in _PARAMETERS.items()}


def latency_kind(action: str) -> str:
    """The kind of latency that a call has in the market."""
    if action in _LAUNCHING:
        return "request"
    return "mutate" if action in MUTATING else "describe"


def require_known(action: str) -> None:
    """Refuse the name of an action that no call can have; "" is any.

    Raises
    ------
    ValueError
        If the sandbox does not answer it.
    """
    if action and action not in {name for _, name in ACTIONS} | borrowed.ACTIONS:
        raise ValueError(
            f"action must be one that the sandbox answers, such as RunInstances, got {action!r}"
        )


def authorize(world: World, call: ParsedCall) -> None:
    """Refuse calls that are throttled, not modelled or not permitted, dry runs too."""
    if not market_api.opted_in(world, call.region):
        _refuse_region(call.service)
    identity.require_good_keys(world, call)
    limited = world.buckets if call.service not in _UNLIMITED else None
    if limited and not limited.take(call.region, call.action, call.params, world.now_s):
        raise ApiError("RequestLimitExceeded", "Request limit exceeded.", 503)
    _check_modelled(call)
    for action in _permissions(call):
        name = f"{call.service}:{action}"
        if name in world.denied:
            code = _DENIED.get(call.service, "AccessDenied")
            message = f"You are not authorized to perform this operation: {name}"
            raise ApiError(code, message, 403)


def _permissions(call: ParsedCall) -> list[str]:
    """The actions that the caller of a call must be permitted."""
    if call.action == "DeleteMessageBatch":
        return ["DeleteMessage"]
    tagged = call.action in _TAGGING and call.params.get(_TAGGING[call.action][0])
    return [call.action, _TAGGING[call.action][1]] if tagged else [call.action]


def _check_modelled(call: ParsedCall) -> None:
    if (call.service, call.action) not in ACTIONS and not borrowed.answers(call):
        raise unsupported(f"{call.service}:{call.action} is not modelled by the sandbox.")
    for name in required(call):
        if name not in call.params:
            raise missing(name)
    if call.action in _MODELLED:
        refuse_others(call.params, _MODELLED[call.action], call.action)


def _refuse_region(service: str) -> None:
    """The refusal of a region to which the account has not opted in."""
    if service == "ec2":
        message = "AWS was not able to validate the provided access credentials"
        raise ApiError("AuthFailure", message, 401)
    if service in ("events", "ssm", "service-quotas", "sqs"):
        message = "The security token included in the request is invalid."
        raise ApiError("UnrecognizedClientException", message)


def execute(world: World, call: ParsedCall) -> dict[str, Any]:
    """The result of one authorized call; an action that changes something ends a dry run itself."""
    params = call.params
    if call.service == "sqs":  # a queue's URL has the address that the client uses
        params = {**params, "origin": call.origin}
    result = ACTIONS[call.service, call.action](world, call.region, params)
    end_dry_run(call.params)
    return result


def note_seen(world: World, call: ParsedCall, result: dict[str, Any]) -> None:
    """Record in the truth which stages a delivered answer was the first to show."""
    if call.service != "ec2":
        return
    account, now_s = world.region(call.region), world.now_s
    for stage, request in _shown(account, result):
        if request is not None:
            if stage == "fulfilled" and not request.requested:
                request.seen_s.setdefault("accepted", now_s)  # it has no earlier sign
            request.seen_s.setdefault(stage, now_s)


def _shown(account: Region, result: dict[str, Any]) -> Iterator[tuple[str, SpotRequest | None]]:
    """The stages that an answer shows, each with its request."""
    for item in result.get("SpotInstanceRequests", ()):
        request = account.requests.get(item["SpotInstanceRequestId"])
        yield "accepted", request
        if "InstanceId" in item:
            yield "fulfilled", request
    reservations = result.get("Reservations", ())
    for reservation in (result,) if "ReservationId" in result else reservations:
        for item in reservation["Instances"]:
            instance = account.instances.get(item["InstanceId"])  # None: long ended
            request = instance.request if instance else None
            yield "fulfilled", request
            if item["State"]["Name"] == "running":
                yield "running", request
    yield from _of_fleets(account, result)
    for item in result.get("InstanceStatuses", ()):
        request = account.instances[item["InstanceId"]].request
        checks = (item.get(f"{name}Status", {}).get("Status") for name in _CHECKS)
        if item["InstanceState"]["Name"] == "running":
            yield "running", request
            if set(checks) <= {"ok", "not-applicable", None}:
                yield "ready", request
    if "Output" in result:
        instance = account.instances[result["InstanceId"]]
        output = base64.b64decode(result["Output"])
        if any(line.encode() in output for _, line in instance.wrote):
            yield "usable", instance.request


def _of_fleets(account: Region, result: dict[str, Any]) -> Iterator[tuple[str, SpotRequest]]:
    """The same of an answer about fleets: a fleet that is known has accepted its units."""
    ids = [result["FleetId"]] if "FleetId" in result else []
    ids += [each["FleetId"] for each in result.get("Fleets", ())]
    for fleet_id in ids:
        fleet = account.fleets[fleet_id]
        for unit in fleet.units:
            yield "accepted", unit
            if fleet.kind == "instant":
                yield "fulfilled", unit
    for item in result.get("ActiveInstances", ()):
        yield "fulfilled", account.instances[item["InstanceId"]].request


_CHECKS = ("Instance", "System", "AttachedEbs")

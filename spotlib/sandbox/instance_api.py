"""The calls about instances: describe, status, terminate, tag.

Each public function is one EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence

from spotlib.sandbox import catalogue, console, course
from spotlib.sandbox.account import Instance, Tagged
from spotlib.sandbox.chance import digest
from spotlib.sandbox.filters import filters_of, has_wildcard, narrow, page
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    end_dry_run,
    invalid,
    missing,
    unsupported,
)
from spotlib.sandbox.reads import instance_as_of
from spotlib.sandbox.shapes import instance_shape, stamp, state, status_shape, tag_list
from spotlib.sandbox.spot_api import find_requests
from spotlib.sandbox.world import World

_MOST_STATUS_IDS = 100
_INSTANCE_ID = re.compile(r"i-[0-9a-f]{17}")

_PATHS = {
    "architecture": "Architecture",
    "availability-zone": "Placement.AvailabilityZone",
    "availability-zone-id": "Placement.AvailabilityZoneId",
    "block-device-mapping.attach-time": "BlockDeviceMappings.Ebs.AttachTime",
    "block-device-mapping.delete-on-termination": "BlockDeviceMappings.Ebs.DeleteOnTermination",
    "block-device-mapping.device-name": "BlockDeviceMappings.DeviceName",
    "block-device-mapping.status": "BlockDeviceMappings.Ebs.Status",
    "block-device-mapping.volume-id": "BlockDeviceMappings.Ebs.VolumeId",
    "client-token": "ClientToken",
    "dns-name": "PublicDnsName",
    "ebs-optimized": "EbsOptimized",
    "ena-support": "EnaSupport",
    "hypervisor": "Hypervisor",
    "image-id": "ImageId",
    "instance-id": "InstanceId",
    "instance-lifecycle": "InstanceLifecycle",
    "instance-state-code": "State.Code",
    "instance-state-name": "State.Name",
    "instance-type": "InstanceType",
    "instance.group-id": "SecurityGroups.GroupId",
    "instance.group-name": "SecurityGroups.GroupName",
    "ip-address": "PublicIpAddress",
    "key-name": "KeyName",
    "launch-index": "AmiLaunchIndex",
    "launch-time": "LaunchTime",
    "monitoring-state": "Monitoring.State",
    "network-interface.addresses.primary": "NetworkInterfaces.PrivateIpAddresses.Primary",
    "network-interface.addresses.private-ip-address": (
        "NetworkInterfaces.PrivateIpAddresses.PrivateIpAddress"
    ),
    "network-interface.association.public-ip": "NetworkInterfaces.Association.PublicIp",
    "network-interface.attachment.attach-time": "NetworkInterfaces.Attachment.AttachTime",
    "network-interface.attachment.attachment-id": "NetworkInterfaces.Attachment.AttachmentId",
    "network-interface.attachment.delete-on-termination": (
        "NetworkInterfaces.Attachment.DeleteOnTermination"
    ),
    "network-interface.attachment.device-index": "NetworkInterfaces.Attachment.DeviceIndex",
    "network-interface.attachment.instance-id": "InstanceId",
    "network-interface.attachment.status": "NetworkInterfaces.Attachment.Status",
    "network-interface.group-id": "NetworkInterfaces.Groups.GroupId",
    "network-interface.group-name": "NetworkInterfaces.Groups.GroupName",
    "network-interface.mac-address": "NetworkInterfaces.MacAddress",
    "network-interface.network-interface-id": "NetworkInterfaces.NetworkInterfaceId",
    "network-interface.owner-id": "NetworkInterfaces.OwnerId",
    "network-interface.private-dns-name": "NetworkInterfaces.PrivateDnsName",
    "network-interface.private-ip-address": "NetworkInterfaces.PrivateIpAddress",
    "network-interface.source-dest-check": "NetworkInterfaces.SourceDestCheck",
    "network-interface.status": "NetworkInterfaces.Status",
    "network-interface.subnet-id": "NetworkInterfaces.SubnetId",
    "network-interface.vpc-id": "NetworkInterfaces.VpcId",
    "platform": "Platform",
    "platform-details": "PlatformDetails",
    "private-dns-name": "PrivateDnsName",
    "private-ip-address": "PrivateIpAddress",
    "reason": "StateTransitionReason",
    "root-device-name": "RootDeviceName",
    "root-device-type": "RootDeviceType",
    "source-dest-check": "SourceDestCheck",
    "spot-instance-request-id": "SpotInstanceRequestId",
    "state-reason-code": "StateReason.Code",
    "state-reason-message": "StateReason.Message",
    "subnet-id": "SubnetId",
    "tag-key": "Tags.Key",
    "tenancy": "Placement.Tenancy",
    "usage-operation": "UsageOperation",
    "virtualization-type": "VirtualizationType",
    "vpc-id": "VpcId",
}
_STATUS_PATHS = {
    "attached-ebs-status.status": "AttachedEbsStatus.Status",
    "availability-zone": "AvailabilityZone",
    "availability-zone-id": "AvailabilityZoneId",
    "instance-state-code": "InstanceState.Code",
    "instance-state-name": "InstanceState.Name",
    "instance-status.reachability": "InstanceStatus.Details.Status",
    "instance-status.status": "InstanceStatus.Status",
    "system-status.reachability": "SystemStatus.Details.Status",
    "system-status.status": "SystemStatus.Status",
}
_TAG_PATHS = {
    "key": "Key",
    "resource-id": "ResourceId",
    "resource-type": "ResourceType",
    "value": "Value",
}


def describe_instances(world: World, region: str, params: Params) -> Shape:
    """Instances by id or filter, in the reservations of their launches."""
    ids = params.get("InstanceIds", [])
    at_s = world.read_at_s(by_ids=bool(ids))
    found = find_instances(world, region, ids, at_s) if ids else _candidates(world, region, params)
    shapes = narrow(
        (instance_shape(world, each) for each in _as_of(found, at_s)),
        params,
        "DescribeInstances",
        _PATHS,
    )
    shown, more = page(shapes, params, ids=ids, id_name="InstanceIds", reads=world.reads)
    return {"Reservations": reservations(world, region, shown), **more}


def describe_instance_status(world: World, region: str, params: Params) -> Shape:
    """Status checks of running instances, or of all if the call says so."""
    ids = params.get("InstanceIds", [])
    if len(ids) > _MOST_STATUS_IDS:
        raise invalid(f"At most {_MOST_STATUS_IDS} instance ids can be given, not {len(ids)}")
    at_s = world.read_at_s(by_ids=bool(ids))
    found: Iterable[Instance] = world.region(region).instances.values()
    found = _as_of(find_instances(world, region, ids, at_s) if ids else found, at_s)
    if not params.get("IncludeAllInstances", False):
        found = [instance for instance in found if instance.state == "running"]
    shapes = narrow(
        (status_shape(world, each, at_s) for each in found),
        params,
        "DescribeInstanceStatus",
        _STATUS_PATHS,
    )
    shown, more = page(shapes, params, ids=ids, id_name="InstanceIds", reads=world.reads)
    return {"InstanceStatuses": shown, **more}


def get_console_output(world: World, region: str, params: Params) -> Shape:
    """What EC2 has of an instance's console: as it was posted, or the latest."""
    if not params.get("InstanceId"):
        raise missing("InstanceId")
    [instance] = find_instances(world, region, [params["InstanceId"]])
    latest = params.get("Latest", False)
    kind = catalogue.instance_type(instance.request.pool.instance_type)
    if latest and kind is not None and not kind.nitro:
        raise unsupported("This instance type does not support retrieving the latest console logs")
    at_s, text = console.shown(world, instance, latest=latest)
    output = {"Output": base64.b64encode(text).decode()} if text else {}
    return {"InstanceId": instance.instance_id, "Timestamp": stamp(world, at_s), **output}


def terminate_instances(world: World, region: str, params: Params) -> Shape:
    """Terminate instances, all or none."""
    ids = params.get("InstanceIds", [])
    if not ids:
        raise missing("InstanceId")
    found, changes = find_instances(world, region, ids), []
    end_dry_run(params)
    for instance in found:
        before = instance.state
        course.terminate(world, instance)
        changes.append(
            {
                "InstanceId": instance.instance_id,
                "PreviousState": state(before),
                "CurrentState": state(instance.state),
            }
        )
    return {"TerminatingInstances": changes}


def create_tags(world: World, region: str, params: Params) -> Shape:
    """Tag requests and instances, all or none."""
    ids = params.get("Resources", [])
    if not ids:
        raise missing("ResourceIdSet")
    tags = {tag["Key"]: tag.get("Value", "") for tag in params.get("Tags", [])}
    if not tags:
        raise missing("Tag")
    things = [_thing(world, region, i) for i in ids]
    end_dry_run(params)
    for thing in things:
        world.touch(thing, "tag")
        world.region(region).tag(thing, tags)
    return {}


def describe_tags(world: World, region: str, params: Params) -> Shape:
    """The tags of all that the region has."""
    rows = [
        {"ResourceId": i, "ResourceType": kind, **tag}
        for kind, i, tags in _tagged(world, region)
        for tag in tag_list(tags)
    ]
    shown, more = page(narrow(rows, params, "DescribeTags", _TAG_PATHS), params)
    return {"Tags": shown, **more}


def find_instances(
    world: World, region: str, ids: Sequence[str], at_s: float | None = None
) -> list[Instance]:
    """The instances with these ids; one malformed or unknown id refuses the whole call."""
    known, at_s = world.region(region).instances, world.now_s if at_s is None else at_s
    malformed = [i for i in ids if not _INSTANCE_ID.fullmatch(i)]
    if malformed:
        raise ApiError("InvalidInstanceID.Malformed", f'Invalid id: "{malformed[0]}"')
    unknown = [i for i in ids if i not in known or known[i].known_s > at_s]
    if unknown:
        word = "ID" if len(unknown) == 1 else "IDs"
        verb = "does" if len(unknown) == 1 else "do"
        message = f"The instance {word} '{', '.join(unknown)}' {verb} not exist"
        raise ApiError("InvalidInstanceID.NotFound", message)
    return [known[i] for i in dict.fromkeys(ids)]


def reservations(world: World, region: str, shapes: Iterable[Shape]) -> list[Shape]:
    """The instances in the reservations of their launches; each spot request has its own."""
    known, found = world.region(region).instances, dict[str, list[Shape]]()
    for shape in shapes:
        request = known[shape["InstanceId"]].request
        name = shape["InstanceId"] if request.waits else request.name
        found.setdefault(name, []).append(shape)
    return [reservation(world, name, shapes) for name, shapes in found.items()]


def reservation(world: World, name: str, shapes: list[Shape]) -> Shape:
    """The reservation with this name."""
    return {
        "ReservationId": f"r-0{digest(8, 'r', name).hex()}",
        "OwnerId": world.account_id,
        "Instances": shapes,
    }


def _candidates(world: World, region: str, params: Params) -> Iterable[Instance]:
    """The instances that may pass the filters, through their requests if a filter names those."""
    account = world.region(region)
    values = dict(filters_of(params)).get("spot-instance-request-id")
    if values is None or has_wildcard(values):
        return account.instances.values()
    requests = [account.requests.get(i) for i in dict.fromkeys(values)]
    instances = [request.instance for request in requests if request and request.instance]
    return [instance for instance in instances if instance.instance_id in account.instances]


def _as_of(found: Iterable[Instance], at_s: float) -> list[Instance]:
    """The instances as they were at a moment, without those still unknown then."""
    past = (instance_as_of(each, at_s) for each in found)
    return [each for each in past if each is not None]


def _tagged(world: World, region: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(kind, id, tags) of each thing; those of disks and interfaces are never changed here."""
    account = world.region(region)
    for name, request in account.requests.items():
        yield "spot-instances-request", name, request.tags
    for name, instance in account.instances.items():
        yield "instance", name, instance.tags
        born_with, shape = instance.request.born_with, {}
        if born_with.keys() & {"volume", "network-interface"}:
            shape = instance_shape(world, instance)
        for disk in shape.get("BlockDeviceMappings", ()):
            yield "volume", disk["Ebs"]["VolumeId"], born_with.get("volume", {})
        for each in shape.get("NetworkInterfaces", ()):
            tags = born_with.get("network-interface", {})
            yield "network-interface", each["NetworkInterfaceId"], tags
    for name, template in account.templates.items():
        yield "launch-template", name, template.tags
    for name, fleet in account.fleets.items():
        yield "fleet", name, fleet.tags


def _thing(world: World, region: str, resource_id: str) -> Tagged:
    if resource_id.startswith("sir-"):
        return find_requests(world, region, [resource_id])[0]
    if resource_id.startswith(("eni-", "fleet-", "lt-", "vol-")):
        raise unsupported(f"Tagging {resource_id} after its creation is not modelled here.")
    return find_instances(world, region, [resource_id])[0]

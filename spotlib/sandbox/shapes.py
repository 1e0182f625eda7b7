"""Requests, instances and their status in EC2's wire form, as dicts.

Only the fields that a client of spot instances reads.  Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from math import inf

from spotlib.sandbox import catalogue, network
from spotlib.sandbox.account import Instance, SpotRequest, Tagged
from spotlib.sandbox.chance import digest
from spotlib.sandbox.protocol import Kept, Shape
from spotlib.sandbox.world import World

_REQUEST_ONLY = ("SecurityGroupIds",)  # answers show it as SecurityGroups
_OF_IMAGE = ("Platform", "PlatformDetails", "UsageOperation")
_STATE_CODES = {
    "pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64,
    "stopped": 80,
}  # fmt: skip
_REACHABILITY = {"ok": "passed", "impaired": "failed"}
_MESSAGES = {
    "pending-evaluation": "Your Spot request is pending evaluation.",
    "pending-fulfillment": "Your Spot request is pending fulfillment.",
    "capacity-not-available": "There is no Spot capacity available that matches your request.",
    "constraint-not-fulfillable": (
        "Your Spot request can't be fulfilled because one or more constraints are not valid."
    ),
    "price-too-low": "Your Spot request price is lower than the minimum required price.",
    "fulfilled": "Your Spot request is fulfilled.",
    "schedule-expired": "Your Spot request expired before it could be fulfilled.",
    "canceled-before-fulfillment": "Your Spot request was canceled before it was fulfilled.",
    "request-canceled-and-instance-running": (
        "Your Spot request is canceled, but your instance is still running."
    ),
    "instance-terminated-by-user": "Your Spot instance was terminated by you.",
    "instance-terminated-no-capacity": (
        "Your Spot instance was terminated because there is no longer enough Spot capacity."
    ),
    "marked-for-termination": "Your Spot instance is marked for termination.",
    "instance-stopped-by-user": "Your Spot instance was stopped because a user shut it down.",
    "bad-parameters": "Your Spot request failed due to bad parameters.",
    "system-error": "Your Spot request failed due to a system error.",
}


def tag_list(tags: dict[str, str]) -> list[Shape]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def state(name: str) -> Shape:
    return {"Code": _STATE_CODES[name], "Name": name}


def request_shape(world: World, request: SpotRequest) -> Shape:
    """One ``SpotInstanceRequest``."""
    now = (request.code, request.state, request.updated_s, request.instance is None)
    return _kept(request, "request", now, partial(_request_shape, world, request))


def instance_shape(world: World, instance: Instance) -> Shape:
    """One ``Instance``."""
    now = (instance.state, instance.reason, instance.ended_s)
    return _kept(instance, "instance", now, partial(_instance_shape, world, instance))


def status_shape(world: World, instance: Instance, at_s: float) -> Shape:
    """One ``InstanceStatus``."""
    checks = instance.checks(at_s, pending=world.forms.pending_checks)
    now = (instance.state, checks)
    return _kept(instance, "status", now, partial(_status_shape, instance, *checks))


def _kept(thing: Tagged, kind: str, now: object, build: Callable[[], Shape]) -> Shape:
    """The structure as it was shown before, unless the thing has changed since."""
    now = (now, *thing.tags.items())
    before, known = thing.shown.get(kind, (None, None))
    shape: Shape = known
    if before != now:
        shape = Kept(build())
        thing.shown = {**thing.shown, kind: (now, shape)}
    return shape


def _request_shape(world: World, request: SpotRequest) -> Shape:
    """It shows the zone only once it is fulfilled."""
    message = request.flaw if request.state == "failed" and request.flaw else ""
    message = message or _MESSAGES[request.code]
    launch = {key: value for key, value in request.launch.items() if key not in _REQUEST_ONLY}
    price_usd, until_s = request.max_price_usd, request.valid_until_s
    if price_usd is None:  # EC2's default maximum
        pool = request.pool
        price_usd = world.market.on_demand_usd(pool.instance_type, pool.region)
    shape: Shape = {
        "SpotInstanceRequestId": request.request_id,
        "CreateTime": stamp(world, request.accepted_s),
        "State": request.state,
        "Status": {
            "Code": request.code,
            "Message": message,
            "UpdateTime": stamp(world, request.updated_s),
        },
        "SpotPrice": f"{price_usd:.6f}",
        "LaunchSpecification": {"Monitoring": {"Enabled": False}, **launch},
        "Type": "one-time",
        "InstanceInterruptionBehavior": "terminate",
        "ProductDescription": "Linux/UNIX",
        "ValidUntil": stamp(world, until_s) if until_s < inf else None,
        "Tags": tag_list(request.tags),
    }
    if request.instance is not None:
        shape["InstanceId"] = request.instance.instance_id
        shape["LaunchedAvailabilityZone"] = zone_name(request)
        shape["LaunchedAvailabilityZoneId"] = request.pool.zone_id
    if request.state == "failed":
        shape["Fault"] = {"Code": request.code, "Message": message}
    return shape


def _instance_shape(world: World, instance: Instance) -> Shape:
    """Once it is terminated, EC2 no longer shows its network and its disks."""
    request, launched = instance.request, stamp(world, instance.launched_s)
    launch, pool = request.launch, request.pool
    kind = catalogue.raw_types()[pool.instance_type]
    image = catalogue.images(pool.region)[launch["ImageId"]]
    hypervisor = kind.get("Hypervisor", "nitro").replace("nitro", "xen")  # EC2 reports both so
    shape: Shape = {
        "InstanceId": instance.instance_id,
        "ImageId": launch["ImageId"],
        "InstanceType": pool.instance_type,
        "Architecture": image["Architecture"],
        "Hypervisor": hypervisor,
        "VirtualizationType": image["VirtualizationType"],
        "RootDeviceName": image["RootDeviceName"],
        "RootDeviceType": image["RootDeviceType"],
        **{key: image[key] for key in _OF_IMAGE if image.get(key)},
        "EbsOptimized": launch.get("EbsOptimized", False),
        "EnaSupport": image["EnaSupport"],
        "SourceDestCheck": True,
        "State": state(instance.state),
        "LaunchTime": launched,
        "AmiLaunchIndex": 0 if request.waits else request.index,
        "ClientToken": _client_token(request),
        "Monitoring": {"State": _monitoring(launch)},
        "Placement": {
            "AvailabilityZone": zone_name(request),
            "AvailabilityZoneId": pool.zone_id,
            "GroupName": "",
            "Tenancy": "default",
        },
        "Tags": tag_list(instance.tags),
        "NetworkInterfaces": [],
        "BlockDeviceMappings": [],
        "SecurityGroups": [],
    }
    if not request.on_demand:
        shape["InstanceLifecycle"] = "spot"
        shape["SpotInstanceRequestId"] = request.request_id
    if instance.state != "terminated":
        shape |= _network(world, instance, launched) | _disks(instance, image, launched)
    return {**shape, **_ending(world, instance)}


def _client_token(request: SpotRequest) -> str:
    """The token that an instance shows: a fleet launches with tokens of its own."""
    if request.fleet_id:
        return f"{request.fleet_id}-{request.index}"
    return "" if request.requested else request.token


def _status_shape(instance: Instance, status: str, ebs: str | None) -> Shape:
    """The attached-EBS status is there only if the type has it."""
    shape: Shape = {
        "InstanceId": instance.instance_id,
        "InstanceState": state(instance.state),
        "AvailabilityZone": zone_name(instance.request),
        "AvailabilityZoneId": instance.request.pool.zone_id,
        "InstanceStatus": _checked(status),
        "SystemStatus": _checked(status),
    }
    if ebs is not None:
        shape["AttachedEbsStatus"] = _checked(ebs)
    return shape


def _ending(world: World, instance: Instance) -> Shape:
    """Why an instance ended; EC2 dates it only if the user ended it."""
    if instance.reason is None or instance.ended_s is None:
        return {"StateTransitionReason": ""}
    code, message = instance.reason
    reason: Shape = {"StateReason": {"Code": code, "Message": message}}
    if code.startswith("Client.User"):
        ended = world.utc(instance.ended_s).strftime("%Y-%m-%d %H:%M:%S GMT")
        reason["StateTransitionReason"] = f"User initiated ({ended})"
    return reason


def _checked(status: str) -> Shape:
    if status == "not-applicable":
        return {"Status": status}
    details = {"Name": "reachability", "Status": _REACHABILITY.get(status, status)}
    return {"Status": status, "Details": [details]}


def _network(world: World, instance: Instance, launched: datetime) -> Shape:
    """Where an instance is in the network: one interface, in the default subnet of its zone."""
    region, zone_id = instance.request.pool.region, instance.request.pool.zone_id
    given = (instance.request.launch.get("NetworkInterfaces") or [{}])[0]
    subnet = network.subnets(region)[zone_id]
    address = subnet.address(instance.number)
    suffix = "ec2.internal" if region == "us-east-1" else f"{region}.compute.internal"
    groups = [{"GroupName": "default", "GroupId": network.group_id(region)}]
    bits = digest(8, "eni", instance.instance_id)
    where: Shape = {
        "SubnetId": subnet.subnet_id,
        "VpcId": network.vpc_id(region),
        "PrivateIpAddress": address,
        "PrivateDnsName": f"ip-{address.replace('.', '-')}.{suffix}",
    }
    association: Shape = {}
    if given.get("AssociatePublicIpAddress", True) and instance.state in ("pending", "running"):
        # A range that is never routed (RFC 2544): nobody reaches a stranger through it.
        public = f"198.{18 + instance.number // 65536 % 2}.{instance.number // 256 % 256}."
        public += str(instance.number % 256)
        zone = "compute-1" if region == "us-east-1" else f"{region}.compute"
        name = f"ec2-{public.replace('.', '-')}.{zone}.amazonaws.com"
        association = {"PublicIp": public, "PublicDnsName": name, "IpOwnerId": "amazon"}
    shown = {"Association": association} if association else {}
    interface = {
        **where,
        **shown,
        "NetworkInterfaceId": f"eni-0{bits.hex()}",
        "OwnerId": world.account_id,
        "MacAddress": "02:" + bits[:5].hex(":"),
        "Description": given.get("Description", ""),
        "InterfaceType": "interface",
        "SourceDestCheck": True,
        "Status": "in-use",
        "Groups": groups,
        "PrivateIpAddresses": [{"Primary": True, "PrivateIpAddress": address}],
        "Attachment": {
            "AttachTime": launched,
            "AttachmentId": f"eni-attach-0{bits[::-1].hex()}",
            "DeleteOnTermination": given.get("DeleteOnTermination", True),
            "DeviceIndex": 0,
            "Status": "attaching" if instance.state == "pending" else "attached",
        },
    }
    return {
        **where,
        "PublicDnsName": association.get("PublicDnsName", ""),
        "PublicIpAddress": association.get("PublicIp"),
        "SecurityGroups": groups,
        "NetworkInterfaces": [interface],
    }


def _disks(instance: Instance, image: Shape, launched: datetime) -> Shape:
    """The disks of an instance, as its image maps them."""
    disks = [
        {
            "DeviceName": each["DeviceName"],
            "Ebs": {
                "AttachTime": launched,
                "DeleteOnTermination": each["Ebs"]["DeleteOnTermination"],
                "Status": "attaching" if instance.state == "pending" else "attached",
                "VolumeId": f"vol-0{digest(8, 'vol', instance.instance_id, place).hex()}",
            },
        }
        for place, each in enumerate(image["BlockDeviceMappings"])
    ]
    return {"BlockDeviceMappings": disks}


def _monitoring(launch: Shape) -> str:
    return "enabled" if launch.get("Monitoring", {}).get("Enabled") else "disabled"


def stamp(world: World, at_s: float) -> datetime:
    """A moment as EC2 shows it: in whole seconds, as far as is known."""
    moment = world.utc(at_s)
    return moment.replace(microsecond=0) if world.forms.subdigits == "seconds" else moment


def zone_name(request: SpotRequest) -> str:
    """The account's name of the zone of a request."""
    zones = catalogue.zones(request.pool.region)
    return next(zone.name for zone in zones if zone.zone_id == request.pool.zone_id)

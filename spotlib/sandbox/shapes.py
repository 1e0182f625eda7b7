"""Requests, instances and their status in EC2's wire form, as dicts.

Only the fields that a client of spot instances reads.  Nothing is decided here.
"""

from __future__ import annotations

from datetime import datetime

from spotlib.sandbox import catalogue
from spotlib.sandbox.account import Instance, SpotRequest
from spotlib.sandbox.chance import digest
from spotlib.sandbox.protocol import Shape
from spotlib.sandbox.world import World

_REQUEST_ONLY = ("SecurityGroupIds", "SecurityGroups")  # answers show them in another form
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
    """One ``SpotInstanceRequest``.  It shows the zone only once it is fulfilled."""
    message = request.flaw if request.state == "failed" and request.flaw else ""
    message = message or _MESSAGES[request.code]
    launch = {key: value for key, value in request.launch.items() if key not in _REQUEST_ONLY}
    shape: Shape = {
        "SpotInstanceRequestId": request.request_id,
        "CreateTime": _stamp(world, request.accepted_s),
        "State": request.state,
        "Status": {
            "Code": request.code,
            "Message": message,
            "UpdateTime": _stamp(world, request.updated_s),
        },
        "LaunchSpecification": launch,
        "Type": "one-time",
        "InstanceInterruptionBehavior": "terminate",
        "ProductDescription": "Linux/UNIX",
        "ValidUntil": _stamp(world, request.valid_until_s),
        "Tags": tag_list(request.tags),
    }
    if request.max_price_usd is not None:
        shape["SpotPrice"] = f"{request.max_price_usd:.6f}"
    if request.instance is not None:
        shape["InstanceId"] = request.instance.instance_id
        shape["LaunchedAvailabilityZone"] = _zone_name(request)
        shape["LaunchedAvailabilityZoneId"] = request.pool.zone_id
    if request.state == "failed":
        shape["Fault"] = {"Code": request.code, "Message": message}
    return shape


def instance_shape(world: World, instance: Instance) -> Shape:
    """One ``Instance``."""
    request, launched = instance.request, _stamp(world, instance.launched_s)
    kind = catalogue.raw_types()[request.pool.instance_type]
    image = request.launch["ImageId"]
    shape: Shape = {
        "InstanceId": instance.instance_id,
        "ImageId": image,
        "InstanceType": request.pool.instance_type,
        "Architecture": catalogue.images(request.pool.region)[image]["Architecture"],
        "Hypervisor": kind.get("Hypervisor", "nitro").replace(
            "nitro", "xen"
        ),  # EC2 reports both so
        "State": state(instance.state),
        "LaunchTime": launched,
        "AmiLaunchIndex": 0,
        "Monitoring": {"State": "disabled"},
        "Placement": {
            "AvailabilityZone": _zone_name(request),
            "AvailabilityZoneId": request.pool.zone_id,
            "Tenancy": "default",
        },
        "Tags": tag_list(instance.tags),
        "NetworkInterfaces": [],
    }
    if not request.on_demand:
        shape["InstanceLifecycle"] = "spot"
        shape["SpotInstanceRequestId"] = request.request_id
    if instance.state in ("pending", "running"):
        shape["NetworkInterfaces"] = [_interface(instance, launched)]
        shape["PrivateIpAddress"] = shape["NetworkInterfaces"][0]["PrivateIpAddress"]
    return {**shape, **_ending(world, instance)}


def status_shape(world: World, instance: Instance, at_s: float) -> Shape:
    """One ``InstanceStatus``.  The attached-EBS status is there only if the type has it."""
    status, ebs = instance.checks(at_s, pending=world.forms.pending_checks)
    shape: Shape = {
        "InstanceId": instance.instance_id,
        "InstanceState": state(instance.state),
        "AvailabilityZone": _zone_name(instance.request),
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


def _interface(instance: Instance, launched: datetime) -> Shape:
    bits = digest(8, "eni", instance.instance_id)
    return {
        "NetworkInterfaceId": f"eni-0{bits.hex()}",
        "PrivateIpAddress": f"172.31.{bits[0]}.{bits[1]}",
        "Status": "in-use",
        "Attachment": {
            "AttachTime": launched,
            "AttachmentId": f"eni-attach-0{bits[::-1].hex()}",
            "DeleteOnTermination": True,
            "DeviceIndex": 0,
            "Status": "attached" if instance.state == "running" else "attaching",
        },
    }


def _stamp(world: World, at_s: float) -> datetime:
    """A moment as EC2 shows it: in whole seconds, as far as is known."""
    moment = world.utc(at_s)
    return moment.replace(microsecond=0) if world.forms.subdigits == "seconds" else moment


def _zone_name(request: SpotRequest) -> str:
    zones = catalogue.zones(request.pool.region)
    return next(zone.name for zone in zones if zone.zone_id == request.pool.zone_id)

"""The calls about spot requests: request, describe, cancel; with EC2's refusals.

Each public function is one EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence

from spotlib.sandbox import catalogue, course, network
from spotlib.sandbox.account import SpotRequest
from spotlib.sandbox.chance import uniforms
from spotlib.sandbox.filters import filters_of, has_wildcard, narrow, page
from spotlib.sandbox.market import Pool
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    end_dry_run,
    invalid,
    missing,
    refuse_others,
    unsupported,
)
from spotlib.sandbox.reads import request_as_of
from spotlib.sandbox.shapes import request_shape
from spotlib.sandbox.world import World

_MOST_INSTANCES = 3000
_OVER_QUOTA = "Max spot instance count exceeded"
_IMAGE_ID = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_REQUEST_ID = re.compile(r"sir-[0-9a-z]{8}")
_MOST_USER_DATA = 16384  # bytes, before base64

# What a launch can name; EC2 has more, which is refused as not modelled.
_LAUNCH = frozenset(
    {
        "EbsOptimized",
        "IamInstanceProfile",
        "ImageId",
        "InstanceType",
        "KeyName",
        "Monitoring",
        "NetworkInterfaces",
        "Placement",
        "SecurityGroupIds",
        "SecurityGroups",
        "SubnetId",
        "UserData",
    }
)
_INTERFACE = frozenset(
    {
        "AssociatePublicIpAddress",
        "DeleteOnTermination",
        "Description",
        "DeviceIndex",
        "Groups",
        "SubnetId",
    }
)
_PLACEMENT = frozenset({"AvailabilityZone", "AvailabilityZoneId", "GroupName", "Tenancy"})

_INTERFACES = "LaunchSpecification.NetworkInterfaces"
_PATHS = {
    "availability-zone-group": "AvailabilityZoneGroup",
    "create-time": "CreateTime",
    "fault-code": "Fault.Code",
    "fault-message": "Fault.Message",
    "instance-id": "InstanceId",
    "launch.group-id": "LaunchSpecification.SecurityGroups.GroupId",
    "launch.group-name": "LaunchSpecification.SecurityGroups.GroupName",
    "launch.image-id": "LaunchSpecification.ImageId",
    "launch.instance-type": "LaunchSpecification.InstanceType",
    "launch.key-name": "LaunchSpecification.KeyName",
    "launch.monitoring-enabled": "LaunchSpecification.Monitoring.Enabled",
    "launched-availability-zone": "LaunchedAvailabilityZone",
    "launched-availability-zone-id": "LaunchedAvailabilityZoneId",
    "network-interface.delete-on-termination": f"{_INTERFACES}.DeleteOnTermination",
    "network-interface.description": f"{_INTERFACES}.Description",
    "network-interface.device-index": f"{_INTERFACES}.DeviceIndex",
    "network-interface.group-id": f"{_INTERFACES}.Groups",
    "network-interface.subnet-id": f"{_INTERFACES}.SubnetId",
    "product-description": "ProductDescription",
    "spot-instance-request-id": "SpotInstanceRequestId",
    "spot-price": "SpotPrice",
    "state": "State",
    "status-code": "Status.Code",
    "status-message": "Status.Message",
    "tag-key": "Tags.Key",
    "type": "Type",
    "valid-until": "ValidUntil",
}


def request_spot_instances(world: World, region: str, params: Params) -> Shape:
    """Accept n one-time requests, or refuse the whole call."""
    token, account = params.get("ClientToken", ""), world.region(region)
    fingerprint = json.dumps(params, sort_keys=True, default=str)
    if token in account.tokens:
        return _repeated(world, token, fingerprint, *account.tokens[token])
    count = _count(params)
    launch = params.get("LaunchSpecification") or {}
    _check_modelled(launch)
    kind = _instance_type(launch, region)
    flaw = _image_flaw(world, launch, region, kind)
    _check_user_data(launch)
    _check_type(params)
    _check_network(world, launch, region)
    _check_names(launch)
    groups = _groups(launch, region)
    pools, zone_flaw = _pools(world, launch, region, kind)
    valid_until_s, max_price_usd = _valid_until_s(world, params), _max_price(params)
    tags = _tags(params)
    if world.forms.dry_run == "parameters":
        end_dry_run(params)
    _check_role(world)
    fitting = _count_within_quota(world, region, kind, count)
    end_dry_run(params)
    requests = course.request(
        world,
        kind,
        pools,
        count=count,
        launch={**launch, "SecurityGroups": groups},
        token=token,
        tags=tags,
        valid_until_s=valid_until_s,
        max_price_usd=max_price_usd,
        flaws=[flaw or zone_flaw] * fitting + [_OVER_QUOTA] * (count - fitting),
    )
    if token:
        account.tokens[token] = (fingerprint, requests)
    return {"SpotInstanceRequests": [request_shape(world, each) for each in requests]}


def describe_spot_instance_requests(world: World, region: str, params: Params) -> Shape:
    """The requests named by id, or those that pass the filters."""
    ids = params.get("SpotInstanceRequestIds", [])
    at_s = world.read_at_s(by_ids=bool(ids))
    found = find_requests(world, region, ids, at_s) if ids else _candidates(world, region, params)
    past = (request_as_of(each, at_s) for each in found)
    shapes = narrow(
        (request_shape(world, each) for each in past if each),
        params,
        "DescribeSpotInstanceRequests",
        _PATHS,
    )
    id_name = "SpotInstanceRequestIds"
    shown, more = page(shapes, params, ids=ids, id_name=id_name, reads=world.reads)
    return {"SpotInstanceRequests": shown, **more}


def cancel_spot_instance_requests(world: World, region: str, params: Params) -> Shape:
    """Cancel requests, all or none.  What they launched keeps running."""
    ids = params.get("SpotInstanceRequestIds", [])
    if not ids:
        raise missing("SpotInstanceRequestId")
    found, done = find_requests(world, region, ids), []
    end_dry_run(params)
    for request in found:
        course.cancel(world, request)
        state = request.state if request.state in ("closed", "cancelled") else "completed"
        done.append({"SpotInstanceRequestId": request.request_id, "State": state})
    return {"CancelledSpotInstanceRequests": done}


def find_requests(
    world: World, region: str, ids: Sequence[str], at_s: float | None = None
) -> list[SpotRequest]:
    """The requests with these ids; one malformed or unknown id refuses the whole call."""
    known, at_s = world.region(region).requests, world.now_s if at_s is None else at_s
    malformed = [i for i in ids if not _REQUEST_ID.fullmatch(i)]
    if malformed:
        message = f'Invalid id: "{malformed[0]}"'
        raise ApiError("InvalidSpotInstanceRequestID.Malformed", message)
    unknown = [i for i in ids if i not in known or known[i].known_s > at_s]
    if unknown:
        message = f"The spot instance request ID '{', '.join(unknown)}' does not exist"
        raise ApiError("InvalidSpotInstanceRequestID.NotFound", message)
    return [known[i] for i in dict.fromkeys(ids)]


def find_images(region: str, ids: Sequence[str]) -> list[Shape]:
    """The images with these ids; one malformed or unknown id refuses the whole call."""
    known = catalogue.images(region)
    unknown = [i for i in ids if i not in known]
    malformed = [i for i in unknown if not _IMAGE_ID.fullmatch(i)]
    if malformed:
        message = f'Invalid id: "{malformed[0]}" (expecting "ami-...")'
        raise ApiError("InvalidAMIID.Malformed", message)
    if unknown:
        message = f"The image id '[{', '.join(unknown)}]' does not exist"
        raise ApiError("InvalidAMIID.NotFound", message)
    return [known[i] for i in dict.fromkeys(ids)]


def _repeated(
    world: World, token: str, fingerprint: str, first: str, requests: Iterable[SpotRequest]
) -> Shape:
    """The answer to a repeated client token: the first call's requests, as they are now."""
    if fingerprint != first:
        message = f"The client token '{token}' was used before with other parameters"
        raise ApiError("IdempotentParameterMismatch", message)
    return {"SpotInstanceRequests": [request_shape(world, each) for each in requests]}


def _candidates(world: World, region: str, params: Params) -> Iterable[SpotRequest]:
    """The requests that may pass the filters, through an index if possible."""
    account = world.region(region)
    for name, values in filters_of(params):
        if has_wildcard(values):
            continue
        if name.startswith("tag:"):
            return account.tagged(name[4:], values)
        if name == "spot-instance-request-id":
            return [account.requests[i] for i in dict.fromkeys(values) if i in account.requests]
    return account.requests.values()


def _count(params: Params) -> int:
    count = int(params.get("InstanceCount", 1))
    if count < 1:
        raise invalid(f"Invalid value '{count}' for instanceCount. Must be greater than 0.")
    if count > _MOST_INSTANCES:
        message = f"At most {_MOST_INSTANCES} instances can be requested in one call, not {count}"
        raise ApiError("RequestResourceCountExceeded", message)
    return count


def _instance_type(launch: Params, region: str) -> catalogue.InstanceType:
    name = launch.get("InstanceType")
    if not name:
        raise missing("launchSpecification.instanceType")
    kind = catalogue.instance_type(name)
    if kind is None or name not in catalogue.offered(region):
        raise invalid(f"Invalid value '{name}' for InstanceType.")
    if not kind.sold_as_spot:
        raise unsupported(f"The instance type '{name}' is not supported by Spot Instances.")
    return kind


def _image_flaw(world: World, launch: Params, region: str, kind: catalogue.InstanceType) -> str:
    """Refuse an invalid image; return why its architecture will fail later, or ""."""
    image = launch.get("ImageId")
    if not image:
        raise missing("launchSpecification.imageId")
    [found] = find_images(region, [image])
    architecture = found["Architecture"]
    if architecture in kind.architectures:
        return ""
    message = (
        f"The architecture '{','.join(kind.architectures)}' of the specified instance type "
        f"does not match the architecture '{architecture}' of the specified AMI. "
        "Specify an instance type and an AMI that have matching architectures, and try again."
    )
    return _unfit(world, invalid(message))


def _unfit(world: World, error: ApiError) -> str:
    """Refuse an inconsistent request or, in the other form, let its evaluation fail."""
    if world.forms.unfit == "refused":
        raise error
    return error.message


def _check_user_data(launch: Params) -> None:
    try:
        script = base64.b64decode(launch.get("UserData") or "", validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Invalid BASE64 encoding of user data.") from None
    if len(script) > _MOST_USER_DATA:
        raise invalid(f"User data is limited to {_MOST_USER_DATA} bytes")


def _check_modelled(launch: Params) -> None:
    """Refuse what EC2 has and the sandbox does not: the launch would not be what was asked for."""
    refuse_others(launch, _LAUNCH, "LaunchSpecification")
    placement, interfaces = launch.get("Placement") or {}, launch.get("NetworkInterfaces") or []
    refuse_others(placement, _PLACEMENT, "Placement")
    for interface in interfaces:
        refuse_others(interface, _INTERFACE, "NetworkInterface")
    if len(interfaces) > 1:
        raise unsupported("More than one network interface is not modelled by the sandbox.")
    tenancy = placement.get("Tenancy", "default")
    if tenancy in ("dedicated", "host"):
        raise unsupported(f"Tenancy {tenancy} is not modelled by the sandbox.")
    if tenancy != "default":
        raise invalid(f"Invalid value '{tenancy}' for tenancy.")


def _check_names(launch: Params) -> None:
    """Refuse what the account does not have: a key pair, an instance profile, a placement group."""
    if launch.get("KeyName"):
        message = f"The key pair '{launch['KeyName']}' does not exist"
        raise ApiError("InvalidKeyPair.NotFound", message)
    for form, value in (launch.get("IamInstanceProfile") or {}).items():
        raise invalid(
            f"Value ({value}) for parameter iamInstanceProfile.{form.lower()} is invalid. "
            f"Invalid IAM Instance Profile {'name' if form == 'Name' else 'ARN'}"
        )
    group = (launch.get("Placement") or {}).get("GroupName")
    if group:
        message = f"The Placement Group '{group}' is unknown."
        raise ApiError("InvalidPlacementGroup.Unknown", message)


def _groups(launch: Params, region: str) -> list[Shape]:
    """The security groups of a launch, which can only be the VPC's default one."""
    known = {"GroupName": "default", "GroupId": network.group_id(region)}
    interfaces = launch.get("NetworkInterfaces") or [{}]
    ids = [*launch.get("SecurityGroupIds", []), *interfaces[0].get("Groups", [])]
    malformed = [i for i in ids if not i.startswith("sg-")]
    if malformed:
        message = f'Invalid id: "{malformed[0]}" (expecting "sg-...")'
        raise ApiError("InvalidGroupId.Malformed", message)
    names = launch.get("SecurityGroups", [])
    unknown = [name for name in [*ids, *names] if name not in known.values()]
    if unknown:
        message = (
            f"The security group '{unknown[0]}' does not exist in VPC '{network.vpc_id(region)}'"
        )
        raise ApiError("InvalidGroup.NotFound", message)
    return [known]


def _check_type(params: Params) -> None:
    kind, behaviour = params.get("Type", "one-time"), params.get("InstanceInterruptionBehavior")
    if kind not in ("one-time", "persistent"):
        raise invalid(f"Invalid value '{kind}' for type. Allowed: one-time, persistent.")
    if kind == "persistent":
        raise unsupported("persistent requests are not modelled by the sandbox.")
    if behaviour not in (None, "terminate"):
        message = (
            f"request with type '{kind}' is not supported when instanceInterruptionBehavior "
            f"is set to '{behaviour}'"
        )
        raise ApiError("InvalidParameterCombination", message)
    if "ValidFrom" in params:
        raise unsupported("ValidFrom is not modelled by the sandbox.")


def _max_price(params: Params) -> float | None:
    if "SpotPrice" not in params:
        return None
    try:
        price = float(params["SpotPrice"])
    except ValueError:
        price = -1.0
    if not 0.0 < price < float("inf"):
        raise invalid(f"Invalid value '{params['SpotPrice']}' for spotPrice.")
    return price


def _valid_until_s(world: World, params: Params) -> float | None:
    if "ValidUntil" not in params:
        return None
    until_s = float((params["ValidUntil"] - world.epoch).total_seconds())
    if until_s <= world.now_s:
        message = "The time specified in validUntil must be in the future."
        raise ApiError("InvalidTime", message)
    return until_s


def _tags(params: Params) -> dict[str, str]:
    tags: dict[str, str] = {}
    for item in params.get("TagSpecifications", []):
        if item.get("ResourceType") != "spot-instances-request":
            raise invalid(
                f"'{item.get('ResourceType')}' is not a valid taggable resource type "
                "for this operation."
            )
        tags.update({tag["Key"]: tag.get("Value", "") for tag in item.get("Tags", [])})
    return tags


def _check_role(world: World) -> None:
    """Refuse if the account lacks the service-linked role of spot requests."""
    if not world.spot_role:
        code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        message = (
            "The provided credentials do not have permission to create the service-linked role "
            "for EC2 Spot Instances."
        )
        raise ApiError(code, message, 403)


def _check_network(world: World, launch: Params, region: str) -> None:
    """Refuse a contradiction, or the lack of a default VPC that the request needs."""
    interfaces = launch.get("NetworkInterfaces")
    for key, what in (("SubnetId", "subnet ID"), ("SecurityGroupIds", "security groups")):
        if interfaces and launch.get(key):
            message = (
                f"Network interfaces and an instance-level {what} may not be specified on the same "
                "request"
            )
            raise ApiError("InvalidParameterCombination", message)
    if interfaces and not interfaces[0].get("SubnetId") and world.forms.bare_interface == "refused":
        raise missing("networkInterface.subnetId")
    if region in world.no_default_vpc and not _subnet(launch):
        raise ApiError("VPCIdNotSpecified", "No default VPC for this user")


def _pools(
    world: World, launch: Params, region: str, kind: catalogue.InstanceType
) -> tuple[list[Pool], str]:
    """The pools that may serve the request, and why its evaluation will fail, or "".

    One pool if the request names a zone, else those of the region.
    """
    offered = catalogue.offered(region)[kind.name]
    zone_id = _named_zone(world, launch, region)
    named = zone_id is not None
    if zone_id is None and world.forms.zone == "any":
        zones = catalogue.zones(region)
        draw = uniforms(1, world.seed, "any zone", region, len(world.calls))[0]
        zone_id = zones[int(draw * len(zones))].zone_id
    if zone_id is None:
        return [Pool(kind.name, offer, region) for offer in offered], ""
    pools = [Pool(kind.name, zone_id, region)]
    if zone_id in offered:
        return pools, ""
    error = _not_offered(region, kind.name, zone_id)
    return pools, _unfit(world, error) if named else error.message


def _not_offered(region: str, name: str, zone_id: str) -> ApiError:
    names = {zone.zone_id: zone.name for zone in catalogue.zones(region)}
    others = ", ".join(sorted(names[offer] for offer in catalogue.offered(region)[name]))
    return ApiError(
        "Unsupported",
        f"Your requested instance type ({name}) is not supported in your requested "
        f"Availability Zone ({names[zone_id]}). Please retry your request by not specifying "
        f"an Availability Zone or choosing {others}.",
    )


def _subnet(launch: Params) -> str | None:
    interfaces = launch.get("NetworkInterfaces") or [{}]
    subnet: str | None = launch.get("SubnetId") or interfaces[0].get("SubnetId")
    return subnet


def _named_zone(world: World, launch: Params, region: str) -> str | None:
    """The id of the zone the request pins, by name, by id or through its subnet."""
    subnet = _subnet(launch)
    if subnet:
        known = {} if region in world.no_default_vpc else network.subnets(region)
        for zone_id, each in known.items():
            if each.subnet_id == subnet:
                return zone_id
        raise ApiError("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
    placement = launch.get("Placement") or {}
    name = placement.get("AvailabilityZone") or placement.get("AvailabilityZoneId")
    if name is None:
        return None
    for zone in catalogue.zones(region):
        if name in (zone.name, zone.zone_id):
            return zone.zone_id
    raise invalid(f"Invalid availability zone: [{name}]")


def _count_within_quota(world: World, region: str, kind: catalogue.InstanceType, count: int) -> int:
    """How many of ``count`` fit within the quota; the others are refused, or fail later."""
    free = world.vcpu_limit(kind.quota_group) - world.vcpus_in_use(region, kind.quota_group)
    fitting = min(count, max(0, int(free // kind.vcpus)))
    if fitting < count and (fitting == 0 or world.forms.quota == "refused"):
        raise ApiError("MaxSpotInstanceCountExceeded", _OVER_QUOTA)
    return fitting

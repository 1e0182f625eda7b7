"""What a launch names, checked against EC2's rules and the account, whoever asks for it.

A ``launch`` is a LaunchSpecification, or those parameters of RunInstances and of a launch template
that have the same names.  Nothing is launched here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence

from spotlib.sandbox import catalogue, network
from spotlib.sandbox.chance import uniforms
from spotlib.sandbox.market import Pool
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    invalid,
    missing,
    refuse_others,
    unsupported,
)
from spotlib.sandbox.world import World

OVER_QUOTA = "Max spot instance count exceeded"
_OVER_VCPUS = (
    "You have requested more vCPU capacity than your current vCPU limit of {} allows for the "
    "instance bucket that the specified instance type belongs to. Please visit "
    "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit."
)
_IMAGE_ID = re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_MOST_USER_DATA = 16384  # bytes, before base64

_OPTIONS = {
    "InstanceInitiatedShutdownBehavior": ("stop", "terminate"),
    "CreditSpecification.CpuCredits": ("standard", "unlimited"),
    "MetadataOptions.HttpTokens": ("optional", "required"),
    "MetadataOptions.HttpEndpoint": ("enabled", "disabled"),
}
TAGGABLE = ("instance", "volume", "network-interface", "spot-instances-request")

# What a launch can name; EC2 has more, which is refused as not modelled.
LAUNCH = frozenset(
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


def instance_type(
    launch: Params, region: str, *, where: str = "", on_demand: bool = False
) -> catalogue.InstanceType:
    """The type that a launch names; ``where`` is the path to it in the call."""
    name = launch.get("InstanceType")
    if not name:
        raise missing(f"{where}instanceType")
    kind = catalogue.instance_type(name)
    if kind is None or name not in catalogue.offered(region):
        raise invalid(f"Invalid value '{name}' for InstanceType.")
    if not on_demand and not kind.sold_as_spot:
        raise unsupported(f"The instance type '{name}' is not supported by Spot Instances.")
    return kind


def image_flaw(
    launch: Params, region: str, kind: catalogue.InstanceType, *, where: str = ""
) -> ApiError | None:
    """Refuse an invalid image; return what is wrong with its architecture."""
    image = launch.get("ImageId")
    if not image:
        raise missing(f"{where}imageId")
    [found] = find_images(region, [image])
    architecture = found["Architecture"]
    if architecture in kind.architectures:
        return None
    message = (
        f"The architecture '{','.join(kind.architectures)}' of the specified instance type "
        f"does not match the architecture '{architecture}' of the specified AMI. "
        "Specify an instance type and an AMI that have matching architectures, and try again."
    )
    return invalid(message)


def check_user_data(launch: Params) -> None:
    """Refuse user data that are too long or not in base64."""
    try:
        script = base64.b64decode(launch.get("UserData") or "", validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Invalid BASE64 encoding of user data.") from None
    if len(script) > _MOST_USER_DATA:
        raise invalid(f"User data is limited to {_MOST_USER_DATA} bytes")


def check_modelled(launch: Params, where: str) -> None:
    """Refuse what EC2 has and the sandbox does not: the launch would not be what was asked for."""
    refuse_others(launch, LAUNCH, where)
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


def check_names(launch: Params) -> None:
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


def groups(launch: Params, region: str) -> list[Shape]:
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


def check_options(params: Params) -> None:
    """Refuse an invalid option of the guest; but for the shutdown none has an effect here."""
    for path, allowed in _OPTIONS.items():
        outer, _, inner = path.partition(".")
        given = params.get(outer)
        value = (given or {}).get(inner) if inner else given
        if value is not None and value not in allowed:
            raise invalid(f"Invalid value '{value}' for {path}. Allowed: {', '.join(allowed)}.")
        if inner and given:
            named = {each.rpartition(".")[2] for each in _OPTIONS if each.startswith(f"{outer}.")}
            refuse_others(given, named, outer)


def tags_at_birth(
    params: Params, taggable: Collection[str] = TAGGABLE
) -> dict[str, dict[str, str]]:
    """The tags of a call by resource type; a type that the call cannot tag is refused."""
    tags: dict[str, dict[str, str]] = {}
    for item in params.get("TagSpecifications", []):
        kind = item.get("ResourceType")
        if kind not in taggable:
            message = f"'{kind}' is not a valid taggable resource type for this operation."
            raise invalid(message)
        given = {tag["Key"]: tag.get("Value", "") for tag in item.get("Tags", [])}
        tags.setdefault(kind, {}).update(given)
    return tags


def check_network(world: World, launch: Params, region: str) -> None:
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


def pools(
    world: World, launch: Params, region: str, kind: catalogue.InstanceType
) -> tuple[list[Pool], ApiError | None]:
    """The pools that may serve the launch, and the error if the type is not offered there.

    One pool if the launch names a zone, else those of the region.
    """
    offered = catalogue.offered(region)[kind.name]
    zone_id = named_zone(world, launch, region)
    if zone_id is None and world.forms.zone == "any":
        zones = catalogue.zones(region)
        draw = uniforms(1, world.seed, "any zone", region, len(world.calls))[0]
        zone_id = zones[int(draw * len(zones))].zone_id
    if zone_id is None:
        return [Pool(kind.name, offer, region) for offer in offered], None
    error = None if zone_id in offered else _not_offered(region, kind.name, zone_id)
    return [Pool(kind.name, zone_id, region)], error


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


def named_zone(world: World, launch: Params, region: str) -> str | None:
    """The id of the zone the launch pins, by name, by id or through its subnet."""
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


def check_role(world: World) -> None:
    """Refuse if the account lacks the service-linked role of spot requests."""
    if not world.spot_role:
        code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
        message = (
            "The provided credentials do not have permission to create the service-linked role "
            "for EC2 Spot Instances."
        )
        raise ApiError(code, message, 403)


def max_price(text: str | None, where: str = "spotPrice") -> float | None:
    """The maximum price that a call names, USD per hour."""
    if text is None:
        return None
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0.0 < price < float("inf"):
        raise invalid(f"Invalid value '{text}' for {where}.")
    return price


def count_within_quota(
    world: World,
    region: str,
    kind: catalogue.InstanceType,
    count: int,
    *,
    least: int = 1,
    on_demand: bool = False,
) -> int:
    """How many of ``count`` fit within the quota; fewer than ``least`` are refused."""
    limit = world.vcpu_limit(kind.quota_group, on_demand=on_demand)
    whole = not on_demand and world.forms.quota == "refused"  # all or nothing
    free = limit - world.vcpus_in_use(region, kind.quota_group, on_demand=on_demand)
    fitting = min(count, max(0, int(free // kind.vcpus)))
    if fitting < (count if whole else least):
        raise over_quota(world, kind, on_demand=on_demand)
    return fitting


def over_quota(world: World, kind: catalogue.InstanceType, *, on_demand: bool) -> ApiError:
    """The refusal of a launch that needs more vCPUs than the quota has."""
    if not on_demand:
        return ApiError("MaxSpotInstanceCountExceeded", OVER_QUOTA)
    limit = world.vcpu_limit(kind.quota_group, on_demand=True)
    return ApiError("VcpuLimitExceeded", _OVER_VCPUS.format(f"{limit:g}"))

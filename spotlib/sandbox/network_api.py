"""The calls about zones, the default VPC, and what a launch can name: groups and key pairs.

Each public function is one EC2 action: ``(world, region, params) -> result``.  The account has no
key pairs and no placement groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spotlib.sandbox import catalogue, network
from spotlib.sandbox.filters import narrow, page
from spotlib.sandbox.protocol import ApiError, Params, Shape, invalid
from spotlib.sandbox.world import World

_ZONE_PATHS = {
    "group-name": "GroupName",
    "opt-in-status": "OptInStatus",
    "region-name": "RegionName",
    "state": "State",
    "zone-id": "ZoneId",
    "zone-name": "ZoneName",
    "zone-type": "ZoneType",
}
_VPC_PATHS = {
    "cidr": "CidrBlock",
    "cidr-block-association.cidr-block": "CidrBlockAssociationSet.CidrBlock",
    "cidr-block-association.association-id": "CidrBlockAssociationSet.AssociationId",
    "cidr-block-association.state": "CidrBlockAssociationSet.CidrBlockState.State",
    "is-default": "IsDefault",
    "owner-id": "OwnerId",
    "state": "State",
    "tag-key": "Tags.Key",
    "vpc-id": "VpcId",
}
_SUBNET_PATHS = {
    "availability-zone": "AvailabilityZone",
    "availability-zone-id": "AvailabilityZoneId",
    "available-ip-address-count": "AvailableIpAddressCount",
    "cidr-block": "CidrBlock",
    "default-for-az": "DefaultForAz",
    "ipv6-native": "Ipv6Native",
    "map-public-ip-on-launch": "MapPublicIpOnLaunch",
    "owner-id": "OwnerId",
    "state": "State",
    "subnet-arn": "SubnetArn",
    "subnet-id": "SubnetId",
    "tag-key": "Tags.Key",
    "vpc-id": "VpcId",
}
_GROUP_PATHS = {
    "description": "Description",
    "group-id": "GroupId",
    "group-name": "GroupName",
    "owner-id": "OwnerId",
    "tag-key": "Tags.Key",
    "vpc-id": "VpcId",
}


def describe_availability_zones(_: World, region: str, params: Params) -> Shape:
    """The zones of a region, by name or id."""
    rows = [
        {
            "State": "available",
            "OptInStatus": "opt-in-not-required",
            "Messages": [],
            "RegionName": region,
            "ZoneName": zone.name,
            "ZoneId": zone.zone_id,
            "GroupName": region,
            "NetworkBorderGroup": region,
            "ZoneType": "availability-zone",
        }
        for zone in catalogue.zones(region)
    ]
    for given, key in (("ZoneNames", "ZoneName"), ("ZoneIds", "ZoneId")):
        wanted = params.get(given, [])
        unknown = set(wanted) - {row[key] for row in rows}
        if unknown:
            raise invalid(f"Invalid availability zone: [{', '.join(sorted(unknown))}]")
        rows = [row for row in rows if not wanted or row[key] in wanted]
    return {"AvailabilityZones": narrow(rows, params, "DescribeAvailabilityZones", _ZONE_PATHS)}


def describe_vpcs(world: World, region: str, params: Params) -> Shape:
    """The default VPC, unless the region has none."""
    vpc_id = network.vpc_id(region)
    association = {
        "AssociationId": vpc_id.replace("vpc", "vpc-cidr-assoc"),
        "CidrBlock": network.VPC_CIDR,
        "CidrBlockState": {"State": "associated"},
    }
    row = {
        "VpcId": vpc_id,
        "OwnerId": world.account_id,
        "CidrBlock": network.VPC_CIDR,
        "CidrBlockAssociationSet": [association],
        "DhcpOptionsId": vpc_id.replace("vpc", "dopt"),
        "InstanceTenancy": "default",
        "IsDefault": True,
        "State": "available",
        "Tags": [],
    }
    rows = _named(_unless_without(world, region, [row]), params, "VpcIds", "VpcId", "vpc ID")
    shown, more = page(narrow(rows, params, "DescribeVpcs", _VPC_PATHS), params)
    return {"Vpcs": shown, **more}


def describe_subnets(world: World, region: str, params: Params) -> Shape:
    """The default subnets, one per zone."""
    arn = f"arn:{world.partition}:ec2:{region}:{world.account_id}:subnet"
    rows = [
        {
            "SubnetId": subnet.subnet_id,
            "SubnetArn": f"{arn}/{subnet.subnet_id}",
            "VpcId": network.vpc_id(region),
            "OwnerId": world.account_id,
            "AvailabilityZone": subnet.zone.name,
            "AvailabilityZoneId": subnet.zone.zone_id,
            "CidrBlock": subnet.cidr,
            "AvailableIpAddressCount": 4091,
            "DefaultForAz": True,
            "MapPublicIpOnLaunch": True,
            "AssignIpv6AddressOnCreation": False,
            "Ipv6Native": False,
            "State": "available",
            "Tags": [],
        }
        for subnet in network.subnets(region).values()
    ]
    rows = _unless_without(world, region, rows)
    rows = _named(rows, params, "SubnetIds", "SubnetId", "subnet ID")
    shown, more = page(narrow(rows, params, "DescribeSubnets", _SUBNET_PATHS), params)
    return {"Subnets": shown, **more}


def describe_security_groups(world: World, region: str, params: Params) -> Shape:
    """The VPC's default group, which lets its members in and everything out."""
    group_id = network.group_id(region)
    pair = {"GroupId": group_id, "UserId": world.account_id}
    row = {
        "GroupId": group_id,
        "GroupName": "default",
        "Description": "default VPC security group",
        "VpcId": network.vpc_id(region),
        "OwnerId": world.account_id,
        "IpPermissions": [{"IpProtocol": "-1", "UserIdGroupPairs": [pair]}],
        "IpPermissionsEgress": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}],
        "Tags": [],
    }
    rows = _unless_without(world, region, [row])
    for given, key in (("GroupIds", "GroupId"), ("GroupNames", "GroupName")):
        rows = _named(rows, params, given, key, "security group")
    shown, more = page(narrow(rows, params, "DescribeSecurityGroups", _GROUP_PATHS), params)
    return {"SecurityGroups": shown, **more}


def describe_key_pairs(_: World, __: str, params: Params) -> Shape:
    """None: the account has no key pairs."""
    for name in [*params.get("KeyNames", []), *params.get("KeyPairIds", [])]:
        raise ApiError("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist")
    paths = {"key-pair-id": "KeyPairId", "key-name": "KeyName", "tag-key": "Tags.Key"}
    return {"KeyPairs": narrow([], params, "DescribeKeyPairs", paths)}


def _unless_without(world: World, region: str, rows: list[Shape]) -> list[Shape]:
    return [] if region in world.no_default_vpc else rows


def _named(rows: Sequence[Shape], params: Params, given: str, key: str, what: str) -> list[Shape]:
    """The rows that the call names, or all; an unknown name refuses the whole call."""
    wanted: Iterable[str] = params.get(given, [])
    known = {row[key]: row for row in rows}
    for name in wanted:
        if name not in known:
            message = f"The {what} '{name}' does not exist"
            raise ApiError(_NOT_FOUND[what], message)
    return [known[name] for name in wanted] or list(rows)


_NOT_FOUND = {
    "vpc ID": "InvalidVpcID.NotFound",
    "subnet ID": "InvalidSubnetID.NotFound",
    "security group": "InvalidGroup.NotFound",
}

"""The calls about the market and the account: prices, scores, types, images, identity.

Each public function is one AWS action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from spotlib.sandbox import catalogue
from spotlib.sandbox.filters import narrow, page
from spotlib.sandbox.launch_checks import find_images
from spotlib.sandbox.market import DAY_S, Pool
from spotlib.sandbox.protocol import ApiError, Params, Shape, invalid, unsupported
from spotlib.sandbox.world import World

_PRICE_DAYS = 90  # length of EC2's price history
_VPC = " (Amazon VPC)"
_MOST_SCORES = 10
_MOST_PRICES = 1000  # of a page
_MOST_PRICE_DAYS = 20_000  # pools times days: all pools of a region for two days

_IMAGE_PATHS = {
    "architecture": "Architecture",
    "block-device-mapping.delete-on-termination": "BlockDeviceMappings.Ebs.DeleteOnTermination",
    "block-device-mapping.device-name": "BlockDeviceMappings.DeviceName",
    "block-device-mapping.volume-size": "BlockDeviceMappings.Ebs.VolumeSize",
    "block-device-mapping.volume-type": "BlockDeviceMappings.Ebs.VolumeType",
    "creation-date": "CreationDate",
    "description": "Description",
    "ena-support": "EnaSupport",
    "hypervisor": "Hypervisor",
    "image-id": "ImageId",
    "image-type": "ImageType",
    "is-public": "Public",
    "manifest-location": "ImageLocation",
    "name": "Name",
    "owner-alias": "ImageOwnerAlias",
    "owner-id": "OwnerId",
    "platform": "Platform",
    "platform-details": "PlatformDetails",
    "root-device-name": "RootDeviceName",
    "root-device-type": "RootDeviceType",
    "sriov-net-support": "SriovNetSupport",
    "state": "State",
    "usage-operation": "UsageOperation",
    "virtualization-type": "VirtualizationType",
}
_PRICE_PATHS = {
    "availability-zone": "AvailabilityZone",
    "availability-zone-id": "AvailabilityZoneId",
    "instance-type": "InstanceType",
    "product-description": "ProductDescription",
    "spot-price": "SpotPrice",
    "timestamp": "Timestamp",
}
_REGION_PATHS = {
    "endpoint": "Endpoint",
    "opt-in-status": "OptInStatus",
    "region-name": "RegionName",
}
_OFFER_PATHS = {"instance-type": "InstanceType", "location": "Location"}
_TYPE_PATHS = {
    "auto-recovery-supported": "AutoRecoverySupported",
    "bare-metal": "BareMetal",
    "burstable-performance-supported": "BurstablePerformanceSupported",
    "current-generation": "CurrentGeneration",
    "dedicated-hosts-supported": "DedicatedHostsSupported",
    "ebs-info.ebs-optimized-support": "EbsInfo.EbsOptimizedSupport",
    "ebs-info.encryption-support": "EbsInfo.EncryptionSupport",
    "ebs-info.nvme-support": "EbsInfo.NvmeSupport",
    "free-tier-eligible": "FreeTierEligible",
    "hibernation-supported": "HibernationSupported",
    "hypervisor": "Hypervisor",
    "instance-storage-info.total-size-in-gb": "InstanceStorageInfo.TotalSizeInGB",
    "instance-storage-supported": "InstanceStorageSupported",
    "instance-type": "InstanceType",
    "memory-info.size-in-mib": "MemoryInfo.SizeInMiB",
    "network-info.ena-support": "NetworkInfo.EnaSupport",
    "network-info.ipv6-supported": "NetworkInfo.Ipv6Supported",
    "network-info.maximum-network-interfaces": "NetworkInfo.MaximumNetworkInterfaces",
    "network-info.network-performance": "NetworkInfo.NetworkPerformance",
    "processor-info.supported-architecture": "ProcessorInfo.SupportedArchitectures",
    "processor-info.sustained-clock-speed-in-ghz": "ProcessorInfo.SustainedClockSpeedInGhz",
    "supported-boot-mode": "SupportedBootModes",
    "supported-root-device-type": "SupportedRootDeviceTypes",
    "supported-usage-class": "SupportedUsageClasses",
    "supported-virtualization-type": "SupportedVirtualizationTypes",
    "vcpu-info.default-cores": "VCpuInfo.DefaultCores",
    "vcpu-info.default-threads-per-core": "VCpuInfo.DefaultThreadsPerCore",
    "vcpu-info.default-vcpus": "VCpuInfo.DefaultVCpus",
}


def describe_spot_price_history(world: World, region: str, params: Params) -> Shape:
    """Prices set between two moments and the last before, of every pool, newest first."""
    window, products = _price_window(world, params), _products(params)
    names = {zone.zone_id: zone.name for zone in catalogue.zones(region)}
    pools = list(_pools_of(region, params.get("InstanceTypes", [])))
    if len(pools) * (window[1] - window[0]) / DAY_S > _MOST_PRICE_DAYS:
        raise unsupported(
            f"Prices of {len(pools)} pools over so long a time are too many for the sandbox: name "
            "InstanceTypes, or a later StartTime."
        )
    rows: list[Shape] = []
    for pool in pools:
        where = {"AvailabilityZone": names[pool.zone_id], "AvailabilityZoneId": pool.zone_id}
        if all(params.get(key, value) == value for key, value in where.items()):
            rows += _price_rows(world, pool, where, products, window)
    rows.sort(key=lambda row: row["Timestamp"], reverse=True)
    most = min(params.get("MaxResults", _MOST_PRICES), _MOST_PRICES)
    found = narrow(rows, params, "DescribeSpotPriceHistory", _PRICE_PATHS)
    shown, more = page(found, {**params, "MaxResults": most}, least=1)
    return {"SpotPriceHistory": shown, "NextToken": "", **more}


def get_spot_placement_scores(world: World, _: str, params: Params) -> Shape:
    """The ten best regions or zones for a capacity in these types."""
    types = params.get("InstanceTypes", [])
    if not types:
        raise unsupported(
            "Only InstanceTypes are modelled by the sandbox, not InstanceRequirements."
        )
    unit = params.get("TargetCapacityUnitType", "units")
    if unit != "units":
        raise unsupported(f"TargetCapacityUnitType {unit} is not modelled by the sandbox.")
    for name in types:
        if catalogue.instance_type(name) is None:
            raise invalid(f"The instance type '{name}' is invalid.")
    capacity, by_zone = params.get("TargetCapacity", 0), params.get("SingleAvailabilityZone", False)
    if capacity < 1:
        raise invalid("TargetCapacity must be at least 1.")
    regions = params.get("RegionNames") or enabled_regions(world)
    for name in regions:
        if not opted_in(world, name):
            raise invalid(f"The region '{name}' is invalid or not enabled.")
    rows = [
        row for region in regions for row in _score_rows(world, region, types, capacity, by_zone)
    ]
    rows.sort(key=lambda row: -row["Score"])
    return {"SpotPlacementScores": rows[:_MOST_SCORES]}


def opted_in(world: World, region: str) -> bool:
    """Whether the account may use the region, which another partition's accounts never may."""
    ours = region in catalogue.regions(world.partition)
    return ours and _opt_in_status(world, region) != "not-opted-in"


def enabled_regions(world: World) -> list[str]:
    """The regions that the account may use."""
    return [name for name in catalogue.regions(world.partition) if opted_in(world, name)]


def describe_regions(world: World, _: str, params: Params) -> Shape:
    """The regions of the account's partition; with AllRegions also those not opted in to."""
    known = catalogue.regions(world.partition)
    names = params.get("RegionNames") or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise invalid(f"Invalid region names: [{', '.join(unknown)}]")
    rows = [
        {
            "RegionName": name,
            "Endpoint": known[name],
            "OptInStatus": _opt_in_status(world, name),
        }
        for name in names
        if params.get("AllRegions", False) or opted_in(world, name)
    ]
    return {"Regions": narrow(rows, params, "DescribeRegions", _REGION_PATHS)}


def describe_instance_types(_: World, region: str, params: Params) -> Shape:
    """The types that a region offers, by name or filter."""
    offered, types = catalogue.offered(region), catalogue.raw_types()
    names = params.get("InstanceTypes") or list(offered)
    unknown = [name for name in names if name not in offered or name not in types]
    if unknown and params.get("InstanceTypes"):
        message = f"The following supplied instance types do not exist: [{', '.join(unknown)}]"
        raise ApiError("InvalidInstanceType", message)
    all_types = (types[name] for name in names if name in types)
    shapes = narrow(all_types, params, "DescribeInstanceTypes", _TYPE_PATHS)
    shown, more = page(shapes, params)
    return {"InstanceTypes": shown, **more}


def describe_instance_type_offerings(_: World, region: str, params: Params) -> Shape:
    """Which types the region, or each of its zones, offers."""
    location, offered = params.get("LocationType", "region"), catalogue.offered(region)
    zones = {zone.zone_id: zone.name for zone in catalogue.zones(region)}
    if location not in ("region", "availability-zone", "availability-zone-id"):
        raise unsupported(f"The location type '{location}' is not modelled by the sandbox.")

    def places(zone_ids: Iterable[str]) -> Iterable[str]:
        if location == "region":
            return [region]
        return zone_ids if location == "availability-zone-id" else map(zones.__getitem__, zone_ids)

    rows = (
        {"InstanceType": name, "LocationType": location, "Location": place}
        for name, zone_ids in offered.items()
        for place in places(zone_ids)
    )
    found = narrow(rows, params, "DescribeInstanceTypeOfferings", _OFFER_PATHS)
    shown, more = page(found, params)
    return {"InstanceTypeOfferings": shown, **more}


def describe_images(world: World, region: str, params: Params) -> Shape:
    """The public images of a region, by id, owner or filter."""
    ids, owners = params.get("ImageIds", []), set(params.get("Owners", ()))
    for owner in owners:
        if not re.fullmatch(r"\d{12}|self|amazon|aws-marketplace|aws-backup-vault", owner):
            raise ApiError("InvalidUserID.Malformed", f'Invalid user id: "{owner}"')
    if "self" in owners:
        owners |= {world.account_id}
    images = find_images(region, ids) if ids else catalogue.images(region).values()
    owned = (
        image
        for image in images
        if not owners or owners & {image["OwnerId"], image["ImageOwnerAlias"]}
    )
    shown, more = page(narrow(owned, params, "DescribeImages", _IMAGE_PATHS), params)
    return {"Images": shown, **more}


def get_products(world: World, _: str, params: Params) -> Shape:
    """On-demand prices of EC2 in the price list's JSON form."""
    wanted = {item["Field"]: item["Value"] for item in params.get("Filters", [])}
    region = wanted.get("regionCode", "us-east-1")
    names = [wanted["instanceType"]] if "instanceType" in wanted else sorted(catalogue.raw_types())
    products = [
        _product(world, name, region, product)
        for name in names
        for product in catalogue.PRODUCTS
        if name in catalogue.offered(region) and catalogue.instance_type(name)
    ]
    matching = [p for p in products if _matches(p["product"]["attributes"], wanted)]
    most = params.get("MaxResults", 100)
    start = int(params.get("NextToken") or 0)
    more = {"NextToken": str(start + most)} if start + most < len(matching) else {}
    texts = [json.dumps(product) for product in matching[start : start + most]]
    return {"FormatVersion": "aws_v1", "PriceList": texts, **more}


def get_role(world: World, _: str, params: Params) -> Shape:
    """A service-linked role: that of fleets, or that of spot requests if the account has it."""
    name = params.get("RoleName", "")
    services = {"AWSServiceRoleForEC2Fleet": "ec2fleet.amazonaws.com"}
    if world.spot_role:
        services["AWSServiceRoleForEC2Spot"] = "spot.amazonaws.com"
    if name not in services:
        raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.", 404)
    path = f"/aws-service-role/{services[name]}/"
    role = {
        "Path": path,
        "RoleName": name,
        "RoleId": "AROASANDBOXSPOTROLE00",
        "Arn": f"arn:{world.partition}:iam::{world.account_id}:role{path}{name}",
        "CreateDate": world.epoch,
    }
    return {"Role": role}


def get_caller_identity(world: World, _region: str, _params: Params) -> Shape:
    """The caller: always the same user of the pretend account."""
    arn = f"arn:{world.partition}:iam::{world.account_id}:user/sandbox"
    return {"UserId": "AIDASANDBOXUSER000000", "Account": world.account_id, "Arn": arn}


def advisor(world: World, only: Collection[str] | None = None) -> dict[str, Any]:
    """The Spot Advisor's JSON file as of now, in its real form, or the part of some regions.

    All regions take a second or two, because each of their pools is drawn.
    """
    types = catalogue.raw_types()
    regions = [each for each in catalogue.DEFAULT_REGIONS if only is None or each in only]
    labels = (("<5%", 5), ("5-10%", 11), ("10-15%", 16), ("15-20%", 22), (">20%", 100))
    return {
        "ranges": [
            {"index": i, "label": label, "dots": i, "max": most}
            for i, (label, most) in enumerate(labels)
        ],
        "instance_types": {name: _advised_type(name) for name in types},
        "spot_advisor": {region: {"Linux": _advised(world, region)} for region in regions},
        "global_rate": "<10%",
    }


def _opt_in_status(world: World, region: str) -> str:
    """EC2's word for whether the account may use a region of its partition."""
    if region in world.not_opted_in:
        return "not-opted-in"
    if world.partition != "aws" or region in catalogue.DEFAULT_REGIONS:
        return "opt-in-not-required"
    return "opted-in" if region in world.opted_in else "not-opted-in"


def _price_window(world: World, params: Params) -> tuple[float, float]:
    end = params.get("EndTime")
    start = params.get("StartTime")
    end_s = world.now_s if end is None else (end - world.epoch).total_seconds()
    end_s = min(end_s, world.now_s)
    oldest_s = world.now_s - _PRICE_DAYS * 86400.0
    start_s = oldest_s if start is None else (start - world.epoch).total_seconds()
    return max(min(start_s, end_s), oldest_s), end_s


def _products(params: Params) -> list[str]:
    """The product descriptions that the call asks for; each has a twin for VPCs, at one price."""
    known = [f"{name}{twin}" for name in catalogue.PRODUCTS for twin in ("", _VPC)]
    for name in (wanted := params.get("ProductDescriptions") or known):
        if name not in known:
            raise invalid(f"Invalid product description: '{name}'")
    return [name for name in known if name in wanted]


def _price_rows(
    world: World, pool: Pool, where: Shape, products: Sequence[str], window: tuple[float, float]
) -> list[Shape]:
    """The prices of a pool that were set in the window, and the last before.

    Which moments these are does not depend on the window: a price is set where it changes, and
    each day at the pool's hour, also where it does not.
    """
    market, hold_s = world.market, world.market.numbers.price_holds_s
    start, end = (world.posix(at_s) for at_s in window)
    first = float(market.price_since([pool], start - DAY_S)[0, 0])
    moments = np.arange(first, end + 0.001, hold_s)
    prices = market.price_usd(pool, moments)
    daily = moments % DAY_S < hold_s
    rows = np.flatnonzero(daily[1:] | (np.diff(prices) != 0.0)) + 1
    before = rows[moments[rows] <= start]
    licence_usd = {each: _licence_usd(pool.instance_type, each) for each in products}
    return [
        {
            **where,
            "InstanceType": pool.instance_type,
            "ProductDescription": product,
            "SpotPrice": f"{prices[i] + licence_usd[product]:.6f}",
            "Timestamp": datetime.fromtimestamp(moments[i], UTC),
        }
        for i in rows
        if i >= before[-1]
        for product in products
    ]


def _pools_of(region: str, types: Sequence[str]) -> Iterable[Pool]:
    offered = catalogue.offered(region)
    for name in types or offered:
        kind = catalogue.instance_type(name)
        if kind and kind.sold_as_spot:
            yield from (Pool(name, zone_id, region) for zone_id in offered.get(name, ()))


def _score_rows(
    world: World, region: str, types: Sequence[str], capacity: int, by_zone: bool
) -> list[Shape]:
    pools = list(_pools_of(region, types))
    if not pools:
        return []
    now = world.posix(world.now_s)
    scores = world.market.placement_scores(pools, now, capacity=capacity)[:, 0]
    best: dict[str, int] = {}
    for pool, score in zip(pools, scores, strict=True):
        best[pool.zone_id] = max(best.get(pool.zone_id, 1), int(score))
    if by_zone:
        return [{"Region": region, "AvailabilityZoneId": z, "Score": s} for z, s in best.items()]
    return [{"Region": region, "Score": max(best.values())}]


def _licence_usd(name: str, product: str) -> float:
    kind = catalogue.instance_type(name)
    return kind.vcpus * catalogue.PRODUCTS[product.removesuffix(_VPC)][2] if kind else 0.0


def _product(world: World, name: str, region: str, product: str) -> Shape:
    kind = catalogue.instance_type(name)
    operation, system, _ = catalogue.PRODUCTS[product]
    usd = world.market.on_demand_usd(name, region) + _licence_usd(name, product)
    attributes = {
        "instanceType": name,
        "regionCode": region,
        "operatingSystem": system,
        "operation": operation,
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "licenseModel": "No License required",
        "marketoption": "OnDemand",
        "vcpu": str(kind.vcpus if kind else ""),
    }
    price = {"unit": "Hrs", "pricePerUnit": {"USD": f"{usd:.10f}"}}
    term = {
        "offerTermCode": "JRTCKXETXF",
        "priceDimensions": {"SANDBOX.JRTCKXETXF.6YS6EN2CT7": price},
    }
    return {
        "product": {"productFamily": "Compute Instance", "attributes": attributes},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {"SANDBOX.JRTCKXETXF": term}},
    }


def _matches(attributes: dict[str, str], wanted: dict[str, str]) -> bool:
    # Fields that the sandbox does not model match every product.
    return all(attributes.get(field, value) == value for field, value in wanted.items())


def _advised_type(name: str) -> Shape:
    kind = catalogue.instance_type(name)
    return {"emr": False, "cores": kind.vcpus, "ram_gb": kind.memory_gib} if kind else {}


def _advised(world: World, region: str) -> dict[str, Shape]:
    at, market = world.posix(world.now_s), world.market
    first = {pool.instance_type: pool for pool in reversed(list(_pools_of(region, [])))}
    prices = market.prices_usd(list(first.values()), at)[:, 0]
    scores = market.interruption_scores(list(first), region, at)[:, 0]
    rows: dict[str, Shape] = {}
    for name, price, score in zip(first, prices, scores, strict=True):
        if not np.isnan(score):
            saved = 100.0 - 100.0 * float(price) / market.on_demand_usd(name, region)
            rows[name] = {"s": int(saved), "r": int((3.0 - score) * 2.0)}
    return rows

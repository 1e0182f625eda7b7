"""Which instance types, zones and images exist: moto's packaged data, read when first needed.

Only facts that do not change with time; for the others see ``market``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from botocore.exceptions import UnknownRegionError
from botocore.loaders import create_loader
from botocore.regions import EndpointResolver

# The regions that every account may use without opting in; SpotLake covers the same.
DEFAULT_REGIONS = (
    "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1",
    "ap-southeast-2", "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2",
    "eu-west-3", "sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2",
)  # fmt: skip

# Families that share a spot quota (EC2's quota names); all others are "Standard".
_QUOTA_GROUPS = {
    "f": "F",
    "g": "G and VT",
    "gr": "G and VT",
    "vt": "G and VT",
    "p": "P",
    "p5": "P5",
    "x": "X",
    "u": "X",
    "inf": "Inf",
    "dl": "DL",
    "trn": "Trn",
}
# What a system is called in the price history -> its usage operation, its name in the price list,
# and what its licence costs in USD per vCPU and hour.
PRODUCTS = {
    "Linux/UNIX": ("RunInstances", "Linux", 0.0),
    "Red Hat Enterprise Linux": ("RunInstances:0010", "RHEL", 0.0144),
    "SUSE Linux": ("RunInstances:000g", "SUSE", 0.0125),
    "Windows": ("RunInstances:0002", "Windows", 0.046),
}
_FAMILY = re.compile(r"([a-z]+)\d*")
_DAY = re.compile(r"(20\d\d)(\d\d)(\d\d)|(20\d\d)\.(\d\d)\.(\d\d)(?!\d)")
_UNDATED = "2017.10.13"  # the day of most of the images among which the undated ones are


@dataclass(frozen=True)
class InstanceType:
    """What the market and the endpoint need to know about an instance type."""

    name: str
    vcpus: int
    memory_gib: float
    architectures: tuple[str, ...]
    nitro: bool  # also true of bare metal, which has attached-EBS checks too
    burstable: bool
    accelerators: int
    sold_as_spot: bool

    @property
    def quota_group(self) -> str:
        """The spot quota against which this type counts."""
        family = _FAMILY.match(self.name)
        names = (family[0], family[1]) if family else ()
        return next((_QUOTA_GROUPS[each] for each in names if each in _QUOTA_GROUPS), "Standard")


@dataclass(frozen=True)
class Zone:
    """One availability zone: its name in this account, and its id, the same in all accounts."""

    name: str
    zone_id: str
    region: str


def _resource(path: str) -> Any:
    spec = find_spec("moto")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the sandbox needs moto: pip install 'moto[ec2,ssm]'")
    file = Path(spec.origin).parent / path
    return json.loads(gzip.decompress(file.read_bytes())) if file.exists() else []


@cache
def raw_types() -> dict[str, dict[str, Any]]:
    """Instance types in the form of DescribeInstanceTypes, by name."""
    return dict(sorted(_resource("ec2/resources/instance_types.json.gz").items()))


@cache
def instance_type(name: str) -> InstanceType | None:
    """The instance type of this name, or None."""
    raw = raw_types().get(name)
    if raw is None:
        return None
    groups = (("GpuInfo", "Gpus"), ("InferenceAcceleratorInfo", "Accelerators"))
    return InstanceType(
        name=name,
        vcpus=raw["VCpuInfo"]["DefaultVCpus"],
        memory_gib=raw["MemoryInfo"]["SizeInMiB"] / 1024,
        architectures=tuple(raw["ProcessorInfo"]["SupportedArchitectures"]),
        nitro=raw.get("Hypervisor") != "xen",
        burstable=raw.get("BurstablePerformanceSupported", False),
        accelerators=sum(x.get("Count", 0) for g, k in groups for x in raw.get(g, {}).get(k, [])),
        sold_as_spot="spot" in raw["SupportedUsageClasses"],
    )


@cache
def offered(region: str) -> dict[str, tuple[str, ...]]:
    """Instance type -> ids of the region's zones that offer it."""
    known = {zone.zone_id for zone in zones(region)}  # the data name one zone more
    where: dict[str, list[str]] = {}
    path = f"ec2/resources/instance_type_offerings/availability-zone-id/{region}.json.gz"
    for row in _resource(path):
        if row["Location"] in known:
            where.setdefault(row["InstanceType"], []).append(row["Location"])
    return {name: tuple(sorted(ids)) for name, ids in sorted(where.items())}


@cache
def zones(region: str) -> tuple[Zone, ...]:
    """The availability zones of a region, by name; empty for an unknown region."""
    found = _regions_and_zones().zones.get(region, [])
    return tuple(Zone(zone.name, zone.zone_id, region) for zone in found)


@cache
def partition_of(region: str) -> str:
    """The partition of a region, such as ``aws-cn``; "" for an unknown region."""
    try:
        return str(_endpoints().get_partition_for_region(region))
    except UnknownRegionError:
        return ""


@cache
def _endpoints() -> EndpointResolver:
    """Where services are, as botocore's data say; a Session would read ``~/.aws``."""
    return EndpointResolver(create_loader().load_data("endpoints"))


@cache
def regions(partition: str) -> dict[str, str]:
    """The regions of a partition, each with its endpoint's host."""
    known = _regions_and_zones().regions
    return {each.name: each.endpoint for each in known if partition_of(each.name) == partition}


@cache
def images(region: str) -> dict[str, dict[str, Any]]:
    """The images of a region in the form of DescribeImages, by id."""
    rows = _resource(f"ec2/resources/latest_amis/{region}.json.gz")
    rows = rows + _resource("ec2/resources/amis.json.gz")
    return {row["ami_id"]: _image(row) for row in rows}


def _image(row: dict[str, Any]) -> dict[str, Any]:
    root = {"DeleteOnTermination": True, "VolumeSize": 8, "VolumeType": "gp3"}
    return {
        "ImageId": row["ami_id"],
        "CreationDate": _created(row["name"]),
        "ImageLocation": row.get("image_location", f"amazon/{row['name']}"),
        "ImageOwnerAlias": "amazon",
        "EnaSupport": row["virtualization_type"] == "hvm",
        "SriovNetSupport": row["sriov"],
        "Name": row["name"],
        "Description": row["description"],
        "Architecture": row["architecture"],
        "State": row["state"],
        "OwnerId": row["owner_id"],
        "Public": row["public"],
        "ImageType": row["image_type"],
        **_system(row),
        "Hypervisor": row["hypervisor"],
        "VirtualizationType": row["virtualization_type"],
        "RootDeviceName": row["root_device_name"],
        "RootDeviceType": row["root_device_type"],
        "BlockDeviceMappings": [{"DeviceName": row["root_device_name"], "Ebs": root}],
    }


def _system(row: dict[str, Any]) -> dict[str, Any]:
    """What the image runs, and as what it is billed."""
    by_owner = {"309956199498": "Red Hat Enterprise Linux", "013907871322": "SUSE Linux"}
    windows = {"Platform": "windows"} if row["platform"] == "windows" else {}
    product = "Windows" if windows else by_owner.get(row["owner_id"], "Linux/UNIX")
    return {**windows, "PlatformDetails": product, "UsageOperation": PRODUCTS[product][0]}


def _created(name: str) -> str:
    """When an image was made, in EC2's form: images carry the day in their name, most of them."""
    day = _DAY.search(name) or _DAY.search(_UNDATED)
    assert day is not None
    return "-".join(filter(None, day.groups())) + "T00:00:00.000Z"


def _regions_and_zones() -> Any:
    """moto's regions and zones, which are in its code."""
    import_moto()
    from moto.ec2.models.availability_zones_and_regions import (  # noqa: PLC0415
        RegionsAndZonesBackend,
    )

    return RegionsAndZonesBackend


def import_moto() -> None:
    """Import moto's backends, which is slow, without any setting for AWS: see below."""
    with _IMPORTING:
        _import_moto()


@cache
def _import_moto() -> None:
    """While it is imported, moto reads ``AWS_*`` and ``~/.aws``, and fails if they are wrong."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    nothing = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
    os.environ.update(nothing)
    try:
        import_module("moto.ec2")
        from moto.core.base_backend import AccountSpecificBackend  # noqa: PLC0415

        AccountSpecificBackend.get_session()  # kept by moto from now on
    finally:
        for name in nothing:
            del os.environ[name]
        os.environ.update(kept)


_IMPORTING = threading.Lock()

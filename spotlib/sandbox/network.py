"""The network of each region of an account: one default VPC, a subnet per zone, one group.

Facts only, which no call changes.  The ids depend on the region alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from spotlib.sandbox import catalogue
from spotlib.sandbox.chance import digest

VPC_CIDR = "172.31.0.0/16"
_FIRST_HOST, _HOSTS = 4, 4091  # of a subnet's 4,096 addresses AWS keeps the first 4 and the last


@dataclass(frozen=True)
class Subnet:
    """The default subnet of one zone."""

    subnet_id: str
    zone: catalogue.Zone
    place: int  # its place in the VPC

    @property
    def cidr(self) -> str:
        return f"172.31.{16 * self.place}.0/20"

    def address(self, number: int) -> str:
        """The address of the instance with this number."""
        host = _FIRST_HOST + number % _HOSTS
        return f"172.31.{16 * self.place + host // 256}.{host % 256}"


@cache
def vpc_id(region: str) -> str:
    """The id of the default VPC."""
    return f"vpc-0{digest(8, 'vpc', region).hex()}"


@cache
def group_id(region: str) -> str:
    """The id of the VPC's only security group, which is called ``default``."""
    return f"sg-0{digest(8, 'group', region).hex()}"


@cache
def subnets(region: str) -> dict[str, Subnet]:
    """The subnets of a region by the id of their zone."""
    return {
        zone.zone_id: Subnet(f"subnet-0{digest(8, 'subnet', zone.zone_id).hex()}", zone, place)
        for place, zone in enumerate(catalogue.zones(region))
    }

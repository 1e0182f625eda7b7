"""Where Amazon is: its domains, and the home region and currency of each of its partitions.

A *partition* (``aws``, ``aws-cn``, ``aws-us-gov``, ...) is separate from the others: its accounts,
domains and prices mean nothing there.  The list of partitions is botocore's.
"""

import re
from functools import cache
from typing import Any

from botocore.loaders import create_loader

from spotlib.addresses import AMAZON_DOMAINS, host_of

_DOMAIN_KEYS = ("dnsSuffix", "dualStackDnsSuffix")
_CURRENCIES = {"aws-cn": "CNY", "aws-eusc": "EUR"}  # of EC2's prices; all others are in USD


def is_aws(endpoint: str) -> bool:
    """Whether the endpoint is Amazon's and costs money: ``aws``, or a host in Amazon's domains."""
    return endpoint == "aws" or f".{host_of(endpoint)}".endswith(_domains())


def partition_of(region: str) -> str:
    """Return the partition of a region; one that no partition has is taken for one of ``aws``."""
    return str(_partition(region)["id"])


def home_region(region: str) -> str:
    """Return the region in which a partition is asked about accounts, roles, prices, regions."""
    return str(_partition(region)["outputs"]["implicitGlobalRegion"])


def home_of_arn(arn: str) -> str:
    """Return the home region of the partition that an ARN names; else that of ``aws``."""
    named = arn.split(":")[1:2]
    fitting = (each for each in _partitions() if [each["id"]] == named)
    return str(next(fitting, _partitions()[0])["outputs"]["implicitGlobalRegion"])


def currency_of(region: str) -> str:
    """Return the currency of the prices that EC2 states and accepts there."""
    return _CURRENCIES.get(partition_of(region), "USD")


def _partition(region: str) -> dict[str, Any]:
    fitting = (each for each in _partitions() if re.match(each["regionRegex"], region))
    return next(fitting, _partitions()[0])


@cache
def _partitions() -> list[dict[str, Any]]:
    return list(create_loader().load_data("partitions")["partitions"])  # "aws" is the first


@cache
def _domains() -> tuple[str, ...]:
    """Amazon's domains, each with a dot before it."""
    known = {each["outputs"][key] for each in _partitions() for key in _DOMAIN_KEYS}
    return AMAZON_DOMAINS + tuple(f".{each}" for each in known)

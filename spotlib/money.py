"""What an instance costs while it is held: the constants and the one formula.

Prices are in USD per instance and hour; unknown is NaN, and so is every cost made from it.
"""

import math
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

# US prices of 2024, beside the instance's own price.
_ADDRESS_USD_PER_HOUR: Final = 0.005  # a public IPv4 address
_VOLUME_USD_PER_HOUR: Final = 8 * 0.08 / 730  # 8 GiB of gp3 at 0.08 USD per GiB and month
# T types are "unlimited" for spot: CPU credits beyond the earned ones are billed.
SURPLUS_USD_PER_VCPU_HOUR: Final = 0.05
_QUEUE_USD_PER_MILLION: Final = 0.40  # requests to SQS, beyond the free ones of a month
_HOUR_S: Final = 3600.0
_LEAST_BILLED_S: Final = 60.0  # EC2 bills by the second, but no less than a minute
_SHOWN_USD: Final = 0.001  # below it an amount is shown with its first two digits

Price = TypeVar("Price", float, NDArray[np.float64])


def held_usd(
    usd_per_hour: Price,
    held_s: float,
    *,
    has_address: bool = True,
    surplus_vcpus: int = 0,
    by_the_hour: bool = False,
) -> Price:
    """Return what one instance costs in USD if it is held for ``held_s`` seconds.

    Parameters
    ----------
    usd_per_hour
        Price of the instance itself; an array gives an array.
    has_address
        Whether it has a public IPv4 address, which is billed too.
    surplus_vcpus
        How many vCPUs run on surplus credits the whole time: none is expected, all is the bound.
    by_the_hour
        Whether each started hour of the instance itself is billed in full, as for some systems
        with a licence.
    """
    address = _ADDRESS_USD_PER_HOUR if has_address else 0.0
    extras = address + _VOLUME_USD_PER_HOUR + SURPLUS_USD_PER_VCPU_HOUR * surplus_vcpus
    least_s = max(held_s, _LEAST_BILLED_S)
    billed_s = math.ceil(least_s / _HOUR_S) * _HOUR_S if by_the_hour else least_s
    return billed_s / _HOUR_S * usd_per_hour + least_s / _HOUR_S * extras


def requests_usd(count: int) -> float:
    """Return what so many requests to SQS cost in USD, if none is free."""
    return count * _QUEUE_USD_PER_MILLION / 1e6


def usd(amount: float) -> str:
    """Format an amount of money; an unknown one reads ``unknown``, and only nothing reads zero."""
    if math.isnan(amount):
        return "unknown"
    tiny = 0 < abs(amount) < _SHOWN_USD
    decimals = 1 - math.floor(math.log10(abs(amount))) if tiny else 4
    return f"${amount:.{decimals}f}"

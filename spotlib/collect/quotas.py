"""The spot vCPU quotas: which one a type counts against, and how many vCPUs it allows.  Pure.

A quota is found by its code, because AWS renames quotas; only Trn, for which two codes are known,
is found by its name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_FAMILY = re.compile(r"([a-z]+)(\d*)")


@dataclass(frozen=True)
class Quota:
    """A spot quota: its name without ``All`` and ``Spot Instance Requests``, and its code.

    ``fresh_vcpus`` is what a new account has, None if this family's quota is not known here.
    """

    name: str
    code: str | None
    fresh_vcpus: int | None = 0

    def is_shown_as(self, item: Mapping[str, Any]) -> bool:
        """Whether this is the quota that Service Quotas shows."""
        if self.code is not None:
            return bool(item["QuotaCode"] == self.code)
        return bool(item["QuotaName"] == f"All {self.name} Spot Instance Requests")


STANDARD = Quota("Standard (A, C, D, H, I, M, R, T, Z)", "L-34B43A08", fresh_vcpus=5)
_P = Quota("P4, P3 and P2 (formerly P)", "L-7212CCBC")
_G_AND_VT = Quota("G and VT", "L-3819A6DF")
# By the letters of a family's name, or its letters and its generation.  A first letter alone says
# nothing: mac, hpc and u (high memory) have no spot quota, because they are not sold as spot.
_QUOTAS = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "m", "r", "t", "z"), STANDARD),
    **dict.fromkeys(("cc", "cr", "hi", "hs", "im", "is"), STANDARD),
    **dict.fromkeys(("p2", "p3", "p4"), _P),
    "p5": Quota("P5", "L-C4BD4855"),
    "f": Quota("F", "L-88CF9481"),
    **dict.fromkeys(("g", "gr", "vt"), _G_AND_VT),
    "x": Quota("X", "L-E3A00192"),
    "inf": Quota("Inf", "L-B5D1601B"),
    "dl": Quota("DL", "L-85EED4F7"),
    "trn": Quota("Trn", None),
}


def quota_of(instance_type: str) -> Quota:
    """Return the quota that a type counts against; an unknown family has one of its own name."""
    matched = _FAMILY.match(instance_type)
    letters, generation = matched.groups() if matched else (instance_type, "")
    for key in (letters + generation, letters):
        if key in _QUOTAS:
            return _QUOTAS[key]
    return Quota(letters + generation, None, fresh_vcpus=None)


def vcpus_of(items: Iterable[Mapping[str, Any]], quotas: Iterable[Quota]) -> dict[Quota, int]:
    """Return the vCPUs of those of the quotas that Service Quotas shows.

    Where it has an error of its own, it shows an ErrorReason in place of the value.
    """
    shown = [item for item in items if "Value" in item]
    return {
        quota: int(item["Value"]) for quota in quotas for item in shown if quota.is_shown_as(item)
    }

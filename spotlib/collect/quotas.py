"""The vCPU quotas: which one a type counts against, and how many vCPUs it allows.  Pure.

Spot and on demand have quotas of their own.  A quota is found by its code, because AWS renames
quotas; only the spot quota of Trn, for which two codes are known, is found by its name.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from spotlib.model import ON_DEMAND, SPOT, Purchase

_FAMILY = re.compile(r"([a-z]+)(\d*)")
_TITLES: dict[Purchase, str] = {
    SPOT: "All {} Spot Instance Requests",
    ON_DEMAND: "Running On-Demand {} instances",
}


@dataclass(frozen=True)
class Quota:
    """A quota: the families that it is for, and its code.

    ``fresh_vcpus`` is what a new account has, None if this family's quota is not known here.
    """

    families: str
    code: str | None
    fresh_vcpus: int | None
    purchase: Purchase

    @property
    def name(self) -> str:
        """What Service Quotas calls it."""
        return _TITLES[self.purchase].format(self.families)

    def is_shown_as(self, item: Mapping[str, Any]) -> bool:
        """Whether this is the quota that Service Quotas shows."""
        if self.code is not None:
            return bool(item["QuotaCode"] == self.code)
        return bool(item["QuotaName"] == self.name)


_CODES: dict[str, dict[Purchase, str | None]] = {
    "Standard (A, C, D, H, I, M, R, T, Z)": {SPOT: "L-34B43A08", ON_DEMAND: "L-1216C47A"},
    "P4, P3 and P2 (formerly P)": {SPOT: "L-7212CCBC", ON_DEMAND: "L-417A185B"},
    "P5": {SPOT: "L-C4BD4855", ON_DEMAND: "L-417A185B"},
    "F": {SPOT: "L-88CF9481", ON_DEMAND: "L-74FC7D96"},
    "G and VT": {SPOT: "L-3819A6DF", ON_DEMAND: "L-DB2E81BA"},
    "X": {SPOT: "L-E3A00192", ON_DEMAND: "L-7295265B"},
    "Inf": {SPOT: "L-B5D1601B", ON_DEMAND: "L-1945791B"},
    "DL": {SPOT: "L-85EED4F7", ON_DEMAND: "L-6E869C2A"},
    "Trn": {SPOT: None, ON_DEMAND: "L-2C3B7624"},
}
STANDARD, _P, _P5, _F, _G_AND_VT, _X, _INF, _DL, _TRN = _CODES
_P_ON_DEMAND = "P"  # all its generations share one quota there
# By the letters of a family's name, or its letters and its generation.  A first letter alone says
# nothing: mac, hpc and u (high memory) have no spot quota, because they are not sold as spot.
_FAMILIES = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "m", "r", "t", "z"), STANDARD),
    **dict.fromkeys(("cc", "cr", "hi", "hs", "im", "is"), STANDARD),
    **dict.fromkeys(("p2", "p3", "p4"), _P),
    "p5": _P5,
    "f": _F,
    **dict.fromkeys(("g", "gr", "vt"), _G_AND_VT),
    "x": _X,
    "inf": _INF,
    "dl": _DL,
    "trn": _TRN,
}


def quota_of(instance_type: str, purchase: Purchase = SPOT) -> Quota:
    """Return the quota that a type counts against; an unknown family has one of its own name."""
    matched = _FAMILY.match(instance_type)
    letters, generation = matched.groups() if matched else (instance_type, "")
    for key in (letters + generation, letters):
        if key in _FAMILIES:
            return _quota(_FAMILIES[key], purchase)
    return Quota(letters + generation, None, fresh_vcpus=None, purchase=purchase)


def _quota(families: str, purchase: Purchase) -> Quota:
    code, fresh_vcpus = _CODES[families][purchase], 5 if families == STANDARD else 0
    if purchase == ON_DEMAND and families in (_P, _P5):
        families = _P_ON_DEMAND
    return Quota(families, code, fresh_vcpus, purchase)


def vcpus_of(items: Iterable[Mapping[str, Any]], quotas: Iterable[Quota]) -> dict[Quota, int]:
    """Return the vCPUs of those of the quotas that Service Quotas shows.

    If Service Quotas itself has an error, it shows an ErrorReason in place of the value.
    """
    shown = [item for item in items if "Value" in item]
    return {
        quota: int(item["Value"]) for quota in quotas for item in shown if quota.is_shown_as(item)
    }

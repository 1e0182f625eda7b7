"""EC2's token buckets: one per region and action.

Source: EC2 Developer Guide, "Request throttling": the size of each bucket, which is the number of
calls possible at once, and its refill rate.  Not modelled: smaller buckets of new accounts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Bucket = tuple[float, float]  # its size, its refill per second

READ: Bucket = (100.0, 20.0)
UNNARROWED: Bucket = (50.0, 10.0)  # describes with neither paging nor filter
BUCKETS: Mapping[str, Bucket] = {
    "RequestSpotInstances": (50.0, 5.0),
    "RunInstances": (5.0, 2.0),
    "CreateFleet": (50.0, 5.0),
    "DeleteFleets": (50.0, 5.0),
    "CreateLaunchTemplate": (50.0, 5.0),
    "DeleteLaunchTemplate": (50.0, 5.0),
    "CancelSpotInstanceRequests": (50.0, 5.0),
    "TerminateInstances": (100.0, 5.0),
    "CreateTags": (100.0, 10.0),
    "GetConsoleOutput": (20.0, 5.0),  # not published: a modest one
}
TERMINATED: Bucket = (1000.0, 20.0)  # counts instances, in addition to the calls
LAUNCHED: Bucket = (1000.0, 2.0)  # the same for RunInstances
_NARROWABLE = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeSpotInstanceRequests",
        "DescribeSecurityGroups",
    }
)


class Buckets:
    """The level of every bucket."""

    def __init__(self, *, status_ids_narrow: bool = True, count_launched: bool = True) -> None:
        self._status_ids_narrow = status_ids_narrow
        self._count_launched = count_launched
        self._level: dict[tuple[str, str], tuple[float, float]] = {}

    def take(self, region: str, action: str, params: Mapping[str, Any], now_s: float) -> bool:
        """Take the tokens of a call; if they are not there, take none and return False."""
        name, bucket = self._bucket(action, params)
        needs = [((region, name), bucket, 1.0)]
        if action == "TerminateInstances":
            instances = float(len(params.get("InstanceIds", [])))
            needs.append(((region, "instances terminated"), TERMINATED, instances))
        if action == "RunInstances" and self._count_launched:
            launched = float(params.get("MaxCount", 0))
            needs.append(((region, "instances launched"), LAUNCHED, launched))
        levels = [(key, self._level_now(key, bucket, now_s) - need) for key, bucket, need in needs]
        if any(level < 0.0 for _, level in levels):
            return False
        self._level.update({key: (level, now_s) for key, level in levels})
        return True

    def _bucket(self, action: str, params: Mapping[str, Any]) -> tuple[str, Bucket]:
        narrowed = any(params.get(key) for key in ("Filters", "MaxResults", "NextToken"))
        if action == "DescribeInstanceStatus" and self._status_ids_narrow:
            narrowed = narrowed or bool(params.get("InstanceIds"))
        if action in _NARROWABLE and not narrowed:
            return f"{action}, all", UNNARROWED
        return action, BUCKETS.get(action, READ)

    def _level_now(self, key: tuple[str, str], bucket: Bucket, now_s: float) -> float:
        level, then_s = self._level.get(key, (bucket[0], now_s))
        return min(bucket[0], level + (now_s - then_s) * bucket[1])

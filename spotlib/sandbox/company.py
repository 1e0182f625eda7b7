"""What other users hold in the same account: a client must neither count nor change it.

On-demand and spot instances, running and held requests, with other tags or none, in any region.
They share the quota and the pools.  ``World.touched`` records what a call did to them; the truth
and the leftovers omit them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from spotlib.sandbox import catalogue, course
from spotlib.sandbox.account import Fate, SpotRequest
from spotlib.sandbox.market import Pool
from spotlib.sandbox.world import World

_RUNNING = Fate(evaluate_s=0.0, in_flight_s=0.0, boot_s=0.0, ok_s=0.0)


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Some requests of one kind and one owner."""

    region: str
    count: int = 1
    instance_type: str = "t3.nano"
    on_demand: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)  # of the spot requests
    fate: Fate = _RUNNING
    owner: str = "company"


def move_in(world: World, neighbours: Iterable[Neighbours]) -> list[SpotRequest]:
    """Create the neighbours now; the returned requests include on-demand launches."""
    requests: list[SpotRequest] = []
    with world.lock:
        for each in neighbours:
            requests += _request(world, each)
        world.run_due()
    return requests


def crowd(regions: Iterable[str], *, tags: Mapping[str, str] | None = None) -> list[Neighbours]:
    """A mixture of neighbours in each region; ``tags`` mark another batch of the caller."""
    held = Fate(evaluate_s=0.0, held_s=None)
    return [
        neighbours
        for region in regions
        for neighbours in (
            Neighbours(region=region, count=3, on_demand=True),
            Neighbours(region=region, count=2, tags={"Name": "somebody else's"}),
            Neighbours(region=region, count=2),
            Neighbours(region=region, count=2, fate=held),
            Neighbours(region=region, count=2, tags=dict(tags or {}), owner="another batch"),
            Neighbours(region=region, tags=dict(tags or {}), owner="another batch", fate=held),
        )
    ]


def _request(world: World, each: Neighbours) -> list[SpotRequest]:
    kind = catalogue.instance_type(each.instance_type)
    zones = catalogue.offered(each.region).get(each.instance_type)
    if kind is None or not zones:
        raise ValueError(f"{each.instance_type!r} is not offered in {each.region!r}")
    image = next(
        name
        for name, image in catalogue.images(each.region).items()
        if image["Architecture"] in kind.architectures
    )
    return course.request(
        world,
        kind,
        [Pool(each.instance_type, zone_id, each.region) for zone_id in zones],
        count=each.count,
        launch={"ImageId": image, "InstanceType": each.instance_type},
        tags=dict(each.tags),
        fate=each.fate,
        owner=each.owner,
        on_demand=each.on_demand,
    )

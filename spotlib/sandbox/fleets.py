"""What happens to fleets: they wait, are deleted, expire; their state, and their history.

The units of a fleet are requests whose course is that of any other: see ``course``.
"""

from __future__ import annotations

from math import inf
from operator import itemgetter

from spotlib.sandbox import course
from spotlib.sandbox.account import Fleet, SpotRequest
from spotlib.sandbox.world import World

_GONE = ("shutting-down", "terminated")
_LISTED_S = 2 * 86400.0  # how long EC2 lists a fleet after its last instance has ended


def begin(world: World, fleet: Fleet) -> None:
    """Let the fleet's units wait for capacity, until it ends."""
    course.wait(world, fleet.units)
    if fleet.until_s < inf:
        world.schedule(fleet.until_s, _expire, fleet)


def delete(world: World, fleet: Fleet, *, terminate: bool) -> None:
    """End the fleet now: it launches nothing more, and its instances end or live on."""
    fleet.terminates = terminate
    _end(world, fleet, world.now_s)


def state(fleet: Fleet, at_s: float) -> str:
    """Its state as EC2 names it."""
    if fleet.ended_s is None:
        return "active" if at_s >= fleet.active_s else "submitted"
    if not _has_instances(fleet):
        return "deleted"
    return "deleted_terminating" if fleet.terminates else "deleted_running"


def activity(fleet: Fleet, at_s: float) -> str | None:
    """How far it has come; an instant fleet is fulfilled whatever it launched (AWS)."""
    if fleet.kind == "instant":
        return "fulfilled"
    if fleet.ended_s is not None or at_s < fleet.active_s:
        return None
    if not fleet.units:
        return "error"
    return "fulfilled" if len(active(fleet)) >= fleet.target else "pending_fulfillment"


def active(fleet: Fleet) -> list[SpotRequest]:
    """Its units that have an instance which has not begun to end."""
    return [each for each in fleet.units if each.instance and each.instance.state not in _GONE]


def history(fleet: Fleet) -> list[tuple[float, str, str, str]]:
    """(when, type of the event, sub-type, instance id or "") of all events so far, in order."""
    events = [
        (fleet.created_s, "fleet-change", "submitted", ""),
        (fleet.active_s, "fleet-change", "active", ""),
        *fleet.events,
    ]
    for unit in fleet.units:
        for stage, name in (("fulfilled", "launched"), ("shutting-down", "terminated")):
            if unit.instance and stage in unit.happened_s:
                at_s = unit.happened_s[stage]
                events.append((at_s, "instance-change", name, unit.instance.instance_id))
    return sorted(events, key=itemgetter(0))


def _has_instances(fleet: Fleet) -> bool:
    """Whether an instance of it has not ended, or is still to come."""
    return any(
        unit.in_flight or (unit.instance and unit.instance.state != "terminated")
        for unit in fleet.units
    )


def _forget(world: World, fleet: Fleet, at_s: float) -> None:
    if _has_instances(fleet):
        world.schedule(at_s + _LISTED_S, _forget, fleet)
        return
    for region in world.regions.values():
        region.fleets.pop(fleet.fleet_id, None)


def _expire(world: World, fleet: Fleet, at_s: float) -> None:
    if fleet.ended_s is None:
        fleet.events.append((at_s, "fleet-change", "expired", ""))
        _end(world, fleet, at_s)


def _end(world: World, fleet: Fleet, at_s: float) -> None:
    if fleet.ended_s is None:
        fleet.ended_s = at_s
        world.schedule(at_s + _LISTED_S, _forget, fleet)
    name = "deleted_terminating" if fleet.terminates else "deleted_running"
    fleet.events.append((at_s, "fleet-change", name, ""))
    for unit in fleet.units:
        unit.unwanted = fleet.terminates
        if unit.state == "open" and not unit.in_flight:
            course.cancel(world, unit)
        elif unit.instance and fleet.terminates:
            course.terminate(world, unit.instance, at_s)

"""The calls that show fleets, their instances and their history.

Each public function is one EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

from collections.abc import Sequence

from spotlib.sandbox import fleets
from spotlib.sandbox.account import Fleet, SpotRequest
from spotlib.sandbox.filters import narrow, page
from spotlib.sandbox.fleet_shapes import fleet_shape
from spotlib.sandbox.protocol import ApiError, Params, Shape, missing, unsupported
from spotlib.sandbox.shapes import stamp
from spotlib.sandbox.world import World

_HISTORY_LAG_S = 30.0  # EC2 shows an event up to this late
_EVENT_TYPES = ("instance-change", "fleet-change", "service-error")
_PATHS = {
    "activity-status": "ActivityStatus",
    "excess-capacity-termination-policy": "ExcessCapacityTerminationPolicy",
    "fleet-state": "FleetState",
    "replace-unhealthy-instances": "ReplaceUnhealthyInstances",
    "type": "Type",
}


def describe_fleets(world: World, region: str, params: Params) -> Shape:
    """Fleets by id or by filter; one of type instant only by its id."""
    ids = params.get("FleetIds", [])
    found = find_fleets(world, region, ids) if ids else _waiting(world, region)
    shapes = [fleet_shape(world, each) for each in found]
    filters = [  # EC2 documents their values with hyphens, and shows them with underscores
        {**each, "Values": [value.replace("-", "_") for value in each.get("Values", [])]}
        if each.get("Name") in ("activity-status", "fleet-state")
        else each
        for each in params.get("Filters", [])
    ]
    rows = narrow(shapes, {**params, "Filters": filters}, "DescribeFleets", _PATHS)
    shown, more = page(rows, params, least=1)
    return {"Fleets": shown, **more}


def describe_fleet_instances(world: World, region: str, params: Params) -> Shape:
    """The instances of a fleet that run or will."""
    fleet = _waiting_fleet(world, region, params)
    rows = [_active_shape(world, each) for each in fleets.active(fleet)]
    paths = {"instance-type": "InstanceType"}
    shown, more = page(narrow(rows, params, "DescribeFleetInstances", paths), params, least=1)
    return {"FleetId": fleet.fleet_id, "ActiveInstances": shown, **more}


def describe_fleet_history(world: World, region: str, params: Params) -> Shape:
    """What happened to a fleet since a time, but for the last seconds."""
    fleet, kind = _waiting_fleet(world, region, params), params.get("EventType")
    if "StartTime" not in params:
        raise missing("StartTime")
    if kind not in (None, *_EVENT_TYPES):
        raise ApiError("InvalidParameterValue", f"Invalid value '{kind}' for eventType.")
    start_s = (params["StartTime"] - world.epoch).total_seconds()
    until_s = world.now_s - _HISTORY_LAG_S
    rows = [
        _event_shape(world, *event)
        for event in fleets.history(fleet)
        if start_s <= event[0] <= until_s and kind in (None, event[1])
    ]
    shown, more = page(rows, params, least=1)
    last = {} if more else {"LastEvaluatedTime": stamp(world, until_s)}
    start = {"StartTime": params["StartTime"]}
    return {"FleetId": fleet.fleet_id, "HistoryRecords": shown, **start, **last, **more}


def find_fleets(world: World, region: str, ids: Sequence[str]) -> list[Fleet]:
    """The fleets with these ids; one unknown id refuses the whole call."""
    known = world.region(region).fleets
    unknown = [i for i in ids if i not in known or known[i].known_s > world.now_s]
    if unknown:
        message = f"The fleet ID '{', '.join(unknown)}' does not exist"
        raise ApiError("InvalidFleetId.NotFound", message)
    return [known[i] for i in dict.fromkeys(ids)]


def _waiting(world: World, region: str) -> list[Fleet]:
    found = world.region(region).fleets.values()
    return [each for each in found if each.kind != "instant" and each.known_s <= world.now_s]


def _waiting_fleet(world: World, region: str, params: Params) -> Fleet:
    if "FleetId" not in params:
        raise missing("FleetId")
    [fleet] = find_fleets(world, region, [params["FleetId"]])
    if fleet.kind == "instant":
        raise unsupported("Fleets of type instant are described by DescribeFleets only.")
    return fleet


def _active_shape(world: World, unit: SpotRequest) -> Shape:
    instance = unit.instance
    assert instance is not None
    status, _ = instance.checks(world.now_s, pending=world.forms.pending_checks)
    return {
        "InstanceId": instance.instance_id,
        "InstanceType": unit.pool.instance_type,
        "SpotInstanceRequestId": None if unit.on_demand else unit.request_id,
        "InstanceHealth": "unhealthy" if status == "impaired" else "healthy",
    }


def _event_shape(world: World, at_s: float, kind: str, subtype: str, about: str) -> Shape:
    information = {"EventSubType": subtype}
    if about:
        name = "InstanceId" if kind == "instance-change" else "EventDescription"
        information[name] = about
    moment = world.utc(at_s).replace(microsecond=0)
    return {"EventInformation": information, "EventType": kind, "Timestamp": moment}

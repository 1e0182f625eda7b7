"""Fleets in EC2's wire form, as dicts.  Nothing is decided here."""

from __future__ import annotations

from math import inf

from spotlib.sandbox import fleets
from spotlib.sandbox.account import Fleet
from spotlib.sandbox.protocol import ApiError, Shape
from spotlib.sandbox.shapes import stamp, tag_list, zone_name
from spotlib.sandbox.world import World

_ECHOED = (
    "ClientToken",
    "LaunchTemplateConfigs",
    "OnDemandOptions",
    "SpotOptions",
    "TargetCapacitySpecification",
)


def error_shape(fleet: Fleet, shown: Shape, error: ApiError) -> Shape:
    """One item of the errors of an instant fleet."""
    return {
        "LaunchTemplateAndOverrides": shown,
        "Lifecycle": _lifecycle(fleet),
        "ErrorCode": error.code,
        "ErrorMessage": error.message,
    }


def instance_shapes(fleet: Fleet, *, zones: bool = True) -> list[Shape]:
    """What an instant fleet launched: one item for each launch template and override."""
    found = []
    for shown, units in fleet.parts:
        pool = units[0].pool
        where = {"AvailabilityZoneId": pool.zone_id, "AvailabilityZone": zone_name(units[0])}
        found.append(
            {
                "LaunchTemplateAndOverrides": shown,
                "Lifecycle": _lifecycle(fleet),
                "InstanceIds": [each.instance.instance_id for each in units if each.instance],
                "InstanceType": pool.instance_type,
                **(where if zones else {}),
            }
        )
    return found


def fleet_shape(world: World, fleet: Fleet) -> Shape:
    """One ``FleetData``; only an instant fleet shows what it launched."""
    now_s, size = world.now_s, float(len(fleets.active(fleet)))
    shape: Shape = {
        **{name: fleet.config[name] for name in _ECHOED if name in fleet.config},
        "ActivityStatus": fleets.activity(fleet, now_s),
        "CreateTime": stamp(world, fleet.created_s),
        "FleetId": fleet.fleet_id,
        "FleetState": fleets.state(fleet, now_s),
        "ExcessCapacityTerminationPolicy": "termination",
        "FulfilledCapacity": size,
        "FulfilledOnDemandCapacity": size if fleet.on_demand else 0.0,
        "TerminateInstancesWithExpiration": fleet.config.get(
            "TerminateInstancesWithExpiration", False
        ),
        "Type": fleet.kind,
        "ReplaceUnhealthyInstances": False,
        "Tags": tag_list(fleet.tags),
    }
    if fleet.until_s < inf:
        shape["ValidUntil"] = stamp(world, fleet.until_s)
    if fleet.kind == "instant":
        shape |= {"Errors": fleet.errors, "Instances": instance_shapes(fleet, zones=False)}
    return shape


def _lifecycle(fleet: Fleet) -> str:
    return "on-demand" if fleet.on_demand else "spot"

"""What a fleet is asked for: its target, its options, and the launches that it may try.

Nothing is launched here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, log

from spotlib.sandbox import launch_checks, run_api, template_api
from spotlib.sandbox.account import Fleet
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    invalid,
    missing,
    refuse_others,
    unsupported,
)
from spotlib.sandbox.run_api import Order
from spotlib.sandbox.world import World

_CONFIG = frozenset({"LaunchTemplateSpecification", "Overrides"})
_OVERRIDES = frozenset(
    {
        "AvailabilityZone",
        "AvailabilityZoneId",
        "IamInstanceProfile",
        "ImageId",
        "InstanceType",
        "KeyName",
        "MaxPrice",
        "Priority",
        "SubnetId",
    }
)
_OPTIONS = frozenset(
    {
        "AllocationStrategy",
        "InstanceInterruptionBehavior",
        "MinTargetCapacity",
        "SingleAvailabilityZone",
        "SingleInstanceType",
    }
)
_SPECIFICATION = frozenset(
    {
        "LaunchTemplateId",
        "LaunchTemplateName",
        "LaunchTemplateSpecificationUserData",
        "Version",
    }
)
_STRATEGIES = {
    False: (
        "lowest-price",
        "price-capacity-optimized",
        "capacity-optimized",
        "capacity-optimized-prioritized",
    ),
    True: ("lowest-price", "prioritized"),
}
_MOST_LEAST = 1000  # the highest MinTargetCapacity


def target(params: Params) -> tuple[str, int, bool]:
    """The type of the fleet, how many instances it shall have, and whether on demand."""
    kind, given = params.get("Type", "maintain"), params.get("TargetCapacitySpecification") or {}
    if kind == "maintain":
        raise unsupported("Fleets of type maintain are not modelled by the sandbox.")
    if kind not in ("instant", "request"):
        raise invalid(f"Invalid value '{kind}' for type.")
    if "TotalTargetCapacity" not in given:
        raise missing("TargetCapacitySpecification.TotalTargetCapacity")
    target, purchase = int(given["TotalTargetCapacity"]), given.get("DefaultTargetCapacityType")
    if target < 1:
        raise invalid(f"Invalid value '{target}' for totalTargetCapacity.")
    if purchase not in (None, "on-demand", "spot"):
        raise unsupported(f"DefaultTargetCapacityType {purchase} is not modelled by the sandbox.")
    on_demand = purchase != "spot"  # the default is on demand
    other = given.get("SpotTargetCapacity" if on_demand else "OnDemandTargetCapacity", 0)
    if other or given.get("TargetCapacityUnitType", "units") != "units":
        raise unsupported("Only a target in instances of one purchase is modelled by the sandbox.")
    return kind, target, on_demand


def options(params: Params, kind: str, on_demand: bool) -> Params:
    """The options of the purchase that the fleet uses."""
    name = "OnDemandOptions" if on_demand else "SpotOptions"
    given: Params = params.get(name) or {}
    refuse_others(given, _OPTIONS, name)
    strategy = given.get("AllocationStrategy", "lowest-price")
    if strategy == "diversified":
        raise unsupported("AllocationStrategy diversified is not modelled by the sandbox.")
    if strategy not in _STRATEGIES[on_demand]:
        raise invalid(f"Invalid value '{strategy}' for allocationStrategy.")
    if given.get("InstanceInterruptionBehavior", "terminate") != "terminate":
        raise unsupported("Only the interruption behavior terminate is modelled by the sandbox.")
    least, single = given.get("MinTargetCapacity"), singles(given)
    if kind != "instant" and (least is not None or single):
        names = "MinTargetCapacity, SingleInstanceType and SingleAvailabilityZone"
        raise ApiError("InvalidParameterCombination", f"{names} need a fleet of type instant")
    if least is not None and not single:
        message = "MinTargetCapacity needs SingleInstanceType or SingleAvailabilityZone"
        raise ApiError("InvalidParameterCombination", message)
    if least is not None and not 1 <= int(least) <= _MOST_LEAST:
        raise invalid(f"Invalid value '{least}' for minTargetCapacity.")
    return given


def singles(given: Params) -> list[str]:
    """Which of the options are set that all its instances shall be alike."""
    return [name for name in ("SingleInstanceType", "SingleAvailabilityZone") if given.get(name)]


def taggable(kind: str) -> tuple[str, ...]:
    """What the call can tag; a fleet that waits tags its instances through its templates."""
    instant = ("fleet", "instance", "volume", "network-interface")
    return instant if kind == "instant" else ("fleet",)


def until_s(world: World, params: Params) -> float:
    """When the fleet ends by itself."""
    if "ValidUntil" not in params:
        return inf
    end_s = float((params["ValidUntil"] - world.epoch).total_seconds())
    if end_s <= world.now_s:
        raise ApiError("InvalidTime", "The time specified in validUntil must be in the future.")
    return end_s


def templates(world: World, region: str, params: Params) -> list[tuple[Shape, Params, Params]]:
    """(template and override as the answer shows them, the template's data, the override)."""
    found = []
    for config in params.get("LaunchTemplateConfigs", []):
        refuse_others(config, _CONFIG, "LaunchTemplateConfigs")
        given = config.get("LaunchTemplateSpecification") or {}
        refuse_others(given, _SPECIFICATION, "LaunchTemplateSpecification")
        template = template_api.named_template(world, region, given)
        if "Version" not in given:
            raise missing("LaunchTemplateSpecification.Version")
        template_api.check_version(template, given["Version"])
        data = dict(template.data)
        if "LaunchTemplateSpecificationUserData" in given:
            data["UserData"] = given["LaunchTemplateSpecificationUserData"]
        named = {"LaunchTemplateId": template.template_id, "Version": "1"}
        for override in config.get("Overrides") or [{}]:
            refuse_others(override, _OVERRIDES, "Overrides")
            shown = {"LaunchTemplateSpecification": named, "Overrides": override}
            found.append((shown, data, override))
    if not found:
        raise missing("LaunchTemplateConfigs")
    return found


def orders(
    world: World,
    region: str,
    fleet: Fleet,
    merged: Sequence[tuple[Shape, Params, Params]],
    tags: Mapping[str, dict[str, str]],
) -> tuple[list[tuple[Shape, Order]], list[tuple[Shape, ApiError]]]:
    """The launches that the fleet may try, and those that it cannot, with EC2's refusals."""
    found, errors = [], []
    for shown, data, override in merged:
        named = shown["LaunchTemplateSpecification"]
        own = {
            "aws:ec2:fleet-id": fleet.fleet_id,
            "aws:ec2launchtemplate:id": named["LaunchTemplateId"],
            "aws:ec2launchtemplate:version": named["Version"],
        }
        try:
            if not fleet.on_demand:
                launch_checks.check_role(world)
            born_with = launch_checks.tags_at_birth(data)
            for kind, some in (*tags.items(), ("instance", own)):
                born_with.setdefault(kind, {}).update(some)
            order = run_api.prepare(
                world,
                region,
                _merged(data, override),
                where="CreateFleet",
                method=f"create_fleet_{fleet.kind}",
                least=1,
                most=fleet.target,
                on_demand=fleet.on_demand,
                token=fleet.config.get("ClientToken", ""),
                max_price=None if fleet.on_demand else override.get("MaxPrice"),
                guest_shutdown=data.get("InstanceInitiatedShutdownBehavior", ""),
                tags=born_with,
                fleet_id=fleet.fleet_id,
                valid_until_s=fleet.until_s if fleet.kind == "request" else inf,
            )
            found.append((shown, order))
        except ApiError as error:
            errors.append((shown, error))
    return found, errors


def _merged(data: Params, override: Params) -> Params:
    """What a template launches with this override."""
    launch = {name: data[name] for name in launch_checks.LAUNCH if name in data}
    plain = {"IamInstanceProfile", "ImageId", "InstanceType", "KeyName"}
    launch |= {name: override[name] for name in plain if name in override}
    zone = {n: override[n] for n in ("AvailabilityZone", "AvailabilityZoneId") if n in override}
    if len(zone) > 1:
        raise invalid("Specify either AvailabilityZone or AvailabilityZoneId, not both.")
    if zone:
        placed = launch.get("Placement") or {}
        launch["Placement"] = {k: v for k, v in placed.items() if "Zone" not in k} | zone
    if "SubnetId" in override and launch.get("NetworkInterfaces"):
        first, *others = launch["NetworkInterfaces"]
        launch["NetworkInterfaces"] = [{**first, "SubnetId": override["SubnetId"]}, *others]
    elif "SubnetId" in override:
        launch["SubnetId"] = override["SubnetId"]
    return launch


def in_order(
    world: World, found: list[tuple[Shape, Order]], given: Params, on_demand: bool
) -> list[tuple[Shape, Order]]:
    """The launches in the order in which the fleet's strategy tries them."""
    strategy, posix = given.get("AllocationStrategy", "lowest-price"), world.posix(world.now_s)
    market = world.market

    def rank(each: tuple[Shape, Order]) -> float:
        shown, order = each
        if "prioritized" in strategy:
            return float(shown["Overrides"].get("Priority", inf))
        if on_demand:
            return float(market.on_demand_usd(order.kind.name, order.pools[0].region))
        prices = [log(float(market.price_usd(pool, posix))) for pool in order.pools]
        width = market.numbers.capacity_width
        lacks = [float(market.tightness(pool, posix)) / width for pool in order.pools]
        if strategy == "lowest-price":
            return min(prices)
        if strategy == "capacity-optimized":
            return min(lacks)
        return min(price + lack for price, lack in zip(prices, lacks, strict=True))

    return sorted(found, key=rank)

"""RunInstances: instances at once, spot or on demand, or a refusal.

``prepare`` checks what is asked for, ``draw_up`` chooses the pool, ``settle`` launches or refuses;
fleets use them too.
The public function is an EC2 action: ``(world, region, params) -> result``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from spotlib.sandbox import catalogue, course, launch_checks, template_api, tokens
from spotlib.sandbox.account import SpotRequest
from spotlib.sandbox.instance_api import reservation
from spotlib.sandbox.market import Pool
from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    end_dry_run,
    invalid,
    missing,
    refuse_others,
    unsupported,
)
from spotlib.sandbox.shapes import instance_shape
from spotlib.sandbox.world import World

_ACTION = "RunInstances"
_MOST_INSTANCES = 1000
_MARKET = frozenset({"MarketType", "SpotOptions"})
_SPOT = frozenset({"MaxPrice", "SpotInstanceType", "InstanceInterruptionBehavior", "ValidUntil"})
_NO_SPOT_REQUESTS = (
    "You cannot specify tags for Spot instances requests if there are no Spot instances requests "
    "being created by the request."
)
_NO_SPOT_CAPACITY = "There is no Spot capacity available that matches your request."


@dataclass(frozen=True, kw_only=True)
class Order:
    """A launch that was checked: only the quota and the pools can still refuse it."""

    method: str
    kind: catalogue.InstanceType
    pools: list[Pool]
    launch: Params
    least: int
    most: int
    on_demand: bool
    token: str = ""
    max_price_usd: float | None = None
    guest_shutdown: str = ""
    tags: Mapping[str, dict[str, str]]  # by resource type
    fleet_id: str = ""
    valid_until_s: float = inf


def run_instances(world: World, region: str, params: Params) -> Shape:
    """Launch as many instances as the pool grants, at least MinCount, or refuse the whole call."""
    zone = launch_checks.named_zone(world, params, region)  # a token belongs to a zone, if named
    scope = f"{_ACTION} {zone or ''}"
    launched = tokens.recall(world, region, scope, params)
    if not launched:  # a refused call is tried again, but only with its own parameters
        order = _ordered(world, region, template_api.fill_in(world, region, params))
        if world.forms.dry_run == "parameters":
            end_dry_run(params)
        fitting = check_account(world, region, order)
        end_dry_run(params)
        requests = draw_up(world, order, fitting)
        obstacles = course.obstacles(world, requests)
        launched = settle(world, requests, obstacles, least=order.least)
        tokens.keep(world, region, scope, params, launched)
        if not launched:
            raise refusal(world, requests[0], next(filter(None, obstacles)))
    shapes = [instance_shape(world, each.instance) for each in launched if each.instance]
    return reservation(world, launched[0].name, shapes)


def prepare(
    world: World,
    region: str,
    launch: Params,
    *,
    where: str,
    on_demand: bool,
    tags: Mapping[str, dict[str, str]],
    max_price: str | None = None,
    **rest: Any,
) -> Order:
    """Check what a launch names; raises EC2's refusal."""
    launch_checks.check_modelled(launch, where)
    if on_demand and "spot-instances-request" in tags:
        raise invalid(_NO_SPOT_REQUESTS)
    kind = launch_checks.instance_type(launch, region, on_demand=on_demand)
    unfit = launch_checks.image_flaw(launch, region, kind)
    launch_checks.check_user_data(launch)
    launch_checks.check_network(world, launch, region)
    launch_checks.check_names(launch)
    groups = launch_checks.groups(launch, region)
    pools, not_offered = launch_checks.pools(world, launch, region, kind)
    for error in (unfit, not_offered):
        if error is not None:
            raise error
    return Order(
        kind=kind,
        pools=pools,
        launch={**launch, "SecurityGroups": groups},
        on_demand=on_demand,
        tags=tags,
        max_price_usd=launch_checks.max_price(max_price, "maxPrice"),
        **rest,
    )


def check_account(world: World, region: str, order: Order) -> int:
    """How many instances the account may launch; raises EC2's refusal if they are too few."""
    if not order.on_demand:
        launch_checks.check_role(world)
    return launch_checks.count_within_quota(
        world, region, order.kind, order.most, least=order.least, on_demand=order.on_demand
    )


def draw_up(world: World, order: Order, count: int) -> list[SpotRequest]:
    """The requests of an order, for a pool that EC2 chooses among those that may serve it."""
    pools = order.pools
    if order.on_demand:  # it is placed where there is capacity
        pools = [pool for pool in pools if _has_on_demand(world, pool)] or pools
    return course.draw_up(
        world,
        order.kind,
        pools,
        count=count,
        method=order.method,
        fleet_id=order.fleet_id,
        launch=order.launch,
        token=order.token,
        tags=dict(order.tags.get("spot-instances-request", {})),
        born_with=order.tags,
        valid_until_s=order.valid_until_s,
        max_price_usd=order.max_price_usd,
        on_demand=order.on_demand,
        guest_shutdown=order.guest_shutdown,
    )


def settle(
    world: World, requests: Sequence[SpotRequest], obstacles: Sequence[str], *, least: int
) -> list[SpotRequest]:
    """Launch those without an obstacle, unless they are fewer than ``least``; refuse the others."""
    enough = obstacles.count("") >= least
    pairs = list(zip(requests, obstacles, strict=True))
    launched = [request for request, obstacle in pairs if enough and not obstacle]
    course.launch(world, launched)
    course.refuse(world, (pair for pair in pairs if not enough or pair[1]))
    return launched


def _ordered(world: World, region: str, params: Params) -> Order:
    launch = {name: params[name] for name in launch_checks.LAUNCH if name in params}
    spot = _spot_options(params)
    least, most = _counts(params)
    launch_checks.check_options(params)
    shutdown = params.get("InstanceInitiatedShutdownBehavior", "")
    if spot is not None and shutdown == "stop":
        shutdown = ""  # a one-time spot instance cannot be stopped: see ``Forms.guest_shutdown``
    return prepare(
        world,
        region,
        launch,
        where=_ACTION,
        method="run_instances",
        least=least,
        most=most,
        on_demand=spot is None,
        token=params.get("ClientToken", ""),
        max_price=(spot or {}).get("MaxPrice"),
        guest_shutdown=shutdown,
        tags=launch_checks.tags_at_birth(params),
    )


def _counts(params: Params) -> tuple[int, int]:
    for name in ("MinCount", "MaxCount"):
        if name not in params:
            raise missing(name)
    least, most = int(params["MinCount"]), int(params["MaxCount"])
    if least < 1:
        raise invalid(f"Value ({least}) for parameter minCount is invalid. Must be at least 1.")
    if most < least:
        raise invalid(f"Value ({least}) for parameter minCount is invalid: it exceeds maxCount.")
    if most > _MOST_INSTANCES:
        message = f"At most {_MOST_INSTANCES} instances can be launched in one call, not {most}"
        raise ApiError("RequestResourceCountExceeded", message)
    return least, most


def _spot_options(params: Params) -> Params | None:
    """The options of a spot launch; None for one on demand."""
    market = params.get("InstanceMarketOptions")
    if not market:
        return None
    refuse_others(market, _MARKET, "InstanceMarketOptions")
    kind, options = market.get("MarketType", ""), dict(market.get("SpotOptions") or {})
    if kind == "capacity-block":
        raise unsupported("MarketType capacity-block is not modelled by the sandbox.")
    if kind != "spot":
        raise invalid(f"Invalid value '{kind}' for instanceMarketOptions.marketType.")
    refuse_others(options, _SPOT, "SpotOptions")
    once, behaviour = (
        options.get("SpotInstanceType", "one-time"),
        options.get("InstanceInterruptionBehavior", "terminate"),
    )
    if once == "persistent":
        raise unsupported("persistent requests are not modelled by the sandbox.")
    if once != "one-time":
        raise invalid(f"Invalid value '{once}' for spotInstanceType.")
    for name, wrong in (
        ("ValidUntil", "ValidUntil" in options),
        (f"InstanceInterruptionBehavior '{behaviour}'", behaviour != "terminate"),
    ):
        if wrong:
            message = f"{name} is not supported for a one-time Spot request"
            raise ApiError("InvalidParameterCombination", message)
    return options


def _has_on_demand(world: World, pool: Pool) -> bool:
    held = world.region(pool.region).held[pool, True]
    return world.market.accepts_on_demand(pool, world.posix(world.now_s), held=held)


def refusal(world: World, request: SpotRequest, obstacle: str) -> ApiError:
    """EC2's answer if this stands in the way of a launch."""
    pool = request.pool
    if obstacle == "price-too-low":
        least_usd = float(world.market.price_usd(pool, world.posix(world.now_s)))
        return ApiError(
            "SpotMaxPriceTooLow",
            f"Your Spot request price of {request.max_price_usd:g} is lower than the minimum "
            f"required Spot request fulfillment price of {least_usd:g}.",
        )
    if obstacle == "bad-parameters":
        return invalid("The parameters do not fit together.")
    if obstacle == "system-error":
        return ApiError("InternalError", "An internal error has occurred", 500)
    message = _no_on_demand(world, pool) if request.on_demand else _NO_SPOT_CAPACITY
    return ApiError("InsufficientInstanceCapacity", message, 500)


def _no_on_demand(world: World, pool: Pool) -> str:
    names = {zone.zone_id: zone.name for zone in catalogue.zones(pool.region)}
    offered = catalogue.offered(pool.region)[pool.instance_type]
    others = [
        names[zone_id]
        for zone_id in offered
        if _has_on_demand(world, Pool(pool.instance_type, zone_id, pool.region))
    ]
    message = (
        f"We currently do not have sufficient {pool.instance_type} capacity in the Availability "
        f"Zone you requested ({names[pool.zone_id]}). Our system will be working on provisioning "
        "additional capacity."
    )
    if others:
        message += (
            f" You can currently get {pool.instance_type} capacity by not specifying an "
            f"Availability Zone in your request or choosing {', '.join(sorted(others))}."
        )
    return message

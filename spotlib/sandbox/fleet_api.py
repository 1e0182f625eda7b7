"""CreateFleet and DeleteFleets: fleets of type instant and request, spot or on demand.

The public functions are EC2 actions: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from spotlib.sandbox import course, fleet_orders, fleets, launch_checks, run_api, tokens
from spotlib.sandbox.account import Fleet, SpotRequest
from spotlib.sandbox.chance import digest
from spotlib.sandbox.fleet_shapes import error_shape, instance_shapes
from spotlib.sandbox.protocol import ApiError, Params, Shape, end_dry_run, invalid, missing
from spotlib.sandbox.run_api import Order
from spotlib.sandbox.world import World

_ACTION = "CreateFleet"
_MOST_INSTANT, _MOST_OTHERS = 25, 100  # fleets of a DeleteFleets call
_UNFULFILLABLE = (
    "Unable to fulfill capacity due to your request configuration. Please adjust your request and "
    "try again."
)


_Drawn = tuple[Shape, list[SpotRequest]]  # a launch as the answer shows it, its requests


@dataclass
class _Attempt:
    """One launch of an instant fleet: what its pool would grant."""

    shown: Shape
    requests: list[SpotRequest]
    obstacles: list[str]


def create_fleet(world: World, region: str, params: Params) -> Shape:
    """Create a fleet.  An instant one says at once what it launched, and why not more."""
    known = tokens.recall(world, region, _ACTION, params)
    if known is not None:
        return _answer(known)
    kind, target, on_demand = fleet_orders.target(params)
    options = fleet_orders.options(params, kind, on_demand)
    tags = launch_checks.tags_at_birth(params, fleet_orders.taggable(kind))
    until_s = fleet_orders.until_s(world, params)
    merged = fleet_orders.templates(world, region, params)
    end_dry_run(params)
    account, now_s = world.region(region), world.now_s
    name = (world.seed, region, "fleet", account.fleets_made)
    account.fleets_made += 1
    fleet = Fleet(
        fleet_id=f"fleet-{uuid.UUID(bytes=digest(16, *name))}",
        config=params,
        kind=kind,
        target=target,
        on_demand=on_demand,
        created_s=now_s,
        active_s=now_s + (0.0 if kind == "instant" else world.market.decision_s(*name)[0]),
        known_s=now_s + world.reads.unknown_for_s(*name),
        until_s=until_s,
        tags=tags.pop("fleet", {}),
        terminates=kind == "instant" or bool(params.get("TerminateInstancesWithExpiration")),
    )
    account.fleets[fleet.fleet_id] = fleet
    tokens.keep(world, region, _ACTION, params, fleet)  # used, even if nothing is launched
    orders, flaws = fleet_orders.orders(world, region, fleet, merged, tags)
    orders = fleet_orders.in_order(world, orders, options, on_demand)
    for shown, flaw in flaws:
        _note(fleet, now_s, shown, flaw)
    if kind == "instant":
        _launch(world, region, fleet, orders, options)
    else:
        _wait(world, fleet, [order for _, order in orders])
    return _answer(fleet)


def delete_fleets(world: World, region: str, params: Params) -> Shape:
    """Delete fleets; all the instances of an instant one end with it."""
    ids, known = list(dict.fromkeys(params.get("FleetIds", []))), world.region(region).fleets
    if not ids:
        raise missing("FleetId")
    if "TerminateInstances" not in params:
        raise missing("TerminateInstances")
    instant = sum(known[i].kind == "instant" for i in ids if i in known)
    if instant > _MOST_INSTANT or len(ids) - instant > _MOST_OTHERS:
        raise invalid(
            f"At most {_MOST_INSTANT} fleets of type instant and {_MOST_OTHERS} others can be "
            "deleted in one call"
        )
    if instant and not params["TerminateInstances"]:
        message = "NoTerminateInstances cannot be specified for fleets of type instant"
        raise ApiError("InvalidParameterCombination", message)
    end_dry_run(params)
    done, failed = [], []
    for fleet_id in ids:
        fleet = known.get(fleet_id)
        if fleet is None:
            error = {"Code": "fleetIdDoesNotExist", "Message": f"{fleet_id} does not exist"}
            failed.append({"FleetId": fleet_id, "Error": error})
            continue
        before = fleets.state(fleet, world.now_s)
        if before in ("deleted", "deleted_terminating"):
            error = {"Code": "fleetNotInDeletableState", "Message": f"{fleet_id} is {before}"}
            failed.append({"FleetId": fleet_id, "Error": error})
            continue
        fleets.delete(world, fleet, terminate=bool(params["TerminateInstances"]))
        after = fleets.state(fleet, world.now_s)
        states = {"CurrentFleetState": after, "PreviousFleetState": before}
        done.append({"FleetId": fleet_id, **states})
    return {"SuccessfulFleetDeletions": done, "UnsuccessfulFleetDeletions": failed}


def _answer(fleet: Fleet) -> Shape:
    if fleet.kind != "instant":
        return {"FleetId": fleet.fleet_id}
    return {
        "FleetId": fleet.fleet_id,
        "Errors": fleet.errors,
        "Instances": instance_shapes(fleet),
    }


def _note(fleet: Fleet, at_s: float, shown: Shape, error: ApiError) -> None:
    """Keep why a launch failed: an instant fleet answers with it, another has it in its history."""
    fleet.errors.append(error_shape(fleet, shown, error))
    subtype = "spotFleetRequestConfigurationInvalid"
    fleet.events.append((at_s, "service-error", subtype, f"{error.code}: {error.message}"))


def _wait(world: World, fleet: Fleet, orders: Sequence[Order]) -> None:
    """Let a fleet of type request wait; it tries no other pool than its first choice (AWS)."""
    fleet.units = run_api.draw_up(world, orders[0], fleet.target) if orders else []
    for each in fleet.units:
        each.known_s = fleet.known_s
    fleets.begin(world, fleet)


def _launch(
    world: World,
    region: str,
    fleet: Fleet,
    orders: Iterable[tuple[Shape, Order]],
    options: Params,
) -> None:
    """Launch what the pools grant, all in one go; if it is fewer than the least, nothing."""
    least = max(1, int(options.get("MinTargetCapacity", 1)))
    drawn = _draw_up(world, region, fleet, orders)
    groups = _alike(drawn, fleet_orders.singles(options))
    for group in groups:
        attempts = _attempts(world, group, fleet.target)
        enough = sum(each.obstacles.count("") for each in attempts) >= least
        for each in attempts:
            _note_obstacle(world, fleet, each, enough=enough)
        if enough or group is groups[-1]:
            _settle(world, fleet, attempts, enough=enough)
            return


def _draw_up(
    world: World, region: str, fleet: Fleet, orders: Iterable[tuple[Shape, Order]]
) -> list[_Drawn]:
    """The requests of each launch, as many as the account may have."""
    drawn = []
    for shown, order in orders:
        try:
            if world.pool_error:  # a fault: see ``faults``
                raise ApiError(world.pool_error, "Request limit exceeded.")
            count = run_api.check_account(world, region, order)
        except ApiError as error:
            _note(fleet, world.now_s, shown, error)
            continue
        if count < order.most:
            refused = launch_checks.over_quota(world, order.kind, on_demand=order.on_demand)
            _note(fleet, world.now_s, shown, refused)
        drawn.append((shown, run_api.draw_up(world, order, count)))
    return drawn


def _alike(drawn: Sequence[_Drawn], singles: Sequence[str]) -> list[list[_Drawn]]:
    """The launches that may stand side by side in one fleet, in the order of their strategy."""
    groups: dict[tuple[str, str], list[_Drawn]] = {}
    for each in drawn:
        pool = each[1][0].pool
        kind = pool.instance_type if "SingleInstanceType" in singles else ""
        zone = pool.zone_id if "SingleAvailabilityZone" in singles else ""
        groups.setdefault((kind, zone), []).append(each)
    return list(groups.values())


def _attempts(world: World, drawn: Iterable[_Drawn], target: int) -> list[_Attempt]:
    """What each pool would grant of that which those before it lack."""
    found, free_vcpus = [], dict[str, int]()
    for shown, requests in drawn:
        group, vcpus = requests[0].quota_group, requests[0].vcpus
        free = free_vcpus.setdefault(group, len(requests) * vcpus)
        asked = requests[: min(target, free // vcpus)]
        if asked:
            obstacles = course.obstacles(world, asked)
            found.append(_Attempt(shown, asked, obstacles))
            target -= obstacles.count("")
            free_vcpus[group] -= vcpus * obstacles.count("")
    return found


def _note_obstacle(world: World, fleet: Fleet, attempt: _Attempt, *, enough: bool) -> None:
    """One error per pool, as EC2 does, however many instances it lacks."""
    for request, obstacle in zip(attempt.requests, attempt.obstacles, strict=True):
        if obstacle:
            error = run_api.refusal(world, request, obstacle)
            _note(fleet, world.now_s, attempt.shown, error)
            return
    if not enough:
        error = ApiError("UnfulfillableCapacity", _UNFULFILLABLE)
        _note(fleet, world.now_s, attempt.shown, error)


def _settle(world: World, fleet: Fleet, attempts: Iterable[_Attempt], *, enough: bool) -> None:
    """Launch or refuse; the truth has one refusal for each instance that the fleet lacks."""
    others: list[tuple[SpotRequest, str]] = []
    for each in attempts:
        pairs = list(zip(each.requests, each.obstacles, strict=True))
        units = [request for request, obstacle in pairs if enough and not obstacle]
        others += [pair for pair in pairs if not enough or pair[1]]
        if units:
            course.launch(world, units)
            fleet.parts.append((each.shown, units))
            fleet.units += units
    lacking = fleet.target - len(fleet.units)
    course.refuse(world, others[-lacking:] if lacking else [])

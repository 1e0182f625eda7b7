"""What happens to requests: they wait, launch at once or are refused, are cancelled, expire.

Each transition is one small function that the world calls when it is due; the tables in ``states``
say which transitions are possible.  What they launched has its course in ``instance_course``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from spotlib.sandbox import catalogue
from spotlib.sandbox.account import Fate, Instance, SpotRequest
from spotlib.sandbox.chance import digest
from spotlib.sandbox.instance_course import USER, born, end, set_code, shut_down
from spotlib.sandbox.market import Pool
from spotlib.sandbox.world import World

_CANCELLED_RUNNING = "request-canceled-and-instance-running"

# What callers can do.


def request(
    world: World,
    kind: catalogue.InstanceType,
    pools: Sequence[Pool],
    *,
    count: int,
    launch: dict[str, Any],
    token: str = "",
    tags: dict[str, str] | None = None,
    valid_until_s: float | None = None,
    max_price_usd: float | None = None,
    flaws: Sequence[str] = (),
    fate: Fate | None = None,
    owner: str = "",
    on_demand: bool = False,
) -> list[SpotRequest]:
    """Accept a request for ``count`` instances in one of these pools, which EC2 chooses.

    ``flaws`` has, for each instance, why its evaluation will fail, or "".
    """
    requests = draw_up(
        world,
        kind,
        pools,
        count=count,
        launch=launch,
        token=token,
        tags=dict(tags or {}),
        valid_until_s=valid_until_s or world.now_s + world.market.numbers.request_valid_s,
        max_price_usd=max_price_usd,
        fate=fate,
        owner=owner,
        on_demand=on_demand,
    )
    for each, flaw in zip(requests, flaws or [""] * count, strict=True):
        each.flaw = flaw
        _accept(world, each)
    return requests


def wait(world: World, requests: Iterable[SpotRequest]) -> None:
    """Accept requests that somebody else drew up."""
    for each in requests:
        _accept(world, each)


def obstacles(world: World, requests: Iterable[SpotRequest]) -> list[str]:
    """What stands in the way of each of these requests if they shall launch now: "" is nothing."""
    found: list[str] = []
    for each in requests:
        _foretell(world, each)
        obstacle, _ = _obstacle(world, each, world.now_s, ahead=found.count(""))
        found.append(obstacle or "")
    return found


def launch(world: World, requests: Iterable[SpotRequest]) -> None:
    """Launch these requests at once; their pool must have granted them."""
    for each in requests:
        _launch(world, each, world.now_s)


def refuse(world: World, refused: Iterable[tuple[SpotRequest, str]]) -> None:
    """Keep in the truth that these requests were refused at once, and why."""
    for each, code in refused:
        each.state, each.code, each.known_s = "refused", code, world.now_s
        each.happened_s["refused"] = world.now_s
        world.remember(each)


def draw_up(
    world: World,
    kind: catalogue.InstanceType,
    pools: Sequence[Pool],
    *,
    count: int,
    owner: str = "",
    **more: Any,
) -> list[SpotRequest]:
    """Requests of one call that nobody has accepted yet, for a pool that EC2 chooses."""
    region, now_s = world.region(pools[0].region), world.now_s
    region.calls[owner] += 1
    name = f"{world.seed}/{pools[0].region}/{owner}{region.calls[owner]}"
    pool = world.market.choose_zone(pools, world.posix(now_s), name)
    return [
        SpotRequest(
            request_id="sir-" + base64.b32encode(digest(5, "sir", name, i)).decode().lower(),
            name=name,
            index=i,
            pool=pool,
            vcpus=kind.vcpus,
            quota_group=kind.quota_group,
            accepted_s=now_s,
            owner=owner,
            known_s=now_s + world.reads.unknown_for_s(name, i),
            **more,
        )
        for i in range(count)
    ]


def cancel(world: World, request: SpotRequest) -> None:
    """Cancel a request.  Its instance, running or in flight, lives on; a stopped one ends."""
    if request.state in ("open", "active", "disabled"):
        world.touch(request, "cancel")
        _cancel(world, request, world.now_s)


def terminate(world: World, instance: Instance, at_s: float | None = None) -> None:
    """Begin to shut an instance down."""
    world.touch(instance, "terminate")
    shut_down(world, instance, USER, world.now_s if at_s is None else at_s)


# The course of a request.


def _cancel(world: World, request: SpotRequest, at_s: float) -> None:
    if request.state not in ("open", "active", "disabled"):
        return
    request.happened_s["cancelled"] = at_s
    if request.state == "open":
        set_code(request, "canceled-before-fulfillment", at_s)
        if not request.in_flight:
            end(world, request, at_s)
    elif request.state == "active":
        set_code(request, _CANCELLED_RUNNING, at_s)
    elif request.instance is not None:
        shut_down(world, request.instance, USER, at_s)


def _foretell(world: World, request: SpotRequest) -> None:
    if request.fate is None and world.script and not request.owner:
        request.fate = world.script(request)


def _accept(world: World, request: SpotRequest) -> None:
    now_s = world.now_s
    _foretell(world, request)
    request.happened_s["accepted"] = now_s
    set_code(request, "pending-evaluation", now_s)
    world.remember(request)
    if request.requested:
        world.add(request)
    if request.fate:
        evaluate_s = request.fate.evaluate_s
    else:  # one decision per call: its instances succeed or fail together
        evaluate_s, _ = world.market.decision_s(request.name)
    world.schedule(now_s + evaluate_s, _evaluate, request)
    world.schedule(request.valid_until_s, _expire, request)  # never, if it has no end
    if request.fate and request.fate.cancelled_s is not None:
        world.schedule(now_s + request.fate.cancelled_s, _cancel, request)


def _evaluate(world: World, request: SpotRequest, at_s: float) -> None:
    if request.state != "open" or request.in_flight:
        return
    fails = request.fate.fails if request.fate else None
    if request.flaw or fails:
        set_code(request, fails or "bad-parameters", at_s)
        end(world, request, at_s)
        return
    obstacle, retry_s = _obstacle(world, request, at_s)
    if obstacle is None:
        _begin_launch(world, request, at_s)
        return
    if request.code != obstacle:
        set_code(request, obstacle, at_s)
    if retry_s is not None:
        world.schedule(retry_s, _evaluate, request)


def _launch(world: World, request: SpotRequest, at_s: float) -> None:
    """Let a request pass from accepted to fulfilled at one moment."""
    request.happened_s["accepted"] = at_s
    set_code(request, "pending-evaluation", at_s)
    world.remember(request)
    _hold(world, request, at_s)
    _fulfil(world, request, at_s)
    if request.fate and request.fate.cancelled_s is not None:
        world.schedule(at_s + request.fate.cancelled_s, _cancel, request)


def _obstacle(
    world: World, request: SpotRequest, at_s: float, *, ahead: int = 0
) -> tuple[str | None, float | None]:
    """Why the request cannot launch now (None if it can), and when to evaluate it again.

    ``ahead`` instances are granted before it in the same launch.
    """
    market, pool, posix = world.market, request.pool, world.posix(at_s)
    retry_s = at_s + market.numbers.reevaluate_s
    if request.fleet_id and request.waits and _over_quota(world, request):
        return request.code, retry_s  # a fleet waits for its quota too
    if request.fate:
        return _fated_obstacle(request, request.fate, at_s)
    most_usd = request.max_price_usd
    if most_usd is not None and most_usd < float(market.price_usd(pool, posix)):
        return "price-too-low", retry_s
    held = world.region(pool.region).held[request.stock] + ahead
    if request.on_demand:
        accepted = market.accepts_on_demand(pool, posix, held=held)
    else:
        accepted = bool(
            market.accepts(pool, posix, held=held, request=request.name, index=request.index)
        )
    return (None, None) if accepted else ("capacity-not-available", retry_s)


def _over_quota(world: World, request: SpotRequest) -> bool:
    group, on_demand = request.quota_group, request.on_demand
    in_use = world.vcpus_in_use(request.pool.region, group, on_demand=on_demand)
    return in_use + request.vcpus > world.vcpu_limit(group, on_demand=on_demand)


def _fated_obstacle(
    request: SpotRequest, fate: Fate, at_s: float
) -> tuple[str | None, float | None]:
    if not request.waits:  # it does not wait: what holds it at all refuses it
        return fate.fails or (None if fate.held_s == 0.0 else fate.holds), None
    if fate.held_s is None:
        return fate.holds, None
    free_s = request.accepted_s + fate.evaluate_s + fate.held_s
    return (None, None) if at_s >= free_s else (fate.holds, free_s)


def _hold(world: World, request: SpotRequest, at_s: float) -> None:
    """Reserve capacity: from now on the launch can no longer be stopped."""
    request.in_flight = True
    request.happened_s["granted"] = at_s
    if not request.requested:  # there is a spot request from when there is capacity
        world.add(request)
    world.region(request.pool.region).held[request.stock] += 1
    set_code(request, "pending-fulfillment", at_s)


def _begin_launch(world: World, request: SpotRequest, at_s: float) -> None:
    _hold(world, request, at_s)
    _, in_flight_s = world.market.decision_s(request.name, request.index)
    if request.fate:
        in_flight_s = request.fate.in_flight_s
    world.schedule(at_s + in_flight_s, _fulfil, request)


def _expire(world: World, request: SpotRequest, at_s: float) -> None:
    if request.state == "open" and not request.in_flight:
        set_code(request, "schedule-expired", at_s)
        end(world, request, at_s)


def _fulfil(world: World, request: SpotRequest, at_s: float) -> None:
    request.in_flight = False
    cancelled = request.state == "cancelled"
    set_code(request, _CANCELLED_RUNNING if cancelled else "fulfilled", at_s)
    request.happened_s["fulfilled"] = at_s
    instance = born(world, request, at_s)
    if request.unwanted:
        shut_down(world, instance, USER, at_s)

"""What happens: requests wait, launch, boot, are interrupted, are cancelled, end.

Each transition is one small function that the world calls when it is due; the tables in ``states``
say which transitions are possible.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from spotlib.sandbox import catalogue
from spotlib.sandbox.account import EbsForm, Fate, Instance, SpotRequest
from spotlib.sandbox.chance import digest, uniforms
from spotlib.sandbox.market import Pool
from spotlib.sandbox.states import INSTANCE_MOVES, REQUEST_MOVES, STATE_OF_CODE
from spotlib.sandbox.world import World

_USER = "Client.UserInitiatedShutdown"
_GUEST = "Client.InstanceInitiatedShutdown"
_MARKET = "Server.SpotInstanceTermination"
_REASONS = {  # EC2's words for the reasons why an instance ended
    _USER: "User initiated shutdown",
    _GUEST: "Instance initiated shutdown",
    _MARKET: "Spot instance termination",
    "Client.InternalError": "Client error on launch",
    "Client.InvalidSnapshot.NotFound": "The specified snapshot was not found",
    "Client.VolumeLimitExceeded": "Volume limit exceeded",
    "Server.InsufficientInstanceCapacity": "Insufficient capacity to satisfy instance request",
    "Server.InternalError": "Internal error on launch",
}
_INTERRUPTED = "instance-terminated-no-capacity"
_MARKED = "marked-for-termination"
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
    _shut_down(world, instance, _USER, world.now_s if at_s is None else at_s)


# The course of a request.


def _cancel(world: World, request: SpotRequest, at_s: float) -> None:
    if request.state not in ("open", "active", "disabled"):
        return
    request.happened_s["cancelled"] = at_s
    if request.state == "open":
        _set_code(request, "canceled-before-fulfillment", at_s)
        if not request.in_flight:
            _end(world, request, at_s)
    elif request.state == "active":
        _set_code(request, _CANCELLED_RUNNING, at_s)
    elif request.instance is not None:
        _shut_down(world, request.instance, _USER, at_s)


def _foretell(world: World, request: SpotRequest) -> None:
    if request.fate is None and world.script and not request.owner:
        request.fate = world.script(request)


def _accept(world: World, request: SpotRequest) -> None:
    now_s = world.now_s
    _foretell(world, request)
    request.happened_s["accepted"] = now_s
    _set_code(request, "pending-evaluation", now_s)
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
        _set_code(request, fails or "bad-parameters", at_s)
        _end(world, request, at_s)
        return
    obstacle, retry_s = _obstacle(world, request, at_s)
    if obstacle is None:
        _begin_launch(world, request, at_s)
        return
    if request.code != obstacle:
        _set_code(request, obstacle, at_s)
    if retry_s is not None:
        world.schedule(retry_s, _evaluate, request)


def _launch(world: World, request: SpotRequest, at_s: float) -> None:
    """Let a request pass from accepted to fulfilled at one moment."""
    request.happened_s["accepted"] = at_s
    _set_code(request, "pending-evaluation", at_s)
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
    if not request.requested:  # there is a spot request from when there is capacity
        world.add(request)
    world.region(request.pool.region).held[request.stock] += 1
    _set_code(request, "pending-fulfillment", at_s)


def _begin_launch(world: World, request: SpotRequest, at_s: float) -> None:
    _hold(world, request, at_s)
    _, in_flight_s = world.market.decision_s(request.name, request.index)
    if request.fate:
        in_flight_s = request.fate.in_flight_s
    world.schedule(at_s + in_flight_s, _fulfil, request)


def _expire(world: World, request: SpotRequest, at_s: float) -> None:
    if request.state == "open" and not request.in_flight:
        _set_code(request, "schedule-expired", at_s)
        _end(world, request, at_s)


def _fulfil(world: World, request: SpotRequest, at_s: float) -> None:
    request.in_flight = False
    cancelled = request.state == "cancelled"
    _set_code(request, _CANCELLED_RUNNING if cancelled else "fulfilled", at_s)
    request.happened_s["fulfilled"] = at_s
    fate = request.fate or _market_fate(world, request, at_s)
    region = world.region(request.pool.region)
    instance = Instance(
        number=region.launched,
        instance_id="i-0" + digest(8, "i", request.name, request.index).hex(),
        request=request,
        launched_s=at_s,
        fate=fate,
        ebs=fate.ebs or _ebs_of_type(world, request),
        known_s=at_s + world.reads.unknown_for_s(request.name, request.index, "instance"),
        tags=dict(request.born_with.get("instance", {})),
    )
    _set_state(instance, "pending", at_s)
    request.instance = instance
    region.instances[instance.instance_id] = instance
    region.launched += 1
    if fate.boot_s is not None:
        world.schedule(at_s + fate.boot_s, _run, instance)
    if fate.ended_s is not None:
        world.schedule(at_s + fate.ended_s, _end_early, instance)
    if fate.interrupted_s is not None:
        world.schedule(at_s + fate.interrupted_s, _interrupt, instance)
    elif request.fate is None and not request.on_demand:
        _watch_pool(world, instance, at_s)
    if request.unwanted:
        _shut_down(world, instance, _USER, at_s)


def _ebs_of_type(world: World, request: SpotRequest) -> EbsForm:
    kind = catalogue.instance_type(request.pool.instance_type)
    if kind is None or kind.nitro:
        return "reported"
    return "absent" if world.forms.xen_ebs == "absent" else "not-applicable"


def _market_fate(world: World, request: SpotRequest, at_s: float) -> Fate:
    boot = world.market.boot(
        request.pool, world.posix(at_s), request=request.name, index=request.index
    )
    ebs_share = float(uniforms(1, request.name, request.index, "ebs")[0])
    return Fate(
        boot_s=boot.boot_s,
        ok_s=boot.ok_s,
        ebs_ok_s=boot.ok_s * ebs_share,
        shutdown_s=world.market.shutdown_s(request.name, request.index),
    )


def _watch_pool(world: World, instance: Instance, at_s: float) -> None:
    """Schedule an interruption within the next hour; if there is none, check again then."""
    if instance.state not in ("pending", "running"):
        return
    request, until_s = instance.request, at_s + 3600.0
    interrupted = world.market.interruption(
        request.pool,
        world.posix(at_s),
        until=world.posix(until_s),
        request=request.name,
        index=request.index,
    )
    if interrupted is None:
        world.schedule(until_s, _watch_pool, instance)
    else:
        world.schedule(interrupted - world.epoch.timestamp(), _interrupt, instance)


# The course of an instance.


def _run(world: World, instance: Instance, at_s: float) -> None:
    if instance.state != "pending":
        return
    fate = instance.fate
    _set_state(instance, "running", at_s)
    instance.request.happened_s["running"] = at_s
    instance.ok_at_s = at_s + _never(fate.ok_s)
    instance.impaired_at_s = at_s + _never(fate.impaired_s)
    instance.ebs_ok_at_s = at_s + _never(fate.ebs_ok_s)
    ready_s = instance.ok_at_s
    if instance.ebs == "reported":
        ready_s = max(ready_s, instance.ebs_ok_at_s)
    if ready_s < inf:
        world.schedule(ready_s, _pass_checks, instance)
    minutes = instance.request.shutdown_minutes
    if minutes is not None:
        world.schedule(
            at_s + world.market.numbers.guest_boot_s + 60.0 * minutes, _power_off, instance
        )


def _pass_checks(_: World, instance: Instance, at_s: float) -> None:
    if instance.state == "running":
        instance.request.happened_s["ready"] = at_s


def _power_off(world: World, instance: Instance, at_s: float) -> None:
    """The guest shuts down: the instance ends or, in the other form, stops."""
    request = instance.request
    does = request.guest_shutdown or ("stop" if request.on_demand else world.forms.guest_shutdown)
    stops = does == "stop" and request.code == "fulfilled"
    if not stops:
        _shut_down(world, instance, _GUEST, at_s)
    elif instance.state == "running":
        instance.reason, instance.ended_s = _reason(_GUEST), at_s
        request.happened_s["shutting-down"] = at_s
        _set_state(instance, "stopping", at_s)
        _set_code(request, "instance-stopped-by-user", at_s)
        world.schedule(at_s + instance.fate.shutdown_s, _stop, instance)


def _stop(_: World, instance: Instance, at_s: float) -> None:
    if instance.state == "stopping":
        _set_state(instance, "stopped", at_s)


def _end_early(world: World, instance: Instance, at_s: float) -> None:
    """Somebody else ends the instance, or EC2 does at its launch."""
    _shut_down(world, instance, instance.fate.reason, at_s)


def _interrupt(world: World, instance: Instance, at_s: float) -> None:
    """Interruption notice: the request shows it at once, the instance runs on for two minutes."""
    if instance.state not in ("pending", "running"):
        return
    request = instance.request
    marked = world.forms.notice == _MARKED and request.code == "fulfilled"
    _set_code(request, _MARKED if marked else _INTERRUPTED, at_s)
    request.happened_s["interrupted"] = at_s
    world.schedule(at_s + world.market.numbers.notice_s, _end_interrupted, instance)


def _end_interrupted(world: World, instance: Instance, at_s: float) -> None:
    if instance.state in ("pending", "running") and instance.request.code != _INTERRUPTED:
        _set_code(instance.request, _INTERRUPTED, at_s)
    _shut_down(world, instance, _MARKET, at_s)


def _shut_down(world: World, instance: Instance, reason: str, at_s: float) -> None:
    if instance.state in ("shutting-down", "terminated"):
        return
    instance.reason, instance.ended_s = _reason(reason), at_s
    _set_state(instance, "shutting-down", at_s)
    instance.request.happened_s.setdefault("shutting-down", at_s)
    world.schedule(at_s + instance.fate.shutdown_s, _terminated, instance)


def _reason(code: str) -> tuple[str, str]:
    return code, f"{code}: {_REASONS.get(code, 'ended')}"


def _terminated(world: World, instance: Instance, at_s: float) -> None:
    _set_state(instance, "terminated", at_s)
    request, numbers = instance.request, world.market.numbers
    if request.code != _INTERRUPTED:
        _set_code(request, "instance-terminated-by-user", at_s)
    world.schedule(at_s + numbers.instance_retained_s, _forget, request.pool, instance)
    world.schedule(at_s + numbers.recover_s, _free_capacity, request)
    _end(world, request, at_s)


def _end(world: World, request: SpotRequest, at_s: float) -> None:
    """Nothing more can happen to the request; EC2 shows it for some hours."""
    request.happened_s["ended"] = at_s
    retained_s = world.market.numbers.request_retained_s
    world.schedule(at_s + retained_s, _forget, request.pool, request)


def _forget(world: World, pool: Pool, thing: SpotRequest | Instance, _: float) -> None:
    world.region(pool.region).forget(thing)


def _free_capacity(world: World, request: SpotRequest, _: float) -> None:
    world.region(request.pool.region).held[request.stock] -= 1


def _set_code(request: SpotRequest, code: str, at_s: float) -> None:
    _require((request.code, code) in REQUEST_MOVES, "request", request.code, code)
    request.code, request.updated_s = code, at_s
    if request.state != "cancelled":
        request.state = STATE_OF_CODE[code]
    request.path.append((at_s, code, request.state))


def _set_state(instance: Instance, state: str, at_s: float) -> None:
    _require((instance.state, state) in INSTANCE_MOVES, "instance", instance.state, state)
    instance.state = state
    instance.path.append((at_s, state))


def _require(possible: bool, what: str, before: str, after: str) -> None:
    if not possible:
        raise ValueError(f"no {what} goes from {before or 'nothing'} to {after}: see states")


def _never(delay_s: float | None) -> float:
    return inf if delay_s is None else delay_s

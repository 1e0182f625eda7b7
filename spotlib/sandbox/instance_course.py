"""What happens to instances: they boot, pass their checks, are interrupted, shut down, end.

Each transition is one small function that the world calls when it is due; the tables in ``states``
say which transitions are possible, of an instance and of its request.
"""

from __future__ import annotations

from math import inf

from spotlib.sandbox import catalogue, console, console_script, events
from spotlib.sandbox.account import EbsForm, Fate, Instance, SpotRequest
from spotlib.sandbox.chance import digest, uniforms
from spotlib.sandbox.market import Pool
from spotlib.sandbox.states import INSTANCE_MOVES, REQUEST_MOVES, STATE_OF_CODE
from spotlib.sandbox.world import World

USER = "Client.UserInitiatedShutdown"
_GUEST = "Client.InstanceInitiatedShutdown"
_MARKET = "Server.SpotInstanceTermination"
_REASONS = {  # EC2's words for the reasons why an instance ended
    USER: "User initiated shutdown",
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


def born(world: World, request: SpotRequest, at_s: float) -> Instance:
    """Launch the instance of a request that is fulfilled."""
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
    _set_state(world, instance, "pending", at_s)
    events.fulfilled(world, instance, at_s)
    request.instance = instance
    region.instances[instance.instance_id] = instance
    region.launched += 1
    if fate.boot_s is not None:
        world.schedule(at_s + fate.boot_s, _run, instance)
    if fate.ended_s is not None:
        world.schedule(at_s + fate.ended_s, _end_early, instance)
    if fate.interrupted_s is not None:
        _schedule_interruption(world, instance, at_s + fate.interrupted_s, at_s)
    elif request.fate is None and not request.on_demand:
        _watch_pool(world, instance, at_s)
    return instance


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
        _schedule_interruption(world, instance, interrupted - world.epoch.timestamp(), at_s)


def _schedule_interruption(world: World, instance: Instance, notice_s: float, at_s: float) -> None:
    events.interruption_foreseen(world, instance, notice_s, at_s)
    world.schedule(notice_s, _interrupt, instance)


def _run(world: World, instance: Instance, at_s: float) -> None:
    if instance.state != "pending":
        return
    fate = instance.fate
    _set_state(world, instance, "running", at_s)
    instance.request.happened_s["running"] = at_s
    instance.ok_at_s = at_s + _never(fate.ok_s)
    instance.impaired_at_s = at_s + _never(fate.impaired_s)
    instance.ebs_ok_at_s = at_s + _never(fate.ebs_ok_s)
    ready_s = instance.ok_at_s
    if instance.ebs == "reported":
        ready_s = max(ready_s, instance.ebs_ok_at_s)
    if ready_s < inf:
        world.schedule(ready_s, _pass_checks, instance)
    if instance.request.script and console.has_cloud_init(world, instance):
        _run_user_data(world, instance)


def _run_user_data(world: World, instance: Instance) -> None:
    """Schedule what the script of a running instance will do."""
    guest, minutes = console.guest(world, instance), instance.request.shutdown_minutes
    if minutes is not None:
        world.schedule(guest.user_data_s + 60.0 * minutes, _power_off, instance)
    if console_script.writes(instance.request.script):
        world.schedule(guest.line_s, _write_lines, instance)


def _write_lines(world: World, instance: Instance, at_s: float) -> None:
    if instance.state == "running":
        instance.wrote = console.user_lines(world, instance, at_s)
    if instance.wrote:
        instance.request.happened_s["usable"] = at_s


def _pass_checks(_: World, instance: Instance, at_s: float) -> None:
    if instance.state == "running":
        instance.request.happened_s["ready"] = at_s


def _power_off(world: World, instance: Instance, at_s: float) -> None:
    """The guest shuts down: the instance ends or, in the other form, stops."""
    request = instance.request
    does = request.guest_shutdown or ("stop" if request.on_demand else world.forms.guest_shutdown)
    stops = does == "stop" and request.code == "fulfilled"
    if not stops:
        shut_down(world, instance, _GUEST, at_s)
    elif instance.state == "running":
        instance.reason, instance.ended_s = _reason(_GUEST), at_s
        request.happened_s["shutting-down"] = at_s
        _set_state(world, instance, "stopping", at_s)
        set_code(request, "instance-stopped-by-user", at_s)
        world.schedule(at_s + instance.fate.shutdown_s, _stop, instance)


def _stop(world: World, instance: Instance, at_s: float) -> None:
    if instance.state == "stopping":
        _set_state(world, instance, "stopped", at_s)


def _end_early(world: World, instance: Instance, at_s: float) -> None:
    """Somebody else ends the instance, or EC2 does at its launch."""
    shut_down(world, instance, instance.fate.reason, at_s)


def _interrupt(world: World, instance: Instance, at_s: float) -> None:
    """Interruption notice: the request shows it at once, the instance runs on for two minutes."""
    if instance.state not in ("pending", "running"):
        return
    request = instance.request
    marked = world.forms.notice == _MARKED and request.code == "fulfilled"
    set_code(request, _MARKED if marked else _INTERRUPTED, at_s)
    request.happened_s["interrupted"] = at_s
    events.interruption_warned(world, instance, at_s)
    world.schedule(at_s + world.market.numbers.notice_s, _end_interrupted, instance)


def _end_interrupted(world: World, instance: Instance, at_s: float) -> None:
    if instance.state in ("pending", "running") and instance.request.code != _INTERRUPTED:
        set_code(instance.request, _INTERRUPTED, at_s)
    shut_down(world, instance, _MARKET, at_s)


def shut_down(world: World, instance: Instance, reason: str, at_s: float) -> None:
    """Begin to shut an instance down, for this reason."""
    if instance.state in ("shutting-down", "terminated"):
        return
    instance.reason, instance.ended_s = _reason(reason), at_s
    _set_state(world, instance, "shutting-down", at_s)
    instance.request.happened_s.setdefault("shutting-down", at_s)
    world.schedule(at_s + instance.fate.shutdown_s, _terminated, instance)


def _reason(code: str) -> tuple[str, str]:
    return code, f"{code}: {_REASONS.get(code, 'ended')}"


def _terminated(world: World, instance: Instance, at_s: float) -> None:
    _set_state(world, instance, "terminated", at_s)
    request, numbers = instance.request, world.market.numbers
    if request.code != _INTERRUPTED:
        set_code(request, "instance-terminated-by-user", at_s)
    world.schedule(at_s + numbers.instance_retained_s, _forget, request.pool, instance)
    world.schedule(at_s + numbers.recover_s, _free_capacity, request)
    end(world, request, at_s)


def end(world: World, request: SpotRequest, at_s: float) -> None:
    """Nothing more can happen to the request; EC2 shows it for some hours."""
    request.happened_s["ended"] = at_s
    retained_s = world.market.numbers.request_retained_s
    world.schedule(at_s + retained_s, _forget, request.pool, request)


def _forget(world: World, pool: Pool, thing: SpotRequest | Instance, _: float) -> None:
    world.region(pool.region).forget(thing)


def _free_capacity(world: World, request: SpotRequest, _: float) -> None:
    world.region(request.pool.region).held[request.stock] -= 1


def set_code(request: SpotRequest, code: str, at_s: float) -> None:
    """Move a request to a status code, and to the state that it has."""
    _require((request.code, code) in REQUEST_MOVES, "request", request.code, code)
    request.code, request.updated_s = code, at_s
    if request.state != "cancelled":
        request.state = STATE_OF_CODE[code]
    request.path.append((at_s, code, request.state))


def _set_state(world: World, instance: Instance, state: str, at_s: float) -> None:
    _require((instance.state, state) in INSTANCE_MOVES, "instance", instance.state, state)
    instance.state = state
    instance.path.append((at_s, state))
    events.state_changed(world, instance, at_s)


def _require(possible: bool, what: str, before: str, after: str) -> None:
    if not possible:
        raise ValueError(f"no {what} goes from {before or 'nothing'} to {after}: see states")


def _never(delay_s: float | None) -> float:
    return inf if delay_s is None else delay_s

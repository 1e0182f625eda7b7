"""The pretend account and its course: requests wait, launch, boot, are interrupted, end.

``World`` owns the clock, the due events, the shared capacity and the truth.  Each transition is
one small method, called at its moment from a heap of due events.  Who may ask for what, and how
EC2 words it, is the API's (``wire`` and what it calls).

The truth is kept apart from what the API shows: ``truth()`` says of each request when each event
happened and when the API could first show it.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any

from spotlib.sandbox import catalogue
from spotlib.sandbox.account import (
    STATE_OF_CODE,
    EbsForm,
    Fate,
    Instance,
    Region,
    Script,
    SpotRequest,
)
from spotlib.sandbox.chance import digest, uniforms
from spotlib.sandbox.clock import Clock, ScaledTime, VirtualTime
from spotlib.sandbox.market import Market, Pool

__all__ = ["Call", "Fate", "ScaledTime", "VirtualTime", "World"]

EPOCH = datetime(2024, 9, 1, tzinfo=UTC)  # where the default archive month ends

_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
_GUEST = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
_MARKET = (
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceTermination: Spot instance termination",
)
_INTERRUPTED = "instance-terminated-no-capacity"


@dataclass(frozen=True)
class Call:
    """One API call as the world saw it."""

    at_s: float
    service: str
    action: str
    region: str
    mutating: bool
    code: str | None  # the error it was answered with


class World:
    """One pretend AWS account in one market.

    ``seed`` names the draws of this run: ids, delays, chosen zones.  ``market`` is the market all
    runs share, so that its archive describes it; give another to change it.  ``script`` decides
    the fate of requests instead of the market (``None`` from it leaves one to the market).
    ``quota_vcpus`` is the spot quota of every family group in every region.  ``denied`` holds
    actions such as ``ec2:TerminateInstances`` the caller may not use.
    """

    def __init__(
        self,
        seed: int = 1,
        *,
        market: Market | None = None,
        clock: Clock | None = None,
        epoch: datetime = EPOCH,
        account_id: str = "123456789012",
        script: Script | None = None,
        quota_vcpus: float = 1000.0,
        denied: Collection[str] = (),
        spot_role: bool = True,
    ) -> None:
        self.seed = seed
        self.market = market or Market()
        self.clock = clock or VirtualTime()
        self.epoch = epoch
        self.account_id = account_id
        self.script = script
        self.quota_vcpus = quota_vcpus
        self.denied = set(denied)
        self.spot_role = spot_role
        self.calls: list[Call] = []
        self.faults: list[Callable[[Any, bool], None]] = []  # see ``faults``
        self.lock = threading.RLock()
        self.regions: dict[str, Region] = {}
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._events = 0  # so far; what is due at once happens in the order of its planning
        self._requests: list[SpotRequest] = []  # all there ever were, for the truth

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the world goes on by itself, and alike: all but the lock is copied."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    # Identity and time.

    @property
    def world_id(self) -> str:
        """A short name of this world: the same settings give the same name."""
        settings = [self.seed, self.market.seed, self.market.numbers, self.epoch.isoformat()]
        settings += [self.account_id, self.quota_vcpus, sorted(self.denied), self.spot_role]
        return "w-" + hashlib.sha256(repr(settings).encode()).hexdigest()[:10]

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return self.clock.now_s

    def utc(self, at_s: float | None = None) -> datetime:
        """The world's date, now or at a moment of it."""
        return self.epoch + timedelta(seconds=self.now_s if at_s is None else at_s)

    def posix(self, at_s: float) -> float:
        """A moment of the world as the market counts it."""
        return self.epoch.timestamp() + at_s

    def advance(self, seconds: float) -> float:
        """Move a virtual clock on and let what is due happen; the new time."""
        with self.lock:
            self.clock.advance(seconds)
            self.catch_up()
            return self.now_s

    def catch_up(self) -> None:
        """Let everything happen that is due by now, in its order, each at its own moment."""
        now_s = self.now_s
        while self._due and self._due[0][0] <= now_s:
            at_s, _, happen, to = heapq.heappop(self._due)
            happen(*to, at_s)

    # What the account can be told to do.

    def region(self, name: str) -> Region:
        return self.regions.setdefault(name, Region())

    def request(
        self,
        kind: catalogue.InstanceType,
        pools: Sequence[Pool],
        *,
        count: int,
        launch: dict[str, Any],
        token: str,
        tags: dict[str, str],
        valid_until_s: float | None,
        max_price_usd: float | None,
    ) -> list[SpotRequest]:
        """Accept a request for ``count`` instances in one of these pools: EC2 chooses which."""
        region, now_s = self.region(pools[0].region), self.now_s
        region.calls += 1
        name = f"{self.seed}/{pools[0].region}/{region.calls}"
        pool = self.market.choose_zone(pools, self.posix(now_s), name)
        if valid_until_s is None:
            valid_until_s = now_s + self.market.numbers.request_valid_s
        made = [
            SpotRequest(
                request_id="sir-" + base64.b32encode(digest(5, "sir", name, i)).decode().lower(),
                name=name,
                index=i,
                token=token,
                pool=pool,
                launch=launch,
                vcpus=kind.vcpus,
                quota_group=kind.quota_group,
                accepted_s=now_s,
                valid_until_s=valid_until_s,
                max_price_usd=max_price_usd,
                tags=dict(tags),
            )
            for i in range(count)
        ]
        for request in made:
            self._accept(request)
        return made

    def cancel(self, request: SpotRequest) -> None:
        """Cancel a request.  Its instance, there or in flight, lives on."""
        if request.state not in ("open", "active"):
            return
        request.happened_s["cancelled"] = self.now_s
        if request.state == "open":
            self._set_code(request, "canceled-before-fulfillment", self.now_s)
            if not request.in_flight:
                self._end(request, self.now_s)
        else:
            self._set_code(request, "request-canceled-and-instance-running", self.now_s)

    def terminate(self, instance: Instance) -> None:
        """Begin to shut an instance down."""
        self._shut_down(instance, _USER, self.now_s)

    def vcpus_in_use(self, region: str, quota_group: str) -> int:
        """vCPUs of open requests and live instances that count against a quota."""
        return sum(
            request.vcpus
            for request in self.region(region).requests.values()
            if request.holds_quota and request.quota_group == quota_group
        )

    # What tests and the researcher may know.

    def truth(self) -> list[dict[str, Any]]:
        """Each request that ever was: what happened to it and when the API could show it."""
        with self.lock:
            self.catch_up()
            return [self._truth(request) for request in self._requests]

    def leftovers(self) -> dict[str, list[str]]:
        """Requests that can still launch and instances that still run: both must end up empty."""
        with self.lock:
            self.catch_up()
            requests = [r for r in self._requests if r.state == "open" or r.in_flight]
            instances = [r.instance for r in self._requests if r.instance]
            alive = [i.instance_id for i in instances if i.state in ("pending", "running")]
            return {"requests": [r.request_id for r in requests], "instances": alive}

    def _truth(self, request: SpotRequest) -> dict[str, Any]:
        return {
            "request_id": request.request_id,
            "token": request.token,
            "region": request.pool.region,
            "instance_type": request.pool.instance_type,
            "az_id": request.pool.zone_id,
            "instance_id": request.instance.instance_id if request.instance else None,
            "state": request.state,
            "code": request.code,
            "happened_s": dict(request.happened_s),
            # Reads are never stale here, so what happened is shown at once.
            "shown_s": dict(request.happened_s),
        }

    # The course of a request.

    def _at(self, at_s: float, happen: Callable[..., None], *to: Any) -> None:
        """Let something happen at a moment.  No closures: a copied world has its own events."""
        heapq.heappush(self._due, (at_s, self._events, happen, to))
        self._events += 1

    def _accept(self, request: SpotRequest) -> None:
        now_s = self.now_s
        request.fate = self.script(request) if self.script else None
        request.updated_s = now_s
        request.happened_s["accepted"] = now_s
        self.region(request.pool.region).add(request)
        self._requests.append(request)
        if request.fate:
            evaluate_s = request.fate.evaluate_s
        else:  # one decision a call: its instances succeed or fail together
            evaluate_s, _ = self.market.decision_s(request.name)
        self._at(now_s + evaluate_s, self._evaluate, request)
        self._at(request.valid_until_s, self._expire, request)

    def _evaluate(self, request: SpotRequest, at_s: float) -> None:
        if request.state != "open" or request.in_flight:
            return
        if request.fate and request.fate.fails:
            self._set_code(request, request.fate.fails, at_s)
            self._end(request, at_s)
            return
        refusal, again_s = self._obstacle(request, at_s)
        if refusal is None:
            self._take_off(request, at_s)
            return
        if request.code != refusal:
            self._set_code(request, refusal, at_s)
        if again_s is not None:
            self._at(again_s, self._evaluate, request)

    def _obstacle(self, request: SpotRequest, at_s: float) -> tuple[str | None, float | None]:
        """Why the request cannot launch now (None: it can), and when to look again."""
        if request.fate:
            fate, evaluated_s = request.fate, request.accepted_s + request.fate.evaluate_s
            if fate.held_s is None:
                return "capacity-not-available", None
            free_s = evaluated_s + fate.held_s
            return (None, None) if at_s >= free_s else ("capacity-not-available", free_s)
        again_s = at_s + self.market.numbers.reevaluate_s
        if request.max_price_usd is not None and request.max_price_usd < float(
            self.market.price_usd(request.pool, self.posix(at_s))
        ):
            return "price-too-low", again_s
        held = self.region(request.pool.region).held.get(request.pool, 0)
        if self.market.free_capacity(request.pool, self.posix(at_s)) <= held:
            return "capacity-not-available", again_s
        return None, None

    def _take_off(self, request: SpotRequest, at_s: float) -> None:
        request.in_flight = True
        held = self.region(request.pool.region).held
        held[request.pool] = held.get(request.pool, 0) + 1
        self._set_code(request, "pending-fulfillment", at_s)
        _, in_flight_s = self.market.decision_s(request.name, request.index)
        if request.fate:
            in_flight_s = request.fate.in_flight_s
        self._at(at_s + in_flight_s, self._fulfil, request)

    def _expire(self, request: SpotRequest, at_s: float) -> None:
        if request.state == "open" and not request.in_flight:
            self._set_code(request, "schedule-expired", at_s)
            self._end(request, at_s)

    def _fulfil(self, request: SpotRequest, at_s: float) -> None:
        request.in_flight = False
        late = request.state == "cancelled"
        self._set_code(
            request, "request-canceled-and-instance-running" if late else "fulfilled", at_s
        )
        request.happened_s["fulfilled"] = at_s
        fate = request.fate or self._market_fate(request, at_s)
        kind = catalogue.instance_type(request.pool.instance_type)
        by_type: EbsForm = "reported" if kind is None or kind.nitro else "absent"
        instance = Instance(
            instance_id="i-0" + digest(8, "i", request.name, request.index).hex(),
            request=request,
            launched_s=at_s,
            fate=fate,
            ebs=fate.ebs or by_type,
        )
        request.instance = instance
        self.region(request.pool.region).instances[instance.instance_id] = instance
        if fate.boot_s is not None:
            self._at(at_s + fate.boot_s, self._run, instance)
        if fate.interrupted_s is not None:
            self._at(at_s + fate.interrupted_s, self._interrupt, instance)
        elif request.fate is None:
            self._watch_pool(instance, at_s)

    def _market_fate(self, request: SpotRequest, at_s: float) -> Fate:
        boot = self.market.boot(
            request.pool, self.posix(at_s), request=request.name, index=request.index
        )
        ebs_share = float(uniforms(1, request.name, request.index, "ebs")[0])
        return Fate(
            boot_s=boot.boot_s,
            ok_s=boot.ok_s,
            ebs_ok_s=boot.ok_s * ebs_share,
            shutdown_s=self.market.shutdown_s(request.name, request.index),
        )

    def _watch_pool(self, instance: Instance, at_s: float) -> None:
        """Find out whether the pool takes the instance back within the hour, else look again."""
        if instance.state not in ("pending", "running"):
            return
        request, until_s = instance.request, at_s + 3600.0
        taken = self.market.interruption(
            request.pool,
            self.posix(at_s),
            until=self.posix(until_s),
            request=request.name,
            index=request.index,
        )
        if taken is None:
            self._at(until_s, self._watch_pool, instance)
        else:
            taken_s = taken - self.epoch.timestamp()
            self._at(taken_s, self._interrupt, instance)

    # The course of an instance.

    def _run(self, instance: Instance, at_s: float) -> None:
        if instance.state != "pending":
            return
        fate = instance.fate
        instance.state = "running"
        instance.request.happened_s["running"] = at_s
        instance.ok_at_s = at_s + _never(fate.ok_s)
        instance.ebs_ok_at_s = at_s + _never(fate.ebs_ok_s)
        ready_s = instance.ok_at_s
        if instance.ebs == "reported":
            ready_s = max(ready_s, instance.ebs_ok_at_s)
        if ready_s < inf:
            self._at(ready_s, self._pass_checks, instance)
        minutes = instance.request.shutdown_minutes
        if minutes is not None:
            stop_s = at_s + self.market.numbers.guest_boot_s + 60.0 * minutes
            self._at(stop_s, self._shut_down, instance, _GUEST)

    def _pass_checks(self, instance: Instance, at_s: float) -> None:
        if instance.state == "running":
            instance.request.happened_s["ready"] = at_s

    def _interrupt(self, instance: Instance, at_s: float) -> None:
        """The notice: the request says so at once, the instance runs on for two minutes."""
        if instance.state not in ("pending", "running"):
            return
        self._set_code(instance.request, _INTERRUPTED, at_s)
        instance.request.happened_s["interrupted"] = at_s
        end_s = at_s + self.market.numbers.notice_s
        self._at(end_s, self._shut_down, instance, _MARKET)

    def _shut_down(self, instance: Instance, reason: tuple[str, str], at_s: float) -> None:
        if instance.state not in ("pending", "running"):
            return
        instance.state, instance.reason, instance.ended_s = "shutting-down", reason, at_s
        instance.request.happened_s["shutting-down"] = at_s
        self._at(at_s + instance.fate.shutdown_s, self._terminated, instance)

    def _terminated(self, instance: Instance, at_s: float) -> None:
        instance.state = "terminated"
        request, numbers = instance.request, self.market.numbers
        if request.code != _INTERRUPTED:
            self._set_code(request, "instance-terminated-by-user", at_s)
        self._at(at_s + numbers.instance_retained_s, self._forget, request.pool, instance)
        self._at(at_s + numbers.recover_s, self._give_back, request.pool)
        self._end(request, at_s)

    def _end(self, request: SpotRequest, at_s: float) -> None:
        """Nothing more can happen to the request; EC2 forgets it some hours later."""
        request.happened_s["ended"] = at_s
        retained_s = self.market.numbers.request_retained_s
        self._at(at_s + retained_s, self._forget, request.pool, request)

    def _forget(self, pool: Pool, thing: SpotRequest | Instance, _: float) -> None:
        self.region(pool.region).forget(thing)

    def _give_back(self, pool: Pool, _: float) -> None:
        self.region(pool.region).held[pool] -= 1

    def _set_code(self, request: SpotRequest, code: str, at_s: float) -> None:
        request.code, request.updated_s = code, at_s
        if request.state != "cancelled":
            request.state = STATE_OF_CODE[code]


def _never(delay_s: float | None) -> float:
    return inf if delay_s is None else delay_s

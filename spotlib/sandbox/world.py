"""One pretend account in one market: its clock, what is due, what it holds, what is true.

``World`` owns the time and the records; what becomes of a request is ``course``'s, and who may
ask for what, and how EC2 words it, is the API's (``wire`` and what it calls).

The truth is kept apart from what the API shows.  Of each request ``truth()`` tells

- ``happened_s``: when each event happened;
- ``shown_s``: from when on a read that does not lag shows it (later only where new things are
  unknown for a while: see ``reads``);
- ``seen_s``: when an answer that arrived first showed each stage.  This is the moment a look's
  bracket contains.
"""

from __future__ import annotations

import hashlib
import heapq
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from spotlib.sandbox.account import Fate, Instance, Region, Script, SpotRequest
from spotlib.sandbox.clock import Clock, ScaledTime, VirtualTime
from spotlib.sandbox.forms import Forms
from spotlib.sandbox.limits import Buckets
from spotlib.sandbox.market import Market
from spotlib.sandbox.reads import Reads

__all__ = ["Call", "Fate", "Fired", "Forms", "Reads", "ScaledTime", "VirtualTime", "World"]

EPOCH = datetime(2024, 9, 1, tzinfo=UTC)  # where the default archive month ends

_LIVE = ("pending", "running", "stopping", "stopped")  # a stopped one still has its volume
_OF_INSTANCE = ("running", "ready", "shutting-down")  # events that its instance shows


@dataclass(frozen=True)
class Call:
    """One API call as the world saw it."""

    at_s: float
    service: str
    action: str
    region: str
    mutating: bool
    code: str | None  # the error it was answered with


@dataclass(frozen=True)
class Fired:
    """One fault that struck, as the truth keeps it."""

    at_s: float
    fault: str
    action: str
    region: str
    executed: bool  # whether the call took effect all the same


class World:
    """One pretend AWS account in one market.

    ``seed`` names the draws of this run: ids, delays, chosen zones.  ``market`` is the market all
    runs share, so that its archive describes it; give another to change it.  ``script`` decides
    the fate of requests instead of the market (``None`` from it leaves one to the market).
    ``quota_vcpus`` is the spot quota of every family group in every region.  ``denied`` holds
    actions such as ``ec2:TerminateInstances`` the caller may not use.

    On request it is hostile: ``reads`` mislead, ``throttled`` puts EC2's token buckets before
    every call, ``forms`` chooses what AWS does where that is not known, regions can be
    ``not_opted_in`` or have ``no_default_vpc``.  For faults see ``faults``, for company
    ``company``.
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
        reads: Reads | None = None,
        forms: Forms | None = None,
        throttled: bool = False,
        not_opted_in: Collection[str] = (),
        no_default_vpc: Collection[str] = (),
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
        self.reads = reads or Reads()
        self.forms = forms or Forms()
        narrow = self.forms.status_bucket == "narrow"
        self.buckets = Buckets(status_ids_narrow=narrow) if throttled else None
        self.not_opted_in = frozenset(not_opted_in)
        self.no_default_vpc = frozenset(no_default_vpc)
        self.calls: list[Call] = []
        self.faults: list[Callable[[Any, bool], Any]] = []  # see ``faults``
        self.fired: list[Fired] = []  # the faults that struck
        self.touched: list[tuple[float, str, str]] = []  # what a call did to a thing not ours
        self.lock = threading.RLock()
        self.regions: dict[str, Region] = {}
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._events = 0  # so far; what is due at once happens in the order of its planning
        self._requests: list[SpotRequest] = []  # all of ours there ever were, for the truth

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
        settings += [self.reads, self.forms, self.buckets is not None]
        settings += [sorted(self.not_opted_in), sorted(self.no_default_vpc)]
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

    def at(self, at_s: float, happen: Callable[..., None], *to: Any) -> None:
        """Let ``happen(world, *to, at_s)`` be called at a moment.

        No closures: a copied world goes on with events of its own.
        """
        heapq.heappush(self._due, (at_s, self._events, happen, to))
        self._events += 1

    def catch_up(self) -> None:
        """Let everything happen that is due by now, in its order, each at its own moment."""
        now_s = self.now_s
        while self._due and self._due[0][0] <= now_s:
            at_s, _, happen, to = heapq.heappop(self._due)
            happen(self, *to, at_s)

    # What the account holds.

    def region(self, name: str) -> Region:
        return self.regions.setdefault(name, Region())

    def enter(self, request: SpotRequest) -> None:
        """Let the account have a new request."""
        if not request.on_demand:
            self.region(request.pool.region).add(request)
        if not request.owner:
            self._requests.append(request)

    def touch(self, thing: SpotRequest | Instance, action: str) -> None:
        """Keep in mind that a call changed a thing; only those of others are remembered."""
        request = thing.request if isinstance(thing, Instance) else thing
        if request.owner:
            name = thing.instance_id if isinstance(thing, Instance) else thing.request_id
            self.touched.append((self.now_s, action, name))

    def read_at_s(self, *, by_ids: bool) -> float:
        """As of when an answer shows the account: now, unless reads lag."""
        return self.now_s - self.reads.lag_s(self.seed, len(self.calls), by_ids=by_ids)

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
            alive = [i.instance_id for i in instances if i.state in _LIVE]
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
            "shown_s": _shown_s(request),
            "seen_s": dict(request.seen_s),
            "path": [[at_s, code] for at_s, code, _ in request.path],
        }


def _shown_s(request: SpotRequest) -> dict[str, float]:
    """From when on a read that does not lag shows each event."""
    known_s, instance = request.known_s, request.instance
    later_s = instance.known_s if instance is not None else known_s
    return {
        event: max(at_s, later_s if event in _OF_INSTANCE else known_s)
        for event, at_s in request.happened_s.items()
    }

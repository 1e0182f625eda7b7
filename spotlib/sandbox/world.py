"""One pretend account in one market: its clock, its coming events, its records, its truth.

``World`` owns the time and the records.  ``course`` decides what happens to a request; ``wire`` and
the modules it calls decide who may call what, and the form of the answer.

The truth is kept apart from what the API shows.  For each request, ``truth()`` returns

- ``happened_s``: when each event happened;
- ``shown_s``: from when on a read that does not lag shows it (later than ``happened_s`` only while
  a new request or instance is unknown: see ``reads``; not said of the console, see ``console``);
- ``seen_s``: when a delivered answer first showed each stage.  The bracket of a client that polls
  contains this moment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from spotlib.sandbox.account import Fate, Instance, Region, Script, SpotRequest
from spotlib.sandbox.clock import Clock, ScaledTime, VirtualTime
from spotlib.sandbox.delivery import Delivery
from spotlib.sandbox.forms import Forms
from spotlib.sandbox.guests import Guests
from spotlib.sandbox.limits import Buckets
from spotlib.sandbox.market import Market
from spotlib.sandbox.reads import Reads

__all__ = [
    "Call",
    "Delivery",
    "Fate",
    "Fired",
    "Forms",
    "Guests",
    "Reads",
    "ScaledTime",
    "VirtualTime",
    "World",
]

EPOCH = datetime(2024, 9, 1, tzinfo=UTC)  # where the default archive month ends

_LIVE = ("pending", "running", "stopping", "stopped")  # a stopped instance keeps its volume
_OF_INSTANCE = ("running", "ready", "shutting-down")  # events shown by the instance
_AT_THE_ANSWER = ("accepted", "granted", "fulfilled")  # also these where it launches at once


@dataclass(frozen=True)
class Call:
    """One API call, as the world recorded it."""

    at_s: float
    service: str
    action: str
    region: str
    mutating: bool
    code: str | None  # of the error it was answered with


@dataclass(frozen=True)
class Fired:
    """One fault that affected a call."""

    at_s: float
    fault: str
    action: str
    region: str
    executed: bool  # whether the call took effect nevertheless


class World:
    """One pretend AWS account in one market; see also ``faults`` and ``company``.

    ``seed`` determines the draws of this world: ids, delays, chosen zones.  ``market`` has its own
    seed; by default it is the market that the default archive describes.  ``script`` returns the
    fate of a request, or None to leave it to the market.  ``quota_vcpus`` is the spot quota of
    each family group in each region, ``on_demand_vcpus`` the on-demand quota;
    ``unlisted_quotas`` are groups whose quota was never applied to the account, so that it has a
    new account's.  ``denied`` are actions that the caller may not use, such as
    ``ec2:TerminateInstances``.  ``reads`` says how inconsistent describe calls are, ``guests`` in
    what the guests are unusual, ``events`` how EventBridge delivers events, ``forms`` what AWS does
    where that is not known, ``throttled`` whether EC2's token buckets limit the calls.
    The account belongs to ``partition``, and no other's regions know it.  It may use the regions
    that need no opt-in and those ``opted_in``, but not those ``not_opted_in``; the regions
    ``no_default_vpc`` have no default VPC.  ``mfa_codes`` are the next codes of MFA devices, by
    serial number: only a session that began with one may then act (see ``identity``).
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
        on_demand_vcpus: float = 1000.0,
        unlisted_quotas: Collection[str] = (),
        denied: Collection[str] = (),
        spot_role: bool = True,
        reads: Reads | None = None,
        guests: Guests | None = None,
        events: Delivery | None = None,
        forms: Forms | None = None,
        throttled: bool = False,
        partition: str = "aws",
        opted_in: Collection[str] = (),
        not_opted_in: Collection[str] = (),
        no_default_vpc: Collection[str] = (),
        mfa_codes: Mapping[str, str] | None = None,
    ) -> None:
        if not (quota_vcpus >= 0 and on_demand_vcpus >= 0):
            got = f"{quota_vcpus!r}, {on_demand_vcpus!r}"
            raise ValueError(f"need quota_vcpus >= 0 and on_demand_vcpus >= 0, got {got}")
        self.seed = seed
        self.market = market or Market()
        self.clock = clock or VirtualTime()
        self.epoch = epoch
        self.account_id = account_id
        self.script = script
        self.quota_vcpus = quota_vcpus
        self.on_demand_vcpus = on_demand_vcpus
        self.unlisted_quotas = frozenset(unlisted_quotas)
        self.denied = set(denied)
        self.spot_role = spot_role
        self.reads = reads or Reads()
        self.guests = guests or Guests()
        self.events = events or Delivery()
        self.forms = forms or Forms()
        narrow = self.forms.status_bucket == "narrow"
        counted = self.forms.launch_bucket == "instances"
        buckets = Buckets(status_ids_narrow=narrow, count_launched=counted)
        self.buckets = buckets if throttled else None
        self.partition = partition
        self.opted_in = frozenset(opted_in)
        self.not_opted_in = frozenset(not_opted_in)
        self.no_default_vpc = frozenset(no_default_vpc)
        self.mfa_codes = None if mfa_codes is None else dict(mfa_codes)
        self.sessions: dict[str, float] = {}  # access key -> when it ends
        self.calls: list[Call] = []
        self.faults: list[Callable[[Any, bool], Any]] = []  # see ``faults``
        self.pool_error = ""  # the code that the pools of a fleet answer with in this call
        self.fired: list[Fired] = []  # the faults that affected a call
        self.touched: list[tuple[float, str, str]] = []  # what calls did to things of other owners
        self.lock = threading.RLock()
        self.regions: dict[str, Region] = {}
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._events = 0  # scheduled so far; events due at one moment happen in this order
        self._requests: list[SpotRequest] = []  # all the caller ever made, for the truth

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock: a copied world continues independently, with the same future."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, lock=threading.RLock())

    # Identity and time.

    @property
    def world_id(self) -> str:
        """A short id of this world: the same settings have the same id."""
        settings = [self.seed, self.market.seed, self.market.numbers, self.epoch.isoformat()]
        settings += [self.account_id, self.quota_vcpus, sorted(self.denied), self.spot_role]
        settings += [self.reads, self.forms, self.buckets is not None]
        settings += [sorted(self.not_opted_in), sorted(self.no_default_vpc)]
        settings += [sorted(self.unlisted_quotas)]
        settings += [self.partition, sorted(self.opted_in)]
        # What came later counts only where it differs, or every world would have a new id.
        for each in (self.market.numbers, self.reads, self.forms, self.guests, self.events):
            settings += [item for item in _hidden(each) if item[1] != item[2]]
        settings += [self.on_demand_vcpus] if self.on_demand_vcpus != 1000.0 else []
        return "w-" + hashlib.sha256(repr(settings).encode()).hexdigest()[:10]

    @property
    def now_s(self) -> float:
        """Seconds since the world began."""
        return self.clock.now_s

    def utc(self, at_s: float | None = None) -> datetime:
        """The world's date and time, now or at a moment of it."""
        return self.epoch + timedelta(seconds=self.now_s if at_s is None else at_s)

    def posix(self, at_s: float) -> float:
        """A moment of the world as POSIX seconds, which the market counts in."""
        return self.epoch.timestamp() + at_s

    def advance(self, seconds: float) -> float:
        """Move a virtual clock forward and run the events then due; return the new time."""
        with self.lock:
            self.clock.advance(seconds)
            self.run_due()
            return self.now_s

    def schedule(self, at_s: float, event: Callable[..., None], *things: Any) -> None:
        """Schedule the call ``event(world, *things, at_s)``.

        ``event`` must not be a closure, or it would act on the original of a copied world.
        """
        heapq.heappush(self._due, (at_s, self._events, event, things))
        self._events += 1

    def run_due(self) -> None:
        """Run all events due by now in order, each at its own moment."""
        now_s = self.now_s
        while self._due and self._due[0][0] <= now_s:
            at_s, _, event, things = heapq.heappop(self._due)
            event(self, *things, at_s)

    def wait(self, seconds: float, ready: Callable[[], object]) -> None:
        """Let time pass within a call, until ``ready`` or for so long."""
        until_s = self.now_s + seconds
        while not ready() and self.now_s < until_s:
            next_s = min(self._due[0][0], until_s) if self._due else until_s
            self.clock.wait(max(0.0, next_s - self.now_s), self.lock)
            self.run_due()

    # What the account holds.

    def region(self, name: str) -> Region:
        return self.regions.setdefault(name, Region())

    def add(self, request: SpotRequest) -> None:
        """Add a spot request to those that the account shows."""
        if not request.on_demand:
            self.region(request.pool.region).add(request)

    def remember(self, request: SpotRequest) -> None:
        """Keep what the caller asked for in the truth, also if nothing came of it."""
        if not request.owner:
            self._requests.append(request)

    def touch(self, thing: SpotRequest | Instance, action: str) -> None:
        """Record that a call changed a request or instance, if it has another owner."""
        request = thing.request if isinstance(thing, Instance) else thing
        if request.owner:
            name = thing.instance_id if isinstance(thing, Instance) else thing.request_id
            self.touched.append((self.now_s, action, name))

    def read_at_s(self, *, by_ids: bool) -> float:
        """The moment whose state an answer shows: now, unless reads lag."""
        return self.now_s - self.reads.lag_s(self.seed, len(self.calls), by_ids=by_ids)

    def vcpu_limit(self, quota_group: str, *, on_demand: bool = False) -> float:
        """The vCPUs of a family group that the account may use in a region."""
        if quota_group in self.unlisted_quotas:
            return fresh_vcpus(quota_group)
        return self.on_demand_vcpus if on_demand else self.quota_vcpus

    def vcpus_in_use(self, region: str, quota_group: str, *, on_demand: bool = False) -> int:
        """vCPUs of open spot requests and their live instances, or of on-demand instances."""
        account = self.region(region)
        requests: Iterable[SpotRequest] = account.requests.values()
        if on_demand:
            launched = (instance.request for instance in account.instances.values())
            requests = (request for request in launched if request.on_demand)
        return sum(
            request.vcpus
            for request in requests
            if request.holds_quota and request.quota_group == quota_group
        )

    # The truth, for tests and researchers.

    def truth(self) -> list[dict[str, Any]]:
        """All requests ever made: what happened to each and when the API could show it."""
        with self.lock:
            self.run_due()
            return [self._truth(request) for request in self._requests]

    def leftovers(self) -> dict[str, list[str]]:
        """Requests that can still launch, instances that still live: both must become empty.

        Launch templates, fleets that wait, queues and rules are listed too, while there are any.
        """
        with self.lock:
            self.run_due()
            requests = [r for r in self._requests if r.state == "open" or r.in_flight]
            instances = [r.instance for r in self._requests if r.instance]
            alive = [i.instance_id for i in instances if i.state in _LIVE]
            left = {"requests": [r.request_id for r in requests], "instances": alive}
            templates = [name for region in self.regions.values() for name in region.templates]
            fleets = [
                each.fleet_id
                for region in self.regions.values()
                for each in region.fleets.values()
                if each.kind != "instant" and each.ended_s is None
            ]
            regions = self.regions.values()
            others = {"templates": templates, "fleets": fleets}
            others["queues"] = [each.arn for region in regions for each in region.queues.values()]
            others["rules"] = [each.arn for region in regions for each in region.rules.values()]
            return left | {name: ids for name, ids in others.items() if ids}

    def _truth(self, request: SpotRequest) -> dict[str, Any]:
        return {
            "request_id": None if request.on_demand else request.request_id,
            "method": request.method,
            "purchase": "on-demand" if request.on_demand else "spot",
            "fleet_id": request.fleet_id or None,
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


def _hidden(settings: Any) -> Iterable[tuple[str, object, object]]:
    """(name, value, default) of the settings that came after worlds had ids."""
    for item in dataclasses.fields(settings):
        if not item.repr:
            yield item.name, getattr(settings, item.name), item.default


def fresh_vcpus(quota_group: str) -> float:
    """The spot quota of a new account."""
    return 5.0 if quota_group == "Standard" else 0.0


def _shown_s(request: SpotRequest) -> dict[str, float]:
    """From when on a read that does not lag shows each event."""
    known_s, instance = request.known_s, request.instance
    later_s = instance.known_s if instance is not None else known_s
    of_instance: tuple[str, ...] = _OF_INSTANCE
    if request.on_demand or not request.waits:
        of_instance += ("granted", "fulfilled") if request.waits else _AT_THE_ANSWER
    return {
        event: max(at_s, later_s if event in of_instance else known_s)
        for event, at_s in request.happened_s.items()
        if event not in ("usable", "rebalance")  # no answer to a describe call shows these
    }

"""The requests, instances, templates, rules and fleets of the pretend account, and their indexes.

Plain records.  ``course`` decides what happens to them and when; ``shapes`` gives them EC2's form.
All times are seconds since the world began.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from spotlib.sandbox.market import Pool
from spotlib.sandbox.queues import Queue

_SHUTDOWN = re.compile(rb"^\s*(?:sudo\s+)?shutdown\s+-[hP]\s+\+(\d+)", re.MULTILINE)

EbsForm = Literal["reported", "not-applicable", "absent"]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """The course of one request, fixed in advance: delays in seconds, None for never.

    Tests pass these through ``World(script=...)``; they replace the market's draws.
    """

    evaluate_s: float = 0.5  # accepted -> evaluated (until then pending-evaluation)
    held_s: float | None = 0.0  # evaluated -> nothing holds it any more
    holds: str = "capacity-not-available"  # until then; or constraint-not-fulfillable
    in_flight_s: float = 1.0  # duration of pending-fulfillment, when a cancel is too late
    boot_s: float | None = 6.0  # fulfilled -> running
    ok_s: float | None = 200.0  # running -> instance and system status ok
    ebs: EbsForm | None = None  # None: by type (reported on Nitro, absent on Xen)
    ebs_ok_s: float | None = 0.0  # running -> attached-EBS status ok, where it is reported
    interrupted_s: float | None = None  # fulfilled -> interruption notice
    impaired_s: float | None = None  # running -> instance and system status impaired, until ok
    ended_s: float | None = None  # fulfilled -> ended by somebody else, or by EC2 at the launch
    reason: str = "Client.UserInitiatedShutdown"  # the StateReason of that end
    cancelled_s: float | None = None  # accepted -> the request is cancelled by somebody else
    shutdown_s: float = 10.0  # shutting-down -> terminated
    fails: str | None = None  # the code in which evaluation ends: bad-parameters, system-error


@dataclass(kw_only=True)
class SpotRequest:
    """One spot instance request, ``sir-...``."""

    request_id: str
    name: str  # identifies its random draws
    index: int  # its place in the call that made it
    token: str
    pool: Pool
    launch: dict[str, Any]  # the LaunchSpecification as the client sent it
    vcpus: int
    quota_group: str
    accepted_s: float
    valid_until_s: float
    max_price_usd: float | None
    tags: dict[str, str]
    owner: str = ""  # "": the caller of the API
    method: str = "request_spot_instances"  # how it was asked for
    fleet_id: str = ""
    unwanted: bool = False  # its fleet was deleted: what it still launches ends at once
    on_demand: bool = False  # the launch of an on-demand instance, not a spot request
    born_with: dict[str, dict[str, str]] = field(default_factory=dict)  # tags by resource type
    guest_shutdown: str = ""  # InstanceInitiatedShutdownBehavior; "": not said
    flaw: str = ""  # why its evaluation fails
    fate: Fate | None = None  # None: the market decides
    code: str = ""
    state: str = "open"
    updated_s: float = 0.0
    in_flight: bool = False  # its launch can no longer be stopped by a cancel
    instance: Instance | None = None
    known_s: float = 0.0  # when reads may first know of it
    happened_s: dict[str, float] = field(default_factory=dict)  # truth: first time of each event
    seen_s: dict[str, float] = field(default_factory=dict)  # truth: first answer that showed it
    path: list[tuple[float, str, str]] = field(default_factory=list)  # (from when, code, state)
    shown: dict[str, tuple[object, Any]] = field(default_factory=dict, repr=False)  # by ``shapes``

    @property
    def shutdown_minutes(self) -> int | None:
        """Minutes after boot at which the user data shut the instance down; None if never."""
        found = _SHUTDOWN.search(self.script)
        return int(found[1]) if found else None

    @property
    def script(self) -> bytes:
        """The user data, decoded; nothing if they are no script, which cloud-init does not run."""
        try:
            script = base64.b64decode(self.launch.get("UserData") or "", validate=True)
        except binascii.Error:
            return b""
        return script if script.startswith(b"#!") else b""

    @property
    def requested(self) -> bool:
        """Whether it is a request of the caller, not part of a launch or of a fleet."""
        return self.method == "request_spot_instances"

    @property
    def waits(self) -> bool:
        """Whether it waits for capacity, and is not refused if there is none."""
        return self.requested or self.method == "create_fleet_request"

    @property
    def stock(self) -> tuple[Pool, bool]:
        """The capacity that it holds: that of on-demand instances is apart from spot.

        Those of other owners hold spot capacity, or older worlds would change.
        """
        return self.pool, self.on_demand and not self.owner

    @property
    def holds_quota(self) -> bool:
        """Whether it counts against its quota, or still may."""
        ended = ("terminated", "stopped")
        alive = self.instance is not None and self.instance.state not in ended
        return self.state == "open" or self.in_flight or alive


@dataclass(kw_only=True)
class Instance:
    """One instance, launched for a spot request."""

    instance_id: str
    request: SpotRequest
    number: int  # of those launched before it in its region
    launched_s: float
    fate: Fate
    ebs: EbsForm
    state: str = ""
    known_s: float = 0.0  # when reads may first know of it
    ok_at_s: float = inf  # when its status checks pass; set once it runs
    impaired_at_s: float = inf
    ebs_ok_at_s: float = inf
    reason: tuple[str, str] | None = None  # StateReason, once it ends
    ended_s: float | None = None  # when it began to shut down or to stop
    tags: dict[str, str] = field(default_factory=dict)
    wrote: list[tuple[float, str]] = field(default_factory=list)  # its user data, to the console
    path: list[tuple[float, str]] = field(default_factory=list)  # (from when, state)
    shown: dict[str, tuple[object, Any]] = field(default_factory=dict, repr=False)  # by ``shapes``

    def checks(self, at_s: float, *, pending: str) -> tuple[str, str | None]:
        """(instance and system status, attached-EBS status or None where absent).

        ``pending`` is the status of a pending instance, which is not known for sure.
        """
        running = self.state == "running"
        status = _summary(self.ok_at_s, at_s, self.impaired_at_s) if running else "not-applicable"
        if self.state == "pending":
            status = pending
        if self.ebs == "absent":
            return status, None
        if self.ebs == "not-applicable" or not running:
            return status, "not-applicable"
        return status, _summary(self.ebs_ok_at_s, at_s)


def _summary(ok_at_s: float, at_s: float, impaired_at_s: float = inf) -> str:
    if at_s >= ok_at_s:
        return "ok"
    return "impaired" if at_s >= impaired_at_s else "initializing"


@dataclass(kw_only=True)
class Template:
    """One launch template, ``lt-...``, with its only version."""

    template_id: str
    name: str
    description: str
    data: dict[str, Any]  # LaunchTemplateData as the client sent them
    created_s: float
    known_s: float  # when calls may first know of it
    tags: dict[str, str]


@dataclass(kw_only=True)
class Rule:
    """One rule, on the default event bus."""

    name: str
    arn: str
    tags: dict[str, str]
    listed_from_s: float
    pattern: str = ""
    enabled: bool = True
    description: str = ""
    targets: dict[str, str] = field(default_factory=dict)  # id -> ARN of a queue


@dataclass(kw_only=True)
class Fleet:
    """One fleet, ``fleet-...``, of type instant or request."""

    fleet_id: str
    config: dict[str, Any]  # the call that created it
    kind: str  # its type
    target: int
    on_demand: bool
    created_s: float
    active_s: float
    known_s: float  # when describe calls may first know of it
    until_s: float
    tags: dict[str, str]
    terminates: bool  # whether its end ends its instances
    ended_s: float | None = None  # when it was deleted or expired
    units: list[SpotRequest] = field(default_factory=list)
    parts: list[tuple[dict[str, Any], list[SpotRequest]]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)  # in EC2's form
    events: list[tuple[float, str, str, str]] = field(default_factory=list)


Script = Callable[[SpotRequest], Fate | None]
Tagged = SpotRequest | Instance


class Region:
    """What one region of the account holds; the cost of a read grows only with its result."""

    def __init__(self) -> None:
        self.requests: dict[str, SpotRequest] = {}
        self.instances: dict[str, Instance] = {}
        self.calls: Counter[str] = Counter()  # launch calls so far, by owner: identify their draws
        self.tokens: dict[tuple[str, str], tuple[str, Any]] = {}  # see ``tokens``
        self.templates: dict[str, Template] = {}
        self.fleets: dict[str, Fleet] = {}
        self.queues: dict[str, Queue] = {}  # by name
        self.deleted_queues: dict[str, Queue] = {}
        self.rules: dict[str, Rule] = {}  # by name
        self.foreign_events = 0  # so far, of the instances of others
        self.launched = 0  # instances so far
        self.fleets_made = 0
        self.held: Counter[tuple[Pool, bool]] = Counter()  # capacity in use here, by stock
        self._by_tag: dict[tuple[str, str], dict[str, SpotRequest]] = {}

    def add(self, request: SpotRequest) -> None:
        self.requests[request.request_id] = request
        for tag in request.tags.items():
            self._by_tag.setdefault(tag, {})[request.request_id] = request

    def tag(self, thing: Tagged, tags: dict[str, str]) -> None:
        if isinstance(thing, SpotRequest):
            self._unindex(thing)
            thing.tags.update(tags)
            self.add(thing)
        else:
            thing.tags.update(tags)

    def forget(self, thing: Tagged) -> None:
        if isinstance(thing, SpotRequest):
            self._unindex(thing)
            self.requests.pop(thing.request_id, None)
        else:
            self.instances.pop(thing.instance_id, None)

    def tagged(self, key: str, values: Iterable[str]) -> Iterator[SpotRequest]:
        """The requests that carry this tag with one of these values."""
        for value in dict.fromkeys(values):
            yield from self._by_tag.get((key, value), {}).values()

    def _unindex(self, request: SpotRequest) -> None:
        for tag in request.tags.items():
            self._by_tag.get(tag, {}).pop(request.request_id, None)

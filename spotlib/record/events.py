"""Every event of a log as a type: the one schema of the raw record.

A log is one JSON object per line.  Its key ``event`` names the type of the line, the other keys
are that type's fields.  Lines are written and read through these types alone, and a line that is
valid JSON but no valid event is refused when it is read.  No event refers back to itself, so
Python need not search millions of them for cycles (``gc=False``).

A new column is added here.  A field of ``Features`` is then filled by ``collect.features``, and the
launches table has it without another change.  A field of another event is filled by
``collect.recording`` and shown by ``record.tables``.  A change that the lines of older logs do not
satisfy raises ``SCHEMA``; a new field with a default does not.

Names carry their unit.  ``*_s`` is seconds since the log's first line, on a clock that does not
stop.  ``*_at`` and ``at`` are aware UTC.  Unknown is null, and so is a NaN that is written.

History of the schema:

1. 2026-11: first.
2. 2026-11: typed.  ``look`` became ``poll`` and its ``tick`` ``number``; the facts of the batch
   event lie flat; the features of an intent are called so.  Readers refuse schema 1.  Later lines
   are numbered, and features have ``t3``; a log without either is read too.  Launch methods:
   ``purchase`` where it is not spot, ``lacking`` where fewer came than were asked for.  Probes:
   ``granted`` among the counts of a poll, and when EC2 was seen to hold a request.  The stage
   ``usable`` with the guest's stamp, among the counts of a poll, and reads of consoles without one.
   EC2's own events (``notice``), and where the batch reads them.  Which signal stopped it.
"""

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import force_setattr

from spotlib.addresses import is_foreign, without_secrets
from spotlib.model import (
    INSTANCE_TYPE_PATTERN,
    MOST_INSTANCES_PER_CALL,
    MOST_SEED,
    REGION_PATTERN,
    ZONE_ID_PATTERN,
    About,
    Kind,
    Outcome,
    Purchase,
    StageName,
)
from spotlib.track import GONE_STATES

SCHEMA = 2

Count = Annotated[int, Meta(ge=0, le=2**53)]
Instant = Annotated[datetime, Meta(tz=True)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]  # since the first line


class Features(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was known of a target just before a request, with when it was taken and from where."""

    price_usd: float | None = None
    price_at: Instant | None = None
    price_source: str | None = None
    price_changed_at: Instant | None = None
    on_demand_usd: float | None = None
    sps: Count | None = None
    sps_at: Instant | None = None
    sps_source: str | None = None
    t3: Count | None = None  # 0 is a value: the score is below 3 even for one instance
    t3_at: Instant | None = None
    t3_source: str | None = None
    if_score: float | None = None
    if_at: Instant | None = None
    if_source: str | None = None
    since_last_s: float | None = None


class StageCounts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """How many requests of a run have been shown at each stage, and EC2's codes for all of them.

    ``granted`` is there for probes only, ``usable`` for plans that record it.
    """

    accepted: Count
    granted: Count | UnsetType = UNSET
    fulfilled: Count
    running: Count
    usable: Count | UnsetType = UNSET
    ready: Count
    codes: dict[str, Count]


class Host(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine and the versions that a batch ran with."""

    name: str
    pid: int
    spotlib: str
    python: str
    boto3: str
    botocore: str | None = None  # older logs lack it


class _Event(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="event", gc=False
):
    """A line of the log; ``line`` is its place among the whole lines, so a lost one is noticed."""

    line: Count | None = None


class _RunEvent(_Event, frozen=True, kw_only=True):
    """A line about a run: a plan in a round."""

    round: Count
    plan: Count


class _AnswerEvent(_RunEvent, frozen=True, kw_only=True):
    """A line about the answer to a request call; ``attempts`` has the codes of failed attempts."""

    asked_s: Seconds
    answered_s: Seconds | None  # null where a sweep found the requests
    at: Instant
    attempts: tuple[str, ...]


class _RequestEvent(_RunEvent, frozen=True, kw_only=True):
    """A line about one request."""

    request_id: str
    instance_id: str | None
    status_code: str | None


class BatchEvent(_Event, frozen=True, kw_only=True, tag="batch", omit_defaults=True):
    """The first line: what runs where, and with which parameters."""

    schema: int
    batch_id: str
    simulated: bool
    world: str | None
    world_seed: int | None
    endpoint: str
    market: str | None
    url: str | None
    started_at: Instant
    rounds: Count
    every_s: Seconds
    poll_s: Seconds
    phase_s: Seconds
    seed: Annotated[int, Meta(ge=-MOST_SEED, le=MOST_SEED)]
    settle_s: Seconds
    notes: dict[str, Any]
    account: str | None
    arn: str | None
    profile: str | None
    expected_usd: float | None
    bound_usd: float | None
    warnings: tuple[str, ...]
    host: Host
    arm_pause_s: Seconds = 0.0  # from the end of one arm of a target to the next; see ``methods``
    events: tuple[str, ...] = ()  # the regions in which it reads EC2's own events
    queue: str | None = None  # the user's own, from which it reads them; else it makes one in each

    def __post_init__(self) -> None:
        """Keep no password: an endpoint is refused with one, but older logs may hold one."""
        force_setattr(self, "endpoint", without_secrets(self.endpoint))
        force_setattr(self, "url", self.url and without_secrets(self.url))

    @property
    def foreign(self) -> bool:
        """Whether another program than Amazon's answered for EC2."""
        return not self.simulated and is_foreign(self.endpoint)


class IntentEvent(_RunEvent, frozen=True, kw_only=True, tag="intent", omit_defaults=True):
    """Before a request call: the plan, the exact parameters of the call, and the features."""

    at_s: Seconds
    at: Instant
    instance_type: Annotated[str, Meta(pattern=INSTANCE_TYPE_PATTERN)]
    region: Annotated[str, Meta(pattern=REGION_PATTERN)]
    availability_zone_id: Annotated[str, Meta(pattern=ZONE_ID_PATTERN)] | None
    placement: str
    method: str
    wanted: StageName
    n: Annotated[int, Meta(ge=1, le=MOST_INSTANCES_PER_CALL)]
    timeout_s: Seconds
    max_price_usd: float | None
    image: str
    image_name: str
    vcpus: Count
    valid_until: Instant
    shutdown_after_min: Count
    features: Features
    request: dict[str, Any]
    image_owner: str | None = None  # "amazon" or an account; older logs lack it
    purchase: Purchase = "spot"
    usable: bool = False  # whether its guests say when they are usable


class Lacking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """The instances that a call did not launch although it launched others: how many, and why.

    ``code`` is null where EC2 gives none.
    """

    count: Count
    code: str | None
    message: str
    kind: Kind
    advice: str


class RequestedEvent(_AnswerEvent, frozen=True, kw_only=True, tag="requested"):
    """The call was answered: the ids of its rows, and why other instances were not launched.

    A row is a spot request, or an instance where the method launches at once, or one of those that
    a fleet waits for, by its number: ``fleet-...#1``.
    """

    request_ids: tuple[str, ...]
    server_date: str | None
    recovered: bool = False
    lacking: Lacking | UnsetType = UNSET  # left out if all came


class RefusedEvent(_AnswerEvent, frozen=True, kw_only=True, tag="refused"):
    """The call was refused: EC2's code and message, what they are about, and what to do."""

    code: str
    message: str
    kind: Kind
    advice: str


class SkippedEvent(_Event, frozen=True, kw_only=True, tag="skipped"):
    """A round that would have started late, or polls that were due and not made."""

    round: Count
    polls: tuple[Count, ...]
    reason: str
    region: str | None = None


class PollEvent(_Event, frozen=True, kw_only=True, tag="poll"):
    """One poll of a region, also one that failed.

    ``plans`` has the counts of each plan polled, null where the poll failed; ``seen`` has the
    instance ids (by request id) that a failed poll learnt all the same.
    """

    round: Count
    number: Count
    region: str
    due_s: Seconds
    asked_s: Seconds
    answered_s: Seconds
    at: Instant
    server_date: str | None
    calls: Count
    plans: dict[Count, StageCounts | None]
    error: str | None
    seen: dict[str, str]


class GuestStamp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What the guest wrote when it was usable; null if the guest could not find a value out."""

    uptime_s: Seconds  # since its kernel started
    clock_uptime_s: Seconds  # the same when it read its clock, a little later
    clock_at: Instant  # its own clock
    boot_id: str
    pending_at: Instant | None  # when EC2 says that the instance began, cut to a whole second
    synchronised: bool | None  # its clock


class StageEvent(_RequestEvent, frozen=True, kw_only=True, tag="stage"):
    """A request is first shown at a stage: the bracket, and EC2's own timestamps.

    ``usable`` may come after the outcome: its bracket is of the guest's ``stamp``.
    """

    stage: StageName
    after_s: Seconds
    by_s: Seconds
    availability_zone_id: str | None
    created_at: Instant | None
    status_updated_at: Instant | None
    launched_at: Instant | None
    stamp: GuestStamp | UnsetType = UNSET  # of ``usable``


class ConsoleEvent(_RunEvent, frozen=True, kw_only=True, tag="console"):
    """A read of a guest's console that showed no stamp.

    ``posted`` is false where EC2 had no console to show, ``error`` is of a read that failed.
    ``last`` is the read after the instance ended, which shows all that it ever wrote.
    """

    request_id: str
    instance_id: str
    asked_s: Seconds
    answered_s: Seconds
    posted: bool
    last: bool
    error: str | None


class NoticeEvent(_RunEvent, frozen=True, kw_only=True, tag="notice"):
    """One of EC2's own events about an instance of ours, and when what it reports happened.

    ``event_at`` is EC2's time, cut to a whole second, ``sent_at`` when the queue took the event
    in, and ``asked_s`` to ``answered_s`` the read that showed it.  ``after_s`` to ``by_s`` is the
    bracket that follows; see ``stamp``.  An event may come after the outcome, or never.
    """

    request_id: str
    instance_id: str
    about: About
    event_at: Instant
    sent_at: Instant
    asked_s: Seconds
    answered_s: Seconds
    after_s: Seconds
    by_s: Seconds


class ImpairedEvent(_RequestEvent, frozen=True, kw_only=True, tag="impaired"):
    """A running instance is first shown with a failed status check: the bracket, every check."""

    after_s: float
    by_s: float
    checks: dict[str, str]


class OutcomeEvent(_RequestEvent, frozen=True, kw_only=True, tag="outcome"):
    """A request ended: how, with EC2's code and message, and until when it was watched.

    ``instance_reason`` and ``instance_message`` are the StateReason of its instance, verbatim.
    """

    outcome: Outcome
    status_message: str | None
    instance_state: str | None
    instance_reason: str | None
    instance_message: str | None = None
    watched_s: Seconds
    recovered: bool = False
    held_after_s: Seconds | UnsetType = UNSET  # of a probe that EC2 holds: the bracket of that
    held_by_s: Seconds | UnsetType = UNSET

    @property
    def is_over(self) -> bool:
        """Whether its instance had ended too: a request launches no other."""
        return self.instance_state in GONE_STATES


class TaggedEvent(_Event, frozen=True, kw_only=True, tag="tagged"):
    """Instances got the batch's tag, so the bill can be checked; or why they did not."""

    region: str
    instance_ids: tuple[str, ...]
    error: str | None


class ReleaseEvent(_Event, frozen=True, kw_only=True, tag="release"):
    """One pass of clean-up: what was cancelled and terminated.

    ``over`` are requests that were seen to have ended for good, also where nothing was to be done:
    EC2 forgets them some time later, so they are not asked for again.
    ``round`` and ``plan`` are null where the pass was for a whole batch.  A sweep writes ``at``
    instead of ``at_s``: its clock is not the batch's.
    """

    region: str
    cancelled: tuple[str, ...]
    terminated: tuple[str, ...]
    error: str | None
    over: tuple[str, ...] = ()  # older logs lack it
    round: Count | None = None
    plan: Count | None = None
    at_s: Seconds | None = None
    at: Instant | None = None


class CleanEvent(_Event, frozen=True, kw_only=True, tag="clean"):
    """The end: whether it is confirmed that nothing is left, and what is if it is not."""

    confirmed: bool
    open_requests: dict[str, tuple[str, ...]]
    live_instances: dict[str, tuple[str, ...]]
    errors: dict[str, str]
    spent_at_most_usd: float | None = None
    at_s: Seconds | None = None
    at: Instant | None = None
    stopped_by: str | UnsetType = UNSET  # the signal that stopped the batch; left out if none did


class RecoveredEvent(_Event, frozen=True, kw_only=True, tag="recovered"):
    """The log goes on after its writer died, or after a torn line: one not written whole."""

    torn: bool
    at: Instant
    pid: int


Event = (
    BatchEvent
    | IntentEvent
    | RequestedEvent
    | RefusedEvent
    | SkippedEvent
    | PollEvent
    | StageEvent
    | ConsoleEvent
    | NoticeEvent
    | ImpairedEvent
    | OutcomeEvent
    | TaggedEvent
    | ReleaseEvent
    | CleanEvent
    | RecoveredEvent
)

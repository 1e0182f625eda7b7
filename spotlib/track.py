"""What polls showed of a request, and the pure rule that turns it into brackets and an outcome.

A poll shows only that a stage was reached since the previous poll.  Therefore a stage has a
bracket, between these two polls, and never an invented instant.  Nothing here reads a clock, a
file or the network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from spotlib.model import Kind, Outcome, Stage

# EC2 User Guide, "Get the status of a Spot Instance request".  A code that is not listed here does
# not end a request: it holds the request, as constraint-not-fulfillable does while the request is
# open, or the request may have a running instance.
INTERRUPTED_CODES = frozenset(
    {
        "instance-stopped-by-price",
        "instance-stopped-no-capacity",
        "instance-terminated-by-price",
        "instance-terminated-by-schedule",
        "instance-terminated-by-service",
        "instance-terminated-capacity-oversubscribed",
        "instance-terminated-launch-group-constraint",
        "instance-terminated-no-capacity",
    }
)
EXPIRED_CODES = frozenset({"schedule-expired", "expired"})  # of a request, of a fleet
# The same for an instance whose spot request is not polled: its StateReason.
INTERRUPTED_REASONS = frozenset({"Server.SpotInstanceShutdown", "Server.SpotInstanceTermination"})
DELETED_STATES = frozenset({"deleted", "deleted_running", "deleted_terminating"})  # of a fleet
# Of these only system-error is EC2's; the others are about our own account.
FAILED_CODES: Mapping[str, Kind | None] = MappingProxyType(
    {
        "bad-parameters": Kind.PARAMETERS,
        "canceled-before-fulfillment": Kind.ACCOUNT,
        "instance-stopped-by-user": Kind.ACCOUNT,
        "instance-terminated-by-user": Kind.ACCOUNT,
        "limit-exceeded": Kind.QUOTA,
        "request-canceled-and-instance-running": Kind.ACCOUNT,
        "spot-instance-terminated-by-user": Kind.ACCOUNT,
        "system-error": None,
        **dict.fromkeys(sorted(DELETED_STATES), Kind.ACCOUNT),  # by somebody, or above a limit
    }
)
# EC2 has granted the request; an instance shows this too.
GRANTED_CODES = frozenset({"pending-fulfillment", "fulfilled"})
# EC2 does not grant it for now, because of the market; it evaluates the request again later.
HELD_CODES = frozenset({"capacity-not-available", "capacity-oversubscribed", "price-too-low"})
# Of a request or of a fleet that launches nothing more.
ENDED_STATES = frozenset({"cancelled", "closed", "failed", *DELETED_STATES})
GONE_STATES = frozenset({"shutting-down", "terminated"})  # of an instance that is not billed
# What a poll can show.
POLLED: tuple[Stage, ...] = tuple(stage for stage in Stage if stage is not Stage.USABLE)


@dataclass(frozen=True)
class Bracket:
    """``(after_s, by_s]``: when the API first showed a stage.

    It begins when the last poll that did not show the stage was *sent*, and ends when the first
    poll that showed it was *answered*.  Reads can be stale, so only ``by_s`` bounds the event
    itself.
    """

    after_s: float
    by_s: float

    def __post_init__(self) -> None:
        """Refuse an empty bracket: a poll takes time."""
        if not self.after_s < self.by_s:
            raise ValueError(f"a bracket needs after_s < by_s, got ({self.after_s}, {self.by_s}]")


@dataclass(frozen=True)
class Sighting:
    """What one poll showed of one request, as EC2 said it.

    ``checks`` maps ``instance``, ``system`` and, where EC2 reported it, ``attached_ebs`` to
    their status; it is None where the status was not asked for or EC2 had none.  The ``*_at``
    are EC2's own timestamps, whole seconds.
    """

    request_state: str = ""
    status_code: str = ""
    status_message: str = ""
    instance_id: str | None = None
    instance_state: str | None = None
    instance_reason: str | None = None
    instance_message: str | None = None
    checks: Mapping[str, str] | None = None
    availability_zone_id: str | None = None
    created_at: datetime | None = None
    status_updated_at: datetime | None = None
    launched_at: datetime | None = None

    @property
    def stage(self) -> Stage:
        """The furthest stage that this sighting shows."""
        if self.instance_id is None:
            return Stage.GRANTED if self.status_code in GRANTED_CODES else Stage.ACCEPTED
        if self.instance_state != "running":
            return Stage.FULFILLED
        return Stage.READY if checks_passed(self.checks) else Stage.RUNNING

    @property
    def ended(self) -> Outcome | None:
        """How EC2 says that the request ended, or None while it may still reach a stage."""
        if self.status_code in INTERRUPTED_CODES:
            return Outcome.INTERRUPTED
        if not self.status_code and self.instance_reason in INTERRUPTED_REASONS:
            return Outcome.INTERRUPTED
        if self.status_code in EXPIRED_CODES:
            return Outcome.EXPIRED
        if self.status_code in FAILED_CODES or self.request_state == "failed":
            return Outcome.FAILED
        return Outcome.FAILED if self.instance_state in GONE_STATES else None

    @property
    def held(self) -> bool:
        """Whether EC2 holds the request, because the market has nothing for it now."""
        return self.status_code in HELD_CODES and self.instance_id is None

    @property
    def impaired(self) -> bool:
        """Whether the instance runs and has failed a status check."""
        return "impaired" in (self.checks or {}).values()


def checks_passed(checks: Mapping[str, str] | None) -> bool:
    """Whether status checks say ready: instance and system ``ok``, attached EBS no veto.

    EBS is checked on Nitro types only: an absent or ``not-applicable`` check is no veto.
    """
    if checks is None or checks.get("instance") != "ok" or checks.get("system") != "ok":
        return False
    return checks.get("attached_ebs", "ok") in ("ok", "not-applicable")


@dataclass(frozen=True)
class Track:
    """What is known of one request so far.

    ``polled_s`` is when the last complete poll was sent (before the first poll: when the request
    was sent).  It is the lower end of the next bracket; if there is no next one, the record is
    censored there.  ``impaired`` is the bracket of the first failed status check, ``held`` that of
    the first poll that showed that EC2 holds the request; None if there was none.
    """

    request_id: str
    polled_s: float
    brackets: Mapping[Stage, Bracket] = field(default_factory=lambda: MappingProxyType({}))
    sighting: Sighting | None = None
    impaired: Bracket | None = None
    held: Bracket | None = None
    outcome: Outcome | None = None

    @property
    def stage(self) -> Stage | None:
        """The furthest stage shown so far: a stage never regresses, even if a read is stale."""
        return max(self.brackets, default=None)


def advance(track: Track, sighting: Sighting | None, *, asked_s: float, answered_s: float) -> Track:
    """Return ``track`` after one more complete poll; ``sighting`` is None if it was not listed.

    The bracket of a stage that is shown for the first time begins when the previous poll was sent
    and ends when this one was answered.  Stages that are first shown together share that bracket.
    A track with an outcome does not change any more.
    """
    if track.outcome is not None:
        return track
    if sighting is None:  # a new request may be invisible for seconds; it is not gone
        return replace(track, polled_s=asked_s)
    window = Bracket(track.polled_s, answered_s)
    shown = (stage for stage in POLLED if stage <= sighting.stage)
    fresh = {stage: window for stage in shown if stage not in track.brackets}
    return replace(
        track,
        polled_s=asked_s,
        brackets=MappingProxyType({**track.brackets, **fresh}),
        sighting=sighting,
        impaired=track.impaired or (window if sighting.impaired else None),
        held=track.held or (window if sighting.held else None),
    )


def add_usable(track: Track, bracket: Bracket) -> Track:
    """Return ``track`` with the bracket of USABLE, which may be learnt after its outcome."""
    return replace(track, brackets=MappingProxyType({**track.brackets, Stage.USABLE: bracket}))


def conclude(track: Track, *, wanted: Stage) -> Track:
    """Return ``track`` with its outcome if it has one: the wanted stage, or EC2's end.

    If one poll shows both the wanted stage and an end, the wanted stage counts: the API did show
    it.  A probe also ends when EC2 holds the request, because that answers its question; a launch
    goes on waiting.
    """
    if track.outcome is not None or track.sighting is None:
        return track
    if wanted in track.brackets:
        return replace(track, outcome=reached(wanted))
    if wanted is Stage.GRANTED and track.held is not None:
        return replace(track, outcome=Outcome.HELD)
    return replace(track, outcome=track.sighting.ended)


def reached(wanted: Stage) -> Outcome:
    """Return the outcome of a request that was shown at the stage that its plan waits for."""
    return Outcome.GRANTED if wanted is Stage.GRANTED else Outcome.READY


def failure_kind(status_code: str | None, instance_reason: str | None) -> Kind | None:
    """Return what in our own account made a request fail; None if EC2 or the market ended it.

    The instance's StateReason is the best source: ``Client.*`` is the account (its key, its quota,
    its people and their tools, the guest itself), ``Server.*`` is EC2.  If there is none, the
    request's status code decides.

    Examples
    --------
    >>> failure_kind("instance-terminated-by-user", "Client.InternalError")
    <Kind.ACCOUNT: 'account'>
    >>> failure_kind("instance-terminated-by-user", "Server.InternalError") is None
    True
    """
    if instance_reason:
        return Kind.ACCOUNT if instance_reason.startswith("Client.") else None
    return FAILED_CODES.get(status_code or "")


def count_stages(tracks: Iterable[Track]) -> dict[Stage, int]:
    """Count the requests shown at each stage so far; a later stage counts for the earlier ones."""
    shown = [track.brackets for track in tracks]
    return {stage: sum(stage in brackets for brackets in shown) for stage in Stage}

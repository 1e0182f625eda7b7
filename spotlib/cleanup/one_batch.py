"""One batch of the past: what may be left of it, whether it is left alone, how it is closed.

A batch whose log is locked is alive and left alone.  One whose log is not here may be alive
elsewhere: it is left alone until its launches have expired, as a tag says.  Without that tag, or if
it names no time, the batch is closed at once: otherwise it might never be closed.  One that is
named is closed at once too.  What it launched a moment ago may not be listed yet, so that only the
settle time shows that nothing is left.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from spotlib.cleanup.close import Cleaned, Note, clean_event
from spotlib.cleanup.commands import aws_options
from spotlib.cleanup.recovery import missing_events
from spotlib.cleanup.unfinished import CLOSING, Unfinished
from spotlib.ec2.connection import Connection
from spotlib.ec2.events import EVENTS
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Ours, Resource
from spotlib.ec2.survey import RESOURCES, survey
from spotlib.record.events import CleanEvent, Event, ReleaseEvent
from spotlib.record.log import EventLog, LogError, is_alive
from spotlib.record.replay import RecordedBatch, replay

ALIVE = "kept: its collection is running here"
YOUNG = "kept: it is not recorded here and has not expired, so it may be running elsewhere"
WOULD = "to be closed"
CLOSED = "closed"
CLEAN = "nothing is left of it"
FAILED = "NOT confirmed closed"
ENDED = "its sandbox has ended, so nothing is left in it"
UNWRITTEN = "closed, but its log could not be completed, sweep again once it can: {}"
QUIET = "nothing of it is open or alive now; it is not recorded here, so it may go on elsewhere"
UNBEGUN = "nothing was launched: its log ends before that"
UNKNOWN = "NOT known: no log of it is here, and EC2 lists nothing of it: is the name right?"
ELSEWHERE = "kept: it ran in account {}, these credentials are of {}: choose its profile"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Swept:
    """What became of one batch."""

    batch_id: str
    verdict: str
    cleaned: Cleaned | None = None
    commands: tuple[str, ...] = ()  # that finish it by hand

    @property
    def confirmed(self) -> bool:
        """Whether nothing of it is left and that is recorded."""
        return self.verdict in (CLOSED, CLEAN, UNBEGUN)

    @property
    def forgotten(self) -> bool:
        """Whether a foreign endpoint has forgotten it: another try would change nothing."""
        return self.cleaned is not None and self.cleaned.forgotten

    @property
    def done(self) -> bool:
        """Whether nothing of it is left, or it is, or may be, somebody's who lives."""
        return self.confirmed or self.verdict in (ALIVE, YOUNG, QUIET)


@dataclass(frozen=True)
class Job:
    """A batch, with what its log here and EC2 say of it."""

    connection: Connection
    batch_id: str
    log: Unfinished | None
    listed: Sequence[tuple[str, Ours]]  # by region
    list_now: Callable[[str], list[Ours]]  # what is in a region, of any batch
    account: str | None = None  # whose the credentials are, where that is known
    is_locked: bool = False  # by its writer, where its log cannot be read

    @property
    def request_ids(self) -> dict[str, set[str]]:
        """The request ids by region, from the log and from EC2."""
        ids: dict[str, set[str]] = {}
        if self.log is not None:
            ids = {region: set(some) for region, some in self.log.request_ids.items()}
        for region, each in self.listed:
            ids.setdefault(region, set()).add(each.thing_id)
        return ids

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The kinds of things that are looked for by its tag; see ``sweep``."""
        if self.log is not None:
            return self.log.resources
        ids = [each.thing_id for _, each in self.listed]
        return tuple(each for each in RESOURCES if each.of(ids) or not each.special)

    @property
    def alive(self) -> Mapping[str, frozenset[str]]:
        """The instances that the log knows of and nobody has terminated, by region."""
        return self.log.alive_instances if self.log is not None else {}

    @property
    def accounted(self) -> dict[str, set[str]]:
        """The ids that EC2 must list before the batch is clean.

        EC2 forgets what has ended after some time, which its kind knows.  So all of a young log
        must be seen, but of an old log only what EC2 still lists, and what never expires.
        """
        ids: dict[str, set[str]] = {region: set() for region in self.request_ids}
        for region, each in self.listed:
            ids[region].add(each.thing_id)
        if self.log is not None:
            age = self.connection.server_utc() - (self.log.valid_until or _LONG_AGO)
            young = [each for each in RESOURCES if age < each.listed_for]
            for region, some in self.request_ids.items():
                ids[region].update(name for each in young for name in each.of(some))
        return ids


def sweep_batch(job: Job, *, named: bool, dry_run: bool, closing: Callable[..., Cleaned]) -> Swept:
    """Close a batch and complete its log, unless it is left alone."""
    kept = why_kept(job, named=named)
    if kept is not None or dry_run:
        return Swept(job.batch_id, kept or WOULD)
    if job.log is None:
        was_quiet = _is_quiet(job)
        swept = _verdict(job, _close(job, closing, _unrecorded))
        return replace(swept, verdict=CLEAN) if was_quiet and swept.confirmed else swept
    try:
        log = EventLog.resume(job.log.path)
    except BlockingIOError:  # a guard or another sweep was quicker
        return Swept(job.batch_id, CLOSING)
    except OSError as error:  # what is left costs money whether it can be written down or not
        return _unwritten(_verdict(job, _close(job, closing, _unrecorded)), error)
    with contextlib.closing(log):
        return _close_and_complete(job, closing, log)


def complete_ended(log: Unfinished) -> None:
    """Complete the log of a batch whose sandbox has ended: nothing can be left in it.

    Raises
    ------
    OSError
        If somebody writes to the log, or if it cannot be written.
    ValueError
        If it is damaged.
    """
    with contextlib.closing(EventLog.resume(log.path)) as events:
        record = replay(log.path)
        assert record is not None  # it was read before
        for event in list(missing_events(record, [])):
            events.append(event)
        events.append(_clean_event(Cleaned(confirmed=True), record))


def _clean_event(cleaned: Cleaned, record: RecordedBatch) -> CleanEvent:
    """The end of a log that somebody else began, with the hard bound of its rounds that began."""
    return clean_event(cleaned, spent_at_most_usd=record.bound_usd(record.begun))


def why_kept(job: Job, *, named: bool) -> str | None:
    """Why a batch is left alone, or None."""
    if job.log is not None:
        owner = job.log.batch.account
        if None not in (owner, job.account) and owner != job.account:
            return ELSEWHERE.format(owner, job.account)
        return _why_held(job.log) if is_alive(job.log.path) else None
    if job.is_locked:
        return ALIVE
    if named:
        return None
    if _is_quiet(job):
        return QUIET
    things = [each for _, each in job.listed]
    costly = [each for each in things if not EVENTS.of([each.thing_id])]  # a queue lives longer
    expires = [each.expires_at for each in costly or things if each.expires_at]
    return YOUNG if expires and job.connection.server_utc() < max(expires) else None


def _why_held(log: Unfinished) -> str:
    """Whose the lock of a log is: a collection that had died does not come back."""
    return ALIVE if log.alive and not log.is_closing else CLOSING


def _is_quiet(job: Job) -> bool:
    return all(
        survey(job.connection, region, resources=(), ids=ids).quiet
        for region, ids in job.accounted.items()
    )


def _close(job: Job, closing: Callable[..., Cleaned], note: Note) -> Cleaned:
    return closing(
        job.connection,
        batch_id=job.batch_id,
        request_ids=job.accounted,
        resources=job.resources,
        note=note,
        alive=job.alive,
    )


def _unrecorded(_: ReleaseEvent) -> None:
    """Record nothing: there is no log here."""


def _close_and_complete(job: Job, closing: Callable[..., Cleaned], log: EventLog) -> Swept:
    """Money first, then the outcome of every request, then the proof."""
    completer = _LogCompleter(log, job.connection)
    verdict = _verdict(job, cleaned := _close(job, closing, completer.note))
    try:
        record = replay(log.path)  # somebody may have damaged it since it was read
        assert record is not None  # it was read before
        listed = _listed_in_the_end(job, record) if cleaned.confirmed else job.listed
    except (ValueError, OSError, Refusal) as error:
        return _unwritten(verdict, error)
    for event in list(missing_events(record, [each for _, each in listed])):
        completer.append(event)
    completer.note(_clean_event(cleaned, record))
    return verdict if completer.failed is None else _unwritten(verdict, completer.failed)


def _listed_in_the_end(job: Job, record: RecordedBatch) -> Sequence[tuple[str, Ours]]:
    """What is listed of a batch, now also where an answer is missing in its log.

    EC2 may list what that call launched later than the sweep began, or have failed to list it.
    """
    lost = (run.intent.region for run in record.runs.values() if not (run.requested or run.refused))
    now = [(region, each) for region in sorted(set(lost)) for each in job.list_now(region)]
    found = [*job.listed, *(each for each in now if each[1].batch_id == job.batch_id)]
    return list({each.thing_id: (region, each) for region, each in found}.values())


@dataclass
class _LogCompleter:
    """Completes a dead writer's log as far as the disk takes it; clean-up goes on regardless."""

    log: EventLog
    connection: Connection
    failed: LogError | None = None

    def append(self, event: Event) -> None:
        """Write it, unless an earlier one could not be written: the order must hold."""
        if self.failed is None:
            try:
                self.log.append(event)
            except LogError as error:
                self.failed = error

    def note(self, event: ReleaseEvent | CleanEvent) -> None:
        """Record clean-up with the date: the writer's seconds are not ours."""
        self.append(msgspec.structs.replace(event, at=self.connection.clock.utc()))


def _unwritten(swept: Swept, error: Exception) -> Swept:
    closed = swept.verdict == CLOSED
    return replace(swept, verdict=UNWRITTEN.format(error)) if closed else swept


def _verdict(job: Job, cleaned: Cleaned) -> Swept:
    commands = tuple(cleaned.commands(aws_options(job.connection)))
    return Swept(job.batch_id, CLOSED if cleaned.confirmed else FAILED, cleaned, commands)

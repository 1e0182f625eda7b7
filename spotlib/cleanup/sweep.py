"""Find what earlier batches left behind, by their logs and by tag, and close it.

It touches only requests that carry our tag and their instances.  A batch whose log is locked is
alive and left alone; one whose log is not here may be alive elsewhere, so it is left alone until
its requests have expired.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from spotlib.cleanup.close import GIVE_UP_S, SETTLE_S, Cleaned, Note, settle
from spotlib.cleanup.recovery import missing_events
from spotlib.cleanup.unfinished import Unfinished, read_unfinished
from spotlib.ec2.calls import HOME_REGION, Ours, find_ours, survey
from spotlib.ec2.connection import Connection, is_aws, new_executor
from spotlib.ec2.refusals import Refusal
from spotlib.record.log import Event, EventLog, LogError, is_alive, read_events

ALIVE = "kept: its collection is running here"
YOUNG = "kept: it is not recorded here and has not expired, so it may be running elsewhere"
WOULD = "to be closed"
CLOSED = "closed"
CLEAN = "nothing is left of it"
FAILED = "NOT confirmed closed"
UNWRITTEN = "closed, but its log could not be completed, sweep again once it can: {}"
ELSEWHERE = "kept: it ran in account {}, these credentials are of {}: choose its profile"

_LISTED_H = 3  # EC2 lists ended requests for four hours


@dataclass(frozen=True)
class Swept:
    """What became of one batch."""

    batch_id: str
    verdict: str
    cleaned: Cleaned | None = None

    @property
    def done(self) -> bool:
        """Whether nothing of it is left and that is recorded, or it is somebody's who lives."""
        return self.verdict in (ALIVE, YOUNG, CLOSED, CLEAN)


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did; ``errors`` are regions and logs that it could not look into."""

    batches: tuple[Swept, ...]
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Whether it is confirmed that nothing of ours is left but what is alive."""
        return not self.errors and all(each.done for each in self.batches)

    def lines(self) -> list[str]:
        """The report for a terminal, with the commands where something is left."""
        lines = [f"{each.batch_id}: {each.verdict}" for each in self.batches]
        lines += [
            f"  {command}"
            for each in self.batches
            if each.cleaned is not None and not each.done
            for command in each.cleaned.commands()
        ]
        lines += [f"{region}: not looked into: {words}" for region, words in self.errors.items()]
        return lines or ["nothing of ours is there"]


def sweep(
    connection: Connection,
    *,
    folder: str | Path,
    batch_id: str | None = None,
    regions: Iterable[str] | None = None,
    dry_run: bool = False,
    settle_s: float = SETTLE_S,
    give_up_s: float = GIVE_UP_S,
) -> SweepReport:
    """Close what dead batches left, and complete their logs.

    Parameters
    ----------
    folder
        The logs known here.  They say which batches are alive, and which requests were made.
    batch_id
        Only this batch, and it even if it has not expired.
    regions
        Where to look; None is every region of a log, and every one the account has enabled.
    dry_run
        Make no call that changes anything.
    """
    here = [each for each in read_unfinished(folder) if batch_id in (None, _name(each))]
    journals = {
        each.batch_id: each
        for each in here
        if isinstance(each, Unfinished) and _same_place(each.first, connection)
    }
    ours, errors = _look_everywhere(connection, journals.values(), regions, batch_id)
    errors |= dict(each for each in here if isinstance(each, tuple))
    account = None if connection.simulated else _account(connection)
    jobs = [
        _Job(
            connection,
            name,
            journals.get(name),
            [each for each in ours if each[1].batch_id == name],
            account,
            is_locked=name in errors and is_alive(Path(folder) / f"{name}.jsonl"),
        )
        for name in sorted({*journals, *(each.batch_id for _, each in ours)})
    ]
    closing = partial(settle, settle_s=settle_s, give_up_s=give_up_s)
    with new_executor(connection) as executor:
        swept = executor.map(
            partial(_sweep_batch, named=batch_id is not None, dry_run=dry_run, closing=closing),
            jobs,
        )
        return SweepReport(tuple(swept), errors)


@dataclass(frozen=True)
class _Job:
    connection: Connection
    batch_id: str
    journal: Unfinished | None
    listed: Sequence[tuple[str, Ours]]  # (region, request)
    account: str | None = None  # whose the credentials are, where that is known
    is_locked: bool = False  # by its writer, where its log cannot be read

    @property
    def known(self) -> dict[str, set[str]]:
        """The request ids by region, from the log and from EC2."""
        ids: dict[str, set[str]] = {}
        if self.journal is not None:
            ids = {region: set(some) for region, some in self.journal.request_ids.items()}
        for region, each in self.listed:
            ids.setdefault(region, set()).add(each.request_id)
        return ids

    @property
    def alive(self) -> Mapping[str, frozenset[str]]:
        """The instances that the log saw and nobody has terminated, by region."""
        return self.journal.alive_instances if self.journal is not None else {}

    @property
    def accounted(self) -> dict[str, set[str]]:
        """The ids that EC2 must list before the batch is clean.

        It forgets ended requests after some hours, so an old log's are asked for only as far as
        they are listed; a young one's must all be seen.
        """
        expired_at = self.journal.valid_until if self.journal is not None else None
        forgotten = timedelta(hours=_LISTED_H)
        if expired_at is not None and self.connection.server_utc() < expired_at + forgotten:
            return self.known
        ids: dict[str, set[str]] = {region: set() for region in self.known}
        for region, each in self.listed:
            ids[region].add(each.request_id)
        return ids


def _name(log: Unfinished | tuple[str, str]) -> str:
    return log.batch_id if isinstance(log, Unfinished) else log[0]


def _account(connection: Connection) -> str | None:
    try:
        reply = connection.call(HOME_REGION, "get_caller_identity", service="sts")
    except Refusal:  # what is asked next will say what is wrong
        return None
    return str(reply["Account"])


def _same_place(first: Event, connection: Connection) -> bool:
    """Whether a log's batch ran where this connection leads."""
    if connection.simulated or first["simulated"]:
        return bool(first["world"] == connection.world)
    return bool(is_aws(first["endpoint"]) == is_aws(connection.endpoint))


def _look_everywhere(
    connection: Connection,
    journals: Iterable[Unfinished],
    regions: Iterable[str] | None,
    batch_id: str | None,
) -> tuple[list[tuple[str, Ours]], dict[str, str]]:
    found: list[tuple[str, Ours]] = []
    errors: dict[str, str] = {}
    wanted = set(regions or ()) or _enabled_regions(connection)
    for region in sorted(wanted | {name for each in journals for name in each.regions}):
        try:
            found += [(region, each) for each in find_ours(connection, region, batch_id=batch_id)]
        except Refusal as refusal:
            errors[region] = str(refusal)
    return found, errors


def _enabled_regions(connection: Connection) -> set[str]:
    regions = connection.call(HOME_REGION, "describe_regions", AllRegions=True)["Regions"]
    return {each["RegionName"] for each in regions if each["OptInStatus"] != "not-opted-in"}


def _sweep_batch(
    job: _Job, *, named: bool, dry_run: bool, closing: Callable[..., Cleaned]
) -> Swept:
    kept = _kept(job, named=named)
    if kept is not None or dry_run:
        return Swept(job.batch_id, kept or WOULD)
    if job.journal is None:
        return _verdict(job, _close(job, closing, lambda *_, **__: None))
    try:
        log = EventLog.resume(job.journal.path)
    except BlockingIOError:  # another sweep was quicker
        return Swept(job.batch_id, ALIVE)
    except OSError as error:  # what is left costs money whether it can be written down or not
        return _unwritten(_verdict(job, _close(job, closing, lambda *_, **__: None)), error)
    with contextlib.closing(log):
        return _close_and_complete(job, closing, log)


def _kept(job: _Job, *, named: bool) -> str | None:
    """Why a batch is left alone, or None."""
    if job.journal is not None:
        owner = job.journal.first["identity"]["account"]
        if None not in (owner, job.account) and owner != job.account:
            return ELSEWHERE.format(owner, job.account)
        return ALIVE if is_alive(job.journal.path) else None
    if job.is_locked:
        return ALIVE
    if _is_quiet(job):
        return CLEAN
    expires = [each.expires_at for _, each in job.listed if each.expires_at]
    young = expires and job.connection.server_utc() < max(expires)
    return YOUNG if young and not named else None


def _is_quiet(job: _Job) -> bool:
    try:
        return all(
            survey(job.connection, region, known=ids).quiet for region, ids in job.accounted.items()
        )
    except Refusal:
        return False


def _close(job: _Job, closing: Callable[..., Cleaned], note: Note) -> Cleaned:
    return closing(
        job.connection, batch_id=job.batch_id, known=job.accounted, note=note, alive=job.alive
    )


def _close_and_complete(job: _Job, closing: Callable[..., Cleaned], log: EventLog) -> Swept:
    """Money first, then the record: every request gets its outcome, then comes the proof."""
    journal = _Journal(log, job.connection)
    verdict = _verdict(job, cleaned := _close(job, closing, journal.note))
    events, _ = read_events(log.path)
    for event in list(missing_events(events, [each for _, each in job.listed])):
        journal.append(event.pop("event"), **event)
    journal.note(
        "clean",
        confirmed=cleaned.confirmed,
        open_requests=cleaned.open_requests,
        live_instances=cleaned.live_instances,
        errors=cleaned.errors,
    )
    log.flush()
    return verdict if journal.failed is None else _unwritten(verdict, journal.failed)


@dataclass
class _Journal:
    """A dead writer's log, completed as far as the disk takes it: clean-up does not end for it."""

    log: EventLog
    connection: Connection
    failed: LogError | None = None

    def append(self, event: str, /, **told: Any) -> None:
        """Write it, unless something before could not be written: order is part of the record."""
        if self.failed is None:
            try:
                self.log.append(event, **told)
            except LogError as error:
                self.failed = error

    def note(self, event: str, /, **told: Any) -> None:
        """Record clean-up: its writer's seconds are not ours."""
        self.append(event, at_s=None, at=self.connection.clock.utc(), **told)


def _unwritten(swept: Swept, error: OSError) -> Swept:
    closed = swept.verdict == CLOSED
    return replace(swept, verdict=UNWRITTEN.format(error)) if closed else swept


def _verdict(job: _Job, cleaned: Cleaned) -> Swept:
    return Swept(job.batch_id, CLOSED if cleaned.confirmed else FAILED, cleaned)

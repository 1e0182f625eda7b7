"""Find what earlier batches left behind, by their logs and by tag, and close it.

It touches only requests that carry our tag and their instances.  A batch whose log is locked is
alive and left alone; one whose log is not here may be alive elsewhere, so it is left alone until
its requests have expired.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from spotlib.batch import new_executor
from spotlib.close import GIVE_UP_S, SETTLE_S, Cleaned, Note, settle
from spotlib.connection import Connection, is_aws
from spotlib.ec2 import Ours, find_ours, survey
from spotlib.log import Event, EventLog, is_alive, log_files, read_events
from spotlib.preflight import HOME_REGION
from spotlib.prepared import usd
from spotlib.recovery import missing_events
from spotlib.refusals import Refusal

ALIVE = "kept: its collection is running here"
YOUNG = "kept: it is not recorded here and has not expired, so it may be running elsewhere"
WOULD = "to be closed"
CLOSED = "closed"
CLEAN = "nothing is left of it"
FAILED = "NOT confirmed closed"

_LISTED_H = 3  # EC2 lists ended requests for four hours


@dataclass(frozen=True)
class Unfinished:
    """A batch whose log does not say that nothing is left of it."""

    batch_id: str
    path: Path
    first: Event
    alive: bool
    regions: tuple[str, ...]
    request_ids: Mapping[str, tuple[str, ...]]  # region -> ids
    ended: int
    rounds_begun: int
    valid_until: datetime | None

    @property
    def requests(self) -> int:
        """How many requests it made, as far as its log knows."""
        return sum(map(len, self.request_ids.values()))

    def line(self) -> str:
        """The batch in a line: is it alive, what is open, what can it cost."""
        rounds = self.first["parameters"]["rounds"]
        bound_usd = self.first["bound_usd"]
        most = "unknown" if bound_usd is None else usd(rounds * bound_usd)
        kind = "simulated" if self.first["simulated"] else self.first["endpoint"]
        state = "running" if self.alive else f"DEAD, close it with: {self.command()}"
        return (
            f"{self.batch_id} ({kind}): {state}; round {self.rounds_begun} of {rounds}, "
            f"{self.requests - self.ended} of {self.requests} requests without an outcome, "
            f"at most {most} in all, in {', '.join(self.regions) or 'no region yet'}"
        )

    def command(self) -> str:
        """What closes it."""
        where = "" if self.first["simulated"] else f" --endpoint {self.first['endpoint']}"
        return f"python -m spotlib sweep --batch {self.batch_id}{where}"


def unfinished(folder: str | Path) -> list[Unfinished]:
    """The batches of a folder of logs that were not confirmed to be clean, oldest first."""
    found = []
    for path in log_files(folder):
        events, _ = read_events(path, looks=False)
        ends = [event["confirmed"] for event in events if event["event"] == "clean"]
        if events and not (ends and ends[-1]):
            found.append(_unfinished(path, events))
    return found


def _unfinished(path: Path, events: Sequence[Event]) -> Unfinished:
    region = {
        (event["round"], event["plan"]): event["region"]
        for event in events
        if event["event"] == "intent"
    }
    ids: dict[str, tuple[str, ...]] = dict.fromkeys(sorted(set(region.values())), ())
    for event in events:
        if event["event"] == "requested":
            ids[region[event["round"], event["plan"]]] += tuple(event["request_ids"])
    return Unfinished(
        batch_id=events[0]["batch_id"],
        path=path,
        first=events[0],
        alive=is_alive(path),
        regions=tuple(ids),
        request_ids=ids,
        ended=sum(event["event"] == "outcome" for event in events),
        rounds_begun=len({number for number, _ in region}),
        valid_until=max(
            (
                datetime.fromisoformat(event["valid_until"])
                for event in events
                if event["event"] == "intent"
            ),
            default=None,
        ),
    )


@dataclass(frozen=True)
class Swept:
    """What became of one batch."""

    batch_id: str
    verdict: str
    cleaned: Cleaned | None = None

    @property
    def done(self) -> bool:
        """Whether nothing of it is left, or it is somebody's who lives."""
        return self.verdict in (ALIVE, YOUNG, CLOSED, CLEAN)


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did; ``errors`` are regions that could not be looked into."""

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
    journals = {
        each.batch_id: each
        for each in unfinished(folder)
        if _same_place(each.first, connection) and batch_id in (None, each.batch_id)
    }
    ours, errors = _look_everywhere(connection, journals.values(), regions, batch_id)
    jobs = [
        _Job(
            connection,
            name,
            journals.get(name),
            [each for each in ours if each[1].batch_id == name],
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
    with contextlib.closing(log):
        return _verdict(job, _close_and_complete(job, closing, log))


def _kept(job: _Job, *, named: bool) -> str | None:
    """Why a batch is left alone, or None."""
    if job.journal is not None:
        return ALIVE if is_alive(job.journal.path) else None
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
    return closing(job.connection, batch_id=job.batch_id, known=job.accounted, note=note)


def _close_and_complete(job: _Job, closing: Callable[..., Cleaned], log: EventLog) -> Cleaned:
    """Money first, then the record: every request gets its outcome, then comes the proof."""
    at = job.connection.clock.utc
    cleaned = _close(
        job, closing, lambda event, **told: log.append(event, at_s=None, at=at(), **told)
    )
    events, _ = read_events(log.path)
    for event in list(missing_events(events, [each for _, each in job.listed])):
        log.append(event.pop("event"), **event)
    log.append(
        "clean",
        sync=True,
        at_s=None,
        at=at(),
        confirmed=cleaned.confirmed,
        open_requests=cleaned.open_requests,
        live_instances=cleaned.live_instances,
        errors=cleaned.errors,
    )
    return cleaned


def _verdict(job: _Job, cleaned: Cleaned) -> Swept:
    return Swept(job.batch_id, CLOSED if cleaned.confirmed else FAILED, cleaned)

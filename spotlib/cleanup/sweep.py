"""Find what earlier batches left behind, by their logs and by tag, and close it.

It touches only what carries our tag, and the instances of spot requests that do.  What EC2 lists is
found in ``search``, and what becomes of each batch is decided in ``one_batch``.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from spotlib.cleanup.close import GIVE_UP_S, SETTLE_S, release_all, settle, unseen
from spotlib.cleanup.one_batch import (
    ALIVE,
    CLEAN,
    UNBEGUN,
    UNKNOWN,
    Job,
    Swept,
    sweep_batch,
    why_kept,
)
from spotlib.cleanup.search import Search
from spotlib.cleanup.unfinished import Folder, read_folder
from spotlib.ec2.connection import Connection, new_executor
from spotlib.ec2.places import is_aws
from spotlib.ec2.resource import Ours
from spotlib.model import Kind
from spotlib.record.events import BatchEvent
from spotlib.record.log import is_alive, locked

UNREAD = "NOT known: its log cannot be read, and EC2 lists nothing of it"
OTHER_PLACE = "NOT swept: it ran at {}, not here: {}"
NO_EVENTS = (
    "queues and rules of EC2's own events were not all looked for ({}): if a batch of yours may "
    "have made some, allow what 'python -m spotlib policy --events' prints, and sweep again"
)
NOT_ITS = "{}: not searched, but its log names no request there: {}"


@dataclass(frozen=True)
class SweepReport:
    """What a sweep found and did; ``errors`` names the regions and logs it could not read.

    ``notes`` say which files among the logs hold nothing of their own.
    """

    batches: tuple[Swept, ...]
    errors: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether it is confirmed that nothing of ours is left but what may be living batches."""
        return not self.errors and all(each.done for each in self.batches)

    def confirms(self, batch_id: str | None) -> bool:
        """Whether it is clean and, if a batch is named, confirmed that nothing of it is left."""
        named = [each.confirmed for each in self.batches if each.batch_id == batch_id]
        return self.clean and (batch_id is None or named == [True])

    def lines(self) -> list[str]:
        """The report for a terminal, with the commands where something is left."""
        lines = [f"{each.batch_id}: {each.verdict}" for each in self.batches]
        for each in self.batches:
            if not each.done:
                errors = each.cleaned.errors if each.cleaned else {}
                lines += [f"  {region}: {words}" for region, words in errors.items()]
                lines += [f"  {command}" for command in each.commands]
        lines += self.notes
        lines += [f"{region}: not searched: {words}" for region, words in self.errors.items()]
        return lines or ["nothing of ours is there"]


def sweep(
    connection: Connection,
    *,
    folder: str | Path | None,
    batch_id: str | None = None,
    regions: Iterable[str] | None = None,
    dry_run: bool = False,
    settle_s: float = SETTLE_S,
    give_up_s: float = GIVE_UP_S,
) -> SweepReport:
    """Close what dead batches left at EC2, and complete their logs.

    Parameters
    ----------
    connection
        Where EC2 is; see ``connect``.
    folder
        The logs known here.  They say which batches are alive, and which requests were made.
        None if there are none: then only what EC2 lists with our tag is known.
    batch_id
        Only this batch, even if its requests have not expired; other logs are not read.  Without a
        log of it EC2 is searched twice, ``settle_s`` apart: it may list late what was launched.
    regions
        Where to search for batches by their tag; None is every region the account has enabled.
        The regions of a log are searched in any case: its batch is clean only if all of them are.
    dry_run
        Make no call that changes anything.
    settle_s, give_up_s
        As in ``settle``, in seconds.

    Returns
    -------
    SweepReport
        What became of each batch; ``clean`` says whether it is confirmed that nothing is left.

    Raises
    ------
    Refusal
        If the credentials are refused before any region is known.

    Examples
    --------
    >>> from spotlib import connect, sweep
    >>> connection = connect("sandbox", seed=1)
    >>> report = sweep(connection, folder="results/launches")
    >>> connection.close()
    >>> report.clean, report.lines()
    (True, ['nothing of ours is there'])
    """
    here = Folder() if folder is None else read_folder(folder, batch_id=batch_id)
    logs = {each.batch_id: each for each in here.unfinished if _same_place(each.batch, connection)}
    for log in logs.values():  # a foreign endpoint may have forgotten them
        connection.memory.named.update(log.named_instances)
        connection.memory.cancelled.update(log.cancelled)
    search = Search(connection, logs, regions=regions, batch_id=batch_id)
    jobs_of = partial(_jobs_of, search, here, search.account())
    if not dry_run:
        _end_known(jobs_of([]))
    listed, errors = search.everywhere()
    searched_s = connection.clock.now_s()
    closing = partial(settle, settle_s=settle_s, give_up_s=give_up_s)
    sweep_one = partial(sweep_batch, named=batch_id is not None, dry_run=dry_run, closing=closing)
    swept = _at_once(connection, sweep_one, jobs_of(listed))
    if batch_id is not None and not (dry_run or here.clean or here.unfinished):
        # What it launched a moment ago may not be listed yet, anywhere.
        connection.clock.sleep(max(0.0, searched_s + settle_s - connection.clock.now_s()))
        now, still = search.everywhere()
        errors = {region: errors.get(region, words) for region, words in still.items()}
        late = [each for each in now if each not in listed]
        swept = _at_once(connection, sweep_one, jobs_of([*listed, *late])) if late else swept
    if batch_id is not None and not swept:
        swept = (Swept(batch_id, _absent(here, batch_id)),)
    return _report(search, here, swept, errors)


def _jobs_of(
    search: Search, here: Folder, account: str | None, listed: Sequence[tuple[str, Ours]]
) -> list[Job]:
    """Return a job for every batch that has a log, or of which something is listed."""
    return [
        Job(
            search.connection,
            name,
            search.logs.get(name),
            [each for each in listed if each[1].batch_id == name],
            search.find,
            account,
            is_locked=_is_locked(here, name),
        )
        for name in sorted({*search.logs, *(each.batch_id for _, each in listed)})
    ]


def _at_once(
    connection: Connection, sweep_one: Callable[[Job], Swept], jobs: Iterable[Job]
) -> tuple[Swept, ...]:
    with new_executor(connection) as executor:
        return tuple(executor.map(sweep_one, jobs))


def _report(
    search: Search, here: Folder, swept: tuple[Swept, ...], errors: dict[str, str]
) -> SweepReport:
    """Add what was not listed; of a named batch with a log, only its own regions count."""
    refusals, batch_id = search.unlisted, search.batch_id
    notes = [*here.notes, *map(NO_EVENTS.format, dict.fromkeys(e.code for e in refusals.values()))]
    passing = {r: str(e) for r, e in refusals.items() if e.kind in (Kind.THROTTLED, Kind.SERVER)}
    errors = passing | errors  # they may be there, and the next sweep can see them
    log = search.logs.get(batch_id or "")
    if log or batch_id in here.clean:  # its log says where anything of it can be
        own = log.regions if log else ()
        notes += [NOT_ITS.format(*each) for each in errors.items() if each[0] not in own]
        errors = {region: words for region, words in errors.items() if region in own}
    errors |= {each.batch_id: each.words for each in here.faults}
    return SweepReport(swept, errors, tuple(notes))


def verdict_here(here: Folder, batch_id: str) -> str | None:
    """What the logs alone say for certain of a named batch, or None."""
    if batch_id in here.clean:
        return CLEAN
    if here.unbegun:
        return ALIVE if _is_locked(here, batch_id) else UNBEGUN
    return None


def _absent(here: Folder, batch_id: str) -> str:
    """What is said of a named batch of which nothing is to be done at this place."""
    for each in here.unfinished:
        return OTHER_PLACE.format(each.batch.endpoint, each.command())
    return verdict_here(here, batch_id) or (UNREAD if here.faults else UNKNOWN)


def _is_locked(here: Folder, batch_id: str) -> bool:
    """Whether a batch whose log cannot be read, or has no whole line yet, has a living writer."""
    faulty = [each.path for each in here.faults if each.batch_id == batch_id]
    for path in [*faulty, *(each for each in here.unbegun if each.stem == batch_id)]:
        with contextlib.suppress(OSError):  # it cannot be opened, so no writer of ours holds it
            if is_alive(path):
                return True
    return False


def _same_place(batch: BatchEvent, connection: Connection) -> bool:
    """Whether a log's batch ran where this connection leads."""
    if connection.simulated or batch.simulated:
        return batch.world == connection.world
    if batch.foreign or connection.foreign:
        return batch.endpoint.rstrip("/") == connection.endpoint.rstrip("/")
    return is_aws(batch.endpoint)  # as the connection is


def _end_known(jobs: Iterable[Job]) -> None:
    """End what dead batches' logs name.  A search may take minutes if EC2 is in trouble.

    Nothing is recorded yet: each batch is closed later, which ends all of this once more.
    """
    for job in jobs:
        if job.log is None or why_kept(job, named=True) is not None:
            continue
        ids = job.request_ids
        left = {region: unseen(some, job.alive.get(region, ())) for region, some in ids.items()}
        with contextlib.suppress(OSError), locked(job.log.path):  # else the closing says why not
            release_all(
                job.connection,
                left,
                request_ids=ids,
                batch_id=job.batch_id,
                resources=job.resources,
            )

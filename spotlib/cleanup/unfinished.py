"""What a folder of logs says is not finished: batches under way, and dead ones to be closed.

Reads logs and their locks only; what is at EC2 is the business of ``sweep``.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from spotlib.cleanup.commands import sweep_command
from spotlib.ec2.events import EVENTS, name_of
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.methods.registry import left_by
from spotlib.ec2.resource import Resource
from spotlib.model import is_instance_id
from spotlib.money import usd
from spotlib.record.events import BatchEvent
from spotlib.record.folder import Fault, find_logs
from spotlib.record.log import ends_clean, is_alive
from spotlib.record.replay import RecordedBatch, replay
from spotlib.words import counted

CLOSING = (
    "its collection is dead, and a guard or a sweep is closing it: look again in a minute or two"
)


@dataclass(frozen=True)
class Unfinished:
    """A batch whose log does not confirm that nothing is left of it; ``alive`` if its writer is."""

    path: Path
    alive: bool
    record: RecordedBatch

    @property
    def batch_id(self) -> str:
        """Its name."""
        return self.record.batch.batch_id

    @property
    def batch(self) -> BatchEvent:
        """What runs where."""
        return self.record.batch

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that anything was sent to."""
        return tuple(self.record.regions)

    @property
    def request_ids(self) -> Mapping[str, tuple[str, ...]]:
        """What is not known to be over, by region; also the regions without any.

        It is rows, and their instances where these are looked for by their own ids.
        """
        ids: dict[str, tuple[str, ...]] = dict.fromkeys(self.regions, ())
        over = self.record.over
        for name, request in self.record.requests.items():
            intent = request.run.intent
            alone = INSTANCES in left_by([intent.method])
            known = {name, request.instance_id or name} if alone else {name}
            ids[intent.region] += tuple(sorted(known - over))
        for region in self.batch.events if self.makes_events else ():
            ids[region] += (name_of(self.batch_id),)
        return ids

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The kinds of things that its launch methods leave, and what it made for EC2's events."""
        left = left_by(run.intent.method for run in self.record.runs.values())
        return (*left, EVENTS) if self.makes_events else left

    @property
    def makes_events(self) -> bool:
        """Whether it makes a queue and a rule in each region, and reads no queue of the user's."""
        return bool(self.batch.events) and self.batch.queue is None

    @property
    def alive_instances(self) -> Mapping[str, frozenset[str]]:
        """The instances that were given or seen and are not known to have ended, by region."""
        ended = (each.terminated for each in self.record.releases)
        gone = {None, *self.record.over, *itertools.chain.from_iterable(ended)}
        seen = [
            (request.run.intent.region, stage.instance_id)
            for request in self.record.requests.values()
            for stage in request.stages
        ]
        seen += [(each.region, name) for each in self.record.tagged for name in each.instance_ids]
        for region, rows in self.request_ids.items():
            seen += [(region, row) for row in rows if is_instance_id(row)]
        alive: dict[str, frozenset[str]] = {}
        for region, name in seen:
            if name and name not in gone:
                alive[region] = alive.get(region, frozenset()) | {name}
        return alive

    @property
    def named_instances(self) -> Mapping[str, str]:
        """The instances that were seen, and whose request each of them is."""
        return {
            stage.instance_id: name
            for name, request in self.record.requests.items()
            for stage in request.stages
            if stage.instance_id
        }

    @property
    def cancelled(self) -> frozenset[str]:
        """The requests whose cancellation was confirmed."""
        some = (each.cancelled for each in self.record.releases)
        return frozenset(itertools.chain.from_iterable(some))

    @property
    def valid_until(self) -> datetime | None:
        """When its last request expires by itself."""
        ends = [run.intent.valid_until for run in self.record.runs.values()]
        return max(ends, default=None)

    def line(self) -> str:
        """The batch in a line: is it alive, what is open, what can it cost, when it goes on."""
        kind = "simulated" if self.batch.simulated else self.batch.endpoint
        state = "running" if self.alive else f"DEAD, close it with: {self.command()}"
        if self.is_closing:
            state = CLOSING
        requests = self.record.requests.values()
        open_requests = sum(each.outcome is None for each in requests)
        alive = counted(sum(map(len, self.alive_instances.values())), "instance")
        begun, last = self.record.begun, self.record.last_round
        return (
            f"{self.batch_id} ({kind}): {state}; round {last} of {self.batch.rounds}"
            f"{self._next_round(last)}, "
            f"{open_requests} of {counted(len(requests), 'request')} without an outcome, "
            f"{alive} not yet terminated, {self._queues()}"
            f"can have cost at most {self._most(begun)}{self._later_rounds(last)}, "
            f"in {', '.join(self.regions) or 'no region yet'}{self._awaited(last, open_requests)}"
        )

    def _awaited(self, last: int, open_requests: int) -> str:
        """What a batch waits for, until when, and what comes then; of a dead one what ends it."""
        until = self._time(self.valid_until) if self.valid_until else "their timeout"
        if not self.alive:
            return f"; its requests expire by themselves at {until}" * bool(open_requests)
        if self.is_closing:
            return ""
        rounds = self.batch.rounds
        then = f"round {last + 1} of {rounds}" if last < rounds else "the end"
        if open_requests:
            return (
                f"; it waits for {counted(open_requests, 'request')} until {until} at the latest, "
                f"then ends what it launched, then comes {then}"
            )
        if last < rounds:
            return f"; it waits for {then}"
        return "; it makes sure that nothing is left, which takes about a minute, then it is over"

    def _queues(self) -> str:
        """Where its queues and rules of EC2's events are, as far as is known."""
        name = name_of(self.batch_id)
        ended = {each.region for each in self.record.releases if name in each.cancelled}
        left = [each for each in self.batch.events if each not in ended and self.makes_events]
        return f"queue and rule {name} not yet deleted in {', '.join(left)}, " if left else ""

    @property
    def is_closing(self) -> bool:
        """Whether the living writer of its log is another process than its collector."""
        writer_pid = self.record.writer_pid
        return self.alive and writer_pid not in (None, self.batch.host.pid)

    def _next_round(self, last: int) -> str:
        if not self._goes_on(last):
            return ""
        due_at = self.batch.started_at + timedelta(seconds=last * self.batch.every_s)
        return f" (next at {self._time(due_at)})"

    def _later_rounds(self, last: int) -> str:
        if not self._goes_on(last):
            return ""
        rounds = self.record.begun + self.batch.rounds - last
        return f" ({self._most(rounds)} after all its rounds)"

    def _goes_on(self, last: int) -> bool:
        """Whether it may begin another round."""
        return self.alive and not self.is_closing and last < self.batch.rounds

    def _time(self, at: datetime) -> str:
        """A time of day, of a dead batch with its date, which may be long ago.

        Of a sandbox it is that of the pretend market, which no clock shows.
        """
        dated = not self.alive or at.date() != self.batch.started_at.date()
        day = f"{at:%Y-%m-%d} " if dated else ""
        return f"{day}{at:%H:%M:%S} UTC{' of simulated time' * self.batch.simulated}"

    def _most(self, rounds: int) -> str:
        """The hard bound of so many rounds."""
        bound_usd = self.record.bound_usd(rounds)
        return "unknown" if bound_usd is None else usd(bound_usd)

    def command(self) -> str:
        """The command that closes it."""
        batch = self.batch
        return sweep_command(
            batch.batch_id, log=self.path, endpoint=batch.endpoint, profile=batch.profile
        )


@dataclass
class Folder:
    """What a folder of logs says.

    ``clean`` are the batches of which nothing is left, ``unbegun`` the logs without a whole line,
    ``faults`` the files that cannot be read, and ``notes`` say which files hold nothing of their
    own.
    """

    unfinished: list[Unfinished] = field(default_factory=list)
    clean: set[str] = field(default_factory=set)
    unbegun: list[Path] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def dead_lines(self) -> list[str]:
        """Return a line for each batch whose writer is dead."""
        return [each.line() for each in self.unfinished if not each.alive]

    def fault_lines(self) -> list[str]:
        """Return a line for each file that cannot be read."""
        return [f"{each.batch_id}: NOT known: {each.words}" for each in self.faults]


def read_folder(folder: str | Path, *, batch_id: str | None = None) -> Folder:
    """Read the logs of a folder, or only that of one batch, oldest first."""
    logs = find_logs(folder, batch_id=batch_id)
    found = Folder(faults=logs.faults, notes=logs.notes)
    for path, batch in list(logs.batches.items()):
        try:
            if batch is not None and ends_clean(path):
                found.clean.add(batch.batch_id)
            elif record := replay(path, polls=False):
                found.unfinished.append(Unfinished(path, is_alive(path), record))
            else:
                found.unbegun.append(path)
        except (ValueError, OSError) as error:
            logs.add_fault(path, error)
    return found


def unfinished(folder: str | Path) -> list[Unfinished]:
    """Return the batches of a folder of logs that are not confirmed clean, oldest first."""
    return read_folder(folder).unfinished


def unreadable(folder: str | Path) -> dict[str, str]:
    """Return why a batch's log cannot be read (another schema, or damaged), by batch."""
    return {each.batch_id: each.words for each in read_folder(folder).faults}


def dead_lines(folder: str | Path) -> list[str]:
    """Return a line for each batch whose writer is dead, and for each file that is not read."""
    found = read_folder(folder)
    return found.dead_lines() + found.fault_lines() + found.notes

"""What a folder of logs says is not finished: batches under way, and dead ones to be closed.

Reads logs and their locks only; what is at EC2 is the business of ``sweep``.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from spotlib.cleanup.close import sweep_command
from spotlib.money import usd
from spotlib.record.events import BatchEvent
from spotlib.record.log import ends_clean, is_alive, log_files
from spotlib.record.replay import RecordedBatch, replay


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
        """The ids of its requests, by region; also the regions without any."""
        ids: dict[str, tuple[str, ...]] = dict.fromkeys(self.regions, ())
        for request in self.record.requests.values():
            ids[request.run.intent.region] += (request.request_id,)
        return ids

    @property
    def alive_instances(self) -> Mapping[str, frozenset[str]]:
        """The instances that were seen and that no clean-up terminated, by region."""
        ended = (each.terminated for each in self.record.releases)
        gone = {None, *itertools.chain.from_iterable(ended)}
        alive: dict[str, frozenset[str]] = {}
        for request in self.record.requests.values():
            region = request.run.intent.region
            seen = {stage.instance_id for stage in request.stages} - gone
            if seen:
                alive[region] = alive.get(region, frozenset()) | {each for each in seen if each}
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
        requests = self.record.requests.values()
        begun = len({number for number, _ in self.record.runs})
        return (
            f"{self.batch_id} ({kind}): {state}; round {begun} of {self.batch.rounds}"
            f"{self._next_round(begun)}, "
            f"{sum(each.outcome is None for each in requests)} of {len(requests)} requests "
            "without an outcome, "
            f"{sum(map(len, self.alive_instances.values()))} instances not yet terminated, "
            f"spent at most {self._most(begun)} of {self._most(self.batch.rounds)}, "
            f"in {', '.join(self.regions) or 'no region yet'}"
        )

    def _next_round(self, begun: int) -> str:
        if not self.alive or begun >= self.batch.rounds:
            return ""
        due_at = self.batch.started_at + timedelta(seconds=begun * self.batch.every_s)
        return f" (next at {due_at:%H:%M:%S} UTC)"

    def _most(self, rounds: int) -> str:
        """The hard bound of so many rounds."""
        bound_usd = self.record.bound_usd(rounds)
        return "unknown" if bound_usd is None else usd(bound_usd)

    def command(self) -> str:
        """The command that closes it."""
        return sweep_command(self.batch_id, self.batch.endpoint)


def unfinished(folder: str | Path) -> list[Unfinished]:
    """Return the batches of a folder of logs that are not confirmed clean, oldest first."""
    return [each for each in read_unfinished(folder) if isinstance(each, Unfinished)]


def unreadable(folder: str | Path) -> dict[str, str]:
    """Return why a batch's log cannot be read (another schema, or damaged), by batch."""
    return dict(each for each in read_unfinished(folder) if isinstance(each, tuple))


def dead_lines(folder: str | Path) -> list[str]:
    """Return a line for each batch whose writer is dead, and for each log that cannot be read."""
    lines = [each.line() for each in unfinished(folder) if not each.alive]
    return lines + [f"{name}: NOT known: {words}" for name, words in unreadable(folder).items()]


def read_unfinished(folder: str | Path) -> Iterator[Unfinished | tuple[str, str]]:
    """Yield each batch that is not confirmed clean, or its name and why its log is unreadable."""
    for path in log_files(folder):
        try:
            if ends_clean(path):
                continue
            record, alive = replay(path, polls=False), is_alive(path)
        except (ValueError, OSError) as error:
            yield path.stem, str(error)
            continue
        if record is not None:
            yield Unfinished(path, alive, record)

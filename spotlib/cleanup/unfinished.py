"""What a folder of logs says is not finished: batches under way, and dead ones to be closed.

Reads logs and their locks only; what EC2 says is ``sweep``'s.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from spotlib.cleanup.close import sweep_command
from spotlib.money import usd
from spotlib.record.log import Event, ends_clean, is_alive, log_files, read_events


@dataclass(frozen=True)
class Unfinished:
    """A batch whose log does not say that nothing is left of it.

    ``alive_instances`` were seen and not yet terminated by us, as far as the log knows.
    """

    batch_id: str
    path: Path
    first: Event
    alive: bool
    regions: tuple[str, ...]
    request_ids: Mapping[str, tuple[str, ...]]  # region -> ids
    alive_instances: Mapping[str, frozenset[str]]  # region -> ids
    ended: int
    rounds_begun: int
    valid_until: datetime | None

    @property
    def requests(self) -> int:
        """How many requests it made, as far as its log knows."""
        return sum(map(len, self.request_ids.values()))

    def line(self) -> str:
        """The batch in a line: is it alive, what is open, what can it cost, when it goes on."""
        kind = "simulated" if self.first["simulated"] else self.first["endpoint"]
        state = "running" if self.alive else f"DEAD, close it with: {self.command()}"
        rounds = self.first["parameters"]["rounds"]
        return (
            f"{self.batch_id} ({kind}): {state}; round {self.rounds_begun} of {rounds}"
            f"{self._next_round()}, "
            f"{self.requests - self.ended} of {self.requests} requests without an outcome, "
            f"{sum(map(len, self.alive_instances.values()))} instances not yet terminated, "
            f"spent at most {self._most(self.rounds_begun)} of {self._most(rounds)}, "
            f"in {', '.join(self.regions) or 'no region yet'}"
        )

    def _next_round(self) -> str:
        parameters = self.first["parameters"]
        if not self.alive or self.rounds_begun >= parameters["rounds"]:
            return ""
        due = timedelta(seconds=self.rounds_begun * parameters["every_s"])
        return f" (next at {datetime.fromisoformat(self.first['started_at']) + due:%H:%M:%S} UTC)"

    def _most(self, rounds: int) -> str:
        """The hard bound of so many rounds."""
        bound_usd = self.first["bound_usd"]
        return "unknown" if bound_usd is None else usd(rounds * bound_usd)

    def command(self) -> str:
        """What closes it."""
        return sweep_command(self.batch_id, self.first["endpoint"])


def unfinished(folder: str | Path) -> list[Unfinished]:
    """The batches of a folder of logs that were not confirmed to be clean, oldest first."""
    return [each for each in read_unfinished(folder) if isinstance(each, Unfinished)]


def unreadable(folder: str | Path) -> dict[str, str]:
    """Batch -> why its log cannot be read: of another version of spotlib, or broken."""
    return dict(each for each in read_unfinished(folder) if isinstance(each, tuple))


def dead_lines(folder: str | Path) -> list[str]:
    """A line for each batch that nobody closes any more, and for each log that tells nothing."""
    lines = [each.line() for each in unfinished(folder) if not each.alive]
    return lines + [f"{name}: NOT known: {words}" for name, words in unreadable(folder).items()]


def read_unfinished(folder: str | Path) -> Iterator[Unfinished | tuple[str, str]]:
    """Each batch that was not confirmed to be clean, or its name and why its log is unreadable."""
    for path in log_files(folder):
        if ends_clean(path):
            continue
        try:
            events, _ = read_events(path, looks=False)
        except (ValueError, OSError) as error:
            yield path.stem, str(error)
            continue
        if events:
            yield _unfinished(path, events)


def _unfinished(path: Path, events: Sequence[Event]) -> Unfinished:
    intents = [event for event in events if event["event"] == "intent"]
    region = {(event["round"], event["plan"]): event["region"] for event in intents}
    ids: dict[str, tuple[str, ...]] = dict.fromkeys(sorted(set(region.values())), ())
    for event in events:
        if event["event"] == "requested":
            ids[region[event["round"], event["plan"]]] += tuple(event["request_ids"])
    ends = [datetime.fromisoformat(event["valid_until"]) for event in intents]
    return Unfinished(
        batch_id=events[0]["batch_id"],
        path=path,
        first=events[0],
        alive=is_alive(path),
        regions=tuple(ids),
        request_ids=ids,
        alive_instances=_alive_instances(events, region),
        ended=sum(event["event"] == "outcome" for event in events),
        rounds_begun=len({number for number, _ in region}),
        valid_until=max(ends, default=None),
    )


def _alive_instances(
    events: Sequence[Event], region: Mapping[tuple[int, int], str]
) -> dict[str, frozenset[str]]:
    ended = (each["terminated"] for each in events if each["event"] == "release")
    gone = set(itertools.chain.from_iterable(ended))
    alive: dict[str, frozenset[str]] = {}
    for each in events:
        if each["event"] == "stage" and each["instance_id"] not in (None, *gone):
            place = region[each["round"], each["plan"]]
            alive[place] = alive.get(place, frozenset()) | {each["instance_id"]}
    return alive

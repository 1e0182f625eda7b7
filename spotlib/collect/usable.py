"""The stage USABLE: when each guest's console is read, and what a read says about its request.

One call reads one console, and EC2 does not publish how many calls it allows.  Therefore only a few
are made at once, none before a guest can be usable, and for each guest less and less often.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from spotlib.model import Stage
from spotlib.stamp import Dated, Stamp, usable_bracket
from spotlib.track import Bracket, Track, add_usable

if TYPE_CHECKING:
    from spotlib.collect.batch import Run

MOST_AT_ONCE = 3
_FIRST_S = 10.0  # from the poll that showed it running to its first read: it boots in that time
_NEXT_S = 5.0  # from the first read to the next
_SLOWER = 1.25  # each pause is so many times the one before
_LONGEST_S = 60.0
_DATES = 200  # per region; they give EC2's time, old ones less precisely


@dataclass
class Consoles:
    """What is known of the reads of a batch, by row, and of EC2's time, by region."""

    due_s: dict[str, float] = field(default_factory=dict)
    pause_s: dict[str, float] = field(default_factory=dict)
    reading: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)  # read after the end: there is no more to learn
    dates: dict[str, deque[Dated]] = field(default_factory=dict)

    def hear(self, region: str, asked_s: float, answered_s: float, date: str | None) -> None:
        """Remember EC2's time at a call; ignore a date that cannot be read."""
        with suppress(TypeError, ValueError):
            told = Dated(asked_s, answered_s, parsedate_to_datetime(date or ""))
            self.dates.setdefault(region, deque(maxlen=_DATES)).append(told)

    def told(self, region: str) -> Sequence[Dated]:
        """The dated calls of a region, which give EC2's time; none if no answer has a date."""
        return self.dates.get(region, ())

    def due(self, runs: Sequence["Run"], now_s: float) -> list[tuple["Run", str]]:
        """Return the rows whose consoles are to be read now, those that waited longest first."""
        unread = [(run, row) for run, row in unstamped(runs) if _runs(run.tracks[row])]
        for _, row in unread:
            self.due_s.setdefault(row, now_s + _FIRST_S)
        ready = [each for each in unread if self.due_s[each[1]] <= now_s]
        ready = [each for each in ready if each[1] not in self.reading]
        ready.sort(key=lambda each: self.due_s[each[1]])
        return ready[: max(MOST_AT_ONCE - len(self.reading), 0)]

    def begin(self, row: str, now_s: float) -> None:
        """Note that a console is being read, and when it is due again."""
        pause_s = self.pause_s.get(row, _NEXT_S)
        self.reading.add(row)
        self.due_s[row] = now_s + pause_s
        self.pause_s[row] = min(pause_s * _SLOWER, _LONGEST_S)


def unstamped(runs: Iterable["Run"]) -> Iterator[tuple["Run", str]]:
    """Yield the rows whose guests should report when they are usable, and have not done so yet."""
    for run in runs:
        if run.plan.is_stamped:
            for row, track in run.tracks.items():
                if row in run.instances and Stage.USABLE not in track.brackets:
                    yield run, row


def _runs(track: Track) -> bool:
    return track.sighting is not None and track.sighting.instance_state == "running"


def stamped(track: Track, stamp: Stamp, window: Bracket, dates: Sequence[Dated]) -> Track:
    """Return the track with the bracket of its guest's stamp; the next poll concludes from it.

    ``window`` is from the request to the answer of the read that showed it.
    """
    launched_at = track.sighting.launched_at if track.sighting is not None else None
    bracket = usable_bracket(
        stamp,
        sent_s=window.after_s,
        read_s=window.by_s,
        launched_at=launched_at,
        dates=dates,
    )
    return add_usable(track, bracket)

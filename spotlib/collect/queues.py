"""The queues of a batch, and the events in memory that no instance of ours explains yet.

Events come late, twice or never, and in no order.  Those of instances that nobody here knows stay
in memory only, because a poll may name the instance a moment later, and are never written down.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from spotlib.collect.cost import CALLS_PER_QUEUE, CALLS_PER_READ
from spotlib.ec2.events import Notice
from spotlib.track import Bracket

_MOST_KEPT = 10_000  # then the oldest are forgotten


@dataclass(frozen=True)
class Heard:
    """An event of a region, and when the read was sent and answered that showed it."""

    region: str
    notice: Notice
    read: Bracket


@dataclass
class Queues:
    """What a batch knows of its queues, by region, and the events that no instance explains yet."""

    urls: dict[str, str] = field(default_factory=dict)  # none without the option
    reading: set[str] = field(default_factory=set)
    receipts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of what is recorded
    kept: deque[Heard] = field(default_factory=lambda: deque(maxlen=_MOST_KEPT))
    reads: int = 0
    failed: bool = False  # whether a read did
    told: set[tuple[str, str, datetime]] = field(default_factory=set)  # what is recorded

    @property
    def calls(self) -> int:
        """How many requests were made to them at most."""
        return CALLS_PER_READ * self.reads + CALLS_PER_QUEUE * len(self.urls)

    def claim(self, known: Collection[str]) -> list[Heard]:
        """Take out the events of known instances: of copies the one that came first, each once."""
        mine = [each for each in self.kept if each.notice.instance_id in known]
        self.kept = deque((e for e in self.kept if e.notice.instance_id not in known), _MOST_KEPT)
        new: list[Heard] = []
        for each in sorted(mine, key=lambda each: each.notice.sent_at):
            event = each.notice
            what = event.instance_id, event.about, event.event_at
            new += [] if what in self.told else [each]
            self.told.add(what)
        return new

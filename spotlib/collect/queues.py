"""The queues of a batch: when each is read, and the events whose instance is not known (yet).

Events come late, twice or never, and in no order.  Events of unknown instances are kept in memory,
because a poll may name the instance a moment later, and are never written to the log.
"""

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from spotlib.collect.cost import CALLS_PER_QUEUE, CALLS_PER_READ, READ_AGAIN_S, READ_EVERY_S
from spotlib.ec2.events import HIDDEN_S, RETENTION_S, Notice, QueueRead
from spotlib.track import Bracket

_MOST_KEPT = 10_000  # then the oldest are forgotten
_NEVER = datetime.max.replace(tzinfo=UTC)
_MOST_DOUBLINGS = 6  # of the second after a read that failed: a minute


@dataclass(frozen=True)
class Heard:
    """An event of a region, and when the read was sent and answered that showed it."""

    region: str
    notice: Notice
    read: Bracket


@dataclass
class Queues:
    """The state of a batch's queues, by region, and the events whose instance is not known yet."""

    urls: dict[str, str] = field(default_factory=dict)  # none without the option
    due_s: dict[str, float] = field(default_factory=dict)  # of those that are not being read
    receipts: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of what is recorded
    kept: deque[Heard] = field(default_factory=deque)
    forgotten: set[tuple[str, str, datetime]] = field(default_factory=set)  # of those not kept
    reads: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)  # of the reads
    errors: dict[str, str] = field(default_factory=dict)  # of the last of these, in their order
    down: Counter[str] = field(default_factory=Counter)  # how many of the last reads were in vain
    hidden_s: dict[str, float] = field(default_factory=dict)  # what a failed one hid comes by then
    undeleted: dict[str, str | None] = field(default_factory=dict)  # why the last one was in vain
    last_s: float = math.inf  # when the last reading began
    last_at: datetime = _NEVER  # the same, on EC2's clock
    unread: set[str] = field(default_factory=set)  # regions that are still to be read to the end
    expired: set[str] = field(default_factory=set)  # those that were not in time
    told: dict[tuple[str, str, datetime], datetime] = field(default_factory=dict)  # when sent

    @property
    def calls(self) -> int:
        """How many requests were made to them at most."""
        return CALLS_PER_READ * self.reads.total() + CALLS_PER_QUEUE * len(self.urls)

    @property
    def reading(self) -> int:
        """How many are being read."""
        return len(self.urls) - len(self.due_s)

    def due(self, now_s: float) -> list[str]:
        """The regions whose queues are due, those first that have waited longest."""
        due = [region for region, due_s in self.due_s.items() if due_s <= now_s]
        return sorted(due, key=lambda region: self.due_s[region])

    def next_s(self, now_s: float) -> float:
        """When the next queue is due that is not yet; infinite if there is none."""
        return min((each for each in self.due_s.values() if each > now_s), default=math.inf)

    def read_to_end(self, now_s: float, now_at: datetime) -> None:
        """Make all due; each is unread until a read that is sent from now on shows its end."""
        self._expire(now_s)
        self.unread, self.last_s, self.last_at = set(self.urls), now_s, now_at
        self.due_s = dict.fromkeys(self.due_s, now_s)

    def add(self, region: str, read: QueueRead, window: Bracket, now_s: float) -> None:
        """Keep what a read showed.

        The next read is due soon if the queue may hold more; while reads fail, pauses grow.
        """
        self._expire(now_s)
        self.reads[region] += 1
        if self.receipts.pop(region, ()):
            self.undeleted[region] = read.undeleted
        self._keep(Heard(region, each, window) for each in read.notices)
        if read.error is not None:
            pause_s = 2.0 ** min(self.down[region], _MOST_DOUBLINGS)
            self.down[region] += 1
            self.failed[region] += 1
            self.errors.pop(region, None)
            self.errors[region] = read.error
            self.hidden_s[region] = window.by_s + HIDDEN_S
        else:
            pause_s = READ_AGAIN_S if read.receipts else READ_EVERY_S
            self.down[region] = 0
            self.receipts[region] = read.receipts
            if self._is_end(region, read, window):
                self.unread.discard(region)
        self.due_s[region] = now_s + pause_s

    def _expire(self, now_s: float) -> None:
        """Note the queues that were not read for so long that their messages have expired."""
        if now_s - self.last_s > RETENTION_S:
            self.expired |= self.unread

    def _keep(self, heard: Iterable[Heard]) -> None:
        self.kept.extend(heard)
        while len(self.kept) > _MOST_KEPT:
            self.forgotten.add(_what(self.kept.popleft().notice))

    def _is_end(self, region: str, read: QueueRead, window: Bracket) -> bool:
        """Whether no message is left that was sent before the last reading began.

        A read that was sent earlier does not show this.  Neither does a read while messages of a
        lost answer may be hidden.  Newer messages may be there, because other instances start all
        the time: a queue shows its oldest messages roughly first.
        """
        since_s = max(self.last_s, self.hidden_s.get(region, -math.inf))
        newer = read.oldest_at is not None and read.oldest_at > self.last_at
        return window.after_s >= since_s and (not read.receipts or newer)

    def lost(self) -> set[str]:
        """The instances of events that were forgotten, and of which no copy is recorded."""
        return {instance for instance, *_ in self.forgotten - self.told.keys()}

    def claim(self, known: Collection[str]) -> list[Heard]:
        """Take out the events of known instances.

        If there are copies of an event, the one that the queue got first counts.  If it is read
        after another copy, both are taken, because its bracket is narrower.
        """
        mine = [each for each in self.kept if each.notice.instance_id in known]
        self.kept = deque(e for e in self.kept if e.notice.instance_id not in known)
        new: list[Heard] = []
        for each in sorted(mine, key=lambda each: each.notice.sent_at):
            event, what = each.notice, _what(each.notice)
            if what not in self.told or event.sent_at < self.told[what]:
                self.told[what] = event.sent_at
                new.append(each)
        return new


def _what(notice: Notice) -> tuple[str, str, datetime]:
    """What an event and its copies have in common."""
    return notice.instance_id, notice.about, notice.event_at

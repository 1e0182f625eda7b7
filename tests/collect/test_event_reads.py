"""When queues are read, by the batch's schedule alone, and what is said at the end.

The batch is small and its clock moves only where it rests or reads.
"""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from spotlib.collect import events as module
from spotlib.collect.cost import READ_EVERY_S
from spotlib.collect.events import (
    make_events,
    read_before,
    read_due,
    read_last_events,
    warn_of_events,
)
from spotlib.collect.queues import Queues
from spotlib.ec2.events import QueueRead
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind

EPOCH = datetime(2024, 9, 1, tzinfo=UTC)
EMPTY = {"receipts": ()}


class Small:
    """A batch that reads its queues and does nothing else."""

    batch_id, began_s, next_poll = "b", 1000.0, 0
    runs, log = (), None

    def __init__(self, *regions, inline=True, next_poll_s=1e9, read=EMPTY, takes_s=0.5):
        self.clock_s, self.next_poll_s, self.takes_s = 1000.0, next_poll_s, takes_s
        self.answer = read if callable(read) else lambda *_: read
        self.asked, self.flying, self.shown = [], [], []
        self.warnings, self.terminated, self.heard = [], {}, []
        self.queues = Queues(
            urls={each: f"url of {each}" for each in regions}, due_s=dict.fromkeys(regions, 0.0)
        )
        clock = SimpleNamespace(inline=inline, now_s=lambda: self.clock_s)
        self.connection = SimpleNamespace(
            clock=clock,
            foreign=False,
            server_utc=lambda: EPOCH + timedelta(seconds=self.now_s()),
            memory=SimpleNamespace(owners={}, named={}),
        )
        self.stopping = SimpleNamespace(by=None, twice=False)
        self.preflight = SimpleNamespace(events=True)
        self.consoles = SimpleNamespace(hear=lambda *heard: self.heard.append(heard))

    def now_s(self):
        return self.clock_s - self.began_s

    def since_s(self, clock_s, *, up=False):
        return clock_s - self.began_s + (1e-6 if up else 0.0)

    def due_s(self, number):
        assert number == self.next_poll
        return self.next_poll_s

    def submit(self, landed, call, *given):
        connection, region, url, receipts = given
        assert (call, connection) == (module.read_queue, self.connection)
        assert url == f"url of {region}"
        self.asked.append((round(self.now_s(), 3), region, receipts))
        asked_s = self.clock_s
        self.clock_s += self.takes_s
        read = QueueRead(
            asked_s, self.clock_s, server_date="a date", **self.answer(region, self.now_s())
        )
        self.flying.append((landed, SimpleNamespace(result=lambda: read)))

    def land(self):
        flying, self.flying = self.flying, []
        for landed, future in flying:
            landed(future)

    def rest(self, until_s):
        assert until_s > self.now_s()
        self.clock_s = self.began_s + until_s

    def show_waiting(self, words, left_s):
        self.shown.append((words, round(left_s, 3)))

    @property
    def read(self):
        return [region for _, region, _ in self.asked]


def at(now_s, batch):
    batch.clock_s = batch.began_s + now_s
    return batch


@pytest.mark.parametrize(
    ("inline", "left_s", "late_s", "read"),
    [
        (True, 0.5, 0.0, True),
        (True, 0.499, 0.0, False),
        (True, 0.499, 1.999, False),
        (True, 0.499, 2.0, True),
        (True, 0.101, 2.0, True),
        (True, 0.1, 2.0, False),
        (True, 0.099, 2.0, False),
        (True, 0.099, 3.999, False),
        (True, 0.099, 4.0, True),
        (True, 10.0, -0.001, False),
        (False, 0.0, 0.0, True),
        (False, 0.0, -0.001, False),
    ],
)
def test_a_read_in_virtual_time_waits_for_a_poll_that_is_due_soon_but_not_for_ever(
    inline, left_s, late_s, read
):
    batch = Small("a", inline=inline, next_poll_s=left_s)
    batch.queues.due_s["a"] = -late_s
    read_due(batch)
    assert batch.read == ["a"] * read


def test_three_queues_are_read_at_once_while_polls_need_the_threads():
    batch = Small(*"abcde")
    read_due(batch)
    assert batch.read == ["a", "b", "c"]
    read_due(batch)
    assert batch.read == ["a", "b", "c"]
    batch.land()
    read_due(batch)
    assert batch.read == ["a", "b", "c", "d", "e"]


def test_while_more_are_read_than_polls_allow_none_is_begun():
    """As after the last reading of a round, which reads more at once."""
    batch = Small(*"abcdefg")
    for each in "abcd":
        del batch.queues.due_s[each]
    read_due(batch)
    assert batch.read == []


def refusing(kind):
    def refuse(_, region, *__, **___):
        raise Refusal("No", "it may not", kind=kind, advice="ask", action="act", region=region)

    return refuse


@pytest.fixture
def beginning(monkeypatch):
    """A batch whose three rounds end an hour after their start, and what makes a queue."""
    batch = at(7.25, Small())
    batch.event_regions, batch.problems = ("a", "b"), []
    batch.schedule = SimpleNamespace(rhythm={"rounds": 3})
    hours = {3: 3600.0}
    batch.preflight.over_by_s = lambda *, rounds: hours[rounds]
    made = []

    def make(caller, region, batch_id, *, expires_at):
        made.append((caller, region, batch_id, expires_at))
        return f"url of {region}"

    monkeypatch.setattr(module, "Patient", lambda connection: connection)
    monkeypatch.setattr(module, "make", make)
    return batch, made


def test_queues_are_made_until_after_the_batch_and_are_first_read_some_seconds_later(beginning):
    batch, made = beginning

    assert make_events(batch) is True

    over_at = EPOCH + timedelta(seconds=3607)  # a tag holds whole seconds
    assert made == [(batch.connection, region, "b", over_at) for region in "ab"]
    assert batch.queues.urls == {"a": "url of a", "b": "url of b"}
    assert batch.queues.due_s == {"a": 7.25 + READ_EVERY_S, "b": 7.25 + READ_EVERY_S}
    assert batch.problems == []


@pytest.mark.parametrize(
    ("events", "foreign", "kind", "words"),
    [
        (
            True,
            False,
            Kind.PERMISSION,
            "EC2's events in a cannot be recorded: act in a: No (it may "
            "not): ask; allow what 'python -m spotlib policy --events' prints, or set events=False",
        ),
        (
            "mine",
            False,
            Kind.PERMISSION,
            "EC2's events from queue 'mine' in a cannot be recorded: "
            "act in a: No (it may not): ask; allow what 'python -m spotlib policy --events mine' "
            "prints, or set events=False",
        ),
        (
            "mine",
            False,
            Kind.UNREACHABLE,
            "EC2's events from queue 'mine' in a cannot be recorded: "
            "act in a: No (it may not): ask; set events=False",
        ),
        (
            True,
            True,
            Kind.UNREACHABLE,
            "EC2's events in a cannot be recorded: act in a: No (it may "
            "not): ask; an endpoint that is not Amazon's may have no SQS and no events: set "
            "events=False",
        ),
    ],
)
def test_why_events_cannot_be_recorded_is_said_with_what_to_do(  # noqa: PLR0917
    beginning, monkeypatch, events, foreign, kind, words
):
    batch, _ = beginning
    batch.preflight.events, batch.connection.foreign = events, foreign
    for name in ("make", "find_queue"):
        monkeypatch.setattr(module, name, refusing(kind))

    assert make_events(batch) is False

    assert batch.problems == [f"{words}; nothing was launched"]
    assert batch.queues.urls == {}


def test_a_read_deletes_what_is_recorded_and_tells_the_time():
    batch = Small("a", read={"receipts": ("r",)})
    for _ in range(2):
        read_due(batch)
        batch.land()
        at(batch.now_s() + 1.0, batch)
    assert [receipts for *_, receipts in batch.asked] == [(), ("r",)]
    assert batch.heard[0] == ("a", 0.0, 0.5 + 1e-6, "a date")
    assert batch.queues.reads == {"a": 2}


def test_before_a_round_the_queues_are_read_for_a_minute():
    batch = Small("a")
    batch.queues.due_s["a"] = 10.0
    for _ in range(100):
        if (until_s := read_before(batch, 900.0)) >= 900.0:
            break
        batch.rest(until_s)
    times_s = [at_s for at_s, *_ in batch.asked]
    assert times_s[:3] == [840.0, 843.5, 847.0]
    assert len(times_s) == 18  # every 3.5 s, the last at 899.5
    assert not batch.queues.unread


def test_nothing_is_waited_for_before_a_round_without_queues():
    batch = Small()
    assert read_before(batch, 900.0) == 900.0
    assert read_before(at(870.0, batch), 900.0) == 900.0
    assert batch.asked == []


def test_at_most_three_queues_are_read_at_once_before_a_round():
    batch = at(850.0, Small(*"abcde"))
    read_before(batch, 900.0)
    assert batch.read == ["a", "b", "c"]


def test_the_last_reading_reads_each_queue_until_nothing_older_is_there():
    """One that has something is read again soon; one that is at its end is not."""

    def shown(region, now_s):
        if region == "a" and now_s < 102.0:
            return {"receipts": ("r",), "oldest_at": EPOCH}
        if region == "c":  # never empty, but what comes is newer than the end
            return {"receipts": ("r",), "oldest_at": EPOCH + timedelta(seconds=now_s)}
        return EMPTY

    batch = at(100.0, Small(*"abc", read=shown, takes_s=0.25))
    batch.queues.due_s["b"] = 500.0
    read_last_events(batch)

    assert batch.queues.unread == set()
    assert batch.read.count("b") == 1
    assert batch.queues.last_s == 100.0
    assert batch.queues.last_at == EPOCH + timedelta(seconds=101)  # EC2's second is cut
    assert batch.asked[-1][0] == pytest.approx(101.9, abs=0.4)
    assert 100.75 < max(at_s for at_s, region, _ in batch.asked if region == "c") < 101.5
    assert batch.shown[0] == ("reading the last of EC2's events", 20.0)


def test_eight_queues_are_read_at_once_at_the_end():
    batch = Small(*"abcdefghij", takes_s=0.0)
    batch.land = lambda: None  # none is answered
    batch.rest = lambda _: at(30.0, batch)
    read_last_events(batch)
    assert batch.read == [*"abcdefgh"]


@pytest.mark.parametrize(("by", "most_s"), [(None, 20.0), ("SIGINT", 5.0)])
def test_the_last_reading_ends_after_some_seconds(by, most_s):
    old = {"receipts": ("r",), "oldest_at": EPOCH}
    batch = at(100.0, Small("a", read=old, takes_s=0.3))
    batch.stopping.by = by
    read_last_events(batch)
    assert batch.queues.unread == {"a"}
    assert batch.now_s() == pytest.approx(100.0 + most_s, abs=0.3)
    assert batch.now_s() >= 100.0 + most_s
    assert batch.shown[0][1] == most_s


def test_after_two_stops_nothing_is_read():
    batch = Small("a")
    batch.stopping = SimpleNamespace(by="SIGINT", twice=True)
    read_last_events(batch)
    assert batch.asked == []
    assert batch.queues.unread == {"a"}


def failing(queues, region, *errors, reads):
    queues.reads[region], queues.failed[region] = reads, len(errors)
    for each in errors:
        queues.errors.pop(region, None)
        queues.errors[region] = each


def test_failed_reads_are_told_of_the_regions_that_were_not_read_to_the_end_only():
    batch = Small(*"abc")
    queues = batch.queues
    failing(queues, "c", "third", reads=9)
    failing(queues, "a", "first", "second", reads=4)
    failing(queues, "b", "healed", reads=3)
    queues.unread = {"c", "a"}
    warn_of_events(batch)
    assert batch.warnings == [
        "EC2's events may be missing: the queue in a and c was not read to its end; 3 of 13 reads "
        "failed, the last of them with second"
    ]


def test_reads_that_failed_are_not_told_where_the_end_was_reached():
    batch = Small("a", "b")
    failing(batch.queues, "a", "healed", reads=2)
    warn_of_events(batch)
    batch.queues.unread = {"b"}
    warn_of_events(batch)
    assert batch.warnings == ["EC2's events may be missing: the queue in b was not read to its end"]


@pytest.mark.parametrize(
    ("owners", "terminated", "words"),
    [
        ({"i-1": "b"}, {}, "1 instance named no request that is recorded"),
        ({"i-1": "a", "i-2": "c"}, {}, None),
        ({"i-1": "b"}, {"i-2": "r"}, "2 instances named no request that is recorded"),
    ],
)
def test_instances_of_the_batch_alone_may_miss_events(owners, terminated, words):
    batch = Small("a")
    batch.connection.memory.owners, batch.terminated = owners, terminated
    warn_of_events(batch)
    assert batch.warnings == ([f"EC2's events may be missing: {words}"] if words else [])


@pytest.mark.parametrize(("mine", "said"), [("my-queue", True), (True, False)])
def test_what_is_left_in_a_queue_is_said_of_the_users_own_only(mine, said):
    batch = Small(*"abc")
    batch.preflight.events = mine
    batch.queues.undeleted = {"b": "why", "a": "because", "c": None}
    warn_of_events(batch)
    words = "what was read from queue 'my-queue' in a and b may still be in it: why"
    assert batch.warnings == [words] * said


def test_nothing_is_said_without_queues():
    batch = Small()
    batch.terminated = {"i-1": "r"}
    warn_of_events(batch)
    assert batch.warnings == []


@pytest.mark.parametrize(
    ("terminated", "told", "said"), [({"i-1": "r"}, False, True), ({}, False, False)]
)
def test_that_no_event_came_is_said_if_there_were_instances(terminated, told, said, monkeypatch):
    batch = Small("a")
    monkeypatch.setattr(module, "_rows", lambda _: dict.fromkeys(terminated))
    batch.terminated = terminated
    batch.queues.told = {("i-1", "running", EPOCH): EPOCH} if told else {}
    warn_of_events(batch)
    assert bool(batch.warnings) is said
    assert not said or batch.warnings[0].startswith("EC2's events: none was recorded of 1 instance")

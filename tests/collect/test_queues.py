"""The queues of a batch: when each is read, when one counts as read to its end, what is kept."""

import math
from datetime import UTC, datetime, timedelta

import pytest

from spotlib.collect import queues as module
from spotlib.collect.queues import Heard, Queues
from spotlib.ec2.events import Notice, QueueRead
from spotlib.track import Bracket

HERE, THERE = "sa-east-1", "ap-northeast-3"
EPOCH = datetime(2024, 9, 1, tzinfo=UTC)


def at(seconds):
    return EPOCH + timedelta(seconds=seconds)


def notice(instance_id="i-1", about="running", *, event_s=0.0, sent_s=1.0):
    return Notice(about, instance_id, at(event_s), at(sent_s))


def heard(instance_id="i-1", about="running", *, event_s=0.0, sent_s=1.0):
    return Heard(HERE, notice(instance_id, about, event_s=event_s, sent_s=sent_s), Bracket(1, 2))


def queues_in(*regions):
    return Queues(urls=dict.fromkeys(regions, "url"), due_s=dict.fromkeys(regions, 0.0))


def shown(*instances, oldest_s=1.0, **given):
    """A read that showed an event of each of these."""
    notices = tuple(notice(each, sent_s=oldest_s) for each in instances)
    oldest_at = at(oldest_s) if instances else None
    return QueueRead(0.0, 1.0, notices, ("receipt",) * len(instances), oldest_at, **given)


def add(queues, read, *, region=HERE, asked_s=100.0, took_s=0.5, now_s=100.5):
    """Take in a read, as a batch does."""
    queues.due_s.pop(region, None)
    queues.add(region, read, Bracket(asked_s, asked_s + took_s), now_s)


EMPTY, FAILED = shown(), QueueRead(0.0, 1.0, error="it failed")


@pytest.mark.parametrize(
    ("read", "asked_s", "ended"),
    [
        pytest.param(EMPTY, 100.0, True, id="nothing is there"),
        pytest.param(EMPTY, 99.9, False, id="nothing was there before the last reading"),
        pytest.param(FAILED, 100.0, False, id="it failed"),
        pytest.param(shown("i-1", oldest_s=7.0), 100.0, False, id="what was sent at the beginning"),
        pytest.param(shown("i-1", oldest_s=7.1), 100.0, True, id="what was sent since"),
        pytest.param(shown("i-1", oldest_s=7.1), 99.9, False, id="what was sent since, by chance"),
        pytest.param(QueueRead(0, 1, (), ("r",), at(9)), 100.0, True, id="no event, sent since"),
        pytest.param(QueueRead(0, 1, (), ("r",), at(5)), 100.0, False, id="no event, but old"),
        pytest.param(QueueRead(0, 1, (), ("r",), None), 100.0, False, id="of no known time"),
    ],
)
def test_a_queue_is_read_to_its_end_where_nothing_older_than_the_last_reading_is_shown(
    read, asked_s, ended
):
    queues = queues_in(HERE, THERE)
    queues.read_to_end(100.0, at(7))
    assert queues.unread == {HERE, THERE}

    add(queues, read, asked_s=asked_s)

    assert queues.unread == ({THERE} if ended else {HERE, THERE})


def test_before_the_last_reading_begins_no_queue_is_called_unread():
    queues = queues_in(HERE)
    add(queues, FAILED)
    assert queues.unread == set()


@pytest.mark.parametrize(("pause_s", "ended"), [(9.9, False), (10.0, True)])
@pytest.mark.parametrize("failed_s", [80.0, 100.0])
def test_an_answer_that_was_lost_may_hide_messages_for_ten_seconds(failed_s, pause_s, ended):
    """Ten seconds after the read was given up they would be shown again."""
    queues = queues_in(HERE, THERE)
    queues.read_to_end(80.0, at(7))
    add(queues, FAILED, asked_s=failed_s)
    add(queues, EMPTY, region=THERE, asked_s=failed_s)  # none of its answers was lost

    add(queues, EMPTY, asked_s=failed_s + 0.5 + pause_s)

    assert queues.unread == (set() if ended else {HERE})


def test_an_answer_that_was_lost_just_before_the_last_reading_counts_too():
    queues = queues_in(HERE)
    add(queues, FAILED, asked_s=99.0)
    queues.read_to_end(100.0, at(7))
    add(queues, EMPTY, asked_s=101.0)
    assert queues.unread == {HERE}
    add(queues, EMPTY, asked_s=109.5)
    assert queues.unread == set()


def test_a_new_last_reading_reads_all_queues_again_at_once_but_those_that_are_being_read():
    queues = queues_in(HERE, THERE)
    queues.read_to_end(50.0, at(5))
    add(queues, EMPTY)
    add(queues, EMPTY, region=THERE)
    assert queues.unread == set()
    del queues.due_s[THERE]
    assert queues.reading == 1

    queues.read_to_end(200.0, at(7))

    assert queues.unread == {HERE, THERE}
    assert queues.due_s == {HERE: 200.0}


def test_a_queue_is_read_again_soon_while_it_has_something_and_ever_later_while_it_fails():
    queues = queues_in(HERE)
    pauses_s = []
    for read in (EMPTY, shown("i-1"), *[FAILED] * 9, EMPTY, FAILED):
        add(queues, read, now_s=1000.0)
        pauses_s.append(round(queues.due_s[HERE] - 1000.0, 6))
    assert pauses_s == [3.0, 0.2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 64.0, 64.0, 3.0, 1.0]


def test_those_that_have_waited_longest_are_read_first():
    queues = Queues(urls=dict.fromkeys("abcd", ""), due_s={"a": 9.0, "b": 5.0, "c": 10.0})
    assert queues.due(9.0) == ["b", "a"]
    assert queues.due(4.9) == []
    assert queues.next_s(4.0) == 5.0
    assert queues.next_s(5.0) == 9.0
    assert queues.next_s(10.0) == math.inf
    assert queues.reading == 1


def test_every_read_counts_as_two_calls_and_every_queue_as_twenty():
    queues = queues_in(HERE, THERE)
    for read in (EMPTY, FAILED, shown("i-1")):
        add(queues, read)
    add(queues, EMPTY, region=THERE)

    assert queues.calls == 4 * 2 + 2 * 20
    assert (queues.reads, queues.failed) == ({HERE: 3, THERE: 1}, {HERE: 1})


def test_the_last_error_is_the_last_one_told():
    queues = queues_in(HERE, THERE)
    for region, error in ((HERE, "one"), (THERE, "two"), (HERE, "three")):
        add(queues, QueueRead(0.0, 1.0, error=error), region=region)
    assert [*queues.errors.items()] == [(THERE, "two"), (HERE, "three")]


def test_what_could_not_be_deleted_is_known_until_something_is():
    """A read that had nothing to delete says nothing of it."""
    queues, denied = queues_in(HERE), "denied"
    add(queues, EMPTY)
    assert queues.undeleted == {}
    add(queues, shown("i-1"))
    assert queues.receipts == {HERE: ("receipt",)}
    add(queues, QueueRead(0.0, 1.0, undeleted=denied, error="failed too"))
    assert queues.undeleted == {HERE: denied}
    assert queues.receipts == {}
    add(queues, shown("i-2"))
    assert queues.undeleted == {HERE: denied}
    add(queues, EMPTY)
    assert queues.undeleted == {HERE: None}


def test_an_event_waits_in_memory_until_its_instance_is_known_and_of_copies_the_first_counts():
    queues = Queues()
    early, late, other = heard(sent_s=1.0), heard(sent_s=9.0), heard("i-2")
    queues.kept.extend([late, other, early])

    assert queues.claim({"i-9"}) == []
    assert queues.claim({"i-1"}) == [early]
    queues.kept.append(late)
    assert queues.claim({"i-1"}) == []
    assert list(queues.kept) == [other]
    assert queues.claim({"i-1", "i-2"}) == [other]


def test_a_copy_that_was_sent_earlier_but_is_read_later_counts_too():
    """Its bracket is narrower, and both are true."""
    queues = Queues()
    for sent_s, found in ((5.0, 1), (2.0, 1), (3.0, 0), (2.0, 0)):
        queues.kept.append(heard(sent_s=sent_s))
        assert len(queues.claim({"i-1"})) == found


@pytest.mark.parametrize(
    "other", [heard("i-2"), heard(about="pending"), heard(event_s=5.0)], ids=["who", "what", "when"]
)
def test_what_differs_from_another_event_is_no_copy_of_it(other):
    queues = Queues()
    queues.kept.extend([heard(), other])
    assert queues.claim({"i-1", "i-2"}) == [heard(), other]


def test_a_flood_of_foreign_events_takes_little_memory_and_of_what_is_forgotten_the_name_is_kept(
    monkeypatch,
):
    """So that it can be said if it was one of ours: none of ours is claimed again."""
    monkeypatch.setattr(module, "_MOST_KEPT", 4)
    queues = queues_in(HERE)
    for number in range(6):
        add(queues, shown(f"i-{2 * number}", f"i-{2 * number + 1}"))
        queues.claim({"i-11"})
    assert [each.notice.instance_id for each in queues.kept] == ["i-8", "i-9", "i-10"]
    assert queues.lost() == {f"i-{number}" for number in range(8)}


def test_ten_thousand_events_are_kept():
    queues = queues_in(HERE)
    for number in range(1001):
        add(queues, shown(*(f"i-{10 * number + each}" for each in range(10))))
    assert len(queues.kept) == 10_000
    assert queues.lost() == {f"i-{number}" for number in range(10)}


def test_what_was_forgotten_is_not_lost_once_a_copy_is_recorded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_KEPT", 1)
    queues = queues_in(HERE)
    add(queues, shown("i-1", "i-2"))
    assert queues.lost() == {"i-1"}
    add(queues, shown("i-1"))
    queues.claim({"i-1"})
    assert queues.lost() == {"i-2"}


@pytest.mark.parametrize(("pause_s", "expired"), [(14 * 86400.0, set()), (14 * 86400.1, {HERE})])
def test_what_is_unread_for_longer_than_a_queue_keeps_it_is_gone(pause_s, expired):
    queues = queues_in(HERE)
    queues.read_to_end(100.0, at(0))
    add(queues, shown(), now_s=100.0 + pause_s)  # its end, as it seems
    assert (queues.unread, queues.expired) == (set(), expired)

    again = queues_in(HERE)
    again.read_to_end(100.0, at(0))
    again.read_to_end(100.0 + pause_s, at(9))
    assert again.expired == expired

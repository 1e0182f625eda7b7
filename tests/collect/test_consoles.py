"""When which guest's console is read: few at once, none before its boot, each ever more seldom."""

from types import SimpleNamespace

import pytest

from spotlib.collect.usable import Consoles, unstamped
from spotlib.model import Stage
from spotlib.track import Bracket, Sighting, Track


def run_of(*rows, stamped=True, seen=True, state="running"):
    """A run with one instance a row, of which the last poll showed this state."""
    sighting = Sighting(instance_id="i-1", instance_state=state)
    return SimpleNamespace(
        plan=SimpleNamespace(is_stamped=stamped),
        tracks={row: Track(row, 0.0, sighting=sighting) for row in rows},
        instances=dict.fromkeys(rows, "i-1") if seen else {},
    )


def rows(found):
    return [row for _, row in found]


def test_a_console_is_first_read_ten_seconds_after_its_instance_was_seen_to_run():
    consoles, run = Consoles(), run_of("a", "b")

    assert rows(consoles.due([run], 100.0)) == []
    assert rows(consoles.due([run], 109.9)) == []
    assert rows(consoles.due([run], 110.0)) == ["a", "b"]


def test_each_pause_is_a_quarter_longer_than_the_one_before_up_to_a_minute():
    consoles, run = Consoles(), run_of("a")
    pauses_s, now_s = [], 100.0
    consoles.due([run], now_s)
    for _ in range(16):
        due_s = consoles.due_s["a"]
        assert rows(consoles.due([run], due_s - 0.01)) == []
        assert rows(consoles.due([run], due_s)) == ["a"]
        pauses_s.append(due_s - now_s)
        now_s = due_s
        consoles.begin("a", now_s)
        assert rows(consoles.due([run], now_s + 1000.0)) == []  # it is being read
        consoles.reading.clear()

    assert pauses_s == pytest.approx([10.0, *(min(5.0 * 1.25**each, 60.0) for each in range(15))])


def test_at_most_three_are_read_at_once_those_first_that_have_waited_longest():
    consoles = Consoles()
    late, early = run_of("c", "d", "e"), run_of("a", "b")
    consoles.due([early], 0.0)
    consoles.due([late], 5.0)

    assert rows(consoles.due([late, early], 15.0)) == ["a", "b", "c"]
    for row in ("a", "b"):
        consoles.begin(row, 15.0)
    assert rows(consoles.due([late, early], 15.0)) == ["c"]
    for row in ("c", "d"):
        consoles.begin(row, 15.0)
    assert rows(consoles.due([late, early], 15.0)) == []


def test_nobody_is_read_who_does_not_run_was_not_seen_has_spoken_or_need_not_speak():
    consoles, spoken = Consoles(), run_of("f")
    spoken.tracks["f"] = Track("f", 0.0, {Stage.USABLE: Bracket(1.0, 2.0)})
    silent = run_of("g")
    silent.tracks["g"] = Track("g", 0.0)  # no poll has shown it
    others = [run_of("a", state="pending"), run_of("b", stamped=False), run_of("c", seen=False)]

    for now_s in (0.0, 1000.0):
        assert consoles.due([*others, spoken, silent], now_s) == []
    assert rows(unstamped([*others, spoken, silent])) == ["a", "g"]


def test_ec2s_time_is_remembered_by_region_and_a_date_that_is_none_is_not():
    consoles = Consoles()
    date = "Thu, 01 Jan 2026 00:00:05 GMT"

    assert list(consoles.told("x")) == []
    for wrong in (None, "", "yesterday"):
        consoles.hear("x", 1.0, 2.0, wrong)
    assert list(consoles.told("x")) == []
    for number in range(250):
        consoles.hear("x", float(number), number + 0.5, date)
    consoles.hear("y", 7.0, 8.0, date)
    first, *_, last = consoles.told("x")
    assert len(consoles.told("x")) == 200
    assert (first.asked_s, last.asked_s, last.answered_s) == (50.0, 249.0, 249.5)
    assert (last.date.second, len(consoles.told("y"))) == (5, 1)

"""One request call: sent again after what passes; timed from the first that may have launched."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from spotlib.ec2.methods.method import Given, launch
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind


class Clock:
    """Moves when somebody sleeps, and a second at each call."""

    def __init__(self):
        self.seconds, self.slept_s = 100.0, []

    def now_s(self):
        return self.seconds

    def utc(self):
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def sleep(self, seconds):
        self.slept_s.append(seconds)
        self.seconds += seconds


@pytest.fixture
def sent():
    """Send a call that fails so often in these ways; return its answer and the clock."""

    def send(*failures):
        clock, waiting = Clock(), list(failures)

        def call(region, action, /, **given):
            clock.seconds += 1.0
            if waiting:
                kind, maybe_done = waiting.pop(0)
                about = {"kind": kind, "advice": "", "action": action, "region": region}
                raise Refusal(f"No{len(waiting)}", "m", maybe_done=maybe_done, **about)
            return {"ResponseMetadata": {"HTTPHeaders": {"date": "today"}}} | given

        method = SimpleNamespace(
            action="run",
            calls=lambda parameters: {"run": parameters},
            prepare=lambda *_: None,
            read=lambda reply, count: Given((f"{reply['a']}-{count}",)),
        )
        there = SimpleNamespace(clock=clock, call=call)
        return launch(there, "x", method, {"a": "i"}, 2), clock

    return send


BUSY, LOST = (Kind.THROTTLED, False), (Kind.UNREACHABLE, True)


def test_an_answer_is_timed_from_its_call_and_has_its_date(sent):
    answer, _ = sent()

    assert (answer.asked_s, answer.answered_s, answer.attempts) == (100.0, 101.0, ())
    assert (answer.given.rows, answer.server_date, answer.refusal) == (("i-2",), "today", None)


def test_a_call_is_sent_five_times_at_most_with_pauses_that_double(sent):
    answer, clock = sent(*[BUSY] * 4)
    assert clock.slept_s == [1.0, 2.0, 4.0, 8.0]
    assert answer.refusal is None
    assert answer.attempts == ("No3", "No2", "No1", "No0")

    answer, clock = sent(*[BUSY] * 5)
    assert clock.slept_s == [1.0, 2.0, 4.0, 8.0]
    assert answer.refusal.code == "No0"
    assert answer.refusal.region == "x"
    assert (len(answer.attempts), answer.server_date) == (5, None)


def test_what_was_certainly_not_executed_is_no_part_of_the_launch(sent):
    answer, _ = sent(BUSY, BUSY)
    assert (answer.asked_s, answer.answered_s) == (100.0 + 2 + 3, 100.0 + 2 + 3 + 1)
    assert answer.asked_at.second == 45  # 105 s after midnight

    answer, _ = sent(BUSY, LOST, LOST, BUSY)
    assert answer.asked_s == 100.0 + 1 + 1
    assert answer.asked_at.second == 42
    assert answer.answered_s == 100.0 + 5 + 15


def test_what_does_not_pass_is_refused_at_once(sent):
    answer, clock = sent((Kind.CAPACITY, False))

    assert clock.slept_s == []
    assert answer.refusal.kind is Kind.CAPACITY
    assert (answer.asked_s, answer.answered_s) == (100.0, 101.0)

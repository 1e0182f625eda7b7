"""What the lines of the log say of a call, a poll and an end: no bracket becomes narrower."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from msgspec import UNSET

from spotlib.collect import recording
from spotlib.collect.batch import Batch, Run, Schedule
from spotlib.collect.cost import PreparedPlan
from spotlib.ec2.console import ConsoleRead
from spotlib.ec2.methods.method import Answer, Given
from spotlib.ec2.poll import Poll
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Outcome, Plan, Stage, Target
from spotlib.stamp import Stamp
from spotlib.track import Bracket, Sighting, Track

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EARLY_S, LATE_S = 101.5000014, 102.5000014  # cut to microseconds: down, and up
NO = Refusal("InsufficientInstanceCapacity", "m", kind=Kind.CAPACITY, advice="a")


@pytest.fixture
def batch():
    """A batch that began at 100 s, with a poll every third of a second from then on."""
    schedule = Schedule(1, 900.0, 1 / 3, 0.25, 7, 30.0, 0.0)
    return Batch(SimpleNamespace(clock=None), None, None, None, None, schedule, began_s=100.0)


def run_of(*tracks, **known):
    plan = Plan(Target("t3.nano", "sa-east-1"), 3)
    prepared = PreparedPlan(plan, "ami-1", "", 2, False, "standard")
    return Run(prepared, 4, 2, tracks={each.request_id: each for each in tracks}, **known)


@pytest.mark.parametrize(
    ("rows", "lacking", "count"),
    [(("a",), NO, 2), (("a", "b", "c"), None, None), (("a",), None, None)],
)
def test_an_answer_is_recorded_with_what_it_lacks(batch, rows, lacking, count):
    given = Given(rows, lacking=lacking)
    answer = Answer(given, EARLY_S, LATE_S, NOW, "date", ("Throttling",))

    event = recording.answer_event(batch, run_of(), answer)

    assert (event.round, event.plan, event.request_ids) == (4, 2, rows)
    assert (event.asked_s, event.answered_s) == (1.500001, 2.500002)
    assert (event.at, event.server_date, event.attempts) == (NOW, "date", ("Throttling",))
    if count is None:
        assert event.lacking is UNSET
    else:
        assert (event.lacking.count, event.lacking.code) == (count, NO.code)


def test_an_answer_that_gave_nothing_is_recorded_as_its_refusal(batch):
    event = recording.answer_event(
        batch, run_of(), Answer(Given((), lacking=NO), 101.0, 102.0, NOW)
    )

    assert (event.code, event.message, event.kind, event.advice) == (NO.code, "m", "capacity", "a")
    uncoded = Refusal("", "m", kind=Kind.CAPACITY, advice="a")
    some = recording.answer_event(
        batch, run_of(), Answer(Given(("a",), lacking=uncoded), 101.0, 102.0, NOW)
    )
    assert (some.lacking.code, some.lacking.count) == (None, 2)


@pytest.mark.parametrize("error", [None, "No: m"])
def test_a_poll_counts_what_it_saw_and_a_missed_one_only_names_it(batch, error):
    shown = {"a": Sighting(status_code="fulfilled", instance_id="i-1"), "b": Sighting()}
    run = run_of(
        *(Track(name, 0.0, sighting=each) for name, each in shown.items()), Track("c", 0.0)
    )
    poll = Poll("x", EARLY_S, LATE_S, NOW, 3, "date", shown, error)

    event = recording.poll_event(batch, [run], poll, round_number=4, number=5)

    assert (event.due_s, event.asked_s, event.answered_s) == (1.916667, 1.500001, 2.500002)
    assert (event.calls, event.server_date, event.error) == (3, "date", error)
    assert event.seen == ({"a": "i-1"} if error else {})
    if error:
        assert event.plans == {2: None}
    else:
        assert event.plans[2].codes == {"": 1, "fulfilled": 1}


@pytest.mark.parametrize("output", ["", "words"])
def test_a_console_that_says_nothing_is_recorded_with_whether_anything_is_posted(batch, output):
    read = ConsoleRead("i-1", EARLY_S, LATE_S, output)

    event = recording.console_event(batch, run_of(), "a", read, last=True)

    assert (event.asked_s, event.answered_s) == (1.500001, 2.500002)
    assert (event.posted, event.last, event.instance_id) == (bool(output), True, "i-1")


def test_a_stage_is_recorded_with_its_guests_stamp_only_if_there_is_one():
    track = Track("a", 0.0, {Stage.USABLE: Bracket(1.0, 2.0)})
    fields = Stamp.__dataclass_fields__
    stamp = Stamp(**dict.fromkeys(fields, 1.0))

    plain = recording.stage_event(run_of(), track, Stage.USABLE, Sighting(instance_id="i-1"))
    stamped = recording.stage_event(run_of(), track, Stage.USABLE, Sighting(), stamp)

    assert (plain.after_s, plain.by_s, plain.instance_id, plain.stamp) == (1.0, 2.0, "i-1", UNSET)
    assert {getattr(stamped.stamp, each) for each in fields} == {1.0}


def test_an_end_is_recorded_with_what_was_shown_last_and_when_it_was_held():
    held = Bracket(3.0, 4.0)
    shown = Sighting("closed", "code", "message", "i-1", "terminated", "reason", "words")
    unseen = Track("a", 7.0, outcome=Outcome.ABANDONED, held=held)
    seen = Track("b", 0.0, outcome=Outcome.HELD, held=held, sighting=shown)

    nothing = recording.outcome_event(run_of(), unseen)
    event = recording.outcome_event(run_of(), seen)

    assert (event.status_code, event.status_message) == ("code", "message")
    assert (event.instance_id, event.instance_state) == ("i-1", "terminated")
    assert (event.instance_reason, event.instance_message) == ("reason", "words")
    assert (event.held_after_s, event.held_by_s) == (3.0, 4.0)
    none = ("status_code", "status_message", "instance_id", "instance_state", "instance_reason")
    assert {getattr(nothing, each) for each in (*none, "instance_message")} == {None}
    assert (nothing.held_after_s, nothing.held_by_s, nothing.watched_s) == (UNSET, UNSET, 7.0)


def test_an_impaired_instance_is_recorded_with_its_checks_if_they_are_known():
    track = Track("a", 0.0, impaired=Bracket(1.0, 2.0))
    checks = {"instance": "impaired"}

    known = recording.impaired_event(run_of(), track, Sighting(checks=checks, instance_id="i-1"))
    unknown = recording.impaired_event(run_of(), track, Sighting())

    assert (known.after_s, known.by_s, known.checks, known.instance_id) == (1.0, 2.0, checks, "i-1")
    assert unknown.checks == {}

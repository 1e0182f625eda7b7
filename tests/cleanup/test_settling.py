"""When a batch is confirmed clean, given up or forgotten, and what a pass of clean-up does.

The surveys are made up and the clock stands still between them, so every second is known by hand:
a pass at 0 s, then pauses of 1, 2, 4, 8 and then always 10 s, so passes at 0, 1, 3, 7, 15, 25, 35.
"""

import itertools
from types import SimpleNamespace

import pytest

from spotlib.cleanup import close
from spotlib.cleanup.close import Cleaned, Released, clean_event, release_event, settle, unseen
from spotlib.ec2.calls import Ended
from spotlib.ec2.resource import Survey

HERE, THERE = "sa-east-1", "eu-west-1"
QUIET = Survey({}, {}, frozenset())
OPEN = Survey({"sir-1": "open"}, {}, frozenset())
ALIVE = Survey({}, {"i-1": "running"}, frozenset())
MISSING = Survey({}, {}, frozenset({"sir-1", "i-1"}))
FAILED = Survey({}, {}, frozenset(), "no answer")


class Clock:
    def __init__(self):
        self.slept_s = []

    def now_s(self):
        return sum(self.slept_s)

    def sleep(self, pause_s):
        self.slept_s.append(pause_s)


@pytest.fixture
def settled(monkeypatch):
    """Settle where the passes find these things, the last of them again and again."""

    def run(*found, foreign=False, regions=(HERE,), **given):
        clock, waiting = Clock(), {each: iter(found) for each in regions}
        last, seen = dict.fromkeys(regions, found[-1] if found else QUIET), []

        def release_all(_connection, left, *, request_ids, **_):
            seen.append((clock.now_s(), left, {name: {*ids} for name, ids in request_ids.items()}))
            found = {each: next(waiting[each], last[each]) for each in sorted(left)}
            found = {k: v[k] if isinstance(v, dict) else v for k, v in found.items()}
            return [Released(each, (), (), some, some.error) for each, some in found.items()]

        monkeypatch.setattr(close, "release_all", release_all)
        connection = SimpleNamespace(clock=clock, foreign=foreign)
        ids = {each: ["sir-1"] for each in regions}
        usual = {"batch_id": "b", "request_ids": ids, "resources": (), "note": lambda _: None}
        cleaned = settle(connection, **usual | given)
        return SimpleNamespace(cleaned=cleaned, at_s=clock.now_s(), seen=seen, clock=clock)

    return run


@pytest.mark.parametrize(
    ("settle_s", "at_s"), [(0.0, 0.0), (0.5, 1.0), (25.0, 25.0), (25.1, 35.0), (30.0, 35.0)]
)
def test_a_batch_is_confirmed_once_all_was_quiet_for_the_settle_time(settled, settle_s, at_s):
    done = settled(QUIET, settle_s=settle_s)

    assert done.cleaned == Cleaned(True, {HERE: []}, {HERE: []}, {})
    assert done.at_s == at_s
    assert done.clock.slept_s == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0][: len(done.clock.slept_s)]


@pytest.mark.parametrize(
    ("found", "at_s"),
    [
        ([OPEN, QUIET], 35.0),  # quiet from 1 s on, so for 25 s at 35 s
        ([ALIVE, ALIVE, QUIET], 35.0),
        ([QUIET, QUIET, OPEN, QUIET], 35.0),  # from 7 s on
        ([QUIET, QUIET, OPEN, OPEN, QUIET], 45.0),  # from 15 s on
        ([QUIET, FAILED, FAILED, QUIET], 25.0),  # a failed survey proves nothing
        ([*[QUIET] * 5, FAILED, QUIET], 35.0),  # nor does it confirm
        ([MISSING, QUIET], 35.0),
    ],
)
def test_what_was_seen_open_begins_the_settle_time_anew_and_a_failed_survey_does_not(
    settled, found, at_s
):
    done = settled(*found, settle_s=25.0)

    assert done.cleaned.confirmed
    assert done.at_s == at_s


def test_it_is_quiet_only_as_long_as_it_was_in_the_region_that_was_last(settled):
    late = [{HERE: OPEN, THERE: QUIET}] * 2
    done = settled(*late, QUIET, regions=(HERE, THERE), settle_s=20.0)

    assert done.at_s == 25.0  # from 3 s on in one, from 0 s on in the other
    assert settled(regions=(), settle_s=20.0).at_s == 0.0, "there is no region to wait for"


@pytest.mark.parametrize(("give_up_s", "at_s"), [(24.0, 25.0), (25.0, 25.0), (25.1, 35.0)])
@pytest.mark.parametrize("foreign", [False, True])
def test_what_is_never_quiet_is_given_up_and_told(settled, give_up_s, at_s, foreign):
    found = Survey({"sir-1": "open"}, {"i-2": "running"}, frozenset({"i-3", "sir-4"}))
    done = settled(found, give_up_s=give_up_s, foreign=foreign)

    assert done.at_s == at_s
    left = {HERE: ["sir-1", "sir-4"]}, {HERE: ["i-2", "i-3"]}
    assert done.cleaned == Cleaned(False, *left, {}, forgotten=False)


def test_an_error_of_the_last_pass_is_told_with_what_was_known_before_it(settled):
    one = Survey({"sir-1": "open"}, {}, frozenset({"sir-9"}))
    error = Survey({}, {"sir-9": "running"}, frozenset(), "no answer")
    done = settled(one, error, give_up_s=25.0)

    assert done.cleaned == Cleaned(False, {HERE: ["sir-1"]}, {HERE: ["sir-9"]}, {HERE: "no answer"})
    assert not settled(one, QUIET, give_up_s=1.0).cleaned.errors


def test_an_endpoint_that_forgot_a_batch_is_given_up_two_minutes_after_the_settle_time(settled):
    """With 25 s to settle, 145 s of an answer that lists nothing; Amazon's never forgets."""
    done = settled(MISSING, settle_s=25.0, foreign=True)

    assert done.at_s == 145.0
    assert (done.cleaned.confirmed, done.cleaned.forgotten) == (False, True)
    assert "for 145 s it has listed neither i-1, sir-1 nor" in done.cleaned.errors[HERE]
    assert settled(MISSING, settle_s=25.0).at_s == close.GIVE_UP_S + 5.0
    late = [*[OPEN] * 6, MISSING]  # from 35 s on
    assert settled(*late, settle_s=25.0, foreign=True).at_s == 185.0
    failing = settled(*[MISSING] * 3, FAILED, settle_s=25.0, foreign=True, give_up_s=300.0)
    assert not failing.cleaned.forgotten
    assert list(failing.cleaned.errors.values()) == ["no answer"]


def test_a_quiet_foreign_endpoint_has_forgotten_nothing(settled):
    done = settled(QUIET, settle_s=150.0, foreign=True)

    assert (done.cleaned.confirmed, done.cleaned.forgotten, done.cleaned.errors) == (
        True,
        False,
        {},
    )


def test_whoever_waits_is_told_how_long_it_will_last_and_may_give_up(settled):
    """Of 25 s: 25 s as long as it is quiet, and a pause more as long as it is not."""
    told = []

    def rest(pause_s, until_quiet_s):
        told.append((pause_s, until_quiet_s))
        return len(told) < 4

    done = settled(OPEN, QUIET, settle_s=25.0, rest=rest)
    # The clock stands still here: 26 s are left after the first pass, then always 25 s.
    assert told == [(1.0, 35.0), (2.0, 34.0), (4.0, 32.0), (8.0, 28.0)]
    assert done.cleaned == Cleaned(False, {HERE: []}, {HERE: []}, {}, forgotten=False)


def test_the_rest_of_the_settle_time_counts_from_when_it_became_quiet(settled, monkeypatch):
    told, clock = [], Clock()
    monkeypatch.setattr(Clock, "now_s", lambda _: sum(clock.slept_s))

    def rest(pause_s, until_quiet_s):
        told.append(until_quiet_s)
        clock.slept_s.append(pause_s)
        return True

    assert settled(QUIET, settle_s=25.0, rest=rest).cleaned.confirmed
    assert told == [25.0, 24.0, 22.0, 18.0, 10.0]


@pytest.mark.parametrize(
    ("settle_s", "passes", "lasts_s"),
    [
        (0.0, 0, 0.0),
        (0.5, 0, 1.0),
        (1.0, 0, 1.0),
        (25.0, 0, 25.0),
        (25.5, 0, 35.0),
        (9.0, 3, 18.0),
        (10.0, 4, 10.0),
        (11.0, 9, 20.0),
    ],
)
def test_how_long_it_takes_to_confirm_follows_from_the_pauses(settle_s, passes, lasts_s):
    assert close.until_quiet_s(settle_s, passes) == lasts_s
    if not passes:
        assert close.until_quiet_s(settle_s) == lasts_s


def test_what_is_seen_to_be_over_is_not_asked_for_again_and_each_pass_is_noted(settled):
    over = Survey({}, {}, frozenset(), None, frozenset({"sir-1"}))
    notes = []
    done = settled(over, QUIET, settle_s=3.0, note=notes.append)

    assert [ids for *_, ids in done.seen] == [{HERE: {"sir-1"}}, {HERE: set()}, {HERE: set()}]
    assert [(each.region, each.over) for each in notes] == [(HERE, ("sir-1",))]


def test_at_first_all_that_is_known_may_be_left():
    """A row may be an instance itself."""
    left = unseen(["sir-2", "i-3", "sir-1"], ["i-1"])

    assert (left.open_requests, left.live_instances) == (["sir-1", "sir-2"], ["i-1", "i-3"])
    assert left.missing == frozenset()


# One pass.


@pytest.fixture
def passed(monkeypatch):
    """Release where the surveys show these, one after the other; everything can be ended."""

    def run(*surveys, foreign=False, fail=(), **given):
        done, waiting = [], iter(surveys)

        def survey(*_, **__):
            done.append("look")
            return next(waiting)

        def end_things(_connection, _region, ids):
            done.extend(ids)
            errors = tuple(f"not {each}" for each in ids if each in fail)
            return Ended(tuple(each for each in ids if each not in fail), errors)

        monkeypatch.setattr(close, "survey", survey)
        monkeypatch.setattr(close, "end_things", end_things)
        return close.release(SimpleNamespace(foreign=foreign), HERE, **given), done

    return run


KNOWN = {"open_ids": ["sir-1"], "live_ids": ["i-1"]}
MORE = [Survey({f"sir-{n}": "open"}, {f"i-{n}": "running"}, frozenset()) for n in range(2, 6)]


def test_what_is_known_is_ended_first_and_then_what_a_survey_shows(passed):
    found, done = passed(ALIVE, **KNOWN)

    assert done == ["sir-1", "i-1", "look"], "what was ended is not ended again, and one look is it"
    assert (found.cancelled, found.terminated, found.error) == (("sir-1",), ("i-1",), None)
    assert found.found is ALIVE


def test_after_a_request_that_only_the_survey_showed_there_is_one_more_look(passed):
    found, done = passed(*MORE, **KNOWN)

    assert done == ["sir-1", "i-1", "look", "sir-2", "i-2", "look", "sir-3", "i-3"]
    assert found.cancelled == ("sir-1", "sir-2", "sir-3")
    assert found.terminated == ("i-1", "i-2", "i-3")
    assert found.found is MORE[1]


def test_where_a_request_may_be_forgotten_its_instance_is_ended_before_it_is_cancelled(passed):
    found, done = passed(*MORE, foreign=True, **KNOWN)
    assert done[:4] == ["look", "i-1", "i-2", "sir-1"]
    assert found.found is MORE[2]

    failed = Survey({"sir-2": "open"}, {"i-2": "running"}, frozenset(), "no answer")
    found, done = passed(failed, foreign=True, **KNOWN)
    assert done == ["look", "i-1", "i-2"], "nothing is cancelled until it is known"
    assert (found.cancelled, found.terminated, found.error) == ((), ("i-1", "i-2"), "no answer")


def test_each_error_of_a_pass_is_told_once(passed):
    failed = Survey({"sir-2": "open"}, {}, frozenset(), "no answer")
    found, _ = passed(failed, failed, fail=["sir-1", "sir-2"], **KNOWN)

    assert found.error == "not sir-1; no answer; not sir-2"
    assert found.cancelled == ()


# What is made of it.


@pytest.mark.parametrize(
    ("cancelled", "terminated", "error", "over"),
    list(itertools.product([(), ("sir-1",)], [(), ("i-1",)], [None, "x"], [(), "o"])),
)
def test_a_pass_is_recorded_if_it_did_or_saw_anything(cancelled, terminated, error, over):
    found = Survey({}, {}, frozenset(), None, frozenset(over))
    released = Released(HERE, cancelled, terminated, found, error)

    assert released.did_something is any([cancelled, terminated, error, over])
    event = release_event(released, round_number=3, plan=4)
    assert (event.region, event.round, event.plan, event.error) == (HERE, 3, 4, error)
    assert (event.cancelled, event.terminated, event.over) == (cancelled, terminated, (*over,))


def test_two_ends_in_one_are_confirmed_if_both_are():
    no = Cleaned(False, {HERE: ["sir-1"]}, {HERE: ["i-1"]}, {HERE: "mine"}, forgotten=True)
    yes = Cleaned(True, {HERE: ["sir-2"], THERE: []}, {}, {HERE: "other", THERE: "there"})

    both = no.joined(yes)
    assert both.open_requests == {HERE: ["sir-1", "sir-2"], THERE: []}
    assert both.live_instances == {HERE: ["i-1"]}
    assert both.errors == {HERE: "mine", THERE: "there"}
    assert both.forgotten
    assert not yes.joined(no).forgotten
    confirmed = [a.joined(b).confirmed for a, b in itertools.product([yes, no], repeat=2)]
    assert confirmed == [True, False, False, False]
    event = clean_event(both, spent_at_most_usd=1.5)
    assert (event.confirmed, event.spent_at_most_usd) == (False, 1.5)
    assert event.open_requests == {HERE: ("sir-1", "sir-2"), THERE: ()}
    assert event.live_instances == {HERE: ("i-1",)}


def test_the_commands_by_hand_name_each_thing_in_its_region_and_nothing_else():
    left = Cleaned(False, {HERE: ["sir-1"], THERE: []}, {HERE: [], THERE: ["i-1"]})
    told = left.commands(" --profile p")

    for words, region in (("sir-1", HERE), ("i-1", THERE)):
        mine = [each for each in told if words in each.split()]
        assert mine
        assert all(f"--region {region} --profile p" in each for each in mine)
    assert not [each for each in told if HERE in each and " i-1" in each]
    assert Cleaned(True, {HERE: []}, {HERE: []}).commands() == []

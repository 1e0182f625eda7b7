"""The end of a batch, step by step: what is read, written and left to the guard, and when."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from spotlib.cleanup.close import Cleaned, Released
from spotlib.collect import ending
from spotlib.collect.batch import Batch, Run, Schedule
from spotlib.collect.cost import PreparedPlan
from spotlib.ec2.events import EVENTS, name_of
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.resource import Survey
from spotlib.model import Outcome, Plan, Target
from spotlib.record.log import LogError
from spotlib.track import Track

HERE = "sa-east-1"
DIRTY, CLEAN = Cleaned(confirmed=False), Cleaned(confirmed=True)


class Clock:
    """A nap takes a second at most and a little longer than it should, as a machine's may."""

    inline = False

    def __init__(self):
        self.seconds, self.naps = 110.0, 0

    def now_s(self):
        return self.seconds

    def nap(self, seconds, _):
        self.naps += 1
        assert self.naps < 50
        self.seconds += min(seconds, 1.0) + 0.001


class Log:
    """Keeps what is appended; in its place it is only if so."""

    batch_id, in_place = "b", True

    def __init__(self):
        self.events = []

    def append(self, event):
        self.events.append(event)

    def require_in_place(self):
        if not self.in_place:
            raise LogError("somebody moved it")


@pytest.fixture
def batch(tmp_path):
    """Ten seconds after its begin, with one run by RunInstances, of which one instance is seen."""
    log = Log()
    log.path = tmp_path / "b.jsonl"
    plan = Plan(Target("t3.nano", HERE), 2, method="run_instances")
    prepared = PreparedPlan(plan, "ami-1", "", 2, False, "standard", on_demand_usd=1.0)
    preflight = SimpleNamespace(prepared=[prepared], events=False)
    tracks = {each: Track(each, 0.0) for each in ("i-1", "i-2")}
    found = Batch(
        SimpleNamespace(clock=Clock()),
        log,
        None,
        SimpleNamespace(by=None),
        preflight,
        Schedule(1, 900.0, 3.0, 1.25, 7, 30.0, 0.0),
        began_s=100.0,
    )
    found.runs = [Run(prepared, 0, 0, given=(*tracks,), tracks=tracks, instances={"i-1": "i-1"})]
    found.said = []
    found.on_wait = found.said.append
    return found


# The rest between two passes.


def test_between_two_passes_it_counts_down_to_the_end_of_the_rest(batch):
    assert ending._rest(batch, "w", 3.0, 20.0, last=True) is True

    assert batch.now_s() == pytest.approx(13.0, abs=0.01)
    assert {each.words for each in batch.said} == {"w"}
    assert [each.left_s for each in batch.said] == pytest.approx([20.0, 19.0, 18.0], abs=0.01)
    assert batch.connection.clock.naps == 3


def test_a_rest_of_no_time_is_over_at_once(batch):
    assert ending._rest(batch, "w", 0.0, 20.0, last=True) is True
    assert (batch.said, batch.connection.clock.naps) == ([], 0)


@pytest.mark.parametrize(
    ("by", "last", "rests"),
    [(None, False, True), (None, True, True), ("SIGINT", True, True), ("SIGINT", False, False)],
)
def test_a_stop_ends_the_rest_of_all_but_the_last_clean_up(batch, by, last, rests):
    batch.stopping.by = by

    assert ending._rest(batch, "w", 1.0, 20.0, last=last) is rests
    assert len(batch.said) == rests


# What has ended.


@pytest.fixture
def steps(monkeypatch, batch):
    """Settle the batch, which ends so; return what was done."""
    done = SimpleNamespace(settled=[], read=[], cleaned=CLEAN)

    def settle(connection, **given):
        assert connection is batch.connection
        done.settled.append(given)
        return done.cleaned

    monkeypatch.setattr(ending, "settle", settle)
    for name in ("read_last_consoles", "read_last_events", "warn_of_events"):
        monkeypatch.setattr(ending, name, lambda _, name=name: done.read.append(name))
    return done


@pytest.mark.parametrize(
    ("cleaned", "last", "read", "ends"),
    [
        (CLEAN, False, ["read_last_consoles", "read_last_events"], False),
        (DIRTY, False, [], False),
        (CLEAN, True, ["read_last_consoles", "read_last_events", "warn_of_events"], True),
        (DIRTY, True, ["read_last_events", "warn_of_events"], True),
    ],
)
def test_what_is_read_at_the_end_of_a_part_and_at_the_last(  # noqa: PLR0917 - a table
    batch, steps, cleaned, last, read, ends
):
    steps.cleaned = cleaned

    assert ending.settle_batch(batch, last=last) == cleaned

    assert steps.read == read
    assert [each.confirmed for each in batch.log.events] == [cleaned.confirmed] * ends
    assert batch.cleared == ({"i-1", "i-2"} if cleaned.confirmed else set())
    assert batch.runs[0].gone_s == (10.0 if cleaned.confirmed else float("inf"))
    [given] = steps.settled
    assert given["request_ids"] == {HERE: {"i-1", "i-2"}}
    assert given["alive"] == {HERE: {"i-1"}}
    assert (given["settle_s"], given["batch_id"]) == (30.0, "b")
    assert given["resources"] == (INSTANCES,)
    assert "last" not in given
    batch.stopping.by = "SIGINT"
    assert given["rest"](1.0, 5.0) is last  # a stop ends the rest of all but the last
    assert ending.settle_batch.__kwdefaults__ == {"last": False}


@pytest.mark.usefixtures("steps")
def test_what_was_gone_before_stays_gone_since_then(batch):
    batch.runs[0].gone_s = 4.0
    ending.settle_batch(batch)
    assert batch.runs[0].gone_s == 4.0


def test_what_is_cleared_already_is_asked_for_no_more(batch, steps):
    batch.cleared |= {"i-1"}

    ending.settle_batch(batch, "w")

    assert steps.settled[0]["request_ids"] == {HERE: {"i-2"}}
    assert steps.settled[0]["alive"] == {HERE: set()}
    steps.settled[0]["rest"](0.5, 5.0)
    assert batch.said[0].words == "w"
    ending.settle_batch(batch)
    steps.settled[1]["rest"](0.5, 5.0)
    assert batch.said[-1].words.startswith("stopping: cancelling ")


@pytest.mark.usefixtures("steps")
def test_a_log_that_lacks_something_gets_no_last_line_so_that_a_sweep_completes_it(batch):
    batch.unwritten = True

    ending.settle_batch(batch, last=True)

    assert batch.log.events == []


@pytest.mark.parametrize(("error", "unwritten"), [(KeyError("a"), False), (LogError("b"), True)])
def test_what_cannot_be_learnt_at_the_end_is_said_and_ends_nothing(batch, error, unwritten):
    def read(_):
        raise error

    ending._learn(batch, "consoles", read)

    said = [f"the consoles of what has ended were not read: {error!r}"]
    assert batch.warnings == ([] if unwritten else said)
    assert batch.problems == (["b"] if unwritten else [])
    assert batch.unwritten is unwritten


@pytest.mark.parametrize(("events", "ends"), [(True, True), (False, False), ("mine", False)])
def test_only_a_queue_that_the_batch_made_is_deleted_with_it(batch, steps, events, ends):
    batch.preflight.events = events
    left = Cleaned(confirmed=True, errors={"y": "e"})

    found = ending._end_events(batch, left)

    assert found == (left.joined(CLEAN) if ends else left)
    assert len(steps.settled) == ends
    for given in steps.settled:
        assert given["resources"] == (EVENTS,)
        assert given["request_ids"] == {HERE: [name_of("b")]}
        assert (given["settle_s"], given["batch_id"]) == (0.0, "b")
        assert 60.0 < given["give_up_s"] < 600.0  # a queue is listed for up to a minute
        batch.stopping.by = "SIGINT"
        assert given["rest"](0.5, 5.0) is True
        assert batch.said[-1].words == "waiting until the queue of EC2's events is gone"


# What is ended first, and recorded.


@pytest.fixture
def released(monkeypatch):
    """What is asked to be released."""
    asked = []

    def release_all(_, left, **given):
        asked.append((left, given))
        return [Released(HERE, ("sir-1",), ("i-1",), Survey({}, {}, frozenset()))]

    monkeypatch.setattr(ending, "release_all", release_all)
    return asked


def test_what_may_cost_money_is_released_at_once_and_written_down(batch, released):
    ending._release_all(batch)

    [(left, given)] = released
    assert set(left) == {HERE}
    assert set(left[HERE].live_instances) == {"i-1", "i-2"}
    assert given["request_ids"] == {HERE: {"i-1", "i-2"}}
    assert [each.terminated for each in batch.log.events] == [("i-1",)]
    assert batch.taken == {"sir-1", "i-1"}


def test_where_every_run_has_ended_nothing_is_left_to_release(batch, released):
    batch.runs[0].ended = True
    batch.runs.append(Run(batch.runs[0].prepared, 0, 1, ended=True))
    ending._release_all(batch)
    assert released == []
    batch.runs[1].ended = False
    ending._release_all(batch)
    assert len(released) == 1


def test_calls_in_flight_are_taken_in_and_every_request_gets_its_outcome(batch, monkeypatch):
    ended, landed, done = [], [], Future()
    monkeypatch.setattr(ending, "end", lambda _, run, outcome: ended.append((run, outcome)))
    monkeypatch.setattr(ending, "_LAST_CALLS_S", 0.01)
    done.set_result(1)
    batch.flying = {done: landed.append, Future(): landed.append}
    batch.runs.append(Run(batch.runs[0].prepared, 0, 1, ended=True))

    ending._record_the_end(batch)

    assert landed == [done]
    assert len(batch.flying) == 1
    assert ended == [(batch.runs[0], Outcome.ABANDONED)]
    assert not batch.unwritten


def test_a_call_that_is_answered_soon_is_waited_for(batch, monkeypatch):
    late, landed = Future(), []
    monkeypatch.setattr(ending, "end", lambda *_: None)
    batch.flying = {late: landed.append}
    threading.Timer(0.02, late.set_result, [1]).start()

    ending._record_the_end(batch)

    assert landed == [late]


def test_a_log_that_somebody_moved_is_noticed_before_the_end_is_proved(batch, monkeypatch):
    monkeypatch.setattr(ending, "end", lambda *_: None)
    batch.log.in_place = False

    ending._record_the_end(batch)

    assert batch.problems == ["somebody moved it"]
    assert batch.unwritten


# All of it.


@pytest.fixture
def finished(monkeypatch, batch):
    """Finish the batch, of which a step fails or the log lacks something."""

    def finish(*, cleaned=CLEAN, unwritten=False, failing=None, guarded=True):
        done = []
        batch.unwritten = unwritten

        def step(name, result=None):
            def act(*given, **named):
                done.append(name)
                if name == "settle":
                    assert named == {"last": True}
                    assert given[1].startswith("stopping: ") or failing
                if name == failing:
                    raise ZeroDivisionError
                return result

            return act

        monkeypatch.setattr(ending, "_release_all", step("release"))
        monkeypatch.setattr(ending, "_record_the_end", step("record"))
        monkeypatch.setattr(ending, "settle_batch", step("settle", cleaned))
        guard = SimpleNamespace(dismiss=step("dismiss"), leave_to_it=step("leave"))
        try:
            assert ending.finish(batch, guard if guarded else None) == cleaned
        except ZeroDivisionError:
            done.append("raised")
        return done

    return finish


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, ["release", "record", "settle", "dismiss"]),
        ({"guarded": False}, ["release", "record", "settle"]),
        ({"cleaned": DIRTY}, ["release", "record", "settle", "leave"]),
        ({"unwritten": True}, ["release", "record", "settle", "leave"]),
        ({"cleaned": DIRTY, "unwritten": True}, ["release", "record", "settle", "leave"]),
        ({"failing": "release"}, ["release", "settle", "dismiss", "raised"]),
        ({"failing": "record"}, ["release", "record", "settle", "dismiss", "raised"]),
        ({"failing": "settle"}, ["release", "record", "settle", "leave", "raised"]),
    ],
)
def test_each_step_of_the_end_is_done_whatever_fails_and_the_guard_learns_how_it_went(
    finished, batch, given, steps
):
    assert finished(**given) == steps
    assert [(each.words[:9], each.left_s) for each in batch.said] == [("stopping:", 35.0)]

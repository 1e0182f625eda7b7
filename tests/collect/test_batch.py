"""The state of a batch, call by call: its seconds, the schedule of its polls, what it says."""

import math
import os
import threading
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from spotlib.cleanup.close import Cleaned
from spotlib.collect.batch import Batch, Run, Waiting
from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.schedule import Schedule
from spotlib.collect.summary import BatchError, batch_usd, summary_of
from spotlib.ec2.methods.registry import left_by
from spotlib.model import Outcome, Plan, Target
from spotlib.record.events import ReleaseEvent
from spotlib.record.log import LogError
from spotlib.track import Sighting, Track

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
PER_HOUR_USD = 0.005 + 8 * 0.08 / 730  # address and disk


class StillClock:
    """A clock that stands where it is set, and notes how long it was to nap."""

    inline = False

    def __init__(self, now_s):
        self.seconds, self.naps = now_s, []

    def now_s(self):
        return self.seconds

    def nap(self, seconds, most_real_s):
        self.naps.append((seconds, most_real_s))


class Log:
    """Keeps what is appended; after ``full`` it takes nothing more."""

    batch_id, full = "b", False

    def __init__(self):
        self.events = []

    def append(self, event):
        if self.full:
            raise LogError("the disk is full")
        self.events.append(event)


@pytest.fixture
def batch(tmp_path):
    """Ten seconds after its begin, with polls every 3 s from 1.25 s on."""
    log = Log()
    log.path = tmp_path / "b.jsonl"
    connection = SimpleNamespace(
        clock=StillClock(110.0), simulated=True, endpoint="sandbox", profile=None, url=None
    )
    schedule = Schedule(3, 900.0, 3.0, 1.25, 7, 30.0, 0.0)
    return Batch(connection, log, None, SimpleNamespace(by=None), None, schedule, began_s=100.0)


def run_of(*tracks, number=0, index=0, count=2, timeout_s=60.0, region="sa-east-1", **state):
    plan = Plan(Target("t3.nano", region), count, timeout_s=timeout_s)
    prepared = PreparedPlan(plan, "ami-1", "", 2, False, "standard", on_demand_usd=0.036)
    run = Run(prepared, number, index, tracks={each.request_id: each for each in tracks}, **state)
    if run.sent_s is not None and run.asked_s is None:
        run.asked_s = run.sent_s
    return run


def test_its_seconds_are_cut_to_microseconds_so_that_no_bracket_becomes_narrower(batch):
    assert batch.now_s() == 10.0
    assert batch.since_s(107.5000014) == 7.500001
    assert batch.since_s(107.5000014, up=True) == 7.500002
    assert batch.since_s(107.5) == batch.since_s(107.5, up=True) == 7.5


def test_polls_are_due_at_the_phase_and_then_at_even_steps(batch):
    assert [batch.due_s(number) for number in range(3)] == [1.25, 4.25, 7.25]
    assert batch.polls_due() == pytest.approx((10.0 - 1.25) / 3)
    batch.shift_s = 0.5
    assert batch.due_s(2) == 7.75
    assert batch.polls_due() == pytest.approx((10.0 - 1.75) / 3)


@pytest.mark.parametrize(
    ("now_s", "due_s"),
    [
        (105.0, 5.1),  # the next would be due at 7.25
        (107.2, 7.25),  # it is due soon enough
        (109.0, 9.0),  # it was due
    ],
)
def test_a_poll_soon_is_due_within_a_tenth_of_a_second_or_just_now(batch, now_s, due_s):
    batch.next_poll, batch.connection.clock.seconds = 2, now_s

    batch.poll_soon()

    assert batch.due_s(2) == pytest.approx(due_s, abs=2e-6)
    assert batch.due_s(2) <= now_s - 100.0 + 0.1
    assert batch.due_s(3) - batch.due_s(2) == pytest.approx(3.0)


def test_it_naps_until_something_is_due_or_a_stop_may_have_come(batch):
    for until_s in (17.0, 10.0, 3.0):
        batch.nap(until_s)
    batch.rest(12.0)

    assert batch.connection.clock.naps == [(7.0, 0.1), (1e-6, 0.1), (1e-6, 0.1), (2.0, 0.1)]


def test_with_a_call_in_flight_it_rests_until_that_is_answered(batch):
    done, landed = Future(), []
    batch.flying = {done: landed.append, Future(): landed.append}
    threading.Timer(0.01, done.set_result, [1]).start()

    batch.rest(1e9)
    batch.land()

    assert batch.connection.clock.naps == []
    assert landed == [done]
    assert len(batch.flying) == 1


def test_in_virtual_time_nothing_is_in_flight_and_time_is_moved(batch):
    batch.connection.clock.inline = True
    batch.flying[Future()] = print

    batch.rest(12.0)

    assert batch.connection.clock.naps == [(2.0, 0.1)]


def ready(name="sir-1", **more):
    return Track(name, 0.0, outcome=Outcome.READY, **more)


def test_progress_is_that_of_the_latest_round_that_was_sent(batch):
    batch.runs = [
        run_of(ready("a"), sent_s=1.0, number=0),
        run_of(ready("b"), Track("c", 0.0), sent_s=6.5, number=1, timeout_s=50.0),
        run_of(ready("d"), sent_s=7.0, number=1, timeout_s=80.0),
        run_of(number=1),
        run_of(number=2),
    ]
    shown = batch.progress()

    assert (shown.round, shown.rounds, shown.elapsed_s, shown.timeout_s) == (1, 3, 3.5, 80.0)
    assert (shown.ready, shown.requests, shown.goal) == (2, 3, Outcome.READY)
    batch.runs = [run_of(ready(), sent_s=0.0, number=each) for each in (0, 0, 1)]
    shown = batch.progress()
    assert (shown.round, shown.requests, shown.elapsed_s) == (1, 1, 10.0)


def test_what_is_waited_for_is_said_with_whole_seconds_that_are_never_below_none():
    assert str(Waiting("a", 2.01)) == "a, about 3 s"
    assert str(Waiting("a", 3.0)) == "a, about 3 s"
    assert str(Waiting("a", -2.5)) == "a, about 0 s"


def test_a_stop_says_what_it_ends_and_leaves_out_what_is_over_or_taken(batch):
    open_ = [Track(f"sir-{name}", 0.0) for name in "abc"]
    seen = Track("sir-d", 0.0, sighting=Sighting(request_state="closed", status_code="x"))
    instances = {"sir-a": "i-1", "sir-b": "i-2", "sir-d": "i-3"}
    batch.runs = [run_of(*open_, seen, sent_s=1.0, instances=instances)]
    assert batch.stop_words() == (
        "stopping: cancelling 3 requests, terminating 3 instances, about 35 s"
    )
    batch.taken |= {"sir-a", "i-1"}
    batch.cleared |= {"sir-b"}
    assert batch.closing_words() == "stopping: cancelling 1 request, terminating 1 instance"
    batch.runs += [run_of(asked_s=2.0), run_of(asked_s=2.0, refused=True), run_of(), run_of()]
    assert batch.closing_words().endswith("1 instance, waiting for the answers to 1 call")
    for run in batch.runs:
        run.ended = True
    assert batch.closing_words() == "making sure that nothing is left"
    batch.stopping.by = "SIGINT"
    assert batch.closing_words().startswith("stopping: ")


def test_a_run_has_a_word_for_what_became_of_it_and_a_deadline_once_it_was_sent():
    assert run_of().fate == "not sent"
    assert run_of(asked_s=0.0).fate == "not answered"
    assert run_of(asked_s=0.0, refused=True).fate == "refused"
    assert [run_of(**each).answered for each in ({}, {"refused": True}, {"sent_s": 0.0})] == [
        *(False, True, True)
    ]
    assert run_of().deadline_s == math.inf
    assert run_of(sent_s=0.0).deadline_s == 60.0
    assert run_of(sent_s=5.0).deadline_s == 65.0
    watched = [run_of(), run_of(sent_s=0.0), run_of(sent_s=0.0, ended=True)]
    assert [each.watched for each in watched] == [False, True, False]
    one = run_of(ready("a"), Track("b", 0.0), sent_s=1.0)
    assert one.pending == ["b"]


def test_what_clean_up_took_and_found_over_is_remembered_also_if_it_cannot_be_written(batch):
    event = ReleaseEvent(
        round=None,
        plan=None,
        region="x",
        cancelled=("sir-1",),
        terminated=("i-1",),
        error=None,
        over=("i-2",),
    )
    batch.note(event)
    batch.log.full = True
    batch.note(event)

    assert [each.at_s for each in batch.log.events] == [10.0]
    assert (batch.taken, batch.cleared) == ({"sir-1", "i-1"}, {"i-2"})
    assert batch.terminated == {"i-1": "x"}
    assert batch.unwritten
    assert batch.problems == ["the disk is full"]


def test_what_a_batch_cost_at_most_is_each_instance_on_demand_until_it_was_gone(batch):
    """And one that only clean-up saw, as one of the dearest of its region; a minute at least."""
    batch.connection.clock.seconds = 100.0 + 7200.0
    hour_usd = 0.036 + PER_HOUR_USD
    gone = run_of(sent_s=0.0, instances={"a": "i-1", "b": "i-2"}, gone_s=3600.0)
    still = run_of(sent_s=3600.0 - 1800.0, instances={"c": "i-3"}, region="eu-west-1")
    dear = replace(still.prepared, on_demand_usd=1.0)
    batch.runs = [gone, still, run_of()]

    assert batch_usd(batch) == pytest.approx(hour_usd * (2 + 1.5))
    batch.terminated = {"i-1": "sa-east-1", "i-9": "sa-east-1", "i-8": "eu-west-1"}
    assert batch_usd(batch) == pytest.approx(hour_usd * (2 + 1.5 + 1 + 1.5))
    batch.runs.append(Run(dear, 1, 0, asked_s=3600.0, sent_s=3600.0))
    assert batch_usd(batch) == pytest.approx(hour_usd * 4.5 + 1.0 + PER_HOUR_USD)
    unknown = replace(still.prepared, on_demand_usd=math.nan)
    batch.runs.append(Run(unknown, 1, 0, asked_s=0.0, sent_s=0.0))
    assert math.isnan(batch_usd(batch))


def test_the_summary_counts_instances_by_what_became_of_them(batch):
    held = Track("h", 0.0, outcome=Outcome.HELD)
    batch.runs = [
        run_of(ready("a"), held, sent_s=1.0, lacking=3, count=5),
        run_of(count=4),
        run_of(asked_s=1.0, count=2),
        run_of(asked_s=1.0, refused=True, count=7),
    ]
    batch.warnings, batch.problems = ["w"], ["p", "q", "p"]
    summary = summary_of(batch, Cleaned(confirmed=True), ("late",))

    assert summary.outcomes == {
        **{"ready": 1, "held": 1, "refused": 10, "not sent": 4, "not answered": 2}
    }
    assert summary.warnings == ("w", "late")
    assert summary.problems == ("p", "q")
    assert summary.last_line() == (
        "open requests 0, live instances 0 (confirmed); spent at most simulated $0.0000 "
        "(each instance on demand, CPU credits included, until all had ended)"
    )
    left = Cleaned(False, {"x": ["sir-1", "sir-2"]}, {"x": ["i-1"], "y": ["i-2", "i-3"]})
    batch.stopping.by = "SIGINT"
    summary = summary_of(batch, left, ())
    assert summary.last_line().startswith("open requests 2, live instances 3 (NOT CONFIRMED)")
    assert summary.problems[2] == (
        "stopped by Ctrl-C or the stop button (SIGINT) in round 1 of 3: what was seen until then "
        "is recorded"
    )
    assert summary.problems[3].startswith("it is NOT confirmed that nothing is left; finish with: ")


def test_what_is_left_is_counted_by_kind_a_fleet_once_whatever_rows_it_has(batch):
    left = Cleaned(False, {"x": ["fleet-1#1", "fleet-1#2", "lt-1", "sir-1"], "y": ["fleet-2#1"]})

    line = summary_of(batch, left, ()).last_line()

    assert line.startswith(
        "open requests 1, live instances 0, fleets 2, launch templates 1 (NOT CONFIRMED); spent "
    )
    batch.connection.simulated = False
    assert "; spent at most $0.0000 (each instance" in summary_of(batch, left, ()).last_line()


def test_an_end_that_is_not_confirmed_says_why_and_how_to_finish_also_by_hand(batch):
    left = Cleaned(False, {"x": ["sir-1"]}, errors={"x": "EC2 is busy", "y": "no answer"})

    [said] = summary_of(batch, left, ()).problems
    [plain] = summary_of(batch, Cleaned(False), ()).problems

    sweep = "python -m spotlib sweep"
    assert said.startswith(
        "it is NOT confirmed that nothing is left (x: EC2 is busy; y: no answer); finish with: "
    )
    assert sweep in said
    assert "; or by hand: aws ec2 cancel-spot-instance-requests --region x" in said
    assert " && aws ec2 describe-instances --region x" in said
    assert plain.startswith("it is NOT confirmed that nothing is left; finish with: ")
    assert plain.endswith("; or by hand: in the EC2 console")


@pytest.mark.parametrize(
    ("unwritten", "exists", "said"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_a_log_that_is_there_and_lacks_something_is_to_be_completed(batch, unwritten, exists, said):
    batch.unwritten = unwritten
    if exists:
        batch.log.path.touch()

    problems = summary_of(batch, Cleaned(confirmed=True), ()).problems

    words = "complete the log, once it can be written, with: "
    assert [each.startswith(words) for each in problems] == [True] * said


def test_a_summary_raises_only_if_anything_went_wrong(batch):
    summary_of(batch, Cleaned(confirmed=True), ("a warning",)).require()
    with pytest.raises(BatchError, match=r"^p; q$"):
        replace(summary_of(batch, Cleaned(confirmed=True), ()), problems=("p", "q")).require()


def test_its_regions_kinds_and_requests_are_those_of_its_plans_and_runs(batch):
    fleet = run_of(region="eu-west-1", given=("i-4",), instances={"i-4": "i-4", "x": "i-5"})
    fleet.prepared = replace(
        fleet.prepared, plan=replace(fleet.plan, method="create_fleet_instant")
    )
    spot = run_of(
        *(Track("sir-1", 0.0), Track("sir-2", 0.0, sighting=Sighting("open")), Track("i-1", 0.0)),
        Track("sir-3", 0.0, sighting=Sighting("cancelled")),
        given=("sir-1", "sir-2", "sir-3"),
        instances={"sir-1": "i-9"},
    )
    batch.runs = [spot, fleet, run_of(region="us-east-1")]
    plans = [fleet.prepared, spot.prepared]
    batch.preflight = SimpleNamespace(prepared=plans, events=True)
    batch.cleared = {"sir-1", "i-5"}

    assert (spot.ids, fleet.ids) == (("sir-1", "sir-2", "sir-3"), ("i-4", "i-5"))
    assert spot.open_ids == ["sir-1", "sir-2"]
    assert batch.uncleared == {
        "sa-east-1": {"sir-2", "sir-3"},
        "eu-west-1": {"i-4"},
        "us-east-1": set(),
    }
    assert batch.resources == left_by(["create_fleet_instant", "request_spot_instances"])
    assert batch.event_regions == ("eu-west-1", "sa-east-1")
    batch.preflight.events = False
    assert batch.event_regions == ()


def test_what_is_waited_for_goes_to_the_caller_or_after_a_stop_to_the_terminal(batch, monkeypatch):
    said, written = [], []
    monkeypatch.setattr("spotlib.collect.batch.rewrite_line", written.append)
    batch.show_waiting("a", 2.0)
    batch.stopping.by = "SIGINT"
    batch.show_waiting("b", 2.0)
    batch.on_wait = said.append
    batch.show_waiting("c", 2.0)

    assert written == ["b, about 2 s"]
    assert said == [Waiting("c", 2.0)]


def test_a_batch_begins_with_the_first_poll_of_an_unshifted_schedule_and_looks_at_nothing(batch):
    assert (batch.next_poll, batch.shift_s, batch.look_at_s) == (0, 0.0, math.inf)
    assert not batch.unwritten
    assert (batch.batch_id, batch.round_tag(2)) == ("b", "b/2")
    assert batch.schedule.rhythm == {"rounds": 3, "every_s": 900.0, "arm_pause_s": 0.0}


@pytest.mark.parametrize(("events", "queue"), [(False, None), (True, None), ("mine", "mine")])
def test_its_first_line_is_on_the_disk_before_anything_follows(batch, monkeypatch, events, queue):
    written = []
    monkeypatch.setattr(batch.log, "append", lambda *event, **how: written.append((*event, how)))
    plans = (run_of().prepared,)
    batch.preflight = PreflightReport("1", "arn", plans, {}, events=events)
    there = {"world": "w", "world_seed": 5, "market": "m"}
    vars(batch.connection).update(there)
    batch.connection.clock.utc = lambda: NOON

    batch.begin({"selection": "s"})

    [(first, how)] = written
    assert how == {"sync": True}
    assert (first.rounds, first.every_s, first.phase_s, first.seed) == (3, 900.0, 1.25, 7)
    assert (first.queue, first.events) == (queue, ("sa-east-1",) if events else ())
    assert (first.host.pid, first.notes) == (os.getpid(), {"selection": "s"})

"""Watching, call by call: what is polled when, what is ended, and what is recorded of it."""

import math
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from spotlib.collect import watch
from spotlib.collect.batch import Batch, Run, Schedule
from spotlib.collect.cost import PreparedPlan
from spotlib.ec2.console import ConsoleRead
from spotlib.ec2.poll import Known, Poll
from spotlib.ec2.resource import Survey
from spotlib.model import Outcome, Plan, Target
from spotlib.track import Sighting, Track

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HERE, THERE = "sa-east-1", "eu-west-1"


@pytest.fixture
def batch():
    """Ten seconds after its begin, with polls every 3 s from 1.25 s on; no call is answered."""
    events, calls = [], []
    clock = SimpleNamespace(now_s=lambda: 110.0, utc=lambda: NOON, inline=True)
    log = SimpleNamespace(
        batch_id="b", events=events, append=lambda event, **_: events.append(event)
    )

    def submit(call, *args, **given):
        calls.append((call, args, given))
        return Future()

    executor = SimpleNamespace(submit=submit, calls=calls)
    schedule = Schedule(3, 900.0, 3.0, 1.25, 7, 30.0, 0.0)
    connection = SimpleNamespace(clock=clock)
    return Batch(connection, log, executor, SimpleNamespace(by=None), None, schedule, 100.0)


def run_of(*tracks, region=HERE, index=0, sent_s=1.0, **state):
    plan = Plan(Target("t3.nano", region), max(len(tracks), 1), timeout_s=60.0)
    prepared = PreparedPlan(plan, "ami-1", "", 2, False, "standard")
    rows = {each.request_id: each for each in tracks}
    return Run(prepared, 1, index, tracks=rows, given=tuple(rows), sent_s=sent_s, **state)


def shown(region=HERE, error=None, **sightings):
    return Poll(region, 108.0, 109.0, NOON, 2, None, sightings, error)


def test_a_region_whose_last_poll_is_unanswered_is_not_polled_again_and_the_log_says_so(batch):
    runs = [run_of(Track("a", 1.0)), run_of(Track("b", 1.0), region=THERE, index=1)]
    runs.append(run_of(Track("c", 1.0), region="us-east-1", ended=True))
    batch.polling, batch.next_poll = {HERE}, 4

    watch._poll_regions(batch, runs)

    [skipped] = batch.log.events
    assert (skipped.round, skipped.polls, skipped.region) == (1, (4,), HERE)
    assert skipped.reason == "busy"
    [(call, (_, region), given)] = batch.executor.calls
    assert (call, region) == (watch.poll, THERE)
    assert (batch.polling, batch.next_poll) == ({HERE, THERE}, 5)
    assert given["round_tag"] == "b/1"
    assert given["known"] == {"b": Known("1", None)}
    assert [*given["rows"].values()] == [["b"]]


def test_a_poll_asks_only_for_what_has_no_outcome_and_knows_all_rows(batch):
    over = Track("a", 1.0, outcome=Outcome.READY)
    runs = [run_of(over, Track("b", 1.0), instances={"a": "i-1"}), run_of(Track("c", 1.0), index=1)]

    watch._poll_regions(batch, runs)

    [(_, _, given)] = batch.executor.calls
    assert [*given["rows"].values()] == [["b", "c"]]
    assert given["known"] == {"a": Known("0", "i-1"), "b": Known("0"), "c": Known("1")}


@pytest.mark.parametrize(
    ("now_s", "missed"),
    [(107.24, None), (107.25, None), (110.24, (1,)), (113.3, (1, 2, 3))],
)
def test_polls_that_were_due_and_not_made_are_recorded_but_for_the_last_which_is_made(
    batch, now_s, missed
):
    batch.connection.clock.now_s = lambda: now_s
    batch.next_poll = 1 if missed else 2
    runs = [run_of(ended=True), run_of(Track("a", 1.0))]

    watch._note_missed(batch, runs)

    said = [(each.round, each.polls, each.reason) for each in batch.log.events]
    assert said == ([(1, missed, "late")] if missed else [])
    assert batch.next_poll == (missed[-1] + 1 if missed else 2)


def test_of_polls_that_nobody_waited_for_none_is_missed(batch):
    watch._note_missed(batch, [run_of(ended=True), run_of(sent_s=None)])

    assert batch.log.events == []
    assert batch.next_poll == 2


def test_the_next_deadline_is_the_first_of_the_runs_that_go_on_and_never_past(batch):
    late, soon = run_of(sent_s=5.0), run_of(sent_s=2.0)

    assert watch._next_deadline_s(batch, [late, soon]) == 62.0
    soon.ended = True
    assert watch._next_deadline_s(batch, [late, soon, run_of(sent_s=None)]) == 65.0
    assert watch._next_deadline_s(batch, [soon]) == math.inf
    assert watch._next_deadline_s(batch, [run_of(sent_s=-100.0)]) == 10.0


@pytest.mark.parametrize(("sent_s", "ended"), [(-50.0, True), (-49.9, False)])
def test_a_run_is_ended_at_its_timeout_or_when_all_have_an_outcome_but_after_its_poll(
    batch, sent_s, ended
):
    timed = run_of(Track("sir-a", 1.0), sent_s=sent_s, instances={"sir-a": "i-1"})
    done = run_of(Track("sir-b", 1.0, outcome=Outcome.READY), index=1)
    polled = run_of(Track("sir-c", 1.0), region=THERE, sent_s=-50.0)
    batch.polling = {THERE}

    watch._end_due(batch, [timed, done, polled, run_of(sent_s=None)])

    assert [timed.ended, done.ended, polled.ended] == [ended, True, False]
    outcomes = [(each.request_id, each.outcome) for each in batch.log.events]
    assert outcomes == [("sir-a", Outcome.TIMED_OUT)] * ended
    released = [(args[1], given["live_ids"]) for _, args, given in batch.executor.calls]
    assert released == [(HERE, ("i-1",))] * ended + [(HERE, ())]
    assert batch.executor.calls[0][2]["request_ids"] == (("sir-a",) if ended else ("sir-b",))


GONE = Sighting(
    "closed", "instance-terminated-no-capacity", instance_id="i-1", instance_state="terminated"
)


@pytest.mark.parametrize(
    ("last", "cleared"),
    [(GONE, {"a"}), (replace(GONE, instance_state="running"), set())],
)
def test_what_ended_together_with_its_instance_is_not_looked_for_again(batch, last, cleared):
    """Of others EC2 is asked now and then, before it forgets them, whether they are over."""
    before = Track("a", 1.0)
    ended = replace(before, sighting=last, outcome=Outcome.INTERRUPTED)
    batch.runs = [run_of(ended, Track("b", 1.0)), run_of(Track("c", 1.0), region=THERE)]
    batch.look_at_s = 50.0

    watch._note_progress(batch, batch.runs[0], before, ended)
    watch._look_what_is_over(batch)

    assert [each.outcome for each in batch.log.events] == [Outcome.INTERRUPTED]
    assert batch.cleared == cleared
    asked = {args[1]: given for _, args, given in batch.executor.calls}
    assert {region: given["ids"] for region, given in asked.items()} == {
        HERE: {"a", "b"} - cleared,
        THERE: {"c"},
    }
    assert all(given["resources"] == () for given in asked.values())
    assert batch.look_at_s == 950.0


def test_an_outcome_is_recorded_once(batch):
    ended = Track("a", 1.0, outcome=Outcome.READY)

    watch._note_progress(batch, run_of(ended), ended, ended)

    assert batch.log.events == []


def answered(value):
    future = Future()
    future.set_result(value)
    return future


@pytest.mark.parametrize("over", [frozenset(), frozenset({"sir-1"})])
def test_a_look_is_recorded_if_it_found_something_over(batch, over):
    watch._looked(batch, HERE, answered(Survey({}, {}, frozenset(), over=over)))

    assert [(each.region, each.over) for each in batch.log.events] == [(HERE, ("sir-1",))][
        : len(over)
    ]
    assert batch.cleared == over


def test_an_instance_is_new_at_the_poll_that_shows_it_first_also_if_that_fails():
    run = run_of(Track("a", 1.0), Track("b", 1.0), Track("c", 1.0), instances={"a": "i-1"})
    seen = {
        "a": Sighting(instance_id="i-1"),
        "b": Sighting(instance_id="i-2"),
        "c": Sighting(),
        "other": Sighting(instance_id="i-9"),
    }

    assert watch._new_instances(run, shown(error="InternalError", **seen)) == ["i-2"]
    assert run.instances == {"a": "i-1", "b": "i-2"}
    assert watch._new_instances(run, shown(**seen)) == []


def test_nothing_is_tagged_where_nothing_is_new(batch):
    watch._tag(batch, HERE, ())
    watch._tag(batch, HERE, ("i-1",))

    assert [args[1:] for _, args, _ in batch.executor.calls] == [(HERE, ("i-1",))]


@pytest.mark.parametrize("micro", [0, 1, 999_999])
def test_a_request_is_valid_until_a_whole_second_and_never_shorter_than_planned(micro):
    until = watch._whole_second_after(NOON + timedelta(microseconds=micro))

    assert until == (NOON + timedelta(seconds=1) if micro else NOON)


def test_a_failure_of_our_own_is_said_with_ec2s_words_and_what_to_do():
    target = Target("t3.nano", HERE)
    sighting = Sighting(
        "failed", "bad-parameters", "Bad.", instance_reason="", instance_message="x"
    )

    assert watch._own_failure(target, replace(sighting, status_code="system-error")) == []
    assert watch._own_failure(target, sighting) == [
        "t3.nano in sa-east-1: failed, which says nothing about the market: bad-parameters (Bad.): "
        "check image, type and zone"
    ]


@pytest.fixture
def consoles(batch, monkeypatch):
    """Three instances that ended without a stamp; each read takes nine seconds and shows none."""
    asked, now_s = [], [110.0]

    def read(_connection, _region, instance_id, *, latest):
        asked.append((instance_id, latest))
        now_s[0] += 9.0 if latest else 0.0
        return ConsoleRead(instance_id, now_s[0] - 1.0, now_s[0])

    monkeypatch.setattr(watch, "read_console", read)
    monkeypatch.setattr(watch, "unstamped", lambda runs: [(runs[0], row) for row in "abcd"])
    monkeypatch.setattr(batch.connection.clock, "now_s", lambda: now_s[0])
    batch.runs = [run_of(instances={row: f"i-{row}" for row in "abcd"})]
    return asked


def test_the_last_consoles_are_read_for_twenty_seconds_each_once_and_none_after_a_stop(
    batch, consoles
):
    batch.consoles.ended.add("a")
    watch.read_last_consoles(batch)

    assert consoles == [(f"i-{row}", latest) for row in "bcd" for latest in (True, False)]
    assert batch.consoles.ended == set("abcd")
    assert [(each.request_id, each.last) for each in batch.log.events] == [
        *(("b", True), ("c", True), ("d", True))
    ]
    watch.read_last_consoles(batch)
    assert len(consoles) == 6


def test_a_stop_ends_the_reads_of_the_last_consoles_and_so_do_twenty_seconds(batch, consoles):
    watch.read_last_consoles(batch)
    assert [each for each, latest in consoles if latest] == ["i-a", "i-b", "i-c"]
    batch.stopping.by = "SIGINT"
    watch.read_last_consoles(batch)
    assert len(consoles) == 6

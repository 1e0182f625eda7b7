"""Watching, call by call: what is polled when, what is ended, and what is recorded of it."""

import math
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from spotlib.cleanup.close import Released
from spotlib.collect import watch
from spotlib.collect.batch import Batch, Run
from spotlib.collect.cost import PreparedPlan
from spotlib.collect.schedule import Schedule
from spotlib.ec2.console import ConsoleRead
from spotlib.ec2.methods.method import Answer, Given, launch
from spotlib.ec2.poll import Known, Poll
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Survey
from spotlib.model import Kind, Outcome, Plan, Stage, Target
from spotlib.record.events import Features
from spotlib.stamp import Stamp
from spotlib.track import Bracket, Sighting, Track

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HERE, THERE = "sa-east-1", "eu-west-1"


@pytest.fixture
def batch():
    """Ten seconds after its begin, with polls every 3 s from 1.25 s on; no call is answered."""
    events, calls, synced = [], [], []
    clock = SimpleNamespace(now_s=lambda: 110.0, utc=lambda: NOON, inline=True)

    def append(event, *, sync=False):
        events.append(event)
        synced.append(sync)

    log = SimpleNamespace(batch_id="b", events=events, synced=synced, append=append)

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
    runs.append(run_of(Track("d", 1.0), region="us-west-2", index=3))
    batch.polling, batch.next_poll = {HERE}, 4

    watch._poll_regions(batch, runs)

    [skipped] = batch.log.events
    assert (skipped.round, skipped.polls, skipped.region) == (1, (4,), HERE)
    assert skipped.reason == "busy"
    (call, (_, region), given), (_, (_, after), other) = batch.executor.calls
    assert (call, region, after) == (watch.poll, THERE, "us-west-2")
    assert (batch.polling, batch.next_poll) == ({HERE, THERE, "us-west-2"}, 5)
    assert given["round_tag"] == "b/1"
    assert given["known"] == {"b": Known("1", None)}
    assert [*given["rows"].values()] == [["b"]]
    assert [*other["rows"].values()] == [["d"]]


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

    watch._end_due(batch, [polled, run_of(sent_s=None), timed, done])

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
    """Four instances that ended without a stamp; each read takes nine seconds and shows none."""
    asked, now_s = [], [110.0]
    batch.connection.read_s = 9.0

    def read(connection, _region, instance_id, *, latest):
        asked.append((instance_id, latest))
        now_s[0] += connection.read_s if latest else 0.0
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
    batch.consoles.ended.clear()
    batch.stopping.by = "SIGINT"
    watch.read_last_consoles(batch)
    assert len(consoles) == 6


@pytest.mark.parametrize(("read_s", "read"), [(9.9, 3), (10.0, 2)])
def test_no_last_console_is_read_from_the_twentieth_second_on(batch, consoles, read_s, read):
    batch.connection.read_s = read_s
    watch.read_last_consoles(batch)

    assert consoles == [(f"i-{row}", latest) for row in "abcd"[:read] for latest in (True, False)]


STAMP = Stamp(8.0, 8.1, NOON, "boot", None, None)


@pytest.mark.parametrize(
    ("newest", "posted", "taken"),
    [
        ({"output": "booting"}, None, "newest"),
        ({}, {"output": "booting"}, "newest"),
        ({"error": "x"}, {"output": "booted", "stamp": STAMP}, "posted"),
    ],
)
def test_what_was_posted_at_the_end_is_read_where_the_newest_console_is_not_to_be_had(
    batch, monkeypatch, newest, posted, taken
):
    reads = {"newest": ConsoleRead("i-a", 1.0, 2.0, **newest)}
    if posted is not None:
        reads["posted"] = ConsoleRead("i-a", 2.0, 3.0, **posted)
    asked, took = [], []

    def read(*_, latest):
        asked.append("newest" if latest else "posted")
        return reads[asked[-1]]

    monkeypatch.setattr(watch, "read_console", read)
    monkeypatch.setattr(watch, "unstamped", lambda runs: [(runs[0], "a")])
    monkeypatch.setattr(watch, "_take_read", lambda *given, **how: took.append((given[3], how)))
    batch.runs = [run_of(instances={"a": "i-a"})]
    watch.read_last_consoles(batch)

    assert asked == [*reads]
    assert took == [(reads[taken], {"last": True})]


def test_a_console_is_free_to_be_read_again_once_it_was_and_shown_times_never_narrow(batch):
    run = run_of(Track("a", 1.0), instances={"a": "i-a"})
    batch.consoles.reading.add("a")
    date = "Fri, 02 Jan 2026 12:00:00 GMT"
    read = ConsoleRead("i-a", 107.5000014, 108.5000014, server_date=date)

    watch._console_read(batch, run, "a", answered(read))

    assert batch.consoles.reading == set()
    [said] = batch.log.events
    assert (said.request_id, said.last, said.posted) == ("a", False, False)
    [told] = batch.consoles.told(HERE)
    assert (told.asked_s, told.answered_s) == (7.500001, 8.500002)


def test_a_stamp_that_a_console_shows_is_the_stage_usable_of_its_row(batch):
    """Without EC2's time that is between the request and the read, and no narrower."""
    seen = Track("a", 1.0, sighting=Sighting(instance_id="i-a"))
    run = run_of(seen, instances={"a": "i-a"})
    run.prepared = replace(run.prepared, plan=replace(run.plan, wanted=Stage.USABLE))

    watch._console_read(batch, run, "a", answered(ConsoleRead("i-a", 109.0, 110.0, "x", STAMP)))

    [usable] = batch.log.events
    assert (usable.request_id, usable.stage, usable.stamp.boot_id) == ("a", "usable", "boot")
    assert (usable.after_s, usable.by_s) == (1.0, 10.0)
    assert run.tracks["a"].brackets[Stage.USABLE] == Bracket(1.0, 10.0)


def test_due_consoles_are_read_by_a_call_of_their_own_the_newest_output_of_each(batch):
    seen = Track("a", 1.0, sighting=Sighting(instance_id="i-a", instance_state="running"))
    run = run_of(seen, instances={"a": "i-a"})
    run.prepared = replace(run.prepared, plan=replace(run.plan, wanted=Stage.USABLE))
    batch.consoles.due_s["a"] = 9.0

    watch._read_consoles(batch, [run])
    watch._read_consoles(batch, [run])  # it is being read

    [(call, args, given)] = batch.executor.calls
    assert (call, args[1:], given) == (watch.read_console, (HERE, "i-a"), {"latest": True})
    assert batch.consoles.reading == {"a"}


@pytest.mark.parametrize("late_s", [0.0, 0.5])
def test_it_sends_looks_and_polls_when_each_is_due_and_rests_in_between(batch, monkeypatch, late_s):
    """A rest may end a little late; then what is due is done at once."""
    done, now_s = [], [110.0]
    batch.schedule = replace(batch.schedule, poll_s=1000.0)
    batch.connection.clock.now_s = lambda: now_s[0]
    runs = [run_of(sent_s=5000.0), run_of(sent_s=None)]
    features = {run.plan.target: "known" for run in runs}

    def rest(until_s):
        assert until_s > batch.now_s(), "it would rest for ever"
        done.append(("rest", until_s))
        now_s[0] = until_s + 100.0 + late_s

    def note(what):
        done.append((what, batch.now_s()))

    def poll(*_):
        note("poll")
        batch.stopping.by = "SIGINT"

    monkeypatch.setattr(batch, "rest", rest)
    monkeypatch.setattr(watch, "_poll_regions", poll)
    monkeypatch.setattr(watch, "_send", lambda _, run, known: note((run.sent_s, known)))
    look = watch._look_what_is_over
    monkeypatch.setattr(watch, "_look_what_is_over", lambda each: (note("look"), look(each)))
    watch.watch(batch, runs, features)

    assert done == [
        ((5000.0, "known"), 10.0),
        ((None, "known"), 10.0),
        *(("rest", 910.0), ("look", 910.0 + late_s)),
        *(("rest", 1001.25), ("poll", 1001.25 + late_s)),
    ]
    assert batch.look_at_s == 1810.0


def test_it_goes_on_until_all_runs_have_ended_and_every_call_is_answered(batch, monkeypatch):
    """Queues are read until the runs have ended; what is done is taken in before it decides."""
    did, run = [], run_of(sent_s=None)

    def send(*_):
        did.append("send")
        run.ended, batch.flying = True, {Future(): print}

    def rest(_):
        did.append("rest")
        batch.flying.clear()

    for name in ("read_due", "_note_missed", "_end_due"):
        monkeypatch.setattr(watch, name, lambda *_, name=name: did.append(name))
    monkeypatch.setattr(watch, "_send", send)
    monkeypatch.setattr(batch, "land", lambda: did.append("land"))
    monkeypatch.setattr(batch, "rest", rest)
    watch.watch(batch, [run], {run.plan.target: "known"})

    turn = ["land", "_note_missed", "_end_due"]
    assert did == ["read_due", *turn, "send", *turn, "rest", *turn]


def test_without_a_run_nothing_is_waited_for_and_the_next_poll_is_the_first_not_yet_due(batch):
    watch.watch(batch, [run_of(ended=True)], {})

    assert (batch.next_poll, batch.look_at_s) == (3, 910.0)  # due at 10.25
    batch.next_poll = 7
    watch.watch(batch, [run_of(ended=True)], {})
    assert batch.next_poll == 7


def test_each_region_is_polled_for_its_own_runs(batch):
    watch._poll_regions(batch, [run_of(Track("a", 1.0)), run_of(Track("b", 1.0), region=THERE)])

    asked = {args[1]: [*given["rows"].values()] for _, args, given in batch.executor.calls}
    assert asked == {THERE: [["b"]], HERE: [["a"]]}


def test_an_intent_is_on_the_disk_before_its_call_is_made(batch):
    batch.connection.server_utc = lambda: NOON + timedelta(seconds=0.25)
    target = Target("t3.nano", HERE)
    batch.last_launches = {target: NOON - timedelta(seconds=90)}
    run, synced = run_of(sent_s=None), []
    submit = batch.executor.submit
    batch.executor.submit = lambda *call: synced.extend(batch.log.synced) or submit(*call)

    watch._send(batch, run, Features(price_usd=0.5))

    [intent], [(call, args, _)] = batch.log.events, batch.executor.calls
    assert synced == [True]
    assert (call, args[1:]) == (launch, (HERE, run.method, intent.request, 1))
    # its timeout of 60 s and 60 s more, to the next whole second
    assert intent.valid_until == NOON + timedelta(seconds=121)
    assert (intent.features.price_usd, intent.features.since_last_s) == (0.5, 90.0)
    assert (batch.last_launches[target], run.asked_s) == (NOON, 10.0)


def refused(kind):
    return Refusal("Code", "Words.", kind=kind, advice="do this")


@pytest.mark.parametrize(
    ("given", "kind", "lacking", "problems"),
    [(3, None, 0, 0), (2, Kind.CAPACITY, 1, 0), (1, Kind.QUOTA, 2, 1), (0, Kind.CAPACITY, None, 0)],
)
def test_what_an_answer_gave_is_on_the_disk_first_and_what_it_lacks_is_said(
    batch, given, kind, lacking, problems
):
    rows = ("sir-1", "i-2", "sir-3")[:given]
    run = run_of()
    run.prepared = replace(run.prepared, plan=replace(run.plan, count=3))
    run.sent_s = None
    lacks = None if kind is None else refused(kind)
    answer = Answer(Given(rows, lacking=lacks), 105.0000014, 106.0000014, NOON)

    watch._sent(batch, run, answered(answer))

    assert batch.log.synced[0]
    assert len(batch.problems) == problems
    assert (run.refused, run.ended) == (not rows, not rows)
    if rows:
        assert run.lacking == lacking
        assert run.sent_s == 5.000001
        assert run.given == (*run.tracks,) == rows
        assert run.instances == {row: row for row in rows if row.startswith("i-")}
        found = [each.brackets[Stage.ACCEPTED] for each in run.tracks.values()]
        assert set(found) == {Bracket(5.000001, 6.000002)}
    assert batch.shift_s == 0.0


def test_a_probe_is_polled_at_once_after_its_answer_shows_what_it_gave(batch):
    run = run_of()
    run.prepared = replace(run.prepared, plan=replace(run.plan, wanted=Stage.GRANTED))
    run.sent_s = None
    shows = {"i-1": Sighting(status_code="fulfilled", instance_id="i-1")}
    answer = Answer(Given(("i-1", "sir-2"), shown=shows), 105.0, 106.0, NOON)
    batch.next_poll = 4  # due at 13.25

    watch._sent(batch, run, answered(answer))

    assert batch.due_s(4) == pytest.approx(10.1)
    assert run.tracks["i-1"].brackets[Stage.GRANTED] == Bracket(5.0, 6.0)
    assert run.tracks["sir-2"].brackets == {Stage.ACCEPTED: Bracket(5.0, 6.0)}
    requested, *stages, ended = batch.log.events
    assert requested.request_ids == ("i-1", "sir-2")
    assert {each.request_id for each in stages} == {"i-1"}
    assert "granted" in [each.stage for each in stages]
    assert (ended.request_id, ended.outcome) == ("i-1", Outcome.GRANTED)


@pytest.mark.parametrize("error", [None, "InternalError"])
def test_a_poll_advances_each_request_between_its_call_and_its_answer_unless_it_failed(
    batch, monkeypatch, error
):
    run, other = run_of(Track("a", 1.0)), run_of(ended=True, index=1)
    fulfilled = {"a": Sighting("active", "fulfilled", instance_id="i-1")}
    poll = replace(shown(error=error, **fulfilled), asked_s=107.5000014, answered_s=108.5000014)
    poll = replace(poll, server_date="Fri, 02 Jan 2026 12:00:00 GMT")
    shows, did = [], []
    batch.on_poll, batch.runs = shows.append, [other, run]
    batch.polling = {HERE, THERE}
    monkeypatch.setattr(watch, "_read_consoles", lambda _, runs: did.append(runs))
    monkeypatch.setattr(watch, "note_events", did.append)

    watch._polled(batch, [run, other], 5, answered(poll))

    assert batch.polling == {THERE}
    polled, *new = batch.log.events
    assert (polled.round, polled.number, polled.error, [*polled.plans]) == (1, 5, error, [0])
    assert [(each.stage, each.by_s) for each in new] == ([] if error else [("fulfilled", 8.500002)])
    assert [args[1:] for _, args, _ in batch.executor.calls] == [(HERE, ("i-1",))]
    assert len(shows) == 1
    assert did == [[run], batch]
    assert [each.answered_s for each in batch.consoles.told(HERE)] == [8.500002]


@pytest.mark.parametrize(
    ("outcome", "said"), [(Outcome.FAILED, 1), (Outcome.INTERRUPTED, 0), (None, 0)]
)
def test_only_a_failure_is_a_problem_of_our_own(batch, outcome, said):
    before = Track("a", 1.0, sighting=Sighting("failed", "bad-parameters", "Bad."))

    watch._note_progress(batch, run_of(before), before, replace(before, outcome=outcome))

    assert len(batch.problems) == said
    assert len(batch.log.events) == (outcome is not None)


def test_a_failure_that_nothing_was_seen_of_is_no_problem_of_our_own(batch):
    before = Track("a", 1.0)

    watch._note_progress(batch, run_of(before), before, replace(before, outcome=Outcome.FAILED))

    assert batch.problems == []


def test_a_failed_status_check_is_recorded_when_it_is_first_shown(batch):
    sound = Track("a", 1.0, sighting=Sighting(instance_id="i-1"))
    failed = replace(sound, impaired=Bracket(2.0, 3.0))
    recorded = []

    for before, after in ((sound, sound), (sound, failed), (failed, failed), (failed, sound)):
        watch._note_progress(batch, run_of(before), before, after)
        recorded.append([(each.request_id, each.by_s) for each in batch.log.events])

    assert recorded == [[], *[[("a", 3.0)]] * 3]


@pytest.mark.parametrize("error", [None, "UnauthorizedOperation"])
def test_whether_an_instance_was_tagged_is_recorded(batch, error):
    watch._tagged(batch, HERE, ("i-1",), answered(error))

    said = [(each.region, each.instance_ids, each.error) for each in batch.log.events]
    assert said == [(HERE, ("i-1",), error)]


def test_what_was_released_of_a_run_is_recorded_with_its_plan(batch):
    released = Released(HERE, ("sir-1",), ("i-1",), Survey({}, {}, frozenset()))

    watch._released(batch, run_of(index=4), answered(released))

    [event] = batch.log.events
    assert (event.round, event.plan, event.terminated) == (1, 4, ("i-1",))
    assert batch.taken == {"sir-1", "i-1"}

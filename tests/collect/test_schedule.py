"""The rules of a batch's rounds, each by itself: when they begin, what is between, what is said."""

import math
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import scripted

from spotlib.collect import rounds
from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.queues import Queues
from spotlib.collect.schedule import (
    Schedule,
    _wanted,
    require_end,
    require_intervals,
    require_pauses,
    require_probe_pauses,
    schedule_of,
    usual_poll_s,
)
from spotlib.model import Plan, Stage, Target

ONE = PreparedPlan(Plan(Target("t3.nano", "sa-east-1"), 1), "ami-1", "", 2, False, "standard")
OTHER = replace(ONE, plan=replace(ONE.plan, method="run_instances"))
PROBE = replace(ONE, plan=replace(ONE.plan, wanted=Stage.GRANTED))


class Batch:
    """Waits in no time, and notes what it says; a stop comes when ``stop_s`` is reached."""

    def __init__(self, *prepared, count=3, stop_s=math.inf):
        self.preflight = SimpleNamespace(prepared=prepared, free_vcpus={})
        self.schedule = Schedule(count, 900.0, 3.0, 0.0, 7, 30.0, 60.0)
        self.at_s, self.stop_s, self.said, self.warnings = 0.0, stop_s, [], []
        self.events, self.queues = [], Queues()
        self.log = SimpleNamespace(append=self.events.append)

    @property
    def stopping(self):
        return SimpleNamespace(by="SIGINT" if self.at_s >= self.stop_s else None)

    def now_s(self):
        return self.at_s

    def rest(self, until_s):
        self.at_s = min(until_s, max(self.stop_s, self.at_s))

    def land(self):
        """No call is in flight."""

    def show_waiting(self, words, left_s):
        self.said.append((words, left_s))


@pytest.fixture
def happened(monkeypatch):
    """What is done to a batch, at which second; each wave takes 100 s, a clean-up 30 s."""
    done = []

    def wave(batch, number, plans, _):
        done.append((batch.at_s, number, len(plans)))
        batch.at_s += 100.0

    def settle(batch):
        done.append((batch.at_s, "settle"))
        batch.at_s += 30.0

    monkeypatch.setattr(rounds, "_run_wave", wave)
    monkeypatch.setattr(rounds, "settle_batch", settle)
    return done


def test_nothing_is_left_of_a_round_before_the_next_and_the_last_is_ended_by_the_batch(happened):
    batch = Batch(ONE)
    rounds._run_rounds(batch, None)

    assert happened == [
        *((0.0, 0, 1), (100.0, "settle"), (900.0, 1, 1), (1000.0, "settle"), (1800.0, 2, 1))
    ]
    assert batch.said == [("waiting for round 2 of 3", 770.0), ("waiting for round 3 of 3", 770.0)]
    assert batch.warnings == []


def test_between_two_launch_methods_all_is_ended_and_then_there_is_a_pause(happened):
    batch = Batch(ONE, OTHER, count=1)
    rounds._run_rounds(batch, None)

    assert happened == [(0.0, 0, 1), (100.0, "settle"), (190.0, 0, 1)]
    assert batch.said == [("pausing between arms", 60.0)]


def test_waves_follow_each_other_once_nothing_is_left_of_the_one_before(happened):
    batch = Batch(ONE, replace(ONE, plan=replace(ONE.plan, target=Target("a1.x", "sa-east-1"))))
    batch.preflight.free_vcpus = {("sa-east-1", "standard"): 2}
    batch.schedule = replace(batch.schedule, rounds=1)
    rounds._run_rounds(batch, None)

    assert happened == [(0.0, 0, 1), (100.0, "settle"), (130.0, 0, 1)]


@pytest.mark.parametrize(
    ("stop_s", "waves"), [(50.0, [0.0]), (500.0, [0.0]), (950.0, [0.0, 900.0]), (0.0, [])]
)
def test_after_a_stop_no_round_begins_and_nothing_is_waited_for(happened, stop_s, waves):
    batch = Batch(ONE, stop_s=stop_s)
    rounds._run_rounds(batch, None)

    assert [each[0] for each in happened if each[1] != "settle"] == waves
    assert batch.at_s <= max(stop_s, 100.0 * bool(waves)) + 100.0
    assert batch.warnings == []


@pytest.mark.parametrize(
    ("late_s", "said"),
    [
        (2.9, None),
        (3.0, None),
        (3.1, "1 of 2 rounds was skipped, because the round before lasted longer than every_s=900"),
    ],
)
def test_a_round_may_begin_a_poll_late_and_else_is_skipped(happened, monkeypatch, late_s, said):
    def settle(batch):
        batch.at_s = 900.0 + late_s

    monkeypatch.setattr(rounds, "settle_batch", settle)
    batch = Batch(ONE, count=2)
    rounds._run_rounds(batch, None)

    assert batch.warnings == ([said] if said else [])
    assert len(happened) == (1 if said else 2)
    assert [(each.round, each.polls, each.reason) for each in batch.events] == (
        [(1, (), "due at 900 s, the round before ended at 903.1 s")] if said else []
    )


def test_all_rounds_that_were_skipped_are_counted(happened, monkeypatch):
    monkeypatch.setattr(rounds, "settle_batch", lambda batch: setattr(batch, "at_s", 2000.0))
    batch = Batch(ONE)
    rounds._run_rounds(batch, None)

    assert batch.warnings == [
        "2 of 3 rounds were skipped, because the round before lasted longer than every_s=900"
    ]
    assert len(happened) == 1


def report(*prepared):
    return PreflightReport(None, None, prepared, {})


def schedule(*prepared, **given):
    usual = {"rounds": 1, "every_s": 900.0, "poll_s": None, "seed": 7, "settle_s": 30.0}
    return schedule_of(report(*prepared), **usual | {"arm_pause_s": 400.0} | given)


def test_a_schedule_has_the_usual_polls_a_phase_within_one_and_pauses_only_between_arms():
    one, two, probe = schedule(ONE), schedule(ONE, OTHER), schedule(PROBE)

    assert (one.poll_s, two.poll_s, probe.poll_s) == (3.0, 3.0, 0.5)
    assert (one.arm_pause_s, two.arm_pause_s) == (0.0, 400.0)
    assert one.phase_s == two.phase_s == schedule(ONE).phase_s
    assert schedule(ONE, poll_s=60.0).phase_s == pytest.approx(20 * one.phase_s)
    assert 0 < one.phase_s < 3.0
    assert one.seed == 7
    assert schedule(ONE, seed=0).seed == 0
    assert schedule().arm_pause_s == 0.0


def test_a_seed_that_is_not_given_is_drawn_from_31_bits(monkeypatch):
    highest = SimpleNamespace(randrange=lambda end: end - 1)
    monkeypatch.setattr(rounds.random, "SystemRandom", lambda: highest)

    assert schedule(ONE, seed=None).seed == 2**31 - 1


@pytest.mark.parametrize(
    ("plan", "wrong", "words"),
    [
        (ONE, {"poll_s": 0.0}, "poll_s"),
        (ONE, {"rounds": 0}, "rounds"),
        (ONE, {"every_s": -1.0}, "every_s"),
        (ONE, {"arm_pause_s": -1.0}, "arm_pause_s"),
        (PROBE, {"rounds": 2, "every_s": 299.0}, "299"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(plan, wrong, words):
    with pytest.raises(ValueError, match=words):
        schedule(plan, **wrong)


def test_probes_and_launches_are_told_apart_and_an_empty_batch_is_one_of_launches():
    assert _wanted([PROBE, PROBE]) is Stage.GRANTED
    assert _wanted([ONE]) is _wanted([]) is Stage.READY
    with pytest.raises(ValueError, match="got both: make two batches"):
        _wanted([ONE, PROBE])


@pytest.mark.parametrize("name", ["a", "_", "0.b-c_D", "x" * 48])
def test_a_name_of_up_to_48_plain_characters_is_a_batchs_id(name):
    rounds._require_batch_id(name)


def test_events_must_be_those_of_the_preflight_and_their_queue_has_no_dot_in_its_name():
    same = rounds._require_same_events
    same(True, checked=True, batch_id="a-b")
    same("my.queue", checked="my.queue", batch_id="a.b")
    same(False, checked=False, batch_id="a.b")
    with pytest.raises(ValueError, match=r"events=True, but the preflight was made with events=F"):
        same(True, checked=False, batch_id="a")
    for given, checked in ((False, True), ("a", "b"), ("b", "a")):
        with pytest.raises(ValueError, match="give both the same"):
            same(given, checked=checked, batch_id="a")
    with pytest.raises(ValueError, match=r"which holds no '\.', got 'a\.b'"):
        same(True, checked=True, batch_id="a.b")


def test_earlier_batches_are_read_only_for_a_campaigns_budget(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(rounds, "earlier_usd", lambda *a, **given: asked.append((a, given)) or 2.5)
    there = SimpleNamespace(simulated=True, endpoint="sandbox")

    assert rounds._earlier_usd(tmp_path, there, None) == 0.0
    assert rounds._earlier_usd(tmp_path / "none", there, 9.0) == 0.0
    assert asked == []
    assert rounds._earlier_usd(tmp_path, there, 0.0) == 2.5
    assert asked == [((tmp_path,), {"simulated": True, "endpoint": "sandbox"})]


@pytest.mark.parametrize(
    ("simulated", "url", "told"),
    [
        (True, "http://here:1", "http://here:1"),
        (True, None, "named"),
        (False, "http://moto:1", "named"),
    ],
)
def test_a_guard_is_told_where_the_batch_is_and_gets_keys_only_of_a_login(
    monkeypatch, tmp_path, simulated, url, told
):
    started = []
    monkeypatch.setattr(rounds, "Guard", lambda *a, **given: started.append((a, given)))
    monkeypatch.chdir(tmp_path)
    known = {"simulated": simulated, "url": url, "endpoint": "named", "profile": "p"}
    there = SimpleNamespace(**known, attach=None, login=None, lifeline=(7,))
    batch = SimpleNamespace(connection=there, log=SimpleNamespace(path=Path("b.jsonl")))

    rounds._guard(batch)
    there.login = SimpleNamespace(keys="keys")
    rounds._guard(batch)
    there.attach = print
    assert rounds._guard(batch) is None

    usual = {"endpoint": told, "profile": "p", "lifeline": (7,)}
    assert [each for _, each in started] == [usual | {"keys": None}, usual | {"keys": "keys"}]
    assert {each for each, _ in started} == {(tmp_path / "b.jsonl",)}


def test_each_region_of_a_wave_is_warmed_once_and_its_runs_are_watched(monkeypatch):
    """What is known of the targets is asked for before; a run has the number of its plan."""
    did = []
    far = replace(ONE, plan=replace(ONE.plan, target=Target("t3.nano", "eu-west-1")))
    batch = Batch(far, ONE, OTHER)
    batch.connection, batch.runs, batch.round_tag = "there", ["earlier"], "b/{}".format
    monkeypatch.setattr(rounds, "warm", lambda *where, **tag: did.append(("warm", *where, tag)))
    monkeypatch.setattr(rounds, "watch", lambda *given: did.append(("watch", *given)))
    source = SimpleNamespace(ask=lambda: did.append("ask") or "known")

    rounds._run_wave(batch, 2, [OTHER, far, ONE], source)

    runs = batch.runs[1:]
    tag = {"round_tag": "b/2"}
    assert did == [
        *("ask", ("warm", "there", "eu-west-1", tag), ("warm", "there", "sa-east-1", tag)),
        ("watch", batch, runs, "known"),
    ]
    assert [(each.prepared, each.round, each.index) for each in runs] == [
        *((OTHER, 2, 2), (far, 2, 0), (ONE, 2, 1))
    ]


@pytest.fixture
def collecting(monkeypatch):
    """What ``_collect`` does with a batch, in order."""
    did = []

    @contextmanager
    def tolerating():
        did.append("tolerating")
        yield

    batch = SimpleNamespace(
        stopping=SimpleNamespace(by=None),
        stop_words=lambda: "words",
        begin=lambda notes: did.append(("begin", notes)),
        tolerating_log_errors=tolerating,
        on_wait=None,
        unwritten=False,
        makes_events=True,
    )
    monkeypatch.setattr(rounds, "_guard", lambda _: "guard")
    monkeypatch.setattr(rounds, "make_events", lambda batch: batch.makes_events)
    monkeypatch.setattr(rounds, "_run_rounds", lambda *_: did.append("rounds"))
    monkeypatch.setattr(rounds, "finish", lambda _, guard: did.append(("finish", guard)))
    summary = SimpleNamespace(last_line=lambda: "the end")
    monkeypatch.setattr(rounds, "summary_of", lambda *_: summary)
    monkeypatch.setattr(rounds, "write_line", did.append)
    batch.collect = lambda guard=True: rounds._collect(
        batch, SimpleNamespace(warnings={}), {"a": 1}, guard=guard
    )
    return batch, did, summary


def test_a_batch_is_begun_under_its_guard_and_finished_however_it_ends(collecting, monkeypatch):
    batch, did, summary = collecting

    assert batch.collect() is summary
    assert did == [("begin", {"a": 1}), "tolerating", "rounds", ("finish", "guard")]
    assert not batch.unwritten
    did.clear()
    batch.makes_events = False  # then it could not be measured as asked for: nothing is launched
    batch.collect(guard=False)
    assert did == [("begin", {"a": 1}), "tolerating", ("finish", None)]
    did.clear()
    monkeypatch.setattr(rounds, "make_events", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        batch.collect()
    assert did[-1] == ("finish", "guard")
    assert batch.unwritten


@pytest.mark.parametrize(
    ("by", "on_wait", "written"),
    [("SIGINT", None, True), (None, None, False), ("SIGINT", print, False), (None, print, False)],
)
def test_a_stop_is_answered_with_the_end_where_no_view_shows_it(collecting, by, on_wait, written):
    batch, did, _ = collecting
    batch.stopping.by, batch.on_wait = by, on_wait
    batch.collect()

    assert ("the end" in did) is written


def test_by_default_a_batch_is_one_guarded_round_with_scores_and_advisor_but_no_t3_and_no_events(
    in_process, log, monkeypatch
):
    asked = []
    monkeypatch.setattr(rounds, "FeatureSource", lambda *_, **given: given)
    monkeypatch.setattr(rounds, "_collect", lambda *given, **how: asked.append((given, how)) or 1)
    checked = PreflightReport(None, None, (ONE, OTHER), {})

    assert rounds.collect_batch(in_process(scripted()), checked, log=log) == 1
    [((batch, features, notes), how)] = asked
    assert how == {"guard": True}
    assert features == {
        **{"placement_scores": True, "t3": False, "advisor": True, "selection": None}
    }
    assert (notes, batch.last_launches) == ({}, {})
    schedule = batch.schedule
    assert (schedule.rounds, schedule.arm_pause_s, schedule.poll_s) == (1, 60.0, 3.0)
    assert schedule.every_s == 2 * (600 + 60 + 60)  # of two launch methods
    rounds.collect_batch(
        *(in_process(scripted()), checked),
        log=log.with_name("b.jsonl"),
        every_s=2000.0,
        notes={"a": 1},
        last_launches={"x": 2},
    )
    (batch, _, notes), _ = asked[-1]
    assert (batch.schedule.every_s, notes, batch.last_launches) == (2000.0, {"a": 1}, {"x": 2})


YEAR_S = 366 * 86_400


def test_launches_are_polled_every_3_s_and_probes_every_half_second():
    assert (usual_poll_s(Stage.READY), usual_poll_s(Stage.RUNNING)) == (3.0, 3.0)
    assert usual_poll_s(Stage.GRANTED) == 0.5


def test_pauses_and_intervals_end_at_their_limits():
    require_intervals(timeout_s=3.0, poll_s=3.0)
    require_intervals(timeout_s=YEAR_S, poll_s=YEAR_S)
    require_pauses(every_s=1e-9, arm_pause_s=0.0)
    require_pauses(every_s=YEAR_S, arm_pause_s=YEAR_S)
    require_probe_pauses(rounds=2, every_s=300.0, arms=2, arm_pause_s=300.0)
    require_probe_pauses(rounds=1, every_s=1.0, arms=1, arm_pause_s=1.0)
    for timeout_s, poll_s in (
        (3.0, 3.1),
        (3.0, 0.0),
        (3.0, -1.0),
        (3.0, True),
        (3.0, float("inf")),
        (YEAR_S + 1, 3.0),
    ):
        with pytest.raises(
            ValueError, match=r"(poll|timeout)_s must be above 0 and at most .*, got"
        ):
            require_intervals(timeout_s=timeout_s, poll_s=poll_s)
    for every_s in (0.0, -1.0, YEAR_S + 1, float("nan")):
        with pytest.raises(ValueError, match="every_s must be above 0 and at most 31622400"):
            require_pauses(every_s=every_s, arm_pause_s=0.0)
    for pause_s in (-1e-9, YEAR_S + 1, float("nan")):
        with pytest.raises(ValueError, match="arm_pause_s must be from 0 to 31622400"):
            require_pauses(every_s=1.0, arm_pause_s=pause_s)
    with pytest.raises(ValueError, match="every_s must be at least 300 seconds, got 299"):
        require_probe_pauses(rounds=2, every_s=299.0, arms=1, arm_pause_s=0.0)
    with pytest.raises(ValueError, match="arm_pause_s must be at least 300 seconds, got 299"):
        require_probe_pauses(rounds=1, every_s=1.0, arms=2, arm_pause_s=299.0)


def test_rounds_are_at_most_a_million_and_ten_years():
    require_end(rounds=1, every_s=YEAR_S * 11.0)  # of one round nothing comes after it
    require_end(rounds=1_000_000, every_s=300.0)
    require_end(rounds=11, every_s=YEAR_S)
    for count in (0, -1, 1_000_001, 2.0, True, "2"):
        with pytest.raises(ValueError, match=r"rounds must be a whole number from 1 to 1000000, g"):
            require_end(rounds=count, every_s=1.0)
    for count, every_s in ((11, YEAR_S + 0.1), (12, YEAR_S)):
        with pytest.raises(ValueError, match="would take more than ten years"):
            require_end(rounds=count, every_s=every_s)

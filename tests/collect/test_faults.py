"""Every network and API fault at every call of a batch, clocks that step, machines that sleep, and
credentials that expire.

Each test checks that nothing is launched twice, the other plans go on, every launched request has
one outcome, nothing is left, and nothing of others is touched.
"""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial

import boto3
import pytest
from botocore.loaders import create_loader
from botocore.session import get_session
from conftest import NANO, QUICK, plan_for, read_events, scripted
from crashing import (
    DEFAULT,
    EACH_ARM,
    EMPTY,
    NAME,
    in_process,
    require_recovered,
    rows_of,
    short_batch,
    short_world,
    swept,
)

from spotlib.cleanup.close import settle
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import Login
from spotlib.ec2.endpoints import connect_in_process
from spotlib.record.tables import load_launches
from spotlib.sandbox.faults import KINDS, Fault
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate, World

SLOW = Fate(boot_s=10.0, ok_s=200.0)
BURST = 12


@pytest.fixture(scope="module", params=EACH_ARM)
def arm(request):
    """How the batch launches."""
    return request.param


@pytest.fixture(scope="module")
def calls(tmp_path_factory, arm):
    """The calls of a batch without faults, from its first step on."""
    world, log, before = short_world(), tmp_path_factory.mktemp("calls") / NAME, []
    short_batch(in_process(world), log, lambda _: before.append(len(world.calls)), arm=arm)
    return world.calls[before[0] :]


def strikable(calls, kind):
    """The number of calls that a fault of this kind counts.

    A fault of answers does not count a call that EC2 refuses, as the launch of what is held.
    """
    of_answers = KINDS[kind][0]
    return sum(not of_answers or each.code is None for each in calls)


def struck(log, *faults, arm=DEFAULT):
    """Collect the short batch, with faults in place from its first call on."""
    world = short_world()
    connection = in_process(world)

    def strike(_):
        if not world.faults:
            world.faults += faults

    summary = short_batch(connection, log, strike, arm=arm)
    if not summary.cleaned.confirmed:  # the faults lasted longer than the batch waits
        world.faults.clear()
        swept(world, log)
    return world, summary


def require_no_harm(world, log, where):
    events, _ = read_events(log)
    launched = Counter(each["token"] for each in rows_of(world).values())
    requested = [each for each in events if each["event"] in ("requested", "refused")]
    assert set(launched.values()) <= {1, 2}, where  # at most each plan's two, never twice
    assert {each["plan"] for each in requested} == {0, 1}, where  # the other plan went on
    assert world.leftovers() == EMPTY, where
    assert world.touched == [], where
    known = load_launches(log)
    assert known["outcome"].notna().all(), where
    assert len(known) == 4, where
    ended = Counter(each["request_id"] for each in events if each["event"] == "outcome")
    assert set(ended.values()) <= {1}, where


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_fault_at_any_call_does_no_harm(calls, arm, tmp_path, sampled, kind):
    numbers = range(1 + sorted(KINDS).index(kind), strikable(calls, kind) + 1)
    for number in sampled(numbers, 60):
        log = tmp_path / str(number) / NAME
        world, summary = struck(log, Fault(kind=kind, nth=number, seconds=6.0), arm=arm)
        assert summary.cleaned.confirmed, (kind, number)
        assert world.fired, (kind, number)
        require_no_harm(world, log, (kind, number))


@pytest.mark.parametrize("kind", ["throttled", "refused", "lose_answer", "black_hole", "expired"])
def test_a_burst_of_faults_from_any_call_on_does_no_harm(calls, arm, tmp_path, sampled, kind):
    """A dozen calls in a row fail: more than the attempts of a request call."""
    for number in sampled(range(1, strikable(calls, kind) + 1), 66, whole=3):
        log = tmp_path / str(number) / NAME
        burst = [Fault(kind=kind, nth=number + k, seconds=6.0) for k in range(BURST)]
        world, _ = struck(log, *burst, arm=arm)
        assert world.fired, (kind, number)
        require_no_harm(world, log, (kind, number))


class Stepped(VirtualClock):
    """A machine whose wall clock is off by ``by_s`` from ``at_s`` on."""

    def __init__(self, world, *, by_s, at_s=0.0):
        super().__init__(world)
        self._by, self._at_s = by_s, at_s

    def utc(self):
        late = self.now_s() >= self._at_s
        return super().utc() + timedelta(seconds=self._by if late else 0.0)


class Asleep(VirtualClock):
    """A machine that sleeps once: the world goes on, its own clock may stop (as on macOS)."""

    def __init__(self, world, *, at_s, for_s=600.0, stops):
        super().__init__(world)
        self._world_, self._at_s, self._for_s, self._stops = world, at_s, for_s, stops
        self.slept_s = 0.0

    def now_s(self):
        return super().now_s() - (self.slept_s if self._stops else 0.0)

    def sleep(self, seconds):
        super().sleep(seconds)
        if not self.slept_s and self._world_.now_s >= self._at_s:
            self._world_.advance(self._for_s)
            self.slept_s = self._for_s


def collected(world, clock, log, *, session=None, n=2, **given):
    connection = connect_in_process(world, partial(attach, world))
    connection.clock = clock
    if session is not None:
        connection.open_session = session
    checked = plan_for(connection, NANO, n=n, timeout_s=given.pop("timeout_s", 120))
    summary = collect_batch(
        connection, checked, log=log, seed=1, placement_scores=False, guard=False, **given
    )
    return summary, read_events(log)[0]


def measured(events):
    """What was measured: everything except the dates."""
    kept = [each for each in events if each["event"] in ("poll", "stage", "outcome", "requested")]
    return [{name: each[name] for name in each if name != "at"} for each in kept]


@pytest.mark.parametrize("by_s", [3600.0, -3600.0])
@pytest.mark.parametrize("at_s", [0.0, 12.0], ids=["from the start", "in the middle"])
def test_a_wall_clock_that_is_set_by_an_hour_changes_no_measurement(tmp_path, by_s, at_s):
    """Durations are from a clock that never steps, ValidUntil is from EC2's own Date."""
    fates = (QUICK, Fate(held_s=None))
    world, plain = scripted(*fates), scripted(*fates)
    clock = Stepped(world, by_s=by_s, at_s=at_s)

    summary, events = collected(world, clock, tmp_path / NAME)
    _, expected = collected(plain, VirtualClock(plain), tmp_path / "plain" / NAME)

    assert measured(events) == measured(expected)
    ends = [each["valid_until"] for each in events + expected if each["event"] == "intent"]
    assert len(set(ends)) == 1
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("stops", [False, True], ids=["clock goes on", "clock stops"])
@pytest.mark.parametrize("after_s", [3.0, 9.0, 40.0])
def test_a_machine_that_sleeps_ten_minutes_measures_nothing_untrue(tmp_path, stops, after_s):
    """The gap is recorded as missed polls; a stage reached within it has a bracket as wide."""
    world = scripted(QUICK, Fate(boot_s=20.0, ok_s=100.0), Fate(held_s=None))
    plan_for(connect_in_process(world, partial(attach, world)), NANO, n=3)
    clock = Asleep(world, at_s=world.now_s + 2 + after_s, stops=stops)

    summary, events = collected(world, clock, tmp_path / NAME, n=3)

    assert clock.slept_s == 600.0
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    truth = {each["request_id"]: each["seen_s"] for each in world.truth()}
    began_s = (datetime.fromisoformat(events[0]["started_at"]) - world.epoch).total_seconds()
    for each in (event for event in events if event["event"] == "stage"):
        seen_s = truth[each["request_id"]][each["stage"]] - began_s
        if stops and seen_s - each["by_s"] > 1:  # its own seconds do not contain the sleep
            seen_s -= 600.0
        assert each["after_s"] - 0.001 <= seen_s <= each["by_s"] + 0.001
    if not stops:
        skipped = [each for each in events if each["event"] == "skipped"]
        assert sum(len(each["polls"]) for each in skipped) >= 195
        assert max(each["watched_s"] for each in events if each["event"] == "outcome") < 800


def keys(world, *, renewed_after_s):
    """Return ``open_session`` of a credentials file: old keys first, later new ones."""
    renewed_at_s, models = world.now_s + renewed_after_s, create_loader()

    def open_session():
        name = "new" if world.now_s >= renewed_at_s else "old"
        session = get_session()
        session.register_component("data_loader", models)  # reading them takes half a second
        keys = {"aws_access_key_id": name, "aws_secret_access_key": "none"}
        return boto3.Session(botocore_session=session, **keys)

    return open_session


def expiring(world, after_s):
    """From then on the old key is refused for good."""
    world.faults.append(Fault(kind="expired", from_s=world.now_s + after_s))


def test_credentials_renewed_while_the_batch_runs_are_used_from_then_on(tmp_path):
    """A client keeps the keys it was made with, and so do new clients of its Session."""
    world = scripted(SLOW)
    expiring(world, 20.0)

    summary, events = collected(
        world,
        VirtualClock(world),
        tmp_path / NAME,
        session=keys(world, renewed_after_s=60.0),
        n=1,
        timeout_s=400,
    )

    lost = [each for each in events if each["event"] == "poll" and each["error"]]
    assert {each["error"].split(":")[0] for each in lost} == {"RequestExpired"}
    assert 10 <= len(lost) <= 15
    assert summary.outcomes == {"ready": 1}
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize(
    "after_s", [7.0, 15.0, *(pytest.param(each, marks=pytest.mark.chaos) for each in (10.0, 30.0))]
)
def test_a_batch_whose_credentials_expired_for_good_is_closed_by_a_sweep(
    tmp_path, monkeypatch, after_s
):
    """The batch reports that it is not confirmed; a sweep with new keys closes it and its log."""
    monkeypatch.setattr("spotlib.collect.ending.settle", partial(settle, give_up_s=60.0))
    world = scripted(SLOW, Fate(held_s=None))
    expiring(world, after_s)
    log = tmp_path / NAME

    summary, events = collected(
        world, VirtualClock(world), log, session=keys(world, renewed_after_s=1e9), timeout_s=60
    )
    left = world.leftovers()
    report = swept(world, log)

    assert not summary.cleaned.confirmed
    assert any("NOT confirmed that nothing is left" in each for each in summary.problems)
    seen = {each["instance_id"] for each in events if each["event"] == "stage"} - {None}
    by_hand = " ".join(summary.problems)
    assert f"-m spotlib sweep --batch {log.stem}" in by_hand
    assert "cancel-spot-instance-requests" in by_hand
    assert all(name in by_hand for name in seen)
    assert left["instances"]
    assert report.clean
    require_recovered(world, log, events)


def by_environment(world):
    """Connect as to AWS, with the credentials of the environment."""
    clock, login = VirtualClock(world), Login()
    return Connection("aws", clock, login.open, attach=partial(attach, world), login=login)


def test_a_batch_that_outlives_its_credentials_is_refused(tmp_path, monkeypatch):
    """Without credentials nothing can be terminated: refused before anything is sent."""
    now_at = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", (now_at + timedelta(minutes=30)).isoformat())
    world = World(epoch=now_at)
    connection = by_environment(world)
    checked = plan_for(connection, NANO, n=1)

    with pytest.raises(ValueError, match=r"the credentials end at .* renew them"):
        collect_batch(connection, checked, log=tmp_path / NAME, rounds=2, guard=False)
    assert not (tmp_path / NAME).exists()
    assert world.truth() == []
    assert checked.credentials_end_at == now_at + timedelta(minutes=30)
    summary = collect_batch(connection, checked, log=tmp_path / NAME, guard=False)
    assert summary.cleaned.confirmed


def test_credentials_that_do_not_say_when_they_end_refuse_nothing(tmp_path):
    world = World()
    connection = by_environment(world)

    checked = plan_for(connection, NANO, n=1)

    assert checked.credentials_end_at is None
    assert collect_batch(connection, checked, log=tmp_path / NAME, guard=False).cleaned.confirmed
    assert "aws_session_token" not in json.dumps(read_events(tmp_path / NAME)[0]).lower()

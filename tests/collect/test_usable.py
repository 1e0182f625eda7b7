"""The stage USABLE: what is recorded is true, few calls are made, and nothing waits for them."""

import base64
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import ARM, NANO, plan_for, read_events, scripted
from crashing import EMPTY, rows_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spotlib.__main__ import main
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.launch_times import launch_times
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.collect.usable import MOST_AT_ONCE, Consoles, stamped
from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.policy import policy
from spotlib.model import ARMS, Stage, Target, plan_launches
from spotlib.record.tables import load_launches, load_polls
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.market import Market
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import Fate, Forms, Guests
from spotlib.stamp import SERVERS_S, SYNCHRONISED_S, Dated, Stamp
from spotlib.track import Bracket, Sighting, Track

READ = "GetConsoleOutput"
XEN = Target("m4.large", "us-east-1")
SLOW = Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=70.0)
USABLE = {"wanted": Stage.USABLE}
BESIDE = {"usable": True}


class OffClock(VirtualClock):
    """A clock that shows another time than the market's, and runs at another rate."""

    def __init__(self, world, *, ahead_s=0.0, drift=0.0):
        super().__init__(world)
        self.ahead_s, self.drift = ahead_s, drift

    def of(self, world_s):
        return world_s * (1 + self.drift) + self.ahead_s

    def now_s(self):
        return self.of(super().now_s())

    def utc(self):
        return super().utc() + timedelta(seconds=self.ahead_s)

    def sleep(self, seconds):
        super().sleep(seconds / (1 + self.drift))


def collected(in_process, world, log, *targets, n=2, timeout_s=120.0, poll_s=3.0, **plan):
    connection = in_process(world)
    checked = plan_for(connection, *targets, n=n, timeout_s=timeout_s, **plan)
    return collect_batch(connection, checked, log=log, poll_s=poll_s, seed=1, guard=False)


def usable_s(world, events, began_s=0.0):
    """When each guest wrote its stamp, by row, from the log's beginning."""
    return {
        row: each["happened_s"]["usable"] - began_s
        for row, each in rows_of(world, events).items()
        if "usable" in each["happened_s"]
    }


def stamps(log):
    return [e for e in read_events(log)[0] if e["event"] == "stage" and e["stage"] == "usable"]


fates = st.builds(
    Fate,
    evaluate_s=st.floats(0.05, 5.0),
    held_s=st.one_of(st.none(), st.floats(0.0, 20.0)),
    in_flight_s=st.floats(0.0, 8.0),
    boot_s=st.floats(0.5, 30.0),
    ok_s=st.one_of(st.none(), st.floats(1.0, 90.0)),
    interrupted_s=st.one_of(st.none(), st.none(), st.floats(0.0, 60.0)),
)
guests = st.builds(
    Guests,
    clock_off_s=st.sampled_from([None, 3600.0, -3600.0, 0.99, -0.99]),
    synchronised_s=st.sampled_from([None, 0.0, 12.0, 3600.0]),
    silent_share=st.sampled_from([0.0, 0.0, 0.5]),
    metadata=st.booleans(),
)


@settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    fates=st.lists(fates, min_size=4, max_size=4),
    guests=guests,
    asked=st.tuples(
        st.sampled_from([USABLE, BESIDE]), st.sampled_from(ARMS), st.integers(0, 2**31)
    ),
    ours=st.tuples(st.floats(-7200.0, 7200.0), st.floats(-4e-4, 4e-4)),
    lost=st.sets(st.integers(1, 12), max_size=5),
)
def test_every_bracket_contains_its_moment(in_process, *, fates, guests, asked, ours, lost):
    """Random fates, guests, launch methods, lost reads, and a clock of ours that is off."""
    plan, arm, seed = asked
    world = scripted(
        *fates, seed=seed, guests=guests, forms=Forms(ended_console=("kept", "absent")[seed % 2])
    )
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2, timeout_s=60.0, methods=[arm], **plan)
    world.faults.append(_failing(lost))
    clock = connection.clock = OffClock(world, ahead_s=ours[0], drift=ours[1])
    began_s = clock.now_s()

    with TemporaryDirectory() as folder:
        log = Path(folder) / "batch.jsonl"
        summary = collect_batch(connection, checked, log=log, seed=seed)
        launches, polls, found = load_launches(log), load_polls(log), stamps(log)
        events, _ = read_events(log)

    truth = {row: clock.of(at_s) - began_s for row, at_s in usable_s(world, events).items()}
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    for event in found:
        assert event["after_s"] < truth[event["request_id"]] <= event["by_s"], event
    seen = {each["request_id"] for each in found}
    sent_s = {(e["round"], e["plan"]): e["asked_s"] for e in events if e["event"] == "requested"}
    for _, row in launches[launches["request_id"].notna()].iterrows():
        name = row["request_id"]
        assert np.isfinite(row["usable_by_s"]) == (name in seen)
        assert np.isfinite(row["usable_watched_s"]) == (name not in seen)
        if name not in seen:  # censoring is true
            moment_s = truth.get(name, np.inf) - sent_s[row["round"], row["plan"]]
            assert moment_s > row["usable_watched_s"]
    assert (polls["usable"].dropna() <= polls["running"].dropna()).all()
    assert polls["error"].isna().all()


def _failing(nths):
    count = 0

    def fault(asked, executed):
        nonlocal count
        if asked.action == READ and not executed:
            count += 1
            if count in nths:
                raise ApiError("InternalError", "a fault", 500)

    return fault


@pytest.mark.parametrize("arm", ARMS)
def test_every_launch_method_sends_the_switch_first_and_records_when_guests_are_usable(
    in_process, log, arm
):
    world = scripted(*[SLOW] * 2)
    summary = collected(in_process, world, log, methods=[arm], **USABLE)

    [intent] = [each for each in read_events(log)[0] if each["event"] == "intent"]
    [script] = _scripts(intent["request"])
    lines = script.splitlines()
    launches = load_launches(log)
    assert lines[0] == "#!/bin/sh"
    assert lines[1].startswith("shutdown -h +")
    assert lines[-1].startswith('echo "spotlib-usable ')
    assert summary.outcomes == {"ready": 2}
    assert launches["usable_by_s"].notna().all()
    assert launches["ready_by_s"].isna().all()
    assert intent["usable"] is True


def _scripts(value):
    """Every user data anywhere in the parameters of a call."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "UserData":
                yield each if each.startswith("#!") else base64.b64decode(each).decode()
            else:
                yield from _scripts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _scripts(each)


def test_a_batch_that_does_not_ask_reads_no_console_and_names_no_such_stage(in_process, log):
    world = scripted(*[SLOW] * 2)
    collected(in_process, world, log)

    assert READ not in {each.action for each in world.calls}
    assert "usable" not in log.read_text()
    assert load_launches(log).filter(regex="usable|guest").isna().all(axis=None)
    assert load_polls(log)["usable"].isna().all()


def test_waiting_for_usable_ends_a_launch_minutes_before_its_checks(in_process, log):
    world = scripted(*[SLOW] * 2)
    collected(in_process, world, log, **USABLE)

    launches = load_launches(log)
    assert (launches["watched_s"] < 40.0).all()
    assert (launches["guest_uptime_s"] > 10.0).all()
    assert launches["guest_at"].notna().all()
    assert launches["guest_synchronised"].notna().all()
    polls = load_polls(log)
    assert (polls["usable"].iloc[0], polls["usable"].iloc[-1]) == (0, 2)


def test_a_stamp_that_is_read_after_the_last_poll_before_the_timeout_counts(in_process, log):
    """Polls are 20 s apart: after one of them a console is read, and then time is up."""
    late = set()
    for timeout_s in (30.0, 36.0, 42.0, 48.0, 54.0):
        path = log.with_stem(f"20240901T000000Z-{timeout_s:.0f}")
        collected(
            in_process, scripted(*[SLOW] * 2), path, timeout_s=timeout_s, poll_s=20.0, **USABLE
        )
        events = [each for each in read_events(path)[0] if each["event"] != "console"]
        names = [each.get("stage", each["event"]) for each in events]
        last_poll, first_outcome = names[::-1].index("poll"), names.index("outcome")
        between = events[len(names) - last_poll : first_outcome]
        heard = {each["request_id"] for each in between if each.get("stage") == "usable"}
        launches = load_launches(path).set_index("request_id")
        assert launches.loc[[*heard], "outcome"].eq("ready").all()
        late |= heard
    assert late


def test_few_calls_are_made_at_once_and_fewer_and_fewer_of_one_guest(in_process, log):
    """Of eight guests that never say anything, in ten minutes."""
    world = scripted(*[Fate(boot_s=5.0, ok_s=None)] * 8, guests=Guests(silent_share=1.0))
    collected(in_process, world, log, n=8, timeout_s=600.0, **BESIDE)

    actions = [each.action for each in world.calls]
    between = [
        some.split().count(READ) for some in " ".join(actions).split("DescribeInstanceStatus")
    ]
    reads = Counter(e["instance_id"] for e in read_events(log)[0] if e["event"] == "console")
    assert max(between[:-1]) <= MOST_AT_ONCE
    assert set(reads.values()) <= set(range(10, 22))


def test_an_endpoint_that_tells_no_date_keeps_no_stamp_from_being_recorded(
    in_process, log, monkeypatch
):
    """Then the bracket is what our own clock says: from the request to the read."""
    monkeypatch.setattr(Consoles, "hear", lambda *_: None)
    world = scripted(*[SLOW] * 2)
    summary = collected(in_process, world, log, **USABLE)

    assert summary.outcomes == {"ready": 2}
    assert (load_launches(log)["usable_after_s"] == 0.0).all()
    assert world.leftovers() == EMPTY


def test_a_read_that_fails_is_no_missed_poll_and_says_nothing_of_the_guest(in_process, log):
    world = scripted(*[SLOW] * 2)
    world.faults.append(Fault(kind="internal_error", action=READ))
    summary = collected(in_process, world, log, **BESIDE)

    launches = load_launches(log)
    assert summary.outcomes == {"ready": 2}
    assert load_polls(log)["error"].isna().all()
    assert launches["usable_by_s"].isna().all()
    assert (launches["usable_watched_s"] == launches["running_after_s"]).all()
    failed = [each for each in read_events(log)[0] if each["event"] == "console"]
    assert all("InternalError" in each["error"] for each in failed)


@pytest.mark.parametrize("ended_console", ["kept", "absent"])
def test_a_stamp_that_is_posted_too_late_is_read_after_the_end(in_process, log, ended_console):
    market = Market()
    market.numbers = replace(market.numbers, console_end_most_s=1.0)
    fates = [Fate(boot_s=5.0, ok_s=17.0)] * 2
    world = scripted(*fates, market=market, forms=Forms(ended_console=ended_console))
    world.faults.append(Fault(kind="internal_error", action=READ, to_s=world.now_s + 40.0))
    collected(in_process, world, log, **BESIDE)

    launches, events = load_launches(log), read_events(log)[0]
    names = [each.get("stage", each["event"]) for each in events]
    assert launches["usable_by_s"].notna().any()
    assert launches["outcome"].eq("ready").all()
    assert names.index("outcome") < names.index("usable") < names.index("clean")
    last = [each for each in events if each["event"] == "console" and each["last"]]
    assert len(last) == launches["usable_by_s"].isna().sum()


def test_a_guest_whose_whole_console_says_nothing_was_not_usable_while_it_was_watched(
    in_process, log
):
    """It is ready, and ended, before its user data run."""
    world = scripted(*[Fate(boot_s=5.0, ok_s=4.0)] * 2)
    collected(in_process, world, log, **BESIDE)

    launches = load_launches(log)
    assert usable_s(world, read_events(log)[0]) == {}
    assert launches["usable_by_s"].isna().all()
    assert (launches["usable_watched_s"] == launches["watched_s"]).all()


def test_clean_up_neither_waits_for_a_read_nor_fails_by_it(in_process, log, monkeypatch):
    took_s = {}
    for name, kind in (("none", None), ("lost", "black_hole"), ("broken", None)):
        fates = [Fate(boot_s=5.0, ok_s=4.0)] * 30
        world = scripted(*fates, guests=Guests(silent_share=1.0), seed=1)
        if kind:
            world.faults.append(Fault(kind=kind, action=READ))
        if name == "broken":
            monkeypatch.setattr("spotlib.collect.watch.read_console", _broken)
        path = log.with_stem(f"20240901T000000Z-{name}")
        summary = collected(in_process, world, path, n=30, **BESIDE)
        [clean] = [each for each in read_events(path)[0] if each["event"] == "clean"]
        took_s[name] = clean["at_s"]
        assert summary.cleaned.confirmed, name
        assert world.leftovers() == EMPTY
        assert not summary.problems
    assert "were not read: RuntimeError" in " ".join(summary.warnings)
    unread = load_launches(path)
    assert (unread["usable_watched_s"] == unread["running_after_s"]).all()
    assert took_s["lost"] - took_s["broken"] < 30.0


def _broken(*_, **__):
    raise RuntimeError("a fault of ours")


def test_a_type_without_nitro_is_warned_of_and_not_read(in_process, log):
    world = scripted(*[SLOW] * 4)
    connection = in_process(world)
    plans = plan_launches([XEN, NANO], count=2, timeout_s=120.0, usable=True)
    checked = preflight(connection, plans)
    collect_batch(connection, checked, log=log, seed=1, guard=False)

    assert [each for each in checked.warnings if "m4.large is not on Nitro" in each]
    launches = load_launches(log).set_index("instance_type")
    assert launches.loc["t3.nano", "usable_by_s"].notna().all()
    assert launches.loc["m4.large"].filter(regex="usable|guest").isna().all(axis=None)
    assert launches["ready_by_s"].notna().all()


def test_a_plan_that_waits_for_what_cannot_be_seen_is_refused(in_process):
    connection = in_process(scripted())
    checked = preflight(connection, plan_launches([XEN, NANO], count=1, **USABLE))

    [problem] = checked.problems
    assert problem == (
        "m4.large is not on Nitro, so when a guest is usable cannot be seen: wait for 'ready', or "
        "choose another type or image"
    )


def test_the_policy_has_the_permission_only_where_it_is_asked_for(in_process, capsys):
    allowed = {
        usable: {
            action
            for each in policy(["request_spot_instances"], usable=usable)["Statement"]
            for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
        }
        for usable in (False, True)
    }
    assert allowed[True] - allowed[False] == {"ec2:GetConsoleOutput"}
    assert main(["policy", "--usable"]) == 0
    assert json.loads(capsys.readouterr().out) == policy(["request_spot_instances"], usable=True)

    world = scripted(denied=("ec2:GetConsoleOutput",))
    connection = in_process(world)
    warned = preflight(connection, plan_launches([NANO], count=1, **BESIDE))
    refused = preflight(connection, plan_launches([NANO], count=1, **USABLE))
    [warning] = [each for each in warned.warnings if "usable cannot be seen" in each]
    [problem] = refused.problems
    assert "ec2:GetConsoleOutput" in warning
    assert problem == warning
    assert not preflight(connection, plan_launches([NANO], count=1)).warnings


@pytest.mark.parametrize("off_s", [None, 3600.0])
def test_the_median_of_usable_is_that_of_the_truth(in_process, log, off_s):
    """To 0.1 s, and the error of clocks that the brackets state."""
    spread = [Fate(boot_s=3.0 + 0.3 * number, ok_s=None) for number in range(60)]
    usual = Guests(clock_off_s=off_s, synchronised_s=5.0)
    world = scripted(*spread, guests=usual, quota_vcpus=4000)
    collected(in_process, world, log, n=60, **USABLE)

    rows = load_launches(log)
    rows = rows[rows["usable_by_s"].notna()]
    events = read_events(log)[0]
    [sent_s] = [each["asked_s"] for each in events if each["event"] == "requested"]
    began = datetime.fromisoformat(events[0]["started_at"]) - world.epoch
    moments = usable_s(world, events, began.total_seconds())
    truth_s = [moments[name] - sent_s for name in rows["request_id"]]
    [times] = launch_times(name_runs(rows), Stage.USABLE).values()
    width_s = rows["usable_by_s"] - rows["usable_after_s"]
    assert len(rows) == 60
    assert rows["guest_synchronised"].all()
    assert width_s.max() <= 2 * (SYNCHRONISED_S + SERVERS_S) + 0.5
    assert abs(times.quantile(0.5).value - np.median(truth_s)) <= 0.1 + SYNCHRONISED_S + SERVERS_S
    middles_s = (rows["usable_after_s"] + rows["usable_by_s"]) / 2
    assert abs(float(np.median(middles_s - truth_s))) <= 0.1


def test_a_stamp_that_does_not_say_when_its_instance_began_is_bounded_by_ec2s_launch_time():
    """In an image without curl; the dates say that EC2's time and our clock agree to a second."""
    sent_at = datetime(2026, 1, 1, tzinfo=UTC)
    at = {s: sent_at + timedelta(seconds=s) for s in range(100)}
    stamp = Stamp(12.0, 15.0, at[35], "8f0f5a3e-0b1c-4d2e-9f3a-112233445566", None, False)
    dates = [Dated(s, s + 0.01, at[s]) for s in (1, 40)]
    shown = Sighting(instance_id="i-1", instance_state="running", launched_at=at[20])

    track = stamped(Track("sir-1", 0.0, sighting=shown), stamp, Bracket(0.0, 60.0), dates)

    found = track.brackets[Stage.USABLE]
    assert found.after_s == pytest.approx(20 + 12 - SERVERS_S, abs=1.1)
    assert found.by_s == 60.0

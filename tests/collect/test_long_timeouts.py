"""A request may end hours before its batch, and EC2 forgets it: the batch is clean all the same.

EC2 lists an ended instance for an hour, and an ended request for four.
"""

import copy
import re

import pytest
from conftest import ARM, NANO, QUICK, plan_for, scripted
from crashing import DEFAULT, EMPTY, collect_plain, in_process, swept, visiting

from spotlib.ec2.connection import Connection
from spotlib.model import PURCHASES
from spotlib.record.replay import replay
from spotlib.sandbox.world import Fate, World

INTERRUPTED = Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=12.0, interrupted_s=90.0)
NEVER = Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=None)
CANCELLED = Fate(evaluate_s=0.3, held_s=None, cancelled_s=300.0)  # it had no instance
LONG_S = dict.fromkeys(PURCHASES, 7200.0) | {DEFAULT: 5 * 3600.0}
BOTH = [DEFAULT, "run_instances", "create_fleet_request"]


def collect(world, log, arm, visit=lambda _: None, targets=(NANO, ARM)):
    """Two instances of each target, with a poll each four minutes."""
    connection = in_process(world)
    checked = plan_for(connection, *targets, n=2, timeout_s=LONG_S[arm], methods=[arm])
    with visiting(visit):
        return collect_plain(connection, checked, log=log, poll_s=240.0)


def by_type(nano, arm):
    """The world in which the instances of each target have these fates, one after the other."""
    fates = {"t3.nano": iter(nano), "t4g.medium": iter(arm)}
    return World(script=lambda request: next(fates[request.pool.instance_type]))


def dead_after(elapsed_s, world, log, arm, **given):
    """The world and the log of a batch whose machine was lost at this time."""
    began_s, found = world.now_s, []

    def visit(_):
        if not found and log.exists() and world.now_s >= began_s + elapsed_s:
            found.append((copy.deepcopy(world), log.read_bytes()))

    collect(world, log, arm, visit, **given)
    [(dead, lines)] = found
    log.write_bytes(lines)
    return dead


@pytest.mark.parametrize(
    "arm", [pytest.param(each, marks=[pytest.mark.chaos] * (each not in BOTH)) for each in LONG_S]
)
@pytest.mark.parametrize("early", [QUICK, INTERRUPTED, CANCELLED], ids=["ready", "lost", "none"])
def test_what_ended_hours_before_its_batch_is_confirmed_at_once(log, arm, early):
    """Of another run, or of the same: that one is watched until its last request has ended."""
    if early is CANCELLED and arm != DEFAULT:
        pytest.skip("only a request can end without an instance")
    world = by_type([QUICK, QUICK], [early, NEVER])
    began_s = world.now_s

    summary = collect(world, log, arm)

    took_s = world.now_s - began_s
    assert summary.cleaned.confirmed
    assert LONG_S[arm] < took_s < LONG_S[arm] + 300.0
    assert summary.outcomes["timed_out"] == 1
    assert summary.outcomes["ready"] == (2 if early is CANCELLED else 3)
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("arm", BOTH)
def test_a_sweep_after_a_late_crash_confirms_it_from_the_log_alone(log, arm):
    world = dead_after(LONG_S[arm] - 900.0, by_type([QUICK, QUICK], [INTERRUPTED, NEVER]), log, arm)
    began_s = world.now_s

    report = swept(world, log)

    assert report.clean, report.lines()
    assert world.now_s - began_s < 120.0
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("arm", BOTH)
@pytest.mark.parametrize("lacking", [False, True])
def test_a_sweep_hours_after_a_crash_asks_for_what_its_log_does_not_call_over(log, arm, lacking):
    """A log that does not say what was seen ended: what is not found is not taken for ended."""
    world = dead_after(1000.0, by_type([QUICK, QUICK], [INTERRUPTED, NEVER]), log, arm)
    if lacking:  # as older ones
        log.write_text(re.sub(r'"over":\[[^]]*\],', "", log.read_text()))
    world.advance(LONG_S[arm] - 2000.0)

    report = swept(world, log, give_up_s=60.0)

    assert report.clean is not lacking, report.lines()
    assert world.leftovers() == EMPTY


def hide(monkeypatch, world, from_s):
    """From then on the first instance is neither described nor terminated, but runs."""
    call = Connection.call

    def hiding(self, region, action, /, **given):
        if world.now_s < from_s:
            return call(self, region, action, **given)
        name = world.truth()[0]["instance_id"]
        if action == "terminate_instances":
            given["InstanceIds"] = [each for each in given["InstanceIds"] if each != name]
        reply = call(self, region, action, **given)
        for each in reply.get("Reservations", []):
            each["Instances"] = [one for one in each["Instances"] if one["InstanceId"] != name]
        return reply

    monkeypatch.setattr(Connection, "call", hiding)


def test_an_instance_that_still_runs_is_not_confirmed_away_however_long_nobody_finds_it(
    log, monkeypatch
):
    """It was ready early, and not seen since; hours later it may be forgotten, or not found."""
    monkeypatch.setattr("spotlib.collect.cost.SWITCH_MARGIN_S", 36000)  # it does not end itself
    world = scripted(QUICK, NEVER)
    hide(monkeypatch, world, world.now_s + 60.0)

    summary = collect(world, log, "run_instances", targets=(NANO,))

    runs = world.truth()[0]["instance_id"]
    assert world.leftovers()["instances"] == [runs]
    assert not summary.cleaned.confirmed
    assert summary.cleaned.live_instances[NANO.region] == [runs]
    assert runs not in replay(log).over


def test_a_sweep_does_not_confirm_it_either(log, monkeypatch):
    world = dead_after(1000.0, scripted(QUICK, NEVER), log, "run_instances", targets=(NANO,))
    hide(monkeypatch, world, world.now_s)
    world.advance(4000.0)

    report = swept(world, log, give_up_s=60.0)

    assert world.leftovers()["instances"] == [world.truth()[0]["instance_id"]]
    assert not report.clean

"""What a batch says while it polls nothing: a stop, the clean-up, the next round, and its end."""

import os
import signal
from copy import deepcopy

import pytest
from conftest import ARM, NANO, QUICK, plan_for, read_events, scripted

from spotlib.cleanup.close import until_quiet_s
from spotlib.cleanup.sweep import sweep
from spotlib.collect.report import ending
from spotlib.collect.rounds import collect_batch
from spotlib.sandbox.world import Fate

NEVER = Fate(held_s=None)
STOPPING = "stopping: cancelling 2 requests, terminating 1 instance, about"


@pytest.fixture
def collect(in_process, log):
    """Collect two requests, of which one is never fulfilled."""

    def collected(*fates, **given):
        connection = in_process(scripted(*(fates or (QUICK, NEVER))))
        checked = plan_for(connection, n=2, timeout_s=60)
        return collect_batch(connection, checked, log=log, seed=1, **given)

    return collected


def stop(progress):
    if progress.elapsed_s > 6:
        signal.raise_signal(signal.SIGINT)


def test_a_stop_is_answered_at_once_with_what_it_ends_and_counts_down(collect, capfd):
    said, at_once = [], []

    def stop_and_read(progress):
        stop(progress)
        at_once.append(capfd.readouterr().err)

    summary = collect(on_poll=stop_and_read, on_wait=said.append)

    assert at_once[-1] == f"{STOPPING} 35 s (SIGINT)\n"
    assert str(said[0]) == f"{STOPPING} 35 s"
    assert {each.words for each in said} == {said[0].words}
    left_s = [each.left_s for each in said]
    assert left_s == sorted(left_s, reverse=True)
    assert left_s[-1] == pytest.approx(10.0, abs=0.1)
    assert summary.cleaned.confirmed


def test_a_stop_without_a_view_is_answered_in_the_terminal_until_it_is_confirmed(
    collect, capfd, monkeypatch
):
    monkeypatch.setattr("os.isatty", lambda _: True)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((200, 10)))

    collect(on_poll=stop)

    lines = capfd.readouterr().err.split("\r\x1b[K")
    assert lines[1] == f"{STOPPING} 35 s (SIGINT)\n"
    assert f"{STOPPING} 32 s" in lines
    assert lines[-1].startswith("open requests 0, live instances 0 (confirmed)")


def test_a_stop_counts_nothing_that_an_ended_plan_has_released(in_process, log):
    connection = in_process(scripted(QUICK, NEVER))
    checked = plan_for(connection, NANO, ARM, n=1, timeout_s=60)
    said = []

    def stop_later(progress):
        if progress.elapsed_s > 30:
            signal.raise_signal(signal.SIGINT)

    collect_batch(connection, checked, log=log, seed=1, on_poll=stop_later, on_wait=said.append)

    assert said[0].words == "stopping: cancelling 1 request, terminating 0 instances"


def test_the_end_of_a_round_and_the_wait_for_the_next_are_counted_down(collect):
    said = []
    collect(rounds=2, every_s=200.0, on_wait=said.append)

    words = list(dict.fromkeys(each.words for each in said))
    assert words == ["making sure that nothing is left", "waiting for round 2 of 2"]


def test_a_stop_between_two_rounds_does_not_clean_up_twice(collect, log):
    said = []

    def once(waiting):
        said.append(waiting)
        if len(said) == 1:
            signal.raise_signal(signal.SIGINT)

    summary = collect(rounds=2, every_s=200.0, on_wait=once)

    events, _ = read_events(log)
    [clean] = [each for each in events if each["event"] == "clean"]
    last_poll_s = max(each["answered_s"] for each in events if each["event"] == "poll")
    assert summary.cleaned.confirmed
    assert clean["at_s"] - last_poll_s < 45, "of which the settle time is 30"


def test_a_view_of_the_wait_that_fails_is_reported_once_and_ends_nothing(collect):
    summary = collect(on_wait=lambda _: 1 / 0)

    assert len(summary.warnings) == 1
    assert "ZeroDivisionError" in summary.warnings[0]
    assert summary.cleaned.confirmed


@pytest.mark.parametrize(
    ("settle_s", "passes", "left_s"),
    [(30, 0, 35), (0, 0, 0), (15, 0, 15), (20, 4, 20)],
)
def test_the_time_until_all_is_confirmed_follows_the_passes_of_clean_up(settle_s, passes, left_s):
    assert until_quiet_s(settle_s, passes) == left_s


def test_launch_templates_and_fleets_are_counted_as_such(in_process, log):
    connection = in_process(scripted(QUICK, NEVER))
    arms = ["create_fleet_instant", "request_spot_instances", "create_fleet_request"]
    checked = plan_for(connection, n=1, timeout_s=60, methods=arms)
    collect_batch(connection, checked, log=log, seed=1)

    deleted = "deleted 1 fleet, deleted 2 launch templates"
    assert f"It cancelled 1 request, {deleted} and terminated" in ending(log)


def test_the_log_alone_says_how_a_batch_ended(collect, log):
    collect()
    whole = log.read_bytes().splitlines(keepends=True)

    did = "It cancelled 2 requests and terminated 1 instance.  Confirmed: nothing is left."
    assert ending(log) == f"Batch {log.stem} ended by itself.\n{did}"
    log.write_bytes(b"".join(whole).replace(b'"rounds":1,', b'"rounds":40,', 1))
    assert (
        ending(log) == f"Batch {log.stem} ended by itself; of its 40 rounds 1 were launched.\n{did}"
    )

    release = next(i for i, line in enumerate(whole) if b'"event":"release"' in line)
    log.write_bytes(b"".join(whole[:release]))
    assert "DEAD, close it with: " in ending(log)
    assert "so far" not in ending(log)


def test_a_log_that_a_sweep_completed_says_what_the_guard_did(in_process, log):
    world = scripted(QUICK, NEVER)
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=60)
    crashed = []

    def copy(progress):
        if progress.elapsed_s > 6 and not crashed:
            crashed.append((deepcopy(world), log.read_bytes()))

    collect_batch(connection, checked, log=log, seed=1, on_poll=copy)
    [(world, recorded)] = crashed
    log.write_bytes(recorded)

    assert sweep(in_process(world), folder=log.parent, regions=[NANO.region]).clean

    said = ending(log)
    assert "was closed by the guard, or by a sweep: its own process had ended" in said
    assert "It cancelled 2 requests and terminated 1 instance.  Confirmed at" in said

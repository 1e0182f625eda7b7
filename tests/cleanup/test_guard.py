"""The guard in this process: how it is started, what it waits for, what a try of it sweeps."""

import io
import os
import signal
import subprocess
import sys
from argparse import Namespace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest
from crashing import EMPTY, NAME, REGIONS, Recorder, in_process, short_batch, short_world

from spotlib.cleanup import guard
from spotlib.cleanup.guard import ALL_CLEAN, NO_KEYS, Guard
from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import SessionKeys, sandbox_session
from spotlib.sandbox.catalogue import regions
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.wire import attach

KEYS = SessionKeys("ASIA", "secret", "token", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def died(tmp_path_factory):
    """A batch that died while some of its instances ran, in an account of three regions."""
    others = regions("aws").keys() - {"us-east-1", *REGIONS}  # the first is the home region
    world, log = short_world(not_opted_in=others), tmp_path_factory.mktemp("points") / NAME
    found = Recorder(world, log)

    def visit(name):
        if name == "after the line of tagged" and not found.points:
            found(name)

    short_batch(in_process(world), log, visit)
    return found.points[0]


@pytest.fixture
def started(monkeypatch):
    """What the next guards are started with; their process does nothing but end with ``code``."""
    seen = SimpleNamespace(code=0, said=b"", commands=[], settings=[], guards=[], told=[])

    def start(command, **settings):
        ends = [os.pipe() for _ in range(2)]
        os.write(ends[1][1], seen.said)
        os.close(ends[1][1])  # the guard has ended
        seen.commands.append(command)
        seen.settings.append(settings)
        seen.told.append(os.fdopen(ends[0][0], "rb"))
        process = SimpleNamespace(
            stdin=os.fdopen(ends[0][1], "wb", buffering=settings.get("bufsize", -1)),
            stdout=os.fdopen(ends[1][0], "rb"),
            wait=lambda: seen.code,
        )
        seen.guards.append(process)
        return process

    monkeypatch.setattr(guard.subprocess, "Popen", start)
    yield seen
    for told in seen.told:
        told.close()


def test_a_guard_is_told_the_log_the_endpoint_and_the_profile_and_outlives_its_starter(
    started, tmp_path
):
    log = tmp_path / "a.jsonl"
    Guard(log, endpoint="aws", profile="research").leave_to_it()
    Guard(log, endpoint="sandbox", profile=None, lifeline=(7,)).leave_to_it()

    program = [sys.executable, "-P", "-m", "spotlib.cleanup.guard", str(log), "--endpoint"]
    assert started.commands == [[*program, "aws", "--profile", "research"], [*program, "sandbox"]]
    assert all(each["start_new_session"] for each in started.settings)
    assert [each["pass_fds"] for each in started.settings] == [(), (7,)]


def test_keys_come_first_then_that_all_is_clean_or_nothing_more(started, tmp_path):
    guards = [
        Guard(tmp_path / "a", endpoint="aws", profile=None, keys=each) for each in (KEYS, None)
    ]
    guards[0].leave_to_it()
    guards[1].dismiss()

    assert [told.read() for told in started.told] == [KEYS.to_line(), NO_KEYS + ALL_CLEAN]
    for process in started.guards:
        assert process.stdin.closed
        assert process.stdout.closed


def test_keys_are_with_the_guard_before_anything_can_kill_their_owner(started, tmp_path):
    one = Guard(tmp_path / "a", endpoint="aws", profile=None, keys=KEYS)

    assert os.read(started.told[0].fileno(), 2**16) == KEYS.to_line()
    one.leave_to_it()


def test_a_forked_child_of_a_collector_lets_go_of_its_guard(started, tmp_path, monkeypatch):
    """Else the guard would wait for the end of that child too."""
    hooks = []
    monkeypatch.setattr(os, "register_at_fork", lambda **given: hooks.append(given))
    one = Guard(tmp_path / "a", endpoint="aws", profile=None)

    [hook] = hooks
    hook.pop("after_in_child")()
    assert not hook
    assert started.guards[0].stdin.closed
    one.leave_to_it()


def test_a_guard_is_dismissed_once_it_has_ended(started, tmp_path):
    """What it holds closes then."""

    class Held(io.BytesIO):
        def read(self, *_):
            read.append(started.guards[0].stdin.closed)
            return b""

    read = []
    one = Guard(tmp_path / "a", endpoint="aws", profile=None)
    one._gone.close()
    one._gone = Held()
    one.dismiss()

    assert read == [True], "it is told first"
    assert one._gone.closed


def test_a_guard_that_was_killed_is_dismissed_all_the_same(started, tmp_path):
    one = Guard(tmp_path / "a", endpoint="aws", profile=None)
    started.told[0].close()

    one.dismiss()

    assert started.guards[0].stdin.closed


@pytest.mark.parametrize("code", [1, -9], ids=["an error", "killed"])
def test_without_a_guard_nothing_is_launched_and_its_last_words_say_why(started, tmp_path, code):
    started.code, started.said = code, b"Traceback\n  File\nValueError: no such profile\n"

    with pytest.raises(OSError, match=r"nothing was launched: ValueError: no such profile$"):
        Guard(tmp_path / "a", endpoint="aws", profile=None)
    assert started.guards[0].stdin.closed
    assert started.guards[0].stdout.closed


@pytest.fixture
def waiting(monkeypatch):
    """A guard in this process, with what it is told, how its tries end and how long it slept."""
    state = SimpleNamespace(tries=[], slept_s=[], ignored=[], given=[], moved=[])

    def closed(given, keys):
        state.given.append((given.log.name, given.endpoint, given.profile, keys))
        return state.tries.pop(0) if state.tries else False

    def run(told, *, child=True):
        monkeypatch.setattr(guard.sys, "argv", ["guard", "/logs/b.jsonl", "--endpoint", "aws"])
        monkeypatch.setattr(guard.sys, "stdin", io.TextIOWrapper(io.BytesIO(told)))
        monkeypatch.setattr(guard.os, "fork", lambda: 0 if child else 4321)
        return guard.main()

    monkeypatch.setattr(guard.os, "dup2", lambda *pair: state.moved.append(pair[1]))
    monkeypatch.setattr(guard.signal, "signal", lambda *pair: state.ignored.append(pair))
    monkeypatch.setattr(guard.time, "sleep", state.slept_s.append)
    monkeypatch.setattr(guard, "_closed", closed)
    state.run = run
    return state


def test_a_guard_that_waits_has_loaded_nothing_of_ec2():
    """It waits as long as the batch runs, and should cost next to nothing."""
    loads = "import spotlib.cleanup.guard, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", loads], check=True, capture_output=True, text=True
    ).stdout.split()

    assert "spotlib.cleanup.guard" in loaded
    assert not {"boto3", "botocore", "numpy", "pandas", "msgspec"}.intersection(loaded)


def test_its_starter_is_free_at_once_and_signals_do_not_end_it(waiting):
    assert waiting.run(b"", child=False) == 0
    assert not waiting.given
    signals = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    assert waiting.ignored == [(each, signal.SIG_IGN) for each in signals]


def test_it_sweeps_nothing_if_it_was_told_that_all_is_clean(waiting):
    assert waiting.run(NO_KEYS + ALL_CLEAN) == 0
    assert not waiting.given


@pytest.mark.parametrize("told", [b"keys\n", b"keys\nclea", b"keys\n\n", b"keys\nclose\n"])
def test_if_its_collector_died_it_tries_until_all_is_closed(waiting, told):
    waiting.tries = [False, False, True]

    assert waiting.run(told) == 0
    assert sys.stderr.fileno() in waiting.moved, "its starter reads only what it says at first"
    assert waiting.given == [("b.jsonl", "aws", None, b"keys\n")] * 3
    assert waiting.slept_s == [5.0, 5.0]


def test_it_gives_up_after_a_minute_of_quick_tries_and_an_hour_of_slow_ones(waiting):
    assert waiting.run(b"") == 1
    assert waiting.slept_s == [5.0] * 12 + [60.0] * 60


def given_of(log):
    return Namespace(log=log, endpoint="sandbox", profile="mine")


@pytest.fixture
def leads_to(monkeypatch):
    """Make every try of a guard reach this world, or fail with this error."""
    asked = []

    def lead(there):
        def connect(endpoint, *, profile, keys):
            asked.append((endpoint, profile, keys))
            if isinstance(there, Exception):
                raise there
            return there if isinstance(there, Connection) else in_process(there)

        monkeypatch.setattr("spotlib.ec2.endpoints.connect", connect)
        return asked

    return lead


@pytest.mark.parametrize("has_log", [True, False])
def test_a_try_closes_what_is_left_of_its_batch_also_if_its_log_was_deleted(
    died, leads_to, tmp_path, has_log
):
    world, log = died.revived(tmp_path / "logs")
    asked = leads_to(world)
    if not has_log:
        log.unlink()

    assert world.leftovers() != EMPTY
    assert guard._closed(given_of(log), NO_KEYS)
    assert world.leftovers() == EMPTY
    assert asked == [("sandbox", "mine", None)]
    assert world.touched == []


@pytest.mark.parametrize("action", ["DescribeInstances", "TerminateInstances"])
@pytest.mark.parametrize("has_log", [True, False])
def test_a_try_that_could_not_close_all_ends_in_minutes_and_says_so(
    died, leads_to, tmp_path, has_log, action
):
    """The next has newly read credentials."""
    world, log = died.revived(tmp_path / "logs")
    if not has_log:
        log.unlink()
    leads_to(OSError("no such endpoint"))
    assert not guard._closed(given_of(log), NO_KEYS)
    began_s = world.now_s
    world.faults.append(Fault(kind="internal_error", action=action))
    leads_to(world)

    assert not guard._closed(given_of(log), NO_KEYS)
    # Some five minutes of tries, or without a log six searches of a minute, one after the other.
    assert 300.0 <= world.now_s - began_s < 400.0


def test_what_was_in_a_sandbox_that_has_ended_has_ended_too(died, leads_to, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    leads_to(ConnectionError("no sandbox is there"))
    assert guard._closed(given_of(log), NO_KEYS)
    log.unlink()
    assert not guard._closed(given_of(log), NO_KEYS)  # of what it was, nobody knows
    assert world.leftovers() != EMPTY


def test_what_answers_now_where_a_sandbox_was_is_not_swept(died, leads_to, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    calls = len(world.calls)
    link = partial(attach, world)
    leads_to(Connection("http://127.0.0.1:9", VirtualClock(world), sandbox_session, attach=link))

    assert guard._closed(given_of(log), NO_KEYS)
    assert len(world.calls) == calls


def test_keys_that_were_handed_over_are_used(died, leads_to, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    asked = leads_to(world)

    assert guard._closed(given_of(log), KEYS.to_line())
    assert asked == [("sandbox", "mine", KEYS)]

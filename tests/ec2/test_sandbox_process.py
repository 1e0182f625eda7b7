"""The process of a pretend market is started with what was asked for, or says why it was not."""

import io
import sys
from types import SimpleNamespace

import pytest

from spotlib.ec2 import sandbox_process
from spotlib.ec2.sandbox_process import start_sandbox


@pytest.fixture
def started(monkeypatch):
    """What is started, which says ``line`` and ``errors`` and is no process."""
    seen = SimpleNamespace(line=b'{"url": "http://127.0.0.1:5"}\n', errors=b"", ended=0)

    def start(command, *, stderr, start_new_session, **pipes):
        seen.command, seen.new_session, seen.pipes = command, start_new_session, pipes
        stderr.write(seen.errors)
        seen.process = SimpleNamespace(
            stdin=io.BytesIO(), stdout=io.BytesIO(seen.line), communicate=communicate
        )
        return seen.process

    def communicate():
        seen.ended += 1

    monkeypatch.setattr(sandbox_process.subprocess, "Popen", start)
    monkeypatch.setattr(
        sandbox_process.os, "register_at_fork", lambda **calls: seen.__dict__.update(calls)
    )
    return seen


PROGRAM = [
    sys.executable,
    "-m",
    "spotlib",
    "sandbox",
    "--json",
    "--end-with-stdin",
    "--idle-s",
    "600",
]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"market": None, "seed": 0, "speed": None}, ["--seed", "0", "--virtual"]),
        (
            {"market": "calm", "seed": 5, "speed": 2.5},
            ["--seed", "5", "--market", "calm", "--speed", "2.5"],
        ),
    ],
)
def test_it_is_told_its_market_seed_and_speed(started, given, words):
    process, url = start_sandbox(**given)

    assert started.command == PROGRAM + words
    assert (process, url) == (started.process, "http://127.0.0.1:5")
    assert started.new_session
    assert process.stdout.closed
    assert not process.stdin.closed
    started.after_in_child()
    assert process.stdin.closed


def test_without_a_seed_one_is_drawn_that_a_person_can_write_down(started):
    drawn = []
    for _ in range(40):
        start_sandbox(market=None, seed=None, speed=None)
        drawn.append(int(started.command[len(PROGRAM) + 1]))

    assert len(set(drawn)) == 40
    assert 2**30 < max(drawn) < 2**31


def test_if_it_did_not_start_its_last_words_say_why(started):
    started.line, started.errors = b"", b"Traceback\nOSError: the port is in use\n"

    with pytest.raises(OSError, match=r"did not start: OSError: the port is in use$"):
        start_sandbox(market=None, seed=1, speed=None)
    assert started.ended == 1

"""Real programs in processes of their own, for the tests that start, read and stop them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest

BIN = Path(sys.executable).parent
SOON = {"timeout": 240}

chaos = pytest.mark.chaos  # too slow for make test


def run(*command, cwd=None, check=True, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        **SOON,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def papermill(*given, cwd=None, check=True):
    return run(BIN / "papermill", *given, "--no-progress-bar", cwd=cwd, check=check)


def texts(path):
    """All text that a reader of an executed notebook sees in its outputs."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return "\n".join(found)


def until(shown, *, within_s=120.0):
    """Wait for it, generously: the machine may be busy with other things."""
    deadline_s = time.monotonic() + within_s
    while not shown():
        assert time.monotonic() < deadline_s, "it never came"
        time.sleep(0.1)


@contextmanager
def sandbox(*options):
    """A pretend market started by hand, which outlives whoever uses it: its address."""
    command = [sys.executable, "-m", "spotlib", "sandbox", "--json", *options]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(started.stdout.readline())["url"]
    finally:
        started.terminate()
        started.wait()
        started.stdout.close()


def processes():
    """Every process there is: its id, its parent's id, its command line."""
    listed = subprocess.run(
        ["ps", "-axww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        number, parent, command = line.split(maxsplit=2)
        yield int(number), int(parent), command


def processes_of(folder, name=""):
    """The ids of those that name the folder (a test's own) and ``name`` on their command line."""
    return [
        number
        for number, _, command in processes()
        if str(folder) in command and name in command and number != os.getpid()
    ]


def end_all(numbers, how=signal.SIGKILL):
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, how)

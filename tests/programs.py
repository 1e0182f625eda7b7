"""Real programs in processes of their own, for the tests that start, read and stop them.

A program is waited for until it answers or has done what is asked, never for a fixed time, and
not for a file that is there before the program is usable.  Every wait has the one bound
``PATIENCE_S``: a program that hangs reaches it, one on a busy machine does not.
"""

import csv
import html
import json
import math
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest

from spotlib.ec2.clock import control
from spotlib.sandbox.server import serve

BIN = Path(sys.executable).parent
PATIENCE_S = 240.0
# Jupyter picks free ports for a kernel and releases them; another process can take one of them
# before the kernel binds it.  Such a kernel dies before it runs anything.
KERNEL_DIED = "Kernel died before replying to kernel_info"

chaos = pytest.mark.chaos  # too slow for make test


def run(*command, cwd=None, check=True, patience_s=PATIENCE_S, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=patience_s,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def run_papermill(*given, cwd=None, check=True, **environment):
    """Run the command; start it again if its kernel died before the first cell."""
    command = (BIN / "papermill", *given, "--no-progress-bar", "--start-timeout", int(PATIENCE_S))
    done = run(*command, cwd=cwd, check=False, **environment)
    if KERNEL_DIED in done.stderr:
        done = run(*command, cwd=cwd, check=False, **environment)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def execute_notebook(notebook, out, *, cwd, **parameters):
    """Execute a notebook from this process; start again if its kernel died before the first cell.

    papermill waits four seconds for the last output of a cell; only here can that be longer.
    """

    def execute():
        papermill.execute_notebook(
            str(notebook),
            str(out),
            parameters=parameters,
            cwd=str(cwd),
            progress_bar=False,
            start_timeout=int(PATIENCE_S),
            iopub_timeout=int(PATIENCE_S),
        )

    try:
        execute()
    except RuntimeError as error:
        if KERNEL_DIED not in str(error):
            raise
        execute()


def texts(path):
    """All text that a reader of an executed notebook sees in its outputs."""
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            found += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return "\n".join(found)


def require_tables_as_files(notebook, folder):
    """Each table that an executed notebook shows is a CSV in the folder, with the same cells."""
    written = [path.read_text().splitlines() for path in Path(folder).glob("*.csv")]
    files = [list(csv.reader(lines))[1:] for lines in written]
    tables = [page for page in texts(notebook).split("<table")[1:] if "<td" in page]
    assert tables
    for page in tables:
        lines = re.findall(r"<tr.*?</tr>", page.partition("</table>")[0], re.DOTALL)
        cells = [re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL) for line in lines]
        shown = [[html.unescape(cell) for cell in row] for row in cells if row]
        assert any(map(partial(_same_cells, shown), files)), shown


def _same_cells(shown, rows):
    """Whether the last columns of the rows are what is shown; a number may be shortened there."""

    def same(cell, text):
        try:
            return cell == text or math.isclose(float(cell), float(text), rel_tol=1e-5)
        except ValueError:
            return text == "" and cell in ("NaN", "None", "NaT", "nan")

    return len(rows) == len(shown) and all(
        same(cell, text)
        for want, row in zip(shown, rows, strict=True)
        for cell, text in zip(want, row[-len(want) :], strict=True)
    )


def until(shown, *, by=None):
    """Wait until it is so; fail at once if the process ``by``, which is to do it, ends before."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not shown():
        assert by is None or by.poll() is None or shown(), f"it ended with {by.returncode} before"
        assert time.monotonic() < deadline_s, f"it was not so within {PATIENCE_S:g} s"
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


def served(world, *, idle_s=60.0, silent_s=60.0):
    """The address of a server of this world, in a thread of this process until it is idle."""
    where = queue.Queue()
    given = {"idle_s": idle_s, "silent_s": silent_s, "ready": where.put}
    threading.Thread(target=serve, args=(world,), kwargs=given, daemon=True).start()
    return where.get(timeout=PATIENCE_S)


def ask(server, path, method="GET"):
    """What a Jupyter server answers."""
    headers = {"Authorization": f"token {server['token']}"}
    asked = urllib.request.Request(f"{server['url']}{path}", method=method, headers=headers)
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as reply:
        return json.loads(reply.read() or "null")


def answers(file):
    """Whether a Jupyter server can be used: its file is there before it is whole and it listens."""
    try:
        ask(json.loads(file.read_text()), "api/status")
    except (OSError, json.JSONDecodeError):
        return False
    return True


@contextmanager
def lab(tmp_path, *options):
    """JupyterLab without a browser: its process, its address and its token."""
    command = [BIN / "jupyter", "lab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={tmp_path}"]
    command += options
    with (tmp_path / "lab.txt").open("w") as said:
        started = subprocess.Popen(
            [str(part) for part in command], stdout=said, stderr=said, start_new_session=True
        )
    file = tmp_path / "jupyter_runtime_dir" / f"jpserver-{started.pid}.json"
    try:
        until(lambda: answers(file), by=started)
        yield started, json.loads(file.read_text())
    finally:
        started.kill()
        started.wait()


def leftovers(url):
    """What a pretend market still holds."""
    return control(url, "/sandbox/leftovers", timeout_s=PATIENCE_S)


def processes():
    """Every process there is: its id, its parent's id, its command line."""
    yield from _listed("-axww")


def processes_of(folder, name=""):
    """The ids of those that name the folder (a test's own) and ``name`` on their command line."""
    return [
        number
        for number, _, command in processes()
        if str(folder) in command and name in command and number != os.getpid()
    ]


def marked(mark):
    """The ids of the processes in whose environment ``mark`` is, such as ``NAME=value``."""
    listed = _listed("axeww")  # each command line is followed by its environment
    return [number for number, _, line in listed if f" {mark} " in f"{line} "]


def _listed(options):
    command = ["ps", options, "-o", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    for line in listed.stdout.splitlines():
        number, parent, *rest = line.split(maxsplit=2)
        yield int(number), int(parent), "".join(rest)


def end_all(numbers, how=signal.SIGKILL):
    for number in numbers:
        with suppress(ProcessLookupError):
            os.kill(number, how)

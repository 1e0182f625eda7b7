"""Days counted in a process per core: the default, however it is started and however it ends.

Each case is a program of its own, without ``if __name__ == "__main__"``, as a user would write it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from market import random_market, write_tree
from programs import PATIENCE_S, chaos, execute_notebook, run

from spotlib.select.archive.counts import read_counts

DAYS = 4
# Counts as the product does, but notes where, and treats even these small days as worth it.
PROGRAM = """
import os, pickle, signal, sys, threading
from pathlib import Path
from spotlib import read_counts
from spotlib import processes
from spotlib.select.archive import counts
archive, notes, case = sys.argv[1:]
here, real = os.getpid(), counts.count_day
def count(files, **given):
    Path(notes, f"{files[0].day} {os.getpid()}").touch()
    if case == "killed" and os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "endless" and files[0].day.day > 1:
        threading.Event().wait()
    return real(files, **given)
counts.count_day = count
if case != "small":
    counts._WORTH_BYTES = 0
if case == "no executable":
    sys.executable = "/no/python"
if case == "orphaned":
    processes._IDLE_S = 1
print("begun", here, flush=True)
reading = read_counts(archive, cache=None, progress=lambda done, days: print(done, flush=True))
Path(notes, "reading").write_bytes(pickle.dumps((reading.counts, reading.days)))
if case == "orphaned":
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    market = random_market(days=DAYS, snapshots=5)
    return write_tree(market, tmp_path_factory.mktemp("archive"))


def command(archive, notes, case):
    (notes.parent / "program.py").write_text(PROGRAM)
    notes.mkdir()
    return [sys.executable, str(notes.parent / "program.py"), str(archive), str(notes), case]


def processes_of(notes):
    """The process that counted each day, by the notes of the program."""
    return {int(path.name.split()[1]) for path in notes.glob("2024-*")}


def lines_of(errors):
    """What was said, without joblib's tracker of what it shares.

    On a slow machine it may say that it was started again, or what it found when it ended.
    """
    return [line for line in errors.splitlines() if "resource_tracker" not in line]


def assert_same(notes, archive):
    counts, days = pd.read_pickle(notes / "reading")
    expected = read_counts(archive, cache=None)
    pd.testing.assert_frame_equal(counts, expected.counts)
    pd.testing.assert_frame_equal(days, expected.days)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_several_days_are_counted_in_other_processes_with_the_same_reading(archive, tmp_path):
    notes = tmp_path / "notes"

    done = run(*command(archive, notes, "plain"), LOKY_MAX_CPU_COUNT="2")

    begun, *progress = done.stdout.splitlines()
    assert progress == ["1", "2", "3", "4"]  # and the program ran once
    assert int(begun.split()[1]) not in processes_of(notes)
    assert lines_of(done.stderr) == []
    assert_same(notes, archive)


@pytest.mark.parametrize(
    ("case", "setting", "words"),
    [
        ("small", {}, ""),
        ("one core", {"LOKY_MAX_CPU_COUNT": "1"}, ""),
        ("no semaphores", {"JOBLIB_MULTIPROCESSING": "0"}, "falling back to threading"),
        ("no executable", {}, ""),
        ("killed", {}, ""),
    ],
)
def test_what_needs_or_gets_no_other_process_is_counted_in_this_one(
    case, setting, words, archive, tmp_path
):
    notes = tmp_path / "notes"

    done = run(*command(archive, notes, case), **{"LOKY_MAX_CPU_COUNT": "2", **setting})

    here = int(done.stdout.split()[1])
    counted_here = {path.name.split()[0] for path in notes.glob(f"2024-*{here}")}
    assert len(counted_here) == DAYS
    assert words in done.stderr
    assert bool(words) == bool(lines_of(done.stderr))
    assert_same(notes, archive)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupt_ends_every_process_at_once(archive, tmp_path):
    """As Jupyter and a terminal do: the signal goes to the whole group of processes."""
    notes = tmp_path / "notes"
    program = subprocess.Popen(
        command(archive, notes, "endless"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"},
    )
    wait_until(lambda: len(list(notes.glob("2024-*"))) == 3)  # two of them wait without end

    os.killpg(program.pid, signal.SIGINT)
    _, errors = program.communicate(timeout=PATIENCE_S)

    assert lines_of(errors)[-1] == "KeyboardInterrupt"
    wait_until(lambda: not any(map(is_running, processes_of(notes))))


@chaos
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_by_themselves_when_their_parent_is_killed(archive, tmp_path):
    """joblib's wait half a minute for a parent that no longer answers."""
    notes = tmp_path / "notes"
    with subprocess.Popen(
        command(archive, notes, "orphaned"), env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"}
    ) as program:
        wait_until((notes / "reading").exists)
        program.kill()

    wait_until(lambda: not any(map(is_running, processes_of(notes))))


def test_a_bad_file_of_one_day_is_named_as_ever_and_ends_the_processes(tmp_path):
    broken = write_tree(random_market(days=DAYS, snapshots=5), tmp_path / "archive")
    path = broken / "aws-2024-08" / "03" / "00-10-00.csv.gz"
    path.write_bytes(path.read_bytes()[:100])
    notes = tmp_path / "notes"

    done = run(*command(broken, notes, "plain"), check=False, LOKY_MAX_CPU_COUNT="2")

    assert f"{path}: is not a whole gzip file" in lines_of(done.stderr)[-1]
    assert not any(map(is_running, processes_of(notes)))


def test_a_notebook_counts_in_other_processes(archive, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    cells = [f"import sys; sys.argv = ['', {str(archive)!r}, {str(notes)!r}, 'plain']", PROGRAM]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, tmp_path / "in.ipynb")

    execute_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb", cwd=tmp_path)

    text = (tmp_path / "out.ipynb").read_text()
    assert '"name": "stderr"' not in text
    kernel = int(text.partition("begun ")[2].partition("\\n")[0])
    assert kernel not in processes_of(notes)
    assert_same(notes, archive)

"""The public face: seventeen lazy names, each with a complete docstring whose example runs."""

import doctest
import inspect
import os
import re
import subprocess
import sys

import pytest
from conftest import NANO, plan_for, scripted
from crashing import in_process
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import spotlib
from spotlib.collect.rounds import collect_batch
from spotlib.sandbox.history import write_archive

LOG = "20260101T000000Z-abcdef.jsonl"
FACE = [
    "connect",
    "preflight",
    "collect_batch",
    "sweep",
    "Target",
    "Plan",
    "Stage",
    "plan_launches",
    "load_launches",
    "load_polls",
    "load_batches",
    "read_counts",
    "variation",
    "score_targets",
    "choose_targets",
    "launch_times",
    "forecast_ready",
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The log of one recorded launch of two instances."""
    log, connection = tmp_path_factory.mktemp("recorded") / LOG, in_process(scripted())
    collect_batch(connection, plan_for(connection, NANO, n=2), log=log, seed=1)
    return log.read_bytes()


@pytest.fixture
def results(recorded, tmp_path, monkeypatch):
    """The examples run in a folder whose results hold it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results" / "launches").mkdir(parents=True)
    (tmp_path / "results" / "launches" / LOG).write_bytes(recorded)


def test_the_face_is_what_the_documents_say():
    assert sorted(spotlib.__all__) == sorted(FACE)
    assert set(FACE) <= set(dir(spotlib))


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("name", FACE)
def test_the_example_of_each_public_name_runs(name):
    value = getattr(spotlib, name)
    found = doctest.DocTestFinder(recurse=False).find(value, name, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)

    assert sum(len(each.examples) for each in found) > 0
    for each in found:
        runner.run(each)
    assert runner.failures == 0


@pytest.mark.parametrize("name", FACE)
def test_each_public_name_documents_every_parameter_and_has_an_example(name):
    value = getattr(spotlib, name)
    text = inspect.getdoc(value)

    assert "Examples\n--------" in text
    if name != "Stage":
        head = text.split("Examples\n--------")[0]
        section = head.split("Parameters\n----------")[1]
        for parameter in inspect.signature(value).parameters:
            assert parameter in section, parameter


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'collect_everything'"):
        _ = spotlib.collect_everything


def test_importing_spotlib_loads_no_other_library():
    script = (
        "import sys; before = set(sys.modules); import spotlib; print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ
    )

    tops = {name.split(".")[0] for name in done.stdout.split()} - {"spotlib"}
    assert tops <= set(sys.stdlib_module_names)


@pytest.mark.usefixtures("results")
def test_what_the_face_returns_is_named_in_one_line(tmp_path):
    """In a notebook the last value of a cell is shown: arrays and tables would fill pages."""
    connection = in_process(scripted())
    launches = spotlib.load_launches(tmp_path / "results" / "launches" / LOG)
    [times] = spotlib.launch_times(launches, spotlib.Stage.READY, resamples=9).values()
    write_archive(tmp_path / "aws-2024-08", days=[1], types=["t3.nano"])
    reading = spotlib.read_counts(tmp_path / "aws-2024-08", cache=None)

    assert repr(connection) == f"<Connection to sandbox, world {connection.world}>"
    assert repr(times).startswith("<LaunchTimes of t3.nano in sa-east-1 to ready: 1 run, median ")
    assert re.fullmatch(r"<Reading of 1 day: 1\d\d snapshots, 0 files left out>", repr(reading))


def test_completion_and_help_in_a_notebook_show_the_face():
    shell = InteractiveShell.instance()
    try:
        shell.push({"spotlib": spotlib})
        with provisionalcompleter():
            completed = [each.text for each in shell.Completer.completions("spotlib.", 8)]
        with capture_output() as shown:
            shell.run_cell("spotlib.connect?")
    finally:
        InteractiveShell.clear_instance()

    names = {name.removeprefix("spotlib").removeprefix(".") for name in completed}
    assert {name for name in names if not name.startswith("_")} == set(FACE)
    assert "endpoint" in shown.stdout
    assert "Examples" in shown.stdout

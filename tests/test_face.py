"""The public face: seventeen lazy names, each with a complete docstring whose example runs."""

import doctest
import inspect
import os
import subprocess
import sys

import pytest
from conftest import NANO, plan_for, scripted

import spotlib
from spotlib.collect.rounds import collect_batch

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


@pytest.fixture
def results(in_process, tmp_path, monkeypatch):
    """The examples run in a folder whose results hold one recorded launch of two instances."""
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "results" / "launches" / "20260101T000000Z-abcdef.jsonl"
    connection = in_process(scripted())
    collect_batch(connection, plan_for(connection, NANO, n=2), log=log, seed=1)


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

"""The real programs in processes of their own: papermill, python -m spotlib, plain boto3."""

import json
import re
import shutil
import signal
import sys
import textwrap
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest
from conftest import read_events
from pages import shown_by
from programs import (
    chaos,
    leftovers,
    require_tables_as_files,
    run,
    run_papermill,
    sandbox,
    served,
    texts,
    until,
)

from spotlib.__main__ import main
from spotlib.collect.cost import PreflightError
from spotlib.ec2.endpoints import connect
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.world import World

pytestmark = pytest.mark.usefixtures("_programs_end_with_the_test")


@pytest.mark.parametrize("folder", [pytest.param(".", marks=chaos), "notebooks"])
def test_collect_runs_from_the_root_and_from_its_own_folder(repository, tmp_path, folder):
    notebook = Path("notebooks/02_collect.ipynb")
    name = notebook if folder == "." else notebook.name
    out = tmp_path / "out.ipynb"
    given = ["-p", "n", "5", "-p", "seed", "1", "-p", "results", tmp_path / "results"]

    run_papermill(name, out, *given, cwd=repository / folder)

    logs = tmp_path / "results" / "launches"
    launches, polls = load_launches(logs), load_polls(logs)
    seen = texts(out)
    assert launches.groupby(["instance_type", "region"]).size().tolist() == [5, 5, 5]
    assert polls["poll"].diff().dropna().isin([0, 1]).mean() > 0.95
    assert load_batches(logs)["clean"].all()
    assert "open requests 0, live instances 0 (confirmed)" in seen
    assert "SIMULATED (sandbox)" in seen
    assert "no selection is written yet, so a built-in list" in seen
    assert list((tmp_path / "results" / "figures").glob("ready-counts-*.png"))
    require_tables_as_files(out, tmp_path / "results" / "tables")


def test_a_dry_run_shows_the_plan_and_launches_nothing(repository, tmp_path, capsys):
    notebook = repository / "notebooks/02_collect.ipynb"
    given = {"dry_run": True, "rounds": 2, "every_s": 600.0, "results": str(tmp_path)}
    given |= {"instance_type": "t3.nano", "region": "sa-east-1"}

    shown = list(shown_by(notebook, endpoint=served(World()), **given))

    said = capsys.readouterr().out
    warned = [each["text/plain"] for each in shown]
    assert "dry run: nothing is launched" in said
    assert "at most $" in said
    words = "a round may last 660 s (1 launch method, 1 wave), longer than every_s=600"
    assert any(words in each for each in warned)
    assert list((tmp_path / "launches").iterdir()) == []


@chaos  # ``collect/test_parameters`` has the sentences
def test_invalid_values_stop_the_notebook_with_one_sentence(repository, tmp_path):
    given = ("-r", "n", "five", "-r", "dry_run", "false", "-p", "timeout", "30")
    done = run_papermill(
        repository / "notebooks/02_collect.ipynb",
        *(tmp_path / "out.ipynb", "-p", "results", tmp_path / "results", *given),
        check=False,
    )

    assert done.returncode != 0
    for words in (
        "no parameter 'timeout'; did you mean timeout_s",
        "n must be a whole number, got 'five'",
        "dry_run must be True or False, got 'false'",
    ):
        assert words in done.stderr.strip().splitlines()[-1]
    assert list((tmp_path / "results" / "launches").glob("*")) == []


def test_a_target_that_is_not_offered_stops_the_notebook_with_one_sentence(repository, tmp_path):
    given = {"instance_type": "t3.nan0", "region": "us-east-1", "results": str(tmp_path)}

    words = "'t3.nan0' is not offered in us-east-1; nearest: t3.nano"
    with pytest.raises(PreflightError, match=words):
        shown_by(repository / "notebooks/02_collect.ipynb", endpoint=served(World()), **given)

    assert list((tmp_path / "launches").iterdir()) == []


SCRIPT = """
    import sys
    from spotlib.collect.rounds import collect_batch
    from spotlib.ec2.endpoints import connect
    from spotlib.model import Stage, Target, plan_launches

    connection = connect("sandbox", seed=11)
    targets = [Target("t3.nano", "sa-east-1"), Target("t4g.medium", "ap-northeast-3")]
    plans = plan_launches(targets, count=4)
    summary = collect_batch(connection, plans, log=sys.argv[1], seed=11, guard=False)
    connection.close()
    summary.require()
"""


@chaos  # ``collect/test_unchanged`` and the real kills compare the events of two processes too
def test_the_same_seed_and_batch_id_give_the_same_events_byte_for_byte(tmp_path):
    """Two processes, each with a sandbox process of its own."""
    logs = [tmp_path / name / "20240901T000000Z-abcdef.jsonl" for name in ("a", "b")]
    for log in logs:
        run(sys.executable, "-c", textwrap.dedent(SCRIPT), log)

    first, second = (log.read_text().splitlines() for log in logs)
    assert first[1:] == second[1:]
    heads = [json.loads(lines[0]) for lines in (first, second)]
    assert heads[0].pop("url") != heads[1].pop("url")
    assert heads[0].pop("host")["pid"] != heads[1].pop("host")["pid"]
    assert heads[0] == heads[1]


def test_check_reports_what_a_round_costs_and_the_largest_n(capsys):
    assert main(["check", "t3.nano@sa-east-1", "-n", "5", "--endpoint", served(World())]) == 0

    said = capsys.readouterr().out
    assert "SIMULATED (sandbox), not AWS: account 123456789012" in said
    assert "largest n under the quota: 500" in said
    assert re.search(r"hard bound \$0\.\d+ \(if every program of ours dies", said)
    assert "t3.nano: AWS bills CPU credits beyond the earned ones, $0.0500 per vCPU" in said
    assert said.rstrip().endswith("ready to launch")


def test_check_exits_with_one_and_names_each_problem(capsys):
    assert main(["check", "t3.nan0", "--endpoint", served(World())]) == 1

    said = capsys.readouterr().out
    assert "PROBLEM: instance type 't3.nan0' is not offered in us-east-1" in said
    assert "at most" not in said
    assert said.splitlines()[-2] == "NOT ready to launch: 1 problem"
    assert said.splitlines()[-1].startswith("PROBLEM: ")


def test_a_misused_command_is_one_sentence_and_exit_code_two():
    done = run(sys.executable, "-m", "spotlib", "check", "--endpoint", "asw", check=False)

    assert done.returncode == 2
    assert "endpoint 'asw' is unknown: use 'sandbox'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--profile", "work"], "--profile is for AWS: add --endpoint aws"),
        (["--endpoint", "aws", "--profile", "nobody"], "profile 'nobody' is not configured"),
        (["-n", "0"], "n must be a whole number from 1 to 3000"),
        (["t3nano"], "instance_type 't3nano' is not a name EC2 could know"),
        (["t3.nano", "us-east-1"], "write a target as t3.nano@us-east-1"),
    ],
)
def test_each_misuse_is_named(given, words, capsys):
    try:
        code = main(["check", *given])
    except SystemExit as ended:
        code = ended.code

    assert code == 2
    assert words in capsys.readouterr().err


def test_a_sandbox_started_by_hand_serves_a_collection_in_scaled_time(tmp_path):
    """So is a sandbox used by several programs at once, or by a person who watches live."""
    with sandbox("--speed", "20", "--seed", "3") as url:
        script = SCRIPT.replace('connect("sandbox", seed=11)', f'connect("{url}")')
        script = script.replace("count=4", "count=4, wanted=Stage.RUNNING")
        run(sys.executable, "-c", textwrap.dedent(script), tmp_path / "a.jsonl")

    events, _ = read_events(tmp_path / "a.jsonl")
    assert events[0]["world"].startswith("w-")
    assert [event["confirmed"] for event in events if event["event"] == "clean"] == [True]
    assert len(load_launches(tmp_path / "a.jsonl")) == 8


def test_a_sandbox_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with pytest.raises(OSError, match="the sandbox did not start"):
        connect("sandbox")


DYING = """
    import os, signal, sys
    from spotlib.collect.rounds import collect_batch
    from spotlib.ec2.endpoints import connect
    from spotlib.model import Target, plan_launches

    def die(progress):
        if progress.ready >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

    targets = [Target("t3.nano", "sa-east-1"), Target("t4g.medium", "ap-northeast-3")]
    plans = plan_launches(targets, count=4)
    connection = connect("sandbox", seed=11)
    guard = "--guard" in sys.argv
    collect_batch(connection, plans, log=sys.argv[1], seed=11, on_poll=die, guard=guard)
"""


def killed_collection(log, *options, ready=2):
    """Run a collection that kills itself with -9 once so many are ready."""
    script = textwrap.dedent(DYING).replace("progress.ready >= 2", f"progress.ready >= {ready}")
    done = run(sys.executable, "-c", script, log, *options, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


@pytest.mark.parametrize("ready", [*(pytest.param(each, marks=chaos) for each in (0, 1)), 5])
def test_the_guard_closes_a_batch_whose_collector_was_killed(tmp_path, ready):
    """kill -9 while some are ready, or none; nobody sweeps by hand."""
    log = tmp_path / "launches" / "20240901T000000Z-abcdef.jsonl"

    killed_collection(log, "--guard", ready=ready)
    until(lambda: load_batches(log)["clean"].fillna(False).all())

    url = read_events(log)[0][0]["url"]
    with suppress(OSError, HTTPException):  # its sandbox ends only once nothing is left
        assert leftovers(url) == {"requests": [], "instances": []}
    assert load_launches(log)["outcome"].notna().all()


def test_a_killed_collection_is_reported_and_swept_by_the_printed_command(tmp_path, capsys):
    """kill -9 in the middle: status prints a command, which works when pasted into a shell."""
    results = tmp_path / 'it\'s a $(true) "place"'
    log = results / "launches" / "20240901T000000Z-abcdef.jsonl"
    killed_collection(log)
    status = ["status", "--results", str(results)]

    assert main(status) == 1
    [printed] = re.findall("close it with: (.*); round", capsys.readouterr().out)
    swept = run("sh", "-c", f"cd / && {printed}")

    assert "20240901T000000Z-abcdef: closed" in swept.stdout
    assert main(status) == 0
    assert "every batch is confirmed clean" in capsys.readouterr().out
    launches = load_launches(log)
    assert set(launches["outcome"]) == {"ready", "abandoned"}
    assert len(launches) == 8

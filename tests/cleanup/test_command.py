"""The command line of sweep and status: what it says of missing, named and foreign batches."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NANO, plan_for, scripted
from crashing import NAME, in_process

from spotlib.__main__ import main
from spotlib.cleanup.commands import aws_options, sweep_command
from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import unfinished
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import sandbox_session
from spotlib.record.log import EventLog

BATCH = Path(NAME).stem


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The log of a batch that ended well, and its world."""
    log = tmp_path_factory.mktemp("recorded") / NAME
    world = scripted()
    collect_batch(in_process(world), plan_for(in_process(world), n=1), log=log, seed=1)
    return log.read_text(), world


@pytest.fixture
def results(recorded, tmp_path):
    """A results folder with the log of a batch that is not confirmed clean."""
    (tmp_path / "launches").mkdir()
    write(tmp_path, BATCH, recorded[0])
    return tmp_path


def write(results, name, text, **changes):
    """Write a log without its confirmed end, under a name, with texts replaced."""
    text = "".join(text.splitlines(keepends=True)[:-1]).replace(BATCH, name)
    for old, new in changes.items():
        text = text.replace(f'"{old}":null', f'"{old}":"{new}"', 1)
    (results / "launches" / f"{name}.jsonl").write_text(text)


def run(*words):
    """Run a command of ``spotlib``."""
    return main([str(word) for word in words])


@pytest.mark.parametrize("command", ["status", "sweep", "export"])
def test_a_folder_that_is_not_there_is_an_error_and_is_not_made(tmp_path, capsys, command):
    assert run(command, "--results", tmp_path / "typo") == 2
    said = capsys.readouterr().err
    assert "there are no logs here" in said
    assert said.endswith("run 02_collect first, or name another results folder\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "sweep", "export"])
def test_where_nothing_was_ever_launched_no_command_says_that_all_is_well(
    tmp_path, capsys, monkeypatch, command
):
    monkeypatch.setattr("spotlib.workspace.workspace", lambda: tmp_path)

    assert run(command) == 2
    assert "run 02_collect first" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "sweep", "export"])
def test_a_folder_without_a_log_is_an_error_as_one_that_is_not_there(tmp_path, capsys, command):
    """A new clone has one; what an editor hides there is no log."""
    (tmp_path / "launches").mkdir()
    (tmp_path / "launches" / ".keep.jsonl").touch()

    assert run(command, "--results", tmp_path) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "holds none; run 02_collect first, or name another" in said.err


def test_a_sweep_says_what_status_says_of_a_batch_that_a_guard_is_closing(
    results, recorded, capsys
):
    """It is dead and not yet clean, so the sweep confirms nothing."""
    log = results / "launches" / NAME
    collector = re.sub(r'"pid":\d+', f'"pid":{os.getpid() + 1}', log.read_text(), count=1)
    log.write_text(collector)
    words = "its collection is dead, and a guard or a sweep is closing it: look again in a minute"

    with contextlib.closing(EventLog.resume(log)):
        report = sweep(in_process(recorded[1]), folder=log.parent, regions=[NANO.region])
        ended = run("sweep", "--results", results)
        swept = capsys.readouterr().out
        shown = run("status", "--results", results)

    [line] = report.lines()
    assert line.startswith(f"{BATCH}: {words}")
    assert not report.confirms(None)
    assert [ended, shown] == [1, 1]
    assert f"{BATCH}: {words}" in swept
    assert swept.splitlines()[-1] == (
        "exit code 1: it is NOT confirmed that nothing is left; do what the lines above say, if "
        "they say something, and run the same command again in a minute or two"
    )
    assert words in capsys.readouterr().out


def test_a_sweep_that_another_was_quicker_than_confirms_nothing(results, recorded, monkeypatch):
    def taken(_):
        raise BlockingIOError

    monkeypatch.setattr(EventLog, "resume", taken)
    report = sweep(in_process(recorded[1]), folder=results / "launches", regions=[NANO.region])

    assert not report.confirms(None)


def test_a_sweep_of_an_endpoint_goes_on_without_logs_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("spotlib.__main__.connect", lambda *_, **__: in_process(scripted()))

    assert (
        run("sweep", "--endpoint", "aws", "--results", tmp_path / "x", "--region", "us-east-1") == 0
    )
    assert "only what EC2 lists with our tag is known" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_logs_itself_is_taken_too(results, capsys):
    assert run("status", "--results", results / "launches") == 1
    assert f"{BATCH} (simulated): DEAD" in capsys.readouterr().out


def test_the_log_of_a_sandbox_that_has_ended_is_completed(results, capsys):
    """Nothing can be left in it, so that the batch is not dead for ever."""
    assert run("sweep", "--results", results) == 0
    assert "its sandbox has ended, so nothing is left in it" in capsys.readouterr().out
    assert run("status", "--results", results) == 0
    assert "every batch is confirmed clean" in capsys.readouterr().out


def test_a_damaged_address_of_one_sandbox_does_not_keep_others_from_being_swept(
    results, recorded, capsys
):
    write(results, "20240902T000000Z-000001", recorded[0], url="http://[half")

    assert run("sweep", "--results", results) == 1
    said = capsys.readouterr().out
    assert "20240902T000000Z-000001: NOT known: its sandbox http://[half cannot be asked" in said
    assert f"{BATCH}: its sandbox has ended, so nothing is left in it" in said


def test_a_log_that_cannot_be_completed_does_not_keep_the_next_from_it(
    results, recorded, capsys, monkeypatch
):
    other = "20240801T000000Z-000001"
    write(results, other, recorded[0])
    resume = EventLog.resume

    def damaged(path):
        writer = resume(path)
        if path.stem == other:
            writer._write(b"5\n")
        return writer

    monkeypatch.setattr(EventLog, "resume", damaged)

    assert run("sweep", "--results", results) == 1
    said = capsys.readouterr().out
    assert f"{other}: closed, but its log could not be completed" in said
    assert f"{BATCH}: its sandbox has ended, so nothing is left in it" in said
    assert [each.batch_id for each in unfinished(results / "launches")] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (BATCH, (0, "its sandbox has ended, so nothing is left in it")),
        ("20240902T000000Z-00c1ea", (0, "nothing is left of it")),
        ("20240903T000000Z-5eaf00", (1, "NOT known: ")),
        ("20240904T000000Z-00ea15", (1, "sweep --batch 20240904T000000Z-00ea15 --results")),
        ("20240905T000000Z-0e0000", (0, "nothing was launched: its log ends before that")),
        ("typo", (1, "NOT known: no log of it can be read")),
    ],
)
def test_a_named_sweep_succeeds_only_if_nothing_is_left_and_reads_no_other_log(
    results, recorded, capsys, name, said
):
    launches = results / "launches"
    clean, damaged = (
        launches / f"2024090{each}.jsonl" for each in ("2T000000Z-00c1ea", "3T000000Z-5eaf00")
    )
    clean.write_text(recorded[0].replace(BATCH, clean.stem))
    damaged.write_text(recorded[0].replace("5", "five"))
    write(results, "20240904T000000Z-00ea15", recorded[0].replace(":true", ":false", 1))
    (launches / "20240905T000000Z-0e0000.jsonl").touch()

    code, words = said
    assert run("sweep", "--results", results, "--batch", name) == code
    printed = capsys.readouterr().out
    assert words in printed
    assert (damaged.stem in printed) is (name == damaged.stem)


def test_a_sweep_of_one_batch_is_not_confirmed_by_what_it_does_not_know(results, recorded):
    connection = in_process(recorded[1])
    folder = results / "launches"

    unknown = sweep(connection, folder=folder, batch_id="typo", regions=[NANO.region])
    writer = EventLog.resume(folder / NAME)
    alive = sweep(connection, folder=folder, batch_id=BATCH, regions=[NANO.region])
    writer.close()
    elsewhere = sweep(
        in_process(scripted(seed=9)), folder=folder, batch_id=BATCH, regions=["us-east-1"]
    )
    closed = sweep(connection, folder=folder, batch_id=BATCH, regions=[NANO.region], settle_s=1.0)
    again = sweep(connection, folder=folder, batch_id=BATCH, regions=[NANO.region])

    assert [each.confirms(name) for each, name in ((unknown, "typo"), (alive, BATCH))] == [
        False
    ] * 2
    assert "no log of it is here, and EC2 lists nothing of it" in unknown.lines()[0]
    assert "running here" in alive.lines()[0]
    assert alive.confirms(None)
    assert not elsewhere.confirms(BATCH)
    assert "NOT swept: it ran at sandbox, not here" in elsewhere.lines()[0]
    assert closed.confirms(BATCH)
    assert again.confirms(BATCH)
    assert again.lines() == [f"{BATCH}: nothing is left of it"]


def test_the_printed_command_names_folder_endpoint_and_profile_for_any_shell(results):
    [dead] = unfinished(results / "launches")
    log = results / 'it\'s a $(touch oops) "place"' / "launches" / NAME
    command = sweep_command(BATCH, log=log, endpoint="https://ec2.a:1/x y", profile="a b")

    assert dead.command() == (
        f"{shlex.quote(sys.executable)} -m spotlib sweep --batch {BATCH} --results {results}"
    )
    shown = subprocess.run(
        f"printf '%s\\n' {command}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=results,
        check=True,
    )
    assert shown.stdout.splitlines() == [
        *(sys.executable, "-m", "spotlib", "sweep", "--batch", BATCH),
        *("--results", str(log.parents[1]), "--endpoint", "https://ec2.a:1/x y"),
        *("--profile", "a b"),
    ]
    assert not (results / "oops").exists()


def test_the_aws_commands_name_profile_and_endpoint():
    """They are for somebody whose default profile may lead to another account."""
    given = {"url": "https://ec2.a", "profile": "our profile"}
    connection = Connection("https://ec2.a", VirtualClock(scripted()), sandbox_session, **given)

    assert aws_options(connection) == " --profile 'our profile' --endpoint-url https://ec2.a"


@pytest.mark.parametrize("command", ["status", "sweep"])
def test_the_help_says_what_the_exit_codes_mean(capsys, command):
    with pytest.raises(SystemExit):
        run(command, "--help")

    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"Exit codes: 0 .*; 1 .*; 2 ", said)


def test_a_batch_that_runs_is_no_problem_for_status(results, capsys):
    with contextlib.closing(EventLog.resume(results / "launches" / NAME)):
        assert run("status", "--results", results) == 0

    assert f"{BATCH} (simulated): running; round" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["sweep", "--batch", ""], "--batch"),
        (["sweep", "--batch=", "--dry-run"], "--batch"),
        (["sweep", "--endpoint", "aws", "--profile", ""], "--profile"),
        (["check", "t3.nano", "--account-id", ""], "--account-id"),
        (["probe", ""], "probe"),
    ],
)
def test_an_empty_value_is_no_wish_for_every_batch_nor_for_another_account(
    results, capsys, words, name
):
    """A script may leave a variable unset."""
    assert run(*words, "--results", results) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {name} has an empty value: give one, or leave it out\n"
    assert said.out == ""


def test_the_command_alone_prints_its_help(capsys):
    assert run() == 0
    assert "usage: spotlib" in capsys.readouterr().out

"""A damaged or foreign file among the logs is named in one sentence and hides no other batch."""

import fcntl
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import NANO, QUICK, plan_for, scripted, unnumbered
from crashing import NAME, in_process

from spotlib.__main__ import main
from spotlib.analyze.load import load_comparable
from spotlib.analyze.sentences import data_sentence
from spotlib.cleanup.unfinished import unfinished, unreadable
from spotlib.collect.rounds import collect_batch
from spotlib.record.events import CleanEvent, SkippedEvent
from spotlib.record.folder import find_logs
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import EventLog, LogError, is_alive
from spotlib.record.tables import load_batches, load_launches, load_polls


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The log of a batch of two requests that ended well."""
    log = tmp_path_factory.mktemp("recorded") / NAME
    connection = in_process(scripted(QUICK, QUICK))
    collect_batch(connection, plan_for(connection, NANO, n=2), log=log, seed=1)
    return log


@pytest.fixture
def batch(recorded, log):
    """That log in a folder of its own."""
    log.parent.mkdir()
    return Path(shutil.copy(recorded, log))


def bad_byte(log):
    log.write_bytes(log.read_bytes()[:-10] + b"\xe5" + log.read_bytes()[-9:])


def deep_brackets(log):
    with_line(log, b"[" * 1200 + b"\n")


def folder(log):
    log.unlink()
    log.mkdir()


def dangling_link(log):
    log.unlink()
    log.symlink_to(log.parent / "nowhere")


def not_a_log(log):
    log.write_bytes(b"hello")


def pipe(log):
    log.unlink()
    os.mkfifo(log)


def link_loop(log):
    log.unlink()
    log.symlink_to(log)


def device(log):
    log.unlink()
    log.symlink_to("/dev/zero")


def unreadable_file(log):
    """A plain file whose reading fails, also for root."""
    log.unlink()
    log.symlink_to("/proc/self/mem")


def forbidden(log):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    log.chmod(0)


def with_line(log, line):
    """Insert a line into the log of a batch that is not confirmed clean."""
    *lines, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines, line, last.replace(b"true", b"false")]))


def five(log):
    with_line(log, b"5\n")


def flipped_key(log):
    log.write_bytes(log.read_bytes().replace(b'"confirmed"', b'"conFirmed"'))


def nul_bytes(log):
    """As a file system may leave a file behind after a loss of power."""
    log.write_bytes(b"\0" * 4096)


def huge_line(log):
    with_line(log, b'"' + b"x" * 2**22 + b'"\n')


DAMAGES = [
    *(bad_byte, deep_brackets, folder, dangling_link, not_a_log, pipe, link_loop, device),
    *(unreadable_file, forbidden, five, flipped_key, nul_bytes, huge_line),
]


@pytest.fixture
def _in_time():
    """A reader that blocks fails its test and does not hang it."""

    def ring(*_):
        raise AssertionError("a reader blocked")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_in_time")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_is_named_and_hides_no_other_batch(batch, capsys, damage):
    open_log = batch.with_name("20240902T000000Z-abcdef.jsonl")
    lines = batch.read_text().splitlines(keepends=True)
    open_log.write_text("".join(lines[:-1]).replace(batch.stem, open_log.stem))
    damage(batch)
    damage_says = unreadable(batch.parent)[batch.stem]

    assert [each.batch_id for each in unfinished(batch.parent)] == [open_log.stem]
    assert list(unreadable(batch.parent)) == [batch.stem]
    assert main(["status", "--results", str(batch.parents[1])]) == 1
    assert main(["sweep", "--results", str(batch.parents[1])]) == 1
    assert f"{batch.stem}: NOT known: " in capsys.readouterr().out
    assert str(batch) in damage_says
    assert "Traceback" not in damage_says
    kept = load_comparable(batch.parent)
    assert set(kept.launches["batch_id"]) == {open_log.stem}
    assert data_sentence(kept).endswith("1 file could not be read: see what was left out.")
    assert damage_says in kept.left_out["why"].tolist()


def test_an_export_says_how_many_logs_it_could_not_read(batch, capsys):
    os.mkfifo(batch.with_name("pipe.jsonl"))

    assert main(["export", "--results", str(batch.parents[1])]) == 0
    assert "pipe.jsonl is no file, so no log" in capsys.readouterr().err
    readme = batch.parents[1] / "export" / "simulated" / "README.md"
    assert "logs that could not be read: 1" in readme.read_text()


@pytest.mark.usefixtures("_in_time")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_log_keeps_nobody_from_collecting_and_its_cost_is_unknown(batch, damage):
    damage(batch)

    assert last_launches(batch.parent, since=datetime(2020, 1, 1, tzinfo=UTC)) == {}
    assert math.isnan(earlier_usd(batch.parent, simulated=True))


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        ("batch", "already has the batch"),
        ("intent", r"already has the intent of run \(0, 0\)"),
        ("requested", r"already has the answer to run \(0, 0\)"),
        ("stage", "already has fulfilled of sir-"),
        ("outcome", "already has the outcome of sir-"),
    ],
)
def test_a_line_that_says_again_what_was_said_is_refused(batch, event, complaint):
    lines = unnumbered(batch.read_text()).splitlines(keepends=True)
    [first, *_] = [line for line in lines if line.startswith(f'{{"event":"{event}"')]
    batch.write_text("".join([*lines, first]))

    with pytest.raises(
        ValueError, match=rf"line {len(lines) + 1} is no valid event: .*{complaint}"
    ):
        load_launches(batch)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (dangling_link, "it is a link to nothing"),
        (link_loop, "Too many levels of symbolic links"),
        (unreadable_file, "Input/output error"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_systems_own_words(batch, damage, why):
    damage(batch)

    assert unreadable(batch.parent) == {batch.stem: f"{batch} cannot be read: {why}"}


def test_a_log_that_is_gone_once_it_was_found_is_named_too(batch):
    found = find_logs(batch.parent)
    batch.unlink()

    assert [*found.read(polls=True)] == []
    assert [each.words for each in found.faults] == [
        f"{batch} cannot be read: No such file or directory"
    ]


def test_every_reader_refuses_a_poll_that_is_no_json(batch):
    lines = batch.read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith('{"event":"poll"'))
    lines[place] = lines[place].replace('"round"', '"round')
    batch.write_text("".join(lines))

    for read in (load_batches, load_launches, load_polls):
        with pytest.raises(ValueError, match=f"line {place + 1} is no JSON"):
            read(batch)


def test_a_hidden_file_is_no_log_and_no_trouble(batch, capsys):
    """An editor's lock is a link to nowhere; macOS leaves files like the other one."""
    (batch.parent / f".#{batch.name}").symlink_to("somebody@somewhere.1:2")
    (batch.parent / f"._{batch.name}").write_bytes(b"\0\5\26\7")

    assert main(["status", "--results", str(batch.parents[1])]) == 0
    assert capsys.readouterr().out.count("is hidden, so it is no log") == 2
    assert not math.isnan(earlier_usd(batch.parent, simulated=True))
    assert load_comparable(batch.parent).left_out["why"].str.contains("is hidden").sum() == 2
    with pytest.warns(UserWarning, match="is hidden, so it is no log"):
        assert len(load_launches(batch.parent)) == 2


@pytest.mark.parametrize("lost", [0, 1, 7])
def test_a_copy_of_a_log_counts_once_and_is_said_to_be_one(batch, capsys, lost):
    """Also an older copy: a log only grows, so it is the beginning of the longer one."""
    copy = batch.with_name(f"{batch.stem} (copy).jsonl")
    lines = batch.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[: len(lines) - lost]))
    words = f"{copy} is a copy of {batch}: it counts once"

    with pytest.warns(UserWarning, match="is a copy of"):
        assert len(load_launches(batch.parent)) == 2
    kept = load_comparable(batch.parent)
    assert len(kept.launches) == 2
    assert kept.left_out["why"].tolist() == [words]
    assert main(["status", "--results", str(batch.parents[1])]) == 0
    assert words in capsys.readouterr().out
    assert unfinished(batch.parent) == []


def test_the_longer_copy_is_read_wherever_it_is(batch):
    whole = batch.rename(batch.with_name("a backup.jsonl"))
    batch.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:-1]))

    assert unfinished(batch.parent) == []
    assert list(find_logs(batch.parent).batches) == [whole]


@pytest.mark.parametrize(
    "changed", [lambda text: text + b"\n", lambda text: text.replace(b"ready", b"reedy")]
)
def test_a_copy_of_a_live_log_never_takes_its_place(batch, changed):
    """An editor may have added an empty line or changed something in the copy."""
    copy, text = batch.with_name("notes.jsonl"), batch.read_bytes()
    batch.write_bytes(text[: text.rindex(b"\n", 0, -1) + 1])
    copy.write_bytes(changed(batch.read_bytes()))
    writer = EventLog.resume(batch)

    assert [(each.path, each.alive) for each in unfinished(batch.parent)] == [(batch, True)]
    assert find_logs(batch.parent).notes == [f"{copy} is a copy of {batch}: it counts once"]
    writer.close()


@pytest.mark.parametrize("changed", [(b'"plan":0', b'"plan":1'), (b"ready", b"beady")])
def test_two_logs_of_one_batch_that_differ_are_named_and_neither_is_read(batch, changed):
    other = batch.with_name("other.jsonl")
    other.write_bytes(batch.read_bytes().replace(*changed))
    words = f"{batch} and {other} are logs of batch {batch.stem} and differ: keep the true one"

    assert unreadable(batch.parent) == {batch.stem: words}
    with pytest.raises(ValueError, match="differ: keep the true one"):
        load_launches(batch.parent)


def test_a_renamed_log_is_the_same_log(batch):
    polls, renamed = load_polls(batch), batch.rename(batch.with_name("my first.jsonl"))

    assert len(load_comparable(batch.parent).polls) == len(polls)
    assert find_logs(batch.parent, batch_id=batch.stem).batches.keys() == {renamed}


def test_a_link_to_a_log_is_no_second_log(batch):
    (batch.parent / "2000 first by name.jsonl").symlink_to(batch)

    assert list(find_logs(batch.parent).batches) == [batch]
    assert find_logs(batch.parent).notes == []


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(batch, monkeypatch):
    def refused(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)

    with pytest.raises(PermissionError):
        unfinished(batch.parent)


@pytest.mark.parametrize("event", ["intent", "poll", "stage"])
@pytest.mark.parametrize("read", [load_batches, load_launches, load_polls])
def test_a_line_that_was_lost_or_moved_is_noticed_by_every_reader(batch, event, read):
    lines = batch.read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith(f'{{"event":"{event}"'))
    for damaged in (
        lines[:place] + lines[place + 1 :],
        [*lines[:place], *lines[place + 1 : -1], lines[place], lines[-1]],
    ):
        batch.write_text("".join(damaged))
        with pytest.raises(ValueError, match="lines were lost, added or moved"):
            read(batch)


def test_a_damaged_line_before_a_sweep_went_on_is_no_torn_line(batch):
    """A sweep's event excuses only a line that it found torn."""
    EventLog.resume(batch).close()
    batch.write_text(batch.read_text().replace('{"event":"clean"', '{"event":"clean'))

    with pytest.raises(ValueError, match="is no JSON"):
        load_batches(batch)


def test_a_log_is_nobody_elses_to_read_and_its_folder_stays_as_it_is(tmp_path):
    tmp_path.chmod(0o755)
    EventLog(tmp_path / "a.jsonl").close()

    assert stat.S_IMODE((tmp_path / "a.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_log_that_is_named_twice_counts_once(batch):
    assert list(find_logs([batch, batch.parent, str(batch)]).batches) == [batch]
    assert len(load_launches([batch.parent, batch])) == 2


@pytest.mark.parametrize("given", [{"seed": "abc"}, {"seed": 2**63}, {"settle_s": "30"}])
def test_what_no_reader_would_take_is_refused_before_anything_is_launched(log, given):
    world = scripted(QUICK)
    connection = in_process(world)

    with pytest.raises((ValueError, TypeError)):
        collect_batch(connection, plan_for(connection, NANO, n=1), log=log, **given)

    assert world.truth() == []


def test_a_number_of_numpy_is_written_as_a_number(tmp_path):
    log = EventLog(tmp_path / "a.jsonl")
    log.append(SkippedEvent(round=np.int64(1), polls=(), reason="late"))
    with pytest.raises(TypeError, match="has no place in a log"):
        log.append(CleanEvent(confirmed=object(), open_requests={}, live_instances={}, errors={}))
    log.close()

    assert '"round":1' in log.path.read_text()


HOLDING = """
    import fcntl, sys
    file = open(sys.argv[1], "r+")
    {}(file, {})
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another_program(path, *lock):
    """While entered, another process holds a lock on the file, as a backup may."""
    script = textwrap.dedent(HOLDING).format(*lock)
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


@pytest.mark.parametrize(
    ("lock", "can_write"),
    [
        (("fcntl.flock", "fcntl.LOCK_SH"), True),
        (("fcntl.flock", "fcntl.LOCK_EX"), True),
        (("fcntl.lockf", "fcntl.LOCK_EX"), False),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the writer's lock is a flock")
def test_a_lock_of_another_program_is_not_taken_for_a_writer(batch, lock, can_write):
    with held_by_another_program(batch, *lock):
        assert not is_alive(batch)
        if can_write:
            EventLog.resume(batch).close()
        else:
            with pytest.raises(LogError, match="is locked by another program"):
                EventLog.resume(batch)


@pytest.mark.parametrize("system", ["with a lock for one byte", "without"])
def test_a_writer_is_known_to_live_and_is_alone(batch, system, monkeypatch):
    """Where there is no lock for one byte of an open file it is a flock."""
    if system == "without":
        for name in ("F_OFD_SETLK", "F_OFD_GETLK"):
            monkeypatch.delattr(fcntl, name, raising=False)
    reader = os.open(batch, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [reader]).start()

    log = EventLog.resume(batch)

    assert is_alive(batch)
    with pytest.raises(BlockingIOError):
        EventLog.resume(batch)
    log.close()
    assert not is_alive(batch)

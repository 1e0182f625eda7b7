"""The log's own machinery: its lock on every system, its parts, the ranges of its numbers."""

import errno
import fcntl
import json
import os
import shutil
import stat
import struct
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from conftest import NANO, plan_for, scripted
from crashing import in_process
from made_events import intent

from spotlib.cleanup.unfinished import read_folder, unfinished
from spotlib.collect.rounds import collect_batch
from spotlib.record import folder, log
from spotlib.record.events import Count, RecoveredEvent, Seconds, SkippedEvent
from spotlib.record.folder import Logs
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import (
    EventLog,
    LogError,
    ends_clean,
    is_alive,
    locked,
    read_batch,
    read_lines,
)
from spotlib.record.tables import load_batches, load_launches, load_polls


@pytest.fixture(scope="module")
def log_of_a_batch(tmp_path_factory):
    """The log of one small batch."""
    path = tmp_path_factory.mktemp("recorded") / "20240901T000000Z-abcdef.jsonl"
    connection = in_process(scripted())
    checked = plan_for(connection, n=1)
    collect_batch(connection, checked, log=path, seed=1, placement_scores=False, guard=False)
    return path


@pytest.fixture
def recorded(log_of_a_batch, tmp_path):
    """That log in a folder of its own."""
    return Path(shutil.copy(log_of_a_batch, tmp_path))


def without_byte_locks(monkeypatch, how):
    """A system that cannot lock a byte for an open file: it lacks the call, or knows no such."""
    monkeypatch.setattr(log, "_PATIENCE_S", 0.05)
    if how != "EINVAL":
        monkeypatch.setattr(log.sys, "platform", how)

    def refuse(*_):
        raise OSError(errno.EINVAL if how == "EINVAL" else errno.ENOSYS, "not asked elsewhere")

    if how != "linux":
        monkeypatch.setattr(log.fcntl, "fcntl", refuse)


@pytest.mark.parametrize("how", ["linux", "darwin", "netbsd", "EINVAL"])
def test_a_log_has_one_living_writer_on_every_system(recorded, monkeypatch, how):
    without_byte_locks(monkeypatch, how)
    writer = EventLog.resume(recorded)

    assert is_alive(recorded)
    with pytest.raises(BlockingIOError):
        EventLog.resume(recorded)
    assert is_alive(recorded)
    writer.close()
    assert not is_alive(recorded)
    EventLog.resume(recorded).close()


def test_a_lock_that_fails_for_another_reason_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(log.fcntl, "fcntl", refuse)
    with pytest.raises(LogError, match="No locks available"):
        EventLog(tmp_path / "b.jsonl")


def test_a_lock_of_another_program_on_the_file_is_not_taken_for_a_writers(recorded):
    with open(recorded, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not is_alive(recorded)


def test_a_program_without_input_may_have_its_log_as_file_0(tmp_path):
    events, kept = EventLog(tmp_path / "b.jsonl"), os.dup(0)
    try:
        os.dup2(events._file, 0)
        os.close(events._file)
        events._file = 0
        events.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    assert [each.name for each in tmp_path.iterdir()] == ["b.jsonl"]


def test_batches_and_launches_are_read_without_the_polls_which_are_most_of_a_log(recorded):
    text = recorded.read_text().replace('"event":"poll"', '"event":"poll","number":"none"')
    recorded.write_text(text)

    assert len(load_batches(recorded)) == len(load_launches(recorded)) == 1
    assert earlier_usd(recorded.parent, simulated=True) > 0
    assert len(read_folder(recorded.parent).clean) == 1
    real = recorded.with_name("real.jsonl")
    real.write_text(
        text.replace("true", "false", 1).replace('"confirmed":true', '"confirmed":false')
    )
    recorded.unlink()
    assert [*last_launches(recorded.parent, since=datetime(2024, 1, 1, tzinfo=UTC))] == [NANO]
    assert [each.path for each in unfinished(recorded.parent)] == [real]
    recorded.write_text(text)
    with pytest.raises(ValueError, match="is no valid event"):
        load_polls(recorded)


def test_a_torn_line_is_said_once_and_the_lines_after_it_are_counted_on(recorded):
    with open(recorded, "ab") as file:
        file.write(b'{"event":"po')
    for _ in range(3):
        EventLog.resume(recorded).close()

    events = [event for _, event in read_lines(recorded).events]
    said = [event.torn for event in events if isinstance(event, RecoveredEvent)]
    assert said == [True, False, False]
    assert [event.line for event in events] == list(range(1, len(events) + 1))


def test_many_logs_are_read_in_parts_that_end_with_the_log_that_fills_them(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_PART_BYTES", 201)
    paths = [tmp_path / f"{number}.jsonl" for number in range(8)]
    for path in paths:
        path.write_bytes(b"x" * 100)
    gone = tmp_path / "gone.jsonl"

    parts = list(Logs(dict.fromkeys([gone, *paths])).parts())
    assert [len(part.batches) for part in parts] == [4, 3, 2]
    assert [path for part in parts for path in part.batches] == [gone, *paths]
    assert [len(part.batches) for part in Logs().parts()] == [0]
    monkeypatch.setattr(folder, "_PART_BYTES", 200)
    assert [len(part.batches) for part in Logs(dict.fromkeys(paths)).parts()] == [2] * 4
    parts = Logs(dict.fromkeys([gone, *paths])).parts()
    assert [len(part.batches) for part in parts] == [3, 2, 2, 2]


@pytest.mark.parametrize(("kind", "most"), [(Count, 2**53), (Seconds, 1e9)])
def test_numbers_are_taken_up_to_their_limits(kind, most):
    assert [msgspec.convert(each, kind) for each in (0, most)] == [0, most]
    for wrong in (-1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, kind)


@pytest.fixture
def ended(tmp_path):
    """A log whose writer has ended."""
    events = EventLog(tmp_path / "ended.jsonl")
    events.close()
    return events.path


@pytest.mark.parametrize(
    ("place", "length", "alive"),
    [(2**62, 1, True), (2**62, 5, False), (2**62 - 1, 5, False), (0, 0, False), (0, 9, False)],
)
@pytest.mark.skipif(log.sys.platform != "linux", reason="elsewhere the writer's lock is a flock")
def test_the_lock_of_a_writer_of_any_release_is_on_the_same_byte(ended, place, length, alive):
    """An older release that writes is seen by a newer one, and other programs' locks are not."""
    file = os.open(ended, os.O_RDWR)
    wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, place, length, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)

    assert is_alive(ended) is alive
    os.close(file)
    assert not is_alive(ended)


def test_a_log_is_locked_itself_too_in_a_folder_that_is_made_for_it(tmp_path):
    """Somebody may tidy away the hidden file beside it."""
    path = tmp_path / "one" / "two" / "b.jsonl"
    events = EventLog(path)
    beside = path.with_name(".b.lock")

    assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    beside.unlink()
    assert is_alive(path)
    events.close()
    assert not is_alive(path)


def test_what_cannot_be_opened_or_locked_leaves_no_file_open_and_no_lock(ended, tmp_path):
    (tmp_path / ".b.lock").mkdir()
    before = sorted(os.listdir("/dev/fd"))

    for _ in range(3):
        with pytest.raises(LogError, match=r"\.b\.lock cannot be made or locked"):
            EventLog(tmp_path / "b.jsonl")
        assert not log._is_held_at(tmp_path / "b.jsonl")
        (tmp_path / "b.jsonl").unlink()
    writer = EventLog.resume(ended)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            EventLog.resume(ended)
        with pytest.raises(BlockingIOError), locked(ended):
            pass
        assert is_alive(ended)
    writer.close()
    EventLog(tmp_path / "c.jsonl").close()
    with locked(ended):
        pass
    assert sorted(os.listdir("/dev/fd")) == before


def test_whoever_holds_a_log_without_writing_keeps_other_sweeps_out_until_it_is_done(ended):
    with locked(ended):
        assert is_alive(ended)
        with pytest.raises(BlockingIOError):
            EventLog.resume(ended)
    with pytest.raises(KeyError), locked(ended):
        raise KeyError
    assert not is_alive(ended)


def test_a_writer_waits_a_second_for_who_looks_whether_it_is_locked(ended, monkeypatch):
    """Where a look itself takes the lock for a moment; it asks twenty times."""
    slept_s = []
    monkeypatch.setattr(log.sys, "platform", "darwin")
    clock = SimpleNamespace(monotonic=lambda: sum(slept_s), sleep=slept_s.append)
    monkeypatch.setattr(log, "time", clock)

    with open(ended, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            EventLog.resume(ended)
    assert set(slept_s) == {0.05}
    assert 1.0 <= sum(slept_s) < 1.06


def test_a_log_that_an_editor_saved_is_held_by_nobody_else_while_its_writer_lives(tmp_path):
    path = tmp_path / "b.jsonl"
    writer = EventLog(path)
    (tmp_path / "copy").write_bytes(b"")
    (tmp_path / "copy").replace(path)

    with pytest.raises(BlockingIOError, match="its writer lives"), locked(path):
        pass
    with pytest.raises(BlockingIOError, match="its writer lives"):
        EventLog.resume(path)
    writer.close()


def test_a_writer_closes_its_own_files_and_each_once(ended, tmp_path, monkeypatch):
    """The numbers of closed files are soon those of others."""
    shut, closed = os.close, []
    new, old = EventLog(tmp_path / "b.jsonl"), EventLog.resume(ended)
    mine = [new._file, new._beside, old._file]
    monkeypatch.setattr(log.os, "close", lambda file: (closed.append(file), shut(file)))

    for each in (new, old, new, old):
        each.close()
        beside = tmp_path / ".b.lock"
        beside.write_bytes(b"")  # of the next writer of that name
    assert closed == mine
    assert beside.exists()


def test_a_forked_child_of_a_writer_does_not_keep_its_lock(tmp_path):
    path = tmp_path / "b.jsonl"
    events = EventLog(path)
    (told, tell), (hold, release) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(release)
        os.write(tell, b"here")
        os.read(hold, 1)  # until the test has seen what it needs
        os._exit(0)
    assert os.read(told, 4) == b"here"
    events._let_go()  # as when the writer dies: nothing is put in order
    alive = is_alive(path)
    for each in (told, tell, hold, release):
        os.close(each)
    os.waitpid(child, 0)

    assert not alive


SKIPPED = SkippedEvent(round=1, polls=(), reason="late")


@pytest.fixture
def on_disk(monkeypatch):
    """What was done to files, in order: written, or brought to the disk (of a folder or a file)."""
    done, write, sync = [], os.write, os.fsync

    def kind(file):
        return "folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"

    def noted(word, call):
        def do(file, *data):
            done.append(f"{word} {kind(file)}")
            return call(file, *data)

        return do

    monkeypatch.setattr(log.os, "write", noted("write", write))
    monkeypatch.setattr(log.os, "fsync", noted("sync", sync))
    return done


def test_what_must_not_be_lost_is_on_the_disk_before_it_goes_on(tmp_path, on_disk):
    """The name of a new log, a line that says so, the start of a sweep, and all at the end."""
    events = EventLog(tmp_path / "b.jsonl")
    assert on_disk == ["sync folder"]
    events.append(SKIPPED)
    assert on_disk[1:] == ["write file"]
    events.append(SKIPPED, sync=True)
    assert on_disk[2:] == ["write file", "sync file"]
    events.close()
    assert on_disk[4:] == ["sync file"]
    EventLog.resume(events.path).close()
    assert on_disk[5:] == ["write file", "sync file", "sync file"]


def test_what_follows_a_line_that_was_written_in_part_says_so_and_is_read_first_itself(
    tmp_path, monkeypatch
):
    """An intent that no reader would take is refused there too, before money is spent."""
    events, write = EventLog(tmp_path / "b.jsonl"), os.write
    events.append(SKIPPED)
    with monkeypatch.context() as patch:
        patch.setattr(log.os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        with pytest.raises(LogError, match="only a part of a line; is it full"):
            events.append(SKIPPED)
    torn = events.path.read_bytes()
    with pytest.raises(ValueError, match="cannot take this event"):
        events.append(msgspec.structs.replace(intent(), n=0))
    assert events.path.read_bytes() == torn

    events.append(intent())
    events.append(SKIPPED)
    events.close()
    added = events.path.read_bytes().removeprefix(torn).splitlines()[1:]
    said, *others = map(json.loads, added)
    assert (said["event"], said["torn"]) == ("recovered", True)
    assert [(each["event"], each["line"]) for each in others] == [("intent", 3), ("skipped", 4)]


def test_a_log_is_not_read_again_for_each_line_that_is_written(tmp_path, monkeypatch):
    events = EventLog(tmp_path / "b.jsonl")

    def refuse(_):
        raise AssertionError("the whole log was read again")

    monkeypatch.setattr(log.Path, "read_bytes", refuse)
    for _ in range(3):
        events.append(SKIPPED)
    events.close()

    monkeypatch.undo()
    written = [json.loads(each)["line"] for each in events.path.read_text().splitlines()]
    assert written == [1, 2, 3]


END = (
    b'{"event":"clean","confirmed":true,"open_requests":{},"live_instances":{},"errors":{}}' + b"\n"
)
OTHER = b'{"event":"recovered","torn":false,"at":"2026-01-01T00:00:00Z","pid":1}' + b"\n"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (END, True),
        (OTHER + END, True),
        (OTHER * 200 + END, True),
        (END + OTHER, False),
        (OTHER * 200, False),
        (END.replace(b"true", b"false"), False),
        (END[:-1], False),
        (END + b"\n", False),
        (END + b"x\n", False),
        (b"", False),
        (b"\n", False),
    ],
)
def test_a_log_ends_clean_if_its_last_line_is_whole_and_confirms_it(tmp_path, text, clean):
    path = tmp_path / "b.jsonl"
    path.write_bytes(text)

    assert ends_clean(path) is clean


def test_only_the_end_of_a_log_is_read_to_know_whether_it_ends_clean(tmp_path):
    """More than any memory holds lies before the last line; it takes no room on the disk."""
    path = tmp_path / "b.jsonl"
    with path.open("wb") as file:
        file.truncate(8 * 1024**4)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + END)

    assert ends_clean(path)


FIRST = b'{"event":"batch"'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FIRST, None),
        (FIRST[:5], None),
        (b"", None),
        (FIRST + b"x" * (2**20 - len(FIRST) - 1), None),
        (FIRST + b"x" * (2**20 - len(FIRST)), "does not begin with a batch event"),
        (FIRST + b"x" * 2**20, "does not begin with a batch event"),
        (b'{"event":"clean"', "does not begin with a batch event"),
        (b'{"event":"clean","schema":2}\n', "its first line is no batch event"),
        (b'{"event":"a","schema":2}\n', "its first line is no batch event"),
        (b"[1]\n", "its first line is no batch event"),
        (FIRST + b',"schema":3}\n', "has schema 3, .* only: update spotlib"),
        (FIRST + b',"schema":1}\n', "has schema 1, .* only: read it with the version that wrote"),
        (FIRST + b',"schema":"3"}\n', "has schema '3', .* only: read it with the version"),
        (FIRST + b"}\n", "has schema None, .* only: read it with the version"),
        (FIRST + b',"schema":2}\n', "line 1 is no valid event: .*missing required field"),
    ],
)
def test_a_first_line_is_a_batch_event_of_this_schema_or_may_become_one(tmp_path, text, complaint):
    path = tmp_path / "b.jsonl"
    path.write_bytes(text)
    if complaint is None:
        assert read_batch(path) is None
        assert read_lines(path) == ([], text != b"")
        return
    for read in (read_batch, read_lines):
        with pytest.raises(ValueError, match=complaint):
            read(path)


def test_the_first_of_several_torn_lines_is_named(recorded):
    text = recorded.read_bytes()
    first, *rest = text.splitlines(keepends=True)
    recorded.write_bytes(b"".join([first, b'{"ev\n', b'{"event\n', *rest]))

    with pytest.raises(ValueError, match="line 2 is no JSON"):
        read_lines(recorded)


def test_two_logs_that_nothing_whole_is_in_yet_are_no_copies_of_each_other(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_bytes(FIRST)
    (tmp_path / "notes.txt").write_bytes(b"not even looked at")

    found = folder.find_logs(tmp_path)
    assert [each.name for each in found.batches] == ["a.jsonl", "b.jsonl"]
    assert (found.faults, found.notes) == ([], [])
    assert [*found.read(polls=True)] == []
    found.require()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "a.jsonl is no file, so no log: move it away to read the others"),
        (2, r"a.jsonl is no file, so no log \(and 1 more\): move it away to read the others"),
        (3, r"a.jsonl is no file, so no log \(and 2 more\): move it away to read the others"),
    ],
)
def test_the_first_file_that_cannot_be_read_is_named_and_the_others_are_counted(
    tmp_path, count, words
):
    for name in "abc"[:count]:
        (tmp_path / f"{name}.jsonl").mkdir()

    with pytest.raises(ValueError, match=words):
        load_batches(tmp_path)


def test_a_warning_of_a_copy_names_the_line_that_read_the_logs(recorded):
    recorded.with_name("copy.jsonl").write_bytes(recorded.read_bytes())

    for load in (load_batches, load_launches, load_polls):
        with pytest.warns(UserWarning, match="is a copy of") as warned:
            load(recorded.parent)
        assert [each.filename for each in warned] == [__file__]


def test_a_sweep_that_is_interrupted_as_it_begins_to_write_holds_no_lock(ended, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            EventLog.resume(ended)
    assert not is_alive(ended)


def test_nothing_more_is_launched_once_another_file_is_in_the_place_of_the_log(tmp_path):
    """What is still to be recorded goes to the file that was there before."""
    events = EventLog(tmp_path / "b.jsonl")
    events.append(intent())
    events.path.rename(tmp_path / "moved")
    events.path.touch()

    events.append(SKIPPED)
    with pytest.raises(LogError, match="was replaced, moved or removed during the batch"):
        events.append(intent(1))
    events.close()
    assert (tmp_path / "moved").read_bytes().count(b"\n") == 2

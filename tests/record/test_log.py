"""The log's own machinery: its lock on every system, its parts, the ranges of its numbers."""

import errno
import fcntl
import os
from datetime import UTC, datetime

import msgspec
import pytest
from conftest import NANO, plan_for, scripted

from spotlib.cleanup.unfinished import read_folder, unfinished
from spotlib.collect.rounds import collect_batch
from spotlib.record import folder, log
from spotlib.record.events import Count, RecoveredEvent, Seconds
from spotlib.record.folder import Logs
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import EventLog, LogError, is_alive, read_lines
from spotlib.record.tables import load_batches, load_launches, load_polls


@pytest.fixture
def recorded(in_process, tmp_path):
    """The log of one small batch."""
    path = tmp_path / "20240901T000000Z-abcdef.jsonl"
    connection = in_process(scripted())
    checked = plan_for(connection, n=1)
    collect_batch(connection, checked, log=path, seed=1, placement_scores=False, guard=False)
    return path


def without_byte_locks(monkeypatch, how):
    """A system that cannot lock a byte for an open file: it lacks the call, or knows no such."""
    monkeypatch.setattr(log, "_PATIENCE_S", 0.05)
    if how != "EINVAL":
        monkeypatch.setattr(log.sys, "platform", how)
        return

    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

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

    parts = list(Logs(dict.fromkeys([*paths, gone])).parts())
    assert [len(part.batches) for part in parts] == [3, 3, 3]
    assert [path for part in parts for path in part.batches] == [*paths, gone]
    assert [len(part.batches) for part in Logs().parts()] == [0]
    monkeypatch.setattr(folder, "_PART_BYTES", 200)
    assert [len(part.batches) for part in Logs(dict.fromkeys(paths)).parts()] == [2] * 4


@pytest.mark.parametrize(("kind", "most"), [(Count, 2**53), (Seconds, 1e9)])
def test_numbers_are_taken_up_to_their_limits(kind, most):
    assert [msgspec.convert(each, kind) for each in (0, most)] == [0, most]
    for wrong in (-1, most + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, kind)

"""A damaged or foreign file among the logs is named in one sentence and hides no other batch."""

import fcntl
import math
import os
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from conftest import NANO, QUICK, plan_for, scripted, unnumbered

from spotlib.__main__ import main
from spotlib.cleanup.unfinished import unfinished, unreadable
from spotlib.collect.rounds import collect_batch
from spotlib.record.events import CleanEvent, SkippedEvent
from spotlib.record.folder import find_logs
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import EventLog
from spotlib.record.tables import load_batches, load_launches, load_polls


@pytest.fixture
def batch(in_process, log):
    """The log of a batch of two requests that ended well."""
    connection = in_process(scripted(QUICK, QUICK))
    collect_batch(connection, plan_for(connection, NANO, n=2), log=log, seed=1)
    return log


def bad_byte(log):
    log.write_bytes(log.read_bytes()[:-10] + b"\xe5" + log.read_bytes()[-9:])


def deep_brackets(log):
    *lines, last = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines, b"[" * 1200 + b"\n", last.replace(b"true", b"false")]))


def folder(log):
    log.unlink()
    log.mkdir()


def dangling_link(log):
    log.unlink()
    log.symlink_to(log.parent / "nowhere")


def not_a_log(log):
    log.write_bytes(b"hello")


@pytest.mark.parametrize("damage", [bad_byte, deep_brackets, folder, dangling_link, not_a_log])
def test_a_damaged_log_is_named_and_hides_no_other_batch(batch, capsys, damage):
    open_log = batch.with_name("20240902T000000Z-abcdef.jsonl")
    lines = batch.read_text().splitlines(keepends=True)
    open_log.write_text("".join(lines[:-1]).replace(batch.stem, open_log.stem))
    damage(batch)

    assert [each.batch_id for each in unfinished(batch.parent)] == [open_log.stem]
    assert list(unreadable(batch.parent)) == [batch.stem]
    assert main(["status", "--results", str(batch.parents[1])]) == 1
    assert main(["sweep", "--results", str(batch.parents[1])]) == 1
    assert f"{batch.stem}: NOT known: " in capsys.readouterr().out


@pytest.mark.parametrize("damage", [bad_byte, folder, not_a_log])
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


def test_every_reader_refuses_a_poll_that_is_no_json(batch):
    lines = batch.read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith('{"event":"poll"'))
    lines[place] = lines[place].replace('"round"', '"round')
    batch.write_text("".join(lines))

    for read in (load_batches, load_launches, load_polls):
        with pytest.raises(ValueError, match=f"line {place + 1} is no JSON"):
            read(batch)


def test_a_log_that_is_named_twice_counts_once(batch):
    assert list(find_logs([batch, batch.parent, str(batch)]).batches) == [batch]
    assert len(load_launches([batch.parent, batch])) == 2


@pytest.mark.parametrize("given", [{"seed": "abc"}, {"seed": 2**63}, {"settle_s": "30"}])
def test_what_no_reader_would_take_is_refused_before_anything_is_launched(in_process, log, given):
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


def test_a_reader_that_asks_whether_a_writer_lives_keeps_nobody_from_writing(batch):
    """It holds a shared lock for a moment; only another writer is refused."""
    reader = os.open(batch, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, [reader]).start()

    log = EventLog.resume(batch)

    with pytest.raises(BlockingIOError):
        EventLog.resume(batch)
    log.close()

"""A disk that fills up at any line: the batch ends in order, and what was recorded stays readable.

Also logs that end in the middle of a line, at any byte.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from math import inf
from pathlib import Path

import pytest
from conftest import plan_for, read_events, scripted
from crashing import (
    EMPTY,
    NAME,
    full_after,
    in_process,
    points_of,
    require_recovered,
    short_batch,
    short_world,
    swept,
)

from spotlib.cleanup.unfinished import unfinished
from spotlib.collect.rounds import collect_batch
from spotlib.record.events import SkippedEvent
from spotlib.record.log import EventLog, LogError, is_alive, read_lines
from spotlib.record.tables import load_batches, load_launches, load_polls


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The number of lines in the log of a batch that ends well."""
    log = tmp_path_factory.mktemp("lines") / NAME
    short_batch(in_process(short_world()), log, lambda _: None)
    return log.read_bytes().count(b"\n")


def batch_on_a_full_disk(log, *, after, share, lost=inf):
    world = short_world()
    with full_after(after, share=share, lost=lost):
        if after == 0:
            with pytest.raises(LogError, match="could not be written"):
                short_batch(in_process(world), log, lambda _: None)
            return world, None
        return world, short_batch(in_process(world), log, lambda _: None)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999], ids=["nothing", "half", "all but the end"])
def test_a_disk_full_at_any_line_ends_the_batch_in_order(lines, tmp_path, sampled, share):
    """Nothing more is launched and everything is ended; later a sweep completes the log."""
    for after in sampled(range(lines), 15, start=int(10 * share)):
        log = tmp_path / str(after) / NAME
        world, summary = batch_on_a_full_disk(log, after=after, share=share)
        acknowledged, _ = read_events(log)
        intents = [each for each in acknowledged if each["event"] == "intent"]
        assert world.leftovers() == EMPTY, after
        assert world.touched == []
        assert len(world.truth()) <= 2 * len(intents), "each request has an intent in the log"
        load_batches(log), load_launches(log), load_polls(log)
        if summary is not None:
            assert summary.cleaned.confirmed
            assert any("No space left" in each for each in summary.problems), after
            command = f" -m spotlib sweep --batch {log.stem} --results {log.parent}"
            assert any(command in each for each in summary.problems)
            assert [each.batch_id for each in unfinished(log)] == [log.stem]
        assert swept(world, log).clean
        require_recovered(world, log, acknowledged)


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["nothing", "half"])
def test_a_disk_that_takes_all_but_one_line_ends_the_batch_in_order(
    lines, tmp_path, sampled, share
):
    """No later line says anything of a request that no line before it names."""
    steps = sampled(range(1, lines), 15, start=int(10 * share))
    for after in dict.fromkeys([2, 3, *steps]):  # the answers to the request calls too
        log = tmp_path / str(after) / NAME
        world, _ = batch_on_a_full_disk(log, after=after, share=share, lost=1)
        acknowledged, _ = read_events(log)
        assert world.leftovers() == EMPTY, after
        load_batches(log), load_launches(log), load_polls(log)
        assert swept(world, log).clean, after
        require_recovered(world, log, acknowledged)


def first_line_of(folder):
    """Return the first event of a batch that ended well."""
    log = folder / "whole" / NAME
    short_batch(in_process(short_world()), log, lambda _: None)
    return read_lines(log).events[0][1]


def test_a_disk_that_has_room_again_in_the_middle_leaves_a_readable_log(tmp_path):
    """One line was cut short; the next event starts a new line, after an event that says so."""
    log = EventLog(tmp_path / NAME)
    log.append(first_line_of(tmp_path))
    for share in (0.5, 0.0, 0.3):
        with full_after(0, share=share), pytest.raises(LogError, match="No space left"):
            log.append(SkippedEvent(round=1, polls=(), reason="late"))
    log.append(SkippedEvent(round=2, polls=(), reason="late"))
    log.append(SkippedEvent(round=3, polls=(), reason="late"))
    log.close()

    events, torn = read_events(log.path)
    assert [each["event"] for each in events] == ["batch", "recovered", "skipped", "skipped"]
    assert [each["round"] for each in events[2:]] == [2, 3]
    assert events[1]["torn"]
    assert not torn


LIMITED = """
    import json, resource, sys
    from pathlib import Path
    from crashing import NAME, in_process, short_batch, short_world

    world, room, log = short_world(), int(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    summary = short_batch(in_process(world), log, lambda _: None)
    print(json.dumps({"problems": summary.problems, "left": world.leftovers()}))
"""


def test_the_system_itself_refuses_a_longer_file_and_the_batch_ends_in_order(tmp_path):
    """A limit on the file's size acts like a full disk: a short write, then an error."""
    log, room = tmp_path / NAME, 7001
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(room), str(log)]
    done = subprocess.run(
        command, capture_output=True, check=True, text=True, cwd=Path(__file__).parents[1]
    )

    answer = json.loads(done.stdout)
    assert answer["left"] == EMPTY
    assert re.search("could not be written: .*(too large|only a part)", answer["problems"][0])
    assert log.stat().st_size == room
    events, torn = read_events(log)
    assert torn
    assert {"intent", "requested", "poll"} <= {each["event"] for each in events}
    assert len(load_launches(log)) >= 2


def test_a_log_torn_at_any_byte_of_its_last_line_is_completed(tmp_path, sampled):
    """The readers skip the torn line and report it; the sweep appends after it."""
    point, *_ = points_of(tmp_path, named="after the line of requested")
    last = point.log.rindex(b"\n", 0, -1) + 1
    for size in sampled(range(last, len(point.log) + 1), 40, whole=4):
        world, log = point.revived(tmp_path / str(size))
        os.truncate(log, size)
        acknowledged, torn = read_events(log)
        assert torn is (last < size < len(point.log))
        assert load_batches(log)["torn"].tolist() == [torn]

        assert swept(world, log).clean, size
        require_recovered(world, log, acknowledged)


@pytest.mark.parametrize("end", [b'{"event":"poll","li\n', b"\n", b"\n\n", b"\r\n"])
def test_what_an_editor_adds_to_the_end_of_a_log_does_not_destroy_it(tmp_path, end):
    """A newline after a torn line, or empty lines; the sweep goes on after them."""
    point, *_ = points_of(tmp_path, named="after the line of requested")
    world, log = point.revived(tmp_path / "ended")
    acknowledged, _ = read_events(log)
    log.write_bytes(point.log + end)

    assert swept(world, log).clean
    require_recovered(world, log, acknowledged)


def saved_by_an_editor(log):
    copy = log.with_suffix(".tmp")
    copy.write_bytes(log.read_bytes())
    copy.replace(log)


@pytest.mark.parametrize("lose", [saved_by_an_editor, Path.unlink])
def test_a_log_that_is_no_longer_in_its_place_is_a_problem_and_nothing_more_is_launched(
    tmp_path, lose
):
    """The batch ends in order; a sweep completes a log that an editor saved."""
    world, log = scripted(), tmp_path / NAME
    polls = iter([lambda: lose(log)])
    summary = collect_batch(
        in_process(world),
        plan_for(in_process(world), n=1),
        log=log,
        seed=1,
        rounds=2,
        every_s=600.0,
        on_poll=lambda _: next(polls, lambda: None)(),
    )

    assert summary.outcomes["ready"] == 1
    assert summary.cleaned.confirmed
    assert len(world.truth()) == 1, "the second round is not launched"
    assert "was replaced, moved or removed during the batch" in summary.problems[0]
    assert any("complete the log" in each for each in summary.problems) is log.exists()
    assert swept(world, log).clean
    if log.exists():
        assert len(load_launches(log)) == 1
        assert unfinished(log) == []


def test_a_batch_whose_log_an_editor_saved_is_seen_as_running_until_it_ends(tmp_path):
    """By a sweep of another kernel, too: nobody has locked the file that the editor wrote."""
    world, log = scripted(), tmp_path / NAME
    seen = []

    def saved(_):
        if not seen:
            saved_by_an_editor(log)
            seen.append(is_alive(log))
            seen.extend(each.verdict for each in swept(world, log).batches)
            with pytest.raises(BlockingIOError):
                EventLog.resume(log)

    checked = plan_for(in_process(world), n=1)
    summary = collect_batch(in_process(world), checked, log=log, seed=1, on_poll=saved)

    assert seen == [True, "kept: its collection is running here"]
    assert summary.outcomes == {"ready": 1}
    assert not is_alive(log)
    assert list(tmp_path.iterdir()) == [log]
    assert swept(world, log).clean


def test_what_a_killed_collector_left_beside_its_log_keeps_no_sweep_from_closing_it(tmp_path):
    point, *_ = points_of(tmp_path, named="after the line of requested")
    world, log = point.revived(tmp_path / "killed")
    log.with_name(f".{log.stem}.lock").touch()

    assert not is_alive(log)
    assert swept(world, log).clean
    assert list(log.parent.iterdir()) == [log]


def test_a_log_that_is_lost_at_the_end_is_a_problem_too(tmp_path):
    world, log = scripted(), tmp_path / NAME
    summary = collect_batch(
        in_process(world),
        plan_for(in_process(world), n=1),
        log=log,
        seed=1,
        on_poll=lambda _: log.unlink(missing_ok=True),
    )

    assert len(summary.problems) == 1
    assert "lost if that was deleted" in summary.problems[0]


def test_two_batches_never_share_a_file(tmp_path):
    EventLog(tmp_path / NAME).close()
    with pytest.raises(ValueError, match="exists: a log is never written twice"):
        EventLog(tmp_path / NAME)


def test_a_folder_that_cannot_be_written_launches_nothing(tmp_path, monkeypatch):
    """One sentence, before anything is sent."""
    world, opened = short_world(), os.open

    def read_only(path, flags, *mode):
        if str(path).endswith(".jsonl") and flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(LogError, match=r"cannot be made: .*Permission denied.*another results"):
        short_batch(in_process(world), tmp_path / NAME, lambda _: None)
    assert world.truth() == []

"""Damaged variants of real logs, through every reader: refused by name, or as if undamaged.

What can be noticed is damage to the structure: a line, a key or a type that is lost, added, moved
or changed.  A value that became another legal one cannot be told from a true one by any reader;
of such a variant only a clean answer is asked.  A log that lacks its end is what a writer that died
leaves: its tables are those of the beginning, and it is not called clean.
"""

import json
import os
import random
import re
import shutil
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ARM, CHAOS, NANO, QUICK, plan_for, scripted
from crashing import in_process, swept

from spotlib.__main__ import main
from spotlib.analyze.load import load_comparable
from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import read_folder
from spotlib.collect.rounds import collect_batch
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.log import read_lines
from spotlib.record.replay import replay
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.world import Fate

VARIANTS = 2000 if CHAOS else 40
SEED = int(os.environ.get("SPOTLIB_SEED", random.SystemRandom().randrange(2**31) if CHAOS else 1))
LOADERS = (load_batches, load_launches, load_polls)
BASE = "20240901T000000Z-abcdef"
GOOD, OPEN = "20240903T000000Z-000001", "20240904T000000Z-000002"
_FREE = {"notes", "request", "codes", "plans", "seen", "open_requests", "live_instances", "errors"}
_OTHERS = (None, True, 7, -7, 0.5, "word", [], {}, [[1]], {"a": 1})
_NUMBERS = (
    *("1e400", "-1e400", "1e308", "NaN", "Infinity", "-Infinity", "1" * 400, "0x10", "1.5"),
)
_NUMBERS += ("-1", "99999999999999999999", "01", "--1", "2.0", "-0.001")
_DATES = ("2024-13-45T00:00:00Z", "yesterday", "2024-09-01", "2024-09-01T00:00:00", 0, "", None)


def collected(log, *, seed):
    """A batch of two plans: one request never launches, a poll is lost, the other is refused."""
    world = scripted(QUICK, QUICK, Fate(held_s=None), seed=seed)
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=3, timeout_s=20.0)
    lost = Fault(kind="internal_error", action="DescribeInstances", region=NANO.region, nth=3)
    full = Fault(
        kind="fail",
        action="RequestSpotInstances",
        region=ARM.region,
        code="InsufficientInstanceCapacity",
    )
    world.faults += [lost, full]
    collect_batch(connection, checked, log=log, seed=seed, guard=False)
    world.faults.clear()
    return world


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The log of a batch that ended well, and one whose torn line a sweep went on from."""
    folder = tmp_path_factory.mktemp("bases")
    whole, torn = folder / "whole" / f"{BASE}.jsonl", folder / "torn" / f"{BASE}.jsonl"
    world = collected(whole, seed=1)
    lines = whole.read_bytes().splitlines(keepends=True)
    torn.parent.mkdir()
    torn.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:40])
    assert swept(world, torn).clean
    assert "refused" in kinds_of(whole.read_bytes())
    assert "recovered" in kinds_of(torn.read_bytes())
    return [whole, torn]


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    """Two undamaged logs: one finished, of another world, and one whose writer died."""
    folder = tmp_path_factory.mktemp("neighbours")
    collected(folder / f"{GOOD}.jsonl", seed=2)
    lines = (folder / f"{GOOD}.jsonl").read_text().splitlines(keepends=True)
    (folder / f"{OPEN}.jsonl").write_text("".join(lines[:-1]).replace(GOOD, OPEN))
    return folder


def kinds_of(data):
    return re.findall(r'^{"event":"(\w+)"', data.decode(), re.MULTILINE)


def flipped_bit(draw, data):
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def truncated(draw, data):
    return data[: draw.randrange(len(data))]


def noise(draw, data):
    place, size = draw.randrange(len(data)), draw.randrange(1, 20)
    return data[:place] + draw.randbytes(size) + data[place + draw.choice([0, size]) :]


def junk(draw, data):
    """Something between two lines, or within one."""
    lines = data.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    deep = b"[" * 5000
    things = (b"5\n", b"\n", b"\0" * 64, b"\xff\xfe", b"{}\n", b"null\n", deep, deep + b"\n")
    lines.insert(place, draw.choice([*things, b'"' + b"x" * 2**20 + b'"\n', b"\r\n"]))
    return b"".join(lines)


def edited_lines(draw, data):
    """A line deleted, doubled, moved, exchanged, cut in two, or merged with the next."""
    lines = data.splitlines(keepends=True)
    one, other = draw.sample(range(len(lines)), 2)
    how = draw.randrange(6)
    if how == 0:
        del lines[one]
    elif how == 1:
        lines.insert(other, lines[one])
    elif how == 2:
        lines.insert(other, lines.pop(one))
    elif how == 3:
        lines[one], lines[other] = lines[other], lines[one]
    elif how == 4:
        cut = draw.randrange(1, len(lines[one]))
        lines[one] = lines[one][:cut] + b"\n" + lines[one][cut:]
    else:
        lines[one] = lines[one].rstrip(b"\n")
    return b"".join(lines)


def edited_field(draw, data):
    """A key renamed or deleted, or a value of another type, size or date."""
    lines = data.splitlines(keepends=True)
    whole = [number for number, line in enumerate(lines) if _parsed(line) is not None]
    place = draw.choice(whole)
    event = json.loads(lines[place])
    holder = draw.choice([event, *(each for each in event.values() if isinstance(each, dict))])
    if not holder:
        return data
    key = draw.choice(sorted(holder))
    how, number = draw.randrange(5), draw.choice(_NUMBERS)
    if how == 0:
        holder[draw.choice([key + "x", key[:-1], key.upper(), "at_s"])] = holder.pop(key)
    elif how == 1:
        del holder[key]
    elif how == 2:
        holder[key] = draw.choice(_DATES if key.endswith("at") else _OTHERS)
    elif how == 3:
        holder[key] = "NUMBER"
    else:
        numbers = [name for name, value in holder.items() if type(value) in (int, float)]
        holder[draw.choice(numbers or [key])] = "NUMBER"
    line = json.dumps(event, separators=(",", ":")).replace('"NUMBER"', number) + "\n"
    return b"".join([*lines[:place], line.encode(), *lines[place + 1 :]])


DAMAGES = (flipped_bit, truncated, noise, junk, edited_lines, edited_field, edited_field)


def _parsed(line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _alike(one, other, name=""):
    """Whether two values have the same structure: keys and types, not the values themselves."""
    if one is None or other is None or name in _FREE:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        if name == "" and one.get("event") != other.get("event"):
            return False
        keys = one.keys() | other.keys()
        return other.keys() <= one.keys() and all(
            _alike(one.get(each), other.get(each), each) for each in keys
        )
    numbers = (int, float)
    return type(one) is type(other) or (type(one) in numbers and type(other) in numbers)


def only_values_differ(base, damaged):
    """Whether line by line nothing but legal-looking values differ, which no reader can notice."""
    pairs = list(zip_longest(base.split(b"\n"), damaged.split(b"\n")))
    return all(
        one == other
        or (
            (None not in (one, other) and None not in (_parsed(one), _parsed(other)))
            and _alike(_parsed(one), _parsed(other))
        )
        for one, other in pairs
    )


def tables(path):
    """What each loader says: a table, or the words with which it refuses the file by name."""
    said = []
    for load in LOADERS:
        try:
            said.append(load(path).drop(columns="torn", errors="ignore"))
        except ValueError as error:
            said.append(str(error))
    assert all(str(path) in each for each in said if isinstance(each, str)), said
    return said


@cache
def beginning_of(base, lines):
    """What each loader says of the first lines of an undamaged log."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{BASE}.jsonl"
        path.write_bytes(b"".join(base.splitlines(keepends=True)[:lines]))
        return tables(path)


def judged(base, data, path):
    """Compare the tables of a damaged log with those of the undamaged one; what was decided."""
    path.write_bytes(data)
    said = tables(path)
    if only_values_differ(base, data):
        return "another value"
    readable = [each for each in said if not isinstance(each, str)]
    if not readable:
        return "refused"
    expected = beginning_of(base, None)
    how = "as undamaged"
    if not _agree(said, expected):
        events, torn = read_lines(path)
        last = events[-1][0] if events else 0
        expected = beginning_of(base, last)
        how = "torn" if torn else "without its end"
        assert not load_batches(path)["clean"].fillna(False).any()
    assert _agree(said, expected), how
    return how


def _agree(said, expected):
    pairs = zip(said, expected, strict=True)
    return all(isinstance(one, str) or one.equals(two) for one, two in pairs)


def other_readers(folder, path, *, all_of_them):
    """Every other reader: the damaged log never hides the good ones, and nothing else is raised."""
    here = read_folder(folder)
    assert OPEN in {each.batch_id for each in here.unfinished}
    assert GOOD in here.clean
    for each in here.unfinished:
        each.line()
    last_launches(folder, since=datetime(2020, 1, 1, tzinfo=UTC))
    earlier_usd(folder, simulated=True)
    with suppress(ValueError):
        replay(path)
    if all_of_them:
        kept = load_comparable(folder)
        assert {GOOD, OPEN} & {*kept.batches["batch_id"], *kept.left_out["batch_id"]}
        assert main(["status", "--results", str(folder)]) == 1
        report = sweep(in_process(scripted(seed=2)), folder=folder, regions=["us-east-1"])
        report.lines()
        assert main(["export", "--results", str(folder)]) == 0


@pytest.mark.filterwarnings("ignore:.* is a copy of .*")
def test_a_damaged_log_is_refused_by_name_or_read_as_if_undamaged(bases, neighbours, tmp_path):
    print(f"SPOTLIB_SEED={SEED} repeats these variants")
    draw, found = random.Random(SEED), Counter()
    folder = tmp_path / "launches"
    shutil.copytree(neighbours, folder)
    for number in range(VARIANTS):
        base, damage = bases[number % 2].read_bytes(), DAMAGES[number % len(DAMAGES)]
        data, path = damage(draw, base), folder / f"{BASE}.jsonl"
        try:
            found[judged(base, data, path)] += 1
            other_readers(folder, path, all_of_them=number % 100 == 0)
        except Exception as error:
            (tmp_path / "variant.jsonl").write_bytes(data)
            error.add_note(
                f"variant {number} of SPOTLIB_SEED={SEED}, {damage.__name__}: {tmp_path}"
            )
            raise
    print(found)
    assert found["refused"] > VARIANTS / 4
    assert found["another value"] < VARIANTS / 2

"""Damaged archives, selections and caches: one sentence, or the numbers that are really there.

Each case is drawn from its seed, which a failure prints.  What is read without complaint is
compared with a reading of the damaged bytes by other means, or with the undamaged where a checksum
guards.
"""

import csv
import gzip
import io
import math
import random
import zipfile
from collections import Counter

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import CHAOS
from market import csv_text, random_market, write_parquet, write_tree

from spotlib.record.selection_file import SOURCES, read_selection, selection_targets
from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.schema import ArchiveError

SHARE = 10 if CHAOS else 1
TOKENS = [
    *(b"-1", b"", b"inf", b"nan", b"1e999", b"-2", b"0", b"11", b"2.25", b"3", b"null", b"N/A"),
    *(b'"', b'"3"', b",", b"\n", b"\r", b"\r\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\t", b" "),
    *(b"SPS", b"IF", b"Ceased", b"InstanceTier", b"2024-08-02 00:00:00", b"{", b"[", b"<html>"),
    *(b"sandbox", b"spotlake", b"evil", b"=1+1", b"\x1f\x8b", b"PAR1", b"9" * 400, b"x" * 90),
]


def damaged(rng, data):
    """Change a few bytes or words somewhere, or cut or repeat a part."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(6)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.randrange(4) :]
        elif kind == 3:
            data = data[:at] + data[at : at + rng.randrange(1, 60)] + data[at:]
        elif kind == 4:
            cells = data.split(b",")
            cells[rng.randrange(len(cells))] = rng.choice(TOKENS)
            data = b",".join(cells)
        else:
            data = data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at + rng.randrange(9) :]
    return data


def require_a_sentence(error):
    text = str(error)
    assert 10 < len(text) < 1200
    assert text.isprintable()
    assert "Traceback" not in text


def counted(reading):
    """How many zones and snapshots show what; None stands for missing."""
    names = ["region", "instance_type", "availability_zone_id"]
    seen = Counter()
    for row in reading.counts.to_dict("records"):
        values = (None if math.isnan(row[name]) else row[name] for name in ("sps", "if_score"))
        seen[*(row[name] for name in names), *values] += row["snapshots"]
    return +seen


def counted_plainly(rows):
    """The same of the rows (region, type, zone, SPS, IF as text or number) of one snapshot."""
    cells = {}
    for *pool, sps, if_score in rows:
        if all(pool):
            cells.setdefault(tuple(pool), set()).add((_value(sps), _value(if_score)))
    known = {pool: held.pop() if len(held) == 1 else (None, None) for pool, held in cells.items()}
    return Counter(
        (*pool, *(None if value == -1 else value for value in values))
        for pool, values in known.items()
    )


def _value(cell):
    number = math.nan if cell in ("", None) else float(cell)
    return None if math.isnan(number) else number


def plain_csv_rows(text):
    rows = list(csv.reader(io.StringIO(text.decode("utf-8-sig", errors="replace"), newline="")))
    header = [name.lower() for name in rows[0]]
    places = [header.index(name) for name in ("region", "instancetype", "az", "sps", "if")]
    return [[row[place] for place in places] for row in rows[1:] if row]


def read_both_ways(root, cache):
    """Read strictly and leniently; return what was read, or None if nothing can be."""
    try:
        return read_counts(root, cache=cache)
    except ArchiveError as error:
        require_a_sentence(error)
    try:
        lenient = read_counts(root, cache=cache, skip_bad_files=True)
    except ArchiveError as error:
        require_a_sentence(error)
        return None
    for reason in lenient.skipped["reason"]:
        assert reason.isprintable()
    assert len(lenient.skipped)
    return lenient


@pytest.fixture(scope="module")
def snapshot():
    market = random_market(days=1, snapshots=1)
    return csv_text(market.snapshot(market.times[0])).encode()


@pytest.mark.parametrize("seed", range(30 * SHARE))
def test_a_damaged_csv_is_refused_or_read_as_it_is(seed, snapshot, tmp_path):
    text = damaged(random.Random(seed), snapshot)
    path = tmp_path / "2024-08" / "01" / "00-00-00.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(text)

    reading = read_both_ways(tmp_path, None)

    if reading is not None:
        assert counted(reading) == counted_plainly(plain_csv_rows(text)), f"seed {seed}"


@pytest.mark.parametrize("form", ["gz", "zip", "parquet", "tree"])
@pytest.mark.parametrize("seed", range(10 * SHARE))
def test_a_damaged_file_of_two_is_refused_or_replaced(form, seed, tmp_path):
    rng = random.Random(1000 + seed)
    market = random_market(days=1, snapshots=2)
    root = tmp_path / "archive"
    if form == "parquet":
        [path] = write_parquet(market, root).rglob("*.parquet")
    elif form == "zip":
        path = root / "aws-2024-08.zip"
        root.mkdir()
        kind = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        with zipfile.ZipFile(path, "w", kind) as archive:
            for at in market.times:
                text = csv_text(market.snapshot(at))
                archive.writestr(f"{at:aws-%Y-%m/%d/%H-%M-%S}.csv", text)
    else:
        path = sorted(write_tree(market, root).rglob("*.gz"))[0]
    whole = counted(read_counts(root, cache=None))
    path.write_bytes(damaged(rng, path.read_bytes()))
    if form == "tree":  # a good copy stands beside it
        path.with_suffix("").write_bytes(csv_text(market.snapshot(market.times[0])).encode())

    reading = read_both_ways(root, tmp_path / "cache")

    if form == "parquet":
        if reading is not None:
            table = pq.read_table(path, partitioning=None).to_pandas()
            by_time = table.groupby("Time")[["Region", "InstanceType", "AZ", "SPS", "IF"]]
            plainly = [counted_plainly(rows.to_numpy().tolist()) for _, rows in by_time]
            assert counted(reading) == sum(plainly, Counter()), f"seed {seed}"
    elif form == "tree" or (reading is not None and not len(reading.skipped)):
        assert counted(reading) == whole, f"seed {seed}"
    elif reading is not None:
        assert counted(reading) <= whole, f"seed {seed}"


@pytest.mark.parametrize("seed", range(15 * SHARE))
def test_a_damaged_cache_is_counted_again_and_never_read_as_another_count(seed, tmp_path):
    root = write_tree(random_market(days=1, snapshots=2), tmp_path / "archive")
    expected = read_counts(root, cache=tmp_path / "cache")
    [path] = (tmp_path / "cache").iterdir()
    before = path.read_bytes()
    path.write_bytes(damaged(random.Random(seed), before))

    again = read_counts(root, cache=tmp_path / "cache")

    pd.testing.assert_frame_equal(again.counts, expected.counts)
    pd.testing.assert_frame_equal(again.gaps, expected.gaps)
    assert path.read_bytes() == before, f"seed {seed}"


SELECTION = b"""rank,instance_type,region,score,source,created,market
1,t3.nano,us-east-1,0.5,spotlake,2026-01-01T00:00:00Z,
2,t3.micro,sa-east-1,0.4,spotlake,2026-01-01T00:00:00Z,
3,t4g.small,eu-west-1,0.3,spotlake,2026-01-01T00:00:00Z,
"""


@pytest.mark.parametrize("seed", range(20 * SHARE))
def test_a_damaged_selection_is_refused_or_its_source_is_known_in_every_row(seed, tmp_path):
    rng = random.Random(seed)
    path = tmp_path / "selection.csv"
    data = SELECTION
    if rng.random() < 0.5:  # what a person does to a table
        rows = [line.split(b",") for line in data.splitlines()]
        rows[rng.randrange(4)][rng.randrange(7)] = rng.choice(TOKENS)
        if rng.random() < 0.3:
            place = rng.randrange(7)
            rows = [row[:place] + row[place + 1 :] for row in rows]
        data = b"\n".join(b",".join(row) for row in rows) + b"\n"
    else:
        data = damaged(rng, data)
    path.write_bytes(data)

    try:
        table = read_selection(path)
        targets = selection_targets(table, top=10)
    except ValueError as error:
        require_a_sentence(error)
        return
    assert len(targets) == len(table) > 0
    [source] = set(table["source"])
    assert source in SOURCES
    for target in targets:
        assert target.instance_type.encode() in data
        assert target.region.encode() in data


def test_a_column_of_a_selection_with_control_characters_is_shown_escaped(tmp_path):
    path = tmp_path / "selection.csv"
    path.write_bytes(SELECTION.replace(b"instance_type", b"instance\x1b[2J\0type"))
    with pytest.raises(ValueError, match=r"lacks the columns instance_type") as error:
        read_selection(path)
    require_a_sentence(error.value)
    assert r"instance\x1b[2J\x00type" in str(error.value)


def test_a_gzipped_csv_is_known_by_its_content(snapshot, tmp_path):
    path = tmp_path / "2024-08" / "01" / "00-00-00.csv"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(snapshot[:400]) + gzip.compress(snapshot[400:]))

    assert counted(read_counts(tmp_path, cache=None)) == counted_plainly(plain_csv_rows(snapshot))

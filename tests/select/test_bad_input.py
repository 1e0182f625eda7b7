"""Bad input is named in one sentence, can be left out by choice, and is never modified."""

import gzip
import os
import zipfile

import pandas as pd
import pytest
from market import random_market, write_parquet, write_tree, write_zip

from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.schema import ArchiveError

HEADER = "Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings\n"
ROW = "2024-08-01 00:20:00,t3.nano,us-east-1,use1-az4,{sps},{if_score},1,1,1\n"


def _row(sps="3", if_score="2.5"):
    return gzip.compress((HEADER + ROW.format(sps=sps, if_score=if_score)).encode())


def _flipped(data, position):
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def _cut_line(data):
    return gzip.decompress(data)[
        :-30
    ]  # plain csv under a .gz name is read, but not one that was cut off


BAD = {
    "truncated gzip": (lambda data: data[:-20], "is not a whole gzip file (it ends too early)"),
    "damaged gzip": (lambda data: _flipped(data, len(data) - 6), "is not a whole gzip file"),
    "no gzip at all": (lambda _: b"\x1f\x8b" + b"\0" * 40, "is not a whole gzip file"),
    "empty file": (lambda _: b"", "is empty"),
    "header only": (lambda _: gzip.compress(HEADER.encode()), "has a header but no rows"),
    "missing column": (
        lambda data: gzip.compress(gzip.decompress(data).replace(b"IF", b"XX")),
        "has no column IF, only Time, InstanceType, Region, AZ, SPS, XX, OndemandPrice",
    ),
    "renamed columns": (
        lambda data: gzip.compress(gzip.decompress(data).replace(b"SPS,IF", b"Availability,Rate")),
        "has no column SPS and IF, only",
    ),
    "text in SPS": (lambda _: _row(sps="high"), "holds the text 'high' in column SPS"),
    "text in IF": (lambda _: _row(if_score="<5%"), "holds the text '<5%' in column IF"),
    "IF that is not a half": (lambda _: _row(if_score="2.3"), "IF is 2.3, not 1.0, 1.5, 2.0, 2.5"),
    "IF beyond the scale": (lambda _: _row(if_score="3.5"), "IF is 3.5, not 1.0, 1.5, 2.0, 2.5"),
    "SPS beyond the scale": (lambda _: _row(sps="11"), "SPS is 11, not a whole number from 1"),
    "SPS zero": (lambda _: _row(sps="0"), "SPS is 0, not a whole number from 1 to 10"),
    "SPS in fractions": (lambda _: _row(sps="2.5"), "SPS is 2.5, not a whole number from 1 to 10"),
    "a row with too many cells": (
        lambda data: gzip.decompress(data) + b"1,2,3,4,5,6,7,8,9,10\n",
        "has 10 cells, not 9, in line 1,2,3,4,5,6,7,8,9,10",
    ),
    "a row with too few cells": (
        lambda data: gzip.decompress(data) + b"1,2,3,4,5,6,7,8\n" + ROW.encode(),
        "has 8 cells, not 9, in line 1,2,3,4,5,6,7,8",
    ),
    "a name of a sentence": (
        lambda data: gzip.compress(gzip.decompress(data).replace(b"t3.nano", b"t3." + b"x" * 80)),
        "holds the text",
    ),
    "a quote that never ends": (
        lambda data: gzip.decompress(data) + b'"1,2,3,4,5,6,7,8,9\n',
        "holds lines that are not csv",
    ),
    "a quote that never ends in the last cell": (
        lambda data: gzip.decompress(data) + b'1,2,3,4,5,6,7,8,"9\n' + ROW.encode(),
        "holds lines that are not csv",
    ),
    "header without a line end": (lambda _: HEADER.strip().encode(), "has a header but no rows"),
    "bytes that are not text": (
        lambda data: gzip.decompress(data).replace(b"t3.nano", b"\xff\xfe"),
        "holds a name that is not text",
    ),
    "csv cut off": (_cut_line, "ends in the middle of a line"),
}


@pytest.fixture
def market():
    return random_market(days=2, snapshots=4)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_with_what_is_wrong_and_can_be_left_out(kind, market, tmp_path):
    spoil, reason = BAD[kind]
    root = write_tree(market, tmp_path / "archive")
    path = root / "aws-2024-08" / "01" / "00-20-00.csv.gz"
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()

    with pytest.raises(ArchiveError) as error:
        read_counts(root, cache=tmp_path / "cache")
    message = str(error.value)
    assert str(path) in message
    assert reason in message
    assert "skip_bad_files=True" in message
    assert "\n" not in message

    for _ in range(2):  # also when the other day comes from the cache
        reading = read_counts(root, cache=tmp_path / "cache", skip_bad_files=True)
        [skipped] = reading.skipped.to_dict("records")
        assert skipped["name"] == str(path)
        assert reason in skipped["reason"]
        assert reading.days["snapshots"].tolist() == [3, 4]

    path.unlink()
    without = read_counts(root, cache=None)
    pd.testing.assert_frame_equal(without.counts, reading.counts)
    path.write_bytes(before)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: data[:-20], "cannot be read as Parquet"),
        (lambda data: data[:500], "cannot be read as Parquet"),
        (lambda _: b"", "cannot be read as Parquet"),
        (lambda _: b"a,b\n1,2\n" * 10, "cannot be read as Parquet"),
    ],
)
def test_a_bad_parquet_day_is_named_and_can_be_left_out(spoil, reason, market, tmp_path):
    root = write_parquet(market, tmp_path)
    path = root / "aws-2024-08" / "aws-2024-08-01.parquet"
    path.write_bytes(spoil(path.read_bytes()))

    with pytest.raises(ArchiveError, match=f"aws-2024-08-01.parquet: .*{reason}"):
        read_counts(root, cache=None)
    reading = read_counts(root, cache=None, skip_bad_files=True)

    assert reading.skipped["name"].tolist() == [str(path)]
    assert reading.days["snapshots"].tolist() == [0, 4]


def test_a_parquet_file_with_another_days_rows_is_refused(market, tmp_path):
    root = write_parquet(market, tmp_path)
    folder = root / "aws-2024-08"
    os.rename(folder / "aws-2024-08-02.parquet", folder / "aws-2024-08-03.parquet")

    with pytest.raises(ArchiveError, match=r"08-03.parquet: holds rows of another day"):
        read_counts(root, cache=None)


def test_a_zip_that_was_not_downloaded_whole_is_named_and_can_be_left_out(market, tmp_path):
    path = write_zip(market, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    write_tree(random_market(days=1), tmp_path / "other")

    with pytest.raises(ArchiveError, match=r"aws-2024-08.zip: not a whole zip file"):
        read_counts(tmp_path, cache=None)
    reading = read_counts(tmp_path, cache=None, skip_bad_files=True)

    assert reading.skipped["name"].tolist() == [str(path)]


def test_a_damaged_member_of_a_zip_is_named(market, tmp_path):
    path = write_zip(market, tmp_path)
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[2]
    data = path.read_bytes()
    path.write_bytes(_flipped(data, info.header_offset + 200))

    with pytest.raises(ArchiveError, match=r"aws-2024-08.zip/aws-2024-08/01/00-20-00.csv.gz: "):
        read_counts(path, cache=None)


def test_a_damaged_member_of_a_zip_that_was_packed_again_is_named(market, tmp_path):
    tree = write_tree(market, tmp_path / "tree", suffix=".csv")
    path = tmp_path / "aws-2024-08.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in sorted(tree.rglob("*.csv")):
            archive.write(member, member.relative_to(tree))
    assert read_counts(path, cache=None).days["snapshots"].sum() == 8
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[1]
    data = path.read_bytes()
    for position in (120, 150, 200):
        data = _flipped(data, info.header_offset + position)
    path.write_bytes(data)

    with pytest.raises(ArchiveError, match=r"aws-2024-08.zip/aws-2024-08/01/00-10-00.csv: cannot"):
        read_counts(path, cache=None)
    assert len(read_counts(path, cache=None, skip_bad_files=True).skipped) == 1


def test_an_archive_of_only_bad_files_or_nameless_rows_is_refused(tmp_path):
    root = tmp_path / "aws-2024-08" / "01"
    root.mkdir(parents=True)
    (root / "00-00-00.csv").write_text(HEADER + "2024-08-01 00:00:00,t3.nano,,,-1,2.5,1,1,1\n")

    with pytest.raises(ArchiveError, match=r"holds no pool that could be read$"):
        read_counts(root, cache=None)
    (root / "00-00-00.csv").write_text(HEADER)
    with pytest.raises(ArchiveError, match=r"holds no pool that could be read; .* no rows"):
        read_counts(root, cache=None, skip_bad_files=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "holds no SpotLake snapshots .*spot_dataset/README.md"),
        (lambda _: None, "does not exist; give a folder, a SpotLake zip or s3://"),
        (lambda path: path.write_text("x"), "is neither a folder nor a zip"),
    ],
)
def test_a_path_without_an_archive_is_refused(make, message, tmp_path):
    make(tmp_path / "aws")

    with pytest.raises(ArchiveError, match=f"aws: {message}"):
        read_counts(tmp_path / "aws", cache=None)


def test_a_month_without_files_says_which_days_there_are(market, tmp_path):
    root = write_tree(market, tmp_path)

    with pytest.raises(ArchiveError, match="no snapshots of 2024-09, only of 2024-08-01 to 2024"):
        read_counts(root, days="2024-09", cache=None)


@pytest.mark.parametrize("days", ["august", "2024-8", ["2024-08-32"], "2024-13"])
def test_days_that_do_not_exist_are_refused(days, market, tmp_path):
    with pytest.raises(ValueError, match="days are written 2024-08 or 2024-08-01, got"):
        read_counts(write_tree(market, tmp_path), days=days, cache=None)


def test_files_that_are_not_snapshots_or_repeat_one_are_listed(market, tmp_path):
    root = write_tree(market, tmp_path)
    (root / "notes.csv").write_text("a,b\n")
    (root / ".hidden.csv").write_text("a,b\n")
    again = root / "aws-2024-08" / "01" / "00-00-00.csv"
    again.write_bytes(gzip.decompress(again.with_suffix(".csv.gz").read_bytes()))
    (root / "notes.txt").write_text("a")
    (root / "README.md").write_text("a")

    reading = read_counts(root, cache=None)

    reasons = dict(zip(reading.skipped["name"], reading.skipped["reason"], strict=True))
    assert "no snapshot time in its path" in reasons.pop(str(root / "notes.csv"))
    assert "neither .csv, .csv.gz, .parquet nor .zip" in reasons.pop(str(root / "notes.txt"))
    assert reasons == {f"{again}.gz": f"not read: of the same ten minutes as {again}"}
    expected = read_counts(write_tree(market, tmp_path / "alone"), cache=None)
    pd.testing.assert_frame_equal(reading.counts, expected.counts)


def test_the_archive_is_never_written_to(market, tmp_path):
    root = write_tree(market, tmp_path / "archive")
    before = {path: (path.stat().st_mtime_ns, path.is_file()) for path in root.rglob("*")}
    for path in before:
        path.chmod(0o555 if path.is_dir() else 0o444)

    read_counts(root, cache=tmp_path / "cache")

    assert {path: (path.stat().st_mtime_ns, path.is_file()) for path in root.rglob("*")} == before

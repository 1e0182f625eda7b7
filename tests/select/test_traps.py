"""Traps of real archives: other forms, other names, copies, links, pipes, bombs, odd times."""

import gzip
import json
import os
import tracemalloc
import warnings
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from isal import igzip
from market import csv_text, market, random_market, write_open_data, write_parquet, write_tree
from test_notebook import parameters

from spotlib.select.archive import day
from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.schema import ArchiveError
from spotlib.select.cov import score_targets, variation
from spotlib.select.report import reading_summary
from spotlib.select.source import find_archive

NAN = float("nan")
SECOND = "aws-2024-08/01/00-10-00.csv"
MORNING = datetime(2024, 8, 1, tzinfo=UTC)


def history(*pairs, start=MORNING, minutes=10):
    """One pool that shows these pairs of SPS and IF, one after another."""
    pool = ("t3.nano", "sa-east-1", "sae1-az1")
    return market(
        [(start + timedelta(minutes=minutes * n), *pool, *pair) for n, pair in enumerate(pairs)]
    )


def put(root, data, name="aws-2024-08/01/00-00-00.csv"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def refusal(root):
    """The one sentence with which an archive is refused, strictly and leniently."""
    with pytest.raises(ArchiveError) as strict:
        read_counts(root, cache=None)
    with pytest.raises(ArchiveError) as lenient:
        read_counts(root, cache=None, skip_bad_files=True)
    for error in (strict, lenient):
        assert str(error.value).isprintable()
    return str(strict.value)


@pytest.fixture
def text():
    one = random_market(days=1, snapshots=1)
    return csv_text(one.snapshot(one.times[0]))


# -1 is a value there, an empty cell is none, and each repeated row counts.

PAIRS = ((3, 3.0), (2, 3.0), (3, 3.0), (3, 3.0), (3, 3.0), (3, 3.0), (NAN, NAN))


def test_empty_cells_are_skipped_so_nothing_is_ranked(tmp_path):
    counts = read_counts(write_open_data(history(*PAIRS), tmp_path), cache=None).counts

    table = variation(counts, missing="as_value")

    assert table["if_cov"].tolist() == [0.0]
    assert score_targets(table).empty


def test_minus_one_is_counted_also_beside_empty_cells_and_from_the_cache(tmp_path):
    root = write_tree(history(*PAIRS), tmp_path / "archive")
    put(root, csv_text(history(PAIRS[-1]).rows, missing=""), "aws-2024-08/01/01-10-00.csv")
    path = root / "aws-2024-08" / "01" / "01-10-00.csv"
    path.write_text(path.read_text().replace("00:00:00", "01:10:00"))

    for _ in range(2):
        reading = read_counts(root, cache=tmp_path / "cache")
        counts = reading.counts
        [row] = variation(counts, missing="as_value").to_dict("records")
        assert row["if_snapshots"] == 7
        values = np.array([3.0] * 6 + [-1.0])
        assert row["if_cov"] == pytest.approx(values.std(ddof=1) / values.mean(), rel=1e-12)
    assert reading.days["from_cache"].all()
    assert counts.loc[counts["if_score"].isna(), "if_coded"].tolist() == [False, True]
    assert variation(counts)["if_cov"].tolist() == [0.0]


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_repeated_rows_count_each_time_there_and_once_otherwise(write, tmp_path):
    archive = history((3, 3.0), (1, 2.0), (3, 3.0))
    archive.rows = pd.concat([archive.rows, archive.rows.iloc[[1, 1]]])
    reading = read_counts(write(archive, tmp_path), cache=None)

    for missing, values in (("as_value", [3, 3, 1, 1, 1]), ("drop", [3, 1, 3])):
        expected = np.std(values, ddof=1) / np.mean(values)
        cov = variation(reading.counts, missing=missing)["sps_cov"]
        assert cov.tolist() == [pytest.approx(expected, rel=1e-12)]
    assert "repeated rows, counted once (by the study, each): 2" in reading_summary(reading)


OTHER_FORMS = {
    "Azure": (
        "InstanceTier,InstanceType,Region,OndemandPrice,SpotPrice,Savings,IF\n",
        "is Azure's form, not AWS's",
    ),
    "Azure with SPS": (
        "InstanceTier,InstanceType,Region,AvailabilityZone,SPS,IF,OndemandPrice,SpotPrice,Time\n",
        "is Azure's form, not AWS's",
    ),
    "old GCP": ("InstanceType,Region,Calculator OnDemand Price\n", "is GCP's form, not AWS's"),
    "GCP": ("InstanceType,Region,OnDemand Price,Spot Price,Savings\n", "looks like GCP's form"),
    "the web page's export": (
        '"Type","Region","AZ","Availability","T2","T3","Interruption Ratio","SpotPrice ($)"\n',
        "is an export of SpotLake's web page",
    ),
    "a list of changes": (
        "InstanceType,Region,AZ,Time,SPS,T3,T2,IF,SpotPrice,Ceased\n",
        "is a list of changes, not a full snapshot",
    ),
    "several nodes": (
        "InstanceType,Region,AZ,SPS,TargetCapacity,Time\n",
        "is SpotLake's form for several nodes",
    ),
    "JSON": ('[{"InstanceType":"t3.nano","SPS":3}]', "is JSON"),
    "a reply of the API": ('{"Status":200,"Data":[]}', "is JSON"),
    "JSON after a byte-order mark": ('\ufeff [{"InstanceType":"t3.nano","SPS":3}]', "is JSON"),
    "a web page": ("<!DOCTYPE html>\n<html></html>", "is a web page"),
    "a column twice": ("InstanceType,Region,AZ,SPS,IF,SPS\n", "has more than one column SPS"),
    "a time twice": ("Time,InstanceType,Region,AZ,SPS,IF,time\n", "has more than one column Time"),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_another_form_is_named_and_not_fetched_again(form, tmp_path):
    header, reason = OTHER_FORMS[form]
    put(tmp_path, header + "1,2,3,4,5,6,7\n")

    message = refusal(tmp_path)

    assert reason in message
    assert ("fetch it again" in message) == form.endswith("twice")


@pytest.mark.parametrize("name", ["00:00:00.csv", "00_00_00.CSV", "00.00.00.csv", "00-00-00.Csv"])
@pytest.mark.parametrize("packed", [False, True])
def test_names_as_other_systems_change_them_are_read(name, packed, text, tmp_path):
    name, data = (f"{name}.GZ", gzip.compress(text.encode())) if packed else (name, text)
    put(tmp_path / "folder", data, f"2024-08/01/{name}")
    with zipfile.ZipFile(tmp_path / "aws-2024-08.ZIP", "w") as archive:
        archive.writestr(f"01\\{name}", data)

    for dataset in (tmp_path / "folder", tmp_path / "aws-2024-08.ZIP"):
        [first] = read_counts(dataset, cache=None).counts["first_at"].unique()
        assert first == pd.Timestamp(MORNING)


# Files that cannot be read are named; only where there is none does the sandbox stand in.


def refused(spot_dataset):
    with pytest.raises(ArchiveError) as error:
        find_archive(parameters(), spot_dataset=spot_dataset)
    assert not (spot_dataset / "sandbox").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("aws-2024-08.zip", b"PK\3\4 cut off", "not a whole zip file"),
        ("august.csv", b"a,b\n1,2\n", "august.csv: no snapshot time in its path"),
        ("aws-2024-08.tar.gz", b"x", "neither .csv, .csv.gz, .parquet nor .zip"),
        ("latest_aws.json", b"[]", "neither .csv, .csv.gz, .parquet nor .zip"),
    ],
)
def test_a_file_that_is_no_archive_is_named_and_not_replaced_by_the_sandbox(
    name, data, reason, tmp_path
):
    put(tmp_path / "aws", data, name)

    assert reason in refused(tmp_path)


def test_a_zip_of_zips_is_named_and_not_replaced_by_the_sandbox(text, tmp_path):
    (tmp_path / "aws").mkdir()
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as inner:
        inner.writestr("aws-2024-08/01/00-00-00.csv", text)
    with zipfile.ZipFile(tmp_path / "aws" / "drive.zip", "w") as outer:
        outer.write(tmp_path / "inner.zip", "SpotLake/aws-2024-08.zip")

    assert "is a zip inside a zip" in refused(tmp_path)


@pytest.mark.parametrize(
    ("container", "member"),
    [
        ("README-aws-2024-08.zip", "aws-2024-08/01/00-00-00.csv"),
        ("aws-2024-08.zip", "./aws-2024-08/01/00-00-00.csv"),
        ("aws-2024-08.zip", "../aws-2024-08/01/00-00-00.csv"),
    ],
)
def test_a_zip_is_read_however_its_members_begin(text, tmp_path, container, member):
    (tmp_path / "aws").mkdir()
    with zipfile.ZipFile(tmp_path / "aws" / container, "w") as archive:
        archive.writestr(member, text)

    assert find_archive(parameters(), spot_dataset=tmp_path).source == "spotlake"


@pytest.mark.parametrize("members", [[], ["__MACOSX/._x.csv"], ["README.md"], ["empty/"]])
def test_a_zip_without_a_snapshot_is_not_replaced_by_the_sandbox(tmp_path, members):
    (tmp_path / "aws").mkdir()
    with zipfile.ZipFile(tmp_path / "aws" / "aws-2024-08.zip", "w") as archive:
        for name in members:
            archive.writestr(name, "")

    assert "aws-2024-08.zip" in refused(tmp_path)


def test_a_file_that_was_replaced_in_the_same_moment_is_counted_again(text, tmp_path):
    """As ``unzip``, ``cp -p`` and ``rsync -t`` do, which keep the time of modification."""
    path = tmp_path / "aws" / "aws-2024-08" / "01" / "00-00-00.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    os.utime(path, (1e9, 1e9))
    read_counts(path.parents[2], cache=tmp_path / "cache")
    changed = tmp_path / "new.csv"
    changed.write_text(text)
    os.utime(changed, (1e9, 1e9))
    changed.replace(path)

    again = read_counts(path.parents[2], cache=tmp_path / "cache")

    assert again.days["from_cache"].sum() == 0


def test_a_link_to_a_drive_that_is_not_there_is_not_replaced_by_the_sandbox(tmp_path):
    (tmp_path / "aws").symlink_to(tmp_path / "unmounted")

    assert "is neither a folder nor a zip" in refused(tmp_path)


def test_a_mark_that_cannot_be_read_is_refused_in_a_sentence(text, tmp_path):
    put(tmp_path / "aws", text, "aws-2024-08/01/00-00-00.csv")
    for mark in ("{", "[]", json.dumps({"simulated": True})):
        put(tmp_path / "aws", mark, "SIMULATED.json")
        assert "SIMULATED.json beside the snapshots cannot be read" in refused(tmp_path)


# Of several files of the same ten minutes the first good one counts.


def test_a_bad_copy_does_not_displace_a_good_one(text, tmp_path):
    bad = put(tmp_path, b"\x1f\x8b" + b"0" * 40, "a/2024-08/01/00-00-00.csv.gz")
    good = put(tmp_path, text, "b/2024-08/01/00-00-00.csv")
    more = put(tmp_path, text, "c/2024-08/01/00-00-00.csv")

    for cached in (False, True):
        reading = read_counts(tmp_path, cache=tmp_path / "cache")
        listed = dict(zip(reading.skipped["name"], reading.skipped["reason"], strict=True))
        assert "is not a whole gzip file" in listed[str(bad)]
        assert listed[str(bad)].endswith(f"read instead: {good}")
        assert listed[str(more)] == f"not read: of the same ten minutes as {good}"
        assert reading.days["from_cache"].tolist() == [cached]
        assert reading.days["snapshots"].tolist() == [1]


def test_a_stray_csv_does_not_displace_a_day_of_parquet_but_adds_to_it(text, tmp_path):
    write_parquet(random_market(days=1, snapshots=3), tmp_path / "aws")
    known = put(tmp_path / "aws", text, "aws-2024-08/01/00-00-00.csv")
    put(tmp_path / "aws", text.replace(" 00:00:00", " 23:50:00"), "aws-2024-08/01/23-50-00.csv")

    reading = read_counts(tmp_path / "aws", cache=None)

    assert reading.days["snapshots"].tolist() == [4]
    assert reading.skipped["name"].tolist() == [str(known)]
    [reason] = reading.skipped["reason"]
    assert reason.startswith("the same snapshot is in ")
    assert reason.endswith("aws-2024-08-01.parquet")


def test_a_bad_day_of_parquet_is_refused_and_its_csv_read_only_when_asked(text, tmp_path):
    put(tmp_path, b"PAR1", "aws-2024-08/aws-2024-08-01.parquet")
    put(tmp_path, text)

    with pytest.raises(ArchiveError, match="cannot be read as Parquet"):
        read_counts(tmp_path, cache=None)
    assert read_counts(tmp_path, cache=None, skip_bad_files=True).days["snapshots"].item() == 1


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_two_snapshots_of_the_same_ten_minutes_count_as_one(write, tmp_path):
    rows = history((3, 3.0), (1, 1.0), (2, 2.0), minutes=5)
    write(rows, tmp_path)

    reading = read_counts(tmp_path, cache=None)

    assert reading.counts["sps"].tolist() == [2, 3]
    assert reading.days["snapshots"].tolist() == [2]
    assert reading.counts["day_snapshots"].unique().tolist() == [2]
    assert len(reading.skipped) == 1


def test_the_earliest_of_ten_minutes_counts_in_any_order_of_rows(tmp_path):
    rows = history((3, 3.0), (1, 1.0), minutes=5).rows
    path = write_parquet(market(rows.to_numpy().tolist()), tmp_path)
    [path] = tmp_path.rglob("*.parquet")
    other = pl.read_parquet(path).with_columns(InstanceType=pl.lit("t2.nano")).slice(1, 1)
    pl.concat([other, pl.read_parquet(path)]).write_parquet(path, row_group_size=1)

    reading = read_counts(tmp_path, cache=None)

    assert reading.counts[["instance_type", "sps"]].to_numpy().tolist() == [["t3.nano", 3]]
    assert "2 rows are left out" in reading.skipped["reason"].item()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3000000\n"


@pytest.mark.parametrize(
    "name", ["01/00-00-00.csv", "01/00-00-00.csv.gz", "aws-2024-08-01.parquet", "aws-2024-08.zip"]
)
def test_a_git_lfs_pointer_is_named_in_place_of_any_file(name, tmp_path):
    put(tmp_path, LFS, f"aws-2024-08/{name}")

    words = "is a Git LFS pointer, not the file itself, which `git lfs pull` gets"
    assert words in refusal(tmp_path)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-be"])
def test_text_in_utf_16_is_named(text, coding, tmp_path):
    put(tmp_path, ("\ufeff" * (coding == "utf-16-be") + text).encode(coding))

    assert "is text in UTF-16" in refusal(tmp_path)


def test_a_csv_after_a_byte_order_mark_is_read(text, tmp_path):
    wanted_first = "\n".join(line.partition(",")[2] for line in text.splitlines())  # not the time
    put(tmp_path, wanted_first, "a/aws-2024-08/01/00-00-00.csv")
    put(tmp_path, "\ufeff" + wanted_first, "b/aws-2024-08/01/00-00-00.csv")

    plain, marked = (read_counts(tmp_path / each, cache=None).counts for each in "ab")
    pd.testing.assert_frame_equal(plain, marked)


def zip_with_a_member_twice(root, *contents):
    with zipfile.ZipFile(root / "aws-2024-08.zip", "w") as archive:
        for each in contents:
            with warnings.catch_warnings(action="ignore"):
                archive.writestr("aws-2024-08/01/00-00-00.csv", each)


def test_a_member_that_is_twice_in_a_zip_is_named(text, tmp_path):
    """Zip programs read the last one, so the first would silently count for nothing."""
    zip_with_a_member_twice(tmp_path, text, text)
    same = read_counts(tmp_path, cache=None)
    zip_with_a_member_twice(tmp_path, text, text.replace("0.0021", "0.0022"))

    assert "is in the zip several times, with different contents" in refusal(tmp_path)
    assert same.skipped["reason"].tolist() == ["is in the zip several times, the same: read once"]
    assert same.days["snapshots"].item() == 1


# A file is of one moment, the one of its path.


def test_rows_of_another_time_are_refused_by_name(text, tmp_path):
    put(tmp_path, text, "aws-2024-08/02/00-00-00.csv")

    reason = "holds rows of 2024-08-01 00:00:00, but its path says 2024-08-02 00:00:00"
    assert reason in refusal(tmp_path)


def test_several_times_in_one_file_are_refused(text, tmp_path):
    rows = text.split("\n", 1)[1].replace(" 00:00:00", " 00:10:00")
    put(tmp_path, text + rows)

    assert "holds rows of 2024-08-01 00:10:00, but its path" in refusal(tmp_path)


def test_several_ten_minutes_near_the_time_of_the_path_are_refused(text, tmp_path):
    rows = text.split("\n", 1)[1].replace(" 00:00:00", " 00:09:59")
    put(tmp_path, (text + rows).replace("2024-08-01 00:0", "2024-08-01 00:1"), SECOND)
    assert read_counts(tmp_path, cache=None).days["snapshots"].item() == 1

    put(tmp_path, (text.replace(" 00:00:00", " 00:10:00") + rows), SECOND)
    assert "holds rows of several ten minutes, but a file is of one moment" in refusal(tmp_path)


def test_a_text_for_a_time_is_refused(text, tmp_path):
    put(tmp_path, text.replace("2024-08-01 00:00:00", "yesterday"))

    assert "holds the text 'yesterday' in column Time" in refusal(tmp_path)


def test_a_time_a_little_after_that_of_the_path_is_the_same_moment(text, tmp_path):
    put(tmp_path, text.replace("2024-08-01 00:00:00", "2024-08-01 02:04:02+02:00"))

    assert read_counts(tmp_path, cache=None).days["snapshots"].item() == 1


@pytest.mark.parametrize(
    ("start", "words"),
    [("2025-02-12", "every 110 minutes since"), ("2025-09-24", "this is another scale")],
)
def test_days_on_both_sides_of_a_break_say_so(start, words, tmp_path):
    start = datetime.fromisoformat(start).replace(tzinfo=UTC)
    write_tree(history((3, 3.0), (3, 3.0), start=start, minutes=24 * 60), tmp_path)

    assert words in reading_summary(read_counts(tmp_path, cache=None))
    one = reading_summary(read_counts(tmp_path, days=f"{start:%Y-%m-%d}", cache=None))
    assert words not in one
    assert one.splitlines()[-1].startswith("NOTE: this is one day. It cannot tell whether")


def test_the_day_of_a_break_alone_says_so(tmp_path):
    start = datetime(2025, 2, 13, tzinfo=UTC)
    write_tree(history((3, 3.0), start=start), tmp_path)

    assert "every 110 minutes since" in reading_summary(read_counts(tmp_path, cache=None))


# One sentence each, bounded in time and memory.


def test_links_in_a_circle_are_entered_once(text, tmp_path):
    put(tmp_path, text)
    (tmp_path / "aws-2024-08" / "01" / "back").symlink_to(tmp_path)
    (tmp_path / "a link").symlink_to(tmp_path / "aws-2024-08")
    (tmp_path / "self").symlink_to(tmp_path / "self")

    with pytest.raises(ArchiveError, match="self: is a link to nothing"):
        read_counts(tmp_path, cache=None)
    reading = read_counts(tmp_path, cache=None, skip_bad_files=True)
    assert reading.skipped["name"].tolist() == [str(tmp_path / "self")]
    with pytest.raises(ArchiveError, match="self"):
        read_counts(tmp_path / "self", cache=None)


def test_a_pipe_is_not_waited_for(text, tmp_path):
    put(tmp_path, text)
    os.mkfifo(tmp_path / "aws-2024-08" / "01" / "00-10-00.csv.gz")

    with pytest.raises(ArchiveError, match=r"00-10-00.csv.gz: is no file but .* pipe; "):
        read_counts(tmp_path, cache=None)
    assert len(read_counts(tmp_path, cache=None, skip_bad_files=True).skipped) == 1


@pytest.mark.parametrize("members", [1, 3])
def test_a_bomb_is_refused_within_the_memory_of_a_few_snapshots(members, tmp_path):
    bomb = igzip.compress(b"\0" * (128 << 20))
    put(tmp_path, (bomb[:-4] + b"\1\0\0\0") * members, "aws-2024-08/01/00-00-00.csv.gz")

    tracemalloc.start()
    message = refusal(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "unpacks to more than 64 MB" in message
    assert peak < 200 << 20


def test_files_and_members_beyond_any_snapshot_are_refused_unread(tmp_path):
    path = put(tmp_path, "")
    os.truncate(path, 1 << 30)
    with zipfile.ZipFile(tmp_path / "aws-2024-08.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("02/00-00-00.csv", b"\0" * (65 << 20))

    assert "has 1,024 MB, more than the 64 MB" in refusal(path)
    assert "has 65 MB, more than the 64 MB" in refusal(tmp_path / "aws-2024-08.zip")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("SPS", pa.array([[3]]), "in column SPS, not numbers"),
        ("IF", pa.array([{"a": 1}]), "in column IF, not numbers"),
        ("SPS", pa.array(["3"]), "has string in column SPS, not numbers"),
        ("SPS", pa.array([True]), "has bool in column SPS, not numbers"),
        ("AZ", pa.array([7]), "has int64 in column AZ, not text"),
        ("Region", pa.array([b"x"]), "has binary in column Region, not text"),
        ("Time", pa.array(["2024-08-01"]), "has string in column Time, not times"),
        ("SpotPrice", pa.array([float("inf")]), "SpotPrice is infinite"),
    ],
)
def test_parquet_of_nested_or_odd_types_is_refused_in_a_sentence(column, values, words, tmp_path):
    [path] = write_parquet(history((3, 3.0)), tmp_path).rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, values), path)

    assert words in refusal(tmp_path)


def test_an_infinite_price_of_an_earlier_snapshot_of_parquet_is_refused(tmp_path):
    [path] = write_parquet(history((3, 3.0), (3, 3.0)), tmp_path).rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    place = table.schema.get_field_index("SpotPrice")
    first = np.argsort(table["Time"].to_numpy())[0]
    prices = np.where(np.arange(2) == first, np.inf, 0.002)
    pq.write_table(table.set_column(place, "SpotPrice", pa.array(prices)), path)

    assert "SpotPrice is infinite" in refusal(tmp_path)


@pytest.mark.parametrize("bound", ["_POOLS", "_LARGEST_BYTES"])
def test_parquet_that_unpacks_to_far_too_much_is_refused_unread(bound, tmp_path, monkeypatch):
    monkeypatch.setattr(day, bound, 1)
    [path] = write_parquet(history((3, 3.0)), tmp_path).rglob("*.parquet")
    table = pq.ParquetFile(path).read()
    pq.write_table(pa.concat_tables([table] * 200), path)

    assert "is too large for a day of snapshots (200 rows, 0 MB unpacked" in refusal(tmp_path)


def test_an_infinite_price_is_refused(text, tmp_path):
    put(tmp_path, text.replace("0.0021", "1e999"))

    with pytest.raises(ArchiveError, match="its prices and T3 are not used: SpotPrice is infinite"):
        read_counts(tmp_path, cache=None)
    lenient = read_counts(tmp_path, cache=None, skip_bad_files=True)
    assert lenient.counts["price_usd_per_hour"].isna().all()
    assert len(lenient.skipped) == 1


def test_names_that_no_terminal_shows_are_listed_readably(text, tmp_path):
    put(tmp_path, text)
    (tmp_path / "a\nb\udcff.csv").write_text("")

    assert read_counts(tmp_path, cache=None).skipped["name"].item().isprintable()

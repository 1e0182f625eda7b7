"""Every form of the same market has the same counts and the same ranking."""

import gzip
from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pytest
from loopback_s3 import s3_server, upload, upload_one
from market import (
    csv_text,
    naive_counts,
    random_market,
    write_open_data,
    write_parquet,
    write_tree,
    write_zip,
)
from market import market as history

from spotlib.select.archive import csv_rows, day
from spotlib.select.archive.counts import OPEN_DATA_NOTICE, read_counts
from spotlib.select.archive.schema import ArchiveError
from spotlib.select.cov import score_targets, variation

FORMS = {
    "zip as downloaded": write_zip,
    "tree of csv.gz": write_tree,
    "tree of csv": lambda market, root: write_tree(market, root, suffix=".csv"),
    "daily Parquet": write_parquet,
    "zip of Parquet": lambda market, root: write_parquet(market, root, zipped=True),
    "open data": write_open_data,
    "a folder that holds the zip": lambda market, root: write_zip(market, root).parent,
    "era a": lambda market, root: write_tree(market, root, era="a"),
    "era b1": lambda market, root: write_tree(market, root, era="b1"),
    "era b2": lambda market, root: write_tree(market, root, era="b2"),
    "era d": lambda market, root: write_tree(market, root, era="d"),
    "SPS written 3.0": lambda market, root: write_tree(market, root, sps_suffix=".0"),
    "Windows line ends": lambda market, root: _with_crlf(write_tree(market, root, suffix=".csv")),
    "quoted cells": lambda market, root: _rewritten(root, market, b"us-east-1", b'"us-east-1"'),
    "blank lines": lambda market, root: _rewritten(root, market, b"\n", b"\n\n"),
    "no line end at the end": lambda market, root: _without_last_newline(root, market),
    "long decimals": lambda market, root: _rewritten(root, market, b",3,", b",3.0000000000,"),
    "missing as empty": lambda market, root: write_tree(market, root, missing=""),
}


def _with_crlf(root):
    for path in root.rglob("*.csv"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    return root


def _rewritten(root, market, old, new):
    for path in write_tree(market, root, suffix=".csv").rglob("*.csv"):
        path.write_bytes(path.read_bytes().replace(old, new))
    return root


def _without_last_newline(root, market):
    for path in write_tree(market, root, suffix=".csv").rglob("*.csv"):
        path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    return root


def assert_same_counts(reading, expected, *, but=("sps_coded", "if_coded", "t3")):
    """Equal counts, but for whether a missing value was written as -1 or as an empty cell.

    And but for T3, which only some forms have.
    """
    ours, theirs = (each.counts.drop(columns=list(but)) for each in (reading, expected))
    pd.testing.assert_frame_equal(ours, theirs)


def ranking(reading):
    return score_targets(variation(reading.counts), sizes=None).to_csv(index=False)


@pytest.fixture(scope="module")
def market():
    return random_market()


@pytest.fixture(scope="module")
def expected(market, tmp_path_factory):
    return read_counts(write_tree(market, tmp_path_factory.mktemp("tree")), cache=None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_counts_and_a_byte_identical_ranking(
    form, market, expected, tmp_path
):
    reading = read_counts(FORMS[form](market, tmp_path / "archive"), cache=None)

    assert_same_counts(reading, expected)
    assert ranking(reading) == ranking(expected)
    assert len(ranking(reading).splitlines()) > 3


def test_an_s3_folder_is_read_without_an_account_and_its_licence_is_shown(
    market, expected, tmp_path, monkeypatch
):
    with s3_server() as (endpoint, signatures):
        upload(endpoint, "lake", write_open_data(market, tmp_path / "open"))
        signatures.clear()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        reading = read_counts("s3://lake/data/aws/2024", cache=None)

        assert set(signatures) == {""}
        assert ranking(reading) == ranking(expected)
        assert_same_counts(reading, expected)
        assert reading.notice == OPEN_DATA_NOTICE
        assert "CC BY-NC 4.0" in reading.notice

        with pytest.raises(ValueError, match="s3://lake/data/gcp: holds no SpotLake snapshots"):
            read_counts("s3://lake/data/gcp", cache=None)
        with pytest.raises(ValueError, match="aws/202: holds no"):  # a folder, not a prefix
            read_counts("s3://lake/data/aws/202", cache=None)
        with pytest.raises(ValueError, match="s3://absent/x: there is no bucket of this name"):
            read_counts("s3://absent/x", cache=None)

        one = "s3://lake/data/aws/2024/08/01/00-10-00.csv.gz"
        assert read_counts(one, cache=None).days["snapshots"].tolist() == [1]
        with pytest.raises(ValueError, match=r"s3://lake/aws-2024-08\.zip: holds no"):
            read_counts("s3://lake/aws-2024-08.zip", cache=None)
        with pytest.raises(ValueError, match="Invalid bucket name") as error:
            read_counts("s3://", cache=None)
        assert str(error.value).isprintable()
        for name in ("aws-2024-08.zip", "notes.txt"):
            upload_one(endpoint, "lake", f"data/aws/2024/{name}", b"x")
        with pytest.raises(ValueError, match="a zip is not read in a bucket: download it"):
            read_counts("s3://lake/data/aws/2024", cache=None)
        lenient = read_counts("s3://lake/data/aws/2024", cache=None, skip_bad_files=True)
        assert len(lenient.skipped) == 2


def test_the_counts_are_those_of_a_plain_group_by(market, expected):
    keys = ["region", "instance_type", "zone", "sps", "if_score"]
    ours = expected.counts.rename(columns={"availability_zone_id": "zone"})
    ours = ours.astype({"region": str, "instance_type": str, "zone": str})
    ours["day"] = ours["day"].dt.date
    naive = naive_counts(market)

    columns = [*keys, "day", "snapshots"]
    pd.testing.assert_frame_equal(
        ours[columns].sort_values([*keys, "day"], ignore_index=True),
        naive[columns].sort_values([*keys, "day"], ignore_index=True),
        check_dtype=False,
    )


def test_the_order_of_rows_in_a_file_does_not_matter(expected, tmp_path):
    shuffled = random_market()
    shuffled.rows = shuffled.rows.sample(frac=1, random_state=1)

    reading = read_counts(write_tree(shuffled, tmp_path), cache=None)

    pd.testing.assert_frame_equal(reading.counts, expected.counts)


@pytest.mark.parametrize("write", [write_tree, write_parquet])
@pytest.mark.parametrize("rows_at_once", [1, 7, 100])
def test_files_longer_than_a_piece_are_read_whole_even_if_their_rows_differ(
    write, rows_at_once, tmp_path, monkeypatch
):
    """Rows of some hundred pools; each snapshot lacks other ones and lists them elsewhere."""
    rows = [
        (datetime(2024, 8, 1, 0, 10 * number, tzinfo=UTC), f"t{pool}.nano", "r", "z", 3, 2.5)
        for number in range(4)
        for pool in range(600)
        if (pool * 7919 + number) % 97
    ]
    market = history(rows[:1200] + rows[:1100:-1])
    source = write(market, tmp_path)
    whole = read_counts(source, cache=None)
    monkeypatch.setattr(csv_rows, "_PIECE_BYTES", 80 * rows_at_once)
    monkeypatch.setattr(day, "_ROWS_AT_ONCE", rows_at_once)

    reading = read_counts(source, cache=None)

    pd.testing.assert_frame_equal(reading.counts, whole.counts)
    assert reading.days["rows"].tolist() == [len(market.rows)]
    held = reading.counts.set_index("instance_type")["snapshots"].sort_index()
    expected = market.rows.drop_duplicates(["at", "instance_type"])["instance_type"].value_counts()
    assert held.to_dict() == expected.to_dict()


@pytest.mark.parametrize("rows_at_once", [1, 1000])
@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_exact_duplicates_count_once_and_contradictions_are_unknown(
    write, rows_at_once, tmp_path, monkeypatch
):
    monkeypatch.setattr(day, "_ROWS_AT_ONCE", rows_at_once)
    market = random_market(missing=0.0)
    once = read_counts(write(market, tmp_path / "once"), cache=None)
    doubled = random_market(missing=0.0)
    doubled.rows = pd.concat([doubled.rows, doubled.rows])
    twice = read_counts(write(doubled, tmp_path / "twice"), cache=None)

    assert_same_counts(twice, once, but=["surplus_rows"])
    assert twice.counts["surplus_rows"].tolist() == once.counts["snapshots"].tolist()
    assert twice.days["repeated_rows"].sum() == len(market.rows)

    disputed = random_market(missing=0.0)
    first = disputed.rows.iloc[[0]].assign(sps=lambda row: row["sps"] % 3 + 1)
    disputed.rows = pd.concat([disputed.rows, first, disputed.rows.iloc[[0]]])
    reading = read_counts(write(disputed, tmp_path / "disputed"), cache=None)

    assert reading.days["contradictions"].sum() == 1
    unknown = reading.counts[reading.counts["sps"].isna()]
    assert unknown["snapshots"].tolist() == [1]
    assert unknown["if_score"].isna().all()
    assert reading.counts["surplus_rows"].sum() == 3  # all that contradict each other
    assert (reading.counts["first_at"].isna() == (reading.counts["snapshots"] == 0)).all()


def test_a_day_of_parquet_whose_first_pool_lacks_snapshots_is_in_order_of_time(tmp_path):
    morning = datetime(2024, 8, 1, tzinfo=UTC)
    rows = [
        (morning + timedelta(minutes=10 * slot), f"t{pool}.nano", "r", "z", 2 + (slot < 70), 2.5)
        for pool in range(2)
        for slot in range(144)
        if pool or slot % 3
    ]

    parquet = read_counts(write_parquet(history(rows), tmp_path / "parquet"), cache=None)
    tree = read_counts(write_tree(history(rows), tmp_path / "tree"), cache=None)

    pd.testing.assert_frame_equal(parquet.counts, tree.counts)
    assert parquet.counts["sps_changes"].tolist() == [1, 0, 1, 0]
    assert parquet.counts["first_at"].dt.strftime("%H:%M").tolist()[2:] == ["11:40", "00:00"]


@pytest.mark.parametrize("kind", [pl.Int64, pl.Int32, pl.Int8, pl.Float32])
def test_a_parquet_day_may_hold_its_numbers_in_any_type(kind, tmp_path):
    """Some of the historical days have whole numbers for IF; -1 and nulls are missing in all."""
    noon = datetime(2024, 8, 1, 12, tzinfo=UTC)
    rows = [(noon, f"t{each}.nano", "r", "z", 3, 2.0) for each in range(4)]
    path = write_parquet(history(rows), tmp_path) / "aws-2024-08" / "aws-2024-08-01.parquet"
    sps, if_score = pl.Series([3, -1, None, 10], dtype=kind), pl.Series([2, None, 1, -1])
    pl.read_parquet(path).with_columns(SPS=sps, IF=if_score.cast(kind)).write_parquet(path)

    counts = read_counts(tmp_path, cache=None).counts

    assert counts["sps"].fillna(-1).tolist() == [3, -1, -1, 10]
    assert counts["if_score"].fillna(-1).tolist() == [2, -1, 1, -1]


def test_a_number_too_large_for_its_type_is_refused_not_wrapped(tmp_path):
    rows = [(datetime(2024, 8, 1, tzinfo=UTC), "t3.nano", "r", "z", 3, 2.0)]
    path = write_parquet(history(rows), tmp_path) / "aws-2024-08" / "aws-2024-08-01.parquet"
    for column, value, kind, reason in [
        ("IF", 130, pl.UInt8, "IF is 130"),  # twice 130 is 4 in a byte
        ("SPS", 259, pl.Int64, "SPS is 259"),  # and so is 259 3
        ("SPS", 65_539, pl.Int32, "SPS is 65539"),
        ("IF", 2**62 + 1, pl.Int64, "not in range"),
    ]:
        whole = pl.read_parquet(path)
        spoilt = whole.with_columns(pl.Series(column, [value], dtype=kind))
        spoilt.write_parquet(path)
        with pytest.raises(ArchiveError, match=reason):
            read_counts(tmp_path, cache=None)
        whole.write_parquet(path)


def test_rows_without_a_zone_belong_to_no_pool(market, expected, tmp_path):
    root = write_tree(market, tmp_path, suffix=".csv")
    for path in root.rglob("*.csv"):
        last = path.read_text().splitlines()[-1].partition(",")[0]
        path.write_text(path.read_text() + f"{last},t3.nano,,,-1,2.5,-1.0,-1.0,-1\n")

    reading = read_counts(root, cache=None)

    pd.testing.assert_frame_equal(reading.counts, expected.counts)
    assert reading.days["nameless_rows"].sum() == len(market.times)


def test_object_names_with_colons_and_any_folder_above_the_month_are_read(market, tmp_path):
    at = market.times[0]
    root = tmp_path / "2022" / "10" / "05"
    root.mkdir(parents=True)
    data = gzip.compress(csv_text(market.snapshot(at), era="b1").encode())
    (root / "04:20:00.csv.gz").write_bytes(data)

    reading = read_counts(root, cache=None)

    assert reading.counts["first_at"].unique().tolist() == [
        pd.Timestamp("2022-10-05 04:20", tz="UTC")
    ]


def test_changes_and_the_first_and_last_time_of_each_value_are_kept(tmp_path):
    rows = [
        (
            datetime(2024, 8, 1, 0, 10 * number, tzinfo=UTC),
            "t3.nano",
            "sa-east-1",
            "sae1-az1",
            sps,
            if_score,
        )
        for number, (sps, if_score) in enumerate(
            [(3, 2.5), (3, float("nan")), (2, 2.5), (float("nan"), 2.5), (3, 2.0), (3, 2.0)]
        )
    ]
    counts = read_counts(write_tree(history(rows), tmp_path), cache=None).counts

    assert counts["sps_changes"].sum() == 2  # 3 -> 2, then 2 -> (unknown) -> 3
    assert counts["if_changes"].sum() == 1  # 2.5 -> 2.0; a missing value is not a change
    last = counts[counts["if_score"] == 2.0].iloc[0]
    assert (last["first_at"], last["last_at"]) == tuple(
        pd.Timestamp(f"2024-08-01 00:{minute}", tz="UTC") for minute in (40, 50)
    )
    assert last["snapshots"] == 2

"""The archive: SpotLake's exact form, its defects, and the market of the endpoint."""

import argparse
import gzip
import re
import shutil
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from spotlib.sandbox import history
from spotlib.sandbox.history import write_archive
from spotlib.sandbox.mark import market_of
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.numbers import PROFILES, Numbers
from spotlib.sandbox.world import EPOCH, World

HEADER = "Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings"
LINE = re.compile(
    r"2024-08-\d\d \d\d:\d0:00,[a-z0-9-]+\.[a-z0-9-]+,[a-z0-9-]+,[a-z0-9]+-az\d,"
    r"[123],(?:-1\.0|[123]\.[05]),\d+\.\d{1,4},\d+\.\d{1,4},\d+"
)
ONE = {"regions": ["us-east-1"], "types": ["t4g.nano", "t3.nano", "c5.large"]}


def snapshots(folder):
    """Time from the path -> frame, in order."""
    return {
        f"{path.parent.name} {path.name[:8]}": pl.read_csv(path)
        for path in sorted(folder.rglob("*.csv*"))
    }


@pytest.fixture
def defective(monkeypatch):
    """A market whose archive has many defects of every kind."""
    numbers = replace(
        Numbers(), gap_share=0.05, glitch_per_day=3, duplicate_per_day=9, absent_share=0.3
    )
    monkeypatch.setitem(PROFILES, "defective", numbers)
    return "defective"


def test_a_day_has_the_tree_the_header_and_the_lines_of_spotlake(tmp_path):
    done = write_archive(tmp_path / "aws-2024-08", days=[3], **ONE)
    assert done.snapshots + done.missing == 144
    files = sorted((tmp_path / "aws-2024-08" / "03").iterdir())
    assert files[0].name == "00-00-00.csv.gz"
    assert files[-1].name == "23-50-00.csv.gz"
    header, *lines = gzip.decompress(files[0].read_bytes()).decode().splitlines()
    assert header == HEADER
    assert len(lines) == done.pools
    assert all(LINE.fullmatch(line) for line in lines), lines


def test_the_same_market_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_archive(tmp_path / name, days=[1], **ONE)
    for one in sorted((tmp_path / "a").rglob("*.gz")):
        other = tmp_path / "b" / one.relative_to(tmp_path / "a")
        assert one.read_bytes() == other.read_bytes()


def test_a_day_alone_is_the_same_as_that_day_of_a_longer_archive(tmp_path):
    write_archive(tmp_path / "two", days=[4, 5], form="csv", **ONE)
    write_archive(tmp_path / "one", days=[5], form="csv", **ONE)
    texts = [
        [path.read_text() for path in sorted((tmp_path / name / "05").iterdir())]
        for name in ("one", "two")
    ]
    assert texts[0] == texts[1]


def test_it_shows_what_the_endpoint_would_have_shown(tmp_path):
    write_archive(tmp_path, days=[31], **ONE)
    market, frame = World().market, snapshots(tmp_path)["31 23-50-00"]
    at = EPOCH.timestamp() - 600.0
    for row in frame.iter_rows(named=True):
        pool = Pool(row["InstanceType"], row["AZ"], row["Region"])
        assert row["SPS"] == market.placement_score(pool, at)
        assert row["SpotPrice"] == market.price_usd(pool, at)
        assert row["IF"] == market.interruption_score(pool.instance_type, pool.region, at)
        assert row["Savings"] == int(100 - 100 * row["SpotPrice"] / row["OndemandPrice"])


def test_the_interruption_score_is_one_per_region(tmp_path):
    write_archive(tmp_path, days=[1], **ONE)
    frame = pl.concat(snapshots(tmp_path).values())
    by_zone = frame.group_by("Time", "InstanceType").agg(pl.col("IF").n_unique())
    assert by_zone["IF"].max() == 1


def test_types_the_advisor_does_not_list_read_minus_one_throughout(tmp_path):
    market = Market()
    names = history.small_types()
    at = datetime(2024, 8, 1, tzinfo=UTC).timestamp()
    unlisted = [n for n in names if np.isnan(market.interruption_score(n, "us-east-1", at))]
    assert unlisted
    write_archive(tmp_path, days=[1], regions=["us-east-1"], types=[*unlisted, "c5.large"])
    frame = pl.concat(snapshots(tmp_path).values())
    assert frame.filter(pl.col("InstanceType").is_in(unlisted))["IF"].unique().to_list() == [-1.0]
    assert frame.filter(pl.col("InstanceType") == "c5.large")["IF"].min() > 0


def test_the_defects_of_the_real_archive_are_there(tmp_path, defective):
    done = write_archive(tmp_path, days=[1, 2], market=defective, **ONE)
    frames = snapshots(tmp_path)
    assert 5 <= done.missing <= 40
    assert len(frames) == 288 - done.missing
    glitches = [frame for frame in frames.values() if frame["IF"].max() == -1.0]
    assert 1 <= len(glitches) <= 20
    assert any(frame.is_duplicated().any() for frame in frames.values()) or done.pools < 20
    rows = {frame.unique().height for frame in frames.values()}
    assert max(rows) <= done.pools


def test_rows_are_doubled_exactly_in_a_few_snapshots(tmp_path, monkeypatch):
    monkeypatch.setitem(
        PROFILES, "double", replace(Numbers(), duplicate_per_day=9, duplicate_share=0.5)
    )
    write_archive(tmp_path, days=[1], market="double", **ONE)
    doubled = [f for f in snapshots(tmp_path).values() if f.is_duplicated().any()]
    assert 2 <= len(doubled) <= 25
    assert all(frame.unique().height < frame.height for frame in doubled)


def test_some_pools_are_absent_for_a_part_of_the_month(tmp_path, monkeypatch):
    monkeypatch.setitem(PROFILES, "thin", replace(Numbers(), absent_share=0.5))
    done = write_archive(tmp_path, days=range(1, 29, 3), market="thin", **ONE)
    seen = pl.concat(snapshots(tmp_path).values()).group_by("InstanceType", "AZ").len()["len"]
    assert seen.min() < 0.9 * done.snapshots
    assert seen.max() == done.snapshots


def test_the_demo_is_small_and_the_full_one_as_large_as_the_real_one():
    demo = history.pools_of(history.DEMO_REGIONS, history.small_types())
    full = history.pools_of(history.catalogue.DEFAULT_REGIONS, history.full_types())
    assert 500 < len(demo) < 2000
    assert 27_000 < len(full) < 32_000
    assert set(demo) <= set(full)


def test_a_month_misses_about_as_many_snapshots_as_the_real_one():
    market = Market()
    missing = history._missing(market, datetime(2024, 8, 1, tzinfo=UTC))
    assert 1 <= len(missing) <= 25


def test_the_command_writes_to_the_folder_and_says_it_is_simulated(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    history.add_arguments(parser)
    options = ["--folder", str(tmp_path / "x"), "--days", "1", "--regions", "sa-east-1"]
    assert history.run(parser.parse_args(options)) == 0
    assert "simulated" in capsys.readouterr().out
    assert len(list((tmp_path / "x" / "01").iterdir())) >= 140


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"month": "August"}, "month must look like 2024-08, got 'August'"),
        ({"form": "zip"}, "form must be csv.gz or csv, got 'zip'"),
        ({"regions": ["mars-1"]}, "no pool of these types in mars-1"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        write_archive(tmp_path, **wrong)


def command(*options):
    parser = argparse.ArgumentParser()
    history.add_arguments(parser)
    return history.run(parser.parse_args([*options, "--days", "1", "--regions", "sa-east-1"]))


def test_each_market_has_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert command() == command("--market", "tight/7") == 0

    home = tmp_path / "spot_dataset" / "sandbox"
    assert market_of([home / "fitted" / "aws-2024-08" / "01"]) == "fitted"
    assert market_of([home / "tight-7" / "aws-2024-08"]) == "tight/7"
    assert "(simulated, market tight/7: nothing" in capsys.readouterr().out


def test_an_unknown_market_is_refused_with_the_names_of_those_that_exist(tmp_path):
    for name in ("wild", "tight/", "tight/seven", "/7"):
        with pytest.raises(
            ValueError, match="market must be one of calm, fitted, outage, tight, or one"
        ):
            write_archive(tmp_path / "x", market=name)
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_part_of_an_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_write", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        write_archive(tmp_path / "aws-2024-08", days=[1], **ONE)

    assert not list(tmp_path.iterdir())


def test_an_archive_never_overwrites_files(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")

    with pytest.raises(ValueError, match="is not empty: remove it, or name another"):
        write_archive(tmp_path, days=[1], **ONE)

    assert (tmp_path / "mine.txt").read_text() == "mine"


class TestMark:
    def test_it_stays_with_an_archive_that_is_moved_or_zipped(self, tmp_path):
        write_archive(tmp_path / "a", days=[1], market="tight", **ONE)
        moved = (tmp_path / "a").rename(tmp_path / "real")
        packed = Path(shutil.make_archive(str(tmp_path / "aws-2024-08"), "zip", moved))

        assert market_of([moved / "01"]) == "tight"
        shutil.rmtree(moved)
        assert market_of([packed]) == "tight"

    def test_a_real_archive_in_a_folder_called_sandbox_is_real(self, tmp_path):
        (tmp_path / "sandbox").mkdir()
        with zipfile.ZipFile(tmp_path / "sandbox" / "aws.zip", "w") as archive:
            archive.writestr("01/00-00-00.csv", "Time")

        assert market_of([tmp_path / "sandbox", tmp_path / "sandbox" / "aws.zip"]) is None

    def test_real_and_simulated_are_never_pooled(self, tmp_path):
        write_archive(tmp_path / "a", days=[1], **ONE)
        (tmp_path / "b").mkdir()

        with pytest.raises(ValueError, match="real ones and those of the market fitted: name"):
            market_of([tmp_path / "a" / "01", tmp_path / "b"])

"""T3 of the archives that have it, from 2025 on: as of the day's last snapshot, into ``intent``."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import plan_for, read_events, scripted
from market import market, random_market, write_open_data, write_parquet, write_tree

from spotlib.collect.rounds import collect_batch
from spotlib.model import Target
from spotlib.record.selection_file import read_selection
from spotlib.select.archive import day
from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.schema import ArchiveError
from spotlib.select.choose import choose_targets, complete_selection, write_selection
from spotlib.select.cov import score_targets, variation
from spotlib.select.evidence import evidence
from spotlib.select.parameters import SelectParameters

POOL = ["region", "instance_type", "zone"]
MORNING = datetime(2025, 8, 30, tzinfo=UTC)
PARAMETERS = SelectParameters(
    **dict.fromkeys(("dataset", "market", "month", "days", "results", "out"), ""),
    **{"sizes": "nano", "form": "pooled", "missing": "drop", "top": 1, "controls": 0, "seed": 0},
    **{"max_per_region": 0, "max_per_family": 0, "held_s": 600.0, "skip_bad_files": False},
)
WRITERS = {
    "raw": lambda history, root: write_tree(history, root, era="d"),
    "open data": write_open_data,
    "Parquet": write_parquet,
}


@pytest.fixture(scope="module")
def history():
    """Two days in which T3 moves; it is missing in three ways, and 0 where SPS is missing."""
    found, rng = random_market(), np.random.default_rng(1)
    rows = found.rows
    rows["at"] += timedelta(days=395)
    rows["t3"] = rng.choice([0, 0, 1, 5, 10, 50, -1, np.nan], len(rows))
    unscored = rng.random(len(rows)) < 0.2
    rows.loc[unscored, ["sps", "t3"]] = [np.nan, 0]
    return found


@pytest.fixture(scope="module")
def in_the_last_snapshot(history):
    """The T3 of each pool and day by a plain group-by; NaN where it is not known."""
    rows = history.rows.assign(day=history.rows["at"].dt.date)
    last = rows[rows["at"] == rows.groupby("day")["at"].transform("max")]
    known = last[last["sps"].notna() & (last["t3"] >= 0)]
    t3 = known.set_index([*POOL, "day"])["t3"]
    listed = rows[[*POOL, "day"]].drop_duplicates().to_numpy().tolist()
    return {tuple(each): t3.get(tuple(each), np.nan) for each in listed}


def held(counts):
    names = counts.rename(columns={"availability_zone_id": "zone"}).astype(dict.fromkeys(POOL, str))
    names["day"] = names["day"].dt.date
    return names.groupby([*POOL, "day"])["t3"].agg(["min", "max", "size", "count"])


@pytest.mark.parametrize("form", WRITERS)
def test_t3_is_that_of_the_days_last_snapshot_in_every_form(
    form, history, in_the_last_snapshot, tmp_path, monkeypatch
):
    monkeypatch.setattr(day, "_ROWS_AT_ONCE", 3)  # the first batch lacks the last snapshot

    found = held(read_counts(WRITERS[form](history, tmp_path), cache=None).counts)

    assert found["min"].fillna(-1).to_dict() == {
        pool: -1 if np.isnan(t3) else t3 for pool, t3 in in_the_last_snapshot.items()
    }
    assert (found["min"].fillna(-1) == found["max"].fillna(-1)).all()
    assert found["count"].isin([0, *found["size"]]).all()
    known = pd.Series(in_the_last_snapshot)
    assert known.isna().sum() > 3
    assert known.nunique() > 3


def test_a_cached_day_has_the_same_t3(history, tmp_path):
    archive = write_tree(history, tmp_path / "archive", era="d")
    first, again = (read_counts(archive, cache=tmp_path / "cache") for _ in range(2))

    assert again.days["from_cache"].all()
    pd.testing.assert_frame_equal(first.counts, again.counts)
    assert first.counts["t3"].notna().any()


@pytest.mark.parametrize("write", [write_tree, write_parquet])
def test_an_archive_from_before_2025_has_no_t3_and_is_else_as_it_was(write, tmp_path):
    counts = read_counts(write(random_market(), tmp_path), cache=None).counts

    assert counts["t3"].isna().all()
    assert evidence(counts)[["t3", "t3_at"]].isna().all(axis=None)
    assert counts["price_usd_per_hour"].notna().any()


@pytest.mark.parametrize("write", ["raw", "Parquet"])
def test_of_two_rows_of_a_pool_in_one_snapshot_the_lower_t3_counts(write, tmp_path):
    found = market([(MORNING, "t3.nano", "r", "z", 3, 2.0)] * 3)
    found.rows["t3"] = [10, 5, 50]

    counts = read_counts(WRITERS[write](found, tmp_path), cache=None).counts

    assert counts["t3"].tolist() == [5]


@pytest.mark.parametrize("value", [2.5, 5000.0, float("inf")])
@pytest.mark.parametrize("write", ["raw", "Parquet"])
def test_a_t3_that_is_no_count_of_instances_is_refused_in_a_sentence(write, value, tmp_path):
    found = market([(MORNING, "t3.nano", "r", "z", 3, 2.0)])
    found.rows["t3"] = 0
    WRITERS[write](found, tmp_path)
    for path in tmp_path.rglob("*.parquet"):
        pl.read_parquet(path).with_columns(T3=pl.lit(value)).write_parquet(path)
    found.rows["t3"] = value
    if write == "raw":
        WRITERS[write](found, tmp_path)

    with pytest.raises(ArchiveError, match=f"T3 is {value:g}, not a whole number from 0 to 1000"):
        read_counts(tmp_path, cache=None)
    if write == "raw":  # the scores of the snapshot count all the same
        lenient = read_counts(tmp_path, cache=None, skip_bad_files=True)
        assert lenient.counts[["sps", "if_score"]].to_numpy().tolist() == [[3, 2]]
        assert lenient.counts["t3"].isna().all()


def days(*shown):
    """One row per pool and snapshot: (day, slot, zone, sps, if, t3)."""
    at = [MORNING + timedelta(days=day, minutes=10 * slot) for day, slot, *_ in shown]
    rows = [
        (when, "t3.nano", "r", zone, sps, if_score)
        for when, (_, _, zone, sps, if_score, _) in zip(at, shown, strict=True)
    ]
    found = market(rows)
    found.rows["t3"] = [each[-1] for each in shown]
    return found


def test_a_pair_has_the_t3_of_its_best_zone_on_the_last_day_on_which_one_is_known(tmp_path):
    found = days(
        (0, 0, "a", 3, 2.0, 50),
        (1, 0, "a", 3, 2.0, 1),
        (1, 5, "a", 2, 2.5, 0),
        (1, 5, "b", 3, 2.5, 10),
        (2, 3, "a", np.nan, np.nan, 0),
    )

    [row] = evidence(read_counts(write_tree(found, tmp_path, era="d"), cache=None).counts).to_dict(
        "records"
    )

    assert row["t3"] == 10
    assert row["t3_at"] == pd.Timestamp(MORNING + timedelta(days=1, minutes=50))
    assert row["if_at"] == row["t3_at"]  # the third day has no IF


def test_what_an_archive_says_reaches_the_intent_of_a_request(in_process, log, tmp_path):
    region, last = "sa-east-1", MORNING + timedelta(minutes=50)
    rows = [
        (last - timedelta(minutes=10 * back), "t3.nano", region, f"sae1-az{zone}", sps, 2 + sps % 2)
        for back, sps in enumerate([3, 2, 3, 3])
        for zone in (1, 2)
    ]
    found = market(rows)
    found.rows["t3"] = [20, 5] + [50] * 6
    counts = read_counts(write_tree(found, tmp_path / "archive", era="d"), cache=None).counts
    pairs = variation(counts)
    table = complete_selection(
        choose_targets(score_targets(pairs), top=1),
        pairs,
        counts=counts,
        parameters=PARAMETERS,
    )
    path = write_selection(
        table, tmp_path, source="spotlake", created=datetime(2026, 1, 1, tzinfo=UTC), parameters={}
    )
    connection = in_process(scripted())

    collect_batch(
        connection,
        plan_for(connection, Target("t3.nano", region), n=1),
        log=log,
        seed=1,
        selection=read_selection(path),
        advisor=False,
    )

    [known] = [each["features"] for each in read_events(log)[0] if each["event"] == "intent"]
    assert (known["t3"], known["t3_source"]) == (20, "selection")
    assert known["t3_at"] == known["if_at"] == f"{last:%Y-%m-%dT%H:%M:%SZ}"

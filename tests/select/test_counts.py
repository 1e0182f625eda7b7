"""Days: which are read, what is missing, where they are counted and how they are cached."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from market import random_market, write_tree, write_zip
from programs import PATIENCE_S

from spotlib.select.archive.counts import CACHE, days_held, read_counts
from spotlib.select.cov import score_targets, variation
from spotlib.workspace import workspace


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_tree(random_market(days=4, snapshots=5), tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def expected(archive):
    return read_counts(archive, cache=None)


def test_missing_snapshots_and_days_are_reported_in_numbers(archive, expected):
    assert expected.days["snapshots"].tolist() == [5] * 4
    assert expected.days["missing_snapshots"].tolist() == [139] * 4
    assert expected.gaps["snapshots"].tolist() == [139] * 4
    assert expected.gaps["first_at"].iloc[0] == pd.Timestamp("2024-08-01 00:50", tz="UTC")
    assert expected.gaps["last_at"].iloc[0] == pd.Timestamp("2024-08-01 23:50", tz="UTC")

    month = read_counts(archive, days="2024-08", cache=None)

    assert len(month.days) == 31
    assert month.days["missing_snapshots"].sum() == 31 * 144 - 20
    assert month.gaps["snapshots"].tolist() == [139] * 3 + [139 + 27 * 144]
    assert month.days["snapshots"].tolist() == [5] * 4 + [0] * 27


def test_the_days_held_are_listed_with_the_folders_or_zips_of_their_files(archive, tmp_path):
    held = days_held(archive)
    zipped = write_zip(random_market(days=1), tmp_path)

    assert list(held) == [date(2024, 8, day) for day in (1, 2, 3, 4)]
    assert held[date(2024, 8, 2)] == {archive / "aws-2024-08" / "02"}
    assert days_held(tmp_path) == {date(2024, 8, 1): {zipped}}


@pytest.mark.parametrize(
    ("days", "read"),
    [
        ("2024-08", [1, 2, 3, 4]),
        ("2024-08-02", [2]),
        (date(2024, 8, 3), [3]),
        (["2024-08-01", date(2024, 8, 4)], [1, 4]),
    ],
)
def test_days_are_picked_by_day_or_month(days, read, archive):
    reading = read_counts(archive, days=days, cache=None)

    assert sorted(reading.counts["day"].dt.day.unique()) == read


def test_progress_counts_the_days(archive, tmp_path):
    calls = []

    for _ in range(2):
        read_counts(archive, cache=tmp_path, progress=lambda done, of: calls.append((done, of)))

    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_counts_are_the_same_from_the_default_threads_and_processes(archive, expected):
    with ThreadPoolExecutor(3) as threads:
        threaded = read_counts(archive, executor=threads, cache=None)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        parallel = read_counts(archive, executor=processes, cache=None)

    for reading in (threaded, parallel):
        pd.testing.assert_frame_equal(reading.counts, expected.counts)
        pd.testing.assert_frame_equal(reading.days, expected.days)


def test_counts_are_the_same_from_a_dask_cluster_of_two_workers(archive, tmp_path):
    """In a process of its own, because dask warns and starts threads of many kinds."""
    pytest.importorskip("distributed")
    script = tmp_path / "on_dask.py"
    script.write_text(
        "import sys\n"
        "from distributed import Client, LocalCluster\n"
        "from spotlib.select.archive.counts import read_counts\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)\n"
        "    with cluster, Client(cluster) as client:\n"
        "        executor = client.get_executor()\n"
        "        reading = read_counts(sys.argv[1], executor=executor, cache=None)\n"
        "        reading.counts.to_pickle(sys.argv[2])\n"
    )
    started = [sys.executable, script, archive, tmp_path / "counts"]
    patient = {f"DASK_DISTRIBUTED__COMM__TIMEOUTS__{each}": "240s" for each in ("CONNECT", "TCP")}
    subprocess.run(started, check=True, timeout=PATIENCE_S, env={**os.environ, **patient})

    counts = pd.read_pickle(tmp_path / "counts")

    pd.testing.assert_frame_equal(counts, read_counts(archive, cache=None).counts)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_forked_processes_are_refused_because_they_may_never_end(archive):
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as forked,
        pytest.raises(ValueError, match=r"mp_context=multiprocessing.get_context\('spawn'\)"),
    ):
        read_counts(archive, executor=forked, cache=None)


def test_an_archive_on_disk_is_read_without_the_libraries_it_does_not_need(archive):
    script = (
        "import sys; from spotlib.select.archive.counts import read_counts\n"
        "read_counts(sys.argv[1], cache=None)\n"
        "print(sorted({'boto3', 'botocore', 'polars', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, archive], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.permutations(["2024-08-01", "2024-08-02", "2024-08-03", "2024-08-04"]))
def test_the_ranking_does_not_depend_on_the_order_days_are_merged_in(order, archive, expected):
    merged = pd.concat([read_counts(archive, days=day, cache=None).counts for day in order])

    def ranking(counts):
        return score_targets(variation(counts), sizes=None).to_csv()

    assert ranking(merged) == ranking(expected.counts)


class TestCache:
    """A counted day is read again only if its files changed."""

    def test_a_cached_day_has_the_same_reading(self, archive, expected, tmp_path):
        read_counts(archive, cache=tmp_path)
        again = read_counts(archive, cache=tmp_path)

        assert again.days["from_cache"].all()
        pd.testing.assert_frame_equal(again.counts, expected.counts)
        pd.testing.assert_frame_equal(again.gaps, expected.gaps)
        pd.testing.assert_frame_equal(
            again.days.drop(columns="from_cache"), expected.days.drop(columns="from_cache")
        )

    def test_only_a_new_or_changed_day_is_read(self, tmp_path):
        market = random_market(days=3, snapshots=3)
        root = write_tree(market, tmp_path / "archive")
        read_counts(root, days=["2024-08-01", "2024-08-02"], cache=tmp_path / "cache")

        added = read_counts(root, cache=tmp_path / "cache")
        path = root / "aws-2024-08" / "02" / "00-10-00.csv.gz"
        os.utime(path, ns=(1, 1))
        touched = read_counts(root, cache=tmp_path / "cache")
        path.unlink()
        shorter = read_counts(root, cache=tmp_path / "cache")

        assert added.days["from_cache"].tolist() == [True, True, False]
        assert touched.days["from_cache"].tolist() == [True, False, True]
        assert shorter.days["from_cache"].tolist() == [True, False, True]
        assert shorter.days["snapshots"].tolist() == [3, 2, 3]

    def test_a_zip_is_known_by_its_contents_wherever_it_lies(self, tmp_path):
        path = write_zip(random_market(days=1), tmp_path / "here")
        read_counts(path, cache=tmp_path / "cache")
        (tmp_path / "there").mkdir()
        moved = path.rename(tmp_path / "there" / "renamed 2024-08.zip")

        assert read_counts(moved, cache=tmp_path / "cache").days["from_cache"].all()

    def test_a_damaged_cache_is_counted_again(self, archive, expected, tmp_path):
        read_counts(archive, cache=tmp_path)
        for path in tmp_path.glob("*.counts"):
            path.write_bytes(path.read_bytes()[:100])

        again = read_counts(archive, cache=tmp_path)

        assert not again.days["from_cache"].any()
        pd.testing.assert_frame_equal(again.counts, expected.counts)

    def test_a_write_that_fails_leaves_nothing_behind(self, archive, tmp_path, monkeypatch):
        def no_space(*_: Path) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        monkeypatch.setattr(Path, "replace", no_space)

        with pytest.raises(ValueError, match="no space left"):
            read_counts(archive, cache=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_two_processes_may_fill_it_at_once(self, archive, expected, tmp_path):
        script = (
            "import sys; from spotlib.select.archive.counts import read_counts\n"
            "for _ in range(3): print(read_counts(sys.argv[1], cache=sys.argv[2]).counts.shape)"
        )
        command = [sys.executable, "-c", script, str(archive), str(tmp_path)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in both]

        assert outputs == [f"{expected.counts.shape}\n" * 3] * 2
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".counts"] * 4

    def test_it_lies_under_results(self):
        assert workspace() / "results" / "counts" == CACHE


def test_a_file_in_place_of_the_folder_of_counts_is_one_sentence(archive, tmp_path):
    (tmp_path / "counts").write_text("")

    with pytest.raises(
        ValueError, match=r"counts cannot be kept in '.*counts' \(File exists\): name"
    ):
        read_counts(archive, cache=tmp_path / "counts")

"""Random dirty archives have the numbers of a plain pandas reading of their rows."""

import numpy as np
import pandas as pd
import pytest
from conftest import CHAOS
from dirty import as_the_study, changes, coverage, dirty_archive, dropping

from spotlib.select.archive.counts import read_counts
from spotlib.select.archive.schema import SNAPSHOTS_PER_DAY, ArchiveError
from spotlib.select.cov import PAIR, variation
from spotlib.select.evidence import evidence


def equal(ours, theirs, seed):
    theirs = theirs.reindex(ours.index)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(300 if CHAOS else 10))
def test_every_number_of_a_dirty_archive_is_that_of_plain_pandas(seed, tmp_path):
    archive = dirty_archive(tmp_path / "archive", seed)
    if archive.is_lost:
        with pytest.raises(ArchiveError, match="skip_bad_files=True"):
            read_counts(archive.folder, cache=None)
    if archive.rows.empty:
        with pytest.raises(ArchiveError, match="holds no"):
            read_counts(archive.folder, cache=None, skip_bad_files=True)
        return
    given = {"cache": tmp_path / "cache", "skip_bad_files": archive.is_lost}

    read = read_counts(archive.folder, **given)
    again = read_counts(archive.folder, **given)

    pd.testing.assert_frame_equal(again.counts, read.counts)
    pd.testing.assert_frame_equal(again.skipped, read.skipped)
    bad = read.skipped["reason"].str.contains("gzip|csv|column|line", regex=True)
    assert bad.sum() >= archive.bad_files, f"seed {seed}"
    rows, counts = archive.rows, read.counts
    for form, missing, reference in (
        ("pooled", "as_value", as_the_study(rows)),
        ("pooled", "drop", dropping(rows, within=False)),
        ("within", "drop", dropping(rows, within=True)),
    ):
        table = variation(counts, form=form, missing=missing).set_index(PAIR)
        equal(table["sps_cov"], reference["SPS"], seed)
        equal(table["if_cov"], reference["IF"], seed)
    found = evidence(counts).set_index(PAIR)
    equal(found["coverage"], coverage(rows, archive.snapshots), seed)
    known = counts[counts["sps"].notna()].groupby(PAIR, observed=True)["snapshots"].sum()
    changed = changes(rows, "SPS", within_days=False).rename_axis(PAIR)
    per_day = changed * SNAPSHOTS_PER_DAY / known
    equal(found["sps_changes_per_day"].dropna(), per_day, seed)
    for column, ours in (("SPS", "sps_changes"), ("IF", "if_changes")):
        summed = counts.astype(dict.fromkeys(PAIR, str)).groupby(PAIR)[ours].sum()
        expected = changes(rows, column, within_days=True).reindex(summed.index, fill_value=0)
        equal(summed, expected, seed)

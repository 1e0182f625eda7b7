"""The checks of the data: each warns when it should, and only then."""

import numpy as np
import pandas as pd
import pytest
from studies import NANO, SMALL, Truth, record, simulate

from spotlib.analyze.checks import effective_sample_size, self_check, stale_medians, stale_orders
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.load import Comparable, load_comparable
from spotlib.analyze.sentences import stale_sentences
from spotlib.model import Stage
from spotlib.sandbox.world import Fate


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Six rounds of two targets, with nothing wrong but that all are of one hour."""
    log = tmp_path_factory.mktemp("study") / "20240901T000000Z-abcdef.jsonl"
    rng = np.random.default_rng(1)
    fates = [
        Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=b, ok_s=10.0) for b in rng.uniform(2, 22, 24)
    ]
    record(log, targets=(NANO, SMALL), n=2, rounds=6, fates=fates)
    return load_comparable(log)


def checked(data, **changes):
    """The checks by name, after some columns of the launches (or polls) were changed."""
    polls = changes.pop("polls", data.polls)
    launches = data.launches.assign(**changes)
    batches = data.batches
    data = Comparable(launches, polls, batches, data.left_out, data.wanted, data.simulated)
    distributions = launch_times(launches, Stage.READY, resamples=20)
    return self_check(data, distributions, Stage.READY).set_index("check")


def test_clean_data_warn_only_of_their_short_time_span(clean):
    checks = checked(clean, since_last_s=900.0)

    assert checks.index[checks["warns"]].tolist() == ["short time span"]
    assert "the intervals hold for that time only" in checks.loc["short time span", "found"]


def test_times_counted_in_polls_differ_from_measured_ones(clean):
    counted = (clean.launches["ready_by_s"] / 3).round() * 3
    checks = checked(clean, ready_by_s=counted, ready_after_s=counted - 3)

    assert checks.loc["times at multiples of the poll", "warns"]
    assert "100% of the times" in checks.loc["times at multiples of the poll", "found"]


def test_wide_brackets_are_gaps(clean):
    checks = checked(clean, ready_after_s=clean.launches["ready_after_s"] - 8)

    assert checks.loc["gaps between polls", "warns"]


def test_failed_and_skipped_polls_are_both_missed(clean):
    few = clean.polls[clean.polls["poll"] % 7 != 3].copy()
    few.loc[few["poll"] % 5 == 0, "error"] = "throttled"

    assert checked(clean, polls=few).loc["missed polls", "warns"]


def test_targets_of_different_rounds_are_confounded_with_time(clean):
    rounds = clean.launches["run"].where(
        clean.launches["target"] == str(NANO), "later" + clean.launches["run"]
    )

    checks = checked(clean, run=rounds)

    assert checks.loc["target and time confounded", "warns"]


def test_one_target_always_first_is_not_a_random_order(clean):
    first = clean.launches["target"] == str(NANO)
    sent_at = clean.launches["sent_at"].where(
        ~first, clean.launches["sent_at"] - pd.Timedelta(seconds=30)
    )

    checks = checked(clean, sent_at=sent_at)

    assert checks.loc["order within a round", "found"].startswith(str(NANO))


def test_our_own_recent_launches_are_named(clean):
    assert checked(clean, since_last_s=60.0).loc["our own earlier launches", "warns"]


def test_mixed_counts_and_unfinished_requests_are_named(clean):
    checks = checked(clean, n=[2] * 12 + [5] * 12, outcome=[None, *clean.launches["outcome"][1:]])

    assert checks.loc["different n", "warns"]
    assert checks.loc["unfinished requests", "found"].startswith("1 of 24 requests have no outcome")


def test_few_runs_of_many_instances_are_a_small_sample():
    launches = simulate(
        Truth(between=0.8, within=0.1), runs=4, count=20, rng=np.random.default_rng(1)
    )
    [times] = launch_times(launches, Stage.READY, resamples=20).values()

    assert effective_sample_size(times) < 8


def test_independent_instances_all_count():
    launches = simulate(
        Truth(between=0.0, within=0.5), runs=30, count=10, rng=np.random.default_rng(1)
    )
    [times] = launch_times(launches, Stage.READY, resamples=20).values()

    assert effective_sample_size(times) > 150


def test_polls_further_apart_than_the_times_are_named(clean):
    same = {"ready_after_s": 9.0, "ready_by_s": 14.0}

    assert checked(clean, **same).loc["polls too far apart", "warns"]


def test_slow_polls_make_the_moment_of_reading_matter(clean):
    slow = clean.polls.assign(answered_s=clean.polls["asked_s"] + 2.0)
    checks = checked(clean, polls=slow)

    assert checks.loc["moment of reading", "warns"]
    assert "they are 1.00 s too long or too short" in checks.loc["moment of reading", "found"]


class TestStaleReads:
    @pytest.fixture
    def distributions(self):
        rng = np.random.default_rng(1)
        studies = [
            simulate(Truth(median_s=m), runs=8, count=10, rng=rng, target=f"{m:.0f}")
            for m in (20.0, 35.0, 120.0)
        ]
        return launch_times(pd.concat(studies), Stage.READY, resamples=20)

    def test_medians_move_earlier_but_by_no_more_than_the_staleness(self, distributions):
        table = stale_medians(distributions)
        fresh = table[table["stale_s"] == 0].set_index("target")["median_s"]
        moved = table["target"].map(fresh) - table["median_s"]

        assert sorted(table["stale_s"].unique()) == [0, 2, 5, 30]
        assert (moved <= table["stale_s"] + 1.0).all()
        assert (table["least_s"] >= 0).all()

    def test_an_order_holds_while_the_difference_is_larger(self, distributions):
        orders = stale_orders(distributions).set_index(["faster", "slower", "stale_s"])["holds"]

        assert orders["20", "120", 30.0]
        assert not orders["20", "35", 30.0]
        assert list(stale_sentences(stale_orders(distributions)))[-1] == (
            "Reads stale by up to 30 s: 2 of 3 pairs of medians keep their order."
        )

    def test_a_median_that_was_not_reached_has_no_order(self):
        launches = simulate(Truth(never=0.9), runs=8, count=5, rng=np.random.default_rng(1))
        distributions = launch_times(launches, Stage.READY, resamples=20)

        assert stale_orders(distributions).empty
        assert np.isnan(stale_medians(distributions)["median_s"]).all()

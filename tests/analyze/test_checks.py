"""The checks of the data: each warns when it should, and only then."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import unnumbered
from launch_rows import run_rows, table_of
from studies import NANO, SMALL, Truth, record, simulate

from spotlib.analyze.checks import (
    _daily_scores,
    effective_sample_size,
    release_p_value,
    self_check,
    stale_medians,
    stale_orders,
)
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.compare import compare_targets
from spotlib.analyze.comparison_sentences import stale_sentences
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.load import load_comparable
from spotlib.analyze.selectors import target_outcomes
from spotlib.analyze.sentences import data_sentence, runs_sentence
from spotlib.analyze.summaries import ready_of_n
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
    other = {name: changes.pop(name) for name in ("polls", "polled") if name in changes}
    launches = data.launches.assign(**changes)
    data = replace(data, launches=launches, **other)
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
    assert "100 % of the times" in checks.loc["times at multiples of the poll", "found"]


def test_wide_brackets_are_gaps(clean):
    checks = checked(clean, ready_after_s=clean.launches["ready_after_s"] - 8)

    assert checks.loc["gaps between polls", "warns"]


TWO_CLOCKS = "two clocks contradict each other"


def two_clocks(data, *, apart, of, later_s):
    """The row of a check of so many events, the first of which lie apart from the poll's."""
    number = np.arange(len(data.launches))
    clocks = np.where(number < apart, "contradict", np.where(number < of, "agree", None))
    by_s = data.launches["running_by_s"] + later_s
    events = {"running_event_after_s": by_s - 1.0, "running_event_by_s": by_s}
    return checked(data, running_clocks=clocks, **events).loc[TWO_CLOCKS]


def test_clocks_that_contradict_each_other_are_a_warning_if_more_than_a_few_do(clean):
    few = two_clocks(clean, apart=1, of=20, later_s=-9.0)
    many = two_clocks(clean, apart=2, of=20, later_s=9.0)
    none = two_clocks(clean, apart=0, of=20, later_s=0.0)

    assert [row["warns"] for row in (none, few, many)] == [False, False, True]
    assert none["found"] == "0 % of 20 brackets contradict those of EC2's events"
    assert few["found"] == (
        "5 % of 20 brackets contradict those of EC2's events: 1 shown late (an old state), "
        "0 shown before EC2 says that they were reached"
    )
    assert "10 % of 20" in many["found"]
    assert "0 shown late (an old state), 2 shown before" in many["found"]


def test_without_events_nothing_is_said_of_two_clocks(clean):
    assert TWO_CLOCKS not in checked(clean).index


def test_failed_and_skipped_polls_are_both_missed(clean):
    failed = clean.polled.assign(
        error=clean.polled["error"].mask(clean.polled["poll"] % 5 == 0, "x")
    )

    assert checked(clean, polled=failed).loc["missed polls", "warns"]
    assert checked(clean, polled=clean.polled.assign(skipped=1.0)).loc["missed polls", "warns"]


def test_only_polls_that_fell_into_the_time_of_a_run_count_as_skipped(tmp_path):
    """Between the turns of two arms nothing is watched, though the schedule goes on."""
    log, gone = tmp_path / "20240901T000000Z-abcdef.jsonl", '"event":"poll"'
    arms = ("request_spot_instances", "run_instances")
    record(log, n=1, rounds=2, every_s=900.0, methods=arms)
    lines = unnumbered(log.read_text()).splitlines(keepends=True)
    numbers = load_comparable(log).polled["poll"]
    places = [place for place, line in enumerate(lines) if gone in line]

    def missed():
        log.write_text("".join(lines))
        return checked(load_comparable(log)).loc["missed polls", "found"]

    assert numbers.max() - numbers.min() > 2 * len(numbers)
    assert missed().endswith("(0 failed, 0 skipped)")
    del lines[places[2]], lines[places[1]]
    assert missed().endswith("(0 failed, 2 skipped)")


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

    first = checks.loc["order within a round", "found"]
    assert re.fullmatch(rf"{NANO} was .* that happens in 1 of [\d,]+ studies", first)


def test_our_own_recent_launches_are_named(clean):
    found = checked(clean, since_last_s=60.0).loc["our own earlier launches"]
    arms = replace(clean, arms=clean.launches)
    of_arms = checked(arms, since_last_s=60.0).loc["our own earlier launches", "found"]

    assert found["warns"]
    assert found["found"].endswith("our own demand may have slowed them")
    assert of_arms.endswith("(launch methods of a round follow each other: see arm_pause_s)")


def test_probes_that_came_when_they_were_planned_are_not_too_early(clean):
    """A probe ends at once, so the pool has its capacity back long before the next one."""
    probes = replace(clean, wanted=Stage.GRANTED, batches=clean.batches.assign(every_s=300.0))
    warns = [
        checked(data, since_last_s=since_s).loc["our own earlier launches", "warns"]
        for data, since_s in ((clean, 299.0), (probes, 299.0), (probes, 120.0))
    ]

    assert warns == [True, False, True]


def test_mixed_counts_and_unfinished_requests_are_named(clean):
    checks = checked(clean, n=[2] * 12 + [5] * 12, outcome=[None, *clean.launches["outcome"][1:]])

    assert checks.loc["different n", "warns"]
    assert checks.loc["unfinished requests", "found"].startswith(
        "1 of 24 requests without an outcome"
    )


def test_runs_of_a_stopped_batch_are_named_and_are_no_finding(clean):
    """Of each target one run was watched for 2 s, and another for 0.1 s."""
    names = clean.launches["run"]
    early = names.str.contains("/[01]/")
    ends = {
        f"ready_{end}_s": clean.launches[f"ready_{end}_s"].mask(early) for end in ("after", "by")
    }
    ends |= {"watched_s": clean.launches["watched_s"].mask(early, names.str[-1].astype(float) * 2)}
    stopped = clean.launches.assign(
        **ends, outcome=clean.launches["outcome"].mask(early, "abandoned")
    )
    whole = launch_times(clean.launches[~early], Stage.READY, resamples=20)
    times = launch_times(stopped, Stage.READY, resamples=20)
    of_n = ready_of_n(times, stopped, horizon_s=39.0)

    found = checked(clean, **ends, outcome=stopped["outcome"]).loc["abandoned requests"]
    fine = checked(clean).loc["abandoned requests"]
    words = runs_sentence(times, of_n, horizon_s=39.0)

    assert (fine["warns"], found["warns"]) == (False, True)
    assert "Watching stopped" not in data_sentence(clean)
    said = data_sentence(replace(clean, launches=stopped))
    assert said.endswith(
        "by request_spot_instances. Watching stopped early in 4 runs, which "
        "count as far as they were watched."
    )
    assert found["found"].startswith("8 of 24 requests, in 4 of 12 runs, stopped being watched")
    assert words == (
        "Within a target all runs ended alike, after 39 s. Not counted here: 4 runs not watched so "
        "long."
    )
    pairs = [compare_targets(each, horizon_s=39.0) for each in (whole, times)]
    pd.testing.assert_frame_equal(*(each[["rounds", "p_value"]] for each in pairs))
    sizes = [[effective_sample_size(each[name]) for name in each] for each in (whole, times)]
    assert sizes[0] == sizes[1]
    spreads = [target_outcomes(each, horizon_s=39.0)["spread_s"] for each in (whole, times)]
    pd.testing.assert_series_equal(*spreads)


def test_of_one_target_per_round_no_order_can_be_said(clean):
    alone = clean.launches["run"].map(lambda run: run[-1] + run)

    assert checked(clean, run=alone).loc["order within a round", "found"] == (
        "undefined: one target per round"
    )


def with_releases(data, *, slower_s, days=(5, 5), a_day=1):
    """Ten rounds, ``a_day`` of them each day, the later ones with a new image that is slower."""
    first = data.launches[data.launches["run"].str.contains("/0/")]
    rounds = [
        first.assign(
            run=f"batch/{day}/" + first["run"].str[-1],
            sent_at=first["sent_at"] + pd.Timedelta(days=day // a_day),
            image="ami-new" if day >= days[0] else "ami-old",
            ready_after_s=first["ready_after_s"] + day % 5 + slower_s * (day >= days[0]),
            ready_by_s=first["ready_by_s"] + day % 5 + slower_s * (day >= days[0]),
        )
        for day in range(sum(days))
    ]
    launches = pd.concat(rounds, ignore_index=True)
    data = replace(data, launches=launches)
    distributions = launch_times(launches, Stage.READY, resamples=20)
    checks = self_check(data, distributions, Stage.READY).set_index("check")
    return checks.loc["releases of images"]


def test_a_release_that_made_launches_slower_is_named(clean):
    same, slower = (with_releases(clean, slower_s=each) for each in (0.0, 9.0))

    assert not same["warns"]
    assert slower["warns"]
    assert "several releases at 2 of 2 targets" in slower["found"]
    assert "the least p-value (Holm) is 0.016, of t3.nano in sa-east-1" in slower["found"]


def test_the_runs_of_more_than_ten_rounds_are_told_apart_by_their_release():
    """Sorted as text round 10 comes before round 2; 100 s and 200 s are then mixed."""
    day = pd.Timedelta(days=1)
    runs = [
        run_rows(
            [200.0 if k >= 6 else 100.0] * 2,
            number=k,
            image="ami-b" if k >= 6 else "ami-a",
            sent_at=pd.Timestamp("2024-09-01", tz="UTC") + k * day,
        )
        for k in range(12)
    ]
    launches = name_runs(table_of(*runs))
    [times] = launch_times(launches, Stage.READY, resamples=9).values()

    first, second = _daily_scores(launches, times, 600.0)

    assert first == pytest.approx([98.5] * 6)
    assert second == pytest.approx([198.5] * 6)


def test_whether_a_release_mattered_is_undefined_without_a_second_one_or_with_few_days(clean):
    one, few = checked(clean), with_releases(clean, slower_s=9.0, days=(8, 1))
    many_runs = with_releases(clean, slower_s=9.0, days=(8, 8), a_day=4)  # of two days each

    assert one.loc["releases of images", "found"].startswith("undefined: one release only")
    assert few["found"].endswith("undefined: too few days to tell whether one mattered")
    assert many_runs["found"] == few["found"]
    assert not few["warns"]


def test_days_are_exchanged_between_releases_exactly():
    """Of two releases of 4 and 3 days, the most unlike split of 35; the other is as unlike."""
    p_value = release_p_value([np.array([1.0, 2, 3, 4]), np.array([9.0, 10, 11])])
    even = release_p_value([np.array([1.0, 2, 3, 4]), np.array([9.0, 10, 11, 12])])

    assert p_value == pytest.approx(1 / 35)
    assert even == pytest.approx(2 / 70)
    assert np.isnan(release_p_value([np.array([1.0, 2]), np.array([9.0, 10])]))


def test_days_without_a_change_are_named_as_often_as_the_level_says():
    rng = np.random.default_rng(1)
    p_values = [release_p_value(np.split(rng.gamma(2.0, size=8), [4])) for _ in range(200)]

    assert 0.01 < np.mean(np.array(p_values) <= 0.05) < 0.09


def test_versions_and_prices_that_changed_are_counted(clean):
    other = clean.batches.assign(batch_id="other", spotlib_version="9", python_version=None)
    batches = pd.concat([clean.batches, other])
    prices = np.where(clean.launches["target"] == str(NANO), np.arange(24) % 2 + 1.0, np.nan)
    data = replace(clean, batches=batches, launches=clean.launches.assign(price_usd=prices))

    before, after = (self_check(e, {}, Stage.READY).set_index("check") for e in (clean, data))

    assert not before.loc["versions of programs", "warns"]
    assert "1 of spotlib, 1 of python, 1 of botocore" in before.loc["versions of programs", "found"]
    assert after.loc["versions of programs", "warns"]
    assert "2 of spotlib, 1 of python (not in 1 log)" in after.loc["versions of programs", "found"]
    assert "changed at 1 of 1 target" in after.loc["spot prices", "found"]
    assert after.loc["spot prices", "found"].endswith("at most 2.00 times")


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


def test_without_an_answered_poll_it_is_undefined_how_long_one_takes(clean):
    checks = checked(clean, polls=clean.polls.assign(error="Timeout"))

    assert checks.loc["moment of reading", "found"] == "undefined: no poll was answered"
    assert not checks.loc["moment of reading", "warns"]

"""Comparisons between targets, and what selected them."""

import tracemalloc
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from studies import Truth, simulate

from spotlib.analyze.compare import compare_targets, exchange_p_values, holm, runs_needed
from spotlib.analyze.comparison_sentences import comparison_sentences, selector_sentence
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.selectors import associations, target_features, target_outcomes
from spotlib.model import Stage

A, B = "t3.nano in sa-east-1", "t3.small in sa-east-1"


def distributions_of(*studies, resamples=199):
    return launch_times(pd.concat(studies), Stage.READY, resamples=resamples)


def two(*, slower=1.5, runs=12, seed=1):
    rng = np.random.default_rng(seed)
    first = simulate(Truth(median_s=20.0), runs=runs, count=5, rng=rng, target=A)
    second = simulate(Truth(median_s=20.0 * slower), runs=runs, count=5, rng=rng, target=B)
    return first, second


def compared(distributions):
    [row] = compare_targets(distributions, horizon_s=300.0).to_dict("records")
    return row


def p_value_of(differences):
    [p_value] = exchange_p_values(np.array(differences, dtype=np.float64)[:, None])
    return p_value


def test_a_target_that_is_twice_as_slow_is_found_so():
    distributions = distributions_of(*two(slower=2.0, seed=3))
    row = compared(distributions)
    pairs = compare_targets(distributions, horizon_s=300.0)
    differ, largest, needed = comparison_sentences(pairs, drawn=1)

    assert row["rounds"] == 12
    assert row["ratio_low_adjusted"] < 0.5 < row["ratio_high_adjusted"] < 1
    assert row["p_value"] < 0.01
    assert row["more_runs"] > 12  # 72 runs for 10 % at this scatter, by the formula
    assert row["why"] == ""
    assert "(p below 0.05, adjusted for the number of pairs by Holm's method): 1 of 1." in differ
    assert largest == (
        f"Largest ratio of medians: {B} over {A}, {1 / row['ratio']:.2f} "
        f"({1 / row['ratio_high_adjusted']:.2f} to {1 / row['ratio_low_adjusted']:.2f})."
    )
    assert needed.startswith("0 of 1 ratios are known within 10 %; each needs up to")


@pytest.mark.parametrize(
    ("runs", "never", "words"),
    [
        (3, 0.0, "there are too few runs (at least 6 are needed)."),
        (12, 0.9, "too few medians were reached."),
    ],
)
def test_why_it_is_not_known_how_many_runs_a_ratio_needs(runs, never, words):
    rng = np.random.default_rng(1)
    targets = [
        simulate(Truth(never=never), runs=runs, count=5, rng=rng, target=name) for name in (A, B)
    ]
    pairs = compare_targets(distributions_of(*targets), horizon_s=300.0)

    said = list(comparison_sentences(pairs, drawn=0))[-1]

    assert said == f"How many runs a ratio needs is not known: {words}"


def test_false_alarms_are_about_as_frequent_as_p_says():
    found = [
        compared(distributions_of(*two(slower=1.0, runs=8, seed=s), resamples=20))
        for s in range(60)
    ]
    false_alarms = sum(row["p_value"] < 0.05 for row in found)

    assert false_alarms <= stats.binom.ppf(0.999, 60, 0.05)


def test_shared_rounds_are_resampled_together():
    """Of a twin only what the brackets leave open is left."""
    first, _ = two()
    twin = first.assign(target=B, run=first["run"].str.replace(A, B))
    distributions = distributions_of(first, twin)
    row = compared(distributions)
    low_s, high_s = distributions[A].observed.left_open(0.5)

    assert row["ratio"] == 1.0
    assert row["ratio_low_adjusted"] == pytest.approx(low_s / high_s)
    assert row["ratio_high_adjusted"] == pytest.approx(high_s / low_s)
    assert row["p_value"] == 1.0


def test_where_the_brackets_leave_a_ratio_open_more_runs_are_no_help():
    times_s = np.full(40, 4.0)
    rows = pd.DataFrame({"ready_after_s": times_s - 2, "ready_by_s": times_s + 1}).assign(
        outcome="ready", kind=None, watched_s=times_s - 2
    )
    rows["run"] = [f"batch/{number}/0" for number in range(len(rows))]
    pairs = compare_targets(
        distributions_of(rows.assign(target=A), rows.assign(target=B)), horizon_s=300.0
    )
    [row] = pairs.to_dict("records")

    assert row["ratio_low_adjusted"] == pytest.approx(2 / 5)
    assert row["ratio_high_adjusted"] == pytest.approx(5 / 2)
    assert np.isnan(row["more_runs"])
    *_, needed = comparison_sentences(pairs, drawn=0)
    assert needed == (
        "How many runs a ratio needs is not known: more runs do not help where brackets are too "
        "wide: poll more often."
    )


def test_targets_never_launched_in_the_same_round_are_not_tested():
    first, second = two()
    apart = second.assign(run=second["run"].str.replace("abcdef", "other"))
    row = compared(distributions_of(first, apart))

    assert row["rounds"] == 0
    assert np.isnan(row["p_value"])
    assert row["why"] == "never launched in the same round: target and time cannot be separated"
    assert np.isfinite(row["ratio"])


def test_with_few_runs_there_is_a_ratio_and_no_interval():
    row = compared(distributions_of(*two(runs=4)))

    assert np.isfinite(row["ratio"])
    assert np.isnan(row["ratio_low_adjusted"])
    assert np.isnan(row["more_runs"])
    assert row["why"].startswith("no interval: 4 runs")


def test_a_single_target_has_no_pair():
    assert compare_targets(distributions_of(two()[0]), horizon_s=300.0).empty


def test_where_one_median_was_not_reached_there_is_no_ratio_but_a_bound_and_the_reason():
    rng = np.random.default_rng(1)
    first = simulate(Truth(median_s=20.0), runs=12, count=5, rng=rng, target=A)
    second = simulate(Truth(median_s=20.0, never=0.95), runs=12, count=5, rng=rng, target=B)
    row = compared(distributions_of(first, second))

    assert np.isnan(row["ratio"])
    assert row["ratio_high_adjusted"] < 1
    assert row["why"] == f"no ratio: half of {B} not reached while watched"
    assert row["p_value"] < 0.01


def test_where_neither_median_was_reached_the_ratio_is_not_known():
    rng = np.random.default_rng(1)
    rare = [simulate(Truth(never=0.9), runs=8, count=4, rng=rng, target=name) for name in (A, B)]
    row = compared(distributions_of(*rare))

    assert np.isnan(row["ratio"])
    assert np.isfinite(row["difference"])


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        *(([1.0, 2.0, 3.0], 2 / 8), ([1.0, -1.0], 1.0), ([5.0] * 6, 2 / 64), ([0.0, 0.0], 1.0)),
        *(([7.0], 1.0), ([1.0] * 12, 2 / 4096)),
    ],
)
def test_up_to_twelve_rounds_the_p_value_is_exact(differences, expected):
    assert p_value_of(differences) == expected


def test_beyond_twelve_rounds_it_is_near_the_exact_p_value():
    differences = np.random.default_rng(4).normal(0.4, 1.0, 13)
    signs = np.array(list(product((1.0, -1.0), repeat=13)))
    exact = np.mean(abs(signs @ differences) >= abs(differences.sum()) - 1e-9)

    p_value = p_value_of(differences)

    assert p_value == pytest.approx(exact, abs=0.003)


def test_thousands_of_pairs_have_the_p_values_of_each_alone_in_bounded_memory():
    paired = np.random.default_rng(3).normal(0.1, 1.0, (20, 2000))
    tracemalloc.start()
    together = exchange_p_values(paired)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert together[::500].tolist() == [
        exchange_p_values(paired[:, [k]])[0] for k in (0, 500, 1000, 1500)
    ]
    assert peak < 100e6


def test_without_a_round_there_is_no_p_value():
    assert np.isnan(p_value_of([]))


def test_holm_as_in_his_own_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1) | st.just(np.nan), max_size=12))
def test_holm_never_lowers_a_p_value_or_changes_their_order(p_values):
    adjusted = holm(p_values)
    known = ~np.isnan(np.array(p_values, dtype=float))
    raw, new = np.array(p_values, dtype=float)[known], adjusted[known]

    assert np.isnan(adjusted[~known]).all()
    assert (new >= raw).all()
    assert (new <= 1).all()
    assert (np.diff(new[np.argsort(raw, kind="stable")]) >= 0).all()


@settings(deadline=None)
@given(st.floats(0.02, 0.3), st.integers(6, 60))
def test_runs_needed_grow_with_the_square_of_the_scatter(error, runs):
    resampled = np.exp(error * stats.norm.ppf((np.arange(999) + 0.5) / 999))
    here = runs_needed(resampled, runs=runs, precision=0.1)

    assert here == pytest.approx(runs * (1.96 * error / np.log(1.1)) ** 2, rel=0.02, abs=1.0)


def test_runs_needed_are_unknown_where_the_scatter_is():
    assert np.isnan(runs_needed(np.array([1.0, np.inf]), runs=12, precision=0.1))
    assert np.isnan(runs_needed(np.array([1.0, 1.1]), runs=5, precision=0.1))


class TestSelectors:
    def table(self, targets, seed=0):
        rng = np.random.default_rng(seed)
        names = [f"t{number}" for number in range(targets)]
        features = pd.DataFrame({"sps": rng.normal(size=targets), "same": 1.0}, index=names)
        outcomes = pd.DataFrame({"spread_s": features["sps"] ** 3}, index=names)
        return associations(features, outcomes).set_index("feature")

    def test_a_monotone_relation_is_one_whatever_its_shape(self):
        row = self.table(10).loc["sps"]

        assert row["rho"] == pytest.approx(1.0)
        assert row["low"] > 0.9

    def test_what_does_not_vary_is_undefined_and_says_so(self):
        row = self.table(10).loc["same"]

        assert np.isnan(row["rho"])
        assert row["why"] == "same is the same for all targets"

    def test_with_few_targets_nothing_is_known(self):
        table = self.table(3).reset_index()

        assert table["rho"].isna().all()
        assert selector_sentence(table) == (
            "Nothing can be said of selectors: 3 targets, at least 6 are needed."
        )

    def test_the_strongest_feature_is_named_with_a_caution(self):
        words = selector_sentence(self.table(10).reset_index())

        assert words.startswith("Over 10 targets spread_s correlates most with sps: rank")
        assert "the strongest of 1 feature: confirm it on other targets" in words

    def test_of_features_that_correlate_alike_none_is_singled_out(self):
        table = self.table(10).reset_index()
        twin = table[table["feature"] == "sps"].assign(feature="sps_cov (pooled)")

        words = selector_sentence(pd.concat([table, twin]))

        assert "correlates most with sps and sps_cov (pooled): rank" in words

    def test_the_interval_covers_a_known_correlation(self):
        rng = np.random.default_rng(8)
        covered = 0
        true = 6 / np.pi * np.arcsin(0.6 / 2)  # Spearman's for a normal pair of 0.6
        for _ in range(200):
            pair = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20)
            table = pd.DataFrame(pair, columns=["x", "y"])
            [row] = associations(table[["x"]], table[["y"]]).to_dict("records")
            covered += row["low"] <= true <= row["high"]

        assert stats.binom.ppf(0.001, 200, 0.94) <= covered

    def test_features_come_from_the_launches_and_from_each_form_of_selection(self):
        launches = pd.DataFrame(
            {
                "target": [A, A],
                "sent_at": pd.to_datetime(["2024-09-01T06:00Z", "2024-09-01T09:00Z"]),
                "sps": [3, 2],
                "t3": pd.array([20, None], dtype="Int64"),
                "if_score": [np.nan, np.nan],
                "price_usd": [0.002, 0.004],
            }
        )
        chosen = pd.DataFrame(
            {"instance_type": ["t3.nano"], "region": ["sa-east-1"], "form": ["pooled"]}
        ).assign(score=0.2, sps_cov=0.4)

        row = target_features(launches, [chosen, chosen.assign(form="within", sps_cov=0.1)]).loc[A]

        assert row["hour"] == 7.5
        assert (row["sps"], row["t3"]) == (2.5, 20)
        assert np.isnan(row["if_score"])
        assert (row["sps_cov (pooled)"], row["sps_cov (within)"]) == (0.4, 0.1)

    def test_one_selection_file_has_the_covs_of_both_forms(self):
        launches = pd.DataFrame(
            {"target": [A], "sent_at": pd.to_datetime(["2024-09-01T06:00Z"])}
        ).assign(sps=3, t3=np.nan, if_score=np.nan, price_usd=0.002)
        chosen = pd.DataFrame(
            {"instance_type": ["t3.nano"], "region": ["sa-east-1"], "form": ["pooled"]}
        ).assign(score=0.2, sps_cov=0.4, sps_cov_within=0.1)

        row = target_features(launches, [chosen]).loc[A]

        assert (row["sps_cov (pooled)"], row["sps_cov (within)"]) == (0.4, 0.1)

    def test_outcomes_are_of_the_target_and_between_its_runs(self):
        table = target_outcomes(distributions_of(*two()), horizon_s=300.0)

        assert table.loc[A, "share"] == pytest.approx(1.0)
        assert 15 < table.loc[A, "median_s"] < 27
        assert table.loc[A, "spread_s"] > 2

"""Each interval equals an independent calculation on small data: by hand, or by scipy."""

import numpy as np
import pytest
from scipy import stats

from spotlib.analyze.intervals import (
    FEWEST_RUNS,
    run_level_interval,
    share_interval,
    studentized,
)

INF = np.inf
EIGHT_MEANS_S = np.array([20.0, 21.5, 19.0, 48.0, 22.0, 20.5, 25.0, 30.0])


def shares_around(share, variance, *, runs):
    """Return resampled shares whose variance, corrected for the number of runs, is this one."""
    off = np.sqrt(variance * (runs - 1) / runs)
    return np.array([share - off, share + off])


def test_the_percentiles_are_moved_outwards_as_by_hand():
    """Hesterberg: t(0.975, 7) = 2.3646, times sqrt(8 / 7) is 2.5279, and Phi(-2.5279) = 0.00574.

    So the ends are the 6th and the 995th of 1,000 values in order.
    """
    estimate = run_level_interval(500.0, np.arange(1.0, 1001.0), runs=8)

    assert (estimate.low, estimate.high) == (6.0, 995.0)


def test_with_many_runs_they_are_the_plain_percentiles():
    estimate = run_level_interval(500.0, np.arange(1.0, 10_001.0), runs=1_000_000)

    assert (estimate.low, estimate.high) == (250.0, 9751.0)


def test_an_end_that_was_not_reached_is_infinite_above_and_unknown_below():
    resampled = np.append(np.full(90, 40.0), np.full(10, INF))

    assert run_level_interval(40.0, resampled, runs=20).high == INF
    assert np.isnan(run_level_interval(INF, np.full(100, INF), runs=20).low)


def test_one_resample_without_a_value_leaves_no_interval():
    estimate = run_level_interval(40.0, np.append(np.full(99, 40.0), np.nan), runs=20)

    assert np.isnan([estimate.low, estimate.high]).all()
    assert "not every resample" in estimate.why


@pytest.mark.parametrize("runs", [FEWEST_RUNS - 1, FEWEST_RUNS])
def test_an_interval_begins_at_six_runs(runs):
    few = runs < 6
    resampled = np.linspace(0.4, 0.6, 50)

    assert np.isnan(run_level_interval(0.5, resampled, runs=runs).low) == few
    assert np.isnan(share_interval(0.5, resampled, runs=runs, requests=30).low) == few


def test_the_mean_has_the_bootstrap_t_interval_of_the_textbook():
    """Efron's recipe, resample by resample, with the usual standard error of a mean."""
    rng = np.random.default_rng(7)
    drawn = rng.integers(0, 8, size=(400, 8))
    counted = np.array([np.bincount(each, minlength=8) for each in drawn])
    mean, error = EIGHT_MEANS_S.mean(), stats.sem(EIGHT_MEANS_S)
    off = [(EIGHT_MEANS_S[each].mean() - mean) / stats.sem(EIGHT_MEANS_S[each]) for each in drawn]
    expected = mean - np.quantile(off, [0.975, 0.025]) * error

    estimate = studentized(mean, counted @ EIGHT_MEANS_S / 8, scores=EIGHT_MEANS_S, draws=counted)

    assert [estimate.low, estimate.high] == pytest.approx(expected)


def test_a_mean_of_times_is_never_below_zero():
    scores = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 400.0])
    drawn = np.random.default_rng(3).integers(0, 6, size=(2000, 6))
    drawn = drawn[[len(set(scores[each])) > 1 for each in drawn]]
    counted = np.array([np.bincount(each, minlength=6) for each in drawn])

    estimate = studentized(scores.mean(), counted @ scores / 6, scores=scores, draws=counted)

    assert estimate.low >= 0.0


def test_where_a_resample_repeats_one_run_the_percentiles_serve():
    counted = np.vstack([np.full((99, 8), 1), [8, 0, 0, 0, 0, 0, 0, 0]])
    resampled = counted @ EIGHT_MEANS_S / 8

    estimate = studentized(EIGHT_MEANS_S.mean(), resampled, scores=EIGHT_MEANS_S, draws=counted)

    assert estimate == run_level_interval(EIGHT_MEANS_S.mean(), resampled, runs=8)


@pytest.mark.parametrize(("ready", "size"), [(12, 40), (1, 25), (30, 60)])
def test_a_share_has_the_wilson_interval_of_scipy_at_its_effective_size(ready, size):
    """Student's t makes the size smaller, so the resamples are made for one larger by as much."""
    runs, share = 10, ready / size
    larger = size * (stats.t.ppf(0.975, runs - 1) / stats.norm.ppf(0.975)) ** 2
    resampled = shares_around(share, share * (1 - share) / larger, runs=runs)
    expected = stats.binomtest(ready, size).proportion_ci(0.95, method="wilson")

    estimate = share_interval(share, resampled, runs=runs, requests=1000)

    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_resamples_that_all_agree_count_as_many_as_there_are_runs():
    """At a share of 1 the lower end of Wilson's interval is size / (size + z^2).

    Ten runs: size = 10 (1.96 / 2.2622)^2 = 7.507, so the lower end is 7.507 / (7.507 + 3.8415).
    """
    estimate = share_interval(1.0, np.ones(50), runs=10, requests=50)

    assert estimate.low == pytest.approx(0.6615, abs=1e-4)
    assert estimate.high == 1.0


def test_a_share_never_counts_more_than_its_requests():
    nearly_sure = shares_around(0.5, 1e-7, runs=10)

    few = share_interval(0.5, nearly_sure, runs=10, requests=20)
    size = 20 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 9)) ** 2
    z = stats.norm.ppf(0.975)
    half = np.sqrt(z**2 / (4 * (size + z**2)))  # Wilson's half-width at a share of one half

    assert (few.low, few.high) == pytest.approx((0.5 - half, 0.5 + half))

"""Each interval equals an independent calculation on small data: by hand, or by scipy."""

from math import asin, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spotlib.analyze.intervals import (
    FEWEST_RUNS,
    Estimate,
    ShareLimits,
    _between,
    run_level_interval,
    studentized,
)

INF = np.inf
EIGHT_MEANS_S = np.array([20.0, 21.5, 19.0, 48.0, 22.0, 20.5, 25.0, 30.0])


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


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(21.34, 19.8, 23.06), "21.3 s (19.8 to 23.1)"),
        (Estimate(21.34, 19.8, INF), "21.3 s (19.8 or more)"),
        (Estimate(21.34, np.nan, np.nan, "1 run"), "21.3 s (no interval: 1 run)"),
        (Estimate(np.nan, np.nan, np.nan, "1 run"), "not reached while watched"),
    ],
)
def test_an_estimate_is_said_with_its_interval_or_why_there_is_none(estimate, words):
    assert estimate.words() == words
    assert estimate.words("") == words.replace(" s (", " (")
    assert estimate.words(digits=0) == (
        words.replace("21.3", "21").replace("19.8", "20").replace("23.1", "23")
    )


@pytest.mark.parametrize(
    ("runs", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (FEWEST_RUNS - 1, "5 runs")]
)
def test_too_few_runs_are_said_to_be_so_many(runs, said):
    why = f"{said}, at least 6 are needed"
    scores = np.arange(1.0, runs + 1)
    limits = ShareLimits.of(np.array([0.5]), np.full((9, 1), 0.5), runs=runs, requests=9)

    assert run_level_interval(2.0, np.full(9, 2.0), runs=runs).why == why
    assert studentized(2.0, np.full(9, 2.0), scores=scores, draws=np.ones((9, runs))).why == why
    assert (limits.why, limits.interval(0.5).why) == (why, why)


def test_another_level_moves_the_percentiles_by_its_own_t():
    """t(0.95, 7) = 1.8946, times sqrt(8 / 7) is 2.0254, and Phi(-2.0254) = 0.02141."""
    estimate = run_level_interval(500.0, np.arange(1.0, 1001.0), runs=8, level=0.9)

    assert (estimate.low, estimate.high) == (22.0, 979.0)


def test_what_is_not_known_has_no_interval_either():
    assert run_level_interval(40.0, np.array([]), runs=20).why == "not every resample has a value"
    assert np.isnan(run_level_interval(INF, np.full(9, 40.0), runs=20).value)
    draws = np.eye(8)[:, ::-1] + 1
    lost = np.append(np.full(7, 40.0), np.nan)
    for value, resampled in ((np.nan, np.full(8, 40.0)), (40.0, lost)):
        estimate = studentized(value, resampled, scores=EIGHT_MEANS_S, draws=draws)
        assert estimate.words() == run_level_interval(value, resampled, runs=8).words()


def test_a_share_at_a_time_that_was_not_watched_is_said_to_be_so():
    limits = ShareLimits(20, np.array([0.0, 1.0]), np.array([40.0, 40.0]), beyond=2.5)

    assert limits.interval(np.nan).why == "not watched so long"
    assert limits.interval(0.5).why == ""


@pytest.mark.parametrize("runs", [FEWEST_RUNS - 1, FEWEST_RUNS])
def test_an_interval_begins_at_six_runs(runs):
    few = runs < 6
    resampled = np.linspace(0.4, 0.6, 50)
    limits = ShareLimits.of(np.array([0.5]), resampled[:, None], runs=runs, requests=30)

    assert np.isnan(run_level_interval(0.5, resampled, runs=runs).low) == few
    assert np.isnan(limits.interval(0.5).low) == few
    assert bool(limits.interval(0.5).why) == few


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

    assert estimate.low == 0.0


def test_where_a_resample_repeats_one_run_the_percentiles_serve():
    counted = np.vstack([np.full((99, 8), 1), [8, 0, 0, 0, 0, 0, 0, 0]])
    resampled = counted @ EIGHT_MEANS_S / 8

    estimate = studentized(EIGHT_MEANS_S.mean(), resampled, scores=EIGHT_MEANS_S, draws=counted)

    assert estimate == run_level_interval(EIGHT_MEANS_S.mean(), resampled, runs=8)


def test_a_standard_error_that_rounding_makes_less_than_none_is_none():
    """Seven times 0.1 squared, over 7, is less than 7 times 0.1, over 7, squared."""
    scores = np.array([0.1, 0.4, 0.5, 0.7, 0.8, 0.9, 1.1])
    counted = np.vstack([np.full((99, 7), 1), [7, 0, 0, 0, 0, 0, 0]])
    resampled = counted @ scores / 7
    assert counted[-1] @ scores**2 / 7 < resampled[-1] ** 2

    estimate = studentized(scores.mean(), resampled, scores=scores, draws=counted)

    assert estimate == run_level_interval(scores.mean(), resampled, runs=7)


def jeffreys_area(low, high, *, ready, size):
    """The share of Jeffreys' posterior of a share below ``low`` and above ``high``.

    With share = sin(angle)^2 his prior is even over the angles, so this needs no beta function.
    """
    angles = np.linspace(0.0, np.pi / 2, 400_001)
    weight = np.sin(angles) ** (2 * ready) * np.cos(angles) ** (2 * (size - ready))
    below, above = np.sin(angles) ** 2 < low, np.sin(angles) ** 2 > high
    return [weight[part].sum() / weight.sum() for part in (below, above)]


@pytest.mark.parametrize("place", range(1, 5))
def test_the_limits_of_a_share_leave_a_fortieth_of_jeffreys_posterior_on_each_side(place):
    """At the size less Student's t: for 10 runs (1.95996 / 2.10092)^2 = 0.870315 of it.

    2.10092 is the table's entry for 18 degrees of freedom, twice as many as there are between runs.
    """
    shares = np.array([0.0, 0.3, 0.4, 0.5, 0.6, 1.0])
    sizes = np.array([60.0, 55.0, 44.0, 30.0, 60.0, 80.0])
    limits = ShareLimits(10, shares, sizes, beyond=2.5)
    size, share = 0.870315 * sizes[place], shares[place]

    [low], [high] = limits.pointwise(shares[[place]])
    curve_low, curve_high = (float(each) for each in limits.whole_curve(share))

    assert jeffreys_area(low, high, ready=share * size, size=size) == pytest.approx(
        [0.025, 0.025], abs=2e-4
    )
    assert jeffreys_area(curve_low, curve_high, ready=share * size, size=size) == pytest.approx(
        [0.0062097, 0.0062097],
        abs=5e-5,  # the area beyond 2.5 standard errors of a normal number
    )


def test_what_was_never_or_always_seen_is_limited_on_one_side():
    limits = ShareLimits(20, np.array([0.0, 1.0]), np.array([40.0, 40.0]), beyond=2.5)
    (low, above), (below, high) = limits.pointwise(np.array([0.0, 1.0]))

    assert (low, high) == (0.0, 1.0)
    assert below == pytest.approx(1 - above)
    # Each of the 20 runs is one request; (1.95996 / 2.02439)^2 of it: 38 degrees of freedom.
    assert jeffreys_area(-1.0, below, ready=0.0, size=18.747)[1] == pytest.approx(0.025, abs=2e-4)


@pytest.mark.parametrize(("level", "part"), [(0.99, 0.748725), (0.9, 0.872134)])
def test_another_level_leaves_its_own_area_on_each_side(level, part):
    """8 runs have 14 degrees of freedom: for 0.99 it is (2.57583 / 2.97684)^2 of the size.

    For 0.9 it is (1.64485 / 1.76131)^2 of it.
    """
    limits = ShareLimits(8, np.array([0.0, 0.4, 1.0]), np.array([9.0, 50.0, 9.0]), beyond=2.5)
    estimate = limits.interval(0.4, level=level)
    size = 50 * part

    assert jeffreys_area(estimate.low, estimate.high, ready=0.4 * size, size=size) == pytest.approx(
        [(1 - level) / 2] * 2, abs=1e-4
    )


def test_the_effective_size_is_the_design_effect_drawn_towards_the_runs():
    """Ten runs of 5 at the shares 0, 0.5 and 0.8, with the variances 0, 0.0125 and 0.01.

    With a tenth of a run, 0.1 / 10 = 0.01, whose requests are alike, they count 0.01 / 0.001 = 10,
    (0.25 + 0.01) / (0.0125 + 0.001) = 19.259 and (0.16 + 0.01) / (0.01 + 0.001) = 15.455.
    """
    shares = np.array([0.0, 0.5, 0.8])
    off = np.sqrt(np.array([0.0, 0.0125, 0.01]) * 9 / 10)  # resamples vary by 9 / 10 of it

    limits = ShareLimits.of(shares, np.array([shares - off, shares + off]), runs=10, requests=50)

    assert limits.sizes == pytest.approx([10.0, 19.259, 15.455], abs=1e-3)


def test_if_nothing_varies_the_size_is_the_requests_but_the_runs_where_all_ended_alike():
    shares = np.linspace(0.0, 1.0, 5)

    limits = ShareLimits.of(shares, np.tile(shares, (9, 1)), runs=10, requests=50)

    assert limits.sizes == pytest.approx([10, 50, 50, 50, 10])


@pytest.mark.parametrize("share", [0.98, 0.995])
def test_no_lower_limit_is_above_that_of_runs_that_all_ended_alike(share):
    """Eight runs of 50 that were all ready tell as much as eight requests."""
    shares = np.array([0.5, share, 1.0])
    limits = ShareLimits.of(shares, np.tile(shares, (9, 1)), runs=8, requests=400)
    [low, all_low], _ = limits.pointwise(shares[1:])

    assert low == all_low == pytest.approx(0.696, abs=1e-3)
    curve_low, _ = limits.whole_curve(shares[1:])
    assert (curve_low <= low + 1e-12).all()


def test_the_band_reaches_as_far_as_95_of_100_resampled_curves():
    """Each on the scale of arcsin(sqrt(share)), in standard errors, one curve after another.

    Resamples of 12 runs vary by 11 / 12 of the variance between runs, so each is further away.
    """
    rng = np.random.default_rng(4)
    shares = np.array([0.0, 0.1, 0.4, 0.7])
    resampled = np.sort((shares + 0.09 * rng.standard_normal((101, 4))).clip(0.0, 1.0), axis=1)
    limits = ShareLimits.of(shares, resampled, runs=12, requests=48)

    furthest = []
    for curve in resampled:
        pairs = zip(curve, shares, limits.sizes, strict=True)
        off = [(asin(sqrt(a)) - asin(sqrt(b))) / (0.5 / sqrt(size)) for a, b, size in pairs]
        furthest.append(max(map(abs, off)))

    assert limits.beyond == pytest.approx(sorted(furthest)[95] * sqrt(12 / 11))
    assert limits.beyond > 2.0


def test_the_band_is_never_narrower_than_the_pointwise_one():
    shares = np.linspace(0.0, 0.9, 10)
    still = ShareLimits.of(shares, np.tile(shares, (50, 1)), runs=12, requests=60)

    assert still.beyond == pytest.approx(1.95996, abs=1e-5)
    assert np.allclose(still.whole_curve(shares), still.pointwise(shares))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 40), st.integers(1, 20), st.floats(0.0, 1.0))
def test_limits_never_fall_and_lie_within_those_of_the_whole_curve(seed, runs, count, alike):
    """Whatever the runs are: instances from all alike to independent, one run out of line."""
    rng = np.random.default_rng(seed)
    own, shared = rng.random((runs, count)), rng.random((runs, 1))
    times = np.where(rng.random((runs, count)) < alike, shared, own)
    times[0] = rng.random() * rng.random()
    places = np.sort(np.append(rng.random(15), 0.0))
    by_run = (times[:, :, None] <= places).mean(axis=1)
    draws = rng.multinomial(runs, np.full(runs, 1 / runs), size=60)
    shares = by_run.mean(axis=0)
    limits = ShareLimits.of(shares, draws @ by_run / runs, runs=runs, requests=runs * count)
    between = np.linspace(0.0, 1.0, 40)
    low, high = limits.pointwise(between)
    curve_low, curve_high = limits.whole_curve(between)

    for each in (low, high, curve_low, curve_high):
        assert (np.diff(each) >= 0).all()
    here = limits.pointwise(shares)
    assert (here[0] <= shares).all()
    assert (shares <= here[1]).all()
    assert (curve_low <= low + 1e-9).all()
    assert (high <= curve_high + 1e-9).all()


def test_limits_between_two_shares_do_not_fall_by_rounding_either():
    """A straight line to the next limit may end a little above it, as here."""
    knots, limits = np.array([0.01, 0.03]), np.array([0.001, 0.014])
    shares = np.array([np.nextafter(0.03, 0.0), 0.03])

    assert _between(shares, knots, limits).tolist() == [0.014, 0.014]


def test_of_limits_that_would_fall_the_further_counts():
    """A share that is known worse than the share a little later."""
    worse = ShareLimits(20, np.array([0.4, 0.41]), np.array([20.0, 400.0]), beyond=2.5)
    alone = [worse.sizes[[place]] for place in (0, 1)]
    apart = [
        ShareLimits(20, worse.shares[[place]], alone[place], beyond=2.5).pointwise(worse.shares)
        for place in (0, 1)
    ]

    first, second = apart[0][1][0], apart[1][1][0]
    assert first > second
    assert second < first
    assert worse.pointwise(worse.shares)[1].tolist() == [first, first]


def test_a_share_is_reached_between_the_places_where_the_limits_reach_it():
    shares = np.linspace(0.0, 0.9, 91)
    limits = ShareLimits(10, shares, np.full(91, 40.0), beyond=2.5)
    lowest, highest = limits.reaching(0.5)

    assert limits.pointwise(np.array(lowest))[1] == pytest.approx(0.5)
    assert limits.pointwise(np.array(highest))[0] == pytest.approx(0.5)
    assert lowest < 0.5 < highest
    assert limits.reaching(0.85)[1] == INF
    assert limits.reaching(0.999) == (INF, INF)

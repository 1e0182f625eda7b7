"""Turnbull's curve, what is read off it, and the lognormal fit."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scipy import stats
from studies import observed

from spotlib.analyze.turnbull import Curve, fit_lognormal, smoothed, turnbull, widened

INF = np.inf
REFERENCE = Path(__file__).with_name("lifelines_npmle.json")
QUICKLY = settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])


@st.composite
def lives(draw):
    """Brackets of all kinds: shown, still waiting, ended by EC2; times have one decimal."""
    requests = []
    for _ in range(draw(st.integers(1, 25))):
        after_s = draw(st.integers(0, 300)) / 10
        width_s = draw(st.integers(1, 60)) / 10
        kind = draw(st.sampled_from(["shown", "shown", "shown", "waiting", "never"]))
        by_s = after_s + width_s if kind == "shown" else INF
        requests.append((INF if kind == "never" else after_s, by_s))
    return observed(*zip(*requests, strict=True))


@pytest.mark.parametrize("case", json.loads(REFERENCE.read_text()))
def test_the_curve_agrees_with_lifelines(case):
    """What lifelines 0.30.3's ``fit_interval_censoring`` returned for the same brackets.

    Its EM stops within 1e-4: it says 0.65008 where the shares are exactly 0.65.
    """
    by_s = [INF if each is None else each for each in case["by_s"]]
    curve = turnbull(observed(case["after_s"], by_s))

    assert 1 - curve.share_by(case["time_s"]) == pytest.approx(case["waiting"], abs=1e-4)


def test_where_lifelines_is_installed_it_agrees_on_fresh_brackets():
    lifelines = pytest.importorskip("lifelines", reason="it needs pandas below 3")
    rng = np.random.default_rng(5)
    after_s = rng.uniform(0, 30, 40)
    by_s = np.where(rng.random(40) < 0.3, INF, after_s + rng.uniform(1, 6, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitter = lifelines.KaplanMeierFitter()
        table = fitter.fit_interval_censoring(after_s, by_s, tol=1e-9).survival_function_
    upper, lower = table.to_numpy().T
    sure = np.isclose(upper, lower) & np.isfinite(table.index.to_numpy())

    times_s = table.index.to_numpy()[sure]
    curve = turnbull(observed(after_s, by_s))

    assert 1 - curve.share_by(times_s) == pytest.approx(upper[sure], abs=1e-4)


@QUICKLY
@given(lives())
def test_no_other_curve_is_more_likely(seen):
    """The conditions for a maximum (Gentleman and Geyer 1994), which know nothing of EM."""
    curve = turnbull(seen)
    beyond = max(curve.after_s.max(), 1.0)
    after_s = np.where(np.isinf(seen.after_s), beyond, seen.after_s)
    holds = (after_s[:, None] <= curve.after_s) & (curve.by_s <= seen.by_s[:, None])
    chance = holds @ curve.mass
    gain = (holds / chance[:, None]).mean(axis=0)

    assert curve.mass.sum() == pytest.approx(1.0)
    assert gain.max() <= 1 + 1e-3
    assert gain[curve.mass > 1e-3] == pytest.approx(1.0, abs=1e-3)


@QUICKLY
@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), min_size=1, max_size=30))
def test_where_only_the_right_is_censored_it_is_scipys_kaplan_meier(requests):
    times_s, shown = np.array(requests, dtype=np.float64).T
    shown = shown.astype(bool)
    waiting = stats.CensoredData.right_censored(times_s, ~shown)
    reference = stats.ecdf(waiting).cdf
    # Exact times as brackets too narrow to matter; a tie of both is shown first, as everywhere.
    seen = observed(np.where(shown, times_s - 1e-6, times_s), np.where(shown, times_s, INF))

    curve = turnbull(seen)
    moments = np.unique(times_s)

    assert curve.share_by(moments) == pytest.approx(reference.evaluate(moments), abs=1e-5)


@QUICKLY
@given(st.lists(st.floats(0.1, 59.9), min_size=1, max_size=40))
def test_on_a_common_grid_of_polls_it_is_the_share_seen_at_each(times_s):
    steps = np.ceil(np.array(times_s) / 3.0)

    curve = turnbull(observed(3 * steps - 3, 3 * steps))
    polls = np.arange(0.0, 63.0, 3.0)

    assert curve.share_by(polls) == pytest.approx([(3 * steps <= t).mean() for t in polls])


@QUICKLY
@example(observed([30.0, 5.4, 30.0, 14.7], [30.1, 10.3, INF, INF]), 0.95)  # seen last at the end
@given(lives(), st.floats(0.05, 0.95))
def test_a_quantile_is_where_the_curve_gets_there(seen, share):
    curve = smoothed(turnbull(seen), 3.0)
    time_s = curve.quantile(share)

    if np.isinf(time_s):
        assert curve.mass[np.isfinite(curve.by_s)].sum() < share
    else:
        finite = curve.share_by(np.minimum([time_s, max(time_s - 0.01, 0)], curve.known_until_s))
        assert finite[0] >= share - 1e-4
        assert finite[1] <= share + 1e-4


@QUICKLY
@given(lives(), st.floats(0.5, 25.0))
def test_the_restricted_mean_is_the_area_above_the_curve(seen, horizon_s):
    curve = smoothed(turnbull(seen), 3.0)
    mean_s = float(curve.restricted_mean_s(horizon_s))

    if horizon_s > curve.known_until_s:
        assert np.isnan(mean_s)
    else:
        times_s = np.linspace(0, horizon_s, 20_001)
        area = np.trapezoid(1 - curve.share_by(times_s), times_s)
        assert mean_s == pytest.approx(area, abs=0.02)


def test_beyond_what_was_watched_nothing_is_known():
    curve = turnbull(observed([0, 10], [3, INF]))

    assert curve.share_by([3, 10, 10.1]) == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)
    assert np.isnan(curve.restricted_mean_s(11.0))
    assert curve.quantile(0.6) == INF


def test_a_request_that_ec2_ended_is_known_never_to_be_ready():
    curve = turnbull(observed([0, INF], [3, INF]))

    assert curve.share_by(1e6) == pytest.approx(0.5)
    assert curve.restricted_mean_s(100.0) == pytest.approx((1.5 + 100) / 2)


def test_an_end_of_ours_is_censored_and_its_weight_goes_to_later_times():
    curve = turnbull(observed([0, 5, 9], [3, INF, 12]))

    assert curve.share_by(12.0) == pytest.approx(1.0)
    assert curve.share_by(8.0) == pytest.approx(1 / 3)


def test_every_run_weighs_the_same_whatever_its_n():
    seen = observed([0, 0, 0, 50], [3, 3, 3, 53], run=[0, 0, 0, 1])

    assert turnbull(seen).share_by(10.0) == pytest.approx(0.5)


def test_smoothing_keeps_the_mean_and_never_begins_before_the_request():
    curve = Curve(np.array([0.0, 9.9]), np.array([0.4, 10.0]), np.array([0.5, 0.5]), INF)
    wide = smoothed(curve, 3.0)

    assert wide.after_s.min() >= 0
    assert wide.restricted_mean_s(60.0) == pytest.approx(curve.restricted_mean_s(60.0))


def test_stale_reads_widen_the_brackets_backwards_only():
    wide = widened(observed([4, 1, INF, 600], [7, 4, INF, INF]), 5.0)

    assert wide.after_s.tolist() == [0, 0, INF, 595]
    assert wide.by_s.tolist() == [7, 4, INF, INF]


@pytest.mark.parametrize("ends", [([3], [3]), ([4], [3]), ([np.nan], [3]), ([-1], [3])])
def test_an_impossible_bracket_is_refused(ends):
    with pytest.raises(ValueError, match="brackets need 0 <= after_s < by_s"):
        observed(*ends)


def test_no_request_at_all_is_refused():
    with pytest.raises(ValueError, match="there is no request"):
        observed([], [])


class TestLognormal:
    def brackets(self, rng, median_s, sigma, count, poll_s=3.0):
        times_s = median_s * np.exp(sigma * rng.standard_normal(count))
        phase_s = rng.uniform(0, poll_s, count)
        step = np.ceil((times_s - phase_s) / poll_s)
        after_s = np.maximum(phase_s + (step - 1) * poll_s, 0.0)
        return observed(after_s, phase_s + step * poll_s)

    @pytest.mark.parametrize(("median_s", "sigma"), [(20.0, 0.6), (2.0, 0.6), (250.0, 0.15)])
    def test_it_recovers_what_the_brackets_were_drawn_from(self, median_s, sigma):
        rng = np.random.default_rng(3)
        fits = [fit_lognormal(self.brackets(rng, median_s, sigma, 100)) for _ in range(20)]

        medians = np.array([fit.median_s for fit in fits])
        assert medians.mean() == pytest.approx(median_s, rel=4 * sigma / np.sqrt(2000) + 0.01)
        assert np.mean([fit.sigma for fit in fits]) == pytest.approx(sigma, rel=0.06)

    def test_the_never_ready_do_not_stretch_it(self):
        rng = np.random.default_rng(3)
        ready = self.brackets(rng, 20.0, 0.6, 300)
        seen = observed(
            np.append(ready.after_s, np.full(130, 600.0)), np.append(ready.by_s, np.full(130, INF))
        )

        assert fit_lognormal(seen).sigma == pytest.approx(0.6, rel=0.15)

    @pytest.mark.parametrize(
        ("after_s", "by_s"),
        [
            ([600.0] * 20, [INF] * 20),  # scipy returns a median of 798 s
            ([3.0] * 20, [6.0] * 20),  # and here a sigma of 0.015
            ([3.0, 6.0] * 10, [6.0, 9.0] * 10),
            ([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0]),
        ],
    )
    def test_what_cannot_be_fitted_is_refused_in_one_sentence(self, after_s, by_s):
        with pytest.raises(
            ValueError, match="at least 5 requests shown at the stage and 3 different"
        ):
            fit_lognormal(observed(after_s, by_s))

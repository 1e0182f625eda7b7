"""A forecast is a distribution: it sums to 1, rises with time, and is wider for a new target."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_rows import INF, drawn_training, run_rows, table_of
from scipy import stats

from spotlib.analyze.comparable import RUN
from spotlib.analyze.figures import Styles
from spotlib.figures import target_names
from spotlib.forecast.decide import (
    decision_words,
    decisions,
    forecast_targets,
    forecast_words,
    formatted_decisions,
    requests_needed,
    waiting_pays_until_s,
)
from spotlib.forecast.figures import forecast_figure
from spotlib.forecast.forecast import (
    Forecast,
    count_distribution,
    estimate_correlation,
    fit_forecaster,
    forecast_ready,
)
from spotlib.forecast.models import MODELS, Runs, time_blocks
from spotlib.forecast.training import request_table, training_table
from spotlib.model import Target

NANO = Target("t3.nano", "sa-east-1")
ELSEWHERE = Target("t3.nano", "eu-west-1")


def two_targets_launches(*, rounds=12):
    """One target is always ready, the other fails whole in two rounds of three."""
    good = [run_rows([200.0, 220.0], number=i) for i in range(rounds)]
    bad = [
        run_rows([INF, INF] if i % 3 else [200.0, 230.0], number=i, plan=1, region="eu-west-1")
        for i in range(rounds)
    ]
    return table_of(*good, *bad)


def two_targets():
    return training_table(two_targets_launches())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
    st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12),
    st.integers(1, 40),
)
def test_probabilities_sum_to_one_and_counts_rise_with_time(shares, correlation, n):
    share = np.sort(np.array(shares))
    chances = count_distribution(share, np.array(correlation)[: share.size], n=n)
    at_least = chances[:, ::-1].cumsum(axis=1)[:, ::-1]

    assert chances.shape == (share.size, n + 1)
    assert chances.min() > -1e-9
    assert chances.sum(axis=1) == pytest.approx(np.ones(share.size))
    assert (np.diff(at_least, axis=0) >= -1e-9).all()


def test_without_correlation_counts_are_binomial_and_with_it_wider():
    share = np.array([0.3])
    alone = count_distribution(share, np.array([0.0]), n=10)[0]
    together = count_distribution(share, np.array([0.9]), n=10)[0]

    assert alone == pytest.approx(stats.binom.pmf(np.arange(11), 10, 0.3), abs=1e-3)
    assert together[[0, 10]].sum() > 0.8
    assert together @ np.arange(11) == pytest.approx(3.0)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
@pytest.mark.parametrize(
    ("correlation", "used"), [(0.0, 1e-4), (0.3, 0.3), (0.999, 0.999), (1.0, 0.999)]
)
def test_counts_are_scipys_beta_binomial(n, correlation, used):
    shares = np.array([0.05, 0.3, 0.9])
    found = count_distribution(shares, np.full(3, correlation), n=n)
    spread = 1.0 / used - 1.0

    for share, chances in zip(shares, found, strict=True):
        exactly = stats.betabinom.pmf(np.arange(n + 1), n, share * spread, (1 - share) * spread)
        assert chances == pytest.approx(exactly, abs=1e-7)


def test_where_none_or_all_are_sure_to_be_ready_no_other_count_is_possible():
    found = count_distribution(np.array([0.0, 1.0]), np.array([0.0, 0.5]), n=3)

    assert found == pytest.approx(np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0]]), abs=1e-6)


def test_a_change_of_correlation_alone_takes_no_ready_count_back():
    """The chance of at least 2 of 2 falls with the correlation, so it keeps its first value."""
    first, second = count_distribution(np.array([0.5, 0.5]), np.array([0.8, 0.2]), n=2)

    assert first.tolist() == pytest.approx([0.45, 0.1, 0.45])
    assert second.tolist() == pytest.approx([0.3, 0.25, 0.45])


def test_the_correlation_is_that_of_the_formula_by_hand():
    """Of runs with n 2 and 4 at the shares 0.5 and 0.25, with the weights 1 and 2.

    The squared errors are 1 and 4; less the binomial variances 0.5 and 0.75 they are 0.5 and 3.25,
    7 in all with their weights.  At most they could be 0.5 and 2 * 4 * 3 * 0.1875 = 4.5.
    """
    ready, n = np.array([[2.0, 1.0], [3.0, 1.0]]), np.array([2, 4])
    share, weight = np.array([[0.5, 0.5], [0.25, 0.25]]), np.array([[1.0, 1.0], [2.0, 2.0]])

    assert estimate_correlation(ready, n, share=share, weight=weight).tolist() == [0.999, 0.0]
    two, half, one = np.array([[2.0]]), np.array([[0.5]]), np.ones((1, 1))  # 0.5 of at most 0.5
    assert estimate_correlation(two, np.array([2]), share=half, weight=one).tolist() == [0.999]
    less = np.array([[1.0], [0.0]])
    [found] = estimate_correlation(
        np.array([[2.0], [2.0]]), n, share=share[:, :1], weight=less + 2.0 - 2 * less
    )
    assert found == pytest.approx((0.5 + 2 * 0.25) / (0.5 + 4.5))


@pytest.mark.parametrize("truth", [0.0, 0.2, 0.6, 0.95])
def test_the_true_correlation_is_found(truth):
    rng = np.random.default_rng(2)
    n = rng.integers(2, 12, size=4000)
    share = rng.uniform(0.2, 0.8, size=4000)
    spread = 1.0 / max(truth, 1e-6) - 1.0
    ready = rng.binomial(n, rng.beta(share * spread, (1.0 - share) * spread))
    one = np.ones((4000, 1))

    [found] = estimate_correlation(ready[:, None], n, share=share[:, None], weight=one)

    assert found == pytest.approx(truth, abs=0.03)


def test_single_instances_have_no_correlation():
    one = np.ones((5, 1))

    assert estimate_correlation(one, np.ones(5), share=0.5 * one, weight=one) == [0.0]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_forecasts_a_whole_distribution(model):
    forecaster = fit_forecaster(drawn_training(), model=model)
    name = sorted(forecaster.targets)[0].split(" in ")
    forecast = forecast_ready(forecaster, Target(*name), n=7, features={"sps": 3})

    assert forecast.seen_target
    assert forecast.simulated
    assert forecast.probabilities.shape == (38, 8)
    assert forecast.probabilities.sum(axis=1) == pytest.approx(np.ones(38))
    assert (np.diff(forecast.expected) >= -1e-9).all()
    assert (np.diff(forecast.quantile(0.9)) >= 0).all()
    assert forecast.at_least(0) == pytest.approx(np.ones(38))


def test_targets_are_told_apart_and_an_unseen_one_lies_between():
    forecaster = fit_forecaster(two_targets(), model="target")
    by = {"n": 2, "times_s": [570.0]}
    good = forecast_ready(forecaster, NANO, **by).expected[0]
    bad = forecast_ready(forecaster, ELSEWHERE, **by).expected[0]
    unseen = forecast_ready(forecaster, Target("t3.nano", "us-east-1"), **by)

    assert bad < 1.2 < unseen.expected[0] < 1.6 < good
    assert not unseen.seen_target


def test_instances_that_fail_together_are_forecast_to_do_so():
    forecast = forecast_ready(fit_forecaster(two_targets(), model="target"), ELSEWHERE, n=2)

    assert forecast.probabilities[-1, 1] < 0.15  # none or both, hardly ever one


def test_more_requests_help_little_where_they_fail_together():
    forecaster = fit_forecaster(two_targets(), model="target")

    assert requests_needed(forecaster, NANO, k=2, by_s=400.0) in (2, 3)
    assert requests_needed(forecaster, ELSEWHERE, k=2, by_s=400.0) is None


def test_the_number_to_request_is_the_first_that_suffices_of_up_to_ten_times_as_many():
    """Each of two targets is ready in a share of its runs, so more requests help only so far."""
    rows = [
        run_rows([200.0 if i % 4 else INF, 220.0 if (i + plan) % 3 else INF], number=i, plan=plan)
        for i in range(24)
        for plan in range(2)
    ]
    forecaster = fit_forecaster(training_table(table_of(*rows)), model="global")
    for k in (1, 2):
        needed = requests_needed(forecaster, NANO, k=k, by_s=570.0)
        chances = [
            forecast_ready(forecaster, NANO, n=n, times_s=[570.0]).at_least(k)[0]
            for n in range(k, 10 * k + 1)
        ]
        enough = [
            n for n, chance in zip(range(k, 10 * k + 1), chances, strict=True) if chance >= 0.9
        ]
        assert needed == (enough or [None])[0]
        assert needed != k
    sure = fit_forecaster(two_targets(), model="target")
    shares = [forecast_ready(sure, NANO, n=n, times_s=[570.0]).at_least(2)[0] for n in range(2, 4)]
    assert requests_needed(sure, NANO, k=2, by_s=570.0) == (2 if shares[0] >= 0.9 else 3)


def test_decisions_say_what_to_request_of_each_target():
    requests = request_table(two_targets_launches())
    forecaster = fit_forecaster(two_targets(), model="target")
    table = decisions(forecaster, requests).set_index("target")
    forecasts = {str(each.target): each for each in forecast_targets(forecaster, requests)}

    assert table.index.tolist() == list(forecasts) == [str(ELSEWHERE), str(NANO)]
    assert (table["by_s"] == 570.0).all()
    assert table.loc[str(NANO), "to_request"] == requests_needed(forecaster, NANO, k=2, by_s=570.0)
    assert np.isnan(table.loc[str(ELSEWHERE), "to_request"])
    assert table["all_ready"].tolist() == [each.at_least(2)[-1] for each in forecasts.values()]
    assert table["ready_at_least"].tolist() == [0, 2]
    for target, k in table["ready_at_least"].items():
        at_least = [forecasts[target].at_least(each)[-1] for each in range(3)]
        assert at_least[k] >= 0.9 > max([0.0, *at_least[k + 1 :]])


def test_decisions_are_shown_and_said_in_plain_words():
    table = pd.DataFrame(
        {
            **{"target": ["a", "b", "c"], "n": 2, "by_s": 330.0, "all_ready": [0.904, 0.5, 0.0]},
            **{"to_request": [2.0, 7.0, np.nan], "wait_until_s": [np.nan, 255.0, 0.0]},
        }
    )
    shown = formatted_decisions(table)

    assert shown["all_ready"].tolist() == ["90 %", "50 %", "0 %"]
    assert shown["to_request"].tolist() == ["2", "7", "over 20"]
    assert shown["wait_until_s"].tolist() == ["over 270", "255", "0"]
    assert formatted_decisions(table.assign(by_s=50.0))["wait_until_s"].tolist()[0] == "-"
    assert decision_words(table) == (
        "To have n ready within 330 s with a chance of 90 %: of 3 targets, at 1 request n, at 1 "
        "request more than n and at 1 not even 10 times n is enough.  Of the same, at 1 waiting "
        "still pays at 270 s (later is not known) and at 1 waiting never pays."
    )


def test_what_holds_at_no_target_is_not_said():
    table = pd.DataFrame({"n": [2], "by_s": 330.0, "to_request": 2.0, "wait_until_s": 90.0})

    assert decision_words(table) == (
        "To have n ready within 330 s with a chance of 90 %: of 1 target, at 1 request n."
    )


def test_targets_that_are_alike_are_said_once():
    low, high = forecast_of([0.0, 0.0], n=5), forecast_of([0.5, 0.999], n=5)

    assert forecast_words([high, high]) == "After 20 s, expect all 5 at both."
    assert forecast_words([high, low]) == (
        f"After 20 s, expect none of 5 at {NANO} to all 5 at {NANO}."
    )
    assert forecast_words([forecast_of([0.5], n=5)]) == f"After 10 s, expect 2.5 of 5 at {NANO}."


def test_an_integer_score_is_the_score():
    forecaster = fit_forecaster(drawn_training(), model="target x SPS")
    [name] = [sorted(forecaster.targets)[0].split(" in ")]
    whole, real = (
        forecast_ready(forecaster, Target(*name), n=3, features={"sps": sps}).expected
        for sps in (3, 3.0)
    )
    other = forecast_ready(forecaster, Target(*name), n=3).expected

    assert (whole == real).all()
    assert (whole != other).any()


def test_one_moment_and_a_whole_grid_agree():
    forecaster = fit_forecaster(two_targets(), model="target")
    whole = forecast_ready(forecaster, NANO, n=4)
    one = forecast_ready(forecaster, NANO, n=4, times_s=[210.0])

    assert one.probabilities[0] == pytest.approx(whole.probabilities[whole.times_s == 210.0][0])


def test_before_the_first_elapsed_time_the_count_rises_from_none():
    forecaster = fit_forecaster(two_targets(), model="target")
    whole = forecast_ready(forecaster, NANO, n=4)
    first_s = whole.times_s[0]
    times_s = [0.0, first_s / 5, first_s / 4, first_s, 202.5, 570.0]  # two are less than 1 s apart
    again = forecast_ready(forecaster, NANO, n=4, times_s=times_s)

    assert whole.times_s[[0, -1]].tolist() == [15.0, 570.0]
    last, after = (whole.expected[whole.times_s == at_s][0] for at_s in (195.0, 210.0))
    assert again.expected == pytest.approx(
        [
            *(0.0, whole.expected[0] / 5, whole.expected[0] / 4, whole.expected[0]),
            *((last + after) / 2, whole.expected[-1]),
        ],
        abs=1e-6,
    )
    assert again.probabilities[0] == pytest.approx([1.0, 0.0, 0.0, 0.0, 0.0], abs=1e-6)
    known = again.times_s.tolist(), again.n, again.model, again.runs, again.target
    assert known == ([0.0, 3.0, 3.75, 15.0, 202.5, 570.0], 4, "target", 24, NANO)


def test_the_band_and_the_quantiles_are_the_first_counts_that_reach_their_level():
    """Also where they reach it exactly: sums of tenths miss it by rounding."""
    chances = np.array([[0.05, 0.1, 0.8, 0.05], [0.04, 0.02, 0.88, 0.06], [0.0, 0.0, 0.0, 1.0]])
    forecast = Forecast(NANO, 3, np.array([1.0, 2.0, 3.0]), chances, "global", 6, True, True)

    assert [each.tolist() for each in forecast.band] == [[0, 1, 3], [2, 3, 3]]
    assert forecast.quantile(0.15).tolist() == [1, 2, 3]
    assert forecast.quantile(0.16).tolist() == [2, 2, 3]
    assert forecast.quantile(1.0).tolist() == [3, 3, 3]
    assert forecast.at_least(0).tolist() == pytest.approx([1.0, 1.0, 1.0])
    assert forecast.at_least(3).tolist() == pytest.approx([0.05, 0.06, 1.0])
    for k in (-1, 4):
        with pytest.raises(ValueError, match=f"k must be from 0 to n=3, got {k}"):
            forecast.at_least(k)
    assert forecast.time_to(3, level=1.0) == 3.0
    for level in (0.0, -1, 90, 1.001, float("nan")):
        with pytest.raises(ValueError, match=f"level must be above 0 .* got {level}"):
            forecast.time_to(3, level=level)


@pytest.mark.parametrize(
    "features",
    [
        {"sps": 1, "if_score": 1, "hour_utc": 0, "last_share": 0, "last3_share": 0, "t3": 0},
        {"sps": 10, "if_score": 3, "hour_utc": 24, "last_share": 1, "last3_share": 1, "t3": 9e9},
        {"price_share": 0, "since_last_s": 0, "last_run_s": 0, "sps": np.nan},
    ],
)
def test_features_may_be_as_low_and_as_high_as_they_can(features):
    forecaster = fit_forecaster(two_targets(), model="global")

    assert forecast_ready(forecaster, NANO, n=1, features=features).expected[-1] > 0.5


def forecast_of(expected, *, n=1):
    """Return a forecast with this mean at 10 s, 20 s, ..."""
    share = np.asarray(expected)
    times_s = 10.0 * np.arange(1, share.size + 1)
    chances = count_distribution(share, np.zeros(share.size), n=n)
    return Forecast(NANO, n, times_s, chances, "global", 6, True, True)


def test_the_figure_draws_each_forecast_from_none_at_the_request():
    forecasts = [
        replace(forecast_of([0.2, 0.5, 0.9], n=4), target=target) for target in (NANO, ELSEWHERE)
    ]
    forecasts[1] = replace(forecasts[1], times_s=np.array([10.0, 20.0, 45.0]))
    styles = Styles.of(map(str, (NANO, ELSEWHERE)))
    figure = forecast_figure(forecasts, styles, simulated=True)

    below = figure.get_supxlabel()
    assert below.startswith("seconds since the request was sent")
    assert below.endswith("(line: expected, shade: at least 90 %)")
    assert figure.get_supylabel() == "ready, instances"
    panels = [ax for ax in figure.axes if ax.lines]
    assert len(panels) == 2
    for ax, forecast in zip(panels, forecasts, strict=True):
        [line] = [each for each in ax.lines if len(each.get_xdata()) == 4]
        assert line.get_xdata().tolist() == [0.0, *forecast.times_s]
        assert line.get_ydata().tolist() == [0.0, *forecast.expected]
        assert line.get_color() == styles.colours[str(forecast.target)]
        [shade] = ax.collections
        corners = shade.get_paths()[0].vertices
        low, high = forecast.band
        assert set(corners[:, 1]) == {0.0, *low, *high}
        assert {*map(tuple, corners)} >= {(0.0, 0.0), (forecast.times_s[-1], float(high[-1]))}
        assert ax.get_xlim()[1] == pytest.approx(panels[1].get_xlim()[1])
        assert ax.get_xlim()[1] >= 45.0
        assert ax.get_ylim() == pytest.approx((-0.12, 4.2))  # none and all are not on the edge


def test_the_figure_of_a_single_instance_has_no_parts_of_an_instance_on_its_axis():
    figure = forecast_figure([forecast_of([0.2, 0.9])], Styles.of([str(NANO)]), simulated=True)
    [ax] = [each for each in figure.axes if each.lines]

    assert all(float(tick).is_integer() for tick in ax.get_yticks())
    assert {0.0, 1.0} <= set(ax.get_yticks())


def test_waiting_pays_until_no_more_becomes_ready():
    flat = forecast_of([0.0, 0.2, 0.6, 0.8, 0.8, 0.8, 0.8])

    assert waiting_pays_until_s(flat, within_s=10.0) == 40.0
    assert waiting_pays_until_s(forecast_of([0.0] * 9), within_s=10.0) == 0.0
    assert np.isnan(waiting_pays_until_s(flat, within_s=900.0))


def test_a_chance_of_exactly_the_least_still_pays():
    """At 10 s of the half that is pending a twentieth becomes ready within 10 s, later less."""
    forecast = forecast_of([0.5, 0.525, 0.525, 0.525])

    assert waiting_pays_until_s(forecast, within_s=10.0, least_probability=0.04999) == 11.0
    assert waiting_pays_until_s(forecast, within_s=10.0, least_probability=0.05001) == 10.0
    halved = forecast_of([0.5, 0.75, 0.75])
    assert waiting_pays_until_s(halved, within_s=10.0, least_probability=0.5) == 11.0


def test_when_to_stop_is_not_known_where_waiting_still_pays_at_the_end():
    """All that were pending 10 s before the end became ready: no advice to stop then."""
    rising = forecast_of([0.2, 0.4, 0.8, 0.999])

    assert np.isnan(waiting_pays_until_s(rising, within_s=10.0))
    late = forecast_of([0.2, 0.4, 0.4, 0.9])  # it pays at 28 s, between two elapsed times
    assert np.isnan(waiting_pays_until_s(late, within_s=12.0, least_probability=0.2))
    assert waiting_pays_until_s(forecast_of([0.2, 0.4, 0.4, 0.4]), within_s=15.0) == 19.0
    slow = forecast_of([0.0, 0.04])  # at 5 s all are pending, and too few become ready
    assert waiting_pays_until_s(slow, within_s=15.0) == 0.0


def test_a_forecast_as_long_as_the_wait_is_long_enough():
    assert waiting_pays_until_s(forecast_of([0.0, 0.01]), within_s=20.0) == 0.0
    assert np.isnan(waiting_pays_until_s(forecast_of([0.0, 0.01]), within_s=20.1))


def test_the_time_to_k_is_the_first_with_that_chance():
    forecast = forecast_of([0.0, 0.2, 0.6, 0.95])

    assert forecast.time_to(1) == 30.0
    assert forecast.time_to(1, level=0.9) == 40.0
    assert forecast.time_to(1, level=0.99) == INF
    half = replace(forecast, probabilities=np.array([[1, 0], [0.5, 0.5], [0.25, 0.75], [0, 1]]))
    assert half.time_to(1) == 20.0


def test_no_rounding_takes_a_probability_beyond_0_or_1():
    forecast = replace(forecast_of([0.0]), probabilities=np.array([[1 + 1e-12, -1e-13]]))

    assert [forecast.at_least(k).tolist() for k in (0, 1)] == [[1.0], [0.0]]


@pytest.mark.parametrize("model", MODELS)
def test_runs_without_a_ready_instance_forecast_none(model):
    training = training_table(table_of(*(run_rows([INF, INF], number=i) for i in range(8))))
    forecast = forecast_ready(fit_forecaster(training, model=model), NANO, n=2)

    assert forecast.expected[-1] < 0.2


def test_the_six_runs_of_a_forecast_are_those_that_were_watched_to_the_end():
    """A run of a batch that was stopped is learnt from, as far as it was watched."""
    ends = {"until_s": 200.0, "outcome": "abandoned"}
    cut = [[*run_rows([INF], number=i, **ends)] for i in range(10, 13)]
    whole = [[*run_rows([9.0], number=i)] for i in range(6)]

    with pytest.raises(ValueError, match="at least 6 runs watched to the end, got 5"):
        fit_forecaster(training_table(table_of(*whole[:5], *cut)))
    assert fit_forecaster(training_table(table_of(*whole, *cut))).runs == 9


def test_too_few_runs_and_one_target_are_one_clear_sentence():
    few = training_table(table_of(*(run_rows([9.0], number=i) for i in range(5))))
    with pytest.raises(ValueError, match="at least 6 runs watched to the end, got 5"):
        fit_forecaster(few)
    one = training_table(table_of(*(run_rows([9.0], number=i) for i in range(8))))
    with pytest.raises(ValueError, match="has one target only"):
        forecast_ready(fit_forecaster(one), ELSEWHERE, n=1)


@pytest.fixture(scope="module")
def forecaster():
    return fit_forecaster(two_targets())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"n": 0}, "n must be at least 1"),
        ({"n": 1, "features": {"weather": 1.0}}, "features may hold .* and .*, got weather$"),
        ({"n": 1, "features": {"sp": 3.0}}, "got sp; did you mean sps\\?$"),
        ({"n": 1, "features": {"sps": -4}}, "sps must be from 1 to 10 .* got -4"),
        ({"n": 1, "features": {"hour_utc": 77}}, "hour_utc must be from 0 to 24 .* got 77"),
        ({"n": 1, "features": {"hour_utc": 24.5}}, "hour_utc must be from 0 to 24 .* got 24.5"),
        ({"n": 1, "features": {"hour_utc": -0.5}}, "hour_utc must be from 0 to 24 .* got -0.5"),
        ({"n": 1, "features": {"sps": 0.9}}, "sps must be from 1 to 10 .* got 0.9"),
        ({"n": 1, "features": {"if_score": 0.5}}, "if_score must be from 1 to 3"),
        ({"n": 1, "features": {"last_share": 1.5}}, "last_share must be from 0 to 1"),
        ({"n": 1, "features": {"price_share": -0.1}}, "price_share must be 0 or more"),
        ({"n": 1, "features": {"since_last_s": INF}}, "since_last_s must be 0 or more, and finite"),
        ({"n": 1, "features": {"sps": 10.1}}, "sps must be from 1 to 10 .* got 10.1"),
        ({"n": 1, "features": {"if_score": 3.5}}, "if_score must be from 1 to 3"),
        ({"n": 1, "features": {"last3_share": -0.1}}, "last3_share must be from 0 to 1"),
        ({"n": 1, "features": {"t3": -1}}, "t3 must be 0 or more, and finite"),
        ({"n": 1, "features": {"last_run_s": INF}}, "last_run_s must be 0 or more, and finite"),
        ({"n": 1, "features": {"sps": "3"}}, "sps must be from 1 to 10 .* got '3'"),
        ({"n": 1, "times_s": [10.0, 9000.0]}, "from 0 to 570"),
        ({"n": 1, "times_s": [-0.1, 10.0]}, "from 0 to 570"),
        ({"n": 1, "times_s": []}, "from 0 to 570"),
        ({"n": 1, "times_s": [10.0, 10.0]}, "must rise"),
        ({"n": 1, "times_s": [20.0, 10.0]}, "must rise"),
    ],
)
def test_what_cannot_be_forecast_is_refused(forecaster, wrong, words):
    with pytest.raises(ValueError, match=words):
        forecast_ready(forecaster, NANO, **wrong)


def test_a_target_by_its_name_is_refused_and_not_taken_for_a_new_one(forecaster):
    with pytest.raises(ValueError, match=r"target must be a Target, such as .*got 't3.nano@"):
        forecast_ready(forecaster, "t3.nano@us-east-1", n=1)


def test_launches_are_refused_as_a_training_table_with_what_makes_one():
    launches = table_of(*(run_rows([9.0], number=i) for i in range(8)))
    with pytest.raises(ValueError, match=r"of launches it is training_table\(launches\)"):
        fit_forecaster(launches)


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model must be one of"):
        fit_forecaster(two_targets(), model="crystal ball")


def test_blocks_of_time_keep_rounds_whole_and_in_order():
    runs = Runs.of(drawn_training())
    blocks = pd.Series(time_blocks(runs.features))

    assert blocks.nunique() == 5
    assert (blocks.groupby(runs.features["round"]).nunique() == 1).all()
    assert blocks.groupby(runs.features["round"]).first().is_monotonic_increasing


@pytest.mark.parametrize("model", MODELS)
def test_a_single_round_of_many_targets_is_enough(model):
    runs = (run_rows([200.0, 9.0 * i], plan=i, region=f"us-east-{i}") for i in range(1, 9))
    forecaster = fit_forecaster(training_table(table_of(*runs)), model=model)

    assert forecast_ready(forecaster, Target("t3.nano", "us-east-1"), n=2).expected[-1] > 1.0


def test_a_table_that_went_through_a_file_still_serves(tmp_path):
    path = tmp_path / "training.csv"
    two_targets().to_csv(path, index=False)
    again = pd.read_csv(path, parse_dates=["sent_at"])
    forecasts = [
        forecast_ready(fit_forecaster(table), NANO, n=3).probabilities
        for table in (two_targets(), again)
    ]

    assert (forecasts[0] == forecasts[1]).all()


def test_runs_are_in_the_order_of_time_whatever_the_order_of_the_rows():
    training = drawn_training(targets=4, rounds=6)
    known, mixed = Runs.of(training), Runs.of(training.sample(frac=1.0, random_state=1))

    assert known.features["sent_at"].is_monotonic_increasing
    assert known.features.columns.tolist()[:4] == [*RUN, "simulated"]
    assert known.features.index.equals(pd.RangeIndex(24))
    pd.testing.assert_frame_equal(known.features, mixed.features, check_categorical=False)
    for name in ("times_s", "ready", "weight"):
        np.testing.assert_array_equal(getattr(known, name), getattr(mixed, name))


def test_the_shares_in_training_are_those_of_the_table():
    training = drawn_training(targets=4, rounds=6)
    runs = Runs.of(training)
    last = training[training["elapsed_s"] == runs.times_s[-1]]

    assert runs.share[:, -1].mean() == pytest.approx((last["ready"] / last["n"]).mean())
    assert set(runs.features["target"]) == set(target_names(training))

"""Scores agree with their definitions; splits never leak; skill and calibration on the market."""

import tracemalloc
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_rows import INF, drawn_training, run_rows, table_of
from scipy import integrate, stats
from sklearn.metrics import mean_pinball_loss

from spotlib.analyze.comparable import RUN
from spotlib.forecast.decide import score_words
from spotlib.forecast.forecast import CHOSEN, count_distribution, crps
from spotlib.forecast.models import MODELS, Runs
from spotlib.forecast.score import (
    Scores,
    _gains,
    pinball_loss,
    randomised_pit,
    score_forecasts,
    split_by_target,
    split_by_time,
)
from spotlib.forecast.training import training_table


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.floats(0.0, 1.0), st.floats(0.0, 0.9), st.data())
def test_crps_is_the_integral_of_its_definition(n, share, correlation, data):
    observed = data.draw(st.integers(0, n))
    chances = count_distribution(np.array([share]), np.array([correlation]), n=n)
    below = np.cumsum(chances[0])

    def missed(x):
        return (below[min(int(np.floor(x * n + 1e-12)), n)] - (x >= observed / n)) ** 2

    steps = [integrate.fixed_quad(np.vectorize(missed), k / n, (k + 1) / n)[0] for k in range(n)]

    assert crps(chances, np.array([observed]))[0] == pytest.approx(sum(steps), abs=1e-9)


def test_crps_is_zero_for_certainty_and_the_brier_score_for_one_instance():
    certain = np.array([[0.0, 0.0, 1.0]])

    assert crps(certain, np.array([2])) == [0.0]
    assert crps(certain, np.array([0])) == [1.0]
    assert crps(np.array([[0.3, 0.7]]), np.array([1])) == pytest.approx([0.09])


def test_crps_equals_its_form_by_expectations():
    chances = stats.binom.pmf(np.arange(7), 6, 0.4)[None, :]
    x = np.arange(7) / 6
    spread = chances[0] @ np.abs(x[:, None] - x) @ chances[0]

    assert crps(chances, np.array([5]))[0] == pytest.approx(
        chances[0] @ abs(x - 5 / 6) - spread / 2
    )


def test_the_pit_of_true_counts_is_uniform_and_of_too_sure_ones_not():
    rng = np.random.default_rng(3)
    true = np.repeat(stats.betabinom.pmf(np.arange(6), 5, 1.0, 1.0)[None, :], 4000, axis=0)
    sure = np.repeat(stats.binom.pmf(np.arange(6), 5, 0.5)[None, :], 4000, axis=0)
    seen = stats.betabinom.rvs(5, 1.0, 1.0, size=4000, random_state=rng)

    assert stats.kstest(randomised_pit(true, seen, rng=rng), "uniform").pvalue > 0.01
    values = randomised_pit(sure, seen, rng=rng)
    assert np.mean((values > 0.05) & (values < 0.95)) < 0.75


@pytest.mark.parametrize(
    ("chances", "drawn", "value"),
    [
        ([0.25, 0.75 + 1e-12], 0.0, 1.0),
        ([0.25 - 1e-12, 0.75], 1.0, 0.25),
        ([-1e-12, 1.0], 0.0, 0.0),
    ],
)
def test_no_rounding_takes_a_pit_beyond_0_or_1(chances, drawn, value):
    rng = SimpleNamespace(uniform=lambda size: np.full(size, drawn))
    seen = 0 if value == 0.0 else 1
    [found] = randomised_pit(np.array([chances]), np.array([seen]), rng=rng)

    assert found == pytest.approx(value)
    assert 0.0 <= found <= 1.0


def test_pinball_loss_is_least_at_the_quantile():
    seen = np.random.default_rng(4).exponential(100.0, size=20000)
    tried = np.linspace(50.0, 400.0, 71)
    losses = [np.mean([pinball_loss(q, y, level=0.9) for y in seen[:2000]]) for q in tried]

    assert tried[int(np.argmin(losses))] == pytest.approx(np.quantile(seen[:2000], 0.9), abs=10.0)


@given(st.floats(-9.0, 9.0), st.floats(-9.0, 9.0), st.sampled_from([0.1, 0.5, 0.9]))
def test_pinball_loss_is_the_one_of_scikit_learn(quantile, observed, level):
    expected = mean_pinball_loss([observed], [quantile], alpha=level)
    assert pinball_loss(quantile, observed, level=level) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 0.7), st.floats(0.0, 14_000.0))
def test_no_split_leaks_a_run_or_a_target(seed, share, gap_s):
    training = drawn_training(targets=6, rounds=8)
    runs = Runs.of(training).features
    learn, test = (runs[part] for part in split_by_time(runs, share=share, gap_s=gap_s))
    keys = [set(map(tuple, part[RUN].drop_duplicates().to_numpy())) for part in (learn, test)]

    assert not keys[0] & keys[1]
    assert (test["sent_at"].min() - learn["sent_at"].max()).total_seconds() > gap_s
    assert not set(learn["round"]) & set(test["round"])
    scored = 0
    for learnt, unseen in split_by_target(runs, rng=np.random.default_rng(seed)):
        assert not set(runs["target"][learnt]) & set(runs["target"][unseen])
        scored += unseen.sum()
    assert scored == len(runs)


def test_the_best_baseline_beats_the_global_one_and_is_calibrated_in_time():
    scores = score_forecasts(drawn_training(), rng=np.random.default_rng(5))
    best = scores.table.iloc[0]

    assert best["model"] in ("target x SPS", "regression")
    assert best["gain"] >= 0.25
    assert 0 < best["gain_low"] < best["gain"] < best["gain_high"] < 1
    assert scores.table["coverage_randomised"].between(0.86, 0.94).all()
    assert scores.resampled == "run"


def test_scoring_fits_nothing_twice_and_nothing_for_new_targets_where_there_are_none():
    fitted = Counter()

    def counted(name):
        def fitting(runs):
            inner = MODELS[name](runs)

            def fit(some):
                fitted[name, len(some), some.times_s.size] += 1
                return inner(some)

            return fit

        return fitting

    models = {name: counted(name) for name in ("global", "target")}
    score_forecasts(drawn_training(rounds=12), rng=np.random.default_rng(5), models=models)

    assert set(fitted.values()) == {1}
    assert len(fitted) == 2 * (4 + 4 + 1)  # four blocks of time, at all times and at few; and all


def test_scores_and_own_history_help_where_the_target_was_not_in_training():
    models = {name: MODELS[name] for name in ("global", "target", "regression")}
    scores = score_forecasts(
        drawn_training(), rng=np.random.default_rng(6), split="target", models=models
    )
    table = scores.table.set_index("model")

    assert table.loc["regression", "gain"] >= 0.25
    assert table.loc["target", "gain"] == pytest.approx(0.0, abs=1e-9)
    assert scores.table["coverage_randomised"].between(0.84, 0.96).all()
    assert scores.resampled == "target"
    assert (scores.runs.groupby("model").size() == 400).all()


def test_no_gain_is_claimed_where_all_targets_are_alike():
    rng = np.random.default_rng(8)
    runs = [
        run_rows(list(rng.uniform(100.0, 400.0, size=4)), number=i, plan=plan, region=region)
        for i in range(30)
        for plan, region in enumerate(("sa-east-1", "eu-west-1", "us-east-1"))
    ]
    table = score_forecasts(training_table(table_of(*runs)), rng=rng).table.set_index("model")

    assert (table["gain_low"] < 0.02).all()
    assert (table["gain"].abs() < 0.08).all()


def test_runs_that_were_not_watched_to_the_end_are_scored_where_they_were():
    whole = [run_rows([100.0 + 9 * i], number=i) for i in range(20)]
    cut = [run_rows([INF], number=i, until_s=80.0, outcome="abandoned") for i in range(20, 30)]
    training = training_table(table_of(*whole, *cut))
    scores = score_forecasts(
        training, rng=np.random.default_rng(10), models={"global": MODELS["global"]}
    )

    assert scores.table["model"].tolist() == ["global"]  # among one there is no choice
    assert training[training["round"] >= 20]["elapsed_s"].max() == 75.0
    assert scores.table["crps"].between(0.0, 0.02).all()
    assert scores.table["pinball_all_s"].isna().all()


def test_censoring_does_not_move_the_score():
    rng = np.random.default_rng(11)
    ready_s = rng.uniform(50.0, 500.0, size=600)
    end_s = np.where(rng.random(600) < 0.5, rng.uniform(0.0, 599.0, size=600), 599.0)
    whole = [run_rows([by_s], number=i) for i, by_s in enumerate(ready_s)]
    cut = [
        run_rows([by_s], number=i)
        if by_s < end
        else run_rows([INF], number=i, until_s=end, outcome="abandoned")
        for i, (by_s, end) in enumerate(zip(ready_s, end_s, strict=True))
    ]
    found = [
        score_forecasts(
            training_table(table_of(*runs)), rng=rng, models={"global": MODELS["global"]}
        ).table
        for runs in (whole, cut)
    ]

    assert found[1]["crps"][0] == pytest.approx(found[0]["crps"][0], rel=0.15)


def test_what_cannot_be_scored_is_one_clear_sentence():
    training = training_table(table_of(*(run_rows([9.0], number=i) for i in range(8))))
    rng = np.random.default_rng(9)

    for split in ("row", "week"):
        with pytest.raises(ValueError, match=f"never rows of a run, got '{split}'"):
            score_forecasts(training, rng=rng, split=split)
    with pytest.raises(ValueError, match="at least two targets"):
        score_forecasts(training, rng=rng, split="target")
    with pytest.raises(ValueError, match="at least 6 runs watched to the end, got 5"):
        score_forecasts(training, rng=rng)
    with pytest.raises(ValueError, match="more than 1000000 s after the first 70 % of"):
        split_by_time(Runs.of(training).features, gap_s=1e6)
    one_round = Runs.of(training.assign(plan=training["round"], round=0))
    with pytest.raises(ValueError, match="there is one round only"):
        split_by_time(one_round.features)


def test_the_gain_on_thousands_of_runs_is_resampled_in_bounded_memory():
    rng = np.random.default_rng(3)
    runs = 20_000
    hours = pd.date_range("2026-01-01", periods=runs, freq="h", tz="UTC")
    features = pd.DataFrame({"batch_id": "a", "round": np.arange(runs), "plan": 0, "n": 5})
    features = features.assign(sent_at=hours, target="t3.nano in sa-east-1", simulated=True)
    counts = rng.integers(0, 6, (runs, 1)).astype(float)
    known = Runs(features, np.array([60.0]), counts, np.ones((runs, 1)))

    tracemalloc.start()
    try:
        scores = score_forecasts(known, rng=rng, models={"global": MODELS["global"]})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(scores.runs) > 5000
    assert peak < 60e6  # all resamples at once: 190 MB


@pytest.mark.parametrize(
    ("gain", "side", "interval"),
    [
        ((0.16, 0.02, 0.3), "16 % below", "2 % below to 30 % below"),
        ((-0.16, -0.3, 0.02), "16 % above", "30 % above to 2 % below"),
        ((0.0, -0.1, 0.1), "0 % below", "10 % above to 10 % below"),
    ],
)
def test_an_error_larger_than_that_of_one_curve_is_said_to_be_above_it(gain, side, interval):
    row = dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
    row |= {"model": CHOSEN, "coverage_drawn": 0.93, "coverage_randomised": 0.9}

    others = [row | {"model": name, "gain": 0.5} for name in ("a model", "global")]

    said = score_words(Scores(pd.DataFrame([*others, row]), pd.DataFrame(), {}, "time", "run"))

    assert said == (
        f"The error (crps) of the chosen model is {side} that of one curve for all targets (95 % "
        f"interval: {interval}).  The shade held 93 % of the counts, and 90 % with its ends "
        "counted in part."
    )


def test_a_gain_over_fewer_than_six_scored_runs_has_no_interval():
    runs = pd.DataFrame({"batch_id": "a", "round": range(4), "plan": 0, "target": "t"})
    both = [runs.assign(model=name, crps=0.1 * n) for n, name in enumerate(("global", CHOSEN), 1)]
    scored = pd.concat(both)
    more = pd.concat([scored.assign(batch_id=name) for name in "ab"])

    gains = _gains(scored, unit="run", rng=np.random.default_rng(0))
    row = {"model": CHOSEN, "coverage_drawn": 0.93, "coverage_randomised": 0.9}
    table = pd.DataFrame([row | gains.loc[CHOSEN].to_dict()])
    said = score_words(Scores(table, scored, {}, "time", "run"))

    by_target = score_words(Scores(table, scored, {}, "target", "target"))

    assert "(no interval: 1 target, at least 6 are needed)." in by_target
    assert gains[["gain_low", "gain_high"]].isna().all(axis=None)
    assert _gains(more, unit="run", rng=np.random.default_rng(0)).notna().all(axis=None)
    assert "all targets (no interval: 4 runs, at least 6 are needed)." in said

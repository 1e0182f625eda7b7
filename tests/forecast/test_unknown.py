"""What is left out of a forecast is averaged over; no value is made up for it."""

from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotlib.forecast.forecast import CHOSEN, fit_forecaster, forecast_ready
from spotlib.forecast.models import FEATURES, MODELS, Runs
from spotlib.forecast.unknown import _MOST_RUNS, complete
from spotlib.model import Target

MODEL = pytest.mark.parametrize("model", [*MODELS, CHOSEN])
VALUES = {  # in training, where none is ever missing
    "sps": [1.0, 3.0],
    "t3": [0.0, 5.0, 50.0],
    "if_score": [1.5, 2.5],
    "price_share": [0.25, 0.28, 0.31],
    "hour_utc": [4.0, 10.0, 16.0],
    "since_last_s": [3600.0, 7200.0],
    "last_share": [0.0, 0.4, 1.0],
    "last3_share": [0.0, 0.4, 1.0],
    "last_run_s": [3600.0, 7200.0],
}
N = 5
GOOD, BAD, NEW = (Target(f"t3.{each}", "sa-east-1") for each in ("size0", "size5", "new"))
KNOWN = {"sps": 1.0, "t3": 0.0, "if_score": 1.5, "price_share": 0.28, "hour_utc": 10.0}


@cache
def learnt():
    """Eight targets, of which two with a good score are nearly always ready and six never."""
    rng = np.random.default_rng(4)
    rows = []
    for number in range(96):
        target, good = number % 8, number % 8 in (0, 1)
        features = {name: rng.choice(values) for name, values in VALUES.items()}
        features |= {"sps": 3.0 if good else 1.0, "last_share": 1.0 if good else 0.0}
        moment = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(hours=number)
        run = {"batch_id": "a", "round": number, "plan": 0, "sent_at": moment, "n": N}
        run |= {"instance_type": f"t3.size{target}", "region": "sa-east-1", "simulated": True}
        ready = N - (number % 3 == 0) if good else 0
        rows += [
            run | features | {"elapsed_s": at_s, "ready": count, "weight": 1.0}
            for at_s, count in ((60.0, ready // 2), (120.0, ready))
        ]
    return pd.DataFrame(rows)


@cache
def fitted(model):
    return fit_forecaster(learnt(), model=model)


def expected(model, target, **features):
    return forecast_ready(fitted(model), target, n=N, features=features).expected[-1]


@MODEL
def test_of_a_new_target_of_which_nothing_is_known_all_is_possible(model):
    """It is near the curve of all runs, and none and all are both within its band."""
    forecast = forecast_ready(fitted(model), NEW, n=N)
    everywhere = Runs.of(learnt()).ready[:, -1].mean()

    assert forecast.expected[-1] == pytest.approx(everywhere, abs=0.3)
    assert [each[-1] for each in forecast.band] == [0, N]


@MODEL
@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([GOOD, BAD, NEW]),
    st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}),
    st.sets(st.sampled_from(FEATURES), min_size=1, max_size=2),
)
def test_leaving_out_features_stays_within_what_their_values_give(model, target, every, out):
    known = {name: value for name, value in every.items() if name not in out}
    given_ = [
        expected(model, target, **known, **dict(zip(sorted(out), values, strict=True)))
        for values in product(*(VALUES[name] for name in sorted(out)))
    ]

    assert min(given_) - 1e-9 <= expected(model, target, **known) <= max(given_) + 1e-9


@pytest.mark.parametrize("name", FEATURES)
def test_a_model_that_never_saw_a_feature_missing_does_not_jump_where_it_is(name):
    """Also where it is scored: there nothing is averaged."""
    row = pd.DataFrame([KNOWN | {each: VALUES[each][0] for each in FEATURES[5:]} | {"n": N}])
    rows = pd.concat([row.assign(**{name: value}) for value in (*VALUES[name], np.nan)])
    found = fitted("regression").distributions(rows.assign(target="new"))
    [(_, chances)] = list(found)
    *known, missing = chances[:, -1] @ np.arange(N + 1)

    assert min(known) - 1e-9 <= missing <= max(known) + 1e-9


def test_a_feature_left_out_of_a_known_target_is_as_in_its_own_runs():
    assert expected("regression", GOOD) == pytest.approx(14 / 3, abs=0.4)
    assert expected("regression", BAD) < 0.3


def test_a_new_target_is_taken_to_be_like_those_with_what_is_known():
    """Its own history is left out; with its score, no run was ever ready."""
    assert expected("regression", NEW, sps=1) < 0.5
    assert expected("regression", NEW, sps=3) > 3.0
    values, weight = complete(asked(sps=1.0), Runs.of(learnt()).features)
    assert weight[values["last_share"] == 0.0].sum() > 0.9


def asked(**features):
    unknown = dict.fromkeys(FEATURES, np.nan)
    return pd.DataFrame([unknown | features | {"n": float(N), "target": str(NEW)}])


def test_a_run_weighs_the_less_the_more_standard_deviations_it_is_away_by_hand():
    """The scores 1, 2 and 3 have the deviation sqrt(2 / 3): two are sqrt(1.5) and sqrt(6) away.

    By the kernel, exp(-distance^2 / 2), they weigh exp(-0.75) and exp(-3) of the first.
    """
    runs = pd.concat([asked(t3=number, if_score=number) for number in (1.0, 2.0, 3.0)])
    values, weight = complete(asked(if_score=1.0).assign(target="x"), runs)

    first, second, third = weight[np.argsort(values["t3"])]
    assert (second / first, third / first) == pytest.approx((np.exp(-0.75), np.exp(-3.0)))


def test_a_run_in_which_what_is_asked_was_not_known_is_one_standard_deviation_away():
    """The scores 1 and 3 have the mean 2 and the deviation 1: they are 0 and 2 away from 1.

    A run without a score is 1 away, and less likely than the nearest by exp(-1 / 2).
    """
    runs = pd.concat([asked(t3=t3, if_score=score) for t3, score in ((1, 1), (2, 3), (3, np.nan))])
    values, weight = complete(asked(if_score=1.0).assign(target="x"), runs)

    near, far, unknown = weight[np.argsort(values["t3"])]
    assert (far / near, unknown / near) == pytest.approx((np.exp(-2.0), np.exp(-0.5)))


def test_what_was_never_known_together_is_taken_as_it_was():
    """Of three runs one had a score and no T3, two a T3 and no score."""
    known = [{"if_score": 2.0}, {"t3": 5.0}, {"t3": 5.0}]
    runs = pd.concat([asked(**each) for each in known], ignore_index=True)
    values, weight = complete(asked(), runs)

    assert sorted(weight) == pytest.approx([1 / 3, 2 / 3])
    assert values["if_score"].fillna(0) @ weight == pytest.approx(2.0 / 3)
    assert values["t3"].fillna(0) @ weight == pytest.approx(10.0 / 3)


def test_nan_is_left_out():
    assert expected(CHOSEN, NEW, sps=1, t3=np.nan) == expected(CHOSEN, NEW, sps=1)


@pytest.mark.parametrize(("name", "beyond"), [("price_share", 3.0), ("t3", 5000.0), ("sps", 10)])
def test_a_value_beyond_those_in_training_counts_as_the_nearest_of_them(name, beyond):
    known = KNOWN | {"last_share": 0.4}

    assert expected("regression", NEW, **known | {name: beyond}) == pytest.approx(
        expected("regression", NEW, **known | {name: max(VALUES[name])}), abs=1e-6
    )


@MODEL
def test_what_was_never_known_in_training_says_nothing(model):
    forecaster = fit_forecaster(learnt().drop(columns=["if_score", "hour_utc"]), model=model)
    without, given_ = (
        forecast_ready(forecaster, NEW, n=N, features=features).expected
        for features in ({}, {"if_score": 2.5, "hour_utc": 10.0})
    )

    assert given_ == pytest.approx(without)


def test_values_are_those_of_runs_in_which_they_were_known():
    """Also if another feature was never known."""
    runs = Runs.of(learnt()).features.assign(hour_utc=np.nan)
    runs.loc[runs.index % 2 == 0, "if_score"] = np.nan
    values, weight = complete(asked(), runs)

    assert values["hour_utc"].isna().all()
    assert values["if_score"] @ weight == pytest.approx(runs["if_score"].mean())


def test_of_many_runs_some_are_drawn_and_they_stand_for_all():
    runs = Runs.of(learnt()).features
    many = pd.concat([runs] * 40, ignore_index=True)
    many["since_last_s"] = np.arange(len(many), dtype=float)
    values, weight = complete(asked(), many)

    few, exactly = complete(asked(), runs)
    assert few["sps"] @ exactly == pytest.approx(runs["sps"].mean())
    assert len(values) <= 200
    assert weight.sum() == pytest.approx(1.0)
    assert values["sps"] @ weight == pytest.approx(runs["sps"].mean(), abs=0.2)


def numbered(count):
    """So many runs, no two of which are alike."""
    runs = pd.concat([Runs.of(learnt()).features] * 5, ignore_index=True).iloc[:count]
    return runs.assign(since_last_s=np.arange(count, dtype=float))


def test_as_many_runs_as_are_averaged_at_most_are_all_averaged():
    runs = numbered(_MOST_RUNS)
    values, weight = complete(asked(), runs)

    assert sorted(values["since_last_s"]) == runs["since_last_s"].tolist()
    assert weight == pytest.approx(np.full(_MOST_RUNS, 1 / _MOST_RUNS))


def test_the_same_runs_are_drawn_whenever_the_same_is_asked():
    runs = numbered(_MOST_RUNS + 1)
    (first, weight), (again, same) = (complete(asked(), runs) for _ in range(2))

    assert len(first) < _MOST_RUNS  # some were drawn twice
    pd.testing.assert_frame_equal(first, again)
    assert weight.tolist() == same.tolist()

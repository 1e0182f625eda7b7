"""Each model equals plain loops, or scipy, on a few runs; parts and blocks are those by hand."""

from dataclasses import replace
from math import cos, log, log1p, pi, sin

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from spotlib.forecast.models import (
    _STRENGTHS,
    FEATURES,
    MODELS,
    Runs,
    _strengths,
    held_out,
    later_parts,
    regressors,
    target_parts,
    time_blocks,
)


def some_runs(*, rounds=15, seed=1):
    """Rounds an hour apart of two targets; scores change, and some runs were cut short."""
    rng = np.random.default_rng(seed)
    size = 2 * rounds
    number, plan = np.divmod(np.arange(size), 2)
    features = pd.DataFrame(
        {
            "batch_id": "a",
            "round": number,
            "plan": plan,
            "simulated": True,
            "sent_at": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(number, unit="h"),
            "target": np.where(plan, "t3.b in sa-east-1", "t3.a in sa-east-1"),
            "n": rng.integers(2, 6, size),
            "sps": rng.integers(1, 4, size).astype(float),
            "t3": rng.integers(0, 9, size).astype(float),
            "if_score": rng.choice([1.5, 2.0, 3.0], size),
            "price_share": rng.uniform(0.2, 0.6, size),
            "hour_utc": number % 24.0,
            "since_last_s": rng.uniform(100.0, 9000.0, size),
            "last_share": rng.random(size),
            "last3_share": rng.random(size),
            "last_run_s": rng.uniform(0.0, 9000.0, size),
        }
    )
    features.loc[[3, 8], "sps"] = np.nan
    ready = np.sort(rng.binomial(features["n"], [[0.2], [0.5], [0.7]]), axis=0).T.astype(float)
    weight = np.where(rng.random((size, 3)) < 0.8, rng.uniform(1.0, 2.0, (size, 3)), 0.0)
    return Runs(features, np.array([60.0, 120.0, 180.0]), ready * (weight > 0), weight)


def sums_of(runs, rows, key, wanted, time):
    """The weighted shares and the weights of the runs of one group at one time."""
    same = [row for row in rows if key(row) == wanted]
    much = [runs.weight[row, time] for row in same]
    shares = [runs.ready[row, time] / runs.features["n"][row] for row in same]
    return sum(a * b for a, b in zip(much, shares, strict=True)), sum(much)


def shrunken(runs, rows, keys, strengths, of):
    """The share of one run, from these rows: of the groups one after another, never falling."""
    found = []
    for time in range(3):
        total, much = sums_of(runs, rows, lambda _: None, None, time)
        share = (total + 0.5) / (much + 1)
        for key, strength in zip(keys, strengths, strict=False):
            total, much = sums_of(runs, rows, key, key(of), time)
            share = (total + strength * share) / (much + strength)
        found.append(max([share, *found]))
    return found


def best_strengths(runs, keys):
    """One after another, each with those before it, on later blocks predicted from earlier ones."""
    features = runs.features
    block = [int(number) * 5 // features["round"].nunique() for number in features["round"]]
    chosen = []
    for _ in keys:
        errors = {}
        for strength in _STRENGTHS:
            error = 0.0
            for row in range(len(features)):
                before = [each for each in range(len(features)) if block[each] < block[row]]
                if not before:
                    continue
                told = shrunken(runs, before, keys, [*chosen, strength], row)
                seen = runs.ready[row] / features["n"][row]
                error += float((runs.weight[row] * (seen - told) ** 2).sum())
            errors[strength] = error
        chosen.append(min(errors, key=errors.get))
    return chosen


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.chaos)])
@pytest.mark.parametrize(
    ("model", "names"),
    [("global", []), ("target", ["target"]), ("target x SPS", ["sps", "target", "both"])],
)
def test_shares_are_shrunken_towards_those_of_the_group_around_as_in_plain_loops(
    model, names, seed
):
    runs = some_runs(seed=seed)
    features = runs.features.assign(sps=runs.features["sps"].fillna(-1.0))
    keys = [
        {
            "sps": lambda row: features["sps"][row],
            "target": lambda row: features["target"][row],
            "both": lambda row: (features["sps"][row], features["target"][row]),
        }[name]
        for name in names
    ]
    everything = range(len(features))
    strengths = best_strengths(runs, keys)
    expected = [shrunken(runs, everything, keys, strengths, row) for row in everything]

    assert MODELS[model](runs)(runs)(runs.features) == pytest.approx(np.array(expected))


def test_the_strengths_tried_rise_evenly_from_a_tenth_of_a_run_to_a_hundred():
    assert _STRENGTHS[::2] == (0.1, 1.0, 10.0, 100.0)
    assert _STRENGTHS[1::2] == (0.3, 3.0, 30.0)
    assert min(_STRENGTHS) > 0  # with none, a new group would have no share at all
    assert {*_strengths(some_runs(), (("target",),))} <= {*_STRENGTHS}


@pytest.mark.parametrize("model", ["target", "target x SPS"])
def test_a_new_target_has_a_share_also_where_each_is_always_or_never_ready(model):
    """Then the parent of a group tells nothing of it, and the least strength is the best."""
    runs = some_runs()
    always = (runs.features["target"] == "t3.a in sa-east-1").to_numpy()
    ready = (always * runs.n)[:, None] * (runs.weight > 0)
    shares = MODELS[model](replace(runs, ready=ready))(replace(runs, ready=ready))
    new = runs.features.iloc[:1].assign(target="t3.new in sa-east-1", sps=9.0)

    assert np.isfinite(shares(new)).all()
    assert ((shares(new) > 0) & (shares(new) < 1)).all()


def test_a_new_group_takes_the_share_around_it():
    runs = some_runs()
    shares = {name: MODELS[name](runs)(runs) for name in ("global", "target", "target x SPS")}
    new = runs.features.iloc[:1].assign(target="t3.new in sa-east-1", sps=9.0)

    assert shares["target"](new) == pytest.approx(shares["global"](new))
    assert shares["target x SPS"](new) == pytest.approx(shares["global"](new))


def test_regressors_by_hand():
    values = {"sps": 3.0, "t3": 5.0, "if_score": 2.5, "price_share": 0.3, "hour_utc": 7.0}
    values |= {"since_last_s": 400.0, "last_share": 0.8, "last3_share": 0.1, "last_run_s": 50.0}
    rows = pd.DataFrame([values | {"n": 4}, dict.fromkeys(FEATURES, np.nan) | {"n": 1}])
    rows = pd.concat([rows, rows[:1].assign(since_last_s=0.2, last_run_s=0.0)])
    angle = 2 * pi * 7 / 24
    known = [1, 1, *[0] * 7, log1p(5), 2.5, 0.3, log(4), sin(angle), cos(angle), log(400)]

    found = regressors(rows)
    assert found[0] == pytest.approx([*known, 0.3, -0.4, 0.3 * log(50)])
    assert found[1] == pytest.approx([*[np.nan] * 12, 0.0, *[np.nan] * 6], nan_ok=True)
    assert found[2] == pytest.approx([*known[:-1], 0.0, 0.3, -0.4, 0.0])  # below 1 s counts as 1 s


def test_the_regression_is_the_penalised_maximum_that_scipy_finds():
    """Effects of standardised regressors weigh 1, of a target 3, and the mean hardly anything."""
    runs = some_runs()
    runs.features.loc[5, "if_score"] = np.nan
    runs.features.loc[6, ["last_share", "last3_share", "last_run_s"]] = np.nan
    runs.features.loc[7, "last3_share"] = np.nan  # one of the history alone
    features = runs.features.copy()
    for name in ("last_share", "last3_share", "last_run_s"):
        features[name] = features[name].fillna(features[name].mean())
    known = ["sps", "t3", "if_score", "price_share", "since_last_s", "last_share"]
    numbers = np.hstack([regressors(features), runs.features[known].isna().to_numpy(float)])
    columns = []
    for column in numbers.T:
        mean, spread = np.nanmean(column), np.nanstd(column)
        scaled = (column - mean) / spread if spread > 0 else np.zeros_like(column)
        columns.append(np.nan_to_num(scaled))
    target = (features["target"] == "t3.b in sa-east-1").to_numpy(float)
    design = np.column_stack([np.ones(len(features)), *columns, 1 - target, target])
    penalty = np.array([1e-3, *[1.0] * len(columns), 3.0, 3.0])
    seen, weight = runs.ready[:, 2] / features["n"].to_numpy(), runs.weight[:, 2]

    def unlikely(effects):
        chance = 1 / (1 + np.exp(-design @ effects))
        gained = seen * np.log(chance) + (1 - seen) * np.log(1 - chance)
        return -(weight * gained).sum() + (penalty * effects**2).sum() / 2

    effects = optimize.minimize(unlikely, np.zeros(len(penalty)), method="BFGS").x
    shape = [
        (runs.weight * runs.ready / features[["n"]].to_numpy())[:, time].sum() for time in range(3)
    ]
    shape = np.maximum.accumulate(shape) / max(shape)
    expected = (1 / (1 + np.exp(-design @ effects)))[:, None] * shape

    assert MODELS["regression"](runs)(runs)(runs.features) == pytest.approx(expected, abs=1e-4)


def rounds_of(numbers, *, targets=1):
    features = pd.DataFrame({"batch_id": "a", "round": numbers, "plan": range(len(numbers))})
    hours = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(features["round"], unit="h")
    names = [f"t{number % targets}" for number in range(len(numbers))]
    return features.assign(sent_at=hours, target=names)


def test_blocks_of_time_by_hand():
    assert time_blocks(rounds_of(range(10))).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert time_blocks(rounds_of(range(6))).tolist() == [0, 0, 1, 2, 3, 4]
    assert time_blocks(rounds_of([0, 0, 0, 1, 1])).tolist() == [0, 0, 0, 3, 3]


def test_each_block_but_the_first_is_predicted_from_all_before_it():
    parts = [
        (before.tolist(), own.tolist()) for before, own in later_parts(rounds_of([0, 1, 1, 2]))
    ]

    assert parts == [
        ([True, False, False, False], [False, True, True, False]),
        ([True, True, True, False], [False, False, False, True]),
    ]


def test_of_one_round_or_by_target_each_fifth_is_predicted_from_the_others():
    one_round = later_parts(rounds_of([0] * 7))
    by_target = target_parts(rounds_of(range(14), targets=7))

    for parts in (one_round, by_target):
        assert [np.flatnonzero(own[:7]).tolist() for _, own in parts] == [
            [0, 5],
            [1, 6],
            [2],
            [3],
            [4],
        ]
        assert all((others == ~own).all() for others, own in parts)
    assert [own.sum() for _, own in by_target] == [4, 4, 2, 2, 2]
    assert target_parts(rounds_of(range(4))) == []
    assert len(target_parts(rounds_of(range(4), targets=2))) == 2


def test_what_no_part_predicts_is_left_out():
    runs = some_runs(rounds=5)
    parts = later_parts(runs.features)

    def number_of_runs(some):
        return lambda features: np.full((len(features), 3), float(len(some)))

    tested, shares = held_out(runs, number_of_runs, parts=parts)
    assert tested.features["round"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert tested.features.columns.equals(runs.features.columns)
    assert tested.features.index.equals(pd.RangeIndex(8))
    assert shares[:, 0].tolist() == [2, 2, 4, 4, 6, 6, 8, 8]
    assert (tested.ready == runs.ready[2:]).all()
    assert (tested.weight == runs.weight[2:]).all()


def test_four_of_the_times_are_enough_to_compare_and_the_last_is_among_them():
    runs = some_runs()
    many = Runs(runs.features, np.arange(1.0, 9.0), *[np.arange(8.0) + np.zeros((30, 1))] * 2)

    assert many.thinned().times_s.tolist() == [2.0, 4.0, 6.0, 8.0]
    assert many.thinned().ready[0].tolist() == [1.0, 3.0, 5.0, 7.0]
    more = Runs(runs.features, np.arange(38.0), *[np.zeros((30, 38))] * 2)
    assert more.thinned().times_s.tolist() == [9.0, 18.0, 27.0, 37.0]
    assert runs.thinned().times_s.tolist() == [60.0, 120.0, 180.0]


def test_runs_tell_how_many_were_watched_to_the_end_and_whether_they_are_simulated():
    runs = some_runs()

    assert runs.watched == sum(1 for each in runs.weight if each[2] > 0)
    assert runs.at(np.array([], dtype=np.intp)).watched == 0
    assert runs.simulated
    first = runs.features.assign(simulated=[False, *[True] * 29])
    assert not Runs(first, runs.times_s, runs.ready, runs.weight).simulated


def test_where_all_become_ready_at_the_end_none_is_forecast_before():
    runs = some_runs()
    late = Runs(runs.features, runs.times_s, np.tile([0.0, 0.0, 1.0], (30, 1)), np.ones((30, 3)))
    none = Runs(runs.features, runs.times_s, np.zeros((30, 3)), np.ones((30, 3)))
    hardly = replace(none, ready=none.ready.copy())
    hardly.ready[0, 2] = 1.0  # one instance of one run
    at_end, never, once = (
        MODELS["regression"](each)(each)(each.features) for each in (late, none, hardly)
    )

    assert (at_end[:, :2] == 0.0).all()
    assert (once[:, :2] == 0.0).all()
    assert (at_end[:, 2] > 0.1).all()
    assert (never == never[:, [2]]).all()  # however few: the shape of time is not known

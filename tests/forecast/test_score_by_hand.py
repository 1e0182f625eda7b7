"""Every number of the table of scores equals plain loops over runs, times and counts."""

from math import ceil, comb, exp, lgamma

import numpy as np
import pandas as pd
import pytest

from spotlib.forecast.models import Runs
from spotlib.forecast.score import (
    _time_losses,
    score_forecasts,
    split_by_target,
    split_by_time,
)

TIMES_S = (60.0, 120.0, 180.0)
NEW = "t3.new in sa-east-1"
SIZES = {"t3.a in sa-east-1": 2, "t3.b in sa-east-1": 3, NEW: 2}
SHARES = {  # of two models that learn nothing
    "global": dict.fromkeys(SIZES, (0.2, 0.5, 0.6)),
    "by size": {
        name: (0.1, 0.4, 0.5) if size == 2 else (0.3, 0.8, 0.9) for name, size in SIZES.items()
    },
}
MODELS = {
    name: lambda _, name=name: lambda runs: lambda features: shares_of(name, features, runs.times_s)
    for name in SHARES
}


def shares_of(model, features, times_s):
    places = [TIMES_S.index(each) for each in times_s]
    return np.array([SHARES[model][target] for target in features["target"]])[:, places]


class Half:
    """Draws like numpy, but every uniform number is a half: a PIT value can be worked out."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    def uniform(self, size):
        return np.full(size, 0.5)

    def __getattr__(self, name):
        return getattr(self._rng, name)


def features_of(rows):
    """Return one row for each (round, plan, target), with rounds an hour apart."""
    table = pd.DataFrame(rows, columns=["round", "plan", "target"])
    hours = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(table["round"], unit="h")
    return table.assign(batch_id="a", sent_at=hours, n=table["target"].map(SIZES), simulated=True)


def some_runs():
    """Ten rounds of two targets, and of a third in the last two.

    The last time was watched in no run to learn from.  A run of either kind was not watched to
    the end, and counts for more before it.
    """
    seen = [(number, plan, name) for number in range(10) for plan, name in enumerate(SIZES)]
    features = features_of([each for each in seen if each[2] != NEW or each[0] >= 8])
    rng = np.random.default_rng(4)
    n = features["n"].to_numpy()
    ready = np.sort(rng.integers(0, n[:, None] + 1, (len(features), 4)), axis=1).astype(float)
    weight = np.ones(ready.shape)
    weight[features["round"] < 8, 3] = 0.0
    [cut] = np.flatnonzero((features["round"] == 8) & (features["plan"] == 1))
    ready[cut], weight[cut] = [0.0, 1.0, 0.0, 0.0], [1.5, 2.0, 0.0, 0.0]
    [early] = np.flatnonzero((features["round"] == 3) & (features["plan"] == 0))
    ready[early], weight[early] = [1.0, 0.0, 0.0, 0.0], [1.2, 0.0, 0.0, 0.0]
    return Runs(features, np.array([*TIMES_S, 240.0]), ready * (weight > 0), weight)


def chances_of(shares, correlations, n):
    """Beta-binomial probabilities of 0 to n at each time; at least k never falls."""
    found, least = [], [0.0] * (n + 1)
    for share, correlation in zip(shares, correlations, strict=True):
        spread = 1 / min(max(correlation, 1e-4), 0.999) - 1
        a, b = share * spread, (1 - share) * spread
        beta = lgamma(a) + lgamma(b) - lgamma(a + b)
        exactly = [
            comb(n, k) * exp(lgamma(k + a) + lgamma(n - k + b) - lgamma(n + a + b) - beta)
            for k in range(n + 1)
        ]
        least = [max(old, sum(exactly[k:])) for k, old in enumerate(least)]
        found.append([least[k] - (least[k + 1] if k < n else 0.0) for k in range(n + 1)])
    return found


def correlations_of(runs, model):
    """By moments, at each time, from these rows."""
    found = []
    for time in range(3):
        over = most = 0.0
        for ready, weight, n, target, _, _ in runs:
            share = SHARES[model][target][time]
            over += weight[time] * ((ready[time] - n * share) ** 2 - n * share * (1 - share))
            most += weight[time] * n * (n - 1) * share * (1 - share)
        found.append(min(max(over / most, 0.0), 0.999))
    return found


def lost_of(chances, ready, weight, n):
    """The mean over times and counts of the squared error of the distribution function."""
    total = 0.0
    for each, seen, much in zip(chances, ready, weight, strict=True):
        total += much * sum((sum(each[: k + 1]) - (seen <= k)) ** 2 for k in range(n)) / n
    return total / len(chances)


def pinball_of(chances, ready, weight, k):
    """Of the time to k, at three levels; unknown if watching ended before it."""
    seen_s = [
        at for at, count, much in zip(TIMES_S, ready, weight, strict=True) if much and count >= k
    ]
    if not seen_s and weight[-1] == 0:
        return np.nan
    losses = []
    for level in (0.1, 0.5, 0.9):
        told_s = [at for at, each in zip(TIMES_S, chances, strict=True) if sum(each[k:]) >= level]
        over_s = (seen_s or [180.0])[0] - (told_s or [180.0])[0]
        losses.append(over_s * level if over_s >= 0 else over_s * (level - 1))
    return sum(losses) / 3


def scores_of(chances, ready, weight, n):
    """One run's row of the table."""
    drawn = randomised = covered_open = cells_open = 0
    watched = [time for time in range(3) if weight[time] > 0]
    for time in watched:
        below = [sum(chances[time][: k + 1]) for k in range(n + 1)]
        low, high = (next(k for k in range(n + 1) if below[k] >= at) for at in (0.05, 0.95))
        count = int(ready[time])
        middle = below[count] - 0.5 * chances[time][count]
        held = 0.05 <= middle <= 0.95
        drawn += low <= count <= high
        randomised += held
        cells_open += max(chances[time]) < 0.95
        covered_open += held and max(chances[time]) < 0.95
    return {
        "crps": lost_of(chances, ready, weight, n),
        "coverage_drawn": drawn / len(watched),
        "coverage_randomised": randomised / len(watched),
        "covered_open": covered_open,
        "cells_open": cells_open,
        "pinball_half_s": pinball_of(chances, ready, weight, ceil(n / 2)),
        "pinball_all_s": pinball_of(chances, ready, weight, n),
    }


def rows_of(runs):
    """Return (ready, weight, n, target, round, plan) of each run, at the times learnt of."""
    names = ("n", "target", "round", "plan")
    columns = (runs.features[name] for name in names)
    return list(zip(runs.ready[:, :3], runs.weight[:, :3], *columns, strict=True))


def test_the_table_of_scores_is_that_of_plain_loops():
    """Rounds 0 to 7 are learnt from, 8 and 9 scored; the first of five blocks is rounds 0 and 1."""
    rows = rows_of(some_runs())
    learnt = [row for row in rows if row[4] <= 7]
    held = {True: [row for row in learnt if row[4] >= 2], False: learnt}  # seen and new targets
    correlations = {
        (name, seen): correlations_of(held[seen], name) for name in SHARES for seen in held
    }

    def chances(name, seen, row):
        return chances_of(SHARES[name][row[3]], correlations[name, seen], row[2])

    def lost(name, seen):
        return sum(3 * lost_of(chances(name, seen, row), *row[:3]) for row in held[seen])

    best = {seen: min(SHARES, key=lambda name: lost(name, seen)) for seen in held}
    used = {**{name: dict.fromkeys(held, name) for name in SHARES}, "chosen": best}
    expected = {
        name: pd.DataFrame(
            [
                {"round": row[4], "plan": row[5]}
                | scores_of(chances(of[row[3] != NEW], row[3] != NEW, row), *row[:3])
                for row in rows
                if row[4] >= 8
            ]
        )
        for name, of in used.items()
    }
    scores = score_forecasts(some_runs(), rng=Half(3), models=MODELS)

    for name, table in expected.items():
        mine = scores.runs[scores.runs["model"] == name].sort_values(["round", "plan"])
        for column in table:
            found = mine[column].tolist()
            assert found == pytest.approx(table[column].tolist(), nan_ok=True), column
    found = scores.table.set_index("model")
    means = pd.DataFrame({name: table.mean() for name, table in expected.items()}).T
    means["coverage_open"] = means["covered_open"] / means["cells_open"]
    for column in means.columns.intersection(found.columns):
        assert found[column].to_dict() == pytest.approx(means[column].to_dict()), column
    assert found["crps"].is_monotonic_increasing
    assert (found["runs"] == 6).all()
    errors = np.array([expected[name]["crps"] for name in ("global", "by size")])
    rng = np.random.default_rng(3)
    drawn = [errors[:, rng.integers(6, size=6)].sum(axis=1) for _ in range(2000)]
    gains = [1 - by_size / everywhere for everywhere, by_size in drawn]
    gain = found.loc["by size", ["gain", "gain_low", "gain_high"]].tolist()
    total = errors.sum(axis=1)
    assert gain == pytest.approx([1 - total[1] / total[0], *np.quantile(gains, [0.025, 0.975])])
    assert found.loc["global", ["gain", "gain_low", "gain_high"]].tolist() == [0.0, 0.0, 0.0]
    assert [*map(len, scores.pit.values())] == [
        int(sum((row[1] > 0).sum() for row in rows if row[4] >= 8))
    ] * 3


def test_without_the_global_model_gains_are_over_the_first_by_name():
    """That of one share everywhere is the better one here, and the one chosen."""
    models = {"a share by size": MODELS["by size"], "everywhere": MODELS["global"]}
    scores = score_forecasts(some_runs(), rng=Half(3), models=models)
    table = scores.table.set_index("model")
    error = table["crps"]

    assert scores.table["model"].tolist()[-1] == "a share by size"
    assert table["gain"].to_dict() == pytest.approx((1 - error / error.max()).to_dict())
    assert scores.table.index.equals(pd.RangeIndex(3))
    assert scores.runs.index.equals(pd.RangeIndex(18))


def test_where_some_count_is_certain_at_every_time_no_coverage_is_known():
    sure = {"global": lambda _: lambda _: lambda features: np.zeros((len(features), 3))}
    runs = some_runs()
    none = Runs(runs.features, runs.times_s, np.zeros_like(runs.ready), runs.weight)
    [row] = score_forecasts(none, rng=Half(3), models=sure).table.to_dict("records")

    assert (row["coverage_drawn"], row["crps"]) == (1.0, pytest.approx(0.0))
    assert np.isnan(row["coverage_open"])


def test_a_quantile_of_the_time_is_the_first_time_that_reaches_its_level_exactly():
    """Of one instance with the chances 0.25, 0.5 and 0.75, ready at the last time.

    A tenth is reached at 60 s and a half at 120 s.  Nine tenths are never reached, which counts
    as 180 s.  So the losses are 0.1 * 120, 0.5 * 60 and 0.
    """
    chances = np.array([[[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]]])
    features = features_of([(0, 0, NEW)]).assign(n=1)
    runs = Runs(features, np.array(TIMES_S), np.array([[0.0, 0.0, 1.0]]), np.ones((1, 3)))

    assert _time_losses(chances, runs, rows=np.array([0]), k=1) == pytest.approx([42 / 3])


def chosen_rounds(features, **settings):
    return [features["round"][part].tolist() for part in split_by_time(features, **settings)]


def test_the_split_by_time_is_exact_to_a_round_and_a_second():
    hourly = features_of([(number, 0, "t3.a in sa-east-1") for number in range(10)])
    daily = hourly.assign(sent_at=hourly["sent_at"].iloc[0] + pd.to_timedelta(hourly["round"], "D"))

    assert chosen_rounds(hourly) == [[*range(7)], [7, 8, 9]]  # after a gap of 0.9 h
    assert chosen_rounds(hourly, gap_s=3599.0) == [[*range(7)], [7, 8, 9]]
    assert chosen_rounds(hourly, gap_s=3600.0) == [[*range(7)], [8, 9]]
    assert chosen_rounds(hourly, gap_s=0.0, share=0.05) == [[0], [*range(1, 10)]]
    assert chosen_rounds(hourly, gap_s=0.0, share=0.2) == [[0, 1], [*range(2, 10)]]
    long = pd.concat(
        [
            daily,
            daily.assign(
                round=daily["round"] + 10, sent_at=daily["sent_at"] + pd.Timedelta(days=10)
            ),
        ]
    )
    long = long.reset_index(drop=True)
    assert chosen_rounds(long) == [[*range(14)], [*range(15, 20)]]  # a day
    moved = long["sent_at"] + pd.to_timedelta(0.5 * (long["round"] >= 14), unit="s")
    assert chosen_rounds(long.assign(sent_at=moved)) == [[*range(14)], [*range(14, 20)]]


def test_the_gap_of_a_split_by_time_is_a_tenth_of_all_the_time_between_first_and_last():
    """Of 60 minutes, 6: after the seventh round they end at the twelfth."""
    minutes = [0, 1, 2, 3, 4, 5, 6, 11.95, 12.0, 60.0]
    runs = features_of([(number, 0, "t3.a in sa-east-1") for number in range(10)])
    sent_at = runs["sent_at"].iloc[0] + pd.to_timedelta(minutes, unit="min")

    assert chosen_rounds(runs.assign(sent_at=sent_at)) == [[*range(7)], [9]]


@pytest.mark.parametrize(("targets", "parts"), [(2, 2), (4, 4), (5, 5), (12, 5)])
def test_the_targets_are_split_into_five_even_parts_or_as_many_as_there_are(targets, parts):
    features = pd.DataFrame({"target": [f"t{number}" for number in range(targets)] * 2})
    found = list(split_by_target(features, rng=np.random.default_rng(1)))
    sizes = [int(unseen.sum()) // 2 for _, unseen in found]

    assert len(found) == parts
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == targets
    assert all((learnt == ~unseen).all() for learnt, unseen in found)

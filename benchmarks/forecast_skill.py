"""What each model's forecast of the ready count is worth, on the sandbox's market.

``python benchmarks/forecast_skill.py [--targets 40 --rounds 40 --n 5 --repeats 5 --stronger]``:
many runs are drawn straight from the market.  Each model learns from a part of them and is scored
on the rest: on later runs, on unseen targets, and on unseen targets whose own history is hidden.

``oracle`` knows the state of every pool when the request is sent; no forecast can be better.
``closed`` is the share of the distance from ``global``, one curve for all targets, to the oracle.
``chosen`` is the model that ``fit_forecaster`` chooses.  ``--stronger`` adds three heavier
learners, which need scikit-learn.  Repeats draw other targets and other runs, on all cores.
Nothing here is a finding about AWS.
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
from forecast_market import choose_targets, oracle_shares, simulate_launches

from spotlib.analyze.comparable import RUN
from spotlib.forecast.forecast import CHOSEN
from spotlib.forecast.history import HISTORY
from spotlib.forecast.models import MODELS, Fit, Fitting, Runs, Shares, regressors
from spotlib.forecast.score import score_forecasts
from spotlib.forecast.training import Floats, training_table
from spotlib.sandbox.market import Market
from spotlib.sandbox.numbers import FITTED

SPLITS = ("later runs", "unseen targets", "unseen, no history")
SHOWN = ["crps", "closed", "coverage_drawn", "coverage_randomised"]


def scored(seed: int, given: argparse.Namespace) -> pd.DataFrame:
    """Return the scores of every model and split of one repeat."""
    rng = np.random.default_rng(seed)
    market = Market.named(given.market)
    targets = choose_targets(market, given.targets, rng=rng)
    drawn = {"rounds": given.rounds, "n": given.n, "every_s": given.every_s}
    training = training_table(simulate_launches(market, targets, rng=rng, **drawn))
    runs = Runs.of(training)
    shares = oracle_shares(market, runs.features, runs.times_s, rng=rng, draws=given.draws)
    beside: dict[str, Fitting] = {"oracle": partial(looked_up, runs, shares)}
    beside |= STRONGER if given.stronger else {}

    def scores(kind: str, table: pd.DataFrame) -> pd.DataFrame:
        parts = [
            score_forecasts(table, split=kind, models=models, rng=np.random.default_rng(seed)).table
            for models in (MODELS, *({name: fit} for name, fit in beside.items()))
        ]
        return pd.concat(parts).assign(closed=closed, ready=runs.share[:, -1].mean())

    return pd.concat(
        scores(kind, table).assign(split=split, seed=seed)
        for split, kind, table in splits(training)
    )


def splits(training: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the name of a split, how it splits, and the table to split."""
    hidden = training.assign(**dict.fromkeys(HISTORY, np.nan))
    yield from zip(SPLITS, ("time", "target", "target"), (training, training, hidden), strict=True)


def closed(table: pd.DataFrame) -> "pd.Series[float]":
    """Return the share of the distance from the global curve to the oracle, per model."""
    crps = table.set_index("model")["crps"]
    return (crps["global"] - table["crps"]) / (crps["global"] - crps["oracle"])


def looked_up(known: Runs, shares: Floats, _: Runs) -> Fit:
    """Return a way to fit that learns nothing: the shares of each run are known."""
    rows = pd.MultiIndex.from_frame(known.features[RUN])

    def predict(features: pd.DataFrame, *, times: list[int]) -> Floats:
        row = rows.get_indexer(pd.MultiIndex.from_frame(features[RUN]))
        return shares[row][:, times]

    def fit(some: Runs) -> Shares:
        return partial(predict, times=list(np.searchsorted(known.times_s, some.times_s)))

    return fit


def boosted(runs: Runs) -> Shares:
    """Fit the hazard of becoming ready in a step by boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415

    steps = np.unique(np.linspace(0, runs.times_s.size, 9).astype(int)[1:]) - 1
    ready = np.maximum.accumulate(runs.share, axis=1)
    before = np.pad(ready[:, steps], ((0, 0), (1, 0)))[:, :-1]
    became, stayed = ready[:, steps] - before, 1.0 - ready[:, steps]
    weight = runs.weight[:, steps]
    rows, look_up = numbers(runs)
    known = by_step(rows, steps.size)
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=120, max_leaf_nodes=12, min_samples_leaf=40
    )
    event = np.repeat([1, 0], len(known))
    each = np.concatenate([(weight * became).ravel(), (weight * stayed).ravel()])
    used = each > 0
    if np.unique(event[used]).size < 2:
        return MODELS["global"](runs)(runs)
    model.fit(np.concatenate([known, known])[used], event[used], sample_weight=each[used])
    mean = np.maximum.accumulate(runs.share.mean(axis=0))

    def shares(features: pd.DataFrame) -> Floats:
        chance = model.predict_proba(by_step(look_up(features), steps.size))[:, 1]
        ends = 1.0 - np.cumprod(1.0 - chance.reshape(len(features), -1), axis=1)
        # Between the steps it rises as the mean of all runs does.
        at = np.pad(mean[steps], (1, 0)) + 1e-9 * np.arange(steps.size + 1)
        padded = np.pad(ends, ((0, 0), (1, 0)))
        return np.stack([np.interp(mean, at, each) for each in padded])

    return shares


def forest(runs: Runs) -> Shares:
    """Fit a forest whose leaves hold curves: a random survival forest, as none is censored here."""
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415

    rows, look_up = numbers(runs)
    model = RandomForestRegressor(150, min_samples_leaf=10, max_features=0.5, random_state=0)
    model.fit(rows, runs.share)
    return lambda features: np.maximum.accumulate(model.predict(look_up(features)), axis=1)


def together(runs: Runs) -> Shares:
    """Fit the mean of the forest and the regression."""
    parts = [forest(runs), MODELS["regression"](runs)(runs)]
    return lambda features: np.mean([each(features) for each in parts], axis=0)


def numbers(runs: Runs) -> tuple[Floats, "partial[Floats]"]:
    """Return regressors with the mean share of each target, and how to get those of others."""
    target = runs.features["target"]
    end = pd.Series(runs.share[:, -1]).groupby(target.to_numpy())
    # Without the run itself: else a tree would read its answer.
    count, total = end.transform("size"), end.transform("sum")
    own = (total - runs.share[:, -1]) / (count - 1).replace(0, np.nan)
    rows = np.column_stack([regressors(runs.features), own])
    return np.nan_to_num(rows, nan=-1.0), partial(_numbers_of, end.mean())


def _numbers_of(mean: "pd.Series[float]", features: pd.DataFrame) -> Floats:
    rows = np.column_stack([regressors(features), features["target"].map(mean)])
    return np.nan_to_num(rows, nan=-1.0)


def by_step(rows: Floats, steps: int) -> Floats:
    """Return the rows, repeated with the number of each step."""
    return np.column_stack([np.repeat(rows, steps, axis=0), np.tile(range(steps), len(rows))])


STRONGER: dict[str, Fitting] = {
    "boosted hazard": lambda _: boosted,
    "forest": lambda _: forest,
    "forest + regression": lambda _: together,
}


def main() -> None:
    """Print the scores of every model, and the distance that the chosen one closed per repeat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--every-s", type=float, default=3600.0)
    parser.add_argument("--market", default=FITTED)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--draws", type=int, default=16, help="of each request, for the oracle")
    parser.add_argument("--stronger", action="store_true", help="add three heavier learners")
    given = parser.parse_args()
    print(f"SIMULATED, market {given.market!r}, {given.targets} targets, n={given.n}")
    seeds = range(given.seed, given.seed + given.repeats)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = pd.concat(pool.map(partial(scored, given=given), seeds))
    ready = found.groupby("seed")["ready"].first()
    print("share ready at the end, per seed:", *ready.round(2))
    for split, part in found.groupby("split", sort=False):
        means = part.groupby("model")[SHOWN].mean().sort_values("crps")
        print(f"\n{split}: means over {given.repeats} seeds")
        print(means.to_string(float_format="{:.3f}".format))
        default = part[part["model"] == CHOSEN].set_index("seed")["closed"]
        print("closed by the chosen model, per seed:", *default.round(2))


if __name__ == "__main__":
    main()

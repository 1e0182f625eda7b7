"""Models of the share of n that is ready over time, fitted to runs.

Four baselines that any better model must beat: one share over time for all runs; one per target,
shrunk toward the first; one per target and placement score, shrunk toward those of the target,
of the score and of all runs; and a logistic regression of the hazard on all features.  The
strength of shrinkage is chosen on held-out blocks of time.

``fitting`` returns a way to fit, and a fit returns a function from features to shares.  The
scatter of counts about a share belongs to ``forecast``; nothing is scored here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize

from spotlib.analyze.comparable import RUN
from spotlib.figures import target_names
from spotlib.forecast.training import Floats

MODELS = ("global", "target", "target x SPS", "hazard regression")
FEATURES = ("sps", "if_score", "price_share", "hour_utc", "since_last_s")
_FOLDS = 5
_CATEGORIES = ["target", "sps", "step"]
_LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "global": (),
    "target": (("target",),),
    "target x SPS": (("sps",), ("target",), ("target", "sps")),
}

Shares = Callable[[pd.DataFrame], Floats]  # features of runs -> share ready, (runs, times)


@dataclass(frozen=True)
class Runs:
    """A training table with one row per run: features, and counts (runs, times).

    Where a count was not observed, ``ready`` and ``weight`` are 0.
    """

    features: pd.DataFrame
    times_s: Floats
    ready: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, training: pd.DataFrame, *, times_s: Floats | None = None) -> "Runs":
        """Return the runs of a training table, in the order in which they were sent.

        ``times_s`` are the elapsed times to keep; default all.
        """
        ordered = training.sort_values(["sent_at", *RUN, "elapsed_s"], kind="stable")
        if times_s is None:
            times_s = np.unique(ordered["elapsed_s"])
        ordered = ordered[ordered["elapsed_s"].isin(times_s)]
        features = ordered.drop_duplicates(RUN).reset_index(drop=True)
        features = features.assign(target=target_names(features))
        column = np.searchsorted(times_s, ordered["elapsed_s"])
        row = ordered.groupby(RUN, sort=False).ngroup().to_numpy()
        ready, weight = np.zeros((2, len(features), times_s.size))
        ready[row, column] = ordered["ready"]
        weight[row, column] = ordered["weight"]
        return cls(features, times_s, ready, weight)

    def take(self, chosen: NDArray[np.bool_]) -> "Runs":
        """Return the chosen runs."""
        features = self.features[chosen].reset_index(drop=True)
        return replace(
            self, features=features, ready=self.ready[chosen], weight=self.weight[chosen]
        )

    @property
    def share(self) -> Floats:
        """The share ready, (runs, times)."""
        return np.asarray(self.ready / self.features[["n"]].to_numpy(float))


def time_blocks(features: pd.DataFrame) -> NDArray[np.intp]:
    """Return a fold per run: five blocks of time of about equal size, rounds kept whole.

    If there is one round only, there is no other time: a fold is then any fifth of the runs.
    """
    order = features["sent_at"].rank(method="first").to_numpy()
    blocks = pd.Series(np.floor((order - 1) * _FOLDS / len(features)).astype(np.intp))
    rounds = features.groupby(["batch_id", "round"]).ngroup().to_numpy()
    whole = np.asarray(blocks.groupby(rounds).transform("min"), dtype=np.intp)
    return whole if np.ptp(whole) else np.arange(len(features), dtype=np.intp) % _FOLDS


def target_folds(features: pd.DataFrame) -> NDArray[np.intp]:
    """Return a fold per run, with all runs of a target in the same fold."""
    codes: NDArray[np.intp] = pd.factorize(features["target"])[0] % _FOLDS
    return codes


def fitting(runs: Runs, model: str) -> Callable[[Runs], Shares]:
    """Return how to fit one of ``MODELS``; shrinkage is chosen here once, on all the runs."""
    if model == "hazard regression":
        return _fit_hazard
    strengths: list[float] = []
    for depth in range(len(_LEVELS[model])):
        levels = _LEVELS[model][: depth + 1]
        strengths.append(_best_strength(runs, levels, upper=strengths))
    return lambda some: _fit_shrunken(some, _LEVELS[model], strengths=strengths)


def _best_strength(
    runs: Runs, levels: Sequence[tuple[str, ...]], *, upper: Sequence[float]
) -> float:
    """Return the weight of the parent, in runs, that predicts held-out blocks of time best.

    ``upper`` holds the strengths of the levels above the last of ``levels``.
    """
    blocks = time_blocks(runs.features)

    def squared_error(log_strength: float) -> float:
        strengths = [*upper, float(np.exp(log_strength))]
        fit = partial(_fit_shrunken, levels=levels, strengths=strengths)
        shares = held_out(runs, fit, folds=blocks)
        return float((runs.weight * (runs.share - shares) ** 2).sum())

    found = optimize.minimize_scalar(
        squared_error, bounds=(np.log(0.1), np.log(100.0)), method="bounded", options={"xatol": 0.2}
    )
    return float(np.exp(found.x))


def held_out(runs: Runs, fit: Callable[[Runs], Shares], *, folds: NDArray[np.intp]) -> Floats:
    """Return the share that a model fitted to the other folds predicts per run, (runs, times)."""
    shares = np.empty_like(runs.ready)
    for fold in np.unique(folds):
        out = folds == fold
        shares[out] = fit(runs.take(~out))(runs.features[out])
    return shares


def _fit_shrunken(
    runs: Runs, levels: Sequence[tuple[str, ...]], *, strengths: Sequence[float]
) -> Shares:
    """Fit shares of nested groups, each shrunk toward its parent's; a new group takes that."""
    ready = runs.weight * runs.share
    root = (ready.sum(axis=0) + 0.5) / (runs.weight.sum(axis=0) + 1.0)  # never quite 0 or 1
    sums = [_group_sums(runs, names, ready=ready) for names in levels]

    def shares(features: pd.DataFrame) -> Floats:
        share = np.broadcast_to(root, (len(features), root.size))
        for names, strength, (groups, total, weight) in zip(levels, strengths, sums, strict=True):
            row = groups.get_indexer(_keys(features, names))  # a new group: -1, the last row
            share = (total[row] + strength * share) / (weight[row] + strength)
        return np.asarray(np.maximum.accumulate(share, axis=1))

    return shares


def _group_sums(
    runs: Runs, names: tuple[str, ...], *, ready: Floats
) -> tuple["pd.Index[str]", Floats, Floats]:
    """Return the groups, their ready shares and weights, summed; a last row of zeros."""
    keys = _keys(runs.features, names)
    groups = keys.unique()
    row = groups.get_indexer(keys)
    total, weight = np.zeros((2, len(groups) + 1, ready.shape[1]))
    np.add.at(total, row, ready)
    np.add.at(weight, row, runs.weight)
    return groups, total, weight


def _keys(features: pd.DataFrame, names: Sequence[str]) -> "pd.Index[str]":
    """Return the name of each run's group; an unknown score is a group of its own."""
    columns = [features[name].tolist() for name in names]
    return pd.Index(["|".join(map(str, key)) for key in zip(*columns, strict=True)])


def _fit_hazard(runs: Runs) -> Shares:
    """Fit a logistic regression of becoming ready in a step, given pending at its start.

    Each run counts once.  A step in which no instance became ready has hazard 0 and is left out.
    """
    before = np.pad(runs.ready, ((0, 0), (1, 0)))[:, :-1]
    n = runs.features[["n"]].to_numpy(float)
    became = runs.weight / n * np.maximum(runs.ready - before, 0.0)
    stayed = runs.weight / n * (n - np.maximum(runs.ready, before))
    steps = np.flatnonzero(became.any(axis=0))
    weight = np.concatenate([became[:, steps].ravel(), stayed[:, steps].ravel()])
    used = weight > 0
    rows = _hazard_rows(runs.features, steps)
    event = np.repeat([1, 0], len(rows))[used]
    if np.unique(event).size < 2:  # none became ready, or all in one step
        return _fit_shrunken(runs, (), strengths=())
    model = _regression([name for name in rows.columns if name not in _CATEGORIES])
    both = pd.concat([rows, rows], ignore_index=True)[used]
    model.fit(both, event, logisticregression__sample_weight=weight[used])

    def shares(features: pd.DataFrame) -> Floats:
        hazard = np.zeros((len(features), before.shape[1]))
        chance = model.predict_proba(_hazard_rows(features, steps))[:, 1]
        hazard[:, steps] = chance.reshape(len(features), -1)
        return np.asarray(1.0 - np.cumprod(1.0 - hazard, axis=1))

    return shares


def _regression(numbers: Sequence[str]) -> Any:
    # Slow to import.
    from sklearn.compose import make_column_transformer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    # A new target or score, or a column without values, adds nothing to the prediction.
    scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    encoded = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((encoded, _CATEGORIES), (scaled, list(numbers)))
    return make_pipeline(columns, LogisticRegression(C=10.0, max_iter=1000))


def _hazard_rows(features: pd.DataFrame, steps: NDArray[np.intp]) -> pd.DataFrame:
    """Return the regressors, one row per run and step."""
    angle = 2.0 * np.pi * features["hour_utc"] / 24.0
    regressors = pd.DataFrame(
        {
            "target": features["target"].astype(str),
            "sps": features["sps"].astype(object).map(str),
            "log_n": np.log(features["n"].astype(float)),
            "if_score": features["if_score"].astype(float),
            "price_share": features["price_share"].astype(float),
            "hour_sine": np.sin(angle),
            "hour_cosine": np.cos(angle),
            "log_since_last": np.log(features["since_last_s"].astype(float)),
        }
    )
    rows = regressors.loc[regressors.index.repeat(steps.size)].reset_index(drop=True)
    return rows.assign(step=np.tile(steps, len(features)))

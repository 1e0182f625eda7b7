"""The share of n that is ready over time, learnt from runs: shrunken curves, and a regression.

Each ``fit`` takes runs and gives a function from the features of runs to curves.  A group's
curve is shrunk to its parent's as strongly as predicts held-out stretches of time best.  How
counts scatter about a curve is ``forecast``'s.  Nothing is scored here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

Shares = Callable[[pd.DataFrame], Floats]  # features of runs -> share ready (runs, times)


@dataclass(frozen=True)
class Runs:
    """A training table with one row a run: features, and counts (runs, times).

    ``ready`` is 0 with ``weight`` 0 where the count is not known.
    """

    features: pd.DataFrame
    times_s: Floats
    ready: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, training: pd.DataFrame, *, times_s: Floats | None = None) -> "Runs":
        """The runs of a training table, in the order in which they were sent.

        ``times_s`` are the times wanted; default all that are there.
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
        """Some of the runs."""
        features = self.features[chosen].reset_index(drop=True)
        return replace(
            self, features=features, ready=self.ready[chosen], weight=self.weight[chosen]
        )

    @property
    def share(self) -> Floats:
        """The share ready, (runs, times)."""
        return np.asarray(self.ready / self.features[["n"]].to_numpy(float))


def time_blocks(features: pd.DataFrame, *, folds: int = _FOLDS) -> NDArray[np.intp]:
    """A fold for each run: stretches of time of about equally many runs, rounds kept whole.

    Where all rounds began together there is no other time, and a fold is any fifth of the runs.
    """
    order = features["sent_at"].rank(method="first").to_numpy()
    blocks = pd.Series(np.floor((order - 1) * folds / len(features)).astype(np.intp))
    rounds = features.groupby(["batch_id", "round"]).ngroup().to_numpy()
    whole = np.asarray(blocks.groupby(rounds).transform("min"), dtype=np.intp)
    return whole if np.ptp(whole) else np.arange(len(features), dtype=np.intp) % folds


def target_folds(features: pd.DataFrame) -> NDArray[np.intp]:
    """A fold for each run: all runs of a target in one."""
    codes: NDArray[np.intp] = pd.factorize(features["target"])[0] % _FOLDS
    return codes


def fitting(runs: Runs, model: str) -> Callable[[Runs], Shares]:
    """How to fit one of ``MODELS``, its strengths of shrinking chosen once, on all the runs."""
    if model == "hazard regression":
        return _fit_hazard
    strengths: list[float] = []
    for depth in range(len(_LEVELS[model])):
        levels = _LEVELS[model][: depth + 1]
        strengths.append(_best_strength(runs, levels, strengths))
    return lambda some: _fit_shrunken(some, _LEVELS[model], strengths)


def _best_strength(runs: Runs, levels: Sequence[tuple[str, ...]], given: Sequence[float]) -> float:
    """The weight of the parent, in runs, that predicts held-out stretches of time best."""
    blocks = time_blocks(runs.features)

    def missed(log_strength: float) -> float:
        strengths = [*given, float(np.exp(log_strength))]
        shares = held_out(runs, lambda some: _fit_shrunken(some, levels, strengths), blocks)
        return float((runs.weight * (runs.share - shares) ** 2).sum())

    found = optimize.minimize_scalar(
        missed, bounds=(np.log(0.1), np.log(100.0)), method="bounded", options={"xatol": 0.2}
    )
    return float(np.exp(found.x))


def held_out(runs: Runs, fit: Callable[[Runs], Shares], folds: NDArray[np.intp]) -> Floats:
    """What the model says of each run when its fold was not learnt from, (runs, times)."""
    shares = np.empty_like(runs.ready)
    for fold in np.unique(folds):
        out = folds == fold
        shares[out] = fit(runs.take(~out))(runs.features[out])
    return shares


def _fit_shrunken(
    runs: Runs, levels: Sequence[tuple[str, ...]], strengths: Sequence[float]
) -> Shares:
    """Curves of nested groups, each shrunk to its parent's; what is not met is its parent's."""
    came = runs.weight * runs.share
    root = (came.sum(axis=0) + 0.5) / (runs.weight.sum(axis=0) + 1.0)  # never quite 0 or 1
    sums = [_group_sums(runs, names, came) for names in levels]

    def shares(features: pd.DataFrame) -> Floats:
        curve = np.broadcast_to(root, (len(features), root.size))
        for names, strength, (keys, gained, weight) in zip(levels, strengths, sums, strict=True):
            row = keys.get_indexer(_keys(features, names))  # -1, the last row, where not met
            curve = (gained[row] + strength * curve) / (weight[row] + strength)
        return np.asarray(np.maximum.accumulate(curve, axis=1))

    return shares


def _group_sums(
    runs: Runs, names: tuple[str, ...], came: Floats
) -> tuple["pd.Index[str]", Floats, Floats]:
    keys = _keys(runs.features, names)
    groups = keys.unique()
    row = groups.get_indexer(keys)
    gained, weight = np.zeros((2, len(groups) + 1, came.shape[1]))
    np.add.at(gained, row, came)
    np.add.at(weight, row, runs.weight)
    return groups, gained, weight


def _keys(features: pd.DataFrame, names: Sequence[str]) -> "pd.Index[str]":
    """One text a run that names its group; an unknown score is a group of its own."""
    columns = [features[name].tolist() for name in names]
    return pd.Index(["|".join(map(str, key)) for key in zip(*columns, strict=True)])


def _fit_hazard(runs: Runs) -> Shares:
    """Logistic regression of coming in a step, given pending at its start; each run counts once.

    A step in which none ever came has hazard 0 and tells the regression nothing.
    """
    before = np.pad(runs.ready, ((0, 0), (1, 0)))[:, :-1]
    n = runs.features[["n"]].to_numpy(float)
    came = runs.weight / n * np.maximum(runs.ready - before, 0.0)
    stayed = runs.weight / n * (n - np.maximum(runs.ready, before))
    steps = np.flatnonzero(came.any(axis=0))
    weight = np.concatenate([came[:, steps].ravel(), stayed[:, steps].ravel()])
    asked = weight > 0
    rows = _hazard_rows(runs.features, steps)
    event = np.repeat([1, 0], len(rows))[asked]
    if np.unique(event).size < 2:  # none came at all, or all in one step: nothing to regress on
        return _fit_shrunken(runs, (), ())
    model = _regression([name for name in rows.columns if name not in _CATEGORIES])
    both = pd.concat([rows, rows], ignore_index=True)[asked]
    model.fit(both, event, logisticregression__sample_weight=weight[asked])

    def shares(features: pd.DataFrame) -> Floats:
        hazard = np.zeros((len(features), before.shape[1]))
        chance = model.predict_proba(_hazard_rows(features, steps))[:, 1]
        hazard[:, steps] = chance.reshape(len(features), -1)
        return np.asarray(1.0 - np.cumprod(1.0 - hazard, axis=1))

    return shares


def _regression(numbers: Sequence[str]) -> Any:
    # Slow to import: only where it is asked for.
    from sklearn.compose import make_column_transformer  # noqa: PLC0415
    from sklearn.impute import SimpleImputer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: PLC0415

    # A target, score or column that was never met says nothing: the others do.
    scaled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    encoded = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((encoded, _CATEGORIES), (scaled, list(numbers)))
    return make_pipeline(columns, LogisticRegression(C=10.0, max_iter=1000))


def _hazard_rows(features: pd.DataFrame, steps: NDArray[np.intp]) -> pd.DataFrame:
    """What the regression sees: one row a run and step."""
    angle = 2.0 * np.pi * features["hour_utc"] / 24.0
    seen = pd.DataFrame(
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
    rows = seen.loc[seen.index.repeat(steps.size)].reset_index(drop=True)
    return rows.assign(step=np.tile(steps, len(features)))

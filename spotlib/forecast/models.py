"""Models of the share of n that is ready over time, fitted to runs.

Three baselines that any better model must beat: one share over time for all runs; one per target,
shrunk toward the first; one per target and placement score, shrunk toward those of the target,
of the score and of all runs.  The fourth is a penalised logistic regression of the share on all
features, own history among them, times one shape of time for all runs.

A model is a ``Fitting``: from all runs it chooses how strongly to shrink, on runs later than those
it learnt from, and returns how to fit; a fit returns a function from features to shares.  The
scatter of counts about a share belongs to ``forecast``; nothing is scored here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from spotlib.analyze.comparable import RUN
from spotlib.figures import target_names
from spotlib.forecast.history import HISTORY
from spotlib.forecast.training import Floats

FEATURES = ("sps", "t3", "if_score", "price_share", "hour_utc", "since_last_s", *HISTORY)
_BLOCKS = 5
_TARGET_PENALTY = 3.0  # of a target's own effect, in runs of which half were ready, times four
_LEVELS: dict[str, tuple[tuple[str, ...], ...]] = {
    "global": (),
    "target": (("target",),),
    "target x SPS": (("sps",), ("target",), ("target", "sps")),
}

Shares = Callable[[pd.DataFrame], Floats]  # features of runs -> share ready, (runs, times)
Fit = Callable[["Runs"], Shares]
Fitting = Callable[["Runs"], Fit]
Parts = Sequence[tuple[NDArray[np.bool_], NDArray[np.bool_]]]  # runs to learn from, runs to predict


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

    def thinned(self, times: int = 4) -> "Runs":
        """Return the runs at a few of the times: enough to compare models, and much quicker."""
        kept = np.unique(np.linspace(0, self.times_s.size - 1, times + 1).astype(np.intp)[1:])
        return Runs(self.features, self.times_s[kept], self.ready[:, kept], self.weight[:, kept])

    @property
    def share(self) -> Floats:
        """The share ready, (runs, times)."""
        return np.asarray(self.ready / self.features[["n"]].to_numpy(float))


def time_blocks(features: pd.DataFrame) -> NDArray[np.intp]:
    """Return a block per run: five blocks of time of about equal size, rounds kept whole."""
    order = features["sent_at"].rank(method="first").to_numpy()
    blocks = pd.Series(np.floor((order - 1) * _BLOCKS / len(features)).astype(np.intp))
    rounds = features.groupby(["batch_id", "round"]).ngroup().to_numpy()
    return np.asarray(blocks.groupby(rounds).transform("min"), dtype=np.intp)


def later_parts(features: pd.DataFrame) -> Parts:
    """Return, for each block of time but the first, the runs before it and its own.

    If there is one round only, no run is later than another: each fifth is then predicted from
    the others.
    """
    blocks = time_blocks(features)
    if np.ptp(blocks):
        return [(blocks < each, blocks == each) for each in np.unique(blocks)[1:]]
    return _each_from_the_others(np.arange(len(features)) % _BLOCKS)


def target_parts(features: pd.DataFrame) -> Parts:
    """Return each fifth of the targets with the runs of all others; none if there is one target."""
    return _each_from_the_others(pd.factorize(features["target"])[0] % _BLOCKS)


def _each_from_the_others(codes: NDArray[np.intp]) -> Parts:
    found = np.unique(codes)
    return [(codes != each, codes == each) for each in found] if found.size > 1 else []


def held_out(runs: Runs, fit: Fit, *, parts: Parts) -> Floats:
    """Return the share that is predicted for the runs of each part, else NaN: (runs, times)."""
    shares = np.full_like(runs.ready, np.nan)
    for learn, predict in parts:
        shares[predict] = fit(runs.take(learn))(runs.features[predict])
    return shares


def _shrunken(runs: Runs, *, levels: Sequence[tuple[str, ...]]) -> Fit:
    strengths: list[float] = []
    for depth in range(len(levels)):
        strengths.append(_best_strength(runs.thinned(), levels[: depth + 1], upper=strengths))
    return partial(_fit_shrunken, levels=levels, strengths=strengths)


def _best_strength(
    runs: Runs, levels: Sequence[tuple[str, ...]], *, upper: Sequence[float]
) -> float:
    """Return the weight of the parent, in runs, that predicts later runs best.

    ``upper`` holds the strengths of the levels above the last of ``levels``.
    """
    parts = later_parts(runs.features)

    def squared_error(log_strength: float) -> float:
        strengths = [*upper, float(np.exp(log_strength))]
        fit = partial(_fit_shrunken, levels=levels, strengths=strengths)
        shares = held_out(runs, fit, parts=parts)
        return float(np.nansum(runs.weight * (runs.share - shares) ** 2))

    found = optimize.minimize_scalar(
        squared_error, bounds=(np.log(0.1), np.log(100.0)), method="bounded", options={"xatol": 0.2}
    )
    return float(np.exp(found.x))


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


def _fit_regression(runs: Runs) -> Shares:
    """Fit a logistic regression of the share at the last time, times a shape of time.

    Each run counts once.  Regressors are standardised and penalised; each target has an effect of
    its own, shrunk toward 0.  A fractional response (Papke and Wooldridge, J. Appl. Econom. 1996).
    """
    targets = pd.Index(runs.features["target"].unique())
    regressors = _regressors(runs.features)
    mean, spread = regressors.mean(axis=0), regressors.std(axis=0)
    spread[spread == 0] = np.inf  # what never varied in training explains nothing

    def design(features: pd.DataFrame) -> sparse.csr_array:
        one_hot = targets.get_indexer(features["target"])[:, None] == np.arange(len(targets))
        scaled = (_regressors(features) - mean) / spread
        one = np.ones((len(features), 1))
        return sparse.hstack([one, scaled, sparse.csr_array(one_hot)], format="csr")

    share, weight = runs.share[:, -1], runs.weight[:, -1]
    known = design(runs.features)
    penalty = np.repeat([1e-3, 1.0, _TARGET_PENALTY], [1, mean.size, len(targets)])

    def loss(effects: Floats) -> tuple[float, Floats]:
        logit = known @ effects
        lost = weight @ (np.logaddexp(0.0, logit) - share * logit)
        slope = known.T @ (weight * (special.expit(logit) - share))
        return lost + 0.5 * penalty @ effects**2, slope + penalty * effects

    effects = optimize.minimize(loss, np.zeros(penalty.size), jac=True, method="L-BFGS-B").x
    shape = _shape_of_time(runs)
    return lambda features: special.expit(design(features) @ effects)[:, None] * shape


def _shape_of_time(runs: Runs) -> Floats:
    """Return the share ready over time of those ready at the end, (times,)."""
    total = np.maximum.accumulate((runs.weight * runs.share).sum(axis=0) / len(runs))
    return np.asarray(total / total[-1] if total[-1] > 0 else np.ones_like(total))


def _regressors(features: pd.DataFrame) -> Floats:
    """Return what the regression uses of the features, (runs, regressors).

    What is unknown has its own indicator, beside a value that is the same for all unknown ones.
    """
    known = features[[*FEATURES, "n"]].astype(float)
    angle = 2.0 * np.pi * known["hour_utc"] / 24.0
    age = np.log(known["last_run_s"])
    numbers = pd.DataFrame(
        {
            "sps": known["sps"],
            "log_t3": np.log1p(known["t3"]),
            "if_score": known["if_score"],
            "price_share": known["price_share"],
            "log_n": np.log(known["n"]),
            "hour_sine": np.sin(angle),
            "hour_cosine": np.cos(angle),
            "log_since_last": np.log(known["since_last_s"]),
            "last": known["last_share"] - 0.5,
            "last3": known["last3_share"] - 0.5,
            "last_by_age": (known["last_share"] - 0.5) * age,
        }
    )
    unknown = known[["sps", "t3", "if_score", "last_share"]].isna()
    return np.hstack([numbers.fillna(0.0).to_numpy(), unknown.to_numpy(float)])


MODELS: dict[str, Fitting] = {
    **{name: partial(_shrunken, levels=levels) for name, levels in _LEVELS.items()},
    "regression": lambda _: _fit_regression,
}

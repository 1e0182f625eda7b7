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
from spotlib.forecast.training import Floats, count_runs

FEATURES = ("sps", "t3", "if_score", "price_share", "hour_utc", "since_last_s", *HISTORY)
# One of the three of history: they are unknown together.
_MAY_BE_UNKNOWN = ("sps", "t3", "if_score", "price_share", "since_last_s", "last_share")
Levels = tuple[tuple[str, ...], ...]  # the columns that name the groups, from the outermost on
Sums = tuple[Floats, Floats]
_BLOCKS = 5
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TARGET_PENALTY = 3.0  # of a target's own effect, in runs of which half were ready, times four
_LEVELS: dict[str, Levels] = {
    "global": (),
    "target": (("target",),),
    "target x SPS": (("sps",), ("target",), ("target", "sps")),
}

Shares = Callable[[pd.DataFrame], Floats]  # features of runs -> share ready, (runs, times)
Fit = Callable[["Runs"], Shares]
Fitting = Callable[["Runs"], Fit]
Part = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # runs to learn from, runs to predict
Parts = Sequence[Part]


@dataclass(frozen=True)
class Runs:
    """The runs to learn from, one row each: features, and counts (runs, times).

    Where a count was not observed, ``ready`` and ``weight`` are 0.
    """

    features: pd.DataFrame
    times_s: Floats
    ready: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def of(cls, training: "pd.DataFrame | Runs") -> "Runs":
        """Return the runs of a training table, in the order in which they were sent."""
        if isinstance(training, Runs):
            return training
        if "elapsed_s" not in training:
            raise ValueError(
                "training must be a training table, got one without elapsed_s: of launches it is "
                "training_table(launches)"
            )
        number = training.groupby(RUN, sort=False).ngroup().to_numpy()
        times_s, column = np.unique(training["elapsed_s"], return_inverse=True)
        ready, weight = np.zeros((2, number.max() + 1, times_s.size))
        ready[number, column] = training["ready"]
        weight[number, column] = training["weight"]
        return cls._in_order(training.drop_duplicates(RUN), times_s, ready, weight)

    @classmethod
    def of_requests(
        cls, requests: pd.DataFrame, *, step_s: float = 15.0, horizon_s: float | None = None
    ) -> "Runs":
        """Return the runs of a request table: as ``of`` their training table, without making it."""
        counts = count_runs(requests, step_s=step_s, horizon_s=horizon_s)
        kept = np.flatnonzero(counts.observed.any(axis=1))
        ready, weight = (
            (each * counts.observed)[kept].astype(float) for each in (counts.ready, counts.weight)
        )
        runs = cls._in_order(counts.known.iloc[kept], counts.times_s, ready, weight)
        return runs.at(np.flatnonzero(counts.observed.any(axis=0)))

    @classmethod
    def _in_order(
        cls, known: pd.DataFrame, times_s: Floats, ready: Floats, weight: Floats
    ) -> "Runs":
        features = known.assign(target=target_names(known)).reset_index(drop=True)
        features = features.sort_values(["sent_at", *RUN], kind="stable")
        features = features.reindex(
            columns=[*RUN, "simulated", "sent_at", "target", "n", *FEATURES]
        ).astype(dict.fromkeys(("batch_id", "target"), "category"))
        order = features.index
        return cls(features.reset_index(drop=True), times_s, ready[order], weight[order])

    def take(self, chosen: NDArray[np.bool_]) -> "Runs":
        """Return the chosen runs."""
        features = self.features[chosen].reset_index(drop=True)
        return replace(
            self, features=features, ready=self.ready[chosen], weight=self.weight[chosen]
        )

    def thinned(self, times: int = 4) -> "Runs":
        """Return the runs at a few of the times: enough to compare models, and much quicker."""
        kept = np.unique(np.linspace(0, self.times_s.size - 1, times + 1).astype(np.intp)[1:])
        return self.at(kept)

    def at(self, kept: NDArray[np.intp]) -> "Runs":
        """Return the runs at some of the times."""
        ready, weight = (each.take(kept, axis=1) for each in (self.ready, self.weight))
        return Runs(self.features, self.times_s[kept], ready, weight)

    @property
    def watched(self) -> int:
        """How many of them were watched to the last time: those of a stopped batch were not."""
        return int((self.weight[:, -1:] > 0).sum())  # there may be no time at all

    @property
    def simulated(self) -> bool:
        """Whether they happened in the sandbox."""
        return bool(self.features["simulated"].iloc[0])

    @property
    def n(self) -> NDArray[np.intp]:
        """The instances requested, (runs,)."""
        return self.features["n"].to_numpy(np.intp)

    @property
    def share(self) -> Floats:
        """The share ready, (runs, times)."""
        return np.asarray(self.ready / self.n[:, None])


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
    parts = [(codes != each, codes == each) for each in np.unique(codes)]
    return [part for part in parts if part[0].any()]


def held_out(runs: Runs, fit: Fit, *, parts: Parts) -> tuple[Runs, Floats]:
    """Return the runs that ``parts`` predict and the shares predicted for them, (runs, times)."""
    shares, predicted = np.empty_like(runs.ready), np.zeros(len(runs), dtype=bool)
    for known, other in parts:
        shares[other] = fit(runs.take(known))(runs.features[other])
        predicted |= other
    return runs.take(predicted), shares[predicted]


def _shrunken(runs: Runs, *, levels: Levels) -> Fit:
    return partial(_fit_shrunken, levels=levels, strengths=_strengths(runs.thinned(), levels))


def _strengths(runs: Runs, levels: Levels) -> list[float]:
    """Return the weight of each level's parent, in runs, that predicts later runs best."""
    parts = later_parts(runs.features)
    groups = [_groups(runs.take(known), levels)(runs.features[later]) for known, later in parts]

    def squared_error(strengths: Sequence[float]) -> float:
        shares = [_shrink(found, strengths) for found in groups]
        return sum(
            float((runs.weight[later] * (runs.share[later] - share) ** 2).sum())
            for (_, later), share in zip(parts, shares, strict=True)
        )

    chosen: list[float] = []
    for _ in levels:  # with those above it
        chosen.append(min(_STRENGTHS, key=lambda strength: squared_error([*chosen, strength])))
    return chosen


def _fit_shrunken(runs: Runs, levels: Levels, *, strengths: Sequence[float]) -> Shares:
    """Fit shares of nested groups, each shrunk toward its parent's; a new group takes that."""
    groups = _groups(runs, levels)
    return lambda features: _shrink(groups(features), strengths)


def _shrink(found: Sequence[Sums], strengths: Sequence[float]) -> Floats:
    total, weight = found[0]
    share = (total + 0.5) / (weight + 1.0)  # never quite 0 or 1
    for (total, weight), strength in zip(found[1:], strengths, strict=False):
        share = (total + strength * share) / (weight + strength)
    return np.asarray(np.maximum.accumulate(share, axis=1))


def _groups(runs: Runs, levels: Levels) -> Callable[[pd.DataFrame], list[Sums]]:
    """Return a function from features to the sums of the groups they are in, outermost first.

    The sums are of ready shares and of weights, (runs, times); those of a new group are 0.
    """
    both = np.concatenate([runs.weight * runs.share, runs.weight], axis=1)
    tables = []
    for names in levels:
        row, groups = pd.factorize(_keys(runs.features, names))
        sums = np.zeros((len(groups) + 1, both.shape[1]))
        np.add.at(sums, row, both)
        tables.append((names, groups, sums))

    def look_up(features: pd.DataFrame) -> list[Sums]:
        all_runs = np.broadcast_to(both.sum(axis=0), (len(features), both.shape[1]))
        found = [sums[groups.get_indexer(_keys(features, names))] for names, groups, sums in tables]
        middle = runs.times_s.size
        return [(each[:, :middle], each[:, middle:]) for each in (all_runs, *found)]

    return look_up


def _keys(features: pd.DataFrame, names: Sequence[str]) -> "pd.Index[int]":
    """Return the number of each run's group; runs with an unknown score form their own group."""
    columns = features[list(names)].astype({"sps": float} if "sps" in names else {})
    return pd.Index(pd.util.hash_pandas_object(columns, index=False))


def _fit_regression(runs: Runs) -> Shares:
    """Fit a logistic regression of the share at the last time, times a shape of time.

    Each run counts once.  Regressors are standardised and penalised; each target has an effect of
    its own, shrunk toward 0.  A fractional response (Papke and Wooldridge, J. Appl. Econom.
    1996).  A value beyond those in training counts as the nearest of them.  If a feature was
    sometimes unknown in training, being unknown is a regressor too.
    """
    targets = pd.Index(np.asarray(runs.features["target"].unique()))
    typical = runs.features[[*HISTORY]].mean()  # of which one may be known without another

    def numbers(features: pd.DataFrame) -> Floats:
        filled = features.assign(**features[[*HISTORY]].fillna(typical))
        return np.hstack([regressors(filled), features[[*_MAY_BE_UNKNOWN]].isna()])

    learnt = pd.DataFrame(numbers(runs.features))
    low, high, mean = (learnt.agg(each).to_numpy() for each in ("min", "max", "mean"))  # if known
    varied = learnt.std(ddof=0).to_numpy()
    spread = np.where(varied > 0, varied, np.inf)  # what never varied in training explains nothing

    def design(features: pd.DataFrame) -> sparse.csr_array:
        one_hot = targets.get_indexer(features["target"])[:, None] == np.arange(len(targets))
        within = np.clip(numbers(features), low, high)  # no effect is known to go on
        scaled = np.nan_to_num((within - mean) / spread)  # what is unknown counts as the mean
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
    total = np.maximum.accumulate((runs.weight * runs.share).sum(axis=0))
    return np.asarray(total / total[-1] if total[-1] > 0 else np.ones_like(total))


def regressors(features: pd.DataFrame) -> Floats:
    """Return what the regression uses of the features, (runs, regressors); NaN is unknown."""
    known = features[[*FEATURES, "n"]].astype(float)
    angle = 2.0 * np.pi * known["hour_utc"] / 24.0
    since_s, age_s = (known[name].clip(lower=1.0) for name in ("since_last_s", "last_run_s"))
    numbers = pd.DataFrame(
        {
            "log_t3": np.log1p(known["t3"]),
            "if_score": known["if_score"],
            "price_share": known["price_share"],
            "log_n": np.log(known["n"]),
            "hour_sine": np.sin(angle),
            "hour_cosine": np.cos(angle),
            "log_since_last": np.log(since_s),
            "last": known["last_share"] - 0.5,
            "last3": known["last3_share"] - 0.5,
            "last_by_age": (known["last_share"] - 0.5) * np.log(age_s),
        }
    )
    sps = known[["sps"]].to_numpy()  # a step from each score to the next
    return np.hstack([np.where(np.isnan(sps), np.nan, sps >= np.arange(2, 11)), numbers])


MODELS: dict[str, Fitting] = {
    **{name: partial(_shrunken, levels=levels) for name, levels in _LEVELS.items()},
    "regression": lambda _: _fit_regression,
}

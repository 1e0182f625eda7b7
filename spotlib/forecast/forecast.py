"""How many of n instances will be ready t seconds after the request: the whole distribution.

One of ``models`` predicts the share ready over time: by default the best on held-out runs.
Instances of one request fail together, so the count about that share is beta-binomial.  Its
correlation is estimated from the errors on held-out runs: on later ones for a target seen in
training, on those of other targets for a new one.

The run (a plan in a round) is the sample.  Nothing is scored here (``score`` does that), and no
forecast goes beyond the last elapsed time of the training table.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from spotlib.analyze.intervals import FEWEST_RUNS
from spotlib.errors import did_you_mean
from spotlib.forecast.models import (
    FEATURES,
    MODELS,
    Fit,
    Fitting,
    Parts,
    Runs,
    Shares,
    held_out,
    later_parts,
    target_parts,
)
from spotlib.forecast.training import Floats
from spotlib.forecast.unknown import complete
from spotlib.model import Target
from spotlib.words import listed

CHOSEN = "chosen"  # for a model: the best on held-out runs
BAND = (0.05, 0.95)
_POSSIBLE = {
    "sps": (1, 10),
    "if_score": (1, 3),
    "hour_utc": (0, 24),
    **dict.fromkeys(("last_share", "last3_share"), (0, 1)),
    **dict.fromkeys(("t3", "price_share", "since_last_s", "last_run_s"), (0, np.inf)),
}
_RUNS_AT_ONCE = 4096  # bounds the memory of a table of distributions
_MOST_CORRELATION = 0.999  # at 1 a beta-binomial is two points, and has no density


@dataclass(frozen=True)
class Forecast:
    """The distribution of the ready count of ``n`` at each of ``times_s``.

    ``probabilities[i, k]`` is the probability that exactly ``k`` are ready at ``times_s[i]``:
    shape (times, n + 1).  Rows sum to 1, and the probability of at least ``k`` never falls with
    time.  ``runs`` is the number of runs in training; ``seen_target`` says whether some of them
    were of this target.
    """

    target: Target
    n: int
    times_s: Floats
    probabilities: Floats
    model: str
    runs: int
    seen_target: bool
    simulated: bool

    @property
    def expected(self) -> Floats:
        """The mean count at each time, (times,)."""
        return np.asarray(self.probabilities @ np.arange(self.n + 1))

    def at_least(self, k: int) -> Floats:
        """Return the probability that ``k`` or more are ready, (times,)."""
        if not 0 <= k <= self.n:
            raise ValueError(f"k must be from 0 to n={self.n}, got {k}")
        return np.asarray(np.clip(self.probabilities[:, k:].sum(axis=1), 0.0, 1.0))

    def quantile(self, level: float) -> NDArray[np.intp]:
        """Return the smallest count whose distribution function reaches ``level``, (times,)."""
        return quantile(self.probabilities, level)

    @property
    def band(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The least and the most of the counts, (times,) each, that hold at least 90 %."""
        return band(self.probabilities)

    def time_to(self, k: int, *, level: float = 0.5) -> float:
        """Return the first of ``times_s`` with ``k`` ready at probability ``level``, or inf.

        Raises
        ------
        ValueError
            If ``level`` is no probability above 0.
        """
        if not 0 < level <= 1:
            raise ValueError(f"level must be above 0 and at most 1, such as 0.9, got {level!r}")
        reached = self.at_least(k) >= level
        return float(self.times_s[np.argmax(reached)]) if reached.any() else float("inf")


@dataclass(frozen=True)
class Fitted:
    """A fitted model, and the correlation within a run about its shares, (times,)."""

    model: str
    shares: Shares
    correlation: Floats


@dataclass(frozen=True)
class Forecaster:
    """Fitted models, to be passed to ``forecast_ready``.

    ``fits[True]()`` is for targets seen in training and ``fits[False]()`` for new ones, whose
    share is less certain and whose count is wider.  Each is fitted when it is first wanted.
    ``features`` are those of the runs in training.
    """

    fits: Mapping[bool, Callable[[], Fitted]]
    times_s: Floats
    features: pd.DataFrame
    simulated: bool

    @property
    def runs(self) -> int:
        """The number of runs in training."""
        return len(self.features)

    @cached_property
    def targets(self) -> frozenset[str]:
        """The targets seen in training."""
        return frozenset(self.features["target"].unique())

    def distributions(self, features: pd.DataFrame) -> Iterator[tuple[NDArray[np.intp], Floats]]:
        """Yield rows of ``features`` with equal n and their distributions, (rows, times, n + 1)."""
        seen = features["target"].isin(self.targets).to_numpy()
        for each in np.unique(seen):
            rows = np.flatnonzero(seen == each)
            fitted, some = self.fitted_for(seen=bool(each)), features.iloc[rows]
            shares, n = fitted.shares(some), some["n"].to_numpy()
            for within, chances in distributions(shares, fitted.correlation, n=n):
                yield rows[within], chances

    def fitted_for(self, *, seen: bool) -> Fitted:
        """Return the model for a target seen in training or for a new one.

        Raises
        ------
        ValueError
            If it is new and the training table has one target: how targets differ is unknown.
        """
        if seen not in self.fits:
            raise ValueError(
                "the training table has one target only: no other target can be forecast"
            )
        return self.fits[seen]()


def fit_forecaster(
    training: pd.DataFrame | Runs, *, model: str = CHOSEN, models: Mapping[str, Fitting] = MODELS
) -> Forecaster:
    """Fit one of ``models`` to a training table: by default the one that forecasts best.

    The best has the least CRPS on held-out runs.  For targets seen in training these are blocks
    of time, each forecast from all earlier ones; for new ones, the targets of each fifth, forecast
    from the others.  The correlation within a run is estimated from the same forecasts.  The
    shrunken models are empirical Bayes (Efron and Morris, JASA 1975): the share of a group's
    parent counts like a number of runs, which is chosen on the blocks of time.

    Raises
    ------
    ValueError
        If the model is unknown, or fewer than 6 runs were watched to the end.
    """
    if model not in (CHOSEN, *models):
        raise ValueError(f"model must be one of {(CHOSEN, *models)}, got {model!r}")
    used = {model: models[model]} if model in models else models
    return fit_forecasters(Runs.of(training), models=used)[model]


def fit_forecasters(runs: Runs, *, models: Mapping[str, Fitting]) -> dict[str, Forecaster]:
    """Return a forecaster by each of ``models``, and ``chosen``, which fits none of them again."""
    if runs.watched < FEWEST_RUNS:
        words = f"a forecast needs at least {FEWEST_RUNS} runs watched to the end"
        raise ValueError(f"{words}, got {runs.watched}")
    kinds = {True: later_parts(runs.features), False: target_parts(runs.features)}
    fits = {name: fitting(runs) for name, fitting in models.items()}

    @cache
    def fitted(name: str, seen: bool) -> Fitted:
        parts = kinds[seen]
        if name == CHOSEN:
            return fitted(_best(runs.thinned(), fits, parts=parts), seen)
        correlation = _correlation(*held_out(runs, fits[name], parts=parts))
        return Fitted(name, fits[name](runs), correlation)

    return {
        name: Forecaster(
            fits={seen: partial(fitted, name, seen) for seen, parts in kinds.items() if parts},
            times_s=runs.times_s,
            features=runs.features,
            simulated=runs.simulated,
        )
        for name in (*models, CHOSEN)
    }


def _best(runs: Runs, fits: Mapping[str, Fit], *, parts: Parts) -> str:
    """Return the model with the least CRPS on the held-out runs of ``parts``; first of equals."""

    def lost(name: str) -> float:
        tested, shares = held_out(runs, fits[name], parts=parts)
        counts = distributions(shares, _correlation(tested, shares), n=tested.n)
        return sum(
            float((tested.weight[rows] * crps(chances, tested.ready[rows])).sum())
            for rows, chances in counts
        )

    return min(fits, key=lost)


def _correlation(tested: Runs, shares: Floats) -> Floats:
    return estimate_correlation(tested.ready, tested.n, share=shares, weight=tested.weight)


def forecast_ready(
    forecaster: Forecaster,
    target: Target,
    *,
    n: int,
    features: Mapping[str, float] | None = None,
    times_s: ArrayLike | None = None,
) -> Forecast:
    """Forecast how many of ``n`` instances are ready at each time after the request.

    Parameters
    ----------
    forecaster : Forecaster
        From ``fit_forecaster``.
    target : Target
        What is requested; it need not be a target of the training table.
    n : int
        The instances requested in one call.
    features : mapping of str to float, optional
        What is known before the request: any of ``sps``, ``t3``, ``if_score``,
        ``price_share``, ``hour_utc``, ``since_last_s``, ``last_share``, ``last3_share`` and
        ``last_run_s``, in the units of the data dictionary.  A feature left out (or NaN) is
        unknown: the forecast is the average over the values it had in training, in the target's
        own runs or, for a new target, in those most like what is known.
    times_s : array_like, 1D, optional
        Seconds since the request, rising.  Default: the elapsed times of the training table.
        Between these the share is interpolated linearly.

    Returns
    -------
    Forecast
        The distribution of the count at each time.

    Raises
    ------
    ValueError
        If ``target`` is no ``Target``, ``n`` is below 1, a feature is not one of those above or has
        an impossible value, a time is later than the last elapsed time of the training table, or
        that table has one target only and this is another.

    Examples
    --------
    Twelve hourly runs of three instances; in every fourth run none became ready.  A study makes
    this table with ``training_table(load_launches("results/launches"))``.

    >>> import pandas as pd
    >>> from spotlib import Target, forecast_ready
    >>> from spotlib.forecast.forecast import fit_forecaster
    >>> hours = pd.date_range("2026-01-01", periods=12, freq="h", tz="UTC")
    >>> runs = pd.DataFrame({"batch_id": "a", "round": range(12), "plan": 0, "sent_at": hours})
    >>> runs = runs.assign(instance_type="t3.nano", region="sa-east-1", n=3, simulated=True)
    >>> counts = pd.DataFrame({"elapsed_s": [60.0, 120.0], "ready": [1, 3], "weight": 1.0})
    >>> training = runs.merge(counts, how="cross")
    >>> training.loc[training["round"] % 4 == 0, "ready"] = 0

    >>> forecaster = fit_forecaster(training, model="target")
    >>> forecast = forecast_ready(forecaster, Target("t3.nano", "sa-east-1"), n=3)
    >>> forecast.expected.round(1).tolist()
    [0.8, 2.2]
    >>> forecast.at_least(3).round(1).tolist()
    [0.0, 0.7]
    >>> forecast.time_to(2, level=0.5)
    120.0
    """
    if not isinstance(target, Target):
        raise ValueError(
            f"target must be a Target, such as Target('t3.nano', 'sa-east-1'), got {target!r}"
        )
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    values = {**dict.fromkeys(FEATURES, np.nan), **_require_possible(features or {}), "n": n}
    asked = pd.DataFrame([values], dtype=float).assign(target=str(target))
    asked_s = forecaster.times_s if times_s is None else np.atleast_1d(np.asarray(times_s, float))
    seen = str(target) in forecaster.targets
    at_s = np.union1d(forecaster.times_s, _require_within(asked_s, forecaster.times_s[-1]))
    fitted = forecaster.fitted_for(seen=seen)
    rows, weight = complete(asked, forecaster.features)
    *shares, correlation = (
        np.interp(at_s, [0.0, *forecaster.times_s], [0.0, *each])
        for each in (*fitted.shares(rows), fitted.correlation)
    )
    probabilities = np.tensordot(
        weight, count_distribution(np.array(shares), correlation, n=n), axes=1
    )
    return Forecast(
        target=target,
        n=n,
        times_s=asked_s,
        probabilities=probabilities[np.searchsorted(at_s, asked_s)],
        model=fitted.model,
        runs=forecaster.runs,
        seen_target=seen,
        simulated=forecaster.simulated,
    )


def distributions(
    shares: Floats, correlation: Floats, *, n: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], Floats]]:
    """Yield rows of equal n and their distributions, (rows, times, n + 1), some at a time.

    ``shares`` is (runs, times), ``correlation`` (times,) and ``n`` (runs,).
    """
    for size in np.unique(n):
        rows = np.flatnonzero(n == size)
        for some in np.array_split(rows, -(-rows.size // _RUNS_AT_ONCE)):
            yield some, count_distribution(shares[some], correlation, n=int(size))


def count_distribution(share: Floats, correlation: Floats, *, n: int) -> Floats:
    """Return beta-binomial probabilities of the counts 0 to n at each time, (..., times, n + 1).

    ``share`` is the mean count over n, (..., times), ``correlation`` that of two instances of a
    run, (times,) (Skellam, JRSS B 1948).  A ready count never falls.  Where a change of the
    correlation alone would lower the probability of at least k, that probability keeps its value.
    """
    mean = np.clip(share, 1e-9, 1.0 - 1e-9)[..., None]
    spread = 1.0 / np.clip(correlation, 1e-4, _MOST_CORRELATION)[:, None] - 1.0
    below = np.arange(n)
    ratio = (n - below) / (below + 1.0) * (mean * spread + below)
    ratio /= (1.0 - mean) * spread + (n - 1.0 - below)  # of the probability of k + 1 to that of k
    logs = np.cumsum(np.log(ratio), axis=-1)
    exactly = np.exp(
        np.pad(logs, [(0, 0)] * (logs.ndim - 1) + [(1, 0)])
        - logs.max(axis=-1, keepdims=True, initial=0.0)
    )
    at_least = np.cumsum(exactly[..., ::-1], axis=-1)[..., ::-1]
    at_least = np.maximum.accumulate(at_least / at_least[..., :1], axis=-2)
    return np.asarray(-np.diff(at_least, axis=-1, append=0.0))


def quantile(probabilities: Floats, level: float) -> NDArray[np.intp]:
    """Return the smallest count whose distribution function reaches ``level``, (..., times)."""
    reached = probabilities.cumsum(axis=-1) >= level - 1e-12
    return np.asarray(np.argmax(reached, axis=-1))


def band(probabilities: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the lowest and highest count of the band: it holds 90 % or, as counts jump, more."""
    low, high = (quantile(probabilities, level) for level in BAND)
    return low, high


def crps(probabilities: Floats, observed: ArrayLike) -> Floats:
    """Return the continuous ranked probability score of N / n; 0 is best, 1 worst.

    It is the integral of (F(x) - 1{x >= observed / n})^2 (Gneiting and Raftery, JASA 2007).  For
    counts this is the mean over k < n of (P(N <= k) - 1{observed <= k})^2, and for n = 1 the
    Brier score.  ``probabilities`` is (..., n + 1), ``observed`` is (...).
    """
    below = probabilities.cumsum(axis=-1)[..., :-1]
    steps = np.arange(below.shape[-1]) >= np.asarray(observed)[..., None]
    score: Floats = ((below - steps) ** 2).mean(axis=-1)
    return score


def estimate_correlation(ready: Floats, n: ArrayLike, *, share: Floats, weight: Floats) -> Floats:
    """Return the correlation within runs at each time, by moments, from 0 to 0.999: (times,).

    The excess of the squared errors over the binomial variance, divided by its largest possible
    value: sum (N - n p)^2 - n p (1 - p) over sum n (n - 1) p (1 - p) (Kleinman, JASA 1973).
    ``ready``, ``share`` and ``weight`` are (runs, times), ``n`` is (runs,).  It is 0 if no run
    has two instances.
    """
    n = np.asarray(n, float)[:, None]
    variance = share * (1.0 - share)
    excess = (weight * ((ready - n * share) ** 2 - n * variance)).sum(axis=0)
    most = (weight * n * (n - 1.0) * variance).sum(axis=0)
    ratio = np.divide(excess, most, out=np.zeros_like(excess), where=most > 0)
    return np.asarray(np.clip(ratio, 0.0, _MOST_CORRELATION))


def _require_possible(features: Mapping[str, float]) -> Mapping[str, float]:
    strange = sorted(set(features) - set(FEATURES))
    if strange:
        hint = did_you_mean(strange[0], FEATURES)
        raise ValueError(f"features may hold {listed(FEATURES)}, got {listed(strange)}{hint}")
    for name, value in features.items():
        low, high = _POSSIBLE[name]
        number = isinstance(value, Real)
        if pd.isna(value) or (number and low <= value <= high and np.isfinite(value)):
            continue
        allowed = f"from {low} to {high}" if np.isfinite(high) else f"{low} or more, and finite"
        seen = f"{value:g}" if number else repr(value)
        raise ValueError(f"{name} must be {allowed} (or left out if unknown), got {seen}")
    return features


def _require_within(asked_s: Floats, last_s: float) -> Floats:
    if not asked_s.size or asked_s.min() < 0 or asked_s.max() > last_s:
        raise ValueError(f"times_s must be from 0 to {last_s:g}, the last elapsed time of training")
    if np.any(np.diff(asked_s) <= 0):
        raise ValueError("times_s must rise")
    return asked_s

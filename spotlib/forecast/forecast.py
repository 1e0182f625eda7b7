"""How many of n instances will be ready t seconds after the request: the whole distribution.

One of ``models`` predicts the share ready over time.  Instances of one request fail together, so
the count about that share is beta-binomial.  Its correlation is estimated from the errors on
held-out runs: of other times for a target seen in training, of other targets for a new one.

The run (a plan in a round) is the sample.  Nothing is scored here (``score`` does that), and no
forecast goes beyond the last elapsed time of the training table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from spotlib.forecast.models import (
    FEATURES,
    MODELS,
    Runs,
    Shares,
    fitting,
    held_out,
    target_folds,
    time_blocks,
)
from spotlib.forecast.training import Floats
from spotlib.model import Target

FEWEST_RUNS = 6
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
        reached = self.probabilities.cumsum(axis=1) >= level - 1e-12
        return np.asarray(np.argmax(reached, axis=1))

    def time_to(self, k: int, *, level: float = 0.5) -> float:
        """Return the first of ``times_s`` with ``k`` ready at probability ``level``, or inf."""
        reached = self.at_least(k) >= level
        return float(self.times_s[np.argmax(reached)]) if reached.any() else float("inf")


@dataclass(frozen=True)
class Forecaster:
    """A fitted model, to be passed to ``forecast_ready``.

    ``correlation[True]`` is the correlation within a run at each time for targets seen in
    training, ``correlation[False]`` for new ones, whose share is less certain and whose count is
    wider.
    """

    model: str
    times_s: Floats
    shares: Shares
    correlation: Mapping[bool, Floats]
    targets: frozenset[str]
    runs: int
    simulated: bool

    def distributions(self, features: pd.DataFrame) -> list[Floats]:
        """Return the distribution of each run's count, (times, n + 1); one row per run."""
        seen = features["target"].isin(self.targets)
        return [
            count_distribution(share, self.correlation_for(seen=bool(is_seen)), n=int(n))
            for share, is_seen, n in zip(self.shares(features), seen, features["n"], strict=True)
        ]

    def correlation_for(self, *, seen: bool) -> Floats:
        """Return the correlation for a target seen in training or for a new one, (times,).

        Raises
        ------
        ValueError
            If it is new and the training table has one target: how targets differ is unknown.
        """
        if np.isnan(self.correlation[seen]).any():
            raise ValueError(
                "the training table has one target only: no other target can be forecast"
            )
        return self.correlation[seen]


def fit_forecaster(training: pd.DataFrame, *, model: str = "target x SPS") -> Forecaster:
    """Fit one of ``MODELS`` to a training table.

    The shrunken models are empirical Bayes (Efron and Morris, JASA 1975): the share of a group's
    parent counts like a number of runs, which is chosen on held-out blocks of time.  The
    regression is the discrete-time hazard model of Singer and Willett (J. Educ. Stat. 1993).

    Raises
    ------
    ValueError
        If the model is unknown, or there are fewer than 6 runs.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {MODELS}, got {model!r}")
    runs = Runs.of(training)
    if len(runs) < FEWEST_RUNS:
        raise ValueError(f"a forecast needs at least {FEWEST_RUNS} runs, got {len(runs)}")
    fit = fitting(runs, model)
    folds = {True: time_blocks(runs.features), False: target_folds(runs.features)}
    return Forecaster(
        model=model,
        times_s=runs.times_s,
        shares=fit(runs),
        correlation={seen: _held_out_correlation(runs, fit, folds=f) for seen, f in folds.items()},
        targets=frozenset(runs.features["target"]),
        runs=len(runs),
        simulated=bool(training["simulated"].iloc[0]),
    )


def _held_out_correlation(
    runs: Runs, fit: Callable[[Runs], Shares], *, folds: NDArray[np.intp]
) -> Floats:
    """Return the correlation seen in the errors on held-out runs; NaN if there is one fold only."""
    if np.unique(folds).size < 2:
        return np.full(runs.times_s.size, np.nan)
    shares = held_out(runs, fit, folds=folds)
    n = runs.features["n"].to_numpy()
    return estimate_correlation(runs.ready, n, share=shares, weight=runs.weight)


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
        What is known before the request: any of ``sps``, ``if_score``, ``price_share``,
        ``hour_utc`` and ``since_last_s``, in the units of the data dictionary.  A feature left
        out is unknown.
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
        If ``n`` is below 1, a feature is not one of those above, a time is later than the last
        elapsed time of the training table, or that table has one target only and this is another.

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
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    strange = sorted(set(features or {}) - set(FEATURES))
    if strange:
        raise ValueError(f"features may hold {FEATURES}, got {strange}")
    values = {**dict.fromkeys(FEATURES, np.nan), **(features or {}), "n": n}
    row = pd.DataFrame([values], dtype=float).assign(target=str(target))
    asked_s = forecaster.times_s if times_s is None else np.atleast_1d(np.asarray(times_s, float))
    seen = str(target) in forecaster.targets
    at_s = np.union1d(forecaster.times_s, _require_within(asked_s, forecaster.times_s[-1]))
    over_time = (forecaster.shares(row)[0], forecaster.correlation_for(seen=seen))
    share, correlation = (
        np.interp(at_s, [0.0, *forecaster.times_s], [0.0, *each]) for each in over_time
    )
    probabilities = count_distribution(share, correlation, n=n)
    return Forecast(
        target=target,
        n=n,
        times_s=asked_s,
        probabilities=probabilities[np.searchsorted(at_s, asked_s)],
        model=forecaster.model,
        runs=forecaster.runs,
        seen_target=seen,
        simulated=forecaster.simulated,
    )


def count_distribution(share: Floats, correlation: Floats, *, n: int) -> Floats:
    """Return beta-binomial probabilities of the counts 0 to n at each time, (times, n + 1).

    ``share`` is the mean count over n, ``correlation`` that of two instances of a run, (times,)
    each (Skellam, JRSS B 1948).  A ready count never falls.  Where a change of the correlation
    alone would lower the probability of at least k, that probability keeps its value.
    """
    mean = np.clip(share, 1e-9, 1.0 - 1e-9)[:, None]
    spread = 1.0 / np.clip(correlation, 1e-4, _MOST_CORRELATION)[:, None] - 1.0
    exactly = stats.betabinom.pmf(np.arange(n + 1), n, mean * spread, (1.0 - mean) * spread)
    at_least = np.cumsum(exactly[:, ::-1], axis=1)[:, ::-1]
    at_least = np.maximum.accumulate(at_least / at_least[:, :1], axis=0)
    return np.asarray(-np.diff(at_least, axis=1, append=0.0))


def estimate_correlation(ready: Floats, n: Floats, *, share: Floats, weight: Floats) -> Floats:
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


def _require_within(asked_s: Floats, last_s: float) -> Floats:
    if asked_s.size == 0 or asked_s.min() < 0 or asked_s.max() > last_s:
        raise ValueError(f"times_s must be from 0 to {last_s:g}, the last elapsed time of training")
    if np.any(np.diff(asked_s) <= 0):
        raise ValueError("times_s must rise")
    return asked_s

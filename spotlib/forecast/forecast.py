"""How many of n instances will be ready t seconds after the request: the whole distribution.

Four baselines, in order, that any model must beat: one curve for all; one a target, shrunk to
that; one a target and placement score, shrunk; one logistic regression of the hazard on all that
is known before the request.  Each gives the share ready at each time.  Instances of one request
fail together, so the count about that share is beta-binomial, its correlation estimated from how
far the model missed runs that it had not seen: other times of known targets, or other targets.

The run (a plan in a round) is the sample.  Nothing here scores a forecast (``forecast_score``
does), and it refuses to forecast beyond the last elapsed time of the table it learnt from.
"""

from collections.abc import Callable, Iterator, Mapping
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
_MOST_CORRELATION = 0.999  # at 1 a beta-binomial is two points, and no density


@dataclass(frozen=True)
class Forecast:
    """The distribution of the ready count of ``n`` at each of ``times_s``.

    ``probabilities[i, k]`` is the chance that exactly ``k`` are ready at ``times_s[i]``: shape
    (times, n + 1), rows sum to 1, and the chance of at least ``k`` never falls with time.
    ``runs`` is how many runs it rests on, ``known_target`` whether some were of this target.
    """

    target: Target
    n: int
    times_s: Floats
    probabilities: Floats
    model: str
    runs: int
    known_target: bool
    simulated: bool

    @property
    def expected(self) -> Floats:
        """The mean of the count at each time, (times,)."""
        return np.asarray(self.probabilities @ np.arange(self.n + 1))

    def at_least(self, k: int) -> Floats:
        """The chance that ``k`` or more are ready, (times,)."""
        if not 0 <= k <= self.n:
            raise ValueError(f"k must be from 0 to n={self.n}, got {k}")
        return np.asarray(np.clip(self.probabilities[:, k:].sum(axis=1), 0.0, 1.0))

    def quantile(self, level: float) -> NDArray[np.intp]:
        """The smallest count whose distribution function reaches ``level``, (times,)."""
        reached = self.probabilities.cumsum(axis=1) >= level - 1e-12
        return np.asarray(np.argmax(reached, axis=1))

    def time_to(self, k: int, *, level: float = 0.5) -> float:
        """The first of ``times_s`` at which ``k`` are ready with chance ``level``; inf if none."""
        return _first(self.times_s, self.at_least(k) >= level)


@dataclass(frozen=True)
class Forecaster:
    """A fitted model: ask it by ``forecast_ready``.

    ``correlation`` holds the correlation within a run at each time, for targets that it learnt
    from and for others; a share is less well known for the latter, and the count wider.
    """

    model: str
    times_s: Floats
    shares: Shares
    correlation: Mapping[bool, Floats]
    targets: frozenset[str]
    runs: int
    simulated: bool

    def distributions(self, features: pd.DataFrame) -> list[Floats]:
        """The distribution of each run's count, (times, n + 1) each; one row of features a run."""
        known = features["target"].isin(self.targets)
        return [
            count_distribution(share, self.correlation_for(known=bool(seen)), n=int(n))
            for share, seen, n in zip(self.shares(features), known, features["n"], strict=True)
        ]

    def correlation_for(self, *, known: bool) -> Floats:
        """The correlation for a target that it learnt from or another, (times,).

        Raises
        ------
        ValueError
            If it is another and it learnt from one target only: how targets differ is not known.
        """
        if np.isnan(self.correlation[known]).any():
            raise ValueError("learnt from one target only, which tells nothing of another")
        return self.correlation[known]


def fit_forecaster(training: pd.DataFrame, *, model: str = "target x SPS") -> Forecaster:
    """Learn one of ``MODELS`` from a training table (``training.training_table``).

    The shrunken curves are empirical Bayes: a group's share counts as so many runs of its parent
    as predict held-out stretches of time best (Efron and Morris, JASA 1975).  The regression is
    the discrete-time hazard model of Singer and Willett (J. Educ. Stat. 1993).

    Raises
    ------
    ValueError
        If the model is unknown, or fewer than 6 runs are there to learn from.
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
        correlation={seen: _missed(runs, fit, fold) for seen, fold in folds.items()},
        targets=frozenset(runs.features["target"]),
        runs=len(runs),
        simulated=bool(training["simulated"].iloc[0]),
    )


def _missed(runs: Runs, fit: Callable[[Runs], Shares], folds: NDArray[np.intp]) -> Floats:
    """The correlation that the misses on held-out runs speak of; NaN if none can be held out."""
    if np.unique(folds).size < 2:
        return np.full(runs.times_s.size, np.nan)
    shares = held_out(runs, fit, folds)
    return estimate_correlation(runs.ready, runs.features["n"].to_numpy(), shares, runs.weight)


def forecast_ready(
    forecaster: Forecaster,
    target: Target,
    *,
    n: int,
    known: Mapping[str, float] | None = None,
    times_s: ArrayLike | None = None,
) -> Forecast:
    """The distribution of how many of ``n`` are ready at each time, from what is known now.

    ``known`` holds any of ``FEATURES``; what is left out is unknown.  ``times_s`` rises; default
    the times learnt from.  Between these the share runs straight.

    Raises
    ------
    ValueError
        If n is no count, a feature is unknown by name, or a time lies beyond what was learnt.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    strange = sorted(set(known or {}) - set(FEATURES))
    if strange:
        raise ValueError(f"known may hold {FEATURES}, got {strange}")
    values = {**dict.fromkeys(FEATURES, np.nan), **(known or {}), "n": n}
    features = pd.DataFrame([values], dtype=float).assign(target=str(target))
    asked_s = forecaster.times_s if times_s is None else np.atleast_1d(np.asarray(times_s, float))
    seen = str(target) in forecaster.targets
    at_s = np.union1d(forecaster.times_s, _require_within(asked_s, forecaster.times_s[-1]))
    curves = (forecaster.shares(features)[0], forecaster.correlation_for(known=seen))
    share, correlation = (
        np.interp(at_s, [0.0, *forecaster.times_s], [0.0, *curve]) for curve in curves
    )
    chances = count_distribution(share, correlation, n=n)[np.searchsorted(at_s, asked_s)]
    return Forecast(
        target=target,
        n=n,
        times_s=asked_s,
        probabilities=chances,
        model=forecaster.model,
        runs=forecaster.runs,
        known_target=seen,
        simulated=forecaster.simulated,
    )


def requests_needed(
    forecaster: Forecaster,
    target: Target,
    *,
    k: int,
    by_s: float,
    chance: float = 0.9,
    known: Mapping[str, float] | None = None,
    most: int | None = None,
) -> int | None:
    """The smallest n of which ``k`` are ready by ``by_s`` with this chance; None if none is.

    Counts to ``most`` are tried, default 10 k.  Instances of a run fail together, so asking for
    more helps less than independence would say, and may never be enough.
    """
    for n in range(k, (most or 10 * k) + 1):
        forecast = forecast_ready(forecaster, target, n=n, known=known, times_s=[by_s])
        if forecast.at_least(k)[0] >= chance:
            return n
    return None


def waiting_pays_until_s(
    forecast: Forecast, *, within_s: float = 60.0, least_chance: float = 0.05
) -> float:
    """The last time at which an instance still pending had a fair chance to come soon.

    Fair is ``least_chance`` of coming within the next ``within_s``: (S(t) - S(t + within)) / S(t)
    with S the share still pending.  After it waiting pays no more: cancel and ask elsewhere.
    0.0 if it never pays; NaN if the forecast ends sooner than ``within_s``.
    """
    times_s = np.concatenate([[0.0], forecast.times_s])
    pending = np.concatenate([[1.0], 1.0 - forecast.expected / forecast.n])
    now = times_s[times_s + within_s <= times_s[-1]]
    if now.size == 0:
        return float("nan")
    still = np.interp(now, times_s, pending)
    later = np.interp(now + within_s, times_s, pending)
    pays = (still - later) >= least_chance * np.maximum(still, 1e-12)
    return float(now[pays].max(initial=0.0))


def count_distribution(share: Floats, correlation: Floats, *, n: int) -> Floats:
    """Beta-binomial counts of ``n``, made to rise with time: (times, n + 1).

    ``share`` is the mean over n and ``correlation`` that of two instances of a run, (times,)
    each (Skellam, JRSS B 1948).  Where the correlation moves, the chance of at least k could
    fall with time, which a count that only rises cannot do; it then keeps its height.
    """
    mean = np.clip(share, 1e-9, 1.0 - 1e-9)[:, None]
    spread = 1.0 / np.clip(correlation, 1e-4, _MOST_CORRELATION)[:, None] - 1.0
    chance = stats.betabinom.pmf(np.arange(n + 1), n, mean * spread, (1.0 - mean) * spread)
    at_least = np.cumsum(chance[:, ::-1], axis=1)[:, ::-1]
    at_least = np.maximum.accumulate(at_least / at_least[:, :1], axis=0)
    return np.asarray(-np.diff(at_least, axis=1, append=0.0))


def estimate_correlation(ready: Floats, n: Floats, share: Floats, weight: Floats) -> Floats:
    """The correlation within runs at each time, by moments, between 0 and 0.999: (times,).

    What the squared misses exceed the binomial variance by, over the most that it could be:
    sum (N - n p)^2 - n p (1 - p) over sum n (n - 1) p (1 - p) (Kleinman, JASA 1973).  ``ready``,
    ``share`` and ``weight`` are (runs, times), ``n`` (runs,).  0 where no run has two instances.
    """
    n = np.asarray(n, float)[:, None]
    variance = share * (1.0 - share)
    excess = (weight * ((ready - n * share) ** 2 - n * variance)).sum(axis=0)
    most = (weight * n * (n - 1.0) * variance).sum(axis=0)
    ratio = np.divide(excess, most, out=np.zeros_like(excess), where=most > 0)
    return np.asarray(np.clip(ratio, 0.0, _MOST_CORRELATION))


def _require_within(asked_s: Floats, last_s: float) -> Floats:
    if asked_s.size == 0 or asked_s.min() < 0 or asked_s.max() > last_s:
        raise ValueError(f"times_s must be from 0 to {last_s:g}, which is what was learnt")
    if np.any(np.diff(asked_s) <= 0):
        raise ValueError("times_s must rise")
    return asked_s


def _first(times_s: Floats, reached: NDArray[np.bool_]) -> float:
    return float(times_s[np.argmax(reached)]) if reached.any() else float("inf")


def outlook(forecaster: Forecaster, training: pd.DataFrame) -> list[Forecast]:
    """The forecast for each target as if its last run were asked for again, in order of name."""
    return [
        forecast_ready(forecaster, target, n=n, known=known)
        for target, n, known in _questions(training)
    ]


def decisions(
    forecaster: Forecaster, training: pd.DataFrame, *, chance: float = 0.9
) -> pd.DataFrame:
    """What to do, one row a target, by the last time learnt from.

    ``all_ready`` is the chance that all n are ready by then, ``to_request`` how many to ask for so
    that n are with this chance (NaN if ten times as many are not enough), ``wait_until_s`` when
    waiting pays no more.
    """
    rows = []
    for forecast, (target, n, known) in zip(
        outlook(forecaster, training), _questions(training), strict=True
    ):
        by_s = float(forecast.times_s[-1])
        needed = requests_needed(
            forecaster, target, k=n, by_s=by_s, chance=chance, known=known, most=10 * n
        )
        rows.append(
            {
                "target": str(target),
                "n": n,
                "by_s": by_s,
                "all_ready": float(forecast.at_least(n)[-1]),
                "to_request": np.nan if needed is None else float(needed),
                "wait_until_s": waiting_pays_until_s(forecast),
            }
        )
    return pd.DataFrame(rows)


def decision_words(table: pd.DataFrame) -> str:
    """One sentence: where asking for exactly n is enough, and where nothing is."""
    enough = int((table["to_request"] == table["n"]).sum())
    never = int(table["to_request"].isna().sum())
    by_s = table["by_s"].iloc[0]
    return (
        f"for {enough} of {len(table)} targets n requests give n ready by {by_s:.0f} s in 9 of 10 "
        f"cases; for {never} not even ten times as many would"
    )


def _questions(training: pd.DataFrame) -> Iterator[tuple[Target, int, dict[str, float]]]:
    order = ["instance_type", "region", "availability_zone_id"]
    last = training.sort_values("sent_at").drop_duplicates(order, keep="last").sort_values(order)
    for row in last.to_dict("records"):
        zone = row["availability_zone_id"]
        target = Target(row["instance_type"], row["region"], None if pd.isna(zone) else str(zone))
        known = {name: float(row[name]) for name in FEATURES if not pd.isna(row[name])}
        yield target, int(row["n"]), known

"""How good a forecast of the ready count is, on runs that were not in training.

Proper scores of whole distributions, with calibration beside them: a forecast should be sharp,
subject to being calibrated (Gneiting, Balabdaoui and Raftery, JRSS B 2007).  Splits keep runs
whole, either in the order of time with a gap or by target.  A split by row is refused: rows of
one run are nearly copies of each other, so such scores are optimistic.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from spotlib.analyze.comparable import RUN
from spotlib.analyze.intervals import too_few
from spotlib.forecast.forecast import BAND, CHOSEN, Forecaster, band, crps, fit_forecasters
from spotlib.forecast.models import MODELS, Fitting, Part, Runs
from spotlib.forecast.training import Floats
from spotlib.words import percent

UNITS = {"run": RUN, "target": ["target"]}  # the columns that name what an interval resamples
_LEVELS = (0.1, 0.5, 0.9)  # of the quantiles of the time to k
_RESAMPLES = 2000
_TARGET_PARTS = 5
_SCORES = ("crps", "coverage_drawn", "coverage_randomised", "pinball_half_s", "pinball_all_s")
_TABLE = [
    *("model", "crps", "gain", "gain_low", "gain_high"),
    *("coverage_drawn", "coverage_randomised", "coverage_open"),
    *("pinball_half_s", "pinball_all_s", "runs"),
]


@dataclass(frozen=True)
class Scores:
    """The result of ``score_forecasts``.

    ``table`` has one row per model, best first; ``runs`` one row per run and model, with the
    run's own mean scores.  ``pit`` maps a model to its randomised PIT values, one per run and
    time: uniform if the model is calibrated.  ``split`` is how runs were kept apart,
    ``resampled`` what the intervals resample.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    pit: dict[str, Floats]
    split: str
    resampled: str


def score_forecasts(
    training: pd.DataFrame | Runs,
    *,
    rng: Generator,
    split: str = "time",
    models: Mapping[str, Fitting] = MODELS,
) -> Scores:
    """Fit each model, and the one chosen by default, to some runs and score it on the others.

    ``split="time"`` trains on the first 70 % of the runs and scores those after a gap
    (``split_by_time``).  Runs of a target at neighbouring times are alike, so the interval is
    somewhat too narrow.  ``split="target"`` scores each fifth of the targets after training on
    the other targets.

    The table has these columns per model.  ``crps`` is in shares of n, averaged over time, then
    over runs; times after a run was last watched are covered by the censoring weights.  ``gain``
    is 1 - crps / crps of ``global``; its 95 % interval ``gain_low`` to ``gain_high`` resamples
    whole runs (whole targets if ``split="target"``), and is NaN below 6 of these.
    ``coverage_drawn`` is how often the count lay in the band that is drawn, which holds at least
    90 %: a count has steps.
    ``coverage_randomised`` counts the steps at its ends in part, so that it is 90 % if the
    forecast is calibrated; ``coverage_open`` is the same at times at which no count had a
    probability of 95 % or more.
    ``pinball_half_s`` and ``pinball_all_s`` are the pinball losses of the time to half and to all
    of n.

    Raises
    ------
    ValueError
        If the split is unknown, or leaves too few runs to learn from or to score.
    """
    known = Runs.of(training)
    scored = [
        _score_part(known.take(learn), known.take(test), models, rng=rng)
        for learn, test in list(_parts(known.features, split, rng=rng))
    ]
    runs = pd.concat([each for each, _ in scored], ignore_index=True)
    pit = {name: np.concatenate([values[name] for _, values in scored]) for name in _names(models)}
    unit = {"time": "run", "target": "target"}[split]
    by_model = runs.groupby("model")
    table = by_model[[*_SCORES]].mean()
    open_ = by_model[["covered_open", "cells_open"]].sum()
    table["coverage_open"] = open_["covered_open"] / open_["cells_open"]
    table = table.join(_gains(runs, unit=unit, rng=rng)).assign(runs=by_model.size()).reset_index()
    return Scores(table.sort_values("crps", ignore_index=True)[_TABLE], runs, pit, split, unit)


def randomised_pit(probabilities: Floats, observed: NDArray[np.int64], *, rng: Generator) -> Floats:
    """Return P(N < observed) + U P(N = observed): uniform if calibrated.

    ``probabilities`` is (..., n + 1), ``observed`` is (...).

    U is uniform; a count has steps, so without U no forecast would be uniform (Czado, Gneiting
    and Held, Biometrics 2009).
    """
    at, reached = (
        np.take_along_axis(each, observed[..., None], axis=-1)[..., 0]
        for each in (probabilities, probabilities.cumsum(axis=-1))
    )
    return np.asarray(np.clip(reached - rng.uniform(size=at.shape) * at, 0.0, 1.0))


def pinball_loss(quantile: ArrayLike, observed: ArrayLike, *, level: float) -> Floats:
    """Return (observed - q) * (level - 1{observed < q}), least at the true quantile."""
    over = np.asarray(observed, float) - np.asarray(quantile, float)
    return np.asarray(np.maximum(level * over, (level - 1.0) * over))


def split_by_time(
    features: pd.DataFrame, *, share: float = 0.7, gap_s: float | None = None
) -> Part:
    """Return which runs are the first ``share``, and which of rounds that began ``gap_s`` later.

    ``features`` are those of ``Runs``.  Rounds are kept whole.  The default gap is a tenth of the
    whole span, at most a day.

    Raises
    ------
    ValueError
        If no run was watched, or no round began after the gap.
    """
    if features.empty:
        raise ValueError("no run was watched")
    began = features.groupby(["batch_id", "round"])["sent_at"].transform("min")
    runs = began.sort_values()
    span_s = (runs.iloc[-1] - runs.iloc[0]).total_seconds()
    wait_s = min(0.1 * span_s, 86400.0) if gap_s is None else gap_s
    learn = began <= runs.iloc[max(int(share * len(runs)) - 1, 0)]
    test = began > features.loc[learn, "sent_at"].max() + pd.Timedelta(seconds=wait_s)
    if span_s == 0:
        raise ValueError("there is one round only, and a forecast is scored on later ones")
    if not test.any():
        raise ValueError(
            f"no round began more than {wait_s:.0f} s after the first {percent(share)} of the runs"
        )
    return learn.to_numpy(), test.to_numpy()


def split_by_target(features: pd.DataFrame, *, rng: Generator) -> Iterator[Part]:
    """Yield, per fifth of the targets, which runs are of all others and which of that fifth.

    Raises
    ------
    ValueError
        If there are fewer than two targets.
    """
    targets = features["target"]
    names = rng.permutation(sorted(targets.unique()))
    if len(names) < 2:
        raise ValueError("a split by unseen target needs at least two targets, got one")
    for part in np.array_split(names, min(_TARGET_PARTS, len(names))):
        unseen = targets.isin(part).to_numpy()
        yield ~unseen, unseen


def _parts(features: pd.DataFrame, split: str, *, rng: Generator) -> Iterator[Part]:
    if split == "time":
        yield split_by_time(features)
    elif split == "target":
        yield from split_by_target(features, rng=rng)
    else:
        raise ValueError(f"split must be time or target, never rows of a run, got {split!r}")


def _names(models: Mapping[str, Fitting]) -> list[str]:
    """Return the models to score: each of them, and the choice among them."""
    first, *others = models
    return [first, *others, CHOSEN] if others else [first]


def _score_part(
    learn: Runs, test: Runs, models: Mapping[str, Fitting], *, rng: Generator
) -> tuple[pd.DataFrame, dict[str, Floats]]:
    tables: list[pd.DataFrame] = []
    pits: dict[str, Floats] = {}
    learnt = np.flatnonzero(learn.weight.any(axis=0))  # no forecast goes beyond these times
    forecasters = fit_forecasters(learn.at(learnt), models=models)
    for name in _names(models):
        found = list(_score_runs(forecasters[name], test.at(learnt), rng=rng))
        tables += [scores.assign(model=name) for scores, _ in found]
        pits[name] = np.concatenate([pit for _, pit in found])
    return pd.concat(tables), pits


def _score_runs(
    fitted: Forecaster, tested: Runs, *, rng: Generator
) -> Iterator[tuple[pd.DataFrame, Floats]]:
    """Yield the scores of some runs and their PIT values, over the times they were observed."""
    for rows, probabilities in fitted.distributions(tested.features):
        weight, n = tested.weight[rows], probabilities.shape[-1] - 1
        observed = weight > 0
        times = observed.sum(axis=1)
        ready = tested.ready[rows].astype(np.int64)
        pit = randomised_pit(probabilities, ready, rng=rng)
        low, high = band(probabilities)
        drawn = observed & (low <= ready) & (ready <= high)
        covered = observed & (pit >= BAND[0]) & (pit <= BAND[1])
        is_open = observed & (probabilities.max(axis=-1) < BAND[1])
        scores = tested.features.iloc[rows][[*RUN, "target"]].assign(
            crps=(crps(probabilities, ready) * weight).mean(axis=1),
            coverage_drawn=drawn.sum(axis=1) / times,
            coverage_randomised=covered.sum(axis=1) / times,
            covered_open=(covered & is_open).sum(axis=1),
            cells_open=is_open.sum(axis=1),
            pinball_half_s=_time_losses(probabilities, tested, rows=rows, k=-(-n // 2)),
            pinball_all_s=_time_losses(probabilities, tested, rows=rows, k=n),
        )
        yield scores, pit[observed]


def _time_losses(probabilities: Floats, tested: Runs, *, rows: NDArray[np.intp], k: int) -> Floats:
    """Return each run's mean pinball loss of the time to ``k``; times are cut at the horizon."""
    times_s, weight = tested.times_s, tested.weight[rows]
    reached = (tested.ready[rows] >= k) & (weight > 0)
    observed_s = _first_s(times_s, reached)
    at_least = probabilities[..., k:].sum(axis=-1)
    losses = [
        pinball_loss(_first_s(times_s, at_least >= level), observed_s, level=level)
        for level in _LEVELS
    ]
    unknown = ~reached.any(axis=1) & (weight[:, -1] == 0)  # watching ended before k were ready
    return np.where(unknown, np.nan, np.mean(losses, axis=0))


def _first_s(times_s: Floats, reached: NDArray[np.bool_]) -> Floats:
    first: Floats = np.where(reached.any(axis=1), times_s[np.argmax(reached, axis=1)], times_s[-1])
    return first


def _gains(runs: pd.DataFrame, *, unit: str, rng: Generator) -> pd.DataFrame:
    """Return 1 - crps / crps of global per model, with a percentile interval over units."""
    wide = runs.pivot_table(index=[*RUN, "target"], columns="model", values="crps")
    sums = wide.groupby(level=UNITS[unit]).sum()
    base = "global" if "global" in sums else str(sums.columns[0])
    errors = sums.to_numpy()
    draws = (rng.integers(len(sums), size=len(sums)) for _ in range(_RESAMPLES))  # never all kept
    total = np.array([errors[drawn].sum(axis=0) for drawn in draws])
    at = list(sums.columns).index(base)
    gains = (total[:, [at]] - total) / total[:, [at]]
    low, high = np.quantile(gains, [0.025, 0.975], axis=0)
    if too_few(len(sums)):
        low, high = np.full_like(gains[:2], np.nan)
    gain = (sums[base].sum() - sums.sum()) / sums[base].sum()
    return pd.DataFrame({"gain": gain, "gain_low": low, "gain_high": high}, index=sums.columns)

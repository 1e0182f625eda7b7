"""How good a forecast of the ready count is, on runs it has not learnt from.

Proper scores of whole distributions, and calibration beside them: a forecast must be as sharp as
it can while being right about its own errors (Gneiting, Balabdaoui and Raftery, JRSS B 2007).
Splits keep runs whole: in the order of time with a gap, or by target.  A split by row is here
only to show how it flatters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from spotlib.analyze.comparable import RUN
from spotlib.figures import target_names
from spotlib.forecast.forecast import Forecaster, fit_forecaster
from spotlib.forecast.models import MODELS, Runs
from spotlib.forecast.training import Floats

LEVELS = (0.1, 0.5, 0.9)
_BAND = (0.05, 0.95)


@dataclass(frozen=True)
class Scores:
    """What ``score_forecasts`` found.

    ``table``: one row a model, best first.  ``runs``: one row a run and model, with its own mean
    scores.  ``pit``: {model: randomised PIT values, one a run and time}, uniform if calibrated.
    ``split`` says how the runs were kept apart, ``resampled`` what the intervals resample.
    """

    table: pd.DataFrame
    runs: pd.DataFrame
    pit: dict[str, Floats]
    split: str
    resampled: str


def score_forecasts(
    training: pd.DataFrame,
    *,
    rng: Generator,
    split: str = "time",
    models: Sequence[str] = MODELS,
    gap_s: float | None = None,
    resamples: int = 2000,
) -> Scores:
    """Fit each model on a part of the runs and score it on others.

    ``split="time"``: learn from the first 70 % of the runs, leave out those within ``gap_s``
    after (default a tenth of the whole span, at most a day), score the rest.  Runs of a target
    at neighbouring times are alike, so the interval is rather too narrow.
    ``split="target"``: five parts of the targets, each scored by what was learnt from the rest.

    The table has, a model: ``crps`` (share of n, averaged over time, then over runs; moments at
    which a run was no longer watched are stood in for by the weights),
    ``gain`` = 1 - crps / crps of ``global`` with a 95 % interval ``gain_low``, ``gain_high`` that
    resamples whole runs (whole targets for ``split="target"``), ``coverage`` of the 90 % band,
    ``coverage_open`` of it where no count had a chance of 95 % (elsewhere there is nothing to
    cover), ``pinball_half_s`` and ``pinball_all_s`` of the time to half and to all of n.

    Raises
    ------
    ValueError
        If the split is unknown, or leaves too few runs to learn from or to score.
    """
    parts = list(_parts(training, split, gap_s=gap_s, rng=rng))
    scored = [_score_part(learn, test, models, rng) for learn, test in parts]
    runs = pd.concat([each for each, _ in scored], ignore_index=True)
    pit = {name: np.concatenate([values[name] for _, values in scored]) for name in models}
    unit = "target" if split == "target" else "run"
    gains = _gains(runs, unit=unit, rng=rng, resamples=resamples)
    table = runs.groupby("model", sort=False)[[*_SCORES]].mean()
    table["coverage_open"] = runs.groupby("model")["covered_open"].sum() / runs.groupby("model")[
        "cells_open"
    ].sum().replace(0, np.nan)
    table = table.join(gains).assign(runs=runs.groupby("model").size()).reset_index()
    return Scores(table.sort_values("crps", ignore_index=True)[_TABLE], runs, pit, split, unit)


_SCORES = ("crps", "coverage", "pinball_half_s", "pinball_all_s")
_TABLE = [
    *("model", "crps", "gain", "gain_low", "gain_high", "coverage", "coverage_open"),
    *("pinball_half_s", "pinball_all_s", "runs"),
]


def crps(probabilities: Floats, observed: NDArray[np.int64]) -> Floats:
    """Continuous ranked probability score of N / n, one a row; 0 is perfect, 1 the worst.

    The integral of (F(x) - 1{x >= observed / n})^2 (Gneiting and Raftery, JASA 2007), which for
    counts is the mean over k < n of (P(N <= k) - 1{observed <= k})^2; for n = 1 the Brier score.
    ``probabilities`` is (rows, n + 1), ``observed`` (rows,).
    """
    below = probabilities.cumsum(axis=1)[:, :-1]
    steps = np.arange(below.shape[1]) >= np.asarray(observed)[:, None]
    score: Floats = ((below - steps) ** 2).mean(axis=1)
    return score


def randomised_pit(probabilities: Floats, observed: NDArray[np.int64], rng: Generator) -> Floats:
    """P(N < observed) + U P(N = observed), one a row: uniform if the forecast is calibrated.

    U is uniform; without it the steps of a count could not be uniform (Czado, Gneiting and Held,
    Biometrics 2009).
    """
    row = np.arange(len(probabilities))
    at = probabilities[row, observed]
    below = probabilities.cumsum(axis=1)[row, observed] - at
    return np.clip(below + rng.uniform(size=row.size) * at, 0.0, 1.0)


def pinball_loss(quantile: float, observed: float, *, level: float) -> float:
    """(observed - q) * (level - 1{observed < q}): least for the true quantile (Koenker, 1978)."""
    return (observed - quantile) * (level - (observed < quantile))


def split_by_time(
    training: pd.DataFrame, *, share: float = 0.7, gap_s: float | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first ``share`` of the runs, and those of rounds that began ``gap_s`` after them.

    Rounds are kept whole.  The default gap is a tenth of the whole span, at most a day.

    Raises
    ------
    ValueError
        If nothing is left on one side.
    """
    began = training.groupby(["batch_id", "round"])["sent_at"].transform("min")
    runs = began[~training.duplicated(RUN)].sort_values()
    span_s = (runs.iloc[-1] - runs.iloc[0]).total_seconds()
    wait_s = min(0.1 * span_s, 86400.0) if gap_s is None else gap_s
    learn = training[began <= runs.iloc[max(int(share * len(runs)) - 1, 0)]]
    test = training[began > learn["sent_at"].max() + pd.Timedelta(seconds=wait_s)]
    if test.empty:
        raise ValueError(f"no round began more than {wait_s:g} s after the first {share:.0%}")
    return learn, test


def split_by_target(
    training: pd.DataFrame, *, folds: int = 5, rng: Generator
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each part of the targets once as the unseen ones, with all other runs to learn from.

    Raises
    ------
    ValueError
        If there are fewer than two targets.
    """
    targets = target_names(training)
    names = rng.permutation(sorted(targets.unique()))
    if len(names) < 2:
        raise ValueError("a split by unseen target needs at least two targets, got one")
    for part in np.array_split(names, min(folds, len(names))):
        unseen = targets.isin(part)
        yield training[~unseen], training[unseen]


def row_split_flatters(training: pd.DataFrame, *, rng: Generator) -> pd.DataFrame:
    """The same flexible model scored by four splits: how much a split by row flatters.

    Rows of one run are nearly copies of each other, so a model that has seen some of them is
    tested on what it knows.  One row a split (row, run, time, target): ``mean_absolute_error``
    of the share ready, and ``times_the_row_split``, how many times that of the split by row.
    """
    whole = rng.random(len(training)) < 0.3
    runs = training.groupby(RUN).ngroup().to_numpy()
    by_run = (rng.random(runs.max() + 1) < 0.3)[runs]
    unseen_learn, unseen_test = next(split_by_target(training, folds=3, rng=rng))
    pairs = {
        "row": (training[~whole], training[whole]),
        "run": (training[~by_run], training[by_run]),
        "time": split_by_time(training),
        "target": (unseen_learn, unseen_test),
    }
    errors = [_flexible_error(learn, test, rng) for learn, test in pairs.values()]
    table = pd.DataFrame({"split": list(pairs), "mean_absolute_error": errors})
    return table.assign(times_the_row_split=table["mean_absolute_error"] / errors[0])


def _flexible_error(learn: pd.DataFrame, test: pd.DataFrame, rng: Generator) -> float:
    from sklearn.ensemble import ExtraTreesRegressor  # noqa: PLC0415 (slow to import)

    codes = pd.Index(sorted(target_names(learn).unique()))

    def seen(table: pd.DataFrame) -> pd.DataFrame:
        names = ["elapsed_s", "n", "sps", "if_score", "price_share", "hour_utc"]
        sent = table["sent_at"].astype("int64") / 1e9
        return (
            table[names]
            .fillna(-1.0)
            .assign(sent=sent - sent.min(), target=codes.get_indexer(target_names(table)))
        )

    model = ExtraTreesRegressor(40, random_state=int(rng.integers(2**31)), n_jobs=1)
    model.fit(seen(learn), learn["ready"] / learn["n"])
    return float(np.abs(model.predict(seen(test)) - test["ready"] / test["n"]).mean())


def _parts(
    training: pd.DataFrame, split: str, *, gap_s: float | None, rng: Generator
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    if split == "time":
        yield split_by_time(training, gap_s=gap_s)
    elif split == "target":
        yield from split_by_target(training, rng=rng)
    else:
        raise ValueError(f"split must be time or target, never rows of a run, got {split!r}")


def _score_part(
    learn: pd.DataFrame, test: pd.DataFrame, models: Sequence[str], rng: Generator
) -> tuple[pd.DataFrame, dict[str, Floats]]:
    rows: list[dict[str, object]] = []
    pits: dict[str, Floats] = {}
    for name in models:
        fitted = fit_forecaster(learn, model=name)
        found = list(_score_runs(fitted, Runs.of(test, times_s=fitted.times_s), rng))
        rows += [{"model": name, **scores} for scores, _ in found]
        pits[name] = np.concatenate([pit for _, pit in found])
    return pd.DataFrame(rows), pits


def _score_runs(
    fitted: Forecaster, tested: Runs, rng: Generator
) -> Iterator[tuple[dict[str, object], Floats]]:
    for row, chances in enumerate(fitted.distributions(tested.features)):
        weight = tested.weight[row]
        known = weight > 0
        seen = tested.ready[row][known].astype(np.int64)
        pit = randomised_pit(chances[known], seen, rng)
        covered = (pit >= _BAND[0]) & (pit <= _BAND[1])
        undecided = chances[known].max(axis=1) < _BAND[1]
        run = tested.features.iloc[row].to_dict()
        n = int(run["n"])
        scores = {
            **{name: run[name] for name in (*RUN, "target")},
            "crps": (weight[known] * crps(chances[known], seen)).sum() / weight.size,
            "coverage": covered.mean(),
            "covered_open": int(covered[undecided].sum()),
            "cells_open": int(undecided.sum()),
            "pinball_half_s": _time_loss(fitted.times_s, chances, tested, row, k=-(-n // 2)),
            "pinball_all_s": _time_loss(fitted.times_s, chances, tested, row, k=n),
        }
        yield scores, pit


def _time_loss(times_s: Floats, chances: Floats, tested: Runs, row: int, *, k: int) -> float:
    """Mean pinball loss of the time to ``k`` over ``LEVELS``, both ends cut at the horizon."""
    reached = (tested.ready[row] >= k) & (tested.weight[row] > 0)
    if not reached.any() and tested.weight[row][-1] == 0:
        return float("nan")  # no longer watched before it came to k
    last_s = times_s[-1]
    observed = times_s[np.argmax(reached)] if reached.any() else last_s
    at_least = chances[:, k:].sum(axis=1)
    losses = []
    for level in LEVELS:
        enough = at_least >= level
        quantile = times_s[np.argmax(enough)] if enough.any() else last_s
        losses.append(pinball_loss(quantile, observed, level=level))
    return float(np.mean(losses))


def _gains(runs: pd.DataFrame, *, unit: str, rng: Generator, resamples: int) -> pd.DataFrame:
    """1 - crps / crps of global, with a percentile interval over resampled units, a model."""
    key = ["target"] if unit == "target" else RUN
    wide = runs.pivot_table(index=[*RUN, "target"], columns="model", values="crps")
    sums = wide.groupby(level=key).sum()
    base = "global" if "global" in sums else str(sums.columns[0])
    drawn = rng.integers(len(sums), size=(resamples, len(sums)))
    total = sums.to_numpy()[drawn].sum(axis=1)
    at = list(sums.columns).index(base)
    gains = (total[:, [at]] - total) / total[:, [at]]
    low, high = np.quantile(gains, [0.025, 0.975], axis=0)
    gain = (sums[base].sum() - sums.sum()) / sums[base].sum()
    return pd.DataFrame({"gain": gain, "gain_low": low, "gain_high": high}, index=sums.columns)

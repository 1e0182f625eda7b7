"""Which of two targets is faster, and how sure that is.

Owns the comparisons between targets.  Targets launched in one round share its time of day and the
state of the market, so labels are exchanged only within a round: a difference between rounds is
never taken for a difference between targets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, log, log2
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from spotlib.analyze.curve import Floats
from spotlib.analyze.intervals import (
    FEWEST_RUNS,
    Estimate,
    run_level_interval,
    student_interval,
)
from spotlib.analyze.launch_times import LaunchTimes

SAME_LIMITS = "brackets as wide as the times leave open which mean time is longer"
TOO_WIDE = "more runs do not help where brackets are too wide: poll more often"
SIGNIFICANT = 0.05  # the adjusted p-value below which two targets are said to differ
_TWO_SIDED = float(stats.norm.ppf(0.975))
_ALL_EXCHANGES = 12  # rounds, up to which every exchange of labels is made
_EXCHANGES = 100_000  # random ones beyond
_AT_ONCE = 2_000_000  # labels, or sums of them
_COLUMNS = (
    *("first", "second", "rounds", "ratio", "ratio_low_adjusted", "ratio_high_adjusted"),
    *("difference", "difference_low_adjusted", "difference_high_adjusted"),
    *("later_s", "later_s_low_adjusted", "later_s_high_adjusted"),
    *("p_value", "p_holm", "more_runs", "why"),
)


def compare_targets(
    distributions: Mapping[str, LaunchTimes],
    *,
    horizon_s: float,
    precision: float = 0.1,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> pd.DataFrame:
    """Compare pairs of targets, one row per pair.

    Intervals and p-values are adjusted for the number of pairs.  With 95 % probability no interval
    of either kind misses the truth (Bonferroni).

    Parameters
    ----------
    distributions : dict of {str: LaunchTimes}
        As from ``launch_times``.
    horizon_s : float
        Shares and restricted means are up to this time.
    precision : float, default 0.1
        How well a ratio is to be known: 0.1 is within 10 %.
    pairs : sequence of (str, str), optional
        Which targets are compared with which; by default each with each.

    Returns
    -------
    DataFrame
        ``first``, ``second``: the targets; ``rounds`` in which both were launched.
        ``ratio`` of the medians (first over second), with its adjusted interval over rounds.  It is
        NaN if one median was not reached; the interval may still bound it from one side.
        ``difference`` of the shares by the horizon, with Newcombe's interval (Statistics in
        Medicine 1998), adjusted.
        ``later_s``: how much later the first is on average, which is what is tested: the mean over
        shared rounds of the difference in the mean of min(time, horizon), with Student's interval
        over rounds, adjusted.
        ``p_value`` of that difference if labels are exchanged within rounds,
        and ``p_holm``, adjusted over all pairs (Holm, Scandinavian Journal of Statistics 1979).
        ``more_runs`` that the ratio alone needs for ``precision``, at the scatter seen; NaN where
        these are enough and the brackets alone leave more open.
        ``why`` something is missing.  Where polls tell limits only of a median, there is no ratio;
        where they leave open which mean is longer (``means_left_open``), there is no ``later_s``
        and no p-value.
    """
    names = list(combinations(sorted(distributions), 2)) if pairs is None else list(pairs)
    level = 1 - 0.05 / max(len(names), 1)
    halves = {name: _Half.of(each) for name, each in distributions.items()}
    shares = {
        name: each.share_ready(horizon_s, level=level) for name, each in distributions.items()
    }
    tests = _tests(distributions, names, horizon_s=horizon_s, level=level)
    rows = []
    for (first, second), test in zip(names, tests, strict=True):
        rounds = int(test["rounds"])
        runs = min(halves[first].runs, halves[second].runs)
        ratio = _ratio(halves[first], halves[second], runs=runs, level=level)
        needed = runs_needed(halves[first].over(halves[second]), runs=runs, precision=precision)
        low, high = halves[first].left_open(halves[second])
        limits_only = halves[first].is_open or halves[second].is_open
        too_wide = limits_only or (needed <= runs and high > low * (1 + precision) ** 2)
        needed = np.nan if too_wide else needed
        difference = _difference(shares[first], shares[second])
        unreached = [name for name in (first, second) if np.isinf(halves[name].value_s)]
        row: dict[str, Any] = {"first": first, "second": second} | test
        row |= {"more_runs": max(needed - runs, 0.0), "why": _missing(rounds, ratio, unreached)}
        row["why"] = row["why"] or (
            SAME_LIMITS if rounds and np.isnan(test["p_value"]) else TOO_WIDE * too_wide
        )
        for what, each in (("ratio", ratio), ("difference", difference)):
            row |= {what: each.value}
            row |= {f"{what}_low_adjusted": each.low, f"{what}_high_adjusted": each.high}
        rows.append(row)
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    return table.assign(p_holm=holm(table["p_value"].to_numpy(dtype=np.float64)))


def most_different(pairs: pd.DataFrame, *, most: int = 20, every: bool = False) -> pd.DataFrame:
    """The pairs that differ (or every pair), the surest differences first, at most so many.

    In each the slower target is the first (see ``slower_first``).
    """
    shown = pairs if every else pairs[pairs["p_holm"] < SIGNIFICANT]
    shown = shown.assign(size=-shown["difference"].abs()).sort_values(["p_holm", "size"])
    return slower_first(shown.drop(columns="size").head(most).reset_index(drop=True))


def slower_first(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs, turned so that the first is later on average (``later_s``, which is tested).

    Where that is not known, the first has the longer median, else the smaller share.
    """
    later_s, longer = pairs["later_s"], _has_shorter_median_first(pairs)
    return _turned(pairs, (later_s < 0) | (~(later_s > 0) & longer))


def longer_median_first(pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs, turned so that the first has the longer median, else the smaller share."""
    return _turned(pairs, _has_shorter_median_first(pairs))


def _has_shorter_median_first(pairs: pd.DataFrame) -> "pd.Series[bool]":
    ratio = pairs["ratio"]
    return (ratio < 1) | (ratio.isna() & (pairs["difference"] > 0))


def _turned(pairs: pd.DataFrame, where: "pd.Series[bool]") -> pd.DataFrame:
    """The pairs, those ``where`` it is true with the second first."""
    low, high = pairs["ratio_low_adjusted"], pairs["ratio_high_adjusted"]
    turned = pairs.assign(
        first=pairs["second"],
        second=pairs["first"],
        ratio=1 / pairs["ratio"],
        ratio_low_adjusted=1 / high,
        ratio_high_adjusted=(1 / low).fillna(np.inf).where(high.notna()),
        later_s=-pairs["later_s"],
        later_s_low_adjusted=-pairs["later_s_high_adjusted"],
        later_s_high_adjusted=-pairs["later_s_low_adjusted"],
        difference=-pairs["difference"],
        difference_low_adjusted=-pairs["difference_high_adjusted"],
        difference_high_adjusted=-pairs["difference_low_adjusted"],
    )
    return pairs.where(~where, turned)


@dataclass(frozen=True)
class _Half:
    """When half of a target's requests had reached the stage; infinity is later than ``known_s``.

    ``runs`` were watched until then.  ``ends_s`` are the limits between which the brackets alone
    leave it, and ``is_open`` says that nothing more is known of it.
    """

    value_s: float
    resampled_s: Floats
    known_s: float
    runs: int
    ends_s: tuple[float, float]
    is_open: bool

    @classmethod
    def of(cls, times: LaunchTimes) -> "_Half":
        halves = (each.quantile(0.5) for each in (times.curve, times.resampled))
        value_s, resampled_s = halves
        known_s = times.curve.known_until_s
        runs = int(times.runs_watched(min(float(value_s), known_s)))
        ends_s, is_open = times.observed.left_open(0.5), times.pieces.is_open_at(0.5)
        return cls(float(value_s), resampled_s, known_s, runs, ends_s, is_open)

    def over(self, other: "_Half") -> Floats:
        """The resampled ratios; NaN where neither half was reached."""
        return _over(self.resampled_s, other.resampled_s)

    def left_open(self, other: "_Half") -> tuple[float, float]:
        """The limits between which the brackets alone leave the ratio of these very launches."""
        (low_s, high_s), (other_low_s, other_high_s) = self.ends_s, other.ends_s
        return low_s / other_high_s, high_s / other_low_s if other_low_s > 0 else np.inf


def _over(first: Floats, second: Floats) -> Floats:
    unknown = np.isinf(first) & np.isinf(second)
    ratio: Floats = np.where(unknown, np.nan, first) / np.where(unknown, 1.0, second)
    return ratio


def _ratio(first: _Half, second: _Half, *, runs: int, level: float) -> Estimate:
    """The ratio with its interval; a median that was not reached lies after the time watched.

    The interval holds at least what the brackets leave open, as in ``LaunchTimes.quantile``.
    """
    here = (
        first.value_s / second.value_s
        if np.isfinite([first.value_s, second.value_s]).all()
        else np.nan
    )
    low = _over(np.minimum(first.resampled_s, first.known_s), second.resampled_s)
    high = _over(first.resampled_s, np.minimum(second.resampled_s, second.known_s))
    ends = [run_level_interval(here, each, runs=runs, level=level) for each in (low, high)]
    low_end = ends[0].low if ends[0].low > 0 else np.nan
    high_end = ends[1].high if ends[1].high > 0 else np.nan
    if np.isnan(low_end) and np.isinf(high_end):  # no bound at all
        high_end = np.nan
    if np.isfinite(here):
        least, most = first.left_open(second)
        low_end, high_end = float(np.minimum(low_end, least)), max(high_end, most)
    if first.is_open or second.is_open:
        here = np.nan
        low_end, high_end = (low_end if low_end > 0 else np.nan), float(high_end)
        high_end = np.nan if np.isnan(low_end) and np.isinf(high_end) else high_end
    return Estimate(here, low_end, high_end, ends[0].why)


def _difference(first: Estimate, second: Estimate) -> Estimate:
    value = first.value - second.value
    low = np.hypot(first.value - first.low, second.high - second.value)
    high = np.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, float(value - low), float(value + high), first.why or second.why)


def _missing(rounds: int, ratio: Estimate, unreached: Sequence[str]) -> str:
    if rounds == 0:
        return "never launched in the same round: target and time cannot be separated"
    if unreached:
        return f"no ratio: half of {' and of '.join(unreached)} not reached while watched"
    return f"no interval: {ratio.why}" if ratio.why else ""


def _tests(
    distributions: Mapping[str, LaunchTimes],
    pairs: Sequence[tuple[str, str]],
    *,
    horizon_s: float,
    level: float,
) -> list[dict[str, float]]:
    """The shared rounds of each pair, its ``later_s`` over them and its p-value.

    The scores are ``run_means_s``.
    """
    scores = {
        name: pd.Series(each.run_means_s(horizon_s)).groupby(list(each.rounds)).mean().dropna()
        for name, each in distributions.items()
    }
    table = pd.DataFrame(scores)
    columns = {name: table[name].notna().to_numpy() for name in scores}
    alike: dict[bytes, list[int]] = {}  # the pairs of the same shared rounds
    for place, (first, second) in enumerate(pairs):
        both = columns[first] & columns[second]
        alike.setdefault(both.tobytes(), []).append(place)
    found: list[dict[str, float]] = [{} for _ in pairs]
    for shared, places in alike.items():
        here = table[np.frombuffer(shared, dtype=np.bool_)]
        firsts, seconds = (here[[pairs[k][end] for k in places]].to_numpy() for end in (0, 1))
        later_s = firsts - seconds
        p_values = exchange_p_values(later_s)
        for column, place in enumerate(places):
            one, other = (distributions[name] for name in pairs[place])
            row = _later(later_s[:, column], level=level) | {"p_value": float(p_values[column])}
            if one.is_mean_open(horizon_s) or other.is_mean_open(horizon_s):
                row = _within_limits(row, one, other, horizon_s=horizon_s)
            found[place] = {"rounds": len(here)} | row
    return found


def _later(later_s: Floats, *, level: float) -> dict[str, float]:
    low_s, high_s = student_interval(later_s, level=level)
    mean_s = float(later_s.mean()) if len(later_s) else np.nan
    return {"later_s": mean_s, "later_s_low_adjusted": low_s, "later_s_high_adjusted": high_s}


def _within_limits(
    test: dict[str, float], first: LaunchTimes, second: LaunchTimes, *, horizon_s: float
) -> dict[str, float]:
    """A test with what the polls leave open of it, which may be everything."""
    if means_left_open(first, second, horizon_s=horizon_s):
        return dict.fromkeys(test, np.nan)
    (least, most), (other_least, other_most) = (
        each.observed.mean_left_open(horizon_s) for each in (first, second)
    )
    low_s, high_s = test["later_s_low_adjusted"], test["later_s_high_adjusted"]
    return test | {
        "later_s_low_adjusted": float(np.minimum(low_s, least - other_most)),
        "later_s_high_adjusted": float(np.maximum(high_s, most - other_least)),
    }


def means_left_open(first: LaunchTimes, second: LaunchTimes, *, horizon_s: float) -> bool:
    """Whether polls leave open which of two means of min(time, horizon) is longer.

    Only where they tell limits of one of them and no value: elsewhere errors of brackets average
    out over runs.
    """
    if not (first.is_mean_open(horizon_s) or second.is_mean_open(horizon_s)):
        return False
    (least, most), (other_least, other_most) = (
        each.observed.mean_left_open(horizon_s) for each in (first, second)
    )
    return least < other_most and other_least < most


def exchange_p_values(differences: ArrayLike) -> Floats:
    """Two-sided p-values of mean differences if labels are exchanged within each round.

    Under the hypothesis that labels mean nothing they are exact up to 12 rounds (Fisher 1935);
    beyond, they use 100,000 random exchanges, which are the same for the same number of rounds.
    They are NaN without a round, and at least 2 / 2^rounds.

    Parameters
    ----------
    differences : array_like, shape (rounds, pairs)
        First less second in each round.
    """
    paired = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    rounds = len(paired)
    if rounds == 0:
        return np.full(paired.shape[1], np.nan)
    scale = np.maximum(np.abs(paired).sum(axis=0), 1e-300)
    relative = paired / scale
    seen = np.abs(relative.sum(axis=0)) - 1e-6  # rounding must not tell equal sums apart
    as_far = np.zeros(paired.shape[1])
    number, relative = 0, relative.astype(np.float32)
    for signs in _exchanges(rounds):
        for some in np.array_split(signs, 1 + len(signs) * len(seen) // _AT_ONCE):
            as_far += (np.abs(some @ relative) >= seen).sum(axis=0)
        number += len(signs)
    exact = rounds <= _ALL_EXCHANGES
    return as_far / number if exact else (as_far + 1) / (number + 1)


def _exchanges(rounds: int) -> Iterator[NDArray[np.float32]]:
    """Signs of the differences, (exchanges, rounds), in parts: all that exist, or random ones."""
    if rounds <= _ALL_EXCHANGES:
        bits = np.arange(2**rounds)[:, None] >> np.arange(rounds) & 1
        yield (2 * bits - 1).astype(np.float32)
        return
    rng = np.random.default_rng(rounds)
    part = max(_AT_ONCE // rounds, 1)
    for start in range(0, _EXCHANGES, part):
        bits = rng.integers(0, 2, (min(part, _EXCHANGES - start), rounds), dtype=np.int8)
        yield (2 * bits - 1).astype(np.float32)


def rounds_needed(tests: int) -> int:
    """How many rounds are needed to detect one difference among so many tests (Holm)."""
    return int(log2(2 * tests / SIGNIFICANT)) + 1  # the smallest p-value is 2 / 2^rounds


def holm(p_values: ArrayLike) -> Floats:
    """Holm's step-down adjustment; NaN stays NaN and does not count as a test."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    tests = int(np.isfinite(values).sum())
    adjusted = np.full(len(values), np.nan)
    highest = 0.0
    for rank, place in enumerate(order[:tests]):
        highest = max(highest, min(1.0, float(values[place]) * (tests - rank)))
        adjusted[place] = highest
    return adjusted


def runs_needed(resampled: Floats, *, runs: int, precision: float) -> float:
    """How many runs are needed to know a ratio, or a time, to a factor of 1 + precision at 95 %.

    The standard error of its logarithm falls with the root of the runs.  NaN below 6 runs or if a
    resample is infinite, because the scatter is then unknown.
    """
    unknown = not np.all(np.isfinite(resampled)) or np.any(resampled <= 0)
    if runs < FEWEST_RUNS or unknown:
        return np.nan
    error = np.log(resampled).std(ddof=1)
    return float(ceil(runs * (_TWO_SIDED * error / log(1 + precision)) ** 2))

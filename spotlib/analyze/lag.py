"""How much later EC2's status checks are "ok" than the guest was usable, and what that costs.

Both ends are brackets, so the lag of an instance is one too: interval-censored, as all times here.
Only launches that recorded when the guest was usable, and waited for the checks, count.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spotlib.analyze.intervals import Estimate
from spotlib.analyze.launch_times import LaunchTimes, launch_times
from spotlib.model import ON_DEMAND, Stage
from spotlib.money import held_usd, usd
from spotlib.words import counted, which

ALL = "all of these"
_NOTICED_S = 0.05  # a shorter median is shown as 0.0 s
_MOMENTS = (Stage.RUNNING, Stage.USABLE, Stage.READY)
_COLUMNS = (
    *("target", "runs", "launches", "median_s", "median_s_low", "median_s_high"),
    *("saved_s", "saved_s_low", "saved_s_high", "saved_usd", "why_no_interval"),
)


def lag_times(
    launches: pd.DataFrame, *, resamples: int = 999, executor: Executor | None = None
) -> dict[str, LaunchTimes]:
    """Estimate the time from usable to ready, of each target and, of several, of ``ALL``.

    ``launches`` have ``target`` and ``run``.  It is empty where nothing was recorded.
    """
    rows = with_all(_recorded(launches))
    found = launch_times(
        rows, Stage.READY, since=Stage.USABLE, resamples=resamples, executor=executor
    )
    return {name: found[name] for name in dict.fromkeys(rows["target"])}


def with_all(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of several targets, and before them the same again as those of ``ALL``."""
    if rows["target"].nunique() < 2:
        return rows
    return pd.concat([rows.assign(target=ALL), rows], ignore_index=True)


def _recorded(launches: pd.DataFrame) -> pd.DataFrame:
    waited = launches["wanted"] == Stage.READY.label
    return launches[waited & launches["usable_by_s"].notna()].sort_values("target")


def lag_table(lags: Mapping[str, LaunchTimes], launches: pd.DataFrame) -> pd.DataFrame:
    """The lag of each target, and what a launch saves that waits for usable instead of ready.

    Returns
    -------
    DataFrame, one row per target, ``ALL`` first
        ``median_s`` of the lag and ``saved_s``, its mean, with their 95 % intervals over runs.  A
        lag longer than the longest lag seen counts as the longest.  ``saved_usd`` is the mean
        saving of the launches that reached both stages; NaN if a price is unknown, or if the polls
        tell only limits of what is saved.
    """
    rows = _recorded(launches)
    saved = np.array([_saved_usd(row) for row in rows.to_dict("records")], dtype=np.float64)
    found = []
    for name, each in lags.items():
        here = saved if name == ALL else saved[(rows["target"] == name).to_numpy()]
        longest_s = each.observed.by_s[np.isfinite(each.observed.by_s)].max(initial=0.0)
        mean = each.restricted_mean(longest_s) if longest_s else Estimate(np.nan, np.nan, np.nan)
        median = each.quantile(0.5)
        row: dict[str, Any] = {"target": name, "runs": each.observed.runs, "launches": len(here)}
        for what, estimate in (("median_s", median), ("saved_s", mean)):
            row |= {what: estimate.value}
            row |= {f"{what}_low": estimate.low, f"{what}_high": estimate.high}
        saved_usd = np.nan if mean.has_limits_only else _mean(here)
        found.append(row | {"saved_usd": saved_usd, "why_no_interval": median.why})
    return pd.DataFrame(found, columns=list(_COLUMNS))


def _mean(amounts: NDArray[np.float64]) -> float:
    known = amounts[np.isfinite(amounts)]
    return float(known.mean()) if known.size else np.nan


def _saved_usd(row: Mapping[Any, Any]) -> float:
    """What a launch costs from usable to ready: EC2 bills a minute at least."""
    running, usable, ready = (
        (row[f"{stage.label}_after_s"] + row[f"{stage.label}_by_s"]) / 2 for stage in _MOMENTS
    )
    if np.isnan(ready - running):
        return np.nan
    price = row["on_demand_usd" if row["purchase"] == ON_DEMAND else "price_usd"]
    has_address = row["placement"] == "region"
    costs = (
        held_usd(float(price), max(until - running, 0.0), has_address=has_address)
        for until in (ready, usable)
    )
    return next(costs) - next(costs)


def lag_sentences(table: pd.DataFrame, launches: pd.DataFrame) -> Iterator[str]:
    """The lag over all targets whose guests were read, and what waiting for usable would save."""
    if table.empty:
        return
    read, targets = len(set(table["target"]) - {ALL}), launches["target"].nunique()
    where = which(table["target"].tolist()[-read:], of=read) + " targets" * (read > 1)
    if read < targets:
        where = f"{read} of {targets} targets"
    unread = f"of {counted(targets - read, 'target')} no guest was read" * (read < targets)
    first = table.iloc[0]
    ends = first["median_s_low"], first["median_s_high"]
    median = Estimate(first["median_s"], *ends, first["why_no_interval"])
    if median.value < _NOTICED_S:
        where += _in_brackets(unread)
        yield f"Status checks were ok no later than the guest was usable, at {where}."
        return
    yield (
        f"Status checks were ok later than the guest was usable, by a median of {median.words()} "
        f"{'over' if read > 1 else 'at'} {where}{_in_brackets(_own_medians(table), unread)}."
    )
    if np.isfinite(first["saved_s"]):
        yield (
            'A study that waits for "usable" ends each launch '
            f"{first['saved_s']:.0f} s earlier on average, {_saved_words(first['saved_usd'])}."
        )


def _own_medians(table: pd.DataFrame) -> str:
    """The medians of the targets, each by itself: targets may differ more than their runs do."""
    medians = table.loc[table["target"] != ALL, "median_s"].dropna()
    if len(medians) < 2:
        return ""
    known = "each" if len(medians) == len(set(table["target"]) - {ALL}) else "those with one"
    return f"of {known} by itself {medians.min():.1f} to {medians.max():.1f} s"


def _in_brackets(*words: str) -> str:
    said = "; ".join(filter(None, words))
    return f" ({said})" * bool(said)


def _saved_words(amount_usd: float) -> str:
    if np.isnan(amount_usd):
        return "and what that saves is not known, because a price is not"
    return f"and each costs {usd(abs(amount_usd))} {'more' if amount_usd < 0 else 'less'}"


def formatted_lag(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``lag_table``, each estimate in one cell with its interval."""
    cells = {
        heading: [
            Estimate(
                row[name], row[f"{name}_low"], row[f"{name}_high"], row["why_no_interval"]
            ).words("")
            for row in table.to_dict("records")
        ]
        for heading, name in (("median lag, s", "median_s"), ("saved, s", "saved_s"))
    }
    cells["saved per launch"] = [usd(each) for each in table["saved_usd"]]
    return table[["target", "runs", "launches"]].assign(**cells)

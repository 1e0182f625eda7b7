"""Whether the launch method matters: the arms of a study, compared within targets.

Owns the comparison of arms (a launch method and what is bought: spot or on demand).  Arms are never
pooled.  They are compared within a target and a round: there, all arms used the same pool within
minutes, in random order.
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from itertools import combinations

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import arm_names
from spotlib.analyze.compare import (
    compare_targets,
    exchange_p_values,
    holm,
    means_left_open,
)
from spotlib.analyze.intervals import student_interval
from spotlib.analyze.launch_times import LaunchTimes, launch_times
from spotlib.analyze.summaries import common_horizon_s, summarize
from spotlib.model import Outcome, Stage

_BY = " by "
_SUMMED = (
    *("target", "asked_by", "runs", "watched", "requests", "refused"),
    *(f"{each}{end}" for each in ("median_s", "share") for end in ("", "_low", "_high")),
)
_COLUMNS = (
    "first",
    "second",
    "targets",
    "left_open",
    "rounds",
    "later_s",
    "later_low_s",
    "later_high_s",
)


def arm_times(
    launches: pd.DataFrame, stage: Stage, *, executor: Executor | None = None
) -> dict[str, LaunchTimes]:
    """The launch times of each target by each arm, named ``target by arm``.

    Parameters
    ----------
    launches : DataFrame
        ``Comparable.arms``: launches that differ in nothing but their arm.
    stage : Stage
        The stage whose time is estimated.
    executor : Executor, optional
        As for ``launch_times``.
    """
    named = launches.assign(target=_names(launches))
    return launch_times(named, stage, executor=executor)


def arms_horizon_s(
    distributions: Mapping[str, LaunchTimes], launches: pd.DataFrame, horizon_s: float
) -> float:
    """The horizon of one arm, or the time until which all were watched if that is earlier."""
    return min(horizon_s, common_horizon_s(distributions, launches))


def arm_table(
    distributions: Mapping[str, LaunchTimes], launches: pd.DataFrame, *, horizon_s: float
) -> pd.DataFrame:
    """All arms in one view: one row per target and arm.

    Parameters
    ----------
    distributions, launches
        What ``arm_times`` returned, and what it was given.

    Returns
    -------
    DataFrame
        ``target``, ``asked_by``, ``runs`` and how many of them were ``watched`` until the horizon;
        ``requests``, and ``refused``, those of them that
        were refused at once.  ``median_s`` of the time to the stage, and ``share``, which was there
        by the horizon, with their 95 % intervals over runs.
    """
    refused = (launches["outcome"] == Outcome.REFUSED).groupby(_names(launches)).sum()
    table = summarize(distributions, horizon_s=horizon_s).sort_values("target", ignore_index=True)
    return table.assign(
        refused=table["target"].map(refused).astype(int),
        asked_by=table["target"].map(arm_of),
        target=table["target"].map(target_of),
    )[[*_SUMMED]]


def _names(launches: pd.DataFrame) -> "pd.Series[str]":
    return launches["target"] + _BY + arm_names(launches)


def target_of(name: str) -> str:
    """The target in a name of ``arm_times``."""
    return name.rpartition(_BY)[0]


def arm_of(name: str) -> str:
    """The arm in a name of ``arm_times``."""
    return name.rpartition(_BY)[2]


def compare_arms(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> pd.DataFrame:
    """Compare the arms within each target: the table of ``compare_targets`` for these pairs."""
    names = sorted(distributions)
    within = [pair for pair in combinations(names, 2) if target_of(pair[0]) == target_of(pair[1])]
    return compare_targets(distributions, horizon_s=horizon_s, pairs=within)


def compare_arms_overall(
    distributions: Mapping[str, LaunchTimes], *, horizon_s: float
) -> pd.DataFrame:
    """Compare the arms over all targets, one row per pair of arms.

    The mean of min(time, horizon) of a run is compared with that of the other arm's run in the
    same target and round.

    Returns
    -------
    DataFrame
        ``first``, ``second``: the arms; ``targets`` and ``rounds`` in which both were launched.
        So many more targets are ``left_open``: their polls do not tell which arm is later
        (``means_left_open``), so they do not count.
        ``later_s``: how much later the first is, in seconds, the mean over targets and rounds,
        with a 95 % interval over rounds (Student's t; NaN below 6 rounds, and where all are the
        same), adjusted for the number of pairs (Bonferroni).
        ``p_value`` if labels are exchanged within rounds (Fisher 1935), and ``p_holm``, adjusted
        over all pairs (Holm, Scandinavian Journal of Statistics 1979).
    """
    means_s = pd.concat(
        [
            pd.DataFrame({"mean_s": each.run_means_s(horizon_s), "round": each.rounds}).assign(
                target=target_of(name), arm=arm_of(name)
            )
            for name, each in distributions.items()
        ]
    )
    paired = means_s.pivot_table(index=["target", "round"], columns="arm", values="mean_s")
    pairs = list(combinations(paired.columns, 2))
    level = 1 - 0.05 / max(len(pairs), 1)
    rows = []
    for first, second in pairs:
        later_s = (paired[first] - paired[second]).dropna()
        unknown = [
            target
            for target in set(later_s.index.get_level_values("target"))
            if means_left_open(
                *(distributions[f"{target}{_BY}{arm}"] for arm in (first, second)),
                horizon_s=horizon_s,
            )
        ]
        row = _difference(later_s.drop(index=unknown, level="target"), level=level)
        rows.append({"first": first, "second": second, "left_open": len(unknown)} | row)
    table = pd.DataFrame(rows, columns=[*_COLUMNS, "p_value"])
    return table.assign(p_holm=holm(table["p_value"].to_numpy(dtype=np.float64)))


def _difference(later_s: "pd.Series[float]", *, level: float) -> dict[str, float]:
    """The mean difference.  Rounds are the sample, because a round's targets share its hour."""
    by_round = np.asarray(later_s.groupby("round").mean(), dtype=np.float64)
    low_s, high_s = student_interval(by_round, level=level)
    return {
        "targets": later_s.index.get_level_values("target").nunique(),
        "rounds": len(by_round),
        "later_s": float(by_round.mean()) if len(by_round) else np.nan,
        "later_low_s": low_s,
        "later_high_s": high_s,
        "p_value": float(exchange_p_values(by_round[:, None])[0]),
    }

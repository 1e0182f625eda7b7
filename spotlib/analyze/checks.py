"""What could make the numbers wrong: the study's questions to its own data.

Owns the warnings, each one sentence, and the tables of what would change if API reads were stale.
It changes no estimate.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import Comparable
from spotlib.analyze.intervals import FEWEST_RUNS
from spotlib.analyze.launch_times import LaunchTimes, round_of
from spotlib.analyze.turnbull import smoothed, turnbull, widened
from spotlib.model import Stage

STALE_S = (2.0, 5.0, 30.0)
_CLUSTERED = 0.2  # of the ends of brackets, where chance would put 2 %
_MISSED = 0.05  # of the looks
_GAPPED = 0.05  # of the brackets
_RECENT_S = 600.0  # since our own last launch in the pool
_SHARED_ROUNDS = 0.8
_ALWAYS_FIRST = 5  # rounds, after which the same one first every time is no accident
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Check:
    """One question to the data: ``found`` is a sentence, ``warns`` whether it is a worry."""

    name: str
    warns: bool
    found: str


def self_check(data: Comparable, laws: Mapping[str, LaunchTimes], stage: Stage) -> pd.DataFrame:
    """Every check, one row each: ``check``, ``warns``, ``found``; what warns comes first."""
    of_data: tuple[Callable[[Comparable], Check], ...] = (
        _missed_looks,
        _confounded,
        _order,
        _own_demand,
        _one_occasion,
        _mixed_counts,
    )
    checks = [check(data) for check in of_data]
    checks += [_clustered(data, stage), _gaps(data, stage), _unfinished(data)]
    checks += [_few_runs(laws), _wide_brackets(laws)]
    rows = [{"check": each.name, "warns": each.warns, "found": each.found} for each in checks]
    return pd.DataFrame(rows).sort_values(
        "warns", ascending=False, kind="stable", ignore_index=True
    )


def _ends(data: Comparable, stage: Stage) -> pd.DataFrame:
    """Brackets of a stage with their batch's time between looks."""
    poll_s = data.launches["batch_id"].map(data.batches.set_index("batch_id")["poll_s"])
    shown = data.launches[[f"{stage.label}_after_s", f"{stage.label}_by_s"]].assign(poll_s=poll_s)
    return shown.dropna().set_axis(["after_s", "by_s", "poll_s"], axis=1)


def _clustered(data: Comparable, stage: Stage) -> Check:
    ends = _ends(data, stage)
    off = (ends["by_s"] / ends["poll_s"] + 0.01) % 1.0
    share = float((off < 0.02).mean()) if len(ends) else 0.0
    words = f"{share:.0%} of the times lie within 1 % of a whole number of looks"
    why = ": they may be counted looks instead of measured times" if share > _CLUSTERED else ""
    return Check("times at multiples of the poll", share > _CLUSTERED, words + why)


def _gaps(data: Comparable, stage: Stage) -> Check:
    ends = _ends(data, stage)
    wide = (ends["by_s"] - ends["after_s"]) > 2.5 * ends["poll_s"]
    share = float(wide.mean()) if len(ends) else 0.0
    words = f"{share:.0%} of the {stage.label} brackets are wider than 2.5 looks"
    return Check("gaps between looks", share > _GAPPED, words)


def _missed_looks(data: Comparable) -> Check:
    looks = data.polls.drop_duplicates(["batch_id", "round", "region", "tick"])
    steps = looks.sort_values("tick").groupby(["batch_id", "round", "region"])["tick"]
    skipped = float((steps.max() - steps.min() + 1 - steps.size()).sum())
    failed = float(looks["error"].notna().sum())
    share = (failed + skipped) / max(len(looks) + skipped, 1.0)
    words = f"{share:.1%} of the looks failed or were left out ({failed:.0f} and {skipped:.0f})"
    return Check("missed looks", share > _MISSED, words)


def _rounds(data: Comparable) -> pd.DataFrame:
    """Which targets were launched in which round: a row a run."""
    runs = data.launches.drop_duplicates("run")
    return runs.assign(round_id=runs["run"].map(round_of))[["round_id", "target", "sent_at"]]


def _confounded(data: Comparable) -> Check:
    runs = _rounds(data)
    targets = runs["target"].nunique()
    share = float((runs.groupby("round_id")["target"].nunique() == targets).mean())
    words = f"{share:.0%} of the rounds launched every target"
    if targets < 2 or share >= _SHARED_ROUNDS:
        return Check("target and time confounded", False, words)
    why = ": a difference between targets may be one between times"
    return Check("target and time confounded", True, words + why)


def _order(data: Comparable) -> Check:
    runs = _rounds(data).sort_values("sent_at")
    several = runs[runs.groupby("round_id")["target"].transform("size") > 1]
    first = several.drop_duplicates("round_id")["target"]
    name = "order within a round"
    if len(first) >= _ALWAYS_FIRST and first.nunique() == 1:
        return Check(name, True, f"{first.iloc[0]} was always launched first: the order is no draw")
    return Check(name, False, f"{first.nunique()} targets took turns at being first")


def _own_demand(data: Comparable) -> Check:
    since_s = data.launches.drop_duplicates("run")["since_last_s"]
    share = float((since_s < _RECENT_S).mean())
    words = f"{share:.0%} of the runs came within {_RECENT_S / 60:.0f} min of our last in the pool"
    why = ": our own demand may still have been felt" if share > 0 else ""
    return Check("our own earlier launches", share > 0, words + why)


def _one_occasion(data: Comparable) -> Check:
    sent = data.launches["sent_at"]
    days = (sent.max() - sent.min()).total_seconds() / _DAY_S
    hours = sent.dt.hour.nunique()
    words = f"the runs span {days * 24:.1f} h and {hours} hours of the day"
    why = ": intervals speak of that time only" if days < 3 else ""
    return Check("one occasion", days < 3, words + why)


def _mixed_counts(data: Comparable) -> Check:
    counts = sorted(set(data.launches["n"].dropna().astype(int)))
    words = f"n is {', '.join(map(str, counts))}"
    why = ": runs of different n are averaged, each with the same weight" if len(counts) > 1 else ""
    return Check("different n", len(counts) > 1, words + why)


def _unfinished(data: Comparable) -> Check:
    open_ended = int(data.launches["outcome"].isna().sum())
    words = (
        f"{open_ended} requests have no outcome: under way or cut off, censored at the last look"
    )
    return Check("unfinished requests", open_ended > 0, words)


def _few_runs(laws: Mapping[str, LaunchTimes]) -> Check:
    few = [name for name, law in laws.items() if law.observed.runs < FEWEST_RUNS]
    requests = sum(len(law.observed.run) for law in laws.values())
    runs = sum(law.observed.runs for law in laws.values())
    worth = sum(map(independent_requests, laws.values()))
    words = f"{requests} requests are {runs} runs, worth about {worth:.0f} independent requests"
    if few:
        words += f"; no interval with fewer than {FEWEST_RUNS} runs for {', '.join(few)}"
    return Check("instances outnumber runs", bool(few) or worth < requests / 2, words)


def independent_requests(law: LaunchTimes) -> float:
    """How many independent requests the requests of a target are worth.

    n / (1 + (m - 1) ICC), m the requests a run (Kish, Survey Sampling 1965), with the intraclass
    correlation of the times from a one-way analysis of variance, those that never came at the
    longest time seen.  NaN values cannot occur; a single run is worth one request.
    """
    seen = law.observed
    longest = float(seen.by_s[np.isfinite(seen.by_s)].max(initial=1.0))
    middle = np.where(np.isfinite(seen.by_s), (seen.after_s + seen.by_s) / 2, longest)
    sizes = np.bincount(seen.run)
    runs, requests = len(sizes), len(middle)
    if runs in (1, requests):
        return float(runs)
    means = np.bincount(seen.run, middle) / sizes
    between = float((sizes * (means - middle.mean()) ** 2).sum()) / (runs - 1)
    within = float(((middle - means[seen.run]) ** 2).sum()) / (requests - runs)
    size = (requests - (sizes**2).sum() / requests) / (runs - 1)
    total = between + (size - 1) * within
    alike = min(max((between - within) / total, 0.0), 1.0) if total > 0 else 1.0
    return float(requests / (1 + (size - 1) * alike))


def _wide_brackets(laws: Mapping[str, LaunchTimes]) -> Check:
    wide = [
        name
        for name, law in laws.items()
        if law.observed.events and law.observed.width_s > law.curve.interquartile_s()
    ]
    words = "brackets are wider than the middle half of the times"
    found = f"{words} for {', '.join(wide)}: the shape of the curve is not known"
    return Check("looks too far apart", bool(wide), found if wide else f"no {words}")


def stale_medians(laws: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """Each target's median if reads were stale by up to 0, 2, 5, 30 s, one row a target and case.

    What a look first showed may have been true ``stale_s`` before it.  ``least_s`` moves every
    bracket back by all of that; ``median_s`` widens the brackets by it and estimates anew.
    """
    rows = [
        {
            "target": name,
            "stale_s": seconds,
            "median_s": _known(smoothed(turnbull(wide), law.observed.width_s / 2).quantile(0.5)),
            "least_s": max(_known(law.curve.quantile(0.5)) - seconds, 0.0),
        }
        for name, law in laws.items()
        for seconds in (0.0, *STALE_S)
        for wide in [widened(law.observed, seconds)]
    ]
    return pd.DataFrame(rows)


def stale_orders(laws: Mapping[str, LaunchTimes]) -> pd.DataFrame:
    """Whether the order of each pair's medians survives if one side's reads alone were stale.

    One row a pair and case: ``quicker``, ``slower``, ``stale_s``, ``holds``.  The worst case: the
    slower one's region answers that much late, the other's at once.
    """
    medians = {name: _known(law.curve.quantile(0.5)) for name, law in laws.items()}
    known = sorted((s, name) for name, s in medians.items() if not np.isnan(s))
    rows = [
        {"quicker": a, "slower": b, "stale_s": seconds, "holds": slow_s - seconds > quick_s}
        for (quick_s, a), (slow_s, b) in combinations(known, 2)
        for seconds in STALE_S
    ]
    return pd.DataFrame(rows, columns=["quicker", "slower", "stale_s", "holds"])


def stale_words(orders: pd.DataFrame) -> Iterator[str]:
    """A sentence for each staleness: how many of the pairs keep their order."""
    for seconds, rows in orders.groupby("stale_s"):
        kept = f"{rows['holds'].sum()} of {len(rows)} pairs keep their order"
        yield f"reads stale by {seconds:.0f} s: {kept}"


def _known(value: np.ndarray) -> float:
    return float(value) if np.isfinite(value) else np.nan

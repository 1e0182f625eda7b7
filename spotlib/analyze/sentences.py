"""The sentences and the formatted table that ``03_analyze`` prints.

Wording only: every estimate comes from elsewhere, and what is unknown is said to be unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.compare import SIGNIFICANT
from spotlib.analyze.intervals import FEWEST_RUNS, Estimate
from spotlib.analyze.launch_times import LaunchTimes
from spotlib.analyze.summaries import fastest_first, shares_of_runs
from spotlib.model import Stage


def answer_sentences(
    distributions: Mapping[str, LaunchTimes],
    pairs: pd.DataFrame,
    launches: pd.DataFrame,
    *,
    horizon_s: float,
) -> Iterator[str]:
    """The fastest target, the slowest, the share at the end, and what cannot be said.

    ``pairs`` is as from ``compare_targets``, ``launches`` are those of the distributions.
    """
    ranked = fastest_first(distributions, horizon_s=horizon_s)
    stage = distributions[ranked[0]].stage.label
    shares = {name: distributions[name].share_ready(horizon_s) for name in ranked}

    def how_fast(name: str) -> str:
        half = distributions[name].quantile(0.5)
        if np.isfinite(half.value):
            return f"{name}: half of the instances requested were {stage} after {_seconds(half)}"
        return f"{name}: only {_share(shares[name])} were {stage} after {horizon_s:.0f} s"

    if len(ranked) == 1:
        yield f"The only target is {how_fast(ranked[0])}."
    else:
        yield f"Fastest is {how_fast(ranked[0])}."
        yield f"Slowest is {how_fast(ranked[-1])}."
    yield _at_the_end(shares, stage, horizon_s=horizon_s)
    yield f"Not known: {'; '.join(_unknown(distributions, pairs, launches, stage))}."


def _at_the_end(shares: Mapping[str, Estimate], stage: str, *, horizon_s: float) -> str:
    known = {name: each.value for name, each in shares.items() if np.isfinite(each.value)}
    if not known:
        return f"At the end, after {horizon_s:.0f} s, no target was watched any more."
    worst, best = min(reversed(known), key=known.__getitem__), max(known, key=known.__getitem__)
    words = f"At the end, after {horizon_s:.0f} s, {_percent(known[best])} of those requested were"
    if _percent(known[worst]) == _percent(known[best]):
        return f"{words} {stage}" + ", at every target" * (len(known) > 1) + "."
    few = sum(value < 0.5 for value in known.values())
    return (
        f"{words} {stage} at {best} and {_percent(known[worst])} at {worst}; fewer than half at "
        f"{few} of {len(known)} targets."
    )


def _unknown(
    distributions: Mapping[str, LaunchTimes],
    pairs: pd.DataFrame,
    launches: pd.DataFrame,
    stage: str,
) -> Iterator[str]:
    targets = len(distributions)
    few = sum(each.observed.runs < FEWEST_RUNS for each in distributions.values())
    if few:
        yield f"how sure this is for {few} of {targets} targets (fewer than {FEWEST_RUNS} runs)"
    alike = len(pairs) - int((pairs["p_holm"] < SIGNIFICANT).sum())
    if alike:
        yield f"which target is faster in {alike} of {len(pairs)} pairs"
    late = sum(np.isnan(each.quantile(0.5).value) for each in distributions.values())
    if late:
        yield f"when half are {stage} at {late} of {targets} targets"
    sent = launches["sent_at"]
    minutes = (sent.max() - sent.min()).total_seconds() / 60
    span = f"{minutes / 60:.1f} hours" if minutes >= 60 else f"{minutes:.0f} minutes"
    yield f"what happens outside the {span} in which these were requested"
    if launches["simulated"].astype(bool).any():
        yield "anything about AWS, because the data are simulated"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(share: Estimate) -> str:
    ends = f"95 % interval {_percent(share.low)} to {_percent(share.high)}"
    return f"{_percent(share.value)} ({(share.why and f'no interval: {share.why}') or ends})"


def _seconds(time: Estimate) -> str:
    return time.words(digits=0).replace("(", "(95 % interval ", 1 - bool(time.why))


def size_words(launches: pd.DataFrame) -> str:
    """How many instances a run requested and how many runs a target has, for a figure."""
    runs = launches.drop_duplicates("run").groupby("target").size()
    n = launches["n"].astype(int)
    return f"n = {_from_to(n)}, runs per target: {_from_to(runs)}"


def _from_to(numbers: "pd.Series[int]") -> str:
    return " to ".join(map(str, dict.fromkeys((numbers.min(), numbers.max()))))


def runs_sentence(launches: pd.DataFrame, stage: Stage, *, horizon_s: float) -> str:
    """Which target's runs differ most at the end."""
    by_target = shares_of_runs(launches, stage, horizon_s=horizon_s).groupby("target")
    least, highest, runs = by_target.min(), by_target.max(), by_target.size()
    if runs.max() == 1:
        return "No target has two runs that could differ."
    most = str((highest - least).idxmax())
    if highest[most] == least[most]:
        return f"Within a target all runs ended alike, after {horizon_s:.0f} s."
    return (
        f"Runs differ most at {most}: after {horizon_s:.0f} s, from {_percent(least[most])} to "
        f"{_percent(highest[most])} of the n requested were {stage.label}, over {runs[most]} runs."
    )


def ready_caption(table: pd.DataFrame, stage: Stage, ranked: Sequence[str]) -> str:
    """What the numbers of ``formatted_ready`` are, and which targets are not among its rows."""
    words = (
        f"Of n instances requested at once, so many are {stage.label} on average after t seconds"
    )
    if (table["runs"] >= FEWEST_RUNS).any():
        words += ", with the 95 % interval of this average"
    if (table["runs"] < FEWEST_RUNS).any():
        words += f" (none below {FEWEST_RUNS} runs)"
    if len(table) < len(ranked):
        words += f". Shown are the fastest and the slowest {len(table)} of {len(ranked)} targets"
    return f"{words}. Last column: the seconds until half of n are. All: tables/ready-of-n.csv"


def formatted_ready(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``ready_of_n``, each number in one cell with its interval."""
    shown = table[["target", "runs", "n"]]
    *counts, half = [str(name) for name in table if f"{name}_low" in table]
    times = [name.removeprefix("ready_").replace("s", " s") for name in counts]
    for name, time in zip(counts, times, strict=True):
        cells = _cells(table, name, missing="not watched", digits=1)
        shown = shown.assign(**{time + " (the end)" * (time == times[-1]): cells})
    never = f"not by {times[-1]}"
    return shown.assign(**{"half after, s": _cells(table, half, missing=never, digits=0)})


def formatted_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``summarize``, each number in one cell with its interval."""
    shown = summary[[name for name in ("time", "target", "runs", "requests") if name in summary]]
    for name in ("share", "median_s", "p90_s", "restricted_mean_s"):
        missing = "not seen" if name in ("median_s", "p90_s") else "not watched"
        cells = _cells(summary, name, missing=missing, digits=2 if name == "share" else 1)
        shown = shown.assign(**{name: cells})
    return shown


def _cells(table: pd.DataFrame, name: str, *, missing: str, digits: int) -> list[str]:
    """``3.4 (2.9 to 3.9)``; a number alone has no interval, as too few runs have."""
    ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
    return [
        missing
        if np.isnan(value)
        else f"{value:.{digits}f}"
        if np.isnan(low)
        else Estimate(value, low, high).words("", digits=digits)
        for value, low, high in ends
    ]


def phase_sentence(phases: pd.DataFrame) -> str:
    """Which phase is the longest, and its shortest and longest median."""
    middle = phases.groupby("phase")["median_s"].median().dropna()
    if middle.empty:
        return "No phase was completed by half of the requests that began it."
    here = phases[phases["phase"] == middle.idxmax()].dropna(subset="median_s")
    rows = here.sort_values("median_s", kind="stable").to_dict("records")
    words = [f"{row['median_s']:.1f} s ({row['target']})" for row in rows]
    ends = " to ".join(dict.fromkeys((words[0], words[-1])))
    return f"Longest phase: {middle.idxmax()}, median {ends}."


def comparison_sentences(pairs: pd.DataFrame, *, drawn: int) -> Iterator[str]:
    """How many pairs differ, which ratio is the largest, how many runs the ratios still need."""
    if pairs.empty:
        yield "There is one target: nothing to compare."
        return
    differ = int((pairs["p_holm"] < SIGNIFICANT).sum())
    yield (
        f"{differ} of {len(pairs)} pairs differ (p below {SIGNIFICANT} after Holm); {drawn} are "
        "drawn, all are in tables/comparisons.csv."
    )
    known = pairs.dropna(subset="ratio").to_dict("records")
    if known:
        largest = max(known, key=lambda pair: abs(np.log(pair["ratio"])))
        yield f"Largest ratio of medians: {_slower_over_faster(largest)}."
    needed = pairs["more_runs"].dropna()
    if needed.empty:
        yield "How many runs a ratio needs is not known: too few medians were reached."
        return
    most, enough = int(needed.max()), int((needed == 0).sum())
    others = f"; the others need up to {most} more run{'s' * (most != 1)}" if most else ""
    yield f"{enough} of {len(needed)} ratios are known within 10 %{others}."


def _slower_over_faster(pair: Mapping[Any, Any]) -> str:
    first, second = pair["first"], pair["second"]
    ratio, low, high = (
        float(pair[f"ratio{end}"]) for end in ("", "_low_adjusted", "_high_adjusted")
    )
    if ratio < 1:
        first, second, ratio = second, first, 1 / ratio
        low, high = 1 / high, 1 / low if low > 0 else np.inf
    why = pair["why"].removeprefix("no interval: ")
    return f"{first} over {second}, {Estimate(ratio, low, high, why).words('', digits=2)}"


def arm_sentences(overall: pd.DataFrame, stage: Stage) -> Iterator[str]:
    """For each pair of arms, over all targets, which is later and how sure that is."""
    for pair in overall.to_dict("records"):
        first, second, later_s = pair["first"], pair["second"], pair["later_s"]
        ends_s = pair["later_low_s"], pair["later_high_s"]
        if later_s < 0:
            first, second, later_s, ends_s = second, first, -later_s, (-ends_s[1], -ends_s[0])
        sure = np.isnan(ends_s[0])
        ends = f"fewer than {FEWEST_RUNS} rounds" if sure else f"{ends_s[0]:.0f} to {ends_s[1]:.0f}"
        verdict = "" if pair["p_holm"] < SIGNIFICANT else ": no difference is shown"
        yield (
            f"{first} was {stage.label} {later_s:.0f} s ({ends}) later than {second}, on average "
            f"over {pair['targets']} target{'s' * (pair['targets'] != 1)}{verdict}."
        )


def selector_sentence(associations: pd.DataFrame, outcome: str = "spread_s") -> str:
    """Which feature correlates most with an outcome, and whether that is more than chance.

    The default outcome is the spread, because a selector is to find targets whose launches differ
    from run to run.
    """
    here = associations[associations["outcome"] == outcome]
    known = here[here["rho"].notna()].to_dict("records")
    if not known:
        why = here["why"].iloc[0] if len(here) else "there is no feature"
        return f"Nothing can be said of selectors: {why}."
    best = max(known, key=lambda row: abs(row["rho"]))
    verdict = "The interval contains 0: no selector is shown to work."
    if best["low"] > 0 or best["high"] < 0:
        verdict = (
            f"The interval excludes 0, but this is the strongest of {len(known)} features: "
            "confirm it on other targets."
        )
    return (
        f"Over {best['targets']} targets {outcome} correlates most with {best['feature']}: "
        f"rank correlation {best['rho']:.2f} ({best['low']:.2f} to {best['high']:.2f}). {verdict}"
    )


def stale_sentences(orders: pd.DataFrame) -> Iterator[str]:
    """How many pairs keep their order, per staleness."""
    for seconds, rows in orders.groupby("stale_s"):
        kept = f"{rows['holds'].sum()} of {len(rows)} pairs of medians keep their order"
        yield f"Reads stale by up to {seconds:.0f} s: {kept}."

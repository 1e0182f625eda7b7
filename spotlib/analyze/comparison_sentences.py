"""What ``03_analyze`` says of comparisons: targets, ways to ask, selectors, stale reads.

Wording only, as in ``sentences``, whose names of targets and cells of tables it shares.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.compare import (
    SAME_LIMITS,
    SIGNIFICANT,
    TOO_WIDE,
    longer_median_first,
    rounds_needed,
)
from spotlib.analyze.intervals import FEWEST_RUNS, Estimate
from spotlib.analyze.sentences import named, not_told_apart, run_cells, table_cells
from spotlib.model import Stage
from spotlib.words import counted, listed

_MOST_PAIRS = 6  # of arms, each with a sentence of its own


def formatted_arms(table: pd.DataFrame, stage: Stage, *, horizon_s: float) -> pd.DataFrame:
    """The rows of ``arm_table``, each number in one cell with its interval."""
    median = table_cells(table, "median_s", missing=f"not by {horizon_s:.0f} s", digits=1)
    share = table_cells(table, "share", missing="not watched", digits=2)
    ends = [f"{name}{end}" for name in ("median_s", "share") for end in ("", "_low", "_high")]
    shown = table.assign(runs=run_cells(table, f"{horizon_s:.0f} s"))
    shown = shown.drop(columns=["watched", *ends]).rename(columns={"asked_by": "asked by"})
    return shown.assign(**{"median, s": median, f"share {stage.label} by {horizon_s:.0f} s": share})


def comparison_sentences(
    pairs: pd.DataFrame, *, drawn: int, shown: Sequence[str] = ()
) -> Iterator[str]:
    """How many pairs differ, which do not, the largest ratio, how many runs the ratios still need.

    ``shown`` are the targets whose pairs are named if they do not differ.
    """
    if pairs.empty:
        yield "There is one target: nothing to compare."
        return
    differ = int((pairs["p_holm"] < SIGNIFICANT).sum())
    yield (
        f"Pairs whose mean times differ by more than chance (p below {SIGNIFICANT}, adjusted for "
        f"the number of pairs by Holm's method): {differ} of {len(pairs)}. Drawn here: {drawn}; "
        "all are in tables/comparisons.csv."
    )
    for number, target in enumerate(shown):
        alike = set(not_told_apart(pairs, target))
        if names := [name for name in shown[number + 1 :] if name in alike]:
            yield f"Not told apart from {target}: {named(names)}."
    known = longer_median_first(pairs.dropna(subset="ratio"))
    if len(known):
        largest = known.sort_values("ratio").iloc[-1]
        yield f"Largest ratio of medians: {_ratio_words(largest)}."
    needed = pairs["more_runs"].dropna()
    if needed.empty:
        yield f"How many runs a ratio needs is not known: {_why_not_needed(pairs)}."
        return
    most, enough = int(needed.max()), int((needed == 0).sum())
    which = "the others" if enough else "each"
    others = f"; {which} need{'s' * (not enough)} up to {most:,} more run{'s' * (most != 1)}"
    yield f"{enough} of {len(needed)} ratios are known within 10 %{others * bool(most)}."


def _why_not_needed(pairs: pd.DataFrame) -> str:
    few = pairs["why"].str.startswith("no interval")
    reasons = [f"there are too few runs (at least {FEWEST_RUNS} are needed)"] * bool(few.any())
    wide = pairs["why"].isin([TOO_WIDE, SAME_LIMITS])
    reasons += [TOO_WIDE] * bool(wide.any())
    reasons += ["too few medians were reached"] * (not (few | wide).all())
    return " and ".join(reasons)


def _ratio_words(pair: "pd.Series[Any]") -> str:
    low, high = pair["ratio_low_adjusted"], pair["ratio_high_adjusted"]
    ratio = Estimate(pair["ratio"], low, high, why=pair["why"].removeprefix("no interval: "))
    words: str = ratio.words("", digits=2)
    return f"{pair['first']} over {pair['second']}, {words}"


def arm_sentences(overall: pd.DataFrame, stage: Stage) -> Iterator[str]:
    """For each pair of arms, over all targets, which takes longer and how sure that is.

    Too few rounds for any difference are said once.  Of many pairs only those are said that differ.
    """
    if len(overall) and overall["left_open"].any():
        yield (
            "Polls are too far apart to tell which way to ask is later at some targets, which do "
            "not count here: see left_open in tables/arms.csv."
        )
    tests = max(int(overall["p_value"].notna().sum()), 1)
    most = int(overall["rounds"].max()) if len(overall) else 0
    if most < (needed := rounds_needed(tests)):
        yield (
            f"No difference between ways to ask can be shown: that needs {needed} rounds in which "
            f"both were launched (for {counted(tests, 'comparison')} at once), and there are at "
            f"most {most}. What was seen is in tables/arms.csv."
        )
        return
    differs = overall["p_holm"] < SIGNIFICANT
    told = overall[differs] if len(overall) > _MOST_PAIRS else overall
    for pair in told.to_dict("records"):
        first, second, later_s = pair["first"], pair["second"], pair["later_s"]
        ends_s = pair["later_low_s"], pair["later_high_s"]
        if later_s < 0:
            first, second, later_s, ends_s = second, first, -later_s, (-ends_s[1], -ends_s[0])
        few = f", because there are fewer than {FEWEST_RUNS} rounds" * (
            pair["rounds"] < FEWEST_RUNS
        )
        ends = f"{ends_s[0]:.0f} to {ends_s[1]:.0f}"
        ends = f"no interval{few}" if np.isnan(ends_s[0]) else f"95 % interval {ends}"
        verdict = ": no difference is shown"
        if ends_s[0] > 0:  # the test asks for more rounds than the interval does
            verdict = f": for {counted(tests, 'comparison')} at once this is no proof"
        verdict *= not pair["p_holm"] < SIGNIFICANT
        yield (
            f"{first} took {later_s:.0f} s ({ends}) longer than {second}, on average over "
            f"{pair['targets']} target{'s' * (pair['targets'] != 1)}{verdict}."
        )
    if len(told):
        yield (
            f"In these means a request that was refused, or not {stage.label} by the end, counts "
            "with the time of the end."
        )
    if left := len(overall) - len(told):
        yield (
            f"{left} of {counted(len(overall), 'pair')} of ways to ask are not shown to differ: "
            "see tables/arms.csv."
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
    sizes = [round(abs(row["rho"]), 2) for row in known]
    best = known[sizes.index(max(sizes))]
    alike = [row["feature"] for row, size in zip(known, sizes, strict=True) if size == max(sizes)]
    verdict = "The interval contains 0: no selector is shown to work."
    if best["low"] > 0 or best["high"] < 0:
        verdict = (
            "The interval excludes 0, but it is that of the strongest of "
            f"{counted(len(known), 'feature')}: confirm it on other targets."
        )
    return (
        f"Over {best['targets']} targets {outcome} correlates most with {listed(alike)}: "
        f"rank correlation {best['rho']:.2f} ({best['low']:.2f} to {best['high']:.2f}). {verdict}"
    )


def stale_sentences(orders: pd.DataFrame) -> Iterator[str]:
    """How many pairs keep their order, per staleness."""
    for seconds, rows in orders.groupby("stale_s"):
        kept = f"{rows['holds'].sum()} of {len(rows)} pairs of medians keep their order"
        yield f"Reads stale by up to {seconds:.0f} s: {kept}."

"""The sentences and the formatted table that ``03_analyze`` prints.

Wording only: every estimate comes from elsewhere, and what is unknown is said to be unknown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.intervals import NOT_REACHED, Estimate
from spotlib.analyze.launch_times import LaunchTimes


def ready_sentences(distributions: Mapping[str, LaunchTimes], *, horizon_s: float) -> Iterator[str]:
    """Which target is fastest, which is slowest, and how large the shares by the horizon are."""
    stage = next(iter(distributions.values())).stage.label
    medians = {name: each.quantile(0.5) for name, each in distributions.items()}
    known = {name: each for name, each in medians.items() if not np.isnan(each.value)}
    ranked = sorted(known, key=lambda name: known[name].value)
    half = "half of the instances requested"
    if ranked:
        yield f"Fastest: {ranked[0]}, {half} {stage} by {known[ranked[0]].words()}."
    if len(ranked) > 1:
        yield f"Slowest: {ranked[-1]}, {half} {stage} by {known[ranked[-1]].words()}."
    if len(known) < len(medians):
        unreached = f"{len(medians) - len(known)} of {len(medians)} targets"
        yield f"Not reached: {unreached} had fewer than {half} {stage} while watched."
    shares = {name: each.share_ready(horizon_s).value for name, each in distributions.items()}
    ranked = sorted((name for name in shares if not np.isnan(shares[name])), key=shares.__getitem__)
    if ranked:
        ends = [f"{shares[name]:.0%}" for name in (ranked[0], ranked[-1])]
        words = f"{ends[0]} ({ranked[0]})"
        if len(ranked) > 1:
            same = ends[0] == ends[1]
            words = (
                f"{ends[0]} for every target" if same else f"{words} to {ends[1]} ({ranked[-1]})"
            )
        yield f"Share {stage} by {horizon_s:.0f} s: {words}."


def formatted_summary(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``summarize``, each number in one cell with its interval."""
    shown = summary[[name for name in ("time", "target", "runs", "requests") if name in summary]]
    for name in ("share", "median_s", "p90_s", "restricted_mean_s"):
        unit, digits = ("", 2) if name == "share" else ("s", 1)
        quantile = name in ("median_s", "p90_s")
        missing = NOT_REACHED if quantile else "not watched so long"
        ends = zip(summary[name], summary[f"{name}_low"], summary[f"{name}_high"], strict=True)
        cells = [
            missing if np.isnan(each[0]) else Estimate(*each, "few runs").words(unit, digits=digits)
            for each in ends
        ]
        shown = shown.assign(**{name.removesuffix("_s").replace("_", " "): cells})
    return shown


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


def comparison_sentences(pairs: pd.DataFrame) -> Iterator[str]:
    """How many pairs differ, which ratio is the largest, how many runs the ratios still need."""
    differ = int((pairs["p_holm"] < 0.05).sum())
    yield f"{differ} of {len(pairs)} pairs differ (p below 0.05 after Holm)."
    known = pairs.dropna(subset="ratio").to_dict("records")
    if known:
        largest = max(known, key=lambda pair: abs(np.log(pair["ratio"])))
        yield f"Largest ratio of medians: {_slower_over_faster(largest)}."
    needed = pairs["more_runs"].dropna()
    if needed.empty:
        yield "How many runs a ratio needs is not known yet."
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

"""The sentences that ``03_analyze`` prints: one a section, true also where little is known.

Owns words, no number: every estimate comes from elsewhere, and what is unknown is said to be.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from spotlib.analyze.intervals import NOT_REACHED, Estimate
from spotlib.analyze.launch_times import TO_HORIZON, LaunchTimes

_FLATTERED = 1.5  # times as large an error


def ready_words(laws: Mapping[str, LaunchTimes], *, horizon_s: float) -> str:
    """One sentence: how long half of the requested took, and how many came at all."""
    medians = {name: law.quantile(0.5) for name, law in laws.items()}
    shares = [law.share_ready(horizon_s).value for law in laws.values()]
    stage = next(iter(laws.values())).stage.label
    ends = dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares)))
    came = " to ".join(ends)
    end = f"{came} of the instances requested were {stage} by {horizon_s:.0f} s"
    known = {name: each for name, each in medians.items() if not np.isnan(each.value)}
    if not known:
        return f"{end}, and half of them in no target."
    quick = min(known, key=lambda name: known[name].value)
    words = f"Half of the {quick} requested were {stage} by {known[quick].words()}"
    slow = max(known, key=lambda name: known[name].value)
    if len(known) > 1:
        words += f", half of the {slow} by {known[slow].words()}"
    if len(known) < len(medians):
        others = len(medians) - len(known)
        words += f", half of those of {others} more target{'s' * (others != 1)} not while watched"
    return f"{words}; {end}."


def in_words(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``summarize`` for people: each number with its interval in one cell."""
    shown = summary[[name for name in ("time", "target", "runs", "requests") if name in summary]]
    units = {"share": ("", 2), "median_s": ("s", 1), "p90_s": ("s", 1)}
    for name, (unit, digits) in (units | {"restricted_mean_s": ("s", 1)}).items():
        ends = zip(summary[name], summary[f"{name}_low"], summary[f"{name}_high"], strict=True)
        missing = "not watched so long" if name in TO_HORIZON else NOT_REACHED
        cells = [
            missing if np.isnan(each[0]) else Estimate(*each, "few runs").words(unit, digits=digits)
            for each in ends
        ]
        shown = shown.assign(**{name.removesuffix("_s").replace("_", " "): cells})
    return shown


def median_words(own: pd.DataFrame) -> str:
    """How far apart the targets' medians are."""
    known = own["median_s"].dropna()
    if known.empty:
        return "half of those requested were reached in no target"
    return (
        f"half of those requested had come by {known.min():.1f} to {known.max():.1f} s in "
        f"{len(known)} of {len(own)} targets"
    )


def fit_words(fits: pd.DataFrame) -> str:
    """How many targets allow a fit, and how far it is from the curve."""
    known = fits.dropna(subset="median_s")
    if known.empty:
        return "no target allows a fit"
    apart = (known["median_s"] / known["curve_median_s"] - 1).abs().max()
    return f"{len(known)} of {len(fits)} targets allow a fit; medians at most {apart:.0%} apart"


def stamp_words(stamps: pd.DataFrame) -> str:
    """How much longer our time to fulfilment is than EC2's."""
    extra = (stamps["request_to_fulfilled_s"] - stamps["created_to_fulfilled_s"]).mean()
    if np.isnan(extra):
        return "EC2 stamped no fulfilment"
    return f"from our sending to EC2's creating the request, and rounding: {extra:.1f} s on average"


def phase_words(parts: pd.DataFrame) -> str:
    """Which phase is the longest."""
    middle = parts.groupby("phase")["median_s"].median().dropna()
    if middle.empty:
        return "no phase was completed by half of the requests"
    return f"the longest phase is {middle.idxmax()}, {middle.max():.1f} s in the middle target"


def comparison_words(pairs: pd.DataFrame) -> str:
    """How many pairs differ, and what it would take to know their ratios."""
    differ = int((pairs["p_holm"] < 0.05).sum())
    words = f"{differ} of {len(pairs)} pairs differ (p below 0.05 after Holm)"
    known = pairs["more_runs"].dropna()
    if known.empty:
        return f"{words}; how many runs a ratio takes is not known yet"
    enough = int((known == 0).sum())
    return (
        f"{words}; {enough} ratios are known within 10 %, the others whose scatter is known take "
        f"up to {known.max():.0f} more runs"
        if enough < len(known)
        else f"{words}; {enough} ratios are known within 10 %"
    )


def flatter_words(splits: pd.DataFrame) -> str:
    """The warning that a split by row deserves on these data."""
    times = splits.set_index("split")["times_the_row_split"]
    later, unseen = times["time"], times["target"]
    if max(later, unseen) < _FLATTERED:
        return "a split by row would hardly have flattered here: nearly every run goes alike"
    return (
        f"WARNING: a split by row would have flattered: the error of the same model is "
        f"{later:.1f} times as large on later runs, and {unseen:.1f} times on unseen targets"
    )

"""EC2's own events compared with the polls: whether both agree, and how much narrower brackets get.

Owns which launches both clocks have timed, the tables of them, and the table of warnings.  A poll's
bracket says when the API first showed a stage, an event's bracket when the stage was reached
(``docs/events.md``).  Every other estimate uses the polls alone.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import arm_names
from spotlib.analyze.intervals import Estimate
from spotlib.analyze.lag import ALL, with_all
from spotlib.analyze.launch_times import launch_times
from spotlib.model import Outcome, Stage, watched_stages
from spotlib.record.columns import TOLD
from spotlib.words import counted

AGREE, CONTRADICT = "agree", "contradict"
# The bracket of each clock, as the columns of a stage name it.
CLOCKS = {"poll": "{}_{}_s", "event": "{}_event_{}_s", "both": "{}_both_{}_s"}
_COLUMNS = (
    *("stage", "target", "asked_by", "runs", "requests", "shown", "both_clocks"),
    *(AGREE, CONTRADICT),
    *(f"{clock}_width_s" for clock in CLOCKS),
    *(
        f"{median}{end}"
        for median in ("median_s", "median_both_s")
        for end in ("", "_low", "_high")
    ),
    "why_no_interval",
)
_WARNINGS = {"interruption": "interruption warning", "rebalance": "rebalance recommendation"}
_WARNING_COLUMNS = (
    *("notice", "instances", "interrupted"),
    *("until_shown_s", "until_shown_s_least", "until_shown_s_most"),
)


def told_twice(launches: pd.DataFrame, last: Stage) -> dict[Stage, pd.DataFrame]:
    """Return the launches by stage where events were recorded; empty if they never were.

    They are all launches of the batches that recorded events of that stage.  This includes requests
    whose event was lost, and requests that never reached the stage.  ``last`` is the stage that the
    launches waited for.
    """
    found = {}
    for stage in watched_stages(last):
        name = f"{stage.label}_clocks"
        if stage.label in TOLD and launches[name].notna().any():
            batches = set(launches.loc[launches[name].notna(), "batch_id"])
            found[stage] = launches[launches["batch_id"].isin(batches)].sort_values("target")
    return found


def second_clock(
    launches: pd.DataFrame, last: Stage, *, resamples: int = 999, executor: Executor | None = None
) -> pd.DataFrame:
    """Compare the brackets and the medians of the polls with those of both clocks together.

    Returns
    -------
    DataFrame, one row per stage and target, ``ALL`` first of several
        Polls showed so many of the ``requests`` at the stage (``shown``), and ``both_clocks`` of
        these have an event too: the two brackets ``agree`` or ``contradict``.  ``poll_width_s``,
        ``event_width_s`` and ``both_width_s`` are the median widths over those that agree.
        ``median_s`` is the median time to the stage by the polls, ``median_both_s`` by the
        intersection of both brackets, where they agree; each with its 95 % interval over runs, and
        only of single targets.
    """
    found = []
    for stage, here in told_twice(launches, last).items():
        rows = with_all(here)
        by_poll, by_both = (
            launch_times(each, stage, resamples=resamples, executor=executor)
            for each in (rows, _sharpened(rows, stage))
        )
        for target, each in rows.groupby("target", sort=False):
            polls, both = by_poll[str(target)], by_both[str(target)]
            row = {"stage": stage.label, "target": target, "asked_by": arm_names(each).iloc[0]}
            row |= {"runs": polls.observed.runs}
            row |= _counts(each, stage) | _widths(each, stage)
            medians = {"median_s": polls.quantile(0.5), "median_both_s": both.quantile(0.5)}
            if target == ALL:  # of some targets nearly nothing came: their mix has no median
                medians = dict.fromkeys(medians, Estimate(np.nan, np.nan, np.nan))
            for name, median in medians.items():
                row |= {name: median.value, f"{name}_low": median.low, f"{name}_high": median.high}
            row |= {
                "why_no_interval": next((each.why for each in medians.values() if each.why), "")
            }
            found.append(row)
    return pd.DataFrame(found, columns=list(_COLUMNS))


def _sharpened(rows: pd.DataFrame, stage: Stage) -> pd.DataFrame:
    """The rows with the intersection as the bracket of a stage, where the clocks agree."""
    agree = rows[f"{stage.label}_clocks"] == AGREE
    ends = {}
    for end in ("after", "by"):
        name, sharp = (CLOCKS[clock].format(stage.label, end) for clock in ("poll", "both"))
        ends[name] = rows[name].mask(agree, rows[sharp])
    return rows.assign(**ends)


def _counts(rows: pd.DataFrame, stage: Stage) -> dict[str, Any]:
    clocks = rows[f"{stage.label}_clocks"]
    counts = {name: int((clocks == name).sum()) for name in (AGREE, CONTRADICT)}
    told = {"shown": rows[f"{stage.label}_by_s"].notna(), "both_clocks": clocks.notna()}
    return {"requests": len(rows)} | {name: int(each.sum()) for name, each in told.items()} | counts


def _widths(rows: pd.DataFrame, stage: Stage) -> dict[str, Any]:
    agree = rows[rows[f"{stage.label}_clocks"] == AGREE]
    ends = {
        clock: [agree[name.format(stage.label, end)] for end in ("after", "by")]
        for clock, name in CLOCKS.items()
    }
    return {
        f"{clock}_width_s": (by_s - after_s).median() for clock, (after_s, by_s) in ends.items()
    }


def clock_sentences(table: pd.DataFrame) -> Iterator[str]:
    """How many requests each clock told of, how much narrower they are together, the medians."""
    for stage, rows in table.groupby("stage", sort=False):
        row = rows.to_dict("records")[0]
        words = f"Of {counted(row['requests'], 'request')} by {row['asked_by']}, polls showed "
        words += f"{row['shown']} {stage}; EC2's events also say when, for {row['both_clocks']} of "
        words += "these."
        if row[AGREE]:
            poll_s, both_s = row["poll_width_s"], row["both_width_s"]
            words += f" Both clocks together leave {both_s:.1f} s open, polls alone {poll_s:.1f} s "
            words += f"(medians): {poll_s / both_s:.1f} times narrower."
            if row["target"] != ALL:
                both, polls = (_median(row, name).words() for name in ("median_both_s", "median_s"))
                words += f" The median time to {stage}: {both} by both, {polls} by the polls."
        if row[CONTRADICT]:
            words += f" They contradict each other in {row[CONTRADICT]}: there the poll's bracket "
            words += "is kept."
        yield words
    if len(table):
        yield (
            "A poll tells when the API first showed a stage, an event when the stage was reached: "
            "the API may be later. Within a bracket the times are spread evenly, so a narrower "
            "bracket can move a median to either side. All other numbers of this page are the "
            f"polls' alone. Shown are launches by {table['asked_by'].iloc[0]}: set arm for others. "
            "On demand there is no spot request, so nothing says when it was fulfilled."
        )


def _median(row: Mapping[Any, Any], name: str) -> Estimate:
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], row["why_no_interval"])


def formatted_clocks(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``second_clock``, each median in one cell with its interval."""
    rows = table.to_dict("records")
    names = ["stage", "target", "requests", "shown", "both_clocks", AGREE, CONTRADICT]
    shown = table[names].rename(columns={"shown": "shown by polls", "both_clocks": "both clocks"})
    for clock in CLOCKS:
        words = [
            f"{width_s:.1f}" if np.isfinite(width_s) else "-"
            for width_s in table[f"{clock}_width_s"]
        ]
        shown[f"{clock} width, s"] = words
    for heading, name in (("median by polls, s", "median_s"), ("by both, s", "median_both_s")):
        shown[heading] = [
            "-" if row["target"] == ALL else _median(row, name).words("") for row in rows
        ]
    return shown


def warning_table(launches: pd.DataFrame) -> pd.DataFrame:
    """Return how many instances EC2 warned of, and how much later a poll showed their end.

    One row per kind of ``notice`` that came.  ``instances`` had it, and polls showed
    ``interrupted`` of them as interrupted; ``until_shown_s`` is the median time from the notice to
    that poll, with the least and the most.  EC2 lets an instance run for two minutes after its
    warning, but its status says at once that it will be interrupted.
    """
    found = []
    for name, words in _WARNINGS.items():
        warned = launches[launches[f"{name}_by_s"].notna()]
        shown = warned[warned["outcome"] == Outcome.INTERRUPTED]
        later_s = shown["watched_s"] - (shown[f"{name}_after_s"] + shown[f"{name}_by_s"]) / 2
        numbers = (len(warned), len(shown), later_s.median(), later_s.min(), later_s.max())
        found += [(words, *numbers)] * bool(len(warned))
    return pd.DataFrame(found, columns=list(_WARNING_COLUMNS))


def warning_sentences(table: pd.DataFrame) -> Iterator[str]:
    """How many were warned of, and how much later a poll showed them interrupted."""
    for row in table.to_dict("records"):
        words = f"{row['notice'].capitalize()}: {counted(row['instances'], 'instance')}. "
        words += f"Polls showed {row['interrupted']} of them interrupted"
        words += f", a median of {row['until_shown_s']:.0f} s later" * bool(row["interrupted"])
        yield words + "."

"""What 02 shows while a batch runs, and again from its log: the ready counts over time."""

import io
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from spotlib.collect.batch import Progress, Waiting
from spotlib.collect.report import ending, target_and_arm
from spotlib.collect.stopping import rewrite_line, write_line
from spotlib.figures import (
    THEME,
    Colours,
    bar_html,
    drawing,
    foreign_mark,
    mark_figure,
    mark_simulated,
    picture,
    target_colours,
)
from spotlib.model import OUTCOME_KINDS, Outcome, Stage
from spotlib.record.tables import load_launches
from spotlib.words import counted
from spotlib.workspace import LAUNCHES

_SECONDS = "seconds since the request was sent"
_REFUSED, _CUT, _UNDER_WAY = "refused at once", "cut short", "under way"
_CUT_BEFORE = 0.5  # of its timeout: nobody watched a run to its end that was last polled so early
_LONG_NAME = 36  # characters: three of them do not fit beside each other
_MOST_WRITTEN = 24  # columns of the strip whose numbers can be read
_STAGES = (Stage.GRANTED, Stage.RUNNING, Stage.USABLE, Stage.READY)


@dataclass(frozen=True)
class _Run:
    """One request call: the rows of its requests, and what is unusual about its end."""

    rows: pd.DataFrame
    fate: str

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_Run":
        """What became of it follows from the outcomes of its requests."""
        outcomes = rows["outcome"]
        late = rows.loc[outcomes == Outcome.TIMED_OUT, ["watched_s", "timeout_s"]]
        if (outcomes == Outcome.REFUSED).all():
            return cls(rows, _REFUSED)
        if outcomes.isna().any():
            return cls(rows, _UNDER_WAY)
        early = (late["watched_s"] < _CUT_BEFORE * late["timeout_s"]).any()
        return cls(rows, _CUT if early or (outcomes == Outcome.ABANDONED).any() else "")

    @property
    def name(self) -> str:
        """Its target, and its launch method where there are several."""
        return str(self.rows["target"].iloc[0])

    @property
    def round(self) -> tuple[str, int]:
        """Its batch, and the number of its round in it."""
        batch_id, number = self.rows[["batch_id", "round"]].iloc[0]
        return str(batch_id), int(number)

    @property
    def watched_s(self) -> float:
        """When it was last polled."""
        ends = ["watched_s", *(f"{stage.label}_by_s" for stage in _STAGES)]
        return float(np.nanmax(self.rows[ends].to_numpy(float)))

    @property
    def is_whole(self) -> bool:
        """Whether its last count is final: it was watched to its end, or refused."""
        return self.fate in ("", _REFUSED)

    @property
    def wanted(self) -> Stage:
        """The stage that it was watched for."""
        return Stage[str(self.rows["wanted"].iloc[0]).upper()]

    def records(self, stage: Stage) -> bool:
        """Whether it was watched for a stage."""
        if stage is Stage.GRANTED or stage > self.wanted:
            return stage is self.wanted
        seen = self.rows[["usable_by_s", "usable_watched_s"]].notna().any(axis=None)
        return stage is not Stage.USABLE or stage is self.wanted or bool(seen)

    def counts(self, stage: Stage) -> "pd.Series[float]":
        """The steps of the count shown at a stage: the times at which it rose, and the counts."""
        by_s = self.rows[f"{stage.label}_by_s"].dropna().sort_values()
        steps = pd.Series(np.arange(len(by_s) + 1.0), index=[0.0, *by_s])
        return steps[~steps.index.duplicated(keep="last")]

    def at_its_end(self, stage: Stage) -> float:
        """The last count; NaN if there was no poll."""
        seen = self.is_whole or self.watched_s > 0
        return float(self.counts(stage).iloc[-1]) if seen else math.nan


@drawing
def ready_counts_figure(launches: pd.DataFrame) -> Figure:
    """How many instances were running, and how many ready, since the request.

    Of probes it is how many were granted.

    A step is at the poll that first showed the instance; the shade reaches back to the previous
    poll, because the instance reached the stage between the two.  A dot marks the last poll of a
    run.  Launch methods of a target are drawn apart.  Targets that were launched more than once
    have a panel each, with their runs and the mean, and above them a strip shows how many were
    ready at the end of each round.  A run that EC2 refused at once has 0 all the time.  The mean is
    over the rounds of which every run was watched to its end.  The runs of a round that was cut
    short, or is under way, are drawn but not averaged: otherwise the mean would jump where they
    end, and favour those that were quick.  A run that was refused for a reason of the account's own
    is not drawn.

    Parameters
    ----------
    launches
        As ``load_launches`` returns it.
    """
    own = (launches["outcome"] == Outcome.REFUSED) & ~launches["kind"].isin(OUTCOME_KINDS)
    seen = launches.assign(target=target_and_arm(launches))[~own]
    runs = [_Run.of(rows) for _, rows in seen.groupby(["target", "batch_id", "round"])]
    colours = target_colours(run.name for run in runs)
    draw = _together if len(runs) == len(colours) else _by_round
    with mpl.rc_context(THEME):
        figure = draw(runs, colours)
    if launches["simulated"].any():
        mark_simulated(figure)
    elif mark := foreign_mark(launches):
        mark_figure(figure, mark)
    return figure


def _together(runs: list[_Run], colours: Colours) -> Figure:
    """Draw one run per target: running above, what comes next below; of probes only granted."""
    stages = _drawn(runs)
    figure = Figure(figsize=(9.0, 2.6 * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), 1, sharex=True, squeeze=False)[:, 0]
    for ax, stage in zip(axes, stages, strict=True):
        for run in [each for each in runs if each.records(stage)]:
            words = f" ({run.fate})" if run.fate in (_REFUSED, _CUT) else ""
            _draw_run(ax, run, stage, colours[run.name], _end_s(runs), label=run.name + words)
        _label_counts(ax, f"{stage.label}, instances", runs)
    axes[-1].set_xlabel(_SECONDS)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        columns = 3 if max(map(len, labels)) < _LONG_NAME else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    return figure


def _by_round(runs: list[_Run], colours: Colours) -> Figure:
    """Draw several runs per target: a strip of all rounds, and a panel per target."""
    columns = min(3, len(colours))
    rows = math.ceil(len(colours) / columns)
    heights = 0.3 * len(colours) + 1.2, 2.6 * rows + 0.5
    figure = Figure(figsize=(max(3.6 * columns, 8.0), sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    stage = max(each for each in _STAGES if all(run.records(each) for run in runs))
    _draw_strip(above.subplots(), runs, list(colours), stage)
    axes = below.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    _draw_panels(axes, runs, colours, stage)
    below.supylabel(f"{stage.label}, instances", fontsize="medium")
    below.supxlabel(f"{_SECONDS} ({_mean_words(runs)})", fontsize="medium")
    return figure


def _mean_words(runs: list[_Run]) -> str:
    refused = any(run.fate == _REFUSED for run in runs)
    whole, rounds = _whole_rounds(runs), {run.round for run in runs}
    words = "thin: each run"
    if not whole:
        return words + "; no mean, because no round was watched to its end"
    of_some = f"the {counted(len(whole), 'round')} watched to the end, of {len(rounds)}"
    words += f", black: the mean of {'all' if whole == rounds else of_some}"
    return words + ", refused ones as 0" * refused


def _whole_rounds(runs: list[_Run]) -> set[tuple[str, int]]:
    """The rounds of which every run, of any target, was watched to its end."""
    return {run.round for run in runs} - {run.round for run in runs if not run.is_whole}


def _drawn(runs: list[_Run]) -> tuple[Stage, ...]:
    """The stages that any run was watched for, but of launches not what only probes wait for."""
    if not runs:
        return (Stage.RUNNING, Stage.READY)
    watched = [each for each in _STAGES if any(run.records(each) for run in runs)]
    return tuple(each for each in watched if each is not Stage.GRANTED or watched == [each])


def _draw_strip(ax: Axes, runs: list[_Run], names: list[str], stage: Stage) -> None:
    """Draw how many were ready at the end of each round: a row per target, a column per round."""
    ends = pd.DataFrame(
        run.rows[["target", "batch_id", "round", "n"]].iloc[0].to_dict()
        | {"count": run.at_its_end(stage), "partial": not run.is_whole}
        for run in runs
    )
    column = ends["round"] + 1
    if ends["batch_id"].nunique() > 1:
        column = ends.groupby(["batch_id", "round"]).ngroup() + 1
    cells = ends.assign(column=column).set_index(["target", "column"])
    # A round that was skipped is an empty column.
    every: dict[str, Any] = {"index": names, "columns": range(1, int(column.max()) + 1)}
    counts = cells["count"].unstack().reindex(**every)
    share = (cells["count"] / cells["n"]).astype(float).unstack().reindex(**every)
    written = counts.shape[1] <= _MOST_WRITTEN
    sns.heatmap(
        share,
        ax=ax,
        annot=counts.astype("Int64").astype(object).fillna("") if written else None,
        fmt="",
        annot_kws={"fontsize": "small"},
        cmap="Blues",
        **{"vmin": 0.0, "vmax": 1.0, "cbar": False, "linewidths": 0.5},
    )
    for name, place in cells.index[cells["partial"]]:
        corner = place - 1, names.index(name)
        style: dict[str, Any] = {"fill": False, "hatch": "///", "edgecolor": "0.6", "linewidth": 0}
        ax.add_patch(Rectangle(corner, 1, 1, **style))
    asked = " or ".join(map(str, sorted(set(ends["n"]))))
    hatched = "; hatched: the last count of a run that was cut short, or is under way"
    ax.set_title(
        f"{stage.label} at the end of each round, of {asked} (darkest: all; blank: not watched"
        + hatched * bool(cells["partial"].any())
        + ")",
        fontsize="medium",
        loc="left",
        wrap=True,
    )
    ax.set(xlabel="round", ylabel="")
    ax.grid(visible=False)
    ax.tick_params(labelrotation=0, labelsize="small")


def _draw_panels(axes: Any, runs: list[_Run], colours: Colours, stage: Stage) -> None:
    """Draw a panel per target: each run thin, the mean of whole rounds thick."""
    end_s, whole = _end_s(runs), _whole_rounds(runs)
    for number, (ax, (name, colour)) in enumerate(zip(axes.flat, colours.items(), strict=False)):
        mine = [run for run in runs if run.name == name]
        for run in mine:
            _draw_run(ax, run, stage, colour, end_s, thin=True)
        if averaged := [run for run in mine if run.round in whole]:
            times, mean = _mean_count(averaged, stage, end_s)
            ax.step(times, mean, where="post", color="black", linewidth=2, label="mean")
        ax.set_title(_panel_title(name, mine), fontsize="small", loc="left")
        ax.tick_params(
            labelbottom=number + axes.shape[1] >= len(colours)
        )  # the lowest of its column
        _label_counts(ax, "", runs)
    for ax in axes.flat[len(colours) :]:
        ax.set_axis_off()


def _panel_title(name: str, runs: list[_Run]) -> str:
    """Name the target, its method below it, and how many runs ended in an unusual way."""
    fates = [run.fate for run in runs]
    unusual = [each for each in (_REFUSED, _CUT, _UNDER_WAY) if each in fates]
    said = ", ".join(f"{fates.count(each)} {each}" for each in unusual)
    words = name.replace(", ", ",\n") + f" ({counted(len(runs), 'run')}"
    return words + f",\n{said}" * bool(said) + ")"


def _draw_run(
    ax: Axes,
    run: _Run,
    stage: Stage,
    colour: object,
    end_s: float,
    *,
    label: str | None = None,
    thin: bool = False,
) -> None:
    counts, refused = run.counts(stage), run.fate == _REFUSED
    last_s = end_s if refused else run.watched_s
    style = {"linewidth": 1, "alpha": 0.5} if thin else {"linewidth": 2}
    steps = [*counts, counts.iloc[-1]]
    ax.step([*counts.index, last_s], steps, where="post", color=colour, label=label, **style)
    if not refused:
        ax.plot(last_s, steps[-1], "o", color=colour, markersize=4 if thin else 6)
    if thin:
        return
    afters = run.rows.groupby(f"{stage.label}_by_s")[f"{stage.label}_after_s"].min()
    for low, high, by, after in zip(counts, counts[1:], afters.index, afters, strict=False):
        # it was shown somewhere in this bracket
        ax.fill_betweenx([low, high], after, by, color=colour, alpha=0.25, linewidth=0)


def _mean_count(runs: list[_Run], stage: Stage, end_s: float) -> tuple[list[float], list[float]]:
    """Return times and the mean count of runs that were watched to their end."""
    counts = [run.counts(stage) for run in runs]
    times = pd.Index(sorted({time for each in counts for time in each.index} | {end_s}))
    known = [each.reindex(times, method="ffill") for each in counts]
    return times.tolist(), pd.concat(known, axis=1).mean(axis=1).tolist()


def _end_s(runs: list[_Run]) -> float:
    """When the last poll was; the timeout if there was none."""
    polled_s = [run.watched_s for run in runs if run.fate != _REFUSED]
    return max(polled_s, default=0.0) or max(float(run.rows["timeout_s"].max()) for run in runs)


def _label_counts(ax: Axes, words: str, runs: list[_Run]) -> None:
    ax.set_ylabel(words)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if runs:
        most = max(int(run.rows["n"].max()) for run in runs)
        ax.set_ylim(-0.03 * most, most * 1.08)
        ax.set_xlim(0, 1.03 * _end_s(runs))


class LiveView:
    """A line of text with a bar, and the figure of ready counts, while a batch runs.

    The line is shown anew at every poll, and about once a second while nothing is polled.  The
    figure is drawn from the log, so it shows what is recorded; drawing it takes at most a tenth of
    the time.  Both look the same in JupyterLab, under papermill and in exported HTML.  A terminal
    shows the line alone.
    """

    def __init__(self, log: str | Path, *, simulated: bool) -> None:
        self._log = Path(log)
        self._simulated = simulated
        self._words, self._share = "", 0.0
        self._next_draw_s = 0.0
        self._bar: DisplayHandle | None = None
        self._plot: DisplayHandle | None = None
        if hasattr(get_ipython(), "kernel"):
            self._bar = display({"text/html": "starting"}, raw=True, display_id=True)
            self._plot = display({"text/html": ""}, raw=True, display_id=True)

    def __call__(self, progress: Progress) -> None:
        """Show how far a batch is, after a poll."""
        share = min(progress.elapsed_s / progress.timeout_s, 1.0)
        self._show_line(
            f"round {progress.round + 1} of {progress.rounds}: {progress.ready} of "
            f"{progress.requests} {progress.goal}, {progress.elapsed_s:.0f} s after the first "
            f"request (each is watched for at most {progress.timeout_s:.0f} s)",
            (progress.round + share) / progress.rounds,
        )
        if self._plot is not None and time.monotonic() >= self._next_draw_s:
            self._draw(self._plot)

    def wait(self, waiting: Waiting) -> None:
        """Show what is waited for between polls."""
        self._show_line(str(waiting), self._share)

    def finish(self, words: str) -> None:
        """Show the last line; the figure is drawn once more below, from the log alone."""
        self._show_line(words, 1.0)
        if self._plot is None:
            write_line(words)
        else:
            self._plot.update({"text/html": ""}, raw=True)

    def _show_line(self, words: str, share: float) -> None:
        if words == self._words:
            return
        self._words, self._share = words, share
        if self._bar is None:
            rewrite_line(words)
        else:
            page = bar_html(share, words, simulated=self._simulated)
            self._bar.update({"text/html": page, "text/plain": words}, raw=True)

    @drawing
    def _draw(self, plot: DisplayHandle) -> None:
        began_s = time.monotonic()
        image = io.BytesIO()
        figure = ready_counts_figure(load_launches([self._log]))
        figure.savefig(image, format="png", dpi=80)
        told = {"image/png": {"alt": figure.get_label()}}
        plot.update({"image/png": image.getvalue()}, raw=True, metadata=told)
        ended_s = time.monotonic()
        self._next_draw_s = ended_s + max(1.0, 9 * (ended_s - began_s))


def show_newest(results: Path) -> None:
    """Show the newest batch of a results folder from its log alone: its ready counts and its end.

    The figure is saved beside the others.  It needs no connection and no earlier cell.
    """
    log = max((results / LAUNCHES).glob("*.jsonl"), default=None)
    if log is None:
        print(f"no batch is recorded in {results / LAUNCHES}")
        return
    print(ending(log))
    try:
        figure = ready_counts_figure(load_launches([log]))
        saved = results / "figures" / f"ready-counts-{log.stem}.png"
        shown = picture(figure, saved, width=800)
    except Exception as error:  # noqa: BLE001 - drawing may fail in any way, and ends nothing
        print(f"the figure could not be drawn: {error!r}")
        return
    display(shown)
    print(f"saved as {saved}")

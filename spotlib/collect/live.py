"""What 02 shows while a batch runs, and again from its log: the ready counts over time."""

import io
import math
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import DisplayHandle, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
from spotlib.model import Stage
from spotlib.record.tables import load_polls
from spotlib.words import counted
from spotlib.workspace import LAUNCHES

_SECONDS = "seconds since the request was sent"
_LONG_NAME = 36  # characters: three of them do not fit beside each other
_MOST_WRITTEN = 24  # columns of the strip whose numbers can be read


@drawing
def ready_counts_figure(polls: pd.DataFrame) -> Figure:
    """How many instances were running, and how many ready, since the request.

    Of probes it is how many were granted.

    A step goes up at the poll that first showed the instance; the shade reaches back to the poll
    before, because it got there some time between the two.  A dot marks the last poll of a run.
    Launch methods of a target are drawn apart.
    Targets that were launched more than once have a panel each, with their runs and the mean, and
    above them a strip shows how many were ready at the end of each round.  A run that EC2 refused
    at once has no poll, so it is not drawn, and no part of the mean.

    Parameters
    ----------
    polls
        As ``load_polls`` returns it.
    """
    seen = polls.assign(target=target_and_arm(polls))
    seen = seen[seen["ready"].notna()]  # a missed poll shows nothing
    colours = target_colours(seen["target"])
    runs = [run for _, run in seen.groupby(["target", "batch_id", "round"])]
    draw = _together if len(runs) == len(colours) else _by_round
    with mpl.rc_context(THEME):
        figure = draw(runs, colours)
    if polls["simulated"].any():
        mark_simulated(figure)
    elif mark := foreign_mark(polls):
        mark_figure(figure, mark)
    return figure


def _together(runs: list[pd.DataFrame], colours: Colours) -> Figure:
    """Draw one run per target: running above, what comes next below; of probes only granted."""
    stages = _drawn(runs)
    figure = Figure(figsize=(9.0, 2.6 * len(stages)), layout="constrained")
    axes = figure.subplots(len(stages), 1, sharex=True, squeeze=False)[:, 0]
    for ax, stage in zip(axes, stages, strict=True):
        for run in runs:
            name = run["target"].iloc[0]
            _draw_run(ax, run, stage, colours[name], label=name)
        _label_counts(ax, f"{stage.label}, instances", runs)
    axes[-1].set_xlabel(_SECONDS)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        columns = 3 if max(map(len, labels)) < _LONG_NAME else 2
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)
    return figure


def _by_round(runs: list[pd.DataFrame], colours: Colours) -> Figure:
    """Draw several runs per target: a strip of all rounds, and a panel per target."""
    columns = min(3, len(colours))
    rows = math.ceil(len(colours) / columns)
    heights = 0.3 * len(colours) + 1.1, 2.4 * rows + 0.5
    figure = Figure(figsize=(max(3.6 * columns, 8.0), sum(heights)), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    stage = _wanted(runs)
    _draw_strip(above.subplots(), runs, list(colours), stage)
    axes = below.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    _draw_panels(axes, runs, colours, stage)
    below.supylabel(f"{stage.label}, instances", fontsize="medium")
    below.supxlabel(
        f"{_SECONDS} (thin: each run that was not refused at once, black: their mean)",
        fontsize="medium",
    )
    return figure


def _drawn(runs: list[pd.DataFrame]) -> tuple[Stage, ...]:
    """The stages of which runs are drawn: USABLE where it was counted."""
    wanted = _wanted(runs) if runs else Stage.READY
    if wanted is Stage.GRANTED:
        return (Stage.GRANTED,)
    counted_usable = any(run["usable"].notna().any() for run in runs)
    last = () if wanted is Stage.USABLE else (Stage.READY,)
    return (Stage.RUNNING, *((Stage.USABLE,) if counted_usable else ()), *last)


def _wanted(runs: list[pd.DataFrame]) -> Stage:
    return Stage[str(runs[0]["wanted"].iloc[0]).upper()]


def _draw_strip(ax: Axes, runs: list[pd.DataFrame], names: list[str], stage: Stage) -> None:
    """Draw how many were ready at the end of each round: a row per target, a column per round."""
    ends = pd.concat([run.sort_values("poll").iloc[[-1]] for run in runs])
    column = ends["round"] + 1
    if ends["batch_id"].nunique() > 1:
        column = ends.groupby(["batch_id", "round"]).ngroup() + 1
    cells = ends.assign(column=column).set_index(["target", "column"])
    # A round that was skipped is an empty column.
    every: dict[str, Any] = {"index": names, "columns": range(1, int(column.max()) + 1)}
    counts = cells[stage.label].unstack().reindex(**every)
    share = (cells[stage.label] / cells["n"]).astype(float).unstack().reindex(**every)
    sns.heatmap(
        share,
        ax=ax,
        annot=counts.astype(object).fillna("") if counts.shape[1] <= _MOST_WRITTEN else None,
        fmt="",
        annot_kws={"fontsize": "small"},
        cmap="Blues",
        **{"vmin": 0.0, "vmax": 1.0, "cbar": False, "linewidths": 0.5},
    )
    asked = " or ".join(map(str, sorted(set(ends["n"]))))
    ax.set_title(
        f"{stage.label} at the end of each round, of {asked} (darkest: all; "
        "blank: refused, or not watched)",
        fontsize="medium",
        loc="left",
    )
    ax.set(xlabel="round", ylabel="")
    ax.grid(visible=False)
    ax.tick_params(labelrotation=0, labelsize="small")


def _draw_panels(axes: Any, runs: list[pd.DataFrame], colours: Colours, stage: Stage) -> None:
    """Draw a panel per target: each run thin, their mean thick."""
    for number, (ax, (name, colour)) in enumerate(zip(axes.flat, colours.items(), strict=False)):
        mine = [run for run in runs if run["target"].iloc[0] == name]
        for run in mine:
            _draw_run(ax, run, stage, colour, thin=True)
        times, mean = _mean_count(mine, stage)
        ax.step(times, mean, where="post", color="black", linewidth=2, label="mean")
        words = f"{name} ({counted(len(mine), 'run')})".replace(", ", ",\n")  # method below target
        ax.set_title(words, fontsize="small", loc="left")
        ax.tick_params(
            labelbottom=number + axes.shape[1] >= len(colours)
        )  # the lowest of its column
        _label_counts(ax, "", runs)
    for ax in axes.flat[len(colours) :]:
        ax.set_axis_off()


def _draw_run(
    ax: Axes,
    run: pd.DataFrame,
    stage: Stage,
    colour: object,
    *,
    label: str | None = None,
    thin: bool = False,
) -> None:
    rows = run.sort_values("poll")
    times = [0.0, *rows["answered_s"]]
    counts = [0, *rows[stage.label].astype(int)]
    style = {"linewidth": 1, "alpha": 0.5} if thin else {"linewidth": 2}
    ax.step(times, counts, where="post", color=colour, label=label, **style)
    ax.plot(times[-1], counts[-1], "o", color=colour, markersize=4 if thin else 6)
    asked = [0.0, *rows["asked_s"].shift(fill_value=0.0)]
    for after, by, low, high in zip(asked[1:], times[1:], counts, counts[1:], strict=False):
        if high > low and not thin:  # somewhere in this bracket
            ax.fill_betweenx([low, high], after, by, color=colour, alpha=0.25, linewidth=0)


def _mean_count(runs: list[pd.DataFrame], stage: Stage) -> tuple[list[float], list[float]]:
    """Return times and the mean count over runs; a run that ended keeps its count."""
    times = sorted({0.0, *(time for run in runs for time in run["answered_s"])})
    counts = [
        run.sort_values("poll")
        .drop_duplicates("answered_s", keep="last")
        .set_index("answered_s")[stage.label]
        .astype(float)
        .reindex(times, method="ffill")
        .fillna(0.0)
        for run in runs
    ]
    return times, pd.concat(counts, axis=1).mean(axis=1).tolist()


def _label_counts(ax: Axes, words: str, runs: list[pd.DataFrame]) -> None:
    ax.set_ylabel(words)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if runs:
        most = max(int(run["n"].max()) for run in runs)
        ax.set_ylim(-0.03 * most, most * 1.08)
        ax.set_xlim(0, 1.03 * max(float(run["answered_s"].max()) for run in runs))


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
            f"{progress.requests} {progress.goal}, {progress.elapsed_s:.0f} s of at most "
            f"{progress.timeout_s:.0f} s",
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
        figure = ready_counts_figure(load_polls([self._log]))
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
        figure = ready_counts_figure(load_polls([log]))
        saved = results / "figures" / f"ready-counts-{log.stem}.png"
        shown = picture(figure, saved, width=800)
    except Exception as error:  # noqa: BLE001 - drawing may fail in any way, and ends nothing
        print(f"the figure could not be drawn: {error!r}")
        return
    display(shown)
    print(f"saved as {saved}")

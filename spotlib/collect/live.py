"""What 02 shows while a batch runs: the progress bar and the ready counts over time."""

import html
import io
import math
import time
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spotlib.collect.batch import Progress
from spotlib.figures import (
    THEME,
    Colours,
    bar_html,
    drawing,
    foreign_mark,
    mark_figure,
    mark_simulated,
    target_colours,
    target_names,
)
from spotlib.model import Stage
from spotlib.record.tables import load_polls

_SECONDS = "seconds since the request was sent"


@drawing
def ready_counts_figure(polls: pd.DataFrame) -> Figure:
    """Draw how many instances were running, and how many ready, since the request.

    A step goes up at the poll that first showed the instance; the shade reaches back to the poll
    before, because it got there some time between the two.  A dot marks the last poll of a run.
    Targets that were launched more than once have a panel each, with their runs and the mean.

    Parameters
    ----------
    polls
        As ``load_polls`` returns it.
    """
    seen = polls.assign(target=target_names(polls))
    seen = seen[seen["ready"].notna()]  # a missed poll shows nothing
    colours = target_colours(seen["target"])
    runs = [run for _, run in seen.groupby(["target", "batch_id", "round"])]
    draw = _together if len(runs) == len(colours) else _by_target
    with mpl.rc_context(THEME):
        figure = draw(runs, colours)
    if polls["simulated"].any():
        mark_simulated(figure)
    elif mark := foreign_mark(polls):
        mark_figure(figure, mark)
    return figure


def _together(runs: list[pd.DataFrame], colours: Colours) -> Figure:
    """Draw one run per target: running above, ready below."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for ax, stage in zip(axes, (Stage.RUNNING, Stage.READY), strict=True):
        for run in runs:
            name = run["target"].iloc[0]
            _draw_run(ax, run, stage, colours[name], label=name)
        _label_counts(ax, f"{stage.label}, instances", runs)
    axes[-1].set_xlabel(_SECONDS)
    handles, labels = axes[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=3, frameon=False)
    return figure


def _by_target(runs: list[pd.DataFrame], colours: Colours) -> Figure:
    """Draw several runs per target: a panel per target, each run thin, their mean thick."""
    columns = min(3, len(colours))
    rows = math.ceil(len(colours) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for number, (ax, (name, colour)) in enumerate(zip(axes.flat, colours.items(), strict=False)):
        mine = [run for run in runs if run["target"].iloc[0] == name]
        for run in mine:
            _draw_run(ax, run, Stage.READY, colour, thin=True)
        times, mean = _mean_count(mine)
        ax.step(times, mean, where="post", color="black", linewidth=2, label="mean")
        ax.set_title(f"{name} ({len(mine)} runs)", fontsize="small", loc="left")
        ax.tick_params(labelbottom=number + columns >= len(colours))  # the lowest of its column
        _label_counts(ax, "", runs)
    for ax in axes.flat[len(colours) :]:
        ax.set_axis_off()
    figure.supylabel("ready, instances (thin: each run, black: mean)", fontsize="medium")
    figure.supxlabel(_SECONDS, fontsize="medium")
    return figure


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


def _mean_count(runs: list[pd.DataFrame]) -> tuple[list[float], list[float]]:
    """Return times and the mean ready count over runs; a run that ended keeps its count."""
    times = sorted({0.0, *(time for run in runs for time in run["answered_s"])})
    counts = [
        run.sort_values("poll")
        .drop_duplicates("answered_s", keep="last")
        .set_index("answered_s")["ready"]
        .astype(float)
        .reindex(times, method="ffill")
        .fillna(0.0)
        for run in runs
    ]
    return times, pd.concat(counts, axis=1).mean(axis=1).tolist()


def _label_counts(ax: Axes, words: str, runs: list[pd.DataFrame]) -> None:
    most = max((int(run["n"].max()) for run in runs), default=1)
    longest_s = max((float(run["answered_s"].max()) for run in runs), default=1.0)
    ax.set_ylabel(words)
    ax.set_ylim(-0.03 * most, most * 1.08)
    ax.set_xlim(0, 1.03 * longest_s)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))


class LiveView:
    """A progress bar and the ready-count plot, updated in place while a batch runs.

    They look the same in JupyterLab, under papermill and in exported HTML.  The plot is drawn from
    the log, so it shows what is recorded; drawing takes at most a twentieth of the time.
    """

    def __init__(self, log: str | Path, *, simulated: bool) -> None:
        self._log = Path(log)
        self._simulated = simulated
        self._bar = display({"text/html": "starting"}, raw=True, display_id=True)
        self._plot = display({"text/html": ""}, raw=True, display_id=True)
        self._next_draw_s = 0.0

    def __call__(self, progress: Progress) -> None:
        """Draw after a poll, unless the last drawing is too recent."""
        if time.monotonic() >= self._next_draw_s:
            self._draw(progress)

    def finish(self, words: str) -> None:
        """Draw for the last time; what cannot be drawn is said in its place and ends nothing."""
        self._show_bar(words, 1.0)
        try:
            self._show_plot()
        except Exception as error:  # noqa: BLE001 - drawing may fail in any way
            words = f"The figure could not be drawn: {error!r}"
            self._plot.update({"text/html": html.escape(words)}, raw=True)

    def _draw(self, progress: Progress) -> None:
        began_s = time.monotonic()
        share = min(progress.elapsed_s / progress.timeout_s, 1.0)
        self._show_bar(
            f"round {progress.round + 1} of {progress.rounds}: {progress.ready} of "
            f"{progress.requests} ready, {progress.elapsed_s:.0f} s of at most "
            f"{progress.timeout_s:.0f} s",
            (progress.round + share) / progress.rounds,
        )
        self._show_plot()
        ended_s = time.monotonic()
        self._next_draw_s = ended_s + max(1.0, 20 * (ended_s - began_s))

    def _show_bar(self, words: str, share: float) -> None:
        self._bar.update({"text/html": bar_html(share, words, simulated=self._simulated)}, raw=True)

    @drawing
    def _show_plot(self) -> None:
        image = io.BytesIO()
        ready_counts_figure(load_polls([self._log])).savefig(image, format="png", dpi=80)
        self._plot.update({"image/png": image.getvalue()}, raw=True)

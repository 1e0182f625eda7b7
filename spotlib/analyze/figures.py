"""The figures of ``03_analyze``: they show results and decide nothing.

Owns what is drawn; theme, colours and the SIMULATED mark are those of ``spotlib.figures``.  A
target has the same colour, line and marker in every figure, distinct in grey too, and every figure
says how many instances and runs it shows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FormatStrFormatter,
    LogLocator,
    NullFormatter,
    PercentFormatter,
)

from spotlib.analyze.clocks import AGREE, CLOCKS
from spotlib.analyze.comparable import ended_by_ec2
from spotlib.analyze.launch_times import LaunchTimes
from spotlib.analyze.summaries import PHASES
from spotlib.figures import drawing, new_figure, target_colours
from spotlib.model import Stage

_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = "osD^vP*X<>"
_INK = "#1a4fa0"  # of what says that data are simulated
_DECADES = 100.0  # last over first time of a logarithmic axis
_MOST_BANDS = 4  # more would hide each other
_LOG_FROM = 30  # longest over shortest time, from which an axis is logarithmic
_MOST_ROWS = 40  # requests of a panel, each a row
_STAGE_SHADES = {
    Stage.FULFILLED: "0.75",
    Stage.RUNNING: "0.5",
    Stage.USABLE: "0.35",
    Stage.READY: "0.15",
}


@dataclass(frozen=True)
class Styles:
    """How every figure of a page is drawn; ``line`` and ``point`` are matplotlib keywords.

    ``note`` stands on each figure (how many instances and runs), ``n`` is how many instances every
    run requested, None if they differ, ``log_time`` makes the time axis of curves logarithmic,
    ``width_in`` is the width of a figure in inches.
    """

    colours: Mapping[str, Any]
    note: str = ""
    n: int | None = None
    log_time: bool = False
    width_in: float = 10.2

    @classmethod
    def of(cls, targets: Iterable[str], **settings: Any) -> "Styles":
        """The styles of these targets."""
        return cls(target_colours(targets), **settings)

    def line(self, target: str) -> dict[str, Any]:
        """Colour and line style of a target."""
        return {"color": self.colours[target], "linestyle": self._of(target, _LINES)}

    def point(self, target: str) -> dict[str, Any]:
        """Colour and marker of a target."""
        return {"color": self.colours[target], "marker": self._of(target, _MARKERS)}

    def _of(self, target: str, kinds: Sequence[Any]) -> Any:
        return kinds[list(self.colours).index(target) % len(kinds)]

    def figure(
        self, rows: int, columns: int, height_in: float, *, simulated: bool, **subplots: Any
    ) -> tuple[Figure, Any]:
        """A new figure of this width with the note at its top."""
        size = (self.width_in, height_in)
        figure, axes = new_figure(rows, columns, size, simulated=simulated, **subplots)
        mark = figure.get_suptitle()
        words = "   ".join(filter(None, (mark, self.note)))
        figure.suptitle(words, x=0.01, ha="left", fontsize="medium", color=_INK if mark else "0.2")
        return figure, axes

    def share_axis(self, ax: Axes, until_s: float) -> None:
        """The axes of a share over time; it is marked as a count if every run has the same n."""
        self.time_axis(ax, until_s)
        ax.set_ylim(-0.03, 1.05)
        if self.n is None:
            ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        else:
            counts = np.arange(0, self.n + 1, ceil(self.n / 5))
            ax.set_yticks(counts / self.n, counts.astype(str).tolist())

    def share_label(self, stage: Stage) -> str:
        """What the vertical one of these axes shows."""
        if self.n is None:
            return f"share of n that is {stage.label}"
        return f"instances {stage.label}, of {self.n}"

    def time_axis(self, ax: Axes, until_s: float) -> None:
        """End a time axis there, and start it at 0, or above on a logarithmic scale."""
        if self.log_time:
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        start_s = max(until_s / _DECADES, 1.0) if self.log_time else 0.0
        ax.set_xlim(start_s, max(until_s, start_s + 1.0))  # nothing may have been watched


@drawing
def answer_figure(
    distributions: Mapping[str, LaunchTimes],
    styles: Styles,
    *,
    until_s: float,
    simulated: bool,
    since: str = "the request was sent",
) -> Figure:
    """How many are at the stage over the seconds since the request, one line per target.

    A line is missing where polls tell nothing but limits of it (``LaunchTimes.shares``).
    """
    figure, [[ax]] = styles.figure(1, 1, 0.28 * styles.width_in, simulated=simulated)
    times_s = np.linspace(0.0, until_s, 241)
    for number, (target, each) in enumerate(distributions.items()):
        marks = {"marker": styles.point(target)["marker"], "markevery": (5 + 3 * number, 40)}
        ax.plot(
            times_s,
            each.shares(times_s),
            linewidth=1.8,
            label=target,
            **marks,
            **styles.line(target),
        )
    styles.share_axis(ax, until_s)
    stage = next(iter(distributions.values())).stage
    ax.set(xlabel=f"seconds since {since}", ylabel=styles.share_label(stage))
    figure.legend(loc="outside right upper", frameon=False, fontsize="small", handlelength=3.5)
    return figure


@drawing
def lag_figure(
    lags: Mapping[str, LaunchTimes], targets: Sequence[str], styles: Styles, *, simulated: bool
) -> Figure:
    """The share of the usable instances whose status checks were ok, over the seconds since."""
    drawn = {name: lags[name] for name in targets if name in lags}
    until_s, of_usable = _long_enough_s(drawn.values()), replace(styles, n=None)
    since = "the guest was usable"
    figure = answer_figure(drawn, of_usable, until_s=until_s, simulated=simulated, since=since)
    figure.axes[0].set_ylabel("share with checks ok")
    return figure


@drawing
def clocks_figure(told: Mapping[Stage, pd.DataFrame], styles: Styles, *, simulated: bool) -> Figure:
    """One panel per stage, one row per request: its bracket by the polls, and by both clocks.

    ``told`` is as from ``told_twice``.  Of many requests the same random sample is drawn each time.
    Where the clocks contradict each other, a cross is on the side on which the event's lies.
    """
    height_in = 0.36 * styles.width_in
    figure, grid = styles.figure(1, len(told), height_in, simulated=simulated, sharex=True)
    handles: list[Any] = [
        Patch(color="0.82", label="by the polls"),
        Patch(color="0.15", label="by both clocks"),
    ]
    cross: dict[str, Any] = {"color": "black", "marker": "x", "linestyle": ""}
    for (stage, rows), ax in zip(told.items(), grid.flat, strict=True):
        ends = {
            f"{clock}_{end}": rows[name.format(stage.label, end)] - rows[f"{stage.label}_after_s"]
            for clock, name in CLOCKS.items()
            for end in ("after", "by")
        }
        both = pd.DataFrame(ends).assign(clocks=rows[f"{stage.label}_clocks"])
        both = both[both["clocks"].notna()]
        drawn = both.sample(min(len(both), _MOST_ROWS), random_state=0).sort_values("event_by")
        if len(handles) == 2 and (drawn["clocks"] != AGREE).any():
            handles.append(Line2D([], [], **cross, label="event contradicts the poll"))
        widest_s = drawn["poll_by"].max()
        for y, row in enumerate(drawn.to_dict("records")):
            ax.barh(y, row["poll_by"], height=0.9, color="0.82", linewidth=0)
            after_s, by_s = row["both_after"], row["both_by"]
            ax.barh(y, by_s - after_s, left=after_s, height=0.9, color="0.15", linewidth=0)
            if row["clocks"] != AGREE:
                middle_s = (row["event_after"] + row["event_by"]) / 2
                ax.plot(np.clip(middle_s, -widest_s, 2 * widest_s), y, **cross)
        words = f"{stage.label}: {len(drawn)} of {len(both)} requests"
        ax.set_title(words, loc="left", fontsize="medium")
        ax.set(xlabel="seconds since the last poll that did not show it", yticks=[])
        ax.grid(False, axis="y")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


@drawing
def runs_figure(
    distributions: Mapping[str, LaunchTimes],
    counts: pd.DataFrame,
    styles: Styles,
    *,
    until_s: float,
    simulated: bool,
) -> Figure:
    """One panel per target: its runs (thin), its share ready by t (thick), its two bands.

    ``counts`` is as from ``ready_counts``.
    """
    figure, axes = panel_grid(list(distributions), styles, simulated=simulated)
    for (target, each), ax in zip(distributions.items(), axes, strict=True):
        for _, run in counts[counts["target"] == target].groupby("run"):
            ax.step(
                run["time_s"], run["share"], where="post", color="0.6", alpha=0.5, linewidth=0.8
            )
        band, colour = each.band(np.linspace(0, until_s, 301)), styles.colours[target]
        ax.fill_between(
            band["time_s"], band["low"], band["high"], color=colour, alpha=0.3, linewidth=0
        )
        for limit in ("curve_low", "curve_high"):
            ax.plot(band["time_s"], band[limit], color=colour, linewidth=0.8, linestyle="--")
        ax.plot(band["time_s"], band["share"], color=colour, linewidth=2.5)
        styles.share_axis(ax, until_s)
    stage = next(iter(distributions.values())).stage
    figure.supxlabel("seconds since the request was sent", fontsize="medium")
    figure.supylabel(styles.share_label(stage), fontsize="medium")
    return figure


@drawing
def panel_grid(
    targets: Sequence[str], styles: Styles, *, simulated: bool
) -> tuple[Figure, list[Axes]]:
    """A named panel for each target; only the left column has tick labels."""
    columns = min(len(targets), 3)
    rows = ceil(len(targets) / columns)
    height_in = (0.26 * rows + 0.05) * styles.width_in
    figure, grid = styles.figure(rows, columns, height_in, simulated=simulated)
    for ax in grid.flat[len(targets) :]:
        ax.set_visible(False)
    for number, (target, ax) in enumerate(zip(targets, grid.flat, strict=False)):
        ax.set_title(target, loc="left", fontsize="medium")
        ax.tick_params(labelleft=number % columns == 0)
    return figure, list(grid.flat[: len(targets)])


@drawing
def distribution_figure(
    kinds: Mapping[str, Mapping[str, LaunchTimes]],
    styles: Styles,
    *,
    only: Sequence[str],
    simulated: bool,
) -> Figure:
    """The share ready by t, one panel per kind of time, with bands for at most 4 targets."""
    kinds = {
        kind: {name: each for name, each in estimates.items() if name in only}
        for kind, estimates in kinds.items()
    }
    shares = replace(styles, n=None)  # of those that began, which need not be n
    rows = max(ceil(len(kinds) / 2), 1)
    figure, grid = styles.figure(rows, 2, 0.35 * rows * styles.width_in, simulated=simulated)
    for ax in grid.flat[len(kinds) :]:
        ax.set_visible(False)
    for (name, distributions), ax in zip(kinds.items(), grid.flat, strict=False):
        until_s = _long_enough_s(distributions.values())
        times_s = np.linspace(0.0, until_s, 241)
        for target, each in distributions.items():
            band = each.band(times_s)
            colour = styles.colours[target]
            if len(distributions) <= _MOST_BANDS:
                ax.fill_between(times_s, band["low"], band["high"], color=colour, alpha=0.15, lw=0)
            ax.plot(times_s, band["share"], linewidth=2, label=target, **styles.line(target))
        ax.set_title(name, loc="left", fontsize="medium")
        shares.share_axis(ax, until_s)
        ax.set(xlabel="seconds", ylabel="share")
    _legend(figure, grid.flat[0])
    return figure


@drawing
def phases_figure(phases: pd.DataFrame, styles: Styles, *, simulated: bool) -> Figure:
    """The median of each phase by target with its interval, one panel per phase.

    Where polls tell limits only, these are drawn and no point.
    """
    names = [name for name in PHASES if name in set(phases["phase"])]
    targets = list(dict.fromkeys(phases["target"]))
    height_in = 0.42 * len(targets) + 1.6
    figure, grid = styles.figure(1, len(names), height_in, simulated=simulated, sharey=True)
    for name, ax in zip(names, grid.flat, strict=True):
        here = phases[phases["phase"] == name]
        ends_s = _seconds_axis(ax, here[["median_s", "low_s", "high_s"]])
        for row in here.to_dict("records"):
            y, point = targets.index(row["target"]), styles.point(row["target"])
            draw_interval(ax, y, row["low_s"], row["high_s"], ends_s, colour=point["color"])
            ax.plot(row["median_s"], y, markersize=8, **point)
        ax.set_title(name, loc="left", fontsize="medium")
        ax.set(xlabel="median, seconds", yticks=range(len(targets)), yticklabels=targets)
        ax.set_ylim(len(targets) - 0.5, -0.5)
        ax.set_xlim(*ends_s)
    return figure


def _seconds_axis(ax: Axes, numbers: pd.DataFrame) -> tuple[float, float]:
    """Make the axis logarithmic if the shortest time would vanish; return its ends."""
    least_s, most_s = finite_ends(numbers)
    if most_s < _LOG_FROM * least_s:
        return 0.0, most_s
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return least_s, most_s


@drawing
def timeline_figure(launches: pd.DataFrame, styles: Styles, *, simulated: bool) -> Figure:
    """One bar per request of one round; each stage lies somewhere within its drawn bracket.

    A bar ends at the last poll.  A cross there is a request that EC2 ended; a bar without a ready
    bracket and without a cross is censored.
    """
    rows = launches.assign(ended=ended_by_ec2(launches))
    rows = rows.sort_values(["target", "plan", "ready_by_s", "running_by_s"])
    rows = rows.reset_index(drop=True)
    height_in = min(0.17 * len(rows) + 1.8, 12.0)
    figure, [[ax]] = styles.figure(1, 1, height_in, simulated=simulated)
    for y, row in enumerate(rows.to_dict("records")):
        last_s = max(
            row["watched_s"], np.nanmax([row[f"{s.label}_by_s"] for s in _STAGE_SHADES] + [0])
        )
        ax.barh(y, last_s, height=0.25, color=styles.colours[row["target"]], alpha=0.6)
        for stage, shade in _STAGE_SHADES.items():
            after_s, by_s = row[f"{stage.label}_after_s"], row[f"{stage.label}_by_s"]
            if np.isfinite(by_s):
                ax.barh(y, by_s - after_s, left=after_s, height=0.8, color=shade)
        if row["ended"]:
            ax.plot(last_s, y, "x", color="black", markersize=7)
    _target_rows(ax, rows["target"])
    ax.set(xlabel="seconds since the request was sent", xlim=(0, None))
    shades: list[Any] = [
        Patch(color=s, label=f"{stage.label} bracket") for stage, s in _STAGE_SHADES.items()
    ]
    shades.append(Line2D([], [], color="black", marker="x", linestyle="", label="ended by EC2"))
    figure.legend(handles=shades, loc="outside lower center", ncols=4, frameon=False)
    return figure


def finite_ends(numbers: pd.DataFrame) -> tuple[float, float]:
    """Where an interval without an end is cut: beyond all finite numbers above 0."""
    values = numbers.to_numpy(dtype=np.float64)
    known = values[np.isfinite(values) & (values > 0)]
    return (known.min() / 1.2, known.max() * 1.2) if known.size else (0.5, 2.0)


def draw_interval(
    ax: Axes, y: float, low: float, high: float, ends: tuple[float, float], *, colour: Any
) -> None:
    """A bar from low to high; an arrow where it has no end within the panel."""
    least, most = ends
    ax.plot([max(low, least), min(high, most)], [y, y], color=colour, linewidth=3, alpha=0.6)
    if np.isposinf(high):
        ax.plot(most, y, ">", color=colour, markersize=8, clip_on=False)
    if low < least:
        ax.plot(least, y, "<", color=colour, markersize=8, clip_on=False)


def _long_enough_s(distributions: Iterable[LaunchTimes]) -> float:
    """A little more than the longest time to 90 % of what any target reached."""
    curves = [(each.curve, each.curve.shown_share()) for each in distributions]
    last_s = [float(curve.quantile(0.9 * share)) for curve, share in curves if share > 1e-6]
    return max(last_s, default=1.0) * 1.3


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def _target_rows(ax: Axes, targets: "pd.Series[str]") -> None:
    """Name the rows of each target once, at their middle."""
    places = targets.reset_index().groupby(targets)["index"].agg(["mean", "max"])
    ax.set_yticks(places["mean"], places.index)
    for last in places["max"]:
        ax.axhline(last + 0.5, color="0.85", linewidth=1)
    ax.set_ylim(len(targets) - 0.5, -0.5)
    ax.grid(False, axis="y")

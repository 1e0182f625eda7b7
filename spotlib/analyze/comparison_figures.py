"""The figures of ``03_analyze`` on comparisons: of targets, of ways to ask, of selectors.

They show results and decide nothing; styles and intervals are those of ``figures``.
"""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import AutoLocator, FormatStrFormatter, LogLocator

from spotlib.analyze.arms import arm_of, target_of
from spotlib.analyze.compare import SIGNIFICANT
from spotlib.analyze.figures import Styles, draw_interval, finite_ends, panel_grid
from spotlib.analyze.launch_times import LaunchTimes
from spotlib.figures import drawing

_LEGEND_ROW_IN = 0.24  # so much higher is a figure for each row of a legend below it


@drawing
def comparison_figure(pairs: pd.DataFrame, styles: Styles, *, simulated: bool) -> Figure:
    """How much later the first of each pair is, the ratio of medians, the difference of shares.

    The first of these is what is tested; intervals are adjusted.  A pair without a ratio (a median
    was not reached, or polls tell limits of it only) has its other numbers, and a bound of the
    ratio if there is one.
    """
    height_in = 0.38 * max(len(pairs), 1) + 1.7
    figure, grid = styles.figure(1, 3, height_in, simulated=simulated, sharey=True)
    means, ratios, differences = grid[0]
    seconds = pairs[["later_s", "later_s_low_adjusted", "later_s_high_adjusted"]].abs()
    most_s = finite_ends(seconds)[1]
    ends = finite_ends(pairs[["ratio", "ratio_low_adjusted", "ratio_high_adjusted"]])
    for y, row in enumerate(pairs.to_dict("records")):
        face = "black" if row["p_holm"] < SIGNIFICANT else "white"
        for what, ax, within in (
            ("later_s", means, (-most_s, most_s)),
            ("ratio", ratios, ends),
            ("difference", differences, (-1.0, 1.0)),
        ):
            low, high = (row[f"{what}_{end}_adjusted"] for end in ("low", "high"))
            if not np.isnan([low, high]).all():
                low, high = (-np.inf if np.isnan(low) else low, np.inf if np.isnan(high) else high)
                draw_interval(ax, y, low, high, within, colour="0.55")
            ax.plot(row[what], y, "o", color="black", markerfacecolor=face, markersize=8)
    ratios.set_xscale("log")
    ratios.set_xlim(*ends)
    # Within a decade 1, 2 and 5 are too few: in 0.7 to 1.5 there is a single one.
    within_decade = ends[1] < 10 * ends[0]
    ratios.xaxis.set_major_locator(AutoLocator() if within_decade else LogLocator(subs=(1, 2, 5)))
    ratios.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ratios.minorticks_off()
    means.set_xlim(-1.05 * most_s, 1.05 * most_s)
    differences.set(xlim=(-1.05, 1.05), xticks=(-1.0, -0.5, 0.0, 0.5, 1.0))
    for ax, same, words in (
        (means, 0.0, "later on average, s (tested)"),
        (ratios, 1.0, "ratio of medians"),
        (differences, 0.0, "difference of shares"),
    ):
        ax.axvline(same, color="0.3", linewidth=1, linestyle="--")
        ax.set_xlabel(words)
    labels = (pairs["first"] + "\nover " + pairs["second"]).tolist()
    means.set_yticks(range(len(pairs)), labels, fontsize="small")
    means.set_ylim(len(pairs) - 0.5, -0.5)
    return figure


@drawing
def arms_figure(
    distributions: Mapping[str, LaunchTimes],
    targets: Sequence[str],
    styles: Styles,
    *,
    until_s: float,
    simulated: bool,
) -> Figure:
    """One panel per target: the share at the stage over time, one line per arm.

    ``distributions`` are as from ``arm_times``.
    """
    arms = Styles.of(sorted({arm_of(name) for name in distributions}))
    figure, axes = panel_grid(targets, styles, simulated=simulated)
    times_s = np.linspace(0.0, until_s, 241)
    for target, ax in zip(targets, axes, strict=True):
        for name, each in distributions.items():
            if target_of(name) == target:
                arm = arm_of(name)
                ax.plot(times_s, each.shares(times_s), linewidth=2, label=arm, **arms.line(arm))
        styles.share_axis(ax, until_s)
    stage = next(iter(distributions.values())).stage
    figure.supylabel(styles.share_label(stage), fontsize="medium")
    handles = [Line2D([], [], linewidth=2, label=arm, **arms.line(arm)) for arm in arms.colours]
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW_IN * ceil(len(handles) / 2))
    figure.legend(
        handles=handles,
        title="seconds since the request was sent",  # a label of the figure would lie behind it
        title_fontsize="medium",
        loc="outside lower center",
        ncols=2,
        frameon=False,
        handlelength=3.5,
    )
    return figure


@drawing
def association_figure(
    table: pd.DataFrame, outcome: str, styles: Styles, *, simulated: bool
) -> Figure:
    """The rank correlation of each feature with an outcome over targets, with its interval."""
    shown = table[(table["outcome"] == outcome) & table["rho"].notna()].reset_index(drop=True)
    height_in = 0.36 * max(len(shown), 1) + 1.5
    figure, [[ax]] = styles.figure(1, 1, height_in, simulated=simulated)
    for y, row in enumerate(shown.to_dict("records")):
        ax.plot([row["low"], row["high"]], [y, y], color="0.55", linewidth=3)
        ax.plot(row["rho"], y, "o", color="black", markersize=8)
    ax.axvline(0.0, color="0.3", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(shown)), shown["feature"].tolist())
    ax.set(xlim=(-1, 1), ylim=(max(len(shown), 1) - 0.5, -0.5))
    ax.set_xlabel(f"rank correlation with {outcome} over targets")
    return figure

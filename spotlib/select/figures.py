"""The figures of ``01_select`` and its progress bar: drawn from tables, they decide nothing."""

import html
from collections.abc import Callable

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spotlib.figures import bar_html, drawing, new_figure, target_names
from spotlib.select.cov import PAIR

_GREY = "0.78"
_MARKERS = {"ranked": "o", "constant": "s", "random": "D"}


def day_progress(label: str) -> Callable[[int, int], None]:
    """Show a bar that updates in place, alike in Lab, under papermill and in HTML."""
    handle = display({"text/html": html.escape(label)}, raw=True, display_id=True)

    def show(done: int, days: int) -> None:
        words = f"{label}: {done} of {days} days"
        handle.update({"text/html": bar_html(done / days if days else 1.0, words)}, raw=True)

    return show


@drawing
def variation_figure(pairs: pd.DataFrame, selection: pd.DataFrame, *, simulated: bool) -> Figure:
    """SPS CoV against IF CoV of all pairs; the selected ones are numbered and named beside it."""
    figure, ax = _one_panel(10, 5.6, simulated)
    ax.scatter(pairs["if_cov"], pairs["sps_cov"], s=10, color=_GREY, label="every (type, region)")
    _draw_least_score(ax, selection)
    palette = sns.color_palette("colorblind", 10)
    names = target_names(selection)
    for number, (name, row) in enumerate(zip(names, selection.to_dict("records"), strict=True)):
        style = {"color": palette[number % 10], "edgecolor": "white", "linewidth": 0.6}
        style |= {"marker": _MARKERS[row["role"]], "zorder": 3 - number / 1000}
        at = row["if_cov"], row["sps_cov"]
        control = "" if row["role"] == "ranked" else f" ({row['role']} control)"
        ax.scatter(*at, s=80, label=f"{row['rank']}  {name}{control}", **style)
        ax.annotate(str(row["rank"]), at, (6, 5), textcoords="offset points", fontsize=9, zorder=4)
    ax.set(xlabel="CoV of IF (interruption frequency)", ylabel="CoV of SPS (placement score)")
    title = {"title": "selected: rank and target", "title_fontsize": "small"}
    figure.legend(loc="outside right upper", frameon=False, fontsize="small", **title)
    return figure


@drawing
def score_heatmap(scored: pd.DataFrame, *, simulated: bool, types: int = 24) -> Figure:
    """The score of the best ``types`` instance types in every region that ranks one of them."""
    best = scored.drop_duplicates("instance_type").head(types)["instance_type"]
    shown = scored[scored["instance_type"].isin(best)]
    table = shown.pivot_table(index="instance_type", columns="region", values="score").loc[best]
    figure, ax = _one_panel(0.62 * table.shape[1] + 3.4, 0.31 * len(table) + 1.8, simulated)
    bar = {"label": "score, CoV(SPS) x CoV(IF)", "shrink": 0.8}
    sns.heatmap(table, ax=ax, cmap="viridis", cbar_kws=bar, linewidths=0.5)
    _quiet(ax)
    _slant(ax, list(table.columns))
    return figure


@drawing
def history_figure(counts: pd.DataFrame, selection: pd.DataFrame, *, simulated: bool) -> Figure:
    """Mean SPS and IF of the selected targets day by day; blank where nothing is known."""
    size = (10, 0.62 * len(selection) + 2.4)
    figure, grid = new_figure(2, 1, size, simulated=simulated, grid=False, sharex=True)
    axes = grid[:, 0]
    titles = {
        "sps": "SPS (placement score), daily mean over zones and snapshots; 3 is best",
        "if_score": "IF (interruption frequency), daily mean; 3 is under 5 %, 1 over 20 %",
    }
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        table = _daily_means(counts, selection, column)
        highest = np.nanmax(table.to_numpy(), initial=3.0)
        bar = {"label": title.partition(" ")[0], "ticks": [1, 2, 3]}
        sns.heatmap(table, ax=ax, vmin=1, vmax=highest, cmap="cividis", cbar_kws=bar)
        ax.set_title(title, loc="left", fontsize="medium")
        _quiet(ax)
    _slant(axes[-1], [f"{day:%d %b}" for day in table.columns], most=16)
    return figure


@drawing
def ranks_figure(ranks: pd.DataFrame, *, simulated: bool) -> Figure:
    """The rank of each target under each way of scoring; blank where it is not ranked."""
    figure, ax = _one_panel(9.5, 0.34 * len(ranks) + 1.6, simulated)
    ranks = ranks.set_axis(target_names(ranks.index.to_frame(index=False)))
    labels = ranks.map(lambda rank: "" if pd.isna(rank) else f"{rank:.0f}")
    style = {"annot": labels, "fmt": "", "cmap": "crest", "cbar": False, "linewidths": 1}
    sns.heatmap(np.log(ranks), ax=ax, **style)
    _quiet(ax)
    ax.set_title("rank in each way; blank: not ranked", loc="left", fontsize="medium")
    ax.xaxis.tick_top()
    return figure


def _one_panel(width: float, height: float, simulated: bool) -> tuple[Figure, Axes]:
    figure, axes = new_figure(1, 1, (width, height), simulated=simulated, grid=False)
    return figure, axes[0, 0]


def _quiet(ax: Axes) -> None:
    ax.set(xlabel="", ylabel="")
    ax.tick_params(axis="both", rotation=0, length=0)


def _slant(ax: Axes, names: list[str], *, most: int = 40) -> None:
    """Label the columns of a heat map, leaving names out evenly beyond ``most``."""
    every = -(-len(names) // most)
    ticks = [column + 0.5 for column in range(0, len(names), every)]
    ax.set_xticks(ticks, names[::every], rotation=40, ha="right")


def _draw_least_score(ax: Axes, selection: pd.DataFrame) -> None:
    """Draw where the score equals that of the last ranked: pairs beyond were chosen or capped."""
    ranked = selection[selection["role"] == "ranked"]
    if len(ranked):
        least = ranked["score"].min()
        x = np.linspace(
            least / (1.15 * ranked["sps_cov"].max()), 1.05 * ranked["if_cov"].max(), 200
        )
        label = f"same score as the last ranked, {least:.3g}"
        ax.plot(x, least / x, color="0.4", linewidth=1, linestyle="--", label=label)


def _daily_means(counts: pd.DataFrame, selection: pd.DataFrame, column: str) -> pd.DataFrame:
    known = counts[counts[column].notna()].astype(dict.fromkeys(PAIR, "str"))
    known = known.merge(selection[PAIR], on=PAIR)
    weight = known["snapshots"].astype("int64")
    sums = pd.DataFrame({"weight": weight, "total": weight * known[column]})
    sums = sums.groupby([*(known[name] for name in PAIR), known["day"]]).sum()
    table = (sums["total"] / sums["weight"]).unstack("day")
    table = table.reindex(pd.MultiIndex.from_frame(selection[PAIR]))
    table.index = pd.Index(target_names(selection))
    return table.reindex(columns=pd.date_range(counts["day"].min(), counts["day"].max()))

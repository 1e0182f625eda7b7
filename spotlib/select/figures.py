"""The figures that ``01_select`` shows, and its progress bar; they read tables and decide nothing.

As in ``plots``, figures are made without pyplot and a simulated one says so across its face.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from spotlib.figures import new_figure
from spotlib.select.cov import PAIR

_GREY = "0.78"
_MARKERS = {"ranked": "o", "constant": "s", "random": "D"}


def day_progress(words: str) -> Callable[[int, int], None]:
    """Show a bar that renews itself in place; the same in Lab, under papermill and in HTML."""
    handle = display({"text/html": words}, raw=True, display_id=True)

    def show(done: int, days: int) -> None:
        bar = f'<progress value="{done}" max="{days}" style="width:40%"></progress>'
        handle.update({"text/html": f"{bar} {words}: {done} of {days} days"}, raw=True)

    return show


def variation_figure(pairs: pd.DataFrame, chosen: pd.DataFrame, *, simulated: bool) -> Figure:
    """SPS CoV against IF CoV of all pairs, the chosen ones numbered and named beside it."""
    figure, ax = _one_panel(10, 5.6, simulated)
    ax.scatter(pairs["if_cov"], pairs["sps_cov"], s=10, color=_GREY, label="all pairs")
    _draw_least_score(ax, chosen)
    palette = sns.color_palette("colorblind", 10)
    for number, row in enumerate(chosen.to_dict("records")):
        style = {"color": palette[number % 10], "edgecolor": "white", "linewidth": 0.6}
        name = f"{row['rank']}  {row['instance_type']} in {row['region']}"
        style |= {"marker": _MARKERS[row["role"]], "label": name, "zorder": 3 - number / 1000}
        ax.scatter(row["if_cov"], row["sps_cov"], s=80, **style)
    ax.set(xlabel="CoV of IF (interruption frequency)", ylabel="CoV of SPS (placement score)")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    _number(figure, ax, chosen)
    return figure


def score_heatmap(scored: pd.DataFrame, *, simulated: bool, types: int = 24) -> Figure:
    """The score of the best ``types`` instance types in every region that ranks one of them."""
    best = scored.drop_duplicates("instance_type").head(types)["instance_type"]
    shown = scored[scored["instance_type"].isin(best)]
    table = shown.pivot_table(index="instance_type", columns="region", values="score").loc[best]
    figure, ax = _one_panel(0.62 * table.shape[1] + 3.4, 0.31 * len(table) + 1.8, simulated)
    bar = {"label": "score", "shrink": 0.8}
    sns.heatmap(table, ax=ax, cmap="viridis", cbar_kws=bar, linewidths=0.5)
    _quiet(ax)
    _slant(ax, list(table.columns))
    return figure


def history_figure(counts: pd.DataFrame, chosen: pd.DataFrame, *, simulated: bool) -> Figure:
    """Mean SPS and IF of the chosen targets day by day; blank where nothing is known."""
    size = (10, 0.62 * len(chosen) + 2.4)
    figure, grid = new_figure(2, 1, size, simulated=simulated, grid=False, sharex=True)
    axes = grid[:, 0]
    titles = {"sps": "SPS, the day's mean over zones and snapshots", "if_score": "IF"}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        table = _daily_means(counts, chosen, column)
        highest = np.nanmax(table.to_numpy(), initial=3.0)
        bar = {"label": "score", "ticks": [1, 2, 3]}
        sns.heatmap(table, ax=ax, vmin=1, vmax=highest, cmap="cividis", cbar_kws=bar)
        ax.set_title(title, loc="left", fontsize="medium")
        _quiet(ax)
    _slant(axes[-1], [f"{day:%d %b}" for day in table.columns], most=16)
    return figure


def ranks_figure(ranks: pd.DataFrame, *, simulated: bool) -> Figure:
    """The rank of each target under each way of scoring; blank where it is not ranked at all."""
    figure, ax = _one_panel(9.5, 0.34 * len(ranks) + 1.6, simulated)
    labels = ranks.map(lambda rank: "" if pd.isna(rank) else f"{rank:.0f}")
    style = {"annot": labels, "fmt": "", "cmap": "crest", "cbar": False, "linewidths": 1}
    sns.heatmap(np.log(ranks), ax=ax, **style)
    _quiet(ax)
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


def _draw_least_score(ax: Axes, chosen: pd.DataFrame) -> None:
    """Draw where the score equals that of the last chosen: what is beyond was chosen or capped."""
    ranked = chosen[chosen["role"] == "ranked"]
    if len(ranked):
        least = ranked["score"].min()
        x = np.linspace(
            least / (1.15 * ranked["sps_cov"].max()), 1.05 * ranked["if_cov"].max(), 200
        )
        label = f"score {least:.3g}, of the last ranked"
        ax.plot(x, least / x, color="0.4", linewidth=1, linestyle="--", label=label)


def _number(figure: Figure, ax: Axes, chosen: pd.DataFrame) -> None:
    """Write the rank beside each chosen point, where it covers no other rank and no other point."""
    figure.draw_without_rendering()  # the layout has to be known before anything is placed
    pixels = ax.transData.transform(chosen[["if_cov", "sps_cov"]].to_numpy())
    points = pixels * 72 / figure.dpi
    for rank, point, spot in zip(chosen["rank"], points, _free_spots(points), strict=True):
        text = ax.annotate(
            f"{rank}",
            chosen.loc[chosen["rank"] == rank, ["if_cov", "sps_cov"]].iloc[0],
            xytext=spot - point,
            textcoords="offset points",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": "0.3"},
            zorder=4,
        )
        text.set(fontsize=9, path_effects=[withStroke(linewidth=2.5, foreground="white")])


def _free_spots(points: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Find a spot near each point, in typographic points, clear of all points and earlier spots."""
    angles = np.deg2rad(45 + np.arange(0, 360, 22.5))
    ring = np.column_stack([np.cos(angles), np.sin(angles)])
    around = np.concatenate([radius * ring for radius in (14, 20, 28, 38, 50)])
    spots: list[np.ndarray[Any, Any]] = []
    for point in points:
        tried = point + around
        taken = np.array([*points, *spots])
        nearest = np.linalg.norm(tried[:, None] - taken[None], axis=2).min(axis=1)
        spots.append(tried[np.argmax(nearest >= 12)])  # the closest free one, else the first
    return spots


def _daily_means(counts: pd.DataFrame, chosen: pd.DataFrame, column: str) -> pd.DataFrame:
    known = counts[counts[column].notna()].astype(dict.fromkeys(PAIR, "str"))
    known = known.merge(chosen[PAIR], on=PAIR)
    weight = known["snapshots"].astype("int64")
    sums = pd.DataFrame({"weight": weight, "total": weight * known[column]})
    sums = sums.groupby([*(known[name] for name in PAIR), known["day"]]).sum()
    table = (sums["total"] / sums["weight"]).unstack("day")
    table = table.reindex(pd.MultiIndex.from_frame(chosen[PAIR]))
    table.index = pd.Index([f"{name} in {region}" for name, region in table.index])
    return table.reindex(columns=pd.date_range(counts["day"].min(), counts["day"].max()))

"""The figures of 03 show what the tables hold: every target and every end."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from spotlib.analyze.comparison_figures import comparison_figure
from spotlib.analyze.figures import Styles, phases_figure
from spotlib.figures import SIMULATED, new_figure, target_colours
from spotlib.forecast.figures import forecast_figure
from spotlib.forecast.forecast import Forecast
from spotlib.model import Stage, Target

A, B = "t3.nano in sa-east-1", "t3.small in sa-east-1"
STYLES = Styles.of([A, B])


def markers(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


def phases(*rows):
    names = ["target", "phase", "median_s", "low_s", "high_s"]
    return pd.DataFrame(rows, columns=names)


def test_a_phase_whose_shortest_would_vanish_is_on_a_logarithmic_scale():
    wide = phases(
        (A, "request to fulfilled", 2.0, 1.5, 3.0), (B, "request to fulfilled", 300.0, 2.0, np.inf)
    )
    near = phases((A, "request to fulfilled", 200.0, 150.0, 210.0))
    [wide_ax] = phases_figure(wide, STYLES, simulated=True).axes
    [near_ax] = phases_figure(near, STYLES, simulated=True).axes

    assert (wide_ax.get_xscale(), near_ax.get_xscale()) == ("log", "linear")
    assert near_ax.get_xlim()[0] == 0
    assert wide_ax.get_xlim()[0] < 1.5
    assert len(markers(wide_ax, ">")) == 1


def test_a_phase_without_a_median_is_an_arrow_and_no_error():
    [ax] = phases_figure(
        phases((A, "request to fulfilled", np.nan, np.nan, np.inf)), STYLES, simulated=True
    ).axes

    assert len(markers(ax, ">")) == 1


def pairs_of(*ratios, difference=0.1, p_holm=0.5):
    """Pairs whose ratio has these values: value, low, high."""
    names = ["ratio", "ratio_low_adjusted", "ratio_high_adjusted"]
    ends = {"difference_low_adjusted": -0.1, "difference_high_adjusted": 0.3}
    ends |= {"later_s": 30.0, "later_s_low_adjusted": 10.0, "later_s_high_adjusted": 50.0}
    return pd.DataFrame(ratios, columns=names).assign(
        first=A, second=B, p_holm=p_holm, difference=difference, **ends
    )


def test_an_interval_without_an_end_leaves_by_an_arrow_on_its_side():
    pairs = pairs_of((0.5, np.nan, 0.9), (2.0, 1.1, np.inf), (1.0, 0.9, 1.1))
    means, ratios, _ = comparison_figure(pairs, STYLES, simulated=True).axes

    assert len(markers(ratios, "<")) == len(markers(ratios, ">")) == 1
    assert len(means.get_yticks()) == 3


def test_the_quantity_that_is_tested_is_drawn_with_its_interval_and_filled_where_it_differs():
    pairs = pairs_of((1.0, 0.9, 1.1), (1.0, 0.9, 1.1), p_holm=[0.01, 0.5])
    means, *_ = comparison_figure(pairs, STYLES, simulated=True).axes
    points = markers(means, "o")

    assert "tested" in means.get_xlabel()
    assert [each.get_xdata()[0] for each in points] == [30.0, 30.0]
    assert [each.get_markerfacecolor() for each in points] == ["black", "white"]
    bars = [line.get_xdata() for line in means.lines if line.get_linewidth() == 3]
    assert [list(each) for each in bars] == [[10.0, 50.0], [10.0, 50.0]]


def test_a_pair_without_a_ratio_is_drawn_by_its_difference_of_shares():
    pairs = pairs_of((np.nan, np.nan, np.nan), (2.0, 1.1, 4.0), difference=[0.4, 0.1])
    _, ratios, differences = comparison_figure(pairs, STYLES, simulated=True).axes
    points = [line.get_xdata()[0] for line in markers(differences, "o")]

    assert points == [0.4, 0.1]
    assert [line.get_xdata()[0] for line in markers(ratios, "o")] == [
        pytest.approx(np.nan, nan_ok=True),
        2.0,
    ]
    assert [line.get_ydata()[0] for line in ratios.lines if line.get_linewidth() == 3] == [1]


@pytest.mark.parametrize("targets", [1, 5])
def test_each_forecast_has_a_panel_with_its_band_and_its_own_colour(targets):
    names = [Target(f"t{i}.nano", "sa-east-1") for i in range(targets)]
    styles = Styles.of(map(str, names))
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    times_s = np.array([100.0, 200.0])
    figure = forecast_figure(
        [Forecast(each, 2, times_s, chances, "target", 9, True, True) for each in names],
        styles,
        simulated=True,
    )
    shown = [ax for ax in figure.axes if ax.get_visible()]

    assert [ax.get_title(loc="left") for ax in shown] == list(map(str, names))
    for ax, name in zip(shown, names, strict=True):
        assert ax.lines[0].get_color() == styles.colours[str(name)]
        assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.0, 0.7, 1.6])
        assert len(ax.collections) == 1


@pytest.mark.parametrize(
    ("ratios", "ticks"), [([0.8, 1.3], [1.0]), ([0.02, 30.0], [0.02, 0.5, 20.0])]
)
def test_a_ratio_axis_has_ticks_within_a_decade_and_beyond(ratios, ticks):
    pairs = pairs_of(*[(ratio, ratio / 1.1, ratio * 1.1) for ratio in ratios])
    _, ax, _ = comparison_figure(pairs, STYLES, simulated=True).axes
    low, high = ax.get_xlim()
    shown = [tick for tick in ax.get_xticks() if low <= tick <= high]

    assert 4 <= len(shown) <= 12
    assert all(np.isclose(shown, tick).any() for tick in ticks)


def test_a_share_of_equal_n_is_marked_as_a_count_and_else_as_percent():
    [ax] = Figure().subplots(1, 1, squeeze=False).flat
    for n, ticks in ((5, ["0", "1", "2", "3", "4", "5"]), (12, ["0", "3", "6", "9", "12"])):
        replace(STYLES, n=n).share_axis(ax, 300.0)
        assert [each.get_text() for each in ax.get_yticklabels()] == ticks
        assert ax.get_yticks() == pytest.approx(np.array(ticks, dtype=float) / n)
    STYLES.share_axis(ax, 300.0)

    assert ax.yaxis.get_major_formatter()(0.5) == "50 %"
    assert replace(STYLES, n=5).share_label(Stage.READY) == "instances ready, of 5"
    assert STYLES.share_label(Stage.READY) == "share of n that is ready"


def test_what_data_are_is_written_behind_all_that_is_drawn_and_can_be_seen_there():
    figure, [[ax]] = new_figure(1, 1, (4, 3), simulated=True)
    [mark] = [each for each in figure.texts if each.get_rotation()]
    marked = panel(figure, ax)

    assert mark.get_text() == SIMULATED
    assert mark.get_zorder() < ax.get_zorder()
    mark.set_visible(False)
    assert (panel(figure, ax) != marked).any(), "no panel hides it"


def test_real_data_have_no_mark():
    figure, _ = new_figure(1, 1, (4, 3), simulated=False)

    assert not figure.texts


def panel(figure, ax):
    """The pixels of a panel."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    left, bottom, right, top = np.array(ax.get_window_extent().extents, dtype=int)
    return np.array(canvas.buffer_rgba())[::-1][bottom:top, left:right]


# What a person without one kind of cones sees (Machado, Oliveira, Fernandes, IEEE Transactions on
# Visualization and Computer Graphics 2009): matrices of linear red, green and blue.
VISION = {
    "all cones": np.eye(3),
    "no L cones": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "no M cones": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "no S cones": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
CONES = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
OKLAB = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]


def oklab(colour, vision):
    """A colour on axes on which equal distances look equally different (Ottosson 2020)."""
    given = np.array(to_rgb(colour))
    linear = np.where(given <= 0.04045, given / 12.92, ((given + 0.055) / 1.055) ** 2.4)
    return OKLAB @ np.cbrt(CONES @ (vision @ linear).clip(0.0, 1.0))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("number", [2, 5, 8])
def test_of_up_to_eight_targets_no_two_have_nearly_one_colour(number, vision):
    colours = target_colours([f"t{each}" for each in range(number)]).values()
    seen = [oklab(each, np.array(VISION[vision])) for each in colours]
    nearest = min(np.linalg.norm(one - other) for one, other in combinations(seen, 2))

    assert nearest > 0.09


def test_in_grey_two_targets_of_a_figure_differ_in_line_and_marker():
    styles = Styles.of([f"t{each}" for each in range(8)])
    kinds = {(styles.line(f"t{k}")["linestyle"], styles.point(f"t{k}")["marker"]) for k in range(8)}

    assert len(kinds) == 8


def test_a_line_of_every_colour_stands_out_from_white():
    for number in (3, 8, 10, 40):
        colours = target_colours([f"t{each}" for each in range(number)]).values()
        assert min(1.05 / (sns.utils.relative_luminance(each) + 0.05) for each in colours) >= 3
        assert len(set(colours)) == number

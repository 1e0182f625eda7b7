"""The figures of 03 show what the tables hold: every target and every end."""

import numpy as np
import pandas as pd
import pytest

from spotlib.analyze.figures import Styles, comparison_figure, phases_figure
from spotlib.forecast.figures import forecast_figure
from spotlib.forecast.forecast import Forecast
from spotlib.model import Target

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
    return pd.DataFrame(ratios, columns=names).assign(
        first=A, second=B, p_holm=p_holm, difference=difference, **ends
    )


def test_an_interval_without_an_end_leaves_by_an_arrow_on_its_side():
    pairs = pairs_of((0.5, np.nan, 0.9), (2.0, 1.1, np.inf), (1.0, 0.9, 1.1))
    ratios, _ = comparison_figure(pairs, STYLES, simulated=True).axes

    assert len(markers(ratios, "<")) == len(markers(ratios, ">")) == 1
    assert len(ratios.get_yticks()) == 3


def test_a_pair_without_a_ratio_is_drawn_by_its_difference_of_shares():
    pairs = pairs_of((np.nan, np.nan, np.nan), (2.0, 1.1, 4.0), difference=[0.4, 0.1])
    ratios, differences = comparison_figure(pairs, STYLES, simulated=True).axes
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
    ("ratios", "ticks"), [([0.8, 1.3], [0.8, 1.0, 1.2]), ([0.02, 30.0], [0.02, 0.5, 20.0])]
)
def test_a_ratio_axis_has_ticks_within_a_decade_and_beyond(ratios, ticks):
    pairs = pairs_of(*[(ratio, ratio / 1.1, ratio * 1.1) for ratio in ratios])
    ax, _ = comparison_figure(pairs, STYLES, simulated=True).axes
    low, high = ax.get_xlim()
    shown = [tick for tick in ax.get_xticks() if low <= tick <= high]

    assert 4 <= len(shown) <= 12
    assert all(np.isclose(shown, tick).any() for tick in ticks)

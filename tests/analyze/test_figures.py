"""The figures of 03 show what the tables hold: every target, every end, nothing out of sight."""

import numpy as np
import pandas as pd
import pytest

from spotlib.analyze.figures import Looks, comparison_figure, phases_figure
from spotlib.analyze.sentences import flatter_words
from spotlib.forecast.figures import forecast_figure
from spotlib.forecast.forecast import Forecast
from spotlib.model import Target

A, B = "t3.nano in sa-east-1", "t3.small in sa-east-1"
LOOKS = Looks.of([A, B])


def markers(ax, marker):
    return [line for line in ax.lines if line.get_marker() == marker]


def phases(*rows):
    names = ["target", "phase", "median_s", "low_s", "high_s"]
    return pd.DataFrame(rows, columns=names)


def test_a_phase_whose_quickest_would_vanish_is_on_a_logarithmic_scale():
    wide = phases(
        (A, "request to fulfilled", 2.0, 1.5, 3.0), (B, "request to fulfilled", 300.0, 2.0, np.inf)
    )
    near = phases((A, "request to fulfilled", 200.0, 150.0, 210.0))
    [wide_ax] = phases_figure(wide, LOOKS, simulated=True).axes
    [near_ax] = phases_figure(near, LOOKS, simulated=True).axes

    assert (wide_ax.get_xscale(), near_ax.get_xscale()) == ("log", "linear")
    assert near_ax.get_xlim()[0] == 0
    assert wide_ax.get_xlim()[0] < 1.5
    assert len(markers(wide_ax, ">")) == 1


def test_a_phase_that_nobody_ended_is_an_empty_panel_and_no_error():
    [ax] = phases_figure(
        phases((A, "request to fulfilled", np.nan, np.nan, np.inf)), LOOKS, simulated=True
    ).axes

    assert len(markers(ax, ">")) == 1


def test_an_interval_without_an_end_leaves_by_an_arrow_on_its_side():
    pairs = pd.DataFrame(
        [
            {"ratio": 0.5, "ratio_low": 0.0, "ratio_high": 0.9, "p_holm": 0.01},
            {"ratio": 2.0, "ratio_low": 1.1, "ratio_high": np.inf, "p_holm": 0.5},
            {"ratio": np.nan, "ratio_low": 0.0, "ratio_high": 0.9, "p_holm": 0.01},
        ]
    ).assign(first=A, second=B)
    [ax] = comparison_figure(pairs, simulated=True).axes

    assert len(markers(ax, "<")) == len(markers(ax, ">")) == 1
    assert len(ax.get_yticks()) == 2


@pytest.mark.parametrize("targets", [1, 5])
def test_each_forecast_has_a_panel_with_its_band_and_its_own_colour(targets):
    names = [Target(f"t{i}.nano", "sa-east-1") for i in range(targets)]
    looks = Looks.of(map(str, names))
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    times_s = np.array([100.0, 200.0])
    figure = forecast_figure(
        [Forecast(each, 2, times_s, chances, "target", 9, True, True) for each in names],
        looks,
        simulated=True,
    )
    shown = [ax for ax in figure.axes if ax.get_visible()]

    assert [ax.get_title(loc="left") for ax in shown] == list(map(str, names))
    for ax, name in zip(shown, names, strict=True):
        assert ax.lines[0].get_color() == looks.colours[str(name)]
        assert ax.lines[0].get_ydata().tolist() == pytest.approx([0.0, 0.7, 1.6])
        assert len(ax.collections) == 1


@pytest.mark.parametrize(
    ("times", "words"),
    [([1.0, 3.5, 3.7, 7.6], "WARNING: .* 3.7 times .* 7.6 times"), ([1, 1, 1, 1.2], "hardly")],
)
def test_the_row_split_is_warned_of_where_it_flatters(times, words):
    splits = pd.DataFrame({"split": ["row", "run", "time", "target"], "times_the_row_split": times})

    assert pd.Series([flatter_words(splits)]).str.contains(words).all()

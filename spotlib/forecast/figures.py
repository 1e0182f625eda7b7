"""The figure of a forecast; it draws a forecast and computes none."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spotlib.analyze.figures import Styles, panel_grid
from spotlib.figures import drawing
from spotlib.forecast.forecast import Forecast


@drawing
def forecast_figure(forecasts: Sequence[Forecast], styles: Styles, *, simulated: bool) -> Figure:
    """The expected ready count over time and its band of at least 90 %, by target."""
    shown = {str(each.target): each for each in forecasts}
    last_s = max(float(each.times_s[-1]) for each in forecasts)
    figure, axes = panel_grid(list(shown), styles, simulated=simulated)
    for (target, each), ax in zip(shown.items(), axes, strict=False):
        times_s = np.concatenate([[0.0], each.times_s])
        low, high = (np.concatenate([[0], limit]) for limit in each.band)
        colour = styles.colours[target]
        ax.fill_between(times_s, low, high, step="post", color=colour, alpha=0.3, linewidth=0)
        ax.plot(times_s, np.concatenate([[0.0], each.expected]), linewidth=2.5, color=colour)
        styles.time_axis(ax, last_s)
        ax.set_ylim(-0.03 * each.n, 1.05 * each.n)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    when = "seconds since the request was sent (line: expected, shade: at least 90 %)"
    figure.supxlabel(when, fontsize="medium")
    figure.supylabel("ready, instances", fontsize="medium")
    return figure

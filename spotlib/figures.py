"""What every figure and page shares: theme, marks, banner, target names and colours.

Figures are made without pyplot, so nothing global is left behind, and they are drawn from tables
alone.  A figure of simulated data says so at its top and behind its curves.  No figure is drawn
here: each room has its own.

Names and messages of EC2, of a log or of an archive are shown as text: they make no HTML, no link
and no formula, neither on a page nor in a figure.
"""

import html
import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from IPython.display import Image
from matplotlib.figure import Figure

from spotlib.addresses import is_foreign

if TYPE_CHECKING:  # slow to import
    from pandas.io.formats.style import Styler

SIMULATED: Final = "SIMULATED (sandbox)"
NOT_AWS: Final = "NOT AWS"  # but another program that answers for EC2
THEME: Final = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("notebook"),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.facecolor": "none",  # or a panel would hide what is written behind it
}
# Told apart with any colour vision: each two differ by 0.1 or more in Oklab, also as a person
# without one kind of cones sees them.
_COLOURS: Final = (
    *("#2c33d7", "#b9832c", "#328173", "#ba0d01"),
    *("#6a87f0", "#eb37b0", "#423449", "#8c0888"),
)
_LEAST_CONTRAST: Final = 3.0
_NO_FORMULAS: Final = "tex2jax_ignore mathjax_ignore"  # else MathJax makes a link of $\\href{...}$
_BANNERS: Final = {  # background and text colour
    "simulated": ("#e8f0fe", "#1a4fa0"),
    "real": ("#e6f4ea", "#1e6b34"),
    "costs money": ("#fdecea", "#a61b1b"),
    "unknown": ("#fff4e0", "#8a5a00"),
}

Colours = dict[str, tuple[float, float, float]]
_Given = ParamSpec("_Given")
_Drawn = TypeVar("_Drawn")


def drawing(draw: Callable[_Given, _Drawn]) -> Callable[_Given, _Drawn]:
    """Decorate what draws: our theme for all of it, and a name with a $ is no formula.

    The first line of its docstring says what a figure shows, for those who cannot see it.
    """

    @wraps(draw)
    def drawn(*args: _Given.args, **given: _Given.kwargs) -> _Drawn:
        with mpl.rc_context(THEME | {"text.parse_math": False}):
            figure = draw(*args, **given)
        if isinstance(figure, Figure):
            figure.set_label((draw.__doc__ or "").partition("\n")[0])
        return figure

    return drawn


def target_names(table: pd.DataFrame) -> "pd.Series[str]":
    """Name the target of each row: ``t3.nano in sa-east-1``, or ``in`` the zone id asked for.

    ``table`` needs instance_type and region; availability_zone_id may be missing or empty.  This
    is the same name as ``str(Target(...))``.
    """
    place = table["region"].astype(object)  # texts may be categories
    if "availability_zone_id" in table:
        place = table["availability_zone_id"].astype(object).fillna(place)
    return (table["instance_type"].astype(object) + " in " + place).astype("str")


def target_colours(names: Iterable[str]) -> Colours:
    """Return one colour per target, the same in every figure of the same targets.

    Of up to 8 targets no two have nearly one colour.
    """
    ordered = sorted(set(names))
    kind = list(_COLOURS) if len(ordered) <= len(_COLOURS) else "husl"
    palette = sns.color_palette(kind, len(ordered))
    return dict(zip(ordered, map(_readable, palette), strict=True))


def _readable(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """Darken a colour until a line of it stands out from white (a contrast of 3, WCAG 1.4.11)."""
    red, green, blue = colour
    while 1.05 / (sns.utils.relative_luminance((red, green, blue)) + 0.05) < _LEAST_CONTRAST:
        red, green, blue = 0.95 * red, 0.95 * green, 0.95 * blue
    return red, green, blue


def new_figure(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    simulated: bool,
    grid: bool = True,
    **subplots: Any,
) -> tuple[Figure, Any]:
    """Return a figure of ``rows`` x ``columns`` panels in our theme, and the array of its axes.

    ``size`` is in inches.  Further keywords go to matplotlib's ``Figure.subplots``.
    """
    figure = Figure(figsize=size, layout="constrained")
    with mpl.rc_context(THEME | {"axes.grid": grid}):
        axes = figure.subplots(rows, columns, squeeze=False, **subplots)
    if simulated:
        mark_simulated(figure)
        figure.suptitle(SIMULATED, x=0.01, ha="left", fontsize="medium", color="#1a4fa0")
    return figure, axes


def foreign_mark(table: pd.DataFrame) -> str:
    """Return the mark for launches or polls of a foreign endpoint; "" for all others."""
    real = table[~table["simulated"].fillna(False).astype(bool)]
    return NOT_AWS if real["endpoint"].astype(str).map(is_foreign).any() else ""


def mark_simulated(figure: Figure) -> None:
    """Write SIMULATED across a figure."""
    mark_figure(figure, SIMULATED)


def mark_figure(figure: Figure, words: str) -> None:
    """Write across a figure, behind all that is drawn, what its data are."""
    figure.text(
        *(0.5, 0.5, words),
        fontsize=34,
        color="0.93",
        zorder=-1,
        ha="center",
        va="center",
        rotation=20,
    )


@drawing
def save(figure: Figure, path: str | Path, *, mark: str = "") -> Path:
    """Save a figure as PNG and SVG beside each other; return the PNG's path.

    ``mark`` is written across it: see ``foreign_mark``.
    """
    if mark:
        mark_figure(figure, mark)
    png = Path(path).with_suffix(".png")
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=150)
    figure.savefig(png.with_suffix(".svg"))
    return png


def picture(figure: Figure, path: str | Path, *, mark: str = "", width: int = 900) -> Image:
    """Save a figure, and return its picture for a page, with what it shows in words."""
    title = ", ".join(each.strip() for each in re.split(r"\s{2,}", figure.get_suptitle()))
    alt = ": ".join(str(each) for each in (mark, title, figure.get_label()) if each)
    return Image(save(figure, path, mark=mark), width=width, alt=alt)


def save_table(table: Any, path: str | Path) -> Any:
    """Write a DataFrame or a Styler of one as CSV, with the numbers that it shows; return it."""
    frame = table if isinstance(table, pd.DataFrame) else table.data
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Eight digits: estimates are found to about 1e-8, and what follows is noise.
    frame.to_csv(path, index=frame.index.names != [None], float_format="%.8g")
    return table


def banner_html(text: str, kind: Literal["simulated", "real", "costs money", "unknown"]) -> str:
    """Return one conspicuous line of HTML that says where data come from, or go to."""
    ground, ink = _BANNERS[kind]
    style = f"background:{ground};color:{ink};padding:.6em 1em;font-weight:bold;border-radius:4px"
    return f'<div class="{_NO_FORMULAS}" style="{style}">{html.escape(text)}</div>'


def words_html(*sentences: str) -> str:
    """Return sentences as HTML, one paragraph each."""
    lines = "".join(f'<p style="margin:.3em 0">{html.escape(each)}</p>' for each in sentences)
    return f'<div class="{_NO_FORMULAS}">{lines}</div>'


def bar_html(share: float, text: str, *, simulated: bool = False) -> str:
    """Return a progress bar as HTML: ``share`` of it is full, and a text stands beside it."""
    bar = f'<progress value="{share:.3f}" max="1" style="width:40%"></progress>'
    mark = f"<b>{SIMULATED}</b> " if simulated else ""
    return f'<span class="{_NO_FORMULAS}">{bar} {mark}{html.escape(text)}</span>'


def table_html(table: pd.DataFrame, caption: str | None = None, *, digits: int = 6) -> "Styler":
    """Return a table without its index, as a notebook displays it; - is unknown."""
    shown = table.style.hide(axis="index").set_table_attributes(f'class="{_NO_FORMULAS}"')
    shown = shown.format(escape="html", na_rep="-").format_index(escape="html", axis="columns")
    numbers = table.select_dtypes("float")
    for name in numbers:
        whole = (numbers[name].dropna() % 1 == 0).all()
        shown = shown.format(subset=[name], precision=0 if whole else digits, na_rep="-")
    left = "text-align:left"
    texts = table.select_dtypes(exclude="number").columns
    shown = shown.set_table_styles([{"selector": "caption", "props": left}])
    for name in texts:
        props = left + ";white-space:nowrap" * (name == "target")
        shown = shown.set_table_styles({name: [{"selector": "", "props": props}]}, overwrite=False)
    return shown if caption is None else shown.set_caption(html.escape(caption))


def show_formulas_as_text() -> None:
    """Keep MathJax out of the tables that a notebook displays; pandas escapes their HTML itself."""
    pd.set_option("display.html.use_mathjax", False)

"""What a notebook shows, as a page would show it, without starting a kernel."""

import json
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import IPython.display
import matplotlib as mpl
import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure

FORMULA = r"$\href{javascript:alert(1)}{x}$"  # MathJax makes a link of it, matplotlib an error
EVIL = f"<script>alert(1)</script><img src=x onerror=alert(1)>[x](javascript:alert(1)){FORMULA}"


class _Page(HTMLParser):
    """Collects the tags of HTML, and its text that a page would search for formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.typeset = ""
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if self._skipped or "tex2jax_ignore" in (dict(attrs).get("class") or ""):
            self._skipped += tag not in ("img", "br")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._skipped -= self._skipped > 0

    def handle_data(self, data: str) -> None:
        self.typeset += "" if self._skipped else data


def require_text(shown: Mapping[str, Any]) -> None:
    """Fail if what is shown holds a tag that we do not write, a formula, or Markdown."""
    assert not set(shown) & {"text/markdown", "text/latex", "application/javascript"}
    page = _Page()
    page.feed(shown.get("text/html", ""))
    ours = {"div", "span", "b", "progress", "style", "caption", "p"}
    assert set(page.tags) <= ours | {"table", "thead", "tbody", "tr", "th", "td"}, page.tags
    assert "href" not in page.typeset


def formats_of(value: object) -> dict[str, Any]:
    """Return the formats in which Jupyter displays a value."""
    return DisplayFormatter().format(value)[0]


def lay_out(figure: Figure, path: Path, **_: Any) -> None:
    """Write an empty picture, but find the errors that drawing it would raise."""
    figure.draw_without_rendering()
    Figure(figsize=(0.1, 0.1)).canvas.print_figure(path)


def shown_by(notebook: Path, *, drawn: bool = True, **parameters: Any) -> Iterator[dict[str, Any]]:
    """Run a notebook's cells here, and return what it displays, of pictures with their ``alt``.

    Where nobody looks at the figures they need not be ``drawn``, only laid out.
    """
    shown: list[dict[str, Any]] = []

    def display(*values: Any, raw: bool = False, **_: Any) -> None:
        for each in values:
            data, about = (each, {}) if raw else DisplayFormatter().format(each)
            alt = about.get("image/png", {}).get("alt")
            shown.append(data | {"alt": alt} if "image/png" in data else data)

    namespace: dict[str, Any] = {}
    options = ("display.html.use_mathjax", True, "display.max_colwidth", 50)  # restored after it
    with pytest.MonkeyPatch.context() as patch, pd.option_context(*options), mpl.rc_context():
        patch.setattr(IPython.display, "display", display)
        if not drawn:
            patch.setattr(Figure, "savefig", lay_out)
        for cell in json.loads(notebook.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), namespace)
                if "parameters" in cell["metadata"].get("tags", ()):
                    namespace |= parameters
    return iter(shown)

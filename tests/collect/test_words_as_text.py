"""What EC2 and its endpoint say is shown by 02 as text: no HTML, no link, no formula."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import NANO, QUICK, plan_for, scripted
from pages import EVIL, formats_of, require_text

from spotlib.collect import live, report
from spotlib.collect.batch import Progress
from spotlib.collect.rounds import collect_batch
from spotlib.figures import show_formulas_as_text
from spotlib.record.tables import load_launches


@pytest.fixture
def _text_only():
    """As the notebooks do before they display a table."""
    with pd.option_context("display.html.use_mathjax", True, "display.max_colwidth", None):
        show_formulas_as_text()
        yield


@pytest.mark.usefixtures("_text_only")
def test_the_plan_and_the_outcomes_show_words_as_text(in_process, log):
    connection = in_process(scripted(QUICK))
    checked = plan_for(connection, NANO, n=1)
    collect_batch(connection, checked, log=log, seed=1)
    prepared = tuple(replace(each, image_name=EVIL) for each in checked.prepared)
    launches = load_launches(log).assign(status_code=EVIL)

    for table in (
        report.plan_table(replace(checked, prepared=prepared), EVIL),
        report.outcome_table(launches),
    ):
        shown = formats_of(table)
        require_text(shown)
        assert "alert(1)" in shown["text/html"]


def test_the_banner_shows_an_endpoint_as_text(in_process):
    connection = in_process(scripted())
    for changes in ({"endpoint": EVIL, "world": None}, {"market": EVIL}):
        shown = report.banner(replace(connection, **changes))
        require_text({"text/html": shown})
        assert "alert(1)" in shown


def test_the_live_view_shows_its_words_as_text(log, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, **_):
            shown.append(data)

    monkeypatch.setattr(live, "display", lambda *_, **__: Handle())
    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(live.LiveView, "_draw", lambda *_: None)
    view = live.LiveView(log, simulated=True)
    view(Progress(0, 1, 3.0, 60.0, 1, 2))
    view.finish(EVIL)

    assert len(shown) == 3
    for each in shown:
        require_text(each)
    assert "alert(1)" in shown[1]["text/html"]

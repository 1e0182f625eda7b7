"""What a cell of 02 is given to display while a batch runs, and when it is drawn anew."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from IPython.display import Image
from matplotlib.figure import Figure

from spotlib.collect import live
from spotlib.collect.batch import Progress, Waiting


class Handle:
    """Keeps what is displayed."""

    def __init__(self, shown):
        self._shown = shown

    def update(self, data, *, raw, metadata=None):
        assert raw, "else IPython takes the page for text"
        self._shown.append((data, metadata))


@pytest.fixture
def shown(monkeypatch):
    """What is shown later in the places that a cell displayed; the bar's share as its page."""
    found = []

    def display(data, *, raw, display_id):
        assert raw, "else IPython takes the page for text"
        assert display_id, "else it could not be changed"
        assert set(data) == {"text/html"}
        return Handle(found)

    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(live, "display", display)
    monkeypatch.setattr(live, "bar_html", lambda share, *_, **__: share)
    for loads in {"load_polls", "load_launches"} & vars(live).keys():
        monkeypatch.setattr(live, loads, lambda logs: logs)
    return found


@pytest.mark.parametrize(
    ("takes_s", "step_s", "drawn_s"),
    [
        (2.0, 1.0, [0.0, 20.0, 40.0, 60.0]),  # nine times as long is left for the rest
        (0.0, 0.25, [0.0, 1.0, 2.0, 3.0]),  # a quick drawing is made once a second
        (0.0, 0.75, [0.0, 1.5, 3.0]),  # one that is overdue is made at the next poll
    ],
)
def test_drawing_takes_at_most_a_tenth_of_the_time_and_is_done_at_most_once_a_second(
    shown, monkeypatch, takes_s, step_s, drawn_s
):
    now_s, drawn = [0.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: now_s[0])

    def draw(logs):
        assert logs == [Path("b.jsonl")]
        drawn.append(now_s[0])
        now_s[0] += takes_s
        figure = Figure()
        figure.set_label("in words")
        return figure

    monkeypatch.setattr(live, "ready_counts_figure", draw)
    view = live.LiveView("b.jsonl", simulated=True)
    while now_s[0] <= drawn_s[-1]:
        view(Progress(0, 1, now_s[0], 600.0, 1, 4))
        now_s[0] += step_s

    assert drawn == drawn_s
    pictures = [(data, told) for data, told in shown if "image/png" in data]
    assert len(pictures) == len(drawn_s)
    for data, told in pictures:
        assert data["image/png"].startswith(b"\x89PNG")
        assert told == {"image/png": {"alt": "in words"}}


def test_what_is_waited_for_before_the_first_poll_has_an_empty_bar(shown):
    live.LiveView("b.jsonl", simulated=True).wait(Waiting("waiting", 3.0))

    [(data, _)] = shown
    assert data == {"text/html": 0.0, "text/plain": "waiting, about 3 s"}


def test_the_newest_batch_is_displayed_and_where_it_is_saved_is_said(tmp_path, monkeypatch, capsys):
    displayed, logs = [], tmp_path / "launches"
    logs.mkdir()
    for name in ("20260101T000000Z-a", "20260102T000000Z-b"):
        (logs / f"{name}.jsonl").write_text("")
    for loads in {"load_polls", "load_launches"} & vars(live).keys():
        monkeypatch.setattr(live, loads, lambda logs: logs)
    monkeypatch.setattr(live, "ending", lambda log: f"how {log.stem} ended")
    monkeypatch.setattr(live, "ready_counts_figure", lambda _: Figure())
    monkeypatch.setattr(live, "display", displayed.append)
    live.show_newest(tmp_path)

    saved = tmp_path / "figures" / "ready-counts-20260102T000000Z-b.png"
    assert capsys.readouterr().out.splitlines() == [
        *("how 20260102T000000Z-b ended", f"saved as {saved}")
    ]
    [picture] = displayed
    assert isinstance(picture, Image)
    assert picture.data == saved.read_bytes()

"""The figures show what the tables contain, in one panel or many, and mark simulated data."""

import pytest
from conftest import ARM, NANO, QUICK, plan_for, scripted

from spotlib.collect.batch import Progress
from spotlib.collect.live import LiveView, ready_counts_figure
from spotlib.collect.rounds import collect_batch
from spotlib.figures import SIMULATED, save, target_colours
from spotlib.record.tables import load_polls
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.world import Fate


@pytest.fixture
def polls_of(in_process, log):
    def polls(rounds=1):
        world = scripted(QUICK, Fate(held_s=None))
        connection = in_process(world)
        checked = plan_for(connection, NANO, ARM, n=2, timeout_s=60)
        collect_batch(connection, checked, log=log, seed=1, rounds=rounds, every_s=200.0)
        return load_polls(log)

    return polls


class Handle:
    """Keeps what is displayed."""

    def __init__(self, shown):
        self._shown = shown

    def update(self, data, **_):
        self._shown.append(data)


def words(figure):
    return [text.get_text() for text in figure.texts]


def lines(ax):
    return [line for line in ax.lines if len(line.get_xdata()) > 1]


def test_one_run_per_target_is_drawn_as_it_was_recorded(polls_of):
    polls = polls_of()
    figure = ready_counts_figure(polls)

    running, ready = figure.axes
    assert SIMULATED in words(figure)
    assert len(lines(ready)) == len(lines(running)) == 2
    for line in lines(ready):
        rows = polls[(polls["instance_type"] + " in " + polls["region"]) == line.get_label()]
        assert list(line.get_xdata()[1:]) == list(rows["answered_s"])
        assert list(line.get_ydata()[1:]) == list(rows["ready"])


def test_several_runs_have_a_panel_per_target_with_their_mean(polls_of):
    polls = polls_of(rounds=3)
    figure = ready_counts_figure(polls)

    panels = [ax for ax in figure.axes if ax.axison]
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in panels)
    assert [ax.get_title(loc="left") for ax in panels] == [
        "t3.nano in sa-east-1 (3 runs)",
        "t4g.medium in ap-northeast-3 (3 runs)",
    ]
    for ax, name in zip(panels, ("t3.nano", "t4g.medium"), strict=True):
        last = polls[polls["instance_type"] == name].groupby("round")["ready"].max().mean()
        [mean] = [line for line in lines(ax) if line.get_label() == "mean"]
        assert mean.get_ydata()[-1] == pytest.approx(float(last))
        assert ax.get_xlim()[1] > polls["answered_s"].max()


def test_a_batch_without_any_poll_is_an_empty_figure_and_no_error(polls_of):
    assert ready_counts_figure(polls_of().iloc[:0]).axes


@pytest.mark.parametrize("failing", [{"nth": 1}, {"to_s": 200.0}], ids=["the first", "all"])
def test_a_poll_that_fails_is_missed_and_the_live_view_waits_for_the_next(
    in_process, log, monkeypatch, failing
):
    monkeypatch.setattr("spotlib.collect.live.display", lambda *_, **__: Handle([]))
    world = scripted(QUICK, QUICK)
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=60)
    world.faults.append(Fault(kind="internal_error", action="DescribeInstances", **failing))
    view = LiveView(log, simulated=True)

    summary = collect_batch(connection, checked, log=log, seed=1, on_poll=view._draw)

    assert summary.outcomes == {"ready" if "nth" in failing else "timed_out": 2}
    assert summary.warnings == summary.problems == ()
    assert ready_counts_figure(load_polls(log)).axes


def test_a_last_drawing_that_fails_is_said_in_its_place(polls_of, log, monkeypatch):
    polls_of()
    shown = []
    monkeypatch.setattr("spotlib.collect.live.display", lambda *_, **__: Handle(shown))
    monkeypatch.setattr("spotlib.collect.live.load_polls", lambda _: 1 / 0)

    LiveView(log, simulated=True).finish("open requests 0")

    assert shown[-1]["text/html"].startswith("The figure could not be drawn: ZeroDivisionError")


def test_the_colour_of_a_target_does_not_depend_on_the_order_of_the_rows():
    names = ["b in x", "a in x", "c in y"]

    assert target_colours(names) == target_colours(reversed(names))
    assert len(set(target_colours(names).values())) == 3


def test_a_figure_is_saved_as_png_and_svg(polls_of, tmp_path):
    png = save(ready_counts_figure(polls_of()), tmp_path / "deep" / "figure.png")

    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in png.with_suffix(".svg").read_text()


def test_the_live_view_shows_the_progress_and_draws_seldom(polls_of, log, monkeypatch):
    polls_of()
    shown = []
    monkeypatch.setattr("spotlib.collect.live.display", lambda *_, **__: Handle(shown))
    view = LiveView(log, simulated=True)
    for second in range(5):
        view(Progress(0, 1, 3.0 * second, 60.0, 1, 4))
    view.finish("open requests 0")

    bars = [each["text/html"] for each in shown if "text/html" in each]
    assert len(shown) == 4  # two drawings, the first and the last, of a bar and a plot
    assert SIMULATED in bars[0]
    assert "1 of 4 ready" in bars[0]
    assert bars[-1].endswith("open requests 0</span>")
    assert all(each["image/png"].startswith(b"\x89PNG") for each in shown if "image/png" in each)

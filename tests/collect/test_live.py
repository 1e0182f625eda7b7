"""The figures show what the tables contain, in one panel or many, and mark simulated data."""

import os
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ARM, NANO, QUICK, plan_for, scripted
from matplotlib.figure import Figure

from spotlib.collect.batch import Progress, Waiting
from spotlib.collect.live import LiveView, ready_counts_figure, show_newest
from spotlib.collect.rounds import collect_batch
from spotlib.figures import SIMULATED, save, target_colours
from spotlib.record.tables import load_launches
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.world import Fate


@pytest.fixture
def launches_of(in_process, log):
    def launches(rounds=1):
        world = scripted(QUICK, Fate(held_s=None))
        connection = in_process(world)
        checked = plan_for(connection, NANO, ARM, n=2, timeout_s=60)
        collect_batch(connection, checked, log=log, seed=1, rounds=rounds, every_s=200.0)
        return load_launches(log)

    return launches


class Handle:
    """Keeps what is displayed."""

    def __init__(self, shown):
        self._shown = shown

    def update(self, data, *, raw, metadata=None):
        assert raw, "else IPython takes the page for text"
        assert ("image/png" in data) == (metadata is not None), "only a picture has a description"
        self._shown.append(data)


@pytest.fixture
def shown(monkeypatch):
    """What a notebook's cell was given to display."""
    found = []
    monkeypatch.setattr("spotlib.collect.live.get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr("spotlib.collect.live.display", lambda *_, **__: Handle(found))
    return found


def words(figure):
    return [text.get_text() for text in figure.texts]


def lines(ax):
    return [line for line in ax.lines if len(line.get_xdata()) > 1]


def test_one_run_per_target_is_drawn_as_it_was_recorded(launches_of):
    launches = launches_of()
    figure = ready_counts_figure(launches)

    running, ready = figure.axes
    assert SIMULATED in words(figure)
    assert len(lines(ready)) == len(lines(running)) == 2
    for line in lines(ready):
        here = launches["instance_type"] + " in " + launches["region"] == line.get_label()
        shown_s = launches.loc[here, "ready_by_s"].dropna()
        assert list(line.get_xdata()[1:-1]) == sorted(set(shown_s))
        assert line.get_ydata()[-1] == len(shown_s)
    assert ready.get_xlim() == (0, pytest.approx(1.03 * launches["watched_s"].max()))
    assert ready.get_ylim()[0] < 0 < launches["n"].max() < ready.get_ylim()[1]


def test_several_runs_have_a_panel_per_target_with_their_mean(launches_of):
    launches = launches_of(rounds=3)
    figure = ready_counts_figure(launches)

    _, *panels = [ax for ax in figure.axes if ax.axison]
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in panels)
    assert [ax.get_title(loc="left") for ax in panels] == [
        "t3.nano in sa-east-1 (3 runs)",
        "t4g.medium in ap-northeast-3 (3 runs)",
    ]
    for ax, name in zip(panels, ("t3.nano", "t4g.medium"), strict=True):
        mine = launches[launches["instance_type"] == name]
        last = mine.groupby("round")["ready_by_s"].count().mean()
        [mean] = [line for line in lines(ax) if line.get_label() == "mean"]
        assert mean.get_ydata()[-1] == pytest.approx(float(last))
        assert ax.get_xlim()[1] > launches["watched_s"].max()


def test_a_third_panel_beside_two_makes_the_figure_wider(launches_of):
    two = launches_of(rounds=2)
    other = two[two["plan"] == 0].assign(
        instance_type="t3.micro", plan=2, request_id=lambda rows: rows["request_id"] + "x"
    )
    three = pd.concat([two, other], ignore_index=True)
    narrow, wide = (ready_counts_figure(each).get_figwidth() for each in (two, three))

    assert wide > 1.1 * narrow


def test_several_rounds_are_a_strip_of_what_was_ready_at_the_end_of_each(launches_of):
    launches = launches_of(rounds=3)
    launches = launches[(launches["round"] != 1) | (launches["instance_type"] != "t3.nano")]
    strip, *_ = ready_counts_figure(launches).axes

    ends = launches.groupby(["instance_type", "round"])["ready_by_s"].count()
    assert strip.get_yticklabels()[0].get_text() == "t3.nano in sa-east-1"
    assert [text.get_text() for text in strip.get_xticklabels()] == ["1", "2", "3"]
    assert [text.get_text() for text in strip.texts if text.get_text()] == [
        str(count) for count in ends
    ]
    assert strip.collections[0].get_array().mask.ravel().tolist() == [False, True, *[False] * 4]


def test_a_batch_without_any_poll_is_an_empty_figure_and_no_error(launches_of):
    assert ready_counts_figure(launches_of().iloc[:0]).axes


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("failing", [{"nth": 1}, {"to_s": 200.0}], ids=["the first", "all"])
def test_a_poll_that_fails_is_missed_and_the_live_view_waits_for_the_next(in_process, log, failing):
    world = scripted(QUICK, QUICK)
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=30)
    world.faults.append(Fault(kind="internal_error", action="DescribeInstances", **failing))
    view = LiveView(log, simulated=True)

    summary = collect_batch(
        connection,
        checked,
        log=log,
        seed=1,
        on_poll=lambda progress: (view(progress), view._draw(view._plot)),
    )

    assert summary.outcomes == {"ready" if "nth" in failing else "timed_out": 2}
    assert summary.warnings == summary.problems == ()
    assert ready_counts_figure(load_launches(log)).axes


def test_a_figure_that_cannot_be_drawn_is_said_and_ends_nothing(
    launches_of, log, monkeypatch, capsys
):
    launches_of()
    monkeypatch.setattr("spotlib.collect.live.load_launches", lambda _: 1 / 0)

    show_newest(log.parents[1])

    assert "ended by itself" in capsys.readouterr().out.splitlines()[0]
    show_newest(log.parents[1])
    assert "could not be drawn: ZeroDivisionError" in capsys.readouterr().out


def test_the_newest_batch_is_shown_from_its_log_alone(launches_of, log, tmp_path, capsys):
    launches_of()
    log.with_name("20230101T000000Z-abcdef.jsonl").write_text("older")

    show_newest(tmp_path)

    said = capsys.readouterr().out
    assert "ended by itself.\nIt cancelled 4 requests and terminated 3" in said
    assert (tmp_path / "figures" / f"ready-counts-{log.stem}.png").exists()


def test_a_folder_without_a_batch_says_so(tmp_path, capsys):
    show_newest(tmp_path)

    assert "no batch is recorded" in capsys.readouterr().out


def test_the_colour_of_a_target_does_not_depend_on_the_order_of_the_rows():
    names = ["b in x", "a in x", "c in y"]

    assert target_colours(names) == target_colours(reversed(names))
    assert len(set(target_colours(names).values())) == 3


def test_a_figure_is_saved_as_png_and_svg(launches_of, tmp_path):
    png = save(ready_counts_figure(launches_of()), tmp_path / "deep" / "figure.png")

    assert png.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in png.with_suffix(".svg").read_text()


def test_the_text_changes_at_every_poll_and_the_figure_seldom(launches_of, log, shown):
    launches_of()
    view = LiveView(log, simulated=True)
    for second in range(5):
        view(Progress(0, 1, 3.0 * second, 60.0, 1, 4))
    view.wait(Waiting("making sure that nothing is left", 12.3))
    view.wait(Waiting("making sure that nothing is left", 12.2))  # the same words
    view.finish("open requests 0")

    texts = [each["text/plain"] for each in shown if "text/plain" in each]
    pictures = [each["image/png"] for each in shown if "image/png" in each]
    assert texts == [
        *(
            f"round 1 of 1: 1 of 4 ready, {3 * second} s after the first request (each is watched "
            "for at most 60 s)"
            for second in range(5)
        ),
        "making sure that nothing is left, about 13 s",
        "open requests 0",
    ]
    assert SIMULATED in shown[0]["text/html"]
    assert len(pictures) == 1
    assert pictures[0].startswith(b"\x89PNG")
    assert shown[-1] == {"text/html": ""}, "the figure is drawn once, from the log"


def test_drawing_takes_at_most_a_tenth_of_the_time(launches_of, log, shown, monkeypatch):
    launches_of()
    now_s = [0.0]
    figure = Figure()
    monkeypatch.setattr("spotlib.collect.live.time.monotonic", lambda: now_s[0])

    def slow(_):
        now_s[0] += 2.0
        return figure

    monkeypatch.setattr("spotlib.collect.live.ready_counts_figure", slow)
    view = LiveView(log, simulated=True)
    for _ in range(200):
        view(Progress(0, 1, now_s[0], 600.0, 1, 4))
        now_s[0] += 1.0

    drawings = sum("image/png" in each for each in shown)
    assert 0.08 < 2.0 * drawings / now_s[0] <= 0.11


def test_a_quick_drawing_is_made_once_a_second(launches_of, log, shown, monkeypatch):
    launches_of()
    now_s = [0.0]
    monkeypatch.setattr("spotlib.collect.live.time.monotonic", lambda: now_s[0])
    monkeypatch.setattr("spotlib.collect.live.ready_counts_figure", lambda _: Figure())
    view = LiveView(log, simulated=True)
    for _ in range(12):
        view(Progress(0, 1, now_s[0], 600.0, 1, 4))
        now_s[0] += 0.25

    assert sum("image/png" in each for each in shown) == 3


def test_a_terminal_shows_the_text_alone_in_one_line(log, capfd, monkeypatch):
    monkeypatch.setattr("os.isatty", lambda _: True)
    monkeypatch.setattr("os.get_terminal_size", lambda _: os.terminal_size((30, 10)))
    view = LiveView(log, simulated=True)
    view(Progress(0, 1, 3.0, 60.0, 1, 4))
    view.finish("open requests 0")

    lines = capfd.readouterr().err.split("\r\x1b[K")
    assert lines == ["", "round 1 of 1: 1 of 4 ready, 3", "open requests 0", "open requests 0\n"]

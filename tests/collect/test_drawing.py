"""What 02 draws is what was polled, point by point: hand-made polls of few runs."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.text import Text

from spotlib.collect import live
from spotlib.collect.batch import Progress, Waiting
from spotlib.collect.live import LiveView, ready_counts_figure
from spotlib.figures import NOT_AWS

NAMES = ("t3.nano in sa-east-1", "t3.micro in sa-east-1")


def launches_of(*runs, n=4, wanted="ready", usable=None, fate="timed_out"):
    """One row for each request; a run is (type, round, [(asked_s, answered_s, running, ready)]).

    ``fate`` is the outcome of what was never at the stage that is waited for.
    """
    rows = []
    for name, number, polled in runs:
        for each in range(n):
            row = {
                "simulated": True,
                "endpoint": "sandbox",
                "batch_id": "b",
                "round": number,
                "instance_type": name,
                "region": "sa-east-1",
                "availability_zone_id": None,
                "method": "request_spot_instances",
                "purchase": "spot",
                "wanted": wanted,
                "n": n,
                "timeout_s": 12.0,
                "watched_s": polled[-1][0] if polled else 0.0,
                "usable_watched_s": usable,
                "kind": "capacity" if fate == "refused" else None,
            }
            for column, stage in ((2, "running"), (3, "ready"), (3, "granted"), (3, "usable")):
                shown = [poll for poll, seen in enumerate(polled) if seen[column] > each]
                shown = shown if stage != "usable" or usable is not None else []
                row[f"{stage}_after_s"] = polled[shown[0] - 1][0] if shown and shown[0] else 0.0
                row[f"{stage}_by_s"] = polled[shown[0]][1] if shown else np.nan
            rows.append(row | {"outcome": wanted if row[f"{wanted}_by_s"] > 0 else fate})
    return pd.DataFrame(rows).sample(frac=1.0, random_state=1)  # in any order


FIRST = ("t3.nano", 0, [(1.0, 1.5, 0, 0), (4.0, 4.5, 2, 0), (7.0, 7.5, 3, 1), (10.0, 10.5, 3, 3)])
OTHER = ("t3.micro", 0, [(2.0, 2.5, 1, 0), (5.0, 5.5, 4, 4)])
AGAIN = ("t3.nano", 1, [(3.0, 3.5, 4, 0), (6.0, 6.5, 4, 2)])


def steps(ax):
    """The lines of more than one point, as (label, x, y)."""
    found = [each for each in ax.lines if len(each.get_xdata()) > 1]
    return [(each.get_label(), [*each.get_xdata()], [*each.get_ydata()]) for each in found]


def dots(ax):
    points = [each.get_xydata() for each in ax.lines]
    return sorted(tuple(each[0]) for each in points if len(each) == 1)


def shades(ax):
    """The corners of each shade: from, to, low, high."""
    found = []
    for each in ax.collections:
        corners = each.get_paths()[0].vertices
        found.append((*np.ptp(corners, axis=0), *corners.min(axis=0)))
    return sorted((after, after + width, low, low + height) for width, height, after, low in found)


def test_a_step_goes_up_at_the_answer_and_its_shade_reaches_back_to_the_poll_before():
    running, ready = ready_counts_figure(launches_of(FIRST, OTHER)).axes

    nano, micro = NAMES
    assert sorted(steps(ready)) == [
        (micro, [0.0, 5.5, 5.5], [0, 4, 4]),
        (nano, [0.0, 7.5, 10.5, 10.5], [0, 1, 3, 3]),
    ]
    assert (running.get_xlabel(), ready.get_xlabel()) == ("", "seconds since the request was sent")
    numbered = [ax.xaxis.get_tick_params()["labelbottom"] for ax in (running, ready)]
    assert numbered == [False, True]
    assert {name: y for name, _, y in steps(running)} == {
        nano: [0, 2, 3, 3],
        micro: [0, 1, 4, 4],
    }
    assert dots(ready) == [(5.5, 4), (10.5, 3)]
    assert shades(ready) == [(2.0, 5.5, 0, 4), (4.0, 7.5, 0, 1), (7.0, 10.5, 1, 3)]
    assert shades(running) == [
        *((0.0, 2.5, 0, 1), (1.0, 4.5, 0, 2), (2.0, 5.5, 1, 4), (4.0, 7.5, 2, 3))
    ]
    for ax in (running, ready):
        assert ax.get_xlim()[0] == 0
        assert 10.5 < ax.get_xlim()[1] < 11.5
        assert -0.5 < ax.get_ylim()[0] < 0
        assert 4 < ax.get_ylim()[1] < 5
        assert all(float(tick).is_integer() for tick in ax.get_yticks())


def test_runs_that_wait_for_different_stages_are_drawn_up_to_what_each_waited_for():
    """Nobody watched whether t3.micro was ready, so it has no count of the ready ones, not 0."""
    near = launches_of(OTHER, wanted="running")
    launches = pd.concat([near, launches_of(FIRST)], ignore_index=True)

    running, ready = ready_counts_figure(launches).axes
    assert {label for label, *_ in steps(running)} == {*NAMES}
    assert {label for label, *_ in steps(ready)} == {NAMES[0]}
    again = launches_of(AGAIN)
    strip, *panels = ready_counts_figure(pd.concat([launches, again], ignore_index=True)).axes
    assert panels
    figure = strip.get_figure(root=True)
    assert any(each.get_text() == "running, instances" for each in figure.findobj(Text))


def test_of_several_rounds_the_last_stage_is_drawn_that_was_recorded_of_every_run():
    """Nobody read the guest of t3.nano: its count of usable ones is not known, and not 0."""
    nano = [launches_of(each) for each in (FIRST, AGAIN)]
    micro = launches_of(OTHER, wanted="usable", usable=9.0)

    strip, *_ = ready_counts_figure(pd.concat([*nano, micro], ignore_index=True)).axes

    assert strip.get_title(loc="left").startswith("running at the end of each round")


@pytest.mark.parametrize(
    ("wanted", "usable", "drawn"),
    [
        ("ready", None, ["running", "ready"]),
        ("ready", 0, ["running", "usable", "ready"]),
        ("usable", 0, ["running", "usable"]),
        ("running", None, ["running"]),
        ("granted", None, ["granted"]),
    ],
)
def test_what_is_drawn_follows_the_stage_that_is_waited_for(wanted, usable, drawn):
    figure = ready_counts_figure(launches_of(FIRST, OTHER, wanted=wanted, usable=usable))

    assert [ax.get_ylabel() for ax in figure.axes] == [f"{each}, instances" for each in drawn]
    assert 2 < figure.get_figheight() / len(drawn) < 3  # inches for each panel


@pytest.mark.parametrize(("length", "columns"), [(35, 3), (36, 2)])
def test_long_names_stand_two_in_a_row(length, columns):
    names = [f"{letter}{'x' * (length - 1 - len(' in sa-east-1'))}" for letter in "abc"]
    runs = [(name, 0, OTHER[2]) for name in names]
    [legend] = ready_counts_figure(launches_of(*runs)).legends

    assert len(legend.get_texts()[0].get_text()) == length
    assert legend._ncols == columns


def test_several_rounds_have_thin_runs_and_a_thick_mean_that_keeps_the_count_of_what_ended():
    figure = ready_counts_figure(launches_of(FIRST, OTHER, AGAIN))
    strip, *panels = [ax for ax in figure.axes if ax.axison]

    by_title = {ax.get_title(loc="left"): ax for ax in panels}
    assert [*by_title] == [f"{NAMES[1]} (1 run)", f"{NAMES[0]} (2 runs)"]
    nano = by_title[f"{NAMES[0]} (2 runs)"]
    [mean] = [each for each in steps(nano) if each[0] == "mean"]
    assert mean[1] == [0.0, 6.5, 7.5, 10.5]
    assert mean[2] == [0.0, 1.0, 1.5, 2.5]
    assert dots(nano) == [(6.5, 2), (10.5, 3)]
    assert shades(nano) == []  # of many runs they would hide each other
    drawn = [each for each in nano.lines if len(each.get_xdata()) > 2]
    widths = {each.get_label(): each.get_linewidth() for each in drawn}
    assert widths.pop("mean") > max(widths.values()) >= min(widths.values()) > 0
    assert len(steps(nano)) == 3
    assert [text.get_text() for text in strip.texts] == ["4", "3", "2"]
    shown = strip.collections[0].get_array()
    assert np.ma.filled(shown, -1.0).tolist() == [[1.0, -1.0], [0.75, 0.5]]
    assert [text.get_text() for text in strip.get_yticklabels()] == [NAMES[1], NAMES[0]]
    title = strip.get_title(loc="left")
    assert "ready at the end of each round, of 4 (" in title
    assert "hatched" not in title
    assert [text.get_wrap() for text in strip.findobj(Text) if text.get_text() == title] == [True]
    assert strip.collections[0].get_clim() == (0.0, 1.0)
    assert (strip.get_xlabel(), strip.get_ylabel()) == ("round", "")
    assert not any(line.get_visible() for line in strip.get_xgridlines() + strip.get_ygridlines())
    _, below = figure.subfigs
    assert below.get_supylabel() == "ready, instances"
    assert below.get_supxlabel() == (
        "seconds since the request was sent (thin: each run, black: the mean of all)"
    )
    for ax in panels:
        assert ax.get_ylabel() == ""
        assert all(float(tick).is_integer() for tick in ax.get_yticks())


def panels_of(*parts):
    """The strip and the panels, by the first words of their titles, of several tables."""
    figure = ready_counts_figure(pd.concat(parts))
    strip, *panels = [ax for ax in figure.axes if ax.axison]
    titles = {ax.get_title(loc="left").partition(" ")[0]: ax for ax in panels}
    return figure, strip, titles


def mean_of(ax):
    [(_, times, counts)] = [each for each in steps(ax) if each[0] == "mean"]
    return dict(zip(times, counts, strict=True))


def hatched(strip):
    return sorted(each.get_xy() for each in strip.patches if each.get_hatch())


def refused(*numbers, name="t3.nano"):
    return launches_of(*((name, number, []) for number in numbers), fate="refused")


def test_a_run_that_was_refused_at_once_counts_as_none_ready_all_the_time():
    figure, strip, panels = panels_of(launches_of(FIRST, OTHER), refused(1, 2, 3))

    nano = panels["t3.nano"]
    assert nano.get_title(loc="left") == f"{NAMES[0]} (4 runs,\n3 refused at once)"
    assert mean_of(nano) == {0.0: 0.0, 7.5: 0.25, 10.5: 0.75}
    assert ("black: the mean of all, refused ones as 0)") in figure.subfigs[1].get_supxlabel()
    assert [(x, y) for _, x, y in steps(nano)].count(([0.0, 10.5], [0.0, 0.0])) == 3
    assert dots(nano) == [(10.5, 3)]  # nothing was polled of the others
    assert [text.get_text() for text in strip.texts if text.get_text()] == ["4", "3", *"000"]
    assert hatched(strip) == []
    assert panels["t3.micro"].get_title(loc="left") == f"{NAMES[1]} (1 run)"


def test_where_all_runs_were_refused_at_once_none_are_ready_until_the_timeout():
    _, strip, panels = panels_of(refused(0, 1))

    assert mean_of(panels["t3.nano"]) == {0.0: 0.0, 12.0: 0.0}
    assert dots(panels["t3.nano"]) == []
    assert [text.get_text() for text in strip.texts] == ["0", "0"]


def test_a_refusal_that_says_nothing_about_the_market_is_not_drawn():
    ours = refused(1).assign(kind="quota")
    _, strip, panels = panels_of(launches_of(FIRST, ("t3.nano", 2, OTHER[2])), ours)

    assert panels["t3.nano"].get_title(loc="left") == f"{NAMES[0]} (2 runs)"
    assert [text.get_text() for text in strip.texts if text.get_text()] == ["3", "4"]


@pytest.mark.parametrize(
    ("outcome", "words"), [("abandoned", "cut short"), (None, "under way")], ids=str
)
def test_a_round_that_nobody_watched_to_its_end_is_drawn_but_not_averaged(outcome, words):
    """Not even its runs that were over by then: the quick ones would make the mean too early."""
    part = ("t3.nano", 1, [(2.0, 2.5, 4, 2), (8.0, 8.5, 4, 2)])
    quick = launches_of(("t3.micro", 1, [(0.5, 1.0, 4, 4)]))
    figure, strip, panels = panels_of(
        launches_of(FIRST, OTHER), launches_of(part, fate=outcome), quick
    )

    nano = panels["t3.nano"]
    assert nano.get_title(loc="left") == f"{NAMES[0]} (2 runs,\n1 {words})"
    assert mean_of(nano) == {0.0: 0.0, 7.5: 1.0, 10.5: 3.0}
    assert mean_of(panels["t3.micro"]) == {0.0: 0.0, 5.5: 4.0, 10.5: 4.0}
    words = "black: the mean of the 1 round watched to the end, of 2)"
    assert words in figure.subfigs[1].get_supxlabel()
    assert dots(nano) == [(8.0, 2), (10.5, 3)]
    assert hatched(strip) == [(1, 1)]
    [mark] = [each for each in strip.patches if each.get_hatch()]
    assert (mark.get_width(), mark.get_height()) == (1, 1)  # its cell, whose number it leaves
    assert (mark.get_fill(), mark.get_linewidth()) == (False, 0)
    assert [text.get_text() for text in strip.texts if text.get_text()] == ["4", "4", "3", "2"]
    assert "hatched: the last count of a run that was cut short, or is " in strip.get_title("left")


def test_without_a_round_that_was_watched_to_its_end_there_is_no_mean():
    parts = [("t3.nano", number, [(2.0, 2.5, 4, 2)]) for number in range(2)]
    figure, _, panels = panels_of(launches_of(*parts, fate="abandoned"))

    assert "mean" not in {label for label, _, _ in steps(panels["t3.nano"])}
    assert "no mean, because no round was watched to its end" in figure.subfigs[1].get_supxlabel()


def test_nothing_is_known_of_a_run_that_was_stopped_before_its_first_poll():
    unseen = launches_of(("t3.nano", 1, []), fate="abandoned")
    _, strip, panels = panels_of(launches_of(FIRST), unseen)

    assert mean_of(panels["t3.nano"]) == {0.0: 0.0, 7.5: 1.0, 10.5: 3.0}
    assert [text.get_text() for text in strip.texts if text.get_text()] == ["3"]
    assert hatched(strip) == [(1, 0)]


def test_a_run_that_was_stopped_soon_after_its_first_poll_shows_what_that_saw():
    soon = launches_of(("t3.nano", 1, [(0.5, 0.7, 0, 0)]), fate="abandoned")
    _, strip, _ = panels_of(launches_of(FIRST), soon)

    assert [text.get_text() for text in strip.texts if text.get_text()] == ["3", "0"]


def test_runs_of_a_single_instance_are_drawn_like_others_and_counted_in_whole_numbers():
    alone = ready_counts_figure(launches_of(OTHER, n=1)).axes
    strip, panel = ready_counts_figure(launches_of(FIRST, AGAIN, n=1)).axes

    assert steps(alone[1]) == [(NAMES[1], [0.0, 5.5, 5.5], [0, 1, 1])]
    assert [text.get_text() for text in strip.texts] == ["1", "1"]
    names = strip.get_xticklabels() + strip.get_yticklabels()
    assert {text.get_rotation() for text in names} == {0.0}, "seaborn writes one name upwards"
    assert mean_of(panel) == {0.0: 0.0, 6.5: 0.5, 7.5: 1.0, 10.0: 1.0}
    sizes = [
        {line.get_markersize() for line in ax.lines if len(line.get_xdata()) == 1}
        for ax in (panel, alone[1])
    ]
    assert max(sizes[0]) < min(sizes[1]), "the dots of many runs would hide each other"
    for ax in (*alone, panel):
        assert all(float(tick).is_integer() for tick in ax.get_yticks())


def test_what_another_program_than_amazons_answered_is_marked():
    for endpoint, marks in (("http://127.0.0.1:5000", [NOT_AWS]), ("aws", [])):
        launches = launches_of(FIRST).assign(simulated=False, endpoint=endpoint)
        figure = ready_counts_figure(launches)
        assert [text.get_text() for text in figure.texts] == marks


@pytest.mark.parametrize(("last_s", "words"), [(5.9, "\n1 cut short"), (6.0, "")])
def test_a_run_whose_polls_failed_from_early_on_was_not_watched_to_its_timeout(last_s, words):
    part = ("t3.nano", 1, [(last_s, last_s + 0.1, 0, 0)])
    _, _, panels = panels_of(launches_of(FIRST, part))

    comma = "," * bool(words)
    assert panels["t3.nano"].get_title(loc="left") == f"{NAMES[0]} (2 runs{comma}{words})"


def test_one_run_per_target_says_in_the_legend_what_was_refused_or_cut_short():
    cut = launches_of((*OTHER[:2], [(2.0, 2.5, 1, 0)]), fate="abandoned")
    figure = ready_counts_figure(pd.concat([refused(0), cut]))

    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        f"{NAMES[1]} (cut short)",
        f"{NAMES[0]} (refused at once)",
    ]
    assert {name: x[-1] for name, x, _ in steps(figure.axes[1])} == {
        f"{NAMES[1]} (cut short)": 2.5,
        f"{NAMES[0]} (refused at once)": 2.5,
    }


@pytest.mark.parametrize(("rounds", "written"), [(24, True), (25, False)])
def test_of_many_rounds_only_the_shades_are_shown(rounds, written):
    runs = [("t3.nano", number, OTHER[2]) for number in range(rounds)]
    strip = ready_counts_figure(launches_of(*runs)).axes[0]

    assert bool(strip.texts) is written
    assert strip.collections[0].get_array().shape == (1, rounds)


def test_two_batches_count_their_rounds_on_and_a_skipped_round_is_an_empty_column():
    skipped = launches_of(FIRST, ("t3.nano", 2, OTHER[2]))
    two = pd.concat([launches_of(FIRST, AGAIN), launches_of(FIRST).assign(batch_id="c")])
    shapes = [
        ready_counts_figure(each).axes[0].collections[0].get_array() for each in (skipped, two)
    ]

    assert np.ma.filled(shapes[0], -1.0).tolist() == [[0.75, -1.0, 1.0]]
    assert np.ma.filled(shapes[1], -1.0).tolist() == [[0.75, 0.5, 0.75]]


@pytest.mark.parametrize(("targets", "grid"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 3))])
def test_up_to_three_panels_are_in_a_row_and_the_lowest_of_each_column_has_times(targets, grid):
    runs = [(f"t{k}.nano", number, OTHER[2]) for k in range(targets) for number in range(2)]
    _, *panels = ready_counts_figure(launches_of(*runs)).axes

    shape = panels[0].get_subplotspec().get_gridspec()
    assert (shape.nrows, shape.ncols) == grid
    assert [ax.axison for ax in panels] == [number < targets for number in range(grid[0] * grid[1])]
    labelled = [ax.xaxis.get_tick_params()["labelbottom"] for ax in panels[:targets]]
    assert labelled == [number + grid[1] >= targets for number in range(targets)]


@pytest.mark.parametrize(
    ("targets", "strip_in", "panels_in"), [(1, 1.5, 3.1), (3, 2.1, 3.1), (4, 2.4, 5.7)]
)
def test_each_target_adds_a_line_to_the_strip_and_every_third_a_row_of_panels(
    targets, strip_in, panels_in
):
    """A line of 0.3 inches holds a number, a panel of 2.6 its title and its axes."""
    runs = [(f"t{k}.nano", number, OTHER[2]) for k in range(targets) for number in range(2)]
    figure = ready_counts_figure(launches_of(*runs, n=1))
    heights_in = [each.bbox.height / figure.dpi for each in figure.subfigs]

    assert heights_in == pytest.approx([strip_in, panels_in], abs=0.2)


class Handle:
    """Keeps what is displayed."""

    def __init__(self, shown):
        self._shown = shown

    def update(self, data, **_):
        self._shown.append(data)


def test_the_bar_says_how_much_of_all_rounds_is_over(monkeypatch, tmp_path):
    shares, shown = [], []

    def bar(share, words, *, simulated):
        shares.append((share, simulated))
        return words

    monkeypatch.setattr(live, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(live, "display", lambda *_, **__: Handle(shown))
    monkeypatch.setattr(live, "bar_html", bar)
    view = LiveView(tmp_path / "b.jsonl", simulated=False)
    monkeypatch.setattr(view, "_draw", lambda _: None)
    view(Progress(0, 4, 30.0, 60.0, 1, 4))
    view.wait(Waiting("waiting for round 2 of 4", 3.0))
    view(Progress(2, 4, 90.0, 60.0, 1, 4))
    view.finish("over")

    assert shares == [(0.125, False), (0.125, False), (0.75, False), (1.0, False)]
    assert shown[0]["text/html"] == shown[0]["text/plain"]
    assert shown[-1] == {"text/html": ""}


def test_each_target_is_drawn_in_its_own_colour():
    _, ready = ready_counts_figure(launches_of(FIRST, OTHER)).axes

    assert len({to_rgba(each.get_color()) for each in ready.lines}) == 2

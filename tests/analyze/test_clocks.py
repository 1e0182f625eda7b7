"""The second clock: what counts as told twice, what it sharpens, and how 03 shows it."""

from dataclasses import replace

import numpy as np
import pytest
from launch_rows import run_rows, table_of
from studies import NANO as NANO_TARGET
from studies import record
from test_analyze_notebook import page_of, tables_of, text_of

from spotlib.analyze.clocks import (
    clock_sentences,
    formatted_clocks,
    second_clock,
    told_twice,
    warning_sentences,
    warning_table,
)
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.figures import Styles, clocks_figure
from spotlib.analyze.lag import ALL
from spotlib.analyze.launch_times import launch_times
from spotlib.model import Stage
from spotlib.sandbox.world import Fate

NANO = "t3.nano in sa-east-1"
SHOWN = {"running_after_s": 9.0, "running_by_s": 12.5}
AGREE = SHOWN | {
    "running_event_after_s": 8.6,
    "running_event_by_s": 10.1,
    "running_both_after_s": 9.0,
    "running_both_by_s": 10.1,
    "running_clocks": "agree",
}
STALE = SHOWN | {
    "running_event_after_s": 6.0,
    "running_event_by_s": 7.5,
    "running_clocks": "contradict",
}
STALE_AND_WIDE = STALE | {"running_after_s": 10.0, "running_event_by_s": 9.5}
TOO_LATE = STALE | {"running_event_after_s": 14.0, "running_event_by_s": 15.5}


def told(*runs):
    """The launches of runs with these columns, in one batch that recorded EC2's events."""
    return name_runs(table_of(*(run_rows([30.0], number=n, **each) for n, each in enumerate(runs))))


def compared(*runs):
    table = second_clock(told(*runs), Stage.READY, resamples=99)
    return table.to_dict("records")


def test_the_second_clock_is_counted_and_its_widths_are_of_what_agrees():
    early = AGREE | {"running_after_s": 8.0, "running_both_after_s": 8.6}
    [row] = compared(*[AGREE] * 5, *[early] * 4, *[STALE_AND_WIDE] * 10, SHOWN, {})

    assert (row["stage"], row["target"]) == ("running", NANO)
    assert [row[name] for name in ("runs", "requests", "both_clocks")] == [21, 21, 19]
    assert (row["agree"], row["contradict"]) == (9, 10)
    widths = [row[f"{clock}_width_s"] for clock in ("poll", "event", "both")]
    assert widths == pytest.approx([3.5, 1.5, 1.1])


def test_the_median_by_the_polls_is_that_of_the_page_and_the_other_lies_in_the_intersection():
    launches = told(*[AGREE] * 8)
    [row] = second_clock(launches, Stage.READY, resamples=99).to_dict("records")
    [page] = launch_times(launches, Stage.RUNNING, resamples=99).values()

    assert row["median_s"] == page.quantile(0.5).value
    assert (row["median_s_low"], row["median_s_high"]) == (
        page.quantile(0.5).low,
        page.quantile(0.5).high,
    )
    assert 9.0 < row["median_both_s"] <= 10.1 < row["median_s"]
    sharp, wide = (
        row[f"{name}_high"] - row[f"{name}_low"] for name in ("median_both_s", "median_s")
    )
    assert sharp < wide / 2


def test_where_the_clocks_contradict_each_other_the_bracket_of_the_poll_is_kept():
    [row] = compared(*[STALE] * 8)

    assert row["median_both_s"] == row["median_s"] == pytest.approx(10.75, abs=0.1)
    assert np.isnan(row["both_width_s"])
    [words, _] = clock_sentences(second_clock(told(*[STALE] * 8), Stage.READY, resamples=9))
    assert "They contradict each other in 8: there the poll's bracket is kept." in words
    assert "nan" not in words


def test_a_request_that_never_ran_stays_in_the_count_of_both():
    """Only requests with two clocks would be those that came: a share of 1 by construction."""
    never = {"outcome": "interrupted", "watched_s": 20.0, "ready_by_s": np.nan}
    [row] = compared(*[AGREE] * 3, *[never] * 5)

    assert (row["requests"], row["shown"], row["both_clocks"]) == (8, 3, 3)
    assert np.isnan(row["median_s"])
    assert np.isnan(row["median_both_s"])


def test_launches_of_batches_without_events_do_not_count_and_without_any_there_is_nothing():
    elsewhere = {"batch_id": "20240902T000000Z-bbbbbb", "running_after_s": 90.0}
    elsewhere |= {"running_by_s": 93.0}

    [row] = compared(AGREE, AGREE, elsewhere)
    assert row["requests"] == 2
    assert told_twice(told(SHOWN), Stage.READY) == {}
    empty = second_clock(told(SHOWN), Stage.READY)
    assert empty.empty
    assert list(clock_sentences(empty)) == []


def test_a_stage_that_was_not_waited_for_is_not_compared():
    assert list(told_twice(told(AGREE), Stage.RUNNING)) == [Stage.RUNNING]
    assert told_twice(told(AGREE), Stage.FULFILLED) == {}
    assert told_twice(told(AGREE), Stage.GRANTED) == {}


def test_several_targets_have_a_row_for_all_of_them_first_in_each_stage():
    fulfilled = {name.replace("running", "fulfilled"): each for name, each in AGREE.items()}
    other = AGREE | {"instance_type": "a1.large"}
    table = second_clock(told(AGREE, other, AGREE | fulfilled), Stage.READY, resamples=9)

    assert table["stage"].tolist() == ["fulfilled"] * 3 + ["running"] * 3
    assert table["target"].tolist() == [ALL, "a1.large in sa-east-1", NANO] * 2
    assert table["both_clocks"].tolist() == [1, 0, 1, 3, 1, 2]
    assert table["median_s"].isna().tolist() == [True, True, False, True, False, False]
    assert formatted_clocks(table)["by both, s"].tolist()[3] == "-"  # a mix has no median
    assert not any("median time" in each for each in clock_sentences(table))


def test_the_sentences_say_how_much_narrower_and_what_each_clock_is_of():
    table = second_clock(told(*[AGREE] * 8, SHOWN), Stage.READY, resamples=99)
    [row] = formatted_clocks(table).to_dict("records")
    said = list(clock_sentences(table))

    assert (
        "Of 9 requests by request_spot_instances, polls showed 9 running; EC2's events also say "
        "when, for 8 of these." in said[0]
    )
    assert (
        "Both clocks together leave 1.1 s open, polls alone 3.5 s (medians): 3.2 times" in said[0]
    )
    for heading, by in (("median by polls, s", "by the polls"), ("by both, s", "by both")):
        value, ends = row[heading].split(" ", 1)
        assert f"{value} s {ends} {by}" in said[0]
    assert "when the API first showed a stage, an event when the stage was reached" in said[1]
    assert len(said) == 2


def drawn(*runs):
    """The bars of the figure of these runs, those of the polls and those of both, and its axes."""
    figure = clocks_figure(told_twice(told(*runs), Stage.READY), Styles.of([NANO]), simulated=True)
    assert "SIMULATED" in figure.get_suptitle()
    [ax] = figure.axes
    return [bar for bar in ax.patches if np.isfinite(bar.get_width())], ax


def test_the_figure_draws_at_most_40_requests_each_by_the_polls_and_by_both():
    bars, ax = drawn(*[AGREE] * 50, SHOWN)

    assert sorted(bar.get_width() for bar in bars) == pytest.approx([1.1] * 40 + [3.5] * 40)
    assert {bar.get_x() for bar in bars} == {0.0}
    assert {bar.get_facecolor()[0] for bar in bars} == {0.15, 0.82}
    assert ax.get_title(loc="left") == "running: 40 of 50 requests"
    assert [each.get_text() for each in ax.figure.legends[0].get_texts()] == [
        "by the polls",
        "by both clocks",
    ]


def test_a_contradiction_is_a_cross_on_its_side_and_no_bar_of_both():
    bars, ax = drawn(AGREE, STALE, TOO_LATE, STALE | {"running_event_after_s": -50.0})

    assert sorted(bar.get_width() for bar in bars) == pytest.approx([1.1] + [3.5] * 4)
    crosses = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "x"]
    assert sorted(crosses) == pytest.approx([-3.5, -2.25, 5.75])
    assert ax.figure.legends[0].get_texts()[-1].get_text() == "event contradicts the poll"


WARNED = {
    "outcome": "interrupted",
    "watched_s": 140.0,
    "ready_by_s": np.nan,
    "interruption_after_s": 19.0,
    "interruption_by_s": 21.0,
}


def test_warnings_are_counted_with_the_time_until_a_poll_showed_the_end():
    later = WARNED | {"watched_s": 150.0}
    unseen = {"interruption_after_s": 5.0, "interruption_by_s": 6.0}
    rebalance = {"rebalance_after_s": 5.0, "rebalance_by_s": 6.0}
    table = warning_table(told(WARNED, later, unseen, rebalance, {}))

    assert table["notice"].tolist() == ["interruption warning", "rebalance recommendation"]
    assert table["instances"].tolist() == [3, 1]
    assert table["interrupted"].tolist() == [2, 0]
    assert table["until_shown_s"].tolist() == pytest.approx([125.0, np.nan], nan_ok=True)
    assert table["until_shown_s_least"].iloc[0] == 120.0
    assert table["until_shown_s_most"].iloc[0] == 130.0
    assert list(warning_sentences(table)) == [
        "Interruption warning: 3 instances. Polls showed 2 of them interrupted, a median of 125 s "
        "later.",
        "Rebalance recommendation: 1 instance. Polls showed 0 of them interrupted.",
    ]


def test_without_a_warning_there_is_no_table():
    assert warning_table(told(AGREE)).empty


@pytest.fixture(scope="module", params=[True, False], ids=["events", "no events"])
def page(request, tmp_path_factory):
    """What 03 shows of a study on the sandbox, with and without EC2's own events."""
    folder = tmp_path_factory.mktemp("clocks")
    fates = [Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=4.0 + n % 7, ok_s=9.0) for n in range(11)]
    fates.append(replace(fates[0], interrupted_s=7.0))
    log = folder / "launches" / "a.jsonl"
    record(log, targets=(NANO_TARGET,), n=2, rounds=6, fates=fates, events=request.param)
    return request.param, folder, page_of(folder)


def test_the_page_shows_the_second_clock_only_where_it_was_recorded(page):
    recorded, folder, shown = page
    text = text_of(" ".join(each.get("text/html", "") for each in shown))
    tables = dict(tables_of(shown))

    assert (folder / "figures" / "second-clock.png").exists() == recorded
    assert ("two clocks contradict each other" in text) == recorded
    assert ("of these. Both clocks together leave 1." in text) == recorded
    assert ("Interruption warning: 1 instance. Polls showed 1 of them" in text) == recorded
    assert ("second-clock" in tables, "warnings" in tables) == (recorded, recorded)
    if recorded:
        assert tables["second-clock"]["stage"].tolist() == ["fulfilled", "running"]

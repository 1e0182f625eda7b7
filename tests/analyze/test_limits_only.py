"""Where brackets are as wide as the times in them, limits are said and no number is made up."""

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of
from studies import observed

from spotlib.analyze.arms import arm_times, compare_arms_overall
from spotlib.analyze.checks import stale_medians
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.compare import compare_targets
from spotlib.analyze.comparison_sentences import arm_sentences
from spotlib.analyze.curve import Curve
from spotlib.analyze.figures import Styles, answer_figure, phases_figure
from spotlib.analyze.intervals import Estimate
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.lognormal import fit_lognormal
from spotlib.analyze.selectors import target_outcomes
from spotlib.analyze.sentences import (
    answer_sentences,
    formatted_ready,
    phase_sentence,
    ready_caption,
)
from spotlib.analyze.summaries import fastest_first, phases, ready_of_n
from spotlib.model import Stage

NANO, MICRO, SMALL = (f"t3.{size} in sa-east-1" for size in ("nano", "micro", "small"))
HORIZON_S = 300.0


def study(*, runs=8, targets=("t3.nano", "t3.micro", "t3.small"), **fields):
    """Answers after about 1.5 s, before which nothing was polled; t3.small takes a minute."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(runs):
        for plan, name in enumerate(targets):
            base_s = 58.0 if name == "t3.small" else 1.2 + 0.1 * plan
            run = list(
                run_rows(
                    base_s + rng.uniform(0.0, 0.6, 3),
                    number=number,
                    plan=plan,
                    instance_type=name,
                    **fields,
                )
            )
            rows.append([each | {"ready_after_s": max(each["ready_by_s"] - 3, 0)} for each in run])
    return name_runs(table_of(*rows))


@pytest.fixture(scope="module")
def launches():
    return study()


@pytest.fixture(scope="module")
def times(launches):
    return launch_times(launches, Stage.READY, resamples=99)


def test_a_median_before_the_first_answer_is_at_most_the_median_of_the_answers(launches, times):
    answers_s = launches.loc[launches["target"] == NANO, "ready_by_s"]
    median = times[NANO].quantile(0.5)

    assert np.isnan(median.value)
    assert (median.low, median.high) == (0.0, np.quantile(answers_s, 0.5, method="inverted_cdf"))
    assert median.words() == f"at most {median.high:.1f} s"
    assert np.isnan(times[NANO].restricted_mean(HORIZON_S).value)
    assert times[NANO].restricted_mean(HORIZON_S).high == pytest.approx(answers_s.mean(), abs=0.3)
    assert times[SMALL].quantile(0.5).value == pytest.approx(57.0, abs=1.6)


def test_few_runs_have_no_interval_but_the_same_limits():
    few = launch_times(study(runs=3), Stage.READY, resamples=9)[NANO]

    median = few.quantile(0.5)
    assert (np.isnan(median.value), median.low) == (True, 0.0)
    assert 1.2 < median.high < 1.8
    assert "3 runs" in median.why


def test_an_end_of_an_interval_is_not_made_up_within_such_a_bracket_either():
    """A third came before the first poll, the others never: when half come has no lower bound."""
    rows = [run_rows([1.5, INF, INF], number=number) for number in range(8)]
    rows = [
        [each | {"ready_after_s": 0.0 * each.get("ready_by_s", np.nan)} for each in run]
        for run in rows
    ]
    [found] = launch_times(name_runs(table_of(*rows)), Stage.READY, resamples=99).values()

    median = found.quantile(0.5)
    assert np.isnan([median.value, median.low]).all()
    assert np.isinf(median.high)


@pytest.mark.parametrize(
    ("after_s", "by_s", "is_open"),
    [(0.0, 3.0, True), (1.0, 3.0, True), (1.01, 3.0, False), (240.0, 252.0, False)],
)
def test_a_bracket_as_wide_as_its_middle_tells_limits_only(after_s, by_s, is_open):
    rows = pd.DataFrame(
        {"target": "a", "run": [f"b/{n}/0" for n in range(8)], "outcome": "ready", "kind": None}
    ).assign(watched_s=after_s, ready_after_s=after_s, ready_by_s=by_s)
    [found] = launch_times(rows, Stage.READY, resamples=9).values()

    assert np.isnan(found.quantile(0.5).value) == is_open
    assert np.isnan(found.restricted_mean(300.0).value) == is_open
    assert np.isnan(found.share_ready((after_s + by_s) / 2).value) == is_open
    ends = [found.share_ready(each).value for each in (after_s, by_s)]
    assert ends == pytest.approx([0.0, 1.0])
    assert np.isnan(found.band(np.array([by_s - 0.1]))["share"]).tolist() == [is_open]


def test_polls_at_other_moments_make_a_short_time_known():
    """What matters is the width of the pieces that brackets cut, not that of the brackets."""
    after_s = np.linspace(0.0, 1.9, 39)
    rows = pd.DataFrame({"target": "a", "run": [f"b/{n}/0" for n in range(39)], "kind": None})
    rows = rows.assign(ready_after_s=after_s, ready_by_s=after_s + 2.0, outcome="ready")
    [found] = launch_times(rows.assign(watched_s=after_s), Stage.READY, resamples=9).values()

    assert 1.5 < found.quantile(0.5).value < 2.5


def test_a_share_that_a_piece_reaches_exactly_is_reached_within_it():
    """Also if the sum is a rounding error short of it, as that of 0.1, 0.1 and 0.1 is of 0.3."""
    ends = np.array([[0.0, 2.0], [50.0, 53.0]]).T
    halves = Curve(*ends, np.array([0.5, 0.5]), 60.0)
    assert [halves.is_open_at(share) for share in (0.4, 0.5, 0.6)] == [True, True, False]

    short = Curve(*ends, np.array([0.3 - 1e-12, 0.7]), 60.0)
    assert short.is_open_at(0.3)


def test_limits_are_said_in_the_table_the_answer_and_the_phases(launches, times):
    table = ready_of_n(times, launches, horizon_s=HORIZON_S)
    pairs = compare_targets(times, horizon_s=HORIZON_S)
    fastest, *_, unknown = answer_sentences(table, pairs, launches, Stage.READY)
    shown = formatted_ready(table).set_index("target")["seconds until half"]
    high_s = times[NANO].quantile(0.5).high

    assert fastest_first(times, horizon_s=HORIZON_S)[2] == SMALL
    assert shown[NANO] == f"at most {high_s:.1f}"
    assert f"{NANO}: half of its instances were ready after at most {high_s:.1f} s" in fastest
    assert "exactly when half are ready at 2 of 3 targets" in unknown
    only = phases({"request to fulfilled": {NANO: times[NANO]}})
    assert "tell only limits" in phase_sentence(only)
    both = phases({"request to fulfilled": times})
    assert phase_sentence(both).endswith(
        "Of request to fulfilled only limits are known, at some targets or all."
    )


def test_figures_draw_the_limits_and_no_point_and_no_line_between_them(times):
    styles = Styles.of(times)
    ax, *_ = phases_figure(
        phases({"request to fulfilled": {NANO: times[NANO]}}), styles, simulated=True
    ).axes
    [line, *_] = (
        answer_figure({NANO: times[NANO]}, styles, until_s=2.4, simulated=True).axes[0].lines
    )
    shares, seconds = np.asarray(line.get_ydata()), np.asarray(line.get_xdata())

    points = [each for each in ax.lines if each.get_marker() == styles.point(NANO)["marker"]]
    assert np.isnan([each.get_xdata()[0] for each in points]).all()
    assert [each.get_xdata()[0] for each in ax.lines if each.get_linewidth() == 3] == [0.0]
    first_s = times[NANO].observed.by_s.min()
    assert np.isnan(shares[(seconds > 0) & (seconds < first_s)]).all()
    assert (shares[seconds >= first_s] == 1.0).all()


def test_two_targets_of_which_only_limits_are_known_are_not_told_apart(times):
    pairs = compare_targets(times, horizon_s=HORIZON_S).set_index(["first", "second"])
    alike, apart = pairs.loc[(MICRO, NANO)], pairs.loc[(NANO, SMALL)]

    assert np.isnan([alike["p_value"], alike["later_s"], alike["ratio"]]).all()
    assert "leave open which mean time is longer" in alike["why"]
    assert apart["p_value"] < 0.05
    assert np.isnan(apart["ratio"])
    least_s = times[NANO].observed.by_s.mean() - times[SMALL].observed.by_s.mean()
    assert apart["later_s_high_adjusted"] >= least_s


def test_arms_of_which_only_limits_are_known_are_not_compared():
    two = [study(targets=("t3.nano",)), study(targets=("t3.nano",), method="run_instances")]
    second = two[1].assign(plan=1, ready_by_s=two[1]["ready_by_s"] + 0.3)
    overall = compare_arms_overall(
        arm_times(name_runs(pd.concat([two[0], second])), Stage.READY), horizon_s=HORIZON_S
    )

    assert overall[["left_open", "targets", "rounds"]].to_numpy().tolist() == [[1, 0, 0]]
    assert overall["later_s"].isna().all()
    assert "too far apart to tell which way to ask is later" in next(
        arm_sentences(overall, Stage.READY)
    )


def test_what_rests_on_middles_of_such_brackets_is_unknown(times):
    nano = {NANO: times[NANO]}

    assert (
        target_outcomes(nano, horizon_s=HORIZON_S)[["median_s", "spread_s"]].isna().all(axis=None)
    )
    assert stale_medians(nano)[["median_s", "least_s"]].isna().all(axis=None)
    with pytest.raises(ValueError, match="needs brackets that begin after 0"):
        fit_lognormal(observed([0.0] * 6, [1.2, 1.3, 1.4, 1.5, 1.6, 1.7]))


def test_limits_from_above_zero_are_two_numbers():
    assert Estimate(np.nan, 1.0, 3.0).words() == "1.0 to 3.0 s"
    assert Estimate(np.nan, 0.0, 3.0).words() == "at most 3.0 s"
    assert not Estimate(np.nan, 1.0, np.inf).has_limits_only


def test_an_interval_of_runs_that_were_all_alike_is_explained_beside_it():
    rows = [run_rows([INF] * 5, number=number) for number in range(8)]
    launches = name_runs(table_of(*rows))
    found = launch_times(launches, Stage.READY, resamples=99)
    table = ready_of_n(found, launches, horizon_s=HORIZON_S)

    assert (
        "0.0 (0.0 to 1.5) means that none were ready in any run by then; but instances of one run "
        "share their luck, so 8 runs cannot exclude a true average as high as 1.5."
    ) in ready_caption(table, Stage.READY, [NANO])


def test_after_a_stop_the_number_of_runs_is_the_same_everywhere_and_how_many_ended_beside_it():
    stopped = {"outcome": "abandoned", "watched_s": 9.0}
    rows = [run_rows([20.0] * 2, number=number) for number in range(7)]
    launches = name_runs(table_of(*rows, run_rows([INF] * 2, number=7, **stopped)))
    found = launch_times(launches, Stage.READY, resamples=99)
    [row] = ready_of_n(found, launches, horizon_s=HORIZON_S).to_dict("records")
    shown = formatted_ready(pd.DataFrame([row]))

    assert (row["runs"], row["watched"], found[NANO].observed.runs) == (8, 7, 8)
    assert shown["runs"].tolist() == ["8 (7 until 300 s)"]
    assert "over 8 runs" in ready_caption(pd.DataFrame([row]), Stage.READY, [NANO])


def test_a_phase_that_fewer_than_half_completed_is_the_longest():
    """Not the one with the largest median among those that more completed."""
    rows = [
        ("a", "request to fulfilled", 2.0, True),
        ("b", "request to fulfilled", np.nan, False),
        ("c", "request to fulfilled", np.nan, False),
        ("a", "running to ready", 218.0, True),
        ("b", "running to ready", 276.0, True),
    ]
    table = pd.DataFrame(rows, columns=["target", "phase", "median_s", "reached"])

    assert phase_sentence(table) == (
        "The longest phase is from request to fulfilled: fewer than half of the requests completed "
        "it at b and c; its median is 2 s at a. Of those completed by half or more, it is from "
        "running to ready: its median is 218 s at a to 276 s at b."
    )
    assert phase_sentence(table[3:]) == (
        "The longest phase is from running to ready: its median is 218 s at a to 276 s at b."
    )
    assert phase_sentence(table[1:3]) == (
        "The longest phase is from request to fulfilled: fewer than half of the requests completed "
        "it at both."
    )


def at_once(run):
    """The run, shown by the first poll: nothing was polled before."""
    return [each | {"ready_after_s": 0.0 * each.get("ready_by_s", np.nan)} for each in run]


def estimated(*runs):
    launches = name_runs(table_of(*runs))
    return launches, launch_times(launches, Stage.READY, resamples=99)


def test_a_half_that_came_within_the_first_poll_is_reached_though_its_interval_has_no_end():
    """Three of five came by then and two never, so other runs may have fewer than half."""
    rows = []
    for number in range(8):
        some = run_rows([2.0, 2.1, 2.2, INF, INF], number=number)
        late = run_rows([500.0] * 5, number=number, plan=1, instance_type="t3.micro")
        rows += [at_once(some), late]
    launches, times = estimated(*rows)
    table = ready_of_n(times, launches, horizon_s=599.0)
    pairs = compare_targets(times, horizon_s=599.0)
    fastest, _, slowest, unknown = answer_sentences(table, pairs, launches, Stage.READY)
    half, words = times[NANO].quantile(0.5), "at most 2.2 s in these runs (no upper end)"

    assert (half.low, half.high, half.seen_by, half.is_reached) == (0.0, np.inf, 2.2, True)
    assert half.words() == words
    assert fastest == f"Fastest is {NANO}: half of its instances were ready after {words}."
    assert slowest.startswith(f"Slowest is {MICRO}: half of its instances were ready after 49")
    assert "exactly when half are ready at 1 of 2 targets" in unknown
    cells = formatted_ready(table).set_index("target")["seconds until half"]
    assert cells[NANO] == "at most 2.2 in these runs (no upper end)"
    assert table["half_s_by"].tolist() == pytest.approx([2.2, np.nan], nan_ok=True)
    parts = phases({"request to ready": times, "request to fulfilled": times})
    assert parts["reached"].all()
    assert "fewer than half" not in phase_sentence(parts)


def test_a_half_within_the_first_poll_has_limits_though_a_run_was_stopped_before():
    """What was stopped may have come at any time; the curve through the others ends the limits."""
    stopped = {"outcome": "abandoned", "watched_s": 0.5}
    runs = [at_once(run_rows([2.0, INF], number=number)) for number in range(7)]
    _, times = estimated(*runs, run_rows([INF] * 2, number=7, **stopped))

    assert times[NANO].quantile(0.5).seen_by == 2.0


def test_a_phase_has_a_lower_bound_only_where_enough_runs_show_that_half_come_later():
    """Not if the interval of the share reaches over half, nor after most runs were stopped."""
    stopped = {"outcome": "abandoned", "watched_s": 30.0}
    few = [run_rows([INF] * 5, number=number, **stopped) for number in range(7)]
    refused = {"outcome": "refused", "kind": "capacity", "watched_s": 0.0, "request_id": None}
    studies = {
        "two of five": [at_once(run_rows([2.0] * 2 + [INF] * 3, number=k)) for k in range(6)],
        "stopped": [*few, run_rows([INF] * 5, number=7)],
        "none": [run_rows([INF] * 5, number=number) for number in range(6)],
        "refused": [run_rows([INF] * 5, number=number, **refused) for number in range(6)],
        "five runs": [run_rows([INF] * 5, number=number) for number in range(5)],
    }
    low_s = {
        name: phases({"request to fulfilled": estimated(*runs)[1]})["low_s"].item()
        for name, runs in studies.items()
    }

    bounds = {"stopped": 30.0, "none": 599.0}
    assert low_s == pytest.approx(dict.fromkeys(studies, np.nan) | bounds, nan_ok=True)


def test_a_phase_that_fewer_than_half_completed_is_the_longest_also_with_few_runs():
    _, quick = estimated(*(run_rows([10.0] * 5, number=number) for number in range(3)))
    _, slow = estimated(*(run_rows([30.0] + [INF] * 4, number=number) for number in range(3)))
    parts = phases({"request to fulfilled": quick, "running to ready": slow})

    assert parts["reached"].tolist() == [True, False]
    assert phase_sentence(parts).startswith(
        "The longest phase is from running to ready: fewer than half of the requests completed it"
    )

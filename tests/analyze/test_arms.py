"""Arms (ways to ask for instances) are compared within a target and round, and never pooled."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy import stats

from spotlib.analyze.arms import (
    arm_table,
    arm_times,
    arms_horizon_s,
    compare_arms,
    compare_arms_overall,
    target_of,
)
from spotlib.analyze.comparable import (
    arm_names,
    name_runs,
    other_arm,
    other_variable,
    side_by_side,
)
from spotlib.analyze.compare import exchange_p_values, holm, rounds_needed
from spotlib.analyze.comparison_figures import arms_figure
from spotlib.analyze.comparison_sentences import arm_sentences, formatted_arms
from spotlib.analyze.figures import Styles
from spotlib.model import Stage

REQUEST = {"method": "request_spot_instances", "purchase": "spot"}
RUN = {"method": "run_instances", "purchase": "spot"}
CONTROL = {"method": "run_instances", "purchase": "on-demand"}
CONTROL_ARM = "run_instances:on-demand"


def study(later_s, *, arms=(REQUEST, RUN), rounds=12, targets=("t3.nano", "t3.micro"), seed=1):
    """A study in which the second arm's runs are so much later, over targets and rounds alike."""
    rng = np.random.default_rng(seed)
    runs = []
    for number in range(rounds):
        moment_s = rng.uniform(0.0, 60.0)
        for place, (target, arm) in enumerate((t, a) for t in targets for a in range(len(arms))):
            ready_s = 100.0 + moment_s + later_s * arm + rng.exponential(10.0, 3)
            more = {"instance_type": target, "sent_at": moment(number)} | arms[arm]
            runs.append(run_rows(ready_s, number=number, plan=place, **more))
    return name_runs(table_of(*runs))


def moment(number):
    return pd.Timestamp("2024-09-01", tz="UTC") + pd.Timedelta(minutes=15 * number)


def test_an_arm_is_its_method_and_what_was_bought():
    assert set(arm_names(study(0.0, arms=(REQUEST, CONTROL)))) == {
        "request_spot_instances",
        "run_instances:on-demand",
    }


def test_arms_are_never_pooled_and_the_page_is_about_one_of_them():
    launches = study(0.0, arms=(RUN, REQUEST, CONTROL))
    why = other_variable(launches)
    assert set(launches[why == ""]["method"]) == {"request_spot_instances"}
    control = launches["purchase"] == "on-demand"
    assert why[control].str.contains("not request_spot_instances").all()


def test_the_arm_of_the_page_can_be_chosen_and_one_that_was_not_launched_is_refused():
    launches = study(0.0, arms=(REQUEST, CONTROL))
    kept = launches[other_arm(launches, arm="run_instances:on-demand") == ""]
    assert set(kept["purchase"]) == {"on-demand"}
    with pytest.raises(ValueError, match="there is: request_spot_instances, run_instances:on-dem"):
        other_arm(launches, arm="run_instances")


def test_what_is_left_out_is_named_by_its_arm_with_how_it_was_bought():
    launches = study(0.0, arms=(REQUEST, RUN, CONTROL), rounds=2)
    of_control = launches[launches["plan"] % 3 > 0].assign(batch_id="20240902T000000Z-bbbbbb")
    of_control = of_control[of_control["purchase"] == "on-demand"]

    assert set(other_variable(launches)) == {
        "",
        "asked for by run_instances, not request_spot_instances",
        "asked for by run_instances:on-demand, not request_spot_instances",
    }
    why = set(other_variable(pd.concat([launches, of_control], ignore_index=True)))
    assert "asked for by run_instances, not run_instances:on-demand" in why


def test_only_arms_that_a_target_met_in_one_round_stand_side_by_side():
    alone = study(0.0, arms=(REQUEST,))
    assert side_by_side(alone).empty
    both = study(0.0)
    gone = (both["method"] == "run_instances") & (both["round"] == 3)
    assert set(side_by_side(both[~gone])["round"]) == set(range(12)) - {3}
    apart = pd.concat([alone, study(0.0, arms=(RUN,)).assign(batch_id="20240902T000000Z-bbbbbb")])
    assert side_by_side(apart).empty


def test_the_later_arm_is_found_with_the_interval_of_a_paired_t_test():
    launches = study(20.0)
    times = arm_times(launches, Stage.READY)
    [row] = compare_arms_overall(times, horizon_s=599.0).to_dict("records")
    assert (row["first"], row["second"]) == ("request_spot_instances", "run_instances")
    assert (row["targets"], row["rounds"]) == (2, 12)
    middle_s = launches["ready_by_s"] - 1.5
    means_s = middle_s.groupby([launches["round"], launches["method"]]).mean().unstack()
    paired = stats.ttest_rel(means_s["request_spot_instances"], means_s["run_instances"])
    low_s, high_s = paired.confidence_interval(0.95)
    assert row["later_s"] == pytest.approx((means_s.iloc[:, 0] - means_s.iloc[:, 1]).mean())
    assert (row["later_low_s"], row["later_high_s"]) == pytest.approx((low_s, high_s))
    assert row["p_value"] == pytest.approx(2 / 2**12)  # all rounds have the same sign


def test_all_arms_of_each_target_stand_in_one_table_with_what_was_refused():
    launches = study(20.0, arms=(REQUEST, CONTROL), targets=("t3.nano",))
    refused = list(run_rows([INF, 150.0], number=12, plan=1, sent_at=moment(12), **CONTROL))
    refused[0] |= {"outcome": "refused", "kind": "capacity"}
    launches = name_runs(pd.concat([launches, table_of(refused)], ignore_index=True))
    times = arm_times(launches, Stage.READY)

    table = arm_table(times, launches, horizon_s=599.0)

    assert table["target"].tolist() == ["t3.nano in sa-east-1"] * 2
    by_arm = table.set_index("asked_by").to_dict("index")
    spot, control = by_arm["request_spot_instances"], by_arm[CONTROL_ARM]
    assert [spot[each] for each in ("runs", "requests", "refused")] == [12, 36, 0]
    assert [control[each] for each in ("runs", "requests", "refused")] == [13, 38, 1]
    assert [spot["share"], control["share"]] == pytest.approx([1.0, (12 + 1 / 2) / 13])
    for row, name in ((spot, "request_spot_instances"), (control, CONTROL_ARM)):
        median = times[f"t3.nano in sa-east-1 by {name}"].quantile(0.5)
        ends = [row[f"median_s{end}"] for end in ("", "_low", "_high")]
        assert ends == [median.value, median.low, median.high]

    shown = formatted_arms(table, Stage.READY, horizon_s=599.0)
    assert [*shown] == [
        *("target", "asked by", "runs", "requests", "refused"),
        *("median, s", "share ready by 599 s"),
    ]
    assert shown["share ready by 599 s"].str.match(r"\d\.\d\d \(\d\.\d\d to \d\.\d\d\)").all()
    held = (run_rows([INF], number=each, sent_at=moment(each), **REQUEST) for each in range(6))
    none = name_runs(table_of(*held))
    lost = formatted_arms(
        arm_table(arm_times(none, Stage.READY), none, horizon_s=599.0), Stage.READY, horizon_s=599.0
    )
    assert lost["median, s"].str.startswith("not by 599 s").all()


def test_arms_are_counted_up_to_when_all_of_them_were_watched():
    """What timed out was last polled before its timeout, what was ready is known for ever."""
    held = (run_rows([INF], number=n, sent_at=moment(n), watched_s=598.5) for n in range(6))
    ready = (run_rows([90.0], number=n, plan=1, sent_at=moment(n), **CONTROL) for n in range(6))
    launches = name_runs(table_of(*held, *ready))
    times = arm_times(launches, Stage.READY)

    until_s = arms_horizon_s(times, launches, 600.0)

    assert until_s == 598.0
    assert arm_table(times, launches, horizon_s=until_s)["share"].tolist() == [0.0, 1.0]
    assert arm_table(times, launches, horizon_s=600.0)["share"].isna().tolist() == [True, False]


def test_each_target_is_compared_with_itself_only():
    pairs = compare_arms(arm_times(study(20.0), Stage.READY), horizon_s=599.0)
    names = pairs[["first", "second"]].to_numpy().tolist()
    assert names == [
        [f"{target} in sa-east-1 by request_spot_instances", f"{target} in sa-east-1 by {second}"]
        for target, second in (("t3.micro", "run_instances"), ("t3.nano", "run_instances"))
    ]
    assert (pairs["ratio_high_adjusted"] < 1).all()


def test_without_a_difference_one_study_in_twenty_is_a_false_alarm():
    rng = np.random.default_rng(1)
    alarms, studies, rounds = 0, 300, 8
    for _ in range(studies):
        moment_s = rng.uniform(0.0, 60.0, rounds)  # shared by the arms of a round
        times_s = moment_s + np.minimum(rng.exponential(30.0, (2, rounds)), 90.0)
        names = tuple(map(str, range(rounds)))
        arms = {
            f"t3.nano by {arm}": SimpleNamespace(
                run_means_s=lambda _, t=each: t, is_mean_open=lambda _: False, rounds=names
            )
            for arm, each in enumerate(times_s)
        }
        [row] = compare_arms_overall(arms, horizon_s=300.0).to_dict("records")
        alarms += row["p_value"] < 0.05
    low, high = stats.binom.ppf((0.001, 0.999), studies, 0.05)
    assert low <= alarms <= high


def test_below_six_rounds_there_is_no_interval_and_the_sentence_says_how_many_are_needed():
    overall = compare_arms_overall(arm_times(study(20.0, rounds=3), Stage.READY), horizon_s=599.0)
    assert overall[["later_low_s", "later_high_s"]].isna().all(axis=None)
    [words] = arm_sentences(overall, Stage.READY)
    assert "that needs 6 rounds in which both were launched (for 1 comparison at once)" in words
    assert "there are at most 3." in words


def compared(pairs, *, rounds, differ=0, **ends):
    """A table as from ``compare_arms_overall``, in which some pairs differ."""
    rows = [
        {"first": f"a{n}", "second": f"b{n}", "targets": 2, "left_open": 0, "rounds": rounds}
        | {"later_s": 161.0, "later_low_s": 79.0, "later_high_s": 242.0, "p_value": 0.03}
        | ends
        | {"p_holm": 0.01 if n < differ else 0.4}
        for n in range(pairs)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("pairs", [1, 3, 15, 45])
def test_so_many_rounds_as_are_said_are_the_fewest_that_can_show_a_difference(pairs):
    needed = rounds_needed(pairs)

    least = [
        holm([float(exchange_p_values(np.ones((rounds, 1)))[0])] + [1.0] * (pairs - 1))[0]
        for rounds in (needed - 1, needed)
    ]
    assert least[1] < 0.05 <= least[0]
    [words] = arm_sentences(compared(pairs, rounds=needed - 1), Stage.READY)
    assert f"needs {needed} rounds" in words


def test_an_interval_without_0_beside_a_test_that_shows_nothing_is_said_to_be_no_proof():
    said = list(arm_sentences(compared(3, rounds=9, differ=1), Stage.READY))

    assert said[0].endswith("on average over 2 targets.")
    assert said[1].endswith("targets: for 3 comparisons at once this is no proof.")
    [unsure, _] = arm_sentences(compared(1, rounds=9, later_low_s=-5.0), Stage.READY)
    assert unsure.endswith("targets: no difference is shown.")


def test_of_many_pairs_only_those_that_differ_have_a_sentence():
    said = list(arm_sentences(compared(15, rounds=12, differ=2), Stage.READY))

    assert len(said) == 4
    assert said[3].startswith("13 of 15 pairs of ways to ask are not shown to differ")


def test_arms_that_are_alike_in_every_round_have_no_interval():
    rows = [
        run_rows([INF] * 3, number=number, plan=arm, **(REQUEST, RUN)[arm])
        for number in range(8)
        for arm in range(2)
    ]
    times = arm_times(name_runs(table_of(*rows)), Stage.READY)
    overall = compare_arms_overall(times, horizon_s=300.0)
    assert overall["later_s"].tolist() == [0.0]
    assert overall[["later_low_s", "later_high_s"]].isna().all(axis=None)
    assert "(no interval)" in next(arm_sentences(overall, Stage.READY))


def test_the_sentence_names_the_later_arm_first():
    overall = compare_arms_overall(arm_times(study(20.0), Stage.READY), horizon_s=599.0)
    [words, refused] = arm_sentences(overall, Stage.READY)
    assert words.startswith("run_instances took ")
    assert words.endswith("longer than request_spot_instances, on average over 2 targets.")
    assert refused == (
        "In these means a request that was refused, or not ready by the end, counts with the time "
        "of the end."
    )


def test_the_legend_of_the_figure_lies_on_no_panel_and_no_label():
    times = arm_times(study(20.0, arms=(REQUEST, RUN, CONTROL), rounds=6), Stage.READY)
    targets = sorted({target_of(name) for name in times})

    figure = arms_figure(times, targets, Styles.of(targets), until_s=300.0, simulated=True)

    FigureCanvasAgg(figure).draw()
    [legend], labels = figure.legends, [e for e in figure.texts if e.get_rotation() in (0.0, 90.0)]
    boxes = [ax.get_tightbbox() for ax in figure.axes] + [e.get_window_extent() for e in labels]
    assert len(boxes) > len(targets)
    assert not any(legend.get_window_extent().overlaps(box) for box in boxes)
    assert "seconds since the request was sent" in legend.get_title().get_text()

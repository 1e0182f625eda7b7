"""The first screen of 03: which targets, in which order, up to when, and what is said of them."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from launch_rows import run_rows, table_of
from studies import Truth, simulate

from spotlib.analyze import launch_times as launch_times_module
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.compare import compare_targets, longer_median_first, most_different
from spotlib.analyze.figures import Styles, phases_figure
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.sentences import (
    answer_sentences,
    end_sentence,
    formatted_ready,
    phase_sentence,
    ready_caption,
    runs_sentence,
)
from spotlib.analyze.summaries import (
    all_times,
    both_ends,
    common_horizon_s,
    durations,
    fastest_first,
    only,
    phases,
    planned_s,
    ready_of_n,
)
from spotlib.figures import table_html
from spotlib.model import Stage

NONE = (np.nan, np.nan, np.nan)


def times_of(*, runs=8, **never):
    """Targets of these names and shares that are never ready; the launches and their times."""
    rng = np.random.default_rng(1)
    launches = pd.concat(
        [
            simulate(Truth(never=share), runs=runs, count=4, rng=rng, target=name)
            for name, share in never.items()
        ]
    )
    sent_at = pd.Timestamp("2026-01-01", tz="UTC")
    launches = launches.assign(n=4, timeout_s=600.0, sent_at=sent_at)
    return launches, launch_times(launches, Stage.READY, resamples=99)


def test_the_fastest_come_first_and_without_a_median_the_larger_share():
    _, times = times_of(a=0.95, b=0.0, c=0.7)

    assert fastest_first(times, horizon_s=300.0) == ["b", "c", "a"]


def test_of_many_the_first_and_the_last_are_kept():
    assert both_ends("abcdefg", 4) == ["a", "b", "f", "g"]
    assert both_ends("abcdefg", 3) == ["a", "b", "g"]
    assert both_ends("abc", 3) == ["a", "b", "c"]


def test_the_rows_of_some_targets_come_in_their_order_and_of_none_there_are_none():
    table = pd.DataFrame({"target": list("abca"), "s": [1.0, 2.0, 3.0, 4.0]})

    assert only(table, ["c", "a"])["s"].tolist() == [3.0, 1.0, 4.0]
    assert only(table, []).empty
    assert only(table.iloc[:0], ["a"]).empty


def test_a_count_is_n_times_the_share_with_its_ends():
    launches, times = times_of(a=0.3)
    share = times["a"].share_ready(120.0)
    [row] = ready_of_n(times, launches, horizon_s=200.0).to_dict("records")

    assert [row["ready_120s"], row["ready_120s_low"]] == [4 * share.value, 4 * share.low]
    assert row["ready_120s_high"] == 4 * share.high
    assert {"ready_60s", "ready_180s", "ready_200s"} <= set(row)
    assert "ready_300s" not in row


def test_below_six_runs_a_count_has_no_interval():
    launches, times = times_of(runs=5, a=0.3)
    [row] = ready_of_n(times, launches, horizon_s=200.0).to_dict("records")

    assert np.isnan([row["ready_60s_low"], row["ready_60s_high"]]).all()
    assert np.isfinite(row["ready_60s"])


def test_a_median_has_one_interval_wherever_it_stands():
    """In both tables, their cells, the answer, a figure, the comparison, and estimated alone."""
    launches, _ = times_of(runs=12, a=0.0, b=0.2)
    for part, stage in ((0.3, "fulfilled"), (0.6, "running")):
        ends = {f"{stage}_{end}_s": part * launches[f"ready_{end}_s"] for end in ("after", "by")}
        launches = launches.assign(**ends)
    launches = launches.assign(simulated=True)
    estimates = durations(launches, Stage.READY, resamples=99)
    times = estimates["request to ready"]
    pairs = compare_targets(times, horizon_s=300.0)
    medians = {name: each.quantile() for name, each in times.items()}
    words = {name: each.words("", digits=1) for name, each in medians.items()}
    everything = all_times(estimates, horizon_s=300.0)
    of_n = ready_of_n(times, launches, horizon_s=300.0)

    half = of_n.set_index("target")[["half_s", "half_s_low", "half_s_high"]]
    table = everything[everything["time"] == "request to ready"].set_index("target")
    table = table[["median_s", "median_s_low", "median_s_high"]]
    launch_times_module.draw_runs.cache_clear()  # as another notebook, on another day
    for name, median in medians.items():
        here = [median.value, median.low, median.high]
        own = launches[launches["target"] == name]
        [alone] = launch_times(own, Stage.READY, resamples=99).values()
        assert half.loc[name].tolist() == table.loc[name].tolist() == here
        assert alone.quantile() == median
        assert np.isfinite(here).all()
    assert dict(formatted_ready(of_n)[["target", "seconds until half"]].to_numpy()) == words
    answer = " ".join(answer_sentences(of_n, pairs, launches, Stage.READY))
    fastest = min(medians, key=lambda name: medians[name].value)
    half, digits = medians[fastest], int(medians[fastest].value < 100)
    assert (
        f"half of its instances were ready after {half.value:.{digits}f} s "
        f"(95 % interval {half.ends(digits)})"
    ) in answer
    [ratio] = pairs["ratio"]
    assert ratio == medians["a"].value / medians["b"].value

    fulfilled = everything[everything["time"] == "request to fulfilled"]
    ax, *_ = phases_figure(phases(estimates), Styles.of(times), simulated=True).axes
    bars = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 3]
    drawn = [list(bar) for bar in bars]
    assert drawn == fulfilled[["median_s_low", "median_s_high"]].to_numpy().tolist()


def test_a_phase_that_no_request_completed_took_longer_than_six_runs_were_watched():
    """So its arrow stands beyond that time, and not beyond the longest of the other targets."""
    launches, times = times_of(a=0.999, b=0.0)
    last_s = launches[launches["target"] == "a"].groupby("run")["watched_s"].min()
    longest_s = last_s.nlargest(6).min()
    parts = phases({"request to fulfilled": times})

    [never] = parts[parts["target"] == "a"].to_dict("records")
    assert (never["low_s"], never["high_s"]) == (longest_s, np.inf)
    assert parts.loc[parts["target"] == "b", "low_s"].lt(longest_s).all()
    ax, *_ = phases_figure(parts, Styles.of(times), simulated=True).axes
    [arrow] = [line for line in ax.lines if line.get_marker() == ">"]
    assert arrow.get_xdata()[0] > longest_s


def test_the_end_is_the_last_poll_before_the_timeout():
    launches, _ = times_of(a=0.5)
    waits = launches["outcome"] == "timed_out"
    launches.loc[waits, "watched_s"] = np.linspace(590.5, 599.0, waits.sum())
    times = launch_times(launches, Stage.READY, resamples=9)

    assert common_horizon_s(times, launches) == 590
    assert "the last polls before the timeout" in end_sentence(times, launches, horizon_s=590.0)
    assert end_sentence(times, launches, horizon_s=90.0).startswith("End: 90 s, as asked")


@pytest.mark.parametrize("runs", [2, 3, 8])
@pytest.mark.parametrize("never", [0.0, 0.4])
def test_a_run_that_was_stopped_changes_neither_the_end_nor_the_shares_by_then(runs, never):
    """It is censored where it was stopped, and the others say what came later."""
    launches, whole = times_of(runs=runs, a=never, b=0.0)
    launches.loc[launches["outcome"] == "timed_out", "watched_s"] = 598.0
    whole = launch_times(launches, Stage.READY, resamples=99)
    more = launches[launches["run"] == launches["run"].iloc[0]]
    ends = {"outcome": "abandoned", "watched_s": 9.0, "ready_after_s": np.nan, "ready_by_s": np.nan}
    stopped = pd.concat([launches, more.assign(**ends, run="stopped/0/0")], ignore_index=True)
    times = launch_times(stopped, Stage.READY, resamples=99)

    end_s = common_horizon_s(whole, launches)
    assert common_horizon_s(times, stopped) == end_s
    for name, each in whole.items():
        share, again = each.share_ready(end_s), times[name].share_ready(end_s)
        assert again.value == pytest.approx(share.value, abs=1e-6)
        assert again.low == pytest.approx(share.low, abs=0.04, nan_ok=True)
    said = end_sentence(times, stopped, horizon_s=end_s)
    assert said.endswith("1 run that was watched for less counts as far as it was watched.")


def test_where_most_runs_were_stopped_the_end_is_until_when_half_were_watched():
    launches, _ = times_of(a=0.5)
    launches[["ready_after_s", "ready_by_s"]] = np.nan
    stops_s = launches["run"].map({run: 10.5 * n for n, run in enumerate(set(launches["run"]), 1)})
    launches = launches.assign(outcome="abandoned", watched_s=stops_s)
    times = launch_times(launches, Stage.READY, resamples=9)

    assert common_horizon_s(times, launches) == 52  # the fifth of eight
    assert "at least half of the runs" in end_sentence(times, launches, horizon_s=52.0)


def test_one_run_of_a_shorter_timeout_in_ten_does_not_shorten_the_end():
    launches, _ = times_of(runs=12, a=0.0)
    first = launches["run"] == launches["run"].iloc[0]

    assert planned_s(launches.assign(timeout_s=launches["timeout_s"].mask(first, 60.0))) == 600.0
    half = launches["run"].isin(sorted(set(launches["run"]))[:6])
    assert planned_s(launches.assign(timeout_s=launches["timeout_s"].mask(half, 60.0))) == 60.0


def pairs_of(**columns):
    """Pairs of a and b as from ``compare_targets``, what is not given being unknown."""
    names = ("ratio", "difference", "later_s")
    ends = [f"{name}_{end}_adjusted" for name in names for end in ("low", "high")]
    return pd.DataFrame(
        {"first": "a", "second": "b"} | dict.fromkeys([*names, *ends], np.nan) | columns
    )


def test_each_pair_that_is_shown_is_turned_so_that_the_slower_is_first():
    pairs = pairs_of(
        p_holm=0.01,
        ratio=[0.5, 2.0, np.nan, np.nan],
        ratio_low_adjusted=[0.4, 1.5, np.nan, 1.25],
        ratio_high_adjusted=[0.8, 3.0, 0.5, np.inf],
        difference=[0.1, 0.0, 0.75, -0.5],
        difference_low_adjusted=[-0.1, -0.1, 0.5, -0.7],
        difference_high_adjusted=[0.3, 0.1, 0.9, -0.2],
    )

    turned = most_different(pairs).sort_values("ratio").set_index("first")

    b, a = turned.loc["b"], turned.loc["a"]
    assert b["second"].tolist() == ["a", "a"]
    assert [each["ratio"].iloc[0] for each in (b, a)] == [2.0, 2.0]
    assert b[["ratio_low_adjusted", "ratio_high_adjusted"]].to_numpy().tolist() == [
        [1.25, 2.5],
        [2.0, np.inf],
    ]
    assert b["difference"].tolist() == [-0.1, -0.75]
    assert b["difference_low_adjusted"].tolist() == [-0.3, -0.9]
    assert a["ratio_low_adjusted"].tolist() == [1.5, 1.25]
    assert a["difference"].tolist() == [0.0, -0.5]


def test_the_first_of_a_pair_is_the_later_by_what_is_tested_whatever_its_median():
    pairs = pairs_of(
        p_holm=0.01,
        later_s=[-5.0, 5.0],
        later_s_low_adjusted=[-9.0, 1.0],
        later_s_high_adjusted=[-1.0, 9.0],
        ratio=[2.0, 0.5],
        difference=0.0,
    )

    turned = most_different(pairs).set_index("first")

    assert turned["later_s"].to_dict() == {"b": 5.0, "a": 5.0}
    assert turned["later_s_low_adjusted"].tolist() == [1.0, 1.0]
    assert turned["later_s_high_adjusted"].tolist() == [9.0, 9.0]
    assert turned["ratio"].tolist() == [0.5, 0.5]
    longer = longer_median_first(pairs)
    assert longer["ratio"].tolist() == [2.0, 2.0]
    assert longer["first"].tolist() == ["a", "b"]


def test_only_pairs_that_differ_are_shown_and_every_one_on_request():
    pairs = pairs_of(p_holm=[0.5, 0.01, np.nan, 0.01], difference=[0.9, -0.1, 0.2, -0.4])

    assert most_different(pairs)["difference"].tolist() == [-0.4, -0.1]
    assert len(most_different(pairs, every=True)) == 4


def test_a_whole_number_has_no_decimals_and_an_unknown_one_is_a_dash():
    html = table_html(pd.DataFrame({"n": [5.0, np.nan], "s": [1.234, 5.0]}), digits=1).to_html()

    assert ">5<" in html
    assert ">-<" in html
    assert ">1.2<" in html
    assert ">5.0<" in html


def of_n(*rows, runs=20):
    """A table as from ``ready_of_n``: n of each target, two counts and the half, with ends."""
    names = ["ready_180s", "ready_350s", "half_s"]
    return pd.DataFrame(
        [
            {"target": target, "runs": runs, "watched": runs, "n": n, "least_n": n, "most_n": n}
            | {
                name + end: value
                for name, values in zip(names, estimates, strict=True)
                for end, value in zip(("", "_low", "_high"), values, strict=True)
            }
            for target, n, *estimates in rows
        ]
    )


def answer(table, *differ, hours=19, stage=Stage.READY):
    """The sentences, if these pairs of targets differ by more than chance."""
    found = list(combinations(table["target"], 2))
    p_holm = [0.01 if pair in differ else 0.3 for pair in found]
    pairs = pd.DataFrame(found, columns=["first", "second"]).assign(p_holm=p_holm)
    sent_at = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta([0, hours], unit="h")
    return list(answer_sentences(table, pairs, pd.DataFrame({"sent_at": sent_at}), stage))


GOOD = ("a.nano in x", 5, (0.1, 0.0, 0.4), (5.0, 4.1, 5.0), (247.6, 229.1, 264.6))
FAIR = ("b.nano in x", 5, (0.0, 0.0, 0.4), (2.24, 1.7, 2.8), (np.nan, 287.4, np.inf))
BAD = ("c.nano in y", 5, (0.0, 0.0, 0.4), (0.05, 0.01, 0.3), (np.nan, np.nan, np.inf))
WORSE = ("d.nano in x", 5, (0.0, 0.0, 0.4), (0.05, 0.01, 0.3), (np.nan, np.nan, np.inf))
A, B, C, D = (each[0] for each in (GOOD, FAIR, BAD, WORSE))


def test_four_sentences_say_what_is_fastest_how_many_are_ready_what_to_avoid_and_what_is_open():
    differ = [(A, B), (A, C), (A, D), (B, C), (B, D)]

    assert answer(of_n(GOOD, FAIR, BAD, WORSE), *differ) == [
        f"Fastest is {A}: half of its instances were ready after 248 s (95 % interval 229 to 265).",
        f"Average number ready after 180 s: 0.1 of 5 at {A}, 0.0 at all others; at the end "
        f"(350 s): 5.0 of 5 at {A}, at most 2.2 at all others.",
        "Avoid d.nano in x and c.nano in y: even at the upper end of each interval, fewer than "
        "half were ready after 350 s.",
        "Not known: which is faster in 1 of 6 pairs of targets; when half are ready at 3 of 4 "
        "targets; what happens at other times (all were requested within 19 hours).",
    ]


def test_the_counts_of_the_sentences_are_those_of_the_table():
    table = of_n(GOOD, FAIR, BAD)
    shown = formatted_ready(table).set_index("target")
    fastest, ready, *_ = answer(table)

    assert "248 s (95 % interval 229 to 265)" in fastest
    assert shown.loc[A, "seconds until half"] == "248 (229 to 265)"
    assert shown["180 s"].str.split().str[0].tolist() == ["0.1", "0.0", "0.0"]
    assert shown["350 s (end)"].str.split().str[0].tolist() == ["5.0", "2.2", "0.1"]
    assert "0.1 of 5" in ready
    assert "at most 2.2 at" in ready


def test_targets_that_cannot_be_told_apart_are_named_beside_the_fastest_and_the_slowest():
    slow = ("b.nano in x", 5, (4.0, 3.5, 4.5), (4.4, 4.0, 4.8), (90.0, 80.0, 99.0))
    slower = ("c.nano in x", 5, (4.0, 3.5, 4.5), (4.3, 4.0, 4.8), (95.0, 85.0, 99.0))
    fast = ("e.nano in x", 5, (4.0, 3.5, 4.5), (4.6, 4.0, 4.8), (60.0, 50.0, 70.0))
    table = of_n(fast, slow, slower)

    told = answer(table, ("e.nano in x", B), ("e.nano in x", "c.nano in x"))
    untold = answer(table)

    assert told[0].endswith("were ready after 60.0 s (95 % interval 50.0 to 70.0).")
    assert told[2] == (
        "Slowest is c.nano in x: half of its instances were ready after 95.0 s (95 % interval "
        "85.0 to 99.0); b.nano in x cannot be told apart from it."
    )
    assert untold[0].startswith("Fastest seen is ")
    assert untold[0].endswith("; no other target can be told apart from it.")
    assert untold[2] == "No target is shown to be slower than another."


def test_a_target_is_to_be_avoided_only_if_its_whole_interval_is_below_half():
    said = answer(of_n(GOOD, FAIR), (A, B))
    few_runs = answer(of_n((A, 5, NONE, (0.1, np.nan, np.nan), NONE), runs=5))

    assert said[2].startswith(f"Slowest is {B}: 2.2 of 5 (95 % interval 1.7 to 2.8) were ready")
    assert not [each for each in (*said, *few_runs) if "void" in each]
    assert few_runs[0] == f"The only target is {A}: 0.1 of 5 (no interval) were ready after 350 s."
    assert "how sure this is for 1 of 1 target (an interval needs 6 runs)" in few_runs[-1]


def test_of_many_poor_targets_the_number_is_said():
    poor = [(f"t{number}.nano in x", *BAD[1:]) for number in range(12)]

    assert "Avoid 12 of 13 targets: " in answer(of_n(GOOD, *poor))[2]


def test_counts_of_different_n_are_said_as_shares_and_shown_with_their_n():
    table = of_n(GOOD, ("b.nano in x", 10, (1.0, 0.5, 2.0), (8.0, 7.0, 9.0), (250.0, 240, 260)))

    assert "at the end (350 s): 100 % of n at a.nano in x, 80 % at the other." in answer(table)[1]
    assert formatted_ready(table)["n"].tolist() == ["5", "10"]
    assert "n" not in formatted_ready(of_n(GOOD, FAIR))
    captions = [ready_caption(each, Stage.READY, [A, B]) for each in (of_n(GOOD, FAIR), table)]
    assert captions[0].startswith("Average number ready of 5 requested instances, after")
    assert captions[1].startswith("Average number ready of n requested instances, after")


def test_runs_of_different_n_of_one_target_are_said_so():
    launches, _ = times_of(a=0.0, b=0.0)
    mixed = (launches["target"] == "a") & (launches["run"] == launches["run"].min())
    launches = launches.assign(n=launches["n"].mask(mixed, 3))
    times = launch_times(launches, Stage.READY, resamples=20)
    table = ready_of_n(times, launches, horizon_s=200.0)

    shown = formatted_ready(table).set_index("target")
    caption = ready_caption(table, Stage.READY, ["a", "b"])

    assert shown["n"].to_dict() == {"a": "4 (runs of 3 to 4)", "b": "4"}
    assert caption.startswith("Average number ready of n requested instances")
    assert "n is that of a target's last run; its runs of another n count by their share" in caption


def test_a_phase_that_takes_equally_long_at_several_targets_singles_out_none():
    def said(*medians_s):
        names = "abcdefgh"[: len(medians_s)]
        rows = [
            {"target": name, "phase": "running to ready", "median_s": median_s, "reached": True}
            for name, median_s in zip(names, medians_s, strict=True)
        ]
        return phase_sentence(pd.DataFrame(rows)).partition("its median is ")[2]

    assert said(15.1, 15.2, 14.9) == "15 s at all 3."
    assert said(15.1) == "15 s at a."
    assert said(20.0, 15.0, 15.4, 14.8) == "15 s at 3 of 4 (such as d) to 20 s at a."


def test_runs_that_differ_equally_at_several_targets_single_out_none():
    ends = [np.inf] * 5, [20.0] * 5
    runs = [
        run_rows(ends[number % 2], number=number, plan=plan, region=region)
        for number in range(2)
        for plan, region in enumerate(("eu-west-1", "eu-west-2", "eu-west-3"))
    ]
    launches = name_runs(table_of(*runs))
    times = launch_times(launches, Stage.READY, resamples=20)
    table = ready_of_n(times, launches, horizon_s=300.0)

    assert runs_sentence(times, table, horizon_s=300.0) == (
        "The runs of all 3 differ most: after 300 s, 0 of 5 were ready in one run of t3.nano in "
        "eu-west-1 and 5 of 5 in another."
    )


def test_what_all_targets_share_is_said_once():
    alike = [(name, 1, (1.0, 0.8, 1.0), (1.0, 0.8, 1.0), (20.0, 19.0, 21.0)) for name in "ab"]

    assert "after 180 s: 1.00 of 1 at every target; at the end" in answer(of_n(*alike))[1]
    assert "after 180 s: 1.00 of 1; at the end" in answer(of_n(alike[0]))[1]


def test_a_target_whose_count_is_not_known_is_named_and_no_other_target_stands_for_it():
    """Polls that are far apart tell limits only."""
    half = (20.0, 19.0, 21.0)
    open_ = ("c.nano in x", 5, (np.nan, 0.0, 5.0), (5.0, 4.0, 5.0), (np.nan, 50.0, 250.0))
    rows = [(name, 5, (5.0, 4.0, 5.0), (5.0, 4.0, 5.0), half) for name in (A, B)]
    worse = (B, 5, (2.0, 1.0, 3.0), (5.0, 4.0, 5.0), half)

    after = "after 180 s: 5.0 of 5 at a.nano"
    assert f"{after} and b.nano in x, not known at c.nano in x;" in answer(of_n(*rows, open_))[1]
    said = answer(of_n(rows[0], worse, open_))[1]
    assert f"{after} in x, 2.0 at b.nano in x, not known at c.nano in x;" in said
    assert f"{after} in x, not known at c.nano in x;" in answer(of_n(rows[0], open_))[1]
    assert "at the end (350 s): 5.0 of 5 at every target." in said


def test_a_half_that_was_not_reached_has_the_bound_of_its_interval():
    shown = formatted_ready(of_n(GOOD, FAIR, BAD)).set_index("target")["seconds until half"]

    assert shown[B] == "not by 350 s (287 or more)"
    assert shown[C] == "not by 350 s"


@pytest.mark.parametrize(
    ("stage", "meaning"),
    [(Stage.READY, "passed EC2's status checks"), (Stage.RUNNING, '"running"')],
)
def test_the_caption_says_what_ready_means(stage, meaning):
    assert meaning in ready_caption(of_n(GOOD), stage, [A])

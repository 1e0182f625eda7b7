"""Which targets 03 shows, in which order, up to when, and in which colours."""

import numpy as np
import pandas as pd
import seaborn as sns
from studies import Truth, simulate

from spotlib.analyze import launch_times as launch_times_module
from spotlib.analyze.compare import compare_targets, most_different
from spotlib.analyze.figures import Styles, phases_figure
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.sentences import answer_sentences, formatted_ready
from spotlib.analyze.summaries import (
    all_times,
    both_ends,
    common_horizon_s,
    durations,
    fastest_first,
    phases,
    ready_of_n,
)
from spotlib.figures import table_html, target_colours
from spotlib.model import Stage


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
    words = {name: each.words("", digits=0) for name, each in medians.items()}
    everything = all_times(estimates, horizon_s=300.0)
    of_n = ready_of_n(times, launches, horizon_s=300.0)

    half = of_n.set_index("target")[["half_s", "half_s_low", "half_s_high"]]
    table = everything[everything["time"] == "request to ready"].set_index("target")
    table = table[["median_s", "median_s_low", "median_s_high"]]
    launch_times_module._draw_runs.cache_clear()  # as another notebook, on another day
    for name, median in medians.items():
        here = [median.value, median.low, median.high]
        own = launches[launches["target"] == name]
        [alone] = launch_times(own, Stage.READY, resamples=99).values()
        assert half.loc[name].tolist() == table.loc[name].tolist() == here
        assert alone.quantile() == median
        assert np.isfinite(here).all()
    assert dict(formatted_ready(of_n)[["target", "half after, s"]].to_numpy()) == words
    answer = " ".join(answer_sentences(times, pairs, launches, horizon_s=300.0))
    for name, median in medians.items():
        ends = f"95 % interval {median.low:.0f} to {median.high:.0f}"
        assert f"{name}: half of the instances requested were ready after {median.value:.0f} s" in (
            answer
        )
        assert f"({ends})" in answer
    [ratio] = pairs["ratio"]
    assert ratio == medians["a"].value / medians["b"].value

    fulfilled = everything[everything["time"] == "request to fulfilled"]
    ax, *_ = phases_figure(phases(estimates), Styles.of(times), simulated=True).axes
    bars = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 3]
    drawn = [list(bar) for bar in bars]
    assert drawn == fulfilled[["median_s_low", "median_s_high"]].to_numpy().tolist()


def test_the_end_is_before_the_last_polls_of_what_timed_out():
    launches, times = times_of(a=0.5)
    waits = launches["outcome"] == "timed_out"
    launches.loc[waits, "watched_s"] = np.linspace(250.5, 260.0, waits.sum())

    assert 250 <= common_horizon_s(times, launches) <= 252


def test_only_pairs_that_differ_are_shown_and_every_one_on_request():
    pairs = pd.DataFrame({"p_holm": [0.5, 0.01, np.nan, 0.01], "difference": [0.9, 0.1, 0.2, -0.4]})

    assert most_different(pairs)["difference"].tolist() == [-0.4, 0.1]
    assert len(most_different(pairs, every=True)) == 4


def test_a_line_of_every_colour_stands_out_from_white():
    for number in (3, 10, 40):
        colours = target_colours([f"t{each}" for each in range(number)]).values()
        assert min(1.05 / (sns.utils.relative_luminance(each) + 0.05) for each in colours) >= 3
        assert len(set(colours)) == number


def test_a_whole_number_has_no_decimals_and_an_unknown_one_is_a_dash():
    html = table_html(pd.DataFrame({"n": [5.0, np.nan], "s": [1.234, 5.0]}), digits=1).to_html()

    assert ">5<" in html
    assert ">-<" in html
    assert ">1.2<" in html
    assert ">5.0<" in html

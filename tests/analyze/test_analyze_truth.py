"""Estimates against known truth: bias, coverage, and the whole path through the endpoint."""

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of
from scipy import stats
from studies import NANO, Truth, coverage, errors, narrow, record, simulate

from spotlib.analyze.comparable import name_runs
from spotlib.analyze.launch_times import launch_times, observe
from spotlib.analyze.load import load_comparable
from spotlib.analyze.summaries import durations, phases, server_times, summarize
from spotlib.analyze.turnbull import turnbull
from spotlib.model import Stage
from spotlib.sandbox.world import Fate


def test_median_and_restricted_mean_are_true_where_the_first_poll_is_late():
    rows = errors(Truth(median_s=20.0, never=0.3), studies=6, seed=2)
    median, median_seen, mean, mean_seen = rows.mean(axis=0)
    noise_s = 4 * rows.std(axis=0, ddof=1) / np.sqrt(len(rows))

    assert abs(median) < 0.1 + noise_s[0]
    assert median_seen > 1.2
    assert abs(mean) < 0.1
    assert mean_seen > 1.0  # 0.7 of the requests become ready, each seen 1.8 s late


def test_intervals_over_runs_cover_the_truth_and_those_over_instances_do_not():
    studies = 50
    share = coverage(studies=studies, runs=12, count=6, resamples=99, seed=3).mean()
    least = stats.binom.ppf(0.001, studies, 0.92) / studies

    assert (share["run"] >= least).all(), share
    assert (share["instance"] < 0.85).all(), share


def test_below_six_runs_there_is_no_interval_but_the_reason():
    launches = simulate(Truth(), runs=5, count=10, rng=np.random.default_rng(1))
    [times] = launch_times(launches, Stage.READY, resamples=50).values()

    for estimate in (times.quantile(), times.share_ready(30.0), times.restricted_mean(300.0)):
        assert np.isfinite(estimate.value)
        assert np.isnan(estimate.low)
        assert estimate.why == "5 runs, at least 6 are needed"
    assert "no interval: 5 runs" in times.quantile().words()


def stopped_at(launches, time_s, *, after):
    """The launches if all runs from the round ``after`` on had been stopped at a time."""
    cut = (launches["round"] >= after) & ~(launches["ready_by_s"] < time_s)
    ends = {f"ready_{end}_s": launches[f"ready_{end}_s"].mask(cut) for end in ("after", "by")}
    outcome = launches["outcome"].mask(cut, "abandoned")
    return launches.assign(
        **ends, outcome=outcome, watched_s=launches["watched_s"].mask(cut, time_s)
    )


@pytest.mark.parametrize("whole", [5, 6])
def test_the_six_runs_of_an_interval_are_those_that_were_watched_so_long(whole):
    launches = simulate(Truth(never=0.5), runs=whole + 4, count=10, rng=np.random.default_rng(1))
    launches = stopped_at(launches, 100.0, after=whole)
    [times] = launch_times(launches, Stage.READY, resamples=50).values()
    early, late = times.share_ready(90.0), times.share_ready(300.0)
    band = times.band(np.array([90.0, 300.0]))
    [row] = summarize({"t3.nano": times}, horizon_s=300.0).to_dict("records")

    assert times.runs_watched([90.0, 300.0]).tolist() == [whole + 4, whole]
    assert early.low < early.value < early.high
    assert times.quantile().why == ""
    assert row["watched"] == whole
    why = "" if whole == 6 else "5 runs watched so long, at least 6 are needed"
    for each in (late, times.restricted_mean(300.0)):
        assert np.isfinite(each.value)
        assert each.why == why
        assert bool(np.isfinite(each.low)) is (whole == 6)
    limits = band[["low", "high", "curve_low", "curve_high"]]
    assert limits.notna().all(axis="columns").tolist() == [True, whole == 6]


def test_one_run_is_estimated_without_an_interval():
    launches = simulate(Truth(), runs=1, count=10, rng=np.random.default_rng(1))
    [times] = launch_times(launches, Stage.READY, resamples=50).values()

    assert times.quantile().why.startswith("1 run,")


def test_all_ready_in_every_run_is_not_certainty():
    launches = simulate(Truth(), runs=20, count=1, rng=np.random.default_rng(1))
    [times] = launch_times(launches, Stage.READY, resamples=99).values()
    share = times.share_ready(590.0)

    assert share.value == pytest.approx(1.0)
    # Jeffreys' lower limit for 20 of 20 is 0.883; exactly, 0.861 or more is likely by 5 %.
    assert 0.87 < share.low < 0.88  # by Student's t for 18.7 of 18.7


class TestBand:
    """The band of a curve: pointwise, and for the whole of it."""

    @pytest.fixture(params=[12, 60], ids=["few runs", "many runs"])
    def times(self, request):
        launches = simulate(
            Truth(never=0.2), runs=request.param, count=5, rng=np.random.default_rng(1)
        )
        [times] = launch_times(launches, Stage.READY, resamples=199).values()
        return times

    def test_it_is_at_each_time_the_interval_of_the_share(self, times):
        band = times.band(np.linspace(0, 590, 60))

        for row in band.to_dict("records"):
            share = times.share_ready(row["time_s"])
            assert (row["share"], row["low"], row["high"]) == (share.value, share.low, share.high)

    def test_no_limit_depends_on_how_many_points_are_drawn(self, times):
        many, two = (times.band(np.linspace(0, 300, number)) for number in (301, 2))

        pd.testing.assert_frame_equal(
            many.iloc[[0, -1]].reset_index(drop=True), two, check_exact=True
        )

    def test_no_limit_falls_and_the_whole_curves_holds_the_pointwise(self, times):
        band = times.band(np.linspace(0, 590, 591))

        for name in ("share", "low", "high", "curve_low", "curve_high"):
            assert (band[name].diff().dropna() >= 0).all(), name
        assert (band["curve_low"] <= band["low"]).all()
        assert (band["low"] <= band["share"]).all()
        assert (band["share"] <= band["high"]).all()
        assert (band["high"] <= band["curve_high"]).all()
        wider = (band["curve_high"] - band["curve_low"]) / (band["high"] - band["low"])
        assert wider[band["share"].between(0.2, 0.7)].min() > 1.1

    def test_before_the_first_instance_each_run_counts_as_one_request(self, times):
        [first] = times.band(np.array([1.0])).to_dict("records")
        runs, z = times.observed.runs, stats.norm.ppf(0.975)
        smaller = (z / stats.t.ppf(0.975, 2 * (runs - 1))) ** 2

        assert first["share"] == first["low"] == 0
        assert first["high"] == pytest.approx(stats.beta.isf(0.025, 0.5, runs * smaller + 0.5))

    def test_the_interval_of_a_quantile_ends_where_the_band_crosses_its_share(self, times):
        """Or where the brackets leave it open, if that is further out."""
        for share in (0.3, 0.5):
            time, (first, last) = times.quantile(share), times.observed.left_open(share)
            ends = times.band(np.array([time.low, time.high]))

            assert first == time.low or ends["high"][0] == pytest.approx(share, abs=1e-4)
            assert last == time.high or ends["low"][1] == pytest.approx(share, abs=1e-4)
            assert time.low <= first < last <= time.high


@pytest.mark.parametrize("law", ["one time", "two times", "exponential"])
def test_a_median_is_covered_where_times_differ_by_less_than_a_bracket_is_wide(law):
    """All runs of a study begin alike in EC2's second, which is the worst case."""
    draw, median_s = narrow.LAWS[law]
    rng = np.random.default_rng(1)
    studies = (narrow.study(draw, rng, alike=True, resamples=49) for _ in range(15))
    found = [(each.quantile(), each.restricted_mean(9.0)) for each in studies]

    assert sum(median.low <= median_s <= median.high for median, _ in found) >= 13
    assert all(mean.high - mean.low >= 1.0 for _, mean in found)  # as wide as a bracket


def test_where_runs_are_the_same_every_limit_is_jeffreys_for_all_requests():
    """Ten runs of four, one ready within each 3 s from 20 s on: nothing varies between runs.

    Near 0 and 1 the limit is that of ten runs which all ended alike.
    """
    by_s = 20.0 + np.tile([3.0, 6.0, 9.0, 12.0], 10)
    launches = pd.DataFrame({"ready_after_s": by_s - 3, "ready_by_s": by_s}).assign(
        target="t", outcome="ready", kind=None, watched_s=by_s - 3
    )
    launches["run"] = [f"batch/{number}/0" for number in np.repeat(range(10), 4)]
    [times] = launch_times(launches, Stage.READY, resamples=49).values()
    time_s = 20.0 + np.linspace(0.1, 11.9, 60)
    size = 40 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 18)) ** 2
    ready = size * (time_s - 20.0) / 12

    band = times.band(time_s)

    alike = stats.beta.ppf(0.025, size / 4 + 0.5, 0.5)
    low, high = (stats.beta.ppf(tail, ready + 0.5, size - ready + 0.5) for tail in (0.025, 0.975))
    inner = (ready / size > 0.1) & (ready / size < 0.9)  # nearer the size falls towards the runs
    for limit, expected in (("low", low.clip(max=alike)), ("high", high.clip(min=1 - alike))):
        assert band[limit].to_numpy()[inner] == pytest.approx(expected[inner], abs=2e-3)


def test_nobody_ready_is_an_answer():
    launches = simulate(Truth(never=0.999), runs=8, count=2, rng=np.random.default_rng(1))
    distributions = launch_times(launches, Stage.READY, resamples=50)
    [row] = summarize(distributions, horizon_s=590.0).to_dict("records")

    assert row["shown"] == 0
    assert row["share"] == 0
    assert 0.2 < row["share_high"] < 0.5  # 0 of 8 runs
    assert np.isnan(row["median_s"])
    assert row["restricted_mean_s"] == pytest.approx(590.0)


class TestPlainLaunches:
    """Launches as ``load_launches`` returns them, without a column ``run``."""

    def estimate(self, *runs):
        return launch_times(table_of(*runs), Stage.READY)

    def test_only_observations_are_read(self):
        quota = run_rows([INF], number=1, outcome="refused", kind="quota")
        [times] = self.estimate(run_rows([20.0, 30.0]), quota).values()

        assert (times.target, times.observed.runs) == (str(NANO), 1)

    def test_different_variables_are_never_pooled(self):
        real = run_rows([20.0], number=1, simulated=False)

        with pytest.raises(ValueError, match="launches of different simulated are never pooled"):
            self.estimate(run_rows([20.0]), real)

    def test_without_a_launch_there_is_no_estimate(self):
        assert self.estimate() == {}


def test_the_same_seed_yields_the_same_numbers():
    launches = simulate(Truth(), runs=8, count=3, rng=np.random.default_rng(1))
    tables = [
        summarize(
            launch_times(launches, Stage.READY, resamples=50),
            horizon_s=500.0,
        )
        for _ in range(2)
    ]

    pd.testing.assert_frame_equal(*tables)


def test_the_simulator_draws_what_its_truth_says():
    truth = Truth(median_s=30.0, never=0.3)
    times_s = truth.draw(runs=4000, count=5, rng=np.random.default_rng(1))

    assert np.minimum(times_s, 500.0).mean() == pytest.approx(
        truth.restricted_mean_s(500.0), rel=0.03
    )
    assert (times_s <= 40.0).mean() == pytest.approx(truth.share_by(40.0), abs=0.015)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Twelve requests through the endpoint, one of them never fulfilled, with their true times."""
    log = tmp_path_factory.mktemp("study") / "20240901T000000Z-abcdef.jsonl"
    fates = [
        Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=4.0 + k, ok_s=9.0 + 0.7 * k) for k in range(5)
    ]
    fates += [Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=None, ok_s=None)]
    world = record(log, targets=(NANO,), n=3, rounds=4, fates=fates * 2, timeout_s=60.0)
    return load_comparable(log), world


def test_through_the_endpoint_the_estimates_agree_with_what_truly_happened(recorded):
    data, world = recorded
    sent = {}
    for row in data.launches.to_dict("records"):
        sent[row["request_id"]] = row["sent_at"].timestamp()
    epoch_s = world.epoch.timestamp()
    true_s = [
        each["shown_s"].get("ready", np.inf) + epoch_s - sent[each["request_id"]]
        for each in world.truth()
    ]
    curve = turnbull(observe(data.launches, Stage.READY))

    assert data.simulated
    assert curve.share_by(50.0) == pytest.approx(10 / 12)
    mean_s = np.minimum(true_s, 50.0).mean()
    assert curve.restricted_mean_s(50.0) == pytest.approx(mean_s, abs=0.9)


def test_phases_and_ec2s_own_stamps_stand_beside_the_brackets(recorded):
    data, _ = recorded
    parts = phases(durations(data.launches, data.wanted, resamples=50))
    [stamps] = server_times(data.launches).to_dict("records")

    assert parts["phase"].tolist() == [
        "request to fulfilled",
        "fulfilled to running",
        "running to ready",
    ]
    assert parts["median_s"].between([0, 3, 8], [5, 9, 16]).all()
    assert stamps["requests"] == 12
    assert 0.5 < stamps["created_to_fulfilled_s"] < 2.5  # 1.5 s, in whole seconds


class TestEnds:
    """What each way of ending means for the curve."""

    def launches(self, *ends):
        rows = [
            {
                "target": "t",
                "run": f"b/{number}/0",
                "outcome": outcome,
                "kind": kind,
                "watched_s": watched_s,
                "ready_after_s": np.nan if by_s is None else by_s - 3.0,
                "ready_by_s": np.nan if by_s is None else by_s,
            }
            for number, (outcome, kind, watched_s, by_s) in enumerate(ends)
        ]
        return pd.DataFrame(rows).astype({"ready_by_s": float, "ready_after_s": float})

    @pytest.mark.parametrize(
        ("outcome", "kind"),
        [("interrupted", None), ("failed", None), ("refused", "capacity"), ("refused", "price")],
    )
    def test_what_ec2_ended_is_never_ready(self, outcome, kind):
        seen = observe(self.launches((outcome, kind, 20.0, None)), Stage.READY)

        assert np.isposinf(seen.after_s).all()

    @pytest.mark.parametrize(
        ("outcome", "kind"),
        [
            ("timed_out", None),
            ("abandoned", None),
            ("expired", None),
            ("failed", "account"),
            ("refused", "quota"),
            (None, None),
        ],
    )
    def test_what_we_ended_is_censored_at_the_last_poll(self, outcome, kind):
        seen = observe(self.launches((outcome, kind, 20.0, None)), Stage.READY)

        assert seen.after_s.tolist() == [20.0]
        assert np.isposinf(seen.by_s).all()

    def test_what_was_shown_and_then_interrupted_was_shown(self):
        seen = observe(self.launches(("interrupted", None, 30.0, 12.0)), Stage.READY)

        assert seen.by_s.tolist() == [12.0]


def test_reading_the_state_at_the_start_or_end_of_a_call_shifts_times_by_half_a_call():
    means_s = []
    for moment in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(4)
        launches = simulate(Truth(), runs=150, count=4, rng=rng, lost=0.0, moment=moment)
        mean_s = turnbull(observe(launches, Stage.READY)).restricted_mean_s(590.0)
        means_s.append(float(mean_s) - np.minimum(launches["true_s"], 590.0).mean())
    half_call_s = 0.25 * np.exp(0.3**2 / 2) / 2

    assert means_s == pytest.approx([half_call_s, 0.0, -half_call_s], abs=0.07)


def test_the_interval_of_a_restricted_mean_ends_at_its_horizon():
    """One request of a hundred was never ready: resamples without it know no error."""
    rng = np.random.default_rng(0)
    ready_s = 4.0 + rng.uniform(0, 1, (20, 5))
    ready_s[0, 0] = INF
    launches = name_runs(
        table_of(*(run_rows(run, number=number) for number, run in enumerate(ready_s)))
    )
    [times] = launch_times(launches, Stage.READY).values()

    assert times.restricted_mean(500.0).high == 500.0

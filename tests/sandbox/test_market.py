"""The market: stateless, seeded, and with the shares of its table."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import spearmanr

from spotlib.sandbox import catalogue, history
from spotlib.sandbox.chance import uniforms
from spotlib.sandbox.market import DAY_S, Market, Pool
from spotlib.sandbox.numbers import (
    DEFAULT_SEED,
    MEASURED_2025,
    PROFILES,
    Numbers,
    table_markdown,
)

AUGUST = 1722470400.0  # 2024-08-01T00:00:00Z
NANO = Pool("t4g.nano", "use1-az1", "us-east-1")


@pytest.fixture(scope="module")
def market():
    return Market()


@pytest.fixture(scope="module")
def pools():
    """Every fourth pool of the 17 regions that is sold as spot."""
    every = [
        Pool(name, zone_id, region)
        for region in catalogue.DEFAULT_REGIONS
        for name, zone_ids in catalogue.offered(region).items()
        if (kind := catalogue.instance_type(name)) and kind.sold_as_spot
        for zone_id in zone_ids
    ]
    return every[::4]


@pytest.fixture(scope="module")
def month(market, pools):
    """Placement scores of every pool, at eight moments of a month."""
    return market.placement_scores(pools, AUGUST + np.arange(8) * 4 * DAY_S)


def test_a_moment_has_the_same_value_alone_in_an_array_or_backwards(market):
    at = AUGUST + np.arange(50) * 617.0
    for ask in (market.tightness, market.free_capacity, market.placement_score, market.price_usd):
        row = ask(NANO, at)
        assert np.allclose(ask(NANO, at[::-1])[::-1], row, rtol=0, atol=1e-12)
        assert np.allclose([ask(NANO, moment) for moment in at], row, rtol=0, atol=1e-12)


def test_a_pool_is_the_same_alone_or_among_others(market, pools):
    at = AUGUST + np.arange(5) * 3600.0
    some = pools[::1200]
    assert np.allclose(
        market.tightnesses(some, at), [market.tightness(pool, at) for pool in some], atol=1e-12
    )
    assert (
        market.prices_usd(some, at) == np.array([market.price_usd(pool, at) for pool in some])
    ).all()


def test_two_processes_with_the_same_seed_agree_to_the_last_bit():
    program = (
        "import json; from spotlib.sandbox.market import Market, Pool;"
        "market, pool = Market(7), Pool('c5.large', 'euw1-az1', 'eu-west-1');"
        "boot = market.boot(pool, 1.7e9, request='r', index=1);"
        "ends = market.interruption(pool, 1.7e9, until=1.71e9, request='r', index=1);"
        "print(json.dumps([float(market.tightness(pool, 1.7e9)), boot.boot_s, boot.ok_s, ends]))"
    )
    run = [sys.executable, "-c", program]
    first, second = (subprocess.run(run, capture_output=True, check=True).stdout for _ in range(2))
    assert first == second
    assert len(json.loads(first)) == 4


def test_another_seed_is_another_market(market):
    assert Market(1).tightness(NANO, AUGUST) != market.tightness(NANO, AUGUST)


def test_placement_scores_have_the_measured_shares(month):
    shares = [float((month == score).mean()) for score in (1, 2, 3)]
    assert shares == pytest.approx([0.096, 0.045, 0.859], abs=0.01)


def test_interruption_scores_have_the_measured_shares_and_are_halves(market, pools):
    pairs = sorted({(pool.instance_type, pool.region) for pool in pools})
    scores = np.array([market.interruption_score(*pair, AUGUST) for pair in pairs])
    listed = scores[~np.isnan(scores)]
    shares = [float((listed == score).mean()) for score in (1.0, 1.5, 2.0, 2.5, 3.0)]
    assert shares == pytest.approx([0.241, 0.070, 0.143, 0.241, 0.304], abs=0.02)
    assert 0.01 < np.isnan(scores).mean() < 0.05


def test_the_interruption_score_changes_on_few_days_and_never_within_one(market):
    at = AUGUST + np.arange(31 * 144) * 600.0
    names = [name for name in catalogue.offered("us-east-1") if name.endswith((".small", ".micro"))]
    changes = [np.diff(market.interruption_score(name, "us-east-1", at)) != 0 for name in names]
    per_month = np.sum(changes, axis=1)
    assert 0.3 < np.mean(per_month > 0) < 0.9
    assert per_month.max() <= 10


def test_most_pools_show_the_same_score_all_month_and_some_change_often(market, pools):
    at = AUGUST + np.arange(0, 31 * 24, 3) * 3600.0
    scores = market.placement_scores(pools[::10], at)
    changes = (np.diff(scores, axis=1) != 0).sum(axis=1)
    assert 0.9 < np.mean(changes == 0) < 0.98
    assert (changes > 20).any()


def test_pools_differ_in_level_and_in_volatility(market, pools):
    tight = market.tightnesses(pools[::12], AUGUST + np.arange(300) * 8900.0)
    levels, spreads = tight.mean(axis=1), tight.std(axis=1)
    assert levels.std() > 0.8
    assert np.quantile(spreads, 0.9) > 2 * np.quantile(spreads, 0.1)


def test_the_pools_of_a_zone_move_together():
    market = Market(numbers=replace(Numbers(), zone_volatility=0.5))
    at = AUGUST + np.arange(400) * 7200.0
    here, there = "use1-az1", "use1-az2"
    names = ("c5.large", "m6g.medium", "r5.large")
    same = market.tightnesses([Pool(name, here, "us-east-1") for name in names], at)
    other = market.tightness(Pool("c5.large", there, "us-east-1"), at)
    together = np.corrcoef(same)[np.triu_indices(3, 1)]
    assert together.min() > 0.8
    assert abs(np.corrcoef(same[0], other)[0, 1]) < 0.6


def test_the_placement_score_tells_capacity_but_imperfectly(market, pools, month):
    at = AUGUST + np.arange(8) * 4 * DAY_S
    calm = Market(profile="calm")
    scores = calm.placement_scores(pools, at)
    room = calm.tightnesses(pools, at) <= calm.numbers.full_at
    filled = [float(room[scores == score].mean()) for score in (1, 2, 3)]
    assert filled[0] < filled[1] < filled[2]
    assert 0.2 < filled[0] < 0.6
    assert filled[2] > 0.97

    share = market.accepted_shares(pools, at)
    accepted = [float(share[month == score].mean()) for score in (1, 2, 3)]
    assert accepted[0] < accepted[1] < accepted[2]
    assert 0.85 < accepted[2] < 0.98


def test_the_placement_score_lags_and_is_renewed_every_ten_minutes():
    plain = replace(Numbers(), score_bias=0.0, score_error=0.0, score_lag_s=7200.0)
    market = Market(numbers=replace(plain, volatility_median=0.5))
    at = AUGUST + np.arange(3000) * 1117.0
    seen = market.tightness(NANO, at // 600 * 600 - 7200.0)
    expected = 3.0 - (seen >= plain.score_2_at) - (seen >= plain.score_1_at)
    assert (market.placement_score(NANO, at) == expected).all()
    assert len(set(expected)) > 1


def test_capacity_for_three_of_five_happens(market, pools):
    free = np.array([market.free_capacity(pool, AUGUST) for pool in pools[::3]])
    assert 0.005 < np.mean((free >= 1) & (free < 5)) < 0.1
    assert (free == np.floor(free)).all()


def test_a_larger_capacity_never_scores_better(market, pools):
    one = market.placement_scores(pools[::10], AUGUST)
    fifty = market.placement_scores(pools[::10], AUGUST, capacity=50)
    assert (fifty <= one).all()
    assert (fifty < one).any()


def test_profiles_are_ordered_by_their_capacity(pools):
    some = pools[::50]
    room = [
        np.mean([Market(profile=name).free_capacity(pool, AUGUST) >= 1 for pool in some])
        for name in ("calm", "tight", "outage")
    ]
    assert room[0] > 0.9 > room[1] > room[2]


def test_prices_are_plausible_and_hold_for_hours(market, pools):
    assert market.on_demand_usd("t4g.nano", "us-east-1") == 0.0042
    at = AUGUST + np.arange(144) * 600.0
    prices = market.prices_usd(pools[::120], at)
    on_demand = [market.on_demand_usd(pool.instance_type, pool.region) for pool in pools[::120]]
    saved = 1.0 - prices[:, 0] / on_demand
    assert 0.6 < np.median(saved) < 0.8
    assert (prices <= np.array(on_demand)[:, None]).all()
    assert (np.diff(prices, axis=1) != 0).sum(axis=1).max() <= 6


def test_boots_have_the_measured_median_and_tail(market, pools):
    boots = [
        market.boot(pool, AUGUST, request=str(i), index=0) for i, pool in enumerate(pools[::5])
    ]
    boot_s = np.array([boot.boot_s for boot in boots])
    ok_s = np.array([boot.ok_s for boot in boots])
    assert np.median(boot_s) == pytest.approx(6.0, rel=0.1)
    assert np.quantile(boot_s, 0.95) == pytest.approx(15.0, rel=0.25)
    assert 150 <= ok_s.min() <= ok_s.max() <= 330


def test_the_instances_of_a_request_boot_alike(market):
    boots = np.log(
        [
            [market.boot(NANO, AUGUST, request=str(r), index=i).boot_s for i in (0, 1)]
            for r in range(800)
        ]
    )
    assert np.corrcoef(boots.T)[0, 1] == pytest.approx(0.3, abs=0.1)


def test_a_pool_interrupts_nearly_all_its_instances_within_three_minutes():
    market = Market(numbers=replace(Numbers(), interruption_per_hour=1.0))
    until = AUGUST + 6 * 3600.0
    ends = [
        market.interruption(NANO, AUGUST, until=until, request=str(i), index=0) for i in range(50)
    ]
    slots = [int(moment // 180) for moment in ends if moment is not None]
    first = max(set(slots), key=slots.count)
    assert slots.count(first) >= 40
    assert all(moment > AUGUST for moment in ends if moment is not None)


def test_an_interruption_does_not_depend_on_the_time_of_the_question():
    market = Market(numbers=replace(Numbers(), interruption_per_hour=1.0))
    late = market.interruption(NANO, AUGUST, until=AUGUST + 36000.0, request="r", index=0)
    assert late is not None
    again = market.interruption(NANO, late - 400.0, until=late + 400.0, request="r", index=0)
    assert again == late


def test_latencies_have_their_medians(market):
    describe = [market.latency_s("describe", i) for i in range(2000)]
    request = [market.latency_s("request", i) for i in range(2000)]
    assert np.median(describe) == pytest.approx(0.12, rel=0.05)
    assert np.median(request) == pytest.approx(1.5, rel=0.05)


def test_the_table_has_the_unit_and_source_of_every_number():
    text = table_markdown()
    for item in fields(Numbers):
        assert f"| `{item.name}` | " in text
        assert item.metadata["label"] in ("measured", MEASURED_2025, "invented")
        assert item.metadata["unit"]
        assert item.metadata["note"]


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="fitted, calm, tight, outage, got 'wild'"):
        Market(profile="wild")


def test_the_default_seed_is_one_constant():
    assert Market().seed == DEFAULT_SEED
    assert Market().numbers == PROFILES["fitted"] == Numbers()


EACH = 5


@pytest.fixture(scope="module")
def launches(market, pools):
    """4,000 launches in requests of five: filled at once, and the boots of those."""
    filled, boots = [], []
    for i, (which, when) in enumerate(uniforms(1600, "launches").reshape(800, 2)):
        pool, at = pools[int(which * len(pools))], AUGUST + np.floor(when * 31 * DAY_S)
        room = int(min(EACH, market.free_capacity(pool, at)))
        filled.append(room)
        row = [market.boot(pool, at, request=str(i), index=j).boot_s for j in range(room)]
        boots.append(row + [np.nan] * (EACH - room))
    return np.array(filled), np.array(boots)


def within(share, expected, count):
    """Whether a share is in the central 99.99 % of a binomial with the expected one."""
    return abs(share - expected) < 3.9 * (expected * (1 - expected) / count) ** 0.5


def test_the_share_filled_is_that_of_the_levels_distribution(market, launches):
    """The level of a pool is about normal: P(tightness > full_at) has nothing."""
    n, (filled, _) = market.numbers, launches
    expected = 1.0 - NormalDist(n.level_shift, n.level_spread).cdf(n.full_at)
    assert within(np.mean(filled == 0), expected, len(filled))


def test_whole_requests_fail_together_and_a_part_is_rare(launches):
    filled, _ = launches
    none, part = np.mean(filled == 0), np.mean((filled > 0) & (filled < EACH))
    assert none > 0.04
    assert 0.005 < part < 0.045  # public traces: two to three in a hundred
    alone = 1.0 - filled.mean() / EACH
    assert none > 100 * alone**EACH  # were they independent, nearly none would fail whole


def test_boots_have_the_tables_median_and_correlation_within_a_request(market, launches):
    _, boots = launches
    median = np.nanmedian(boots)
    assert median == pytest.approx(market.numbers.boot_median_s, rel=0.12)  # slack pools are quick
    full = np.log(boots[~np.isnan(boots).any(axis=1)])
    assert 0.25 < np.corrcoef(full[:, 0], full[:, 1])[0, 1] < 0.55  # the request's, and the pool's


def test_the_day_is_tightest_at_three_in_the_afternoon_of_the_region(market):
    days = AUGUST + np.arange(28)[:, None] * DAY_S + np.arange(24) * 3600.0
    for region, east in (("eu-west-1", 1), ("us-west-2", -8), ("ap-northeast-1", 9)):
        zone_id = catalogue.offered(region)["t3.medium"][0]
        names = [name for name in catalogue.offered(region) if name.endswith(".large")][:40]
        pools = [Pool(name, zone_id, region) for name in names]
        tight = market.tightnesses(pools, days.ravel()).reshape(len(pools), 28, 24)
        hourly = tight.mean(axis=(0, 1))
        wave = np.exp(-2j * np.pi * np.arange(24) / 24) @ (hourly - hourly.mean())
        assert abs(wave) / 12 == pytest.approx(market.numbers.day_amplitude, rel=0.3)
        peak_h = (-np.angle(wave) * 24 / 2 / np.pi + east) % 24
        assert peak_h == pytest.approx(15.0, abs=1.5)


def test_the_ranking_explains_part_of_launch_times_and_shares_but_not_all(market):
    pools = history.pools_of(["us-east-1", "eu-west-1"], history.small_types())
    targets = {}
    for pool in pools:
        targets.setdefault((pool.instance_type, pool.region), []).append(pool)
    hours = AUGUST + np.arange(0, 31 * 24, 2) * 3600.0
    rows = []
    for name, members in targets.items():
        scores = market.placement_scores(members, hours)
        room = market.tightnesses(members, hours[::36]) <= market.numbers.full_at
        boots = [
            market.boot(members[0], at, request=f"{name} {at}", index=0).boot_s
            for at in hours[::31]
        ]
        rows.append((scores.std() / scores.mean(), np.median(boots), room.mean()))
    cov, boot, share = np.array(rows).T
    assert (cov > 0).sum() >= 20
    assert 0.15 < spearmanr(cov, boot).statistic < 0.8
    assert -0.8 < spearmanr(cov, share).statistic < -0.1

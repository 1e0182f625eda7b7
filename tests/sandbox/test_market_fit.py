"""The default market has what public requests met: how many were accepted, and how alike."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spotlib.sandbox import catalogue
from spotlib.sandbox.market import DAY_S, Market
from spotlib.sandbox.numbers import PROFILES

FIT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "market_fit.py"))
MAY_2025 = FIT["MAY_2025"]


@pytest.fixture(scope="module")
def market():
    return Market()


@pytest.fixture(scope="module")
def shares(market):
    """Accepted shares of bursts by T3, now and later, in a third of the pools on six days."""
    moments = MAY_2025 + np.arange(6) * 5 * DAY_S
    return FIT["draw_shares"](market, FIT["sold_pools"](every=3), moments)


def test_acceptance_and_states_of_every_class_are_those_published(shares):
    for seed in (1, 2):
        assert FIT["misfits"](FIT["class_table"](shares, seed=seed)) == []


def test_the_markets_for_tests_are_not_like_the_published_one():
    for name in ("calm", "tight"):
        drawn = FIT["draw_shares"](Market(profile=name), FIT["sold_pools"](every=9), [MAY_2025])
        assert len(FIT["misfits"](FIT["class_table"](drawn))) >= 6


def test_states_last_about_as_long_as_published_and_least_long_in_scarce_pools(shares):
    same, correlation = FIT["persistence"](shares)
    for step, published in FIT["SAME_STATE"].items():
        assert same[step] == pytest.approx(published, abs=0.12)
        assert same[step][0] > same[step][-1]
    assert same[50][0] > same[25][0] > same[1][0]
    assert correlation == pytest.approx(FIT["SHARE_CORRELATION"], abs=0.1)


def contested(market):
    """A pool and a moment at which about half of the requests are accepted."""
    pools = FIT["sold_pools"](["us-east-1"], every=3)
    at = 1725148800.0  # where the world of the sandbox begins
    share = market.accepted_shares(pools, at)[:, 0]
    room = market.tightnesses(pools, at)[:, 0] < 1.0
    return pools[int(np.argmin(np.abs(share - 0.5) + ~room))], at


def places(market, pool, at, *, calls, n):
    """Which requests are accepted: one row per call."""
    return np.array(
        [
            [market.accepts(pool, at, held=0, request=f"c{call}", index=i) for i in range(n)]
            for call in range(calls)
        ]
    )


def test_the_requests_of_a_call_are_decided_one_by_one_or_all_alike_as_the_switch_says(market):
    pool, at = contested(market)
    share = float(market.accepted_share(pool, at))
    assert 0.4 < share < 0.6

    apart = places(market, pool, at, calls=200, n=5)
    alike = places(
        Market(numbers=replace(market.numbers, call_together=1.0)), pool, at, calls=200, n=5
    )

    for accepted in (apart, alike):
        assert accepted.mean() == pytest.approx(share, abs=0.1)
    assert 0.7 < np.mean(apart.any(axis=1) & ~apart.all(axis=1)) < 1.0
    assert (alike.any(axis=1) == alike.all(axis=1)).all()


def test_a_refused_request_keeps_its_place_and_is_accepted_when_the_share_has_grown(market):
    pool, at = contested(market)
    times = at + np.arange(0.0, 4 * DAY_S, 600.0)
    share = market.accepted_share(pool, times)
    for index in range(20):
        accepted = market.accepts(pool, times, held=0, request="c", index=index)
        assert accepted[np.argsort(share)].tolist() == sorted(accepted)


def test_ec2_accepts_the_share_of_a_pool_that_the_market_says(make_account, market):
    account = make_account(market=market, quota_vcpus=1e6)
    at = account.world.posix(0.0)
    arm = [
        pool
        for pool in FIT["sold_pools"](["us-east-1"], every=2)
        if "arm64" in catalogue.instance_type(pool.instance_type).architectures
    ]
    share = market.accepted_shares(arm, at)[:, 0]
    pool = arm[int(np.argmin(np.abs(share - 0.6)))]
    launch = {
        "InstanceType": pool.instance_type,
        "Placement": {"AvailabilityZoneId": pool.zone_id},
    }
    ids = [account.request(1, launch)[0] for _ in range(50)]
    account.world.advance(10)
    fulfilled = account.codes(ids).count("fulfilled")
    assert set(account.codes(ids)) == {"fulfilled", "capacity-not-available"}
    expected = float(market.accepted_share(pool, at))
    assert fulfilled / 50 == pytest.approx(expected, abs=0.22)


def test_in_the_markets_for_tests_a_pool_accepts_what_it_can_hold():
    for name in ("calm", "tight", "outage"):
        market = Market(profile=name)
        pools, at = FIT["sold_pools"](["eu-west-1"], every=20), MAY_2025
        for pool in pools:
            free = float(market.free_capacity(pool, at))
            for held in (free - 1, free):
                accepted = market.accepts(pool, at, held=held, request="c", index=0)
                assert bool(accepted) is (held < free)
        assert PROFILES[name].contested_at == np.inf

"""A study of arms on the sandbox finds the sandbox's own differences, and none where there is none.

Batches run through ``collect_batch``.  What the sandbox truly does is asked of its handlers,
without the wire and the loop: at the moment of each run, in the same market, with other draws.
"""

from contextlib import suppress
from functools import cache
from html import unescape
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import plan_for
from crashing import collect_plain, in_process
from pages import shown_by
from programs import chaos
from scipy import stats

from spotlib.analyze.arms import arm_of, arm_times, compare_arms, compare_arms_overall, target_of
from spotlib.analyze.comparable import arm_names
from spotlib.analyze.load import load_comparable
from spotlib.model import Stage, Target
from spotlib.sandbox import catalogue, run_api, spot_api
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import World

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_analyze.ipynb"
REGION = "us-east-1"
EVERY_S = 5400.0  # so far apart, rounds hardly share the state of a pool
TIMEOUT_S, HORIZON_S = 40.0, 36.0
ROUNDS, N = 12, 2
REQUEST, RUN, CONTROL = ARMS = (
    "request_spot_instances",
    "run_instances",
    "run_instances:on-demand",
)
ALIKE = ("run_instances", "run_instances_all_or_nothing")  # if one instance is asked for
PLENTY, SCARCE = (0.999, 1.0), (0.3, 0.7)  # shares of all requests that a pool grants


def study(folder, market, pools, arms, *, n=N, rounds=ROUNDS):
    """Collect a study; return the launch times of each target by each arm, and its launches."""
    world = World(1, market=market, quota_vcpus=1e6, on_demand_vcpus=1e6)
    connection, log = in_process(world), folder / "launches" / f"{market.seed}.jsonl"
    asked = {"n": n, "timeout_s": TIMEOUT_S, "wanted": Stage.RUNNING, "methods": arms}
    checked = plan_for(connection, *map(target_in, pools), **asked)
    given = {"rounds": rounds, "every_s": EVERY_S, "settle_s": 5.0}
    summary = collect_plain(connection, checked, log=log, **given)
    launches = load_comparable(log).arms
    assert summary.problems == ()
    assert len(launches) == len(pools) * len(arms) * n * rounds
    moment = launches["sent_at"] - pd.Timestamp(world.epoch)
    named = launches.assign(arm=arm_names(launches), moment_s=moment.dt.total_seconds())
    return arm_times(named, Stage.RUNNING), named


def target_in(pool):
    return Target(pool.instance_type, pool.region, pool.zone_id)


def pools_that_grant(market, shares, *, most, rounds=ROUNDS):
    """Pools, each of another type, that grant such shares in the hours of a study."""
    zones = {name: some[0] for name, some in catalogue.offered(REGION).items() if name[0] in "cm"}
    pools = [Pool(name, zone, REGION) for name, zone in sorted(zones.items())]
    moments = World().posix(0.0) + np.arange(rounds) * EVERY_S
    granted = market.accepted_shares(pools, moments).mean(axis=1)
    free = market.free_capacities(pools, moments).min(axis=1)
    low, high = shares
    found = [pools[i] for i in np.flatnonzero((low < granted) & (granted <= high) & (free > 5))]
    assert len(found) >= most
    return found[:most]


def truths_of(market, pools, launches, *, draws=10):
    """The true mean of min(time, horizon), and the true share by then, per target and arm.

    The sandbox's delay of a call, which is the same for all arms, is left out.
    """
    pool_of = {str(target_in(pool)): pool for pool in pools}
    runs = launches.drop_duplicates("run")
    place = runs.groupby(["target", "round"]).ngroup()  # each has draws of its own, for all arms
    runs = runs[["target", "arm", "moment_s", "n"]].assign(first=100 + place * draws)
    times_s = [
        true_times_s(market, pool_of[target], arm, moment_s, n=n, seeds=range(first, first + draws))
        for target, arm, moment_s, n, first in runs.itertuples(index=False)
    ]
    found = runs.assign(
        mean_s=[np.minimum(each, HORIZON_S).mean() for each in times_s],
        share=[np.mean(each <= HORIZON_S) for each in times_s],
    )
    return found.groupby(["target", "arm"])[["mean_s", "share"]].mean()


def true_times_s(market, pool, arm, moment_s, *, n, seeds):
    """When each instance would run that is asked for in this way then; infinity is never."""
    times_s = []
    for seed in seeds:
        world = World(seed, market=market, quota_vcpus=1e6, on_demand_vcpus=1e6)
        world.advance(moment_s)
        with suppress(ApiError):  # it is refused as a whole, and the truth has that
            ask(world, pool, arm, n)
        world.advance(HORIZON_S)
        times_s += [each["happened_s"].get("running", np.inf) for each in world.truth()]
    assert len(times_s) == n * len(seeds)
    return np.array(times_s) - moment_s


def ask(world, pool, arm, n):
    zone = {"AvailabilityZoneId": pool.zone_id}
    image = image_for(pool.instance_type)
    launch = {"ImageId": image, "InstanceType": pool.instance_type, "Placement": zone}
    if arm == REQUEST:
        params = {"InstanceCount": n, "LaunchSpecification": launch}
        spot_api.request_spot_instances(world, REGION, params)
        return
    spot = {} if arm == CONTROL else {"InstanceMarketOptions": {"MarketType": "spot"}}
    run_api.run_instances(world, REGION, {**launch, **spot, "MinCount": 1, "MaxCount": n})


@cache
def image_for(instance_type):
    architectures = catalogue.instance_type(instance_type).architectures
    images = catalogue.images(REGION).items()
    return next(name for name, each in images if each["Architecture"] in architectures)


def with_truth(overall, truths):
    """The comparison over all targets, with how much later each first arm truly is."""
    mean_s = truths["mean_s"].groupby("arm").mean()
    return overall.assign(true_s=overall["first"].map(mean_s) - overall["second"].map(mean_s))


def holds(overall):
    """Whether all intervals hold the truth."""
    return overall["true_s"].between(overall["later_low_s"], overall["later_high_s"]).all()


@pytest.fixture(scope="module")
def three_arms(tmp_path_factory):
    """A study of a pool that grants all and of two that grant a part, and what is true of it."""
    folder, market = tmp_path_factory.mktemp("study"), Market()
    pools = [
        *pools_that_grant(market, PLENTY, most=1),
        *pools_that_grant(market, SCARCE, most=2),
    ]
    times, launches = study(folder, market, pools, ARMS)
    return folder, times, truths_of(market, pools, launches)


def test_a_study_of_three_arms_finds_how_much_later_each_is_on_the_sandbox(three_arms):
    _, times, truths = three_arms

    overall = with_truth(compare_arms_overall(times, horizon_s=HORIZON_S), truths)

    pairs = overall[["first", "second"]].to_numpy().tolist()
    control = overall[overall["second"] == CONTROL]
    assert pairs == [[REQUEST, RUN], [REQUEST, CONTROL], [RUN, CONTROL]]
    assert holds(overall)
    assert (control["true_s"] > 5).all()
    assert (control["later_low_s"] > 0).all()
    assert (control["p_holm"] < 0.05).all()


def test_it_finds_in_each_target_how_much_more_often_an_arm_launches(three_arms):
    _, times, truths = three_arms

    shares = compare_arms(times, horizon_s=HORIZON_S)

    first, second = (
        np.array([truths["share"][target_of(name), arm_of(name)] for name in shares[each]])
        for each in ("first", "second")
    )
    true, limits = pd.Series(first - second), ("low_adjusted", "high_adjusted")
    assert len(shares) == 9
    assert true.min() < -0.3
    assert true.between(*(shares[f"difference_{each}"] for each in limits)).all()


def test_where_there_is_capacity_for_all_it_finds_no_difference_that_is_not_there(three_arms):
    _, times, truths = three_arms
    share = truths["share"].groupby("target").min()
    name = share[share == 1.0].index[0]
    alone = {each: found for each, found in times.items() if target_of(each) == name}

    overall = with_truth(compare_arms_overall(alone, horizon_s=HORIZON_S), truths.loc[[name]])

    [bought] = overall[overall["first"] == RUN].to_dict("records")  # spot or on demand
    assert bought["true_s"] == pytest.approx(0.0, abs=0.01)
    assert holds(overall)


def test_the_notebook_is_about_one_arm_and_compares_it_with_the_others(three_arms):
    folder, _, _ = three_arms

    shown = list(shown_by(NOTEBOOK, results=str(folder), arm=CONTROL))

    text = unescape("\n".join(each.get("text/html", "") for each in shown))
    overall = pd.read_csv(folder / "tables" / "arms.csv")
    by_target = pd.read_csv(folder / "tables" / "arms-by-target.csv")
    assert f"{ROUNDS} runs per target" in text  # of one arm
    assert f"run_instances:on-demand, on average over {len(by_target) // 3} targets." in text
    assert overall[["first", "second"]].to_numpy().tolist() == [*map(list, combinations(ARMS, 2))]
    in_numbers = pd.read_csv(folder / "tables" / "arms-in-numbers.csv")
    assert set(in_numbers["asked_by"]) == set(ARMS)
    assert len(in_numbers) == len(by_target)  # three arms, so three pairs
    assert in_numbers["share"].notna().all()  # also of arms that were not watched to the very end
    assert "tables/arms-in-numbers.csv" in text
    assert f"asked for by {RUN}, not {CONTROL}" in text
    assert (overall["rounds"] == ROUNDS).all()
    assert (by_target["first"].map(target_of) == by_target["second"].map(target_of)).all()
    assert (folder / "figures" / "arms.png").stat().st_size > 10_000


@chaos
def test_of_many_studies_the_intervals_hold_the_truth_as_often_as_they_say(tmp_path):
    studies, held = 40, 0
    for seed in range(1, studies + 1):
        market = Market(seed)
        pools = [
            pool for each in (PLENTY, SCARCE) for pool in pools_that_grant(market, each, most=1)
        ]
        times, launches = study(tmp_path, market, pools, ARMS)
        overall = compare_arms_overall(times, horizon_s=HORIZON_S)
        held += holds(with_truth(overall, truths_of(market, pools, launches)))

    assert held >= stats.binom.ppf(0.001, studies, 0.95)


@chaos
def test_of_twenty_studies_of_arms_that_are_treated_alike_one_is_a_false_alarm(tmp_path):
    """Each target is a study of its own."""
    market, studies, rounds = Market(), 200, 7
    pools = pools_that_grant(market, PLENTY, most=studies, rounds=rounds)

    times, _ = study(tmp_path, market, pools, ALIKE, n=1, rounds=rounds)

    by_target = {}
    for name, each in times.items():
        by_target.setdefault(target_of(name), {})[name] = each
    rows = [compare_arms_overall(each, horizon_s=HORIZON_S) for each in by_target.values()]
    overall = pd.concat(rows)
    assert len(overall) == studies
    low, high = stats.binom.ppf((0.001, 0.999), studies, 0.05)
    assert low <= (overall["p_value"] < 0.05).sum() <= high
    assert low <= ((overall["later_low_s"] > 0) | (overall["later_high_s"] < 0)).sum() <= high

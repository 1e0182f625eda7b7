"""A pool at a moment grants as many instances to one way of launching as to any other.

The handlers are called without the wire, so that no latency lies between the methods.
"""

import pytest
from conftest import CHAOS
from hypothesis import given, settings
from hypothesis import strategies as st

from spotlib.sandbox import catalogue, fleet_api, run_api, spot_api, template_api
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import World

REGION = "us-east-1"
MARKET = Market()
SPOT = {"MarketType": "spot"}
IMAGES = {
    architecture: next(
        name
        for name, image in catalogue.images(REGION).items()
        if image["Architecture"] == architecture
    )
    for architecture in ("arm64", "x86_64")
}
POOLS = [
    Pool(name, zone_id, REGION)
    for name, zone_ids in sorted(catalogue.offered(REGION).items())
    if name.startswith(("c", "g", "p", "t"))
    for zone_id in zone_ids
]
AT = World().posix(0.0)
SHARES = MARKET.accepted_shares(POOLS, AT)[:, 0]
FREE = MARKET.free_capacities(POOLS, AT)[:, 0]
# Pools that grant a part: for these the methods could differ.
CONTESTED = [
    pool
    for pool, share, free in zip(POOLS, SHARES, FREE, strict=True)
    if 0.1 < share < 0.9 or free < 10
]


moments = st.floats(0.0, 30 * 86400.0)


def launch_of(pool):
    kind = catalogue.instance_type(pool.instance_type)
    architecture = "arm64" if "arm64" in kind.architectures else "x86_64"
    zone = {"AvailabilityZoneId": pool.zone_id}
    image = IMAGES[architecture]
    return {"ImageId": image, "InstanceType": pool.instance_type, "Placement": zone}


def world_at(at_s, seed, market=MARKET):
    world = World(seed, market=market, quota_vcpus=1e9)
    world.clock.advance(at_s)
    return world


def granted_to_request(world, pool, count):
    """How many of the requests are granted by their first evaluation."""
    params = {"InstanceCount": count, "LaunchSpecification": launch_of(pool)}
    spot_api.request_spot_instances(world, REGION, params)
    evaluate_s, _ = MARKET.decision_s(f"{world.seed}/{REGION}/1")
    world.advance(evaluate_s)
    return sum(request.in_flight for request in world.region(REGION).requests.values())


def granted_to_run(world, pool, count, *, spot=True, least=1, **launch):
    options = {"InstanceMarketOptions": SPOT} if spot else {}
    params = {**launch_of(pool), **launch, "MinCount": least, "MaxCount": count, **options}
    try:
        return len(run_api.run_instances(world, REGION, params)["Instances"])
    except ApiError as error:
        if error.code != "InsufficientInstanceCapacity":
            raise
        return 0


def fleet_of(world, pool, count, kind):
    data = launch_of(pool)
    name = f"usual-{len(world.region(REGION).templates)}"
    named = {"LaunchTemplateName": name, "LaunchTemplateData": data}
    made = template_api.create_launch_template(world, REGION, named)["LaunchTemplate"]
    specification = {"LaunchTemplateId": made["LaunchTemplateId"], "Version": "1"}
    target = {"TotalTargetCapacity": count, "DefaultTargetCapacityType": "spot"}
    return {
        "Type": kind,
        "LaunchTemplateConfigs": [{"LaunchTemplateSpecification": specification}],
        "TargetCapacitySpecification": target,
    }


def granted_to_instant(world, pool, count):
    params = fleet_of(world, pool, count, "instant")
    answer = fleet_api.create_fleet(world, REGION, params)
    granted = sum(len(each["InstanceIds"]) for each in answer["Instances"])
    assert len(answer["Errors"]) == (granted < count)
    return granted


def granted_to_waiting(world, pool, count):
    params = fleet_of(world, pool, count, "request")
    fleet_api.create_fleet(world, REGION, params)
    evaluate_s, _ = MARKET.decision_s(f"{world.seed}/{REGION}/1")
    world.advance(evaluate_s)
    return sum(request.in_flight for request in world.region(REGION).requests.values())


def granted(pool, count, at_s, seed):
    """What each method is granted when EC2 decides at the same moment."""
    evaluate_s, _ = MARKET.decision_s(f"{seed}/{REGION}/1")
    later_s = at_s + evaluate_s
    return {
        "request": granted_to_request(world_at(at_s, seed), pool, count),
        "run": granted_to_run(world_at(later_s, seed), pool, count),
        "instant": granted_to_instant(world_at(later_s, seed), pool, count),
        "waiting": granted_to_waiting(world_at(at_s, seed), pool, count),
    }


@settings(deadline=None, max_examples=60 if CHAOS else 20)
@given(st.sampled_from(CONTESTED), st.integers(1, 12), moments, st.integers(1, 50))
def test_a_pool_grants_all_methods_the_same_number(pool, count, at_s, seed):
    numbers = granted(pool, count, at_s, seed)
    assert len(set(numbers.values())) == 1, numbers


def test_of_the_pools_of_that_property_many_grant_a_part():
    """Or it would hold for any sandbox that grants all or nothing."""
    parts = [granted_to_run(world_at(0.0, 1), pool, 12) for pool in CONTESTED[:40]]
    assert sum(0 < part < 12 for part in parts) >= 10
    assert len(set(parts)) >= 6


@pytest.mark.parametrize("first", [granted_to_request, granted_to_run, granted_to_instant])
def test_what_one_method_holds_the_others_lack(first):
    market = Market(profile="calm")  # a pool grants whatever it has
    free_of = dict(zip(POOLS, market.free_capacities(POOLS, AT)[:, 0], strict=True))
    pool, free = next((pool, int(free)) for pool, free in free_of.items() if 10 < free < 40)
    for other in (granted_to_run, granted_to_instant):
        world = world_at(0.0, 1, market)
        held = first(world, pool, free // 2)
        assert held == free // 2
        assert other(world, pool, free) == free - held


@pytest.mark.parametrize("whole", [False, True], ids=["what came", "all or nothing"])
def test_a_call_takes_one_pool_also_where_two_together_have_enough(whole):
    market = Market(profile="calm")  # a pool grants whatever it has
    free_of = dict(zip(POOLS, market.free_capacities(POOLS, AT)[:, 0].astype(int), strict=True))
    zones = {}
    for pool, free in free_of.items():
        zones.setdefault(pool.instance_type, {})[pool] = free
    some = next(each for each in zones.values() if max(each.values()) < min(20, sum(each.values())))
    asked, world = max(some.values()) + 1, world_at(0.0, 1, market)
    least = asked if whole else 1

    came = granted_to_run(world, next(iter(some)), asked, least=least, Placement={})

    [zone_id] = {each["az_id"] for each in world.truth()}
    [chosen] = [pool for pool in some if pool.zone_id == zone_id]
    assert came == (0 if whole else some[chosen])
    assert granted_to_run(world, chosen, asked) == some[chosen] - came  # nothing else is held


def test_on_demand_capacity_is_apart_from_spot():
    pool = min(zip(SHARES, map(str, POOLS), POOLS, strict=True))[2]
    world = world_at(0.0, 1)
    assert granted_to_run(world, pool, 12) == 0
    assert granted_to_run(world, pool, 12, spot=False) == 12

"""For any fates and at any time of a poll, the API shows exactly the stages in the truth."""

from contextlib import suppress
from dataclasses import replace

from conftest import CHAOS
from hypothesis import given, settings
from hypothesis import strategies as st

from spotlib.sandbox import catalogue, course
from spotlib.sandbox.fleet_api import create_fleet, delete_fleets
from spotlib.sandbox.instance_api import describe_instance_status, describe_instances
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.numbers import Numbers
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.run_api import run_instances
from spotlib.sandbox.spot_api import describe_spot_instance_requests
from spotlib.sandbox.template_api import create_launch_template, delete_launch_template
from spotlib.sandbox.world import Fate, Forms, Reads, World

REGION = "us-east-1"
POOL = Pool("t4g.nano", "use1-az1", REGION)
IMAGE = next(
    name for name, image in catalogue.images(REGION).items() if image["Architecture"] == "arm64"
)

SPOT = {"MarketType": "spot"}

delays = st.floats(0.0, 90.0)
fates = st.builds(
    Fate,
    evaluate_s=delays,
    held_s=st.none() | delays,
    in_flight_s=delays,
    boot_s=st.none() | delays,
    ok_s=st.none() | delays,
    ebs=st.sampled_from([None, "reported", "not-applicable", "absent"]),
    ebs_ok_s=st.none() | delays,
    interrupted_s=st.none() | delays,
    shutdown_s=delays,
    fails=st.sampled_from([None, None, None, "bad-parameters"]),
)
deeds = st.sampled_from(["poll", "poll", "poll", "cancel", "terminate"])


def launched(some, method):
    """A world in which this method launched instances with these fates, or did not."""
    world = World(script=lambda request: some[request.index % len(some)])
    launch = {"ImageId": IMAGE, "InstanceType": POOL.instance_type}
    if method == "run":
        counts = {"MinCount": 1, "MaxCount": len(some)}
        with suppress(ApiError):  # it was refused
            run_instances(world, REGION, {**launch, **counts, "InstanceMarketOptions": SPOT})
        return world
    named = {"LaunchTemplateName": "usual", "LaunchTemplateData": launch}
    create_launch_template(world, REGION, named)
    specification = {"LaunchTemplateName": "usual", "Version": "1"}
    target = {"TotalTargetCapacity": len(some), "DefaultTargetCapacityType": "spot"}
    config = [{"LaunchTemplateSpecification": specification}]
    given = {"LaunchTemplateConfigs": config, "TargetCapacitySpecification": target}
    create_fleet(world, REGION, {"Type": method, **given})
    return world


def requested(some, valid_until_s=None):
    """A world with one request per fate."""
    world = World(script=lambda request: some[request.index])
    course.request(
        world,
        catalogue.instance_type(POOL.instance_type),
        [POOL],
        count=len(some),
        launch={"ImageId": IMAGE, "InstanceType": POOL.instance_type},
        token="",
        tags={},
        valid_until_s=valid_until_s,
        max_price_usd=None,
    )
    return world


def shown(world):
    """Request id -> the stages the API shows now."""
    requests = describe_spot_instance_requests(world, REGION, {})["SpotInstanceRequests"]
    reservations = describe_instances(world, REGION, {})["Reservations"]
    statuses = describe_instance_status(world, REGION, {})["InstanceStatuses"]
    states = {i["InstanceId"]: i["State"]["Name"] for r in reservations for i in r["Instances"]}
    checks = {
        s["InstanceId"]: {s[key]["Status"] for key in s if key.endswith("Status")} for s in statuses
    }
    return {
        r["SpotInstanceRequestId"]: (
            "InstanceId" in r,
            states.get(r.get("InstanceId")) == "running",
            checks.get(r.get("InstanceId"), {""}) <= {"ok", "not-applicable"},
        )
        for r in requests
    }


def true(world):
    """Request id -> the stages that the truth has now."""
    stages = {}
    for request in world.truth():
        moments = request["shown_s"]
        running = "running" in moments and "shutting-down" not in moments
        stages[request["request_id"]] = (
            "fulfilled" in moments,
            running,
            running and "ready" in moments,
        )
        assert all(moment <= world.now_s for moment in moments.values())
    return stages


def do(world, deed):
    region = world.region(REGION)
    if deed == "cancel":
        for request in region.requests.values():
            course.cancel(world, request)
    if deed == "terminate":
        for instance in list(region.instances.values()):
            course.terminate(world, instance)


@settings(deadline=None, max_examples=150 if CHAOS else 50)
@given(
    st.lists(fates, min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(0.0, 60.0), deeds), min_size=1, max_size=15),
    st.none() | st.floats(1.0, 200.0),
)
def test_a_poll_shows_what_the_truth_has(some, steps, valid_s):
    world = requested(some, valid_until_s=valid_s)
    for seconds, deed in steps:
        world.advance(seconds)
        do(world, deed)
        assert shown(world) == true(world)


def true_of_listed(world):
    """The same of what was accepted; a fleet's unit that waits has no spot request to show."""
    listed = world.region(REGION).requests
    stages = true(world)
    for request in world.truth():
        if request["request_id"] not in listed:
            assert stages.pop(request["request_id"]) == (False, False, False)
    return stages


@settings(deadline=None, max_examples=150 if CHAOS else 50)
@given(
    st.lists(fates, min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(0.0, 60.0), deeds), min_size=1, max_size=15),
    st.sampled_from(["run", "instant", "request"]),
)
def test_a_poll_shows_what_the_truth_has_of_every_method(some, steps, method):
    world = launched(some, method)
    assert len(world.truth()) == len(some)
    for seconds, deed in steps:
        world.advance(seconds)
        do(world, deed)
        assert shown(world) == true_of_listed(world)


@settings(deadline=None, max_examples=50 if CHAOS else 25)
@given(
    st.lists(fates, min_size=1, max_size=4),
    st.lists(st.floats(0.0, 60.0), max_size=8),
    st.sampled_from(["instant", "request"]),
)
def test_deleting_a_fleet_at_any_time_leaves_nothing(some, pauses, method):
    world = launched(some, method)
    for pause_s in pauses:
        world.advance(pause_s)
    [fleet_id] = world.region(REGION).fleets
    delete_fleets(world, REGION, {"FleetIds": [fleet_id], "TerminateInstances": True})
    delete_launch_template(world, REGION, {"LaunchTemplateName": "usual"})
    world.advance(300.0)
    assert world.leftovers() == {"requests": [], "instances": []}
    assert sum(world.region(REGION).held.values()) == 0


@settings(deadline=None, max_examples=50 if CHAOS else 25)
@given(st.lists(fates, min_size=1, max_size=4), st.lists(st.floats(0.0, 60.0), max_size=8))
def test_cancelling_and_terminating_until_nothing_is_left_always_ends(some, pauses):
    world = requested(some)
    for pause_s in [*pauses, 100.0, 100.0]:  # nothing is in flight for longer than 90 s
        world.advance(pause_s)
        do(world, "cancel")
        do(world, "terminate")
    assert world.leftovers() == {"requests": [], "instances": []}
    world.advance(100.0)
    assert all("ended" in request["happened_s"] for request in world.truth())


def test_a_request_has_the_same_events_as_in_earlier_versions():
    """Or a log from before this version could not be compared with one from after it.

    Earlier versions did not keep when a request was granted.
    """
    world = World(1)
    for name, zone_id in (("t4g.nano", "use1-az1"), ("g4dn.xlarge", "use1-az2")):
        pool, kind = Pool(name, zone_id, REGION), catalogue.instance_type(name)
        launch = {"ImageId": IMAGE, "InstanceType": name}
        course.request(world, kind, [pool], count=2, launch=launch)
        world.advance(400.0)
    assert world.world_id == "w-958818d2b6"
    events = [
        (
            each["request_id"],
            each["code"],
            *(round(s, 3) for event, s in each["happened_s"].items() if event != "granted"),
        )
        for each in world.truth()
    ]
    assert events == [
        ("sir-3tamrxcm", "fulfilled", 0.0, 1.503, 11.011, 232.35),
        ("sir-fm2uwl26", "fulfilled", 0.0, 1.61, 10.229, 306.475),
        ("sir-vqjjp7nl", "capacity-not-available", 400.0),
        ("sir-gktrcoup", "capacity-not-available", 400.0),
    ]


def test_a_setting_that_came_later_makes_another_world_only_where_it_is_used():
    same = World(1, forms=Forms(launch_bucket="instances"), on_demand_vcpus=1000.0)
    assert same.world_id == World(1).world_id
    others = [
        World(1, forms=Forms(launch_bucket="calls")),
        World(1, reads=Reads(template_unknown_s=9.0)),
        World(1, on_demand_vcpus=4.0),
        World(1, market=Market(numbers=replace(Numbers(), on_demand_free=0.5))),
    ]
    assert len({world.world_id for world in (same, *others)}) == 5

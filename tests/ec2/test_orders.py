"""What each launch method sends for an order, and what its answer gives."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from spotlib.ec2.methods.method import Given, Order, launch
from spotlib.ec2.methods.registry import METHODS, left_by
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.survey import LAUNCHED
from spotlib.model import ON_DEMAND, Kind, Plan, Target

NANO = Target("t3.nano", "sa-east-1")
SOON = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST, RUN, ALL = "request_spot_instances", "run_instances", "run_instances_all_or_nothing"
INSTANT, WAITING = "create_fleet_instant", "create_fleet_request"
FLEETS = (INSTANT, WAITING)
SPOT_ONCE = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}


def order(method, *, zone=False, purchase="spot", **plan):
    given = Plan(NANO, 3, method=method, purchase=purchase, **plan)
    tags = {"spotlib:batch": "b"}
    one = Order(given, "ami-1", "token", SOON, tags, shutdown_after_min=15)
    return replace(one, subnet_id="subnet-1", group_id="sg-1") if zone else one


def calls_of(method, **given):
    return METHODS[method].parameters(order(method, **given))


def launching(method, calls):
    """The part of a call that says what an instance is."""
    if method in FLEETS:
        return calls["create_launch_template"]["LaunchTemplateData"]
    return calls["LaunchSpecification"] if method == REQUEST else calls


EACH = pytest.mark.parametrize("method", METHODS)


@EACH
def test_an_instance_has_its_image_type_and_switch_and_a_zones_network_without_an_address(method):
    plain, placed = (launching(method, calls_of(method, zone=zone)) for zone in (False, True))

    assert (plain["ImageId"], plain["InstanceType"]) == ("ami-1", "t3.nano")
    script = plain["UserData"]
    if method not in (RUN, ALL):  # botocore encodes it
        script = base64.b64decode(script).decode()
    assert script == '#!/bin/sh\nshutdown -h +15 "spotlib dead-man\'s switch"\n'
    assert "NetworkInterfaces" not in plain
    assert placed.pop("NetworkInterfaces") == [
        {
            "DeviceIndex": 0,
            "SubnetId": "subnet-1",
            "Groups": ["sg-1"],
            "AssociatePublicIpAddress": False,
            "DeleteOnTermination": True,
        }
    ]
    assert placed == plain
    stamped = launching(method, calls_of(method, usable=True))["UserData"]
    assert len(stamped) > len(plain["UserData"])


@EACH
def test_what_is_paid_at_most_is_sent_only_if_it_is_given(method):
    def price(**given):
        calls = calls_of(method, **given)
        if method == REQUEST:
            return calls.get("SpotPrice")
        if method in FLEETS:
            [config] = calls["create_fleet"]["LaunchTemplateConfigs"]
            [override] = config["Overrides"]
            assert override["InstanceType"] == "t3.nano"
            return override.get("MaxPrice")
        market = calls["InstanceMarketOptions"]
        assert market["MarketType"] == "spot"
        options = dict(market["SpotOptions"])
        found = options.pop("MaxPrice", None)
        assert options == SPOT_ONCE
        return found

    assert price() is None
    assert price(max_price_usd=0.0123) == "0.012300"


@pytest.mark.parametrize("method", [each for each in METHODS if each != REQUEST])
def test_on_demand_asks_for_nothing_of_the_spot_market(method):
    calls = calls_of(method, purchase=ON_DEMAND)

    assert "InstanceMarketOptions" not in calls
    if method in FLEETS:
        fleet = calls["create_fleet"]
        assert "SpotOptions" not in fleet
        assert fleet["TargetCapacitySpecification"] == {
            "TotalTargetCapacity": 3,
            "DefaultTargetCapacityType": "on-demand",
        }
        spot = calls_of(method)["create_fleet"]
        assert spot["SpotOptions"] == {"AllocationStrategy": "price-capacity-optimized"}
        assert spot["TargetCapacitySpecification"]["DefaultTargetCapacityType"] == "spot"


def test_fewer_may_come_unless_all_or_nothing_is_asked_for():
    some, whole = calls_of(RUN), calls_of(ALL)

    assert (some["MinCount"], some["MaxCount"]) == (1, 3)
    assert whole == some | {"MinCount": 3}
    assert some["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_a_fleet_that_waits_ends_its_instances_when_it_expires():
    fleet = calls_of(WAITING)["create_fleet"]

    assert fleet["ValidUntil"] == "2026-01-01T00:00:00+00:00"
    assert (fleet["Type"], fleet["TerminateInstancesWithExpiration"]) == ("request", True)
    assert calls_of(INSTANT)["create_fleet"]["Type"] == "instant"


@pytest.mark.parametrize("method", [RUN, ALL, INSTANT])
@pytest.mark.parametrize(("came", "lacks"), [(0, True), (2, True), (3, False), (4, False)])
def test_instances_that_did_not_come_are_lacking(method, came, lacks):
    names = [f"i-{number}" for number in range(came)]
    reply = {"Instances": [{"InstanceId": each} for each in names]}
    if method == INSTANT:
        no = [{"ErrorCode": "InsufficientInstanceCapacity"}]
        reply = {"Instances": [{"InstanceIds": names, "AvailabilityZoneId": "z"}], "Errors": no}

    given = METHODS[method].read(reply, 3)

    assert given.rows == tuple(names)
    assert [each.instance_id for each in given.shown.values()] == names
    assert (given.lacking is not None) is lacks
    if lacks:
        assert given.lacking.kind is Kind.CAPACITY
        if method != INSTANT:
            words = f"EC2 launched {came} of 3 instances and gives no code for the others"
            assert given.lacking.message == words
    else:
        assert METHODS[method].read(reply, 3).lacking is None


def test_the_first_pool_that_says_more_than_the_market_is_the_reason():
    codes = ["InvalidFleetConfiguration", "InsufficientInstanceCapacity", "SpotMaxPriceTooLow"]
    codes += ["MaxSpotInstanceCountExceeded", "RequestLimitExceeded"]
    read = METHODS[INSTANT].read

    def why(*some):
        return read({"Errors": [{"ErrorCode": each} for each in some]}, 1).lacking.code

    assert why(*codes) == "MaxSpotInstanceCountExceeded"
    assert why(*codes[:3]) == "InsufficientInstanceCapacity"
    assert why("SpotMaxPriceTooLow", "InsufficientInstanceCapacity") == "SpotMaxPriceTooLow"
    assert why("InvalidFleetConfiguration", "Unsupported") == "InvalidFleetConfiguration"


def test_what_a_newer_spotlib_launched_may_be_anything():
    assert left_by(["request_spot_instances"]) == METHODS[REQUEST].leaves
    assert left_by([RUN, INSTANT]) == LAUNCHED[2:]
    assert left_by([]) == ()
    assert left_by([RUN, "of_tomorrow"]) == LAUNCHED


@pytest.fixture
def sent():
    """Launch by a method whose preparing, or whose call, ends so."""

    def send(*, refused=None, given=None):
        asked = []

        def prepare(_, region, calls):
            asked.append((region, calls))
            if refused is not None:
                raise refused

        def call(region, action, /, **parameters):
            asked.append((region, action, parameters))
            return {"ResponseMetadata": {"HTTPHeaders": {}}}

        method = replace(METHODS[RUN], prepare=prepare, read=lambda *_: given)
        clock = SimpleNamespace(now_s=lambda: 7.0 + len(asked), utc=lambda: SOON)
        return launch(SimpleNamespace(clock=clock, call=call), "x", method, {"A": 1}, 2), asked

    return send


def test_what_cannot_be_prepared_is_refused_and_not_sent(sent):
    refusal = Refusal("No", "m", kind=Kind.PERMISSION, advice="")

    answer, asked = sent(refused=refusal)

    assert answer.refusal is refusal
    assert (answer.asked_s, answer.answered_s, answer.attempts) == (7.0, 8.0, ())
    assert asked == [("x", {"run_instances": {"A": 1}})]


def test_an_answer_that_gave_anything_is_no_refusal_and_its_refusal_has_a_region(sent):
    lacking = Refusal("No", "m", kind=Kind.CAPACITY, advice="")

    some, asked = sent(given=Given(("i-1",), lacking=lacking))
    none, _ = sent(given=Given((), lacking=lacking))
    whole, _ = sent(given=Given(("i-1", "i-2")))

    assert (some.refusal, none.refusal, whole.refusal) == (None, lacking, None)
    assert lacking.region == "x"
    assert asked[1:] == [("x", "run_instances", {"A": 1})]
    assert whole.given.rows == ("i-1", "i-2")

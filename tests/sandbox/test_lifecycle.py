"""The life of a request and its instance, in the API and in the truth."""

import base64
import copy
from dataclasses import replace

import pytest

from spotlib.sandbox import catalogue
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.numbers import PROFILES
from spotlib.sandbox.states import STATE_OF_CODE
from spotlib.sandbox.world import Fate

from .conftest import SWITCH


def scripted(make_account, *fates):
    """An account in which the requests of a call have these fates, in turn."""
    return make_account(script=lambda request: fates[request.index % len(fates)])


def test_a_request_waits_launches_boots_and_passes_its_checks(make_account):
    account = scripted(make_account, Fate(evaluate_s=5, in_flight_s=5, boot_s=20, ok_s=100))
    ids = account.request(2)
    assert account.codes(ids) == ["pending-evaluation"] * 2

    account.world.advance(5)
    assert account.codes(ids) == ["pending-fulfillment"] * 2
    account.world.advance(5)
    assert account.codes(ids) == ["fulfilled"] * 2
    assert account.states(ids) == ["pending"] * 2
    assert account.statuses() == []  # only running instances are listed
    account.world.advance(20)
    assert account.states(ids) == ["running"] * 2
    assert [s["InstanceStatus"]["Status"] for s in account.statuses()] == ["initializing"] * 2
    account.world.advance(100)
    assert [s["SystemStatus"]["Status"] for s in account.statuses()] == ["ok"] * 2


def test_the_truth_has_the_moment_of_each_event(make_account):
    account = scripted(make_account, Fate(evaluate_s=5, in_flight_s=5, boot_s=20, ok_s=100))
    account.request(ClientToken="token")
    account.world.advance(200)

    [truth] = account.world.truth()
    moments = truth["happened_s"]
    assert truth["token"] == "token"
    assert moments["fulfilled"] - moments["accepted"] == pytest.approx(10)
    assert moments["running"] - moments["fulfilled"] == pytest.approx(20)
    assert moments["ready"] - moments["running"] == pytest.approx(100)
    assert truth["shown_s"] == moments


def test_what_the_api_shows_begins_at_the_moment_in_the_truth(make_account):
    account = scripted(make_account, Fate(boot_s=7, ok_s=61))
    ids = account.request()
    account.until(lambda: bool(account.statuses()))
    account.until(lambda: account.statuses()[0]["InstanceStatus"]["Status"] == "ok")

    [truth] = account.world.truth()
    # There was about one poll per second, and each took part of a second.
    assert 0 <= account.world.now_s - truth["happened_s"]["ready"] < 3
    assert account.codes(ids) == ["fulfilled"]


def test_the_market_itself_makes_instances_ready_within_minutes(account):
    ids = account.request(5)
    account.world.advance(420)
    assert account.codes(ids) == ["fulfilled"] * 5
    assert [s["InstanceStatus"]["Status"] for s in account.statuses()] == ["ok"] * 5


def test_times_are_whole_seconds_and_the_update_time_is_overwritten(make_account):
    account = scripted(make_account, Fate(evaluate_s=1.25, in_flight_s=2.5))
    ids = account.request()
    account.world.advance(30)
    [before] = account.requests(ids)
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    [after] = account.requests(ids)

    assert before["CreateTime"].microsecond == before["Status"]["UpdateTime"].microsecond == 0
    assert account.instances(ids)[0]["LaunchTime"] == before["Status"]["UpdateTime"]
    assert after["Status"]["UpdateTime"] > before["Status"]["UpdateTime"]
    assert after["CreateTime"] == before["CreateTime"]


def test_the_zone_of_a_request_shows_only_once_it_is_fulfilled(make_account):
    account = scripted(make_account, Fate(evaluate_s=30))
    ids = account.request()
    assert "LaunchedAvailabilityZone" not in account.requests(ids)[0]

    account.world.advance(60)
    [request], [instance] = account.requests(ids), account.instances(ids)
    assert request["LaunchedAvailabilityZoneId"] == instance["Placement"]["AvailabilityZoneId"]
    assert request["LaunchedAvailabilityZone"] == instance["Placement"]["AvailabilityZone"]
    assert request["InstanceId"] == instance["InstanceId"]


def test_three_of_five_can_launch_while_two_are_held_until_they_expire(make_account):
    account = scripted(make_account, Fate(), Fate(held_s=None), Fate(), Fate(held_s=None), Fate())
    until = account.world.utc(120)
    ids = account.request(5, ValidUntil=until)
    account.world.advance(60)
    assert sorted(account.codes(ids)) == ["capacity-not-available"] * 2 + ["fulfilled"] * 3

    account.world.advance(60)
    expired = [r for r in account.requests(ids) if r["Status"]["Code"] == "schedule-expired"]
    assert [r["State"] for r in expired] == ["cancelled"] * 2
    assert account.world.leftovers()["requests"] == []


def test_a_held_request_launches_when_capacity_becomes_free(make_account):
    account = scripted(make_account, Fate(held_s=300))
    ids = account.request()
    account.world.advance(200)
    assert account.codes(ids) == ["capacity-not-available"]

    account.world.advance(200)
    assert account.codes(ids) == ["fulfilled"]


def test_a_request_cancelled_while_it_waits_never_launches(make_account):
    account = scripted(make_account, Fate(held_s=60))
    ids = account.request()
    account.world.advance(10)
    answer = account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    account.world.advance(600)

    assert answer["CancelledSpotInstanceRequests"][0]["State"] == "cancelled"
    assert account.codes(ids) == ["canceled-before-fulfillment"]
    assert account.instances(ids) == []


def test_a_cancel_too_late_leaves_an_instance_that_appears_afterwards(make_account):
    account = scripted(make_account, Fate(evaluate_s=0, in_flight_s=20))
    ids = account.request()
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    assert account.instances(ids) == []
    assert account.world.leftovers()["requests"] == ids
    assert "ended" not in account.world.truth()[0]["happened_s"]

    account.world.advance(20)
    [request] = account.requests(ids)
    assert request["Status"]["Code"] == "request-canceled-and-instance-running"
    assert request["State"] == "cancelled"
    assert account.world.leftovers()["instances"] == [request["InstanceId"]]


def test_cancelling_does_not_terminate_and_terminating_takes_seconds(make_account):
    account = scripted(make_account, Fate(boot_s=1, shutdown_s=30))
    ids = account.request()
    account.world.advance(20)
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    assert account.codes(ids) == ["request-canceled-and-instance-running"]
    assert account.states(ids) == ["running"]

    [instance] = account.instances(ids)
    answer = account.ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])
    [change] = answer["TerminatingInstances"]
    assert change["PreviousState"]["Name"] == "running"
    assert change["CurrentState"] == {"Code": 32, "Name": "shutting-down"}
    account.world.advance(40)
    [ended] = account.instances(ids)
    assert ended["State"]["Name"] == "terminated"
    assert ended["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    [request] = account.requests(ids)
    assert request["Status"]["Code"] == "instance-terminated-by-user"
    assert request["State"] == "cancelled"  # a cancelled request stays cancelled
    assert account.world.leftovers() == {"requests": [], "instances": []}


def test_terminating_without_cancelling_closes_the_request(make_account):
    account = scripted(make_account, Fate())
    ids = account.request()
    account.world.advance(20)
    account.ec2.terminate_instances(InstanceIds=[account.requests(ids)[0]["InstanceId"]])
    account.world.advance(60)
    [request] = account.requests(ids)
    assert (request["State"], request["Status"]["Code"]) == (
        "closed",
        "instance-terminated-by-user",
    )


def test_an_interruption_shows_at_once_and_the_instance_runs_two_minutes_more(make_account):
    account = scripted(make_account, Fate(boot_s=5, interrupted_s=60))
    ids = account.request()
    account.world.advance(70)
    [request] = account.requests(ids)
    assert request["Status"]["Code"] == "instance-terminated-no-capacity"
    assert request["State"] == "closed"
    assert account.states(ids) == ["running"]

    account.world.advance(140)
    [instance] = account.instances(ids)
    assert instance["State"]["Name"] == "terminated"
    assert instance["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert account.codes(ids) == ["instance-terminated-no-capacity"]


def test_an_instance_can_be_interrupted_before_it_ever_ran(make_account):
    account = scripted(make_account, Fate(boot_s=None, interrupted_s=10))
    ids = account.request()
    account.world.advance(20)
    assert account.codes(ids) == ["instance-terminated-no-capacity"]
    assert account.states(ids) == ["pending"]

    account.world.advance(200)
    assert account.states(ids) == ["terminated"]
    assert "ready" not in account.world.truth()[0]["happened_s"]


@pytest.mark.parametrize(
    ("fate", "instance_type", "shown"),
    [
        (Fate(), "t4g.nano", "ok"),
        (Fate(), "t2.micro", None),  # Xen has no attached-EBS checks
        (Fate(ebs="absent"), "t4g.nano", None),
        (Fate(ebs="not-applicable"), "t4g.nano", "not-applicable"),
        (Fate(ebs_ok_s=400), "t4g.nano", "initializing"),
        (Fate(ebs_ok_s=None), "t4g.nano", "initializing"),
    ],
)
def test_the_attached_ebs_status_has_each_of_its_forms(make_account, fate, instance_type, shown):
    account = scripted(make_account, fate)
    image = account.image("x86_64" if instance_type == "t2.micro" else "arm64")
    account.request(launch={"InstanceType": instance_type, "ImageId": image})
    account.world.advance(300)

    [status] = account.statuses()
    assert status["InstanceStatus"]["Status"] == "ok"
    assert status.get("AttachedEbsStatus", {}).get("Status") == shown
    ready = "ready" in account.world.truth()[0]["happened_s"]
    assert ready is (shown != "initializing")


def test_user_data_shuts_the_instance_down_after_its_minutes(make_account):
    account = scripted(make_account, Fate(boot_s=10))
    ids = account.request(launch={"UserData": SWITCH})
    account.world.advance(15 * 60)
    assert account.states(ids) == ["running"]

    account.world.advance(60)
    [instance] = account.instances(ids)
    assert instance["State"]["Name"] == "terminated"
    assert instance["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert account.world.leftovers() == {"requests": [], "instances": []}


def test_user_data_that_is_no_script_does_nothing(make_account):
    account = scripted(make_account, Fate())
    text = base64.b64encode(b" #!/bin/sh\nshutdown -h +1\n").decode()
    ids = account.request(launch={"UserData": text})
    account.world.advance(600)
    assert account.states(ids) == ["running"]


def test_ended_requests_and_instances_are_forgotten_after_hours(make_account):
    account = scripted(make_account, Fate(held_s=None), Fate(shutdown_s=1))
    held, launched = account.request(2)
    account.world.advance(10)
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[held])
    account.ec2.terminate_instances(InstanceIds=[account.requests([launched])[0]["InstanceId"]])

    account.world.advance(3500)
    assert account.states([launched]) == ["terminated"]
    account.world.advance(200)
    assert account.states([launched]) == []
    account.world.advance(3 * 3600 - 200)
    assert len(account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]) == 2
    account.world.advance(900)
    assert account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"] == []
    assert len(account.world.truth()) == 2


def test_a_request_can_fail_with_bad_parameters_later(make_account):
    account = scripted(make_account, Fate(fails="bad-parameters"))
    ids = account.request()
    account.world.advance(5)
    [request] = account.requests(ids)
    assert (request["State"], request["Status"]["Code"]) == ("failed", "bad-parameters")
    assert request["Fault"]["Code"] == "bad-parameters"


def test_a_price_below_the_market_holds_the_request(account):
    ids = account.request(SpotPrice="0.0001")
    account.world.advance(60)
    [request] = account.requests(ids)
    assert (request["State"], request["Status"]["Code"]) == ("open", "price-too-low")
    assert request["SpotPrice"] == "0.000100"


@pytest.fixture
def narrow(make_account):
    """An account, and a launch in a pool that always has capacity for 2 to 6 instances."""
    still = replace(PROFILES["calm"], volatility_median=0.0, zone_volatility=0.0, day_amplitude=0.0)
    market = Market(numbers=still)
    account = make_account(market=market)
    arm = [
        Pool(name, zone_id, "us-east-1")
        for name, zone_ids in catalogue.offered("us-east-1").items()
        for zone_id in zone_ids
        if "arm64" in catalogue.instance_type(name).architectures
    ]
    at = account.world.posix(0.0)
    pool = next(p for p in arm if 2 <= market.free_capacity(p, at) <= 6)
    launch = {
        "InstanceType": pool.instance_type,
        "Placement": {"AvailabilityZoneId": pool.zone_id},
    }
    return account, launch, int(market.free_capacity(pool, at))


def release(account, ids):
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    instances = [r["InstanceId"] for r in account.requests(ids) if "InstanceId" in r]
    account.ec2.terminate_instances(InstanceIds=instances)


def test_the_instances_of_one_request_share_a_pool_and_deplete_it(narrow):
    account, launch, capacity = narrow
    ids = account.request(capacity + 2, launch)
    account.world.advance(60)
    assert account.codes(ids).count("capacity-not-available") == 2
    assert account.codes(ids).count("fulfilled") == capacity


def test_a_held_request_gets_the_capacity_that_another_frees(narrow):
    account, launch, capacity = narrow
    first = account.request(capacity, launch)
    account.world.advance(60)
    second = account.request(1, launch)
    account.world.advance(60)
    assert account.codes(second) == ["capacity-not-available"]

    release(account, first)
    account.world.advance(20)  # the pool needs a while
    assert account.codes(second) == ["capacity-not-available"]
    account.world.advance(300)
    assert account.codes(second) == ["fulfilled"]


def test_a_copied_world_continues_independently_and_alike(account):
    account.request(3, launch={"UserData": SWITCH})
    account.world.advance(5)
    copied = copy.deepcopy(account.world)
    account.world.advance(3600)
    assert copied.leftovers()["instances"]

    copied.advance(3600)
    assert copied.truth() == account.world.truth()
    assert copied.leftovers() == {"requests": [], "instances": []}


def test_every_status_code_has_one_of_ec2s_states():
    assert set(STATE_OF_CODE.values()) == {
        "open",
        "active",
        "closed",
        "cancelled",
        "failed",
        "disabled",
    }

"""RunInstances: what it launches at once, what it refuses, and what the truth has of both."""

import base64

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox.faults import lose_answer
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.world import Fate, Forms, Reads, World

from .conftest import Account

NONE = Fate(held_s=None)
SWITCH = "#!/bin/sh\nshutdown -h +15 'test'\n"
NO_CAPACITY = "There is no Spot capacity available that matches your request."


def scripted(make_account, *fates, **settings):
    """An account in which the instances of a call have these fates, in turn."""
    return make_account(script=lambda request: fates[request.index % len(fates)], **settings)


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]


def tags(*kinds):
    return [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in kinds]


def test_a_spot_launch_answers_with_pending_instances_that_have_a_fulfilled_request(make_account):
    account = scripted(make_account, Fate(boot_s=7, ok_s=60))
    answer = account.ec2.run_instances(**account.to_run(3))

    shown = answer["Instances"]
    assert [each["State"]["Name"] for each in shown] == ["pending"] * 3
    assert {each["InstanceLifecycle"] for each in shown} == {"spot"}
    assert [each["AmiLaunchIndex"] for each in shown] == [0, 1, 2]
    requests = [each["SpotInstanceRequestId"] for each in shown]
    assert account.codes(requests) == ["fulfilled"] * 3
    [reservation] = account.ec2.describe_instances()["Reservations"]
    assert reservation["ReservationId"] == answer["ReservationId"]
    account.world.advance(100)
    assert [s["InstanceStatus"]["Status"] for s in account.statuses()] == ["ok"] * 3


@pytest.mark.parametrize("spot", [True, False])
def test_the_truth_of_a_launch_begins_with_the_answer(make_account, spot):
    account = scripted(make_account, Fate(boot_s=7, ok_s=60))
    [instance] = account.run(spot=spot, ClientToken="t")
    answered_s = account.world.now_s
    account.until(lambda: bool(account.statuses()))
    account.until(lambda: account.statuses()[0]["InstanceStatus"]["Status"] == "ok")

    [truth] = account.world.truth()
    happened, seen = truth["happened_s"], truth["seen_s"]
    assert (truth["method"], truth["token"]) == ("run_instances", "t")
    assert truth["purchase"] == ("spot" if spot else "on-demand")
    assert (truth["request_id"] is None) is not spot
    assert truth["instance_id"] == instance
    assert happened["accepted"] == happened["fulfilled"] <= answered_s
    assert seen["accepted"] == seen["fulfilled"] <= answered_s
    assert happened["running"] - happened["fulfilled"] == pytest.approx(7)
    assert happened["ready"] - happened["running"] == pytest.approx(60)
    assert truth["shown_s"] == happened
    assert 0 <= seen["ready"] - happened["ready"] < 3


@pytest.mark.parametrize("spot", [True, False])
def test_describe_calls_may_not_know_a_launch_for_seconds(make_account, spot):
    account = scripted(make_account, Fate(boot_s=5), reads=Reads(unknown_s=60.0))
    [instance] = account.run(spot=spot)
    code, _, _ = refusal(account.ec2.describe_instances, InstanceIds=[instance])
    assert code == "InvalidInstanceID.NotFound"
    account.until(lambda: bool(account.ec2.describe_instances()["Reservations"]))
    [truth] = account.world.truth()
    shown = truth["shown_s"]
    assert shown["accepted"] == shown["fulfilled"] > truth["happened_s"]["fulfilled"] + 1.0
    assert 0 <= account.world.now_s - shown["fulfilled"] < 3


def test_it_launches_what_came_of_the_most_and_the_truth_has_the_others(make_account):
    account = scripted(make_account, Fate(), NONE, Fate())
    assert len(account.run(6, least=4)) == 4
    states = [(each["state"], "refused" in each["happened_s"]) for each in account.world.truth()]
    assert sorted(states) == [("active", False)] * 4 + [("refused", True)] * 2


def test_fewer_than_the_least_is_a_server_error_and_launches_nothing(make_account):
    account = scripted(make_account, Fate(), NONE, Fate())
    code, message, metadata = refusal(account.ec2.run_instances, **account.to_run(6, least=5))
    assert (code, message) == ("InsufficientInstanceCapacity", NO_CAPACITY)
    assert metadata["HTTPStatusCode"] == 500
    assert account.ec2.describe_instances()["Reservations"] == []
    assert account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"] == []
    truth = account.world.truth()
    assert [each["state"] for each in truth] == ["refused"] * 6
    assert all(each["happened_s"].keys() == {"refused"} for each in truth)
    assert account.world.leftovers() == {"requests": [], "instances": []}


def test_a_refused_launch_holds_no_capacity(make_account):
    account = scripted(make_account, Fate(), NONE)
    params = account.to_run(10, least=6)
    assert refusal(account.ec2.run_instances, **params)[0] == "InsufficientInstanceCapacity"
    assert sum(account.world.region("us-east-1").held.values()) == 0


# On demand.


def test_an_on_demand_launch_makes_no_spot_request_and_is_never_interrupted(make_account):
    account = make_account(market=Market(profile="outage"))
    [instance] = account.run(spot=False, Placement={"AvailabilityZoneId": "use1-az1"})
    account.world.advance(30 * 86400.0)
    [shown] = account.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert shown["Instances"][0]["State"]["Name"] == "running"
    assert "InstanceLifecycle" not in shown["Instances"][0]
    assert "SpotInstanceRequestId" not in shown["Instances"][0]
    assert account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"] == []


def test_on_demand_capacity_is_nearly_always_there_and_its_refusal_names_other_zones():
    market, zone = Market(), {"AvailabilityZoneId": "use1-az1"}
    account = Account(World(market=market))
    pool = Pool("t4g.nano", "use1-az1", "us-east-1")
    hours = [account.world.posix(3600.0 * hour) for hour in range(20_000)]
    refused = [at for at in hours if not market.accepts_on_demand(pool, at, held=0)]
    assert len(refused) / len(hours) == pytest.approx(0.002, rel=0.5)

    for _ in range(2):  # the clock moves by a month at most
        account.world.advance((refused[0] - hours[0]) / 2.0)
    params = account.to_run(spot=False, Placement=zone)
    code, message, metadata = refusal(account.ec2.run_instances, **params)
    assert (code, metadata["HTTPStatusCode"]) == ("InsufficientInstanceCapacity", 500)
    assert "sufficient t4g.nano capacity in the Availability Zone you requested (us-e" in message
    assert "by not specifying an Availability Zone in your request or choosing us-e" in message
    assert account.run(spot=False)  # in another zone


def test_an_on_demand_instance_boots_as_a_spot_instance_would():
    """The control arm: only the wait for capacity differs."""
    moments = {}
    for spot in (True, False):
        account = Account(World(market=Market(profile="calm")))
        account.run(5, spot=spot)
        account.world.advance(900)
        moments[spot] = [each["happened_s"] for each in account.world.truth()]
    assert moments[True] == moments[False]


def test_each_purchase_has_its_own_quota(make_account):
    account = make_account(quota_vcpus=4.0, on_demand_vcpus=6.0)
    run = account.ec2.run_instances
    assert refusal(run, **account.to_run(3))[0] == "MaxSpotInstanceCountExceeded"
    code, message, _ = refusal(run, **account.to_run(4, least=4, spot=False))
    assert code == "VcpuLimitExceeded"
    assert "vCPU limit of 6 allows" in message
    assert len(account.run(9, spot=False)) == 3  # as many as the quota has
    assert refusal(run, **account.to_run(spot=False))[0] == "VcpuLimitExceeded"
    assert len(account.run(2)) == 2
    assert refusal(account.ec2.request_spot_instances, **account.asked())[0] == (
        "MaxSpotInstanceCountExceeded"
    )
    quotas = account.client("service-quotas")
    for code, value in (("L-34B43A08", 4.0), ("L-1216C47A", 6.0)):
        found = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)
        assert found["Quota"]["Value"] == value


# Tokens.


def test_the_same_token_and_parameters_return_the_same_reservation(account):
    params = account.to_run(2, ClientToken="a")
    account.world.faults.append(lose_answer("RunInstances"))
    with pytest.raises(Exception, match="Connection"):
        account.ec2.run_instances(**params)
    first = account.ec2.run_instances(**params)
    account.world.advance(100)
    again = account.ec2.run_instances(**params)
    ids = [[each["InstanceId"] for each in some["Instances"]] for some in (first, again)]
    assert ids[0] == ids[1]
    assert first["ReservationId"] == again["ReservationId"]
    assert len(account.world.truth()) == 2
    filters = [{"Name": "client-token", "Values": ["a"]}]
    [found] = account.ec2.describe_instances(Filters=filters)["Reservations"]
    assert len(found["Instances"]) == 2


def test_a_token_that_was_refused_keeps_its_parameters_and_may_try_again(make_account):
    """Other parameters: ubicloud 5898, after InsufficientInstanceCapacity."""
    account = scripted(make_account, NONE)
    params = account.to_run(ClientToken="a")
    assert refusal(account.ec2.run_instances, **params)[0] == "InsufficientInstanceCapacity"
    other = account.to_run(ClientToken="a", InstanceType="t4g.micro")
    assert refusal(account.ec2.run_instances, **other)[0] == "IdempotentParameterMismatch"
    account.world.script = None
    assert len(account.ec2.run_instances(**params)["Instances"]) == 1


def test_a_token_belongs_to_the_zone_that_the_call_names(account):
    ids = [
        account.run(ClientToken="a", Placement={"AvailabilityZoneId": zone})
        for zone in ("use1-az1", "use1-az2")
    ]
    assert ids[0] != ids[1]


def test_a_token_outlives_its_template_and_its_instances(account):
    named = {"LaunchTemplateId": account.template(), "Version": "1"}
    params = {"LaunchTemplate": named, "MinCount": 1, "MaxCount": 1, "ClientToken": "a"}
    [first] = account.ec2.run_instances(**params)["Instances"]
    account.ec2.delete_launch_template(LaunchTemplateId=named["LaunchTemplateId"])
    account.ec2.terminate_instances(InstanceIds=[first["InstanceId"]])
    account.world.advance(5000.0)
    assert account.ec2.describe_instances()["Reservations"] == []
    [again] = account.ec2.run_instances(**params)["Instances"]
    assert (again["InstanceId"], again["State"]["Name"]) == (first["InstanceId"], "terminated")


# Refusals.


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"least": 0}, "InvalidParameterValue"),
        ({"least": 2}, "InvalidParameterValue"),
        ({"most": 1001}, "RequestResourceCountExceeded"),
        ({"ImageId": "ami-1"}, "InvalidAMIID.Malformed"),
        ({"InstanceType": "t4g.nanno"}, "InvalidParameterValue"),
        ({"Placement": {"AvailabilityZoneId": "use1-az3"}}, "Unsupported"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"CreditSpecification": {"CpuCredits": "much"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpTokens": "none"}}, "InvalidParameterValue"),
        ({"MetadataOptions": {"HttpProtocolIpv6": "enabled"}}, "UnsupportedOperation"),
        ({"InstanceMarketOptions": {"MarketType": "capacity-block"}}, "UnsupportedOperation"),
        ({"InstanceMarketOptions": {"MarketType": "bazaar"}}, "InvalidParameterValue"),
        ({"TagSpecifications": tags("fleet")}, "InvalidParameterValue"),
        (
            {"LaunchTemplate": {"LaunchTemplateName": "none"}},
            "InvalidLaunchTemplateName.NotFoundException",
        ),
    ],
)
def test_an_invalid_launch_is_refused_as_a_whole(account, changes, code):
    params = account.to_run(**changes)
    assert refusal(account.ec2.run_instances, **params)[0] == code
    assert account.world.truth() == []


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"ValidUntil": "2030-01-01"}, "InvalidParameterCombination"),
        ({"InstanceInterruptionBehavior": "stop"}, "InvalidParameterCombination"),
        ({"SpotInstanceType": "persistent"}, "UnsupportedOperation"),
        ({"BlockDurationMinutes": 60}, "UnsupportedOperation"),
        ({"MaxPrice": "cheap"}, "InvalidParameterValue"),
        ({"MaxPrice": "0.0001"}, "SpotMaxPriceTooLow"),
    ],
)
def test_spot_options_that_a_one_time_launch_cannot_have_are_refused(account, options, code):
    market = {"MarketType": "spot", "SpotOptions": options}
    params = account.to_run(InstanceMarketOptions=market)
    refused, message, _ = refusal(account.ec2.run_instances, **params)
    assert refused == code
    if code == "SpotMaxPriceTooLow":
        assert "price of 0.0001 is lower than the minimum required" in message
    assert account.ec2.describe_instances()["Reservations"] == []


@pytest.mark.parametrize("spot", [True, False])
def test_a_dry_run_launches_nothing(account, spot):
    params = account.to_run(spot=spot, DryRun=True, ClientToken="a")
    assert refusal(account.ec2.run_instances, **params)[0] == "DryRunOperation"
    assert account.world.truth() == []
    account.run(2, spot=spot, ClientToken="a")  # the token is not used


def test_only_spot_needs_the_role_of_spot_requests(make_account):
    account = make_account(spot_role=False)
    code, _, _ = refusal(account.ec2.run_instances, **account.to_run())
    assert code == "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    assert account.run(spot=False)


# Tags at birth, and the end.


def test_what_a_launch_makes_is_born_with_its_tags(account):
    kinds = ("instance", "volume", "network-interface", "spot-instances-request")
    [instance] = account.run(TagSpecifications=tags(*kinds))
    filters = [{"Name": "key", "Values": ["of"]}]
    found = account.ec2.describe_tags(Filters=filters)["Tags"]
    assert {each["ResourceType"]: each["Value"] for each in found} == {k: k for k in kinds}
    assert next(e["ResourceId"] for e in found if e["ResourceType"] == "instance") == instance
    by_tag = [{"Name": "tag:of", "Values": ["instance"]}]
    assert account.ec2.describe_instances(Filters=by_tag)["Reservations"]


def test_an_on_demand_launch_cannot_tag_a_spot_request(account):
    params = account.to_run(spot=False, TagSpecifications=tags("spot-instances-request"))
    code, message, _ = refusal(account.ec2.run_instances, **params)
    assert code == "InvalidParameterValue"
    assert message.startswith("You cannot specify tags for Spot instances requests")


@pytest.mark.parametrize(
    ("spot", "says", "form", "end"),
    [
        (False, None, "terminate", "stopped"),
        (False, "stop", "terminate", "stopped"),
        (False, "terminate", "stop", "terminated"),
        (True, None, "terminate", "terminated"),
        (True, None, "stop", "stopped"),
        (True, "terminate", "stop", "terminated"),
    ],
)
def test_the_switch_in_the_user_data_ends_the_instance_as_the_launch_says(
    make_account, spot, says, form, end
):
    account = scripted(make_account, Fate(boot_s=5), forms=Forms(guest_shutdown=form))
    more = {"InstanceInitiatedShutdownBehavior": says} if says else {}
    [instance] = account.run(spot=spot, UserData=SWITCH, **more)  # boto3 encodes it
    account.world.advance(15 * 60.0)
    assert account.world.leftovers()["instances"] == [instance]
    account.world.advance(60.0)
    [shown] = account.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    assert shown["Instances"][0]["State"]["Name"] == end
    assert shown["Instances"][0]["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert account.world.leftovers()["instances"] == ([instance] if end == "stopped" else [])


def test_cancelling_the_request_of_a_launch_leaves_its_instance(account):
    [instance] = account.run()
    [shown] = account.ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    request = shown["Instances"][0]["SpotInstanceRequestId"]
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[request])
    assert account.codes([request]) == ["request-canceled-and-instance-running"]
    assert account.world.leftovers() == {"requests": [], "instances": [instance]}


def test_a_launch_takes_what_it_does_not_say_from_its_template(account):
    data = {
        "UserData": base64.b64encode(SWITCH.encode()).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "TagSpecifications": tags("instance"),
    }
    template = account.template(**data)
    named = {"LaunchTemplateId": template, "Version": "1"}
    asked = {"LaunchTemplate": named, "MinCount": 1, "MaxCount": 1, "InstanceType": "t4g.micro"}
    [shown] = account.ec2.run_instances(**asked)["Instances"]
    assert shown["InstanceType"] == "t4g.micro"
    assert shown["Tags"] == [{"Key": "of", "Value": "instance"}]
    account.world.advance(1200.0)
    assert account.world.leftovers()["instances"] == []


@pytest.mark.parametrize(
    ("form", "code"),
    [("instances", "RequestLimitExceeded"), ("calls", "InsufficientInstanceCapacity")],
)
def test_the_bucket_of_launched_instances_is_a_switch(make_account, form, code):
    forms = Forms(launch_bucket=form)
    account = scripted(make_account, NONE, throttled=True, forms=forms, quota_vcpus=1e6)
    run = account.ec2.run_instances
    assert refusal(run, **account.to_run(1000))[0] == "InsufficientInstanceCapacity"
    assert refusal(run, **account.to_run(100))[0] == code
    account.world.advance(50.0)
    assert refusal(run, **account.to_run(100))[0] == "InsufficientInstanceCapacity"

"""Fleets of type instant and request: what they launch, wait for, show, and how they end."""

import base64
import copy
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox.faults import Fault, lose_answer
from spotlib.sandbox.world import Fate

NONE = Fate(held_s=None)
NO_CAPACITY = "There is no Spot capacity available that matches your request."
AZ1 = {"AvailabilityZoneId": "use1-az1"}
AZ2 = {"AvailabilityZoneId": "use1-az2"}
SINGLE = {"SingleInstanceType": True, "SingleAvailabilityZone": True}


def scripted(make_account, *fates, **settings):
    """An account in which the instances of a launch have these fates, in turn."""
    return make_account(script=lambda request: fates[request.index % len(fates)], **settings)


def code_of(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def launched(answer):
    return [i for each in answer["Instances"] for i in each["InstanceIds"]]


def errors(answer):
    return [(each["ErrorCode"], each["ErrorMessage"]) for each in answer["Errors"]]


def fleet(account, *args, **more):
    return account.ec2.create_fleet(**account.to_fleet(*args, **more))


def shown(account, fleet_id):
    [found] = account.ec2.describe_fleets(FleetIds=[fleet_id])["Fleets"]
    return found


# Type instant.


@pytest.mark.parametrize("spot", [True, False])
def test_an_instant_fleet_says_at_once_what_it_launched(account, spot):
    answer = fleet(account, account.template(), 3, AZ1, spot=spot, ClientToken="t")
    [item] = answer["Instances"]
    assert len(item["InstanceIds"]) == 3
    assert (item["Lifecycle"], item["InstanceType"]) == (
        "spot" if spot else "on-demand",
        "t4g.nano",
    )
    assert item["LaunchTemplateAndOverrides"]["Overrides"] == AZ1
    assert answer["Errors"] == []
    requests = account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert len(requests) == (3 if spot else 0)
    truth = account.world.truth()
    assert {(each["method"], each["token"], each["fleet_id"]) for each in truth} == {
        ("create_fleet_instant", "t", answer["FleetId"])
    }
    assert all(
        each["seen_s"]["accepted"] == each["seen_s"]["fulfilled"] <= account.world.now_s
        for each in truth
    )


def test_a_part_comes_with_one_error_for_the_pool(make_account):
    account = scripted(make_account, Fate(), NONE, NONE)
    answer = fleet(account, account.template(), 6, AZ1)
    assert len(launched(answer)) == 2
    assert errors(answer) == [("InsufficientInstanceCapacity", NO_CAPACITY)]
    states = [each["state"] for each in account.world.truth()]
    assert sorted(states) == ["active"] * 2 + ["refused"] * 4


def test_nothing_at_all_is_an_answer_too(make_account):
    account = scripted(make_account, NONE)
    answer = fleet(account, account.template(), 2, AZ1)
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert (launched(answer), len(errors(answer))) == ([], 1)
    assert [each["state"] for each in account.world.truth()] == ["refused"] * 2


def test_what_one_pool_lacks_the_next_gives(make_account):
    """Errors stand beside full success (karpenter 303)."""
    account = scripted(make_account, Fate(), Fate(), NONE, NONE)
    answer = fleet(account, account.template(), 4, AZ1, AZ2)
    assert [len(each["InstanceIds"]) for each in answer["Instances"]] == [2, 2]
    [error] = answer["Errors"]
    first, second = answer["Instances"]
    assert error["LaunchTemplateAndOverrides"] == first["LaunchTemplateAndOverrides"]
    assert (
        second["LaunchTemplateAndOverrides"]["Overrides"]
        != (first["LaunchTemplateAndOverrides"]["Overrides"])
    )
    assert [each["state"] for each in account.world.truth()] == ["active"] * 4


@pytest.mark.parametrize(("least", "count"), [(2, 2), (3, 0)])
def test_fewer_than_the_least_is_nothing(make_account, least, count):
    account = scripted(make_account, Fate(), NONE)
    options = {**SINGLE, "MinTargetCapacity": least}
    answer = fleet(account, account.template(), 4, AZ1, SpotOptions=options)
    assert len(launched(answer)) == count
    assert errors(answer) == [("InsufficientInstanceCapacity", NO_CAPACITY)]
    states = [each["state"] for each in account.world.truth()]
    assert states.count("refused") == 4 - count
    assert sum(account.world.region("us-east-1").held.values()) == count


def test_a_fleet_of_a_single_zone_takes_all_from_one_pool(make_account):
    def fate(request):
        return NONE if request.pool.zone_id == "use1-az1" and request.index else Fate()

    account = make_account(script=fate)
    template = account.template()
    mixed = fleet(account, template, 3, AZ1, AZ2)
    assert len(launched(mixed)) == 3
    options = {**SINGLE, "MinTargetCapacity": 3}
    answer = fleet(account, template, 3, AZ1, AZ2, SpotOptions=options)
    [item] = answer["Instances"]
    assert item["AvailabilityZoneId"] == "use1-az2"
    assert len(item["InstanceIds"]) == 3


def test_a_token_stays_used_by_a_fleet_that_launched_nothing(make_account):
    account = scripted(make_account, NONE)
    template = account.template()
    first = fleet(account, template, 2, AZ1, ClientToken="a")
    account.world.script = None
    again = fleet(account, template, 2, AZ1, ClientToken="a")
    assert again["FleetId"] == first["FleetId"]
    assert (launched(again), errors(again)) == ([], errors(first))
    other = account.to_fleet(template, 2, AZ1, ClientToken="a", spot=False)
    assert code_of(account.ec2.create_fleet, **other) == "IdempotentParameterMismatch"


def test_a_lost_answer_is_found_by_the_token_by_tag_and_by_the_fleets_id(account):
    template = account.template()
    account.world.faults.append(lose_answer("CreateFleet"))
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "batch", "Value": "a"}]}]
    params = account.to_fleet(template, 2, AZ1, ClientToken="a", TagSpecifications=tags)
    with pytest.raises(Exception, match="Connection"):
        account.ec2.create_fleet(**params)
    by_tag = [{"Name": "tag:batch", "Values": ["a"]}]
    found = account.ec2.describe_instances(Filters=by_tag)["Reservations"]
    ids = [each["InstanceId"] for some in found for each in some["Instances"]]
    again = account.ec2.create_fleet(**params)
    assert launched(again) == ids
    assert launched(shown(account, again["FleetId"])) == ids
    own = [{"Name": "tag:aws:ec2:fleet-id", "Values": [again["FleetId"]]}]
    assert account.ec2.describe_instances(Filters=own)["Reservations"] == found
    assert len(account.world.truth()) == 2


def test_throttling_may_stand_in_the_answer(account):
    account.world.faults.append(Fault(kind="fleet_throttled", nth=1))
    template = account.template()
    answer = fleet(account, template, 2, AZ1)
    assert (launched(answer), [code for code, _ in errors(answer)]) == (
        [],
        ["RequestLimitExceeded"],
    )
    assert account.world.truth() == []
    [fired] = account.world.fired
    assert (fired.fault, fired.action) == ("fleet_throttled", "CreateFleet")
    assert len(launched(fleet(account, template, 2, AZ1))) == 2


@pytest.mark.parametrize(
    ("override", "settings", "spot", "code"),
    [
        ({"InstanceType": "t4g.nanno"}, {}, True, "InvalidParameterValue"),
        ({"AvailabilityZoneId": "use1-az3"}, {}, True, "Unsupported"),
        ({"ImageId": "ami-0123456789abcdef0"}, {}, True, "InvalidAMIID.NotFound"),
        ({"MaxPrice": "0.0001"}, {}, True, "SpotMaxPriceTooLow"),
        ({}, {"quota_vcpus": 1.0}, True, "MaxSpotInstanceCountExceeded"),
        ({}, {"on_demand_vcpus": 1.0}, False, "VcpuLimitExceeded"),
        ({}, {"spot_role": False}, True, "AuthFailure.ServiceLinkedRoleCreationNotPermitted"),
    ],
)
def test_what_a_pool_refuses_stands_in_the_answer(make_account, override, settings, spot, code):
    account = make_account(**settings)
    answer = fleet(account, account.template(), 2, override, spot=spot)
    assert [each for each, _ in errors(answer)] == [code]
    assert account.ec2.describe_instances()["Reservations"] == []


def test_a_fleet_on_demand_launches_what_its_quota_has_and_says_so(make_account):
    account = make_account(on_demand_vcpus=4.0)
    answer = fleet(account, account.template(), 3, AZ1, spot=False)
    assert len(launched(answer)) == 2
    assert [code for code, _ in errors(answer)] == ["VcpuLimitExceeded"]


def test_a_template_that_tags_spot_requests_is_refused_on_demand(account):
    """karpenter 5850, seen with CreateFleet."""
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a", "Value": "b"}]}]
    template = account.template(TagSpecifications=tags)
    [(code, message)] = errors(fleet(account, template, 1, AZ1, spot=False))
    assert code == "InvalidParameterValue"
    assert message.startswith("You cannot specify tags for Spot instances requests")
    assert launched(fleet(account, template, 1, AZ1))
    [request] = account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    assert request["Tags"] == tags[0]["Tags"]


def test_an_instant_fleet_shows_only_by_its_id(account):
    answer = fleet(account, account.template(), 2, AZ1)
    found = shown(account, answer["FleetId"])
    assert launched(found) == launched(answer)
    assert (found["FleetState"], found["ActivityStatus"]) == ("active", "fulfilled")
    assert found["FulfilledCapacity"] == 2.0
    assert account.ec2.describe_fleets()["Fleets"] == []
    by_type = [{"Name": "type", "Values": ["instant"]}]
    assert account.ec2.describe_fleets(Filters=by_type)["Fleets"] == []
    for action, more in (
        (account.ec2.describe_fleet_instances, {}),
        (account.ec2.describe_fleet_history, {"StartTime": account.world.utc(0)}),
    ):
        assert code_of(action, FleetId=answer["FleetId"], **more) == "UnsupportedOperation"


def test_deleting_an_instant_fleet_ends_all_it_launched(account):
    template = account.template()
    ids = [fleet(account, template, 2, AZ1, spot=spot)["FleetId"] for spot in (True, False)]
    delete = account.ec2.delete_fleets
    code = code_of(delete, FleetIds=ids, TerminateInstances=False)
    assert code == "InvalidParameterCombination"
    answer = delete(FleetIds=[*ids, "fleet-none"], TerminateInstances=True)
    assert [each["CurrentFleetState"] for each in answer["SuccessfulFleetDeletions"]] == [
        "deleted_terminating"
    ] * 2
    [failed] = answer["UnsuccessfulFleetDeletions"]
    assert failed["Error"]["Code"] == "fleetIdDoesNotExist"
    account.world.advance(120.0)
    assert account.world.leftovers()["instances"] == []
    assert shown(account, ids[0])["FleetState"] == "deleted"


def test_the_user_data_of_the_template_end_its_instances(make_account):
    account = scripted(make_account, Fate(boot_s=5))
    script = base64.b64encode(b"#!/bin/sh\nshutdown -h +15\n").decode()
    template = account.template(
        UserData=script, InstanceInitiatedShutdownBehavior="terminate", Monitoring={"Enabled": True}
    )
    for spot in (True, False):
        fleet(account, template, 1, AZ1, spot=spot)
    account.world.advance(890.0)
    assert len(account.world.leftovers()["instances"]) == 2
    account.world.advance(120.0)
    assert account.world.leftovers()["instances"] == []


# Type request.


def waiting(account, count=2, template=None, **more):
    template = template or account.template(
        f"usual-{len(account.world.calls)}",
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}],
    )
    answer = fleet(account, template, count, AZ1, kind="request", **more)
    assert not answer.get("Instances")
    return answer["FleetId"]


@pytest.mark.parametrize("spot", [True, False])
def test_a_fleet_that_waits_is_fulfilled_when_there_is_capacity(make_account, spot):
    account = scripted(make_account, Fate(evaluate_s=9), Fate(evaluate_s=9, held_s=100))
    fleet_id = waiting(account, spot=spot, ClientToken="t")
    assert shown(account, fleet_id)["FulfilledCapacity"] == 0.0
    assert account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"] == []
    account.world.advance(30.0)
    found = shown(account, fleet_id)
    assert (found["FleetState"], found["ActivityStatus"]) == ("active", "pending_fulfillment")
    assert (found["FulfilledCapacity"], "Instances" in found) == (1.0, False)
    assert found["FulfilledOnDemandCapacity"] == (0.0 if spot else 1.0)
    account.world.advance(100.0)
    assert shown(account, fleet_id)["ActivityStatus"] == "fulfilled"
    active = account.ec2.describe_fleet_instances(FleetId=fleet_id)["ActiveInstances"]
    assert len(active) == 2
    assert all(("SpotInstanceRequestId" in each) is spot for each in active)
    own = [
        {"Name": "tag:aws:ec2:fleet-id", "Values": [fleet_id]},
        {"Name": "tag:a", "Values": ["b"]},
    ]
    assert len(account.ec2.describe_instances(Filters=own)["Reservations"]) == 2
    for each in account.world.truth():
        assert each["method"] == "create_fleet_request"
        assert each["seen_s"]["accepted"] < each["seen_s"]["fulfilled"]
        granted_s = each["happened_s"]["granted" if spot else "fulfilled"]  # by what it shows
        assert each["shown_s"] == each["happened_s"] | {"granted": granted_s}


def test_a_fleet_that_waits_tags_its_instances_through_its_template_only(account):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    params = account.to_fleet(account.template(), kind="request", TagSpecifications=tags)
    assert code_of(account.ec2.create_fleet, **params) == "InvalidParameterValue"


@pytest.mark.parametrize("terminates", [True, False])
def test_at_its_end_a_fleet_launches_no_more_and_may_end_its_instances(make_account, terminates):
    account = scripted(make_account, Fate(), NONE)
    until = account.world.utc() + timedelta(seconds=300)
    fleet_id = waiting(account, 4, ValidUntil=until, TerminateInstancesWithExpiration=terminates)
    account.world.advance(60.0)
    assert len(account.world.leftovers()["requests"]) == 2
    account.world.advance(300.0)
    left = account.world.leftovers()
    assert left["requests"] == []
    assert len(left["instances"]) == (0 if terminates else 2)
    state = "deleted" if terminates else "deleted_running"
    assert shown(account, fleet_id)["FleetState"] == state
    codes = [each["code"] for each in account.world.truth()]
    assert codes.count("schedule-expired") == 2


@pytest.mark.parametrize("terminate", [True, False])
def test_a_deleted_fleet_ends_its_instances_or_not_also_those_in_flight(make_account, terminate):
    account = scripted(make_account, Fate(), NONE, Fate(evaluate_s=10, in_flight_s=30))
    fleet_id = waiting(account, 3)
    account.world.advance(20.0)
    account.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=terminate)
    assert len(account.world.leftovers()["requests"]) == 1  # it is in flight
    account.world.advance(100.0)
    left = account.world.leftovers()
    assert (left["requests"], len(left["instances"])) == ([], 0 if terminate else 2)


def test_a_fleet_that_was_deleted_is_listed_for_two_days(make_account):
    account = scripted(make_account, Fate())
    fleet_id = waiting(account, 1)
    account.world.advance(20.0)
    account.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=True)
    assert shown(account, fleet_id)["FleetState"] == "deleted_terminating"
    again = account.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=True)
    [failed] = again["UnsuccessfulFleetDeletions"]
    assert failed["Error"]["Code"] == "fleetNotInDeletableState"
    account.world.advance(47 * 3600.0)
    assert shown(account, fleet_id)["FleetState"] == "deleted"
    account.world.advance(2 * 3600.0)
    assert account.ec2.describe_fleets()["Fleets"] == []
    assert waiting(account, 1) != fleet_id


def test_a_deleted_fleet_is_not_gone_while_an_instance_of_it_is_still_to_come(make_account):
    account = scripted(make_account, Fate(evaluate_s=5, in_flight_s=30))
    fleet_id = waiting(account, 1)
    account.world.advance(10.0)
    account.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=True)
    assert shown(account, fleet_id)["FleetState"] == "deleted_terminating"
    account.world.advance(100.0)
    assert shown(account, fleet_id)["FleetState"] == "deleted"


def test_all_the_fleets_and_their_instances_are_shown_page_by_page(account):
    ids = [waiting(account, 3, template=account.template(str(k) * 3)) for k in range(3)]
    account.world.advance(30.0)
    pages = account.ec2.get_paginator("describe_fleets").paginate(MaxResults=1)
    assert [each["FleetId"] for page in pages for each in page["Fleets"]] == ids
    asked, found = {"FleetId": ids[0], "MaxResults": 2}, []
    while True:
        answer = account.ec2.describe_fleet_instances(**asked)
        found += [each["InstanceId"] for each in answer["ActiveInstances"]]
        if not answer.get("NextToken"):
            break
        asked["NextToken"] = answer["NextToken"]
    assert len(set(found)) == len(found) == 3


def test_the_history_has_what_happened_half_a_minute_late(make_account):
    account = scripted(make_account, Fate())
    fleet_id, start = waiting(account, 1), account.world.utc(0)

    def history(**more):
        answer = account.ec2.describe_fleet_history(FleetId=fleet_id, StartTime=start, **more)
        return [each["EventInformation"]["EventSubType"] for each in answer["HistoryRecords"]]

    account.world.advance(20.0)
    assert history() == []
    account.world.advance(20.0)
    assert history() == ["submitted", "active", "launched"]
    assert history(EventType="instance-change") == ["launched"]
    account.ec2.delete_fleets(FleetIds=[fleet_id], TerminateInstances=True)
    account.world.advance(60.0)
    assert history()[3:] == ["deleted_terminating", "terminated"]


def test_a_fleet_that_waits_waits_for_its_quota_too(make_account):
    account = scripted(make_account, Fate(), quota_vcpus=4.0)
    fleet_id = waiting(account, 3)
    account.world.advance(60.0)
    assert shown(account, fleet_id)["FulfilledCapacity"] == 2.0
    account.world.quota_vcpus = 6.0
    account.world.advance(60.0)
    assert shown(account, fleet_id)["FulfilledCapacity"] == 3.0


def test_a_fleet_that_can_launch_nothing_has_an_error(account):
    until = account.world.utc() + timedelta(seconds=300)
    given = {"kind": "request", "ValidUntil": until}
    answer = fleet(account, account.template(), 1, {"InstanceType": "x"}, **given)
    fleet_id = answer["FleetId"]
    account.world.advance(60.0)
    assert shown(account, fleet_id)["ActivityStatus"] == "error"
    answer = account.ec2.describe_fleet_history(FleetId=fleet_id, StartTime=account.world.utc(0))
    [error] = [e for e in answer["HistoryRecords"] if e["EventType"] == "service-error"]
    assert "Invalid value 'x'" in error["EventInformation"]["EventDescription"]
    assert account.world.leftovers()["fleets"] == [fleet_id]
    account.world.advance(300.0)
    assert shown(account, fleet_id)["FleetState"] == "deleted"
    assert "fleets" not in account.world.leftovers()


def test_a_copied_world_has_the_same_future(make_account):
    account = scripted(make_account, Fate(), Fate(held_s=100))
    until = account.world.utc() + timedelta(seconds=300)
    waiting(account, 3, ValidUntil=until, TerminateInstancesWithExpiration=True)
    account.world.advance(20.0)
    other = copy.deepcopy(account.world)
    for world in (account.world, other):
        world.advance(400.0)
    assert account.world.truth() == other.truth()
    assert other.leftovers()["instances"] == []


# Refusals.


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"kind": "maintain"}, "UnsupportedOperation"),
        ({"target": 0}, "InvalidParameterValue"),
        ({"SpotOptions": {"MinTargetCapacity": 1}}, "InvalidParameterCombination"),
        (
            {"kind": "request", "SpotOptions": {**SINGLE, "MinTargetCapacity": 1}},
            "InvalidParameterCombination",
        ),
        ({"SpotOptions": {"AllocationStrategy": "diversified"}}, "UnsupportedOperation"),
        ({"SpotOptions": {"AllocationStrategy": "best"}}, "InvalidParameterValue"),
        ({"SpotOptions": {"MaxTotalPrice": "1"}}, "UnsupportedOperation"),
        ({"ReplaceUnhealthyInstances": True}, "UnsupportedOperation"),
        ({"LaunchTemplateConfigs": []}, "MissingParameter"),
    ],
)
def test_an_invalid_fleet_is_refused_as_a_whole(account, changes, code):
    params = account.to_fleet(**{"template": account.template(), "target": 1, **changes})
    assert code_of(account.ec2.create_fleet, **params) == code
    assert account.world.region("us-east-1").fleets == {}


def test_the_version_of_the_template_must_be_named_and_be_there(account):
    params = account.to_fleet(account.template())
    named = params["LaunchTemplateConfigs"][0]["LaunchTemplateSpecification"]
    named["Version"] = "2"
    refused = code_of(account.ec2.create_fleet, **params)
    assert refused == "InvalidLaunchTemplateId.VersionNotFound"
    del named["Version"]
    assert code_of(account.ec2.create_fleet, **params) == "MissingParameter"


def test_a_dry_run_creates_and_deletes_nothing(account):
    template = account.template()
    params = account.to_fleet(template, DryRun=True)
    assert code_of(account.ec2.create_fleet, **params) == "DryRunOperation"
    fleet_id = fleet(account, template)["FleetId"]
    ends = {"FleetIds": [fleet_id], "TerminateInstances": True, "DryRun": True}
    assert code_of(account.ec2.delete_fleets, **ends) == "DryRunOperation"
    assert shown(account, fleet_id)["FleetState"] == "active"


def test_an_unknown_fleet_is_refused(account):
    describe = account.ec2.describe_fleets
    assert code_of(describe, FleetIds=["fleet-none"]) == "InvalidFleetId.NotFound"

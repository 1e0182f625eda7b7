"""Unknown ids, stale answers, pages, buckets, other users of the account, open points."""

from dataclasses import fields

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox import forms
from spotlib.sandbox.company import Neighbours, crowd, move_in
from spotlib.sandbox.forms import Forms
from spotlib.sandbox.limits import Buckets
from spotlib.sandbox.world import Fate, Reads

from .conftest import SWITCH

QUICK = Fate(evaluate_s=0.5, in_flight_s=0.5, boot_s=2.0, ok_s=5.0)


def code_of(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


def by_filter(account, ids):
    filters = [{"Name": "spot-instance-request-id", "Values": ids}]
    found = account.ec2.describe_spot_instance_requests(Filters=filters)["SpotInstanceRequests"]
    return [each["SpotInstanceRequestId"] for each in found]


def test_a_new_request_is_not_found_by_id_and_missing_by_filter_for_a_while(make_account):
    account = make_account(reads=Reads(unknown_s=60.0), script=lambda _: QUICK)
    ids = account.request(1)
    assert by_filter(account, ids) == []
    for call in (
        account.ec2.describe_spot_instance_requests,
        account.ec2.cancel_spot_instance_requests,
    ):
        code = code_of(call, SpotInstanceRequestIds=ids)
        assert code == "InvalidSpotInstanceRequestID.NotFound"
    [true] = account.world.truth()
    assert true["shown_s"]["accepted"] > true["happened_s"]["accepted"] + 1

    account.until(lambda: by_filter(account, ids) == ids)
    assert abs(account.world.now_s - true["shown_s"]["accepted"]) < 3
    account.world.advance(60.0)
    assert len(account.requests(ids)) == 1


def test_a_new_instance_is_not_found_by_id_and_cannot_be_terminated_yet(make_account):
    account = make_account(seed=2, reads=Reads(unknown_s=60.0), script=lambda _: QUICK)
    ids = account.request(1)
    account.until(lambda: by_filter(account, ids) == ids)
    account.until(lambda: "InstanceId" in account.requests(ids)[0])
    instance = account.requests(ids)[0]["InstanceId"]
    if account.instances(ids) == []:
        params = {"InstanceIds": [instance]}
        for call in (account.ec2.describe_instances, account.ec2.terminate_instances):
            assert code_of(call, **params) == "InvalidInstanceID.NotFound"
    account.until(lambda: account.instances(ids) != [])
    account.ec2.terminate_instances(InstanceIds=[instance])


def test_answers_lag_by_no_more_than_the_setting_and_may_go_back(make_account):
    reads = Reads(id_lag_s=5.0, filter_lag_s=20.0, lag_share=0.5)
    account = make_account(reads=reads, script=lambda _: Fate(boot_s=15.0))
    ids = account.request(1)
    shown = []
    for _ in range(120):
        account.world.advance(0.5)
        found = account.instances(ids)
        shown.append(found[0]["State"]["Name"] if found else "none")
    moments = account.world.truth()[0]
    first, last = shown.index("running"), len(shown) - 1 - shown[::-1].index("pending")
    assert first < last  # an answer showed pending after another had shown running
    assert moments["seen_s"]["running"] > moments["happened_s"]["running"]
    account.world.advance(20.0)
    assert {account.states(ids)[0] for _ in range(20)} == {"running"}


def test_filters_miss_what_ids_show(make_account):
    reads = Reads(filter_lag_s=600.0, lag_share=1.0)
    account = make_account(reads=reads, script=lambda _: QUICK)
    ids = account.request(1)
    account.world.advance(5.0)
    [request] = account.requests(ids)  # by id: fresh
    found = account.ec2.describe_instances(InstanceIds=[request["InstanceId"]])["Reservations"]
    assert len(found) == 1
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    assert account.ec2.describe_instances(Filters=running)["Reservations"] == []


def test_what_lost_answers_showed_was_not_seen(make_account):
    from spotlib.sandbox.faults import lose_answer  # noqa: PLC0415

    account = make_account(script=lambda _: QUICK)
    account.image()
    account.world.faults.append(lose_answer("RequestSpotInstances"))
    with pytest.raises(Exception, match="closed"):
        account.request(1)
    assert account.world.truth()[0]["seen_s"] == {}


def test_pages_are_small_or_empty_and_still_end(make_account):
    account = make_account(reads=Reads(page_most=2, empty_share=0.5), script=lambda _: QUICK)
    ids = account.request(9)
    pages = account.ec2.get_paginator("describe_spot_instance_requests").paginate()
    sizes, seen = [], []
    for page in pages:
        sizes.append(len(page["SpotInstanceRequests"]))
        seen += [each["SpotInstanceRequestId"] for each in page["SpotInstanceRequests"]]
    assert seen == ids
    assert max(sizes) == 2
    assert 0 in sizes
    assert len(account.requests(ids)) == 9  # by id all are on one page


def test_a_bucket_has_its_size_and_refills_with_time():
    buckets = Buckets()
    narrowed = {"MaxResults": 1000}
    taken = [buckets.take("r", "DescribeInstances", narrowed, 0.0) for _ in range(101)]
    assert taken == [True] * 100 + [False]
    assert buckets.take("other", "DescribeInstances", narrowed, 0.0)
    assert buckets.take("r", "DescribeInstanceStatus", narrowed, 0.0)
    assert buckets.take("r", "DescribeInstances", narrowed, 0.05)
    assert not buckets.take("r", "DescribeInstances", narrowed, 0.05)


@pytest.mark.parametrize(
    ("action", "params", "most", "refill"),
    [
        ("DescribeInstances", {}, 50, 10),
        ("DescribeInstances", {"Filters": [1]}, 100, 20),
        ("DescribeInstanceStatus", {"InstanceIds": ["i"]}, 100, 20),
        ("RequestSpotInstances", {}, 50, 5),
        ("CancelSpotInstanceRequests", {}, 50, 5),
        ("TerminateInstances", {"InstanceIds": ["i"]}, 100, 5),
        ("TerminateInstances", {"InstanceIds": ["i"] * 500}, 2, 0),
        ("CreateTags", {}, 100, 10),
        ("DescribeSpotPriceHistory", {}, 100, 20),
    ],
)
def test_each_action_has_the_bucket_of_the_developer_guide(action, params, most, refill):
    buckets = Buckets()
    at_once = [buckets.take("r", action, params, 0.0) for _ in range(most + 1)]
    assert at_once == [True] * most + [False]
    later = [buckets.take("r", action, params, 1.0) for _ in range(refill + 1)]
    assert later == [True] * refill + [False]


def test_over_its_limit_a_call_is_refused_with_503_and_virtual_time_refills(make_account):
    account = make_account(throttled=True)
    account.world.market.latency_s = lambda *_: 0.0
    for _ in range(50):
        account.ec2.describe_instances()
    with pytest.raises(ClientError, match="RequestLimitExceeded") as caught:
        account.ec2.describe_instances()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    account.world.advance(0.1)
    account.ec2.describe_instances()


def test_neighbours_are_shown_by_wide_questions_and_not_by_ours(make_account):
    account = make_account(script=lambda _: QUICK)
    strangers = move_in(account.world, crowd(["us-east-1"], tags={"batch": "other"}))
    ids = account.request(1)
    account.world.advance(30.0)
    everything = account.ec2.describe_instances()["Reservations"]
    lifecycles = [each["Instances"][0].get("InstanceLifecycle") for each in everything]
    assert lifecycles.count(None) == 3
    assert lifecycles.count("spot") == 7
    assert len(account.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]) == 10
    assert len(account.instances(ids)) == 1
    assert len(account.world.truth()) == 1
    assert account.world.leftovers()["requests"] == []
    assert len(strangers) == 12


def test_every_change_to_a_neighbour_is_recorded(make_account):
    account = make_account()
    [held] = move_in(account.world, [Neighbours(region="us-east-1", fate=Fate(held_s=None))])
    account.ec2.create_tags(Resources=[held.request_id], Tags=[{"Key": "a", "Value": "b"}])
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[held.request_id])
    assert [(deed, name) for _, deed, name in account.world.touched] == [
        ("tag", held.request_id),
        ("cancel", held.request_id),
    ]


def test_neighbours_count_against_the_quota(make_account):
    account = make_account(quota_vcpus=5)
    move_in(account.world, [Neighbours(region="us-east-1", count=2)])
    assert code_of(account.request) == "MaxSpotInstanceCountExceeded"


def test_neighbours_of_a_type_that_is_not_offered_are_refused(account):
    with pytest.raises(ValueError, match=r"'t9.nano' is not offered in 'us-east-1'"):
        move_in(account.world, [Neighbours(region="us-east-1", instance_type="t9.nano")])


def test_a_region_can_be_not_opted_in(make_account):
    account = make_account(not_opted_in={"us-east-1"})
    assert code_of(account.ec2.describe_instances) == "AuthFailure"
    ssm = account.client("ssm")
    assert code_of(ssm.get_parameter, Name="/x") == "UnrecognizedClientException"
    there = account.client("ec2", "us-east-2")
    [row] = there.describe_regions(AllRegions=True, RegionNames=["us-east-1"])["Regions"]
    assert row["OptInStatus"] == "not-opted-in"
    names = {each["RegionName"] for each in there.describe_regions()["Regions"]}
    assert "us-east-2" in names
    assert "us-east-1" not in names
    assert code_of(there.describe_regions, RegionNames=["mars-1"]) == "InvalidParameterValue"


def test_a_region_can_lack_a_default_vpc(make_account):
    account = make_account(no_default_vpc={"us-east-1"})
    assert code_of(account.request) == "VPCIdNotSpecified"
    assert account.ec2.describe_vpcs()["Vpcs"] == []
    assert account.ec2.describe_subnets()["Subnets"] == []
    assert account.world.truth() == []


def test_without_the_spot_role_no_request_is_accepted(make_account):
    account = make_account(spot_role=False)
    assert code_of(account.request) == "AuthFailure.ServiceLinkedRoleCreationNotPermitted"


def test_a_type_that_does_not_fit_its_zone_or_image_may_fail_later(make_account):
    account = make_account(forms=Forms(unfit="bad-parameters"))
    ids = account.request(1, {"Placement": {"AvailabilityZoneId": "use1-az3"}})
    ids += account.request(1, {"ImageId": account.image("x86_64")})
    account.world.advance(10.0)
    zone, image = account.requests(ids)
    assert {zone["Status"]["Code"], image["Status"]["Code"]} == {"bad-parameters"}
    assert "not supported in your requested Availability Zone" in zone["Fault"]["Message"]
    assert "does not match the architecture" in image["Status"]["Message"]


def test_quota_overflow_may_be_partial(make_account):
    account = make_account(quota_vcpus=5, forms=Forms(quota="partial"), script=lambda _: QUICK)
    ids = account.request(4)
    account.world.advance(20.0)
    assert account.codes(ids) == ["fulfilled"] * 2 + ["bad-parameters"] * 2


def test_a_guests_shutdown_may_stop_the_instance_and_a_cancel_then_ends_it(make_account):
    account = make_account(forms=Forms(guest_shutdown="stop"), script=lambda _: QUICK)
    ids = account.request(1, {"UserData": SWITCH})
    account.world.advance(16 * 60.0)
    [request] = account.requests(ids)
    assert (request["State"], request["Status"]["Code"]) == ("disabled", "instance-stopped-by-user")
    assert account.states(ids) == ["stopped"]
    assert account.world.leftovers()["instances"]

    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    account.world.advance(30.0)
    assert account.states(ids) == ["terminated"]
    assert account.world.leftovers() == {"requests": [], "instances": []}


def test_the_notice_may_have_its_other_code(make_account):
    fate = Fate(interrupted_s=10.0)
    account = make_account(forms=Forms(notice="marked-for-termination"), script=lambda _: fate)
    ids = account.request(1)
    account.world.advance(30.0)
    assert account.codes(ids) == ["marked-for-termination"]
    account.world.advance(120.0)
    assert account.codes(ids) == ["instance-terminated-no-capacity"]


def test_digits_below_the_second_may_be_shown(make_account):
    account = make_account(forms=Forms(subdigits="milliseconds"), script=lambda _: QUICK)
    times = [account.requests(account.request(1))[0]["CreateTime"] for _ in range(5)]
    assert any(each.microsecond for each in times)


def test_an_interface_without_a_subnet_is_refused_or_accepted(make_account):
    bare = {"NetworkInterfaces": [{"DeviceIndex": 0, "AssociatePublicIpAddress": False}]}
    assert code_of(make_account().request, launch=bare) == "MissingParameter"
    assert make_account(forms=Forms(bare_interface="accepted")).request(1, bare)


def test_an_open_point_has_no_other_forms_than_those_of_the_table():
    for item in fields(Forms):
        assert len(item.metadata["forms"]) == 2
        assert f"| `{item.name}` | " in forms.table_markdown()
    with pytest.raises(ValueError, match="quota must be one of refused, partial, got 'perhaps'"):
        Forms(quota="perhaps")

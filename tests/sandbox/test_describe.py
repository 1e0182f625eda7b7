"""Filters, pages and limits of the describe calls."""

import gc
import sys

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox import instance_api, spot_api
from spotlib.sandbox.world import Fate


def tagged(**tags):
    items = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": "spot-instances-request", "Tags": items}]


def shown(account, *filters, **more):
    items = [{"Name": name, "Values": values} for name, values in filters]
    answer = account.ec2.describe_spot_instance_requests(Filters=items, **more)
    return [item["SpotInstanceRequestId"] for item in answer["SpotInstanceRequests"]]


def code_of(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


@pytest.fixture
def running(make_account):
    """Two requests of batch a and one of batch b, running."""
    account = make_account(script=lambda _: Fate(boot_s=1))
    a = account.request(2, TagSpecifications=tagged(batch="a", round="a/1"))
    b = account.request(1, TagSpecifications=tagged(batch="b"))
    account.world.advance(30)
    return account, a, b


def test_requests_are_found_by_tag_state_code_id_and_instance(running):
    account, a, b = running
    assert shown(account, ("tag:batch", ["a"])) == a
    assert shown(account, ("tag:batch", ["a", "b"])) == a + b
    assert shown(account, ("tag:batch", ["c"])) == []
    assert shown(account, ("tag-key", ["round"])) == a
    assert shown(account, ("state", ["active"]), ("tag:batch", ["b"])) == b
    assert shown(account, ("status-code", ["fulfilled"])) == a + b
    assert shown(account, ("spot-instance-request-id", [a[1], "sir-00000000"])) == [a[1]]
    instance = account.requests(b)[0]["InstanceId"]
    assert shown(account, ("instance-id", [instance])) == b
    assert shown(account, ("launch.instance-type", ["t4g.nano"])) == a + b


def test_a_star_in_a_filter_matches_anything(running):
    account, a, b = running
    assert shown(account, ("tag:round", ["a/*"])) == a
    assert shown(account, ("spot-instance-request-id", ["sir-*"])) == a + b
    assert shown(account, ("tag:batch", ["[ab]"])) == []


def test_instances_are_found_by_request_state_lifecycle_and_zone(running):
    account, a, b = running
    assert len(account.instances(a)) == 2
    zone = account.instances(b)[0]["Placement"]["AvailabilityZone"]
    filters = [
        {"Name": "spot-instance-request-id", "Values": a + b},
        {"Name": "instance-state-name", "Values": ["pending", "running"]},
        {"Name": "instance-lifecycle", "Values": ["spot"]},
        {"Name": "availability-zone", "Values": [zone]},
    ]
    found = account.ec2.describe_instances(Filters=filters)["Reservations"]
    assert all(r["Instances"][0]["InstanceLifecycle"] == "spot" for r in found)
    assert b[0] in {r["Instances"][0]["SpotInstanceRequestId"] for r in found}


def test_tags_given_later_are_found_too(running):
    account, a, b = running
    instance = account.requests(b)[0]["InstanceId"]
    account.ec2.create_tags(Resources=[*b, instance], Tags=[{"Key": "batch", "Value": "z"}])
    assert shown(account, ("tag:batch", ["z"])) == b
    assert shown(account, ("tag:batch", ["b"])) == []
    filters = [{"Name": "tag:batch", "Values": ["z"]}]
    assert len(account.ec2.describe_instances(Filters=filters)["Reservations"]) == 1
    tags = account.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance]}])
    assert [tag["Value"] for tag in tags["Tags"]] == ["z"]
    assert shown(account, ("tag:batch", ["a"])) == a


def test_instances_do_not_inherit_the_tags_of_their_request(running):
    account, a, _ = running
    assert all(instance["Tags"] == [] for instance in account.instances(a))


def test_statuses_of_all_instances_are_given_when_asked_for(make_account):
    account = make_account(script=lambda request: Fate(boot_s=1 if request.index else 999))
    account.request(2)
    account.world.advance(30)
    statuses = account.ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    assert sorted(s["InstanceState"]["Name"] for s in statuses) == ["pending", "running"]
    pending = next(s for s in statuses if s["InstanceState"]["Name"] == "pending")
    assert pending["InstanceStatus"]["Status"] == "not-applicable"
    assert len(account.statuses()) == 1


@pytest.mark.parametrize(
    "action", ["describe_spot_instance_requests", "describe_instances", "describe_instance_status"]
)
def test_an_unknown_filter_is_refused(account, action):
    params = {"Filters": [{"Name": "colour", "Values": ["red"]}]}
    assert code_of(getattr(account.ec2, action), **params) == "InvalidParameterValue"


def test_there_are_at_most_200_filter_values(account):
    filters = [{"Name": "spot-instance-request-id", "Values": [f"sir-{i:08x}" for i in range(200)]}]
    assert account.ec2.describe_instances(Filters=filters)["Reservations"] == []
    filters += [{"Name": "instance-lifecycle", "Values": ["spot"]}]
    assert code_of(account.ec2.describe_instances, Filters=filters) == "FilterLimitExceeded"


def test_there_are_at_most_100_ids_of_statuses(account):
    ids = [f"i-{i:017x}" for i in range(101)]
    assert code_of(account.ec2.describe_instance_status, InstanceIds=ids) == "InvalidParameterValue"


def test_pages_are_followed_to_the_end(make_account):
    account = make_account()
    ids = account.request(12)
    for name, key in (
        ("describe_spot_instance_requests", "SpotInstanceRequests"),
        ("describe_instances", "Reservations"),
        ("describe_instance_status", "InstanceStatuses"),
    ):
        account.world.advance(30)
        pages = list(account.ec2.get_paginator(name).paginate(PaginationConfig={"PageSize": 5}))
        assert [len(page[key]) for page in pages] == [5, 5, 2], name
    assert len(ids) == 12


@pytest.mark.parametrize("most", [4, 1001])
def test_a_page_has_5_to_1000_items(account, most):
    call = account.ec2.describe_spot_instance_requests
    assert code_of(call, MaxResults=most) == "InvalidParameterValue"


def test_pages_and_ids_do_not_go_together(account):
    ids = account.request()
    account.world.advance(60)
    instance = account.requests(ids)[0]["InstanceId"]
    for call in (account.ec2.describe_instances, account.ec2.describe_instance_status):
        params = {"InstanceIds": [instance], "MaxResults": 5}
        assert code_of(call, **params) == "InvalidParameterCombination"


def test_a_bad_page_token_is_refused(account):
    call = account.ec2.describe_spot_instance_requests
    assert code_of(call, NextToken="?") == "InvalidNextToken"


def test_a_look_costs_what_it_shows_not_what_the_account_holds(make_account, monkeypatch):
    account = make_account(script=lambda _: Fate(boot_s=1))
    account.request(300)
    ids = account.request(3, TagSpecifications=tagged(batch="a"))
    account.world.advance(30)
    worded = []
    for module, name in ((spot_api, "request_shape"), (instance_api, "instance_shape")):
        real = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda world, thing, real=real: worded.append(1) or real(world, thing)
        )

    assert shown(account, ("tag:batch", ["a"])) == ids
    assert shown(account, ("spot-instance-request-id", ids)) == ids
    assert len(account.instances(ids)) == 3
    assert len(worded) == 9


def test_regions_see_only_their_own(account):
    account.request()
    there = account.client("ec2", "eu-west-1")
    assert there.describe_spot_instance_requests()["SpotInstanceRequests"] == []


def test_the_work_of_a_look_grows_linearly_with_its_requests(make_account):
    """Python functions called for 50 and for 200 requests: no timing, so no flicker."""

    def work(count):
        # A seed of its own: the standard library remembers the ids of other tests, as patterns.
        account = make_account(script=lambda _: Fate(boot_s=1), seed=7000 + count)
        ids = account.request(count, TagSpecifications=tagged(batch="a"))
        account.world.advance(30)
        calls = [0]

        def called(_frame, event, _argument):
            calls[0] += event == "call"

        gc.collect()
        gc.disable()  # the end of what other tests left is calls, too
        sys.setprofile(called)
        try:
            shown(account, ("tag:batch", ["a"]))
            account.instances(ids)
            account.statuses()
        finally:
            sys.setprofile(None)
            gc.enable()
        return calls[0]

    work(5)  # what is read once
    few, many = work(50), work(200)
    assert 3.0 < many / few < 4.2

"""The way of a call: records, latencies, faults, errors, and answers that repeat to the byte."""

import json
import math
import os
import subprocess
import sys
from email.utils import parsedate_to_datetime
from itertools import pairwise

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    ReadTimeoutError,
)

from spotlib.sandbox import api, catalogue, market_api
from spotlib.sandbox.faults import cut_off, fail, lose_answer
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.wire import answer
from spotlib.sandbox.world import Call, Fate, ScaledTime, World

TAGS = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "batch", "Value": "a"}]}]


def form(service, region="us-east-1"):
    scope = f"AWS4-HMAC-SHA256 Credential=x/20240901/{region}/{service}/aws4_request, Signature=x"
    return {
        "authorization": scope,
        "content-type": "application/x-www-form-urlencoded; charset=utf-8",
    }


def test_an_answer_carries_the_worlds_date_and_time(account):
    account.world.advance(86400.5)
    headers = account.ec2.describe_instances()["ResponseMetadata"]["HTTPHeaders"]
    assert float(headers["x-sandbox-now"]) == account.world.now_s
    date = parsedate_to_datetime(headers["date"])
    assert (account.world.utc() - date).total_seconds() < 1
    assert date.isoformat().startswith("2024-09-02T00:00:0")


def test_a_call_spends_its_latency_a_part_before_and_a_part_after_it_takes_effect(account):
    account.image()
    began_s = account.world.now_s
    account.request()
    ended_s = account.world.now_s
    accepted_s = account.world.truth()[0]["happened_s"]["accepted"]
    assert began_s < accepted_s < ended_s
    assert 0.4 < ended_s - began_s < 5


def test_every_call_is_recorded(account):
    account.ec2.describe_instances()
    with pytest.raises(ClientError):
        account.ec2.terminate_instances(InstanceIds=["i-1"])
    describe, terminate = account.world.calls
    assert describe == Call(0.0, "ec2", "DescribeInstances", "us-east-1", False, None)
    assert (terminate.mutating, terminate.code) == (True, "InvalidInstanceID.Malformed")


def test_a_call_whose_answer_is_lost_was_executed(account):
    account.image()
    account.world.faults.append(lose_answer("RequestSpotInstances"))
    params = account.asked(2, ClientToken="t", TagSpecifications=TAGS)
    with pytest.raises(ConnectionClosedError):
        account.ec2.request_spot_instances(**params)
    assert len(account.world.truth()) == 2
    assert account.world.calls[-1].code == "ConnectionClosedError"

    again = account.ec2.request_spot_instances(**params)["SpotInstanceRequests"]
    found = account.ec2.describe_spot_instance_requests(
        Filters=[{"Name": "tag:batch", "Values": ["a"]}]
    )["SpotInstanceRequests"]
    assert [r["SpotInstanceRequestId"] for r in again] == [
        r["SpotInstanceRequestId"] for r in found
    ]
    assert len(account.world.truth()) == 2


def test_a_call_cut_off_was_not_executed(account):
    account.image()
    error = ConnectTimeoutError(endpoint_url="sandbox")
    account.world.faults.append(cut_off("RequestSpotInstances", error=error))
    with pytest.raises(ConnectTimeoutError):
        account.request()
    assert account.world.truth() == []


def test_a_fault_affects_only_the_nth_call_of_its_action(account):
    account.world.faults.append(fail("DescribeInstances", 2, "RequestLimitExceeded"))
    account.ec2.describe_instances()
    account.ec2.describe_instance_status()
    with pytest.raises(ClientError, match="RequestLimitExceeded") as caught:
        account.ec2.describe_instances()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    account.ec2.describe_instances()


def test_an_answer_can_be_lost_to_a_timeout(account):
    error = ReadTimeoutError(endpoint_url="sandbox")
    account.world.faults.append(lose_answer("DescribeInstances", error=error))
    with pytest.raises(ReadTimeoutError):
        account.ec2.describe_instances()


def test_a_bug_in_a_handler_is_ec2s_internal_error_not_a_page(account, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("oh")

    actions = {**api.ACTIONS, ("ec2", "DescribeInstances"): broken}
    monkeypatch.setattr(api, "ACTIONS", actions)
    with pytest.raises(ClientError, match="ZeroDivisionError: oh") as caught:
        account.ec2.describe_instances()
    assert caught.value.response["Error"]["Code"] == "InternalError"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, b"Action=DescribeInstances", b"MissingAuthenticationToken"),
        (form("ec2"), b"Action=Bogus", b"InvalidAction"),
        (form("ec2"), b"", b"InvalidAction"),
        (form("ec2"), b"Action=DescribeInstances&MaxResults=x", b"MalformedQueryString"),
        (form("martian"), b"Action=Land", b"UnsupportedOperation"),
    ],
)
def test_nonsense_is_answered_in_ec2s_error_form(headers, body, code):
    status, _, text = answer(World(), "http://localhost/", headers, body)
    assert 400 <= status < 500
    assert text.startswith(b'<?xml version="1.0"')
    assert b"<Response><Errors><Error><Code>" + code in text


def test_the_service_can_be_read_from_the_host_name():
    url = "https://ec2.eu-west-1.amazonaws.com/"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    world = World()
    status, _, _ = answer(world, url, headers, b"Action=DescribeInstances")
    assert (status, world.calls[0].region) == (200, "eu-west-1")


def test_text_is_escaped(account):
    tags = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "a&<", "Value": "'\"é"}]}]
    [request] = account.requests(account.request(TagSpecifications=tags))
    assert request["Tags"] == [{"Key": "a&<", "Value": "'\"é"}]


def test_an_api_error_says_its_code_and_message():
    assert str(ApiError("Code", "Message.")) == "Code: Message."


def test_a_scaled_clock_runs_by_itself_and_cannot_be_advanced(make_account):
    account = make_account(clock=ScaledTime(600.0), script=lambda _: Fate())
    ids = account.request()
    while account.codes(ids) != ["fulfilled"]:
        assert account.world.now_s < 600, "the clock does not run"
    with pytest.raises(ValueError, match="cannot be advanced"):
        account.world.advance(1)


def test_a_virtual_clock_only_goes_forward(account):
    with pytest.raises(ValueError, match="need 0 <= seconds <= 2678400, got -1"):
        account.world.advance(-1)


def test_the_same_settings_name_the_same_world():
    assert World(3).world_id == World(3).world_id
    others = [World(4), World(3, quota_vcpus=5), World(3, denied={"ec2:CreateTags"})]
    assert len({World(3).world_id, *(world.world_id for world in others)}) == 4


PROGRAM = """
import hashlib, json, sys
from spotlib.sandbox.wire import answer
from spotlib.sandbox.world import World

world, seen, (image, headers) = World(seed=5), hashlib.sha256(), json.loads(sys.argv[1])
def call(text, region="us-east-1"):
    scoped = {name: value.replace("REGION", region) for name, value in headers.items()}
    seen.update(repr(answer(world, "http://localhost/", scoped, text.encode())).encode())

for region in sys.argv[2:]:
    call("Action=DescribeSubnets", region)
call("Action=DescribeImages&Owner.1=amazon")
call("Action=DescribeSpotPriceHistory&InstanceType.1=t4g.nano")
call("Action=GetSpotPlacementScores&TargetCapacity=5&InstanceType.1=t4g.nano")
call("Action=RequestSpotInstances&InstanceCount=5&LaunchSpecification.InstanceType=t4g.nano"
     "&LaunchSpecification.ImageId=" + image)
for _ in range(30):
    world.advance(10.0)
    for things in ("SpotInstanceRequests", "Instances", "InstanceStatus"):
        call("Action=Describe" + things)
print(seen.hexdigest(), len(world.truth()))
"""


def test_two_processes_with_the_same_seed_answer_with_the_same_bytes(account):
    given = json.dumps([account.image(), form("ec2", "REGION")])
    command = [sys.executable, "-c", PROGRAM, given, "us-east-1", "eu-west-1"]
    first, second = (
        subprocess.run(
            command, capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second
    assert first.endswith(b" 5\n")


def test_the_market_calls_answer_in_their_own_protocols(account):
    quotas = account.client("service-quotas").list_service_quotas(ServiceCode="ec2")["Quotas"]
    standard = next(q for q in quotas if "Standard" in q["QuotaName"])
    assert standard["Value"] == 1000.0
    spot = [q for q in quotas if q["QuotaName"].endswith("Spot Instance Requests")]
    on_demand = [q for q in quotas if q["QuotaName"].startswith("Running On-Demand")]
    assert spot + on_demand == quotas
    assert spot
    assert on_demand
    one = account.client("service-quotas").get_service_quota(
        ServiceCode="ec2", QuotaCode=standard["QuotaCode"]
    )
    assert one["Quota"]["QuotaName"] == standard["QuotaName"]
    identity = account.client("sts").get_caller_identity()
    assert identity["Account"] == account.world.account_id
    role = account.client("iam").get_role(RoleName="AWSServiceRoleForEC2Spot")["Role"]
    assert role["Arn"].startswith("arn:aws:iam::123456789012:role/aws-service-role/")


@pytest.mark.parametrize(
    ("name", "product", "operation"),
    [
        ("Windows_Server-2016", "Windows", "RunInstances:0002"),
        ("RHEL-7.4", "Red Hat Enterprise Linux", "RunInstances:0010"),
        ("al2023-ami-2023", "Linux/UNIX", "RunInstances"),
    ],
)
def test_an_image_says_as_what_it_is_billed_and_that_has_prices(account, name, product, operation):
    named = [{"Name": "name", "Values": [f"{name}*"]}]
    image = account.ec2.describe_images(Filters=named)["Images"][0]
    history = account.ec2.describe_spot_price_history(
        InstanceTypes=["t3.nano"], ProductDescriptions=[product], StartTime=account.world.utc()
    )["SpotPriceHistory"]
    filters = {"instanceType": "t3.nano", "regionCode": "us-east-1", "operation": operation}
    found = account.client("pricing").get_products(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in filters.items()],
    )["PriceList"]

    assert (image["PlatformDetails"], image["UsageOperation"]) == (product, operation)
    assert image.get("Platform") == ("windows" if product == "Windows" else None)
    assert {each["ProductDescription"] for each in history} == {product}
    assert len(found) == 1


def test_the_spot_role_can_be_missing(make_account):
    account = make_account(spot_role=False)
    with pytest.raises(ClientError) as caught:
        account.client("iam").get_role(RoleName="AWSServiceRoleForEC2Spot")
    assert caught.value.response["Error"]["Code"] == "NoSuchEntity"


def test_the_account_id_can_be_chosen(make_account):
    account = make_account(account_id="210987654321")
    assert account.client("sts").get_caller_identity()["Account"] == "210987654321"


def test_prices_have_the_price_lists_form(account):
    wanted = {"instanceType": "t4g.nano", "regionCode": "us-east-1", "operatingSystem": "Linux"}
    filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()]
    answered = account.client("pricing").get_products(ServiceCode="AmazonEC2", Filters=filters)
    [product] = [json.loads(text) for text in answered["PriceList"]]
    assert product["product"]["attributes"]["instanceType"] == "t4g.nano"
    [term] = product["terms"]["OnDemand"].values()
    [price] = term["priceDimensions"].values()
    assert float(price["pricePerUnit"]["USD"]) == 0.0042


def test_price_history_has_the_price_in_force_before_it_starts(account):
    now = account.world.utc()
    rows = account.ec2.describe_spot_price_history(
        InstanceTypes=["t4g.nano"], ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now
    )["SpotPriceHistory"]
    assert len({row["AvailabilityZoneId"] for row in rows}) == len(rows) == 5
    assert all(0 <= (now - row["Timestamp"]).total_seconds() < 86400 for row in rows)
    assert all(0 < float(row["SpotPrice"]) <= 0.0042 for row in rows)


def test_price_history_lists_changes_newest_first(account):
    rows = account.ec2.describe_spot_price_history(
        InstanceTypes=["t4g.nano"], AvailabilityZone="us-east-1a"
    )["SpotPriceHistory"]
    stamps = [row["Timestamp"] for row in rows]
    assert stamps == sorted(stamps, reverse=True)
    prices = [row["SpotPrice"] for row in rows if row["ProductDescription"] == "Linux/UNIX"]
    assert len(rows) == 8 * len(prices)  # of four systems, each also within VPCs
    # Each is a change, or the one that is repeated every day.
    assert 90 <= len(prices) < 90 + sum(a != b for a, b in pairwise(prices)) + 2


def test_placement_scores_are_the_ten_best(account):
    scores = account.ec2.get_spot_placement_scores(
        InstanceTypes=["t4g.nano"], TargetCapacity=1, SingleAvailabilityZone=True
    )["SpotPlacementScores"]
    assert len(scores) == 10
    values = [row["Score"] for row in scores]
    assert values == sorted(values, reverse=True)
    assert all("AvailabilityZoneId" in row and 1 <= row["Score"] <= 3 for row in scores)


def test_instance_types_have_ec2s_form(account):
    [kind] = account.ec2.describe_instance_types(InstanceTypes=["t4g.nano"])["InstanceTypes"]
    assert kind["VCpuInfo"]["DefaultVCpus"] == 2
    assert kind["ProcessorInfo"]["SupportedArchitectures"] == ["arm64"]
    assert "spot" in kind["SupportedUsageClasses"]


def test_the_advisor_has_the_types_that_the_market_lists(account):
    advice = market_api.advisor(account.world, ["us-east-1"])
    linux = advice["spot_advisor"]["us-east-1"]["Linux"]
    at = account.world.posix(account.world.now_s)
    for name in ("t4g.nano", "c5.large"):
        score = float(account.world.market.interruption_score(name, "us-east-1", at))
        assert (name not in linux) if math.isnan(score) else linux[name]["r"] == (3.0 - score) * 2
    assert [row["index"] for row in advice["ranges"]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("action", "key"),
    [
        ("describe_regions", "Regions"),
        ("describe_availability_zones", "AvailabilityZones"),
        ("describe_subnets", "Subnets"),
        ("describe_vpcs", "Vpcs"),
        ("describe_security_groups", "SecurityGroups"),
    ],
)
def test_the_default_parts_of_the_account_are_there(account, action, key):
    assert getattr(account.ec2, action)()[key]


def test_zones_offerings_and_launches_agree_on_ids(account):
    zones = {
        zone["ZoneName"]: zone["ZoneId"]
        for zone in account.ec2.describe_availability_zones()["AvailabilityZones"]
    }
    offerings = account.ec2.describe_instance_type_offerings(
        LocationType="availability-zone-id",
        Filters=[{"Name": "instance-type", "Values": ["t4g.nano"]}],
    )["InstanceTypeOfferings"]
    assert {row["Location"] for row in offerings} <= set(zones.values())
    [subnet] = account.ec2.describe_subnets(
        Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    )["Subnets"]
    ids = account.request(1, {"SubnetId": subnet["SubnetId"]})
    account.world.advance(30)
    assert account.instances(ids)[0]["Placement"]["AvailabilityZoneId"] == zones["us-east-1b"]


def test_the_images_of_every_default_region_can_be_launched(account):
    for region in catalogue.DEFAULT_REGIONS:
        ssm = account.client("ssm", region)
        for architecture in ("arm64", "x86_64"):
            name = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}"
            image = ssm.get_parameter(Name=name)["Parameter"]["Value"]
            [shown] = account.client("ec2", region).describe_images(ImageIds=[image])["Images"]
            assert shown["Architecture"] == architecture

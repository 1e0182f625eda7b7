"""What foreign clients of EC2 meet: every filter, every option, every field they read."""

from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox import api, catalogue
from spotlib.sandbox.protocol import documented_filters
from spotlib.sandbox.world import Forms, World

# Each call that takes filters, and what its answer lists.
LISTS = {
    "describe_images": "Images",
    "describe_instances": "Reservations",
    "describe_instance_status": "InstanceStatuses",
    "describe_spot_instance_requests": "SpotInstanceRequests",
    "describe_spot_price_history": "SpotPriceHistory",
    "describe_regions": "Regions",
    "describe_instance_types": "InstanceTypes",
    "describe_instance_type_offerings": "InstanceTypeOfferings",
    "describe_fleets": "Fleets",
    "describe_launch_templates": "LaunchTemplates",
    "describe_launch_template_versions": "LaunchTemplateVersions",
    "describe_tags": "Tags",
    "describe_availability_zones": "AvailabilityZones",
    "describe_vpcs": "Vpcs",
    "describe_subnets": "Subnets",
    "describe_security_groups": "SecurityGroups",
    "describe_key_pairs": "KeyPairs",
}
NARROWED = {
    "describe_launch_template_versions": {"Versions": ["$Latest"]},
    "describe_spot_price_history": {"InstanceTypes": ["t4g.nano"], "MaxResults": 10},
}
# What clients filter by most: these must work.
WORK = {
    "describe_images": {"name", "architecture", "owner-id", "owner-alias", "creation-date"},
    "describe_instances": {"vpc-id", "subnet-id", "private-ip-address", "instance.group-id"},
    "describe_spot_instance_requests": {"state", "spot-price", "launch.group-id", "fault-message"},
    "describe_regions": {"region-name", "opt-in-status", "endpoint"},
    "describe_availability_zones": {"zone-id", "zone-name", "region-name", "state"},
}


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


@pytest.fixture
def running(account):
    """One tagged, running instance and its request."""
    [request] = account.request(1, ValidUntil=account.world.utc() + timedelta(days=1))
    account.until(lambda: account.states([request]) == ["running"])
    instance = account.instances([request])[0]["InstanceId"]
    account.ec2.create_tags(Resources=[request, instance], Tags=[{"Key": "a", "Value": "b"}])
    return account


@pytest.mark.parametrize("action", LISTS)
def test_every_filter_that_ec2_documents_works_or_says_not_modelled(running, action):
    """A filter that works finds nothing for a value that nothing has."""
    call, given, works = getattr(running.ec2, action), NARROWED.get(action, {}), set()
    operation = running.ec2.meta.method_to_api_mapping[action]
    for name in sorted(documented_filters(operation) - {"tag:"}):
        filters = [{"Name": name, "Values": ["no-such-value"]}]
        try:
            found = call(Filters=filters, **given)[LISTS[action]]
        except ClientError as error:
            found = error.response["Error"]
        else:
            works.add(name)
        message = f"The filter '{name}' of {operation} is not modelled by the sandbox."
        assert found in ([], {"Code": "UnsupportedOperation", "Message": message}), name
    assert works >= WORK.get(action, set())
    filters = [{"Name": "vpc_id", "Values": ["a"]}]
    code, message = refusal(call, Filters=filters, **given)
    assert (code, message) == ("InvalidParameterValue", "The filter 'vpc_id' is invalid")


def values(item, path):
    """The values at a dotted path, as a filter reads them."""
    if isinstance(item, list):
        return [found for each in item for found in values(each, path)]
    if not path:
        return [item]
    return values(item[path[0]], path[1:]) if path[0] in item else []


def test_an_instance_is_found_by_each_value_it_shows(running):
    [there] = running.ec2.describe_instances()["Reservations"]
    [shown] = there["Instances"]
    for name, path in {
        "vpc-id": "VpcId",
        "subnet-id": "SubnetId",
        "private-ip-address": "PrivateIpAddress",
        "private-dns-name": "PrivateDnsName",
        "ip-address": "PublicIpAddress",
        "dns-name": "PublicDnsName",
        "instance.group-id": "SecurityGroups.GroupId",
        "block-device-mapping.volume-id": "BlockDeviceMappings.Ebs.VolumeId",
        "network-interface.network-interface-id": "NetworkInterfaces.NetworkInterfaceId",
        "network-interface.attachment.attachment-id": "NetworkInterfaces.Attachment.AttachmentId",
        "root-device-type": "RootDeviceType",
        "virtualization-type": "VirtualizationType",
        "tenancy": "Placement.Tenancy",
    }.items():
        [value] = values(shown, path.split("."))
        filters = [{"Name": name, "Values": [value]}]
        assert len(running.ec2.describe_instances(Filters=filters)["Reservations"]) == 1, name


def test_an_instance_lies_in_the_network_that_the_account_shows(make_account):
    account = make_account()
    ids = account.request(3)
    account.until(lambda: account.states(ids) == ["running"] * 3)
    subnets = {each["SubnetId"]: each for each in account.ec2.describe_subnets()["Subnets"]}
    [vpc] = account.ec2.describe_vpcs()["Vpcs"]
    [group] = account.ec2.describe_security_groups()["SecurityGroups"]
    shown = account.instances(ids)
    for each in shown:
        subnet = subnets[each["SubnetId"]]
        assert subnet["AvailabilityZone"] == each["Placement"]["AvailabilityZone"]
        assert each["VpcId"] == subnet["VpcId"] == vpc["VpcId"] == group["VpcId"]
        assert each["SecurityGroups"] == [{"GroupName": "default", "GroupId": group["GroupId"]}]
        [interface] = each["NetworkInterfaces"]
        assert interface["PrivateIpAddress"] == each["PrivateIpAddress"]
        assert interface["Attachment"]["AttachTime"] == each["LaunchTime"]
        [disk] = each["BlockDeviceMappings"]
        assert disk["DeviceName"] == each["RootDeviceName"]
    assert len({each["PrivateIpAddress"] for each in shown}) == 3

    account.ec2.terminate_instances(InstanceIds=[each["InstanceId"] for each in shown])
    account.world.advance(600.0)
    for each in account.instances(ids):
        assert each["State"]["Name"] == "terminated"
        assert not {"VpcId", "SubnetId", "PrivateIpAddress"} & set(each)
        assert each["NetworkInterfaces"] == each["BlockDeviceMappings"] == []


def test_an_instance_that_takes_no_public_address_has_none(account):
    zone = account.ec2.describe_subnets()["Subnets"][0]
    interface = {"DeviceIndex": 0, "SubnetId": zone["SubnetId"], "AssociatePublicIpAddress": False}
    ids = account.request(launch={"NetworkInterfaces": [interface]})
    account.until(lambda: account.states(ids) == ["running"])
    [shown] = account.instances(ids)
    assert shown["SubnetId"] == zone["SubnetId"]
    assert "PublicIpAddress" not in shown


def test_a_request_shows_its_highest_price_which_is_the_on_demand_price_by_default(account):
    ids = account.request(1) + account.request(1, SpotPrice="0.01")
    assert [each["SpotPrice"] for each in account.requests(ids)] == ["0.004200", "0.010000"]
    filters = [{"Name": "spot-price", "Values": ["0.010000"]}]
    found = account.ec2.describe_spot_instance_requests(Filters=filters)["SpotInstanceRequests"]
    assert [each["SpotInstanceRequestId"] for each in found] == ids[1:]


def test_the_newest_image_is_found_by_owner_name_and_architecture(account):
    """As nearly every script looks for an image."""
    filters = [
        {"Name": "name", "Values": ["al2023-ami-2023*"]},
        {"Name": "architecture", "Values": ["arm64"]},
        {"Name": "state", "Values": ["available"]},
    ]
    images = account.ec2.describe_images(Owners=["amazon"], Filters=filters)["Images"]
    newest = max(images, key=lambda image: image["CreationDate"])
    assert newest["Name"].startswith("al2023-ami-2023")
    assert datetime.fromisoformat(newest["CreationDate"]).strftime("%Y%m%d") in newest["Name"]
    assert (newest["OwnerId"], newest["ImageOwnerAlias"]) == ("137112412989", "amazon")
    assert newest["EnaSupport"] is newest["Public"] is True
    assert len(account.request(launch={"ImageId": newest["ImageId"]})) == 1
    assert account.ec2.describe_images(Owners=["self"])["Images"] == []
    assert refusal(account.ec2.describe_images, Owners=["me"])[0] == "InvalidUserID.Malformed"


def test_each_image_has_the_day_that_its_name_says():
    for image in catalogue.images("us-east-1").values():
        day = datetime.fromisoformat(image["CreationDate"])
        assert 2009 <= day.year <= 2030
        compact = day.strftime("%Y%m%d")
        assert (
            compact in image["Name"]
            or day.strftime("%Y.%m.%d") in image["Name"]
            or (compact == "20171013")
        )


# Prices.


def history(account, **given):
    given.setdefault("InstanceTypes", ["m5.large"])
    return account.ec2.describe_spot_price_history(**given)["SpotPriceHistory"]


def test_prices_are_the_newest_first_over_all_zones(account):
    stamps = [row["Timestamp"] for row in history(account)]
    assert stamps == sorted(stamps, reverse=True)
    assert {row["AvailabilityZone"] for row in history(account)[:40]} > {"us-east-1a"}


@pytest.mark.parametrize("most", [1, 7, 1000, 5000])
def test_pages_of_any_size_have_the_same_prices_once(account, most):
    given = {"InstanceTypes": ["m5.large"], "AvailabilityZone": "us-east-1a"}
    given["StartTime"] = account.world.utc() - timedelta(days=6)
    rows, token = [], ""
    while True:
        reply = account.ec2.describe_spot_price_history(**given, MaxResults=most, NextToken=token)
        assert len(reply["SpotPriceHistory"]) <= min(most, 1000)
        rows += reply["SpotPriceHistory"]
        token = reply["NextToken"]
        if not token:
            break
    assert rows == history(account, **given)
    assert len(rows) >= 12


def test_a_page_has_1000_prices_at_most_and_names_the_next(account):
    reply = account.ec2.describe_spot_price_history(
        InstanceTypes=["m5.large", "c5.large"], ProductDescriptions=["Linux/UNIX"]
    )
    assert len(reply["SpotPriceHistory"]) == 1000
    assert reply["NextToken"]
    call = account.ec2.describe_spot_price_history
    few = {"InstanceTypes": ["t3.nano"], "MaxResults": 0}
    assert refusal(call, **few)[0] == "InvalidParameterValue"


def test_prices_of_all_types_over_months_are_refused_at_once(account):
    call = account.ec2.describe_spot_price_history
    code, words = refusal(call)[:2]

    assert code == "UnsupportedOperation"
    assert "name InstanceTypes" in words
    assert call(StartTime=account.world.utc())["SpotPriceHistory"]


def test_both_product_descriptions_have_the_same_prices(account):
    vpc = history(account, ProductDescriptions=["Linux/UNIX (Amazon VPC)"])
    plain = history(account, ProductDescriptions=["Linux/UNIX"])
    assert {row.pop("ProductDescription") for row in vpc} == {"Linux/UNIX (Amazon VPC)"}
    assert {row.pop("ProductDescription") for row in plain} == {"Linux/UNIX"}
    assert vpc == plain
    call = account.ec2.describe_spot_price_history
    assert refusal(call, ProductDescriptions=["linux"])[0] == "InvalidParameterValue"


def test_a_price_keeps_its_moment_however_it_is_asked_for(account):
    """In any window, and hours later, the same points have the same times."""
    start = account.world.utc() - timedelta(days=20)
    zone = {"AvailabilityZone": "us-east-1a", "ProductDescriptions": ["Linux/UNIX"]}
    first = history(account, StartTime=start, **zone)
    for hours in (1, 5, 31, 100):
        later = start + timedelta(hours=hours)
        some = history(account, StartTime=later, **zone)
        before = [row for row in first if row["Timestamp"] <= later][:1]
        assert some == [row for row in first if row["Timestamp"] > later] + before
    account.world.advance(11 * 3600.0)
    again = history(account, StartTime=start, **zone)
    assert again[-len(first) :] == first
    assert len(again) > len(first)


def test_nothing_after_the_end_is_shown_and_one_price_before_the_start(account):
    now = account.world.utc()
    start, end = now - timedelta(days=9), now - timedelta(days=5)
    rows = history(account, StartTime=start, EndTime=end, AvailabilityZone="us-east-1a")
    rows = [row for row in rows if row["ProductDescription"] == "Linux/UNIX"]
    assert rows[0]["Timestamp"] <= end
    assert sum(row["Timestamp"] <= start for row in rows) == 1


# What is refused.


@pytest.mark.parametrize(
    ("launch", "code", "words"),
    [
        ({"KeyName": "me"}, "InvalidKeyPair.NotFound", "The key pair 'me' does not exist"),
        ({"SecurityGroupIds": ["sg-1"]}, "InvalidGroup.NotFound", "'sg-1' does not exist in VPC"),
        ({"SecurityGroupIds": ["web"]}, "InvalidGroupId.Malformed", 'Invalid id: "web"'),
        ({"SecurityGroups": ["web"]}, "InvalidGroup.NotFound", "'web' does not exist in VPC"),
        (
            {"IamInstanceProfile": {"Name": "admin"}},
            "InvalidParameterValue",
            "Value (admin) for parameter iamInstanceProfile.name is invalid.",
        ),
        ({"Placement": {"GroupName": "near"}}, "InvalidPlacementGroup.Unknown", "'near'"),
        ({"Placement": {"Tenancy": "dedicated"}}, "UnsupportedOperation", "not modelled"),
        ({"Placement": {"Tenancy": "shared"}}, "InvalidParameterValue", "tenancy"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 1}}]},
            "UnsupportedOperation",
            "LaunchSpecification.BlockDeviceMappings is not modelled by the sandbox.",
        ),
        ({"UserData": "YWFh" * 6000}, "InvalidParameterValue", "16384"),
        (
            {"NetworkInterfaces": [{"DeviceIndex": 0, "Ipv6AddressCount": 1}]},
            "UnsupportedOperation",
            "NetworkInterface.Ipv6AddressCount is not modelled by the sandbox.",
        ),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_a_launch_that_names_what_is_not_there_is_refused_dry_or_not(
    account, launch, code, words, dry
):
    params = account.asked(launch=launch, DryRun=dry)
    refused, message = refusal(account.ec2.request_spot_instances, **params)
    assert refused == code
    assert words in message
    assert account.world.truth() == []


def test_a_launch_may_name_what_is_there(account):
    [group] = account.ec2.describe_security_groups()["SecurityGroups"]
    ids = account.request(launch={"SecurityGroupIds": [group["GroupId"]]})
    ids += account.request(launch={"SecurityGroups": ["default"], "EbsOptimized": True})
    for shown in account.requests(ids):
        assert shown["LaunchSpecification"]["SecurityGroups"][0]["GroupId"] == group["GroupId"]


@pytest.mark.parametrize(
    ("action", "given"),
    [
        ("run_instances", {"MinCount": 1, "MaxCount": 1, "KernelId": "aki-1", "DryRun": True}),
        ("create_volume", {"AvailabilityZone": "us-east-1a", "Size": 1, "DryRun": True}),
        ("terminate_instances", {"InstanceIds": ["i-1"], "SkipOsShutdown": True}),
        ("terminate_instances", {"InstanceIds": ["i-1"], "SkipOsShutdown": True, "DryRun": True}),
        ("describe_images", {"ExecutableUsers": ["self"]}),
        ("describe_instance_types", {"IncludeUnsupportedInRegion": True}),
        ("get_spot_placement_scores", {"TargetCapacity": 1, "IncludeLocalZones": True}),
        (
            "get_spot_placement_scores",
            {"TargetCapacity": 1, "InstanceTypes": ["t3.nano"], "TargetCapacityUnitType": "vcpu"},
        ),
        (
            "describe_instance_type_offerings",
            {"LocationType": "outpost"},
        ),
    ],
)
def test_what_is_not_modelled_is_refused_and_a_dry_run_never_says_yes(account, action, given):
    code, message = refusal(getattr(account.ec2, action), **given)
    assert (code, "not modelled by the sandbox" in message) == ("UnsupportedOperation", True)


def test_every_action_says_which_parameters_it_reads(account):
    """So that no other is ignored; each of them is one that EC2 has."""
    model = account.ec2.meta.service_model
    for service, action in api.ACTIONS:
        if service == "ec2":
            members = model.operation_model(action).input_shape.members
            assert set(api._PARAMETERS[action].split()) <= set(members), action


def test_a_dry_run_passes_every_check_and_has_no_effect(running):
    [request] = running.ec2.describe_spot_instance_requests()["SpotInstanceRequests"]
    request_id, instance = request["SpotInstanceRequestId"], request["InstanceId"]
    before = running.world.truth()
    for action, given in {
        "request_spot_instances": running.asked(2),
        "cancel_spot_instance_requests": {"SpotInstanceRequestIds": [request_id]},
        "terminate_instances": {"InstanceIds": [instance]},
        "create_tags": {"Resources": [instance], "Tags": [{"Key": "x", "Value": "y"}]},
    }.items():
        call = getattr(running.ec2, action)
        assert refusal(call, DryRun=True, **given)[0] == "DryRunOperation", action
    assert running.world.truth() == before
    assert running.instances([request_id])[0]["Tags"] == [{"Key": "a", "Value": "b"}]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"quota_vcpus": 3.0}, "MaxSpotInstanceCountExceeded"),
        ({"spot_role": False}, "AuthFailure.ServiceLinkedRoleCreationNotPermitted"),
    ],
)
def test_a_dry_run_may_check_the_account_or_not(make_account, settings, code):
    for form, answer in (("parameters", "DryRunOperation"), ("account", code)):
        account = make_account(forms=Forms(dry_run=form), **settings)
        params = account.asked(2, DryRun=True)
        assert refusal(account.ec2.request_spot_instances, **params)[0] == answer
        assert refusal(account.ec2.request_spot_instances, **account.asked(2))[0] == code


# Regions and dates.


def test_without_all_regions_only_those_that_the_account_may_use_are_listed(make_account):
    ec2 = make_account(opted_in=["me-central-1"], not_opted_in=["eu-west-3"]).ec2
    states = {
        each["RegionName"]: each["OptInStatus"]
        for each in ec2.describe_regions(AllRegions=True)["Regions"]
    }
    assert states["me-central-1"] == "opted-in"
    assert states["us-east-1"] == "opt-in-not-required"
    assert states["eu-west-3"] == states["af-south-1"] == "not-opted-in"
    assert not any(name.startswith(("cn-", "us-gov-")) for name in states)
    enabled = {each["RegionName"] for each in ec2.describe_regions()["Regions"]}
    assert enabled == {name for name, state in states.items() if state != "not-opted-in"}
    filters = [{"Name": "opt-in-status", "Values": ["opted-in"]}]
    [found] = ec2.describe_regions(Filters=filters)["Regions"]
    assert found["RegionName"] == "me-central-1"
    assert found["Endpoint"] == "ec2.me-central-1.amazonaws.com"


@pytest.mark.parametrize("region", ["me-central-1", "us-gov-west-1", "cn-north-1"])
def test_a_region_of_another_partition_or_without_opt_in_does_not_know_the_account(account, region):
    call = account.client("ec2", region).describe_instances
    assert refusal(call)[0] == "AuthFailure"


def test_an_account_of_another_partition_has_its_regions_and_names(make_account):
    account = make_account(partition="aws-cn")
    ec2 = account.client("ec2", "cn-north-1")
    [north, _] = ec2.describe_regions()["Regions"]
    assert (north["RegionName"], north["Endpoint"]) == (
        "cn-north-1",
        "ec2.cn-north-1.amazonaws.com.cn",
    )
    arn = account.client("sts", "cn-north-1").get_caller_identity()["Arn"]
    assert arn.startswith("arn:aws-cn:iam::")
    assert refusal(account.ec2.describe_instances)[0] == "AuthFailure"


def test_a_world_can_begin_on_any_day_and_is_then_another_world(make_account):
    day = datetime(2025, 5, 1, tzinfo=UTC)
    account = make_account(epoch=day)
    [shown] = account.ec2.request_spot_instances(**account.asked())["SpotInstanceRequests"]
    assert shown["CreateTime"].date() == day.date()
    assert history(account)[0]["Timestamp"] > day - timedelta(days=1)
    market = account.world.market
    same, other = World(epoch=day, market=market), World(market=market)
    assert account.world.world_id == same.world_id != other.world_id

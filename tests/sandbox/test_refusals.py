"""The sandbox refuses what EC2 refuses, with the same code, and without an effect."""

import base64
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox.world import Fate


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"count": 0}, "InvalidParameterValue"),
        ({"count": -1}, "InvalidParameterValue"),
        ({"count": 3001}, "RequestResourceCountExceeded"),
        ({"launch": {"ImageId": "ami-1"}}, "InvalidAMIID.Malformed"),
        ({"launch": {"ImageId": "resolve:ssm:/x"}}, "InvalidAMIID.Malformed"),
        ({"launch": {"ImageId": "ami-0123456789abcdef0"}}, "InvalidAMIID.NotFound"),
        ({"launch": {"InstanceType": "t4g.nanno"}}, "InvalidParameterValue"),
        ({"launch": {"InstanceType": "t2.nano"}}, "UnsupportedOperation"),
        ({"launch": {"UserData": "#!/bin/sh"}}, "InvalidParameterValue"),
        ({"launch": {"SubnetId": "subnet-0123456789abcdef0"}}, "InvalidSubnetID.NotFound"),
        ({"launch": {"Placement": {"AvailabilityZone": "mars-1a"}}}, "InvalidParameterValue"),
        ({"launch": {"Placement": {"AvailabilityZone": "us-west-2a"}}}, "InvalidParameterValue"),
        ({"SpotPrice": "cheap"}, "InvalidParameterValue"),
        ({"SpotPrice": "-1"}, "InvalidParameterValue"),
        ({"SpotPrice": "nan"}, "InvalidParameterValue"),
        ({"InstanceInterruptionBehavior": "stop"}, "InvalidParameterCombination"),
        ({"Type": "persistent"}, "UnsupportedOperation"),
    ],
)
def test_an_invalid_request_is_refused_as_a_whole(account, changes, code):
    params = account.asked(**changes)
    assert refusal(account.ec2.request_spot_instances, **params)[0] == code
    assert account.world.truth() == []


def test_the_message_of_bad_user_data_is_ec2s(account):
    params = account.asked(launch={"UserData": "not base64!"})
    _, message = refusal(account.ec2.request_spot_instances, **params)
    assert message == "Invalid BASE64 encoding of user data."


def test_an_image_of_another_architecture_is_refused_with_both_named(account):
    params = account.asked(launch={"ImageId": account.image("x86_64")})
    code, message = refusal(account.ec2.request_spot_instances, **params)
    assert code == "InvalidParameterValue"
    assert "'arm64' of the specified instance type" in message
    assert "'x86_64' of the specified AMI" in message


def test_images_are_known_in_their_own_region_only(account):
    params = account.asked()
    there = account.client("ec2", "eu-west-1")
    assert refusal(there.request_spot_instances, **params)[0] == "InvalidAMIID.NotFound"


def test_a_type_not_offered_in_the_zone_names_the_zones_that_have_it(account):
    # t4g is not in use1-az3, which this account calls us-east-1e.
    params = account.asked(launch={"Placement": {"AvailabilityZoneId": "use1-az3"}})
    code, message = refusal(account.ec2.request_spot_instances, **params)
    assert code == "Unsupported"
    assert "(us-east-1e)" in message
    assert "choosing us-east-1a, us-east-1b" in message


def test_a_validity_in_the_past_is_refused_by_the_worlds_clock(account):
    account.world.advance(100)
    params = account.asked(ValidUntil=account.world.utc() - timedelta(seconds=1))
    assert refusal(account.ec2.request_spot_instances, **params)[0] == "InvalidTime"


def test_only_the_request_itself_can_be_tagged(account):
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    code, message = refusal(
        account.ec2.request_spot_instances, **account.asked(TagSpecifications=tags)
    )
    assert code == "InvalidParameterValue"
    assert message.startswith("'instance' is not a valid taggable resource type")


def test_the_same_token_and_parameters_return_the_same_requests(account):
    first = account.request(2, ClientToken="a")
    account.world.advance(100)
    assert account.request(2, ClientToken="a") == first
    assert len(account.world.truth()) == 2


def test_the_same_token_with_other_parameters_is_refused(account):
    account.request(2, ClientToken="a")
    params = account.asked(3, ClientToken="a")
    code, _ = refusal(account.ec2.request_spot_instances, **params)
    assert code == "IdempotentParameterMismatch"


def test_without_a_token_every_call_is_a_new_request(account):
    assert set(account.request()).isdisjoint(account.request())


def test_tokens_are_kept_by_region(account):
    params = account.asked(ClientToken="a")
    account.ec2.request_spot_instances(**params)
    there = account.client("ec2", "us-east-2")
    assert refusal(there.request_spot_instances, **params)[0] == "InvalidAMIID.NotFound"


def test_the_quota_counts_vcpus_of_open_requests_and_live_instances(make_account):
    account = make_account(quota_vcpus=5, script=lambda _: Fate(shutdown_s=1))
    first, second = account.request(2)  # 2 vCPUs each
    over = account.asked(1)
    assert refusal(account.ec2.request_spot_instances, **over)[0] == "MaxSpotInstanceCountExceeded"

    account.world.advance(20)
    account.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=[first, second])
    assert refusal(account.ec2.request_spot_instances, **over)[0] == "MaxSpotInstanceCountExceeded"
    ids = [r["InstanceId"] for r in account.requests([first, second])]
    account.ec2.terminate_instances(InstanceIds=ids)
    account.world.advance(20)
    assert len(account.request(2)) == 2


def test_quota_overflow_is_all_or_nothing_and_by_family(make_account):
    account = make_account(quota_vcpus=5)
    code, message = refusal(account.ec2.request_spot_instances, **account.asked(3))
    assert (code, message) == ("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    assert account.world.truth() == []

    account.request(2)
    gpu = {"InstanceType": "g4dn.xlarge", "ImageId": account.image("x86_64")}
    assert len(account.request(1, gpu)) == 1


def test_a_quota_that_was_never_applied_is_not_listed_and_that_of_a_new_account(make_account):
    account = make_account(unlisted_quotas={"Standard", "Trn"})
    quotas = account.client("service-quotas")
    applied = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
    default = {"ServiceCode": "ec2", "QuotaCode": "L-34B43A08"}

    assert {"Standard", "Trn"}.isdisjoint(each["QuotaName"].split()[1] for each in applied)
    assert quotas.get_aws_default_service_quota(**default)["Quota"]["Value"] == 5.0
    assert refusal(quotas.get_service_quota, **default)[0] == "NoSuchResourceException"
    over = account.asked(3)
    assert refusal(account.ec2.request_spot_instances, **over)[0] == "MaxSpotInstanceCountExceeded"


def test_a_dry_run_changes_nothing(account):
    code, _ = refusal(account.ec2.request_spot_instances, **account.asked(DryRun=True))
    assert code == "DryRunOperation"
    assert account.world.truth() == []
    assert refusal(account.ec2.describe_instances, DryRun=True)[0] == "DryRunOperation"


def test_a_dry_run_of_terminate_checks_the_ids_first(account):
    params = {"InstanceIds": ["i-0123456789abcdef0"], "DryRun": True}
    assert refusal(account.ec2.terminate_instances, **params)[0] == "InvalidInstanceID.NotFound"


@pytest.mark.parametrize("dry", [True, False])
def test_a_denied_action_is_unauthorized_even_as_a_dry_run(make_account, dry):
    account = make_account(denied={"ec2:TerminateInstances"})
    params = {"InstanceIds": ["i-0123456789abcdef0"], "DryRun": dry}
    assert refusal(account.ec2.terminate_instances, **params)[0] == "UnauthorizedOperation"


def test_a_region_not_opted_in_fails_authentication(account):
    there = account.client("ec2", "me-central-1")
    assert refusal(there.describe_instances)[0] == "AuthFailure"


def test_empty_id_lists_mean_everything_to_describes_and_nothing_to_changes(account):
    account.request(2)
    shown = account.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=[])
    assert len(shown["SpotInstanceRequests"]) == 2
    for call, params in (
        (account.ec2.cancel_spot_instance_requests, {"SpotInstanceRequestIds": []}),
        (account.ec2.terminate_instances, {"InstanceIds": []}),
        (account.ec2.create_tags, {"Resources": [], "Tags": [{"Key": "a", "Value": "b"}]}),
    ):
        assert refusal(call, **params)[0] == "MissingParameter"


def test_one_unknown_id_fails_a_whole_terminate(make_account):
    account = make_account(script=lambda _: Fate(boot_s=1))
    ids = account.request()
    account.world.advance(20)
    known = account.requests(ids)[0]["InstanceId"]
    params = {"InstanceIds": [known, "i-0123456789abcdef0"]}
    assert refusal(account.ec2.terminate_instances, **params)[0] == "InvalidInstanceID.NotFound"
    assert account.states(ids) == ["running"]


@pytest.mark.parametrize(
    ("action", "params", "code"),
    [
        (
            "describe_spot_instance_requests",
            {"SpotInstanceRequestIds": ["sir-00000000"]},
            "InvalidSpotInstanceRequestID.NotFound",
        ),
        (
            "cancel_spot_instance_requests",
            {"SpotInstanceRequestIds": ["sir-00000000"]},
            "InvalidSpotInstanceRequestID.NotFound",
        ),
        (
            "cancel_spot_instance_requests",
            {"SpotInstanceRequestIds": ["x"]},
            "InvalidSpotInstanceRequestID.Malformed",
        ),
        (
            "describe_instances",
            {"InstanceIds": ["i-0123456789abcdef0"]},
            "InvalidInstanceID.NotFound",
        ),
        ("describe_instances", {"InstanceIds": ["i-1"]}, "InvalidInstanceID.Malformed"),
        ("describe_instance_types", {"InstanceTypes": ["x9.nano"]}, "InvalidInstanceType"),
    ],
)
def test_unknown_ids_are_refused(account, action, params, code):
    assert refusal(getattr(account.ec2, action), **params)[0] == code


def test_what_is_not_modelled_says_so_in_ec2s_form(account):
    code, message = refusal(account.ec2.create_volume, AvailabilityZone="us-east-1a", Size=1)
    assert code == "UnsupportedOperation"
    assert message == "ec2:CreateVolume is not modelled by the sandbox."
    assert refusal(account.client("sns").list_topics)[0] == "UnsupportedOperation"


def test_valid_user_data_is_kept_as_sent(account):
    text = base64.b64encode(b"#!/bin/sh\ntrue\n").decode()
    [request] = account.requests(account.request(launch={"UserData": text}))
    assert request["LaunchSpecification"]["UserData"] == text

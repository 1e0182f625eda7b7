"""What a refused call means, and what it advises: by EC2's exact code, or by what failed here."""

import pytest
from botocore import exceptions

from spotlib.ec2.refusals import refusal_of
from spotlib.model import Kind


def refused(code, status=400, message="EC2's message"):
    response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    error = exceptions.ClientError(response, "RequestSpotInstances")
    return refusal_of(error, action="request_spot_instances", region="us-east-1")


@pytest.mark.parametrize(
    ("code", "kind", "is_outcome"),
    [
        ("InsufficientInstanceCapacity", Kind.CAPACITY, True),
        ("SpotMaxPriceTooLow", Kind.PRICE, True),
        ("MaxSpotInstanceCountExceeded", Kind.QUOTA, False),
        ("UnauthorizedOperation", Kind.PERMISSION, False),
        ("AuthFailure.SomethingNew", Kind.CREDENTIALS, False),
        ("RequestLimitExceeded", Kind.THROTTLED, False),
        ("NobodyKnowsThis", Kind.UNKNOWN, False),
    ],
)
def test_only_a_shortage_or_a_price_is_a_measurement(code, kind, is_outcome):
    refusal = refused(code)

    assert (refusal.kind, refusal.is_outcome) == (kind, is_outcome)
    assert not refusal.maybe_done


def test_an_unknown_code_from_inside_ec2_may_have_been_executed():
    refusal = refused("NobodyKnowsThis", status=503)

    assert refusal.kind is Kind.SERVER
    assert refusal.maybe_done


def test_a_refusal_names_the_call_the_region_the_code_the_message_and_what_to_do():
    text = str(refused("VPCIdNotSpecified"))

    assert text.startswith("request_spot_instances in us-east-1: VPCIdNotSpecified (EC2's message)")
    assert "aws ec2 create-default-vpc --region" in text


@pytest.mark.parametrize(
    ("error", "maybe_done"),
    [
        (exceptions.EndpointConnectionError(endpoint_url="https://a"), False),
        (exceptions.ConnectTimeoutError(endpoint_url="https://a"), False),
        (exceptions.ReadTimeoutError(endpoint_url="https://a"), True),
    ],
)
def test_a_call_without_an_answer_may_have_been_executed_unless_it_was_never_sent(
    error, maybe_done
):
    refusal = refusal_of(error, action="request_spot_instances", region="us-east-1")

    assert refusal.kind is Kind.UNREACHABLE
    assert refusal.maybe_done is maybe_done


def test_missing_credentials_are_no_network_fault():
    refusal = refusal_of(exceptions.NoCredentialsError(), action="a", region="us-east-1")

    assert refusal.kind is Kind.CREDENTIALS
    assert "configure AWS credentials" in refusal.advice


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "InvalidSignatureException",
            "Signature not yet current: 2026 is still later than 2025",
        ),
        ("InvalidSignatureException", "Signature expired: 20260102T00 is now earlier than 2026"),
        ("SignatureDoesNotMatch", "Signature expired: 20260102T00 is now earlier than 2026"),
        ("RequestTimeTooSkewed", "The difference between the request time and now is too large."),
        ("RequestExpired", "Request has expired."),
    ],
)
def test_a_wrong_clock_is_named_also_where_it_is_called_a_wrong_signature(code, message):
    refusal = refused(code, message=message)

    assert refusal.kind is Kind.CREDENTIALS
    assert "set this machine's clock" in refusal.advice


def test_a_wrong_secret_key_is_no_wrong_clock():
    refusal = refused("SignatureDoesNotMatch", message="The request signature we calculated ...")

    assert "clock" not in refusal.advice
    assert "secret" in refusal.advice


@pytest.mark.parametrize(
    ("message", "by"),
    [
        ("User: x is not authorized with an explicit deny in a service control policy", "service"),
        ("... with an explicit deny in an identity-based policy", "identity-based policy"),
        ("... with an explicit deny in a permissions boundary", "permissions boundary"),
        ("... with an explicit deny", "policy"),
        ("... because no permissions boundary allows the ec2:X action", "permissions boundary"),
        ("... because no service control policy allows the ec2:X action", "service control policy"),
    ],
)
@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AccessDenied"])
def test_what_a_policy_of_others_forbids_is_not_answered_with_ours(code, message, by):
    refusal = refused(code, message=message)

    assert refusal.kind is Kind.PERMISSION
    assert by in refusal.advice
    assert "ask the account's administrator" in refusal.advice


def test_what_nothing_allows_yet_is_answered_with_our_policy():
    message = "... because no identity-based policy allows the ec2:X action"

    assert "allow it: spotlib/policy.json" in refused("AccessDenied", message=message).advice

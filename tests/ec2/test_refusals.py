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

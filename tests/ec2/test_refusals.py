"""What a refused call means, and what it advises: by EC2's exact code, or by what failed here."""

import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError

from spotlib.ec2.refusals import (
    Refusal,
    fewer_came,
    garbled,
    login_refusal,
    reading,
    refusal_of,
    refusal_of_code,
)
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

    assert "allow it: 'spotlib policy' prints" in refused("AccessDenied", message=message).advice


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.UNKNOWN),
        (428, Kind.UNKNOWN),
        (429, Kind.THROTTLED),
        (430, Kind.UNKNOWN),
        (499, Kind.UNKNOWN),
        (500, Kind.SERVER),
        (503, Kind.SERVER),
    ],
)
def test_the_status_decides_about_a_code_that_is_not_known_and_about_no_other(status, kind):
    refusal = refused("NobodyKnowsThis", status=status)

    assert (refusal.kind, refusal.maybe_done) == (kind, kind is Kind.SERVER)
    known = refused("InsufficientInstanceCapacity", status=status)
    assert (known.kind, known.maybe_done) == (Kind.CAPACITY, False)
    assert refused("AuthFailure.New", status=status).kind is Kind.CREDENTIALS
    role = refused("AuthFailure.ServiceLinkedRoleCreationNotPermitted", status=status)
    assert role.kind is Kind.ACCOUNT


def test_an_error_within_an_answer_has_no_status_and_no_region_yet():
    refusal = refusal_of_code("NobodyKnowsThis", "m", action="create_fleet")

    assert (refusal.kind, refusal.maybe_done, refusal.region) == (Kind.UNKNOWN, False, "")
    assert refusal_of_code("InternalError", "m", action="x", region="r").region == "r"
    assert refusal_of_code("InternalError", "m", action="x").maybe_done


def test_an_error_without_a_code_or_a_message_is_unknown():
    error = exceptions.ClientError({"Error": {}, "ResponseMetadata": {}}, "X")
    refusal = refusal_of(error, action="x", region="r")

    assert str(refusal) == "x in r: Unknown (): see EC2's message"


def test_only_a_call_that_was_repeated_says_how_often():
    refusal = refusal_of_code("InternalError", "m", action="x", region="r")
    late = "EC2 is busy or failing: try again later"

    assert (refusal.attempts, refusal.tried_s) == (1, 0.0)
    assert str(refusal) == f"x in r: InternalError (m): {late}"
    refusal.attempts, refusal.tried_s = 2, 6.4
    assert str(refusal) == f"x in r: InternalError (m) after 2 attempts in 6 s: {late}"
    assert refusal.args == ("InternalError",)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("one  line\n of words", "one line of words"),
        ("a" * 4000, "a" * 4000),
        ("a" * 4001, "a" * 4000 + " ..."),
        ("<html><title>Not\n here</title>secret", "a web page, 'Not here'"),
        ("b'<TITLE>Not\\nhere</TITLE>secret'", "a web page, 'Not here'"),
        ("  <xml>secret", "a page"),
        ("a < b", "a < b"),
    ],
)
def test_a_message_is_one_line_and_a_page_only_its_title(message, shown):
    assert refused("AccessDenied", message=message).message == shown


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] unable", "the certificate is not trusted"),
        ("[Errno 2] No such file", "check the file that AWS_CA_BUNDLE"),
        ("[X509] PEM lib", "check the file that AWS_CA_BUNDLE"),
        ("handshake failure [Errno 104]", "no answer: check the connection"),
    ],
)
def test_a_certificate_is_not_trusted_or_cannot_be_read_or_nothing_came(words, advice):
    error = exceptions.SSLError(endpoint_url="https://x", error=words)
    refusal = refusal_of(error, action="x", region="r")

    assert refusal.advice.startswith(advice)
    sent = advice.startswith("no answer")
    assert (refusal.kind is Kind.UNREACHABLE, refusal.maybe_done) == (sent, sent)
    other = refusal_of(exceptions.ReadTimeoutError(endpoint_url=words), action="x", region="r")
    assert other.advice.startswith("no answer: check the connection")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyError("Regions"), "no answer of AWS, KeyError"),
        (AttributeError("x"), "no answer of AWS, AttributeError"),
        (
            ResponseParserError("Unable to parse. Further retries may succeed: secret"),
            "Unable to parse",
        ),
        (
            ResponseParserError("no. Further retries: b'<title>Log in</title> secret'"),
            "a web page, 'Log in'",
        ),
        (exceptions.ClientError({"secret": 1}, "X"), "no answer of AWS, ClientError"),
    ],
)
def test_an_answer_that_cannot_be_read_is_a_lost_one_without_what_stands_in_it(error, message):
    refusal = refusal_of(error, action="x", region="r")

    assert (refusal.code, refusal.message) == ("ResponseParserError", message)
    assert (refusal.kind, refusal.maybe_done) == (Kind.UNREACHABLE, True)
    assert "it cannot be read, so perhaps another program gave it" in refusal.advice


def test_an_error_of_botocore_keeps_its_name_also_if_it_is_a_value_error_too():
    error = exceptions.InvalidRegionError(region_name="x")

    assert isinstance(error, ValueError)
    assert refusal_of(error, action="x", region="r").code == "InvalidRegionError"


def test_what_an_answer_lacks_makes_it_a_lost_one():
    refusal = garbled("price", action="x", region="r")
    with pytest.raises(Refusal, match="GarbledAnswer") as caught, reading("quota", **WHERE):
        raise KeyError("Value")

    assert (refusal.message, refusal.maybe_done) == ("the answer has no price", True)
    assert caught.value.message == "the answer has no quota that can be read"
    fewer = fewer_came("1 of 2", action="x")
    assert (fewer.code, fewer.kind, fewer.maybe_done) == ("", Kind.CAPACITY, False)


WHERE = {"action": "x", "region": "r"}


@pytest.mark.parametrize(
    ("profile", "option"), [("default", ""), ("a", " --profile a"), ("z", " --profile z")]
)
def test_a_log_in_that_failed_was_never_sent_and_names_the_profile(profile, option):
    lost = login_refusal(exceptions.ReadTimeoutError(endpoint_url="x"), profile=profile)
    sso = login_refusal(
        exceptions.SSOTokenLoadError(profile_name="p", error_msg="m"), profile=profile
    )
    odd = login_refusal(RecursionError(), profile=profile)

    assert (lost.kind, lost.maybe_done) == (Kind.UNREACHABLE, False)
    assert (sso.kind, sso.maybe_done) == (Kind.CREDENTIALS, False)
    assert sso.advice == f"log in with: aws sso login{option}"
    assert odd.kind is Kind.CREDENTIALS
    assert lost.region == f"profile {profile}"


@pytest.mark.parametrize(
    ("code", "message", "kind", "advice"),
    [
        ("AccessDenied", "no", Kind.CREDENTIALS, "the role refuses these credentials"),
        ("NobodyKnowsThis", "no", Kind.CREDENTIALS, "the role refuses these credentials"),
        (
            *("AccessDenied", "MultiFactorAuthentication failed with invalid code"),
            *(Kind.CREDENTIALS, "the MFA code was wrong"),
        ),
        ("ExpiredToken", "no", Kind.CREDENTIALS, "renew the credentials"),
        ("InternalFailure", "no", Kind.SERVER, "EC2 is busy"),
    ],
)
def test_a_role_that_refuses_is_named_by_its_call_and_was_not_assumed(code, message, kind, advice):
    error = exceptions.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {}}, "AssumeRole"
    )
    refusal = login_refusal(error, profile="p")

    assert (refusal.action, refusal.kind, refusal.maybe_done) == ("AssumeRole", kind, False)
    assert refusal.advice.startswith(advice)

"""What EC2 refuses, what that means, and what the user can do about it.

A capacity shortage is a measurement.  A quota, a permission or a typing error is not, and is never
counted as one.  Codes are matched exactly, and EC2's own message is always kept.
Sources: EC2 Developer Guide, "Error codes"; botocore's exceptions.
"""

import re
from typing import Any

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError  # not a BotoCoreError

from spotlib.model import OUTCOME_KINDS, Kind

PASSING_KINDS = frozenset({Kind.THROTTLED, Kind.SERVER, Kind.UNREACHABLE, Kind.NOT_FOUND})

_QUOTA = (
    "this is the account's Spot vCPU quota in that region, not the market: use a smaller n, wait "
    "some minutes until ended requests no longer count, or ask for more under Service Quotas > "
    "EC2 > 'All ... Spot Instance Requests' ('python -m spotlib check' shows the largest n)"
)
_LOGIN = "renew the credentials (aws sso login, aws configure) and run again"
_CLOCK = "set this machine's clock and renew the credentials"
_POLICY = "allow it: spotlib/policy.json is the smallest policy that does"
_BUG = "please report this as an error in spotlib"
_NO_CAPACITY = "EC2 has no capacity now: this is recorded as a result"
_NO_VPC = "the region has no default VPC: aws ec2 create-default-vpc --region REGION"
_SCORES = "EC2 limits new placement-score queries per 24 h: repeat earlier ones, or wait"
_SEE = "see EC2's message"
_NOT_YET = "EC2 does not show it, or not yet: try again later"
_LATER = "EC2 is busy or failing: try again later"
_GARBLED = "it cannot be read, so perhaps another program gave it: check the endpoint and any proxy"
_MOST_CHARACTERS = 4000  # of a message: an encoded authorization message is long
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)

_CODES: dict[str, tuple[Kind, str]] = {
    "InsufficientInstanceCapacity": (Kind.CAPACITY, _NO_CAPACITY),
    "UnfulfillableCapacity": (Kind.CAPACITY, _NO_CAPACITY),
    "SpotMaxPriceTooLow": (Kind.PRICE, "raise max_price_usd, or leave it out"),
    "MaxSpotInstanceCountExceeded": (Kind.QUOTA, _QUOTA),
    "VcpuLimitExceeded": (Kind.QUOTA, _QUOTA),
    "InstanceLimitExceeded": (Kind.QUOTA, _QUOTA),
    "RequestResourceCountExceeded": (Kind.QUOTA, "ask for fewer instances, or poll less often"),
    "VolumeLimitExceeded": (Kind.QUOTA, "ask for more EBS volumes under Service Quotas > EBS"),
    "MaxConfigLimitExceeded": (Kind.QUOTA, _SCORES),
    "MaxConfigLimitExceededException": (Kind.QUOTA, _SCORES),
    "TargetCapacityLimitExceeded": (Kind.QUOTA, "ask for the placement score of fewer instances"),
    "UnauthorizedOperation": (
        Kind.PERMISSION,
        _POLICY + "; 'aws sts decode-authorization-message' decodes a long message",
    ),
    "AccessDenied": (Kind.PERMISSION, _POLICY),
    "AccessDeniedException": (Kind.PERMISSION, _POLICY),
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted": (
        Kind.ACCOUNT,
        "run once: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
    ),
    "AuthFailure": (
        Kind.CREDENTIALS,
        "check the keys, this machine's clock, and that the region is opted in",
    ),
    "InvalidClientTokenId": (Kind.CREDENTIALS, _LOGIN),
    "UnrecognizedClientException": (Kind.CREDENTIALS, _LOGIN),
    "ExpiredToken": (Kind.CREDENTIALS, _LOGIN),
    "ExpiredTokenException": (Kind.CREDENTIALS, _LOGIN),
    "SignatureDoesNotMatch": (Kind.CREDENTIALS, _CLOCK),
    "RequestExpired": (Kind.CREDENTIALS, _CLOCK),
    "OptInRequired": (Kind.ACCOUNT, "finish the sign-up for EC2, or enable the region"),
    "PendingVerification": (Kind.ACCOUNT, "AWS is verifying the account: wait, or contact AWS"),
    "Blocked": (Kind.ACCOUNT, "the account is blocked: contact AWS support"),
    "VPCIdNotSpecified": (Kind.ACCOUNT, _NO_VPC),
    "DefaultVpcDoesNotExist": (Kind.ACCOUNT, _NO_VPC),
    "MissingInput": (
        Kind.ACCOUNT,
        "the default subnet is missing: aws ec2 create-default-subnet --availability-zone ZONE",
    ),
    "Unsupported": (Kind.PARAMETERS, "the type is not offered there: choose another type or zone"),
    "InvalidParameterValue": (Kind.PARAMETERS, _SEE),
    "InvalidParameterCombination": (Kind.PARAMETERS, _SEE),
    "InvalidInstanceType": (Kind.PARAMETERS, "check the name of the type"),
    "InvalidAMIID.NotFound": (Kind.PARAMETERS, "AMI ids are per region: leave image out"),
    "InvalidAMIID.Malformed": (Kind.PARAMETERS, "use an AMI id (ami-...), or leave image out"),
    "InvalidAMIID.Unavailable": (Kind.PARAMETERS, "choose another image, or leave image out"),
    "InvalidTime": (Kind.PARAMETERS, "the request would end in the past: check timeout_s"),
    "InvalidSubnetID.NotFound": (Kind.PARAMETERS, "the zone's default subnet is missing"),
    "InsufficientFreeAddressesInSubnet": (Kind.ACCOUNT, "the subnet is full: use another zone"),
    "IdempotentParameterMismatch": (Kind.PARAMETERS, _BUG),
    "FilterLimitExceeded": (Kind.PARAMETERS, _BUG),
    "TagPolicyViolation": (Kind.ACCOUNT, "the organisation's tag policy refuses spotlib's tags"),
    "InvalidSpotInstanceRequestID.NotFound": (Kind.NOT_FOUND, _NOT_YET),
    "InvalidInstanceID.NotFound": (Kind.NOT_FOUND, _NOT_YET),
    "RequestLimitExceeded": (Kind.THROTTLED, _LATER),
    "Throttling": (Kind.THROTTLED, _LATER),
    "ThrottlingException": (Kind.THROTTLED, _LATER),
    "EC2ThrottledException": (Kind.THROTTLED, _LATER),
    "Unavailable": (Kind.SERVER, _LATER),
    "ServiceUnavailable": (Kind.SERVER, _LATER),
    "InternalError": (Kind.SERVER, _LATER),
    "InternalFailure": (Kind.SERVER, _LATER),
    "ServerInternal": (Kind.SERVER, _LATER),
}

# Nothing was sent, therefore nothing was executed.
_NEVER_SENT = (botocore_errors.EndpointConnectionError, botocore_errors.ConnectTimeoutError)
# What botocore's parsers raise at an answer that is not EC2's.
UNREADABLE = (ResponseParserError, AttributeError, KeyError, TypeError, ValueError)
_NO_LOGIN = (
    botocore_errors.NoCredentialsError,
    botocore_errors.PartialCredentialsError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.SSOError,
    botocore_errors.TokenRetrievalError,
)


class Refusal(Exception):
    """A call that did not succeed: EC2's code and message, their kind, and what to do.

    ``maybe_done`` says that EC2 may have executed the call: the answer was lost, or EC2 failed
    internally.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        kind: Kind,
        advice: str,
        action: str = "",
        region: str = "",
        maybe_done: bool = False,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.kind = kind
        self.advice = advice
        self.action = action
        self.region = region
        self.maybe_done = maybe_done

    def __str__(self) -> str:
        return f"{self.action} in {self.region}: {self.code} ({self.message}): {self.advice}"

    @property
    def is_outcome(self) -> bool:
        """Whether the refusal is a result about the market, and not an error."""
        return self.kind in OUTCOME_KINDS


def refusal_of(error: Exception, *, action: str, region: str) -> Refusal:
    """Translate a botocore exception."""
    if isinstance(error, botocore_errors.ClientError) and "Error" in error.response:
        return _refused(error.response, action=action, region=region)
    if isinstance(error, (botocore_errors.ClientError, *UNREADABLE)):
        error = ResponseParserError(_parser_words(error))
    kind, advice = _local(error)
    return Refusal(
        type(error).__name__,
        _one_line(str(error)),
        kind=kind,
        advice=advice,
        action=action,
        region=region,
        maybe_done=kind is Kind.UNREACHABLE and not isinstance(error, _NEVER_SENT),
    )


def garbled(lacks: str, *, action: str, region: str) -> Refusal:
    """Return the refusal for an answer without what it must have, as if it had been lost."""
    return Refusal(
        "GarbledAnswer",
        f"the answer has no {lacks}",
        kind=Kind.UNREACHABLE,
        advice=_GARBLED,
        action=action,
        region=region,
        maybe_done=True,
    )


def _refused(response: dict[str, Any], *, action: str, region: str) -> Refusal:
    code = response["Error"].get("Code", "Unknown")
    status = response["ResponseMetadata"].get("HTTPStatusCode", 0)
    kind, advice = _CODES.get(code, (Kind.UNKNOWN, _SEE))
    if code not in _CODES and code.startswith("AuthFailure"):
        kind, advice = _CODES["AuthFailure"]
    elif code not in _CODES and status >= 500:
        kind, advice = Kind.SERVER, _LATER
    return Refusal(
        code,
        _one_line(response["Error"].get("Message", "")),
        kind=kind,
        advice=advice,
        action=action,
        region=region,
        maybe_done=kind is Kind.SERVER,
    )


def _local(error: Exception) -> tuple[Kind, str]:
    if isinstance(error, _NO_LOGIN):
        return Kind.CREDENTIALS, "configure AWS credentials (aws configure, or profile=...)"
    if isinstance(error, botocore_errors.ParamValidationError | botocore_errors.NoRegionError):
        return Kind.PARAMETERS, _BUG
    if isinstance(error, ResponseParserError):
        return Kind.UNREACHABLE, _GARBLED
    return Kind.UNREACHABLE, "no answer: check the connection, or try again later"


def _parser_words(error: Exception) -> str:
    if not isinstance(error, ResponseParserError):
        return f"no answer of AWS, {type(error).__name__}"
    if _TITLE.search(str(error)):
        return str(error)
    return str(error).partition(". Further retries")[0]  # the answer itself follows


def _one_line(message: str) -> str:
    """Shorten what may be a page: of HTML only the title is kept."""
    title = _TITLE.search(message)
    if title:
        words = title[1].replace("\\n", " ").split()  # a parser's message quotes the bytes
        message = f"a web page, '{' '.join(words)}'"
    elif message.lstrip().startswith("<"):
        message = "a page"
    message = " ".join(message.split())
    return message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]} ..."

"""What EC2 refuses, what that means, and what the user can do about it.

A capacity shortage is a measurement.  A quota, a permission or a typing error is not, and is never
counted as one.  Codes are matched exactly, and EC2's own message is always kept.
Sources: EC2 Developer Guide, "Error codes"; botocore's exceptions.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as botocore_errors
from botocore.parsers import ResponseParserError  # not a BotoCoreError

from spotlib.addresses import without_secrets
from spotlib.model import OUTCOME_KINDS, Kind

PASSING_KINDS = frozenset({Kind.THROTTLED, Kind.SERVER, Kind.UNREACHABLE, Kind.NOT_FOUND})

_QUOTA = (
    "this is the account's Spot vCPU quota in that region, not the market: use a smaller n, wait "
    "some minutes until ended requests no longer count, or ask for more under Service Quotas > "
    "EC2 > 'All ... Spot Instance Requests' ('python -m spotlib check' shows the largest n)"
)
_ON_DEMAND_QUOTA = (
    "this is the account's on-demand vCPU quota in that region: use a smaller n, or ask for more "
    "under Service Quotas > EC2 > 'Running On-Demand ... instances'"
)
_LOGIN = "renew the credentials (aws sso login, aws configure) and run again"
_CLOCK = "set this machine's clock and renew the credentials"
_KEYS = "check the access key and its secret, and run again"
_POLICY = (
    "allow it: 'spotlib policy' prints the smallest policy that does ('spotlib policy --help': "
    "name the methods, and --usable or --events if you use them)"
)
_BUG = "please report this as an error in spotlib"
_NO_CAPACITY = "EC2 has no capacity now: this is recorded as a result"
_NO_VPC = "the region has no default VPC: aws ec2 create-default-vpc --region REGION"
_SCORES = "EC2 limits new placement-score queries per 24 h: repeat earlier ones, or wait"
_SEE = "see EC2's message"
_NOT_YET = "EC2 does not show it, or not yet: try again later"
_NO_QUEUE = "check the queue's name: it must exist in that region, in this account"
_SAME_NAME = "a queue's name can be used again 60 s after it was deleted: wait, or name another log"
_LATER = "EC2 is busy or failing: try again later"
_GARBLED = "it cannot be read, so perhaps another program gave it: check the endpoint and any proxy"
_MOST_CHARACTERS = 4000  # of a message: an encoded authorization message is long
_TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL | re.IGNORECASE)

_CODES: dict[str, tuple[Kind, str]] = {
    "InsufficientInstanceCapacity": (Kind.CAPACITY, _NO_CAPACITY),
    "UnfulfillableCapacity": (Kind.CAPACITY, _NO_CAPACITY),
    "SpotMaxPriceTooLow": (Kind.PRICE, "raise max_price_usd, or leave it out"),
    "MaxSpotInstanceCountExceeded": (Kind.QUOTA, _QUOTA),
    "MaxFleetCountExceeded": (
        Kind.QUOTA,
        "delete fleets that are no longer needed, or ask for more",
    ),
    "VcpuLimitExceeded": (Kind.QUOTA, _ON_DEMAND_QUOTA),
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
    "IncompleteSignature": (Kind.CREDENTIALS, _KEYS),
    "InvalidAccessKeyId": (Kind.CREDENTIALS, _KEYS),
    "InvalidSignatureException": (Kind.CREDENTIALS, _KEYS),  # as JSON services say it
    "MissingAuthenticationToken": (Kind.CREDENTIALS, _LOGIN),
    "MissingAuthenticationTokenException": (Kind.CREDENTIALS, _LOGIN),
    "NotSignedUp": (Kind.ACCOUNT, "finish the sign-up of the account"),
    "SignatureDoesNotMatch": (Kind.CREDENTIALS, _KEYS),
    "RequestExpired": (Kind.CREDENTIALS, _CLOCK),
    "RequestTimeTooSkewed": (Kind.CREDENTIALS, _CLOCK),
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
    "InvalidFleetConfiguration": (Kind.PARAMETERS, "the type is not offered there"),
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
    "InvalidLaunchTemplateId.NotFound": (Kind.NOT_FOUND, _NOT_YET),
    "InvalidLaunchTemplateName.NotFoundException": (Kind.NOT_FOUND, _NOT_YET),
    "AWS.SimpleQueueService.NonExistentQueue": (Kind.NOT_FOUND, _NO_QUEUE),
    "QueueDoesNotExist": (Kind.NOT_FOUND, _NO_QUEUE),
    "ResourceNotFoundException": (Kind.NOT_FOUND, _NOT_YET),
    "AWS.SimpleQueueService.QueueDeletedRecently": (Kind.PARAMETERS, _SAME_NAME),
    "RequestLimitExceeded": (Kind.THROTTLED, _LATER),
    "Throttling": (Kind.THROTTLED, _LATER),
    "ThrottlingException": (Kind.THROTTLED, _LATER),
    "EC2ThrottledException": (Kind.THROTTLED, _LATER),
    "PriorRequestNotComplete": (Kind.THROTTLED, _LATER),
    "ConcurrentModificationException": (Kind.THROTTLED, _LATER),  # EventBridge
    "RequestThrottled": (Kind.THROTTLED, _LATER),
    "RequestThrottledException": (Kind.THROTTLED, _LATER),
    "SlowDown": (Kind.THROTTLED, _LATER),
    "ThrottledException": (Kind.THROTTLED, _LATER),
    "TooManyRequestsException": (Kind.THROTTLED, _LATER),  # Service Quotas
    "RequestTimeout": (Kind.SERVER, _LATER),
    "RequestTimeoutException": (Kind.SERVER, _LATER),
    "Unavailable": (Kind.SERVER, _LATER),
    "ServiceUnavailable": (Kind.SERVER, _LATER),
    "InternalError": (Kind.SERVER, _LATER),
    "InternalFailure": (Kind.SERVER, _LATER),
    "InternalException": (Kind.SERVER, _LATER),  # EventBridge
    "ServerInternal": (Kind.SERVER, _LATER),
}

# What botocore's parsers raise at an answer that is not EC2's.
UNREADABLE = (ResponseParserError, AttributeError, KeyError, TypeError, ValueError)

# EC2 and JSON services report a wrong clock as a wrong signature; the message says which it is.
_WRONG_CLOCK = re.compile(r"signature (expired|not yet current)|too skewed", re.IGNORECASE)
_DENIED_BY = re.compile(
    r"explicit deny(?: in an? (?P<policy>[a-z -]*(?:policy|boundary)))?"
    r"|because no (?P<limit>(?!identity)[a-z -]*(?:policy|boundary)) allows",
    re.IGNORECASE,
)

# Errors before anything was sent: the call cannot have been executed.
_NEVER_SENT = (
    botocore_errors.EndpointConnectionError,
    botocore_errors.ConnectTimeoutError,
    botocore_errors.ProxyConnectionError,
)

_CONFIG = "~/.aws/config"
_MEND = f"mend the profile in {_CONFIG}"
_SSO = "log in with: aws sso login{option}"
_AWS_LOGIN = "log in with: aws login{option}"
_UNREADABLE = "check what the profile says, and what its credential_process prints"
_REGION = f"name a region, such as us-east-1, in {_CONFIG} or AWS_DEFAULT_REGION"


class NoTerminal(Exception):
    """A person must be asked, and there is no terminal and no notebook to ask in."""


# What each error in the set-up of this machine means; the first that matches counts.
_LOGIN_ERRORS: dict[type[Exception], str] = {
    NoTerminal: "there is no terminal to ask at: run it in one or in JupyterLab, or leave the "
    "profile out and set the variables that 'aws configure export-credentials{option} "
    "--format env' prints",
    botocore_errors.ConfigParseError: "mend that file: below [profile NAME] (in the credentials "
    "file [NAME]) stand lines like key = value",
    botocore_errors.InfiniteLoopConfigError: f"mend source_profile in {_CONFIG}: the profiles "
    "name each other",
    botocore_errors.InvalidConfigError: _MEND,
    botocore_errors.PartialCredentialsError: "add what is missing, to the profile or to the "
    "environment",
    botocore_errors.CredentialRetrievalError: "check where the profile gets its credentials from, "
    "such as its credential_process: run that command by hand",
    botocore_errors.SSOError: _SSO,
    botocore_errors.TokenRetrievalError: _SSO,
    botocore_errors.NoAuthTokenError: _SSO,
    botocore_errors.LoginInsufficientPermissions: "ask for the permission to use 'aws login'",
    botocore_errors.LoginError: _AWS_LOGIN,
    botocore_errors.MissingDependencyException: "a profile of 'aws login' needs it: "
    "pip install 'botocore[crt]'",
    botocore_errors.RefreshWithMFAUnsupportedError: "run again and enter a new MFA code",
    botocore_errors.NoCredentialsError: "configure AWS credentials (aws configure, or profile=...)",
    RuntimeError: _LOGIN,  # "the refreshed credentials are still expired"
    OSError: "check what the profile names: its files, and its credential_process",
    ValueError: _UNREADABLE,
}
_LOGIN_CALLS = {
    "AssumeRole": "the role refuses these credentials: check role_arn, mfa_serial and external_id "
    "of the profile, and whom the role trusts",
    "AssumeRoleWithWebIdentity": "the role refuses this identity: check whom the role trusts",
    "GetRoleCredentials": "the SSO login may not use that account and role: check sso_account_id "
    "and sso_role_name, or ask the administrator",
}
_WRONG_CODE = "the MFA code was wrong or used before: run again with the next code"
_CERTIFICATE = (
    "the certificate is not trusted: if a proxy inspects TLS, set AWS_CA_BUNDLE to the file of its "
    "certificate"
)
_BUNDLE = "check the file that AWS_CA_BUNDLE or the profile's ca_bundle names"
_NO_BUNDLE = re.compile(r"\[Errno (2|13|20|21)\]|X509|PEM")  # it cannot be opened, or is none
_PROXY = "the proxy does not answer: check HTTPS_PROXY and NO_PROXY"
_NO_ANSWER = "no answer: check the connection, or try again later"
# The first that matches counts: botocore's network errors are RuntimeErrors, too.
_LOCAL_ERRORS: dict[type[Exception], tuple[Kind, str]] = {
    ResponseParserError: (Kind.UNREACHABLE, _GARBLED),
    botocore_errors.ProxyConnectionError: (Kind.UNREACHABLE, _PROXY),
    botocore_errors.HTTPClientError: (Kind.UNREACHABLE, _NO_ANSWER),
    botocore_errors.ConnectionError: (Kind.UNREACHABLE, _NO_ANSWER),
    botocore_errors.InvalidProxiesConfigError: (Kind.PARAMETERS, _PROXY),
    botocore_errors.InvalidRegionError: (Kind.PARAMETERS, _REGION),
    botocore_errors.NoRegionError: (Kind.PARAMETERS, _REGION),
    botocore_errors.ParamValidationError: (Kind.PARAMETERS, _BUG),
    **{kind: (Kind.CREDENTIALS, words) for kind, words in _LOGIN_ERRORS.items()},
}


class Refusal(Exception):
    """A call that did not succeed: EC2's code and message, their kind, and what to do.

    ``maybe_done`` says that EC2 may have executed the call: the answer was lost, or EC2 failed
    internally.  ``attempts`` were made, within ``tried_s`` seconds; see ``patience``.
    """

    attempts = 1
    tried_s = 0.0

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
        often = f" after {self.attempts} attempts in {self.tried_s:.0f} s" * (self.attempts > 1)
        return f"{self.action} in {self.region}: {self.code} ({self.message}){often}: {self.advice}"

    @property
    def is_outcome(self) -> bool:
        """Whether the refusal is a result about the market, and not an error."""
        return self.kind in OUTCOME_KINDS


def refusal_of(error: Exception, *, action: str, region: str) -> Refusal:
    """Translate a botocore exception."""
    if isinstance(error, botocore_errors.ClientError) and "Error" in error.response:
        return _refused(error.response, action=action, region=region)
    strange = isinstance(error, (botocore_errors.ClientError, *UNREADABLE))
    if strange and not isinstance(error, botocore_errors.BotoCoreError):
        error = ResponseParserError(_parser_words(error))
    return _not_refused(error, action=action, region=region)


def _not_refused(error: Exception, *, action: str, region: str) -> Refusal:
    kind, advice = _local(error)
    return Refusal(
        type(error).__name__,
        _one_line(without_secrets(str(error))),
        kind=kind,
        advice=advice.format(option=""),
        action=action,
        region=region,
        maybe_done=kind is Kind.UNREACHABLE and not isinstance(error, _NEVER_SENT),
    )


def garbled(lacks: str, *, action: str, region: str) -> Refusal:
    """Return the refusal for an incomplete answer; it counts as a lost answer."""
    return Refusal(
        "GarbledAnswer",
        f"the answer has no {lacks}",
        kind=Kind.UNREACHABLE,
        advice=_GARBLED,
        action=action,
        region=region,
        maybe_done=True,
    )


@contextmanager
def reading(what: str, *, action: str, region: str) -> Iterator[None]:
    """While entered, any error in reading an answer becomes the refusal of a garbled answer."""
    try:
        yield
    except UNREADABLE as error:
        raise garbled(f"{what} that can be read", action=action, region=region) from error


def login_refusal(error: Exception, *, profile: str) -> Refusal:
    """Translate an error in reading or renewing credentials: no call of ours was made yet."""
    where = {"action": "credentials", "region": f"profile {profile}"}
    if not isinstance(error, botocore_errors.ClientError):
        refusal = _not_refused(error, **where)
        refusal.maybe_done = False
        option = "" if profile == "default" else f" --profile {profile}"
        refusal.kind, advice = _local(error, otherwise=(Kind.CREDENTIALS, _UNREADABLE))
        refusal.advice = advice.format(option=option)
        return refusal
    refusal = refusal_of(error, **where)
    refusal.maybe_done = False
    refusal.action = error.operation_name
    if "MultiFactorAuthentication failed" in refusal.message:
        refusal.kind, refusal.advice = Kind.CREDENTIALS, _WRONG_CODE
    elif refusal.kind in (Kind.PERMISSION, Kind.UNKNOWN):
        refusal.kind = Kind.CREDENTIALS
        refusal.advice = _LOGIN_CALLS.get(error.operation_name, _SEE)
    return refusal


def refusal_of_code(code: str, message: str, *, action: str, region: str = "") -> Refusal:
    """Translate an error that is part of an answer; the caller may add its region."""
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {}}
    return _refused(response, action=action, region=region)


def fewer_came(message: str, *, action: str) -> Refusal:
    """Return the refusal of instances that EC2 did not launch, without giving a code."""
    kind, advice = Kind.CAPACITY, _NO_CAPACITY
    return Refusal("", message, kind=kind, advice=advice, action=action)


def _refused(response: dict[str, Any], *, action: str, region: str) -> Refusal:
    code, message = response["Error"].get("Code", "Unknown"), response["Error"].get("Message", "")
    status = response["ResponseMetadata"].get("HTTPStatusCode", 0)
    kind, advice = _CODES.get(code, (Kind.UNKNOWN, _SEE))
    if code not in _CODES and code.startswith("AuthFailure"):
        kind, advice = _CODES["AuthFailure"]
    elif code not in _CODES and status == 429:  # Too Many Requests
        kind, advice = Kind.THROTTLED, _LATER
    elif code not in _CODES and status >= 500:
        kind, advice = Kind.SERVER, _LATER
    elif kind is Kind.CREDENTIALS and _WRONG_CLOCK.search(message):
        advice = _CLOCK
    elif kind is Kind.PERMISSION:
        advice = _forbidden(message) or advice
    return Refusal(
        code,
        _one_line(message),
        kind=kind,
        advice=advice,
        action=action,
        region=region,
        maybe_done=kind is Kind.SERVER,
    )


def _forbidden(message: str) -> str | None:
    """Advice on a denial that the caller's own policy cannot lift; None if it is another."""
    denied = _DENIED_BY.search(message)
    if denied is None:
        return None
    by = denied["policy"] or denied["limit"] or "policy"
    return (
        f"a {by} forbids it, and no policy of yours can allow it: ask the account's administrator"
    )


def _local(
    error: Exception, otherwise: tuple[Kind, str] = (Kind.UNREACHABLE, _NO_ANSWER)
) -> tuple[Kind, str]:
    """Kind and advice for an error on this machine; ``{option}`` stands for the CLI's --profile."""
    words = str(error)
    if isinstance(error, botocore_errors.SSLError) and "CERTIFICATE_VERIFY" in words:
        return Kind.PARAMETERS, _CERTIFICATE
    if isinstance(error, botocore_errors.SSLError) and _NO_BUNDLE.search(words):
        return Kind.PARAMETERS, _BUNDLE
    return next(
        (meaning for kind, meaning in _LOCAL_ERRORS.items() if isinstance(error, kind)), otherwise
    )


def _parser_words(error: Exception) -> str:
    if not isinstance(error, ResponseParserError):
        return f"no answer of AWS, {type(error).__name__}"
    if _TITLE.search(str(error)):
        return str(error)
    return str(error).partition(". Further retries")[0]  # the answer itself follows


def _one_line(message: str) -> str:
    """Shorten a message that may be a web page: of HTML only the title is kept."""
    title = _TITLE.search(message)
    if title:
        words = title[1].replace("\\n", " ").split()  # a parser's message quotes the bytes
        message = f"a web page, '{' '.join(words)}'"
    elif message.lstrip().startswith("<"):
        message = "a page"
    message = " ".join(message.split())
    return message if len(message) <= _MOST_CHARACTERS else f"{message[:_MOST_CHARACTERS]} ..."

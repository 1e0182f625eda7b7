"""AWS's wire formats: parses an HTTP request into a typed call, writes an answer as bytes.

moto's parsers, driven by botocore's service models, read requests.  They are private parts of moto,
therefore only this module uses them (``borrowed`` and ``catalogue`` use other private parts), and a
test checks them.  Answers are written here, which is as short and several times faster.
This module knows neither the market nor the account.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.model import OperationNotFoundError
from botocore.utils import parse_timestamp

try:
    from moto.core.parse import PROTOCOL_PARSERS
    from moto.core.request import determine_request_protocol
    from moto.core.utils import get_service_model
except ImportError as gone:
    raise ImportError(
        f"moto changed a private part that the sandbox uses ({gone}): install 'moto>=5.2,<5.3', "
        "or adapt spotlib/sandbox/protocol.py"
    ) from gone

Answer = tuple[int, dict[str, str], bytes]
Params = dict[str, Any]  # of a call, typed by the service's model
Shape = dict[str, Any]  # a structure of an answer


class Kept(Shape):
    """A structure that many answers repeat as it is: it is written once, and never changed."""

    text = ""

    def __deepcopy__(self, _: Any) -> Kept:
        return self


_SCOPE = re.compile(r"Credential=[^/]+/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_HOST = re.compile(r"^(?P<service>[a-z0-9-]+)\.(?P<region>[a-z0-9-]+)\.amazonaws\.com")
_FILTER = re.compile(r"<code>([^<]+)</code>(?::&lt;key&gt;)? -")
_MOST_FIELDS = 4000  # EC2 takes 3,000 ids in a call; moto's parser needs time in their square
_CONTENT_TYPES = (
    "application/x-www-form-urlencoded",
    "application/x-amz-json-1.0",
    "application/x-amz-json-1.1",
)
_XML = "text/xml;charset=UTF-8"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_SERVICES = ("ec2", "events", "iam", "pricing", "service-quotas", "sqs", "ssm", "sts")
_MODEL_OF_SIGNING_NAME = {"servicequotas": "service-quotas"}
# SQS says its older code too, which clients show.
_OLDER_CODES = {
    "QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "QueueDeletedRecently": "AWS.SimpleQueueService.QueueDeletedRecently",
    "BatchEntryIdsNotDistinct": "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
    "EmptyBatchRequest": "AWS.SimpleQueueService.EmptyBatchRequest",
    "InvalidBatchEntryId": "AWS.SimpleQueueService.InvalidBatchEntryId",
    "PurgeQueueInProgress": "AWS.SimpleQueueService.PurgeQueueInProgress",
    "TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
}


class ApiError(Exception):
    """An error in an answer of AWS: its code, its message, its HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


def invalid(message: str) -> ApiError:
    return ApiError("InvalidParameterValue", message)


def missing(parameter: str) -> ApiError:
    """The refusal of a call that lacks a parameter."""
    return ApiError("MissingParameter", f"The request must contain the parameter {parameter}")


def unsupported(message: str) -> ApiError:
    return ApiError("UnsupportedOperation", message)


def refuse_others(given: Params, modelled: Collection[str], where: str) -> None:
    """Refuse a call with a parameter that is not modelled: it is never silently ignored."""
    for name, value in given.items():
        if value and name not in modelled:
            raise unsupported(f"{where}.{name} is not modelled by the sandbox.")


def end_dry_run(params: Params) -> None:
    """Answer a dry run that has passed every check; an action calls it before its first effect."""
    if params.get("DryRun", False):
        message = "Request would have succeeded, but DryRun flag is set."
        raise ApiError("DryRunOperation", message, 412)


@dataclass(frozen=True)
class ParsedCall:
    """One API call, parsed."""

    service: str  # botocore's name of the service
    region: str
    action: str
    protocol: str
    params: dict[str, Any]
    headers: Mapping[str, str]
    body: bytes
    origin: str = ""  # the address that the client uses
    at_s: float = 0.0  # when it arrived, on the world's clock
    number: int = 0  # of earlier calls
    read_timeout_s: float | None = None  # of its client; None: not known (HTTP)


def address(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """(service, region) of a request: from its signature's scope, else from the host name."""
    found = _SCOPE.search(headers.get("authorization", "")) or _HOST.match(urlsplit(url).netloc)
    if found is None:
        raise ApiError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    return _MODEL_OF_SIGNING_NAME.get(found["service"], found["service"]), found["region"]


def parse(
    service: str, region: str, url: str, headers: Mapping[str, str], body: bytes
) -> ParsedCall:
    """The action and its parameters, typed by the service's model; times are aware UTC."""
    model, kind = _model(service), headers.get("content-type", "")
    if body and kind.partition(";")[0] not in _CONTENT_TYPES:
        raise ApiError("MalformedQueryString", f"The content type '{kind}' is not AWS's.", 415)
    try:
        protocol = determine_request_protocol(model, kind)
        query = urlsplit(url).query or body.decode()
        values = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except (NotImplementedError, ValueError) as error:
        raise ApiError("MalformedQueryString", f"The request cannot be read: {error}") from error
    action = headers.get("x-amz-target", "").rpartition(".")[2] or values.get("Action", "")
    try:
        operation = model.operation_model(action)
    except OperationNotFoundError:
        message = f"The action {action} is not valid for this web service."
        raise ApiError("InvalidAction", message) from None
    parser = PROTOCOL_PARSERS[protocol](operation, timestamp_parser=_aware)
    sent: Any = {"body": body, "headers": headers, "values": values}
    sent |= {"url_params": {}, "url_path": "/"}
    try:
        params = dict(parser.parse(sent))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ApiError("MalformedQueryString", f"The request cannot be read: {error}") from error
    at = urlsplit(url)
    origin = f"{at.scheme}://{at.netloc}"
    return ParsedCall(service, region, action, protocol, params, headers, body, origin)


def write(call: ParsedCall, result: dict[str, Any], request_id: str) -> Answer:
    """The answer's status, headers and body in the service's format."""
    if call.protocol in ("json", "rest-json"):
        return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(result).encode()
    shape = _model(call.service).operation_model(call.action).output_shape
    inner = _members(shape, result) if shape is not None else ""
    meta = f"<requestId>{request_id}</requestId>"
    if call.protocol == "query":
        inner = f"<{call.action}Result>{inner}</{call.action}Result>"
        meta = f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>"
    text = f"{_HEAD}<{call.action}Response>{meta}{inner}</{call.action}Response>"
    return 200, {"Content-Type": _XML}, text.encode()


def write_error(protocol: str, error: ApiError, request_id: str) -> Answer:
    """The error in the form that clients of this protocol expect."""
    if protocol in ("json", "rest-json"):
        body = json.dumps({"__type": error.code, "message": error.message})
        older = _OLDER_CODES.get(error.code)
        headers = {"x-amzn-query-error": f"{older};Sender"} if older else {}
        headers["Content-Type"] = "application/x-amz-json-1.1"
        return error.status, headers, body.encode()
    code, message = escape(error.code), escape(error.message)
    inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    if protocol == "ec2":
        inner = f"<Response><Errors>{inner}</Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        inner = f"<ErrorResponse>{inner}<RequestId>{request_id}</RequestId></ErrorResponse>"
    return error.status, {"Content-Type": _XML}, (_HEAD + inner).encode()


@cache
def documented_filters(action: str) -> frozenset[str]:
    """The names of EC2's filters of an action, from the documentation in botocore's model.

    ``tag:`` stands for the filters by the value of a tag.
    """
    shape = _model("ec2").operation_model(action).input_shape
    found = _FILTER.findall(shape.members["Filters"].documentation)
    return frozenset("tag:" if name in ("tag", "tag:&lt;key&gt;") else name for name in found)


def required(call: ParsedCall) -> list[str]:
    """The parameters that a call must have, where the service's own model says so.

    The actions of the other services say it themselves, each in its order.
    """
    if call.service not in ("events", "sqs"):
        return []
    return list(_model(call.service).operation_model(call.action).input_shape.required_members)


@cache
def protocol_of(service: str) -> str:
    """The protocol of a service; EC2's for an unknown service."""
    try:
        return str(get_service_model(service).protocol)
    except (UnknownServiceError, DataNotFoundError):
        return "ec2"


@cache
def _model(service: str) -> Any:
    if service not in _SERVICES:
        raise unsupported(f"The service {service} is not modelled by the sandbox.")
    return get_service_model(service)


def _aware(value: str) -> datetime:
    stamp: datetime = parse_timestamp(value)
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _members(shape: Any, value: Mapping[str, Any]) -> str:
    members = shape.members
    return "".join(
        _element(members[name], members[name].serialization.get("name", name), item)
        for name, item in value.items()
        if item is not None
    )


def _element(shape: Any, tag: str, value: Any) -> str:
    """One XML element, in the form common to EC2's and the query protocol."""
    if shape.type_name == "structure":
        text = getattr(value, "text", "") or _members(shape, value)
        if isinstance(value, Kept):
            value.text = text
    elif shape.type_name == "list":
        item_tag = shape.member.serialization.get("name", "member")
        text = "".join(_element(shape.member, item_tag, item) for item in value)
    elif shape.type_name == "timestamp":
        text = value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"
    elif shape.type_name == "boolean":
        text = "true" if value else "false"
    else:
        text = escape(str(value))
    return f"<{tag}>{text}</{tag}>"

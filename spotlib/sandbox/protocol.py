"""AWS's wire formats: an HTTP request into an action with typed parameters, an answer into bytes.

moto's parsers and serialisers, driven by botocore's service models, do the work; they are private
to moto, so every use of them is in this module (and in ``borrowed``), and a test watches them.
Nothing of the market or the account is known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from botocore.model import OperationNotFoundError
from botocore.utils import parse_timestamp
from moto.core.parse import PROTOCOL_PARSERS
from moto.core.request import determine_request_protocol
from moto.core.serialize import SerializationContext, get_serializer_class
from moto.core.utils import get_service_model

Answer = tuple[int, dict[str, str], bytes]

_SCOPE = re.compile(r"Credential=[^/]+/\d+/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_HOST = re.compile(r"^(?P<service>[a-z0-9-]+)\.(?P<region>[a-z0-9-]+)\.amazonaws\.com")
_MODEL_OF_SIGNING_NAME = {"servicequotas": "service-quotas"}


class ApiError(Exception):
    """An error AWS would answer with: its code, its message, its HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Asked:
    """One API call, parsed."""

    service: str  # botocore's name of the service
    region: str
    action: str
    protocol: str
    params: dict[str, Any]
    headers: Mapping[str, str]
    body: bytes


def address(url: str, headers: Mapping[str, str]) -> tuple[str, str]:
    """(service, region) of a request: from its signature's scope, else from the host name."""
    found = _SCOPE.search(headers.get("authorization", "")) or _HOST.match(urlsplit(url).netloc)
    if found is None:
        raise ApiError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
    return _MODEL_OF_SIGNING_NAME.get(found["service"], found["service"]), found["region"]


def parse(service: str, region: str, url: str, headers: Mapping[str, str], body: bytes) -> Asked:
    """The action and its parameters, typed by the service's model; times are aware UTC."""
    model = _model(service)
    protocol = determine_request_protocol(model, headers.get("content-type", ""))
    query = urlsplit(url).query
    values = dict(parse_qsl(query or body.decode(), keep_blank_values=True))
    action = headers.get("x-amz-target", "").rpartition(".")[2] or values.get("Action", "")
    try:
        operation = model.operation_model(action)
    except OperationNotFoundError:
        message = f"The action {action} is not valid for this web service."
        raise ApiError("InvalidAction", message) from None
    parser = PROTOCOL_PARSERS[protocol](operation, timestamp_parser=_aware)
    sent: Any = {
        "body": body,
        "headers": headers,
        "values": values,
        "url_params": {},
        "url_path": "/",
    }
    params = dict(parser.parse(sent))
    return Asked(service, region, action, protocol, params, headers, body)


def write(asked: Asked, result: dict[str, Any], request_id: str) -> Answer:
    """The answer's status, headers and body in the service's own format."""
    operation = _model(asked.service).operation_model(asked.action)
    serializer = get_serializer_class(asked.service, asked.protocol)(
        operation, context=SerializationContext(request_id), value_picker=_pick
    )
    written = serializer.serialize(result)
    body = written["body"]
    headers = {name: str(value) for name, value in written["headers"].items()}
    return written["status_code"], headers, body.encode() if isinstance(body, str) else body


def write_error(protocol: str, error: ApiError, request_id: str) -> Answer:
    """The error in the form clients of this protocol expect."""
    if protocol in ("json", "rest-json"):
        body = json.dumps({"__type": error.code, "message": error.message})
        return error.status, {"Content-Type": "application/x-amz-json-1.1"}, body.encode()
    code, message = escape(error.code), escape(error.message)
    inner = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    if protocol == "ec2":
        inner = f"<Response><Errors>{inner}</Errors><RequestID>{request_id}</RequestID></Response>"
    else:
        inner = f"<ErrorResponse>{inner}<RequestId>{request_id}</RequestId></ErrorResponse>"
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return error.status, {"Content-Type": "text/xml;charset=UTF-8"}, (head + inner).encode()


@cache
def protocol_of(service: str) -> str:
    """The protocol a service speaks; EC2's form for a service nobody knows."""
    try:
        return str(_model(service).protocol)
    except ApiError:
        return "ec2"


@cache
def _model(service: str) -> Any:
    try:
        return get_service_model(service)
    except Exception as error:
        message = f"The service {service} is not modelled by the sandbox."
        raise ApiError("UnsupportedOperation", message) from error


def _aware(value: str) -> datetime:
    stamp: datetime = parse_timestamp(value)
    return stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)


def _pick(context: Any) -> Any:
    # Handlers answer with plain dicts: nothing to look up by other names.
    return context.obj.get(context.key)

"""Calls that moto answers: about the parts of an account that no spot request changes.

SSM's public parameters.  moto's backends are process-wide, shared by all worlds, and only read
here.  ``mock_aws`` is never used: it would replace the credentials and block every other AWS call
of the process.
"""

from __future__ import annotations

import re
from typing import Any

from spotlib.sandbox.catalogue import import_moto
from spotlib.sandbox.protocol import Answer, ParsedCall

_READS = {"ssm": {"GetParameter", "GetParameters", "GetParametersByPath"}}
ACTIONS = frozenset[str]().union(*_READS.values())
_ACCOUNT = "123456789012"


def answers(call: ParsedCall) -> bool:
    """Whether moto answers this call."""
    return call.action in _READS.get(call.service, ())


def pass_on(call: ParsedCall) -> Answer:
    """moto's answer to the call."""
    from moto.core.request import Request  # noqa: PLC0415 (moto's backends are slow to import)

    url = f"https://{call.service}.{call.region}.amazonaws.com/"
    backend = _backend(call.service, call.region)
    request = Request.from_primitives("POST", url, call.headers, call.body)
    handle = next(h for pattern, h in backend.urls.items() if re.match(pattern, url))
    status, headers, answer = handle(request, url, request.headers)
    body = answer.encode() if isinstance(answer, str) else answer
    # moto's other headers contain this machine's date.
    return status, {"Content-Type": str(headers["Content-Type"])}, body


def _backend(service: str, region: str) -> Any:
    import_moto()
    from moto.backends import get_backend  # noqa: PLC0415

    find: Any = get_backend
    return find(service)[_ACCOUNT][region]

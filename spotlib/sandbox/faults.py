"""Faults of EC2 and of the network, injected into single calls.

A fault is a callable in ``world.faults``, called before a call is executed and again after:
``fault(call, executed)``.  It returns None to let the call pass, or the ``Harm`` to be done; it may
also raise an ``ApiError`` (EC2 answers with it) or one of botocore's connection errors (the
connection breaks).  A ``Fault`` can be ordered by its kind, from Python, on the command line and
over HTTP.  ``world.fired`` records every fault that affected a call.

Over HTTP the server cannot refuse a connection or a name: there ``refused`` and ``dns`` drop the
socket, as ``cut_off`` does, and a ``black_hole`` lasts ``seconds``, not the client's time-out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from botocore.exceptions import (
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from spotlib.errors import did_you_mean
from spotlib.sandbox.chance import uniforms
from spotlib.sandbox.protocol import ApiError, ParsedCall

_URL = "sandbox"
_STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
}


@dataclass(frozen=True)
class Harm:
    """What a fault does to one call."""

    error: Exception | None = None  # EC2's answer, or how the connection breaks
    spend_s: float = 0.0  # how long it takes
    garbled: bool = False  # the answer's body is truncated to half
    pool_error: str = ""  # the code of the errors in the answer of an instant fleet


# Kind -> (whether the call is executed first, what it means).
KINDS: Mapping[str, tuple[bool, str]] = {
    "fail": (False, "EC2 refuses the call with `code`"),
    "throttled": (False, "RequestLimitExceeded, 503"),
    "internal_error": (False, "InternalError, 500"),
    "unavailable": (False, "Unavailable, 503"),
    "refused": (False, "the connection is refused"),
    "dns": (False, "the endpoint's name is not found"),
    "cut_off": (False, "the connection is reset before the call is executed"),
    "lose_answer": (True, "the connection is reset after the call was executed"),
    "black_hole": (False, "no answer: the client's read time-out passes"),
    "slow": (True, "the answer takes `seconds` more; after the time-out it is lost"),
    "expired": (
        False,
        "RequestExpired for the first affected call's access key, until it is renewed",
    ),
    "malformed": (True, "the answer's body is truncated to half"),
}
# The same, of CreateFleet alone.
FLEET_KINDS: Mapping[str, tuple[bool, str]] = {
    "fleet_throttled": (
        False,
        "an instant fleet launches nothing: RequestLimitExceeded in the `Errors` of a 200 answer",
    ),
}
_ALL = {**KINDS, **FLEET_KINDS}


@dataclass(kw_only=True)
class Fault:
    """One fault: which calls it affects, and how.

    It considers the calls of its ``action`` and ``region`` ("" is any) from ``from_s`` to ``to_s``.
    Of these it affects the ``nth`` or, if that is None, each with probability ``rate``.
    """

    kind: str
    action: str = ""
    region: str = ""
    nth: int | None = None
    rate: float = 1.0
    from_s: float = 0.0
    to_s: float = inf
    code: str = "InternalError"  # for "fail"
    seconds: float = 5.0  # for "slow"; for "black_hole" if the client's time-out is not known
    seed: int = 0  # of the draws for "rate"
    error: Exception | None = None  # how the connection breaks, instead of the kind's default
    _seen: int = field(default=0, init=False, repr=False)
    _expired_key: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if self.kind not in _ALL:
            hint = did_you_mean(self.kind, _ALL)
            raise ValueError(f"fault must be one of {', '.join(_ALL)}, got {self.kind!r}{hint}")
        if not 0.0 <= self.rate <= 1.0 or (self.nth is not None and self.nth < 1):
            raise ValueError(f"need 0 <= rate <= 1 and nth >= 1, got {self.rate!r}, {self.nth!r}")
        if not (self.from_s <= self.to_s and 0.0 <= self.seconds < inf):
            raise ValueError(f"need from_s <= to_s and 0 <= seconds < inf, got {self!r}")

    def __call__(self, call: ParsedCall, executed: bool) -> Harm | None:
        """The harm to this call at this point, if any."""
        if _ALL[self.kind][0] is not executed or not self._affects(call):
            return None
        return self._harm(call)

    def _affects(self, call: ParsedCall) -> bool:
        if self.action not in ("", call.action) or self.region not in ("", call.region):
            return False
        if self.kind in FLEET_KINDS and call.action != "CreateFleet":
            return False
        if not self.from_s <= call.at_s < self.to_s:
            return False
        self._seen += 1
        if self.nth is not None:
            return self._seen == self.nth
        draw = uniforms(1, "fault", self.seed, self.kind, self.action, call.number)[0]
        return self.rate >= 1.0 or float(draw) < self.rate

    def _harm(self, call: ParsedCall) -> Harm | None:
        timeout_s = call.read_timeout_s
        if self.kind in _ERRORS:
            code = _ERRORS[self.kind] or self.code
            said = code, _STATUS.get(code, 400)
            code, status = _CODES.get((call.service, self.kind), said)
            return Harm(ApiError(code, f"A fault of the sandbox: {self.kind}.", status))
        if self.kind in _BREAKS:
            return Harm(self.error or _BREAKS[self.kind]())
        if self.kind == "slow" and (timeout_s is None or self.seconds < timeout_s):
            return Harm(spend_s=self.seconds)
        if self.kind in ("slow", "black_hole"):
            spend_s = self.seconds if timeout_s is None else timeout_s
            return Harm(self.error or ReadTimeoutError(endpoint_url=_URL), spend_s)
        if self.kind == "expired":
            return self._expire(call)
        return _ANSWERS[self.kind]

    def _expire(self, call: ParsedCall) -> Harm | None:
        scope = call.headers.get("authorization", "").partition("Credential=")[2]
        key = scope.partition("/")[0]
        self._expired_key = self._expired_key or key
        expired = key == self._expired_key
        return Harm(ApiError("RequestExpired", "Request has expired.")) if expired else None


# What other services say instead of EC2's codes.
_CODES = {
    ("sqs", "throttled"): ("RequestThrottled", 403),
    ("events", "throttled"): ("ThrottlingException", 400),
    ("events", "internal_error"): ("InternalException", 500),
    ("sqs", "unavailable"): ("ServiceUnavailable", 503),
    ("events", "unavailable"): ("ServiceUnavailable", 503),
}
_ERRORS = {
    "fail": "",
    "throttled": "RequestLimitExceeded",
    "internal_error": "InternalError",
    "unavailable": "Unavailable",
}
_ANSWERS = {
    "malformed": Harm(garbled=True),
    "fleet_throttled": Harm(pool_error="RequestLimitExceeded"),
}
_BREAKS: Mapping[str, Callable[[], Exception]] = {
    "refused": lambda: EndpointConnectionError(endpoint_url=_URL, error="connection refused"),
    "dns": lambda: EndpointConnectionError(endpoint_url=_URL, error="name not known"),
    "cut_off": lambda: ConnectionClosedError(endpoint_url=_URL),
    "lose_answer": lambda: ConnectionClosedError(endpoint_url=_URL),
}


def fail(action: str, nth: int = 1, code: str = "InternalError") -> Fault:
    """Refuse the nth call of this action with this code."""
    return Fault(kind="fail", action=action, nth=nth, code=code)


def cut_off(action: str, nth: int = 1, error: Exception | None = None) -> Fault:
    """Break the connection before the nth call of this action is executed."""
    return Fault(kind="cut_off", action=action, nth=nth, error=error)


def lose_answer(action: str, nth: int = 1, error: Exception | None = None) -> Fault:
    """Execute the nth call of this action, but lose its answer."""
    return Fault(kind="lose_answer", action=action, nth=nth, error=error)


def order(given: Mapping[str, Any]) -> Fault:
    """Build the fault of an order: ``{"fault": kind, "action": ..., "nth": ...}``."""
    settings = {item.name for item in dataclasses.fields(Fault) if item.init} - {"kind", "error"}
    unknown = sorted(set(given) - settings - {"fault"})
    if unknown:
        raise ValueError(
            f"the settings of a fault are {', '.join(sorted(settings))}; "
            f"got {', '.join(unknown)}{did_you_mean(unknown[0], settings)}"
        )
    return Fault(kind=given["fault"], **{name: given[name] for name in given if name != "fault"})


def parse(text: str) -> Fault:
    """Build the fault of an option: ``kind`` or ``kind:name=value,name=value``."""
    kind, _, rest = text.partition(":")
    given: dict[str, Any] = {"fault": kind}
    for pair in filter(None, rest.split(",")):
        name, _, value = pair.partition("=")
        if name in ("action", "region", "code"):
            given[name] = value
        else:
            given[name] = _number(name, value)
    return order(given)


def _number(name: str, value: str) -> float:
    whole = name in ("nth", "seed")
    try:
        return int(value) if whole else float(value)
    except ValueError:
        words = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {words}, got {value!r}") from None

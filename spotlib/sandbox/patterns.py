"""Event patterns of EventBridge: which are valid, which events they match.

moto's matcher does it; it is a private part of moto that only this module uses, and a test checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from spotlib.sandbox.catalogue import import_moto

_FILTERS = (
    "prefix", "suffix", "equals-ignore-case", "numeric", "anything-but", "exists", "cidr",
    "wildcard",
)  # fmt: skip


def flaw(text: str) -> str:
    """Why EventBridge refuses a pattern; "" if it does not."""
    try:
        pattern = json.loads(text)
    except ValueError:
        return "Invalid JSON"
    if not isinstance(pattern, dict):
        return "Filter is not an object"
    return _flaw(pattern) if pattern else "Empty patterns are not allowed"


def matches(text: str, event: Mapping[str, Any]) -> bool:
    """Whether a valid pattern matches an event."""
    return bool(_matcher(text).matches_event(event))


def _flaw(pattern: dict[str, Any]) -> str:
    for name, value in pattern.items():
        if isinstance(value, dict):
            inner = [value]
        elif not isinstance(value, list):
            return f'"{name}" must be an object or an array'
        elif not value:
            return "Empty arrays are not allowed"
        elif name == "$or":
            inner = value
        else:
            inner = []
            for each in value:
                if isinstance(each, dict) and next(iter(each), "") not in _FILTERS:
                    return f"Unrecognized match type {next(iter(each), '')}"
                if isinstance(each, list):
                    return "Nested arrays are not allowed"
        for each in inner:
            found = _flaw(each) if isinstance(each, dict) else '"$or" must hold objects'
            if found:
                return found
    return ""


@cache
def _matcher(text: str) -> Any:
    import_moto()
    from moto.events.models import EventPattern  # noqa: PLC0415 (slow, and most worlds need none)

    return EventPattern.load(text)

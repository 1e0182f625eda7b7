"""How EC2 narrows a describe call: filters, explicit ids, pages, and the limits of each.

A resource is a dict in wire form, and a filter names a dotted path into it.  This module does not
know what the resources are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from spotlib.sandbox.protocol import (
    ApiError,
    Params,
    Shape,
    documented_filters,
    invalid,
    unsupported,
)
from spotlib.sandbox.reads import Reads

_MOST_VALUES = 200
_MOST_FILTERS = 50


def narrow(
    shapes: Iterable[Shape], params: Params, action: str, paths: Mapping[str, str]
) -> list[Shape]:
    """The shapes that pass every filter of the call.  ``paths``: filter name -> dotted path."""
    wanted = filters_of(params)
    for name, _ in wanted:
        if name not in paths and not (name.startswith("tag:") and "tag-key" in paths):
            raise _refused(action, name)
    passes = [(name, _matcher(values)) for name, values in wanted]
    return [
        shape
        for shape in shapes
        if all(any(map(fits, _values(shape, name, paths))) for name, fits in passes)
    ]


def filters_of(params: Params) -> list[tuple[str, list[str]]]:
    """The filters' names and values, checked against EC2's limits."""
    filters = [(item.get("Name", ""), item.get("Values", [])) for item in params.get("Filters", [])]
    if len(filters) > _MOST_FILTERS or sum(len(some) for _, some in filters) > _MOST_VALUES:
        message = (
            f"The maximum number of filter values specified on a single call is {_MOST_VALUES}, "
            f"that of filters {_MOST_FILTERS}"
        )
        raise ApiError("FilterLimitExceeded", message)
    return filters


def _refused(action: str, name: str) -> ApiError:
    """A filter that EC2 has is not modelled here, any other is a mistake of the caller."""
    kind = "tag:" if name.startswith("tag:") else name
    if kind in documented_filters(action):
        return unsupported(f"The filter '{name}' of {action} is not modelled by the sandbox.")
    return invalid(f"The filter '{name}' is invalid")


def page(
    shapes: Sequence[Shape],
    params: Params,
    *,
    ids: Sequence[str] = (),
    id_name: str = "",
    reads: Reads | None = None,
    least: int = 5,
) -> tuple[list[Shape], dict[str, str]]:
    """One page of the shapes, and ``{"NextToken": ...}`` if there are more.

    EC2 may return a page that is shorter than requested, or empty, with a token for more; never
    for explicit ids.
    """
    reads, most = reads or Reads(), params.get("MaxResults")
    if most is None and "NextToken" not in params and (ids or reads.page_most is None):
        return list(shapes), {}
    if ids:
        message = f"The parameter {id_name} cannot be used with the parameter maxResults"
        raise ApiError("InvalidParameterCombination", message)
    most = 1000 if most is None else most
    if not least <= most <= 1000:
        raise invalid(f"Value ( {most} ) for parameter maxResults is not between {least} and 1000.")
    start, was_empty = _read_token(params.get("NextToken", ""))
    if not was_empty and reads.is_empty(len(shapes), start):
        return [], {"NextToken": _token(start, empty=True)}
    end = start + min(most, reads.page_most or most)
    return list(shapes[start:end]), {"NextToken": _token(end)} if end < len(shapes) else {}


def has_wildcard(values: Iterable[str]) -> bool:
    return any(mark in value for value in values for mark in "*?")


def _read_token(token: str) -> tuple[int, bool]:
    """Where the page starts, and whether the one before was empty; then this one is not."""
    try:
        start, _, empty = base64.b64decode(token, validate=True).decode().partition(" ")
        return int(start or 0), bool(empty)
    except (binascii.Error, ValueError):
        raise ApiError("InvalidNextToken", f"The token '{token}' is invalid") from None


def _token(start: int, *, empty: bool = False) -> str:
    return base64.b64encode(f"{start}{' empty' if empty else ''}".encode()).decode()


def _values(shape: Shape, name: str, paths: Mapping[str, str]) -> list[str]:
    if name.startswith("tag:"):
        return [tag["Value"] for tag in shape.get("Tags", []) if tag["Key"] == name[4:]]
    if name == "tag-key":
        return [tag["Key"] for tag in shape.get("Tags", [])]
    return [_text(value) for value in _follow(shape, paths[name].split("."))]


def _follow(value: Any, path: Sequence[str]) -> list[Any]:
    if isinstance(value, list):
        return [found for item in value for found in _follow(item, path)]
    if not path:
        return [] if value is None else [value]
    return _follow(value.get(path[0]), path[1:]) if isinstance(value, dict) else []


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value.strftime("%Y-%m-%dT%H:%M:%S.000Z") if hasattr(value, "strftime") else str(value)


def _matcher(wanted: Sequence[str]) -> Callable[[str], bool]:
    """Whether a value is one of those wanted, or fits one with a wildcard."""
    exact = frozenset(wanted)
    # EC2's wildcards are * and ?; fnmatch would read brackets as a third.
    patterns = [each.replace("[", "[[]") for each in wanted if has_wildcard([each])]
    return lambda value: value in exact or any(fnmatchcase(value, each) for each in patterns)

"""TODO."""

import ast
import difflib
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar

_INJECTED = "# Parameters"  # papermill's mark on the cell that it adds


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text in quotes"}


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Parameters = TypeVar("Parameters", bound=_Dataclass)


def check_parameters(kind: type[Parameters], namespace: Mapping[str, Any]) -> Parameters:
    """The notebook's parameters as a ``kind``, a dataclass that refuses bad values.

    Parameters
    ----------
    namespace
        The notebook's ``globals()``: the parameters, and IPython's ``In``, the cells so far.

    Raises
    ------
    ValueError
        With one sentence for each thing that is wrong.
    """
    types = typing.get_type_hints(kind)
    names = [each.name for each in fields(kind)]
    injected = _injected_names(namespace.get("In", []))
    problems = [_unknown(name, names) for name in injected if name not in names]
    problems += [
        f"{name} must be {_WORDS[types[name]]}, got {namespace[name]!r}"
        for name in names
        if not _is_a(namespace[name], types[name])
    ]
    if problems:
        raise ValueError("; ".join(problems))
    return kind(**{name: namespace[name] for name in names})


def _unknown(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"
    return f"there is no parameter {name!r}{hint}"


def _injected_names(cells: Sequence[str]) -> list[str]:
    """The names that papermill set, in the cell that it marks as its own."""
    return [
        target.id
        for source in cells
        if source.startswith(_INJECTED)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def _is_a(value: object, kind: type) -> bool:
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(typing.cast("float", value))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))

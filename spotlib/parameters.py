"""Checks of the notebooks' parameters: types, unknown names, and every problem at once.

papermill passes on what it was given: ``-p dry_run false`` arrives as text, and for a misspelt
name it only logs a warning.  So each notebook checks its parameters before anything else happens.
Which values are valid is decided by each notebook's own class, not here.
"""

import ast
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Protocol, TypeVar

from spotlib.errors import ParameterError, did_you_mean

_INJECTED = "# Parameters"  # papermill marks the cell that it adds with this line

_SWITCH = bool | str  # on, off, or the name of what to use
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text in quotes",
    _SWITCH: "True, False or text in quotes",
}
_MEANT = dict.fromkeys(["true", "yes", "on", "1"], True)
_MEANT |= dict.fromkeys(["false", "no", "off", "0"], False)


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


Parameters = TypeVar("Parameters", bound=_Dataclass)


def check_parameters(kind: type[Parameters], namespace: Mapping[str, Any]) -> Parameters:
    """Return the notebook's parameters as a ``kind``.

    Parameters
    ----------
    kind
        A dataclass with one field per parameter, which refuses invalid values.
    namespace
        The notebook's ``globals()``: the parameters, and IPython's ``In``, the cells so far.

    Raises
    ------
    ParameterError
        With one sentence per unknown name, wrong type or invalid value.
    """
    types = typing.get_type_hints(kind)
    names = [each.name for each in fields(kind)]
    injected = _injected_names(namespace.get("In", []))
    problems = [_unknown(name, names) for name in injected if name not in names]
    problems += [
        _wrong_type(name, types[name], namespace[name])
        for name in names
        if not _is_a(namespace[name], types[name])
    ]
    require_no_problems(problems)
    return kind(**{name: namespace[name] for name in names})


def require_no_problems(problems: Iterable[str]) -> None:
    """Report every invalid value at once.

    Raises
    ------
    ParameterError
        With all problems, if there are any.
    """
    if words := "; ".join(problems):
        raise ParameterError(words)


def problems_of(check: Callable[..., object], /, *args: object, **given: object) -> Iterator[str]:
    """Yield the message of the ValueError that a check raises, if it raises one."""
    try:
        check(*args, **given)
    except ValueError as error:
        yield str(error)


def _wrong_type(name: str, kind: type, value: object) -> str:
    seconds = " of seconds" * name.endswith("_s")
    words = f"{name} must be {_WORDS[kind]}{seconds}, got {value!r}"
    if kind is str:  # papermill -p reads 012345678901 and 5e8 as numbers
        words += f"; from a shell: papermill -r {name} VALUE, which keeps it as it is written"
    if kind is bool and (said := str(value).lower()) in _MEANT:
        words += f"; from a shell: papermill -p {name} {_MEANT[said]}"
    return words


def _unknown(name: str, names: Sequence[str]) -> str:
    hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
    return f"there is no parameter {name!r}{hint}"


def _injected_names(cells: Sequence[str]) -> list[str]:
    """Return the names that papermill set, in the cell that it added."""
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
    return isinstance(value, kind) and (kind in (bool, _SWITCH) or not isinstance(value, bool))

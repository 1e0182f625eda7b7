"""Errors that are one sentence: what, the value seen, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class OneSentence(Exception):
    """An error of which a notebook shows only the sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython asks for it by this name
        return [f"{type(self).__name__}: {self}"]


class ParameterError(OneSentence, ValueError):
    """A value that is refused."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return ``; did you mean run_instances?``, the known word closest to a wrong one, or "".

    Examples
    --------
    >>> from spotlib.errors import did_you_mean
    >>> did_you_mean("Run_Instance", ["run_instances", "create_fleet_instant"])
    '; did you mean run_instances?'
    >>> did_you_mean("walk", ["run_instances", "create_fleet_instant"])
    ''
    """
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(str(word).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""

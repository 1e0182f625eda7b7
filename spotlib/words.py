"""The wording of numbers, names and times: the same in every sentence, table and figure."""

import math
from collections.abc import Sequence

_TINY = 1e-9  # more than arithmetic changes a number, and less than anybody sees


def one_line(text: str, *, longest: int = 300) -> str:
    """Return what a file or a library says as one printable line.

    Spaces stand for breaks, escapes (``\\x00``) for what no terminal can show.  Of a text longer
    than ``longest`` characters the first two thirds and the end remain.
    """
    if len(text) > longest:
        text = f"{text[: 2 * longest // 3]} ... {text[-longest // 3 :]}"
    return "".join(each if each.isprintable() else _shown(each) for each in text)


def _shown(letter: str) -> str:
    return " " if letter.isspace() else letter.encode("unicode_escape").decode()


def rounded(number: float, digits: int) -> str:
    """``0.38`` of 0.375: a half goes up, also one that arithmetic left a little too small."""
    return f"{number + math.copysign(_TINY, number):z.{digits}f}"


def percent(share: float, *, digits: int = 0) -> str:
    """``45 %``."""
    return f"{rounded(100 * share, digits)} %"


def counted(number: int, noun: str) -> str:
    """``1 run``, ``20 runs``, ``2 batches``."""
    plural = noun + ("es" if noun.endswith("ch") else "s")
    return f"{number} {noun if number == 1 else plural}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def which(names: Sequence[str], *, of: int) -> str:
    """Which of so many have the same number: ``a and b``, ``3 of 8 (such as a)``, ``all 8``."""
    if len(names) == of > 1:
        return "both" if of == 2 else f"all {of}"
    return listed(names) if len(names) <= 2 else f"{len(names)} of {of} (such as {names[0]})"


def span_words(seconds: float) -> str:
    """``12 minutes``, ``19 hours``, ``2.5 days``: to the unit in which it is at least 1."""
    for unit, unit_s in (("day", 86_400.0), ("hour", 3_600.0)):
        number = round(seconds / unit_s, 1)
        if number >= 1:
            return f"{number:g} {unit if number == 1 else unit + 's'}"
    return counted(round(seconds / 60), "minute")


def within_words(seconds: float) -> str:
    """``within 19 hours``, or ``at one moment`` for less than half a minute."""
    return f"within {span_words(seconds)}" if seconds >= 30 else "at one moment"

"""The arguments of the commands: a wrong one is one sentence, not a page of usage."""

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from spotlib.errors import ParameterError, did_you_mean

Number = TypeVar("Number", int, float)

_SAID = {  # what argparse says, and what is said instead
    r"argument (.+?): expected (?:at least )?one argument": "{} needs a value: write it after {}",
    r"argument (.+?): ignored explicit argument (.+)": "{} takes no value, got {}: leave it out",
    r"the following arguments are required: (.+)": "{} is missing: write it after the command",
    r"argument (.+?): (.+)": "{} {}",
}


class Parser(argparse.ArgumentParser):
    """A parser that raises ParameterError; no option can be abbreviated."""

    def __init__(self, **given: Any) -> None:
        self._names: list[str] = []
        super().__init__(allow_abbrev=False, **given)

    def add_argument(self, *names: Any, **given: Any) -> argparse.Action:
        """Add an argument, and remember its names for who misspells one."""
        self._names += [name for name in names if name.startswith("-")]
        return super().add_argument(*names, **given)

    def read(self, given: Sequence[str]) -> argparse.Namespace:
        """Return what the words of a command line say.

        Raises
        ------
        ParameterError
            With the first that is wrong, and what to do.
        """
        known, unread = self.parse_known_args(given)
        if unread:
            self.error(self._unread(unread[0].partition("=")[0]))
        return known

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        for pattern, words in _SAID.items():
            if said := re.fullmatch(pattern, message, re.DOTALL):
                parts = said.groups()
                message = words.format(*parts, *parts[: words.count("{}") - len(parts)])
                break
        raise ParameterError(f"{message} ({self.prog} --help shows what there is)")

    def _unread(self, word: str) -> str:
        if word.startswith("-"):
            long = [name.removeprefix("--") for name in self._names if name.startswith("--")]
            hint = did_you_mean(word.lstrip("-"), long).replace("mean ", "mean --")
            return f"there is no option {word}{hint}"
        if any(not each.option_strings for each in self._actions):
            return f"{word!r} stands behind an option: write all words without a name in front"
        return f"{word!r} is no option, and this command takes nothing else"


def whole_number(text: str) -> int:
    """Read a whole number."""
    return _read(int, text, "a whole number, such as 5")


def number(text: str) -> float:
    """Read a number, of seconds or of anything else."""
    return _read(float, text, "a number, such as 2.5")


def one_of(*known: str) -> Callable[[str], str]:
    """Return what reads one of these words."""

    def read(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(known)}, got {text!r}{did_you_mean(text, known)}"
            )
        return text

    return read


def _read(kind: Callable[[str], Number], text: str, words: str) -> Number:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {words}, got {text!r}") from None

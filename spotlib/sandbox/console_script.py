"""What a shell script in user data writes to the console: nothing is run, a few forms are read.

Read are assignments, ``echo``, and what ``$(...)`` asks the guest: its date, its uptime, its boot
id, its metadata, whether its clock is synchronised.  Every other command succeeds and writes
nothing, and what stands behind ``||`` is not reached.  Conditions, loops and groups are not read:
what is in them counts as if it stood outside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

CONSOLE = "/dev/console"

_SHELL = re.compile(rb"#!\s*\S*/(?:env\s+)?(?:ba|da|k|z)?sh\b")
_ECHO = re.compile(rb"\becho\b")

# The words of a shell, by their parts; possessive, or a quote without an end would take for ever.
_NESTED = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*+\))*+\)"
_ASKED = rf"\${_NESTED}|`[^`]*`"
_VALUE = r"\$\{\w+(?::?-(?:[^{}]|\{[^{}]*\})*)?\}|\$\w+"
_DOUBLE = rf'"(?:\\.|{_ASKED}|[^"\\])*+"'
_PARTS = rf"(?P<asked>{_ASKED})|(?P<value>{_VALUE})"
_PART = re.compile(
    rf"{_PARTS}|'(?P<literal>[^']*)'|(?P<double>{_DOUBLE})|\\(?P<escaped>.)|(?P<plain>.)",
    re.DOTALL,
)
_PART_IN_QUOTES = re.compile(rf"{_PARTS}|\\(?P<escaped>[$`\"\\])|(?P<plain>.)", re.DOTALL)
_WORD = rf"(?:{_ASKED}|{_VALUE}|'[^']*'|{_DOUBLE}|\\.|[^\s;&|<>\"'\\`])+"
_TOKEN = re.compile(
    rf"(?P<comment>#[^\n]*)|(?P<redirect>(?:\d*|&)(?:>>|>&|>|<))|(?P<word>{_WORD})"
    r"|(?P<end>\|\||&&|[;&|\n])|.",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_OTHERWISE = re.compile(r"\|\|\s*echo\s+(\S+)\s*$")


@dataclass(frozen=True)
class Facts:
    """What a guest answers at one moment."""

    uptime_s: float
    posix_s: float  # by its own clock
    synchronised: bool
    boot_id: str
    document: str  # its identity document; "" if it has no metadata service


def writes(script: bytes) -> bool:
    """Whether a script is one for a shell that may write something."""
    return bool(_SHELL.match(script) and _ECHO.search(script))


def written(script: bytes, facts: Facts) -> list[tuple[str, bool]]:
    """The lines that a script writes, each with whether it goes straight to the console.

    Parameters
    ----------
    script : bytes
        The user data, decoded.
    facts : Facts
        What the guest knows while it runs them.

    Returns
    -------
    list of (str, bool)
        In order.  What goes nowhere else reaches the console through cloud-init.
    """
    if not writes(script):
        return []
    text = script.decode(errors="replace").replace("\r\n", "\n").replace("\\\n", "")
    return _Shell(facts).run(text)


@dataclass
class _Command:
    after: str  # how the one before it ended
    words: list[str] = field(default_factory=list)
    targets: dict[str, str] = field(default_factory=dict)  # redirection -> where to


class _Shell:
    def __init__(self, facts: Facts, values: dict[str, str] | None = None) -> None:
        self.facts = facts
        self.values = {} if values is None else values
        self.document: dict[str, Any] = json.loads(facts.document or "{}")

    def run(self, text: str) -> list[tuple[str, bool]]:
        reached = (command for command in _commands(text) if command.after != "||")
        return [line for command in reached for line in self._lines(command)]

    def _lines(self, command: _Command) -> Iterator[tuple[str, bool]]:
        """The lines that one command writes; or it sets values."""
        words = command.words
        while words and (found := _ASSIGNMENT.fullmatch(words[0])):
            self.values[found[1]] = self._expanded(found[2])
            words = words[1:]
        if words[:1] != ["echo"]:
            return
        given = [word for each in words[1:] if (word := self._expanded(each)) or each[0] in "'\""]
        target = self._expanded(command.targets.get(">", command.targets.get(">>", "")))
        if target in ("", CONSOLE):
            for line in " ".join(given).split("\n"):
                yield line, target == CONSOLE

    def _expanded(self, word: str) -> str:
        """A word without its quotes, with what it asks for."""
        return "".join(map(self._part, _PART.finditer(word)))

    def _part(self, found: re.Match[str]) -> str:
        kind, text = str(found.lastgroup), found[0]
        if kind == "asked":
            return self._asked(text.strip("`").removeprefix("$(").removesuffix(")").strip())
        if kind == "value":
            return self._value(text)
        if kind == "double":
            return "".join(map(self._part, _PART_IN_QUOTES.finditer(text[1:-1])))
        return str(found[kind])

    def _value(self, text: str) -> str:
        name, _, default = text.removeprefix("$").strip("{}").partition("-")
        return self.values.get(name.rstrip(":")) or self._expanded(default)

    def _asked(self, command: str) -> str:
        """What a command prints: it is known by what it names, whatever it does with it."""
        command = re.sub(_VALUE, lambda found: self._value(found[0]), command)
        otherwise = _OTHERWISE.search(command)
        answers = (answer for pattern, answer in _ANSWERS if re.search(pattern, command))
        answer = next((each(self, command) for each in answers), "")
        return answer or (otherwise[1].strip("'\"") if otherwise else "")

    def _uptime(self, command: str) -> str:
        """Both numbers of the file, or the first if the command does more than to show it."""
        uptime = f"{int(self.facts.uptime_s * 100) / 100:.2f}"
        return f"{uptime} {uptime}" if re.fullmatch(r"(?:cat|<)\s*\S+", command) else uptime

    def _synchronised(self, command: str) -> str:
        answer = "yes" if self.facts.synchronised else "no"
        return answer if "--value" in command or "|" in command else f"NTPSynchronized={answer}"

    def _echoed(self, command: str) -> str:
        return "\n".join(line for line, _ in _Shell(self.facts, self.values).run(command))


_ANSWERS: tuple[tuple[str, Callable[[_Shell, str], str]], ...] = (
    ("pendingTime", lambda shell, _: str(shell.document.get("pendingTime", ""))),
    ("instance-identity/document", lambda shell, _: shell.facts.document),
    ("meta-data/instance-id", lambda shell, _: str(shell.document.get("instanceId", ""))),
    ("/proc/uptime", _Shell._uptime),
    ("random/boot_id", lambda shell, _: shell.facts.boot_id),
    ("NTPSynchronized", _Shell._synchronised),
    (r"^date\b", lambda shell, command: _date(command, shell.facts.posix_s)),
    (r"^echo\b", _Shell._echoed),
)


def _commands(text: str) -> Iterator[_Command]:
    """The commands of a script, in order."""
    command, redirect = _Command("\n"), ""
    for found in _TOKEN.finditer(text):
        if found["end"]:
            yield command
            command, redirect = _Command(found[0]), ""
        elif found["redirect"]:
            redirect = found[0].removeprefix("1")
        elif found["word"] and redirect:
            command.targets[redirect], redirect = found[0], ""
        elif found["word"]:
            command.words.append(found[0])
    yield command


def _date(command: str, posix_s: float) -> str:
    """The guest's date in the form asked for; its nanoseconds as far as a float has them."""
    found = re.search(r"""\+"([^"]*)"|\+'([^']*)'|["']\+([^"']*)["']|\+(\S+)""", command)
    form = next(filter(None, found.groups()), "") if found else "%a %b %e %H:%M:%S UTC %Y"
    whole_s = int(posix_s // 1)
    nanos = min(int((posix_s - whole_s) * 1e9), 999_999_999)
    form = form.replace("%3N", f"{nanos // 1_000_000:03}").replace("%N", f"{nanos:09}")
    return datetime.fromtimestamp(whole_s, UTC).strftime(form.replace("%s", str(whole_s)))

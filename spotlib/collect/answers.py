"""What a preflight was answered, and what it found: problems and warnings, a sentence each."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from spotlib.ec2.calls import chunks
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal


@dataclass
class Answers:
    """The connection that a preflight asks, and the sentences that it has found so far."""

    connection: Patient
    allow_any_image: bool = False
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def lacks(self, what: str) -> None:
        """Note what is missing: a problem on AWS, only a warning at another program."""
        (self.warnings if self.connection.foreign else self.problems).append(what)

    def optional(self, what: str, ask: Callable[[], Any], default: Any) -> Any:
        """Return the answer; if it is refused, note a warning and return the default."""
        try:
            return ask()
        except Refusal as refusal:
            self.warnings.append(f"{what} is not known: {refusal}")
            return default


def describe_types(answers: Answers, region: str, names: set[str]) -> dict[str, Any]:
    """Return EC2's description of each of these types, by its name."""
    types: dict[str, Any] = {}
    for some in chunks(sorted(names), 100):
        reply = answers.connection.call(region, "describe_instance_types", InstanceTypes=some)
        types |= {item["InstanceType"]: item for item in reply["InstanceTypes"]}
    return types


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; nearest: a, b``, the known names closest to an unknown one, or ""."""
    close = difflib.get_close_matches(name, sorted(known), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""

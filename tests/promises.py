"""The table of promises in docs/reliability.md: fault, promise, test, and how often it is shown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parents[1] / "docs" / "reliability.md"


@dataclass(frozen=True)
class Promise:
    """One row; ``tested`` and ``chaos`` are (cases of the test, least visited in each)."""

    fault: str
    promise: str
    file: str
    test: str
    tested: tuple[int, int]
    chaos: tuple[int, int]

    def visited(self, *, chaos: bool) -> int:
        """How many points, calls, lines, ... each case of the test visits at least."""
        return self.chaos[1] if chaos else self.tested[1]


@cache
def promises() -> dict[str, Promise]:
    """The rows, by the test's name."""
    rows = [line.split("|")[1:-1] for line in TABLE.read_text().splitlines() if "::" in line]
    return {each.test: each for each in map(_promise, rows)}


def _promise(cells: Sequence[str]) -> Promise:
    fault, promise, where, tested, chaos = (cell.strip() for cell in cells)
    file, _, test = where.strip("`").partition("::")
    return Promise(fault, promise, file, test, _times(tested), _times(chaos))


def _times(cell: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?: x (\d+))?", cell)
    assert found, f"{cell!r} is neither '5' nor '5 x 12'"
    return int(found[1]), int(found[2] or 1)


def summary() -> str:
    """The line of the README."""
    rows = promises().values()
    tested = sum(each.tested[0] * each.tested[1] for each in rows)
    chaos = sum(each.chaos[0] * each.chaos[1] for each in rows)
    return (
        f"{len(rows)} promises, shown at least {tested:,} times by `make test` "
        f"and {chaos:,} times by `make chaos`"
    )

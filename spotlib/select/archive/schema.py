"""What a SpotLake snapshot holds in every era: its columns, their allowed values, its interval.

Also owns ``ArchiveError``, which names what departs from that.  Nothing is read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

SNAPSHOT_MINUTES: Final = 10
SNAPSHOTS_PER_DAY: Final = 24 * 60 // SNAPSHOT_MINUTES
DAY_S: Final = 24 * 60 * 60  # file names carry seconds, so a day has at most this many snapshots

POOL: Final = ("region", "instance_type", "availability_zone_id")
PRICE: Final = "price_usd_per_hour"
# Header names in lower case, because their case differs between eras (`Time`, `time`).
COLUMNS: Final = {
    "region": POOL[0],
    "instancetype": POOL[1],
    "az": POOL[2],
    "sps": "sps",
    "if": "if_score",
}
PRICED: Final = {"spotprice": PRICE}
_SPELLING = {
    "instancetype": "InstanceType",
    "region": "Region",
    "az": "AZ",
    "sps": "SPS",
    "if": "IF",
    "time": "Time",
}


class ArchiveError(ValueError):
    """An archive cannot be read as it is: ``name`` is the file, ``reason`` what is wrong."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)  # both, because pickling to another process needs them
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Scale:
    """Which values a column may hold, and how a message says so."""

    column: str
    per_one: int  # units in one: IF comes in halves
    low: int
    high: int
    allowed: str

    def refusal(self, value: float) -> str:
        return f"{self.column} is {value:g}, not {self.allowed} (-1 or empty if missing)"


SCALES: Final = {
    "sps": Scale("SPS", 1, 1, 10, "a whole number from 1 to 10"),
    "if_score": Scale("IF", 2, 2, 6, "1.0, 1.5, 2.0, 2.5 or 3.0"),
}


def columns_in(
    header: Sequence[str],
    file: str,
    wanted: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return our name -> the header's own name, matched without regard to case."""
    ours = {**wanted, **(optional or {})}
    found = {ours[theirs.lower()]: theirs for theirs in header if theirs.lower() in ours}
    missing = [column for column, our_name in wanted.items() if our_name not in found]
    if missing:
        asked = " and ".join(_SPELLING[column] for column in missing)
        raise ArchiveError(file, f"has no column {asked}, only {', '.join(header)}")
    return found

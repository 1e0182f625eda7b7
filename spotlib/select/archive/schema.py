"""What a SpotLake snapshot holds in every era: its columns, their allowed values, its interval.

Also owns ``ArchiveError``, which names what departs from that, and how other forms of SpotLake's
data are recognised.  Nothing is read here.
"""

from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from spotlib.errors import OneSentence
from spotlib.words import one_line

SNAPSHOT_MINUTES: Final = 10
SNAPSHOTS_PER_DAY: Final = 24 * 60 // SNAPSHOT_MINUTES
SLOT_S: Final = 60 * SNAPSHOT_MINUTES
DAY_S: Final = 24 * 60 * 60

# From these days on, SpotLake's scores mean something else; the day itself may be of both kinds.
BREAKS: Final = (
    (
        date(2025, 2, 13),
        "SPS was asked for every 10 minutes before 2025-02-13 and every 110 minutes since:"
        " days on the two sides are not comparable, fewer changes are seen since",
    ),
    (
        date(2025, 9, 25),
        "some GPU types show SPS above 3 since 2025-09-25: this is another scale, not a change of"
        " their market",
    ),
)

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
T3: Final = "t3"  # the largest capacity with SPS 3 or more, 0 if none; since February 2025
LAST: Final = {"spotprice": PRICE, "t3": T3}  # of these the day's last snapshot suffices
TIMED: Final = {"time": "at"}
_SPELLING = {
    "instancetype": "InstanceType",
    "region": "Region",
    "az": "AZ",
    "sps": "SPS",
    "if": "IF",
    "spotprice": "SpotPrice",
    "t3": "T3",
    "time": "Time",
}
# A column that only another form of the data has, and that form.
_OTHER_FORMS = {
    "instancetier": "Azure's form, not AWS's",
    "calculator ondemand price": "GCP's form, not AWS's",
    "spotprice ($)": "an export of SpotLake's web page, not a snapshot",
    "ceased": "a list of changes, not a full snapshot",
    "targetcapacity": "SpotLake's form for several nodes at once, not a snapshot",
}
_JSON = "is JSON, as SpotLake's web page and API deliver it, not a csv snapshot"
_OTHER_TEXTS = {  # by how they begin
    b"{": _JSON,
    b"[": _JSON,
    b"<": "is a web page, as behind a link that has expired, not a csv snapshot",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_OF_AWS_ALONE = {"az", "sps", "if"}


class ArchiveError(OneSentence, ValueError):
    """An archive cannot be read as it is: ``name`` is the file, ``reason`` what is wrong."""

    advice = "fetch it again"

    def __init__(self, name: str, reason: str) -> None:
        name, reason = one_line(name), one_line(reason)
        super().__init__(name, reason)  # both, because pickling to another process needs them
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"

    def advised(self) -> "ArchiveError":
        """Return the same error with what to do about it."""
        otherwise = "or leave out bad files with skip_bad_files=True"
        return ArchiveError(self.name, f"{self.reason}; {self.advice}, {otherwise}")


class OtherFormError(ArchiveError):
    """A file is no snapshot of AWS, so fetching it again would not help."""

    advice = "move it elsewhere"


class EmptyArchiveError(ArchiveError):
    """There is no file at all that could be of an archive."""


@dataclass(frozen=True)
class Scale:
    """Which values a column may hold, and how a message says so."""

    column: str
    per_one: int  # units in one: IF comes in halves
    low: int
    high: int
    coded: int  # the unit that stands for the archive's -1, none that a value has
    allowed: str

    def refusal(self, value: float) -> str:
        return f"{self.column} is {value:g}, not {self.allowed} (-1 or empty if missing)"


SCALES: Final = {
    "sps": Scale("SPS", 1, 1, 10, 11, "a whole number from 1 to 10"),
    "if_score": Scale("IF", 2, 2, 6, 1, "1.0, 1.5, 2.0, 2.5 or 3.0"),
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
    known = [theirs.lower() for theirs in header if theirs.lower() in ours]
    if twice := [_SPELLING[column] for column in ours if known.count(column) > 1]:
        raise ArchiveError(file, f"has more than one column {' and '.join(twice)}")
    _require_no_other_form(header, file)
    missing = [column for column in wanted if column not in known]
    if missing:
        asked = " and ".join(_SPELLING[column] for column in missing)
        raise ArchiveError(file, f"has no column {asked}, only {', '.join(header)}")
    return {ours[theirs.lower()]: theirs for theirs in header if theirs.lower() in ours}


def require_no_other_content(data: bytes, file: str) -> None:
    """Refuse, by its first bytes, what is no text of a snapshot."""
    if data.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the file itself, which `git lfs pull` gets"
        raise ArchiveError(file, what)
    if data.startswith(_UTF16):
        raise ArchiveError(file, "is text in UTF-16, as a spreadsheet may save it, not in UTF-8")
    begin = data[:64].removeprefix(BOM_UTF8).lstrip()[:1]
    if other := _OTHER_TEXTS.get(begin):
        raise OtherFormError(file, other)


def _require_no_other_form(header: Sequence[str], file: str) -> None:
    columns = {theirs.lower(): theirs for theirs in header}
    for column in columns.keys() & _OTHER_FORMS:
        what = f"is {_OTHER_FORMS[column]} (it has a column {columns[column]})"
        raise OtherFormError(file, what)
    priced = any("ondemand" in column for column in columns)
    if (
        priced
        and {"instancetype", "region"} <= columns.keys()
        and not columns.keys() & _OF_AWS_ALONE
    ):
        raise OtherFormError(file, "looks like GCP's form, not AWS's (it has no AZ, SPS and IF)")

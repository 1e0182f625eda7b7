"""What the wanted columns of a csv snapshot hold, read by pyarrow some thousand rows at a time.

Owns the columns' names and scales, finding them by the header, and the words for a csv that cannot
be trusted.  Knows of no pool, day or archive, see ``snapshots``.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import Any, Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import csv as arrow_csv

from spotlib.archive import ArchiveError

POOL: Final = ("region", "instance_type", "availability_zone_id")
PRICE: Final = "price_usd_per_hour"
# Header names in lower case, for the case of `Time` and others changed between eras.
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
_BLOCK_BYTES = 1 << 19  # some 7,000 rows: larger ones take more memory, smaller ones more time
_NO_ROWS = "has a header but no rows"
_NOT_A_NUMBER = re.compile(r"column #(\d+): .*invalid value '(.*)'")


@dataclass(frozen=True)
class Scale:
    """What the values of a column may be, and how a message says so."""

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
    """Return our name -> the header's own, matched without regard to case."""
    ours = {**wanted, **(optional or {})}
    found = {ours[theirs.lower()]: theirs for theirs in header if theirs.lower() in ours}
    lacking = [column for column, name_here in wanted.items() if name_here not in found]
    if lacking:
        asked = " and ".join(_SPELLING[column] for column in lacking)
        raise ArchiveError(file, f"has no column {asked}, only {', '.join(header)}")
    return found


def rows_of(data: bytes, file: str) -> pa.Table:
    """Return names as text and values as numbers, null where empty, under our names for them."""
    table = _read(data, file, COLUMNS)
    if not table.num_rows:
        raise ArchiveError(file, _NO_ROWS)
    return table


def prices_of(data: bytes, file: str) -> Any:
    """Return the spot price of each row in USD per hour, NaN if missing; none if none is told."""
    table = _read(data, file, {}, optional=PRICED)
    return table[PRICE].to_numpy() if PRICE in table.column_names else np.empty(0)


def _read(
    data: bytes, file: str, wanted: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> pa.Table:
    text = _unpacked(data, file)
    if b'"' in text and text.count(b'"') % 2:  # pyarrow would take all rows after it for one cell
        raise ArchiveError(file, "holds lines that are no csv (a quote that never ends)")
    header: list[str] = []
    refused: list[Any] = []  # the row that ended the reading, for it has more cells or less
    try:
        lines = TextIOWrapper(BytesIO(text), "utf-8-sig", errors="replace", newline="")
        header = next(csv.reader(lines), [])
        if not header:
            raise ArchiveError(file, "is empty")
        columns = columns_in(header, file, wanted, optional=optional)
        return _table(text, columns, refused) if columns else pa.table({})
    except (pa.ArrowInvalid, csv.Error) as error:
        raise ArchiveError(file, _reason(str(error), text, header, refused)) from error


def _unpacked(data: bytes, file: str) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(file, f"is not a whole gzip file ({error})") from error


def _table(text: bytes, columns: Mapping[str, str], refused: list[Any]) -> pa.Table:
    """Read only these columns, our name -> the header's."""
    kinds = {
        theirs: pa.string() if ours in POOL else pa.float64() for ours, theirs in columns.items()
    }

    def refuse(row: Any) -> str:
        refused.append(row)
        return "error"

    table = arrow_csv.read_csv(
        pa.BufferReader(text),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=arrow_csv.ParseOptions(invalid_row_handler=refuse),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=list(kinds), column_types=kinds, null_values=[""]
        ),
        memory_pool=pa.system_memory_pool(),  # the default one keeps 10 MB more of it
    )
    return table.rename_columns(list(columns))


def _reason(error: str, text: bytes, header: Sequence[str], refused: Sequence[Any]) -> str:
    """Say in one sentence, in the words of the file, what pyarrow says of rows and cells."""
    if refused:
        row = refused[0]
        if row.actual_columns < row.expected_columns and text.endswith(row.text.encode()):
            return "ends in the middle of a line"
        line = row.text.partition("\n")[0]
        return f"has {row.actual_columns} cells, not {row.expected_columns}, in line {line}"
    if match := _NOT_A_NUMBER.search(error):
        return f"holds the text {match[2]!r} in column {header[int(match[1])]}"
    if "Empty CSV" in error:  # there is not even a line end behind the header
        return _NO_ROWS
    if "invalid UTF8" in error:
        return "holds a name that is no text"
    first_line = error.partition("\n")[0]
    return f"holds lines that are no csv ({first_line})"

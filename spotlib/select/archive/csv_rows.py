"""What the wanted columns of a csv snapshot hold, read by pyarrow some thousand rows at a time.

Owns the columns' names and scales, finding them by the header, and the words for a csv that cannot
be trusted.  A file is read in pieces, so that its table is never held whole.
Knows of no pool, day or archive, see ``snapshots``.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from isal import igzip, isal_zlib
from pyarrow import csv as arrow_csv

from spotlib.select.archive.files import ArchiveError

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
_PIECE_BYTES = 1 << 19  # some 7,000 rows: larger ones take more memory, smaller ones more time
_GZIP = b"\x1f\x8b"
# What unpacking raises; the library's stubs call its class of exceptions an exception.
_DAMAGED: Final = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))
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


def unpacked(data: bytes, file: str) -> bytes:
    """Return the text of a file that may be gzipped, whatever its name says."""
    if not data.startswith(_GZIP):
        return data
    try:
        text: bytes = igzip.decompress(data)
    except _DAMAGED as error:
        raise ArchiveError(file, f"is not a whole gzip file ({error})") from error
    return text


def batches_of(text: bytes, file: str) -> Iterator[pa.RecordBatch]:
    """Give the rows in order: names as text, values as numbers, null where empty.

    The columns have our names for them.  What is wrong with a file may show only at its end, after
    rows were given.
    """
    none = True
    for batch in _batches(text, file, COLUMNS):
        none = False
        yield batch
    if none:
        raise ArchiveError(file, "has a header but no rows")


def prices_of(text: bytes, file: str) -> Any:
    """Return the spot price of each row in USD per hour, NaN if missing; none if none is told."""
    batches = _batches(text, file, {}, optional=PRICED)
    prices = [batch[PRICE].to_numpy(zero_copy_only=False) for batch in batches]
    return np.concatenate([np.empty(0), *prices])


def _batches(
    text: bytes, file: str, wanted: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Give these columns of the rows, some thousand at a time; nothing if none of them is there."""
    end_of_header = text.find(b"\n") + 1 or len(text)
    first_line = text[:end_of_header].decode("utf-8-sig", errors="replace")
    try:
        header = next(csv.reader([first_line]), [])
    except csv.Error as error:
        raise ArchiveError(file, f"begins with a line that is no csv ({error})") from error
    if not header:
        raise ArchiveError(file, "is empty")
    if columns := columns_in(header, file, wanted, optional=optional):
        for piece in _pieces(text, end_of_header, file):
            yield from _rows(piece, file, header, columns)


def _pieces(text: bytes, start: int, file: str) -> Iterator[memoryview]:
    """Cut some thousand whole lines off at a time; the last one may lack its end."""
    quoted = b'"' in text
    while start < len(text):
        end = text.rfind(b"\n", start, start + _PIECE_BYTES) + 1 or len(text)
        if quoted and text.count(b'"', start, end) % 2:  # pyarrow would read on to the end
            raise ArchiveError(file, "holds lines that are no csv (a quote that never ends)")
        yield memoryview(text)[start:end]
        start = end


def _rows(
    piece: memoryview, file: str, header: list[str], columns: Mapping[str, str]
) -> list[pa.RecordBatch]:
    """Read only these columns, our name -> the header's."""
    kinds = {
        theirs: pa.string() if ours in POOL else pa.float64() for ours, theirs in columns.items()
    }
    refused: list[Any] = []  # the row that ended the reading, for it has more cells or less

    def refuse(row: Any) -> str:
        refused.append(row)
        return "error"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(piece),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(piece) + 1, column_names=header
            ),
            parse_options=arrow_csv.ParseOptions(invalid_row_handler=refuse),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(kinds), column_types=kinds, null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        reason = _reason(str(error), bytes(piece), header, refused)
        raise ArchiveError(file, reason) from error
    rows: list[pa.RecordBatch] = table.rename_columns(list(columns)).to_batches()
    return rows


def _reason(error: str, piece: bytes, header: Sequence[str], refused: Sequence[Any]) -> str:
    """Say in one sentence, in the words of the file, what pyarrow says of rows and cells."""
    if refused:
        row = refused[0]
        if row.actual_columns < row.expected_columns and piece.endswith(row.text.encode()):
            return "ends in the middle of a line"
        line = row.text.partition("\n")[0]
        return f"has {row.actual_columns} cells, not {row.expected_columns}, in line {line}"
    if match := _NOT_A_NUMBER.search(error):
        return f"holds the text {match[2]!r} in column {header[int(match[1])]}"
    if "invalid UTF8" in error:
        return "holds a name that is no text"
    first_line = error.partition("\n")[0]
    return f"holds lines that are no csv ({first_line})"

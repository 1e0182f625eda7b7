"""The wanted columns of one csv snapshot, read by pyarrow some thousand rows at a time.

Owns unpacking, cutting a file into pieces, and the sentence for a csv that cannot be trusted.  A
file is read in pieces so that its table is never held whole.  Knows no pool, day or archive.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import pyarrow as pa  # type: ignore[import-untyped]
from isal import isal_zlib
from pyarrow import csv as arrow_csv

from spotlib.select.archive.schema import (
    COLUMNS,
    LAST,
    POOL,
    TIMED,
    ArchiveError,
    OtherFormError,
    columns_in,
    require_no_other_content,
)

LARGEST_BYTES: Final = 1 << 26  # of a snapshot's text; real ones have some 3 million
_PIECE_BYTES = 1 << 19  # some 7,000 rows: more would take memory, fewer would take time
_GZIP = b"\x1f\x8b"
_GZIP_WBITS = 31  # of zlib: gzip with its header and checksum
# What unpacking raises; the library's stubs declare its exception class as an instance.
_TEXTS: Final = (*POOL, *TIMED.values())
_DAMAGED: Final = (OSError, EOFError, cast("type[Exception]", isal_zlib.error))
_OTHER_LENGTH = re.compile(r"Expected (\d+) columns, got (\d+): ([^\n]*)")
_NOT_A_NUMBER = re.compile(r"column #(\d+): .*invalid value '(.*)'")


def unpacked(data: bytes, file: str) -> bytes:
    """Return the text of a file, gzipped or not, with no regard to its name."""
    if not data.startswith(_GZIP):
        return data
    try:
        text = _decompressed(data)
    except _DAMAGED as error:
        raise ArchiveError(file, f"is not a whole gzip file ({error})") from error
    if len(text) > LARGEST_BYTES:
        largest = f"more than {LARGEST_BYTES >> 20} MB, and a snapshot has about 3"
        raise OtherFormError(file, f"unpacks to {largest}")
    return text


def _decompressed(data: bytes) -> bytes:
    """Unpack at most one byte more than a snapshot may have, whatever the file claims."""
    claimed = max(int.from_bytes(data[-4:], "little"), 1)  # where true, no buffer has to grow
    parts: list[bytes] = []
    room = LARGEST_BYTES + 1
    while data.startswith(_GZIP) and room:
        member = isal_zlib.decompressobj(wbits=_GZIP_WBITS)
        parts.append(member.decompress(data, min(claimed, room)))
        room -= len(parts[-1])
        if room and not member.eof:
            parts.append(member.decompress(member.unconsumed_tail, room))
            room -= len(parts[-1])
        if room and not member.eof:
            raise EOFError("it ends too early")
        data = member.unused_data
    if room and data.strip(b"\0"):  # zeros are padding
        raise EOFError("something else follows its end")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def batches_of(text: bytes, file: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows in order, under our column names: names as text, numbers, null where empty.

    The time, ``at``, is text too, and left out if the file has none.  An error may show only at the
    end of a file, after some rows were yielded.
    """
    has_rows = False
    for batch in _batches(text, file, COLUMNS, optional=TIMED):
        has_rows = True
        yield batch
    if not has_rows:
        raise ArchiveError(file, "has a header but no rows")


def last_of(text: bytes, file: str) -> dict[str, pa.ChunkedArray]:
    """Return of each row what only the day's last snapshot is asked for, and its SPS.

    A column that the file does not have is left out.
    """
    table = pa.Table.from_batches(_batches(text, file, {}, optional={**LAST, "sps": "sps"}))
    return {name: table.column(name) for name in table.column_names}


def _batches(
    text: bytes, file: str, wanted: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield these columns, some thousand rows at a time; nothing if the file has none of them."""
    require_no_other_content(text, file)
    end_of_header = text.find(b"\n") + 1 or len(text)
    first_line = text[:end_of_header].decode("utf-8-sig", errors="replace")
    try:
        header = next(csv.reader([first_line]), [])
    except csv.Error as error:
        raise ArchiveError(file, f"begins with a line that is not csv ({error})") from error
    if not header:
        raise ArchiveError(file, "is empty")
    if columns := columns_in(header, file, wanted, optional=optional):
        for piece in _pieces(text, end_of_header, file):
            yield from _rows(piece, file, header, columns)


def _pieces(text: bytes, start: int, file: str) -> Iterator[memoryview]:
    """Yield some thousand whole lines at a time; the last line of a file may lack its end."""
    quoted = b'"' in text
    while start < len(text):
        end = text.rfind(b"\n", start, start + _PIECE_BYTES) + 1 or len(text)
        if quoted and text.count(b'"', start, end) % 2:  # pyarrow would read to the end
            raise ArchiveError(file, "holds lines that are not csv (a quote that never ends)")
        yield memoryview(text)[start:end]
        start = end


def _rows(
    piece: memoryview, file: str, header: list[str], columns: Mapping[str, str]
) -> list[pa.RecordBatch]:
    """Read only these columns: our name -> the header's."""
    kinds = {
        theirs: pa.string() if ours in _TEXTS else pa.float64() for ours, theirs in columns.items()
    }
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(piece),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(piece) + 1, column_names=header
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(kinds), column_types=kinds, null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        reason = _reason(str(error), bytes(piece), header)
        raise ArchiveError(file, reason) from error
    rows: list[pa.RecordBatch] = table.rename_columns(list(columns)).to_batches()
    return rows


def _reason(error: str, piece: bytes, header: Sequence[str]) -> str:
    """Turn what pyarrow reports into one sentence that quotes the file."""
    if match := _OTHER_LENGTH.search(error):
        expected, found, line = match.groups()
        last = piece.rpartition(b"\n")[2].decode(errors="replace")  # empty if its end is there
        if int(found) < int(expected) and last and last.startswith(line.removesuffix(" ...")):
            return "ends in the middle of a line"
        return f"has {found} cells, not {expected}, in line {line}"
    if match := _NOT_A_NUMBER.search(error):
        return f"holds the text {match[2]!r} in column {header[int(match[1])]}"
    if "invalid UTF8" in error:
        return "holds a name that is not text"
    first_line = error.partition("\n")[0]
    return f"holds lines that are not csv ({first_line})"

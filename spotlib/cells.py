"""The wanted cells of one csv snapshot, without a table of all the others.

Owns the text: unpacking it, finding columns by the header's names, cutting lines into cells and
verifying every value.  A block of lines becomes two arrays: the names of each row side by side in
fixed width, and one byte for its two values.  So a snapshot needs the memory of a block, and no
object for each cell.  Knows of no pool, day or archive, see ``snapshots``.
"""

import csv
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Final

import numpy as np

from spotlib.archive import ArchiveError

POOL: Final = ("region", "instance_type", "availability_zone_id")
PRICE: Final = "price_usd_per_hour"
# Header names in lower case, for the case of `Time` and others changed between eras.
NAMED: Final = {"region": POOL[0], "instancetype": POOL[1], "az": POOL[2]}
COLUMNS: Final = {**NAMED, "sps": "sps", "if": "if_score"}
PRICED: Final = {"spotprice": PRICE}
_SPELLING = {
    "instancetype": "InstanceType",
    "region": "Region",
    "az": "AZ",
    "sps": "SPS",
    "if": "IF",
    "time": "Time",
}

# The names of a row in 72 bytes, filled up with zeros; the longest known are of 20, 14 and 18.
_NAME_BYTES = 24
_KEY_BYTES = _NAME_BYTES * len(POOL)
_WORD = 8  # bytes that numpy compares at once

# A row's code is 1 + 7 x SPS + IF in halves, where 0 stands for a missing SPS or IF.
# So 1 is "listed, nothing known", 77 is SPS 10 and IF 3.0, and code 0 is "not listed".
HALVES: Final = 7
NOTHING_KNOWN: Final = 1

_BLOCK_BYTES = 1 << 17  # a block and all made of it fit into a processor's cache
_PACKED_BYTES = 1 << 15  # of gzip for about a block: snapshots shrink to a seventh
_NO_TEXT = 2**64 - 1  # a word above all others

Codes = np.ndarray[Any, np.dtype[np.uint8]]
Prices = np.ndarray[Any, np.dtype[np.float64]]
Words = np.ndarray[Any, np.dtype[np.uint64]]
_Places = np.ndarray[Any, np.dtype[np.int64]]

# Row n keeps the first n bytes and blanks the rest.
_KEPT: Final[Words] = (
    np.where(np.arange(_KEY_BYTES) < np.arange(_KEY_BYTES + 1)[:, None], 255, 0)
    .astype(np.uint8)
    .view(np.uint64)
)


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

    def unit_of(self, value: float, file: str) -> int:
        """Return whole units, 0 for missing; anything else is refused."""
        units = value * self.per_one
        if self.low <= units <= self.high and units == int(units):
            return int(units)
        if value == -1 or value != value:  # noqa: PLR0124 - which only NaN is
            return 0
        raise ArchiveError(file, self.refusal(value))


SCALES: Final = {
    "sps": Scale("SPS", 1, 1, 10, "a whole number from 1 to 10"),
    "if_score": Scale("IF", 2, 2, 6, "1.0, 1.5, 2.0, 2.5 or 3.0"),
}


def rows_of(data: bytes, file: str) -> Iterator["Block"]:
    """Give the rows of a csv, gzipped or not, some thousand at a time."""
    return _blocks(data, file, COLUMNS)


def prices_of(data: bytes, file: str) -> Prices:
    """Return the spot price of each row in USD per hour, NaN if missing; none if none is told."""
    blocks = _blocks(data, file, NAMED, optional=PRICED)
    return np.concatenate([block.prices() for block in blocks])


def columns_in(
    header: Sequence[str],
    file: str,
    wanted: Mapping[str, str],
    *,
    optional: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Return our name -> place in the header, matched without regard to case."""
    ours = {**wanted, **(optional or {})}
    lower = [column.lower() for column in header]
    found = {ours[column]: place for place, column in enumerate(lower) if column in ours}
    lacking = [column for column, name_here in wanted.items() if name_here not in found]
    if lacking:
        asked = " and ".join(_SPELLING[column] for column in lacking)
        raise ArchiveError(file, f"has no column {asked}, only {', '.join(header)}")
    return found


_Span = tuple[str, ...]  # columns that stand side by side: one look at the text reads them all


@dataclass(frozen=True)
class _Layout:
    """Where a file has what, and which of its texts were verified already."""

    file: str
    header: list[str]
    columns: dict[str, int]
    names: tuple[_Span, ...]
    values: tuple[_Span, ...]
    read: dict[_Span, tuple[Words, Codes]]  # texts as words, in order, and their codes

    def number(self, text: str, column: str) -> float:
        try:
            return float(text or "nan")
        except ValueError:
            raise self.refusal(text, column) from None

    def refusal(self, text: str, column: str) -> ArchiveError:
        theirs = self.header[self.columns[column]]
        return ArchiveError(self.file, f"holds the text {text!r} in column {theirs}")


@dataclass(frozen=True)
class Block:
    """Some whole lines, and where in them each cell ends."""

    layout: _Layout
    text: bytes  # with zeros after it, so that a cell may be read beyond its end
    ends: _Places  # row x column

    @property
    def order(self) -> tuple[_Span, ...]:
        """Return the order of the columns in ``keys``."""
        return self.layout.names

    def keys(self) -> Words:
        """Return for each row nine words that differ where its names do; ``names`` tells them."""
        parts = []
        for span in self.layout.names:
            starts, lengths = self._bounds(span)
            if lengths.max() > _NAME_BYTES * len(span):
                raise self.layout.refusal(self._cells(int(lengths.argmax()), span), span[0])
            parts.append(self._words(starts, lengths, _NAME_BYTES * len(span)))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def names(self) -> list[bytes]:
        """Return region, type and zone of each row, with commas between."""
        cells: dict[str, Sequence[bytes]] = {}
        for span in self.layout.names:
            starts, lengths = self._bounds(span)
            bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
            parts = (self.text[start:end].split(b",") for start, end in bounds)
            cells |= zip(span, zip(*parts, strict=True), strict=True)
        rows = zip(*(cells[column] for column in POOL), strict=True)
        names = [b",".join(row).replace(b"\r", b"") for row in rows]
        try:
            b"".join(names).decode()
        except UnicodeDecodeError as error:
            raise ArchiveError(
                self.layout.file, f"holds a name that is no text ({error})"
            ) from error
        return names

    def codes(self) -> Codes:
        """Return one byte for the two values of each row, verified."""
        codes = np.ones(len(self.ends), np.uint8)
        for span in self.layout.values:
            codes += self._codes(span)
        return codes

    def _codes(self, span: _Span) -> Codes:
        """Return what a span adds to the codes; each text that occurs is read once a file."""
        starts, lengths = self._bounds(span)
        if lengths.max() > _WORD:  # 2.50000000
            return np.array([self._code(row, span) for row in range(len(starts))], np.uint8)
        words = self._words(starts, lengths, _WORD)[:, 0]
        known, codes = self.layout.read[span]
        place = known.searchsorted(words)
        if not np.array_equal(known[place], words):
            known, codes = self._read(span, words)
            place = known.searchsorted(words)
        return codes[place]

    def _read(self, span: _Span, words: Words) -> tuple[Words, Codes]:
        """Read each different text, and add them to those that the file showed before."""
        new, rows = np.unique(words, return_index=True)
        codes = np.array([self._code(row, span) for row in rows], np.uint8)
        known, known_codes = self.layout.read[span]
        joined, first = np.unique(np.concatenate([known, new]), return_index=True)
        self.layout.read[span] = joined, np.concatenate([known_codes, codes])[first]
        return self.layout.read[span]

    def _code(self, row: int, span: _Span) -> int:
        code = 0
        for column, text in zip(span, self._cells(row, span).split(","), strict=True):
            unit = SCALES[column].unit_of(self.layout.number(text, column), self.layout.file)
            code += unit * (HALVES if column == "sps" else 1)
        return code

    def prices(self) -> Prices:
        if PRICE not in self.layout.columns:
            return np.empty(0)
        starts, lengths = self._bounds((PRICE,))
        bounds = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        texts = (self.text[start:end].decode("utf-8", "replace") for start, end in bounds)
        return np.array([self.layout.number(text, PRICE) for text in texts])

    def _bounds(self, span: _Span) -> tuple[_Places, _Places]:
        """Return where the first cell of a span starts in each row, and how long all are."""
        first, last = self.layout.columns[span[0]], self.layout.columns[span[-1]]
        if first:
            starts = self.ends[:, first - 1] + 1
        else:
            starts = np.concatenate(([0], self.ends[:-1, -1] + 1))
        return starts, self.ends[:, last] - starts

    def _words(self, starts: _Places, lengths: _Places, width: int) -> Words:
        """Return the text from each start on in words, blank after its length."""
        every = np.ndarray(  # at each byte of the text what follows there
            len(self.text) - width + 1, f"V{width}", buffer=self.text, strides=(1,)
        )
        words = every[starts].view(np.uint64).reshape(len(starts), -1)
        words &= _KEPT[:, : width // _WORD].take(lengths, axis=0)
        return words

    def _cells(self, row: int, span: _Span) -> str:
        starts, lengths = self._bounds(span)
        return self.text[starts[row] : starts[row] + lengths[row]].decode("utf-8", "replace")


def _blocks(
    data: bytes, file: str, wanted: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> Iterator[Block]:
    pieces = _unpacked(data, file) if data.startswith(b"\x1f\x8b") else _sliced(data)
    layout = None
    rows = 0
    for lines in _whole_lines(pieces):
        if layout is None:
            first, _, lines = lines.partition(b"\n")  # noqa: PLW2901 - the rest of them
            header = _header(first, file)
            columns = columns_in(header, file, wanted, optional=optional)
            names, values = _spans(columns, POOL), _spans(columns, tuple(SCALES))
            nothing = np.array([_NO_TEXT], np.uint64), np.zeros(1, np.uint8)
            layout = _Layout(file, header, columns, names, values, dict.fromkeys(values, nothing))
        text, ends = _cut(lines, len(layout.header), file)
        rows += len(ends)
        if len(ends):  # there may be only a header, or blank lines
            yield Block(layout, text, ends)
    if not rows:
        raise ArchiveError(file, "has a header but no rows" if layout else "is empty")


def _spans(columns: dict[str, int], wanted: Sequence[str]) -> tuple[_Span, ...]:
    spans: list[list[str]] = []
    for column in sorted(columns.keys() & wanted, key=columns.__getitem__):
        if spans and columns[spans[-1][-1]] + 1 == columns[column]:
            spans[-1].append(column)
        else:
            spans.append([column])
    return tuple(map(tuple, spans))


def _sliced(data: bytes) -> Iterator[bytes]:
    return (data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES))


def _unpacked(data: bytes, file: str) -> Iterator[bytes]:
    """Unpack gzip piece by piece; its checksum is verified at its end."""
    unpack = zlib.decompressobj(wbits=31)
    for at in range(0, len(data), _PACKED_BYTES):
        packed = data[at : at + _PACKED_BYTES]
        while packed:
            if unpack.eof:  # another gzip may follow
                unpack = zlib.decompressobj(wbits=31)
            try:
                yield unpack.decompress(packed)
            except zlib.error as error:
                raise ArchiveError(file, f"is not a whole gzip file ({error})") from error
            packed = unpack.unused_data
    if not unpack.eof:
        raise ArchiveError(file, "is not a whole gzip file (unexpected end of file)")


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Cut pieces anew, after the ends of lines; only the last may lack one."""
    rest = b""
    for piece in pieces:
        end = piece.rfind(b"\n") + 1
        if end:
            yield b"".join((rest, memoryview(piece)[:end]))
            rest = piece[end:]
        else:
            rest += piece
    if rest:
        yield rest


def _header(line: bytes, file: str) -> list[str]:
    header = line.decode("utf-8-sig", "replace").strip().split(",")
    if header == [""]:
        raise ArchiveError(file, "is empty")
    return [column.strip('"') for column in header]


def _cut(lines: bytes, columns: int, file: str) -> tuple[bytes, _Places]:
    """Return the lines as cells of plain text, and where each ends."""
    if lines and b'"' not in lines:
        ends = _ends(text := lines + bytes(_KEY_BYTES), columns)
        if ends is not None:
            return text, ends
    text = _rewritten(lines, columns, file) + bytes(_KEY_BYTES)
    ends = _ends(text, columns)
    return text, np.empty((0, columns), np.int64) if ends is None else ends


def _ends(text: bytes, columns: int) -> _Places | None:
    """Return the ends of all cells, row by row, or None if rows differ in their number."""
    letters = np.frombuffer(text, np.uint8)
    newlines = letters == ord("\n")
    ends = np.flatnonzero(newlines | (letters == ord(",")))
    rows = int(np.count_nonzero(newlines))
    if not rows or len(ends) != rows * columns or letters[-1 - _KEY_BYTES] != ord("\n"):
        return None
    table: _Places = ends.reshape(rows, columns)
    return table if newlines[table[:, -1]].all() else None


def _rewritten(lines: bytes, columns: int, file: str) -> bytes:
    """Return plain lines for those with quotes, carriage returns, or nothing in them."""
    if (
        lines
        and not lines.endswith(b"\n")
        and lines[lines.rfind(b"\n") + 1 :].count(b",") + 1 < columns
    ):
        raise ArchiveError(file, "ends in the middle of a line")
    plain = []
    try:
        for cells in csv.reader(StringIO(lines.decode(), newline=""), strict=True):
            if cells and len(cells) != columns:
                line = ",".join(cells)
                raise ArchiveError(file, f"has {len(cells)} cells, not {columns}, in line {line}")
            if cells:
                plain.append(",".join(cell.replace(",", " ") for cell in cells))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ArchiveError(file, f"holds lines that are no csv ({error})") from error
    return "".join(f"{line}\n" for line in plain).encode()

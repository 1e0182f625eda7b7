"""The lines of a csv snapshot, and where the snapshot before has the same ones.

Ten minutes later nearly every line is the same but for its time, and comparing bytes takes a
fraction of the time of reading csv.  Equal lines are equal in every byte: nothing is guessed.
Knows two things of csv: when each line is one row, and where in a line the cell ``Time`` is.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

_AT_ONCE = 1 << 12  # lines that are compared with as many successive ones
_FAR = 1 << 9  # lines among which the place of one is looked for, on both sides of where it was
_TRIES, _LINES_PER_TRY = 32, 1 << 7  # series that are worth comparing, and one more per so many
_CLOSE = 8  # where more lines of another length are in twice as many, rows are others
_LARGEST_BYTES = 1 << 23  # real texts have some 3 million; a larger one is read as csv
_NEWLINE = ord("\n")

Integers = np.ndarray[Any, np.dtype[Any]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Lines:
    """A csv text with one row in each line below its header."""

    text: bytes
    starts: Integers  # of each line, and the end of the last
    time: bytes  # the cell Time of the first line, empty without such a column
    is_time_last: bool  # in each line, else first

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def header(self) -> bytes:
        return self.text[: self.starts[0]]

    def only(self, wanted: Booleans) -> bytes:
        """Return the header and these lines."""
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
        spans = self.starts[edges].reshape(-1, 2).tolist()
        return b"".join([self.header, *(self.text[first:end] for first, end in spans)])


def lines_of(text: bytes) -> Lines | None:
    """Return the lines of a text; None if a row may not be a line, or Time is in the middle."""
    if len(text) > _LARGEST_BYTES or b'"' in text or b"\r" in text or not text.endswith(b"\n"):
        return None
    starts = np.flatnonzero(np.frombuffer(text, np.uint8) == _NEWLINE) + 1
    if len(starts) < 2 or np.diff(starts).min() == 1:  # nothing below the header, or an empty line
        return None
    header, line = text[: starts[0]].lower(), text[starts[0] : starts[1] - 1]
    if is_time_last := header.endswith(b",time\n"):
        time = line.rpartition(b",")[2]
    elif header.startswith(b"time,"):
        time = line.partition(b",")[0]
    elif b"time" in header:
        return None
    else:
        time = b""
    return Lines(text, starts, time, is_time_last)


def places_of(lines: Lines, before: Lines) -> Integers:
    """Return for each line the place of the line of ``before`` that differs in its time alone.

    It is -1 where there is none.  All lines of ``before`` must have its time; those that are found
    have the time of ``lines``.
    """
    places = np.full(len(lines), -1)
    if lines.header != before.header or len(lines.time) != len(before.time):
        return places
    first = place = tries = 0
    while first < len(lines) and tries < _TRIES + first // _LINES_PER_TRY:
        starts = lines.starts[first : first + _AT_ONCE + 1]
        place = _place_of(lines.text[starts[0] : starts[1]], lines, before, expected=place)
        same = _same(lines, starts, before, before.starts[place : place + len(starts)])
        places[first + same] = place + same
        # After an added or missing line none is the same: then the next one is looked for.
        step = int(same[-1]) + 1 if len(same) else 1
        first, place, tries = first + step, place + step, tries + 1
    return places


def _place_of(line: bytes, lines: Lines, before: Lines, *, expected: int) -> int:
    """Return where ``before`` has the line with its own time; what is expected, if nowhere."""
    expected = min(expected, len(before))
    length = len(before.time)
    if lines.is_time_last:
        wanted = line[: -1 - length] + before.time + b"\n"
    else:
        wanted = before.time + line[length:]
    if before.text.startswith(wanted, int(before.starts[expected])):
        return expected
    nearby = (
        before.starts[max(expected - _FAR, 0)] - 1,
        before.starts[expected : expected + _FAR][-1],
    )
    found = before.text.find(b"\n" + wanted, *map(int, nearby))
    return expected if found < 0 else int(np.searchsorted(before.starts, found + 1))


def _same(lines: Lines, starts: Integers, before: Lines, their_starts: Integers) -> Integers:
    """Return which lines of two series are the same, up to where their rows are others."""
    count = min(len(starts), len(their_starts)) - 1
    other_length = np.flatnonzero(np.diff(starts[: count + 1] - their_starts[: count + 1]))
    is_close = other_length[_CLOSE:] - other_length[:-_CLOSE] < 2 * _CLOSE
    if is_close.any():
        count, other_length = other_length[is_close.argmax()], other_length[: is_close.argmax()]
    starts, their_starts = starts[: count + 1], their_starts[: count + 1]
    # Their text, with zeros in place of each line of another length: then the bytes correspond.
    first, end = np.append(0, other_length + 1), np.append(other_length, count)
    spans = zip(their_starts[first].tolist(), their_starts[end].tolist(), strict=True)
    gaps = np.append(np.diff(starts)[other_length], 0).tolist()
    parts = ((before.text[a:b], bytes(gap)) for (a, b), gap in zip(spans, gaps, strict=True))
    theirs = np.frombuffer(bytearray().join(chain.from_iterable(parts)), np.uint8)
    # With the new time: in ten minutes mostly one digit of it changes, so few bytes are written.
    cells = starts[1:] - 1 - len(lines.time) if lines.is_time_last else starts[:-1]
    cells = np.delete(cells, other_length) - starts[0]
    for place, (old, new) in enumerate(zip(before.time, lines.time, strict=True)):
        if old != new:
            theirs[cells + place] = new
    ours = np.frombuffer(lines.text, np.uint8)[starts[0] : starts[-1]]
    differs = np.searchsorted(starts, np.flatnonzero(ours != theirs) + starts[0], side="right") - 1
    is_same = np.ones(count, np.bool_)
    is_same[differs] = False
    return np.flatnonzero(is_same)

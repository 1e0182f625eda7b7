"""One day of snapshots as exact counts.

Owns the reading of a day, from csv snapshots or one Parquet file, into its matrix::

    snapshots --read--> matrix of the day --> counts of the day

Of a csv only the lines that the snapshot before does not have are read; the rows of the others are
known.  Columns are found by the header's names, never by the date, because SpotLake rewrote old
months.  Missing (``-1`` or an empty cell) stays missing; a pool that one snapshot shows with two
different values is unknown there.  Of several files of the same ten minutes the first that can be
read counts, and a Parquet file of the whole day comes before them.  A day knows no other day, and
no statistic is taken.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.select.archive.csv_rows import batches_of, last_of, unpacked
from spotlib.select.archive.files import File, opened
from spotlib.select.archive.lines import Lines, lines_of, places_of
from spotlib.select.archive.matrix import (
    Booleans,
    Codes,
    Integers,
    Matrix,
    Numbers,
    Pools,
    as_type,
    codes_of,
    counts_of,
    floats,
    require_finite,
)
from spotlib.select.archive.schema import (
    COLUMNS,
    DAY_S,
    LAST,
    POOL,
    PRICE,
    SLOT_S,
    SNAPSHOTS_PER_DAY,
    TIMED,
    ArchiveError,
    OtherFormError,
    columns_in,
    require_no_other_content,
)

_ROWS_AT_ONCE = 1 << 16  # of a Parquet day: twice that no longer fits the processor's cache
_POOLS = 1 << 18  # the most that a Parquet day may have; there are some 30,000
_LARGEST_BYTES = 1 << 30  # that the columns of a Parquet day may unpack to; real ones have 0.1 GB
_REMOTE_READERS = 8
_MICROSECONDS = 1_000_000

_Read = Callable[[File], bytes]
_Ahead = tuple[Sequence[File], Future[bytes]]


@dataclass(frozen=True)
class Day:
    """The counts of one day, and its facts as plain numbers and texts that survive JSON.

    ``facts["left_out"]`` has for each file that was not read its number among the day's files, the
    reason, and the number of the file the reason ends with, or -1.
    """

    day: date
    table: pa.Table
    facts: dict[str, Any]
    is_whole: bool  # no snapshot is lacking because its file is bad


def count_day(files: Sequence[File], *, skip_bad_files: bool = False) -> Day:
    """Count the snapshots of one day; a pure job for any process or machine."""
    account = _Account(files, skip_bad_files)
    with opened() as read:
        matrix = _fill(account, read)
    facts = {
        "times": [at.isoformat() for at in matrix.snapshots],
        "snapshots": len(matrix.snapshots),
        "pools": int(np.count_nonzero(matrix.codes.any(axis=1))),
        "rows": matrix.rows,
        "repeated_rows": matrix.rows - int(np.count_nonzero(matrix.codes)),
        "contradictions": matrix.contradictions,
        "nameless_rows": matrix.nameless_rows,
        "left_out": account.left_out,
    }
    return Day(files[0].day, counts_of(matrix, files[0].day), facts, account.is_whole)


class _Account:
    """Which files of a day were read, and why others were not."""

    def __init__(self, files: Sequence[File], skip_bad_files: bool) -> None:
        self.files = files
        self.skip_bad_files = skip_bad_files
        self.left_out: list[tuple[int, str, int]] = []
        self.is_whole = True
        self._number = {id(file): number for number, file in enumerate(files)}

    def leave_out(self, file: File, reason: str, other: File | None = None) -> None:
        """Note a file that was not read, with the one that its reason ends with."""
        number = -1 if other is None else self._number[id(other)]
        self.left_out.append((self._number[id(file)], reason, number))

    def choose(
        self,
        copies: Sequence[File],
        read: Callable[[File], None],
        same: str = "not read: of the same ten minutes as",
    ) -> File | None:
        """Read the first of these files that can be read; without any, refuse or leave all out.

        Each copy has the same snapshots, so a bad one takes nothing away from a good one.
        """
        bad: list[tuple[File, ArchiveError]] = []
        for file in copies:
            try:
                read(file)
            except ArchiveError as error:
                bad.append((file, error))
                continue
            for other, reason in bad:
                self.leave_out(other, f"{reason.reason}; read instead:", file)
            for other in copies[len(bad) + 1 :]:
                self.leave_out(other, same, file)
            return file
        for file, reason in bad:
            self.refuse(file, reason)
        return None

    def refuse(self, file: File, error: ArchiveError) -> None:
        """Leave out a bad file that nothing replaces, or raise and say how to go on."""
        if not self.skip_bad_files:
            raise error.advised() from error
        self.is_whole = False
        self.leave_out(file, error.reason)


def _fill(account: _Account, read: _Read) -> Matrix:
    """Read a day: its Parquet file, and the snapshots that this does not have."""
    days = [file for file in account.files if file.is_parquet]
    matrices: list[Matrix] = []
    whole = account.choose(
        days,
        lambda file: matrices.append(_matrix_of_parquet(file, read(file), account)),
        "not read: of the same day as",
    )
    matrix = matrices[-1] if matrices else Matrix()
    slots: dict[int, list[File]] = {}
    for file in account.files[len(days) :]:
        if whole and matrix.times[file.slot]:
            account.leave_out(file, "the same snapshot is in", whole)
        else:
            slots.setdefault(file.slot, []).append(file)
    if slots:
        _fill_from_csv(matrix, list(slots.values()), account, read)
    return matrix


@dataclass(frozen=True)
class _Listing:
    """The rows of one file, in order."""

    lines: Lines | None  # None where a row may not be a line, or has a time of its own
    pools: Numbers
    codes: Codes


def _fill_from_csv(
    matrix: Matrix, slots: Sequence[Sequence[File]], account: _Account, read: _Read
) -> None:
    """Add snapshots, each from the first of its copies that can be read."""
    # This lasts for the process.  pyarrow's own allocator takes 8 MB more and returns none of it.
    pa.set_memory_pool(pa.system_memory_pool())
    listing: _Listing | None = None
    last: File | None = None

    def add(first: File, ahead: Future[bytes], file: File) -> None:
        nonlocal listing
        text = unpacked(ahead.result() if file is first else read(file), file.name)
        listing = _listed(text, listing, matrix.pools, file)
        matrix.add(file.slot, listing.pools, listing.codes)
        matrix.times[file.slot] = file.at

    for copies, ahead in _ahead(read, slots):
        last = account.choose(copies, partial(add, copies[0], ahead)) or last
    if last and listing and not any(matrix.times[last.slot + 1 :]):
        # Of prices and T3 the day's last suffice; they are read from one file.
        try:
            matrix.last.clear()
            columns = last_of(unpacked(read(last), last.name), last.name)
            matrix.keep_last(listing.pools, columns, last.name)
        except ArchiveError as error:
            reason = f"its prices and T3 are not used: {error.reason}"
            account.refuse(last, ArchiveError(last.name, reason))
    pa.system_memory_pool().release_unused()


def _listed(text: bytes, before: _Listing | None, known: Pools, file: File) -> _Listing:
    """Return the rows of a file; only lines that the file before does not have are read as csv."""
    lines = lines_of(text)
    times = {lines.time.decode(errors="replace")} if lines else set()
    if lines and before and before.lines:
        places = places_of(lines, before.lines)
        pools, codes, found = before.pools[places], before.codes[places], times
        is_new = places < 0
        if is_new.any():
            pools[is_new], codes[is_new], others = _read_csv(lines.only(is_new), known, file)
            found = times | others
    else:
        pools, codes, found = _read_csv(text, known, file)
    _require_one_moment(found, file)
    return _Listing(lines if found <= times else None, pools, codes)


def _read_csv(text: bytes, known: Pools, file: File) -> tuple[Numbers, Codes, set[str]]:
    """Return the pool and code of each row, and their different times."""
    pools, codes = [], []
    times: set[str] = set()
    for batch in batches_of(text, file.name):
        if "at" in batch.schema.names:
            times |= _times_in(batch["at"])
        encoded = [batch[name].dictionary_encode() for name in POOL]
        pools.append(known.numbers(encoded, file.name))
        codes.append(codes_of(batch, file.name))
    return np.concatenate(pools), np.concatenate(codes), times


def _times_in(at: pa.StringArray) -> set[str]:
    if at.slice(1).equals(at.slice(0, len(at) - 1)):
        at = at.slice(0, 1)
    return {text or "" for text in at.to_pylist()}  # unique() would load much of pyarrow


def _require_one_moment(times: Iterable[str], file: File) -> None:
    """Refuse another time than the path's, and times of several ten minutes.

    Some eras wrote the time at which the collector ended, a little after that of the path.
    """
    slots = set()
    for text in filter(None, times):
        try:
            time_of_rows = datetime.fromisoformat(text)
        except ValueError as error:
            raise ArchiveError(file.name, f"holds the text {text!r} in column Time") from error
        if time_of_rows.tzinfo is None:
            time_of_rows = time_of_rows.replace(tzinfo=UTC)
        if abs(time_of_rows - file.taken_at) >= timedelta(seconds=SLOT_S):
            says = f"{file.taken_at:%Y-%m-%d %H:%M:%S}"
            reason = f"holds rows of {text}, but its path says {says}: a file is of one moment"
            raise OtherFormError(file.name, reason)
        slots.add(int(time_of_rows.timestamp()) // SLOT_S)
    if len(slots) > 1:
        reason = "holds rows of several ten minutes, but a file is of one moment"
        raise OtherFormError(file.name, reason)


def _ahead(read: _Read, slots: Sequence[Sequence[File]]) -> Iterator[_Ahead]:
    """Yield the copies of each snapshot with the future of the first one's bytes, read on threads.

    S3 is bound by latency, so several reads are in flight; a disk needs one.  The window is small
    to avoid holding a whole day.
    """
    remote = slots[0][0].name.startswith("s3://")
    threads, most = (_REMOTE_READERS, 2 * _REMOTE_READERS) if remote else (1, 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[_Ahead] = deque()
        try:
            for copies in slots:
                waiting.append((copies, pool.submit(read, copies[0])))
                if len(waiting) > most:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _matrix_of_parquet(file: File, data: bytes, account: _Account) -> Matrix:
    """Return the snapshots of a day's file; of two in the same ten minutes, the first."""
    clock = _Clock(file)
    with _in_one_sentence(file.name):
        matrix = _read_parquet(file, data, clock)
        if clock.is_late:  # an earlier one was found after rows of a later one were counted
            matrix = _read_parquet(file, data, clock)
    if clock.left_out:
        reason = f"{clock.left_out:,} rows are left out: their ten minutes have an earlier snapshot"
        account.leave_out(file, reason)
    return matrix


def _read_parquet(file: File, data: bytes, clock: "_Clock") -> Matrix:
    from pyarrow import parquet  # noqa: PLC0415 - large, and csv does not need it

    require_no_other_content(data, file.name)
    found = parquet.ParquetFile(pa.BufferReader(data))
    schema = found.schema_arrow
    theirs = columns_in(schema.names, file.name, {**COLUMNS, **TIMED}, optional=LAST)
    _require_bounded(found.metadata, schema, theirs, file.name)
    source = parquet.ParquetFile(
        pa.BufferReader(data),
        metadata=found.metadata,
        read_dictionary=[theirs[name] for name in POOL],
    )
    pools = min(found.metadata.num_rows // SNAPSHOTS_PER_DAY, _POOLS)
    matrix = Matrix(np.zeros((pools, SNAPSHOTS_PER_DAY), np.uint8))
    clock.left_out = 0
    for batch in source.iter_batches(
        _ROWS_AT_ONCE, columns=list(theirs.values()), use_threads=False
    ):
        slots, kept = clock.slots(batch.column(theirs["at"]))
        rows = batch if kept is None else batch.filter(pa.array(kept))
        slots = slots if kept is None else slots[kept]
        columns = {ours: rows.column(name) for ours, name in theirs.items()}
        numbers = matrix.pools.numbers([columns[name] for name in POOL], file.name)
        matrix.add(slots, numbers, codes_of(columns, file.name))
        clock.keep_last(matrix, slots, numbers, columns)
    if not found.metadata.num_rows:
        raise ArchiveError(file.name, "has columns but no rows")
    matrix.times = [_time(second) if second >= 0 else None for second in clock.taken.tolist()]
    return matrix


def _require_bounded(metadata: Any, schema: pa.Schema, theirs: dict[str, str], file: str) -> None:
    """Refuse what is no table of names, numbers and times, or too large for a day of snapshots."""
    kinds = pa.types
    for ours, name in theirs.items():
        kind = schema.field(name).type
        if ours in POOL:
            kind = kind.value_type if kinds.is_dictionary(kind) else kind
            wanted, fits = "text", kinds.is_string(kind) or kinds.is_large_string(kind)
        elif ours in TIMED.values():
            wanted, fits = "times", kinds.is_timestamp(kind)
        else:
            number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
            wanted, fits = "numbers", number or kinds.is_null(kind)
        if not fits:
            raise ArchiveError(file, f"has {kind} in column {name}, not {wanted}")
    unpacked_bytes = sum(
        metadata.row_group(group).column(column).total_uncompressed_size
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    if metadata.num_rows > _POOLS * SNAPSHOTS_PER_DAY or unpacked_bytes > _LARGEST_BYTES:
        size = f"{metadata.num_rows:,} rows, {unpacked_bytes >> 20:,} MB unpacked"
        raise OtherFormError(file, f"is too large for a day of snapshots ({size})")


class _Clock:
    """When the snapshots of a Parquet day were taken, one for each ten minutes."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._midnight_us = int(np.datetime64(file.day, "us").astype(np.int64))
        self._kept = -1  # the slot of the last values kept
        self._slot_of = np.full(DAY_S, -1, np.int64)  # each second that a snapshot was taken at
        self.taken = np.full(SNAPSHOTS_PER_DAY, -1, np.int64)  # second of the day, -1 if none
        self.is_late = False  # an earlier snapshot was found after a later one of its ten minutes
        self.left_out = 0  # rows of the others

    def slots(self, at: pa.Array) -> tuple[Integers, Booleans | None]:
        """Return the ten minutes of each row, and which rows count; None if all do."""
        micros = as_type(at, pa.timestamp("us")).view(pa.int64())
        micros = micros.fill_null(-1) if micros.null_count else micros
        seconds = (micros.to_numpy() - self._midnight_us) // _MICROSECONDS
        if np.max(seconds.view(np.uint64), initial=0) >= DAY_S:  # a negative one is huge
            reason = f"holds rows of another day than its name says, {self._file.day}"
            raise OtherFormError(self._file.name, reason)
        slots: Integers = self._slot_of[seconds]
        if np.min(slots, initial=0) >= 0:
            return slots, None
        for second in np.unique(seconds[slots < 0]).tolist():
            self._learn(second)
        slots = self._slot_of[seconds]
        kept: Booleans = slots >= 0
        self.left_out += int(np.count_nonzero(~kept))
        return slots, None if kept.all() else kept

    def _learn(self, second: int) -> None:
        slot = second // SLOT_S
        before = int(self.taken[slot])
        if 0 <= before < second:
            return
        if before >= 0:
            self._slot_of[before] = -1
            self.is_late = True
        self.taken[slot] = second
        self._slot_of[second] = slot

    def keep_last(
        self, matrix: Matrix, slots: Integers, pools: Numbers, columns: dict[str, pa.Array]
    ) -> None:
        """Keep in ``matrix`` the prices and T3 of the latest snapshot so far."""
        latest = int(np.flatnonzero(self.taken >= 0)[-1])
        if PRICE in columns:
            require_finite(floats(columns[PRICE]), self._file.name)  # also of earlier snapshots
        if latest > self._kept:
            matrix.last.clear()
            self._kept = latest
        named = {name: columns[name] for name in (*LAST.values(), "sps") if name in columns}
        matrix.keep_last(pools, named, self._file.name, rows=np.flatnonzero(slots == latest))


def _time(second: int) -> time:
    return time(second // 3600, second // 60 % 60, second % 60)


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """Turn what pyarrow raises for a damaged or odd file into one sentence that names it."""
    try:
        yield
    except ArchiveError:
        raise
    except (
        pa.ArrowException,
        LookupError,
        MemoryError,
        OSError,
        OverflowError,
        ValueError,
    ) as error:
        text = str(error).partition("\n")[0]
        raise ArchiveError(name, f"cannot be read as Parquet ({text})") from error

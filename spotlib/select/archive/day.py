"""One day of snapshots as exact counts.

Owns the reading of a day, from csv snapshots or one Parquet file, into its matrix::

    snapshots --read--> matrix of the day --> runs --> counts of the day

Columns are found by the header's names, never by the date: SpotLake rewrote old months.  Missing
(``-1`` or an empty cell) is missing, and so is a pool that one snapshot shows with two different
values.

What a csv says is ``cells``' to read, what a cell of the matrix means ``matrix``'s.  No day knows
of another here, and no statistic is taken.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.select.archive.csv_rows import (
    COLUMNS,
    POOL,
    PRICE,
    PRICED,
    batches_of,
    columns_in,
    prices_of,
    unpacked,
)
from spotlib.select.archive.files import ArchiveError, File, Skipped, opened
from spotlib.select.archive.matrix import (
    Codes,
    Integers,
    Matrix,
    Numbers,
    Pools,
    as_type,
    codes_of,
    counts_of,
)

_ROWS_AT_ONCE = 1 << 16  # of a Parquet day: twice as many no longer fit the processor's cache
_SNAPSHOTS = 144  # of a whole day
_POOLS = 1 << 18  # as many have room in a Parquet day before it is read; there are some 30,000
_REMOTE_READERS = 8
_DAY_S = 24 * 60 * 60
_MICROSECONDS = 1_000_000

_Read = Callable[[File], bytes]
_Ahead = tuple[File, Future[bytes]]


@dataclass(frozen=True)
class Day:
    """The counts of one day, and its facts as plain numbers that survive JSON."""

    day: date
    table: pa.Table
    facts: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()


def count_day(files: Sequence[File], *, skip_bad_files: bool = False) -> Day:
    """Count the snapshots of one day; a pure job that any process or machine can do."""
    skipped: list[Skipped] | None = [] if skip_bad_files else None
    fill = _fill_from_parquet if files[0].is_parquet else _fill_from_csv
    with opened() as read:
        matrix = fill(files, read, skipped)
    facts = {
        "times": [at.isoformat() for at in matrix.times],
        "snapshots": len(matrix.times),
        "pools": int(np.count_nonzero(matrix.codes.any(axis=1))),
        "rows": matrix.rows,
        "repeated_rows": matrix.rows - int(np.count_nonzero(matrix.codes)),
        "contradictions": matrix.contradictions,
        "nameless_rows": matrix.nameless_rows,
    }
    return Day(files[0].day, counts_of(matrix, files[0].day), facts, tuple(skipped or ()))


@dataclass(frozen=True)
class _Listing:
    """The rows of one file, in order; successive snapshots mostly list the same pools."""

    names: pa.RecordBatch
    pools: Numbers

    def after(self, pool: int) -> int:
        """Return the place behind a pool's first one, or the end if it is not here."""
        places = np.flatnonzero(self.pools == pool)
        return int(places[0]) + 1 if len(places) else len(self.pools)


def _fill_from_csv(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> Matrix:
    # For good in this process: pyarrow's own allocator takes 8 MB more, and keeps what it once had.
    pa.set_memory_pool(pa.system_memory_pool())
    matrix = Matrix(np.zeros((0, len(files)), np.uint8))
    listing = None
    last = None
    for file, data in _ahead(read, files):
        with _or_skip(skipped):
            batches = batches_of(unpacked(data.result(), file.name), file.name)
            listing, codes = _compared(batches, listing, matrix.pools, file.name)
            matrix.add(len(matrix.times), listing.pools, codes)
            matrix.times.append(file.at or time.min)
            last = file, listing.pools
    if last:  # prices serve an estimate of cost: the day's last ones are enough, and cost one file
        with _or_skip(skipped):
            file, pools = last
            prices = prices_of(unpacked(read(file), file.name), file.name)
            matrix.keep_prices(pools[: len(prices)], prices)  # there are as many, or none
    pa.system_memory_pool().release_unused()
    return matrix


def _compared(
    batches: Iterable[pa.RecordBatch], before: _Listing | None, known: Pools, file: str
) -> tuple[_Listing, Codes]:
    """Return the rows of a file and their codes.

    A batch is compared with the rows at its place in the file before.  Names are looked up only
    where it differs, and behind a row more or less the comparison finds its place again.
    """
    names, pools, codes = [], [], []
    place, changed = 0, False
    for batch in batches:
        codes.append(codes_of(batch, file))
        names.append(batch.select(POOL))
        if before and before.names.slice(place, len(batch)).equals(names[-1]):
            names[-1] = before.names.slice(place, len(batch))  # the same once, not twice
            pools.append(before.pools[place : place + len(batch)])
            place += len(batch)
        else:
            changed = True
            encoded = [name.dictionary_encode() for name in names[-1].columns]
            pools.append(known.numbers(encoded, file))
            place = before.after(pools[-1][-1]) if before else 0
    if before is None or changed or place < len(before.pools):
        before = _Listing(pa.concat_batches(names), np.concatenate(pools))
    return before, np.concatenate(codes)


def _ahead(read: _Read, files: Sequence[File]) -> Iterator[_Ahead]:
    """Give each file with the future of its bytes, read on threads a few files ahead.

    A bucket is slow to answer, not busy, so that many may wait for it; a disk needs one.  The
    window keeps a whole day from being held at once.
    """
    remote = files[0].name.startswith("s3://")
    threads, most = (_REMOTE_READERS, 2 * _REMOTE_READERS) if remote else (1, 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[_Ahead] = deque()
        try:
            for file in files:
                waiting.append((file, pool.submit(read, file)))
                if len(waiting) > most:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _fill_from_parquet(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> Matrix:
    matrix = Matrix(np.zeros((0, 0), np.uint8))
    with _or_skip(skipped), _in_one_sentence(files[0].name):
        matrix = _matrix_of_parquet(files[0], read(files[0]))
    return matrix


def _matrix_of_parquet(file: File, data: bytes) -> Matrix:
    from pyarrow import parquet  # noqa: PLC0415 - megabytes that csv does not need

    found = parquet.ParquetFile(pa.BufferReader(data))
    header = found.schema_arrow.names
    theirs = columns_in(header, file.name, {**COLUMNS, "time": "at"}, optional=PRICED)
    source = parquet.ParquetFile(
        pa.BufferReader(data),
        metadata=found.metadata,
        read_dictionary=[theirs[name] for name in POOL],
    )
    pools = min(found.metadata.num_rows // _SNAPSHOTS, _POOLS)
    matrix = Matrix(np.zeros((pools, _SNAPSHOTS), np.uint8))
    clock = _Clock(file)
    for batch in source.iter_batches(
        _ROWS_AT_ONCE, columns=list(theirs.values()), use_threads=False
    ):
        columns = {ours: batch.column(name) for ours, name in theirs.items()}
        ticks = clock.ticks(columns["at"])
        numbers = matrix.pools.numbers([columns[name] for name in POOL], file.name)
        matrix.add(ticks, numbers, codes_of(columns, file.name))
        if PRICE in columns:
            clock.keep_last_prices(matrix, ticks, numbers, columns[PRICE])
    order = np.argsort(clock.seconds)
    if (np.diff(order) < 0).any():  # the first pool lacked a snapshot that another one had
        matrix.codes = matrix.codes[:, order]
    matrix.times = [_time(clock.seconds[tick]) for tick in order]
    return matrix


class _Clock:
    """The snapshots of a Parquet day, numbered as they come up."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._midnight_us = int(np.datetime64(file.day, "us").astype(np.int64))
        self._tick = np.full(_DAY_S, -1, np.int64)  # of each second of the day
        self._priced = -1  # the second of the prices kept
        self.seconds: list[int] = []  # of each tick

    def ticks(self, at: pa.Array) -> Integers:
        """Return the number of the snapshot of each row."""
        micros = as_type(at, pa.timestamp("us")).view(pa.int64())
        micros = micros.fill_null(-1) if micros.null_count else micros
        seconds = (micros.to_numpy() - self._midnight_us) // _MICROSECONDS
        if np.max(seconds.view(np.uint64), initial=0) >= _DAY_S:  # as one before it is, too
            reason = f"holds rows of another day than its name says, {self._file.day}"
            raise ArchiveError(self._file.name, reason)
        ticks: Integers = self._tick[seconds]
        if np.min(ticks, initial=0) < 0:
            new = np.unique(seconds[ticks < 0])
            self._tick[new] = len(self.seconds) + np.arange(len(new))
            self.seconds += new.tolist()
            ticks = self._tick[seconds]
        return ticks

    def keep_last_prices(
        self, matrix: Matrix, ticks: Integers, pools: Numbers, prices: pa.Array
    ) -> None:
        """Leave in ``matrix`` the prices of the last snapshot so far."""
        latest = max(self.seconds, default=-1)
        if latest > self._priced:
            matrix.prices = np.empty(0)
            self._priced = latest
        rows = np.flatnonzero(ticks == self._tick[latest])
        values = as_type(prices, pa.float64()).to_numpy(zero_copy_only=False)
        matrix.keep_prices(pools[rows], values[rows])


def _time(second: int) -> time:
    return time(second // 3600, second // 60 % 60, second % 60)


@contextmanager
def _or_skip(skipped: list[Skipped] | None) -> Iterator[None]:
    """List a bad file in ``skipped``; without such a list say how to go on."""
    try:
        yield
    except ArchiveError as error:
        if skipped is None:
            advice = "fetch it again, or leave out bad files with skip_bad_files=True"
            raise ArchiveError(error.name, f"{error.reason}; {advice}") from error
        skipped.append(Skipped(error.name, error.reason))


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file, in many lines, into one that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = str(error).partition("\n")[0]
        raise ArchiveError(name, f"cannot be read as Parquet ({text})") from error

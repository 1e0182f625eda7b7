"""One day of snapshots as exact counts.

Owns the reading of a day, from csv snapshots or one Parquet file, into its matrix::

    snapshots --read--> matrix of the day --> counts of the day

Columns are found by the header's names, never by the date, because SpotLake rewrote old months.
Missing (``-1`` or an empty cell) stays missing; a pool that one snapshot shows with two different
values is unknown there.  A day knows no other day, and no statistic is taken.
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

from spotlib.select.archive.csv_rows import batches_of, prices_of, unpacked
from spotlib.select.archive.files import File, Skipped, opened
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
from spotlib.select.archive.schema import (
    COLUMNS,
    DAY_S,
    POOL,
    PRICE,
    PRICED,
    SNAPSHOTS_PER_DAY,
    ArchiveError,
    columns_in,
)

_ROWS_AT_ONCE = 1 << 16  # of a Parquet day: twice that no longer fits the processor's cache
_POOLS = 1 << 18  # the most that get room before a Parquet day is read; there are some 30,000
_REMOTE_READERS = 8
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
    """Count the snapshots of one day; a pure job for any process or machine."""
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
        """Return the place after a pool's first row, or the end if the pool is not listed."""
        places = np.flatnonzero(self.pools == pool)
        return int(places[0]) + 1 if len(places) else len(self.pools)


def _fill_from_csv(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> Matrix:
    # This lasts for the process.  pyarrow's own allocator takes 8 MB more and returns none of it.
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
    if last:  # for an estimate of cost the day's last prices suffice; they are read from one file
        with _or_skip(skipped):
            file, pools = last
            prices = prices_of(unpacked(read(file), file.name), file.name)
            matrix.keep_prices(pools[: len(prices)], prices)  # one per row, or none at all
    pa.system_memory_pool().release_unused()
    return matrix


def _compared(
    batches: Iterable[pa.RecordBatch], before: _Listing | None, known: Pools, file: str
) -> tuple[_Listing, Codes]:
    """Return the rows of a file and their codes.

    A batch is compared with the rows at its place in the previous file, and names are looked up
    only where it differs.  After an added or missing row the comparison finds its place again.
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
    """Yield each file with the future of its bytes, read on threads a few files ahead.

    S3 is bound by latency, so several reads are in flight; a disk needs one.  The window is small
    to avoid holding a whole day.
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
    from pyarrow import parquet  # noqa: PLC0415 - large, and csv does not need it

    found = parquet.ParquetFile(pa.BufferReader(data))
    header = found.schema_arrow.names
    theirs = columns_in(header, file.name, {**COLUMNS, "time": "at"}, optional=PRICED)
    source = parquet.ParquetFile(
        pa.BufferReader(data),
        metadata=found.metadata,
        read_dictionary=[theirs[name] for name in POOL],
    )
    pools = min(found.metadata.num_rows // SNAPSHOTS_PER_DAY, _POOLS)
    matrix = Matrix(np.zeros((pools, SNAPSHOTS_PER_DAY), np.uint8))
    clock = _Clock(file)
    for batch in source.iter_batches(
        _ROWS_AT_ONCE, columns=list(theirs.values()), use_threads=False
    ):
        columns = {ours: batch.column(name) for ours, name in theirs.items()}
        snapshots = clock.snapshots(columns["at"])
        numbers = matrix.pools.numbers([columns[name] for name in POOL], file.name)
        matrix.add(snapshots, numbers, codes_of(columns, file.name))
        if PRICE in columns:
            clock.keep_last_prices(matrix, snapshots, numbers, columns[PRICE])
    order = np.argsort(clock.seconds)
    if (np.diff(order) < 0).any():  # the first pool lacked a snapshot that another one had
        matrix.codes = matrix.codes[:, order]
    matrix.times = [_time(clock.seconds[snapshot]) for snapshot in order]
    return matrix


class _Clock:
    """The snapshots of a Parquet day, numbered in order of appearance."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._midnight_us = int(np.datetime64(file.day, "us").astype(np.int64))
        self._number = np.full(DAY_S, -1, np.int64)  # of the snapshot at each second of the day
        self._priced = -1  # the second of the prices kept
        self.seconds: list[int] = []  # of each snapshot

    def snapshots(self, at: pa.Array) -> Integers:
        """Return the number of the snapshot of each row."""
        micros = as_type(at, pa.timestamp("us")).view(pa.int64())
        micros = micros.fill_null(-1) if micros.null_count else micros
        seconds = (micros.to_numpy() - self._midnight_us) // _MICROSECONDS
        if np.max(seconds.view(np.uint64), initial=0) >= DAY_S:  # a negative one is huge
            reason = f"holds rows of another day than its name says, {self._file.day}"
            raise ArchiveError(self._file.name, reason)
        numbers: Integers = self._number[seconds]
        if np.min(numbers, initial=0) < 0:
            new = np.unique(seconds[numbers < 0])
            self._number[new] = len(self.seconds) + np.arange(len(new))
            self.seconds += new.tolist()
            numbers = self._number[seconds]
        return numbers

    def keep_last_prices(
        self, matrix: Matrix, snapshots: Integers, pools: Numbers, prices: pa.Array
    ) -> None:
        """Keep in ``matrix`` the prices of the latest snapshot so far."""
        latest = max(self.seconds, default=-1)
        if latest > self._priced:
            matrix.prices = np.empty(0)
            self._priced = latest
        rows = np.flatnonzero(snapshots == self._number[latest])
        values = as_type(prices, pa.float64()).to_numpy(zero_copy_only=False)
        matrix.keep_prices(pools[rows], values[rows])


def _time(second: int) -> time:
    return time(second // 3600, second // 60 % 60, second % 60)


@contextmanager
def _or_skip(skipped: list[Skipped] | None) -> Iterator[None]:
    """Add a bad file to ``skipped``; without that list raise, and say how to go on."""
    try:
        yield
    except ArchiveError as error:
        if skipped is None:
            advice = "fetch it again, or leave out bad files with skip_bad_files=True"
            raise ArchiveError(error.name, f"{error.reason}; {advice}") from error
        skipped.append(Skipped(error.name, error.reason))


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """Turn pyarrow's many lines on a damaged file into one sentence that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = str(error).partition("\n")[0]
        raise ArchiveError(name, f"cannot be read as Parquet ({text})") from error

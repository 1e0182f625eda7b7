"""One day of snapshots as exact counts.

Owns counting.  A day becomes a small matrix (pool x snapshot, one byte a cell), the matrix becomes
runs of equal values, and the runs become one row for each pool and pair of values::

    snapshots --read--> matrix of the day --> runs --> counts of the day

The matrix makes the order of files and rows irrelevant and an exact duplicate count once.  Columns
are found by the header's names, never by the date: SpotLake rewrote old months.  Missing (``-1``
or an empty cell) is missing, and so is a pool that one snapshot shows with two different values.

What a csv says is ``cells``' to read.  No day knows of another here, and no statistic is taken.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.archive import ArchiveError, File, Skipped, opened
from spotlib.cells import (
    COLUMNS,
    POOL,
    PRICE,
    PRICED,
    SCALES,
    Scale,
    columns_in,
    prices_of,
    rows_of,
)

_ROWS_AT_ONCE = 1 << 18  # of a Parquet day, to bound memory
_POOLS_AT_ONCE = 1 << 12
_REMOTE_READERS = 8
_DAY_S = 24 * 60 * 60
_MICROSECONDS = 1_000_000
_LONGEST_NAME = 64  # letters; the longest known have 20
_NAMELESS = -1  # the pool of a row without type, region or zone

# A row's code is 1 + 7 x SPS + IF in halves, where 0 stands for a missing SPS or IF.
# So 1 is "listed, nothing known", 77 is SPS 10 and IF 3.0, and code 0 is "not listed".
_HALVES = 7
_NOTHING_KNOWN = 1

_Codes = np.ndarray[Any, np.dtype[np.uint8]]
_Prices = np.ndarray[Any, np.dtype[np.float64]]
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_Pools = np.ndarray[Any, np.dtype[np.int32]]
_Names = tuple[str, ...]  # region, type and zone of a pool
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
        grid = fill(files, read, skipped)
    seen = int(np.count_nonzero(grid.codes))
    facts = {
        "times": [at.isoformat() for at in grid.times],
        "snapshots": len(grid.times),
        "pools": int(np.count_nonzero(grid.codes.any(axis=1))),
        "rows": grid.rows,
        "repeated_rows": grid.rows - seen,
        "contradictions": grid.contradictions,
        "nameless_rows": grid.nameless_rows,
    }
    return Day(files[0].day, _table(grid, files[0].day), facts, tuple(skipped or ()))


@dataclass
class _Grid:
    """A day while it is read: a code for each pool and snapshot."""

    codes: _Codes  # pool x snapshot
    times: list[time] = field(default_factory=list)
    prices: _Prices = field(default_factory=lambda: np.empty(0))  # of pools, last snapshot
    rows: int = 0
    nameless_rows: int = 0  # they belong to no pool
    contradictions: int = 0
    _pools: dict[_Names, int] = field(default_factory=dict)

    def pools_of(self, names: Iterable[_Names]) -> _Pools:
        """Return the pool of each row, a new one for names not seen before that day."""
        pools = (
            self._pools.setdefault(each, len(self._pools)) if all(each) else _NAMELESS
            for each in names
        )
        return np.fromiter(pools, np.int32)

    def add(self, tick: int | _Integers, pools: _Pools, codes: _Codes) -> None:
        """Write codes of rows at a snapshot: one, or one for each row."""
        named = pools != _NAMELESS
        if not named.all():
            self.nameless_rows += int((~named).sum())
            tick = tick if isinstance(tick, int) else tick[named]
            pools, codes = pools[named], codes[named]
        self.rows += len(pools)
        self._make_room(tick)
        flat = self.codes.reshape(-1)
        cells = pools * np.int64(self.codes.shape[1]) + tick
        before = flat[cells]
        flat[cells] = codes
        disputed = (flat[cells] != codes) | ((before != 0) & (before != codes))
        if disputed.any():
            flat[cells[disputed]] = _NOTHING_KNOWN
            self.contradictions += len(np.unique(cells[disputed]))

    def _make_room(self, tick: int | _Integers) -> None:
        pools, ticks = self.codes.shape
        lacking = max(len(self._pools) - pools, 0)
        more_pools = max(lacking, pools // 8) if lacking else 0
        more_ticks = max(int(np.max(tick, initial=-1)) + 1 - ticks, 0)
        if more_pools or more_ticks:
            self.codes = np.pad(self.codes, ((0, more_pools), (0, more_ticks)))

    def keep_prices(self, pools: _Pools, prices: _Prices) -> None:
        """Keep the lowest price of each pool; -1 and NaN are none."""
        priced = (prices >= 0) & (pools != _NAMELESS)
        self.prices = np.pad(
            self.prices, (0, len(self._pools) - len(self.prices)), constant_values=np.nan
        )
        np.fmin.at(self.prices, pools[priced], prices[priced])

    def names(self) -> list[tuple[list[str], _Pools]]:
        """Return the different regions, types and zones in order, and for each pool their places.

        Each name is held once only: a day has some 30,000 pools, but 900 names.
        """
        columns = []
        for column in range(len(POOL)):
            texts = sorted({names[column] for names in self._pools})
            place = {text: each for each, text in enumerate(texts)}
            places = (place[names[column]] for names in self._pools)
            columns.append((texts, np.fromiter(places, np.int32, len(self._pools))))
        return columns


@dataclass(frozen=True)
class _Listing:
    """The rows of one file, in order; successive snapshots mostly list the same pools."""

    names: pa.Table
    pools: _Pools

    def after(self, pool: int) -> int:
        """Return the place behind a pool's first one, or the end if it is not here."""
        places = np.flatnonzero(self.pools == pool)
        return int(places[0]) + 1 if len(places) else len(self.pools)


def _fill_from_csv(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> _Grid:
    grid = _Grid(np.zeros((0, len(files)), np.uint8))
    listing = None
    last = None
    for file, data in _ahead(read, files):
        with _or_skip(skipped):
            listing, codes = _compared(rows_of(data.result(), file.name), listing, grid, file.name)
            grid.add(len(grid.times), listing.pools, codes)
            grid.times.append(file.at or time.min)
            last = file, listing.pools
    grid.codes = grid.codes[:, : len(grid.times)]
    if last:  # prices serve an estimate of cost: the day's last ones are enough, and cost one file
        with _or_skip(skipped):
            file, pools = last
            prices = prices_of(read(file), file.name)
            grid.keep_prices(pools[: len(prices)], prices)  # there are as many, or none
    return grid


def _compared(
    table: pa.Table, before: _Listing | None, grid: _Grid, file: str
) -> tuple[_Listing, _Codes]:
    """Return the rows of a file and their codes.

    A batch is compared with the rows at its place in the file before.  Names are looked up only
    where it differs, and behind a row more or less the comparison finds its place again.
    """
    pools, codes = [], []
    place = 0
    for batch in table.to_batches():
        codes.append(_codes_of_columns({name: batch[name] for name in SCALES}, file))
        names = batch.select(POOL)
        if before and before.names.slice(place, len(batch)).equals(pa.table(names)):
            pools.append(before.pools[place : place + len(batch)])
            place += len(batch)
        else:
            encoded = [name.dictionary_encode() for name in names.columns]
            pools.append(_pools_of_columns(encoded, grid, file))
            place = before.after(pools[-1][-1]) if before else 0
    return _Listing(table.select(POOL), np.concatenate(pools)), np.concatenate(codes)


def _ahead(read: _Read, files: Sequence[File]) -> Iterator[_Ahead]:
    """Give each file with the future of its bytes, read on threads a few files ahead.

    A bucket is slow to answer, not busy, so that many may wait for it; a disk needs one.  The
    window keeps a whole day from being held at once.
    """
    threads = _REMOTE_READERS if files[0].name.startswith("s3://") else 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[_Ahead] = deque()
        try:
            for file in files:
                waiting.append((file, pool.submit(read, file)))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


def _fill_from_parquet(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> _Grid:
    grid = _Grid(np.zeros((0, 0), np.uint8))
    with _or_skip(skipped), _in_one_sentence(files[0].name):
        grid = _grid_of_parquet(files[0], read(files[0]))
    return grid


def _grid_of_parquet(file: File, data: bytes) -> _Grid:
    from pyarrow import parquet  # noqa: PLC0415 - megabytes that csv does not need

    header = parquet.ParquetFile(pa.BufferReader(data)).schema_arrow.names
    theirs = columns_in(header, file.name, {**COLUMNS, "time": "at"}, optional=PRICED)
    source = parquet.ParquetFile(
        pa.BufferReader(data), read_dictionary=[theirs[name] for name in POOL]
    )
    grid = _Grid(np.zeros((0, 0), np.uint8))
    clock = _Clock(file)
    for batch in source.iter_batches(_ROWS_AT_ONCE, columns=list(theirs.values())):
        columns = {ours: batch.column(name) for ours, name in theirs.items()}
        ticks = clock.ticks(columns["at"])
        pools = _pools_of_columns([columns[name] for name in POOL], grid, file.name)
        grid.add(ticks, pools, _codes_of_columns(columns, file.name))
        if PRICE in columns:
            clock.keep_last_prices(grid, ticks, pools, columns[PRICE])
    order = np.argsort(clock.seconds)
    grid.codes = grid.codes[:, order]
    grid.times = [_time(clock.seconds[tick]) for tick in order]
    return grid


class _Clock:
    """The snapshots of a Parquet day, numbered as they come up."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._midnight_us = int(np.datetime64(file.day, "us").astype(np.int64))
        self._tick = np.full(_DAY_S, -1, np.int64)  # of each second of the day
        self._priced = -1  # the second of the prices kept
        self.seconds: list[int] = []  # of each tick

    def ticks(self, at: pa.Array) -> _Integers:
        """Return the number of the snapshot of each row."""
        micros = at.cast(pa.timestamp("us")).view(pa.int64()).fill_null(-1).to_numpy()
        seconds = (micros - self._midnight_us) // _MICROSECONDS
        if len(seconds) and not 0 <= seconds.min() <= seconds.max() < _DAY_S:
            reason = f"holds rows of another day than its name says, {self._file.day}"
            raise ArchiveError(self._file.name, reason)
        ticks: _Integers = self._tick[seconds]
        if (ticks < 0).any():
            new = np.unique(seconds[ticks < 0])
            self._tick[new] = len(self.seconds) + np.arange(len(new))
            self.seconds += new.tolist()
            ticks = self._tick[seconds]
        return ticks

    def keep_last_prices(
        self, grid: _Grid, ticks: _Integers, pools: _Pools, prices: pa.Array
    ) -> None:
        """Leave in ``grid`` the prices of the last snapshot so far."""
        latest = max(self.seconds, default=-1)
        if latest > self._priced:
            grid.prices = np.empty(0)
            self._priced = latest
        rows = np.flatnonzero(ticks == self._tick[latest])
        values = prices.cast(pa.float64()).to_numpy(zero_copy_only=False)
        grid.keep_prices(pools[rows], values[rows])


def _time(second: int) -> time:
    return time(second // 3600, second // 60 % 60, second % 60)


def _pools_of_columns(columns: Sequence[pa.DictionaryArray], grid: _Grid, file: str) -> _Pools:
    """Look up each row's pool, once for each combination of names."""
    row = np.zeros(len(columns[0]), np.int64)
    tables = []
    for column in columns:
        names = [name or "" for name in column.dictionary.to_pylist()] + [""]
        if len(longest := max(names, key=len)) > _LONGEST_NAME:
            raise ArchiveError(file, f"holds the text {longest!r} in a column of names")
        row = row * len(names) + column.indices.fill_null(len(names) - 1).to_numpy()
        tables.append(names)
    edges = np.flatnonzero(np.diff(row, prepend=-1))  # mostly sorted: long runs of the same pool
    found, inverse = np.unique(row[edges], return_inverse=True)
    parts = []
    for names in reversed(tables):
        found, place = np.divmod(found, len(names))
        parts.append([names[each] for each in place])
    pools = grid.pools_of(zip(*reversed(parts), strict=True))
    return np.repeat(pools[inverse], np.diff(edges, append=len(row)))


def _codes_of_columns(columns: dict[str, pa.Array], file: str) -> _Codes:
    """Return one byte for the two values of each row, verified."""
    sps, halves = (_units(columns[name], scale, file) for name, scale in SCALES.items())
    codes: _Codes = 1 + _HALVES * sps + halves
    return codes


def _units(column: pa.Array, scale: Scale, file: str) -> _Codes:
    """Return whole units, 0 for missing; anything else is refused."""
    if not pa.types.is_floating(column.type):  # Parquet may hold anything
        column = column.cast(pa.float64())
    number = column.to_numpy(zero_copy_only=False)
    units = number * scale.per_one
    good = (units >= scale.low) & (units <= scale.high) & (units == np.floor(units))
    if not good.all():
        bad = ~good & ~np.isnan(number) & (number != -1)
        if bad.any():
            raise ArchiveError(file, scale.refusal(number[bad][0]))
        units = np.where(good, units, 0)
    codes: _Codes = units.astype(np.uint8)
    return codes


def _table(grid: _Grid, day: date) -> pa.Table:
    """Return the counts: one row for each pool and pair of values, in a fixed order."""
    names = grid.names()
    cells = _cells(grid.codes)
    regions, types, zones = (places[cells["pool"]] for _, places in names)
    order = np.lexsort(np.stack([cells["code"], zones, types, regions]))
    cells = {name: values[order] for name, values in cells.items()}
    pool, (sps, halves) = cells["pool"], np.divmod(cells["code"], _HALVES)
    missing = len(grid.codes) - len(grid.prices)
    prices = np.pad(grid.prices, (0, missing), constant_values=np.nan)[pool]
    at = np.array([f"{day}T{when}" for when in grid.times], "datetime64[us]")
    return pa.table(
        {
            column: pa.DictionaryArray.from_arrays(places[pool], pa.array(texts, pa.string()))
            for column, (texts, places) in zip(POOL, names, strict=True)
        }
        | {
            "sps": pa.array(sps.astype(np.int8), mask=sps == 0),
            "if_score": pa.array(halves / 2, mask=halves == 0),
            "day": np.full(len(pool), day, "datetime64[D]"),
            "snapshots": cells["snapshots"].astype(np.int16),
            "sps_changes": cells["sps_changes"].astype(np.int16),
            "if_changes": cells["if_changes"].astype(np.int16),
            "first_at": at[cells["first"]],
            "last_at": at[cells["last"]],
            PRICE: pa.array(prices, mask=np.isnan(prices)),
            "day_snapshots": np.full(len(pool), len(at), np.int16),
        }
    )


def _cells(codes: _Codes) -> dict[str, _Integers]:
    """Return one row for each pool and code: how many snapshots, when, and how it came there."""
    ticks = max(codes.shape[1], 1)
    flat = codes.reshape(-1)  # pool by pool, each in order of time
    start = _starts(codes)
    length = np.diff(start, append=flat.size)
    listed = flat[start] > 0
    length, start = length[listed], start[listed]
    code = flat[start].astype(np.int64) - 1
    pool, first = np.divmod(start, ticks)
    sps, halves = np.divmod(code, _HALVES)
    order = np.lexsort([code, pool])
    edges = np.diff(pool[order] * 256 + code[order], prepend=-1)
    group = np.flatnonzero(edges)
    return {
        "pool": pool[order][group],
        "code": code[order][group],
        "snapshots": np.add.reduceat(length[order], group),
        "sps_changes": np.add.reduceat(_changes(pool, sps)[order], group),
        "if_changes": np.add.reduceat(_changes(pool, halves)[order], group),
        "first": np.minimum.reduceat(first[order], group),
        "last": np.maximum.reduceat((first + length - 1)[order], group),
    }


def _starts(codes: _Codes) -> _Integers:
    """Return where each run of equal codes starts, some pools at a time to bound memory."""
    pools, ticks = codes.shape
    starts = [np.empty(0, np.int64)]
    for first in range(0, pools, _POOLS_AT_ONCE):
        some = codes[first : first + _POOLS_AT_ONCE]
        edge = np.ones(some.shape, np.bool_)
        np.not_equal(some[:, 1:], some[:, :-1], out=edge[:, 1:])
        starts.append(np.flatnonzero(edge) + first * ticks)
    return np.concatenate(starts)


def _changes(pool: _Integers, units: _Integers) -> _Integers:
    """Return 1 for each run whose value differs from the last known before it, of its pool."""
    changes = np.zeros(len(units), np.int64)
    known = np.flatnonzero(units)
    same_pool = np.diff(pool[known]) == 0
    changes[known[1:]] = same_pool & (np.diff(units[known]) != 0)
    return changes


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

"""A day of snapshots as a matrix of bytes, one per pool and snapshot, and its counts.

Owns what a byte means, the numbering of the pools, and what two rows about the same cell amount
to: an exact duplicate counts once, a contradiction is unknown.  Therefore neither the order of
files nor that of rows matters.  The counts come from the stretches of a row of the matrix: a
stretch is a series of successive snapshots with equal codes.  Knows no file format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.select.archive.schema import DAY_S, POOL, PRICE, SCALES, ArchiveError, Scale

# A row's code is 1 + 7 x SPS + IF in halves, where 0 stands for a missing SPS or IF.
# So 1 is "listed, nothing known", 77 is SPS 10 and IF 3.0, and code 0 is "not listed".
_HALVES = 7
_NOTHING_KNOWN = 1
_CODES = 1 << 8  # in a byte

_NAMELESS = -1  # the pool of a row without type, region or zone
_LONGEST_NAME = 64  # letters; the longest known have 20
_BITS = 20  # for the number of a type, a region or a zone: a million of each
# Where the number of each name of POOL begins in a key.  The type comes first, as in most files.
_SHIFTS = (_BITS, 2 * _BITS, 0)
_POOLS_AT_ONCE = 1 << 12  # of which the stretches are found, to bound memory

Codes = np.ndarray[Any, np.dtype[np.uint8]]
Integers = np.ndarray[Any, np.dtype[Any]]
Numbers = np.ndarray[Any, np.dtype[np.int32]]  # of pools
Prices = np.ndarray[Any, np.dtype[np.float64]]


class Pools:
    """The pools of a day, numbered in order of appearance.

    A pool is known by one integer, made of the numbers of its type, region and zone.  A day has
    some 30,000 pools but only 900 names; their texts per pool would take more than the matrix.
    """

    def __init__(self) -> None:
        self._texts: list[dict[str, int]] = [{"": 0} for _ in POOL]
        # The keys in order, and the number of each; a row without a name has the least key.
        self._keys = np.array([_NAMELESS], np.int64)
        self._numbers = np.array([_NAMELESS], np.int32)

    def __len__(self) -> int:
        return len(self._keys) - 1

    def numbers(self, columns: Sequence[pa.DictionaryArray], file: str) -> Numbers:
        """Return the pool of each row, from its names in the order of ``POOL``.

        Names are looked up only where they differ from those of the row before.
        """
        places = [_indices(column) for column in columns]
        changed = np.zeros(len(places[0]), np.bool_)
        changed[:1] = True
        for place in places:
            changed[1:] |= place[1:] != place[:-1]
        rows = np.flatnonzero(changed)
        keys = np.zeros(len(rows), np.int64)
        nameless = np.zeros(len(rows), np.bool_)
        for texts, shift, column, place in zip(self._texts, _SHIFTS, columns, places, strict=True):
            part = _numbered(texts, column.dictionary.to_pylist(), file)[place[rows]]
            keys |= part << shift
            nameless |= part == 0
        keys[nameless] = _NAMELESS
        return np.repeat(self._numbers_of(keys), np.diff(rows, append=len(changed)))

    def _numbers_of(self, keys: Integers) -> Numbers:
        place = np.searchsorted(self._keys, keys)
        new = np.unique(keys[self._keys.take(place, mode="clip") != keys])
        if len(new):
            numbers = len(self) + np.arange(len(new), dtype=np.int32)
            at = np.searchsorted(self._keys, new)
            # In a sorted file all of them belong to the end, and joining is faster than inserting.
            put = _joined if at[0] == len(self._keys) else np.insert
            self._keys, self._numbers = put(self._keys, at, new), put(self._numbers, at, numbers)
            place = np.searchsorted(self._keys, keys)
        return self._numbers.take(place)

    def names(self) -> list[tuple[list[str], Numbers]]:
        """Return for each name of ``POOL`` its texts in order, and the place of each pool's own."""
        keys = np.empty(len(self), np.int64)
        keys[self._numbers[1:]] = self._keys[1:]
        columns: list[tuple[list[str], Numbers]] = []
        for texts, shift in zip(self._texts, _SHIFTS, strict=True):
            numbers_of_name = keys >> shift & (1 << _BITS) - 1
            known = list(texts)
            used = sorted(np.flatnonzero(np.bincount(numbers_of_name)), key=known.__getitem__)
            rank = np.zeros(len(known), np.int32)
            rank[used] = np.arange(len(used))
            columns.append(([known[number] for number in used], rank[numbers_of_name]))
        return columns


def _joined(before: Integers, _: Integers, after: Integers) -> Integers:
    return np.concatenate([before, after])


def _indices(column: pa.DictionaryArray) -> Integers:
    indices = column.indices
    indices = indices.fill_null(-1) if indices.null_count else indices
    found: Integers = indices.to_numpy()
    return found


def _numbered(texts: dict[str, int], names: Sequence[str | None], file: str) -> Integers:
    """Return the number of each name, a new one for a new name, and 0 for a missing one."""
    for name in names:
        if name and name not in texts:
            if len(name) > _LONGEST_NAME:
                raise ArchiveError(file, f"holds the text {name!r} in a column of names")
            if len(texts) == 1 << _BITS:
                raise ArchiveError(file, "holds more than a million names in one column")
            texts[name] = len(texts)
    return np.array([*(texts[name or ""] for name in names), 0], np.int64)  # the last is for -1


@dataclass
class Matrix:
    """A day while it is read: a code for each pool and snapshot."""

    codes: Codes  # pool x snapshot; it may have room for more of both than were read
    times: list[time] = field(default_factory=list)
    prices: Prices = field(default_factory=lambda: np.empty(0))  # of pools, last snapshot
    rows: int = 0
    nameless_rows: int = 0  # they belong to no pool
    pools: Pools = field(default_factory=Pools)
    _disputed: Integers = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def contradictions(self) -> int:
        """The number of cells that were given two different values."""
        return len(self._disputed)

    def add(self, snapshot: int | Integers, pools: Numbers, codes: Codes) -> None:
        """Write the codes of rows, all of one new snapshot or each of its own snapshot."""
        if np.min(pools, initial=0) == _NAMELESS:
            named = pools != _NAMELESS
            self.nameless_rows += int((~named).sum())
            snapshot = snapshot if isinstance(snapshot, int) else snapshot[named]
            pools, codes = pools[named], codes[named]
        self.rows += len(pools)
        self._make_room(snapshot)
        if isinstance(snapshot, int):
            column = np.zeros(len(self.pools), np.uint8)  # its cells lie far apart in the matrix
            disputed = _written(column, pools, codes)
            self.codes[: len(column), snapshot] = column
        else:
            cells = pools * np.int64(self.codes.shape[1]) + snapshot
            disputed = _written(self.codes.reshape(-1), cells, codes)
        if disputed.any():
            snapshots = np.broadcast_to(snapshot, pools.shape)[disputed]
            places = pools[disputed] * np.int64(DAY_S) + snapshots
            self._disputed = np.union1d(self._disputed, places)  # a third row disputes it again

    def _make_room(self, snapshot: int | Integers) -> None:
        pools, snapshots = self.codes.shape
        lacking = max(len(self.pools) - pools, 0)
        more_pools = max(lacking, pools // 8) if lacking else 0
        more_snapshots = max(int(np.max(snapshot, initial=-1)) + 1 - snapshots, 0)
        if more_pools or more_snapshots:
            self.codes = np.pad(self.codes, ((0, more_pools), (0, more_snapshots)))

    def keep_prices(self, pools: Numbers, prices: Prices) -> None:
        """Keep the lowest price of each pool that was added; -1 and NaN are missing."""
        priced = (prices >= 0) & (pools != _NAMELESS)
        if len(self.prices) < len(self.codes):
            more = np.full(len(self.codes) - len(self.prices), np.nan)
            self.prices = np.concatenate([self.prices, more])
        np.fmin.at(self.prices, pools[priced], prices[priced])


def _written(flat: Codes, cells: Integers, codes: Codes) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Write codes into their cells; return which rows disagree with another row on their cell."""
    before = flat[cells]
    flat[cells] = codes
    disputed: np.ndarray[Any, np.dtype[np.bool_]] = flat[cells] != codes
    if before.any():
        disputed |= (before != 0) & (before != codes)
    flat[cells[disputed]] = _NOTHING_KNOWN
    return disputed


def as_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return the column as ``wanted``; pyarrow's cast is slow even where nothing is to be done."""
    return column if column.type == wanted else column.cast(wanted)


def codes_of(columns: Mapping[str, pa.Array] | pa.RecordBatch, file: str) -> Codes:
    """Return the code of each row, its values verified."""
    sps, halves = (_units(columns[name], scale, file) for name, scale in SCALES.items())
    codes: Codes = 1 + _HALVES * sps + halves
    return codes


def _units(column: pa.Array, scale: Scale, file: str) -> Codes:
    """Return whole units, 0 for missing; refuse anything else."""
    if column.null_count or scale.per_one > 1 or column.type != pa.int64():
        column = as_type(column, pa.float64())  # Parquet may hold anything
    number = column.to_numpy(zero_copy_only=False)
    exact = number if scale.per_one == 1 else number * scale.per_one
    with np.errstate(invalid="ignore"):  # a value that is no whole unit changes in this cast
        units: Codes = exact.astype(np.uint8)
    good = (units == exact) & (units >= scale.low) & (units <= scale.high)
    if not good.all():
        others = number[~good]
        wrong = ~np.isnan(others) & (others != -1)
        if wrong.any():
            raise ArchiveError(file, scale.refusal(others[wrong][0]))
        units[~good] = 0
    return units


def counts_of(matrix: Matrix, day: date) -> pa.Table:
    """Return the counts: one row per pool and pair of values, in a fixed order."""
    names = matrix.pools.names()
    cells = _cells(matrix.codes)
    key = np.zeros(len(cells["pool"]), np.int64)
    for texts, places in names:
        key = key * len(texts) + places[cells["pool"]]
    order = np.argsort(key * _CODES + cells["code"], kind="stable")
    cells = {name: values[order] for name, values in cells.items()}
    pool, (sps, halves) = cells["pool"], np.divmod(cells["code"], _HALVES)
    unpriced = len(matrix.codes) - len(matrix.prices)
    prices = np.pad(matrix.prices, (0, unpriced), constant_values=np.nan)[pool]
    at = np.array([f"{day}T{when}" for when in matrix.times], "datetime64[us]")
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


def _cells(codes: Codes) -> dict[str, Integers]:
    """Return one row per pool and code: how many snapshots and changes, and the first and last."""
    snapshots = max(codes.shape[1], 1)
    flat = codes.reshape(-1)  # pool by pool, each in order of time
    start = _starts(codes)
    length = np.diff(start, append=flat.size)
    listed = flat[start] > 0
    length, start = length[listed], start[listed]
    code = flat[start].astype(np.int64) - 1
    pool, first = np.divmod(start, snapshots)
    sps, halves = np.divmod(code, _HALVES)
    key = pool * _CODES + code
    order = np.argsort(key, kind="stable")
    group = np.flatnonzero(np.diff(key[order], prepend=-1))
    return {
        "pool": pool[order][group],
        "code": code[order][group],
        "snapshots": np.add.reduceat(length[order], group),
        "sps_changes": np.add.reduceat(_changes(pool, sps)[order], group),
        "if_changes": np.add.reduceat(_changes(pool, halves)[order], group),
        "first": np.minimum.reduceat(first[order], group),
        "last": np.maximum.reduceat((first + length - 1)[order], group),
    }


def _starts(codes: Codes) -> Integers:
    """Return where each stretch starts in the matrix read pool by pool."""
    pools, snapshots = codes.shape
    starts = [np.empty(0, np.int64)]
    for first in range(0, pools, _POOLS_AT_ONCE):
        some = codes[first : first + _POOLS_AT_ONCE]
        edge = np.ones(some.shape, np.bool_)
        np.not_equal(some[:, 1:], some[:, :-1], out=edge[:, 1:])
        starts.append(np.flatnonzero(edge) + first * snapshots)
    return np.concatenate(starts)


def _changes(pool: Integers, units: Integers) -> Integers:
    """Return 1 for each stretch whose value differs from its pool's last known value before."""
    changes = np.zeros(len(units), np.int64)
    known = np.flatnonzero(units)
    same_pool = np.diff(pool[known]) == 0
    changes[known[1:]] = same_pool & (np.diff(units[known]) != 0)
    return changes

"""A day of snapshots as a matrix of bytes, one per pool and snapshot, and its counts.

Owns what a byte means, the numbering of the pools, and what two rows about the same cell amount
to: an exact duplicate counts once, a contradiction is unknown.  Therefore neither the order of
files nor that of rows matters.  What such rows would add in the study, which counted rows, is kept
beside the matrix as the surplus.  The counts come from the stretches of a row of the matrix: a
stretch is a series of successive snapshots with equal codes.  Knows no file format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.select.archive.schema import (
    LAST,
    POOL,
    PRICE,
    SCALES,
    SNAPSHOTS_PER_DAY,
    T3,
    ArchiveError,
    Scale,
)

# A row's code is 1 + 7 x SPS + IF in halves, where 0 stands for an empty cell, and SPS 11 and IF 1
# for the archive's -1.  So 1 is "listed, nothing known", 77 is SPS 10 and IF 3.0, and code 0 is
# "not listed".
_HALVES = 7
_NOTHING_KNOWN = 1
_CODES = 1 << 8  # in a byte

_NAMELESS = -1  # the pool of a row without type, region or zone
_LONGEST_NAME = 64  # letters; the longest known have 20
_BITS = 20  # for the number of a type, a region or a zone: a million of each
# Where the number of each name of POOL begins in a key.  The type comes first, as in most files.
_SHIFTS = (_BITS, 2 * _BITS, 0)
_MOST_T3 = 1000  # SpotLake asks for up to 50
_SURPLUS_ROWS = 1 << 17  # are held before they are added up
_POOLS_AT_ONCE = 1 << 12  # of which the stretches are found, to bound memory

Codes = np.ndarray[Any, np.dtype[np.uint8]]
Integers = np.ndarray[Any, np.dtype[Any]]
Booleans = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, np.dtype[np.int32]]  # of pools
Floats = np.ndarray[Any, np.dtype[np.float64]]


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

    codes: Codes = field(default_factory=lambda: np.zeros((0, SNAPSHOTS_PER_DAY), np.uint8))
    # When the snapshot of each ten minutes was taken, None if there is none.
    times: list[time | None] = field(default_factory=lambda: [None] * SNAPSHOTS_PER_DAY)
    last: dict[str, Floats] = field(default_factory=dict)  # of pools, in the last snapshot
    rows: int = 0
    nameless_rows: int = 0  # they belong to no pool
    pools: Pools = field(default_factory=Pools)
    _disputed: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    _surplus: Integers = field(default_factory=lambda: np.empty((2, 0), np.int64))  # key, rows
    _new_surplus: list[Integers] = field(default_factory=list)  # keys, one per row

    @property
    def contradictions(self) -> int:
        """The number of cells that were given two different values."""
        return len(self._disputed)

    def surplus(self) -> tuple[Integers, Integers, Integers]:
        """Return pool, code and number of the rows that the matrix does not show."""
        old, rows = self._surplus
        keys = np.concatenate([old, *self._new_surplus])
        weights = np.append(rows, np.ones(len(keys) - len(old), np.int64))
        keys, place = np.unique(keys, return_inverse=True)
        rows = np.zeros(len(keys), np.int64)
        np.add.at(rows, place, weights)
        self._surplus, self._new_surplus = np.array([keys, rows]), []
        return *np.divmod(keys, _CODES), rows

    @property
    def snapshots(self) -> list[time]:
        """When the snapshots that were read were taken, in order."""
        return [at for at in self.times if at]

    def add(self, snapshot: int | Integers, pools: Numbers, codes: Codes) -> None:
        """Write the codes of rows, all of one new snapshot or each of its own snapshot.

        A snapshot is known by the number of its ten minutes.
        """
        if np.min(pools, initial=0) == _NAMELESS:
            named = pools != _NAMELESS
            self.nameless_rows += int((~named).sum())
            snapshot = snapshot if isinstance(snapshot, int) else snapshot[named]
            pools, codes = pools[named], codes[named]
        self.rows += len(pools)
        self._make_room()
        if isinstance(snapshot, int):
            column = np.zeros(len(self.pools), np.uint8)  # its cells lie far apart in the matrix
            disputed, surplus = _written(column, pools, pools, codes)
            self.codes[: len(column), snapshot] = column
        else:
            cells = pools * np.int64(SNAPSHOTS_PER_DAY) + snapshot
            disputed, surplus = _written(self.codes.reshape(-1), cells, pools, codes)
        if disputed.any():
            snapshots = np.broadcast_to(snapshot, pools.shape)[disputed]
            places = pools[disputed] * np.int64(SNAPSHOTS_PER_DAY) + snapshots
            self._disputed = np.union1d(self._disputed, places)  # a third row disputes it again
        for rows, theirs in surplus:
            self._new_surplus.append(pools[rows] * np.int64(_CODES) + theirs)
        if sum(map(len, self._new_surplus)) > _SURPLUS_ROWS:
            self.surplus()  # adds them up, because some months repeat a quarter of their rows

    def _make_room(self) -> None:
        pools = len(self.codes)
        if lacking := max(len(self.pools) - pools, 0):
            self.codes = np.pad(self.codes, ((0, max(lacking, pools // 8)), (0, 0)))

    def keep_last(
        self,
        pools: Numbers,
        columns: Mapping[str, pa.Array | pa.ChunkedArray],
        file: str,
        *,
        rows: Integers | slice = slice(None),
    ) -> None:
        """Keep the lowest price and T3 of each pool that was added; NaN where missing."""
        pools = pools[rows]
        found = {name: floats(column, rows) for name, column in columns.items()}
        for name, values in _verified(found, file).items():
            before = self.last.get(name, np.empty(0))
            more = np.full(max(len(self.codes) - len(before), 0), np.nan)
            self.last[name] = np.concatenate([before, more]) if len(more) else before
            known = (values >= 0) & (pools != _NAMELESS)
            np.fmin.at(self.last[name], pools[known], values[known])


def _verified(found: dict[str, Floats], file: str) -> dict[str, Floats]:
    """Return price and T3; where SPS is missing T3 is too, though some of the data then write 0."""
    prices, t3 = found.get(PRICE, np.empty(0)), found.get(T3, np.empty(0))
    require_finite(prices, file)
    wrong = np.isinf(t3) | (t3 > _MOST_T3) | (np.trunc(t3) < t3)
    if wrong.any():
        allowed = f"a whole number from 0 to {_MOST_T3} (-1 or empty if missing)"
        raise ArchiveError(file, f"T3 is {t3[wrong][0]:g}, not {allowed}")
    unscored = {T3: np.where(found["sps"] >= 1, t3, np.nan)} if T3 in found else {}
    return {name: found[name] for name in LAST.values() if name in found} | unscored


def floats(column: pa.Array | pa.ChunkedArray, rows: Integers | slice = slice(None)) -> Floats:
    """Return the numbers of a column; NaN where missing."""
    plain = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    numbers = column if plain else column.cast(pa.float64())  # a cast is slow, see ``as_type``
    found: Floats = numbers.to_numpy(zero_copy_only=False)[rows].astype(np.float64)
    return found


def require_finite(prices: Floats, file: str) -> None:
    """Refuse a price without end; NaN is a missing one."""
    if np.isinf(prices).any():
        raise ArchiveError(file, "SpotPrice is infinite")


def _written(
    flat: Codes, cells: Integers, pools: Numbers, codes: Codes
) -> tuple[Booleans, list[tuple[Integers, Codes]]]:
    """Write codes into their cells.

    Return which rows disagree with another row on their cell, and as pairs (rows, their codes) what
    the cells do not show: each row after the first of its cell, and each row of a disputed one.
    """
    before = flat[cells]
    is_new = not before.any()
    flat[cells] = codes
    disputed: Booleans = flat[cells] != codes
    if not is_new:
        disputed |= (before != 0) & (before != codes)
    flat[cells[disputed]] = _NOTHING_KNOWN
    # Of a single snapshot the cells are the pools, and ``flat`` held nothing before.
    one = cells is pools
    if is_new and (np.count_nonzero(flat) == len(cells) if one else _all_differ(cells, pools)):
        return disputed, []
    order = np.argsort(cells, kind="stable")
    first = np.empty(len(cells), np.bool_)
    first[order] = np.diff(cells[order], prepend=-1) > 0
    unknown = flat[cells] == _NOTHING_KNOWN
    more = np.flatnonzero(~first | (before != 0) | (unknown & (codes != _NOTHING_KNOWN)))
    # A row of an earlier call, whose code the cell has shown until now.
    overruled = np.flatnonzero(first & unknown & (before > _NOTHING_KNOWN))
    return disputed, [(more, codes[more]), (overruled, before[overruled])]


def _all_differ(cells: Integers, pools: Numbers) -> bool:
    """Return True if each row has a cell of its own and rows are sorted by pool and time."""
    in_order = cells[1:] > cells[:-1]
    other_pool = pools[1:] != pools[:-1]
    if not (in_order | other_pool).all():
        return False
    listed = np.append(pools[:1], pools[1:][other_pool])
    return len(np.unique(listed)) == len(listed)


def as_type(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Return the column as ``wanted``; pyarrow's cast is slow even where nothing is to be done."""
    return column if column.type == wanted else column.cast(wanted)


def codes_of(columns: Mapping[str, pa.Array] | pa.RecordBatch, file: str) -> Codes:
    """Return the code of each row, its values verified."""
    sps, halves = (_units(columns[name], scale, file) for name, scale in SCALES.items())
    codes: Codes = 1 + _HALVES * sps + halves
    return codes


def _units(column: pa.Array, scale: Scale, file: str) -> Codes:
    """Return whole units, 0 for an empty cell and the scale's own for -1; refuse anything else."""
    if column.null_count or scale.per_one > 1 or column.type != pa.int64():
        column = as_type(column, pa.float64())  # Parquet may hold anything
    number = column.to_numpy(zero_copy_only=False)
    exact = number if scale.per_one == 1 else number * scale.per_one
    with np.errstate(invalid="ignore"):  # a value that is no whole unit changes in this cast
        units: Codes = exact.astype(np.uint8)
    good = (units == exact) & (units >= scale.low) & (units <= scale.high)
    if not good.all():
        others = number[~good]
        coded = others == -1
        wrong = ~np.isnan(others) & ~coded
        if wrong.any():
            raise ArchiveError(file, scale.refusal(others[wrong][0]))
        units[~good] = np.where(coded, scale.coded, 0)
    return units


def counts_of(matrix: Matrix, day: date) -> pa.Table:
    """Return the counts: one row per pool and pair of values, in a fixed order."""
    names = matrix.pools.names()
    cells = _cells(matrix)
    key = np.zeros(len(cells["pool"]), np.int64)
    for texts, places in names:
        key = key * len(texts) + places[cells["pool"]]
    order = np.argsort(key * _CODES + cells["code"], kind="stable")
    cells = {name: values[order] for name, values in cells.items()}
    pool, (sps, halves) = cells["pool"], np.divmod(cells["code"], _HALVES)
    unknown = np.full(len(matrix.codes), np.nan)
    last = {
        name: np.append(matrix.last.get(name, unknown[:0]), unknown)[pool] for name in LAST.values()
    }
    read = [f"{day}T{when}" if when else "NaT" for when in matrix.times]
    at = np.array([*read, "NaT"], "datetime64[us]")  # the last is of codes that no cell shows
    return pa.table(
        {
            column: pa.DictionaryArray.from_arrays(places[pool], pa.array(texts, pa.string()))
            for column, (texts, places) in zip(POOL, names, strict=True)
        }
        | {
            "sps": pa.array(sps.astype(np.int8), mask=~_is_known(sps, SCALES["sps"])),
            "if_score": pa.array(halves / 2, mask=~_is_known(halves, SCALES["if_score"])),
            "sps_coded": sps == SCALES["sps"].coded,
            "if_coded": halves == SCALES["if_score"].coded,
            "day": np.full(len(pool), day, "datetime64[D]"),
            "snapshots": cells["snapshots"].astype(np.int16),
            "surplus_rows": cells["surplus_rows"].astype(np.int32),
            "sps_changes": cells["sps_changes"].astype(np.int16),
            "if_changes": cells["if_changes"].astype(np.int16),
            "first_at": at[cells["first"]],
            "last_at": at[cells["last"]],
            PRICE: pa.array(last[PRICE], mask=np.isnan(last[PRICE])),
            T3: pa.array(np.nan_to_num(last[T3]).astype(np.int16), mask=np.isnan(last[T3])),
            "day_snapshots": np.full(len(pool), len(matrix.snapshots), np.int16),
        }
    )


def _cells(matrix: Matrix) -> dict[str, Integers]:
    """Return one row per pool and code: how many snapshots and changes, and the first and last."""
    snapshots = matrix.codes.shape[1]
    flat = matrix.codes.reshape(-1)  # pool by pool, each in order of time
    start = _starts(matrix.codes)
    length = np.diff(start, append=flat.size)
    listed = flat[start] > 0
    length, start = length[listed], start[listed]
    code = flat[start].astype(np.int64) - 1
    pool, first = np.divmod(start, snapshots)
    sps, halves = np.divmod(code, _HALVES)
    stretches = {
        "pool": pool,
        "code": code,
        "snapshots": length,
        "surplus_rows": np.zeros_like(length),
        "sps_changes": _changes(pool, sps, SCALES["sps"]),
        "if_changes": _changes(pool, halves, SCALES["if_score"]),
        "first": first,
        "last": first + length - 1,
    }
    # A surplus row is no stretch: it adds to its code, and may be all that there is of it.
    pool, code, rows = matrix.surplus()
    more = {"pool": pool, "code": code - 1, "surplus_rows": rows}
    for name in stretches if len(rows) else ():
        none = {"first": snapshots, "last": -1}.get(name, 0)
        stretches[name] = np.append(stretches[name], more.get(name, np.full(len(rows), none)))
    key = stretches["pool"] * _CODES + stretches["code"]
    order = np.argsort(key, kind="stable")
    group = np.flatnonzero(np.diff(key[order], prepend=-1))
    combined = {"pool": np.minimum, "code": np.minimum, "first": np.minimum, "last": np.maximum}
    return {
        name: combined.get(name, np.add).reduceat(values[order], group)
        for name, values in stretches.items()
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


def _changes(pool: Integers, units: Integers, scale: Scale) -> Integers:
    """Return 1 for each stretch whose value differs from its pool's last known value before."""
    changes = np.zeros(len(units), np.int64)
    known = np.flatnonzero(_is_known(units, scale))
    same_pool = np.diff(pool[known]) == 0
    changes[known[1:]] = same_pool & (np.diff(units[known]) != 0)
    return changes


def _is_known(units: Integers, scale: Scale) -> Booleans:
    known: Booleans = (units != 0) & (units != scale.coded)
    return known

"""The matrix of a day as exact counts: runs of equal bytes, and from them one row for each pool and
pair of values.

Owns the columns of the counts.  No statistic is taken here, see ``select``.
"""

from datetime import date
from typing import Final

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.cells import POOL, PRICE
from spotlib.matrix import HALVES, Codes, Integers, Matrix

_POOLS_AT_ONCE: Final = 1 << 12
_CODES: Final = 1 << 8  # in a byte


def counts_of(matrix: Matrix, day: date) -> pa.Table:
    """Return the counts: one row for each pool and pair of values, in a fixed order."""
    names = matrix.pools.names()
    cells = _cells(matrix.codes)
    key = np.zeros(len(cells["pool"]), np.int64)
    for texts, places in names:
        key = key * len(texts) + places[cells["pool"]]
    order = np.argsort(key * _CODES + cells["code"], kind="stable")
    cells = {name: values[order] for name, values in cells.items()}
    pool, (sps, halves) = cells["pool"], np.divmod(cells["code"], HALVES)
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
    """Return one row for each pool and code: how many snapshots, when, and how it came there."""
    ticks = max(codes.shape[1], 1)
    flat = codes.reshape(-1)  # pool by pool, each in order of time
    start = _starts(codes)
    length = np.diff(start, append=flat.size)
    listed = flat[start] > 0
    length, start = length[listed], start[listed]
    code = flat[start].astype(np.int64) - 1
    pool, first = np.divmod(start, ticks)
    sps, halves = np.divmod(code, HALVES)
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
    """Return where each run of equal codes starts, some pools at a time to bound memory."""
    pools, ticks = codes.shape
    starts = [np.empty(0, np.int64)]
    for first in range(0, pools, _POOLS_AT_ONCE):
        some = codes[first : first + _POOLS_AT_ONCE]
        edge = np.ones(some.shape, np.bool_)
        np.not_equal(some[:, 1:], some[:, :-1], out=edge[:, 1:])
        starts.append(np.flatnonzero(edge) + first * ticks)
    return np.concatenate(starts)


def _changes(pool: Integers, units: Integers) -> Integers:
    """Return 1 for each run whose value differs from the last known before it, of its pool."""
    changes = np.zeros(len(units), np.int64)
    known = np.flatnonzero(units)
    same_pool = np.diff(pool[known]) == 0
    changes[known[1:]] = same_pool & (np.diff(units[known]) != 0)
    return changes

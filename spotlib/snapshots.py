"""One day of snapshots as exact counts.

Owns parsing, verifying and counting.  A day becomes a small matrix (snapshot x pool, one byte a
cell), the matrix becomes runs of equal values, and the runs become one row for each pool and pair
of values::

    snapshots --read--> matrix of the day --> runs --> counts of the day

The matrix makes the order of files and rows irrelevant and an exact duplicate count once.  Columns
are found by the header's names, never by the date: SpotLake rewrote old months.  Missing (``-1``
or an empty cell) is missing, and so is a pool that one snapshot shows with two different values.

No day knows of another here, and no statistic is taken.
"""

import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, TypeVar

import numpy as np
import polars as pl

from spotlib.archive import ArchiveError, File, Skipped, opened

_POOL = ["region", "instance_type", "availability_zone_id"]
_PRICE = "price_usd_per_hour"
# Header names in lower case, for the case of `Time` and others changed between eras.
_POOL_COLUMNS = {"region": _POOL[0], "instancetype": _POOL[1], "az": _POOL[2]}
_COLUMNS = {**_POOL_COLUMNS, "sps": "sps", "if": "if_score"}
_SPELLING = {
    "instancetype": "InstanceType",
    "region": "Region",
    "az": "AZ",
    "sps": "SPS",
    "if": "IF",
    "time": "Time",
}
_PRICES = {"spotprice": "price_usd_per_hour"}
_TYPES: dict[str, Any] = {
    **dict.fromkeys(_POOL, pl.String),
    **dict.fromkeys(("sps", "if_score"), pl.Float32),
    "price_usd_per_hour": pl.Float64,
    "at": pl.Datetime("us"),
}
_ROWS_AT_ONCE = 1 << 18  # of a Parquet day, to bound memory
_REMOTE_READERS = 8  # a bucket is slow to answer, not busy

# A cell's code is 1 + 7 x SPS + IF in halves, where 0 stands for a missing SPS or IF.
# So 1 is "listed, nothing known", 77 is SPS 10 and IF 3.0, and code 0 is "not listed".
_HALVES = 7
_NOTHING_KNOWN = 1

_Codes = np.ndarray[Any, np.dtype[np.uint8]]
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_Read = Callable[[File], bytes]
_Result = TypeVar("_Result")
_Ahead = tuple[File, Future[_Result]]


@dataclass(frozen=True)
class Day:
    """The counts of one day, and its facts as plain numbers that survive JSON."""

    day: date
    table: pl.DataFrame
    facts: dict[str, Any]
    skipped: tuple[Skipped, ...] = ()


def count_day(files: Sequence[File], *, skip_bad_files: bool = False) -> Day:
    """Count the snapshots of one day; a pure job that any process or machine can do."""
    skipped: list[Skipped] | None = [] if skip_bad_files else None
    fill = _fill_from_parquet if files[0].is_parquet else _fill_from_csv
    with opened() as read:
        grid = fill(files, read, skipped)
    facts = {
        "times": [at.isoformat() for at in grid.times],
        "snapshots": len(grid.times),
        "pools": grid.pools.height,
        "rows": grid.rows,
        "repeated_rows": grid.rows - int(np.count_nonzero(grid.codes)),
        "contradictions": grid.contradictions,
        "nameless_rows": grid.nameless_rows,
    }
    return Day(files[0].day, _table(grid, files[0].day), facts, tuple(skipped or ()))


@dataclass
class _Grid:
    """A day while it is read: a code for each snapshot and pool."""

    codes: _Codes  # snapshot x pool
    pools: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema=dict.fromkeys(_POOL, pl.String))
    )
    times: list[time] = field(default_factory=list)
    prices: pl.DataFrame | None = None  # of the last snapshot
    rows: int = 0
    nameless_rows: int = 0  # without type, region or zone: they belong to no pool
    contradictions: int = 0
    _keys: pl.DataFrame = field(default_factory=pl.DataFrame)  # of the rows added last
    _index: _Integers = field(default_factory=lambda: np.empty(0, np.int64))  # their pools

    def add(self, tick: int | _Integers, keys: pl.DataFrame, codes: _Codes) -> None:
        """Write ``codes`` of the pools ``keys`` at snapshot ``tick``: one, or one for each row."""
        if sum(keys.null_count().row(0)):
            named = keys.select(pl.all_horizontal(pl.all().is_not_null())).to_series().to_numpy()
            self.nameless_rows += int((~named).sum())
            tick = tick if isinstance(tick, int) else tick[named]
            keys, codes = keys.filter(named), codes[named]
        self.rows += keys.height
        if not keys.equals(self._keys):  # successive snapshots mostly list the same pools
            self._keys, self._index = keys, self._pools_of(keys)
        self._write(tick, self._index, codes)

    def _pools_of(self, keys: pl.DataFrame) -> _Integers:
        """Look up each row's pool, once for each run of rows of the same pool."""
        differs = pl.any_horizontal(pl.all() != pl.all().shift(1))
        starts = keys.select(differs.fill_null(True)).to_series()
        runs = keys.filter(starts)
        found = self._look_up(runs)
        if found.null_count():
            new = runs.filter(found.is_null()).unique(maintain_order=True)
            self.pools = pl.concat([self.pools, new])
            self.codes = np.pad(self.codes, ((0, 0), (0, new.height)))
            found = self._look_up(runs)
        index: _Integers = found.cast(pl.Int64).to_numpy()[np.cumsum(starts.to_numpy()) - 1]
        return index

    def _look_up(self, keys: pl.DataFrame) -> pl.Series:
        known = self.pools.with_row_index("pool")
        return keys.join(known, on=_POOL, how="left", maintain_order="left")["pool"]

    def _write(self, tick: int | _Integers, pool: _Integers, codes: _Codes) -> None:
        before = self.codes[tick, pool]
        self.codes[tick, pool] = codes
        disputed = (self.codes[tick, pool] != codes) | ((before != 0) & (before != codes))
        if disputed.any():
            ticks, pool = np.broadcast_to(tick, pool.shape)[disputed], pool[disputed]
            self.codes[ticks, pool] = _NOTHING_KNOWN
            self.contradictions += len(np.unique(ticks * self.codes.shape[1] + pool))


def _fill_from_csv(files: Sequence[File], read: _Read, skipped: list[Skipped] | None) -> _Grid:
    grid = _Grid(np.zeros((len(files), 0), np.uint8))
    last = None

    def prepare(file: File) -> tuple[pl.DataFrame, _Codes]:
        rows = _parse(read(file), file.name, _COLUMNS)
        return rows.select(_POOL), _codes(rows, file.name)

    for file, prepared in _ahead(prepare, files):
        with _or_skip(skipped):
            grid.add(len(grid.times), *prepared.result())
            grid.times.append(file.at or time.min)
            last = file
    grid.codes = grid.codes[: len(grid.times)]
    if last:  # prices serve an estimate of cost: the day's last ones are enough, and cost one file
        with _or_skip(skipped):
            grid.prices = _parse(read(last), last.name, _POOL_COLUMNS, optional=_PRICES)
    return grid


def _ahead(work: Callable[[File], _Result], files: Sequence[File]) -> Iterator[_Ahead[_Result]]:
    """Give each file with the future of its work, done on threads a few files ahead.

    polars and the network wait outside the interpreter's lock, so that threads help; the window
    keeps a whole day from being held at once.
    """
    remote = files[0].name.startswith("s3://")
    threads = _REMOTE_READERS if remote else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[_Ahead[_Result]] = deque()
        try:
            for file in files:
                waiting.append((file, pool.submit(work, file)))
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
    scan = pl.scan_parquet(data)
    header = scan.collect_schema().names()
    columns = _columns(header, file.name, {**_COLUMNS, "time": "at"}, optional=_PRICES)
    rows = scan.select(
        pl.col(theirs).cast(_TYPES[ours]).alias(ours) for theirs, ours in columns.items()
    )
    at = rows.select(pl.col("at").unique().sort()).collect()["at"]
    if at.null_count() or set(at.dt.date()) != {file.day}:
        raise ArchiveError(file.name, f"holds rows of another day than its name says, {file.day}")
    grid = _Grid(np.zeros((len(at), 0), np.uint8), times=at.dt.time().to_list())
    height = rows.select(pl.len()).collect().item()
    for start in range(0, height, _ROWS_AT_ONCE):
        part = rows.drop(_PRICE, strict=False).slice(start, _ROWS_AT_ONCE).collect()
        ticks = at.search_sorted(part["at"]).cast(pl.Int64).to_numpy()
        grid.add(ticks, part.select(_POOL), _codes(part, file.name))
    if _PRICE in columns.values():
        grid.prices = rows.filter(pl.col("at") == at[-1]).select(*_POOL, _PRICE).collect()
    return grid


def _parse(
    data: bytes, name: str, wanted: dict[str, str], *, optional: dict[str, str] | None = None
) -> pl.DataFrame:
    columns = _columns(_header(data, name), name, wanted, optional=optional)
    types = {theirs: _TYPES[ours] for theirs, ours in columns.items()}
    with _in_one_sentence(name):
        rows = pl.read_csv(data, columns=list(columns), schema_overrides=types)
    if rows.is_empty():
        raise ArchiveError(name, "has a header but no rows")
    return rows.rename(columns)


def _header(data: bytes, name: str) -> list[str]:
    """Return the column names of a csv, gzipped or not, and refuse a csv that was cut off."""
    start, gzipped = data[:4096], data.startswith(b"\x1f\x8b")
    if gzipped:
        try:
            start = zlib.decompressobj(wbits=31).decompress(start)
        except zlib.error as error:
            raise ArchiveError(name, f"is not a whole gzip file ({error})") from error
    header = start.partition(b"\n")[0].decode("utf-8-sig", "replace").strip().split(",")
    if header == [""]:
        raise ArchiveError(name, "is empty")
    last = b"" if gzipped else data[data.rfind(b"\n") + 1 :]
    if last and last.count(b",") + 1 < len(header):
        raise ArchiveError(name, "ends in the middle of a line")
    return [column.strip('"') for column in header]


def _columns(
    header: Sequence[str],
    name: str,
    wanted: dict[str, str],
    *,
    optional: dict[str, str] | None = None,
) -> dict[str, str]:
    """Return their name -> ours, matched without regard to case."""
    ours = {**wanted, **(optional or {})}
    found = {column: ours[column.lower()] for column in header if column.lower() in ours}
    lacking = [column for column, name_here in wanted.items() if name_here not in found.values()]
    if lacking:
        asked = " and ".join(_SPELLING[column] for column in lacking)
        raise ArchiveError(name, f"has no column {asked}, only {', '.join(header)}")
    return found


def _codes(rows: pl.DataFrame, name: str) -> _Codes:
    """Return one byte for the two values of each row, verified."""
    sps = _units(rows["sps"], 1, 1, 10)
    halves = _units(rows["if_score"], 2, 2, 6)
    for column, units, allowed in (
        ("SPS", sps, "a whole number from 1 to 10"),
        ("IF", halves, "1.0, 1.5, 2.0, 2.5 or 3.0"),
    ):
        if (units < 0).any():
            value = rows[_COLUMNS[column.lower()]].to_numpy()[units < 0][0]
            raise ArchiveError(
                name, f"{column} is {value:g}, not {allowed} (-1 or empty if missing)"
            )
    codes: _Codes = (1 + sps * _HALVES + halves).astype(np.uint8)
    return codes


def _units(values: pl.Series, per_one: int, low: int, high: int) -> np.ndarray[Any, Any]:
    """Return whole units from ``low`` to ``high``, 0 for missing and -1 for anything else."""
    number = values.to_numpy()
    units = number * per_one
    good = (units >= low) & (units <= high) & (units == np.floor(units))
    return np.where(good, units, np.where(np.isnan(number) | (number == -1), 0, -1))


def _table(grid: _Grid, day: date) -> pl.DataFrame:
    """Return the counts: one row for each pool and pair of values, in a fixed order."""
    at = pl.Series([datetime.combine(day, when) for when in grid.times], dtype=pl.Datetime("us"))
    pools = grid.pools.with_row_index("pool").with_columns(pl.col("pool").cast(pl.Int64))
    prices = grid.prices if grid.prices is not None else pools.select(_POOL, **{_PRICE: None})
    price = pl.col(_PRICE).cast(pl.Float64)
    return (
        _cells(grid.codes)
        .join(pools, on="pool")
        .join(prices.group_by(_POOL).agg(price.filter(price >= 0).min()), on=_POOL, how="left")
        .select(
            *_POOL,
            sps=_known(pl.col("code") // _HALVES).cast(pl.Int8),
            if_score=_known(pl.col("code") % _HALVES) / 2,
            day=pl.lit(day),
            snapshots=pl.col("snapshots").cast(pl.Int16),
            sps_changes=pl.col("sps_changes").cast(pl.Int16),
            if_changes=pl.col("if_changes").cast(pl.Int16),
            first_at=pl.lit(at).gather(pl.col("first")),
            last_at=pl.lit(at).gather(pl.col("last")),
            price_usd_per_hour=pl.col(_PRICE),
            day_snapshots=pl.lit(len(at), pl.Int16),
        )
        .sort(*_POOL, "sps", "if_score")
        .with_columns(pl.col(*_POOL).cast(pl.Categorical))  # a month repeats each name many times
    )


def _cells(codes: _Codes) -> pl.DataFrame:
    """Return one row for each pool and code: how many snapshots, when, and how it came there."""
    ticks = max(codes.shape[0], 1)
    flat = codes.T.ravel()  # pool by pool, each in order of time
    edge = np.ones(flat.size + 1, np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=edge[1:-1])
    edge[:-1:ticks] = True
    start = np.flatnonzero(edge)
    runs = pl.DataFrame(
        {
            "pool": start[:-1] // ticks,
            "first": start[:-1] % ticks,
            "snapshots": np.diff(start),
            "code": flat[start[:-1]],
        }
    )
    return (
        runs.filter(pl.col("code") > 0)
        .with_columns(pl.col("code") - 1, last=pl.col("first") + pl.col("snapshots") - 1)
        .with_columns(
            sps_changes=_is_change(pl.col("code") // _HALVES),
            if_changes=_is_change(pl.col("code") % _HALVES),
        )
        .group_by("pool", "code")
        .agg(
            pl.col("snapshots", "sps_changes", "if_changes").sum(),
            pl.col("first").min(),
            pl.col("last").max(),
        )
    )


def _known(units: pl.Expr) -> pl.Expr:
    return pl.when(units > 0).then(units)


def _is_change(units: pl.Expr) -> pl.Expr:
    """Tell whether a run's value differs from the last one known before it, of the same pool."""
    known = _known(units)
    before = known.forward_fill().shift(1)
    pool_before = pl.when(known.is_not_null()).then(pl.col("pool")).forward_fill().shift(1)
    return ((pool_before == pl.col("pool")) & (before != known)).fill_null(False)


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
    """Turn what polars says in many lines into one that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        text = str(error).partition("\n")[0]
        if found := re.match(r"could not parse `(.*)` as dtype .* at column '(.*?)'", text):
            text = "holds the text '{}' in column {}".format(*found.groups())
        raise ArchiveError(name, text) from error

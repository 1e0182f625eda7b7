"""The door of the archive: SpotLake data of every form as exact integer counts.

A month is some 4,460 snapshots and 130 million rows, so it is never held whole::

    files.find_files --> one job per day --> day.count_day --> counts of the archive
                                             (cached as Parquet)

Days share nothing, so they are counted at once in ``processes``, and adding integers has the same
result in every order.  Owns the cache and the account of what was read.
No statistic is taken here (see ``cov``), and the archive is never written to.
"""

import hashlib
import json
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.errors import ParameterError
from spotlib.processes import each_of
from spotlib.select.archive.day import Day, count_day
from spotlib.select.archive.files import File, Skipped, find_files, slot_of
from spotlib.select.archive.schema import (
    POOL,
    SNAPSHOT_MINUTES,
    SNAPSHOTS_PER_DAY,
    T3,
    ArchiveError,
)
from spotlib.workspace import workspace

__all__ = ["ArchiveError", "Reading", "days_held", "read_counts"]

CACHE: Final = workspace() / "results" / "counts"
OPEN_DATA_NOTICE: Final = (
    "Data: SpotLake Open Data, DDPS Lab (spotlake.ddps.cloud), licensed CC BY-NC 4.0:"
    " name the source, no commercial use."
)

# Of a cached day; 2 = categories, 3 = written by pyarrow, 4 = contradictions once, 5 = -1 apart
# from empty cells, surplus rows, one snapshot per ten minutes, a digest at the end, 6 = T3.
_FORMAT = "6"
_DIGEST_BYTES = 32
# About a second of work, for which processes are worth their start: so many bytes, or small files.
_WORTH_BYTES = 1 << 25
_WORTH_FILES = 500


@dataclass(frozen=True)
class Reading:
    """What an archive holds, and what became of each part of it.

    Attributes
    ----------
    counts : DataFrame, one row per pool, pair of values and day
        region, instance_type, availability_zone_id, sps, if_score (NaN where missing), sps_coded,
        if_coded (whether the archive has -1 there, not an empty cell), day, snapshots (how many
        showed the pair), surplus_rows (further rows with the pair: exact repeats, and those of
        snapshots in which rows contradict each other, which show nothing), sps_changes and
        if_changes (how often the pool changed to this value from the last known other one of that
        day), first_at and last_at (UTC, the first and last snapshot that showed it; NaT if none
        did), price_usd_per_hour and t3 (of the pool in the day's last snapshot; t3 is the largest
        capacity with SPS 3 or more, 0 if none, NaN in archives from before 2025), day_snapshots
        (read that day).
    days : DataFrame, one row per day
        day, snapshots, pools, rows, repeated_rows, contradictions, nameless_rows,
        missing_snapshots, from_cache.
    gaps : DataFrame, one row per series of successive missing snapshots
        first_at, last_at (UTC), snapshots.
    skipped : DataFrame, one row per file left out
        name, reason.  A bad file is among them only if it was asked for, or if a good one has the
        same snapshots.
    notice : str
        The licence to show beside anything made of these data; empty if there is none to show.
    """

    counts: pd.DataFrame
    days: pd.DataFrame
    gaps: pd.DataFrame
    skipped: pd.DataFrame
    notice: str = ""

    def __repr__(self) -> str:
        """How much was read; the tables would fill pages."""
        days, read = len(self.days), int(self.days["snapshots"].sum())
        words = f"{days} day{'s' * (days != 1)}: {read:,} snapshots"
        return f"<Reading of {words}, {len(self.skipped)} files left out>"


def read_counts(
    dataset: str | Path,
    *,
    days: str | date | Iterable[str | date] | None = None,
    executor: Executor | None = None,
    cache: str | Path | None = CACHE,
    progress: Callable[[int, int], None] | None = None,
    skip_bad_files: bool = False,
) -> Reading:
    """Count how often each pool of a SpotLake archive showed which values.

    Parameters
    ----------
    dataset : str or Path
        A folder, a zip or ``s3://bucket/prefix``.
    days : str, date, or several of them, optional
        The days and months to read: ``"2024-08"`` or ``["2024-08-01", date(2024, 8, 2)]``.  All by
        default.
    executor : Executor, optional
        Runs one job per day, on all of its workers.  By default several days are counted in one
        process per core, each within the memory of one day; a single day, or little data, in this
        process.  ``ThreadPoolExecutor(1)`` counts one day after another in this process.
    cache : str, Path or None
        The folder of counted days, which are counted again only if their files change.  None
        keeps nothing.
    progress : callable, optional
        Called with the number of days done and of all days, after each day.
    skip_bad_files : bool, default False
        Leave out files that cannot be trusted, and list them in ``skipped``.

    Returns
    -------
    Reading
        Its ``counts`` are what ``variation`` takes.

    Raises
    ------
    ArchiveError
        (a ValueError) If there is nothing to read, or a file cannot be trusted.
    ValueError
        If ``days`` is not a day or month, ``executor`` forks its processes, or ``cache`` cannot be
        written to.

    Examples
    --------
    Two snapshots of one pool, whose placement score fell from 3 to 2:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import pandas as pd
    >>> from spotlib import read_counts
    >>> pool = {"InstanceType": ["t3.nano"], "Region": "sa-east-1", "AZ": "sae1-az1", "IF": 2.5}
    >>> with TemporaryDirectory() as folder:
    ...     day = Path(folder, "aws-2024-08", "01")
    ...     day.mkdir(parents=True)
    ...     for time, sps in [("00-00-00", 3), ("00-10-00", 2)]:
    ...         pd.DataFrame(pool | {"SPS": sps}).to_csv(day / f"{time}.csv", index=False)
    ...     reading = read_counts(folder, cache=None)
    >>> columns = ["instance_type", "sps", "if_score", "snapshots", "sps_changes"]
    >>> print(reading.counts[columns].to_string(index=False))
    instance_type  sps  if_score  snapshots  sps_changes
          t3.nano  2.0       2.5          1            1
          t3.nano  3.0       2.5          1            0
    >>> int(reading.days["missing_snapshots"].sum())
    142
    """
    files, skipped = find_files(dataset, skip_bad_files=skip_bad_files)
    asked = None if days is None else _days_of(days)
    jobs = {
        day: list(group)
        for day, group in groupby(files, key=attrgetter("day"))
        if asked is None or day in asked
    }
    if not jobs:
        held = f"{files[0].day} to {files[-1].day}"
        raise ArchiveError(str(dataset), f"holds no snapshots of {days}, only of {held}")
    facts: dict[date, dict[str, Any]] = {}
    tables: dict[date, pa.Table] = {}
    for day, was_cached in _count_days(jobs, executor, cache, skip_bad_files):
        facts[day.day] = day.facts | {"from_cache": was_cached}
        tables[day.day] = day.table
        if progress is not None:
            progress(len(facts), len(jobs))
    for read_day in sorted(facts):
        skipped += _left_out(jobs[read_day], facts[read_day].pop("left_out"))
    if not any(table.num_rows for table in tables.values()):
        why = f"; {skipped[-1].name}: {skipped[-1].reason}" if skipped else ""
        raise ArchiveError(str(dataset), f"holds no pool that could be read{why}")
    span = sorted(asked) if asked else _days_between(min(jobs), max(jobs))
    return Reading(
        counts=_to_pandas([tables.pop(day) for day in sorted(tables)]),
        days=_account(span, facts),
        gaps=_gaps(span, facts),
        skipped=pd.DataFrame([vars(file) for file in skipped], columns=["name", "reason"]),
        notice=OPEN_DATA_NOTICE if _is_open_data(files) else "",
    )


def days_held(dataset: str | Path) -> dict[date, set[Path]]:
    """Return the days of an archive in order, each with the folders or zips its files lie in.

    Bad zips are left out.  Raises ``ArchiveError`` if there is no snapshot, and its kind
    ``EmptyArchiveError`` if there is no file.
    """
    files, _ = find_files(dataset, skip_bad_files=True)
    return {
        day: {file.place for file in group} for day, group in groupby(files, key=attrgetter("day"))
    }


def _left_out(files: list[File], left_out: list[tuple[int, str, int]]) -> Iterator[Skipped]:
    for number, reason, other in left_out:
        end = f" {files[other].name}" if other >= 0 else ""
        yield Skipped(files[number].name, f"{reason}{end}")


def _days_of(days: str | date | Iterable[str | date]) -> set[date]:
    asked: set[date] = set()
    for text in map(str, [days] if isinstance(days, str | date) else days):
        try:
            if len(text) == len("2024-08"):
                first = date.fromisoformat(f"{text}-01")
                last = first.replace(day=monthrange(first.year, first.month)[1])
                asked.update(_days_between(first, last))
            else:
                asked.add(date.fromisoformat(text))
        except ValueError as error:
            words = f"days are written 2024-08 or 2024-08-01, got {text!r}"
            raise ParameterError(words) from error
    return asked


def _days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=after) for after in range((last - first).days + 1)]


def _count_days(
    jobs: dict[date, list[File]],
    executor: Executor | None,
    cache: str | Path | None,
    skip_bad_files: bool,
) -> Iterator[tuple[Day, bool]]:
    """Yield (day, whether it was cached) as days finish."""
    to_read: dict[date, Path | None] = {}
    for day, files in jobs.items():
        path = None if cache is None else Path(cache, f"{day}-{_digest(files)}.counts")
        if path is not None and (cached := _load(path, day)):
            yield cached, True
        else:
            to_read[day] = path
    waiting = [jobs[day] for day in to_read]
    count = partial(count_day, skip_bad_files=skip_bad_files)
    is_much = _is_worth_processes(waiting)
    for counted in each_of(count, waiting, executor=executor, worth_processes=is_much):
        path = to_read[counted.day]
        if path is not None and counted.is_whole:  # else the bad files may be mended
            _save(counted, path)
        yield counted, False


def _is_worth_processes(jobs: Sequence[Sequence[File]]) -> bool:
    files = [file for job in jobs for file in job]
    return len(files) >= _WORTH_FILES or sum(file.size for file in files) >= _WORTH_BYTES


def _digest(files: Iterable[File]) -> str:
    """Identify the files of a day: another name, size or content makes another digest."""
    read = [(file.member, file.size, file.version) for file in files]
    return hashlib.sha256(json.dumps([_FORMAT, read]).encode()).hexdigest()[:16]


def _load(path: Path, day: date) -> Day | None:
    from pyarrow import parquet  # noqa: PLC0415 - large, and csv does not need it

    if not path.is_file():
        return None
    data = path.read_bytes()
    counted, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(counted).digest() != digest:
        return None  # damaged, or not ours: the day is counted again and replaces it
    table = parquet.read_table(pa.BufferReader(counted))
    return Day(day, table, json.loads(table.schema.metadata[b"facts"]), is_whole=True)


def _save(day: Day, path: Path) -> None:
    """Write a counted day completely or not at all, even if two processes write it at once.

    Parquet, and the digest of it: one changed bit could still be read, as another count.
    """
    from pyarrow import parquet  # noqa: PLC0415 - large, and csv does not need it

    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"facts": json.dumps(day.facts)}
        counted = pa.BufferOutputStream()
        parquet.write_table(day.table.replace_schema_metadata(facts), counted)
        data = counted.getvalue().to_pybytes()
        temporary.write_bytes(data + hashlib.sha256(data).digest())
        temporary.replace(path)
    except OSError as error:
        raise ValueError(
            f"counts cannot be kept in {str(path.parent)!r} ({error.strerror}): name another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _to_pandas(tables: list[pa.Table]) -> pd.DataFrame:
    """Join the days and empty ``tables``, because a month should not be held twice.

    The categories are in order of name, independent of the order of reading.
    """
    tables[:] = [table for table in tables if table.num_rows]
    columns = {}
    for name in tables[0].column_names:
        columns[name] = _to_pandas_column(name, [table.column(name) for table in tables])
        tables[:] = [table.drop_columns(name) for table in tables]
        pa.default_memory_pool().release_unused()  # else the next column adds to it
    return pd.DataFrame(columns, copy=False)


def _to_pandas_column(name: str, parts: Sequence[pa.ChunkedArray]) -> Any:
    if name in POOL:
        return _categories([chunk for part in parts for chunk in part.chunks])
    values = np.concatenate([part.to_numpy() for part in parts])
    if name in ("first_at", "last_at"):
        return pd.Series(values).dt.tz_localize("UTC")
    return values.astype(float) if name in ("sps", "if_score", T3) else values


def _categories(parts: Sequence[pa.DictionaryArray]) -> pd.Categorical:
    """Join names that each day numbered separately, without those of no row."""
    tables = [np.array(part.dictionary.to_pylist(), object) for part in parts]
    numbers = [part.indices.to_numpy() for part in parts]
    used = [table[np.unique(each)] for table, each in zip(tables, numbers, strict=True)]
    names = sorted(set().union(*used))
    place = {name: each for each, name in enumerate(names)}
    codes = [
        np.array([place.get(name, -1) for name in table], np.int32)[each]
        for table, each in zip(tables, numbers, strict=True)
    ]
    return pd.Categorical.from_codes(np.concatenate(codes), pd.Index(names))


def _account(span: list[date], facts: dict[date, dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for day in span:
        found = dict(facts.get(day, {}))
        was_cached = found.pop("from_cache", False)
        missing = int((~_slots(found.pop("times", []))).sum())
        rows.append({"day": day, **found, "missing_snapshots": missing, "from_cache": was_cached})
    table = pd.DataFrame(rows).astype({"day": "datetime64[s]"})
    numbers = table.columns.difference(["day", "from_cache"])
    table[numbers] = table[numbers].fillna(0).astype(int)
    return table


def _slots(times: list[str]) -> Any:
    """Return which of the day's ten-minute slots have a snapshot, even one a few minutes late."""
    present = np.zeros(SNAPSHOTS_PER_DAY, np.bool_)
    present[[slot_of(time.fromisoformat(at)) for at in times]] = True
    return present


def _gaps(span: list[date], facts: dict[date, dict[str, Any]]) -> pd.DataFrame:
    """Return each series of missing snapshots: its first and last time, and their number."""
    not_asked = np.ones(SNAPSHOTS_PER_DAY, np.bool_)
    present = [
        not_asked if day not in span else _slots(facts[day]["times"] if day in facts else [])
        for day in _days_between(span[0], span[-1])
    ]
    edges = np.flatnonzero(np.diff(~np.concatenate(present), prepend=False, append=False))
    first, after = edges.reshape(-1, 2).T
    start, step = pd.Timestamp(span[0], tz="UTC"), pd.Timedelta(minutes=SNAPSHOT_MINUTES)
    return pd.DataFrame(
        {
            "first_at": start + first * step,
            "last_at": start + (after - 1) * step,
            "snapshots": after - first,
        }
    )


def _is_open_data(files: Iterable[File]) -> bool:
    """Recognise the public sample by its address or layout; the raw archive adds ``rawdata``."""
    return any(
        file.name.startswith("s3://")
        or ("/aws/2025/" in file.member and "rawdata" not in file.member)
        for file in files
    )

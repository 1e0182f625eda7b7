"""SpotLake archives, in every form they come in, as exact integer counts.

A month is some 4,460 snapshots and 130 million rows, so nothing here concatenates them::

    archive.find_files --> one job a day --> snapshots.count_day --> counts of the archive
                                              (cached as Parquet)

Days share nothing, so they map over any ``concurrent.futures.Executor``, and adding integers gives
the same answer in every order.  Owns the cache, the executor and the account of what was read.
No statistic is taken here, see ``select``, and the archive is never written to.
"""

import hashlib
import json
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from spotlib.select.archive.csv_rows import POOL
from spotlib.select.archive.day import Day, count_day
from spotlib.select.archive.files import ArchiveError, File, Skipped, find_files
from spotlib.workspace import workspace

CACHE: Final = workspace() / "results" / "counts"
SNAPSHOTS_PER_DAY: Final = 144  # one each ten minutes
OPEN_DATA_NOTICE: Final = (
    "Data: SpotLake Open Data, DDPS Lab (spotlake.ddps.cloud), licensed CC BY-NC 4.0:"
    " name the source, make no commercial use of it."
)

_FORMAT = "4"  # of a cached day; 2 = categories, 3 = written by pyarrow, 4 = contradictions once
_MINUTES = 24 * 60 // SNAPSHOTS_PER_DAY


@dataclass(frozen=True)
class Reading:
    """What an archive holds, and what became of each part of it.

    ``counts`` has one row for each pool, pair of values and day: region, instance_type,
    availability_zone_id, sps, if_score (NaN where missing), day, snapshots (how many showed the
    pair), sps_changes and if_changes (how often the pool came to this value from another one known
    before it that day), first_at and last_at (UTC, the first and last snapshot that showed it),
    price_usd_per_hour (of the pool in the day's last snapshot), day_snapshots (read that day).

    ``days`` has one row a day: what was read and what is missing.  ``gaps`` has one row for each
    run of missing snapshots.  ``skipped`` has one row for each file left out, with the reason.
    """

    counts: pd.DataFrame
    days: pd.DataFrame
    gaps: pd.DataFrame
    skipped: pd.DataFrame
    notice: str = ""  # the licence to show beside whatever is made of these data


def read_counts(
    dataset: str | Path,
    *,
    days: str | date | Iterable[str | date] | None = None,
    executor: Executor | None = None,
    cache: str | Path | None = CACHE,
    progress: Callable[[int, int], None] | None = None,
    skip_bad_files: bool = False,
) -> Reading:
    """Count the values of every pool in ``dataset``: a folder, a zip or ``s3://bucket/prefix``.

    ``days`` picks days and months: ``"2024-08"`` or ``["2024-08-01", date(2024, 8, 2)]``.
    ``executor`` runs one job a day, on as many processors as it has; by default the days are
    counted one after another here, which needs the memory of one day however many there are.
    ``cache`` is the folder of counted days, None for none.  ``progress`` is told how many days
    are done, of how many.

    A file that cannot be trusted raises ``ArchiveError``; with ``skip_bad_files`` the reading goes
    on without it and lists it in ``skipped``.
    """
    files, skipped = find_files(dataset, skip_bad_files=skip_bad_files)
    asked = None if days is None else _days_of(days)
    jobs = {
        day: list(group)
        for day, group in groupby(files, key=lambda file: file.day)
        if asked is None or day in asked
    }
    if not jobs:
        held = f"{files[0].day} to {files[-1].day}"
        raise ArchiveError(str(dataset), f"holds no snapshots of {days}, only of {held}")
    facts: dict[date, dict[str, Any]] = {}
    bad_files: dict[date, tuple[Skipped, ...]] = {}
    tables: dict[date, pa.Table] = {}
    for day, was_cached in _count_days(jobs, executor, cache, skip_bad_files):
        facts[day.day] = day.facts | {"from_cache": was_cached}
        bad_files[day.day], tables[day.day] = day.skipped, day.table
        if progress is not None:
            progress(len(facts), len(jobs))
    skipped += [file for day in sorted(bad_files) for file in bad_files[day]]
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
            raise ValueError(f"days are written 2024-08 or 2024-08-01, got {text!r}") from error
    return asked


def _days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=after) for after in range((last - first).days + 1)]


def _count_days(
    jobs: dict[date, list[File]],
    executor: Executor | None,
    cache: str | Path | None,
    skip_bad_files: bool,
) -> Iterator[tuple[Day, bool]]:
    """Give each day, and whether it came from the cache, in the order they are done."""
    to_read: dict[date, Path | None] = {}
    for day, files in jobs.items():
        path = None if cache is None else Path(cache, f"{day}-{_digest(files)}.parquet")
        if path is not None and (cached := _load(path, day)):
            yield cached, True
        else:
            to_read[day] = path
    for counted in _run(executor, [jobs[day] for day in to_read], skip_bad_files):
        path = to_read[counted.day]
        if path is not None and not counted.skipped:  # bad files are to be named every time
            _save(counted, path)
        yield counted, False


def _run(executor: Executor | None, jobs: list[list[File]], skip_bad_files: bool) -> Iterator[Day]:
    """Count day after day here, or all at once on the executor, in the order they are done."""
    count = partial(count_day, skip_bad_files=skip_bad_files)
    if executor is None:
        yield from map(count, jobs)
        return
    _refuse_forked(executor)
    futures = {executor.submit(count, job) for job in jobs}
    try:
        for future in as_completed(futures):
            futures.discard(future)  # and with it the day, once it was handed on
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _refuse_forked(executor: Executor) -> None:
    """A forked process may wait for ever, on locks that threads of its parent held at the fork."""
    context: Any = getattr(executor, "_mp_context", None)  # only a pool of processes has one
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "days cannot be counted in forked processes; give"
            " ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
        )


def _digest(files: Iterable[File]) -> str:
    """Name what a day is read from: any other name, size or content gives another digest."""
    read = [(file.member, file.size, file.version) for file in files]
    return hashlib.sha256(json.dumps([_FORMAT, read]).encode()).hexdigest()[:16]


def _load(path: Path, day: date) -> Day | None:
    from pyarrow import parquet  # noqa: PLC0415 - megabytes that reading csv does not need

    if not path.exists():
        return None
    try:
        table = parquet.read_table(path)
        return Day(day, table, json.loads(table.schema.metadata[b"facts"]))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None  # not ours, or damaged: counting the day again replaces it


def _save(day: Day, path: Path) -> None:
    """Write a counted day whole or not at all, also when two processes do so at once."""
    from pyarrow import parquet  # noqa: PLC0415 - megabytes that reading csv does not need

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        facts = {"facts": json.dumps(day.facts)}
        parquet.write_table(day.table.replace_schema_metadata(facts), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _to_pandas(tables: list[pa.Table]) -> pd.DataFrame:
    """Join the days, and empty ``tables`` meanwhile: a month held twice would be much.

    The categories are in order of name, whatever was read first.
    """
    tables[:] = [table for table in tables if table.num_rows]
    columns = {}
    for name in tables[0].column_names:
        columns[name] = _to_pandas_column(name, [table.column(name) for table in tables])
        tables[:] = [table.drop_columns(name) for table in tables]
        pa.default_memory_pool().release_unused()  # or the next column would come on top of it
    return pd.DataFrame(columns, copy=False)


def _to_pandas_column(name: str, parts: Sequence[pa.ChunkedArray]) -> Any:
    if name in POOL:
        return _categories([chunk for part in parts for chunk in part.chunks])
    values = np.concatenate([part.to_numpy() for part in parts])
    if name in ("first_at", "last_at"):
        return pd.Series(values).dt.tz_localize("UTC")
    return values.astype(float) if name in ("sps", "if_score") else values


def _categories(parts: Sequence[pa.DictionaryArray]) -> pd.Categorical:
    """Join names that each day has numbered for itself, leaving out those of no row."""
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
    """Return which of the day's ten-minute slots have a snapshot, were it a few minutes late."""
    present = np.zeros(SNAPSHOTS_PER_DAY, np.bool_)
    for at in map(time.fromisoformat, times):
        present[(60 * at.hour + at.minute) // _MINUTES] = True
    return present


def _gaps(span: list[date], facts: dict[date, dict[str, Any]]) -> pd.DataFrame:
    """Return each run of missing snapshots: its first and last time, and how many they are."""
    unasked = np.ones(SNAPSHOTS_PER_DAY, np.bool_)
    present = [
        unasked if day not in span else _slots(facts[day]["times"] if day in facts else [])
        for day in _days_between(span[0], span[-1])
    ]
    edges = np.flatnonzero(np.diff(~np.concatenate(present), prepend=False, append=False))
    first, after = edges.reshape(-1, 2).T
    start, step = pd.Timestamp(span[0], tz="UTC"), pd.Timedelta(minutes=_MINUTES)
    return pd.DataFrame(
        {
            "first_at": start + first * step,
            "last_at": start + (after - 1) * step,
            "snapshots": after - first,
        }
    )


def _is_open_data(files: Iterable[File]) -> bool:
    """Tell the public sample by its address or its layout; the raw archive adds ``rawdata``."""
    return any(
        file.name.startswith("s3://")
        or ("/aws/2025/" in file.member and "rawdata" not in file.member)
        for file in files
    )

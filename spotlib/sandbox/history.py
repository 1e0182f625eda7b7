"""The market's past as a SpotLake archive: the same tree, columns and defects as the real one.

``aws-YYYY-MM/DD/HH-MM-SS.csv.gz``: one full snapshot every ten minutes, in the columns SpotLake had
from 2023-06-21 to 2025-02-14.  The real archive has defects, and so has this one: some snapshots
are missing, in a few every IF reads -1, some rows are written twice, some pools are absent for a
while, and types that the advisor does not list have IF -1.0 throughout.  The same market yields the
same bytes.  A mark beside the snapshots says that they are simulated (``mark``).

Nothing is simulated here: the values are those of ``market``, the market in which a ``World``
launches.
"""

from __future__ import annotations

import argparse
import calendar
import gzip
import os
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pyarrow import compute, csv

from spotlib.arguments import one_of, whole_number
from spotlib.sandbox import catalogue
from spotlib.sandbox.chance import Floats, uniforms
from spotlib.sandbox.mark import write_mark
from spotlib.sandbox.market import DAY_S, Market, Pool
from spotlib.sandbox.numbers import FITTED, MARKET_HELP

SLOT_S = 600.0
SLOTS_PER_DAY = 144
SMALL_SIZES = ("nano", "micro", "small", "medium")
DEMO_REGIONS = (
    "us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2", "sa-east-1",
)  # fmt: skip

# The real month had about 29,000 pools; the catalogue also has types introduced later.
_FULL_SHARE_OF_TYPES = 0.6
_COMPRESSION = 1  # a third more bytes than level 6, in a quarter of the time
_HEADER = b"Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings\n"


@dataclass(frozen=True)
class Written:
    """What was written, and where."""

    folder: Path
    pools: int
    snapshots: int
    missing: int


def write_archive(
    folder: str | os.PathLike[str],
    *,
    month: str = "2024-08",
    market: str = FITTED,
    regions: Collection[str] = DEMO_REGIONS,
    types: Collection[str] | None = None,
    days: Collection[int] | None = None,
    form: str = "csv.gz",
) -> Written:
    """Write a month, or some days of it, into ``folder``/DD/HH-MM-SS.csv.gz.

    ``market`` is a name such as ``fitted/7``, with seed 7.  ``types`` defaults to the small sizes.
    ``form`` is ``csv.gz`` or ``csv``.  An error leaves nothing behind.

    Raises
    ------
    ValueError
        If the month, a day, the market or form is invalid, no pool matches, or the folder is not
        empty.
    """
    if form not in ("csv.gz", "csv"):
        raise ValueError(f"form must be csv.gz or csv, got {form!r}")
    start, source = _start_of(month), Market.named(market)
    pools = pools_of(regions, small_types() if types is None else types)
    missing = _missing(source, start)
    month_days = range(1, _days_in(start) + 1)
    chosen = month_days if days is None else sorted(set(days))
    if wrong := [day for day in chosen if day not in month_days]:
        raise ValueError(f"{month} has the days 1 to {month_days[-1]}, got {wrong[0]}")
    written = 0
    with _all_or_nothing(Path(folder)) as root, ThreadPoolExecutor(os.cpu_count()) as writers:
        write_mark(root, market=source.name, month=month)
        for day in chosen:
            (root / f"{day:02}").mkdir()
            slots = range((day - 1) * SLOTS_PER_DAY, day * SLOTS_PER_DAY)
            snapshots = _snapshots(source, pools, start, slots, missing)
            jobs = [writers.submit(_write, root, at, rows, form) for at, rows in snapshots]
            written += sum(job.result() for job in jobs)
    return Written(Path(folder), len(pools), written, len(chosen) * SLOTS_PER_DAY - written)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to ``folder`` on success and removed on an error."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty: remove it, or name another folder")
    # Hidden, so never read as an archive; with the process id, because two may write at once.
    partial = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)  # works onto an empty folder too
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def small_types() -> list[str]:
    """The types of the small sizes that are sold as spot."""
    return [name for name in _spot_types() if name.split(".")[1] in SMALL_SIZES]


def full_types() -> list[str]:
    """All small types and most others: snapshots become as long as the real ones of 2024."""
    small = set(small_types())
    return [
        name
        for name in _spot_types()
        if name in small or uniforms(1, "in the full archive", name)[0] < _FULL_SHARE_OF_TYPES
    ]


def pools_of(regions: Collection[str], types: Collection[str]) -> list[Pool]:
    """The pools of these types in these regions."""
    wanted = set(types)
    pools = [
        Pool(name, zone_id, region)
        for region in sorted(regions)
        for name, zone_ids in catalogue.offered(region).items()
        if name in wanted
        for zone_id in zone_ids
    ]
    if not pools:
        raise ValueError(f"no pool of these types in {', '.join(sorted(regions)) or 'no region'}")
    return pools


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Write the pretend market's past as a SpotLake archive: the options of this command."""
    parser.add_argument("--month", default="2024-08", help="YYYY-MM")
    parser.add_argument("--market", default=FITTED, help=MARKET_HELP)
    parser.add_argument("--regions", nargs="+", default=list(DEMO_REGIONS))
    parser.add_argument(
        "--days", nargs="+", type=whole_number, help="days of the month (default: all)"
    )
    parser.add_argument("--full", action="store_true", help="about 29,000 pools, as the real one")
    parser.add_argument(
        "--form", type=one_of("csv.gz", "csv"), default="csv.gz", help="csv.gz (default) or csv"
    )
    parser.add_argument("--folder", type=Path, help="default: spot_dataset/sandbox/...")


def market_folder(market: str) -> str:
    """The name of a market's own folder, because two markets are never read as one archive."""
    return market.replace("/", "-")


def run(args: argparse.Namespace) -> int:
    """Write the archive of these options and print what it holds."""
    home = Path("spot_dataset") / "sandbox" / market_folder(args.market)
    folder = args.folder or home / f"aws-{args.month}"
    done = write_archive(
        folder,
        month=args.month,
        market=args.market,
        regions=catalogue.DEFAULT_REGIONS if args.full else args.regions,
        types=full_types() if args.full else None,
        days=args.days,
        form=args.form,
    )
    print(
        f"{done.folder}: {done.snapshots} snapshots of {done.pools} pools, {done.missing} missing"
        f" (simulated, market {args.market}: nothing here was measured on AWS)"
    )
    return 0


def _snapshots(
    market: Market, pools: list[Pool], start: datetime, slots: range, missing: Collection[int]
) -> Iterator[tuple[datetime, pa.Table]]:
    """The snapshots of these slots that are not missing; -1 stands for a missing value."""
    at = start.timestamp() + np.array(slots) * SLOT_S
    placement_scores = market.placement_scores(pools, at).astype(np.int8)
    if_scores = np.nan_to_num(_interruption_scores(market, pools, at), nan=-1.0)
    spot_usd = market.prices_usd(pools, at)
    present = _present(market, pools, start, at)
    on_demand_usd = np.array([market.on_demand_usd(p.instance_type, p.region) for p in pools])
    on_demand = _decimals(on_demand_usd)
    names = {
        "InstanceType": pa.array([pool.instance_type for pool in pools]),
        "Region": pa.array([pool.region for pool in pools]),
        "AZ": pa.array([pool.zone_id for pool in pools]),
    }
    for column, slot in enumerate(slots):
        if slot in missing:
            continue
        when = datetime.fromtimestamp(at[column], UTC)
        glitch, rows = _defects(market, np.flatnonzero(present[:, column]), at[column])
        spot = spot_usd[:, column]
        table = pa.table(
            {
                "Time": pa.repeat(when.strftime("%Y-%m-%d %H:%M:%S"), len(pools)),
                **names,
                "SPS": placement_scores[:, column],
                "IF": _decimals(np.full(len(pools), -1.0) if glitch else if_scores[:, column]),
                "OndemandPrice": on_demand,
                "SpotPrice": _decimals(spot),
                "Savings": (100.0 - spot * 100.0 / on_demand_usd).astype(np.int32),
            }
        )
        yield when, table.take(rows)


def _defects(market: Market, rows: NDArray[np.int64], at: float) -> tuple[bool, NDArray[np.int64]]:
    """Whether every IF of the snapshot reads -1; its rows, some of them a second time."""
    n, glitch, double = market.numbers, *uniforms(2, market.seed, "dirt", int(at))
    if double * SLOTS_PER_DAY < n.duplicate_per_day:
        again = uniforms(len(rows), market.seed, "double", int(at)) < n.duplicate_share
        rows = np.concatenate([rows, rows[again]])
    return bool(glitch * SLOTS_PER_DAY < n.glitch_per_day), rows


def _decimals(values: Floats) -> pa.Array:
    """The numbers as text.  pyarrow alone would write 3 where SpotLake has 3.0."""
    text = compute.cast(pa.array(values), pa.string())
    whole = compute.binary_join_element_wise(text, "0", ".")
    return compute.if_else(compute.match_substring(text, "."), text, whole)


def _interruption_scores(market: Market, pools: list[Pool], at: Floats) -> Floats:
    """One row per pool; the pools of a type in a region share their scores."""
    rows: dict[tuple[str, str], Floats] = {}
    types: dict[str, dict[str, None]] = {}
    for pool in pools:
        types.setdefault(pool.region, {})[pool.instance_type] = None
    for region, names in types.items():
        scores = market.interruption_scores(list(names), region, at)
        rows.update({(name, region): row for name, row in zip(names, scores, strict=True)})
    return np.array([rows[pool.instance_type, pool.region] for pool in pools])


def _present(market: Market, pools: list[Pool], start: datetime, at: Floats) -> NDArray[np.bool_]:
    """When each pool has a row: some are absent for a part of the month."""
    span = (start.timestamp(), start.timestamp() + _days_in(start) * DAY_S)
    draws = np.array([uniforms(3, market.seed, "absent", span[0], pool) for pool in pools])
    ends = span[0] + np.sort(draws[:, 1:], axis=1) * (span[1] - span[0])
    absent: NDArray[np.bool_] = (
        (draws[:, :1] < market.numbers.absent_share) & (at >= ends[:, :1]) & (at < ends[:, 1:])
    )
    return ~absent


def _missing(market: Market, start: datetime) -> set[int]:
    """Slots of the month without a snapshot, in gaps of one or a few."""
    n, slots = market.numbers, _days_in(start) * SLOTS_PER_DAY
    begins, lengths = uniforms(2 * slots, market.seed, "gap", start.date()).reshape(2, slots)
    mean = (1.0 + n.gap_most) / 2.0
    return {
        slot + offset
        for slot in np.flatnonzero(begins < n.gap_share / mean).tolist()
        for offset in range(1 + int(lengths[slot] * n.gap_most))
    }


def _write(root: Path, at: datetime, rows: pa.Table, form: str) -> int:
    text = BytesIO(_HEADER)  # by hand, because pyarrow quotes the names
    text.seek(0, os.SEEK_END)
    csv.write_csv(rows, text, csv.WriteOptions(include_header=False, quoting_style="none"))
    data = text.getvalue()
    path = root / f"{at:%d}" / f"{at:%H-%M-%S}.{form}"
    # No time in the gzip header: the same snapshot is then the same bytes.
    path.write_bytes(gzip.compress(data, _COMPRESSION, mtime=0) if form == "csv.gz" else data)
    return 1


def _spot_types() -> list[str]:
    kinds = map(catalogue.instance_type, catalogue.raw_types())
    return [kind.name for kind in kinds if kind is not None and kind.sold_as_spot]


def _start_of(month: str) -> datetime:
    try:
        return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"month must look like 2024-08, got {month!r}") from None


def _days_in(start: datetime) -> int:
    return calendar.monthrange(start.year, start.month)[1]

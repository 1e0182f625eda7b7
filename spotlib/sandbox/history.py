"""The market's past as a SpotLake archive: the same tree, columns and dirt as the real one.

``aws-YYYY-MM/DD/HH-MM-SS.csv.gz``, a full snapshot every ten minutes, in the columns SpotLake had
from 2023-06-21 to 2025-02-14.  As in the real archive some snapshots are missing, in a few every
IF reads -1, some rows are written twice, some pools are gone for a while, and types the advisor
does not list have IF -1.0 throughout.  The same market gives the same bytes.  Beside them lies a
mark that says that they are simulated (``mark``).

Nothing is simulated here: what each pool shows at each moment is ``market``'s, the very market a
``World`` launches in.
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
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from spotlib.sandbox import catalogue
from spotlib.sandbox.chance import Floats, uniforms
from spotlib.sandbox.mark import write_mark
from spotlib.sandbox.market import DAY_S, Market, Pool
from spotlib.sandbox.numbers import MARKET_HELP

SLOT_S = 600.0
SLOTS_A_DAY = 144
SMALL_SIZES = ("nano", "micro", "small", "medium")
DEMO_REGIONS = (
    "us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "ap-southeast-2", "sa-east-1",
)  # fmt: skip

# The real month had about 29,000 pools; the catalogue knows types that came later.
_FULL_SHARE_OF_TYPES = 0.6
_COMPRESSION = 1  # a third more bytes than at 6, in a quarter of the time


@dataclass(frozen=True)
class Written:
    """What an archive holds, and where."""

    folder: Path
    pools: int
    snapshots: int
    missing: int


def write_archive(
    folder: str | os.PathLike[str],
    *,
    month: str = "2024-08",
    market: str = "calm",
    regions: Collection[str] = DEMO_REGIONS,
    types: Collection[str] | None = None,
    days: Collection[int] | None = None,
    form: str = "csv.gz",
) -> Written:
    """Write a month, or some days of it, into ``folder``/DD/HH-MM-SS.csv.gz, whole or not at all.

    ``market`` names the market as an endpoint does, ``types`` are the small sizes if not given,
    ``form`` is ``csv.gz`` or ``csv``.

    Raises
    ------
    ValueError
        If there is no such month, market, form or pool, or the folder holds something already.
    """
    if form not in ("csv.gz", "csv"):
        raise ValueError(f"form must be csv.gz or csv, got {form!r}")
    start, source = _start_of(month), Market.named(market)
    pools = pools_of(regions, small_types() if types is None else types)
    missing = _missing(source, start)
    chosen = sorted(days) if days is not None else range(1, _days_in(start) + 1)
    written = 0
    with _whole(Path(folder)) as root, ThreadPoolExecutor(os.cpu_count()) as writers:
        write_mark(root, market=source.name, month=month)
        for day in chosen:
            (root / f"{day:02}").mkdir()
            first = (day - 1) * SLOTS_A_DAY
            snapshots = _snapshots(source, pools, start, range(first, first + SLOTS_A_DAY), missing)
            jobs = [writers.submit(_write, root, at, frame, form) for at, frame in snapshots]
            written += sum(job.result() for job in jobs)
    return Written(Path(folder), len(pools), written, len(chosen) * SLOTS_A_DAY - written)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes ``folder`` when all went well, and is gone if not."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something already: remove it, or name another folder")
    # Hidden, so never read as an archive; a name of its own, for two may write at once.
    partial = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)  # also onto an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def small_types() -> list[str]:
    """The types of the small sizes that are sold as spot."""
    return [name for name in _spot_types() if name.split(".")[1] in SMALL_SIZES]


def full_types() -> list[str]:
    """As many types as make a snapshot as long as the real ones of 2024: all small, most others."""
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
    """The options of ``python -m spotlib sandbox archive``."""
    parser.add_argument("--month", default="2024-08", help="YYYY-MM")
    parser.add_argument("--market", default="calm", help=MARKET_HELP)
    parser.add_argument("--regions", nargs="+", default=list(DEMO_REGIONS))
    parser.add_argument("--days", nargs="+", type=int, help="days of the month; default all")
    parser.add_argument("--full", action="store_true", help="17 regions, about 29,000 pools")
    parser.add_argument("--form", choices=("csv.gz", "csv"), default="csv.gz")
    parser.add_argument("--folder", type=Path, help="where to; default spot_dataset/sandbox/...")


def market_folder(market: str) -> str:
    """The folder of a market's archives: two markets are never read as one archive."""
    return market.replace("/", "-")


def run(args: argparse.Namespace) -> int:
    """Write the archive the options ask for and say what it holds."""
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
) -> Iterator[tuple[datetime, pl.DataFrame]]:
    """The snapshots of these slots that are not missing."""
    at = start.timestamp() + np.array(slots) * SLOT_S
    scores = market.placement_scores(pools, at).astype(np.int8)
    steps = _interruption_scores(market, pools, at)
    prices = market.prices_usd(pools, at)
    present = _present(market, pools, start, at)
    fixed = _fixed_columns(market, pools)
    for column, slot in enumerate(slots):
        if slot in missing:
            continue
        when = datetime.fromtimestamp(at[column], UTC)
        frame = fixed.with_columns(
            pl.lit(when.strftime("%Y-%m-%d %H:%M:%S")).alias("Time"),
            pl.Series("SPS", scores[:, column]),
            pl.Series("IF", steps[:, column]),
            pl.Series("SpotPrice", prices[:, column]),
        )
        frame = frame.filter(pl.Series(present[:, column]))
        yield when, _soil(market, frame, at[column])


def _fixed_columns(market: Market, pools: list[Pool]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "InstanceType": [pool.instance_type for pool in pools],
            "Region": [pool.region for pool in pools],
            "AZ": [pool.zone_id for pool in pools],
            "OndemandPrice": [market.on_demand_usd(p.instance_type, p.region) for p in pools],
        }
    )


def _soil(market: Market, frame: pl.DataFrame, at: float) -> pl.DataFrame:
    """The snapshot as it was written: -1 for what is missing, with the dirt of its moment."""
    n, glitch, double = market.numbers, *uniforms(2, market.seed, "dirt", int(at))
    if_score = pl.lit(-1.0) if glitch * SLOTS_A_DAY < n.glitch_per_day else pl.col("IF")
    savings = (100.0 - pl.col("SpotPrice") * 100.0 / pl.col("OndemandPrice")).cast(pl.Int32)
    frame = frame.select(
        "Time",
        "InstanceType",
        "Region",
        "AZ",
        "SPS",
        if_score.fill_nan(-1.0).alias("IF"),
        "OndemandPrice",
        "SpotPrice",
        savings.alias("Savings"),
    )
    if double * SLOTS_A_DAY >= n.duplicate_per_day:
        return frame
    again = uniforms(len(frame), market.seed, "double", int(at)) < n.duplicate_share
    return pl.concat([frame, frame.filter(pl.Series(again))])


def _interruption_scores(market: Market, pools: list[Pool], at: Floats) -> Floats:
    """One row a pool, from one row a type and region."""
    rows: dict[tuple[str, str], Floats] = {}
    types: dict[str, dict[str, None]] = {}
    for pool in pools:
        types.setdefault(pool.region, {})[pool.instance_type] = None
    for region, names in types.items():
        scores = market.interruption_scores(list(names), region, at)
        rows.update({(name, region): row for name, row in zip(names, scores, strict=True)})
    return np.array([rows[pool.instance_type, pool.region] for pool in pools])


def _present(market: Market, pools: list[Pool], start: datetime, at: Floats) -> NDArray[np.bool_]:
    """Where each pool has a row: some are gone for a part of the month."""
    span = (start.timestamp(), start.timestamp() + _days_in(start) * DAY_S)
    draws = np.array([uniforms(3, market.seed, "absent", span[0], pool) for pool in pools])
    ends = span[0] + np.sort(draws[:, 1:], axis=1) * (span[1] - span[0])
    gone: NDArray[np.bool_] = (
        (draws[:, :1] < market.numbers.absent_share) & (at >= ends[:, :1]) & (at < ends[:, 1:])
    )
    return ~gone


def _missing(market: Market, start: datetime) -> set[int]:
    """Slots of the month without a snapshot: gaps of one to a few."""
    n, slots = market.numbers, _days_in(start) * SLOTS_A_DAY
    begins, lengths = uniforms(2 * slots, market.seed, "gap", start.date()).reshape(2, slots)
    mean = (1.0 + n.gap_most) / 2.0
    return {
        slot + late
        for slot in np.flatnonzero(begins < n.gap_share / mean).tolist()
        for late in range(1 + int(lengths[slot] * n.gap_most))
    }


def _write(root: Path, at: datetime, frame: pl.DataFrame, form: str) -> int:
    data = frame.write_csv().encode()
    path = root / f"{at:%d}" / f"{at:%H-%M-%S}.{form}"
    # No time in the gzip header, so that the same snapshot is the same bytes.
    path.write_bytes(gzip.compress(data, _COMPRESSION, mtime=0) if form == "csv.gz" else data)
    return 1


def _spot_types() -> list[str]:
    known = map(catalogue.instance_type, catalogue.raw_types())
    return [kind.name for kind in known if kind is not None and kind.sold_as_spot]


def _start_of(month: str) -> datetime:
    try:
        return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"month must look like 2024-08, got {month!r}") from None


def _days_in(start: datetime) -> int:
    return calendar.monthrange(start.year, start.month)[1]

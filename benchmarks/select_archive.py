"""A SpotLake look-alike of real size, for the benchmarks: 832 types, 55 zones, ~29,000 pools.

Values move rarely (about 97 % of the pools hold their SPS all day), prices a little more often;
a few IF cells glitch to -1 and a few snapshots are missing, as in the real months.
"""

import argparse
import gzip
import zipfile
from concurrent.futures import ProcessPoolExecutor
from datetime import date, datetime, time, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl

SNAPSHOTS = 144
ZONES = {
    "us-east-1": ("use1", 6),
    "us-east-2": ("use2", 3),
    "us-west-1": ("usw1", 2),
    "us-west-2": ("usw2", 4),
    "ca-central-1": ("cac1", 3),
    "sa-east-1": ("sae1", 3),
    "eu-west-1": ("euw1", 3),
    "eu-west-2": ("euw2", 3),
    "eu-west-3": ("euw3", 3),
    "eu-central-1": ("euc1", 3),
    "eu-north-1": ("eun1", 3),
    "ap-south-1": ("aps1", 3),
    "ap-southeast-1": ("apse1", 3),
    "ap-southeast-2": ("apse2", 3),
    "ap-northeast-1": ("apne1", 3),
    "ap-northeast-2": ("apne2", 4),
    "ap-northeast-3": ("apne3", 3),
}
SERIES = ["5", "5d", "6g", "6gd", "6i", "7g", "7i", "7a"]
FAMILIES = [f"{letter}{series}" for letter in "mcrtixgp" for series in SERIES]
SIZES = ["nano", "micro", "small", "medium", "large", "xlarge"]
SIZES += [f"{count}xlarge" for count in (2, 4, 8, 12, 24, 48)] + ["metal"]


def write_day(folder: Path, day: date, *, seed: int = 0, form: str = "csv.gz") -> None:
    """Write one day as ``folder/aws-YYYY-MM/DD/HH-MM-SS.<form>``."""
    rows = _pools(seed)
    rng = np.random.default_rng([seed, day.toordinal()])
    tightness = np.random.default_rng(seed).random(len(rows))
    sps = np.select([tightness < 0.1, tightness < 0.15], [1, 2], 3)
    pairs = rows.select(pl.struct("InstanceType", "Region").rank("dense")).to_series().to_numpy()
    halves = _advisor(pairs.max() + 1, day, seed)[pairs]
    demand = np.random.default_rng(seed).lognormal(-1, 1.2, len(rows)).round(4)
    spot = (demand * 0.4).round(4)
    moving = np.flatnonzero(tightness < 0.2)
    for snapshot in range(SNAPSHOTS):
        shifted = rng.choice(moving, 40, replace=False)
        sps[shifted] = np.clip(sps[shifted] + rng.choice([-1, 1], 40), 1, 3)
        repriced = rng.choice(len(rows), 300, replace=False)
        spot[repriced] = (demand[repriced] * rng.uniform(0.2, 0.7, 300)).round(4)
        shown = halves
        if snapshot % 20 == 7:  # a glitch of one pair
            shown = np.where(pairs == rng.integers(pairs.max()), -2, halves)
        at = datetime.combine(day, time()) + timedelta(minutes=10 * snapshot)
        table = rows.select(
            Time=pl.lit(f"{at:%Y-%m-%d %H:%M:%S}"),
            InstanceType="InstanceType",
            Region="Region",
            AZ="AZ",
            SPS=pl.Series(sps),
            IF=pl.Series(shown / 2),
            OndemandPrice=pl.Series(demand),
            SpotPrice=pl.Series(spot),
            Savings=pl.Series((100 - spot * 100 / demand).astype(np.int64)),
        )
        path = folder / f"aws-{day:%Y-%m}" / f"{day:%d}" / f"{at:%H-%M-%S}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = table.write_csv().encode()
        path.write_bytes(gzip.compress(text, 6) if form == "csv.gz" else text)


def write_zip(folder: Path, path: Path) -> None:
    """Pack the tree below ``folder`` as SpotLake does: stored, because it is already gzipped."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*.csv.gz")):
            archive.write(file, file.relative_to(folder))


def write_parquet(folder: Path, out: Path) -> None:
    """Convert the csv tree below ``folder`` to one Parquet file per day, sorted by pool."""
    for day in sorted(folder.glob("aws-*/*")):
        files = sorted(day.glob("*.csv.gz"))
        rows = pl.concat(pl.read_csv(file, try_parse_dates=True) for file in files)
        path = out / day.parent.name / f"{day.parent.name}-{day.name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.sort("InstanceType", "Region", "AZ", "Time").write_parquet(
            path, row_group_size=1 << 20
        )


def _advisor(pairs: int, day: date, seed: int) -> np.ndarray:
    """IF in halves (-2 is missing) of each pair: one in twelve moves every nine days."""
    rng = np.random.default_rng(seed)
    shares = [0.02, 0.24, 0.07, 0.14, 0.23, 0.3]
    halves = rng.choice([-2, 2, 3, 4, 5, 6], pairs, p=shares)
    for _ in range(day.day // 9):
        moved = rng.random(pairs) < 1 / 12
        halves[moved] = rng.choice([2, 3, 4, 5, 6], moved.sum())
    return halves


def _pools(seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    zones = [
        (region, f"{prefix}-az{zone}")
        for region, (prefix, many) in ZONES.items()
        for zone in range(1, many + 1)
    ]
    types = [f"{family}.{size}" for family in FAMILIES for size in SIZES]
    rows = [(name, *zone) for name in types for zone in zones if rng.random() < 0.64]
    return pl.DataFrame(rows, schema=["InstanceType", "Region", "AZ"], orient="row")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=1)
    parser.add_argument("--form", default="csv.gz", choices=["csv", "csv.gz"])
    options = parser.parse_args()
    days = [date(2024, 8, 1) + timedelta(days=after) for after in range(options.days)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(write_day, options.folder, form=options.form), days))

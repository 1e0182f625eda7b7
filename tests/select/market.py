"""A tiny spot market with a known history, written in every form SpotLake has had."""

import gzip
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

ERAS = {
    "a": "SpotPrice,Savings,SPS,AZ,Region,InstanceType,IF,time",
    "b1": "InstanceType,AZ,SpotPrice,Region,SPS,OndemandPrice,IF,Savings",
    "b2": "InstanceType,AZ,SpotPrice,Region,SPS,OndemandPrice,IF,Savings,time,id",
    "c": "Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings",
    "d": "Time,InstanceType,Region,AZ,SPS,T3,T2,IF,OndemandPrice,SpotPrice,Savings",
}
FIRST_DAY = date(2024, 8, 1)


@dataclass
class Market:
    """What each pool showed in each snapshot: ``rows`` has at, type, region, zone, sps, if.

    T3 too if it matters.
    """

    rows: pd.DataFrame = field(repr=False)

    @property
    def times(self) -> list[datetime]:
        return sorted(self.rows["at"].unique())

    def snapshot(self, at: datetime) -> pd.DataFrame:
        return self.rows[self.rows["at"] == at]


def random_market(*, days: int = 2, snapshots: int = 6, seed: int = 0, missing: float = 0.05):
    """Pools of two regions whose SPS and IF walk; some snapshots lack a pool or a value."""
    rng = np.random.default_rng(seed)
    zones = {"us-east-1": ["use1-az1", "use1-az4", "use1-az6"], "sa-east-1": ["sae1-az1"]}
    rows = []
    for instance_type in ("t3.nano", "t4g.medium", "m6gd.medium", "c5.xlarge", "u-6tb1.metal"):
        for region, names in zones.items():
            halves = rng.integers(2, 7)
            sps = dict.fromkeys(names, 3)
            for snapshot in range(days * snapshots):
                at = datetime(2024, 8, 1, tzinfo=UTC) + timedelta(
                    days=snapshot // snapshots, minutes=10 * (snapshot % snapshots)
                )
                if rng.random() < 0.1:
                    halves = rng.integers(2, 7)
                if_score = np.nan if rng.random() < missing else halves / 2
                for zone in names:
                    if rng.random() < 0.2:
                        sps[zone] = int(rng.integers(1, 4))
                    if rng.random() < 0.95:
                        rows.append((at, instance_type, region, zone, sps[zone], if_score))
    return market(rows)


def market(rows) -> Market:
    columns = ["at", "instance_type", "region", "zone", "sps", "if_score"]
    return Market(pd.DataFrame(rows, columns=columns))


def csv_text(
    snapshot: pd.DataFrame, *, era: str = "c", missing: str = "-1", sps_suffix: str = ""
) -> str:
    """A snapshot as its era wrote it; ``missing`` is -1, or empty as in the open data."""
    lines = [ERAS[era]]
    for number, row in enumerate(snapshot.itertuples(), start=1):
        if_missing = "" if missing == "" else f"{missing}.0"
        t3 = getattr(row, "t3", 50)
        cells = {
            "InstanceType": row.instance_type,
            "Region": row.region,
            "AZ": row.zone,
            "SPS": missing if pd.isna(row.sps) else f"{int(row.sps)}{sps_suffix}",
            "IF": if_missing if pd.isna(row.if_score) else f"{row.if_score:.1f}",
            "OndemandPrice": "0.0052",
            "SpotPrice": "0.0021",
            "Savings": "59",
            "T3": "" if pd.isna(t3) else f"{t3:g}",
            "T2": "50",
            "Time": f"{row.at:%Y-%m-%d %H:%M:%S}",
            "time": f"{row.at:%Y-%m-%d %H:%M:%S}+00:00",
            "id": str(number),
        }
        lines.append(",".join(cells[name] for name in ERAS[era].split(",")))
    return "\n".join(lines) + "\n"


def write_tree(market: Market, root: Path, *, suffix: str = ".csv.gz", **text) -> Path:
    """``root/aws-YYYY-MM/DD/HH-MM-SS``; the form users unpack."""
    return _write(market, root, "aws-%Y-%m/%d/%H-%M-%S", suffix, **text)


def write_open_data(market: Market, root: Path) -> Path:
    """``root/data/aws/YYYY/MM/DD/HH-MM-SS.csv.gz`` with empty cells, as in 2025's sample."""
    path = "data/aws/%Y/%m/%d/%H-%M-%S"
    return _write(market, root, path, ".csv.gz", era="d", missing="", sps_suffix="")


def write_zip(market: Market, root: Path) -> Path:
    """The month as downloaded: gzipped members, stored."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "aws-2024-08.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for at in market.times:
            data = gzip.compress(csv_text(market.snapshot(at)).encode())
            archive.writestr(f"{at:aws-%Y-%m/%d/%H-%M-%S}.csv.gz", data)
    return path


def write_parquet(market: Market, root: Path, *, zipped: bool = False) -> Path:
    """One file per day, with -1 kept for missing and the columns that its era lacked as nulls."""
    for day in sorted({at.date() for at in market.times}):
        rows = market.rows[[at.date() == day for at in market.rows["at"]]]
        frame = pl.DataFrame(
            {
                "Time": pl.Series(
                    [at.replace(tzinfo=None) for at in rows["at"]], dtype=pl.Datetime("us")
                ),
                "InstanceType": rows["instance_type"].to_list(),
                "Region": rows["region"].to_list(),
                "AZ": rows["zone"].to_list(),
                "SPS": pl.Series(rows["sps"].fillna(-1).astype(int).to_list(), dtype=pl.Int64),
                "T3": pl.Series(_whole_or_none(rows), dtype=pl.Int64),
                "IF": pl.Series(rows["if_score"].fillna(-1.0).to_list(), dtype=pl.Float64),
                "SpotPrice": [0.0021] * len(rows),
            }
        )
        path = root / f"{day:aws-%Y-%m}" / f"{day:aws-%Y-%m-%d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.sort("InstanceType", "Region", "AZ", "Time").write_parquet(path)
    if not zipped:
        return root
    with zipfile.ZipFile(root.with_suffix(".zip"), "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(root.rglob("*.parquet")):
            archive.write(path, path.relative_to(root))
    return root.with_suffix(".zip")


def _whole_or_none(rows: pd.DataFrame) -> list[int | None]:
    t3 = rows.get("t3", pd.Series(np.nan, rows.index))
    return [None if pd.isna(value) else int(value) for value in t3]


def _write(market: Market, root: Path, pattern: str, suffix: str, **text) -> Path:
    for at in market.times:
        path = root / f"{at.strftime(pattern)}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = csv_text(market.snapshot(at), **text).encode()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    return root


def naive_counts(market: Market) -> pd.DataFrame:
    """The same counts by a plain group-by: the independent way."""
    rows = market.rows.assign(day=market.rows["at"].dt.date)
    keys = ["region", "instance_type", "zone", "sps", "if_score", "day"]
    return rows.groupby(keys, dropna=False).size().rename("snapshots").reset_index()

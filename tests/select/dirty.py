"""Random dirty archives on disk, and what a plain pandas reading of their rows gives.

The reference shares nothing with the product: it holds every row of every snapshot that counts and
groups them by name.  What counts is decided here by the documented rules: of several files of the
same ten minutes the first good one, exact repeats once (in the study each time), rows that
contradict each other unknown (in the study each by itself), rows without a name not at all.
"""

import gzip
import random
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

COLUMNS = ["at", "InstanceType", "Region", "AZ", "SPS", "IF"]
PAIR = ["InstanceType", "Region"]
ZONE = [*PAIR, "AZ"]
TYPES = ["t3.nano", "t4g.small", "c5.xlarge", "m6gd.medium"]
REGIONS = {"us-east-1": ["use1-az1", "use1-az4"], "sa-east-1": ["sae1-az1"]}
ORDERS = [
    "Time,InstanceType,Region,AZ,SPS,IF,OndemandPrice,SpotPrice,Savings",
    "InstanceType,AZ,SpotPrice,Region,SPS,OndemandPrice,IF,Savings",
    "SpotPrice,Savings,SPS,AZ,Region,InstanceType,IF,time",
]
NAMES = ["%H-%M-%S.csv", "%H:%M:%S.csv.gz", "%H_%M_%S.CSV.GZ", "%H.%M.%S.csv", "%H-%M-%S.csv.gz"]


@dataclass
class Dirty:
    """An archive on disk, and the rows of it that count: one for each as written."""

    folder: Path
    rows: pd.DataFrame = field(repr=False)
    snapshots: int = 0  # that can be read, also if they name no pool
    bad_files: int = 0
    is_lost: bool = False  # whether a snapshot has no good file


def dirty_archive(folder: Path, seed: int) -> Dirty:
    """Write an archive of up to three days, each csv or Parquet, with defects of every kind."""
    rng = random.Random(seed)
    pools = [
        (kind, region, zone)
        for kind in rng.sample(TYPES, rng.randint(1, 3))
        for region, zones in REGIONS.items()
        for zone in zones
        if rng.random() < 0.8
    ] or [("t3.nano", "us-east-1", "use1-az1")]
    state = {pool: (rng.choice([1, 2, 3]), rng.choice([1.0, 2.0, 3.0])) for pool in pools}
    found = Dirty(folder, pd.DataFrame())
    kept = []
    first_day = datetime(2024, 8, rng.randint(1, 25), tzinfo=UTC)
    for day in rng.sample(range(4), rng.randint(1, 3)):
        midnight = first_day + timedelta(days=day)
        slots = sorted(rng.sample(range(144), rng.randint(1, 9)))
        shown = []
        for slot in slots:
            at = midnight + timedelta(minutes=10 * slot)
            at += timedelta(minutes=rng.choice([0, 0, 0, 3]))
            shown.append((at, _snapshot(rng, state)))
        write = _write_parquet_day if rng.random() < 0.3 else _write_csv_day
        kept += write(rng, found, midnight, shown)
    found.rows = pd.DataFrame(kept, columns=COLUMNS).astype({"SPS": float, "IF": float})
    return found


def _snapshot(rng, state):
    """Rows (pool, SPS, IF) in any order; NaN is an empty cell, -1 the archive's code."""
    nan = float("nan")
    rows = []
    for pool in state:
        if rng.random() < 0.25:
            state[pool] = (rng.choice([1, 2, 3, 3, 7]), rng.choice([1.0, 1.5, 2.0, 2.5, 3.0]))
        sps, if_score = state[pool]
        if rng.random() < 0.12:
            sps = rng.choice([nan, -1])
        if rng.random() < 0.15:
            if_score = rng.choice([nan, -1.0])
        if rng.random() < 0.9:
            rows += [(pool, sps, if_score)] * rng.choice([1, 1, 1, 1, 2, 3])
        if rng.random() < 0.04:
            rows.append((pool, rng.choice([1, 2, 3]), if_score))
    if rng.random() < 0.1:
        rows.append((("t3.nano", "", ""), -1, 2.0))
    rng.shuffle(rows)
    return rows or [(next(iter(state)), 3, 2.0)]


def _kept(at, rows):
    return [(at, *pool, sps, if_score) for pool, sps, if_score in rows if all(pool)]


def _write_csv_day(rng, found, midnight, shown):
    kept, order = [], rng.choice(ORDERS)
    zipped = rng.random() < 0.25
    members = {}
    found.snapshots += len(shown)
    for at, rows in shown:
        text = _csv(rng, order, at, rows)
        name = at.strftime(rng.choice(NAMES))
        members[name] = gzip.compress(text) if name.lower().endswith(".gz") else text
        fate = rng.random()
        if fate < 0.1 and not zipped:  # a bad copy, first in the order of names
            found.bad_files += 1
            del members[name]
            members[at.strftime("%H-%M-%S.csv")] = b"damaged"
            members[at.strftime("%H_%M_%S.csv")] = text
        elif fate < 0.2 and not zipped:  # a later snapshot of the same ten minutes
            later = at.replace(minute=at.minute // 10 * 10 + 7)
            members[later.strftime("%H-%M-%S.csv")] = _csv(rng, order, later, rows[:1])
        elif fate < 0.25:
            found.bad_files += 1
            found.is_lost = True
            found.snapshots -= 1
            members[name] = members[name][:-9] if name.lower().endswith(".gz") else b"damaged"
            continue
        kept += _kept(at, rows)
    _write(found.folder, midnight, members, zipped=zipped)
    return kept


def _write(folder, midnight, members, *, zipped):
    folder.mkdir(exist_ok=True)
    for name, data in members.items():
        path = folder / f"{midnight:aws-%Y-%m/%d}" / name
        if zipped:
            with zipfile.ZipFile(folder / f"{midnight:day-%d}.ZIP", "a") as archive:
                archive.writestr(str(path.relative_to(folder)), data)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _csv(rng, order, at, rows):
    suffix = rng.choice(["", "", ".0"])
    lines = [order]
    for (kind, region, zone), sps, if_score in rows:
        cells = {
            **{"InstanceType": kind, "Region": region, "AZ": zone},
            "SPS": "" if np.isnan(sps) else f"{int(sps)}{suffix}",
            "IF": "" if np.isnan(if_score) else f"{if_score:.1f}",
            **{"OndemandPrice": "0.0052", "SpotPrice": rng.choice(["0.0021", "", "-1.0"])},
            **{"Savings": "59", "Time": f"{at:%Y-%m-%d %H:%M:%S}", "time": f"{at}"},
        }
        lines.append(",".join(cells[name] for name in order.split(",")))
    return ("\n".join(lines) + "\n").encode()


def _write_parquet_day(rng, found, midnight, shown):
    """The day in one file; at times beside a stray csv, or a snapshot that only a csv has."""
    kept = [row for at, rows in shown for row in _kept(at, rows)]
    frame = pl.DataFrame(
        [
            (at.replace(tzinfo=None), *pool, None if np.isnan(sps) else int(sps),
             None if np.isnan(if_score) else if_score)
            for at, rows in shown
            for pool, sps, if_score in rows
        ],
        schema={"Time": pl.Datetime("us"), "InstanceType": pl.String, "Region": pl.String,
                "AZ": pl.String, "SPS": pl.Int64, "IF": pl.Float64},
        orient="row",
    )  # fmt: skip
    if rng.random() < 0.5:
        frame = frame.sort("InstanceType", "Region", "AZ", "Time")
    found.snapshots += len(shown)
    path = found.folder / f"{midnight:aws-%Y-%m/aws-%Y-%m-%d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path, row_group_size=rng.choice([7, 1000]))
    taken = {(at.hour, at.minute // 10) for at, _ in shown}
    at = midnight + timedelta(minutes=10 * rng.randrange(144))
    if rng.random() < 0.4:
        rows = shown[0][1][:2]
        _write(
            found.folder,
            midnight,
            {f"{at:%H-%M-%S}.csv": _csv(rng, ORDERS[0], at, rows)},
            zipped=False,
        )
        if (at.hour, at.minute // 10) not in taken:
            found.snapshots += 1
            kept += _kept(at, rows)
    return kept


def as_the_study(rows: pd.DataFrame) -> pd.DataFrame:
    """Standard deviation over mean of the rows as they are: -1 is a value, empty is none."""
    grouped = rows.groupby(PAIR)[["SPS", "IF"]]
    return _ratio(grouped.std(), grouped.mean())


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per zone and snapshot, missing values as NaN; contradictions are all NaN."""
    slots = rows.assign(at=rows["at"].dt.floor("10min"))
    different = slots.drop_duplicates()
    cells = different.drop_duplicates(["at", *ZONE]).set_index(["at", *ZONE])
    disputed = different.loc[different.duplicated(["at", *ZONE]), ["at", *ZONE]]
    cells.loc[pd.MultiIndex.from_frame(disputed), ["SPS", "IF"]] = np.nan
    return cells.replace(-1.0, np.nan).reset_index().sort_values("at", ignore_index=True)


def dropping(rows: pd.DataFrame, *, within: bool) -> pd.DataFrame:
    """The same over one row per zone and snapshot, without the missing ones."""
    table = cells(rows)
    grouped = table.groupby(PAIR)[["SPS", "IF"]]
    if not within:
        return _ratio(grouped.std(), grouped.mean())
    centred = table[["SPS", "IF"]] - table.groupby(ZONE)[["SPS", "IF"]].transform("mean")
    squares = (centred**2).groupby([table[name] for name in PAIR]).sum()
    zones = table.groupby(ZONE)[["SPS", "IF"]].count().gt(0).groupby(PAIR).sum()
    freedom = grouped.count() - zones
    return _ratio(np.sqrt(squares / freedom.where(freedom > 0)), grouped.mean())


def _ratio(std, mean):
    return (std / mean).where(mean != 0)


def coverage(rows: pd.DataFrame, snapshots: int) -> "pd.Series[float]":
    """The share of the snapshots read that show both values, over all zones ever listed."""
    table = cells(rows)
    known = table[["SPS", "IF"]].notna().all(axis=1).groupby([table[name] for name in PAIR]).sum()
    zones = table[ZONE].drop_duplicates().groupby(PAIR).size()
    return known / (zones * snapshots)


def changes(rows: pd.DataFrame, column: str, *, within_days: bool) -> "pd.Series[int]":
    """How often a zone's value differs from its last known one, over the zones of each pair."""
    table = cells(rows)
    known = table[table[column].notna()]
    series = [*ZONE, known["at"].dt.date] if within_days else ZONE
    differs = known.groupby(series)[column].diff().fillna(0).ne(0)
    return differs.groupby([known[name] for name in PAIR]).sum()

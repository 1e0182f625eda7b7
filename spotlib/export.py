"""Tables for others: the training, per-request and batch tables as Parquet and CSV, and imports.

``python -m spotlib export`` writes them with a data dictionary; ``--public`` replaces what tells
of us (account, endpoints, batch, request and instance ids) by salted aliases that still join, and
adds what a published data set needs.  Simulated and real launches go to different folders and
are never in one file.  No number is made here: ``training`` does that.
"""

import argparse
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

import spotlib
from spotlib.analyze.comparable import SAME_VARIABLE
from spotlib.forecast.training import (
    COLUMNS,
    data_dictionary,
    left_out,
    names_of,
    request_table,
    training_table,
)
from spotlib.model import Stage
from spotlib.record.tables import POLL_COLUMNS, load_batches, load_launches
from spotlib.workspace import results_folder

Files = dict[str, bytes]
ORIGINAL_COLUMNS = (
    *("region", "instance", "instance_count"),
    *("request_time", "current_time", "ready_instances"),
)
_PLAIN_ENDPOINTS = ("aws", "sandbox")  # they tell nothing of us
_TELLING = re.compile(rb"\barn:aws|\bsir-[0-9a-z]{6,}|\bi-[0-9a-f]{8,17}\b")
_SPOTLAKE = (
    'S. Lee, J. Hwang, K. Lee, "SpotLake: Diverse Spot Instance Dataset Archive Service", '
    "IEEE International Symposium on Workload Characterization (IISWC), 2022."
)
_SPOTLAKE_LICENCE = (
    "The targets were selected from SpotLake data (spotlake.ddps.cloud, DDPS Lab), which are "
    "licensed CC BY-NC 4.0: name the source, no commercial use."
)
_SPOTLAKE_REFERENCE = {
    "type": "conference-paper",
    "title": "SpotLake: Diverse Spot Instance Dataset Archive Service",
    "authors": [
        {"family-names": "Lee", "given-names": "S."},
        {"family-names": "Hwang", "given-names": "J."},
        {"family-names": "Lee", "given-names": "K."},
    ],
    "collection-title": "IEEE International Symposium on Workload Characterization (IISWC)",
    "year": 2022,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``python -m spotlib export``."""
    parser.add_argument("--results", default="", help="the results folder (default: results)")
    parser.add_argument("--to", help="where to write (default: export in the results folder)")
    parser.add_argument("--stage", choices=["fulfilled", "running", "ready"], default="ready")
    parser.add_argument("--public", action="store_true", help="scrub identities, for publishing")
    parser.add_argument(
        "--salt-file",
        help="the secret behind the aliases, made if missing (default: export.salt in results); "
        "exports of one salt join, and nobody must get it",
    )
    parser.add_argument("--licence", default="", help="of your data, such as CC-BY-4.0")
    parser.add_argument("--author", default="", help="whom CITATION.cff names")


def run(given: argparse.Namespace) -> int:
    """Export what ``results/launches`` holds; 1 if there is nothing to export."""
    results = results_folder(given.results)
    salt_file = Path(given.salt_file) if given.salt_file else results / "export.salt"
    written = export(
        load_launches(results / "launches"),
        load_batches(results / "launches"),
        to=Path(given.to) if given.to else results / "export",
        stage=Stage[given.stage.upper()],
        salt=_salt(salt_file) if given.public else None,
        licence=given.licence,
        author=given.author,
        spotlake=_selected_from_spotlake(results),
        created_at=datetime.now(UTC),
    )
    for path in written:
        print(path)
    if not written:
        print(f"there is no launch to export in {results / 'launches'}", file=sys.stderr)
    return 0 if written else 1


def export(
    launches: pd.DataFrame,
    batches: pd.DataFrame,
    *,
    to: Path,
    created_at: datetime,
    stage: Stage = Stage.READY,
    salt: bytes | None = None,
    licence: str = "",
    author: str = "",
    spotlake: bool = False,
) -> list[Path]:
    """Write the tables under ``to``, in ``simulated/`` and ``real/``; the files written.

    With a ``salt`` the export is public: identities become aliases, and manifest, checksums,
    licence note and citation are added.  ``spotlake`` says that a selection made from SpotLake
    data stands behind the launches.

    Raises
    ------
    ValueError
        If a public file would still hold an identity; nothing is written then.
    """
    kinds: dict[str, Files] = {}
    simulated = launches["simulated"].fillna(False).astype(bool)
    for kind, chosen in (("simulated", simulated), ("real", ~simulated)):
        part = launches[chosen]
        if part.empty:
            continue
        tables, notes = _tables(part, batches, stage)
        shown = _scrub(tables, salt) if salt is not None else tables
        files = _table_files(shown)
        behind = spotlake and kind == "real"
        files["README.md"] = _readme(kind, stage, notes, spotlake=behind).encode()
        if salt is not None:
            _require_scrubbed(files, tables)
            files |= _papers(licence, author, created_at, kind, spotlake=behind)
            files |= _manifest(files, shown, stage, created_at, kind)
        kinds[kind] = files
    return [_write(to / kind / name, data) for kind in kinds for name, data in kinds[kind].items()]


def read_original_study(
    path: str | Path, *, endpoint: str = "original study on AWS"
) -> pd.DataFrame:
    """A CSV of the original study as ``polls``: one row a look, what it did not record empty.

    Its times are whole POSIX seconds: ``request_time`` when the request call had *answered*,
    ``current_time`` when a look had.  So ``answered_s`` is short by the call's latency and right
    to a second; when a look was sent is unknown.  ``ready_instances`` is what one look showed and
    may fall.  The rows carry their own ``endpoint``: not ours, never pooled with ours silently.

    Raises
    ------
    ValueError
        If a column is missing, a time runs backwards, or more are ready than were asked for.
    """
    table = pd.read_csv(path)
    missing = [name for name in ORIGINAL_COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing} of the original study")
    _require_plausible(path, table)
    run = ["region", "instance", "instance_count"]
    polls = pd.DataFrame(
        {
            "simulated": False,
            "endpoint": endpoint,
            "batch_id": f"original-{Path(path).stem}",
            "round": table.groupby(run)["request_time"].rank("dense").astype(int) - 1,
            "plan": table.groupby(run, sort=False).ngroup(),
            "instance_type": table["instance"],
            "region": table["region"],
            "method": "request_spot_instances",
            "wanted": "ready",
            "n": table["instance_count"],
            "tick": table.groupby([*run, "request_time"]).cumcount(),
            "answered_s": (table["current_time"] - table["request_time"]).astype(float),
            "at": pd.to_datetime(table["current_time"], unit="s", utc=True),
            "ready": table["ready_instances"],
        }
    ).reindex(columns=list(POLL_COLUMNS))
    counts = ["round", "plan", "n", "tick", "accepted", "fulfilled", "running", "ready"]
    kinds = dict.fromkeys(counts, "Int64") | {"simulated": "boolean", "asked_s": "float64"}
    return polls.astype(kinds | {"timeout_s": "float64"})


def _require_plausible(path: str | Path, table: pd.DataFrame) -> None:
    if (table["current_time"] < table["request_time"]).any():
        raise ValueError(f"{path} has a current_time before its request_time")
    if not table["ready_instances"].between(0, table["instance_count"]).all():
        raise ValueError(f"{path} has ready_instances outside 0 to instance_count")


def _tables(
    launches: pd.DataFrame, batches: pd.DataFrame, stage: Stage
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The tables of one kind of launches, and in words what is not in them."""
    training, requests, notes = [], [], []
    for values, group in launches.groupby(list(SAME_VARIABLE), dropna=False):
        try:
            training.append(training_table(group, stage=stage))
            requests.append(request_table(group, stage=stage))
        except ValueError as error:
            notes.append(f"{', '.join(map(str, values[2:]))}: {error}")
    for row in left_out(launches).to_dict("records"):
        notes.append(f"{row['reason']}: {row['runs']} runs, {row['requests']} requests")
    mine = batches[batches["batch_id"].isin(launches["batch_id"])]
    empty = {name: pd.DataFrame(columns=names_of(name)) for name in ("training", "requests")}
    return {
        "training": pd.concat(training, ignore_index=True) if training else empty["training"],
        "requests": pd.concat(requests, ignore_index=True) if requests else empty["requests"],
        "batches": mine[names_of("batches")].reset_index(drop=True),
    }, notes


# Identities.


def _scrub(tables: Mapping[str, pd.DataFrame], salt: bytes) -> dict[str, pd.DataFrame]:
    """The tables with every column that tells of us as aliases, alike in all tables."""
    return {
        name: table.assign(
            **{
                column.name: table[column.name].map(
                    lambda value, kind=column.identity: _alias(value, kind, salt),
                    na_action="ignore",
                )
                for column in COLUMNS[name]
                if column.identity
            }
        )
        for name, table in tables.items()
    }


def _alias(value: object, kind: str, salt: bytes) -> str:
    """A name that is the same for the same value and salt, and tells nothing without the salt.

    A plain hash would not do: there are only 10^12 account ids to try.
    """
    if kind == "host" and _is_plain(value):
        return str(value)
    secret = hmac.new(salt, f"{kind}:{value}".encode(), hashlib.sha256)
    return f"{kind}-{secret.hexdigest()[:16]}"


def _is_plain(endpoint: object) -> bool:
    """Also sandbox/tight: a market tells nothing of us either."""
    return str(endpoint).partition("/")[0] in _PLAIN_ENDPOINTS


def _require_scrubbed(files: Files, tables: Mapping[str, pd.DataFrame]) -> None:
    """Look through the bytes for what must not be there, whatever was meant to happen."""
    known = {
        str(value).encode()
        for name, kind in (("batches", "account"), ("batches", "batch_id"), ("batches", "endpoint"))
        for value in tables[name][kind].dropna().unique()
        if not _is_plain(value)
    }
    for name, data in files.items():
        found = _TELLING.search(data)
        if found or any(value in data for value in known):
            raise ValueError(f"{name} would still hold an identity: nothing was written")


def _salt(path: Path) -> bytes:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip().encode()


def _selected_from_spotlake(results: Path) -> bool:
    selections = (results / "selection").glob("*.csv")
    return any("spotlake" in set(pd.read_csv(each)["source"]) for each in selections)


# Files.


def _table_files(tables: Mapping[str, pd.DataFrame]) -> Files:
    files: Files = {}
    for name, table in tables.items():
        frame, packed = to_polars(table), io.BytesIO()
        frame.write_parquet(packed)
        files[f"{name}.parquet"] = packed.getvalue()
        files[f"{name}.csv"] = frame.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ").encode()
    files["dictionary.csv"] = data_dictionary().to_csv(index=False).encode()
    return files


def to_polars(table: pd.DataFrame) -> pl.DataFrame:
    """A table for Parquet: aware times in UTC, NaN and None as null, everything else as it is."""
    return pl.DataFrame([_series(str(name), table[name]) for name in table.columns])


def _series(name: str, values: "pd.Series[Any]") -> pl.Series:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        instants = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]")
        return pl.Series(name, instants).dt.replace_time_zone("UTC")
    if pd.api.types.is_float_dtype(values.dtype):
        return pl.Series(name, values.to_numpy(np.float64), nan_to_null=True)
    if pd.api.types.is_bool_dtype(values.dtype):
        return pl.Series(name, values.astype(object).where(values.notna(), None), pl.Boolean)
    if pd.api.types.is_integer_dtype(values.dtype):
        return pl.Series(name, values.astype(object).where(values.notna(), None), pl.Int64)
    words = [None if pd.isna(value) else str(value) for value in values]
    return pl.Series(name, words, pl.String)


def _readme(kind: str, stage: Stage, notes: Iterable[str], *, spotlake: bool) -> str:
    what = (
        "**SIMULATED** launches of the sandbox, not of AWS"
        if kind == "simulated"
        else ("launches of EC2 spot instances")
    )
    lines = [
        f"# Launch times to {stage.label}",
        "",
        f"These tables hold {what}.",
        "A run (batch_id, round, plan) is the sample: instances of one run are not independent.",
        "`dictionary.csv` describes every column; Parquet and CSV hold the same.",
        "",
        "- `training`: one row a run and elapsed time, to be used with its `weight`. Split it by",
        "  whole runs in the order of time, or by target, never by row.",
        "- `requests`: one row a request, interval- and right-censored.",
        "- `batches`: one row a batch; join by `batch_id`.",
        "",
        "```python",
        "import pandas as pd",
        'requests = pd.read_parquet("requests.parquet")',
        "from lifelines import KaplanMeierFitter",
        'KaplanMeierFitter().fit_interval_censoring(requests["lower_s"], requests["upper_s"])',
        "```",
        "",
        "Left out: " + ("; ".join(notes) or "nothing") + ".",
    ]
    return "\n".join([*lines, *(["", _SPOTLAKE_LICENCE, _SPOTLAKE] if spotlake else []), ""])


def _papers(licence: str, author: str, created_at: datetime, kind: str, *, spotlake: bool) -> Files:
    note = (
        f"These data are licensed {licence}."
        if licence
        else ("Their authors have not named a licence yet: ask them before using these data.")
    )
    notes = [note, *([_SPOTLAKE_LICENCE, "Cite: " + _SPOTLAKE] if spotlake else [])]
    citation = {
        "cff-version": "1.2.0",
        "message": "If you use these data, please cite them and what they rest on.",
        "type": "dataset",
        "title": f"EC2 spot instance launch times ({kind})",
        "authors": [{"name": author or "the authors of these data"}],
        "date-released": f"{created_at:%Y-%m-%d}",
        **({"license": licence} if licence else {}),
        "references": [_SPOTLAKE_REFERENCE],
    }
    # JSON is YAML, so a CITATION.cff may be written as such.
    return {
        "LICENCE.md": ("\n\n".join(notes) + "\n").encode(),
        "CITATION.cff": (json.dumps(citation, indent=2) + "\n").encode(),
    }


def _manifest(
    files: Files,
    tables: Mapping[str, pd.DataFrame],
    stage: Stage,
    created_at: datetime,
    kind: str,
) -> Files:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = {
        "created_at": created_at.isoformat(),
        "spotlib": spotlib.__version__,
        "simulated": kind == "simulated",
        "stage": stage.label,
        "rows": {name: len(table) for name, table in tables.items()},
        "files": [
            {"name": name, "bytes": len(files[name]), "sha256": digest}
            for name, digest in hashes.items()
        ],
    }
    data = (json.dumps(manifest, indent=2) + "\n").encode()
    hashes["manifest.json"] = hashlib.sha256(data).hexdigest()
    sums = "".join(f"{digest}  {name}\n" for name, digest in hashes.items())
    return {"manifest.json": data, "SHA256SUMS": sums.encode()}


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path

"""Tables of your launches for others: training, requests and batches, as Parquet and CSV.

Simulated and real launches are written to different folders, each with a README and a data
dictionary.  A public export replaces account, endpoint, batch, request and instance ids by
salted aliases, which still join the tables.
"""

import argparse
import hashlib
import hmac
import io
import os
import re
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from spotlib.analyze.comparable import SAME_VARIABLE
from spotlib.forecast.training import (
    COLUMNS,
    data_dictionary,
    left_out,
    names_of,
    request_table,
    training_table,
)
from spotlib.model import Stage, is_foreign
from spotlib.record.tables import load_batches, load_launches
from spotlib.workspace import results_folder

Files = dict[str, bytes]
_PLAIN_ENDPOINTS = ("aws", "sandbox")  # they reveal nothing about us
_IDENTITY = re.compile(rb"\barn:aws|\bsir-[0-9a-z]{6,}|\bi-[0-9a-f]{8,17}\b")
_KINDS = {  # of columns, by the unit in the data dictionary; any other holds real numbers
    "name": "string",
    "boolean": "boolean",
    "UTC time": "datetime64[us, UTC]",
    **dict.fromkeys(["count", "instances", "0 or 1"], "Int64"),
}
_SPOTLAKE = (
    "The targets were selected from SpotLake data (spotlake.ddps.cloud, DDPS Lab), which are "
    "licensed CC BY-NC 4.0: name the source, no commercial use.",
    'S. Lee, J. Hwang, K. Lee, "SpotLake: Diverse Spot Instance Dataset Archive Service", '
    "IEEE International Symposium on Workload Characterization (IISWC), 2022.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``python -m spotlib export``."""
    parser.add_argument("--results", default="", help="the results folder (default: results)")
    parser.add_argument("--to", help="where to write (default: export in the results folder)")
    parser.add_argument("--stage", choices=["fulfilled", "running", "ready"], default="ready")
    parser.add_argument(
        "--public", action="store_true", help="replace identities by aliases, for publishing"
    )
    parser.add_argument(
        "--salt-file",
        help="the secret behind the aliases, made if missing (default: export.salt in results); "
        "exports with the same salt join; keep it to yourself",
    )
    parser.add_argument("--licence", default="", help="of a public export, such as CC-BY-4.0")


def run(given: argparse.Namespace) -> int:
    """Export what ``results/launches`` holds; return 1 if there is nothing to export."""
    results = results_folder(given.results)
    salt_file = Path(given.salt_file) if given.salt_file else results / "export.salt"
    written = export(
        load_launches(results / "launches"),
        load_batches(results / "launches"),
        to=Path(given.to) if given.to else results / "export",
        stage=Stage[given.stage.upper()],
        salt=_salt(salt_file) if given.public else None,
        licence=given.licence,
        spotlake=_selected_from_spotlake(results),
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
    stage: Stage = Stage.READY,
    salt: bytes | None = None,
    licence: str = "",
    spotlake: bool = False,
) -> list[Path]:
    """Write the tables to ``simulated/``, ``real/`` and ``not-aws/`` under ``to``.

    What another program answered for EC2 is in ``not-aws/``.  The files written are returned.

    With a ``salt`` the export is public: identities become aliases, and the README names the
    ``licence``.  ``spotlake`` says that the targets were selected from SpotLake data.

    Raises
    ------
    ValueError
        If a public file would still hold an identity; nothing is written then.
    """
    kinds: dict[str, Files] = {}
    simulated = launches["simulated"].fillna(False).astype(bool)
    foreign = ~simulated & launches["endpoint"].astype(str).map(is_foreign).astype(bool)
    kinds_of = {"simulated": simulated, "real": ~simulated & ~foreign, "not-aws": foreign}
    for kind, chosen in kinds_of.items():
        part = launches[chosen]
        if part.empty:
            continue
        tables, notes = _tables(part, batches, stage=stage)
        terms = [] if salt is None else [_licence_line(licence)]
        terms += _SPOTLAKE if spotlake and kind != "simulated" else ()
        files = _table_files(tables if salt is None else _scrub(tables, salt))
        files["README.md"] = _readme(kind, stage, notes=notes, terms=terms).encode()
        if salt is not None:
            _require_scrubbed(files, tables)
        kinds[kind] = files
    return [_write(to / kind / name, data) for kind in kinds for name, data in kinds[kind].items()]


def _tables(
    launches: pd.DataFrame, batches: pd.DataFrame, *, stage: Stage
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the tables of one kind of launches, and notes on what they leave out."""
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


def _scrub(tables: Mapping[str, pd.DataFrame], salt: bytes) -> dict[str, pd.DataFrame]:
    """Return the tables with aliases in every column that holds an identity, alike in all."""
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
    """Return the same name for the same value and salt; it cannot be guessed without the salt.

    A plain hash would not do: there are only 10^12 account ids to try.
    """
    if kind == "host" and _is_plain(value):
        return str(value)
    secret = hmac.new(salt, f"{kind}:{value}".encode(), hashlib.sha256)
    return f"{kind}-{secret.hexdigest()[:16]}"


def _is_plain(endpoint: object) -> bool:
    """Return whether an endpoint is public knowledge, as also sandbox/MARKET is."""
    return str(endpoint).partition("/")[0] in _PLAIN_ENDPOINTS


def _require_scrubbed(files: Files, tables: Mapping[str, pd.DataFrame]) -> None:
    """Search the bytes themselves for identities, in case a column was not scrubbed."""
    identities = {
        str(value).encode()
        for name in ("account", "batch_id", "endpoint")
        for value in tables["batches"][name].dropna().unique()
        if not _is_plain(value)
    }
    for name, data in files.items():
        if _IDENTITY.search(data) or any(value in data for value in identities):
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


def _table_files(tables: Mapping[str, pd.DataFrame]) -> Files:
    files: Files = {}
    for name, table in tables.items():
        kinds = {each.name: _KINDS.get(each.unit, "float64") for each in COLUMNS[name]}
        typed = table.astype(kinds)
        files[f"{name}.parquet"] = _parquet(typed)
        files[f"{name}.csv"] = _csv(typed)
    files["dictionary.csv"] = data_dictionary().to_csv(index=False).encode()
    return files


def _parquet(table: pd.DataFrame) -> bytes:
    # Without the metadata of pandas a reader's pandas uses plain types, not ours.
    plain = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
    packed = io.BytesIO()
    parquet.write_table(plain, packed, compression="zstd")
    return packed.getvalue()


def _csv(table: pd.DataFrame) -> bytes:
    flags = table.select_dtypes("boolean")
    words = {str(name): flags[name].map({True: "true", False: "false"}) for name in flags}
    return table.assign(**words).to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ").encode()


def _readme(kind: str, stage: Stage, *, notes: Iterable[str], terms: Iterable[str]) -> str:
    what = {
        "simulated": "**SIMULATED** launches of the sandbox, not of AWS",
        "not-aws": "launches at another program than Amazon's that answers for EC2: **NOT AWS**",
        "real": "launches of EC2 spot instances",
    }[kind]
    lines = [
        f"# Launch times to {stage.label}",
        "",
        f"These tables hold {what}.",
        "A run (batch_id, round, plan) is the sample: instances of one run are not independent.",
        "`dictionary.csv` describes every column; Parquet and CSV hold the same.",
        "",
        "- `training`: one row per run and elapsed time, to be used with its `weight`.",
        "  Split it by whole runs in the order of time, or by target, never by row.",
        "- `requests`: one row per request, interval- or right-censored.",
        "- `batches`: one row per batch; join by `batch_id`.",
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
    return "\n".join([*lines, *(line for term in terms for line in ("", term)), ""])


def _licence_line(licence: str) -> str:
    if licence:
        return f"These data are licensed {licence}."
    return "Their authors have not named a licence yet: ask them before using these data."


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path

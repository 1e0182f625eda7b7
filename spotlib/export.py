"""Tables of your launches for others: training, requests and batches, as Parquet and CSV.

Simulated and real launches are written to different folders, each with a README and a data
dictionary.  A public export holds texts that are public knowledge and salted aliases of all
others, which still join the tables (``spotlib.public``).
"""

import argparse
import io
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from spotlib.addresses import is_foreign
from spotlib.analyze.comparable import SAME_VARIABLE, is_probe, other_market, why_not
from spotlib.arguments import one_of
from spotlib.forecast.training import (
    COLUMNS,
    data_dictionary,
    known_t3_source,
    left_out,
    names_of,
    request_table,
    training_table,
)
from spotlib.model import Stage
from spotlib.public import aliased, not_public, read_salt, require_public, shortened
from spotlib.record.selection_file import read_selection
from spotlib.record.tables import load_readable
from spotlib.words import counted
from spotlib.workspace import logs_folder, results_path

Files = dict[str, bytes]
_IDENTITY = re.compile(r"\barn:aws|\bsir-[0-9a-z]{6,}|\bi-[0-9a-f]{8,17}\b|\b\d{12}\b")
_FORMULA = re.compile(r"['=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # also full-width signs
# In the README of a public and of a private export: they are never written over each other.
_PUBLIC = "Names that are not public knowledge are aliases"
_PRIVATE = "**PRIVATE**: these tables hold ids of your account.  Publish what --public writes."
_KINDS_OF_EXPORT = ("simulated", "real", "not-aws")  # a folder each
_KINDS = {  # of columns, by the unit in the data dictionary; any other holds real numbers
    "name": "string",
    "boolean": "boolean",
    "UTC time": "datetime64[us, UTC]",
    **dict.fromkeys(["count", "instances", "0 or 1"], "Int64"),
}
_EXPORTED = frozenset(column.name for columns in COLUMNS.values() for column in columns)
_PUBLIC_TERMS = (
    f"{_PUBLIC}: accounts, endpoints, worlds, batches, requests, instances, and any region, type, "
    "zone or code that Amazon does not document.  Times are exact: whoever has the account's own "
    "records can recognise its launches."
)
_SPOTLAKE = (
    "The targets were selected from SpotLake data (spotlake.ddps.cloud, DDPS Lab), which are "
    "licensed CC BY-NC 4.0: name the source, no commercial use.",
    'S. Lee, J. Hwang, K. Lee, "SpotLake: Diverse Spot Instance Dataset Archive Service", '
    "IEEE International Symposium on Workload Characterization (IISWC), 2022.",
)
_STAGES = ("granted", "fulfilled", "running", "usable", "ready")
_HOLDS = {
    "simulated": "**SIMULATED** launches of the sandbox, not of AWS",
    "not-aws": "launches at another program than Amazon's that answers for EC2: **NOT AWS**",
    "real": "launches of EC2 spot instances",
}
_README = """\
# Launch times to {stage}

These tables hold {what}.
A run (batch_id, round, plan) is the sample: instances of one run are not independent.
`dictionary.csv` describes every column; Parquet and CSV hold the same, but for one mark:
in CSV a ' stands before a text that a spreadsheet would run as a formula (one beginning
with = + - @, a tab or a line break) or that begins with a ' itself; drop it on reading.

- `training`: one row per run and elapsed time, to be used with its `weight`.
  Split it by whole runs in the order of time, or by target, never by row.
- `requests`: one row per request, interval- or right-censored.
- `batches`: one row per batch; join by `batch_id`.

The share of each target's requests that were shown {stage} within 180 s:

```python
import pandas as pd
requests = pd.read_parquet("requests.parquet")
target = requests["availability_zone_id"].fillna(requests["region"])
requests["ready"] = requests["upper_s"] <= 180
by_target = requests.groupby(["instance_type", target])
print(by_target["ready"].agg(["mean", "count"]))
```

The whole curve of each target, where requests that were still waiting are censored:

```python
from lifelines import KaplanMeierFitter
for name, rows in by_target:
    curve = KaplanMeierFitter(label=str(name))
    curve.fit_interval_censoring(rows["lower_s"], rows["upper_s"]).plot()
```

Left out: {left_out}.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``python -m spotlib export``."""
    parser.add_argument("--results", default="", help="the results folder (default: results)")
    parser.add_argument(
        "--to", help="where to write (default: export, or export-public, in the results folder)"
    )
    parser.add_argument(
        "--stage",
        type=one_of(*_STAGES),
        metavar=f"{{{','.join(_STAGES)}}}",
        default="ready",
        help="which is exported; default: ready",
    )
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
    for option, value in (("--licence", given.licence), ("--salt-file", given.salt_file)):
        if value and not given.public:
            raise ValueError(f"{option} is for a public export: add --public, or leave it out")
    results, logs = results_path(given.results), logs_folder(given.results)
    to = Path(given.to) if given.to else results / f"export{'-public' * given.public}"
    found = load_readable(logs)
    for words in (*(each.words for each in found.faults), *found.notes):
        print(words, file=sys.stderr)
    salt_file = Path(given.salt_file) if given.salt_file else results / "export.salt"
    if given.public and salt_file.resolve().is_relative_to(to.resolve()):
        raise ValueError(f"the salt {str(salt_file)!r} would lie in the folder that you publish")
    written = export(
        found.launches,
        found.batches,
        to=to,
        stage=Stage[given.stage.upper()],
        salt=read_salt(salt_file) if given.public else None,
        licence=given.licence,
        spotlake=_selected_from_spotlake(results),
        not_read=len(found.faults),
    )
    if given.public:
        print(*_alias_lines(found.launches), sep="", end="", file=sys.stderr)
    for path in written:
        print(path)
    if not written:
        print(f"there is no launch to export in {logs}", file=sys.stderr)
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
    not_read: int = 0,
) -> list[Path]:
    """Write the tables to ``simulated/``, ``real/`` and ``not-aws/`` under ``to``.

    What another program answered for EC2 is in ``not-aws/``.  The files written are returned.

    With a ``salt`` the export is public: identities become aliases, and the README names the
    ``licence``.  ``spotlake`` says that the targets were selected from SpotLake data, ``not_read``
    how many logs could not be read.

    Raises
    ------
    ValueError
        If a public and a private export would share a folder, or a public file would still hold a
        private name; nothing is written then.
    """
    public = salt is not None
    _require_same_use(to, public=public)
    simulated = launches["simulated"].fillna(False).astype(bool)
    foreign = ~simulated & launches["endpoint"].astype(str).map(is_foreign).astype(bool)
    if salt is not None:  # batch ids only later: they decide which of two equal runs counts
        launches, batches = (
            aliased(each, salt, each.columns.drop("batch_id")) for each in (launches, batches)
        )
    kinds: dict[str, Files] = {}
    chosen_of = (simulated, ~simulated & ~foreign, foreign)
    for kind, chosen in zip(_KINDS_OF_EXPORT, chosen_of, strict=True):
        part = launches[chosen]
        if part.empty:
            continue
        tables, notes = _tables(part, batches, stage=stage)
        notes += [f"logs that could not be read: {not_read}"] * bool(not_read)
        terms = [_PUBLIC_TERMS, _licence_line(licence)] if public else [_PRIVATE]
        terms += _SPOTLAKE if spotlake and kind != "simulated" else ()
        readme = _readme(kind, stage, notes=notes, terms=terms)
        if salt is not None:
            tables = {name: aliased(table, salt, ["batch_id"]) for name, table in tables.items()}
            _require_public(tables, readme)
        kinds[kind] = _table_files(tables) | {"README.md": readme.encode()}
    return [
        _write(to / kind / name, data, public=public)
        for kind in kinds
        for name, data in kinds[kind].items()
    ]


def _tables(
    launches: pd.DataFrame, batches: pd.DataFrame, *, stage: Stage
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return the tables of one kind of launches, and notes on what they leave out."""
    training, requests, notes = [], [], []
    probes = launches[is_probe(launches) & (why_not(launches) == "")]
    for values, group in launches.groupby(list(SAME_VARIABLE), dropna=False):
        here = probes[other_market(probes, group) == ""]
        here = here.iloc[:0] if is_probe(group).all() else here
        try:
            training.append(training_table(group, stage=stage, probes=here))
            requests.append(request_table(group, stage=stage, probes=here))
        except ValueError as error:
            notes.append(f"{', '.join(map(str, values[2:]))}: {error}")
    for row in left_out(launches).to_dict("records"):
        requests_left_out = counted(row["requests"], "request")
        notes.append(f"{row['reason']}: {counted(row['runs'], 'run')}, {requests_left_out}")
    mine = batches[batches["batch_id"].isin(launches["batch_id"])]
    empty = {name: pd.DataFrame(columns=names_of(name)) for name in ("training", "requests")}
    return {
        "training": pd.concat(training, ignore_index=True) if training else empty["training"],
        "requests": pd.concat(requests, ignore_index=True) if requests else empty["requests"],
        "batches": mine[names_of("batches")].reset_index(drop=True),
    }, notes


def _require_same_use(to: Path, *, public: bool) -> None:
    """Refuse a folder that holds an export of another kind (public, private) or unknown files."""
    mine = _PUBLIC if public else _PRIVATE
    for folder in (to / kind for kind in _KINDS_OF_EXPORT):
        readme = folder / "README.md"
        if not folder.exists() or not any(folder.iterdir()):
            continue
        if not readme.is_file() or mine not in readme.read_text(errors="replace"):
            raise ValueError(
                f"{str(folder)!r} holds something else than a {'public' if public else 'private'} "
                "export, so nothing was written: name another folder with --to, or delete that one"
            )


def _require_public(tables: Mapping[str, pd.DataFrame], readme: str) -> None:
    """Check the text that will be written, in case something was not replaced."""
    for name, table in tables.items():
        require_public(table, name)
    if found := _IDENTITY.search(readme):
        raise ValueError(
            f"README.md would hold {shortened(found[0])}, which looks like an id of an account, a "
            "request or an instance: nothing was written; look at --licence"
        )


def _alias_lines(launches: pd.DataFrame) -> Iterator[str]:
    """Name the exported texts that became aliases although such texts are usually public."""
    found: dict[str, list[str]] = {}
    used = launches[why_not(launches) == ""]
    for column, text in not_public(used.assign(t3_source=known_t3_source(used))):
        if column in _EXPORTED:
            found.setdefault(column, []).append(text)
    for column, texts in found.items():
        yield (
            f"{column}: aliases replace {counted(len(texts), 'unknown name')}, such as "
            f"{shortened(texts[0])}; if Amazon has published such names, update boto3 or spotlib\n"
        )


def _selected_from_spotlake(results: Path) -> bool:
    selections = (results / "selection").glob("*.csv")
    return any("spotlake" in set(read_selection(each)["source"]) for each in selections)


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
    words: dict[str, pd.Series[Any]] = {}
    for name in table.select_dtypes("boolean"):
        words[str(name)] = table[name].map({True: "true", False: "false"})
    for name in table.select_dtypes("string"):
        words[str(name)] = table[name].map(_cell, na_action="ignore")
    return table.assign(**words).to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ").encode()


def _cell(text: str) -> str:
    """Put a ' before what a spreadsheet would run as a formula, and before a ' itself."""
    return f"'{text}" if _FORMULA.match(text) else text


def _readme(kind: str, stage: Stage, *, notes: Iterable[str], terms: Iterable[str]) -> str:
    left_out = "; ".join(map(_plain, notes)) or "nothing"
    text = _README.format(stage=stage.label, what=_HOLDS[kind], left_out=left_out)
    return "\n".join([text, *(f"{term}\n" for term in terms)])


def _plain(note: str) -> str:
    """A log's text in one line of Markdown, in which it makes no link and no HTML."""
    return re.sub(r"[][<>`\\]", r"\\\g<0>", " ".join(note.split()))


def _licence_line(licence: str) -> str:
    if licence:
        return f"These data are licensed {licence}."
    return "Their authors have not named a licence yet: ask them before using these data."


def _write(path: Path, data: bytes, *, public: bool) -> Path:
    """Write a file whole or not at all; a private one for its owner only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, temporary = tempfile.mkstemp(dir=path.parent)
    except OSError as error:
        raise ValueError(
            f"{str(path.parent)!r} cannot be written to ({error.strerror}): name another folder "
            "with --to"
        ) from error
    try:
        with os.fdopen(file, "wb") as written:
            written.write(data)
        os.chmod(temporary, 0o644 if public else 0o600)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path

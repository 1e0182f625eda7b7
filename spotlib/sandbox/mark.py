"""The mark of a generated archive: that it is simulated, and in which market.

The mark is a file beside the snapshots.  It therefore stays with them when they are moved, copied
or zipped, and a real archive is never taken for simulated because of its folder's name.  No
snapshot is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import spotlib

MARK = "SIMULATED.json"


def write_mark(folder: Path, *, market: str, month: str) -> None:
    """Mark a folder as generated; without a date, so the same market yields the same bytes."""
    facts = {
        "simulated": True,
        "market": market,
        "month": month,
        "created_by": f"spotlib {spotlib.__version__}, python -m spotlib sandbox archive",
    }
    (folder / MARK).write_text(json.dumps(facts, indent=2) + "\n")


def market_of(places: Iterable[Path]) -> str | None:
    """The market whose archive is in these folders and zips; None if they are not marked.

    Raises
    ------
    ValueError
        If some are marked and others are not, or two markets are mixed.
    """
    found = {_marked_market(place) for place in places}
    if len(found) > 1:
        kinds = sorted(f"those of the market {each}" if each else "real ones" for each in found)
        raise ValueError(
            "snapshots of different markets are never pooled, and these are "
            f"{' and '.join(kinds)}: name one archive"
        )
    return found.pop() if found else None


def _marked_market(place: Path) -> str | None:
    """The market of the nearest mark: in the zip, in the folder, or above."""
    if place.suffix.lower() == ".zip":
        with ZipFile(place) as archive:
            marks = [name for name in archive.namelist() if PurePosixPath(name).name == MARK]
            if marks:
                return str(json.loads(archive.read(marks[0]))["market"])
    for folder in (place, *place.parents):
        if (folder / MARK).is_file():
            return str(json.loads((folder / MARK).read_text())["market"])
    return None

"""What a generated archive says of itself: that it is simulated, and of which market.

The mark is a file beside the snapshots, so that it goes with them wherever they are moved, copied
or zipped, and a real archive in a folder with an unlucky name stays real.  No snapshot is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZipFile

import spotlib

MARK = "SIMULATED.json"


def write_mark(folder: Path, *, market: str, month: str) -> None:
    """Mark a folder as generated.  No date is in it: the same market gives the same bytes."""
    told = {
        "simulated": True,
        "market": market,
        "month": month,
        "created_by": f"spotlib {spotlib.__version__}, python -m spotlib sandbox archive",
    }
    (folder / MARK).write_text(json.dumps(told, indent=2) + "\n")


def market_of(places: Iterable[Path]) -> str | None:
    """The market whose archive lies in these folders and zips; None where they are not marked.

    Raises
    ------
    ValueError
        If some are marked and others are not, or two markets are mixed.
    """
    found = {_told(place) for place in places}
    if len(found) > 1:
        kinds = sorted(f"those of the market {each}" if each else "real ones" for each in found)
        raise ValueError(
            "snapshots of different markets are never pooled, and here are "
            f"{' and '.join(kinds)}: name one archive"
        )
    return found.pop() if found else None


def _told(place: Path) -> str | None:
    """What the nearest mark says: in the zip itself, in the folder, or above."""
    if place.suffix == ".zip":
        with ZipFile(place) as archive:
            marks = [name for name in archive.namelist() if PurePosixPath(name).name == MARK]
            if marks:
                return _market(json.loads(archive.read(marks[0])))
    for folder in (place, *place.parents):
        if (folder / MARK).is_file():
            return _market(json.loads((folder / MARK).read_text()))
    return None


def _market(told: dict[str, Any]) -> str:
    return str(told["market"])

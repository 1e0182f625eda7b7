"""Selection files: written by ``01_select``, read by ``02_collect`` and ``03_analyze``."""

from pathlib import Path

import pandas as pd

from spotlib.model import Target

SELECTION_COLUMNS = ("rank", "instance_type", "region", "source")


def newest_selection(results: Path) -> Path | None:
    """Return the last selection written, or None; their names sort by time."""
    return max((results / "selection").glob("*.csv"), default=None)


def read_selection(path: str | Path) -> pd.DataFrame:
    """Read a selection file as ``01_select`` writes it, best target first.

    Raises
    ------
    ValueError
        If it is missing, empty, lacks a column, or mixes simulated and real targets.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"selection {str(path)!r} cannot be read: {error}") from error
    missing = [name for name in SELECTION_COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(
            f"selection {str(path)!r} lacks the columns {missing}, it has {list(table.columns)}: "
            "write it with 01_select"
        )
    if table.empty or table["source"].nunique() != 1:
        raise ValueError(f"selection {str(path)!r} needs rows of one source, spotlake or sandbox")
    return table.sort_values("rank", kind="stable", ignore_index=True)


def selection_targets(selection: pd.DataFrame, *, top: int) -> list[Target]:
    """Return the first ``top`` targets of a selection."""
    zones = selection.get("availability_zone_id", pd.Series(None, index=selection.index))
    columns = zip(selection["instance_type"], selection["region"], zones, strict=True)
    return [
        Target(instance_type, region, None if pd.isna(zone) else zone)
        for instance_type, region, zone in list(columns)[:top]
    ]

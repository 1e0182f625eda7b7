"""Selection files: written by ``01_select``, read by ``02_collect`` and ``03_analyze``."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from spotlib.errors import ParameterError
from spotlib.model import Target
from spotlib.words import listed, one_line

SELECTION_COLUMNS = ("rank", "instance_type", "region", "source")
SOURCES = ("spotlake", "sandbox")
_OF_SANDBOX = r"sandbox|(.*[/\\])?spot_dataset[/\\]+sandbox([/\\].*)?"


def newest_selection(results: Path) -> Path | None:
    """Return the last selection written, or None; their names sort by time."""
    return max((results / "selection").glob("*.csv"), default=None)


def read_selection(path: str | Path) -> pd.DataFrame:
    """Read a selection file as ``01_select`` writes it, best target first.

    Raises
    ------
    ValueError
        If it is missing, empty, lacks a column or a value, or if its rows are not all of one
        source, ``spotlake`` or ``sandbox``: real launches must not rest on a guess.
    """
    try:
        if not Path(path).is_file():
            raise OSError("there is no such file")
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = one_line(" ".join(str(error).split()))
        raise ParameterError(f"selection {str(path)!r} cannot be read: {reason}") from error
    if problem := next(_problems(table), None):
        said = one_line(problem, longest=500)  # it quotes what the file holds
        raise ParameterError(f"selection {str(path)!r} {said}: write it with 01_select")
    ranked = table.assign(rank=_ranks(table))
    return ranked.sort_values("rank", kind="stable", ignore_index=True)


def _problems(table: pd.DataFrame) -> Iterator[str]:
    names = list(table.columns)
    if not isinstance(table.index, pd.RangeIndex):  # pandas has shifted the columns by one
        yield "has more cells in its rows than in its header"
    if missing := [name for name in SELECTION_COLUMNS if name not in names]:
        yield f"lacks the columns {listed(missing)}, it has {listed([*map(str, names)])}"
    if twice := [name for name in SELECTION_COLUMNS if f"{name}.1" in names]:  # pandas' new name
        yield f"has the columns {listed(twice)} twice"
    others = [each for each in table["source"].unique() if each not in SOURCES]
    if others:
        found = "no source in some rows" if pd.isna(others[0]) else f"the source {others[0]!r}"
        yield f"has {found}, not spotlake or sandbox in each"
    if table["source"].nunique() != 1:
        yield "needs rows of one source, spotlake or sandbox"
    if not np.isfinite(_ranks(table)).all():
        yield "lacks a number as rank in some rows"
    for name in ("instance_type", "region"):
        if not table[name].map(lambda value: isinstance(value, str)).all():
            yield f"lacks the {name} in some rows"
    pretend = "sandbox" in set(table["source"])
    if "market" in names:
        yield from _problems_of(table["market"], pretend=pretend)
    if "dataset" in names and not pretend and _of_sandbox(table):
        yield "names the sandbox as its dataset, and spotlake as its source"


def _problems_of(market: "pd.Series[str]", *, pretend: bool) -> Iterator[str]:
    if market.nunique(dropna=False) > 1:
        yield "has several markets, and those are never pooled"
    if pretend and market.hasnans:
        yield "lacks the market of the sandbox that it was selected in"
    if not pretend and market.notna().any():
        yield "names a market of the sandbox, and spotlake as its source"


def _of_sandbox(table: pd.DataFrame) -> bool:
    """Whether any row says that the sandbox's archive was read, by its word or by its folder."""
    words = table["dataset"].astype(str).str.strip()
    return bool(words.str.fullmatch(_OF_SANDBOX, case=False).any())


def _ranks(table: pd.DataFrame) -> "pd.Series[float]":
    """The ranks as numbers; NaN where there is none, or one beyond any number."""
    return pd.to_numeric(table["rank"].astype(str), errors="coerce").astype("float64")


def selection_targets(selection: pd.DataFrame, *, top: int) -> list[Target]:
    """Return the first ``top`` targets of a selection."""
    zones = selection.get("availability_zone_id", pd.Series(None, index=selection.index))
    columns = zip(selection["instance_type"], selection["region"], zones, strict=True)
    return [
        Target(instance_type, region, None if pd.isna(zone) else zone)
        for instance_type, region, zone in list(columns)[:top]
    ]

"""Which archive ``01_select`` reads, and whether it is simulated.

Owns the choice of the archive and its banner; where there is no real one, the sandbox writes its
own.  Only this module of ``select`` knows the sandbox's writer.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spotlib.errors import ParameterError
from spotlib.figures import SIMULATED, banner_html
from spotlib.sandbox.history import market_folder, write_archive
from spotlib.sandbox.mark import MARK, market_of
from spotlib.sandbox.numbers import FITTED
from spotlib.select.archive.counts import days_held
from spotlib.select.archive.schema import ArchiveError, EmptyArchiveError
from spotlib.select.parameters import SelectParameters
from spotlib.workspace import workspace

SPOT_DATASET: Final = workspace() / "spot_dataset"
SANDBOX_MONTH: Final = "2024-08"  # the month of the published ranking
_BUCKET = "s3://"


@dataclass(frozen=True)
class Archive:
    """An archive, the days to read, and its pretend market (None if it is real)."""

    path: str | Path
    days: str | tuple[str, ...]
    market: str | None
    origin: str  # how it was found or made

    @property
    def simulated(self) -> bool:
        """Whether it says nothing about AWS."""
        return self.market is not None

    @property
    def days_text(self) -> str:
        """The days or the month, as a selection file names them."""
        return self.days if isinstance(self.days, str) else ", ".join(self.days)

    @property
    def source(self) -> str:
        """What a selection made from it records as its source: ``sandbox`` or ``spotlake``."""
        return "sandbox" if self.simulated else "spotlake"


def find_archive(parameters: SelectParameters, *, spot_dataset: Path = SPOT_DATASET) -> Archive:
    """Find the archive to read: the one named, else the newest real one, else the sandbox's.

    The sandbox's stands in only where there is nothing: files that cannot be read are named.

    ``dataset="sandbox"`` asks for the sandbox's although there is a real one, ``market`` for that
    of a market.  It is written first if need be, from the same market in which the sandbox's
    endpoint launches.  An archive is simulated if it bears the sandbox's mark, wherever it lies.

    Raises
    ------
    ValueError
        If there is no snapshot, or the archive is of another market than the one asked for.
    """
    path: str | Path = spot_dataset / "aws"
    origin = "The archive named"
    if parameters.dataset:
        remote = parameters.dataset.startswith(_BUCKET)
        path = parameters.dataset if remote else spot_dataset.parent / parameters.dataset
    if parameters.dataset == "sandbox" or (not parameters.dataset and not _has_snapshots(path)):
        wanted = parameters.market or FITTED
        path = spot_dataset / "sandbox" / market_folder(wanted)
        origin = "The sandbox's" if parameters.dataset else "No real one here, so the sandbox's"
        origin += _ensure_sandbox(path, parameters.month or SANDBOX_MONTH, wanted)
    elif not parameters.dataset:
        origin = "The real archive here"
    market = _market_of(path, asked=parameters.market)
    days: str | tuple[str, ...] = parameters.month or tuple(re.findall(r"[^\s,]+", parameters.days))
    if not days:
        days = f"{max(days_held(path)):%Y-%m}"
    return Archive(path, days, market, origin)


def banner(archive: Archive) -> str:
    """Return one conspicuous line of HTML: data of AWS, or of a pretend market."""
    what = f"{archive.origin}: {archive.path}, {archive.days_text}."
    if archive.simulated:
        text = f"{SIMULATED}: a pretend market, {archive.market}, nothing here is about AWS. "
        return banner_html(f"{text}{what}", "simulated")
    return banner_html(f"SpotLake data: {what}", "real")


def _market_of(path: str | Path, *, asked: str) -> str | None:
    """Return the market whose archive this is, None if it is real; refuse another than asked."""
    market = None
    if not str(path).startswith(_BUCKET):  # nobody puts a pretend market into a bucket
        try:
            market = market_of(set().union(*days_held(path).values()))
        except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError) as error:
            reason = f"the mark {MARK} beside the snapshots cannot be read ({error!r})"
            raise ArchiveError(str(path), f"{reason}: write the archive again") from error
    if asked and asked != market:
        kind = f"of the sandbox's market {market}" if market else "real"
        raise ParameterError(
            f'market={asked!r} was asked for, but {path} is {kind}: leave market "", or set '
            "dataset='sandbox'"
        )
    return market


def _has_snapshots(path: str | Path) -> bool:
    try:
        return bool(days_held(path))
    except EmptyArchiveError:
        return False


def _ensure_sandbox(folder: Path, month: str, market: str) -> str:
    """Write the sandbox's month unless it exists; return what to add to the origin."""
    target = folder / f"aws-{month}"
    if _has_snapshots(target):
        return ""
    try:
        written = write_archive(target, month=month, market=market)
    except (OSError, ValueError):
        if _has_snapshots(target):  # another notebook wrote the same meanwhile
            return ""
        raise
    return f" (written now, {written.snapshots:,} snapshots of {written.pools:,} pools)"

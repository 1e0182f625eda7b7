"""What ``01_select`` needs beside the mathematics: its parameters, its archive, its tables.

Owns the way from a folder to a list of targets: which archive is meant and whether it is
simulated, the table of the chosen, the comparison of the ways of scoring.  The numbers are those
of ``select`` and ``evidence``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spotlib.figures import SIMULATED, banner_html
from spotlib.sandbox.history import market_folder, write_archive
from spotlib.sandbox.mark import market_of
from spotlib.sandbox.numbers import CALM
from spotlib.select.archive.files import ArchiveError, File, find_files
from spotlib.select.parameters import SelectParameters
from spotlib.workspace import workspace

SPOT_DATASET: Final = workspace() / "spot_dataset"
SANDBOX_MONTH: Final = "2024-08"  # the month of the published ranking


@dataclass(frozen=True)
class Archive:
    """Which archive and which of its days, and of which pretend market, None where it is real."""

    path: str | Path
    days: str | tuple[str, ...]
    market: str | None
    words: str

    @property
    def simulated(self) -> bool:
        """Whether it says nothing about AWS."""
        return self.market is not None

    @property
    def days_text(self) -> str:
        """The days or the month, as a selection file names them."""
        return _text_of(self.days)

    @property
    def source(self) -> str:
        """What a selection from it says of itself: ``sandbox`` or ``spotlake``."""
        return "sandbox" if self.simulated else "spotlake"


def find_archive(parameters: SelectParameters, *, spot_dataset: Path = SPOT_DATASET) -> Archive:
    """Find the archive meant: the one named, else the newest real one, else the sandbox's.

    ``dataset="sandbox"`` asks for the sandbox's although there is a real one, ``market`` for that
    of a market.  It is written first if need be, from the very market that the endpoint launches
    in.  Simulated is what bears the sandbox's mark, wherever it lies.

    Raises
    ------
    ValueError
        If there is no snapshot, or the archive is of another market than the one asked for.
    """
    path: str | Path = spot_dataset / "aws"
    words = "The archive named"
    if parameters.dataset:
        remote = parameters.dataset.startswith("s3://")
        path = parameters.dataset if remote else spot_dataset.parent / parameters.dataset
    if parameters.dataset == "sandbox" or (not parameters.dataset and not _has_files(path)):
        wanted = parameters.market or CALM
        path = spot_dataset / "sandbox" / market_folder(wanted)
        words = "The sandbox's" if parameters.dataset else "No real one here, so the sandbox's"
        words += _ensure_sandbox(path, parameters.month or SANDBOX_MONTH, wanted)
    elif not parameters.dataset:
        words = "The real archive here"
    market = _market_of(path, asked=parameters.market)
    days: str | tuple[str, ...] = parameters.month or tuple(re.findall(r"[^\s,]+", parameters.days))
    if not days:
        days = f"{find_files(path, skip_bad_files=True)[0][-1].day:%Y-%m}"
    return Archive(path, days, market, f"{words}: {path}, {_text_of(days)}")


def _market_of(path: str | Path, *, asked: str) -> str | None:
    """The market whose archive this is, None where it is real; it must be the one asked for."""
    market = None
    if not str(path).startswith("s3://"):  # nobody puts a pretend market into a bucket
        files, _ = find_files(path, skip_bad_files=True)
        market = market_of({_place(each) for each in files})
    if asked and asked != market:
        kind = f"of the sandbox's market {market}" if market else "real"
        raise ValueError(
            f'market={asked!r} was asked for, but {path} is {kind}: leave market "", or set '
            "dataset='sandbox'"
        )
    return market


def _has_files(path: str | Path) -> bool:
    try:
        return bool(find_files(path, skip_bad_files=True))
    except ArchiveError:
        return False


def _place(file: File) -> Path:
    return Path(file.container) if file.container else Path(file.member).parent


def _ensure_sandbox(folder: Path, month: str, market: str) -> str:
    """Write the sandbox's month unless it is there; say so if it was."""
    target = folder / f"aws-{month}"
    if _has_files(target):
        return ""
    written = write_archive(target, month=month, market=market)
    return f" (written now, {written.snapshots:,} snapshots of {written.pools:,} pools)"


def _text_of(days: str | tuple[str, ...]) -> str:
    return days if isinstance(days, str) else ", ".join(days)


def banner(archive: Archive) -> str:
    """One loud line of HTML: whether these are data of AWS or of a pretend market."""
    if archive.simulated:
        text = f"{SIMULATED}: a pretend market, {archive.market}, nothing here is about AWS. "
        return banner_html(f"{text}{archive.words}.", "simulated")
    return banner_html(f"SpotLake data: {archive.words}.", "real")

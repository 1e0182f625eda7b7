"""What ``01_select`` needs beside the mathematics: its parameters, its archive, its tables.

Owns the way from a folder to a list of targets: which archive is meant and whether it is
simulated, the table of the chosen, the comparison of the ways of scoring.  The numbers are those
of ``select`` and ``evidence``.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import pandas as pd
from pandas.io.formats.style import Styler

from spotlib.archive import ArchiveError, File, find_files
from spotlib.dataset import Reading
from spotlib.evidence import FLAGGED_SHARE, evidence, measurement_cost_usd
from spotlib.plots import SIMULATED
from spotlib.sandbox.history import market_folder, write_archive
from spotlib.sandbox.mark import market_of
from spotlib.sandbox.numbers import CALM, parse_market
from spotlib.select import (
    PAIR,
    Form,
    Missing,
    add_controls,
    choose_targets,
    score_targets,
    variation,
)

SPOT_DATASET: Final = Path(__file__).parents[1] / "spot_dataset"
SANDBOX_MONTH: Final = "2024-08"  # the month of the published ranking
WAYS: Final = {
    "zones pooled,\nmissing dropped": ("pooled", "drop"),
    "zones pooled,\nmissing as -1\n(the study)": ("pooled", "as_value"),
    "within zones,\nmissing dropped": ("within", "drop"),
    "within zones,\nmissing as -1": ("within", "as_value"),
}


@dataclass(frozen=True)
class SelectParameters:
    """The parameters of ``01_select``; the notebook explains each."""

    dataset: str
    market: str
    month: str
    days: str
    sizes: str
    top: int
    form: str
    missing: str
    max_per_region: int
    max_per_family: int
    controls: int
    seed: int
    held_s: float
    skip_bad_files: bool
    results: str
    out: str

    def __post_init__(self) -> None:
        """Refuse what cannot be meant, all of it at once."""
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))

    def _problems(self) -> Iterator[str]:
        if self.month and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", self.month):
            yield f"month must look like 2024-08, got {self.month!r}"
        if self.month and self.days:
            yield f"give either a month or days, not both: {self.month!r} and {self.days!r}"
        if not self.size_tokens:
            yield 'sizes must name at least one size, such as "medium small", got none'
        if self.market:
            yield from _market_problem(self.market)
        if self.form not in ("pooled", "within"):
            yield f"form must be 'pooled' or 'within', got {self.form!r}"
        if self.missing not in ("drop", "as_value"):
            yield f"missing must be 'drop' or 'as_value', got {self.missing!r}"
        if self.top < 1:
            yield f"top must be at least 1 target, got {self.top}"
        for name in ("max_per_region", "max_per_family", "controls", "seed"):
            if getattr(self, name) < 0:
                yield f"{name} must be 0 or above, got {getattr(self, name)}"
        if self.held_s <= 0:
            yield f"held_s must be above 0 seconds, got {self.held_s}"

    @property
    def size_tokens(self) -> tuple[str, ...]:
        """The sizes one by one; they may be separated by spaces or commas."""
        return tuple(re.findall(r"[^\s,]+", self.sizes))


def _market_problem(market: str) -> Iterator[str]:
    try:
        parse_market(market)
    except ValueError as error:
        yield str(error)


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
    return Archive(path, days, market, f"{words}: {path}, {_joined(days)}")


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


def _joined(days: str | tuple[str, ...]) -> str:
    return days if isinstance(days, str) else ", ".join(days)


def banner(archive: Archive) -> str:
    """One loud line of HTML: whether these are data of AWS or of a pretend market."""
    words, ground, ink = f"SpotLake data: {archive.words}.", "#e6f4ea", "#1e6b34"
    if archive.simulated:
        words = f"{SIMULATED}: a pretend market, {archive.market}, nothing here is about AWS. "
        words += f"{archive.words}."
        ground, ink = "#e8f0fe", "#1a4fa0"
    style = f"background:{ground};color:{ink};padding:.6em 1em;font-weight:bold;border-radius:4px"
    return f'<div style="{style}">{html.escape(words)}</div>'


def reading_words(reading: Reading) -> str:
    """What was read, skipped and missing, in numbers."""
    days, gaps = reading.days, reading.gaps
    total = days.sum(numeric_only=True).astype(int)
    read, missing = total["snapshots"], total["missing_snapshots"]
    longest = 10 * gaps["snapshots"].max() if len(gaps) else 0
    lines = [reading.notice] if reading.notice else []
    return "\n".join(
        (
            f"read: {read:,} snapshots of {(days['snapshots'] > 0).sum()} days,"
            f" {total['rows']:,} rows, up to {days['pools'].max():,} pools"
            f" ({total['from_cache']} days from the cache)",
            f"missing: {missing:,} of {read + missing:,} snapshots, in {len(gaps)} gaps,"
            f" the longest of {longest:,} minutes",
            f"repeated rows, counted once: {total['repeated_rows']:,};"
            f" contradictory, taken as unknown: {total['contradictions']:,};"
            f" rows without a zone, left out: {total['nameless_rows']:,}",
            f"files skipped: {len(reading.skipped)}",
            *lines,
        )
    )


@dataclass(frozen=True)
class Selection:
    """All pairs, the ranked ones, and the chosen ones with what their scores rest on."""

    pairs: pd.DataFrame
    ranked: pd.DataFrame
    chosen: pd.DataFrame


def select_targets(counts: pd.DataFrame, parameters: SelectParameters) -> Selection:
    """Score, choose, add controls and say what each choice rests on and costs.

    Raises
    ------
    ValueError
        If no pair varies in both, so that there is nothing to rank.
    """
    form, missing = cast("Form", parameters.form), cast("Missing", parameters.missing)
    pairs = variation(counts, form=form, missing=missing)
    ranked = score_targets(pairs, sizes=parameters.size_tokens)
    if ranked.empty:
        raise ValueError(
            f"no target of the sizes {', '.join(parameters.size_tokens)} varies in both SPS and IF"
            f" in these {counts['day'].nunique()} days: read more days, or name more sizes"
        )
    chosen = choose_targets(
        ranked,
        top=parameters.top,
        max_per_region=parameters.max_per_region or None,
        max_per_family=parameters.max_per_family or None,
    )
    if parameters.controls:
        chosen = add_controls(
            chosen,
            pairs,
            controls=parameters.controls,
            seed=parameters.seed,
            sizes=parameters.size_tokens,
        )
    known = evidence(counts, form=form, missing=missing, pairs=chosen)
    chosen = chosen.merge(known, on=PAIR, how="left")
    chosen = chosen.merge(_other_form(counts, form, missing), on=PAIR, how="left")
    cost = measurement_cost_usd(chosen["price_usd_per_hour"], held_s=parameters.held_s)
    flagged = chosen["resting_share"].gt(0) & chosen["resting_share"].lt(FLAGGED_SHARE)
    return Selection(pairs, ranked, chosen.assign(expected_cost_usd=cost, flagged=flagged))


def _other_form(counts: pd.DataFrame, form: Form, missing: Missing) -> pd.DataFrame:
    """The CoVs in the form that did not choose, so that 03 can ask which would have been better."""
    other: Form = "within" if form == "pooled" else "pooled"
    table = variation(counts, form=other, missing=missing)[[*PAIR, "sps_cov", "if_cov"]]
    return table.rename(columns={name: f"{name}_{other}" for name in ("sps_cov", "if_cov")})


def evidence_table(chosen: pd.DataFrame, *, simulated: bool) -> Styler:
    """The chosen targets and what their scores rest on, for reading."""
    table = pd.DataFrame(
        {
            "rank": chosen["rank"],
            "target": chosen["instance_type"] + " in " + chosen["region"],
            "chosen as": chosen["role"],
            "score": chosen["score"].map("{:.4f}".format),
            "rests on": chosen["resting_share"].map("{:.2%}".format),
            "flag": chosen["flagged"].map({True: "under 1 %", False: ""}),
            "coverage": chosen["coverage"].map("{:.1%}".format),
            "ordinal": chosen["sps_ordinal_variation"].map("{:.2f}".format),
            "changes a day": chosen["sps_changes_per_day"].map("{:.1f}".format),
            "cost, USD": chosen["expected_cost_usd"].map("{:.4f}".format),
        }
    )
    return table.style.hide(axis="index").set_caption(SIMULATED if simulated else "SpotLake")


def file_columns(chosen: pd.DataFrame) -> pd.DataFrame:
    """The columns of a selection file, in the order they are read."""
    first = ["rank", *PAIR, "score", "sps_cov", "if_cov", "role", "inclusion_probability"]
    return chosen[[*first, *(name for name in chosen if name not in first)]]


def file_parameters(parameters: SelectParameters, archive: Archive) -> dict[str, Any]:
    """The parameters as a selection file carries them, with what "" stood for filled in."""
    kept = asdict(parameters) | {"dataset": str(archive.path), "days": _joined(archive.days)}
    kept |= {"market": archive.market or ""}
    return {name: kept[name] for name in kept if name not in ("results", "out", "month")}


def compare_ways(
    counts: pd.DataFrame, *, sizes: tuple[str, ...], top: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rank each target that is in the top of any way of scoring, under every way.

    Returns the table of ranks (NaN where a way does not rank the target at all) and how many
    targets each way ranks.
    """
    ranks = {}
    for name, (form, missing) in WAYS.items():
        table = variation(counts, form=cast("Form", form), missing=cast("Missing", missing))
        ranked = score_targets(table, sizes=sizes)
        names = ranked["instance_type"] + " in " + ranked["region"]
        ranks[name] = pd.Series(ranked["rank"].to_numpy(), index=names, dtype="float64")
    table = pd.DataFrame(ranks)
    best = table.min(axis=1)
    table = table[best <= top].sort_values(list(WAYS), kind="stable")
    return table, {name: len(rank) for name, rank in ranks.items()}

"""The text and tables of ``01_select``: what was read, what was chosen, what a file records.

Wording only; computes nothing but sums.
"""

from dataclasses import asdict
from functools import partial
from typing import Any, Final

import pandas as pd
from pandas.io.formats.style import Styler

from spotlib.figures import SIMULATED, table_html, target_names
from spotlib.select.archive.counts import Reading
from spotlib.select.archive.schema import BREAKS, SNAPSHOT_MINUTES
from spotlib.select.cov import PAIR
from spotlib.select.evidence import Stability
from spotlib.select.parameters import SelectParameters
from spotlib.select.source import Archive
from spotlib.words import percent

ONE_DAY: Final = (
    "NOTE: this is one day. It cannot tell whether a target varies on other days too, how often IF"
    " changes, or whether other days would rank alike: read more days"
)


def reading_summary(reading: Reading) -> str:
    """Describe in numbers what was read, skipped and missing."""
    days, gaps = reading.days, reading.gaps
    total = days.sum(numeric_only=True).astype(int)
    read, missing = total["snapshots"], total["missing_snapshots"]
    longest = SNAPSHOT_MINUTES * gaps["snapshots"].max() if len(gaps) else 0
    notice = [reading.notice] if reading.notice else []
    read_days = days.loc[days["snapshots"] > 0, "day"].dt.date
    if len(read_days) == 1:
        notice.append(ONE_DAY)
    notice += [f"NOTE: {what}" for at, what in BREAKS if read_days.min() <= at <= read_days.max()]
    return "\n".join(
        (
            f"read: {read:,} snapshots of {(days['snapshots'] > 0).sum()} days,"
            f" {total['rows']:,} rows, up to {days['pools'].max():,} pools"
            f" ({total['from_cache']} days from the cache)",
            f"missing: {missing:,} of {read + missing:,} snapshots, in {len(gaps)} gaps,"
            f" the longest of {longest:,} minutes",
            f"repeated rows, counted once (by the study, each): {total['repeated_rows']:,};"
            f" contradictory, treated as unknown: {total['contradictions']:,};"
            f" rows without a zone, left out: {total['nameless_rows']:,}",
            f"files left out: {len(reading.skipped)}",
            *notice,
        )
    )


def gaps_table(reading: Reading) -> pd.DataFrame:
    """Return the five longest gaps, under names that a reader understands."""
    columns = ["first missing (UTC)", "last missing (UTC)", "missing snapshots"]
    return reading.gaps.nlargest(5, "snapshots").reset_index(drop=True).set_axis(columns, axis=1)


def score_words(selection: pd.DataFrame) -> str:
    """Work out the score of the first target, in the numbers that its row has."""
    first = selection.iloc[0]
    zones = f"{first['zones']} zone{'s' if first['zones'] > 1 else ''}"
    lines = [f"the score of rank {first['rank']}, {target_names(selection).iloc[0]} ({zones}):"]
    for title, short in (("SPS", "sps"), ("IF ", "if")):
        mean, deviation, cov = (first[f"{short}_{what}"] for what in ("mean", "std", "cov"))
        values = f"{first[f'{short}_snapshots']:,} values"
        lines.append(
            f"  {title}  mean {mean:.4f}, standard deviation {deviation:.4f}, over {values}:"
            f" CoV = {deviation:.4f} / {mean:.4f} = {cov:.4f}"
        )
    score = f"{first['sps_cov']:.4f} x {first['if_cov']:.4f} = {first['score']:.4f}"
    return "\n".join([*lines, f"  score = CoV(SPS) x CoV(IF) = {score}"])


def evidence_table(selection: pd.DataFrame, *, simulated: bool) -> Styler:
    """Show the targets of a selection and what their scores rest on."""
    table = pd.DataFrame(
        {
            "rank": selection["rank"],
            "target": target_names(selection),
            "chosen as": selection["role"],
            "score": selection["score"].map("{:.4f}".format),
            "score rests on": selection["resting_share"].map(partial(percent, digits=2)),
            "flag": _flags(selection),
            "snapshots with both": selection["coverage"].map(partial(percent, digits=1)),
            "ordinal variation of SPS": selection["sps_ordinal_variation"].map("{:.2f}".format),
            "SPS changes per day and zone": selection["sps_changes_per_day"].map("{:.1f}".format),
            "expected cost, USD": selection["expected_cost_usd"].map("{:.4f}".format),
        }
    )
    return table_html(table, SIMULATED if simulated else "SpotLake")


def _flags(selection: pd.DataFrame) -> "pd.Series[str]":
    few = selection["flagged"].map({True: "under 1 %", False: ""})
    scale = selection["scale_changed"].map({True: "SPS above 3: two scales", False: ""})
    return few.str.cat(scale, sep=" ").str.strip()


def flag_words(selection: pd.DataFrame) -> str:
    """Say how many targets are flagged, and why."""
    few, scale, targets = (
        selection["flagged"].sum(),
        selection["scale_changed"].sum(),
        len(selection),
    )
    words = f"{few} of {targets} rest on under 1 % of the snapshots"
    if scale:
        words += (
            f"; {scale} show SPS both up to 3 and above 3: their scores rest on a change of the"
            " scale, not of the market"
        )
    return words


def agreement_words(agreement: Stability) -> str:
    """Say how well the odd days agree with the even days, or why that cannot be said."""
    odd, even = agreement.days
    if not (odd and even):
        read = f"{odd + even} {'odd' if odd else 'even'} day{'s' if odd + even > 1 else ''}"
        return (
            f"whether other days would rank alike cannot be told from {read} alone: read more days"
        )
    shared = (
        f"{agreement.targets} targets; {agreement.shared} of the top {agreement.top} are the same"
    )
    if pd.isna(agreement.rank_correlation):
        return f"no rank correlation: too few scores differ, over {shared}"
    return f"rank correlation (Kendall's tau) {agreement.rank_correlation:.2f} over {shared}"


def file_columns(selection: pd.DataFrame) -> pd.DataFrame:
    """Put the columns of a selection into the order of its file."""
    first = ["rank", *PAIR, "score", "sps_cov", "if_cov", "role", "inclusion_probability"]
    return selection[[*first, *(name for name in selection if name not in first)]]


def file_parameters(parameters: SelectParameters, archive: Archive) -> dict[str, Any]:
    """Return the parameters for a selection file, with the values that "" stood for."""
    kept = asdict(parameters) | {"dataset": str(archive.path), "days": archive.days_text}
    kept |= {"market": archive.market or ""}
    return {name: kept[name] for name in kept if name not in ("results", "out", "month")}

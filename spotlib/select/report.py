"""TODO."""

from dataclasses import asdict
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from spotlib.figures import SIMULATED
from spotlib.select.archive.counts import Reading
from spotlib.select.cov import PAIR
from spotlib.select.parameters import SelectParameters
from spotlib.select.source import Archive


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
    kept = asdict(parameters) | {"dataset": str(archive.path), "days": archive.days_text}
    kept |= {"market": archive.market or ""}
    return {name: kept[name] for name in kept if name not in ("results", "out", "month")}

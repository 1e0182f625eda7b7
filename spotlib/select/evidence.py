"""What a score rests on, how stable it is, and what a measurement would cost.

A ranking by two coefficients of variation says little by itself: one snapshot can carry a score,
the scale of SPS is ordinal, and half a month may rank differently.  Owns the numbers that show
this; they never change the ranking of ``cov``.  Pure, as ``cov`` is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from spotlib.select.archive.schema import SNAPSHOTS_PER_DAY
from spotlib.select.cov import (
    PAIR,
    PER_ONE,
    SMALL_SIZES,
    ZONE,
    Form,
    Missing,
    feature_units,
    require_columns,
    row_counts,
    score_targets,
    snapshots_by_value,
    variation,
)

WAYS: Final[dict[str, tuple[Form, Missing]]] = {
    "zones pooled,\nmissing dropped": ("pooled", "drop"),
    "zones pooled,\nmissing as -1\n(the study)": ("pooled", "as_value"),
    "within zones,\nmissing dropped": ("within", "drop"),
    "within zones,\nmissing as -1": ("within", "as_value"),
}
FLAGGED_SHARE: Final = 0.01  # scores that rest on a smaller share of the snapshots are flagged

_SPS_LEVELS = 3  # of a single-type query; only some GPU types show more


def evidence(
    counts: pd.DataFrame,
    *,
    form: Form = "pooled",
    missing: Missing = "drop",
    pairs: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """What the score of each pair rests on, and what else its counts show.

    Parameters
    ----------
    counts : DataFrame
        As in ``Reading.counts``, with all columns.
    form, missing
        As in ``variation``.
    pairs : DataFrame, optional
        Only the pairs with these instance_type and region, which is faster; all by default.

    Returns
    -------
    DataFrame, one row per pair, sorted by instance_type and region
        resting_share
            The share of snapshots that differ from the most frequent value of the pair (of the
            zone if ``form`` is ``within``), for SPS or IF, whichever is smaller.  Without those
            snapshots the score would be zero.
        coverage
            The share of the snapshots read that show both values, over all zones ever listed.
        sps_ordinal_variation
            Leik's D: 0 if all SPS are equal, 1 if half are lowest and half highest.  It depends
            only on the order of the scores, while a CoV depends on the numbers assigned to them.
        sps_changes_per_day
            How often the SPS of a zone differs from its last known one, per day of known
            snapshots.
        sps_above_3
            The share of known SPS above 3.  Between 0 and 1 the scale itself may have changed, as
            it did for some GPU types in September 2025; such a CoV is an artefact.
        price_usd_per_hour
            The mean over the zones of their last known spot price; NaN if none is known.
        if_at
            When the last snapshot with a known IF was taken (UTC); NaT if none is known.
        t3
            The largest capacity that was scored 3 or more in the best zone, in the last snapshot of
            the last day on which it is known: where a launch may be in any zone, that is the one
            that counts.  0 if none was; NaN if unknown, as in all archives from before 2025.
        t3_at
            When that snapshot was taken (UTC); NaT with t3.

    Notes
    -----
    Leik's D has three levels here, or up to the highest one that the pair shows: R. K. Leik, "A
    measure of ordinal consensus", Pacific Sociological Review 9 (1966), 85-90.
    """
    values = ["sps", "if_score", "sps_coded", "if_coded"]
    require_columns(counts, [*ZONE, *values, "day", "snapshots", "surplus_rows", "day_snapshots"])
    snapshots_read = counts.groupby("day")["day_snapshots"].max().sum()
    last_at = counts.groupby("day")["last_at"].max()
    if pairs is not None:
        wanted = pd.MultiIndex.from_frame(pairs[PAIR])
        counts = counts[pd.MultiIndex.from_frame(counts[PAIR]).isin(wanted)]
    held = snapshots_by_value(counts)
    table = pd.DataFrame(
        {
            "resting_share": _resting_share(held, form, missing),
            "coverage": _coverage(held, snapshots_read),
            "sps_ordinal_variation": _ordinal_variation(held),
            "sps_changes_per_day": _changes_per_day(counts),
            "sps_above_3": _share_above(held, _SPS_LEVELS),
            "price_usd_per_hour": _last_price(counts),
            "if_at": _last_if_at(counts),
            **_last_t3(counts, last_at),
        }
    )
    return table.reset_index().astype(dict.fromkeys(PAIR, "str")).sort_values(PAIR)


@dataclass(frozen=True)
class Stability:
    """How well the ranking of the odd days agrees with that of the even days."""

    rank_correlation: float  # Kendall's tau-b of the scores; NaN with fewer than two pairs
    days: tuple[int, int]  # odd ones and even ones
    targets: int  # ranked on odd days, even days or both
    top: int
    shared: int  # how many are among the first ``top`` of both


def stability(
    counts: pd.DataFrame,
    *,
    sizes: Iterable[str] | None = SMALL_SIZES,
    form: Form = "pooled",
    missing: Missing = "drop",
    top: int = 10,
) -> Stability:
    """Compare the ranking of the odd days of the month with that of the even days.

    A pair that is ranked in only one half has score 0 in the other.
    """
    sizes = None if sizes is None else tuple(sizes)
    odd = counts["day"].dt.day % 2 == 1
    halves, days = [], []
    for half in (counts[odd], counts[~odd]):
        days.append(half["day"].nunique())
        ranked = score_targets(variation(half, form=form, missing=missing), sizes=sizes)
        halves.append(ranked.set_index(PAIR)["score"])
    scores = pd.concat(halves, axis=1, keys=["odd", "even"]).fillna(0.0)
    shared = halves[0].index[:top].intersection(halves[1].index[:top])
    tau = float("nan")
    if (scores.nunique() > 1).all():
        tau = float(stats.kendalltau(scores["odd"], scores["even"]).statistic)
    return Stability(tau, (days[0], days[1]), len(scores), top, len(shared))


def compare_ways(
    counts: pd.DataFrame, *, sizes: tuple[str, ...], top: int
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Rank each pair that is in the top of any way of scoring, under all of ``WAYS``.

    Returns the table of ranks, indexed by pair (NaN where a way does not rank it at all), and how
    many pairs each way ranks.
    """
    ranks = {}
    for name, (form, missing) in WAYS.items():
        ranked = score_targets(variation(counts, form=form, missing=missing), sizes=sizes)
        ranks[name] = ranked.set_index(PAIR)["rank"].astype("float64")
    table = pd.DataFrame(ranks)
    table = table[table.min(axis=1) <= top].sort_values(list(WAYS), kind="stable")
    return table, {name: len(rank) for name, rank in ranks.items()}


def _resting_share(counts: pd.DataFrame, form: Form, missing: Missing) -> "pd.Series[float]":
    level = PAIR if form == "pooled" else ZONE
    shares = []
    for feature in PER_ONE:
        units, known = feature_units(counts, feature, missing)
        by = [counts[name] for name in level]
        held = pd.Series(row_counts(counts, missing), counts.index)[known]
        values = held.groupby([*by, units.rename("units")], observed=True).sum()
        modes = values.groupby(level=level, observed=True).max()
        totals = values.groupby(level=PAIR, observed=True).sum()
        shares.append(1 - modes.groupby(level=PAIR, observed=True).sum() / totals)
    return pd.concat(shares, axis=1).min(axis=1, skipna=False)


def _coverage(counts: pd.DataFrame, snapshots_read: float) -> "pd.Series[float]":
    known = counts[["sps", "if_score"]].notna().all(axis=1)
    zones = counts[ZONE].drop_duplicates().groupby(PAIR, observed=True).size()
    held = counts["snapshots"].where(known, 0)
    seen = held.groupby([counts[name] for name in PAIR], observed=True).sum()
    return seen / (zones * snapshots_read)


def _ordinal_variation(counts: pd.DataFrame) -> "pd.Series[float]":
    """Return Leik's D per pair: the sum over levels of min(F, 1 - F), scaled to at most 1."""
    known = counts[counts["sps"].notna()]
    held = known["snapshots"]
    levels = held.groupby([*(known[name] for name in PAIR), known["sps"]], observed=True).sum()
    table = levels.unstack(fill_value=0).reindex(columns=np.arange(1, 11), fill_value=0)
    highest = (table > 0).mul(table.columns, axis=1).max(axis=1).clip(lower=_SPS_LEVELS)
    share = table.cumsum(axis=1).div(table.sum(axis=1), axis=0)
    spread: pd.Series[float] = np.minimum(share, 1 - share).sum(axis=1)
    return spread * 2 / (highest - 1)


def _share_above(counts: pd.DataFrame, level: int) -> "pd.Series[float]":
    known = counts["snapshots"].where(counts["sps"].notna(), 0)
    above = known.where(counts["sps"] > level, 0)
    sums = pd.DataFrame({"above": above, "known": known})
    sums = sums.groupby([counts[name] for name in PAIR], observed=True).sum()
    return sums["above"] / sums["known"]


def _changes_per_day(counts: pd.DataFrame) -> "pd.Series[float]":
    columns = [*ZONE, "day", "sps", "snapshots", "sps_changes", "first_at", "last_at"]
    known = counts.loc[counts["sps"].notna() & (counts["snapshots"] > 0), columns]
    known = known.assign(zone=known.groupby(ZONE, observed=True).ngroup())
    first = known.sort_values(["zone", "first_at"]).drop_duplicates(["zone", "day"])
    last = known.sort_values(["zone", "last_at"]).drop_duplicates(["zone", "day"], keep="last")
    before = last[["zone", "sps"]].shift(1).to_numpy()  # both are in order of zone, then day
    overnight = (before[:, 0] == first["zone"]) & (before[:, 1] != first["sps"])
    within = known.groupby(PAIR, observed=True)[["sps_changes", "snapshots"]].sum()
    across = overnight.groupby([first[name] for name in PAIR], observed=True).sum()
    changes: pd.Series[float] = within["sps_changes"] + across
    return changes * SNAPSHOTS_PER_DAY / within["snapshots"]


def _last_price(counts: pd.DataFrame) -> "pd.Series[float]":
    priced = counts[counts["price_usd_per_hour"].notna()].sort_values("day", kind="stable")
    last = priced.groupby(ZONE, observed=True)["price_usd_per_hour"].last()
    return last.groupby(level=PAIR, observed=True).mean()


def _last_if_at(counts: pd.DataFrame) -> "pd.Series[pd.Timestamp]":
    return counts[counts["if_score"].notna()].groupby(PAIR, observed=True)["last_at"].max()


def _last_t3(counts: pd.DataFrame, last_at: "pd.Series[pd.Timestamp]") -> "dict[str, pd.Series]":
    """Return t3 and t3_at per pair; ``last_at`` is when the last snapshot of each day was taken."""
    known = counts[counts["t3"].notna()]
    newest = known[known["day"] == known.groupby(PAIR, observed=True)["day"].transform("max")]
    by_pair = newest.groupby(PAIR, observed=True)
    return {"t3": by_pair["t3"].max(), "t3_at": by_pair["day"].max().map(last_at)}

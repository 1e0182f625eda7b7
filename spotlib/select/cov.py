"""The CoV math: exact counts -> variation -> score.

The score of a pair (instance type, region) is CoV(SPS) x CoV(IF), as the study defines it.  It is
large where both the placement score and the interruption frequency moved, which is where a launch
time can be explained by something.  It is no forecast of launch times and no ranking of quality.

All sums are of integers (SPS as it is, IF in halves) and only the last step divides.  Therefore a
ranking is the same to the last digit in every order of files, days and machines.  Pure: reads no
file and no clock, and draws nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd

from spotlib.words import listed

SMALL_SIZES: Final = ("medium", "small", "micro", "nano")  # larger ones cost too much to repeat

Form = Literal["pooled", "within"]
Missing = Literal["drop", "as_value"]

PAIR: Final = ["instance_type", "region"]
ZONE: Final = [*PAIR, "availability_zone_id"]
PER_ONE: Final = {"sps": 1, "if_score": 2}  # whole units in one: IF comes in halves
_SHORT = {"sps": "sps", "if_score": "if"}
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_STUDY_CODE = -1  # what the archive writes for missing; the study took it for a value


def variation(
    counts: pd.DataFrame, *, form: Form = "pooled", missing: Missing = "drop"
) -> pd.DataFrame:
    """Mean, standard deviation and CoV of SPS and IF for each (instance type, region).

    Parameters
    ----------
    counts : DataFrame, any number of rows
        Needs instance_type, region, availability_zone_id, sps, if_score (NaN where missing) and
        snapshots (an integer count), and for ``as_value`` sps_coded, if_coded and surplus_rows as
        in ``Reading.counts``.  Other columns are ignored and rows may repeat.
    form : {"pooled", "within"}
        ``pooled``: over all rows of all zones, as in the study; zones that differ permanently then
        count as movement.  ``within``: the root of the pooled within-zone variance (n minus zones
        degrees of freedom) over the same mean, so only change in time counts.
    missing : {"drop", "as_value"}
        ``as_value`` serves to reproduce the study, which took the rows of the archive as they are:
        where it has -1 for a missing SPS or IF, that is a value, an empty cell is none, and each
        repeated row counts.

    Returns
    -------
    DataFrame, one row per pair, sorted by instance_type and region
        instance_type, region, zones, snapshots (one per zone and snapshot, repeated rows once),
        and for SPS and IF: ``*_snapshots`` (those with a value), ``*_mean``, ``*_std``, ``*_cov``
        (a ratio).  Undefined is NaN: the mean of no value, the deviation of a single value (within:
        of one value per zone), the CoV at a mean of zero.

    Raises
    ------
    ValueError
        If a column is missing, an option is unknown, or a value is not in whole SPS or half IF.

    Notes
    -----
    With n values of sum S and sum of squares Q, all integers, the pooled variance is
    (n Q - S^2) / (n (n - 1)); ``ddof`` is 1.

    Examples
    --------
    SPS 1, 2, 3 has mean 2 and deviation 1; IF 2, 2, 3 has mean 7/3 and CoV sqrt(3)/7.

    >>> import pandas as pd
    >>> from spotlib import variation
    >>> pool = {"instance_type": "t3.nano", "region": "sa-east-1", "availability_zone_id": "az1"}
    >>> seen = pd.DataFrame({"sps": [1, 2, 3], "if_score": [2.0, 2.0, 3.0], "snapshots": 1})
    >>> table = variation(seen.assign(**pool))
    >>> table[["sps_mean", "sps_std", "sps_cov", "if_cov"]].round(4).to_dict("records")
    [{'sps_mean': 2.0, 'sps_std': 1.0, 'sps_cov': 0.5, 'if_cov': 0.2474}]
    """
    _require_option("form", form, get_args(Form))
    _require_option("missing", missing, get_args(Missing))
    require_columns(counts, [*ZONE, "sps", "if_score", "snapshots"])
    if missing == "as_value":
        require_columns(counts, ["sps_coded", "if_coded", "surplus_rows"])
    if counts[ZONE].isna().any(axis=None):
        counts = counts.dropna(subset=ZONE)
    table, pair, zone = _numbered(counts)
    table["snapshots"] = _sums(counts["snapshots"].to_numpy("int64"), pair[zone], len(table))
    rows = row_counts(counts, missing)
    for feature in PER_ONE:
        units, known = (each.to_numpy() for each in feature_units(counts, feature, missing))
        terms: _Integers = np.where(known, rows, 0)
        by_zone = [_sums(terms, zone, len(pair))]
        for _ in ("S", "Q"):
            terms *= units  # in place: a month has a million rows
            by_zone.append(_sums(terms, zone, len(pair)))
        table = table.assign(**_moments(by_zone, pair, feature=feature, form=form))
    return table


def score_targets(
    variation: pd.DataFrame, *, sizes: Iterable[str] | None = SMALL_SIZES
) -> pd.DataFrame:
    """Rank the pairs of a variation table by CoV(SPS) x CoV(IF), best first.

    Parameters
    ----------
    variation : DataFrame
        Needs instance_type, region, sps_cov and if_cov; other columns are kept.
    sizes : iterable of str or None
        Sizes by their exact token, the part after the dot: ``large`` does not match
        ``xlarge``.  None takes all.

    Returns
    -------
    DataFrame, one row per ranked pair
        ``variation`` with rank (from 1) and score.  Pairs of other sizes are left out, and those
        whose score is zero, undefined, infinite or the product of negative CoVs (a mean below zero
        occurs only where missing was taken for a value).  Ties are in order of name.

    Raises
    ------
    ValueError
        If a column is missing, or ``sizes`` is a single text.

    Examples
    --------
    The second pair never changed its SPS, so it is not ranked:

    >>> import pandas as pd
    >>> from spotlib import score_targets
    >>> table = pd.DataFrame(
    ...     [("t3.nano", "sa-east-1", 0.5, 0.2), ("t3.micro", "sa-east-1", 0.0, 0.3)],
    ...     columns=["instance_type", "region", "sps_cov", "if_cov"],
    ... )
    >>> score_targets(table)[["rank", "instance_type", "score"]].to_dict("records")
    [{'rank': 1, 'instance_type': 't3.nano', 'score': 0.1}]
    """
    require_columns(variation, [*PAIR, "sps_cov", "if_cov"])
    table = variation.astype(dict.fromkeys(PAIR, "str"))
    score = table["sps_cov"].clip(lower=0) * table["if_cov"]  # two below 0 have no score
    table = table.assign(score=score)[(score > 0) & np.isfinite(score)]
    table = table[is_of_size(table, sizes)].sort_values(
        ["score", *PAIR], ascending=[False, True, True], ignore_index=True, kind="stable"
    )
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def snapshots_by_value(counts: pd.DataFrame) -> pd.DataFrame:
    """Add up the days: one row per zone and pair of values, which makes a month small."""
    values = [*ZONE, "sps", "if_score", "sps_coded", "if_coded"]
    held = counts.groupby(values, observed=True, dropna=False)[["snapshots", "surplus_rows"]].sum()
    return held.astype("int64").reset_index()


def row_counts(counts: pd.DataFrame, missing: Missing) -> _Integers:
    """Return how often each line of counts counts: once per snapshot, in the study once per row."""
    rows: _Integers = counts["snapshots"].to_numpy("int64")
    return rows + counts["surplus_rows"].to_numpy("int64") if missing == "as_value" else rows


def feature_units(
    counts: pd.DataFrame, feature: str, missing: Missing
) -> tuple["pd.Series[int]", "pd.Series[bool]"]:
    """Return a feature in whole units (0 where unknown), and where it is known."""
    values = counts[feature].astype("float64")
    if missing == "as_value":
        values = values.mask(counts[f"{_SHORT[feature]}_coded"], _STUDY_CODE)
    known = values.notna()
    scaled = values.fillna(0) * PER_ONE[feature]
    units = scaled.round().astype("int64")
    if not (units == scaled).all():
        raise ValueError(f"{feature} must come in steps of {1 / PER_ONE[feature]:g}")
    return units, known


def is_of_size(table: pd.DataFrame, sizes: Iterable[str] | None) -> "pd.Series[bool]":
    """Return which instance types have one of these sizes; all if ``sizes`` is None."""
    if sizes is None:
        return pd.Series(True, index=table.index)
    if isinstance(sizes, str):
        raise ValueError(f"sizes must be a list of sizes, got the text {sizes!r}")
    return table["instance_type"].str.split(".").str[1].isin(set(sizes))


def require_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise ValueError if a column is missing."""
    missing = [name for name in names if name not in table]
    if missing:
        there = listed([*map(str, table.columns)]) if len(table.columns) else "none"
        raise ValueError(f"the table lacks the columns {listed(missing)}, it has {there}")


def _require_option(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def _numbered(counts: pd.DataFrame) -> tuple[pd.DataFrame, _Integers, _Integers]:
    """Return the pairs (one row each), the pair of each zone, and the zone of each row.

    A group-by over three columns of text has the same result, but builds a text for each row.
    """
    numbers = np.zeros(len(counts), np.int64)
    names = []
    for column in ZONE:
        places, values = pd.factorize(counts[column])
        texts = np.array(values.astype(str), object)
        order = np.argsort(texts)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        numbers = numbers * len(order) + rank[places]
        names.append(texts[order])
    types, regions, zones = names
    found, zone = np.unique(numbers, return_inverse=True)
    found, pair = np.unique(found // len(zones), return_inverse=True)
    type_of, region_of = np.divmod(found, len(regions))
    table = pd.DataFrame(
        {
            "instance_type": pd.array(types, dtype="str").take(type_of),
            "region": pd.array(regions, dtype="str").take(region_of),
            "zones": np.bincount(pair, minlength=len(found)),
        }
    )
    return table, pair, zone


def _sums(values: _Integers, group: _Integers, groups: int) -> _Integers:
    """Add up integers by the number of their group."""
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group, values)
    return sums


def _moments(
    by_zone: Sequence[_Integers], pair: _Integers, *, feature: str, form: Form
) -> dict[str, np.ndarray[Any, Any]]:
    """Return count, mean, deviation and CoV of a feature per pair, in the feature's own unit.

    ``by_zone`` has n, S and Q of each zone in the feature's whole units, ``pair`` its pair.
    """
    pairs = pair.max(initial=-1) + 1
    count, total, squares = (_sums(power, pair, pairs) for power in by_zone)
    mean = total / np.where(count > 0, count, np.nan)
    if form == "pooled":
        pooled = count * squares - total * total
        variance = pooled / np.where(count > 1, count * (count - 1), np.nan)
    else:
        n, s, q = by_zone
        within = pd.Series((n * q - s * s) / np.maximum(n, 1)).groupby(pair).sum()
        freedom = count - _sums((n > 0).astype(np.int64), pair, pairs)
        variance = within.to_numpy() / np.where(freedom > 0, freedom, np.nan)
    deviation = np.sqrt(variance)
    short = _SHORT[feature]
    return {
        f"{short}_snapshots": count,
        f"{short}_mean": mean / PER_ONE[feature],
        f"{short}_std": deviation / PER_ONE[feature],
        f"{short}_cov": deviation / np.where(mean != 0, mean, np.nan),
    }

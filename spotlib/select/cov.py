"""Which targets are worth measuring: variation, score and choice, from exact counts.

The score of a (type, region) is CoV(SPS) x CoV(IF), as the study defines it: large where both the
placement score and the interruption frequency move, so that a launch-time measurement has
something to be explained by.  It is not a forecast of launch times and not a ranking of quality.

Sums are taken over integers (SPS as it is, IF in halves), and only then divided, so a ranking is
the same to the last digit whatever the order of files, days or machines.  Pure: no file is read
and no clock; random choices take a seed.  ``write_selection`` alone touches the disk.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

SMALL_SIZES: Final = ("medium", "small", "micro", "nano")  # larger ones cost too much to repeat

Form = Literal["pooled", "within"]
Missing = Literal["drop", "as_value"]

PAIR: Final = ["instance_type", "region"]
ZONE: Final = [*PAIR, "availability_zone_id"]
PER_ONE: Final = {"sps": 1, "if_score": 2}  # whole units in one: IF comes in halves
_SHORT = {"sps": "sps", "if_score": "if"}
_Integers = np.ndarray[Any, np.dtype[np.int64]]
_STUDY_CODE = -1  # what the archive writes for missing, and the study took for a value


def coefficient_of_variation(values: ArrayLike, *, ddof: int = 1) -> float:
    """Standard deviation over mean of a sample.

    Parameters
    ----------
    values : array_like, 1-D
        The sample; NaN is missing and left out.
    ddof : int, default 1
        The variance is divided by ``n - ddof``.

    Returns
    -------
    float
        As ``scipy.stats.variation(values, ddof=ddof, nan_policy="omit")`` (a negative mean gives
        a negative value), except that a constant sample gives exactly 0 and that undefined is NaN,
        never infinite: no more than ``ddof`` values, a zero mean, or an infinite value.

    Raises
    ------
    ValueError
        If ``values`` has another number of dimensions than one.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1:
        raise ValueError(f"values must be one-dimensional, got {sample.ndim} dimensions")
    sample = sample[~np.isnan(sample)]
    if sample.size <= ddof or not np.isfinite(sample).all() or sample.mean() == 0:
        return float("nan")
    if sample.min() == sample.max():
        return 0.0
    return float(sample.std(ddof=ddof) / sample.mean())


def variation(
    counts: pd.DataFrame, *, form: Form = "pooled", missing: Missing = "drop"
) -> pd.DataFrame:
    """Mean, standard deviation and CoV of SPS and IF of every (type, region).

    Parameters
    ----------
    counts : DataFrame, any number of rows
        Needs instance_type, region, availability_zone_id, sps, if_score (NaN where missing) and
        snapshots (an integer count); further columns are ignored and rows may repeat.
    form : {"pooled", "within"}
        ``pooled``: over all rows of all zones, as the study does.  A pair whose zones differ for
        ever then looks as if it moved.  ``within``: the root of the pooled within-zone variance
        (n minus zones degrees of freedom) over the same mean, so that only change counts.
    missing : {"drop", "as_value"}
        ``as_value`` counts every missing SPS or IF as -1, as the study did; it is here to
        reproduce it.

    Returns
    -------
    DataFrame, one row a pair, sorted by instance_type and region
        instance_type, region, zones, snapshots (rows of the archive: one a zone and snapshot),
        and for SPS and IF: ``*_snapshots`` (those with a value), ``*_mean``, ``*_std``, ``*_cov``.
        Undefined is NaN: the mean of no value, the deviation of one (or of one a zone), the CoV
        of a zero mean.

    Raises
    ------
    ValueError
        If a column is lacking, an option is unknown, or a value is no whole SPS or half IF.

    Notes
    -----
    With n values of sum S and sum of squares Q, all integers, the pooled variance is
    (n Q - S^2) / (n (n - 1)); only the division leaves the integers.
    """
    _require(form in ("pooled", "within"), f"form is pooled or within, got {form!r}")
    _require(missing in ("drop", "as_value"), f"missing is drop or as_value, got {missing!r}")
    require_columns(counts, [*ZONE, "sps", "if_score", "snapshots"])
    if counts[ZONE].isna().any(axis=None):
        counts = counts.dropna(subset=ZONE)
    numbers, (types, regions, zones) = _numbered(counts)
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
    snapshots: _Integers = counts["snapshots"].to_numpy("int64")
    table["snapshots"] = _sums(snapshots, pair[zone], len(found))
    for feature in PER_ONE:
        units, known = (each.to_numpy() for each in feature_units(counts, feature, missing))
        terms: _Integers = np.where(known, snapshots, 0)
        by_zone = [_sums(terms, zone, len(pair))]
        for _ in ("S", "Q"):
            terms *= units  # in place: a month has a million rows
            by_zone.append(_sums(terms, zone, len(pair)))
        table = table.assign(**_moments(by_zone, pair, len(found), feature, form))
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
        Sizes by their exact token, the part after the first dot: ``large`` does not mean
        ``xlarge``.  None takes all.

    Returns
    -------
    DataFrame
        ``variation`` with rank (from 1) and score, without the pairs of other sizes and those
        whose score is zero, undefined, or the product of negative CoVs (a mean below zero comes
        only from missing taken for a value).  Ties are in order of name.

    Raises
    ------
    ValueError
        If a column is lacking.
    """
    require_columns(variation, [*PAIR, "sps_cov", "if_cov"])
    table = variation.astype(dict.fromkeys(PAIR, "str"))
    score = table["sps_cov"] * table["if_cov"]
    moving = (table["sps_cov"] > 0) & (table["if_cov"] > 0) & np.isfinite(score) & (score > 0)
    table = table.assign(score=score)[moving]
    table = table[is_of_size(table, sizes)].sort_values(
        ["score", *PAIR], ascending=[False, True, True], ignore_index=True, kind="stable"
    )
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def snapshots_by_value(counts: pd.DataFrame) -> pd.DataFrame:
    """Add up the days: one row for each zone and pair of values; a month becomes small."""
    values = [*ZONE, "sps", "if_score"]
    held = counts.groupby(values, observed=True, dropna=False)["snapshots"].sum()
    return held.astype("int64").reset_index()


def _numbered(counts: pd.DataFrame) -> tuple[_Integers, list[np.ndarray[Any, Any]]]:
    """Return one number for each row's type, region and zone, in their order, and those names.

    A group-by over three columns of text gives the same, and makes a text of each row for it.
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
    return numbers, names


def _sums(values: _Integers, group: _Integers, groups: int) -> _Integers:
    """Add up integers by the number of their group."""
    sums = np.zeros(groups, np.int64)
    np.add.at(sums, group, values)
    return sums


def feature_units(
    counts: pd.DataFrame, feature: str, missing: Missing
) -> tuple["pd.Series[int]", "pd.Series[bool]"]:
    """Return whole units of a feature (0 where unknown) and which are known."""
    values = counts[feature].astype("float64")
    if missing == "as_value":
        values = values.fillna(_STUDY_CODE)
    known = values.notna()
    scaled = values.fillna(0) * PER_ONE[feature]
    units = scaled.round().astype("int64")
    _require(bool((units == scaled).all()), f"{feature} holds values that are no archive's")
    return units, known


def _moments(
    by_zone: Sequence[_Integers], pair: _Integers, pairs: int, feature: str, form: Form
) -> dict[str, np.ndarray[Any, Any]]:
    """Return count, mean, deviation and CoV of a feature by pair, in the feature's own unit.

    ``by_zone`` has n, S and Q of each zone in the feature's whole units, ``pair`` its pair.
    """
    count, total, squares = (_sums(power, pair, pairs) for power in by_zone)
    mean = total / np.where(count > 0, count, np.nan)
    if form == "pooled":
        pooled = count * squares - total * total
        variance = pooled / np.where(count > 1, count * (count - 1), np.nan)
    else:
        n, s, q = by_zone
        within = pd.Series((n * q - s * s) / np.where(n > 0, n, np.nan)).groupby(pair).sum()
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


def is_of_size(table: pd.DataFrame, sizes: Iterable[str] | None) -> "pd.Series[bool]":
    if sizes is None:
        return pd.Series(True, index=table.index)
    _require(not isinstance(sizes, str), f"sizes is a list of sizes, got the text {sizes!r}")
    return table["instance_type"].str.split(".", n=1).str[1].isin(set(sizes))


def require_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    lacking = [name for name in names if name not in table]
    _require(not lacking, f"the table lacks the columns {lacking}, it has {list(table.columns)}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)

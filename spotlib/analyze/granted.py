"""What share of the instances asked for EC2 granted: per target, of probes and of launches.

Owns what counts as granted and the table of it.  A probe says whether EC2 granted a request at
once.  A launch also waits while EC2 holds a request: it counts as granted if it got an instance
before the timeout, else as not granted.  These are two different variables and are never pooled.
Neither are runs that differ in launch method, purchase, n, or waiting time.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import arm_names, is_probe
from spotlib.analyze.intervals import Estimate, ShareLimits
from spotlib.analyze.launch_times import draw_runs, round_of
from spotlib.model import Outcome
from spotlib.words import counted, rounded, which

_SAME = ["target", "asked_by", "how", "n", "within_s"]
_RESAMPLES = 999
_COLUMNS = [*_SAME, "runs", "asked", "granted", "held", "share", "low", "high", "why_no_interval"]


def share_granted(requests: pd.DataFrame) -> pd.DataFrame:
    """The share granted, one row per target, arm, probe or launch, n and time to wait.

    Parameters
    ----------
    requests : DataFrame
        As ``Comparable.asked``: requests that count, with ``target`` and ``run``.

    Returns
    -------
    DataFrame
        ``how`` is ``probe`` or ``launch``; ``within_s`` is how long was waited at most.  ``runs``,
        and in them the instances ``asked`` for, ``granted``, and last seen ``held`` by EC2.
        ``share`` has a 95 % interval over runs, ``low`` to ``high``, NaN below 6 runs (see
        ``ShareLimits``).  The highest shares come first, probes before launches.  A run of which
        something is not known (it was stopped early) is left out.
    """
    rows = requests.assign(
        asked_by=arm_names(requests),
        how=np.where(is_probe(requests), "probe", "launch"),
        within_s=requests["timeout_s"],
        granted=_granted(requests),
        held=requests["outcome"] == Outcome.HELD,
    )
    known = rows["granted"].notna().groupby(rows["run"]).transform("all")
    found = [
        dict(zip(_SAME, same, strict=True)) | _share(group)
        for same, group in rows[known].groupby(_SAME)
    ]
    table = pd.DataFrame(found, columns=_COLUMNS).astype({"share": float})
    return table.sort_values(
        ["how", "share", "target"], ascending=[False, False, True], kind="stable", ignore_index=True
    )


def _granted(requests: pd.DataFrame) -> "pd.Series[float]":
    """1 if EC2 granted a request, 0 if not, NaN if it is unknown because watching had stopped."""
    granted = requests["granted_by_s"].notna() | requests["fulfilled_by_s"].notna()
    unknown = requests["outcome"].isna() | (requests["outcome"] == Outcome.ABANDONED)
    return granted.astype(float).mask(unknown & ~granted)


def _share(rows: pd.DataFrame) -> dict[str, object]:
    shares = rows.groupby("run")["granted"].mean()
    draws = draw_runs(tuple(map(round_of, shares.index)), _RESAMPLES)
    again = draws @ shares.to_numpy() / len(shares)
    limits = ShareLimits.of(
        np.array([shares.mean()]), again[:, None], runs=len(shares), requests=len(rows)
    )
    estimate = limits.interval(float(shares.mean()))
    return {
        "runs": len(shares),
        "asked": len(rows),
        "granted": int(rows["granted"].sum()),
        "held": int(rows["held"].sum()),
        "share": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "why_no_interval": estimate.why,
    }


def granted_sentences(table: pd.DataFrame) -> Iterator[str]:
    """Sentences that name the largest and the smallest share granted, for probes and launches."""
    if table.empty:
        yield "Not known is whether EC2 granted anything: no run was watched until it was decided."
    for how, rows in table.groupby("how", sort=False):
        shares = list(dict.fromkeys(_shares_alike(rows)))
        words = f"the highest share is {shares[0]}, the lowest {shares[-1]}"
        if len(shares) == 1:
            words = f"the share is {shares[0]}"
        yield f"Granted to {'probes' if how == 'probe' else 'launches'}: {words}."


def _shares_alike(rows: pd.DataFrame) -> Iterator[str]:
    """Each share with its rows; rows with the same share are named together."""
    said = rows["share"].map(partial(rounded, digits=2))
    for (row, name), share in zip(_named(rows), said, strict=True):
        alike = [
            other for (_, other), same in zip(_named(rows), said == share, strict=True) if same
        ]
        words = _share_words(row) if alike == [name] else share
        yield f"{words} at {which(alike, of=len(rows))}"


def granted_lines(table: pd.DataFrame) -> Iterator[str]:
    """One line per row, as a terminal shows it."""
    for row, name in _named(table):
        left = row["asked"] - row["granted"] - row["held"]
        words = f"{name}: granted {row['granted']} of {row['asked']} in "
        words += f"{counted(row['runs'], row['how'])}, share "
        words += _share_words(row, interval="95 % interval ")
        words += f"; EC2 held {row['held']}" * bool(row["held"])
        yield words + f"; {left} refused, ended or undecided" * bool(left)


def formatted_granted(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``share_granted``, the share in one cell with its interval."""
    shown = table[[*_SAME, "runs", "asked", "granted"]].assign(
        within_s=table["within_s"].map("{:g}".format),
        share=[_share_words(row) for _, row in table.iterrows()],
    )
    names = {"asked_by": "asked by", "within_s": "within, s", "share": "share granted"}
    return shown.rename(columns=names)


def _named(table: pd.DataFrame) -> "Iterator[tuple[pd.Series[Any], str]]":
    """Each row and its target, with whatever else distinguishes it from the others."""
    names = table["target"].astype(str)
    for column, words in (("asked_by", ", by {}"), ("n", ", n={}"), ("within_s", ", {:g} s")):
        if table[column].nunique() > 1:
            names = names + table[column].map(words.format)
    yield from zip((row for _, row in table.iterrows()), names, strict=True)


def _share_words(row: "pd.Series[Any]", *, interval: str = "") -> str:
    estimate = Estimate(row["share"], row["low"], row["high"], row["why_no_interval"])
    if np.isnan(estimate.low):
        return estimate.words("", digits=2)
    return f"{rounded(estimate.value, 2)} ({interval}{estimate.ends(2)})"

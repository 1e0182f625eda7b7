"""The newest comparable launches from the logs, and an account of what was left out.

Owns the order in which the rules of ``comparable`` are applied.  It estimates nothing.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd

from spotlib.analyze.comparable import (
    deciding_batch,
    is_probe,
    name_runs,
    other_arm,
    other_market,
    other_variable,
    runs_by_arm,
    side_by_side,
    whole_batches,
    why_not,
)
from spotlib.figures import foreign_mark
from spotlib.model import Outcome, Stage
from spotlib.processes import release_memory
from spotlib.record.folder import Paths
from spotlib.record.tables import load_readable

_STUDY = 'read the study that make study wrote, with results = "results/study"'
_LEFT_OUT = ["batch_id", "target", "requests", "why"]
_ASKED = [  # a few columns, as these rows are a copy of all requests
    *("target", "run", "method", "purchase", "wanted", "n", "timeout_s"),
    *("outcome", "granted_by_s", "fulfilled_by_s"),
]
# Runs whose polls are kept for figures: of each target its share of them all, or at least so many.
_SHOWN_RUNS, _FEWEST_SHOWN = 1600, 20


@dataclass(frozen=True)
class Comparable:
    """Launches that may be analyzed together.

    ``launches`` (one row per request) and ``polls`` (one row per poll and plan) have the columns
    of ``load_launches`` and ``load_polls``, and ``target`` and ``run``.  Where there are many runs,
    ``polls`` has those of a random sample of each target's runs; ``polled`` has one row per poll of
    a region: ``batch_id``, ``round``, ``region``, ``poll``, ``error``, ``skipped`` (before it,
    while a run was watched).  ``left_out`` has the columns ``batch_id``, ``target``, ``requests``
    and ``why``; ``not_read`` counts its logs that cannot be read.  ``arms`` has these launches
    beside those that differ from them only in how they were asked for (``comparable.arm_names``);
    it is empty if there are none.  ``ways`` counts the runs of every arm in the same market
    (``runs_by_arm``), and ``passed_over`` is the newest batch if it was stopped or is under way, so
    that another decides (``deciding_batch``), and nothing of it, or of one of its targets, counts.
    ``probes`` has the probes of the same market; where nothing but probes was asked, they are the
    ``launches``.
    """

    launches: pd.DataFrame
    polls: pd.DataFrame
    polled: pd.DataFrame
    batches: pd.DataFrame
    left_out: pd.DataFrame
    wanted: Stage
    simulated: bool
    arms: pd.DataFrame
    probes: pd.DataFrame
    ways: pd.DataFrame
    passed_over: str = ""
    not_read: int = 0

    @property
    def asked(self) -> pd.DataFrame:
        """Every request that counts: launches, those of other arms beside them, and probes.

        It has the columns that tell what was asked for and whether it was granted.
        """
        others = self.arms[~self.arms["run"].isin(set(self.launches["run"]))]
        tables = [each[_ASKED] for each in (self.launches, others, self.probes)]
        return pd.concat(tables, ignore_index=True)

    @property
    def lines(self) -> str:
        """One sentence: how many runs have their polls here, of how many."""
        refused, runs = self.refused_runs["run"], self.launches["run"].nunique()
        if runs == 1:
            return "Thin line: the only run."
        shown = len({*self.polls["run"], *refused})
        at_zero = ", at 0 those that EC2 refused at once" * bool(len(refused))
        if shown == runs:
            return f"Thin lines: all {runs} runs{at_zero}."
        if len(_shown(self.launches)) < runs:
            return f"Thin lines: a random sample of {shown} of the {runs} runs{at_zero}."
        return f"Thin lines: {shown} of the {runs} runs{at_zero}; the others were never polled."

    @property
    def refused_runs(self) -> pd.DataFrame:
        """One row for each run that is drawn and has no poll, because EC2 refused all of it."""
        runs = self.launches[["run", "target", "n", "timeout_s"]].drop_duplicates("run")
        others = self.launches.loc[self.launches["outcome"] != Outcome.REFUSED, "run"]
        known = runs["run"].isin({*others, *self.polls["run"]})
        return runs[~known & runs["run"].isin(_shown(self.launches))]

    @property
    def kind(self) -> Literal["simulated", "real", "unknown"]:
        """Which banner the page has: see ``banner_html``."""
        if self.simulated:
            return "simulated"
        return "unknown" if self.mark else "real"

    @property
    def mark(self) -> str:
        """What is written across figures of a foreign endpoint; "" for the sandbox and AWS."""
        return foreign_mark(self.launches)


def load_comparable(
    paths: Paths, *, targets: str = "", arm: str = "", executor: Executor | None = None
) -> Comparable:
    """Load the newest launches that are one variable, and list what was left out.

    Parameters
    ----------
    paths : str, Path or iterable of these
        Logs, or folders of logs.
    targets : str, optional
        Keep only targets whose name contains one of these comma-separated words.
    arm : str, optional
        Keep only what was asked for like this, such as ``run_instances:on-demand``.  By default
        the arm of most requests in the newest batch that is whole (``deciding_batch``), the study's
        own of equally many.
    executor : Executor, optional
        Reads many logs at once, as for ``load_launches``.

    Returns
    -------
    Comparable
        Requests that count (``why_not``) and are the same variable as the newest whole batch
        that is not of probes (``deciding_batch``, ``other_variable``).  Logs that cannot be read,
        and copies, are among ``left_out``, with NaN requests.

    Raises
    ------
    ValueError
        If there is no launch, if none remains, if a word of ``targets`` matches no target, or if
        nothing was asked for like ``arm``.
    """
    found = load_readable(paths, executor=executor)
    not_read = [(each.batch_id, "", np.nan, each.words) for each in found.faults]
    not_read += [("", "", np.nan, words) for words in found.notes]
    left_out = [pd.DataFrame(not_read, columns=_LEFT_OUT).astype({"requests": "float64"})]
    if found.launches.empty:
        raise ValueError(_nothing(paths, left_out[0]))
    launches = _kept(name_runs(found.launches), why_not, left_out)
    probes = launches[is_probe(launches)]
    if 0 < len(probes) < len(launches):
        launches = launches[~is_probe(launches)]
    else:
        probes = probes.iloc[:0]  # nothing but probes: they are what is analyzed
    everything = launches
    launches = _kept(launches, partial(other_arm, arm=arm), left_out)
    whole = whole_batches(found.launches, found.batches)
    of_arm, deciding = launches, deciding_batch(launches, whole)
    launches = _kept(launches, partial(other_variable, whole=whole), left_out)
    arms = side_by_side(everything, deciding=deciding, whole=whole)
    market = ["simulated", "endpoint"]
    ways = runs_by_arm(everything[(everything[market] == launches[market].iloc[0]).all(axis=1)])
    passed_over = _passed_over(of_arm, launches, deciding)
    del everything, of_arm
    left_out.append(_left_out(probes, other_market(probes, launches)))
    probes = probes[other_market(probes, launches) == ""]
    launches, probes = _chosen(launches, targets), probes[_named(probes, targets)]
    arms = arms[arms["target"].isin(set(launches["target"]))]
    kept = set(launches["batch_id"])
    run = name_runs(found.polled.runs)["run"]
    polled = found.polled.of(run.isin(set(launches["run"])))
    loaded = Comparable(
        launches=launches.reset_index(drop=True),
        polls=name_runs(polled.of(run.isin(_shown(launches))).table()),
        polled=polled.made(),
        batches=found.batches[found.batches["batch_id"].isin(kept)].reset_index(drop=True),
        left_out=pd.concat(left_out, ignore_index=True),
        wanted=Stage[launches["wanted"].iloc[0].upper()],
        simulated=bool(launches["simulated"].iloc[0]),
        arms=arms.reset_index(drop=True),
        probes=probes.reset_index(drop=True),
        ways=ways,
        passed_over=passed_over,
        not_read=len(found.faults),
    )
    del found
    release_memory()
    return loaded


def _nothing(paths: object, unreadable: pd.DataFrame) -> str:
    reasons = unreadable["why"].tolist()
    hint = f"; not readable: {reasons[0]}" if reasons else f": run 02_collect first, or {_STUDY}"
    return f"there is no launch in {str(paths)!r}{hint}"


def _kept(
    launches: pd.DataFrame,
    rule: Callable[[pd.DataFrame], "pd.Series[str]"],
    left_out: list[pd.DataFrame],
) -> pd.DataFrame:
    """The launches for which a rule says nothing; the others are added to what was left out."""
    why = rule(launches)
    left_out.append(_left_out(launches, why))
    if (why == "").all():
        return launches  # not a copy
    if (why != "").all():
        raise ValueError(f"no request is left to analyze: each {why.iloc[0]}")
    return launches[why == ""]


def _passed_over(launches: pd.DataFrame, kept: pd.DataFrame, deciding: str) -> str:
    """The newest batch, if another decides and one of its targets counts nothing of it; else ""."""
    newest = deciding_batch(launches)
    met, shown = (set(each.loc[each["batch_id"] == newest, "target"]) for each in (launches, kept))
    return newest if newest != deciding and met > shown else ""


def _left_out(launches: pd.DataFrame, why: "pd.Series[str]") -> pd.DataFrame:
    gone = launches[why != ""].assign(why=why)
    counts = gone.groupby(["batch_id", "target", "why"]).size()
    return counts.rename("requests").reset_index().astype({"requests": "float64"})[_LEFT_OUT]


def _shown(launches: pd.DataFrame) -> "set[str]":
    """The runs whose polls are kept: all, or the same random sample each time."""
    runs = launches[["target", "run"]].drop_duplicates("run").sample(frac=1.0, random_state=0)
    most = max(_SHOWN_RUNS // runs["target"].nunique(), _FEWEST_SHOWN)
    return set(runs.groupby("target").head(most)["run"])


def _words(targets: str) -> list[str]:
    return [word.strip() for word in targets.split(",") if word.strip()]


def _named(launches: pd.DataFrame, targets: str) -> "pd.Series[bool]":
    """Whether the target of each request is one of those named; all are if none is named."""
    words = _words(targets) or [""]
    return launches["target"].map(lambda name: any(word in name for word in words)).astype(bool)


def _chosen(launches: pd.DataFrame, targets: str) -> pd.DataFrame:
    words = _words(targets)
    names = sorted(set(launches["target"]))
    unknown = [word for word in words if not any(word in name for name in names)]
    if unknown:
        raise ValueError(
            f"targets names {', '.join(unknown)}, which was not launched; there are: "
            f"{', '.join(names)}"
        )
    return launches[_named(launches, targets)] if words else launches

"""Which observations belong together: the newest comparable group, and what was left out.

Owns the rule that two requests may be read together, the names of runs and targets, and the
parameters of ``03_analyze``.  It estimates nothing.

A **run** is a plan in a round of a batch: one request call.  Its instances share one moment of
one pool, so the run, not the instance, is the sample in everything that follows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spotlib.figures import target_names
from spotlib.model import OUTCOME_KINDS, Outcome, Stage
from spotlib.record.log import log_files
from spotlib.record.tables import load_batches, load_launches, load_polls

# Launches that differ in one of these are different variables: never pooled.  The image's id is a
# region's own, so images are compared within a target.
SAME_VARIABLE = ("simulated", "endpoint", "method", "placement", "wanted")
# After such an outcome a request can never reach a later stage: a competing event ...
COMPETING = frozenset({Outcome.REFUSED, Outcome.FAILED, Outcome.INTERRUPTED})
# ... unless a user ended it: that says nothing of what EC2 would have done.
_USER_CODES = frozenset(
    {
        *("canceled-before-fulfillment", "request-canceled-and-instance-running"),
        *("instance-terminated-by-user", "instance-stopped-by-user"),
        "spot-instance-terminated-by-user",
    }
)


@dataclass(frozen=True)
class Comparable:
    """What may be read together.

    ``launches`` (one row a request) and ``polls`` (one row a look and plan) have two columns more
    than the store's: ``target`` and ``run``.  ``left_out`` says what was not taken: ``batch_id``,
    ``target``, ``requests``, ``why``.
    """

    launches: pd.DataFrame
    polls: pd.DataFrame
    batches: pd.DataFrame
    left_out: pd.DataFrame
    wanted: Stage
    simulated: bool

    @property
    def words(self) -> str:
        """One sentence: how much this is."""
        here = self.launches
        counts = [
            _count(len(here), "request"),
            "in " + _count(here["run"].nunique(), "run"),
            "of " + _count(here["target"].nunique(), "target"),
        ]
        batches = here["batch_id"].nunique()
        from_batches = f", from {batches} batch{'es' * (batches != 1)}"
        return " ".join(counts) + from_batches + " (simulated)" * self.simulated


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def load_comparable(paths: str | Path | Iterable[str | Path], *, targets: str = "") -> Comparable:
    """Load the newest group of requests that are the same variable, and list what was left out.

    The newest batch's simulated or real, endpoint, method, wanted stage and placement; of each
    target the newest image; logs of this schema; a run that repeats one of a simulated world
    counts once, and those that say nothing about the market (quota, permission, ...) do not (both
    in ``observations``).  ``targets`` keeps those whose name contains one of its comma-separated
    words.

    Raises
    ------
    ValueError
        If nothing is there, or nothing remains.
    """
    files = log_files(paths)
    readable, left_out = _readable(files)
    launches = load_launches(readable)
    if launches.empty:
        raise ValueError(_nothing(paths, left_out))
    launches = _named(launches)
    batches = load_batches(readable)
    for reason in (why_not, _other):
        why = reason(launches)
        left_out.append(_left_out(launches, why))
        launches = launches[why == ""]
        if launches.empty:
            raise ValueError(f"no request is left to analyze: each {why.iloc[0]}")
    launches = _chosen(launches, targets)
    kept = set(launches["batch_id"])
    polls = _named(load_polls([path for path in readable if path.stem in kept]))
    return Comparable(
        launches=launches.reset_index(drop=True),
        polls=polls[polls["run"].isin(set(launches["run"]))].reset_index(drop=True),
        batches=batches[batches["batch_id"].isin(kept)].reset_index(drop=True),
        left_out=pd.concat(left_out, ignore_index=True),
        wanted=Stage[launches["wanted"].iloc[0].upper()],
        simulated=bool(launches["simulated"].iloc[0]),
    )


def ended_by_ec2(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request ended in a competing event: refused, failed or interrupted by EC2.

    Such a request stays in the count with the time infinity.  Any other that was not shown at the
    stage is right-censored where it was last polled.
    """
    competing = launches["outcome"].isin(COMPETING)
    return competing & ~launches["status_code"].isin(_USER_CODES)


def _named(table: pd.DataFrame) -> pd.DataFrame:
    place = table["round"].astype(str) + "/" + table["plan"].astype(str)
    run = table["batch_id"].astype(str) + "/" + place
    return table.assign(target=target_names(table), run=run)


def _readable(files: Sequence[Path]) -> tuple[list[Path], list[pd.DataFrame]]:
    """The logs that can be read, and the others as left out: of another schema, or broken."""
    try:
        load_batches(files)
    except ValueError:
        why = {path: _trouble(path) for path in files}
    else:
        return list(files), [_rows([])]
    bad = [(path.stem, "", np.nan, words) for path, words in why.items() if words]
    return [path for path, words in why.items() if not words], [_rows(bad)]


def _trouble(path: Path) -> str:
    try:
        load_batches([path])
    except ValueError as error:
        return str(error)
    return ""


def _nothing(paths: object, left_out: Sequence[pd.DataFrame]) -> str:
    reasons = [words for table in left_out for words in table["why"]]
    hint = f"; not readable: {reasons[0]}" if reasons else ": run 02_collect first"
    return f"there is no launch in {str(paths)!r}{hint}"


def _rows(rows: Sequence[tuple[str, str, float, str]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows), columns=["batch_id", "target", "requests", "why"])
    return table.astype({"requests": "float64"})


def _left_out(launches: pd.DataFrame, why: "pd.Series[str]") -> pd.DataFrame:
    gone = launches[why != ""].assign(why=why)
    counts = gone.groupby(["batch_id", "target", "why"]).size()
    table = counts.rename("requests").reset_index().astype({"requests": "float64"})
    return table[["batch_id", "target", "requests", "why"]]


def _other(launches: pd.DataFrame) -> "pd.Series[str]":
    """What is another variable than the newest batch's, or another image than a target's newest."""
    newest = launches[launches["batch_id"] == launches["batch_id"].max()]
    wanted = newest.groupby(list(SAME_VARIABLE)).size().idxmax()
    why = pd.Series("", index=launches.index)
    for name, value in zip(SAME_VARIABLE, wanted, strict=True):
        other = launches[name] != value
        words = name + " " + launches[name].astype(str) + f", not {value}"
        why = why.mask(other & (why == ""), words)
    image = launches["image"].fillna("").astype(str)
    same = launches.assign(image=image)[why == ""].sort_values("batch_id")
    last = _looked_up(launches["target"], same.groupby("target")["image"].last().to_dict())
    return why.mask((image != last) & (why == ""), "image " + image + ", newest is " + last)


def _looked_up(names: "pd.Series[str]", words: Mapping[Any, str]) -> "pd.Series[str]":
    return pd.Series([words.get(name, "") for name in names], index=names.index, dtype="str")


def _chosen(launches: pd.DataFrame, targets: str) -> pd.DataFrame:
    words = [word.strip() for word in targets.split(",") if word.strip()]
    names = sorted(set(launches["target"]))
    unknown = [word for word in words if not any(word in name for name in names)]
    if unknown:
        raise ValueError(
            f"targets names {', '.join(unknown)}, which was not launched: {', '.join(names)}"
        )
    if not words:
        return launches
    return launches[[any(word in name for word in words) for name in launches["target"]]]


RUN = ["batch_id", "round", "plan"]  # what names a run


_POOL = ["world", "instance_type", "region", "availability_zone_id", "n"]


_SAME_MOMENT = pd.Timedelta(seconds=60)  # of a world's clock, which a repeated seed starts again


_OURS = {
    "limit-exceeded": "a quota of the account",
    "bad-parameters": "an error in the request",
}


def why_not(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why a request does not count, "" where it does: one text a row.

    First what says nothing of the market, then, of what is left, what is there twice.
    """
    why = no_observation(launches)
    return why.mask(why == "", repeated(launches[why == ""]))


def no_observation(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why a request says nothing of the market, "" where it does: one text a row.

    A refusal says something if it is for capacity or price; those of the account (quota,
    permission) or of the request are ours, and so are failures with such a status code.
    """
    outcome, kind = launches["outcome"].astype(object), launches["kind"]
    refused = (outcome == Outcome.REFUSED) & ~kind.isin(OUTCOME_KINDS)
    cause = launches["status_code"].astype(object).map(_OURS)
    failed = (outcome == Outcome.FAILED) & cause.notna()
    words = "refused (" + kind.astype(object).fillna("unknown") + "): says nothing about the market"
    why = words.where(refused).mask(failed, "failed: " + cause)
    whole = why.groupby([launches[name] for name in RUN]).transform("first")
    return whole.fillna("").astype("str")


def repeated(launches: pd.DataFrame) -> "pd.Series[str]":
    """Which world a run repeats, "" where it is the first or real: one text a row.

    A world made again with the same seed shows the same pool at the same moment again.  Of the
    runs that asked a pool for as many at the same moment of one world, that of the largest batch
    counts (of equal ones the newest); a later batch in a living world is another moment.
    """
    simulated = launches["simulated"].fillna(False).astype(bool)
    runs = launches[simulated].drop_duplicates(RUN).sort_values("sent_at")
    pools = runs.groupby(_POOL, dropna=False)
    moment = (pools["sent_at"].diff() > _SAME_MOMENT).groupby(pools.ngroup()).cumsum()
    sizes = launches.groupby("batch_id").size().rename("size").reset_index()
    order = sizes.sort_values(["size", "batch_id"])["batch_id"].tolist()
    place = runs["batch_id"].map({name: rank for rank, name in enumerate(order)})
    again = runs[place < place.groupby([pools.ngroup(), moment]).transform("max")]
    told = pd.MultiIndex.from_frame(launches[RUN]).isin(pd.MultiIndex.from_frame(again[RUN]))
    words = "repeats a run of the simulated world " + launches["world"] + ": counts once"
    return words.where(told, "").astype("str")

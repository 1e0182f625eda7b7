"""Which launches are observations of the market, and which of them may be pooled.

Owns these rules, each only here: what competes with becoming ready and what is censored
(``ended_by_ec2``), what is no observation (``no_observation``), what repeats one (``repeated``),
which batch a page is about (``whole_batches``, ``deciding_batch``), what is another variable
(``other_variable``), what is a probe (``is_probe``), what an arm is, and which arms met side by
side (``arm_names``, ``side_by_side``).  It reads no file and estimates nothing.

A **run** is one plan in one round of a batch: one request call.  Its instances share one moment
of one pool, so the run, not the instance, is the sample of every statistic.
"""

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from spotlib.figures import target_names
from spotlib.model import DEFAULT_METHOD, OUTCOME_KINDS, Outcome, Stage
from spotlib.words import listed

RUN = ["batch_id", "round", "plan"]  # the columns that name a run
# Launches that differ in one of these are different variables: never pooled.  Images differ
# between architectures, so their families are compared within a target.
SAME_VARIABLE = ("simulated", "endpoint", "method", "purchase", "placement", "wanted")
ARM = ("method", "purchase")  # how a run was asked for: what arms of one study may differ in
# After such an outcome a request can never reach a later stage: a competing event, unless the
# account itself ended it, which says nothing of what EC2 would have done.
COMPETING = frozenset({Outcome.HELD, Outcome.REFUSED, Outcome.FAILED, Outcome.INTERRUPTED})
NOT_THE_MARKET = "says nothing about the market"
_POOL = ["world", "instance_type", "region", "availability_zone_id", "n", "method", "purchase"]
_SAME_MOMENT = pd.Timedelta(seconds=60)  # of a world's clock, which a repeated seed starts again


def ended_by_ec2(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request ended in a competing event: held, refused, failed or interrupted by EC2.

    Such a request stays in the count with the time infinity.  Any other that was not shown at the
    stage is right-censored where it was last polled.
    """
    return launches["outcome"].isin(COMPETING) & ~_is_our_own(launches)


def stopped(launches: pd.DataFrame) -> pd.DataFrame:
    """The requests that were no longer watched, because their batch was stopped or died."""
    return launches[launches["outcome"] == Outcome.ABANDONED]


def why_not(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each request does not count; "" where it does.

    A request that is no observation gets that reason.  Repeats are sought among the others only.
    """
    why = no_observation(launches)
    return why.mask(why == "", repeated(launches[why == ""]))


def no_observation(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each request says nothing about the market; "" where it does say something.

    A refusal for capacity or price is an observation.  A refusal for another reason (quota,
    permission, parameters) is our own, and so is a failure that has a kind (see
    ``model.failure_kind``): the account's key, limit, people or tools ended it.  One such request
    excludes its whole run.
    """
    outcome, kind, reason = (
        launches[name].astype(object) for name in ("outcome", "kind", "instance_reason")
    )
    cause = kind.fillna("unknown") + (", " + reason).fillna("")
    why = (outcome + " (" + cause + f"): {NOT_THE_MARKET}").where(_is_our_own(launches))
    whole = why.groupby([launches[name] for name in RUN]).transform("first")
    return whole.fillna("").astype("str")


def _is_our_own(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request was refused or failed for a reason of our own account."""
    outcome, kind = launches["outcome"].astype(object), launches["kind"].astype(object)
    refused = (outcome == Outcome.REFUSED) & ~kind.isin(OUTCOME_KINDS)
    return refused | ((outcome == Outcome.FAILED) & kind.notna())


def repeated(launches: pd.DataFrame) -> "pd.Series[str]":
    """Which simulated world each request repeats; "" where it repeats none or is real.

    The same seed makes the same world again, which shows the same pool at the same moment.  If
    several runs asked for equal n from one pool at one moment of one world, only the run of the
    largest batch counts (the newest of equally large ones).
    """
    simulated = launches["simulated"].fillna(False).astype(bool)
    runs = launches[simulated].drop_duplicates(RUN).sort_values("sent_at")
    pools = runs.groupby(_POOL, dropna=False)
    moment = (pools["sent_at"].diff() > _SAME_MOMENT).groupby(pools.ngroup()).cumsum()
    sizes = launches.groupby("batch_id").size().rename("size").reset_index()
    order = sizes.sort_values(["size", "batch_id"])["batch_id"].tolist()
    place = runs["batch_id"].map({name: rank for rank, name in enumerate(order)})
    again = runs[place < place.groupby([pools.ngroup(), moment]).transform("max")]
    repeats = pd.MultiIndex.from_frame(launches[RUN]).isin(pd.MultiIndex.from_frame(again[RUN]))
    words = "repeats a run of the simulated world " + launches["world"] + ": counts once"
    return words.where(repeats, "").astype("str")


def complete(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request was watched to its end: it has an outcome, and nobody stopped it."""
    return launches["outcome"].notna() & (launches["outcome"] != Outcome.ABANDONED)


def whole_batches(launches: pd.DataFrame, batches: pd.DataFrame) -> set[str]:
    """The batches that were not stopped and are not under way: all that they planned was watched.

    Rounds may be skipped, also the last: such a batch is whole if the next round, as far from the
    last as its rounds were apart, would come after those planned.
    """
    ended = complete(launches).groupby(launches["batch_id"]).all()
    begun = launches[["batch_id", "round"]].drop_duplicates().sort_values(["batch_id", "round"])
    rounds = begun["round"].astype("float64").groupby(begun["batch_id"])
    apart = rounds.agg(lambda numbers: np.diff(numbers).max(initial=1.0))
    planned = batches.set_index("batch_id")["rounds"].astype("float64").reindex(ended.index)
    return set(ended.index[ended & (rounds.max() + apart >= planned)])


def deciding_batch(launches: pd.DataFrame, whole: Collection[str] = ()) -> str:
    """The batch whose kind of launch is analyzed: the newest whole one, or, of none, the newest."""
    names = set(launches["batch_id"])
    return str(max(names.intersection(whole) or names))


def other_variable(
    launches: pd.DataFrame,
    *,
    columns: Sequence[str] = SAME_VARIABLE,
    deciding: str | None = None,
) -> "pd.Series[str]":
    """Why each request is not the same variable as the deciding batch; "" where it is.

    That batch (see ``deciding_batch``; by default the newest) fixes every one of the columns, by
    the most frequent values of its complete requests.  Within a target only the family of its
    newest image counts, in all its releases.
    """
    chosen = launches[launches["batch_id"] == (deciding or deciding_batch(launches))]
    ended = chosen[complete(chosen)]
    sizes = (chosen if ended.empty else ended).groupby(list(columns)).size()
    most = sizes[sizes == sizes.max()].index
    kept = next((each for each in most if DEFAULT_METHOD in each), most[0])
    values = dict(zip(columns, kept, strict=True))
    arm = arm_names(pd.DataFrame([values]))[0] if set(ARM) <= set(columns) else ""
    why = pd.Series("", index=launches.index)
    for name, value in values.items():
        words = name + " " + launches[name].astype(str) + f", not {value}"
        words = other_arm(launches, arm=arm) if name in ARM else words
        why = why.mask((launches[name] != value) & (why == ""), words)
    family = _families(launches)
    same = launches.assign(family=family)[why == ""].sort_values("batch_id", kind="stable")
    last = launches["target"].map(same.groupby("target")["family"].last()).fillna("").astype(str)
    return why.mask((family != last) & (why == ""), "image " + family + ", newest is " + last)


def censored_s(launches: pd.DataFrame, stage: Stage) -> "pd.Series[float]":
    """Until when each request is known not to have been at a stage that it was not shown at.

    NaN where the stage was not recorded, or was shown.
    """
    unshown = launches[f"{stage.label}_by_s"].isna()
    name = "usable_watched_s" if stage is Stage.USABLE else "watched_s"
    return launches[name].where(unshown)


def is_probe(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request is of a probe, which is no launch: it waits for no instance."""
    return launches["wanted"] == Stage.GRANTED.label


def other_market(probes: pd.DataFrame, launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each probe says nothing of the market of these launches; "" where it does."""
    why = pd.Series("", index=probes.index)
    for name in ("simulated", "endpoint"):
        here = launches[name].iloc[0]
        words = name + " " + probes[name].astype(str) + f", not {here}"
        why = why.mask((probes[name] != here) & (why == ""), words)
    return why


def arm_names(launches: pd.DataFrame) -> "pd.Series[str]":
    """The arm of each request: its method, and ``:on-demand`` if that was bought."""
    bought = ":" + launches["purchase"].astype(str)
    return launches["method"].astype(str) + bought.where(bought != ":spot", "")


def other_arm(launches: pd.DataFrame, *, arm: str) -> "pd.Series[str]":
    """Why each request is not of an arm; "" where it is, and everywhere for the arm ""."""
    names = arm_names(launches)
    if arm and arm not in set(names):
        found = ", ".join(sorted(set(names)))
        raise ValueError(f"arm is {arm!r}, but nothing was asked for like that; there is: {found}")
    return ("asked for by " + names + f", not {arm}").where(bool(arm) & (names != arm), "")


def side_by_side(launches: pd.DataFrame, *, deciding: str | None = None) -> pd.DataFrame:
    """The launches of which a target met several arms in one round, one variable otherwise.

    ``deciding`` is as for ``other_variable``.
    """
    if len(launches[list(ARM)].drop_duplicates()) == 1:
        return launches.iloc[:0]
    same = tuple(name for name in SAME_VARIABLE if name not in ARM)
    here = launches[other_variable(launches, columns=same, deciding=deciding) == ""]
    arms = arm_names(here).groupby([here[name] for name in ("batch_id", "round", "target")])
    return here[arms.transform("nunique") > 1]


def runs_by_arm(launches: pd.DataFrame) -> pd.DataFrame:
    """How many ``runs`` each arm has, and how many of them are ``complete``; indexed by arm."""
    ended = complete(launches).groupby(launches["run"]).all()
    runs = launches.drop_duplicates("run").set_index("run")
    found = ended.reindex(runs.index).groupby(arm_names(runs)).agg(["size", "sum"])
    return found.set_axis(["runs", "complete"], axis=1).rename_axis("arm")


def _families(launches: pd.DataFrame) -> "pd.Series[str]":
    """The family of each image.  One log that knows it says it for all of the same image."""
    image = launches["image"].astype(object).fillna("").astype(str)
    family = launches["image_family"].astype(object).fillna(image).astype(str)
    known = family != image
    told = dict(zip(image[known], family[known], strict=True))
    return image.map(lambda each: told.get(each, each)).astype(str)


def require_same_variable(launches: pd.DataFrame) -> None:
    """Refuse launches that differ in one of ``SAME_VARIABLE``."""
    for name in SAME_VARIABLE:
        found = sorted(map(str, launches[name].unique()))
        if len(found) > 1:
            raise ValueError(f"launches of different {name} are never pooled, got {listed(found)}")


def name_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``target`` and ``run`` (``batch_id/round/plan``) to launches or polls."""
    place = table["round"].astype(str) + "/" + table["plan"].astype(str)
    run = table["batch_id"].astype(str) + "/" + place
    return table.assign(target=target_names(table), run=run)

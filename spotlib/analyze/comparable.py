"""Which launches are observations of the market, and which of them may be pooled.

Owns these rules, and no other module repeats them: which outcomes compete with becoming ready and
which are censored (``ended_by_ec2``), which requests are no observations (``no_observation``) or
repeat one (``repeated``), which batch a page is about (``whole_batches``, ``deciding_batch``),
which requests measure another variable (``other_variable``), which are probes (``is_probe``), what
an arm is (``arm_names``), and which launches compare arms side by side (``side_by_side``).  It
reads no file and estimates nothing.

A **run** is one plan in one round of a batch: one request call.  Its instances meet one pool at
one moment, so the run, not the instance, is the sampling unit of every statistic.
"""

from collections.abc import Collection, Sequence

import pandas as pd

from spotlib.figures import target_names
from spotlib.model import DEFAULT_METHOD, OUTCOME_KINDS, Outcome, Stage
from spotlib.words import listed

RUN = ["batch_id", "round", "plan"]  # the columns that name a run
# Launches that differ in one of these columns measure different variables and are never pooled.
# Images differ between architectures, so image families are compared only within a target.
SAME_VARIABLE = ("simulated", "endpoint", "method", "purchase", "placement", "wanted")
ARM = ("method", "purchase")  # how a run was requested: the arms of a study differ in these
# A request with such an outcome can never reach a later stage: a competing event.  If the account
# itself ended the request it is none, because that does not show what EC2 would have done.
COMPETING = frozenset({Outcome.HELD, Outcome.REFUSED, Outcome.FAILED, Outcome.INTERRUPTED})
NOT_THE_MARKET = "says nothing about the market"
_POOL = ["world", "instance_type", "region", "availability_zone_id", "n", "method", "purchase"]
_SAME_MOMENT = pd.Timedelta(seconds=60)  # on the world's clock: an equal seed starts it again


def ended_by_ec2(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request ended in a competing event: held, refused, failed or interrupted by EC2.

    Such a request still counts, with an infinite time.  Any other request that was not shown at
    the stage is right-censored at its last poll.
    """
    return launches["outcome"].isin(COMPETING) & ~_is_our_own(launches)


def stopped(launches: pd.DataFrame) -> pd.DataFrame:
    """The requests that were abandoned, because their batch was stopped or died."""
    return launches[launches["outcome"] == Outcome.ABANDONED]


def why_not(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each request is left out; "" if it counts.

    It is no observation, or it repeats one.  Repeats are looked for only among observations.
    """
    why = no_observation(launches)
    return why.mask(why == "", repeated(launches[why == ""]))


def no_observation(launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each request says nothing about the market; "" if it is an observation.

    A refusal for capacity or price is an observation.  A refusal for another reason (quota,
    permission, parameters) comes from our own account.  So does a failure that has a kind (see
    ``track.failure_kind``): a key, a limit, a person or a tool of the account ended the request.
    One such request excludes its whole run.
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
    """Why each request repeats an observation; "" if it does not, or if it is real.

    The same seed creates the same simulated world again, with the same pools at the same moments.
    If several runs requested the same n from one pool at the same moment of one world, only the
    run of the largest batch counts (of the newest, if several are equally large).
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

    A round that came too late counts as watched: its batch skipped it by itself.
    """
    ended = complete(launches).groupby(launches["batch_id"]).all()
    done = batches.loc[batches["rounds_done"] >= batches["rounds"], "batch_id"]
    return set(ended.index[ended]).intersection(done)


def deciding_batch(launches: pd.DataFrame, whole: Collection[str] = ()) -> str:
    """The batch whose kind of launch is analyzed: the newest whole one, or, of none, the newest."""
    names = set(launches["batch_id"])
    return str(max(names.intersection(whole) or names))


def other_variable(
    launches: pd.DataFrame,
    *,
    columns: Sequence[str] = SAME_VARIABLE,
    deciding: str | None = None,
    whole: Collection[str] = (),
) -> "pd.Series[str]":
    """Why each request measures another variable than the deciding batch; "" if it does not.

    The most frequent combination of the columns among the complete requests of that batch (by
    default ``deciding_batch``) is kept.  Within a target only the family of its newest image is
    kept, with all its releases: the newest of a whole batch, or, of none, of any.
    """
    chosen = launches[launches["batch_id"] == (deciding or deciding_batch(launches, whole))]
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
    family, of_whole = _families(launches), launches["batch_id"].isin(set(whole))
    same = launches.assign(family=family, of_whole=of_whole)[why == ""]
    last = same.sort_values(["of_whole", "batch_id"], kind="stable").groupby("target")["family"]
    kept_family = launches["target"].map(last.last()).fillna("").astype(str)
    return why.mask(
        (family != kept_family) & (why == ""), "image " + family + ", not " + kept_family
    )


def censored_s(launches: pd.DataFrame, stage: Stage) -> "pd.Series[float]":
    """The seconds until which each request is known not to have reached a stage.

    NaN if the stage was shown, or was not recorded.
    """
    unshown = launches[f"{stage.label}_by_s"].isna()
    name = "usable_watched_s" if stage is Stage.USABLE else "watched_s"
    return launches[name].where(unshown)


def is_probe(launches: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each request is of a probe.  A probe is no launch: it waits for no instance."""
    return launches["wanted"] == Stage.GRANTED.label


def other_market(probes: pd.DataFrame, launches: pd.DataFrame) -> "pd.Series[str]":
    """Why each probe is of another market than these launches; "" if it is of the same."""
    why = pd.Series("", index=probes.index)
    for name in ("simulated", "endpoint"):
        here = launches[name].iloc[0]
        words = name + " " + probes[name].astype(str) + f", not {here}"
        why = why.mask((probes[name] != here) & (why == ""), words)
    return why


def arm_names(launches: pd.DataFrame) -> "pd.Series[str]":
    """The arm of each request: its method, with ``:on-demand`` if it was not bought as spot."""
    bought = ":" + launches["purchase"].astype(str)
    return launches["method"].astype(str) + bought.where(bought != ":spot", "")


def other_arm(launches: pd.DataFrame, *, arm: str) -> "pd.Series[str]":
    """Why each request is not of this arm; "" if it is.  The arm "" stands for all arms."""
    names = arm_names(launches)
    if arm and arm not in set(names):
        found = ", ".join(sorted(set(names)))
        raise ValueError(f"arm is {arm!r}, but nothing was asked for like that; there is: {found}")
    return ("asked for by " + names + f", not {arm}").where(bool(arm) & (names != arm), "")


def side_by_side(
    launches: pd.DataFrame, *, deciding: str | None = None, whole: Collection[str] = ()
) -> pd.DataFrame:
    """The launches of targets that met several arms in one round, otherwise of one variable.

    ``deciding`` and ``whole`` are as for ``other_variable``.
    """
    if len(launches[list(ARM)].drop_duplicates()) == 1:
        return launches.iloc[:0]
    same = tuple(name for name in SAME_VARIABLE if name not in ARM)
    others = other_variable(launches, columns=same, deciding=deciding, whole=whole)
    here = launches[others == ""]
    arms = arm_names(here).groupby([here[name] for name in ("batch_id", "round", "target")])
    return here[arms.transform("nunique") > 1]


def runs_by_arm(launches: pd.DataFrame) -> pd.DataFrame:
    """How many ``runs`` each arm has, and how many of them are ``complete``; indexed by arm."""
    ended = complete(launches).groupby(launches["run"]).all()
    runs = launches.drop_duplicates("run").set_index("run")
    found = ended.reindex(runs.index).groupby(arm_names(runs)).agg(["size", "sum"])
    return found.set_axis(["runs", "complete"], axis=1).rename_axis("arm")


def _families(launches: pd.DataFrame) -> "pd.Series[str]":
    """The family of each image.  If one log names it, it holds for that image in every log."""
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

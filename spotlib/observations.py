"""Which requests tell something of the market, and which runs are there twice.

The one home of both rules, for what is analysed (``groups``) and what is learnt from
(``training``).  A run is a plan in a round of a batch: what is wrong with one of its requests is
wrong with the call, so the whole run goes.  Nothing is left out here, only named.
"""

import pandas as pd

from spotlib.model import Outcome
from spotlib.refusals import OUTCOME_KINDS

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

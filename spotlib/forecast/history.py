"""Own history: how the earlier runs of the same target ended, as known before a request.

A run counts only if its watching had ended before the round of the request began, so neither the
future nor a run of the same round is ever used.  A probe counts like a run: its share is what EC2
granted.  Nothing is estimated, and no file is read.
"""

import pandas as pd

from spotlib.analyze.comparable import RUN
from spotlib.figures import target_names
from spotlib.model import Outcome

HISTORY = ("last_share", "last3_share", "last_run_s")
_ROUND = ["batch_id", "round"]
_PLACE = ["instance_type", "region", "availability_zone_id"]
_NEEDED = [*RUN, *_PLACE, "sent_at", "watched_s", "event", "cause"]
_STILL_OPEN = (Outcome.ABANDONED, "unfinished")  # how such a request would have ended is unknown


def add_history(requests: pd.DataFrame, probes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the requests with the columns of ``HISTORY``.

    ``requests`` has the columns of the request table but these, ``probes`` those of
    ``load_launches``.
    """
    runs = requests.drop_duplicates(RUN)
    asked = pd.DataFrame(
        {
            "target": target_names(runs),
            "sent_at": runs["sent_at"],
            "before": requests.groupby(_ROUND)["sent_at"].transform("min")[runs.index],
        }
    )
    found = _look_up(asked, _ended_runs(requests, probes))
    known = requests[RUN].merge(runs[RUN].join(found), on=RUN, how="left", validate="m:1")
    return requests.assign(**{name: known[name].to_numpy() for name in HISTORY})


def history_now(requests: pd.DataFrame, probes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the columns of ``HISTORY`` per target, as of the end of all runs; index ``target``."""
    ended = _ended_runs(requests, probes)
    now = ended["ended_at"].max()
    targets = target_names(requests).unique()
    asked = pd.DataFrame({"target": targets, "sent_at": now}).assign(
        before=now + pd.Timedelta(seconds=1)
    )
    return _look_up(asked, ended).set_axis(pd.Index(targets, name="target"))


def _ended_runs(requests: pd.DataFrame, probes: pd.DataFrame | None) -> pd.DataFrame:
    """Return one row per run whose end is known: target, sent_at, ended_at and the shares."""
    if probes is not None and not probes.empty:
        same = probes[probes["purchase"].isin(set(requests["purchase"]))]
        same = same.assign(
            event=same["granted_by_s"].notna().astype("int64"),
            cause=same["outcome"].fillna("unfinished"),
        )
        requests = pd.concat([requests[_NEEDED], same[_NEEDED]])
    known = requests.assign(
        target=target_names(requests), unknown=requests["cause"].isin(_STILL_OPEN)
    )
    runs = known.groupby(RUN).agg(  # in the order of RUN, also those that end together
        target=("target", "first"),
        sent_at=("sent_at", "first"),
        watched_s=("watched_s", "max"),
        last_share=("event", "mean"),
        unknown=("unknown", "any"),
    )
    runs = runs[~runs["unknown"]]
    ended_at = runs["sent_at"] + pd.to_timedelta(runs["watched_s"].fillna(0.0), unit="s")
    runs = runs.assign(ended_at=ended_at).sort_values("ended_at", kind="stable")
    three = runs.groupby("target")["last_share"].rolling(3, min_periods=1).mean()
    return runs.assign(last3_share=three.droplevel("target"))


def _look_up(asked: pd.DataFrame, ended: pd.DataFrame) -> pd.DataFrame:
    """Return ``HISTORY`` for each row of ``asked``, from the last run that ended ``before``."""
    asked, ended = (  # a join needs the same unit of time on both sides
        each.assign(**{name: each[name].dt.as_unit("ns")})
        for each, name in ((asked, "before"), (ended, "ended_at"))
    )
    found = pd.merge_asof(
        asked.rename_axis("row").reset_index().sort_values("before", kind="stable"),
        ended.rename(columns={"sent_at": "last_at"}),
        left_on="before",
        right_on="ended_at",
        by="target",
        allow_exact_matches=False,
    ).set_index("row")
    found["last_run_s"] = (found["sent_at"] - found["last_at"]).dt.total_seconds()
    return found.loc[asked.index, list(HISTORY)]

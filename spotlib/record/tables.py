"""Tables out of the logs: batches, launches and polls.

Tables are derived from the logs whenever they are wanted and are stored nowhere.  Logs that are
still being written are read too.  Nothing is estimated here.

``load_*`` refuse a file that cannot be read.  ``load_readable`` names it and reads the others.

Many logs are read in parts of some megabytes, each in one pass, here or on an executor.  What is
the same for all rows of a run, or of a poll, is kept once until the rows are joined.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pandas as pd

from spotlib.processes import each_of
from spotlib.record.columns import concatenated
from spotlib.record.folder import Fault, Logs, Paths, find_logs
from spotlib.record.polled import Polled, Polls
from spotlib.record.replay import RecordedBatch
from spotlib.record.rows import Batches, Launches, joined_launches

_WORTH_PARTS = 4  # reading so many takes longer than starting processes


def load_batches(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read batches from event logs.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per batch
        What ran, where, and ``clean``: whether it is confirmed that nothing is left (missing
        while the batch has no end).  ``torn`` says that the log's last line is not whole.
        ``rounds_done`` counts the rounds that were skipped as too late, or launched with all plans.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_batches
    >>> load_batches("results/launches")[["simulated", "rounds", "requests", "ended", "clean"]]
       simulated  rounds  requests  ended  clean
    0       True       1         2      2   True
    """
    (batches,) = _load(Batches, paths=paths, polls=False, executor=executor)
    return concatenated(batches)


def load_launches(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read launches from event logs: every request, its brackets, its outcome, its features.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per request
        ``<stage>_after_s`` and ``<stage>_by_s`` are the bracket of a stage, in seconds since the
        plan's request call was sent.  A stage never shown has NaN brackets and is right-censored
        at ``watched_s``.  A refused call has its ``n`` rows without a request id.  A request that
        is under way, or whose writer died, has no outcome yet.

        ``instance_reason`` and ``instance_message`` are EC2's StateReason of an instance that
        ended while it was watched.  ``kind`` says what a refusal is about, or a failure that is
        the account's own.  ``impaired_*`` is the bracket of the first failed status check.
        ``refused_*`` is the bracket of a refusal: from the request call to its answer.
        ``granted_*`` is known of probes only, and so is ``held_*``: when EC2 was first seen to
        hold the request.
        ``usable_*`` is the bracket of the guest's own stamp, where plans record it, and ``guest_*``
        what the stamp says.  Without a stamp it is censored at ``usable_watched_s``: a request that
        ran may have been usable unseen, unless its whole console was read after its end.
        What EC2's own events tell, where they were read, stands beside what the polls showed:
        ``fulfilled_event_*`` and ``running_event_*`` bracket when the stage was *reached*, where
        ``fulfilled_*`` and ``running_*`` bracket when the API first *showed* it.  ``*_both_*`` is
        what both allow, and ``*_clocks`` says whether they "agree" or "contradict" each other.
        ``interruption_*`` and ``rebalance_*`` are EC2's warnings of an end.
        ``image_family`` is what all releases of an Amazon Linux share, or the image's own id.
        ``price_usd`` is the spot price and ``on_demand_usd`` the on-demand price, whatever was
        bought: ``purchase`` says which of them was to be paid.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_launches
    >>> launches = load_launches("results/launches")
    >>> launches[["instance_type", "region", "outcome"]]
      instance_type     region outcome
    0       t3.nano  sa-east-1   ready
    1       t3.nano  sa-east-1   ready
    >>> bool((launches["ready_after_s"] < launches["ready_by_s"]).all())
    True
    """
    (launches,) = _load(Launches, paths=paths, polls=False, executor=executor)
    return joined_launches(launches)


def load_polls(paths: Paths, *, executor: Executor | None = None) -> pd.DataFrame:
    """Read polls from event logs: how many requests of each run were at each stage, and when.

    Parameters
    ----------
    paths
        A log, a folder of logs, or several of both.
    executor : Executor, optional
        Reads parts of many logs at once.  By default they are read here, or in a process per core
        where there are some 64 MB or more.

    Returns
    -------
    DataFrame, one row per poll and plan
        ``asked_s`` and ``answered_s`` are seconds since the plan's request call was sent,
        ``poll`` the number of the poll in the batch's schedule.  A missed poll has no counts, and
        ``error`` says why.  ``granted`` is counted for probes only, ``usable`` where it is
        recorded.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    ValueError
        If a file is no log of this schema, or is damaged; file and line are named.

    Examples
    --------
    >>> from spotlib import load_polls
    >>> polls = load_polls("results/launches")
    >>> polls[["accepted", "ready"]].iloc[[0, -1]].to_dict("list")
    {'accepted': [2, 2], 'ready': [0, 2]}
    """
    (polls,) = _load(Polls, paths=paths, executor=executor)
    return Polled.joined(polls).table()


@dataclass(frozen=True)
class Readable:
    """The content of the logs that can be read, and a sentence for every other file.

    ``launches`` and ``batches`` are as from ``load_launches`` and ``load_batches``; ``polled`` has
    what ``load_polls`` shows.  ``faults`` cannot be read, ``notes`` are of copies and hidden files.
    """

    launches: pd.DataFrame
    batches: pd.DataFrame
    polled: Polled
    faults: list[Fault]
    notes: list[str]


def load_readable(paths: Paths, *, executor: Executor | None = None) -> Readable:
    """Read every log that is undamaged, with its polls; a damaged one does not hide the others.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    """
    found = find_logs(paths)
    batches, launches, polls = _read(found, (Batches, Launches, Polls), executor=executor)
    return Readable(
        launches=joined_launches(launches),
        batches=concatenated(batches),
        polled=Polled.joined(polls),
        faults=found.faults,
        notes=found.notes,
    )


def _load(
    *kinds: "type[_Rows]", paths: Paths, polls: bool = True, executor: Executor | None
) -> list[list[Any]]:
    """Read the logs; refuse what cannot be read, and warn of copies."""
    found = find_logs(paths)
    for words in found.notes:
        warnings.warn(words, stacklevel=3)
    found.require()
    tables = _read(found, kinds, polls=polls, executor=executor)
    found.require()
    return tables


def _read(
    found: Logs,
    kinds: "Sequence[type[_Rows]]",
    *,
    polls: bool = True,
    executor: Executor | None,
) -> list[list[Any]]:
    """Read the logs in parts; of each kind, the tables of all parts."""
    parts = list(found.parts())
    work = partial(_read_part, kinds=kinds, polls=polls)
    tables: list[list[Any]] = [[] for _ in kinds]
    worth = len(parts) >= _WORTH_PARTS
    for made, faults in each_of(work, parts, executor=executor, worth_processes=worth):
        found.faults += faults
        for table, each in zip(tables, made, strict=True):
            table.append(each)
    return tables


def _read_part(
    part: Logs, *, kinds: "Sequence[type[_Rows]]", polls: bool
) -> tuple[list[Any], list[Fault]]:
    made = [kind() for kind in kinds]
    for record in part.read(polls=polls):
        for each in made:
            each.add(record)
    return [each.table() for each in made], part.faults


class _Rows(Protocol):
    """The rows of some logs, collected log by log."""

    def add(self, record: RecordedBatch) -> None:
        """Add what a log says."""

    def table(self) -> Any:
        """What was collected, so small that it can be handed from process to process."""

"""One batch: preflight, rounds of waves, and the end in which nothing is left behind.

However a batch ends (ready, timed out, a signal, an error), every request gets one outcome, and
everything launched is released and confirmed gone.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.cleanup.close import SETTLE_S
from spotlib.cleanup.guard import Guard
from spotlib.collect.batch import Batch, Progress, Run, Waiting
from spotlib.collect.cost import PreflightReport, PreparedPlan, split_turns, split_waves
from spotlib.collect.ending import finish, settle_batch
from spotlib.collect.events import make_events, read_before
from spotlib.collect.features import FeatureSource
from spotlib.collect.preflight import preflight
from spotlib.collect.schedule import ARM_PAUSE_S, schedule_of
from spotlib.collect.stopping import Stopping, write_line
from spotlib.collect.summary import BatchSummary, summary_of
from spotlib.collect.watch import watch
from spotlib.ec2.calls import warm
from spotlib.ec2.connection import Connection, new_executor
from spotlib.errors import ParameterError
from spotlib.model import Plan, Target
from spotlib.record.events import SkippedEvent
from spotlib.record.history import earlier_usd
from spotlib.record.log import EventLog
from spotlib.words import counted


def collect_batch(
    connection: Connection,
    plans: Sequence[Plan] | PreflightReport,
    *,
    log: str | Path,
    rounds: int = 1,
    every_s: float | None = None,
    poll_s: float | None = None,
    seed: int | None = None,
    settle_s: float = SETTLE_S,
    arm_pause_s: float = ARM_PAUSE_S,
    selection: pd.DataFrame | None = None,
    placement_scores: bool = True,
    t3: bool = False,
    advisor: bool = True,
    last_launches: Mapping[Target, datetime] | None = None,
    notes: Mapping[str, Any] | None = None,
    guard: bool = True,
    events: bool | str = False,
    budget_usd: float | None = None,
    campaign_budget_usd: float | None = None,
    on_poll: Callable[[Progress], None] | None = None,
    on_wait: Callable[[Waiting], None] | None = None,
) -> BatchSummary:
    """Launch the plans, watch them until ready or timed out, and leave nothing behind.

    Parameters
    ----------
    connection
        Where EC2 is; see ``connect``.
    plans
        Plans, or the report of ``preflight`` for them.
    log
        Path of the new log; its stem is the batch's id.
    rounds, every_s
        How often all plans are launched, and the seconds between the starts of two rounds: by
        default 900, or as long as a round may last if that is more.  A round that would start late
        is skipped and recorded.  Those of probes begin at least 300 s apart, because a probe uses
        the capacity that the next one measures.
    poll_s
        Seconds between polls; by default 3, or 0.5 for probes.  The phase of their schedule is
        drawn from ``seed`` and recorded.
    seed
        For that phase and for the random order of the plans in a round; None draws one.
    settle_s
        How long nothing may be open or alive before the batch is called clean, in seconds.
    arm_pause_s
        Seconds from the confirmed end of one launch method of a target to the start of the next, in
        a round of several; see ``plan_launches``.  At least 300 between probes.
    selection, placement_scores, advisor
        Where the features known before a request come from.
    t3
        Also ask for the largest capacity that EC2 scores 3 or more: up to six placement-score
        questions for each type and kind of placement, and AWS limits new questions per day.
    last_launches
        When each target was last launched by us, before this batch.
    notes
        More for the first line of the log, such as the selection's name.
    guard
        Start a process of its own that closes the batch if this one dies, however it dies.
    events
        Also record EC2's own events of the instances, from a rule and a queue that the batch makes
        in each region and deletes at its end; or from the user's own queue of this name.  A report
        of ``preflight`` must have been made for the same.
    budget_usd, campaign_budget_usd
        Refuse the batch if its hard bound exceeds the first; or if it exceeds the second together
        with what the earlier logs beside this one have cost at most.
    on_poll
        Called with the progress after each poll.  What it raises is a warning in the summary and
        ends nothing.
    on_wait
        The same for the time without polls: called several times per real second with what is
        waited for, the next round or that nothing is left, and about how long.

    Returns
    -------
    BatchSummary
        Outcomes, what is left, what it cost at most, and what went wrong; the measurements are in
        the log.

    Raises
    ------
    ValueError
        If something is wrong that can be known before money is spent; nothing was launched.

    Examples
    --------
    >>> from spotlib import Target, collect_batch, connect, load_launches, plan_launches
    >>> connection = connect("sandbox", seed=1)
    >>> plans = plan_launches([Target("t3.nano", "sa-east-1")], count=2)
    >>> log = "results/launches/20260102T000000Z-abcdef.jsonl"
    >>> summary = collect_batch(connection, plans, log=log, seed=1)
    >>> connection.close()
    >>> summary.outcomes
    {'ready': 2}
    >>> summary.last_line().split(";")[0]
    'open requests 0, live instances 0 (confirmed)'
    >>> load_launches(log)["outcome"].tolist()
    ['ready', 'ready']
    """
    log = Path(log)
    report = _checked(connection, plans, log.stem, events)
    schedule = schedule_of(
        report,
        rounds=rounds,
        every_s=every_s,
        poll_s=poll_s,
        seed=seed,
        settle_s=settle_s,
        arm_pause_s=arm_pause_s,
    )
    report.require_budget(
        rounds=rounds,
        budget_usd=budget_usd,
        campaign_budget_usd=campaign_budget_usd,
        earlier_usd=_earlier_usd(log.parent, connection, campaign_budget_usd),
    )
    report.require_lasting_credentials(now_at=connection.server_utc(), **schedule.rhythm)
    asked = {"placement_scores": placement_scores, "t3": t3, "advisor": advisor}
    features = _feature_source(connection, report, selection=selection, **asked)
    with closing(EventLog(log)) as lines, new_executor(connection) as executor, Stopping() as stop:
        batch = Batch(
            *(connection, lines, executor, stop, report, schedule),
            began_s=connection.clock.now_s(),
            on_poll=on_poll,
            on_wait=on_wait,
            last_launches=dict(last_launches or {}),
        )
        return _collect(batch, features, notes or {}, guard=guard)


def _checked(
    connection: Connection, plans: Sequence[Plan] | PreflightReport, name: str, events: bool | str
) -> PreflightReport:
    """Return the report of a preflight for the same events, which has found no problem."""
    _require_batch_id(name)
    if not isinstance(plans, PreflightReport):
        plans = preflight(connection, plans, events=events)
    _require_same_events(events, checked=plans.events, batch_id=name)
    return plans.require()


def _feature_source(
    connection: Connection, report: PreflightReport, **settings: Any
) -> FeatureSource:
    """The features of each target, whichever of its plans is launched."""
    plans = {each.plan.target: each.plan for each in report.prepared}
    products = {each.plan.target: each.product for each in report.prepared}
    return FeatureSource(connection, list(plans.values()), products, **settings)


def _collect(
    batch: Batch, features: FeatureSource, notes: Mapping[str, Any], *, guard: bool
) -> BatchSummary:
    """Run all rounds, end everything however they end, and sum up."""
    batch.stopping.words = batch.stop_words
    guarding = _guard(batch) if guard else None
    try:
        batch.begin(notes)
        with batch.tolerating_log_errors():  # with a full disk nothing more is launched
            if make_events(batch):
                _run_rounds(batch, features)
    except BaseException:
        batch.unwritten = True  # a line may be missing: a sweep adds what can be known
        raise
    finally:
        cleaned = finish(batch, guarding)
    summary = summary_of(batch, cleaned, tuple(features.warnings.values()))
    if batch.stopping.by is not None and batch.on_wait is None:
        write_line(summary.last_line())
    return summary


def _earlier_usd(folder: Path, connection: Connection, campaign_budget_usd: float | None) -> float:
    if campaign_budget_usd is None or not folder.exists():
        return 0.0
    return earlier_usd(folder, simulated=connection.simulated, endpoint=connection.endpoint)


def _guard(batch: Batch) -> Guard | None:
    """Start the guard, before the first request.  It cannot reach a market in this process."""
    connection = batch.connection
    if connection.attach is not None:
        return None
    endpoint = (connection.url if connection.simulated else None) or connection.endpoint
    return Guard(
        batch.log.path.absolute(),
        endpoint=endpoint,
        profile=connection.profile,
        keys=connection.login.keys if connection.login is not None else None,
        lifeline=connection.lifeline,
    )


def _require_batch_id(name: str) -> None:
    """It becomes part of client tokens, which EC2 limits to 64 ASCII characters, and of tags.

    A ``-`` in front would be read as an option of a command, and a file with a ``.`` is hidden.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,47}", name):
        raise ParameterError(
            "the log's name is the batch's id: 1 to 48 letters, digits, - _ or ., the first of "
            f"them no - or ., got {name!r}"
        )


def _require_same_events(events: bool | str, *, checked: bool | str, batch_id: str) -> None:
    """Refuse events that the preflight was not made for, and a name that no queue can have."""
    if events != checked:
        raise ParameterError(
            f"events={events!r}, but the preflight was made with events={checked!r}: give both the "
            "same"
        )
    if events is True and "." in batch_id:
        raise ParameterError(
            f"with events the log's name is that of a queue, which holds no '.', got {batch_id!r}"
        )


def _run_rounds(batch: Batch, features: FeatureSource) -> None:
    late = 0
    for number in range(batch.schedule.rounds):
        late += not _run_round(batch, number, features)
        if number < batch.schedule.rounds - 1 and batch.stopping.by is None:
            settle_batch(batch)
    if late:
        batch.warnings.append(
            f"{late} of {counted(batch.schedule.rounds, 'round')} "
            f"{'was' if late == 1 else 'were'} skipped, because the round before lasted longer "
            f"than every_s={batch.schedule.every_s:g}"
        )


def _run_round(batch: Batch, number: int, features: FeatureSource) -> bool:
    """Launch all plans once, in random order: no target and no arm always goes first.

    A target meets one arm at a time: the next is launched once nothing is left of the one before.
    False if the round would start late: then it is skipped.
    """
    due_s = number * batch.schedule.every_s
    if number and batch.now_s() > due_s + batch.schedule.poll_s:
        reason = f"due at {due_s:g} s, the round before ended at {batch.now_s():.1f} s"
        batch.log.append(SkippedEvent(round=number, polls=(), reason=reason))
        return False
    _wait_until(batch, due_s, f"waiting for round {number + 1} of {batch.schedule.rounds}")
    order = list(batch.preflight.prepared)
    random.Random(f"{batch.schedule.seed} order {number}").shuffle(order)
    for turn, arms in enumerate(split_turns(order)):
        if turn:
            settle_batch(batch)
            _wait_until(batch, batch.now_s() + batch.schedule.arm_pause_s, "pausing between arms")
        for wave, plans in enumerate(split_waves(arms, batch.preflight.free_vcpus)):
            if batch.stopping.by is not None:
                return True
            if wave:  # the wave before counts against the quota until it is gone
                settle_batch(batch)
            _run_wave(batch, number, plans, features)
    return True


def _wait_until(batch: Batch, due_s: float, words: str) -> None:
    while batch.now_s() < due_s and batch.stopping.by is None:
        batch.show_waiting(words, due_s - batch.now_s())
        batch.rest(read_before(batch, due_s))


def _run_wave(
    batch: Batch, number: int, plans: Sequence[PreparedPlan], features: FeatureSource
) -> None:
    indices = {each.plan.key: i for i, each in enumerate(batch.preflight.prepared)}
    runs = [Run(each, number, indices[each.plan.key]) for each in plans]
    known_now = features.ask()
    for region in sorted({run.region for run in runs}):
        warm(batch.connection, region, round_tag=batch.round_tag(number))
    batch.runs.extend(runs)
    watch(batch, runs, known_now)

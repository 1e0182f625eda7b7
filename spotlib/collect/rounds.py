"""One batch: preflight, rounds of waves, and the end in which nothing is left behind.

However a batch ends (ready, timed out, a signal, an error), every request gets one outcome, and
everything launched is released and confirmed gone.
"""

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spotlib.cleanup.close import (
    SETTLE_S,
    Cleaned,
    clean_event,
    release_all,
    release_event,
    settle,
    unseen,
    until_quiet_s,
)
from spotlib.cleanup.commands import aws_options, sweep_command
from spotlib.cleanup.guard import Guard
from spotlib.collect.batch import Batch, Progress, Run, Schedule, Waiting
from spotlib.collect.cost import PreflightReport, PreparedPlan, split_waves
from spotlib.collect.features import FeatureSource
from spotlib.collect.preflight import preflight
from spotlib.collect.stopping import Stopping, write_line
from spotlib.collect.watch import end, watch
from spotlib.ec2.calls import warm
from spotlib.ec2.connection import Connection, new_executor
from spotlib.errors import OneSentence, ParameterError
from spotlib.model import (
    Outcome,
    Plan,
    Target,
    require_intervals,
)
from spotlib.money import usd
from spotlib.record.events import SkippedEvent
from spotlib.record.history import earlier_usd
from spotlib.record.log import EventLog

_LAST_CALLS_S = 60  # how long calls in flight may take when everything ends


class BatchError(OneSentence, RuntimeError):
    """Something went wrong with a batch, or it was stopped."""


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended; ``spent_at_most_usd`` is NaN where the on-demand price is unknown.

    ``outcomes`` counts instances: by the outcome of their request, or as ``not sent`` if the batch
    was stopped before, or as ``not answered`` if the call's answer never came.
    ``warnings`` says which features could not be recorded, and whether the live view failed.
    """

    batch_id: str
    log: Path
    simulated: bool
    outcomes: Mapping[str, int]
    cleaned: Cleaned
    spent_at_most_usd: float
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def last_line(self) -> str:
        """Return the sentence to read before closing the lid: what is left, what it cost."""
        left = f"open requests {_total(self.cleaned.open_requests)}, "
        left += f"live instances {_total(self.cleaned.live_instances)}"
        sure = "confirmed" if self.cleaned.confirmed else "NOT CONFIRMED"
        money = "simulated " if self.simulated else ""
        return f"{left} ({sure}); spent at most {money}{usd(self.spent_at_most_usd)}"

    def require(self) -> None:
        """Raise BatchError with all that went wrong, if anything did."""
        if self.problems:
            raise BatchError("; ".join(self.problems))


def collect_batch(
    connection: Connection,
    plans: Sequence[Plan] | PreflightReport,
    *,
    log: str | Path,
    rounds: int = 1,
    every_s: float = 900.0,
    poll_s: float = 3.0,
    seed: int | None = None,
    settle_s: float = SETTLE_S,
    selection: pd.DataFrame | None = None,
    placement_scores: bool = True,
    t3: bool = False,
    advisor: bool = True,
    last_launches: Mapping[Target, datetime] | None = None,
    notes: Mapping[str, Any] | None = None,
    guard: bool = True,
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
        How often all plans are launched, and the seconds between the starts of two rounds.  A
        round that would start late is skipped and recorded.
    poll_s
        Seconds between polls.  The phase of their schedule is drawn from ``seed`` and recorded.
    seed
        For that phase and for the random order of the plans in a round; None draws one.
    settle_s
        How long nothing may be open or alive before the batch is called clean, in seconds.
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
    _require_batch_id(Path(log).stem)
    report = plans if isinstance(plans, PreflightReport) else preflight(connection, plans)
    report.require()
    _require_schedule(report, rounds, every_s, poll_s)
    report.require_budget(
        rounds=rounds,
        budget_usd=budget_usd,
        campaign_budget_usd=campaign_budget_usd,
        earlier_usd=_earlier_usd(Path(log).parent, connection, campaign_budget_usd),
    )
    report.require_lasting_credentials(
        now_at=connection.server_utc(), rounds=rounds, every_s=every_s
    )
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    phase_s = random.Random(f"{seed} phase").uniform(0.0, poll_s)
    schedule = Schedule(rounds, every_s, poll_s, phase_s, seed, settle_s)
    features = FeatureSource(
        connection,
        [each.plan for each in report.prepared],
        {each.plan.target: each.product for each in report.prepared},
        placement_scores=placement_scores,
        t3=t3,
        advisor=advisor,
        selection=selection,
    )
    with closing(EventLog(log)) as events, new_executor(connection) as executor, Stopping() as stop:
        batch = Batch(
            *(connection, events, executor, stop, report, schedule),
            began_s=connection.clock.now_s(),
            on_poll=on_poll,
            on_wait=on_wait,
            last_launches=dict(last_launches or {}),
        )
        stop.words = batch.stop_words
        guarding = _guard(batch) if guard else None
        try:
            batch.begin(notes or {})
            with batch.tolerating_log_errors():  # with a full disk nothing more is launched
                _run_rounds(batch, features)
        except BaseException:
            batch.unwritten = True  # a line may be missing: a sweep adds what can be known
            raise
        finally:
            cleaned = _finish(batch, guarding)
        summary = _summary(batch, cleaned, tuple(features.warnings.values()))
        if stop.by is not None and on_wait is None:
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


def _require_schedule(report: PreflightReport, rounds: int, every_s: float, poll_s: float) -> None:
    for each in report.prepared:
        require_intervals(timeout_s=each.plan.timeout_s, poll_s=poll_s)
    if not isinstance(rounds, int) or rounds < 1:
        raise ParameterError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    if not every_s > 0:
        raise ParameterError(f"every_s must be above 0, got {every_s!r}")


def _run_rounds(batch: Batch, features: FeatureSource) -> None:
    for number in range(batch.schedule.rounds):
        _run_round(batch, number, features)
        if number < batch.schedule.rounds - 1 and batch.stopping.by is None:
            _settle_batch(batch)


def _run_round(batch: Batch, number: int, features: FeatureSource) -> None:
    """Launch all plans once, in random order: no target always goes first."""
    due_s = number * batch.schedule.every_s
    if number and batch.now_s() > due_s + batch.schedule.poll_s:
        reason = f"due at {due_s:g} s, the round before ended at {batch.now_s():.1f} s"
        batch.log.append(SkippedEvent(round=number, polls=(), reason=reason))
        return
    while batch.now_s() < due_s and batch.stopping.by is None:
        words = f"waiting for round {number + 1} of {batch.schedule.rounds}"
        batch.show_waiting(words, due_s - batch.now_s())
        batch.rest(due_s)
    order = list(batch.preflight.prepared)
    random.Random(f"{batch.schedule.seed} order {number}").shuffle(order)
    waves = split_waves(order, batch.preflight.free_vcpus)
    for wave, plans in enumerate(waves):
        if batch.stopping.by is not None:
            return
        if wave:  # the wave before counts against the quota until it is gone
            _settle_batch(batch)
        _run_wave(batch, number, plans, features)


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


def _finish(batch: Batch, guarding: Guard | None) -> Cleaned:
    """End everything: first what costs money, then the record, then the proof.

    If one of them fails, the next is done all the same, and the guard learns how it went.
    """
    cleaned, words = Cleaned(confirmed=False), ""
    try:
        words = batch.closing_words()
        batch.show_waiting(words, until_quiet_s(batch.schedule.settle_s))
        _release_all(batch)
        _record_the_end(batch)
    finally:
        try:
            cleaned = _settle_batch(batch, words, last=True)
        finally:
            if guarding is not None:
                done = cleaned.confirmed and not batch.unwritten
                (guarding.dismiss if done else guarding.leave_to_it)()
    return cleaned


def _release_all(batch: Batch) -> None:
    if all(run.ended for run in batch.runs):
        return
    request_ids, alive = _request_ids(batch), _seen_instances(batch)
    passes = release_all(
        batch.connection,
        {region: unseen(ids, alive[region]) for region, ids in request_ids.items()},
        request_ids=request_ids,
        batch_id=batch.batch_id,
        resources=batch.resources,
        ended=batch.taken,
    )
    for passed in passes:
        batch.note(release_event(passed))


def _record_the_end(batch: Batch) -> None:
    """Take in the calls in flight, and give every request its outcome."""
    wait(batch.flying, timeout=_LAST_CALLS_S)
    while any(each.done() for each in batch.flying):
        with batch.tolerating_log_errors():
            batch.land()
    for run in batch.runs:
        if not run.ended:
            with batch.tolerating_log_errors():
                end(batch, run, Outcome.ABANDONED)
    with batch.tolerating_log_errors():  # before the proof that a sweep would end with
        batch.log.require_in_place()


def _settle_batch(batch: Batch, words: str = "", *, last: bool = False) -> Cleaned:
    request_ids = _request_ids(batch)
    cleaned = settle(
        batch.connection,
        batch_id=batch.batch_id,
        request_ids=request_ids,
        resources=batch.resources,
        note=batch.note,
        alive=_seen_instances(batch),
        ended=batch.taken,
        settle_s=batch.schedule.settle_s,
        rest=partial(_rest, batch, words or batch.closing_words(), last=last),
    )
    if cleaned.confirmed:  # EC2 forgets ended requests after hours: do not ask for them again
        batch.cleared.update(itertools.chain.from_iterable(request_ids.values()))
        for run in batch.runs:
            run.gone_s = min(run.gone_s, batch.now_s())
    if last and not batch.unwritten:  # else a sweep has to complete the log before it may end
        batch.note(clean_event(cleaned, spent_at_most_usd=_batch_usd(batch)))
    return cleaned


def _rest(batch: Batch, words: str, pause_s: float, left_s: float, *, last: bool) -> bool:
    """Count down between two passes; a stop ends all but the last clean-up, which does it all."""
    ends_s = batch.now_s() + pause_s
    while (rest_s := ends_s - batch.now_s()) > 0:
        if not last and batch.stopping.by is not None:
            return False
        batch.show_waiting(words, left_s - (pause_s - rest_s))
        batch.nap(ends_s)
    return True


def _request_ids(batch: Batch) -> dict[str, set[str]]:
    """The ids not yet cleared, by region; also the regions where an answer may have been lost."""
    ids: dict[str, set[str]] = {}
    for run in batch.runs:
        ids.setdefault(run.region, set()).update(run.tracks.keys() - batch.cleared)
    return ids


def _seen_instances(batch: Batch) -> dict[str, set[str]]:
    """The instances of requests that are not yet cleared, by region."""
    ids: dict[str, set[str]] = {}
    for run in batch.runs:
        alive = (run.instances[each] for each in run.instances.keys() - batch.cleared)
        ids.setdefault(run.region, set()).update(alive)
    return ids


def _summary(batch: Batch, cleaned: Cleaned, warnings: tuple[str, ...]) -> BatchSummary:
    ended = Counter(
        str(track.outcome) for run in batch.runs for track in run.tracks.values() if track.outcome
    )
    for run in batch.runs:
        ended[str(Outcome.REFUSED)] += run.lacking
        if not run.tracks:
            ended[run.fate] += run.plan.count
    return BatchSummary(
        batch_id=batch.batch_id,
        log=batch.log.path,
        simulated=batch.connection.simulated,
        outcomes=dict(+ended),
        cleaned=cleaned,
        spent_at_most_usd=_batch_usd(batch),
        problems=tuple(_problems(batch, cleaned)),
        warnings=(*batch.warnings, *warnings),
    )


def _problems(batch: Batch, cleaned: Cleaned) -> list[str]:
    problems = list(dict.fromkeys(batch.problems))
    connection = batch.connection
    closing = sweep_command(
        batch.batch_id,
        log=batch.log.path,
        endpoint=connection.endpoint,
        profile=connection.profile,
    )
    if batch.stopping.by is not None:
        problems.append(f"stopped by {batch.stopping.by}: what was seen until then is recorded")
    if batch.unwritten and batch.log.path.exists():
        problems.append(f"complete the log, once it can be written, with: {closing}")
    if not cleaned.confirmed:
        errors = "; ".join(f"{region}: {error}" for region, error in cleaned.errors.items())
        problems.append(
            f"it is NOT confirmed that nothing is left{f' ({errors})' if errors else ''}; finish "
            f"with: {closing}; or by hand: "
            f"{' && '.join(cleaned.commands(aws_options(connection))) or 'in the EC2 console'}"
        )
    return problems


def _batch_usd(batch: Batch) -> float:
    """Every instance that was launched, on demand, from the request until all were gone.

    One that only clean-up saw may be of any run of its region: it counts as one of the dearest.
    """
    seen: set[str] = set()
    costs_usd: list[float] = []
    dearest_usd: dict[str, float] = {}
    for run in batch.runs:
        if run.asked_s is None:
            continue
        each_usd = run.prepared.most_usd(min(run.gone_s, batch.now_s()) - run.asked_s)
        # Not ``max``: an unknown cost makes it unknown.
        dearest_usd[run.region] = float(np.maximum(dearest_usd.get(run.region, 0.0), each_usd))
        seen.update(run.instances.values())
        costs_usd += [each_usd] * len(run.instances)
    late = [region for each, region in batch.terminated.items() if each not in seen]
    return math.fsum([*costs_usd, *(dearest_usd[region] for region in late)])


def _total(ids: Mapping[str, Sequence[str]]) -> int:
    return sum(len(some) for some in ids.values())

"""One batch: preflight, rounds of waves, and the end in which nothing is left behind.

However a batch ends (ready, out of time, a signal, an error), every request gets one outcome and
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
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.cleanup.close import SETTLE_S, Cleaned, note_release, release, settle, sweep_command
from spotlib.cleanup.guard import Guard
from spotlib.collect.batch import Batch, Progress, Run, known
from spotlib.collect.cost import PreflightReport, PreparedPlan, split_waves
from spotlib.collect.features import Features
from spotlib.collect.preflight import preflight
from spotlib.collect.stopping import Stopping
from spotlib.collect.watch import end, watch
from spotlib.ec2.calls import warm
from spotlib.ec2.connection import Connection, new_executor
from spotlib.model import Outcome, Plan, Stage, Target, require_intervals
from spotlib.money import usd
from spotlib.record.history import earlier_usd
from spotlib.record.log import EventLog

_LAST_CALLS_S = 60  # how long calls in flight may take when everything ends


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended; ``spent_at_most_usd`` is NaN where the on-demand price is unknown."""

    batch_id: str
    log: Path
    simulated: bool
    outcomes: Mapping[str, int]
    cleaned: Cleaned
    spent_at_most_usd: float
    problems: tuple[str, ...] = ()

    def last_line(self) -> str:
        """What a person wants to know before closing the lid."""
        left = f"open requests {_total(self.cleaned.open_requests)}, "
        left += f"live instances {_total(self.cleaned.live_instances)}"
        sure = "confirmed" if self.cleaned.confirmed else "NOT CONFIRMED"
        money = "simulated " if self.simulated else ""
        return f"{left} ({sure}); spent at most {money}{usd(self.spent_at_most_usd)}"

    def require(self) -> None:
        """Raise RuntimeError with all that went wrong, if anything did."""
        if self.problems:
            raise RuntimeError("; ".join(self.problems))


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
    advisor: bool = True,
    launched_at: Mapping[Target, datetime] | None = None,
    notes: Mapping[str, Any] | None = None,
    guard: bool = True,
    budget_usd: float | None = None,
    campaign_budget_usd: float | None = None,
    on_look: Callable[[Progress], None] | None = None,
) -> BatchSummary:
    """Launch the plans, watch them until ready or out of time, and leave nothing behind.

    Parameters
    ----------
    plans
        Plans, or the answer of ``preflight`` for them.
    log
        The new log's path; its stem is the batch's id.
    rounds, every_s
        Rounds start at ``k * every_s``; one that would start late is skipped and recorded.
    poll_s
        Seconds between looks; the phase of their grid is drawn from ``seed`` and recorded.
    seed
        For the phase and the random order of the plans in a round; None draws one and records it.
    settle_s
        How long nothing may be open or alive before the batch is called clean.
    selection, placement_scores, advisor
        Where the features known before a request come from.
    launched_at
        When each target was last launched by us, before this batch.
    notes
        More for the parameters in the first line, such as the selection's name.
    guard
        Start a process of its own that closes the batch if this one dies, however it dies.
    budget_usd, campaign_budget_usd
        Refuse the batch if its hard bound exceeds the first, or together with what the earlier
        logs beside this one have cost at most the second.
    on_look
        Told of the progress after each look.

    Raises
    ------
    ValueError
        If something is wrong that can be known before money is spent: nothing was launched.
    """
    _require_batch_id(Path(log).stem)
    checked = plans if isinstance(plans, PreflightReport) else preflight(connection, plans)
    checked.require()
    _require_schedule(checked, rounds, every_s, poll_s)
    checked.require_budget(
        rounds=rounds,
        budget_usd=budget_usd,
        campaign_budget_usd=campaign_budget_usd,
        earlier_usd=_earlier_usd(Path(log).parent, connection, campaign_budget_usd),
    )
    checked.require_lasting_credentials(
        now_at=connection.server_utc(), rounds=rounds, every_s=every_s
    )
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    phase_s = random.Random(f"{seed} phase").uniform(0.0, poll_s)
    schedule = {"rounds": rounds, "every_s": every_s, "poll_s": poll_s, "phase_s": phase_s}
    features = Features(
        connection,
        [each.plan for each in checked.prepared],
        placement_scores=placement_scores,
        advisor=advisor,
        selection=selection,
    )
    with closing(EventLog(log)) as events, new_executor(connection) as executor, Stopping() as stop:
        batch = Batch(
            *(connection, events, executor, stop, checked, rounds, poll_s, phase_s),
            began_s=connection.clock.now_s(),
            on_look=on_look,
            launched_at=dict(launched_at or {}),
        )
        watchman = _guard(batch) if guard else None
        try:
            batch.begin({**schedule, "seed": seed, "settle_s": settle_s, **(notes or {})})
            with batch.whatever_the_disk_says():  # if it is full, nothing more is launched
                _run_rounds(batch, features, every_s=every_s, settle_s=settle_s, seed=seed)
        except BaseException:
            batch.unwritten = True  # a line may be missing: a sweep adds what can be known
            raise
        finally:
            cleaned = _finish(batch, settle_s, watchman)
        return _summary(batch, cleaned)


def _earlier_usd(folder: Path, connection: Connection, campaign_budget_usd: float | None) -> float:
    if campaign_budget_usd is None or not folder.exists():
        return 0.0
    return earlier_usd(folder, simulated=connection.simulated)


def _guard(batch: Batch) -> Guard | None:
    """Started before the first request; a market in this very process it could not reach."""
    connection = batch.connection
    if connection.attach is not None:
        return None
    endpoint = (connection.url if connection.simulated else None) or connection.endpoint
    return Guard(batch.events.path.absolute(), endpoint=endpoint, profile=connection.profile)


def _require_batch_id(name: str) -> None:
    """It becomes part of client tokens, which EC2 limits to 64 ASCII characters, and of tags."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,48}", name):
        raise ValueError(
            f"the log's name is the batch's id: 1 to 48 letters, digits, - _ or ., got {name!r}"
        )


def _require_schedule(checked: PreflightReport, rounds: int, every_s: float, poll_s: float) -> None:
    for each in checked.prepared:
        require_intervals(timeout_s=each.plan.timeout_s, poll_s=poll_s)
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, got {rounds!r}")
    if not every_s > 0:
        raise ValueError(f"every_s must be above 0, got {every_s!r}")


def _run_rounds(
    batch: Batch, features: Features, *, every_s: float, settle_s: float, seed: int
) -> None:
    for number in range(batch.rounds):
        _run_round(batch, number, features, every_s=every_s, settle_s=settle_s, seed=seed)
        if number < batch.rounds - 1 and batch.stopping.by is None:
            _clear(batch, settle_s)


def _run_round(
    batch: Batch, number: int, features: Features, *, every_s: float, settle_s: float, seed: int
) -> None:
    """All plans once, in random order so that no target always goes first."""
    due_s = number * every_s
    if number and batch.now_s() > due_s + batch.poll_s:
        reason = f"due at {due_s:g} s, the round before ended at {batch.now_s():.1f} s"
        batch.events.append("skipped", round=number, ticks=[], reason=reason)
        return
    while batch.now_s() < due_s and batch.stopping.by is None:
        batch.rest(due_s)
    order = list(batch.checked.prepared)
    random.Random(f"{seed} order {number}").shuffle(order)
    waves = split_waves(order, batch.checked.free_vcpus)
    for wave, plans in enumerate(waves):
        if batch.stopping.by is not None:
            return
        if wave:  # what the wave before held counts against the quota until it is gone
            _clear(batch, settle_s)
        _run_wave(batch, number, plans, features)


def _run_wave(batch: Batch, number: int, plans: Sequence[PreparedPlan], features: Features) -> None:
    indices = {each.plan.target: i for i, each in enumerate(batch.checked.prepared)}
    runs = [Run(each, number, indices[each.plan.target]) for each in plans]
    facts = features.known()
    for region in sorted({run.region for run in runs}):
        warm(batch.connection, region, round_tag=batch.round_tag(number))
    batch.runs.extend(runs)
    watch(batch, runs, facts)


def _finish(batch: Batch, settle_s: float, watchman: Guard | None) -> Cleaned:
    """End everything: first what saves money, then what is owed to the record, then the proof.

    Whatever goes wrong in one of them, the next is done, and the guard told how it went.
    """
    cleaned = Cleaned(confirmed=False)
    try:
        _release_all(batch)
        _record_the_end(batch)
    finally:
        try:
            cleaned = _clear(batch, settle_s, last=True)
        finally:
            if watchman is not None:
                done = cleaned.confirmed and not batch.unwritten
                (watchman.dismiss if done else watchman.leave_to_it)()
    return cleaned


def _release_all(batch: Batch) -> None:
    if any(not run.ended for run in batch.runs):
        for region, ids in _known_ids(batch).items():
            passed = release(batch.connection, region, known=ids, batch_id=batch.batch_id)
            note_release(batch.note, passed)


def _record_the_end(batch: Batch) -> None:
    """Take in what was still under way, and give every request its outcome."""
    wait(batch.flying, timeout=_LAST_CALLS_S)
    while any(each.done() for each in batch.flying):
        with batch.whatever_the_disk_says():
            batch.land()
    for run in batch.runs:
        if not run.ended:
            with batch.whatever_the_disk_says():
                end(batch, run, Outcome.ABANDONED)


def _clear(batch: Batch, settle_s: float, *, last: bool = False) -> Cleaned:
    known_ids = _known_ids(batch)
    cleaned = settle(
        batch.connection,
        batch_id=batch.batch_id,
        known=known_ids,
        note=batch.note,
        alive=_seen_instances(batch),
        settle_s=settle_s,
    )
    if cleaned.confirmed:  # EC2 forgets ended requests after hours: not to be asked for again
        batch.cleared.update(itertools.chain.from_iterable(known_ids.values()))
        for run in batch.runs:
            run.gone_s = min(run.gone_s, batch.now_s())
    if last and not batch.unwritten:  # else a sweep has to complete the log before it may end
        batch.note(
            "clean",
            confirmed=cleaned.confirmed,
            open_requests=cleaned.open_requests,
            live_instances=cleaned.live_instances,
            errors=cleaned.errors,
            spent_at_most_usd=known(_batch_usd(batch)),
        )
    return cleaned


def _known_ids(batch: Batch) -> dict[str, set[str]]:
    """The ids, not yet cleared, of each region that anything was sent to or may have been."""
    ids: dict[str, set[str]] = {}
    for run in batch.runs:
        ids.setdefault(run.region, set()).update(run.tracks.keys() - batch.cleared)
    return ids


def _seen_instances(batch: Batch) -> dict[str, set[str]]:
    """By region, the instances of requests that are not yet cleared."""
    ids: dict[str, set[str]] = {}
    for run in batch.runs:
        for request_id, track in run.tracks.items():
            instance_id = track.sighting and track.sighting.instance_id
            if instance_id and request_id not in batch.cleared:
                ids.setdefault(run.region, set()).add(instance_id)
    return ids


def _summary(batch: Batch, cleaned: Cleaned) -> BatchSummary:
    problems = list(dict.fromkeys(batch.problems))
    closing = sweep_command(batch.batch_id, batch.connection.endpoint)
    if batch.stopping.by is not None:
        problems.append(f"stopped by {batch.stopping.by}: what was seen until then is recorded")
    if batch.unwritten:
        problems.append(f"complete the log, once it can be written, with: {closing}")
    if not cleaned.confirmed:
        words = "; ".join(f"{region}: {error}" for region, error in cleaned.errors.items())
        problems.append(
            f"it is NOT confirmed that nothing is left{f' ({words})' if words else ''}; finish "
            f"with: {closing}; or by hand: "
            f"{' && '.join(cleaned.commands()) or 'in the EC2 console'}"
        )
    ended = Counter(
        str(track.outcome) for run in batch.runs for track in run.tracks.values() if track.outcome
    )
    refused = sum(run.plan.count for run in batch.runs if run.ended and not run.tracks)
    return BatchSummary(
        batch_id=batch.batch_id,
        log=batch.events.path,
        simulated=batch.connection.simulated,
        outcomes=dict(ended) | ({str(Outcome.REFUSED): refused} if refused else {}),
        cleaned=cleaned,
        spent_at_most_usd=_batch_usd(batch),
        problems=tuple(problems),
    )


def _batch_usd(batch: Batch) -> float:
    return math.fsum(_spent_usd(run, batch.now_s()) for run in batch.runs)


def _spent_usd(run: Run, end_s: float) -> float:
    """Every instance that came, at the on-demand price, from the request until all were gone."""
    if run.sent_s is None:
        return 0.0
    came = sum(Stage.FULFILLED in track.brackets for track in run.tracks.values())
    return came * run.prepared.most_usd(min(run.gone_s, end_s) - run.sent_s)


def _total(ids: Mapping[str, Sequence[str]]) -> int:
    return sum(len(some) for some in ids.values())

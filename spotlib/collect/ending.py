"""The end of a batch, or of a part of it: nothing is left behind, every row gets its outcome."""

import itertools
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial

from msgspec import UNSET
from msgspec.structs import replace

from spotlib.cleanup.close import (
    Cleaned,
    clean_event,
    release_all,
    release_event,
    settle,
    unseen,
    until_quiet_s,
)
from spotlib.cleanup.guard import Guard
from spotlib.collect.batch import Batch
from spotlib.collect.events import read_last_events, warn_of_events
from spotlib.collect.summary import batch_usd
from spotlib.collect.watch import end, read_last_consoles
from spotlib.ec2.events import EVENTS, name_of
from spotlib.model import Outcome

_EVENTS_GIVE_UP_S = 180.0  # then the guard, or a sweep, goes on
_LAST_CALLS_S = 60  # how long calls in flight may take when everything ends


def finish(batch: Batch, guarding: Guard | None) -> Cleaned:
    """End everything: first what costs money, then the record, then the proof.

    If one step fails, the next is still tried.  The guard learns whether all is clean.
    """
    cleaned, words = Cleaned(confirmed=False), ""
    try:
        words = batch.closing_words()
        batch.show_waiting(words, until_quiet_s(batch.schedule.settle_s))
        _release_all(batch)
        _record_the_end(batch)
    finally:
        try:
            cleaned = settle_batch(batch, words, last=True)
        finally:
            if guarding is not None:
                done = cleaned.confirmed and not batch.unwritten
                (guarding.dismiss if done else guarding.leave_to_it)()
    return cleaned


def _release_all(batch: Batch) -> None:
    if all(run.ended for run in batch.runs):
        return
    request_ids, alive = batch.uncleared, _seen_instances(batch)
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


def settle_batch(batch: Batch, words: str = "", *, last: bool = False) -> Cleaned:
    """End all that was launched so far, and wait until nothing of it is left."""
    request_ids = batch.uncleared
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
        _learn(batch, "consoles", read_last_consoles)
    if cleaned.confirmed or last:  # with its queue an event is lost
        _learn(batch, "events", read_last_events)
    if last:
        cleaned = _end_events(batch, cleaned)
        warn_of_events(batch)
    if last and not batch.unwritten:  # else a sweep has to complete the log before it may end
        end_of_log = clean_event(cleaned, spent_at_most_usd=batch_usd(batch))
        batch.note(replace(end_of_log, stopped_by=batch.stopping.by or UNSET))
    return cleaned


def _learn(batch: Batch, what: str, read: Callable[[Batch], None]) -> None:
    """Make the last reads; an error in them must not prevent the end from being written."""
    try:
        with batch.tolerating_log_errors():
            read(batch)
    except Exception as error:  # noqa: BLE001 - as it says
        batch.warnings.append(f"the {what} of what has ended were not read: {error!r}")


def _end_events(batch: Batch, cleaned: Cleaned) -> Cleaned:
    """Delete the queues and rules that the batch made for EC2's events, after the last read.

    Requests that are open, and instances that are alive, are known whether that is confirmed or
    not.  A queue is listed for up to a minute after its end.
    """
    if batch.preflight.events is not True:
        return cleaned
    ended = settle(
        batch.connection,
        batch_id=batch.batch_id,
        request_ids={region: [name_of(batch.batch_id)] for region in batch.event_regions},
        resources=(EVENTS,),
        note=batch.note,
        settle_s=0.0,
        give_up_s=_EVENTS_GIVE_UP_S,
        rest=partial(_rest, batch, "waiting until the queue of EC2's events is gone", last=True),
    )
    return cleaned.joined(ended)


def _rest(batch: Batch, words: str, pause_s: float, left_s: float, *, last: bool) -> bool:
    """Count down between two passes; a stop ends every clean-up but the last, which ends all."""
    ends_s = batch.now_s() + pause_s
    while (rest_s := ends_s - batch.now_s()) > 0:
        if not last and batch.stopping.by is not None:
            return False
        batch.show_waiting(words, left_s - (pause_s - rest_s))
        batch.nap(ends_s)
    return True


def _seen_instances(batch: Batch) -> dict[str, set[str]]:
    """The instances of requests that are not yet cleared, by region."""
    ids: dict[str, set[str]] = {}
    for run in batch.runs:
        alive = (run.instances[each] for each in run.instances.keys() - batch.cleared)
        ids.setdefault(run.region, set()).update(alive)
    return ids

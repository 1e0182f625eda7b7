"""EC2's own events as a second clock: their queues are made and read, and the events recorded.

A queue is read in addition to the polls, on a schedule of its own, and delays none of them.  An
error there never ends a batch.  A warning at the end says what may not have been read.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from spotlib.collect.answers import Answers
from spotlib.collect.cost import FIRST_READS_S, LAST_READS_S, READ_EVERY_S
from spotlib.collect.recording import notice_event
from spotlib.ec2.caller import Caller
from spotlib.ec2.events import QueueRead, find_queue, list_queues, list_rules, make, read_queue
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind
from spotlib.stamp import notice_bracket
from spotlib.track import Bracket
from spotlib.words import counted, listed

if TYPE_CHECKING:
    from spotlib.collect.batch import Batch, Run

_MOST_AT_ONCE = 3  # reads, of the threads that the polls need
_MOST_LAST = 8  # nothing else needs them then
_READ_S, _LEAST_S = 0.5, 0.1  # about what a read takes at most, and at least
_LATEST_S = 2.0  # how long polls may keep a read waiting; twice, if they leave no time at all
_STOPPED_READS_S = 5.0  # the last ones of a batch that was stopped
_CUT = timedelta(seconds=1)  # EC2's time is cut to a second
_ALLOW = "allow what 'python -m spotlib policy --events' prints, or "
_NOT_THERE = "an endpoint that is not Amazon's may have no SQS and no events: "
_SILENT = (
    "EC2's events: none was recorded of {} that ran: a queue of your own gets events only from a "
    "rule of yours in the same region, see docs/events.md"
)


def check_events(answers: Answers, regions: Iterable[str], events: bool | str) -> None:
    """Ask whether queues and rules may be listed, or whether there is the user's own queue.

    If a program other than Amazon's lacks them in one region, it lacks them in all.
    """
    for region in regions if events else ():
        try:
            if isinstance(events, str):
                find_queue(answers.connection, region, events)
            else:
                list_queues(answers.connection, region)
                list_rules(answers.connection, region)
        except Refusal as refusal:
            answers.problems.append(_cannot(answers.connection, region, refusal, events))
            if answers.connection.foreign:
                return


def _cannot(caller: Caller, region: str, refusal: Refusal, queue: bool | str) -> str:
    advice = _NOT_THERE if caller.foreign else _ALLOW * (refusal.kind is Kind.PERMISSION)
    if isinstance(queue, str):
        advice = advice.replace("--events", f"--events {queue}")
    source = f" from queue {queue!r}" if isinstance(queue, str) else ""
    words = f"EC2's events{source} in {region} cannot be recorded: {refusal}"
    return f"{words}; {advice}set events=False"


def make_events(batch: "Batch") -> bool:
    """Make queue and rule in each region, or find the user's own queue; return whether all is well.

    What fails is a problem of the batch, and then nothing may be launched.
    """
    patient, events = Patient(batch.connection), batch.preflight.events
    for region in batch.event_regions:
        try:
            batch.queues.urls[region] = _queue_in(batch, patient, region, events)
            batch.queues.due_s[region] = batch.now_s() + READ_EVERY_S
        except Refusal as refusal:
            words = _cannot(patient, region, refusal, events)
            batch.problems.append(f"{words}; nothing was launched")
            return False
    return True


def _queue_in(batch: "Batch", caller: Caller, region: str, events: bool | str) -> str:
    if isinstance(events, str):
        return find_queue(caller, region, events)
    over_s = batch.preflight.over_by_s(**batch.schedule.rhythm)
    expires_at = (caller.server_utc() + timedelta(seconds=over_s)).replace(microsecond=0)
    return make(caller, region, batch.batch_id, expires_at=expires_at)


def read_due(batch: "Batch") -> None:
    """Begin to read the queues that are due.

    In virtual time a poll waits until a read is over.  Therefore a poll that is due soon comes
    first there, up to a limit.  A later read loses nothing: the queue records when it got an event.
    """
    now_s, waits_s = batch.now_s(), 0.0
    left_s = batch.due_s(batch.next_poll) - now_s
    if batch.connection.clock.inline and left_s < _READ_S:
        waits_s = _LATEST_S if left_s > _LEAST_S else 2 * _LATEST_S
    _begin(batch, batch.queues.due(now_s - waits_s), _MOST_AT_ONCE)


def _begin(batch: "Batch", regions: Sequence[str], most: int) -> None:
    queues = batch.queues
    for region in regions[: max(most - queues.reading, 0)]:
        del queues.due_s[region]
        call = (batch.connection, region, queues.urls[region], queues.receipts.get(region, ()))
        batch.submit(partial(_take, batch, region), read_queue, *call)


def read_before(batch: "Batch", due_s: float) -> float:
    """Read the queues before a round; return when to read again, or when the round is due.

    Otherwise the events of other instances from a long pause could keep a short round from reading
    its own.
    """
    queues, now_s = batch.queues, batch.now_s()
    if now_s < (starts_s := due_s - FIRST_READS_S):
        return starts_s if queues.urls else due_s
    _begin(batch, queues.due(now_s), _MOST_AT_ONCE)
    batch.land()
    return min(due_s, queues.next_s(batch.now_s()))


def read_last_events(batch: "Batch") -> None:
    """Read each queue to its end, for some seconds at most: fewer after a stop, none after two.

    The queues take turns: one that is never empty delays no other.
    """
    queues, began_s = batch.queues, batch.since_s(batch.connection.clock.now_s())
    queues.read_to_end(began_s, batch.connection.server_utc() + _CUT)
    while queues.unread and not batch.stopping.twice:
        now_s = batch.now_s()
        most_s = LAST_READS_S if batch.stopping.by is None else _STOPPED_READS_S
        if (left_s := began_s + most_s - now_s) <= 0:
            return
        batch.show_waiting("reading the last of EC2's events", left_s)
        _begin(batch, [each for each in queues.due(now_s) if each in queues.unread], _MOST_LAST)
        batch.land()
        if queues.unread:
            batch.rest(min(now_s + left_s, queues.next_s(batch.now_s())))


def warn_of_events(batch: "Batch") -> None:
    """Warn which events may be missing, or that none of our instances, if any, had an event."""
    queues, missing = batch.queues, list[str]()
    if not queues.urls:
        return
    if undeleted := sorted(region for region, error in queues.undeleted.items() if error):
        _warn_of_left(batch, undeleted)
    if left := queues.unread | queues.expired:
        missing.append(f"the queue in {listed(sorted(left))} was not read to its end")
    if errors := [queues.errors[each] for each in queues.errors if each in queues.unread]:
        failed = sum(queues.failed[each] for each in queues.unread)
        reads = counted(sum(queues.reads[each] for each in queues.unread), "read")
        missing.append(f"{failed} of {reads} failed, the last of them with {errors[-1]}")
    owners, rows = batch.connection.memory.owners, _rows(batch)
    ours = {*batch.terminated, *(each for each in owners if owners[each] == batch.batch_id)}
    if unknown := ours - rows.keys():
        missing.append(f"{counted(len(unknown), 'instance')} named no request that is recorded")
    ours |= rows.keys()  # EC2 may have ended some before we did
    if late := ours & queues.lost():
        missing.append(f"{counted(len(late), 'instance')} became known too late")
    if missing:
        batch.warnings.append(f"EC2's events may be missing: {'; '.join(missing)}")
    elif ours and not queues.told:
        batch.warnings.append(_SILENT.format(counted(len(ours), "instance")))


def _warn_of_left(batch: "Batch", regions: Sequence[str]) -> None:
    """Warn that messages are left in the user's queue; ours is deleted with its messages."""
    name, error = batch.preflight.events, batch.queues.undeleted[regions[-1]]
    if isinstance(name, str):
        batch.warnings.append(
            f"what was read from queue {name!r} in {listed(regions)} may still be in it: {error}"
        )


def _take(batch: "Batch", region: str, future: Future[QueueRead]) -> None:
    """Keep what a read showed, and record what is known."""
    read = future.result()
    window = Bracket(batch.since_s(read.asked_s), batch.since_s(read.answered_s, up=True))
    batch.consoles.hear(region, window.after_s, window.by_s, read.server_date)
    batch.queues.add(region, read, window, batch.now_s())
    note_events(batch)  # before its messages are deleted


def _rows(batch: "Batch") -> dict[str, tuple["Run", str]]:
    """The instances that are known so far, with the run and the row of each.

    One that no poll showed is known if its request has named it.
    """
    runs = {row: run for run in batch.runs for row in run.tracks}  # the log has these rows
    shown = {name: row for run in batch.runs for row, name in run.instances.items()}
    named = batch.connection.memory.named | shown
    return {name: (runs[row], row) for name, row in named.items() if row in runs}


def note_events(batch: "Batch") -> None:
    """Record the events of the instances that are known by now."""
    if not batch.queues.kept:
        return
    rows = _rows(batch)
    for each in batch.queues.claim(rows):
        run, row = rows[each.notice.instance_id]
        assert run.sent_s is not None
        bracket = notice_bracket(
            each.notice.event_at,
            each.notice.sent_at,
            sent_s=run.sent_s,
            read_s=each.read.by_s,
            dates=batch.consoles.told(each.region),
        )
        batch.log.append(notice_event(run, row, each.notice, read=each.read, reached=bracket))

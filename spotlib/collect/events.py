"""EC2's own events as a second clock: its queues are made, read, and what they tell is recorded.

A queue is read beside the polls and keeps none waiting.  An error there never ends a batch.
"""

from collections.abc import Iterable
from concurrent.futures import Future
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from spotlib.collect.answers import Answers
from spotlib.collect.cost import MOST_LAST_READS, MOST_READS
from spotlib.collect.queues import Heard
from spotlib.collect.recording import notice_event
from spotlib.ec2.caller import Caller
from spotlib.ec2.events import QueueRead, find_queue, list_queues, list_rules, make, read_queue
from spotlib.ec2.patience import Patient
from spotlib.ec2.refusals import Refusal
from spotlib.stamp import notice_bracket
from spotlib.track import Bracket
from spotlib.words import counted

if TYPE_CHECKING:
    from spotlib.collect.batch import Batch

_MOST_AT_ONCE = 3  # reads, of the threads that the polls need
_READ_S = 0.5  # about what a read takes at most
_LAST_READS_S = 20.0
_ADVICE = "allow what 'python -m spotlib policy --events' prints, or set events=False"
_NOT_THERE = "an endpoint that is not Amazon's may have no SQS and no events: set events=False"
_SILENT = (
    "EC2's events: none was recorded of {} that ran: a queue of your own gets events only from a "
    "rule of yours in the same region, see docs/events.md"
)
_UNREAD = "EC2's events were not read each time, so some may be missing: {}"


def check_events(answers: Answers, regions: Iterable[str], events: bool | str) -> None:
    """Ask whether queues and rules may be listed, or whether there is the user's own queue.

    What another program than Amazon's lacks in one region, it lacks in all.
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
    advice = _NOT_THERE if caller.foreign else _ADVICE
    if isinstance(queue, str):
        advice = advice.replace("--events", f"--events {queue}")
    source = f" from queue {queue!r}" if isinstance(queue, str) else ""
    return f"EC2's events{source} in {region} cannot be recorded: {refusal}; {advice}"


def make_events(batch: "Batch") -> bool:
    """Make queue and rule in each region, or find the user's own queue; return whether all is well.

    What fails is a problem of the batch, and then nothing may be launched.
    """
    patient, events = Patient(batch.connection), batch.preflight.events
    for region in batch.event_regions:
        try:
            batch.queues.urls[region] = _queue_in(batch, patient, region, events)
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


def read_beside(batch: "Batch", region: str, most: int = MOST_READS) -> None:
    """Begin to read a queue, unless it is being read: until it is empty, but not for ever.

    A poll that is due soon comes first.  To read later loses nothing: the queue knows when it got
    an event.
    """
    left_s = batch.due_s(batch.next_poll) - batch.now_s()
    reading = batch.queues.reading
    free = region not in reading and len(reading) < _MOST_AT_ONCE
    if region in batch.queues.urls and free and left_s > _READ_S:
        reading.add(region)
        call = (batch.connection, region, batch.queues.urls[region])
        receipts = batch.queues.receipts.pop(region, ())
        batch.submit(partial(_read, batch, region, most - 1), read_queue, *call, receipts)


def _read(batch: "Batch", region: str, most: int, future: Future[QueueRead]) -> None:
    batch.queues.reading.discard(region)
    if _take(batch, region, future.result()) and most:
        read_beside(batch, region, most)


def read_last_events(batch: "Batch") -> None:
    """Read what has come since the last poll, for some seconds, or until a stop."""
    ends_s = batch.now_s() + _LAST_READS_S
    for region, url in batch.queues.urls.items():
        for _ in range(MOST_LAST_READS):
            if batch.now_s() >= ends_s or batch.stopping.by is not None:
                return
            receipts = batch.queues.receipts.pop(region, ())
            if not _take(batch, region, read_queue(batch.connection, region, url, receipts)):
                break


def warn_of_silence(batch: "Batch") -> None:
    """Say that no event of our instances came, if there were any."""
    queues = batch.queues
    if queues.urls and batch.terminated and not (queues.told or queues.failed):
        batch.warnings.append(_SILENT.format(counted(len(batch.terminated), "instance")))


def _take(batch: "Batch", region: str, read: QueueRead) -> bool:
    """Keep what a read showed, record what is known; return whether there may be more."""
    batch.queues.reads += 1
    window = Bracket(batch.since_s(read.asked_s), batch.since_s(read.answered_s, up=True))
    batch.consoles.hear(region, window.after_s, window.by_s, read.server_date)
    batch.queues.kept.extend(Heard(region, each, window) for each in read.notices)
    if read.error and not batch.queues.failed:
        batch.queues.failed = True
        batch.warnings.append(_UNREAD.format(read.error))
    note_events(batch)
    batch.queues.receipts[region] = read.receipts  # deleted next: they are recorded now
    return bool(read.receipts)


def note_events(batch: "Batch") -> None:
    """Record the events of the instances that are known by now."""
    if not batch.queues.kept:
        return
    rows = {
        instance: (run, row)
        for run in batch.runs
        for row, instance in run.instances.items()
        if row in run.tracks  # the log has its row
    }
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

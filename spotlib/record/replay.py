"""What a log says happened: its events, replayed in order into a batch, its runs and requests.

Tables, history, clean-up and recovery all use this result; none of them reads event lines itself.
Nothing is estimated here.  A value that the log does not have is None.  A line that contradicts an
earlier line is refused.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from msgspec import UNSET

from spotlib.model import Stage, Target, is_instance_id
from spotlib.record.events import (
    BatchEvent,
    CleanEvent,
    ConsoleEvent,
    Event,
    ImpairedEvent,
    IntentEvent,
    NoticeEvent,
    OutcomeEvent,
    PollEvent,
    RecoveredEvent,
    RefusedEvent,
    ReleaseEvent,
    RequestedEvent,
    SkippedEvent,
    StageEvent,
    TaggedEvent,
)
from spotlib.record.log import read_lines
from spotlib.track import reached

Key = tuple[int, int]  # round and plan: they name a run within its batch


@dataclass(slots=True)
class RecordedRun:
    """One request call: its intent, the answer or the refusal, and when it was last polled.

    ``polled_s`` is when its last complete poll was sent.  If there is neither an answer nor
    a refusal, the writer died before it could record one.
    """

    intent: IntentEvent
    requested: RequestedEvent | None = None
    refused: RefusedEvent | None = None
    polled_s: float | None = None

    @property
    def key(self) -> Key:
        """Round and plan."""
        return self.intent.round, self.intent.plan

    @property
    def request_ids(self) -> tuple[str, ...]:
        """The ids in the answer; none without one."""
        return self.requested.request_ids if self.requested else ()

    @property
    def wanted(self) -> Stage:
        """The stage that it waits for."""
        return Stage[self.intent.wanted.upper()]

    @property
    def target(self) -> Target:
        """What was asked for."""
        intent = self.intent
        return Target(intent.instance_type, intent.region, intent.availability_zone_id)


@dataclass(slots=True)
class RecordedRequest:
    """One row: the stages it was shown at, in order, and its outcome if it has one.

    A row is a spot request, or an instance (with a method that launches at once), or one of the
    instances that a fleet waits for (``fleet-...#1``).  ``request_id`` is its id.

    ``impaired`` is when its instance was first shown with a failed status check, if it was.
    ``console`` is the last read of its console that showed no stamp.
    ``notices`` are EC2's own events about it, in no order.
    """

    request_id: str
    run: RecordedRun
    sent_s: float
    stages: list[StageEvent] = field(default_factory=list)
    impaired: ImpairedEvent | None = None
    console: ConsoleEvent | None = None
    notices: list[NoticeEvent] = field(default_factory=list)
    outcome: OutcomeEvent | None = None

    @property
    def watched_s(self) -> float:
        """The time until which it was watched: of its outcome, else of its last complete poll."""
        if self.outcome is not None:
            return self.outcome.watched_s
        return self.sent_s if self.run.polled_s is None else self.run.polled_s

    @property
    def instance_id(self) -> str | None:
        """The id of its instance; None if none was shown."""
        if is_instance_id(self.request_id):
            return self.request_id
        return self.stages[-1].instance_id if self.stages else None

    @property
    def reached_wanted(self) -> bool:
        """Whether it was shown at the stage that its plan waits for."""
        return any(each.stage == self.run.intent.wanted for each in self.stages)


@dataclass
class RecordedBatch:
    """The content of one log; ``torn`` if its last line is incomplete, or is being written.

    ``refused`` are the runs in which some or all instances were refused.  ``writer_pid`` is the
    process of its last writer, as far as recorded: the collector, a sweep or a guard.
    ``skipped`` are the rounds that it skipped as too late, and ``by_itself`` says that its own
    process ended it, and that no stop is recorded.  Older logs do not name a stop.
    """

    path: Path
    batch: BatchEvent
    torn: bool = False
    writer_pid: int | None = None
    runs: dict[Key, RecordedRun] = field(default_factory=dict)
    requests: dict[str, RecordedRequest] = field(default_factory=dict)
    refused: list[RecordedRun] = field(default_factory=list)
    polls: list[PollEvent] = field(default_factory=list)
    tagged: list[TaggedEvent] = field(default_factory=list)
    releases: list[ReleaseEvent] = field(default_factory=list)
    skipped: set[int] = field(default_factory=set)
    clean: CleanEvent | None = None
    by_itself: bool = False

    @property
    def regions(self) -> list[str]:
        """The regions that anything was sent to, or may have been made in, sorted."""
        return sorted({*self.batch.events, *(run.intent.region for run in self.runs.values())})

    @property
    def over(self) -> set[str]:
        """What was seen to have ended for good: rows and their instances."""
        seen = {name for each in self.releases for name in each.over}
        requests = self.requests.values()
        seen |= {each.request_id for each in requests if each.outcome and each.outcome.is_over}
        launched = {self.requests[each].instance_id for each in seen & self.requests.keys()}
        return seen.union(filter(None, launched))

    @property
    def begun(self) -> int:
        """How many of its rounds have begun."""
        return len({number for number, _ in self.runs})

    @property
    def last_round(self) -> int:
        """Up to which round, counted from 1, its rounds have begun or were skipped; 0 if none."""
        begun = {number for number, _ in self.runs}
        return max({*begun, *self.skipped}, default=-1) + 1

    @property
    def rounds_done(self) -> int:
        """How many of its rounds were skipped, or were launched with all plans.

        The log does not say how many plans there are.  A later round shows that the first had all;
        where there is none, only an end by itself does: a stop may have come between two arms.
        """
        answered = [run.key for run in self.runs.values() if run.requested or run.refused]
        plans = Counter(number for number, _ in answered)
        if self.begun < 2 and not self.by_itself:
            plans.clear()
        most = max(plans.values(), default=0)
        return len(self.skipped) + sum(each == most for each in plans.values())

    @property
    def spent_at_most_usd(self) -> float | None:
        """The most that the batch can have cost: as its confirmed end says, else its hard bound.

        None if no price is known.  A simulated amount is as large as a real one would be.
        """
        spent_usd = self.clean.spent_at_most_usd if self.clean else None
        if spent_usd is not None and self.clean is not None and self.clean.confirmed:
            return spent_usd
        bound_usd = self.bound_usd(self.batch.rounds)
        return None if bound_usd is None else max(bound_usd, spent_usd or 0.0)

    def bound_usd(self, rounds: int) -> float | None:
        """The hard bound of the cost of so many rounds; None where a price is not known."""
        return None if self.batch.bound_usd is None else rounds * self.batch.bound_usd


def replay(path: str | Path, *, polls: bool = True) -> RecordedBatch | None:
    """Replay a log; None if it has no complete line yet.

    Without ``polls`` the polls are not read, which is quicker, and ``polled_s`` stays None.

    Raises
    ------
    ValueError
        As ``read_lines``, or if an event is about a run or request that no earlier line names,
        or contradicts an earlier line.
    """
    events, torn = read_lines(path, polls=polls)
    if not events:
        return None
    _, first = events[0]
    assert isinstance(first, BatchEvent)  # else it was not read
    writers = [each.pid for _, each in events if isinstance(each, RecoveredEvent)]
    found = RecordedBatch(Path(path), first, torn=torn, writer_pid=[None, *writers][-1])
    for number, event in events[1:]:
        try:
            _take(found, event)
        except KeyError as error:
            raise ValueError(
                f"{path}, line {number} is no valid event: no line before it names {error}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no valid event: {error}") from None
    return found


def _take(found: RecordedBatch, event: Event) -> None:
    """Add one event.

    KeyError if it is about something unknown, ValueError if it contradicts earlier events.
    """
    match event:  # the most frequent first
        case PollEvent():
            _take_poll(found, event)
        case StageEvent():
            request = _request_of(found, event)
            stages = {each.stage for each in request.stages}
            _require_new(event.stage not in stages, f"{event.stage} of {event.request_id}")
            late = event.stage == Stage.USABLE.label  # its stamp may be read after the end
            _require_new(late or request.outcome is None, f"the outcome of {event.request_id}")
            _require_order(sent_s=request.sent_s, after_s=event.after_s, by_s=event.by_s)
            request.stages.append(event)
        case BatchEvent():
            _require_new(False, "the batch")
        case IntentEvent():
            key = event.round, event.plan
            _require_new(key not in found.runs, f"the intent of run {key}")
            found.runs[key] = RecordedRun(event)
            _ = found.runs[key].target  # refuses names that EC2 could not know
        case RequestedEvent() | RefusedEvent():
            _take_answer(found, event)
        case ConsoleEvent():
            _request_of(found, event).console = event
        case NoticeEvent():
            request = _request_of(found, event)
            _require_order(sent_s=request.sent_s, after_s=event.after_s, by_s=event.by_s)
            request.notices.append(event)
        case ImpairedEvent():
            request = _request_of(found, event)
            _require_new(request.impaired is None, f"impaired of {event.request_id}")
            request.impaired = event
        case OutcomeEvent():
            request = _request_of(found, event)
            _require_new(request.outcome is None, f"the outcome of {event.request_id}")
            _require_order(sent_s=request.sent_s, watched_s=event.watched_s)
            got_there = event.outcome is reached(request.run.wanted)
            if got_there is not request.reached_wanted:
                raise ValueError(f"outcome is {event.outcome}, its stages say otherwise")
            request.outcome = event
        case TaggedEvent() | ReleaseEvent() | CleanEvent():
            _take_clean_up(found, event)
        case SkippedEvent(round=number, polls=()):
            found.skipped.add(number)


def _take_clean_up(found: RecordedBatch, event: TaggedEvent | ReleaseEvent | CleanEvent) -> None:
    match event:
        case TaggedEvent():
            found.tagged.append(event)
        case ReleaseEvent():
            found.releases.append(event)
        case CleanEvent():
            open_ids = [each for each, one in found.requests.items() if one.outcome is None]
            if event.confirmed and open_ids:
                raise ValueError(f"confirmed is true, but {open_ids[0]} has no outcome")
            found.clean = event
            found.by_itself |= event.at is None and event.stopped_by is UNSET  # else a sweep's


def _require_new(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"a line before it already has {what}")


def _require_order(**values: float) -> None:
    """Refuse values that do not follow each other in the order in which they are given."""
    for (first, low), (second, high) in pairwise(values.items()):
        if low > high:
            raise ValueError(f"{first} is {low:g}, above {second}, which is {high:g}")


def _take_answer(found: RecordedBatch, event: RequestedEvent | RefusedEvent) -> None:
    run = found.runs[event.round, event.plan]
    _require_new(run.requested is None and run.refused is None, f"the answer to run {run.key}")
    if isinstance(event, RefusedEvent):
        run.refused = event
        found.refused.append(run)
        return
    run.requested = event
    if event.lacking:
        found.refused.append(run)
    if event.answered_s is not None:
        _require_order(asked_s=event.asked_s, answered_s=event.answered_s)
    for each in event.request_ids:
        _require_new(each not in found.requests, f"the request {each}")
        found.requests[each] = RecordedRequest(each, run, event.asked_s)


def _take_poll(found: RecordedBatch, event: PollEvent) -> None:
    """Add a poll.  There are many polls, so valid ones need only plain comparisons."""
    found.polls.append(event)
    if event.asked_s > event.answered_s:
        _require_order(asked_s=event.asked_s, answered_s=event.answered_s)
    for plan, seen in event.plans.items():
        run = found.runs[event.round, plan]
        if (seen is None) is not (event.error is not None):
            raise ValueError("a poll has either counts or an error")
        if seen is None:
            continue
        run.polled_s = event.asked_s
        n = max(run.intent.n, len(run.request_ids))
        granted = seen.fulfilled if seen.granted is UNSET else seen.granted
        if not seen.ready <= seen.running <= seen.fulfilled <= granted <= seen.accepted <= n:
            counts = {each.label: getattr(seen, each.label) for each in reversed(Stage)}
            del counts[Stage.USABLE.label]
            known = {name: count for name, count in counts.items() if count is not UNSET}
            _require_order(**known, n=n)
        if seen.usable is not UNSET and seen.usable > seen.running:  # no other stage implies it
            _require_order(usable=seen.usable, running=seen.running)


def _request_of(
    found: RecordedBatch,
    event: StageEvent | ConsoleEvent | NoticeEvent | ImpairedEvent | OutcomeEvent,
) -> RecordedRequest:
    request = found.requests[event.request_id]
    if request.run.key != (event.round, event.plan):
        raise KeyError(f"{event.request_id} in run {(event.round, event.plan)}")
    return request

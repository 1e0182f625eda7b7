"""The state of one running batch: its clock and log, the calls in flight, and its runs.

Only the main thread touches it.  Times are seconds since the batch's first line.
"""

import math
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from typing import Any, TypeVar

from msgspec.structs import replace

import spotlib
from spotlib.cleanup.close import until_quiet_s
from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.queues import Queues
from spotlib.collect.schedule import Schedule
from spotlib.collect.stopping import Stopping, rewrite_line
from spotlib.collect.usable import Consoles
from spotlib.ec2.connection import Connection
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.methods.method import Method
from spotlib.ec2.methods.registry import METHODS, left_by
from spotlib.ec2.resource import Resource
from spotlib.model import Outcome, Plan, Target, is_instance_id
from spotlib.record.events import SCHEMA, BatchEvent, CleanEvent, Host, ReleaseEvent
from spotlib.record.log import EventLog, LogError
from spotlib.track import ENDED_STATES, Track, reached
from spotlib.words import counted

_TINY_S = 1e-6  # a step that floating point cannot swallow
_SOON_S = 0.1  # at most, from the answer to a probe to its first poll
_SLICE_S = 0.1  # how long, in real seconds, a stop or an answer may go unnoticed

Shown = TypeVar("Shown", "Progress", "Waiting")


@dataclass(frozen=True)
class Progress:
    """What a live view shows after each poll; ``goal`` says what the ready ones are."""

    round: int
    rounds: int
    elapsed_s: float
    timeout_s: float
    ready: int
    requests: int
    goal: Outcome = Outcome.READY


@dataclass(frozen=True)
class Waiting:
    """What a batch waits for while it polls nothing, and for about how long on its own clock."""

    words: str
    left_s: float

    def __str__(self) -> str:
        return f"{self.words}, about {math.ceil(max(self.left_s, 0.0))} s"


@dataclass
class Run:
    """A plan in a round: first unsent, then watched, then ended.

    ``asked_s`` is when its call was made; ``sent_s`` is the same, once it was answered with ids.
    """

    prepared: PreparedPlan
    round: int
    index: int
    asked_s: float | None = None
    refused: bool = False
    lacking: int = 0  # refused instances of a call that gave others
    sent_s: float | None = None
    ended: bool = False
    gone_s: float = math.inf  # when it was confirmed that nothing of it is left
    given: tuple[str, ...] = ()  # the rows that its answer gave
    tracks: dict[str, Track] = field(default_factory=dict)  # the same, once the log has them
    instances: dict[str, str] = field(default_factory=dict)  # by request, once any poll showed it

    @property
    def plan(self) -> Plan:
        """What is asked for."""
        return self.prepared.plan

    @property
    def region(self) -> str:
        """Where."""
        return self.plan.target.region

    @property
    def method(self) -> Method:
        """How it is launched."""
        return METHODS[self.plan.method]

    @property
    def watched(self) -> bool:
        """Whether its requests exist and are still polled."""
        return self.sent_s is not None and not self.ended

    @property
    def fate(self) -> str:
        """The outcome of a run that has no request."""
        if self.refused:
            return str(Outcome.REFUSED)
        return "not sent" if self.asked_s is None else "not answered"

    @property
    def answered(self) -> bool:
        """Whether its call was answered, with ids or with a refusal."""
        return self.refused or self.sent_s is not None

    @property
    def ids(self) -> tuple[str, ...]:
        """Its rows, and its instances where these are looked for by their own ids."""
        launched = self.instances.values() if INSTANCES in self.method.leaves else ()
        return tuple(dict.fromkeys([*self.given, *launched]))

    @property
    def open_ids(self) -> list[str]:
        """The requests that may still launch something."""
        return [
            each.request_id
            for each in self.tracks.values()
            if not is_instance_id(each.request_id)
            and (each.sighting is None or each.sighting.request_state not in ENDED_STATES)
        ]

    @property
    def pending(self) -> list[str]:
        """The requests without an outcome."""
        return [each.request_id for each in self.tracks.values() if each.outcome is None]

    @property
    def deadline_s(self) -> float:
        """When its timeout ends; infinite until it is sent."""
        return math.inf if self.sent_s is None else self.sent_s + self.plan.timeout_s


Landed = Callable[[Future[Any]], None]


@dataclass
class Batch:
    """The state of ``collect_batch``; see the module's docstring."""

    connection: Connection
    log: EventLog
    executor: Executor
    stopping: Stopping
    preflight: PreflightReport
    schedule: Schedule
    began_s: float
    on_poll: Callable[[Progress], None] | None = None
    on_wait: Callable[[Waiting], None] | None = None
    next_poll: int = 0  # its number in the schedule
    shift_s: float = 0.0  # of the schedule of polls
    runs: list[Run] = field(default_factory=list)
    last_launches: dict[Target, datetime] = field(default_factory=dict)
    flying: dict[Future[Any], Landed] = field(default_factory=dict)
    polling: set[str] = field(default_factory=set)  # regions whose poll is in flight
    consoles: Consoles = field(default_factory=Consoles)
    queues: Queues = field(default_factory=Queues)
    taken: set[str] = field(default_factory=set)  # ids that EC2 took a cancel or terminate of
    terminated: dict[str, str] = field(default_factory=dict)  # instances of these: their regions
    cleared: set[str] = field(default_factory=set)  # rows and instances that are known to be over
    look_at_s: float = math.inf  # when it is next looked what is over
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unwritten: bool = False  # whether the log lacks something

    @property
    def batch_id(self) -> str:
        """Its name."""
        return self.log.batch_id

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The kinds of things that its launch methods leave."""
        return left_by(each.plan.method for each in self.preflight.prepared)

    @property
    def event_regions(self) -> tuple[str, ...]:
        """The regions in which it reads EC2's own events."""
        regions = {each.plan.target.region for each in self.preflight.prepared}
        return tuple(sorted(regions)) if self.preflight.events else ()

    @property
    def uncleared(self) -> dict[str, set[str]]:
        """The ids not yet cleared, by region; also regions where an answer may be lost."""
        ids: dict[str, set[str]] = {}
        for run in self.runs:
            ids.setdefault(run.region, set()).update(set(run.ids) - self.cleared)
        return ids

    def round_tag(self, number: int) -> str:
        """The value of the tag that a round's requests are found by."""
        return f"{self.batch_id}/{number}"

    def now_s(self) -> float:
        """Seconds since the first line."""
        return self.connection.clock.now_s() - self.began_s

    def since_s(self, clock_s: float, *, up: bool = False) -> float:
        """A clock's reading in the batch's seconds, rounded to a microsecond.

        Asked times are rounded down and answered times up: that may widen a bracket, but never
        narrow it.
        """
        microseconds = (clock_s - self.began_s) * 1e6
        return (math.ceil(microseconds) if up else math.floor(microseconds)) / 1e6

    def due_s(self, number: int) -> float:
        """When a poll of the schedule is due: it starts at a random phase and never drifts."""
        return self.schedule.phase_s + self.shift_s + number * self.schedule.poll_s

    def polls_due(self) -> float:
        """How many polls of the schedule are due by now, with the fraction of the next."""
        return (self.now_s() - self.due_s(0)) / self.schedule.poll_s

    def poll_soon(self) -> None:
        """Shift the schedule, so that its next poll is due within 0.1 s from now, or just now."""
        due_s, now_s = self.due_s(self.next_poll), self.now_s() - _TINY_S
        self.shift_s += min(max(due_s, now_s), now_s + _SOON_S) - due_s

    def progress(self) -> Progress:
        """How far the latest round is; at least one of its runs was sent."""
        latest = [run for run in self.runs if run.sent_s is not None][-1].round
        runs = [run for run in self.runs if run.sent_s is not None and run.round == latest]
        tracks = [track for run in runs for track in run.tracks.values()]
        goal = reached(runs[0].plan.wanted)
        return Progress(
            round=latest,
            rounds=self.schedule.rounds,
            elapsed_s=self.now_s() - min(run.sent_s or 0.0 for run in runs),
            timeout_s=max(run.plan.timeout_s for run in runs),
            ready=sum(track.outcome is goal for track in tracks),
            requests=len(tracks),
            goal=goal,
        )

    def submit(self, landed: Landed, call: Callable[..., Any], /, *args: Any, **given: Any) -> None:
        """Make a call; the main thread calls ``landed`` once it is done."""
        self.flying[self.executor.submit(call, *args, **given)] = landed

    def land(self) -> None:
        """Take in every call that is done, in the order in which they were made."""
        for future in [each for each in self.flying if each.done()]:
            self.flying.pop(future)(future)

    def rest(self, until_s: float) -> None:
        """Wait until that time, or until something may have changed, if that is earlier."""
        if self.flying and not self.connection.clock.inline:
            wait(self.flying, timeout=_SLICE_S, return_when=FIRST_COMPLETED)
        else:
            self.nap(until_s)

    def nap(self, until_s: float) -> None:
        """Wait until that time, but never so long in real time that a stop would go unnoticed."""
        self.connection.clock.nap(max(until_s - self.now_s(), _TINY_S), _SLICE_S)

    def show_progress(self) -> None:
        """Tell the caller how far the batch is."""
        if self.on_poll is not None:
            self._show(self.on_poll, self.progress)

    def show_waiting(self, words: str, left_s: float) -> None:
        """Tell the caller what is waited for; a stop is answered in a terminal without a caller."""
        waiting = Waiting(words, left_s)
        if self.on_wait is not None:
            self._show(self.on_wait, lambda: waiting)
        elif self.stopping.by is not None:
            rewrite_line(str(waiting))

    def _show(self, view: Callable[[Shown], None], shown: Callable[[], Shown]) -> None:
        """Drawing never ends a batch: an error in it is reported once."""
        try:
            view(shown())
        except Exception as error:  # noqa: BLE001 - a view may fail in any way
            words = "the live view failed, the batch went on without it: "
            told = any(each.startswith(words) for each in self.warnings)
            self.warnings += [] if told else [f"{words}{error!r}"]

    def stop_words(self) -> str:
        """What a stop will do now."""
        return str(Waiting(f"stopping: {self._left()}", until_quiet_s(self.schedule.settle_s)))

    def closing_words(self) -> str:
        """What clean-up does now."""
        if self.stopping.by is None and all(run.ended for run in self.runs):
            return "making sure that nothing is left"
        return f"stopping: {self._left()}"

    def _left(self) -> str:
        """What is still to be ended, as far as it is known."""
        over = self.taken | self.cleared
        requests = [each for run in self.runs for each in run.open_ids if each not in over]
        instances = [
            instance
            for run in self.runs
            for each, instance in run.instances.items()
            if each not in self.cleared and instance not in self.taken
        ]
        words = f"cancelling {counted(len(requests), 'request')}, "
        words += f"terminating {counted(len(instances), 'instance')}"
        asked = sum(run.asked_s is not None and not run.answered for run in self.runs)
        return words + f", waiting for the answers to {counted(asked, 'call')}" * bool(asked)

    def note(self, event: ReleaseEvent | CleanEvent) -> None:
        """Record clean-up, which a full disk must not stop."""
        if isinstance(event, ReleaseEvent):
            self.taken.update(event.cancelled, event.terminated)
            self.terminated |= dict.fromkeys(event.terminated, event.region)
            self.cleared.update(event.over)
        with self.tolerating_log_errors():
            self.log.append(replace(event, at_s=self.since_s(self.connection.clock.now_s())))

    @contextmanager
    def tolerating_log_errors(self) -> Iterator[None]:
        """Report a failed write to the log, and continue cleaning up."""
        try:
            yield
        except LogError as error:
            self.unwritten = True
            self.problems.append(str(error))

    def begin(self, notes: Mapping[str, Any]) -> None:
        """Write the first line."""
        connection, preflight, schedule = self.connection, self.preflight, self.schedule
        first = BatchEvent(
            schema=SCHEMA,
            batch_id=self.batch_id,
            simulated=connection.simulated,
            world=connection.world,
            world_seed=connection.world_seed,
            endpoint=connection.endpoint,
            market=connection.market,
            url=connection.url,
            started_at=connection.clock.utc(),
            **vars(schedule),
            notes=dict(notes),
            account=preflight.account,
            arn=preflight.arn,
            profile=connection.profile,
            expected_usd=preflight.expected_usd,
            bound_usd=preflight.bound_usd,
            warnings=preflight.warnings,
            host=_host(),
            events=self.event_regions,
            queue=preflight.events if isinstance(preflight.events, str) else None,
        )
        self.log.append(first, sync=True)


def _host() -> Host:
    return Host(
        name=socket.gethostname(),
        pid=os.getpid(),
        spotlib=spotlib.__version__,
        python=platform.python_version(),
        boto3=version("boto3"),
        botocore=version("botocore"),
    )

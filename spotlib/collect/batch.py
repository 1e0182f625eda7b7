"""What one running batch carries: its clock and log, the calls in flight, and its plans' state.

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
from typing import Any

import spotlib
from spotlib.collect.cost import PreflightReport, PreparedPlan
from spotlib.collect.stopping import Stopping
from spotlib.ec2.connection import Connection
from spotlib.model import Plan, Target, Track
from spotlib.record.log import SCHEMA, EventLog, LogError

_TINY_S = 1e-6  # a step that floating point cannot swallow
_SLICE_S = 0.1  # how long, in real seconds, a stop or an answer may go unnoticed


@dataclass(frozen=True)
class Progress:
    """What a live view is told after each look."""

    round: int
    rounds: int
    elapsed_s: float
    timeout_s: float
    ready: int
    requests: int


@dataclass
class Run:
    """A plan in a round: first unsent, then watched, then ended."""

    prepared: PreparedPlan
    round: int
    index: int
    sent_s: float | None = None
    ended: bool = False
    gone_s: float = math.inf  # when it was confirmed that nothing of it is left
    tracks: dict[str, Track] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """What is asked for."""
        return self.prepared.plan

    @property
    def region(self) -> str:
        """Where."""
        return self.plan.target.region

    @property
    def watched(self) -> bool:
        """Whether its requests exist and are still looked at."""
        return self.sent_s is not None and not self.ended

    @property
    def pending(self) -> list[str]:
        """The requests without an outcome."""
        return [each.request_id for each in self.tracks.values() if each.outcome is None]

    @property
    def deadline_s(self) -> float:
        """When its time is up; never, as long as it is not sent."""
        return math.inf if self.sent_s is None else self.sent_s + self.plan.timeout_s


Landed = Callable[[Future[Any]], None]


@dataclass
class Batch:
    """The state of ``collect``; see the module's words."""

    connection: Connection
    events: EventLog
    executor: Executor
    stopping: Stopping
    checked: PreflightReport
    rounds: int
    poll_s: float
    phase_s: float
    began_s: float
    on_look: Callable[[Progress], None] | None = None
    tick: int = 0  # the next one on the schedule
    runs: list[Run] = field(default_factory=list)
    launched_at: dict[Target, datetime] = field(default_factory=dict)
    flying: dict[Future[Any], Landed] = field(default_factory=dict)
    looking: set[str] = field(default_factory=set)  # regions whose look has not come back
    cleared: set[str] = field(default_factory=set)  # requests seen to be over and done with
    problems: list[str] = field(default_factory=list)
    unwritten: bool = False  # whether something that belongs into the log is not there

    @property
    def batch_id(self) -> str:
        """Its name."""
        return self.events.batch_id

    def round_tag(self, number: int) -> str:
        """The value of the tag that a round's requests are found by."""
        return f"{self.batch_id}/{number}"

    def now_s(self) -> float:
        """Seconds since the first line."""
        return self.connection.clock.now_s() - self.began_s

    def since_s(self, clock_s: float, *, up: bool = False) -> float:
        """A clock's reading in the batch's seconds, to a microsecond.

        Asked times go down and answered times up: legibility may widen a bracket, never narrow it.
        """
        microseconds = (clock_s - self.began_s) * 1e6
        return (math.ceil(microseconds) if up else math.floor(microseconds)) / 1e6

    def due_s(self, tick: int) -> float:
        """When a look of the schedule is due: it starts at a random phase and never drifts."""
        return self.phase_s + tick * self.poll_s

    def submit(self, landed: Landed, call: Callable[..., Any], /, *args: Any, **given: Any) -> None:
        """Make a call; ``landed`` is told in the main thread once it has come back."""
        self.flying[self.executor.submit(call, *args, **given)] = landed

    def land(self) -> None:
        """Take in every call that has come back, in the order in which they were made."""
        for future in [each for each in self.flying if each.done()]:
            self.flying.pop(future)(future)

    def rest(self, until_s: float) -> None:
        """Wait until then or until something may have changed, whichever comes first."""
        clock, left_s = self.connection.clock, until_s - self.now_s()
        if clock.inline:
            clock.sleep(max(left_s, _TINY_S))
        elif self.flying:
            wait(self.flying, timeout=_SLICE_S, return_when=FIRST_COMPLETED)
        else:
            clock.nap(left_s, _SLICE_S)

    def note(self, event: str, /, **fields: Any) -> None:
        """Record clean-up, which a full disk must not stop."""
        with self.whatever_the_disk_says():
            self.events.append(event, at_s=self.since_s(self.connection.clock.now_s()), **fields)

    @contextmanager
    def whatever_the_disk_says(self) -> Iterator[None]:
        """A log that cannot be written is told of; it is no reason to leave things behind."""
        try:
            yield
        except LogError as error:
            self.unwritten = True
            self.problems.append(str(error))

    def begin(self, parameters: Mapping[str, Any]) -> None:
        """Write the first line.  The host's own facts come last."""
        connection, checked = self.connection, self.checked
        self.events.append(
            "batch",
            sync=True,
            schema=SCHEMA,
            batch_id=self.batch_id,
            simulated=connection.simulated,
            world=connection.world,
            world_seed=connection.world_seed,
            endpoint=connection.endpoint,
            market=connection.market,
            started_at=connection.clock.utc(),
            parameters=parameters,
            identity={"account": checked.account, "arn": checked.arn},
            profile=connection.profile,
            expected_usd=known(checked.expected_usd),
            bound_usd=known(checked.bound_usd),
            warnings=checked.warnings,
            host=_host_facts(connection),
        )


def known(value: float) -> float | None:
    """A number for a log, where unknown is null."""
    return None if math.isnan(value) else value


def _host_facts(connection: Connection) -> dict[str, Any]:
    return {
        "url": connection.url,
        "name": socket.gethostname(),
        "pid": os.getpid(),
        "spotlib": spotlib.__version__,
        "python": platform.python_version(),
        "boto3": version("boto3"),
    }

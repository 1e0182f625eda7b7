"""What a launch method is: what it sends, what the answer means, how its rows are seen, what it
leaves to be ended.

Each file of this folder defines one ``Method``, and ``registry`` knows them by name.  Nothing else
knows any of them by name: the loop, the log, clean-up, sweep and guard look up the one that the
plan, or its intent in the log, names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from spotlib.ec2.connection import Connection
from spotlib.ec2.poll import See
from spotlib.ec2.refusals import PASSING_KINDS, Refusal
from spotlib.ec2.resource import Resource
from spotlib.model import Plan
from spotlib.track import Sighting

_ATTEMPTS = 5
Parameters = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What a request call asks for, however it is asked."""

    plan: Plan
    image: str
    token: str
    valid_until: datetime
    tags: Mapping[str, str]
    shutdown_after_min: int
    subnet_id: str | None = None
    group_id: str | None = None


@dataclass(frozen=True)
class Given:
    """What an answer gives: the rows of what was launched, and why the others were not launched.

    ``shown`` is what the answer says of a row beyond its id.
    """

    rows: tuple[str, ...]
    shown: Mapping[str, Sighting] = field(default_factory=dict)
    lacking: Refusal | None = None


def prepare_nothing(_: Connection, __: str, ___: Mapping[str, Parameters]) -> None:
    """Make nothing: the call needs nothing."""


@dataclass(frozen=True)
class Method:
    """A launch method.

    Parameters
    ----------
    action
        The call that is measured.
    parameters
        Exactly what is sent for an order, as it stands in the log.  If more calls than the measured
        one are made, it is the parameters of each by its action.
    read
        What an answer gives, if this many instances were asked for.
    see
        How a poll looks for its rows.
    row
        What a row is: the kind of thing that its id names.
    leaves
        Every kind of thing that clean-up has to look for.
    permissions
        The statements that it needs in a policy; those of one ``Sid`` are the same everywhere.
    tags_at_birth
        Whether all that it leaves carries our tags from the beginning, so that a policy may allow
        to end nothing else.
    prepare
        Makes what the call needs, before its time counts, from the parameters of all calls.
    role
        The service-linked role that it needs beside that of spot requests: (name, service).
    """

    action: str
    parameters: Callable[[Order], Parameters]
    read: Callable[[Mapping[str, Any], int], Given]
    see: See
    row: Resource
    leaves: tuple[Resource, ...]
    permissions: tuple[Mapping[str, Any], ...]
    tags_at_birth: bool = True
    prepare: Callable[[Connection, str, Mapping[str, Parameters]], None] = prepare_nothing
    role: tuple[str, str] | None = None

    def calls(self, parameters: Parameters) -> Mapping[str, Parameters]:
        """Return the parameters of every call by its action, the measured one last."""
        return parameters if self.action in parameters else {self.action: parameters}


@dataclass(frozen=True)
class Answer:
    """How a request call went: what it gave or the refusal, and when it was sent and answered.

    ``attempts`` has the codes of the failed attempts.  The time starts with the first attempt that
    EC2 may have executed; earlier attempts are not part of the launch.
    """

    given: Given
    asked_s: float
    answered_s: float
    asked_at: datetime
    server_date: str | None = None
    attempts: tuple[str, ...] = ()

    @property
    def refusal(self) -> Refusal | None:
        """Why nothing came; None if anything did."""
        return None if self.given.rows else self.given.lacking


def launch(
    connection: Connection, region: str, method: Method, parameters: Parameters, count: int
) -> Answer:
    """Make what the request call needs, then send it."""
    asked_s, asked_at = connection.clock.now_s(), connection.clock.utc()
    calls = method.calls(parameters)
    try:
        method.prepare(connection, region, calls)
    except Refusal as refusal:
        return Answer(Given((), lacking=refusal), asked_s, connection.clock.now_s(), asked_at)
    answer = _send(connection, region, method, calls[method.action], count)
    if answer.given.lacking is not None:
        answer.given.lacking.region = region
    return answer


def _send(
    connection: Connection, region: str, method: Method, parameters: Parameters, count: int
) -> Answer:
    """Send one request call; after a passing error send it again with the same token."""
    clock, attempts = connection.clock, list[str]()
    first: tuple[float, datetime] | None = None
    while True:
        asked_s, asked_at = first or (clock.now_s(), clock.utc())
        try:
            reply = connection.call(region, method.action, **parameters)
            given = method.read(reply, count)
            date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
        except Refusal as refusal:
            attempts.append(refusal.code)
            if refusal.kind in PASSING_KINDS and len(attempts) < _ATTEMPTS:
                first = first or ((asked_s, asked_at) if refusal.maybe_done else None)
                clock.sleep(2.0 ** len(attempts) / 2)
                continue
            given, date = Given((), lacking=refusal), None
        return Answer(given, asked_s, clock.now_s(), asked_at, date, tuple(attempts))

"""Calls made again after an error that passes: throttling, a failure of AWS, a lost answer.

For calls that nobody measures.  A poll and a request call are one attempt each, made by the
``Connection`` itself, and clean-up repeats itself.
"""

import random
from datetime import datetime
from typing import Any

from spotlib.ec2.caller import Caller
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import PASSING_KINDS, Refusal
from spotlib.model import Kind

_MOST_S = 60.0
# Where nothing ever answered as EC2 does: offline, or a typing error in the endpoint.  And what a
# foreign endpoint lacks may look like a failure of it.
_HOPELESS_MOST_S = 4.0
_HOPELESS_ATTEMPTS = 3  # all the same
_LONGEST_PAUSE_S = 16.0
_AGAIN = PASSING_KINDS - {Kind.NOT_FOUND}


class Patient(Caller):
    """A connection whose calls are made again after a passing error, for at most ``most_s``.

    If a service did not recover in a region, it is not waited for again until it answers.  The
    pauses grow, and are random: clients that failed together then do not retry together.
    """

    def __init__(self, connection: Connection, *, most_s: float = _MOST_S) -> None:
        self.connection = connection
        self.memory = connection.memory
        self._most_s = most_s
        self._given_up: set[tuple[str, str]] = set()  # services in regions
        # In virtual time the same seed gives the same events.
        self._chance = random.Random(0) if connection.clock.inline else random.SystemRandom()

    @property
    def foreign(self) -> bool:
        """Whether another program answers for EC2."""
        return self.connection.foreign

    def server_utc(self) -> datetime:
        """Return EC2's UTC."""
        return self.connection.server_utc()

    def region_names(self, region: str, service: str = "ec2") -> list[str]:
        """The regions of this region's partition that have a service."""
        return self.connection.region_names(region, service)

    def call(self, region: str, action: str, /, **given: Any) -> dict[str, Any]:
        """Make a call, again after a passing error.

        Raises
        ------
        Refusal
            If it is refused for good, or still fails; it then says how often it was tried.
        """
        clock, place, attempts = self.connection.clock, (given.get("service", "ec2"), region), 0
        began_s = clock.now_s()
        while True:
            attempts += 1
            try:
                reply = self.connection.call(region, action, **given)
            except Refusal as refusal:
                if refusal.kind not in _AGAIN:
                    raise
                refusal.attempts, refusal.tried_s = attempts, clock.now_s() - began_s
                pause_s = self._pause_s(attempts)
                over_s = refusal.tried_s + pause_s - self._bound_s(refusal)
                if place in self._given_up or over_s > 0:
                    self._given_up.add(place)
                    if self.foreign and refusal.kind is not Kind.THROTTLED:
                        refusal.advice = "this endpoint may lack the call"
                    raise
            else:
                self._given_up.discard(place)
                return reply
            clock.sleep(pause_s)

    def _pause_s(self, attempts: int) -> float:
        return min(2.0 ** (attempts - 1), _LONGEST_PAUSE_S) * self._chance.uniform(0.5, 1.0)

    def _bound_s(self, refusal: Refusal) -> float:
        hopeless = refusal.kind is Kind.UNREACHABLE and not self.connection.reached
        hopeless |= refusal.kind is not Kind.THROTTLED and self.foreign
        if hopeless and refusal.attempts >= _HOPELESS_ATTEMPTS:
            return min(self._most_s, _HOPELESS_MOST_S)
        return self._most_s

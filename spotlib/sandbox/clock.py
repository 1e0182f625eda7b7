"""The two clocks a sandbox can run on.

``VirtualTime`` moves only when a client moves it: runs are fast and repeat to the byte.
``ScaledTime`` is the machine's monotonic clock times ``speed``, for several clients at once.
Both count seconds since the world began; neither knows the date (see ``World.utc``).
"""

from __future__ import annotations

import time
from threading import Condition, RLock

_LOOK_S = 0.05  # real time between two looks
_MOST_S = 31 * 86400.0  # every event on the way is played: a longer jump would take for ever


class VirtualTime:
    """Time driven by the client: it stands still until a client advances it."""

    mode = "virtual"
    speed = 0.0

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Move time forward."""
        if not 0.0 <= seconds <= _MOST_S:
            raise ValueError(
                "time moves forward, by at most 31 days at once: "
                f"need 0 <= seconds <= {_MOST_S:.0f}, got {seconds!r}"
            )
        self.now_s += seconds

    def spend(self, seconds: float) -> None:
        """Spend the time that an API call takes."""
        self.advance(seconds)

    def hold(self, seconds: float) -> None:
        """Do nothing: the time was already spent."""

    def wait(self, seconds: float, lock: RLock) -> None:  # noqa: ARG002 (one interface)
        """Let time pass within a call."""
        self.advance(seconds)


class ScaledTime:
    """The machine's time, ``speed`` times as fast.  No client can advance it."""

    mode = "scaled"

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0.0:
            raise ValueError(f"need speed > 0, got {speed!r}")
        self.speed = speed
        self._began_s = time.monotonic()

    @property
    def now_s(self) -> float:
        return (time.monotonic() - self._began_s) * self.speed

    def advance(self, seconds: float) -> None:  # noqa: ARG002 (one interface)
        """Raise ValueError: this clock runs by itself."""
        raise ValueError(
            f"this sandbox runs in real time times {self.speed:g}: it cannot be advanced"
        )

    def spend(self, seconds: float) -> None:
        """Do nothing: the call takes real time already, and a sleep would block other clients."""

    def hold(self, seconds: float) -> None:
        """Delay an answer."""
        time.sleep(seconds / self.speed)

    def wait(self, seconds: float, lock: RLock) -> None:
        """Let time pass within a call that holds this lock: a short time, to look again then."""
        Condition(lock).wait(min(seconds / self.speed, _LOOK_S))  # other calls happen meanwhile


Clock = VirtualTime | ScaledTime

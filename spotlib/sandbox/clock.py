"""The two clocks a sandbox can run on.

``VirtualTime`` moves only when a client moves it, so a run is quick and repeats to the byte.
``ScaledTime`` follows the machine's monotonic clock times ``speed``, for several clients at once.
Both count seconds since the world began; neither knows the date (see ``World.utc``).
"""

from __future__ import annotations

import time


class VirtualTime:
    """Time driven by the client: it stands still until somebody advances it."""

    mode = "virtual"
    speed = 0.0

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds; never back."""
        if not seconds >= 0.0:
            raise ValueError(f"time moves forward only: need seconds >= 0, got {seconds!r}")
        self.now_s += seconds

    def spend(self, seconds: float) -> None:
        """Let an API call take this long."""
        self.advance(seconds)

    def hold(self, seconds: float) -> None:
        """Nothing: what an answer takes was spent."""


class ScaledTime:
    """The machine's time, ``speed`` times as fast.  Nobody can advance it."""

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
        """Refused: this clock runs by itself."""
        raise ValueError(
            f"this sandbox runs in real time times {self.speed:g}: it cannot be advanced"
        )

    def spend(self, seconds: float) -> None:
        """Nothing: the call already takes real time, and sleeping would hold up other clients."""

    def hold(self, seconds: float) -> None:
        """Keep an answer back for so long."""
        time.sleep(seconds / self.speed)


Clock = VirtualTime | ScaledTime

"""Clocks: the machine's, a scaled one, and a pretend market's, all with one face.

``now_s`` never stops or steps, also in suspend where the system has such a clock; ``utc`` places
things in the day.  ``inline`` says that sleeping moves the world on (virtual time): nothing may
then run at the same time.  No other module reads a clock.
"""

import json
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

_NOW_HEADER = "x-sandbox-now"  # the market's seconds, on every answer of the sandbox


class Clock(Protocol):
    """What the loop needs of time."""

    inline: bool

    def now_s(self) -> float:
        """Seconds since some fixed instant."""

    def utc(self) -> datetime:
        """The aware UTC instant that belongs to now."""

    def sleep(self, seconds: float) -> None:
        """Return when ``seconds`` of this clock have passed."""

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Sleep, but no longer than ``most_real_s`` of real time."""

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Take note of an answer's headers; None says that an answer was lost."""


class SystemClock:
    """This machine's time.  CLOCK_BOOTTIME goes on while a laptop sleeps; macOS has none."""

    inline = False
    _clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_s(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(self._clock)

    def utc(self) -> datetime:
        """The system's idea of UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait for real."""
        time.sleep(max(seconds, 0.0))

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Wait for real, but not long."""
        self.sleep(min(seconds, most_real_s))

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Answers do not move real time."""


class ScaledClock(SystemClock):
    """Real time, ``speed`` times as fast: for a sandbox that several programs share."""

    def __init__(self, *, speed: float, utc: datetime) -> None:
        self._speed = speed
        self._utc = utc
        self._began_s = super().now_s() * speed

    def now_s(self) -> float:
        """Scaled seconds."""
        return super().now_s() * self._speed

    def utc(self) -> datetime:
        """The pretend market's UTC."""
        return self._utc + timedelta(seconds=self.now_s() - self._began_s)

    def sleep(self, seconds: float) -> None:
        """Wait ``seconds / speed`` real seconds."""
        super().sleep(seconds / self._speed)

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Wait, but not long."""
        self.sleep(min(seconds, most_real_s * self._speed))


class VirtualClock:
    """A pretend market's time, moved on by us alone: ten minutes pass in a moment."""

    inline = True

    def __init__(self, url: str, *, epoch: datetime, now_s: float) -> None:
        self._url = url
        self._epoch = epoch
        self._now_s = now_s

    def now_s(self) -> float:
        """The market's seconds as of its last answer; nobody else moves them."""
        return self._now_s

    def utc(self) -> datetime:
        """The pretend market's UTC."""
        return self._epoch + timedelta(seconds=self._now_s)

    def sleep(self, seconds: float) -> None:
        """Tell the market to move on by ``seconds``."""
        body = json.dumps({"seconds": max(seconds, 0.0)}).encode()
        self._now_s = control(self._url, "/sandbox/advance", body=body)["now_s"]

    def nap(self, seconds: float, most_real_s: float) -> None:  # noqa: ARG002
        """Virtual sleep takes no real time."""
        self.sleep(seconds)

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Follow the time an answer took; ask for it where the answer was lost."""
        if headers is not None and _NOW_HEADER in headers:
            self._now_s = float(headers[_NOW_HEADER])
        else:
            self._now_s = control(self._url, "/sandbox/now")["now_s"]


class World(Protocol):
    """A pretend market in this process."""

    @property
    def now_s(self) -> float:
        """Its seconds."""

    @property
    def world_id(self) -> str:
        """Its name: the same settings give the same."""

    def utc(self) -> datetime:
        """Its date."""

    def advance(self, seconds: float) -> float:
        """Move it on."""


class WorldClock:
    """The time of a pretend market in this process, moved on by us alone."""

    inline = True

    def __init__(self, world: World) -> None:
        self._world = world

    def now_s(self) -> float:
        """The market's seconds."""
        return self._world.now_s

    def utc(self) -> datetime:
        """The market's UTC."""
        return self._world.utc()

    def sleep(self, seconds: float) -> None:
        """Move the market on by ``seconds``."""
        self._world.advance(max(seconds, 0.0))

    def nap(self, seconds: float, most_real_s: float) -> None:  # noqa: ARG002
        """Virtual sleep takes no real time."""
        self.sleep(seconds)

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """The market is at hand: nothing has to be heard."""


def control(
    url: str, path: str, *, body: bytes | None = None, timeout_s: float = 10.0
) -> dict[str, Any]:
    """The sandbox's own endpoint beside EC2's: GET, or POST where there is a body.

    Raises
    ------
    OSError
        If nothing answers there.
    """
    # Proxies are for the outside; one set in the environment would break 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.rstrip("/") + path, data=body, timeout=timeout_s) as reply:
        answer = json.loads(reply.read())
    return dict(answer)

"""Clocks with one interface: this machine's, a faster one, and a pretend market's own.

``now_s`` measures durations.  It never steps, and where the system allows it also runs during
suspend.  ``utc`` places events in the day.  If ``inline`` is true, sleeping moves the market's
time (virtual time), so calls run one after another.  The loop reads no other clock.
"""

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

_NOW_HEADER = "x-sandbox-now"  # every answer of the sandbox states the market's seconds


class Clock(Protocol):
    """What the loop needs from a clock."""

    inline: bool

    def now_s(self) -> float:
        """Seconds since some fixed instant."""

    def utc(self) -> datetime:
        """The aware UTC instant that belongs to now."""

    def sleep(self, seconds: float) -> None:
        """Return when ``seconds`` of this clock have passed."""

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Sleep, but for at most ``most_real_s`` real seconds."""

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Read the market's time from an answer's headers; None if the answer was lost."""


class SystemClock:
    """This machine's time.  CLOCK_BOOTTIME also runs during suspend; macOS does not have it."""

    inline = False
    _clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now_s(self) -> float:
        """Return the seconds since boot."""
        return time.clock_gettime(self._clock)

    def utc(self) -> datetime:
        """Return the system's UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Wait in real time."""
        time.sleep(max(seconds, 0.0))

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Wait, but for at most ``most_real_s``."""
        self.sleep(min(seconds, most_real_s))

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Do nothing: answers do not move real time."""


class ScaledClock(SystemClock):
    """Real time multiplied by ``speed``, for a sandbox that several programs share."""

    def __init__(self, *, speed: float, utc: datetime) -> None:
        self._speed = speed
        self._utc = utc
        self._began_s = super().now_s() * speed

    def now_s(self) -> float:
        """Return the scaled seconds since boot."""
        return super().now_s() * self._speed

    def utc(self) -> datetime:
        """Return the pretend market's UTC."""
        return self._utc + timedelta(seconds=self.now_s() - self._began_s)

    def sleep(self, seconds: float) -> None:
        """Wait ``seconds / speed`` real seconds."""
        super().sleep(seconds / self._speed)

    def nap(self, seconds: float, most_real_s: float) -> None:
        """Wait, but for at most ``most_real_s``."""
        self.sleep(min(seconds, most_real_s * self._speed))


class World(Protocol):
    """A pretend market, in this process or over HTTP; ``epoch`` is its UTC at second 0."""

    @property
    def world_id(self) -> str: ...
    @property
    def epoch(self) -> datetime: ...
    @property
    def now_s(self) -> float: ...
    def advance(self, seconds: float) -> float: ...


@dataclass
class RemoteWorld:
    """A pretend market over HTTP.  Only we move its time, so its last answer tells the time."""

    url: str
    epoch: datetime
    now_s: float
    world_id: str

    def advance(self, seconds: float) -> float:
        """Move the market's time on."""
        body = json.dumps({"seconds": seconds}).encode()
        self.now_s = control(self.url, "/sandbox/advance", body=body)["now_s"]
        return self.now_s

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Take over the time after an answer; ask for it if the answer was lost."""
        if headers is not None and _NOW_HEADER in headers:
            self.now_s = float(headers[_NOW_HEADER])
        else:
            self.now_s = control(self.url, "/sandbox/now")["now_s"]


class VirtualClock:
    """A pretend market's time, which only we move: ten minutes pass in a moment."""

    inline = True

    def __init__(self, world: World) -> None:
        self._world = world

    def now_s(self) -> float:
        """Return the market's seconds."""
        return self._world.now_s

    def utc(self) -> datetime:
        """Return the market's UTC."""
        return self._world.epoch + timedelta(seconds=self._world.now_s)

    def sleep(self, seconds: float) -> None:
        """Move the market's time on by ``seconds``."""
        self._world.advance(max(seconds, 0.0))

    def nap(self, seconds: float, most_real_s: float) -> None:  # noqa: ARG002
        """Sleep; this takes no real time."""
        self.sleep(seconds)

    def heard(self, headers: Mapping[str, str] | None) -> None:
        """Follow a remote market's time; one in this process is read directly."""
        if isinstance(self._world, RemoteWorld):
            self._world.heard(headers)


def control(
    url: str, path: str, *, body: bytes | None = None, timeout_s: float = 10.0
) -> dict[str, Any]:
    """Call the sandbox's own endpoint, beside EC2's: GET, or POST if there is a body.

    Raises
    ------
    OSError, HTTPException
        If nothing answers there, or not as HTTP does.
    ValueError
        If the answer is no JSON object.
    """
    # Ignore HTTP_PROXY: a proxy does not reach 127.0.0.1.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    request = urllib.request.Request(url.rstrip("/") + path, data=body)
    request.add_header("Content-Type", "application/json")
    with opener.open(request, timeout=timeout_s) as reply:
        answer = json.loads(reply.read())
    if not isinstance(answer, dict):
        raise ValueError(f"the answer to {path} is no JSON object")
    return answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A sandbox never redirects; a server that does is another program, and is not followed."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow nothing: the redirect itself is the answer."""

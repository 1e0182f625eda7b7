"""The guest's own stamp: what it writes to its console once it is usable, and when that was.

The script in the user data runs when the guest has reached multi-user mode.  It writes one line:
how long the kernel had run then, what the guest's clock showed a little later, whether that clock
was synchronised, and when EC2 says that the instance began (``pendingTime``).  This module reads
the line and turns it into a bracket on our own clock.  The true moment lies within that bracket;
``docs/usable.md`` derives it and states the assumptions.

Pure: nothing here reads a clock, a file or the network.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from spotlib.track import Bracket

# What is assumed of clocks; docs/usable.md says why.
SYNCHRONISED_S = 1.1  # how far a synchronised guest's clock is off at most
SERVERS_S = 0.1  # how far EC2's own clocks are apart at most
DRIFT = 500e-6  # how much faster or slower than UTC a clock runs at most

_WHOLE_S = 1.0  # EC2's times are truncated to whole seconds
_MILLISECOND_S = 1e-3  # and those of a queue to milliseconds
_NARROWINGS = 3  # repetitions: in a narrower bracket, clocks have drifted less from the dates
_LINE = re.compile(
    r"spotlib-usable (?P<uptime>\d{1,7}\.\d{1,9}) (?P<later>\d{1,7}\.\d{1,9}) "
    r"(?P<clock>\d{1,10}\.\d{1,9}) "
    r"(?P<boot>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) "
    r"(?P<pending>-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (?P<synchronised>yes|no|-)\r?\n",
    re.ASCII,
)


@dataclass(frozen=True)
class Stamp:
    """The values in the guest's line; None if the guest could not find one out.

    ``uptime_s`` counts from the start of its kernel.  ``clock_at`` is what its clock showed a
    little later, at ``clock_uptime_s``.  ``pending_at`` is when EC2 says that the instance began,
    truncated to a whole second.
    """

    uptime_s: float
    clock_uptime_s: float
    clock_at: datetime
    boot_id: str
    pending_at: datetime | None
    synchronised: bool | None


@dataclass(frozen=True)
class Dated:
    """A call whose answer has EC2's time, truncated to a second; ``*_s`` are on our clock."""

    asked_s: float
    answered_s: float
    date: datetime


def script_lines() -> str:
    """Return the commands by which a guest writes its line, to run after the dead-man's switch.

    USABLE is the moment of the first command.  The guest then waits some seconds until its clock
    is synchronised, if it is not yet.  It asks whether the clock is synchronised before it reads
    the clock, because a synchronised clock stays so.  Each slow command has a time limit, and
    a command that fails does not prevent the line from being written.
    """
    return (
        "uptime=$(cut -d ' ' -f 1 /proc/uptime)\n"
        "timeout 20 chronyc waitsync 15 0.1 0 1 > /dev/null\n"
        "synchronised=$(timeout 2 timedatectl show -p NTPSynchronized --value)\n"
        "later=$(cut -d ' ' -f 1 /proc/uptime)\n"
        "now=$(date -u +%s.%N)\n"
        "boot=$(cat /proc/sys/kernel/random/boot_id)\n"
        "imds=http://169.254.169.254/latest\n"
        "token=$(curl -s -m 1 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "
        "$imds/api/token)\n"
        'document=$(curl -s -m 1 -H "X-aws-ec2-metadata-token: $token" '
        "$imds/dynamic/instance-identity/document)\n"
        'pending=$(echo "$document" | sed -n \'s/.*"pendingTime" *: *"\\([^"]*\\)".*/\\1/p\')\n'
        'echo "spotlib-usable $uptime $later $now $boot ${pending:--} ${synchronised:--}" '
        "> /dev/console\n"
    )


def read_stamp(console: str) -> Stamp | None:
    """Return the first whole line of a console that is a stamp; None if there is none yet.

    Examples
    --------
    >>> boot_id = "8f0f5a3e-0b1c-4d2e-9f3a-112233445566"
    >>> line = f"spotlib-usable 12.50 14.75 1725148817.25 {boot_id} 2024-09-01T00:00:01Z no"
    >>> read_stamp(f"Welcome to Linux\\r\\n{line}\\r\\n").uptime_s
    12.5
    >>> read_stamp(line) is None  # it may be cut
    True
    """
    found = _LINE.search(console)
    if found is None:
        return None
    pending, said = found["pending"], found["synchronised"]
    try:
        return Stamp(
            uptime_s=float(found["uptime"]),
            clock_uptime_s=float(found["later"]),
            clock_at=datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(found["clock"])),
            boot_id=found["boot"],
            pending_at=None if pending == "-" else datetime.fromisoformat(pending),
            synchronised=None if said == "-" else said == "yes",
        )
    except ValueError:  # no date of this calendar
        return None


def usable_bracket(
    stamp: Stamp,
    *,
    sent_s: float,
    read_s: float,
    launched_at: datetime | None,
    dates: Sequence[Dated],
) -> Bracket:
    """Return when the guest wrote its stamp, on our clock: ``(after_s, by_s]``.

    That was after the request was sent, and before the read that first showed the stamp was
    answered.  The times that EC2 and the guest give narrow this bracket, each with its error.
    A time that contradicts the others is ignored: the guest's clock first.

    Parameters
    ----------
    stamp
        What the guest wrote.
    sent_s, read_s
        When the request was sent, and when the read was answered.
    launched_at
        EC2's LaunchTime of the instance, truncated to a whole second.
    dates
        Calls that EC2 answered in the same region; they relate its time to our clock.
    """
    widest = Bracket(sent_s, read_s)
    begun_at = [each for each in (stamp.pending_at, launched_at) if each is not None]
    ran_s = stamp.uptime_s * (1 - DRIFT)
    began = max((each.timestamp() + ran_s for each in begun_at), default=-math.inf)
    waited_s = stamp.clock_uptime_s - stamp.uptime_s
    shown, error_s = stamp.clock_at.timestamp() - waited_s, SYNCHRONISED_S + DRIFT * waited_s
    spans = [(began, math.inf)]
    if stamp.synchronised:
        spans.insert(0, (max(began, shown - error_s), shown + error_s))
    for earliest, latest in spans:
        found = _on_our_clock(earliest, latest, widest, dates)
        if found is not None:
            return found
    return widest


def notice_bracket(
    event_at: datetime,
    sent_at: datetime,
    *,
    sent_s: float,
    read_s: float,
    dates: Sequence[Dated],
) -> Bracket:
    """Return when the thing that an EC2 event reports happened, on our clock: ``(after_s, by_s]``.

    It happened after the request was sent, and before the read that showed the event was answered.
    It also happened within the second that EC2 names, and before the queue received the event.  If
    the last two limits contradict the first two, only the first two count.

    Parameters
    ----------
    event_at
        EC2's time of the event, truncated to a whole second.
    sent_at
        When the queue received the event, truncated to a millisecond.
    sent_s, read_s
        When the request was sent, and when the read was answered.
    dates
        Calls that EC2 answered in the same region; they relate its time to our clock.
    """
    widest = Bracket(sent_s, read_s)
    earliest = event_at.timestamp()
    latest = min(earliest + _WHOLE_S, sent_at.timestamp() + _MILLISECOND_S)
    return _on_our_clock(earliest, latest, widest, dates) or widest


def _on_our_clock(
    earliest: float, latest: float, widest: Bracket, dates: Sequence[Dated]
) -> Bracket | None:
    """Return when UTC was between the two, within ``widest``; None if it was not within it."""
    after_s, by_s = widest.after_s, widest.by_s
    for _ in range(_NARROWINGS):
        ahead = _utc_ahead_s(dates, after_s, by_s)
        if ahead is None:
            return widest
        after_s = max(widest.after_s, earliest - ahead[1] - SERVERS_S)
        by_s = min(widest.by_s, latest - ahead[0] + SERVERS_S)
        if not after_s < by_s:
            return None
    return Bracket(after_s, by_s)


def _utc_ahead_s(dates: Iterable[Dated], after_s: float, by_s: float) -> tuple[float, float] | None:
    """Return how many seconds EC2's UTC was ahead of our clock within a bracket: least, most.

    EC2 read its clock between the call and its answer.  If dates contradict each other, everything
    that any of them allows remains possible.
    """
    lows, highs = list[float](), list[float]()
    for each in dates:
        apart_s = max(by_s - each.asked_s, each.answered_s - after_s, 0.0)
        moment = each.date.timestamp()
        lows.append(moment - each.answered_s - DRIFT * apart_s)
        highs.append(moment + _WHOLE_S - each.asked_s + DRIFT * apart_s)
    if not lows:
        return None
    low, high = max(lows), min(highs)
    return (low, high) if low <= high else (min(lows), max(highs))

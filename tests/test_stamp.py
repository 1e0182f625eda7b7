"""The bracket of a guest's stamp holds the moment of the truth, whatever the clocks say."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spotlib.stamp import (
    DRIFT,
    SERVERS_S,
    SYNCHRONISED_S,
    Dated,
    Stamp,
    notice_bracket,
    read_stamp,
    usable_bracket,
)
from spotlib.track import Bracket

EPOCH = datetime(2024, 9, 1, tzinfo=UTC)
BOOT_ID = "8f0f5a3e-0b1c-4d2e-9f3a-112233445566"
LINE = f"spotlib-usable 12.50 14.75 1725148817.25 {BOOT_ID} 2024-09-01T00:00:01Z no"
HOUR_S = 3600.0


def utc(seconds):
    return EPOCH + timedelta(seconds=seconds)


@dataclass
class Machine:
    """Our clock: how far EC2's time is ahead of it, and how fast it runs."""

    ahead_s: float = 0.0
    drift: float = 0.0

    def ours(self, true_s):
        """Our clock at a moment of UTC, in seconds since the epoch here."""
        return true_s * (1 + self.drift) - self.ahead_s


def dated(machine, asked, took, share, server_off=0.0):
    """A call sent at a moment of UTC, whose server read its own clock on the way."""
    date = math.floor(asked + share * took + server_off)
    return Dated(machine.ours(asked), machine.ours(asked + took), utc(date))


machines = st.builds(
    Machine,
    ahead_s=st.floats(-2 * HOUR_S, 2 * HOUR_S),
    drift=st.floats(-DRIFT * 0.99, DRIFT * 0.99),
)
calls = st.tuples(
    st.floats(-100.0, 700.0),  # asked, before, during or after the launch
    st.floats(0.001, 6.0),  # took
    st.floats(0.0, 1.0),  # where in it the server read its clock
    st.floats(-SERVERS_S / 2, SERVERS_S / 2),
)


@settings(max_examples=400)
@given(
    machine=machines,
    steps=st.tuples(*(st.floats(0.0, 60.0) for _ in range(4))),
    asked=st.lists(calls, max_size=8),
    synchronised=st.sampled_from([True, False, None]),
    off=st.floats(-1.0, 1.0),
    waited=st.tuples(st.floats(0.0, 30.0), st.floats(-DRIFT * 0.99, DRIFT * 0.99)),
    began=st.tuples(st.booleans(), st.booleans(), st.floats(-SERVERS_S / 2, SERVERS_S / 2)),
)
def test_every_bracket_contains_the_moment(
    *, machine, steps, asked, synchronised, off, waited, began
):
    """Sent, pending, kernel, usable, read: any gaps; a guest's clock is off by up to an hour."""
    in_stamp, in_launch_time, server_off = began
    sent, (to_pending, to_kernel, to_usable, to_read) = 100.0, steps
    pending = sent + to_pending
    kernel = pending + to_kernel
    usable = kernel + to_usable + 0.01
    read = usable + to_read + 0.01
    guest_off = off * (0.95 * SYNCHRONISED_S if synchronised else HOUR_S)
    began_at = utc(math.floor(pending + server_off))
    waited_s, guest_drift = waited
    uptime_s = math.floor((usable - kernel) * (1 + guest_drift) * 100) / 100
    stamp = Stamp(
        uptime_s=uptime_s,
        clock_uptime_s=uptime_s + waited_s * (1 + guest_drift),
        clock_at=utc(usable + waited_s + guest_off),
        boot_id=BOOT_ID,
        pending_at=began_at if in_stamp else None,
        synchronised=synchronised,
    )

    bracket = usable_bracket(
        stamp,
        sent_s=machine.ours(sent),
        read_s=machine.ours(read),
        launched_at=began_at if in_launch_time else None,
        dates=[dated(machine, *each) for each in asked],
    )

    assert bracket.after_s < machine.ours(usable) <= bracket.by_s
    assert bracket.after_s >= machine.ours(sent)
    assert bracket.by_s <= machine.ours(read)


def stamped(*, uptime_s=12.5, clock_s=120.0, pending_s=107.0, synchronised=False):
    pending_at = None if pending_s is None else utc(pending_s)
    return Stamp(uptime_s, uptime_s + 3.0, utc(clock_s + 3.0), BOOT_ID, pending_at, synchronised)


# EC2's dates are read just after a second begins, and just before one ends.
EXACT = [dated(Machine(), 120.001, 0.01, 0.0), dated(Machine(), 120.98, 0.01, 1.0)]


def bracket_of(stamp, *, launched_s=None, dates=EXACT, read_s=140.0):
    launched_at = None if launched_s is None else utc(launched_s)
    return usable_bracket(stamp, sent_s=100.0, read_s=read_s, launched_at=launched_at, dates=dates)


def test_a_synchronised_clock_is_known_to_a_second():
    found = bracket_of(stamped(synchronised=True, pending_s=None))

    assert found.after_s == pytest.approx(120.0 - SYNCHRONISED_S - SERVERS_S, abs=0.06)
    assert found.by_s == pytest.approx(120.0 + SYNCHRONISED_S + SERVERS_S, abs=0.06)


@pytest.mark.parametrize("synchronised", [False, None])
def test_a_clock_that_is_not_synchronised_tells_nothing(synchronised):
    for off_s in (0.0, -HOUR_S, HOUR_S):
        found = bracket_of(stamped(clock_s=120.0 + off_s, synchronised=synchronised))
        assert found.by_s == 140.0
        assert found.after_s == pytest.approx(107.0 + 12.5 - SERVERS_S, abs=0.06)


def test_the_time_since_the_instance_began_bounds_the_moment_from_below():
    assert bracket_of(stamped(pending_s=None)) == Bracket(100.0, 140.0)
    by_launch_time = bracket_of(stamped(pending_s=None), launched_s=107.0)
    assert by_launch_time == bracket_of(stamped())


def test_without_a_date_of_ec2_only_our_own_clock_counts():
    assert bracket_of(stamped(synchronised=True), dates=[]) == Bracket(100.0, 140.0)


def test_a_clock_that_is_wrong_although_it_is_said_to_be_right_is_not_believed():
    for off_s in (-HOUR_S, HOUR_S):
        assert bracket_of(stamped(clock_s=120 + off_s, synchronised=True)) == bracket_of(stamped())


def test_what_contradicts_our_own_clock_is_not_believed():
    assert bracket_of(stamped(pending_s=300.0)) == Bracket(100.0, 140.0)


def test_dates_that_contradict_each_other_leave_all_that_any_of_them_allows():
    wrong = replace(EXACT[0], date=EXACT[0].date + timedelta(seconds=30))
    found = bracket_of(stamped(synchronised=True), dates=[*EXACT, wrong])

    assert found.after_s == 100.0  # 30 s before
    assert found.by_s == pytest.approx(121.0 + SYNCHRONISED_S + SERVERS_S, abs=0.06)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_date_told_long_before_counts_with_the_drift_of_our_clock(sign):
    """Ten minutes before; the guest's clock is as wrong as it may be, to the same side."""
    machine = Machine(drift=sign * DRIFT * 0.9)
    asked, share = (99.9, 1.0) if sign > 0 else (100.0 - 1e-6, 0.0)
    date = dated(machine, asked, 0.1, share)
    off_s = -sign * SYNCHRONISED_S * 0.99
    found = usable_bracket(
        stamped(clock_s=700.0 + off_s, synchronised=True, pending_s=None),
        sent_s=machine.ours(690.0),
        read_s=machine.ours(710.0),
        launched_at=None,
        dates=[date],
    )

    assert found.after_s < machine.ours(700.0) <= found.by_s
    assert found.by_s - found.after_s < 5.0


def test_many_dates_at_random_phases_tell_ec2s_time_better_than_one():
    """One date is known to a second, many to about the time that a call takes."""
    machine = Machine(ahead_s=17.3)
    dates = [dated(machine, 60.0 + 3.07 * number, 0.05, 0.5) for number in range(40)]
    stamp = stamped(synchronised=True, pending_s=None)
    widths = []
    for some in (dates[:1], dates):
        found = usable_bracket(
            stamp,
            sent_s=machine.ours(60.0),
            read_s=machine.ours(160.0),
            launched_at=None,
            dates=some,
        )
        assert found.after_s < machine.ours(120.0) <= found.by_s
        widths.append(found.by_s - found.after_s)
    least_s = 2 * (SYNCHRONISED_S + SERVERS_S)
    assert widths[0] > least_s + 0.9
    assert widths[1] < least_s + 0.25


def test_a_line_is_read_from_a_console_with_other_lines():
    console = f"[ 0.0] Linux version 6.1\r\n[   12.1] cloud-init[1]: x\r\n{LINE}\r\nlogin: "

    assert read_stamp(console) == Stamp(12.5, 14.75, utc(17.25), BOOT_ID, utc(1.0), False)
    assert read_stamp(console.replace("Z no", "Z yes")).synchronised is True
    assert read_stamp(console.replace("Z no", "Z -")).synchronised is None
    assert read_stamp(console.replace("2024-09-01T00:00:01Z", "-")).pending_at is None


def test_of_two_lines_the_first_counts():
    later = LINE.replace("12.50", "99.00")
    assert read_stamp(f"{LINE}\n{later}\n").uptime_s == 12.5


@pytest.mark.parametrize(
    "broken",
    [
        "",
        LINE,  # its end is not posted yet
        LINE[:-1] + "\n",
        LINE.replace("12.50", "12.5[   13.0] random: crng init done") + "\n",
        LINE.replace("2024-09-01", "2024-13-01") + "\n",
        LINE.replace("1725148817.25", "17251488170000.25") + "\n",
        LINE.replace(" 14.75", "") + "\n",
        LINE.replace("no", "perhaps") + "\n",
        LINE.replace("12.50", "") + "\n",
        LINE.replace("12.50", "١٢.50") + "\n",  # digits, but not those that a guest writes
    ],
)
def test_a_line_that_is_not_whole_is_no_stamp(broken):
    assert read_stamp(broken) is None


@given(st.text(), st.text())
def test_no_console_raises(before, after):
    assert read_stamp(before.replace("spotlib", "") + LINE + "\n" + after).uptime_s == 12.5
    read_stamp(before + after)


@settings(max_examples=400)
@given(
    machine=machines,
    steps=st.tuples(st.floats(0.0, 300.0), st.floats(0.0, 30.0), st.floats(0.0, 60.0)),
    asked=st.lists(calls, max_size=8),
    off=st.tuples(*[st.floats(-SERVERS_S / 2, SERVERS_S / 2)] * 2),
)
def test_the_bracket_of_an_event_contains_the_moment(*, machine, steps, asked, off):
    """Sent, reached, taken in by the queue, read: any gaps, and each server has its own clock."""
    sent, (to_reached, to_queue, to_read) = 100.0, steps
    reached = sent + to_reached + 0.01
    queued = reached + to_queue
    read = queued + to_read + 0.01

    bracket = notice_bracket(
        utc(math.floor(reached + off[0])),
        utc(math.floor((queued + off[1]) * 1000) / 1000),
        sent_s=machine.ours(sent),
        read_s=machine.ours(read),
        dates=[dated(machine, *each) for each in asked],
    )

    assert bracket.after_s < machine.ours(reached) <= bracket.by_s
    assert bracket.after_s >= machine.ours(sent)
    assert bracket.by_s <= machine.ours(read)


def event_bracket(*, event_s=120.0, queue_s=120.4, read_s=140.0, dates=EXACT):
    return notice_bracket(utc(event_s), utc(queue_s), sent_s=100.0, read_s=read_s, dates=dates)


def test_an_event_is_known_to_its_second_and_to_when_the_queue_took_it_in():
    late, soon = event_bracket(queue_s=125.0), event_bracket()

    assert late.after_s == soon.after_s == pytest.approx(120.0 - SERVERS_S, abs=0.06)
    assert late.by_s == pytest.approx(121.0 + SERVERS_S, abs=0.06)
    assert soon.by_s == pytest.approx(120.4 + SERVERS_S, abs=0.06)


@pytest.mark.parametrize(
    "contradicting",
    [{"queue_s": 119.0}, {"event_s": 90.0, "queue_s": 90.5}, {"event_s": 150.0, "queue_s": 150.5}],
)
def test_an_event_that_contradicts_itself_or_the_reads_tells_only_that_it_was_read(contradicting):
    assert event_bracket(**contradicting) == Bracket(100.0, 140.0)


def test_without_any_date_an_event_tells_only_that_it_was_read():
    assert event_bracket(dates=[]) == Bracket(100.0, 140.0)

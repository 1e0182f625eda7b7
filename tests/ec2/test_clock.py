"""Clocks: the machine's, a scaled one, and a pretend market's."""

from datetime import UTC, datetime

import pytest

from spotlib.ec2.clock import ScaledClock, SystemClock, VirtualClock
from spotlib.sandbox.world import World


def test_the_machines_clock_never_runs_backwards_and_a_negative_sleep_returns_at_once():
    clock = SystemClock()
    before_s = clock.now_s()

    clock.sleep(-5.0)

    assert 0.0 <= clock.now_s() - before_s < 5.0
    assert clock.utc().tzinfo is UTC


def test_a_scaled_clock_runs_as_many_times_faster_as_it_says():
    began = datetime(2024, 9, 1, tzinfo=UTC)
    clock, real = ScaledClock(speed=1000.0, utc=began), SystemClock()
    real_s, before_s = real.now_s(), clock.now_s()

    clock.sleep(50.0)  # 50 ms

    passed_s = clock.now_s() - before_s
    assert passed_s >= 50.0
    assert passed_s <= 1000.0 * (real.now_s() - real_s)
    assert (clock.utc() - began).total_seconds() >= 50.0


def test_a_virtual_clock_is_moved_by_sleeping_alone():
    world = World(seed=1)
    clock = VirtualClock(world)
    before_s, began = clock.now_s(), clock.utc()

    clock.sleep(600.0)
    clock.sleep(-1.0)

    assert clock.now_s() - before_s == pytest.approx(600.0)
    assert (clock.utc() - began).total_seconds() == pytest.approx(600.0)

"""Clocks: the machine's, a scaled one, and a pretend market's."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.error import HTTPError

import pytest

from spotlib.ec2 import clock as clocks
from spotlib.ec2.clock import RemoteWorld, ScaledClock, SystemClock, VirtualClock, control
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


def test_a_scaled_clock_shows_the_date_of_its_beginning_and_what_has_passed_since(monkeypatch):
    real_s = [100.0]
    monkeypatch.setattr(clocks.time, "clock_gettime", lambda _: real_s[0])
    began = datetime(2024, 9, 1, tzinfo=UTC)
    clock = ScaledClock(speed=10.0, utc=began)
    real_s[0] = 103.0

    assert clock.now_s() == 1030.0
    assert clock.utc() == began + timedelta(seconds=30)


def test_a_virtual_clock_is_moved_by_sleeping_alone():
    world = World(seed=1)
    clock = VirtualClock(world)
    before_s, began = clock.now_s(), clock.utc()

    clock.sleep(600.0)
    clock.sleep(-1.0)

    assert clock.now_s() - before_s == pytest.approx(600.0)
    assert (clock.utc() - began).total_seconds() == pytest.approx(600.0)


@pytest.fixture
def slept_s(monkeypatch):
    """The real seconds that this machine's clock was asked to sleep."""
    slept = []
    monkeypatch.setattr(clocks.time, "sleep", slept.append)
    return slept


def test_a_nap_ends_after_its_seconds_or_after_so_many_real_ones(slept_s):
    real, scaled = SystemClock(), ScaledClock(speed=1000.0, utc=datetime(2024, 9, 1, tzinfo=UTC))
    for clock, seconds, most_real_s in ((real, 5.0, 0.1), (real, 0.05, 0.1)):
        clock.nap(seconds, most_real_s)
    for seconds in (5.0, 500.0, -1.0):
        scaled.nap(seconds, 0.1)
    world = World(seed=1)
    VirtualClock(world).nap(50.0, 0.1)

    assert slept_s == pytest.approx([0.1, 0.05, 0.005, 0.1, 0.0])
    assert world.now_s == 50.0


def test_only_in_virtual_time_do_calls_run_one_after_another():
    assert VirtualClock(World(seed=1)).inline
    assert not SystemClock().inline
    assert not ScaledClock(speed=2.0, utc=datetime(2024, 9, 1, tzinfo=UTC)).inline


def test_real_time_is_not_moved_by_answers():
    clock = ScaledClock(speed=1.0, utc=datetime(2024, 9, 1, tzinfo=UTC))

    clock.heard({"x-sandbox-now": "1e9"})
    clock.heard(None)

    assert clock.now_s() < 1e9


@pytest.fixture
def market():
    """A sandbox of which only its own endpoint answers: its address, and what was asked of it."""
    asked, answers = [], {"/sandbox/now": {"now_s": 7.5}, "/sandbox/advance": {"now_s": 9.5}}
    answers["/list"] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            size = int(self.headers.get("Content-Length", 0))
            kind = self.headers.get("Content-Type")
            asked.append((self.command, self.path, self.rfile.read(size), kind))
            body = json.dumps(answers.get(self.path)).encode()
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/sandbox/now")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_remote_market_is_moved_by_post_and_told_the_time_by_its_answers(market):
    url, asked = market
    world = RemoteWorld(url, datetime(2024, 9, 1, tzinfo=UTC), 1.0, "w-1")
    clock = VirtualClock(world)
    seen = [clock.now_s()]

    clock.sleep(4.0)
    seen.append(clock.now_s())
    for headers in ({"x-sandbox-now": "12.25"}, {"date": "today"}, {"x-sandbox-now": "1"}, None):
        clock.heard(headers)
        seen.append(clock.now_s())

    assert seen == [1.0, 9.5, 12.25, 7.5, 1.0, 7.5]
    now = ("GET", "/sandbox/now", b"", "application/json")
    advanced = ("POST", "/sandbox/advance", b'{"seconds": 4.0}', "application/json")
    assert asked == [advanced, now, now]
    assert world.advance(1.0) == 9.5


def test_its_endpoint_answers_with_an_object_and_sends_nobody_on(market):
    url, asked = market

    with pytest.raises(ValueError, match="the answer to /list is no JSON object"):
        control(url, "/list")
    with pytest.raises(HTTPError, match="302"):
        control(url, "/moved")
    assert len(asked) == 2

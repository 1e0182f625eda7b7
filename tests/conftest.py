"""What all tests share: no connection leaves this machine, and simulated worlds are at hand."""

import gc
import ipaddress
import json
import os
import re
import socket
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from spotlib.collect.cost import PreflightReport
from spotlib.collect.preflight import preflight
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import sandbox_session
from spotlib.ec2.endpoints import connect_in_process
from spotlib.model import ARMS, Stage, Target, plan_launches
from spotlib.record.log import read_lines
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate, World

NANO = Target("t3.nano", "sa-east-1")
ARM = Target("t4g.medium", "ap-northeast-3")
CHAOS = os.environ.get("SPOTLIB_CHAOS") == "1"  # make chaos: everything, not a sample
ARMS_SHARE = 4  # a launch method beside the default one meets every fourth point of make chaos
QUICK = Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=12.0)
_CLIENTS: defaultdict[Any, list[Any]] = defaultdict(list)  # that no connection uses now
JUPYTER_FOLDERS = ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Hypothesis's own settings for CI: no deadline, which a busy machine misses, and the same examples
# in every run.  make chaos draws new ones.
hypothesis.settings.register_profile(
    "chaos", hypothesis.settings.get_profile("ci"), derandomize=False
)
hypothesis.settings.load_profile("chaos" if CHAOS else "ci")


@pytest.fixture(scope="session", autouse=True)
def _own_jupyter_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels share no history and no settings with a person's, nor with another worker's."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in JUPYTER_FOLDERS:
            patch.setenv(name, str(folder / name.lower()))
        yield


@pytest.fixture(autouse=True)
def _stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set realistic keys, and fail the test if a socket connects to any other machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in (*PROXIES, *map(str.upper, PROXIES)):  # they would be asked even for this machine
        monkeypatch.delenv(name, raising=False)
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(autouse=True)
def _clients_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a client of a world in this process once, and use it again when its owner is gone.

    Making one takes longer than a dozen of its calls.  It belongs to one world at a time.
    """
    make = Connection._new_client

    def lent(self: Connection, *what: Any) -> Any:
        hook = self.attach
        is_plain = isinstance(hook, partial) and hook.func is attach
        if not is_plain or self.open_session is not sandbox_session:
            return make(self, *what)
        free = _CLIENTS[what]
        client = free.pop() if free else make(self, *what)
        hook(client)
        weakref.finalize(self, free.append, client)
        return client

    monkeypatch.setattr(Connection, "_new_client", lent)


@pytest.fixture
def _programs_end_with_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the test started is ended with it, also what outlives its parent, also if it fails."""
    from programs import end_all, marked  # noqa: PLC0415 - the processes of kill tests need none

    monkeypatch.setenv("SPOTLIB_TEST", str(tmp_path))
    yield
    end_all(marked(f"SPOTLIB_TEST={tmp_path}"))


@pytest.fixture
def in_process() -> Callable[[World], Connection]:
    """Connect to a world in this process."""
    return lambda world: connect_in_process(world, partial(attach, world))


def scripted(*fates: Fate | None, **settings: Any) -> World:
    """Return a world whose requests have these fates, in the order in which they are made."""
    waiting = iter(fates)
    return World(script=lambda _: next(waiting, QUICK), **settings)


def plan_for(
    connection: Connection,
    *targets: Target,
    n: int = 5,
    events: bool | str = False,
    **plan: Any,
) -> PreflightReport:
    """Return the preflight's report for a plan of ``n`` instances per target."""
    plan.setdefault("wanted", Stage.READY)
    plans = plan_launches(targets or (NANO,), count=n, **plan)
    return preflight(connection, plans, events=events).require()


def unnumbered(text: str) -> str:
    """A log without the numbers of its lines, which notice that a test has edited it."""
    return re.sub(r'"line":\d+,', "", text)


def read_events(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The events of a log as plain JSON, as anybody would read them, and whether it is torn."""
    events, torn = read_lines(path)
    lines = path.read_bytes().split(b"\n")
    return [json.loads(lines[number - 1]) for number, _ in events], torn


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The log file of a test's batch."""
    return tmp_path / "launches" / "20240901T000000Z-abcdef.jsonl"


@pytest.fixture
def sampled(request: pytest.FixtureRequest) -> Callable[..., list[Any]]:
    """``sampled(points, 6)`` is every sixth point; with ``make chaos`` every ``whole``-th.

    The sample begins at point ``start``: tests that begin elsewhere meet more points together.

    With ``make chaos`` the default way to launch meets them all, and each of the others every
    fourth, each from another one on: what differs between them is few calls, and together they
    meet every point twice.
    """
    given = getattr(request.node, "callspec", None)
    arms = [each for each in (given.params.values() if given else ()) if each in ARMS[1:]]

    def sample(items: Sequence[Any], every: int, *, start: int = 0, whole: int = 1) -> list[Any]:
        first, step = (0, whole) if CHAOS else (start, every)
        if CHAOS and arms:
            first, step = whole * (ARMS.index(arms[0]) % ARMS_SHARE), whole * ARMS_SHARE
        chosen = list(items[first::step] or items[:1])
        assert chosen, "nothing was sampled: the test would prove nothing"
        return chosen

    return sample


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``chaos`` unless ``make chaos`` runs them.

    Those that wait for programs come first, in a random order as the others: at the end only short
    tests are left, and no process waits long for another.
    """
    items.sort(key=lambda item: "_programs_end_with_the_test" not in item.fixturenames)
    for item in items:
        if item.get_closest_marker("chaos") and not CHAOS:
            item.add_marker(pytest.mark.skip(reason="only make chaos runs it"))


def pytest_collection_finish() -> None:
    """Look for garbage seldom, and not among what was imported: that takes a fifth of a test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]


os.environ.setdefault("MPLBACKEND", "agg")

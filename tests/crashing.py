"""A batch and every step at which it can die: before and after every call to EC2, and before,
halfway through and after every line of its log.

A death there is either a snapshot (a copy of the world and of the log), or a real kill -9 of a
process that counts the same steps.
"""

import copy
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
from conftest import ARM, CHAOS, NANO, QUICK, plan_for, read_events, scripted

from spotlib.cleanup.sweep import SweepReport, sweep
from spotlib.collect.cost import PreflightReport
from spotlib.collect.rounds import collect_batch
from spotlib.collect.summary import BatchSummary
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect_in_process
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.methods.registry import METHODS
from spotlib.model import ARMS, Stage
from spotlib.record.log import EventLog
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate, World

DEFAULT = "request_spot_instances"
OTHERS = [arm for arm in ARMS if arm != DEFAULT]
# All but the default one with make chaos only: ``test_method_crashes`` has a sample of them.
SAMPLE = [pytest.param(arm, marks=[pytest.mark.chaos] * (":" in arm)) for arm in OTHERS]
EACH_ARM = [DEFAULT, *(pytest.param(arm, marks=pytest.mark.chaos) for arm in OTHERS)]
AT_ONCE = [arm for arm in OTHERS if METHODS[arm.partition(":")[0]].row is INSTANCES]
WHOLE = [arm for arm in AT_ONCE if "all_or_nothing" in arm]
PART = [arm for arm in AT_ONCE if arm not in WHOLE]  # they may launch fewer than were asked for
NAME = "20240901T000000Z-abcdef.jsonl"
REGIONS = (NANO.region, ARM.region)
EMPTY: dict[str, list[str]] = {"requests": [], "instances": []}
STRANGERS = {  # another batch of the same account, which runs on another machine
    "spotlib:batch": "20240831T000000Z-others",
    "spotlib:round": "20240831T000000Z-others/0",
    "spotlib:expires": "2025-01-01T00:00:00+00:00",
}
TIMEOUT_S = 30.0
FAILING_S = 600.0 if CHAOS else 120.0  # how long nothing can be described
PASS_S = 20.0  # of the market's time: a pass in each of two regions, each call up to its time-out
DESCRIBES = ("DescribeInstances", "DescribeSpotInstanceRequests", "DescribeInstanceStatus")
# Ready soon; launched after its request was cancelled; held past the end; held for good.
FATES = (QUICK, Fate(in_flight_s=12.0, boot_s=3.0, ok_s=5.0), Fate(held_s=30.0), Fate(held_s=None))

Visit = Callable[[str], None]


class Died(Exception):
    """The collection ended here with an exception."""


@dataclass(frozen=True)
class Point:
    """A step at which the batch could have died, and what it would have left."""

    name: str
    world: World
    log: bytes
    synced: int  # bytes of the log that survive a loss of power

    def revived(self, folder: Path, *, power_lost: bool = False) -> tuple[World, Path]:
        """Return a copy of its world, and its log in a folder of its own."""
        folder.mkdir(parents=True)
        log = folder / NAME
        log.write_bytes(self.log[: self.synced] if power_lost else self.log)
        return copy.deepcopy(self.world), log


@contextmanager
def visiting(visit: Visit) -> Iterator[None]:
    """While entered, call ``visit`` with the name of each step: every call and every write."""
    call, write = Connection.call, EventLog._write

    def stepped_call(self: Connection, region: str, action: str, /, **given: Any) -> Any:
        visit(f"before {action}")
        try:
            return call(self, region, action, **given)
        finally:
            visit(f"after {action}")

    def stepped_write(self: EventLog, data: bytes) -> None:
        event = data.split(b'"', 4)[3].decode()
        visit(f"before the line of {event}")
        os.write(self._file, data[: len(data) // 2])
        visit(f"within the line of {event}")
        write(self, data[len(data) // 2 :])
        visit(f"after the line of {event}")

    Connection.call, EventLog._write = stepped_call, stepped_write  # type: ignore[method-assign]
    try:
        yield
    finally:
        Connection.call, EventLog._write = call, write  # type: ignore[method-assign]


def short_world(**settings: Any) -> World:
    """Return the world of a short batch: two regions, with requests of others in both."""
    world = scripted(*FATES, **settings)
    move_in(world, crowd(REGIONS, tags=STRANGERS))
    return world


def collect_plain(
    connection: Connection, plans: PreflightReport, *, log: Path, **given: Any
) -> BatchSummary:
    """Collect launches and nothing beside them: no scores, no guard, and a fixed order."""
    plain: dict[str, Any] = {"placement_scores": False, "advisor": False, "guard": False}
    return collect_batch(connection, plans, log=log, **{"seed": 1, **plain, **given})


def short_batch(
    connection: Connection,
    log: Path,
    visit: Visit,
    *,
    arm: str = DEFAULT,
    wanted: Stage = Stage.READY,
    events: bool | str = False,
    **given: Any,
) -> BatchSummary:
    """Collect two plans in two regions, calling ``visit`` at every step."""
    plan: dict[str, Any] = {"n": 2, "timeout_s": TIMEOUT_S, "methods": [arm], "wanted": wanted}
    checked = plan_for(connection, NANO, ARM, events=events, **plan)
    with visiting(visit):
        return collect_plain(connection, checked, log=log, events=events, **given)


def in_process(world: World) -> Connection:
    """Connect to a world in this process."""
    return connect_in_process(world, partial(attach, world))


class Recorder:
    """Keeps a snapshot at every step, or at the steps with these numbers."""

    def __init__(self, world: World, log: Path, steps: Container[int] | None = None) -> None:
        self._world, self._log = world, log
        self._steps, self._seen = steps, 0
        self._synced = 0
        self.points: list[Point] = []

    def __call__(self, name: str) -> None:
        self._seen += 1
        if self._steps is not None and self._seen - 1 not in self._steps:
            return
        data = self._log.read_bytes()
        self.points.append(Point(name, copy.deepcopy(self._world), data, self._synced))

    @contextmanager
    def noting_syncs(self) -> Iterator[None]:
        """While entered, note how much of the log would survive a loss of power."""
        fsync = os.fsync

        def noted(file: int) -> None:
            fsync(file)
            if self._log.exists():
                self._synced = self._log.stat().st_size

        os.fsync = noted
        try:
            yield
        finally:
            os.fsync = fsync


def points_of(
    folder: Path,
    arm: str = DEFAULT,
    world: World | None = None,
    *,
    named: str = "",
    **given: Any,
) -> list[Point]:
    """Return every point of the short batch, launched in this way; or only those of a name."""
    world, log = world or short_world(), folder / NAME
    recorder = Recorder(world, log)

    def visit(name: str) -> None:
        if named in ("", name):
            recorder(name)

    with recorder.noting_syncs():
        short_batch(in_process(world), log, visit, arm=arm, **given)
    return recorder.points


@contextmanager
def full_after(lines: int, *, share: float = 0.5, lost: float = inf) -> Iterator[None]:
    """While entered, the disk takes ``lines`` more lines, then a share of one, then nothing.

    Once so many lines are ``lost`` it has room again.
    """
    write, left = EventLog._write, [lines]

    def filling(self: EventLog, data: bytes) -> None:
        left[0] -= 1
        if left[0] >= 0 or left[0] < -lost:
            write(self, data)
            return
        if left[0] == -1:
            os.write(self._file, data[: int(len(data) * share)])
            self._torn = self._torn or share > 0
        raise OSError(28, "No space left on device")

    EventLog._write = filling  # type: ignore[method-assign]
    try:
        yield
    finally:
        EventLog._write = write  # type: ignore[method-assign]


def swept(world: World, log: Path, **given: Any) -> SweepReport:
    """Sweep with nothing but the log's folder."""
    return sweep(in_process(world), folder=log.parent, regions=REGIONS, **given)


def rows_of(world: World, events: Iterable[dict[str, Any]] = ()) -> dict[str, dict[str, Any]]:
    """Return what happened to each row, by what the log calls it; what was refused is none.

    A row is a spot request, or an instance if it was asked for without one.  The rows of a fleet
    that waits are numbered, and alike: an instance is that of the row that the events gave it.
    """
    shown = [each for each in events if each["event"] == "stage" and each["instance_id"]]
    given = {each["instance_id"]: each["request_id"] for each in shown}
    rows: dict[str, dict[str, Any]] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    for each in world.truth():
        if each["method"] == "create_fleet_request":
            shown_s = each["shown_s"]  # that EC2 has granted it, only its instance shows
            shown_s |= {"granted": shown_s.get("fulfilled", inf)}
            waiting.setdefault(each["fleet_id"], []).append(each)
        elif name := each["request_id" if each["method"] == DEFAULT else "instance_id"]:
            rows[name] = each
    for fleet, units in waiting.items():
        seen = {given[one["instance_id"]]: one for one in units if one["instance_id"] in given}
        others = (one for one in units if one["instance_id"] not in given)
        names = (f"{fleet}#{number}" for number in range(1, len(units) + 1))
        rows |= {name: seen[name] if name in seen else next(others) for name in names}
    return rows


def require_recovered(world: World, log: Path, acknowledged: list[dict[str, Any]]) -> None:
    """Nothing left, nothing of others touched, every row kept, one outcome per instance asked for.

    What was refused has its outcome in the tables, beside what came of the same call.
    """
    events, torn = read_events(log)
    launched = rows_of(world).keys()
    ended = Counter(event["request_id"] for event in events if event["event"] == "outcome")
    assert world.leftovers() == EMPTY
    assert world.touched == []
    assert events[: len(acknowledged)] == acknowledged
    assert ended == Counter(dict.fromkeys(launched, 1))
    if events:  # without any, it died before anything was launched
        assert not torn
        assert [event["confirmed"] for event in events if event["event"] == "clean"][-1]
    assert load_batches(log)["clean"].all()
    launches = load_launches(log)
    assert set(launches["request_id"].dropna()) == launched
    assert launches["outcome"].notna().all()
    runs = launches.groupby(["round", "plan"])
    assert (runs.size() == runs["n"].first()).all()
    load_polls(log)


def costly(world: World) -> dict[str, list[str]]:
    """What is left that costs money, or may: not a template, which only a clean-up deletes."""
    return {kind: ids for kind, ids in world.leftovers().items() if kind != "templates"}


def require_nothing_after(later_s: float, point: Point, folder: Path) -> None:
    """Nothing of it costs money so much later, though nobody has swept."""
    world, _ = point.revived(folder)
    world.advance(later_s)
    assert costly(world) == EMPTY, point.name
    assert world.touched == []


def describing_nothing(world, *actions, from_s=0.0, kind="internal_error"):
    """From then on these actions fail for a while; without any, every describe call."""
    began_s = world.now_s + from_s
    world.faults += [
        Fault(kind=kind, action=action, from_s=began_s, to_s=began_s + FAILING_S)
        for action in actions or DESCRIBES
    ]


def begun_to_end_s(world):
    """When each instance that was ever launched was terminated, by its id."""
    return {
        each["instance_id"]: each["happened_s"]["shutting-down"]
        for each in world.truth()
        if each["instance_id"]
    }


def last_ours_ended_s(world: World) -> float:
    """Return when our last request ended, or our last instance began to end."""
    ends = [each.path[-1][0] for each in world._requests if each.path]  # refused: never open
    ends += [each.instance.ended_s for each in world._requests if each.instance]
    return max(ends, default=0.0)

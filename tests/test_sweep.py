"""A batch that died anywhere is found, closed and its log completed; nothing else is touched."""

import copy
import json
import os
from collections import Counter
from functools import partial

import pytest
from conftest import ARM, NANO, QUICK, plan_for, scripted

from spotlib.close import settle
from spotlib.collect import collect
from spotlib.connection import connect_in_process
from spotlib.log import EventLog, read_events
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate
from spotlib.store import load_batches, load_launches, load_polls
from spotlib.sweep import sweep, unfinished

REGIONS = (NANO.region, ARM.region)
EMPTY = {"requests": [], "instances": []}
STRIDE = int(os.environ.get("SPOTLIB_CRASH_STRIDE", "6"))  # 1 visits every point: make chaos
MUTATING = {"CancelSpotInstanceRequests", "TerminateInstances", "CreateTags"}
FATES = (QUICK, Fate(in_flight_s=12.0, boot_s=3.0, ok_s=5.0), Fate(held_s=30.0), Fate(held_s=None))


class Crashes:
    """Snapshots of the world and the log at every call, before and after it is executed."""

    def __init__(self, world, log):
        self._world, self._log = world, log
        self.points = []

    def __call__(self, asked, _):
        if self._log.exists():
            faults, self._world.faults = self._world.faults, []
            self.points.append((copy.deepcopy(self._world), self._log.read_bytes(), asked.action))
            self._world.faults = faults


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """Every point of a short batch of two plans in two regions at which it could have died."""
    world = scripted(*FATES)
    log = tmp_path_factory.mktemp("crashes") / "20240901T000000Z-abcdef.jsonl"
    connection = connect_in_process(world, partial(attach, world))
    checked = plan_for(connection, NANO, ARM, n=2, timeout_s=30)
    recorder = Crashes(world, log)
    world.faults.append(recorder)
    collect(connection, checked, log=log, seed=1)
    return log.name, recorder.points


def check_after_recovery(world, log, acknowledged):
    """Nothing left, the log readable, every row kept, and one outcome a launched request."""
    events, torn = read_events(log)
    launched = {each["request_id"] for each in world.truth()}
    ended = Counter(event["request_id"] for event in events if event["event"] == "outcome")
    assert world.leftovers() == EMPTY
    assert not torn
    assert events[: len(acknowledged)] == acknowledged
    assert set(ended) == launched
    assert set(ended.values()) <= {1}
    assert [event["confirmed"] for event in events if event["event"] == "clean"][-1]
    assert load_batches(log)["clean"].all()
    assert len(load_launches(log)) >= len(launched)
    load_polls(log)


def test_a_sweep_after_a_crash_at_any_call_leaves_nothing_and_completes_the_log(
    crashes, in_process, tmp_path
):
    name, points = crashes
    assert len(points) > 100
    for number, (snapshot, recorded, action) in enumerate(points[::STRIDE]):
        world = copy.deepcopy(snapshot)
        log = tmp_path / str(number) / name
        log.parent.mkdir()
        log.write_bytes(recorded)
        before, _ = read_events(log)

        report = sweep(in_process(world), folder=log.parent, regions=REGIONS)

        assert report.clean, (number, action, report.lines())
        check_after_recovery(world, log, before)


def test_a_log_torn_in_the_middle_of_any_line_is_completed_all_the_same(
    crashes, in_process, tmp_path
):
    name, points = crashes
    snapshot, recorded, _ = points[-1]
    lines = recorded.splitlines(keepends=True)
    for number in range(1, len(lines), 5):
        world = copy.deepcopy(snapshot)
        log = tmp_path / str(number) / name
        log.parent.mkdir()
        log.write_bytes(b"".join(lines[:number]) + lines[number][: len(lines[number]) // 2])
        before, torn = read_events(log)

        report = sweep(in_process(world), folder=log.parent, regions=REGIONS)

        assert torn
        assert report.clean
        events, torn = read_events(log)
        assert not torn
        assert events[: len(before)] == before
        assert {"event", "torn"} <= next(e for e in events if e["event"] == "recovered").keys()


def test_everything_dead_for_good_leaves_nothing_after_the_bound(crashes):
    """ValidUntil ends the open requests, the switch in each instance ends the rest."""
    _, points = crashes
    for snapshot, _, _ in points[:: len(points) // 12]:
        world = copy.deepcopy(snapshot)
        world.advance(30 + 60 + 10 + 6 * 60 + 120 + 60)  # timeout, margins, switch, boot, shutdown
        assert world.leftovers() == EMPTY


def test_a_second_sweep_finds_nothing_to_do_and_changes_nothing(crashes, in_process, tmp_path):
    name, points = crashes
    world, recorded, _ = copy.deepcopy(points[40])
    log = tmp_path / name
    log.write_bytes(recorded)
    sweep(in_process(world), folder=tmp_path, regions=REGIONS)
    text, calls = log.read_bytes(), len(world.calls)

    report = sweep(in_process(world), folder=tmp_path, regions=REGIONS)

    assert report.clean
    assert log.read_bytes() == text
    assert not MUTATING & {call.action for call in world.calls[calls:]}


def test_a_dry_run_says_what_it_would_do_and_changes_nothing(crashes, in_process, tmp_path):
    name, points = crashes
    world, recorded, _ = copy.deepcopy(points[40])
    log = tmp_path / name
    log.write_bytes(recorded)
    calls = len(world.calls)

    report = sweep(in_process(world), folder=tmp_path, regions=REGIONS, dry_run=True)

    assert [each.verdict for each in report.batches] == ["to be closed"]
    assert not report.clean
    assert not MUTATING & {call.action for call in world.calls[calls:]}
    assert log.read_bytes() == recorded


def orphans(connection, count, *, region=NANO.region, expires="2024-09-01T00:00:00+00:00"):
    """``count`` batches of one request each, whose logs are nowhere."""
    [each] = plan_for(connection, n=1).prepared
    for number in range(count):
        tags = {"spotlib:batch": f"lost-{number:03d}", "spotlib:expires": expires}
        connection.call(
            region,
            "request_spot_instances",
            InstanceCount=1,
            LaunchSpecification={"ImageId": each.image, "InstanceType": "t3.nano"},
            TagSpecifications=[
                {
                    "ResourceType": "spot-instances-request",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )


@pytest.mark.parametrize("count", [1, 100])
def test_orphans_that_have_expired_are_closed_without_any_log(in_process, tmp_path, count):
    world = scripted()
    connection = in_process(world)
    orphans(connection, count)
    world.advance(20)

    report = sweep(connection, folder=tmp_path, regions=[NANO.region], settle_s=5.0)

    assert [each.verdict for each in report.batches] == ["closed"] * count
    assert world.leftovers() == EMPTY


def test_one_that_may_live_elsewhere_is_kept_until_it_has_expired_or_is_named(in_process, tmp_path):
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1, expires="2024-09-01T02:00:00+00:00")
    world.advance(20)

    kept = sweep(connection, folder=tmp_path, regions=[NANO.region])
    alive = world.leftovers()
    named = sweep(connection, folder=tmp_path, regions=[NANO.region], batch_id="lost-000")

    assert "may be running elsewhere" in kept.batches[0].verdict
    assert len(alive["instances"]) == 1
    assert named.batches[0].verdict == "closed"
    assert world.leftovers() == EMPTY


def test_a_live_batch_is_kept(crashes, in_process, tmp_path):
    name, points = crashes
    world, recorded, _ = copy.deepcopy(points[40])
    writer = EventLog(tmp_path / name)
    (tmp_path / name).write_bytes(recorded)

    report = sweep(in_process(world), folder=tmp_path, regions=REGIONS)

    assert report.batches[0].verdict == "kept: its collection is running here"
    assert world.leftovers() != EMPTY
    writer.close()


def test_what_is_not_ours_is_neither_seen_nor_touched(crashes, in_process, tmp_path):
    name, points = crashes
    world, recorded, _ = copy.deepcopy(points[40])
    (tmp_path / name).write_bytes(recorded)
    connection = in_process(world)
    [each] = plan_for(connection, n=1).prepared
    given = {"ImageId": each.image, "InstanceType": "t3.nano"}
    connection.call(NANO.region, "request_spot_instances", LaunchSpecification=given)
    world.advance(10)
    foreign = {each["request_id"] for each in world.truth() if not each["token"]}

    report = sweep(connection, folder=tmp_path, regions=REGIONS)

    assert report.clean
    assert len(foreign) == 1
    left = {each["request_id"]: each["code"] for each in world.truth()}
    assert [left[each] for each in foreign] == ["fulfilled"]
    assert len(world.leftovers()["instances"]) == 1


def test_another_world_is_not_ours_to_close(crashes, in_process, tmp_path):
    name, points = crashes
    _, recorded, _ = points[40]
    (tmp_path / name).write_bytes(recorded)

    report = sweep(in_process(scripted(seed=99)), folder=tmp_path, regions=[NANO.region])

    assert report.batches == ()
    assert len(unfinished(tmp_path)) == 1


def test_what_cannot_be_closed_is_said_with_the_commands(crashes, in_process, tmp_path):
    name, points = crashes
    world, recorded, _ = copy.deepcopy(points[60])
    (tmp_path / name).write_bytes(recorded)
    connection = in_process(world)
    world.denied.add("ec2:TerminateInstances")

    report = sweep(connection, folder=tmp_path, regions=REGIONS, give_up_s=60.0)

    assert not report.clean
    assert "NOT confirmed closed" in report.lines()[0]
    assert "aws ec2 terminate-instances --region" in "\n".join(report.lines())
    assert not load_batches(tmp_path)["clean"].all()


def test_a_region_that_cannot_be_looked_into_is_no_clean_sweep(in_process, tmp_path):
    world = scripted(denied={"ec2:DescribeSpotInstanceRequests"})

    report = sweep(in_process(world), folder=tmp_path, regions=[NANO.region])

    assert not report.clean
    assert "UnauthorizedOperation" in report.errors[NANO.region]


def test_a_recovered_request_that_was_ready_is_ready_and_others_are_abandoned(
    crashes, in_process, tmp_path
):
    name, points = crashes
    ready = json.dumps("ready").encode()
    world, recorded, _ = copy.deepcopy(
        next(point for point in points if b'"stage":' + ready in point[1])
    )
    lines = [line for line in recorded.splitlines(keepends=True) if b'"outcome"' not in line[:20]]
    (tmp_path / name).write_bytes(b"".join(lines))

    sweep(in_process(world), folder=tmp_path, regions=REGIONS)

    launches = load_launches(tmp_path)
    shown = launches["ready_by_s"].notna()
    assert shown.any()
    assert (launches.loc[shown, "outcome"] == "ready").all()
    assert (launches.loc[~shown, "outcome"] == "abandoned").all()
    assert (launches["watched_s"] >= 0).all()


def after_sweep(crashes, in_process, tmp_path, number, **given):
    """The world of one crash point after a sweep of it, long after."""
    name, points = crashes
    snapshot, recorded, _ = points[number]
    world = copy.deepcopy(snapshot)
    log = tmp_path / str(number) / name
    log.parent.mkdir()
    log.write_bytes(recorded)
    sweep(in_process(world), folder=log.parent, regions=REGIONS, **given)
    world.advance(20)
    return world


def test_a_recovery_that_crashes_itself_is_recovered_again(crashes, in_process, tmp_path):
    name, points = crashes
    again = 0
    for number in (20, 60, 90):
        world, recorded, _ = copy.deepcopy(points[number])
        log = tmp_path / str(number) / name
        log.parent.mkdir()
        log.write_bytes(recorded)
        acknowledged, _ = read_events(log)
        recorder = Crashes(world, log)
        world.faults.append(recorder)
        sweep(in_process(world), folder=log.parent, regions=REGIONS)
        for second, half_done, _ in recorder.points[:: 2 * STRIDE]:
            again += 1
            half = tmp_path / f"{number}-{again}" / name
            half.parent.mkdir()
            half.write_bytes(half_done)
            later = copy.deepcopy(second)
            assert sweep(in_process(later), folder=half.parent, regions=REGIONS).clean
            check_after_recovery(later, half, acknowledged)
    assert again > 9


def test_the_harness_has_teeth(crashes, in_process, tmp_path, monkeypatch):
    """Weaker designs leak at these very crash points; the sweep as it is does not."""
    _, points = crashes
    sending = [i for i, (_, _, action) in enumerate(points) if action == "RequestSpotInstances"]
    numbers = sorted({*sending, *range(0, len(points) // 2, 6)})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "c").mkdir()

    nobody = [copy.deepcopy(points[number][0]) for number in numbers]  # finally: kill -9 skips it
    for world in nobody:
        world.advance(5)
    hasty = [
        after_sweep(crashes, in_process, tmp_path / "a", number, settle_s=0.0) for number in numbers
    ]
    sound = [after_sweep(crashes, in_process, tmp_path / "b", number) for number in numbers]
    monkeypatch.setattr("spotlib.sweep.find_ours", lambda *_, **__: [])
    monkeypatch.setattr("spotlib.sweep.settle", _by_known_ids_only)
    by_reply = [after_sweep(crashes, in_process, tmp_path / "c", number) for number in numbers]

    assert any(world.leftovers() != EMPTY for world in nobody)
    assert any(world.leftovers() != EMPTY for world in hasty)
    assert any(world.leftovers() != EMPTY for world in by_reply)
    assert all(world.leftovers() == EMPTY for world in sound)


def _by_known_ids_only(connection, *, batch_id, **given):
    """As if the ids of a reply were all that is known: no tag leads to the others."""
    return settle(connection, batch_id=f"not-{batch_id}", **given)

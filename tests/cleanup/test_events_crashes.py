"""A batch that reads EC2's own events leaves nothing behind, queues and rules too.

Others have instances in the account, and the events of these are never in a log.
"""

import re

import pytest
from conftest import read_events, scripted
from crashing import (
    EMPTY,
    FATES,
    NAME,
    REGIONS,
    STRANGERS,
    in_process,
    points_of,
    require_recovered,
    swept,
)

from spotlib.cleanup.sweep import sweep
from spotlib.ec2.events import EVENTS, make
from spotlib.ec2.patience import Patient
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import Delivery, Fate

BATCH = NAME.removesuffix(".jsonl")
BUSY = Delivery(foreign_per_hour=2000.0, lost_share=0.05, doubled_share=0.2)
CALLS = ("rule", "queue", "target", "message")


def busy_world():
    """The world of the short batch, in which others launch and end all the time."""
    world = scripted(*FATES, events=BUSY)
    move_in(world, crowd(REGIONS, tags=STRANGERS))
    return world


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Every point at which the short batch can die that reads EC2's events."""
    folder = tmp_path_factory.mktemp("points")
    return points_of(folder, world=busy_world(), events=True, settle_s=5.0)


def test_a_batch_that_dies_at_any_step_leaves_no_queue_and_no_rule(points, tmp_path, sampled):
    near = [each for each in points if any(word in each.name for word in CALLS[:3])]
    left = set()
    for number, point in enumerate([*sampled(near, 5), *sampled(points, 120)]):
        world, log = point.revived(tmp_path / str(number), power_lost=number % 2 == 1)
        acknowledged, _ = read_events(log)
        left |= world.leftovers().keys()

        assert swept(world, log).clean, point.name

        require_recovered(world, log, acknowledged)
    assert {"queues", "rules"} <= left  # else nothing was shown


def test_the_events_of_others_are_in_no_log_wherever_the_batch_dies(points):
    last = points[-1]
    ours = {each["instance_id"] for each in last.world.truth()}
    asked = {each.name for each in points}
    shown = set(re.findall(r'"(i-0[0-9a-f]{16})"', last.log.decode()))

    assert "after receive_message" in asked
    assert sum(account.foreign_events for account in last.world.regions.values()) > 20
    assert shown
    assert shown <= ours  # each log of a point is a beginning of the last one
    assert all(last.log.startswith(each.log) for each in points)


@pytest.mark.parametrize("named", [True, False], ids=["by its name", "of any name"])
def test_a_sweep_without_the_log_finds_queue_and_rule(points, tmp_path, named):
    point = next(each for each in points if each.name == "after put_targets")
    world, log = point.revived(tmp_path / "one")
    log.unlink()
    assert world.leftovers().keys() == {*EMPTY, "queues", "rules"}
    world.advance(0.0 if named else 7200.0)  # one that is young may be running elsewhere

    report = sweep(
        in_process(world), folder=None, batch_id=BATCH if named else None, regions=REGIONS
    )

    assert report.clean, report.lines()
    assert world.leftovers() == EMPTY


def test_a_young_queue_of_a_batch_that_may_run_elsewhere_is_kept(points, tmp_path):
    point = next(each for each in points if each.name == "after put_targets")
    world, log = point.revived(tmp_path / "one")
    log.unlink()

    sweep(in_process(world), folder=None, regions=REGIONS)

    assert world.leftovers().keys() == {*EMPTY, "queues", "rules"}


def test_what_has_our_name_but_not_our_tag_is_left_alone():
    world = scripted()
    connection = in_process(world)
    region = REGIONS[0]
    name = "spotlib-of-somebody"
    connection.call(region, "create_queue", service="sqs", QueueName=name)
    pattern = '{"source": ["aws.ec2"]}'
    connection.call(region, "put_rule", service="events", Name=name, EventPattern=pattern)

    assert sweep(connection, folder=None, regions=REGIONS).clean
    assert sweep(connection, folder=None, batch_id="of-somebody", regions=REGIONS)

    assert world.leftovers().keys() == {*EMPTY, "queues", "rules"}


def test_a_deleted_queue_that_is_still_listed_is_not_waited_for():
    world = scripted(events=Delivery(listed_most_s=60.0))
    connection = in_process(world)
    region = REGIONS[0]
    make(Patient(connection), region, BATCH, expires_at=world.epoch)
    EVENTS.end(connection, region, [f"spotlib-{BATCH}"])
    listed = connection.call(region, "list_queues", service="sqs", QueueNamePrefix="spotlib-")
    assert listed["QueueUrls"]  # else nothing is shown

    assert EVENTS.survey(connection, region, batch_id=BATCH, ids=()).quiet
    assert not [*EVENTS.find_ours(connection, region, None)]


def test_what_cannot_be_deleted_is_not_called_clean_and_the_commands_are_named(points, tmp_path):
    point = next(each for each in points if each.name == "after put_targets")
    world, log = point.revived(tmp_path / "one")
    world.faults.append(Fault(kind="internal_error", action="DeleteQueue"))

    report = swept(world, log, give_up_s=60.0)

    assert not report.clean
    commands = "\n".join(report.lines())
    for words in ("events remove-targets", "events delete-rule", "sqs delete-queue"):
        assert f"aws {words} --region" in commands
    assert f"spotlib-{BATCH}" in commands


@pytest.mark.parametrize("late_s", [0.0, 86_400.0], ids=["at once", "a day after its expiry"])
@pytest.mark.parametrize("name", ["after put_targets", "after request_spot_instances"])
def test_queues_that_may_be_there_are_named_where_nothing_can_be_seen_nor_deleted(
    points, tmp_path, late_s, name
):
    """Also if nothing was launched, so that nothing of the batch expires."""
    point = next(each for each in points if each.name == name)
    world, log = point.revived(tmp_path / "one")
    world.advance(late_s)
    for action in ("GetQueueUrl", "ListQueues", "DeleteQueue"):
        world.faults.append(Fault(kind="internal_error", action=action))

    report = swept(world, log, give_up_s=60.0)

    assert not report.clean
    assert f"--queue-name spotlib-{BATCH} " in "\n".join(report.lines())


@pytest.mark.parametrize("denied", ["sqs:ListQueues", "events:ListRules"])
def test_a_sweep_that_may_not_look_for_queues_says_so_and_does_the_rest(tmp_path, denied):
    world = scripted(*[Fate(held_s=None), Fate(ok_s=None)] * 2, denied={denied})
    died = points_of(tmp_path, world=world, named="before the line of requested")[-1]
    world, log = died.revived(tmp_path / "one")
    world.advance(20.0)
    left = world.leftovers()
    assert left["requests"]
    assert left["instances"]  # else nothing was shown

    report = swept(world, log)

    assert report.clean
    [note] = report.notes
    assert note.startswith(
        "queues and rules of EC2's own events were not all looked for (AccessDenied"
    )
    assert "spotlib policy --events" in note
    assert world.leftovers() == EMPTY


def test_a_queue_whose_tags_may_not_be_read_keeps_no_other_from_being_found(points, tmp_path):
    """It has our name, and comes first."""
    point = next(each for each in points if each.name == "after put_targets")
    world, log = point.revived(tmp_path / "one")
    log.unlink()
    world.advance(7200.0)
    connection, name = in_process(world), "spotlib-1-of-somebody"
    region = next(region for region in REGIONS if world.region(region).queues)
    connection.call(region, "create_queue", service="sqs", QueueName=name)

    def denied(call, _):
        if call.action == "ListQueueTags" and call.params["QueueUrl"].endswith(name):
            raise ApiError("AccessDenied", "You may not.", 403)

    world.faults.append(denied)
    report = sweep(connection, folder=None, regions=REGIONS)

    assert f"{BATCH}: closed" in report.lines()
    assert "were not all looked for (AccessDenied)" in report.notes[0]
    assert [*world.region(region).queues] == [name]
    assert not world.region(region).rules


@pytest.mark.parametrize("batch_id", ["a.b", "a" * 80])
def test_no_queue_is_asked_for_by_a_name_that_none_can_have(batch_id):
    world = scripted()
    report = sweep(in_process(world), folder=None, batch_id=batch_id, regions=REGIONS)

    assert "GetQueueUrl" not in {each.action for each in world.calls}
    assert report.notes == ()


def test_a_batch_that_made_queues_is_not_clean_where_they_cannot_be_looked_for(points, tmp_path):
    point = next(each for each in points if each.name == "after put_targets")
    world, log = point.revived(tmp_path / "one")

    def denied(call, _):
        if call.action == "GetQueueUrl":
            raise ApiError("AccessDenied", "You may not.", 403)

    world.faults.append(denied)
    report = swept(world, log, give_up_s=60.0)

    assert not report.clean
    assert "get_queue_url" in " ".join(report.lines())


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A batch that died in its first round, with EC2's events and without: another is to come."""
    name, rounds = "before the line of requested", {"rounds": 2, "every_s": 600.0}
    return {
        events: points_of(
            tmp_path_factory.mktemp("launched"),
            world=scripted(*[Fate(ok_s=None)] * 4),
            named=name,
            events=events,
            **rounds,
        )[1]  # both of its plans are launched
        for events in (False, True)
    }


@pytest.mark.parametrize("kind", ["internal_error", "throttled"])
@pytest.mark.parametrize("action", ["ListQueues", "ListRules"])
@pytest.mark.parametrize("events", [False, True])
def test_an_error_of_the_other_services_keeps_no_instance_from_being_ended(
    launched, tmp_path, events, action, kind
):
    """Of a batch whose log is lost; that queues may be left is said, and the next sweep sees it."""
    world, log = launched[events].revived(tmp_path / "one")
    log.unlink()
    world.advance(120.0)  # its requests have expired
    assert world.leftovers()["instances"]
    world.faults.append(Fault(kind=kind, action=action))

    report = swept(world, log, give_up_s=60.0)

    assert not world.leftovers()["instances"]
    assert not report.clean
    assert set(report.errors) == set(REGIONS)


def test_a_queue_that_outlives_the_instances_keeps_none_of_them_alive(launched, tmp_path):
    """It carries the end of all rounds, the instances that of their own."""
    world, log = launched[True].revived(tmp_path / "one")
    log.unlink()
    world.advance(120.0)
    assert world.leftovers()["instances"]

    assert swept(world, log).clean
    assert world.leftovers() == EMPTY

"""Clean-up ends what it knows before it looks, whatever fails, and never what is a stranger's."""

from collections import Counter

import pytest
from conftest import ARM, NANO, QUICK, plan_for, read_events, scripted
from crashing import (
    DESCRIBES,
    EMPTY,
    FAILING_S,
    NAME,
    PASS_S,
    REGIONS,
    STRANGERS,
    TIMEOUT_S,
    begun_to_end_s,
    describing_nothing,
    in_process,
    require_recovered,
    short_batch,
    short_world,
)

from spotlib.cleanup.close import release, settle
from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import unfinished
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import Connection
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.spot_requests import SPOT_REQUESTS
from spotlib.ec2.survey import survey
from spotlib.model import Target
from spotlib.sandbox import filters, instance_api, spot_api
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.world import Fate


@pytest.mark.parametrize("kind", ["internal_error", "black_hole", "malformed"])
@pytest.mark.parametrize("actions", [("DescribeInstances",), DESCRIBES], ids=["instances", "all"])
def test_what_polls_have_shown_is_terminated_at_once_while_nothing_is_described(
    tmp_path, actions, kind
):
    """From the middle of a batch on: it ends in time, is confirmed later, and costs no minute."""
    world, log = scripted(*[Fate(boot_s=2.0, ok_s=None)] * 4), tmp_path / NAME
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2, timeout_s=60)
    describing_nothing(world, *actions, from_s=20.0, kind=kind)
    ends_s = world.now_s + 60.0

    summary = collect_batch(connection, checked, log=log, seed=1, placement_scores=False)

    assert summary.outcomes == {"timed_out": 4}
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    assert len(begun_to_end_s(world)) == 4
    assert max(begun_to_end_s(world).values()) < ends_s + PASS_S
    released = [each for each in read_events(log)[0] if each["event"] == "release"]
    first = [each for each in released if each["error"]][:2]  # of both runs
    assert {name for each in first for name in each["terminated"]} == set(begun_to_end_s(world))
    assert world.now_s > ends_s + FAILING_S - 40  # confirmed only by a complete survey


def test_what_only_failed_polls_have_shown_is_terminated_at_once_too(tmp_path):
    """From the first poll on no instance is described; the requests name theirs."""
    world, log = short_world(), tmp_path / NAME
    describing_nothing(world, "DescribeInstances")
    began_s = world.now_s

    summary = short_batch(in_process(world), log, lambda _: None)

    assert summary.outcomes == {"timed_out": 4}
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    assert max(begun_to_end_s(world).values()) < began_s + TIMEOUT_S + 2 * PASS_S
    assert world.touched == []
    assert summary.spent_at_most_usd > 0  # they ran, though no complete poll showed it


def test_a_late_launch_that_only_its_request_names_is_terminated_too(tmp_path):
    """It was in flight at the end of its plan, so no poll has shown it."""
    world, log = scripted(Fate(in_flight_s=40.0)), tmp_path / NAME
    connection = in_process(world)
    checked = plan_for(connection, NANO, n=1, timeout_s=TIMEOUT_S)
    describing_nothing(world, "DescribeInstances")

    summary = collect_batch(connection, checked, log=log, seed=1, placement_scores=False)

    [launch] = [each["happened_s"] for each in world.truth()]
    assert summary.cleaned.confirmed
    assert launch["cancelled"] < launch["fulfilled"]
    assert launch["shutting-down"] < launch["fulfilled"] + PASS_S


def test_minutes_without_any_described_instance_at_any_time_of_a_batch_leave_nothing(
    tmp_path, sampled
):
    """Each instance ends soon after its plan, or after a launch that was late."""
    for start_s in sampled(range(0, 66, 2), 11):
        world, log = short_world(), tmp_path / str(start_s) / NAME
        plan_for(in_process(world), NANO, ARM, n=2)
        describing_nothing(world, "DescribeInstances", from_s=float(start_s))

        summary = short_batch(in_process(world), log, lambda _: None)

        happened_s = {each["instance_id"]: each["happened_s"] for each in world.truth()}
        assert summary.cleaned.confirmed, start_s
        require_recovered(world, log, read_events(log)[0])
        for name, ended_s in begun_to_end_s(world).items():
            launch = happened_s[name]
            due_s = max(launch["fulfilled"], launch["accepted"] + TIMEOUT_S)
            assert ended_s < due_s + PASS_S, (start_s, name)


@pytest.mark.parametrize("hides", ["the filter by request", "every filter, for two minutes"])
def test_an_instance_that_its_request_names_and_no_answer_shows_is_terminated(
    tmp_path, monkeypatch, hides
):
    """It is launched after its plan has ended.  EC2 answers without it, and without an error."""
    world, log = scripted(Fate(in_flight_s=12.0, boot_s=3.0, ok_s=5.0)), tmp_path / NAME
    call = Connection.call

    def hiding(self, region, action, /, **given):
        reply = call(self, region, action, **given)
        by_request = [each["Name"] for each in given.get("Filters", [])] != ["instance-id"]
        late = hides.startswith("every") and world.now_s < until_s
        if action == "describe_instances" and (late or by_request):
            reply["Reservations"] = []
        return reply

    connection = in_process(world)
    checked = plan_for(connection, NANO, n=1, timeout_s=10.0)
    until_s = world.now_s + 120.0
    monkeypatch.setattr(Connection, "call", hiding)

    summary = collect_batch(connection, checked, log=log, seed=1, placement_scores=False)

    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY


def test_a_request_whose_instance_has_ended_and_is_forgotten_is_quiet(tmp_path):
    """EC2 lists an ended instance for an hour, and its request for four."""
    world, log = scripted(QUICK), tmp_path / NAME
    connection = in_process(world)
    checked = plan_for(connection, NANO, n=1)
    collect_batch(connection, checked, log=log, seed=1, placement_scores=False)
    shown = survey(connection, NANO.region, resources=SOME, batch_id=log.stem)

    world.advance(2 * 3600.0)
    found = survey(connection, NANO.region, resources=SOME, batch_id=log.stem)

    assert len(shown.instances) == 1
    assert (len(found.requests), found.instances) == (1, {})
    assert found.quiet


def dead_batch(world, log, *, after_s=12.0):
    """A batch in two regions whose collector is gone, with instances that its log names."""
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2)

    def die(progress):
        if progress.elapsed_s > after_s:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spotlib.collect.rounds.finish", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            collect_batch(connection, checked, log=log, seed=1, guard=False, on_poll=die)
    [dead] = unfinished(log.parent)
    return connection, dead


@pytest.mark.parametrize("kind", ["internal_error", "black_hole"])
def test_a_sweep_terminates_what_the_log_names_while_nothing_at_all_is_described(tmp_path, kind):
    """It cannot even list what is ours; what was seen before is enough to begin with."""
    world, log = scripted(*[Fate(boot_s=2.0, ok_s=None)] * 4), tmp_path / NAME
    connection, dead = dead_batch(world, log)
    known = {name for some in dead.alive_instances.values() for name in some}
    describing_nothing(world, kind=kind)
    died_s = world.now_s

    report = sweep(connection, folder=tmp_path, regions=REGIONS, batch_id=log.stem)

    assert len(known) == 4
    assert set(begun_to_end_s(world)) == known
    assert max(begun_to_end_s(world).values()) < died_s + 2 * PASS_S
    assert world.leftovers() == EMPTY
    assert [each.verdict for each in report.batches] == ["closed"]


def test_instances_that_only_failed_polls_have_shown_are_known_to_a_sweep(tmp_path):
    world, log = scripted(*[Fate(boot_s=2.0, ok_s=None)] * 4), tmp_path / NAME
    describing_nothing(world, "DescribeInstances")

    _, dead = dead_batch(world, log)

    assert {name for some in dead.alive_instances.values() for name in some} == set(
        world.leftovers()["instances"]
    )


SOME = (SPOT_REQUESTS, INSTANCES)


@pytest.fixture
def launched():
    """Two regions with two running instances each: their ids, and those of their requests."""
    world = scripted(*[QUICK] * 4)
    connection = in_process(world)
    for region in REGIONS:
        [each] = plan_for(connection, Target("t3.nano", region), n=2).prepared
        connection.call(
            region,
            "request_spot_instances",
            InstanceCount=2,
            LaunchSpecification={"ImageId": each.image, "InstanceType": "t3.nano"},
        )
    world.advance(20.0)
    requests = {region: [] for region in REGIONS}
    instances = {region: [] for region in REGIONS}
    for each in world.truth():
        requests[each["region"]].append(each["request_id"])
        instances[each["region"]].append(each["instance_id"])
    return world, connection, requests, instances


def settled(launched, **given):
    """Settle what was launched; nothing is written down."""
    _, connection, requests, instances = launched
    given |= {"request_ids": requests, "alive": instances, "resources": SOME}
    return settle(connection, batch_id="b", note=lambda _: None, **given)


@pytest.mark.parametrize("action", ["CancelSpotInstanceRequests", *DESCRIBES[:2]])
def test_a_step_that_fails_keeps_no_other_from_being_tried(launched, action):
    world, connection, requests, instances = launched
    region = REGIONS[0]
    world.faults.append(Fault(kind="fail", action=action, code="UnauthorizedOperation"))

    passed = release(
        connection,
        region,
        open_ids=requests[region],
        live_ids=instances[region],
        request_ids=requests[region],
    )

    assert set(passed.terminated) == set(instances[region])
    assert (passed.cancelled == ()) is (action == "CancelSpotInstanceRequests")
    assert "UnauthorizedOperation" in passed.error
    assert set(world.leftovers()["instances"]) == set(instances[REGIONS[1]])


def test_a_region_that_fails_keeps_no_other_from_being_closed(launched):
    world, _, _, instances = launched
    world.faults.append(Fault(kind="internal_error", region=min(REGIONS)))

    cleaned = settled(launched, give_up_s=60.0)

    assert not cleaned.confirmed
    assert set(world.leftovers()["instances"]) == set(instances[min(REGIONS)])
    assert set(cleaned.live_instances[min(REGIONS)]) == set(instances[min(REGIONS)])
    assert cleaned.live_instances[max(REGIONS)] == []
    assert list(cleaned.errors) == [min(REGIONS)]


ONCE = {"CancelSpotInstanceRequests": 2, "TerminateInstances": 2}  # in each of two regions


def changes(world, since):
    """How often each call that changes something was made, from the call with this number on."""
    return Counter(each.action for each in world.calls[since:] if each.mutating)


def test_what_was_ended_before_is_not_asked_for_again(launched):
    """One cancel and one terminate a region; then only surveys, until it is confirmed."""
    world, _, requests, instances = launched
    began = len(world.calls)
    ended = {each for some in (*requests.values(), *instances.values()) for each in some}

    cleaned = settled(launched)
    first, middle = changes(world, began), len(world.calls)
    again = settled(launched, ended=ended)

    assert cleaned.confirmed
    assert first == ONCE
    assert again.confirmed
    assert changes(world, middle) == {}


def test_what_was_ended_is_not_asked_for_again_while_nothing_can_be_described(launched):
    world = launched[0]
    describing_nothing(world)
    began = len(world.calls)

    assert settled(launched).confirmed
    assert changes(world, began) == ONCE


def ignore_filters(monkeypatch):
    """The endpoint answers a describe call with all there is, whatever its filters."""
    for module in (filters, instance_api, spot_api):
        monkeypatch.setattr(module, "filters_of", lambda _: {})


def test_an_endpoint_that_ignores_filters_makes_us_count_and_end_no_stranger(tmp_path, monkeypatch):
    """Nine instances and more of others are listed with ours, on demand and spot."""
    world, log = scripted(QUICK, QUICK, Fate(held_s=None), QUICK), tmp_path / NAME
    strangers = move_in(world, [*crowd(REGIONS, tags=STRANGERS), *crowd(REGIONS)])
    before = [(each.path[:], dict(each.tags)) for each in strangers]
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2, timeout_s=60)
    ignore_filters(monkeypatch)

    summary = collect_batch(
        connection, checked, log=log, seed=1, placement_scores=False, guard=False
    )

    assert summary.outcomes == {"ready": 3, "timed_out": 1}
    assert summary.cleaned.confirmed
    require_recovered(world, log, read_events(log)[0])
    assert [(each.path, each.tags) for each in strangers] == before


def tagged(connection, region, batch_id=None):
    """The batches of which something is found by tag, whatever it is."""
    found = [each for kind in SOME for each in kind.find_ours(connection, region, batch_id)]
    return {each.batch_id for each in found}


def test_a_sweep_of_an_endpoint_that_ignores_filters_ends_no_stranger(tmp_path, monkeypatch):
    world, log = scripted(*[Fate(boot_s=2.0, ok_s=None)] * 4), tmp_path / NAME
    connection, _ = dead_batch(world, log)
    move_in(world, crowd(REGIONS, tags=STRANGERS))
    acknowledged, _ = read_events(log)
    ignore_filters(monkeypatch)

    report = sweep(connection, folder=tmp_path, regions=REGIONS, batch_id=log.stem)

    assert [(each.batch_id, each.verdict) for each in report.batches] == [(log.stem, "closed")]
    require_recovered(world, log, acknowledged)
    for region in REGIONS:
        assert tagged(connection, region) == {
            log.stem,
            STRANGERS["spotlib:batch"],
        }
        assert tagged(connection, region, log.stem) == {log.stem}
        found = survey(connection, region, resources=SOME, batch_id="nobody")
        assert (found.requests, found.instances) == ({}, {})

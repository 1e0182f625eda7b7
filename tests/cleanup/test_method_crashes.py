"""Each launch method beside the default one: a crash at any step leaves nothing behind.

A quick sample of what ``make chaos`` runs in full over every method in ``test_crashes``.
"""

import pytest
from conftest import QUICK, read_events, scripted
from crashing import (
    DEFAULT,
    EMPTY,
    PART,
    REGIONS,
    SAMPLE,
    STRANGERS,
    describing_nothing,
    in_process,
    points_of,
    require_nothing_after,
    require_recovered,
    short_batch,
    short_world,
    swept,
)
from test_close import ignore_filters
from test_crashes import BOUND_S

from spotlib.cleanup.one_batch import CLOSED
from spotlib.ec2.methods.registry import METHODS
from spotlib.record.tables import load_launches
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.world import Fate, Reads

HELD = Fate(held_s=None)
MAKING = ("run_instances", "create_fleet", "delete_fleets", "create_launch_template")


# What a purchase changes is over once it is launched: make chaos runs both of each method.


@pytest.fixture(scope="module", params=SAMPLE)
def points(tmp_path_factory, request):
    """Every point at which a short batch can die that launches in this way."""
    return points_of(tmp_path_factory.mktemp("points"), request.param)


def test_a_crash_at_any_step_leaves_nothing_and_one_outcome_per_instance(points, tmp_path, sampled):
    """Also between a call and its answer: what it launched is found by its tags."""
    near = [each for each in points if any(word in each.name for word in MAKING)]
    for number, point in enumerate([*near, *sampled(points, 96, start=5)]):
        world, log = point.revived(tmp_path / str(number), power_lost=number % 2 == 1)
        acknowledged, _ = read_events(log)

        report = swept(world, log)

        assert report.clean, (point.name, report.lines())
        require_recovered(world, log, acknowledged)


def test_everything_dead_for_good_leaves_nothing_after_the_bound(points, tmp_path, sampled):
    """Nobody sweeps: the switch in each instance terminates it."""
    for number, point in enumerate(sampled(points, 20)):
        require_nothing_after(BOUND_S, point, tmp_path / str(number))


def test_a_sweep_long_after_any_crash_finds_what_is_left(points, tmp_path, sampled):
    """EC2 lists an ended instance for an hour, and that must not keep a sweep waiting."""
    for later_s in (2 * 3600.0, 5 * 3600.0):
        for number, point in enumerate(sampled(points, 60)):
            world, log = point.revived(tmp_path / f"{later_s:g}-{number}")
            world.advance(later_s)

            assert swept(world, log).clean, point.name
            assert world.leftovers() == EMPTY


@pytest.mark.parametrize("arm", PART)
def test_a_lost_answer_that_gave_a_part_has_an_outcome_for_the_other_part_too(tmp_path, arm):
    """What came is found by its tags; why the rest did not come is not known."""
    action = METHODS[arm.partition(":")[0]].action
    world = scripted(QUICK, HELD, QUICK, HELD)
    point, *_ = points_of(tmp_path / "points", arm, world, named=f"after {action}")
    world, log = point.revived(tmp_path / "died")

    assert swept(world, log).clean

    launches = load_launches(log)
    assert sorted(launches["outcome"]) == ["abandoned", "refused"]
    assert launches["kind"].dropna().tolist() == ["unknown"]
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("arm", [DEFAULT, "run_instances"])
@pytest.mark.parametrize("hidden", ["fails to list it", "lists it late"])
def test_what_a_lost_answer_gave_is_recorded_when_it_is_listed_at_last(tmp_path, arm, hidden):
    """A sweep begins before EC2 lists anything of it; its clean-up ends it all the same."""
    reads = Reads(unknown_s=20.0, filter_lag_s=20.0) if hidden == "lists it late" else Reads()
    action, world = METHODS[arm].action, scripted(*[QUICK] * 4, reads=reads)
    point, *_ = points_of(tmp_path / "points", arm, world, named=f"after {action}")
    world, log = point.revived(tmp_path / "died")
    acknowledged, _ = read_events(log)
    if hidden == "fails to list it":
        describing_nothing(world)

    report = swept(world, log)

    assert [each.verdict for each in report.batches] == [CLOSED]
    assert len(world.truth()) == 2
    require_recovered(world, log, acknowledged)


@pytest.mark.parametrize("arm", SAMPLE)
def test_an_endpoint_that_ignores_filters_makes_us_end_no_stranger(log, monkeypatch, arm):
    """What it lists beside ours neither carries our tag nor was named to us."""
    world = short_world()
    strangers = move_in(world, [*crowd(REGIONS, tags=STRANGERS), *crowd(REGIONS)])
    before = [(each.path[:], dict(each.tags)) for each in strangers]
    ignore_filters(monkeypatch)

    summary = short_batch(in_process(world), log, lambda _: None, arm=arm)

    assert summary.cleaned.confirmed
    require_recovered(world, log, read_events(log)[0])
    assert [(each.path, each.tags) for each in strangers] == before

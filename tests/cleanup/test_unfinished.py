"""What a log that does not end clean says of its batch, from records that are made up."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from spotlib.cleanup.unfinished import Unfinished
from spotlib.ec2.events import EVENTS, name_of
from spotlib.ec2.instances import INSTANCES

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HERE, THERE = "sa-east-1", "eu-west-1"


def run_of(region=HERE, method="request_spot_instances", valid_s=0.0):
    until = NOON + timedelta(seconds=valid_s)
    return SimpleNamespace(intent=SimpleNamespace(region=region, method=method, valid_until=until))


def request_of(run, instance_id=None, *shown):
    stages = [SimpleNamespace(instance_id=each) for each in shown]
    return SimpleNamespace(run=run, instance_id=instance_id, stages=stages, outcome=None)


def record_of(*, events=(), queue=None, simulated=False, batch_rounds=3, every_s=900.0, **known):
    batch = SimpleNamespace(
        **{"batch_id": "b", "rounds": batch_rounds, "every_s": every_s, "started_at": NOON},
        events=events,
        **{
            "queue": queue,
            "host": SimpleNamespace(pid=1),
            "simulated": simulated,
            "endpoint": "x",
            "profile": None,
        },
    )
    usual = {"regions": [HERE], "requests": {}, "runs": {}, "releases": [], "tagged": []}
    usual |= {"over": frozenset(), "writer_pid": 1, "bound_usd": lambda rounds: 0.5 * rounds}
    rounds = {number for number, _ in known.get("runs", ())}
    usual |= {"begun": len(rounds), "last_round": max(rounds, default=-1) + 1}
    return SimpleNamespace(batch=batch, **usual | known)


def unfinished_of(*, alive=True, **known):
    return Unfinished(Path("b.jsonl"), alive, record_of(**known))


def test_what_is_over_is_not_asked_for_and_an_instance_is_only_where_it_is_looked_for_alone():
    spot, alone = run_of(), run_of(THERE, "run_instances")
    fleet = run_of(THERE, "create_fleet_request")
    requests = {
        "sir-1": request_of(spot, "i-1"),
        "sir-2": request_of(spot),
        "i-3": request_of(alone, "i-3"),
        "fleet-1#1": request_of(fleet, "i-5"),
        "fleet-1#2": request_of(fleet),
    }
    left = unfinished_of(
        regions=[HERE, THERE, "us-east-1"], requests=requests, over=frozenset({"sir-2"})
    )

    there = ("i-3", "fleet-1#1", "i-5", "fleet-1#2")
    assert left.request_ids == {HERE: ("sir-1",), THERE: there, "us-east-1": ()}


@pytest.mark.parametrize(
    ("events", "queue", "made"),
    [((), None, False), ((HERE,), None, True), ((HERE,), "mine", False), ((), "mine", False)],
)
def test_a_queue_is_looked_for_only_where_the_batch_made_one(events, queue, made):
    left = unfinished_of(events=events, queue=queue, runs={(0, 0): run_of(method="run_instances")})

    assert left.makes_events is made
    assert left.request_ids == {HERE: (name_of("b"),) * made}
    assert left.resources == (INSTANCES, *[EVENTS] * made)
    said = f"queue and rule {name_of('b')} not yet deleted in {HERE}, "
    assert left._queues() == said * made
    deleted = [SimpleNamespace(region=HERE, cancelled=(name_of("b"),), terminated=())]
    assert unfinished_of(events=events, queue=queue, releases=deleted)._queues() == ""


def test_an_instance_is_alive_until_it_is_over_or_was_terminated_wherever_it_was_named():
    spot, alone = run_of(), run_of(THERE, "run_instances")
    left = unfinished_of(
        regions=[HERE, THERE],
        requests={
            "sir-1": request_of(spot, "i-1", None, "i-1"),
            "sir-2": request_of(spot, "i-2", "i-2"),
            "sir-3": request_of(spot, "i-3", "i-3"),
            "i-4": request_of(alone, "i-4"),
        },
        tagged=[SimpleNamespace(region=THERE, instance_ids=("i-5", "i-2"))],
        releases=[
            SimpleNamespace(terminated=("i-2",), cancelled=("sir-2",)),
            SimpleNamespace(terminated=(), cancelled=("sir-9",)),
        ],
        over=frozenset({"i-3"}),
    )

    assert left.alive_instances == {HERE: {"i-1"}, THERE: {"i-4", "i-5"}}
    assert left.named_instances == {"i-1": "sir-1", "i-2": "sir-2", "i-3": "sir-3"}
    assert left.cancelled == {"sir-2", "sir-9"}


def test_its_last_request_says_until_when_it_may_launch():
    runs = {(0, 0): run_of(valid_s=60.0), (0, 1): run_of(valid_s=90.0), (1, 0): run_of()}

    assert unfinished_of(runs=runs).valid_until == NOON + timedelta(seconds=90)
    assert unfinished_of().valid_until is None


@pytest.mark.parametrize(
    ("alive", "writer_pid", "begun", "next_round", "awaited"),
    [
        (
            True,
            1,
            1,
            " (next at 12:15:00 UTC)",
            "; it waits for round 2 of 3",
        ),
        (
            True,
            None,
            2,
            " (next at 12:30:00 UTC)",
            "; it waits for round 3 of 3",
        ),
        (True, 1, 3, "", "; it makes sure that nothing is left, which takes about a minute"),
        (False, 1, 1, "", ""),
        (True, 2, 1, "", ""),  # a sweep has its log
    ],
)
def test_a_line_names_the_next_round_of_a_batch_that_goes_on_and_what_it_can_cost(
    alive, writer_pid, begun, next_round, awaited
):
    runs = {(number, plan): run_of() for number in range(begun) for plan in range(2)}
    line = unfinished_of(alive=alive, writer_pid=writer_pid, runs=runs, regions=[])

    assert line.is_closing is (alive and writer_pid == 2)
    assert line._next_round(begun) == next_round
    later = " ($1.5000 after all its rounds)" * bool(next_round)
    if alive:
        said = line.line()
        assert f"; round {begun} of 3{next_round}, 0 of 0 requests without an outcome, " in said
        assert f"at most ${0.5 * begun:.4f}{later}, in no region yet{awaited}" in said
        assert ("running" in said) is not line.is_closing


def test_what_is_awaited_is_said_with_its_latest_time_and_what_comes_then():
    run = run_of(valid_s=660.0)
    open_one, over = (
        request_of(run),
        SimpleNamespace(**vars(request_of(run)) | {"outcome": "ready"}),
    )
    waits = "; it waits for 1 request until 12:11:00 UTC at the latest, then ends what it launched,"

    def line(rounds, **more):
        requests = {"sir-1": open_one, "sir-2": over}
        runs = {(number, 0): run for number in range(rounds)}
        return unfinished_of(runs=runs, requests=requests, **more).line()

    assert line(1).endswith(f"{waits} then comes round 2 of 3")
    assert line(3).endswith(f"{waits} then comes the end")
    assert line(1, alive=False).endswith(
        "; its requests expire by themselves at 2026-01-02 12:11:00 UTC"
    )
    assert line(1, writer_pid=2).endswith(f"in {HERE}")


def test_after_skipped_rounds_the_next_one_and_the_cost_of_the_rest_are_right():
    """Rounds 2 and 3 were skipped: two of four began, and one is to come."""
    runs = {(number, 0): run_of() for number in (0, 3)}
    said = unfinished_of(runs=runs, batch_rounds=5).line()

    assert "; round 4 of 5 (next at 13:00:00 UTC), " in said
    assert "at most $1.0000 ($1.5000 after all its rounds)" in said
    assert said.endswith("; it waits for round 5 of 5")


def test_a_time_of_another_day_has_its_date():
    runs = {(number, 0): run_of() for number in range(2)}
    line = unfinished_of(runs=runs, every_s=21600.0).line()

    assert "(next at 2026-01-03 00:00:00 UTC)" in line


def test_the_times_of_a_sandbox_are_called_simulated():
    """Nobody's clock shows them, and an hour of them may be over in a second."""
    requests, runs = {"sir-1": request_of(run := run_of(valid_s=660.0))}, {(0, 0): run}
    said = unfinished_of(runs=runs, requests=requests, simulated=True).line()

    assert "(next at 12:15:00 UTC of simulated time)" in said
    assert "until 12:11:00 UTC of simulated time at the latest" in said


def test_a_dead_batch_has_no_later_rounds():
    runs = {(0, 0): run_of()}
    assert (
        unfinished_of(alive=True, runs=runs)._later_rounds(1) == " ($1.5000 after all its rounds)"
    )
    for stopped in ({"alive": False}, {"writer_pid": 2}):
        assert unfinished_of(runs=runs, **stopped)._later_rounds(1) == ""

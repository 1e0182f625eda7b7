"""Fleets that wait for capacity: which row an instance is given, what is shown, how they end."""

from datetime import UTC, datetime, timedelta

import pytest
from conftest import NANO, QUICK, plan_for, read_events, scripted
from crashing import (
    DEFAULT,
    EMPTY,
    REGIONS,
    collect_plain,
    points_of,
    require_recovered,
    swept,
)
from crashing import in_process as connected_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import Connection
from spotlib.ec2.fleets import FLEETS, delete, rows_of, see_fleets
from spotlib.ec2.poll import Known, Seen
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, plan_launches
from spotlib.record.replay import replay
from spotlib.record.tables import load_launches
from spotlib.sandbox import fleet_api, run_api
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import Fate, Reads, World
from spotlib.track import Sighting

HELD = Fate(held_s=None)
REQUEST = "create_fleet_request"
BOTH = [REQUEST, f"{REQUEST}:on-demand"]
FLEET, OTHER = "fleet-a", "fleet-b"
NOW = datetime(2024, 9, 1, tzinfo=UTC)
ROUND = "batch/0"


@pytest.fixture
def launch(in_process, log):
    """Collect one batch of a fleet; return its summary, its events and its launches."""

    def launched(world, arm=REQUEST, n=3, timeout_s=60.0, **given):
        checked = plan_for(in_process(world), NANO, n=n, timeout_s=timeout_s, methods=[arm])
        summary = collect_plain(in_process(world), checked, log=log, **given)
        assert world.leftovers() == EMPTY
        assert summary.cleaned.confirmed
        return summary, read_events(log)[0], load_launches(log)

    return launched


# A batch.


@pytest.mark.parametrize("arm", BOTH)
def test_each_instance_asked_for_is_a_row_from_the_answer_on(launch, arm):
    """It is accepted then, and fulfilled when an instance is first shown for it, or never."""
    world = scripted(QUICK, Fate(evaluate_s=9.0, boot_s=3.0, ok_s=5.0), HELD)

    summary, events, launches = launch(world, arm)

    [requested] = [each for each in events if each["event"] == "requested"]
    [fleet_id] = {each["fleet_id"] for each in world.truth()}
    assert summary.outcomes == {"ready": 2, "timed_out": 1}
    assert summary.problems == ()
    assert requested["request_ids"] == [f"{fleet_id}#{number}" for number in (1, 2, 3)]
    answered_s = requested["answered_s"] - requested["asked_s"]
    assert launches["accepted_by_s"].tolist() == pytest.approx([answered_s] * 3)
    ready, waiting = (launches[launches["outcome"] == each] for each in ("ready", "timed_out"))
    assert (ready["fulfilled_by_s"] > answered_s).all()
    assert ready["instance_id"].nunique() == 2
    assert waiting[["instance_id", "fulfilled_by_s"]].isna().all(axis=None)
    assert waiting["status_code"].tolist() == ["pending_fulfillment"]
    assert {each["event"] for each in events}.isdisjoint({"tagged", "refused"})


@pytest.mark.parametrize("arm", BOTH)
def test_a_fleet_whose_answers_were_all_lost_is_found_by_its_tag_and_deleted(in_process, log, arm):
    world = scripted(Fate(evaluate_s=20.0), HELD)
    checked = plan_for(in_process(world), NANO, n=2, timeout_s=60.0, methods=[arm])
    world.faults.append(Fault(kind="lose_answer", action="CreateFleet"))

    summary = collect_batch(in_process(world), checked, log=log, seed=1, guard=False)

    [fleet_id] = {each["fleet_id"] for each in world.truth()}
    assert summary.outcomes == {"refused": 2}
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    assert fleet_id in {name for each in replay(log).releases for name in each.cancelled}


def test_a_fleet_asks_ec2_to_end_its_instances_with_it(launch):
    """And its template tags them: the fleet itself cannot."""
    _, events, _ = launch(scripted(), n=1)

    [intent] = [each for each in events if each["event"] == "intent"]
    fleet, template = intent["request"]["create_fleet"], intent["request"]["create_launch_template"]
    assert fleet["TerminateInstancesWithExpiration"] is True
    assert datetime.fromisoformat(fleet["ValidUntil"]) == datetime.fromisoformat(
        intent["valid_until"]
    )
    assert {each["ResourceType"] for each in fleet["TagSpecifications"]} == {"fleet"}
    tagged = template["LaunchTemplateData"]["TagSpecifications"]
    assert {each["ResourceType"] for each in tagged} == {"instance", "volume", "network-interface"}


def test_an_interrupted_instance_ends_its_row_and_is_not_replaced(launch):
    world = scripted(Fate(boot_s=2.0, ok_s=None, interrupted_s=10.0), QUICK)

    summary, _, launches = launch(world, n=2, timeout_s=200.0)

    assert summary.outcomes == {"interrupted": 1, "ready": 1}
    assert len(world.truth()) == 2
    reasons = launches["instance_reason"].dropna().tolist()
    assert reasons == ["Server.SpotInstanceTermination"]


def deleting(world, at_s):
    """Let somebody else delete the fleet at that time, and its instances live on."""
    world.schedule(world.now_s + at_s, _delete_all)


def _delete_all(world, _):
    given = {"TerminateInstances": False}
    fleets = list(world.region(NANO.region).fleets)
    fleet_api.delete_fleets(world, NANO.region, {"FleetIds": fleets, **given})


def test_a_fleet_that_somebody_deletes_says_nothing_about_the_market(launch):
    world = scripted(Fate(boot_s=3.0, ok_s=100.0), HELD)
    deleting(world, 30.0)

    summary, _, launches = launch(world, n=2, timeout_s=300.0)

    assert summary.outcomes == {"ready": 1, "failed": 1}
    failed = launches[launches["outcome"] == "failed"]
    assert failed["status_code"].tolist() == ["deleted_running"]
    assert "says nothing about the market" in summary.problems[0]


def test_a_machine_that_slept_beyond_the_end_of_a_fleet_finds_it_expired():
    now_at = datetime(2024, 9, 1, tzinfo=UTC)
    for ends_at, outcome in ((now_at - timedelta(seconds=1), "expired"), (now_at, "failed")):
        fleet = {"FleetId": FLEET, "FleetState": "deleted", "ValidUntil": ends_at}
        seen = watched({f"{FLEET}#1": Known("0")}, [], [fleet], now_at=now_at)
        assert seen.sighting(f"{FLEET}#1").ended == outcome


def test_a_fleet_that_can_launch_nothing_shows_its_error(launch, monkeypatch):
    """Whether EC2 means it for good is not documented, so the row waits on."""
    monkeypatch.setattr(run_api, "draw_up", lambda *_: [])

    summary, _, launches = launch(scripted(), n=2)

    assert summary.outcomes == {"timed_out": 2}
    assert launches["status_code"].tolist() == ["error"] * 2


def test_more_instances_than_were_asked_for_have_no_row_and_are_ended(launch):
    """Whoever launched it: it carries the tags of the run."""
    world = scripted(Fate(boot_s=3.0, ok_s=30.0))
    world.schedule(world.now_s + 30.0, _launch_one_more)

    summary, events, launches = launch(world, n=1)

    _, more = (each["instance_id"] for each in world.truth())
    assert summary.outcomes == {"ready": 1}
    assert more not in set(launches["instance_id"])
    assert more in {name for e in events if e["event"] == "release" for name in e["terminated"]}


def _launch_one_more(world, _):
    [request] = world._requests
    launch = {name: request.launch[name] for name in ("ImageId", "InstanceType")}
    tags = [{"Key": key, "Value": value} for key, value in request.instance.tags.items()]
    tagged = [{"ResourceType": "instance", "Tags": [e for e in tags if e["Key"][:4] != "aws:"]}]
    counts = {"MinCount": 1, "MaxCount": 1, "TagSpecifications": tagged}
    run_api.run_instances(world, NANO.region, {**launch, **counts})


def test_an_instance_of_a_fleet_that_is_hidden_later_is_never_taken_for_gone(
    in_process, log, monkeypatch
):
    world = scripted(QUICK)
    connection = in_process(world)
    checked = plan_for(connection, NANO, n=1, timeout_s=60.0, methods=[REQUEST])
    hide_instances(monkeypatch, lambda: '"stage"' in log.read_text())

    summary = collect_batch(connection, checked, log=log, seed=1, guard=False)

    assert not summary.cleaned.confirmed
    assert summary.cleaned.live_instances[NANO.region] == [world.truth()[0]["instance_id"]]


def test_a_sweep_does_not_take_it_for_gone_either(tmp_path, monkeypatch):
    world, log = died(tmp_path, REQUEST, "after the line of stage")
    [hidden] = [each["instance_id"] for each in read_events(log)[0] if each["event"] == "stage"]
    hide_instances(monkeypatch, lambda: True)

    report = swept(world, log, give_up_s=60.0)

    assert not report.clean
    [command] = [each for each in report.lines() if "terminate-instances" in each]
    assert command.endswith(f"--instance-ids {hidden}")


def hide_instances(monkeypatch, hidden):
    """List no instance while this is so."""
    call = Connection.call

    def hiding(self, region, action, /, **given):
        reply = call(self, region, action, **given)
        if action == "describe_instances" and hidden():
            reply["Reservations"] = []
        return reply

    monkeypatch.setattr(Connection, "call", hiding)


def test_a_sweep_needs_no_permission_for_what_no_log_here_made(tmp_path):
    """But for what one made it does."""
    world, log = died(tmp_path, "run_instances", "after the line of requested")
    deny(world, "DescribeFleets", "DescribeLaunchTemplates")
    assert swept(world, log).confirms(log.stem)

    world, log = died(tmp_path, DEFAULT, "after the line of requested")
    deny(world, "DescribeFleets", "DescribeLaunchTemplates")
    log.unlink()
    assert swept(world, log, batch_id=log.stem).confirms(log.stem)
    assert world.leftovers() == EMPTY

    world, log = died(tmp_path, REQUEST, "after the line of requested")
    deny(world, "DescribeFleets")
    report = swept(world, log, give_up_s=60.0)
    assert set(report.errors) == set(REGIONS)
    assert not report.confirms(log.stem)
    world.faults.clear()
    assert swept(world, log).confirms(log.stem)


def deny(world, *actions):
    def fault(asked, executed):
        if asked.action in actions and not executed:
            raise ApiError("UnauthorizedOperation", "no", 403)

    world.faults.append(fault)


def died(folder, arm, name, *, last=False):
    """The world and the log of a batch that died at the first, or the last, step of this name."""
    points = points_of(folder / f"{arm}-collected", arm, named=name)
    return points[-1 if last else 0].revived(folder / arm)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10**6), lag_s=st.floats(0.0, 20.0), unknown_s=st.floats(0.0, 20.0))
def test_stale_reads_give_no_instance_to_two_rows_and_no_row_two_instances(
    in_process, tmp_path_factory, seed, lag_s, unknown_s
):
    fates = [Fate(evaluate_s=0.5 * number, boot_s=3.0, ok_s=15.0) for number in range(5)]
    reads = Reads(filter_lag_s=lag_s, id_lag_s=lag_s, unknown_s=unknown_s, page_most=2)
    world = scripted(*fates, seed=seed, reads=reads)
    connection = in_process(world)
    checked = plan_for(connection, NANO, n=5, timeout_s=200.0, methods=[REQUEST])
    log = tmp_path_factory.mktemp("stale") / "batch.jsonl"

    summary = collect_plain(connection, checked, log=log, seed=seed)

    events, _ = read_events(log)
    pairs = {(e["request_id"], e["instance_id"]) for e in events if e["event"] == "stage"}
    assert summary.outcomes == {"ready": 5}
    assert len(pairs) == len(dict(pairs)) == len({instance for _, instance in pairs}) == 5
    assert world.leftovers() == EMPTY


def test_which_row_an_instance_belongs_to_survives_a_dead_collector(tmp_path):
    world, log = died(tmp_path, REQUEST, "after the line of stage", last=True)
    acknowledged, _ = read_events(log)
    given = {e["request_id"]: e["instance_id"] for e in acknowledged if e["event"] == "stage"}

    assert swept(world, log).clean

    require_recovered(world, log, acknowledged)
    launches = load_launches(log).set_index("request_id")
    assert len(given) > 1
    assert {row: launches.loc[row, "instance_id"] for row in given} == given
    assert set(given.values()) <= replay(log).over | {
        name for each in replay(log).releases for name in each.terminated
    }


# One poll, from EC2's answers.


class Answers:
    """A connection that answers with these instances and fleets, whatever it is asked."""

    def __init__(self, instances, fleets, now_at=None, refusal=None):
        self.instances, self.fleets, self.now_at = instances, fleets, now_at
        self.refusal, self.asked = refusal, []

    def server_utc(self):
        return self.now_at or NOW

    def call(self, _, action, /, **given):
        self.asked.append((action, given))
        reply = {"ResponseMetadata": {"HTTPHeaders": {}}}
        if action == "describe_fleets":
            if self.refusal:
                raise self.refusal
            return reply | {"Fleets": self.fleets}
        return reply | {"Reservations": [{"Instances": self.instances}]}


def instance(name, plan="0", round_tag=ROUND, **more):
    tags = {"spotlib:round": round_tag, "spotlib:plan": plan}
    tags = [{"Key": key, "Value": value} for key, value in tags.items()]
    return {"InstanceId": name, "State": {"Name": "pending"}, "Tags": tags, **more}


def watched(known, instances, fleets=(), *, rows=None, **given):
    """What a poll of these rows shows, by default of all."""
    seen = Seen(Answers(instances, list(fleets), **given), "us-east-1", known)
    see_fleets(seen, ROUND, list(known if rows is None else rows))
    return seen


def rows(fleet, plan, *instances):
    """Rows of a plan that have these instances, or none yet."""
    names = rows_of(fleet, len(instances))
    return {name: Known(plan, each or None) for name, each in zip(names, instances, strict=True)}


def given_to(seen):
    return {row: each["InstanceId"] for row, each in seen.instances.items()}


def test_a_new_instance_is_given_to_the_first_row_of_its_plan_that_has_none():
    known = rows(FLEET, "0", "i-1", "", "") | rows(OTHER, "1", "")
    shown = [instance("i-9", "1"), instance("i-3"), instance("i-1")]

    assert given_to(watched(known, shown)) == {
        f"{FLEET}#1": "i-1",
        f"{FLEET}#2": "i-3",
        f"{OTHER}#1": "i-9",
    }


def test_new_instances_are_given_in_the_order_in_which_they_were_launched():
    at = datetime(2024, 9, 1, tzinfo=UTC)
    late = instance("i-1", LaunchTime=at + timedelta(seconds=1))
    shown = [late, instance("i-3", LaunchTime=at), instance("i-2", LaunchTime=at)]

    found = given_to(watched(rows(FLEET, "0", "", "", ""), shown))

    assert list(found.values()) == ["i-2", "i-3", "i-1"]


def test_more_instances_than_were_asked_for_have_no_row():
    known = rows(FLEET, "0", "i-1", "")
    shown = [instance(f"i-{number}") for number in range(1, 5)]

    assert given_to(watched(known, shown)) == {f"{FLEET}#1": "i-1", f"{FLEET}#2": "i-2"}


def test_an_instance_that_is_shown_twice_or_not_stays_with_its_row():
    known = rows(FLEET, "0", "i-1", "i-2", "")

    assert given_to(watched(known, [instance("i-2"), instance("i-2")])) == {f"{FLEET}#2": "i-2"}


def test_the_instance_of_a_row_that_is_not_watched_any_more_goes_to_no_other():
    known = rows(FLEET, "0", "i-1", "")

    assert given_to(watched(known, [instance("i-1")], rows=[f"{FLEET}#2"])) == {}


def test_what_is_not_of_this_round_and_plan_counts_for_no_row():
    """An endpoint may ignore the filter."""
    strangers = [
        {"InstanceId": "i-7", "State": {"Name": "running"}},
        instance("i-8", round_tag="other/0"),
        instance("i-9", plan="1"),
    ]

    assert given_to(watched(rows(FLEET, "0", ""), strangers)) == {}


def test_a_fleet_is_asked_for_only_while_a_row_of_it_has_no_instance():
    known = rows(FLEET, "0", "i-1", "i-2") | rows(OTHER, "1", "i-3", "")
    seen = watched(known, [instance("i-4", "1")])

    [(_, asked), _] = seen.connection.asked
    assert asked["FleetIds"] == [OTHER]


def refusal(code, kind):
    return Refusal(code, "m", kind=kind, advice="a")


def test_a_new_fleet_that_is_not_known_yet_spoils_no_poll():
    error = refusal("InvalidFleetId.NotFound", Kind.UNKNOWN)

    seen = watched(rows(FLEET, "0", "", ""), [instance("i-1")], refusal=error)

    assert given_to(seen) == {f"{FLEET}#1": "i-1"}
    assert not seen.shows(f"{FLEET}#2")
    with pytest.raises(Refusal):
        watched(rows(FLEET, "0", ""), [], refusal=refusal("InternalError", Kind.SERVER))


@pytest.mark.parametrize(
    ("fleet", "sighting"),
    [
        ({"FleetState": "submitted"}, Sighting("submitted", "submitted")),
        (
            {"FleetState": "active", "ActivityStatus": "pending_fulfillment"},
            Sighting("active", "pending_fulfillment"),
        ),
        ({"FleetState": "failed", "ActivityStatus": "error"}, Sighting("failed", "error")),
        (
            {"FleetState": "deleted_terminating", "ActivityStatus": "pending_termination"},
            Sighting("deleted_terminating", "deleted_terminating"),
        ),
        *(
            (
                {"FleetState": "deleted", "ValidUntil": NOW + timedelta(seconds=seconds)},
                Sighting("deleted", "expired" if seconds < 0 else "deleted"),
            )
            for seconds in (-1, 0, 1)
        ),
    ],
)
def test_a_row_without_an_instance_shows_the_state_of_its_fleet(fleet, sighting):
    seen = watched(rows(FLEET, "0", ""), [], [{"FleetId": FLEET, **fleet}])

    assert seen.sighting(f"{FLEET}#1") == sighting


# Its end.


def test_fleets_are_deleted_once_each_and_at_most_a_hundred_per_call():
    class Deleting(Answers):
        def call(self, region, action, /, **given):
            super().call(region, action, **given)
            done = [{"FleetId": each} for each in given["FleetIds"] if each != FLEET]
            error = {"Code": "unexpectedError", "Message": "m"}
            failed = [{"FleetId": FLEET, "Error": error}] * (FLEET in given["FleetIds"])
            return {"SuccessfulFleetDeletions": done, "UnsuccessfulFleetDeletions": failed}

    connection = Deleting([], [])
    names = [*rows_of(FLEET, 2), *(f"fleet-{number}" for number in range(150)), *rows_of(OTHER, 2)]

    ended = delete(connection, "us-east-1", names)

    assert [len(given["FleetIds"]) for _, given in connection.asked] == [100, 52]
    assert all(given["TerminateInstances"] for _, given in connection.asked)
    assert set(names) - set(ended.ids) == set(rows_of(FLEET, 2))
    assert ended.errors == ("delete_fleets in us-east-1: fleet-a: unexpectedError (m)",)


def test_a_call_that_fails_keeps_no_other_fleets_from_being_deleted_and_a_lost_one_is_no_error():
    names = [f"fleet-{number}" for number in range(101)]
    codes = ("fleetIdDoesNotExist", "fleetIdMalformed", "fleetNotInDeletableState")

    class Failing(Answers):
        def call(self, region, action, /, **given):
            super().call(region, action, **given)
            if len(self.asked) == 1:
                raise Refusal("Busy", "m", kind=Kind.SERVER, advice="", action=action)
            failed = [{"FleetId": each, "Error": {"Code": each}} for each in codes]
            return {"UnsuccessfulFleetDeletions": failed, "SuccessfulFleetDeletions": []}

    connection = Failing([], [])
    ended = delete(connection, "us-east-1", names)

    assert [len(given["FleetIds"]) for _, given in connection.asked] == [100, 1]
    assert ended.ids == ()
    [error] = ended.errors
    assert "Busy (m)" in error


def test_a_row_is_over_once_its_fleet_is_deleted_and_its_instances_have_ended(tmp_path):
    world, log = died(tmp_path, REQUEST, "after the line of stage", last=True)
    stage = read_events(log)[0][-1]
    run = replay(log).runs[stage["round"], stage["plan"]]
    connection, region, mine = connected_to(world), run.intent.region, run.request_ids

    def survey(ids=mine):
        return FLEETS.survey(connection, region, batch_id=None, ids=ids)

    assert (len(survey().open_requests), survey().over) == (1, frozenset())
    delete(connection, region, mine)
    assert (survey().open_requests, survey().over) == ([], frozenset())
    world.advance(120.0)
    assert survey().over == set(mine)
    assert survey(["fleet-none#1"]).missing == {"fleet-none#1"}


def test_rows_that_are_left_come_with_one_command_for_their_fleet():
    [command] = FLEETS.commands("--region us-east-1", [*rows_of(FLEET, 2), OTHER])

    assert command == (
        "aws ec2 delete-fleets --region us-east-1 --terminate-instances --fleet-ids fleet-a fleet-b"
    )


def test_ec2_ends_a_fleet_and_its_instances_if_every_program_of_ours_and_the_switch_fail(
    tmp_path, monkeypatch
):
    """The switch is the bound that is promised; this is a second one, on EC2's side."""
    monkeypatch.setattr("spotlib.collect.cost.SWITCH_MARGIN_S", 1e6)
    world, _ = died(tmp_path, REQUEST, "after the line of stage", last=True)
    assert world.leftovers()["instances"]

    world.advance(30.0 + 60.0 + 60.0)  # timeout, margin of ValidUntil, shutting down

    left = world.leftovers()
    assert left.pop("templates")
    assert left == EMPTY


def test_a_policy_that_lets_nobody_delete_fleets_is_warned_about(in_process):
    """It may be one by tag, which refuses the made-up id of the question."""
    world = World(denied={"ec2:DeleteFleets"})

    checked = preflight(in_process(world), plan_launches([NANO], count=1, methods=[REQUEST]))

    assert any("delete_fleets" in each for each in checked.warnings)

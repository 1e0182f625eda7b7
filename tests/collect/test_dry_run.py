"""The answer to a DryRun counts: only "it would have succeeded" means yes."""

from types import SimpleNamespace

import pytest
from conftest import NANO, scripted
from crashing import EMPTY

from spotlib.collect.preflight import preflight
from spotlib.ec2.endpoints import connect_in_process
from spotlib.model import Target, plan_launches
from spotlib.sandbox.faults import fail
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate

LATE = Fate(evaluate_s=0.01, in_flight_s=12.0)  # launched although its request was cancelled
PLANS = plan_launches([NANO], count=2)
REFUSALS = [
    "OptInRequired",
    "PendingVerification",
    "Blocked",
    "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
    "MissingInput",
    "MaxSpotInstanceCountExceeded",
    "UnsupportedOperation",
    "NobodyKnowsThis",
]


@pytest.mark.parametrize("code", REFUSALS)
@pytest.mark.parametrize(
    "action", ["RequestSpotInstances", "CancelSpotInstanceRequests", "TerminateInstances"]
)
def test_every_refusal_is_a_problem_with_its_code(in_process, action, code):
    world = scripted()
    world.faults.append(fail(action, 1, code))

    [problem] = preflight(in_process(world), PLANS).problems

    assert f" in {NANO.region}: {code} (" in problem


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("CancelSpotInstanceRequests", "InvalidSpotInstanceRequestID.NotFound"),
        ("CancelSpotInstanceRequests", "InvalidSpotInstanceRequestID.Malformed"),
        ("TerminateInstances", "InvalidInstanceID.Malformed"),
        ("RequestSpotInstances", "InsufficientInstanceCapacity"),  # it is what we measure
    ],
)
def test_an_id_that_is_made_up_and_a_market_without_capacity_are_no_problem(
    in_process, action, code
):
    world = scripted()
    world.faults.append(fail(action, 1, code))

    assert preflight(in_process(world), PLANS).problems == ()


def test_each_zone_of_a_region_is_asked_about_but_not_each_plan(in_process):
    world = scripted()
    zones = [Target("t4g.nano", "us-east-1", each) for each in ("use1-az4", "use1-az6")]
    more = [Target(name, "us-east-1") for name in ("t3.nano", "t3.micro", "t4g.nano")]

    assert preflight(in_process(world), plan_launches([*zones, *more], count=1)).problems == ()

    asked = [call.action for call in world.calls]  # of a made-up id EC2 may say that it is none
    assert (
        asked.count("RequestSpotInstances") == 4
    )  # three subnets or none, and without one two images
    assert asked.count("CancelSpotInstanceRequests") == 1


def ignoring_dry_run(world, *, answer=None):
    """Connect to an endpoint that executes a DryRun, or that answers every call so."""

    def strip(params, **_):
        params.pop("DryRun", None)

    def answered(**_):
        metadata = {"HTTPHeaders": {}, "HTTPStatusCode": 200}
        return SimpleNamespace(status_code=200), {**answer[1], "ResponseMetadata": metadata}

    def attached(client):
        attach(world, client)
        client.meta.events.register("provide-client-params.ec2", strip)
        if answer is not None:
            client.meta.events.register(f"before-call.ec2.{answer[0]}", answered)

    return connect_in_process(world, attached)


def test_an_endpoint_that_ignores_a_dry_run_is_refused_and_what_it_launched_is_ended():
    world = scripted(LATE, LATE)
    connection = ignoring_dry_run(world)

    with pytest.raises(ValueError, match="executed request_spot_instances in sa-east-1") as caught:
        preflight(connection, [*PLANS, *plan_launches([Target("t3.nano", "us-east-1")], count=1)])

    truth = world.truth()
    assert len(truth) == 2  # nothing was asked of the next region
    assert world.leftovers() == EMPTY
    assert "nothing of it is left" in str(caught.value)
    for each in truth:
        assert each["request_id"] in str(caught.value)
        assert each["instance_id"] in str(caught.value)


def refuse_to_end(asked, _executed):
    """A fault of the sandbox: instances that exist are not terminated."""
    if asked.action == "TerminateInstances" and "i-00000000000000000" not in str(asked.params):
        raise ApiError("RequestLimitExceeded", "m", 503)


def test_what_an_ignored_dry_run_launched_is_named_with_commands_if_it_cannot_be_ended():
    world = scripted(LATE, LATE)
    world.faults.append(refuse_to_end)
    connection = ignoring_dry_run(world)

    with pytest.raises(ValueError, match="NOT confirmed") as caught:
        preflight(connection, plan_launches([NANO], count=2, timeout_s=3600))  # a late switch

    alive = world.leftovers()["instances"]
    assert alive
    _, command, named = str(caught.value).partition("aws ec2 terminate-instances")
    assert command
    assert all(each in named for each in alive)


@pytest.mark.parametrize(
    ("action", "member"),
    [
        ("CancelSpotInstanceRequests", "CancelledSpotInstanceRequests"),
        ("TerminateInstances", "TerminatingInstances"),
    ],
)
def test_an_endpoint_that_ends_what_does_not_exist_is_refused_before_anything_is_launched(
    action, member
):
    world = scripted()
    connection = ignoring_dry_run(world, answer=(action, {member: []}))

    with pytest.raises(ValueError, match="nothing was launched; use another endpoint"):
        preflight(connection, PLANS)

    assert world.truth() == []

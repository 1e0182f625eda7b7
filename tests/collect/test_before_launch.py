"""Passing errors before a launch are waited for; a region that stays in trouble hides no other."""

import math

import pytest
from conftest import ARM, NANO, plan_for, read_events, scripted

from spotlib.collect import features
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.refusals import Refusal
from spotlib.model import Target, plan_launches
from spotlib.sandbox.faults import KINDS, Fault, fail

ZONE = Target("t4g.nano", "us-east-1", "use1-az4")
DRY_RUN = {"RequestSpotInstances", "CancelSpotInstanceRequests", "TerminateInstances"}
NEVER_PASS = {"fail", "expired"}  # "fail" is a refusal for good


def checked(in_process, world, *targets, **given):
    plans = plan_launches(targets or (NANO, ZONE), count=1)
    return preflight(in_process(world), plans, **given)


@pytest.fixture(scope="module")
def actions():
    """Every call of a preflight."""
    from crashing import in_process  # noqa: PLC0415 - the one for fixtures

    world = scripted(unlisted_quotas={"Standard"})
    assert not checked(in_process, world).problems
    return sorted({call.action for call in world.calls})


@pytest.mark.parametrize("kind", sorted(set(KINDS) - NEVER_PASS))
def test_a_preflight_in_which_every_call_fails_at_first_finds_nothing_wrong(
    in_process, actions, kind
):
    """Each call of each service, twice: throttled, failed, lost, garbled or slow."""
    world = scripted(unlisted_quotas={"Standard"})
    world.faults += [
        Fault(kind=kind, action=each, nth=1, seconds=30.0) for each in actions for _ in range(2)
    ]

    report = checked(in_process, world)

    assert not report.problems
    assert not report.warnings
    assert len(report.prepared) == 2
    assert not math.isnan(report.bound_usd)
    answers_only = KINDS[kind][0]  # a DryRun has none: it ends in a refusal
    assert {each.action for each in world.fired} == set(actions) - (
        DRY_RUN if answers_only else set()
    )
    assert world.truth() == []


@pytest.mark.parametrize(
    "action",
    ["DescribeVpcs", "GetParameters", "DescribeSpotInstanceRequests", "TerminateInstances"],
)
def test_a_region_that_stays_in_trouble_is_named_and_the_others_are_checked(in_process, action):
    world = scripted()
    world.faults.append(Fault(kind="throttled", action=action, region=NANO.region))

    report = checked(in_process, world, NANO, Target("t3.nan0", ZONE.region), ZONE)

    assert len(report.problems) == 2
    [trouble] = [each for each in report.problems if NANO.region in each]
    assert "RequestLimitExceeded" in trouble
    assert "attempts in" in trouble
    assert any("'t3.nan0' is not offered" in each for each in report.problems)
    assert ZONE in {each.plan.target for each in report.prepared}
    assert 45.0 < world.now_s < 120.0


def test_an_account_whose_regions_cannot_be_listed_is_checked_all_the_same(in_process):
    world = scripted()
    world.faults.append(Fault(kind="internal_error", action="DescribeRegions"))

    report = checked(in_process, world)

    assert not report.problems
    [warning] = report.warnings
    assert warning.startswith("which regions are enabled is not known")
    assert len(report.prepared) == 2


def test_a_service_that_never_answers_ends_the_preflight_in_one_sentence(in_process):
    world = scripted()
    world.faults.append(Fault(kind="throttled", action="GetCallerIdentity"))

    with pytest.raises(Refusal, match=r"after \d+ attempts in \d\d s: EC2 is busy or failing"):
        checked(in_process, world)

    assert 40.0 < world.now_s < 65.0


@pytest.mark.parametrize("action", ["DescribeSpotPriceHistory", "GetSpotPlacementScores"])
def test_a_feature_that_fails_once_is_recorded_all_the_same(in_process, log, action):
    world = scripted()
    connection = in_process(world)
    report = plan_for(connection, n=1)
    world.faults.append(fail(action, 1, "InternalError"))
    world.faults.append(fail(action, 1, "RequestLimitExceeded"))  # the next call

    summary = collect_batch(connection, report, log=log, seed=1)
    [known] = [each["features"] for each in read_events(log)[0] if each["event"] == "intent"]

    assert len(world.fired) == 2
    assert summary.warnings == ()
    assert known["price_usd"] > 0
    assert known["sps"] >= 1


@pytest.mark.parametrize("kind", ["throttled", "malformed", "black_hole"])
def test_a_feature_that_cannot_be_had_is_missing_with_a_warning_and_delays_by_seconds(
    in_process, log, kind
):
    world = scripted()
    connection = in_process(world)
    report = plan_for(connection, NANO, ARM, n=1)
    began_s = world.now_s
    for action in ("DescribeSpotPriceHistory", "GetSpotPlacementScores"):
        world.faults.append(Fault(kind=kind, action=action, region=NANO.region))

    summary = collect_batch(connection, report, log=log, seed=1)
    events = read_events(log)[0]
    known = {each["region"]: each["features"] for each in events if each["event"] == "intent"}
    sent_s = [each["asked_s"] for each in events if each["event"] == "requested"]

    assert summary.outcomes == {"ready": 2}
    assert summary.problems == ()
    assert len(summary.warnings) == 2
    assert summary.warnings[1].startswith("the spot price in sa-east-1 is not recorded")
    assert known[NANO.region]["price_usd"] is None
    assert known[NANO.region]["price_source"].startswith("not known: ")
    assert known[ARM.region]["price_usd"] > 0
    assert max(sent_s) < 2 * (5.0 + 5.0) + 5.0
    assert began_s < world.now_s


@pytest.mark.parametrize("nonsense", [{"spot_advisor": 5}, {"spot_advisor": {"sa-east-1": []}}])
def test_a_spot_advisor_that_answers_nonsense_ends_no_batch(in_process, log, monkeypatch, nonsense):
    monkeypatch.setattr(features, "_read_advisor", lambda *_: nonsense)
    connection = in_process(scripted())

    summary = collect_batch(connection, plan_for(connection, n=1), log=log, seed=1)

    assert summary.outcomes == {"ready": 1}
    assert summary.warnings[0].startswith("the Spot Advisor's score is not recorded: ")

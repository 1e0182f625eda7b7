"""Faults: which calls each affects, what it does to them, how it is ordered and recorded."""

import json
from types import SimpleNamespace

import boto3
import pytest
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from spotlib.sandbox import faults
from spotlib.sandbox.faults import KINDS, Fault
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fired, ScaledTime

RAISES = {
    "fail": ClientError,
    "throttled": ClientError,
    "internal_error": ClientError,
    "unavailable": ClientError,
    "refused": EndpointConnectionError,
    "dns": EndpointConnectionError,
    "cut_off": ConnectionClosedError,
    "lose_answer": ConnectionClosedError,
    "black_hole": ReadTimeoutError,
    "slow": ReadTimeoutError,
    "expired": ClientError,
    "malformed": ResponseParserError,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_its_table_says(account, kind):
    account.image()
    executed, _ = KINDS[kind]
    account.world.faults.append(Fault(kind=kind, action="RequestSpotInstances", seconds=900.0))
    with pytest.raises(RAISES[kind]):
        account.request(2)
    assert len(account.world.truth()) == (2 if executed else 0)
    [fired] = account.world.fired
    assert (fired.fault, fired.action, fired.executed) == (kind, "RequestSpotInstances", executed)
    account.ec2.describe_instances()  # another action is not affected
    assert len(account.world.fired) == 1


@pytest.mark.parametrize(
    ("action", "makes"),
    [
        ("RunInstances", lambda account, _: account.to_run(2)),
        ("CreateFleet", lambda account, template: account.to_fleet(template, 2)),
        (
            "CreateLaunchTemplate",
            lambda account, _: {
                "LaunchTemplateName": "another",
                "LaunchTemplateData": {"ImageId": account.image()},
            },
        ),
        ("DeleteLaunchTemplate", lambda _, template: {"LaunchTemplateId": template}),
    ],
)
@pytest.mark.parametrize("kind", ["throttled", "internal_error", "cut_off", "lose_answer"])
def test_a_fault_of_any_launch_strikes_before_or_after_it_took_effect(account, action, makes, kind):
    params = makes(account, account.template())
    call = getattr(account.ec2, xform_name(action))
    before = held(account.world)
    account.world.faults.append(Fault(kind=kind, action=action, nth=1))
    with pytest.raises(RAISES[kind]):
        call(**params)
    assert (held(account.world) != before) is KINDS[kind][0]


def held(world):
    return len(world.truth()), world.leftovers()


def affected(fault, calls):
    """Numbers of the calls that a fault affects; each call is (action, region, at)."""
    return [
        number
        for number, (action, region, at_s) in enumerate(calls, 1)
        if fault(
            SimpleNamespace(
                service="ec2",
                action=action,
                region=region,
                at_s=at_s,
                number=number,
                read_timeout_s=5.0,
                headers={},
            ),
            KINDS[fault.kind][0],
        )
    ]


CALLS = [("A", "r1", 0.0), ("B", "r1", 1.0), ("A", "r2", 2.0), ("A", "r1", 3.0), ("A", "r1", 4.0)]


@pytest.mark.parametrize(
    ("which", "numbers"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"action": "A"}, [1, 3, 4, 5]),
        ({"region": "r1"}, [1, 2, 4, 5]),
        ({"action": "A", "region": "r1", "nth": 2}, [4]),
        ({"nth": 1}, [1]),
        ({"from_s": 1.0, "to_s": 3.0}, [2, 3]),
        ({"from_s": 1.0, "nth": 1}, [2]),
        ({"rate": 0.0}, []),
    ],
)
@pytest.mark.parametrize("kind", ["throttled", "lose_answer"])
def test_a_fault_affects_calls_by_action_region_number_and_time(kind, which, numbers):
    assert affected(Fault(kind=kind, **which), CALLS) == numbers


def test_a_rate_affects_that_share_of_calls_and_always_the_same_ones():
    calls = [("A", "r", float(i)) for i in range(4000)]
    first = affected(Fault(kind="throttled", rate=0.1, seed=7), calls)
    assert affected(Fault(kind="throttled", rate=0.1, seed=7), calls) == first
    assert affected(Fault(kind="throttled", rate=0.1, seed=8), calls) != first
    assert 330 < len(first) < 470  # 400 +- 3.7 standard deviations


def test_a_black_hole_spends_the_clients_read_timeout_on_the_worlds_clock(account):
    account.world.faults.append(Fault(kind="black_hole", nth=1))
    client = account.ec2
    with pytest.raises(ReadTimeoutError):
        client.describe_instances()
    spent_s = account.world.now_s
    assert client.meta.config.read_timeout == 60
    assert 60 < spent_s < 62


def test_a_slow_answer_is_late_and_after_the_timeout_it_is_lost(account):
    account.world.faults.append(Fault(kind="slow", nth=1, seconds=30.0))
    assert account.ec2.describe_instances()["Reservations"] == []
    assert 30 < account.world.now_s < 32
    account.world.faults.append(Fault(kind="slow", nth=1, seconds=90.0))
    with pytest.raises(ReadTimeoutError):
        account.ec2.describe_instances()
    assert 90 < account.world.now_s < 94


def test_on_a_scaled_clock_a_slow_answer_takes_that_long(make_account):
    account = make_account(clock=ScaledTime(1000.0))
    account.world.faults.append(Fault(kind="slow", seconds=50.0))
    began_s = account.world.now_s
    account.ec2.describe_instances()
    assert account.world.now_s - began_s >= 50


def test_expired_credentials_are_refused_until_they_are_renewed(account):
    account.world.faults.append(Fault(kind="expired"))
    for _ in range(2):
        with pytest.raises(ClientError, match="RequestExpired"):
            account.ec2.describe_instances()
    renewed = boto3.client(
        "ec2",
        region_name="us-east-1",
        aws_access_key_id="renewed",
        aws_secret_access_key="renewed",
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )
    attach(account.world, renewed)
    assert renewed.describe_instances()["Reservations"] == []


def test_a_fault_that_affected_a_call_is_recorded_with_its_moment(account):
    account.world.faults.append(faults.fail("DescribeInstances", code="Unavailable"))
    with pytest.raises(ClientError):
        account.ec2.describe_instances()
    [fired] = account.world.fired
    assert 0 < fired.at_s < account.world.now_s
    assert fired == Fired(fired.at_s, "fail", "DescribeInstances", "us-east-1", False)
    assert account.world.calls[-1].code == "Unavailable"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("throttled", Fault(kind="throttled")),
        (
            "slow:action=DescribeInstances,region=us-east-1,seconds=3,rate=0.5,seed=2",
            Fault(
                kind="slow",
                action="DescribeInstances",
                region="us-east-1",
                seconds=3.0,
                rate=0.5,
                seed=2,
            ),
        ),
        ("fail:nth=2,code=Blocked", Fault(kind="fail", nth=2, code="Blocked")),
        ("dns:from_s=60,to_s=120", Fault(kind="dns", from_s=60.0, to_s=120.0)),
    ],
)
def test_a_fault_can_be_ordered_as_text(text, fault):
    assert faults.parse(text) == fault


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gremlins", "fault must be one of fail, throttled"),
        ("slow:colour=1", "got colour"),
        ("slow:rate=2", "need 0 <= rate <= 1"),
        ("slow:nth=0", "nth >= 1"),
        ("slow:from_s=2,to_s=1", "need from_s <= to_s"),
        ("slow:seconds=inf", "0 <= seconds < inf"),
        ("black_hole:seconds=nan", "0 <= seconds < inf"),
    ],
)
def test_an_invalid_fault_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        faults.parse(text)


def test_an_order_survives_json():
    given = json.loads(json.dumps({"fault": "throttled", "action": "A", "nth": 3}))
    assert faults.order(given) == Fault(kind="throttled", action="A", nth=3)

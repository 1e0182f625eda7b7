"""The loop among other people's requests, with stale reads, and under every network and API fault.

Each test checks that a bracket contains the moment at which an answer first showed its stage
(``seen_s``), that nothing of others is counted or touched, that nothing is launched twice, that a
missed poll is recorded with its cause, and that nothing is left.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import ARM, CHAOS, NANO, QUICK, plan_for, read_events, scripted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import Connection
from spotlib.model import Target
from spotlib.record.tables import load_launches
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.faults import KINDS, Fault
from spotlib.sandbox.forms import Forms
from spotlib.sandbox.world import Fate, Reads, World

EMPTY = {"requests": [], "instances": []}
STRANGERS = {"spotlib:batch": "20240831T000000Z-others", "spotlib:round": "others/0"}
HOMES = ("sa-east-1", "ap-northeast-3", "us-east-1")
STALE = Reads(unknown_s=8.0, id_lag_s=4.0, filter_lag_s=8.0, page_most=2, empty_share=0.3)


def collected(in_process, log, world, *targets, n=3, prepare=None, **plan):
    """Collect on a hostile world; return the summary, the events, and when the batch began."""
    connection = in_process(world)
    checked = plan_for(connection, *(targets or (NANO,)), n=n, timeout_s=plan.pop("timeout_s", 120))
    if prepare:
        prepare(world)
    began_s = world.now_s
    summary = collect_batch(connection, checked, log=log, seed=1, placement_scores=False, **plan)
    events, torn = read_events(log)
    assert not torn
    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    return summary, events, began_s


def brackets_contain_what_was_seen(events, world, began_s):
    """Check that each bracket contains the moment of the first answer; return their number."""
    truth = {each["request_id"]: each for each in world.truth()}
    stages = [event for event in events if event["event"] == "stage"]
    lost = [event for event in events if event["event"] == "poll" and event["error"]]
    for event in stages:
        true = truth[event["request_id"]]
        seen_s = true["seen_s"][event["stage"]] - began_s
        # A failed poll proves nothing, even if its first calls had already shown the stage.
        in_vain = any(poll["asked_s"] < seen_s <= poll["answered_s"] for poll in lost)
        assert event["after_s"] < seen_s or in_vain, (event, true)
        assert seen_s <= event["by_s"], (event, true)
        assert true["happened_s"][event["stage"]] <= true["seen_s"][event["stage"]]
    return len(stages)


def missed(events):
    return [event["error"] for event in events if event["event"] == "poll" and event["error"]]


def test_company_is_neither_counted_nor_touched(in_process, log):
    world = scripted()
    strangers = move_in(world, crowd(HOMES, tags=STRANGERS))
    before = [(each.path[:], dict(each.tags)) for each in strangers]
    summary, events, began_s = collected(in_process, log, world, NANO, ARM, n=3)

    assert summary.outcomes == {"ready": 6}
    assert brackets_contain_what_was_seen(events, world, began_s) == 6 * 3
    assert world.touched == []
    assert [(each.path, each.tags) for each in strangers] == before
    names = {each.request_id for each in strangers} | {
        each.instance.instance_id for each in strangers if each.instance
    }
    assert len(strangers) == 3 * 12
    assert not any(name in json.dumps(events, default=str) for name in names)


def test_the_ledger_would_show_it_if_company_were_touched(in_process):
    world = World()
    [stranger] = [each for each in move_in(world, crowd(["us-east-1"])) if each.on_demand][:1]
    connection = in_process(world)
    connection.call("us-east-1", "terminate_instances", InstanceIds=[stranger.instance.instance_id])
    assert [touch[1] for touch in world.touched] == ["terminate"]


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking whole batches takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.integers(0, 2**31),
    reads=st.builds(
        Reads,
        unknown_s=st.floats(0.0, 15.0),
        id_lag_s=st.floats(0.0, 10.0),
        filter_lag_s=st.floats(0.0, 15.0),
        lag_share=st.floats(0.0, 1.0),
        page_most=st.sampled_from([None, 1, 2]),
        empty_share=st.floats(0.0, 0.6),
    ),
    boot_s=st.floats(0.0, 30.0),
    ok_s=st.floats(0.0, 30.0),
)
def test_brackets_contain_what_was_seen_under_any_stale_reads(
    in_process, seed, reads, boot_s, ok_s
):
    world = scripted(*[Fate(boot_s=boot_s, ok_s=ok_s)] * 4, seed=seed, reads=reads)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "batch.jsonl"
        _, events, began_s = collected(in_process, log, world, NANO, ARM, n=2, timeout_s=90)
    brackets_contain_what_was_seen(events, world, began_s)
    assert len(world.truth()) == 4


def test_stale_reads_cost_time_but_no_outcome(in_process, log):
    world = scripted(reads=STALE)
    summary, events, began_s = collected(in_process, log, world, n=5)

    assert summary.outcomes == {"ready": 5}
    assert brackets_contain_what_was_seen(events, world, began_s) == 15
    assert missed(events) == [] or all("NotFound" in error for error in missed(events))
    truth = world.truth()
    assert all(each["happened_s"]["accepted"] < each["shown_s"]["accepted"] for each in truth)
    assert any(each["happened_s"]["ready"] + 3 < each["seen_s"]["ready"] for each in truth)


CAUSES = {
    "fail": "InternalError",
    "throttled": "RequestLimitExceeded",
    "internal_error": "InternalError",
    "unavailable": "Unavailable",
    "refused": "EndpointConnectionError",
    "dns": "EndpointConnectionError",
    "cut_off": "ConnectionClosedError",
    "lose_answer": "ConnectionClosedError",
    "black_hole": "ReadTimeoutError",
    "slow": "ReadTimeoutError",
    "expired": "RequestExpired",
    "malformed": "ResponseParserError",
}


@pytest.mark.parametrize("action", ["DescribeSpotInstanceRequests", "DescribeInstanceStatus"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_poll_that_a_fault_strikes_is_missed_with_its_cause(in_process, log, kind, action):
    """Three in four calls of one action fail for 20 s."""

    def strike(world):
        from_s = world.now_s + 4.0
        fault = Fault(
            kind=kind, action=action, rate=0.75, from_s=from_s, to_s=from_s + 20.0, seconds=6.0
        )
        world.faults.append(fault)

    world = scripted(*[Fate(boot_s=5.0, ok_s=14.0)] * 3)
    summary, events, began_s = collected(in_process, log, world, prepare=strike)

    assert summary.outcomes == {"ready": 3}
    assert len(world.truth()) == 3
    assert brackets_contain_what_was_seen(events, world, began_s) == 9
    assert world.fired
    assert {error.split(":")[0] for error in missed(events)} <= {CAUSES[kind]}
    assert missed(events)


def requests_of(reply):
    return reply["SpotInstanceRequests"]


def reservations_of(reply):
    return reply["Reservations"]


def instances_of(reply):
    return [each for some in reply["Reservations"] for each in some["Instances"]]


def checks_of(reply):
    return [each["InstanceStatus"] for each in reply["InstanceStatuses"]]


@pytest.mark.parametrize(
    ("action", "parts_of", "lacking", "is_missed"),
    [
        ("describe_spot_instance_requests", requests_of, "SpotInstanceRequestId", True),
        ("describe_spot_instance_requests", requests_of, "State", False),
        ("describe_instances", reservations_of, "Instances", True),
        ("describe_instances", instances_of, "State", True),
        ("describe_instance_status", checks_of, "Status", True),
    ],
)
def test_parts_that_lack_a_member_miss_polls_and_stop_no_clean_up(
    in_process, log, monkeypatch, *, action, parts_of, lacking, is_missed
):
    """In all answers of one action, from the first poll until after the clean-up has begun."""
    call, world = Connection.call, scripted(Fate(boot_s=2.0, ok_s=None))
    until_s = world.now_s + 90.0

    def lossy(self, region, called, /, **given):
        reply = call(self, region, called, **given)
        if called == action and world.now_s < until_s:
            for part in parts_of(reply):
                del part[lacking]
        return reply

    monkeypatch.setattr(Connection, "call", lossy)
    summary, events, _ = collected(in_process, log, world, n=1, timeout_s=30)

    assert summary.outcomes == {"timed_out": 1}
    lost = {f"GarbledAnswer: the answer has no {lacking}"} if is_missed else set()
    assert set(missed(events)) == lost


def test_an_answer_without_the_ids_of_its_requests_is_asked_for_again(in_process, log, monkeypatch):
    call, whole = Connection.call, []

    def lossy(self, region, called, /, **given):
        reply = call(self, region, called, **given)
        if called == "request_spot_instances" and not given.get("DryRun"):
            if not whole:
                del reply["SpotInstanceRequests"][0]["SpotInstanceRequestId"]
            whole.append(given["ClientToken"])
        return reply

    monkeypatch.setattr(Connection, "call", lossy)
    world = scripted()
    summary, _, _ = collected(in_process, log, world, n=1)

    assert summary.outcomes == {"ready": 1}
    assert len(world.truth()) == 1
    assert len(whole) == 2
    assert len(set(whole)) == 1


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"expired"}))
def test_a_request_call_that_a_fault_strikes_launches_once(in_process, log, kind):
    world = scripted()

    def strike(world):
        world.faults.append(Fault(kind=kind, action="RequestSpotInstances", nth=1, seconds=30.0))

    summary, events, began_s = collected(in_process, log, world, n=2, prepare=strike)

    assert summary.outcomes == {"ready": 2}
    assert len(world.truth()) == 2
    assert len(world.fired) == 1
    brackets_contain_what_was_seen(events, world, began_s)
    [requested] = [event for event in events if event["event"] == "requested"]
    assert requested["attempts"] == [CAUSES[kind]]


def test_requests_whose_every_answer_is_lost_are_found_by_their_tag_and_ended(in_process, log):
    """No id is known: only the batch's tag leads to what was launched."""

    def strike(world):
        world.faults.append(Fault(kind="lose_answer", action="RequestSpotInstances"))

    world = scripted(Fate(ok_s=300.0), Fate(held_s=None))
    summary, _, _ = collected(in_process, log, world, n=2, prepare=strike)

    assert summary.outcomes == {"refused": 2}
    assert summary.spent_at_most_usd > 0  # one of them ran
    assert len(world.fired) == 5
    assert len(world.truth()) == 2
    assert {each["state"] for each in world.truth()} <= {"closed", "cancelled"}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("action", ["CancelSpotInstanceRequests", "TerminateInstances"])
def test_clean_up_gets_through_two_minutes_of_faults(in_process, log, kind, action):
    def strike(world):
        to_s = world.now_s + 140.0
        world.faults.append(Fault(kind=kind, action=action, to_s=to_s, seconds=30.0))

    world = scripted(Fate(ok_s=None), Fate(held_s=None))
    summary, _, _ = collected(in_process, log, world, n=2, timeout_s=30, prepare=strike)

    assert summary.outcomes == {"timed_out": 2}
    assert world.fired


def test_credentials_that_expire_and_are_renewed_lose_polls_and_nothing_else(in_process, log):
    def strike(world):
        now_s = world.now_s
        world.faults.append(Fault(kind="expired", from_s=now_s + 5.0, to_s=now_s + 65.0))

    world = scripted(Fate(boot_s=20.0, ok_s=60.0))
    summary, events, began_s = collected(in_process, log, world, n=1, prepare=strike)

    assert summary.outcomes == {"ready": 1}
    assert brackets_contain_what_was_seen(events, world, began_s) == 3
    assert 15 <= len(missed(events)) <= 20


FORMS = [
    Forms(unfit="bad-parameters"),
    Forms(quota="partial"),
    Forms(guest_shutdown="stop"),
    Forms(notice="marked-for-termination"),
    Forms(pending_checks="initializing"),
    Forms(xen_ebs="not-applicable"),
    Forms(status_bucket="wide"),
    Forms(subdigits="milliseconds"),
    Forms(bare_interface="accepted"),
]


@pytest.mark.parametrize("forms", FORMS, ids=repr)
def test_the_loop_works_with_every_form_of_an_undocumented_answer(in_process, log, forms):
    taken = Fate(boot_s=2.0, ok_s=300.0, interrupted_s=20.0)
    world = scripted(QUICK, taken, forms=forms, throttled=True)
    summary, events, began_s = collected(in_process, log, world, n=2, timeout_s=200)

    outcomes = {"ready": 1, "interrupted": 1}
    assert summary.outcomes == outcomes
    brackets_contain_what_was_seen(events, world, began_s)


def test_a_zone_without_the_type_is_a_failure_that_ec2_reports_and_no_wait(in_process, log):
    """EC2 may choose a zone that lacks the type: some seeds meet this, and none waits in vain."""
    codes = set()
    for seed in range(12):
        world = scripted(seed=seed, forms=Forms(zone="any"))
        path = log.with_name(f"{seed}.jsonl")
        target = Target("t4g.nano", "us-east-1")
        summary, events, _ = collected(in_process, path, world, target, n=1)
        [ended] = [event for event in events if event["event"] == "outcome"]
        assert summary.outcomes in ({"ready": 1}, {"failed": 1})
        codes.add(ended["status_code"])
    assert codes == {"fulfilled", "bad-parameters"}


def test_everything_at_once(in_process, log):
    """Others' requests, stale reads, small and empty pages, throttling, and failing calls."""

    def strike(world):
        kinds = ("throttled", "lose_answer", "cut_off", "slow")
        to_s = world.now_s + 150.0
        world.faults += [Fault(kind=kind, rate=0.02, to_s=to_s, seconds=6.0) for kind in kinds]

    world = scripted(reads=STALE, throttled=True)
    move_in(world, crowd(HOMES, tags=STRANGERS))
    summary, events, _ = collected(in_process, log, world, NANO, ARM, n=3, prepare=strike)

    assert sum(summary.outcomes.values()) == 6
    assert len(world.truth()) in (3, 6)  # after five refused attempts a call is given up
    assert world.touched == []
    assert {error.split(":")[0] for error in missed(events)} <= set(CAUSES.values())


DAILY = ("throttled", "internal_error", "slow", "lose_answer", "malformed")


@pytest.mark.parametrize("part", range(4))
def test_every_batch_launches_under_the_faults_of_every_day(in_process, tmp_path, sampled, part):
    """Two hundred batches: each fault strikes 2 % of all calls, those of the preflight too."""
    fired = Counter()
    fates = [QUICK, Fate(held_s=8.0, boot_s=12.0, ok_s=20.0), Fate(boot_s=3.0, ok_s=40.0), QUICK]
    for seed in sampled(range(part, 200, 4), 17):
        world = scripted(*fates, seed=seed)
        world.faults += [Fault(kind=each, rate=0.02, seconds=6.0, seed=seed) for each in DAILY]
        log = tmp_path / f"{seed}.jsonl"
        summary, events, began_s = collected(in_process, log, world, NANO, ARM, n=2)

        assert summary.outcomes == {"ready": 4}, seed
        assert summary.problems == (), seed
        assert len(world.truth()) == 4, seed
        assert brackets_contain_what_was_seen(events, world, began_s) == 12, seed
        fired.update(each.fault for each in world.fired)
    print(dict(fired))
    assert set(fired) == set(DAILY)


LOADED = ("us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "sa-east-1")
TYPES = ["t3.nano", "t3.micro", "t3a.nano", "t2.micro"]
TYPES += ["t3.small", "t3.medium", "t3a.micro", "t3a.small", "t3a.medium", "t2.small"] * CHAOS


def test_many_plans_in_five_regions_at_once_under_faults_and_stale_reads(in_process, log):
    """Forty requests, or a hundred, among those of others: none is left, none is lost."""

    def strike(world):
        kinds = ("throttled", "lose_answer", "cut_off", "slow", "malformed")
        to_s = world.now_s + 400.0
        faults = [
            Fault(kind=kind, rate=0.01, to_s=to_s, seconds=6.0, seed=seed)
            for seed, kind in enumerate(kinds)
        ]
        world.faults += faults

    fates = [QUICK, Fate(boot_s=20.0, ok_s=60.0), Fate(held_s=30.0), Fate(held_s=None)]
    reads = replace(STALE, page_most=9)
    world = scripted(*fates * 25, reads=reads, throttled=True)
    move_in(world, crowd(LOADED, tags=STRANGERS))
    targets = [Target(name, region) for name in TYPES for region in LOADED]
    summary, _events, _began_s = collected(
        in_process, log, world, *targets, n=2, timeout_s=150, prepare=strike, guard=False
    )

    launched = Counter(each["token"] for each in world.truth())
    assert len(targets) == (50 if CHAOS else 20)
    assert len(world.fired) > 20
    assert set(launched.values()) == {2}
    assert world.touched == []
    assert sum(summary.outcomes.values()) == 2 * len(targets)
    assert summary.outcomes["ready"] >= 0.8 * len(targets)
    known = load_launches(log)
    assert set(known["request_id"].dropna()) <= {each["request_id"] for each in world.truth()}
    assert known["outcome"].notna().all()

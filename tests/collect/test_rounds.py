"""How a batch ends: every outcome of a request, and nothing is left."""

import base64
import os
import re
import signal
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from conftest import ARM, NANO, QUICK, plan_for, read_events, scripted

from spotlib.cleanup.close import settle
from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import unfinished
from spotlib.collect.report import ending
from spotlib.collect.rounds import collect_batch
from spotlib.model import Stage, Target
from spotlib.record.replay import replay
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.faults import cut_off, fail, lose_answer
from spotlib.sandbox.world import Fate, World

NEVER = Fate(held_s=None)
EMPTY = {"requests": [], "instances": []}


def events_of(log, name):
    return [event for event in read_events(log)[0] if event["event"] == name]


@pytest.fixture
def run(in_process, log):
    """Collect on a world and return the summary; nothing may be left in it."""

    def collected(world, *targets, n=5, **given):
        plan = {name: given.pop(name) for name in ("timeout_s", "wanted") if name in given}
        connection = in_process(world)
        checked = plan_for(connection, *targets, n=n, **plan)
        faults = given.pop("faults", ())
        world.faults.extend(faults)
        summary = collect_batch(connection, checked, log=log, seed=1, **given)
        assert world.leftovers() == EMPTY
        return summary

    return collected


def test_all_become_ready(run, log):
    summary = run(scripted(), NANO, n=5)

    assert summary.outcomes == {"ready": 5}
    assert summary.problems == ()
    assert load_polls(log)["ready"].iloc[-1] == 5
    assert "open requests 0, live instances 0 (confirmed)" in summary.last_line()


def test_three_of_five_become_ready_and_two_are_censored_at_the_last_poll(run, log):
    summary = run(scripted(QUICK, QUICK, QUICK, NEVER, NEVER), n=5, timeout_s=60)

    launches = load_launches(log)
    late = launches[launches["outcome"] == "timed_out"]
    assert summary.outcomes == {"ready": 3, "timed_out": 2}
    assert set(late["status_code"]) == {"capacity-not-available"}
    assert late["watched_s"].between(50, 60).all()
    assert late["fulfilled_by_s"].isna().all()


def test_polls_are_made_every_three_seconds_of_the_markets_time_until_ten_minutes(run, log):
    run(scripted(*[NEVER] * 2), n=2)

    polls = load_polls(log)
    phase_s = load_batches(log)["phase_s"].iloc[0]
    events = events_of(log, "poll")
    assert list(polls["poll"]) == list(range(polls["poll"].iloc[0], polls["poll"].iloc[0] + 200))
    assert polls["asked_s"].max() == pytest.approx(598.5, abs=1.6)
    assert all(poll["due_s"] == pytest.approx(phase_s + 3 * poll["number"]) for poll in events)
    late_s = [poll["asked_s"] - poll["due_s"] for poll in events[1:]]  # the first waits for the ids
    assert max(map(abs, late_s)) < 1e-5


def test_a_market_without_capacity_yields_only_censored_records(run):
    assert run(scripted(*[NEVER] * 5), n=5, timeout_s=60).outcomes == {"timed_out": 5}


def test_requests_that_outlive_their_valid_until_expire(run, log, monkeypatch):
    monkeypatch.setattr("spotlib.collect.watch.VALID_MARGIN_S", -10)
    summary = run(scripted(QUICK, NEVER), n=2, timeout_s=60)

    assert summary.outcomes == {"ready": 1, "expired": 1}
    assert "schedule-expired" in set(load_launches(log)["status_code"])


def test_a_launch_in_flight_when_its_request_is_cancelled_is_found_and_terminated(run, log):
    late = Fate(in_flight_s=75.0)
    summary = run(scripted(QUICK, late), n=2, timeout_s=60)

    released = [each for event in events_of(log, "release") for each in event["terminated"]]
    assert summary.outcomes == {"ready": 1, "timed_out": 1}
    assert len(set(released)) == 2
    assert summary.cleaned.confirmed


def test_an_instance_that_ec2_ends_while_it_boots_is_interrupted(run, log):
    summary = run(scripted(Fate(boot_s=40.0, interrupted_s=10.0), QUICK), n=2)

    taken = load_launches(log).set_index("outcome").loc["interrupted"]
    assert summary.outcomes == {"ready": 1, "interrupted": 1}
    assert taken["status_code"] == "instance-terminated-no-capacity"
    assert taken["running_by_s"] != taken["running_by_s"]  # never shown: NaN, not a number


@pytest.mark.parametrize(
    ("ebs", "outcome"),
    [("absent", "at once"), ("not-applicable", "at once"), ("reported", "late")],
)
def test_attached_ebs_vetoes_only_where_it_is_reported_and_not_ok(run, log, ebs, outcome):
    fate = replace(QUICK, ebs=ebs, ebs_ok_s=120.0)
    run(scripted(fate), n=1)

    ready_s = load_launches(log)["ready_by_s"].iloc[0]
    assert (outcome == "late") == (ready_s > 120)


def test_a_lost_answer_makes_no_second_launch(run, log):
    world = scripted()
    summary = run(world, n=3, faults=[lose_answer("RequestSpotInstances", 1)])

    requested = events_of(log, "requested")
    assert summary.outcomes == {"ready": 3}
    assert len(world.truth()) == 3
    assert requested[0]["attempts"] == ["ConnectionClosedError"]
    assert requested[0]["asked_s"] < world.truth()[0]["happened_s"]["accepted"]


def test_the_wait_for_a_call_that_was_not_executed_is_not_measured(run, log):
    run(scripted(), n=1, faults=[fail("RequestSpotInstances", 1, "RequestLimitExceeded")])

    launch = load_launches(log).iloc[0]
    assert launch["accepted_by_s"] < 4
    assert launch["ready_by_s"] < 25


def test_a_poll_that_fails_is_missed_and_the_rest_goes_on(run, log):
    faults = [fail("DescribeInstances", 4, "InternalError"), cut_off("DescribeInstances", 6)]
    summary = run(scripted(), n=5, faults=faults)

    polls = load_polls(log)
    missed = polls[polls["error"].notna()]
    assert summary.outcomes == {"ready": 5}
    assert [error.split(":")[0] for error in missed["error"]] == [
        "InternalError",
        "ConnectionClosedError",
    ]
    assert missed["ready"].isna().all()


def test_a_quota_refusal_is_an_error_and_never_a_capacity_outcome(run, log):
    faults = [fail("RequestSpotInstances", 1, "MaxSpotInstanceCountExceeded")]
    summary = run(scripted(), NANO, ARM, n=2, faults=faults)

    refused = load_launches(log).set_index("outcome").loc["refused"]
    assert summary.outcomes == {"ready": 2, "refused": 2}
    assert set(refused["kind"]) == {"quota"}
    assert refused["request_id"].isna().all()
    with pytest.raises(RuntimeError, match="not the market: use a smaller n"):
        summary.require()


def test_a_capacity_refusal_is_a_measurement(run, log):
    faults = [fail("RequestSpotInstances", 1, "InsufficientInstanceCapacity")]
    summary = run(scripted(), n=2, faults=faults)

    assert summary.outcomes == {"refused": 2}
    assert summary.problems == ()
    launches = load_launches(log)
    assert set(launches["kind"]) == {"capacity"}
    assert (launches["watched_s"] == 0.0).all(), "it was known at once"


def test_a_plan_may_wait_for_running_only_and_then_says_nothing_of_ready(run, log):
    run(scripted(), n=2, wanted=Stage.RUNNING)

    launches = load_launches(log)
    assert (launches["outcome"] == "ready").all()
    assert launches["ready_by_s"].isna().all()
    assert (launches["watched_s"] < 15).all()


def test_a_plan_that_is_done_is_released_at_once_while_others_go_on(run):
    slow = replace(QUICK, ok_s=300.0)
    world = scripted(slow, QUICK)  # the order of the plans is drawn: seed 1 sends ARM first
    run(world, NANO, ARM, n=1)

    ended = {each["region"]: each["happened_s"]["shutting-down"] for each in world.truth()}
    assert max(ended.values()) - min(ended.values()) > 200


def test_rounds_start_on_their_grid_and_a_late_one_is_skipped_with_a_record(run, log):
    world = scripted(QUICK, NEVER)  # the second round lasts its whole timeout
    summary = run(world, n=1, rounds=4, every_s=120.0, timeout_s=130.0)

    starts = {event["round"]: event["at_s"] for event in events_of(log, "intent")}
    late = [event for event in events_of(log, "skipped") if not event["polls"]]
    assert list(starts) == [0, 1, 3]
    assert starts[1] == pytest.approx(120, abs=5)
    assert starts[3] == pytest.approx(360, abs=5)
    assert [event["round"] for event in late] == [2]
    assert (replay(log).begun, replay(log).last_round) == (3, 4)
    assert "the round before ended" in late[0]["reason"]
    assert summary.warnings == (
        "1 of 4 rounds was skipped, because the round before lasted longer than every_s=120",
    )
    assert load_batches(log)[["rounds", "rounds_done"]].to_numpy().tolist() == [[4, 4]]


def test_the_second_round_knows_how_long_ago_the_first_was(run, log):
    run(scripted(), n=1, rounds=2, every_s=300.0)

    launches = load_launches(log)
    assert launches["since_last_s"].isna().tolist() == [True, False]
    assert launches["since_last_s"].iloc[1] == pytest.approx(300, abs=5)


def test_plans_over_the_quota_go_in_waves_and_none_is_refused(run, log):
    others = [Target(name, "sa-east-1") for name in ("t3.micro", "t3.small", "t3.medium")]
    world = scripted(quota_vcpus=9)
    summary = run(world, NANO, *others, n=2)

    ids = [event["plan"] for event in events_of(log, "requested")]
    assert summary.outcomes == {"ready": 8}
    assert sorted(ids) == [0, 1, 2, 3]
    assert summary.problems == ()


def test_the_order_of_the_plans_is_random_and_repeats_with_its_seed(in_process, tmp_path):
    def order(seed):
        connection = in_process(scripted())
        targets = [Target(f"t3.{size}", "sa-east-1") for size in ("nano", "micro", "small")]
        path = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}.jsonl"
        collect_batch(connection, plan_for(connection, *targets, n=1), log=path, seed=seed)
        return [event["plan"] for event in events_of(path, "intent")]

    orders = [order(seed) for seed in range(4)]

    assert order(0) == orders[0]
    assert len({tuple(each) for each in orders}) > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_batch_in_order_and_a_second_one_changes_nothing(run, log, number):
    def interrupt(progress):
        if progress.elapsed_s > 6:
            os.kill(os.getpid(), number)

    summary = run(scripted(QUICK, NEVER), n=2, on_poll=interrupt)

    launches = load_launches(log)
    assert set(summary.outcomes) == {"abandoned"}
    assert launches["watched_s"].between(5, 12).all()
    words = rf"stopped by .* \({number.name}\) in round 1 of 1"
    assert re.search(words, summary.problems[0])
    assert re.search(rf"^Batch {log.stem} was {words}\.$", ending(log), re.MULTILINE)
    assert summary.cleaned.confirmed


def broken(*_, **__):
    raise ZeroDivisionError("something that breaks")


def test_whatever_a_live_view_raises_is_reported_once_and_ends_nothing(run, log):
    summary = run(scripted(), n=3, on_poll=broken)

    assert summary.outcomes == {"ready": 3}
    assert summary.problems == ()
    assert summary.warnings == (
        "the live view failed, the batch went on without it: "
        "ZeroDivisionError('something that breaks')",
    )
    assert len(load_polls(log)) > 3
    assert load_batches(log)["clean"].all()


def test_an_error_in_the_middle_still_leaves_nothing_and_is_not_hidden(
    run, in_process, log, monkeypatch
):
    world = scripted()
    monkeypatch.setattr("spotlib.collect.watch.poll_event", broken)
    with pytest.raises(ZeroDivisionError):
        run(world, n=3)

    assert world.leftovers() == EMPTY
    assert Counter(event["outcome"] for event in events_of(log, "outcome")) == {"abandoned": 3}
    assert [each.batch_id for each in unfinished(log)] == [log.stem]  # a line may be missing
    assert sweep(in_process(world), folder=log.parent, regions=[NANO.region]).clean
    assert events_of(log, "clean")[0]["confirmed"]


def test_clean_up_that_cannot_be_confirmed_says_so_with_the_commands(in_process, log, monkeypatch):
    world = scripted()
    connection = in_process(world)
    checked = plan_for(connection, n=1)
    monkeypatch.setattr("spotlib.collect.ending.settle", _impatient)
    world.denied.add("ec2:TerminateInstances")

    summary = collect_batch(connection, checked, log=log, seed=1)

    assert not summary.cleaned.confirmed
    assert "NOT CONFIRMED" in summary.last_line()
    with pytest.raises(RuntimeError, match=r"aws ec2 terminate-instances --region sa-east-1"):
        summary.require()


def _impatient(*args, **given):
    return settle(*args, **{**given, "give_up_s": 60.0})


def test_the_intent_with_its_token_is_on_the_disk_before_the_call(in_process, log):
    world = scripted()
    connection = in_process(world)
    checked = plan_for(connection, n=1)
    seen = []

    def read_the_log(asked, executed):
        if asked.action == "RequestSpotInstances" and not executed:
            intent = events_of(log, "intent")[-1]
            seen.append(intent["request"]["ClientToken"] == asked.params["ClientToken"])

    world.faults.append(read_the_log)
    collect_batch(connection, checked, log=log, seed=1)

    assert seen == [True]


def test_the_user_data_sent_decodes_once_to_a_script(in_process, log):
    world = scripted()
    connection = in_process(world)
    sent = []
    world.faults.append(
        lambda asked, executed: (
            sent.append(asked.params["LaunchSpecification"]["UserData"])
            if asked.action == "RequestSpotInstances" and not executed
            else None
        )
    )
    collect_batch(connection, plan_for(connection, n=1), log=log, seed=1)

    scripts = {base64.b64decode(each, validate=True) for each in sent}
    assert scripts == {b'#!/bin/sh\nshutdown -h +15 "spotlib dead-man\'s switch"\n'}


def test_what_is_known_before_the_request_is_recorded_with_its_age_and_source(run, log):
    run(World(seed=3), n=2)

    launch = load_launches(log).iloc[0]
    assert 0 < launch["price_usd"] < launch["on_demand_usd"]
    assert launch["price_at"] < launch["sent_at"]
    assert launch["sps"] in range(1, 11)
    assert launch["sps_source"] == "placement score for 2"
    assert launch["if_source"] == "not known"
    assert launch["if_score"] != launch["if_score"]  # NaN, not 0


def test_the_highest_price_is_sent_and_too_low_a_one_is_an_outcome_of_the_market(in_process, log):
    """Below the market's price nothing is fulfilled; EC2's own code says why."""
    world = World(seed=1)
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=60, max_price_usd=0.0001)

    summary = collect_batch(connection, checked, log=log, seed=1)

    assert summary.outcomes == {"timed_out": 2}
    assert summary.problems == ()
    assert events_of(log, "intent")[0]["request"]["SpotPrice"] == "0.000100"
    assert set(load_launches(log)["status_code"]) == {"price-too-low"}


def test_a_placement_score_that_is_refused_is_unknown_and_stops_nothing(run, log):
    faults = [fail("GetSpotPlacementScores", 1, "MaxConfigLimitExceeded")]
    summary = run(scripted(), n=1, faults=faults)

    assert summary.outcomes == {"ready": 1}
    assert load_launches(log)["sps"].isna().all()
    assert load_launches(log)["sps_source"].iloc[0] == "not known: MaxConfigLimitExceeded"


SMALL = (
    *(f"{family}.{size}" for family in ("t2", "t3", "t3a", "t4g") for size in ("micro", "small")),
    *(f"{family}.medium" for family in ("t2", "t3", "t3a", "t4g", "c6g", "c7g", "m6g", "m7g")),
    *(f"{family}.large" for family in ("c5", "c5a", "c5d", "c6a", "c6g", "c6i", "c7g", "c7i")),
    *(f"{family}.large" for family in ("m5", "m5a", "m5d", "m6a", "m6g", "m6i", "m7g", "m7i")),
    *(f"{family}.large" for family in ("r5", "r5a", "r5d", "r6a", "r6g", "r6i", "r7g", "r7i")),
    *(f"{family}.xlarge" for family in ("c5", "c5a", "c5d", "c6a", "c6g", "c6i", "c7g", "c7i")),
    *(f"{family}.xlarge" for family in ("m5", "m5a")),
)


def test_a_poll_makes_no_more_calls_for_fifty_plans_than_for_one(in_process, tmp_path):
    """50 requests, as 1 and 50 plans."""
    calls = {}
    for plans in (1, 50):
        world = scripted(quota_vcpus=4000)
        connection = in_process(world)
        targets = [Target(name, "us-east-1") for name in SMALL[:plans]]
        checked = plan_for(connection, *targets, n=50 // plans)
        log = tmp_path / f"{plans}.jsonl"
        collect_batch(connection, checked, log=log, seed=1, placement_scores=False)
        polls = [each for each in events_of(log, "poll") if len(each["plans"]) == plans]
        calls[plans] = {each["calls"] for each in polls}
        assert world.leftovers() == EMPTY

    assert len(SMALL) == 50
    assert calls[1] == {2, 3}  # requests and instances, and the status checks once something runs
    assert calls[50] <= calls[1]


def test_no_call_breaks_a_limit_of_ec2_when_there_are_many_requests(in_process, log):
    """The sandbox refuses 201 filter values and 101 status ids; no call is refused."""
    world = scripted(quota_vcpus=4000)
    connection = in_process(world)
    checked = plan_for(connection, n=201)
    asked = len(world.calls)

    summary = collect_batch(connection, checked, log=log, seed=1, placement_scores=False)

    polls = events_of(log, "poll")
    assert summary.outcomes == {"ready": 201}
    assert max(each["calls"] for each in polls) == 1 + 2 + 3
    assert [call for call in world.calls[asked:] if call.code] == []
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("name", ["a b", "x" * 49, "batch:1", "-my", ".my"])
def test_a_log_whose_name_cannot_be_a_token_or_the_word_of_a_command_is_refused(
    in_process, tmp_path, name
):
    world = scripted()
    connection = in_process(world)

    with pytest.raises(ValueError, match="the log's name is the batch's id"):
        collect_batch(connection, plan_for(connection, n=1), log=tmp_path / f"{name}.jsonl")

    assert world.truth() == []
    assert list(tmp_path.iterdir()) == []


def test_instances_are_tagged_once_they_are_seen(run, log):
    world = scripted()
    run(world, n=3)

    tagged = [each for event in events_of(log, "tagged") for each in event["instance_ids"]]
    assert sorted(tagged) == sorted(each["instance_id"] for each in world.truth())
    assert {event["error"] for event in events_of(log, "tagged")} == {None}


def test_a_batch_over_its_budget_is_refused_before_anything_is_sent(in_process, log):
    world = scripted()
    connection = in_process(world)
    checked = plan_for(connection, n=5)

    with pytest.raises(ValueError, match=r"can cost \$0\.\d+ at most, over budget_usd=0\.01"):
        collect_batch(connection, checked, log=log, budget_usd=0.01)

    assert world.truth() == []
    assert not log.exists()


def test_a_batch_that_may_outlive_its_credentials_is_refused_before_anything_is_sent(
    in_process, log
):
    world = scripted()
    connection = in_process(world)
    ends_at = connection.server_utc() + timedelta(hours=1)
    checked = replace(plan_for(connection, n=1), credentials_end_at=ends_at)

    with pytest.raises(ValueError, match="the credentials end at"):
        collect_batch(connection, checked, log=log, rounds=2, every_s=3600)

    assert world.truth() == []
    assert not log.exists()


def test_a_campaign_counts_what_earlier_batches_have_cost_at_most(in_process, log):
    world = scripted()
    connection = in_process(world)
    checked = plan_for(connection, n=5)
    first = collect_batch(connection, checked, log=log, seed=1)
    limit_usd = checked.bound_usd + first.spent_at_most_usd
    later = log.with_name("20240901T010000Z-abcdef.jsonl")

    with pytest.raises(ValueError, match="of earlier batches the campaign can cost"):
        collect_batch(connection, checked, log=later, campaign_budget_usd=0.999 * limit_usd)

    summary = collect_batch(connection, checked, log=later, campaign_budget_usd=1.001 * limit_usd)
    assert summary.outcomes == {"ready": 5}


def test_an_unknown_bound_is_over_any_budget(in_process, log):
    connection = in_process(scripted(denied={"pricing:GetProducts"}))

    with pytest.raises(ValueError, match="can cost unknown at most, over budget_usd"):
        collect_batch(connection, plan_for(connection, n=1), log=log, budget_usd=1000.0)


def test_a_batch_that_outlives_ec2s_memory_of_its_first_requests_is_still_confirmed(run, log):
    """EC2 forgets ended requests after four hours; they were confirmed to be over before."""
    summary = run(scripted(), n=1, rounds=4, every_s=2 * 3600.0)

    assert summary.outcomes == {"ready": 4}
    assert summary.cleaned.confirmed
    assert summary.problems == ()
    assert len(events_of(log, "intent")) == 4
    assert summary.spent_at_most_usd < 4 * 0.01  # each instance's minutes, not the batch's hours


def test_what_was_never_sent_is_not_called_refused(in_process, log):
    world = scripted()
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2)

    def stop(call, executed):
        if executed and call.action == "RequestSpotInstances":
            os.kill(os.getpid(), signal.SIGTERM)

    world.faults.append(stop)
    summary = collect_batch(connection, checked, log=log, seed=1)

    assert summary.outcomes == {"abandoned": 2, "not sent": 2}
    assert len(load_launches(log)) == 2


def test_a_launch_that_only_the_clean_up_saw_is_counted_in_what_was_spent(in_process, log):
    """No poll has shown it; the other run's instance was seen, and costs less."""
    world = scripted(QUICK, Fate(in_flight_s=75.0))
    connection = in_process(world)
    checked = plan_for(connection, NANO, Target("m5.large", NANO.region), n=1, timeout_s=60)

    summary = collect_batch(connection, checked, log=log, seed=1)

    launched = sum(each["instance_id"] is not None for each in world.truth())
    end = events_of(log, "clean")[-1]
    dearest_usd = max(each.most_usd(60.0) for each in checked.prepared)
    assert (launched, load_launches(log)["instance_id"].notna().sum()) == (2, 1)
    assert summary.spent_at_most_usd > dearest_usd
    assert end["spent_at_most_usd"] == pytest.approx(summary.spent_at_most_usd, rel=1e-3)


def test_an_unknown_price_of_a_late_launch_makes_the_cost_unknown(in_process, log):
    world = scripted(Fate(in_flight_s=75.0), denied={"pricing:GetProducts"})
    connection = in_process(world)

    summary = collect_batch(connection, plan_for(connection, n=1, timeout_s=60), log=log, seed=1)

    assert summary.spent_at_most_usd != summary.spent_at_most_usd

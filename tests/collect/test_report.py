"""What 02 shows, table by table and sentence by sentence, from facts that are made up."""

import math
from datetime import UTC, datetime
from types import SimpleNamespace

import pandas as pd
import pytest
from msgspec import UNSET

from spotlib.collect import report
from spotlib.collect.cost import IF_ALL_DIES, PreflightReport, PreparedPlan
from spotlib.collect.report import (
    _ended,
    banner,
    ending,
    market_name,
    outcome_table,
    plan_table,
    question_words,
    rounds_words,
    target_and_arm,
)
from spotlib.model import ON_DEMAND, Plan, Target

MOTO = "http://127.0.0.1:5000"


def leading_to(endpoint, world=None, market=None):
    simulated = world is not None
    return SimpleNamespace(endpoint=endpoint, world=world, market=market, simulated=simulated)


@pytest.mark.parametrize(
    ("connection", "name", "words"),
    [
        (
            leading_to("sandbox", "w-1", "fitted/7"),
            "SIMULATED (sandbox)",
            "SIMULATED (sandbox): a pretend market, fitted/7, world w-1. No AWS, no cost.",
        ),
        (
            leading_to(MOTO, "w-1"),
            "SIMULATED (sandbox)",
            "SIMULATED (sandbox): a pretend market, of a test, world w-1. No AWS, no cost.",
        ),
        (leading_to("aws"), "AWS", "AWS: the next cells spend real money."),
        (
            leading_to(MOTO),
            f"NOT AWS ({MOTO})",
            f"NOT AWS: another program answers for EC2 at {MOTO}, so its results say nothing "
            "about AWS. It is not known whether it costs money.",
        ),
    ],
)
def test_it_is_said_loudly_whether_a_market_is_pretended_or_costs_money(connection, name, words):
    assert market_name(connection) == name
    assert f">{words}</div>" in banner(connection)


def prepared(method="request_spot_instances", purchase="spot", **known):
    plan = Plan(Target("t3.nano", "sa-east-1"), 2, method=method, purchase=purchase)
    usual = {"image_name": "", "vcpus": 2, "burstable": False, "family": "Standard"}
    return PreparedPlan(plan, "ami-1", **usual | known)


def checked(*plans):
    return PreflightReport("123456789012", "arn", plans, {})


def test_the_plan_is_a_row_for_each_target_and_method_with_money_to_a_hundredth_of_a_cent():
    spot = prepared(price_usd=0.0018, on_demand_usd=0.0042, largest_count=500, image_name="al2023")
    later = prepared("run_instances", ON_DEMAND)

    table = plan_table(checked(spot, later), "AWS")

    first, second = table.to_dict("records")
    assert first == {
        "market": "AWS",
        "target": "t3.nano in sa-east-1",
        "launched by": "request_spot_instances",
        "n": 2,
        "largest n": 500,
        "vCPUs each": 2,
        "spot $/h": 0.0018,
        "on demand $/h": 0.0042,
        # 2 instances, with 0.005 $/h of an address and 8 GB of disk at 0.08 $ a month
        "expected $": round(2 * 300 / 3600 * (0.0018 + 0.005 + 8 * 0.08 / 730), 4),
        "at most $": round(2 * 1020 / 3600 * (0.0042 + 0.005 + 8 * 0.08 / 730), 4),
        "image": "al2023",
    }
    assert (first["expected $"], first["at most $"]) == (0.0013, 0.0057)
    assert (second["launched by"], second["image"]) == ("run_instances:on-demand", "ami-1")
    assert math.isnan(second["at most $"])


def test_the_cost_of_all_rounds_is_that_of_one_as_often_as_it_is_repeated():
    one = prepared(price_usd=1.0, on_demand_usd=2.0)
    cost = checked(one)
    several = f"expected ${3 * cost.expected_usd:.4f}, at most ${3 * cost.bound_usd:.4f}"

    assert rounds_words(cost, {"rounds": 3, "every_s": 900.0}) == (
        f"3 rounds, one every 900 s: {several} ({IF_ALL_DIES})"
    )
    assert rounds_words(cost, {"rounds": 2, "every_s": 60.5}).startswith(
        "2 rounds, one every 60.5 s: expected "
    )
    assert rounds_words(cost, {"rounds": 1, "every_s": 900.0}).startswith("1 round: expected ")


def test_the_questions_for_scores_are_counted_and_what_t3_asks_is_said():
    """One place and six capacities of the ladder, of which 2 is that of the plan itself."""
    both = question_words(checked(prepared()), placement_scores=True, t3=True)
    one = question_words(checked(prepared()), placement_scores=True, t3=False)

    assert both.startswith("placement scores: at most 6 different questions, free, asked again")
    assert "T3 asks for 1, 2, 5, 10, 20, 50 instances, up to the first that no target" in both
    assert one.startswith("placement scores: at most 1 different question, free, asked again")
    assert "; t3=True would ask up to 5 more. AWS limits how many new questions" in one


def launches(*rows):
    names = ["instance_type", "outcome", "method", "purchase", "status_code", "instance_reason"]
    names += ["instance_message", "impaired_by_s"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(region="sa-east-1", simulated=True)


BAD = ("failed", "run_instances", "spot", None, "Server.InternalError")


def test_requests_are_counted_by_target_and_outcome_with_what_ec2_said():
    table = outcome_table(
        launches(
            ("t3.nano", "ready", "run_instances", "spot", "fulfilled", None, None, math.nan),
            ("t3.nano", "ready", "run_instances", "spot", "fulfilled", None, None, 5.0),
            ("t3.nano", *BAD, None, math.nan),
            ("t3.micro", *BAD, "it broke", 7.0),
            ("t3.micro", *BAD, "it broke", 8.0),
        )
    )

    assert [*table.columns] == [
        *("ready", "failed", "EC2's status codes", "why instances ended", "impaired")
    ]
    assert table.loc[(True, "t3.nano in sa-east-1")].tolist() == [
        *(2, 1, "fulfilled x2", "Server.InternalError () x1", 1)
    ]
    assert table.loc[(True, "t3.micro in sa-east-1")].tolist() == [
        *(0, 2, "", "Server.InternalError (it broke) x2", 2)
    ]


@pytest.mark.parametrize(
    ("arms", "named"),
    [
        ([("run_instances", "spot")] * 2, ["", ""]),
        ([("run_instances", "on-demand")] * 2, ["", ""]),
        (
            [("run_instances", "spot"), ("run_instances", "on-demand")],
            [", run_instances", ", run_instances:on-demand"],
        ),
        (
            [("run_instances", "spot"), ("create_fleet_instant", "spot")],
            [", run_instances", ", create_fleet_instant"],
        ),
        (
            [("a", "spot"), ("b", "spot"), ("c", "zero"), ("c", "zero")],
            [", a", ", b", ", c:zero", ", c:zero"],
        ),
    ],
)
def test_how_it_was_launched_is_named_only_where_that_is_not_the_same_for_all(arms, named):
    table = launches(*(("t3.nano", "ready", *arm, "", "", "", math.nan) for arm in arms))

    assert target_and_arm(table).tolist() == [f"t3.nano in sa-east-1{each}" for each in named]


def released(*cancelled, instances=(), at=None):
    return SimpleNamespace(cancelled=cancelled, terminated=instances, at=at)


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ([], "cancelled 0 requests and terminated 0 instances"),
        (
            [released("sir-1", instances=["i-1"]), released("sir-1", "sir-2", instances=["i-1"])],
            "cancelled 2 requests and terminated 1 instance",
        ),
        (
            [released("fleet-1#1", "fleet-1#2", "lt-1", "lt-2", "lt-3", instances=["i-1", "i-2"])],
            "cancelled 0 requests, deleted 1 fleet, deleted 3 launch templates and terminated 2 "
            "instances",
        ),
        (
            [released("sir-1", "spotlib-b", "spotlib-c", "lt-1")],
            "cancelled 1 request, deleted 1 launch template, deleted the queues and rules of EC2's "
            "events and terminated 0 instances",
        ),
    ],
)
def test_what_clean_up_ended_is_counted_by_kind_each_thing_once(passes, words):
    assert _ended(passes) == words


NOON = datetime(2026, 1, 2, 12, 30, 5, tzinfo=UTC)


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What is said of a log with these facts."""

    def words(clean=None, *, releases=(), ends_clean=True, begun=2, spent_usd=None):
        record = SimpleNamespace(
            clean=clean,
            releases=releases,
            begun=begun,
            runs=dict.fromkeys((number, 0) for number in range(begun)),
            batch=SimpleNamespace(rounds=2),
            spent_at_most_usd=spent_usd,
        )
        monkeypatch.setattr(report, "replay", lambda _, polls: None if polls else record)
        monkeypatch.setattr(report, "ends_clean", lambda _: ends_clean)
        monkeypatch.setattr(report.Unfinished, "line", lambda _: "b: DEAD")
        (tmp_path / "b.jsonl").touch()
        return ending(tmp_path / "b.jsonl")

    return words


BY_ITSELF = SimpleNamespace(at=None, stopped_by=UNSET)
BY_SWEEP = SimpleNamespace(at=NOON, stopped_by=UNSET)
OWN, LATER = released("sir-1", instances=["i-1"]), released("sir-2", at=NOON)


def test_an_end_in_order_says_what_was_ended_and_which_rounds_are_lacking(said):
    did = "It cancelled 1 request and terminated 1 instance.  Confirmed: nothing is left."

    assert said(BY_ITSELF, releases=[OWN]) == f"Batch b ended by itself.\n{did}"
    assert said(BY_ITSELF, releases=[OWN], begun=1) == (
        f"Batch b ended by itself; of its 2 rounds 1 were launched.\n{did}"
    )


@pytest.mark.parametrize(
    ("signal", "begun", "words"),
    [
        ("SIGINT", 1, "Ctrl-C or the stop button (SIGINT) in round 1 of 2"),
        ("SIGHUP", 2, "the end of its terminal (SIGHUP) in round 2 of 2"),
        ("SIGTERM", 0, "another program, or the end of its kernel (SIGTERM) before its first req"),
        ("SIGUSR1", 1, "SIGUSR1 in round 1 of 2"),
    ],
)
def test_a_stop_is_told_with_who_stopped_it_and_in_which_round(said, signal, begun, words):
    clean = SimpleNamespace(at=None, stopped_by=signal)

    assert said(clean, releases=[OWN], begun=begun).startswith(f"Batch b was stopped by {words}")


def test_an_end_by_the_guard_says_what_that_ended_when_and_what_it_cost(said):
    words = said(BY_SWEEP, releases=[OWN, LATER], spent_usd=0.5)

    assert words == (
        "Batch b was closed by the guard, or by a sweep: its own process had ended.\n"
        "It cancelled 1 request and terminated 0 instances.  Confirmed at 12:30:05 UTC: nothing is "
        f"left.\nIt can have cost at most $0.5000 ({IF_ALL_DIES})."
    )
    assert "at most unknown (" in said(BY_SWEEP)


@pytest.mark.parametrize("clean", [None, BY_ITSELF, BY_SWEEP])
def test_a_batch_that_does_not_end_clean_is_unfinished_with_what_the_guard_did_so_far(said, clean):
    lacks = {"ends_clean": clean is None}

    assert said(clean, releases=[OWN], **lacks) == "b: DEAD"
    assert said(clean, releases=[OWN, LATER], **lacks) == (
        "b: DEAD; so far the guard, or a sweep, cancelled 1 request and terminated 0 instances"
    )


def test_of_an_empty_log_it_is_said_that_nothing_is_recorded_yet(tmp_path):
    (tmp_path / "b.jsonl").touch()

    assert ending(tmp_path / "b.jsonl") == "b: nothing is recorded yet"

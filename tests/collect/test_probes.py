"""Probes: whether EC2 grants what is asked for, seen within seconds, and ended at once."""

import re
from dataclasses import replace

import numpy as np
import pytest
from conftest import ARM, CHAOS, NANO, plan_for, read_events, scripted
from crashing import DEFAULT, EMPTY, OTHERS, collect_plain
from programs import served
from test_images import named

from spotlib.__main__ import main
from spotlib.analyze.comparable import name_runs
from spotlib.analyze.granted import share_granted
from spotlib.collect.parameters import named_target
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.methods.registry import METHODS
from spotlib.model import Stage, plan_launches
from spotlib.record.tables import load_launches, load_polls
from spotlib.sandbox.market import Market, Pool
from spotlib.sandbox.world import Fate, World

PROBE = {"wanted": Stage.GRANTED, "timeout_s": 30.0}
AT_ONCE = [each for each in OTHERS if METHODS[each.partition(":")[0]].row is INSTANCES]
HELD = Fate(held_s=None)
LATE = Fate(in_flight_s=12.0, boot_s=3.0, ok_s=5.0)
POOLS = {  # in most the market grants a part, in some all
    "us-west-2/usw2-az2": "t3.nano c5ad.large c7gd.2xlarge c8a.medium t3.micro",
    "sa-east-1/sae1-az1": "c6gd.xlarge c8i-flex.large c8i-flex.xlarge m5a.large t3.medium",
    "eu-west-1/euw1-az1": "c6g.xlarge c8g.xlarge c8i-flex.large i4g.xlarge t3.nano",
    "us-east-1/use1-az4": "c6a.2xlarge c7g.2xlarge c8a.large c8g.2xlarge t3.nano",
}
ROUNDS = 50 if CHAOS else 16  # of 20 pools: a thousand probes; else of 10 in two regions


@pytest.fixture
def probe(in_process, log):
    """``probe(*fates)`` makes a batch of probes whose requests have these fates."""

    def probed(*fates, targets=(NANO,), n=1, given=(), **plan):
        world = scripted(*fates, seed=3)
        connection = in_process(world)
        checked = plan_for(connection, *targets, n=n, **{**PROBE, **plan})
        began_s = world.now_s
        summary = collect_batch(connection, checked, log=log, seed=1, guard=False, **dict(given))
        assert world.leftovers() == EMPTY
        assert summary.cleaned.confirmed
        assert summary.problems == ()
        assert summary.spent_at_most_usd <= plan.get("rounds", 1) * checked.bound_usd
        return world, began_s, load_launches(log)

    return probed


def test_a_request_is_granted_or_held_and_each_within_its_bracket(probe, log):
    world, began_s, launches = probe(LATE, HELD, n=2)

    [sent_s] = [each["asked_s"] for each in read_events(log)[0] if each["event"] == "requested"]
    paths = {each["request_id"]: each["path"] for each in world.truth()}
    rows = launches.set_index("outcome")
    for name, other, code in (
        ("granted", "held", "pending-fulfillment"),
        ("held", "granted", "capacity-not-available"),
    ):
        row = rows.loc[name]
        [moment_s] = [at_s for at_s, each in paths[row["request_id"]] if each == code]
        assert row["status_code"] == code
        assert row[f"{name}_after_s"] < moment_s - began_s - sent_s <= row[f"{name}_by_s"] < 3.0
        assert np.isnan(row[f"{other}_by_s"])
    assert launches["fulfilled_by_s"].isna().all()
    assert load_polls(log)["granted"].tolist()[-1] == 1


def test_an_instance_that_comes_after_our_cancel_is_terminated_and_no_failure(probe, log):
    world, _, launches = probe(LATE)

    [truth] = world.truth()
    codes = [code for _, code in truth["path"]]
    assert "request-canceled-and-instance-running" in codes
    assert truth["happened_s"]["cancelled"] < truth["happened_s"]["fulfilled"]
    assert truth["happened_s"]["shutting-down"] < truth["happened_s"]["fulfilled"] + 15.0
    assert launches["outcome"].tolist() == ["granted"]
    assert truth["instance_id"] in log.read_text()


def test_it_is_cancelled_as_soon_as_all_are_decided(probe):
    world, began_s, _ = probe(LATE, HELD, n=2)

    ended = [each["happened_s"]["cancelled"] - began_s for each in world.truth()]
    assert max(ended) < 5.0


def test_what_is_not_decided_by_the_timeout_is_censored_there(probe):
    _, _, launches = probe(Fate(evaluate_s=200.0))

    assert launches["outcome"].tolist() == ["timed_out"]
    assert 28.0 < launches["watched_s"].item() <= 30.0
    assert launches[["granted_by_s", "held_by_s"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("capacity-not-available", "held"),
        ("price-too-low", "held"),
        ("constraint-not-fulfillable", "timed_out"),  # that is about us, not the market
    ],
)
def test_only_what_the_market_lacks_is_an_answer(probe, code, outcome):
    _, _, launches = probe(Fate(held_s=None, holds=code))

    assert launches["outcome"].tolist() == [outcome]


@pytest.mark.parametrize("arm", AT_ONCE)
def test_where_ec2_launches_at_once_its_answer_says_what_it_granted(probe, log, arm):
    world, _, launches = probe(LATE, HELD, targets=(NANO, ARM), methods=[arm])

    rows = launches.set_index("outcome")
    assert sorted(rows.index) == ["granted", "refused"]
    granted = rows.loc["granted"]
    assert granted["granted_by_s"] == granted["accepted_by_s"] == granted["fulfilled_by_s"]
    assert load_polls(log).empty
    [lived] = [each["happened_s"] for each in world.truth() if "granted" in each["happened_s"]]
    assert lived["shutting-down"] - lived["granted"] < 5.0


def test_polls_begin_at_the_answer_and_come_every_half_second(probe, log):
    probe(Fate(evaluate_s=5.2, in_flight_s=9.0))

    polls = load_polls(log)
    accepted_s = load_launches(log)["accepted_by_s"].item()
    assert accepted_s <= polls["asked_s"].iloc[0] + 1e-5 <= accepted_s + 0.11
    gaps_s = np.diff(polls["asked_s"])
    assert len(gaps_s) >= 5
    assert np.allclose(gaps_s[1:], 0.5, atol=0.2)
    assert not [each for each in read_events(log)[0] if each["event"] == "skipped"]


def test_a_launch_records_nothing_that_is_of_probes(in_process, log):
    checked = plan_for(in_process(scripted(LATE, HELD)), n=2, timeout_s=20.0)
    collect_batch(in_process(scripted(LATE, HELD)), checked, log=log, seed=1, guard=False)

    lines = [each for each in read_events(log)[0] if each["event"] != "intent"]
    assert not re.search("granted|held", str(lines))
    launches, polls = load_launches(log), load_polls(log)
    assert launches.filter(regex="granted|held").isna().all(axis=None)
    assert polls["granted"].isna().all()
    assert str(polls["granted"].dtype) == "Int64"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"rounds": 2, "every_s": 299.9}, "every_s must be at least 300 seconds, got 299.9"),
        ({"arm_pause_s": 60.0}, "arm_pause_s must be at least 300 seconds, got 60"),
    ],
)
def test_probes_of_a_pool_that_would_follow_too_soon_are_refused(in_process, log, given, words):
    connection = in_process(scripted())
    checked = plan_for(connection, **PROBE, methods=[DEFAULT, *OTHERS[:1]])

    with pytest.raises(ValueError, match=f"a probe uses the capacity .*{words}"):
        collect_batch(connection, checked, log=log, **{"arm_pause_s": 300.0, **given})
    assert not log.exists()


@pytest.mark.parametrize("pause_s", [float("inf"), float("nan"), 1e15, -1.0])
@pytest.mark.parametrize("name", ["every_s", "arm_pause_s"])
def test_a_pause_that_never_ends_is_refused_with_one_sentence(in_process, log, name, pause_s):
    """In every batch; ``spotlib probe --every-s inf`` gets here too."""
    connection = in_process(scripted())
    checked = plan_for(connection, methods=[DEFAULT, *OTHERS[:1]])

    with pytest.raises(ValueError, match=rf"{name} must be .* \(a year\), got "):
        collect_batch(connection, checked, log=log, rounds=2, **{name: pause_s})
    assert not log.exists()


def test_a_batch_is_of_probes_or_of_launches(in_process, log):
    connection = in_process(scripted())
    plans = plan_launches([NANO], count=1) + plan_launches([ARM], count=1, **PROBE)

    with pytest.raises(ValueError, match="of probes or of launches, got both"):
        collect_batch(connection, plans, log=log)


def test_an_image_that_is_billed_by_the_hour_is_refused_whatever_is_accepted(in_process):
    connection = in_process(scripted())
    found = {}
    for wanted in (Stage.GRANTED, Stage.RUNNING):
        plans = plan_launches([NANO], count=1, wanted=wanted, image=named("RHEL-7.4"))
        found[wanted] = preflight(connection, plans, allow_any_image=True).problems

    assert len(found[Stage.GRANTED]) == 1
    assert "each started hour in full, and a probe lasts seconds" in found[Stage.GRANTED][0]
    assert found[Stage.RUNNING] == ()


def test_the_expected_cost_is_that_of_a_billed_minute(in_process):
    checked = plan_for(in_process(scripted()), n=10, wanted=Stage.GRANTED, timeout_s=600.0)
    [each] = checked.prepared

    assert checked.expected_usd >= 10 * each.price_usd / 60
    assert checked.expected_usd < 10 * (each.price_usd + 0.0065) / 60
    assert checked.bound_usd == pytest.approx(10 * each.most_usd(600.0 + 300.0 + 120.0))


def test_a_burst_takes_the_places_of_its_pool_and_gives_them_back(in_process, log):
    """Seven places: ten at once get seven of them, and five minutes later again."""
    market = Market()
    market.numbers = replace(market.numbers, capacity_most=7.0, contested_at=np.inf, full_at=9.0)
    world = World(market=market)
    connection = in_process(world)
    checked = plan_for(connection, n=10, **PROBE)

    collect_batch(connection, checked, log=log, rounds=3, every_s=300.0, seed=1, guard=False)

    outcomes = load_launches(log).groupby("round")["outcome"].value_counts().unstack()
    assert outcomes["granted"].tolist() == [7, 7, 7]
    assert outcomes["held"].tolist() == [3, 3, 3]


def test_the_share_granted_is_the_truth_of_each_pool(in_process, log):
    """A thousand probes of 20 pools (here a part): the interval holds the chance in the market."""
    market = Market()
    world = World(market=market, seed=5, quota_vcpus=4000)
    connection = in_process(world)
    pools = list(POOLS.items())[: None if CHAOS else 2]
    targets = [named_target(f"{each}@{at}", "") for at, types in pools for each in types.split()]
    checked = plan_for(connection, *targets, n=1, **PROBE)

    summary = collect_plain(connection, checked, log=log, rounds=ROUNDS, every_s=1800.0)

    truth = world.truth()
    launches = load_launches(log)
    table = share_granted(name_runs(launches)).set_index("target")
    assert world.leftovers() == EMPTY
    assert summary.cleaned.confirmed
    assert summary.spent_at_most_usd <= ROUNDS * checked.bound_usd
    assert table["runs"].eq(ROUNDS).all()
    chances, missed = [], []
    for target in targets:
        pool = Pool(target.instance_type, target.availability_zone_id, target.region)
        here = [each for each in truth if (each["instance_type"], each["az_id"]) == pool_key(pool)]
        decided_at = [world.posix(each["path"][1][0]) for each in here]
        has_room = market.free_capacity(pool, decided_at) > 0
        chance = market.accepted_share(pool, decided_at) * has_room
        row = table.loc[str(target)]
        assert row["granted"] == sum("granted" in each["happened_s"] for each in here), target
        missed += [target] * (not row["low"] <= chance.mean() <= row["high"])
        chances.append(chance)
    assert len(missed) <= 3  # of at most 20 intervals of 95 %; more has a chance of 1.6 %
    every = np.concatenate(chances)
    error = np.sqrt((every * (1 - every)).sum())
    assert error > 3.0
    assert abs(table["granted"].sum() - every.sum()) < 3.0 * error


def pool_key(pool):
    return pool.instance_type, pool.zone_id


@pytest.fixture
def to(tmp_path):
    """Where the command probes, a sandbox of this process, and where it records."""
    return ["--endpoint", served(World(), idle_s=0.0), "--results", str(tmp_path)]


def test_the_command_shows_cost_share_and_that_nothing_is_left(to, tmp_path, capsys):
    assert main(["probe", "t3.nano@sa-east-1", "-n", "3", *to]) == 0

    said = capsys.readouterr().out
    assert (
        "SIMULATED (sandbox): t3.nano in sa-east-1 by request_spot_instances: n=3, a probe is "
        in said
    )
    assert re.search(r"1 round: expected \$0\.\d+, at most \$0\.\d+", said)
    assert re.search(
        r"t3.nano in sa-east-1: granted \d of 3 in 1 probe, share \d\.\d\d \(no interv", said
    )
    assert "open requests 0, live instances 0 (confirmed); spent at most simulated $" in said
    assert "(each instance on demand, CPU credits included, until all had ended)" in said
    assert "(if every program of ours dies and only the instances' own switches" in said
    [log] = (tmp_path / "launches").glob("*.jsonl")
    assert load_launches(log)["wanted"].unique().tolist() == ["granted"]


def test_launch_methods_are_one_value_as_in_the_notebook_and_targets_may_follow(to, capsys):
    several = ["--methods", "run_instances run_instances:on-demand", "--methods", DEFAULT]

    assert main(["check", *several, "t3.nano", *to[:2]]) == 0

    said = capsys.readouterr().out
    for arm in ("run_instances", "run_instances:on-demand", DEFAULT):
        assert f"t3.nano in us-east-1 by {arm}: n=1" in said


def test_rounds_of_probes_that_may_not_fit_are_warned_about(to, capsys):
    several = ["--methods", "run_instances create_fleet_instant"]

    rounds = ["--rounds", "2"]
    assert main(["probe", *several, "t3.nano", *rounds, "--every-s", "300", *to]) == 0

    said = capsys.readouterr().out
    assert "warning: a round may last 780 s (2 launch methods, 2 waves), longer than" in said
    assert "warning: 1 of 2 rounds was skipped" in said

    assert main(["probe", *several, "t3.nano", *rounds, *to]) == 0
    said = capsys.readouterr().out
    assert "2 rounds, one every 780 s: expected $" in said
    assert "warning" not in said


def test_the_command_ends_with_1_at_a_problem_and_2_at_an_error(to, tmp_path, capsys):
    assert main(["probe", "t3.nonsense", "t3.nano", *to]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM: instance type 't3.nonsense' is not offered" in said
    assert "$" not in said
    for given, words in (
        (["--rounds", "2", "--every-s", "60"], "with probes every_s must be at least 300 seconds"),
        (["--rounds", "0"], "rounds must be a whole number from 1 to 1000000, got 0"),
        (["--every-s", "0"], "every_s must be above 0"),
        (["--rounds", "1000000", "--every-s", "900"], "would take more than ten years"),
        (["--methods", ""], "--methods has an empty value: give one, or leave it out"),
        (["--methods", " "], "there is no launch method"),
    ):
        assert main(["probe", "t3.nano", *given, *to]) == 2
        said = capsys.readouterr()
        assert words in said.err
        assert said.out == ""
    assert main(["probe", "t3.nano", "--profile", "any"]) == 2
    assert "--profile is for AWS" in capsys.readouterr().err
    assert list((tmp_path / "launches").iterdir()) == []

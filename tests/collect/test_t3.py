"""T3: the largest capacity that EC2 scores 3 or more, by questions of which AWS limits new ones."""

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from conftest import ARM, NANO, plan_for, read_events, scripted

from spotlib.collect.features import LADDER, FeatureSource, score_questions, t3_of
from spotlib.collect.report import question_words
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import Connection
from spotlib.model import Target, plan_launches
from spotlib.record.tables import load_launches
from spotlib.sandbox.faults import Fault, fail
from spotlib.sandbox.history import pools_of
from spotlib.sandbox.market import Market
from spotlib.sandbox.world import World

ASK = "GetSpotPlacementScores"
SMALL = [f"{family}.{size}" for family in ("t3", "t3a", "t4g") for size in ("micro", "medium")]
FAR = Target("t3.nano", "us-east-1")
AT = datetime(2025, 8, 31, 23, 50, tzinfo=UTC)


@pytest.fixture
def asked(monkeypatch):
    """Every placement-score question that is sent, in order."""
    questions, call = [], Connection.call

    def spied(self, region, action, /, **given):
        if action == "get_spot_placement_scores":
            assert given["quick"]  # a round waits for the answer
            questions.append((*given["InstanceTypes"], given["TargetCapacity"], *_where(given)))
        return call(self, region, action, **given)

    monkeypatch.setattr(Connection, "call", spied)
    return questions


def _where(given):
    return given["SingleAvailabilityZone"], *given["RegionNames"]


@pytest.fixture
def scores(monkeypatch):
    """``scores(lambda pool, capacity: ...)`` are the market's from now on."""

    def play(score):
        monkeypatch.setattr(
            Market,
            "placement_scores",
            lambda _, pools, _at, *, capacity=1: np.array([[score(p, capacity)] for p in pools]),
        )

    return play


def source_of(connection, *targets, n=3, **given):
    given.setdefault("t3", True)
    return FeatureSource(connection, plan_launches(targets, count=n), advisor=False, **given)


def test_the_ladder_finds_what_the_market_would_score(in_process):
    world = World(seed=1, market=Market.named("tight"))
    targets = [Target(name, region) for name in SMALL for region in ("us-east-1", "sa-east-1")]
    connection = in_process(world)

    found = source_of(connection, *targets).ask()

    at, t3 = world.posix(world.now_s), {}
    for target in targets:
        pools = pools_of([target.region], [target.instance_type])
        best = [world.market.placement_scores(pools, at, capacity=each).max() for each in LADDER]
        t3[target] = max(
            (n for n, score in zip(LADDER, best, strict=True) if score >= 3), default=0
        )
    assert {target: each.t3 for target, each in found.items()} == t3
    assert len(set(t3.values())) > 2
    assert {each.t3_source for each in found.values()} == {"placement scores"}
    assert all(each.t3_at <= connection.clock.utc() for each in found.values())


@pytest.mark.parametrize(
    ("most", "asked_for"), [(0, [1]), (1, [1, 2]), (7, [1, 2, 5, 10]), (50, list(LADDER))]
)
def test_the_questions_stop_at_the_first_capacity_scored_below_3(
    in_process, scores, asked, most, asked_for
):
    scores(lambda _, capacity: 3 if capacity <= most else 2)

    found = source_of(in_process(World(seed=1)), NANO, placement_scores=False).ask()

    assert [capacity for _, capacity, *_ in asked] == asked_for
    assert found[NANO].t3 == max((each for each in LADDER if each <= most), default=0)


def test_a_score_on_the_scale_above_3_is_as_good_as_3(in_process, scores):
    """Since September 2025 EC2 gives some GPU types 4 to 9 where it gave 3."""
    scores(lambda _, capacity: 9 if capacity < 10 else 4 if capacity < 50 else 2)

    assert source_of(in_process(World(seed=1)), NANO).ask()[NANO].t3 == 20


def test_regions_share_their_questions_which_stay_the_same_when_one_is_decided(
    in_process, scores, asked
):
    """Fewer regions would be new questions."""
    scores(lambda pool, capacity: 3 if capacity <= (2 if pool.region == NANO.region else 20) else 1)

    found = source_of(in_process(World(seed=1)), NANO, FAR, placement_scores=False).ask()

    assert asked == [("t3.nano", each, False, "sa-east-1", "us-east-1") for each in LADDER]
    assert (found[NANO].t3, found[FAR].t3) == (2, 20)


def test_a_zone_has_its_own_t3(in_process, scores, asked):
    near, far = (Target("t3.nano", "us-east-1", f"use1-az{number}") for number in (1, 4))
    scores(lambda pool, capacity: 3 if capacity <= (1 if pool.zone_id == "use1-az1" else 10) else 2)

    found = source_of(in_process(World(seed=1)), near, far, FAR).ask()

    assert (found[near].t3, found[far].t3, found[FAR].t3) == (1, 10, 10)
    assert {by_zone for _, _, by_zone, *_ in asked} == {True, False}


def test_the_same_question_is_never_asked_twice_within_ten_minutes(in_process, scores, asked):
    scores(lambda *_: 3)
    connection = in_process(World(seed=1))
    source = source_of(connection, NANO, n=5)  # 5 is on the ladder

    first = source.ask()
    asked_first = list(asked)
    connection.clock.sleep(500)
    again = source.ask()
    connection.clock.sleep(200)
    later = source.ask()

    assert sorted(asked_first) == sorted(set(asked_first))
    assert [capacity for _, capacity, *_ in asked_first] == [5, 1, 2, 10, 20, 50]
    assert again[NANO].t3_at == first[NANO].t3_at < later[NANO].t3_at
    assert asked == asked_first * 2


def test_nothing_more_is_asked_unless_it_is_wanted(in_process, asked):
    plans = plan_launches([NANO], count=3)

    found = FeatureSource(in_process(World(seed=1)), plans, advisor=False).ask()

    assert [capacity for _, capacity, *_ in asked] == [3]
    assert (found[NANO].t3, found[NANO].t3_source) == (None, "not asked")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (fail(ASK, 3, "MaxConfigLimitExceeded"), "MaxConfigLimitExceeded"),
        (fail(ASK, 1, "MaxConfigLimitExceededException"), "MaxConfigLimitExceededException"),
        (Fault(kind="throttled", action=ASK), "RequestLimitExceeded"),
        (Fault(kind="black_hole", action=ASK), "ReadTimeoutError"),
        (Fault(kind="malformed", action=ASK), "ResponseParserError"),
    ],
)
def test_a_limit_of_aws_makes_t3_missing_with_a_reason_and_ends_no_batch(
    in_process, scores, log, fault, code
):
    scores(lambda pool, capacity: 3 if pool.region == NANO.region or capacity < 2 else 1)
    world = scripted()
    report = plan_for(in_process(world), NANO, FAR, n=2)
    world.faults.append(fault)

    summary = collect_batch(
        in_process(world), report, log=log, seed=1, placement_scores=False, advisor=False, t3=True
    )

    launches = load_launches(log).drop_duplicates("plan").set_index("region")
    assert summary.outcomes == {"ready": 4}
    assert summary.problems == ()
    [warning] = summary.warnings
    assert warning.startswith("the T3 of t3.nano is not recorded: ")
    assert launches.loc[NANO.region, "t3_source"] == f"not known: {code}"
    assert launches.loc[NANO.region, "t3"] is pd.NA
    if fault.nth == 3:  # this region was decided by the questions before
        assert launches.loc[FAR.region, ["t3", "t3_source"]].tolist() == [1, "placement scores"]


def test_a_place_without_a_score_has_no_t3(in_process, monkeypatch):
    """EC2 answers with the ten best places only."""
    connection = in_process(World(seed=1))
    monkeypatch.setattr(Connection, "call", lambda *_, **__: {"SpotPlacementScores": []})

    known = source_of(connection, NANO, placement_scores=False)
    known._ask_scores(known.connection)

    assert known._scores[NANO]["t3"] is None
    assert known._scores[NANO]["t3_source"] == "not known: another place had a better score"
    assert t3_of([3, None, 3]) is None


def test_the_number_of_questions_is_stated_before_they_are_asked(in_process, scores, asked):
    scores(lambda *_: 3)
    connection = in_process(World(seed=1))
    report = plan_for(connection, NANO, FAR, ARM, n=4)
    plans = [each.plan for each in report.prepared]
    asked.clear()

    FeatureSource(connection, plans, t3=True, advisor=False).ask()

    assert len(asked) == score_questions(plans, placement_scores=True, t3=True) == 2 * 7
    words = question_words(report, placement_scores=True, t3=True)
    assert words.startswith("placement scores: at most 14 different questions, free")
    assert "t3=True would ask up to 12 more" in question_words(
        report, placement_scores=True, t3=False
    )


def selection(**columns):
    row = {"rank": 1, "instance_type": NANO.instance_type, "region": NANO.region}
    return pd.DataFrame([row | {"source": "spotlake", "created": "2026-01-01T00:00:00Z"} | columns])


def test_where_t3_is_not_asked_it_is_the_selections_with_the_time_it_was_taken(in_process, log):
    connection = in_process(scripted())
    table = selection(if_mean=2.4, if_at=str(AT), t3=20.0, t3_at=str(AT))

    collect_batch(
        connection, plan_for(connection, n=1), log=log, seed=1, selection=table, advisor=False
    )

    [known] = [each["features"] for each in read_events(log)[0] if each["event"] == "intent"]
    assert (known["t3"], known["t3_source"]) == (20, "selection")
    assert (known["if_score"], known["if_source"]) == (2.4, "selection")
    assert known["t3_at"] == known["if_at"] == "2025-08-31T23:50:00Z"


def test_what_was_asked_comes_before_what_the_selection_says(in_process, scores):
    scores(lambda _, capacity: 3 if capacity <= 2 else 1)
    table = selection(t3=50.0, t3_at=str(AT))

    found = source_of(in_process(World(seed=1)), NANO, selection=table).ask()

    assert (found[NANO].t3, found[NANO].t3_source) == (2, "placement scores")


def test_a_zone_and_a_target_of_no_selection_have_no_t3_of_it(in_process):
    zone = Target(NANO.instance_type, NANO.region, "sae1-az1")
    connection, table = in_process(World(seed=1)), selection(t3=50.0, t3_at=str(AT))

    found = source_of(connection, zone, FAR, t3=False, selection=table).ask()

    assert [each.t3_source for each in found.values()] == ["not asked"] * 2


def test_an_older_selection_file_says_nothing_of_when_its_scores_were_taken(in_process):
    """The day on which it was written is not the day of a score."""
    source = source_of(in_process(World(seed=1)), NANO, t3=False, selection=selection(if_mean=2.4))

    found = source.ask()[NANO]

    assert (found.if_score, found.if_at, found.if_source) == (2.4, None, "selection")
    assert (found.t3, found.t3_at, found.t3_source) == (None, None, "not asked")


@pytest.mark.parametrize("nonsense", ["many", -1, 2.0**60, math.inf, math.nan, None])
def test_nonsense_in_a_selection_is_unknown(in_process, nonsense):
    table = selection(t3=nonsense, t3_at="soon", if_mean="high", if_at=nonsense)

    found = source_of(in_process(World(seed=1)), NANO, t3=False, selection=table).ask()[NANO]

    assert (found.t3, found.t3_source) == (None, "not asked")
    assert (found.if_score, found.if_at, found.if_source) == (None, None, "not known")

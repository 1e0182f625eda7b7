"""What is known of a target before it is requested: from which answer, how old, or unknown."""

import io
import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import ARM, NANO, scripted

from spotlib.collect import features
from spotlib.collect.features import (
    LADDER,
    FeatureSource,
    advisor_score,
    score_questions,
    since_last_launch_s,
    spot_prices,
    t3_of,
    target_price,
)
from spotlib.model import Target, plan_launches

AT = datetime(2026, 1, 1, tzinfo=UTC)
ZONE = Target("t3.nano", "sa-east-1", "sae1-az2")


def test_the_price_of_a_region_is_its_cheapest_zones_and_of_a_zone_its_own():
    prices = {"t3.nano": {"sae1-az1": (0.02, AT), "sae1-az3": (0.01, AT + timedelta(hours=1))}}

    assert target_price(prices, NANO) == (0.01, AT + timedelta(hours=1))
    assert target_price(prices | {"t3.nano": {"sae1-az2": (0.03, AT)}}, ZONE) == (0.03, AT)
    for unknown in (target_price(prices, ZONE), target_price({}, NANO), target_price({}, ZONE)):
        assert math.isnan(unknown[0])
        assert unknown[1] is None


class Prices:
    """Answers with these items, and notes what was asked."""

    def __init__(self, *items):
        self.items, self.asked = items, []

    def server_utc(self):
        return AT

    def pages(self, region, action, key, **given):
        self.asked.append((region, action, key, given))
        return iter(self.items)


def item(price, hours, *, zone="sae1-az1", name="t3.nano"):
    at = AT - timedelta(hours=hours)
    known = {"InstanceType": name, "SpotPrice": str(price), "Timestamp": at}
    return known | {"AvailabilityZoneId": zone, "AvailabilityZone": "sa-east-1a"}


def test_the_price_in_force_is_the_newest_of_each_zone_as_of_now():
    nameless = item(0.05, 1) | {"AvailabilityZoneId": ""}
    answers = Prices(item(0.06, 3), item(0.03, 1), item(0.01, 2), item(0.04, 9, zone="b"), nameless)

    found = spot_prices(answers, "sa-east-1", ["t3.nano", "t3.micro"])

    newest = {"sae1-az1": (0.03, AT - timedelta(hours=1)), "b": (0.04, AT - timedelta(hours=9))}
    assert found == {"t3.nano": newest | {"sa-east-1a": (0.05, AT - timedelta(hours=1))}}
    [(_, _, _, given)] = answers.asked
    assert given["InstanceTypes"] == ["t3.micro", "t3.nano"]
    assert given["StartTime"] == given["EndTime"] == AT
    assert spot_prices(answers, "cn-north-1", ["t3.nano"]) == {}  # it is in another currency
    assert len(answers.asked) == 1


@pytest.mark.parametrize(("range_", "score"), [(0, 3.0), (1, 2.5), (4, 1.0)])
def test_the_advisors_range_is_a_score_from_3_down_to_1(range_, score):
    assert advisor_score({"t3.nano": {"r": range_}}, "t3.nano") == score
    assert math.isnan(advisor_score({"t3.nano": {"r": range_}}, "t3.micro"))


@pytest.mark.parametrize(
    ("scores", "t3"),
    [
        ([], None),
        ([3], None),
        ([2], 0),
        ([3, None], None),
        ([3, 3, 2], 2),
        ([3, 3, 3, 2], 5),
        ([3, 3, 3, 3, 2], 10),
        ([3, 2, 9], 1),
        ([3, 3, 3, 3, 3, 2], 20),
        ([3, 3, 3, 3, 3, 3], 50),
    ],
)
def test_t3_is_the_largest_capacity_up_to_which_each_is_scored_3_or_more(scores, t3):
    assert t3_of(scores) == t3


def test_the_time_since_our_own_last_launch_is_that_of_the_same_target():
    known = {NANO: AT - timedelta(seconds=90.5)}

    assert since_last_launch_s(known, NANO, AT) == 90.5
    assert since_last_launch_s(known, ARM, AT) is None


@pytest.fixture
def source(in_process):
    """What is known of these targets, without an advisor unless it is asked for."""

    def build(*targets, **given):
        plans = plan_launches(targets or (NANO,), count=2)
        return FeatureSource(in_process(scripted()), plans, **{"advisor": False} | given)

    return build


@pytest.mark.parametrize(
    ("t3", "known"),
    [(0, 0), ("7", 7), (1000, 1000), (1001, None), (-1, None), ("many", None), (math.nan, None)],
)
def test_the_t3_of_a_selection_is_a_possible_number_of_instances_of_a_region(source, t3, known):
    names = {
        "instance_type": ["t3.micro", "t3.small", "t3.nano", "t3.nano", "t3.nano"],
        "region": ["sa-east-1", "sa-east-1", "us-east-1", "ca-west-1", "sa-east-1"],
    }
    table = pd.DataFrame(names | {"t3": [5, 6, 7, 8, t3], "t3_at": "2026-01-01", "if_mean": 2.5})
    found = source(NANO, ZONE, ARM, placement_scores=False, selection=table).ask()

    assert found[NANO].t3 == known
    assert found[NANO].t3_source == ("not asked" if known is None else "selection")
    assert found[NANO].t3_at == (None if known is None else AT)
    assert (found[ZONE].t3, found[ARM].t3) == (None, None)
    interruption = [(each.if_score, each.if_source) for each in found.values()]
    assert interruption == [(2.5, "selection"), (2.5, "selection"), (None, "not known")]
    without = source(placement_scores=False, selection=table.drop(columns="region")).ask()[NANO]
    assert (without.t3, without.if_score) == (None, None)  # it may be of any region


def test_a_zone_has_its_own_row_of_a_selection_or_else_its_regions(source):
    other = replace(ZONE, availability_zone_id="sae1-az9")
    zones = {"availability_zone_id": ["sae1-az9", ZONE.availability_zone_id], "if_mean": [1.0, 3.0]}
    table = pd.DataFrame({"instance_type": "t3.nano", "region": "sa-east-1"} | zones)
    whole = pd.DataFrame({"instance_type": ["t3.nano"], "region": "sa-east-1", "if_mean": 2.0})

    def found(table):
        known = source(NANO, ZONE, other, placement_scores=False, selection=table).ask()
        return [known[each].if_score for each in (NANO, ZONE, other)]

    assert found(table) == [None, 3.0, 1.0]
    assert found(pd.concat([table[1:], whole])) == [2.0, 3.0, 2.0]


def test_scores_are_asked_again_after_ten_minutes_and_prices_each_time(source):
    asked = source()
    clock = asked.connection.clock
    first = asked.ask()[NANO]
    found = []
    for age_s in (599.9, 600.0):
        clock.sleep((first.sps_at - clock.utc()).total_seconds() + age_s)
        began_at = clock.utc()
        known = asked.ask()[NANO]
        found.append((known.sps_at == first.sps_at, known.sps_at == began_at))
        assert began_at <= known.price_at < began_at + timedelta(seconds=2)

    assert found == [(True, False), (False, True)]
    assert first.sps_source == "placement score for 2"
    assert source(placement_scores=False).ask()[NANO].sps_source == "not asked"


def test_the_advisor_is_asked_once_also_if_it_fails(source, monkeypatch):
    asked = []

    def read(_, regions):
        asked.append(regions)
        if len(asked) > 1:
            raise OSError("it does not answer")
        return {"spot_advisor": {"sa-east-1": {"Linux": {"t3.nano": {"r": 1}}}}}

    monkeypatch.setattr(features, "_read_advisor", read)
    there, plans = source().connection, plan_launches((NANO, ARM), count=2)
    good, bad = (FeatureSource(there, plans, placement_scores=False) for _ in range(2))
    for each in (good, good, bad, bad):
        found = each.ask()

    assert asked == [{NANO.region, ARM.region}] * 2
    assert {each.if_source for each in found.values()} == {"not known"}
    assert (
        "the Spot Advisor's score is not recorded: OSError"
        in bad.warnings["the Spot Advisor's score"]
    )
    known = good.ask()
    assert (known[NANO].if_score, known[NANO].if_source) == (2.5, "spot advisor")
    assert known[NANO].if_at is not None
    assert known[ARM].if_score is None


@pytest.mark.parametrize(
    ("simulated", "url", "endpoint", "asked"),
    [
        (
            True,
            "http://127.0.0.1:5",
            "sandbox",
            [("http://127.0.0.1:5", "/spot-advisor-data.json?region=a-1&region=b-1", 120.0)],
        ),
        (True, None, "sandbox", []),
        (False, None, "http://localhost:9", []),
    ],
)
def test_the_advisor_is_the_sandboxs_own_or_amazons(monkeypatch, simulated, url, endpoint, asked):
    seen = []

    def control(url, path, *, timeout_s):
        seen.append((url, path, timeout_s))
        return {"spot_advisor": {}}

    monkeypatch.setattr(features, "control", control)
    there = SimpleNamespace(simulated=simulated, url=url, endpoint=endpoint)

    assert features._read_advisor(there, {"b-1", "a-1"}) == ({"spot_advisor": {}} if asked else {})
    assert seen == asked


def test_amazons_advisor_is_read_from_its_page(monkeypatch):
    asked = []

    def opened(url, *, timeout):
        asked.append((url, timeout))
        return io.BytesIO(b'{"spot_advisor": {}}')

    monkeypatch.setattr(features.urllib.request, "urlopen", opened)
    there = SimpleNamespace(simulated=False, url=None, endpoint="aws")

    assert features._read_advisor(there, {"us-east-1"}) == {"spot_advisor": {}}
    assert asked == [("https://spot-bid-advisor.s3.amazonaws.com/spot-advisor-data.json", 10)]


FAR = Target("t3.nano", "eu-west-1")


def test_each_price_is_from_the_history_of_its_own_region_and_product(source, monkeypatch):
    usd = {("eu-west-1", "Linux/UNIX"): 0.1, ("sa-east-1", "Linux/UNIX"): 0.2}
    usd["sa-east-1", "Windows"] = 0.4
    asked = []

    def prices(_patient, region, names, *, product):
        asked.append((region, product, names))
        price = (usd[region, product], AT)
        return {name: {"sae1-az2": price} for name in ("t3.nano", "t3.micro", "t4g.medium")}

    monkeypatch.setattr(features, "spot_prices", prices)
    micro, windows = replace(NANO, instance_type="t3.micro"), ZONE
    targets = (NANO, FAR, windows, micro)
    found = source(*targets, placement_scores=False, products={windows: "Windows"}).ask()

    assert [found[each].price_usd for each in targets] == [0.2, 0.1, 0.4, 0.2]
    assert {each.price_source for each in found.values()} == {"spot price history"}
    assert asked == [
        ("eu-west-1", "Linux/UNIX", {"t3.nano"}),
        ("sa-east-1", "Linux/UNIX", {"t3.nano", "t3.micro"}),
        ("sa-east-1", "Windows", {"t3.nano"}),
    ]


def test_no_price_in_another_currency_is_taken_for_one_in_dollars():
    answers = Prices(item(0.05, 1))

    assert spot_prices(answers, "cn-north-1", ["t3.nano"]) == {}
    assert spot_prices(answers, "eusc-de-east-1", ["t3.nano"]) == {}


@pytest.fixture
def scored(monkeypatch):
    """``scored(lambda question: {place: score})`` answers from now on; it keeps the questions."""
    asked = []

    def play(answer):
        def scores(_patient, question):
            asked.append(question)
            return answer(question)

        monkeypatch.setattr(features, "_placement_scores", scores)
        return asked

    return play


def test_one_question_is_for_ten_regions_at_most(source, scored):
    asked = scored(lambda question: dict.fromkeys(question.regions, 2))
    regions = [f"eu-{side}-{number}" for side in ("west", "north") for number in range(6)][:11]
    plans = plan_launches([Target("t3.nano", each) for each in regions], count=3)
    each = source(placement_scores=True, t3=True)
    each.plans = plans

    each._ask_scores(None)

    assert sorted(len(question.regions) for question in asked) == [1, 1, 10, 10]
    assert {question.capacity for question in asked} == {3, 1}
    assert {each._scores[plan.target]["sps"] for plan in plans} == {2}
    assert score_questions(plans, placement_scores=True, t3=False) == 2
    assert score_questions(plans, placement_scores=False, t3=True) == 12
    assert score_questions(plans, placement_scores=True, t3=True) == 14
    assert score_questions(plans, placement_scores=False, t3=False) == 0


def test_an_answer_is_not_kept_beyond_ten_minutes(source, scored):
    asked = scored(lambda _: {"sa-east-1": len(asked)})
    each = source()

    found = [each.ask()[NANO].sps]
    each.connection.clock.sleep(700.0)
    found.append(each.ask()[NANO].sps)

    assert found == [1, 2]


@pytest.mark.parametrize(
    ("here", "capacities", "t3"),
    [
        (([1], [2]), [1], (0, 0)),
        (([3, 2], [2]), [1, 2], (1, 0)),  # the other is not asked for alone
        (([3, 3, 1], [9, 4, 3, 2]), [1, 2, 5, 10], (2, 5)),
        (([9, None], [3, 3, 2]), [1, 2, 5], (None, 2)),  # it was not among the best any more
        (([3, None], [2]), [1, 2], (None, 0)),
        (([3] * 6, [0]), [1, 2, 5, 10, 20, 50], (50, 0)),
    ],
)
def test_larger_capacities_are_asked_for_as_long_as_a_place_is_scored_3(
    source, scored, here, capacities, t3
):
    """A place without a score in an answer is undecided, and ends nothing."""

    def answer(question):
        step = LADDER.index(question.capacity)
        both = zip(("sa-east-1", "eu-west-1"), here, strict=True)
        found = {place: (scores[step:] or scores[-1:])[0] for place, scores in both}
        return {place: score for place, score in found.items() if score is not None}

    asked = scored(answer)
    found = source(NANO, FAR, placement_scores=False, t3=True).ask()

    assert [question.capacity for question in asked] == capacities
    assert (found[NANO].t3, found[FAR].t3) == t3
    known, unknown = "placement scores", "not known: another place had a better score"
    for target, each in zip((NANO, FAR), t3, strict=True):
        assert found[target].t3_source == (unknown if each is None else known)


def test_after_a_question_that_fails_no_larger_capacity_is_asked_for(source, scored):
    asked = scored(lambda _: 1 / 0)
    each = source(placement_scores=False, t3=True)
    found = each.ask()[NANO]

    assert len(asked) == 1
    assert (found.t3, found.t3_source) == (None, "not known: ZeroDivisionError")
    assert each.warnings == {
        "the T3 of t3.nano": "the T3 of t3.nano is not recorded: ZeroDivisionError('division by "
        "zero')"
    }


@pytest.mark.parametrize(("zones", "key"), [(False, "Region"), (True, "AvailabilityZoneId")])
def test_a_question_is_for_regions_or_for_zones_and_a_round_does_not_wait_long_for_it(zones, key):
    given = []

    def call(region, action, **how):
        given.append((region, action, how))
        scores = [{key: "a", "Score": 7}, {key: "b", "Score": 2}]
        return {"SpotPlacementScores": scores}

    targets = (ZONE, replace(FAR, availability_zone_id="euw1-az1")) if zones else (NANO, FAR)
    question = features._question(plan_launches(targets, count=2), 5)

    found = features._placement_scores(SimpleNamespace(call=call), question)

    assert found == {"a": 7, "b": 2}
    [(region, action, how)] = given
    assert (region, action) == ("eu-west-1", "get_spot_placement_scores")
    assert how == {
        "quick": True,
        "InstanceTypes": ["t3.nano"],
        "TargetCapacity": 5,
        "SingleAvailabilityZone": zones,
        "RegionNames": ["eu-west-1", "sa-east-1"],
        "MaxResults": 10,
    }


def test_the_on_demand_price_is_the_highest_that_is_listed_in_dollars():
    """A bound must not be too low."""

    def listed(*prices):
        dimensions = {str(n): {"pricePerUnit": each} for n, each in enumerate(prices)}
        return json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": dimensions}}}})

    lists = [listed({"USD": "0.1"}, {"CNY": "9"}), listed({"USD": "0.3"}, {"USD": "0.2"})]
    reply, regions = {"PriceList": lists}, ["us-east-1"]
    there = SimpleNamespace(region_names=lambda *_: regions, call=lambda *_, **__: reply)

    assert features.on_demand_usd(there, NANO) == 0.3
    reply["PriceList"] = [listed({"CNY": "9"}), json.dumps({"terms": {}})]
    assert math.isnan(features.on_demand_usd(there, NANO))
    regions.clear()
    reply["PriceList"] = lists
    assert math.isnan(features.on_demand_usd(there, NANO))

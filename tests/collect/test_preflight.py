"""Each problem that stops a batch is one clear sentence, before anything is launched."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from botocore.loaders import Loader
from conftest import NANO, QUICK, plan_for, scripted

import spotlib
from spotlib.collect import preflight as preflight_module
from spotlib.collect.account import check_currency
from spotlib.collect.answers import Answers
from spotlib.collect.cost import PreparedPlan, split_waves
from spotlib.collect.features import on_demand_usd, spot_prices
from spotlib.collect.free_vcpus import with_quota
from spotlib.collect.images import Image
from spotlib.collect.preflight import preflight
from spotlib.collect.quotas import quota_of, vcpus_of
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.caller import Caller
from spotlib.ec2.connection import Connection
from spotlib.ec2.places import home_region
from spotlib.ec2.refusals import Refusal
from spotlib.model import Plan, Stage, Target, plan_launches
from spotlib.sandbox.faults import fail
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import World

LAUNCHING = {"RequestSpotInstances", "RunInstances", "CreateFleet"}


@pytest.fixture
def problems(in_process):
    """Return the problems that a preflight finds; it must not launch anything."""

    def found(*targets, world=None, n=1, **given):
        world = world or scripted()
        account_id = given.pop("account_id", None)
        plans = plan_launches(targets or (NANO,), count=n, **given)
        checked = preflight(in_process(world), plans, account_id=account_id)
        assert world.truth() == []
        tried = {call.code for call in world.calls if call.action in LAUNCHING}
        assert tried <= {"DryRunOperation", "UnauthorizedOperation"}
        return list(checked.problems)

    return found


def test_a_sound_plan_has_no_problem_and_known_costs(in_process):
    checked = plan_for(in_process(scripted()), n=5)

    [each] = checked.prepared
    assert checked.account == "123456789012"
    assert each.image.startswith("ami-")
    assert "al2023" in each.image_name
    assert each.largest_count == 500
    assert 0 < checked.expected_usd < checked.bound_usd < 1


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("t3.nano", "us-esat-1"), "region 'us-esat-1' does not exist; nearest: us-"),
        (Target("t3.nan0", "us-east-1"), "'t3.nan0' is not offered in us-east-1; nearest: t3.nano"),
        (Target("t2.nano", "us-east-1"), "t2.nano is not sold as spot in us-east-1"),
        (
            Target("t3.nano", "us-east-1", "use1-az9"),
            "not offered in zone 'use1-az9'; it is in use1-az1, ",
        ),
    ],
)
def test_a_target_that_is_not_offered_is_named_with_what_is(problems, target, words):
    [problem] = problems(target)

    assert words in problem


def test_one_bad_target_does_not_hide_another(problems):
    found = problems(Target("t3.nan0", "us-east-1"), Target("t3.nano", "us-esat-1"), NANO)

    assert len(found) == 2


def test_more_than_the_quota_is_refused_with_the_largest_n(problems):
    [problem] = problems(world=scripted(quota_vcpus=5), n=5)

    assert "needs 10 vCPUs" in problem
    assert "leaves 5: the largest n is 2" in problem


@pytest.mark.parametrize(
    ("free", "vcpus", "largest", "n"),
    [
        (None, 2, None, None),
        (8, 2, 4, None),
        (7, 2, 3, 4),
        (1, 1, 1, 4),
        (0, 1, 0, 4),
        (-3, 1, 0, 4),  # a quota that was lowered
    ],
)
def test_the_largest_n_is_what_the_quota_leaves_and_never_less_than_none(free, vcpus, largest, n):
    answers, each = Answers(None), prepared(vcpus=vcpus, n=4)

    assert with_quota(answers, each, free) == replace(each, largest_count=largest)
    assert answers.problems == (
        [
            f"n={n} of t3.nano in sa-east-1 needs {n * vcpus} vCPUs, the quota '{each.family}' "
            f"leaves {free}: the largest n is {largest}"
        ]
        if n
        else []
    )


def test_all_that_the_quota_leaves_may_be_asked_for(in_process, problems):
    assert problems(world=scripted(quota_vcpus=10), n=5) == []
    [each] = plan_for(in_process(scripted(quota_vcpus=10)), n=5).prepared
    assert each.largest_count == 5
    [problem] = problems(world=scripted(quota_vcpus=9), n=5)
    assert "needs 10 vCPUs" in problem


def test_a_quota_that_was_never_applied_to_the_account_is_its_default(problems):
    [problem] = problems(world=scripted(unlisted_quotas={"Standard"}), n=3)

    assert "leaves 5: the largest n is 2" in problem


def test_a_quota_that_is_nowhere_listed_is_a_warning_that_names_what_a_new_account_has(in_process):
    denied = {"service-quotas:ListAWSDefaultServiceQuotas"}
    checked = plan_for(in_process(scripted(unlisted_quotas={"Standard"}, denied=denied)), n=3)

    [each] = checked.prepared
    assert each.largest_count is None
    assert any(
        "the quota 'All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests' in sa-east-1 "
        "is not listed: a new account has 5 vCPUs" in warning
        for warning in checked.warnings
    )


@pytest.mark.parametrize("name", ["p4d.24xlarge", "p5.4xlarge", "trn1.2xlarge", "inf1.xlarge"])
def test_a_quota_is_found_by_its_code_whatever_its_name(in_process, name):
    """AWS renamed 'All P ...' to 'All P4, P3 and P2 ...'; of Trn only the name is sure."""
    [each] = plan_for(in_process(scripted()), Target(name, "us-east-1"), n=1).prepared

    assert each.largest_count == 1000 // each.vcpus


def test_the_old_name_of_a_quota_is_found_too():
    shown = {"QuotaCode": "L-7212CCBC", "QuotaName": "All P Spot Instance Requests", "Value": 8.0}
    quota = quota_of("p3.2xlarge")

    assert vcpus_of([shown], {quota, quota_of("t3.nano")}) == {quota: 8}


def test_a_quota_that_is_shown_without_its_value_is_not_known():
    shown = {"QuotaCode": "L-34B43A08", "QuotaName": "All", "ErrorReason": {"ErrorCode": "X"}}

    assert vcpus_of([shown], {quota_of("t3.nano")}) == {}


def test_what_is_open_already_counts_against_the_quota(in_process):
    world = scripted(quota_vcpus=10)
    connection = in_process(world)
    [each] = plan_for(connection, n=2).prepared
    connection.call(
        NANO.region,
        "request_spot_instances",
        InstanceCount=2,
        LaunchSpecification={"ImageId": each.image, "InstanceType": "t3.nano"},
    )

    checked = preflight(connection, plan_launches([NANO], count=4))

    assert "leaves 6: the largest n is 3" in checked.problems[0]


def test_another_account_than_the_one_named_is_refused(problems):
    for other in ("000000000000", "999999999999"):
        [problem] = problems(account_id=other)

    assert "'999999999999' is not the account of these credentials, '123456789012'" in problem


def test_a_missing_service_linked_role_comes_with_the_command_that_makes_it(problems):
    [problem] = problems(world=scripted(spot_role=False))

    assert "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com" in problem


@pytest.mark.parametrize(
    "action", ["RequestSpotInstances", "CancelSpotInstanceRequests", "TerminateInstances"]
)
def test_a_missing_permission_is_found_also_for_the_clean_up(problems, action):
    [problem] = problems(world=scripted(denied={f"ec2:{action}"}))

    assert "UnauthorizedOperation" in problem
    assert "'spotlib policy' prints the smallest policy" in problem


def test_an_image_of_another_architecture_is_refused(in_process, problems):
    [arm] = plan_for(in_process(scripted()), Target("t4g.nano", NANO.region), n=1).prepared

    [problem] = problems(image=arm.image)

    assert "is for arm64, t3.nano is x86_64: leave image out" in problem


def test_an_image_that_does_not_exist_is_refused(problems):
    [problem] = problems(image="ami-00000000000000000")

    assert "ami-00000000000000000" in problem
    assert "AMI ids are per region" in problem


@pytest.mark.parametrize(
    ("denied", "words"),
    [
        ("pricing:GetProducts", "the hard bound of the cost, is not known"),
        ("service-quotas:ListServiceQuotas", "the quota in sa-east-1 is not known"),
        ("ec2:DescribeSpotPriceHistory", "the spot price in sa-east-1 is not known"),
    ],
)
def test_a_fact_that_may_not_be_read_is_a_warning_and_unknown(in_process, denied, words):
    checked = plan_for(in_process(scripted(denied={denied})), n=1)

    [each] = checked.prepared
    assert any(words in warning for warning in checked.warnings)
    unknown = {
        "pricing:GetProducts": math.isnan(checked.bound_usd),
        "service-quotas:ListServiceQuotas": each.largest_count is None,
        "ec2:DescribeSpotPriceHistory": math.isnan(checked.expected_usd),
    }
    assert unknown[denied]


def test_a_zone_target_names_its_subnet_and_takes_no_address(in_process, log):
    world = scripted()
    connection = in_process(world)
    zone = Target("t3.nano", "us-east-1", "use1-az4")
    sent = []
    world.faults.append(
        lambda asked, executed: (
            sent.append(asked.params["LaunchSpecification"])
            if asked.action == "RequestSpotInstances" and not executed
            else None
        )
    )
    collect_batch(connection, plan_for(connection, zone, n=1), log=log, seed=1)

    interface = sent[-1]["NetworkInterfaces"][0]
    assert interface["SubnetId"].startswith("subnet-")
    assert interface["AssociatePublicIpAddress"] is False
    assert {each["az_id"] for each in world.truth()} == {"use1-az4"}


def prepared(name="t3.nano", region="sa-east-1", n=1, **given):
    plan = Plan(Target(name, region), n)
    usual = {"vcpus": 2, "burstable": True, "family": quota_of(name).name}
    return PreparedPlan(plan, "ami-1", "", **{**usual, **given})


def test_the_hard_bound_is_n_instances_at_the_on_demand_price_until_the_switch_ends_them():
    each = prepared(n=10, on_demand_usd=0.0042, price_usd=0.0018)

    hours = (15 * 60 + 120) / 3600
    hourly = 0.0042 + 0.005 + 8 * 0.08 / 730 + 2 * 0.05
    assert each.bound_usd == pytest.approx(10 * hours * hourly)
    assert each.expected_usd == pytest.approx(10 * 300 / 3600 * (0.0018 + 0.005 + 8 * 0.08 / 730))


def test_an_unknown_price_makes_an_unknown_cost_and_never_none():
    assert math.isnan(prepared().bound_usd)
    assert math.isnan(prepared().expected_usd)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("t3.nano", "Standard (A, C, D, H, I, M, R, T, Z)"),
        ("c7gd.medium", "Standard (A, C, D, H, I, M, R, T, Z)"),
        ("inf2.xlarge", "Inf"),
        ("g5.xlarge", "G and VT"),
        ("vt1.3xlarge", "G and VT"),
        ("p4d.24xlarge", "P4, P3 and P2 (formerly P)"),
        ("p5en.48xlarge", "P5"),
        ("gr6.4xlarge", "G and VT"),
        ("trn1.2xlarge", "Trn"),
        ("x2gd.medium", "X"),
        ("dl1.24xlarge", "DL"),
    ],
)
def test_a_type_counts_against_the_quota_of_its_family(name, family):
    assert quota_of(name).families == family


def test_a_new_account_has_vcpus_of_the_standard_types_only():
    found = {name: quota_of(name).fresh_vcpus for name in ("t3.nano", "g5.large", "p5.48xlarge")}

    assert found == {"t3.nano": 5, "g5.large": 0, "p5.48xlarge": 0}
    assert quota_of("new9.large").fresh_vcpus is None, "not known"


def test_waves_fit_under_every_quota_and_keep_the_order():
    here = prepared("t3.nano", n=2)
    there = prepared("t3.nano", "us-east-1", n=2)
    free = {("sa-east-1", here.family): 5, ("us-east-1", here.family): None}

    waves = split_waves([here, there, here, here], free)

    assert [len(wave) for wave in waves] == [2, 1, 1]


def test_the_policy_allows_just_the_calls_that_are_made(in_process, log):
    """Every action of a preflight and of a batch with region and zone targets, and no other."""
    world = World(seed=1, script=lambda _: QUICK, unlisted_quotas={"Standard"})
    connection = in_process(world)
    targets = (NANO, Target("t4g.nano", "us-east-1", "use1-az4"))
    checked = plan_for(connection, *targets, n=2, wanted=Stage.READY)
    collect_batch(connection, checked, log=log, seed=1)

    policy = json.loads((Path(spotlib.__file__).parent / "policy.json").read_text())
    allowed = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
    prefix = {"service-quotas": "servicequotas"}
    made = {f"{prefix.get(c.service, c.service)}:{c.action}" for c in world.calls}
    assert made - {"sts:GetCallerIdentity"} == allowed  # needs no permission


def test_a_batch_goes_on_without_the_facts_that_are_optional(in_process, log):
    optional = {"pricing:GetProducts", "service-quotas:ListServiceQuotas", "iam:GetRole"}
    world = scripted(denied={*optional, "ec2:GetSpotPlacementScores"})
    connection = in_process(world)

    summary = collect_batch(connection, plan_for(connection, n=1), log=log, seed=1)

    assert summary.outcomes == {"ready": 1}
    assert math.isnan(summary.spent_at_most_usd)


def test_refused_credentials_are_reported_with_what_to_do(in_process):
    world = scripted()
    world.faults.append(fail("GetCallerIdentity", 1, "ExpiredToken"))

    with pytest.raises(Refusal, match=r"ExpiredToken.*renew the credentials"):
        preflight(in_process(world), plan_launches([NANO], count=1))


def denying(*, region=None, action=None):
    """An organisation's policy that forbids a region or an action."""

    def fault(call, executed):
        if not executed and (call.region == region or call.action == action):
            by = "with an explicit deny in a service control policy"
            raise ApiError("UnauthorizedOperation", f"not authorized to perform: x {by}", 403)

    return fault


def test_a_home_region_that_is_forbidden_stops_no_other_region(in_process):
    """What the account may not say there is asked in the target's own region, or is a warning."""
    world = scripted()
    world.faults.append(denying(region="us-east-1"))

    checked = preflight(in_process(world), plan_launches([NANO], count=1))

    assert checked.problems == ()
    assert checked.account == "123456789012"
    assert len(checked.prepared) == 1
    assert any("on-demand price" in each for each in checked.warnings)
    assert not any("prints the smallest policy" in each for each in checked.warnings)


def test_an_account_that_may_not_list_regions_can_launch_where_it_may(in_process):
    world = scripted()
    world.faults.append(denying(action="DescribeRegions"))
    plans = plan_launches([NANO, Target("t3.nano", "us-esat-1")], count=1)

    checked = preflight(in_process(world), plans)

    assert [each.plan.target for each in checked.prepared] == [NANO]
    assert [each for each in checked.problems if "'us-esat-1' does not exist; nearest: us-" in each]
    [warning] = [each for each in checked.warnings if "which regions are enabled" in each]
    assert "a service control policy forbids it" in warning


def test_a_batch_in_two_partitions_is_refused(in_process):
    world = scripted()
    plans = plan_launches([NANO, Target("t3.nano", "cn-north-1")], count=1)

    with pytest.raises(ValueError, match=r"sa-east-1 \(aws\), cn-north-1 \(aws-cn\): make one"):
        preflight(in_process(world), plans)

    assert world.calls == []


class Elsewhere:
    """A connection that notes what is asked where, and answers with one price or one raw entry."""

    def __init__(self, price):
        self.asked = []
        self.session = boto3.Session("key", "secret")
        self._price = price

    region_names = Connection.region_names

    def call(self, region, action, **_):
        self.asked.append((region, action))
        if isinstance(self._price, str):
            return {"PriceList": [self._price]}
        terms = {"OnDemand": {"a": {"priceDimensions": {"b": {"pricePerUnit": self._price}}}}}
        return {"PriceList": [json.dumps({"terms": terms})]}


@pytest.mark.parametrize(
    ("region", "price", "asked", "usd"),
    [
        ("eu-west-1", {"USD": "0.5"}, "us-east-1", 0.5),
        ("cn-north-1", {"CNY": "0.5"}, "cn-northwest-1", math.nan),
        ("eusc-de-east-1", {"EUR": "0.5"}, "eusc-de-east-1", math.nan),
        ("us-gov-west-1", {"USD": "0.5"}, None, math.nan),  # it has no price list
    ],
)
def test_a_price_is_asked_in_its_partition_and_is_usd_or_unknown(region, price, asked, usd):
    there = Elsewhere(price)

    found = on_demand_usd(there, Target("t3.nano", region))

    assert found == pytest.approx(usd, nan_ok=True)
    assert there.asked == ([(asked, "get_products")] if asked else [])


@pytest.mark.parametrize("entry", ["<html>", "{}", "[]", '{"terms": {"OnDemand": {"a": {}}}}'])
def test_a_price_list_that_cannot_be_read_is_a_garbled_answer(entry):
    with pytest.raises(Refusal, match="GarbledAnswer"):
        on_demand_usd(Elsewhere(entry), NANO)


@pytest.mark.parametrize(("region", "currency"), [("cn-north-1", "CNY"), ("eusc-de-east-1", "EUR")])
def test_prices_that_are_not_in_usd_are_unknown_and_none_is_sent(region, currency):
    answers = Answers(Elsewhere({}))
    [plan] = plan_launches([Target("t3.nano", region)], count=1, max_price_usd=0.1)

    check_currency(answers, [plan])

    assert spot_prices(answers.connection, region, ["t3.nano"]) == {}
    assert f"prices in {region} are in {currency} and are not recorded" in answers.warnings[0]
    assert answers.problems == [
        f"max_price_usd=0.1 cannot be sent to {region}, which takes {currency}: leave it out"
    ]


@pytest.mark.parametrize(
    ("region", "home"),
    [
        ("sa-east-1", "us-east-1"),
        ("us-gov-east-1", "us-gov-west-1"),
        ("cn-north-1", "cn-northwest-1"),
        ("eusc-de-east-1", "eusc-de-east-1"),
        ("xx-nowhere-1", "us-east-1"),
    ],
)
def test_each_partition_is_asked_at_its_home(region, home):
    assert home_region(region) == home


@pytest.mark.parametrize("price", ["", "n/a", "0,5", None, {}])
def test_a_spot_price_that_is_no_number_is_a_garbled_answer(price):
    shown = {"InstanceType": "t3.nano", "AvailabilityZone": "a", "Timestamp": None}

    class Prices(Caller):
        foreign, memory, server_utc, region_names = False, None, lambda _: None, None

        def call(self, *_, **__):
            return {"SpotPriceHistory": [shown | {"SpotPrice": price}]}

    with pytest.raises(Refusal, match="the answer has no price that can be read"):
        spot_prices(Prices(), NANO.region, ["t3.nano"])


@pytest.mark.parametrize("item", [{"QuotaCode": "L-34B43A08", "Value": "many"}, 5, None])
def test_a_quota_that_is_no_number_is_a_warning_and_stops_nothing(in_process, monkeypatch, item):
    call = Connection.call

    def changed(self, region, action, /, **given):
        if action == "list_service_quotas":
            return {"Quotas": [item]}
        return call(self, region, action, **given)

    monkeypatch.setattr(Connection, "call", changed)
    checked = plan_for(in_process(scripted()), n=2)

    assert any("the quota in sa-east-1 is not known" in each for each in checked.warnings)


def test_every_family_of_ec2_counts_against_a_spot_quota_of_its_own_kind_or_none():
    """botocore knows the families; those that are not sold as spot have no spot quota."""
    types = Loader().load_service_model("ec2", "service-2")["shapes"]["InstanceType"]["enum"]
    unknown = {name.partition(".")[0] for name in types if quota_of(name).fresh_vcpus is None}
    letters = {re.match("[a-z]+", family)[0] for family in unknown}
    assert letters <= {"mac", "hpc", "u", "p", "cg"}
    assert {each[:2] for each in unknown if each.startswith("p")} == {"p6"}
    for name in ("mac2.metal", "hpc7g.4xlarge", "u-6tb1.metal", "u7i-8tb.224xlarge", "new9.large"):
        assert quota_of(name).name not in (quota_of("t3.nano").name, quota_of("g5.large").name)


def test_the_account_its_roles_its_currency_and_each_regions_calls_are_checked(
    in_process, monkeypatch
):
    """And the events, whose name is checked before anything is asked."""
    checked, names = [], ["check_account", "check_roles", "check_currency"]
    for name in (*names, "ask_dry_runs", "check_events"):
        monkeypatch.setattr(
            preflight_module, name, lambda _, *given, name=name: checked.append((name, *given))
        )
    places = [Target("t3.micro", "us-east-1"), NANO, Target("t3.nano", "us-east-1")]
    plans, world = plan_launches(places, count=1), scripted()

    report = preflight(in_process(world), plans, account_id="7", events="mine")

    account, roles, currency, *dry_runs, events = checked
    assert account[2:] == ("7",)
    assert roles == ("check_roles", "us-east-1", plans)
    assert currency == ("check_currency", plans)
    found = {region: [each.plan.target for each in some] for _, region, some in dry_runs}
    assert found == {"sa-east-1": [NANO], "us-east-1": [places[0], places[2]]}
    assert len(dry_runs) == 2
    assert {region: len(some) for region, some in events[1].items()} == {
        "sa-east-1": 1,
        "us-east-1": 2,
    }
    assert events[2] == report.events == "mine"
    assert [each.plan.target for each in report.prepared] == places  # in the plans' order
    with pytest.raises(ValueError, match="events"):
        preflight(None, plans, events="no/queue")
    assert preflight(in_process(scripted()), plans).events is False


def test_elsewhere_it_is_said_how_instances_are_found(monkeypatch):
    """A foreign endpoint may lack the filter by request."""
    answers = Answers(None)
    for finds in (True, False):
        monkeypatch.setattr(preflight_module, "finds_by_request", lambda *_, finds=finds: finds)
        preflight_module._warn_foreign(answers, "x")

    [warning] = answers.warnings
    assert warning.startswith("this endpoint does not find instances by their request: they are")


def test_a_price_that_is_not_listed_in_usd_is_a_warning_and_unknown(in_process, monkeypatch):
    monkeypatch.setattr(preflight_module, "on_demand_usd", lambda *_, **__: math.nan)

    checked = plan_for(in_process(scripted()), n=1)

    assert math.isnan(checked.bound_usd)
    [warning] = checked.warnings
    assert warning.startswith("the on-demand price of t3.nano in sa-east-1, and so the hard bound")
    assert warning.endswith(" is not known: no price in USD is listed")


def test_prices_are_asked_for_each_product_of_the_types_that_run_it(monkeypatch):
    asked = []

    def prices(_, region, names, *, product):
        asked.append((region, names, product))
        return {product: 1}

    monkeypatch.setattr(preflight_module, "spot_prices", prices)
    linux = Image("ami-1", "", "x86_64", "1", of_amazon=False)
    windows = replace(linux, product="Windows")
    plans = [Plan(Target(name, "sa-east-1"), 1) for name in ("t3.nano", "t3.micro", "t3.small")]
    images = dict(zip(plans, (linux, windows, linux), strict=True))

    found = preflight_module._prices(Answers(SimpleNamespace()), "x", images)

    assert found == {"Linux/UNIX": {"Linux/UNIX": 1}, "Windows": {"Windows": 1}}
    assert asked == [
        ("x", {"t3.nano", "t3.small"}, "Linux/UNIX"),
        ("x", {"t3.micro"}, "Windows"),
    ]


@pytest.mark.parametrize(("sold", "has_vpc"), [(True, False), (False, True), (False, False)])
def test_a_region_where_nothing_can_be_launched_is_asked_for_no_image(
    in_process, monkeypatch, sold, has_vpc
):
    asked, images = [], []
    monkeypatch.setattr(preflight_module, "_is_sold", lambda *_: sold)
    monkeypatch.setattr(preflight_module, "_has_default_vpc", lambda *_: asked.append(1) or has_vpc)
    monkeypatch.setattr(preflight_module, "choose_images", lambda *_: images.append(1) or {})

    checked = preflight(in_process(scripted()), plan_launches([NANO], count=1))

    assert (checked.prepared, images) == ((), [])
    assert len(asked) == sold  # where nothing is sold, no network is looked for

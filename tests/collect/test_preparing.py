"""What a preflight decides about one plan, rule by rule, from answers that are made up."""

import math
from dataclasses import replace

import pytest

from spotlib.collect.answers import Answers
from spotlib.collect.features import PriceHistory
from spotlib.collect.images import Image
from spotlib.collect.preflight import (
    _architecture,
    _has_default_vpc,
    _is_accepted,
    _is_offered,
    _is_sold,
    _may_be_stamped,
    _placed,
    _prepared,
)
from spotlib.ec2.caller import Caller
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Plan, Stage, Target

NANO = Target("t3.nano", "sa-east-1")
ZONE = Target("t3.nano", "us-east-1", "use1-az4")
LINUX = Image("ami-1", "al2023-ami-2023.5", "x86_64", "137112412989", of_amazon=True)
RED_HAT = replace(LINUX, product="Red Hat Enterprise Linux", operation="RunInstances:0010")
UNKNOWN = replace(LINUX, name="mine", owner_id="111111111111", of_amazon=False)
BOTTLEROCKET = replace(LINUX, name="bottlerocket-aws")
NITRO = {"Hypervisor": "nitro", "VCpuInfo": {"DefaultVCpus": 2}}
XEN = NITRO | {"Hypervisor": "xen"}


class Answering(Caller):
    """Answers each action as told, or refuses it; notes what is asked."""

    foreign, memory, server_utc = False, None, lambda _: None

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def region_names(self, region, service="ec2"):
        return [region, service]

    def call(self, region, action, /, **given):
        self.asked.append((region, action, given))
        if action not in self.answers:
            raise Refusal("No", "no", kind=Kind.PERMISSION, advice="", action=action, region=region)
        answer = self.answers[action]
        return answer(given) if callable(answer) else answer


def answers_of(**answers):
    return Answers(Answering(**answers))


@pytest.mark.parametrize(
    ("image", "allowed", "changes", "accepted", "problem", "warning"),
    [
        (LINUX, False, {}, True, "", ""),
        (LINUX, False, {"image": "ami-1"}, True, "", ""),
        (BOTTLEROCKET, False, {}, False, "accept it with allow_any_image", ""),
        (BOTTLEROCKET, True, {"image": "ami-1"}, True, "", "is accepted: Bottlerocket does not"),
        (RED_HAT, True, {"wanted": Stage.GRANTED}, False, "a probe lasts seconds", ""),
        (RED_HAT, True, {}, True, "", "is accepted: it is billed as Red Hat"),
        (LINUX, False, {"wanted": Stage.GRANTED}, True, "", ""),
        (UNKNOWN, False, {}, True, "", ""),  # it was not chosen by the user
        (UNKNOWN, False, {"image": "ami-1"}, True, "", "it is not known whether it runs the"),
    ],
)
def test_an_image_is_refused_or_warned_of(  # noqa: PLR0917 - a table
    image, allowed, changes, accepted, problem, warning
):
    answers = Answers(Answering(), allow_any_image=allowed)

    assert _is_accepted(answers, Plan(NANO, 1, **changes), image) is accepted
    for said, words in ((answers.problems, problem), (answers.warnings, warning)):
        assert len(said) == bool(words)
        assert all(each.startswith("image ami-1 (") and words in each for each in said)


@pytest.mark.parametrize(
    ("image", "info", "why"),
    [
        (LINUX, NITRO, ""),
        (UNKNOWN, NITRO, ""),
        (LINUX, XEN, "t3.nano is not on Nitro, so when a guest is usable cannot be seen"),
        (LINUX, {}, "t3.nano is not on Nitro, so when a guest is usable cannot be seen"),
        (BOTTLEROCKET, NITRO, "image ami-1 does not run the script in the user data, so when"),
    ],
)
@pytest.mark.parametrize("wanted", [Stage.USABLE, Stage.READY])
@pytest.mark.parametrize("usable", [True, False])
def test_a_guest_that_cannot_say_when_it_is_usable_is_a_problem_only_if_that_is_waited_for(
    image, info, why, wanted, usable
):
    answers, plan = answers_of(), Plan(NANO, 1, wanted=wanted, usable=usable)

    may = _may_be_stamped(answers, plan, image, info)

    needed = wanted is Stage.USABLE
    assert may is not bool(why and needed)
    assert [each.startswith(why) for each in answers.problems] == [True] * bool(why and needed)
    warned = bool(why and usable and not needed)
    assert [each.startswith(why) for each in answers.warnings] == [True] * warned


def test_a_prepared_plan_has_what_its_type_and_image_say():
    info = NITRO | {"BurstablePerformanceSupported": True}
    answers = answers_of()
    plan = Plan(NANO, 3, usable=True)
    one = _prepared(answers, plan, info, LINUX, {LINUX.product: PriceHistory()})

    assert one.plan == replace(plan, image="ami-1")
    assert (one.image, one.image_name, one.image_owner) == ("ami-1", LINUX.name, "amazon")
    assert (one.vcpus, one.burstable, one.by_the_hour, one.has_switch) == (2, True, False, True)
    assert math.isnan(one.price_usd)
    assert math.isnan(one.on_demand_usd)
    assert [each.startswith("the on-demand price of t3.nano") for each in answers.warnings] == [
        True
    ]
    other = _prepared(answers, plan, XEN, UNKNOWN, {LINUX.product: PriceHistory()})
    assert (other.plan.usable, other.burstable, other.has_switch) == (False, False, True)
    no_owner = replace(BOTTLEROCKET, owner_id="", of_amazon=False)
    other = _prepared(answers, plan, NITRO, no_owner, {LINUX.product: PriceHistory()})
    assert (other.plan.usable, other.image_owner, other.has_switch) == (False, None, False)


def offered(**places):
    """The offerings of each type of location."""

    def answer(given):
        kind, names = given["LocationType"].replace("-", "_"), given.get("Filters")
        found = [(place, "t3.nano") for place in places.get(kind, ())]
        found += [] if names else [("sa-east-1", "t3.nan0")]
        return {
            "InstanceTypeOfferings": [{"Location": a, "InstanceType": b} for a, b in found],
        }

    return {"describe_instance_type_offerings": answer}


@pytest.mark.parametrize(
    ("target", "places", "problem"),
    [
        (NANO, {"region": ["sa-east-1"]}, None),
        (ZONE, {"availability_zone_id": ["use1-az4", "use1-az1"]}, None),
        (
            ZONE,
            {"availability_zone_id": ["use1-az2", "use1-az1"]},
            "t3.nano is not offered in zone 'use1-az4'; it is in use1-az1 and use1-az2",
        ),
        (ZONE, {}, "instance type 't3.nano' is not offered in us-east-1; nearest: t3.nan0"),
        (NANO, {}, "instance type 't3.nano' is not offered in sa-east-1; nearest: t3.nan0"),
    ],
)
def test_a_type_that_is_not_offered_is_named_with_where_it_is_or_what_is(target, places, problem):
    answers = answers_of(**offered(**places))

    assert _is_offered(answers, target) is (problem is None)
    assert len(answers.problems) == (problem is not None)
    for each in answers.problems:
        assert each.replace(", ", " and ").startswith(problem)
    region, _, given = answers.connection.asked[0]
    assert region == target.region
    assert given["Filters"] == [{"Name": "instance-type", "Values": ["t3.nano"]}]


def test_a_type_may_be_sold_in_one_way_only():
    types = {"t3.nano": {"SupportedUsageClasses": ["on-demand"]}}
    on_demand = Plan(NANO, 1, method="run_instances", purchase="on-demand")
    answers = answers_of()

    assert _is_sold(answers, on_demand, types)
    assert not _is_sold(answers, Plan(NANO, 1), types)
    assert not _is_sold(answers, on_demand, {"t3.nano": {"SupportedUsageClasses": ["spot"]}})
    assert [each.split(" in ")[0] for each in answers.problems] == [
        *("t3.nano is not sold as spot", "t3.nano is not sold on demand")
    ]


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [
        (["x86_64"], "x86_64"),
        (["i386", "x86_64"], "x86_64"),
        (["arm64"], "arm64"),
        (["x86_64", "arm64"], "arm64"),
        (["i386", "x86_64_mac"], "i386"),
    ],
)
def test_an_image_is_chosen_for_arm64_or_x86_64_before_any_other(supported, chosen):
    types = {"t3.nano": {"ProcessorInfo": {"SupportedArchitectures": supported}}}

    assert _architecture(types, Plan(NANO, 1)) == chosen


def test_a_region_needs_a_default_vpc():
    lacking = answers_of(describe_vpcs={"Vpcs": []})

    assert _has_default_vpc(answers_of(describe_vpcs={"Vpcs": [{}]}), "sa-east-1")
    assert not _has_default_vpc(lacking, "sa-east-1")
    assert lacking.problems == [
        "sa-east-1 has no default VPC; run once: aws ec2 create-default-vpc --region sa-east-1"
    ]
    given = {"Filters": [{"Name": "is-default", "Values": ["true"]}]}
    assert lacking.connection.asked == [("sa-east-1", "describe_vpcs", given)]


def test_a_zone_is_placed_in_its_default_subnet_and_that_networks_default_group():
    there = answers_of(
        describe_subnets={"Subnets": [{"SubnetId": "subnet-1", "VpcId": "vpc-1"}, {}]},
        describe_security_groups={"SecurityGroups": [{"GroupId": "sg-1"}, {"GroupId": "sg-2"}]},
    )
    none = answers_of(describe_subnets={"Subnets": []})
    prices = {LINUX.product: PriceHistory()}
    here, zone = (_prepared(answers_of(), Plan(e, 1), NITRO, LINUX, prices) for e in (NANO, ZONE))

    assert _placed(there, here) == here
    assert there.connection.asked == []
    assert _placed(there, zone) == replace(zone, subnet_id="subnet-1", group_id="sg-1")
    filters = [
        {each["Name"]: each["Values"] for each in given["Filters"]}
        for _, _, given in there.connection.asked
    ]
    assert filters == [
        {"default-for-az": ["true"], "availability-zone-id": ["use1-az4"]},
        {"group-name": ["default"], "vpc-id": ["vpc-1"]},
    ]
    assert _placed(none, zone) == zone
    assert none.problems == ["zone use1-az4 has no default subnet: choose another"]

"""What a preflight decides about one plan, rule by rule, from answers that are made up."""

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from spotlib.cleanup.close import Cleaned
from spotlib.collect import dry_run
from spotlib.collect.account import (
    check_account,
    check_currency,
    check_roles,
    identity_of,
    known_regions,
    regions_of_one_partition,
)
from spotlib.collect.answers import Answers, nearest
from spotlib.collect.cost import PreparedPlan
from spotlib.collect.dry_run import ask_dry_runs
from spotlib.collect.features import PriceHistory
from spotlib.collect.free_vcpus import free_vcpus_of
from spotlib.collect.images import Image, image_of
from spotlib.collect.launch_images import choose_images
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
from spotlib.collect.quotas import Quota, quota_of, vcpus_of
from spotlib.ec2.caller import Caller
from spotlib.ec2.methods.registry import METHODS
from spotlib.ec2.refusals import Refusal, refusal_of_code
from spotlib.model import ON_DEMAND, SPOT, Plan, Stage, Target
from spotlib.record.events import ReleaseEvent

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

    foreign, memory = False, None

    def __init__(self, **answers):
        self.answers, self.asked = answers, []

    def server_utc(self):
        return datetime(2026, 1, 1, 12, 0, 0, 250_000, UTC)

    def region_names(self, region, service="ec2"):
        return [region, service]

    def call(self, region, action, /, **given):
        self.asked.append((region, action, given))
        answer = self.answers.get(action, "UnauthorizedOperation")
        if isinstance(answer, str):
            raise refusal_of_code(answer, "no", action=action, region=region)
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
    assert not Answers(Answering()).allow_any_image  # unless somebody says so
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


REGIONS = {
    "Regions": [
        {"RegionName": "us-east-1", "OptInStatus": "opt-in-not-required"},
        {"RegionName": "sa-east-1", "OptInStatus": "opted-in"},
        {"RegionName": "af-south-1", "OptInStatus": "not-opted-in"},
        {"RegionName": "eu-west-1"},  # as another program says it
    ]
}


def test_a_region_that_is_unknown_or_not_opted_in_is_named_and_the_others_are_known():
    answers = answers_of(describe_regions=REGIONS)
    asked = ["us-east-1", "af-south-1", "sa-east-2", "sa-east-1", "eu-west-1"]

    assert known_regions(answers, asked) == ["sa-east-1", "eu-west-1"]
    assert answers.problems == [
        "region 'af-south-1' is not opted in: enable it in the account's settings, or run aws "
        "account enable-region --region-name af-south-1",
        "region 'sa-east-2' does not exist; nearest: sa-east-1, us-east-1",
    ]
    assert answers.connection.asked == [("us-east-1", "describe_regions", {"AllRegions": True})]
    refused = answers_of()
    refused.connection.region_names = lambda region: [region, "sa-east-1"]
    assert known_regions(refused, ["us-east-1", "sa-east-1", "sa-east-2"]) == ["sa-east-1"]
    assert [each[:33] for each in refused.warnings] == ["which regions are enabled is not "]
    here = known_regions(refused, ["us-east-1", "us-east-1"])
    assert here == ["us-east-1"]  # the names are those of the home region's partition


def test_the_regions_of_a_batch_are_of_one_partition_and_its_home_is_asked_first():
    def regions(*names):
        return regions_of_one_partition([Plan(Target("t3.nano", name), 1) for name in names])

    assert regions("sa-east-1", "eu-west-1", "sa-east-1") == ["us-east-1", "eu-west-1", "sa-east-1"]
    assert regions("cn-north-1") == ["cn-northwest-1", "cn-north-1"]
    assert regions() == ["us-east-1"]
    words = r"sa-east-1 \(aws\), cn-north-1 \(aws-cn\), us-gov-east-1 \(aws-us-gov\): make one"
    with pytest.raises(ValueError, match=words):
        regions("us-gov-east-1", "cn-north-1", "sa-east-1")


@pytest.mark.parametrize(("wanted", "refused"), [(None, 0), ("", 0), ("2", 0), ("1", 1), ("3", 1)])
def test_an_account_is_refused_if_another_is_wanted(wanted, refused):
    answers = answers_of()

    check_account(answers, {"Account": "2", "Arn": "arn"}, wanted)

    words = f"account_id {wanted!r} is not the account of these credentials, '2' (arn): choose"
    assert [each.startswith(words) for each in answers.problems] == [True] * refused


def test_whose_the_credentials_are_must_be_known_of_aws_and_may_be_unknown_elsewhere():
    known, unknown = answers_of(get_caller_identity={"Account": "2"}), answers_of()

    assert identity_of(known, ["us-east-1"]) == {"Account": "2"}
    assert known.connection.asked == [("us-east-1", "get_caller_identity", {"service": "sts"})]
    with pytest.raises(Refusal):
        identity_of(unknown, ["us-east-1"])
    unknown.connection.foreign = known.connection.foreign = True
    assert identity_of(unknown, ["us-east-1"]) == {}
    assert identity_of(known, ["us-east-1"]) == {"Account": "2"}
    assert [each.split(":")[0] for each in unknown.warnings] == ["the account is not known"]


def test_each_place_whose_prices_are_not_in_usd_is_said_whatever_the_others_are():
    answers = answers_of()
    places = ["sa-east-1", "eusc-de-east-1", "us-east-1", "cn-north-1"]  # EUR and CNY: two words

    check_currency(answers, [Plan(Target("t3.nano", each), 1) for each in places])

    assert [each.partition(" are ")[2][:6] for each in answers.warnings] == ["in EUR", "in CNY"]
    assert answers.problems == []


SPOT_ROLE, FLEET_ROLE = "AWSServiceRoleForEC2Spot", "AWSServiceRoleForEC2Fleet"


@pytest.mark.parametrize(
    ("plans", "roles"),
    [
        ([Plan(NANO, 1), Plan(NANO, 2)], [SPOT_ROLE]),
        ([Plan(NANO, 1, method="run_instances", purchase=ON_DEMAND)], []),
        (
            [
                Plan(NANO, 1, method="run_instances", purchase=ON_DEMAND),
                Plan(NANO, 1, method="run_instances"),
            ],
            [SPOT_ROLE],
        ),
        ([Plan(NANO, 1, method="create_fleet_instant", purchase=ON_DEMAND)], [FLEET_ROLE]),
        ([Plan(NANO, 1, method="create_fleet_instant")], [SPOT_ROLE, FLEET_ROLE]),
    ],
)
def test_the_roles_that_the_launches_need_are_looked_for_once_each(plans, roles):
    there, missing, denied = answers_of(get_role={}), answers_of(get_role="NoSuchEntity"), None
    denied = answers_of()
    for answers in (there, missing, denied):
        check_roles(answers, "us-east-1", plans)
        asked = [("us-east-1", "get_role", {"service": "iam", "RoleName": each}) for each in roles]
        assert answers.connection.asked == asked

    assert (there.problems, there.warnings) == ([], [])
    words = [f"the service-linked role {each} is missing; run once: aws iam " for each in roles]
    assert [a.startswith(b) for a, b in zip(missing.problems, words, strict=True)] == [True] * len(
        roles
    )
    assert [each.split(" is ")[0] for each in denied.warnings] == [
        f"whether {each} exists" for each in roles
    ]
    assert (missing.warnings, denied.problems) == ([], [])
    missing.connection.foreign = True
    check_roles(missing, "us-east-1", plans)
    assert [each.rpartition("; ")[2] for each in missing.warnings] == ["not needed there"] * len(
        roles
    )


def image(name, architecture="x86_64", **more):
    return {"ImageId": name, "Architecture": architecture, **more}


NEWEST = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-"


def images_of(*some):
    """What DescribeImages answers of these images: those of the ids asked for, or all."""

    def answer(given):
        wanted = given.get("ImageIds")
        found = [each for each in some if wanted is None or each["ImageId"] in wanted]
        if not found:
            raise refusal_of_code("InvalidAMIID.NotFound", "no", action="describe_images")
        return {"Images": found}

    return answer


def parameters(**images):
    """What SSM answers: the newest image of some architectures."""
    return {"Parameters": [{"Name": NEWEST + each, "Value": images[each]} for each in images]}


def test_each_plan_has_the_image_it_names_or_the_newest_of_its_architecture():
    """One that cannot be used keeps no other from being found."""
    there = answers_of(
        get_parameters=parameters(arm64="ami-arm"),
        describe_images=images_of(image("ami-arm", "arm64"), image("ami-own"), image("ami-old")),
    )
    arm, gone, own, wrong, none, other = (
        Plan(Target("t3.nano", f"sa-east-{number}"), 1, image=name)
        for number, name in enumerate([None, "ami-gone", "ami-own", "ami-arm", None, "ami-old"])
    )
    wanted = {gone: "x86_64", none: "x86_64", wrong: "x86_64", arm: "arm64"}

    chosen = choose_images(there, "x", wanted | {own: "x86_64", other: "x86_64"})

    assert {plan: found.image_id for plan, found in chosen.items()} == {
        arm: "ami-arm",
        own: "ami-own",
        other: "ami-old",
    }
    lacking, refused, unfit = there.problems
    assert lacking == "x has no Amazon Linux 2023 for x86_64: set image"
    assert refused.startswith("image 'ami-gone' cannot be used in x: ")
    assert unfit == "image 'ami-arm' is for arm64, t3.nano is x86_64: leave image out"
    named = [given for _, action, given in there.connection.asked if action == "get_parameters"]
    assert named == [{"service": "ssm", "Names": [NEWEST + "arm64", NEWEST + "x86_64"]}]
    only_own = answers_of(describe_images=images_of(image("ami-own")))
    assert [*choose_images(only_own, "x", {own: "x86_64"})] == [own]
    assert [action for _, action, _ in only_own.connection.asked] == ["describe_images"]


def dated(name, date, *, title="al2023-ami-2023.1", architecture="x86_64"):
    return image(name, architecture, Name=title, CreationDate=date)


OLD, NEW = dated("ami-1", "2026-01-01"), dated("ami-2", "2026-02-01")
OTHERS = [
    dated("ami-3", "2026-03-01", title="al2-ami"),
    dated("ami-4", "2026-03-01", architecture="arm64"),
    dated("ami-5", "2026-03-01", architecture="a"),
]


@pytest.mark.parametrize(
    ("named", "listed", "chosen", "problems", "warnings"),
    [
        ("ami-1", [OLD, NEW], "ami-1", 0, 0),  # a parameter counts if its image is listed
        ("ami-9", [OLD, NEW, *OTHERS], "ami-2", 0, 1),
        (None, [NEW, OLD, *OTHERS], "ami-2", 0, 2),
        ("ami-9", [], "ami-9", 0, 0),  # it lists none, so it may know it all the same
        (None, OTHERS, None, 1, 1),
        (None, None, None, 1, 2),
    ],
)
def test_elsewhere_it_is_the_parameters_image_or_the_newest_of_those_that_are_listed(
    named, listed, chosen, problems, warnings
):
    given = {"get_parameters": parameters(x86_64=named)} if named else {}
    extra = [image("ami-9")] if named == "ami-9" and not listed else []

    def describe(asked):
        return {"Images": extra if "ImageIds" in asked else listed}

    if listed:
        describe = images_of(*listed)
    elif listed is None:
        describe = "UnauthorizedOperation"
    there = answers_of(describe_images=describe, **given)
    there.connection.foreign = True
    plan = Plan(NANO, 1)

    found = choose_images(there, "x", {plan: "x86_64"})

    assert [each.image_id for each in found.values()] == ([chosen] if chosen else [])
    assert there.problems == ["x has no Amazon Linux 2023 for x86_64: set image"] * problems
    assert len(there.warnings) == warnings
    if chosen == "ami-2":
        assert "names a known image: ami-2, the newest Amazon Linux 2023" in there.warnings[-1]


STANDARD, INF = quota_of("t3.nano"), quota_of("inf1.xlarge")
STANDARD_LATER = quota_of("t3.nano", ON_DEMAND)
TYPES = {"t3.nano": 2, "inf1.xlarge": 4, "c5.large": 2}


def counting(requests=(), instances=(), **quotas):
    """An account with these quotas, requests by type, and instances by type and lifecycle."""

    def types(given):
        named = given["InstanceTypes"]
        return {
            "InstanceTypes": [
                {"InstanceType": each, "VCpuInfo": {"DefaultVCpus": TYPES[each]}} for each in named
            ]
        }

    def shown(some):
        return {"Quotas": [{"QuotaCode": c, "QuotaName": c, "Value": some[c]} for c in some]}

    found = [{"InstanceType": name} | more for name, more in instances]
    return answers_of(
        describe_instance_types=types,
        describe_spot_instance_requests={
            "SpotInstanceRequests": [
                {"LaunchSpecification": {"InstanceType": each}} for each in requests
            ]
        },
        describe_instances={"Reservations": [{"Instances": found}]},
        **{action: shown(some) for action, some in quotas.items()},
    )


def test_what_a_quota_leaves_is_what_it_allows_less_what_counts_against_it():
    """Requests count against the spot quotas, other instances against those on demand."""
    there = counting(
        requests=["t3.nano", "c5.large", "inf1.xlarge", "t3.nano"],
        instances=[
            ("t3.nano", {}),
            ("inf1.xlarge", {}),
            ("t3.nano", {"InstanceLifecycle": "spot"}),
        ],
        list_service_quotas={STANDARD.code: 32.0, STANDARD_LATER.code: 5.0},
        list_aws_default_service_quotas={INF.code: 0.0, STANDARD.code: 1.0},
    )
    new = quota_of("new9.large")

    free = free_vcpus_of(there, "x", {STANDARD, INF, STANDARD_LATER, new})

    assert free == {
        ("x", STANDARD.name): 32 - 3 * 2,
        ("x", INF.name): 0 - 4,
        ("x", STANDARD_LATER.name): 5 - 2,
        ("x", new.name): None,
    }
    assert there.warnings == [
        "which spot quota new9 counts against is not known here, so not whether it is large enough "
        "in x"
    ]
    filters = {
        action: given["Filters"]
        for _, action, given in there.connection.asked
        if "Filters" in given
    }
    assert filters == {
        "describe_spot_instance_requests": [{"Name": "state", "Values": ["open", "active"]}],
        "describe_instances": [{"Name": "instance-state-name", "Values": ["pending", "running"]}],
    }


def test_a_quota_that_is_not_listed_is_said_with_what_a_new_account_has():
    there = counting(list_service_quotas={STANDARD.code: 32.0}, list_aws_default_service_quotas={})

    assert free_vcpus_of(there, "x", {STANDARD, INF}) == {
        ("x", STANDARD.name): 32,
        ("x", INF.name): None,
    }
    assert there.warnings == [
        f"the quota '{INF.name}' in x is not listed: a new account has 0 vCPUs"
    ]
    only = counting(list_service_quotas={STANDARD.code: 32.0})
    assert free_vcpus_of(only, "x", {STANDARD}) == {("x", STANDARD.name): 32}
    asked = [action for _, action, _ in only.connection.asked]
    assert "list_aws_default_service_quotas" not in asked
    assert "describe_instances" not in asked  # nothing is bought on demand
    unread = counting()
    assert free_vcpus_of(unread, "x", {STANDARD}) == {("x", STANDARD.name): None}
    assert [each.split(":")[0] for each in unread.warnings] == ["the quota in x is not known"]


@pytest.mark.parametrize(
    ("name", "purchase", "families", "code", "fresh"),
    [
        ("t3.nano", SPOT, "Standard (A, C, D, H, I, M, R, T, Z)", "L-34B43A08", 5),
        ("t3.nano", ON_DEMAND, "Standard (A, C, D, H, I, M, R, T, Z)", "L-1216C47A", 5),
        ("p3.2xlarge", SPOT, "P4, P3 and P2 (formerly P)", "L-7212CCBC", 0),
        ("p5.4xlarge", SPOT, "P5", "L-C4BD4855", 0),
        ("p3.2xlarge", ON_DEMAND, "P", "L-417A185B", 0),
        ("p5.4xlarge", ON_DEMAND, "P", "L-417A185B", 0),
        ("trn1.2xlarge", SPOT, "Trn", None, 0),
        ("x2gd.medium", ON_DEMAND, "X", "L-7295265B", 0),
        ("new9.large", SPOT, "new9", None, None),
        ("9", SPOT, "9", None, None),
    ],
)
def test_a_quota_has_the_code_and_the_name_of_its_purchase(name, purchase, families, code, fresh):
    assert quota_of(name, purchase) == Quota(families, code, fresh, purchase)
    title = (
        "All {} Spot Instance Requests" if purchase == SPOT else "Running On-Demand {} instances"
    )
    assert quota_of(name, purchase).name == title.format(families)


def test_a_quota_is_known_by_its_code_alone_and_without_one_by_its_name_alone():
    trn, later = quota_of("trn1.2xlarge"), quota_of("trn1.2xlarge", ON_DEMAND)
    names = [trn.name, "A", "Z", later.name]
    codes = ["L-1", "L-2C3B7624", "L-0", "L-9"]
    shown = [
        {"QuotaCode": code, "QuotaName": name, "Value": float(number)}
        for number, (code, name) in enumerate(zip(codes, names, strict=True))
    ]

    assert vcpus_of(shown, {trn, later}) == {trn: 0, later: 1}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        (["t3.nano9", "c5.large", "t3.nan"], "; nearest: t3.nano9, t3.nan"),
        (["t3.nano1", "t3.nano2", "t3.nano3", "t3.nano4"], 3),
        (["zzz"], ""),
        ([], ""),
    ],
)
def test_at_most_three_of_the_nearest_names_are_said(known, words):
    said = nearest("t3.nano", known)

    assert (said.count("t3") if isinstance(words, int) else said) == words


FACTS = [
    ({}, "Linux/UNIX", "RunInstances", False),
    ({"Platform": "Windows"}, "Windows", "RunInstances:0002", False),
    ({"Platform": "zOS"}, "Linux/UNIX", "RunInstances", False),
    ({"Platform": "aix"}, "Linux/UNIX", "RunInstances", False),
    (
        {"Platform": "windows", "PlatformDetails": "SQL", "UsageOperation": "X"},
        *("SQL", "X", False),
    ),
    ({"ProductCodes": [{"ProductCodeType": "devpay"}]}, "Linux/UNIX", "RunInstances", False),
    ({"ProductCodes": [{"ProductCodeType": "zzz"}, {}]}, "Linux/UNIX", "RunInstances", False),
    ({"ProductCodes": [{"ProductCodeType": "marketplace"}]}, "Linux/UNIX", "RunInstances", True),
]


@pytest.mark.parametrize(("facts", "product", "operation", "sold"), FACTS)
def test_an_images_product_is_what_ec2_says_or_what_its_platform_implies(
    facts, product, operation, sold
):
    found = image_of(image("ami-1", **facts))

    assert (found.product, found.operation, found.sold) == (product, operation, sold)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"product": "Linux/UNIX", "operation": "RunInstances"}, []),
        ({"operation": "A"}, ["it is billed as Linux/UNIX (A)"]),
        ({"product": "Zorin", "operation": "Z"}, ["it is billed as Zorin (Z)"]),
        (
            {"product": "SUSE Linux", "operation": "RunInstances:000g"},
            ["it is billed as SUSE Linux (RunInstances:000g), each started hour in full"],
        ),
        ({"sold": True}, ["its seller charges for it, and how much is not known"]),
    ],
)
def test_what_an_image_costs_beyond_plain_linux_is_an_objection(facts, said):
    assert replace(LINUX, **facts).objections("t3.nano") == said


@pytest.mark.parametrize(
    ("facts", "owner", "runs"),
    [
        (
            {"OwnerId": "1", "ImageOwnerAlias": "amazon", "Name": "al2023-ami-2023.1"},
            *("amazon", True),
        ),
        ({"OwnerId": "1", "ImageOwnerAlias": "amazon", "Name": "mine"}, "amazon", None),
        ({"OwnerId": "1", "ImageOwnerAlias": "aaa", "Name": "al2023-ami-2023.1"}, "1", None),
        ({"OwnerId": "1", "ImageOwnerAlias": "zzz", "Name": "al2023-ami-2023.1"}, "1", None),
        ({"OwnerId": "099720109477", "Name": "ubuntu"}, "099720109477", True),
    ],
)
def test_the_switch_is_known_to_run_where_amazon_or_a_known_publisher_made_the_image(
    facts, owner, runs
):
    found = image_of(image("ami-1", **facts))

    assert (found.owner, found.runs_switch("t3.nano")) == (owner, runs)
    assert found.runs_switch("a1.medium") is (False if "al2023" in facts["Name"] else runs)


YES, NO = "DryRunOperation", "UnauthorizedOperation"
CANCEL, TERMINATE, CONSOLE = (
    *("cancel_spot_instance_requests", "terminate_instances", "get_console_output"),
)
REQUEST, RUN, FLEET = "request_spot_instances", "run_instances", "create_fleet"


def one_of(method=REQUEST, target=NANO, **plan):
    """A plan that is prepared."""
    return PreparedPlan(
        *(Plan(target, 2, method=method, **plan), "ami-1", "", 2, False, STANDARD.name)
    )


def dry_runs(*prepared, foreign=False, **codes):
    """Ask about these plans, where EC2 answers each action with yes or another code."""
    actions = (CANCEL, TERMINATE, CONSOLE, REQUEST, RUN, FLEET, "create_launch_template")
    answers = answers_of(**dict.fromkeys((*actions, "delete_launch_template"), YES) | codes)
    answers.connection.foreign = foreign
    ask_dry_runs(answers, "x", prepared)
    return answers


@pytest.mark.parametrize(
    ("prepared", "asked"),
    [
        ([one_of(), one_of()], [CANCEL, TERMINATE, REQUEST]),
        ([one_of(RUN)], [TERMINATE, RUN]),
        ([one_of(RUN, usable=True)], [TERMINATE, CONSOLE, RUN]),
        (
            [one_of("create_fleet_instant")],
            ["delete_launch_template", TERMINATE, "create_launch_template", FLEET],
        ),
        ([one_of(), one_of(RUN), one_of(target=ZONE)], [CANCEL, TERMINATE, REQUEST, RUN]),
        ([one_of(), replace(one_of(), subnet_id="s")], [CANCEL, TERMINATE, REQUEST, REQUEST]),
    ],
)
def test_each_different_call_is_asked_about_once_those_of_the_clean_up_first(prepared, asked):
    answers = dry_runs(*prepared)

    assert (answers.problems, answers.warnings) == ([], [])
    assert sorted(action for _, action, _ in answers.connection.asked) == sorted(asked)
    ends = [each for each in asked if each.startswith(("cancel", "delete", "terminate"))]
    assert [action for _, action, _ in answers.connection.asked][: len(ends)] == ends
    assert all(given["DryRun"] is True for _, _, given in answers.connection.asked)


def test_what_is_asked_about_would_end_by_itself_in_five_minutes_and_has_a_name_of_its_own():
    """Also an endpoint that executes it launches nothing that stays."""
    names = set()
    for _ in range(2):
        _, _, given = dry_runs(one_of()).connection.asked[-1]
        assert given["ValidUntil"] == "2026-01-01T12:05:00+00:00"
        [tags] = [each["Tags"] for each in given["TagSpecifications"]]
        assert tags == [{"Key": "spotlib:batch", "Value": given["ClientToken"]}]
        names.add(given["ClientToken"])
    assert all(re.fullmatch("dry-run-[0-9a-f]{8}", each) for each in names)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("prepared", "codes", "problems", "warnings"),
    [
        (one_of(), {CANCEL: NO, TERMINATE: NO, REQUEST: NO}, 3, 0),
        (one_of(), {CANCEL: "InvalidSpotInstanceRequestID.NotFound"}, 0, 0),
        (one_of(), {TERMINATE: "InvalidInstanceID.Malformed"}, 0, 0),
        (one_of(), {TERMINATE: "AAA", REQUEST: "zzz"}, 2, 0),
        (one_of(), {REQUEST: "InsufficientInstanceCapacity"}, 0, 0),  # it is measured
        (one_of(), {REQUEST: "SpotMaxPriceTooLow"}, 0, 0),
        # A policy may allow to end only what carries our tag, and the made-up id carries none.
        (one_of(RUN), {TERMINATE: NO}, 0, 1),
        (one_of(RUN), {TERMINATE: "OptInRequired"}, 1, 0),
        (one_of(RUN), {TERMINATE: "InternalError"}, 1, 0),
        (one_of(RUN, usable=True), {CONSOLE: NO}, 0, 1),
        (one_of(RUN, usable=True), {CONSOLE: "InvalidInstanceID.NotFound"}, 0, 0),
        (one_of(RUN, wanted=Stage.USABLE), {CONSOLE: NO}, 1, 0),
        (one_of(RUN), {CONSOLE: NO}, 0, 0),
    ],
)
def test_a_refusal_is_a_problem_unless_it_may_be_one_of_the_question_only(
    prepared, codes, problems, warnings
):
    answers = dry_runs(prepared, **codes)

    assert (len(answers.problems), len(answers.warnings)) == (problems, warnings)
    starts = (*codes, "whether what is launched may be ended", "when a guest is usable cannot be")
    assert all(each.startswith(starts) for each in (*answers.problems, *answers.warnings))


def test_elsewhere_a_call_of_the_clean_up_that_fails_is_only_a_warning():
    """Another program may fail at an id that is made up; what it forbids is forbidden."""
    failing = dry_runs(one_of(), foreign=True, **{CANCEL: "InternalError", TERMINATE: NO})

    assert [each.split(" in ")[0] for each in failing.warnings] == [CANCEL]
    assert [each.split(" in ")[0] for each in failing.problems] == [TERMINATE]


def test_one_plan_that_waits_for_a_usable_guest_makes_an_unreadable_console_a_problem():
    both = one_of(RUN, usable=True), one_of(RUN, wanted=Stage.USABLE)

    assert len(dry_runs(*both, **{CONSOLE: NO}).problems) == 1


def test_a_clean_up_call_that_is_executed_ends_the_check_with_nothing_launched():
    answers = answers_of(**{CANCEL: YES, TERMINATE: {}})
    answers.connection.connection = SimpleNamespace(endpoint="http://x")

    with pytest.raises(ValueError, match=f"executed {TERMINATE} in x, although .* nothing was lau"):
        ask_dry_runs(answers, "x", [one_of()])


MADE = "create_launch_template"


@pytest.mark.parametrize(
    ("method", "executed", "reply", "rows"),
    [
        (RUN, RUN, {"Instances": [{"InstanceId": "i-1"}]}, ("i-1",)),
        (RUN, RUN, {"Instances": []}, ()),
        ("create_fleet_instant", FLEET, {"Instances": [{"InstanceIds": ["i-1"]}]}, ("i-1",)),
        ("create_fleet_instant", FLEET, {}, ()),
        ("create_fleet_instant", MADE, {"Instances": [{"InstanceIds": ["i-1"]}]}, ()),
        ("create_fleet_request", FLEET, {"FleetId": "fleet-1"}, ()),
        (REQUEST, REQUEST, {"SpotInstanceRequests": [{"SpotInstanceRequestId": "s"}]}, ("s",)),
    ],
)
@pytest.mark.parametrize("confirmed", [True, False])
def test_what_an_executed_question_launched_is_ended_by_its_rows_and_its_name(  # noqa: PLR0917
    monkeypatch, method, executed, reply, rows, confirmed
):
    ended = []

    def settle(connection, *, note, **given):
        ended.append((connection, given))
        note(ReleaseEvent(region="x", cancelled=("sir-9",), terminated=("i-9",), error=None))
        return Cleaned(confirmed, {} if confirmed else {"x": ["sir-7"]})

    monkeypatch.setattr(dry_run, "settle", settle)
    ends = dict.fromkeys((CANCEL, TERMINATE, "delete_fleets", "delete_launch_template"), YES)
    answers = answers_of(**ends, **{MADE: YES, FLEET: YES} | {executed: reply})
    there = SimpleNamespace(endpoint="http://x", url="http://x", profile=None, simulated=False)
    answers.connection.connection = there

    with pytest.raises(ValueError, match=f"http://x executed {executed} in x, although") as caught:
        ask_dry_runs(answers, "x", [one_of(method)])

    [(connection, given)] = ended
    _, _, asked = answers.connection.asked[-1]
    assert connection is there
    assert given == {
        "batch_id": asked["ClientToken"],
        "request_ids": {"x": rows},
        "resources": METHODS[method].leaves,
    }
    names = ", ".join(sorted({*rows, "sir-9", "i-9"}))
    said = f"what it launched was ended, and nothing of it is left ({names}); use another"
    assert (said in str(caught.value)) is confirmed
    left = "it is NOT confirmed that it was ended, finish with: aws ec2 cancel-spot-instance-req"
    assert (left in str(caught.value)) is not confirmed

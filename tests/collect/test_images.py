"""An image that cannot run the dead-man's switch, or is dearer, needs an explicit yes."""

import math

import pytest
from conftest import NANO, read_events, scripted

from spotlib.collect.images import image_of
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.model import Target, plan_launches
from spotlib.sandbox import catalogue

ALLOW = {"allow_any_image": True}
GRAVITON = Target("a1.medium", "us-east-1")
AMAZON = {"OwnerId": "137112412989", "ImageOwnerAlias": "amazon"}


def named(start, region=NANO.region, architecture="x86_64"):
    """The id of an image of the sandbox."""
    return next(
        each["ImageId"]
        for each in catalogue.images(region).values()
        if each["Name"].startswith(start) and each["Architecture"] == architecture
    )


def checked(in_process, image, target=NANO, **given):
    return preflight(in_process(scripted()), plan_launches([target], count=2, image=image), **given)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("Windows_Server-2016", "Windows does not run the script in the user data, so no switch"),
        ("RHEL-7.4", "billed as Red Hat Enterprise Linux (RunInstances:0010), each started hour"),
        ("suse-sles-12", "billed as SUSE Linux (RunInstances:000g), each started hour in full"),
    ],
)
def test_an_image_without_switch_or_with_a_licence_is_refused_unless_it_is_accepted(
    in_process, start, words
):
    refused = checked(in_process, named(start))
    accepted = checked(in_process, named(start), **ALLOW)

    [problem] = refused.problems
    assert words in problem
    assert "accept it with allow_any_image" in problem
    assert refused.prepared == ()
    assert accepted.problems == ()
    assert any(words in each for each in accepted.warnings)


def test_first_generation_graviton_does_not_boot_amazon_linux_2023(in_process):
    """Nobody chose the image: the default is refused too; Amazon Linux 2 boots there."""
    older = named("amzn2-ami-hvm", GRAVITON.region, "arm64")
    [problem] = checked(in_process, None, GRAVITON).problems

    assert "it does not boot on a1.* (first-generation Graviton), so no switch" in problem
    assert checked(in_process, older, GRAVITON).problems == ()
    assert checked(in_process, older, GRAVITON).warnings == ()
    assert checked(in_process, None, Target("t4g.nano", GRAVITON.region)).problems == ()
    assert math.isnan(checked(in_process, None, GRAVITON, **ALLOW).bound_usd)


def test_without_a_switch_there_is_no_hard_bound_and_no_budget_is_kept(in_process):
    report = checked(in_process, named("Windows_Server-2016"), **ALLOW)
    budget = {"rounds": 1, "budget_usd": 1000.0, "campaign_budget_usd": None, "earlier_usd": 0.0}

    assert report.expected_usd > 0
    assert math.isnan(report.bound_usd)
    assert (
        "no switch in it turns an instance off, and the cost has no hard bound"
        in report.warnings[0]
    )
    with pytest.raises(ValueError, match="can cost unknown at most, over budget_usd=1000"):
        report.require_budget(**budget)


def test_an_accepted_image_has_its_own_price_and_each_started_hour_is_billed(in_process, log):
    world = scripted()
    connection = in_process(world)
    plans = plan_launches([NANO], count=2, image=named("RHEL-7.4"))
    [linux] = checked(in_process, None).prepared
    report = preflight(connection, plans, **ALLOW)
    [each] = report.prepared

    summary = collect_batch(connection, report, log=log, seed=1)
    [known] = [event["features"] for event in read_events(log)[0] if event["event"] == "intent"]

    licence_usd = 2 * 0.0144
    assert each.on_demand_usd == pytest.approx(linux.on_demand_usd + licence_usd)
    assert each.price_usd == pytest.approx(linux.price_usd + licence_usd)
    assert known["price_usd"] == pytest.approx(each.price_usd)
    assert each.by_the_hour
    assert each.expected_usd > 2 * each.price_usd  # five minutes cost an hour
    assert each.bound_usd > 2 * each.on_demand_usd
    assert summary.outcomes == {"ready": 2}
    assert summary.spent_at_most_usd > 2 * each.on_demand_usd


def test_of_an_image_of_one_s_own_it_is_said_what_is_not_known(in_process):
    report = checked(in_process, named("amazon-eks-node-linux"))

    assert report.problems == ()
    assert "it is not known whether it runs the script in the user data" in report.warnings[0]
    assert report.bound_usd > 0
    assert checked(in_process, named("ubuntu/images")).warnings == ()
    assert checked(in_process, None).warnings == ()


@pytest.mark.parametrize(
    ("facts", "runs", "objections"),
    [
        ({**AMAZON, "Name": "al2023-ami-2023.1"}, True, 0),
        ({"OwnerId": "045324592363", "ImageOwnerAlias": "amazon", "Name": "amzn2-ami-x"}, True, 0),
        ({"OwnerId": "1", "Name": "al2023-ami-2023.1"}, None, 0),  # anybody may name it so
        ({"ImageOwnerAlias": "amazon", "Name": "bottlerocket-aws-k8s"}, False, 1),
        ({"Platform": "windows"}, False, 2),
        ({"Platform": "Windows", "PlatformDetails": "Windows with SQL Server"}, False, 2),
        ({"OwnerId": "1", "PlatformDetails": "Red Hat BYOL Linux"}, None, 1),
        ({"OwnerId": "099720109477", "UsageOperation": "RunInstances:0g00"}, True, 1),
        ({"OwnerId": "1", "ProductCodes": [{"ProductCodeType": "marketplace"}]}, None, 1),
        ({}, None, 0),
    ],
)
def test_what_is_known_of_an_image_rests_on_what_ec2_says_of_it(facts, runs, objections):
    image = image_of({"ImageId": "ami-1", "Architecture": "x86_64", **facts})

    assert image.runs_switch("t3.nano") is runs
    assert len(image.objections("t3.nano")) == objections

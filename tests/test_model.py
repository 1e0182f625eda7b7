"""The nouns refuse invalid values."""

import pytest

from spotlib.model import (
    Plan,
    Stage,
    Target,
    image_family,
    is_instance_id,
    plan_launches,
    require_arms,
    require_events,
    watched_stages,
)

NANO = Target("t3.nano", "sa-east-1")
YEAR_S = 366 * 86_400


@pytest.mark.parametrize("count", [0, -1, 3001, 2.0, True, "five"])
def test_a_plan_refuses_a_count_that_ec2_would(count):
    with pytest.raises(ValueError, match=r"n must be a whole number from 1 to 3000.*got"):
        Plan(NANO, count)


@pytest.mark.parametrize(
    "timeout_s", [0, 0.0, -1, 31_622_401, 1e300, float("nan"), float("inf"), "600", True]
)
def test_a_plan_refuses_a_timeout_that_never_ends_or_never_begins(timeout_s):
    with pytest.raises(ValueError, match=r"timeout_s must be above 0 and at most 31622400.* got"):
        Plan(NANO, 1, timeout_s=timeout_s)


def test_the_least_and_the_most_that_a_plan_may_ask_for():
    assert [Plan(NANO, count).count for count in (1, 3000)] == [1, 3000]
    assert Plan(NANO, 1, timeout_s=1e-9).timeout_s == 1e-9
    assert Plan(NANO, 1, timeout_s=YEAR_S).timeout_s == YEAR_S
    assert Plan(NANO, 1, max_price_usd=1e-9).max_price_usd == 1e-9
    for price_usd in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="max_price_usd must be above 0"):
            Plan(NANO, 1, max_price_usd=price_usd)
    with pytest.raises(ValueError, match=r"max_price_usd=1 is for spot, run_instances:on-demand"):
        Plan(NANO, 1, max_price_usd=1.0, method="run_instances", purchase="on-demand")


def test_what_nobody_says_is_watched_for_ten_minutes_or_a_probe_for_half_a_minute():
    [plan] = plan_launches([NANO], count=1)
    [probe] = plan_launches([NANO], count=1, wanted=Stage.GRANTED)

    assert (Plan(NANO, 1).timeout_s, plan.timeout_s, probe.timeout_s) == (600.0, 600.0, 30.0)
    assert (Plan(NANO, 1).wanted, plan.method, plan.purchase) == (
        *(Stage.READY, "request_spot_instances", "spot"),
    )
    assert (plan.is_probe, probe.is_probe) == (False, True)


def test_all_plans_have_the_same_other_values():
    given = {"timeout_s": 7.0, "wanted": Stage.USABLE, "image": "ami-1", "max_price_usd": 0.5}
    arms = ["run_instances", "create_fleet_instant"]

    plans = plan_launches([NANO], count=3, methods=arms, usable=True, **given)

    assert plans == [Plan(NANO, 3, method=arm, usable=True, **given) for arm in arms]
    assert plan_launches([NANO], count=3) == [Plan(NANO, 3)]


def test_each_method_and_target_is_planned_once():
    arms = ["run_instances", "run_instances:on-demand"]
    plans = plan_launches([NANO, Target("t3.nano", "eu-west-1")], count=1, methods=arms)

    assert [each.arm for each in plans] == arms * 2
    assert len({each.key for each in plans}) == 4
    with pytest.raises(ValueError, match="each method may be named once, got 'run_instances run"):
        plan_launches([NANO], count=1, methods=["run_instances", "run_instances"])
    with pytest.raises(ValueError, match="there is no launch method"):
        plan_launches([NANO], count=1, methods=[])
    with pytest.raises(ValueError, match=r"a method must be one of .* got 'walk'"):
        require_arms(["run_instances", "walk"])
    with pytest.raises(ValueError, match="there is no target to launch"):
        plan_launches([], count=1)


def test_events_are_recorded_or_not_or_read_from_a_queue_that_is_named():
    for events in (True, False, "q", "q" * 80, "My-queue_1"):
        require_events(events)
    for events in ("", "q" * 81, "q.fifo", "true", "False", "run_instances", "0", 1, None):
        with pytest.raises(ValueError, match=r"events must be True or False .not as text.* got"):
            require_events(events)


def test_stages_have_their_names_in_the_order_of_time_and_a_plan_waits_for_some():
    names = ["accepted", "granted", "fulfilled", "running", "usable", "ready"]

    assert [each.label for each in sorted(Stage)] == names
    for wanted in (Stage.ACCEPTED, Stage.FULFILLED, "ready"):
        with pytest.raises(
            ValueError, match="wanted must be one of granted, running, usable, ready, got"
        ):
            Plan(NANO, 1, wanted=wanted)


def test_an_instance_id_begins_as_ec2s_do():
    assert [is_instance_id(each) for each in ("i-0", "sir-i-0", "ami-0")] == [True, False, False]


@pytest.mark.parametrize(
    "names", [("t3", "sa-east-1"), ("T3.nano", "sa-east-1"), ("t3.nano", "sa-east-1a")]
)
def test_a_target_refuses_names_that_cannot_be_ec2s(names):
    with pytest.raises(ValueError, match="is not a name EC2 could know"):
        Target(*names)


@pytest.mark.parametrize(
    ("names", "slip"),
    [
        (("sa-east-1", "sa-east-1"), "; that is a region"),
        (("t3", "sa-east-1"), ""),
        (("sa-east-1a", "sa-east-1"), ""),
        (("t3.nano", "sa-east-1a"), "; that is a zone of the region sa-east-1"),
        (("t3.nano", "sa-east"), ""),
        (("t3.nano", "sa-east-1", "sa-east-1"), ""),
    ],
)
def test_a_region_or_a_zone_in_another_place_is_said_to_be_one_and_nothing_else_is(names, slip):
    with pytest.raises(ValueError, match=rf"could know \(example: [^)]+\){slip}$"):
        Target(*names)


def test_a_zone_is_named_by_its_id_and_not_by_its_name():
    with pytest.raises(ValueError, match="zone ids, not zone names"):
        Target("t3.nano", "sa-east-1", "sa-east-1a")

    assert Target("t3.nano", "sa-east-1", "sae1-az1").placement == "zone"


@pytest.mark.parametrize(
    ("region", "zone"),
    [
        ("us-west-2", "usw2-lax1-az1"),  # a local zone
        ("us-east-1", "use1-wl1-bos-wlz1"),  # a Wavelength zone
        ("ap-northeast-1", "apne1-wl1-nrt-wlz1"),
        ("us-gov-west-1", "usgw1-az3"),
        ("cn-northwest-1", "cnnw1-az1"),
        ("eusc-de-east-1", None),
    ],
)
def test_every_region_and_zone_id_of_ec2_is_a_name(region, zone):
    assert Target("t3.nano", region, zone).availability_zone_id == zone


@pytest.mark.parametrize("zone", ["us-west-2-lax-1a", "us-east-1-wl1-bos-wlz-1", "a-az1"])
def test_names_of_local_and_wavelength_zones_are_no_ids(zone):
    with pytest.raises(ValueError, match="zone ids, not zone names"):
        Target("t3.nano", "us-east-1", zone)


def test_the_same_target_twice_in_a_round_is_refused_by_name():
    once = Target("t3.micro", "sa-east-1")
    with pytest.raises(ValueError, match=r"got twice: t3\.nano in sa-east-1$"):
        plan_launches([NANO, once, NANO], count=1)


@pytest.mark.parametrize("wanted", [Stage.GRANTED, Stage.RUNNING])
def test_usable_is_not_recorded_where_instances_end_before_it(wanted):
    with pytest.raises(ValueError, match="ended before it is usable"):
        Plan(NANO, 1, wanted=wanted, usable=True)


def test_a_plan_that_waits_for_usable_records_it_and_others_only_where_it_is_asked_for():
    assert Stage.USABLE in Plan(NANO, 1, wanted=Stage.USABLE).stages
    assert Stage.USABLE in Plan(NANO, 1, wanted=Stage.USABLE, usable=True).stages
    assert Stage.USABLE in Plan(NANO, 1, usable=True).stages
    assert Stage.USABLE not in Plan(NANO, 1).stages


def test_only_a_probe_records_that_it_was_granted():
    rest = [Stage.ACCEPTED, Stage.FULFILLED, Stage.RUNNING, Stage.READY]

    assert {wanted: list(Plan(NANO, 1, wanted=wanted).stages) for wanted in rest[2:]} == {
        Stage.RUNNING: rest,
        Stage.READY: rest,
    }
    assert Stage.GRANTED in Plan(NANO, 1, wanted=Stage.GRANTED).stages
    assert watched_stages(Stage.GRANTED) == (Stage.ACCEPTED, Stage.GRANTED)
    assert watched_stages(Stage.RUNNING) == tuple(rest[:3])
    assert watched_stages(Stage.READY) == tuple(rest)
    assert watched_stages(Stage.READY, usable=True) == (*rest[:3], Stage.USABLE, Stage.READY)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("al2023-ami-2023.6.20250128.0-kernel-6.1-arm64", "al2023-ami-kernel-6.1-arm64"),
        ("al2023-ami-2023.12.20260930.0-kernel-6.12-x86_64", "al2023-ami-kernel-6.12-x86_64"),
        (
            "al2023-ami-minimal-2023.12.20260930.0-kernel-6.1-arm64",
            "al2023-ami-minimal-kernel-6.1-arm64",
        ),
        (
            "amzn2-ami-kernel-5.10-hvm-2.0.20260930.0-x86_64-gp2",
            "amzn2-ami-kernel-5.10-hvm-x86_64-gp2",
        ),
        ("amzn-ami-hvm-2017.09.1.20171103-x86_64-gp2", "amzn-ami-hvm-x86_64-gp2"),
        ("al2023-ami-my-own-arm64", "ami-1"),
        ("Windows_Server-2019-English-Full-Base-2019.0.20250101", "ami-1"),
        ("al2023-ami-2023.6.20250128.0-2023.6.20250129.0-arm64", "ami-1"),  # of which of the two?
        ("", "ami-1"),
    ],
)
def test_the_releases_of_amazon_linux_are_one_family_and_any_other_image_is_its_own(name, family):
    assert image_family("ami-1", name, "amazon") == family
    for owner in (None, "123456789012", "aws-marketplace"):
        assert image_family("ami-1", name, owner) == "ami-1"

"""What a batch costs at most, how long it may last, and how it is cut into waves: by hand."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from spotlib.collect.cost import PreflightReport, PreparedPlan, split_waves
from spotlib.collect.quotas import quota_of
from spotlib.collect.report import rounds_words
from spotlib.model import LONGEST_PAUSE_S, Plan, Stage, Target
from spotlib.money import requests_usd

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
STANDARD = quota_of("t3.nano").name


def prepared(instance_type="t3.nano", *, count=2, timeout_s=600.0, **known):
    return PreparedPlan(
        Plan(Target(instance_type, "sa-east-1"), count, timeout_s=timeout_s),
        image="ami-1",
        image_name="",
        vcpus=2,
        burstable=False,
        family=quota_of(instance_type).name,
        **known,
    )


def report(*plans, free=None, **known):
    return PreflightReport("123456789012", "arn", plans, {("sa-east-1", STANDARD): free}, **known)


def test_the_switch_comes_five_minutes_after_the_timeout_in_whole_minutes():
    assert prepared(timeout_s=600.0).shutdown_after_min == 15
    assert prepared(timeout_s=601.0).shutdown_after_min == 16


def test_an_instance_ends_two_minutes_after_its_switch_at_the_latest():
    assert prepared(timeout_s=600.0).life_bound_s == 15 * 60 + 120


def test_the_bound_is_every_instance_on_demand_until_its_switch_with_address_and_disk():
    one = prepared(count=3, on_demand_usd=0.036)

    per_hour_usd = 0.036 + 0.005 + 8 * 0.08 / 730

    assert one.bound_usd == pytest.approx(3 * per_hour_usd * 1020 / 3600)


def test_a_batch_lasts_until_the_bound_of_its_last_round():
    slow, quick = prepared(timeout_s=600.0), prepared("t3.micro", timeout_s=300.0)

    batch, pauses = report(slow, quick), {"every_s": 900.0, "arm_pause_s": 70.0}
    assert batch.over_by_s(rounds=1, **pauses) == 1020
    assert batch.over_by_s(rounds=3, **pauses) == 2 * 900 + 1020
    assert report().over_by_s(rounds=1, **pauses) == 0


def test_waves_follow_each_other_so_their_bounds_add_up():
    slow, quick = prepared(timeout_s=600.0), prepared("t3.micro", timeout_s=300.0)

    batch = report(slow, quick, free=4)
    assert batch.over_by_s(rounds=2, every_s=900.0, arm_pause_s=70.0) == 900 + 1020 + 720


@pytest.mark.parametrize("early_s", [1, 0])
def test_credentials_must_last_to_the_end_of_the_last_round(early_s):
    ends_at = NOON + timedelta(seconds=2 * 900 + 1020 - early_s)
    batch = report(prepared(), credentials_end_at=ends_at)

    def require():
        rhythm = {"rounds": 3, "every_s": 900.0, "arm_pause_s": 70.0}
        batch.require_lasting_credentials(now_at=NOON, **rhythm)

    if early_s:
        with pytest.raises(ValueError, match="clean-up until 2026-01-02 12:47:00 UTC"):
            require()
    else:
        require()


@pytest.mark.parametrize(
    ("free", "waves"), [(9, [2]), (8, [2]), (7, [1, 1]), (4, [1, 1]), (None, [2])]
)
def test_a_wave_takes_what_the_quota_leaves_and_no_more(free, waves):
    plans = [prepared(), prepared("t3.micro")]

    cut = split_waves(plans, {("sa-east-1", STANDARD): free})

    assert [len(each) for each in cut] == waves


def test_a_plan_over_its_quota_is_a_wave_of_its_own():
    plans = [prepared(), prepared("t3.micro", count=9), prepared("t3.small")]

    assert [len(each) for each in split_waves(plans, {("sa-east-1", STANDARD): 8})] == [1, 1, 1]


def test_each_quota_is_counted_by_itself_within_a_wave():
    """A plan of another family joins a wave, if it fits under its own quota, to the last vCPU."""
    other = replace(prepared("t3.micro"), family="other")
    elsewhere = replace(prepared(), plan=Plan(Target("t3.nano", "eu-west-1"), 2))
    free = {("sa-east-1", STANDARD): 4, ("sa-east-1", "other"): 4, ("eu-west-1", STANDARD): 3}

    assert [len(each) for each in split_waves([prepared(), other], free)] == [2]
    assert [len(each) for each in split_waves([prepared(), elsewhere], free)] == [1, 1]
    cut = split_waves([prepared(), other, prepared("t3.small"), other], free)
    assert [len(each) for each in cut] == [2, 2]


def in_turns(*methods, **known):
    """One target, launched in each of these ways."""
    one = prepared(**known)
    return [replace(one, plan=replace(one.plan, method=each)) for each in methods]


def test_the_pauses_between_launch_methods_make_a_batch_longer():
    two = in_turns("request_spot_instances", "run_instances")
    three = [*two, *in_turns("create_fleet_instant")]

    assert report(*two).over_by_s(rounds=1, every_s=9.0, arm_pause_s=70.0) == 2 * 1020 + 70
    assert report(*three).over_by_s(rounds=2, every_s=9.0, arm_pause_s=70.0) == 9 + 3 * 1020 + 140
    assert report(two[0]).over_by_s(rounds=1, every_s=9.0, arm_pause_s=70.0) == 1020
    ends_at = NOON + timedelta(seconds=2 * 1020 + 70)
    batch = report(*two, credentials_end_at=ends_at)
    batch.require_lasting_credentials(now_at=NOON, rounds=1, every_s=9.0, arm_pause_s=70.0)
    with pytest.raises(ValueError, match="clean-up until 2026-01-02 12:35:11 UTC"):
        batch.require_lasting_credentials(now_at=NOON, rounds=1, every_s=9.0, arm_pause_s=71.0)


@pytest.mark.parametrize(
    ("methods", "lasts_s", "words"),
    [
        (1, 660, "1 launch method, 1 wave"),
        (2, 2 * (660 + 70), "2 launch methods, 2 waves"),
    ],
)
def test_a_round_that_may_outlast_the_pause_to_the_next_is_warned_of(methods, lasts_s, words):
    """A wave is over a minute after its timeout, and after each launch method there is a pause."""
    plans = in_turns(*["request_spot_instances", "run_instances"][:methods])
    given = {"rounds": 2, "arm_pause_s": 70.0}

    assert report(*plans).late_rounds(every_s=lasts_s, **given) == []
    assert report(*plans).late_rounds(every_s=lasts_s + 1, **given) == []
    assert report(*plans).late_rounds(every_s=lasts_s - 1, **given | {"rounds": 1}) == []
    assert report(*plans).late_rounds(every_s=lasts_s - 1, **given | {"rounds": 3})
    [warning] = report(*plans).late_rounds(every_s=lasts_s - 1, **given)
    assert f"a round may last {lasts_s} s ({words}), longer than every_s={lasts_s - 1}" in warning
    assert warning.endswith(f"set every_s to at least {lasts_s}")


def test_rounds_are_as_far_apart_as_one_may_last_and_900_s_at_least():
    one, two = in_turns("request_spot_instances"), in_turns("run_instances", "create_fleet_instant")
    lasts_s = 2 * (660 + 70)

    assert report(*one).usual_every_s(70.0) == 900.0
    assert report(*one).usual_every_s(70.0, least_s=300.0) == 660.0
    assert report(*two).usual_every_s(70.0) == lasts_s
    assert report(*two).late_rounds(rounds=9, every_s=lasts_s, arm_pause_s=70.0) == []
    assert report(*two).usual_every_s(LONGEST_PAUSE_S) == LONGEST_PAUSE_S  # no batch takes more
    rhythm = {"rounds": 3, "every_s": lasts_s}
    assert rounds_words(report(*two), rhythm).startswith("3 rounds, one every 1460 s: expected ")
    assert rounds_words(report(*one), rhythm | {"rounds": 1}).startswith("1 round: expected ")


def test_that_credits_make_the_bound_of_a_small_type_large_is_said_where_there_are_any():
    nano, large = prepared(on_demand_usd=0.0052), prepared("m5.large", on_demand_usd=0.096)
    nano, large = replace(nano, burstable=True), replace(large, burstable=False)

    assert nano.bound_usd > large.bound_usd
    assert replace(nano, burstable=False).bound_usd < large.bound_usd
    [words] = report(nano, large).cost_words()
    assert words.startswith("t3.nano: AWS bills CPU credits beyond the earned ones, $0.0500 per")
    assert report(large).cost_words() == []


PER_HOUR_USD = 0.005 + 8 * 0.08 / 730  # address and disk


@pytest.mark.parametrize(
    ("stage", "timeout_s", "held_s"),
    [
        (Stage.GRANTED, 600.0, 60),  # no less than a minute is billed
        (Stage.RUNNING, 600.0, 60),
        (Stage.USABLE, 600.0, 90),
        (Stage.READY, 600.0, 300),
        (Stage.READY, 120.0, 120),
    ],
)
def test_what_is_expected_is_the_price_until_the_usual_time_of_the_stage(stage, timeout_s, held_s):
    one = prepared(count=3, timeout_s=timeout_s, price_usd=0.01, on_demand_usd=0.04)
    spot = replace(one, plan=replace(one.plan, wanted=stage))
    on_demand = replace(spot, plan=replace(spot.plan, method="run_instances", purchase="on-demand"))
    private = replace(spot, subnet_id="subnet-1")

    assert spot.expected_usd == pytest.approx(3 * (0.01 + PER_HOUR_USD) * held_s / 3600)
    assert on_demand.expected_usd == pytest.approx(3 * (0.04 + PER_HOUR_USD) * held_s / 3600)
    assert private.expected_usd == pytest.approx(3 * (0.005 + PER_HOUR_USD) * held_s / 3600)
    assert report(spot, on_demand).expected_usd == spot.expected_usd + on_demand.expected_usd


def test_the_bound_counts_surplus_credits_whole_hours_and_a_missing_switch():
    one = prepared(count=2, price_usd=0.01, on_demand_usd=0.04)
    burstable, hourly = replace(one, burstable=True), replace(one, by_the_hour=True)

    surplus = 2 * 2 * 0.05 * 1020 / 3600  # 2 vCPUs of 2 instances
    assert burstable.bound_usd == pytest.approx(one.bound_usd + surplus)
    assert burstable.expected_usd == pytest.approx(one.expected_usd)
    assert hourly.bound_usd == pytest.approx(2 * (0.04 + PER_HOUR_USD * 1020 / 3600))
    assert math.isnan(replace(one, has_switch=False).bound_usd)
    assert report(one, hourly).bound_usd == pytest.approx(one.bound_usd + hourly.bound_usd)


def test_a_budget_may_be_used_up_to_its_last_cent_alone_and_with_earlier_batches():
    batch = report(prepared(on_demand_usd=0.04))
    both_usd = 2 * batch.bound_usd

    def require(budget_usd=None, campaign_budget_usd=None, batch=batch):
        batch.require_budget(
            rounds=2,
            budget_usd=budget_usd,
            campaign_budget_usd=campaign_budget_usd,
            earlier_usd=1.5,
        )

    require()
    require(both_usd, both_usd + 1.5)
    require(both_usd + 0.1, both_usd + 1.6)
    with pytest.raises(ValueError, match=r"the batch can cost .* over budget_usd="):
        require(both_usd * 0.9999)
    with pytest.raises(ValueError, match=r"with \$1.5000 of earlier batches .* campaign"):
        require(both_usd, 1.5 + both_usd * 0.9999)
    unknown = report(prepared())
    require(batch=unknown)
    for budgets in ((9.0,), (None, 9.0)):
        with pytest.raises(ValueError, match="cost unknown at most"):
            require(*budgets, batch=unknown)


@pytest.mark.parametrize(
    ("free", "quiet", "busy"),
    [(None, 201, 3701), (4, 201 + 101, 3701 + 2201)],
)
def test_queues_are_read_while_a_wave_is_watched_and_its_end_is_told(free, quiet, busy):
    """Every 3 s if there is nothing, every 0.2 s if there is much; the first read is at 0 s.

    The second may begin a minute before the wave does, and go on for 80 s after it.
    """
    plans = prepared(on_demand_usd=0.04), prepared("t3.micro", timeout_s=300.0, on_demand_usd=0.04)
    without, batch = (report(*plans, free=free, events=each) for each in (False, True))
    most = 2 * busy + 20

    [words] = batch.cost_words()
    assert f"about {quiet} requests to SQS" in words
    assert f"at most {most} if" in words
    assert batch.bound_usd - without.bound_usd == pytest.approx(requests_usd(most))
    assert without.cost_words() == []
    assert without.bound_usd == sum(each.bound_usd for each in plans)


def test_each_region_has_a_queue():
    here = prepared(timeout_s=60.0)
    there = replace(here, plan=replace(here.plan, target=Target("t3.nano", "eu-west-1")))

    assert report(here, events="mine")._queue_calls == (21, 2 * 1001 + 20)
    assert report(here, there, events=True)._queue_calls == (42, 2 * (2 * 1001 + 20))


def test_all_problems_are_said_at_once_and_without_any_the_report_is_given_back():
    sound = report(prepared())

    assert sound.require() is sound
    with pytest.raises(ValueError, match=r"^one thing; another thing$"):
        replace(sound, problems=("one thing", "another thing")).require()

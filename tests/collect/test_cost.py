"""What a batch costs at most, how long it may last, and how it is cut into waves: by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from spotlib.collect.cost import PreflightReport, PreparedPlan, split_waves
from spotlib.collect.quotas import quota_of
from spotlib.model import Plan, Target

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

    assert report(slow, quick).over_by_s(rounds=1, every_s=900.0) == 1020
    assert report(slow, quick).over_by_s(rounds=3, every_s=900.0) == 2 * 900 + 1020


def test_waves_follow_each_other_so_their_bounds_add_up():
    slow, quick = prepared(timeout_s=600.0), prepared("t3.micro", timeout_s=300.0)

    assert report(slow, quick, free=4).over_by_s(rounds=2, every_s=900.0) == 900 + 1020 + 720


@pytest.mark.parametrize("early_s", [1, 0])
def test_credentials_must_last_to_the_end_of_the_last_round(early_s):
    ends_at = NOON + timedelta(seconds=2 * 900 + 1020 - early_s)
    batch = report(prepared(), credentials_end_at=ends_at)

    def require():
        batch.require_lasting_credentials(now_at=NOON, rounds=3, every_s=900.0)

    if early_s:
        with pytest.raises(ValueError, match="clean-up until 2026-01-02 12:47:00 UTC"):
            require()
    else:
        require()


@pytest.mark.parametrize(("free", "waves"), [(8, [2]), (7, [1, 1]), (4, [1, 1]), (None, [2])])
def test_a_wave_takes_what_the_quota_leaves_and_no_more(free, waves):
    plans = [prepared(), prepared("t3.micro")]

    cut = split_waves(plans, {("sa-east-1", STANDARD): free})

    assert [len(each) for each in cut] == waves


def test_a_plan_over_its_quota_is_a_wave_of_its_own():
    plans = [prepared(), prepared("t3.micro", count=9), prepared("t3.small")]

    assert [len(each) for each in split_waves(plans, {("sa-east-1", STANDARD): 8})] == [1, 1, 1]

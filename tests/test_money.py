"""What an instance costs while it is held."""

import numpy as np
import pytest

from spotlib.money import held_usd, usd

EXTRAS = 0.005 + 8 * 0.08 / 730  # USD per hour: a public address and 8 GiB of gp3


def test_a_held_instance_costs_its_price_its_address_and_its_disk_for_at_least_a_minute():
    a_minute, five = (held_usd(0.0052, held_s) for held_s in (20, 300))

    assert a_minute == pytest.approx(60 / 3600 * (0.0052 + EXTRAS))
    assert five == pytest.approx(5 * a_minute)


def test_an_instance_without_an_address_does_not_pay_for_one():
    assert held_usd(0.01, 3600, has_address=False) == pytest.approx(0.01 + EXTRAS - 0.005)


def test_surplus_credits_are_billed_per_vcpu():
    assert held_usd(0.01, 3600, surplus_vcpus=2) == pytest.approx(0.01 + EXTRAS + 0.1)


def test_a_system_billed_by_the_hour_costs_each_started_hour_in_full():
    hour, two = (held_usd(0.03, held_s, by_the_hour=True) for held_s in (300, 3601))

    assert hour == pytest.approx(0.03 + 300 / 3600 * EXTRAS)
    assert two == pytest.approx(2 * 0.03 + 3601 / 3600 * EXTRAS)


def test_an_unknown_price_gives_an_unknown_cost_for_it_alone():
    assert np.isnan(held_usd(np.array([np.nan, 1.0]), 300)).tolist() == [True, False]


def test_an_unknown_amount_is_shown_as_unknown():
    assert usd(float("nan")) == "unknown"
    assert usd(0.00624) == "$0.0062"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [(0.0, "$0.0000"), (0.00001, "$0.000010"), (0.000849, "$0.00085"), (0.001, "$0.0010")],
)
def test_only_nothing_is_shown_as_nothing(amount, shown):
    assert usd(amount) == shown

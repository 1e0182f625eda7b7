"""What to do is decided and said by rules whose edges are worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of

from spotlib.forecast import decide
from spotlib.forecast.decide import (
    decision_words,
    decisions,
    forecast_words,
    formatted_decisions,
    requests_needed,
    waiting_pays_until_s,
)
from spotlib.forecast.forecast import Forecast, fit_forecaster
from spotlib.forecast.training import request_table, training_table
from spotlib.model import Target

NANO, MICRO = (Target(f"t3.{size}", "sa-east-1") for size in ("nano", "micro"))


def forecast_of(*chances, times_s=None):
    """Return a forecast from the probabilities of 0 to n, one row for each 10 s."""
    times = 10.0 * np.arange(1, len(chances) + 1) if times_s is None else np.array(times_s)
    table = np.array(chances, dtype=float)
    return Forecast(NANO, table.shape[1] - 1, times, table, "global", 6, True, True)


def test_the_most_and_the_least_are_by_the_share_of_n_and_not_by_the_count():
    """Of the counts 3 of 4 and 2 of 2, the first is the larger count and the smaller share.

    Before the end it was the other way round.
    """
    most = forecast_of([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    three = [0.0, 0.0, 0.0, 1.0, 0.0]
    least = replace(forecast_of(three, three, three), target=MICRO)

    assert forecast_words([most, least]) == (
        "After 30 s, expect 3.0 of 4 at t3.micro in sa-east-1 to all 2 at t3.nano in sa-east-1."
    )


@pytest.mark.parametrize(
    ("enough", "needed"), [(1, 2), (2, 2), (3, 3), (19, 19), (20, 20), (21, None)]
)
def test_up_to_ten_times_as_many_are_tried_until_the_chance_is_nine_in_ten(
    enough, needed, monkeypatch
):
    def forecast(*_, n, **__):
        return SimpleNamespace(at_least=lambda _: np.array([0.9 if n >= enough else 0.8999]))

    monkeypatch.setattr(decide, "forecast_ready", forecast)

    assert requests_needed(None, NANO, k=2, by_s=60.0) == needed


def decided(**values):
    row = {"target": ["a"], "n": 2, "by_s": 330.0, "all_ready": 0.9, "to_request": 2.0}
    return pd.DataFrame(row | {"wait_until_s": 90.0} | values)


@pytest.mark.parametrize(
    ("by_s", "shown", "said"),
    [
        (61.0, "over 1", "waiting still pays at 1 s (later is not known)"),
        (60.0, "over 0", "waiting still pays at 0 s (later is not known)"),
        (59.0, "-", None),
    ],
)
def test_waiting_is_known_to_pay_only_until_a_minute_before_the_end(by_s, shown, said):
    table = decided(by_s=by_s, wait_until_s=np.nan)
    words = decision_words(table)

    assert formatted_decisions(table)["wait_until_s"].tolist() == [shown]
    assert words.endswith(f"  Of the same, at 1 {said}." if said else "at 1 request n.")


@pytest.mark.parametrize(("to_request", "words"), [(3.0, "more than n"), (2.0, "n")])
def test_a_single_target_is_said_to_need_n_or_more(to_request, words):
    assert decision_words(decided(to_request=to_request)) == (
        f"To have n ready within 330 s with a chance of 90 %: of 1 target, at 1 request {words}."
    )


def test_where_all_are_ready_waiting_pays_no_more():
    """All of the one becomes ready between 10 and 20 s, so at 20 s none is left to wait for."""
    steps = forecast_of([1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0])

    assert waiting_pays_until_s(steps, within_s=10.0) == 20.0


@pytest.mark.parametrize(("least", "until_s"), [(0.24, 1.0), (0.26, 0.0)])
def test_waiting_pays_at_the_request_alone_or_never(least, until_s):
    """A quarter is ready by 10 s and no more: at the request a quarter of those pending."""
    flat = forecast_of([0.75, 0.25], [0.75, 0.25], [0.75, 0.25])

    assert waiting_pays_until_s(flat, within_s=10.0, least_probability=least) == until_s


def test_a_twentieth_of_the_pending_within_a_minute_is_worth_the_wait_if_nobody_says_otherwise():
    def until_s(share, *, last_s):
        row, times_s = [1 - share, share], [30.0, 90.0, last_s]
        return waiting_pays_until_s(forecast_of([1.0, 0.0], row, row, times_s=times_s))

    assert until_s(0.051, last_s=151.0) == 32.0  # a little less is left each second
    assert until_s(0.049, last_s=151.0) == 0.0
    assert np.isnan(until_s(0.051, last_s=90.0))  # it pays at 30 s, and later is not known
    assert until_s(0.049, last_s=90.0) == 0.0


def test_when_to_stop_waiting_is_told_in_whole_seconds():
    """All that ever become ready are so by 99.2 s: a twentieth of the pending after 98.5 s."""
    runs = [run_rows([99.0, 99.0 if i % 2 else INF], number=i) for i in range(12)]
    launches = table_of(*runs)
    training = training_table(launches, step_s=12.4, horizon_s=300.0)
    forecaster = fit_forecaster(training, model="global")
    [row] = decisions(forecaster, request_table(launches)).to_dict("records")

    assert row["wait_until_s"] == 99.0
    assert row["by_s"] == pytest.approx(297.6)


def test_a_time_to_stop_waiting_between_two_seconds_is_rounded(monkeypatch):
    monkeypatch.setattr(decide, "waiting_pays_until_s", lambda _: 237.6)
    launches = table_of(*(run_rows([90.0], number=i) for i in range(6)))
    forecaster = fit_forecaster(training_table(launches), model="global")
    table = decisions(forecaster, request_table(launches))

    assert table["wait_until_s"].tolist() == [238.0]


def test_what_is_decided_is_about_the_last_elapsed_time():
    """The second of the two was never ready before it, and always by then."""
    launches = table_of(*(run_rows([90.0, 290.0], number=i) for i in range(12)))
    training = training_table(launches, step_s=15.0, horizon_s=300.0)
    forecaster = fit_forecaster(training, model="global")
    [row] = decisions(forecaster, request_table(launches)).to_dict("records")

    assert (row["by_s"], row["ready_at_least"], row["to_request"]) == (300.0, 2, 2.0)
    assert row["all_ready"] > 0.9
    assert np.isnan(row["wait_until_s"])  # within the last minute all that waited became ready

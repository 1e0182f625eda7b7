"""The training and per-request tables hold what was observed, and nothing more."""

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, drawn, run_rows, table_of

from spotlib.analyze.comparable import RUN
from spotlib.forecast.models import Runs
from spotlib.forecast.training import (
    COLUMNS,
    data_dictionary,
    left_out,
    request_table,
    training_table,
)
from spotlib.model import Stage
from spotlib.record.columns import BATCH_COLUMNS


def counts(training, *, number=0):
    run = training[training["round"] == number]
    return dict(zip(run["elapsed_s"], run["ready"], strict=True))


def test_the_count_is_what_polls_had_shown_by_then():
    training = training_table(table_of(run_rows([20.0, 31.0])), step_s=10.0, horizon_s=50.0)

    assert counts(training) == {10.0: 0, 20.0: 1, 30.0: 1, 40.0: 2, 50.0: 2}
    assert training["ready_most"].tolist() == [0, 1, 2, 2, 2]


def test_what_was_not_ready_at_the_beginning_of_its_bracket_was_not_at_that_very_time():
    training = training_table(table_of(run_rows([23.0])), step_s=10.0, horizon_s=30.0)

    assert training["ready_most"].tolist() == [0, 0, 1]


def test_a_run_that_ended_because_all_were_ready_stays_at_n():
    training = training_table(table_of(run_rows([20.0, 31.0])))

    assert training["elapsed_s"].max() == 570.0
    assert counts(training)[570.0] == 2
    assert (training["weight"] == 1.0).all()


def test_times_are_every_quarter_of_a_minute_to_95_of_100_parts_of_the_timeout():
    launches = table_of(run_rows([20.0], timeout_s=100.0, until_s=99.0))
    expected = [15.0, 30.0, 45.0, 60.0, 75.0, 90.0]

    assert training_table(launches)["elapsed_s"].tolist() == expected
    assert Runs.of_requests(request_table(launches)).times_s.tolist() == expected
    assert training_table(launches, step_s=47.5)["elapsed_s"].tolist() == [47.5, 95.0]
    tenths = training_table(launches, step_s=0.1, horizon_s=0.3)  # three of 0.1 are more than 0.3
    assert tenths["elapsed_s"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    seconds = training_table(launches, step_s=1.0, horizon_s=3.0)
    assert seconds["elapsed_s"].tolist() == [1.0, 2.0, 3.0]


def test_what_was_known_before_the_request_by_hand():
    """13:45:36 is 13.76 h; 0.002 of 0.008 USD is a quarter."""
    sent_at = pd.Timestamp("2024-09-01 13:45:36", tz="UTC")
    rows = [run_rows([20.0], sent_at=sent_at, t3=5, t3_source="selection")]
    [row] = request_table(table_of(*rows)).to_dict("records")

    assert row["hour_utc"] == pytest.approx(13.76, abs=1e-9)
    assert (row["price_share"], row["sps"], row["t3"]) == (0.25, 3.0, 5.0)
    assert (row["simulated"], row["t3_source"]) == (True, "selection")


@pytest.mark.parametrize("until_s", [0.5, 0.0])
def test_a_run_that_was_refused_at_once_was_watched_to_its_end_for_sure(until_s):
    """Also where another was lost before the first second, or before anything was polled."""
    refused = {"outcome": "refused", "kind": "capacity", "watched_s": 0.0, "request_id": None}
    lost = run_rows([INF], number=0, until_s=until_s, outcome="abandoned")
    rows = [run_rows([INF], number=1, **refused), run_rows([20.0], number=2)]
    weights = training_table(table_of(lost, *rows)).groupby("round")["weight"].agg(set)

    assert weights.to_dict() == {1: {1.0}, 2: {2.0}}


@pytest.mark.parametrize("outcome", ["interrupted", "failed"])
def test_a_run_that_ec2_ended_later_could_be_lost_until_then_as_one_that_became_ready(outcome):
    """A loss at 50 s hits all alike: of the twenty that were still watched ten became ready."""
    rows = [run_rows([INF], number=i, until_s=50.0, outcome="abandoned") for i in range(10)]
    rows += [run_rows([INF], number=i, until_s=300.0, outcome=outcome) for i in range(10, 20)]
    rows += [run_rows([300.0], number=i) for i in range(20, 30)]
    training = training_table(table_of(*rows))
    last = training[training["elapsed_s"] == training["elapsed_s"].max()]

    assert last["weight"].tolist() == pytest.approx([1.5] * 20)
    assert np.average(last["ready"], weights=last["weight"]) == pytest.approx(0.5)


def test_where_all_runs_are_lost_early_none_weighs_more_than_any():
    cut = [run_rows([INF], number=i, until_s=50.0, outcome="abandoned") for i in range(3)]
    training = training_table(table_of(*cut))

    assert training["elapsed_s"].max() == 45.0
    assert (training["weight"] == 1.0).all()


def test_a_run_has_no_row_after_its_last_poll():
    rows = run_rows([20.0, INF], until_s=100.0, outcome="abandoned")
    training = training_table(table_of(rows, run_rows([30.0, 40.0], number=1)), step_s=50.0)

    assert max(counts(training)) == 100.0
    assert len(counts(training, number=1)) == 11


def test_the_weights_of_other_runs_replace_an_abandoned_run():
    whole = [run_rows([INF], number=i) for i in range(5)]
    cut = [run_rows([INF], number=i, until_s=200.0, outcome="abandoned") for i in range(5, 10)]
    training = training_table(table_of(*whole, *cut), step_s=100.0)
    weight = training.groupby("elapsed_s")["weight"].sum()

    assert weight.tolist() == pytest.approx([10.0] * 5)


def test_weights_by_hand():
    """At 200 s one of the two runs still waiting is lost, so the other stands for both.

    A run that was done before keeps its weight.
    """
    lost = run_rows([INF], number=0, until_s=200.0, outcome="abandoned")
    early, late = run_rows([150.0], number=1), run_rows([400.0], number=2)
    training = training_table(table_of(lost, early, late), step_s=100.0, horizon_s=500.0)

    def weights(number):
        return training.loc[training["round"] == number, "weight"].tolist()

    assert weights(0) == [1.0, 1.0]
    assert weights(1) == [1.0] * 5
    assert weights(2) == pytest.approx([1.0, 1.0, 2.0, 2.0, 2.0])


def test_a_run_lost_between_the_last_two_times_counts_for_those_still_watched_then():
    """At 450 s only the latest was still waited for: it stands for the lost one, too."""
    lost = run_rows([INF], number=0, until_s=450.0, outcome="abandoned")
    ready = [run_rows([by_s], number=i) for i, by_s in enumerate([150.0, 430.0, 480.0], start=1)]
    training = training_table(table_of(lost, *ready), step_s=100.0, horizon_s=500.0)

    weights = training.groupby("round")["weight"].agg(list).to_dict()
    assert weights.pop(3) == pytest.approx([1.0, 1.0, 1.0, 1.0, 2.0])
    assert weights == {0: [1.0] * 4, 1: [1.0] * 5, 2: [1.0] * 5}


def test_censoring_does_not_bias_the_weighted_share():
    rng = np.random.default_rng(1)
    rows = []
    for number in range(2000):
        by_s = float(rng.exponential(300.0)) + 4.0
        end_s = float(rng.exponential(400.0))
        seen = by_s < min(end_s, 599.0)
        ends = {} if seen or end_s >= 599.0 else {"outcome": "abandoned"}
        rows += run_rows([by_s if seen else INF], number=number, until_s=min(end_s, 599.0), **ends)
    training = training_table(table_of(rows), step_s=100.0)
    ready = (training["ready"] * training["weight"]).groupby(training["elapsed_s"]).sum()
    share = ready / training.groupby("elapsed_s")["weight"].sum()

    truth = 1.0 - np.exp(-(share.index.to_numpy() - 4.0) / 300.0)
    assert share.to_numpy() == pytest.approx(truth, abs=0.035)
    unweighted = training.groupby("elapsed_s")["ready"].mean()
    assert unweighted.iloc[-1] > truth[-1] + 0.035  # the quick ones are over-represented


def test_a_refusal_for_capacity_is_a_run_with_none_ready():
    fields = {"outcome": "refused", "kind": "capacity", "watched_s": 0.0, "request_id": None}
    launches = table_of(run_rows([INF, INF], **fields))
    training, requests = training_table(launches), request_table(launches)

    assert len(training) == 38
    assert (training["ready"] == 0).all()
    assert requests["lower_s"].tolist() == [600.0, 600.0]
    assert requests["cause"].tolist() == ["refused", "refused"]


def test_an_interrupted_request_is_never_ready():
    rows = run_rows([20.0, INF], until_s=100.0, outcome="interrupted")
    launches = table_of(
        [{**row, "outcome": "ready"} if i == 0 else row for i, row in enumerate(rows)]
    )

    assert counts(training_table(launches))[570.0] == 1


def test_an_instance_that_failed_in_ec2_is_never_ready_and_one_that_the_account_ended_is_left_out():
    ended = {"outcome": "failed", "until_s": 100.0}
    ours = run_rows([INF], kind="account", instance_reason="Client.UserInitiatedShutdown", **ended)
    theirs = run_rows([INF], number=1, instance_reason="Server.InternalError", **ended)
    launches = table_of(ours, theirs)
    [request] = request_table(launches).to_dict("records")

    assert (request["round"], request["lower_s"], request["cause"]) == (1, 600.0, "failed")
    assert request["instance_reason"] == "Server.InternalError"
    assert left_out(launches)["reason"].tolist() == [
        "failed (account, Client.UserInitiatedShutdown): says nothing about the market"
    ]


def test_what_is_no_observation_of_the_market_is_left_out_with_its_reason():
    quota = run_rows([INF], number=1, outcome="refused", kind="quota")
    wrong = run_rows([5.0, INF], number=2)
    wrong = [
        {**row, "outcome": "failed", "kind": "quota"} if i else row for i, row in enumerate(wrong)
    ]
    launches = table_of(run_rows([20.0]), quota, wrong)

    assert set(training_table(launches)["round"]) == {0}
    assert left_out(launches).set_index("reason")["requests"].to_dict() == {
        "failed (quota): says nothing about the market": 2,
        "refused (quota): says nothing about the market": 1,
    }


def test_a_request_without_an_outcome_is_censored_at_its_last_poll():
    [row] = request_table(table_of(run_rows([INF], until_s=77.0, outcome=None))).to_dict("records")

    assert (row["lower_s"], row["upper_s"], row["event"]) == (77.0, INF, 0)
    assert row["cause"] == "unfinished"


def test_a_repeated_world_counts_once_and_a_later_batch_in_it_again():
    again = {"batch_id": "20240902T000000Z-bbbbbb"}
    later = {"batch_id": "20240903T000000Z-cccccc", "sent_at": pd.Timestamp("2024-09-02", tz="UTC")}
    launches = table_of(run_rows([20.0]), run_rows([20.0], **again), run_rows([30.0], **later))

    assert len(training_table(launches).drop_duplicates(RUN)) == 2
    words = "repeats a run of the simulated world w-1: counts once"
    assert left_out(launches)["reason"].tolist() == [words]


@pytest.mark.parametrize(
    ("name", "value"),
    [("simulated", False), ("endpoint", "aws"), ("method", "create_fleet"), ("placement", "zone")],
)
def test_different_variables_are_never_pooled(name, value):
    launches = table_of(run_rows([20.0]), run_rows([20.0], number=1, **{name: value}))

    with pytest.raises(ValueError, match=f"different {name} are never pooled"):
        training_table(launches)


def test_a_stage_that_was_not_watched_for_is_refused():
    with pytest.raises(ValueError, match="ready was not watched for"):
        training_table(table_of(run_rows([20.0], wanted="running")))


def test_a_stage_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="wanted must be a stage, got 'set'"):
        training_table(table_of(run_rows([20.0], wanted="set")))


def test_no_launch_and_no_grid_are_one_clear_sentence():
    with pytest.raises(ValueError, match="no launch to learn from"):
        training_table(table_of())
    with pytest.raises(ValueError, match="horizon_s=10"):
        training_table(table_of(run_rows([20.0])), horizon_s=10.0)


def test_earlier_stages_are_counted_by_their_own_brackets():
    launches = drawn(targets=4, rounds=3)
    running = training_table(launches, stage=Stage.RUNNING)
    ready = training_table(launches)

    assert (running["ready"].to_numpy() >= ready["ready"].to_numpy()).all()
    assert set(running["stage"]) == {"running"}


def test_the_dictionary_covers_every_column_of_every_table():
    launches = drawn(targets=4, rounds=3)
    dictionary = data_dictionary().groupby("table")["column"].agg(list)

    assert dictionary["training"] == list(training_table(launches).columns)
    assert dictionary["requests"] == list(request_table(launches).columns)
    of_batches = ["started_at", "account", "rounds", "every_s", "poll_s", "phase_s"]
    assert dictionary["batches"] == ["simulated", "world", "endpoint", "batch_id", *of_batches]
    assert set(dictionary["batches"]) <= set(BATCH_COLUMNS)
    for column in (each for columns in COLUMNS.values() for each in columns):
        assert column.unit
        assert column.meaning


def test_counts_of_a_run_never_fall_and_stay_within_n():
    training = training_table(drawn(targets=4, rounds=3))

    assert training["ready"].between(0, training["n"]).all()
    assert (training["ready_most"] >= training["ready"]).all()
    assert (training.groupby(RUN)["ready"].diff().fillna(0) >= 0).all()


def test_a_text_is_kept_once_however_many_rows_hold_it():
    training = training_table(table_of(run_rows([20.0, 31.0])), step_s=10.0)

    assert not training.select_dtypes(["str", "object"]).columns.tolist()
    assert training["instance_type"].dtype == "category"


@pytest.mark.parametrize("settings", [{}, {"step_s": 50.0, "horizon_s": 400.0}])
def test_runs_are_the_same_from_requests_and_from_the_table_of_all_times(settings):
    """Also where runs were cut short, one of them before the first time."""
    cut = [run_rows([30.0, INF], number=i, until_s=100.0 + 40 * i) for i in range(8)]
    lost = run_rows([INF], number=8, until_s=5.0)
    for launches in (drawn(targets=6, rounds=8), table_of(*cut, lost)):
        known = Runs.of(training_table(launches, **settings))
        found = Runs.of_requests(request_table(launches), **settings)

        pd.testing.assert_frame_equal(found.features, known.features, check_categorical=False)
        for name in ("times_s", "ready", "weight"):
            np.testing.assert_array_equal(getattr(found, name), getattr(known, name))

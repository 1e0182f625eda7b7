"""Own history is what was known before a request: nothing of the future, nothing of its round."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_rows import INF, drawn, run_rows, table_of

from spotlib.analyze.comparable import RUN
from spotlib.forecast.decide import forecast_targets
from spotlib.forecast.forecast import fit_forecaster, forecast_ready
from spotlib.forecast.history import HISTORY, history_now
from spotlib.forecast.training import request_table, training_table
from spotlib.model import Stage, Target

START = pd.Timestamp("2024-09-01", tz="UTC")
_OUTCOME = ["outcome", "status_code", "watched_s", "ready_after_s", "ready_by_s"]


def at(seconds):
    return START + pd.Timedelta(seconds=seconds)


def history(*runs):
    """Return one row of history per run, in the order of the runs."""
    requests = request_table(table_of(*runs))
    return requests.drop_duplicates(RUN).set_index("round")[list(HISTORY)]


def test_the_last_run_and_the_last_three_are_means_of_shares_at_the_end():
    ready = [[200.0, INF], [200.0, 210.0], [INF, INF], [200.0, 210.0], [INF, INF]]
    found = history(*(run_rows(each, number=i) for i, each in enumerate(ready)))

    assert found["last_share"].tolist()[1:] == [0.5, 1.0, 0.0, 1.0]
    assert found["last3_share"].tolist()[1:] == pytest.approx([0.5, 0.75, 0.5, 2 / 3])
    assert found["last_run_s"].tolist()[1:] == [900.0] * 4
    assert found.loc[0].isna().all()


def test_a_run_that_is_still_watched_is_not_known_yet():
    first = run_rows([INF], number=0, sent_at=at(0))
    during = run_rows([INF], number=1, sent_at=at(598), batch_id="20240901T000000Z-bbbbbb")
    after = run_rows([INF], number=2, sent_at=at(700), batch_id="20240901T000000Z-cccccc")
    found = history(first, during, after)

    assert np.isnan(found.loc[1, "last_share"])
    assert found.loc[2, "last_run_s"] == 700.0


def test_a_run_of_the_same_round_is_not_history_even_if_it_was_refused_at_once():
    refused = {"outcome": "refused", "kind": "capacity", "watched_s": 0.0, "request_id": None}
    first = run_rows([INF], plan=0, sent_at=at(0), **refused)
    second = run_rows([200.0, 210.0], plan=1, sent_at=at(5))
    requests = request_table(table_of(first, second))

    assert requests[list(HISTORY)].isna().all(axis=None)


def test_a_run_that_we_stopped_watching_says_nothing_of_how_it_ended():
    good = run_rows([200.0], number=0)
    cut = run_rows([INF], number=1, until_s=30.0, outcome="abandoned")
    found = history(good, cut, run_rows([200.0], number=2))

    assert found.loc[2].tolist() == [1.0, 1.0, 1800.0]


def test_runs_that_end_together_give_the_same_history_whatever_their_order_in_the_table():
    """The last of them is that of the later round: of two, none was ready in it."""
    together = {"sent_at": at(0), "watched_s": 300.0}
    runs = [list(run_rows([by_s], number=i, **together)) for i, by_s in enumerate([200.0, INF])]

    for rows in permutations(runs):
        requests = request_table(table_of(*rows)).assign(watched_s=300.0)
        found = history_now(requests).loc["t3.nano in sa-east-1"]
        assert found.tolist() == [0.0, 0.5, 300.0]


def test_each_target_has_its_own_history():
    here = [run_rows([200.0], number=i) for i in range(2)]
    there = [run_rows([INF], number=i, plan=1, region="eu-west-1") for i in range(2)]
    requests = request_table(table_of(*here, *there)).set_index(["round", "region"])

    assert requests.loc[(1, "sa-east-1"), "last_share"] == 1.0
    assert requests.loc[(1, "eu-west-1"), "last_share"] == 0.0


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 11), st.integers(0, 10_000))
def test_no_feature_changes_if_the_outcomes_of_later_runs_are_shuffled(number, seed):
    launches = drawn(targets=6, rounds=12)
    later = launches["round"] >= number
    shuffled = launches.copy()
    order = np.random.default_rng(seed).permutation(int(later.sum()))
    shuffled.loc[later, _OUTCOME] = launches.loc[later, _OUTCOME].iloc[order].to_numpy()
    features = [
        table[table["round"] <= number].reset_index(drop=True)[[*RUN, *HISTORY]]
        for table in map(request_table, (launches, shuffled))
    ]

    assert not launches[_OUTCOME].equals(shuffled[_OUTCOME])
    assert features[0]["last_share"].notna().any()
    pd.testing.assert_frame_equal(*features)


def test_the_last_run_again_is_forecast_with_the_history_of_all_runs():
    """In all but the newest round, none was ready: the newest run is the last of the history."""
    ready = [[INF, INF]] * 8 + [[200.0, 210.0]]
    launches = table_of(*(run_rows(each, number=i) for i, each in enumerate(ready)))
    requests = request_table(launches)
    now = history_now(requests).loc["t3.nano in sa-east-1"]

    assert requests["last_share"].iloc[-1] == 0.0
    assert now.tolist() == pytest.approx([1.0, 1 / 3, 209.5])
    forecaster = fit_forecaster(training_table(launches), model="regression")
    [again] = forecast_targets(forecaster, requests)
    known = requests.iloc[-1][["sps", "price_share", "hour_utc"]].to_dict() | now.to_dict()
    expected = forecast_ready(forecaster, Target("t3.nano", "sa-east-1"), n=2, features=known)
    assert again.expected == pytest.approx(expected.expected)


def probe_at(seconds, granted, **fields):
    """One probe, sent then; it is watched for a second."""
    seen = {"granted_after_s": 1.0, "granted_by_s": 1.6, "outcome": "granted"}
    rows = run_rows([INF] * len(granted), batch_id="20240901T000000Z-probes", number=int(seconds))
    for good, row in zip(granted, rows, strict=True):
        held = {"outcome": "held"}
        yield (
            row
            | {"wanted": "granted", "watched_s": 1.0, "sent_at": at(seconds)}
            | (seen if good else held)
            | fields
        )


def with_probes(launches, *probes):
    requests = request_table(table_of(*launches), probes=table_of(*probes))
    return requests.drop_duplicates(RUN).set_index("round")[list(HISTORY)]


def test_a_probe_is_history_like_a_run_if_it_ended_strictly_before_the_round():
    launches = [list(run_rows([200.0], number=i)) for i in range(2)]  # sent at 0 and 900 s

    found = with_probes(launches, probe_at(850.0, [True, False]))
    assert found.loc[1].tolist() == pytest.approx([0.5, 0.75, 50.0])
    for late_s in (899.0, 899.5, 900.0, 1000.0):
        assert with_probes(launches, probe_at(late_s, [False])).loc[1].tolist() == [1.0, 1.0, 900.0]
    assert with_probes(launches).loc[1].tolist() == [1.0, 1.0, 900.0]


@pytest.mark.parametrize(
    "other", [{"purchase": "on-demand"}, {"region": "us-east-1"}, {"outcome": "abandoned"}]
)
def test_a_probe_of_something_else_or_that_was_cut_short_is_no_history(other):
    rows = [row | other for row in probe_at(850.0, [False])]

    assert with_probes([run_rows([200.0], number=1)], rows)["last_share"].isna().all()


def test_no_probe_is_a_run_to_learn_from():
    launches = [list(run_rows([200.0, INF], number=i)) for i in range(3)]
    probes = table_of(*(probe_at(100.0 + i, [True] * 5) for i in range(4)))
    alone, beside = (training_table(table_of(*launches), probes=p) for p in (None, probes))

    kept = [name for name in alone if name not in HISTORY]
    pd.testing.assert_frame_equal(alone[kept], beside[kept])
    with pytest.raises(ValueError, match="different wanted are never pooled"):
        training_table(pd.concat([table_of(*launches), probes]))
    with pytest.raises(ValueError, match="ready was not watched for, only granted"):
        training_table(probes)
    with pytest.raises(ValueError, match="granted was not watched for, only ready"):
        training_table(table_of(*launches), stage=Stage.GRANTED)


def test_the_forecast_of_now_knows_the_newest_probe():
    launches = [run_rows([200.0], number=i) for i in range(8)]
    requests = request_table(table_of(*launches))
    now = history_now(requests, table_of(probe_at(9000.0, [False]))).loc["t3.nano in sa-east-1"]

    assert now.tolist() == pytest.approx([0.0, 2 / 3, 1.0])


@pytest.mark.parametrize(("seconds", "share"), [(899.5, 0.0), (900.0, 1.0)])
def test_a_probe_that_was_never_polled_had_ended_when_it_was_sent(seconds, share):
    """So the run that is sent at 900 s knows it if it was sent strictly before."""
    launches = [list(run_rows([200.0], number=i)) for i in range(2)]
    refused = {"outcome": "refused", "kind": "capacity", "watched_s": np.nan, "request_id": None}

    found = with_probes(launches, probe_at(seconds, [False], **refused))
    assert found.loc[1, "last_share"] == share

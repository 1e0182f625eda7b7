"""What says nothing about the market, and what is there twice: one rule for all who read."""

from dataclasses import replace

import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of

from spotlib.analyze.comparable import no_observation, repeated
from spotlib.analyze.load import load_comparable
from spotlib.forecast.training import left_out, training_table
from spotlib.model import Outcome
from spotlib.record.tables import load_readable

LATER = {"batch_id": "20240902T000000Z-bbbbbb"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"outcome": "ready"}, ""),
        ({"outcome": "timed_out"}, ""),
        ({"outcome": None}, ""),
        ({"outcome": "refused", "kind": "capacity"}, ""),
        ({"outcome": "refused", "kind": "price"}, ""),
        ({"outcome": "refused", "kind": "quota"}, "refused (quota): says nothing about the market"),
        ({"outcome": "refused", "kind": None}, "refused (unknown): says nothing about the market"),
        ({"outcome": "failed", "kind": None}, ""),
        ({"outcome": "failed", "kind": None, "instance_reason": "Server.InternalError"}, ""),
        ({"outcome": "failed", "kind": "quota"}, "failed (quota): says nothing about the market"),
        (
            {"outcome": "failed", "kind": "account", "instance_reason": "Client.InternalError"},
            "failed (account, Client.InternalError): says nothing about the market",
        ),
        ({"outcome": "interrupted", "instance_reason": "Server.SpotInstanceTermination"}, ""),
    ],
)
def test_only_what_is_ours_is_no_observation(fields, words):
    assert no_observation(table_of(run_rows([INF], **fields))).tolist() == [words]


def test_one_request_that_is_no_observation_excludes_its_run():
    refused, other = run_rows([INF, 20.0])
    wrong = [refused | {"outcome": Outcome.REFUSED, "kind": "quota"}, other]
    launches = table_of(wrong, run_rows([20.0], number=1))

    assert [bool(why) for why in no_observation(launches)] == [True, True, False]


class TestRepeated:
    def counted(self, *runs):
        launches = table_of(*runs)
        kept = launches[repeated(launches) == ""]
        return sorted(set(zip(kept["batch_id"].str[-6:], kept["round"], strict=True)))

    def test_of_equal_batches_the_newest_counts(self):
        assert self.counted(run_rows([20.0]), run_rows([20.0], **LATER)) == [("bbbbbb", 0)]

    def test_the_largest_batch_counts(self):
        large = [run_rows([20.0], number=number) for number in range(3)]
        kept = self.counted(*large, run_rows([20.0], **LATER))

        assert kept == [("aaaaaa", 0), ("aaaaaa", 1), ("aaaaaa", 2)]

    def test_what_only_the_smaller_batch_has_counts_too(self):
        large = [run_rows([20.0], number=number) for number in range(3)]
        more = run_rows([20.0], plan=1, instance_type="t3.micro", **LATER)

        assert ("bbbbbb", 0) in self.counted(*large, more)

    @pytest.mark.parametrize(
        "fields",
        [
            {"world": "w-2"},
            {"region": "eu-west-1"},
            {"sent_at": pd.Timestamp("2024-09-02", tz="UTC")},
            {"simulated": False},
            {"n": 2},
        ],
    )
    def test_another_world_pool_moment_or_count_is_no_repeat(self, fields):
        assert len(self.counted(run_rows([20.0]), run_rows([20.0], **LATER | fields))) == 2

    @pytest.mark.parametrize(("off_s", "counted"), [(60, 1), (61, 2)])
    def test_a_moment_of_a_world_is_a_minute(self, off_s, counted):
        later = LATER | {
            "sent_at": pd.Timestamp("2024-09-01", tz="UTC") + pd.Timedelta(seconds=off_s)
        }

        assert len(self.counted(run_rows([20.0]), run_rows([20.0], **later))) == counted

    def test_without_a_simulated_run_there_is_none(self):
        assert (repeated(table_of(run_rows([20.0], simulated=False))) == "").all()
        assert repeated(table_of()).empty


def test_the_analysis_and_the_forecast_leave_out_the_same(tmp_path, monkeypatch):
    again = run_rows([20.0, 30.0], **LATER)
    quota = run_rows([INF], number=1, outcome="refused", kind="quota")
    launches = table_of(run_rows([20.0, 30.0]), again, quota).assign(
        image="ami-1", availability_zone_id=None
    )
    found = replace(load_readable([]), launches=launches)
    monkeypatch.setattr("spotlib.analyze.load.load_readable", lambda _, **__: found)
    analysed = load_comparable(tmp_path)

    assert analysed.left_out.groupby("why")["requests"].sum().to_dict() == (
        left_out(launches).set_index("reason")["requests"].to_dict()
    )
    assert set(training_table(launches)["batch_id"]) == set(analysed.launches["batch_id"])

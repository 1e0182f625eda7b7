"""Who or what ended a request: EC2's own words are recorded, and only the market's end counts."""

from dataclasses import replace

import pandas as pd
import pytest
from conftest import NANO, QUICK, plan_for, read_events, scripted
from pages import shown_by
from programs import leftovers, served

from spotlib.analyze.checks import self_check
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.load import load_comparable
from spotlib.collect.report import outcome_table
from spotlib.collect.rounds import collect_batch
from spotlib.collect.summary import BatchError
from spotlib.model import Stage
from spotlib.record.tables import load_batches, load_launches
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.world import Fate

EMPTY = {"requests": [], "instances": []}
LONG = replace(QUICK, ok_s=300.0)
NO_KEY = replace(LONG, boot_s=None, ended_s=2.0, reason="Client.InternalError")
JANITOR = replace(LONG, ended_s=30.0)  # somebody's tool
FORBIDDEN = Fate(fails="bad-parameters")
BY_USER = "instance-terminated-by-user"


@pytest.fixture
def collected(in_process, log):
    """Collect the fates as one plan a round; nothing may be left, and the log must be whole."""

    def collect(*fates, rounds=1):
        world = scripted(*fates)
        connection = in_process(world)
        checked = plan_for(connection, NANO, n=len(fates) // rounds, timeout_s=100)
        summary = collect_batch(connection, checked, log=log, seed=1, rounds=rounds, every_s=200.0)
        assert world.leftovers() == EMPTY
        assert load_batches(log)["clean"].all()
        return summary, load_launches(log)

    return collect


@pytest.mark.parametrize(
    ("fate", "said"),
    [
        (NO_KEY, (BY_USER, "Client.InternalError", "account")),
        (JANITOR, (BY_USER, "Client.UserInitiatedShutdown", "account")),
        (replace(LONG, cancelled_s=20.0), ("request-canceled-and-instance-running", "", "account")),
        (Fate(held_s=None, cancelled_s=20.0), ("canceled-before-fulfillment", "", "account")),
        (FORBIDDEN, ("bad-parameters", "", "parameters")),
        (Fate(fails="system-error"), ("system-error", "", "")),
        (replace(JANITOR, reason="Server.InternalError"), (BY_USER, "Server.InternalError", "")),
    ],
)
def test_a_failure_has_ec2s_own_words_and_is_a_problem_only_if_it_is_our_own(
    collected, log, fate, said
):
    code, reason, kind = said
    summary, launches = collected(fate, fate)
    row = launches.fillna({"kind": "", "instance_reason": "", "instance_message": ""}).iloc[0]
    [event, _] = [each for each in read_events(log)[0] if each["event"] == "outcome"]

    assert summary.outcomes == {"failed": 2}
    assert (row["instance_reason"], row["kind"]) == (reason, kind)
    assert row["status_code"] in (code, "fulfilled")  # its instance may be shown gone before it
    assert row["instance_message"] == (event["instance_message"] or "")
    assert (reason in outcome_table(launches)["why instances ended"].iloc[0]) is True
    if not kind:
        assert summary.problems == ()
        return
    [problem] = summary.problems  # one sentence for both
    assert problem.startswith("t3.nano in sa-east-1: failed, which says nothing about the market: ")
    assert f"{row['status_code']} ({event['status_message']})" in problem
    assert event["instance_message"] is None or event["instance_message"] in problem
    with pytest.raises(RuntimeError, match="says nothing about the market"):
        summary.require()


def test_what_the_account_ended_is_left_out_with_its_whole_run_and_a_sentence(collected, log):
    collected(QUICK, QUICK, NO_KEY, QUICK, rounds=2)

    data = load_comparable(log)
    times = launch_times(data.launches, Stage.READY, resamples=20)
    checks = self_check(data, times, Stage.READY).set_index("check")

    assert data.launches["round"].tolist() == [0, 0]
    assert data.left_out["why"].tolist() == [
        "failed (account, Client.InternalError): says nothing about the market"
    ]
    assert checks.loc["ended by our own account", "warns"]
    assert checks.loc["ended by our own account", "found"] == (
        "2 requests left out because the account ended them or others of their run: "
        "failed (account, Client.InternalError)"
    )


def test_what_ec2_itself_ended_stays_an_observation(collected, log):
    collected(replace(NO_KEY, reason="Server.InternalError"), QUICK)

    data = load_comparable(log)

    assert data.launches["outcome"].tolist() == ["failed", "ready"]
    assert len(data.left_out) == 0


def test_a_constraint_that_holds_a_request_is_not_its_end(collected):
    held = replace(QUICK, held_s=40.0, holds="constraint-not-fulfillable")
    for_good = replace(held, held_s=None)

    summary, launches = collected(held, for_good)

    assert summary.outcomes == {"ready": 1, "timed_out": 1}
    assert launches.set_index("outcome").loc["timed_out", "status_code"] == for_good.holds
    assert launches["ready_by_s"].max() > 50
    assert summary.problems == ()


def test_an_instance_that_runs_and_fails_its_checks_is_recorded_with_when(collected, log):
    impaired = Fate(boot_s=5.0, ok_s=None, impaired_s=30.0)
    summary, launches = collected(impaired, replace(impaired, ok_s=60.0), QUICK)

    shown = launches.set_index("request_id")["impaired_by_s"].notna()
    events = [each for each in read_events(log)[0] if each["event"] == "impaired"]
    assert summary.outcomes == {"timed_out": 1, "ready": 2}
    assert (launches["impaired_after_s"] < launches["impaired_by_s"]).sum() == 2
    assert launches["impaired_by_s"].dropna().between(36, 41).all()
    assert {each["request_id"] for each in events} == set(shown[shown].index)
    assert {each["checks"]["instance"] for each in events} == {"impaired"}
    assert outcome_table(launches)["impaired"].tolist() == [2]


@pytest.mark.usefixtures("_programs_end_with_the_test")
def test_the_notebook_ends_with_ec2s_message_after_all_is_clean_and_recorded(
    repository, tmp_path, capsys
):
    """Also after a first poll that failed."""
    world = scripted(NO_KEY, FORBIDDEN)
    world.faults.append(Fault(kind="internal_error", action="DescribeInstances", nth=1))
    url = served(world)
    given = {"instance_type": "t3.nano", "region": "sa-east-1", "n": 2, "results": str(tmp_path)}

    with pytest.raises(BatchError) as ended:
        shown_by(repository / "notebooks/02_collect.ipynb", endpoint=url, **given)

    said, launches = capsys.readouterr().out, load_launches(tmp_path / "launches")
    assert leftovers(url) == EMPTY
    assert load_batches(tmp_path / "launches")["clean"].all()
    assert "could not be drawn" not in said
    assert "the live view failed" not in said
    assert "Your Spot request failed due to bad parameters." in str(ended.value)
    assert "Client.InternalError: Client error on launch" in str(ended.value)
    assert "open requests 0, live instances 0 (confirmed)" in said
    assert launches["kind"].tolist() == ["account", "parameters"]
    assert pd.isna(launches["instance_message"].iloc[1])

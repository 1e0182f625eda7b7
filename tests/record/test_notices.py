"""What EC2's own events tell stands beside what the polls showed, and neither changes the other."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, plan_for, read_events, scripted

from spotlib.collect.rounds import collect_batch
from spotlib.model import Stage
from spotlib.record.tables import load_launches

TOLD = ("fulfilled", "running")


@pytest.fixture
def recorded(in_process, log):
    """A log of one request without events, and what it says of a stage: sent, after, by."""
    connection = in_process(scripted(QUICK))
    collect_batch(connection, plan_for(connection, n=1, timeout_s=60.0), log=log, seed=1)
    return log


def stage_of(log: Path, stage: str) -> dict:
    events, _ = read_events(log)
    return next(e for e in events if e["event"] == "stage" and e["stage"] == stage)


def noticed(log: Path, about: str, after_s: float, by_s: float) -> Path:
    """Add an event to a log, as a batch would have written it."""
    running = stage_of(log, "running")
    lines = log.read_text().splitlines()
    event = {
        "event": "notice",
        "line": len(lines) + 1,
        **{name: running[name] for name in ("round", "plan", "request_id", "instance_id")},
        **{"about": about, "event_at": "2024-09-01T00:00:05Z", "sent_at": "2024-09-01T00:00:06Z"},
        **{"asked_s": by_s, "answered_s": by_s, "after_s": after_s, "by_s": by_s},
    }
    log.write_text("\n".join([*lines, json.dumps(event)]) + "\n")
    return log


def row_of(log: Path) -> dict:
    return load_launches(log).iloc[0].to_dict()


def test_without_events_their_columns_are_empty(recorded):
    row = row_of(recorded)

    names = [
        f"{stage}_{clock}_{end}_s"
        for stage in TOLD
        for clock in ("event", "both")
        for end in ("after", "by")
    ]
    names += [
        f"{about}_{end}_s" for about in ("interruption", "rebalance") for end in ("after", "by")
    ]
    assert all(np.isnan(row[name]) for name in names)
    assert all(pd.isna(row[f"{stage}_clocks"]) for stage in TOLD)


@pytest.mark.parametrize("stage", TOLD)
def test_two_brackets_that_overlap_agree_and_both_is_what_they_share(recorded, stage):
    polled, sent_s = stage_of(recorded, stage), stage_of(recorded, "running")
    before = row_of(recorded)
    middle_s = (polled["after_s"] + polled["by_s"]) / 2

    row = row_of(noticed(recorded, stage, middle_s, polled["by_s"] + 1.0))

    sent_s = polled["by_s"] - before[f"{stage}_by_s"]
    assert row[f"{stage}_event_after_s"] == pytest.approx(middle_s - sent_s)
    assert row[f"{stage}_event_by_s"] == pytest.approx(polled["by_s"] + 1.0 - sent_s)
    assert row[f"{stage}_both_after_s"] == row[f"{stage}_event_after_s"]
    assert row[f"{stage}_both_by_s"] == row[f"{stage}_by_s"]
    assert row[f"{stage}_clocks"] == "agree"
    unchanged = [each.label for each in Stage]
    for name in (f"{each}_{end}_s" for each in unchanged for end in ("after", "by")):
        assert row[name] == before[name] or np.isnan(before[name])


@pytest.mark.parametrize("apart_s", [0.0, 0.5])
def test_two_brackets_that_share_nothing_contradict_each_other(recorded, apart_s):
    polled = stage_of(recorded, "running")
    after_s = polled["by_s"] + apart_s

    row = row_of(noticed(recorded, "running", after_s, after_s + 1.0))

    assert row["running_clocks"] == "contradict"
    assert np.isnan(row["running_both_after_s"])
    assert np.isnan(row["running_both_by_s"])
    assert row["running_event_by_s"] > row["running_by_s"]


def test_of_copies_the_one_that_ends_first_counts(recorded):
    polled = stage_of(recorded, "running")
    ends_s = [polled["by_s"] + more_s for more_s in (2.0, 0.5, 1.0)]
    for end_s in ends_s:
        noticed(recorded, "running", polled["after_s"], end_s)

    row = row_of(recorded)

    assert row["running_event_by_s"] - row["running_by_s"] == pytest.approx(0.5)


def test_a_warning_that_comes_after_the_outcome_has_its_bracket(recorded):
    polled = stage_of(recorded, "running")
    sent_s = polled["by_s"] - row_of(recorded)["running_by_s"]

    row = row_of(noticed(noticed(recorded, "rebalance", 30.0, 31.0), "interruption", 40.0, 41.5))

    assert row["rebalance_after_s"] == pytest.approx(30.0 - sent_s)
    assert row["interruption_by_s"] == pytest.approx(41.5 - sent_s)
    assert pd.isna(row["running_clocks"])


@pytest.mark.parametrize(("after_s", "by_s"), [(9.0, 8.0), (-5.0, 8.0)])
def test_an_event_before_its_request_or_that_ends_before_it_begins_is_refused(
    recorded, after_s, by_s
):
    with pytest.raises(ValueError, match="no valid event"):
        load_launches(noticed(recorded, "running", after_s, by_s))

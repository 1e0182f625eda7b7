"""Which launches are read together, and what is said of the others."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import unnumbered
from studies import NANO, edited, record

from spotlib.analyze.load import load_comparable
from spotlib.analyze.parameters import AnalyzeParameters
from spotlib.analyze.sentences import data_sentence
from spotlib.analyze.summaries import ready_counts
from spotlib.model import Stage

FIRST, SECOND = "20240901T000000Z-aaaaaa.jsonl", "20240902T000000Z-bbbbbb.jsonl"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A log to make others from."""
    log = tmp_path_factory.mktemp("source") / FIRST
    record(log, n=2, rounds=1)
    return log


@pytest.fixture
def folder(source, tmp_path):
    """A folder with that log."""
    shutil.copy(source, tmp_path / FIRST)
    return tmp_path


def test_the_banner_counts_the_runs_that_recorded_the_stage(folder):
    """Guests say when they are usable only where 02 asked them."""
    data = load_comparable(folder)
    rows = data.launches.assign(usable_by_s=np.nan, usable_watched_s=np.nan)
    rows = pd.concat([rows, rows.assign(run=rows["run"] + "b", usable_by_s=30.0)])
    both = replace(data, launches=rows.reset_index(drop=True))

    assert "2 targets, 2 runs per target" in data_sentence(both)
    assert "2 targets, 1 run per target" in data_sentence(both, Stage.USABLE)


def test_the_banner_says_first_whether_the_data_are_of_aws(folder):
    data = load_comparable(folder)
    size = "2 targets, 1 run per target, 2 instances per run, asked for by request_spot_instances."
    aws = data.launches.assign(simulated=False, endpoint="aws")
    other = aws.assign(endpoint="http://127.0.0.1:5000")

    assert data_sentence(data) == f"SIMULATED DATA: they say nothing about AWS. {size}"
    real = replace(data, simulated=False, launches=aws)
    assert data_sentence(real) == f"Measured on AWS. {size}"
    assert real.kind == "real"
    foreign = replace(data, simulated=False, launches=other, not_read=1)
    assert data_sentence(foreign) == (
        "NOT AWS but http://127.0.0.1:5000: these data say nothing about AWS. "
        f"{size} 1 file could not be read: see what was left out."
    )


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(
        ValueError, match=r"there is no launch in .*: run 02_collect first, or .*results/study"
    ):
        load_comparable(tmp_path)


def test_the_only_run_is_called_so(folder):
    data = load_comparable(folder, targets="nano")

    assert data.lines == "Thin line: the only run."


def test_a_single_batch_is_read_whole(folder):
    data = load_comparable(folder)

    assert data.wanted is Stage.READY
    assert data.left_out.empty
    assert set(data.polls["run"]) == set(data.launches["run"])


def test_a_run_that_was_refused_at_once_is_drawn_at_zero_until_its_timeout(folder):
    data = load_comparable(folder)
    first, second, *_ = data.launches["run"].unique()
    gone = data.launches["run"].isin([first, second])
    launches = data.launches.assign(outcome=data.launches["outcome"].mask(gone, "refused"))
    polls = data.polls[~data.polls["run"].isin([first])]
    runs = launches["run"].nunique()

    refused = replace(data, launches=launches, polls=polls)
    counts = ready_counts(polls, Stage.READY, refused=refused.refused_runs)

    assert refused.lines == f"Thin lines: all {runs} runs, at 0 those that EC2 refused at once."
    here = counts[counts["run"] == first]
    assert here["time_s"].tolist() == [0.0, launches["timeout_s"].iloc[0]]
    assert here["share"].tolist() == [0.0, 0.0]
    assert set(counts["run"]) == set(launches["run"])
    never = replace(data, polls=polls)
    assert (
        never.lines == f"Thin lines: {runs - 1} of the {runs} runs; the others were never polled."
    )


def test_of_many_runs_the_polls_of_a_sample_are_kept(tmp_path, monkeypatch):
    record(tmp_path / FIRST, n=1, rounds=5)
    whole = load_comparable(tmp_path)
    monkeypatch.setattr("spotlib.analyze.load._SHOWN_RUNS", 6)
    monkeypatch.setattr("spotlib.analyze.load._FEWEST_SHOWN", 1)

    data, again = load_comparable(tmp_path), load_comparable(tmp_path)

    assert whole.lines == "Thin lines: all 10 runs."
    assert data.lines == "Thin lines: a random sample of 6 of the 10 runs."
    assert data.polls.groupby("target")["run"].nunique().tolist() == [3, 3]
    kept = whole.polls[whole.polls["run"].isin(set(data.polls["run"]))].reset_index(drop=True)
    pd.testing.assert_frame_equal(data.polls, kept)
    pd.testing.assert_frame_equal(data.polls, again.polls)
    pd.testing.assert_frame_equal(data.polled, whole.polled)
    pd.testing.assert_frame_equal(data.launches, whole.launches)


def test_each_poll_counts_once_however_many_runs_it_showed(folder):
    data = load_comparable(folder)

    one_each = ["batch_id", "round", "region", "poll"]
    polls = data.polls.drop_duplicates(one_each)[[*one_each, "error"]].reset_index(drop=True)
    polled = data.polled.drop(columns="skipped").astype(polls.dtypes)
    pd.testing.assert_frame_equal(polled, polls)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("endpoint", "http://127.0.0.1:1", "endpoint sandbox, not http://127.0.0.1:1"),
        ("simulated", False, "simulated True, not False"),
        ("wanted", "running", "wanted ready, not running"),
        ("method", "create_fleet", "asked for by request_spot_instances, not create_fleet"),
        ("placement", "zone", "placement region, not zone"),
    ],
)
def test_the_newest_of_two_kinds_is_read_and_the_other_named(folder, field, value, words):
    edited(folder / FIRST, folder / SECOND, world="another", **{field: value})

    data = load_comparable(folder)

    assert data.launches["batch_id"].unique().tolist() == [SECOND.removesuffix(".jsonl")]
    assert data.left_out["batch_id"].unique().tolist() == [FIRST.removesuffix(".jsonl")]
    assert data.left_out["why"].str.contains(words, regex=False).all()
    assert data.left_out["requests"].sum() == 4


RELEASE = {"image": "ami-new", "image_name": "al2023-ami-2023.99.20990101.0-kernel-6.18-x86_64"}
KERNEL = {"image": "ami-new", "image_name": "al2023-ami-2023.99.20990101.0-kernel-9.1-x86_64"}
CUSTOM = {"image_owner": "123456789012"}
UNKNOWN = {"image_owner": None}  # as in the logs of older versions


def why_left_out(folder, first, second):
    """Why the older of two logs is left out, if these fields of each are changed."""
    edited(folder / FIRST, folder / SECOND, world="another", **second)
    edited(folder / FIRST, folder / FIRST, **first)
    data = load_comparable(folder)
    assert data.launches["batch_id"].nunique() == (2 if data.left_out.empty else 1)
    return set(data.left_out["why"])


@pytest.mark.parametrize(
    ("first", "second"),
    [({}, RELEASE), (UNKNOWN, {}), ({}, UNKNOWN), (UNKNOWN, UNKNOWN), (CUSTOM, CUSTOM)],
)
def test_releases_of_one_image_are_one_variable(folder, first, second):
    """Also a log that does not know the family of an image, if another log does."""
    assert why_left_out(folder, first, second) == set()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, KERNEL, ", not al2023-ami-kernel-9.1-x86_64"),
        ({}, CUSTOM | RELEASE, ", not ami-new"),
        (CUSTOM, CUSTOM | RELEASE, ", not ami-new"),
        (UNKNOWN, UNKNOWN | RELEASE, ", not ami-new"),
        (UNKNOWN, RELEASE, ", not al2023-ami-kernel-6.18-x86_64"),
    ],
)
def test_another_kernel_line_and_an_image_of_ones_own_are_other_variables(
    folder, first, second, words
):
    [why] = why_left_out(folder, first, second)

    assert words in why


def test_a_repeated_simulated_world_counts_once(folder):
    edited(folder / FIRST, folder / SECOND)

    data = load_comparable(folder)

    assert data.launches["batch_id"].nunique() == 1
    assert data.left_out["why"].str.contains("repeats a run of the simulated world w-").all()


def test_another_simulated_world_is_another_sample(folder):
    edited(folder / FIRST, folder / SECOND, world="another")

    assert load_comparable(folder).launches["batch_id"].nunique() == 2


def test_a_log_of_an_unknown_schema_is_left_out_by_name(folder):
    edited(folder / FIRST, folder / SECOND, schema=99)

    data = load_comparable(folder)
    [left] = data.left_out.to_dict("records")

    assert left["batch_id"] == SECOND.removesuffix(".jsonl")
    assert "schema 99" in left["why"]


def test_only_unreadable_logs_say_why(folder):
    edited(folder / FIRST, folder / FIRST, schema=99)

    with pytest.raises(ValueError, match=r"not readable: .*schema 99"):
        load_comparable(folder)


def test_a_log_that_is_still_being_written_is_read(folder):
    lines = (folder / FIRST).read_text().splitlines(keepends=True)
    (folder / FIRST).write_text("".join(lines[: len(lines) // 2]) + lines[-1][:20])

    data = load_comparable(folder)

    assert len(data.launches) == 4
    assert data.launches["outcome"].isna().any()


class TestRefusals:
    def refused(self, folder, code, kind):
        text = (
            unnumbered((folder / FIRST).read_text()).replace(FIRST[:-6], SECOND[:-6]).splitlines()
        )
        kept = [line for line in text if '"event":"batch"' in line or '"event":"intent"' in line]
        refusal = (
            f'{{"event":"refused","round":0,"plan":0,"asked_s":1,"answered_s":2,'
            f'"at":"2024-09-01T00:00:12+00:00","attempts":[],"code":"{code}","message":"",'
            f'"kind":"{kind}","advice":""}}'
        )
        (folder / SECOND).write_text("\n".join([*kept, refusal]).replace("w-", "x-") + "\n")

    def test_of_the_account_are_left_out_with_the_reason(self, folder):
        self.refused(folder, "MaxSpotInstanceCountExceeded", "quota")
        data = load_comparable(folder)

        assert data.left_out["why"].tolist() == ["refused (quota): says nothing about the market"]
        assert (data.launches["outcome"] != "refused").all()

    def test_of_the_market_are_observations(self, folder):
        self.refused(folder, "InsufficientInstanceCapacity", "capacity")
        data = load_comparable(folder)

        assert (data.launches["outcome"] == "refused").sum() == 2

    def test_if_nothing_else_is_there_the_reason_is_the_answer(self, folder):
        self.refused(folder, "UnauthorizedOperation", "permission")
        (folder / FIRST).unlink()

        with pytest.raises(ValueError, match=r"no request is left .*refused \(permission\)"):
            load_comparable(folder)


def test_targets_are_chosen_by_a_part_of_their_name(folder):
    data = load_comparable(folder, targets="nano")

    assert data.launches["target"].unique().tolist() == [str(NANO)]
    with pytest.raises(ValueError, match=r"m5.large, which was not launched; there are"):
        load_comparable(folder, targets="nano, m5.large")


GIVEN = {
    "launches": "",
    "output": "",
    "horizon_s": 0.0,
    "ready": "",
    "targets": "",
    "arm": "",
    "most_targets": 8,
    "details": False,
    "log_time": False,
    "width_in": 10.2,
    "results": "",
}


def test_invalid_parameters_are_refused_together():
    with pytest.raises(ValueError, match=r"horizon_s must be above 0.*; ready must be"):
        AnalyzeParameters(**GIVEN | {"horizon_s": -1.0, "ready": "soon"})


def test_a_page_without_room_for_two_targets_and_a_figure_without_width_are_refused():
    with pytest.raises(ValueError, match=r"most_targets must be .* got 1; width_in must be from 6"):
        AnalyzeParameters(**GIVEN | {"most_targets": 1, "width_in": 2.0})


def test_a_stage_that_was_not_waited_for_is_refused():
    given = AnalyzeParameters(**GIVEN | {"ready": "ready"})

    assert given.stage(Stage.READY) is Stage.READY
    with pytest.raises(ValueError, match="was not watched: these launches waited for 'running'"):
        given.stage(Stage.RUNNING)

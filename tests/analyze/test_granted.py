"""The share granted: what counts, what is never pooled, and how probes stand beside launches."""

import re

import numpy as np
import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of
from pages import shown_by
from studies import NANO, SMALL, record
from test_analyze_notebook import NOTEBOOK, tables_of, text_of

from spotlib.analyze.comparable import name_runs
from spotlib.analyze.granted import granted_lines, granted_sentences, share_granted
from spotlib.analyze.launch_times import launch_times
from spotlib.analyze.load import load_comparable
from spotlib.model import Stage
from spotlib.sandbox.world import Fate

HELD = Fate(held_s=None)
PROBE = {"wanted": "granted", "timeout_s": 30.0}


def probe_rows(granted, *, number=0, **fields):
    """One probe: whether EC2 granted each of its requests."""
    for good, row in zip(granted, run_rows([INF] * len(granted), number=number), strict=True):
        seen = {"outcome": "held", "held_after_s": 1.0, "held_by_s": 1.6}
        if good:
            seen = {"outcome": "granted", "granted_after_s": 1.0, "granted_by_s": 1.6}
        yield row | PROBE | {"watched_s": 1.1, **seen, **fields}


def shares(*runs):
    return share_granted(name_runs(table_of(*runs)))


def test_a_probe_is_granted_what_ec2_decided_for_and_a_launch_what_came_before_its_timeout():
    fulfilled = {"fulfilled_after_s": 400.0, "fulfilled_by_s": 403.0}
    table = shares(
        probe_rows([True, False, False]),
        [row | fulfilled for row in run_rows([420.0], number=1)],
        run_rows([INF], number=2),
        run_rows([INF], number=3, outcome="refused", kind="capacity", watched_s=0.0),
    )

    assert table["how"].tolist() == ["probe", "launch"]
    assert table["asked"].tolist() == [3, 3]
    assert table["granted"].tolist() == [1, 1]
    assert table["share"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert table["within_s"].tolist() == [30.0, 600.0]
    assert table[["low", "high"]].isna().all(axis=None)
    assert table["why_no_interval"].str.contains("at least 6 are needed").all()


@pytest.mark.parametrize(
    "other",
    [
        {"method": "run_instances"},
        {"purchase": "on-demand"},
        {"region": "us-east-1"},
        {"timeout_s": 20.0},
        {"n": 2},
    ],
)
def test_nothing_that_is_another_variable_is_pooled(other):
    table = shares(probe_rows([True]), probe_rows([False], number=1, **other))

    assert sorted(table["share"]) == [0.0, 1.0]


@pytest.mark.parametrize("outcome", ["abandoned", None])
def test_a_run_of_which_something_is_not_known_is_left_out(outcome):
    cut = list(probe_rows([True, False], number=1))
    cut[1] |= {"outcome": outcome}
    table = shares(probe_rows([True, True]), cut)

    assert table[["runs", "asked", "granted"]].to_numpy().tolist() == [[1, 2, 2]]


def test_the_interval_rests_on_runs_not_on_instances():
    """Ten instances that all share their run's luck tell no more than one."""
    single, tenfold = (
        shares(*(probe_rows([number % 2 == 0] * n, number=number) for number in range(20)))
        for n in (1, 10)
    )

    assert single["share"].tolist() == tenfold["share"].tolist() == [0.5]
    assert tenfold["low"].item() == pytest.approx(single["low"].item(), abs=0.03)
    assert tenfold["high"].item() == pytest.approx(single["high"].item(), abs=0.03)
    assert 0.2 < single["low"].item() < 0.35


def test_its_interval_covers_the_true_share_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(50):
        chances = rng.beta(2.0, 1.0, 25)  # of each run: the mean is two thirds
        runs = (probe_rows(rng.random(4) < chances[i], number=i) for i in range(25))
        row = shares(*runs).iloc[0]
        hits += row["low"] <= 2 / 3 <= row["high"]
    assert hits >= 44  # of 50; fewer has a chance of 1 % at 95 %


def test_lines_and_sentences_name_what_tells_rows_apart():
    table = shares(probe_rows([True, False]), probe_rows([False], number=1, region="us-east-1"))

    assert list(granted_lines(table)) == [
        "t3.nano in sa-east-1, n=2: granted 1 of 2 in 1 probe, share 0.50 (no interval: 1 run, at "
        "least 6 are needed); EC2 held 1",
        "t3.nano in us-east-1, n=1: granted 0 of 1 in 1 probe, share 0.00 (no interval: 1 run, at "
        "least 6 are needed); EC2 held 1",
    ]
    many = shares(*(probe_rows([number > 2], number=number) for number in range(9)))
    [line] = granted_lines(many)
    assert re.match(r".*granted 6 of 9 in 9 probes, share 0.67 \(95 % interval 0\.\d\d to 0", line)
    [said] = granted_sentences(table)
    assert said.startswith("Granted to probes: the highest share is 0.50 (")
    assert said.endswith("at t3.nano in us-east-1, n=1.")
    assert "no run was watched" in next(granted_sentences(table.iloc[:0]))


def test_of_several_equal_shares_none_is_singled_out():
    def said(*granted):
        runs = (
            probe_rows(each, region=f"eu-west-{n}", plan=n) for n, each in enumerate(granted, 1)
        )
        [words] = granted_sentences(shares(*runs))
        return words.removeprefix("Granted to probes: ")

    all_, half, none = [True, True], [True, False], [False, False]
    assert said(all_, all_, all_) == "the share is 1.00 at all 3."
    tied = said(all_, none, all_)
    assert tied.startswith(
        "the highest share is 1.00 at t3.nano in eu-west-1 and t3.nano in eu-west-3, the lowest "
        "0.00 (no"
    )
    assert tied.endswith("needed) at t3.nano in eu-west-2.")
    assert said(half, none, none).endswith(
        "the lowest 0.00 at t3.nano in eu-west-2 and t3.nano in eu-west-3."
    )


def test_what_ec2_held_is_never_granted_in_the_curve_of_probes():
    """To take it for censored would say that nearly all are granted."""
    probes = table_of(*(probe_rows([True, False], number=number) for number in range(8)))

    [curve] = launch_times(probes, Stage.GRANTED).values()

    assert curve.share_ready(25.0).value == pytest.approx(0.5)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Launches, and newer probes of which half were granted, one of them of another target."""
    folder = tmp_path_factory.mktemp("study") / "launches"
    record(folder / "20240901T000000Z-aaaaaa.jsonl", n=2, rounds=6)
    fates = [Fate(in_flight_s=2.0), HELD] * 12
    record(
        folder / "20240902T000000Z-bbbbbb.jsonl",
        **{"n": 1, "rounds": 12, "every_s": 300.0, "fates": fates, "seed": 2},
        **{"wanted": Stage.GRANTED, "timeout_s": 30.0},
    )
    return folder


def test_launches_are_analyzed_as_before_with_probes_beside_them(logs):
    alone = load_comparable(logs / "20240901T000000Z-aaaaaa.jsonl")
    data = load_comparable(logs)

    pd.testing.assert_frame_equal(data.launches, alone.launches)
    assert data.wanted is Stage.READY
    assert alone.probes.empty
    assert set(data.probes["wanted"]) == {"granted"}
    assert len(data.probes) == 24
    assert len(data.asked) == len(data.launches) + 24
    assert data.left_out.empty
    assert set(load_comparable(logs, targets="nano").probes["target"]) == {str(NANO)}


def test_probes_of_another_market_are_left_out_and_said(logs):
    elsewhere = logs.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    for path in logs.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
    probes = elsewhere / "20240902T000000Z-bbbbbb.jsonl"
    probes.write_text(
        probes.read_text().replace('"endpoint":"sandbox"', '"endpoint":"http://a"', 1)
    )

    data = load_comparable(elsewhere)

    assert data.probes.empty
    assert data.left_out["why"].str.contains("endpoint http://a").all()
    assert data.left_out["requests"].sum() == 24


def page_text(folder):
    page = list(shown_by(NOTEBOOK, drawn=False, results=str(folder)))
    return text_of("".join(each.get("text/html", "") for each in page)), dict(tables_of(page))


def test_03_of_launches_and_probes_shows_both(logs):
    text, tables = page_text(logs.parent)

    assert "Average number ready" in text
    assert set(tables["share-granted"]["asked by"]) == {"request_spot_instances"}
    assert sorted(tables["share-granted"]["how"]) == ["launch", "launch", "probe", "probe"]
    assert "Granted to probes: the highest share is " in text
    assert "Granted to launches: the share is 1.00 at both." in text
    assert "Requests read: 24. Analyzed: 24. Left out: 0." in text


def test_03_of_probes_alone_says_what_was_granted_and_never_that_it_was_ready(logs, tmp_path):
    (tmp_path / "launches").mkdir()
    name = "20240902T000000Z-bbbbbb.jsonl"
    (tmp_path / "launches" / name).write_bytes((logs / name).read_bytes())

    text, tables = page_text(tmp_path)

    assert "These are probes: EC2 granted an instance or not, and it was ended at once." in text
    assert "Average number granted at the end (" in text
    assert "Granted: EC2 has decided for the request, or it has an instance." in text
    assert tables["share-granted"]["how"].tolist() == ["probe", "probe"]
    assert "The longest phase is from request to granted" in text
    assert not re.search(r"(were|n|number|half) ready\b", text)
    assert {str(NANO), str(SMALL)} == set(tables["share-granted"]["target"])


@pytest.mark.parametrize("good", [8, 7])
def test_what_all_runs_reached_has_one_interval_at_every_stage(good):
    """Whatever the times are: one instance that was ready was also running and fulfilled."""
    seen = {"fulfilled_after_s": 1.0, "fulfilled_by_s": 4.0}
    seen |= {"running_after_s": 9.0, "running_by_s": 12.0}
    runs = (
        [row | (seen if number < good else {}) for row in run_rows(ends, number=number)]
        for number in range(8)
        for ends in [[100.0 + 9 * number, 140.0] if number < good else [INF, INF]]
    )
    launches = name_runs(table_of(*runs))
    [granted] = share_granted(launches)[["share", "low", "high"]].to_numpy().tolist()

    for stage in (Stage.FULFILLED, Stage.RUNNING, Stage.READY):
        [times] = launch_times(launches, stage).values()
        share = times.share_ready(590.0)
        assert [share.value, share.low, share.high] == pytest.approx(granted, abs=2e-3)

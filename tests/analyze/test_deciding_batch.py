"""Which batch a page is about, and what is said of those that it is not about."""

from dataclasses import replace

import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of

from spotlib.analyze.comparable import deciding_batch, name_runs, whole_batches
from spotlib.analyze.load import load_comparable
from spotlib.analyze.sentences import choice_sentences
from spotlib.record.tables import load_readable

OLD, NEW = "20240901T000000Z-aaaaaa", "20240902T000000Z-bbbbbb"
REQUEST = {"method": "request_spot_instances", "batch_id": OLD}
RUN = {"method": "run_instances", "batch_id": OLD}
CONTROL = {"method": "run_instances", "purchase": "on-demand", "batch_id": NEW}
STOPPED = {"outcome": "abandoned", "watched_s": 9.0, "ready_after_s": None, "ready_by_s": None}


def batches(**rounds):
    """How many rounds these batches planned."""
    return pd.DataFrame({"batch_id": list(rounds), "rounds": list(rounds.values())})


@pytest.mark.parametrize(
    ("numbers", "last", "planned", "whole"),
    [
        ((0, 1, 2), {}, 3, True),
        ((0, 1), {}, 3, False),  # stopped between two rounds, or its next one is to come
        ((0, 2, 4), {}, 6, True),  # each second round is skipped, also the last
        ((0, 2), {}, 6, False),
        ((0, 1, 2), STOPPED, 3, False),
        ((0, 1, 2), {"outcome": None}, 3, False),
        ((0, 1, 2), {"outcome": "refused", "kind": "quota"}, 3, True),
    ],
)
def test_a_batch_is_whole_if_all_that_it_planned_was_watched(numbers, last, planned, whole):
    *first, end = numbers
    runs = [run_rows([20.0], number=number, batch_id="a") for number in first]
    launches = table_of(*runs, run_rows([20.0], number=end, batch_id="a", **last))

    assert whole_batches(launches, batches(a=planned)) == ({"a"} if whole else set())


def test_the_newest_whole_batch_decides_and_of_none_the_newest():
    launches = table_of(*(run_rows([20.0], batch_id=name) for name in "abc"))

    assert deciding_batch(launches, {"a", "b"}) == "b"
    assert deciding_batch(launches) == "c"
    assert deciding_batch(launches, {"elsewhere"}) == "c"


@pytest.fixture
def loaded(monkeypatch):
    """What 03 reads of these runs."""

    def load(*runs, **given):
        launches = table_of(*runs).assign(image="ami-1", availability_zone_id=None)
        found = replace(load_readable([]), launches=launches, batches=batches(**{OLD: 2, NEW: 2}))
        monkeypatch.setattr("spotlib.analyze.load.load_readable", lambda _, **__: found)
        return load_comparable("anywhere", **given)

    return load


def study(**newest):
    """Two rounds of two arms, and a newer batch of a third whose last run has these fields."""
    for number in range(2):
        yield run_rows([20.0, 30.0], number=number, **REQUEST)
        yield run_rows([25.0, 35.0], number=number, plan=1, **RUN)
        yield run_rows([INF] * 2, number=number, **CONTROL | (newest if number else {}))


def test_a_stopped_batch_does_not_turn_the_page_to_its_arm_and_the_page_says_so(loaded):
    data = loaded(*study(**STOPPED))

    assert set(data.launches["method"]) == {"request_spot_instances"}
    assert data.passed_over == NEW
    assert list(choice_sentences(data)) == [
        f"The newest batch, {NEW}, was stopped or is still running, so it does not decide what "
        "this page is about; it is left out here (asked for by run_instances:on-demand, not "
        "request_spot_instances). To see it alone, set launches to its log.",
        "This page is about launches by request_spot_instances (2 runs). Not mixed with them: "
        "run_instances (2 runs) and run_instances:on-demand (2 runs, 1 not watched to the end). "
        "To see those, set arm, for example -p arm run_instances.",
    ]


def test_a_whole_newest_batch_decides_and_the_other_arms_are_named(loaded):
    data = loaded(*study())

    assert set(data.launches["purchase"]) == {"on-demand"}
    [words] = choice_sentences(data)
    assert words.startswith("This page is about launches by run_instances:on-demand (2 runs). ")
    assert "request_spot_instances (2 runs) and run_instances (2 runs)" in words


def test_a_stopped_batch_is_shown_if_its_arm_is_chosen(loaded):
    data = loaded(*study(**STOPPED), arm="run_instances:on-demand")

    assert (len(data.launches), data.passed_over) == (4, "")
    [words] = choice_sentences(data)
    assert "about launches by run_instances:on-demand (2 runs, 1 not watched to the end)" in words


def test_a_stopped_batch_of_the_same_kind_counts_and_nothing_is_said(loaded):
    same = CONTROL | {"method": "request_spot_instances", "purchase": "spot"}
    runs = [run_rows([20.0], number=number, **REQUEST) for number in range(2)]
    data = loaded(*runs, run_rows([INF], number=5, **same | STOPPED))

    assert set(data.launches["batch_id"]) == {OLD, NEW}
    assert not list(choice_sentences(data))


def test_a_stopped_batch_that_waited_for_another_stage_is_passed_over_too(loaded):
    other = {"method": "request_spot_instances", "batch_id": NEW, "wanted": "running"}
    runs = [run_rows([20.0], number=number, **REQUEST) for number in range(2)]
    data = loaded(*runs, run_rows([INF], number=5, **other | STOPPED))

    [words] = choice_sentences(data)
    assert f"The newest batch, {NEW}, was stopped" in words
    assert "(wanted running, not ready)" in words


def test_the_arms_beside_each_other_are_those_that_differ_in_nothing_else_from_the_page(loaded):
    both = [{**arm, "batch_id": NEW, "wanted": "running"} for arm in (REQUEST, RUN)]
    more = [run_rows([INF], number=5, plan=plan, **arm | STOPPED) for plan, arm in enumerate(both)]
    data = loaded(*study(), *more)

    assert set(data.arms["wanted"]) == {"ready"}
    assert name_runs(data.arms)["run"].nunique() == 4

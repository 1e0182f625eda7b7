"""Which batch a page is about, and what is said of those that it is not about."""

from dataclasses import replace

import pandas as pd
import pytest
from launch_rows import INF, run_rows, table_of
from made_events import NOON, batch, clean, intent, refused, written
from msgspec.structs import replace as changed

from spotlib.analyze.comparable import deciding_batch, name_runs, whole_batches
from spotlib.analyze.load import load_comparable
from spotlib.analyze.sentences import choice_sentences
from spotlib.record.events import SkippedEvent
from spotlib.record.tables import load_readable

OLD, NEW = "20240901T000000Z-aaaaaa", "20240902T000000Z-bbbbbb"
REQUEST = {"method": "request_spot_instances", "batch_id": OLD}
RUN = {"method": "run_instances", "batch_id": OLD}
CONTROL = {"method": "run_instances", "purchase": "on-demand", "batch_id": NEW}
STOPPED = {"outcome": "abandoned", "watched_s": 9.0, "ready_after_s": None, "ready_by_s": None}


BY_ITSELF, UNSURE = clean(True), clean(False)
BY_STOP, BY_GUARD = changed(BY_ITSELF, stopped_by="SIGINT"), changed(BY_ITSELF, at=NOON)
ONE_ARM = [(0, 0), (1, 0), (2, 0)]  # round and plan of each call
TWO_ARMS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def batches(*names):
    """These batches, of which each round of two was launched."""
    return pd.DataFrame({"batch_id": names, "rounds": 2, "rounds_done": 2})


def log_of(folder, calls, *, rounds, skipped=(), ends=()):
    """A log of calls that were all refused, which is an outcome, then of these ends."""
    events = [SkippedEvent(round=each, polls=(), reason="late") for each in skipped]
    for number, plan in calls:
        events += [intent(number, plan), refused(number=number, plan=plan)]
    return written(folder, *events, *ends, first=batch(batch_id="a", rounds=rounds))


def wholes(log):
    """The whole batches of a log."""
    found = load_readable(log)
    return whole_batches(found.launches, found.batches)


@pytest.mark.parametrize(
    ("last", "whole"),
    [
        ({}, True),
        (STOPPED, False),
        ({"outcome": None}, False),
        ({"outcome": "refused", "kind": "quota"}, True),
    ],
)
def test_a_batch_is_whole_only_if_each_of_its_requests_was_watched_to_its_end(last, whole):
    runs = [run_rows([20.0], batch_id="a"), run_rows([20.0], number=1, batch_id="a", **last)]

    assert whole_batches(table_of(*runs), batches("a")) == ({"a"} if whole else set())


@pytest.mark.parametrize("ends", [[], [BY_ITSELF], [BY_STOP], [BY_GUARD], [UNSURE, BY_GUARD]])
@pytest.mark.parametrize(
    ("rounds", "skipped", "whole"),
    [
        (3, (), True),
        (4, (), False),  # stopped before its last round, or that is to come
        (4, (3,), True),
        (6, (3, 4, 5), True),
        (8, (3, 4, 5, 6), False),
    ],
)
def test_a_batch_is_whole_if_each_round_that_it_did_not_launch_was_skipped_as_too_late(
    tmp_path, ends, rounds, skipped, whole
):
    """However it ended; an older log does not name a stop."""
    log = log_of(tmp_path, ONE_ARM, rounds=rounds, skipped=skipped, ends=ends)

    assert wholes(log) == ({"a"} if whole else set())


@pytest.mark.parametrize("ends", [[], [BY_STOP], [BY_GUARD]])
def test_a_batch_that_ended_between_two_arms_of_its_last_round_is_not_whole(tmp_path, ends):
    assert not wholes(log_of(tmp_path, TWO_ARMS[:3], rounds=2, ends=ends))


@pytest.mark.parametrize("ends", [[], [BY_STOP], [BY_GUARD]])
def test_a_batch_that_was_stopped_after_its_last_arm_is_whole(tmp_path, ends):
    assert wholes(log_of(tmp_path, TWO_ARMS, rounds=2, ends=ends)) == {"a"}


@pytest.mark.parametrize(
    ("ends", "whole"),
    [
        ([BY_ITSELF], True),
        ([UNSURE, BY_GUARD], True),  # a sweep confirms what its own process could not
        ([], False),
        ([BY_STOP], False),
        ([BY_GUARD], False),
        ([BY_STOP, BY_GUARD], False),
    ],
)
def test_of_one_round_only_an_end_by_itself_shows_that_no_other_arm_was_to_come(
    tmp_path, ends, whole
):
    assert wholes(log_of(tmp_path, ONE_ARM[:1], rounds=1, ends=ends)) == ({"a"} if whole else set())


def test_a_batch_that_died_during_a_call_without_an_answer_is_not_whole(tmp_path):
    log = log_of(tmp_path, ONE_ARM, rounds=4, ends=[intent(3), BY_GUARD])

    assert not wholes(log)


def test_the_newest_whole_batch_decides_and_of_none_the_newest():
    launches = table_of(*(run_rows([20.0], batch_id=name) for name in "abc"))

    assert deciding_batch(launches, {"a", "b"}) == "b"
    assert deciding_batch(launches) == "c"
    assert deciding_batch(launches, {"elsewhere"}) == "c"


@pytest.fixture
def loaded(monkeypatch):
    """What 03 reads of these runs."""

    def load(*runs, **given):
        launches = table_of(*runs).assign(availability_zone_id=None)
        launches["image"] = launches["image"].astype(object).fillna("ami-1")
        found = replace(load_readable([]), launches=launches, batches=batches(OLD, NEW))
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


KERNEL, OWN = "al2023-ami-kernel-6.1-x86_64", "ami-own"
OLDER = {"method": "request_spot_instances", "image_family": KERNEL}
NEWER = {"method": "request_spot_instances", "image": OWN, "batch_id": NEW, "world": "w-2"}


def test_the_image_of_a_stopped_batch_does_not_take_the_page_which_says_so(loaded):
    runs = [run_rows([20.0], number=number, **OLDER) for number in range(2)]
    data = loaded(*runs, run_rows([INF] * 5, **NEWER | STOPPED))

    assert (set(data.launches["batch_id"]), len(data.launches)) == ({OLD}, 2)
    assert list(choice_sentences(data)) == [
        f"The newest batch, {NEW}, was stopped or is still running, so it does not decide what "
        f"this page is about; it is left out here (image {OWN}, not {KERNEL}). To see it alone, "
        "set launches to its log."
    ]


def test_the_image_of_a_whole_newest_batch_takes_the_page(loaded):
    data = loaded(run_rows([20.0], **OLDER), run_rows([20.0], **NEWER))

    assert set(data.launches["batch_id"]) == {NEW}
    assert data.left_out["why"].tolist() == [f"image {KERNEL}, not {OWN}"]
    assert not list(choice_sentences(data))


def test_a_target_that_no_whole_batch_has_keeps_the_image_of_the_stopped_one(loaded):
    alone = {"instance_type": "t3.small", "plan": 1}
    newest = [run_rows([INF], **NEWER | STOPPED | more) for more in ({}, alone)]
    data = loaded(run_rows([20.0], **OLDER), *newest)

    assert data.launches.groupby("instance_type")["batch_id"].agg(list).to_dict() == {
        "t3.nano": [OLD],
        "t3.small": [NEW],
    }
    [words] = choice_sentences(data)
    assert f"; part of it is left out here (image {OWN}, not {KERNEL}). " in words


def test_the_arms_beside_the_page_have_its_image(loaded):
    other = {"method": "run_instances", "plan": 1}
    newest = [run_rows([INF], **NEWER | STOPPED | more) for more in ({}, other)]
    whole = [run_rows([20.0], **OLDER | more) for more in ({}, other)]
    data = loaded(*whole, *newest)

    assert set(data.arms["batch_id"]) == {OLD}

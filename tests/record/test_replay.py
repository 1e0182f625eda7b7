"""What made-up logs say: each rule of replay and of the tables, at its edges and by hand."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from made_events import (
    NOON,
    ONE,
    at,
    batch,
    clean,
    console,
    counts,
    impaired,
    intent,
    notice,
    outcome,
    poll,
    refused,
    requested,
    stage,
    written,
)
from msgspec import UNSET

from spotlib.model import Kind, Stage, Target
from spotlib.record import tables
from spotlib.record.columns import STAGES
from spotlib.record.events import (
    BatchEvent,
    Event,
    GuestStamp,
    IntentEvent,
    Lacking,
    OutcomeEvent,
    RecoveredEvent,
    ReleaseEvent,
    RequestedEvent,
    SkippedEvent,
    StageCounts,
    TaggedEvent,
)
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.polled import Polled, Polls
from spotlib.record.replay import RecordedBatch, replay
from spotlib.record.rows import Launches, joined_launches
from spotlib.record.tables import load_batches, load_launches, load_polls


def row_of(folder, *events, **given):
    """The first row of the launches' table."""
    return load_launches(written(folder, *events, **given)).iloc[0]


# What is refused.


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([outcome(), outcome()], "already has the outcome of sir-1"),
        ([stage("fulfilled", 11, 12), stage("fulfilled", 13, 14)], "has fulfilled of sir-1"),
        ([outcome(), stage("running", 11, 12)], "already has the outcome of sir-1"),
        ([impaired(), impaired()], "already has impaired of sir-1"),
        ([refused()], r"already has the answer to run \(0, 0\)"),
        ([intent(0, 1), requested("sir-2", plan=1)], "already has the request sir-2"),
        ([batch()], "already has the batch"),
        ([intent()], r"already has the intent of run \(0, 0\)"),
        ([intent(0, 1), refused(plan=1), requested("sir-3", plan=1)], "the answer to run"),
        ([stage("running", 9, 12)], "sent_s is 10, above after_s, which is 9"),
        ([stage("running", 12, 11)], "after_s is 12, above by_s, which is 11"),
        ([notice("running", 9, 12)], "sent_s is 10, above after_s, which is 9"),
        ([outcome(watched_s=9)], "sent_s is 10, above watched_s, which is 9"),
        ([poll({0: counts()}, asked_s=22)], "asked_s is 22, above answered_s, which is 21"),
        ([intent(0, 1), requested(plan=1, answered_s=9)], "asked_s is 10, above answered_s"),
        ([poll({0: counts()}, error="lost")], "a poll has either counts or an error"),
        ([poll({0: None})], "a poll has either counts or an error"),
        ([intent(0, 1), poll({0: None, 1: counts()}, error="lost")], "either counts or an error"),
        ([outcome("ready")], "outcome is ready, its stages say otherwise"),
        ([stage("ready", 11, 12), outcome()], "outcome is timed_out, its stages say otherwise"),
        ([stage("running", 11, 12), outcome("ready")], "outcome is ready, its stages say"),
        ([clean(True)], "confirmed is true, but sir-1 has no outcome"),
        ([outcome(), clean(True)], "confirmed is true, but sir-2 has no outcome"),
        ([stage("running", 11, 12, plan=1)], r"no line before it names 'sir-1 in run \(0, 1\)'"),
        ([stage("running", 11, 12, request_id="sir-3")], "no line before it names 'sir-3'"),
        ([intent(1, 0, instance_type="no.such!")], "cannot take this event|instance_type"),
    ],
)
def test_a_line_that_cannot_be_true_after_those_before_it_is_refused(tmp_path, events, words):
    with pytest.raises(ValueError, match=words):
        replay(written(tmp_path, *ONE, *events))


@pytest.mark.parametrize("other", [(0, 0), (1, 1)], ids=["a lower run", "a higher one"])
def test_a_line_of_another_run_than_its_requests_is_refused(tmp_path, other):
    runs = [intent(0, 1), requested("sir-1", plan=1), intent(*other)]
    told = impaired(round=other[0], plan=other[1])

    with pytest.raises(ValueError, match="no line before it names 'sir-1 in run"):
        replay(written(tmp_path, *runs, told))


ORDER = ("ready", "running", "fulfilled", "granted", "accepted", "n")


@pytest.mark.parametrize("low", ORDER[:-1])
def test_no_more_requests_are_at_a_stage_than_at_the_one_before_it(tmp_path, low):
    """Equal numbers are in order; one more than the next of them is not."""
    high = ORDER[ORDER.index(low) + 1]
    seen = dict.fromkeys(ORDER[: ORDER.index(low) + 1], 3) | {"codes": {}}
    seen = dict.fromkeys(ORDER[ORDER.index(high) : -1], 2) | seen
    n = 2 if high == "n" else 4
    run = intent(n=n), requested("sir-1")
    equal = seen | dict.fromkeys(ORDER[:-1], 2)

    replay(written(tmp_path, *run, poll({0: StageCounts(**equal)})))
    with pytest.raises(ValueError, match=f"{low} is 3, above {high}, which is 2"):
        replay(written(tmp_path, *run, poll({0: StageCounts(**seen)}), first=batch(batch_id="c")))


@pytest.mark.parametrize(("usable", "refused"), [(0, False), (1, False), (2, True), (UNSET, False)])
def test_only_what_runs_can_be_usable(tmp_path, usable, refused):
    log = written(tmp_path, *ONE, poll({0: counts(usable=usable)}))
    if refused:
        with pytest.raises(ValueError, match="usable is 2, above running, which is 1"):
            replay(log)
    else:
        assert replay(log).runs[0, 0].polled_s == 20.0


def test_a_call_that_gave_more_than_it_was_asked_for_may_count_them_all(tmp_path):
    run = intent(n=1), requested("sir-1", "sir-2")
    replay(written(tmp_path, *run, poll({0: counts(accepted=2)})))
    with pytest.raises(ValueError, match="accepted is 3, above n, which is 2"):
        replay(written(tmp_path, *run, poll({0: counts(3)}), first=batch(batch_id="c")))


def test_what_happens_at_one_moment_is_in_order(tmp_path):
    """A bracket may have no length, and a guest's stamp may be read after the end."""
    events = [stage("fulfilled", 10, 10), outcome(watched_s=10.0), stage("usable", 10, 10)]
    polled = poll({0: counts()}, asked_s=21.0)

    found = replay(written(tmp_path, *ONE, *events, polled, notice("running", 10, 10)))
    assert [each.stage for each in found.requests["sir-1"].stages] == ["fulfilled", "usable"]
    assert len(found.polls) == 1


# What follows.


@pytest.mark.parametrize(
    ("end", "bound_usd", "spent_usd"),
    [
        (None, 2.0, 6.0),
        (clean(True, 1.5), 2.0, 1.5),
        (clean(True, 0.0), 2.0, 0.0),
        (clean(True), 2.0, 6.0),
        (clean(False), 2.0, 6.0),
        (clean(False, 1.5), 2.0, 6.0),
        (clean(False, 7.5), 2.0, 7.5),
        (clean(False), 0.1, pytest.approx(0.3)),
        (clean(True, 1.5), None, 1.5),
        (clean(False, 1.5), None, None),
        (None, None, None),
    ],
)
def test_a_batch_of_three_rounds_cost_at_most_what_its_end_confirms_or_else_their_bound(
    end, bound_usd, spent_usd
):
    found = RecordedBatch(Path("b"), batch(bound_usd=bound_usd), clean=end)

    assert found.spent_at_most_usd == spent_usd
    assert found.bound_usd(0) == (None if bound_usd is None else 0.0)
    assert not found.torn


def test_the_writer_of_a_log_is_the_last_that_went_on_with_it(tmp_path):
    later = [RecoveredEvent(torn=False, at=NOON, pid=pid) for pid in (8, 7)]

    assert replay(written(tmp_path, *ONE)).writer_pid is None
    again = written(tmp_path, *ONE, *later, first=batch(batch_id="c"))
    assert replay(again).writer_pid == 7


def test_a_request_is_watched_until_its_outcome_or_its_last_complete_poll(tmp_path):
    polls = [poll({0: counts()}), poll({0: None}, number=1, asked_s=20.5, error="lost")]
    found = replay(written(tmp_path, *ONE, intent(0, 1), requested("sir-3", plan=1), *polls))
    assert [each.watched_s for each in found.requests.values()] == [20.0, 20.0, 10.0]
    assert found.requests["sir-1"].instance_id is None
    assert found.runs[0, 0].wanted is Stage.READY

    ended = replay(written(tmp_path, *ONE, *polls, outcome(), first=batch(batch_id="c")))
    assert [each.watched_s for each in ended.requests.values()] == [50.0, 20.0]


@pytest.mark.parametrize("wanted", ["fulfilled", "running", "usable", "ready"])
def test_only_the_stage_that_is_waited_for_is_the_goal(tmp_path, wanted):
    events = [stage(name, 11, 12) for name in ("fulfilled", "running", "usable", "ready")]
    others = [each for each in events if each.stage != wanted]
    run = intent(wanted=wanted), requested("sir-1")

    assert replay(written(tmp_path, *run, *events)).requests["sir-1"].reached_wanted
    missed = replay(written(tmp_path, *run, *others, first=batch(batch_id="c")))
    assert not missed.requests["sir-1"].reached_wanted


def test_what_has_ended_for_good_is_over_with_its_instance(tmp_path):
    gone = outcome("interrupted", instance_state="terminated")
    shown = stage("fulfilled", 11, 12, instance_id=None), stage("running", 12, 13)
    found = replay(written(tmp_path, *ONE, *shown, gone))

    assert found.over == {"sir-1", "i-1"}
    alone = replay(written(tmp_path, intent(), requested("i-7"), first=batch(batch_id="c")))
    assert alone.requests["i-7"].instance_id == "i-7", "a row may be an instance itself"
    assert not outcome(instance_state="running").is_over


def test_what_clean_up_did_and_saw_is_kept_in_order(tmp_path):
    nothing = {"cancelled": (), "terminated": (), "error": None, "region": "sa-east-1"}
    passes = [ReleaseEvent(**nothing, over=over) for over in (("sir-2",), ("sir-1", "i-9"))]
    tagged = TaggedEvent(region="sa-east-1", instance_ids=("i-9",), error=None)
    events = [stage("running", 11, 12), passes[0], tagged, passes[1]]
    found = replay(written(tmp_path, *ONE, *events, notice("running", 11, 12)))

    assert [each.over for each in found.releases] == [("sir-2",), ("sir-1", "i-9")]
    assert [each.instance_ids for each in found.tagged] == [("i-9",)]
    assert found.over == {"sir-1", "sir-2", "i-1", "i-9"}
    assert [each.about for each in found.requests["sir-1"].notices] == ["running"]


# The tables.


def test_a_refused_call_has_a_row_for_each_of_its_instances(tmp_path):
    table = load_launches(written(tmp_path, intent(n=3, usable=True), refused("Full")))

    shown = ["outcome", "status_code", "kind", "watched_s", "refused_after_s", "refused_by_s"]
    for row in table[[*shown, "usable_watched_s"]].to_numpy().tolist():
        assert row == ["refused", "Full", "capacity", 0.0, 0.0, 0.5, 0.0]
    assert len(table) == 3
    assert table["request_id"].isna().all()
    assert table["sent_at"].tolist() == [at(10)] * 3


def test_what_a_call_lacked_has_rows_beside_those_that_came(tmp_path):
    lacking = Lacking(count=2, code=None, message="", kind=Kind.CAPACITY, advice="")
    run = [intent(n=3), requested("sir-1", answered_s=None, lacking=lacking)]
    table = load_launches(written(tmp_path, *run, outcome()))

    assert table["request_id"].isna().tolist() == [True, True, False]
    assert table["outcome"].tolist() == ["refused", "refused", "timed_out"]
    assert table[["refused_after_s", "refused_by_s", "usable_watched_s"]].isna().all(axis=None)
    assert table["kind"].tolist()[:2] == ["capacity"] * 2


STAMP = GuestStamp(
    **{"uptime_s": 7.5, "clock_uptime_s": 7.6, "clock_at": at(40), "boot_id": "x"},
    **{"pending_at": None, "synchronised": True},
)


def test_the_row_of_a_launch_has_its_times_from_the_call_on(tmp_path):
    """The call was sent at second 10: each time is that of the log less ten."""
    events = [
        stage("fulfilled", 11, 12, instance_id="i-1", launched_at=at(1)),
        stage("running", 13, 15, instance_id="i-2", created_at=at(2), status_updated_at=at(99)),
        stage("usable", 16, 18, instance_id="i-2", launched_at=at(3), stamp=STAMP),
        impaired(30, 33, instance_id="i-2"),
        outcome("interrupted", watched_s=50.0, held_after_s=19.0, held_by_s=21.5),
    ]
    row = row_of(tmp_path, *ONE, *events)

    assert row.filter(
        regex="^(accepted|fulfilled|running|usable|impaired|held)_.*_s$"
    ).to_dict() == (
        pytest.approx(
            {
                **{"accepted_after_s": 0.0, "accepted_by_s": 0.5},
                **{"fulfilled_after_s": 1.0, "fulfilled_by_s": 2.0},
                **{"running_after_s": 3.0, "running_by_s": 5.0},
                **{"usable_after_s": 6.0, "usable_by_s": 8.0, "usable_watched_s": np.nan},
                **{"impaired_after_s": 20.0, "impaired_by_s": 23.0},
                **{"held_after_s": 9.0, "held_by_s": 11.5},
                **dict.fromkeys((f"fulfilled_{a}_{b}_s" for a, b in BOTH), np.nan),
                **dict.fromkeys((f"running_{a}_{b}_s" for a, b in BOTH), np.nan),
            },
            nan_ok=True,
        )
    )
    assert row["watched_s"] == 40.0
    assert row["instance_id"] == "i-2"
    assert row["created_at"] == at(11)
    assert row["fulfilled_at"] == at(12), "EC2's time of the status that came with fulfilled"
    assert row["launched_at"] == at(3), "the last that is known"
    assert (row["guest_uptime_s"], row["guest_at"]) == (7.5, at(40))
    assert row["guest_synchronised"]


BOTH = [(clock, end) for clock in ("event", "both") for end in ("after", "by")]


def test_a_launch_time_that_later_answers_lack_stays_known(tmp_path):
    events = [stage("fulfilled", 11, 12, launched_at=at(1)), stage("running", 13, 15)]

    assert row_of(tmp_path, *ONE, *events)["launched_at"] == at(1)


@pytest.mark.parametrize(
    ("read", "ran", "until_s"),
    [
        (console(error=None), True, 40.0),
        (console(error=None, last=False), True, 3.0),
        (console(error=None, posted=False), True, 3.0),
        (console(error="Throttled"), True, 3.0),
        (None, True, 3.0),
        (None, False, 40.0),
    ],
)
def test_only_a_whole_console_shows_that_what_ran_was_never_usable(tmp_path, read, ran, until_s):
    run = intent(usable=True), requested("sir-1")
    events = [*[stage("running", 13, 15)] * ran, *[read] * (read is not None), outcome()]

    assert row_of(tmp_path, *run, *events)["usable_watched_s"] == until_s


def test_usable_is_censored_by_nothing_where_it_is_not_recorded(tmp_path):
    assert np.isnan(row_of(tmp_path, *ONE, outcome())["usable_watched_s"])


@pytest.mark.parametrize(
    ("code", "told"), [("", None), (None, None), ("capacity-not-available",) * 2]
)
def test_the_code_of_an_outcome_is_told_where_there_is_one(tmp_path, code, told):
    row = row_of(tmp_path, *ONE, outcome(status_code=code))

    assert row["status_code"] == told if told else row.isna()["status_code"]
    assert row.isna()["kind"], "it did not fail"


def test_the_batches_table_counts_what_ended(tmp_path):
    log = written(tmp_path, *ONE, intent(0, 1), outcome(), clean(False))
    told = ["rounds_done", "plans", "requests", "ended", "clean", "torn"]

    assert load_batches(log)[told].to_numpy().tolist() == [[1, 2, 2, 1, False, False]]
    assert load_batches(log)[["spotlib_version", "endpoint"]].to_numpy().tolist() == [["1", "aws"]]


def test_a_round_that_was_skipped_is_done_and_one_of_which_polls_were_skipped_is_not(tmp_path):
    late = [SkippedEvent(round=number, polls=(), reason="late") for number in (1, 2)]
    busy = SkippedEvent(round=0, polls=(3, 4), reason="busy", region="sa-east-1")

    found = replay(written(tmp_path, *ONE, busy, *late))
    assert (found.skipped, found.rounds_done) == ({1, 2}, 2), "another arm of round 0 may come"


def polled_log(folder, name, asked_s):
    """Two runs; a probe's poll, one that failed, and one of both runs."""
    events = [
        *(intent(), requested("sir-1", "sir-2"), intent(0, 1), requested("sir-3", plan=1)),
        poll({0: counts(granted=2)}, number=1, asked_s=asked_s),
        poll({0: None}, number=3, asked_s=asked_s + 0.2, error="lost"),
        poll({0: counts(), 1: counts(1, 1, 1, 1, usable=1)}, number=6, asked_s=asked_s + 0.5),
    ]
    return written(folder, *events, first=batch(batch_id=name))


# accepted, granted, fulfilled, running, usable, ready; -1 is not known
POLLED = [
    [2, 2, 1, 1, -1, 0],
    [-1, -1, -1, -1, -1, -1],
    [2, -1, 1, 1, -1, 0],
    [1, -1, 1, 1, 1, 1],
]


@pytest.fixture
def parts(tmp_path):
    """The polls of three logs, each read alone; each was polled a second after the one before."""
    found = []
    for number, name in enumerate("abc"):
        polls = Polls()
        polls.add(replay(polled_log(tmp_path, name, 15.0 + number)))
        found.append(polls.table())
    return tmp_path, found


def test_the_counts_of_each_poll_are_kept_with_their_places(parts):
    part = parts[1][0]

    assert part.counts[list(STAGES)].to_numpy().tolist() == POLLED
    assert part.counts["of_poll"].tolist() == [0, 1, 2, 2]
    assert part.counts["of_run"].tolist() == [0, 0, 0, 1]
    assert part.runs["sent_s"].tolist() == [10.0, 10.0]


def test_the_polls_of_several_logs_stand_one_after_the_other(parts):
    folder, found = parts
    joined = Polled.joined(found)

    assert joined.counts["of_poll"].tolist() == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]
    assert joined.counts["of_run"].tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5]
    assert joined.counts.index.tolist() == list(range(12))
    for table in (joined.table(), load_polls(folder)):
        assert table["batch_id"].tolist() == [*"aaaabbbbcccc"]
        assert table["plan"].tolist() == [0, 0, 0, 1] * 3
        asked_s = [5.0, 5.2, 5.5, 5.5, 6.0, 6.2, 6.5, 6.5, 7.0, 7.2, 7.5, 7.5]
        assert table["asked_s"].tolist() == pytest.approx(asked_s)
        assert table["answered_s"].tolist() == [11.0] * 12
        shown = table[list(STAGES)].astype("float64").fillna(-1).astype(int)
        assert shown.to_numpy().tolist() == POLLED * 3


def test_some_runs_keep_only_their_polls(parts):
    joined = Polled.joined(parts[1])
    kept = joined.of((joined.runs["batch_id"] == "b") & (joined.runs["plan"] == 1))

    assert kept.table()[["batch_id", "plan", "ready"]].to_numpy().tolist() == [["b", 1, 1]]


def test_each_poll_that_was_made_says_how_many_were_skipped_before_it(parts):
    made = Polled.joined(parts[1][:2]).made()

    assert [*made.columns] == ["batch_id", "round", "region", "poll", "error", "skipped"]
    assert made["poll"].tolist() == [1, 3, 6] * 2
    assert made["skipped"].tolist() == [0.0, 1.0, 2.0] * 2
    assert made["batch_id"].tolist() == [*"aaabbb"]
    assert made["error"].isna().tolist() == [True, False, True] * 2


def test_the_launches_of_several_logs_stand_one_after_the_other(tmp_path):
    found = []
    for name, n in (("a", 1), ("b", 2), ("c", 3)):
        first = batch(batch_id=name)
        events = [intent(n=n), refused(), intent(0, 1, n=1), requested(f"sir-{name}", plan=1)]
        launches = Launches()
        launches.add(replay(written(tmp_path, *events, first=first)))
        found.append(launches.table())
    for table in (joined_launches(found), load_launches(tmp_path)):
        assert table["batch_id"].tolist() == [*"aabbbcccc"]
        assert table["plan"].tolist() == [0, 1, 0, 0, 1, 0, 0, 0, 1]
        assert table["n"].tolist() == [1, 1, 2, 2, 1, 3, 3, 3, 1]


@pytest.mark.parametrize(("worth", "several"), [(2, True), (3, True), (4, False)])
def test_several_processes_read_only_as_many_parts_as_are_worth_it(
    parts, monkeypatch, worth, several
):
    seen = []

    def each_of(work, some, *, executor, worth_processes):
        seen.append((executor, worth_processes))
        return map(work, some)

    monkeypatch.setattr(tables, "each_of", each_of)
    monkeypatch.setattr("spotlib.record.folder._PART_BYTES", 1)
    monkeypatch.setattr(tables, "_WORTH_PARTS", worth)

    assert len(load_polls(parts[0])) == 12
    assert seen == [(None, several)]


def test_a_file_that_is_no_log_is_refused_before_the_others_are_read(tmp_path, monkeypatch):
    def read(*_, **__):
        raise AssertionError("the logs were read")

    (tmp_path / "a.jsonl").mkdir()
    monkeypatch.setattr(tables, "_read", read)
    with pytest.raises(ValueError, match="is no file, so no log"):
        load_batches(tmp_path)


# What earlier batches tell.


def test_a_target_was_last_launched_by_the_latest_real_batch_since_then(tmp_path):
    moments = {"a": 100.0, "b": 300.0, "c": 200.0}
    for name, sent_s in moments.items():
        written(tmp_path, intent(at=at(sent_s)), first=batch(batch_id=name))
    foreign = {"endpoint": "http://127.0.0.1:9", "batch_id": "d"}
    written(tmp_path, intent(at=at(500)), first=batch(**foreign))
    simulated = {"simulated": True, "endpoint": "sandbox", "batch_id": "e"}
    written(tmp_path, intent(at=at(500)), first=batch(**simulated))
    early = {"started_at": at(-1), "batch_id": "f"}
    written(tmp_path, intent(at=at(500)), first=batch(**early))
    (tmp_path / "g.jsonl").touch()  # not begun

    found = last_launches(tmp_path, since=NOON)
    assert found == {Target("t3.nano", "sa-east-1"): at(300)}
    assert last_launches(tmp_path, since=at(1)) == {}


def test_batches_cost_what_those_at_one_place_cost(tmp_path):
    """A foreign endpoint costs nothing, except at that endpoint itself."""
    there = "http://127.0.0.1:9"
    written(tmp_path, clean(True, 1.0), first=batch(batch_id="a"))
    written(tmp_path, clean(False, 10.0), first=batch(batch_id="b", bound_usd=2.0))
    written(tmp_path, clean(True, 100.0), first=batch(batch_id="c", endpoint=there))
    pretend = {"simulated": True, "endpoint": "sandbox"}
    written(tmp_path, clean(True, 1000.0), first=batch(batch_id="d", **pretend))

    assert earlier_usd(tmp_path, simulated=False) == 11.0
    assert earlier_usd(tmp_path, simulated=False, endpoint=there) == 111.0
    for other in ("http://127.0.0.1:8", "http://127.0.0.1:99"):
        assert earlier_usd(tmp_path, simulated=False, endpoint=other) == 11.0
    assert earlier_usd(tmp_path, simulated=True) == 1000.0
    written(tmp_path, first=batch(batch_id="e", bound_usd=None))
    assert np.isnan(earlier_usd(tmp_path, simulated=False))
    assert earlier_usd(tmp_path, simulated=True) == 1000.0


# The events.


def test_what_older_lines_lack_has_the_value_that_was_meant():
    old = {
        BatchEvent: ({"arm_pause_s": 0.0, "events": (), "queue": None}, batch()),
        IntentEvent: ({"purchase": "spot", "usable": False, "image_owner": None}, intent()),
        RequestedEvent: ({"recovered": False, "lacking": UNSET}, requested()),
        OutcomeEvent: ({"recovered": False, "held_by_s": UNSET}, outcome()),
    }
    for kind, (meant, event) in old.items():
        line = msgspec.to_builtins(event)
        for name in meant:
            line.pop(name, None)
        read = msgspec.convert(line, kind)
        assert {name: getattr(read, name) for name in meant} == meant
        assert msgspec.convert(line, Event) == read


def test_no_password_of_an_endpoint_is_kept():
    kept = batch(endpoint="http://me:secret@10.0.0.1:9", url="https://me:secret@10.0.0.1:9")

    assert "secret" not in f"{kept.endpoint} {kept.url}"
    assert (kept.endpoint[:7], kept.url[:8]) == ("http://", "https://")
    assert batch(url=None).url is None
    assert batch(url="").url == ""


@pytest.mark.parametrize(
    ("simulated", "endpoint", "foreign"),
    [
        (False, "aws", False),
        (False, "http://127.0.0.1:9", True),
        (True, "sandbox", False),
        (True, "http://127.0.0.1:9", False),
    ],
)
def test_a_batch_is_foreign_where_another_program_answered_for_ec2(simulated, endpoint, foreign):
    assert batch(simulated=simulated, endpoint=endpoint).foreign is foreign


def test_a_run_is_refused_once_whatever_was_refused_of_it(tmp_path):
    found = replay(written(tmp_path, *ONE, intent(0, 1), refused(plan=1), intent(0, 2)))

    assert [each.key for each in found.refused] == [(0, 1)]
    assert found.begun == 1
    assert [found.runs[key].request_ids for key in found.runs] == [("sir-1", "sir-2"), (), ()]
    assert found.regions == ["sa-east-1"]


@pytest.mark.parametrize(
    ("runs", "skipped", "last"),
    [([], [], 0), ([], [0], 1), ([0, 1], [], 2), ([0, 3], [1, 2], 4), ([0, 3], [1, 2, 4], 5)],
)
def test_the_last_round_is_the_latest_that_began_or_was_skipped(runs, skipped, last):
    runs = {(number, plan): None for number in runs for plan in range(2)}
    record = RecordedBatch(None, None, runs=runs, skipped=set(skipped))

    assert record.last_round == last
    assert record.begun == len(runs) / 2

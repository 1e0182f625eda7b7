"""What the loop records is compared with what happened in the pretend market."""

from pathlib import Path
from tempfile import TemporaryDirectory

from conftest import ARM, CHAOS, NANO, plan_for, read_events, scripted
from crashing import rows_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from spotlib.collect.rounds import collect_batch
from spotlib.model import ARMS, Stage, recorded_stages
from spotlib.record.tables import load_launches, load_polls
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import Fate
from spotlib.track import HELD_CODES

delays = st.floats(0.0, 40.0)
fates = st.builds(
    Fate,
    evaluate_s=st.floats(0.05, 5.0),
    held_s=st.one_of(st.none(), delays),
    in_flight_s=st.floats(0.0, 8.0),
    boot_s=st.one_of(st.none(), delays),
    ok_s=st.one_of(st.none(), delays),
    ebs=st.sampled_from([None, "reported", "absent", "not-applicable"]),
    ebs_ok_s=st.one_of(st.none(), delays),
    interrupted_s=st.one_of(st.none(), st.none(), delays),
    fails=st.sampled_from([None, None, None, None, "bad-parameters", "system-error"]),
)


@settings(
    max_examples=25 if CHAOS else 10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking whole batches takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    fates=st.lists(fates, min_size=6, max_size=6),
    seed=st.integers(0, 2**31),
    asked=st.tuples(
        st.sampled_from([Stage.GRANTED, Stage.RUNNING, Stage.READY]), st.sampled_from(ARMS)
    ),
    lost=st.lists(st.integers(3, 60), max_size=4, unique=True),
)
def test_brackets_outcomes_and_counts_agree_with_the_truth(in_process, fates, seed, asked, lost):
    """Random fates, seeds, poll phases, launch methods and failing calls."""
    wanted, arm = asked
    world = scripted(*fates, seed=seed)
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=3, timeout_s=60, wanted=wanted, methods=[arm])
    world.faults.append(_failing("DescribeInstances", lost))
    began_s = world.now_s

    with TemporaryDirectory() as folder:
        log = Path(folder) / "batch.jsonl"
        summary = collect_batch(connection, checked, log=log, seed=seed)
        launches, polls = load_launches(log), load_polls(log)
        events, torn = read_events(log)

    stages = [
        each.label for each in recorded_stages(wanted, usable=False) if each is not Stage.ACCEPTED
    ]
    truth = {
        row: each["shown_s"] | {"held": _held_s(each)}
        for row, each in rows_of(world, events).items()
    }
    assert not torn
    assert summary.cleaned.confirmed
    assert world.leftovers() == {"requests": [], "instances": []}
    _every_request_has_one_outcome(events, truth)
    _every_bracket_contains_its_moment(events, truth, began_s)
    _every_bracket_of_the_table_counts_from_its_request(launches, events, truth, began_s)
    _what_was_held_was_held_within_its_bracket(events, truth, began_s)
    _nothing_unseen_was_shown_before_the_last_poll(events, truth, began_s, stages=stages)
    _every_count_is_the_truth(polls, launches, events, truth, began_s, stages=stages)


def _failing(action, nths):
    count = 0

    def fault(asked, executed):
        nonlocal count
        if asked.action == action and not executed:
            count += 1
            if count in nths:
                raise ApiError("InternalError", "a fault", 500)

    return fault


def _every_request_has_one_outcome(events, truth):
    ended = [event["request_id"] for event in events if event["event"] == "outcome"]
    assert sorted(ended) == sorted(truth)


def _every_bracket_contains_its_moment(events, truth, began_s):
    for event in events:
        if event["event"] == "stage":
            moment_s = truth[event["request_id"]][event["stage"]] - began_s
            assert event["after_s"] < moment_s <= event["by_s"], event


def _every_bracket_of_the_table_counts_from_its_request(launches, events, truth, began_s):
    sent_s = {(e["round"], e["plan"]): e["asked_s"] for e in events if e["event"] == "requested"}
    for row in launches.to_dict("records"):
        for name in ("granted", "held", "fulfilled", "running", "ready"):
            if row[f"{name}_by_s"] == row[f"{name}_by_s"]:  # known
                zero_s = began_s + sent_s[row["round"], row["plan"]]
                moment_s = truth[row["request_id"]][name] - zero_s
                assert row[f"{name}_after_s"] < moment_s <= row[f"{name}_by_s"], (name, row)


def _held_s(truth):
    """When the API first showed that EC2 holds the request."""
    return next((at_s for at_s, code in truth["path"] if code in HELD_CODES), float("inf"))


def _what_was_held_was_held_within_its_bracket(events, truth, began_s):
    for event in events:
        if event["event"] == "outcome" and event["outcome"] == "held":
            moment_s = truth[event["request_id"]]["held"] - began_s
            assert event["held_after_s"] < moment_s <= event["held_by_s"], event
        else:
            assert "held_by_s" not in event


def _nothing_unseen_was_shown_before_the_last_poll(events, truth, began_s, *, stages):
    """Censoring is true: a stage not shown until ``watched_s`` was reached later, or never."""
    shown = {(e["request_id"], e["stage"]) for e in events if e["event"] == "stage"}
    for event in events:
        if event["event"] != "outcome":
            continue
        for stage in stages:
            moment_s = truth[event["request_id"]].get(stage)
            if (event["request_id"], stage) not in shown and moment_s is not None:
                gone = event["instance_state"] in ("shutting-down", "terminated")
                assert gone or moment_s - began_s > event["watched_s"], (stage, event)


def _every_count_is_the_truth(polls, launches, events, truth, began_s, *, stages):
    sent_s = {(e["round"], e["plan"]): e["asked_s"] for e in events if e["event"] == "requested"}
    open_until_s = {e["request_id"]: e["watched_s"] for e in events if e["event"] == "outcome"}
    for _, poll in polls[polls["error"].isna()].iterrows():
        key = (poll["round"], poll["plan"])
        ids = launches.loc[
            (launches["round"] == poll["round"]) & (launches["plan"] == poll["plan"]), "request_id"
        ].dropna()  # what was refused at once has none
        asked_s, answered_s = poll["asked_s"] + sent_s[key], poll["answered_s"] + sent_s[key]
        for stage in stages:
            moments = [truth[each].get(stage, float("inf")) - began_s for each in ids]
            watched = [open_until_s[each] for each in ids]
            low = sum(m <= asked_s and m <= w for m, w in zip(moments, watched, strict=True))
            high = sum(m <= answered_s for m in moments)
            dead = sum(_ended_s(truth[each]) - began_s <= answered_s for each in ids)
            assert low - dead <= poll[stage] <= high, (stage, poll)


def _ended_s(moments):
    """When the API began to show an end instead of the stages: a poll may then miss them."""
    return min(moments.get(name, float("inf")) for name in ("interrupted", "shutting-down"))

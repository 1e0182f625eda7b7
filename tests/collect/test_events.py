"""EC2's own events: what they tell is true, they cost no poll, and those of others are not kept."""

import json
import re
import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import ARM, CHAOS, NANO, QUICK, plan_for, read_events, scripted
from crashing import EMPTY, REGIONS, STRANGERS, rows_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_usable import OffClock

from spotlib.__main__ import main
from spotlib.cleanup.unfinished import Unfinished, unfinished
from spotlib.collect.cost import READ_EVERY_S
from spotlib.collect.events import _LATEST_S as LATEST_S
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.connection import Connection
from spotlib.ec2.events import make, read_queue
from spotlib.ec2.patience import Patient
from spotlib.ec2.policy import policy
from spotlib.model import ARMS, plan_launches
from spotlib.record.replay import replay
from spotlib.record.tables import load_batches, load_launches, load_polls
from spotlib.sandbox.company import crowd, move_in
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.world import Delivery, Fate
from spotlib.stamp import SERVERS_S

SURE = Delivery(lost_share=0.0, doubled_share=0.0)
SLOW = Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=40.0)
TRUTH = {  # what the sandbox calls what an event is about
    "pending": "fulfilled",
    "interruption": "interrupted",
    **{name: name for name in ("fulfilled", "running", "shutting-down", "rebalance")},
}
SERVICES = {"sqs", "events"}
QUEUE = "of-mine"
EPOCH = datetime(2024, 9, 1, tzinfo=UTC)


def collected(in_process, world, log, *targets, n=2, timeout_s=60.0, events=True, poll_s=3.0):
    connection = in_process(world)
    checked = plan_for(connection, *targets, n=n, timeout_s=timeout_s, events=events)
    return collect_batch(
        connection, checked, log=log, poll_s=poll_s, seed=1, guard=False, events=events
    )


def notices(log):
    return [each for each in read_events(log)[0] if each["event"] == "notice"]


def event_words(checked):
    return [each for each in checked.cost_words() if each.startswith("EC2's own events")]


def makes_events(log):
    return Unfinished(log, alive=False, record=replay(log)).makes_events


def called(world):
    return {each.action for each in world.calls if each.service in SERVICES}


fates = st.builds(
    Fate,
    evaluate_s=st.floats(0.05, 5.0),
    held_s=st.one_of(st.none(), st.floats(0.0, 20.0)),
    in_flight_s=st.floats(0.0, 8.0),
    boot_s=st.floats(0.5, 30.0),
    ok_s=st.one_of(st.none(), st.floats(1.0, 60.0)),
    interrupted_s=st.one_of(st.none(), st.floats(0.0, 40.0)),
)
deliveries = st.builds(
    Delivery,
    lost_share=st.sampled_from([0.0, 0.3]),
    doubled_share=st.sampled_from([0.0, 0.5]),
    delay_median_s=st.sampled_from([0.05, 0.5, 8.0]),
    foreign_per_hour=st.sampled_from([0.0, 2000.0]),
    missed_share=st.sampled_from([0.0, 0.4]),
    queue_clock_off_s=st.sampled_from([-0.9 * SERVERS_S, 0.0, 0.9 * SERVERS_S]),
)


@settings(
    max_examples=20 if CHAOS else 5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    fates=st.lists(fates, min_size=4, max_size=4),
    events=deliveries,
    asked=st.tuples(st.sampled_from(ARMS), st.integers(0, 2**31)),
    ours=st.tuples(st.floats(-7200.0, 7200.0), st.floats(-4e-4, 4e-4)),
    lost=st.sets(st.integers(1, 12), max_size=5),
)
def test_every_bracket_contains_its_moment(in_process, *, fates, events, asked, ours, lost):
    """Random fates, methods and ways of events, lost reads, and a clock of ours that is off."""
    arm, seed = asked
    world = scripted(*fates, seed=seed, events=events)
    move_in(world, crowd(REGIONS, tags=STRANGERS))
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=2, timeout_s=40.0, methods=[arm], events=True)
    world.faults.append(_failing("ReceiveMessage", lost))
    clock = connection.clock = OffClock(world, ahead_s=ours[0], drift=ours[1])
    began_s = clock.now_s()

    with TemporaryDirectory() as folder:
        log = Path(folder) / "batch.jsonl"
        summary = collect_batch(connection, checked, log=log, seed=seed, events=True)
        launches, found = load_launches(log), notices(log)
        rows = rows_of(world, read_events(log)[0])

    assert summary.cleaned.confirmed
    assert world.leftovers() == EMPTY
    for each in found:
        if each["about"] in TRUTH:
            happened_s = rows[each["request_id"]]["happened_s"][TRUTH[each["about"]]]
            assert each["after_s"] < clock.of(happened_s) - began_s <= each["by_s"], each
    assert {each["instance_id"] for each in found} <= {e["instance_id"] for e in world.truth()}
    last = {}
    for each in found:  # each once, unless the copy that is read later was sent earlier
        what = each["instance_id"], each["about"]
        assert what not in last or each["sent_at"] < last[what]
        last[what] = each["sent_at"]
    for stage in ("fulfilled", "running"):
        told = {each["request_id"] for each in found if each["about"] == stage}
        shown = launches.set_index("request_id")[f"{stage}_event_by_s"]
        assert {name for name, by_s in shown.items() if np.isfinite(by_s)} == told


def _failing(action, numbers):
    """Every so many of these calls fail."""
    made = iter(range(1, 10**9))

    def fault(call, executed):
        if call.action == action and not executed and next(made) in numbers:
            raise ApiError("InternalFailure", "We failed.", 500)

    return fault


def test_with_events_the_bracket_of_running_is_narrower_and_the_polls_own_is_as_it_was(
    in_process, log
):
    collected(in_process, scripted(*[SLOW] * 10, events=SURE), log, n=10)
    launches = load_launches(log)

    def width_s(name):
        return (launches[f"{name}_by_s"] - launches[f"{name}_after_s"]).median()

    assert launches["running_clocks"].isin(["agree", "contradict"]).all()
    assert width_s("running_event") < 2.5 < width_s("running")
    assert width_s("running_both") <= width_s("running_event")


def test_every_event_of_ours_is_recorded_where_none_is_lost(in_process, log):
    """The last of them are read before the queue is deleted."""
    fates = [QUICK, Fate(interrupted_s=10.0, ok_s=None)]
    collected(in_process, scripted(*fates, events=SURE), log)

    abouts = {}
    for each in notices(log):
        abouts.setdefault(each["instance_id"], set()).add(each["about"])
        happened, sent = (datetime.fromisoformat(each[name]) for name in ("event_at", "sent_at"))
        assert timedelta(0) <= sent - happened < timedelta(minutes=1)
    usual = {"pending", "fulfilled", "running", "shutting-down", "terminated"}
    assert sorted(abouts.values(), key=len) == [usual, usual | {"interruption", "rebalance"}]
    launches = load_launches(log)
    assert launches["interruption_by_s"].notna().sum() == 1
    assert launches["rebalance_by_s"].notna().sum() == 1
    assert launches["rebalance_after_s"].max() <= launches["interruption_by_s"].max()


def test_reading_is_no_part_of_a_poll_and_delays_none(in_process, log):
    """Nor is it made within one: calls follow one another in virtual time."""
    delays_s = {}
    for events in (False, True):
        world = scripted(*[SLOW] * 4, events=Delivery(foreign_per_hour=5_000.0))
        path = log.with_stem(f"20240901T000000Z-{events}")
        collected(in_process, world, path, NANO, ARM, events=events)
        polls = [each for each in read_events(path)[0] if each["event"] == "poll"]
        last = [each["asked_s"] - each["due_s"] for each in polls[6:]]
        delays_s[events] = float(np.mean(last))
        took_s = [each["answered_s"] - each["asked_s"] for each in polls]
        assert max(took_s) < 1.0
        assert not [each for each in read_events(path)[0] if each["event"] == "skipped"]
    assert delays_s[True] < delays_s[False] + 0.3


def reads_at_s(world, first_s=0.0, last_s=np.inf):
    """When queues were read, on the world's clock."""
    reads = [each.at_s for each in world.calls if each.action == "ReceiveMessage"]
    return [at_s for at_s in reads if first_s <= at_s <= last_s]


@pytest.mark.parametrize("poll_s", [0.3, 0.5, 20.0])
def test_a_queue_is_read_every_few_seconds_whatever_the_polls_do(in_process, log, poll_s):
    """Where polls leave no time, one read comes between two of them now and then."""
    late = {}
    for events in (False, True):
        world = scripted(*[SLOW] * 2)
        path = log.with_stem(f"20240901T000000Z-{events}")
        collected(in_process, world, path, poll_s=poll_s, events=events)
        polls = [each for each in read_events(path)[0] if each["event"] == "poll"]
        late[events] = float(np.mean([each["asked_s"] - each["due_s"] for each in polls]))
    ends_s = max(each.at_s for each in world.calls if each.action == "DescribeInstanceStatus")
    found_s = reads_at_s(world, last_s=ends_s)

    assert np.diff([0.0, *found_s, ends_s])[1:].max() < READ_EVERY_S + 2 * LATEST_S + 1.0
    assert late[True] < late[False] + 0.04


@pytest.mark.parametrize("kind", ["internal_error", "malformed"])
def test_a_read_that_fails_ends_no_batch_misses_no_poll_and_is_said_once(in_process, log, kind):
    """An answer that was cut off is no empty queue."""
    world = scripted(*[SLOW] * 2, events=SURE)
    world.faults.append(Fault(kind=kind, action="ReceiveMessage"))
    summary = collected(in_process, world, log)

    assert summary.outcomes == {"ready": 2}
    assert summary.cleaned.confirmed
    assert load_polls(log)["error"].isna().all()
    assert not notices(log)
    [warning] = summary.warnings
    reads = len(reads_at_s(world))
    assert warning.startswith(
        "EC2's events may be missing: the queue in sa-east-1 was not read to its end; "
        f"{reads} of {reads} reads failed, the last of them with receive_message in sa-east-1: "
    )
    assert {"internal_error": "InternalError", "malformed": "no JSON"}[kind] in warning
    assert world.leftovers() == EMPTY


def test_reads_that_fail_are_made_again_ever_later_and_what_was_read_then_is_not_called_missing(
    in_process, log
):
    world = scripted(*[SLOW] * 2, events=SURE)
    world.faults.append(Fault(kind="internal_error", action="ReceiveMessage", to_s=40.0))
    summary = collected(in_process, world, log)

    pauses_s = np.diff(reads_at_s(world, last_s=40.0))
    assert len(pauses_s) >= 3
    assert (pauses_s[1:] > 1.5 * pauses_s[:-1]).all()
    assert len(notices(log)) == 10
    assert summary.warnings == ()


def test_what_cannot_be_deleted_from_a_queue_is_recorded_once_all_the_same(in_process, log):
    """It comes again, ten seconds later, and is gone with the queue."""
    world = scripted(*[SLOW] * 2, events=SURE)
    world.faults.append(Fault(kind="internal_error", action="DeleteMessageBatch"))
    summary = collected(in_process, world, log)

    found = [(each["instance_id"], each["about"]) for each in notices(log)]
    assert len(found) == len(set(found)) == 10
    assert summary.warnings == ()


@pytest.mark.parametrize(("numbers", "said"), [(range(1, 10**6), True), ({1, 2}, False)])
def test_what_is_left_in_a_queue_of_the_users_own_is_said_and_not_called_missing(
    in_process, log, numbers, said
):
    world = scripted(QUICK, QUICK, events=SURE)
    connection = in_process(world)
    name = a_queue_of_mine(connection)
    checked = plan_for(connection, n=2, timeout_s=60.0, events=name)
    world.faults.append(_failing("DeleteMessageBatch", numbers))
    summary = collect_batch(connection, checked, log=log, seed=1, guard=False, events=name)

    assert len(notices(log)) == 10
    assert bool(world.region(NANO.region).queues[name].messages) is said
    if said:
        [warning] = summary.warnings
        assert warning.startswith(
            "what was read from queue 'spotlib-x' in sa-east-1 may still be in it: "
            "delete_message_batch in sa-east-1: InternalFailure (We failed.)"
        )
    else:
        assert summary.warnings == ()


def test_what_a_round_could_not_read_is_read_in_a_later_one(in_process, log):
    """Hours later: a queue keeps it."""
    world = scripted(QUICK, QUICK, events=SURE)
    world.faults.append(Fault(kind="internal_error", action="ReceiveMessage", to_s=1000.0))
    connection = in_process(world)
    checked = plan_for(connection, n=1, timeout_s=60.0, events=True)
    summary = collect_batch(
        connection, checked, log=log, seed=1, guard=False, events=True, rounds=2, every_s=20_000.0
    )

    assert summary.warnings == ()
    assert len(notices(log)) == 10


def test_what_others_do_between_rounds_is_read_before_the_next_one_begins(in_process, log):
    """Else a short round would not come to its own events."""
    world = scripted(QUICK, QUICK, events=SURE)
    foreign = [json.dumps(GOOD | {"detail": GOOD["detail"] | {"instance-id": "i-9"}})] * 200
    connection = in_process(world)
    checked = plan_for(connection, n=1, timeout_s=60.0, events=True)
    queue = f"spotlib-{log.stem}"

    def fill(waiting):
        if waiting.words.startswith("waiting for round 2") and foreign:
            for body in foreign:
                world.region(NANO.region).queues[queue].put(body, world.now_s)
            foreign.clear()

    given = {"seed": 1, "guard": False, "events": True, "rounds": 2, "every_s": 900.0}
    collect_batch(connection, checked, log=log, on_wait=fill, **given)

    launched_s = max(each.at_s for each in world.calls if each.action == "RequestSpotInstances")
    before_s = reads_at_s(world, first_s=200.0, last_s=launched_s)
    assert len(before_s) > 20 + 5  # ten of theirs at each, and then every 3 s
    assert launched_s - min(before_s) == pytest.approx(60.0, abs=2.0)


MAKING = ["PutRule", "CreateQueue", "PutTargets"]
ENDING = ["GetQueueUrl", "ListQueueTags", "DescribeRule", "RemoveTargets", "DeleteRule"]
READING = ["ReceiveMessage", "DeleteMessageBatch"]


@pytest.mark.parametrize(
    ("action", "mine"),
    [
        *((each, False) for each in (*MAKING, *READING, *ENDING, "DeleteQueue")),
        *((each, True) for each in ("GetQueueUrl", *READING)),
    ],
)
@pytest.mark.parametrize("once", [True, False][0 if CHAOS else 1 :])
def test_whichever_call_fails_the_batch_ends_and_every_word_of_it_is_true(
    in_process, log, action, mine, once
):
    """It fails always, or one answer is lost."""
    world = scripted(QUICK, events=SURE)
    connection = in_process(world)
    name = a_queue_of_mine(connection) if mine else True
    before = world.leftovers()
    checked = plan_for(connection, n=1, timeout_s=60.0, events=name)
    fault = {"kind": "lose_answer", "nth": 1} if once else {"kind": "internal_error"}
    world.faults.append(Fault(action=action, **fault))
    summary = collect_batch(connection, checked, log=log, seed=1, guard=False, events=name)

    launches = once or action not in (("GetQueueUrl",) if mine else MAKING)
    assert summary.outcomes == ({"ready": 1} if launches else {})
    if launches:
        assert summary.cleaned.confirmed or "it is NOT confirmed" in summary.problems[0]
    else:
        assert summary.problems[0].endswith("nothing was launched")
        assert "spotlib policy" not in summary.problems[0]  # nothing lacks but an answer
    assert world.leftovers() == before or not summary.cleaned.confirmed
    assert not (once and (summary.problems or summary.warnings))
    missing = [each for each in summary.warnings if each.startswith("EC2's events may be missing")]
    assert bool(missing) == (launches and len(notices(log)) < 5)
    other = [each for each in summary.warnings if each not in missing]
    left = world.region(NANO.region).queues[name].messages.values() if mine else ()
    assert bool(other) == any(each.received for each in left)


@pytest.mark.parametrize("action", MAKING)
def test_a_queue_that_cannot_be_made_ends_the_batch_before_anything_is_launched(
    in_process, log, action
):
    service = "sqs" if action == "CreateQueue" else "events"
    world = scripted(denied={f"{service}:{action}"})
    summary = collected(in_process, world, log)

    [problem] = summary.problems
    assert problem.startswith("EC2's events in sa-east-1 cannot be recorded: ")
    assert "spotlib policy --events" in problem
    assert problem.endswith("nothing was launched")
    assert world.truth() == []
    assert world.leftovers() == EMPTY
    assert summary.cleaned.confirmed
    assert load_batches(log)["clean"].all()


class Untaken:
    """A client of EventBridge that takes no target for a while, in calls that succeed."""

    def __init__(self, client, errors):
        self._client, self._errors = client, errors

    def __getattr__(self, name):
        return getattr(self._client, name)

    def put_targets(self, **given):
        reply = self._client.put_targets(**given)
        failed = [{"TargetId": "queue", "ErrorCode": next(self._errors)}] if self._errors else []
        return reply | {"FailedEntryCount": len(failed), "FailedEntries": failed}


@pytest.fixture
def untaken(monkeypatch):
    """Let the targets of a batch not be taken, with these errors one after the other."""
    make_client = Connection._new_client

    def refuse(*errors):
        left = Errors(errors)

        def made(self, service, *rest):
            client = make_client(self, service, *rest)
            return Untaken(client, left) if service == "events" else client

        monkeypatch.setattr(Connection, "_new_client", made)

    return refuse


class Errors(list):
    """Each is told once."""

    def __next__(self):
        return self.pop(0)


def test_a_target_that_is_not_taken_is_a_failure_although_the_call_succeeds(
    in_process, log, untaken
):
    untaken("ManagedRuleException")
    world = scripted()
    summary = collected(in_process, world, log)

    [problem] = summary.problems
    assert "put_targets in sa-east-1: ManagedRuleException" in problem
    assert problem.endswith("nothing was launched")
    assert world.truth() == []


def test_a_target_that_is_not_taken_for_a_reason_that_passes_is_put_again(in_process, log, untaken):
    untaken("ConcurrentModificationException", "ThrottlingException", "InternalException")
    summary = collected(in_process, scripted(QUICK, QUICK), log)

    assert summary.problems == ()
    assert summary.outcomes == {"ready": 2}
    assert notices(log)


def test_an_error_that_passes_does_not_keep_a_queue_from_being_made(in_process, log):
    world = scripted(QUICK, QUICK)
    for action in ("PutRule", "CreateQueue", "PutTargets"):
        world.faults.append(_failing(action, {1, 2}))
    summary = collected(in_process, world, log)

    assert summary.outcomes == {"ready": 2}
    assert notices(log)


def test_the_first_line_says_where_queues_are_made_before_they_are(in_process, log, monkeypatch):
    world = scripted(QUICK, QUICK)
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=1, timeout_s=60.0, events=True)
    call, lines = type(connection).call, []

    def noted(self, region, action, /, **given):
        if action == "put_rule":
            lines.append(json.loads(log.read_text().splitlines()[0])["events"])
        return call(self, region, action, **given)

    monkeypatch.setattr(type(connection), "call", noted)
    collect_batch(connection, checked, log=log, seed=1, guard=False, events=True)

    assert lines == [["ap-northeast-3", "sa-east-1"]] * 2
    assert makes_events(log)


def test_without_the_option_no_queue_and_no_rule_is_ever_asked_for(in_process, log):
    world = scripted(QUICK, QUICK)
    collected(in_process, world, log, events=False)

    assert not called(world)
    assert "notice" not in log.read_text()
    assert "events" not in json.loads(log.read_text().splitlines()[0])
    assert not makes_events(log)


def a_queue_of_mine(connection, region=NANO.region):
    """As a user would make it, by hand: their own rule sends EC2's events to it."""
    url = make(Patient(connection), region, "x", expires_at=connection.clock.utc())
    assert url.endswith("/spotlib-x")
    return "spotlib-x"


def test_of_a_queue_of_the_users_own_only_messages_are_read_and_deleted(in_process, log):
    world = scripted(QUICK, QUICK, events=SURE)
    connection = in_process(world)
    name = a_queue_of_mine(connection)
    before = len(world.calls)
    checked = plan_for(connection, n=2, timeout_s=60.0, events=name)
    collect_batch(connection, checked, log=log, seed=1, guard=False, events=name)

    calls = {e.action for e in world.calls[before:] if e.service in SERVICES}
    assert calls == {"GetQueueUrl", "ReceiveMessage", "DeleteMessageBatch"}
    assert load_launches(log)["running_clocks"].notna().all()
    assert world.leftovers().keys() == {*EMPTY, "queues", "rules"}
    queue = world.region(NANO.region).queues[name]
    assert not queue.messages
    assert not makes_events(log)
    assert json.loads(log.read_text().splitlines()[0])["queue"] == name


@pytest.mark.parametrize(("lost", "said"), [(1.0, True), (0.0, False)])
def test_a_batch_whose_queue_got_no_event_of_its_instances_says_so(in_process, log, lost, said):
    """As a queue of one's own does that no rule feeds."""
    world = scripted(QUICK, QUICK, events=replace(SURE, lost_share=lost))
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=60.0, events=True)

    summary = collect_batch(connection, checked, log=log, seed=1, guard=False, events=True)

    silent = [each for each in summary.warnings if "none was recorded of 2 instances" in each]
    assert bool(silent) is said


def test_a_queue_that_does_not_exist_is_a_problem_before_money_is_spent(in_process):
    checked = preflight(in_process(scripted()), plan_launches([NANO], count=1), events=QUEUE)

    [problem] = checked.problems
    assert problem.startswith(
        "EC2's events from queue 'of-mine' in sa-east-1 cannot be recorded: get_queue_url"
    )
    assert "check the queue's name" in problem


@pytest.mark.parametrize("denied", ["sqs:ListQueues", "events:ListRules"])
def test_a_permission_to_list_that_lacks_is_a_problem_before_money_is_spent(in_process, denied):
    connection = in_process(scripted(denied={denied}))

    [problem] = preflight(connection, plan_launches([NANO], count=1), events=True).problems
    assert "AccessDenied" in problem
    assert "spotlib policy --events" in problem


def test_an_endpoint_without_queues_is_told_of_in_one_sentence(in_process):
    world = scripted()
    connection = in_process(world)
    connection.world, connection.endpoint = None, "http://127.0.0.1:9"  # as a foreign one

    def lacking(call, _):
        if call.service in SERVICES:
            raise ApiError("InvalidAction", f"{call.service} is not here.", 400)

    world.faults.append(lacking)
    checked = preflight(connection, plan_launches([NANO, ARM], count=1), events=True)

    [problem] = checked.problems
    assert problem.endswith("may have no SQS and no events: set events=False")


def test_the_policy_for_events_allows_just_the_calls_that_are_made(in_process, log, capsys):
    world = scripted(QUICK, QUICK, events=SURE)
    collected(in_process, world, log)

    method = ["request_spot_instances"]
    made = {f"{e.service}:{e.action}" for e in world.calls if e.service in SERVICES}
    made = made - {"sqs:DeleteMessageBatch"} | {"sqs:DeleteMessage"}  # as AWS calls it
    made |= {"sqs:TagQueue", "events:TagResource"}  # checked for the tags at birth
    # Nothing is left with a tag at the end, so a sweep's question for it is not made.
    of_a_sweep = {"sqs:ListQueueTags", "events:ListTagsForResource"}
    assert made | of_a_sweep == _actions(policy(method, events=True)) - _actions(policy(method))
    assert _actions(policy(method, events=QUEUE)) - _actions(policy(method)) == {
        "sqs:GetQueueUrl",
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
    }
    for options, events in ((["--events"], True), (["--events", QUEUE], QUEUE)):
        assert main(["policy", *options]) == 0
        assert json.loads(capsys.readouterr().out) == policy(method, events=events)


def _actions(document):
    actions = [each["Action"] for each in document["Statement"]]
    return {name for each in actions for name in ([each] if isinstance(each, str) else each)}


def test_the_cost_of_reading_is_said_and_part_of_the_hard_bound(in_process):
    connection = in_process(scripted())
    plans = plan_launches([NANO, ARM], count=1, timeout_s=600.0)
    without, with_events = (preflight(connection, plans, events=e) for e in (False, True))

    [sentence] = event_words(with_events)
    reads = 2 * (600 // 3 + 1)
    assert f"about {reads} requests to SQS" in sentence
    assert "first million a month is free, then a million costs $0.4000" in sentence
    assert event_words(without) == []
    assert reads * 0.4e-6 < with_events.bound_usd - without.bound_usd < 0.01


@pytest.mark.parametrize("flooded", [False, True])
def test_a_queue_is_asked_about_as_often_as_the_sentence_says_and_never_more_than_at_most(
    in_process, log, flooded
):
    world = scripted(Fate(held_s=None), Fate(held_s=None), events=SURE)
    connection = in_process(world)
    checked = plan_for(connection, NANO, ARM, n=1, timeout_s=60.0, events=True)
    if flooded:
        world.faults.append(refilling(world, NANO.region, ARM.region))
    collect_batch(connection, checked, log=log, seed=1, guard=False, events=True)

    [sentence] = event_words(checked)
    about, most = map(int, re.search(r"about (\d+) .* at most (\d+) ", sentence).groups())
    asked = sum(each.service == "sqs" for each in world.calls)
    assert asked <= most
    assert flooded or 0.5 * about < asked < 2 * about


@pytest.mark.parametrize(
    ("command", "meant", "advice"),
    [
        ("check", "t3.nano", "write it last"),
        ("check", "true", "write it last"),
        ("policy", "run_instances", "write it last"),
        ("policy", "False", "leave it out"),
    ],
)
def test_what_follows_the_option_and_is_no_queue_is_told_of_in_one_sentence(
    command, meant, advice, capsys
):
    assert main([command, "--events", meant]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: --events takes the name of a queue of yours or nothing, got '{meant}', which no "
        f"queue is called: {advice}, with nothing after it ("
    )


@pytest.mark.parametrize("events", ["true", "", "a b", "x" * 81, 1, None, "off", "run_instances"])
def test_what_is_neither_a_switch_nor_a_queues_name_is_refused(in_process, events):
    with pytest.raises(
        ValueError, match=r"events must be True or False .*, or the name of a queue"
    ):
        preflight(in_process(scripted()), plan_launches([NANO], count=1), events=events)


def test_a_batch_and_its_preflight_are_for_the_same_events(in_process, log):
    connection = in_process(scripted())
    checked = plan_for(connection, n=1)

    with pytest.raises(ValueError, match="the preflight was made with events=False"):
        collect_batch(connection, checked, log=log, events=True)
    dotted = log.with_stem("a.b")
    with pytest.raises(ValueError, match="holds no"):
        collect_batch(connection, plan_launches([NANO], count=1), log=dotted, events=True)
    assert not log.exists()
    assert not dotted.exists()


GOOD = {
    "detail-type": "EC2 Instance State-change Notification",
    "time": "2024-09-01T00:00:05Z",
    "detail": {"instance-id": "i-1", "state": "running"},
}
JUNK = [
    "",
    "[1",
    "[" * 100_000,
    "[]",
    "7",
    "{}",
    json.dumps(GOOD | {"time": "soon"}),
    json.dumps(GOOD | {"time": "2024-09-01T00:00:05"}),
    json.dumps(GOOD | {"time": 5}),
    json.dumps(GOOD | {"detail": []}),
    json.dumps(GOOD | {"detail": {"instance-id": "i-1", "state": "asleep"}}),
    json.dumps(GOOD | {"detail": {"instance-id": "i-1", "state": {}}}),
    json.dumps(GOOD | {"detail": {"instance-id": 1, "state": "running"}}),
    json.dumps(GOOD | {"detail-type": "EC2 Fleet Error"}),
    json.dumps(GOOD | {"detail-type": ["EC2 Instance State-change Notification"]}),
]


def test_messages_that_are_no_events_are_deleted_and_end_nothing(in_process):
    """Anybody whom the user lets send to their queue may send anything."""
    world = scripted(events=SURE)
    connection = in_process(world)
    region = NANO.region
    url = make(Patient(connection), region, "x", expires_at=connection.clock.utc())
    queue = world.region(region).queues["spotlib-x"]
    for body in [*JUNK, json.dumps(GOOD)]:
        queue.put(body, world.now_s)

    first = read_queue(connection, region, url)
    second = read_queue(connection, region, url, first.receipts)
    last = read_queue(connection, region, url, second.receipts)

    assert first.notices == ()
    assert [(each.about, each.instance_id) for each in second.notices] == [("running", "i-1")]
    assert len(first.receipts) + len(second.receipts) == len(JUNK) + 1
    assert last.receipts == ()
    assert not queue.messages


def refilling(world, *regions, late_s=60.0):
    """Others launch more than can be read: the queues of these regions are never empty."""

    def refill(call, executed):
        if call.action == "ReceiveMessage" and call.region in regions and not executed:
            for queue in world.region(call.region).queues.values():
                for number in range(20):
                    detail = {"instance-id": f"i-{number}", "state": "running"}
                    queue.put(json.dumps(GOOD | {"detail": detail}), world.now_s - late_s)

    return refill


def test_the_last_read_has_an_end_and_says_whose_queue_was_not_read_to_it(in_process, log):
    """One region's queue takes no time from another's."""
    world = scripted(QUICK, QUICK, events=SURE)
    world.faults.append(refilling(world, ARM.region))  # the first that is read
    summary = collected(in_process, world, log, NANO, ARM, n=1)

    assert summary.cleaned.confirmed
    assert summary.outcomes == {"ready": 2}
    assert world.leftovers() == EMPTY
    assert not re.search(r'"i-\d+"', log.read_text())
    [warning] = summary.warnings
    assert warning == (
        "EC2's events may be missing: the queue in ap-northeast-3 was not read to its end"
    )
    told = {each["plan"]: set() for each in notices(log)}
    for each in notices(log):
        told[each["plan"]].add(each["about"])
    assert "terminated" in told[0]


def test_a_queue_that_others_fill_all_the_time_is_read_to_what_came_since(in_process, log):
    """It is never empty; what was there is read all the same."""
    world = scripted(QUICK, QUICK, events=SURE)
    world.faults.append(refilling(world, NANO.region, late_s=0.0))
    summary = collected(in_process, world, log)

    assert summary.warnings == ()


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_reads_what_has_come_and_a_second_one_says_what_was_not_read(in_process, log, times):
    world = scripted(*[SLOW] * 2, events=SURE)
    connection = in_process(world)
    checked = plan_for(connection, n=2, timeout_s=60.0, events=True)

    def stop(progress):
        if progress.elapsed_s > 20.0:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    summary = collect_batch(
        connection, checked, log=log, seed=1, guard=False, events=True, on_poll=stop
    )

    assert summary.cleaned.confirmed
    assert summary.problems[0].startswith("stopped by Ctrl-C or the stop button (SIGINT)")
    ended = {each["instance_id"] for each in notices(log) if each["about"] == "terminated"}
    assert len(ended) == (2 if times == 1 else 0)
    missing = [each for each in summary.warnings if "events may be missing" in each]
    assert missing == (
        ["EC2's events may be missing: the queue in sa-east-1 was not read to its end"]
        if times == 2
        else []
    )


LATE = Fate(in_flight_s=40.0, boot_s=3.0, ok_s=5.0)  # launched after its request was cancelled


def test_the_events_of_an_instance_that_only_clean_up_found_are_recorded(in_process, log):
    """Its request names it."""
    world = scripted(LATE, events=SURE)
    summary = collected(in_process, world, log, n=1, timeout_s=30.0)

    [launch] = load_launches(log).to_dict("records")
    [truth] = world.truth()
    assert launch["outcome"] == "timed_out"
    assert np.isnan(launch["running_by_s"])
    assert {each["instance_id"] for each in notices(log)} == {truth["instance_id"]}
    assert np.isfinite(launch["fulfilled_event_by_s"])
    assert summary.warnings == ()


def test_the_events_of_an_instance_that_names_no_request_are_said_to_be_missing(in_process, log):
    """That of a fleet is found by its tag, after the last poll."""
    world = scripted(LATE, events=SURE)
    connection = in_process(world)
    checked = plan_for(
        connection, n=1, timeout_s=30.0, methods=["create_fleet_request"], events=True
    )
    summary = collect_batch(connection, checked, log=log, seed=1, guard=False, events=True)

    assert [each["instance_id"] for each in world.truth()] != [None]
    assert load_launches(log)["outcome"].tolist() == ["timed_out"]
    assert not notices(log)
    assert summary.warnings == (
        "EC2's events may be missing: 1 instance named no request that is recorded",
    )


def test_an_instance_that_becomes_known_too_late_in_a_flood_is_said_to_miss_events(
    in_process, log, monkeypatch
):
    """What nobody explains is kept for a while only: no poll names it before its last events."""
    monkeypatch.setattr("spotlib.collect.queues._MOST_KEPT", 1)
    world = scripted(Fate(evaluate_s=0.3, in_flight_s=1.0, boot_s=5.0, ok_s=40.0), events=SURE)
    for action in ("DescribeSpotInstanceRequests", "DescribeInstances"):
        world.faults.append(Fault(kind="internal_error", action=action, from_s=0.7, to_s=20.0))
    summary = collected(in_process, world, log, n=1)

    assert {each["about"] for each in notices(log)} < {*TRUTH, "terminated"}
    assert summary.warnings == ("EC2's events may be missing: 1 instance became known too late",)


def test_a_queue_that_cannot_be_deleted_is_called_so_and_not_a_request(in_process, log):
    world = scripted(QUICK, QUICK)
    world.faults.append(Fault(kind="internal_error", action="DeleteQueue"))
    summary = collected(in_process, world, log)

    assert summary.last_line().startswith(
        "open requests 0, live instances 0, queues or rules of EC2's events 1 (NOT CONFIRMED)"
    )
    [left] = unfinished(log.parent)
    assert f", queue and rule spotlib-{log.stem} not yet deleted in sa-east-1, " in left.line()

"""What a sweep does with one batch, rule by rule, from records and answers that are made up."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_events import ONE, at, batch, intent, outcome, refused, requested, stage, written
from msgspec import UNSET

from spotlib.cleanup import guard, one_batch, sweep
from spotlib.cleanup.close import Cleaned
from spotlib.cleanup.commands import sweep_command
from spotlib.cleanup.one_batch import (
    ALIVE,
    CLEAN,
    CLOSED,
    ELSEWHERE,
    ENDED,
    FAILED,
    QUIET,
    UNBEGUN,
    UNKNOWN,
    UNWRITTEN,
    WOULD,
    YOUNG,
    Job,
    Swept,
    complete_ended,
    sweep_batch,
    why_kept,
)
from spotlib.cleanup.recovery import missing_events
from spotlib.cleanup.search import Search
from spotlib.cleanup.sweep import SweepReport
from spotlib.cleanup.unfinished import CLOSING, Folder, Unfinished, unfinished
from spotlib.ec2.events import EVENTS, name_of
from spotlib.ec2.instances import INSTANCES
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Ours, Survey
from spotlib.ec2.survey import RESOURCES
from spotlib.model import Kind
from spotlib.record.events import OutcomeEvent, RequestedEvent
from spotlib.record.folder import Fault
from spotlib.record.log import EventLog
from spotlib.record.replay import replay
from spotlib.workspace import results_path

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
HERE, THERE = "sa-east-1", "eu-west-1"
IDLE = Survey({}, {}, frozenset())
BUSY = Survey({}, {"i-1": "running"}, frozenset())
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


def ours(name, expires_at=None, batch_id="b", number=0, plan=0):
    return Ours(name, batch_id, number, plan, expires_at)


@pytest.fixture
def there(monkeypatch):
    """Where it is noon.  ``found`` is what a survey shows, ``alive`` whether the log is locked."""
    place = SimpleNamespace(found=IDLE, alive=False, profile=None, url=None, asked=[])
    place.server_utc = lambda: NOON

    def survey(_, region, *, resources, ids):
        place.asked.append((region, resources, {*ids}))
        return place.found

    monkeypatch.setattr(one_batch, "survey", survey)
    monkeypatch.setattr(one_batch, "is_alive", lambda _: place.alive)
    return place


def log_of(account=None, alive=True, is_closing=False, valid_until=None, **given):
    record = {"batch": SimpleNamespace(account=account), "path": Path("b.jsonl")}
    record |= {"alive": alive, "is_closing": is_closing, "valid_until": valid_until}
    return SimpleNamespace(**record | {"request_ids": {}, "alive_instances": {}} | given)


def job_of(there, *listed, log=None, **given):
    return Job(there, "b", log, [(HERE, each) for each in listed], lambda _: [], **given)


# Whether it is left alone.


@pytest.mark.parametrize(
    ("owner", "mine", "kept"),
    [
        ("1", "2", ELSEWHERE.format("1", "2")),
        ("2", "1", ELSEWHERE.format("2", "1")),
        ("1", "1", None),
        (None, "1", None),
        ("1", None, None),
        (None, None, None),
    ],
)
def test_a_batch_of_another_account_is_kept_if_both_accounts_are_known(there, owner, mine, kept):
    assert why_kept(job_of(there, log=log_of(owner), account=mine), named=True) == kept
    there.alive = True
    assert why_kept(job_of(there, log=log_of(owner), account=mine), named=True) == kept or ALIVE


@pytest.mark.parametrize(
    ("locked", "alive", "is_closing", "kept"),
    [
        (False, True, False, None),
        (True, True, False, ALIVE),
        (True, True, True, CLOSING),
        (True, False, False, CLOSING),  # it was locked since its log was read
    ],
)
def test_a_log_that_is_locked_is_its_collectors_or_of_a_sweep(
    there, locked, alive, is_closing, kept
):
    there.alive = locked
    log = log_of(alive=alive, is_closing=is_closing)
    assert why_kept(job_of(there, log=log), named=False) == kept


def test_without_a_log_what_is_locked_lives_and_what_is_named_is_closed(there):
    assert why_kept(job_of(there, is_locked=True), named=True) == ALIVE
    assert why_kept(job_of(there), named=True) is None
    assert why_kept(job_of(there, ours("sir-1")), named=False) == QUIET
    assert there.asked == [(HERE, (), {"sir-1"})]


@pytest.mark.parametrize(
    ("things", "kept"),
    [
        ([ours("sir-1", NOON + SECOND)], YOUNG),
        ([ours("sir-1", NOON)], None),
        ([ours("sir-1", NOON - SECOND)], None),
        ([ours("sir-1")], None),
        ([ours("sir-1", NOON - HOUR), ours("i-2"), ours("sir-2", NOON + HOUR)], YOUNG),
        ([ours("sir-1", NOON - HOUR), ours(name_of("b"), NOON + HOUR)], None),
        ([ours("sir-1"), ours(name_of("b"), NOON + HOUR)], None),
        ([ours(name_of("b"), NOON + HOUR)], YOUNG),
        ([ours(name_of("b"), NOON - HOUR)], None),
    ],
)
def test_without_a_log_it_may_live_elsewhere_until_the_last_that_costs_has_expired(
    there, things, kept
):
    """A queue lives longer than what was launched, and costs nothing."""
    there.found = BUSY
    assert why_kept(job_of(there, *things), named=False) == kept


# What it is.


def test_what_a_job_asks_for_is_what_its_log_and_ec2_name(there):
    log = log_of(request_ids={HERE: ("sir-1",)}, alive_instances={HERE: {"i-1"}}, resources=(1,))
    listed = [(HERE, ours("sir-2")), (THERE, ours("i-3"))]
    job = Job(there, "b", log, listed, lambda _: [])
    alone = Job(there, "b", None, [(HERE, ours(name_of("b")))], lambda _: [])

    assert job.request_ids == {HERE: {"sir-1", "sir-2"}, THERE: {"i-3"}}
    assert job.accounted == {HERE: {"sir-2"}, THERE: {"i-3"}}, "when it expires is not known"
    assert (job.alive, job.resources) == ({HERE: {"i-1"}}, (1,))
    assert (alone.alive, alone.request_ids) == ({}, {HERE: {name_of("b")}})
    usual = [each for each in RESOURCES if not each.special]
    assert [*alone.resources] == [each for each in RESOURCES if each in usual or each is EVENTS]
    assert INSTANCES in usual
    assert EVENTS not in usual


@pytest.mark.parametrize(
    ("age", "young"),
    [
        (-HOUR, {"sir-1", "i-1"}),
        (timedelta(minutes=15) - SECOND, {"sir-1", "i-1"}),
        (timedelta(minutes=15), {"sir-1"}),
        (timedelta(hours=3) - SECOND, {"sir-1"}),
        (timedelta(hours=3), set()),
    ],
)
def test_what_ec2_would_still_list_must_be_seen(there, age, young):
    """It lists an instance for a quarter of an hour at least, and a request for three hours."""
    log = log_of(valid_until=NOON - age, request_ids={HERE: ("sir-1", "i-1"), THERE: ()})
    job = Job(there, "b", log, [(HERE, ours("sir-2"))], lambda _: [])

    assert job.accounted == {HERE: {"sir-2"} | young, THERE: set()}


@pytest.mark.parametrize("valid_until", [NOON + HOUR, NOON - timedelta(days=400), None])
def test_a_queue_that_a_log_names_may_be_there_for_ever(there, valid_until):
    """It does not expire, and it is made before anything is launched."""
    log = log_of(valid_until=valid_until, request_ids={HERE: (name_of("b"),)})

    assert Job(there, "b", log, [], lambda _: []).accounted == {HERE: {name_of("b")}}


@pytest.mark.parametrize(
    ("verdict", "confirmed", "done"),
    [
        *((each, True, True) for each in (CLOSED, CLEAN, UNBEGUN)),
        *((each, False, True) for each in (ALIVE, YOUNG, QUIET)),
        *((each, False, False) for each in (WOULD, FAILED, UNWRITTEN, UNKNOWN, CLOSING, ENDED)),
    ],
)
def test_what_a_verdict_means_for_the_batch_and_for_the_whole_sweep(verdict, confirmed, done):
    one = Swept("b", verdict)

    assert (one.confirmed, one.done, one.forgotten) == (confirmed, done, False)
    report = SweepReport((one,))
    assert report.clean is done
    assert report.confirms("b") is confirmed
    assert report.confirms(None) is done
    assert not report.confirms("a")
    assert not SweepReport((one,), {HERE: "no"}).clean
    assert not SweepReport((one,), {HERE: "no"}).confirms("b")
    assert not report.confirms("c")
    assert not SweepReport((one, Swept("c", FAILED))).confirms("b")
    assert SweepReport(()).lines() == ["nothing of ours is there"]


def test_the_report_names_what_is_left_only_of_what_is_not_done():
    cleaned = Cleaned(False, errors={HERE: "no answer"}, forgotten=True)
    parts = [Swept("a", FAILED, cleaned, ("aws x",)), Swept("b", CLOSED, cleaned, ("aws y",))]
    report = SweepReport((*parts, Swept("c", WOULD)), {THERE: "no"}, ("a note",))

    assert report.lines() == [
        *(f"a: {FAILED}", f"b: {CLOSED}", f"c: {WOULD}"),
        *(f"  {HERE}: no answer", "  aws x", "a note", f"{THERE}: not searched: no"),
    ]
    assert parts[0].forgotten
    assert not Swept("a", FAILED, Cleaned(False)).forgotten


# What is done.


def closing_with(*, confirmed):
    """Something that closes, and what it was asked."""
    asked = []

    def closing(_, **given):
        asked.append(given)
        given["note"](SimpleNamespace())
        return Cleaned(confirmed, {HERE: [] if confirmed else ["sir-1"]}, {}, {})

    return closing, asked


@pytest.mark.parametrize(
    ("found", "confirmed", "verdict"),
    [(IDLE, True, CLEAN), (BUSY, True, CLOSED), (IDLE, False, FAILED), (BUSY, False, FAILED)],
)
def test_a_batch_without_a_log_is_closed_if_anything_of_it_is_there(
    there, found, confirmed, verdict
):
    there.found = found
    closing, asked = closing_with(confirmed=confirmed)
    swept = sweep_batch(job_of(there, ours("sir-1")), named=True, dry_run=False, closing=closing)

    assert swept.verdict == verdict
    assert [(each["batch_id"], each["request_ids"]) for each in asked] == [("b", {HERE: {"sir-1"}})]
    assert any("sir-1" in each for each in swept.commands) is not confirmed


def test_nothing_is_done_to_what_is_kept_nor_in_a_dry_run(there):
    closing, asked = closing_with(confirmed=True)
    for dry_run in (True, False):
        kept = job_of(there, is_locked=True)
        assert sweep_batch(kept, named=True, dry_run=dry_run, closing=closing).verdict == ALIVE
    would = sweep_batch(job_of(there), named=True, dry_run=True, closing=closing)

    assert (would.verdict, asked) == (WOULD, [])


@pytest.mark.parametrize(
    ("error", "confirmed", "verdict"),
    [
        (BlockingIOError(), True, CLOSING),
        (OSError("read-only"), True, UNWRITTEN.format("read-only")),
        (OSError("read-only"), False, FAILED),
    ],
)
def test_what_is_left_is_ended_whether_its_log_can_be_written_or_not(
    there, monkeypatch, error, confirmed, verdict
):
    def resume(_):
        raise error

    monkeypatch.setattr(EventLog, "resume", resume)
    closing, asked = closing_with(confirmed=confirmed)
    job = job_of(there, log=log_of(resources=()))
    swept = sweep_batch(job, named=False, dry_run=False, closing=closing)

    assert swept.verdict == verdict
    assert bool(asked) is (verdict != CLOSING)


def completed(there, tmp_path, *events, now=(), failing=None, confirmed=True):
    """Close the batch of a log with these events; the log, and what was said of the batch."""
    path = written(tmp_path, *events)

    def list_now(region):
        if failing:
            raise Refusal("No", "no", kind=failing, advice="", action="x", region=region)
        return [each for each in now if region == HERE]

    there.clock = SimpleNamespace(utc=lambda: NOON)
    left = Unfinished(path, False, replay(path))
    job = Job(there, "b", left, [(HERE, ours("sir-1"))], list_now)
    closing = closing_with(confirmed=confirmed)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_batch._LogCompleter, "note", noted(one_batch._LogCompleter.note))
        return replay(path.parent / path.name), sweep_batch(
            job, named=False, dry_run=False, closing=closing
        )


def noted(note):
    """A pass that is made up is no event to write down."""
    return lambda self, event: None if isinstance(event, SimpleNamespace) else note(self, event)


@pytest.mark.parametrize("confirmed", [True, False])
def test_a_batch_with_a_log_is_completed_with_what_is_listed_in_the_end(there, tmp_path, confirmed):
    """Of a lost answer EC2 may list more later than the sweep began; of other batches never."""
    others = [ours("sir-3", batch_id="c"), ours("sir-4", batch_id="a")]
    late = [ours("sir-1"), ours("sir-2"), *others]
    _, swept = completed(there, tmp_path, intent(n=3), now=late, confirmed=confirmed)

    found = replay(tmp_path / "b.jsonl")
    assert swept.verdict == (CLOSED if confirmed else FAILED)
    assert [*found.requests] == ["sir-1", "sir-2"][: 2 if confirmed else 1]
    assert {each.outcome.outcome for each in found.requests.values()} == {"abandoned"}
    assert (found.clean.confirmed, found.clean.at) == (confirmed, NOON)
    assert found.clean.spent_at_most_usd == 2.0  # one round had begun


def test_without_a_lost_answer_nothing_is_listed_again(there, tmp_path):
    events = [*ONE, intent(0, 1), refused(plan=1), outcome(), outcome(request_id="sir-2")]
    _, swept = completed(there, tmp_path, *events, failing=Kind.SERVER)

    assert swept.verdict == CLOSED
    assert replay(tmp_path / "b.jsonl").clean.confirmed


def test_what_cannot_be_listed_in_the_end_leaves_the_log_to_the_next_sweep(there, tmp_path):
    _, swept = completed(there, tmp_path, intent(), failing=Kind.SERVER)

    assert swept.verdict.startswith("closed, but its log could not be completed")
    assert replay(tmp_path / "b.jsonl").clean is None


# What a dead writer did not write.


def missing(tmp_path, *events, listed=()):
    return list(missing_events(replay(written(tmp_path, *events)), listed))


def test_rows_of_a_lost_answer_are_known_by_their_tags(tmp_path):
    runs = [intent(n=3), intent(0, 1), requested("sir-8", plan=1), intent(1, 0), refused(number=1)]
    there = [
        *(ours("sir-3", plan=1), ours("sir-1"), ours("i-9"), ours("sir-2")),
        *(ours("sir-4", number=1), ours("sir-5", plan=7), ours("sir-6", number=None, plan=None)),
    ]
    answer, *outcomes = missing(tmp_path, *runs, listed=there)

    assert isinstance(answer, RequestedEvent)
    assert (answer.round, answer.plan, answer.request_ids) == (0, 0, ("sir-1", "sir-2"))
    assert (answer.asked_s, answer.answered_s, answer.at) == (10.0, None, at(10))
    assert answer.recovered
    assert (answer.lacking.count, answer.lacking.kind) == (1, Kind.UNKNOWN)
    assert [each.request_id for each in outcomes] == ["sir-8", "sir-1", "sir-2"]
    for each in outcomes:
        assert isinstance(each, OutcomeEvent)
        assert each.recovered
        assert (each.outcome, each.watched_s, each.status_code) == ("abandoned", 10.0, None)


@pytest.mark.parametrize(("n", "lacking"), [(1, False), (2, False), (3, True)])
def test_what_did_not_come_with_a_lost_answer_is_counted(tmp_path, n, lacking):
    answer, *_ = missing(tmp_path, intent(n=n), listed=[ours("sir-1"), ours("sir-2")])

    assert (answer.lacking is UNSET) is not lacking


def test_a_recovered_outcome_is_what_was_last_seen(tmp_path):
    shown = [
        stage("fulfilled", 11, 12, status_code="one", instance_id=None),
        stage("running", 12, 13, status_code="two"),
        stage("ready", 13, 14, status_code="three"),
        stage("fulfilled", 11, 12, request_id="sir-2", status_code="four", instance_id="i-2"),
    ]
    outcomes = missing(tmp_path, *ONE, *shown)

    assert [(each.outcome, each.status_code, each.instance_id) for each in outcomes] == [
        ("ready", "three", "i-1"),
        ("abandoned", "four", "i-2"),
    ]
    assert missing(tmp_path / "ended", *ONE, outcome(), outcome(request_id="sir-2")) == []


def test_rows_of_a_method_that_is_not_known_here_are_left_to_a_newer_release(tmp_path):
    newer, here = intent(method="of_tomorrow"), intent(0, 1)
    found = missing(tmp_path, newer, here, listed=[ours("sir-1"), ours("sir-2", plan=1)])
    assert found[0].request_ids == ("sir-2",)
    assert [each.request_id for each in found[1:]] == ["sir-2"]
    instances = intent(method="run_instances")
    known = missing(tmp_path / "known", instances, listed=[ours("sir-1"), ours("i-1")])
    assert known[0].request_ids == ("i-1",)


# Where it is.


AWS, SANDBOX = {"endpoint": "aws"}, {"endpoint": "sandbox", "simulated": True, "world": "w-1"}
FOREIGN = {"endpoint": "http://127.0.0.1:9/"}


@pytest.mark.parametrize(
    ("ran", "leads", "same"),
    [
        (AWS, AWS, True),
        (AWS, SANDBOX, False),
        (SANDBOX, AWS, False),
        (SANDBOX, SANDBOX, True),
        (SANDBOX, SANDBOX | {"world": "w-2"}, False),
        (FOREIGN, FOREIGN, True),
        (FOREIGN, {"endpoint": "http://127.0.0.1:9"}, True),
        (FOREIGN, {"endpoint": "http://127.0.0.1:8"}, False),
        (FOREIGN, {"endpoint": "http://127.0.0.1:99"}, False),
        (FOREIGN, AWS, False),
        (AWS, FOREIGN, False),
        (AWS | {"endpoint": "sandbox"}, AWS, False),  # of no place that there is
        ({"endpoint": "https://ec2.eu-west-1.amazonaws.com"}, AWS, True),
    ],
)
def test_a_sweep_closes_the_batches_of_the_place_that_it_leads_to(ran, leads, same):
    leads = {"simulated": False, "world": None, "foreign": leads is not SANDBOX} | leads
    leads["foreign"] = leads["endpoint"].startswith("http://")

    assert sweep._same_place(batch(**ran), SimpleNamespace(**leads)) is same


@pytest.mark.parametrize("folder", ["launches", "a", "z"])
@pytest.mark.parametrize("endpoint", ["aws", "sandbox", "the-sandbox"])
def test_the_printed_command_leaves_out_what_it_would_mean_anyway(tmp_path, folder, endpoint):
    log = tmp_path / "mine" / folder / "b.jsonl"
    results = log.parents[1] if folder == "launches" else log.parent
    usual = sweep_command("b", log=log, endpoint=endpoint, profile=None)

    assert usual.endswith(
        f" --batch b --results {results}" + f" --endpoint {endpoint}" * (endpoint != "sandbox")
    )
    here = results_path() / "launches" / "b.jsonl"
    assert "--results" not in sweep_command("b", log=here, endpoint="aws", profile=None)
    for name in ("0", "~"):  # before and after it by name
        other = results_path() / name / "b.jsonl"
        assert "--results" in sweep_command("b", log=other, endpoint="aws", profile=None)
        beside = results_path().with_name(name) / "launches" / "b.jsonl"
        assert "--results" in sweep_command("b", log=beside, endpoint="aws", profile=None)


@pytest.mark.parametrize(
    ("fault", "unbegun", "locked"),
    [
        *[("b", (), True), ("c", (), False), ("a", (), False)],
        *[(None, ("b",), True), (None, ("c",), False), (None, ("a",), False)],
    ],
)
def test_a_batch_whose_log_cannot_be_read_lives_if_that_log_is_locked(
    monkeypatch, fault, unbegun, locked
):
    monkeypatch.setattr(sweep, "is_alive", lambda path: path.stem in "abc")
    faults = [Fault(Path("gone.jsonl"), "b", "x")] + [Fault(Path("b.jsonl"), fault, "x")] * bool(
        fault
    )
    here = Folder(faults=faults, unbegun=[Path(f"{each}.jsonl") for each in unbegun])

    assert sweep._is_locked(here, "b") is locked


def test_a_log_that_cannot_be_opened_is_locked_by_nobody(tmp_path):
    here = Folder(faults=[Fault(tmp_path / "gone.jsonl", "b", "x")])

    assert not sweep._is_locked(here, "b")


def test_every_region_is_asked_for_also_those_that_are_not_enabled():
    """So that each answer says whether it is."""
    asked = []

    def call(region, action, /, **given):
        asked.append((region, action, given))
        return {"Regions": [], "Account": 1}

    session = SimpleNamespace(region_name=None)
    there = SimpleNamespace(call=call, session=session, simulated=False, foreign=False, memory=None)
    there.clock = SimpleNamespace(inline=True, now_s=lambda: 0.0)
    search = Search(there, {}, regions=None, batch_id=None)

    assert search._enabled_regions() == set()
    assert asked == [("us-east-1", "describe_regions", {"AllRegions": True})]


# The guard.


def test_the_guard_is_a_program_that_must_be_told_where_its_batch_is():
    command = [sys.executable, "-P", "-m", "spotlib.cleanup.guard", "b.jsonl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)

    assert done.returncode == 2
    assert "--endpoint" in done.stderr


@pytest.fixture
def leads_to_a_sweep(monkeypatch):
    """A try of a guard: what its sweep is asked, and what comes of it."""
    asked, there = [], SimpleNamespace(simulated=False, session=SimpleNamespace(region_name=None))
    state = SimpleNamespace(swept=SweepReport(()), left=[], there=there, asked=asked)

    def sweep_all(_, **given):
        asked.append(given["regions"])
        return state.swept

    def left_of(path):
        return state.left if asked else unfinished(path)

    monkeypatch.setattr("spotlib.cleanup.unfinished.unfinished", left_of)
    monkeypatch.setattr("spotlib.ec2.endpoints.connect", lambda *_, **__: there)
    monkeypatch.setattr("spotlib.cleanup.sweep.sweep", sweep_all)
    state.run = lambda path: guard._close(
        SimpleNamespace(log=path, endpoint="aws", profile=None), guard.NO_KEYS
    )
    return state


@pytest.mark.parametrize(
    ("events", "region_name", "regions"),
    [
        ([], None, ("us-east-1",)),
        ([], "eu-west-1", ("eu-west-1",)),
        ([intent()], "eu-west-1", (HERE,)),
    ],
)
def test_a_guard_searches_where_its_log_says_or_else_nearby(
    leads_to_a_sweep, tmp_path, events, region_name, regions
):
    """Nothing was requested yet where the log names no region."""
    leads_to_a_sweep.there.session.region_name = region_name

    assert leads_to_a_sweep.run(written(tmp_path, *events))
    assert leads_to_a_sweep.asked == [regions]


def test_a_guard_searches_everywhere_if_nothing_whole_is_in_its_log(leads_to_a_sweep, tmp_path):
    (tmp_path / "b.jsonl").touch()

    assert leads_to_a_sweep.run(tmp_path / "b.jsonl")
    assert leads_to_a_sweep.asked == [None]


@pytest.mark.parametrize(
    ("swept", "left", "done"),
    [
        (Swept("b", CLOSED), [], True),
        (Swept("b", CLOSED), ["b"], False),  # another sweep is at it, and may fail
        (Swept("b", FAILED), [], False),
        (Swept("b", FAILED), ["b"], False),
        (Swept("b", FAILED, Cleaned(False, forgotten=True)), ["b"], True),  # it would find the same
    ],
)
def test_a_guard_is_done_once_its_log_confirms_it(leads_to_a_sweep, tmp_path, swept, left, done):
    leads_to_a_sweep.left, leads_to_a_sweep.swept = left, SweepReport((swept,))

    assert leads_to_a_sweep.run(written(tmp_path, intent())) is done


def test_of_a_sandbox_that_has_ended_the_log_is_completed_as_clean(tmp_path):
    path = written(tmp_path, *ONE, stage("ready", 11, 12))
    complete_ended(Unfinished(path, False, replay(path)))

    found = replay(path)
    assert [each.outcome.outcome for each in found.requests.values()] == ["ready", "abandoned"]
    assert found.clean.confirmed
    assert found.clean.spent_at_most_usd == 2.0


# The whole sweep.


class Found:
    """A search that finds these things, one list at each look."""

    def __init__(self, *looks, logs=(), unlisted=(), errors=()):
        self.looks, self.errors, self.batch_id = [*looks], [*errors], None
        self.logs, self.unlisted = {each.batch_id: each for each in logs}, dict(unlisted)
        self.connection, self.find = None, None

    def account(self):
        return "1"

    def everywhere(self):
        return self.looks.pop(0), self.errors.pop(0) if self.errors else {}


@pytest.fixture
def sweeping(monkeypatch):
    """Sweep with a search that finds these things, where closing one batch takes some time."""

    def run(here, search, *, lasts_s=0.0, **given):
        seen = SimpleNamespace(slept_s=[], named=[], ended=[], now_s=100.0)
        clock = SimpleNamespace(now_s=lambda: seen.now_s, sleep=seen.slept_s.append, inline=True)
        memory = SimpleNamespace(named={}, cancelled=set())
        there = SimpleNamespace(clock=clock, memory=memory, simulated=False, foreign=False)
        there.endpoint, search.connection, seen.memory = "aws", there, memory

        def made(_, logs, *, batch_id, **_more):
            search.logs, search.batch_id = search.logs or logs, batch_id
            return search

        def sweep_one(job, *, named, dry_run, closing):
            assert closing.keywords["settle_s"] == 30.0
            seen.named.append((job.batch_id, named, dry_run, [e.thing_id for _, e in job.listed]))
            seen.now_s += lasts_s
            return Swept(job.batch_id, CLOSED)

        monkeypatch.setattr(sweep, "Search", made)
        monkeypatch.setattr(sweep, "read_folder", lambda *_, **__: here)
        monkeypatch.setattr(sweep, "sweep_batch", sweep_one)
        monkeypatch.setattr(sweep, "_end_known", lambda jobs: seen.ended.append(list(jobs)))
        seen.report = sweep.sweep(there, folder="x", **given)
        return seen

    return run


A, B, LATE = (HERE, ours("sir-1", batch_id="a")), (HERE, ours("sir-2")), (THERE, ours("sir-3"))


def test_each_batch_is_closed_with_what_is_listed_of_it(sweeping):
    done = sweeping(Folder(), Found([B, A, LATE]))

    assert done.named == [("a", False, False, ["sir-1"]), ("b", False, False, ["sir-2", "sir-3"])]
    assert done.slept_s == [], "no batch was named"
    assert [each.batch_id for each in done.report.batches] == ["a", "b"]


@pytest.mark.parametrize(("lasts_s", "sleeps_s"), [(0.0, 30.0), (12.0, 18.0), (31.0, 0.0)])
def test_a_named_batch_without_a_log_is_looked_for_again_after_the_settle_time(
    sweeping, lasts_s, sleeps_s
):
    """From the end of the first search on; what comes late is closed with the rest."""
    errors = [{HERE: "first", THERE: "once"}, {HERE: "second", "us-east-1": "new"}]
    search = Found([B], [B, LATE], errors=errors)
    done = sweeping(Folder(), search, lasts_s=lasts_s, batch_id="b")

    assert done.slept_s == [sleeps_s]
    assert done.named == [("b", True, False, ["sir-2"]), ("b", True, False, ["sir-2", "sir-3"])]
    assert done.report.errors == {HERE: "first", "us-east-1": "new"}
    same = sweeping(Folder(), Found([B], [B]), batch_id="b")
    assert len(same.named) == 1


@pytest.mark.parametrize(
    ("dry_run", "clean", "known", "again"),
    [
        (False, False, False, True),
        (True, False, False, False),
        (False, True, False, False),
        (False, False, True, False),
    ],
)
def test_there_is_no_second_look_where_a_log_says_what_there_is(
    sweeping, dry_run, clean, known, again
):
    left = log_of(batch_id="b", batch=batch(), regions=(HERE,), named_instances={"i-1": "sir-1"})
    left.cancelled = frozenset({"sir-4"})
    here = Folder(unfinished=[left] * known, clean={"b"} if clean else set())
    done = sweeping(here, Found([B], [B]), batch_id="b", dry_run=dry_run)

    assert bool(done.slept_s) is again
    assert len(done.ended) == (not dry_run), "what a log names is ended before the search"
    assert [job.batch_id for jobs in done.ended for job in jobs] == ["b"] * known
    assert done.memory.named == ({"i-1": "sir-1"} if known else {})
    assert done.memory.cancelled == ({"sir-4"} if known else set())


@pytest.mark.parametrize(
    ("here", "verdict"),
    [
        (Folder(clean={"b"}), CLEAN),
        (Folder(unbegun=[Path("b.jsonl")]), UNBEGUN),
        (Folder(), UNKNOWN),
        (Folder(faults=[Fault(Path("x.jsonl"), "x", "no")]), sweep.UNREAD),
    ],
)
def test_of_a_named_batch_that_is_nowhere_the_logs_tell_what_they_can(sweeping, here, verdict):
    done = sweeping(here, Found([], []), batch_id="b")

    assert [each.verdict for each in done.report.batches] == [verdict]
    assert sweeping(here, Found([])).report.batches == ()


def test_a_region_of_no_request_is_a_note_and_one_of_the_batch_an_error():
    errors = {HERE: "denied", THERE: "refused"}
    own = SimpleNamespace(batch_id="b", regions=(HERE,))
    fault = Fault(Path("x.jsonl"), "x", "unreadable")

    def report(search, here, batch_id):
        search.batch_id = batch_id
        return sweep._report(search, here, (), dict(errors))

    logged = report(Found(logs=[own]), Folder(faults=[fault]), "b")
    assert logged.errors == {HERE: "denied", "x": "unreadable"}
    assert logged.notes == (sweep.NOT_ITS.format(THERE, "refused"),)
    clean = report(Found(), Folder(clean={"b"}, notes=["a copy"]), "b")
    assert (clean.errors, clean.notes[0], len(clean.notes)) == ({}, "a copy", 3)
    for every in (report(Found(logs=[own]), Folder(), None), report(Found(), Folder(), "b")):
        assert (every.errors, every.notes) == (errors, ())


@pytest.mark.parametrize(
    ("kind", "passes"), [(Kind.THROTTLED, True), (Kind.SERVER, True), (Kind.PERMISSION, False)]
)
def test_queues_that_could_not_be_listed_are_a_note_and_an_error_only_if_that_passes(kind, passes):
    refusal = Refusal("No", "not so", kind=kind, advice="", action="x", region=HERE)
    found = sweep._report(Found(unlisted={HERE: refusal, THERE: refusal}), Folder(), (), {})

    assert list(found.errors) == [HERE, THERE] * passes
    assert found.notes == (sweep.NO_EVENTS.format("No"),)


def test_what_dead_batches_name_is_ended_before_anything_is_searched(monkeypatch, tmp_path):
    """Whatever is kept or has no log is left out, and so is a log that cannot be locked."""
    ended = []
    monkeypatch.setattr(
        sweep, "release_all", lambda _, left, **given: ended.append((left, given["batch_id"]))
    )
    jobs = [Job(None, "lost", None, [], None)]
    for name, account in (("kept", "2"), ("gone", "1"), ("dead", "1")):
        path = written(tmp_path, first=batch(batch_id=name))
        known = {"request_ids": {HERE: ("sir-1",)}, "alive_instances": {HERE: {"i-1"}}}
        log = log_of(account, path=path, resources=(), **known)
        jobs.append(Job(None, name, log, [], None, "1"))
    jobs[2].log.path = tmp_path / "gone"
    monkeypatch.setattr(sweep, "why_kept", lambda job, **_: "x" if job.batch_id == "kept" else None)

    sweep._end_known(jobs)
    [(left, name)] = ended
    assert name == "dead"
    assert (left[HERE].open_requests, left[HERE].live_instances) == (["sir-1"], ["i-1"])

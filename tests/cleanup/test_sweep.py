"""A sweep closes dead batches; it leaves alone what is alive, young or not ours."""

import itertools
import json
from argparse import Namespace
from functools import partial

import pytest
from conftest import ARM, NANO, plan_for, read_events, scripted
from crashing import (
    EMPTY,
    NAME,
    REGIONS,
    STRANGERS,
    Point,
    full_after,
    points_of,
    require_recovered,
    swept,
)

from spotlib.cleanup import guard
from spotlib.cleanup.close import SETTLE_S
from spotlib.cleanup.one_batch import UNKNOWN
from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import CLOSING, dead_lines, unfinished, unreadable
from spotlib.collect.report import ending
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.clock import VirtualClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.credentials import sandbox_session
from spotlib.model import Target
from spotlib.record.log import EventLog, is_alive
from spotlib.record.replay import replay
from spotlib.record.tables import load_batches, load_launches
from spotlib.sandbox.faults import Fault
from spotlib.sandbox.protocol import ApiError
from spotlib.sandbox.reads import Reads
from spotlib.sandbox.wire import attach

MUTATING = {"CancelSpotInstanceRequests", "TerminateInstances", "CreateTags"}


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return points_of(tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def died(points) -> Point:
    """A batch that died while some of its instances ran and others were not yet launched."""
    return next(each for each in points if each.name == "after the line of tagged")


def mutating(world, since=0):
    return [each for each in world.calls[since:] if each.action in MUTATING]


def test_a_second_sweep_finds_nothing_to_do_and_changes_nothing(died, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    swept(world, log)
    text, calls = log.read_bytes(), len(world.calls)

    report = swept(world, log)

    assert report.clean
    assert log.read_bytes() == text
    assert not mutating(world, calls)


def test_a_dry_run_reports_what_it_would_do_and_changes_nothing(died, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    calls, text = len(world.calls), log.read_bytes()

    report = swept(world, log, dry_run=True)

    assert [each.verdict for each in report.batches if each.batch_id == log.stem] == [
        "to be closed"
    ]
    assert not report.clean
    assert not mutating(world, calls)
    assert log.read_bytes() == text


def orphans(connection, count, *, region=NANO.region, expires="2024-09-01T00:00:00+00:00"):
    """Launch ``count`` batches of one request each, without a log."""
    [each] = plan_for(connection, Target("t3.nano", region), n=1).prepared
    for number in range(count):
        tags = {"spotlib:batch": f"lost-{number:03d}", "spotlib:expires": expires}
        connection.call(
            region,
            "request_spot_instances",
            InstanceCount=1,
            LaunchSpecification={"ImageId": each.image, "InstanceType": "t3.nano"},
            TagSpecifications=[
                {
                    "ResourceType": "spot-instances-request",
                    "Tags": [
                        {"Key": key, "Value": value}
                        for key, value in tags.items()
                        if value is not None
                    ],
                }
            ],
        )


@pytest.mark.parametrize("count", [1, 30])
def test_orphans_that_have_expired_are_closed_without_any_log(in_process, tmp_path, count):
    world = scripted()
    connection = in_process(world)
    orphans(connection, count)
    world.advance(20)

    report = sweep(connection, folder=tmp_path, regions=[NANO.region], settle_s=5.0)

    assert [each.verdict for each in report.batches] == ["closed"] * count
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("expires", ["2030-11-30 (Bob)", "2030-01-01", "never", "", None])
def test_an_edited_expiry_tag_stops_no_sweep(in_process, tmp_path, expires):
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1, expires=expires)
    world.advance(20)

    report = sweep(connection, folder=tmp_path, regions=[NANO.region], settle_s=5.0)

    assert [each.verdict for each in report.batches] == ["closed"]
    assert world.leftovers() == EMPTY


def test_one_that_may_live_elsewhere_is_kept_until_it_has_expired_or_is_named(in_process, tmp_path):
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1, expires="2024-09-01T02:00:00+00:00")
    world.advance(20)

    kept = sweep(connection, folder=tmp_path, regions=[NANO.region])
    alive = world.leftovers()
    named = sweep(connection, folder=tmp_path, regions=[NANO.region], batch_id="lost-000")

    assert "may be running elsewhere" in kept.batches[0].verdict
    assert len(alive["instances"]) == 1
    assert named.batches[0].verdict == "closed"
    assert world.leftovers() == EMPTY


LATER = "2024-09-01T02:00:00+00:00"


@pytest.mark.parametrize(
    "listed",  # of its first round
    [
        [],
        [{"expires": LATER}],
        [{"expires": "2024-09-01T00:00:00+00:00"}],
        [{"expires": LATER, "region": ARM.region}],
    ],
    ids=["nothing", "has ended", "has expired", "another region"],
)
def test_a_named_one_waits_for_what_was_launched_a_moment_ago_and_is_not_listed_yet(
    in_process, tmp_path, listed
):
    """Its log is lost, and its last round is in flight, whatever is listed of it already."""
    world = scripted()
    connection = in_process(world)
    named = partial(sweep, connection, folder=tmp_path, regions=REGIONS, batch_id="lost-000")
    for each in listed:
        orphans(connection, 1, **each)
        named()
    world.reads = Reads(unknown_s=20.0)
    orphans(connection, 1, expires=LATER)
    left = world.leftovers()

    closed, again = named(), named()

    assert left != EMPTY
    assert world.leftovers() == EMPTY
    assert [closed.confirms("lost-000"), again.confirms("lost-000")] == [True, True]
    assert again.batches[0].verdict == "nothing is left of it"


def test_a_name_that_nothing_is_known_of_is_never_clean_and_looked_for_until_it_would_be_listed(
    in_process, tmp_path
):
    world = scripted()
    connection = in_process(world)
    search = partial(sweep, connection, folder=tmp_path, regions=[NANO.region], batch_id="typo")

    began_s = world.now_s
    dry = search(dry_run=True)
    dry_s = world.now_s
    unknown = search()

    assert dry_s - began_s < SETTLE_S <= world.now_s - dry_s
    for report in (dry, unknown):
        assert report.lines() == [f"typo: {UNKNOWN}"]
        assert not report.clean
        assert not report.confirms("typo")


@pytest.mark.parametrize("expires", ["2024-09-01T00:00:00+00:00", LATER], ids=["past", "young"])
def test_of_one_that_may_go_on_elsewhere_a_sweep_says_only_that_nothing_is_there_now(
    in_process, tmp_path, expires
):
    """Between two rounds nothing of it is left, and its log is on another machine."""
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1, expires=expires)
    sweep(connection, folder=tmp_path, regions=[NANO.region], batch_id="lost-000")
    calls = len(world.calls)

    every = sweep(connection, folder=tmp_path, regions=[NANO.region])

    assert every.lines() == [
        "lost-000: nothing of it is open or alive now; it is not recorded here, so it may go on "
        "elsewhere"
    ]
    assert every.clean
    assert not every.confirms("lost-000")
    assert not mutating(world, calls)


@pytest.mark.parametrize("text", ["", '{"event":"batch","schema"'])
def test_a_log_without_a_whole_line_says_that_nothing_was_launched(in_process, tmp_path, text):
    """It is written before anything is launched.  Its writer may be about to."""
    world, log = scripted(), tmp_path / NAME
    search = partial(sweep, in_process(world), regions=[NANO.region], batch_id=log.stem)
    writer = EventLog(log)
    log.write_text(text)
    alive = search(folder=tmp_path)
    writer.close()
    dead = search(folder=tmp_path)

    assert alive.lines() == [f"{log.stem}: kept: its collection is running here"]
    assert dead.lines() == [f"{log.stem}: nothing was launched: its log ends before that"]
    assert [alive.confirms(log.stem), dead.confirms(log.stem)] == [False, True]


def test_a_log_that_was_emptied_hides_neither_what_is_left_nor_that_its_writer_lives(
    died, tmp_path
):
    world, log = died.revived(tmp_path / "logs")
    log.unlink()
    writer = EventLog(log)
    calls = len(world.calls)
    alive = swept(world, log, batch_id=log.stem)
    kept = not mutating(world, calls)
    writer.close()

    dead = swept(world, log, batch_id=log.stem)

    assert [each.verdict for each in alive.batches] == ["kept: its collection is running here"]
    assert kept
    assert [each.verdict for each in dead.batches] == ["closed"]
    assert world.leftovers() == EMPTY


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_sweep_that_ends_as_it_begins_to_write_holds_no_lock_while_its_kernel_lives(
    died, tmp_path, monkeypatch, error
):
    world, log = died.revived(tmp_path / "logs")

    def ending(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "_write", ending)
        with pytest.raises(error):
            swept(world, log, batch_id=log.stem)

    assert not is_alive(log)
    assert swept(world, log, batch_id=log.stem).confirms(log.stem)
    assert world.leftovers() == EMPTY


def test_a_live_batch_is_kept(died, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    log.unlink()
    writer = EventLog(log)
    log.write_bytes(died.log)
    calls = len(world.calls)

    report = swept(world, log)

    assert report.batches[-1].verdict == "kept: its collection is running here"
    assert world.leftovers() != EMPTY
    assert not mutating(world, calls)
    writer.close()


def test_a_live_batch_is_kept_even_if_its_log_cannot_be_read(died, tmp_path):
    """Its writer may be a newer spotlib than the one that sweeps."""
    world, log = died.revived(tmp_path / "logs")
    log.unlink()
    writer = EventLog(log)
    log.write_bytes(died.log.replace(b'"schema":2', b'"schema":3', 1))
    calls = len(world.calls)

    report = swept(world, log, batch_id=log.stem)

    assert [each.verdict for each in report.batches] == ["kept: its collection is running here"]
    assert not mutating(world, calls)
    writer.close()


def test_what_is_not_ours_is_neither_touched_nor_named(died, tmp_path):
    """Other people's requests and instances, with other tags or none, beside our own."""
    world, log = died.revived(tmp_path / "logs")
    acknowledged, _ = read_events(log)

    report = swept(world, log)

    assert report.clean
    assert [each.batch_id for each in report.batches] == [STRANGERS["spotlib:batch"], log.stem]
    assert "may be running elsewhere" in report.batches[0].verdict
    require_recovered(world, log, acknowledged)


def test_regions_that_nobody_names_are_not_touched(in_process, tmp_path):
    """Another region is left alone, and "clean" says nothing about it."""
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1)
    orphans(connection, 1, region="us-east-1")
    world.advance(20)
    calls = len(world.calls)

    report = sweep(connection, folder=tmp_path, regions=[NANO.region], settle_s=5.0)

    assert report.clean
    assert {each.region for each in world.calls[calls:]} == {NANO.region}
    assert len(world.leftovers()["instances"]) == 1


def test_another_world_is_not_ours_to_close(died, in_process, tmp_path):
    died.revived(tmp_path / "logs")

    report = sweep(in_process(scripted(seed=99)), folder=tmp_path / "logs", regions=[NANO.region])

    assert report.batches == ()
    assert len(unfinished(tmp_path / "logs")) == 1


def as_aws(world):
    """Connect as to AWS, but to a world in this process."""
    return Connection("aws", VirtualClock(world), sandbox_session, attach=partial(attach, world))


def test_a_batch_of_another_account_is_kept_and_named(tmp_path):
    """The logs of both accounts are in one folder, the credentials are of one."""
    log = tmp_path / NAME
    mine, other = scripted(), scripted(account_id="999999999999")
    summary = collect_batch(as_aws(mine), plan_for(as_aws(mine), n=1), log=log, seed=1, guard=False)
    text = log.read_text()
    log.write_text("".join(line for line in text.splitlines(True) if '"clean"' not in line[:20]))

    report = sweep(as_aws(other), folder=tmp_path, regions=[NANO.region])
    own = sweep(as_aws(mine), folder=tmp_path, regions=[NANO.region])

    assert summary.cleaned.confirmed
    assert report.lines() == [
        f"{log.stem}: kept: it ran in account 123456789012, these credentials are of 999999999999: "
        "choose its profile"
    ]
    assert not report.clean
    assert not mutating(other)
    assert own.clean


def test_what_cannot_be_closed_is_reported_with_the_commands(died, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    refused = Fault(kind="fail", action="TerminateInstances", code="UnauthorizedOperation")
    world.faults.append(refused)

    report = swept(world, log, give_up_s=60.0, batch_id=log.stem)

    assert not report.clean
    assert "NOT confirmed closed" in report.lines()[0]
    assert "aws ec2 terminate-instances --region" in "\n".join(report.lines())
    assert not load_batches(log)["clean"].all()
    assert unfinished(log.parent)[0].batch_id == log.stem


def test_a_sweep_that_could_not_search_a_region_is_not_clean(in_process, tmp_path):
    world = scripted(denied={"ec2:DescribeSpotInstanceRequests"})

    report = sweep(in_process(world), folder=tmp_path, regions=[NANO.region])

    assert not report.clean
    assert "UnauthorizedOperation" in report.errors[NANO.region]


def test_a_recovered_request_that_was_ready_is_ready_and_others_are_abandoned(points, tmp_path):
    names = ("after the line of stage", b'"stage":"ready"')
    point = next(each for each in points if each.name == names[0] and names[1] in each.log)
    world, log = point.revived(tmp_path / "logs")
    lines = point.log.splitlines(keepends=True)
    log.write_bytes(b"".join(line for line in lines if b'"outcome"' not in line[:20]))

    swept(world, log)

    launches = load_launches(log)
    shown = launches["ready_by_s"].notna()
    assert shown.any()
    assert (launches.loc[shown, "outcome"] == "ready").all()
    assert (launches.loc[~shown, "outcome"] == "abandoned").all()
    assert (launches["watched_s"] >= 0).all()


def test_a_log_of_a_newer_spotlib_hides_no_other_batch(died, tmp_path):
    """It is named with what to do; the dead batch beside it is closed; the sweep is not clean."""
    world, log = died.revived(tmp_path / "logs")
    newer = log.with_name("20250101T000000Z-ffffff.jsonl")
    newer.write_bytes(died.log.replace(b'"schema":2', b'"schema":3', 1))
    text = newer.read_bytes()

    report = swept(world, log)

    assert [each.batch_id for each in unfinished(log.parent)] == []
    assert unreadable(log.parent) == {
        newer.stem: f"{newer} has schema 3, this spotlib reads schema 2 only: update spotlib"
    }
    assert report.errors == unreadable(log.parent)
    assert dead_lines(log.parent) == [f"{newer.stem}: NOT known: {report.errors[newer.stem]}"]
    assert not report.clean
    assert world.leftovers() == EMPTY
    assert newer.read_bytes() == text


def test_a_folder_that_cannot_be_written_does_not_keep_instances_alive(died, tmp_path, monkeypatch):
    """Money first: everything is closed, and the verdict says that the log is incomplete."""
    world, log = died.revived(tmp_path / "logs")

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(EventLog, "resume", refused)
        report = swept(world, log, batch_id=log.stem)
    text = log.read_bytes()
    again = swept(world, log)

    assert world.leftovers() == EMPTY
    assert "closed, but its log could not be completed" in report.lines()[0]
    assert "Permission denied" in report.lines()[0]
    assert not report.clean
    assert text == died.log
    assert again.clean
    require_recovered(world, log, read_events(log)[0][: text.count(b"\n")])


def test_a_disk_that_fills_up_under_a_sweep_does_not_keep_instances_alive(died, tmp_path):
    """At each line that the sweep writes; once there is room, another completes the log."""
    acknowledged = None
    for room in range(12):
        world, log = died.revived(tmp_path / str(room))
        acknowledged, _ = read_events(log)
        with full_after(room):
            report = swept(world, log, batch_id=log.stem)
        assert world.leftovers() == EMPTY
        if report.clean:
            break
        assert "closed, but its log could not be completed" in report.lines()[0]
        assert swept(world, log).clean
        require_recovered(world, log, acknowledged)
    assert 4 < room < 12


def test_a_log_damaged_under_a_sweep_does_not_keep_the_next_batch_alive(
    died, tmp_path, monkeypatch
):
    world, log = died.revived(tmp_path / "logs")
    other = log.with_name("20240801T000000Z-ffffff.jsonl")
    other.write_bytes(died.log.replace(log.stem.encode(), other.stem.encode()))
    resume = EventLog.resume

    def damaged(path):
        writer = resume(path)
        if path == other:
            writer._write(b"5\n")
        return writer

    monkeypatch.setattr(EventLog, "resume", damaged)
    verdicts = {each.batch_id: each.verdict for each in swept(world, log).batches}

    assert verdicts[other.stem].startswith("closed, but its log could not be completed")
    assert f"{other}, line" in verdicts[other.stem]
    assert verdicts[log.stem] == "closed"
    assert world.leftovers() == EMPTY


def test_status_shows_what_is_open_alive_spent_and_next(died, tmp_path):
    _, log = died.revived(tmp_path / "logs")
    lines = died.log.decode().splitlines()
    first = json.loads(lines[0])
    first |= {"rounds": 4, "every_s": 900.0}
    log.write_text("\n".join([json.dumps(first), *lines[1:], ""]))
    dead = unfinished(log.parent)[0].line()
    text = log.read_bytes()
    log.unlink()
    writer = EventLog(log)
    log.write_bytes(text)
    assert is_alive(log)
    running = unfinished(log.parent)[0].line()
    writer.close()

    most = first["bound_usd"]
    assert "-m spotlib sweep --batch 20240901T000000Z-abcdef" in dead
    assert "running; round 1 of 4 (next at 00:1" in running
    assert "2 of 2 requests without an outcome, 1 instance not yet terminated" in running
    assert f"can have cost at most ${most:.4f} (${4 * most:.4f} after all its rounds)" in running
    assert f"in {ARM.region}, {NANO.region}; it waits for 2 requests until 00:0" in running
    assert running.endswith("then ends what it launched, then comes round 2 of 4")


def test_a_sweep_records_the_hard_bound_of_the_rounds_that_began(died, tmp_path):
    world, log = died.revived(tmp_path / "logs")
    lines = died.log.decode().splitlines()
    first = json.loads(lines[0]) | {"rounds": 4}
    log.write_text("\n".join([json.dumps(first), *lines[1:], ""]))

    swept(world, log)

    assert json.loads(log.read_text().splitlines()[-1])["spent_at_most_usd"] == first["bound_usd"]
    assert replay(log).spent_at_most_usd == first["bound_usd"]
    assert f"It can have cost at most ${first['bound_usd']:.4f} (if every program of" in ending(log)


def test_a_batch_at_aws_whose_log_lacks_lines_names_the_sweep_that_reaches_aws(tmp_path):
    """Without its endpoint the command would sweep simulated batches only."""
    world, log = scripted(), tmp_path / NAME
    checked = plan_for(as_aws(world), n=1)

    with full_after(4):
        summary = collect_batch(as_aws(world), checked, log=log, seed=1, guard=False)

    assert summary.cleaned.confirmed
    command = f"sweep --batch {log.stem} --results {tmp_path} --endpoint aws"
    assert command in " ".join(summary.problems)
    assert sweep(as_aws(world), folder=tmp_path, regions=[NANO.region]).clean


def test_a_sweep_in_which_every_call_fails_at_first_closes_everything(died, tmp_path, in_process):
    world, log = died.revived(tmp_path / "logs")
    actions = ("DescribeRegions", "DescribeSpotInstanceRequests", "DescribeInstances")
    world.faults += [
        Fault(kind=kind, action=each, nth=1)
        for each in (*actions, "TerminateInstances", "CancelSpotInstanceRequests")
        for kind in ("throttled", "malformed", "lose_answer")
    ]

    report = sweep(in_process(world), folder=log.parent)

    assert report.clean
    assert world.leftovers() == EMPTY
    assert {each.action for each in world.fired} >= set(actions)


def test_a_region_in_trouble_is_named_and_ends_no_sweep_of_the_others(died, tmp_path, in_process):
    """Found by tag alone, without a log: the region in trouble keeps nobody waiting."""
    world, log = died.revived(tmp_path / "logs")
    log.unlink()
    world.faults.append(Fault(kind="internal_error", region="us-east-2"))

    report = sweep(in_process(world), folder=log.parent, batch_id=log.stem)

    assert world.leftovers() == EMPTY
    assert [each.verdict for each in report.batches] == ["closed"]
    assert list(report.errors) == ["us-east-2"]
    assert "attempts in" in report.errors["us-east-2"]
    assert not report.clean


def test_without_the_list_of_regions_those_of_the_logs_are_swept(died, tmp_path, in_process):
    world, log = died.revived(tmp_path / "logs")
    world.faults.append(Fault(kind="throttled", action="DescribeRegions"))

    report = sweep(in_process(world), folder=log.parent)

    verdicts = {each.batch_id: each.verdict for each in report.batches}
    assert world.leftovers() == EMPTY
    assert verdicts[log.stem] == "closed"
    assert list(report.errors) == ["regions that no log names"]
    assert not report.clean


def test_a_sweep_searches_also_where_regions_may_not_be_listed(in_process, tmp_path):
    """botocore knows the regions; those that are not enabled are named as not searched."""
    world = scripted()
    connection = in_process(world)
    orphans(connection, 1)
    world.advance(7200)

    def denied(call, executed):
        if not executed and call.action == "DescribeRegions":
            raise ApiError("UnauthorizedOperation", "an explicit deny in a policy", 403)

    world.faults.append(denied)
    report = sweep(connection, folder=tmp_path, settle_s=5.0)

    assert world.leftovers() == EMPTY
    assert NANO.region not in report.errors
    assert "cn-north-1" not in report.errors, "another partition is another account"


def test_a_sweep_searches_the_regions_that_the_account_may_use_and_no_other(in_process, tmp_path):
    world = scripted(opted_in=["af-south-1"], not_opted_in=["eu-west-3"])
    connection = in_process(world)
    orphans(connection, 1)
    orphans(connection, 1, region="af-south-1")
    world.advance(20)
    calls = len(world.calls)

    report = sweep(connection, folder=tmp_path, settle_s=5.0)

    asked = {each.region for each in world.calls[calls:]}
    assert report.clean
    assert world.leftovers() == EMPTY
    assert asked >= {NANO.region, "af-south-1", "us-east-1"}
    assert not asked & {"eu-west-3", "ap-east-1"}


@pytest.mark.parametrize(("hours", "clean"), [(2.9, False), (3.1, True)])
def test_requests_that_ec2_does_not_list_must_be_seen_until_three_hours_after_they_expired(
    died, tmp_path, monkeypatch, hours, clean
):
    """A young request may not be listed yet, an old one not any more."""
    nothing = {
        "describe_spot_instance_requests": {"SpotInstanceRequests": []},
        "describe_instances": {"Reservations": []},
    }
    call = Connection.call
    monkeypatch.setattr(
        Connection,
        "call",
        lambda self, region, action, /, **given: (
            call(self, region, action, **given) | nothing.get(action, {})
        ),
    )
    world, log = died.revived(tmp_path / "logs")
    [left] = unfinished(log)
    since_s = (left.valid_until - world.epoch).total_seconds() + 3600 * hours
    world.advance(since_s - world.now_s)

    assert swept(world, log, batch_id=log.stem, give_up_s=60.0).clean is clean


@pytest.mark.parametrize(("denied", "confirmed"), [("eu-west-3", True), (NANO.region, False)])
def test_a_named_batch_is_confirmed_where_its_log_says_it_was_whatever_other_regions_say(
    died, tmp_path, in_process, denied, confirmed
):
    """An organisation may deny regions; nothing of this batch can be there."""
    world, log = died.revived(tmp_path / "logs")
    world.faults.append(Fault(kind="fail", region=denied, code="UnauthorizedOperation"))
    search = partial(sweep, in_process(world), folder=log.parent, give_up_s=60.0)
    regions = {"eu-west-3", *REGIONS}

    closed = search(batch_id=log.stem, regions=regions)
    again = search(batch_id=log.stem, regions=regions)
    every = search(regions=regions)

    assert closed.confirms(log.stem) is confirmed
    assert again.confirms(log.stem) is confirmed
    assert (denied in closed.errors) is not confirmed
    assert not every.clean, "another batch may be there"
    if confirmed:
        for report in (closed, again):
            assert "eu-west-3: not searched, but its log names no request" in report.lines()[-1]
            assert "UnauthorizedOperation" in report.lines()[-1]


def as_foreign(world):
    """Connect as to another program that answers for EC2, but to a world in this process."""
    given = {"url": "http://127.0.0.1:9", "attach": partial(attach, world)}
    return Connection(given["url"], VirtualClock(world), sandbox_session, **given)


def left_at(connection, log):
    """A log as of a collector that died before it had ended anything."""
    collect_batch(connection, plan_for(connection, n=2), log=log, seed=1, guard=False)
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(itertools.takewhile(lambda each: '"outcome"' not in each[:20], lines)))


def test_a_foreign_endpoint_that_was_restarted_is_given_up_in_minutes_with_one_sentence(tmp_path):
    log, restarted = tmp_path / NAME, scripted(seed=2)
    left_at(as_foreign(scripted()), log)
    text = log.read_text()
    began_s = restarted.now_s

    report = sweep(as_foreign(restarted), folder=tmp_path, regions=[NANO.region])

    assert restarted.now_s - began_s < 240
    assert not report.confirms(log.stem)
    assert [each.forgotten for each in report.batches] == [True]
    [words] = [line for line in report.lines() if "it was restarted" in line]
    assert all(each in words for each in load_launches(log)["request_id"])
    assert log.read_text().startswith(text)
    restarted.advance(4 * 3600)
    assert sweep(as_foreign(restarted), folder=tmp_path, regions=[NANO.region]).confirms(log.stem)


def test_its_guard_ends_too_and_that_of_an_endpoint_in_trouble_does_not(tmp_path, monkeypatch):
    log, restarted = tmp_path / NAME, scripted(seed=2)
    left_at(as_foreign(scripted()), log)
    monkeypatch.setattr("spotlib.ec2.endpoints.connect", lambda *_, **__: as_foreign(restarted))
    monkeypatch.setattr(guard, "_TRY_S", 160.0)
    given = Namespace(log=log, endpoint="http://127.0.0.1:9", profile=None)
    failing = Fault(kind="internal_error", action="DescribeSpotInstanceRequests")

    restarted.faults.append(failing)
    assert not guard._closed(given, guard.NO_KEYS)
    restarted.faults.clear()
    assert guard._closed(given, guard.NO_KEYS)


def test_a_guard_whose_log_was_deleted_tries_again_until_something_of_its_batch_was_closed(
    in_process, tmp_path, monkeypatch
):
    """EC2 may list late what was launched, and nobody else is there to look."""
    world = scripted()
    connection = in_process(world)
    monkeypatch.setattr("spotlib.ec2.endpoints.connect", lambda *_, **__: connection)
    given = Namespace(log=tmp_path / "lost-000.jsonl", endpoint="aws", profile=None)

    assert not guard._closed(given, guard.NO_KEYS)
    orphans(connection, 1, expires=LATER)
    assert guard._closed(given, guard.NO_KEYS)
    assert world.leftovers() == EMPTY


def test_amazon_is_never_taken_for_an_endpoint_that_was_restarted(tmp_path):
    log, forgetful = tmp_path / NAME, scripted(seed=2)
    left_at(as_aws(scripted()), log)
    began_s = forgetful.now_s

    report = sweep(as_aws(forgetful), folder=tmp_path, regions=[NANO.region], give_up_s=900.0)

    assert forgetful.now_s - began_s >= 900
    assert [each.forgotten for each in report.batches] == [False]
    assert not report.clean


def test_status_does_not_call_a_batch_running_that_a_guard_or_sweep_is_closing(died, tmp_path):
    _, log = died.revived(tmp_path / "logs")
    lines = died.log.decode().splitlines()
    first = json.loads(lines[0])
    first["host"]["pid"] += 1  # the collector was another process than this one
    log.write_text("\n".join([json.dumps(first), *lines[1:], ""]))
    writer = EventLog.resume(log)

    closing = unfinished(log.parent)[0].line()
    writer.close()

    assert f": {CLOSING}; round" in closing
    assert "running" not in closing
    assert "DEAD" in unfinished(log.parent)[0].line()

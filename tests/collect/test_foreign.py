"""Another EC2 that nobody here wrote: a plain moto server, from the check to the clean end.

It answers what moto answers and not what our sandbox does: no service-linked role, no quota and no
price, no filter by request, requests that are ready at once and forgotten once cancelled.  Of the
instances of RunInstances it launches MinCount.
"""

import math
import re
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial

import boto3
import pytest
from conftest import read_events
from crashing import DEFAULT, OTHERS, SAMPLE, WHOLE
from pages import shown_by
from programs import chaos, run, until

from spotlib.cleanup.sweep import sweep
from spotlib.cleanup.unfinished import unfinished
from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.clock import SystemClock
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect, connect_in_process
from spotlib.ec2.foreign import finds_by_request, request_of
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind, Target, plan_launches
from spotlib.record.history import earlier_usd, last_launches
from spotlib.record.tables import load_launches
from spotlib.sandbox.world import World
from spotlib.track import GONE_STATES

NANO = Target("t3.nano", "us-east-1")
PLACES = (NANO, Target("t4g.medium", "ap-northeast-3"), Target("t3.micro", "us-east-1", "use1-az4"))
REGIONS = ("us-east-1", "ap-northeast-3")
LACKS = (
    "the service-linked role AWSServiceRoleForEC2Spot is missing",
    "the on-demand price of t3.nano in us-east-1, and so the hard bound of the cost, is not known",
    "the quota in us-east-1 is not known",
)


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    """The address of a moto server, which writes its traces of what it lacks into a file."""
    words = tmp_path_factory.mktemp("moto") / "stderr"
    command = [sys.executable, "-m", "moto.server", "--port", "0"]
    with words.open("w") as file, subprocess.Popen(command, stderr=file) as server:
        until(lambda: "Running on" in words.read_text(), by=server)
        yield re.search(r"http://[0-9.:]+", words.read_text())[0]
        server.kill()


@pytest.fixture
def client(moto):
    """Somebody else's client of it."""
    return lambda region: boto3.client("ec2", region_name=region, endpoint_url=moto)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Ask only once for what may be lacking."""
    monkeypatch.setattr("spotlib.ec2.patience._HOPELESS_ATTEMPTS", 1)
    monkeypatch.setattr("spotlib.ec2.patience._HOPELESS_MOST_S", 0.0)


def alive(client, *regions):
    """What is not gone of instances, their requests and templates, as moto itself lists them.

    It shows the request of a fleet for good, as it was.
    """
    found = set()
    for region in map(client, regions):
        state = {
            each["InstanceId"]: each["State"]["Name"]
            for reservation in region.describe_instances()["Reservations"]
            for each in reservation["Instances"]
        }
        gone = {name for name in state if state[name] in GONE_STATES}
        requests = region.describe_spot_instance_requests()["SpotInstanceRequests"]
        found |= {e["SpotInstanceRequestId"] for e in requests if e.get("InstanceId") not in gone}
        templates = region.describe_launch_templates()["LaunchTemplates"]
        found |= {each["LaunchTemplateId"] for each in templates} | state.keys() - gone
    return found


def test_check_finds_it_ready_and_warns_of_what_it_lacks(moto):
    given = ("--endpoint", moto, "--methods", " ".join([DEFAULT, *OTHERS]), NANO.instance_type)
    done = run(sys.executable, "-m", "spotlib", "check", *given)

    assert done.stdout.startswith(f"endpoint {moto}, not AWS: account 123456789012")
    assert done.stdout.endswith("\nready to launch\n")
    assert all(f" by {arm}: n=1" in done.stdout for arm in OTHERS)
    for words in LACKS:
        assert f"warning: {words}" in done.stdout
    assert "<" not in done.stdout


@pytest.mark.parametrize(
    ("arms", "came"),
    [
        (DEFAULT, 2),
        pytest.param("run_instances run_instances:on-demand create_fleet_instant", 4, marks=chaos),
    ],
)
def test_the_notebook_runs_from_request_to_clean(
    repository, moto, client, tmp_path, capsys, *, arms, came
):
    given = {"instance_type": NANO.instance_type, "region": "eu-west-1", "n": 2, "poll_s": 1.0}
    given |= {"results": str(tmp_path), "methods": arms, "arm_pause_s": 1.0}

    page = list(shown_by(repository / "notebooks/02_collect.ipynb", endpoint=moto, **given))

    [log] = (tmp_path / "launches").iterdir()
    events, _ = read_events(log)
    assert (events[0]["simulated"], events[0]["endpoint"], events[0]["world"]) == (
        False,
        moto,
        None,
    )
    assert any("the quota in eu-west-1 is not known" in each for each in events[0]["warnings"])
    assert [e["outcome"] for e in events if e["event"] == "outcome"] == ["ready"] * came
    assert (events[-1]["event"], events[-1]["confirmed"]) == ("clean", True)
    said = capsys.readouterr().out
    banner = page[0]["text/html"]
    assert f"NOT AWS: another program answers for EC2 at {moto}, so its results say noth" in banner
    assert "open requests 0, live instances 0 (confirmed); spent at most unknown (an on-" in said
    assert alive(client, "eu-west-1") == set()
    assert last_launches(log.parent, since=datetime(2020, 1, 1, tzinfo=UTC)) == {}
    assert earlier_usd(log.parent, simulated=False) == 0.0
    assert math.isnan(earlier_usd(log.parent, simulated=False, endpoint=moto))


def test_rounds_regions_and_zones_end_clean_and_nobody_elses_is_touched(moto, client, log):
    image = {"ImageId": "ami-12c6146b", "InstanceType": "t3.nano"}
    for region in REGIONS:
        client(region).run_instances(**image, MinCount=1, MaxCount=1)
        client(region).request_spot_instances(LaunchSpecification=image)
    others = alive(client, *REGIONS)
    plans = plan_launches(PLACES, count=2, timeout_s=60.0)

    summary = collect_batch(
        connect(moto), plans, log=log, rounds=2, every_s=6.0, poll_s=0.5, settle_s=0.5
    )

    launches, (events, _) = load_launches(log), read_events(log)
    late = sum(each["event"] == "skipped" and not each["polls"] for each in events)  # busy machine
    warnings = events[0]["warnings"]
    assert any("does not find instances by their request" in each for each in warnings)
    assert summary.problems == ()
    assert summary.cleaned.confirmed
    assert launches["outcome"].tolist() == ["ready"] * 6 * (2 - late)
    assert launches["instance_id"].is_unique
    assert others
    assert alive(client, *REGIONS) == others


DYING = """
import os, sys
from spotlib.ec2 import patience
patience._HOPELESS_ATTEMPTS, patience._HOPELESS_MOST_S = 1, 0.0
from spotlib import collect_batch, connect, plan_launches, Target
from spotlib.ec2.connection import Connection

call = Connection.call

def dying(self, region, action, /, **given):
    last = action == {action!r} and not given.get("DryRun")
    last and {before} and os._exit(9)
    reply = call(self, region, action, **given)
    last and os._exit(9)
    return reply

Connection.call = dying
plans = plan_launches([Target("t3.nano", "eu-west-2")], count=2, methods=[{method!r}])
collect_batch(connect(sys.argv[1]), plans, log=sys.argv[2], poll_s=0.5, guard=False)
"""


@pytest.mark.parametrize(
    ("method", "action", "before", "is_left"),
    [
        (DEFAULT, "terminate_instances", True, True),
        pytest.param(DEFAULT, "cancel_spot_instance_requests", False, False, marks=chaos),
        pytest.param("run_instances", "run_instances", False, True, marks=chaos),
        ("create_fleet_instant", "create_fleet", False, True),
    ],
)
def test_what_a_dead_collector_left_is_closed_and_confirmed(
    moto, client, log, *, method, action, before, is_left
):
    script = DYING.format(method=method, action=action, before=before)
    dead = run(sys.executable, "-c", script, moto, log, check=False)
    assert dead.returncode == 9, dead.stderr
    assert bool(alive(client, "eu-west-2")) is is_left
    [left] = unfinished(log)
    elsewhere = connect(moto.replace("127.0.0.1", "localhost"))  # another address is another EC2
    report = sweep(elsewhere, folder=log.parent, regions=["eu-north-1"])
    assert report.lines() == ["nothing of ours is there"]
    assert len(unfinished(log)) == 1

    report = sweep(connect(moto), folder=log.parent, regions=["eu-west-2"], settle_s=0.5)

    assert report.lines() == [f"{left.batch_id}: closed"]
    assert alive(client, "eu-west-2") == set()
    assert unfinished(log) == []


@pytest.mark.parametrize("arm", SAMPLE)
def test_every_launch_method_is_checked_and_runs_from_request_to_clean(moto, client, log, arm):
    log = log.with_stem(arm.replace(":", "-"))  # a batch's name is its own, also for one server
    others = alive(client, *REGIONS)
    plans = plan_launches(PLACES[-1:], count=2, timeout_s=60.0, methods=[arm])
    checked = preflight(connect(moto), plans)
    assert checked.problems == ()
    assert alive(client, *REGIONS) == others  # a dry run makes nothing

    summary = collect_batch(connect(moto), checked, log=log, poll_s=0.5, settle_s=0.5)

    launches = load_launches(log)
    ready, refused = (launches[launches["outcome"] == each] for each in ("ready", "refused"))
    least = 1 if arm.startswith("run_instances") and arm not in WHOLE else 2
    assert summary.problems == ()
    assert summary.cleaned.confirmed
    assert (len(ready), len(refused)) == (least, 2 - least)
    assert ready["instance_id"].is_unique
    assert alive(client, *REGIONS) == others


@pytest.fixture
def changed(monkeypatch):
    """Give other answers to some actions."""

    def change(**answers):
        call = Connection.call

        def instead(self, region, action, /, **given):
            if action not in answers:
                return call(self, region, action, **given)
            return answers[action](region, given)

        monkeypatch.setattr(Connection, "call", instead)

    return change


YES, NO = "DryRunOperation", "NobodyKnowsThis"


def refuse(region="", _=None, *, kind=Kind.UNKNOWN, code=NO, action=""):
    raise Refusal(code, "", kind=kind, advice="", action=action, region=region)


@pytest.mark.parametrize("action", ["create_launch_template", "create_fleet"])
def test_a_call_that_it_lacks_is_one_problem_before_anything_is_launched(
    moto, client, changed, action
):
    others = alive(client, *REGIONS)
    changed(**{action: partial(refuse, action=action)})

    checked = preflight(
        connect(moto), plan_launches([NANO], count=1, methods=["create_fleet_instant"])
    )

    [problem] = checked.problems
    assert problem.startswith(f"{action} in us-east-1: NobodyKnowsThis")
    assert alive(client, *REGIONS) == others


def test_a_call_that_fails_only_when_it_is_meant_leaves_no_template(moto, client, changed, log):
    """It said yes to the dry run."""
    others = alive(client, *REGIONS)
    changed(create_fleet=lambda _, given: refuse(code=YES if "DryRun" in given else NO))
    plans = plan_launches([NANO], count=1, methods=["create_fleet_instant"])

    summary = collect_batch(connect(moto), plans, log=log, poll_s=0.5, settle_s=0.5)

    [problem] = summary.problems
    assert NO in problem
    assert summary.outcomes == {"refused": 1}
    assert summary.cleaned.confirmed
    assert alive(client, *REGIONS) == others


@pytest.mark.parametrize("value", [None, "ami-00000000"])
def test_an_image_is_found_where_no_parameter_names_one(moto, changed, value):
    answer = {"Parameters": [{"Name": "/aws/service/...", "Value": value}]}
    changed(get_parameters=(lambda *_: answer) if value else refuse)

    checked = preflight(connect(moto), plan_launches([NANO], count=1))

    [each] = checked.prepared
    assert checked.problems == ()
    assert each.image_name.startswith("al2023-ami-2023")
    assert each.image_name.endswith("x86_64")
    assert f"{each.image}, the newest Amazon Linux 2023 for x86_64" in "\n".join(checked.warnings)


def test_without_any_image_the_one_problem_says_what_to_set(moto, changed):
    changed(get_parameters=refuse, describe_images=refuse)

    checked = preflight(connect(moto), plan_launches([NANO], count=1))

    assert checked.problems == ("us-east-1 has no Amazon Linux 2023 for x86_64: set image",)


def test_nothing_is_asked_but_ec2_s_own_calls_must_be_answered(moto, changed):
    """Eucalyptus and OpenStack have no STS; theirs is a matter of the account, not of EC2."""
    changed(get_caller_identity=refuse, get_role=refuse)

    checked = preflight(connect(moto), plan_launches([NANO], count=1))

    assert checked.account is None
    assert checked.problems == ()
    assert "the account is not known" in "\n".join(checked.warnings)


def only_other_filters(_, given, refusal=refuse):
    [named] = given["Filters"]
    return refusal() if named["Name"] == "spot-instance-request-id" else nothing()


def strangers(*_):
    return {"Reservations": [{"Instances": [{"InstanceId": "i-1"}]}]}


def nothing(*_):
    return {"Reservations": []}


@pytest.mark.parametrize("answer", [only_other_filters, strangers], ids=["refused", "ignored"])
def test_a_filter_that_is_missing_is_asked_for_once(changed, answer):
    asked = []
    changed(describe_instances=lambda *given: asked.append(given) or answer(*given))
    connection = Connection("http://127.0.0.1:9", SystemClock(), refuse)

    assert not finds_by_request(connection, "us-east-1")
    once = len(asked)
    assert not finds_by_request(connection, "eu-west-1")
    assert len(asked) == once


def test_an_account_without_instances_shows_no_filter_that_is_missing(changed):
    connection = Connection("http://127.0.0.1:9", SystemClock(), refuse)
    changed(describe_instances=nothing)
    assert finds_by_request(connection, "us-east-1")

    changed(describe_instances=only_other_filters)
    assert not finds_by_request(connection, "us-east-1")


def test_an_instance_that_names_its_request_shows_that_the_filter_works(changed):
    connection = Connection("http://127.0.0.1:9", SystemClock(), refuse)
    named = {"InstanceId": "i-1", "SpotInstanceRequestId": "sir-1"}
    assert request_of(connection, named) == "sir-1"

    changed(describe_instances=refuse)
    assert finds_by_request(connection, "us-east-1")


def test_one_error_that_passes_is_not_taken_for_a_filter_that_is_missing(changed):
    refusals = iter([refuse])
    changed(describe_instances=lambda *_: next(refusals, dict)() or nothing())

    assert finds_by_request(Connection("http://127.0.0.1:9", SystemClock(), refuse), "us-east-1")


def test_an_endpoint_in_trouble_says_nothing_of_its_filters(changed):
    connection = Connection("http://127.0.0.1:9", SystemClock(), refuse)
    throttled = partial(refuse, kind=Kind.THROTTLED)
    for answer in (refuse, partial(only_other_filters, refusal=throttled)):
        changed(describe_instances=answer)
        with pytest.raises(Refusal):
            finds_by_request(connection, "us-east-1")

    changed(describe_instances=nothing)
    assert finds_by_request(connection, "us-east-1")


def test_neither_aws_nor_the_sandbox_is_asked(changed):
    changed(describe_instances=refuse)
    aws = Connection("aws", SystemClock(), refuse)
    sandbox = connect_in_process(World(), lambda _: None)

    assert finds_by_request(aws, "us-east-1")
    assert finds_by_request(sandbox, "us-east-1")

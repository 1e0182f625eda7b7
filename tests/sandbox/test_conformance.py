"""What EC2 answers, call by call; every expectation names its source.

Each is checked in-process and over HTTP.  Sources: ``model`` is botocore's EC2 model (its text,
shapes and waiters), ``guide`` the EC2 user guide, ``developer guide`` its pages on errors,
throttling, idempotency and eventual consistency, and public reports by repository and number.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from importlib.util import find_spec
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, WaiterError
from programs import PATIENCE_S

from spotlib.sandbox.server import serve
from spotlib.sandbox.wire import answer, attach
from spotlib.sandbox.world import Fate, World

IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
TAGS = [{"ResourceType": "spot-instances-request", "Tags": [{"Key": "batch", "Value": "a"}]}]
QUICK = Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=5.0, ok_s=60.0)


@dataclass
class Client:
    """The boto3 clients of a world, and the calls that the expectations share."""

    world: World
    client: Callable[..., Any]

    @property
    def ec2(self) -> Any:
        return self.client("ec2")

    def asked(self, count: int = 1, **more: Any) -> dict[str, Any]:
        image = self.client("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
        launch = {"ImageId": image, "InstanceType": "t4g.nano"}
        return {"InstanceCount": count, "LaunchSpecification": launch, **more}

    def request(self, count: int = 1, **more: Any) -> list[str]:
        answer = self.ec2.request_spot_instances(**self.asked(count, **more))
        return [each["SpotInstanceRequestId"] for each in answer["SpotInstanceRequests"]]

    def shown(self, ids: list[str]) -> list[dict[str, Any]]:
        answer = self.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=ids)
        return list(answer["SpotInstanceRequests"])

    def launched(self, count: int = 1) -> tuple[list[str], list[str]]:
        """Ids of running requests and of their instances."""
        ids = self.request(count)
        self.world.advance(20.0)
        return ids, [each["InstanceId"] for each in self.shown(ids)]

    def code_of(self, action: str, **params: Any) -> str:
        with pytest.raises(ClientError) as caught:
            getattr(self.ec2, action)(**params)
        return str(caught.value.response["Error"]["Code"])


def _served(world: World) -> str:
    where: queue.Queue[str] = queue.Queue()
    given = {"idle_s": 60, "ready": where.put}
    threading.Thread(target=serve, args=(world,), kwargs=given, daemon=True).start()
    return where.get(timeout=PATIENCE_S)


@pytest.fixture(params=["in-process", "over HTTP"])
def on(request: pytest.FixtureRequest) -> Client:
    world = World(script=lambda _: QUICK)
    url = _served(world) if request.param == "over HTTP" else None

    def client(service: str, region: str = "us-east-1") -> Any:
        made = boto3.client(
            service,
            region_name=region,
            endpoint_url=url,
            aws_access_key_id="sandbox",
            aws_secret_access_key="sandbox",
            config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
        )
        if url is None:
            attach(world, made)
        return made

    return Client(world, cache(client))


EXPECTATIONS: list[tuple[str, str, Callable[[Client], bool]]] = []


def expected(call: str, source: str) -> Callable[[Callable[[Client], bool]], Any]:
    def keep(check: Callable[[Client], bool]) -> Callable[[Client], bool]:
        EXPECTATIONS.append((call, source, check))
        return check

    return keep


@expected("RequestSpotInstances", "guide, spot-requests: a separate request for each instance")
def a_request_for_each_instance(on: Client) -> bool:
    return len(set(on.request(3))) == 3


@expected("RequestSpotInstances", "guide, spot-request-status: open, pending-evaluation at first")
def pending_evaluation_first(on: Client) -> bool:
    [shown] = on.ec2.request_spot_instances(**on.asked())["SpotInstanceRequests"]
    return (shown["State"], shown["Status"]["Code"]) == ("open", "pending-evaluation")


@expected("RequestSpotInstances", "developer guide, errors: RequestResourceCountExceeded over 3000")
def at_most_3000(on: Client) -> bool:
    code = on.code_of("request_spot_instances", **on.asked(3001))
    return code == "RequestResourceCountExceeded"


@expected("RequestSpotInstances", "developer guide, idempotency: same token, same requests")
def same_token_same_requests(on: Client) -> bool:
    return on.request(2, ClientToken="t") == on.request(2, ClientToken="t")


@expected("RequestSpotInstances", "developer guide, idempotency: IdempotentParameterMismatch")
def same_token_other_parameters(on: Client) -> bool:
    on.request(2, ClientToken="t")
    code = on.code_of("request_spot_instances", **on.asked(3, ClientToken="t"))
    return code == "IdempotentParameterMismatch"


@expected("RequestSpotInstances", "rancher/rancher 38176: only spot-instances-request is taggable")
def only_requests_are_taggable(on: Client) -> bool:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    code = on.code_of("request_spot_instances", **on.asked(TagSpecifications=tags))
    return code == "InvalidParameterValue"


@expected("RequestSpotInstances", "boto/boto 368: user data that is not base64 is refused")
def user_data_is_base64(on: Client) -> bool:
    asked = on.asked()
    asked["LaunchSpecification"]["UserData"] = "#!/bin/sh"
    return on.code_of("request_spot_instances", **asked) == "InvalidParameterValue"


@expected("RequestSpotInstances", "model: ValidUntil is 7 days after the request by default")
def seven_days(on: Client) -> bool:
    [shown] = on.shown(on.request())
    return shown["ValidUntil"] - shown["CreateTime"] == timedelta(days=7)


@expected("RequestSpotInstances", "model: a request that passes its ValidUntil is cancelled")
def it_expires(on: Client) -> bool:
    on.world.script = lambda _: Fate(held_s=None)
    ids = on.request(ValidUntil=on.world.utc() + timedelta(seconds=60))
    on.world.advance(70.0)
    [shown] = on.shown(ids)
    return (shown["State"], shown["Status"]["Code"]) == ("cancelled", "schedule-expired")


@expected("RequestSpotInstances", "harmony-ops 285: one-time only terminates")
def one_time_terminates(on: Client) -> bool:
    asked = on.asked(InstanceInterruptionBehavior="stop")
    return on.code_of("request_spot_instances", **asked) == "InvalidParameterCombination"


@expected("RequestSpotInstances", "model: DryRun answers DryRunOperation")
def dry_run(on: Client) -> bool:
    return on.code_of("request_spot_instances", **on.asked(DryRun=True)) == "DryRunOperation"


@expected("RequestSpotInstances", "parallelcluster-node 415: MaxSpotInstanceCountExceeded")
def quota(on: Client) -> bool:
    on.world.quota_vcpus = 5
    code = on.code_of("request_spot_instances", **on.asked(3))
    return code == "MaxSpotInstanceCountExceeded"


@expected("DescribeSpotInstanceRequests", "guide: active and fulfilled once launched")
def fulfilled(on: Client) -> bool:
    [shown] = on.shown(on.launched()[0])
    zone = shown["LaunchedAvailabilityZone"].startswith("us-east-1")
    return zone and (shown["State"], shown["Status"]["Code"]) == ("active", "fulfilled")


@expected("DescribeSpotInstanceRequests", "ansible-collections, terraform samples: whole seconds")
def whole_seconds(on: Client) -> bool:
    [shown] = on.shown(on.launched()[0])
    return shown["CreateTime"].microsecond == shown["Status"]["UpdateTime"].microsecond == 0


@expected("DescribeSpotInstanceRequests", "aws-sdk-ruby 1559: NotFound for an unknown id")
def unknown_request(on: Client) -> bool:
    params = {"SpotInstanceRequestIds": ["sir-00000000"]}
    code = on.code_of("describe_spot_instance_requests", **params)
    return code == "InvalidSpotInstanceRequestID.NotFound"


@expected("DescribeSpotInstanceRequests", "model: filters by tag; they never raise NotFound")
def filters_answer_none(on: Client) -> bool:
    def found(name: str, value: str) -> int:
        filters = [{"Name": name, "Values": [value]}]
        shown = on.ec2.describe_spot_instance_requests(Filters=filters)
        return len(shown["SpotInstanceRequests"])

    on.request(2, TagSpecifications=TAGS)
    names = ("tag:batch", "tag:batch", "spot-instance-request-id")
    return list(map(found, names, ("a", "b", "sir-00000000"))) == [2, 0, 0]


@expected("DescribeSpotInstanceRequests", "model: kept four hours after its end")
def kept_four_hours(on: Client) -> bool:
    on.world.script = lambda _: Fate(held_s=None)
    ids = on.request()
    on.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    on.world.advance(4 * 3600 - 60.0)
    kept = len(on.shown(ids)) == 1
    on.world.advance(120.0)
    return kept and on.ec2.describe_spot_instance_requests()["SpotInstanceRequests"] == []


@expected("CancelSpotInstanceRequests", "model: does not terminate the instance")
def cancelling_does_not_terminate(on: Client) -> bool:
    ids, instances = on.launched()
    on.ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
    [shown] = on.shown(ids)
    [there] = on.ec2.describe_instances(InstanceIds=instances)["Reservations"]
    running = there["Instances"][0]["State"] == {"Code": 16, "Name": "running"}
    return running and shown["Status"]["Code"] == "request-canceled-and-instance-running"


@expected("CancelSpotInstanceRequests", "developer guide, errors: MissingParameter with no id")
def cancelling_nothing(on: Client) -> bool:
    code = on.code_of("cancel_spot_instance_requests", SpotInstanceRequestIds=[])
    return code == "MissingParameter"


@expected("GetConsoleOutput", "API reference: base64, which botocore decodes; absent at first")
def console_output(on: Client) -> bool:
    [instance] = on.launched()[1]
    first = on.ec2.get_console_output(InstanceId=instance)
    on.world.advance(60.0)
    latest = on.ec2.get_console_output(InstanceId=instance, Latest=True)
    dated = isinstance(first["Timestamp"], datetime) and latest["InstanceId"] == instance
    return dated and "Output" not in first and "Linux version" in latest["Output"]


@expected("GetConsoleOutput", "developer guide, errors: InvalidInstanceID.NotFound")
def console_of_nothing(on: Client) -> bool:
    code = on.code_of("get_console_output", InstanceId="i-0123456789abcdef0")
    return code == "InvalidInstanceID.NotFound"


@expected("TerminateInstances", "model: one incorrect id, and none is terminated")
def all_or_none(on: Client) -> bool:
    _, instances = on.launched()
    ids = [*instances, "i-0123456789abcdef0"]
    code = on.code_of("terminate_instances", InstanceIds=ids)
    [there] = on.ec2.describe_instances(InstanceIds=instances)["Reservations"]
    name = there["Instances"][0]["State"]["Name"]
    return (code, name) == ("InvalidInstanceID.NotFound", "running")


@expected("TerminateInstances", "model: idempotent; terminated stay visible about an hour")
def terminated_for_an_hour(on: Client) -> bool:
    _, instances = on.launched()
    for _ in range(2):
        on.ec2.terminate_instances(InstanceIds=instances)
        on.world.advance(60.0)
    [there] = on.ec2.describe_instances(InstanceIds=instances)["Reservations"]
    on.world.advance(3600.0)
    gone = on.code_of("describe_instances", InstanceIds=instances)
    name = there["Instances"][0]["State"]["Name"]
    return (name, gone) == ("terminated", "InvalidInstanceID.NotFound")


@expected("TerminateInstances", "guide, spot-request-status: instance-terminated-by-user, closed")
def closed_by_user(on: Client) -> bool:
    ids, instances = on.launched()
    on.ec2.terminate_instances(InstanceIds=instances)
    on.world.advance(60.0)
    [shown] = on.shown(ids)
    return (shown["State"], shown["Status"]["Code"]) == ("closed", "instance-terminated-by-user")


@expected("DescribeInstances", "model: InstanceLifecycle, SpotInstanceRequestId, LaunchTime")
def a_spot_instance(on: Client) -> bool:
    ids, instances = on.launched()
    [there] = on.ec2.describe_instances(InstanceIds=instances)["Reservations"]
    [shown] = there["Instances"]
    attached = shown["NetworkInterfaces"][0]["Attachment"]["AttachTime"]
    names = (shown["InstanceLifecycle"], shown["SpotInstanceRequestId"])
    return names == ("spot", ids[0]) and attached == shown["LaunchTime"]


@expected("DescribeInstances", "guide: instances do not take the tags of their request")
def instances_are_untagged(on: Client) -> bool:
    on.request(1, TagSpecifications=TAGS)
    on.world.advance(20.0)
    [there] = on.ec2.describe_instances()["Reservations"]
    return "Tags" not in there["Instances"][0] or there["Instances"][0]["Tags"] == []


@expected("DescribeInstances", "convox/rack 2205: FilterLimitExceeded over 200 values")
def at_most_200_values(on: Client) -> bool:
    values = [f"sir-{i:08x}" for i in range(201)]
    filters = [{"Name": "spot-instance-request-id", "Values": values}]
    return on.code_of("describe_instances", Filters=filters) == "FilterLimitExceeded"


@expected("DescribeInstances", "model: MaxResults cannot be used with InstanceIds")
def no_pages_of_ids(on: Client) -> bool:
    _, instances = on.launched()
    params = {"InstanceIds": instances, "MaxResults": 5}
    return on.code_of("describe_instances", **params) == "InvalidParameterCombination"


@expected("DescribeInstances", "observed with botocore: an empty list of ids is no filter at all")
def empty_ids_mean_all(on: Client) -> bool:
    on.launched(2)
    return len(on.ec2.describe_instances(InstanceIds=[])["Reservations"]) == 2


@expected("DescribeInstanceStatus", "model: only running instances unless all are asked for")
def only_running(on: Client) -> bool:
    on.world.script = lambda request: Fate(boot_s=600.0 if request.index else 1.0)
    on.request(2)
    on.world.advance(20.0)
    every = on.ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    running = on.ec2.describe_instance_status()["InstanceStatuses"]
    return (len(every), len(running)) == (2, 1)


@expected("DescribeInstanceStatus", "model, guide: initializing, then ok and passed")
def checks_pass(on: Client) -> bool:
    on.launched()
    shown = []
    for _ in range(2):
        [item] = on.ec2.describe_instance_status()["InstanceStatuses"]
        detail = item["InstanceStatus"]["Details"][0]
        shown.append((item["SystemStatus"]["Status"], detail["Name"], detail["Status"]))
        on.world.advance(60.0)
    first, second = ("initializing", "initializing"), ("ok", "passed")
    return shown == [(s, "reachability", d) for s, d in (first, second)]


@expected("DescribeInstanceStatus", "model: at most 100 ids")
def at_most_100_ids(on: Client) -> bool:
    ids = [f"i-{i:017x}" for i in range(101)]
    return on.code_of("describe_instance_status", InstanceIds=ids) == "InvalidParameterValue"


@expected("DescribeSpotPriceHistory", "model: start = end = now returns the price in force")
def price_now(on: Client) -> bool:
    now = on.world.utc()
    rows = on.ec2.describe_spot_price_history(
        InstanceTypes=["t4g.nano"], ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now
    )["SpotPriceHistory"]
    zones = {row["AvailabilityZone"] for row in rows}
    return len(zones) == len(rows) >= 3 and all(row["Timestamp"] <= now for row in rows)


@expected("GetSpotPlacementScores", "model: ten at most, scores of 1 to 10")
def ten_scores(on: Client) -> bool:
    shown = on.ec2.get_spot_placement_scores(InstanceTypes=["t4g.nano"], TargetCapacity=5)
    rows = shown["SpotPlacementScores"]
    return len(rows) == 10 and all(1 <= row["Score"] <= 10 for row in rows)


@expected("DescribeInstanceTypes", "model: types, with what is sold as spot")
def types(on: Client) -> bool:
    [shown] = on.ec2.describe_instance_types(InstanceTypes=["t4g.nano"])["InstanceTypes"]
    spot = "spot" in shown["SupportedUsageClasses"]
    return spot and shown["ProcessorInfo"]["SupportedArchitectures"] == ["arm64"]


@expected("DescribeRegions", "model: OptInStatus of each")
def regions(on: Client) -> bool:
    rows = on.ec2.describe_regions(AllRegions=True)["Regions"]
    states = {"opt-in-not-required", "opted-in", "not-opted-in"}
    return {row["OptInStatus"] for row in rows} <= states


@expected("any", "steampipe 75: AuthFailure in a region not opted in")
def not_opted_in(on: Client) -> bool:
    with pytest.raises(ClientError) as caught:
        on.client("ec2", "me-central-1").describe_instances()
    return bool(caught.value.response["Error"]["Code"] == "AuthFailure")


@pytest.mark.parametrize(
    "check", [pytest.param(c, id=f"{call}-{c.__name__}") for call, _, c in EXPECTATIONS]
)
def test_it_answers_as_documented_for_ec2(on, check):
    assert check(on)


def test_every_expectation_names_its_source():
    assert all(source.strip() for _, source, _ in EXPECTATIONS)
    assert len(EXPECTATIONS) >= 35


# boto3's own waiters and paginators.


@pytest.fixture
def patient(on, monkeypatch):
    """Between two polls of a waiter, 15 s pass in the world and none in reality."""
    monkeypatch.setattr("botocore.waiter.time", SimpleNamespace(sleep=on.world.advance))
    return on


def test_botocores_waiters_end(patient):
    ids = patient.request(2)
    wait = patient.ec2.get_waiter
    wait("spot_instance_request_fulfilled").wait(SpotInstanceRequestIds=ids)
    instances = [each["InstanceId"] for each in patient.shown(ids)]
    wait("instance_running").wait(InstanceIds=instances)
    wait("instance_status_ok").wait(InstanceIds=instances)
    wait("system_status_ok").wait(InstanceIds=instances)
    patient.ec2.terminate_instances(InstanceIds=instances)
    wait("instance_terminated").wait(InstanceIds=instances)
    assert patient.world.leftovers() == {"requests": [], "instances": []}


@pytest.mark.parametrize("market", [{"MarketType": "spot"}, {}])
def test_botocores_waiters_end_for_a_launch(patient, market):
    launch = patient.asked()["LaunchSpecification"]
    counts = {"MinCount": 2, "MaxCount": 2}
    more = {"InstanceMarketOptions": market} if market else {}
    answer = patient.ec2.run_instances(**launch, **counts, **more)
    instances = [each["InstanceId"] for each in answer["Instances"]]
    for name in ("instance_exists", "instance_running", "instance_status_ok"):
        patient.ec2.get_waiter(name).wait(InstanceIds=instances)
    patient.ec2.terminate_instances(InstanceIds=instances)
    patient.ec2.get_waiter("instance_terminated").wait(InstanceIds=instances)
    assert patient.world.leftovers() == {"requests": [], "instances": []}


def test_the_waiter_for_a_request_that_fails_says_so(patient):
    patient.world.script = lambda _: Fate(fails="bad-parameters")
    ids = patient.request()
    with pytest.raises(WaiterError, match="bad-parameters"):
        patient.ec2.get_waiter("spot_instance_request_fulfilled").wait(SpotInstanceRequestIds=ids)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("describe_spot_instance_requests", "SpotInstanceRequests"),
        ("describe_instances", "Reservations"),
        ("describe_instance_status", "InstanceStatuses"),
        ("describe_instance_types", "InstanceTypes"),
        ("describe_spot_price_history", "SpotPriceHistory"),
    ],
)
def test_botocores_paginators_find_everything_once(on, name, key):
    on.launched(12)
    given = {"InstanceTypes": ["t4g.nano"]} if "price" in name else {}
    pages = on.ec2.get_paginator(name).paginate(**given, PaginationConfig={"PageSize": 5})
    sizes, items = [], []
    for page in pages:
        sizes.append(len(page[key]))
        items += [json.dumps(item, default=str, sort_keys=True) for item in page[key]]
        if len(sizes) == 8:
            break
    assert max(sizes) == 5
    assert len(sizes) > 2
    assert len(set(items)) == len(items)


# Nonsense.

_FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("service", ["ec2", "sqs", "lambda", "dynamodb", "s3", "iam", "nonsense"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (_FORM, b"Action=RunInstances&MinCount=1"),
        (_FORM, b"Action=DescribeVolumes&Volume.1="),
        (_FORM, b"Action="),
        (_FORM, b"\xff\xfe\x00"),
        (_FORM, b"Action=DescribeInstances&Filter.x.Name=1&Filter.1.Value.=2"),
        ("application/x-amz-json-1.1", b"{"),
        ("application/json", b"[]"),
        ("text/html", b"<html>"),
        ("", b""),
    ],
)
def test_nonsense_never_gets_a_page_or_a_500(service, kind, body):
    scope = f"AWS4-HMAC-SHA256 Credential=x/20240901/us-east-1/{service}/aws4_request, Signature=x"
    headers = {"authorization": scope, "content-type": kind}
    status, _, text = answer(World(), "http://localhost/", headers, body)
    assert status < 500
    assert b"<html" not in text.lower()


# The AWS CLI, an independent client.

CLI = """
import json, os, sys, tempfile
from awscli import clidriver

for line in sys.stdin:
    with tempfile.TemporaryFile("w+") as said:
        if (child := os.fork()) == 0:
            os.dup2(said.fileno(), 1)
            sys.argv = ["aws", *json.loads(line)]
            code = clidriver.main()
            sys.stdout.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        said.seek(0)
        print(json.dumps([os.waitstatus_to_exitcode(status), said.read()]), flush=True)
"""


@pytest.fixture
def aws():
    """The CLI against a sandbox; returns JSON.

    Each command is forked from one process: to import the CLI takes longer than what it does.
    """
    if find_spec("awscli") is None:
        pytest.skip("the AWS CLI is not installed beside this Python: pip install awscli")
    world = World(seed=3)
    url = _served(world)
    # The CLI sends ``aws sqs`` to AWS whatever AWS_ENDPOINT_URL says, so it is told each time; if
    # it ever did not obey, it would find no way out.
    names = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    names |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    keys = {"AWS_ACCESS_KEY_ID": "sandbox", "AWS_SECRET_ACCESS_KEY": "sandbox"}
    command, pipes = [sys.executable, "-c", CLI], {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    environment = {**os.environ, **names, **keys, "AWS_PAGER": ""}

    def run(*arguments: str, text: bool = False) -> Any:
        given = ["--endpoint-url", url, *arguments, "--output", "text" if text else "json"]
        process.stdin.write(json.dumps(given) + "\n")
        process.stdin.flush()
        code, said = json.loads(process.stdout.readline())
        assert code == 0, process.communicate()[1]
        return said.strip() if text or not said.strip() else json.loads(said)

    run.advance = world.advance
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        yield run
        process.stdin.close()


def test_the_aws_cli_requests_polls_waits_cancels_and_terminates(aws):
    image = aws("ssm", "get-parameter", "--name", IMAGE, "--query", "Parameter.Value", text=True)
    launch = f"ImageId={image},InstanceType=t4g.nano"
    asked = ("--instance-count", "6", "--launch-specification", launch)
    shown = aws("ec2", "request-spot-instances", *asked)
    ids = [each["SpotInstanceRequestId"] for each in shown["SpotInstanceRequests"]]
    aws.advance(420)
    aws("ec2", "wait", "spot-instance-request-fulfilled", "--spot-instance-request-ids", *ids)
    query = "SpotInstanceRequests[].InstanceId"
    paged = ("describe-spot-instance-requests", "--page-size", "5", "--query", query)
    instances = aws("ec2", *paged)
    assert len(set(instances)) == 6
    aws("ec2", "wait", "instance-running", "--instance-ids", *instances)
    aws("ec2", "wait", "instance-status-ok", "--instance-ids", *instances)
    some = aws("ec2", "describe-instances", "--max-items", "2", "--page-size", "5")
    assert len(some["Reservations"]) == 2
    assert some["NextToken"]
    prices = aws("ec2", "describe-spot-price-history", "--instance-types", "t4g.nano")
    assert prices["SpotPriceHistory"]
    scores = ("get-spot-placement-scores", "--instance-types", "t4g.nano")
    assert aws("ec2", *scores, "--target-capacity", "5")["SpotPlacementScores"]
    cancelled = aws("ec2", "cancel-spot-instance-requests", "--spot-instance-request-ids", *ids)
    assert len(cancelled["CancelledSpotInstanceRequests"]) == 6
    aws("ec2", "terminate-instances", "--instance-ids", *instances)
    aws.advance(120)
    aws("ec2", "wait", "instance-terminated", "--instance-ids", *instances)


def test_the_aws_cli_runs_instances_and_creates_fleets(aws):
    image = aws("ssm", "get-parameter", "--name", IMAGE, "--query", "Parameter.Value", text=True)
    market = "MarketType=spot,SpotOptions={SpotInstanceType=one-time}"
    tags = "ResourceType=instance,Tags=[{Key=batch,Value=a}]"
    shown = aws(
        *("ec2", "run-instances", "--image-id", image, "--instance-type", "t4g.nano"),
        *("--count", "1:3", "--instance-market-options", market, "--tag-specifications", tags),
        *("--instance-initiated-shutdown-behavior", "terminate", "--user-data", "#!/bin/sh"),
    )
    ids = [each["InstanceId"] for each in shown["Instances"]]
    assert len({each["SpotInstanceRequestId"] for each in shown["Instances"]}) == len(ids) == 3
    aws.advance(400)
    aws("ec2", "wait", "instance-running", "--instance-ids", *ids)
    aws("ec2", "wait", "instance-status-ok", "--instance-ids", *ids)
    aws("ec2", "terminate-instances", "--instance-ids", *ids)
    aws.advance(120)
    aws("ec2", "wait", "instance-terminated", "--instance-ids", *ids)

    data = json.dumps({"ImageId": image, "InstanceType": "t4g.nano"})
    made = ("create-launch-template", "--launch-template-name", "cli", "--launch-template-data")
    template = aws("ec2", *made, data)["LaunchTemplate"]["LaunchTemplateId"]
    config = f"LaunchTemplateSpecification={{LaunchTemplateId={template},Version=1}}"
    target = "TotalTargetCapacity=2,DefaultTargetCapacityType=spot"
    asked = ("create-fleet", "--type", "instant", "--launch-template-configs", config)
    fleet = aws("ec2", *asked, "--target-capacity-specification", target)
    [shown] = aws("ec2", "describe-fleets", "--fleet-ids", fleet["FleetId"])["Fleets"]
    [launched], [again] = fleet["Instances"], shown["Instances"]
    assert again["InstanceIds"] == launched["InstanceIds"]
    assert shown["FulfilledCapacity"] == len(launched["InstanceIds"]) == 2
    ends = ("--fleet-ids", fleet["FleetId"], "--terminate-instances")
    assert aws("ec2", "delete-fleets", *ends)["SuccessfulFleetDeletions"]


def test_the_aws_cli_creates_a_fleet_that_waits_and_launches_all_or_nothing_on_demand(aws):
    image = aws("ssm", "get-parameter", "--name", IMAGE, "--query", "Parameter.Value", text=True)
    launch = ("--image-id", image, "--instance-type", "t4g.nano", "--count", "2")  # MinCount too
    together = aws("ec2", "run-instances", *launch)["Instances"]
    assert len(together) == 2
    assert not any("SpotInstanceRequestId" in each for each in together)

    data = json.dumps({"ImageId": image, "InstanceType": "t4g.nano"})
    made = ("create-launch-template", "--launch-template-name", "cli", "--launch-template-data")
    aws("ec2", *made, data)
    config = "LaunchTemplateSpecification={LaunchTemplateName=cli,Version=1}"
    target = "TotalTargetCapacity=2,DefaultTargetCapacityType=spot"
    asked = ("create-fleet", "--type", "request", "--launch-template-configs", config)
    fleet = aws("ec2", *asked, "--target-capacity-specification", target)["FleetId"]
    aws.advance(60)
    [shown] = aws("ec2", "describe-fleets", "--filters", "Name=type,Values=request")["Fleets"]
    assert (shown["FleetId"], shown["FleetState"]) == (fleet, "active")
    assert (shown["ActivityStatus"], shown["FulfilledCapacity"]) == ("fulfilled", 2)
    query = ("describe-fleet-instances", "--query", "ActiveInstances[].InstanceId")
    ids = aws("ec2", *query, "--fleet-id", fleet)
    aws("ec2", "wait", "instance-running", "--instance-ids", *ids)
    ends = aws("ec2", "delete-fleets", "--fleet-ids", fleet, "--terminate-instances")
    assert ends["SuccessfulFleetDeletions"][0]["CurrentFleetState"] == "deleted_terminating"
    aws.advance(120)
    aws("ec2", "wait", "instance-terminated", "--instance-ids", *ids)


def test_the_aws_cli_reads_the_console(aws):
    image = aws("ssm", "get-parameter", "--name", IMAGE, "--query", "Parameter.Value", text=True)
    script = "#!/bin/sh\necho here $(date -u +%Y) > /dev/console\n"
    shown = aws(
        *("ec2", "run-instances", "--image-id", image, "--instance-type", "t4g.nano"),
        *("--count", "1", "--user-data", script),
    )
    read = ("ec2", "get-console-output", "--instance-id", shown["Instances"][0]["InstanceId"])
    assert set(aws(*read)) == {"InstanceId", "Timestamp"}
    aws.advance(120)
    assert "here 2024" in aws(*read, "--latest")["Output"]
    assert "here 2024\r\n" in aws(*read, "--latest", "--query", "Output")
    aws.advance(1200)
    assert "here 2024" in aws(*read, text=True)


def test_the_aws_cli_listens_to_events(aws):
    queue, rule = (f"arn:aws:{kind}:us-east-1:123456789012:" for kind in ("sqs", "events"))
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": f"{queue}cli",
        "Condition": {"ArnEquals": {"aws:SourceArn": f"{rule}rule/cli"}},
    }
    attributes = {"Policy": json.dumps({"Version": "2012-10-17", "Statement": [statement]})}
    made = ("create-queue", "--queue-name", "cli", "--tags", "spotlib:batch=b")
    url = aws("sqs", *made, "--attributes", json.dumps(attributes))["QueueUrl"]
    pattern, tags = json.dumps({"source": ["aws.ec2"]}), "Key=spotlib:batch,Value=b"
    put = ("put-rule", "--name", "cli", "--event-pattern", pattern, "--tags", tags)
    assert aws("events", *put)["RuleArn"] == f"{rule}rule/cli"
    aws("events", "put-targets", "--rule", "cli", "--targets", f"Id=queue,Arn={queue}cli")
    aws.advance(1800)  # other users' instances have events
    names = ("--message-system-attribute-names", "SentTimestamp", "ApproximateReceiveCount")
    asked = ("receive-message", "--queue-url", url, "--wait-time-seconds", "20")
    [message] = aws("sqs", *asked, *names)["Messages"]
    assert json.loads(message["Body"])["source"] == "aws.ec2"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    receipt = ("--receipt-handle", message["ReceiptHandle"])
    aws("sqs", "delete-message", "--queue-url", url, *receipt)
    aws("events", "remove-targets", "--rule", "cli", "--ids", "queue")
    aws("events", "delete-rule", "--name", "cli")
    aws("sqs", "delete-queue", "--queue-url", url)
    aws.advance(60)
    assert not aws("sqs", "list-queues")

"""The sandbox behind HTTP: plain boto3 from another process, control paths, faults, idleness."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from subprocess import PIPE
from types import SimpleNamespace

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.parsers import ResponseParserError
from programs import PATIENCE_S, marked, served, until

from spotlib.__main__ import main
from spotlib.sandbox import catalogue, wire
from spotlib.sandbox.faults import lose_answer
from spotlib.sandbox.world import World

from .listening import STATE, listen, received, said

IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"


@contextmanager
def started(*options):
    """A sandbox in its own process; yields the facts it prints when it is ready."""
    command = [sys.executable, "-m", "spotlib.sandbox.server", "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate()


def plain(service, url):
    return boto3.client(
        service,
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=PATIENCE_S
        ),
    )


def control(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(
        url + path, data=data, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def test_the_events_of_an_instance_come_over_http_in_real_time():
    options = ("--speed", "20", "--events", "lost_share=0,delay_median_s=0,foreign_per_hour=0")
    with started("--seed", "3", *options) as ready:
        account = SimpleNamespace(client=lambda service: plain(service, ready["url"]))
        url = listen(account, pattern={"detail-type": [STATE]})
        assert url == f"{ready['url']}/123456789012/heard"
        image = account.client("ssm").get_parameter(Name=IMAGE)["Parameter"]["Value"]
        launch = {"ImageId": image, "InstanceType": "t4g.nano", "MinCount": 1, "MaxCount": 1}
        [instance] = account.client("ec2").run_instances(**launch)["Instances"]
        events = []
        while len(events) < 2:
            events += said(received(account, url, WaitTimeSeconds=20))
        assert {event["detail"]["state"] for event in events} == {"pending", "running"}
        ids = {event["detail"]["instance-id"] for event in events}
        assert ids == {instance["InstanceId"]}
        assert list(control(ready["url"], "/sandbox/leftovers")) == [
            "requests", "instances", "queues", "rules"
        ]  # fmt: skip


def test_plain_boto3_requests_describes_cancels_and_terminates():
    with started("--virtual", "--seed", "3") as ready:
        url = ready["url"]
        ec2 = plain("ec2", url)
        image = plain("ssm", url).get_parameter(Name=IMAGE)["Parameter"]["Value"]
        asked = ec2.request_spot_instances(
            InstanceCount=2, LaunchSpecification={"ImageId": image, "InstanceType": "t4g.nano"}
        )
        ids = [item["SpotInstanceRequestId"] for item in asked["SpotInstanceRequests"]]
        control(url, "/sandbox/advance", {"seconds": 420})
        shown = ec2.describe_spot_instance_requests(SpotInstanceRequestIds=ids)
        instances = [item["InstanceId"] for item in shown["SpotInstanceRequests"]]
        statuses = ec2.describe_instance_status(InstanceIds=instances)["InstanceStatuses"]
        assert [s["InstanceStatus"]["Status"] for s in statuses] == ["ok", "ok"]

        ec2.cancel_spot_instance_requests(SpotInstanceRequestIds=ids)
        ec2.terminate_instances(InstanceIds=instances)
        assert control(url, "/sandbox/leftovers") == {"requests": [], "instances": []}
        truth = control(url, "/sandbox/truth")
        assert all("ready" in request["happened_s"] for request in truth)


def test_it_says_which_world_it_is_and_what_time_it_has():
    options = ("--market", "tight/7", "--quota-vcpus", "5", "--date", "2025-05-01T12:00")
    with started("--virtual", "--seed", "3", *options) as ready:
        about = control(ready["url"], "/sandbox")
        assert about == {key: value for key, value in ready.items() if key != "url"}
        assert (about["seed"], about["market"], about["mode"]) == (3, "tight/7", "virtual")
        assert about["epoch"] == "2025-05-01T12:00:00+00:00"
        assert control(ready["url"], "/sandbox/advance", {"seconds": 1.5}) == {"now_s": 1.5}
        assert control(ready["url"], "/sandbox/now") == {"now_s": 1.5}
        asked = plain("ec2", ready["url"]).describe_spot_price_history(InstanceTypes=["t3.nano"])
        newest_at = asked["SpotPriceHistory"][0]["Timestamp"]
        assert newest_at.strftime("%Y-%m") in ("2025-04", "2025-05")


def test_scaled_time_runs_and_refuses_to_be_advanced():
    with started("--speed", "1000") as ready:
        url = ready["url"]
        first = control(url, "/sandbox/now")["now_s"]
        assert control(url, "/sandbox/now")["now_s"] > first
        with pytest.raises(urllib.error.HTTPError) as caught:
            control(url, "/sandbox/advance", {"seconds": 1})
        assert caught.value.code == 400
        caught.value.close()


def test_started_by_hand_it_prints_how_to_use_it_and_ends_when_idle():
    command = [sys.executable, "-m", "spotlib.sandbox.server", "--idle-s", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert "export AWS_ENDPOINT_URL=http://127.0.0.1:" in done.stdout
    assert "nothing costs money" in done.stdout
    assert done.stderr == ""


def test_http_answers_equal_those_in_process():
    world = World()
    url = served(world)
    ec2 = plain("ec2", url)
    assert ec2.describe_instances()["Reservations"] == []
    with pytest.raises(ClientError, match="InvalidInstanceID"):
        ec2.describe_instances(InstanceIds=["i-1"])
    assert [call.action for call in world.calls] == ["DescribeInstances"] * 2


def test_a_lost_answer_drops_the_socket():
    world = World()
    world.faults.append(lose_answer("DescribeInstances"))
    url = served(world)
    ec2 = plain("ec2", url)
    with pytest.raises(ConnectionClosedError):
        ec2.describe_instances()
    assert ec2.describe_instances()["Reservations"] == []


def test_a_fault_can_be_ordered_over_http():
    url = served(World())
    order = {
        "fault": "fail",
        "action": "DescribeInstances",
        "code": "RequestLimitExceeded",
        "nth": 1,
    }
    assert control(url, "/sandbox/faults", order) == {"faults": 1}
    ec2 = plain("ec2", url)
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        ec2.describe_instances()
    ec2.describe_instances()


def test_faults_end_when_cleared_and_those_that_fired_are_reported():
    url = served(World())
    control(url, "/sandbox/faults", {"fault": "unavailable"})
    ec2 = plain("ec2", url)
    with pytest.raises(ClientError, match="Unavailable"):
        ec2.describe_instances()
    assert control(url, "/sandbox/faults/clear", {}) == {"faults": 0}
    ec2.describe_instances()
    [fired] = control(url, "/sandbox/fired")
    assert (fired["fault"], fired["action"]) == ("unavailable", "DescribeInstances")


def test_hostility_can_be_ordered_on_the_command_line():
    options = ["--fault", "malformed:action=DescribeVpcs", "--fault", "dns:action=DescribeSubnets"]
    options += ["--company", "--page-most", "2", "--throttled"]
    with started("--virtual", *options) as ready:
        ec2 = plain("ec2", ready["url"])
        assert len(ec2.describe_instances()["Reservations"]) == 2
        everything = ec2.get_paginator("describe_instances").paginate().build_full_result()
        assert len(everything["Reservations"]) == 9
        with pytest.raises(ResponseParserError):
            ec2.describe_vpcs()
        with pytest.raises(ConnectionClosedError):
            ec2.describe_subnets()
        assert control(ready["url"], "/sandbox/touched") == []
        assert control(ready["url"], "/sandbox/truth") == []


def test_the_advisor_file_is_served_whole_or_for_some_regions(monkeypatch):
    monkeypatch.setattr(catalogue, "DEFAULT_REGIONS", ("eu-west-1", "sa-east-1", "us-east-1"))
    url = served(World())
    two = control(url, "/spot-advisor-data.json?region=sa-east-1&region=us-east-1")
    assert list(two["spot_advisor"]) == ["sa-east-1", "us-east-1"]
    whole = control(url, "/spot-advisor-data.json")
    assert list(whole["spot_advisor"]) == ["eu-west-1", "sa-east-1", "us-east-1"]
    assert whole | {"spot_advisor": two["spot_advisor"]} == two
    assert whole["spot_advisor"]["us-east-1"] == two["spot_advisor"]["us-east-1"]


def test_it_listens_on_loopback_only():
    url = served(World())
    assert url.startswith("http://127.0.0.1:")
    assert os.environ.get("AWS_ENDPOINT_URL") is None


# What a stranger on this machine, or a web page in its browser, may try.

FORM = "application/x-www-form-urlencoded"
SCOPE = "AWS4-HMAC-SHA256 Credential=x/20240901/us-east-1/ec2/aws4_request, Signature=x"


def sent(url, head, body=b"", *, method="POST /"):
    """The answer to these bytes, until the server closes the connection; its Host is right."""
    port = int(url.rpartition(":")[2])
    lines = {"Host": f"127.0.0.1:{port}", "Connection": "close", **head}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(f"{method} HTTP/1.1\r\n{text}\r\n".encode() + body)
        with client.makefile("rb") as answer:
            return answer.read()


def status_of(answer):
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://127.0.0.1:8888"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain", "Content-Length": "2"}, 415),
        ({"Content-Type": FORM, "Content-Length": "2"}, 415),
        ({"Content-Length": "-1"}, 411),
        ({"Content-Length": "two"}, 411),
        ({"Content-Length": "\u00b2"}, 411),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "1048577"}, 413),
        ({"Content-Length": "9" * 5000}, 413),
    ],
)
def test_what_no_program_of_this_machine_sends_is_refused(head, status):
    world = World()
    head = {"Content-Type": "application/json", "Authorization": SCOPE, **head}
    answered = sent(served(world), head, b"{}", method="POST /sandbox/advance")
    assert status_of(answered) == status
    assert b"<" not in answered
    assert (world.now_s, world.calls) == (0.0, [])


def test_names_of_this_machine_are_no_foreign_host():
    url = served(World())
    for host in ("localhost", "127.0.0.1", "[::1]:80", "LOCALHOST:1"):
        assert status_of(sent(url, {"Host": host}, method="GET /sandbox/now")) == 200


def test_a_call_of_another_content_type_is_refused_before_it_is_executed():
    world = World()
    body = b"Action=DescribeInstances"
    head = {"Authorization": SCOPE, "Content-Type": "text/plain", "Content-Length": len(body)}
    assert status_of(sent(served(world), head, body)) == 415
    assert [call.code for call in world.calls] == ["MalformedQueryString"]


@pytest.mark.parametrize("seconds", [31 * 86400 + 1, 1e300, "Infinity", "nan", -1])
def test_a_jump_of_time_beyond_sense_is_refused(seconds):
    world = World()
    url = served(world)
    with pytest.raises(urllib.error.HTTPError) as caught:
        control(url, "/sandbox/advance", {"seconds": seconds})
    with caught.value:
        assert caught.value.code == 400
    assert world.now_s == 0.0


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b"[1]", b"null", b"{", b'{"seconds": 1' + b"0" * 400 + b"}"]
)
def test_a_control_call_that_is_no_object_is_refused_in_one_sentence(body):
    head = {"Content-Type": "application/json", "Content-Length": len(body)}
    answered = sent(served(World()), head, body, method="POST /sandbox/advance")
    assert status_of(answered) == 400
    assert b"Traceback" not in answered


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_thousands_of_filters_are_refused_at_once_and_hold_nobody_up(count):
    def asked(filters):
        pairs = (f"&Filter.{i}.Name=vpc-id&Filter.{i}.Value.1=a" for i in range(1, filters + 1))
        body = ("Action=DescribeInstances" + "".join(pairs)).encode()
        head = {"Authorization": SCOPE, "Content-Type": FORM, "Content-Length": len(body)}
        return status_of(sent(url, head, body))

    url = served(World())
    assert asked(1) == 200  # the first call also imports what the sandbox is built on
    began_s = time.process_time()
    assert asked(count) == 400
    assert time.process_time() - began_s < 1.0


def test_a_long_request_is_read_without_holding_the_world():
    """Another thread holds the world's lock; the request is parsed all the same."""
    world = World()
    body = b"Action=Nothing"
    head = {"authorization": SCOPE, "content-type": FORM}
    handler = wire._Handler(world, None)
    held, go = threading.Event(), threading.Event()

    def hold():
        with world.lock:
            held.set()
            go.wait(PATIENCE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(PATIENCE_S)
    handler.read("http://127.0.0.1/", head, body)
    go.set()
    holder.join()
    assert handler.parsed.code == "InvalidAction"


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST / HT",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\nAction=",
    ],
)
def test_a_client_that_sends_no_whole_request_is_hung_up_on(begun):
    url = served(World(), silent_s=0.3)
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(begun)
        with suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_a_client_that_dies_mid_answer_leaves_no_traceback():
    command = [sys.executable, "-m", "spotlib.sandbox.server", "--json"]
    process = subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True)
    url = json.loads(process.stdout.readline())["url"]
    port = int(url.rpartition(":")[2])
    body = b"Action=DescribeInstanceTypes"  # its answer is too long for the buffers
    request = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {SCOPE}\r\n"
        f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(request.encode() + body)
            assert client.recv(10)
            # Closed with unread data: the server's next write fails.
    plain("ec2", url).describe_regions()  # it still answers
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (0, "")


# How it ends.


def test_it_ends_with_those_who_hold_its_input_if_nothing_is_left():
    command = [sys.executable, "-m", "spotlib.sandbox.server", "--json", "--end-with-stdin"]
    process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
    url = json.loads(process.stdout.readline())["url"]
    holder = os.dup(process.stdin.fileno())  # as a guard has it
    plain("ec2", url).describe_instances()
    process.stdin.close()
    time.sleep(0.3)
    assert process.poll() is None
    os.close(holder)
    assert process.wait(PATIENCE_S) == 0
    process.stdout.close()


def test_with_work_left_it_outlives_those_who_hold_its_input():
    """A sweep must still find what a killed collector and a killed guard left."""
    command = [sys.executable, "-m", "spotlib.sandbox.server", "--json", "--end-with-stdin"]
    process = subprocess.Popen([*command, "--virtual"], stdin=PIPE, stdout=PIPE, text=True)
    url = json.loads(process.stdout.readline())["url"]
    image = plain("ssm", url).get_parameter(Name=IMAGE)["Parameter"]["Value"]
    launch = {"ImageId": image, "InstanceType": "t4g.nano"}
    plain("ec2", url).request_spot_instances(LaunchSpecification=launch)
    process.stdin.close()
    time.sleep(0.3)
    assert control(url, "/sandbox/leftovers")["requests"]
    process.terminate()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    "end", [pytest.param("raise SystemExit(1)", marks=pytest.mark.chaos), "os.kill(os.getpid(), 9)"]
)
def test_a_program_that_launches_nothing_leaves_no_sandbox_behind(end, tmp_path):
    """As a notebook that is refused by its preflight: it never closes its connection."""
    mark = f"SPOTLIB_TEST={tmp_path}"
    program = (
        "import os; from spotlib import connect; c = connect('sandbox', seed=1); "
        f"c.call('us-east-1', 'describe_regions'); "
        f"print('connected', flush=True); __import__('time').sleep(1.0); {end}"
    )
    command = ["env", mark, sys.executable, "-W", "ignore", "-c", program]
    process = subprocess.Popen(command, stdout=PIPE)
    assert process.stdout.readline() == b"connected\n"
    assert len(marked(mark)) >= 2  # it and its sandbox
    process.communicate(timeout=PATIENCE_S)
    until(lambda: not marked(mark))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        *(
            ("--date", date, "--date must be ")
            for date in ("yesterday", "1999-01-01", "2100-01-01")
        ),
        ("--fault", "lose_answer:action=CreateFleetx", "action must be one that the sandbox ans"),
        ("--fault", "nix", "fault must be one of fail, throttled"),
        ("--template-unknown-s", "-1", "need template_unknown_s >= 0, got -1.0"),
        ("--unknown-s", "nan", "need unknown_s >= 0, got nan"),
        ("--lag-s", "-1", "need id_lag_s >= 0, got -1.0"),
        ("--page-most", "0", "need page_most >= 1, got 0"),
        ("--empty-share", "2", "need 0 <= empty_share <= 1, got 2.0"),
        ("--silent-share", "2", "need 0 <= silent_share <= 1, got 2.0"),
        ("--clock-off-s", "inf", "need a finite clock_off_s or None, got inf"),
        ("--events", "lost_share=2", "need a finite 0 <= lost_share <= 1, got 2.0"),
        ("--events", "lost=1", "--events has the settings lost_share, "),
        ("--events", "lost_share", "--events must be a number, such as 2.5, got ''"),
        ("--on-demand-vcpus", "-3", "on_demand_vcpus >= 0, got 1000.0, -3.0"),
        ("--quota-vcpus", "-3", "need quota_vcpus >= 0 and"),
    ],
)
def test_an_option_that_no_world_could_have_is_refused_in_one_sentence(
    option, value, words, capsys
):
    assert main(["sandbox", f"{option}={value}", "--idle-s", "0.1"]) == 2
    assert words in capsys.readouterr().err


def test_a_fault_of_an_unknown_action_is_refused_over_http_too():
    world, body = World(), b'{"fault": "throttled", "action": "CreateFleetx"}'
    head = {"Content-Type": "application/json", "Content-Length": len(body)}
    assert status_of(sent(served(world), head, body, method="POST /sandbox/faults")) == 400
    assert world.faults == []


def test_a_port_that_is_none_or_in_use_is_one_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["sandbox", "--port", str(port)]) == 2
    words = f"error: port {port} cannot be listened on (Address already in use): choose another"
    assert capsys.readouterr().err.startswith(words)
    for port in ("99999", "-1", "http"):
        assert main(["sandbox", f"--port={port}"]) == 2
        assert f"must be a port from 0 to 65535, got '{port}'" in capsys.readouterr().err

"""The sandbox behind HTTP: plain boto3 from another process, control paths, faults, idleness."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from botocore.parsers import ResponseParserError
from programs import PATIENCE_S, served

from spotlib.sandbox.faults import lose_answer
from spotlib.sandbox.world import World

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
    with started("--virtual", "--seed", "3", "--market", "tight/7", "--quota-vcpus", "5") as ready:
        about = control(ready["url"], "/sandbox")
        assert about == {key: value for key, value in ready.items() if key != "url"}
        assert (about["seed"], about["market"], about["mode"]) == (3, "tight/7", "virtual")
        assert control(ready["url"], "/sandbox/advance", {"seconds": 1.5}) == {"now_s": 1.5}
        assert control(ready["url"], "/sandbox/now") == {"now_s": 1.5}


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


def test_the_advisor_file_is_served():
    url = served(World())
    assert "us-east-1" in control(url, "/spot-advisor-data.json")["spot_advisor"]


def test_it_listens_on_loopback_only():
    url = served(World())
    assert url.startswith("http://127.0.0.1:")
    assert os.environ.get("AWS_ENDPOINT_URL") is None

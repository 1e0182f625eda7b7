"""How many polls per second the sandbox answers, in-process and over HTTP, against stock moto.

``python benchmarks/sandbox_speed.py [--requests 10 100] [--regions 1] [--seconds 1] [--long]``.
A poll is the one of ``spotlib.ec2.poll``: requests by tag, instances by request, status of running
instances.  For moto it is the same three calls for the same number of instances, unfiltered because
moto lacks these filters, answered by its backend in-process under ``mock_aws``; the result is a
ratio.  ``--long`` also times a launch of 5 and one of 1,000 in 5 regions from request to clean.
"""

import argparse
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from spotlib.collect.preflight import preflight
from spotlib.collect.rounds import collect_batch
from spotlib.ec2.calls import TAG_ROUND
from spotlib.ec2.connection import Connection
from spotlib.ec2.endpoints import connect, connect_in_process
from spotlib.ec2.poll import poll
from spotlib.ec2.spot_requests import see_requests
from spotlib.model import Target, plan_launches
from spotlib.sandbox.server import serve
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import Fate, World

REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-northeast-1", "sa-east-1")
IMAGE = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
QUICK = Fate(boot_s=5.0, ok_s=1e9)


def in_process(world: World) -> Connection:
    """A connection without a socket."""
    return connect_in_process(world, partial(attach, world))


def over_http(world: World) -> Connection:
    """A connection to a server in a thread of this process."""
    where: queue.Queue[str] = queue.Queue()
    given = {"idle_s": 60.0, "ready": where.put}
    threading.Thread(target=serve, args=(world,), kwargs=given, daemon=True).start()
    return connect(where.get(timeout=10))


def launched(connection: Connection, region: str, count: int) -> list[str]:
    """The ids of ``count`` running requests."""
    image = connection.call(region, "get_parameter", service="ssm", Name=IMAGE)
    tags = [{"Key": TAG_ROUND, "Value": "round"}]
    reply = connection.call(
        region,
        "request_spot_instances",
        InstanceCount=count,
        TagSpecifications=[{"ResourceType": "spot-instances-request", "Tags": tags}],
        LaunchSpecification={
            "ImageId": image["Parameter"]["Value"],
            "InstanceType": "t3.nano",
        },
    )
    return [item["SpotInstanceRequestId"] for item in reply["SpotInstanceRequests"]]


def rate(work: Callable[[], object], seconds: float) -> float:
    """Repetitions of ``work`` per second, after one that is not measured."""
    work()
    began_s, done = time.perf_counter(), 0
    while done == 0 or time.perf_counter() - began_s < seconds:
        work()
        done += 1
    return done / (time.perf_counter() - began_s)


def sandbox_rate(
    make: Callable[[World], Connection], requests: int, regions: Sequence[str], seconds: float
) -> float:
    """Polls per second for ``requests`` in total, spread over the regions."""
    world = World(script=lambda _: QUICK, quota_vcpus=1e6)
    connection = make(world)
    ids = {region: launched(connection, region, requests // len(regions)) for region in regions}
    world.advance(30.0)

    def around() -> None:
        for region in regions:
            seen = poll(connection, region, round_tag="round", rows={see_requests: ids[region]})
            if seen.error or len(seen.sightings) != len(ids[region]):
                raise RuntimeError(f"the poll is incomplete: {seen.error}")

    return rate(around, seconds) * len(regions)


def moto_rate(requests: int, seconds: float) -> float:
    """Polls per second of stock moto: its own backend, in-process."""
    import boto3  # noqa: PLC0415
    from moto import mock_aws  # noqa: PLC0415

    os.environ.setdefault("AWS_ACCESS_KEY_ID", "moto")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "moto")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-east-1")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        launch = {"ImageId": image, "InstanceType": "t3.nano"}
        ec2.request_spot_instances(InstanceCount=requests, LaunchSpecification=launch)

        def around() -> None:
            ec2.describe_spot_instance_requests()
            for _ in ec2.get_paginator("describe_instances").paginate():
                pass
            ec2.describe_instance_status()

        return rate(around, seconds)


def whole(count: int, regions: Sequence[str]) -> float:
    """Seconds of a batch from request to clean, without its preflight."""
    world = World(seed=1, quota_vcpus=1e6)
    connection = in_process(world)
    targets = [Target("t3.nano", region) for region in regions]
    checked = preflight(connection, plan_launches(targets, count=count // len(regions)))
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        collect_batch(connection, checked.require(), log=Path(folder) / "batch.jsonl", seed=1)
    if world.leftovers() != {"requests": [], "instances": []}:
        raise RuntimeError("something is left")
    return time.perf_counter() - began_s


def main() -> None:
    """Print polls per second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--regions", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--long", action="store_true", help="also whole batches of 5 and 1,000")
    given = parser.parse_args()
    print("requests regions  in-process/s  HTTP/s  moto/s  in-process over moto  us per request")
    for requests in given.requests:
        stock = moto_rate(requests, given.seconds)
        for count in given.regions:
            some = REGIONS[:count]
            here = sandbox_rate(in_process, requests, some, given.seconds)
            http = sandbox_rate(over_http, requests, some, given.seconds)
            each_us = 1e6 / here / (requests / count)
            ratio = f"{here / stock:.1f}" if count == 1 else "-"
            print(
                f"{requests:8} {count:7} {here:13.1f} {http:7.1f} {stock:7.2f} {ratio:>21}"
                f" {each_us:15.0f}"
            )
    if given.long:
        whole(5, REGIONS[:1])  # imports and caches
        print(f"5 requests in 1 region, request to clean: {whole(5, REGIONS[:1]):.1f} s")
        print(f"1,000 requests in 5 regions, request to clean: {whole(1000, REGIONS):.0f} s")


if __name__ == "__main__":
    main()

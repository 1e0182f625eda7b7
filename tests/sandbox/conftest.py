"""A pretend account for the tests: a world, clients attached to it, and the usual request."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config

from spotlib.sandbox.market import Market
from spotlib.sandbox.wire import attach
from spotlib.sandbox.world import World

SWITCH = base64.b64encode(b"#!/bin/sh\nshutdown -h +15 'test'\n").decode()
IMAGE_NAME = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"


@cache
def _client(service: str, region: str) -> Any:
    return boto3.client(
        service,
        region_name=region,
        aws_access_key_id="sandbox",
        aws_secret_access_key="sandbox",
        config=Config(retries={"mode": "standard", "total_max_attempts": 1}),
    )


@dataclass
class Account:
    """A world and the most frequent calls of its clients."""

    world: World
    region: str = "us-east-1"
    images: dict[str, str] = field(default_factory=dict)

    def client(self, service: str, region: str | None = None) -> Any:
        client = _client(service, region or self.region)
        attach(self.world, client)
        return client

    @property
    def ec2(self) -> Any:
        return self.client("ec2")

    def image(self, architecture: str = "arm64") -> str:
        if architecture not in self.images:
            name = IMAGE_NAME.format(architecture)
            answer = self.client("ssm").get_parameter(Name=name)
            self.images[architecture] = answer["Parameter"]["Value"]
        return self.images[architecture]

    def asked(self, count: int = 1, launch: dict[str, Any] | None = None, **more: Any) -> Any:
        """The parameters of the usual request, with changes."""
        usual = {"ImageId": self.image(), "InstanceType": "t4g.nano"}
        return {"InstanceCount": count, "LaunchSpecification": {**usual, **(launch or {})}, **more}

    def request(
        self, count: int = 1, launch: dict[str, Any] | None = None, **more: Any
    ) -> list[str]:
        answer = self.ec2.request_spot_instances(**self.asked(count, launch, **more))
        return [item["SpotInstanceRequestId"] for item in answer["SpotInstanceRequests"]]

    def to_run(self, most: int = 1, *, least: int = 1, spot: bool = True, **more: Any) -> Any:
        """The parameters of the usual RunInstances, with changes."""
        options = {"InstanceMarketOptions": {"MarketType": "spot"}} if spot else {}
        usual = {"ImageId": self.image(), "InstanceType": "t4g.nano"}
        return {**usual, "MinCount": least, "MaxCount": most, **options, **more}

    def run(self, most: int = 1, **more: Any) -> list[str]:
        answer = self.ec2.run_instances(**self.to_run(most, **more))
        return [item["InstanceId"] for item in answer["Instances"]]

    def template(self, name: str = "usual", **data: Any) -> str:
        usual = {"ImageId": self.image(), "InstanceType": "t4g.nano", **data}
        answer = self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=usual)
        return str(answer["LaunchTemplate"]["LaunchTemplateId"])

    def to_fleet(
        self,
        template: str,
        target: int = 1,
        *overrides: dict[str, Any],
        kind: str = "instant",
        spot: bool = True,
        **more: Any,
    ) -> Any:
        """The parameters of a fleet from this template, with changes."""
        named = {"LaunchTemplateId": template, "Version": "1"}
        config = {"LaunchTemplateSpecification": named, "Overrides": list(overrides)}
        purchase = "spot" if spot else "on-demand"
        return {
            "Type": kind,
            "LaunchTemplateConfigs": [config],
            "TargetCapacitySpecification": {
                "TotalTargetCapacity": target,
                "DefaultTargetCapacityType": purchase,
            },
            **more,
        }

    def requests(self, ids: list[str]) -> list[dict[str, Any]]:
        answer = self.ec2.describe_spot_instance_requests(SpotInstanceRequestIds=ids)
        return list(answer["SpotInstanceRequests"])

    def codes(self, ids: list[str]) -> list[str]:
        return [item["Status"]["Code"] for item in self.requests(ids)]

    def instances(self, ids: list[str]) -> list[dict[str, Any]]:
        filters = [{"Name": "spot-instance-request-id", "Values": ids}]
        answer = self.ec2.describe_instances(Filters=filters)
        return [item["Instances"][0] for item in answer["Reservations"]]

    def states(self, ids: list[str]) -> list[str]:
        return [item["State"]["Name"] for item in self.instances(ids)]

    def statuses(self) -> list[dict[str, Any]]:
        return list(self.ec2.describe_instance_status()["InstanceStatuses"])

    def until(self, shown: Callable[[], bool], *, within_s: float = 900.0) -> None:
        """Advance second by second until ``shown`` is true."""
        deadline_s = self.world.now_s + within_s
        while not shown():
            assert self.world.now_s < deadline_s, "never shown"
            self.world.advance(1.0)


@pytest.fixture
def make_account() -> Callable[..., Account]:
    """Make an account, by default in the calm market, where each pool accepts what it can hold."""
    return lambda **settings: Account(World(**{"market": Market(profile="calm"), **settings}))


@pytest.fixture
def account(make_account: Callable[..., Account]) -> Account:
    return make_account()

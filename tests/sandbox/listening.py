"""Queues and rules as boto3 makes them, for the tests of both."""

import json
from typing import Any

from spotlib.sandbox.world import Delivery

KINDS = (
    "EC2 Instance State-change Notification",
    "EC2 Spot Instance Request Fulfillment",
    "EC2 Spot Instance Interruption Warning",
    "EC2 Instance Rebalance Recommendation",
)
STATE, FULFILLED, WARNING, REBALANCE = KINDS
PATTERN = {"source": ["aws.ec2"], "detail-type": list(KINDS)}
NAMES = ["SentTimestamp", "ApproximateReceiveCount"]


def perfect(**more: Any) -> Delivery:
    """Nothing is lost, doubled, late or foreign."""
    none = {"lost_share": 0.0, "doubled_share": 0.0, "delay_most_s": 0.0, "foreign_per_hour": 0.0}
    return Delivery(**{**none, **more})


def arn(kind: str, name: str, region: str = "us-east-1") -> str:
    return f"arn:aws:{kind}:{region}:123456789012:{name}"


def allowing(name: str, **more: Any) -> dict[str, Any]:
    """The usual statement of a queue's policy, with changes."""
    return {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn("sqs", name),
        "Condition": {"ArnEquals": {"aws:SourceArn": arn("events", f"rule/{name}")}},
        **more,
    }


def listen(account: Any, name: str = "heard", pattern: Any = PATTERN, **rule: Any) -> str:
    """Make a queue and a rule that sends it events; return the queue's URL."""
    events = account.client("events")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowing(name)]})
    attributes = {"MessageRetentionPeriod": "3600", "Policy": policy}
    made = account.client("sqs").create_queue(QueueName=name, Attributes=attributes)
    events.put_rule(Name=name, EventPattern=json.dumps(pattern), **rule)
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn("sqs", name)}])
    return str(made["QueueUrl"])


def received(account: Any, url: str, **more: Any) -> list[dict[str, Any]]:
    given = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": NAMES, **more}
    answer = account.client("sqs").receive_message(QueueUrl=url, **given)
    return list(answer.get("Messages", []))


def heard(account: Any, url: str) -> list[dict[str, Any]]:
    """All messages that can be received now; they are deleted."""
    found: list[dict[str, Any]] = []
    while messages := received(account, url):
        entries = [
            {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
            for number, each in enumerate(messages)
        ]
        deleted = account.client("sqs").delete_message_batch(QueueUrl=url, Entries=entries)
        assert len(deleted["Successful"]) == len(messages)
        found += messages
    return found


def said(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events in some messages."""
    return [json.loads(each["Body"]) for each in messages]


def sent_s(account: Any, message: dict[str, Any]) -> float:
    """When a message came into its queue, on the world's clock."""
    return int(message["Attributes"]["SentTimestamp"]) / 1000 - account.world.posix(0.0)

"""EC2's events through EventBridge's rules into SQS's queues, as boto3 meets them."""

import json

import pytest
from botocore.exceptions import ClientError

from spotlib.sandbox.world import Delivery

PATTERN = {
    "source": ["aws.ec2"],
    "detail-type": [
        "EC2 Instance State-change Notification",
        "EC2 Spot Instance Request Fulfillment",
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
    ],
}
PERFECT = {
    "lost_share": 0.0,
    "doubled_share": 0.0,
    "delay_most_s": 0.0,
    "foreign_per_hour": 0.0,
}


def listen(account, name="heard", pattern=None, policy=True):
    """Make a queue and a rule; return the queue's URL."""
    sqs, events = account.client("sqs"), account.client("events")
    arn = f"arn:aws:sqs:{account.region}:{account.world.account_id}:{name}"
    rule = events.put_rule(Name=name, EventPattern=json.dumps(pattern or PATTERN), State="ENABLED")[
        "RuleArn"
    ]
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }
    attributes = {"MessageRetentionPeriod": "3600"}
    if policy:
        attributes["Policy"] = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    return url


def heard(account, url):
    """All messages that can be received now; they are deleted."""
    sqs, found = account.client("sqs"), []
    while True:
        messages = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=10,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        ).get("Messages", [])
        if not messages:
            return found
        found += messages
        entries = [
            {"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]}
            for number, each in enumerate(messages)
        ]
        assert "Failed" not in sqs.delete_message_batch(QueueUrl=url, Entries=entries)


def said(message):
    event = json.loads(message["Body"])
    return event["detail"].get("state", event["detail-type"]), event


@pytest.fixture
def perfect(make_account):
    return lambda **more: make_account(events=Delivery(**{**PERFECT, **more}))


def test_the_events_of_an_instance_arrive_in_the_queue(perfect):
    account = perfect()
    url = listen(account)
    [request] = account.request()
    account.until(lambda: account.states([request]) == ["running"])
    instance = account.instances([request])[0]["InstanceId"]
    account.ec2.terminate_instances(InstanceIds=[instance])
    account.world.advance(600.0)
    messages = heard(account, url)
    [truth] = account.world.truth()
    events = dict(said(each) for each in messages)
    happened = truth["happened_s"]
    moments = {
        "pending": happened["fulfilled"],
        "EC2 Spot Instance Request Fulfillment": happened["fulfilled"],
        "running": happened["running"],
        "shutting-down": happened["shutting-down"],
        "terminated": happened["ended"],
    }
    assert set(events) == set(moments)
    for name, at_s in moments.items():
        event = events[name]
        assert event["time"] == f"{account.world.utc(at_s):%Y-%m-%dT%H:%M:%SZ}"
        assert event["detail"]["instance-id"] == instance
        arn = f"arn:aws:ec2:us-east-1:123456789012:instance/{instance}"
        assert event["resources"] == [arn]
    for each in messages:
        name, _ = said(each)
        sent_s = int(each["Attributes"]["SentTimestamp"]) / 1000 - account.world.posix(0.0)
        assert sent_s == pytest.approx(moments[name], abs=0.0011)
    assert heard(account, url) == []


def test_a_queue_whose_policy_does_not_allow_the_rule_gets_nothing(perfect):
    account = perfect()
    url = listen(account, policy=False)
    account.request()
    account.world.advance(600.0)
    assert heard(account, url) == []


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]

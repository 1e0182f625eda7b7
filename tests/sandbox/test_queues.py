"""Queues of SQS as boto3 meets them: their rules, their errors, their messages, their end."""

import json
import threading
import time

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from spotlib.sandbox.faults import Fault, lose_answer
from spotlib.sandbox.world import Delivery, Fate, ScaledTime

from .listening import NAMES, PATTERN, allowing, arn, heard, listen, perfect, received, sent_s

REGION = "us-east-1"
QUICK = Fate(evaluate_s=0.5, in_flight_s=0.5, boot_s=2.0, ok_s=5.0)
GONE = "AWS.SimpleQueueService.NonExistentQueue"


def refusal(call, **params):
    with pytest.raises(ClientError) as caught:
        call(**params)
    return caught.value.response["Error"]["Code"]


@pytest.fixture
def sqs(account):
    return account.client("sqs")


@pytest.fixture
def full(make_account):
    """A queue with the three messages of a launch; its address is ``full.url``."""
    account = make_account(events=perfect(), script=lambda _: QUICK)
    account.url = listen(account)
    account.request()
    account.world.advance(60.0)
    return account


# Queues.


def test_the_same_queue_can_be_made_again_but_not_with_other_attributes(sqs):
    attributes = {"MessageRetentionPeriod": "3600", "Policy": json.dumps({"Statement": []})}
    url = sqs.create_queue(QueueName="a", Attributes=attributes)["QueueUrl"]
    assert url.endswith("/123456789012/a")
    assert sqs.create_queue(QueueName="a", Attributes=attributes)["QueueUrl"] == url
    assert sqs.create_queue(QueueName="a")["QueueUrl"] == url
    assert sqs.get_queue_url(QueueName="a")["QueueUrl"] == url
    for other in ({"MessageRetentionPeriod": "60"}, {"VisibilityTimeout": "31"}):
        with pytest.raises(sqs.exceptions.QueueNameExists) as caught:
            sqs.create_queue(QueueName="a", Attributes=other)
        assert caught.value.response["Error"]["Code"] == "QueueAlreadyExists"
    assert (
        sqs.create_queue(QueueName="a", Attributes={"VisibilityTimeout": "30"})["QueueUrl"] == url
    )


def test_a_name_is_free_a_minute_after_its_queue_was_deleted(account, sqs):
    url = sqs.create_queue(QueueName="a")["QueueUrl"]
    sqs.delete_queue(QueueUrl=url)
    for pause_s in (0.0, 57.0):
        account.world.advance(pause_s)
        with pytest.raises(sqs.exceptions.QueueDeletedRecently) as caught:
            sqs.create_queue(QueueName="a")
        code = caught.value.response["Error"]["Code"]
        assert code == "AWS.SimpleQueueService.QueueDeletedRecently"
    account.world.advance(3.0)
    assert sqs.create_queue(QueueName="a")["QueueUrl"] == url
    assert account.world.leftovers()["queues"] == [arn("sqs", "a")]


@pytest.mark.parametrize("most_s", [60.0, 0.0])
def test_a_deleted_queue_is_listed_for_up_to_a_minute_and_does_nothing(make_account, most_s):
    account = make_account(events=Delivery(listed_most_s=most_s))
    sqs, names = account.client("sqs"), [f"q{number}" for number in range(20)]
    urls = [sqs.create_queue(QueueName=name)["QueueUrl"] for name in names]
    for url in urls:
        sqs.delete_queue(QueueUrl=url)
    assert "queues" not in account.world.leftovers()

    def listed():
        found = sqs.list_queues(QueueNamePrefix="q").get("QueueUrls", [])
        for name, url in zip(names, urls, strict=True):
            if url in found:
                assert sqs.get_queue_url(QueueName=name)["QueueUrl"] == url
        return len(found)

    if not most_s:
        assert listed() == 0
        return
    assert 10 < listed() <= 20
    account.world.advance(30.0)
    assert 0 < listed() < 16
    for call in (sqs.delete_queue, sqs.receive_message, sqs.list_queue_tags):
        assert {refusal(call, QueueUrl=url) for url in urls} == {GONE}
    account.world.advance(30.0)
    assert listed() == 0


def test_a_new_queue_or_rule_may_not_be_listed_yet_but_can_be_used(make_account):
    account = make_account(events=Delivery(unlisted_most_s=60.0))
    url, sqs, events = listen(account), account.client("sqs"), account.client("events")
    assert "QueueUrls" not in sqs.list_queues()
    assert events.list_rules()["Rules"] == []
    assert sqs.get_queue_url(QueueName="heard")["QueueUrl"] == url
    assert events.describe_rule(Name="heard")["Name"] == "heard"
    assert len(account.world.leftovers()["queues"]) == 1
    account.world.advance(60.0)
    assert sqs.list_queues()["QueueUrls"] == [url]
    assert len(events.list_rules()["Rules"]) == 1


def test_a_queue_that_is_not_there_has_the_code_and_the_exception_of_real_clients(account, sqs):
    url = sqs.create_queue(QueueName="a")["QueueUrl"].replace("/a", "/b")
    given = {"QueueUrl": url}
    for call, params in (
        (sqs.get_queue_attributes, given),
        (sqs.set_queue_attributes, {**given, "Attributes": {}}),
        (sqs.tag_queue, {**given, "Tags": {}}),
        (sqs.list_queue_tags, given),
        (sqs.receive_message, given),
        (sqs.delete_message, {**given, "ReceiptHandle": "x"}),
        (sqs.delete_message_batch, {**given, "Entries": [{"Id": "a", "ReceiptHandle": "x"}]}),
        (sqs.purge_queue, given),
        (sqs.delete_queue, given),
        (sqs.receive_message, {"QueueUrl": "http://x/210987654321/a"}),
        (sqs.get_queue_url, {"QueueName": "b"}),
        (sqs.get_queue_url, {"QueueName": "a", "QueueOwnerAWSAccountId": "210987654321"}),
        (account.client("sqs", "eu-west-1").get_queue_url, {"QueueName": "a"}),
    ):
        with pytest.raises(sqs.exceptions.QueueDoesNotExist) as caught:
            call(**params)
        assert caught.value.response["Error"]["Code"] == GONE
        assert caught.value.response["Error"]["Type"] == "Sender"


def test_queues_are_listed_by_prefix_and_in_pages(account, sqs):
    for name in ("spotlib-b", "spotlib-a", "spotlib-c", "other"):
        sqs.create_queue(QueueName=name)
    names = [url.rpartition("/")[2] for url in sqs.list_queues(QueueNamePrefix="s")["QueueUrls"]]
    assert names == ["spotlib-a", "spotlib-b", "spotlib-c"]
    pages = sqs.get_paginator("list_queues").paginate(PaginationConfig={"PageSize": 3})
    assert [len(page["QueueUrls"]) for page in pages] == [3, 1]
    assert "QueueUrls" not in sqs.list_queues(QueueNamePrefix="none")
    assert "QueueUrls" not in account.client("sqs", "eu-west-1").list_queues()


def test_a_queue_shows_its_attributes_and_tags(account, sqs):
    tags = {"spotlib:batch": "b"}
    policy = json.dumps({"Statement": [allowing("a")]})
    attributes = {"MessageRetentionPeriod": "3600", "Policy": policy}
    url = sqs.create_queue(QueueName="a", Attributes=attributes, tags=tags)["QueueUrl"]
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == tags
    sqs.tag_queue(QueueUrl=url, Tags={"x": "y"})
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {**tags, "x": "y"}
    shown = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert shown.items() >= attributes.items()
    assert shown["QueueArn"] == arn("sqs", "a")
    assert shown["ApproximateNumberOfMessages"] == "0"
    assert int(shown["CreatedTimestamp"]) == int(account.world.posix(0.0))
    assert "Attributes" not in sqs.get_queue_attributes(QueueUrl=url)
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "5", "Policy": ""})
    names = ["VisibilityTimeout", "Policy"]
    shown = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    assert shown == {"VisibilityTimeout": "5"}


def test_what_a_queue_cannot_be_is_refused_and_what_is_not_modelled_says_so(sqs):
    url = sqs.create_queue(QueueName="a")["QueueUrl"]
    for call, params, code in (
        (sqs.create_queue, {"QueueName": "a b"}, "InvalidParameterValue"),
        (sqs.create_queue, {"QueueName": "a" * 81}, "InvalidParameterValue"),
        (sqs.create_queue, {"QueueName": "a.fifo"}, "UnsupportedOperation"),
        (sqs.send_message, {"QueueUrl": url, "MessageBody": "x"}, "UnsupportedOperation"),
        (sqs.receive_message, {"QueueUrl": url, "MaxNumberOfMessages": 11},
         "InvalidParameterValue"),
        (sqs.receive_message, {"QueueUrl": url, "WaitTimeSeconds": 21}, "InvalidParameterValue"),
        (sqs.receive_message, {"QueueUrl": url, "VisibilityTimeout": -1}, "InvalidParameterValue"),
        (sqs.get_queue_attributes, {"QueueUrl": url, "AttributeNames": ["Nothing"]},
         "InvalidAttributeName"),
        (sqs.list_queues, {"MaxResults": 1001}, "InvalidParameterValue"),
    ):  # fmt: skip
        assert refusal(call, **params) == code, params
    for attributes, code in (
        ({"MessageRetentionPeriod": "59"}, "InvalidAttributeValue"),
        ({"VisibilityTimeout": "soon"}, "InvalidAttributeValue"),
        ({"Policy": "{"}, "InvalidAttributeValue"),
        ({"Policy": "[]"}, "InvalidAttributeValue"),
        ({"Colour": "red"}, "InvalidAttributeName"),
        ({"KmsMasterKeyId": "k"}, "UnsupportedOperation"),
        ({"FifoQueue": "true"}, "UnsupportedOperation"),
    ):
        assert refusal(sqs.create_queue, QueueName="b", Attributes=attributes) == code
        assert refusal(sqs.set_queue_attributes, QueueUrl=url, Attributes=attributes) == code
    assert len(sqs.list_queues()["QueueUrls"]) == 1


# Messages.


def test_a_received_message_is_hidden_until_its_time_and_then_comes_again(full):
    first = received(full, full.url, MaxNumberOfMessages=2)
    assert [each["Attributes"]["ApproximateReceiveCount"] for each in first] == ["1", "1"]
    [other] = received(full, full.url)
    assert other["MessageId"] not in {each["MessageId"] for each in first}
    assert received(full, full.url) == []
    state = {"QueueUrl": full.url, "AttributeNames": ["All"]}
    shown = full.client("sqs").get_queue_attributes(**state)["Attributes"]
    assert shown["ApproximateNumberOfMessages"] == "0"
    assert shown["ApproximateNumberOfMessagesNotVisible"] == "3"
    full.world.advance(30.0)
    again = received(full, full.url, VisibilityTimeout=5)
    assert [each["Attributes"]["ApproximateReceiveCount"] for each in again] == ["2"] * 3
    assert sent_s(full, again[0]) == sent_s(full, first[0])
    full.world.advance(5.0)
    assert len(received(full, full.url, VisibilityTimeout=0)) == 3
    assert len(received(full, full.url)) == 3


def test_attributes_come_only_if_they_are_asked_for(full):
    [plain, *_] = received(full, full.url, MessageSystemAttributeNames=[], VisibilityTimeout=0)
    assert "Attributes" not in plain
    [old, *_] = received(full, full.url, AttributeNames=NAMES, MessageSystemAttributeNames=[],
                         VisibilityTimeout=0)  # fmt: skip
    assert set(old["Attributes"]) == set(NAMES)
    [every, *_] = received(full, full.url, MessageSystemAttributeNames=["All"])
    assert set(every["Attributes"]) > set(NAMES)


def test_only_the_newest_receipt_deletes_a_message(full):
    sqs = full.client("sqs")
    [old] = received(full, full.url, MaxNumberOfMessages=1, VisibilityTimeout=0)
    [new] = received(full, full.url, MaxNumberOfMessages=1, VisibilityTimeout=0)
    assert old["MessageId"] == new["MessageId"]
    assert old["ReceiptHandle"] != new["ReceiptHandle"]
    sqs.delete_message(QueueUrl=full.url, ReceiptHandle=old["ReceiptHandle"])
    assert len(received(full, full.url, VisibilityTimeout=0)) == 3
    [newest, *_] = received(full, full.url, VisibilityTimeout=0)
    for _ in range(2):  # a second time too
        sqs.delete_message(QueueUrl=full.url, ReceiptHandle=newest["ReceiptHandle"])
    assert len(received(full, full.url)) == 2


def test_a_batch_deletes_what_it_can_and_refuses_what_is_no_batch(full):
    sqs = full.client("sqs")
    messages = received(full, full.url)
    entries = [{"Id": f"m{n}", "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
    bad = [*entries[:2], {"Id": "x", "ReceiptHandle": "nothing"}]
    answer = sqs.delete_message_batch(QueueUrl=full.url, Entries=bad)
    assert [each["Id"] for each in answer["Successful"]] == ["m0", "m1"]
    [failed] = answer["Failed"]
    assert (failed["Id"], failed["SenderFault"]) == ("x", True)
    assert failed["Code"] == "ReceiptHandleIsInvalid"
    prefix = "AWS.SimpleQueueService."
    for wrong, code in (
        ([], prefix + "EmptyBatchRequest"),
        ([entries[0], entries[0]], prefix + "BatchEntryIdsNotDistinct"),
        (
            [{**entries[0], "Id": str(n)} for n in range(11)],
            prefix + "TooManyEntriesInBatchRequest",
        ),
        ([{**entries[0], "Id": "a b"}], prefix + "InvalidBatchEntryId"),
    ):
        assert refusal(sqs.delete_message_batch, QueueUrl=full.url, Entries=wrong) == code
    given = {"QueueUrl": full.url, "ReceiptHandle": "nothing"}
    assert refusal(sqs.delete_message, **given) == "ReceiptHandleIsInvalid"
    full.world.advance(30.0)
    assert [each["MessageId"] for each in received(full, full.url)] == [messages[2]["MessageId"]]


def test_a_receipt_of_another_queue_is_invalid(full):
    sqs = full.client("sqs")
    other = sqs.create_queue(QueueName="other")["QueueUrl"]
    [message, *_] = received(full, full.url)
    given = {"QueueUrl": other, "ReceiptHandle": message["ReceiptHandle"]}
    assert refusal(sqs.delete_message, **given) == "ReceiptHandleIsInvalid"


def test_messages_are_forgotten_after_the_queues_time(make_account):
    account = make_account(events=perfect(foreign_per_hour=1000.0))
    url = listen(account)
    queue = account.world.region(REGION).queues["heard"]
    for _ in range(4):
        account.world.advance(3600.0)
        assert 850 < len(queue.messages) < 1150  # an hour of them, however many came
    assert queue.sent > 3500
    account.client("events").remove_targets(Rule="heard", Ids=["queue"])
    account.world.advance(3540.0)
    assert 0 < len(received(account, url)) <= 10
    account.world.advance(60.0)
    assert received(account, url) == []
    assert queue.messages == {}


def test_a_queue_can_be_emptied_but_not_twice_in_a_minute(full):
    sqs = full.client("sqs")
    sqs.purge_queue(QueueUrl=full.url)
    assert received(full, full.url) == []
    code = "AWS.SimpleQueueService.PurgeQueueInProgress"
    assert refusal(sqs.purge_queue, QueueUrl=full.url) == code
    full.world.advance(60.0)
    sqs.purge_queue(QueueUrl=full.url)


def test_a_short_poll_may_miss_messages_and_a_long_one_does_not(make_account):
    events = perfect(missed_share=0.7)
    account = make_account(events=events, script=lambda _: QUICK)
    url = listen(account)
    account.request(10)
    account.world.advance(60.0)
    found = [len(received(account, url, VisibilityTimeout=0)) for _ in range(20)]
    assert min(found) < 10
    assert len(received(account, url, VisibilityTimeout=0, WaitTimeSeconds=1)) == 10


# Waiting for a message.


def test_a_long_poll_waits_until_a_message_comes(make_account):
    account = make_account(events=perfect(), script=lambda _: Fate(boot_s=9.0))
    url = listen(account, pattern={"detail": {"state": ["running"]}})
    account.request()
    [message] = received(account, url, WaitTimeSeconds=20)
    [truth] = account.world.truth()
    assert sent_s(account, message) == pytest.approx(truth["happened_s"]["running"], abs=0.002)
    assert 0 < account.world.now_s - truth["happened_s"]["running"] < 1


def test_a_long_poll_ends_after_its_time(account, sqs):
    usual = {"ReceiveMessageWaitTimeSeconds": "3"}
    url = sqs.create_queue(QueueName="a", Attributes=usual)["QueueUrl"]
    for given, wait_s in (
        ({"WaitTimeSeconds": 20}, 20.0),
        ({}, 3.0),
        ({"WaitTimeSeconds": 0}, 0.0),
    ):
        began_s = account.world.now_s
        assert "Messages" not in sqs.receive_message(QueueUrl=url, **given)
        assert wait_s <= account.world.now_s - began_s < wait_s + 1


def test_a_long_poll_in_real_time_lets_other_clients_call(make_account):
    """It would find nothing if the launch had to wait for its end."""
    fate = Fate(evaluate_s=0.1, in_flight_s=0.1, boot_s=1.0)
    account = make_account(clock=ScaledTime(2.0), events=perfect(), script=lambda _: fate)
    url = listen(account, pattern={"detail": {"state": ["running"]}})
    account.image()
    found = []
    wait = threading.Thread(target=lambda: found.extend(received(account, url, WaitTimeSeconds=20)))
    wait.start()
    time.sleep(0.1)
    account.request()
    wait.join()
    assert len(found) == 1


# Who may call, and what goes wrong.


def test_a_caller_without_a_permission_is_refused_in_the_services_own_words(make_account):
    account = make_account()
    sqs, events = account.client("sqs"), account.client("events")
    url = listen(account)
    entries = [{"Id": "a", "ReceiptHandle": "x"}]
    text = json.dumps(PATTERN)
    for action, call, params, code in (
        ("sqs:CreateQueue", sqs.create_queue, {"QueueName": "b"}, "AccessDenied"),
        ("sqs:TagQueue", sqs.create_queue, {"QueueName": "b", "tags": {"a": "b"}}, "AccessDenied"),
        ("sqs:ListQueues", sqs.list_queues, {}, "AccessDenied"),
        ("sqs:ReceiveMessage", sqs.receive_message, {"QueueUrl": url}, "AccessDenied"),
        ("sqs:DeleteMessage", sqs.delete_message_batch, {"QueueUrl": url, "Entries": entries},
         "AccessDenied"),
        ("events:PutRule", events.put_rule, {"Name": "b", "EventPattern": text},
         "AccessDeniedException"),
        ("events:TagResource", events.put_rule,
         {"Name": "b", "EventPattern": text, "Tags": [{"Key": "a", "Value": "b"}]},
         "AccessDeniedException"),
        ("events:ListRules", events.list_rules, {}, "AccessDeniedException"),
    ):  # fmt: skip
        account.world.denied = {action}
        assert refusal(call, **params) == code
    account.world.denied = {"sqs:TagQueue", "events:TagResource"}
    sqs.create_queue(QueueName="b")
    events.put_rule(Name="b", EventPattern=text)


def test_a_region_without_opt_in_has_no_queues_and_rules(account):
    for service, call in (("sqs", "list_queues"), ("events", "list_rules")):
        code = refusal(getattr(account.client(service, "me-central-1"), call))
        assert code == "UnrecognizedClientException"


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("throttled", ("RequestThrottled", "ThrottlingException")),
        ("internal_error", ("InternalError", "InternalException")),
        ("unavailable", ("ServiceUnavailable", "ServiceUnavailable")),
    ],
)
def test_a_fault_of_sqs_or_eventbridge_has_the_services_own_code(account, kind, codes):
    account.world.faults.append(Fault(kind=kind))
    calls = account.client("sqs").list_queues, account.client("events").list_rules
    assert tuple(refusal(call) for call in calls) == codes


def test_a_lost_answer_leaves_what_it_made_and_messages_come_again(full):
    sqs, events, world = full.client("sqs"), full.client("events"), full.world
    world.faults += [
        lose_answer("CreateQueue"), lose_answer("PutRule"), lose_answer("ReceiveMessage")
    ]  # fmt: skip
    for call, params in (
        (sqs.create_queue, {"QueueName": "lost"}),
        (events.put_rule, {"Name": "lost", "EventPattern": json.dumps(PATTERN)}),
        (sqs.receive_message, {"QueueUrl": full.url, "MaxNumberOfMessages": 10}),
    ):
        with pytest.raises(ConnectionClosedError):
            call(**params)
    left = world.leftovers()
    assert left["queues"] == [arn("sqs", "heard"), arn("sqs", "lost")]
    assert left["rules"] == [arn("events", "rule/heard"), arn("events", "rule/lost")]
    assert received(full, full.url) == []
    world.advance(30.0)
    assert len(heard(full, full.url)) == 3


def test_leftovers_name_queues_and_rules_until_they_are_deleted(account):
    url, sqs, events = listen(account), account.client("sqs"), account.client("events")
    assert account.world.leftovers() == {
        "requests": [],
        "instances": [],
        "queues": [arn("sqs", "heard")],
        "rules": [arn("events", "rule/heard")],
    }
    events.remove_targets(Rule="heard", Ids=["queue"])
    events.delete_rule(Name="heard")
    sqs.delete_queue(QueueUrl=url)
    assert account.world.leftovers() == {"requests": [], "instances": []}


def test_calls_are_recorded_and_known_as_changes(account):
    listen(account)
    changes = {call.action: call.mutating for call in account.world.calls}
    assert changes == {"CreateQueue": True, "PutRule": True, "PutTargets": True}
    account.client("sqs").list_queues()
    assert not account.world.calls[-1].mutating


def test_eventbridge_and_sqs_take_no_tokens_of_ec2(make_account):
    account = make_account(throttled=True)
    sqs = account.client("sqs")
    url = sqs.create_queue(QueueName="a")["QueueUrl"]
    for _ in range(300):
        sqs.receive_message(QueueUrl=url)

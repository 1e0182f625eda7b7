"""The calls about EC2's events: each argument counts, and any answer is borne."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from spotlib.ec2.caller import Caller, Reply
from spotlib.ec2.events import EVENTS, Notice, list_queues, list_rules, make, read_queue
from spotlib.ec2.refusals import Refusal
from spotlib.model import Kind

REGION, URL, NAME = "eu-west-1", "https://sqs.eu-west-1.amazonaws.com/1/spotlib-b", "spotlib-b"
RULE, QUEUE = f"arn:aws:events:eu-west-1:1:rule/{NAME}", f"arn:aws:sqs:eu-west-1:1:{NAME}"
DATE = "Sun, 01 Sep 2024 00:00:09 GMT"


def refused(code="InternalError", kind=Kind.SERVER):
    return Refusal(code, "it says so", kind=kind, advice="see", action="a_call", region=REGION)


GONE, DENIED = refused("NotThere", Kind.NOT_FOUND), refused("AccessDenied", Kind.PERMISSION)


class Answering(Caller):
    """Answers its calls from lists, one after the other, and notes what it was asked."""

    foreign = False

    def __init__(self, **answers):
        self.answers = {action: list(each) for action, each in answers.items()}
        self.asked = []
        self.clock = SimpleNamespace(now_s=self._now_s)

    def _now_s(self):
        return 100.0 + len(self.asked)

    def call(self, region, action, /, **given):
        assert region == REGION
        self.asked.append((action, given))
        answer = self.answers.get(action, []).pop(0) if self.answers.get(action) else {}
        if isinstance(answer, Exception):
            raise answer
        headers = {"ResponseMetadata": {"HTTPHeaders": {"date": DATE}}}
        return Reply({"action": action, "region": region}, headers | answer)

    def server_utc(self):
        raise NotImplementedError

    region_names = server_utc


def message(receipt="r", *, sent="1725148805123", **changed):
    """A state change at 00:00:05, of which the queue knows at 00:00:05.123."""
    event = {
        "detail-type": "EC2 Instance State-change Notification",
        "time": "2024-09-01T00:00:05Z",
        "detail": {"instance-id": "i-1", "state": "running"},
        **changed,
    }
    return {
        "ReceiptHandle": receipt,
        "Body": json.dumps(event),
        "Attributes": {"SentTimestamp": sent},
    }


def second(number, thousandth=0):
    return datetime(2024, 9, 1, 0, 0, number, 1000 * thousandth, UTC)


def test_rule_queue_and_target_are_made_with_name_and_tags_and_for_this_rule_only():
    caller = Answering(put_rule=[{"RuleArn": RULE}], create_queue=[{"QueueUrl": URL}])

    assert make(caller, REGION, "b", expires_at=second(7)) == URL

    (_, rule), (_, queue), (_, target) = caller.asked
    assert [name for name, _ in caller.asked] == ["put_rule", "create_queue", "put_targets"]
    assert [each["service"] for _, each in caller.asked] == ["events", "sqs", "events"]
    tags = {"spotlib:batch": "b", "spotlib:expires": "2024-09-01T00:00:07+00:00"}
    assert {each["Key"]: each["Value"] for each in rule["Tags"]} == queue["tags"] == tags
    assert (rule["Name"], rule["State"], queue["QueueName"]) == (NAME, "ENABLED", NAME)
    assert json.loads(rule["EventPattern"]) == {
        "source": ["aws.ec2"],
        "detail-type": [
            "EC2 Instance State-change Notification",
            "EC2 Spot Instance Request Fulfillment",
            "EC2 Spot Instance Interruption Warning",
            "EC2 Instance Rebalance Recommendation",
        ],
    }
    assert queue["Attributes"]["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    policy = json.loads(queue["Attributes"]["Policy"])
    assert policy["Version"] == "2012-10-17"
    assert policy["Statement"] == [
        {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": QUEUE,
            "Condition": {"ArnEquals": {"aws:SourceArn": RULE}},
        }
    ]
    assert target["Rule"] == NAME
    assert target["Targets"] == [{"Id": "queue", "Arn": QUEUE}]


def test_the_queue_of_a_rule_whose_name_looks_like_an_arn_is_found():
    """Only the first of each part is the service's."""
    rule = "arn:aws:events:eu-west-1:1:rule/spotlib-:events:rule/"
    caller = Answering(put_rule=[{"RuleArn": rule}], create_queue=[{"QueueUrl": URL}])
    make(caller, REGION, "b", expires_at=second(7))
    [target] = caller.asked[-1][1]["Targets"]
    assert target["Arn"] == "arn:aws:sqs:eu-west-1:1:spotlib-:events:rule/"


def test_a_read_tells_what_its_messages_say_and_when_it_was_asked_and_answered():
    old = message("s", sent="1725148801000", detail="none")
    caller = Answering(receive_message=[{"Messages": [message("r"), old]}])

    read = read_queue(caller, REGION, URL)

    assert caller.asked == [
        (
            "receive_message",
            {
                "service": "sqs",
                "quick": True,
                "QueueUrl": URL,
                "MaxNumberOfMessages": 10,
                "WaitTimeSeconds": 0,
                "VisibilityTimeout": 10,
                "MessageSystemAttributeNames": ["SentTimestamp"],
            },
        )
    ]
    assert (read.asked_s, read.answered_s) == (100.0, 101.0)
    assert read.notices == (Notice("running", "i-1", second(5), second(5, 123)),)
    assert read.receipts == ("r", "s")
    assert read.oldest_at == second(1)
    assert read.server_date == DATE
    assert (read.error, read.undeleted) == (None, None)


def test_what_was_shown_before_is_deleted_first():
    caller = Answering()
    read = read_queue(caller, REGION, URL, ("x", "y"))

    [(first, given), (then, _)] = caller.asked
    assert (first, then) == ("delete_message_batch", "receive_message")
    assert given == {
        "service": "sqs",
        "quick": True,
        "QueueUrl": URL,
        "Entries": [{"Id": "0", "ReceiptHandle": "x"}, {"Id": "1", "ReceiptHandle": "y"}],
    }
    assert (read.asked_s, read.answered_s) == (101.0, 102.0)  # the deletion is no part of it
    assert (read.receipts, read.oldest_at, read.error, read.undeleted) == ((), None, None, None)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refused(), "a_call in eu-west-1: InternalError (it says so)"),
        (
            {"Successful": [{"Id": "0"}], "Failed": [{"Id": "1", "Code": "Odd", "Message": "No."}]},
            "delete_message_batch in eu-west-1: Odd (No.)",
        ),
        ({"Failed": [{"Id": "1"}]}, "delete_message_batch in eu-west-1:  ()"),
        ({"Failed": [None]}, "delete_message_batch in eu-west-1: "),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_a_deletion_that_fails_even_in_part_is_no_failure_of_the_read(answer, words, failed):
    received = refused() if failed else {"Messages": [message()]}
    caller = Answering(delete_message_batch=[answer], receive_message=[received])
    read = read_queue(caller, REGION, URL, ("x", "y"))

    assert read.undeleted.startswith(words)
    assert (read.error is not None) is failed
    assert len(read.notices) == (not failed)


@pytest.mark.parametrize(
    "answer",
    [refused(), {"Messages": [None]}, {"Messages": [{"Body": "no receipt"}]}, {"Messages": 5}],
)
def test_a_read_that_cannot_be_understood_has_failed_and_raises_nothing(answer):
    read = read_queue(Answering(receive_message=[answer]), REGION, URL)
    assert read.error.startswith(("receive_message in eu-west-1: ", "a_call in eu-west-1: "))
    assert (read.asked_s, read.answered_s) == (100.0, 101.0)
    assert (read.notices, read.receipts, read.oldest_at) == ((), (), None)


@pytest.mark.parametrize("sent", ["soon", None, "9" * 30])
def test_a_message_of_no_known_time_makes_the_age_of_what_was_read_unknown(sent):
    messages = [message("r"), message("s", sent=sent)]
    read = read_queue(Answering(receive_message=[{"Messages": messages}]), REGION, URL)
    assert read.oldest_at is None
    assert len(read.notices) == 1
    assert read.receipts == ("r", "s")


@pytest.mark.parametrize(
    ("kind", "detail", "about"),
    [
        ("EC2 Instance State-change Notification", {"state": "pending"}, "pending"),
        ("EC2 Instance State-change Notification", {"state": "asleep"}, None),
        ("EC2 Spot Instance Request Fulfillment", {}, "fulfilled"),
        ("EC2 Spot Instance Interruption Warning", {"state": "running"}, "interruption"),
        ("EC2 Instance Rebalance Recommendation", {}, "rebalance"),
        ("A of somebody else", {"state": "running"}, None),
        ("Z of somebody else", {"state": "running"}, None),
        ("EC2 Spot Instance Request Fulfillment", {"instance-id": 1}, None),
    ],
)
def test_what_an_event_is_about(kind, detail, about):
    shown = message(**{"detail-type": kind, "detail": {"instance-id": "i-1"} | detail})
    read = read_queue(Answering(receive_message=[{"Messages": [shown]}]), REGION, URL)
    assert [each.about for each in read.notices] == ([] if about is None else [about])


@pytest.mark.parametrize("time", ["2024-09-01T00:00:05", "soon", None])
def test_an_event_without_a_time_that_counts_everywhere_tells_nothing(time):
    messages = [message(time=time)]
    read = read_queue(Answering(receive_message=[{"Messages": messages}]), REGION, URL)
    assert (read.notices, read.receipts) == ((), ("r",))


def test_all_pages_of_queues_and_rules_are_listed():
    urls = [f"https://sqs/1/spotlib-{name}" for name in "abc"]
    caller = Answering(
        list_queues=[{"QueueUrls": urls[:2], "NextToken": "t"}, {"QueueUrls": urls[2:]}],
        list_rules=[{"Rules": [{"Name": "x"}], "NextToken": "u"}, {"Rules": [{"Name": "y"}]}],
    )
    assert list_queues(caller, REGION) == ["spotlib-a", "spotlib-b", "spotlib-c"]
    assert list_rules(caller, REGION) == ["x", "y"]
    asked = [given for _, given in caller.asked]
    assert [each.get("NextToken") for each in asked] == [None, "t", None, "u"]
    assert [each.get("QueueNamePrefix") for each in asked] == ["spotlib-"] * 2 + [None] * 2
    assert [each.get("NamePrefix") for each in asked] == [None] * 2 + ["spotlib-"] * 2
    assert [each.get("MaxResults") for each in asked] == [1000] * 2 + [None] * 2
    assert list_queues(Answering(), REGION) == []


def parts(**answers):
    """Queue and rule of one batch, and how each call about them is answered."""
    there = {
        "get_queue_url": [{"QueueUrl": URL}],
        "list_queue_tags": [{"Tags": {"spotlib:batch": "b"}}],
        "describe_rule": [{"Arn": RULE}],
        "list_tags_for_resource": [{"Tags": [{"Key": "spotlib:batch", "Value": "b"}]}],
    }
    return Answering(**there | {action: [each] for action, each in answers.items()})


@pytest.mark.parametrize(
    ("answers", "found", "error"),
    [
        ({}, True, None),
        ({"get_queue_url": GONE}, True, None),
        ({"describe_rule": GONE}, True, None),
        ({"get_queue_url": GONE, "describe_rule": GONE}, False, None),
        ({"get_queue_url": DENIED, "describe_rule": GONE}, False, "AccessDenied"),
        ({"list_queue_tags": DENIED}, False, "AccessDenied"),
        ({"get_queue_url": refused()}, False, "InternalError"),
        ({"list_queue_tags": {}, "describe_rule": GONE}, False, None),
        ({"list_queue_tags": {"Tags": {"spotlib:batch": "c"}}, "describe_rule": GONE}, False, None),
        ({"list_queue_tags": {"Tags": {"spotlib:batch": "a"}}, "describe_rule": GONE}, False, None),
    ],
)
def test_a_batch_is_surveyed_by_queue_and_rule_and_what_may_not_be_seen_is_an_error(
    answers, found, error
):
    survey = EVENTS.survey(parts(**answers), REGION, batch_id="b", ids=())
    assert survey.requests == (dict.fromkeys([NAME], "there") if found else {})
    assert (survey.error is None) is (error is None)
    assert error is None or error in survey.error
    assert (survey.instances, survey.missing) == ({}, frozenset())


@pytest.mark.parametrize(
    ("batch_id", "ids", "asked"), [("b", (), 1), (None, (), 0), (None, (NAME,), 1)]
)
def test_a_survey_asks_for_a_batch_and_for_what_was_named(batch_id, ids, asked):
    caller = parts()
    survey = EVENTS.survey(caller, REGION, batch_id=batch_id, ids=ids)
    assert len(survey.requests) == asked
    assert [name for name, _ in caller.asked].count("get_queue_url") == asked


@pytest.mark.parametrize(
    ("answers", "ended", "errors"),
    [
        ({}, (NAME,), 0),
        ({"remove_targets": GONE, "delete_rule": GONE, "get_queue_url": GONE}, (NAME,), 0),
        ({"remove_targets": refused()}, (), 1),
        ({"delete_rule": refused(), "delete_queue": refused()}, (), 2),
    ],
)
def test_target_rule_and_queue_are_ended_and_a_failure_stops_no_other(answers, ended, errors):
    caller = parts(**answers)
    done = EVENTS.end(caller, REGION, [NAME])

    assert (done.ids, len(done.errors)) == (ended, errors)
    steps = {"remove_targets", "delete_rule", "delete_queue"}
    if answers.get("get_queue_url") is not GONE:
        assert steps <= {name for name, _ in caller.asked}
    given = dict(caller.asked)
    assert given["remove_targets"] == {"service": "events", "Rule": NAME, "Ids": ["queue"]}
    assert given["delete_rule"] == {"service": "events", "Name": NAME}


def test_the_commands_end_the_same_by_hand():
    first, then, last = EVENTS.commands("--region r", [NAME])
    assert first == f"aws events remove-targets --region r --rule {NAME} --ids queue"
    assert then == f"aws events delete-rule --region r --name {NAME}"
    assert last == (
        "aws sqs delete-queue --region r --queue-url $(aws sqs get-queue-url --region r "
        f"--queue-name {NAME} --query QueueUrl --output text)"
    )

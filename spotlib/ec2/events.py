"""EC2's own events: a rule of EventBridge passes them on to a queue of SQS, which a batch reads.

Both have the batch's name, ``spotlib-<batch id>``, and are one thing for the clean-up.  They cost
nothing while they wait.  A rule cannot select by tag, so it passes on the events of all instances
in the account.  The user may name a queue of their own instead: then nothing is made.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, cast, get_args

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import TAG_BATCH, TAG_EXPIRES, Ended, batch_of, tag_list
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import UNREADABLE, Refusal, refusal_of, refusal_of_code
from spotlib.ec2.resource import Resource, Survey
from spotlib.model import About, Kind, is_queue_name

PREFIX = "spotlib-"
_STATE = "EC2 Instance State-change Notification"
_ABOUT: Mapping[str, About] = MappingProxyType(
    {
        "EC2 Spot Instance Request Fulfillment": "fulfilled",
        "EC2 Spot Instance Interruption Warning": "interruption",
        "EC2 Instance Rebalance Recommendation": "rebalance",
    }
)
_PATTERN = {"source": ["aws.ec2"], "detail-type": [_STATE, *_ABOUT]}
RETENTION_S = 1_209_600  # of what nobody has read: the longest there is, for pauses of days
_TARGET = "queue"
_THERE = "there"  # the state of one of which anything exists
_SENT = "SentTimestamp"
_MOST_MESSAGES = 10  # per call
HIDDEN_S = 10  # how long a message that was shown does not come again


@dataclass(frozen=True)
class Notice:
    """An event: its instance, EC2's time in whole seconds, and when the queue received it."""

    about: About
    instance_id: str
    event_at: datetime
    sent_at: datetime


@dataclass(frozen=True)
class QueueRead:
    """What a read of a queue showed.

    ``receipts`` delete its messages, once they are recorded.  There are none at the end of the
    queue, as far as one read can tell.  ``oldest_at`` is when the queue got the oldest of its
    messages of any kind; None if unknown.  ``error`` is why a read failed, ``undeleted`` why
    messages that were shown before may still be there.
    """

    asked_s: float
    answered_s: float
    notices: tuple[Notice, ...] = ()
    receipts: tuple[str, ...] = ()
    oldest_at: datetime | None = None
    undeleted: str | None = None
    server_date: str | None = None
    error: str | None = None


def name_of(batch_id: str) -> str:
    """The name of a batch's queue and rule."""
    return PREFIX + batch_id


def make(caller: Caller, region: str, batch_id: str, *, expires_at: datetime) -> str:
    """Make a rule and a queue that gets what it passes on; to make them again changes nothing.

    Each has its name and its tags from birth, so clean-up finds whatever has been made.

    Returns
    -------
    str
        The queue's URL.

    Raises
    ------
    Refusal
        If one of them cannot be made.
    """
    name, tags = name_of(batch_id), {TAG_BATCH: batch_id, TAG_EXPIRES: expires_at.isoformat()}
    rule = caller.call(
        region,
        "put_rule",
        service="events",
        Name=name,
        EventPattern=json.dumps(_PATTERN),
        State="ENABLED",
        Tags=tag_list(tags),
    )["RuleArn"]
    queue = rule.replace(":events:", ":sqs:", 1).replace(":rule/", ":", 1)
    url = caller.call(
        region,
        "create_queue",
        service="sqs",
        QueueName=name,
        Attributes={
            "MessageRetentionPeriod": str(RETENTION_S),
            "Policy": json.dumps(_policy(queue, rule)),
        },
        tags=tags,
    )["QueueUrl"]
    target = {"Id": _TARGET, "Arn": queue}  # with a role it would not arrive
    caller.call(region, "put_targets", service="events", Rule=name, Targets=[target])
    return str(url)


def _policy(queue: str, rule: str) -> dict[str, Any]:
    """Who may send to a queue: the rule, and nobody else."""
    allowed = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }
    return {"Version": "2012-10-17", "Statement": [allowed]}


def find_queue(caller: Caller, region: str, name: str) -> str:
    """Return the URL of a queue.

    Raises
    ------
    Refusal
        If there is none of that name.
    """
    return str(caller.call(region, "get_queue_url", service="sqs", QueueName=name)["QueueUrl"])


def read_queue(
    connection: Connection, region: str, url: str, receipts: Sequence[str] = ()
) -> QueueRead:
    """Delete the messages that are recorded by now, and receive others, at once.

    A message that is not deleted comes again, so an error there loses nothing.
    """
    clock = connection.clock
    place: dict[str, Any] = {"service": "sqs", "quick": True, "QueueUrl": url}
    undeleted = _delete_messages(connection, region, receipts, place) if receipts else None
    asked_s = clock.now_s()
    try:
        reply = connection.call(
            region,
            "receive_message",
            MaxNumberOfMessages=_MOST_MESSAGES,
            WaitTimeSeconds=0,
            VisibilityTimeout=HIDDEN_S,
            MessageSystemAttributeNames=[_SENT],
            **place,
        )
        answered_s, messages = clock.now_s(), reply.get("Messages", [])
        received = tuple(each["ReceiptHandle"] for each in messages)
        date = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
    except (Refusal, *UNREADABLE) as error:
        words = _words(error, "receive_message", region)
        return QueueRead(asked_s, clock.now_s(), undeleted=undeleted, error=words)
    notices = tuple(found for each in messages if (found := _notice(each)))
    oldest_at = _oldest_at(messages)
    return QueueRead(asked_s, answered_s, notices, received, oldest_at, undeleted, date)


def _delete_messages(
    connection: Connection, region: str, receipts: Sequence[str], place: Mapping[str, Any]
) -> str | None:
    """Delete messages; return why some may still be there, if so."""
    action = "delete_message_batch"
    entries = [{"Id": str(i), "ReceiptHandle": one} for i, one in enumerate(receipts)]
    try:
        reply = connection.call(region, action, Entries=entries, **place)
        for each in reply.get("Failed", ()):
            code, message = each.get("Code", ""), each.get("Message", "")
            raise refusal_of_code(code, message, action=action, region=region)
    except (Refusal, *UNREADABLE) as error:
        return _words(error, action, region)
    return None


def _words(error: Exception, action: str, region: str) -> str:
    known = isinstance(error, Refusal)
    return str(error if known else refusal_of(error, action=action, region=region))


def _oldest_at(messages: Sequence[Mapping[str, Any]]) -> datetime | None:
    with suppress(*UNREADABLE, OverflowError, OSError, Refusal):
        return min(map(_sent_at, messages), default=None)
    return None


def _sent_at(message: Mapping[str, Any]) -> datetime:
    return datetime.fromtimestamp(int(message["Attributes"][_SENT]) / 1000, UTC)


def _notice(message: Mapping[str, Any]) -> Notice | None:
    """The event in a message; None if the message is no event of this kind."""
    with suppress(*UNREADABLE, RecursionError, OverflowError, OSError, Refusal):
        event = json.loads(message["Body"])
        kind, detail = event["detail-type"], event["detail"]
        about = detail["state"] if kind == _STATE else _ABOUT[kind]
        event_at = datetime.fromisoformat(event["time"])
        known = about in get_args(About) and isinstance(detail["instance-id"], str)
        if known and event_at.tzinfo is not None:
            about = cast("About", about)
            return Notice(about, detail["instance-id"], event_at, _sent_at(message))
    return None


def _survey(
    connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
) -> Survey:
    """A queue or rule that is not found by its name is gone: it was made long before clean-up."""
    names = {*ids, *([name_of(batch_id)] if batch_id is not None else [])}
    try:
        found = [name for name, _ in _parts(connection, region, sorted(names))]
    except Refusal as refusal:
        return Survey({}, {}, frozenset(), str(refusal))
    return Survey(dict.fromkeys(found, _THERE), {}, frozenset())


def _tagged(
    connection: Caller, region: str, wanted: dict[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Those of one batch, or of all, as the filter says."""
    one = str(wanted["Name"]).startswith("tag:")
    names = [name_of(each) for each in wanted["Values"]] if one else _names(connection, region)
    return _parts(connection, region, names)


def _names(caller: Caller, region: str) -> list[str]:
    """All names of queues and rules that may be ours."""
    return sorted({*list_rules(caller, region), *list_queues(caller, region)})


def list_rules(caller: Caller, region: str, prefix: str = PREFIX) -> list[str]:
    """Return the names of the rules that begin so."""
    pages = caller.pages(region, "list_rules", "Rules", service="events", NamePrefix=prefix)
    return [rule["Name"] for rule in pages]


def list_queues(caller: Caller, region: str, prefix: str = PREFIX) -> list[str]:
    """Return the names of the queues that begin so; one may be listed for 60 s after its end."""
    given = {"service": "sqs", "QueueNamePrefix": prefix, "MaxResults": 1000}
    names: list[str] = []
    while True:
        reply = caller.call(region, "list_queues", **given)
        names += [url.rpartition("/")[2] for url in reply.get("QueueUrls", [])]
        if not reply.get("NextToken"):
            return names
        given["NextToken"] = reply["NextToken"]


def _parts(
    caller: Caller, region: str, names: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each queue and each rule of these names that carries our tag, with its tags.

    If tags may not be read, the error is raised at the end: the others are still found.
    """
    denied: Refusal | None = None
    for name in filter(is_queue_name, names):
        for look in (_queue_tags, _rule_tags):
            try:
                tags = look(caller, region, name)
            except Refusal as refusal:
                if refusal.kind is Kind.PERMISSION:
                    denied = refusal
                elif refusal.kind is not Kind.NOT_FOUND:
                    raise
                continue
            if name_of(batch_of({"Tags": tags}) or "") == name:
                yield name, {"Tags": tags}
    if denied is not None:
        raise denied


def _queue_tags(caller: Caller, region: str, name: str) -> list[dict[str, str]]:
    url = find_queue(caller, region, name)
    reply = caller.call(region, "list_queue_tags", service="sqs", QueueUrl=url)
    return tag_list(reply.get("Tags", {}))


def _rule_tags(caller: Caller, region: str, name: str) -> list[dict[str, str]]:
    arn = caller.call(region, "describe_rule", service="events", Name=name)["Arn"]
    reply = caller.call(region, "list_tags_for_resource", service="events", ResourceARN=arn)
    tags: list[dict[str, str]] = reply["Tags"]
    return tags


def _delete(connection: Connection, region: str, names: Sequence[str]) -> Ended:
    """Delete rule and queue; if one cannot be deleted, the other still is."""
    ended, errors = list[str](), list[str]()
    for name in names:
        failed = [
            words
            for step in (_unlink, _end_rule, _end_queue)
            if (words := _refused(step, connection, region, name))
        ]
        errors += failed
        ended += [] if failed else [name]
    return Ended(tuple(ended), tuple(errors))


def _refused(
    step: Callable[[Connection, str, str], None], connection: Connection, region: str, name: str
) -> str | None:
    """Why a step failed; what is not there needs no end."""
    try:
        step(connection, region, name)
    except Refusal as refusal:
        return None if refusal.kind is Kind.NOT_FOUND else str(refusal)
    return None


def _unlink(connection: Connection, region: str, name: str) -> None:
    connection.call(region, "remove_targets", service="events", Rule=name, Ids=[_TARGET])


def _end_rule(connection: Connection, region: str, name: str) -> None:
    connection.call(region, "delete_rule", service="events", Name=name)


def _end_queue(connection: Connection, region: str, name: str) -> None:
    url = find_queue(connection, region, name)
    connection.call(region, "delete_queue", service="sqs", QueueUrl=url)


def _commands(where: str, names: Sequence[str]) -> list[str]:
    return [
        command
        for name in names
        for command in (
            f"aws events remove-targets {where} --rule {name} --ids {_TARGET}",
            f"aws events delete-rule {where} --name {name}",
            f"aws sqs delete-queue {where} --queue-url $(aws sqs get-queue-url {where} "
            f"--queue-name {name} --query QueueUrl --output text)",
        )
    ]


EVENTS = Resource(
    prefix=PREFIX,
    survey=_survey,
    tagged=_tagged,
    end=_delete,
    commands=_commands,
    dry_run=None,
    listed_for=timedelta.max,  # it does not expire: it is there until it is deleted
    special=True,
)

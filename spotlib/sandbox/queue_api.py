"""The calls about queues.

Each public function is one action of SQS: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from spotlib.sandbox.filters import page
from spotlib.sandbox.protocol import ApiError, Params, Shape, invalid, unsupported
from spotlib.sandbox.queues import DEFAULTS, Message, Queue
from spotlib.sandbox.world import World

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_ENTRY_ID = _NAME
_MOST_MESSAGES = 10  # in one call
_MOST_WAIT_S = 20
_REUSE_S = 60.0  # a name is free again so long after its queue was deleted
_RANGES = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1024, 1048576),
    "MessageRetentionPeriod": (60, 1209600),
    "ReceiveMessageWaitTimeSeconds": (0, _MOST_WAIT_S),
    "VisibilityTimeout": (0, 43200),
}
_OTHERS = {  # attributes of queues that SQS has and the sandbox does not
    "ContentBasedDeduplication", "DeduplicationScope", "FifoQueue", "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds", "KmsMasterKeyId", "RedriveAllowPolicy", "RedrivePolicy",
    "SqsManagedSseEnabled",
}  # fmt: skip


def create_queue(world: World, region: str, params: Params) -> Shape:
    """Create a queue, or find the one that has this name and these attributes."""
    account, name = world.region(region), params["QueueName"]
    wanted = params.get("Attributes", {})
    if name.endswith(".fifo"):
        raise unsupported("FIFO queues are not modelled by the sandbox.")
    if not _NAME.fullmatch(name):
        raise invalid(
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
        )
    _check_attributes(wanted)
    queue = account.queues.get(name)
    if queue is not None:
        shown = _settings(queue)
        for attribute, value in wanted.items():
            if value != shown.get(attribute, ""):
                message = (
                    "A queue already exists with the same name and a different value for attribute "
                    f"{attribute}"
                )
                raise ApiError("QueueNameExists", message)
        return {"QueueUrl": _url(world, params, name)}
    gone = account.deleted_queues.get(name)
    if gone is not None and world.now_s < gone.deleted_s + _REUSE_S:
        message = (
            "You must wait 60 seconds after deleting a queue before you can create another with "
            "the same name."
        )
        raise ApiError("QueueDeletedRecently", message)
    arn = f"arn:{world.partition}:sqs:{region}:{world.account_id}:{name}"
    account.queues[name] = Queue(
        name=name,
        arn=arn,
        created_s=world.now_s,
        listed_from_s=world.now_s + world.events.unlisted_s(world.seed, arn, world.now_s),
        modified_s=world.now_s,
        attributes=dict(wanted),
        tags=dict(params.get("tags", {})),
    )
    return {"QueueUrl": _url(world, params, name)}


def get_queue_url(world: World, region: str, params: Params) -> Shape:
    """The address of a queue."""
    name, owner = params["QueueName"], params.get("QueueOwnerAWSAccountId")
    known = {*world.region(region).queues, *_listed(world, region)}
    if name not in known or owner not in (None, world.account_id):
        raise _no_queue()
    return {"QueueUrl": _url(world, params, name)}


def list_queues(world: World, region: str, params: Params) -> Shape:
    """The queues whose name begins with a prefix, and for a while those that were deleted."""
    prefix = params.get("QueueNamePrefix", "")
    urls = [
        {"QueueUrl": _url(world, params, name)}
        for name in sorted(_listed(world, region))
        if name.startswith(prefix)
    ]
    shown, more = page(urls[: None if "MaxResults" in params else 1000], params, least=1)
    return {"QueueUrls": [each["QueueUrl"] for each in shown], **more} if shown else {}


def get_queue_attributes(world: World, region: str, params: Params) -> Shape:
    """The attributes of a queue that are asked for."""
    queue = _queue(world, region, params)
    shown = _settings(queue) | _state(world, queue)
    names = params.get("AttributeNames", [])
    for name in names:
        if name not in {"All", "Policy", *shown, *_OTHERS}:
            raise ApiError("InvalidAttributeName", f"Unknown Attribute {name}.")
    found = shown if "All" in names else {name: shown[name] for name in names if name in shown}
    return {"Attributes": found} if found else {}


def set_queue_attributes(world: World, region: str, params: Params) -> Shape:
    """Change attributes of a queue; they hold at once."""
    queue = _queue(world, region, params)
    _check_attributes(params["Attributes"])
    queue.attributes.update(params["Attributes"])
    queue.modified_s = world.now_s
    return {}


def tag_queue(world: World, region: str, params: Params) -> Shape:
    """Add tags to a queue."""
    _queue(world, region, params).tags.update(params["Tags"])
    return {}


def list_queue_tags(world: World, region: str, params: Params) -> Shape:
    """The tags of a queue."""
    tags = _queue(world, region, params).tags
    return {"Tags": tags} if tags else {}


def receive_message(world: World, region: str, params: Params) -> Shape:
    """Some messages of a queue, which hides them from others; with a wait if there are none."""
    queue = _queue(world, region, params)
    most = _within(params, "MaxNumberOfMessages", 1, (1, _MOST_MESSAGES))
    hidden_s = _within(
        params, "VisibilityTimeout", queue.number("VisibilityTimeout"), _RANGES["VisibilityTimeout"]
    )
    usual_wait_s = queue.number("ReceiveMessageWaitTimeSeconds")
    wait_s = _within(params, "WaitTimeSeconds", usual_wait_s, (0, _MOST_WAIT_S))
    names = {*params.get("AttributeNames", []), *params.get("MessageSystemAttributeNames", [])}
    world.wait(wait_s, lambda: any(True for _ in queue.visible(world.now_s)))
    if world.region(region).queues.get(queue.name) is not queue:  # deleted while it waited
        raise _no_queue()
    now_s, draw = world.now_s, (world.seed, region, queue.name, len(world.calls))
    found = [
        each
        for each in queue.visible(now_s)
        if wait_s or not world.events.is_missed(*draw, each.message_id)
    ]
    messages = []
    for each in found[:most]:
        receipt = queue.hand_out(each, now_s, hidden_s)
        messages.append(_message(world, each, receipt, names))
    return {"Messages": messages} if messages else {}


def delete_message(world: World, region: str, params: Params) -> Shape:
    """Delete the message of a receipt."""
    if not _queue(world, region, params).delete(params["ReceiptHandle"]):
        raise ApiError("ReceiptHandleIsInvalid", _bad_receipt(params["ReceiptHandle"]), 404)
    return {}


def delete_message_batch(world: World, region: str, params: Params) -> Shape:
    """Delete the messages of some receipts, each by itself."""
    queue, entries = _queue(world, region, params), params["Entries"]
    ids = [each["Id"] for each in entries]
    if not entries:
        message = "There should be at least one DeleteMessageBatchRequestEntry in the request."
        raise ApiError("EmptyBatchRequest", message)
    if len(entries) > _MOST_MESSAGES:
        message = f"Maximum number of entries per request are 10. You have sent {len(entries)}."
        raise ApiError("TooManyEntriesInBatchRequest", message)
    if len(set(ids)) < len(ids):
        raise ApiError("BatchEntryIdsNotDistinct", f"Id {_repeated(ids)} repeated.")
    if not all(_ENTRY_ID.fullmatch(each) for each in ids):
        message = (
            "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
            "It can be at most 80 letters long."
        )
        raise ApiError("InvalidBatchEntryId", message)
    answer: dict[str, list[Shape]] = {"Successful": [], "Failed": []}
    for each in entries:
        if queue.delete(each["ReceiptHandle"]):
            answer["Successful"].append({"Id": each["Id"]})
        else:
            flaw = {"SenderFault": True, "Code": "ReceiptHandleIsInvalid"}
            flaw["Message"] = _bad_receipt(each["ReceiptHandle"])
            answer["Failed"].append({"Id": each["Id"], **flaw})
    return {name: found for name, found in answer.items() if found}


def purge_queue(world: World, region: str, params: Params) -> Shape:
    """Delete all messages of a queue."""
    queue = _queue(world, region, params)
    if world.now_s < queue.purged_s + _REUSE_S:
        message = f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds."
        raise ApiError("PurgeQueueInProgress", message, 403)
    queue.purged_s = world.now_s
    queue.messages.clear()
    return {}


def delete_queue(world: World, region: str, params: Params) -> Shape:
    """Delete a queue and its messages; it is listed for a while."""
    queue, account = _queue(world, region, params), world.region(region)
    draw = (world.seed, region, queue.name, queue.created_s)
    queue.deleted_s = world.now_s
    queue.listed_until_s = world.now_s + world.events.listed_s(*draw)
    queue.messages.clear()
    account.deleted_queues[queue.name] = account.queues.pop(queue.name)
    return {}


def _queue(world: World, region: str, params: Params) -> Queue:
    """The queue at an address: only its path counts."""
    *_, owner, name = f"/{params['QueueUrl']}".split("/")
    queue = world.region(region).queues.get(name)
    if queue is None or owner != world.account_id:
        raise _no_queue()
    return queue


def _no_queue() -> ApiError:
    return ApiError("QueueDoesNotExist", "The specified queue does not exist.")


def _listed(world: World, region: str) -> set[str]:
    account, now_s = world.region(region), world.now_s
    every = [*account.queues.values(), *account.deleted_queues.values()]
    return {each.name for each in every if each.listed_from_s <= now_s < each.listed_until_s}


def _url(world: World, params: Params, name: str) -> str:
    return f"{params['origin']}/{world.account_id}/{name}"


def _check_attributes(attributes: Mapping[str, str]) -> None:
    for name, value in attributes.items():
        if name in _OTHERS:
            raise unsupported(f"The attribute {name} of queues is not modelled by the sandbox.")
        if name == "Policy":
            good = not value or _is_object(value)
        elif name in _RANGES:
            least, most = _RANGES[name]
            good = value.isascii() and value.isdigit() and least <= int(value) <= most
        else:
            raise ApiError("InvalidAttributeName", f"Unknown Attribute {name}.")
        if not good:
            raise ApiError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _within(params: Params, name: str, usual: int, limits: tuple[int, int]) -> int:
    value, (least, most) = int(params.get(name, usual)), limits
    if not least <= value <= most:
        raise invalid(
            f"Value {value} for parameter {name} is invalid. Reason: Must be between {least} and "
            f"{most}, if provided."
        )
    return value


def _settings(queue: Queue) -> dict[str, str]:
    numbers = {name: str(value) for name, value in DEFAULTS.items()}
    set_here = {name: value for name, value in queue.attributes.items() if value}
    return {**numbers, **set_here}


def _state(world: World, queue: Queue) -> dict[str, str]:
    now_s = world.now_s
    visible = sum(1 for _ in queue.visible(now_s))
    delayed = sum(1 for e in queue.messages.values() if not e.received and e.visible_s > now_s)
    return {
        "QueueArn": queue.arn,
        "CreatedTimestamp": str(int(world.posix(queue.created_s))),
        "LastModifiedTimestamp": str(int(world.posix(queue.modified_s))),
        "ApproximateNumberOfMessages": str(visible),
        "ApproximateNumberOfMessagesNotVisible": str(len(queue.messages) - visible - delayed),
        "ApproximateNumberOfMessagesDelayed": str(delayed),
    }


def _message(world: World, message: Message, receipt: str, names: Iterable[str]) -> Shape:
    attributes = {
        "SentTimestamp": _milliseconds(world, message.sent_s),
        "ApproximateReceiveCount": str(message.received),
        "ApproximateFirstReceiveTimestamp": _milliseconds(world, message.first_received_s),
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",  # EventBridge's
    }
    wanted = set(attributes) if "All" in names else set(names)
    shown = {name: value for name, value in attributes.items() if name in wanted}
    body = message.body
    return {
        "MessageId": message.message_id,
        "ReceiptHandle": receipt,
        "MD5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
        "Body": body,
        **({"Attributes": shown} if shown else {}),
    }


def _milliseconds(world: World, at_s: float) -> str:
    return str(int(world.posix(at_s + world.events.queue_clock_off_s) * 1000))


def _bad_receipt(receipt: str) -> str:
    return f'The input receipt handle "{receipt}" is not a valid receipt handle.'


def _repeated(ids: list[str]) -> str:
    return next(each for each in ids if ids.count(each) > 1)

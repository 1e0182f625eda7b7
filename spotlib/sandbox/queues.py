"""Queues of SQS: how they hand out their messages, and whose events their policies allow.

All times are seconds since the world began.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from math import inf
from typing import Any
from uuid import UUID

from spotlib.sandbox.chance import digest

DEFAULTS = {
    "VisibilityTimeout": 30,
    "MaximumMessageSize": 1048576,
    "MessageRetentionPeriod": 345600,
    "DelaySeconds": 0,
    "ReceiveMessageWaitTimeSeconds": 0,
}
_EVENTS = "events.amazonaws.com"
_SEND = "sqs:sendmessage"
# Operators of conditions, and whether they know wildcards.
_COMPARE = {"ArnEquals": True, "ArnLike": True, "StringLike": True, "StringEquals": False}


@dataclass(kw_only=True)
class Message:
    """One message; a client that received it hides it from others for some time."""

    message_id: str
    body: str
    sent_s: float
    visible_s: float
    received: int = 0
    first_received_s: float = 0.0


@dataclass(kw_only=True)
class Queue:
    """One queue and its messages, the oldest first."""

    name: str
    arn: str
    created_s: float
    modified_s: float
    listed_from_s: float
    attributes: dict[str, str] = field(default_factory=dict)  # those that were set
    tags: dict[str, str] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    sent: int = 0
    purged_s: float = -inf
    deleted_s: float = -inf
    listed_until_s: float = inf  # changed when it is deleted

    def number(self, attribute: str) -> int:
        """The value of an attribute that is a number."""
        return int(self.attributes.get(attribute, DEFAULTS[attribute]))

    def put(self, body: str, at_s: float) -> None:
        """Add a message."""
        self.forget_old(at_s)
        self.sent += 1
        message_id = str(UUID(bytes=digest(16, "message", self.arn, self.created_s, self.sent)))
        visible_s = at_s + self.number("DelaySeconds")
        self.messages[message_id] = Message(
            message_id=message_id, body=body, sent_s=at_s, visible_s=visible_s
        )

    def forget_old(self, at_s: float) -> None:
        """Forget the messages that were kept for as long as the queue keeps them."""
        since_s = at_s - self.number("MessageRetentionPeriod")
        old = takewhile(lambda each: each.sent_s <= since_s, self.messages.values())
        for message in list(old):
            del self.messages[message.message_id]

    def visible(self, at_s: float) -> Iterator[Message]:
        """The messages that a client may receive."""
        self.forget_old(at_s)
        return (each for each in self.messages.values() if each.visible_s <= at_s)

    def hand_out(self, message: Message, at_s: float, hidden_s: float) -> str:
        """Hide a message, and return the receipt with which it can be deleted."""
        message.first_received_s = message.first_received_s or at_s
        message.received += 1
        message.visible_s = at_s + hidden_s
        return self._receipt(message.message_id, message.received)

    def delete(self, receipt: str) -> bool:
        """Delete the message of a receipt; False if it is no receipt of this queue.

        Only the newest receipt of a message deletes it, as with SQS, which then says nothing.
        """
        message_id, number = _read(receipt)
        if self._receipt(message_id, number) != receipt:
            return False
        message = self.messages.get(message_id)
        if message is not None and message.received == number:
            del self.messages[message_id]
        return True

    def _receipt(self, message_id: str, number: int) -> str:
        mark = digest(8, "receipt", self.arn, self.created_s, message_id, number).hex()
        return base64.b64encode(f"{message_id} {number} {mark}".encode()).decode()

    def accepts_events_of(self, rule_arn: str, account_id: str) -> bool:
        """Whether the queue's policy allows EventBridge to send the events of this rule."""
        facts = {"aws:sourcearn": rule_arn, "aws:sourceaccount": account_id}
        policy = json.loads(self.attributes.get("Policy") or "{}")
        effects = {
            each.get("Effect")
            for each in _list(policy.get("Statement"))
            if _applies(each, self.arn, facts)
        }
        return effects == {"Allow"}


def _read(receipt: str) -> tuple[str, int]:
    try:
        message_id, number, _ = base64.b64decode(receipt, validate=True).decode().split(" ")
        return message_id, int(number)
    except (binascii.Error, ValueError):
        return "", 0


def _applies(statement: dict[str, Any], arn: str, facts: dict[str, str]) -> bool:
    principal = statement.get("Principal")
    named = principal if isinstance(principal, dict) else {"Service": principal}
    who = _list(named.get("Service")) + [each for each in _list(named.get("AWS")) if each == "*"]
    actions = [each.lower() for each in _list(statement.get("Action"))]
    return (
        any(each in (_EVENTS, "*") for each in who)
        and any(fnmatchcase(_SEND, each) for each in actions)
        and any(fnmatchcase(arn, each) for each in _list(statement.get("Resource")))
        and all(
            _holds(operator, fact.lower(), _list(values), facts)
            for operator, wanted in statement.get("Condition", {}).items()
            for fact, values in wanted.items()
        )
    )


def _holds(operator: str, fact: str, values: list[str], facts: dict[str, str]) -> bool:
    """Whether a condition holds; one that is not modelled never does."""
    if operator not in _COMPARE or fact not in facts:
        return False
    if _COMPARE[operator]:
        return any(fnmatchcase(facts[fact], each) for each in values)
    return facts[fact] in values


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]

"""Faults at the wire: a call refused by EC2, cut off before it arrived, or executed but unheard.

A fault is a callable in ``world.faults``, asked before a call is executed and again after:
``fault(asked, executed)``.  It lets the call pass by returning, makes EC2 answer with an error by
raising ``ApiError``, and breaks the connection by raising one of botocore's connection errors
(over HTTP the socket is dropped).
"""

from __future__ import annotations

from collections.abc import Callable

from botocore.exceptions import BotoCoreError, ConnectionClosedError

from spotlib.sandbox.protocol import ApiError, Asked

Fault = Callable[[Asked, bool], None]

_STATUS = {"RequestLimitExceeded": 503, "Unavailable": 503, "InternalError": 500}


def fail(action: str, nth: int = 1, code: str = "InternalError") -> Fault:
    """The nth call of this action is refused with this code, and not executed."""
    message = f"A fault of the sandbox: call {nth} of {action}."
    return _at_call(action, nth, ApiError(code, message, _STATUS.get(code, 400)), executed=False)


def cut_off(action: str, nth: int = 1, error: BotoCoreError | None = None) -> Fault:
    """The connection breaks before the nth call of this action is executed."""
    return _at_call(action, nth, error or _closed(), executed=False)


def lose_answer(action: str, nth: int = 1, error: BotoCoreError | None = None) -> Fault:
    """The nth call of this action is executed, but its answer never arrives."""
    return _at_call(action, nth, error or _closed(), executed=True)


def _closed() -> BotoCoreError:
    return ConnectionClosedError(endpoint_url="sandbox")


def _at_call(action: str, nth: int, error: Exception, *, executed: bool) -> Fault:
    seen = 0

    def fault(asked: Asked, was_executed: bool) -> None:
        nonlocal seen
        if asked.action != action or was_executed is not executed:
            return
        seen += 1
        if seen == nth:
            raise error

    return fault

"""Ctrl-C and signals as a flag that the loop reads.  Nothing is raised here.

A handler that raises could interrupt a write to the log, or the clean-up itself.  Therefore the
first signal asks for an orderly end, and further signals do not change that: what was launched is
always cleaned up.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDERR = 2
_CLEAR = "\r\x1b[K"  # back to the start of the line, which is emptied


_WHO = {
    "SIGINT": "Ctrl-C or the stop button (SIGINT)",
    "SIGTERM": "another program, or the end of its kernel (SIGTERM)",
    "SIGHUP": "the end of its terminal (SIGHUP)",
}


def stopped_words(by: str, last_round: int, rounds: int) -> str:
    """Say who or what stopped a batch and in which round; 0 is before the first.

    Examples
    --------
    >>> from spotlib.collect.stopping import stopped_words
    >>> stopped_words("SIGINT", 4, 8)
    'stopped by Ctrl-C or the stop button (SIGINT) in round 4 of 8'
    """
    when = f"in round {last_round} of {rounds}" if last_round else "before its first request"
    return f"stopped by {_WHO.get(by, by)} {when}"


class Stopping:
    """While entered, ``by`` is the name of the signal that asked to stop, or None.

    ``twice`` says that a second signal came: then only the clean-up is waited for.

    ``words`` returns what the stop will do; it is printed as soon as a signal comes.
    """

    def __init__(self) -> None:
        self.by: str | None = None
        self.twice = False
        self.words: Callable[[], str] = lambda: "stopping"
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():  # signal.signal allows no other
            self._before = {each: signal.signal(each, self._asked) for each in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        first, self.by = self.by is None, signal.Signals(number).name
        self.twice = not first
        words = "stopping" if first else "still cleaning up; please wait"
        if first:
            with suppress(Exception):
                words = self.words()
        write_line(f"{words} ({self.by})")


def write_line(words: str) -> None:
    """Write a line, in a terminal over the last one; print may not be called within a print."""
    os.write(_STDERR, f"{_CLEAR * os.isatty(_STDERR)}{words}\n".encode())


def rewrite_line(words: str) -> None:
    """Write over the last line of a terminal; write nothing where there is no terminal."""
    if os.isatty(_STDERR):
        fits = words[: os.get_terminal_size(_STDERR).columns - 1]
        os.write(_STDERR, f"{_CLEAR}{fits}".encode())

"""Ctrl-C and signals as a flag that the loop reads.  Nothing is raised here.

A handler that raises could cut a line of the log, or the clean-up itself.  So the first signal asks
for an orderly end, and further signals change nothing: what was launched is always cleaned up.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopping:
    """While entered, ``by`` is the name of the signal that asked to stop, or None."""

    def __init__(self) -> None:
        self.by: str | None = None
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
        again = self.by is not None
        self.by = signal.Signals(number).name
        words = "still cleaning up; please wait" if again else "stopping: cleaning up first"
        os.write(2, f"{self.by}: {words}\n".encode())  # print may not be called within a print

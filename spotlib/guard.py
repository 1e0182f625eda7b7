"""A process of its own that closes a batch when its collector dies, however it dies.

It sits in a session of its own, blocked on a pipe.  The pipe closes when the collector ends, also
by kill -9; unless the word came before that all is clean, the guard sweeps the batch until it is.
It cannot outlive the machine: then only ValidUntil and the switch in each instance are left.
"""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

ALL_CLEAN = b"clean\n"
_TRIES = 40
_PAUSE_S = 5.0  # real seconds, also to let the dead collector's lock go


class Guard:
    """The collector's end of the pipe."""

    def __init__(self, log: Path, *, endpoint: str, profile: str | None) -> None:
        command = [sys.executable, "-m", "spotlib.guard", str(log), "--endpoint", endpoint]
        command += ["--profile", profile] if profile else []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """Tell it that all is clean, and see it go."""
        assert self._process.stdin is not None
        self._process.stdin.write(ALL_CLEAN)
        self._process.stdin.close()
        self._process.wait()

    def leave_to_it(self) -> None:
        """Let it take over: it was not confirmed that all is clean."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def main() -> int:
    """Wait for the end of the collector; then close what it did not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--profile")
    given = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if sys.stdin.buffer.read() == ALL_CLEAN:
        return 0
    return 0 if any(_closed(given) for _ in range(_TRIES)) else 1


def _closed(given: argparse.Namespace) -> bool:
    """One try, with new clients and newly read credentials: old ones may be why it died."""
    # Imported only now: a guard that waits should cost next to nothing.
    from spotlib.connection import connect  # noqa: PLC0415
    from spotlib.sweep import sweep, unfinished  # noqa: PLC0415

    mine = [each for each in unfinished(given.log.parent) if each.path.name == given.log.name]
    if not mine:
        return True  # a sweep was quicker
    if not mine[0].alive:
        connection = connect(given.endpoint, profile=given.profile)
        regions = mine[0].regions or ("us-east-1",)
        swept = sweep(connection, folder=given.log.parent, batch_id=given.log.stem, regions=regions)
        if swept.clean:
            return True
    time.sleep(_PAUSE_S)
    return False


if __name__ == "__main__":
    raise SystemExit(main())

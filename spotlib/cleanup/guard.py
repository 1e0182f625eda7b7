"""A process of its own that closes a batch when its collector dies, however it dies.

It daemonizes (own session, re-parented) and ignores SIGINT, SIGHUP and SIGTERM.  So it survives
the end of a terminal, of a process group, or of a kernel's whole tree of processes.  It blocks on a
pipe that closes when the collector ends, also by kill -9.  Unless the collector has written before
that all is clean, the guard sweeps the batch until it is.

Session keys that it could not get again by itself (an MFA code was asked for) are the first line in
that pipe.

It cannot survive kill -9 of itself, nor the end of the machine, the container or the job (cgroup):
then only ValidUntil and the switch in each instance are left.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spotlib.ec2.credentials import SessionKeys

NO_KEYS = b"\n"
ALL_CLEAN = b"clean\n"
_TRY_S = 300.0  # of the market's time, for one try: the next has newly read credentials
# In real seconds.  First soon, because a dying collector releases its lock late; then for an hour.
_PAUSES_S = (*itertools.repeat(5.0, 12), *itertools.repeat(60.0, 60))


class Guard:
    """The collector's end of the pipe.

    ``keys`` are credentials that the guard cannot read by itself: see ``spotlib.ec2.credentials``.
    ``lifeline`` are descriptors that the guard keeps open as long as it lives; see ``Connection``.

    Raises
    ------
    OSError
        If there is no guard: then nothing should be launched.
    """

    def __init__(
        self,
        log: Path,
        *,
        endpoint: str,
        profile: str | None,
        keys: "SessionKeys | None" = None,
        lifeline: Sequence[int] = (),
    ) -> None:
        # -P: a file beside the notebook must not be taken for a library.
        command = [
            sys.executable,
            "-P",
            "-m",
            "spotlib.cleanup.guard",
            str(log),
            "--endpoint",
            endpoint,
        ]
        command += ["--profile", profile] if profile else []
        started = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=lifeline,
        )
        assert started.stdin is not None
        assert started.stdout is not None
        self._pipe, self._gone = started.stdin, started.stdout
        if started.wait() != 0:
            with self._pipe, self._gone:
                words = self._gone.read().decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"the guard did not start, so nothing was launched: {' '.join(words)}")
        self._pipe.write(keys.to_line() if keys is not None else NO_KEYS)
        # A forked child (multiprocessing) would keep the pipe open when this process is dead.
        os.register_at_fork(after_in_child=self._pipe.close)

    def dismiss(self) -> None:
        """Tell it that all is clean, and wait until it has ended."""
        with suppress(BrokenPipeError):  # somebody killed it; all is clean all the same
            self._pipe.write(ALL_CLEAN)
        self._pipe.close()
        with self._gone:
            self._gone.read()  # it writes nothing: the pipe closes when the guard ends

    def leave_to_it(self) -> None:
        """Let it take over: it was not confirmed that all is clean."""
        self._pipe.close()
        self._gone.close()


def main() -> int:
    """Wait for the end of the collector, then close what it left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--profile")
    given = parser.parse_args()
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    if os.fork():  # re-parented from now on: editors end a kernel's children with it
        return 0
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    keys = sys.stdin.buffer.readline()
    if sys.stdin.buffer.readline() == ALL_CLEAN:
        return 0
    for pause_s in _PAUSES_S:
        if _closed(given, keys):
            return 0
        time.sleep(pause_s)
    return 1


def _closed(given: argparse.Namespace, keys: bytes) -> bool:
    try:
        return _close(given, keys)
    except Exception:  # noqa: BLE001 - any error: nobody else is there to try again
        return False


def _close(given: argparse.Namespace, keys: bytes) -> bool:
    """One try, with new clients and newly read credentials: old ones may be why it died."""
    # Imported only now: a guard that waits should cost next to nothing.
    from spotlib.cleanup.sweep import sweep  # noqa: PLC0415
    from spotlib.cleanup.unfinished import unfinished  # noqa: PLC0415
    from spotlib.ec2.credentials import SessionKeys  # noqa: PLC0415
    from spotlib.ec2.endpoints import connect  # noqa: PLC0415

    mine = unfinished(given.log) if given.log.exists() else []
    simulated = bool(mine) and mine[0].batch.simulated
    handed = SessionKeys.from_line(keys)
    try:
        connection = connect(given.endpoint, profile=given.profile, keys=handed)
    except ConnectionError:
        if simulated:
            return True  # that pretend market has ended, and everything in it
        raise
    if not given.log.exists():  # deleted meanwhile: the tag still finds what is left
        return sweep(connection, folder=None, batch_id=given.log.stem, give_up_s=_TRY_S).clean
    if simulated and not connection.simulated:
        return True  # something else answers there now
    nearby = (connection.session.region_name or "us-east-1",)  # nothing was requested yet
    swept = sweep(
        connection,
        folder=given.log,  # other logs are not its business
        batch_id=given.log.stem,
        regions=(mine[0].regions or nearby) if mine else None,
        give_up_s=_TRY_S,
    )
    if any(each.forgotten for each in swept.batches):
        return True  # the next try would find the same
    return swept.clean and not unfinished(given.log)  # another sweep may be at it, and may fail


if __name__ == "__main__":
    raise SystemExit(main())

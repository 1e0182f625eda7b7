"""Starts a pretend market in a process of its own."""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import weakref
from typing import Any

_IDLE_S = 600  # a person may pause between two cells


def start_sandbox(
    *, market: str | None, seed: int | None, speed: float | None
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a pretend market in a process of its own, which outlives a kernel that left work."""
    command = [sys.executable, "-m", "spotlib", "sandbox", "--json", "--end-with-stdin"]
    command += ["--idle-s", str(_IDLE_S)]
    command += ["--seed", str(secrets.randbelow(2**31) if seed is None else seed)]
    command += ["--market", market] if market else []
    command += ["--virtual"] if speed is None else ["--speed", str(speed)]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        _close_in_forks(process.stdin)
        with process.stdout:
            line = process.stdout.readline()
        if not line:
            process.communicate()
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"the sandbox did not start: {' '.join(last)}")
    return process, str(json.loads(line)["url"])


def _close_in_forks(pipe: Any) -> None:
    """A forked child (multiprocessing) would keep the pipe open when this process is dead."""
    known = weakref.ref(pipe)  # else this would keep it open

    def close() -> None:
        pipe = known()
        if pipe is not None:
            pipe.close()

    os.register_at_fork(after_in_child=close)

"""Real kill -9 at given steps of the short batch: ``python kill_nine.py FOLDER METHOD STEP...``.

``METHOD/granted`` makes it a batch of probes.

This process serves the market, over HTTP and in virtual time.  The collection runs in a forked
child (importing once saves time) and is killed at its step.  For each step one line of JSON says
what was left on the disk and in the market, before and after a sweep.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from crashing import NAME, REGIONS, short_batch, short_world
from programs import served

from spotlib.cleanup.sweep import sweep
from spotlib.ec2.endpoints import connect
from spotlib.model import Stage
from spotlib.sandbox.world import World


def main(folder: Path, arm: str, steps: list[int]) -> None:
    """Kill at each step in turn."""
    for step in steps:
        print(json.dumps(killed_at(step, folder / str(step) / NAME, arm)), flush=True)


def killed_at(step: int, log: Path, arm: str) -> dict[str, Any]:
    """Kill one collection; return what was left before and after a sweep."""
    world = short_world()
    url = served(world, idle_s=0.0)
    child = os.fork()
    if child == 0:
        run_until_killed(url, log, step, arm)
    _, status = os.waitpid(child, 0)
    left = {"truth": digest(world), "log": bodies(log)}
    child = os.fork()
    if child == 0:
        clean = sweep(connect(url), folder=log.parent, regions=REGIONS).clean
        os._exit(0 if clean else 1)
    _, swept = os.waitpid(child, 0)
    return {
        "step": step,
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
        "before": left,
        "swept": os.waitstatus_to_exitcode(swept) == 0,
        "leftovers": world.leftovers(),
        "touched": world.touched,
        "after": {"truth": digest(world), "log": bodies(log)},
    }


def run_until_killed(url: str, log: Path, step: int, arm: str) -> None:
    """Never returns."""
    seen = 0

    def visit(_: str) -> None:
        nonlocal seen
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    arm, _, wanted = arm.partition("/")
    short_batch(connect(url), log, visit, arm=arm, wanted=Stage[(wanted or "ready").upper()])
    os._exit(0)


def digest(world: World) -> str:
    """Return a hash of the market's true state."""
    return hashlib.sha256(json.dumps(world.truth(), sort_keys=True).encode()).hexdigest()


def bodies(log: Path) -> str:
    """Return the log without its first line, which names the process."""
    lines = log.read_bytes().split(b"\n")[1:] if log.exists() else []
    return b"\n".join(lines).decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], [int(each) for each in sys.argv[3:]])

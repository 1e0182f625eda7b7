"""Real kill -9 of collectors that logged in with an MFA code: ``python kill_with_mfa.py FOLDER
STEP...``.

Each has a market of its own in this process, over HTTP, which only a session may use that began
with the one code its device has.  It is no sandbox to its clients, but an EC2 somewhere: so they
use their profile.  The collectors are forked (importing once saves time), each with a terminal of
its own, where this process types the code.  At its step each is killed.  For each, one line of JSON
says what was left then, and once its guard has ended.
"""

import json
import os
import pty
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conftest import ARM, NANO, QUICK, plan_for
from crashing import NAME, visiting
from programs import PATIENCE_S, processes_of, served

from spotlib.collect.rounds import collect_batch
from spotlib.ec2.endpoints import connect
from spotlib.record.tables import load_batches
from spotlib.sandbox import server
from spotlib.sandbox.world import Fate, ScaledTime, World

SERIAL, CODE = "arn:aws:iam::123456789012:mfa/researcher", "123456"
PROFILE = f"""
[profile researcher]
aws_access_key_id = AKIAIOSFODNN7EXAMPLE
aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
[profile research]
role_arn = arn:aws:iam::123456789012:role/research
source_profile = researcher
mfa_serial = {SERIAL}
"""
SPEED = 5.0
TIMEOUT_S = 1200.0  # so long that nothing ends by itself: neither ValidUntil nor the switch
FATES = (QUICK, Fate(in_flight_s=12.0, boot_s=3.0), Fate(held_s=90.0), Fate(held_s=None))


@dataclass
class Kill:
    """One collector, and the market that it uses."""

    step: int
    log: Path
    world: World
    url: str
    pid: int = 0
    then: dict[str, Any] = field(default_factory=dict)  # what was so right after its death

    def run(self, terminal: int) -> None:
        """Be the collector, in a session of its own, whose standard input is the terminal."""
        os.setsid()
        for number in (0, 1, 2):
            os.dup2(terminal, number)
        os.environ["AWS_ENDPOINT_URL_STS"] = self.url
        seen = 0

        def visit(_: str) -> None:
            nonlocal seen
            if seen == self.step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

        connection = connect(self.url, profile="research")
        checked = plan_for(connection, NANO, ARM, n=2, timeout_s=TIMEOUT_S)
        with visiting(visit):
            collect_batch(connection, checked, log=self.log, poll_s=0.5, placement_scores=False)

    def start(self) -> None:
        """Fork it, type the code once it asks, and wait until it is dead."""
        ours, terminal = pty.openpty()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.run(terminal)
            finally:
                self.log.with_suffix(".txt").write_text(traceback.format_exc())
                os._exit(1)
        os.close(terminal)
        asked = b""
        while b"MFA code" not in asked:
            asked += os.read(ours, 1024)
        os.write(ours, f"{CODE}\n".encode())
        _, status = os.waitpid(self.pid, 0)
        self.then = {
            "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
            "left_then": sum(map(len, self.world.leftovers().values())),
            "exposed": self.exposed(),
        }

    def report(self) -> dict[str, Any]:
        """Wait until its guard has ended."""
        deadline_s = time.monotonic() + PATIENCE_S
        while self.guards() and time.monotonic() < deadline_s:
            time.sleep(0.2)
        batch = load_batches(self.log) if self.log.exists() else None
        return {
            "step": self.step,
            **self.then,
            "left": self.world.leftovers(),
            "recorded_clean": batch is not None and bool(batch["clean"].fillna(False).all()),
            "ended_s": self.world.now_s,
            "codes": self.world.mfa_codes,
        }

    def guards(self) -> list[int]:
        return processes_of(self.log, "spotlib.cleanup.guard")

    def exposed(self) -> list[str]:
        """Where the session's keys can be read: files, arguments and environments."""
        folder = self.log.parents[1]
        places = [each for each in folder.rglob("*") if each.is_file()]
        for number in self.guards():
            places += [Path(f"/proc/{number}/{name}") for name in ("environ", "cmdline")]
        [key] = self.world.sessions
        return [str(each) for each in places if each.exists() and key.encode() in each.read_bytes()]


def main(folder: Path, steps: list[int]) -> None:
    """Kill at all steps, a few at a time: most of the time is spent waiting."""
    (folder / "config").write_text(PROFILE)
    os.environ.update(AWS_CONFIG_FILE=str(folder / "config"), AWS_EC2_METADATA_DISABLED="true")
    server._CONTROL.clear()
    for first in range(0, len(steps), 6):
        kills = []
        for step in steps[first : first + 6]:
            fates = iter(FATES)
            world = World(
                epoch=datetime.now(UTC),
                clock=ScaledTime(SPEED),
                script=lambda _, fates=fates: next(fates, QUICK),
                mfa_codes={SERIAL: CODE},
            )
            log = folder / str(step) / "launches" / NAME
            log.parent.mkdir(parents=True)
            kills.append(Kill(step, log, world, served(world, idle_s=0.0)))
            kills[-1].start()
        for kill in kills:
            print(json.dumps(kill.report()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(each) for each in sys.argv[2:]])

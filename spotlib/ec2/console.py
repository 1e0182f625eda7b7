"""Reads a guest's console: what it wrote there, and the stamp in it.

Only types on Nitro show the newest output.  For other types, EC2 posts a console minutes late, and
once more when the instance ends.
"""

from dataclasses import dataclass
from typing import Any

from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import Refusal
from spotlib.stamp import Stamp, read_stamp

GET = "get_console_output"


@dataclass(frozen=True)
class ConsoleRead:
    """What a read showed: nothing if nothing is posted yet, or if it failed with ``error``."""

    instance_id: str
    asked_s: float
    answered_s: float
    output: str = ""
    stamp: Stamp | None = None
    server_date: str | None = None
    error: str | None = None


def read_console(
    connection: Connection, region: str, instance_id: str, *, latest: bool
) -> ConsoleRead:
    """Read a console: with ``latest`` what was written just now, else what EC2 has posted."""
    clock, given = connection.clock, dict[str, Any](InstanceId=instance_id)
    given |= {"Latest": True} if latest else {}
    asked_s = clock.now_s()
    try:
        reply = connection.call(region, GET, quick=True, **given)
    except Refusal as refusal:
        error = f"{refusal.code}: {refusal.message}"
        return ConsoleRead(instance_id, asked_s, clock.now_s(), error=error)
    answered_s, output = clock.now_s(), str(reply.get("Output") or "")
    return ConsoleRead(
        instance_id,
        asked_s,
        answered_s,
        output,
        read_stamp(output),
        reply["ResponseMetadata"]["HTTPHeaders"].get("date"),
    )

"""The commands that are printed where something is left: they work when pasted into any shell."""

import shlex
import sys
from pathlib import Path

from spotlib.ec2.connection import Connection
from spotlib.workspace import LAUNCHES, results_path


def sweep_command(batch_id: str, *, log: Path, endpoint: str, profile: str | None) -> str:
    """Return the command that closes a batch later, from any folder and any shell."""
    words = [sys.executable, "-m", "spotlib", "sweep", "--batch", batch_id]
    folder = log.absolute().parent
    results = folder.parent if folder.name == LAUNCHES else folder
    words += ["--results", str(results)] if results != results_path() else []
    words += ["--endpoint", endpoint] if endpoint != "sandbox" else []
    words += ["--profile", profile] if profile else []
    return shlex.join(words)


def aws_options(connection: Connection) -> str:
    """Return what the AWS CLI needs to reach the same place, with a space before each option."""
    given = {"--profile": connection.profile, "--endpoint-url": connection.url}
    return "".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value)

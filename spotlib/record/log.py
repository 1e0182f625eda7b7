"""The append-only event log of a batch: the only raw record, and the journal of its clean-up.

``<batch_id>.jsonl``, a JSON object a line, each appended with one write and never edited.  It is
the data and the write-ahead journal at once, so that the two cannot disagree.  Whoever holds the
file's lock is its writer.

History of the schema:

1. 2026-11: first.  Times are seconds since the batch's first line; see ``EVENTS``.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

SCHEMA = 1
EVENTS = {
    "batch": "first line: schema, parameters, endpoint, world, identity, versions, host",
    "intent": "before a request call: plan, client token, exact parameters, what is known of it",
    "requested": "the call was answered: request ids, when it was sent and answered",
    "refused": "the call was refused: EC2's code and message, its kind, what to do",
    "skipped": "a round that would have started late, or ticks that passed without a look",
    "look": "one sight of a region, also a failed one: the count of each plan at each stage",
    "stage": "a request is first shown at a stage: the bracket and EC2's own timestamps",
    "outcome": "a request ended: how, EC2's status code, until when it was watched",
    "tagged": "instances got the batch's tag, so that the bill can be checked",
    "release": "clean-up: what was cancelled and terminated",
    "clean": "the end: whether it is confirmed that nothing is left",
    "recovered": "goes on after its writer died, or after a line that was not written whole: torn",
}
Event = dict[str, Any]
_LOOK = b'{"event":"look"'
_TAIL_BYTES = 4096  # longer than the line of a confirmed end


def new_batch_id(started_at: datetime) -> str:
    """A sortable name: when the batch started and something that no other one has."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class LogError(OSError):
    """The log could not be written."""


class EventLog:
    """The writer of one batch's log: one write a line, never edited, locked while it lives.

    ``flock`` frees itself when its holder dies, however it dies, so a stale lock is impossible.
    """

    def __init__(self, path: str | Path, *, file: int | None = None) -> None:
        self.path = Path(path)
        self._file = _new_file(self.path) if file is None else file
        # A forked child (multiprocessing) would keep the lock when this process is dead.
        os.register_at_fork(after_in_child=self._let_go)
        self._torn = False  # whether the file ends within a line

    @classmethod
    def resume(cls, path: str | Path) -> "EventLog":
        """Take up the log of a writer that died, to complete it: from now on this is the writer.

        Raises
        ------
        BlockingIOError
            If its writer lives.
        OSError
            If it cannot be written: a full disk, a read-only folder.
        """
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise
        log = cls(path, file=file)
        size = os.path.getsize(path)
        log._torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        try:
            log.append("recovered", sync=True, **_recovered(torn=log._torn))
        except LogError:
            log.close()
            raise
        return log

    @property
    def batch_id(self) -> str:
        """The batch's name, from the file's."""
        return self.path.stem

    def append(self, event: str, /, *, sync: bool = False, **fields: Any) -> None:
        """Write one event; ``sync`` waits until it is on the disk.

        Raises
        ------
        LogError
            If it could not be written whole (a full disk).  What was there before stays readable.
        """
        data = _line(event, fields)
        if self._torn and event != "recovered":  # a torn line is followed by what says why
            data = _line("recovered", _recovered(torn=True)) + data
        if self._torn:
            data = b"\n" + data
        try:
            self._write(data)
            if sync:
                os.fsync(self._file)
        except OSError as error:
            raise LogError(f"{self.path} could not be written: {error}") from error

    def _write(self, data: bytes) -> None:
        whole = os.write(self._file, data) == len(data)
        self._torn = not whole
        if not whole:
            raise OSError("the disk took only a part of a line; is it full?")

    def flush(self) -> None:
        """Wait until all is on the disk, as far as it takes it."""
        with contextlib.suppress(OSError):  # a full disk has been told of by ``append``
            os.fsync(self._file)

    def close(self) -> None:
        """Flush to the disk and let go of the lock."""
        self.flush()
        self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # from now on the number may be another file's


def _line(event: str, fields: Mapping[str, Any]) -> bytes:
    text = json.dumps({"event": event, **fields}, separators=(",", ":"), default=_plain)
    return text.encode() + b"\n"


def _recovered(*, torn: bool) -> dict[str, Any]:
    return {"torn": torn, "at": datetime.now(UTC), "pid": os.getpid()}


def is_alive(path: str | Path) -> bool:
    """Whether a log's writer lives: it holds the lock, and loses it however it dies."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def ends_clean(path: str | Path) -> bool:
    """Whether a log's last line says that nothing is left of its batch: quick, for many logs."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - _TAIL_BYTES, 0))
        last = file.read().splitlines(keepends=True)[-1:]
    try:
        event = orjson.loads(last[0]) if last and last[0].endswith(b"\n") else {}
    except orjson.JSONDecodeError:
        return False
    return bool(event.get("event") == "clean" and event.get("confirmed"))


def _new_file(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, flags, 0o644)
    except FileExistsError as error:
        raise ValueError(f"{path} exists: a log is never written twice") from error
    except OSError as error:
        raise LogError(f"{path} cannot be made: {error}; choose another results folder") from error
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    _sync_folder(path.parent)
    return file


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} has no place in a log")


def _sync_folder(folder: Path) -> None:
    # A new file's name is safe on the disk only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The logs among ``paths``: files as they are, folders for the ``.jsonl`` in them, sorted."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found.extend(sorted(path.glob("*.jsonl")))
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no log or folder of logs at {path}")
    return found


def read_events(path: str | Path, *, looks: bool = True) -> tuple[list[Event], bool]:
    """All whole events of one log, and whether its last line is torn (or still being written).

    Raises
    ------
    ValueError
        If the file is no log, is of an unknown schema, or is broken before its last line.
    """
    lines = Path(path).read_bytes().split(b"\n")
    tail = lines.pop()  # empty after a whole line
    kept = lines if looks else [line for line in lines if not line.startswith(_LOOK)]
    try:
        events: list[Event] = [orjson.loads(line) for line in kept]
        torn = False
    except orjson.JSONDecodeError as error:
        events, torn = _around_torn_lines(kept, f"{path} is broken before its last line: {error}")
    _require_schema(path, events)
    return events, torn or tail != b""


def _around_torn_lines(lines: Sequence[bytes], complaint: str) -> tuple[list[Event], bool]:
    """The events where lines torn by a crash are followed by the recovery that says so.

    There is more than one such line where the recovery itself was torn; and whether one is last.
    """
    events: list[Event] = []
    torn = False
    for line in lines:
        try:
            event: Event = orjson.loads(line)
        except orjson.JSONDecodeError:
            torn = True
            continue
        if torn and event.get("event") != "recovered":
            raise ValueError(complaint)
        torn = False
        events.append(event)
    return events, torn


def _require_schema(path: str | Path, events: Sequence[Event]) -> None:
    if not events:
        return
    first = events[0]
    if not isinstance(first, dict) or first.get("event") != "batch":
        raise ValueError(f"{path} is not a log of spotlib: its first line is no batch event")
    if first.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {first.get('schema')!r}, this spotlib reads {SCHEMA}: update it"
        )

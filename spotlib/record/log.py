"""The append-only event log of a batch: the only raw record, and the journal of its clean-up.

``<batch_id>.jsonl``, one JSON object per line, each appended with one write and never edited.
It is the data and the write-ahead journal at once, so the two cannot disagree.  The holder of the
file's lock is its writer.  What a line may hold is defined in ``events``.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from spotlib.record.events import (
    SCHEMA,
    BatchEvent,
    CleanEvent,
    Event,
    IntentEvent,
    RecoveredEvent,
)

_FIRST = b'{"event":"batch"'
_POLL = b'{"event":"poll"'
_TAIL_BYTES = 4096  # longer than the line of a confirmed end
# What a damaged line raises: msgspec's own errors, bytes that are no UTF-8, and brackets too deep.
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)


def _plain(value: Any) -> Any:
    """Turn a number of numpy or pandas into Python's, which alone can be written."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} has no place in a log")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_skip = msgspec.json.Decoder(msgspec.Raw).decode
_decode: Callable[[bytes], Event] = msgspec.json.Decoder(Event).decode


def new_batch_id(started_at: datetime) -> str:
    """Return a new sortable name: when the batch started, and a random suffix."""
    return f"{started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class LogError(OSError):
    """The log could not be written."""


class EventLog:
    """The writer of one batch's log: one write per line, never edited, locked while it lives.

    ``flock`` is released when its holder dies, however it dies, so a stale lock is impossible.
    """

    def __init__(self, path: str | Path, *, file: int | None = None) -> None:
        self.path = Path(path)
        self._file = _new_file(self.path) if file is None else file
        # A forked child (multiprocessing) would keep the lock when this process is dead.
        os.register_at_fork(after_in_child=self._let_go)
        self._torn = False  # whether the file ends within a line

    @classmethod
    def resume(cls, path: str | Path) -> "EventLog":
        """Take over the log of a writer that died, to complete it.

        Raises
        ------
        BlockingIOError
            If its writer lives.
        OSError
            If it cannot be written: a full disk, a read-only folder.
        """
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            _lock(file)
        except BlockingIOError:
            os.close(file)
            raise
        log = cls(path, file=file)
        size = os.path.getsize(path)
        log._torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        try:
            log.append(_recovered(torn=log._torn), sync=True)
        except LogError:
            log.close()
            raise
        return log

    @property
    def batch_id(self) -> str:
        """The batch's name, from the file's."""
        return self.path.stem

    def append(self, event: Event, *, sync: bool = False) -> None:
        """Write one event; ``sync`` waits until it is on the disk.

        Raises
        ------
        LogError
            If it could not be written whole (a full disk).  Earlier lines stay readable.
        ValueError
            If it comes before money is spent, and a reader would refuse it.
        """
        data = _encode(event) + b"\n"
        if isinstance(event, BatchEvent | IntentEvent):
            _require_readable(self.path, data)
        if self._torn and not isinstance(event, RecoveredEvent):
            # Readers skip a torn line only where the next line says that it is torn.
            data = _encode(_recovered(torn=True)) + b"\n" + data
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
        """Wait until everything is on the disk, as far as the disk takes it."""
        with contextlib.suppress(OSError):  # `append` has already reported a full disk
            os.fsync(self._file)

    def close(self) -> None:
        """Flush to the disk and release the lock."""
        self.flush()
        self._let_go()

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1  # from now on the number may be another file's


def _recovered(*, torn: bool) -> RecoveredEvent:
    return RecoveredEvent(torn=torn, at=datetime.now(UTC), pid=os.getpid())


def is_alive(path: str | Path) -> bool:
    """Whether a log's writer lives: it holds the lock until it dies."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def ends_clean(path: str | Path) -> bool:
    """Whether a log's last line confirms that nothing is left of its batch; reads only the tail."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - _TAIL_BYTES, 0))
        last = file.read().splitlines(keepends=True)[-1:]
    if not last or not last[0].endswith(b"\n"):
        return False
    try:
        event = _decode(last[0])
    except _UNREADABLE:
        return False
    return isinstance(event, CleanEvent) and event.confirmed


def _new_file(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, flags, 0o644)
    except FileExistsError as error:
        raise ValueError(f"{path} exists: a log is never written twice") from error
    except OSError as error:
        raise LogError(f"{path} cannot be made: {error}; choose another results folder") from error
    _lock(file)
    _sync_folder(path.parent)
    return file


def _lock(file: int) -> None:
    """Become the writer; BlockingIOError if there is one.  `is_alive` holds a lock for a moment."""
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # refused by a writer, not by a reader
        fcntl.flock(file, fcntl.LOCK_UN)


def _sync_folder(folder: Path) -> None:
    # A new file's name is safe on the disk only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_files(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the logs among ``paths``, each once: files, and the ``.jsonl`` of folders, sorted."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found.extend(sorted(path.glob("*.jsonl")))
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no log or folder of logs at {path}")
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


class Lines(NamedTuple):
    """The events of a log with their line numbers, and whether its last line is torn."""

    events: list[tuple[int, Event]]
    torn: bool


def read_lines(path: str | Path, *, polls: bool = True) -> Lines:
    """Read a log, also one that is being written; without ``polls`` those are left out.

    Raises
    ------
    ValueError
        If the file is no log, has another schema, is broken before its last line, or has a line
        that is no valid event: file, line and field are named.
    """
    lines = Path(path).read_bytes().split(b"\n")
    tail = lines.pop()  # empty after a whole line
    if not lines and not _FIRST.startswith(tail[: len(_FIRST)]):
        raise ValueError(f"{path} is not a log of spotlib: it does not begin with a batch event")
    _require_schema(path, lines[:1])
    events: list[tuple[int, Event]] = []
    torn = 0  # the number of a line that was not written whole
    for number, line in _wanted(lines, polls=polls):
        event = _event_of(path, number, line)
        if event is None:
            torn = torn or number
            continue
        if torn and not isinstance(event, RecoveredEvent):
            raise ValueError(f"{path} is broken before its last line: line {torn} is no JSON")
        torn = 0
        events.append((number, event))
    return Lines(events, torn > 0 or tail != b"")


def _wanted(lines: Sequence[bytes], *, polls: bool) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, 1):
        if polls or not line.startswith(_POLL) or not _is_json(line):  # a damaged one is reported
            yield number, line


def _event_of(path: str | Path, number: int, line: bytes) -> Event | None:
    """Decode a line; None if it is not whole JSON."""
    try:
        return _decode(line)
    except _UNREADABLE as error:
        if not _is_json(line):  # a field is checked before the end of the line is seen
            return None
        raise ValueError(f"{path}, line {number} is no valid event: {error}") from error


def _is_json(line: bytes) -> bool:
    try:
        _skip(line)
    except _UNREADABLE:
        return False
    return True


def _require_readable(path: Path, line: bytes) -> None:
    try:
        _decode(line)
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot take this event: {error}") from error


def _require_schema(path: str | Path, lines: Sequence[bytes]) -> None:
    if not lines:
        return
    try:
        first = msgspec.json.decode(lines[0])
    except _UNREADABLE:
        first = None
    if not isinstance(first, dict) or first.get("event") != "batch":
        raise ValueError(f"{path} is not a log of spotlib: its first line is no batch event")
    schema = first.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "update spotlib" if newer else "read it with the version that wrote it"
        raise ValueError(
            f"{path} has schema {schema!r}, this spotlib reads schema {SCHEMA} only: {advice}"
        )

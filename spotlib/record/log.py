"""The append-only event log of a batch: the only raw record, and the journal of its clean-up.

``<batch_id>.jsonl``, one JSON object per line, each appended with one write and never edited.
It is the data and the write-ahead journal at once, so the two cannot disagree.  The holder of the
writer's lock is its writer.  While a batch runs, a hidden file beside its log is locked too: an
editor that saves the log puts another file in its place, which nobody has locked.  What a line may
hold is defined in ``events``.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import sys
import time
from collections.abc import Callable, Iterator
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
_FIRST_BYTES = 1_048_576  # longer than any first line
_TAIL_BYTES = 4096  # longer than the line of a confirmed end
# The writer's lock is on this one byte, far behind the end of any log.  So a lock that another
# program holds on the file is not mistaken for it.
_LOCKED_BYTE = (2**62, 1)
_LOCK = "hhqqi"  # struct flock of Linux: kind, from where, start, length, process
_PATIENCE_S = 1.0
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

    The lock is released when its holder dies, however it dies, so a stale lock is impossible.
    """

    def __init__(self, path: str | Path, *, file: int | None = None) -> None:
        self.path = Path(path)
        self._beside = -1
        self._file = self._begin() if file is None else file
        # A forked child (multiprocessing) would keep the lock when this process is dead.
        os.register_at_fork(after_in_child=self._let_go)
        self._torn = False  # whether the file ends within a line
        self._lines = 0  # whole ones

    def _begin(self) -> int:
        file = _new_file(self.path)
        try:
            self._beside = os.open(_beside(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            _lock(self._beside)
        except OSError as error:
            os.close(file)
            raise LogError(f"{_beside(self.path)} cannot be made or locked: {error}") from error
        return file

    @classmethod
    def resume(cls, path: str | Path) -> "EventLog":
        """Take over the log of a writer that died, to complete it.

        Raises
        ------
        BlockingIOError
            If its writer lives.
        OSError
            If it cannot be written: a full disk, a read-only folder, another program's lock.
        """
        _require_dead(path)
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            _lock(file)
        except OSError as error:
            held_by_a_writer = _is_held(file)
            os.close(file)
            if held_by_a_writer:
                raise
            raise LogError(f"{path} is locked by another program: {error}") from error
        log = cls(path, file=file)
        try:
            log._count()
            log.append(_recovered(torn=log._torn), sync=True)
        except BaseException:  # also Ctrl+C: a kernel lives on, and would hold the lock
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
            If it could not be written whole (a full disk), or is an intent and the file is no
            longer at its path.  Earlier lines stay readable.
        ValueError
            If it comes before money is spent, and a reader would refuse it.
        """
        if isinstance(event, IntentEvent):
            self.require_in_place()
        try:
            if self._torn:
                self._count()
            lines = self._numbered(event)
            if isinstance(event, BatchEvent | IntentEvent):
                _require_readable(self.path, lines[-1])
            data = b"\n" * self._torn + b"".join(lines)
            self._torn = True  # whatever interrupts the write, the next line counts anew
            self._write(data)
            self._lines, self._torn = self._lines + len(lines), False
            if sync:
                os.fsync(self._file)
        except OSError as error:
            raise LogError(f"{self.path} could not be written: {error}") from error

    def require_in_place(self) -> None:
        """Raise LogError if the file at the log's path is not the one that is written to."""
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                return
        raise LogError(
            f"{self.path} was replaced, moved or removed during the batch (did an editor save it?):"
            " what was recorded since then is only in the file that was there before, and lost if "
            "that was deleted"
        )

    def _numbered(self, event: Event) -> list[bytes]:
        """The lines to write, each with its number."""
        # Readers skip a torn line only where the next line says that it is torn.
        says_so = self._torn and not isinstance(event, RecoveredEvent)
        events = [_recovered(torn=True), event] if says_so else [event]
        return [
            _encode(msgspec.structs.replace(each, line=number)) + b"\n"
            for number, each in enumerate(events, self._lines + 1)
        ]

    def _count(self) -> None:
        """Count the whole lines, and look whether the last one is torn."""
        *whole, tail = self.path.read_bytes().split(b"\n")
        self._lines = sum(map(_is_json, [*whole, tail]))
        # An editor ends a torn line with a newline, or adds an empty one.
        self._torn = bool(tail) or not all(map(_is_json, whole[-1:]))

    def _write(self, data: bytes) -> None:
        if os.write(self._file, data) < len(data):
            raise OSError("the disk took only a part of a line; is it full?")

    def close(self) -> None:
        """Wait until everything possible is on the disk, and release the lock."""
        if self._file >= 0:
            with contextlib.suppress(OSError):  # `append` has already reported a full disk
                os.fsync(self._file)
            with contextlib.suppress(OSError):  # only a lock on it means something
                _beside(self.path).unlink()
        self._let_go()

    def _let_go(self) -> None:
        for file in (self._file, self._beside):
            if file >= 0:
                os.close(file)
        self._file = self._beside = -1  # from now on the numbers may be other files'


def _recovered(*, torn: bool) -> RecoveredEvent:
    return RecoveredEvent(torn=torn, at=datetime.now(UTC), pid=os.getpid())


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold the writer's lock of a log without writing, so that no other sweep begins.

    Raises
    ------
    OSError
        If its writer, or another sweep, holds it.
    """
    _require_dead(path)
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _lock(file)
        yield
    finally:
        os.close(file)


def is_alive(path: str | Path) -> bool:
    """Whether a log's writer lives: it holds its lock until it dies."""
    return _is_held_at(Path(path)) or _is_held_beside(path)


def _beside(path: str | Path) -> Path:
    """The hidden file whose lock says, too, that the writer of a log lives."""
    return Path(path).with_name(f".{Path(path).stem}.lock")


def _is_held_beside(path: str | Path) -> bool:
    try:
        return _is_held_at(_beside(path))
    except FileNotFoundError:  # the writer ended in order, or is an older spotlib
        return False


def _require_dead(path: str | Path) -> None:
    if _is_held_beside(path):
        raise BlockingIOError(errno.EWOULDBLOCK, "its writer lives", str(path))


def _is_held_at(path: Path) -> bool:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
    try:
        return _is_held(file)
    finally:
        os.close(file)


def ends_clean(path: str | Path) -> bool:
    """Whether a log's last line confirms that nothing is left of its batch; reads only the tail."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - _TAIL_BYTES, 0))
        *_, last = [b"", *file.read().splitlines(keepends=True)]
    if not last.endswith(b"\n"):
        return False
    try:
        event = _decode(last)
    except _UNREADABLE:
        return False
    return isinstance(event, CleanEvent) and event.confirmed


def _new_file(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(
            path, flags, 0o600
        )  # an account and its instances are nobody else's business
        _lock(file)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise ValueError(f"{path} exists: a log is never written twice") from error
    except OSError as error:
        raise LogError(f"{path} cannot be made: {error}; choose another results folder") from error
    return file


def _lock(file: int) -> None:
    """Become the writer; raise BlockingIOError if there is another one."""
    if _ask_lock(file, "F_OFD_SETLK", fcntl.F_WRLCK) is not None:
        return
    until_s = time.monotonic() + _PATIENCE_S  # `_is_held` takes a lock for a moment
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise
            time.sleep(_PATIENCE_S / 20)


def _is_held(file: int) -> bool:
    """Whether a writer holds its lock."""
    found = _ask_lock(file, "F_OFD_GETLK", fcntl.F_RDLCK)
    if found is not None:
        kind, _, *byte, _ = struct.unpack(_LOCK, found)
        return kind != fcntl.F_UNLCK and tuple(byte) == _LOCKED_BYTE
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False  # the lock that it just took goes with the file, which the caller closes


def _ask_lock(file: int, command: str, kind: int) -> bytes | None:
    """Ask for the writer's lock; None where the system cannot lock a byte for an open file."""
    number = getattr(fcntl, command, None)
    if number is None or sys.platform != "linux":
        return None
    try:
        return fcntl.fcntl(file, number, struct.pack(_LOCK, kind, os.SEEK_SET, *_LOCKED_BYTE, 0))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def _sync_folder(folder: Path) -> None:
    # A new file's name is safe on the disk only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    _require_first(path, lines[0] + b"\n" if lines else tail)
    events: list[tuple[int, Event]] = []
    whole = 0  # how many lines were, so far
    torn = 0  # the number of a line that was not written whole
    for number, line in enumerate(lines, 1):
        if not polls and line.startswith(_POLL) and _is_json(line):  # a damaged one is reported
            whole += 1
            continue
        event = _event_of(path, number, line)
        if event is None:
            torn = torn or number
            continue
        if torn and not (isinstance(event, RecoveredEvent) and event.torn):
            raise ValueError(f"{path} is broken before its last line: line {torn} is no JSON")
        whole, torn = whole + 1, 0
        if event.line not in (None, whole):
            raise ValueError(
                f"{path}, line {number} says that it is line {event.line}, and is line {whole}: "
                "lines were lost, added or moved"
            )
        events.append((number, event))
    return Lines(events, bool(torn or tail))


def read_batch(path: str | Path) -> BatchEvent | None:
    """Read only the first line of a log; None where it is not whole yet.

    Raises
    ------
    ValueError
        If the file is no log, or of another schema.
    """
    with open(path, "rb") as file:
        first = file.readline(_FIRST_BYTES)
    _require_first(path, first)
    event = _event_of(path, 1, first) if first.endswith(b"\n") else None
    return event if isinstance(event, BatchEvent) else None


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


def _require_first(path: str | Path, line: bytes) -> None:
    """Refuse a file whose first line is no batch event of this schema, or cannot become one."""
    if not line.endswith(b"\n"):
        if not _FIRST.startswith(line[: len(_FIRST)]) or len(line) >= _FIRST_BYTES:
            raise ValueError(
                f"{path} is not a log of spotlib: it does not begin with a batch event"
            )
        return
    try:
        first = msgspec.json.decode(line)
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

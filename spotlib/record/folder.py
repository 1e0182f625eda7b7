"""Which files of a folder are logs: each batch once, and a sentence for every other file.

Logs are known by their content, not by their names: a renamed log is the same log, and a copy
counts once.  No file here can stop or block the reading of the others.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spotlib.record.events import BatchEvent
from spotlib.record.log import is_alive, read_batch
from spotlib.record.replay import RecordedBatch, replay
from spotlib.words import one_line

Paths = str | Path | Iterable[str | Path]
_PIECE_BYTES = 1_048_576
_LONGEST = 1000  # characters of a sentence that names a path
_PART_BYTES = 16_777_216  # read at once: enough that a table per part costs little


@dataclass(frozen=True)
class Fault:
    """A file that cannot be read, in a sentence, and the batch that its content or name says."""

    path: Path
    batch_id: str
    words: str


@dataclass
class Logs:
    """The logs found, with their first lines where these are whole, and what else is there.

    ``notes`` is said of files that hold nothing of their own: copies and hidden files.
    """

    batches: dict[Path, BatchEvent | None] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def read(self, *, polls: bool) -> Iterator[RecordedBatch]:
        """Replay each log that has a whole line; one that is damaged is added to ``faults``."""
        for path in self.batches:
            try:
                record = replay(path, polls=polls)
            except (ValueError, OSError) as error:
                self.add_fault(path, error)
                continue
            if record is not None:
                yield record

    def parts(self) -> Iterator["Logs"]:
        """These logs in parts of some megabytes, in the same order; at least one part."""
        part, size = Logs(), 0
        for path, batch in self.batches.items():
            if part.batches and size >= _PART_BYTES:
                yield part
                part, size = Logs(), 0
            part.batches[path] = batch
            size += path.stat().st_size if path.exists() else 0  # gone: reading it says so
        yield part

    def add_fault(self, path: Path, error: ValueError | OSError) -> None:
        """Record why a file cannot be read."""
        batch = self.batches.get(path)
        name = batch.batch_id if batch else path.stem
        words = one_line(_words(path, error), longest=_LONGEST)
        self.faults.append(Fault(path, one_line(name), words))

    def add_note(self, words: str) -> None:
        """Note a file that holds nothing of its own, with a sentence."""
        self.notes.append(one_line(words, longest=_LONGEST))

    def require(self) -> None:
        """Raise ValueError if a file cannot be read; the first is named."""
        if self.faults:
            more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
            raise ValueError(f"{self.faults[0].words}{more}: move it away to read the others")


def find_logs(paths: Paths, *, batch_id: str | None = None) -> Logs:
    """Find the logs among ``paths``: files, and the ``.jsonl`` of folders.

    With a ``batch_id`` only those that hold this batch, or have its name if they cannot be read.

    Raises
    ------
    FileNotFoundError
        If a path does not exist.
    """
    found = Logs()
    for path in _files(paths, found):
        try:
            _require_file(path)
            batch = read_batch(path)
        except (ValueError, OSError) as error:
            if batch_id in (None, path.stem):
                found.add_fault(path, error)
            continue
        if batch_id in (None, batch.batch_id if batch else path.stem):
            found.batches[path] = batch
    _leave_out_copies(found)
    return found


def _files(paths: Paths, found: Logs) -> list[Path]:
    """The files given and those of folders, each once, also if links lead to it."""
    files: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            files += _files_of(path, found)
        elif os.path.lexists(path):
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no log or folder of logs at {path}")
    files.sort(key=Path.is_symlink)  # stable, and the file itself rather than a link to it
    return sorted({os.path.realpath(path): path for path in reversed(files)}.values())


def _files_of(folder: Path, found: Logs) -> Iterator[Path]:
    for path in folder.iterdir():  # unlike `glob` it says if the folder cannot be read
        if path.name.startswith(".") and path.name.endswith(".jsonl"):
            found.add_note(f"{path} is hidden, so it is no log (of an editor, or of macOS?)")
        elif path.name.endswith(".jsonl"):
            yield path


def _require_file(path: Path) -> None:
    """Refuse what is no plain file before it is opened: a pipe would block, a device never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is no file, so no log")


def _words(path: Path, error: ValueError | OSError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    to_nothing = isinstance(error, FileNotFoundError) and path.is_symlink()
    why = "it is a link to nothing" if to_nothing else error.strerror or str(error)
    return f"{path} cannot be read: {why}"


def _leave_out_copies(found: Logs) -> None:
    """Keep one log of each batch: the one that is being written, else the longest.

    Logs only grow, so a copy is the beginning of the longest, unless somebody changed it.
    """
    logs: dict[str, list[Path]] = {}
    for path, batch in found.batches.items():
        logs.setdefault(batch.batch_id if batch else "", []).append(path)
    logs.pop("", None)  # nothing whole is in them yet
    for name, paths in logs.items():
        alive = {each for each in paths if is_alive(each)}
        log, *others = sorted(
            paths, key=lambda each: (each not in alive, -each.stat().st_size, each.stem != name)
        )
        differing = [each for each in others if not (alive or _begins(each, log))]
        for path in others:
            if path not in differing:
                found.add_note(f"{path} is a copy of {log}: it counts once")
                del found.batches[path]
        if differing:
            files = " and ".join(map(str, [log, *differing]))
            for path in (log, *differing):
                error = f"{files} are logs of batch {name} and differ: keep the true one"
                found.add_fault(path, ValueError(error))
                del found.batches[path]


def _begins(short: Path, long: Path) -> bool:
    """Whether one file is the beginning of the other."""
    with open(short, "rb") as one, open(long, "rb") as other:
        while piece := one.read(_PIECE_BYTES):
            if other.read(len(piece)) != piece:
                return False
    return True

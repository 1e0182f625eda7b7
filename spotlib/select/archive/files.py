"""Where SpotLake snapshots lie, and when each was taken.

Owns finding snapshot files in a folder, a downloaded zip or an S3 bucket, reading their time from
their path, and reading their bytes.  It interprets no contents and writes nothing.

The time is taken from the path, because some eras of SpotLake have no time column and the others
disagree on its name::

    aws-2024-08.zip / aws-2024-08/31/23-50-00.csv.gz     as downloaded (stored or deflated)
    aws-2024-08/31/23-50-00.csv                          unpacked, gzipped or not
    data/aws/2025/06/15/12-00-00.csv.gz                  the 2025 open data, also at s3://
    aws-2026-01/aws-2026-01-31.parquet                   a whole day in one file

A colon in a name may have become ``-``, ``_`` or ``.``, as on Windows and code hosts.
"""

import lzma
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import BadZipFile, ZipFile

from spotlib.select.archive.schema import (
    SLOT_S,
    ArchiveError,
    EmptyArchiveError,
    OtherFormError,
    require_no_other_content,
)
from spotlib.words import one_line

_SNAPSHOT = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[-/_T ](\d\d)[-:_.](\d\d)[-:_.](\d\d)\.csv(?:\.gz)?\Z",
    re.IGNORECASE,
)
_DAY = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)\.parquet\Z", re.IGNORECASE)
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_NO_TIME = (
    "no snapshot time in its path, expected .../YYYY-MM/DD/HH-MM-SS.csv.gz"
    " or .../aws-YYYY-MM-DD.parquet"
)
_LARGEST_BYTES = {True: 1 << 29, False: 1 << 26}  # of a day in Parquet, of a snapshot
# What zipfile raises for a damaged or (RuntimeError) an encrypted member, and what files raise.
_UNREADABLE = (
    *(OSError, BadZipFile, EOFError, RuntimeError, ValueError, OverflowError),
    *(zlib.error, lzma.LZMAError, struct.error),
)
_HIDDEN = ("__MACOSX",)  # added by some desktop archivers beside the real members
_COMPANIONS = re.compile(
    r"README(\.(md|txt|rst))?|SIMULATED\.json|desktop\.ini|Thumbs\.db", re.IGNORECASE
)


@dataclass(frozen=True)
class File:
    """One snapshot, or one day of snapshots in Parquet.

    ``version`` distinguishes two contents of the same name: a checksum (zip), an ETag (S3) or the
    time of modification (folder).  ``at`` is None for a whole day.
    """

    name: str  # what a message shows
    container: str  # "", the path of a zip, or the name of a bucket
    member: str  # the path, or the name inside the container
    size: int  # bytes
    version: str
    day: date
    at: time | None

    @property
    def is_parquet(self) -> bool:
        return self.at is None

    @property
    def taken_at(self) -> datetime:
        """When it was taken; the start of the day for a whole day."""
        return datetime.combine(self.day, self.at or time.min, UTC)

    @property
    def slot(self) -> int:
        """The number of its ten minutes in the day."""
        return slot_of(self.at or time.min)

    @property
    def place(self) -> Path:
        """The folder or zip in which it lies, or the name of its bucket."""
        return Path(self.container) if self.container else Path(self.member).parent


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str


def slot_of(at: time) -> int:
    """Return the number of the ten minutes in its day."""
    return (3600 * at.hour + 60 * at.minute) // SLOT_S


def find_files(
    dataset: str | Path, *, skip_bad_files: bool = False
) -> tuple[list[File], list[Skipped]]:
    """Return the files of ``dataset`` in order of day, and what is no snapshot.

    Within a day, Parquet comes first, and files of the same time are in order of name.
    """
    skipped: list[Skipped] = []
    files: list[File] = []
    for found in _listing(dataset):
        if isinstance(found, File):
            files.append(found)
        elif isinstance(found, Skipped):
            skipped.append(found)
        elif skip_bad_files:
            skipped.append(Skipped(found.name, found.reason))
        else:
            raise found.advised()
    if not files:
        raise _nothing_found(str(dataset), skipped)
    files.sort(key=lambda file: (file.day, not file.is_parquet, file.at or time.min, file.name))
    return files, skipped


@contextmanager
def opened() -> Iterator[Callable[[File], bytes]]:
    """Yield a thread-safe function from file to bytes; zips and connections stay open meanwhile."""
    with ExitStack() as stack:
        held: dict[str, Any] = {}
        lock = Lock()

        def hold(name: str, make: Callable[[], Any]) -> Any:
            with lock:
                if name not in held:
                    held[name] = stack.enter_context(closing(make()))
                return held[name]

        def read(file: File) -> bytes:
            if file.name.startswith("s3://"):
                return _s3_object(hold("s3", _s3_client), file)
            if not file.container:
                return Path(file.member).read_bytes()
            member: bytes = hold(file.container, lambda: ZipFile(file.container)).read(file.member)
            return member

        yield _naming_the_file(read)


def _naming_the_file(read: Callable[[File], bytes]) -> Callable[[File], bytes]:
    def read_or_name(file: File) -> bytes:
        try:
            return read(file)
        except ArchiveError:
            raise
        except _UNREADABLE as error:
            raise ArchiveError(file.name, f"cannot be read ({error})") from error

    return read_or_name


_Found = File | Skipped | ArchiveError


def _listing(dataset: str | Path) -> Iterator[_Found]:
    if str(dataset).startswith("s3://"):
        yield from _s3_listing(str(dataset))
        return
    for name, member in _files_below(Path(dataset)):
        try:
            facts = os.stat(member)
        except OSError as error:
            yield ArchiveError(name, f"is a link to nothing ({error.strerror})")
            continue
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for, without end
            yield ArchiveError(name, "is no file but a folder that cannot be listed or a pipe")
        elif member.lower().endswith(".zip"):
            yield from _zip_listing(name, member)
        else:
            yield _entry(
                name, "", member, facts.st_size, f"{facts.st_mtime_ns} {facts.st_ctime_ns}"
            )


def _entry(name: str, container: str, member: str, size: int, version: str) -> _Found:
    """Return the file, or why it is none."""
    if not member.lower().endswith(_SUFFIXES):
        return Skipped(one_line(name), "no snapshot: neither .csv, .csv.gz, .parquet nor .zip")
    # A zip's own name carries the month if its members do not; some are packed with backslashes.
    path = f"{re.sub('[.]zip$', '', container, flags=re.IGNORECASE)}/{member}".replace("\\", "/")
    when = _time_of(path)
    if when is None:
        return Skipped(one_line(name), _NO_TIME)
    largest = _LARGEST_BYTES[when[1] is None]
    if size > largest:
        what = f"has {size >> 20:,} MB, more than the {largest >> 20} MB that it may have"
        return OtherFormError(name, what)
    return File(one_line(name), container, member, size, version, *when)


def _files_below(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's name as the user would write it, and its absolute path with slashes.

    A folder is entered once, even if links lead to it in a circle.  One that cannot be listed is
    given in place of its files.
    """
    try:
        root = path.resolve().as_posix()
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, an impossible name
        raise ArchiveError(str(path), f"cannot be read ({error})") from error
    if is_file and path.name.lower().endswith((*_SUFFIXES, ".zip")):
        yield str(path), root
        return
    if not is_folder:
        is_there = os.path.lexists(path)
        found = "is neither a folder nor a zip" if is_there else "does not exist"
        error_type = ArchiveError if is_there else EmptyArchiveError
        raise error_type(str(path), f"{found}; give a folder, a SpotLake zip or s3://bucket/prefix")
    problems: list[OSError] = []
    entered = {_identity(root)}
    for parent, folders, names in os.walk(root, onerror=problems.append, followlinks=True):
        folders[:] = [
            each for each in _own_first(parent, folders) if _is_new(f"{parent}/{each}", entered)
        ]
        for name in filter(_is_wanted, names):
            member = f"{parent}/{name}"
            yield f"{path}{member[len(root) :]}", member
    for problem in problems:
        yield str(problem.filename), str(problem.filename)


def _own_first(parent: str, folders: list[str]) -> list[str]:
    """Return the visible folders, links last: what a link leads to is read in its own place."""
    visible = sorted(filter(_is_visible, folders))
    return sorted(visible, key=lambda name: os.path.islink(f"{parent}/{name}"))


def _is_new(folder: str, entered: set[tuple[int, int]]) -> bool:
    identity = _identity(folder)
    is_new = identity not in entered
    entered.add(identity)
    return is_new


def _identity(folder: str) -> tuple[int, int]:
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _zip_listing(path: str, container: str) -> Iterator[_Found]:
    try:
        with ZipFile(container) as archive:
            members = archive.infolist()
    except _UNREADABLE as error:
        yield _why_no_zip(path, container, error)
        return
    contents: dict[str, set[int]] = {}
    for info in members:
        contents.setdefault(info.filename, set()).add(info.CRC)
    is_empty = True
    seen: set[str] = set()
    for info in members:
        *_, name = parts = [each for each in info.filename.split("/") if each not in (".", "..")]
        if info.is_dir() or not (all(map(_is_visible, parts)) and _is_wanted(name)):
            continue
        is_empty = False
        shown = f"{path}/{info.filename}"
        if name.lower().endswith(".zip"):
            reason = "is a zip inside a zip, as a cloud drive packs folders: unpack the outer one"
            yield OtherFormError(shown, reason)
        elif len(contents[info.filename]) > 1:
            yield ArchiveError(shown, "is in the zip several times, with different contents")
        elif info.filename in seen:
            yield Skipped(one_line(shown), "is in the zip several times, the same: read once")
        else:
            seen.add(info.filename)
            yield _entry(shown, container, info.filename, info.file_size, f"{info.CRC:08x}")
    if is_empty:
        yield Skipped(one_line(path), "a zip without a file that could be a snapshot")


def _why_no_zip(path: str, container: str, error: Exception) -> ArchiveError:
    try:
        with Path(container).open("rb") as file:
            require_no_other_content(file.read(64), path)
    except OSError:
        pass  # then it cannot be read at all, as the first error says
    except ArchiveError as other:
        return other
    return ArchiveError(path, f"not a whole zip file ({error}); download it again")


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _HIDDEN


def _is_wanted(name: str) -> bool:
    return _is_visible(name) and not _COMPANIONS.fullmatch(name)


def _s3_listing(address: str) -> Iterator[_Found]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    is_object = prefix.lower().endswith((*_SUFFIXES, ".zip"))
    if prefix and not prefix.endswith("/") and not is_object:
        prefix += "/"  # a folder: 2025/1 must not match 2025/10
    client = _s3_client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with _in_one_sentence(address, "cannot be listed"):
        for item in (item for page in pages for item in page.get("Contents", [])):
            key = item["Key"]
            shown = f"s3://{bucket}/{key}"
            if key.endswith("/") or (is_object and key != prefix):
                continue
            if key.lower().endswith(".zip"):
                yield OtherFormError(shown, "a zip is not read in a bucket: download it")
            elif _is_wanted(key.rpartition("/")[2]):
                yield _entry(shown, bucket, key, item["Size"], item["ETag"].strip('"'))


def _s3_object(client: Any, file: File) -> bytes:
    with _in_one_sentence(file.name, "cannot be read"):
        return bytes(client.get_object(Bucket=file.container, Key=file.member)["Body"].read())


def _s3_client() -> Any:
    import boto3  # noqa: PLC0415 - large, and no archive on disk needs it
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    return boto3.client("s3", config=Config(signature_version=UNSIGNED))


_S3_REFUSALS = {
    "NoSuchBucket": "there is no bucket of this name",
    "AccessDenied": "the bucket cannot be listed without an account: copy its files to a folder",
}


@contextmanager
def _in_one_sentence(name: str, what: str) -> Iterator[None]:
    """Turn what boto3 raises into an ``ArchiveError`` of one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        reason = _S3_REFUSALS.get(code, f"{what} ({error})")
        raise ArchiveError(name, reason) from error


def _time_of(path: str) -> tuple[date, time | None] | None:
    """Return what the end of a path says: the day, and the time unless it is a whole day."""
    try:
        if match := _SNAPSHOT.search(path):
            year, month, day, *clock = map(int, match.groups())
            return date(year, month, day), time(clock[0], clock[1], clock[2])
        if match := _DAY.search(path):
            year, month, day = map(int, match.groups())
            return date(year, month, day), None
    except ValueError:  # 2024-13-45
        pass
    return None


def _nothing_found(dataset: str, skipped: list[Skipped]) -> ArchiveError:
    if skipped:
        first = f"{skipped[0].name}: {skipped[0].reason}"
        return ArchiveError(dataset, f"holds no snapshot that can be read; {first}")
    return EmptyArchiveError(
        dataset,
        "holds no SpotLake snapshots (.csv.gz, .csv, .parquet or .zip);"
        " spot_dataset/README.md says how to get them",
    )

"""Where SpotLake snapshots lie, and when each was taken.

Owns finding snapshot files in a folder, a downloaded zip or an S3 bucket, reading their time from
their path, and reading their bytes.  It interprets no contents and writes nothing.

The time is taken from the path, because some eras of SpotLake have no time column and the others
disagree on its name::

    aws-2024-08.zip / aws-2024-08/31/23-50-00.csv.gz     as downloaded (stored or deflated)
    aws-2024-08/31/23-50-00.csv                          unpacked, gzipped or not
    data/aws/2025/06/15/12-00-00.csv.gz                  the 2025 open data, also at s3://
    aws-2026-01/aws-2026-01-31.parquet                   a whole day in one file
"""

import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from threading import Lock
from typing import Any
from zipfile import BadZipFile, ZipFile

from spotlib.select.archive.schema import ArchiveError

_SNAPSHOT = re.compile(
    r"(\d{4})[-/](\d\d)[-/](\d\d)[-/_T ](\d\d)[-:](\d\d)[-:](\d\d)\.csv(?:\.gz)?$"
)
_DAY = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)\.parquet$")
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_NO_TIME = "no snapshot time in its path, expected .../YYYY-MM/DD/HH-MM-SS.csv.gz"
# What zipfile raises for a damaged or (RuntimeError) an encrypted member, and what files raise.
_UNREADABLE = (OSError, BadZipFile, zlib.error, EOFError, RuntimeError)
_HIDDEN = ("__MACOSX",)  # added by some desktop archivers beside the real members


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
    def place(self) -> Path:
        """The folder or zip in which it lies, or the name of its bucket."""
        return Path(self.container) if self.container else Path(self.member).parent


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str


def find_files(
    dataset: str | Path, *, skip_bad_files: bool = False
) -> tuple[list[File], list[Skipped]]:
    """Return the snapshots of ``dataset`` in order of time, and the files that were left out.

    A snapshot time that occurs twice is read once, from the first name in alphabetical order.
    """
    skipped: list[Skipped] = []
    files: list[File] = []
    for name, container, member, size, version in _listing(dataset, skip_bad_files, skipped):
        # A zip's own name carries the month if its members do not.
        path = f"{container.removesuffix('.zip')}/{member}"
        when = _time_of(path)
        if when is None:
            skipped.append(Skipped(name, _NO_TIME))
        else:
            files.append(File(name, container, member, size, version, *when))
    files.sort(key=lambda file: (file.day, file.is_parquet, file.at or time.min, file.name))
    kept = _without_repeats(files, skipped)
    if not kept:
        raise ArchiveError(str(dataset), _nothing_found(skipped))
    return kept, skipped


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
        except _UNREADABLE as error:
            raise ArchiveError(file.name, f"cannot be read ({error})") from error

    return read_or_name


_Entry = tuple[str, str, str, int, str]


def _listing(dataset: str | Path, skip_bad_files: bool, skipped: list[Skipped]) -> Iterator[_Entry]:
    if str(dataset).startswith("s3://"):
        yield from _s3_listing(str(dataset))
        return
    for name, member in _files_below(Path(dataset)):
        if not member.endswith(".zip"):
            stat = os.stat(member)
            yield name, "", member, stat.st_size, str(stat.st_mtime_ns)
            continue
        try:
            yield from _zip_listing(name, member)
        except (BadZipFile, OSError) as error:
            reason = f"not a whole zip file ({error}); download it again"
            if not skip_bad_files:
                raise ArchiveError(name, reason) from error
            skipped.append(Skipped(name, reason))


def _files_below(path: Path) -> Iterator[tuple[str, str]]:
    """Yield each file's name as the user would write it, and its absolute path with slashes."""
    root = path.resolve().as_posix()
    if path.is_file() and path.name.endswith((*_SUFFIXES, ".zip")):
        yield str(path), root
    elif not path.is_dir():
        found = "is neither a folder nor a zip" if path.exists() else "does not exist"
        raise ArchiveError(
            str(path), f"{found}; give a folder, a SpotLake zip or s3://bucket/prefix"
        )
    for parent, folders, names in os.walk(root, followlinks=True):
        folders[:] = filter(_is_visible, folders)
        for name in filter(_is_visible, names):
            if name.endswith((*_SUFFIXES, ".zip")):
                member = f"{parent}/{name}"
                yield f"{path}{member[len(root) :]}", member


def _zip_listing(path: str, container: str) -> Iterator[_Entry]:
    with ZipFile(container) as archive:
        for info in archive.infolist():
            visible = all(_is_visible(part) for part in info.filename.split("/"))
            if visible and info.filename.endswith(_SUFFIXES):
                name = f"{path}/{info.filename}"
                yield name, container, info.filename, info.file_size, f"{info.CRC:08x}"


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name not in _HIDDEN


def _s3_listing(address: str) -> Iterator[_Entry]:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if prefix and not prefix.endswith("/"):
        prefix += "/"  # a folder: 2025/1 must not match 2025/10
    client = _s3_client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    with _in_one_sentence(address, "cannot be listed without an account"):
        for page in pages:
            for item in page.get("Contents", []):
                if item["Key"].endswith(_SUFFIXES):
                    name = f"s3://{bucket}/{item['Key']}"
                    yield name, bucket, item["Key"], item["Size"], item["ETag"].strip('"')


def _s3_object(client: Any, file: File) -> bytes:
    with _in_one_sentence(file.name, "cannot be read"):
        return bytes(client.get_object(Bucket=file.container, Key=file.member)["Body"].read())


def _s3_client() -> Any:
    import boto3  # noqa: PLC0415 - large, and no archive on disk needs it
    from botocore import UNSIGNED  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    return boto3.client("s3", config=Config(signature_version=UNSIGNED))


@contextmanager
def _in_one_sentence(name: str, what: str) -> Iterator[None]:
    """Turn what boto3 raises into an ``ArchiveError`` of one sentence."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as above

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise ArchiveError(name, f"{what} ({error})") from error


def _time_of(path: str) -> tuple[date, time | None] | None:
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


def _without_repeats(files: list[File], skipped: list[Skipped]) -> list[File]:
    kept: dict[tuple[date, time | None], File] = {}
    days_in_csv = {file.day for file in files if not file.is_parquet}
    for file in files:
        if file.is_parquet and file.day in days_in_csv:
            skipped.append(Skipped(file.name, f"{file.day} is read from its csv snapshots"))
        elif (file.day, file.at) in kept:
            first = kept[file.day, file.at].name
            skipped.append(Skipped(file.name, f"the same snapshot time as {first}"))
        else:
            kept[file.day, file.at] = file
    return list(kept.values())


def _nothing_found(skipped: list[Skipped]) -> str:
    if skipped:
        return f"holds no snapshot that can be read; {skipped[0].name}: {skipped[0].reason}"
    return (
        "holds no SpotLake snapshots (.csv.gz, .csv, .parquet or .zip);"
        " spot_dataset/README.md says how to get them"
    )

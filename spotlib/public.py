"""What of a table may be published: texts that are public knowledge, and aliases of all others.

A text is published as it is only if Amazon documents it, or if it is one of our own words.  Any
other becomes an alias: the same for the same text and salt, so aliases still join the tables.
Without the salt nobody can guess what an alias stands for.
"""

import hashlib
import hmac
import itertools
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from botocore.loaders import Loader

from spotlib.model import PURCHASES, T3_SOURCES, Kind, Outcome, Stage
from spotlib.sandbox.numbers import parse_market
from spotlib.track import EXPIRED_CODES, FAILED_CODES, GRANTED_CODES, HELD_CODES, INTERRUPTED_CODES

_STAGES = frozenset(stage.label for stage in Stage)
# EC2 User Guide, "Get the status of a Spot Instance request": the codes that end nothing.
_WAITING_CODES = frozenset(
    {
        *("az-group-constraint", "launch-group-constraint", "placement-group-constraint"),
        *("constraint-not-fulfillable", "pending-evaluation", "not-scheduled-yet"),
        *("marked-for-stop", "marked-for-termination"),
        # Of a fleet: how far it has come, or else its state.
        *("pending_fulfillment", "pending_termination", "error"),
        *("submitted", "active", "modifying", "failed"),
        *(HELD_CODES | GRANTED_CODES),
    }
)
# Of refused calls only these are exported: they are outcomes of the market.
_REFUSALS = frozenset(
    {"InsufficientInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow"}
)
# EC2 API Reference, "StateReason": the codes of an instance, never their messages.
_REASONS = frozenset(
    {
        *("Server.InsufficientInstanceCapacity", "Server.InternalError", "Server.ScheduledStop"),
        *("Server.SpotInstanceShutdown", "Server.SpotInstanceTermination"),
        *("Client.InternalError", "Client.InvalidSnapshot.NotFound", "Client.VolumeLimitExceeded"),
        *("Client.InstanceInitiatedShutdown", "Client.InstanceTerminated"),
        *("Client.UserInitiatedShutdown", "Client.UserInitiatedHibernate"),
    }
)
_CLOCKS = frozenset({"agree", "contradict"})
_WORDS: dict[str, frozenset[str]] = {  # column: every text of it that is known
    "placement": frozenset({"region", "zone"}),
    "method": frozenset(PURCHASES),
    "purchase": frozenset(itertools.chain.from_iterable(PURCHASES.values())),
    "wanted": _STAGES,
    "stage": _STAGES,
    "outcome": frozenset(Outcome),
    "cause": _STAGES | frozenset(Outcome) | {"unfinished"},
    "kind": frozenset(Kind),
    "fulfilled_clocks": _CLOCKS,
    "running_clocks": _CLOCKS,
    "instance_reason": _REASONS,
    "t3_source": frozenset(T3_SOURCES),
    "status_code": (
        _WAITING_CODES | INTERRUPTED_CODES | EXPIRED_CODES | set(FAILED_CODES) | _REFUSALS
    ),
}
_ALIAS_KINDS = {  # column: what its aliases begin with; any other column's begin with its name
    "batch_id": "batch",
    "request_id": "request",
    "instance_id": "instance",
    "endpoint": "host",
    "availability_zone_id": "zone",
    "zone_id": "zone",
    "outcome": "cause",
}
_PRIVATE = frozenset({"account", "batch_id", "request_id", "instance_id", "endpoint", "world"})
_ZONE_ID = re.compile(  # us-east-1: use1-az4; local zones: usw2-lax1-az1; Wavelength: use1-wl1-...
    r"([a-z]+\d)(?:(?:-[a-z]{3}\d)?-az\d{1,2}|-wl\d-[a-z]{3}-wlz\d)", re.ASCII
)
_AMAZON_LINUX_FAMILY = re.compile(
    r"al20\d\d-ami-(?:minimal-)?kernel-\d{1,2}\.\d{1,3}-(?:arm64|x86_64)", re.ASCII
)
_MARKET = re.compile(r"sandbox(?:/([a-z]+(?:/\d{1,9})?))?", re.ASCII)
_SALT = re.compile(rb"[0-9a-f]{64}\s*")


def aliased(table: pd.DataFrame, salt: bytes, columns: Iterable[str]) -> pd.DataFrame:
    """Return the table with an alias for every text in ``columns`` that is not public knowledge.

    Numbers and times stay as they are.
    """

    def publish(column: str, value: object) -> object:
        if not isinstance(value, str) or is_public(column, value):
            return value
        return _alias(column, value, salt)

    texts = set(columns).intersection(_text_columns(table))
    new: dict[str, pd.Series[Any]] = {
        name: table[name].map(partial(publish, name)) for name in texts
    }
    return table.assign(**new)


def is_public(column: str, text: str) -> bool:
    """Return whether a text of this column is public knowledge, so it identifies nobody."""
    if not text:
        return True
    if column == "instance_type":
        return text in _instance_types()
    if column == "region":
        return text in _regions()
    if column in ("availability_zone_id", "zone_id"):
        found = _ZONE_ID.fullmatch(text)
        return found is not None and found[1] in map(_zone_prefix, _regions())
    if column == "endpoint":
        return text == "aws" or _is_sandbox(text)
    family = _AMAZON_LINUX_FAMILY.fullmatch(text) if column == "image_family" else None
    return family is not None or text in _WORDS.get(column, ())


def not_public(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield column and text of what is usually public knowledge, such as a region, and is not."""
    for name in _text_columns(table):
        if name not in _PRIVATE:
            texts = map(str, table[name].dropna().unique())
            yield from ((name, each) for each in texts if not is_public(name, each))


def require_public(table: pd.DataFrame, name: str) -> None:
    """Refuse a table with a text that is neither public knowledge nor an alias.

    Raises
    ------
    ValueError
        With the column and the beginning of the text.
    """
    for column in _text_columns(table):
        for text in map(str, table[column].dropna().unique()):
            if not is_public(column, text) and not _is_alias(column, text):
                raise ValueError(
                    f"{name} would still hold {shortened(text)} in column {column}, which is "
                    "neither public knowledge nor an alias: nothing was written; please report "
                    "this as an error in spotlib"
                )


def shortened(text: str) -> str:
    """Return a text in quotes, cut after 24 characters, as messages show it."""
    return repr(text if len(text) <= 24 else f"{text[:24]}...")


def read_salt(path: Path) -> bytes:
    """Return the secret behind the aliases from its file, which is made if there is none.

    Raises
    ------
    ValueError
        If the file holds no whole salt.  A new one is not made then: aliases of earlier exports
        could no longer be matched.
    """
    try:
        if not os.path.lexists(path):
            _make_salt(path)
        if not path.is_file():
            raise ValueError(_bad_salt(path, "is no file"))
        with path.open("rb") as file:
            held = file.read(80)
    except OSError as error:
        raise ValueError(_bad_salt(path, f"cannot be read or made: {error.strerror}")) from error
    if not _SALT.fullmatch(held):
        raise ValueError(_bad_salt(path, "is not whole: it should be 64 hexadecimal digits"))
    with suppress(OSError):  # a restored copy may be readable for others
        path.chmod(0o600)
    return held.strip()


def _bad_salt(path: Path, why: str) -> str:
    return (
        f"the salt {str(path)!r} {why}; with another salt the aliases of earlier exports can no "
        "longer be matched: restore it from a copy, or choose another --salt-file, or delete it "
        "and a new one is made"
    )


def _make_salt(path: Path) -> None:
    """Write a new salt whole or not at all; of two at once the first wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:  # for its owner only
        file.write(secrets.token_hex(32).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)


def _text_columns(table: pd.DataFrame) -> list[str]:
    types = pd.api.types
    return [
        str(name)
        for name, column in table.items()
        if types.is_object_dtype(column) or types.is_string_dtype(column)
    ]


def _alias(column: str, text: str, salt: bytes) -> str:
    """A plain hash would not do: there are only 10^12 account ids to try."""
    kind = _alias_kind(column)
    named = f"{kind}:{text}".encode(errors="backslashreplace")
    return f"{kind}-{hmac.new(salt, named, hashlib.sha256).hexdigest()[:16]}"


def _is_alias(column: str, text: str) -> bool:
    return re.fullmatch(f"{re.escape(_alias_kind(column))}-[0-9a-f]{{16}}", text) is not None


def _alias_kind(column: str) -> str:
    return _ALIAS_KINDS.get(column, column.replace("_", "-"))


def _is_sandbox(endpoint: str) -> bool:
    """Return whether this is ``sandbox`` or ``sandbox/MARKET``, with a market that there is."""
    found = _MARKET.fullmatch(endpoint)
    if found and found[1]:
        with suppress(ValueError):
            return bool(parse_market(found[1]))
    return found is not None and not found[1]


@cache
def _instance_types() -> frozenset[str]:
    """The names that Amazon has published, as the installed botocore knows them."""
    shapes = Loader().load_service_model("ec2", "service-2")["shapes"]
    return frozenset(shapes["InstanceType"]["enum"])


@cache
def _regions() -> frozenset[str]:
    partitions = Loader().load_data("partitions")["partitions"]
    return frozenset(region for each in partitions for region in each["regions"])


@cache
def _zone_prefix(region: str) -> str:
    """Return how the ids of a region's zones begin: ``use1`` for us-east-1, ``apne1``, ..."""
    where, *words, number = region.split("-")
    sides = "".join(re.sub(r"(north|south)(east|west)", r"\1 \2", word) + " " for word in words)
    return where + "".join(side[0] for side in sides.split()) + number

"""What every caller of EC2 offers, and what an answer is.

``Connection`` makes one attempt at a call, ``Patient`` as many as it takes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from spotlib.ec2.refusals import garbled


@dataclass
class Memory:
    """What an endpoint has said, and a foreign one may not say again; see ``foreign``.

    ``finds_by_request`` is None until an answer shows it.  ``named`` maps instances to the requests
    that named them, ``cancelled`` has the requests whose cancellation was confirmed.  ``owners``
    maps the instances that a survey found by a tag to their batches.
    """

    finds_by_request: bool | None = None
    named: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    owners: dict[str, str] = field(default_factory=dict)


class Caller(ABC):
    """Who makes calls: one attempt each (``Connection``), or as many as it takes (``Patient``)."""

    memory: Memory

    @property
    @abstractmethod
    def foreign(self) -> bool:
        """Whether another program answers for EC2: neither Amazon's nor the sandbox."""

    @abstractmethod
    def server_utc(self) -> datetime:
        """Return EC2's UTC."""

    @abstractmethod
    def region_names(self, region: str, service: str = "ec2") -> list[str]:
        """The regions of this region's partition that have a service, as botocore knows them."""

    @abstractmethod
    def call(self, region: str, action: str, /, **given: Any) -> dict[str, Any]:
        """Return the answer of one call, or raise its ``Refusal``.

        ``given`` are the call's own arguments, and ``service`` and ``quick`` of ``Connection``.
        """

    def pages(
        self, region: str, action: str, key: str, /, **given: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the items under ``key`` of every page; a page before the last may be empty."""
        while True:
            reply = self.call(region, action, quick=True, **given)
            yield from reply[key]
            if not reply.get("NextToken"):
                return
            given["NextToken"] = reply["NextToken"]


class Reply(dict[str, Any]):
    """An answer or a part of it: a member that it lacks is a ``Refusal``, not a KeyError.

    botocore leaves out what an answer lacks, and makes an empty one of JSON that it cannot read.
    """

    __slots__ = ("_of",)  # there are thousands of parts in a poll

    def __init__(self, of: Mapping[str, str], reply: Mapping[str, Any]) -> None:
        super().__init__(reply)
        self._of = of
        for member, value in reply.items():
            if type(value) is dict:
                self[member] = Reply(of, value)
            elif type(value) is list:
                self[member] = [Reply(of, e) if type(e) is dict else e for e in value]

    def __missing__(self, member: str) -> Any:
        raise garbled(member, **self._of)

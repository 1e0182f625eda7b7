"""The kinds of resources that a launch leaves at EC2, and what clean-up must know about each.

A kind is named by how EC2's ids of it begin.  It reads and ends only what carries our tag or was
named to it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from spotlib.ec2.caller import Caller
from spotlib.ec2.calls import (
    MOST_FILTER_VALUES,
    TAG_BATCH,
    TAG_EXPIRES,
    TAG_PLAN,
    TAG_ROUND,
    Ended,
    batch_of,
    chunks,
    tags_of,
)
from spotlib.ec2.connection import Connection
from spotlib.track import ENDED_STATES, GONE_STATES

NOT_DESCRIBED = "not described"  # the state of what is known, but was not seen


@dataclass(frozen=True)
class Survey:
    """What is left of a set of launches: every clean-up decision rests on it.

    ``requests`` is whatever is not an instance: spot requests, launch templates, fleets.
    ``missing`` are things we know of that EC2 does not list (yet); they never count as gone.
    Only a foreign endpoint may forget a request: one that it has cancelled, or whose instance has
    ended.
    ``over`` are those of the things we know of that were seen to have ended for good: EC2 forgets
    them some time later.
    With an ``error`` it is not complete: it proves nothing gone, but what it has is there.
    A state that is not known to be an end counts as open or alive.
    """

    requests: dict[str, str]  # id -> state
    instances: dict[str, str]  # id -> state
    missing: frozenset[str]
    error: str | None = None
    over: frozenset[str] = frozenset()

    @property
    def open_requests(self) -> list[str]:
        """What can still launch something, or has to be deleted."""
        return [item for item, state in self.requests.items() if state not in ENDED_STATES]

    @property
    def live_instances(self) -> list[str]:
        """Instances that cost money, or may again."""
        return [item for item, state in self.instances.items() if state not in GONE_STATES]

    @property
    def idle(self) -> bool:
        """Nothing open and nothing alive is shown, even if something is missing."""
        return not (self.error or self.open_requests or self.live_instances)

    @property
    def quiet(self) -> bool:
        """Nothing open, nothing alive, and nothing missing."""
        return self.idle and not self.missing

    @classmethod
    def joined(cls, parts: Sequence["Survey"]) -> "Survey":
        """What all of them show; an instance's state counts wherever it was described."""
        requests: dict[str, str] = {}
        instances: dict[str, str] = {}
        for part in parts:
            requests |= part.requests
            described = {k: v for k, v in part.instances.items() if v != NOT_DESCRIBED}
            instances = part.instances | instances | described
        missing = frozenset[str]().union(*(part.missing for part in parts))
        error = next((part.error for part in parts if part.error), None)
        over = frozenset[str]().union(*(part.over for part in parts))
        return cls(requests, instances, missing, error, over)


@dataclass(frozen=True)
class Ours:
    """Something that carries our tags; ``expires_at`` is when it would end by itself."""

    thing_id: str
    batch_id: str
    round: int | None
    plan: int | None
    expires_at: datetime | None


class _Survey(Protocol):
    def __call__(
        self, connection: Connection, region: str, *, batch_id: str | None, ids: Collection[str]
    ) -> Survey:
        """Find things by id and by a batch's tag, and what is left of them."""


def _itself(name: str, _: int) -> tuple[str, ...]:
    return (name,)


@dataclass(frozen=True, eq=False)  # each is itself
class Resource:
    """A kind of thing that a launch leaves at EC2.

    Parameters
    ----------
    prefix
        How its ids begin.
    survey
        What is left of those with these ids or with a batch's tag.
    tagged
        All that pass one filter by our tag.
    end
        Ends those with these ids.
    commands
        The AWS CLI's commands that do so by hand, from its options that say where and the ids.
    dry_run
        The call that ends one, with an id that is made up; None where EC2 is not asked before.
    special
        Whether only some launch methods make it, and need the permission to list it.
    rows
        The rows that one stands for, if so many instances were asked for.
    listed_for
        How long after its expiry EC2 lists one at least, also if it has ended long before.
    """

    prefix: str
    survey: _Survey
    tagged: Callable[[Caller, str, dict[str, Any]], Iterable[tuple[str, Mapping[str, Any]]]]
    end: Callable[[Connection, str, Sequence[str]], Ended]
    commands: Callable[[str, Sequence[str]], list[str]]
    dry_run: tuple[str, dict[str, Any]] | None
    listed_for: timedelta
    special: bool = False
    rows: Callable[[str, int], tuple[str, ...]] = _itself

    def of(self, ids: Iterable[str]) -> list[str]:
        """Those of the ids that are of this kind, in order."""
        return [each for each in ids if each.startswith(self.prefix)]

    def find_ours(self, connection: Caller, region: str, batch_id: str | None) -> Iterator[Ours]:
        """Yield all in a region that carry our tag, or the tag of one batch."""
        wanted = {"Name": "tag-key", "Values": [TAG_BATCH]}
        if batch_id is not None:
            wanted = tag_filter(batch_id)
        for name, item in self.tagged(connection, region, wanted):
            owner = batch_of(item)  # the filter may be ignored
            if owner is not None and batch_id in (None, owner):
                yield _ours(name, owner, tags_of(item))


def tag_filter(batch_id: str) -> dict[str, Any]:
    """The filter that finds what carries a batch's tag."""
    return {"Name": f"tag:{TAG_BATCH}", "Values": [batch_id]}


def filters_by(name: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """Filters by values of one kind, as few as EC2 takes."""
    return [{"Name": name, "Values": some} for some in chunks(values, MOST_FILTER_VALUES)]


def _ours(name: str, batch_id: str, tags: Mapping[str, str]) -> Ours:
    _, _, number = tags.get(TAG_ROUND, "").rpartition("/")
    plan = tags.get(TAG_PLAN, "")
    return Ours(
        thing_id=name,
        batch_id=batch_id,
        round=int(number) if number.isdecimal() else None,
        plan=int(plan) if plan.isdecimal() else None,
        expires_at=_moment(tags.get(TAG_EXPIRES, "")),
    )


def _moment(words: str) -> datetime | None:
    """The moment that a tag names; None if it names none: people can edit a tag."""
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        return None
    return moment if moment.tzinfo else None

"""Leave nothing behind: release a plan, then a whole batch until nothing of it is left.

First, requests and instances that are known to be open or alive are cancelled and terminated, even
if EC2 cannot describe them.  After that the order is always: cancel, *then* survey, then terminate.
A cancelled request can no longer launch, but if it was fulfilled a moment before, only the survey
shows its instance.  A launch can even be in flight while its request is cancelled.  Therefore
a batch is clean only after a settle time in which nothing was open or alive, and only if every
request we know of was seen.  EC2 forgets ended things after some time.  A thing that was once seen
ended is over and is not looked for again.  One that was never seen ended, and is not found, does
not count as ended.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, filterfalse

from spotlib.ec2.connection import Connection, new_executor
from spotlib.ec2.resource import NOT_DESCRIBED, Resource, Survey
from spotlib.ec2.survey import RESOURCES, end_things, survey
from spotlib.model import is_instance_id
from spotlib.record.events import CleanEvent, ReleaseEvent

SETTLE_S = 30.0  # how long a launch may be in flight is not documented: a choice
GIVE_UP_S = 1800.0
_FORGETS_S = 120.0  # after so long a foreign endpoint that lists nothing of a batch never will
_FORGOTTEN = (
    "this endpoint answers, but for {:.0f} s it has listed neither {} nor an instance of it: if it "
    "was restarted, nothing of that is left there; if not, look there; a sweep some hours later "
    "does not ask for it any more"
)

Note = Callable[[ReleaseEvent], None]  # writes the event of one pass
# Waits between two passes: for how many seconds, and about how many are left until all is quiet.
# It returns False to give up.
Rest = Callable[[float, float], bool]


@dataclass(frozen=True)
class Released:
    """What one pass of clean-up did in a region, and what its last survey found."""

    region: str
    cancelled: tuple[str, ...]
    terminated: tuple[str, ...]
    found: Survey
    error: str | None = None

    @property
    def did_something(self) -> bool:
        """Whether there is something to record: it ended something, saw something over, failed."""
        return bool(self.cancelled or self.terminated or self.error or self.found.over)


def release(
    connection: Connection,
    region: str,
    *,
    open_ids: Collection[str] = (),
    live_ids: Collection[str] = (),
    request_ids: Collection[str] = (),
    batch_id: str | None = None,
    resources: Iterable[Resource] = (),
) -> Released:
    """One pass: end what is known, survey by ids and tag, end what that shows.

    ``request_ids`` are rows of any kind; ``resources`` are the kinds of things that are also
    looked for by the batch's tag.

    If the survey shows requests that still had to be cancelled, it is made once more.  If one step
    fails, the others are still tried.  Errors are returned; ``settle`` will try again.

    A foreign endpoint may forget a cancelled request, and with it which instance is ours.  There,
    the instances that the requests name are terminated first, and nothing is cancelled until they
    are known.
    """
    cancelled, terminated, errors = dict[str, None](), dict[str, None](), dict[str, None]()

    def end(ended: dict[str, None], ids: Collection[str]) -> bool:
        """End what this pass has not ended yet; return whether anything was."""
        done = end_things(connection, region, [each for each in ids if each not in ended])
        ended.update(dict.fromkeys(done.ids))
        errors.update(dict.fromkeys(done.errors))
        return bool(done.ids)

    def look() -> Survey:
        found = survey(connection, region, resources=resources, batch_id=batch_id, ids=request_ids)
        errors.update(dict.fromkeys([found.error] if found.error else []))
        return found

    def released(found: Survey) -> Released:
        return Released(region, (*cancelled,), (*terminated,), found, "; ".join(errors) or None)

    if connection.foreign:
        found = look()
        end(terminated, [*live_ids, *found.live_instances])
        if found.error:
            return released(found)
    end(cancelled, open_ids)
    end(terminated, live_ids)
    for _ in range(2):
        found = look()
        late = end(cancelled, found.open_requests)
        end(terminated, found.live_instances)
        if not late:
            break
    return released(found)


def release_all(
    connection: Connection,
    left: Mapping[str, Survey],
    *,
    request_ids: Mapping[str, Collection[str]],
    batch_id: str,
    resources: Iterable[Resource],
    ended: Collection[str] = (),
) -> list[Released]:
    """One pass in every region, in parallel: a region that fails or hangs delays no other.

    ``left`` is what may still be there.  Things in ``ended`` are ended again only if a survey still
    shows them open or alive.
    """

    def release_in(region: str) -> Released:
        return release(
            connection,
            region,
            open_ids=[each for each in left[region].open_requests if each not in ended],
            live_ids=[each for each in left[region].live_instances if each not in ended],
            request_ids=request_ids[region],
            batch_id=batch_id,
            resources=resources,
        )

    with new_executor(connection) as executor:
        return list(executor.map(release_in, sorted(left)))


@dataclass(frozen=True)
class Cleaned:
    """Whether it is confirmed that nothing of a batch is left; if not, what may be left.

    ``forgotten`` says that a foreign endpoint answers as if the batch had never existed, so there
    is no use in asking it again.
    """

    confirmed: bool
    open_requests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    live_instances: Mapping[str, Sequence[str]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    forgotten: bool = False

    def joined(self, other: "Cleaned") -> "Cleaned":
        """Both in one: confirmed if both are."""
        return Cleaned(
            self.confirmed and other.confirmed,
            _by_region(self.open_requests, other.open_requests),
            _by_region(self.live_instances, other.live_instances),
            {**other.errors, **self.errors},
            self.forgotten,
        )

    def commands(self, options: str = "") -> list[str]:
        """The AWS CLI commands that finish the job by hand: cancel, describe, terminate.

        ``options`` say where: profile and endpoint.
        """
        things = [(region, ids) for region, ids in self.open_requests.items() if ids]
        things += [(region, ids) for region, ids in self.live_instances.items() if ids]
        return [
            command
            for region, ids in things
            for resource in RESOURCES
            if (mine := resource.of(ids))
            for command in resource.commands(f"--region {region}{options}", mine)
        ]


def _by_region(*parts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    regions = dict.fromkeys(region for each in parts for region in each)
    return {region: [*chain(*(each.get(region, ()) for each in parts))] for region in regions}


def settle(
    connection: Connection,
    *,
    batch_id: str,
    request_ids: Mapping[str, Collection[str]],
    resources: Iterable[Resource],
    note: Note,
    alive: Mapping[str, Collection[str]] | None = None,
    ended: Collection[str] = (),
    settle_s: float = SETTLE_S,
    give_up_s: float = GIVE_UP_S,
    rest: Rest | None = None,
) -> Cleaned:
    """Repeat ``release`` until every region was quiet for ``settle_s``, or give up.

    A foreign endpoint that forgot the batch (because it was restarted) is given up earlier: it
    would never list the requests that must be seen.  For AWS itself this is never assumed.

    Parameters
    ----------
    request_ids
        By region, the ids of the rows we know of.
    resources
        The kinds of things that are looked for by the batch's tag.
    note
        Records each pass that did something.
    alive
        By region, the instances of these requests that were last seen alive.
    ended
        Requests and instances for which EC2 already accepted a cancel or terminate call.
    settle_s, give_up_s
        Seconds of quiet that confirm the end, and seconds after which it is not confirmed.
    rest
        How to wait between two passes; by default the connection's clock sleeps.
    """
    clock, number, resources, alive = connection.clock, 0, tuple(resources), alive or {}
    give_up_at_s, forgets_s = clock.now_s() + give_up_s, settle_s + _FORGETS_S
    left = {region: unseen(ids, alive.get(region, ())) for region, ids in request_ids.items()}
    wanted, done = {region: set(ids) for region, ids in request_ids.items()}, set(ended)
    quiet_since, idle_since = dict[str, float](), dict[str, float]()
    while True:
        asked_s, pause_s = clock.now_s(), _pause_s(number)
        passes = release_all(
            connection, left, request_ids=wanted, batch_id=batch_id, resources=resources, ended=done
        )
        for passed in passes:
            if passed.did_something:
                note(release_event(passed))
            done.update(passed.cancelled, passed.terminated)
            wanted[passed.region] -= passed.found.over
            left[passed.region] = _left(left[passed.region], passed.found)
            _keep_since(quiet_since, passed, asked_s, holds=passed.found.quiet)
            _keep_since(idle_since, passed, asked_s, holds=passed.found.idle)
        quiet = (
            all(each.found.quiet for each in passes) and _held_s(quiet_since, asked_s) >= settle_s
        )
        idle = all(each.found.idle for each in passes) and _held_s(idle_since, asked_s) >= forgets_s
        forgotten = connection.foreign and idle and not quiet
        if quiet or forgotten or clock.now_s() >= give_up_at_s:
            errors = {each.region: each.error for each in passes if each.error}
            errors |= _forgotten(left, forgets_s) if forgotten else {}
            return _cleaned(quiet, left, errors, forgotten=forgotten)
        if rest is None:
            clock.sleep(pause_s)
        else:
            since_s = max(quiet_since.get(region, asked_s + pause_s) for region in left)
            if not rest(pause_s, until_quiet_s(settle_s - (asked_s - since_s), number)):
                return _cleaned(False, left, {}, forgotten=False)
        number += 1


def _keep_since(since: dict[str, float], passed: Released, asked_s: float, *, holds: bool) -> None:
    """Remember since when something holds in a region; a failed survey proves nothing."""
    if holds:
        since.setdefault(passed.region, asked_s)
    elif passed.found.error is None:
        since.pop(passed.region, None)


def _held_s(since: Mapping[str, float], asked_s: float) -> float:
    """Return for how many seconds it has held in every region."""
    return asked_s - max(since.values(), default=-math.inf)


def until_quiet_s(settle_s: float, passes: int = 0) -> float:
    """Return about how long after so many passes a batch is confirmed clean, if all goes well."""
    left_s = 0.0
    while left_s < settle_s:
        left_s += _pause_s(passes)
        passes += 1
    return left_s


def unseen(request_ids: Collection[str], alive: Collection[str]) -> Survey:
    """What may be in a region before any survey.  A row may itself be an instance."""
    requests = [each for each in sorted(request_ids) if not is_instance_id(each)]
    instances = sorted({*alive, *request_ids}.difference(requests))
    states = [dict.fromkeys(some, NOT_DESCRIBED) for some in (requests, instances)]
    return Survey(states[0], states[1], frozenset())


def _left(before: Survey, found: Survey) -> Survey:
    """What may still be there.  What an incomplete survey does not show may still exist."""
    if found.error is None:
        return found
    requests, instances = before.requests | found.requests, before.instances | found.instances
    missing = before.missing - requests.keys() - instances.keys()
    return Survey(requests, instances, missing, found.error)


def release_event(
    released: Released, *, round_number: int | None = None, plan: int | None = None
) -> ReleaseEvent:
    """Build the event of one pass; round and plan are those of the run that it was for."""
    return ReleaseEvent(
        round=round_number,
        plan=plan,
        region=released.region,
        cancelled=released.cancelled,
        terminated=released.terminated,
        error=released.error,
        over=tuple(sorted(released.found.over)),
    )


def clean_event(cleaned: Cleaned, *, spent_at_most_usd: float | None = None) -> CleanEvent:
    """Build the event that ends a log."""
    return CleanEvent(
        confirmed=cleaned.confirmed,
        open_requests={region: tuple(ids) for region, ids in cleaned.open_requests.items()},
        live_instances={region: tuple(ids) for region, ids in cleaned.live_instances.items()},
        errors=dict(cleaned.errors),
        spent_at_most_usd=spent_at_most_usd,
    )


def _pause_s(number: int) -> float:
    """The seconds between a pass and the next."""
    return (1.0, 2.0, 4.0, 8.0)[number] if number < 4 else 10.0


def _forgotten(left: Mapping[str, Survey], for_s: float) -> dict[str, str]:
    return {
        region: _FORGOTTEN.format(for_s, ", ".join(sorted(found.missing)))
        for region, found in left.items()
        if found.missing
    }


def _cleaned(
    confirmed: bool, left: Mapping[str, Survey], errors: Mapping[str, str], *, forgotten: bool
) -> Cleaned:
    unseen = {region: sorted(found.missing) for region, found in left.items()}
    requests = {each: [*filterfalse(is_instance_id, ids)] for each, ids in unseen.items()}
    instances = {each: [*filter(is_instance_id, ids)] for each, ids in unseen.items()}
    return Cleaned(
        confirmed,
        {region: found.open_requests + requests[region] for region, found in left.items()},
        {region: found.live_instances + instances[region] for region, found in left.items()},
        errors,
        forgotten,
    )

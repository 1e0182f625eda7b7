"""Leave nothing behind: release a plan, then a whole batch until nothing of it is left.

The order is always cancel, *then* look, then terminate: a cancelled request can no longer
launch, but one fulfilled a moment before has an instance that only the look shows.  A launch can
even be in flight while its request is cancelled, so a batch is clean only after a settle time in
which nothing was open or alive, and only if every request we know of was seen.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spotlib.ec2.calls import Survey, cancel, survey, terminate
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import Refusal

SETTLE_S = 30.0  # how long a launch may be in flight is not documented: a choice
GIVE_UP_S = 1800.0

Note = Callable[..., None]  # writes one event: note("release", region=..., ...)


@dataclass(frozen=True)
class Released:
    """What one pass of clean-up did in a region, and what it found before terminating."""

    region: str
    cancelled: tuple[str, ...] = ()
    terminated: tuple[str, ...] = ()
    found: Survey | None = None
    error: str | None = None

    @property
    def did_something(self) -> bool:
        """Whether there is something to record."""
        return bool(self.cancelled or self.terminated or self.error)

    @property
    def quiet(self) -> bool:
        """Whether this pass saw everything, and nothing of it open or alive."""
        return self.error is None and self.found is not None and self.found.quiet


def release(
    connection: Connection,
    region: str,
    *,
    open_ids: Sequence[str] = (),
    known: Collection[str] = (),
    batch_id: str | None = None,
) -> Released:
    """One pass: cancel, look by the ids and the tag, cancel what else is open, terminate.

    An error ends the pass and is told, not raised: the settling that follows passes again.
    """
    cancelled: list[str] = []
    found: Survey | None = None
    try:
        cancel(connection, region, open_ids)
        cancelled.extend(open_ids)
        found = survey(connection, region, batch_id=batch_id, known=known)
        late = [each for each in found.open_requests if each not in cancelled]
        if late:
            cancel(connection, region, late)
            cancelled.extend(late)
            found = survey(connection, region, batch_id=batch_id, known=known)
        terminate(connection, region, found.live_instances)
    except Refusal as refusal:
        return Released(region, tuple(cancelled), found=found, error=str(refusal))
    return Released(region, tuple(cancelled), tuple(found.live_instances), found)


@dataclass(frozen=True)
class Cleaned:
    """Whether it is confirmed that nothing of a batch is left, and what is if it is not."""

    confirmed: bool
    open_requests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    live_instances: Mapping[str, Sequence[str]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    terminated: frozenset[str] = frozenset()

    def commands(self) -> list[str]:
        """The AWS CLI commands that finish the job by hand: cancel, look, terminate."""
        cancels = [
            f"aws ec2 cancel-spot-instance-requests --region {region} "
            f"--spot-instance-request-ids {' '.join(ids)}"
            for region, ids in self.open_requests.items()
            if ids
        ]
        looks = [
            f"aws ec2 describe-instances --region {region} --filters "
            f"Name=spot-instance-request-id,Values={','.join(ids)} "
            "--query 'Reservations[].Instances[].[InstanceId,State.Name]'"
            for region, ids in self.open_requests.items()
            if ids
        ]
        ends = [
            f"aws ec2 terminate-instances --region {region} --instance-ids {' '.join(ids)}"
            for region, ids in self.live_instances.items()
            if ids
        ]
        return cancels + looks + ends


def settle(
    connection: Connection,
    *,
    batch_id: str,
    known: Mapping[str, Collection[str]],
    note: Note,
    alive: Mapping[str, Collection[str]] | None = None,
    settle_s: float = SETTLE_S,
    give_up_s: float = GIVE_UP_S,
) -> Cleaned:
    """Pass again and again until every region was quiet for ``settle_s``, or give up.

    Parameters
    ----------
    known
        For each region the ids of the requests we know of; more are found by the batch's tag.
    note
        Called with each pass that did something.
    alive
        For each region the instances last seen alive: to be named if no pass sees anything.
    """
    clock, pauses = connection.clock, _pauses()
    give_up_at_s = clock.now_s() + give_up_s
    quiet_since: dict[str, float] = {}
    left = {region: _unseen(known[region], (alive or {}).get(region, ())) for region in known}
    errors: dict[str, str] = {}
    terminated: set[str] = set()
    while True:
        quiet = True
        errors.clear()
        for region in sorted(known):
            asked_s = clock.now_s()
            passed = release(connection, region, known=known[region], batch_id=batch_id)
            terminated.update(passed.terminated)
            if passed.did_something:
                note_release(note, passed)
            if passed.error is not None:
                errors[region] = passed.error
            if passed.found is not None:
                left[region] = passed.found
            if passed.quiet:
                quiet &= asked_s - quiet_since.setdefault(region, asked_s) >= settle_s
            else:
                quiet = False
                if passed.found is not None:  # a pass that saw nothing proves nothing
                    quiet_since.pop(region, None)
        if quiet or clock.now_s() >= give_up_at_s:
            return _cleaned(quiet, left, errors, frozenset(terminated))
        clock.sleep(next(pauses))


def sweep_command(batch_id: str, endpoint: str) -> str:
    """What closes a batch later, from anywhere that has its log."""
    where = "" if endpoint == "sandbox" else f" --endpoint {endpoint}"
    return f"python -m spotlib sweep --batch {batch_id}{where}"


def note_release(note: Note, released: Released, **fields: object) -> None:
    """Record one pass of clean-up."""
    note(
        "release",
        **fields,
        region=released.region,
        cancelled=released.cancelled,
        terminated=released.terminated,
        error=released.error,
    )


def _pauses() -> Iterator[float]:
    return itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(10.0))


def _unseen(requests: Collection[str], alive: Collection[str]) -> Survey:
    """What a region may still hold, as long as no pass has seen it."""
    return Survey({}, dict.fromkeys(sorted(alive), "running"), frozenset(requests))


def _cleaned(
    confirmed: bool,
    left: Mapping[str, Survey],
    errors: Mapping[str, str],
    terminated: frozenset[str],
) -> Cleaned:
    return Cleaned(
        confirmed,
        {region: found.open_requests + sorted(found.missing) for region, found in left.items()},
        {region: found.live_instances for region, found in left.items()},
        dict(errors),
        terminated,
    )

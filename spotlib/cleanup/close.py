"""Leave nothing behind: release a plan, then a whole batch until nothing of it is left.

The order is always cancel, *then* survey, then terminate: a cancelled request can no longer
launch, but one fulfilled a moment before has an instance that only the survey shows.  A launch can
even be in flight while its request is cancelled.  So a batch is clean only after a settle time in
which nothing was open or alive, and only if every request we know of was seen.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from spotlib.ec2.calls import cancel, terminate
from spotlib.ec2.connection import Connection
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.survey import Survey, survey
from spotlib.record.events import CleanEvent, ReleaseEvent

SETTLE_S = 30.0  # how long a launch may be in flight is not documented: a choice
GIVE_UP_S = 1800.0

Note = Callable[[ReleaseEvent], None]  # writes the event of one pass


@dataclass(frozen=True)
class Released:
    """What one pass of clean-up did in a region, and what it found before it terminated."""

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
    request_ids: Collection[str] = (),
    batch_id: str | None = None,
) -> Released:
    """One pass: cancel, survey by ids and tag, cancel what else is open, terminate.

    A foreign endpoint may forget a cancelled request, and with it which instance is ours: there
    what it names is terminated first.  Errors are returned, not raised; ``settle`` will try again.
    """
    cancelled: list[str] = []
    terminated: list[str] = []
    found: Survey | None = None
    look = partial(survey, connection, region, batch_id=batch_id, request_ids=request_ids)
    try:
        if connection.foreign:
            found = look()
            terminate(connection, region, found.live_instances)
            terminated.extend(found.live_instances)
        cancel(connection, region, open_ids)
        cancelled.extend(open_ids)
        found = look()
        late = [each for each in found.open_requests if each not in cancelled]
        if late:
            cancel(connection, region, late)
            cancelled.extend(late)
            found = look()
        terminate(connection, region, found.live_instances)
        terminated.extend(found.live_instances)
    except Refusal as refusal:
        return Released(region, tuple(cancelled), tuple(terminated), found, str(refusal))
    return Released(region, tuple(cancelled), tuple(terminated), found)


@dataclass(frozen=True)
class Cleaned:
    """Whether it is confirmed that nothing of a batch is left, and what is if it is not."""

    confirmed: bool
    open_requests: Mapping[str, Sequence[str]] = field(default_factory=dict)
    live_instances: Mapping[str, Sequence[str]] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    terminated: frozenset[str] = frozenset()

    def commands(self) -> list[str]:
        """The AWS CLI commands that finish the job by hand: cancel, describe, terminate."""
        cancels = [
            f"aws ec2 cancel-spot-instance-requests --region {region} "
            f"--spot-instance-request-ids {' '.join(ids)}"
            for region, ids in self.open_requests.items()
            if ids
        ]
        describes = [
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
        return cancels + describes + ends


def settle(
    connection: Connection,
    *,
    batch_id: str,
    request_ids: Mapping[str, Collection[str]],
    note: Note,
    alive: Mapping[str, Collection[str]] | None = None,
    settle_s: float = SETTLE_S,
    give_up_s: float = GIVE_UP_S,
) -> Cleaned:
    """Repeat ``release`` until every region was quiet for ``settle_s``, or give up.

    Parameters
    ----------
    request_ids
        By region, the ids of the requests we know of; more are found by the batch's tag.
    note
        Records each pass that did something.
    alive
        By region, the instances last seen alive: they are reported if no survey succeeds.
    settle_s, give_up_s
        Seconds of quiet that confirm the end, and seconds after which it is not confirmed.
    """
    clock, pauses = connection.clock, _pauses()
    give_up_at_s = clock.now_s() + give_up_s
    quiet_since: dict[str, float] = {}
    left = {
        region: _unseen(ids, (alive or {}).get(region, ())) for region, ids in request_ids.items()
    }
    errors: dict[str, str] = {}
    terminated: set[str] = set()
    while True:
        quiet = True
        errors.clear()
        for region, ids in sorted(request_ids.items()):
            asked_s = clock.now_s()
            passed = release(connection, region, request_ids=ids, batch_id=batch_id)
            terminated.update(passed.terminated)
            if passed.did_something:
                note(release_event(passed))
            if passed.error is not None:
                errors[region] = passed.error
            if passed.found is not None:
                left[region] = passed.found
            if passed.quiet:
                quiet &= asked_s - quiet_since.setdefault(region, asked_s) >= settle_s
            else:
                quiet = False
                if passed.found is not None:  # a failed survey proves nothing
                    quiet_since.pop(region, None)
        if quiet or clock.now_s() >= give_up_at_s:
            return _cleaned(quiet, left, errors, frozenset(terminated))
        clock.sleep(next(pauses))


def sweep_command(batch_id: str, endpoint: str) -> str:
    """Return the command that closes a batch later, wherever its log is."""
    where = "" if endpoint == "sandbox" else f" --endpoint {endpoint}"
    return f"python -m spotlib sweep --batch {batch_id}{where}"


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


def _pauses() -> Iterator[float]:
    return itertools.chain((1.0, 2.0, 4.0, 8.0), itertools.repeat(10.0))


def _unseen(requests: Collection[str], alive: Collection[str]) -> Survey:
    """What a region may still hold, until a survey has seen it."""
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

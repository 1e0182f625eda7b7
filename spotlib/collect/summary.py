"""How a batch ended: outcomes, what is left, what it cost at most, and what went wrong."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spotlib.cleanup.close import Cleaned
from spotlib.cleanup.commands import aws_options, sweep_command
from spotlib.collect.batch import Batch
from spotlib.collect.stopping import stopped_words
from spotlib.ec2.events import EVENTS
from spotlib.ec2.fleets import FLEETS
from spotlib.ec2.launch_templates import LAUNCH_TEMPLATES
from spotlib.errors import OneSentence
from spotlib.model import Outcome
from spotlib.money import requests_usd, usd

_ALSO = {
    FLEETS: "fleets",
    LAUNCH_TEMPLATES: "launch templates",
    EVENTS: "queues or rules of EC2's events",
}


class BatchError(OneSentence, RuntimeError):
    """Something went wrong with a batch, or it was stopped."""


@dataclass(frozen=True)
class BatchSummary:
    """How a batch ended; ``spent_at_most_usd`` is NaN where the on-demand price is unknown.

    ``outcomes`` counts instances: by the outcome of their request, or as ``not sent`` if the batch
    was stopped before, or as ``not answered`` if the call's answer never came.
    ``warnings`` says which features could not be recorded, and whether the live view failed.
    """

    batch_id: str
    log: Path
    simulated: bool
    outcomes: Mapping[str, int]
    cleaned: Cleaned
    spent_at_most_usd: float
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def last_line(self) -> str:
        """Return the sentence to read before closing the lid: what is left, what it cost."""
        left = ", ".join(f"{what} {number}" for what, number in _left(self.cleaned).items())
        sure = "confirmed" if self.cleaned.confirmed else "NOT CONFIRMED"
        money = "simulated " if self.simulated else ""
        how = "each instance on demand, CPU credits included, until all had ended"
        if math.isnan(self.spent_at_most_usd):
            how = "an on-demand price is not known"
        return f"{left} ({sure}); spent at most {money}{usd(self.spent_at_most_usd)} ({how})"

    def require(self) -> None:
        """Raise BatchError with all that went wrong, if anything did."""
        if self.problems:
            raise BatchError("; ".join(self.problems))


def summary_of(batch: Batch, cleaned: Cleaned, warnings: tuple[str, ...]) -> BatchSummary:
    """Sum up a batch that has ended."""
    ended = Counter(
        str(track.outcome) for run in batch.runs for track in run.tracks.values() if track.outcome
    )
    for run in batch.runs:
        ended[str(Outcome.REFUSED)] += run.lacking
        if not run.tracks:
            ended[run.fate] += run.plan.count
    return BatchSummary(
        batch_id=batch.batch_id,
        log=batch.log.path,
        simulated=batch.connection.simulated,
        outcomes=dict(+ended),
        cleaned=cleaned,
        spent_at_most_usd=batch_usd(batch),
        problems=tuple(_problems(batch, cleaned)),
        warnings=(*batch.warnings, *warnings),
    )


def _problems(batch: Batch, cleaned: Cleaned) -> list[str]:
    problems = list(dict.fromkeys(batch.problems))
    connection = batch.connection
    closing = sweep_command(
        batch.batch_id,
        log=batch.log.path,
        endpoint=connection.endpoint,
        profile=connection.profile,
    )
    if batch.stopping.by is not None:
        sent = [run.round + 1 for run in batch.runs if run.asked_s is not None]
        words = stopped_words(batch.stopping.by, max(sent, default=0), batch.schedule.rounds)
        problems.append(f"{words}: what was seen until then is recorded")
    if batch.unwritten and batch.log.path.exists():
        problems.append(f"complete the log, once it can be written, with: {closing}")
    if not cleaned.confirmed:
        errors = "; ".join(f"{region}: {error}" for region, error in cleaned.errors.items())
        problems.append(
            f"it is NOT confirmed that nothing is left{f' ({errors})' if errors else ''}; finish "
            f"with: {closing}; or by hand: "
            f"{' && '.join(cleaned.commands(aws_options(connection))) or 'in the EC2 console'}"
        )
    return problems


def batch_usd(batch: Batch) -> float:
    """The cost of every launched instance at the on-demand price, from request until all were gone.

    An instance that only the clean-up saw may be of any run of its region: it counts as the
    dearest.  The requests to the queues of EC2's events are added.
    """
    seen: set[str] = set()
    costs_usd: list[float] = []
    dearest_usd: dict[str, float] = {}
    for run in batch.runs:
        if run.asked_s is None:
            continue
        each_usd = run.prepared.most_usd(min(run.gone_s, batch.now_s()) - run.asked_s)
        # Not ``max``: an unknown cost makes it unknown.
        dearest_usd[run.region] = float(np.maximum(dearest_usd.get(run.region, 0.0), each_usd))
        seen.update(run.instances.values())
        costs_usd += [each_usd] * len(run.instances)
    late = [region for each, region in batch.terminated.items() if each not in seen]
    late_usd = (dearest_usd[region] for region in late)
    return math.fsum([*costs_usd, *late_usd, requests_usd(batch.queues.calls)])


def _left(cleaned: Cleaned) -> dict[str, int]:
    """How many of each kind are left; requests and instances are named also if there are none."""
    regions = cleaned.open_requests.values()
    ids = [name for some in regions for name in dict.fromkeys(r.partition("#")[0] for r in some)]
    also = {words: len(kind.of(ids)) for kind, words in _ALSO.items()}
    instances = sum(map(len, cleaned.live_instances.values()))
    counts = {"open requests": len(ids) - sum(also.values()), "live instances": instances}
    return counts | {words: number for words, number in also.items() if number}

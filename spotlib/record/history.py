"""What earlier batches tell the next one: when each target was last launched, and what they cost.

A log that cannot be read does not prevent a collection; its cost is then unknown.
"""

import math
from datetime import datetime
from pathlib import Path

from spotlib.model import Target
from spotlib.record.folder import find_logs


def last_launches(folder: Path, *, since: datetime) -> dict[Target, datetime]:
    """Return when each target was last launched for real, in a folder's batches since then.

    Our own demand may still affect a pool, so the time since then is recorded as a feature.
    """
    logs = find_logs(folder)
    # Every simulated batch has a world of its own, and a foreign one is in no pool of AWS.
    logs.batches = {
        path: batch
        for path, batch in logs.batches.items()
        if batch is not None
        and not (batch.simulated or batch.foreign)
        and batch.started_at >= since
    }
    found: dict[Target, datetime] = {}
    for record in logs.read(polls=False):
        for run in record.runs.values():
            found[run.target] = max(run.intent.at, found.get(run.target, run.intent.at))
    return found


def earlier_usd(folder: Path, *, simulated: bool, endpoint: str = "aws") -> float:
    """Return the most that the batches of a folder have cost; NaN if that of one is unknown.

    A batch that was not confirmed clean counts with its hard bound.  Batches at a foreign endpoint
    other than this one do not count.
    """
    logs = find_logs(folder)
    costs_usd = [
        record.spent_at_most_usd
        for record in logs.read(polls=False)
        if record.batch.simulated is simulated
        and (record.batch.endpoint == endpoint or not record.batch.foreign)
    ]
    if logs.faults or None in costs_usd:
        return math.nan
    return math.fsum(each for each in costs_usd if each is not None)

"""What earlier batches tell the next one: when each target was last launched, and what they cost.

A log that cannot be read keeps nobody from collecting; its cost is then unknown.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from spotlib.model import Target
from spotlib.record.log import log_files
from spotlib.record.replay import RecordedBatch, replay


def last_launches(folder: Path, *, since: datetime) -> dict[Target, datetime]:
    """Return when each target was last launched for real, in a folder's batches since then.

    Our own demand may still be felt in a pool, so the time since is recorded as a feature.
    """
    found: dict[Target, datetime] = {}
    for path in log_files(folder):
        if path.stem < f"{since:%Y%m%dT%H%M%SZ}":
            continue  # batch ids begin with their start
        with suppress(ValueError, OSError):
            for target, at in _real_launches(replay(path, polls=False)):
                found[target] = max(at, found.get(target, at))
    return found


def _real_launches(record: RecordedBatch | None) -> Iterator[tuple[Target, datetime]]:
    if record is None or record.batch.simulated or record.batch.foreign:
        return  # every simulated batch has a world of its own, and a foreign one no pool of AWS
    for run in record.runs.values():
        intent = run.intent
        yield Target(intent.instance_type, intent.region, intent.availability_zone_id), intent.at


def earlier_usd(folder: Path, *, simulated: bool, endpoint: str = "aws") -> float:
    """Return the most that the batches of a folder have cost; NaN if that of one is unknown.

    A batch that was not confirmed clean counts with its hard bound.  What ran at another foreign
    endpoint than this one costs nothing here.
    """
    costs_usd = []
    for path in log_files(folder):
        try:
            record = replay(path, polls=False)
        except (ValueError, OSError):
            return math.nan
        if record is None or record.batch.simulated is not simulated:
            continue
        if record.batch.endpoint == endpoint or not record.batch.foreign:
            most_usd = record.spent_at_most_usd
            costs_usd.append(math.nan if most_usd is None else most_usd)
    return math.fsum(costs_usd)

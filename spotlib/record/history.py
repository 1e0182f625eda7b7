"""TODO."""

import math
from datetime import datetime
from pathlib import Path

from spotlib.model import Target
from spotlib.record.log import Event, log_files, read_events


def last_launches(folder: Path, *, since: datetime) -> dict[Target, datetime]:
    """When each target was last launched for real, in the batches of a folder since then.

    Our own demand may still be felt in a pool, so a later request should know of it.
    """
    found: dict[Target, datetime] = {}
    for path in log_files(folder):
        if path.stem < f"{since:%Y%m%dT%H%M%SZ}":
            continue  # batch ids begin with their start
        events = _events_if_readable(path)
        if not events or events[0]["simulated"]:
            continue  # every simulated batch has a world of its own
        for event in events:
            if event["event"] == "intent":
                zone = event["availability_zone_id"]
                target = Target(event["instance_type"], event["region"], zone)
                at = datetime.fromisoformat(event["at"])
                found[target] = max(at, found.get(target, at))
    return found


def earlier_usd(folder: Path, *, simulated: bool) -> float:
    """The most that the batches of a folder have cost: NaN if that of one is unknown.

    A batch that was not confirmed clean counts with its hard bound; of one whose log cannot be
    read nothing is known.
    """
    costs = []
    for path in log_files(folder):
        events = _events_if_readable(path)
        if events is None:
            return math.nan
        if not events or events[0]["simulated"] is not simulated:
            continue
        bound_usd, rounds = events[0]["bound_usd"], events[0]["parameters"]["rounds"]
        spent = [event.get("spent_at_most_usd") for event in events if event["event"] == "clean"]
        bound = math.nan if bound_usd is None else rounds * bound_usd
        costs.append(spent[-1] if spent and spent[-1] is not None else bound)
    return math.fsum(costs)


def _events_if_readable(path: Path) -> list[Event] | None:
    """A log of a newer spotlib, or a broken one, must not keep anybody from collecting."""
    try:
        return read_events(path, looks=False)[0]
    except ValueError:
        return None

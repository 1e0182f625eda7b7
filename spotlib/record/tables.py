"""What was kept, as tables: batches, requests and looks out of the event logs; and selections.

Tables are derived from the logs whenever they are wanted and stored nowhere.  Logs that are
still being written are read too.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from spotlib.model import Stage
from spotlib.record.log import Event, log_files, read_events


def load_batches(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """One row a batch: what ran, where, and whether it is confirmed that nothing is left."""
    return _table(_batch_rows(log_files(paths)), times=("started_at",), columns=BATCH_COLUMNS)


def load_launches(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """One row a request, with every stage's bracket, the outcome and what was known before.

    ``*_s`` are seconds since the plan's request call was sent.  A stage never shown has NaN
    brackets and is censored at ``watched_s``; a refused call gives its ``n`` rows without an id;
    a request still under way (or cut off by a crash) has no outcome yet.
    """
    rows = (row for path in log_files(paths) for row in _launch_rows(path))
    return _table(rows, times=LAUNCH_TIMES, columns=LAUNCH_COLUMNS)


def load_polls(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """One row a look and plan: when it was asked and answered, how many were at each stage.

    ``*_s`` are seconds since the plan's request call was sent.  A missed look has NaN counts and
    says why in ``error``.
    """
    plans: list[dict[str, Any]] = []
    looks: list[tuple[Any, ...]] = []
    counts: list[tuple[Any, ...]] = []
    for path in log_files(paths):
        _note_looks(path, plans, looks, counts)
    return _polls(plans, looks, counts)


_PLACE = ("simulated", "world", "endpoint", "batch_id")
_PLAN = (
    *("round", "plan", "instance_type", "region", "availability_zone_id", "placement"),
    *("method", "wanted", "n", "timeout_s"),
)
_FEATURES = (
    *("price_usd", "price_at", "price_source", "on_demand_usd"),
    *("sps", "sps_at", "sps_source", "if_score", "if_at", "if_source", "since_last_s"),
)
_STAMPS = ("created_at", "fulfilled_at", "launched_at")
BATCH_COLUMNS = (
    *_PLACE,
    *("started_at", "account", "profile", "rounds", "every_s", "poll_s", "phase_s", "seed"),
    *("plans", "requests", "ended", "clean", "torn"),
)
LAUNCH_TIMES = ("sent_at", *_STAMPS, "price_at", "sps_at", "if_at")
LAUNCH_COLUMNS = (
    *_PLACE,
    *_PLAN,
    *("request_id", "instance_id", "zone_id", "image", "max_price_usd", "sent_at"),
    *("outcome", "status_code", "kind", "watched_s"),
    *(f"{stage.label}_{end}_s" for stage in Stage for end in ("after", "by")),
    *_STAMPS,
    *_FEATURES,
)
POLL_COLUMNS = (
    *_PLACE,
    *_PLAN,
    *("tick", "asked_s", "answered_s", "at"),
    *(stage.label for stage in Stage),
    "error",
)
_LABELS = tuple(stage.label for stage in Stage)
_UNSEEN = (None,) * len(_LABELS)
_LOOK_FIELDS = ("tick", "asked_s", "answered_s", "at", "error")
_COUNTS = ("round", "plan", "n", "tick", *(stage.label for stage in Stage))
_WHOLE = {*_COUNTS, "rounds", "plans", "requests", "ended", "seed", "sps"}


def _table(rows: Iterable[Any], *, times: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(columns))
    for name in columns:
        if name in times:
            table[name] = pd.to_datetime(table[name], utc=True, format="ISO8601")
        elif name in _WHOLE:
            table[name] = table[name].astype("Int64")
        elif name.endswith(("_s", "_usd")) or name == "if_score":
            table[name] = table[name].astype("float64")
        elif name in ("simulated", "torn", "clean"):
            table[name] = table[name].astype("boolean")
        else:
            table[name] = table[name].astype("str" if table[name].notna().any() else "object")
    return table


def _place(first: Event) -> dict[str, Any]:
    """Where it ran.  Another market of the sandbox is another endpoint: never pooled."""
    market = first.get("market")
    endpoint = f"{first['endpoint']}/{market}" if market else first["endpoint"]
    return {name: first.get(name) for name in _PLACE} | {"endpoint": endpoint}


def _plan(intent: Event) -> dict[str, Any]:
    return {name: intent.get(name) for name in _PLAN}


def _batch_rows(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        events, torn = read_events(path, looks=False)
        if not events:
            continue  # a batch that has just been born
        first = events[0]
        row = {name: first.get(name) for name in BATCH_COLUMNS} | _place(first)
        row |= first["parameters"] | {"account": (first["identity"] or {}).get("account")}
        row["plans"] = sum(event["event"] == "intent" for event in events)
        row["requests"] = sum(len(event.get("request_ids", ())) for event in events[1:])
        row["ended"] = sum(event["event"] == "outcome" for event in events)
        ends = [event["confirmed"] for event in events if event["event"] == "clean"]
        yield row | {"clean": ends[-1] if ends else None, "torn": torn}


def _launch_rows(path: Path) -> Iterator[dict[str, Any]]:
    events, _ = read_events(path, looks=False)
    if not events:
        return
    place = _place(events[0])
    intents: dict[tuple[int, int], Event] = {}
    requests: dict[str, dict[str, Any]] = {}
    for event in events:
        key = (event.get("round", -1), event.get("plan", -1))
        match event["event"]:
            case "intent":
                intents[key] = event
            case "requested":
                for row in _requested_rows(place, intents[key], event):
                    requests[row["request_id"]] = row
            case "refused":
                yield from _refused_rows(place, intents[key], event)
            case "stage":
                _note_stage(requests[event["request_id"]], event)
            case "outcome":
                _note_outcome(requests[event["request_id"]], event)
    _censor_unfinished(path, requests)
    for row in requests.values():
        yield _since_sent(row)


def _before(place: Event, intent: Event) -> dict[str, Any]:
    known = {name: intent["known"].get(name) for name in _FEATURES}
    return {**place, **_plan(intent), **known} | {
        name: intent.get(name) for name in ("image", "max_price_usd")
    }


def _requested_rows(place: Event, intent: Event, event: Event) -> Iterator[dict[str, Any]]:
    for request_id in event["request_ids"]:
        yield _before(place, intent) | {
            "request_id": request_id,
            "sent_s": event["asked_s"],
            "sent_at": event["at"],
            "accepted_after_s": event["asked_s"],
            "accepted_by_s": event["answered_s"],
        }


def _refused_rows(place: Event, intent: Event, event: Event) -> Iterator[dict[str, Any]]:
    row = _before(place, intent) | {
        "sent_at": event["at"],
        "outcome": "refused",
        "status_code": event["code"],
        "kind": event["kind"],
        "watched_s": 0.0,
    }
    yield from (dict(row) for _ in range(intent["n"]))


def _note_stage(row: dict[str, Any], event: Event) -> None:
    row[f"{event['stage']}_after_s"] = event["after_s"]
    row[f"{event['stage']}_by_s"] = event["by_s"]
    row["instance_id"] = event["instance_id"]
    row["zone_id"] = event["availability_zone_id"]
    row["created_at"] = event["created_at"]
    if event["stage"] == "fulfilled":  # EC2 overwrites this time with the next status change
        row["fulfilled_at"] = event["status_updated_at"]
    row["launched_at"] = event["launched_at"] or row.get("launched_at")


def _note_outcome(row: dict[str, Any], event: Event) -> None:
    row["outcome"] = event["outcome"]
    row["status_code"] = event["status_code"]
    row["watched_at_s"] = event["watched_s"]


def _censor_unfinished(path: Path, requests: dict[str, dict[str, Any]]) -> None:
    unfinished = [row for row in requests.values() if "outcome" not in row]
    if not unfinished:
        return
    looked: dict[tuple[int, str], float] = {}
    for event in read_events(path)[0]:
        if event["event"] == "look" and event["error"] is None:
            looked.update({(event["round"], plan): event["asked_s"] for plan in event["plans"]})
    for row in unfinished:
        row["watched_at_s"] = looked.get((row["round"], str(row["plan"])), row["sent_s"])


def _since_sent(row: dict[str, Any]) -> dict[str, Any]:
    sent_s = row["sent_s"]
    for name in (f"{stage.label}_{end}_s" for stage in Stage for end in ("after", "by")):
        if row.get(name) is not None:
            row[name] -= sent_s
    row["watched_s"] = row["watched_at_s"] - sent_s
    return row


def _note_looks(
    path: Path,
    plans: list[dict[str, Any]],
    looks: list[tuple[Any, ...]],
    counts: list[tuple[Any, ...]],
) -> None:
    """Add a log's plans, its looks, and the counts of each plan in each look, by their places."""
    events, _ = read_events(path)
    place: dict[tuple[int, str], int] = {}
    for event in events:
        match event["event"]:
            case "intent":
                place[event["round"], str(event["plan"])] = len(plans)
                plans.append({**_place(events[0]), **_plan(event)})
            case "requested":
                plans[place[event["round"], str(event["plan"])]]["sent_s"] = event["asked_s"]
            case "look":
                for plan, seen in event["plans"].items():
                    row = [seen[label] for label in _LABELS] if seen else _UNSEEN
                    counts.append((len(looks), place[event["round"], plan], *row))
                looks.append(tuple(event[name] for name in _LOOK_FIELDS))


def _polls(
    plans: list[dict[str, Any]], looks: list[tuple[Any, ...]], counts: list[tuple[Any, ...]]
) -> pd.DataFrame:
    """The rows, each from its plan, its look and its counts: nothing is built twice."""
    which = pd.DataFrame(counts, columns=["look", "plan", *_LABELS])
    plan_columns = (*_PLACE, *_PLAN)
    about = _table(plans, times=(), columns=(*plan_columns, "sent_s"))
    seen = _table(looks, times=("at",), columns=_LOOK_FIELDS)
    rows = about.take(which.pop("plan").to_numpy()).reset_index(drop=True)
    looked = seen.take(which.pop("look").to_numpy()).reset_index(drop=True)
    sent_s = rows.pop("sent_s")
    looked[["asked_s", "answered_s"]] = looked[["asked_s", "answered_s"]].sub(sent_s, axis=0)
    return pd.concat([rows, looked, which.astype("Int64")], axis=1)[list(POLL_COLUMNS)]

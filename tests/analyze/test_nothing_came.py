"""03 of batches in which no request got an instance: it shows what there is, and never fails."""

import json
from itertools import product

import pytest
from conftest import CHAOS
from pages import shown_by
from studies import record
from test_analyze_notebook import NOTEBOOK, text_of

from spotlib.model import Stage

KINDS = {
    "launches": {},
    "usable": {"usable": True},
    "arms": {"methods": ("request_spot_instances", "run_instances"), "every_s": 900.0},
    "probes": {"wanted": Stage.GRANTED, "timeout_s": 30.0, "every_s": 300.0},
}
ENDINGS = ("failed", "killed", "abandoned", "refused")
CASES = list(product(KINDS, ENDINGS) if CHAOS else zip(KINDS, ENDINGS, strict=True))


def recorded(kind, log):
    """The events of a batch of two targets and two rounds."""
    record(log, n=2, rounds=2, **KINDS[kind])
    return [json.loads(line) for line in log.read_text().splitlines()]


def ended(events, ending):
    """The same batch, each request of which ended like this before anything was shown of it."""
    for event in events:
        if event["event"] in ("batch", "intent"):
            yield event
        elif event["event"] == "requested" and ending == "refused":
            place = {name: event[name] for name in ("round", "plan", "asked_s", "answered_s", "at")}
            code = "InsufficientInstanceCapacity"
            yield {"event": "refused", **place, "attempts": [], "code": code, "message": "none",
                   "kind": "capacity", "advice": ""}  # fmt: skip
        elif event["event"] == "requested":
            yield event
            if ending in ("abandoned", "failed"):
                yield from (outcome(event, name, ending) for name in event["request_ids"])


def outcome(requested, name, ending):
    place = {key: requested[key] for key in ("round", "plan")}
    unknown = ("instance_id", "status_code", "status_message", "instance_state")
    unknown += ("instance_reason", "instance_message")
    given = {"request_id": name, "outcome": ending, "watched_s": requested["answered_s"]}
    return {"event": "outcome", **place, **dict.fromkeys(unknown), **given}


@pytest.mark.parametrize(("kind", "ending"), CASES)
def test_a_batch_in_which_no_request_got_an_instance_has_a_whole_page(kind, ending, tmp_path):
    log = tmp_path / "launches" / "20240901T000000Z-abcdef.jsonl"
    events = recorded(kind, log)
    lines = [each | {"line": n} for n, each in enumerate(ended(events, ending), start=1)]
    log.write_text("".join(f"{json.dumps(each)}\n" for each in lines))

    page = list(shown_by(NOTEBOOK, drawn=False, results=str(tmp_path), details=True))

    text = text_of("".join(each.get("text/html", "") for each in page))
    stage = "granted" if kind == "probes" else "ready"
    assert f"{stage} at the end" in text
    others = ": they were asked for in other ways" if kind == "arms" else "."
    read = "16. Analyzed: 8. Left out: 8" if kind == "arms" else "8. Analyzed: 8. Left out: 0"
    assert f"Requests read: {read}{others}" in text
    unknown = ending in ("killed", "abandoned")
    assert ("Not known is whether EC2 granted anything" in text) == unknown
    assert ("tables/share-granted.csv" in text) != unknown

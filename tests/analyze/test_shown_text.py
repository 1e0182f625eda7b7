"""What a log says is shown by 03 as text: no HTML, no link, no formula."""

import json
from pathlib import Path

import pytest
from pages import EVIL, require_text, shown_by
from studies import NANO, edited, record

from spotlib.record.tables import load_launches, load_polls

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_analyze.ipynb"
# What EC2, the endpoint or the user wrote into a log.
TEXTS = [
    *("status_code", "status_message", "instance_reason", "image", "image_name", "endpoint"),
    *("market", "world", "account", "arn", "profile", "placement"),
]


def with_failed_poll(log):
    """Make a poll of a log one that failed, with planted text as its error."""
    lines = log.read_text().splitlines()
    events = list(map(json.loads, lines))
    first = next(number for number, event in enumerate(events) if event["event"] == "poll")
    plans = dict.fromkeys(events[first]["plans"])
    lines[first] = json.dumps(events[first] | {"plans": plans, "error": EVIL})
    log.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What 03 displays of two logs full of planted text, one of which is left out."""
    folder = tmp_path_factory.mktemp("evil")
    (folder / "launches").mkdir()
    source = folder / "source.jsonl"
    record(source, targets=(NANO,), n=2, rounds=2)
    texts = dict.fromkeys(TEXTS, EVIL)
    edited(source, folder / "launches" / "20240901T000000Z-<b>evil<b>.jsonl", **texts)
    with_failed_poll(folder / "launches" / "20240901T000000Z-<b>evil<b>.jsonl")
    texts |= {"method": EVIL, "world": "w-2"}
    edited(source, folder / "launches" / "20240801T000000Z-other.jsonl", **texts)
    return folder, list(shown_by(NOTEBOOK, results=str(folder)))


def test_03_shows_the_text_of_logs_as_text(shown):
    pages = [each for each in shown[1] if "text/html" in each]

    for each in pages:
        require_text(each)
    assert any("alert(1)" in each["text/html"] for each in pages)  # it is shown, as text
    assert EVIL in set(load_polls(shown[0] / "launches")["error"].dropna())


def test_no_figure_of_03_holds_a_script_or_a_link(shown):
    drawn = [path.read_text() for path in (shown[0] / "figures").glob("*.svg")]

    assert drawn
    for svg in drawn:
        assert not [each for each in ("<script", "<a ", "onerror=") if each in svg]


@pytest.mark.parametrize("name", ["instance_type", "region"])
def test_a_log_whose_target_is_no_name_of_ec2_is_refused(tmp_path, name):
    record(tmp_path / "a.jsonl", targets=(NANO,), n=1, rounds=1)
    evil = edited(tmp_path / "a.jsonl", tmp_path / "b.jsonl", **{name: EVIL})

    with pytest.raises(ValueError, match=rf"b.jsonl, line \d is no valid event: .*{name}"):
        load_launches(evil)

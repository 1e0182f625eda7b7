"""The page about the sandbox has the tables of the code."""

from pathlib import Path

import pytest

from spotlib.sandbox import delivery, forms, numbers
from spotlib.sandbox.faults import FLEET_KINDS, KINDS

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()


@pytest.mark.parametrize("of", [numbers, forms, delivery])
def test_the_page_has_the_tables_as_they_are(of):
    assert of.table_markdown().strip() in PAGE


def test_the_page_has_every_fault():
    for kind, (executed, meaning) in {**KINDS, **FLEET_KINDS}.items():
        row = f"| `{kind}` | {'executed' if executed else 'not executed'} | {meaning} |"
        assert row in PAGE


def test_the_page_has_one_sentence_per_line():
    prose = [line for line in PAGE.splitlines() if line and line[0] not in "|-`#p"]
    assert not [line for line in prose if ". " in line.replace("e.g. ", "")]

"""``03_analyze`` from the logs to figures and tables, and what it prints for little data."""

import json
import re
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
from programs import execute_notebook
from studies import NANO, record

from spotlib.sandbox.world import Fate

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_analyze.ipynb"
NEVER = Fate(evaluate_s=0.5, in_flight_s=1.0, held_s=None, boot_s=None, ok_s=None)
FIGURES = ["comparisons", "forecast", "launch-times", "phases", "ready-over-time", "timeline"]


def run(folder, **parameters):
    """Execute the notebook on a results folder; its output as text."""
    given = {"results": str(folder)} | parameters
    execute_notebook(NOTEBOOK, folder / "out.ipynb", cwd=folder, **given)
    book = nbformat.read(folder / "out.ipynb", as_version=4)
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr"]
    return "".join(out["text"] for out in outputs if out.output_type == "stream")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestNotebook:
    def test_a_study_yields_its_answer_its_figures_and_its_tables(self, tmp_path):
        rng = np.random.default_rng(1)
        fates = [
            Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=b, ok_s=9.0)
            for b in rng.uniform(3, 15, 32)
        ]
        record(tmp_path / "launches" / "a.jsonl", n=2, rounds=8, fates=fates)

        text = run(tmp_path)

        assert text.startswith(
            "32 requests in 16 runs of 2 targets, from 1 batch (simulated)\nFastest"
        )
        assert re.search(r"Share ready by \d+ s: 100% ", text)
        assert "Nothing can be said of selectors: 2 targets, at least 6 are needed." in text
        drawn = sorted(path.stem for path in (tmp_path / "figures").glob("*.svg"))
        assert drawn == FIGURES
        written = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
        assert {"launch-times", "comparisons", "checks", "stale-reads"} <= written

    @pytest.mark.parametrize("ready", ["ready", "running"])
    def test_one_run_of_one_target_that_is_never_ready_is_answered_too(self, tmp_path, ready):
        record(tmp_path / "launches" / "a.jsonl", targets=(NANO,), n=2, rounds=1, rest=NEVER)

        text = run(tmp_path, ready=ready)

        assert re.search(rf"Share {ready} by \d+ s: 0% ", text)
        assert "Not reached: 1 of 1 targets" in text
        assert "no forecast can be scored" in text
        assert "0 of 0 pairs differ" in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_empty_folder_ends_in_one_clear_sentence(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match=r"there is no launch in .* run 02"):
        run(tmp_path)


def test_it_ends_with_what_it_does_not_show_and_the_versions():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    headings = [
        "".join(cell["source"]).splitlines()[0] for cell in cells if cell["cell_type"] == "markdown"
    ]

    assert headings[-1] == "## What this does not show"
    assert "version(name)" in "".join(cells[-1]["source"])

"""``03_analyze`` from the logs to figures and tables, and what it prints for little data."""

import json
import re
from html import unescape
from inspect import signature
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, browser
from nbconvert import HTMLExporter
from pages import shown_by
from programs import execute_notebook, until
from studies import NANO, record

from spotlib.analyze import sentences
from spotlib.analyze.granted import formatted_granted
from spotlib.figures import picture
from spotlib.forecast.decide import formatted_decisions
from spotlib.model import Stage, Target
from spotlib.sandbox.world import Fate

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "03_analyze.ipynb"
NEVER = Fate(evaluate_s=0.5, in_flight_s=1.0, held_s=None, boot_s=None, ok_s=None)
FIGURES = {"answer", "forecast", "phases", "ready-over-time"}
MORE = {"launch-times", "timeline"}


def record_study(folder, *, rounds=8):
    """Two targets, of which t3.small boots ten seconds longer."""
    rng = np.random.default_rng(1)
    fates = [
        Fate(evaluate_s=0.5, in_flight_s=1.0, boot_s=b, ok_s=9.0)
        for b in rng.uniform(3, 15, 4 * rounds)
    ]
    record(folder / "launches" / "a.jsonl", n=2, rounds=rounds, fates=fates, small_s=10.0)


def text_of(html):
    """The text of HTML, without its style sheet."""
    return unescape(re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))


def tables_of(shown):
    """The tables on a page: the name of the file that its caption names, and its cells."""
    for each in shown:
        html = each.get("text/html", "")
        if "<table" in html:
            rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.DOTALL)
            cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r, flags=re.DOTALL) for r in rows]
            table = pd.DataFrame([list(map(unescape, row)) for row in cells[1:]], columns=cells[0])
            [name] = re.findall(r"tables/([\w-]+)\.csv", html)
            yield name, table


def page_of(folder, **parameters):
    return list(shown_by(NOTEBOOK, results=str(folder), **parameters))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a small study, and what 03 shows of it."""
    folder = tmp_path_factory.mktemp("study")
    record_study(folder)
    return folder, page_of(folder, details=True)


def test_the_page_begins_with_the_answer_the_table_and_one_figure(study):
    words, table, figure = study[1][:3]
    text = text_of(words["text/html"])
    [(name, ready)] = tables_of([table])

    assert "SIMULATED DATA: they say nothing about AWS. 2 targets, 8 runs per target, " in text
    for start in (
        "Fastest is t3.nano in sa-east-1: half of its instances were ready after ",
        "Average number ready at the end (40 s): 2.0 of 2 at every target.",
        "Slowest is t3.small in sa-east-1: half of its instances were ready after ",
        "Not known: what happens at other times (all were requested within 14 minutes).",
    ):
        assert start in text
    assert "No target is " not in text
    assert "image/png" in figure
    assert name == "ready-of-n"
    assert ready.columns[-1] == "seconds until half"
    assert ready.columns[-2].endswith(" s (end)")
    assert set(ready) & {"n", "runs"} == set()
    assert re.search(f"Fastest( seen)? is {ready['target'].iloc[0]}: ", text)
    assert "Average number ready of 2 requested instances" in table["text/html"]


FORMATTED = {
    "decisions": formatted_decisions,
    "ready-of-n": sentences.formatted_ready,
    "checks": sentences.formatted_checks,
    "launch-times": sentences.formatted_summary,
    "share-granted": formatted_granted,
}


def test_each_table_of_the_page_has_the_numbers_of_its_file(study):
    found = dict(tables_of(study[1]))

    assert {"ready-of-n", "checks", "decisions", "launch-times", "lognormal"} <= set(found)
    assert set(found["checks"]["result"]) == {"warning", "fine"}
    for name, table in found.items():
        by = ["target"] if "target" in table else []
        shown, kept = (
            each.sort_values(by, kind="stable", ignore_index=True) if by else each
            for each in (table, pd.read_csv(study[0] / "tables" / f"{name}.csv"))
        )
        if name in FORMATTED:
            kept = FORMATTED[name](kept).astype("str")
        assert len(shown) == len(kept), name
        assert set(shown) == set(kept), name
        for column in kept:
            pairs = list(zip(shown[column], kept[column], strict=True))
            assert all(says(cell, value) for cell, value in pairs), (name, column, pairs)


def says(cell, value):
    """Whether a cell has this value, to the digits that it shows."""
    if pd.isna(value):
        return cell in ("", "-")
    if isinstance(value, float) and np.isfinite(value):
        number = cell.split()[0]
        return abs(float(number) - value) <= 0.51 * 10.0 ** -len(number.partition(".")[2])
    return cell.strip() == str(value)


def test_every_figure_is_there_for_print_too(study):
    drawn = {path.stem for path in (study[0] / "figures").glob("*.svg")}

    assert drawn >= FIGURES | MORE
    assert drawn == {path.stem for path in (study[0] / "figures").glob("*.png")}
    svg = (study[0] / "figures" / "answer.svg").read_text()
    assert "SIMULATED" in svg
    assert "8 runs per target, 2 instances per run" in svg


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_answer_of_eight_targets_fits_a_screen_of_1280_by_900(tmp_path):
    sizes = ["nano", "micro", "small", "medium", "large", "xlarge", "2xlarge"]
    targets = [Target(f"t3.{size}", "ap-southeast-2") for size in sizes]
    targets += [Target("t3a.2xlarge", "ap-southeast-2")]
    record(tmp_path / "launches" / "a.jsonl", targets=targets, n=1, rounds=6)
    write_page(page_of(tmp_path), tmp_path / "page.html")
    with browser(tmp_path) as page:
        screen = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.call("Emulation.setDeviceMetricsOverride", **screen)
        page.call("Page.navigate", url=(tmp_path / "page.html").as_uri())
        ends = "[...document.querySelectorAll('table, img')].map(e => e.getBoundingClientRect())"
        until(lambda: page.run(f"document.readyState === 'complete' && {ends}.length >= 2"))
        bottoms = page.run(f"{ends}.map(each => each.bottom)")
        told = page.run("[...document.querySelectorAll('img')].map(each => each.alt)")
        wide = page.run("document.documentElement.scrollWidth")

    assert len(bottoms) > 2
    assert bottoms[0] < bottoms[1] <= 900
    assert wide <= 1280
    assert told[0] == (
        "SIMULATED (sandbox), 6 runs per target, 1 instance per run: The share at the stage over "
        "the seconds since the request, one line per target."
    )
    assert len(set(told)) == len(told)


def test_every_picture_says_in_words_what_it_shows(study):
    """For those who do not see it, and each in its own words."""
    told = [each["alt"] for each in study[1] if "image/png" in each]

    assert len(told) > 4
    assert len(set(told)) == len(told)
    for alt in told:
        assert re.fullmatch(r"SIMULATED \(sandbox\)[^:]*: [A-Z].{30,}\.", alt)


def write_page(shown, path):
    """What the notebook shows, as the page that ``make report`` writes."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    book.cells = book.cells[:5]  # up to the answer; the others are below it
    wide = signature(picture).parameters["width"].default
    book.cells[-1].outputs = [
        nbformat.v4.new_output(
            "display_data",
            data={kind: data for kind, data in each.items() if kind != "alt"},
            metadata={"image/png": {"width": wide, "alt": each.get("alt")}},
        )
        for each in shown
    ]
    template = NOTEBOOK.parents[1] / "docs" / "report.html.j2"
    hidden = dict.fromkeys(("exclude_input", "exclude_input_prompt", "exclude_output_prompt"), True)
    exporter = HTMLExporter(template_file=str(template), embed_images=True, **hidden)
    path.write_text(exporter.from_notebook_node(book)[0])


@pytest.mark.parametrize("ready", ["ready", "running"])
def test_one_run_of_one_target_that_is_never_ready_is_answered_too(tmp_path, ready):
    record(tmp_path / "launches" / "a.jsonl", targets=(NANO,), n=2, rounds=1, rest=NEVER)

    page = page_of(tmp_path, ready=ready, drawn=False)
    text = text_of("".join(each.get("text/html", "") for each in page))

    only = rf"The only target is t3.nano in sa-east-1: 0.0 of 2 \(no interval\) were {ready}"
    assert re.search(only, text)
    assert re.search(
        rf"average number {ready} at the end \(\d+ s\): 0.0 of 2\.", text, re.IGNORECASE
    )
    assert "how sure this is for 1 of 1 target (an interval needs 6 runs)" in text
    assert "95 % interval" not in text
    assert "There is no forecast" in text
    assert "No forecast can be scored" in text
    assert "There is one target: nothing to compare." in text
    assert not (tmp_path / "figures" / "phases.svg").exists()


def test_phases_of_which_only_limits_are_known_are_drawn(tmp_path):
    """A call that launches at once tells no more than that it was granted within the call."""
    log = tmp_path / "launches" / "a.jsonl"
    probe = {"wanted": Stage.GRANTED, "timeout_s": 30.0, "every_s": 300.0}
    record(log, targets=[NANO], n=1, methods=("run_instances",), **probe)

    text = text_of("".join(each.get("text/html", "") for each in page_of(tmp_path, drawn=False)))

    assert "No phase has a known median: polls are too far apart" in text
    assert (tmp_path / "figures" / "phases.png").exists()


def test_figures_and_tables_go_to_one_folder_and_leave_those_of_the_report(study):
    folder = study[0]
    before = {path: path.read_bytes() for path in (folder / "tables").iterdir()}

    page_of(folder, targets="nano", output=str(folder / "one"), drawn=False)

    assert {path: path.read_bytes() for path in (folder / "tables").iterdir()} == before
    assert len(pd.read_csv(folder / "one" / "tables" / "ready-of-n.csv")) == 1
    assert (folder / "one" / "figures" / "answer.svg").exists()


def test_of_many_targets_the_fastest_and_the_slowest_are_shown(tmp_path):
    targets = [Target(f"t3.{size}", "sa-east-1") for size in ("nano", "micro", "small")]
    record(tmp_path / "launches" / "a.jsonl", targets=targets, n=1, rounds=6)

    page = page_of(tmp_path, most_targets=2, drawn=False)
    found = dict(tables_of(page))
    kept = pd.read_csv(tmp_path / "tables" / "ready-of-n.csv")

    assert found["ready-of-n"]["target"].tolist() == kept["target"].iloc[[0, 2]].tolist()
    assert "the fastest and the slowest 2 of 3 targets" in page[1]["text/html"]
    assert len(found["decisions"]) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_study_in_a_kernel_writes_its_figures_and_its_tables(tmp_path):
    record_study(tmp_path, rounds=6)
    execute_notebook(NOTEBOOK, tmp_path / "out.ipynb", cwd=tmp_path, results=str(tmp_path))
    book = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]

    assert {out.output_type for out in outputs} == {"display_data"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} >= FIGURES
    written = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    assert written >= {"ready-of-n", "launch-times", "comparisons", "checks", "stale-reads"}


def test_an_empty_folder_ends_in_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"there is no launch in .* run 02"):
        page_of(tmp_path)


def test_it_ends_with_what_it_does_not_show_and_the_versions():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    headings = [
        "".join(cell["source"]).splitlines()[0] for cell in cells if cell["cell_type"] == "markdown"
    ]

    assert headings[-1] == "## What this does not show"
    assert "version(name)" in "".join(cells[-1]["source"])


def test_it_is_a_page_of_at_most_25_cells_and_nothing_is_shown_before_the_answer():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    silent = [cell["source"] for cell in cells[:4] if cell["cell_type"] == "code"]

    assert len(cells) <= 25
    assert not [line for source in silent for line in source if "display" in line and "(" in line]

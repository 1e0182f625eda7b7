"""``01_select`` from an archive to the file that ``02_collect`` reads."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from market import random_market, write_tree, write_zip
from programs import PATIENCE_S, execute_notebook, require_tables_as_files

from spotlib.record.selection_file import read_selection, selection_targets
from spotlib.sandbox.history import write_archive
from spotlib.select import source
from spotlib.select.archive.counts import read_counts
from spotlib.select.choose import choose_targets, complete_selection
from spotlib.select.cov import score_targets, variation
from spotlib.select.evidence import WAYS, compare_ways
from spotlib.select.parameters import SelectParameters
from spotlib.select.report import file_parameters
from spotlib.select.source import find_archive

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_select.ipynb"
DEFAULTS = {
    "dataset": "",
    "market": "",
    "month": "",
    "days": "",
    "sizes": "medium small micro nano",
    "top": 10,
    "form": "pooled",
    "missing": "drop",
    "max_per_region": 0,
    "max_per_family": 0,
    "controls": 0,
    "seed": 0,
    "held_s": 300.0,
    "skip_bad_files": False,
    "results": "",
    "out": "",
}


def parameters(**changes):
    return SelectParameters(**(DEFAULTS | changes))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, run on a small archive that passes for real."""
    folder = tmp_path_factory.mktemp("study")
    write_tree(random_market(days=3, snapshots=20, seed=5), folder / "archive")
    given = {"dataset": str(folder / "archive"), "results": str(folder / "results")}
    given |= {"sizes": "medium nano xlarge", "top": 3, "controls": 1}
    execute_notebook(NOTEBOOK, folder / "out.ipynb", cwd=folder, **given)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestNotebook:
    def test_it_writes_a_selection_that_collect_can_read(self, executed):
        [path] = (executed / "results" / "selection").glob("*.csv")
        table = read_selection(path)
        assert {"sps_cov_within", "if_cov_within"} <= set(table)

        assert [str(target) for target in selection_targets(table, top=1)]
        assert table["rank"].tolist() == list(range(1, len(table) + 1))
        assert table["source"].unique().tolist() == ["spotlake"]
        assert table["role"].iloc[:2].unique().tolist() == ["ranked"]
        assert {"sps_cov", "if_cov", "resting_share", "coverage", "form", "top"} <= set(table)

    def test_it_shows_its_numbers_and_figures_and_never_calls_real_data_simulated(self, executed):
        book = nbformat.read(executed / "out.ipynb", as_version=4)
        text = "\n".join(str(cell.get("outputs", "")) for cell in book.cells)

        assert "60 snapshots of 3 days" in text
        assert "3 of 3 days" in text
        outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
        assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
        assert "SIMULATED" not in text
        assert len(list((executed / "results" / "figures").glob("select-*.png"))) == 4

    def test_each_table_it_shows_is_a_file_too(self, executed):
        require_tables_as_files(executed / "out.ipynb", executed / "results" / "tables")

    def test_it_is_committed_as_a_template(self):
        book = nbformat.read(NOTEBOOK, as_version=4)
        code = [cell for cell in book.cells if cell.cell_type == "code"]

        assert not any(cell.outputs or cell.execution_count for cell in code)
        assert book.metadata.kernelspec.name == "python3"
        assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1
        assert max(cell.source.count("\n") + 1 for cell in code) <= 20
        found = papermill.inspect_notebook(str(NOTEBOOK))
        assert list(found) == list(DEFAULTS)
        assert all(each["help"] and each["inferred_type_name"] for each in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"month": "2024-13"}, "month must look like 2024-08, got '2024-13'"),
        ({"month": "2024-08", "days": "2024-08-01"}, "give either a month or days, not both"),
        ({"sizes": " , "}, "sizes must name at least one size"),
        (
            {"market": "wild"},
            "market must be one of calm, fitted, outage, tight, or one .* got 'wild'",
        ),
        ({"form": "between"}, "form must be 'pooled' or 'within', got 'between'"),
        ({"missing": "zero"}, "missing must be 'drop' or 'as_value', got 'zero'"),
        ({"top": 0}, "top must be at least 1 target, got 0"),
        ({"controls": -1}, "controls must be 0 or above, got -1"),
        ({"held_s": 0.0}, "held_s must be above 0 seconds, got 0.0"),
        ({"top": 0, "form": "x"}, "form must be.*; top must be"),
    ],
)
def test_invalid_parameters_are_reported_together(change, message):
    with pytest.raises(ValueError, match=message):
        parameters(**change)


@pytest.fixture
def one_day_a_month(monkeypatch):
    """The sandbox's writer, limited to one day and one region to be quick."""

    def write(folder, **options):
        return write_archive(folder, days=[1], regions=["sa-east-1"], **options)

    monkeypatch.setattr(source, "write_archive", write)


@pytest.mark.usefixtures("one_day_a_month")
class TestArchive:
    def test_with_no_archive_the_sandbox_writes_one_once_and_says_so(self, tmp_path):
        first = find_archive(parameters(), spot_dataset=tmp_path)
        again = find_archive(parameters(), spot_dataset=tmp_path)

        assert first.simulated
        assert first.source == "sandbox"
        assert "SIMULATED" in source.banner(first)
        assert "written now" in first.origin
        assert "written now" not in again.origin
        assert (first.days, again.days) == ("2024-08", "2024-08")
        counts = read_counts(again.path, days=again.days, cache=None)
        assert counts.days["snapshots"].sum() > 100
        made = [path.name for path in (tmp_path / "sandbox" / "fitted").iterdir()]
        assert made == ["aws-2024-08"]

    def test_a_real_archive_comes_first_and_its_newest_month(self, tmp_path):
        write_zip(random_market(days=1), tmp_path / "aws")

        found = find_archive(parameters(), spot_dataset=tmp_path)

        assert not found.simulated
        assert found.path == tmp_path / "aws"
        assert found.days == "2024-08"
        assert "SIMULATED" not in source.banner(found)
        assert find_archive(parameters(dataset="sandbox"), spot_dataset=tmp_path).simulated

    def test_each_market_has_an_archive_of_its_own_and_the_selection_says_which(self, tmp_path):
        default = find_archive(parameters(dataset="sandbox"), spot_dataset=tmp_path)
        tight = find_archive(parameters(market="tight"), spot_dataset=tmp_path)

        assert (default.market, tight.market) == ("fitted", "tight")
        assert "a pretend market, tight, nothing here is about AWS" in source.banner(tight)
        assert file_parameters(parameters(market="tight"), tight)["market"] == "tight"
        assert file_parameters(parameters(), default)["market"] == "fitted"

    def test_an_archive_with_the_mark_is_simulated_in_any_folder(self, tmp_path):
        made = find_archive(parameters(market="tight"), spot_dataset=tmp_path)
        moved = str(Path(made.path).rename(tmp_path / "aws"))
        write_tree(random_market(days=1), tmp_path / "sandbox" / "mine")

        assert find_archive(parameters(dataset=moved)).market == "tight"
        assert not find_archive(parameters(dataset=str(tmp_path / "sandbox"))).simulated

    def test_an_archive_of_another_market_than_asked_for_is_refused(self, tmp_path):
        made = find_archive(parameters(market="tight"), spot_dataset=tmp_path)
        write_tree(random_market(days=1), tmp_path / "mine")

        with pytest.raises(ValueError, match=r"market='calm' was asked for, but .* market tight:"):
            find_archive(parameters(dataset=str(made.path), market="calm"))
        with pytest.raises(ValueError, match=r"market='calm' was asked for, but .*mine is real:"):
            find_archive(parameters(dataset=str(tmp_path / "mine"), market="calm"))

    def test_a_named_one_is_taken_relative_to_the_workspace_and_days_as_given(self, tmp_path):
        write_tree(random_market(days=2), tmp_path / "mine")

        found = find_archive(
            parameters(dataset="mine", days="2024-08-01, 2024-08-02"),
            spot_dataset=tmp_path / "spot_dataset",
        )

        assert found.days == ("2024-08-01", "2024-08-02")
        assert found.path == tmp_path / "mine"


def test_a_sample_in_which_nothing_varies_says_what_to_do(tmp_path):
    still = random_market(days=1, missing=0.0)
    still.rows["if_score"] = 3.0
    counts = read_counts(write_tree(still, tmp_path), cache=None).counts

    pairs = variation(counts)
    chosen = choose_targets(score_targets(pairs), top=3)

    with pytest.raises(ValueError, match=r"in both SPS and IF in these days \(1\): read more"):
        complete_selection(
            chosen, pairs, counts=counts, parameters=parameters(sizes="medium nano", controls=1)
        )


def test_the_four_ways_are_compared_over_all_targets_in_the_top_of_one(tmp_path):
    market = random_market(days=2, snapshots=20)
    counts = read_counts(write_tree(market, tmp_path), cache=None).counts

    ranks, ranked = compare_ways(counts, sizes=("nano", "medium", "xlarge"), top=2)

    assert (ranks.min(axis=1) <= 2).all()
    assert list(ranks.columns) == list(ranked) == list(WAYS)
    assert isinstance(ranks, pd.DataFrame)
    assert ranks.iloc[0, 0] == 1


def test_two_notebooks_that_start_first_in_the_same_second_both_end_well(tmp_path):
    """Two processes write the sandbox's archive, count it and select, all at once."""
    script = (
        "import json, pathlib, sys\n"
        "from datetime import UTC, datetime\n"
        "import pandas as pd\n"
        "from spotlib.sandbox.history import write_archive\n"
        "from spotlib.select import choose, source\n"
        "from spotlib.select.archive.counts import read_counts\n"
        "from spotlib.select.parameters import SelectParameters\n"
        "given = SelectParameters(**json.loads(sys.argv[1]))\n"
        "source.write_archive = lambda folder, **given: write_archive(\n"
        "    folder, days=[1], regions=['sa-east-1'], **given)\n"
        "root = pathlib.Path(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "archive = source.find_archive(given, spot_dataset=root / 'spot')\n"
        "reading = read_counts(archive.path, cache=root / 'counts')\n"
        "path = choose.write_selection(pd.DataFrame({'rank': [1]}), root / 'selection',\n"
        "    source='sandbox', created=datetime.now(UTC), parameters={})\n"
        "print(len(reading.counts), path.name)\n"
    )
    command = [sys.executable, "-c", script, json.dumps(DEFAULTS), str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=PATIENCE_S)[0].split() for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    written = {path.name for path in (tmp_path / "selection").iterdir()}
    assert written == {outputs[0][1], outputs[1][1]}
    assert len(written) == 2
    assert len(list((tmp_path / "spot").rglob("SIMULATED.json"))) == 1

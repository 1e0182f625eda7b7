"""The workspace is consistent: environment, dependencies, light import, notebooks, texts."""

import ast
import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, metadata, packages_distributions
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import spotlib
from spotlib.workspace import workspace

NOTEBOOKS = sorted(path.stem for path in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

STANDARD = set(sys.stdlib_module_names)
CONDA_NAMES = {"matplotlib": "matplotlib-base", "isal": "python-isal"}


def bounds(text):
    requirement = Requirement(text)
    return requirement.name.lower(), str(requirement.specifier)


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


def test_environment_yml_has_the_names_and_bounds_of_pyproject(repository, project):
    environment = yaml.safe_load((repository / "environment.yml").read_text())["dependencies"]
    conda = [each for each in environment if isinstance(each, str)]
    [pip] = [each["pip"] for each in environment if isinstance(each, dict)]
    found = dict(map(bounds, [*conda, *(each for each in pip if not each.startswith("-e"))]))
    wanted = dict(map(bounds, project["dependencies"]))

    assert found.pop("pip") == ""
    assert found.pop("python") == project["requires-python"]
    assert found == {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}
    assert "-e ." in pip


def test_constraints_pin_every_dependency_within_its_bounds(repository, project):
    lines = (repository / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines]
    pinned = {each.name.lower().replace("_", "-"): each.specifier for each in pins}
    extras = [each for some in project["optional-dependencies"].values() for each in some]
    for text in [*project["dependencies"], *extras]:
        requirement = Requirement(text)
        [pin] = pinned[requirement.name.lower()]
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), text
    assert not any("://" in line for line in lines)


def test_no_pin_needs_a_newer_patch_of_python_than_the_project(repository):
    """Systems keep an early one for years: Debian 12 has 3.11.2."""
    for line in (repository / "constraints.txt").read_text().splitlines():
        with contextlib.suppress(PackageNotFoundError):  # of an extra that is not installed
            needed = metadata(Requirement(line).name).get("Requires-Python") or ""
            assert SpecifierSet(needed).contains("3.11.0"), f"{line} needs Python {needed}"


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def code_of(path):
    book = nbformat.read(path, as_version=4)
    return "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")


def test_everything_imported_is_a_named_dependency(repository, project):
    extras = [each for some in project["optional-dependencies"].values() for each in some]
    runtime = {Requirement(each).name.lower() for each in project["dependencies"]}
    testing = runtime | {Requirement(each).name.lower() for each in extras}
    ours = {"spotlib", "conftest"} | {path.stem for path in (repository / "tests").rglob("*.py")}
    provided = packages_distributions()
    # Libraries that moto, boto3, pytest and JupyterLab bring along.
    parts = {"botocore": "boto3", "xmltodict": "moto", "werkzeug": "moto", "packaging": "pytest"}
    parts |= {"urllib3": "boto3", "jupyter_client": "jupyterlab", "websocket": "jupyterlab"}
    parts |= {"psutil": "jupyterlab"}
    parts |= {"cosmic_ray": "cosmic-ray", "parso": "cosmic-ray"}  # only make mutants installs it
    sources = [(path, path.read_text(), testing) for path in (repository / "tests").rglob("*.py")]
    sources += [(p, p.read_text(), testing) for p in (repository / "benchmarks").glob("*.py")]
    sources += [(p, p.read_text(), runtime) for p in (repository / "spotlib").rglob("*.py")]
    sources += [(p, code_of(p), runtime) for p in (repository / "notebooks").glob("*.ipynb")]
    ours |= {path.stem for path in (repository / "benchmarks").glob("*.py")}
    for path, source, allowed in sources:
        for name in {each.split(".")[0] for each in imported(source)} - STANDARD - ours:
            names = {dist.lower() for dist in provided.get(name, [name])} | {parts.get(name, name)}
            assert names & allowed, f"{path.name} imports {name}, which no dependency provides"


def test_importing_spotlib_loads_no_heavy_library():
    script = "import sys, spotlib; print(sorted({'boto3', 'pandas', 'moto'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_clean_and_thin(repository, name):
    book = nbformat.read(repository / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]

    assert book.metadata.kernelspec.name == "python3"
    assert len(tagged) == 1
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert not re.search(r"^\s*(def|class) ", cell.source, re.MULTILINE)
        assert "sys.path" not in cell.source
        if cell not in tagged:
            assert cell.source.count("\n") < 24


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_parameter_has_a_type_and_a_help_text(repository, name):
    """As papermill reads them: it knows no parameter whose comment holds a =."""
    path = repository / "notebooks" / f"{name}.ipynb"
    found = papermill.inspect_notebook(str(path))
    cells = nbformat.read(path, as_version=4).cells
    [cell] = [each for each in cells if "parameters" in each.metadata.get("tags", [])]

    assert list(found) == [each.target.id for each in ast.parse(cell.source).body]
    for parameter in found.values():
        assert parameter["inferred_type_name"] != "None"
        assert parameter["help"]


def test_the_parameters_of_02_begin_with_the_five_that_matter_first(repository):
    book = nbformat.read(repository / "notebooks/02_collect.ipynb", as_version=4)
    [cell] = [each for each in book.cells if "parameters" in each.metadata.get("tags", [])]
    first, *others = cell.source.split("\n\n")

    names = [each.target.id for each in ast.parse(first).body]
    assert names == ["n", "instance_type", "region", "rounds", "endpoint"]
    assert all(group.startswith("# ") and group.count("\n") < 8 for group in [first, *others])


def names_in(path):
    """The names that the code of a file uses or imports."""
    kinds = {ast.Name: "id", ast.Attribute: "attr", ast.arg: "arg", ast.ImportFrom: "module"}
    nodes = ast.walk(ast.parse(path.read_text()))
    return {getattr(node, kinds[type(node)]) for node in nodes if type(node) in kinds}


def test_make_chaos_runs_every_test_that_shows_more_there(repository):
    recipe = re.search(r"^chaos:.*?\n\n", (repository / "Makefile").read_text(), re.M | re.S)[0]
    named = [repository / each for each in re.findall(r"tests/[\w/.]+", recipe)]
    more = {"CHAOS", "EACH_ARM", "SAMPLE", "chaos", "hypothesis", "sampled"}
    found = [each for each in (repository / "tests").rglob("test_*.py") if more & names_in(each)]

    assert len(found) > 30
    for path in found:
        assert any(path.is_relative_to(each) for each in named), path
    assert all(each.exists() for each in named)


def test_no_tracked_file_names_a_machine_or_a_registry(repository):
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = re.compile(r"index[-]url|/home[/]|/root[/]|" + re.escape(str(repository)))
    for name in filter(None, listed.stdout.split("\0")):
        path = repository / name
        if path.suffix in {".png", ".svg"} or path.name == "test_workspace.py" or not path.exists():
            continue
        assert not words.search(path.read_text()), name


def test_the_policy_in_the_package_is_valid_json(repository):
    policy = json.loads((repository / "spotlib" / "policy.json").read_text())

    assert policy["Version"] == "2012-10-17"


@pytest.fixture
def unnoticeable(repository):
    """The changes that are called so."""
    listed = tomllib.loads((repository / "tests" / "equivalent_mutants.toml").read_text())
    return listed["mutant"]


def test_each_change_that_is_called_unnoticeable_is_of_lines_there_are_and_says_why(
    repository, unnoticeable
):
    """Of one line, or of as many that read the same as it says."""
    for each in unnoticeable:
        lines = map(str.strip, (repository / each["file"]).read_text().splitlines())
        assert list(lines).count(each["before"]) == each.get("lines", 1), each
        assert each["reason"]
        assert each.keys() <= {"file", "before", "after", "lines", "reason"}, each


def test_only_of_a_plain_number_is_every_change_called_unnoticeable(unnoticeable):
    """Its changes are its two neighbours; those of any other line are named one by one."""
    number = re.compile(r"[A-Z_]+ = [0-9][0-9_.]*(  #.*)?")
    for each in unnoticeable:
        assert "after" in each or number.fullmatch(each["before"]), each


def test_no_change_is_called_unnoticeable_twice(unnoticeable):
    named = [(each["file"], each["before"], each.get("after")) for each in unnoticeable]

    assert len(set(named)) == len(named)
    assert not {(*each[:2], None) for each in named if each[2]} & set(named)


def test_each_change_that_is_called_unnoticeable_is_one_that_the_tool_makes(unnoticeable):
    """Only where ``make mutants`` has installed what makes them."""
    pytest.importorskip("cosmic_ray")
    mutants = pytest.importorskip("mutants")
    wanted = defaultdict(set)
    for each in unnoticeable:
        wanted[each["file"], each["before"]].add(each.get("after"))

    for (file, before), named in wanted.items():
        made = mutants.become(file, before)
        assert named - {None} <= made, (file, before, made)
        assert made, (file, before)


def test_an_installed_package_works_where_its_notebooks_are(repository, tmp_path, monkeypatch):
    """After plain pip install the package is elsewhere; a kernel starts in notebooks/."""
    assert workspace() == repository

    monkeypatch.setattr(spotlib, "__file__", str(tmp_path / "site-packages/spotlib/__init__.py"))
    monkeypatch.chdir(repository / "notebooks")
    assert workspace() == repository

    monkeypatch.chdir(tmp_path)
    assert workspace() == tmp_path

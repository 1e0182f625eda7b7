"""The table of promises in docs/ is true of the tests."""

import ast
import subprocess
import sys
from collections import Counter

import pytest
from promises import promises, summary


def collected(repository, *options):
    """How many cases each test has."""
    files = sorted({each.file for each in promises().values()})
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--collect-only", "-q", *options, *files],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    return Counter(
        line.partition("[")[0] for line in done.stdout.splitlines() if line.startswith("tests/")
    )


@pytest.mark.parametrize("mode", ["make test", "make chaos"])
def test_each_promise_names_a_test_and_its_number_of_cases(repository, mode):
    options = [] if mode == "make chaos" else ["-m", "not chaos"]
    cases = collected(repository, *options)

    for each in promises().values():
        told = each.chaos if mode == "make chaos" else each.tested
        assert cases[f"{each.file}::{each.test}"] == told[0], each.test


def test_each_test_that_counts_stands_in_the_table(repository):
    """So no count can be told that nobody reads."""
    counting = set()
    for path in (repository / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                counting |= {node.name for each in node.args.args if each.arg == "counted"}

    assert len(counting) > 9
    assert counting <= promises().keys()
    visited = {
        name for name, each in promises().items() if (each.tested[1], each.chaos[1]) != (1, 1)
    }
    assert visited <= counting


def test_the_readme_says_what_the_table_adds_up_to(repository):
    assert summary() in (repository / "README.md").read_text()

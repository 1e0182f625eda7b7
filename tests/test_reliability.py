"""The table of promises in docs/ names tests that exist."""

import ast
import re


def test_every_promise_names_a_test_that_exists(repository):
    table = (repository / "docs" / "reliability.md").read_text()
    promised = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", table)

    assert len(promised) > 50
    for path, name in promised:
        tree = ast.parse((repository / path).read_text())
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, name

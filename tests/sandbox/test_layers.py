"""The modules of the sandbox import only those that come before them."""

import ast
import re
from pathlib import Path

import spotlib.sandbox

FOLDER = Path(spotlib.sandbox.__file__).parent


def imported(path):
    """Names of the sandbox's modules that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spotlib"):
            package, _, module = (node.module or "").partition("spotlib.sandbox.")
            yield from [module] if module else [alias.name for alias in node.names]
            assert package in ("", "spotlib.sandbox"), f"{path.name} imports {node.module}"


def test_imports_point_one_way():
    order = re.findall(r"``(\w+)``", spotlib.sandbox.__doc__)
    assert sorted(order) == sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")
    for place, name in enumerate(order):
        before = set(order[:place])
        assert set(imported(FOLDER / f"{name}.py")) <= before, name

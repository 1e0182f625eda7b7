"""Change one thing in the core at random, run the tests of its room, and list what they missed.

    python tests/mutants.py --count 100 --minutes 30 --seed 1

Each mutant is one small change (a comparison, a sign, a constant, a return, a dropped call) in a
copy of the tree.  A change that no test notices is a survivor.  ``equivalent_mutants.toml`` names,
with the reason, the changes that nobody could notice; they are not drawn.
"""

import argparse
import difflib
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import parso
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import Function, ReturnStmt

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
COPIED = ("spotlib", "tests", "notebooks", "benchmarks", "docs", "pyproject.toml", "README.md")
LEAST_TIMEOUT_S = 60.0

# The tests of each room; those that see most come first, because the first failure ends a run.
ROOMS: dict[str, tuple[str, ...]] = {
    "spotlib/model.py": ("tests/test_model.py", "tests/collect/test_truth.py"),
    "spotlib/ec2": ("tests/ec2", "tests/collect/test_rounds.py", "tests/collect/test_hostile.py"),
    "spotlib/record": (
        "tests/record",
        "tests/collect/test_rounds.py",
        "tests/analyze/test_load.py",
    ),
    "spotlib/cleanup": ("tests/cleanup", "tests/collect/test_rounds.py"),
    "spotlib/collect": ("tests/collect",),
    "spotlib/select/cov.py": ("tests/select/test_cov.py", "tests/select/test_choice.py"),
    "spotlib/analyze/intervals.py": ("tests/analyze",),
    "spotlib/analyze/turnbull.py": ("tests/analyze",),
    "spotlib/forecast": ("tests/forecast",),
}
# What a slip of the hand could do.  One that fails on any number would be noticed too easily.
_COMPARED = "(Eq|NotEq|[LG]tE?)"
_SLIPS = re.compile(
    f"core/(ReplaceComparisonOperator_({_COMPARED}_{_COMPARED}|Is_IsNot|IsNot_Is)"
    "|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul)"
    "|ReplaceUnaryOperator_(USub_UAdd|Delete_Not|Delete_USub)"
    "|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    "|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ZeroIterationForLoop)"
)


@dataclass(frozen=True)
class Mutant:
    """One changed file: where, what stood there, and what stands there now."""

    path: str
    line: int
    code: str
    tests: tuple[str, ...]

    def change(self) -> tuple[str, str]:
        """Return the changed lines before and after, without their indentation."""
        before = (ROOT / self.path).read_text().splitlines()
        lines = list(difflib.ndiff(before, self.code.splitlines()))
        gone = (each[2:].strip() for each in lines if each.startswith("- "))
        come = (each[2:].strip() for each in lines if each.startswith("+ "))
        return " ".join(gone), " ".join(come)


class _ReturnNothing(Operator):
    """Turn ``return value`` into ``return None``."""

    def mutation_positions(self, node):
        if isinstance(node, ReturnStmt) and node.children[1].get_code().strip() != "None":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):  # noqa: ARG002 - one change for each node
        node.children[1:] = [parso.parse(" None")]
        return node

    @classmethod
    def examples(cls):
        return ()


class _DropCall(Operator):
    """Turn a call whose value is not used into ``None``."""

    def mutation_positions(self, node):
        alone = node.parent is not None and node.parent.type == "simple_stmt"
        if alone and node.type == "atom_expr" and node.get_last_leaf() == ")":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):  # noqa: ARG002 - one change for each node
        return parso.parse(f"{node.get_first_leaf().prefix}None")

    @classmethod
    def examples(cls):
        return ()


class _NumberPlusOne(Operator):
    """Turn a number into the next one."""

    def mutation_positions(self, node):
        if node.type == "number":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):  # noqa: ARG002 - one change for each node
        node.value = f"({node.value} + 1)"
        return node

    @classmethod
    def examples(cls):
        return ()


def _operators() -> list[Operator]:
    kept = [get_operator(name)() for name in operator_names() if _SLIPS.fullmatch(name)]
    return [*kept, _ReturnNothing(), _DropCall(), _NumberPlusOne()]


def _does_nothing(node) -> bool:
    """Whether a node is part of an annotation or a decorator: no rule stands there."""
    child, parent = node, node.parent
    while parent is not None:
        if parent.type == "decorator":
            return True
        if parent.type == "annassign" and parent.children[1] is child:
            return True
        if parent.type == "tfpdef" and parent.children[-1] is child:
            return True
        if isinstance(parent, Function) and parent.annotation is child:
            return True
        child, parent = parent, parent.parent
    return False


def possible(path: str) -> dict[tuple, list[tuple[Operator, int]]]:
    """Return, for each place in a file, the changes that can be made there."""
    tree = parso.parse((ROOT / path).read_text())
    places: dict[tuple, list[tuple[Operator, int]]] = {}
    for operator in _operators():
        occurrence = 0
        for node in ast_nodes(tree):
            for start, end in operator.mutation_positions(node):
                if not _does_nothing(node):
                    places.setdefault((path, start, end), []).append((operator, occurrence))
                occurrence += 1
    return places


def draw(count: int, seed: int, rooms: Iterable[str]) -> Iterator[Mutant]:
    """Yield random mutants, at most one for each place in the code."""
    places: dict[tuple, list[tuple[Operator, int]]] = {}
    tests: dict[str, tuple[str, ...]] = {}
    for room in rooms:
        for file in sorted([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py")):
            path = str(file.relative_to(ROOT))
            places |= possible(path)
            tests[path] = ROOMS[room]
    known = {
        (each["file"], each["before"], each["after"])
        for each in tomllib.loads(EQUIVALENT.read_text())["mutant"]
    }
    rng = random.Random(seed)
    drawn = 0
    for place in rng.sample(sorted(places), len(places)):
        if drawn == count:
            return
        path, (line, _), _ = place
        operator, occurrence = rng.choice(places[place])
        code = mutate_code((ROOT / path).read_text(), operator, occurrence)
        mutant = Mutant(path, line, code, tests[path])
        if code and (path, *mutant.change()) not in known and mutant.change()[0]:
            drawn += 1
            yield mutant


class Copies:
    """Copies of the tree, one per worker, and how long each room's tests take unchanged."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._usual_s: dict[tuple[str, ...], float] = {}
        for number in range(workers):
            copy = folder / str(number)
            for name in COPIED:
                kind = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
                copy.mkdir(exist_ok=True)
                kind(ROOT / name, copy / name)
            self._free.put(copy)

    def time_unchanged(self, tests: tuple[str, ...]) -> None:
        """Run a room's tests as they are: they must pass, and show how long they take."""
        copy = self._free.get()
        began_s = time.monotonic()
        if not _passes(copy, tests, timeout_s=3600.0):
            sys.exit(f"these tests fail without any change: {' '.join(tests)}")
        self._usual_s[tests] = time.monotonic() - began_s
        self._free.put(copy)

    def survives(self, mutant: Mutant) -> bool:
        """Whether the tests of its room pass with the change; hanging counts as noticed."""
        copy = self._free.get()
        try:
            (copy / mutant.path).write_text(mutant.code)
            limit_s = LEAST_TIMEOUT_S + 5 * self._usual_s[mutant.tests]
            return _passes(copy, mutant.tests, timeout_s=limit_s)
        finally:
            shutil.copy2(ROOT / mutant.path, copy / mutant.path)
            self._free.put(copy)


def _passes(copy: Path, tests: tuple[str, ...], *, timeout_s: float) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [*command, "-p", "no:randomly", *tests],
        cwd=copy,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(timeout_s) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="how many mutants to draw")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no mutant after this")
    parser.add_argument("--seed", type=int, help="of the draw; printed if it is drawn itself")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rooms", nargs="*", default=list(ROOMS), choices=list(ROOMS))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10_000) if given.seed is None else given.seed
    mutants = list(draw(given.count, seed, given.rooms))
    print(f"seed {seed}: {len(mutants)} mutants, at most {given.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.workers) as workers:
        copies = Copies(Path(folder), given.workers)
        list(workers.map(copies.time_unchanged, sorted({each.tests for each in mutants})))
        end_s = time.monotonic() + 60 * given.minutes

        def survived(mutant: Mutant) -> bool | None:
            return copies.survives(mutant) if time.monotonic() < end_s else None

        results = []
        for mutant, result in zip(mutants, workers.map(survived, mutants), strict=True):
            results.append(result)
            if result:
                before, after = mutant.change()
                print(f"{mutant.path}:{mutant.line}\n  - {before}\n  + {after}", flush=True)
    tried = [each for each in results if each is not None]
    noticed = tried.count(False)
    print(f"{noticed} of {len(tried)} noticed ({noticed / max(len(tried), 1):.1%}), seed {seed}")
    print(
        f"not tried, for want of time: {len(results) - len(tried)}"
        if len(tried) < len(results)
        else ""
    )


if __name__ == "__main__":
    main()

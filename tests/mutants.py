"""Change one thing in the core at random, run the tests that reach it, and list what they missed.

    python tests/mutants.py --count 100 --minutes 30 --seed 1
    python tests/mutants.py --only spotlib/track.py:190 --tests tests/test_track.py

A mutant is one small change: a comparison, a sign, a number, a condition, a value that is not
returned, a call that is not made.  First every quick test of the rooms is run once, to learn which
lines it reaches and how long it takes.  Then each mutant is run against the tests of its room that
reach its line, quickest first, until one fails.  A mutant that no test notices is a survivor, and
so is one in a line that no quick test reaches.  ``equivalent_mutants.toml`` names, with the
reason, the changes that nobody could notice; they are not drawn.
"""

import argparse
import functools
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import time
import tomllib
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import coverage
import parso
import pytest
from cosmic_ray.ast import ast_nodes
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from parso.python.tree import ReturnStmt

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "results", "spot_dataset")
# What takes long to import and is no part of this project: loaded once, before the forks.
LIBRARIES = ("boto3", "matplotlib.pyplot", "moto.ec2", "moto.ssm", "nbformat")
LIBRARIES += ("pandas", "papermill", "pyarrow.parquet", "scipy.stats", "seaborn")
TESTS_S = 60.0  # of tests for each mutant, as they take without a change
LEAST_LIMIT_S = 20.0
FILE_LIMIT_S = 900.0
BROKEN = 99  # the exit code of a child that could not run pytest

# The tests of each room.
ROOMS: dict[str, tuple[str, ...]] = {
    "spotlib/model.py": (
        "tests/test_model.py",
        "tests/collect/test_parameters.py",
        "tests/collect/test_rounds.py",
    ),
    "spotlib/track.py": (
        "tests/test_track.py",
        "tests/collect/test_rounds.py",
        "tests/collect/test_truth.py",
        "tests/record/test_tables.py",
    ),
    "spotlib/ec2": ("tests/ec2", "tests/collect", "tests/cleanup", "tests/test_spending.py"),
    "spotlib/record": ("tests/record", "tests/collect", "tests/analyze/test_load.py"),
    "spotlib/cleanup": ("tests/cleanup", "tests/collect"),
    "spotlib/collect": ("tests/collect", "tests/cleanup/test_close.py"),
    "spotlib/select/cov.py": ("tests/select/test_cov.py", "tests/select/test_choice.py"),
    "spotlib/analyze/intervals.py": ("tests/analyze",),
    "spotlib/analyze/curve.py": ("tests/analyze",),
    "spotlib/analyze/turnbull.py": ("tests/analyze",),
    "spotlib/forecast": ("tests/forecast",),
}
# What a slip of the hand could do; what fails whatever is computed would be noticed too easily.
_COMPARED = "(Eq|NotEq|[LG]tE?)"
_SLIPS = re.compile(
    f"core/(ReplaceComparisonOperator_({_COMPARED}_{_COMPARED}|Is_IsNot|IsNot_Is)"
    "|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul)"
    "|ReplaceUnaryOperator_(USub_UAdd|Delete_Not|Delete_USub)"
    "|AddNot|NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr"
    "|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ZeroIterationForLoop)"
)
_NOTHING = ("None", "False")


class _ReturnNothing(Operator):
    """Turn ``return value`` into ``return None``."""

    def mutation_positions(self, node):
        if isinstance(node, ReturnStmt) and node.children[1].get_code().strip() not in _NOTHING:
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


@dataclass(frozen=True)
class Place:
    """Where a change can be made; what is not in a function is run by the import, as a whole."""

    path: str
    start: tuple[int, int]
    end: tuple[int, int]
    lines: range | None  # from the beginning of the statement on


@dataclass(frozen=True)
class Mutant:
    """One changed file, as a whole text."""

    room: str
    place: Place
    code: str

    @property
    def path(self) -> str:
        return self.place.path

    def change(self) -> tuple[str, str]:
        """Return the changed lines before and after, without their indentation."""
        return _changed_lines((ROOT / self.path).read_text(), self.code)


def _changed_lines(old: str, new: str) -> tuple[str, str]:
    before, after = old.splitlines(), new.splitlines()
    while before and after and before[0] == after[0]:
        before, after = before[1:], after[1:]
    while before and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    return " ".join(map(str.strip, before)), " ".join(map(str.strip, after))


def _is_no_rule(node: Any) -> bool:
    """Whether a node is part of an annotation, of a decorator or of the head of a class."""
    child, parent = node, node.parent
    while parent is not None:
        kind = parent.type
        if kind == "decorator" or (kind == "annassign" and parent.children[1] is child):
            return True
        if kind == "classdef" and parent.children[-1] is not child:
            return True
        if kind == "argument" and parent.children[0].get_code().strip() == "strict":
            return True  # of zip: it only guards what holds anyway
        if kind in {"parameters", "lambdef"} and node.type == "operator":
            return True
        if kind == "tfpdef" or (kind == "funcdef" and parent.annotation is child):
            return True
        child, parent = parent, parent.parent
    return False


def _lines_to(node: Any, line: int) -> range | None:
    """Return the lines from the beginning of a node's statement to this line, in a function."""
    begin = None
    child, parent = node, node.parent
    while parent is not None:
        if begin is None and re.search("(_stmt|def)$", child.type):
            begin = child.start_pos[0]
        if parent.type == "funcdef" and parent.children[-1] is child:
            return range(min(begin or line, line), line + 1)
        child, parent = parent, parent.parent
    return None


@functools.cache
def possible(path: str) -> dict[Place, list[tuple[Operator, int]]]:
    """Return, for each place in a file, the changes that can be made there."""
    return _possible((ROOT / path).read_text(), path)


def _possible(code: str, path: str) -> dict[Place, list[tuple[Operator, int]]]:
    operators = [get_operator(name)() for name in operator_names() if _SLIPS.fullmatch(name)]
    operators += [_ReturnNothing(), _DropCall()]
    seen = [0] * len(operators)
    places = defaultdict(list)
    for node in ast_nodes(parso.parse(code)):
        if node.type in {"name", "string", "newline"}:
            continue
        for number, operator in enumerate(operators):
            for start, end in operator.mutation_positions(node):
                if not _is_no_rule(node):
                    place = Place(path, start, end, _lines_to(node, start[0]))
                    places[place].append((operator, seen[number]))
                seen[number] += 1
    return places


def _places(rooms: Iterable[str]) -> list[Place]:
    """Return each place of these rooms, in the order of the code."""
    found: list[Place] = []
    for room in rooms:
        for file in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
            found += possible(str(file.relative_to(ROOT)))
    return sorted(found, key=lambda each: (each.path, each.start, each.end))


@functools.cache
def _equivalent() -> set[tuple[str, ...]]:
    """Return file and line before and after; only the line before if no change of it matters."""
    named = tomllib.loads(EQUIVALENT.read_text())["mutant"]
    return {
        tuple(each[name] for name in ("file", "before", "after") if name in each) for each in named
    }


def _mutants(place: Place, changes: Iterable[tuple[Operator, int]]) -> Iterator[Mutant]:
    """Yield these changes of a place, but those that nobody could notice."""
    room = next(each for each in ROOMS if Path(place.path).is_relative_to(each))
    for operator, occurrence in changes:
        code = mutate_code((ROOT / place.path).read_text(), operator, occurrence)
        mutant = Mutant(room, place, code)
        before, after = mutant.change()
        names = (place.path, before), (place.path, before, after)
        if before != after and _equivalent().isdisjoint(names):
            yield mutant


def draw(count: int, seed: int, rooms: Iterable[str]) -> Iterator[Mutant]:
    """Yield random mutants, at most one for each place in the code."""
    rng, places = random.Random(seed), _places(rooms)
    found = (
        mutant
        for place in rng.sample(places, len(places))
        for mutant in _mutants(place, [rng.choice(possible(place.path)[place])])
    )
    return itertools.islice(found, count)


def every(lines: Iterable[str]) -> Iterator[Mutant]:
    """Yield every mutant of these lines, each FILE:LINE."""
    for line in lines:
        path, _, number = line.partition(":")
        for place, changes in possible(path).items():
            if place.start[0] == int(number):
                yield from _mutants(place, changes)


def become(path: str, line: str) -> set[str]:
    """Return what the changes make of the lines of a file that read so, as the list names them.

    Each function is parsed by itself, which is much quicker than the whole.
    """
    return {
        after
        for code in _statements(path)
        if line in map(str.strip, code.splitlines())
        for after in _become(code, line)
    }


@functools.cache
def _statements(path: str) -> list[str]:
    """Return the statements of a file, and of its classes those within."""
    found = []
    for node in parso.parse((ROOT / path).read_text()).children:
        inner = node.children[-1] if node.type == "decorated" else node
        parts = inner.children[-1].children if inner.type == "classdef" else [node]
        found += [textwrap.dedent(each.get_code()) for each in parts]
    return found


def _become(code: str, line: str) -> Iterator[str]:
    lines = code.splitlines()
    for place, changes in _possible(code, "").items():
        if lines[place.start[0] - 1].strip() == line:
            for operator, occurrence in changes:
                before, after = _changed_lines(code, mutate_code(code, operator, occurrence))
                if before == line:
                    yield after


# Children: each works in a copy of the tree, with the libraries loaded already.


def forked(
    work: Callable[[Any, Path], int],
    jobs: Iterable[Any],
    copies: Iterable[Path],
    limit_s: Callable[[Any], float],
) -> Iterator[tuple[Any, Path, int | None]]:
    """Do each job in a forked child; yield it with its exit code, or None after its time."""
    free, waiting = list(copies), iter(jobs)
    running: dict[int, tuple[Any, Path, float]] = {}
    while True:
        while free and (job := next(waiting, None)) is not None:
            copy = free.pop()
            running[_fork(work, job, copy)] = job, copy, time.monotonic() + limit_s(job)
        if not running:
            return
        time.sleep(0.02)
        for process, (job, copy, end_s) in list(running.items()):
            done, status = os.waitpid(process, os.WNOHANG)
            if not done and time.monotonic() < end_s:
                continue
            with suppress(ProcessLookupError):  # also what it started and left
                os.killpg(process, signal.SIGKILL)
            if not done:
                os.waitpid(process, 0)
            del running[process]
            yield job, copy, os.waitstatus_to_exitcode(status) if done else None
            free.append(copy)


def _fork(work: Callable[[Any, Path], int], job: Any, copy: Path) -> int:
    process = os.fork()
    with suppress(OSError):  # both do it: the first of them is in time
        os.setpgid(process, process)
    if process:
        return process
    with Path(f"{copy}.txt").open("w") as said:
        for number in (1, 2):
            os.dup2(said.fileno(), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[0] = str(copy)  # instead of the folder of this file
    code = BROKEN
    try:
        code = work(job, copy)
    except BaseException:  # noqa: BLE001 - a child never returns into the loop of its parent
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def _pytest(copy: Path, tests: Iterable[str], plugin: object, *options: str) -> int:
    given = ["-q", "-o", "addopts=", "--basetemp", f"{copy}.tmp", *options]
    for name in ("cacheprovider", "randomly", "xdist"):
        given += ["-p", f"no:{name}"]
    return int(pytest.main([*given, *tests], plugins=[plugin]))


# Which test reaches which line.


class _Reach:
    """Notes how long each quick test takes and which lines it reaches."""

    def __init__(self, copy: Path) -> None:
        self._copy = copy
        self._coverage = coverage.Coverage(
            data_file=None,
            config_file=False,
            source=[str(copy / "spotlib")],
            omit=[str(copy / "spotlib/sandbox/*")],  # most of the work, and in no room
        )
        self._users: dict[str, list[str]] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._coverage.start()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [one for one in items if "_programs_end_with_the_test" not in one.fixturenames]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration if report.passed else float("inf")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Iterator[None]:
        """What several tests share is reached by each of them."""
        if fixturedef.scope == "function":
            return (yield)
        name = f"{fixturedef.baseid} {fixturedef.argname}"
        self._users[name] = [
            one.nodeid for one in request.session.items if fixturedef.argname in one.fixturenames
        ]
        self._coverage.switch_context(name)
        try:
            return (yield)
        finally:
            self._coverage.switch_context(request._pyfuncitem.nodeid)

    def write(self, path: Path) -> None:
        """Write the seconds of each test that passed, and the tests that reach each line."""
        self._coverage.stop()
        data, files = self._coverage.get_data(), {}
        for file in data.measured_files():
            lines = data.contexts_by_lineno(file).items()
            files[str(Path(file).relative_to(self._copy))] = {
                line: sorted({test for name in names for test in self._users.get(name, [name])})
                for line, names in lines
            }
        seconds = {test: each for test, each in self._seconds.items() if each < float("inf")}
        path.write_text(json.dumps({"seconds": seconds, "files": files}))


def _reach(file: str, copy: Path) -> int:
    reach = _Reach(copy)
    code = _pytest(copy, [file], reach)
    reach.write(Path(f"{copy}.json"))
    return code


class Map:
    """The tests that reach each line, and their seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._tests: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        self._by_import: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))

    def add(self, found: dict[str, Any]) -> None:
        """Add what the tests of one file reach."""
        self.seconds |= found["seconds"]
        for path, lines in found["files"].items():
            for line, tests in lines.items():
                self._tests[path][int(line)] |= self.seconds.keys() & tests
                if "" in tests:
                    self._by_import[path][int(line)] |= found["seconds"].keys()

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests of its room that reach a mutant: first the files that are done soonest.

        A file's tests stay together, because some share what takes long to set up.  What the import
        runs, and no test does, is reached by whatever imports it: a constant may be used elsewhere.
        """
        lines, by_import = self._tests[mutant.path], self._by_import[mutant.path]
        near = lines if mutant.place.lines is None else mutant.place.lines
        reached = {test for line in near for test in lines.get(line, ())}
        groups = [reached]
        if mutant.place.lines is None or not reached:
            groups.append({test for line in near for test in by_import.get(line, ())} - reached)
        file_s: dict[str, float] = defaultdict(float)
        chosen = [test for group in groups for test in self._quickest(group, ROOMS[mutant.room])]
        for test in chosen:
            file_s[_file(test)] += self.seconds[test]
        return sorted(chosen, key=lambda test: (file_s[_file(test)], _file(test)))

    def _quickest(self, tests: Iterable[str], rooms: tuple[str, ...]) -> list[str]:
        """Return the tests in these rooms that take least, as many as there is time for."""
        mine = sorted((test for test in tests if test.startswith(rooms)), key=self.seconds.get)
        total_s = itertools.accumulate(self.seconds[test] for test in mine)
        return [test for test, so_far_s in zip(mine, total_s, strict=True) if so_far_s < TESTS_S]


def _file(test: str) -> str:
    return test.partition("::")[0]


class _Chosen:
    """Runs only these tests, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._place = {test: number for number, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [one for one in items if one.nodeid in self._place]
        items.sort(key=lambda one: self._place[one.nodeid])


def _try(job: tuple[Mutant, list[str]], copy: Path) -> int:
    mutant, tests = job
    sys.dont_write_bytecode = True  # what was written without a change serves all
    (copy / mutant.path).write_text(mutant.code)
    return _pytest(copy, sorted(set(map(_file, tests))), _Chosen(tests), "-x")


def map_of(parts: Iterable[str], copies: list[Path]) -> Map:
    """Run every quick test of these files and folders once."""
    files = {
        str(file.relative_to(ROOT))
        for part in set(parts)
        for file in ((ROOT / part).glob("test_*.py") if (ROOT / part).is_dir() else [ROOT / part])
    }
    found = Map()
    for file, copy, code in forked(_reach, sorted(files), copies, lambda _: FILE_LIMIT_S):
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            print(f"{file} fails without any change: what fails there is not used", flush=True)
        if code in tuple(pytest.ExitCode):
            found.add(json.loads(Path(f"{copy}.json").read_text()))
    print(f"{len(found.seconds)} tests take {sum(found.seconds.values()):.0f} s", flush=True)
    return found


def noticed(mutants: Iterable[Mutant], known: Map, copies: list[Path]) -> Iterator[bool]:
    """Yield whether each mutant was noticed; print those that were not."""

    def reached() -> Iterator[tuple[Mutant, list[str]]]:
        for mutant in mutants:
            if tests := known.tests(mutant):
                yield mutant, tests
            else:
                unreached.append(mutant)

    def limit_s(job: tuple[Mutant, list[str]]) -> float:
        return LEAST_LIMIT_S + 4 * sum(known.seconds[test] for test in job[1])

    unreached: list[Mutant] = []
    for (mutant, tests), copy, code in forked(_try, reached(), copies, limit_s):
        shutil.copy2(ROOT / mutant.path, copy / mutant.path)
        if code == pytest.ExitCode.OK:
            _print(mutant, f"{len(tests)} tests pass")
        yield code != pytest.ExitCode.OK
    for mutant in unreached:
        _print(mutant, "no quick test reaches it")
        yield False


def _print(mutant: Mutant, why: str) -> None:
    before, after = mutant.change()
    print(f"{mutant.path}:{mutant.place.start[0]}: {why}\n  - {before}\n  + {after}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="how many mutants to draw")
    parser.add_argument("--minutes", type=float, default=30.0, help="start no mutant after this")
    parser.add_argument("--seed", type=int, nargs="+", help="one draw for each; else one at random")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS), choices=list(ROOMS))
    parser.add_argument(
        "--only", nargs="+", metavar="FILE:LINE", help="every change of these lines, and no other"
    )
    parser.add_argument("--tests", nargs="+", help="run only these files and folders of tests")
    given = parser.parse_args()
    end_s = time.monotonic() + 60 * given.minutes
    if given.only:
        draws = {"every change": list(every(given.only))}
    else:
        seeds = given.seed or [random.SystemRandom().randrange(10_000)]
        draws = {f"seed {seed}": list(draw(given.count, seed, given.rooms)) for seed in seeds}
    counts = ", ".join(f"{name}: {len(mutants)} mutants" for name, mutants in draws.items())
    print(f"{counts}, none begun after {given.minutes:g} minutes", flush=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
    for name in LIBRARIES:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / str(number) for number in range(given.workers)]
        for copy in copies:
            shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        rooms = {mutant.room for each in draws.values() for mutant in each}
        known = map_of(given.tests or [part for room in rooms for part in ROOMS[room]], copies)
        for name, mutants in draws.items():
            began_s = time.monotonic()
            in_time = (each for each in mutants if time.monotonic() < end_s)
            found = list(noticed(in_time, known, copies))
            share = sum(found) / max(len(found), 1)
            each_s = (time.monotonic() - began_s) / max(len(found), 1)
            print(
                f"{name}: {sum(found)} of {len(found)} noticed ({share:.1%}), {each_s:.1f} s each"
            )
            if len(found) < len(mutants):
                print(f"{len(mutants) - len(found)} were not tried: the time was over", flush=True)


if __name__ == "__main__":
    main()

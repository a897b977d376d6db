"""Which tests a grade runs, and the canaries that it plants among them.

A canary is a test of a random name whose end is known: one fails by an assertion, one by another exception,
one passes. Code that turns failures into passes turns those of the canaries too.
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .instances import Environment, Instance
from .resolution import Status

PYTEST = (
    """
def {fails}():
    found = {left} + {right}
    assert found == {wrong}
""",
    """
def {passes}():
    found = {left} + {right}
    assert found == {sum}
""",
    """
def {breaks}():
    found = [{left}, {right}][{index}]
    assert found
""",
)
CASE = """import unittest


class {case}(unittest.TestCase):
"""
UNITTEST = (
    """    def {fails}(self):
        self.assertEqual({left} + {right}, {wrong})
""",
    """    def {passes}(self):
        self.assertEqual({left} + {right}, {sum})
""",
    """    def {breaks}(self):
        self.assertTrue([{left}, {right}][{index}])
""",
)
SHORT = ("-c", "-k", "-m", "-o", "-p", "-r", "-n", "-W")
LONG = ("rootdir", "confcutdir", "ignore", "ignore-glob", "deselect", "import-mode", "override-ini", "tb")
WITH_VALUE = frozenset((*SHORT, *(f"--{name}" for name in LONG)))
"""Options of pytest that are followed by a value of their own, which is no path to run."""
STOPPING = re.compile(r"-x|--exitfirst|--maxfail(=.*)?|-f|--failfast")
"""Options that would end the run at a canary."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run of tests.

    Attributes:
        command: the runner and its arguments, canaries named last.
        paths: folders of the tree that go on `sys.path`.
        file: the canaries' path in the tree.
        text: their content.
        expected: canary's id -> how it must end.
        files: paths of the real tests that run.
    """

    command: tuple[str, ...]
    paths: tuple[str, ...]
    file: str
    text: str
    expected: Mapping[str, Status]
    files: tuple[str, ...]


def plan(instance: Instance, env: Environment, tree: Path, touched: Iterable[str]) -> Plan:
    """The run of the test files that the fix's author touched and of those that the lists name.

    Args:
        tree: where those files already are as they are to be run.
        touched: paths that `test_patch` touches.
    """
    listed = _listed(instance)
    files = [path for path in touched if is_test(path) and path.endswith(".py")]
    if env.test_command[0] == "pytest":
        return _pytest(env, tree, listed, files)
    return _unittest(env, tree, listed, files)


def named_files(instance: Instance, env: Environment, tree: Path) -> tuple[str, ...]:
    """Paths of the test files that the instance's lists name, as far as the tree has them."""
    if env.test_command[0] == "pytest":
        return tuple(dict.fromkeys(test.partition("::")[0] for test in _listed(instance)))
    _, _, top = _unittest_options(env.test_command[1:])
    return tuple(_modules(_listed(instance), _paths(env, top), tree).values())


def _listed(instance: Instance) -> tuple[str, ...]:
    return (*instance.fail_to_pass, *instance.pass_to_pass)


def is_test(path: str) -> bool:
    """Whether a file is a test by its name."""
    stem = PurePosixPath(path).name.split(".")[0]
    return stem in ("test", "tests") or stem.startswith("test_") or stem.endswith("_test")


def lies(expected: Mapping[str, Status], seen: Mapping[str, Status]) -> list[str]:
    """Canaries whose reported end cannot be true.

    One that is missing or an ERROR is no lie: code that is merely broken may keep it from running.
    """
    return [
        name for name, status in expected.items() if name in seen and seen[name] not in (status, Status.ERROR)
    ]


def _words(listed: Iterable[str]) -> dict[str, str]:
    """Names and numbers of a set of canaries; the names begin as a real test's does."""
    found = (test.partition("[")[0] for test in listed if not _doctest(test))
    last = re.split(r"::|\.", next(found, "test"))[-1]
    stem = last[:40] if last.isidentifier() else "test"
    left, right = random.SystemRandom().sample(range(10, 99), 2)
    numbers = {"left": left, "right": right, "sum": left + right, "wrong": left + right + right % 7 + 1}
    names = {kind: f"{stem}_{secrets.token_hex(4)}" for kind in ("fails", "passes", "breaks")}
    return {**names, **{name: str(value) for name, value in numbers.items()}, "index": str(2 + right % 5)}


def _doctest(test: str) -> bool:
    """Whether an id of pytest's is that of a doctest: no function could be collected by its name."""
    file, _, name = test.partition("[")[0].rpartition("::")
    return bool(file) and ("." in name or name == PurePosixPath(file).stem)


def _shuffled(tests: tuple[str, ...], words: Mapping[str, str]) -> str:
    parts = [text.format(**words) for text in tests]
    random.SystemRandom().shuffle(parts)
    return "\n".join(parts).lstrip("\n")


def _pytest(env: Environment, tree: Path, listed: tuple[str, ...], touched: list[str]) -> Plan:
    named = dict.fromkeys([*(test.partition("::")[0] for test in listed), *touched])
    files = [path for path in named if (tree / path).is_file()]
    options, given = _split(env.test_command[1:])
    place = PurePosixPath(files[0]) if files else PurePosixPath("test_all.py")
    # as long as the name of a real one, in its folder: the same conftest files and the same package
    file = str(place.with_name(f"test_{place.stem.removeprefix('test_')[:60]}_{secrets.token_hex(4)}.py"))
    words = _words(listed)
    ends = {"fails": Status.FAILED, "breaks": Status.FAILED, "passes": Status.PASSED}
    chosen = [
        f"({text}) or {words['fails']} or {words['breaks']} or {words['passes']}" for text in given["-k"]
    ]
    options += [part for text in chosen for part in ("-k", text)]
    command = (
        "pytest",
        *options,
        "--continue-on-collection-errors",
        *(files or given["paths"] or ["."]),
        file,
    )
    expected = {f"{file}::{words[kind]}": status for kind, status in ends.items()}
    return Plan(command, env.python_path, file, _shuffled(PYTEST, words), expected, tuple(files))


def _split(arguments: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Options to keep; the values of `-k` and what is no option."""
    options: list[str] = []
    given: dict[str, list[str]] = {"-k": [], "paths": []}
    todo = list(arguments)
    while todo:
        word = todo.pop(0)
        if STOPPING.fullmatch(word):
            if word == "--maxfail" and todo:
                todo.pop(0)
        elif word == "-k" and todo:
            given["-k"].append(todo.pop(0))
        elif word in WITH_VALUE and todo:
            options += [word, todo.pop(0)]
        else:
            (options if word.startswith("-") else given["paths"]).append(word)
    return options, given


def _unittest(env: Environment, tree: Path, listed: tuple[str, ...], touched: list[str]) -> Plan:
    options, patterns, top = _unittest_options(env.test_command[1:])
    paths = _paths(env, top)
    modules = _modules(listed, paths, tree)
    for file in touched:
        for path in paths:
            if (tree / file).is_file() and PurePosixPath(file).is_relative_to(path):
                inner = PurePosixPath(file).relative_to(path).with_suffix("")
                modules.setdefault(".".join(inner.parts), file)
                break
    name, place = next(iter(modules.items()), ("test_all", str(PurePosixPath(paths[0]) / "test_all.py")))
    package, _, stem = name.rpartition(".")
    own = f"test_{stem.removeprefix('test_')[:60]}_{secrets.token_hex(4)}"
    dotted = f"{package}.{own}" if package else own
    file = str(PurePosixPath(place).with_name(f"{own}.py"))
    words = {**_words(listed), "case": f"Test{secrets.token_hex(3)}"}
    ends = {"fails": Status.FAILED, "breaks": Status.ERROR, "passes": Status.PASSED}
    kept = [part for text in [*patterns, *([words["case"]] if patterns else [])] for part in ("-k", text)]
    expected = {f"{dotted}.{words['case']}.{words[kind]}": status for kind, status in ends.items()}
    command = ("unittest", *options, *kept, *modules, dotted)
    text = CASE.format(**words) + _shuffled(UNITTEST, words)
    return Plan(command, paths, file, text, expected, tuple(modules.values()))


def _unittest_options(arguments: tuple[str, ...]) -> tuple[list[str], list[str], str | None]:
    """Flags to keep, the patterns of `-k`, and the folder on `sys.path` that `discover` would use."""
    names = {"-s": "start", "--start-directory": "start", "-t": "top", "--top-level-directory": "top"}
    names |= {"-p": "pattern", "--pattern": "pattern", "-k": "-k"}
    found: dict[str, list[str]] = {}
    flags: list[str] = []
    loose: list[str] = []
    todo = list(arguments)
    while todo:
        word, _, value = todo.pop(0).partition("=")
        if word in names:
            found.setdefault(names[word], []).append(value or (todo.pop(0) if todo else ""))
        elif word.startswith("-"):
            flags += [] if STOPPING.fullmatch(word) else [word]
        else:
            loose.append(word)
    if loose[:1] != ["discover"]:
        return flags, found.get("-k", []), None
    start = [*found.get("start", []), *loose[1:2], "."][0]
    return flags, found.get("-k", []), [*found.get("top", []), *loose[3:4], start][0]


def _paths(env: Environment, top: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*([] if top is None else [top]), *env.python_path]))


def _modules(listed: Iterable[str], paths: Iterable[str], tree: Path) -> dict[str, str]:
    """Names of the modules that ids begin with, and their files."""
    found: dict[str, str] = {}
    for test in listed:
        for path in paths:
            if pair := _module(test, path, tree):
                found.setdefault(*pair)
                break
    return found


def _module(test: str, path: str, tree: Path) -> tuple[str, str] | None:
    """The module in a test's id and its file, looked for below a folder of the tree."""
    parts = test.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for number in range(len(parts) - 1, 0, -1):
        stem = PurePosixPath(path, *parts[:number])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (tree / file).is_file():
                return ".".join(parts[:number]), file
    return None

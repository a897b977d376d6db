"""What keeps a patch from grading itself: the files that it may not change are put back.

Put back are the tests, what configures the runner, what Python runs at its start, and compiled files that it
would run in place of any of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from .canaries import is_test
from .results import LARGEST, regular

CONFIGURATION = frozenset(
    ("pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml")
)
STEMS = frozenset(("conftest", "sitecustomize", "usercustomize"))
"""Modules that are loaded unasked; also as a package, compiled, or as an extension."""
COMPILED = (".pyc", ".pyo", ".pth", ".egg-link")
TEST_ROOTS = frozenset(("test", "testing", "e2e"))
"""At the tree's root these folders hold tests; deeper ones may be code (`django/test`)."""


def guarded(path: str, tests: Iterable[str]) -> bool:
    """Whether a patch's file is put back.

    Args:
        tests: files that `test_patch` touches or the instance's lists name, tests whatever they are called.
    """
    parts = PurePosixPath(path).parts
    name = parts[-1]
    if name in CONFIGURATION or name.endswith(COMPILED) or "__pycache__" in parts:
        return True
    if parts[0] in TEST_ROOTS and len(parts) > 1:
        return True
    if is_test(name) or any(part.split(".")[0] in STEMS for part in parts):
        return True
    # the package test_a/ is imported before the module test_a.py
    if any(part == "tests" or part.startswith("test_") or part.endswith("_test") for part in parts[:-1]):
        return True
    return any(_in_place_of(path, test) for test in tests)


def _in_place_of(path: str, test: str) -> bool:
    """Whether a file is the test, or what Python might import instead: a package, an extension."""
    module = test.removesuffix(".py")
    return path == test or path.startswith((f"{module}/", f"{module}."))


def put(tree: Path, path: str, source: Path | None) -> None:
    """Make `path` in the tree what it is in another one; gone if `source` is None or not there.

    Links and files that stand where a folder must be are removed, never followed.
    """
    # a folder is put back with each of its files
    there = source is not None and (source.is_symlink() or source.is_file())
    place = tree
    for part in PurePosixPath(path).parts[:-1]:
        place = place / part
        if place.is_symlink() or not place.is_dir():
            if not there:
                return  # nothing can lie behind it
            if os.path.lexists(place):
                place.unlink()
            place.mkdir()
    target = tree / path
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif os.path.lexists(target):
        target.unlink()
    if source is not None and there:
        shutil.copy2(source, target, follow_symlinks=False)


def content(path: Path) -> bytes | None:
    """What a file holds; None if it is gone, or no file any more."""
    try:
        return regular(path, LARGEST)
    except OSError:
        return None

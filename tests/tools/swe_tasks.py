"""The shipped software tasks as the tests of grading use them, and patches made by editing their trees."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from example_scripts import script

from sparring.tools.sandbox import Sandbox
from sparring.tools.sandbox.inside import landlock
from sparring.tools.swe.grading import Grade, Grader
from sparring.tools.swe.instances import Instance, load_instances
from sparring.tools.swe.sources import checkout, git

build = script("swe/build.py")
NAMES: list[str] = build.names()


def opened() -> Sandbox:
    """The quickest mechanism that needs nothing installed."""
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    return Sandbox.open("landlock")


@cache
def _bundles() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sparring-test-"))
    import atexit

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def task(name: str) -> Instance:
    """A shipped instance, its bundle built on first use."""
    build.build(name, _bundles())
    rows = {one.id: one for one in load_instances(build.HERE / "instances.jsonl")}
    return dataclasses.replace(rows[f"sparring__{name}-1"], source=_bundles() / f"{name}.bundle")


def edited(instance: Instance, edits: Mapping[str, str | bytes | Path | None], *, gold: bool = False) -> str:
    """The patch that makes files what is given: text, bytes, a link to a path, or gone.

    A text that begins with `...` is put at the end of the file that is there.
    """
    with tempfile.TemporaryDirectory() as folder:
        tree = checkout(instance, Path(folder) / "tree")
        if gold:
            git(tree, "apply", "-", data=instance.patch.encode())
        for name, value in edits.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if value is None:
                path.unlink()
            elif isinstance(value, Path):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                path.unlink(missing_ok=True)
                os.symlink(value, path)
            elif isinstance(value, str) and value.startswith("..."):
                path.write_text(path.read_text("utf-8") + value[3:], "utf-8")
            else:
                path.write_bytes(value.encode() if isinstance(value, str) else value)
        git(tree, "add", "--all", "--force")
        return git(tree, "diff", "--cached", "--binary")


EVERYWHERE = """
for _name, _value in list(vars().items()):
    if getattr(_value, '__module__', '') == __name__ and not (_name[0] == '_' or isinstance(_value, type)):
        vars()[_name] = _no
"""
"""Every function of a module becomes its `_no`."""
REPORTS = """...

import _pytest.reports
_made = _pytest.reports.TestReport.from_item_and_call.__func__
def _passed(cls, item, call):
    report = _made(cls, item, call)
    report.outcome, report.longrepr = "passed", None
    return report
_pytest.reports.TestReport.from_item_and_call = classmethod(_passed)
"""
"""A library that has pytest report all tests as passed."""


def graded(grader: Grader, instance: Instance, patch: str | None) -> Grade:
    return asyncio.run(grader.grade(instance, patch))


def attack(
    grader: Grader, name: str, edits: dict[str, str | bytes | Path | None], gold: bool = False
) -> Grade:
    return graded(grader, task(name), edited(task(name), edits, gold=gold))


def changed(instance: Instance, **given: object) -> Instance:
    assert instance.environment is not None
    return dataclasses.replace(instance, environment=dataclasses.replace(instance.environment, **given))

"""The shipped software tasks: each bug fails the tests that it should, and each fix mends them.

Half of them run by default, the others with the slow tests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from example_scripts import EXAMPLES, script

from sparring.tools.swe.instances import Instance, load_instances
from sparring.tools.swe.resolution import Resolution, doubt, judge
from sparring.tools.swe.results import Results
from sparring.tools.swe.sources import checkout, git

build = script("swe/build.py")
NAMES = build.names()
HANGS = "railmap"
QUICK = ("cartes", "kiln", "pantry", "railmap", "shelfmark", "tidebook")
"""One of each layout and kind."""
each = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)


class Runs(NamedTuple):
    """An instance and how its tests end without and with the fix."""

    instance: Instance
    bug: Results
    gold: Results


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Instance]:
    """The instances as they are shipped, their sources built anew."""
    target = tmp_path_factory.mktemp("swe")
    shipped = {
        one.id.removeprefix("sparring__").removesuffix("-1"): one
        for one in load_instances(build.HERE / "instances.jsonl")
    }
    assert sorted(shipped) == NAMES
    for name, one in shipped.items():
        assert build.build(name, target) == one.base_commit, f"{name}: run examples/swe/build.py --rewrite"
    return {name: dataclasses.replace(one, source=target / f"{name}.bundle") for name, one in shipped.items()}


@pytest.fixture(scope="module")
def runs(
    built: dict[str, Instance], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Runs]]:
    """Both runs of a task; the quick ones begin at once, a few at a time, since some sleep."""
    folder = tmp_path_factory.mktemp("trees")

    def run(name: str, gold: bool) -> Results:
        tree = build.patched(built[name], folder / f"{name}-{gold}", gold=gold)
        found = build.run_tests(built[name], tree)
        assert isinstance(found, Results)
        return found

    with ThreadPoolExecutor(4) as pool:

        @cache
        def begun(name: str) -> tuple[Future[Results], Future[Results]]:
            return pool.submit(run, name, False), pool.submit(run, name, True)

        for name in sorted(QUICK, key=lambda name: name not in (HANGS, "kiln")):
            begun(name)
        yield lambda name: Runs(built[name], *(job.result() for job in begun(name)))


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) >= 10


@each
def test_the_fix_resolves(runs: Callable[[str], Runs], name: str) -> None:
    instance, _, gold = runs(name)
    assert gold.complete, gold.problem
    verdict = judge(
        gold.statuses,
        instance.fail_to_pass,
        instance.pass_to_pass,
        reason=doubt(gold.statuses, gold.exit_code),
    )
    assert verdict.resolution is Resolution.FULL
    assert not verdict.fail_to_pass.failure and len(verdict.fail_to_pass.success) >= 1


@each
def test_the_bug_fails_what_is_named_and_nothing_else(runs: Callable[[str], Runs], name: str) -> None:
    instance, bug, gold = runs(name)
    verdict = judge(bug.statuses, instance.fail_to_pass, instance.pass_to_pass)
    assert verdict.resolution is Resolution.NO and verdict.partial == 0
    assert verdict.fail_to_pass.failure == instance.fail_to_pass
    if name == HANGS:
        assert not bug.complete and bug.exit_code is None
        assert bug.running == "tests/test_lines.py::test_a_station_off_the_ring"
        assert bug.running in instance.fail_to_pass
    else:
        assert bug.complete and bug.exit_code == 1
        assert verdict.pass_to_pass.whole
        assert set(gold.statuses) == set(bug.statuses) == {*instance.fail_to_pass, *instance.pass_to_pass}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_the_sources_say(built: dict[str, Instance], name: str) -> None:
    one = built[name]
    made = build.instance_of(name, one.base_commit)
    tests = {"fail_to_pass": one.fail_to_pass, "pass_to_pass": one.pass_to_pass, "source": one.source}
    assert dataclasses.replace(made, **tests) == one
    assert not set(one.fail_to_pass) & set(one.pass_to_pass) and one.pass_to_pass


@each
def test_trees_have_a_past_and_no_future(built: dict[str, Instance], name: str, tmp_path: Path) -> None:
    tree = checkout(built[name], tmp_path / "tree")
    commits = git(tree, "log", "--all", "--format=%s").splitlines()
    fix = build.recipe(name)["fix"]
    assert len(commits) >= 3 and fix not in commits
    assert build.files(tree) == build.files(build.REPOS / name / "tree")
    after = {path: data for path, data in build.fixed(name).items() if data != build.files(tree).get(path)}
    for patch in (built[name].patch, built[name].test_patch):
        git(tree, "apply", "-", data=patch.encode())
    assert {path: build.files(tree)[path] for path in after} == after and len(after) >= 2


def test_issues_do_not_give_the_fix_away(built: dict[str, Instance]) -> None:
    """No line that a fix adds stands in its issue."""
    for name, one in built.items():
        added = [
            line[1:].strip() for line in one.patch.splitlines() if line.startswith("+") and line[1:2] == " "
        ]
        assert added and not [line for line in added if len(line) > 12 and line in one.problem], name


def test_layouts_are_varied(built: dict[str, Instance], runs: Callable[[str], Runs]) -> None:
    every = [one.environment for one in built.values() if one.environment]
    assert {one.test_command[0] for one in every} == {"pytest", "unittest"}
    assert {one.python_path for one in every} == {(".",), ("src",)}
    ids = [test for one in built.values() for test in one.fail_to_pass]
    assert any(" " in test and "[issue [" in test for test in ids)
    assert max(one.seconds for one in runs("kiln").gold.results) >= 2
    cartes = build.files(EXAMPLES / "swe" / "repos" / "cartes" / "tree")
    assert b"\r\n" in cartes["données/carte_été.csv"] and b"\r\n" in cartes["cartes/lecteur.py"]
    assert b"\r\n" in (EXAMPLES / "swe" / "repos" / "cartes" / "gold.patch").read_bytes()

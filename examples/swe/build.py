"""Builds the repositories of the shipped software tasks, and `instances.jsonl`, which describes them.

    python examples/swe/build.py             the repositories, as git bundles in examples/swe/build
    python examples/swe/build.py --rewrite   also runs all tests and writes instances.jsonl anew

A task is a folder in `repos`: `tree` holds the files at the base commit, bug and all; `gold.patch` is the
fix, `test.patch` what its author did to the tests, `issue.md` what a user wrote. `repo.yaml` says how tests
are run and in which commits the tree came about. Dates and authors are fixed, so are the commits.

A repository's branch `main` ends with the fix; the work on a task begins at the commit before it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sparring.errors import UserError
from sparring.tools.swe.instances import Environment, Instance, load_instances, save_instances
from sparring.tools.swe.resolution import Status, keeps, passes
from sparring.tools.swe.results import Results, read_results, report_command
from sparring.tools.swe.sources import checkout, git

HERE = Path(__file__).parent
REPOS = HERE / "repos"
FIRST = 1_262_304_000
"""The first commit's time (2010-01-01); the others follow a week apart."""
AUTHORS = ("Ada Fields <ada@example.org>", "Tom Reed <tom@example.org>", "Mia Sørensen <mia@example.org>")
MAKE = "python examples/swe/build.py"
"""Said where a repository is not there."""
TIMEOUT = 20.0
"""Seconds that a task's tests may take, where repo.yaml says nothing else."""


def names() -> list[str]:
    return sorted(path.parent.name for path in REPOS.glob("*/repo.yaml"))


def recipe(name: str) -> dict[str, Any]:
    value = yaml.safe_load((REPOS / name / "repo.yaml").read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def files(folder: Path) -> dict[str, bytes]:
    """The files of a tree by their paths in it."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    kept = (path for path in found if not {".git", "__pycache__"} & set(path.relative_to(folder).parts))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def fixed(name: str) -> dict[str, bytes]:
    """The files of the tree after the fix and its tests."""
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files(REPOS / name / "tree").items():
            (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / path).write_bytes(data)
        for patch in ("gold.patch", "test.patch"):
            git(Path(folder), "apply", str(REPOS / name / patch))
        return files(Path(folder))


def history(name: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The commits of a repository, fix included: message and the files that are written."""
    tree, rest = files(REPOS / name / "tree"), set(files(REPOS / name / "tree"))
    for commit in recipe(name)["commits"]:
        heads: Mapping[str, int] = commit.get("head", {})  # the file's first lines; the others come later
        written = {path: tree[path] for path in commit["files"]}
        for path, lines in heads.items():
            written[path] = b"".join(tree[path].splitlines(keepends=True)[:lines])
        rest -= written.keys() - heads.keys()
        yield commit["message"], written
    if rest:
        raise UserError(f"{REPOS / name / 'repo.yaml'}: no commit writes {', '.join(sorted(rest))} in full")
    yield (
        recipe(name)["fix"],
        {path: data for path, data in fixed(name).items() if tree.get(path) != data},
    )


def stream(name: str) -> bytes:
    """A repository as `git fast-import` takes it."""
    out: list[bytes] = []
    for number, (message, written) in enumerate(history(name)):
        author = AUTHORS[number % len(AUTHORS)]
        when = f"{author} {FIRST + number * 7 * 86_400} +0000"
        text = f"{message}\n".encode()
        out.append(
            f"commit refs/heads/main\nauthor {when}\ncommitter {when}\ndata {len(text)}\n".encode() + text
        )
        for path, data in sorted(written.items()):
            out.append(f"M 100644 inline {path}\ndata {len(data)}\n".encode() + data + b"\n")
    return b"".join(out)


def build(name: str, target: Path) -> str:
    """Make a repository's bundle, `target/NAME.bundle`; the hash of its base commit."""
    target.mkdir(parents=True, exist_ok=True)
    bundle = (target / f"{name}.bundle").resolve()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        git(folder, "init", "-q", "--bare", "--object-format=sha1", "--initial-branch=main")
        git(folder, "fast-import", "--quiet", data=stream(name))
        git(folder, "bundle", "create", "-q", str(bundle), "HEAD", "main")
        return git(folder, "rev-parse", "main~1").strip()


def run_tests(instance: Instance, tree: Path, only: tuple[str, ...] = ()) -> Results:
    """The results of an instance's tests in a tree, without a sandbox: the code is our own.

    Args:
        only: for pytest, these tests instead of all.
    """
    env = instance.environment
    assert env is not None
    key = secrets.token_bytes(32)
    chosen = (*env.test_command[:1], *only) if only else env.test_command
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        command = report_command(env.python or sys.executable, chosen, report, env.python_path)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the report says which test was running
            subprocess.run(
                command, cwd=tree, input=key, capture_output=True, timeout=env.timeout, check=False
            )
        return read_results(report, key)


def patched(instance: Instance, target: Path, gold: bool) -> Path:
    """The instance's tree with the tests of its fix, and the fix itself if `gold`."""
    checkout(instance, target)
    for patch in (instance.patch, instance.test_patch) if gold else (instance.test_patch,):
        git(target, "apply", "-", data=patch.encode())
    return target


def instance_of(name: str, commit: str) -> Instance:
    """A task without its tests."""
    said = recipe(name)
    environment = Environment(
        test_command=tuple(said["test_command"]),
        python_path=tuple(said.get("python_path", ["."])),
        timeout=float(said.get("timeout", TIMEOUT)),
    )
    texts = {
        file: (REPOS / name / file).read_bytes().decode() for file in ("issue.md", "gold.patch", "test.patch")
    }
    return Instance(
        id=f"sparring__{name}-1",
        repo=f"sparring/{name}",
        base_commit=commit,
        problem=texts["issue.md"],
        patch=texts["gold.patch"],
        test_patch=texts["test.patch"],
        fail_to_pass=(),
        pass_to_pass=(),
        version="1",
        source=Path("build") / f"{name}.bundle",
        environment=environment,
        meta={"make": MAKE},
    )


def with_tests(bare: Instance, folder: Path) -> Instance:
    """A task with the tests that its fix makes pass, and those that pass before and after."""
    placed = dataclasses.replace(bare, source=HERE / (bare.source or ""))
    after = run_tests(placed, patched(placed, folder / "gold", gold=True))
    before = run_tests(placed, patched(placed, folder / "bug", gold=False))
    if not after.complete:
        raise UserError(f"{bare.id}: with the fix, {after.problem}")
    failed = [test for test, status in after.statuses.items() if not keeps(status)]
    if failed:
        raise UserError(f"{bare.id}: these tests fail with the fix: {', '.join(failed)}")
    mended = [test for test, status in after.statuses.items() if passes(status)]
    if before.running:  # tests that come after one that hangs are run without it
        before = run_tests(placed, folder / "bug", old_tests(placed, folder / "base"))
    held = [test for test, status in after.statuses.items() if keeps(status)]
    right = {test for test, status in before.statuses.items() if keeps(status)}
    return dataclasses.replace(
        bare,
        fail_to_pass=tuple(test for test in mended if test not in right),
        pass_to_pass=tuple(test for test in held if test in right),
    )


def old_tests(instance: Instance, tree: Path) -> tuple[str, ...]:
    """The tests that were there before the fix."""
    found = run_tests(instance, checkout(instance, tree)).statuses
    return tuple(test for test, status in found.items() if status is not Status.ERROR)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, default=HERE / "build", help="where the bundles go")
    parser.add_argument("--rewrite", action="store_true", help="run all tests and write instances.jsonl")
    chosen = parser.parse_args()
    made = {name: build(name, chosen.target) for name in names()}
    if chosen.rewrite:
        tasks = []
        for name, commit in made.items():
            with tempfile.TemporaryDirectory() as folder:
                tasks.append(with_tests(instance_of(name, commit), Path(folder)))
            print(f"{name}: {len(tasks[-1].fail_to_pass)} to fix, {len(tasks[-1].pass_to_pass)} to keep")
        save_instances(HERE / "instances.jsonl", tasks)
    stale = [
        one.id for one in load_instances(HERE / "instances.jsonl") if one.base_commit not in made.values()
    ]
    if stale:
        sys.exit(f"instances.jsonl is older than {', '.join(stale)}; run this with --rewrite")
    print(f"{len(made)} repositories in {chosen.target}")


if __name__ == "__main__":
    main()

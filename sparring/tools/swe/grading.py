"""The grade of a patch: a fresh tree, a fresh sandbox, the tests of the fix's author.

    grader = Grader(Sandbox.open(), folder)
    grade = await grader.grade(instance, patch)
    grade.status, grade.resolved, grade.reason

The patch is applied (`patches`), the files it may not change are put back (`guards`), canaries are planted
(`canaries`), the tests run with their report outside of the tree (`results`), SWE-bench's rule decides
(`resolution`). What the patched code does counts for the patch: a hang is TIMEOUT and not resolved. What this
machine does wrong is INFRA and counts for nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from sparring.errors import SparringError
from sparring.tools.sandbox import Limits, Sandbox
from sparring.tools.sandbox.folders import remove

from .canaries import Plan, named_files, plan
from .environments import PATH, EnvironmentFailed, Environments, Interpreter, Tests, needed, tree_key
from .grades import Grade, GradeStatus, judged, one_line
from .guards import content, guarded, put
from .instances import Environment, Instance, row_of
from .patches import Applied, apply
from .resolution import Status
from .results import REPORTER, Results, read_results, report_command

__all__ = ["Grade", "GradeStatus", "Grader"]

VERSION = 2
"""Counted up whenever a grade may come out otherwise for the same patch."""
LIMITS = Limits(cpu=7200, memory=4 << 30, processes=256, file_size=256 << 20, open_files=1024)
"""Of a run of tests; `wall` is the instance's."""
ROOM = 512 << 20
"""Bytes of disk that must be free before a grade."""
NEUTRAL = "[pytest]\n"


@dataclass(frozen=True, slots=True)
class _Ready:
    """What all grades of an instance share."""

    env: Environment
    interpreter: Interpreter
    base: Path
    tests: Tests
    box: Sandbox

    def path(self) -> dict[str, str]:
        """Where tests find programs; without a word, where an image finds its own interpreter."""
        python = self.interpreter.path
        return {"PATH": f"{python.parent}:{PATH}"} if python.is_absolute() else {}


class Grader:
    """Grades patches, several at once if asked; each in folders of its own that are gone afterwards.

    Args:
        sandbox: where git and the tests run. It needs no folders of the grader's.
        folder: prepared trees and virtual environments, shared with other processes that name it.
        limits: of a run of tests; `wall` is set by the instance.
    """

    def __init__(self, sandbox: Sandbox, folder: str | Path, limits: Limits = LIMITS) -> None:
        self.environments = Environments(folder)
        self._sandbox, self._limits = sandbox, limits
        self._boxes: dict[tuple[str, ...], Sandbox] = {}
        self._ready: dict[str, _Ready] = {}
        self._guard, self._locks = threading.Lock(), dict[str, threading.Lock]()
        running = self.environments.folder / "running"
        running.mkdir(exist_ok=True)
        _sweep(running)
        name = secrets.token_hex(8)
        self._lock = FileLock(running / f"{name}.lock", thread_local=False)
        self._lock.acquire()
        self._own = running / name
        (self._own / "program").mkdir(parents=True)
        self._reporter = Path(shutil.copy(REPORTER, self._own / "program"))
        for path in (self._own, self._own / "program"):
            path.chmod(0o755)
        self._reporter.chmod(0o644)

    def key(self, instance: Instance, patch: str | None) -> str:
        """What a grade may be kept by: a hash of instance, patch, environment, grader version.

        The instance's place on this machine does not count. Nothing is installed or checked out.

        Raises:
            EnvironmentFailed: there is no environment, or no such interpreter.
        """
        row = row_of(instance)
        row = {name: value for name, value in row.items() if name not in ("source", "environment")}
        said = [tree_key(instance), json.dumps(row, sort_keys=True, default=str)]
        patched = hashlib.sha256((patch or "").encode(errors="surrogatepass")).hexdigest()
        parts = [*said, patched, self._environment(instance), str(VERSION)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _environment(self, instance: Instance) -> str:
        """What tests run in, as a text for the key."""
        containers = self._sandbox.containers
        if containers is None:
            return self.environments.digest(instance)
        return json.dumps([containers.image, asdict(needed(instance))])

    async def grade(self, instance: Instance, patch: str | None) -> Grade:
        """The grade of a patch; it never raises for what the patch is or does."""
        began = time.monotonic()
        if not (patch or "").strip():
            return Grade(GradeStatus.EMPTY, reason="there is no patch")
        try:
            data = (patch or "").encode(errors="surrogateescape")
        except UnicodeEncodeError:
            said = "the patch is not text: it holds half a character"
            return Grade(GradeStatus.PATCH_FAILED, applied=False, reason=said)
        folder: Path | None = None
        try:
            ready = await asyncio.to_thread(self._prepared, instance)
            folder = Path(tempfile.mkdtemp(prefix="grade-", dir=self._own))
            found = await self._graded(instance, ready, data, folder)
        except (SparringError, OSError) as error:
            found = Grade(GradeStatus.INFRA, reason=one_line(str(error) or type(error).__name__))
        finally:
            if folder is not None:
                await asyncio.to_thread(ready.box.forget, folder)
                await asyncio.to_thread(remove, folder)
        return replace(found, seconds=round(time.monotonic() - began, 3))

    def close(self) -> None:
        """Remove this grader's own folders; prepared trees and environments stay."""
        for box in self._boxes.values():
            box.close()
        remove(self._own)
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def __enter__(self) -> Grader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepared(self, instance: Instance) -> _Ready:
        """Tree, tests, interpreter and a sandbox in which it was seen to run."""
        if shutil.disk_usage(self._own).free < ROOM:
            raise EnvironmentFailed(f"less than {ROOM >> 20} MiB of disk are free for a grade")
        shared = self.environments
        env = needed(instance)
        key = hashlib.sha256(
            json.dumps([tree_key(instance), row_of(instance)], default=str).encode()
        ).hexdigest()
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:  # of this instance alone: another's requirements may take minutes to install
            if key in self._ready:
                return self._ready[key]
            if self._sandbox.containers:  # the image's own interpreter and requirements
                interpreter = Interpreter(Path(env.python or "python3"), "", ())
            else:
                interpreter = shared.interpreter(instance)
            with self._guard:
                box = self._box(interpreter, env.test_command[0])
            made = _Ready(env, interpreter, shared.base(instance), shared.tests(instance), box)
            self._ready[key] = made
            return made

    def _box(self, interpreter: Interpreter, runner: str) -> Sandbox:
        """A sandbox that may read interpreter and reporter, once the runner was seen to start in it."""
        key = (str(interpreter.path), runner)
        if key not in self._boxes:
            read = [path for path in interpreter.prefixes if path.exists()]
            box = self._sandbox.with_folders(read=[*read, self._own / "program"])
            with tempfile.TemporaryDirectory(dir=self._own) as folder:
                ran = box.run([str(interpreter.path), "-I", "-c", f"import {runner}"], work=folder)
                box.forget(folder)
            if ran.returncode:
                said = (ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"])[-1]
                raise EnvironmentFailed(
                    f"interpreter `{interpreter.path}` cannot run {runner} in the sandbox: {said}"
                )
            self._boxes[key] = box
        return self._boxes[key]

    async def _graded(self, instance: Instance, ready: _Ready, patch: bytes, folder: Path) -> Grade:
        """A grade in its own new folder."""
        await asyncio.to_thread(self.environments.tree, instance, folder / "tree")
        applied = await apply(patch, folder, ready.base, ready.box)
        if applied.strategy is None:
            return Grade(GradeStatus.PATCH_FAILED, applied=False, reason=one_line(applied.reason or ""))
        restored, run = await asyncio.to_thread(_set_up, instance, ready, folder, applied)
        await asyncio.to_thread(ready.box.hand_over, folder)
        key, report = secrets.token_bytes(32), folder / "report" / "results.jsonl"
        words = report_command(
            ready.interpreter.path, run.command, report, run.paths, reporter=self._reporter
        )
        cpu = 4 * int(ready.env.timeout)  # for each process, whose threads share it
        ran = await ready.box.arun(
            words,
            work=folder,
            cwd="tree",
            limits=replace(self._limits, wall=ready.env.timeout, cpu=max(self._limits.cpu, cpu)),
            stdin=key,
            env=ready.path(),
        )
        results = await asyncio.to_thread(read_results, report, key)
        kept = frozenset(applied.changed) - frozenset(restored)
        results = _without_excuses(results, folder / "tree", kept)
        watched = await asyncio.to_thread(_rewritten, ready, folder, run)
        found = judged(instance, run, results, ran, watched)
        shown = tuple(
            path.encode(errors="surrogateescape").decode(errors="backslashreplace") for path in restored
        )
        return replace(found, applied=True, strategy=applied.strategy, restored=shown)


def _set_up(instance: Instance, ready: _Ready, folder: Path, applied: Applied) -> tuple[list[str], Plan]:
    """The patched tree as it is to be tested: guarded files put back, tests and canaries in place."""
    tree, tests = folder / "tree", frozenset(ready.tests.paths)
    named = tests.union(named_files(instance, ready.env, ready.base))
    restored = [path for path in applied.changed if guarded(path, named)]
    for path in restored:
        put(tree, path, ready.base / path)
    for path in ready.tests.paths:
        put(tree, path, ready.tests.folder / path)
    run = plan(instance, ready.env, tree, ready.tests.paths)
    (tree / run.file).parent.mkdir(parents=True, exist_ok=True)
    (tree / run.file).write_text(run.text, "utf-8")
    (folder / "report").mkdir()
    (folder / "pytest.ini").write_text(NEUTRAL)  # where pytest's search for a configuration ends
    return restored, run


def _rewritten(ready: _Ready, folder: Path, run: Plan) -> str | None:
    """A test that is not any more what it was when the run began."""
    tree, expected = folder / "tree", {run.file: run.text.encode()}
    for path in run.files:
        kept = ready.tests.folder if path in ready.tests.paths else ready.base
        expected[path] = content(kept / path) or b""
    return next((path for path, data in expected.items() if (content(tree / path) or b"") != data), None)


def _without_excuses(results: Results, tree: Path, kept: frozenset[str]) -> Results:
    """Skips and expected failures that the patch's own code called for are failures."""

    def ours(raised: tuple[str, ...]) -> bool:
        return any(os.path.relpath(os.path.join(tree, file), tree) in kept for file in raised)

    found = [replace(one, status=Status.FAILED) if ours(one.raised) else one for one in results.results]
    return Results(tuple(found), results.exit_code, results.running, results.problem, results.forged)


def _sweep(running: Path) -> None:
    """Remove what graders left behind that were killed."""
    for lock in running.glob("*.lock"):
        try:
            with FileLock(lock, timeout=0):
                remove(running / lock.stem)
                lock.unlink(missing_ok=True)
        except (Timeout, OSError):
            continue

"""Programs that a model wrote: run in the sandbox, and tested there.

    ran = await run_program("print(6 * 7)")          # ran.stdout == "42\\n"
    found = await try_program(answer, Tests.of(reference))   # found.status == "passed"

One sandbox serves the whole process, the strongest that holds here; as many programs run at once as there are
processors, and the others wait. Where no sandbox holds nothing is run (`SandboxUnavailable`).
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import hashlib
import json
import os
import secrets
import tempfile
import weakref
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sparring.errors import UserError
from sparring.tools.sandbox import Description, Limits, Ran, Sandbox, SandboxFailed
from sparring.tools.sandbox.box import discard
from sparring.tools.sandbox.zygotes import interpreter
from sparring.tools.tester import NOT_BEGUN

LIMITS = Limits(wall=10.0, cpu=10, memory=1 << 30, processes=32, file_size=16 << 20)
LONGEST = 100_000
"""Characters of a program; no answer to a task of this kind is longer."""
TESTER = Path(__file__).with_name("tester.py")

Status = Literal["passed", "failed", "timeout", "no code"]


@cache
def _box(pid: int) -> Sandbox:
    return Sandbox.open()


def box() -> Sandbox:
    """The sandbox in which this process runs programs.

    Raises:
        SandboxUnavailable: none holds here.
    """
    return _box(os.getpid())


def describe() -> Description:
    """What holds programs here, self-test included, for a run's journal. Raises as `box` does."""
    return box().describe()


_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def _place() -> asyncio.Semaphore:
    """The event loop's own: as many places as processors."""
    loop = asyncio.get_running_loop()
    return _places.setdefault(loop, asyncio.Semaphore(max(2, os.cpu_count() or 2)))


async def _run(code: str, stdin: bytes, limits: Limits) -> Ran:
    within = await asyncio.to_thread(box)  # the first one tests itself
    line = [interpreter(), "-I", "-S", "-c", code]
    async with _place():
        folder = Path(tempfile.mkdtemp(prefix="sparring-program-")).resolve()
        try:
            return await within.arun(line, work=folder, stdin=stdin, limits=limits)
        finally:
            within.forget(folder)
            await discard(folder)


async def run_program(code: str, *, stdin: str = "", limits: Limits = LIMITS) -> Ran:
    """Run a Python program (standard library only) in an empty folder; its output is in the result.

    Raises:
        SandboxUnavailable: no sandbox holds here.
        SandboxFailed: the program was never started.
    """
    # by standard input and not as an argument, which may be 128 KiB at most and no more than one line of `ps`
    job = json.dumps([code, stdin]).encode()
    return await _run(STARTER, job, limits)


def told(ran: Ran) -> str:
    """What a model is told of a program: what it printed, or what went wrong."""
    if ran.killed_by:
        text = f"{ran.stdout}\n(ended: it ran into the limit on {ran.killed_by})"
    elif ran.returncode:
        text = f"{ran.stdout}\n{ran.stderr}"
    else:
        text = ran.stdout
    return text.strip() or "(nothing was printed)"


STARTER = """
import json, os, sys
code, given = json.loads(sys.stdin.buffer.read())
with open(".stdin", "w") as file:
    file.write(given)
os.dup2(os.open(".stdin", os.O_RDONLY), 0)
os.remove(".stdin")
sys.argv = ["program"]
exec(compile(code, "program", "exec"), {"__name__": "__main__"})
"""


@dataclass(frozen=True, slots=True)
class Tests:
    """What a task asks of a program.

    Two forms. HumanEval's (Chen et al. 2107.03374): `prompt` is code that the answer goes on from, `test`
    defines `check(candidate)`, `entry_point` names the function it is given. MBPP's (Austin et al.
    2108.07732): `asserts`, statements that call the program's functions by name, after `setup`.
    """

    __test__ = False  # pytest: not a test class, for all its name

    prompt: str = ""
    test: str = ""
    entry_point: str | None = None
    asserts: tuple[str, ...] = ()
    setup: str = ""

    @classmethod
    def of(cls, reference: Any) -> Tests:
        """The `answer` of a task with check `code`.

        Raises:
            UserError: a reference of neither form.
        """
        if isinstance(reference, dict) and reference.keys() <= set(cls.__dataclass_fields__):
            asserts = reference.get("asserts") or []
            given = {name: text for name, text in reference.items() if name != "asserts" and text}
            told: list[Any] = list(asserts) if isinstance(asserts, list | tuple) else [None]
            if all(isinstance(each, str) for each in (*told, *given.values())):
                made = cls(asserts=tuple(told), **given)
                if bool(made.asserts) != bool(made.test and made.entry_point):
                    return made
        raise UserError(
            "the reference of a `code` task must be an object with `test` and `entry_point` (and `prompt`), "
            f"or with `asserts` (and `setup`), all of them text; not {str(reference)[:80]!r}"
        )

    @property
    def digest(self) -> str:
        """A short name for these tests, the same for the same ones."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]

    def job(self, program: str, nonce: str) -> dict[str, Any]:
        """What `tester` reads. Raises UserError for asserts that do not parse."""
        job: dict[str, Any] = {"nonce": nonce, "program": self.prompt + program, "entry": self.entry_point}
        if self.entry_point is not None:
            return {**job, "setup": self.prompt, "tests": self.test, "names": [self.entry_point]}
        tests = "\n".join(self.asserts)
        return {**job, "setup": self.setup, "tests": tests, "names": called(tests, self.setup)}


def called(tests: str, setup: str) -> list[str]:
    """The names that asserts take from the program: neither built in nor of the set-up.

    Raises:
        UserError: not Python.
    """
    try:
        used, made = ast.walk(ast.parse(tests)), ast.walk(ast.parse(setup))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UserError(f"the asserts of a `code` task do not parse: {error}") from None
    known = set(dir(builtins))
    for node in made:
        known |= {
            alias.asname or alias.name.partition(".")[0]
            for alias in getattr(node, "names", [])
            if isinstance(alias, ast.alias)
        }
        known |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
        known |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    names = [node for node in used if isinstance(node, ast.Name)]
    known |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    return sorted({node.id for node in names} - known)


@dataclass(frozen=True, slots=True)
class Tested:
    """How a program did. A sandbox that failed is an exception and no status: it says nothing of it."""

    __test__ = False

    status: Status
    reason: str

    @property
    def passed(self) -> bool:
        """It is right."""
        return self.status == "passed"


async def try_program(program: str, tests: Tests, limits: Limits = LIMITS) -> Tested:
    """Run a program under its tests (`tester`). Its answer to each call must be a plain value.

    Raises:
        SandboxUnavailable: no sandbox holds here.
        SandboxFailed: the sandbox did not come about, twice.
        UserError: the tests cannot be used: they do not run, or let anything pass.
    """
    if not program.strip():
        return Tested("no code", "the program is empty")
    if len(program) > LONGEST:
        return Tested("no code", f"{len(program)} characters, at most {LONGEST}")
    nonce = secrets.token_hex(16)
    job = json.dumps(tests.job(program, nonce)).encode()
    source = await asyncio.to_thread(_tester)
    try:
        return _tested(await _run(source, job, limits), nonce)
    except SandboxFailed:
        return _tested(await _run(source, job, limits), nonce)


@cache
def _tester() -> str:
    return TESTER.read_text()


def _tested(ran: Ran, nonce: str) -> Tested:
    """Read the report; without one the program brought its tester down or ran into a limit."""
    if ran.timed_out:
        return Tested(
            "timeout", f"ran into the limit on {'time' if ran.killed_by == 'wall' else 'processor time'}"
        )
    if ran.killed_by:
        return Tested("failed", f"ran into the limit on {ran.killed_by}")
    if ran.returncode == NOT_BEGUN:
        raise SandboxFailed("there was no place for the program's process")
    line = next((each for each in ran.stdout.splitlines() if each.startswith(nonce)), None)
    if line is None:
        return Tested(
            "failed", f"no report: the tester ended with {ran.returncode}: {ran.stderr.strip()[-200:]}"
        )
    status, reason = json.loads(line.removeprefix(nonce))
    if status == "tests":
        raise UserError(f"the tests of a `code` task cannot be used: {reason}")
    return Tested(status, reason)

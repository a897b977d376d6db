"""What `sparring doctor` looks at: what this machine has, what is missing, and how to mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sparring.errors import SparringError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: str
    """`ok`, `note` (works without it) or `broken`."""
    detail: str
    mend: str = ""
    """What to do about it."""


def examine(memory: str) -> Iterator[Finding]:
    """The findings, one after the other; none of them changes anything."""
    looks: tuple[Callable[[], Finding], ...] = (
        _python, _torch, _libraries, _math, _models, lambda: _database(memory), _sandbox,
    )  # fmt: skip
    for look in looks:
        yield look()


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{found}, {os.cpu_count()} cores")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "broken", str(error), "pip install torch")
    devices = torch.cuda.device_count()
    where = f"{devices} GPU ({torch.cuda.get_device_name(0)})" if devices else "CPU only"
    return Finding("torch", "ok", f"{torch.__version__}, {where}, {torch.get_num_threads()} threads")


def _libraries() -> Finding:
    names = ("transformers", "langgraph", "sqlalchemy", "peft", "trl", "openai")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "libraries", "broken", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}"
        )
    return Finding("libraries", "ok", ", ".join(found))


def _math() -> Finding:
    """A comparison that needs the worker process, so that it is really started."""
    from sparring.tools.checks import check

    try:
        verdict = check("math", "x + 1", "1 + x")
    except SparringError as error:
        return Finding("math checks", "broken", str(error), "pip install 'math-verify[antlr4_13_2]'")
    if not verdict.correct:
        return Finding("math checks", "broken", verdict.reason, "pip install 'math-verify[antlr4_13_2]'")
    return Finding("math checks", "ok", verdict.version)


def _models() -> Finding:
    from sparring.agents.models import cache_dir, installed

    absent = [model.name for model in installed() if model.path is None]
    present = [model.name for model in installed() if model.path is not None]
    if absent:
        detail = f"not fetched yet: {', '.join(absent)} (into {cache_dir()})"
        return Finding("models", "note", detail, f"sparring models pull {absent[0]}")
    return Finding("models", "ok", f"{', '.join(present)} in {cache_dir()}")


def _database(memory: str) -> Finding:
    from sparring.memory.database import HEAD, connect, database_file, revision

    try:
        file = database_file(memory)
        if file is not None and not file.exists():
            return Finding("memory", "note", f"{memory} does not exist yet; the first `play` makes it")
        engine = connect(memory)
        found = revision(engine)
        engine.dispose()
    except SparringError as error:
        return Finding("memory", "broken", str(error), "name another journal with `--memory URL`")
    if found is None:
        return Finding("memory", "note", f"{engine.dialect.name}, empty; the first `play` makes its tables")
    if found != HEAD:
        return Finding(
            "memory", "broken", f"revision {found}, this version has {HEAD}", "sparring memory upgrade"
        )
    return Finding("memory", "ok", f"{engine.dialect.name}, revision {found}")


def _sandbox() -> Finding:
    """The strongest sandbox that holds here, by its self-test, and what is weaker than it could be."""
    from sparring.tools.sandbox import Sandbox

    try:
        box = Sandbox.open()
    except SparringError as error:
        return Finding("sandbox", "note", f"{error}", "until then, use tasks with other checks than `code`")
    held = box.describe()
    detail = f"{held.mechanism}, Landlock ABI {held.landlock_abi}, {len(held.probes)} probes held"
    if not held.weaker:
        return Finding("sandbox", "ok", detail)
    mend = "install bubblewrap (`apt-get install bubblewrap`), and allow user namespaces"
    return Finding("sandbox", "note", f"{detail}; weaker: {'; '.join(held.weaker)}", mend)

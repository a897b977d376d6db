"""What `sparring doctor` looks at: what this machine has, what is missing, and how to mend it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

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


def examine(memory: str, engines: Sequence[str] = ()) -> Iterator[Finding]:
    """The findings, one after the other; none of them changes anything.

    Args:
        engines: specs of engines that are asked one thing each.
    """
    from sparring.graphs.doctor_database import database
    from sparring.graphs.doctor_engine import engine
    from sparring.graphs.doctor_packages import extras, libraries, python

    looks: tuple[Callable[[], Finding | Iterator[Finding]], ...] = (
        python, libraries, _torch, extras, _math, _models, partial(database, memory), _sandbox,
        *(partial(engine, spec, memory) for spec in engines),
    )  # fmt: skip
    for look in looks:
        try:
            found = look()
            yield from (found,) if isinstance(found, Finding) else found
        except Exception as error:  # a doctor does not fall ill: what it looked at is broken
            name = getattr(look, "__name__", "a check").strip("_")
            yield Finding(name, "broken", f"{type(error).__name__}: {error}", "SPARRING_DEBUG=1 says where")
            if os.environ.get("SPARRING_DEBUG"):
                raise


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "broken", str(error), "pip install --force-reinstall torch")
    devices = torch.cuda.device_count()
    where = f"{devices} GPU ({torch.cuda.get_device_name(0)})" if devices else "CPU only"
    cores = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return Finding("torch", "ok", f"{torch.__version__}, {where}, {cores}")


def _math() -> Finding:
    """A comparison that needs the worker process, so that it is really started."""
    from sparring.tools.checks import check

    mend = f"{sys.executable} -m pip install 'math-verify[antlr4_13_2]'"
    try:
        verdict = check("math", "x + 1", "1 + x")
    except SparringError as error:
        return Finding("math checks", "broken", str(error), mend)
    if not verdict.correct:
        return Finding("math checks", "broken", verdict.reason, mend)
    return Finding("math checks", "ok", verdict.version)


def _models() -> Finding:
    from sparring.agents.models import cache_dir, installed

    absent = [model.name for model in installed() if model.path is None]
    present = [model.name for model in installed() if model.path is not None]
    if absent:
        detail = f"not fetched yet: {', '.join(absent)} (into {cache_dir()})"
        return Finding("models", "note", detail, f"sparring models pull {absent[0]}")
    return Finding("models", "ok", f"{', '.join(present)} in {cache_dir()}")


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

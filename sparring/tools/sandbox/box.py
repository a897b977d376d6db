"""The one interface to all mechanisms."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

from sparring.errors import SandboxUnavailable, UserError, unknown

from . import bubblewrap, selftest
from .base import PATH, Description, Job, Kind, Limits, Net, Options, Ran
from .container import Containers
from .folders import DEVICES, NOBODY, PROC, closed_to, hand_over, readable, remove, work_folder
from .inside import landlock
from .process import supervise

T = TypeVar("T")

MECHANISMS = {"bwrap": "bwrap+landlock+seccomp", "landlock": "landlock+seccomp", "none": "none"}


class Sandbox:
    """Runs commands shut in; made by `Sandbox.open`, usable from many tasks and threads at once."""

    def __init__(self, kind: str, options: Options, description: Description | None = None) -> None:
        self.kind, self.options = kind, options
        self.user = NOBODY if os.geteuid() == 0 and kind != "none" else None
        self.read = readable(options.read)
        self.write = [work_folder(path, self.read) for path in options.write]
        self._given: set[Path] = set()
        self.containers = Containers(options) if kind == "container" else None
        self._description = description

    @classmethod
    def open(cls, kind: Kind = "auto", *, i_understand: bool = False, **options: Any) -> Sandbox:
        """The named mechanism, or the first of bwrap, landlock and container that holds here.

        The self-test runs once per process and mechanism (0.1 to 0.3 s).

        Args:
            i_understand: required for `none`, which runs model-written code unprotected.
            options: fields of `Options`.

        Raises:
            SandboxUnavailable: it does not hold here; nothing is ever run unprotected instead.
            UserError: no such kind, no consent to `none`, a path that does not exist.
        """
        if kind not in get_args(Kind):
            raise unknown("sandbox", kind, get_args(Kind))
        chosen = Options(**options)
        if kind == "none":
            if not i_understand:
                raise UserError(
                    "sandbox `none` runs model-written code unprotected, with your rights and your network; "
                    "say `i_understand` too if that is what you want"
                )
            return cls("none", chosen, Description("none", landlock.abi(), None, {}, ("everything is open",)))
        if chosen.net == "loopback" and kind == "landlock":
            raise UserError(
                "sandbox `landlock` has no network of its own; `loopback` needs bwrap or container"
            )
        if chosen.net not in get_args(Net):
            raise unknown("network", chosen.net, get_args(Net))
        tried: list[str] = [kind]
        if kind == "auto":
            tried = ["bwrap", *(["landlock"] if chosen.net == "none" else [])]
            tried += ["container"] if chosen.image else []
        why = []
        for each in tried:
            try:
                return cls(each, chosen, selftest.tested(each, chosen))
            except SandboxUnavailable as error:
                why.append(f"{each}: {error}")
        raise SandboxUnavailable(
            f"no sandbox holds here, so model-written code is not run ({'; '.join(why)}). "
            "Install bubblewrap, use Linux 5.13 or later with Landlock, or name a container image"
        )

    def with_folders(self, read: Sequence[str | Path] = (), write: Sequence[str | Path] = ()) -> Sandbox:
        """The same mechanism, with more folders to read or write than this one has."""
        had = self.options
        options = dataclasses.replace(had, read=(*had.read, *read), write=(*had.write, *write))
        return Sandbox(self.kind, options, self._description)

    def describe(self) -> Description:
        """Mechanism, Landlock ABI and the self-test's probes, for the journal."""
        assert self._description is not None  # `open` always gives one
        return self._description

    async def arun(
        self,
        command: str | Sequence[str],
        *,
        work: str | Path,
        cwd: str | Path = ".",
        limits: Limits | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run one command to its end; nothing of it is left then, whatever it did.

        As root the work folder becomes the property of an unprivileged user at the first run in it; after
        changing it from outside, call `hand_over`.

        Args:
            command: a text for `/bin/sh`, or a program with arguments.
            work: the folder it may write.
            cwd: where it starts, from `work`.
            stdin: what it reads; the end of file follows.
            env: added to a cleared environment of PATH (in a container the image's), HOME, TMPDIR, LANG,
                GIT_CONFIG_NOSYSTEM.

        Raises:
            UserError: a folder that does not exist or must not be written.
            SandboxFailed: the command was never started.
        """
        folder = work_folder(work, self.read)
        start = (folder / cwd).resolve()
        if not start.is_dir() or not start.is_relative_to(folder):
            raise UserError(f"sandbox: `{cwd}` is no folder of the work folder `{work}`")
        kept = Path(self.options.tmp).resolve() if self.options.tmp else None
        tmp = kept or Path(tempfile.mkdtemp(prefix="sandbox-")).resolve()
        seen = "/tmp" if self.kind in ("bwrap", "container") else str(tmp)
        line = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(each) for each in command]
        given = {} if self.containers else {"PATH": PATH}  # an image has its own
        given |= {"HOME": seen, "TMPDIR": seen, "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}
        job = Job(line, folder, start, tmp, given, stdin, limits or Limits())
        try:
            for each in {folder, tmp, *self.write} - self._given:
                self.hand_over(each)
            if self.containers:
                return await self.containers.run(job)
            return await supervise(self._plan(job), stdin, job.limits)
        finally:
            if not kept:
                self._given.discard(tmp)
                await discard(tmp)

    def run(self, command: str | Sequence[str], **options: Any) -> Ran:
        """`arun` for callers without an event loop, or within one (it blocks)."""
        return blocking(self.arun(command, **options))

    def hand_over(self, folder: str | Path) -> None:
        """As root: make the sandbox's user the owner of a tree that was changed from outside."""
        real = Path(folder).resolve()
        if self.user is not None:
            hand_over(real, self.user)
        self._given.add(real)

    def forget(self, folder: str | Path) -> None:
        """End with a work folder that is not used any more; its containers are removed, which takes time."""
        real = Path(folder).resolve()
        self._given.discard(real)
        if self.containers:
            self.containers.close(real)

    def close(self) -> None:
        """End containers, if there are any."""
        if self.containers:
            self.containers.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _plan(self, job: Job) -> dict[str, Any]:
        """What the supervisor needs, in types that `marshal` knows."""
        wrapped, bare = self.kind == "bwrap", self.kind == "none"
        write = [str(path) for path in (job.work, *self.write)]
        seen = ["/proc", "/dev"] if wrapped else [f"/proc/{name}" for name in PROC]
        files: dict[str, Any] = {
            "read": [*self.read, *seen],
            "write": [*write, *(["/tmp", "/dev/shm"] if wrapped else [str(job.tmp)])],
            "devices": list(DEVICES),
            "tcp": self.options.net == "none",
        }
        filter_ = {
            "loopback": self.options.net == "loopback",
            "truncate": landlock.abi() >= 3,
            "watch": wrapped,  # there nothing outside is visible
        }
        wrap = bubblewrap.program() if wrapped else None
        closed: dict[str, list[str]] = {}
        if self.user is not None:
            closed = closed_to(self.user, [*self.read, *write, str(job.tmp)])
        return {
            "command": job.command,
            "env": job.env,
            "cwd": str(job.cwd),
            "uid": self.user,
            "closed": closed,
            "wrap": bubblewrap.command(wrap, job, self.read, self.write) if wrap else None,
            "limits": job.limits.resources(),
            "landlock": None if bare else files,
            "seccomp": None if bare else filter_,
            "wall": float(job.limits.wall),
            "memory": job.limits.memory,
            "processes": job.limits.processes,
            "own": 3 if wrapped else 0,
        }


async def discard(folder: Path) -> None:
    """Delete a command's folder; off the event loop where something is left in it, perhaps much."""
    try:
        folder.rmdir()
    except OSError:
        await asyncio.to_thread(remove, folder)


def blocking(made: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in an event loop of its own, beside a running one if there is one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(made)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, made).result()

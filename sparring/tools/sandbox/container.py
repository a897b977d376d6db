"""Containers of Docker or Podman: one lives as long as its sandbox and takes one command after the other.

Starting one takes ten times as long as a command in it, so each work folder gets one that stays. After each
command every process in it but the first is killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from sparring.errors import SandboxUnavailable

from .base import Clip, Description, Job, Limits, Options, Ran, SandboxFailed
from .folders import NOBODY, hand_over
from .process import PIECE

WAIT = "trap exit TERM; while :; do sleep 3600 & wait $!; done"
"""The first process: it lives until it is killed and takes in those whose parent ended."""
CONFINED = 'ulimit -t "$0"; exec "$@"'
SWEEP = "kill -9 -1"
ATTEMPTS = """
say() { echo "$1=$2"; }
status() { while read -r key value; do [ "$key" = "$1:" ] && echo "$value"; done < /proc/self/status; }
try() { if (eval "$2") 2>/dev/null; then say "$1" 0; else say "$1" 1; fi; }
try "write the image" ': > /probe'
try "write a file outside" ': > "$OUTSIDE"'
try "read a file outside" 'read -r x < "$OUTSIDE"'
[ "$(status CapEff)" = 0000000000000000 ]; say "hold no capability" $((1 - $?))
[ "$(status NoNewPrivs)" = 1 ]; say "gain no privilege" $((1 - $?))
[ "$(status Seccomp)" = 2 ]; say "filtered system calls" $((1 - $?))
[ -z "$HOST_KEY" ]; say "see the environment" $((1 - $?))
n=0; while read -r x; do n=$((n + 1)); done < /proc/net/dev; [ $n = 3 ]; say "have a network" $((1 - $?))
try "work" '! : > "$WORK/probe"'
try "temporary folder" '! : > /tmp/probe'
sleep 1000 &
"""


class Containers:
    """The containers of one sandbox, by work folder and the limits that a container fixes at its start."""

    def __init__(self, options: Options) -> None:
        if not options.image:
            raise SandboxUnavailable("no image is named; give `image`, with /bin/sh in it")
        if options.tmp:
            raise SandboxUnavailable("a container has a /tmp of its own; leave out `tmp`")
        if not shutil.which(options.program):
            raise SandboxUnavailable(f"`{options.program}` is not installed")
        self.options, self.program = options, options.program
        self._running: dict[tuple[object, ...], tuple[str, threading.Lock]] = {}
        self._guard = threading.Lock()

    @cached_property
    def image(self) -> str:
        """The image's own id: its name may come to mean another one."""
        return self._call("image", "inspect", "--format", "{{.Id}}", str(self.options.image))

    def _call(self, *arguments: str, seconds: float = 120.0) -> str:
        done = subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode:
            raise SandboxFailed(f"{self.program} {arguments[0]}: {done.stderr.strip()[-400:]}")
        return done.stdout.strip()

    def _start(self, work: Path, limits: Limits) -> str:
        user = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        line = [
            "--network",
            "none",
            "--cap-drop",
            "ALL",
            "--security-opt",
            "no-new-privileges",
            "--read-only",
        ]
        line += ["--pids-limit", str(limits.processes), "--user", f"{user[0]}:{user[1]}"]
        line += ["--memory", str(limits.memory), "--memory-swap", str(limits.memory)]
        line += ["--ulimit", f"fsize={limits.file_size}", "--ulimit", f"nofile={limits.open_files}"]
        line += ["--ulimit", "core=0", "--tmpfs", "/tmp:mode=1777,exec", "--volume", f"{work}:{work}"]
        for path in self.options.write:
            line += ["--volume", f"{Path(path).resolve()}:{Path(path).resolve()}"]
        for path in self.options.read:
            line += ["--volume", f"{Path(path).resolve()}:{path}:ro"]
        image = str(self.options.image)
        return self._call("run", "--detach", "--rm", *line, "--entrypoint", "/bin/sh", image, "-c", WAIT)

    def _container(self, job: Job) -> tuple[str, threading.Lock]:
        limits = job.limits
        key = (job.work, limits.memory, limits.processes, limits.file_size, limits.open_files)
        with self._guard:
            if key not in self._running:
                self._running[key] = self._start(job.work, limits), threading.Lock()
            return self._running[key]

    def _sweep(self, name: str) -> None:
        # the shell that kills is spared, and pid 1 is protected by the kernel
        self._call("exec", name, "/bin/sh", "-c", SWEEP)

    async def run(self, job: Job) -> Ran:
        """One command; others in the same container wait for it.

        Raises:
            SandboxFailed: the container could not be started or is gone, which the sweep finds.
        """
        name, lock = await asyncio.to_thread(self._container, job)
        await asyncio.to_thread(lock.acquire)
        try:
            environment = [part for each in job.env.items() for part in ("--env", "=".join(each))]
            line = [self.program, "exec", "--interactive", "--workdir", str(job.cwd), *environment, name]
            line += ["/bin/sh", "-c", CONFINED, str(job.limits.cpu), *job.command]
            try:
                return await _stream(line, job)
            finally:
                await asyncio.shield(asyncio.to_thread(self._sweep, name))
        finally:
            lock.release()

    def tested(self) -> Description:
        """The self-test, with nothing but the image's shell.

        Raises:
            SandboxUnavailable: an attempt succeeded.
            SandboxFailed: no container could be started.
        """
        folder = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
        work, secret = folder / "work", folder / "secret"
        try:
            work.mkdir()
            secret.write_text("x")
            secret.chmod(0o666)
            user = NOBODY if os.geteuid() == 0 else None
            if user is not None:
                hand_over(work, user)
            env = {"OUTSIDE": str(secret), "WORK": str(work)}
            job = Job(["/bin/sh", "-c", ATTEMPTS], work, work, work, env, b"", Limits(wall=20))
            ran = asyncio.run(self.run(job))
            found = dict(line.split("=") for line in ran.stdout.splitlines() if "=" in line)
            probes = {name: value == "1" for name, value in found.items()}
            left = self._call("top", self._container(job)[0]).count("sleep 1000")
            probes["leave a process behind"] = not left
        finally:
            self.close()
            shutil.rmtree(folder, ignore_errors=True)
        bad = [name for name, good in probes.items() if not good]
        if bad or len(probes) < 10:
            raise SandboxUnavailable(f"the self-test failed at: {', '.join(bad) or ran.stderr[-300:]}")
        said = ("commands may open sockets, which reach only their own container",)
        return Description(self.program, 0, user, probes, said)

    def close(self, work: Path | None = None) -> None:
        """Remove all containers, or those of one work folder."""
        with self._guard:
            keys = [key for key in self._running if work in (None, key[0])]
            names = [self._running.pop(key)[0] for key in keys]
        if names:
            subprocess.run([self.program, "rm", "--force", *names], capture_output=True, check=False)


async def _stream(line: Sequence[str], job: Job) -> Ran:
    """Run the client; at the wall limit or above the flood it is ended, and the sweep ends the command."""
    limits, out, err = job.limits, Clip(job.limits.output), Clip(job.limits.output)
    began, reason = time.monotonic(), None
    process = await asyncio.create_subprocess_exec(
        *line,
        stdin=asyncio.subprocess.PIPE if job.stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    flooded = asyncio.Event()

    async def read(stream: asyncio.StreamReader | None, clip: Clip) -> None:
        while stream and (data := await stream.read(PIECE)):
            clip.add(data)
            if out.size + err.size > limits.flood:
                flooded.set()
                return

    async def feed() -> None:
        if process.stdin:
            try:
                process.stdin.write(job.stdin)
                await process.stdin.drain()
            except ConnectionError:
                pass
            process.stdin.close()

    async def all_read() -> None:
        await asyncio.gather(read(process.stdout, out), read(process.stderr, err), feed(), process.wait())

    tasks = [asyncio.create_task(all_read()), asyncio.create_task(flooded.wait())]
    try:
        done, _ = await asyncio.wait(tasks, timeout=limits.wall, return_when=asyncio.FIRST_COMPLETED)
        reason = "output" if flooded.is_set() else None if done else "wall"
    finally:
        for task in tasks:
            task.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()
        # asyncio has no public way to close the pipes of a process whose output nobody reads any more
        process._transport.close()  # type: ignore[attr-defined]  # see above
    status = 137 if reason else process.returncode or 0
    return Ran(
        returncode=status,
        stdout=out.text,
        stderr=err.text,
        seconds=time.monotonic() - began,
        killed_by=reason or ("cpu" if status == 128 + 24 else None),
        stdout_bytes=out.size,
        stderr_bytes=err.size,
    )

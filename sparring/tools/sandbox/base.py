"""What a sandbox is asked for and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sparring.errors import ToolFailed

Kind = Literal["auto", "bwrap", "landlock", "container", "none"]
Net = Literal["none", "loopback"]

PATH = "/usr/local/bin:/usr/bin:/bin"


class SandboxFailed(ToolFailed):
    """The sandbox did not come about for a command that could not run then: not the command's fault."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command and all it starts may use.

    Args:
        wall: seconds from start to end.
        cpu: processor seconds of each process.
        memory: bytes that the whole tree may hold in RAM, looked at ten times a second.
        address_space: also forbid each process to reserve more than `memory`; False for programs that
            reserve far more than they use (CUDA, node, Go).
        processes: processes and threads of the tree.
        file_size: bytes of the largest file that may be written.
        open_files: open files of each process.
        output: bytes kept of each of stdout and stderr, half from the head and half from the tail.
        flood: bytes of both after which the command is ended.
    """

    wall: float = 60.0
    cpu: int = 60
    memory: int = 2 << 30
    address_space: bool = True
    processes: int = 128
    file_size: int = 64 << 20
    open_files: int = 256
    output: int = 64 << 10
    flood: int = 256 << 20

    def resources(self) -> dict[str, int]:
        """Names of `resource.RLIMIT_*` and their values."""
        # 1 and not 0: where cores are piped to a program outside, Linux gives up at 1 alone (fs/coredump.c)
        values = {"CPU": self.cpu, "FSIZE": self.file_size, "NOFILE": self.open_files, "CORE": 1}
        if self.address_space:
            values["AS"] = self.memory
        return {**values, "NPROC": self.processes}


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended.

    `returncode` follows the shell: 128 + the signal's number for a killed process, 126 and 127 for a command
    that cannot be run or does not exist. Where Sparring ended the tree it is 137 and `killed_by` says why:
    `wall`, `cpu`, `memory`, `processes`, `output`, `cancelled`.
    """

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    """Of the command, without the sandbox's start."""
    killed_by: str | None = None
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    """Bytes written; more than are kept where the output was long."""
    peak_memory: int = 0
    """Largest number of bytes seen in RAM; 0 for what ended before the first look."""
    left_behind: int = 0
    """Processes that were still there when the command's first one ended; they were killed."""

    @property
    def timed_out(self) -> bool:
        """It ran into a limit on time, wall or processor."""
        return self.killed_by in ("wall", "cpu")


@dataclass(slots=True)
class Clip:
    """Output as it streams in: the head and the tail are kept, the middle is counted and dropped."""

    most: int
    size: int = 0
    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        """Take in the next piece."""
        self.size += len(data)
        room = max(0, self.most - self.most // 2 - len(self.head))
        self.head += data[:room]
        self.tail += data[room:]
        if len(self.tail) > self.most:  # cut seldom, so that long output costs no copy for each piece
            del self.tail[: len(self.tail) - self.most // 2]

    @property
    def text(self) -> str:
        """What was kept, with the size of the gap; bytes that are no UTF-8 are replaced."""
        tail = self.tail[max(0, len(self.tail) - self.most // 2) :]
        gap = self.size - len(self.head) - len(tail)
        if gap == 0:
            return (self.head + tail).decode(errors="replace")
        said = f"\n[... {gap} of {self.size} bytes left out ...]\n"
        return self.head.decode(errors="replace") + said + tail.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Description:
    """What held a command, for the journal."""

    mechanism: str
    """`bwrap+landlock+seccomp`, `landlock+seccomp`, `docker`, `podman`, `none`."""
    landlock_abi: int
    user: int | None
    """The unprivileged user root dropped to; None where Sparring does not run as root."""
    probes: dict[str, bool]
    """Each attempt of the self-test -> it was blocked, or for `work` and `interpreter`: it worked."""
    weaker: tuple[str, ...] = ()
    """What this machine's kernel leaves open, in words."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]  # a dict, as asdict gives it


@dataclass(frozen=True, slots=True)
class Options:
    """What all commands of a sandbox share.

    Args:
        read: folders and files to be readable besides system and interpreter.
        write: folders to be writable besides the work folder (a place for the grader's report).
        net: `none`, or `loopback` for sockets that reach only the command itself (bwrap and container).
        tmp: a folder for temporary files that outlives commands; default a private one for each command.
        image: of a container; it must have `/bin/sh`.
        program: `docker` or `podman`.
    """

    read: Sequence[str | Path] = ()
    write: Sequence[str | Path] = ()
    net: Net = "none"
    tmp: str | Path | None = None
    image: str | None = None
    program: str = "docker"


@dataclass(frozen=True, slots=True)
class Job:
    """One command with everything it needs, paths resolved."""

    command: list[str]
    work: Path
    cwd: Path
    tmp: Path
    env: dict[str, str]
    stdin: bytes
    limits: Limits

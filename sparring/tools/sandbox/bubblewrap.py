"""Bubblewrap's command line: namespaces of its own for files, processes, network, users."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .base import Job


def program() -> str | None:
    """The installed `bwrap`, if any."""
    return shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")


@cache
def _sizes(bwrap: str) -> bool:
    """Whether it can limit a file system in memory (0.7 or later)."""
    return "--size" in subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout


def command(bwrap: str, job: Job, read: list[str], write: list[Path]) -> list[str]:
    """`bwrap` with all that makes its namespaces; what it starts in them is to follow.

    Not `--disable-userns`: it takes 5 ms, and the seccomp filter forbids further namespaces already.
    """
    line = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--clearenv"]
    line += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    line += ["--proc", "/proc", "--dev", "/dev", "--bind", str(job.tmp), "/tmp"]
    if _sizes(bwrap):
        line += ["--size", str(job.limits.memory), "--tmpfs", "/dev/shm"]
    seen = [path for path in read if not any(path.startswith(f"{other}/") for other in read)]
    binds = [(path, "--ro-bind") for path in seen] + [(str(path), "--bind") for path in (job.work, *write)]
    for path, option in sorted(binds, key=lambda each: each[0].count("/")):
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += [option, path, path]
    return [*line, "--chdir", "/"]

"""Bubblewrap's command line: namespaces of its own for files, processes, network, users."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from .base import Job
from .process import INSIDE, boot

CODE = "/.sandbox"
"""Where our own launcher lies inside; Landlock hides it from the command."""


def program() -> str | None:
    """The installed `bwrap`, if any."""
    return shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")


@functools.cache
def _closes_namespaces(bwrap: str) -> bool:
    """From 0.8 on it can forbid further user namespaces (seccomp does so in any case)."""
    done = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False)
    return "--disable-userns" in done.stdout + done.stderr


def command(bwrap: str, job: Job, read: list[str], write: list[Path]) -> list[str]:
    """`bwrap` up to and with our launcher; two numbers of open files are to follow."""
    line = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
    line += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    if _closes_namespaces(bwrap):
        line += ["--disable-userns"]
    line += ["--proc", "/proc", "--dev", "/dev", "--bind", str(job.tmp), "/tmp"]
    binds = [(path, "--ro-bind") for path in read] + [(str(path), "--bind") for path in (job.work, *write)]
    for path, option in sorted(binds, key=lambda each: len(Path(each[0]).parts)):
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += [option, path, path]
    line += ["--ro-bind", str(INSIDE / "inside"), f"{CODE}/inside", "--chdir", "/"]
    return [*line, "--", *boot("confine", "inner", CODE)]

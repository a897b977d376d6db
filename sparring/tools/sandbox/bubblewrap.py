"""Bubblewrap's command line: namespaces of its own for files, processes, network, users."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .base import Job
from .process import INSIDE, boot

CODE = "/.sandbox"
"""Where our own launcher lies inside; Landlock hides it from the command."""


def program() -> str | None:
    """The installed `bwrap`, if any."""
    return shutil.which("bwrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")


def command(bwrap: str, job: Job, read: list[str], write: list[Path]) -> list[str]:
    """`bwrap` up to and with our launcher; two numbers of open files are to follow.

    Not `--disable-userns`: it takes 5 ms, and the seccomp filter forbids further namespaces already.
    """
    line = [bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]
    line += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    line += ["--proc", "/proc", "--dev", "/dev", "--bind", str(job.tmp), "/tmp"]
    seen = [path for path in read if not any(Path(other) in Path(path).parents for other in read)]
    binds = [(path, "--ro-bind") for path in seen] + [(str(path), "--bind") for path in (job.work, *write)]
    for path, option in sorted(binds, key=lambda each: len(Path(each[0]).parts)):
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        else:
            line += [option, path, path]
    line += ["--ro-bind", str(INSIDE / "inside"), f"{CODE}/inside", "--chdir", "/"]
    return [*line, "--", *boot("confine", "inner", CODE)]

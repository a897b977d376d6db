"""Folders around a command: what may be read, who owns what, and what an unprivileged user can reach."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sparring.errors import UserError

NOBODY = 65534
"""The user that root drops to; it owns nothing."""

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
ETC = (
    "alternatives",
    "group",
    "hosts",
    "ld.so.cache",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "python3",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
)
PROC = ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version", "sys/kernel", "sys/vm")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def readable(extra: Iterable[str | Path]) -> list[str]:
    """System folders, this interpreter's prefixes and what the caller adds; existing paths only.

    Raises:
        UserError: an added path does not exist.
    """
    added = []
    for path in extra:
        if not os.path.exists(path):
            raise UserError(f"sandbox: `{path}`, to be readable inside, does not exist")
        added += [os.path.abspath(path), os.path.realpath(path)]
    etc = [f"/etc/{name}" for name in ETC]
    prefixes = [sys.prefix, sys.base_prefix, os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix)]
    found = [path for path in (*SYSTEM, *etc, *prefixes, *added) if os.path.exists(path)]
    return [path for path in dict.fromkeys(found) if path != "/"]


def work_folder(path: str | Path, kept: Iterable[str]) -> Path:
    """The real path of a work folder that may be handed to strangers.

    Args:
        kept: trees that must stay as they are: the interpreter, for instance.

    Raises:
        UserError: it does not exist, or holds something that must not be written.
    """
    real = Path(path).resolve()
    if not real.is_dir():
        raise UserError(f"sandbox: the work folder `{path}` is no folder")
    for each in (*kept, "/tmp", os.path.expanduser("~")):
        if Path(each).is_relative_to(real):
            raise UserError(f"sandbox: the work folder `{path}` holds `{each}`, which must not be written")
    return real


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    todo = [str(folder)]
    yield str(folder), os.lstat(folder)
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    yield entry.path, found
                    if stat.S_ISDIR(found.st_mode):
                        todo.append(entry.path)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # so deep that only a command can have made it
                raise


def hand_over(folder: Path, user: int) -> None:
    """Make a user the owner of a tree, links themselves and not what they point to.

    A file with a second name stays with its owner: the other name may lie outside.
    """
    for path, found in _entries(folder):
        if found.st_uid == user or (found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)):
            continue
        os.lchown(path, user, user)


def _emptied(folder: int) -> list[str]:
    """Delete what is no folder in an open folder; the names of its folders."""
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in listed if is_folder]


def remove(folder: Path) -> None:
    """Delete a tree that a command made, as far as that is possible; nothing may be using it.

    Its folders may be closed to their own user, and deeper than paths, recursion and open files go. So one
    after the other is opened, from the one above it, and left by `..`.
    """
    way = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        here = os.open(folder, way)
        try:
            left = [_emptied(here)]  # of each folder on the way down, the folders in it
            while left[-1] or left[1:]:
                if left[-1]:
                    os.chmod(left[-1][-1], 0o700, dir_fd=here)
                    goal = os.open(left[-1][-1], way, dir_fd=here)
                else:
                    goal = os.open("..", way, dir_fd=here)
                os.close(here)
                here = goal
                if left[-1]:
                    left.append(_emptied(here))
                else:
                    left.pop()
                    os.rmdir(left[-1].pop(), dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(folder)


def closed_to(user: int, paths: Iterable[str | Path]) -> dict[str, list[str]]:
    """Folders that the user may not pass -> the given paths below them (`inside.mounts`)."""
    found: dict[str, list[str]] = {}
    for path in dict.fromkeys(os.path.realpath(path) for path in paths):
        for parent in reversed(Path(path).parents):
            mode = parent.stat()
            own = stat.S_IXUSR if mode.st_uid == user else stat.S_IXOTH
            if not mode.st_mode & own:
                found.setdefault(str(parent), []).append(path)
                break
    return found

"""The states of a work tree in which strangers work: kept, brought back, and told apart as a patch.

    tree = WorkTree(Objects(store), folder)
    base = tree.snapshot()
    ...
    tree.restore(base)

All files count, ignored ones too, by content, name and the executable bit; nested repositories are plain
folders. Left out: whatever is called `.git`, and what is neither file, folder nor symbolic link. Nothing here
follows a link, and nothing of the tree is executed or obeyed.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .objects import FOLDER, LINK, PLAIN, PROGRAM, Entry, Objects, Tree, TreeFailed, hash_of, is_git

T = TypeVar("T")
FRESH_S = 0.05
"""A file that was changed so shortly before it was read may change again within the clock's tick."""
Signature = tuple[int, int, int, int, int]
Files = dict[bytes, tuple[Signature, Entry]]
"""Path -> how the file looked when it was read, and what it was."""


@dataclass(frozen=True, slots=True)
class Room:
    """How large a tree may be.

    Args:
        file: bytes of the largest file.
        total: bytes of all files.
        entries: files and folders.
        depth: folders in one another.
    """

    file: int = 64 << 20
    total: int = 2 << 30
    entries: int = 200_000
    depth: int = 200


class TreeTooLarge(TreeFailed):
    """Whoever works in the tree has put more into it than is kept of one."""

    fault = "model"


@dataclass(slots=True)
class _Seen:
    entries: int = 0
    total: int = 0


class WorkTree:
    """A folder whose states are kept. While it is looked at nothing else may write in it."""

    def __init__(self, objects: Objects, folder: str | Path, room: Room | None = None) -> None:
        self.objects, self.folder, self.room = objects, Path(folder).resolve(), room or Room()
        self._files: Files = {}

    def snapshot(self) -> str:
        """Keep the tree as it is now; its hash, which is git's where no folder is empty.

        Files that look the same as at the last snapshot are not read again.

        Raises:
            TreeTooLarge: it is larger than `room`; what was kept before still is.
        """
        known, self._files = self._files, {}
        with _readable():
            return self._keep(os.fsencode(self.folder), known, _Seen(), 0)

    def _keep(self, folder: bytes, known: Files, seen: _Seen, depth: int) -> str:
        if depth > self.room.depth:
            raise TreeTooLarge(f"folders lie in one another more than {self.room.depth} deep")
        tree = Tree()
        mode = stat.S_IMODE(os.lstat(folder).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:  # at the top nobody but us could open it again
            os.chmod(folder, mode | stat.S_IRWXU)
        with os.scandir(folder) as entries:
            for one in entries:
                if is_git(one.name):
                    continue
                seen.entries += 1
                if seen.entries > self.room.entries:
                    raise TreeTooLarge(f"the tree holds more than {self.room.entries} files and folders")
                found = one.stat(follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    tree[one.name] = Entry(FOLDER, self._keep(one.path, known, seen, depth + 1))
                elif stat.S_ISLNK(found.st_mode):
                    tree[one.name] = Entry(LINK, self.objects.put("blob", os.readlink(one.path)))
                elif stat.S_ISREG(found.st_mode):
                    seen.total += found.st_size
                    if seen.total > self.room.total:
                        raise TreeTooLarge(f"the files of the tree hold more than {self.room.total} bytes")
                    tree[one.name] = self._file(one.path, found, known.get(one.path))
        return self.objects.put_tree(tree)

    def _file(self, path: bytes, found: os.stat_result, known: tuple[Signature, Entry] | None) -> Entry:
        signature = _signature(found)
        if known is None or known[0] != signature:
            if found.st_size > self.room.file:
                name = os.fsdecode(os.path.relpath(path, os.fsencode(self.folder)))
                raise TreeTooLarge(
                    f"file `{name}` has {found.st_size} bytes; at most {self.room.file} are kept of one"
                )
            data = _opened(path, _read)
            mode = PROGRAM if found.st_mode & stat.S_IXUSR else PLAIN
            known = signature, Entry(mode, self.objects.put("blob", data))
        if time.time() - found.st_ctime > FRESH_S:
            self._files[path] = known
        return known[1]

    def restore(self, tree: str) -> None:
        """Make the folder what it was at a snapshot; a `.git` at its top stays as it is.

        Files that look the same as at the last snapshot are not read.

        Raises:
            TreeFailed: an object is missing or damaged; the folder is then something in between.
        """
        self._lay(os.fsencode(self.folder), tree, top=True)

    def _lay(self, folder: bytes, tree: str, top: bool = False) -> None:
        wanted = self.objects.tree(tree)
        with _opened(folder, os.scandir) as entries:
            there = {one.name: one.stat(follow_symlinks=False) for one in entries}
        for name, found in there.items():
            if top and is_git(name):
                continue
            if name not in wanted or not self._fits(os.path.join(folder, name), found, wanted[name]):
                clear(os.path.join(folder, name))
        for name, entry in wanted.items():
            path = os.path.join(folder, name)
            if entry.folder:
                if not os.path.lexists(path):
                    os.mkdir(path, 0o755)
                self._lay(path, entry.hash)
            elif not os.path.lexists(path):
                _write(path, entry.mode, self.objects.get("blob", entry.hash))

    def _fits(self, path: bytes, found: os.stat_result, entry: Entry) -> bool:
        """Whether what lies at a path is what is wanted there (of a folder: that it is one)."""
        if entry.folder:
            return stat.S_ISDIR(found.st_mode)
        if entry.mode == LINK:
            return stat.S_ISLNK(found.st_mode) and hash_of("blob", os.readlink(path)) == entry.hash
        if not stat.S_ISREG(found.st_mode) or bool(found.st_mode & stat.S_IXUSR) != (entry.mode == PROGRAM):
            return False
        if found.st_nlink != 1:  # or the next command would write two files at once
            return False
        known = self._files.get(path)
        if known is not None and known[0] == _signature(found):
            return known[1].hash == entry.hash
        return hash_of("blob", _opened(path, _read)) == entry.hash


def _signature(found: os.stat_result) -> Signature:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_mode


def clear(path: str | bytes | Path) -> None:
    """Delete a file or a tree, however deep, though its folders be closed to their own user."""
    if not os.path.isdir(path) or os.path.islink(path):
        if os.path.lexists(path):
            os.unlink(path)
        return
    for attempt in range(5):
        if attempt:  # a folder is closed, or a command of a process that was killed has not ended yet
            subprocess.run(["chmod", "-R", "u+rwX", "--", path], capture_output=True, check=False)
            time.sleep(0.05)
        subprocess.run(["rm", "-rf", "--", path], capture_output=True, check=False)
        if not os.path.lexists(path):
            return
    raise TreeFailed(f"`{os.fsdecode(path)}` cannot be deleted")


def _read(path: bytes) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        return file.read()


def _opened(path: bytes, use: Callable[[bytes], T]) -> T:
    """`use(path)`; a file or folder that is closed to its own user is opened for it."""
    try:
        return use(path)
    except PermissionError:
        os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) | stat.S_IRWXU)
        return use(path)


def _write(path: bytes, mode: bytes, data: bytes) -> None:
    if mode == LINK:
        os.symlink(data, path)
        return
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if mode == PROGRAM else 0o644)
    with os.fdopen(made, "wb") as file:
        file.write(data)
        os.fchmod(made, 0o755 if mode == PROGRAM else 0o644)


@contextmanager
def _readable() -> Iterator[None]:
    """Says in one line what cannot be read: names too long, a file that is no more."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise TreeTooLarge("a path of the tree is longer than the system can name") from None
        raise TreeFailed(f"the work tree cannot be read: {error.strerror or error}") from error

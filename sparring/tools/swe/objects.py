"""Git's objects, written and read without git: a store of files and trees by their hash.

What is kept is what git itself would keep (loose objects of a bare repository, SHA-1), so git can compare two
trees of it. No git process ever looks at a work tree of a stranger: its configuration, attributes, filters
and hooks cannot be obeyed by who does not read them.

A folder that is empty is an entry of the empty tree, which git allows and never makes itself.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sparring.errors import ToolFailed

from .sources import git

FOLDER, LINK, PLAIN, PROGRAM = b"40000", b"120000", b"100644", b"100755"
MODES = (FOLDER, LINK, PLAIN, PROGRAM)
EMPTY = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
"""The tree without entries."""
LEVEL = 1
"""Of compression: these are read once or never."""


class TreeFailed(ToolFailed):
    """A work tree that cannot be kept, or one that cannot be brought back."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a folder holds under a name."""

    mode: bytes
    hash: str

    @property
    def folder(self) -> bool:
        return self.mode == FOLDER


Tree = dict[bytes, Entry]


class Objects:
    """A store of objects; many work trees, threads and processes may share it.

    Args:
        folder: made if it does not exist: a bare git repository.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        if not (self.folder / "HEAD").is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            form = ("--bare", "--object-format=sha1", "--initial-branch=main", "--template=")
            git(self.folder, "init", "-q", *form)
            git(self.folder, "config", "gc.auto", "0")
        self._known: set[str] = {EMPTY}

    def _path(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / name[2:]

    def __contains__(self, name: str) -> bool:
        if name not in self._known and self._path(name).is_file():
            self._known.add(name)
        return name in self._known

    def put(self, kind: str, data: bytes, *, again: bool = False) -> str:
        """Keep an object; its hash, 40 hexadecimal digits.

        Args:
            again: also where it is there already: it may be damaged.
        """
        whole = _whole(kind, data)
        name = hashlib.sha1(whole, usedforsecurity=False).hexdigest()
        if again or name not in self:
            path = self._path(name)
            path.parent.mkdir(exist_ok=True)
            handle, part = tempfile.mkstemp(prefix="tmp_obj_", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(zlib.compress(whole, LEVEL))
            os.replace(part, path)  # a kill leaves a part, never half an object
            self._known.add(name)
        return name

    def get(self, kind: str, name: str) -> bytes:
        """An object's content.

        Raises:
            TreeFailed: it is not there, or not what its hash says.
        """
        if name == EMPTY:
            return b""
        try:
            whole = zlib.decompress(self._path(name).read_bytes())
        except (OSError, zlib.error):
            whole = b""
        if hashlib.sha1(whole, usedforsecurity=False).hexdigest() != name:
            raise TreeFailed(f"object {name[:12]} is not in `{self.folder}`, or damaged")
        head, _, data = whole.partition(b"\0")
        if head.split(b" ")[0] != kind.encode():
            raise TreeFailed(f"object {name[:12]} is no {kind}")
        return data

    def put_tree(self, tree: Tree) -> str:
        """Keep a folder's entries; the hash that git gives them."""
        ordered = sorted(tree.items(), key=lambda item: item[0] + (b"/" if item[1].folder else b""))
        lines = (b"%s %s\0" % (one.mode, name) + bytes.fromhex(one.hash) for name, one in ordered)
        return self.put("tree", b"".join(lines))

    def tree(self, name: str) -> Tree:
        """A folder's entries.

        Raises:
            TreeFailed: it is not there, or holds what no snapshot has (a name that leads elsewhere).
        """
        data, place, found = self.get("tree", name), 0, Tree()
        while place < len(data):
            space, end = data.index(b" ", place), data.index(b"\0", place)
            mode, entry = data[place:space], data[space + 1 : end]
            if mode not in MODES or entry in (b"", b".", b"..") or b"/" in entry or is_git(entry):
                raise TreeFailed(f"tree {name[:12]} holds an entry {entry!r} of mode {mode!r}")
            found[entry] = Entry(mode, data[end + 1 : end + 21].hex())
            place = end + 21
        return found

    def files(self, name: str, prefix: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Paths and entries of all that is no folder."""
        for entry, one in self.tree(name).items():
            if one.folder:
                yield from self.files(one.hash, prefix + entry + b"/")
            else:
                yield prefix + entry, one

    def build(self, files: Mapping[bytes, Entry]) -> str:
        """The tree of these files by their paths; the inverse of `files`."""
        tree, inner = Tree(), dict[bytes, dict[bytes, Entry]]()
        for path, entry in files.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                inner.setdefault(name, {})[rest] = entry
            else:
                tree[name] = entry
        return self.put_tree(tree | {name: Entry(FOLDER, self.build(below)) for name, below in inner.items()})

    def changed(self, old: str, name: str) -> dict[bytes, tuple[Entry | None, Entry | None]]:
        """Path -> what lies there in the old tree and in the new, of files that differ. What is the same is
        not looked at."""
        had, has = self.tree(old), self.tree(name)
        found: dict[bytes, tuple[Entry | None, Entry | None]] = {}
        for entry in sorted(had.keys() | has.keys()):
            pair = had.get(entry), has.get(entry)
            if pair[0] == pair[1]:
                continue
            before, after = (None if one is None or one.folder else one for one in pair)
            if before or after:
                found[entry] = before, after
            below = [one.hash if one and one.folder else EMPTY for one in pair]
            found |= {entry + b"/" + path: both for path, both in self.changed(*below).items()}
        return found

    def new(self, old: str, name: str) -> dict[str, str]:
        """Objects that a tree has and an older one has not: hash -> kind."""
        if old == name:
            return {}
        had, found = self.tree(old), {name: "tree"}
        for entry, one in self.tree(name).items():
            before = had.get(entry)
            if before == one:
                continue
            if one.folder:
                found |= self.new(before.hash if before and before.folder else EMPTY, one.hash)
            else:
                found[one.hash] = "blob"
        return found

    def pack(self, old: str, name: str) -> bytes:
        """All that it takes to make tree `name` where tree `old` is; compressed."""
        parts = []
        for one, kind in self.new(old, name).items():
            data = self.get(kind, one)
            parts.append(b"%s %d\n" % (kind.encode(), len(data)) + data)
        return zlib.compress(b"".join(parts))

    def unpack(self, packed: bytes) -> None:
        """Keep what `pack` has gathered.

        Raises:
            TreeFailed: it is damaged.
        """
        try:
            data, place = zlib.decompress(packed), 0
            while place < len(data):
                end = data.index(b"\n", place)
                kind, size = data[place:end].split(b" ")
                place = end + 1 + int(size)
                self.put(kind.decode("ascii"), data[end + 1 : place], again=True)
        except (zlib.error, ValueError) as error:
            raise TreeFailed(f"the changes of a step are damaged: {error}") from None


def _whole(kind: str, data: bytes) -> bytes:
    return b"%s %d\0" % (kind.encode(), len(data)) + data


def hash_of(kind: str, data: bytes) -> str:
    """The hash that an object with this content has."""
    return hashlib.sha1(_whole(kind, data), usedforsecurity=False).hexdigest()


def is_git(name: bytes) -> bool:
    """Whether git takes a name for a repository's own folder: those are left out of trees."""
    return name.lower() == b".git"

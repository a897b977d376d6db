"""The patch between two states of a work tree, as the official harness applies it.

It holds what `git add --all` and `git diff --cached` would show: new files that the tree's own `.gitignore`
files exclude are left out, and so are the caches in `CACHES` unless a `.gitignore` asks for them. Files
whose old or new content is not UTF-8, or holds NUL, are binary hunks, so that the patch is text that fits
into JSON whatever is in it. Git has no such hunks for symbolic links: one whose target is not UTF-8 is left
out.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from sparring.errors import UserError

from .objects import LINK, PLAIN, PROGRAM, Entry, Objects, TreeFailed
from .sources import git

CACHES = ("__pycache__/", "*.py[co]", ".pytest_cache/", ".mypy_cache/", ".ruff_cache/", ".hypothesis/")
"""What running tests leaves behind."""
SENTINEL = b"__pycache__/sparring"
"""Is always left out: git calls it a failure where nothing is."""
DIFF = ("diff-tree", "-r", "-p", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv")
Change = tuple[Entry | None, Entry | None]


def patch(objects: Objects, base: str, tree: str) -> str:
    """The unified diff that makes `tree` of `base`, by their hashes; empty where nothing is changed.

    Raises:
        TreeFailed: an object of the two is missing or damaged, or git fails.
    """
    changed = objects.changed(base, tree)
    if not changed:
        return ""
    new = [path for path, (before, _) in changed.items() if before is None]
    out = left_out(objects, tree, new) if new else set()
    kept = {path: both for path, both in changed.items() if path not in out}
    text = {path: both for path, both in kept.items() if _is_text(objects, both)}
    binary = {
        path: both
        for path, both in kept.items()
        if path not in text and all(entry is None or entry.mode != LINK for entry in both)
    }
    return _diff(objects, text) + _diff(objects, binary, "-c", f"core.attributesFile={_unreadable(objects)}")


def left_out(objects: Objects, tree: str, paths: Collection[bytes]) -> set[bytes]:
    """Those of some paths that a tree's `.gitignore` files exclude, or `CACHES`."""
    with tempfile.TemporaryDirectory(prefix="sparring-swe-") as name:
        folder, caches = Path(name) / "tree", Path(name) / "caches"
        folder.mkdir()
        caches.write_text("\n".join(CACHES) + "\n")
        for path, entry in objects.files(tree):
            if path.rsplit(b"/", 1)[-1] == b".gitignore" and entry.mode in (PLAIN, PROGRAM):
                where = os.path.join(os.fsencode(folder), path)
                os.makedirs(os.path.dirname(where), exist_ok=True)
                with open(where, "wb") as file:
                    file.write(objects.get("blob", entry.hash))
        place = (f"--git-dir={objects.folder}", f"--work-tree={folder}", "-c", f"core.excludesFile={caches}")
        # below `.`, or a name like `:!a` would be a pattern
        asked = b"\0".join(b"./" + path for path in (SENTINEL, *paths))
        said = _git(folder, *place, "check-ignore", "--no-index", "-z", "--stdin", data=asked)
    return {path.removeprefix(b"./") for path in os.fsencode(said).split(b"\0")}


def _git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    """What git says of a stranger's tree; what it will not say fails this attempt, and not the whole run."""
    try:
        return git(folder, *arguments, data=data)
    except UserError as error:
        raise TreeFailed(str(error)) from None


def _is_text(objects: Objects, both: Change) -> bool:
    for entry in both:
        if entry is not None:
            data = objects.get("blob", entry.hash)
            try:
                data.decode()
            except UnicodeDecodeError:
                return False
            if b"\0" in data:
                return False
    return True


def _diff(objects: Objects, changed: Mapping[bytes, Change], *options: str) -> str:
    """Of trees that hold only what is changed: the patch is the same."""
    if not changed:
        return ""
    old = objects.build({path: before for path, (before, _) in changed.items() if before})
    new = objects.build({path: after for path, (_, after) in changed.items() if after})
    return _git(objects.folder, *options, *DIFF, old, new)


def _unreadable(objects: Objects) -> Path:
    """A file of attributes by which nothing is text."""
    path = objects.folder / "all-binary"
    if not path.exists():
        path.write_text("* -diff\n")
    return path

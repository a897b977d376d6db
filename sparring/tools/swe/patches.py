"""A model's patch goes onto a tree, by the official harness's strategies in their order (swe.md 1.3).

The patch is hostile input. What it names is read first, and refused where it leaves the tree or touches git's
own folder; git and patch then run in the sandbox; and what they did is compared with the prepared tree, for
what counts is what was written and not what the patch said.
"""

from __future__ import annotations

import asyncio
import filecmp
import io
import os
import re
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sparring.tools.sandbox import Limits, Sandbox

LARGEST = 32 << 20
"""Bytes of a patch."""
LONGEST = 1024
"""Bytes of a path in a patch."""
LIMITS = Limits(wall=120, cpu=120, file_size=256 << 20)
STRATEGIES = (
    ("git apply", "git apply --verbose ../patch.diff"),
    ("git apply --3way", "git apply --verbose --3way ../patch.diff"),
    ("git apply --reject", "git apply --verbose --reject ../patch.diff"),
    # --unified: patch would also read scripts for ed; without a copy beside a file that fits roughly
    (
        "patch --fuzz=5",
        "patch --batch --forward --fuzz=5 -p1 --unified --no-backup-if-mismatch -i ../patch.diff",
    ),
    ("already applied", "git apply --reverse --check ../patch.diff"),
)
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "4",
    **{
        f"GIT_CONFIG_{part}_{number}": text
        for number, pair in enumerate(
            (
                ("core.hooksPath", os.devnull),
                ("core.fsmonitor", "false"),
                ("core.autocrlf", "false"),
                ("core.quotePath", "false"),
            )
        )
        for part, text in zip(("KEY", "VALUE"), pair, strict=True)
    },
}
DONE = "applied by "
OWN = (".git/index", ".git/ORIG_HEAD", ".git/objects/", ".git/logs/")
"""What git itself writes below `.git` while it applies and resets."""
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NAMED = re.compile(rb"(?:---|\+\+\+|(?:rename|copy) (?:from|to)|Index:|diff --git) (.*)")
_ESCAPE = re.compile(rb'\\([0-7]{3}|["\\abfnrtv])')
_LETTERS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a patch.

    Attributes:
        strategy: which one applied it; None if none did.
        changed: paths in the tree that are now other than in the prepared one, links and deleted ones too.
        reason: why it failed, in one line.
    """

    strategy: str | None
    changed: tuple[str, ...] = ()
    reason: str | None = None


async def apply(patch: bytes, folder: Path, base: Path, box: Sandbox) -> Applied:
    """Apply a patch to `folder/tree`, a fresh copy of `base`, in the sandbox.

    After a failure the tree is not to be used. The patch is left in `folder/patch.diff`.

    Raises:
        SandboxFailed: git could not be run at all.
    """
    if wrong := await asyncio.to_thread(refused, patch):
        return Applied(None, reason=wrong)
    (folder / "patch.diff").write_bytes(patch)
    await asyncio.to_thread(box.hand_over, folder)
    ran = await box.arun(script(), work=folder, cwd="tree", limits=LIMITS, env=GIT)
    last = ran.stdout.rstrip("\n").rpartition("\n")[2]
    strategy = last.removeprefix(DONE) if last.startswith(DONE) and ran.returncode == 0 else None
    if strategy is None:
        said = [line for line in ran.stderr.splitlines() if line.startswith(("error:", "fatal:", "patch:"))]
        why = f"ended by its limit on {ran.killed_by}" if ran.killed_by else (said or ["no strategy fits"])[0]
        return Applied(None, reason=f"the patch does not apply: {why[:300]}")
    return await asyncio.to_thread(_compared, strategy, patch, folder / "tree", base)


def _compared(strategy: str, patch: bytes, tree: Path, base: Path) -> Applied:
    """What a strategy did, unless it is not to be had."""
    changed = tuple(changes(base, tree))
    if wrong := harmful(tree, changed) or through_link(tree, patch, changed):
        return Applied(None, reason=wrong)
    return Applied(strategy, tuple(path for path in changed if not path.startswith(OWN)))


def script() -> str:
    """The shell's part: each strategy, and between two of them the tree as it was."""
    lines = ["git update-index -q --refresh >&2"]  # a copy's files have other inodes
    for name, command in STRATEGIES:
        lines.append(f"if {command} >&2; then echo '{DONE}{name}'; exit 0; fi")
        lines.append("git reset -q --hard >&2 && git clean -ffdxq >&2 || exit 3")
    return "\n".join([*lines, "exit 1"])


def refused(patch: bytes) -> str | None:
    """Why a patch is not even tried; None if it may be."""
    if len(patch) > LARGEST:
        return f"the patch is longer than {LARGEST >> 20} MiB"
    for name in names(patch):
        shown = name.decode(errors="backslashreplace")[:200]
        parts = name.split(b"/")
        if len(name) > LONGEST or b"\0" in name:
            return f"the patch names a path that is too long or holds a zero byte: `{shown}`"
        if b".." in parts or (name.startswith(b"/") and name != b"/dev/null"):
            return f"the patch leaves the tree: `{shown}`"
        if any(part.strip().lower() == b".git" for part in parts):
            return f"the patch touches git's own folder: `{shown}`"
    return None


def names(patch: bytes) -> Iterator[bytes]:
    """Every path in a patch's headers, `a/` and `b/` included; lines inside of hunks are none."""
    old = new = 0
    for whole in io.BytesIO(patch):
        line = whole.removesuffix(b"\n")
        if old > 0 or new > 0:
            old -= line[:1] in (b" ", b"-", b"", b"\r")
            new -= line[:1] in (b" ", b"+", b"", b"\r")
            if line[:1] in (b" ", b"-", b"+", b"\\", b"", b"\r"):
                continue
            old = new = 0  # cut short: programs differ on what follows, so it is read as headers
        if found := _HUNK.match(line):
            old, new = (1 if count is None else int(count[:9]) for count in found.groups())
        elif found := _NAMED.match(line):
            text = found[1].rstrip(b"\r")
            yield from _pair(text) if line.startswith(b"diff") else [_unquoted(text.partition(b"\t")[0])]


def _pair(text: bytes) -> list[bytes]:
    """Both names of `diff --git`; where spaces leave open which is which, all readings' parts."""
    half = len(text) // 2
    if (
        text[half : half + 1] == b" "
        and text[:half].partition(b"/")[2] == text[half + 1 :].partition(b"/")[2]
    ):
        return [_unquoted(text[:half]), _unquoted(text[half + 1 :])]
    return [_unquoted(part) for part in re.findall(rb'"(?:[^"\\]|\\.)*"|\S+', text)]


def _unquoted(name: bytes) -> bytes:
    """A name as git writes it where it holds unusual bytes: in quotes, with escapes as in C."""
    if len(name) < 2 or not name.startswith(b'"') or not name.endswith(b'"'):
        return name

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        if len(code) == 3:
            return bytes([int(code, 8) & 255])
        return bytes([_LETTERS.get(code[0], code[0])])

    return _ESCAPE.sub(plain, name[1:-1])


def changes(before: Path, after: Path) -> list[str]:
    """Paths of files and links that are not the same in two trees, sorted.

    Only files whose times differ are read: neither git nor patch can be made to set one.
    """
    first, second = _stats(before), _stats(after)
    found = [path for path in first.keys() | second.keys() if first.get(path) != second.get(path)]
    return sorted(path for path in found if not _same(first.get(path), second.get(path), before, after, path))


_Stat = tuple[int, int, int, str]


def _stats(root: Path) -> dict[str, _Stat]:
    """Mode, size, time in ns, and where a link leads, whose own time a copy may not keep."""
    found: dict[str, _Stat] = {}
    todo = [""]
    while todo:
        inner = todo.pop()
        with os.scandir(root / inner) as entries:
            for entry in entries:
                path = f"{inner}/{entry.name}" if inner else entry.name
                if entry.is_dir(follow_symlinks=False):
                    todo.append(path)
                    continue
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(info.st_mode):
                    found[path] = info.st_mode, 0, 0, os.readlink(root / path)
                else:
                    found[path] = info.st_mode, info.st_size, info.st_mtime_ns, ""
    return found


def _same(first: _Stat | None, second: _Stat | None, before: Path, after: Path, path: str) -> bool:
    """Whether two files differ in their times alone."""
    if first is None or second is None or first[:2] != second[:2] or not stat.S_ISREG(first[0]):
        return False
    return filecmp.cmp(before / path, after / path, shallow=False)


def harmful(tree: Path, changed: tuple[str, ...]) -> str | None:
    """Why a patched tree is not to be used: git's folder was written, or a link leads out."""
    root = os.path.realpath(tree)
    for path in changed:
        if ".git" in path.lower().split("/") and not path.startswith(OWN):
            return f"the patch touches git's own folder: `{path}`"
        if not os.path.lexists(tree / path):
            continue
        kind = (tree / path).lstat().st_mode
        if stat.S_ISLNK(kind):
            real = os.path.realpath(tree / path)
            if not real.startswith(root + os.sep) or real.startswith(os.path.join(root, ".git")):
                return f"the patch makes a link that leads out of the tree: `{path}`"
        elif not stat.S_ISREG(kind):
            return f"the patch makes something that is neither file nor link: `{path}`"
    return None


def through_link(tree: Path, patch: bytes, changed: Collection[str]) -> str | None:
    """Why a patch is refused whose paths lead through links, its own or the tree's; `patch` follows them.

    A path that changed itself was there before the link, and was deleted.
    """
    for name in set(names(patch)):
        plain = name[2:] if name[:2] in (b"a/", b"b/") else name  # renames come without
        path = os.fsdecode(plain)
        above = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        if path not in changed and any(os.path.islink(tree / parent) for parent in above):
            return f"the patch writes through a link: `{path}`"
    return None

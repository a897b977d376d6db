"""Patches as hostile input: each strategy, and what is refused or works."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swe_tasks import build, edited, opened, task

from sparring.tools.sandbox import Sandbox
from sparring.tools.swe.environments import Environments
from sparring.tools.swe.patches import Applied, apply, changes, names, refused
from sparring.tools.swe.sources import git

LEDGER = "ledger"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with opened() as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    return Environments(tmp_path_factory.mktemp("environments"))


Try = Callable[..., Applied]


@pytest.fixture
def on(shared: Environments, box: Sandbox, tmp_path: Path) -> Try:
    """Apply a patch to a fresh tree at `tmp_path/tree`."""

    def apply_to(name: str, patch: str | bytes) -> Applied:
        data = patch if isinstance(patch, bytes) else patch.encode(errors="surrogateescape")
        shared.tree(task(name), tmp_path / "tree")
        return asyncio.run(apply(data, tmp_path, shared.base(task(name)), box))

    return apply_to


def header(name: str, kind: str = "new file mode 100644") -> str:
    return f"diff --git a/{name} b/{name}\n{kind}\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n"


def test_strategies_in_their_order(on: Try) -> None:
    assert on(LEDGER, task(LEDGER).patch) == Applied("git apply", ("ledger/invoice.py", "ledger/money.py"))


def test_three_way(shared: Environments, box: Sandbox, tmp_path: Path) -> None:
    """Made for an older version, which the repository has: a line of context is another one now."""
    repository, lines = tmp_path / "repository", [f"line {number}\n" for number in range(9)]
    repository.mkdir()
    git(repository, "init", "-q")
    for text in ("".join(lines), "".join(lines).replace("line 5", "now another")):
        (repository / "a.txt").write_text(text)
        git(repository, "add", "--all")
        git(repository, "commit", "-q", "-m", "x")
    git(repository, "checkout", "-q", "HEAD~1")
    (repository / "a.txt").write_text("".join(lines).replace("line 3", "new"))
    patch = git(repository, "diff", "--full-index")
    commit = git(repository, "rev-parse", "HEAD@{1}").strip()
    instance = dataclasses.replace(task(LEDGER), source=repository, base_commit=commit)
    shared.tree(instance, tmp_path / "tree")
    found = asyncio.run(apply(patch.encode(), tmp_path, shared.base(instance), box))
    assert found == Applied("git apply --3way", ("a.txt",))
    expected = "".join(lines).replace("line 5", "now another").replace("line 3", "new")
    assert (tmp_path / "tree" / "a.txt").read_text() == expected


def test_patch_is_tried_where_git_is_too_strict(on: Try, tmp_path: Path) -> None:
    """A line of context that is not in the file: git refuses, `patch` takes it for a rough fit."""
    lines = task("parking").patch.splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith("@@")) + 1
    lines[place] = " what a model remembered wrongly\n"
    lines[1] = "index 1111111..2222222 100644\n"
    found = on("parking", "".join(lines))
    assert found == Applied("patch --fuzz=5", ("parking.py",))
    assert not list((tmp_path / "tree").glob("*.orig")) and not list((tmp_path / "tree").glob("*.rej"))


def test_a_patch_that_is_there_already(on: Try, tmp_path: Path) -> None:
    """Nothing changes, and it counts as applied."""
    text = (build.REPOS / LEDGER / "tree" / "README.md").read_text()
    lines = text.splitlines()
    hunk = f"--- a/README.md\n+++ b/README.md\n@@ -1,{len(lines)} +1,{len(lines)} @@\n"
    patch = hunk + f"-Older\n+{lines[0]}\n" + "".join(f" {line}\n" for line in lines[1:])
    assert on(LEDGER, patch) == Applied("already applied")
    assert (tmp_path / "tree" / "README.md").read_text() == text


def test_between_two_attempts_the_tree_is_as_it_was(on: Try, tmp_path: Path) -> None:
    """The first file fits and the second does not: nothing of the first is left."""
    patch = header("new.py") + "+x = 1\n" + task("parking").patch.replace("parking.py", "ledger/money.py")
    found = on(LEDGER, patch)
    assert found.strategy is None and "does not apply" in str(found.reason)
    assert not (tmp_path / "tree" / "new.py").exists()


OUT = "a link that leads out"
REFUSED = {
    "../outside": (header("../outside") + "+x\n", "leaves the tree: `a/../outside`"),
    "deep": (header("a/b/../../../x") + "+x\n", "leaves the tree"),
    "absolute": ("--- /dev/null\n+++ /etc/cron.d/x\n@@ -0,0 +1 @@\n+x\n", "leaves the tree: `/etc/cron.d/x`"),
    "quoted": ('--- /dev/null\n+++ "b/\\056./\\056./x"\n@@ -0,0 +1 @@\n+x\n', "leaves the tree"),
    ".git": (header(".git/hooks/post-checkout") + "+x\n", "git's own folder: `a/.git/hooks/post-checkout`"),
    ".GIT": (header("sub/.GIT/config") + "+x\n", "git's own folder"),
    "rename": (
        "diff --git a/README.md b/.git/config\nrename from README.md\nrename to .git/config\n",
        "git's own folder",
    ),
    "mode": (
        "diff --git a/.git/config b/.git/config\nold mode 100644\nnew mode 100755\n",
        "git's own folder",
    ),
    "after a hunk that lies": (
        header("x").replace("+1 @@", "+1,9 @@") + "+x\n" + header(".git/config") + "+x\n",
        "git's own folder",
    ),
    "link up": (header("l", "new file mode 120000") + "+../../x\n\\ No newline at end of file\n", OUT),
    "link away": (header("l", "new file mode 120000") + "+/etc/passwd\n\\ No newline at end of file\n", OUT),
    "link to git": (
        header("l", "new file mode 120000") + "+.git/config\n\\ No newline at end of file\n",
        OUT,
    ),
    "through a link": (
        header("l", "new file mode 120000")
        + "+ledger\n\\ No newline at end of file\n"
        + header("l/x.py")
        + "+x\n",
        "writes through a link: `l/x.py`",
    ),
    "through a link that leads out": (
        header("l", "new file mode 120000")
        + "+/tmp\n\\ No newline at end of file\n"
        + header("l/x")
        + "+x\n",
        "does not apply",
    ),
    "long name": (header("a/" * 600 + "x") + "+x\n", "too long"),
    "zero byte": (header("a\0b") + "+x\n", "zero byte"),
    "cut": (header("x").replace("+1 @@", "+1,9 @@") + "+x\n", "does not apply"),
    "prose": ("I would change the function so that it works.\n", "does not apply"),
    "for ed": ("1d\n0a\n!touch /tmp/x\n.\nw\n", "does not apply"),
    "bytes": (b"\xff\xfe\x00" * 99, "does not apply"),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_refused(on: Try, kind: str, tmp_path: Path) -> None:
    patch, said = REFUSED[kind]
    found = on(LEDGER, patch)
    assert found.strategy is None and said in str(found.reason) and "\n" not in str(found.reason)
    assert not (tmp_path / "outside").exists() and not Path("/tmp/x.py").exists()


def test_what_hunks_say_is_no_path(on: Try, tmp_path: Path) -> None:
    """A file about patches: its lines look like headers that would be refused."""
    text = "-- a/.git/config\n++ b/../x\ndiff --git a/.git/x b/.git/x\n"
    patch = edited(task(LEDGER), {"notes.md": text, "README.md": None})
    assert list(names(patch.encode())).count(b"a/.git/config") == 0 and refused(patch.encode()) is None
    assert on(LEDGER, patch) == Applied("git apply", ("README.md", "notes.md"))
    assert (tmp_path / "tree" / "notes.md").read_text() == text


def test_a_line_that_names_what_no_system_can_name_breaks_nothing(on: Try) -> None:
    patch = f"Index: {'x' * 300}/y\n{task(LEDGER).patch}"
    assert on(LEDGER, patch) == Applied("git apply", ("ledger/invoice.py", "ledger/money.py"))


@pytest.mark.parametrize(
    "name",
    ["with a space.py", "tab\there.py", "día/été 🏛.py", 'quote".py', "back\\slash.py", "b/ in b/ it.py"],
)
def test_names(on: Try, tmp_path: Path, name: str) -> None:
    patch = edited(task(LEDGER), {name: "x = 1\n"})
    assert on(LEDGER, patch) == Applied("git apply", (name,))
    assert (tmp_path / "tree" / name).read_text() == "x = 1\n"


def test_contents(on: Try, tmp_path: Path) -> None:
    """Binary files, CRLF, bytes that are no UTF-8, a mode, a link that stays inside, a deleted file."""
    files: dict[str, str | bytes | Path | None] = {
        "image.bin": bytes(range(256)) * 20,
        "crlf.txt": b"one\r\ntwo\r\n",
        "latin.txt": b"caf\xe9\n",
        "last": b"no end of line",
        "link": Path("ledger/money.py"),
        "README.md": None,
    }
    patch = edited(task(LEDGER), files)
    assert "GIT binary patch" in patch and "\udce9" in patch
    assert on(LEDGER, patch) == Applied("git apply", tuple(sorted(files)))
    for name, value in files.items():
        if isinstance(value, bytes):
            assert (tmp_path / "tree" / name).read_bytes() == value
    assert os.readlink(tmp_path / "tree" / "link") == "ledger/money.py"


def test_ten_megabytes(on: Try, tmp_path: Path) -> None:
    line = "".join(random.Random(0).choices("abcdefgh \n", k=1 << 16))
    text = line * 160 + "\n"
    patch = edited(task(LEDGER), {"big.txt": text})
    assert len(patch) > 10 << 20
    assert on(LEDGER, patch) == Applied("git apply", ("big.txt",))
    assert (tmp_path / "tree" / "big.txt").read_text() == text
    assert "longer than 32 MiB" in str(refused(b"+" * (33 << 20)))


def test_configuration_of_the_tree_is_not_obeyed(on: Try, tmp_path: Path) -> None:
    """Filters that an attributes file names are defined nowhere, and hooks are not run."""
    patch = edited(
        task(LEDGER), {".gitattributes": "* filter=evil diff=evil merge=evil\n", "x.py": "x = 1\n"}
    )
    assert on(LEDGER, patch) == Applied("git apply", (".gitattributes", "x.py"))


def test_changes_sees_every_kind(shared: Environments, tmp_path: Path) -> None:
    base, tree = shared.base(task(LEDGER)), shared.tree(task(LEDGER), tmp_path / "tree")
    assert changes(base, tree) == []
    (tree / "ledger/__init__.py").write_bytes((tree / "ledger/__init__.py").read_bytes())  # no change
    text = (tree / "README.md").read_bytes()
    (tree / "README.md").write_bytes(text[::-1])  # of the same size
    (tree / "ledger/money.py").chmod(0o755)
    (tree / "ledger/invoice.py").unlink()
    (tree / ".git/hooks").mkdir(exist_ok=True)
    (tree / ".git/hooks/x").touch()
    os.symlink("README.md", tree / "link")
    found = [".git/hooks/x", "README.md", "ledger/invoice.py", "ledger/money.py", "link"]
    assert changes(base, tree) == found

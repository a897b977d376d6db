"""Work trees of strangers: every state comes back, and its patch applies elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sparring.tools.swe import trees
from sparring.tools.swe.objects import EMPTY, Objects, TreeFailed
from sparring.tools.swe.submission import patch
from sparring.tools.swe.trees import Room, TreeTooLarge, WorkTree, clear

Change = Callable[[Path], object]


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects(tmp_path / "objects.git")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    (made / "calc.py").write_text("def f():\n    return 1\n")
    (made / "dos.txt").write_bytes(b"a\r\nb\r\n")
    (made / "latin.txt").write_bytes(b"caf\xe9\n")
    (made / "data.bin").write_bytes(bytes(range(256)))
    (made / "sub").mkdir()
    (made / "sub" / "a b.py").write_text("x\n")
    (made / "run.sh").write_text("#!/bin/sh\n")
    (made / "run.sh").chmod(0o755)
    os.symlink("../../etc", made / "out")
    return made


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], input=data, capture_output=True, check=True)
    return done.stdout.decode()


def write(name: str, data: bytes | str) -> Change:
    def change(folder: Path) -> None:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return change


def shell(line: str) -> Change:
    return lambda folder: subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True)


CHANGES = {
    "text": write("calc.py", "def f():\n    return 2\n"),
    "no end of line": write("calc.py", "x"),
    "CRLF": write("dos.txt", b"a\r\nc\r\n"),
    "a lone CR": write("dos.txt", b"a\rb\r\n"),
    "Latin-1": write("latin.txt", b"caf\xe8\n"),
    "binary": write("data.bin", bytes(range(255))),
    "NUL far behind": write("calc.py", b"x\n" * 9000 + b"\0"),
    "emptied": write("calc.py", ""),
    "deleted": lambda folder: (folder / "calc.py").unlink(),
    "mode": lambda folder: (folder / "calc.py").chmod(0o755),
    "mode off": lambda folder: (folder / "run.sh").chmod(0o644),
    "name with quotes": write('a "b" \\ c\n.py', "x\n"),
    "non-ASCII name": write("données/ü.txt", "x\n"),
    "name that is not UTF-8": write(os.fsdecode(b"\xff\xfe"), "x\n"),
    "name like an option": write("-rf", "x\n"),
    "name like a pattern": write(":!a", "x\n"),
    "link": lambda folder: os.symlink("/etc/passwd", folder / "link"),
    "link elsewhere": shell("ln -sfn nowhere out"),
    "link becomes folder": shell("rm out; mkdir out; echo 1 > out/x"),
    "folder becomes file": shell("rm -r sub; echo 1 > sub"),
    "file becomes folder": shell("rm calc.py; mkdir calc.py; echo 1 > calc.py/x"),
    "large": write("big.txt", "line\n" * 2_000_000),
    "many": shell("mkdir m; for i in $(seq 300); do echo $i > m/$i; done"),
    "nested repository": shell("git init -q n; cd n; echo 1 > f; git add f"),
    "nested repository without a commit": shell("git init -q n"),
    "empty folders": shell("mkdir -p e/f"),
    "git is gone": shell("rm -rf .git; echo 1 > new"),
    "git is broken": shell("rm -rf .git; echo nonsense > .git; echo 1 > new"),
    "evil configuration": shell(
        "git config core.fsmonitor 'touch PWNED'; git config filter.evil.clean 'touch PWNED';"
        "git config diff.evil.textconv 'touch PWNED'; git config core.hooksPath hooks; mkdir hooks;"
        "printf '#!/bin/sh\\ntouch PWNED\\n' > hooks/post-index-change; chmod +x hooks/*; echo y > sub/z;"
        "echo '* text=auto eol=lf filter=evil diff=evil ident' > .gitattributes; printf 'a\\r\\n$Id$' > i.txt"
    ),
    "attributes that lie": write(".gitattributes", "* -diff working-tree-encoding=UTF-16\n"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_comes_back_and_its_patch_makes_it_elsewhere(
    name: str, objects: Objects, folder: Path, tmp_path: Path
) -> None:
    git(folder, "init", "-q")
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    CHANGES[name](folder)
    after = tree.snapshot()
    assert tree.snapshot() == after and WorkTree(objects, folder).snapshot() == after
    assert not list(tmp_path.rglob("PWNED"))
    text = patch(objects, base, after)
    text.encode()
    packed = objects.pack(base, after)

    elsewhere = Objects(tmp_path / "elsewhere.git")  # where only the base is known
    other = WorkTree(elsewhere, folder)
    tree.restore(base)
    assert other.snapshot() == base
    elsewhere.unpack(packed)
    other.restore(after)
    assert WorkTree(elsewhere, folder).snapshot() == after

    other.restore(base)
    assert WorkTree(objects, folder).snapshot() == base
    clear(folder / ".git")
    if text:
        git(folder, "init", "-q")
        git(folder, "apply", "--binary", "-", data=text.encode())
    clear(folder / ".git")
    made = WorkTree(objects, folder).snapshot()
    assert patch(objects, made, after) == ""
    assert base != after


def test_the_hash_is_that_of_git(objects: Objects, folder: Path) -> None:
    (folder / "sub.py").write_text("sorts between `sub` the file and `sub/` the folder\n")
    (folder / "sub-x").write_text("x")
    found = WorkTree(objects, folder).snapshot()
    git(folder, "init", "-q")
    git(folder, "add", "--all", "--force")
    assert git(folder, "write-tree").strip() == found
    assert git(objects.folder, "fsck", "--strict", "--no-dangling") == ""
    assert WorkTree(objects, folder).snapshot() == found


def test_files_that_the_tree_ignores_are_kept_but_not_submitted(objects: Objects, folder: Path) -> None:
    (folder / "kept.log").write_text("known at the base\n")
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    made = "echo '*.log' > .gitignore; echo '!good.log' > sub/.gitignore; touch a.log sub/good.log"
    left = "mkdir -p sub/__pycache__ .pytest_cache; echo 1 > sub/__pycache__/a.pyc; echo 1 > .pytest_cache/x"
    shell(f"{made}; {left}")(folder)
    (folder / "kept.log").write_text("changed\n")
    after = tree.snapshot()
    heads = [line for line in patch(objects, base, after).splitlines() if line.startswith("diff --git")]
    named = {line.split(" b/")[1] for line in heads}
    assert named == {".gitignore", "sub/.gitignore", "sub/good.log", "kept.log"}
    clear(folder / "a.log")
    tree.restore(after)
    assert (folder / "a.log").exists() and (folder / "sub" / "__pycache__" / "a.pyc").exists()


def test_a_repository_may_ask_for_its_caches(objects: Objects, folder: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    shell("echo '!*.pyc' > .gitignore; echo 1 > a.pyc")(folder)
    assert "a.pyc" in patch(objects, base, tree.snapshot())


def test_a_link_whose_target_is_not_utf8_is_left_out(objects: Objects, folder: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    os.symlink(b"caf\xe9", os.fsencode(folder) + b"/bad")
    os.symlink("good", folder / "good")
    text = patch(objects, base, tree.snapshot())
    assert "b/good" in text and "b/bad" not in text


def test_what_is_too_large_is_refused_and_the_last_state_stays(objects: Objects, folder: Path) -> None:
    room = Room(file=100_000, total=1_000_000, entries=100, depth=10)
    tree = WorkTree(objects, folder, room)
    base = tree.snapshot()
    for line, said in (
        ("head -c 100001 /dev/zero > 'ü big'", "file `ü big` has 100001 bytes; at most 100000"),
        ("for i in $(seq 12); do head -c 90000 /dev/zero > $i; done", "hold more than 1000000 bytes"),
        ("mkdir m; for i in $(seq 100); do : > m/$i; done", "more than 100 files and folders"),
        ("mkdir -p a/b/c/d/e/f/g/h/i/j/k", "more than 10 deep"),
    ):
        shell(line)(folder)
        with pytest.raises(TreeTooLarge, match=said):
            tree.snapshot()
        tree.restore(base)
        assert tree.snapshot() == base


def test_folders_deeper_than_any_path_are_refused_and_cleared(objects: Objects, folder: Path) -> None:
    tree = WorkTree(objects, folder, Room(depth=10_000))
    code = "import os\nfor _ in range(400): os.mkdir('d' * 30); os.chdir('d' * 30)"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, check=True)
    with pytest.raises(TreeTooLarge):
        tree.snapshot()
    clear(folder)
    assert not folder.exists()


def test_what_is_closed_to_its_owner_is_opened(objects: Objects, folder: Path) -> None:
    (folder / "sub" / "a b.py").chmod(0)
    (folder / "sub").chmod(0)
    tree = WorkTree(objects, folder)
    after = tree.snapshot()
    assert b"sub/a b.py" in dict(objects.files(after))
    (folder / "sub").chmod(0)
    tree.restore(after)
    clear(folder)
    assert not folder.exists()


def test_pipes_and_sockets_are_passed_over(objects: Objects, folder: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    os.mkfifo(folder / "pipe")
    assert tree.snapshot() == base
    tree.restore(base)
    assert not (folder / "pipe").exists()


def test_a_change_within_the_clocks_tick_is_seen(
    objects: Objects, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same size, same times: only a second look tells."""
    tree = WorkTree(objects, folder)
    path = folder / "calc.py"
    path.write_text("aaaa")
    first = tree.snapshot()
    found = path.stat()
    monkeypatch.setattr(trees, "FRESH_S", 60.0)
    path.write_text("bbbb")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert tree.snapshot() != first


def test_unchanged_files_are_not_read_again(
    objects: Objects, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "FRESH_S", -1.0)
    tree = WorkTree(objects, folder)
    first = tree.snapshot()
    read: list[bytes] = []
    monkeypatch.setattr(trees, "_read", lambda path: read.append(path) or b"")
    assert tree.snapshot() == first and not read


def test_a_hard_link_is_parted_from_its_other_name(objects: Objects, folder: Path, tmp_path: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    clear(folder / "calc.py")
    (tmp_path / "outside").write_text("def f():\n    return 1\n")
    os.link(tmp_path / "outside", folder / "calc.py")
    tree.restore(base)
    assert (folder / "calc.py").stat().st_nlink == 1 and (tmp_path / "outside").exists()


def test_restoring_goes_through_no_link(objects: Objects, folder: Path, tmp_path: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "keep").write_text("x")
    shell(f"rm -r sub; ln -s {tmp_path / 'outside'} sub")(folder)
    tree.restore(base)
    assert os.listdir(tmp_path / "outside") == ["keep"] and (folder / "sub" / "a b.py").is_file()


def test_missing_and_damaged_objects_are_named_and_mended(objects: Objects, folder: Path) -> None:
    tree = WorkTree(objects, folder)
    base = tree.snapshot()
    (folder / "calc.py").write_text("new\n")
    after = tree.snapshot()
    packed = objects.pack(base, after)
    blob = dict(objects.files(after))[b"calc.py"].hash
    path = objects.folder / "objects" / blob[:2] / blob[2:]
    tree.restore(base)
    path.write_bytes(b"damaged")
    with pytest.raises(TreeFailed, match=f"object {blob[:12]} is not in .* or damaged"):
        tree.restore(after)
    objects.unpack(packed)
    tree.restore(after)
    with pytest.raises(TreeFailed, match="damaged"):
        objects.unpack(packed[:-10])


@pytest.mark.parametrize("name", [b"..", b".git", b"a/b", b".", b""])
def test_trees_of_a_strange_journal_lead_nowhere(objects: Objects, folder: Path, name: bytes) -> None:
    bad = objects.put("tree", b"40000 %s\0" % name + bytes.fromhex(EMPTY))
    with pytest.raises(TreeFailed, match="holds an entry"):
        WorkTree(objects, folder).restore(bad)


def test_restoring_reads_no_file_again_that_looks_the_same_and_is_not_deceived(
    objects: Objects, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = WorkTree(objects, folder)
    time.sleep(2 * trees.FRESH_S)
    base = tree.snapshot()
    path, before = folder / "calc.py", (folder / "calc.py").stat()
    path.write_text("def f():\n    return 2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    read, really = [], trees._read
    monkeypatch.setattr(trees, "_read", lambda path: [read.append(path), really(path)][1])
    tree.restore(base)
    assert read == [os.fsencode(path)] and path.read_text() == "def f():\n    return 1\n"
    assert tree.snapshot() == base

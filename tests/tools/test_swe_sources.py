"""Trees from bundles, repositories, folders and archives, and what archives are refused for."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sparring.errors import UserError
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.sources import checkout, git, unpack


def instance(source: Path | None, commit: str) -> Instance:
    return Instance("a", "a/a", commit, "It breaks.", "", "", (), (), source=source)


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, str, str]:
    """A repository with a past, a present and a future; the hashes of the last two."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "--initial-branch=main")
    hashes = []
    for text in ("past", "present", "future"):
        (folder / "été.txt").write_bytes(text.encode() + b"\r\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", text)
        hashes.append(git(folder, "rev-parse", "HEAD").strip())
    git(folder, "tag", "v2")
    return folder, hashes[1], hashes[2]


def bundled(folder: Path, place: Path) -> Path:
    git(folder, "bundle", "create", "-q", str(place / "a.bundle"), "--all")
    return place / "a.bundle"


def tarred(folder: Path, place: Path) -> Path:
    with tarfile.open(place / "a.tar.gz", "w:gz") as tar:
        tar.add(folder, "top")
    return place / "a.tar.gz"


def bare(folder: Path, place: Path) -> Path:
    git(place, "clone", "-q", "--bare", str(folder), "bare.git")
    return place / "bare.git"


@pytest.mark.parametrize("packed", [bundled, tarred, bare, lambda folder, place: folder])
def test_the_tree_knows_its_past_and_no_future(
    tmp_path: Path, repository: tuple[Path, str, str], packed: Callable[[Path, Path], Path]
) -> None:
    folder, base, future = repository
    tree = checkout(instance(packed(folder, tmp_path), base), tmp_path / "tree")
    assert (tree / "été.txt").read_bytes() == b"present\r\n"
    assert git(tree, "log", "--all", "--format=%s").split() == ["present", "past"]
    assert git(tree, "rev-parse", "HEAD").strip() == base
    assert git(tree, "status", "--porcelain") == git(tree, "tag") == git(tree, "remote") == ""
    assert git(tree, "branch", "--show-current").strip() == "main"
    with pytest.raises(UserError):
        git(tree, "cat-file", "-e", future)
    assert future not in "".join(
        path.read_text("latin-1") for path in (tree / ".git").rglob("*") if path.is_file()
    )


def test_plain_files(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    source.mkdir()
    (source / "a.py").write_text("a = 1\n")
    heads = set()
    for place, given in (("x", source), ("y", tarred(source, tmp_path))):
        tree = checkout(instance(given, ""), tmp_path / place)
        assert (tree / "a.py").read_text() == "a = 1\n"
        heads.add(git(tree, "rev-parse", "HEAD"))
    assert len(heads) == 1


def test_configuration_of_an_archive_is_not_read(tmp_path: Path, repository: tuple[Path, str, str]) -> None:
    folder, base, _ = repository
    (folder / ".git" / "config").write_text("[core\n")
    hook = folder / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    tree = checkout(instance(tarred(folder, tmp_path), base), tmp_path / "tree")
    assert (tree / "été.txt").exists() and not (tmp_path / "ran").exists()


def test_sources_that_are_refused(tmp_path: Path, repository: tuple[Path, str, str]) -> None:
    folder, base, _ = repository
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "empty").mkdir()
    cases = [
        (None, base, "names no source"),
        (tmp_path / "none", base, "does not exist"),
        (folder, "f" * 40, "git fetch"),
        (folder, "", "is not plain files; give `base_commit`"),
        (tmp_path / "junk", base, "git fetch"),
        (tmp_path / "junk", "", "is not plain files"),
        (tmp_path / "empty", base, "is no git repository"),
    ]
    for number, (source, commit, message) in enumerate(cases):
        with pytest.raises(UserError, match=message) as caught:
            checkout(instance(source, commit), tmp_path / f"tree{number}")
        assert "instance `a`" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not empty"):
        checkout(instance(folder, base), folder)
    (folder / ".git" / "objects" / "info" / "alternates").write_text("/elsewhere\n")
    with pytest.raises(UserError, match="borrows objects of another repository"):
        checkout(instance(folder, base), tmp_path / "tree")


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o777
    return made


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(b""))
    return path


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([member("../a")], "lies outside"),
        ([member("a/../../b")], "lies outside"),
        ([member("/etc/a")], "lies outside"),
        ([member("a\\..\\b")], "lies outside"),
        ([member("a", SYM, "/etc/passwd")], "links to `/etc/passwd`"),
        ([member("a", SYM, "../b")], "links to `../b`"),
        ([member("d/x", SYM, "."), member("d/l", SYM, "x/../..")], "links to `x/../..`"),
        ([member("a", SYM, "d"), member("a/b")], "lies behind a symbolic link"),
        ([member("a", SYM, "d"), member("a")], "lies behind a symbolic link"),
        ([member("a"), member("a", SYM, "d")], "links to `d`"),
        ([member("a", HARD, "../b")], "which is no file of the archive"),
        ([member("s", SYM, "d"), member("a", HARD, "s")], "which is no file of the archive"),
        ([member(".git/objects", SYM, "../o")], "is a symbolic link inside of a repository"),
        ([member("a", tarfile.CHRTYPE)], "is neither file nor folder"),
        ([member("a", tarfile.FIFOTYPE)], "is neither file nor folder"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, members: list[tarfile.TarInfo], message: str) -> None:
    path = archive(tmp_path / "a.tar", *members)
    with pytest.raises(UserError, match=message):
        unpack(path, tmp_path / "tree")
    assert not list((tmp_path / "tree").iterdir()), "nothing is unpacked before all of it is checked"


def test_links_that_stay_inside(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", member("d/a"), member("d/l", SYM, "../d/a"), member("h", HARD, "d/a"))
    unpack(path, tmp_path / "tree")
    assert (tmp_path / "tree" / "d" / "l").readlink() == Path("../d/a")
    assert (tmp_path / "tree" / "h").stat().st_mode & 0o777 == 0o755


def test_a_broken_archive_and_one_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.tar").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="is broken"):
        unpack(tmp_path / "a.tar", tmp_path / "x")
    monkeypatch.setattr("sparring.tools.swe.sources.MOST", 2)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(archive(tmp_path / "b.tar", *map(member, "abc")), tmp_path / "y")

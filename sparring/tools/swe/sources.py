"""From an instance's source to a git tree at its base commit.

The tree that comes out knows nothing of what came after that commit: only objects that the commit can reach
are fetched, and there are no remotes, tags or other branches. Agents have been seen to read the fix in the
repository's future (SWE-bench issue 465).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from sparring.errors import UserError

from .instances import Instance

LARGEST = 4 << 30
"""Bytes that an archive may unpack to."""
MOST = 500_000
"""Members that an archive may have."""
GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.autocrlf=false")
IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Sparring"), ("EMAIL", "sparring@localhost"), ("DATE", "946684800 +0000"))
}


def git(folder: Path, *arguments: str, data: bytes | None = None) -> str:
    """What a git command prints, run apart from the user's and the system's configuration.

    Raises:
        UserError: it failed; the message is its last line.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    apart = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    apart |= {"GIT_ALLOW_PROTOCOL": "file", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [*GIT, "-C", str(folder), *arguments],
            input=b"" if data is None else data,
            capture_output=True,
            env=kept | apart | IDENTITY,
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed; software tasks need it") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"git {arguments[0]}: {said[-1]}")
    return done.stdout.decode(errors="surrogateescape")


def checkout(instance: Instance, target: str | Path) -> Path:
    """Make `target` a git work tree of the instance at its base commit, on a branch `main`.

    Args:
        target: a folder that does not exist yet, or is empty.

    Raises:
        UserError: there is no source, it is unsafe or broken, the base commit is not in it, or the target is
            not empty.
    """
    target = Path(target)
    source = instance.source
    if source is None:
        raise UserError(f"instance `{instance.id}` names no source; its repository is not on this machine")
    if not source.exists():
        raise UserError(f"instance `{instance.id}`: source `{source}` does not exist")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"`{target}` is not empty; an instance is checked out into a folder of its own")
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="sparring-swe-") as folder:
            repository = source
            if source.is_file() and tarfile.is_tarfile(source):
                unpack(source, Path(folder) / "tree")
                repository = _top(Path(folder) / "tree")
            git(target, "init", "-q", "--initial-branch=main")
            if instance.base_commit:
                _fetch(repository, instance.base_commit, target, Path(folder))
            else:
                _plain(repository, target)
    except UserError as error:
        raise UserError(f"instance `{instance.id}`: {error}") from None
    except OSError as error:
        raise UserError(f"instance `{instance.id}`: {error}") from None
    return target


def _fetch(repository: Path, commit: str, target: Path, folder: Path) -> None:
    """Fetch what `commit` reaches, and nothing else.

    A repository of our own stands between: a bundle serves its refs alone, and the configuration of a
    repository that came in an archive is never read.
    """
    where = folder / "between"
    where.mkdir()
    git(where, "init", "-q", "--bare")
    if repository.is_dir():
        inner = _git_folder(repository)
        (where / "objects" / "info" / "alternates").write_text(f"{(inner / 'objects').resolve()}\n")
        if (inner / "shallow").is_file():
            shutil.copyfile(inner / "shallow", where / "shallow")
    else:
        git(where, "fetch", "-q", str(repository.resolve()), "+refs/*:refs/source/*")
    serve = "git -c uploadpack.allowAnySHA1InWant=true upload-pack"
    git(target, "fetch", "-q", "--no-tags", "--update-shallow", "--upload-pack", serve, str(where), commit)
    git(target, "reset", "-q", "--hard", commit)
    (target / ".git" / "FETCH_HEAD").unlink(missing_ok=True)
    shutil.rmtree(target / ".git" / "logs", ignore_errors=True)


def _git_folder(repository: Path) -> Path:
    """The folder of a repository that has `objects` in it, all of them."""
    inner = repository / ".git"
    if inner.is_file():
        raise UserError(f"source `{repository.name}` is a linked work tree; give the repository itself")
    inner = inner if inner.is_dir() else repository
    if not (inner / "objects").is_dir():
        raise UserError(f"source `{repository.name}` is no git repository, but `base_commit` is given")
    if (inner / "objects" / "info" / "alternates").exists():
        raise UserError(
            f"source `{repository.name}` borrows objects of another repository; repack it (git repack -a)"
        )
    return inner


def _plain(tree: Path, target: Path) -> None:
    """A tree without history: one commit, the same each time."""
    if not tree.is_dir() or (tree / ".git").exists():
        raise UserError(f"source `{tree.name}` is not plain files; give `base_commit`")
    shutil.copytree(tree, target, symlinks=True, dirs_exist_ok=True)
    git(target, "add", "--all", "--force")
    git(target, "commit", "-q", "--allow-empty", "--no-verify", "-m", "Source")


def _top(tree: Path) -> Path:
    """Where the files begin: the one folder in an archive, or its root."""
    inner = list(tree.iterdir())
    return inner[0] if len(inner) == 1 and inner[0].is_dir() and inner[0].name != ".git" else tree


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar archive into a new folder.

    Raises:
        UserError: a member lies or leads outside of the folder, is a device, or the whole is too large.
    """
    links: set[PurePosixPath] = set()
    files: set[PurePosixPath] = set()
    total = 0
    target.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):  # the standard library's own guard, since Python 3.11.4
                tar.extraction_filter = tarfile.data_filter
            members: list[tarfile.TarInfo] = []
            for member in tar:
                path = _checked(member, links, files)
                total += member.size
                if total > LARGEST or len(members) >= MOST:
                    raise UserError(
                        f"archive `{archive.name}` unpacks to more than {LARGEST >> 30} GiB or {MOST} files"
                    )
                (links if member.issym() else files).add(path)
                member.uid = member.gid = os.getuid() if hasattr(os, "getuid") else 0
                member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                members.append(member)
            for member in members:
                tar.extract(member, target, set_attrs=not member.issym(), numeric_owner=True)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"archive `{archive.name}` is broken: {error}") from None


def _checked(member: tarfile.TarInfo, links: set[PurePosixPath], files: set[PurePosixPath]) -> PurePosixPath:
    """The member's path, once it is sure to stay in the folder, whatever came before it."""
    path = PurePosixPath(member.name)
    wrong = None
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        wrong = "lies outside of the archive's folder"
    elif path in links or any(parent in links for parent in path.parents):
        wrong = "lies behind a symbolic link"
    elif member.issym() and (path in files or _leaves(path, member.linkname)):
        wrong = f"links to `{member.linkname}`, which may lie outside of the archive's folder"
    elif member.issym() and ".git" in path.parts:
        wrong = "is a symbolic link inside of a repository"
    elif member.islnk() and PurePosixPath(member.linkname) not in files:
        wrong = f"links to `{member.linkname}`, which is no file of the archive"
    elif not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        wrong = "is neither file nor folder"
    if wrong:
        raise UserError(f"archive member `{member.name}` {wrong}")
    return path


def _leaves(path: PurePosixPath, link: str) -> bool:
    """Whether a symbolic link at `path` may lead out of the root.

    Judged by its words, which say so only where every `..` comes first: folders below the root are no links
    (nothing may lie behind one), but what a later `..` follows may be.
    """
    parts = PurePosixPath(link).parts
    ups = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
    return PurePosixPath(link).is_absolute() or ".." in parts[ups:] or ups > len(path.parent.parts)

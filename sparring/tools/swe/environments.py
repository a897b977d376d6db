"""What an instance needs before anything can run in it: its tree, its interpreter, its tests after the fix.

Each is made once, under a lock between processes, in a folder that no sandbox may write; every work tree is a
copy of its own, without hard links, so that nothing a command does in one reaches another.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sparring.errors import SparringError, UserError

from .instances import Environment, Instance
from .patches import changes
from .sources import checkout, git

PATH = "/usr/local/bin:/usr/bin:/bin"
INSTALL = 1800.0
"""Seconds that `pip install` may take."""
PROBE = """
import json, sys
print(json.dumps([sys.version, sys.version_info[:2], [sys.prefix, sys.base_prefix, sys.exec_prefix]]))
"""


class EnvironmentFailed(SparringError):
    """An instance's tree or interpreter cannot be had on this machine: nobody's patch is at fault."""

    fault = "world"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that tests run on.

    Attributes:
        version: `sys.version`.
        prefixes: folders that a sandbox must let it read.
    """

    path: Path
    version: str
    prefixes: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Tests:
    """What `test_patch` makes of the files that it touches.

    Attributes:
        folder: holds them under their paths in the tree; those that it deletes are not there.
        paths: all that it touches.
    """

    __test__ = False  # pytest: not a test class, for all its name

    folder: Path
    paths: tuple[str, ...]


class Environments:
    """Prepared instances below one folder, shared by all processes that name it.

    Everything that goes wrong is an `EnvironmentFailed` with one line to read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).resolve()
        for name in ("trees", "tests", "venvs", "locks"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._interpreters: dict[str, Interpreter] = {}
        self._guard = threading.Lock()

    def base(self, instance: Instance) -> Path:
        """The prepared tree at the base commit, `.git` included; to be read only."""
        key = tree_key(instance)
        return self._once(self.folder / "trees" / key, lambda target: _checked_out(instance, target))

    def tree(self, instance: Instance, target: str | Path) -> Path:
        """A fresh work tree: a copy of the prepared one, times of files included.

        Args:
            target: a folder that does not exist yet, or is empty.
        """
        target, base = Path(target), self.base(instance)
        if target.exists() and any(target.iterdir()):
            raise EnvironmentFailed(f"`{target}` is not empty; a work tree gets a folder of its own")
        try:
            shutil.copytree(base, target, symlinks=True, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise EnvironmentFailed(f"instance `{instance.id}`: its tree cannot be copied: {error}") from None
        return target

    def tests(self, instance: Instance) -> Tests:
        """The files of the instance's `test_patch` as they are after it."""
        digest = _digest([tree_key(instance), instance.test_patch])
        folder = self._once(self.folder / "tests" / digest, lambda target: self._tests(instance, target))
        return Tests(folder / "files", tuple(json.loads((folder / "paths.json").read_text("utf-8"))))

    def interpreter(self, instance: Instance) -> Interpreter:
        """The interpreter with the instance's requirements installed.

        One without `pip` runs on `python`, by default Sparring's own; others get a virtual environment, one
        for all instances with the same interpreter and requirements. Installing a requirement may run code
        of its author's outside of the sandbox, as `pip install` does.
        """
        env = needed(instance)
        found = self._probed(env.python or sys.executable, instance)
        if not env.pip:
            return found
        folder = self.folder / "venvs" / _digest([str(found.path), found.version, sorted(env.pip)])
        with FileLock(self._lock(folder)):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                _install(found.path, env.pip, folder, instance)
                (folder / "done").touch()
        inner = self._probed(str(folder / "bin" / "python"), instance)
        return Interpreter(
            inner.path, inner.version, tuple(dict.fromkeys([*found.prefixes, *inner.prefixes]))
        )

    def python(self, instance: Instance) -> Path:
        """The path of `interpreter`."""
        return self.interpreter(instance).path

    def variables(self, instance: Instance, tree: str | Path | None = None) -> dict[str, str]:
        """What a shell in the tree needs to find interpreter and modules.

        Args:
            tree: where the tree lies for that shell; without it the paths hold from the tree's root alone.
        """
        paths = needed(instance).python_path
        shown = [os.path.normpath(Path(tree) / path) if tree else path for path in paths]
        return {
            "PATH": f"{self.python(instance).parent}:{PATH}",
            "PYTHONPATH": os.pathsep.join(shown),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def readable(self, instance: Instance) -> tuple[Path, ...]:
        """The folders that a sandbox must be opened with (`read`) so that the interpreter runs in it."""
        return self.interpreter(instance).prefixes

    def digest(self, instance: Instance) -> str:
        """What the tests run in, as a hash: interpreter, requirements, command, paths, time limit.

        Nothing is installed for it.
        """
        env = needed(instance)
        found = self._probed(env.python or sys.executable, instance)
        own = [] if env.pip else [found.path.as_posix(), _pytest_version()]
        words = [env.test_command, env.python_path, env.timeout, sorted(env.pip)]
        return _digest([found.version, own, *words])

    def _probed(self, python: str, instance: Instance) -> Interpreter:
        with self._guard:
            if python not in self._interpreters:
                self._interpreters[python] = _probe(python, instance)
            return self._interpreters[python]

    def _lock(self, target: Path) -> Path:
        return self.folder / "locks" / f"{target.parent.name}-{target.name}.lock"

    def _once(self, target: Path, make: Callable[[Path], None]) -> Path:
        """`target`, made by `make` if it is not there; it appears whole or not at all."""
        if target.exists():
            return target
        with FileLock(self._lock(target)):
            if not target.exists():
                half = target.with_name(f"{target.name}.half")
                try:
                    shutil.rmtree(half, ignore_errors=True)
                    make(half)
                    half.rename(target)
                except OSError as error:
                    raise EnvironmentFailed(f"`{target}` cannot be made: {error}") from None
                finally:
                    shutil.rmtree(half, ignore_errors=True)
        return target

    def _tests(self, instance: Instance, target: Path) -> None:
        after = target / "after"
        base = self.base(instance)
        self.tree(instance, after)
        if instance.test_patch.strip():
            try:
                # as the harness, which ends it with a newline: data sets have been stripped of the last one
                git(after, "apply", "-", data=f"{instance.test_patch}\n".encode())
            except UserError as error:
                raise EnvironmentFailed(f"instance `{instance.id}`: its test_patch fails: {error}") from None
        paths = [path for path in changes(base, after) if path.partition("/")[0] != ".git"]
        (target / "files").mkdir()
        for path in paths:
            if os.path.lexists(after / path):
                (target / "files" / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(after / path, target / "files" / path, follow_symlinks=False)
        (target / "paths.json").write_text(json.dumps(paths), "utf-8")
        shutil.rmtree(after)


def needed(instance: Instance) -> Environment:
    """The instance's environment.

    Raises:
        EnvironmentFailed: the row has none.
    """
    if instance.environment is None:
        raise EnvironmentFailed(f"instance `{instance.id}` has no `environment` that says how tests are run")
    return instance.environment


def tree_key(instance: Instance) -> str:
    """What the tree at the base is made from, as a hash; the source's place does not count where a commit
    says what is in it."""
    if instance.base_commit:
        return _digest([instance.base_commit])
    source = instance.source
    if source is None or not source.exists():
        return _digest([str(source)])
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    stats = [(path.as_posix(), path.lstat()) for path in files]
    return _digest([[name, stat.st_size, stat.st_mtime_ns, stat.st_mode] for name, stat in stats])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _pytest_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pytest")
    except PackageNotFoundError:
        return ""


def _checked_out(instance: Instance, target: Path) -> None:
    try:
        checkout(instance, target)
        # one file instead of hundreds, for each tree is a copy of this one
        git(target, "repack", "-a", "-d", "-q")
        for sample in (target / ".git" / "hooks").glob("*.sample"):
            sample.unlink()
    except UserError as error:
        raise EnvironmentFailed(str(error)) from None


def _probe(python: str, instance: Instance) -> Interpreter:
    """Ask an interpreter who it is."""
    path = shutil.which(os.path.expanduser(python))
    where = f"instance `{instance.id}`: interpreter `{python}`"
    if path is None:
        raise EnvironmentFailed(f"{where} is not on this machine")
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", PROBE],
            capture_output=True,
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        version, numbers, prefixes = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise EnvironmentFailed(f"{where} does not work: {_last(str(error))}") from None
    if numbers < [3, 8]:
        raise EnvironmentFailed(f"{where} is Python {numbers[0]}.{numbers[1]}; tests need 3.8 or newer")
    # -S leaves sys.prefix at the base of a virtual environment (Python < 3.14)
    outer = Path(path).parent.parent
    own = [str(outer)] if (outer / "pyvenv.cfg").exists() else []
    return Interpreter(Path(path).absolute(), version, tuple(map(Path, dict.fromkeys([*own, *prefixes]))))


def _install(python: Path, pip: tuple[str, ...], folder: Path, instance: Instance) -> None:
    inner = str(folder / "bin" / "python")
    quiet = ["--no-input", "--disable-pip-version-check", "--quiet"]
    for command in ([str(python), "-m", "venv", str(folder)], [inner, "-m", "pip", "install", *quiet, *pip]):
        what = f"instance `{instance.id}`: {'pip install' if 'pip' in command else 'a virtual environment'}"
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=INSTALL, check=False
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EnvironmentFailed(f"{what} failed: {_last(str(error))}") from None
        if done.returncode:
            raise EnvironmentFailed(f"{what} failed: {_last(done.stderr) or _last(done.stdout)}")
    for path in [folder, *folder.rglob("*")]:  # whatever the umask: the sandbox's user reads it
        if not path.is_symlink():
            mode = path.stat().st_mode & 0o777
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))


def _last(text: str) -> str:
    """The line of a program's words that says most: its last error, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [""])[-1][:300]

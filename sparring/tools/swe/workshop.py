"""Where software engineers work: a bench for each attempt, with a tree, a shell in the sandbox, and a memory.

    shop = Workshop(folder, kind="auto")
    bench = shop.bench(instance, "attempt-1")
    base = await bench.base()
    ran, tree = await bench.run("pytest -q", Limits(wall=60))

Below the folder: `objects.git` keeps the states of all trees (`trees`), `environments` what instances need,
`work` the trees themselves. All of it can be made again: the first from what `Bench.delta` gives, the others
from the instances' sources.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.errors import SparringError, ToolFailed, UserError
from sparring.tools.sandbox import Description, Limits, Ran, Sandbox
from sparring.tools.sandbox.base import Kind

from .instances import Instance
from .objects import Objects, TreeFailed, is_git
from .trees import Room, TreeTooLarge, WorkTree, clear

if TYPE_CHECKING:
    from .environments import Environments
    from .grading import Grader

SHELL = 'if command -v bash >/dev/null; then exec bash -c "$0"; else exec sh -c "$0"; fi 2>&1'
"""Runs its argument; both outputs are one, in the order in which they were written."""
PLAIN = {"PYTHONDONTWRITEBYTECODE": "1", "PAGER": "cat", "GIT_PAGER": "cat", "TERM": "dumb"}
"""Programs that wait for a key at the end of a page have nobody to press it."""
LARGEST_DELTA = 8 << 20
"""Compressed bytes of the changes of one step that are worth a place in a journal."""


class Workshop:
    """The benches of a run, its sandbox and its grader.

    Args:
        folder: may be deleted between two runs.
        workers: commands and grades that run at a time; the others wait. None: one for each core.
        options: of `Sandbox.open`, beside the kind.
    """

    def __init__(
        self, folder: str | Path, kind: Kind = "auto", workers: int | None = None, **options: Any
    ) -> None:
        from .environments import Environments

        self.slots = asyncio.Semaphore(workers or os.cpu_count() or 1)
        """To be held by whatever runs a repository's code: tests that share a core run into their limits."""
        self.folder = Path(folder).resolve()
        self.objects = Objects(self.folder / "objects.git")
        self.environments: Environments = Environments(self.folder / "environments")
        self._kind, self._options = kind, options
        self._boxes: dict[tuple[Path, ...], Sandbox] = {}
        self._opening = threading.Lock()
        self._benches: dict[str, Bench] = {}
        self._grader: Grader | None = None
        self.box(())  # no sandbox, no work

    def box(self, read: tuple[Path, ...]) -> Sandbox:
        """A sandbox in which these folders can be read too."""
        with self._opening:  # benches are laid out side by side, in threads
            if read not in self._boxes:
                self._boxes[read] = Sandbox.open(self._kind, read=read, **self._options)
            return self._boxes[read]

    def describe(self) -> Description:
        """What holds the commands, for the journal."""
        return self.box(()).describe()

    @property
    def grader(self) -> Grader:
        """Judges patches, in trees and sandboxes of its own."""
        from .grading import Grader

        if self._grader is None:
            self._grader = Grader(self.box(()), self.folder / "environments")
        return self._grader

    def bench(self, instance: Instance, name: str, room: Room | None = None) -> Bench:
        """The place of the attempt `name`; the same one each time."""
        if name not in self._benches:
            self._benches[name] = Bench(self, instance, self.folder / "work" / name, room)
        return self._benches[name]

    async def leave(self, name: str) -> None:
        """Delete the tree of an attempt that is over."""
        if (bench := self._benches.pop(name, None)) is not None:
            await asyncio.to_thread(bench.clear)
        else:
            await asyncio.to_thread(clear, self.folder / "work" / name)

    def close(self) -> None:
        """End sandboxes and grader. Trees of attempts that go on stay, and are made anew when they do."""
        if self._grader is not None:
            self._grader.close()
        for box in self._boxes.values():
            box.close()


class Bench:
    """One attempt's tree and shell. Commands come one after another."""

    def __init__(self, shop: Workshop, instance: Instance, place: Path, room: Room | None) -> None:
        self._shop, self.instance, self.place = shop, instance, place
        self._tree = WorkTree(shop.objects, place / "tree", room)
        self.folder = self._tree.folder
        self._box: Sandbox | None = None
        self._variables: Mapping[str, str] = {}
        self._state: str | None = None
        """The tree that is laid out now; None where there is none, or nobody knows."""
        self._base: str | None = None
        """The one that everything here has come of since this process laid it out."""

    async def base(self) -> str:
        """Lay the instance's tree out anew; its hash.

        Raises:
            TreeFailed: it cannot be had.
        """
        self._state = self._base = None
        self._state = self._base = await asyncio.to_thread(self._fresh)
        return self._state

    def clear(self) -> None:
        """Delete the tree, and the container that has it."""
        if self._box is not None:
            self._box.forget(self.folder)
        clear(self.place)

    def _fresh(self) -> str:
        self.clear()
        self.place.mkdir(parents=True)
        environments = self._shop.environments
        try:
            environments.tree(self.instance, self.folder)
            read: tuple[Path, ...] = ()
            env = self.instance.environment
            if env is not None and self._shop.box(()).containers:  # the image has an interpreter of its own
                self._variables = {
                    "PYTHONPATH": ":".join(str(self.folder / path) for path in env.python_path)
                }
            elif env is not None:
                read = tuple(environments.readable(self.instance))
                self._variables = environments.variables(self.instance, self.folder)
        except (UserError, ToolFailed):
            raise
        except SparringError as error:  # the world's: this attempt cannot be made, others may
            raise TreeFailed(str(error)) from error
        self._box = self._shop.box(read)
        base = self._tree.snapshot()
        self._box.hand_over(self.folder)
        return base

    async def at(
        self, base: str, tree: str, deltas: Callable[[], Iterable[bytes]], *, anew: bool = False
    ) -> None:
        """See to it that the tree is what it was at a snapshot; one that is, is left alone.

        Otherwise it is laid out anew, its `.git` as it is at the base, and made equal to `tree`.

        Args:
            deltas: what `delta` gave of each step since the base, asked for only where this folder's own
                store lacks an object.
            anew: in any case, `.git` as it is at the base, so that nothing of it is left of before.

        Raises:
            TreeFailed: the instance's source is not what it was, or the state cannot be made again.
        """
        if self._state == tree and not anew:
            return
        if anew and self._base == base:  # what is there differs in little from what is wanted
            self._state = None
            await asyncio.to_thread(self._renew_git)
        elif (found := await self.base()) != base:
            raise TreeFailed(
                f"instance `{self.instance.id}`: its tree at the base is {found[:12]}; was {base[:12]} when "
                "the attempt began; restore the source, or begin another run"
            )
        self._state = None
        try:
            await asyncio.to_thread(self._tree.restore, tree)
        except TreeFailed:
            for delta in deltas():
                self._shop.objects.unpack(delta)
            await asyncio.to_thread(self._tree.restore, tree)
        assert self._box is not None  # `base` opened it
        self._box.hand_over(self.folder)
        self._state = tree

    def _renew_git(self) -> None:
        """Make all that is git's at the top what it is at the base."""
        try:
            base = self._shop.environments.base(self.instance)
            for name in filter(_is_gits, os.listdir(self.folder)):
                clear(self.folder / name)
            for name in filter(_is_gits, os.listdir(base)):
                if (base / name).is_dir() and not (base / name).is_symlink():
                    shutil.copytree(base / name, self.folder / name, symlinks=True)
                else:
                    shutil.copy2(base / name, self.folder / name, follow_symlinks=False)
        except (UserError, ToolFailed):
            raise
        except (SparringError, OSError) as error:
            raise TreeFailed(
                f"instance `{self.instance.id}`: its `.git` cannot be laid out: {error}"
            ) from error

    async def run(self, command: str, limits: Limits) -> tuple[Ran, str | TreeTooLarge]:
        """Run a command in a fresh shell at the tree's root; how it ended, and the tree that it left, or why
        that is more than is kept: the tree before it can still be laid out then.

        Raises:
            SandboxFailed: it was never started.
        """
        assert self._box is not None and self._state is not None, "`base` or `at` comes first"
        self._state = None
        env = {**PLAIN, **self._variables}
        words = ["/bin/sh", "-c", SHELL, command]
        async with self._shop.slots:
            ran = await self._box.arun(words, work=self.folder, limits=limits, env=env)
        try:
            self._state = await asyncio.to_thread(self._tree.snapshot)
        except TreeTooLarge as large:
            return ran, large
        return ran, self._state

    def delta(self, before: str, after: str) -> bytes | None:
        """What it takes to make one state of the other, compressed; None where that is too much to keep."""
        packed = self._shop.objects.pack(before, after)
        return packed if len(packed) <= LARGEST_DELTA else None


def _is_gits(name: str) -> bool:
    return is_git(os.fsencode(name))

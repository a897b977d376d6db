"""What all protocols with a software engineer share: the place, a step in it, the patch, and the verdict.

A step is a reply of the engineer's and what came of it. Where it stands in its episode, a line of steps or a
tree of them, is its protocol's affair (`software`, `software_search`).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from sparring.agents.engines.base import Message
from sparring.agents.roles import Role
from sparring.agents.shell import action
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.software_tasks import graded, instance, software_tasks
from sparring.graphs.sandboxed import note_sandbox
from sparring.memory.records import TaskRecord, Turn
from sparring.memory.run import RunHandle
from sparring.memory.versions import folder_beside
from sparring.tools.sandbox import Limits, Ran, Sandbox
from sparring.tools.sandbox.base import Kind
from sparring.tools.swe.instances import Instance
from sparring.tools.swe.objects import TreeFailed
from sparring.tools.swe.submission import patch
from sparring.tools.swe.trees import TreeTooLarge
from sparring.tools.swe.workshop import Bench, Workshop

MARKER = "SPARRING_SUBMIT_WORK"
"""The first line of a command's output that ends the work, where the command succeeds."""
SUBMITTED = "submitted"
SEAT = "engineer"
LARGEST_PATCH = 32 << 20
"""Characters."""
SHOWN_LEFT = 5
"""From how many commands on the engineer is told how many are left."""
Made = dict[str, Any]
"""What came of a step, as its event keeps it: `action` (None: there was none, and `error` says why),
`observation`, `returncode`, `seconds`, `killed_by`, `bytes`, `submitted`, `tree` (None: it was too large, as
`error` says) and the `delta` that leads to it."""


@dataclass(frozen=True)
class Spot:
    """Where a step begins."""

    base: str
    tree: str
    made: Callable[[], Iterable[Mapping[str, Any]]]
    """The steps that led there from the base."""

    def deltas(self) -> Iterable[bytes]:
        return (b64decode(one["delta"]) for one in self.made() if one.get("delta"))


class Workplace(Protocol):
    """The options of an engineer's place."""

    model_config = ConfigDict(allow_inf_nan=False)
    sampled: ClassVar[bool] = False

    timeout: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds of one command."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds of an attempt, those of earlier processes included; checked between steps."""
    output: int = Field(default=10_000, ge=200)
    """Bytes that are kept of what a command prints, half of them from its end."""
    memory: int = Field(default=2 << 30, ge=64 << 20)
    """Bytes that a command and all it starts may hold."""
    sandbox: Kind = "auto"
    """Kind of sandbox, as of `Sandbox.open`."""
    image: str | None = None
    """Of a container."""
    i_understand: bool = False
    """Needed for `sandbox=none`: commands run unprotected."""
    workers: int | None = Field(default=None, ge=1)
    """Commands and grades that run at a time, over all episodes; None: one for each core."""
    folder: str | None = None
    """Where trees are; by default beside the journal (`JOURNAL.swe`)."""
    grade: bool = True
    """Whether patches are judged."""

    def engineer(self, more: Iterable[str] = (), shipped: str | None = None) -> Role:
        """The engineer's role; `more` are variables of its prompt beside those of every engineer."""
        occasions = dict.fromkeys(("task", "observation", "mistake"), action)
        first = ["question", "timeout", "steps", "marker"]
        later = ["output", "returncode", "ended", "left", "mistake"]
        return self.role(SEAT, occasions, [*first, *later, *more], shipped)

    def tasks(
        self,
        source: str | Path | Iterable[TaskRecord | Mapping[str, Any] | Instance],
        limit: int | None = None,
    ) -> tuple[TaskRecord, ...]:
        """Instances: a file or folder that `load_instances` reads, or instances, or rows of them."""
        return software_tasks(source, limit)

    def accepts(self, task: TaskRecord) -> None:
        one = instance(task)
        if one.source is None:
            raise UserError(f"instance `{task.id}`: it names no `source`; nobody can work on it here")
        if not one.source.exists():
            make = one.meta.get("make")
            what = f"make it with `{make}`" if make else "nobody can work on it on this machine"
            raise UserError(f"instance `{task.id}`: source `{one.source}` does not exist; {what}")

    def ready(self) -> None:
        if shutil.which("git") is None:
            raise UserError("git is not installed; software tasks need it")
        Sandbox.open(self.sandbox, image=self.image, i_understand=self.i_understand).close()

    @asynccontextmanager
    async def equipment(self, run: RunHandle) -> AsyncIterator[Workshop]:
        """The workshop; what holds its commands is journaled with the run."""
        folder = Path(self.folder) if self.folder else folder_beside(run.journal, "swe")
        options: dict[str, Any] = {"image": self.image, "i_understand": self.i_understand}
        options["workers"] = self.workers
        shop = await asyncio.to_thread(lambda: Workshop(folder.expanduser(), self.sandbox, **options))
        try:
            await note_sandbox(run, shop.describe())
            yield shop
        finally:
            await asyncio.to_thread(shop.close)

    async def judgement(self, context: Context, outcome: Outcome | None) -> dict[str, Any] | None:
        """The grade of the patch; None where the world failed and not the patch."""
        return await graded(context, outcome) if self.grade else None

    # --- a step -----------------------------------------------------------------------------------

    async def base(self, context: Context) -> str:
        """The tree at the base commit, laid out unless the journal has it."""
        known = context.episode.event_payload("base", "0")
        if known is None:
            known = await context.episode.event("base", "0", {"tree": await bench(context).base()})
        return str(known["tree"])

    def task_shown(self, question: str, steps: int, strategy: str = "") -> dict[str, Any]:
        """What the engineer's first prompt is given."""
        given = {"question": question, "timeout": f"{self.timeout:g}", "steps": steps}
        return {**given, "marker": MARKER, "strategy": strategy}

    async def speak(
        self, context: Context, key: str, occasion: str, variables: dict[str, Any], said: list[Message]
    ) -> tuple[list[Message], Turn]:
        """The engineer's next words, and the conversation with them."""
        return await context.converse(SEAT, key, occasion, variables, said)

    async def work(
        self, context: Context, command: str, spot: Spot, spent: float, *, anew: bool = False
    ) -> Made:
        """Run a command in the tree as the step before it left it.

        Args:
            spent: seconds of the attempt so far.
            anew: nothing but the tree lasts, `.git` neither.
        """
        place = bench(context)
        await place.at(spot.base, spot.tree, spot.deltas, anew=anew)
        wall = self.timeout if self.seconds is None else max(1.0, min(self.timeout, self.seconds - spent))
        limits = Limits(wall=wall, cpu=max(60, ceil(self.timeout)), memory=self.memory, output=self.output)
        made: Made = {"action": command, "error": None, "tree": None, "delta": ""}
        ran, after = await place.run(command, limits)
        made |= _ending(ran)
        if isinstance(after, TreeTooLarge):
            return made | {"error": str(after), "submitted": False}
        if after != spot.tree:
            delta = await asyncio.to_thread(place.delta, spot.tree, after)
            made["delta"] = None if delta is None else b64encode(delta).decode()
        return made | {"tree": after}

    def shown(self, made: Mapping[str, Any], left: int) -> tuple[str, dict[str, Any]]:
        """The occasion and variables of the engineer's next prompt, after a step that goes on."""
        if made["action"] is None:
            return "mistake", {"mistake": made["error"]}
        return "observation", {
            "output": made["observation"].strip("\n"),
            "returncode": made["returncode"],
            "ended": self.why(made["killed_by"]),
            "left": left if left <= SHOWN_LEFT else None,
        }

    def why(self, killed_by: str | None) -> str:
        """In words, why a command was ended; empty where it was not."""
        words = {
            "wall": f"it ran longer than {self.timeout:g} seconds",
            "cpu": f"it used the processor for more than {self.timeout:g} seconds",
            "memory": f"it held more than {self.memory >> 20} MiB of memory",
            "processes": "it started too many processes",
            "output": "it printed too much",
        }
        return "" if killed_by is None else words.get(killed_by, killed_by)

    async def patch(self, context: Context, spot: Spot) -> str:
        """What differs at a spot from the base."""
        shop: Workshop = context.equipment
        asked = (shop.objects, spot.base, spot.tree)
        try:
            return await asyncio.to_thread(patch, *asked)
        except TreeFailed:  # the store is gone: the journal has what it takes
            await bench(context).at(spot.base, spot.tree, spot.deltas)
            return await asyncio.to_thread(patch, *asked)


def bench(context: Context) -> Bench:
    """The place of the attempt that is made in this episode, or in this part of it."""
    assert context.task is not None, "whoever plays an episode names its task"
    shop: Workshop = context.equipment
    return shop.bench(instance(context.task), context.episode.id)


def nothing(fault: str, tree: str) -> Made:
    """What comes of a reply without a command."""
    return {"action": None, "error": fault, "tree": tree}


def fault(turn: Turn) -> str | None:
    """Why a turn holds no command; one that was cut off after its command holds it."""
    return None if turn.parsed is not None else turn.error or turn.status


def since(mark: float) -> float:
    """Seconds since a moment of this process."""
    return time.monotonic() - mark


def _ending(ran: Ran) -> dict[str, Any]:
    """How a command ended, for the journal."""
    said = ran.stdout + ran.stderr
    first = said.lstrip().partition("\n")[0].strip()
    return {
        "observation": said,
        "returncode": ran.returncode,
        "seconds": round(ran.seconds, 4),
        "killed_by": ran.killed_by,
        "bytes": ran.stdout_bytes + ran.stderr_bytes,
        "submitted": first == MARKER and ran.returncode == 0 and ran.killed_by is None,
    }

"""A software engineer resolves an issue of a repository with a shell (the loop of mini-swe-agent 2.4).

    1. The engineer reads the issue and says one command.
    2. It runs in a fresh shell of the sandbox; what it printed is the next message of one linear history.
    3. And so on, until the first line that a command prints is the marker, or a limit is reached.
    4. What differs in the work tree then is the patch, whatever git in the tree says.

Every command is a turn `step/K` and an event `step` that keeps the tree it left, so that a run goes on from
the journal alone, and a fork begins at any step. The patch is graded in another tree (`verdict`).
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from sparring.agents.engines.base import Message
from sparring.agents.roles import Role
from sparring.agents.shell import action
from sparring.errors import BudgetExceeded, UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol
from sparring.graphs.protocols.software_tasks import graded, instance, software_tasks
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.sandboxed import note_sandbox
from sparring.memory.journal import Journal
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

log = logging.getLogger("sparring")
MARKER = "SPARRING_SUBMIT_WORK"
"""The first line of a command's output that ends the work, where the command succeeds."""
SUBMITTED = "submitted"
SEAT = "engineer"
LARGEST_PATCH = 32 << 20
"""Characters."""
SHOWN_LEFT = 5
"""From how many commands on the engineer is told how many are left."""


class SoftwareState(TypedDict, total=False):
    question: str
    base: str
    tree: str
    """The last one that was kept."""
    step: int
    """The next one."""
    said: list[Message]
    occasion: str
    variables: dict[str, Any]
    """Of the next message."""
    turn: dict[str, Any]
    mistakes: int
    """Format errors in a row."""
    elapsed: float
    """Seconds of this episode until `mark`, over all processes that played it."""
    mark: float
    exit: str
    reason: str
    outcome: Outcome


class SoftwareTask(Protocol):
    """One engineer, one shell, one issue."""

    name: ClassVar[str] = "software"

    steps: int = Field(default=100, ge=1)
    """Commands, format errors included."""
    timeout: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds of one command."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds of an episode, those of earlier processes included; checked between steps."""
    format_errors: int = Field(default=3, ge=1)
    """Replies in a row without exactly one command that end the work."""
    output: int = Field(default=10_000, ge=200)
    """Bytes that are kept of what a command prints, half of them from its end."""
    memory: int = Field(default=2 << 30, ge=64 << 20)
    """Bytes that a command and all it starts may hold."""
    sandbox: Kind = "auto"
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

    def seats(self) -> dict[str, Role]:
        occasions = dict.fromkeys(("task", "observation", "mistake"), action)
        first = ["question", "timeout", "steps", "marker"]
        later = ["output", "returncode", "ended", "left", "mistake"]
        return {SEAT: self.role(SEAT, occasions, [*first, *later])}

    @property
    def max_calls(self) -> int:
        return self.steps

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

    def beginning(self, steps: int) -> tuple[list[str], list[tuple[str, str]]]:
        keys = [str(step) for step in range(steps)]
        return [f"step/{key}" for key in keys], [("base", "0"), *(("step", key) for key in keys)]

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        """Of episodes that reached no cap: shares submitted, with a patch, ended otherwise; mean steps."""
        found = detailed_outcomes(journal, run, episodes)
        if not found:
            return {}
        ends = Counter(outcome["detail"]["exit_status"] for outcome in found)
        shares = {
            f"ended_{name}": count / len(found) for name, count in sorted(ends.items()) if name != SUBMITTED
        }
        patched = sum(bool(outcome["answer"]) for outcome in found) / len(found)
        steps = sum(outcome["detail"]["steps"] for outcome in found) / len(found)
        return {SUBMITTED: ends[SUBMITTED] / len(found), "patched": patched, "steps": steps, **shares}

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        graph = StateGraph(SoftwareState, context_schema=Context)
        for node in (self.begin, self.ask, self.execute, self.submit):
            graph.add_node(node.__name__, node)
        graph.add_edge(START, "begin")
        for name, then in (("begin", "ask"), ("ask", "execute"), ("execute", "ask")):
            graph.add_conditional_edges(name, self.over, {True: "submit", False: then})
        graph.add_edge("submit", END)
        return graph

    def over(self, state: SoftwareState) -> bool:
        """Whether the work has come to its end."""
        return bool(state.get("exit"))

    async def begin(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The tree at the base commit; where an earlier process came to the end, on to it."""
        context = runtime.context
        known = context.episode.event_payload("base", "0")
        if known is None:
            tree = await _bench(context).base()
            known = await context.episode.event("base", "0", {"tree": tree})
        given = {"question": state["question"], "timeout": f"{self.timeout:g}", "steps": self.steps}
        return {
            "base": known["tree"],
            "tree": known["tree"],
            "step": 0,
            "said": [],
            "occasion": "task",
            "variables": {**given, "marker": MARKER},
            "mistakes": 0,
            "elapsed": 0.0,
            "mark": time.monotonic(),
            "exit": "" if context.episode.event_payload("exit", "0") is None else "known",
        }

    async def ask(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The engineer's next words, unless a limit is reached."""
        context, step = runtime.context, state["step"]
        if step >= self.steps:
            return {"exit": "steps", "reason": f"{self.steps} steps were made"}
        if state["mistakes"] >= self.format_errors:
            return {"exit": "format_errors", "reason": f"{state['mistakes']} replies without a command"}
        spent = state["elapsed"] + time.monotonic() - state["mark"]
        if self.seconds is not None and spent >= self.seconds and not _known(context, step):
            return {"exit": "seconds", "reason": f"the episode took {spent:.0f} s of {self.seconds:g}"}
        occasion, variables, said = state["occasion"], state["variables"], state["said"]
        try:
            turn = await context.act(SEAT, f"step/{step}", occasion, variables, said)
        except BudgetExceeded as reached:
            return {"exit": "capped", "reason": str(reached)}
        asked = context.agent(SEAT).messages(occasion, variables, said)
        reply: Message = {"role": "assistant", "content": turn.text if turn.text.strip() else "(no reply)"}
        return {"said": [*asked, reply], "turn": {"parsed": turn.parsed, "error": _fault(turn)}}

    async def execute(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """Run the command, or say why there is none; what came of it is journaled before it is believed."""
        context, step = runtime.context, state["step"]
        made = context.episode.event_payload("step", str(step))
        if made is None:
            made = await self._step(state, context)
            made["elapsed"] = state["elapsed"] + time.monotonic() - state["mark"]
            made = await context.episode.event("step", str(step), made)
        spent: SoftwareState = {"elapsed": made["elapsed"], "mark": time.monotonic()}
        return {"step": step + 1, **spent, **self._after(state, made)}

    def _after(self, state: SoftwareState, made: Mapping[str, Any]) -> SoftwareState:
        """What a step means for the next one."""
        if made["action"] is None:
            mistakes = state["mistakes"] + 1
            return {"mistakes": mistakes, "occasion": "mistake", "variables": {"mistake": made["error"]}}
        if made["tree"] is None:
            return {"exit": "oversized", "reason": made["error"]}
        if made["submitted"]:
            said = made["observation"].lstrip().partition("\n")[2].strip()
            return {"exit": SUBMITTED, "reason": said, "tree": made["tree"]}
        left = self.steps - state["step"] - 1
        shown = {
            "output": made["observation"].strip("\n"),
            "returncode": made["returncode"],
            "ended": self._why(made["killed_by"]),
            "left": left if left <= SHOWN_LEFT else None,
        }
        return {"mistakes": 0, "occasion": "observation", "variables": shown, "tree": made["tree"]}

    async def _step(self, state: SoftwareState, context: Context) -> dict[str, Any]:
        """Do what the engineer said, in the tree as the last step left it."""
        tree, turn = state["tree"], state["turn"]
        if turn["error"] is not None:
            return {"action": None, "error": turn["error"], "tree": tree}
        command, bench = turn["parsed"]["command"], _bench(context)
        await bench.at(state["base"], tree, lambda: _deltas(context, state["step"]))
        wall = self.timeout
        if self.seconds is not None:
            left = self.seconds - state["elapsed"] - (time.monotonic() - state["mark"])
            wall = max(1.0, min(wall, left))
        limits = Limits(wall=wall, cpu=max(60, ceil(self.timeout)), memory=self.memory, output=self.output)
        made: dict[str, Any] = {"action": command, "error": None, "tree": None, "delta": ""}
        ran, after = await bench.run(command, limits)
        made |= _ending(ran)
        if isinstance(after, TreeTooLarge):
            return made | {"error": str(after), "submitted": False}
        if after != tree:
            delta = await asyncio.to_thread(bench.delta, tree, after)
            made["delta"] = None if delta is None else b64encode(delta).decode()
        return made | {"tree": after}

    def _why(self, killed_by: str | None) -> str:
        words = {
            "wall": f"it ran longer than {self.timeout:g} seconds",
            "cpu": f"it used the processor for more than {self.timeout:g} seconds",
            "memory": f"it held more than {self.memory >> 20} MiB of memory",
            "processes": "it started too many processes",
            "output": "it printed too much",
        }
        return "" if killed_by is None else words.get(killed_by, killed_by)

    async def submit(self, state: SoftwareState, runtime: Runtime[Context]) -> SoftwareState:
        """The patch, whatever ended the work."""
        context = runtime.context
        outcome: Any = context.episode.event_payload("exit", "0")
        if outcome is None:
            text = await self._patch(state, context)
            ending, reason = state["exit"], state["reason"]
            if len(text) > LARGEST_PATCH:
                ending, reason, text = "oversized", f"the patch has {len(text)} characters", ""
            trees = {"base": state["base"], "tree": state["tree"]}
            detail = {"exit_status": ending, "reason": reason, "steps": state["step"], **trees}
            made = Outcome(answer=text, detail=detail)
            if ending == "capped":
                made["capped"] = reason
            outcome = await context.episode.event("exit", "0", dict(made))
        await context.equipment.leave(context.episode.id)
        return {"outcome": outcome}

    async def _patch(self, state: SoftwareState, context: Context) -> str:
        shop: Workshop = context.equipment
        asked = (shop.objects, state["base"], state["tree"])
        try:
            return await asyncio.to_thread(patch, *asked)
        except TreeFailed:  # the store is gone: the journal has what it takes
            await _bench(context).at(state["base"], state["tree"], lambda: _deltas(context, state["step"]))
            return await asyncio.to_thread(patch, *asked)


def _bench(context: Context) -> Bench:
    assert context.task is not None, "whoever plays an episode names its task"
    shop: Workshop = context.equipment
    return shop.bench(instance(context.task), context.episode.id)


def _known(context: Context, step: int) -> bool:
    return context.episode.event_payload("step", str(step)) is not None


def _fault(turn: Turn) -> str | None:
    """Why a turn holds no command; one that was cut off after its command holds it."""
    return None if turn.parsed is not None else turn.error or turn.status


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


def _deltas(context: Context, steps: int) -> Iterator[bytes]:
    """The changes of the steps so far, as the journal has them."""
    for step in range(steps):
        made = context.episode.event_payload("step", str(step)) or {}
        if made.get("delta"):
            yield b64decode(made["delta"])

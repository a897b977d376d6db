"""A protocol as a node of somebody else's graph.

    debate = make_protocol("debate")
    graph.add_node("debate", debate.node(agents="smollm2-135m", memory="app.db",
                                         task=lambda state: state["question"],
                                         result=lambda outcome: {"answer": outcome["answer"]}))

A compiled subgraph would receive the outer graph's context; this node brings its own. Its run and
episode derive from the caller's thread id and checkpoint namespace, so that a node which LangGraph runs
again after an interrupt or a crash replays from the journal and pays for nothing twice.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from sparring.agents.engines.registry import EnginePool
from sparring.agents.roles import Agent
from sparring.errors import UserError
from sparring.graphs.cast import Cast, pinned
from sparring.graphs.catalogue import protocol_name
from sparring.graphs.context import Context, Limits, Meter
from sparring.graphs.protocol import Outcome
from sparring.memory.journal import MAX_NAME, Journal
from sparring.memory.records import TaskRecord
from sparring.memory.types import digest
from sparring.tools.equality import equality

if TYPE_CHECKING:
    from sparring.graphs.protocol import Protocol

ToTask = Callable[[Any], Any]
ToUpdate = Callable[[Outcome], Mapping[str, Any]]
Node = Callable[[Any, RunnableConfig], Awaitable[dict[str, Any]]]


def _lasting_name(protocol: Protocol) -> str:
    """The name by which reports and the viewer find its class again, where there is one."""
    try:
        return protocol_name(type(protocol))
    except UserError:
        return protocol.name  # a class within a function or a notebook plays here all the same


class Embedded:
    """The node: callable with (state, config), and `aclose` for applications that end it themselves."""

    def __init__(
        self,
        protocol: Protocol,
        cast: Cast,
        memory: str | Path | Journal,
        maps: tuple[ToTask, ToUpdate],
        limits: Limits,
    ) -> None:
        self.protocol, self.limits, self._cast = protocol, limits, cast
        self._task, self._result = maps
        self._memory = memory
        self._journal: Journal | None = memory if isinstance(memory, Journal) else None
        self._loops: dict[
            int, tuple[asyncio.AbstractEventLoop, EnginePool, asyncio.Task[dict[str, Agent]]]
        ] = {}
        # LangGraph shows the function's name where no node name is given.
        self.__name__ = protocol.name

    async def __call__(self, state: Any, config: RunnableConfig) -> dict[str, Any]:
        task = _as_task(self._task(state))
        journal = await self._open()
        outcome = await self._episode(journal, await self._agents(journal), task, config)
        return dict(self._result(outcome))

    async def _open(self) -> Journal:
        if self._journal is None:
            assert not isinstance(self._memory, Journal)
            self._journal = await asyncio.to_thread(Journal.open, self._memory)
        return self._journal

    async def aclose(self) -> None:
        """Close the engines of this event loop, and the journal if the node opened it."""
        _, pool, _ = self._loops.pop(id(asyncio.get_running_loop()), (None, None, None))
        if pool is not None:
            await pool.close()
        if self._journal is not None and self._journal is not self._memory:
            await asyncio.to_thread(self._journal.close)
            self._journal = None

    async def _agents(self, journal: Journal) -> dict[str, Agent]:
        """Engines belong to an event loop; the first call in each makes them, others wait for it."""
        loop = asyncio.get_running_loop()
        for key, (known, _, _) in list(self._loops.items()):
            if known.is_closed():
                del self._loops[key]
        if id(loop) not in self._loops:
            pool = EnginePool()
            self._loops[id(loop)] = (loop, pool, loop.create_task(self._cast.agents(pool, journal)))
        _, pool, ready = self._loops[id(loop)]
        try:
            agents = await asyncio.shield(ready)
        except Exception:
            self._loops.pop(id(loop), None)  # the next call may find the backend up
            raise
        if self._cast.moved(agents, journal):
            ready = loop.create_task(self._cast.agents(pool, journal))
            agents = await asyncio.shield(ready)
            self._loops[id(loop)] = (loop, pool, ready)
        return agents

    async def _episode(
        self, journal: Journal, agents: Mapping[str, Agent], task: TaskRecord, config: RunnableConfig
    ) -> Outcome:
        name = _run_name(config)
        protocol = _lasting_name(self.protocol)
        settings = {"protocol": self.protocol.name, "options": self.protocol.model_dump(mode="json")}
        run = await asyncio.to_thread(
            journal.drive, name, kind="embedded", protocol=protocol, config=settings, seed=0
        )
        status = "interrupted"
        try:
            known = run.state(task)
            if known is not None and known.status in ("done", "capped"):
                status = "done"
                return _finished(known.outcome)
            seats = {seat: {"role": a.role.name, "version": a.version_id} for seat, a in agents.items()}
            episode = run.episode(task, seats=seats)
            seated = {}
            for seat, agent in agents.items():
                held = pinned(agent, episode.seats[seat]["version"], journal)
                if held is None:
                    raise UserError(
                        f"run `{name}` began with a version of `{agent.version.policy}` that is gone"
                    )
                seated[seat] = held
            context = Context(episode, seated, equality(task.check), Meter(self.limits), task)
            async with self.protocol.equipment(run) as context.equipment, episode:
                outcome = await self.protocol.run(task.question, context, config)
            await episode.close("done", outcome)
            status = "done"
            return outcome
        except Exception:
            status = "failed"
            raise
        finally:
            run.finish(status)
            run.release()


def make_node(
    protocol: Protocol,
    *,
    agents: Any,
    memory: str | Path | Journal,
    task: ToTask,
    result: ToUpdate,
    sampling: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Embedded:
    """See `Protocol.node`."""
    engine, roles = (None, agents) if isinstance(agents, Mapping) else (agents, None)
    cast = Cast(protocol, engine, roles, sampling)
    return Embedded(protocol, cast, memory, (task, result), limits or Limits())


def _as_task(given: Any) -> TaskRecord:
    if isinstance(given, TaskRecord):
        return given
    if isinstance(given, str):
        return TaskRecord(id="question", question=given)
    if isinstance(given, Mapping) and "question" in given:
        return TaskRecord(**{"id": "question", **given})
    raise UserError("`task=` must return a question, a dict with `question`, or a TaskRecord")


def _run_name(config: RunnableConfig) -> str:
    """Where in the caller's application this is: thread and namespace, or nowhere in particular."""
    place = config.get("configurable") or {}
    thread, namespace = place.get("thread_id"), place.get("checkpoint_ns")
    if thread is None:
        return f"embedded/{uuid.uuid4().hex}"
    name = f"embedded/{thread}/{namespace}"
    return name if name.isprintable() and len(name) <= MAX_NAME else f"embedded/{digest(name).hex()}"


def _finished(outcome: Any) -> Outcome:
    finished: Outcome = outcome or Outcome(answer=None)
    return finished

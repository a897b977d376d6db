"""Plays a protocol's real graph on a real journal with one scripted engine a seat, noting every prompt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy import select

from sparring.agents.engines.base import Message, PolicyVersion, Request, Sampling
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.roles import Agent
from sparring.graphs.context import Context
from sparring.graphs.protocol import Protocol
from sparring.memory.episode import EpisodeHandle
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord, VersionRecord
from sparring.memory.run import RunHandle
from sparring.memory.schema import Episode, Turn
from sparring.tools.equality import equality

MARK = re.compile(r"<([a-z.0-9]+)#(\d+)>")


@dataclass(frozen=True)
class Call:
    """One call of an engine; `nth` counts the calls of its seat."""

    seat: str
    nth: int
    messages: tuple[Message, ...]

    @property
    def mark(self) -> str:
        """A word that is unique to the reply to this call."""
        return f"<{self.seat}#{self.nth}>"

    @property
    def last(self) -> str:
        return str(self.messages[-1]["content"])

    @property
    def text(self) -> str:
        return "\n".join(str(message["content"]) for message in self.messages)

    def seen(self, *, last: bool = False) -> Counter[tuple[str, int]]:
        """(seat, nth) -> how often its mark is in the prompt, or in its last message."""
        found = MARK.findall(self.last if last else self.text)
        return Counter((seat, int(nth)) for seat, nth in found)


Reply = Callable[[Call], Any]


@dataclass
class Stage:
    """A run on a journal, whose seats answer with `reply`."""

    protocol: Protocol
    journal: Journal
    reply: Reply
    name: str = "run"
    question: Any = "What is it?"
    check: str = "exact"
    answer: Any = None
    meta: dict[str, Any] | None = None
    scene: ClassVar[str] = ""
    """Begins the run's name: tests that share a journal differ in it."""
    run: RunHandle | None = None
    """A run that is driven already, for many episodes at once; then `name` is the task's."""
    calls: list[Call] = field(default_factory=list)

    @property
    def run_name(self) -> str:
        return f"{self.scene} {self.name}"

    def _engine(self, seat: str) -> ScriptedEngine:
        count = Counter[str]()

        def answer(request: Request, seed: int) -> Any:
            call = Call(seat, count[seat], request.messages)
            count[seat] += 1
            self.calls.append(call)
            return self.reply(call)

        return ScriptedEngine(answer, ids=False)

    def context(self, episode: EpisodeHandle) -> Context:
        version = self.journal.version(VersionRecord("script", "script", "script"))
        agents = {
            seat: Agent(role, self._engine(seat), PolicyVersion("script", 0, "script"), Sampling(), version)
            for seat, role in self.protocol.seats().items()
        }
        return Context(episode, agents, equality(self.check), task=self.task)

    @property
    def task(self) -> TaskRecord:
        name = self.name if self.run else "task"
        return TaskRecord(name, self.question, self.answer, self.check, self.meta)

    async def state(self, graph: Any = None, config: Any = None, given: Any = ...) -> dict[str, Any]:
        """Play, or play on, one episode: the graph's final state."""
        run = self.run or self.journal.drive(
            self.run_name, kind="test", protocol=self.protocol.name, config={}, seed=0
        )
        try:
            episode = run.episode(self.task, seats={})
            settings = {**(config or {}), "recursion_limit": self.protocol.recursion_limit}
            graph = graph or self.protocol.compile()
            start = {"question": self.question} if given is ... else given
            final: dict[str, Any] = await graph.ainvoke(start, settings, context=self.context(episode))
            return final
        finally:
            if self.run is None:
                run.release()

    async def play(self) -> dict[str, Any]:
        """The outcome."""
        outcome: dict[str, Any] = (await self.state())["outcome"]
        return outcome

    def turns(self) -> list[Any]:
        """The run's rows of `turns`."""
        query = (
            select(Turn)
            .join(Episode, Episode.number == Turn.episode_number)
            .where(Episode.run_id == self.run_name)
        )
        with self.journal.engine.connect() as connection:
            return list(connection.execute(query.order_by(Turn.key, Turn.attempt)))

    def statuses(self) -> dict[str, str]:
        return {row.key: row.status for row in self.turns()}

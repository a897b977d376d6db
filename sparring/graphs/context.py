"""What a running graph reaches through LangGraph's runtime context: the one way from node to turn."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparring.agents.engines.base import Message
from sparring.agents.roles import Agent
from sparring.errors import BudgetExceeded, EngineError, EngineTimeout, UserError, unknown
from sparring.memory.episode import EpisodeHandle, Produce
from sparring.memory.parts import EpisodePart
from sparring.memory.records import WORLD_FAULT, Ask, Place, Produced, TaskRecord, Turn
from sparring.tools.checks import acheck
from sparring.tools.equality import Equal


@dataclass(frozen=True, slots=True)
class Limits:
    """Caps of one episode; reaching one ends it cleanly with status `capped`. None: no cap."""

    calls: int | None = None
    tokens: int | None = None
    """Prompt and completion tokens together."""
    seconds: float | None = None
    cost: float | None = None


@dataclass(slots=True)
class Meter:
    """What an episode has used, replayed turns included, so that a resumed one stops at the same point."""

    limits: Limits = Limits()
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    started: float = field(default_factory=time.monotonic)
    _counted: set[int] = field(default_factory=set)

    def reserve(self, calls: int) -> None:
        """Raise `BudgetExceeded` where `calls` more, none of them journaled, would pass a cap."""
        tokens = self.prompt_tokens + self.completion_tokens
        spent = (
            ("calls", self.calls + calls - 1, self.limits.calls),
            ("tokens", tokens, self.limits.tokens),
            ("seconds", time.monotonic() - self.started, self.limits.seconds),
            ("cost", self.cost, self.limits.cost),
        )
        for name, used, cap in spent:
            if cap is not None and used >= cap:
                raise BudgetExceeded(f"the episode reached its cap of {cap} {name}")
        self.calls += calls

    def count(self, turn: Turn) -> None:
        if turn.id not in self._counted:
            self._counted.add(turn.id)
            self.prompt_tokens += turn.prompt_tokens
            self.completion_tokens += turn.completion_tokens
            self.cost += turn.cost


@dataclass(slots=True)
class Context:
    """Run-scoped dependencies of a node: never in the state, never checkpointed."""

    episode: EpisodeHandle | EpisodePart
    agents: Mapping[str, Agent]
    equal: Equal
    meter: Meter = field(default_factory=Meter)
    task: TaskRecord | None = None
    """What is played, with its reference: for graphs that validate against it, never for a prompt."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the run knows (`Protocol.facts`), frozen in its journal."""
    equipment: Any = None
    """What the protocol's episodes work with (`Protocol.equipment`)."""

    async def right(self, answer: str | None) -> bool:
        """Whether an answer is the task's, by the task's own check; False for None.

        Raises:
            UserError: the task has no reference.
        """
        if self.task is None or self.task.answer is None:
            raise UserError("this protocol checks answers on its way: its tasks need an `answer`")
        return (await acheck(self.task.check, answer, self.task.answer)).correct

    def within(self, name: str, equal: Equal | None = None) -> Context:
        """For what is played in this episode's part `name`: on the same meter, its keys below that name.

        Args:
            equal: another equality for its votes.
        """
        return replace(self, episode=EpisodePart(self.episode, name), equal=equal or self.equal)

    def _holds(self, key: str) -> bool:
        """Whether the journal answers for a turn."""
        turn = self.episode.turn(key)
        return turn is not None and turn.status not in WORLD_FAULT

    def recall(self, keys: Iterable[str]) -> None:
        """Count turns that the journal holds and nobody will ask for again: what they took is used."""
        for key in keys:
            if (turn := self.episode.turn(key)) is not None:
                self.meter.calls += 1
                self.meter.count(turn)

    def agent(self, seat: str) -> Agent:
        """Who sits in a seat. Raises `UserError` for a seat that there is not, listing those there are."""
        if seat not in self.agents:
            raise unknown("seat", seat, self.agents)
        return self.agents[seat]

    async def act(
        self,
        seat: str,
        key: str,
        occasion: str,
        variables: dict[str, Any],
        history: Sequence[Message] = (),
        *,
        max_tokens: int | None = None,
    ) -> Turn:
        """Ask the agent in `seat` to speak; its turn is committed before this returns.

        A turn that the journal holds is returned without a call. A reply that does not parse is a turn
        with another status, not an exception.

        Raises:
            EngineError: the backend failed for good; the attempt is journaled and can be tried again.
            BudgetExceeded: the episode has reached a cap.
            ReplayDiverged: the journal holds this key with another request.
        """
        return (await self.sample(seat, [key], occasion, variables, history, max_tokens=max_tokens))[0]

    async def sample(
        self,
        seat: str,
        keys: Sequence[str],
        occasion: str,
        variables: dict[str, Any],
        history: Sequence[Message] = (),
        *,
        max_tokens: int | None = None,
    ) -> list[Turn]:
        """`act` for several samples of one prompt: one request, one prefill, one turn a key.

        Args:
            max_tokens: Of this occasion, where it is another number than the agent's own.
        """
        agent = self.agent(seat)
        if max_tokens is not None:
            agent = replace(agent, sampling=replace(agent.sampling, max_tokens=max_tokens), _records={})
        held = sum(self._holds(key) for key in keys)
        self.meter.calls += held  # paid for: of turns made side by side no cap refuses one that was said
        if held < len(keys):
            self.meter.reserve(len(keys) - held)
        messages = agent.messages(occasion, variables, history)

        async def produce(places: list[Place]) -> list[Produced]:
            return await agent.produce(occasion, messages, [place.seed for place in places])

        return await self._said(agent, keys, occasion, messages, produce)

    async def converse(
        self, seat: str, key: str, occasion: str, variables: dict[str, Any], history: Sequence[Message]
    ) -> tuple[list[Message], Turn]:
        """`act` in one linear history: the conversation with what was asked and said, and the turn."""
        turn = await self.act(seat, key, occasion, variables, history)
        asked = self.agent(seat).messages(occasion, variables, history)
        reply: Message = {"role": "assistant", "content": turn.text if turn.text.strip() else "(no reply)"}
        return [*asked, reply], turn

    async def demonstrate(
        self, seat: str, key: str, occasion: str, variables: dict[str, Any], text: str, *, score: bool = False
    ) -> Turn:
        """Have the agent in `seat` told what a teacher would say here, as a turn to learn from.

        Args:
            score: Journal the log-probabilities that the agent's version gives to it.

        Raises:
            UserError: the text is not of the form that the role's parser asks for.
            CapabilityError: the engine cannot tokenise a reply of somebody else.
        """
        agent = self.agent(seat)
        messages = agent.messages(occasion, variables)

        async def produce(places: list[Place]) -> list[Produced]:
            return [await agent.recite(occasion, messages, text, score=score) for _ in places]

        return (await self._said(agent, [key], occasion, messages, produce))[0]

    async def _said(
        self, agent: Agent, keys: Sequence[str], occasion: str, messages: list[Message], produce: Produce
    ) -> list[Turn]:
        turns = await self.episode.turns(
            keys, Ask(agent.record(occasion), agent.version_id, messages), produce
        )
        for turn in turns:
            self.meter.count(turn)
        if failed := next((turn for turn in turns if turn.status in WORLD_FAULT), None):
            kind = EngineTimeout if failed.status == "timeout" else EngineError
            raise kind(f"turn `{failed.key}`: {failed.error}")
        return turns

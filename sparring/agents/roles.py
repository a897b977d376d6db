"""Roles and agents.

A role is a prompt and, for each occasion on which it speaks, the parser that reads the reply. An agent
is a role played by a policy on an engine with some sampling; it has no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparring.agents.engines.base import (
    Completion,
    Engine,
    Message,
    PolicyVersion,
    Request,
    Sampling,
    ScoreRequest,
    encode,
)
from sparring.agents.parsing import ParseError, Parser
from sparring.agents.prompts import Prompt, load_prompt
from sparring.errors import EngineError, UserError, unknown
from sparring.memory.records import GIVEN, AgentRecord, Produced

TEACHER = "teacher"
"""The engine of turns that an agent was given to learn from; their log-probabilities are `given`."""


@dataclass(frozen=True)
class Role:
    """Who speaks: name, prompt, and a parser for each occasion."""

    name: str
    prompt: Prompt
    parsers: Mapping[str, Parser[Any]]

    @classmethod
    def of(
        cls,
        name: str,
        parsers: Mapping[str, Parser[Any]],
        variables: Collection[str],
        prompt: str | None = None,
    ) -> Role:
        """A role with the shipped prompt of its name, or another one; `variables` is what it is given.

        Raises:
            UserError: no such prompt, or one that lacks an occasion or asks for another variable.
        """
        found = load_prompt(prompt or name)
        found.check(parsers, {*variables, "instruction"})
        return cls(name, found, parsers)

    @classmethod
    def silent(cls, name: str) -> Role:
        """The role of who sits and never speaks: a reward model."""
        return cls(name, Prompt(name, Path(name), {}, (), {}), {})

    def parser(self, occasion: str) -> Parser[Any]:
        """The parser of an occasion. Raises `UserError` where the role does not speak on it."""
        if occasion not in self.parsers:
            raise unknown(f"occasion of role `{self.name}`", occasion, self.parsers)
        return self.parsers[occasion]


@dataclass(frozen=True)
class Agent:
    """A role played by a policy version on an engine. `version_id` is its row in the journal."""

    role: Role
    engine: Engine
    version: PolicyVersion
    sampling: Sampling = field(default_factory=Sampling)
    version_id: int = 0
    _records: dict[str, AgentRecord] = field(default_factory=dict, repr=False, compare=False)

    def record(self, occasion: str) -> AgentRecord:
        """The agent as the journal knows it when it speaks on this occasion."""
        if occasion not in self._records:
            parser = self.role.parser(occasion)
            self._records[occasion] = AgentRecord(
                role=self.role.name,
                prompt=self.role.prompt.source,
                parser=parser.name,
                parser_version=parser.version,
                sampling=self.sampling.to_json(),
                policy=self.version.policy,
            )
        return self._records[occasion]

    def messages(
        self, occasion: str, variables: dict[str, Any], history: Sequence[Message] = ()
    ) -> list[Message]:
        """The conversation to be sent: system message, what was said, and this occasion's prompt."""
        prompt = self.role.prompt
        said = {"instruction": self.role.parser(occasion).instruction, **variables}
        messages: list[Message] = list(history)
        if not messages and prompt.has("system") and (opening := prompt.render("system", said)):
            messages.append({"role": "system", "content": opening})
        messages.append({"role": "user", "content": prompt.render(occasion, said)})
        return messages

    async def produce(
        self, occasion: str, messages: Sequence[Message], seeds: Sequence[int]
    ) -> list[Produced]:
        """One attempt at `len(seeds)` samples. The world's faults come back as data, to be journaled."""
        request = Request(tuple(messages), self.sampling, tuple(seeds), self.version)
        try:
            completions = await self.engine.generate(request)
        except EngineError as error:
            lost = [
                Produced(error.status, error=str(error), final=False, engine=self.engine.spec) for _ in seeds
            ]
            return lost
        parser = self.role.parser(occasion)
        return [_read(completion, parser, self.engine.spec) for completion in completions]

    async def recite(
        self, occasion: str, messages: Sequence[Message], text: str, *, score: bool = False
    ) -> Produced:
        """A reply that a teacher wrote, as a turn of this agent: token ids of its engine, nothing sampled.

        Args:
            score: Also give the log-probabilities (T,) that the agent's version assigns to it.

        Raises:
            UserError: the reply is not of the form that the role's parser asks for.
            CapabilityError: the engine does not tokenise here, or cannot score.
        """
        try:
            parsed = self.role.parser(occasion)(text).model_dump()
        except ParseError as error:
            raise UserError(f"a demonstration of role `{self.role.name}` does not parse: {error}") from None
        prompt, said = await asyncio.to_thread(encode, self.engine, messages, text)
        made = Produced("ok", text, parsed, engine=TEACHER, seed_sent=False, finish_reason="stop")
        made.prompt_ids, made.completion_ids, made.logprob_kind = prompt, said, GIVEN
        made.prompt_tokens, made.completion_tokens = len(prompt), len(said)
        if score:
            made.logprobs = (
                await self.engine.score(ScoreRequest(prompt, said, version=self.version))
            ).logprobs
        return made


def _read(completion: Completion, parser: Parser[Any], engine: str) -> Produced:
    usage = completion.usage
    known = completion.completion_ids is not None  # without ids nobody can tell what a probability is of
    made = Produced(
        status="ok",
        text=completion.text,
        engine=engine,
        seed_sent=completion.seed_sent,
        finish_reason=completion.finish_reason,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        cost=usage.cost,
        latency_s=completion.latency_s,
        retries=completion.retries,
        from_cache=completion.cached,
        prompt_ids=completion.prompt_ids,
        completion_ids=completion.completion_ids,
        logprobs=completion.logprobs if known else None,
        logprob_kind=completion.logprob_kind if known else "none",
    )
    if completion.finish_reason == "refusal":
        made.status, made.error = "refused", "the model refused"
        return made
    try:
        made.parsed = parser(completion.text).model_dump()
    except ParseError as error:
        made.status, made.error = "parse_error", str(error)
    if completion.finish_reason == "length":
        # Cut off by the token limit; what the parser could read all the same is kept.
        made.status, made.error = "truncated", made.error or "cut off at the token limit"
    return made

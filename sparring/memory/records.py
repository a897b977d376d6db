"""What passes between the journal and those who write to it: plain data, no live objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .types import canonical, digest

Status = Literal["ok", "parse_error", "truncated", "refused", "timeout", "engine_error"]
GIVEN: Literal["given"] = "given"
"""Kind of log-probabilities (`Produced.logprob_kind`) that marks demonstrations: turns whose words are a
teacher's."""
WORLD_FAULT = ("timeout", "engine_error")

ASKED = ("steps", "solution", "lessons", "responses", "choices", "instance")
"""Fields beside a question that are part of it: what is asked is asked about them."""


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One question. `id` is the user's name for it; `key` its identity by content."""

    id: str
    question: Any
    answer: Any = None
    check: str = "exact"
    meta: dict[str, Any] | None = None
    parent: str | None = None
    source_turn: int | None = None

    @property
    def key(self) -> str:
        """Its identity: the same name and content have the same one, in every journal."""
        content = [self.question, self.answer, self.check]
        if any(name in (self.meta or {}) for name in ASKED):
            content.append(self.meta)
        return digest(self.id, canonical(content), size=10).hex()

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain JSON, those that are None left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """Role, prompt, parser, sampling and policy name; its id is their hash."""

    role: str
    prompt: Any
    parser: str
    parser_version: str
    sampling: dict[str, Any]
    policy: str

    prompt_hash: str = field(init=False)
    id: str = field(init=False)

    def __post_init__(self) -> None:
        fields = [self.role, self.prompt, self.parser, self.parser_version, self.sampling, self.policy]
        object.__setattr__(self, "prompt_hash", digest(canonical(self.prompt), size=8).hex())
        object.__setattr__(self, "id", digest(canonical(fields), size=8).hex())


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A policy version to be registered: base checkpoint by hash, at most one adapter."""

    policy: str
    base_hash: str
    base_spec: str
    adapter_path: str | None = None
    adapter_hash: str | None = None


@dataclass(slots=True)
class Produced:
    """What one attempt at a turn came to. Ids (P,), (T,) int32; log-probabilities (T,) float32."""

    status: Status
    text: str | None = None
    parsed: Any = None
    error: str | None = None
    final: bool = True
    engine: str = ""
    seed_sent: bool = True
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    latency_s: float = 0.0
    retries: int = 0
    from_cache: bool = False
    prompt_ids: NDArray[np.int32] | None = None
    completion_ids: NDArray[np.int32] | None = None
    logprobs: NDArray[np.float32] | None = None
    logprob_kind: str = "none"


@dataclass(frozen=True, slots=True)
class Turn:
    """A journaled turn as a graph node gets it back."""

    id: int
    key: str
    attempt: int
    status: Status
    text: str
    parsed: Any
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    cost: float
    replayed: bool = False
    """True where the journal answered and no model was called."""

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Fork:
    """The beginning of an episode that another one shares: it is read where it stands, never copied."""

    parent: str
    """Id of the episode."""
    turn: int
    """Id of the last turn that is shared."""
    turns: tuple[str, ...]
    """Keys of the turns that are shared."""
    events: tuple[tuple[str, str], ...]
    """(kind, key) of the events that are shared."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Who is asked what: the agent, the policy version that answers (a row id), the conversation."""

    agent: AgentRecord
    version: int
    messages: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """One attempt to be made: where, which try, with which seed."""

    key: str
    attempt: int
    seed: int

"""What every engine takes and gives.

An engine turns a conversation into text with three verbs: `generate`, `score`, `capabilities`.
Everything here is plain data, so that the journal can store it without knowing the backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sparring.errors import CapabilityError, EngineError

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]

FinishReason = Literal["stop", "length", "refusal"]
LogprobKind = Literal[
    "tempered", "greedy", "truncated", "penalised", "constrained", "untempered", "given", "none"
]


class ContextExceeded(EngineError):
    """The prompt leaves no room for a completion in the model's context."""


class Message(TypedDict):
    """One chat message. `content` is text or a list of typed parts (`{"type": "text", "text": ...}`)."""

    role: str
    content: str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a completion is drawn; part of an agent's identity and of a turn's fingerprint."""

    temperature: float = 1.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    top_k: int = 0
    """0 switches it off."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    """Texts that end the completion; the stop text is not part of `Completion.text`."""

    @property
    def logprob_kind(self) -> LogprobKind:
        """What log-softmax(logits / temperature) of the sampled token means under these settings.

        Only `tempered` is the probability the token was really drawn with, so only `tempered` turns
        may enter a policy gradient (DESIGN section 4).
        """
        if self.temperature == 0:
            return "greedy"
        if self.repetition_penalty != 1.0:
            return "penalised"
        if self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0:
            return "truncated"
        return "tempered"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A named set of weights at one point of its life: a base checkpoint plus at most one adapter."""

    policy: str
    number: int = 0
    base: str = ""
    """Content hash of the base checkpoint, or `remote:MODEL` where it cannot be known."""
    adapter: str | None = None
    """Folder of a PEFT adapter (safetensors), or None for the bare base."""
    adapter_hash: str | None = None

    @property
    def label(self) -> str:
        return f"{self.policy}@{self.number}"


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt, `len(seeds)` samples of it."""

    messages: tuple[Message, ...]
    sampling: Sampling
    seeds: tuple[int, ...]
    version: PolicyVersion = PolicyVersion("base")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probabilities of given continuations: prompt ids (P,) and continuation ids (T,)."""

    prompt_ids: Ids
    continuation_ids: Ids
    temperature: float = 1.0
    top_k: int = 0
    full_vocabulary: bool = False
    """Also give entropy and self-certainty of each predictive distribution (float32)."""
    version: PolicyVersion = PolicyVersion("base")


@dataclass(frozen=True, slots=True)
class Scored:
    """Per continuation token, all of shape (T,) or (T, k)."""

    logprobs: Floats
    top_ids: Ids | None = None
    top_logprobs: Floats | None = None
    entropy: Floats | None = None
    self_certainty: Floats | None = None
    """KL(uniform || p) = -ln V - mean_j ln p_j (Kang et al. 2502.18581)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one completion. `cached_tokens` of the prompt cost no prefill of their own."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cost: float = 0.0
    """Money in the currency of the configured prices; 0 where none are configured."""


@dataclass(slots=True)
class Completion:
    """One sample. Ids come from the engine; a completion holds the stop token iff it was sampled."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    prompt_ids: Ids | None = None
    completion_ids: Ids | None = None
    logprobs: Floats | None = None
    """Behaviour log-probabilities, shape (T,), aligned with `completion_ids`."""
    logprob_kind: LogprobKind = "none"
    latency_s: float = 0.0
    seed_sent: bool = True
    """False where the backend takes no seed; the journal says so."""
    cached: bool = False
    """True where the response cache answered."""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Solved:
    """A solution that a reward model is to rate, also step by step."""

    question: str
    text: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rated:
    """What a reward model made of a solution."""

    values: tuple[float, ...] | None
    """One, or one for each step; None where it could not be rated."""
    tokens: int = 0
    """Read for it."""
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can give. What it cannot is a clear error before any work starts."""

    token_ids: bool = False
    logprobs: bool = False
    score: bool = False
    adapters: bool = False
    seeds: bool = False
    rates: str = ""
    """Of a reward model what it gives: `orm`, one score of a solution, or `prm`, one of each step."""
    base: str = ""
    """Identity of the base weights: a content hash, or `remote:MODEL`."""
    context_tokens: int | None = None
    dtype: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """The backend contract. Implementations are safe to call from many coroutines at once."""

    spec: str

    async def generate(self, request: Request) -> list[Completion]:
        """`len(request.seeds)` completions, in the order of the seeds.

        Raises:
            EngineError: the backend failed (after the engine layer's retries).
            EngineTimeout: it did not answer in time.
        """
        ...

    async def score(self, request: ScoreRequest) -> Scored:
        """Score a continuation. Raises `CapabilityError` where the backend cannot."""
        ...

    def capabilities(self) -> Capabilities: ...

    async def close(self) -> None: ...


def encode(engine: Engine, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
    """Token ids of a prompt (P,) and of a reply (T,) that somebody else wrote, as the engine would have them,
    the stop token included: what a demonstration is trained on.

    Raises:
        CapabilityError: the engine does not tokenise here; those that do have a method of this name.
    """
    own = getattr(engine, "encode", None)
    if own is None:
        raise CapabilityError(f"engine `{engine.spec}` cannot take demonstrations; use an embedded model")
    ids: tuple[Ids, Ids] = own(messages, reply)
    return ids


async def rate(engine: Engine, solutions: Sequence[Solved]) -> list[Rated]:
    """Scores of solutions by a reward model, in their order.

    Raises:
        CapabilityError: the engine is none; reward models have a method of this name.
    """
    own = getattr(engine, "rate", None)
    if own is None:
        raise CapabilityError(
            f"engine `{engine.spec}` is no reward model: name one as orm:MODEL or prm:MODEL"
        )
    rated: list[Rated] = await own(solutions)
    return rated

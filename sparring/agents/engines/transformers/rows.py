"""What waits and what runs: a job is one request, a row is one of its samples in a slot."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparring.agents.engines.base import (
    Completion,
    FinishReason,
    Floats,
    Ids,
    Request,
    Scored,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.transformers import sampling
from sparring.agents.engines.transformers.lora import Adapter
from sparring.errors import EngineError, SparringError


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way; `future` gets its completions (or `Scored`) or its error."""

    request: Request | ScoreRequest
    future: Future[Any]
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    """Prompt ids; of a score request prompt and continuation but the last token."""
    first: int = 0
    """Position of the first logits that are wanted."""
    limit: int = 0
    """Tokens each sample may have."""
    adapter: Adapter | None = None
    started: float = field(default_factory=time.perf_counter)
    waiting: list[int] = field(default_factory=list)
    """Samples that have no slot yet."""
    done: dict[int, Completion] = field(default_factory=dict)
    scored: list[Scored] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Positions one of its rows may come to need."""
        return len(self.ids) + self.limit

    @property
    def weights(self) -> str | None:
        """Whose keys and values these are: the adapter's hash, None for the bare base."""
        return self.adapter.hash if self.adapter else None

    @property
    def samples(self) -> int:
        return len(self.request.seeds) if isinstance(self.request, Request) else 1

    def succeed(self, result: Any) -> None:
        with suppress(InvalidStateError):  # cancelled meanwhile
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """SparringErrors as they are, anything else as an `EngineError` that says what it was."""
        if not isinstance(error, SparringError):
            cause, error = error, EngineError(f"the embedded engine failed: {type(error).__name__}: {error}")
            error.__cause__ = cause
        with suppress(InvalidStateError):
            self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class Row:
    """One sample in a slot; the slot is its place in the worker's list of rows."""

    job: Job
    sample: int
    computed: int = 0
    """Positions whose keys and values are in the slot."""
    cached: int = 0
    """Prompt tokens that were not prefilled for this row."""
    follows: Row | None = None
    """The row that computes for this one: same prompt, and the same tokens so far. A row that follows has
    nothing in its slot."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uniforms: Any = None

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next logits; 0 while another row computes for this one."""
        return 0 if self.follows else len(self.job.ids) + len(self.tokens) - self.computed

    @property
    def positions(self) -> int:
        """Positions it has, or will have after its prefill."""
        return len(self.job.ids) + len(self.tokens)

    def next_ids(self, count: int) -> list[int]:
        """The next `count` tokens to compute."""
        prompt = len(self.job.ids)
        if self.computed >= prompt:
            return self.tokens[self.computed - prompt : self.computed - prompt + count]
        return [int(number) for number in self.job.ids[self.computed : self.computed + count]]

    def history(self) -> Ids:
        """Ids of the computed positions, (computed,)."""
        ids = np.concatenate([self.job.ids, np.array(self.tokens, np.int32)])
        return ids[: self.computed]

    def draw(self, device: Any) -> sampling.Draw:
        import torch

        request = self.job.request
        assert isinstance(request, Request)
        if self.uniforms is None:
            self.uniforms = sampling.uniforms(request.seeds[self.sample], self.job.limit)
        seen = None
        if request.sampling.repetition_penalty != 1.0:
            seen = torch.as_tensor(np.unique([*self.job.ids, *self.tokens]), device=device)
        return sampling.Draw(request.sampling, float(self.uniforms[len(self.tokens)]), seen)


def completion(row: Row, tokenizer: Any, reason: FinishReason) -> Completion:
    """The finished sample; a stop text and what follows it are cut from the text, not from the ids."""
    request = row.job.request
    assert isinstance(request, Request)
    text = tokenizer.decode(row.tokens, skip_special_tokens=True)
    cuts = [text.find(stop) for stop in request.sampling.stop if stop in text]
    logprobs: Floats = np.array(row.logprobs, np.float32)
    return Completion(
        text=text[: min(cuts)] if cuts else text,
        finish_reason=reason,
        usage=Usage(len(row.job.ids), len(row.tokens), row.cached),
        prompt_ids=row.job.ids,
        completion_ids=np.array(row.tokens, np.int32),
        logprobs=logprobs,
        logprob_kind=request.sampling.logprob_kind,
        latency_s=time.perf_counter() - row.job.started,
    )


def stops(row: Row, tokenizer: Any) -> bool:
    """Whether a stop text has appeared; only the end of the text is looked at."""
    request = row.job.request
    assert isinstance(request, Request)
    if not request.sampling.stop:
        return False
    reach = max(map(len, request.sampling.stop)) + 8  # a token is at least one byte, plus a broken character
    tail = tokenizer.decode(row.tokens[-reach:], skip_special_tokens=True)
    return any(stop in tail for stop in request.sampling.stop)

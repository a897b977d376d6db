"""`TransformersEngine`: the embedded engine behind the three verbs, for any number of coroutines.

The event loop only hands over requests and awaits futures. One worker thread owns the model: it
tokenises, batches, samples. Construction is cheap; the model loads with the first request or `start`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparring.agents.engines.adapters import check_base
from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    ContextExceeded,
    Ids,
    Message,
    PolicyVersion,
    Request,
    Scored,
    ScoreRequest,
)
from sparring.agents.engines.chat import demonstration, render
from sparring.errors import EngineError, UserError

if TYPE_CHECKING:
    from sparring.agents.engines.transformers.batch import Batch, Counters
    from sparring.agents.engines.transformers.loading import Loaded
    from sparring.agents.engines.transformers.lora import Adapter
    from sparring.agents.engines.transformers.rows import Job
    from sparring.agents.engines.transformers.worker import TurnLock, Worker


class TransformersEngine:
    """A Hugging Face causal language model in this process, continuously batched.

    Args:
        model: catalogue name, hub id or local folder (`sparring.agents.models.resolve`).
        dtype: of weights and cache. Sampling and log-probabilities are float32 in any case.
        device: `auto` takes a GPU where there is one.
        max_batch: sequences that run at once.
        max_tokens_in_flight: their positions together, each counted as long as the longest may become.
        prefix_cache_gib: keys and values of finished sequences, kept for prompts that begin like them.
        packed: on a CPU, a second copy of the weights in the layout that its matrix products want: more
            memory, 1.2 to 1.6 times as many tokens a second.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: Literal["bfloat16", "float32", "auto"] = "bfloat16",
        device: str = "auto",
        max_batch: int = 64,
        max_tokens_in_flight: int = 131_072,
        prefix_cache_gib: float = 1.5,
        packed: bool = True,
    ) -> None:
        if dtype not in ("bfloat16", "float32", "auto"):
            raise UserError(f"dtype must be bfloat16, float32 or auto, not {dtype}")
        if max_batch < 1 or max_tokens_in_flight < 1 or prefix_cache_gib < 0:
            raise UserError(
                "max_batch and max_tokens_in_flight must be at least 1, prefix_cache_gib at least 0"
            )
        self.spec = model
        self._dtype, self._device, self._packed = dtype, device, packed
        self._limits = (max_batch, max_tokens_in_flight, int(prefix_cache_gib * 2**30))
        self._guard = threading.Lock()
        self._loaded: Loaded | None = None
        self._worker: Worker | None = None
        self._lock: TurnLock | None = None
        self._closed = False

    async def start(self) -> None:
        """Load the model now instead of with the first request.

        Raises:
            UserError: no such model, or one this engine cannot serve.
        """
        if self._worker is None:
            await asyncio.to_thread(self._start)

    def _start(self) -> Worker:
        """Load model and worker once, whichever thread asks first."""
        with self._guard:
            if self._closed:
                raise EngineError(f"{self.spec}: the engine was closed")
            if self._worker is None:
                from sparring.agents.engines.transformers.batch import Batch, Limits
                from sparring.agents.engines.transformers.loading import load
                from sparring.agents.engines.transformers.worker import TurnLock, Worker

                self._loaded = load(self.spec, self._dtype, self._device, packed=self._packed)
                self._lock = TurnLock()
                worker = Worker(Batch(self._loaded, Limits(*self._limits)), self._prepare, self._lock)
                worker.start()
                self._worker = worker
            return self._worker

    async def generate(self, request: Request) -> list[Completion]:
        """One completion per seed, all from one prefill.

        Raises:
            ContextExceeded: the prompt is too long for the model.
            UserError: a message part that is not text, or an adapter this base cannot carry.
            EngineError: the model failed; the engine goes on.
        """
        if not request.seeds:
            return []
        completions: list[Completion] = await self._serve(request)
        return completions

    async def score(self, request: ScoreRequest) -> Scored:
        """Log-probabilities of `continuation_ids` after `prompt_ids` under softmax(logits / temperature)."""
        scored: Scored = await self._serve(request)
        return scored

    async def _serve(self, request: Request | ScoreRequest) -> Any:
        await self.start()
        from sparring.agents.engines.transformers.rows import Job

        worker = self._worker
        if worker is None:
            raise EngineError(f"{self.spec}: the engine was closed")
        job = Job(request, Future())
        worker.submit(job)
        return await asyncio.wrap_future(job.future)  # cancelling the waiter cancels the job's future

    def capabilities(self) -> Capabilities:
        """Everything; loads the model if it is not loaded yet, for its hash and context are in it."""
        self._start()
        assert self._loaded is not None
        dtype = str(self._loaded.model.dtype).removeprefix("torch.")
        return Capabilities(
            token_ids=True,
            logprobs=True,
            score=True,
            adapters=True,
            seeds=True,
            base=self._loaded.base,
            context_tokens=self._loaded.context,
            dtype=dtype,
        )

    async def close(self) -> None:
        """End the worker and free the model; requests in flight fail with `EngineError`."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._guard:
            self._closed = True
            worker, self._worker, self._loaded = self._worker, None, None
        if worker is not None:
            worker.close()
            del worker
            _give_back()

    @property
    def lock(self) -> TurnLock:
        """Held by the worker for each pass; hold it while you use the weights it shares."""
        self._start()
        assert self._lock is not None
        return self._lock

    @property
    def counters(self) -> Counters:
        """Tokens prefilled, cached and decoded, and passes, since the start."""
        return self._start().batch.counters

    def shared_base(self) -> Any:
        """A second model object over the very same weight tensors, with ordinary attention.

        A trainer may wrap it with PEFT: the engine's own module tree stays as it is, no weight is
        copied and none may be changed.
        """
        self._start()
        assert self._loaded is not None
        from sparring.agents.engines.transformers.loading import twin

        with self.lock:
            return twin(self._loaded.model)

    def encode(self, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
        """Token ids of a prompt (P,) and of a reply to it (T,) that somebody else wrote, the stop token at
        its end."""
        self._start()
        assert self._loaded is not None
        return demonstration(self._loaded.tokenizer, messages, reply)

    def _prepare(self, job: Job, batch: Batch) -> None:
        """In the worker: token ids, adapter, and how many tokens there is room for."""
        assert self._loaded is not None
        request, context = job.request, self._loaded.context
        job.adapter = self._adapter(request.version, batch)
        if isinstance(request, ScoreRequest):
            if not len(request.prompt_ids) or not len(request.continuation_ids) or request.temperature <= 0:
                raise UserError("score needs prompt ids, continuation ids and a temperature above 0")
            job.ids = np.concatenate([request.prompt_ids, request.continuation_ids[:-1]]).astype(np.int32)
            job.first, job.waiting, room = len(request.prompt_ids) - 1, [0], context - len(job.ids) + 1
        else:
            if request.sampling.max_tokens < 1:
                raise UserError(f"max_tokens must be at least 1, got {request.sampling.max_tokens}")
            job.ids = render(self._loaded.tokenizer, request.messages)
            job.first, job.waiting = len(job.ids) - 1, list(range(len(request.seeds)))
            room = context - len(job.ids)
            job.limit = min(request.sampling.max_tokens, room)
        if room < 1:
            raise ContextExceeded(
                f"{self.spec}: {len(job.ids)} tokens are too many for a context of {context}; "
                "shorten the prompt"
            )

    def _adapter(self, version: PolicyVersion, batch: Batch) -> Adapter | None:
        assert self._loaded is not None
        check_base(version, self._loaded.base, self.spec)
        if version.adapter is None:
            return None
        return batch.adapters.load(version.adapter, version.adapter_hash)


def _give_back() -> None:
    """Return freed memory to the system: glibc keeps it for the process, and of fragments that the next model
    cannot use (six gigabytes after three runs of training in one process)."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)

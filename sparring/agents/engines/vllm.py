"""vLLM in this program: its asynchronous engine, an adapter for each request, prefixes kept.

vLLM schedules and computes in a process of its own, which it starts and ends with us. We render and tokenise,
so that a prompt has the ids that the embedded engine would give it, and decode what comes back.

On a CPU vLLM cannot draw with a seed for each request: there none is sent, and the journal says so.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from sparring.agents.engines.adapters import AdapterFolders, check_base
from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    ContextExceeded,
    FinishReason,
    Ids,
    Message,
    PolicyVersion,
    Request,
    Sampling,
    Scored,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.chat import demonstration, render
from sparring.agents.engines.checkpoints import Checkpoint, read_checkpoint
from sparring.agents.engines.layer import all_of
from sparring.agents.engines.prompt_scores import COLDEST, Held, scored, whole
from sparring.errors import EngineError, UserError

CPU_CACHE_GIB = 4.0
"""Keys and values on a CPU, where vLLM would otherwise take nearly all the memory there is."""


class VllmEngine:
    """A causal language model served by vLLM from this program.

    Args:
        model: catalogue name, hub id or local folder, as for the embedded engine.
        dtype: `bfloat16`, `float32`, `auto`, ...
        seeds: send each sample's seed; None sends them everywhere but on a CPU.
        kv_cache_gib: keys and values; None leaves it to vLLM on a GPU and takes 4 on a CPU.
        max_loras: adapters in one batch; 0 serves the base alone, a little faster.
        options: `max_num_seqs`, `max_model_len`, `gpu_memory_utilization`, `tensor_parallel_size`,
            `max_lora_rank`, `enforce_eager`: vLLM's own arguments of these names.
    """

    tries = 2
    """A vLLM that died is started anew once for a call."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        seeds: bool | None = None,
        kv_cache_gib: float | None = None,
        max_loras: int = 4,
        **options: Any,
    ) -> None:
        self.spec = f"vllm:{model}"
        self.checkpoint, self._dtype, self._seeds = model, dtype, seeds
        self._loras, self._cache_gib, self._options = max_loras, kv_cache_gib, options
        self._rank = int(options.pop("max_lora_rank", 16))
        self._held: Checkpoint | None = None
        self._llm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._launch: Future[Any] | None = None
        self._folders = AdapterFolders()
        self._numbers: dict[str, int] = {}
        self._taken: set[int] = set()
        self._asked = 0
        self._closed = False

    async def start(self) -> None:
        """Start vLLM now instead of with the first request. Raises `UserError` where it cannot."""
        await self._started()

    async def generate(self, request: Request) -> list[Completion]:
        """One completion per seed.

        Raises:
            ContextExceeded: the prompt is too long for the model.
            UserError: a message part that is not text, or an adapter this engine cannot serve.
            EngineError: vLLM failed; the next call starts it anew.
        """
        if not request.seeds:
            return []
        llm, held = await self._started(), self._checkpoint()
        ids = render(held.tokenizer, request.messages)
        params = self._params(request.sampling, len(ids))
        lora = await self._adapter(llm, request.version)
        started = asyncio.get_running_loop().time()
        if self._sends_seeds:
            asked = [self._one(llm, ids, params(seed=seed & 0x7FFF_FFFF), lora) for seed in request.seeds]
            replies = await all_of(asked)
        else:
            replies = [await self._one(llm, ids, params(n=len(request.seeds)), lora)]
        took = asyncio.get_running_loop().time() - started
        said = [self._completion(request.sampling, reply, out) for reply in replies for out in reply.outputs]
        for completion in said:
            completion.latency_s = took
        return said

    async def score(self, request: ScoreRequest) -> Scored:
        """Log-probabilities of `continuation_ids` after `prompt_ids`, in one pass over both.

        Raises:
            CapabilityError: another temperature than 1, or the full vocabulary: vLLM does not give them.
        """
        ids = whole(request, self.spec)
        llm = await self._started()
        self._room(len(ids))
        lora = await self._adapter(llm, request.version)
        params = _sampling_params(max_tokens=1, prompt_logprobs=request.top_k, detokenize=False)
        reply = await self._one(llm, ids, params, lora)
        rows = [
            {token: Held(one.rank, one.logprob) for token, one in (row or {}).items()}
            for row in reply.prompt_logprobs
        ]
        return scored(rows, request)

    def capabilities(self) -> Capabilities:
        """Everything; reads the checkpoint's hash, but does not start vLLM."""
        held = self._checkpoint()
        return Capabilities(
            token_ids=True,
            logprobs=True,
            score=True,
            adapters=self._loras > 0,
            seeds=self._sends_seeds,
            base=held.base,
            context_tokens=held.context,
            dtype=self._dtype,
            extra={"server": "vllm", "max_lora_rank": self._rank},
        )

    def encode(self, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
        """Token ids of a prompt (P,) and of a reply (T,) that somebody else wrote, the stop token last."""
        return demonstration(self._checkpoint().tokenizer, messages, reply)

    async def close(self) -> None:
        """End vLLM's process, also one that is only being started; requests in flight fail."""
        self._closed = True
        async with self._starting:
            with suppress(Exception):
                await self._launched()
            llm, self._llm = self._llm, None
            if llm is not None:
                await _shut(llm)

    async def _started(self) -> Any:
        async with self._starting:
            if self._closed:
                raise EngineError(f"{self.spec}: the engine was closed")
            loop = asyncio.get_running_loop()
            if self._llm is not None and self._loop is not loop:
                llm, self._llm = self._llm, None  # its sockets are of a loop that has ended
                await _shut(llm)
            if self._llm is None:
                held = await asyncio.to_thread(self._checkpoint)
                self._launch = self._launch or _launch(self._arguments(held))
                self._loop, self._taken = loop, set()
                try:
                    await self._launched()
                except (ValueError, RuntimeError, OSError) as error:
                    raise UserError(f"{self.spec}: vLLM does not start: {_reason(error)}") from error
            return self._llm

    async def _launched(self) -> None:
        """Wait for the start in progress, if any; who is cancelled here leaves it to the next one."""
        if self._launch is None:
            return
        try:
            self._llm = await asyncio.shield(asyncio.wrap_future(self._launch))
        finally:
            if self._launch.done():
                self._launch = None

    def _checkpoint(self) -> Checkpoint:
        if self._held is None:
            held = read_checkpoint(self.checkpoint)
            most = self._options.get("max_model_len") or held.context
            self._held = replace(held, context=min(held.context, most))
        return self._held

    def _arguments(self, held: Checkpoint) -> dict[str, Any]:
        """What vLLM is started with."""
        gib = self._cache_gib if self._cache_gib is not None else CPU_CACHE_GIB if _on_cpu() else None
        own: dict[str, Any] = {
            "model": str(held.folder),
            "dtype": self._dtype,
            "max_model_len": held.context,
            # Of the temperature that the token is drawn with: the trainer divides by it too.
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            # Without seeds of requests every start would draw the same numbers again.
            "seed": int.from_bytes(os.urandom(4), "big") >> 1,
        }
        if gib is not None:
            own["kv_cache_memory_bytes"] = int(gib * 2**30)
        if self._loras:
            own |= {"enable_lora": True, "max_loras": self._loras, "max_lora_rank": self._rank}
        return own | self._options

    @property
    def _sends_seeds(self) -> bool:
        return not _on_cpu() if self._seeds is None else self._seeds

    def _params(self, sampling: Sampling, prompt: int) -> Any:
        """A function from what differs between requests (`seed`, `n`) to vLLM's parameters."""
        if 0 < sampling.temperature < COLDEST:
            raise UserError(f"{self.spec}: temperature {sampling.temperature:g} is below {COLDEST:g}; use 0")
        if sampling.max_tokens < 1:
            raise UserError(f"max_tokens must be at least 1, got {sampling.max_tokens}")
        fields = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "max_tokens": min(sampling.max_tokens, self._room(prompt)),
            "stop": list(sampling.stop),
            "stop_token_ids": sorted(self._checkpoint().ends),
            "logprobs": 0,
            "flat_logprobs": True,
            "detokenize": bool(sampling.stop),  # only a stop text needs it; we decode
        }
        return lambda **own: _sampling_params(**fields, **own)

    def _room(self, tokens: int) -> int:
        """Tokens that a completion may have after so many."""
        context = self._checkpoint().context
        if tokens >= context:
            raise ContextExceeded(
                f"{self.spec}: {tokens} tokens are too many for a context of {context}; shorten the prompt"
            )
        return context - tokens

    async def _adapter(self, llm: Any, version: PolicyVersion) -> Any:
        """vLLM's name for an adapter, which it has read: one that it cannot read would end its process."""
        lora = await asyncio.to_thread(self._lora, version)
        if lora is None or lora.lora_int_id in self._taken:
            return lora
        reading = asyncio.ensure_future(llm.add_lora(lora))
        try:
            while not (await asyncio.wait({reading}, timeout=1))[0]:
                if llm.errored:  # then nobody answers
                    raise await self._died(llm)
        finally:
            reading.cancel()
        if (error := reading.exception()) is not None:
            if llm.errored:
                raise await self._died(llm) from error
            raise UserError(f"{self.spec} does not take adapter {version.label}: {_reason(error)}") from error
        self._taken.add(lora.lora_int_id)
        return lora

    def _lora(self, version: PolicyVersion) -> Any:
        """A number that belongs to an adapter's content, and where it lies."""
        check_base(version, self._checkpoint().base, self.spec)
        if version.adapter is None:
            return None
        if not self._loras:
            raise UserError(f"{self.spec} was started with max_loras=0 and serves no adapters")
        from vllm.lora.request import LoRARequest

        digest = self._folders.digest(version.adapter, version.adapter_hash)
        number = self._numbers.setdefault(digest, len(self._numbers) + 1)
        return LoRARequest(digest[:32], number, version.adapter)

    async def _one(self, llm: Any, ids: Ids, params: Any, lora: Any) -> Any:
        """One request to its end; cancelling it takes it out of vLLM's batch."""
        from vllm.v1.engine.exceptions import EngineDeadError

        self._asked += 1
        prompt = {"prompt_token_ids": ids.tolist()}
        replies: AsyncIterator[Any] = llm.generate(prompt, params, str(self._asked), lora_request=lora)
        try:
            async for reply in replies:
                last = reply
        except EngineDeadError as error:
            raise await self._died(llm) from error
        except ValueError as error:  # what vLLM thinks wrong about this one request
            raise UserError(f"{self.spec}: {_reason(error)}") from error
        except Exception as error:
            raise EngineError(f"{self.spec}: {_reason(error)}") from error
        return last

    async def _died(self, llm: Any) -> EngineError:
        """Forget a vLLM that died or was ended, so that the next call starts one."""
        async with self._starting:
            if self._llm is llm:
                self._llm = None
                with suppress(Exception):
                    await _shut(llm)
        if self._closed:
            return EngineError(f"{self.spec}: the engine was closed")
        return EngineError(f"{self.spec}: vLLM's process died", retryable=True)

    def _completion(self, sampling: Sampling, reply: Any, out: Any) -> Completion:
        reason: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
        if out.finish_reason not in reason:
            raise EngineError(f"{self.spec}: vLLM ended a request with `{out.finish_reason}`")
        ids, prompt = np.array(out.token_ids, np.int32), np.array(reply.prompt_token_ids, np.int32)
        tokenizer = self._checkpoint().tokenizer
        text = out.text if sampling.stop else tokenizer.decode(ids, skip_special_tokens=True)
        return Completion(
            text=text,
            finish_reason=reason[out.finish_reason],
            usage=Usage(len(prompt), len(ids), reply.num_cached_tokens or 0),
            prompt_ids=prompt,
            completion_ids=ids,
            logprobs=np.array(out.logprobs.logprobs, np.float32),
            logprob_kind=sampling.logprob_kind,
            seed_sent=self._sends_seeds,
        )


def _launch(arguments: dict[str, Any]) -> Future[Any]:
    """Begin to start vLLM, in a thread of its own; that cannot be called off."""
    thread = ThreadPoolExecutor(1, "vllm-start")
    try:
        return thread.submit(_begin, arguments)
    finally:
        thread.shutdown(wait=False)


def _begin(arguments: dict[str, Any]) -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


async def _shut(llm: Any) -> None:
    """End vLLM's process, and first the task that would take this for an accident; who waits for it fails."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if llm.output_handler is not None:
        llm.output_handler.cancel()
    with suppress(RuntimeError):  # those who waited in a loop that has ended
        llm.output_processor.propagate_error(EngineDeadError())
    await asyncio.to_thread(llm.shutdown)
    llm.shutdown = lambda *_: None  # its end calls it once more, when Python has let go of what it needs


def _on_cpu() -> bool:
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError as error:
        raise UserError(
            "engine `vllm:` needs vLLM: pip install 'sparring[vllm]' beside a GPU; docs/engines.md says how "
            "to install it for a CPU"
        ) from error
    return bool(current_platform.is_cpu())


def _sampling_params(**fields: Any) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY, **fields)


def _reason(error: BaseException) -> str:
    """The first line of what vLLM says; of what its process says the core."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    own = re.search(r"failed with error '(.*)', please check", line)
    return (own[1] if own else line)[:300]

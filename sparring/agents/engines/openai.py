"""Any OpenAI-compatible server over HTTP: `vllm serve` and every other one, several endpoints at once.

One HTTP call a seed: a server's `n` gives samples, but not a seed for each. Token ids and
log-probabilities are used where the server gives them and never assumed; a server that refuses an
optional field is asked again without it, and the field stays off.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar, Unpack

import openai

from sparring.agents.engines import vllm_server
from sparring.agents.engines.adapters import AdapterFolders, check_base
from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    Ids,
    Message,
    PolicyVersion,
    Request,
    Sampling,
    Scored,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.chat import demonstration
from sparring.agents.engines.checkpoints import Checkpoint, read_checkpoint
from sparring.agents.engines.endpoints import Endpoint, Endpoints, there, watched
from sparring.agents.engines.openai_replies import classify, filtered, read_completion
from sparring.agents.engines.openai_requests import Wants, client, extra_fields, is_down
from sparring.agents.engines.prompt_scores import COLDEST
from sparring.errors import CapabilityError, EngineError, SparringError, UserError

T = TypeVar("T")
SEED_BITS = 31
"""Seeds are cut to what every known server takes (some read 32 bits, signed or not)."""
PROBE_S = 300.0
"""Seconds within which a server must answer a probe: its first call may load the model."""

_ONE_TOKEN = Request(({"role": "user", "content": "Say yes."},), Sampling(max_tokens=1), (0,))


class OpenAIEngine:
    """Chat completions of one model, served at one or more base URLs.

    Args:
        base_url: Such as `http://host:8000/v1`, or several.
        model: The name under which the server knows the model.
        api_key: By default the content of the variable `api_key_env`; many own servers need none.
        base: The checkpoint that the server serves (catalogue name, hub id, folder): it gives policies on it
            their identity, so that they can be trained here and their adapters sent there.
        wants: Fields of a request that not every server takes.
    """

    remote = True
    one_sample_per_call = True

    def __init__(
        self,
        base_url: str | Sequence[str],
        model: str,
        api_key: str | None = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        base: str | None = None,
        **wants: Unpack[Wants],
    ) -> None:
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self.model = model
        self.spec = f"{','.join(urls)}#{model}"
        key = api_key or os.environ.get(api_key_env) or "none"
        self._endpoints = Endpoints([Endpoint(url, client(url, key)) for url in urls])
        self._wants: dict[str, bool | None] = {
            "logprobs": wants.get("logprobs"),
            "return_token_ids": wants.get("token_ids"),
            "seed": wants.get("seeds"),
        }
        self.checkpoint = base
        self._held: Checkpoint | None = None
        self._folders = AdapterFolders()
        self._adapters = False
        self._off: set[str] = set()
        self._length_field = "max_tokens"
        self._vllm = False
        self._context: int | None = None
        self._asked = False
        self._looks = 0
        self._looking = asyncio.Lock()

    @classmethod
    def from_spec(cls, spec: str, **options: Any) -> OpenAIEngine:
        """From `URL[,URL...]#MODEL`. Raises `UserError` where a part is missing."""
        urls, _, model = spec.partition("#")
        bases = [url.strip().rstrip("/") for url in urls.split(",")]
        if not model:
            raise UserError(f"engine `{spec}`: name the model after #, as in {bases[0]}#MODEL")
        for url in bases:
            if not url.startswith(("http://", "https://")) or "@" in url:
                raise UserError(
                    f"engine `{spec}`: `{url}` must start with http:// or https:// and hold no password"
                )
        return cls(bases, model, **options)

    async def generate(self, request: Request) -> list[Completion]:
        if not self._asked:
            await self._look()
        if request.version.adapter is not None:
            self._need_vllm(f"does not load adapter {request.version.label}; vLLM does")
        return list(await asyncio.gather(*(self._sample(request, seed) for seed in request.seeds)))

    async def score(self, request: ScoreRequest) -> Scored:
        """Of vLLM. Raises `CapabilityError` for other servers, and for what vLLM cannot score."""
        if not self._asked:
            await self._look()
        self._need_vllm("is a chat API, which cannot score given tokens; use vLLM or an embedded model")

        async def ask(endpoint: Endpoint) -> Scored:
            return await vllm_server.score(endpoint, await self._served(endpoint, request.version), request)

        return await self._anywhere(ask)

    def _need_vllm(self, otherwise: str) -> None:
        if self._vllm:
            return
        if not self._asked:  # an outage says nothing of what the server can do
            raise EngineError(f"{self.spec}: nobody there says which server it is", retryable=True)
        raise CapabilityError(f"{self.spec} {otherwise}")

    def encode(self, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
        """Token ids of a prompt (P,) and of a reply (T,), the stop token last.

        Raises:
            CapabilityError: without `base` its tokenizer is not known here.
        """
        if self.checkpoint is None:
            raise CapabilityError(
                f"engine `{self.spec}` cannot take demonstrations; use an embedded model, or name "
                "the checkpoint that it serves with ?base=MODEL"
            )
        return demonstration(self._local().tokenizer, messages, reply)

    def _local(self) -> Checkpoint:
        """What is known here of the checkpoint that the server serves."""
        if self.checkpoint is None:
            raise CapabilityError(
                f"{self.spec}: which weights it serves is not known here; name them with ?base=MODEL"
            )
        if self._held is None:
            self._held = read_checkpoint(self.checkpoint)
        return self._held

    def capabilities(self) -> Capabilities:
        """What is known so far; `probe` asks the server first."""
        return Capabilities(
            token_ids=self._asks("return_token_ids"),
            logprobs=self._asks("logprobs"),
            score=self._vllm,
            adapters=self._adapters and self.checkpoint is not None,
            seeds=self._asks("seed"),
            base=f"remote:{self.model}" if self.checkpoint is None else self._local().base,
            context_tokens=self._context,
            extra={"server": "vllm" if self._vllm else "unknown"},
        )

    async def close(self) -> None:
        for endpoint in self._endpoints.all:
            await endpoint.client.close()

    async def probe(self) -> None:
        """Check before a run that an endpoint answers, and that those which answer know the model.

        A server whose list of models lacks ours is asked for one token: some list only what they have
        in a cache, or no models at all.

        Raises:
            UserError: nobody answers, access is refused, or the model is unknown.
        """
        failures = []
        for endpoint in self._endpoints.all:
            try:
                async with asyncio.timeout(PROBE_S):
                    await self._check(endpoint)
            except TimeoutError:
                failures.append(f"{endpoint.url}: no answer within {PROBE_S:g} s")
            except openai.APIError as error:
                found = await self._explained(error, endpoint)
                if isinstance(found, UserError):
                    raise found from error
                failures.append(str(found))
        if len(failures) == len(self._endpoints.all):
            raise UserError(f"{'; '.join(failures)}; is the server running?")

    async def _check(self, endpoint: Endpoint) -> None:
        known: list[str] = []
        try:
            known = await self._models(endpoint)
        except openai.APIStatusError as error:
            if error.status_code in (401, 403):
                raise
        except openai.APIConnectionError:
            endpoint.set_aside()
            raise
        if self.model in known:
            return
        try:
            await self._ask(endpoint, _ONE_TOKEN, seed=0)
        except openai.APIStatusError as error:
            if known and error.status_code in (400, 404, 422, 500):
                raise self._unknown_model(endpoint, known) from error
            raise

    async def _sample(self, request: Request, seed: int) -> Completion:
        started = time.perf_counter()

        async def ask(endpoint: Endpoint) -> Completion:
            try:
                return await self._ask(endpoint, request, seed)
            except openai.BadRequestError as error:
                if filtered(error):
                    return Completion("", "refusal", Usage(), seed_sent=self._asks("seed"))
                raise

        completion = await self._anywhere(ask)
        completion.latency_s = time.perf_counter() - started
        return completion

    async def _anywhere(self, ask: Callable[[Endpoint], Coroutine[Any, Any, T]]) -> T:
        """What the first endpoint says that is up."""
        failure: SparringError | None = None
        for endpoint in self._endpoints.order():
            try:
                with endpoint.busy():
                    return await self._answer(endpoint, ask)
            except openai.APIError as error:
                failure = await self._explained(error, endpoint)
                if not is_down(error):
                    raise failure from error
                endpoint.set_aside()
                endpoint.forget()
            except ValueError as error:
                wrong = f"{endpoint.url}: an answer that cannot be read: {error}"
                raise EngineError(wrong, retryable=True) from error
        raise failure or EngineError(f"{self.spec}: no endpoint")

    async def _answer(self, endpoint: Endpoint, ask: Callable[[Endpoint], Coroutine[Any, Any, T]]) -> T:
        """What an endpoint says; one that was started anew since gets its adapters again."""
        if endpoint.doubtful and len(self._endpoints.all) > 1:
            await there(endpoint)
        try:
            return await watched(endpoint, ask(endpoint), asks=self._vllm)
        except openai.NotFoundError:
            if not endpoint.adapters:
                raise
        endpoint.forget()
        return await watched(endpoint, ask(endpoint), asks=self._vllm)

    async def _served(self, endpoint: Endpoint, version: PolicyVersion) -> str:
        """The name under which an endpoint serves a version; its adapter is loaded there first."""
        if version.adapter is None:
            return self.model
        if version.base:
            check_base(version, self._local().base, self.spec)
        name = await asyncio.to_thread(self._folders.digest, version.adapter, version.adapter_hash)
        if name not in endpoint.adapters:
            async with endpoint.lock:  # once for all that wait for it
                await vllm_server.load_adapter(endpoint, name, str(Path(version.adapter).resolve()))
        return name

    async def _ask(self, endpoint: Endpoint, request: Request, seed: int) -> Completion:
        where = f"{endpoint.url} (model `{self.model}`)"
        model = await self._served(endpoint, request.version)
        while True:
            body = self._body(request, seed) | {"model": model}
            try:
                response = await endpoint.client.chat.completions.create(**body)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self._does_without(error, body):
                    raise
                continue
            tempered = await self._tempers(endpoint, request.sampling)
            completion = read_completion(response, request.sampling, where, tempered=tempered)
            completion.seed_sent = "seed" in body
            return completion

    async def _tempers(self, endpoint: Endpoint, sampling: Sampling) -> bool:
        """Whether the endpoint's log-probabilities are of the temperature that was drawn with."""
        if sampling.temperature == 1:
            return True
        if 0 < sampling.temperature < COLDEST:
            return False
        if not self._vllm or not self._asks("logprobs"):
            return False
        if endpoint.tempers is None:
            async with endpoint.lock:
                if endpoint.tempers is None:
                    endpoint.tempers = await vllm_server.tempers(endpoint, self.model)
        return endpoint.tempers

    def _body(self, request: Request, seed: int) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "messages": list(request.messages),
            "temperature": sampling.temperature,
            # Sent even at 1: a server's default may come from the model's own generation settings.
            "top_p": sampling.top_p,
            self._length_field: sampling.max_tokens,
            "extra_body": extra_fields(sampling, everything=self._vllm),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if self._asks("seed"):
            body["seed"] = seed & ((1 << SEED_BITS) - 1)
        if self._asks("logprobs"):
            body["logprobs"] = True
        if self._asks("return_token_ids"):
            body["extra_body"]["return_token_ids"] = True
        return body

    def _asks(self, name: str) -> bool:
        """Whether an optional field is sent: as configured, or until a server has refused it."""
        wanted = self._wants[name]
        if wanted is None:
            wanted = self._vllm if name == "return_token_ids" else True
        return wanted and name not in self._off

    def _does_without(self, error: openai.APIStatusError, body: dict[str, Any]) -> bool:
        """Switch off the optional field that the server complains about; False where it is none."""
        said = error.response.text
        if self._length_field == "max_tokens" and "max_completion_tokens" in said:
            self._length_field = "max_completion_tokens"
            return True
        for name, wanted in self._wants.items():
            sent = name in body or name in body["extra_body"]
            if sent and wanted is None and re.search(rf"\b{name}\b", said):
                self._off.add(name)
                return True
        return False

    async def _look(self) -> None:
        """Learn once which server this is; a server that lists no models is of an unknown kind."""
        looks = self._looks
        async with self._looking:
            if self._asked or self._looks > looks:  # while this one waited
                return
            self._looks += 1
            silent = False
            for endpoint in self._endpoints.order():
                try:
                    await self._models(endpoint)
                except openai.APITimeoutError:
                    silent = True
                except openai.APIConnectionError:
                    pass  # asked again by the next call; this one fails by itself
                except openai.APIError:
                    self._asked = True
                if self._asked:
                    return
            # Or every call would wait as long for a server that lists no models; where `base` is given it
            # is vLLM, which lists them when it is well.
            self._asked = silent and self.checkpoint is None

    async def _models(self, endpoint: Endpoint) -> list[str]:
        """The names the server lists; notes on the way whether it is vLLM, and the context length."""
        page = await endpoint.models()
        listed = getattr(page, "data", None) or []
        for model in listed:
            if getattr(model, "owned_by", None) == "vllm":
                self._vllm = True
            if model.id == self.model:
                self._context = getattr(model, "max_model_len", None)
        if self._vllm and not self._asked and self.checkpoint is not None:
            self._adapters = await vllm_server.takes_adapters(endpoint)
        self._asked = True
        return [model.id for model in listed]

    async def _explained(self, error: openai.APIError, endpoint: Endpoint) -> SparringError:
        """The client's error as one of ours; one about an unknown model lists those the server has."""
        failure = classify(error, endpoint.url, self.model)
        if not isinstance(error, openai.NotFoundError | openai.BadRequestError):
            return failure
        try:
            known = await self._models(endpoint)
        except openai.APIError:
            return failure
        if not known or self.model in known or not isinstance(failure, UserError):
            return failure
        return self._unknown_model(endpoint, known)

    def _unknown_model(self, endpoint: Endpoint, known: Sequence[str]) -> UserError:
        return UserError(f"{endpoint.url} has no model `{self.model}`; it has: {', '.join(sorted(known))}")

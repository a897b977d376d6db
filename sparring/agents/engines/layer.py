"""The engine layer: retries, time-outs, rate limits, concurrency, response cache and ledger, once.

Every backend is wrapped by the same `ManagedEngine`, so no backend has any of these of its own.
Whether an error is worth another try is said by the error (`EngineError.retryable`, `.retry_after`);
the user's faults never are. One attempt waits for its turn (concurrency, then rate), and only then does
its time-out start, so a long queue is not taken for a slow backend.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from pathlib import Path
from typing import Any, TypeVar

from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from sparring.agents.engines.answers import check_completions, check_scores
from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    Engine,
    Ids,
    Message,
    Rated,
    Request,
    Scored,
    ScoreRequest,
    Solved,
    Usage,
    encode,
    rate,
)
from sparring.agents.engines.budget import Once, Purse
from sparring.agents.engines.cache import ResponseCache, sample_key
from sparring.agents.engines.ledger import Ledger
from sparring.agents.engines.script import text_of
from sparring.errors import EngineError, EngineTimeout, SparringError, UserError

T = TypeVar("T")

LONGEST_RETRY_AFTER_S = 300.0
"""A backend that asks for a longer wait than this has failed."""


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """How one backend is served."""

    tries: int = 1
    """Attempts at one call, the first included."""
    timeout: float | None = None
    """Seconds for one attempt; None waits for ever."""
    backoff: float = 1.0
    """Seconds: the wait before retry n is uniform on [0, backoff * 2^(n-1)], or what the backend asks for."""
    backoff_max: float = 60.0
    concurrency: int | None = None
    """Attempts in flight."""
    rpm: float | None = None
    """Attempts a minute, evenly spaced, so that no window of a minute holds more."""
    tpm: float | None = None
    """Tokens a minute: of the prompt, by its characters, and `max_tokens`; estimated before each attempt."""
    price_in: float | None = None
    """Money for a million prompt tokens. Where neither this nor `price_out` is given nobody knows what a call
    costs, and 0 is journaled; `price_in=0` says that it is free."""
    price_cached: float | None = None
    """The same for prompt tokens the backend had cached; None is `price_in`."""
    price_out: float | None = None
    cache: Path | None = None
    """File of the response cache; None is off."""

    def __post_init__(self) -> None:
        for name in ("timeout", "concurrency", "rpm", "tpm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be above 0, got {value:g}")
        for name in ("backoff", "backoff_max", "price_in", "price_out", "price_cached"):
            value = getattr(self, name) or 0.0
            if not 0 <= value < inf:  # a price that is no number would never empty a purse
                raise UserError(f"{name} must be a number, not below 0, got {value:g}")
        if self.tries < 1:
            raise UserError(f"tries must be at least 1, got {self.tries}")

    @classmethod
    def of(cls, engine: object) -> ServicePolicy:
        """An engine's own, if no other is given: servers hiccup and throttle; in this program most engines
        fail for good, and all of them batch for themselves."""
        if getattr(engine, "remote", False):
            return cls(tries=5, timeout=600.0, concurrency=64)
        return cls(tries=getattr(engine, "tries", 1))

    def cost(self, usage: Usage) -> float:
        price_in, price_out = self.price_in or 0.0, self.price_out or 0.0
        cached_price = price_in if self.price_cached is None else self.price_cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * price_in + usage.cached_tokens * cached_price + usage.completion_tokens * price_out
        ) / 1e6


RATINGS = "ratings"
"""Where the ledger keeps what a reward model read."""


class ManagedEngine:
    """An engine with its service policy; itself an `Engine`.

    An engine's class may say `remote = True` (its default policy is for servers), `tries = 2` (of one in this
    program: what it was started anew for can be asked again) and
    `one_sample_per_call = True` (samples of one prompt are separate calls, retried one by one).
    `spec` is what the journal and the cache call it, by default the engine's own.
    """

    def __init__(
        self, inner: Engine, policy: ServicePolicy | None = None, *, spec: str | None = None
    ) -> None:
        self.purse: Purse | None = None
        """Who pays, where the run has a budget."""
        self.inner = inner
        self.spec = spec or inner.spec
        self.policy = policy or ServicePolicy.of(inner)
        self.ledger = Ledger()
        self._split = bool(getattr(inner, "one_sample_per_call", False))
        self._slots = asyncio.Semaphore(self.policy.concurrency) if self.policy.concurrency else None
        self._requests, self._tokens = _limiter(self.policy.rpm, even=True), _limiter(self.policy.tpm)
        self._gated = bool(self._slots or self._requests or self._tokens)
        self._backoff = wait_random_exponential(self.policy.backoff, self.policy.backoff_max)
        self.priced = bool(self.policy.price_in or self.policy.price_out or self.policy.price_cached)
        """Whether calls cost money."""
        said = self.policy.price_in is not None or self.policy.price_out is not None
        self.unpriced = bool(getattr(inner, "remote", False)) and not said
        """Whether somebody may send a bill that nobody here can foresee: a server without a price."""
        self._cache = ResponseCache(self.policy.cache) if self.policy.cache else None
        self._characters, self._prompt_tokens = 4, 1  # of all prompts so far; before the first a guess

    async def generate(self, request: Request) -> list[Completion]:
        if not self._split or len(request.seeds) == 1:
            return await self._generate(request)
        singles = [replace(request, seeds=(seed,)) for seed in request.seeds]
        # Samples are journaled together: to stop between them would lose those that are paid for.
        once = None if self.purse is None else Once(self.purse, len(singles))
        answers = await all_of([self._generate(single, place, once) for place, single in enumerate(singles)])
        return [completion for answer in answers for completion in answer]

    async def score(self, request: ScoreRequest) -> Scored:
        async def call() -> Scored:
            return check_scores(await self.inner.score(request), request, self.spec)

        expected = Usage(prompt_tokens=len(request.prompt_ids) + len(request.continuation_ids))
        scored, _ = await self._tried(call, request.version.label, expected)
        self.ledger.of(request.version.label).calls += 1
        return scored

    def capabilities(self) -> Capabilities:
        return self.inner.capabilities()

    def encode(self, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
        """As the engine's own: ids of the prompt (P,) and of the reply (T,)."""
        return encode(self.inner, messages, reply)

    async def rate(self, solutions: Sequence[Solved]) -> list[Rated]:
        async def call() -> list[Rated]:
            return await rate(self.inner, solutions)

        rated, _ = await self._tried(call, RATINGS, Usage())
        tally = self.ledger.of(RATINGS)
        tally.calls += 1
        tally.prompt_tokens += sum(one.tokens for one in rated)
        return rated

    async def probe(self) -> None:
        """Check before any work that the backend is there: ask the server, or load the model.

        Raises:
            UserError: it is not, or does not know the model.
        """
        for name in ("probe", "start"):
            check = getattr(self.inner, name, None)
            if check is not None:
                await check()

    def release(self) -> None:
        """Close what is this layer's own; the engine inside may still serve others."""
        if self._cache is not None:
            self._cache.close()

    async def close(self) -> None:
        self.release()
        await self.inner.close()

    async def _generate(
        self, request: Request, first: int = 0, payer: Once | None = None
    ) -> list[Completion]:
        """`first` is the sample index of the first seed: the cache keeps samples apart by it."""
        cache = self._cache
        if cache is None:
            return await self._call(request, payer)
        base = await self._base()
        keys = [sample_key(request, self.spec, base, seed, first + i) for i, seed in enumerate(request.seeds)]
        found = [cache.get(key) for key in keys]
        missing = [place for place, completion in enumerate(found) if completion is None]
        self.ledger.of(request.version.label).cache_hits += len(keys) - len(missing)
        if missing:
            lacking = replace(request, seeds=tuple(request.seeds[place] for place in missing))
            fresh = await self._call(lacking, payer)
            await asyncio.to_thread(
                cache.put, [(keys[i], new) for i, new in zip(missing, fresh, strict=True)]
            )
            for place, completion in zip(missing, fresh, strict=True):
                found[place] = completion
        return [completion for completion in found if completion is not None]

    async def _base(self) -> str:
        """The identity of the weights; loads them first, off the event loop, where they are ours to load."""
        start = getattr(self.inner, "start", None)
        if start is not None:
            await start()
        return self.inner.capabilities().base

    async def _call(self, request: Request, payer: Once | None) -> list[Completion]:
        label = request.version.label
        expected, characters = Usage(), 0
        if self._tokens is not None or self.purse is not None:  # else nobody asks
            characters = sum(len(text_of(message)) for message in request.messages)
            expected = self._expected(characters, request)

        async def call() -> list[Completion]:
            return check_completions(await self.inner.generate(request), request, self.spec)

        completions, retries = await self._tried(call, label, expected, payer)
        tally = self.ledger.of(label)
        tally.calls += 1
        for completion in completions:
            completion.retries = retries
            if self.priced:
                completion.usage = replace(completion.usage, cost=self.policy.cost(completion.usage))
            tally.add(completion.usage)
            if characters:
                self._characters += characters
                self._prompt_tokens += completion.usage.prompt_tokens
            if self.purse is not None:
                self.purse.add(completion.usage)
        return completions

    def _expected(self, characters: int, request: Request) -> Usage:
        """What a request and its answers may take, by the prompts so far: the backend's own count of this one
        comes too late."""
        prompt = ceil(characters * self._prompt_tokens / self._characters)
        samples = len(request.seeds)
        tokens = Usage(samples * prompt, samples * request.sampling.max_tokens)
        return replace(tokens, cost=self.policy.cost(tokens))

    async def _tried(
        self, call: Callable[[], Awaitable[T]], label: str, expected: Usage, payer: Once | None = None
    ) -> tuple[T, int]:
        """The result of the first attempt that succeeds, and how many failed before it."""
        tally, retries = self.ledger.of(label), 0

        def count(_: RetryCallState) -> None:
            nonlocal retries
            retries += 1
            tally.retries += 1

        attempt = partial(self._attempt, call, expected, payer or self.purse)
        try:
            if self.policy.tries == 1:
                return await attempt(), 0
            retrying = AsyncRetrying(
                stop=stop_after_attempt(self.policy.tries),
                retry=retry_if_exception(_worth_a_retry),
                wait=self._wait,
                before_sleep=count,
                reraise=True,
            )
            return await retrying(attempt), retries
        except SparringError:
            tally.errors += 1
            raise

    async def _attempt(
        self, call: Callable[[], Awaitable[T]], expected: Usage, payer: Purse | Once | None
    ) -> T:
        async with self._turn(expected) if self._gated else nullcontext():
            if payer is not None:
                await payer.admit(expected)
            try:
                with payer.hold(expected) if payer is not None else nullcontext():
                    async with asyncio.timeout(self.policy.timeout):
                        return await call()
            except SparringError:
                raise
            except TimeoutError as error:
                limit = f" within {self.policy.timeout:g} s" if self.policy.timeout else ""
                raise EngineTimeout(f"{self.spec}: no answer{limit}") from error
            except Exception as error:
                raise EngineError(f"{self.spec}: {type(error).__name__}: {error}") from error

    @asynccontextmanager
    async def _turn(self, expected: Usage) -> AsyncIterator[None]:
        """Wait for a place in flight, then for the rates."""
        async with self._slots or nullcontext():
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                tokens = expected.prompt_tokens + expected.completion_tokens
                await self._tokens.acquire(min(tokens, self._tokens.max_rate))
            yield

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, EngineError) else None
        if asked is None:
            return self._backoff(state)
        # Callers that were all told the same second must not come back in the same instant.
        return asked + random.uniform(0, self.policy.backoff)


def _worth_a_retry(error: BaseException) -> bool:
    if not isinstance(error, EngineError) or not error.retryable:
        return False
    return error.retry_after is None or error.retry_after <= LONGEST_RETRY_AFTER_S


def _limiter(rate: float | None, *, even: bool = False) -> AsyncLimiter | None:
    """`rate` a minute; `even` lets no burst through."""
    if rate is None:
        return None
    return AsyncLimiter(1, 60 / rate) if even else AsyncLimiter(rate, 60)


async def all_of(calls: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Results in order. The first failure is raised, and the calls still running are cancelled."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

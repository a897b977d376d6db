"""An engine without a model: deterministic tests, recorded replays, every command offline.

It gives everything a real backend gives (token ids, log-probabilities, usage), so that the journal's
whole path is exercised. Ids are bytes of the text in a chat frame: a later prompt of the same
conversation has the earlier prompt + completion as an exact token prefix. Log-probabilities are made up
from the ids, and `score` agrees with `generate`. Never evidence of anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    FinishReason,
    Floats,
    Ids,
    Message,
    Request,
    Scored,
    ScoreRequest,
    Usage,
)
from sparring.agents.engines.identity import canonical, feed, request_hash
from sparring.agents.engines.script import Rule, read_rules, text_of
from sparring.errors import CapabilityError, EngineError, EngineTimeout, UserError, unknown

Reply = str | tuple[str, FinishReason] | Completion | Exception
"""A text, a text and its finish reason, a whole completion (given out as it is), or what to raise."""
ReplyFunction = Callable[[Request, int], Reply | Awaitable[Reply]]

OPEN, CONTENT, CLOSE = 256, 257, 258
"""Frame tokens. A message is `OPEN role CONTENT text CLOSE`; a prompt ends with `OPEN assistant CONTENT`."""


class ScriptedEngine:
    """Answers from a function `(request, seed)`, from a script file, or from a built-in: `hash`, `echo`.

    Args:
        source: The function, the file's path, or the built-in's name.
        ids: Give token ids and log-probabilities.
        bytes_per_token: Bytes of UTF-8 text in one token; 1 can be decoded, 8 makes English-like lengths.
        delay_s: Seconds that every call takes.
        call_log: Append-only file that gets one JSON line a sample (request hash, seed, process, time)
            before the answer is made: a witness outside the journal.

    `Sampling.stop` cuts the text; `max_tokens` does not: a script says `finish_reason: length` itself.
    """

    remote = False

    def __init__(
        self,
        source: ReplyFunction | str | Path,
        *,
        ids: bool = True,
        bytes_per_token: int = 1,
        delay_s: float = 0.0,
        call_log: str | Path | None = None,
    ) -> None:
        if not 1 <= bytes_per_token <= 8:
            raise UserError(f"bytes_per_token must be between 1 and 8, got {bytes_per_token}")
        self._ids, self._width, self._delay_s = ids, bytes_per_token, delay_s
        self.spec, self._reply, self._base = _open_source(source)
        self._log = None if call_log is None else _open_log(Path(call_log))

    async def generate(self, request: Request) -> list[Completion]:
        started = time.perf_counter()
        prompt = self._prompt_ids(request.messages) if self._ids else None
        if self._log is not None:
            self._witness(self._log, request)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        completions = []
        for seed in request.seeds:
            reply = self._reply(request, seed)
            if inspect.isawaitable(reply):
                reply = await reply
            completions.append(self._completion(request, reply, prompt))
        elapsed = time.perf_counter() - started
        for completion in completions:
            completion.latency_s = elapsed
        return completions

    async def score(self, request: ScoreRequest) -> Scored:
        """The same made-up log-probabilities that `generate` gave to these ids, shape (T,)."""
        if request.top_k or request.full_vocabulary:
            raise CapabilityError(f"{self.spec}: a script has no vocabulary, so no top-k and no entropy")
        return Scored(_logprobs(request.prompt_ids, request.continuation_ids))

    def encode(self, messages: Sequence[Message], reply: str) -> tuple[Ids, Ids]:
        """Ids of a prompt (P,) and of somebody else's reply to it (T,), as `generate` makes them.

        Raises:
            CapabilityError: the script was opened without ids.
        """
        if not self._ids:
            raise CapabilityError(f"engine `{self.spec}` cannot take demonstrations: it has no token ids")
        return self._prompt_ids(tuple(messages)), np.append(self._encode(reply), np.int32(CLOSE))

    def capabilities(self) -> Capabilities:
        return Capabilities(
            token_ids=self._ids, logprobs=self._ids, score=self._ids, seeds=True, base=self._base
        )

    async def close(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @staticmethod
    def _witness(log: int, request: Request) -> None:
        """One line a sample, in one write, so that lines of several processes never mix."""
        name, pid, now = request_hash(request), os.getpid(), time.time()
        lines = [
            f'{{"request":"{name}","seed":{seed},"pid":{pid},"time":{now:.6f}}}\n' for seed in request.seeds
        ]
        os.write(log, "".join(lines).encode())

    def _completion(self, request: Request, reply: Reply, prompt: Ids | None) -> Completion:
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Completion):
            return replace(reply)
        if not isinstance(reply, str | tuple):
            raise UserError(
                f"{self.spec}: the reply function returned {type(reply).__name__}; return text, "
                "(text, finish_reason), a Completion or an exception"
            )
        text: str
        finish: FinishReason
        text, finish = (reply, "stop") if isinstance(reply, str) else reply
        text, stopped = _cut(text, request.sampling.stop)
        closed = finish == "stop" and not stopped
        if prompt is None:
            return Completion(text, finish, Usage(*self._count(request.messages, text, closed)))
        ids = self._encode(text)
        if closed:
            ids = np.append(ids, np.int32(CLOSE))
        return Completion(
            text,
            finish,
            Usage(len(prompt), len(ids)),
            prompt_ids=prompt,
            completion_ids=ids,
            logprobs=_logprobs(prompt, ids),
            logprob_kind=request.sampling.logprob_kind,
        )

    def _count(self, messages: tuple[Message, ...], text: str, closed: bool) -> tuple[int, int]:
        """Prompt and completion tokens in the usage of an engine that gives no ids: characters, roughly."""
        prompt = sum(len(text_of(message)) for message in messages)
        return -(-prompt // self._width), -(-len(text) // self._width) + closed

    def _prompt_ids(self, messages: tuple[Message, ...]) -> Ids:
        pieces: list[Ids] = []
        for message in messages:
            content = message["content"]
            body = content if isinstance(content, str) else canonical(content)
            pieces += [_head(message["role"]), self._encode(body), _CLOSE]
        pieces.append(_head("assistant"))
        return np.concatenate(pieces)

    def _encode(self, text: str) -> Ids:
        data = text.encode("utf-8", "surrogatepass")
        width = self._width
        if width == 1:
            return np.frombuffer(data, np.uint8).astype(np.int32)
        data += b"\0" * (-len(data) % width)
        words = np.zeros((len(data) // width, 8), np.uint8)
        words[:, :width] = np.frombuffer(data, np.uint8).reshape(-1, width)
        mixed = (words.view(np.uint64)[:, 0] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)
        return (mixed + np.uint64(CLOSE + 1)).astype(np.int32)


def digest(request: Request, seed: int) -> int:
    """64 bits that depend on the whole request and the seed."""
    hasher = hashlib.blake2b(seed.to_bytes(16, "little", signed=True), digest_size=8)
    feed(hasher, request)
    return int.from_bytes(hasher.digest(), "little")


def hash_reply(request: Request, seed: int) -> str:
    """`Answer: N`, N from 0 to 99."""
    return f"Answer: {digest(request, seed) % 100}"


def echo_reply(request: Request, seed: int) -> str:
    """The last message again, after a mark that depends on the whole request and the seed."""
    return f"[{digest(request, seed):016x}] {text_of(request.messages[-1])}"


BUILT_IN: dict[str, ReplyFunction] = {"hash": hash_reply, "echo": echo_reply}


def _open_source(source: ReplyFunction | str | Path) -> tuple[str, ReplyFunction, str]:
    """The engine's spec, its reply function, and what stands for the hash of its weights."""
    if callable(source):
        name = f"scripted:{getattr(source, '__qualname__', type(source).__qualname__)}"
        return name, source, name
    if isinstance(source, str) and source in BUILT_IN:
        return f"scripted:{source}", BUILT_IN[source], f"scripted:{source}"
    path = Path(source)
    if not path.exists():
        raise unknown("script (no such file either)", str(source), BUILT_IN)
    rules = read_rules(path)
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return f"scripted:{source}", _rules_reply(rules, path), f"scripted:{content}"


def _rules_reply(rules: list[Rule], path: Path) -> ReplyFunction:
    async def later(reply: Reply, delay_s: float) -> Reply:
        await asyncio.sleep(delay_s)
        return reply

    def reply(request: Request, seed: int) -> Reply | Awaitable[Reply]:
        rule = next((rule for rule in rules if rule.fits(request.messages)), None)
        if rule is None:
            last = text_of(request.messages[-1])[:80]
            raise EngineError(
                f"no rule of script {path} fits the message `{last}`; add a last rule without match"
            )
        text = rule.take(digest(request, seed))
        said: Reply = (text, rule.finish_reason)
        if rule.error == "timeout":
            said = EngineTimeout(f"script {path}: timeout, as its rule says")
        elif rule.error == "engine_error":
            said = EngineError(f"script {path}: engine error, as its rule says", retryable=True)
        return later(said, rule.delay_s) if rule.delay_s else said

    return reply


def _open_log(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise UserError(f"cannot open call log {path}: {error.strerror}") from error


def _cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The text before the first stop text, and whether there was one."""
    found = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return (text[: min(found)], True) if found else (text, False)


_CLOSE = np.array([CLOSE], np.int32)


@lru_cache(maxsize=64)
def _head(role: str) -> Ids:
    return np.array([OPEN, *role.encode(), CONTENT], np.int32)


def _logprobs(prompt: Ids, completion: Ids) -> Floats:
    """Made-up log-probabilities in (-4, 0), shape (T,): a hash of prompt, place and token."""
    start = np.uint32((int(prompt.sum()) * 31 + len(prompt)) & 0xFFFFFFFF)
    place = np.arange(1, len(completion) + 1, dtype=np.uint32)
    mixed = (place * np.uint32(0x9E3779B1)) ^ (completion.astype(np.uint32) * np.uint32(0x85EBCA6B)) ^ start
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return -((mixed >> np.uint32(8)).astype(np.float32) + np.float32(0.5)) * np.float32(4 / 2**24)

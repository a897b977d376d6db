"""An open episode: the one place where turns are asked for, replayed and written.

Asking for a key that is journaled with a final attempt returns it; one that is in flight awaits the
same result; one whose last attempt was the world's fault is tried again with the next attempt's seed;
one whose request differs raises `ReplayDiverged` and writes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import JournalError, ReplayDiverged
from .messages import Conversation
from .records import AgentRecord, Ask, Place, Produced, Turn
from .seeds import derive_seed, episode_id
from .tokens import PrefixIndex, Stored
from .types import digest, plain
from .writer import Row

if TYPE_CHECKING:
    from .run import RunHandle

Produce = Callable[[list[Place]], Awaitable[list[Produced]]]
EMPTY = np.empty(0, np.int32)


class Attempt:
    """What the journal remembers of one attempt, enough to replay it."""

    __slots__ = ("agent", "final", "fingerprint", "turn")

    def __init__(self, turn: Turn, fingerprint: bytes, agent: str, final: bool) -> None:
        self.turn, self.fingerprint, self.agent, self.final = turn, fingerprint, agent, final


class EpisodeHandle:
    """One episode of a run this process drives."""

    def __init__(self, run: RunHandle, place: tuple[str, str, int, int], seats: dict[str, Any]) -> None:
        self.run, self.seats = run, seats
        self.task, task_key, self.iteration, self.copy = place
        self.id = episode_id(run.id, task_key, self.iteration, self.copy)
        self.conversation = Conversation(self.id, run.ids)
        self.prefixes = PrefixIndex()
        self.attempts: dict[str, list[Attempt]] = {}
        self.new_calls = 0
        self._inflight: dict[str, tuple[bytes, asyncio.Future[Turn]]] = {}
        self._events: dict[tuple[str, str], Any] = {}

    async def turns(self, keys: Sequence[str], ask: Ask, produce: Produce) -> list[Turn]:
        """The turns at `keys`, all answers to the same messages by the same agent.

        Keys the journal cannot answer are produced together in one call of `produce`, committed in
        one transaction, and only then returned.

        Raises:
            ReplayDiverged: a key is journaled or in flight with another request.
        """
        agent_id = self.run.register(ask.agent)
        fingerprint = digest(self.conversation.chain(ask.messages), agent_id)
        missing = [key for key in keys if not self._known(key, fingerprint, ask.agent, agent_id)]
        if missing:
            await self._play(missing, ask, fingerprint, produce)
        return [await self._result(key) for key in keys]

    def _known(self, key: str, fingerprint: bytes, agent: AgentRecord, agent_id: str) -> bool:
        if key in self._inflight:
            if self._inflight[key][0] != fingerprint:
                raise ReplayDiverged(f"turn `{key}` of episode {self.id} is in flight with another request")
            return True
        tried = self.attempts.get(key)
        if not tried:
            return False
        if tried[-1].fingerprint != fingerprint:
            raise ReplayDiverged(
                f"turn `{key}` of episode {self.id} (task `{self.task}`) was journaled with another "
                f"{self._difference(tried[-1], agent, agent_id)}; nothing was written. Start a new run "
                "(`--run NAME`), or resume with the code and options of the old one"
            )
        return tried[-1].final

    def _difference(self, old: Attempt, agent: AgentRecord, agent_id: str) -> str:
        if old.agent == agent_id:
            return "request: field `messages`"
        before = self.run.agent_fields(old.agent)
        after = {
            "role": agent.role,
            "prompt": agent.prompt_hash,
            "parser": f"{agent.parser} {agent.parser_version}",
            "sampling": agent.sampling,
            "policy": agent.policy,
        }
        names = [name for name in after if before.get(name) != after[name]]
        return "request: field " + ", ".join(f"`{name}`" for name in names or ["agent"])

    async def _result(self, key: str) -> Turn:
        if key in self._inflight:
            return await asyncio.shield(self._inflight[key][1])
        return self.attempts[key][-1].turn

    async def _play(self, keys: list[str], ask: Ask, fingerprint: bytes, produce: Produce) -> None:
        loop = asyncio.get_running_loop()
        for key in keys:
            self._inflight[key] = (fingerprint, loop.create_future())
        try:
            head, rows = self.conversation.intern(ask.messages)
            if rows:
                self.run.submit(rows)
            places = [self._place(key) for key in keys]
            produced = await produce(places)
            self.new_calls += len(places)
            write = self.run.write()
            for place, made in zip(places, produced, strict=True):
                attempt = self._record(place, made, ask, (head, fingerprint), write.rows)
                # Before the commit: if this caller is cancelled now, the row is on its way all the same.
                self.attempts.setdefault(place.key, []).append(attempt)
            await self.run.commit(write)
        except BaseException as error:
            for key in keys:
                _fail(self._inflight.pop(key)[1], error)
            raise
        for key in keys:
            self._inflight.pop(key)[1].set_result(self.attempts[key][-1].turn)

    def _place(self, key: str) -> Place:
        attempt = len(self.attempts.get(key, ()))
        seed = derive_seed(self.run.seed, self.task, self.iteration, self.copy, key, attempt)
        return Place(key, attempt, seed)

    def _record(
        self, place: Place, made: Produced, ask: Ask, request: tuple[int, bytes], rows: list[tuple[str, Row]]
    ) -> Attempt:
        head, fingerprint = request
        agent_id = ask.agent.id
        turn_id = self.run.ids.take("turns")
        output = None
        if made.text is not None:
            output, new = self.conversation.add(head, "assistant", made.text)
            rows.extend(new)
        stored = Stored(None, 0, EMPTY) if made.prompt_ids is None else self.prefixes.store(made.prompt_ids)
        if made.prompt_ids is not None:
            completion = EMPTY if made.completion_ids is None else made.completion_ids
            self.prefixes.add(turn_id, made.prompt_ids, completion)
        row = turn_row(made, stored) | {
            "id": turn_id,
            "episode_id": self.id,
            "key": place.key,
            "attempt": place.attempt,
            "agent_id": agent_id,
            "policy_version_id": ask.version,
            "seed": place.seed,
            "fingerprint": fingerprint,
            "input_id": head,
            "output_id": output,
            "epoch": self.run.epoch,
            "created_at": time.time(),
        }
        rows.append(("turns", row))
        turn = Turn(
            id=turn_id,
            key=place.key,
            attempt=place.attempt,
            status=made.status,
            text=made.text or "",
            parsed=made.parsed,
            error=made.error,
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            cost=made.cost,
        )
        return Attempt(turn, fingerprint, agent_id, made.final)

    def event_payload(self, kind: str, key: str) -> Any:
        """The payload of a journaled event, None where there is none."""
        return self._events.get((kind, key))

    async def event(self, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Journal a decision once; asked again, the first payload is returned."""
        known = self._events.get((kind, key))
        if known is None:
            write = self.run.write()
            write.rows.append(("events", self._event_row(kind, key, payload)))
            await self.run.commit(write)
            known = self._events[(kind, key)] = payload
        return dict(known)

    def _event_row(self, kind: str, key: str, payload: Any) -> Row:
        return self.run.event_row(kind, key, payload, episode=self.id)

    async def close(
        self,
        status: str,
        outcome: Any = None,
        error: str | None = None,
        verdict: dict[str, Any] | None = None,
    ) -> None:
        """End the episode: verdict, outcome and status become visible together."""
        write = self.run.write()
        if verdict is not None and ("verdict", "0") not in self._events:
            write.rows.append(("events", self._event_row("verdict", "0", verdict)))
        write.closes.append(
            {
                "b_id": self.id,
                "status": status,
                "outcome": outcome,
                "error": plain(error),
                "finished_at": time.time(),
            }
        )
        await self.run.commit(write)
        self.run.closed(self.id, status, outcome)

    def load(self, attempts: dict[str, list[Attempt]], events: dict[tuple[str, str], Any]) -> None:
        """Continue from journaled rows."""
        for key, tried in attempts.items():
            if [a.turn.attempt for a in tried] != list(range(len(tried))):
                raise JournalError(f"turn `{key}` of episode {self.id}: attempts are not 0, 1, 2, ...")
        self.attempts, self._events = attempts, events


def _fail(future: asyncio.Future[Turn], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)
        future.exception()  # seen: the caller raises it, others may or may not be waiting


def turn_row(made: Produced, stored: Stored) -> Row:
    """The columns of `turns` that come from the model call itself."""
    return {
        "final": made.final,
        "engine": made.engine,
        "seed_sent": made.seed_sent,
        "status": made.status,
        "parsed": made.parsed,
        "error": plain(made.error),
        "finish_reason": made.finish_reason,
        "prompt_tokens": made.prompt_tokens,
        "completion_tokens": made.completion_tokens,
        "cached_tokens": made.cached_tokens,
        "cost": made.cost,
        "latency_s": made.latency_s,
        "retries": made.retries,
        "from_cache": made.from_cache,
        "prefix_turn_id": stored.prefix_turn_id,
        "prefix_length": stored.prefix_length,
        "prompt_tail": None if made.prompt_ids is None else stored.tail,
        "completion_ids": made.completion_ids,
        "logprobs": made.logprobs,
        "logprob_kind": made.logprob_kind,
    }

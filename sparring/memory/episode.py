"""An open episode: the one place where turns are asked for, replayed and written.

Asking for a key that is journaled with a final attempt returns it; one that is in flight awaits the
same result; one whose last attempt was the world's fault is tried again with the next attempt's seed;
one whose request differs raises `ReplayDiverged` and writes nothing. A call goes on when who asked for it
is cancelled: use the handle as a context, and what is in flight is journaled before it is left.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import JournalError, ReplayDiverged
from .flight import Flight
from .messages import Conversation, Found
from .records import AgentRecord, Ask, Place, Produced, Turn
from .rows import Row
from .scores import Scores
from .seeds import derive_seed, episode_id
from .tokens import EMPTY, Ids, PrefixIndex, Stored
from .types import digest, dumps, plain
from .writer import Write

if TYPE_CHECKING:
    from .run import RunHandle

Produce = Callable[[list[Place]], Awaitable[list[Produced]]]
SHARED = b""
"""The fingerprint of a turn of the episode that this one was forked from: whoever asks, that was said."""


class Attempt:
    """What the journal remembers of one attempt, enough to replay it."""

    __slots__ = ("agent", "final", "fingerprint", "turn")

    def __init__(self, turn: Turn, fingerprint: bytes, agent: str, final: bool) -> None:
        self.turn, self.fingerprint, self.agent, self.final = turn, fingerprint, agent, final


class EpisodeHandle:
    """One episode of a run this process drives. It belongs to one event loop."""

    def __init__(
        self, run: RunHandle, number: int, place: tuple[str, str, int, int], seats: dict[str, Any]
    ) -> None:
        self.run, self.number, self.seats = run, number, seats
        self.task, task_key, self.iteration, self.copy = place
        self.id = episode_id(run.id, task_key, self.iteration, self.copy)
        self.conversation = Conversation(number, run.ids)
        self.prefixes = PrefixIndex()
        self.scores = Scores(run)
        self.attempts: dict[str, list[Attempt]] = {}
        self.new_calls = 0
        self.broken: Exception | None = None
        """Why a write of this handle was refused: what it holds in memory is not what is stored."""
        self._inflight: dict[str, Flight] = {}
        self._deciding: dict[tuple[str, str], Flight] = {}
        self._events: dict[tuple[str, str], Any] = {}
        self._unwritten: list[tuple[str, Row]] = []
        """Messages asked about but not stored: they go with whichever turn is committed next."""

    async def turns(self, keys: Sequence[str], ask: Ask, produce: Produce) -> list[Turn]:
        """The turns at `keys`, all answers to the same messages by the same agent.

        Keys the journal cannot answer are produced together in one call of `produce`, committed in
        one transaction, and only then returned.

        Raises:
            ReplayDiverged: a key is journaled or in flight with another request.
            StaleEpoch, JournalError: the turns, or an earlier write of this handle, could not be stored.
        """
        found = self.conversation.find(ask.messages)
        fingerprint = digest(self.conversation.chain(ask.messages, found), ask.agent.id)
        made: set[str] = set()
        while True:
            if self.broken is not None:
                raise self.broken
            missing = [key for key in dict.fromkeys(keys) if not self._known(key, fingerprint, ask.agent)]
            flights = {flight for key in keys if (flight := self._inflight.get(key)) is not None}
            mine = self._take_off(missing, ask, (fingerprint, found), produce) if missing else None
            if mine is not None and not await mine.landed():
                raise asyncio.CancelledError("the call was given up with its episode")
            made.update(missing)
            if all([await flight.landed() for flight in flights]):
                break
        turns = [self.attempts[key][-1].turn for key in keys]
        return [t if t.replayed or t.key in made else replace(t, replayed=True) for t in turns]

    def turn(self, key: str) -> Turn | None:
        """The last attempt at a turn, as the journal has it; None where there is none."""
        tried = self.attempts.get(key)
        return tried[-1].turn if tried else None

    def _known(self, key: str, fingerprint: bytes, agent: AgentRecord) -> bool:
        flight = self._inflight.get(key)
        tried = self.attempts.get(key)
        if flight is not None:
            if flight.fingerprint != fingerprint:
                raise self._diverged(key, "is in flight", flight.agent, agent)
            return True
        if not tried:
            return False
        if tried[-1].fingerprint not in (SHARED, fingerprint):
            raise self._diverged(key, "was journaled", tried[-1].agent, agent)
        return tried[-1].final

    def _diverged(self, key: str, how: str, old: str, agent: AgentRecord) -> ReplayDiverged:
        return ReplayDiverged(
            f"turn `{key}` of episode {self.id} (task `{self.task}`) {how} with another request: "
            f"{self._difference(old, agent)}; nothing was written. Start a new run (`--run NAME`), or resume "
            "with the code and options of the old one"
        )

    def _difference(self, old: str, agent: AgentRecord) -> str:
        if old == agent.id:
            return "field `messages`"
        before = self.run.agent_fields(old)
        after = {
            "role": agent.role,
            "prompt": agent.prompt_hash,
            "parser": f"{agent.parser} {agent.parser_version}",
            "sampling": agent.sampling,
            "policy": agent.policy,
        }
        names = [name for name in after if before.get(name) != after[name]]
        return "field " + ", ".join(f"`{name}`" for name in names or ["agent"])

    def _take_off(self, keys: list[str], ask: Ask, request: tuple[bytes, Found], produce: Produce) -> Flight:
        """Begin to make turns, in a task of their own: paid calls must not be lost with who asked."""
        fingerprint, found = request
        head, rows = self.conversation.intern(ask.messages, found)
        self._unwritten += rows
        flight = Flight(keys, fingerprint, self.run.register(ask.agent))
        self._inflight.update(dict.fromkeys(keys, flight))
        flight.task = asyncio.get_running_loop().create_task(self._fly(flight, ask, head, produce))
        return flight

    async def _fly(self, flight: Flight, ask: Ask, head: int, produce: Produce) -> None:
        try:
            places = [self._place(key) for key in flight.keys]
            produced = await produce(places)
            self.new_calls += len(places)
            if self.broken is not None:
                raise self.broken
            write = self._turn_rows(places, produced, ask, (head, flight))
        except (Exception, asyncio.CancelledError) as error:
            self._land(flight, error)
        else:
            self.run.post(write)

    async def drain(self) -> None:
        """Wait until nothing is in flight: what was asked for is journaled, or has failed.

        Cancelled while it waits, it gives up what is left.
        """
        try:
            while self._inflight:
                with suppress(Exception):  # those who asked are told
                    await next(iter(self._inflight.values())).landed()
        except asyncio.CancelledError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Cancel the calls in flight; what has been handed to the writer is stored all the same."""
        for flight in set(self._inflight.values()):
            if flight.task is not None and not flight.task.done():
                flight.task.cancel()
                self._land(flight, asyncio.CancelledError())

    async def __aenter__(self) -> EpisodeHandle:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """An error lets what is in flight finish (`drain`); being cancelled gives it up."""
        if kind is not None and not issubclass(kind, Exception):
            self.give_up()
        else:
            await self.drain()

    def _turn_rows(
        self, places: list[Place], produced: list[Produced], ask: Ask, request: tuple[int, Flight]
    ) -> Write:
        head, flight = request
        write = self.run.write()
        write.rows, self._unwritten = self._unwritten, []
        try:
            made = [
                self._record(place, one, ask, (head, flight.fingerprint), write.rows)
                for place, one in zip(places, produced, strict=True)
            ]
        except Exception as error:
            self.broken = error
            raise
        write.done = partial(self._settle, flight, made)
        return write

    def _settle(self, flight: Flight, made: list[Attempt], error: Exception | None) -> None:
        """The turns are durable, or refused: only now may anyone be answered with them."""
        if error is None:
            for attempt in made:
                self.attempts.setdefault(attempt.turn.key, []).append(attempt)
        else:
            self.broken = error
        self._land(flight, error)

    def _land(self, flight: Flight, error: BaseException | None) -> None:
        for key in flight.keys:
            if self._inflight.get(key) is flight:  # not given up before
                del self._inflight[key]
        flight.land(error)

    def _place(self, key: str) -> Place:
        attempt = len(self.attempts.get(key, ()))
        seed = derive_seed(self.run.seed, self.task, self.iteration, self.copy, key, attempt)
        return Place(key, attempt, seed)

    def _record(
        self, place: Place, made: Produced, ask: Ask, request: tuple[int, bytes], rows: list[tuple[str, Row]]
    ) -> Attempt:
        head, fingerprint = request
        turn_id = self.run.ids.take("turns")
        output = None
        if made.text is not None:
            output, new = self.conversation.add(head, "assistant", made.text)
            rows.extend(new)
        stored = self._store_ids(turn_id, place.key, made)
        row = turn_row(made, stored) | {
            "id": turn_id,
            "episode_number": self.number,
            "key": place.key,
            "attempt": place.attempt,
            "agent_id": ask.agent.id,
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
        return Attempt(turn, fingerprint, ask.agent.id, made.final)

    def _store_ids(self, turn_id: int, key: str, made: Produced) -> Stored:
        completion = EMPTY if made.completion_ids is None else _ids(made.completion_ids)
        if made.logprobs is not None and len(made.logprobs) != len(completion):
            raise JournalError(
                f"turn `{key}`: {len(completion)} completion ids but {len(made.logprobs)} log-probabilities"
            )
        if made.prompt_ids is None:
            return Stored(None, 0, EMPTY)
        prompt = _ids(made.prompt_ids)
        stored = self.prefixes.store(prompt)
        self.prefixes.add(turn_id, prompt, completion)
        return stored

    def event_payload(self, kind: str, key: str) -> Any:
        """The payload of a journaled event, None where there is none."""
        return self._events.get((kind, key))

    async def event(self, kind: str, key: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Journal a decision once; asked again, the first payload is returned."""
        name = (kind, key)
        while name not in self._events:
            flight = self._deciding.get(name)
            if flight is not None:
                await flight.landed()
                continue
            if self.broken is not None:
                raise self.broken
            self._deciding[name] = Flight()
            write = self.run.write()
            write.rows.append(("events", self._event_row(kind, key, payload)))
            # As JSON has it, so that a replay sees the same.
            write.done = partial(self._decided, name, json.loads(dumps(payload)))
            await self.run.commit(write)
        return dict(self._events[name])

    def _decided(self, name: tuple[str, str], payload: Any, error: Exception | None) -> None:
        if error is None:
            self._events[name] = payload
        self._deciding.pop(name).land(error)

    def _event_row(self, kind: str, key: str, payload: Any) -> Row:
        return self.run.event_row(kind, key, payload, episode=self.number)

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
                "number": self.number,
                "status": status,
                "outcome": outcome,
                "error": plain(error),
                "finished_at": time.time(),
            }
        )
        write.done = partial(self._closed, status, outcome, verdict)
        await self.run.commit(write)

    def _closed(
        self, status: str, outcome: Any, verdict: dict[str, Any] | None, error: Exception | None
    ) -> None:
        if error is None:
            self.run.closed(self.id, status, outcome)
            if verdict is not None:
                self._events.setdefault(("verdict", "0"), verdict)

    def load(self, attempts: dict[str, list[Attempt]], events: dict[tuple[str, str], Any]) -> None:
        """Continue from journaled rows."""
        for key, tried in attempts.items():
            if [a.turn.attempt for a in tried] != list(range(len(tried))):
                raise JournalError(f"turn `{key}` of episode {self.id}: attempts are not 0, 1, 2, ...")
        self.attempts, self._events = attempts, events

    def share(self, attempts: dict[str, list[Attempt]], events: dict[tuple[str, str], Any]) -> None:
        """Begin with what another episode said; what this one has said itself stays."""
        self.attempts, self._events = {**attempts, **self.attempts}, {**events, **self._events}


def _ids(values: Any) -> Ids:
    return np.asarray(values, np.int32)


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

"""The running batch: admit, compute one packed forward pass, sample, finish; again.

Each pass computes one token of every decoding row together with pieces of waiting prompts, so that
new requests join while others run and nobody waits for a batch to end. A prompt starts from the
longest prefix that a running or a finished row has already computed; samples of one prompt share one
prefill.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from torch import Tensor

from sparring.agents.engines.base import FinishReason, ScoreRequest
from sparring.agents.engines.transformers.cache import Kept, PrefixStore, SlotCache, common_prefix
from sparring.agents.engines.transformers.loading import Loaded
from sparring.agents.engines.transformers.lora import AdapterBank
from sparring.agents.engines.transformers.passes import Part, forward
from sparring.agents.engines.transformers.rows import Job, Row, completion, stops
from sparring.agents.engines.transformers.sampling import sample
from sparring.agents.engines.transformers.scoring import joined, score_logits

WORTH_WAITING = 16
"""A prompt waits for one being prefilled if they share so many tokens more than are cached."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may run at once and be kept."""

    rows: int = 64
    tokens: int = 131_072
    """Positions of all rows together, each counted as long as the longest may become."""
    kept_bytes: int = 3 << 29
    """Keys and values of finished rows, kept for their prefixes."""


@dataclass(slots=True)
class Counters:
    """What was computed since the start, in tokens and passes. `cached` are prompt tokens and `shared`
    sampled tokens that were not computed for themselves."""

    prefilled: int = 0
    cached: int = 0
    decoded: int = 0
    shared: int = 0
    passes: int = 0


class Batch:
    """Rows in their slots: row i has slot i. Not thread-safe: its worker is its only caller."""

    def __init__(self, loaded: Loaded, limits: Limits) -> None:
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.stop_ids, self.limits, self.counters = loaded.stop_ids, limits, Counters()
        self.adapters = AdapterBank(self.model)
        self.slots = SlotCache.for_model(self.model, limits.tokens)
        self.prefixes = PrefixStore(limits.kept_bytes // self.slots.bytes_per_token)
        self.rows: list[Row] = []

    def admit(self, waiting: deque[Job]) -> None:
        """Give slots to waiting samples, first come first served, as far as the limits allow."""
        later: list[Job] = []
        try:
            while waiting and (room := self._room(waiting[0])) > 0:
                job = waiting.popleft()
                if job.future.done():
                    continue
                if not self._seat(job, room):
                    later.append(job)
                elif job.waiting:
                    waiting.appendleft(job)
        except Exception as error:
            job.fail(error)
            raise
        finally:
            waiting.extendleft(reversed(later))

    def _room(self, job: Job) -> int:
        """Samples of a job that fit now; one always fits into an empty batch."""
        longest = max([job.length, *(row.job.length for row in self.rows)])
        most = max(1, min(self.limits.rows, self.limits.tokens // longest))
        return most - len(self.rows)

    def _seat(self, job: Job, room: int) -> bool:
        """Seat as many samples of a job as fit; False where it had better wait for another's prefill."""
        source, cached, coming = self._prefix(job)
        if coming >= cached + WORTH_WAITING:
            return False
        taken, job.waiting = job.waiting[:room], job.waiting[room:]
        leader, place = Row(job, taken[0], computed=cached, cached=cached), len(self.rows)
        self.rows.append(leader)
        self.rows += [Row(job, number, cached=len(job.ids), follows=leader) for number in taken[1:]]
        self.slots.reserve(len(self.rows), max(row.positions for row in self.rows))
        if isinstance(source, Kept):
            self.slots.write(place, source.keys, source.values, cached)
        elif source is not None:
            self.slots.copy(source, place, cached)
        self.counters.cached += cached + (len(taken) - 1) * len(job.ids)
        return True

    def _prefix(self, job: Job) -> tuple[Kept | int | None, int, int]:
        """Where the longest computed prefix lies (kept, or a slot), its length, and what is coming."""
        source: Kept | int | None
        length, source = self.prefixes.find(job.ids, job.weights)
        coming = 0
        for slot, row in enumerate(self.rows):
            if row.job.weights == job.weights and not row.follows:
                shared = common_prefix(row.job.ids, job.ids)
                coming = max(coming, shared)
                if min(shared, row.computed) > length:
                    source, length = slot, min(shared, row.computed)
        # The position `first` is computed in any case: its logits are wanted.
        return source, min(length, job.first), min(coming, job.first)

    def step(self) -> None:
        """One forward pass and what follows from it."""
        for row in [row for row in self.rows if row.job.future.done()]:
            self._leave(row)
        if self.rows:
            logits, parts = forward(self.model, self.slots, self.adapters, self.rows)
            self.counters.passes += 1
            self._advance(logits, parts)

    def _advance(self, logits: Tensor, parts: list[Part]) -> None:
        """Take what the pass computed into the rows; sample, score, finish. Logits are (wanted, V)."""
        picks: list[int] = []
        drawing: list[Row] = []
        start = 0
        for part in parts:
            row, wanted = part.row, part.wanted
            self.counters.prefilled += max(0, min(row.computed + part.count, len(row.job.ids)) - row.computed)
            row.computed += part.count
            if isinstance(row.job.request, ScoreRequest):
                self._score(row, row.job.request, logits[start : start + wanted])
            elif wanted:
                members = [row, *self._followers(row)]
                drawing += members
                picks += [start] * len(members)
            start += wanted
        if drawing:
            self._draw(logits if len(picks) == len(logits) else logits[picks], drawing)

    def _draw(self, logits: Tensor, rows: list[Row]) -> None:
        tokens, logprobs = sample(logits, [row.draw(logits.device) for row in rows])
        self.counters.decoded += len(rows)
        self.counters.shared += sum(row.follows is not None and bool(row.tokens) for row in rows)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.tokens.append(token)
            row.logprobs.append(logprob)
        self._part(rows)
        for row in rows:
            if row.tokens[-1] in self.stop_ids or stops(row, self.tokenizer):
                self._finish(row, "stop")
            elif len(row.tokens) >= row.job.limit:
                self._finish(row, "length")

    def _part(self, rows: list[Row]) -> None:
        """Samples that said something else than the row they followed go on by themselves, with a copy of
        what it computed; those that said the same as each other go on as one row."""
        leaders: dict[tuple[int, int], Row] = {}
        for row in rows:
            leader = row.follows
            if leader is None or row.tokens[-1] == leader.tokens[-1]:
                continue
            row.follows = leaders.setdefault((id(leader), row.tokens[-1]), row)
            if row.follows is row:
                self.slots.copy(self.rows.index(leader), self.rows.index(row), leader.computed)
                row.computed, row.follows = leader.computed, None

    def _finish(self, row: Row, reason: FinishReason) -> None:
        job = row.job
        job.done[row.sample] = completion(row, self.tokenizer, reason)
        self._leave(row)
        if len(job.done) == job.samples:
            job.succeed([job.done[number] for number in range(job.samples)])

    def _score(self, row: Row, request: ScoreRequest, logits: Tensor) -> None:
        job = row.job
        if len(logits):
            begin = sum(len(part.logprobs) for part in job.scored)
            targets = request.continuation_ids[begin : begin + len(logits)]
            job.scored.append(score_logits(logits, targets, request))
        if row.computed == len(job.ids):
            self._leave(row)
            job.succeed(joined(job.scored))

    def _followers(self, leader: Row) -> list[Row]:
        """The samples that go along with this row."""
        return [row for row in self.rows if row.follows is leader]

    def _leave(self, row: Row) -> None:
        """Keep what the row computed, and fill its slot with the last row, so that slots stay dense."""
        slot, last = self.rows.index(row), self.rows.pop()
        if row.computed and self.prefixes.limit:
            self.prefixes.put(row.job.weights, Kept(row.history(), *self.slots.read(slot, row.computed)))
        if last is not row:
            self.slots.copy(len(self.rows), slot, last.computed)
            self.rows[slot] = last

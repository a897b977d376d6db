"""Engines that give garbage, too few or too many answers, the same one always, or none: the run goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from sparring.agents.engines.base import Completion, Request, Usage
from sparring.agents.engines.registry import make_engine
from sparring.agents.engines.scripted import ScriptedEngine, hash_reply
from sparring.errors import EngineError
from sparring.graphs.play import PlayResult, play
from sparring.memory.journal import Journal
from sparring.memory.schema import Turn

TASKS = [{"id": f"q{n}", "question": f"{n}?", "answer": str(n)} for n in range(3)]
BAD = "1?"
"""The question at which the engine breaks."""
Breaks = Callable[[list[Completion]], Any]


class Bad(ScriptedEngine):
    """A scripted engine that breaks one of its answers."""

    def __init__(self, breaks: Breaks) -> None:
        super().__init__(hash_reply)
        self.breaks: Breaks | None = breaks

    async def generate(self, request: Request) -> list[Completion]:
        made = await super().generate(request)
        if self.breaks is None or BAD not in str(request.messages[-1]["content"]):
            return made
        broken: list[Completion] = self.breaks(made)
        return broken


def each(**fields: Any) -> Breaks:
    """Completions with other fields; a function gets what was there."""

    def one(made: Completion) -> Completion:
        return replace(made, **{n: v(getattr(made, n)) if callable(v) else v for n, v in fields.items()})

    return lambda made: [one(completion) for completion in made]


def spoilt(value: float) -> Callable[[Any], Any]:
    def spoil(logprobs: Any) -> Any:
        logprobs = logprobs.copy()
        logprobs[1] = value
        return logprobs

    return spoil


GARBAGE: dict[str, tuple[Breaks, str]] = {
    "none": (lambda made: None, "NoneType in place of a list"),
    "text": (lambda made: "Answer: 1", "str in place of a list"),
    "texts": (lambda made: ["Answer: 1"] * len(made), "str in place of a completion"),
    "nothing": (lambda made: [None] * len(made), "NoneType in place of a completion"),
    "too few": (lambda made: made[1:], "1 answers to 2 seeds"),
    "too many": (lambda made: [*made, made[0]], "3 answers to 2 seeds"),
    "no text": (each(text=None), "whose text is NoneType"),
    "bytes": (each(text=b"Answer: 1"), "whose text is bytes"),
    "finish": (each(finish_reason="eos"), "finish reason 'eos'; known: length, refusal, stop"),
    "no usage": (each(usage=None), "token counts that are none"),
    "negative usage": (each(usage=Usage(3, -1)), "token counts that are none"),
    "list of ids": (each(completion_ids=list), "completion_ids are no array of whole numbers but list"),
    "fractions": (each(completion_ids=lambda ids: ids + 0.5), "completion_ids are no array"),
    "ids below 0": (each(prompt_ids=lambda ids: ids - 300), "which no vocabulary has"),
    "a table of ids": (each(prompt_ids=lambda ids: ids[None]), "prompt_ids are no array"),
    "NaN": (each(logprobs=spoilt(float("nan"))), "log-probabilities that are none"),
    "infinite": (each(logprobs=spoilt(float("-inf"))), "log-probabilities that are none"),
    "above 0": (each(logprobs=spoilt(0.7)), "log-probabilities that are none"),
    "short": (each(logprobs=lambda given: given[:-1]), "completion ids but"),
    "objects": (each(logprobs=lambda given: [None] * len(given)), "no array of numbers but list"),
}


def played(engine: Any, memory: Path) -> PlayResult:
    return play("sample", TASKS, engine=engine, memory=memory, run="r", n=2)


def turns(memory: Path) -> list[Any]:
    with Journal.open(memory) as journal:
        return journal.read(select(Turn.status, Turn.error, Turn.final, Turn.parsed).order_by(Turn.id))


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_the_worlds_fault_and_is_asked_again(case: str, tmp_path: Path) -> None:
    breaks, words = GARBAGE[case]
    engine, memory = Bad(breaks), tmp_path / "j.db"
    first = played(engine, memory)
    assert [line.status for line in first] == ["done", "failed", "done"]
    lost = [row for row in turns(memory) if row.status != "ok"]
    assert [(row.status, row.final, row.parsed) for row in lost] == [("engine_error", False, None)] * 2
    assert all(words in row.error for row in lost) and words in str(first[1].error)
    engine.breaks = None
    second = played(engine, memory)
    assert second.complete and (second[0], second[2]) == (first[0], first[2])
    assert [row.status for row in turns(memory)].count("ok") == 6 and len(turns(memory)) == 8


def test_the_same_answer_to_every_seed_is_an_answer_to_every_seed(tmp_path: Path) -> None:
    """Models do repeat themselves: one message, yet as many turns as were asked for."""
    engine = Bad(lambda made: [made[0]] * len(made))
    assert played(engine, tmp_path / "j.db").complete
    assert [row.status for row in turns(tmp_path / "j.db")] == ["ok"] * 6


def test_probabilities_of_unknown_tokens_are_not_kept(tmp_path: Path) -> None:
    """Some servers give log-probabilities and no ids: nobody could tell what they are of."""
    assert played(Bad(each(completion_ids=None)), tmp_path / "j.db").complete
    with Journal.open(tmp_path / "j.db") as journal:
        rows = journal.read(select(Turn.status, Turn.logprobs, Turn.logprob_kind))
    assert {("ok", "tempered"), ("ok", "none")} == {(row.status, row.logprob_kind) for row in rows}
    assert all(row.logprobs is None for row in rows if row.logprob_kind == "none")


def test_scores_are_looked_at_too(tmp_path: Path) -> None:
    class Scorer(ScriptedEngine):
        async def score(self, request: Any) -> Any:
            scored = await super().score(request)
            return replace(scored, logprobs=scored.logprobs[:-1])

    from sparring.agents.engines.base import ScoreRequest

    ids = np.arange(5, dtype=np.int32)
    with pytest.raises(EngineError, match="5 completion ids but 4 log-probabilities"):
        asyncio.run(make_engine(Scorer(hash_reply)).score(ScoreRequest(ids, ids)))


def test_an_engine_that_hangs_is_left_and_asked_again(tmp_path: Path) -> None:
    """The calls beside the one that hangs are kept, and the run ends."""
    hangs = [True]

    async def reply(request: Request, seed: int) -> str:
        if hangs[0] and BAD in str(request.messages[-1]["content"]):
            await asyncio.sleep(3600)
        return hash_reply(request, seed)

    memory = tmp_path / "j.db"
    engine = make_engine(ScriptedEngine(reply), timeout=0.5)
    first = played(engine, memory)
    assert [line.status for line in first] == ["done", "failed", "done"]
    assert [row.status for row in turns(memory)].count("timeout") == 2
    hangs[0] = False
    assert played(make_engine(ScriptedEngine(reply), timeout=0.5), memory).complete

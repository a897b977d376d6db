"""What the tests of preference training share: rows, a journal of paid turns, a spy on the trainers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("agents", "memory"))

from journal_helpers import made
from tf_support import logs_of

from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, TaskRecord, VersionRecord
from sparring.memory.schema import Reward
from sparring.training import preference_trainers
from sparring.training.preference_data import Pair, Sample
from sparring.training.rewards.base import RewardRef

REWARD = RewardRef("verifier", "1", "c0")
STOP = 257


def ids(*values: int) -> Any:
    return np.array(values, np.int32)


def draw(seed: int, length: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.int32)


def some_samples(count: int = 6) -> list[Sample]:
    """Prompts and completions of unequal lengths; some end with the stop token, some were cut."""
    rows = []
    for number in range(count):
        said = draw(100 + number, 2 + number % 4)
        if number % 2:
            said[-1] = STOP
        rows.append(Sample((number + 1,), draw(number, 4 + number % 3), said, float(number % 2)))
    return rows


def some_pairs(count: int = 4) -> list[Pair]:
    rows = []
    for number in range(count):
        prompt = draw(number, 4 + number % 3)
        good, bad = draw(200 + number, 2 + number % 4), draw(300 + number, 5 - number % 3)
        rows.append(
            Pair(Sample((2 * number + 1,), prompt, good, 1.0), Sample((2 * number + 2,), prompt, bad, 0.0))
        )
    return rows


def logp(model: Any, prompt: Any, said: Any) -> torch.Tensor:
    """(T,) log-probabilities by one plain forward pass over the unpadded row."""
    logs = logs_of(model, prompt, said, 1.0)
    return logs[torch.arange(len(said)), torch.tensor(said.astype(np.int64))]


def total(model: Any, sample: Sample) -> float:
    return float(logp(model, sample.prompt_ids, sample.completion_ids).sum())


def expected(rows: Sequence[Sample]) -> list[tuple[list[int], list[int], list[int]]]:
    return sorted(
        (
            [*row.prompt_ids.tolist(), *row.completion_ids.tolist()],
            row.completion_ids.tolist(),
            [len(row.prompt_ids)],
        )
        for row in rows
    )


class Book:
    """A journal in which turns are said and paid."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.paid = journal, 0
        self.runs: dict[str, Any] = {}

    def say(
        self,
        said: Sequence[tuple[Any, Any, float | None]],
        *,
        task: str = "q",
        run: str = "r",
        policy: str = "solver",
        role: str = "solver",
        kind: str = "play",
        status: str = "done",
        **fields: Any,
    ) -> list[int]:
        """Turns of one closed episode: (prompt ids, completion ids, reward); their ids."""
        agent = AgentRecord(role, "Answer.", "line", "1", {"temperature": 0.0}, policy)
        version = self.journal.version(VersionRecord(policy, "hash", "scripted:x"))

        async def play() -> list[int]:
            if run not in self.runs:
                self.runs[run] = self.journal.drive(run, kind=kind, protocol="p", config={}, seed=1)
            number = self.paid = self.paid + 1
            episode = self.runs[run].episode(TaskRecord(task, task, "4"), copy=number, seats={})
            turns = []
            for place, (prompt, completion, _) in enumerate(said):

                async def produce(places: Any, prompt: Any = prompt, completion: Any = completion) -> Any:
                    how = {"prompt_ids": prompt, "completion_ids": completion, "logprobs": None, **fields}
                    return [made(one, **{"logprob_kind": "greedy", **how}) for one in places]

                turns += await episode.turns(
                    [f"s/{place}"], Ask(agent, version, [{"role": "user", "content": "?"}]), produce
                )
            await episode.close(status)
            return [turn.id for turn in turns]

        turns = asyncio.run(play())
        self.pay({turn: value for turn, (_, _, value) in zip(turns, said, strict=True)})
        return turns

    def pay(self, values: dict[int, float | None], reward: RewardRef = REWARD, span: int = -1) -> None:
        first = self.journal.ids.block("rewards", len(values))
        rows = [
            {
                "id": first + number,
                "turn_id": turn,
                "span_start": span,
                "span_end": span,
                "function": reward.function,
                "version": reward.version,
                "config_hash": reward.config_hash,
                "value": value,
                "reason": "",
                "read_ids": {},
            }
            for number, (turn, value) in enumerate(values.items())
        ]
        self.journal.execute(self.journal.insert(Reward), rows)


class Spy:
    """Keeps what a trainer's loss was given, and the policy that was trained."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[dict[str, Any]] = []
        self.policy: Any = None
        for trainer in (preference_trainers.Sft, preference_trainers.Dpo, preference_trainers.Kto):
            self._watch(monkeypatch, trainer)
        save = preference_trainers.save

        def keep(policy: Any, out: Path) -> None:
            self.policy = policy
            save(policy, out)

        monkeypatch.setattr(preference_trainers, "save", keep)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, trainer: Any) -> None:
        real = trainer.compute_loss

        def compute_loss(this: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.batches.append({name: value.clone() for name, value in inputs.items()})
            return real(this, model, inputs, *args, **kwargs)

        monkeypatch.setattr(trainer, "compute_loss", compute_loss)

    def rows(self, ids_name: str, mask_name: str) -> list[tuple[list[int], list[int], list[int]]]:
        """Of each row of each batch: all its ids, those in the loss, and where the loss begins."""
        found = []
        prefix = ids_name.removesuffix("input_ids")
        for batch in self.batches:
            for row, mask, attended in zip(
                batch[ids_name], batch[mask_name], batch[f"{prefix}attention_mask"], strict=True
            ):
                in_loss = (mask != -100) if mask_name == "labels" else mask.bool()
                assert not (in_loss & ~attended.bool()).any()
                if mask_name == "labels":
                    assert torch.equal(mask[in_loss], row[in_loss])
                found.append(
                    (row[attended.bool()].tolist(), row[in_loss].tolist(), [int(in_loss.int().argmax())])
                )
        return sorted(found)

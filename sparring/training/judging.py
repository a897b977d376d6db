"""What happens between steps: the training heads are measured, and the gate decides what goes live.

Each measurement and each decision is one row of the run, under its step; asked for again, what is there
holds. A decision that was journaled and not yet carried out is carried out then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import Head, find, history, move_head
from sparring.memory.queries import decisions
from sparring.memory.run import RunHandle
from sparring.training.config import EvolveConfig
from sparring.training.evaluate import Evaluator, Measure, accuracy
from sparring.training.gate import decide

Told = Callable[[str, Mapping[str, Any]], None]


class Judge:
    """Measures and gates the policies of one evolution run."""

    def __init__(
        self,
        config: EvolveConfig,
        run: RunHandle,
        pool: EnginePool,
        measures: Mapping[str, Measure],
        told: Told,
    ) -> None:
        self.config, self.run, self.measures, self.told = config, run, measures, told
        self.evaluator = Evaluator(config, run.journal, pool)

    @property
    def journal(self) -> Journal:
        return self.run.journal

    async def __call__(self, step: int, policies: Iterable[str], elapsed: float, *, last: bool) -> None:
        """What is due after so many steps; all of it after the last."""
        names = list(policies)
        if (part := self.config.evaluate) is not None and (last or step % part.every == 0):
            await self.evaluate(step, names, elapsed)
        if self.exhausted:  # before the gate, which would ask about a version that is given up
            await self.restore()
        if (gate := self.config.gate) is not None and (last or step % gate.every == 0):
            for name in names:
                await self.gate(step, name, names)

    async def evaluate(self, step: int, policies: Iterable[str], elapsed: float) -> None:
        """Accuracy of the training heads."""
        if self.run.decided("evaluation", str(step)) is not None:
            return
        lineup = {name: find(self.journal, name, "training").number for name in policies}
        measure = self.measures["evaluate"]
        results = await self.evaluator(lineup, measure)
        protocol, run = self.evaluator.protocol(measure), self.evaluator.name(lineup, measure)
        figures = await asyncio.to_thread(protocol.figures, self.journal, run)
        measured, found = "accuracy", asdict(accuracy(results))
        if not protocol.answers:  # nothing to be right about: its main figure stands for it
            measured, value = next(iter(figures.items()), ("nothing", 0.0))
            assert self.config.evaluate is not None
            if measured == "nothing" and self.config.evaluate.patience is not None:
                raise UserError(
                    f"`evaluate.patience`: protocol `{protocol.name}` measures nothing that can get better; "
                    "choose options that give figures, or leave `patience` out"
                )
            found = {"mean": value, "low": value, "high": value, "n": len(results)}
        record = {
            "step": step,
            "lineup": lineup,
            "measured": measured,
            "accuracy": found,
            "figures": figures,
            "run": run,
            "elapsed": elapsed,
        }
        await self.run.event("evaluation", str(step), record)
        self.told("evaluation", record)

    @property
    def exhausted(self) -> bool:
        """Whether evaluations have not got better for as long as is waited for (early stopping)."""
        part = self.config.evaluate
        if part is None or part.patience is None:
            return False
        records = self._evaluations()
        return bool(records) and len(records) - 1 - records.index(_best(records)) >= part.patience

    async def restore(self) -> None:
        """Set the training heads back to the line-up of the best evaluation."""
        best = _best(self._evaluations())
        for name, number in best["lineup"].items():
            if find(self.journal, name, "training").number != number:
                reason = f"early stopping: the best evaluation was after step {best['step']}"
                await asyncio.to_thread(self._move, name, "training", number, reason)

    def _evaluations(self) -> list[dict[str, Any]]:
        records = decisions(self.journal, self.run.id, "evaluation").values()
        return sorted(records, key=lambda record: record["step"])

    async def gate(self, step: int, name: str, policies: Iterable[str]) -> None:
        """Promote the training head of a policy, or not."""
        key = f"{name}/{step}"
        record = self.run.decided("gate", key)
        if record is None:
            record = await self._decide(step, name, policies)
            if record is None:
                return
            await self.run.event("gate", key, record)
            self.told("gate", record)
        await asyncio.to_thread(self._carry_out, name, record)

    async def _decide(self, step: int, name: str, policies: Iterable[str]) -> dict[str, Any] | None:
        """Candidate against live beside the others' live versions; None where they are the same."""
        assert self.config.gate is not None
        ours = {policy: find(self.journal, policy, "live").number for policy in policies}
        candidate = find(self.journal, name, "training").number
        if candidate == ours[name]:
            return None
        decision = await decide(
            self.evaluator, {**ours, name: candidate}, ours, self.measures["gate"], self.config.gate
        )
        numbers = decision.to_json()
        right = {side: numbers.pop(side) for side in ("candidate", "live")}
        about = {"step": step, "policy": name, "candidate": candidate, "live": ours[name]}
        return about | numbers | {"accuracy": right}

    def _carry_out(self, name: str, record: Mapping[str, Any]) -> None:
        """Move the head a decision was about; once, whatever moved it since."""
        assert self.config.gate is not None
        verdict = record["verdict"]
        reason = f"gate after step {record['step']}: {verdict}"
        if verdict == "promote":
            self._move(name, "live", record["candidate"], reason)
        elif verdict == "reject" and self.config.gate.rejected == "go_back":
            self._move(name, "training", record["live"], reason)

    def _move(self, name: str, head: Head, number: int, reason: str) -> None:
        done = history(self.journal, name, head)
        if any(move.run == self.run.id and move.reason == reason for move in done):
            return
        target = find(self.journal, name, number)
        move_head(self.journal, name, head, target.id, by="gate", reason=reason, run=self.run)


def _best(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first of the best evaluations; of a loss, the lowest."""
    sign = -1 if records[0]["measured"].startswith("loss") else 1
    return max(records, key=lambda record: sign * record["accuracy"]["mean"])

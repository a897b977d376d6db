"""Offline learning from games and lessons, as SPC does it (2504.19162; its loss is `losses`: `spc`).

An update is made of played turns with rewards, chosen by `balance`, and of demonstrations (turns that a
teacher wrote), as many as there are played ones. With `restart`, each update begins again at the version
that the policy's training head stood at when the run began, and is made of all that was played since; that
version is then also the reference for loss, ratio and KL.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from sqlalchemy import Select
from sqlalchemy import select as query_of

from sparring.errors import UserError, made
from sparring.graphs.config_file import Strict
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, by_id, find
from sparring.memory.records import GIVEN
from sparring.memory.samples import training_turns
from sparring.memory.schema import Agent, Episode, PolicyVersion, Reward, Turn, Update, UpdateTurn
from sparring.memory.updates import updates_of
from sparring.training.balance import Balance, Played, select
from sparring.training.config import PolicyConfig
from sparring.training.experience import Sample
from sparring.training.learner import Learner
from sparring.training.losses import PolicyLoss
from sparring.training.objectives import Asked, Material
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import CLOSED

AT_ONCE: Mapping[Balance, int] = {"none": 1, "critic": 4, "sneaky": 3}
"""Turns that a balance takes at a time: of critics a win and a loss on either kind of step, of attacks one of
each kind."""


class OfflineData(Strict):
    """What an update is made of."""

    balance: Balance = "none"
    paired: bool = True
    """Of critics: only prompts on which both outcomes came up, as many of each."""
    lessons: tuple[str, ...] = ()
    """Runs whose demonstrations to this policy are mixed in."""
    lessons_per_turn: float = Field(default=1.0, ge=0)
    """Demonstrations for each played turn; SPC's code takes one."""
    most: int | None = Field(default=None, ge=1)
    """Most played turns for each round of play that an update is made of, balanced all the same."""

    @model_validator(mode="after")
    def _some(self) -> OfflineData:
        if self.most is not None and self.most < (few := AT_ONCE[self.balance]):
            raise ValueError(
                f"`most: {self.most}` can leave a round without any: `balance: {self.balance}` takes {few} "
                "turns at a time"
            )
        return self


def offline_data(name: str, policy: PolicyConfig) -> OfflineData:
    """The `data` of a policy.

    Raises:
        UserError: an unknown field, a value that cannot work, or a balance of turns that it does not say.
    """
    data = made(OfflineData, policy.data, f"policy `{name}`, data")
    if data.balance != "none" and set(policy.roles) != {data.balance}:
        raise UserError(
            f"policy `{name}`: `balance: {data.balance}` is for a policy that plays that role alone; "
            f"it plays {', '.join(policy.roles)}"
        )
    return data


def start_of(journal: Journal, run: str, policy: str) -> Version:
    """Where the training head of a policy stood when a run began to train it; now, if it has not begun."""
    first = next(iter(updates_of(journal, run, policy)), None)
    if first is None or first.from_version_id is None:
        return find(journal, policy, "training")
    return by_id(journal, first.from_version_id)


def untrained_reference(policy: str, version: str) -> UserError:
    """What is said where an update would be measured from a version without an adapter."""
    return UserError(
        f"policy `{policy}`: the reference of offline learning is a trained version and "
        f"{version} has no adapter: train it on lessons first, or say `reference: base`"
    )


def was_taught(journal: Journal, policy: str, runs: Sequence[str]) -> bool:
    """Whether a policy was a pupil in one of some runs."""
    return bool(journal.read(_said(policy, runs, Turn.id).where(Turn.logprob_kind == GIVEN).limit(1)))


def _said(policy: str, runs: Sequence[str], *columns: Any) -> Select[Any]:
    """Turns of a policy in some runs that can be learned from."""
    return (
        query_of(*columns)
        .select_from(Turn)
        .join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(PolicyVersion.policy == policy, Turn.final, Episode.status.in_(CLOSED))
        .where(Turn.prompt_tail.is_not(None), Turn.completion_ids.is_not(None))
        .where(Episode.run_id.in_(runs))
    )


class Offline:
    """The losses of `losses` on balanced turns of any version and on demonstrations."""

    def __init__(
        self, journal: Journal, config: PolicyConfig, learner: Learner, loss: PolicyLoss, ref: RewardRef
    ) -> None:
        self.journal, self.config, self.learner, self.loss, self.ref = journal, config, learner, loss, ref
        self.data = offline_data(learner.name, config)

    def gather(self, asked: Asked) -> Material:
        """Played turns and demonstrations; of an update that was begun, its own."""
        if asked.turns is None:
            chosen, record = self._choose(asked)
        else:
            chosen, record = list(asked.turns), {}
        samples = self._samples(chosen)
        record |= {"state": asked.state, "supervised": sum(sample.supervised for sample in samples)}
        return Material([sample.turn.id for sample in samples], samples, record, teaches=bool(samples))

    def _choose(self, asked: Asked) -> tuple[list[int], dict[str, Any]]:
        """Ids of the turns of a new update, and what it records of the choice."""
        source, data = asked.source, self.data
        iteration = None if self.config.restart else source.iteration
        played, own = self._played(source.runs or (), iteration)
        seed = self.learner.seed + len(played)
        rounds = len({row.round for row in played})
        most = None if data.most is None else data.most * rounds
        taken = select(played, data.balance, seed, paired=data.paired, most=most)
        rng = random.Random(seed)
        lessons = own if not data.lessons else self._played(data.lessons, None)[1]
        if not self.config.restart:  # what was learned is in the weights that this update begins with
            known = self._learned()
            lessons = [turn for turn in lessons if turn not in known]
        if taken or played:  # where games were played, lessons are mixed in by their number
            count = min(len(lessons), round(data.lessons_per_turn * len(taken)))
            lessons = rng.sample(lessons, count)
        record = {
            "played": len(played),
            "taken": len(taken),
            "won": sum(row.won for row in taken),
            "lessons": len(lessons),
        }
        return [*(row.turn for row in taken), *lessons], record

    def _played(self, runs: Sequence[str], iteration: int | None) -> tuple[list[Played], list[int]]:
        """This policy's rewarded turns in some runs, and the ids of its demonstrations there."""
        query = _said(
            self.learner.name,
            runs,
            Turn.id,
            Turn.key,
            Turn.input_id,
            Turn.logprob_kind,
            Episode.id.label("episode"),
            Episode.run_id,
            Episode.iteration,
            Reward.value,
            Reward.reason,
        ).outerjoin(Reward, (Reward.turn_id == Turn.id) & self.ref.matches)
        if iteration is not None:
            query = query.where(Episode.iteration == iteration)
        # Not by id: turns get theirs as they come in, and a run that was killed draws what it would have.
        rows = sorted(self.journal.read(query), key=lambda row: (row.episode, row.key))
        lessons = [row.id for row in rows if row.logprob_kind == GIVEN]
        paid = [row for row in rows if row.logprob_kind != GIVEN and row.value is not None]
        played = [
            Played(
                row.id,
                row.input_id,
                row.key,
                row.value,
                row.reason,
                place=f"{row.episode}/{row.key}",
                round=(row.run_id, row.iteration),
            )
            for row in paid
        ]
        return played, lessons

    def _learned(self) -> set[int]:
        """Ids of the turns that updates of this policy were made of."""
        query = query_of(UpdateTurn.turn_id).join(Update, Update.id == UpdateTurn.update_id)
        return {row.turn_id for row in self.journal.read(query.where(Update.policy == self.learner.name))}

    def _samples(self, turns: Sequence[int]) -> list[Sample]:
        if not turns:
            return []
        found = training_turns(self.journal, turn_ids=turns)
        found.sort(key=lambda turn: (turn.episode_id, turn.key))  # as in `_played`
        about = self._about(turns)
        samples = []
        for turn in found:
            role, task, value = about[turn.id]
            taught = turn.logprob_kind == GIVEN
            # Ratio and reference are those of the words, whatever the temperature they were drawn at.
            sample = Sample(turn, role, task, 1.0, 0.0 if taught else value, 0, supervised=taught)
            sample.advantages = np.full(len(turn.completion_ids), sample.reward, np.float32)
            samples.append(sample)
        return samples

    def _about(self, turns: Sequence[int]) -> dict[int, tuple[str, str, float]]:
        """Turn id -> role, task, reward (0 without one)."""
        query = (
            query_of(Turn.id, Agent.role, Episode.task_id, Reward.value)
            .join(Agent, Agent.id == Turn.agent_id)
            .join(Episode, Episode.number == Turn.episode_number)
            .outerjoin(Reward, (Reward.turn_id == Turn.id) & self.ref.matches)
        )
        rows = [
            row
            for start in range(0, len(turns), 5000)
            for row in self.journal.read(query.where(Turn.id.in_(turns[start : start + 5000])))
        ]
        return {row.id: (row.role, row.task_id, row.value or 0.0) for row in rows}

    def prepare(self, material: Material, head: Version, reference: Path | None) -> dict[str, float]:
        """Log-probabilities of the played turns under the reference, which is also where movement is
        measured from."""
        played = [sample for sample in material.data if not sample.supervised]
        if not played:
            return {}
        if reference is None and self.config.reference != "base":
            raise untrained_reference(self.learner.name, head.label)
        self.learner.refer(played, reference)
        for sample in played:
            sample.old = sample.reference
        return {}

    def train(
        self, material: Material, folder: Path, rate: float, bonus: float | None, seed: int
    ) -> dict[str, float]:
        return self.learner.update(material.data, self.loss, rate, seed)

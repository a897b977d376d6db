"""What a policy learns by: a policy gradient on its experience, or TRL's objectives on samples and pairs.

Each objective knows which turns an update is made of, how they are found again after a kill, and how it
moves the weights. Everything else about an update is the same for all of them (`team`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sparring.memory.journal import Journal
from sparring.memory.policies import Version
from sparring.memory.schema import RecomputedLogprobs
from sparring.training.advantages import Batch, estimate
from sparring.training.config import PolicyConfig
from sparring.training.experience import Experience, Source, experience, same_experience
from sparring.training.learner import Learner
from sparring.training.losses import PolicyLoss
from sparring.training.preference import PreferenceSettings, fit
from sparring.training.preference_data import RewardedTurn, pairs, rewarded_turns, samples
from sparring.training.rewards.base import RewardRef


@dataclass(slots=True)
class Material:
    """What an update is made of: turn ids for the journal, the objective's own data, and what to record."""

    turns: list[int]
    data: Any
    record: dict[str, Any] = field(default_factory=dict)
    teaches: bool = True
    """Whether training on it would move anything."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which turns an update may take."""

    near: Mapping[int, int]
    """Policy version id -> updates between it and the version to be trained."""
    source: Source
    limit: int | None = None
    turns: Sequence[int] | None = None
    """Exactly these: what an update that was begun is made of."""
    state: Any = None
    """What the last update recorded as its `state`."""


class Objective(Protocol):
    """One way to learn, for one policy."""

    def gather(self, asked: Asked) -> Material:
        """The material of an update: new, or again that of one that was begun."""
        ...

    def prepare(self, material: Material, head: Version, reference: Path | None) -> dict[str, float]:
        """Whatever must be known of the weights before anything moves."""
        ...

    def train(
        self, material: Material, folder: Path, rate: float, bonus: float | None, seed: int
    ) -> dict[str, float]:
        """Move the weights and leave them where the learner can save them, or saved in `folder`."""
        ...


class PolicyGradient:
    """The losses of `losses` on experience with advantages."""

    def __init__(
        self, journal: Journal, config: PolicyConfig, learner: Learner, loss: PolicyLoss, ref: RewardRef
    ) -> None:
        self.journal, self.config, self.learner, self.loss, self.ref = journal, config, learner, loss, ref

    def gather(self, asked: Asked) -> Material:
        policy = self.learner.name
        if asked.turns is None:
            found = experience(
                self.journal, policy, self.ref, asked.near, source=asked.source, limit=asked.limit
            )
        else:
            found = same_experience(self.journal, policy, self.ref, asked.near, asked.turns)
        record = self._advantages(found, asked.state)
        uninformed = self.learner.settings.informative_only or self.loss.beta == 0
        teaches = any(s.advantages.any() for s in found.samples) or bool(found.samples and not uninformed)
        return Material(found.turn_ids, found.samples, record, teaches)

    def _advantages(self, found: Experience, state: Any) -> dict[str, Any]:
        """Fill in the advantages; what the update records of them."""
        samples, chosen = found.samples, self.config.advantage
        staleness = [sample.staleness for sample in samples]
        record: dict[str, Any] = {
            "state": state,
            "left_out": dict(found.left_out),
            "staleness_max": max(staleness, default=0),
            "staleness_mean": float(np.mean(staleness)) if staleness else 0.0,
        }
        if not samples:
            return record
        said = np.concatenate([s.turn.logprobs for s in samples if s.turn.logprobs is not None])
        record["entropy"] = -float(said.mean())  # an estimate from what was drawn, where nothing is trained
        batch = Batch(
            rewards=np.array([sample.reward for sample in samples]),
            lengths=np.array([len(sample.turn.completion_ids) for sample in samples]),
            prompts=[
                (sample.prompt, sample.turn.episode_id if self.config.compare == "episode" else "")
                for sample in samples
            ],
            roles=[f"{found.policy}/{sample.role}" for sample in samples],
        )
        made = estimate(chosen.name, batch, state, **chosen.options)
        for sample, values in zip(samples, made.values, strict=True):
            sample.advantages = values
        return record | {
            "state": made.state,
            "used": made.used,
            "informative_samples": int(made.informative.sum()),
        }

    def prepare(self, material: Material, head: Version, reference: Path | None) -> dict[str, float]:
        figures = self.learner.prepare(material.data, self.loss, reference)
        rows = [
            {"turn_id": sample.turn.id, "source": head.label, "logprobs": sample.old}
            for sample in material.data
            if sample.weights is not None  # the engine's own were not enough
        ]
        if rows:
            self.journal.execute(self.journal.insert(RecomputedLogprobs), rows)
        return figures

    def train(
        self, material: Material, folder: Path, rate: float, bonus: float | None, seed: int
    ) -> dict[str, float]:
        loss = self.loss if bonus is None else self.loss.model_copy(update={"entropy_bonus": bonus})
        figures = self.learner.update(material.data, loss, rate, seed)
        return figures | {"entropy_bonus": loss.entropy_bonus}


class Preference:
    """SFT on the better samples, DPO on pairs, KTO on good and bad ones, through TRL's trainers."""

    def __init__(
        self,
        journal: Journal,
        config: PolicyConfig,
        learner: Learner,
        settings: PreferenceSettings,
        ref: RewardRef,
    ) -> None:
        self.journal, self.config, self.learner = journal, config, learner
        self.settings, self.ref = settings, ref
        self._reference: Path | None = None

    def gather(self, asked: Asked) -> Material:
        found = rewarded_turns(
            self.journal,
            self.learner.name,
            self.ref,
            source=asked.source,
            versions=sorted(asked.near),
            turns=asked.turns,
        )[: asked.limit]
        data = self._data(found)
        record = {"state": asked.state, "rows": len(data)}
        return Material([turn.id for turn in found], data, record, teaches=bool(data))

    def _data(self, turns: Sequence[RewardedTurn]) -> Sequence[Any]:
        options = self.config.data
        if self.config.objective == "dpo":
            return pairs(
                turns, margin=float(options.get("margin", 0.0)), per_prompt=int(options.get("per_prompt", 4))
            )
        least = options.get("minimum", 1.0 if self.config.objective == "sft" else None)
        return samples(turns, minimum=least)

    def prepare(self, material: Material, head: Version, reference: Path | None) -> dict[str, float]:
        self._reference = reference
        return {}

    def train(
        self, material: Material, folder: Path, rate: float, bonus: float | None, seed: int
    ) -> dict[str, float]:
        objective = self.config.objective
        assert objective != "policy_gradient" and objective != "offline"
        with self.learner.base.lock:
            fitted = fit(
                objective,
                self.learner.activated(),
                material.data,
                self.settings.model_copy(update={"learning_rate": rate, "seed": seed}),
                folder,
                reference=None if objective == "sft" else self._reference,
            )
        self.learner.saved_elsewhere()
        return {name: float(value) for name, value in fitted.metrics.items()}

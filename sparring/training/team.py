"""The policies of a run that learn, and one update of each: opened, trained, published.

Every update is opened, and everything it needs of the old policies is computed, before the first of them
moves: policies may share a base, and roles may share a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select

from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, find, publish, register
from sparring.memory.run import RunHandle
from sparring.memory.schema import PolicyVersion, RecomputedLogprobs
from sparring.memory.updates import UpdateRow, find_update, open_update, stop_update, update_turns, updates_of
from sparring.training.advantages import Batch, estimate
from sparring.training.config import EvolveConfig, PolicyConfig
from sparring.training.experience import Experience, Source, experience, same_experience
from sparring.training.learner import Base, Learner, named_reference, open_base
from sparring.training.losses import PolicyLoss, make_loss
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import RewardFunction, RewardRef
from sparring.training.schedule import learning_rate
from sparring.training.trainer import TrainSettings, UpdateStopped
from sparring.training.weights import LoraSettings


@dataclass(slots=True)
class Member:
    """One learning policy and all that was made from its configuration."""

    name: str
    config: PolicyConfig
    engine: ManagedEngine
    learner: Learner
    loss: PolicyLoss
    reward: RewardFunction

    @property
    def ref(self) -> RewardRef:
        return RewardRef.of(self.reward)


@dataclass(slots=True)
class Job:
    """An update that is under way."""

    member: Member
    row: UpdateRow
    head: Version
    experience: Experience


class Team:
    """All learning policies of a run. Made by `assemble`, before anything is played."""

    def __init__(self, config: EvolveConfig, run: RunHandle, members: dict[str, Member]) -> None:
        self.config, self.run, self.members = config, run, members

    @property
    def journal(self) -> Journal:
        return self.run.journal

    def interrupt(self) -> None:
        """Break off updates that are being trained."""
        for member in self.members.values():
            member.learner.stop.set()

    def open(self, member: Member, step: int, source: Source, limit: int | None = None) -> Job:
        """The update of a policy at a step, with its experience and advantages; the same after a kill."""
        known = find_update(self.journal, self.run.id, member.name, step)
        if known is None:
            head = find(self.journal, member.name, "training")
            near = nearby(self.journal, member.name, head.id, member.config.max_staleness)
            found = experience(self.journal, member.name, member.ref, near, source=source, limit=limit)
            config = self._advantages(member, found, step)
            row = open_update(self.run, member.name, step, head.id, found.turn_ids, config)
        else:
            from sparring.memory.policies import by_id

            assert known.from_version_id is not None
            head, row = by_id(self.journal, known.from_version_id), known
            near = nearby(self.journal, member.name, head.id, member.config.max_staleness)
            turns = update_turns(self.journal, known.id)
            found = same_experience(self.journal, member.name, member.ref, near, turns)
            self._advantages(member, found, step)
        return Job(member, row, head, found)

    def _advantages(self, member: Member, found: Experience, step: int) -> dict[str, Any]:
        """Fill in the advantages; the update's configuration row, with the estimator's state after it."""
        earlier = [row for row in updates_of(self.journal, self.run.id, member.name) if row.step < step]
        state = next((row.config.get("state") for row in reversed(earlier) if row.config.get("state")), None)
        samples, chosen = found.samples, member.config.advantage
        made: dict[str, Any] = {"used": None, "state": state}
        if samples:
            batch = Batch(
                rewards=np.array([sample.reward for sample in samples]),
                lengths=np.array([len(sample.turn.completion_ids) for sample in samples]),
                prompts=[sample.prompt for sample in samples],
                roles=[f"{member.name}/{sample.role}" for sample in samples],
            )
            advantages = estimate(chosen.name, batch, state, **chosen.options)
            for sample, values in zip(samples, advantages.values, strict=True):
                sample.advantages = values
            made = {"used": advantages.used, "state": advantages.state}
            found.estimator = advantages.used | {"informative": int(advantages.informative.sum())}
        staleness = [sample.staleness for sample in samples]
        return made | {
            "policy": member.config.model_dump(mode="json"),
            "reward": [member.ref.function, member.ref.version, member.ref.config_hash],
            "left_out": dict(found.left_out),
            "turns": len(samples),
            "staleness_max": max(staleness, default=0),
            "staleness_mean": float(np.mean(staleness)) if staleness else 0.0,
        }

    def prepare(self, job: Job) -> dict[str, float]:
        """Old and reference log-probabilities; what was recomputed is journaled beside the engine's."""
        member, samples = job.member, job.experience.samples
        member.learner.begin(job.head)
        reference = named_reference(self.journal, member.name, member.config.reference)
        figures = member.learner.prepare(samples, member.loss, reference)
        rows = [
            {"turn_id": sample.turn.id, "source": job.head.label, "logprobs": sample.old}
            for sample in samples
            if sample.old is not None
        ]
        if rows:
            self.journal.execute(self.journal.insert(RecomputedLogprobs), rows)
        return figures

    def train(self, job: Job, entropy_bonus: float | None) -> dict[str, float]:
        """Train, save and publish one update; its figures. An update that diverges changes no head.

        Raises:
            UpdateStopped: it diverged; the journal says so.
        """
        member, row, samples = job.member, job.row, job.experience.samples
        loss = (
            member.loss
            if entropy_bonus is None
            else member.loss.model_copy(update={"entropy_bonus": entropy_bonus})
        )
        learner = member.learner
        rate = learning_rate(learner.settings.learning_rate, self.config.decay, row.step, self.config.steps)
        try:
            figures = learner.update(samples, loss, rate, seed=self.config.seed + row.step)
        except UpdateStopped as stop:
            stop_update(self.run, row.id, {"why": str(stop)})
            raise
        figures |= {"learning_rate": rate, "entropy_bonus": loss.entropy_bonus}
        folder, digest = learner.save(row.id, member.engine.spec)
        version = publish(
            self.journal,
            update_id=row.id,
            adapter_path=folder,
            adapter_hash=digest,
            metrics=figures,
            run=self.run,
        )
        learner.published(version)
        return figures

    def teaches(self, job: Job) -> bool:
        """Whether an update would move anything: an advantage, an entropy bonus or a KL term."""
        loss, settings = job.member.loss, job.member.learner.settings
        if any(sample.advantages.any() for sample in job.experience.samples):
            return True
        return not settings.informative_only and loss.beta > 0

    def skip(self, job: Job, why: str) -> None:
        """End an update that has nothing to learn from."""
        stop_update(self.run, job.row.id, {"why": why}, status="empty")


async def assemble(config: EvolveConfig, run: RunHandle, pool: EnginePool) -> Team:
    """Everything that learning needs, or a clear error before any work.

    Raises:
        UserError: an unknown loss, reward, estimator, option or engine.
        CapabilityError: an engine gives no token ids or no log-probabilities.
    """
    journal = run.journal
    bases: dict[ManagedEngine, Base] = {}
    members = {}
    for number, (name, policy) in enumerate(sorted(config.policies.items())):
        spec = policy.base or config.engine
        if spec is None:
            raise UserError(f"policy `{name}` has no `base` and the run no `engine`")
        loss = make_loss(policy.loss.name, **policy.loss.options)
        reward = make_reward(policy.reward.name, policy.reward.options)
        estimate(policy.advantage.name, _NOTHING, None, **policy.advantage.options)
        settings = checked(TrainSettings, policy.train, f"policy `{name}`, train")
        lora = checked(LoraSettings, policy.lora or {}, f"policy `{name}`, lora")
        engine = pool.get(spec)
        await engine.probe()
        if engine not in bases:
            bases[engine] = open_base(engine)
        register(journal, policy=name, base_hash=engine.capabilities().base, base_spec=engine.spec)
        learner = Learner(name, bases[engine], lora, settings, journal, seed=config.seed * 1000 + number)
        members[name] = Member(name, policy, engine, learner, loss, reward)
    return Team(config, run, members)


_NOTHING = Batch(np.zeros(0), np.zeros(0, np.int64), [], [])


def checked(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Settings from a configuration; a wrong field is the user's error, in one line."""
    from pydantic import ValidationError

    from sparring.errors import unknown

    for name in values:
        if name not in kind.model_fields:
            raise unknown(f"option of {where}", name, kind.model_fields)
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{where}, `{'.'.join(map(str, first['loc']))}`: {first['msg']}") from None


def nearby(journal: Journal, policy: str, version: int, most: int) -> dict[int, int]:
    """Version id -> updates between it and `version` along their lineage, for those at most `most` apart."""
    query = select(PolicyVersion.id, PolicyVersion.parent_id).where(PolicyVersion.policy == policy)
    neighbours: dict[int, set[int]] = {}
    for row in journal.read(query):
        if row.parent_id is not None:
            neighbours.setdefault(row.id, set()).add(row.parent_id)
            neighbours.setdefault(row.parent_id, set()).add(row.id)
    found, edge = {version: 0}, {version}
    for distance in range(1, most + 1):
        edge = {other for one in edge for other in neighbours.get(one, ())} - found.keys()
        found |= dict.fromkeys(edge, distance)
    return found

"""The policies of a run that learn, and one update of each: opened, trained, published.

Every update is opened, and everything it needs of the old policies is computed, before the first of them
moves: policies may share a base, and roles may share a policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import select

from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool
from sparring.errors import CapabilityError, UserError, made
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, by_id, find, publish, versions
from sparring.memory.queries import decisions
from sparring.memory.run import RunHandle
from sparring.memory.schema import PolicyVersion
from sparring.memory.updates import UpdateRow, find_update, open_update, stop_update, update_turns, updates_of
from sparring.training.advantages import Batch, estimate
from sparring.training.beginnings import enter
from sparring.training.config import EvolveConfig, PolicyConfig
from sparring.training.experience import Source, untrained
from sparring.training.learner import Base, Learner, named_reference, open_base
from sparring.training.losses import PolicyLoss, make_loss
from sparring.training.objectives import Asked, Material, Objective, PolicyGradient, Preference
from sparring.training.offline import Offline, start_of
from sparring.training.preference import PreferenceSettings
from sparring.training.ranks import launched
from sparring.training.retention import prune
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
    objective: Objective
    rate: float
    """Learning rate at the start."""

    @property
    def ref(self) -> RewardRef:
        return RewardRef.of(self.reward)


@dataclass(slots=True)
class Job:
    """An update that is under way."""

    member: Member
    row: UpdateRow
    head: Version
    material: Material
    figures: dict[str, float] = field(default_factory=dict)
    """Of its preparation."""


class Team:
    """All learning policies of a run; `assemble` makes them, before anything is played."""

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
        """The update of a policy at a step and what it is made of; the same after a kill."""
        journal, policy, most = self.journal, member.name, member.config.max_staleness
        known = find_update(journal, self.run.id, policy, step)
        turns = None if known is None else update_turns(journal, known.id)
        if known is None:
            head = self.start(member) if member.config.restart else find(journal, policy, "training")
        else:
            assert known.from_version_id is not None
            head = by_id(journal, known.from_version_id)
        near = nearby(journal, policy, head.id, most)
        asked = Asked(near, source, limit, turns, self._state(policy, step))
        material = member.objective.gather(asked)
        if known is None:
            old = [version.id for version in versions(journal, policy) if version.id not in near]
            record = material.record | {
                "too_old": untrained(journal, policy, old, source),
                "policy": member.config.model_dump(mode="json"),
                "reward": [member.ref.function, member.ref.version, member.ref.config_hash],
                "turns": len(material.turns),
            }
            known = open_update(
                self.run, policy, step, head.id, material.turns, record, again=member.config.restart
            )
        return Job(member, known, head, material)

    def start(self, member: Member) -> Version:
        """Where the training head of a policy stood when this run began to train it."""
        return start_of(self.journal, self.run.id, member.name)

    def _state(self, policy: str, step: int) -> Any:
        """What the estimator carried out of the last update before this step."""
        earlier = [row for row in updates_of(self.journal, self.run.id, policy) if row.step < step]
        return next((row.config.get("state") for row in reversed(earlier) if row.config.get("state")), None)

    def prepare(self, job: Job) -> dict[str, float]:
        """Load the weights the update begins with, and whatever must be known of them before any moves."""
        member = job.member
        member.learner.begin(job.head, fresh=member.config.restart)
        if member.config.objective == "offline" and member.config.reference is None:
            reference = self.start(member).adapter_path
        else:
            reference = named_reference(self.journal, member.name, member.config.reference)
        job.figures = member.objective.prepare(job.material, job.head, reference)
        return job.figures

    def train(self, job: Job, entropy_bonus: float | None) -> dict[str, float]:
        """Train, save and publish one update; its figures. An update that diverges changes no head.

        Raises:
            UpdateStopped: it diverged; the journal says so.
        """
        member, row = job.member, job.row
        learner = member.learner
        rate = learning_rate(member.rate, self.config.decay, row.step, self.config.steps)
        folder, seed = learner.folder(row.id), self.config.seed + row.step
        try:
            figures = member.objective.train(job.material, folder, rate, entropy_bonus, seed)
        except UpdateStopped as stop:
            stop_update(self.run, row.id, {"why": str(stop)})
            raise
        figures = job.figures | figures | {"learning_rate": rate}
        made = learner.save(row.id, member.engine.spec)
        version = publish(self.journal, update_id=row.id, metrics=figures, run=self.run, **made)
        learner.published(version)
        prune(self.journal, member.name, self.config.keep, member.config.reference, self._wanted(member))
        return figures

    def _wanted(self, member: Member) -> set[int]:
        """Ids of the versions that this run comes back to: its start, opponents, the best one measured."""
        config, wanted = self.config, set[int]()
        done = updates_of(self.journal, self.run.id, member.name)
        if member.config.objective == "offline":
            wanted.add(self.start(member).id)
        if config.opponents is not None:
            wanted |= {row.to_version_id for row in done if row.to_version_id is not None}
        if config.evaluate is not None and config.evaluate.patience is not None:
            records = decisions(self.journal, self.run.id, "evaluation").values()
            measured = {record["lineup"][member.name] for record in records}
            wanted |= {v.id for v in versions(self.journal, member.name) if v.number in measured}
        return wanted

    def skip(self, job: Job, why: str) -> None:
        """End an update that has nothing to learn from."""
        stop_update(self.run, job.row.id, {"why": why}, status="empty")


async def assemble(config: EvolveConfig, journal: Journal, pool: EnginePool) -> dict[str, Member]:
    """The policies by name with everything that learning needs, or a clear error before any work.

    Raises:
        UserError: an unknown loss, reward, estimator, option or engine.
        CapabilityError: an engine gives no token ids or no log-probabilities, or serves no adapters.
    """
    bases: dict[ManagedEngine, Base] = {}
    members = {}
    for number, (name, policy) in enumerate(sorted(config.policies.items())):
        spec = policy.base or config.engine
        if spec is None:
            raise UserError(f"policy `{name}` has no `base` and the run no `engine`")
        engine = pool.get(spec)
        if engine.policy.cache is not None:
            raise UserError(f"engine `{spec}`: samples of a run that learns cannot come from a cache")
        await engine.probe()
        full = policy.lora is None
        base = open_base(engine, full=full) if full or engine not in bases else bases[engine]
        if not full:
            bases[engine] = base
        member = _member(name, policy, engine, base, journal, config.seed * 1000 + number)
        if config.protocol is not None and not full:
            _playable(member)
        members[name] = member
    for name, member in members.items():
        enter(journal, config.policies[name].begin, member.learner, member.engine)
    return members


def _playable(member: Member) -> None:
    """Whether the engine can serve what the policy will have learnt: it shows in the second step only."""
    able, rank = member.engine.capabilities(), member.learner.lora.rank
    if not able.adapters:
        raise CapabilityError(
            f"policy `{member.name}` learns an adapter and `{member.engine.spec}` serves none; "
            "docs/engines.md says how vLLM is started so that it does"
        )
    most = able.extra.get("max_lora_rank")
    if most is not None and rank > most:
        raise UserError(
            f"policy `{member.name}`: lora.rank is {rank}, but `{member.engine.spec}` takes {most} at most: "
            "give it a larger max_lora_rank"
        )


def _member(
    name: str, policy: PolicyConfig, engine: ManagedEngine, base: Base, journal: Journal, seed: int
) -> Member:
    """A learning policy, everything in its configuration checked."""
    loss = make_loss(policy.loss.name, **policy.loss.options)
    reward = make_reward(policy.reward.name, policy.reward.options)
    estimate(policy.advantage.name, _NOTHING, None, **policy.advantage.options)
    lora = made(LoraSettings, policy.lora or {}, f"policy `{name}`, lora")
    gradient = policy.objective in ("policy_gradient", "offline")
    where = f"policy `{name}`, train"
    if policy.restart and policy.objective != "offline":
        raise UserError(f"policy `{name}`: `restart` is for objective `offline`")
    settings = made(TrainSettings, policy.train if gradient else {}, where)
    learner = Learner(name, base, lora, settings, journal, seed)
    ref = RewardRef.of(reward)
    if gradient:
        kind = Offline if policy.objective == "offline" else PolicyGradient
        chosen: Objective = kind(journal, policy, learner, loss, ref)
        return Member(name, policy, engine, learner, loss, reward, chosen, settings.learning_rate)
    if policy.lora is None:
        raise UserError(f"policy `{name}`: {policy.objective} trains adapters; give `lora` settings")
    if launched() > 1:
        raise UserError(
            f"policy `{name}`: {policy.objective} is trained by one process, and this command was launched "
            f"as {launched()}; run it without `accelerate launch`"
        )
    preference = made(PreferenceSettings, policy.train, where)
    chosen = Preference(journal, policy, learner, preference, ref)
    return Member(name, policy, engine, learner, loss, reward, chosen, preference.learning_rate)


_NOTHING = Batch(np.zeros(0), np.zeros(0, np.int64), [], [])


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

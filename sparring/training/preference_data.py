"""Samples and pairs for supervised and preference training (SFT, DPO, KTO), read from the journal.

    turns = rewarded_turns(journal, "solver", RewardRef.of(Verifier()))
    fit("dpo", model, pairs(turns, margin=0.5), settings, out)

Token ids are the engine's own and are never made again from text: a completion ends with the stop token
iff it was sampled. How a turn was sampled does not matter here, so greedy and truncated sampling are
welcome (DESIGN section 4). A NULL reward is masked: its turn is in no sample and in no pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sparring.errors import UserError, unknown
from sparring.memory.journal import Journal
from sparring.memory.samples import MOST_IDS, training_turns
from sparring.memory.schema import Agent, Episode, Policy, PolicyVersion, Reward, Turn
from sparring.memory.tokens import Ids
from sparring.training.experience import Source, turn_rows
from sparring.training.rewards.base import RewardRef


@dataclass(frozen=True, slots=True)
class RewardedTurn:
    """A turn with what it was worth."""

    id: int
    task_id: str
    reward: float
    prompt_ids: Ids
    """(P,) int32."""
    completion_ids: Ids
    """(T,) int32."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of one prompt."""

    turn_ids: tuple[int, ...]
    """Every turn that said exactly this."""
    prompt_ids: Ids
    """(P,) int32."""
    completion_ids: Ids
    """(T,) int32."""
    reward: float
    """Mean over those turns."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two completions of one prompt, the first the better one."""

    chosen: Sample
    rejected: Sample

    @property
    def turn_ids(self) -> tuple[int, ...]:
        return (*self.chosen.turn_ids, *self.rejected.turn_ids)


def rewarded_turns(
    journal: Journal,
    policy: str,
    reward: RewardRef,
    *,
    source: Source | None = None,
    versions: Sequence[int] | None = None,
    role: str | None = None,
    turns: Sequence[int] | None = None,
) -> list[RewardedTurn]:
    """Turns of a policy that may be trained on, with token ids and a reward that is not NULL, oldest first.

    Which may be is decided where experience is gathered: final turns of closed episodes that no update of
    this policy was made of, and never those of held-out runs.

    Args:
        reward: of the whole turn; rewards of spans are left out.
        versions: ids of the policy versions that may have spoken; None: any of this policy.
        role: only turns of agents in this role.
        turns: exactly these, whatever else is said: an update that is begun again knows its own.

    Raises:
        UserError: no such policy, run or reward.
    """
    source = source or Source()
    for run in source.runs or ():
        journal.run_row(run)
    if versions is None:
        owned = select(PolicyVersion.id).where(PolicyVersion.policy == policy)
        versions = [row.id for row in journal.read(owned)]
    if turns is None:
        turns = [row.id for row in turn_rows(journal, policy, versions, source)]
    paid = _paid(journal, turns, reward, role)
    if not paid:
        _check(journal, policy, reward)
        return []
    return [
        RewardedTurn(turn.id, *paid[turn.id], turn.prompt_ids, turn.completion_ids)
        for turn in training_turns(journal, turn_ids=list(paid))
        if len(turn.prompt_ids) and len(turn.completion_ids)  # or there is nothing to learn
    ]


def _paid(
    journal: Journal, turns: Sequence[int], reward: RewardRef, role: str | None
) -> dict[int, tuple[str, float]]:
    """Task and reward of those turns that have token ids and were paid."""
    query = (
        select(Turn.id, Episode.task_id, Reward.value)
        .join(Reward, Reward.turn_id == Turn.id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(*reward.whole, Reward.value.is_not(None))
        .where(Turn.prompt_tail.is_not(None), Turn.completion_ids.is_not(None))
    )
    if role is not None:
        query = query.join(Agent, Agent.id == Turn.agent_id).where(Agent.role == role)
    parts = (turns[start : start + MOST_IDS] for start in range(0, len(turns), MOST_IDS))
    rows = (row for part in parts for row in journal.read(query.where(Turn.id.in_(part))))
    return {row.id: (row.task_id, row.value) for row in rows}


def _check(journal: Journal, policy: str, reward: RewardRef) -> None:
    """Nothing was found: is it because a name is wrong?"""
    policies = [row.name for row in journal.read(select(Policy.name))]
    if policy not in policies:
        raise unknown("policy", policy, policies)
    if not journal.read(select(Reward.id).where(*reward.whole).limit(1)):
        rows = journal.read(select(Reward.function, Reward.version, Reward.config_hash).distinct())
        raise unknown("reward", _label(reward), (_label(row) for row in rows))


def _label(reward: Any) -> str:
    return f"{reward.function}@{reward.version}#{reward.config_hash}"


def samples(turns: Iterable[RewardedTurn], minimum: float | None = None) -> list[Sample]:
    """Each distinct completion of a prompt once, in the order it was first said.

    Args:
        minimum: only those with at least this reward: what SFT imitates. KTO wants bad ones too.
    """
    every = [sample for group in _groups(turns) for sample in group]
    kept = [sample for sample in every if minimum is None or sample.reward >= minimum]
    return sorted(kept, key=lambda sample: sample.turn_ids)


def pairs(turns: Iterable[RewardedTurn], *, margin: float = 0.0, per_prompt: int = 4) -> list[Pair]:
    """Better and worse completions of the same prompt of the same task, for DPO.

    The best is paired with the worst first, then the best with the worst of those not yet used; a
    completion comes again only where all others have been used as often. The choice depends on the
    turns alone.

    Args:
        margin: the rewards of a pair differ by at least this, and always by something.
        per_prompt: at most so many pairs of one prompt.
    """
    if margin < 0 or per_prompt < 1:
        raise UserError(f"pairs: margin {margin} must not be negative and per_prompt {per_prompt} at least 1")
    return [pair for group in _groups(turns) for pair in _paired(group, margin, per_prompt)]


def _groups(turns: Iterable[RewardedTurn]) -> list[list[Sample]]:
    """Distinct completions by (task, prompt), in the order they were first said."""
    groups: dict[tuple[str, bytes], dict[bytes, list[RewardedTurn]]] = {}
    for turn in sorted(turns, key=lambda turn: turn.id):
        said = groups.setdefault((turn.task_id, turn.prompt_ids.tobytes()), {})
        said.setdefault(turn.completion_ids.tobytes(), []).append(turn)
    return [[_sample(same) for same in said.values()] for said in groups.values()]


def _sample(same: list[RewardedTurn]) -> Sample:
    """Turns that said the same as one sample."""
    mean = sum(turn.reward for turn in same) / len(same)
    return Sample(tuple(turn.id for turn in same), same[0].prompt_ids, same[0].completion_ids, mean)


def _paired(group: list[Sample], margin: float, most: int) -> list[Pair]:
    ranked = sorted(group, key=lambda sample: (-sample.reward, sample.turn_ids))
    last = len(ranked) - 1
    open_pairs = {
        (best, worst): gap
        for best in range(last)
        for worst in range(best + 1, last + 1)
        if (gap := ranked[best].reward - ranked[worst].reward) > 0 and gap >= margin
    }
    uses = [0] * len(ranked)
    made: list[Pair] = []
    while open_pairs and len(made) < most:
        best, worst = min(
            open_pairs,
            key=lambda place: (uses[place[0]] + uses[place[1]], -open_pairs[place], place[0], -place[1]),
        )
        del open_pairs[best, worst]
        uses[best] += 1
        uses[worst] += 1
        made.append(Pair(ranked[best], ranked[worst]))
    return made

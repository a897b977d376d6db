"""What the monitors and the choice of tasks look at: the turns of a step as plain data, from the journal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from sparring.memory.journal import Journal
from sparring.memory.records import WORLD_FAULT
from sparring.memory.schema import Episode, Reward, Task, Turn
from sparring.training.measures import Observed
from sparring.training.rewards.base import EpisodeRow, RewardRef, TurnRow


def rewards_of(journal: Journal, reward: RewardRef, turns: Sequence[int]) -> dict[int, float | None]:
    """Turn id -> reward of the whole turn, for those that have a row."""
    found: dict[int, float | None] = {}
    for start in range(0, len(turns), 10_000):
        query = select(Reward.turn_id, Reward.value).where(
            Reward.turn_id.in_(turns[start : start + 10_000]), *reward.whole
        )
        found |= {row.turn_id: row.value for row in journal.read(query)}
    return found


def observe(
    journal: Journal, episodes: Sequence[EpisodeRow], policy: str, reward: RewardRef, entropy: float | None
) -> Observed:
    """The final turns of a policy in these episodes, with their rewards (NaN for NULL)."""
    said = [
        (episode, turn)
        for episode in episodes
        for turn in episode.turns
        if turn.policy == policy and turn.final and turn.status not in WORLD_FAULT
    ]
    paid = rewards_of(journal, reward, [turn.id for _, turn in said])
    values = [paid.get(turn.id) for _, turn in said]
    return _observed(said, [math.nan if value is None else value for value in values], entropy)


def observe_role(episodes: Sequence[EpisodeRow], role: str) -> Observed:
    """The final turns of a role in these episodes, whatever they were paid."""
    said = [
        (episode, turn)
        for episode in episodes
        for turn in episode.turns
        if turn.role == role and turn.final and turn.status not in WORLD_FAULT
    ]
    return _observed(said, [math.nan] * len(said))


def _observed(
    said: Sequence[tuple[EpisodeRow, TurnRow]], rewards: Sequence[float], entropy: float | None = None
) -> Observed:
    return Observed(
        rewards=rewards,
        prompts=[(episode.task, turn.role, turn.key.rpartition("/")[0]) for episode, turn in said],
        texts=[turn.text or "" for _, turn in said],
        statuses=[turn.status for _, turn in said],
        lengths=[turn.completion_tokens for _, turn in said],
        answers=[_answer(turn) for _, turn in said],
        sources=[str(episode.question) for episode, _ in said],
        references=[_text(episode.answer) for episode, _ in said],
        entropy=entropy,
    )


def _answer(turn: TurnRow) -> str | None:
    """An answer, or what stands for one: a verdict."""
    if not isinstance(turn.parsed, dict):
        return None
    return _text(turn.parsed.get("answer", turn.parsed.get("correct")))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def task_history(journal: Journal, run: str, reward: RewardRef, before: int) -> dict[str, tuple[int, float]]:
    """Task name -> (last iteration it was played in, mean reward of its turns then), before an iteration."""
    query = (
        select(Task.name, Episode.iteration, Reward.value)
        .select_from(Episode)
        .join(Task, Task.id == Episode.task_id)
        .join(Turn, Turn.episode_number == Episode.number)
        .join(Reward, Reward.turn_id == Turn.id)
        .where(
            Episode.run_id == run,
            Episode.iteration < before,
            Reward.value.is_not(None),
            *reward.whole,
        )
    )
    last: dict[str, tuple[int, list[float]]] = {}
    for name, iteration, value in journal.read(query):
        known = last.get(name)
        if known is None or known[0] < iteration:
            last[name] = (iteration, [value])
        elif known[0] == iteration:
            known[1].append(value)
    return {name: (iteration, sum(values) / len(values)) for name, (iteration, values) in last.items()}

"""A small player for journal tests: agents, asks, and a model whose text depends on the seed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparring.memory.episode import EpisodeHandle, Produce
from sparring.memory.journal import Journal
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord, VersionRecord
from sparring.memory.run import RunHandle

AGENT = AgentRecord("solver", "Answer the question.", "line", "1", {"temperature": 1.0}, "base")
TASK = TaskRecord("q1", "2 + 2?", "4")
QUESTION = [{"role": "user", "content": "2 + 2?"}]


def drive(journal: Journal, run: str = "r", **options: Any) -> RunHandle:
    """Drive a run with settings that stay the same."""
    return journal.drive(
        run, **{"kind": "play", "protocol": "test", "config": {"rounds": 2}, "seed": 7, **options}
    )


def version(journal: Journal, policy: str = "base", base: str = "hash") -> int:
    """A registered policy version."""
    return journal.version(VersionRecord(policy, base, "scripted:x"))


def ask(journal: Journal, messages: list[dict[str, Any]] | None = None, agent: AgentRecord = AGENT) -> Ask:
    """A question to the default agent."""
    return Ask(agent, version(journal), QUESTION if messages is None else messages)


def made(place: Place, **fields: Any) -> Produced:
    """A good answer that names its seed."""
    base: dict[str, Any] = {
        "text": f"seed {place.seed}",
        "parsed": {"answer": "4"},
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "cost": 0.5,
        "engine": "scripted",
        "finish_reason": "stop",
        "prompt_ids": np.arange(5, dtype=np.int32),
        "completion_ids": np.array([place.seed % 1000, 1, 2], np.int32),
        "logprobs": np.array([-0.5, -0.25, -0.125], np.float32),
        "logprob_kind": "tempered",
    }
    return Produced(**{"status": "ok", **base, **fields})


class Model:
    """A `produce` that remembers what it was asked for."""

    def __init__(self, answer: Callable[[Place], Produced] = made) -> None:
        self.calls: list[list[Place]] = []
        self._answer = answer

    async def __call__(self, places: list[Place]) -> list[Produced]:
        self.calls.append(places)
        await asyncio.sleep(0)
        return [self._answer(place) for place in places]

    @property
    def places(self) -> list[Place]:
        return [place for call in self.calls for place in call]


async def one(
    episode: EpisodeHandle, journal: Journal, key: str = "s/0", produce: Produce | None = None
) -> Any:
    """One turn by the default agent."""
    [turn] = await episode.turns([key], ask(journal), produce or Model())
    return turn


def python(source: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A second process that runs `source` with these helpers at hand."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{source}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )

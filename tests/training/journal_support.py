"""What the tests of rewards and experience share: episodes of turns with ids and log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import journal_helpers
import numpy as np
from journal_helpers import TASK

from sparring.memory.journal import Journal
from sparring.memory.policies import register
from sparring.memory.records import AgentRecord, Ask, Place, Produced, TaskRecord
from sparring.memory.run import RunHandle

SEEN = [{"role": "user", "content": "2 + 2?"}]


@contextmanager
def drive(journal: Journal, run: str = "r", **options: Any) -> Iterator[RunHandle]:
    """A run that is let go at the end."""
    handle = journal_helpers.drive(journal, run, **options)
    try:
        yield handle
    finally:
        handle.release()


def says(answer: str | None = "4", status: Any = "ok", **fields: Any) -> Produced:
    """A turn with ids and log-probabilities; the world's fault is not final, as in `agents`."""
    lost = status in ("timeout", "engine_error")
    given: dict[str, Any] = {
        "status": status,
        "text": None if lost else f"I say {answer}.",
        "parsed": None if answer is None else {"answer": answer},
        "final": not lost,
        "completion_tokens": 0 if lost else 3,
    }
    if not lost:
        given |= {
            "prompt_ids": np.arange(5, dtype=np.int32),
            "completion_ids": np.array([7, 8, 9], np.int32),
            "logprobs": np.array([-0.5, -0.25, -0.125], np.float32),
            "logprob_kind": "tempered",
        }
    return Produced(**{**given, **fields})


def agent(role: str = "solver", policy: str = "base", **sampling: Any) -> AgentRecord:
    return AgentRecord(role, "Answer.", "line", "1", {"temperature": 1.0, **sampling}, policy)


def version(journal: Journal, policy: str = "base", update: int | None = None) -> int:
    """A version of a policy; another one for each update."""
    return register(journal, policy=policy, base_hash="hash", base_spec="scripted:x", update_id=update).id


async def episode(
    run: RunHandle, turns: Mapping[str, Produced], *, task: TaskRecord = TASK, **more: Any
) -> int:
    """Play one closed episode: key -> what is said; a key's role is what stands before its slash.

    More: `versions` (key -> version id), `policy`, `outcome`, `correct`, `status`, `iteration`, `copy`,
    `agents` (key -> agent), `messages` (key -> what it saw).
    """
    handle = run.episode(task, more.get("iteration", 0), more.get("copy", 0), seats={})
    for key, produced in turns.items():

        async def produce(places: list[Place], made: Produced = produced) -> list[Produced]:
            return [made]

        key = key.rstrip("'")  # a key with a mark is another attempt of the same one
        speaker = more.get("agents", {}).get(key) or agent(key.partition("/")[0], more.get("policy", "base"))
        at = more.get("versions", {}).get(key) or version(run.journal, speaker.policy)
        await handle.turns([key], Ask(speaker, at, more.get("messages", {}).get(key, SEEN)), produce)
    verdict = None if more.get("correct") is None else {"correct": more["correct"], "reason": "by hand"}
    await handle.close(more.get("status", "done"), more.get("outcome", {"answer": "4"}), None, verdict)
    return handle.number

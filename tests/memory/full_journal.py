"""A journal with rows in every table, and what it says with no id in it, so that two can be compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from journal_helpers import AGENT, Model, ask, drive, made, version
from sqlalchemy import insert, select, update

from sparring.memory.heads import move_head
from sparring.memory.journal import Journal
from sparring.memory.records import Ask, Fork, Place, Produced, TaskRecord, VersionRecord
from sparring.memory.run import RunHandle
from sparring.memory.schema import (
    Base,
    Blob,
    Episode,
    Match,
    PolicyVersion,
    Rating,
    RecomputedLogprobs,
    Reward,
    Score,
    Turn,
    Update,
    UpdateTurn,
)

Row = dict[str, Any]


def answer(place: Place) -> Produced:
    """Ids that grow with the turn, so that later prompts refer to earlier ones."""
    number = int(place.key.split("/")[1])
    return made(
        place,
        text=f"{place.key} \x00\ud800 {place.seed}",
        prompt_ids=np.arange(8 * (number + 1), dtype=np.int32),
    )


async def play(journal: Journal, name: str = "r", turns: int = 3, copies: int = 2, **options: Any) -> None:
    """A run with history, blobs, verdicts, rewards and scores."""
    run = drive(journal, name, **options)
    for copy in range(copies):
        episode = run.episode(TaskRecord(f"q{copy}", f"{copy}?", "4"), 0, copy, seats={"s": AGENT.id})
        said: list[dict[str, Any]] = [
            {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "blob", "hash": "b1"}]}
        ]
        for number in range(turns):
            [turn] = await episode.turns([f"s/{number}"], Ask(AGENT, version(journal), said), Model(answer))
            said = [
                *said,
                {"role": "assistant", "content": turn.text},
                {"role": "user", "content": f"Go on {number}"},
            ]
            if not turn.replayed:
                _judge(journal, turn.id)
        await episode.close("done", {"answer": "4"}, verdict={"correct": True})
    await run.event("report", "0", {"n": 1})
    run.finish("done")
    run.release()


def _judge(journal: Journal, turn: int, read: list[int] | None = None) -> None:
    """A reward that was computed from turns, a score, and the blob that messages show."""
    reward = {"turn_id": turn, "span_start": -1, "span_end": -1, "function": "f", "version": "1"}
    rest = {"config_hash": "c", "value": 0.5, "reason": "", "read_ids": {"turns": read or [turn]}}
    journal.execute(insert(Reward).values(id=journal.ids.take("rewards"), **reward, **rest))
    score = {"turn_id": turn, "scorer": "prm", "version": "1", "value": None, "evidence": {"x": 1}}
    journal.execute(insert(Score).values(id=journal.ids.take("scores"), **score))
    journal.execute(journal.insert(Blob).values(hash="b1", media_type="image/png", data=b"\x00\xff"))


def evolved(journal: Journal) -> list[int]:
    """Versions 0 to 2 of a policy and a run that led its training head to 2 and its live head to 1."""
    base, run = version(journal), drive(journal, "evolve")
    ids = [base, *(journal.version(VersionRecord("base", "hash", "s", f"f{n}", f"a{n}")) for n in (1, 2))]
    for number, made_of in ((1, base), (2, ids[1])):
        made_by = {"id": number, "run_id": "evolve", "policy": "base", "step": number, "status": "done"}
        ends = {"from_version_id": made_of, "to_version_id": ids[number]}
        journal.execute(insert(Update).values(**made_by, **ends, config={}, created_at=0.0))
        journal.execute(
            update(PolicyVersion).where(PolicyVersion.id == ids[number]).values(parent_id=made_of)
        )
        move_head(journal, "base", "training", ids[number], by="trainer", reason="", run=run)
    move_head(journal, "base", "live", ids[2], by="gate", reason="", run=run)
    move_head(journal, "base", "live", ids[1], by="gate", reason="", run=run)
    run.finish("done")
    run.release()
    return ids


async def fill(journal: Journal) -> None:
    """Runs with a child and a fork, a trained policy, games: rows in every table."""
    await play(journal)
    await play(journal, "child", parent="r", copies=1)
    evolved(journal)
    taken = journal.read(select(Turn.id).order_by(Turn.id).limit(2))
    journal.execute(insert(UpdateTurn), [{"update_id": 1, "turn_id": row.id} for row in taken])
    again = np.array([-0.5, -1.5, -1e-7], np.float32)
    journal.execute(insert(RecomputedLogprobs).values(turn_id=taken[0].id, source="trainer", logprobs=again))
    run = drive(journal, "games", kind="tournament")
    number = await _forked(journal, run)
    match = {"run_id": "games", "position": 0, "episode_number": number, "status": "done", "result": {}}
    players = {"left": "a", "right": "b"}
    journal.execute(insert(Match).values(id=journal.ids.take("matches"), players=players, **match))
    rating = {"run_id": "games", "player": "a", "after_position": 0, "system": "elo", "value": 1000.5}
    journal.execute(insert(Rating).values(id=journal.ids.take("ratings"), **rating))
    run.finish("failed")
    run.release()


async def _forked(journal: Journal, run: RunHandle) -> int:
    """An episode forked from one of `r`, on a task that grew out of it; one call of it was lost."""
    [parent] = journal.read(select(Episode.id).where(Episode.run_id == "r", Episode.copy == 0))
    [first] = journal.read(select(Turn.id).join(Episode).where(Episode.id == parent.id, Turn.key == "s/0"))
    source = TaskRecord("q0", "0?", "4")
    task = TaskRecord("grown", ["a", {"b": None}], "4", parent=source.key, source_turn=first.id)
    fork = Fork(parent.id, first.id, ("s/0",), (("verdict", "0"),))
    episode = run.episode(task, 1, 0, seats={"s": AGENT.id}, fork=fork)
    lost = Model(lambda place: Produced("timeout", error="no answer \x00", final=False, engine="e"))
    for model in (lost, Model()):
        [turn] = await episode.turns(["s/9"], ask(journal), model)
    _judge(journal, turn.id, [first.id, turn.id])
    await episode.close("failed", None, "broke \ud800")
    return episode.number


# --- without ids --------------------------------------------------------------------------------------------

POINTERS: dict[str, dict[str, str]] = {
    "tasks": {"source_turn_id": "turns"},
    "policies": {"live_version_id": "policy_versions", "training_version_id": "policy_versions"},
    "policy_versions": {"parent_id": "policy_versions", "update_id": "updates"},
    "updates": {"from_version_id": "policy_versions", "to_version_id": "policy_versions"},
    "episodes": {"forked_from_turn_id": "turns"},
    "messages": {"episode_number": "episodes", "parent_id": "messages"},
    "turns": {
        "episode_number": "episodes",
        "policy_version_id": "policy_versions",
        "input_id": "messages",
        "output_id": "messages",
        "prefix_turn_id": "turns",
    },
    "events": {"episode_number": "episodes"},
    "matches": {"episode_number": "episodes"},
    "update_turns": {"update_id": "updates", "turn_id": "turns"},
    **{name: {"turn_id": "turns"} for name in ("scores", "rewards", "recomputed_logprobs")},
}
"""Table -> columns that hold the id of a row of a table."""
NAMED: dict[str, tuple[str, ...]] = {
    "policy_versions": ("policy", "number"),
    "updates": ("run_id", "policy", "step"),
    "episodes": ("id",),
    "messages": ("episode_number", "parent_id", "role", "content_hash"),
    "turns": ("episode_number", "key", "attempt"),
}
"""What a row that others point to is called instead of its id."""
IDS = {"episodes": "number"}


def everything(journal: Journal) -> dict[str, list[str]]:
    """Table -> all that its rows say, in no order that an id or a clock gives."""
    stored: dict[str, list[Row]] = {}
    for name, table in Base.metadata.tables.items():
        if name != "counters":
            rows = journal.read(select(table))
            stored[name] = [dict(zip(table.columns.keys(), row, strict=True)) for row in rows]
    by_id = {name: {row[IDS.get(name, "id")]: row for row in stored[name]} for name in NAMED}

    def called(name: str, number: Any) -> Any:
        if not number:  # NULL, or the root of a conversation
            return number
        return [name, *(named(name, column, by_id[name][number][column]) for column in NAMED[name])]

    def named(table: str, column: str, value: Any) -> Any:
        if column in POINTERS.get(table, {}):
            return called(POINTERS[table][column], value)
        if column == "read_ids" and value:
            return {kind: [called(kind, number) for number in ids] for kind, ids in value.items()}
        if column == "payload" and table == "events" and value and {"head", "from", "to"} <= value.keys():
            return {**value, **{end: called("policy_versions", value[end]) for end in ("from", "to")}}
        return value.tolist() if isinstance(value, np.ndarray) else value

    def plain(table: str, row: Row) -> str:
        own = [c.name for c in Base.metadata.tables[table].primary_key.columns if c.type.python_type is int]
        return str({c: named(table, c, v) for c, v in row.items() if [c] != own})

    return {name: sorted(plain(name, row) for row in rows) for name, rows in stored.items()}

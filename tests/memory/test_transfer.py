"""Export, import and delete: nothing lost, nothing doubled, lineage kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_journal import everything, evolved, fill, play
from journal_helpers import AGENT, TASK, Model, drive, made, one, version
from sqlalchemy import insert, select, update

from sparring.errors import RunLocked, UserError
from sparring.memory.heads import move_head, rollback
from sparring.memory.journal import Journal
from sparring.memory.queries import training_turns, transcript
from sparring.memory.records import Ask, TaskRecord, VersionRecord
from sparring.memory.schema import (
    Base,
    Episode,
    Policy,
    PolicyVersion,
    Reward,
    Turn,
    Update,
    UpdateTurn,
)
from sparring.memory.transfer import delete, export, import_, stats
from sparring.memory.versions import heads


def rows(journal: Journal) -> dict[str, int]:
    return {name: count for name, count in stats(journal)["rows"].items() if count}


def content(journal: Journal, run: str) -> list[Any]:
    """What a run says, without ids."""
    with journal.engine.connect() as connection:
        e = Episode
        query = select(e.id, e.task_id, e.copy, e.status).where(e.run_id == run).order_by(e.copy)
        episodes = connection.execute(query).all()
        rewards = {row.turn_id: row for row in connection.execute(select(Reward))}
    seen = []
    for episode, *rest in episodes:
        for said in transcript(journal, episode):
            turn = said.turn
            assert rewards[turn.id].read_ids == {"turns": [turn.id]}
            seen.append(
                (*rest, turn.key, turn.seed, said.text, said.messages, turn.parsed, rewards[turn.id].value)
            )
    for sample in training_turns(journal, run=run):
        seen.append(
            (sample.key, sample.prompt_ids.tolist(), sample.completion_ids.tolist(), sample.logprobs.tolist())
        )  # type: ignore[union-attr]  # a run was given
    return seen


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
async def test_round_trip_and_again(
    journal: Journal, database: Callable[[], str], tmp_path: Path, suffix: str
) -> None:
    await play(journal)
    path = tmp_path / f"out{suffix}"
    counted = export(journal, "r", path)
    assert counted["turns"] == 6 and counted["rewards"] == 6 and counted["blobs"] == 1
    with Journal.open(database()) as other:
        await play(other, "before", copies=1)  # ids of the two journals clash
        before = rows(other)
        assert import_(other, path)["turns"] == 6
        after = rows(other)
        assert after["turns"] == before["turns"] + 6 and after["blobs"] == 1 and after["agents"] == 1
        assert content(other, "r") == content(journal, "r")
        assert sum(import_(other, path).values()) == 0 and rows(other) == after
        model = Model()
        run = drive(other)
        turn = await run.episode(TaskRecord("q0", "0?", "4"), 0, 0, seats={}).turns(
            ["s/0"], Ask(AGENT, version(other), transcript(journal, _episode(journal))[0].messages), model
        )
        assert turn[0].replayed and not model.calls
    assert sum(import_(journal, path).values()) == 0  # into the journal it came from


def _episode(journal: Journal) -> str:
    with journal.engine.connect() as connection:
        return str(connection.exec_driver_sql("SELECT id FROM episodes WHERE copy = 0").scalars().first())


@pytest.mark.parametrize("compressed", [False, True])
async def test_between_the_databases_every_table_says_the_same(
    journal: Journal, database: Callable[[], str], tmp_path: Path, compressed: bool
) -> None:
    """From SQLite into the database that is tested, beside what is there, and back into SQLite."""
    first, second = (tmp_path / f"{name}.jsonl{'.gz' * compressed}" for name in ("first", "second"))
    with Journal.open(tmp_path / "a.db") as a, Journal.open(tmp_path / "b.db") as b:
        await fill(a)
        wanted = everything(a)
        assert all(wanted.values()), "each table has rows"
        export(a, None, first)
        import_(journal, first)
        assert everything(journal) == wanted
        export(journal, None, second)
        import_(b, second)
        assert everything(b) == wanted and rows(b) == rows(a)
        assert sum(import_(a, second).values()) == 0  # it is what it was
    with Journal.open(database()) as other:
        await play(other, "before", copies=1)  # ids of the journals differ
        before = rows(other)
        import_(other, first)
        now = rows(other)
        assert all(now[t] == before[t] + len(wanted[t]) for t in ("turns", "messages", "episodes", "rewards"))


async def test_everything_at_once(journal: Journal, database: Callable[[], str], tmp_path: Path) -> None:
    await play(journal)
    await play(journal, "child", parent="r", copies=1)
    export(journal, None, tmp_path / "all.jsonl")
    with Journal.open(database()) as other:
        import_(other, tmp_path / "all.jsonl")
        assert rows(other) == rows(journal)
        assert other.run_row("child").parent_id == "r" and other.run_row("r").status == "done"
        assert [run["id"] for run in stats(other)["runs"]] == ["r", "child"] and stats(other)["bytes"] > 0


async def test_heads_stand_where_they_stood(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    ids = evolved(journal)
    move_head(journal, "base", "live", ids[0], by="hand", reason="worse")
    everything, one_run = tmp_path / "all.jsonl", tmp_path / "run.jsonl"
    export(journal, None, everything)
    export(journal, "evolve", one_run)
    for path in (everything, one_run):
        with Journal.open(database()) as other:
            await play(other, "before")  # the policy is there, and nobody has moved it
            import_(other, path)
            assert at(other) == at(journal) == {"live": 0, "training": 2}
    delete(journal, "evolve")  # takes the moves along and not the weights
    export(journal, None, everything)
    with Journal.open(database()) as other:
        import_(other, everything)
        assert at(other) == {"live": 0, "training": 2}


async def test_what_was_decided_here_stays(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    evolved(journal)
    export(journal, None, tmp_path / "all.jsonl")
    with Journal.open(database()) as other:
        import_(other, tmp_path / "all.jsonl")
        rollback(other, "base", "training", by="hand", reason="")
        import_(other, tmp_path / "all.jsonl")
        assert at(other) == {"live": 1, "training": 1}


async def test_heads_go_on_with_a_run_that_went_on_and_come_with_descendants(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    ids = evolved(journal)
    child = VersionRecord("child", "hash", "s", "f2", "a2")
    heir = journal.version(child)
    journal.execute(update(PolicyVersion).where(PolicyVersion.id == heir).values(parent_id=ids[2]))
    run = drive(journal, "heirs")
    made_by = {"id": 9, "run_id": "heirs", "policy": "child", "step": 0, "status": "done", "config": {}}
    ends = {"from_version_id": heir, "to_version_id": heir}
    journal.execute(insert(Update).values(**made_by, **ends, created_at=0.0))
    run.finish("done")
    run.release()
    for name in ("evolve", "heirs"):
        export(journal, name, tmp_path / f"{name}.jsonl")
    for order in (("evolve", "heirs"), ("heirs", "evolve")):
        with Journal.open(database()) as other:
            for name in order:
                import_(other, tmp_path / f"{name}.jsonl")
            assert at(other) == {"live": 1, "training": 2}, order
    run = drive(journal, "evolve")
    move_head(journal, "base", "live", ids[2], by="gate", reason="", run=run)
    run.finish("done")
    run.release()
    with Journal.open(database()) as other:
        import_(other, tmp_path / "evolve.jsonl")
        export(journal, "evolve", tmp_path / "later.jsonl")
        import_(other, tmp_path / "later.jsonl")
        assert at(other) == {"live": 2, "training": 2}


def at(journal: Journal) -> dict[str, int]:
    return {str(head): found.number for head, found in heads(journal, "base").items() if found}


async def test_another_run_of_the_same_name(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    await play(journal)
    export(journal, "r", tmp_path / "r.jsonl")
    with Journal.open(database()) as other:
        await play(other, seed=8)
        mine = content(other, "r")
        import_(other, tmp_path / "r.jsonl")
        assert sum(import_(other, tmp_path / "r.jsonl").values()) == 0
        assert other.runs() in (["r", "r-2"], ["r-2", "r"])
        assert content(other, "r") == mine and content(other, "r-2") == content(journal, "r")


async def test_a_run_that_went_on_is_merged(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    run = drive(journal)
    await one(run.episode(TASK, seats={}), journal)
    export(journal, "r", tmp_path / "early.jsonl")
    await one(run.episode(TASK, seats={}), journal, "s/1")
    await run.episode(TASK, seats={}).close("done", {"answer": "4"})
    run.finish("done")
    export(journal, "r", tmp_path / "late.jsonl")
    with Journal.open(database()) as other:
        import_(other, tmp_path / "early.jsonl")
        assert other.run_row("r").status == "open"
        assert import_(other, tmp_path / "late.jsonl")["turns"] == 1
        assert other.run_row("r").status == "done" and rows(other) == rows(journal)
        assert other.run_row("r").epoch == journal.run_row("r").epoch
        state = drive(other).state(TASK)
        assert state is not None and state.status == "done" and state.outcome == {"answer": "4"}


async def test_a_run_played_on_in_two_places_is_refused(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    run = drive(journal)
    await one(run.episode(TASK, seats={}), journal)
    export(journal, "r", tmp_path / "early.jsonl")
    with Journal.open(database()) as other:
        import_(other, tmp_path / "early.jsonl")
        theirs = drive(other)
        await one(theirs.episode(TASK, seats={}), other, "s/1", Model(lambda p: made(p, completion_tokens=9)))
        theirs.release()
        await one(run.episode(TASK, seats={}), journal, "s/1")
        await one(run.episode(TASK, copy=1, seats={}), journal)
        export(journal, "r", tmp_path / "late.jsonl")
        before = rows(other)
        with pytest.raises(UserError, match="played in both"):
            import_(other, tmp_path / "late.jsonl")
        assert rows(other) == before


async def test_a_driven_run_is_not_touched(journal: Journal, tmp_path: Path) -> None:
    run = drive(journal)
    await one(run.episode(TASK, seats={}), journal)
    export(journal, "r", tmp_path / "r.jsonl")
    for touch in (lambda: import_(journal, tmp_path / "r.jsonl"), lambda: delete(journal, "r")):
        with pytest.raises(RunLocked):
            touch()
    await one(run.episode(TASK, seats={}), journal, "s/1")


async def test_damaged_and_foreign_files_write_nothing(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    await play(journal)
    path = tmp_path / "out.jsonl"
    export(journal, None, path)
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    broken = {
        "cut": good[: len(good) // 2],
        "last line gone": b"".join(lines[:-1]),
        "line gone": b"".join(lines[:5] + lines[6:]),
        "altered": good.replace(b"Go on 1", b"Go on 2", 1),
        "no header": b"".join(lines[1:]),
        "empty": b"",
        "tasks": b'{"id": "q", "question": "?"}\n',
        "list": b"[1]\n",
        "binary": bytes(range(256)) * 9,
    }
    with Journal.open(database()) as other:
        for name, data in broken.items():
            path.write_bytes(data)
            with pytest.raises(UserError) as caught:
                import_(other, path)
            assert "\n" not in str(caught.value) and "import from" in str(caught.value), name
        path.write_bytes(good.replace(b'"revision":"0001"', b'"revision":"9999"', 1))
        with pytest.raises(UserError, match="newer version"):
            import_(other, path)
        for wrong in (tmp_path, tmp_path / "missing.jsonl"):
            with pytest.raises(UserError, match="import from"):
                import_(other, wrong)
        packed = tmp_path / "cut.jsonl.gz"
        packed.write_bytes(gzip.compress(good)[:-20])
        with pytest.raises(UserError, match="import from"):
            import_(other, packed)
        assert rows(other) == {}
    with pytest.raises(UserError, match="unknown run"):
        export(journal, "x", path)
    with pytest.raises(UserError, match="No such file"):
        export(journal, None, tmp_path / "no" / "folder.jsonl")
    assert json.loads(lines[0])["runs"] == ["r"]


async def test_delete(journal: Journal) -> None:
    await play(journal, "other", copies=1)
    before = rows(journal)
    await play(journal)
    await play(journal, "child", parent="r", copies=1)
    removed = delete(journal, "r")
    assert rows(journal) == before and removed.rows["turns"] == 9 and not removed.kept_episodes
    delete(journal, "other")
    assert rows(journal) == {"agents": 1, "policies": 1, "policy_versions": 1}
    with pytest.raises(UserError, match="unknown run"):
        delete(journal, "r")


@pytest.mark.parametrize("force", [False, True])
async def test_delete_keeps_what_weights_in_use_descend_from(journal: Journal, force: bool) -> None:
    await play(journal)
    base = version(journal)
    tuned = journal.version(VersionRecord("base", "hash", "s", "folder", "adapter"))
    with journal.engine.connect() as connection:
        owner = select(Turn.id, Episode.id.label("episode")).join(
            Episode, Episode.number == Turn.episode_number
        )
        trained = connection.execute(owner.order_by(Turn.id).limit(1)).one()
    made_by = {
        "id": 1,
        "run_id": "r",
        "policy": "base",
        "step": 0,
        "status": "done",
        "config": {},
        "created_at": 0.0,
    }
    journal.execute(insert(Update).values(**made_by, from_version_id=base, to_version_id=tuned))
    journal.execute(insert(UpdateTurn).values(update_id=1, turn_id=trained.id))
    journal.execute(
        update(PolicyVersion).where(PolicyVersion.id == tuned).values(update_id=1, parent_id=base)
    )
    journal.execute(update(Policy).values(live_version_id=tuned))
    removed = delete(journal, "r", force=force)
    left = rows(journal)
    if force:
        assert "turns" not in left and "update_turns" not in left and "runs" not in left
    else:
        assert removed.kept_episodes == [trained.episode]
        assert (left["runs"], left["episodes"], left["turns"], left["update_turns"]) == (1, 1, 3, 1)
        assert len(training_turns(journal, turn_ids=[trained.id])) == 1 and left["blobs"] == 1


def test_every_table_is_exported() -> None:
    from sparring.memory import merge

    taken = {name.removeprefix("_row_") for name in vars(merge.Merge) if name.startswith("_row_")}
    taken |= {"messages", "turns", "events", "scores", "rewards", "recomputed_logprobs", "episodes"}
    assert taken | {"counters"} == set(Base.metadata.tables)

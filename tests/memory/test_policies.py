"""Policies: versions by number, adapters that move with their journal, heads that leave a trace, lineage."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from journal_helpers import TASK, Model, ask, drive, version
from sqlalchemy import insert, select

from sparring.errors import JournalError, StaleEpoch, UserError
from sparring.memory import policies as p
from sparring.memory import policies as policies_module
from sparring.memory.journal import Journal
from sparring.memory.schema import Event, Policy, PolicyVersion, Reward, Run, Update, UpdateTurn
from sparring.memory.transfer import export, import_


def base(journal: Journal, policy: str = "solver", **more: Any) -> p.Version:
    """The first version of a policy, or another bare one."""
    return p.register(journal, policy=policy, **{"base_hash": "b0", "base_spec": "tiny", **more})


def begun(
    journal: Journal, step: int, origin: int | None, run: str | None = None, policy: str = "solver"
) -> int:
    """An update that is being trained."""
    update_id = journal.ids.take("updates")
    row = {"id": update_id, "run_id": run, "policy": policy, "step": step, "from_version_id": origin}
    journal.execute(
        insert(Update).values(**row, status="training", config={"lr": 0.1}, metrics=None, created_at=1.0)
    )
    return update_id


def published(journal: Journal, step: int, origin: int, run: str | None = None, **more: Any) -> p.Version:
    """A version trained from another one."""
    folder = p.store_folder(journal) / f"solver-{step}"
    update_id = begun(journal, step, origin, run)
    return p.publish(journal, update_id=update_id, adapter_path=folder, adapter_hash=f"h{step}", **more)


def column(journal: Journal, what: Any) -> list[Any]:
    return [row[0] for row in journal.read(select(what))]


# --- versions ------------------------------------------------------------------------------------------


def test_versions_are_numbered_from_0_and_both_heads_begin_at_the_first(journal: Journal) -> None:
    first = base(journal)
    second = base(journal, adapter_path="/a", adapter_hash="h", parent_id=first.id, metrics={"reward": 0.5})
    assert (first.number, second.number, second.label) == (0, 1, "solver@1")
    assert second.parent_id == first.id and second.metrics == {"reward": 0.5}
    assert p.heads(journal, "solver") == {"live": first, "training": first}
    assert p.versions(journal, "solver") == [first, second]
    assert p.find(journal, "solver", 1) == p.by_id(journal, second.id) == second
    base(journal, "judge")
    assert p.policies(journal) == [p.Known("judge", 0, 0, 1, "tiny"), p.Known("solver", 0, 0, 2, "tiny")]


def test_registering_again_gives_what_is_there(journal: Journal) -> None:
    first = base(journal)
    assert base(journal) == first
    made = base(journal, update_id=7, parent_id=first.id)
    assert made.number == 1  # another update, though the weights are the same
    assert base(journal, update_id=7, adapter_path="/other", adapter_hash="x") == made
    assert base(journal, base_hash="b1").number == 2
    assert len(p.versions(journal, "solver")) == 3


def test_an_adapter_comes_with_its_hash(journal: Journal) -> None:
    for half in ({"adapter_path": "/a"}, {"adapter_hash": "h"}):
        with pytest.raises(UserError, match="adapter with its hash"):
            base(journal, **half)
    assert column(journal, PolicyVersion.id) == []


def test_journals_that_register_at_once_give_each_version_a_number_of_its_own(memory: str) -> None:
    made: list[p.Version] = []

    def work(place: int) -> None:
        with Journal.open(memory) as own:
            for update_id in range(1, 6):
                made.append(base(own, update_id=update_id))  # of the same update: once
                made.append(base(own, update_id=100 * place + update_id))

    with Journal.open(memory) as journal:
        base(journal)
        threads = [threading.Thread(target=work, args=(place,)) for place in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        known = p.versions(journal, "solver")
    assert len(made) == 30
    assert [v.number for v in known] == list(range(1 + 5 + 15))
    assert {v.id for v in made} == {v.id for v in known[1:]}


def test_names_that_do_not_exist_are_answered_with_those_that_do(journal: Journal) -> None:
    with pytest.raises(UserError, match="unknown policy `solver`; known: none"):
        p.find(journal, "solver")
    first = base(journal)
    with pytest.raises(UserError, match="unknown policy `slover`; known: solver"):
        p.find(journal, "slover", "training")
    with pytest.raises(UserError, match="`solver` has no version 4; it has 0"):
        p.find(journal, "solver", 4)
    with pytest.raises(UserError, match="unknown head of a policy `best`; known: live, training"):
        p.find(journal, "solver", "best")  # type: ignore[arg-type]  # what a user may type
    with pytest.raises(UserError, match="no policy version with id 999"):
        p.by_id(journal, 999)
    for step in range(1, 25):
        first = base(journal, update_id=step)
    with pytest.raises(UserError, match="it has the last 20 of 25: 5, 6"):
        p.find(journal, "solver", 99)
    assert p.find(journal, "solver", 24) == first


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("solver", ("solver", "live")),
        ("solver@live", ("solver", "live")),
        ("solver@training", ("solver", "training")),
        ("solver@7", ("solver", 7)),
        ("a@b@3", ("a@b", 3)),
    ],
)
def test_a_version_is_named_in_one_word(text: str, meant: tuple[str, Any]) -> None:
    assert p.parse(text) == meant


@pytest.mark.parametrize("text", ["solver@best", "solver@", "solver@-1", "@live", "solver@²"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="write a policy as NAME"):
        p.parse(text)


# --- where weights lie ---------------------------------------------------------------------------------


def test_weights_in_the_store_move_with_their_journal(sqlite_only: None, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with Journal.open(old / "j.db") as journal:
        inside = p.store_folder(journal) / "solver" / "1"
        inside.mkdir(parents=True)
        kept = base(journal, adapter_path=inside, adapter_hash="h")
        assert (kept.adapter_path, kept.present) == (inside, True)
        assert column(journal, PolicyVersion.adapter_path) == ["solver/1"]
        (elsewhere := tmp_path / "elsewhere").mkdir()
        base(journal, adapter_path=elsewhere, adapter_hash="h2")
    old.rename(new)
    with Journal.open(new / "j.db") as journal:
        inside, outside = p.versions(journal, "solver")
        assert inside.adapter_path == new / "j.db.policies" / "solver" / "1" and inside.present
        assert outside.adapter_path == elsewhere
        shutil.rmtree(new / "j.db.policies")
        assert not inside.present and outside.present


def test_a_path_from_the_working_folder_becomes_absolute(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = base(journal, adapter_path="tuned/a", adapter_hash="h")
    assert made.adapter_path == tmp_path / "tuned" / "a" and not made.present


def test_the_store_of_a_journal_in_memory_goes_with_it() -> None:
    journal = Journal()
    store = p.store_folder(journal)
    store.mkdir()
    journal.close()
    assert not store.exists()


def test_the_store_beside_a_server_is_chosen_by_the_user(
    postgres_only: None, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert p.store_folder(journal) == tmp_path / "sparring-policies"
    monkeypatch.setenv("SPARRING_STORE", str(tmp_path / "weights"))
    made = base(journal, adapter_path=tmp_path / "weights" / "1", adapter_hash="h")
    assert column(journal, PolicyVersion.adapter_path) == ["1"]
    assert made.adapter_path == tmp_path / "weights" / "1"


# --- publishing ----------------------------------------------------------------------------------------


def test_publishing_writes_version_update_head_and_event_at_once(journal: Journal) -> None:
    run = drive(journal, "evolve")
    first = base(journal)
    update_id = begun(journal, 1, first.id, "evolve")
    folder = p.store_folder(journal) / "1"
    made = p.publish(
        journal, update_id=update_id, adapter_path=folder, adapter_hash="h", metrics={"reward": 0.5}, run=run
    )
    assert (made.number, made.parent_id, made.update_id, made.base_hash) == (1, first.id, update_id, "b0")
    assert (made.base_spec, made.adapter_path, made.metrics) == ("tiny", folder, {"reward": 0.5})
    [row] = journal.read(select(Update))
    assert (row.status, row.to_version_id, row.metrics) == ("done", made.id, {"reward": 0.5})
    assert p.heads(journal, "solver") == {"live": first, "training": made}
    [move] = p.history(journal, "solver")
    assert (move.head, move.origin, move.target, move.run) == ("training", first.id, made.id, "evolve")
    assert (move.by, move.reason, move.move) == ("update", "update 1", 1)


def test_publishing_again_changes_nothing(journal: Journal) -> None:
    drive(journal, "evolve")
    first = base(journal)
    made = published(journal, 1, first.id, "evolve")
    p.move_head(journal, "solver", "training", first.id, by="gate", reason="rejected")
    again = p.publish(journal, update_id=made.update_id or 0, adapter_path="/else", adapter_hash="x")
    assert again == made and len(p.versions(journal, "solver")) == 2
    assert p.find(journal, "solver", "training") == first  # a late repetition does not move the head back
    assert len(p.history(journal, "solver", "training")) == 2


def test_publishing_can_leave_the_head_and_change_the_base(journal: Journal) -> None:
    first = base(journal)
    update_id = begun(journal, 1, first.id)
    made = p.publish(
        journal,
        update_id=update_id,
        adapter_path=None,
        adapter_hash=None,
        base=("b1", "/full"),
        move_training=False,
    )
    assert (made.base_hash, made.base_spec, made.adapter_path) == ("b1", "/full", None)
    assert p.find(journal, "solver", "training") == first and p.history(journal, "solver") == []


def test_what_fails_half_way_leaves_nothing(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(journal, "evolve")
    first = base(journal)
    update_id = begun(journal, 1, first.id, "evolve")

    def die(*_: Any) -> bool:
        raise RuntimeError("killed")

    monkeypatch.setattr(policies_module, "set_head", die)
    with pytest.raises(RuntimeError):
        p.publish(journal, update_id=update_id, adapter_path="/a", adapter_hash="h")
    monkeypatch.undo()
    assert p.versions(journal, "solver") == [first] and column(journal, Update.status) == ["training"]
    assert p.publish(journal, update_id=update_id, adapter_path="/a", adapter_hash="h").number == 1


def test_a_driver_that_lost_its_run_neither_publishes_nor_moves(memory: str) -> None:
    with Journal.open(memory) as old, Journal.open(memory) as new:
        lost = drive(old, "evolve")
        first = base(old)
        update_id = begun(old, 1, first.id, "evolve")
        lost.release()
        drive(new, "evolve")
        with pytest.raises(StaleEpoch, match="taken over"):
            p.publish(old, update_id=update_id, adapter_path="/a", adapter_hash="h", run=lost)
        other = base(old, base_hash="b1")
        with pytest.raises(StaleEpoch):
            p.move_head(old, "solver", "live", other.id, by="gate", reason="", run=lost)
        assert p.find(new, "solver") == first and p.find(new, "solver", "training") == first
        assert column(new, Update.status) == ["training"] and p.history(new, "solver") == []


def test_there_is_nothing_to_publish_without_update_or_origin(journal: Journal) -> None:
    base(journal)
    with pytest.raises(JournalError, match="no update 5"):
        p.publish(journal, update_id=5, adapter_path="/a", adapter_hash="h")
    lonely = begun(journal, 1, None)
    with pytest.raises(JournalError, match="names no version"):
        p.publish(journal, update_id=lonely, adapter_path="/a", adapter_hash="h")
    assert len(p.versions(journal, "solver")) == 1


# --- heads ---------------------------------------------------------------------------------------------


def test_a_move_says_from_to_by_whom_and_why(journal: Journal) -> None:
    first, other = base(journal), base(journal, base_hash="b1")
    run = drive(journal, "evolve")
    assert p.move_head(journal, "solver", "live", other.id, by="gate", reason="better by 0.1", run=run)
    assert p.head_id(journal, "solver", "live") == other.id
    assert p.head_id(journal, "solver", "training") == first.id
    [row] = journal.read(select(Event))
    assert (row.run_id, row.kind, row.epoch) == ("evolve", "head", run.epoch)
    told = {"policy": "solver", "head": "live", "move": 1, "from": first.id, "to": other.id}
    assert row.payload == told | {"by": "gate", "reason": "better by 0.1"}
    assert not p.move_head(journal, "solver", "live", other.id, by="gate", reason="again", run=run)
    assert len(p.history(journal, "solver")) == 1


def test_without_a_run_a_move_gets_one_of_its_own_and_lets_it_go(journal: Journal) -> None:
    first, other = base(journal), base(journal, base_hash="b1")
    for target in (other, first, other):
        assert p.move_head(journal, "solver", "live", target.id, by="hand", reason="try")
    assert [(m.move, m.target) for m in p.history(journal, "solver", "live")] == [
        (1, other.id),
        (2, first.id),
        (3, other.id),
    ]
    [row] = journal.read(select(Run))
    assert (row.id, row.kind, row.status) == ("policy/solver", "policy", "done")


def test_a_head_stays_within_its_policy(journal: Journal) -> None:
    base(journal)
    other = base(journal, "judge")
    with pytest.raises(UserError, match="judge@0 is no version of policy `solver`"):
        p.move_head(journal, "solver", "live", other.id, by="hand", reason="")
    with pytest.raises(UserError, match="unknown policy `slover`; known: judge, solver"):
        p.move_head(journal, "slover", "live", other.id, by="hand", reason="")
    with pytest.raises(UserError, match="unknown head"):
        p.move_head(journal, "judge", "best", other.id, by="hand", reason="")  # type: ignore[arg-type]  # a mistyped head
    assert column(journal, Run.id) == []


def test_rolling_back_goes_back_and_never_forth_again(journal: Journal) -> None:
    line = [base(journal), *(base(journal, update_id=step) for step in (1, 2, 3))]
    for target in line[1:3]:
        p.move_head(journal, "solver", "live", target.id, by="gate", reason="")

    def back(**options: Any) -> int:
        return p.rollback(journal, "solver", by="hand", reason="worse", **options).number

    assert back() == 1 and p.find(journal, "solver").number == 1
    p.move_head(journal, "solver", "live", line[3].id, by="gate", reason="")
    assert [back(), back()] == [1, 0]  # from 3 to 1, for 2 was left; then to 0
    with pytest.raises(UserError, match="no earlier version"):
        back()
    assert back(to=2) == 2 and back() == 0
    with pytest.raises(UserError, match="no earlier version"):
        p.rollback(journal, "solver", "training", by="hand", reason="")
    with pytest.raises(UserError, match="has no version 9"):
        back(to=9)


def test_moves_in_two_runs_have_one_order(journal: Journal) -> None:
    line = [base(journal), *(base(journal, update_id=step) for step in (1, 2))]
    one, two = drive(journal, "one"), drive(journal, "two")
    for target, run in ((line[1], two), (line[2], one), (line[0], two)):
        p.move_head(journal, "solver", "live", target.id, by="gate", reason="", run=run)
    assert [(m.move, m.run) for m in p.history(journal, "solver")] == [(1, "two"), (2, "one"), (3, "two")]


# --- lineage -------------------------------------------------------------------------------------------


async def test_from_weights_down_to_words(journal: Journal) -> None:
    run = drive(journal, "evolve")
    first = base(journal)
    async with run.episode(TASK, seats={}) as episode:
        said = await episode.turns(["s/0", "s/1", "s/2"], ask(journal), Model())
    update_id = begun(journal, 4, first.id, "evolve")
    rows = [{"update_id": update_id, "turn_id": turn.id} for turn in said[:2]]
    journal.execute(insert(UpdateTurn), rows)
    paid = {"function": "verifier", "version": "1", "config_hash": "c", "reason": "", "read_ids": []}
    whole, span = (
        {"span_start": -1, "span_end": -1, "value": 1.0},
        {"span_start": 1, "span_end": 3, "value": None},
    )
    for place, extent in enumerate((whole, span)):
        journal.execute(insert(Reward).values(id=place + 1, turn_id=said[0].id, **paid, **extent))
    made = p.publish(journal, update_id=update_id, adapter_path="/a", adapter_hash="h", metrics={"loss": 0.1})

    top, root = p.lineage(journal, made.id)
    assert (top.version, top.turns, root.version, root.update, root.turns) == (made, 2, first, None, 0)
    assert top.update is not None
    assert (top.update["id"], top.update["run_id"], top.update["step"]) == (update_id, "evolve", 4)
    assert (top.update["config"], top.update["metrics"], top.update["status"]) == (
        {"lr": 0.1},
        {"loss": 0.1},
        "done",
    )
    one, two = p.trained_on(journal, update_id)
    assert (one.id, one.episode, one.task, one.role) == (said[0].id, episode.id, "q1", "solver")
    assert (one.text, one.status) == (said[0].text, "ok") and two.text == said[1].text != one.text
    assert one.rewards == (
        {"function": "verifier", "version": "1", "value": 1.0, "span": None},
        {"function": "verifier", "version": "1", "value": None, "span": (1, 3)},
    )
    assert two.rewards == () and p.trained_on(journal, update_id, 1) == [one]
    assert {made.id} == p.updates(journal, "solver").keys()
    with pytest.raises(UserError, match="no update with id 99"):
        p.trained_on(journal, 99)


def test_distance_is_the_number_of_updates_between_two_versions(journal: Journal) -> None:
    """A tree: 0 - 1 - 2 - 3, 4 from 1, and 5 on another base."""
    v = [base(journal)]
    for step, parent in ((1, 0), (2, 1), (3, 2), (4, 1)):
        v.append(published(journal, step, v[parent].id))
    v.append(base(journal, base_hash="b1"))
    judge = base(journal, "judge")

    def far(a: int, b: int) -> int | None:
        return p.distance(journal, v[a].id, v[b].id)

    assert [far(0, 0), far(2, 3), far(3, 0), far(0, 3), far(3, 4), far(4, 3)] == [0, 1, 3, 3, 3, 3]
    assert far(5, 3) is None and p.distance(journal, v[0].id, judge.id) is None
    assert p.distance(journal, v[0].id, 10**9) is None


def test_a_policy_that_plays_bare_has_versions_too(journal: Journal) -> None:
    registered = version(journal)
    assert (
        p.find(journal, "base").id == registered and base(journal, "base", base_hash="hash").id == registered
    )
    assert column(journal, Policy.name) == ["base"]


def test_moves_keep_their_meaning_in_another_journal(
    journal: Journal, database: Callable[[], str], tmp_path: Path
) -> None:
    drive(journal, "evolve")
    first = base(journal)
    made = published(journal, 1, first.id, "evolve")
    p.move_head(journal, "solver", "live", made.id, by="gate", reason="better")
    export(journal, None, tmp_path / "all.jsonl")
    with Journal.open(database()) as other:
        version(other)  # so that ids and numbers differ
        other.ids.block("policy_versions", 5)
        import_(other, tmp_path / "all.jsonl")
        here = p.find(other, "solver", 1)
        assert here.id != made.id
        assert [(m.head, m.target, m.by) for m in p.history(other, "solver")] == [
            ("live", here.id, "gate"),
            ("training", here.id, "update"),
        ]
        assert {found and found.id for found in p.heads(other, "solver").values()} == {here.id}
        assert p.previous(other, "solver").number == 0
        assert [step.version.label for step in p.lineage(other, here.id)] == ["solver@1", "solver@0"]

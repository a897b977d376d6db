"""Evolutions that are killed, starved and misled: what the journal says after is what it says undisturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evolve_support import SAMPLES, Fault, calls, journaled, model, nursery, small

EVENT = "sparring.memory.run:RunHandle.event"
CLOSE = "sparring.graphs.player:Player._close"
TEAM = "sparring.training.team"
TRAINER = "sparring.training.trainer:PolicyTrainer"

STAGES = {
    "evaluation, a turn committed, its episode open": Fault(CLOSE, nth=2),
    "tasks chosen, nothing played": Fault(EVENT, "after", given="tasks"),
    "play, answered and not committed": Fault("sparring.memory.episode:EpisodeHandle._turn_rows"),
    "play, the second episode's turns committed": Fault(CLOSE, nth=1),
    "played, not paid": Fault("sparring.training.feed:derive"),
    "half of it paid": Fault("sparring.training.rewards.derive:_append", "after"),
    "paid, no update opened": Fault(f"{TEAM}:open_update"),
    "the update opened": Fault(f"{TEAM}:open_update", "after"),
    "old log-probabilities made, not journaled": Fault("sparring.training.learner:Learner.prepare", "after"),
    "prepared": Fault(f"{TEAM}:Team.prepare", "after"),
    "training, the first micro-batch": Fault(f"{TRAINER}._forward", "after"),
    "training, after an optimizer step": Fault(f"{TRAINER}._clip_grad_norm", nth=2),
    "optimizer saved, adapter not": Fault("sparring.training.learner:save_optimizer", "after"),
    "adapter written and not in its place": Fault("sparring.training.weights:_swap", nth=2),
    "adapter saved, not published": Fault(f"{TEAM}:publish"),
    "in the middle of the transaction that publishes": Fault("sparring.memory.policies:set_head"),
    "published": Fault(f"{TEAM}:publish", "after"),
    "everything but the step's row": Fault(EVENT, given="step"),
    "the step's row written": Fault(EVENT, "after", given="step"),
    "between two evaluated tasks": Fault(CLOSE, nth=2),
    "evaluated, no row of it": Fault(EVENT, given="evaluation"),
    "the gate, candidate measured, live not": Fault(CLOSE, nth=2),
    "the gate decided, no row of it": Fault(EVENT, given="gate"),
    "the gate's row written, the head not moved": Fault(EVENT, "after", given="gate"),
    "the head moved": Fault("sparring.training.judging:move_head", "after"),
    "the second step, published": Fault(f"{TEAM}:publish", "after"),
}
"""In the order in which a life after the last kill comes to them."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The configuration, and the journal of a run of it that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config, memory = small(folder, model()), folder / "journal.db"
    life = nursery().live(config, memory)
    assert (life.status, life.error) == (0, None)
    return config, memory


def same(memory: Path, reference: Path, kills: int) -> None:
    """Nothing lost, nothing twice, and the same weights to the bit."""
    ours, theirs = journaled(memory), journaled(reference)
    for name, expected in theirs.items():
        assert ours[name] == expected, name
    numbers = [number for number, _, _ in ours["versions"]["solver"]]
    assert [parent for _, parent, _ in ours["versions"]["solver"]] == [None, *numbers[:-1]], "a chain"
    assert len({(turn[0], turn[1]) for turn in ours["turns"]}) == len(ours["turns"]), "one attempt a key"
    spent, needed = calls(memory), calls(reference)
    assert spent.keys() == needed.keys(), "other turns were asked for"
    assert sum(spent.values()) <= sum(needed.values()) + kills * SAMPLES, "committed turns were played again"


def test_the_undisturbed_run_does_all_there_is_to_do(undisturbed: Any) -> None:
    said = journaled(undisturbed[1])
    assert [u[:4] for u in said["updates"]] == [("solver", step, "done", step) for step in range(3)]
    assert len({digest for _, _, digest in said["versions"]["solver"]}) == 4, "each update moved the weights"
    assert said["heads"] == {"solver": {"live": 3, "training": 3}}
    assert {f"{kind} {n}" for kind in ("evaluation", "gate solver/") for n in ()} <= said["events"].keys()
    assert [said["events"][f"gate solver/{n}"]["verdict"] for n in (1, 2, 3)] == ["promote"] * 3
    assert [said["events"][f"gate solver/{n}"]["live"] for n in (1, 2, 3)] == [0, 1, 2]
    assert all(f"evaluation {n}" in said["events"] for n in range(4))
    assert set(calls(undisturbed[1]).values()) == {1}
    per_step = [sum(taken[0][1] == step for taken in said["taken"]) for step in range(3)]
    assert per_step == [2 * SAMPLES] * 3


def test_killed_in_every_stage_of_one_run(undisturbed: Any, tmp_path: Path) -> None:
    config, reference = undisturbed
    memory = tmp_path / "journal.db"
    for stage, fault in STAGES.items():
        life = nursery().live(config, memory, [fault])
        assert life.killed, f"{stage}: the run ended with {life.status} {life.error} before it came there"
    assert nursery().live(config, memory).status == 0
    same(memory, reference, len(STAGES))


def test_a_finished_run_says_what_it_is_and_does_nothing(undisturbed: Any) -> None:
    config, memory = undisturbed
    before, asked = journaled(memory), calls(memory)
    life = nursery().live(config, memory)
    assert (life.status, life.said) == (0, [])
    assert (journaled(memory), calls(memory)) == (before, asked)

"""Evolutions that are killed, starved and misled: what the journal says after is what it says undisturbed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from evolve_support import (
    SAMPLES,
    Fault,
    Life,
    calls,
    difference,
    journaled,
    learner,
    model,
    nursery,
    save_tasks,
    small,
)
from fault_server import FaultServers, failed

from sparring.errors import CapabilityError, UserError
from sparring.memory.journal import Journal
from sparring.memory.versions import journal_names
from sparring.training.config import load_config
from sparring.training.evolve import evolve
from sparring.training.preflight import preflight

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
    """Nothing lost, nothing twice, the same words, decisions and weights."""
    ours, theirs = journaled(memory), journaled(reference)
    assert difference(ours, theirs) is None
    numbers = [number for number, _, _ in ours["versions"]["solver"]]
    assert [parent for _, parent, _ in ours["versions"]["solver"]] == [None, *numbers[:-1]], "a chain"
    assert len({(turn[0], turn[1]) for turn in ours["turns"]}) == len(ours["turns"]), "one attempt a key"
    spent, needed = calls(memory), calls(reference)
    assert spent.keys() == needed.keys(), "other turns were asked for"
    assert sum(spent.values()) <= sum(needed.values()) + kills * SAMPLES, "committed turns were played again"


def test_the_undisturbed_run_does_all_there_is_to_do(undisturbed: Any) -> None:
    said = journaled(undisturbed[1])
    assert [u[:4] for u in said["updates"]] == [("solver", step, "done", step) for step in range(3)]
    weights = [held for _, _, held in said["versions"]["solver"]]
    assert all(difference(*pair) for pair in pairwise(weights)), "each update moved the weights"
    assert said["heads"] == {"solver": {"live": 3, "training": 3}}
    assert [said["events"][f"gate solver/{n}"]["verdict"] for n in (1, 2, 3)] == ["promote"] * 3
    assert [said["events"][f"gate solver/{n}"]["live"] for n in (1, 2, 3)] == [0, 1, 2]
    assert all(f"evaluation {n}" in said["events"] for n in range(4))
    assert set(calls(undisturbed[1]).values()) == {1}
    per_step = [sum(taken[0][1] == step for taken in said["taken"]) for step in range(3)]
    assert per_step == [2 * SAMPLES] * 3


@pytest.mark.timeout(400)
def test_killed_in_every_stage_of_one_run(undisturbed: Any, tmp_path: Path) -> None:
    config, reference = undisturbed
    memory = tmp_path / "journal.db"
    for stage, fault in STAGES.items():
        life = nursery().live(config, memory, [fault])
        assert life.killed, f"{stage}: the run ended with {life.status} {life.error} before it came there"
    assert nursery().live(config, memory).status == 0
    same(memory, reference, len(STAGES))


KILLS = 30


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_random_instants(undisturbed: Any, tmp_path: Path) -> None:
    """Uniform over the time that a whole life takes, several runs after one another."""
    config, reference = undisturbed
    rng, kills, lives = random.Random(1), 0, 0
    while kills < KILLS:
        memory, killed = tmp_path / f"{lives}.db", 0
        while True:
            started = time.monotonic()
            pid = nursery().start(config, memory)
            timer = threading.Timer(rng.uniform(0.0, 3.0), os.kill, (pid, signal.SIGKILL))
            timer.start()
            life = nursery().end(pid)
            timer.cancel()
            timer.join()
            if not life.killed:
                break
            killed += 1
        assert (life.status, life.error) == (0, None), started
        same(memory, reference, killed)
        kills, lives = kills + killed, lives + 1


def two_policies(folder: Path) -> dict[str, Any]:
    """Two speakers of a debate, each with a policy of its own on the base they share."""
    config = small(folder, model())
    return config | {
        "protocol": "debate",
        "options": {"agents": 2, "rounds": 1, "answer": "text"},
        "policies": {"ann": learner("solver.0"), "bob": learner("solver.1")},
        "evaluate": None,
        "gate": config["gate"] | {"options": {}},
        "steps": 2,
        "play": {"tasks": 3},
    }


BETWEEN_TWO = {
    "one update opened": Fault(f"{TEAM}:open_update", "after"),
    "both prepared": Fault(f"{TEAM}:Team.train"),
    "one published": Fault(f"{TEAM}:publish", "after"),
    "the other half saved": Fault("sparring.training.learner:save_optimizer", "after"),
    "one gated": Fault(EVENT, "after", given="gate"),
    "one promoted": Fault("sparring.training.judging:move_head", "after"),
    "the other promoted": Fault("sparring.training.judging:move_head", "after"),
}


@pytest.mark.timeout(400)
def test_two_policies_killed_between_them(tmp_path: Path) -> None:
    config = two_policies(tmp_path)
    reference, memory = tmp_path / "undisturbed.db", tmp_path / "journal.db"
    life = nursery().live(config, reference)
    assert (life.status, life.error) == (0, None)
    for stage, fault in BETWEEN_TWO.items():
        assert nursery().live(config, memory, [fault]).killed, stage
    assert nursery().live(config, memory).status == 0
    ours, theirs = journaled(memory), journaled(reference)
    assert difference(ours, theirs) is None
    outcomes = sorted(update[2] for update in ours["updates"])
    assert outcomes in (["done"] * 4, ["done"] * 3 + ["empty"]), "three speeches may all be worth the same"


def test_a_finished_run_says_what_it_is_and_does_nothing(undisturbed: Any) -> None:
    config, memory = undisturbed
    before, asked = journaled(memory), calls(memory)
    life = nursery().live(config, memory)
    assert (life.status, life.said) == (0, [])
    assert (journaled(memory), calls(memory)) == (before, asked)


# --- faults ---------------------------------------------------------------------------------------------


def told_stopped(life: Life) -> str:
    [stopped] = life.told("stopped")
    return str(stopped["why"])


@pytest.mark.parametrize(
    ("train", "fault", "why"),
    [
        ({}, Fault(f"{TRAINER}._forward", "after", nth=6, what="nan"), "the loss is nan"),
        ({"max_norm": 1e-6}, None, "the gradient norm is"),
        ({"max_kl": 1e-9}, None, "the policy moved by a KL of"),
        ({"learning_rate": 1e30}, None, "its last step moved the policy by a KL of"),
    ],
    ids=["nan", "gradient", "divergence", "last step"],
)
def test_an_update_that_goes_wrong_stops_and_says_why(
    tmp_path: Path, train: dict[str, Any], fault: Fault | None, why: str
) -> None:
    settings = {"learning_rate": 5e-3, "tokens": 64, "minibatches": 1 if "learning_rate" in train else 2}
    policies = {"solver": learner(train=settings | train)}
    config = small(tmp_path, model(), policies=policies, gate=None, evaluate=None)
    memory = tmp_path / "journal.db"
    life = nursery().live(config, memory, [fault] if fault else [])
    assert life.status == 1, life.error
    assert why in told_stopped(life)
    said = journaled(memory)
    *good, last = said["updates"]
    assert (last[2], why in last[4]["why"]) == ("stopped", True)
    assert said["status"] == "stopped"
    assert said["heads"]["solver"] == {"live": 0, "training": len(good)}, "the last good version stays"
    spent = calls(memory)
    again = nursery().live(config, memory)
    assert (again.status, again.said) == (1, []), "it is over, and says so"
    assert (journaled(memory), calls(memory)) == (said, spent)


@pytest.mark.parametrize("at", ["stop", "event"])
def test_a_stopped_update_stays_stopped_after_a_kill(tmp_path: Path, at: str) -> None:
    """Killed between the update's row and the step's, it is not trained again, nor the next one."""
    policies = {"solver": learner(train={"max_norm": 1e-6})}
    config = small(tmp_path, model(), policies=policies, gate=None, evaluate=None)
    memory = tmp_path / "journal.db"
    fault = {"stop": Fault(f"{TEAM}:stop_update", "after"), "event": Fault(EVENT, given="step")}[at]
    assert nursery().live(config, memory, [fault]).killed
    life = nursery().live(config, memory)
    assert life.status == 1 and "the gradient norm is" in told_stopped(life)
    said = journaled(memory)
    assert [u[2] for u in said["updates"]] == ["stopped"]
    assert "the gradient norm is" in said["events"]["step 0"]["stopped"]["solver"]


def adapter_of(memory: Path, update: int) -> Path:
    [folder] = (memory.with_name(f"{memory.name}.policies") / "solver").glob(f"update-{update:06d}")
    return folder / "adapter_model.safetensors"


def test_the_command_line_says_why_and_exits_with_1(tmp_path: Path) -> None:
    policies = {"solver": learner(train={"max_norm": 1e-6})}
    config = small(tmp_path, model(), policies=policies, gate=None, evaluate=None, plots=str(tmp_path / "p"))
    life = nursery().command(config, tmp_path / "journal.db", tmp_path)
    assert life.status == 1
    assert "policy `solver`: the update of step 1 was stopped: the gradient norm is" in str(life.error)


def test_an_altered_adapter_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    config, memory = small(tmp_path, model(), gate=None, evaluate=None), tmp_path / "journal.db"
    assert nursery().live(config, memory, [Fault(EVENT, "after", given="step")]).killed
    file = adapter_of(memory, 1)
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    before, spent = journaled(memory, weights=False), calls(memory)
    life = nursery().live(config, memory)
    assert life.status == 2 and life.error is not None
    assert life.error.startswith("UserError: policy solver@1: ") and "hash" in life.error
    assert (journaled(memory, weights=False), calls(memory)) == (before, spent)
    file.write_bytes(whole)
    assert nursery().live(config, memory).status == 0


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the end of the disk: the adapter is larger than it."""
    policies = {"solver": learner(lora={"rank": 1200, "alpha": 1200})}
    config = small(tmp_path, model(), policies=policies, gate=None, evaluate=None, steps=2)
    memory = tmp_path / "journal.db"
    life = nursery().live(config, memory, [Fault(f"{TEAM}:Learner.save", nth=2, what="full")])
    assert life.status == 2 and life.error is not None
    assert "weights cannot be written to" in life.error and "make room there" in life.error
    said, spent = journaled(memory), calls(memory)
    assert said["heads"]["solver"] == {"live": 0, "training": 1} and said["status"] == "failed"
    assert [u[2] for u in said["updates"]] == ["done", "open"]
    assert [p.name for p in adapter_of(memory, 1).parent.parent.glob(".*")] == [], "nothing half is left"
    assert nursery().live(config, memory).status == 0
    assert journaled(memory)["heads"]["solver"]["training"] == 2
    assert calls(memory) == spent, "the second step was played already"


@pytest.mark.parametrize("at", ["training", "playing"])
def test_ctrl_c_ends_soon_and_loses_nothing(undisturbed: Any, tmp_path: Path, at: str) -> None:
    config, reference = undisturbed
    memory = tmp_path / "journal.db"
    where = {"training": f"{TRAINER}._forward", "playing": "sparring.memory.episode:EpisodeHandle._turn_rows"}
    life = nursery().live(config, memory, [Fault(where[at], "after", nth=6, what="interrupt")])
    assert life.status == 130
    assert journaled(memory)["status"] == "interrupted"
    assert nursery().live(config, memory).status == 0
    same(memory, reference, 1)


# --- what is refused before any work --------------------------------------------------------------------


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no token ids": ({"engine": "scripted:hash?ids=off"}, "gives no token ids and no log-probabilities"),
    "no log-probabilities": ({"engine": "langchain:fake:model"}, "langchain"),
    "top_p": ({"sampling": {"top_p": 0.9}}, "seat `solver` samples with `top_p: 0.9`"),
    "greedy": ({"sampling": {"solver.temperature": 0}}, "samples with `temperature: 0`"),
    "two options": ({"sampling": {"top_k": 5, "min_p": 0.1}}, "`top_k: 5`, `min_p: 0.1`"),
    "no such role": ({"policies": {"solver": learner("solvr")}}, "unknown role of protocol `sample` `solvr`"),
    "a seat twice": (
        {"policies": {"a": learner(), "b": learner()}},
        "role `solver` is claimed by policy `b` and by policy `a`",
    ),
    "a seat that an engine has": (
        {"roles": {"solver": "scripted:hash"}},
        "role `solver` is claimed by policy `solver` and by `scripted:hash`",
    ),
    "a name that is a path": ({"policies": {"../solver": learner()}}, "policy `../solver`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(tmp_path: Path, case: str) -> None:
    parts, message = REFUSED[case]
    memory = tmp_path / "journal.db"
    config = small(tmp_path, model(), evaluate=None, gate=None, steps=1)
    life = nursery().live(config | parts, memory)
    assert (life.status, message in str(life.error)) == (2, True), life.error
    with Journal.open(str(memory)) as journal:
        assert journal.runs() == [] and journal_names(journal) == []
    assert calls(memory) == {}


def test_a_server_that_could_not_play_what_was_learnt_is_refused(tmp_path: Path) -> None:
    listed = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}
    servers = FaultServers()
    server = servers(failed(404), models=(200, {}, listed))
    config = small(tmp_path, model(), evaluate=None, gate=None, steps=1)
    config["engine"] = f"{server.url}#m?base={model().split('?')[0]}"
    with pytest.raises(CapabilityError, match=r"policy `solver` learns an adapter and .* serves none"):
        evolve(config, tmp_path / "journal.db")
    servers.close()


def test_the_name_of_a_refused_run_is_free(tmp_path: Path) -> None:
    memory = tmp_path / "journal.db"
    config = small(tmp_path, model(), evaluate=None, gate=None, steps=1)
    assert nursery().live(config | {"sampling": {"top_p": 0.5}}, memory).status == 2
    assert nursery().live(config, memory).status == 0


def test_what_measures_nobody_who_learns_is_refused(tmp_path: Path) -> None:
    """Else the base would be measured, again and again."""
    evaluate = {"tasks": save_tasks(tmp_path / "held.jsonl", 20, 2), "protocol": "duel"}
    wrong = small(tmp_path, model(), gate=None, evaluate=evaluate | {"protocol": "step_check"})
    with pytest.raises(UserError, match=r"`evaluate`: in protocol `step_check` nobody plays .* is solver"):
        preflight(load_config(wrong))
    preflight(load_config(small(tmp_path, model(), gate=None, evaluate=evaluate)))


def test_the_gate_shares_its_tasks_with_nothing(tmp_path: Path) -> None:
    config = small(tmp_path, model())
    shared = save_tasks(tmp_path / "shared.jsonl", 3, 4)
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_text('{"id": "other", "question": "21+21=", "answer": 0}\n')
    with pytest.raises(UserError, match=r"`gate.tasks` shares task `t3` and 2 more with `tasks`"):
        preflight(load_config(config | {"gate": config["gate"] | {"tasks": shared}}))
    with pytest.raises(UserError, match=r"shares task `other` with `evaluate.tasks`"):
        preflight(load_config(config | {"gate": config["gate"] | {"tasks": str(renamed)}}))
    both = config | {"evaluate": {"tasks": config["tasks"]}}
    assert preflight(load_config(both)).measures["evaluate"].tasks, "accuracy on what is trained is allowed"


def test_a_policy_begins_at_the_temperature_of_its_seats(tmp_path: Path) -> None:
    config = small(tmp_path, model())
    plan = preflight(load_config(config | {"sampling": {"temperature": 0.5, "solver.temperature": 0.8}}))
    assert plan.temperatures == {"solver": 0.8}
    sft = {"solver": learner(objective="sft", train={})}
    greedy = preflight(load_config(config | {"sampling": {"temperature": 0.0}, "policies": sft}))
    assert greedy.temperatures == {"solver": 0.0}, "supervised data may be greedy"

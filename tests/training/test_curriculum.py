"""Stages of a curriculum, the shuffled control, and configurations that extend others."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring.errors import UserError
from sparring.memory.records import TaskRecord
from sparring.training.config import ExploreConfig, PlayConfig, load_config
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, TurnRow
from sparring.training.schedule import adapt_temperature, choose, open_stages

TASKS = [TaskRecord(f"{stage}/{n}", "?", "1", meta={"stage": stage}) for stage in range(3) for n in range(4)]


def known(*means: float) -> dict[str, float]:
    return {f"{stage}/{n}": mean for stage, mean in enumerate(means) for n in range(4)}


def test_a_stage_opens_when_the_one_before_is_learned() -> None:
    assert open_stages(TASKS, {}, 0.8) == 0
    assert open_stages(TASKS, known(0.79), 0.8) == 0
    assert open_stages(TASKS, known(0.8), 0.8) == 1
    assert open_stages(TASKS, known(1.0, 0.8), 0.8) == 2
    assert open_stages(TASKS, known(1.0, 1.0, 1.0), 0.8) == 2
    assert open_stages(TASKS, known(0.5, 1.0), 0.8) == 0, "a later stage does not make up for an earlier one"


def test_a_stage_of_which_little_was_played_is_not_learned() -> None:
    assert open_stages(TASKS, {"0/0": 1.0}, 0.8) == 0
    assert open_stages(TASKS, {"0/0": 1.0, "0/1": 1.0}, 0.8) == 1


def test_tasks_of_closed_stages_are_not_chosen() -> None:
    config = PlayConfig(tasks=12, advance=0.8)
    assert {task[0] for task, _ in choose(TASKS, {}, config, seed=0, step=0)} == {"0"}
    assert {task[0] for task, _ in choose(TASKS, known(0.9), config, seed=0, step=0)} == {"0", "1"}
    everything = choose(TASKS, {}, PlayConfig(tasks=12), seed=0, step=0)
    assert len(everything) == 12, "without `advance` stages mean nothing"


def test_a_policy_that_is_sure_of_its_mistakes_is_sampled_hotter() -> None:
    config = ExploreConfig(informative=0.5, rate=0.4, low=0.7, high=1.5)
    sure, random = {"informative": 0.0, "entropy": 0.2}, {"informative": 0.0, "entropy": 4.0}
    assert adapt_temperature(1.0, sure, config) == pytest.approx(1.2214, abs=1e-4)  # exp(0.4 * 0.5)
    assert adapt_temperature(1.0, random, config) == 1.0, "heat does not help who solves nothing by chance"
    assert adapt_temperature(1.0, {"informative": 1.0, "entropy": 4.0}, config) < 1, "colder may always be"
    assert adapt_temperature(1.4, sure, config) == 1.5
    assert adapt_temperature(0.75, {"informative": 1.0}, config) == 0.7
    assert adapt_temperature(1.1, {"informative": None}, config) == 1.1, "a step that showed nothing"
    assert adapt_temperature(1.0, random, config.model_copy(update={"entropy": None})) > 1


def turn(number: int, answer: str | None) -> TurnRow:
    parsed = None if answer is None else {"answer": answer}
    status = "ok" if answer is not None else "timeout"
    return TurnRow(number, f"sample/{number}", 0, True, "solver", "p", 1, status, answer, parsed, 3)


def episode(name: str, answers: list[str | None]) -> EpisodeRow:
    turns = tuple(turn(number, answer) for number, answer in enumerate(answers))
    about = {"run": "r", "protocol": "sample", "status": "done", "outcome": None}
    task = {"task": "t", "question": "?", "answer": "1", "check": "math", "meta": None}
    return EpisodeRow(id=name, number=1, turns=turns, events=(), scores=(), **about, **task)


def test_a_shuffled_reward_pays_as_much_to_other_turns() -> None:
    answers: list[str | None] = ["1", "2", "2", "2", None, "2", "2", "2"]
    honest, shuffled = make_reward("verifier"), make_reward("shuffled")
    places = []
    for name in "abcdefgh":
        paid = {reward.turn_id: reward.value for reward in shuffled(episode(name, answers))}
        real = {reward.turn_id: reward.value for reward in honest(episode(name, answers))}
        assert paid[4] is None and real[4] is None, "the world's fault stays NULL"
        assert sorted(v for v in paid.values() if v is not None) == [0.0] * 6 + [1.0]
        assert paid == {r.turn_id: r.value for r in shuffled(episode(name, answers))}, "it is a pure function"
        places.append(next(place for place, value in paid.items() if value == 1))
    assert len(set(places)) > 2, "who is paid does not depend on the answer"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


BASE = """
run: base
tasks: tasks.jsonl
steps: 3
sampling: {temperature: 0.9, max_tokens: 8}
policies: {solver: {roles: [solver], loss: {name: grpo, beta: 0.1}}}
"""


def test_a_configuration_extends_another(tmp_path: Path) -> None:
    write(tmp_path / "shared", "tasks.jsonl", "")
    write(tmp_path / "shared", "base.yaml", BASE)
    own = "extends: shared/base.yaml\nrun: own\nsampling: {max_tokens: 4}\n"
    config = load_config(write(tmp_path, "own.yaml", own))
    assert (config.run, config.steps) == ("own", 3)
    assert config.sampling == {"temperature": 0.9, "max_tokens": 4}
    assert config.policies["solver"].loss.options == {"beta": 0.1}
    assert config.tasks == str(tmp_path / "shared" / "tasks.jsonl"), "files lie beside who names them"


def test_a_circle_of_configurations_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "extends: b.yaml")
    with pytest.raises(UserError, match="none that extends this one"):
        load_config(write(tmp_path, "b.yaml", "extends: a.yaml"))
    with pytest.raises(UserError, match=r"missing.yaml"):
        load_config(write(tmp_path, "c.yaml", "extends: missing.yaml"))

"""Offline learning: what an update is made of, what it is measured against, and where it begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from game_support import Signs
from journal_support import agent, drive, episode, says
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from sqlalchemy import select
from transformers import AutoModelForCausalLM

from sparring.agents.engines.registry import EnginePool
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, find, register, versions
from sparring.memory.records import TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.samples import TrainingTurn, training_turns
from sparring.memory.schema import Turn
from sparring.memory.updates import find_update, update_turns
from sparring.training.config import load_config
from sparring.training.experience import Source, experience
from sparring.training.losses import LossInputs, Totals, make_loss
from sparring.training.objectives import Asked
from sparring.training.preference_data import rewarded_turns
from sparring.training.preference_data import samples as supervised_samples
from sparring.training.preflight import present
from sparring.training.rewards.base import RewardRef
from sparring.training.rewards.derive import derive
from sparring.training.team import Job, Team, assemble

REF = RewardRef.of(Signs())
RATE, EPOCHS = 3e-3, 2


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama on disk."""
    from evolve_support import save_model

    made = tmp_path_factory.mktemp("model")
    save_model(made)
    return made


def words(seed: int, count: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.int32)


def spoke(worth: str | None, seed: int) -> Any:
    """A played turn; its behaviour log-probabilities are made up, nothing may depend on them."""
    said, made_up = words(seed, 3 + seed % 3), np.full(3 + seed % 3, -4.0, np.float32)
    return says(worth, prompt_ids=words(seed + 500, 6), completion_ids=said, logprobs=made_up)


def given(seed: int) -> Any:
    made = says("x", prompt_ids=words(seed + 900, 5), completion_ids=words(seed + 1000, 4), logprobs=None)
    made.logprob_kind, made.engine = "given", "teacher"
    return made


@dataclass
class Lab:
    """A run whose games and lessons a test writes by hand, and the team that learns from them."""

    folder: Path
    journal: Journal
    pool: EnginePool
    runs: list[RunHandle] = field(default_factory=list)
    count: int = 0

    async def team(self, run: str = "r", **policy: Any) -> Team:
        changes = {"train": {"learning_rate": RATE, "epochs": EPOCHS}, "loss": "spc", **policy}
        settings = {
            "run": run,
            "engine": f"{self.folder}?dtype=float32",
            "tasks": "demo",
            "steps": 9,
            "keep": 2,
            "policies": {
                "p": {
                    "roles": ["solver"],
                    "objective": "offline",
                    "reward": "game_support:Signs",
                    "lora": {"rank": 2, "alpha": 4},
                    **changes,
                }
            },
        }
        config = load_config(settings)
        members = await assemble(config, self.journal, self.pool)
        self.runs.append(self.journal.drive(run, kind="evolve", protocol="sample", config={}, seed=0))
        return Team(config, self.runs[-1], members)

    async def play(self, run: RunHandle, worths: str, version: Version, iteration: int = 0) -> list[int]:
        """A turn for each letter: w(in), l(ose), anything else is NULL; the turns' ids."""
        turns = []
        for worth in worths:
            self.count += 1
            said = {"w": "win", "l": "lose"}.get(worth, "?")
            turns += await self._said(run, spoke(said, self.count), version, iteration)
        return turns

    async def teach(self, count: int, version: Version, run: str = "lessons") -> list[int]:
        """Demonstrations in a run of their own; the turns' ids."""
        turns = []
        with drive(self.journal, run) as handle:
            for _ in range(count):
                self.count += 1
                turns += await self._said(handle, given(self.count), version, 0)
        return turns

    async def _said(self, run: RunHandle, made: Any, version: Version, iteration: int) -> list[int]:
        task = TaskRecord(f"t{self.count}", "?", "4")
        speaker = {"solver/0": agent("solver", version.policy)}
        number = await episode(
            run, {"solver/0": made}, task=task, agents=speaker, versions={"solver/0": version.id},
            iteration=iteration,
        )  # fmt: skip
        derive(self.journal, Signs(), episodes=[number])
        return [row.id for row in self.journal.read(select(Turn.id).where(Turn.episode_number == number))]

    async def taught(self) -> Version:
        """A start version with an adapter: round 0, supervised alone."""
        team = await self.team("round0", data={"lessons": ("lessons0",)})
        await self.teach(4, find(self.journal, "p", 0), "lessons0")
        update(team, 0)
        start = find(self.journal, "p", "training")
        assert start.number == 1 and start.adapter_path is not None
        return start


@pytest.fixture
async def lab(folder: Path, journal: Journal) -> AsyncIterator[Lab]:
    async with EnginePool() as pool:
        made = Lab(folder, journal, pool)
        yield made
        for run in made.runs:
            run.release()


def opened(team: Team, step: int) -> Job:
    return team.open(team.members["p"], step, Source(runs=(team.run.id,), iteration=step))


def update(team: Team, step: int) -> tuple[Job, dict[str, float]]:
    job = opened(team, step)
    team.prepare(job)
    return job, team.train(job, None)


# --- by hand --------------------------------------------------------------------------------------------


def model(folder: Path, adapter: Path | None) -> Any:
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return base if adapter is None else PeftModel.from_pretrained(base, adapter, is_trainable=True).eval()


def logprobs(net: Any, turn: TrainingTurn) -> torch.Tensor:
    whole = torch.tensor(np.concatenate([turn.prompt_ids, turn.completion_ids])[None].astype(np.int64))
    logs = torch.log_softmax(net(whole).logits[0, len(turn.prompt_ids) - 1 : -1].float(), -1)
    return logs[torch.arange(len(logs)), whole[0, len(turn.prompt_ids) :]]


def spc(
    net: Any, turns: Sequence[TrainingTurn], worth: dict[int, float], old: dict[int, Any]
) -> torch.Tensor:
    """The tested loss of a whole step, one row at a time; a turn without a worth is a demonstration."""
    loss, taught = make_loss("spc"), [turn for turn in turns if turn.id not in worth]
    totals = Totals(len(worth), sum(len(t.completion_ids) for t in turns if t.id in worth), 9, len(taught))
    total = torch.zeros(())
    for turn in turns:
        now = logprobs(net, turn)[None]
        inputs = LossInputs(
            now,
            old.get(turn.id, torch.zeros_like(now[0]))[None],
            torch.full_like(now, worth.get(turn.id, 0.0)),
            torch.ones_like(now, dtype=torch.bool),
            supervised=torch.tensor([turn.id not in worth]),
        )
        total = total + loss(inputs, totals).loss
    return total


def by_hand(
    folder: Path, start: Version, turns: Sequence[TrainingTurn], worth: dict[int, float]
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights and losses of a training from the start version, with a fresh AdamW and one step an epoch."""
    net = model(folder, start.adapter_path)
    with torch.no_grad():
        old = {turn.id: logprobs(net, turn) for turn in turns if turn.id in worth}
    trained = [tensor for name, tensor in net.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = spc(net, turns, worth, old)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    return get_peft_model_state_dict(net, save_embedding_layers=False), losses


def furthest(version: Version, theirs: dict[str, torch.Tensor]) -> float:
    assert version.adapter_path is not None
    ours = load_file(version.adapter_path / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name].detach()).abs().max()) for name in ours)


# --- what an update is made of ---------------------------------------------------------------------------


async def test_as_many_lessons_as_played_turns_and_nothing_unpaid(lab: Lab) -> None:
    start = await lab.taught()
    lessons = await lab.teach(9, start)
    team = await lab.team(restart=True, data={"lessons": ["lessons"]})
    played = await lab.play(team.run, "wl?w?l", start)
    job = opened(team, 0)
    counts = {"played": 4, "taken": 4, "won": 2, "lessons": 4, "supervised": 4, "turns": 8}
    row = find_update(lab.journal, "r", "p", 0)
    assert row is not None and {name: row.config[name] for name in counts} == counts
    chosen = set(update_turns(lab.journal, row.id))
    assert chosen & set(played) == {played[n] for n in (0, 1, 3, 5)}, "NULL is masked"
    assert len(chosen & set(lessons)) == 4 and len(chosen) == 8
    for sample in job.material.data:
        assert sample.supervised == (sample.turn.id in lessons)
        assert sample.reward == (
            0.0 if sample.supervised else [1, -1, 0, 1, 0, -1][played.index(sample.turn.id)]
        )
        assert (sample.advantages == sample.reward).all() and sample.temperature == 1.0
    again = opened(team, 0)
    assert again.row.id == row.id, "begun again it is the same"
    assert [s.turn.id for s in again.material.data] == [s.turn.id for s in job.material.data]


@pytest.mark.parametrize(("per_turn", "lessons"), [(0.0, 0), (0.5, 2), (1.0, 4), (2.0, 6)])
async def test_lessons_per_turn(lab: Lab, per_turn: float, lessons: int) -> None:
    team = await lab.team(reference="base", data={"lessons": ["lessons"], "lessons_per_turn": per_turn})
    start = find(lab.journal, "p", 0)
    await lab.teach(6, start)
    await lab.play(team.run, "wlwl", start)
    assert opened(team, 0).row.config["lessons"] == lessons


async def test_the_lessons_are_drawn_by_seed(lab: Lab) -> None:
    """The same in every life, and not the first ones always."""
    team = await lab.team(reference="base", restart=True, data={"lessons": ["lessons"]})
    start = find(lab.journal, "p", 0)
    lessons = await lab.teach(12, start)
    await lab.play(team.run, "wl", start)
    objective = team.members["p"].objective
    asked = Asked({start.id: 0}, Source(runs=("r",), iteration=0))
    taken = [[t for t in objective.gather(asked).turns if t in lessons] for _ in range(3)]
    assert taken[0] == taken[1] == taken[2]
    drawn = set(taken[0])
    for worths in ("w", "l", "ww"):
        await lab.play(team.run, worths, start)
        drawn |= {t for t in objective.gather(asked).turns if t in lessons}
    assert len(drawn) > 4, "another draw with another number of games"


async def test_turns_of_all_versions_of_the_policy_and_of_no_other(lab: Lab) -> None:
    start = await lab.taught()
    team = await lab.team(restart=True, max_staleness=0)
    first, other = find(lab.journal, "p", 0), register(
        lab.journal, policy="q", base_hash=start.base_hash, base_spec=start.base_spec
    )  # fmt: skip
    ours = [*await lab.play(team.run, "wl", first), *await lab.play(team.run, "wl", start)]
    await lab.play(team.run, "wlwl", other)
    job, _ = update(team, 0)
    assert sorted(job.material.turns) == ours
    newest = find(lab.journal, "p", "training")
    ours += await lab.play(team.run, "lw", newest, iteration=1)
    assert sorted(opened(team, 1).material.turns) == ours


async def test_without_restart_an_update_is_its_own_steps(lab: Lab) -> None:
    team = await lab.team(reference="base", data={"lessons": ["lessons"]})
    start = find(lab.journal, "p", 0)
    lessons = await lab.teach(3, start)
    first = await lab.play(team.run, "wl", start)
    one, _ = update(team, 0)
    second = await lab.play(team.run, "lw", start, iteration=1)
    two, _ = update(team, 1)
    assert set(one.material.turns) - set(lessons) == set(first)
    assert set(two.material.turns) - set(lessons) == set(second)
    parts = [set(job.material.turns) & set(lessons) for job in (one, two)]
    assert [len(part) for part in parts] == [2, 1], "a lesson is learned once: one is left"
    assert [v.parent_id for v in versions(lab.journal, "p")] == [None, start.id, two.head.id]
    with pytest.raises(UserError, match="on the same turns"):
        team.open(team.members["p"], 2, Source(runs=("r",), iteration=1))


# --- what it is measured against --------------------------------------------------------------------------


async def test_the_loss_is_spcs_against_the_start_version(lab: Lab, folder: Path) -> None:
    """At the first step the ratio is 1: the loss is -mean(reward) + 0.15 of the supervised one."""
    start = await lab.taught()
    await lab.teach(4, start)
    train = {"learning_rate": RATE, "epochs": 1}
    team = await lab.team(restart=True, data={"lessons": ["lessons"]}, train=train)
    await lab.play(team.run, "wwlw", start)
    job, figures = update(team, 0)
    samples = job.material.data
    net = model(folder, start.adapter_path)
    with torch.no_grad():
        for sample in samples:
            now = logprobs(net, sample.turn).numpy()
            if not sample.supervised:
                np.testing.assert_allclose(sample.reference, now, atol=1e-5)
                np.testing.assert_array_equal(sample.old, sample.reference)
        taught = [float(logprobs(net, s.turn).mean()) for s in samples if s.supervised]
        turns, worth = [s.turn for s in samples], {s.turn.id: s.reward for s in samples if not s.supervised}
        old = {s.turn.id: torch.tensor(s.reference) for s in samples if not s.supervised}
        made = float(spc(net, turns, worth, old))
    assert len(taught) == 4 and sum(worth.values()) == 2
    assert figures["loss"] == pytest.approx(-2 / 4 - 0.15 * np.mean(taught), abs=1e-5)
    assert figures["loss"] == pytest.approx(made, abs=1e-5)
    assert figures["supervised_loss"] == pytest.approx(-np.mean(taught), abs=1e-5)
    assert figures["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert figures["kl_old_k3"] == pytest.approx(0.0, abs=1e-8)
    assert figures["kl_reference"] == pytest.approx(0.0, abs=1e-8)
    assert figures["kl"] > 1e-9, "after the step it has moved"


async def test_every_update_is_a_fresh_training_from_the_start_on_all_that_was_played(
    lab: Lab, folder: Path
) -> None:
    """Against a training by hand: PEFT, AdamW and plain forward passes; steps are one an epoch."""
    start = await lab.taught()
    await lab.teach(9, start)
    team = await lab.team(restart=True, data={"lessons": ["lessons"]})
    player, sizes = start, []
    for step, worths in enumerate(["wl", "lw?", "ww"]):
        await lab.play(team.run, worths, player, iteration=step)
        job, figures = update(team, step)
        turns = training_turns(lab.journal, turn_ids=job.material.turns)
        worth = {s.turn.id: s.reward for s in job.material.data if not s.supervised}
        weights, losses = by_hand(folder, start, turns, worth)
        player = find(lab.journal, "p", "training")
        assert furthest(player, weights) < 1e-5, "a step is 3e-3; what is left is rounding that Adam scales"
        assert figures["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
        assert (player.parent_id, job.head.id, job.row.from_version_id) == (start.id,) * 3
        assert player.number == start.number + step + 1, "the training head moves"
        sizes.append(len(worth))
    assert sizes == [2, 4, 6]
    assert start.adapter_path is not None and start.adapter_path.is_dir(), "pruning leaves the start alone"
    theirs = load_file(start.adapter_path / "adapter_model.safetensors")
    assert furthest(player, theirs) > 1e-4, "and it did move"


async def test_without_restart_it_goes_on_and_is_measured_against_the_start(lab: Lab, folder: Path) -> None:
    start = await lab.taught()
    team = await lab.team()
    await lab.play(team.run, "wl", start)
    update(team, 0)
    second = find(lab.journal, "p", "training")
    await lab.play(team.run, "wl", second, iteration=1)
    job, _ = update(team, 1)
    assert job.head.id == second.id
    net = model(folder, start.adapter_path)
    with torch.no_grad():
        for sample in job.material.data:
            np.testing.assert_allclose(sample.reference, logprobs(net, sample.turn).numpy(), atol=1e-5)


async def test_a_start_without_an_adapter_is_no_reference(lab: Lab, folder: Path) -> None:
    """Never the base with its adapter off, unless that is asked for by name."""
    team = await lab.team(restart=True)
    await lab.play(team.run, "wl", find(lab.journal, "p", 0))
    with pytest.raises(UserError, match=r"policy `p`: .*p@0 has no adapter.*or say `reference: base`"):
        update(team, 0)
    assert [v.number for v in versions(lab.journal, "p")] == [0]
    team = await lab.team("named", restart=True, reference="base")
    await lab.play(team.run, "wl", find(lab.journal, "p", 0))
    job, _ = update(team, 0)
    net = model(folder, None)
    with torch.no_grad():
        for sample in job.material.data:
            np.testing.assert_allclose(sample.reference, logprobs(net, sample.turn).numpy(), atol=1e-5)


async def test_a_named_version_is_the_reference(lab: Lab, folder: Path) -> None:
    start = await lab.taught()
    team = await lab.team()
    await lab.play(team.run, "wl", start)
    update(team, 0)
    team = await lab.team("other", restart=True, reference="1")
    newest = find(lab.journal, "p", "training")
    await lab.play(team.run, "wl", newest)
    job, figures = update(team, 0)
    assert job.head.id == newest.id
    net = model(folder, start.adapter_path)
    with torch.no_grad():
        for sample in job.material.data:
            np.testing.assert_allclose(sample.reference, logprobs(net, sample.turn).numpy(), atol=1e-5)
    assert abs(figures["ratio"] - 1) > 1e-6


async def test_supervised_alone_needs_no_reference_and_lowers_its_loss(lab: Lab) -> None:
    team = await lab.team("round0", data={"lessons": ["lessons"]}, train={"learning_rate": RATE, "epochs": 6})
    await lab.teach(4, find(lab.journal, "p", 0))
    job, figures = update(team, 0)
    assert figures["kl"] == 0.0 and "ratio" not in figures
    assert figures["loss"] == pytest.approx(0.15 * figures["supervised_loss"], rel=1e-5)
    assert all(sample.supervised and sample.reference is None for sample in job.material.data)


async def test_the_choice_does_not_depend_on_the_order_in_which_turns_came_in(
    folder: Path, database: Callable[[], str]
) -> None:
    """Another life of a run writes the same turns under other ids: the same ones are drawn, in one order."""
    drawn = []
    for order in (range(12), reversed(range(12))):
        async with EnginePool() as pool:
            with Journal.open(database()) as journal:
                lab = Lab(folder, journal, pool)
                team = await lab.team(reference="base", data={"most": 5, "lessons": ["lessons"]})
                start = find(journal, "p", 0)
                for number in order:
                    lab.count = number
                    await lab.play(team.run, "wl"[number % 2], start)
                    lab.count = number
                    await lab.teach(1, start)
                made = [(sample.task, sample.supervised) for sample in opened(team, 0).material.data]
                assert [(sample.task, sample.supervised) for sample in opened(team, 0).material.data] == made
                drawn.append(made)
                team.run.release()
    assert drawn[0] == drawn[1] and len(drawn[0]) == 10


# --- what else takes demonstrations ------------------------------------------------------------------------


async def test_a_policy_gradient_never_takes_what_was_given_and_sft_does(lab: Lab) -> None:
    team = await lab.team()
    start = find(lab.journal, "p", 0)
    played = await lab.play(team.run, "wl", start)
    scored = given(77)
    scored.logprobs, scored.parsed = np.full(4, -1.0, np.float32), {"answer": "win"}
    with drive(lab.journal, "lessons") as handle:
        lessons = await lab._said(handle, scored, start, 0)
    found = experience(lab.journal, "p", REF, {start.id: 0})
    assert sorted(found.turn_ids) == played
    assert found.left_out == {"log-probabilities are given": 1}
    assert experience(lab.journal, "p", REF, {start.id: 0}, limit=9).turn_ids == found.turn_ids
    rows = supervised_samples(rewarded_turns(lab.journal, "p", REF))
    assert lessons[0] in {turn for row in rows for turn in row.turn_ids}


async def test_accumulated_data_grows_by_as_much_each_round(lab: Lab) -> None:
    start = await lab.taught()
    team = await lab.team(restart=True, data={"most": 3})
    for step in range(3):
        await lab.play(team.run, "wlwlw", start, step)
        material = opened(team, step).material
        assert len(material.data) == 3 * (step + 1) and material.record["played"] == 5 * (step + 1)


async def test_a_balance_is_for_the_role_that_it_knows(lab: Lab) -> None:
    for roles in (["solver"], ["sneaky"], ["critic", "sneaky"]):
        with pytest.raises(
            UserError, match="policy `p`: `balance: critic` is for a policy that plays that role"
        ):
            await lab.team(roles=roles, data={"balance": "critic"})
    await lab.team(roles=["critic"], data={"balance": "critic"})


async def test_lessons_that_taught_somebody_else_are_refused(lab: Lab) -> None:
    team = await lab.team(reference="base", data={"lessons": ["lessons"]})
    start = find(lab.journal, "p", 0)
    other = register(lab.journal, policy="q", base_hash=start.base_hash, base_spec=start.base_spec)
    await lab.teach(3, other)
    with pytest.raises(UserError, match=r"policy `p`: it was a pupil in none of the `lessons` \(lessons\)"):
        present(team.config, lab.journal)
    await lab.teach(1, start)
    present(team.config, lab.journal)


async def test_restart_is_for_offline_learning(lab: Lab) -> None:
    with pytest.raises(UserError, match="policy `p`: `restart` is for objective `offline`"):
        await lab.team(objective="policy_gradient", restart=True)
    with pytest.raises(UserError, match="policy `p`, data"):
        await lab.team(data={"lesons": ["x"]})

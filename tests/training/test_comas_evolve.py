"""Several policies that learn together from one journal of discussions: own, shared, frozen ones."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from evolve_support import Fault, Life, difference, journaled, model, nursery, save_tasks
from sqlalchemy import select
from typer.testing import CliRunner

from sparring.cli import app
from sparring.cli import main as cli_main
from sparring.memory.journal import Journal
from sparring.memory.lineage import lineage
from sparring.memory.policies import find, versions
from sparring.memory.schema import Agent, Episode, PolicyVersion, Reward, Turn, Update, UpdateTurn
from sparring.training.console import readability
from sparring.training.story import read_story

RUN, STEPS, AGENTS, ROUNDS, TASKS = "comas", 2, 3, 2, 2
JUDGE = ["fine <score>1</score>", "fine <score>2</score>", "fine <score>3</score>", "no score"]
SAYS = [
    {"match": "^judge", "replies": JUDGE},
    {"match": "^review", "replies": ["all wrong"]},
    {"replies": ["one", "two"]},
]


def discussions(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two policies on one base solve and evaluate; a third agent is a script, as are all judges."""
    prompts = {
        "solver": "{% block solve %}{{ question }}{{ discussion | length }}{% endblock %}",
        "evaluator": "{% block evaluate %}review{{ solution }}{% endblock %}",
        "scorer": "{% block score %}judge{{ solution }}{% endblock %}",
    }
    for role, text in prompts.items():
        (folder / f"{role}.md").write_text(text)
    script = folder / "script.jsonl"
    script.write_text("".join(json.dumps(rule) + "\n" for rule in SAYS))
    options = {
        "agents": AGENTS,
        "rounds": ROUNDS,
        "answer": "text",
        "prompts": {role: str(folder / f"{role}.md") for role in prompts},
    }
    scripted = f"scripted:{script}"
    return {
        "run": RUN,
        "seed": 5,
        "protocol": "discuss",
        "options": options,
        "engine": model(),
        "roles": {"scorer": scripted, "solver.2": scripted, "evaluator.2": scripted},
        "sampling": {"max_tokens": 4, "temperature": 1.0},
        "tasks": save_tasks(folder / "train.jsonl", 0, 8),
        "play": {"tasks": TASKS},
        "policies": {name: policy(n) for n, name in enumerate(("ada", "bo"))},
        "steps": STEPS,
        "concurrency": 1,
        **changes,
    }


def probe(folder: Path) -> dict[str, Any]:
    """Labelled solutions that the judges are asked about after each step."""
    rows = [{"id": f"p{n}", "question": "?", "solution": f"{n}", "answer": "right"} for n in range(2)]
    (folder / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {role: str(folder / f"{role}.md") for role in ("evaluator", "scorer")}
    return {
        "protocol": "judge_check",
        "tasks": str(folder / "probe.jsonl"),
        "every": 1,
        "options": {"agents": AGENTS, "prompts": prompts},
    }


def policy(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "roles": [f"solver.{number}", f"evaluator.{number}"],
        "reward": {"name": "comas", "mask_truncated": False},  # this model never ends by itself
        "lora": {"rank": 2, "alpha": 4},
        "train": {"learning_rate": 5e-3, "minibatches": 2, "old": "recompute", "tokens": 64},
        **changes,
    }


def ended(life: Life) -> None:
    assert (life.status, life.error) == (0, None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("comas")
    config = discussions(folder, evaluate=probe(folder))
    ended(nursery().live(config, folder / "journal.db"))
    return config, folder / "journal.db"


def taken(memory: Path) -> dict[tuple[str, int], list[Any]]:
    """(policy, step) -> the turns of its update: whose they are, role, key, reward."""
    query = (
        select(Update.policy, Update.step, PolicyVersion.policy.label("said_by"), Agent.role, Turn.key)
        .add_columns(Reward.value)
        .join(UpdateTurn, UpdateTurn.update_id == Update.id)
        .join(Turn, Turn.id == UpdateTurn.turn_id)
        .join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
        .join(Agent, Agent.id == Turn.agent_id)
        .outerjoin(Reward, Reward.turn_id == Turn.id)
    )  # fmt: skip
    found = defaultdict(list)
    with Journal.open(str(memory)) as journal:
        for row in journal.read(query):
            found[row.policy, row.step].append(row)
    return dict(found)


def test_every_policy_learns_from_its_own_turns_in_every_role(undisturbed: Any) -> None:
    updates = taken(undisturbed[1])
    assert set(updates) == {(name, step) for name in ("ada", "bo") for step in range(STEPS)}
    for (name, _), rows in updates.items():
        assert {row.said_by for row in rows} == {name}
        assert {row.role for row in rows} == {"solver", "evaluator"}
        assert all(row.value is not None for row in rows)  # what a judge left unreadable teaches nobody
        assert 0 < len(rows) <= 2 * ROUNDS * TASKS


def test_adapters_move_apart_and_who_is_frozen_has_no_versions(undisturbed: Any) -> None:
    with Journal.open(str(undisturbed[1])) as journal:
        rows = journal.read(select(PolicyVersion.policy, PolicyVersion.number, PolicyVersion.adapter_hash))
        bases = {row.base_hash for row in journal.read(select(PolicyVersion.base_hash, PolicyVersion.policy))
                 if row.base_hash}  # fmt: skip
    learned = [row for row in rows if row.policy in ("ada", "bo")]
    assert sorted((row.policy, row.number) for row in learned) == [
        (name, number) for name in ("ada", "bo") for number in range(STEPS + 1)
    ]
    hashes = [row.adapter_hash for row in learned if row.number]
    assert len(set(hashes)) == len(hashes) == 2 * STEPS
    assert {row.number for row in rows if row.policy not in ("ada", "bo")} == {0} and len(bases) > 1


def test_judges_are_probed_at_every_step_each_by_its_own_version(undisturbed: Any) -> None:
    with Journal.open(str(undisturbed[1])) as journal:
        rows = journal.read(
            select(Episode.run_id, Turn.key, PolicyVersion.policy, PolicyVersion.number)
            .join(Turn, Turn.episode_number == Episode.number)
            .join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
            .where(Episode.run_id.startswith(f"{RUN}.evaluation/"))
        )
        points = read_story(journal, RUN).evaluations
    seen = {(row.key, row.policy, row.number) for row in rows if row.policy in ("ada", "bo")}
    assert seen == {
        (f"evaluate/{agent}", name, number)
        for agent, name in enumerate(("ada", "bo"))
        for number in range(STEPS + 1)
    }
    assert [point["step"] for point in points] == list(range(STEPS + 1))
    assert all({"judged", "right"} <= set(point["figures"]) for point in points)


def test_one_journal_pays_all_roles_once(undisturbed: Any) -> None:
    with Journal.open(str(undisturbed[1])) as journal:
        rows = journal.read(
            select(Turn.key, Turn.status, Reward.value)
            .join(Episode, Episode.number == Turn.episode_number)
            .outerjoin(Reward, Reward.turn_id == Turn.id)
            .where(Episode.run_id == RUN)
        )
    assert len(rows) == 3 * AGENTS * ROUNDS * TASKS * STEPS  # three roles, and no turn is paid twice
    for row in rows:
        if "/score/" in row.key:
            assert row.value == (0.0 if row.status == "ok" else -1.0)
    assert {row.value for row in rows if "/score/" not in row.key} >= {0.0, 0.5, 1.0, None}


KILLS = {
    "in play": Fault("sparring.graphs.player:Player._close", nth=2),
    "after one of two was published": Fault("sparring.training.team:publish", "after", nth=1),
    "before the second update of a step": Fault(
        "sparring.training.trainer:PolicyTrainer.training_step", nth=3
    ),
}


def test_killed_anywhere_it_comes_to_the_same(undisturbed: Any, tmp_path: Path) -> None:
    config, reference = undisturbed
    memory = tmp_path / "journal.db"
    for stage, fault in KILLS.items():
        life = nursery().live(config, memory, [fault])
        assert life.killed, f"{stage}: the run ended with {life.status} {life.error} before it came there"
    ended(nursery().live(config, memory))
    assert difference(journaled(memory, RUN), journaled(reference, RUN)) is None


def test_a_report_says_first_what_could_be_read_and_what_was_paid(
    undisturbed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: the words of each role that are whole and parsed, and the rewards of those who learn."""
    _, memory = undisturbed
    said = select(Agent.role, Turn.parsed).join(Agent, Agent.id == Turn.agent_id)
    said = said.join(Episode, Episode.number == Turn.episode_number).where(Episode.run_id == RUN)
    paid = select(Reward.value).join(Turn, Turn.id == Reward.turn_id)
    paid = paid.join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
    with Journal.open(str(memory)) as journal:
        roles = defaultdict(list)
        for role, parsed in journal.read(said):
            roles[role].append(parsed is not None)
        values = [row.value for row in journal.read(paid.where(PolicyVersion.policy.in_(("ada", "bo"))))]
    assert 0 < sum(roles["scorer"]) < len(roles["scorer"]) and None in values  # some of either
    read = ", ".join(f"{role} {sum(own) / len(own):.3f}" for role, own in sorted(roles.items()))
    share = sum(value is not None for value in values) / len(values)
    assert cli_main(["report", RUN, "--memory", str(memory)]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f"readable: {read}; rewards not NULL: {share:.3f}"


def test_one_policy_in_all_seats(tmp_path: Path) -> None:
    config = discussions(tmp_path, steps=1)
    config["policies"] = {"all": policy(0, roles=["solver", "evaluator"])}
    config["roles"] = {"scorer": config["roles"]["scorer"]}
    ended(nursery().live(config, tmp_path / "journal.db"))
    [rows] = taken(tmp_path / "journal.db").values()
    assert {row.said_by for row in rows} == {"all"}
    assert {row.key.split("/")[2] for row in rows} == {"0", "1", "2"}


def test_agents_on_bases_of_their_own(tmp_path: Path) -> None:
    """Two models of different depth discuss, and each learns on its own base from the same journal."""
    config = discussions(tmp_path)
    config["policies"]["bo"] = policy(1, base=model(layers=3))
    ended(nursery().live(config, tmp_path / "journal.db"))
    steps = {(policy, step) for policy, step in taken(tmp_path / "journal.db")}
    assert steps == {(name, step) for name in ("ada", "bo") for step in range(STEPS)}
    with Journal.open(str(tmp_path / "journal.db")) as journal:
        ada, bo = (versions(journal, name) for name in ("ada", "bo"))
        spoken = select(Turn.engine, PolicyVersion.policy).distinct()
        spoken = spoken.join(PolicyVersion, PolicyVersion.id == Turn.policy_version_id)
        engines = {row.policy: row.engine for row in journal.read(spoken)}
    assert len({version.base_hash for version in ada}) == len({version.base_hash for version in bo}) == 1
    assert ada[0].base_hash != bo[0].base_hash and engines["ada"] != engines["bo"]
    depths = [len(layers(version.adapter_path)) for version in (ada[-1], bo[-1])]
    assert depths == [2, 3]


def layers(adapter: Path | None) -> set[str]:
    """Numbers of the layers that an adapter holds weights for."""
    from safetensors.numpy import load_file

    assert adapter is not None
    keys = load_file(adapter / "adapter_model.safetensors")
    return {key.split(".layers.")[1].split(".")[0] for key in keys}


def test_an_agent_stays_frozen_at_a_version_of_its_own(undisturbed: Any, tmp_path: Path) -> None:
    """A policy that another run trains on speaks at the version it had, and nothing of it moves."""
    memory = tmp_path / "journal.db"
    first = discussions(tmp_path, steps=1)
    ended(nursery().live(first, memory))
    spec = "policy:bo@training"
    second = {**first, "run": "again", "policies": {"ada": policy(0)}}
    second["roles"] = first["roles"] | {"solver.1": spec, "evaluator.1": spec}
    ended(nursery().live(second, memory))
    with Journal.open(str(memory)) as journal:
        said = journal.read(
            select(PolicyVersion.policy, PolicyVersion.number, Turn.key)
            .join(Turn, Turn.policy_version_id == PolicyVersion.id)
            .where(PolicyVersion.policy == "bo", PolicyVersion.number == 1)
        )
        newest = max(row.number for row in journal.read(
            select(PolicyVersion.number).where(PolicyVersion.policy == "bo")))  # fmt: skip
    assert newest == 1 and {row.key.split("/")[1] for row in said} == {"solve", "evaluate"}


@pytest.mark.parametrize(
    ("judge", "monitor", "said"),
    [
        (["<score>3</score>"], {"monitor": "figure"}, "play/solver_reward 1 is above 0.95"),
        (["<score>1</score>"], {"monitor": "figure"}, "play/solver_reward 0 is below 0.05"),
        (["well"], {"monitor": "null_rewards"}, "nothing to learn from"),
    ],
)
def test_a_collapse_stops_the_run(
    tmp_path: Path, judge: list[str], monitor: dict[str, Any], said: str
) -> None:
    """Everybody approves, nobody does, nobody can be read: the two failures of the paper and ours."""
    config = discussions(tmp_path, monitors=[{**monitor, "patience": 1, "action": "stop"}])
    (tmp_path / "script.jsonl").write_text(json.dumps({"replies": judge}) + "\n")
    life = nursery().live(config, tmp_path / "journal.db")
    assert [numbers["step"] for numbers in life.told("step")] == [0]
    assert all(said in alarm["message"] for alarm in life.told("alarm"))
    assert {alarm["policy"] for alarm in life.told("alarm")} == {"ada", "bo"}
    with Journal.open(str(tmp_path / "journal.db")) as journal:
        assert journal.run_row(RUN).status == "stopped"
    life = nursery().live(config, tmp_path / "journal.db")  # and it stays stopped
    assert life.told("step") == []


def test_agents_begin_as_copies_of_one_and_grow_apart(undisturbed: Any, tmp_path: Path) -> None:
    memory = tmp_path / "journal.db"
    first = discussions(tmp_path, steps=1)
    ended(nursery().live(first, memory))
    begin = {"policies": {name: policy(n, begin="bo@training") for n, name in enumerate(("cy", "di"))}}
    second = {**first, **begin, "run": "again", "steps": 1}
    ended(nursery().live(second, memory))
    with Journal.open(str(memory)) as journal:
        story = read_story(journal, "again")
        assert readability(story).endswith("; begun as: cy bo@training, di bo@training")
        origin = find(journal, "bo", "training")
        for name in ("cy", "di"):
            zero, one = versions(journal, name)
            assert zero.parent_id == origin.id and zero.adapter_hash == origin.adapter_hash
            assert zero.adapter_path != origin.adapter_path and one.parent_id == zero.id
            line = [step.version.label for step in lineage(journal, one.id)]
            assert line == [f"{name}@1", f"{name}@0", "bo@1", "bo@0"]
            said = journal.read(select(Turn.id).where(Turn.policy_version_id == zero.id))
            assert len(said) == 2 * ROUNDS * TASKS
        assert one.adapter_hash != versions(journal, "cy")[1].adapter_hash
    ended(nursery().live({**second, "run": "on"}, memory))  # and goes on from where it is
    seats = ("scorer", "solver.1", "evaluator.1", "solver.2", "evaluator.2")
    frozen = dict.fromkeys(seats, first["roles"]["scorer"])
    for begin, message in (("ada@training", "began as `bo@1`, not as `ada@training`"), (None, "")):
        policies = {"cy": policy(0, begin=begin)}
        life = nursery().live(
            {**second, "run": f"other {begin}", "policies": policies, "roles": frozen}, memory
        )
        assert (life.status, message in str(life.error)) == (2 if message else 0, True), life.error


def test_begun_as_another_version_than_is_asked_for(undisturbed: Any, tmp_path: Path) -> None:
    """A number says which version; a head may have moved on since."""
    memory = tmp_path / "journal.db"
    ended(nursery().live(discussions(tmp_path, steps=1), memory))
    first = {**discussions(tmp_path, steps=1), "run": "again"}
    first["policies"] = {"cy": policy(0, begin="bo@1")}
    ended(nursery().live(first, memory))
    other = {**first, "run": "third", "policies": {"cy": policy(0, begin="bo@2")}}
    assert "began as `bo@1`, not as `bo@2`" in (nursery().live(other, memory).error or "")
    moved = {**first, "run": "third", "policies": {"cy": policy(0, begin="bo@training")}}
    ended(nursery().live(moved, memory))


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        ("nobody@1", "no policy `nobody`"),
        ("ada@0", "bare base"),
        ("ada@7", "no version 7"),
        ("ada@new", "write"),
    ],
)
def test_what_nobody_can_begin_as(undisturbed: Any, tmp_path: Path, begin: str, said: str) -> None:
    memory = tmp_path / "journal.db"
    shutil.copy(undisturbed[1], memory)
    config = discussions(tmp_path, run="next", policies={"cy": policy(0, begin=begin), "di": policy(1)})
    life = nursery().live(config, memory)
    assert (life.status, said in str(life.error)) == (2, True), life.error


def test_evolved_agents_are_measured_before_and_after(undisturbed: Any, tmp_path: Path) -> None:
    """The command: version 0 against the newest of each policy, and nothing is asked twice."""
    memory = tmp_path / "journal.db"
    shutil.copy(undisturbed[1], memory)
    shutil.copytree(f"{undisturbed[1]}.policies", f"{memory}.policies")
    tasks = save_tasks(tmp_path / "held.jsonl", 40, 3)
    words = ["policy", "measure", "ada", "bo", "--tasks", tasks, "--memory", str(memory)]
    words += ["--set", "answer=text", "--set", "votes=2", "--set", "max_tokens=3", "--set", "rounds=1"]
    said = CliRunner().invoke(app, [*words, "--json"])
    assert said.exit_code == 0, said.output
    rows = {row["setting"]: row for row in map(json.loads, said.stdout.splitlines())}
    assert list(rows) == ["single", "consistency", "conversation", "debate"]
    assert [row["calls"] for row in rows.values()] == [1, 2, 2, 2]
    assert all(row["before"]["n"] == row["after"]["n"] == 3 for row in rows.values())
    with Journal.open(str(memory)) as journal:
        asked = journal.read(
            select(PolicyVersion.policy, PolicyVersion.number, Episode.run_id)
            .join(Turn, Turn.policy_version_id == PolicyVersion.id)
            .join(Episode, Episode.number == Turn.episode_number)
            .where(Episode.run_id.startswith("settings/"))
        )
    for number in (0, STEPS):
        runs = {row.run_id for row in asked if row.number == number}
        assert {run.rpartition(".")[2] for run in runs} == {"0", "1", "conversation", "debate"}
        assert {row.policy for row in asked if row.number == number} == {"ada", "bo"}
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and "3 questions" in again.stdout and "conversation" in again.stdout
    with Journal.open(str(memory)) as journal:
        assert len(journal.read(select(Turn.id))) == len(journal.read(select(Turn.id).where(Turn.final)))
        counted = journal.read(select(Turn.id).join(Episode, Episode.number == Turn.episode_number)
                               .where(Episode.run_id.startswith("settings/")))  # fmt: skip
    assert len(counted) == len(asked)

"""A software engineer learns: a tiny model in a real shell, with real grades, from what it plays and not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "agents"), str(TESTS / "tools")]
from swe_tasks import task  # noqa: E402 - the paths first
from tf_support import SIZES, TEMPLATE  # noqa: E402 - the paths first

from sparring import cli  # noqa: E402 - the paths first
from sparring.errors import UserError  # noqa: E402 - the paths first
from sparring.graphs.protocols.software import MARKER  # noqa: E402 - the paths first
from sparring.memory.journal import Journal  # noqa: E402 - the paths first
from sparring.memory.policies import find  # noqa: E402 - the paths first
from sparring.memory.schema import Episode, Reward, Turn, Update, UpdateTurn  # noqa: E402 - the paths first
from sparring.tools.swe.instances import save_instances  # noqa: E402 - the paths first
from sparring.training.evolve import evolve  # noqa: E402 - the paths first

WORDS = (
    "<unk>",
    "well",
    "so",
    "\n````bash\nls\n````\n",
    "\n````bash\necho nothing > junk.py\n````\n",
    f"\n````bash\necho {MARKER}\n````\n",
)
"""All that the model can say: two of them make no command, one, or one too many."""
PROMPT = """{% block task %}issue{% endblock %}
{% block observation %}it printed {{ returncode }}{% endblock %}
{% block mistake %}again{% endblock %}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of six words, a prompt, and two instances."""
    place = tmp_path_factory.mktemp("tiny")
    vocabulary = {word: number for number, word in enumerate((*WORDS, "<|im_start|>", "<|im_end|>"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(place / "model")
    torch.manual_seed(3)
    marks = {"bos_token_id": 6, "eos_token_id": 7, "pad_token_id": 7, "vocab_size": len(vocabulary)}
    LlamaForCausalLM(LlamaConfig(**{**SIZES, **marks, "initializer_range": 0.02})).save_pretrained(
        place / "model"
    )
    (place / "engineer.md").write_text(PROMPT)
    save_instances(place / "instances.jsonl", [task("larder"), task("parking")])
    return place


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "run": "learns",
        "protocol": "software",
        "options": options(folder),
        "engine": f"{folder / 'model'}?dtype=float32",
        "sampling": {"max_tokens": 2, "temperature": 1.0},
        "tasks": str(folder / "instances.jsonl"),
        "policies": {
            "engineer": {
                "roles": ["engineer"],
                "reward": {"name": "software", "format": -1.0, "applied": 0.5},
                "lora": {"rank": 2, "alpha": 4},
                "train": {"learning_rate": 5e-3, "tokens": 256},
            }
        },
        "play": {"tasks": 2, "copies": 3},
        "steps": 1,
        "concurrency": 4,
        **changes,
    }


def options(folder: Path) -> dict[str, Any]:
    return {"steps": 3, "sandbox": "landlock", "prompts": {"engineer": str(folder / "engineer.md")}}


def updates(memory: Path, run: str) -> list[Any]:
    with Journal.open(str(memory)) as journal:
        return journal.read(select(Update).where(Update.run_id == run).order_by(Update.step))


def paid(memory: Path, run: str) -> list[Any]:
    """The turns that the updates of a run were made of: what they earned and why, and in which run."""
    query = (
        select(Turn.status, Turn.parsed, Reward.value, Reward.reason, Episode.run_id)
        .join(UpdateTurn, UpdateTurn.turn_id == Turn.id)
        .join(Update, Update.id == UpdateTurn.update_id)
        .join(Reward, Reward.turn_id == Turn.id)
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Update.run_id == run)
    )
    with Journal.open(str(memory)) as journal:
        return journal.read(query)


def learned(memory: Path, run: str) -> list[Any]:
    """The turns of a run's one update, which moved the weights by rewards that differ for their reasons."""
    [update] = updates(memory, run)
    assert update.status == "done" and update.metrics["grad_norm"] > 0
    turns = paid(memory, run)
    for turn in turns:
        applied = ", applied 1," in turn.reason
        assert turn.value == 0.5 * applied - (turn.parsed is None), turn.reason
    assert len({turn.value for turn in turns}) > 1
    assert {turn.parsed is None for turn in turns} == {True, False}
    return turns


def test_evolve_on_software(folder: Path, tmp_path: Path) -> None:
    memory = tmp_path / "j.db"
    result = evolve(config(folder), str(memory))
    assert result.heads["engineer"] == {"live": 0, "training": 1}
    turns = learned(memory, "learns")
    assert {turn.run_id for turn in turns} == {"learns"}


def test_experience_from_a_run_of_sparring_swe(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the policy is registered, then somebody works with it, then an evolution finds the turns."""
    monkeypatch.chdir(tmp_path)
    memory = tmp_path / "j.db"
    waiting = config(folder, tasks=None, source={"wait": False, "runs": ["work"]}, every="8 turns")
    evolve(waiting, str(memory))
    assert updates(memory, "learns") == []

    said = options(folder)
    given = [f"steps={said['steps']}", "sandbox=landlock", f"prompts.engineer={folder / 'engineer.md'}"]
    given += ["max_tokens=2", "temperature=1.0"]
    sets = [word for option in given for word in ("--set", option)]
    where = ["--memory", str(memory), "--run", "work", "--copies", "3", "--quiet"]
    assert (
        cli.main(["swe", str(folder / "instances.jsonl"), "--engine", "policy:engineer", *sets, *where]) == 0
    )

    result = evolve(waiting, str(memory))
    assert result.heads["engineer"]["training"] == 1
    turns = learned(memory, "learns")
    assert len(turns) == 8 and {turn.run_id for turn in turns} == {"work"}
    with Journal.open(str(memory)) as journal:
        assert find(journal, "engineer", "training").number == 1


def test_instances_that_are_not_there_are_refused_before_anything(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        evolve(config(folder, tasks="none.jsonl"), str(tmp_path / "j.db"))
    assert not (tmp_path / "j.db.policies").exists()

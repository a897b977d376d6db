"""What a configuration builds on is looked for in the journal before anything is loaded."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import move_head, register
from sparring.training.config import load_config
from sparring.training.evolve import evolve
from sparring.training.offline import OfflineData
from sparring.training.preflight import preflight, present

CHAINS = Path(__file__).parents[2] / "examples" / "chains"


def config(**policy: Any) -> dict[str, Any]:
    return {
        "run": "spc",
        "protocol": "sneaky",
        "options": {"validation": "arithmetic"},
        "engine": "a-model-that-nobody-has",  # asking for it would be the error
        "roles": {"sneaky": "scripted:hash"},
        "tasks": str(CHAINS / "solve_dev.jsonl"),
        "policies": {"critic": {"roles": ["critic"], "objective": "offline", "reward": "spc", **policy}},
        "steps": 1,
    }


def critic(**data: Any) -> dict[str, Any]:
    """The policies with other settings of what the critic's updates are made of."""
    return {"policies": config(data=data)["policies"]}


@pytest.mark.parametrize(
    ("changes", "policy", "said"),
    [
        ({"roles": {"sneaky": "policy:nobody"}}, {}, "unknown policy `nobody`"),
        ({}, {"data": {"lessons": ["round0"]}}, "unknown run `round0`"),
        ({}, {"restart": True}, "policy `critic` is to restart from a trained version"),
        ({}, {}, "critic@0 has no adapter: train it on lessons first, or say `reference: base`"),
        ({}, {"reference": "7"}, "critic@0 has no adapter: train it on lessons first"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_written(
    tmp_path: Path, changes: dict[str, Any], policy: dict[str, Any], said: str
) -> None:
    memory = tmp_path / "journal.db"
    with pytest.raises(UserError, match=said) as refused:
        evolve({**config(**policy), **changes}, memory)
    assert "\n" not in str(refused.value)
    with Journal.open(memory) as journal:
        assert not journal.has_run("spc")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": str(CHAINS.parent / "arithmetic" / "digits.jsonl")}, "task `0+0` has no `steps`"),
        (
            {
                "evaluate": {
                    "tasks": str(CHAINS.parent / "arithmetic" / "digits.jsonl"),
                    "protocol": "step_check",
                }
            },
            "task `0+0` has no `steps`",
        ),
        (
            {"evaluate": {"tasks": str(CHAINS / "check_new.jsonl"), "protocol": "chess"}},
            "unknown protocol `chess`",
        ),
        (
            critic(balance="critic", most=3),
            "`most: 3` can leave a round without any: `balance: critic` takes 4",
        ),
        (
            critic(balance="sneaky"),
            "`balance: sneaky` is for a policy that plays that role alone; it plays critic",
        ),
        ({"tasks": None, "source": {"runs": ["a"]}}, "objective `offline` learns from what the run plays"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_read(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    memory = tmp_path / "journal.db"
    with pytest.raises(UserError, match=re.escape(said)):
        evolve({**config(), **changes}, memory)
    with Journal.open(memory) as journal:
        assert not journal.has_run("spc")


def test_an_evaluation_can_be_of_the_first_tasks() -> None:
    part = {"tasks": str(CHAINS / "check_new.jsonl"), "protocol": "step_check", "limit": 7}
    plan = preflight(load_config({**config(), "evaluate": part}))
    assert [task.id for task in plan.measures["evaluate"].tasks] == [f"check_new-{n}" for n in range(7)]


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        ({"balance": "critic", "most": 3}, True),
        ({"balance": "critic", "most": 4}, False),
        ({"balance": "sneaky", "most": 2}, True),
        ({"balance": "sneaky", "most": 3}, False),
        ({"most": 1}, False),
    ],
)
def test_a_balance_has_room_for_one_of_each(data: dict[str, Any], refused: bool) -> None:
    with pytest.raises(ValueError, match="can leave a round without any") if refused else nullcontext():
        OfflineData(**data)


async def test_a_reference_is_looked_for_among_the_versions(journal: Journal) -> None:
    register(journal, policy="critic", base_hash="h", base_spec="s")
    lesson = register(
        journal,
        policy="critic",
        base_hash="h",
        base_spec="s",
        adapter_path="a",
        adapter_hash="x",
        update_id=1,
    )
    with pytest.raises(UserError, match="policy `critic` has no version 7; it has 0, 1"):
        present(load_config(config(reference="7")), journal)
    with pytest.raises(UserError, match="critic@0 has no adapter"):
        present(load_config(config()), journal)
    present(load_config(config(reference="1")), journal)
    present(load_config(config(reference="base")), journal)
    move_head(journal, "critic", "training", lesson.id, by="test", reason="taught")
    present(load_config(config()), journal)
    with pytest.raises(UserError, match="critic@0 has no adapter"):
        present(load_config(config(reference="0")), journal)

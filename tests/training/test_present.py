"""What a configuration builds on is looked for in the journal before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.training.evolve import evolve

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


@pytest.mark.parametrize(
    ("changes", "policy", "said"),
    [
        ({"roles": {"sneaky": "policy:nobody"}}, {}, "unknown policy `nobody`"),
        ({}, {"data": {"lessons": ["round0"]}}, "unknown run `round0`"),
        ({}, {"restart": True}, "policy `critic` is to restart from a trained version"),
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

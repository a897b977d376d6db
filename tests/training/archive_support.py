"""A small archive without a model: an engineer that needs hints in its prompt, an improver that has them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "graphs"))

from engineer import DONE, make_instance, repository, said

from sparring.tools.swe.instances import save_instances

CARE, PROOF = "Work with care.", "Prove your work."
"""The hints."""
FIX = "sed -i 's/ + 1//' calc.py  # applied the fix"
HIDDEN = "test_hidden_from_everybody"
BROKEN = "I would rather not say."
NEEDS = {"calc-1": "", "calc-2": "", "calc-3": CARE, "calc-4": CARE, "calc-5": PROOF, "calc-6": PROOF}
"""Instance -> the hint without which it is not resolved."""

Rule = dict[str, Any]


def instances(folder: Path) -> Path:
    """Six instances of one bug, with tests and a reference patch that nobody may see."""
    source = repository(folder / "source")
    hidden: dict[str, Any] = {
        "fail_to_pass": (f"test_calc.py::{HIDDEN}",),
        "patch": HIDDEN,
        "test_patch": HIDDEN,
    }
    save_instances(
        file := folder / "instances.jsonl", [replace(make_instance(source, name), **hidden) for name in NEEDS]
    )
    return file


def engineers(needs: Mapping[str, str] = NEEDS) -> list[Rule]:
    """An engineer that fixes what its hints let it, and submits the rest as it is."""
    rules = [{"match": "# applied the fix", "within": "conversation", "replies": [said(DONE)]}]
    for name, hint in needs.items():
        match = rf"{re.escape(hint)}[\s\S]*double\({name}\)"
        rules.append({"match": match, "within": "conversation", "replies": [said(FIX)]})
    return [*rules, {"role": "software engineer who", "replies": [said(DONE)]}]


def change(why: str = "it helps", **fields: Any) -> str:
    return json.dumps({"why": why, **fields})


def system(*hints: str) -> str:
    return f"You are a software engineer who works in a shell. {' '.join(hints)}"


def improvers(replies: Sequence[str] | None = None) -> list[Rule]:
    """A diagnoser, and an improver that gives the next hint; then its words cannot be read."""
    diagnosis = {"role": "You find out why", "replies": ["It works without care."]}
    improver = {"role": "You improve"}
    if replies is not None:
        return [diagnosis, {**improver, "replies": list(replies), "order": "sequence"}]
    return [
        diagnosis,
        {**improver, "match": re.escape(PROOF), "replies": [BROKEN]},
        {**improver, "match": re.escape(CARE), "replies": [change(system=system(CARE, PROOF))]},
        {**improver, "replies": [change(system=system(CARE))]},
    ]


def script(folder: Path, rules: Iterable[Rule], name: str = "script.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    return f"scripted:{folder / name}"


def config(folder: Path, rules: Iterable[Rule] | None = None, **over: Any) -> dict[str, Any]:
    """Two stages of three and six instances, two generations of one child each."""
    given: dict[str, Any] = {
        "kind": "archive",
        "run": "bred",
        "tasks": str(instances(folder)),
        "engine": script(folder, [*engineers(), *improvers()] if rules is None else rules),
        "options": {"sandbox": "landlock"},
        "stages": [3, 6],
        "generations": 2,
        "children": 1,
        "parents": "best",
        "plots": str(folder / "plots"),
    }
    return {**given, **over}

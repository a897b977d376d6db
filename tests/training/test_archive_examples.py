"""The shipped example of an archive, on three of the shipped instances, with the real grader."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import sparring
from sparring.memory.journal import Journal
from sparring.memory.schema import Message
from sparring.tools.swe.instances import load_instances, save_instances
from sparring.training.archive.config import load_archive

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from example_scripts import EXAMPLES, script

build, engineers = script("swe/build.py"), script("swe/engineer.py")
CHOSEN = ("addressee", "bearings", "parking")
"""They need no hint, one and both."""


def test_each_hint_resolves_one_more(tmp_path: Path) -> None:
    known = load_instances(EXAMPLES / "swe" / "instances.jsonl")
    found = []
    for name in CHOSEN:
        build.build(name, tmp_path)
        one = next(one for one in known if f"__{name}-" in one.id)
        found.append(dataclasses.replace(one, source=tmp_path / f"{name}.bundle"))
    save_instances(tmp_path / "instances.jsonl", found)
    rules = tmp_path / "hinted.jsonl"
    rules.write_text("".join(json.dumps(rule) + "\n" for rule in engineers.hinted(found)))
    shipped = load_archive(EXAMPLES / "swe" / "archive.yaml").model_dump(mode="json")
    given = shipped | {"tasks": str(tmp_path / "instances.jsonl"), "engine": f"scripted:{rules}"}
    given |= {"stages": [3], "children": 1, "generations": 2, "parents": "best"}
    given["options"] = {"sandbox": "landlock"}
    archive = sparring.archive(given, memory=tmp_path / "j.db").archive
    assert [sorted(member.resolved) for member in archive.members] == [
        sorted(f"sparring__{name}-1" for name in CHOSEN[:count]) for count in (1, 2, 3)
    ]
    with Journal.open(tmp_path / "j.db") as journal:
        heard = [
            row for row in journal.read(Message.__table__.select()) if "of one agent" in str(row.content)
        ]
    assert len(heard) == 2
    for one in found:  # the engineer's own patches are not in the logs: they resolved their issues
        for line in (one.patch + one.test_patch).splitlines():
            told = line[1:].strip()
            if line.startswith("+") and not line.startswith("+++") and len(told) > 20:
                assert not [row for row in heard if told in str(row.content)], told

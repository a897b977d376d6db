"""A small run of `sparring swe` in a folder of its own: what it needs, and the command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from example_scripts import script
from swe_tasks import task

from sparring.tools.swe.instances import save_instances

NAMES = ("larder", "parking", "shelfmark")
FILES = ("p.jsonl", "p.1.jsonl", "r.json", "r.1.json")


def prepare(folder: Path) -> Path:
    """Three instances: one is mended, one gets a patch that mends nothing, one gets none."""
    folder.mkdir(exist_ok=True)
    engineers = script("swe/engineer.py")
    found = [task(name) for name in NAMES]
    save_instances(folder / "instances.jsonl", found)
    rules = list(engineers.recorded(found))
    for rule, command in zip(rules[2:], ("touch junk; sleep 0.2", "sleep 0.1"), strict=False):
        rule["replies"] = [engineers.said("Hm.", f"{command}  {engineers.FIXED}")]
    (folder / "script.jsonl").write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    return folder


def run_command(memory: str = "j.db") -> None:
    """The command in the working folder, whatever is left to do of it; it ends the process."""
    from sparring import cli

    for stream in (1, 2):
        os.dup2(os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    files = ("--out", "p.jsonl", "--report", "r.json", "--memory", memory, "--run", "r", "--copies", "2")
    options = ("--set", "sandbox=landlock", "--durability", "normal")
    sys.exit(cli.main(["swe", "instances.jsonl", "--engine", "scripted:script.jsonl", *files, *options]))

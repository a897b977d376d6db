"""What `sparring policy` shows and does: policies of a journal, their versions, heads and lineage.

Every function gives plain JSON values; the tables are made of the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from sparring.agents.models import verify_adapter
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import (
    Head,
    Step,
    Version,
    find,
    heads,
    history,
    lineage,
    move_head,
    parse,
    policies,
    previous,
    trained_on,
    updates,
    versions,
)

BY_HAND = "hand"
"""Who moved a head, where it was no gate."""
SHOWN = ("accuracy", "reward")
"""Metrics whose name holds one of these are shown in the table of versions."""
MOST_SHOWN = 3
MOVES_SHOWN = 10
TEXT_SHOWN = 100


def named(journal: Journal, text: str) -> Version:
    """The version of `NAME` (the live one), `NAME@training`, `NAME@3`."""
    return find(journal, *parse(text))


def overview(journal: Journal) -> list[dict[str, Any]]:
    """Every policy with the numbers its heads point at."""
    return [asdict(known) for known in policies(journal)]


def overview_table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = [
        (r["name"], _number(r["live"]), _number(r["training"]), str(r["versions"]), r["base_spec"])
        for r in rows
    ]
    return columns(("policy", "live", "training", "versions", "base"), shown)


def about(journal: Journal, text: str) -> dict[str, Any]:
    """A policy: both heads, its versions (one, where the text names it), how the heads moved."""
    return told_of(journal, parse(text)[0], [named(journal, text)] if "@" in text else None)


def told_of(journal: Journal, name: str, chosen: Sequence[Version] | None = None) -> dict[str, Any]:
    """`about` of a policy by its bare name, which may hold an `@`; None: of all its versions."""
    known, at, made = versions(journal, name), heads(journal, name), updates(journal, name)
    numbers = {version.id: version.number for version in known}
    moves = [  # in the numbers that people know, not row ids
        asdict(m) | {"origin": numbers.get(m.origin or -1), "target": numbers.get(m.target)}
        for m in history(journal, name)
    ]
    return {
        "policy": name,
        "live": at["live"] and at["live"].number,
        "training": at["training"] and at["training"].number,
        "versions": [
            _version(version, numbers, made, [head for head, v in at.items() if v == version])
            for version in (known if chosen is None else chosen)
        ],
        "moves": sorted(moves, key=lambda move: (move["at"], move["move"])),
    }


def _version(
    version: Version, numbers: dict[int, int], made: dict[int, Any], heads_here: list[Head]
) -> dict[str, Any]:
    update = made.get(version.id)
    return {
        "version": version.label,
        "number": version.number,
        "id": version.id,
        "heads": heads_here,
        "parent": numbers.get(version.parent_id or -1),
        "update": update and update.id,
        "run": update and update.run_id,
        "step": update and update.step,
        "metrics": version.metrics,
        "created_at": version.created_at,
        "base": version.base_hash,
        "base_spec": version.base_spec,
        "adapter": version.adapter_path and str(version.adapter_path),
        "adapter_hash": version.adapter_hash,
        "present": version.present,
    }


def about_tables(found: dict[str, Any]) -> list[Any]:
    """The heads in a line, the versions, and the last moves of the heads."""
    line = f"{found['policy']}: live {_number(found['live'])}, training {_number(found['training'])}"
    names = ("version", "heads", "parent", "update", "metrics", "created", "adapter", "weights")
    rows = [
        (
            str(v["number"]),
            ", ".join(v["heads"]),
            _number(v["parent"]),
            "" if v["step"] is None else f"{v['run'] or '-'} {v['step']}",
            _metrics(v["metrics"]),
            _when(v["created_at"]),
            "base" if v["adapter_hash"] is None else v["adapter_hash"][:12],
            "present" if v["present"] else "gone",
        )
        for v in found["versions"]
    ]
    parts = [line, columns(names, rows)]
    if moves := found["moves"][-MOVES_SHOWN:]:
        shown = [
            (
                _when(m["at"]),
                m["head"],
                f"{_number(m['origin'])} -> {_number(m['target'])}",
                m["by"],
                m["reason"],
                m["run"],
            )
            for m in moves
        ]
        parts.append(columns(("when", "head", "moved", "by", "because", "run"), shown))
    return parts


def descent(journal: Journal, text: str, turns: int = 0) -> list[dict[str, Any]]:
    """A version and its ancestors, newest first, each with its update and the first `turns` of its turns."""
    return [_step(journal, step, turns) for step in lineage(journal, named(journal, text).id)]


def _step(journal: Journal, step: Step, turns: int) -> dict[str, Any]:
    said = trained_on(journal, step.update["id"], turns) if step.update and turns else []
    return {
        "version": step.version.label,
        "update": step.update,
        "turns": step.turns,
        "base_spec": step.version.base_spec,
        "adapter_hash": step.version.adapter_hash,
        "present": step.version.present,
        "trained_on": [asdict(turn) for turn in said],
    }


def descent_tables(steps: Sequence[dict[str, Any]]) -> list[Any]:
    """The line of versions, then the turns that trained each."""
    rows = []
    for step in steps:
        update = step["update"] or {}
        made = f"{update['run_id'] or '-'} {update['step']} ({update['status']})" if update else "base"
        rows.append((step["version"], made, str(step["turns"]), _metrics(update.get("metrics"))))
    parts: list[Any] = [columns(("version", "update", "turns", "metrics"), rows)]
    for step in steps:
        if step["trained_on"]:
            shown = [
                (str(t["id"]), t["task"], t["role"], t["status"], _paid(t["rewards"]), _short(t["text"]))
                for t in step["trained_on"]
            ]
            parts.append(f"{step['version']}: {len(shown)} of {step['turns']} turns that trained it")
            parts.append(columns(("turn", "task", "role", "status", "rewards", "text"), shown))
    return parts


@dataclass(frozen=True)
class Move:
    """A head that was pointed at a version by hand; as text a line that says so."""

    policy: str
    head: Head
    version: int
    moved: bool
    """False where it stood there already."""

    def __str__(self) -> str:
        return f"{self.policy}: {self.head} is {'now' if self.moved else 'already'} at {self.version}"


def promote(journal: Journal, version: Version, head: Head, because: str) -> Move:
    """Point a head at a version by hand, its weights checked."""
    _usable(version)
    moved = move_head(journal, version.policy, head, version.id, by=BY_HAND, reason=because)
    return Move(version.policy, head, version.number, bool(moved))


def roll_back(journal: Journal, policy: str, head: Head, to: Version | None, because: str) -> Move:
    """Point a head at what it stood at before, or at version `to`."""
    target = to or previous(journal, policy, head)
    return promote(journal, target, head, because)


def _usable(version: Version) -> None:
    """Never point a head at weights that are not there."""
    if version.adapter_path is not None:
        try:
            verify_adapter(version.adapter_path, version.adapter_hash)
        except UserError as wrong:
            raise UserError(f"policy {version.label}: {wrong}") from None


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table of words; numbers alone stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(header):
        numeric = bool(rows) and all(row[place].lstrip("-").isdigit() or row[place] == "-" for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _metrics(metrics: dict[str, Any] | None) -> str:
    """Those that say how good it is, a few."""
    shown = [
        f"{name} {value:.3g}"
        for name, value in (metrics or {}).items()
        if isinstance(value, int | float) and any(word in name for word in SHOWN)
    ]
    return ", ".join(shown[:MOST_SHOWN])


def _paid(rewards: Sequence[dict[str, Any]]) -> str:
    def one(reward: dict[str, Any]) -> str:
        value = "masked" if reward["value"] is None else f"{reward['value']:.3g}"
        span = "" if reward["span"] is None else f"[{reward['span'][0]}:{reward['span'][1]}]"
        return f"{reward['function']}{span} {value}"

    return ", ".join(one(reward) for reward in rewards)


def _short(text: str | None) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= TEXT_SHOWN else line[: TEXT_SHOWN - 1] + "…"

"""What the shell offers when Tab is pressed: names that exist, found without importing anything heavy.

A journal is asked by SQL and not through `sparring.memory`, because a person waits: its file read-only and
for a tenth of a second, a PostgreSQL server for one. Where something fails nothing is offered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

MOST = 200
"""Names that are offered, the newest runs first."""
FORMS = (
    "scripted:hash", "scripted:echo", "scripted:", "policy:", "vllm:", "langchain:", "orm:", "prm:", "http://",
)  # fmt: skip
RUNS = "SELECT id FROM runs WHERE substr(id, 1, {n}) = {text} ORDER BY created_at DESC LIMIT {most}"
POLICIES = "SELECT name FROM policies WHERE substr(name, 1, {n}) = {text} ORDER BY name LIMIT {most}"


def protocols(incomplete: str) -> list[str]:
    """Names of protocols."""
    from sparring.graphs.catalogue import PROTOCOLS

    return [name for name in PROTOCOLS if name.startswith(incomplete)]


def task_sets(incomplete: str) -> list[str]:
    """Names of the task sets that ship; files are the shell's own affair."""
    from sparring.memory.shipped import shipped_tasks

    return [name for name in shipped_tasks() if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Models of the catalogue."""
    from sparring.agents.models import CATALOGUE

    return [name for name in sorted(CATALOGUE) if name.startswith(incomplete)]


def engines(ctx: Any, incomplete: str) -> list[str]:
    """Catalogue models, policies of the journal, and how other specs begin."""
    begun = incomplete.removeprefix("policy:") if incomplete.startswith("policy:") else ""
    asked = begun or "policy:".startswith(incomplete)
    named = [f"policy:{name}" for name in policies(ctx, begun)] if asked else []
    known = (*models(""), *named, *FORMS)
    return [name for name in known if name.startswith(incomplete)]


def runs(ctx: Any, incomplete: str) -> list[str]:
    """Names of the journal's runs."""
    return list(_names(ctx, RUNS, incomplete))


def policies(ctx: Any, incomplete: str) -> list[str]:
    """Names of the journal's policies."""
    return list(_names(ctx, POLICIES, incomplete))


def journals(incomplete: str) -> list[str]:
    """SQLite files in the folder that is being typed."""
    typed = Path(incomplete or ".").expanduser()
    folder = typed if incomplete.endswith("/") or not incomplete else typed.parent
    with suppress(OSError):
        found = sorted(folder.glob("*.db"))
        shown = [str(path) if incomplete.startswith("/") else str(path.relative_to(".")) for path in found]
        return [name for name in shown if name.startswith(incomplete)][:MOST]
    return []


def _names(ctx: Any, query: str, incomplete: str) -> Iterator[str]:
    memory = str((ctx.params or {}).get("memory") or "sparring.db")
    with suppress(Exception):
        if memory.startswith(("postgresql:", "postgresql+")):
            yield from _of_server(memory, query, incomplete)
        else:
            yield from _of_file(Path(memory.removeprefix("sqlite:///")).expanduser(), query, incomplete)


def _of_file(path: Path, query: str, incomplete: str) -> list[str]:
    asked = query.format(n=len(incomplete), text="?", most=MOST)
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=0.1)) as database:
        return [name for (name,) in database.execute(asked, (incomplete,))]


def _of_server(url: str, query: str, incomplete: str) -> list[str]:
    import psycopg

    plain = f"postgresql:{url.partition(':')[2]}"
    with psycopg.connect(plain, connect_timeout=1, options="-c statement_timeout=1000") as connection:
        asked: Any = query.format(n=len(incomplete), text="%s", most=MOST)
        return [name for (name,) in connection.execute(asked, (incomplete,))]

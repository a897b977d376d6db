"""Take runs out of a journal, put them into another, count what is there.

An export is a file of JSON lines (compressed where its name ends in `.gz`): a header; rows by table; an
episode a line with all its rows; a last line with a count and a hash of everything before it. Reading
checks the whole file before anything is written, and writes in one transaction.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from sqlalchemy import Connection, LargeBinary, Table, func, select
from sqlalchemy.exc import SQLAlchemyError

from .. import __version__
from ..errors import JournalError, UserError
from .away import cause
from .database import HEAD, transact
from .merge import Merge
from .postgres import unhurried
from .removal import Removed, family, remove
from .schema import Base
from .types import Packed, dumps

if TYPE_CHECKING:
    from .journal import Journal

FORMAT = "sparring-journal-1"
AHEAD = 100
"""Episodes read at once."""
TABLES = Base.metadata.tables
OF_EPISODE = ("messages", "turns", "events")
OF_TURN = ("recomputed_logprobs", "scores", "rewards")


def stats(journal: Journal) -> dict[str, Any]:
    """Rows of each table, runs with their status, tokens, bytes of the database."""
    return transact(journal.engine, _stats, write=False)


def _stats(connection: Connection) -> dict[str, Any]:
    turns, runs = TABLES["turns"].c, TABLES["runs"].c
    unhurried(connection)
    rows = {
        name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
        for name, table in TABLES.items()
        if name != "counters"
    }
    tokens = [func.coalesce(func.sum(column), 0) for column in (turns.prompt_tokens, turns.completion_tokens)]
    prompt, completion = connection.execute(select(*tokens)).one()
    query = select(runs.id, runs.kind, runs.protocol, runs.status, runs.created_at).order_by(runs.created_at)
    known = [dict(row._mapping) for row in connection.execute(query)]
    size = _size(connection)
    return {
        "revision": HEAD,
        "bytes": size,
        "rows": rows,
        "prompt_tokens": int(prompt),
        "completion_tokens": int(completion),
        "runs": known,
    }


def _size(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one())
    path = Path(str(connection.engine.url.database))
    return sum(file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists())


def export(journal: Journal, run: str | None, path: str | Path) -> dict[str, int]:
    """Write a run with its child runs, or everything, to a file; rows written by table.

    Raises:
        UserError: there is no such run, or the file cannot be written.
        JournalError: the database was lost on the way. No file is left, or the one that was there.
    """
    if run is not None:
        journal.run_row(run)
    journal.writer.flush()
    level = "REPEATABLE READ" if journal.engine.dialect.name == "postgresql" else "SERIALIZABLE"
    target = Path(path).expanduser()
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as raw:
            with _packed(raw, target) as file, journal.engine.connect() as connection:
                # One state of the journal, whatever is written meanwhile.
                connection = connection.execution_options(isolation_level=level)
                unhurried(connection)
                counts = _Out(file).write(connection, run)
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(target)
    except OSError as error:
        raise UserError(f"export to `{path}`: {error.strerror or error}") from None
    except SQLAlchemyError as error:
        raise JournalError(f"export to `{path}`: {cause(error)}; nothing was written, do it again") from None
    finally:
        with suppress(OSError):
            partial.unlink()
    return counts


def _packed(raw: BinaryIO, target: Path) -> BinaryIO:
    if target.suffix != ".gz":
        return open(os.dup(raw.fileno()), "wb")
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=4, mtime=0))


class _Out:
    """Writes the lines of an export."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.blake2b(digest_size=16)
        self._counts: dict[str, int] = {}

    def _line(self, value: dict[str, Any]) -> None:
        data = dumps(value).encode() + b"\n"
        self._hash.update(data)
        self._file.write(data)

    def _rows(self, connection: Connection, table: str, *where: Any) -> list[dict[str, Any]]:
        columns = TABLES[table]
        key = list(columns.primary_key.columns)
        rows = [
            _plain(columns, row) for row in connection.execute(select(columns).where(*where).order_by(*key))
        ]
        self._counts[table] = self._counts.get(table, 0) + len(rows)
        return rows

    def _table(self, connection: Connection, table: str, *where: Any) -> None:
        for row in self._rows(connection, table, *where):
            self._line({"table": table, "row": row})

    def write(self, connection: Connection, run: str | None) -> dict[str, int]:
        """Everything of a run, or of all; rows by table."""
        order = TABLES["runs"].c.created_at, TABLES["runs"].c.id
        runs = list(connection.execute(select(TABLES["runs"].c.id).order_by(*order)).scalars())
        if run is not None:
            runs = family(connection, run)
        self._line({"format": FORMAT, "revision": HEAD, "sparring": __version__, "runs": runs})
        c = {name: table.c for name, table in TABLES.items()}
        mine = select(c["episodes"].number).where(c["episodes"].run_id.in_(runs))
        used = select(c["turns"].policy_version_id).where(c["turns"].episode_number.in_(mine))
        agents = select(c["turns"].agent_id).where(c["turns"].episode_number.in_(mine))
        tasks = select(c["episodes"].task_id).where(c["episodes"].run_id.in_(runs))
        all_of = run is None
        for name in runs:
            self._table(connection, "runs", c["runs"].id == name)
        self._table(connection, "tasks", *(() if all_of else (c["tasks"].id.in_(tasks),)))
        self._table(connection, "agents", *(() if all_of else (c["agents"].id.in_(agents),)))
        updates = select(c["updates"].to_version_id).where(c["updates"].run_id.in_(runs))
        versions = _with_ancestors(connection, [used, updates])
        self._table(
            connection, "policy_versions", *(() if all_of else (c["policy_versions"].id.in_(versions),))
        )
        named = select(c["policy_versions"].policy).where(c["policy_versions"].id.in_(versions))
        self._table(connection, "policies", *(() if all_of else (c["policies"].name.in_(named),)))
        self._table(connection, "updates", *(() if all_of else (c["updates"].run_id.in_(runs),)))
        episodes = _parents_first(connection, runs)
        hashes: set[str] = set()
        for start in range(0, len(episodes), AHEAD):
            self._episodes(connection, episodes[start : start + AHEAD], hashes)
        for table in ("events", "matches", "ratings"):
            self._table(connection, table, c[table].run_id.in_(runs))
        for name in sorted(hashes):
            self._table(connection, "blobs", c["blobs"].hash == name)
        lineage = select(c["updates"].id).where(c["updates"].run_id.in_(runs))
        self._table(connection, "update_turns", c["update_turns"].update_id.in_(lineage))
        end = {"end": sum(self._counts.values()), "hash": self._hash.hexdigest()}
        self._file.write(dumps(end).encode() + b"\n")
        return dict(self._counts)

    def _episodes(self, connection: Connection, numbers: Sequence[int], hashes: set[str]) -> None:
        mine = self._rows(connection, "episodes", TABLES["episodes"].c.number.in_(numbers))
        lines: dict[int, dict[str, Any]] = {row["number"]: {"episode": row} for row in mine}
        owner: dict[int, int] = {}
        for table in OF_EPISODE:
            for row in self._rows(connection, table, TABLES[table].c.episode_number.in_(numbers)):
                lines[row["episode_number"]].setdefault(table, []).append(row)
                if table == "turns":
                    owner[row["id"]] = row["episode_number"]
                elif table == "messages":
                    hashes.update(p["hash"] for p in row["content"] if p.get("type") == "blob")
        turns = select(TABLES["turns"].c.id).where(TABLES["turns"].c.episode_number.in_(numbers))
        for table in OF_TURN:
            for row in self._rows(connection, table, TABLES[table].c.turn_id.in_(turns)):
                lines[owner[row["turn_id"]]].setdefault(table, []).append(row)
        for number in numbers:
            self._line(lines[number])


def _parents_first(connection: Connection, runs: Sequence[str]) -> list[int]:
    """Numbers of the runs' episodes, those that others were forked from or played within before these."""
    columns = TABLES["episodes"].c
    query = select(columns.number, columns.id, columns.parent_id).where(columns.run_id.in_(runs))
    rows = {row.id: row for row in connection.execute(query.order_by(columns.number))}
    depth: dict[str | None, int] = {None: -1}
    for row in rows.values():
        line = [row]
        while (above := rows.get(line[-1].parent_id)) is not None and above.id not in depth:
            line.append(above)
        for one in reversed(line):
            depth[one.id] = depth.get(one.parent_id, -1) + 1
    return [row.number for row in sorted(rows.values(), key=lambda row: (depth[row.id], row.number))]


def _with_ancestors(connection: Connection, queries: list[Any]) -> set[int]:
    """Policy versions and those they were trained from."""
    versions = TABLES["policy_versions"].c
    parents = {row.id: row.parent_id for row in connection.execute(select(versions.id, versions.parent_id))}
    found: set[int] = set()
    for query in queries:
        for version in connection.execute(query.distinct()).scalars():
            while version is not None and version not in found:
                found.add(version)
                version = parents[version]
    return found


def _plain(table: Table, row: Any) -> dict[str, Any]:
    values = {}
    for column, value in zip(table.columns, row, strict=True):
        if value is not None and isinstance(column.type, Packed | LargeBinary):
            data = value if isinstance(value, bytes | memoryview) else column.type.pack(value)  # type: ignore[union-attr]  # arrays are Packed
            value = b64encode(bytes(data)).decode()
        values[column.name] = value
    return values


def import_(journal: Journal, path: str | Path) -> dict[str, int]:
    """Merge an export into a journal; rows added by table. What is there already is left alone.

    Ids are given anew. A run whose name is taken by another run gets the next free `NAME-2`, `NAME-3`.

    Raises:
        UserError: the file is no export, is cut short or altered, or was made by a newer version; or a
            run went on in both journals. Nothing was written.
    """
    needed: dict[str, int] = {}
    for line in _lines(path):
        for table, count in _tally(line):
            needed[table] = needed.get(table, 0) + count
    try:
        with Merge(journal, str(path), needed) as merge:
            for line in _lines(path):
                merge.line(line)
    except (KeyError, TypeError, ValueError, JournalError) as error:
        raise UserError(
            f"import from `{path}`: rows do not fit together ({error}); nothing was written"
        ) from None
    except SQLAlchemyError as error:
        raise JournalError(
            f"import from `{path}`: {cause(error)}; all of it was written or nothing, do it again"
        ) from None
    return merge.added


def _tally(line: dict[str, Any]) -> Iterator[tuple[str, int]]:
    if "table" in line:
        yield line["table"], 1
    if "episode" in line:
        yield "episodes", 1
    for name, rows in line.items():
        if isinstance(rows, list) and name != "runs":
            yield name, len(rows)


def _lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of an export, once the last one vouches for them all."""
    wrong = f"import from `{path}`: "
    state, counted, ended = hashlib.blake2b(digest_size=16), 0, False
    try:
        for number, data in enumerate(_open(Path(path).expanduser()), 1):
            line = json.loads(data)
            if number == 1 and line.get("format") != FORMAT:
                raise UserError(f"{wrong}this is no export of a journal")
            if number == 1 and line.get("revision", "") > HEAD:
                raise UserError(
                    f"{wrong}it was made by a newer version of Sparring (revision {line['revision']})"
                )
            if "end" in line:
                ended = line == {"end": counted, "hash": state.hexdigest()}
                break
            state.update(data)
            counted += sum(count for _, count in _tally(line))
            yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{wrong}{getattr(error, 'strerror', None) or error}") from None
    except (ValueError, AttributeError, RecursionError):
        raise UserError(f"{wrong}this is no export of a journal, or a damaged one") from None
    if not ended:
        raise UserError(f"{wrong}the file is cut short or was altered; nothing was written")


def _open(path: Path) -> Iterator[bytes]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        yield from file


def delete(journal: Journal, run: str, force: bool = False) -> Removed:
    """Delete a run and its child runs; see `removal.remove`."""
    return remove(journal, run, force)

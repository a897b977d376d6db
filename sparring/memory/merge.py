"""Rows of an export become rows of this journal: new ids, the same meaning, one transaction.

What a row is does not depend on its id: a message is its place in the tree, a turn its episode, key and
attempt, an event its kind and key. A row that is there already keeps its id, and rows that point to it
follow; so importing twice adds nothing, and a run that went on after an export can be imported again.
"""

from __future__ import annotations

from base64 import b64decode
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sqlalchemy import LargeBinary, select, update

from ..errors import UserError
from .heads import EVENT
from .lock import acquire
from .merge_heads import HeadsOfFile
from .postgres import unhurried
from .rows import codecs
from .schema import Base
from .seeds import episode_id
from .types import Packed

if TYPE_CHECKING:
    from .journal import Journal

Row = dict[str, Any]
TABLES = Base.metadata.tables
NATURAL: dict[str, tuple[str, ...]] = {
    "messages": ("parent_id", "role", "content_hash"),
    "turns": ("key", "attempt"),
    "events": ("kind", "key"),
    "scores": ("turn_id", "step", "span_start", "span_end", "scorer", "version"),
    "rewards": ("turn_id", "span_start", "span_end", "function", "version", "config_hash"),
    "recomputed_logprobs": ("turn_id", "source"),
    "updates": ("policy", "step"),
    "matches": ("position",),
    "ratings": ("player", "system", "after_position"),
}
"""What makes a row the same row within its episode, turn or run."""
SAME = ("fingerprint", "seed", "status", "completion_ids", "completion_tokens")
"""Columns that one attempt cannot have twice."""
POINTERS = {
    "parent_id": "messages",
    "input_id": "messages",
    "output_id": "messages",
    "prefix_turn_id": "turns",
    "turn_id": "turns",
    "policy_version_id": "policy_versions",
}


def _is_packed(column: Any) -> bool:
    return isinstance(column.type, Packed | LargeBinary)


def _is_numbered(table: str) -> bool:
    """Whether rows of a table get an integer from `Ids`."""
    key = list(TABLES[table].primary_key.columns)
    return len(key) == 1 and key[0].type.python_type is int


def _unpack(table: str, row: Row) -> Row:
    """A row of the file; bytes are in base 64 there."""
    columns = TABLES[table].c
    return {
        name: b64decode(value) if value is not None and _is_packed(columns[name]) else value
        for name, value in row.items()
    }


def _bytes(table: str, row: Any) -> Row:
    """A row of the database, packed columns as bytes."""
    values = zip(TABLES[table].columns, row, strict=True)
    return {
        column.name: column.type.pack(value)
        if value is not None and isinstance(column.type, Packed)
        else value
        for column, value in values
    }


class Merge:
    """One import. Used as a context: leaving it without an error commits."""

    def __init__(self, journal: Journal, source: str, needed: dict[str, int]) -> None:
        self._journal, self._source = journal, source
        self._codecs = codecs(journal.engine.dialect.name)
        # Reserved before the transaction, which would keep the counters from anyone else.
        self._free = {
            table: journal.ids.block(table, count)
            for table, count in needed.items()
            if table in TABLES and _is_numbered(table)
        }
        self._map: dict[str, dict[Any, Any]] = {name: {} for name in ("episode_ids", *TABLES)}
        self._later: list[tuple[str, Any, str, str, Any]] = []
        """(table, id, column, table pointed to, id there in the file): set at the end."""
        self._new_policies: set[str] = set()
        self._heads = HeadsOfFile()
        self.added: dict[str, int] = {}

    def __enter__(self) -> Merge:
        self._stack = ExitStack()
        with self._stack:
            connection = self._journal.engine.connect().execution_options(sparring_write=True)
            self._connection = self._stack.enter_context(connection)
            self._transaction = self._stack.enter_context(connection.begin())
            unhurried(connection)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._stack:  # ends the transaction, then gives the locks back
            if error[0] is None:
                self._finish()
            else:
                self._transaction.rollback()

    def line(self, line: Row) -> None:
        """Take one line of the export."""
        if "table" in line:
            row = _unpack(line["table"], line["row"])
            handler = getattr(self, f"_row_{line['table']}", None)
            if handler is None:
                raise UserError(f"import from `{self._source}`: unknown table `{line['table']}`")
            handler(row)
        elif "episode" in line:
            self._episode(line)

    def _add(self, table: str, rows: list[Row]) -> None:
        encoded = [self._codecs[table].encode(row) for row in rows]
        for sql, values in self._codecs[table].statements(encoded):
            self.added[table] = (
                self.added.get(table, 0) + self._connection.exec_driver_sql(sql, values).rowcount
            )

    def _id(self, table: str, old: int) -> int:
        new = self._free[table]
        self._free[table] = new + 1
        self._map[table][old] = new
        return new

    # --- rows of the whole -----------------------------------------------------------------------------

    def _run_name(self, row: Row) -> str:
        runs, number, name = TABLES["runs"].c, 1, row["id"]
        while True:
            query = select(runs.created_at, runs.seed, runs.protocol).where(runs.id == name)
            known = self._connection.execute(query).one_or_none()
            if known is None or tuple(known) == (row["created_at"], row["seed"], row["protocol"]):
                return str(name)
            number += 1
            name = f"{row['id']}-{number}"

    def _row_runs(self, row: Row) -> None:
        name = self._run_name(row)
        self._stack.callback(acquire(self._journal.engine, name).release)  # nobody may drive it meanwhile
        self._map["runs"][row["id"]] = name
        if row["parent_id"] is not None:
            self._later.append(("runs", name, "parent_id", "runs", row["parent_id"]))
        self._add("runs", [row | {"id": name, "parent_id": None}])
        if row["status"] != "open":
            runs = TABLES["runs"]
            ended = update(runs).where(
                runs.c.id == name, runs.c.status == "open", runs.c.epoch <= row["epoch"]
            )
            self._connection.execute(
                ended.values(status=row["status"], finished_at=row["finished_at"], epoch=row["epoch"])
            )

    def _row_tasks(self, row: Row) -> None:
        parent = row["parent_id"]
        tasks = TABLES["tasks"].c
        known = parent and self._connection.execute(select(tasks.id).where(tasks.id == parent)).one_or_none()
        if row["source_turn_id"] is not None:
            self._later.append(("tasks", row["id"], "source_turn_id", "turns", row["source_turn_id"]))
        if parent is not None and not known:  # it may follow: tasks come in the order of their ids
            self._later.append(("tasks", row["id"], "parent_id", "tasks", parent))
        self._map["tasks"][row["id"]] = row["id"]
        self._add("tasks", [row | {"source_turn_id": None, "parent_id": parent if known else None}])

    def _row_agents(self, row: Row) -> None:
        self._add("agents", [row])

    def _row_blobs(self, row: Row) -> None:
        self._add("blobs", [row])

    def _row_policy_versions(self, row: Row) -> None:
        versions = TABLES["policy_versions"]
        policy = {"name": row["policy"], "created_at": row["created_at"]}
        self._add("policies", [policy])
        mine = versions.c.policy == row["policy"]
        query = select(versions.c.id, versions.c.number, versions.c.base_hash, versions.c.adapter_hash).where(
            mine
        )
        known = self._connection.execute(query).all()
        for version in known:
            if (version.base_hash, version.adapter_hash) == (row["base_hash"], row["adapter_hash"]):
                self._map["policy_versions"][row["id"]] = version.id
                return
        new = self._id("policy_versions", row["id"])
        number = max((version.number for version in known), default=-1) + 1
        if row["update_id"] is not None:
            self._later.append(("policy_versions", new, "update_id", "updates", row["update_id"]))
        parent = self._map["policy_versions"].get(row["parent_id"])
        self._add(
            "policy_versions", [row | {"id": new, "number": number, "parent_id": parent, "update_id": None}]
        )
        if not known:
            self._new_policies.add(row["policy"])
            policies = TABLES["policies"]
            first = update(policies).where(
                policies.c.name == row["policy"], policies.c.live_version_id.is_(None)
            )
            self._connection.execute(first.values(live_version_id=new, training_version_id=new))

    def _row_policies(self, row: Row) -> None:
        if row["name"] in self._new_policies:
            policies = TABLES["policies"]
            mine = update(policies).where(policies.c.name == row["name"])
            self._connection.execute(mine.values(created_at=row["created_at"]))
        self._heads.stand(row, self._map["policy_versions"])

    def _row_updates(self, row: Row) -> None:
        versions = self._map["policy_versions"]
        ends = {name: versions.get(row[name]) for name in ("from_version_id", "to_version_id")}
        self._of_run("updates", row | ends)

    def _row_update_turns(self, row: Row) -> None:
        turn, made = self._map["turns"].get(row["turn_id"]), self._map["updates"].get(row["update_id"])
        if turn is not None and made is not None:  # a turn of a run that was not exported stays behind
            self._add("update_turns", [{"update_id": made, "turn_id": turn}])

    def _row_events(self, row: Row) -> None:
        if row["kind"] == EVENT:  # the versions that a head moved between have other ids here
            versions = self._map["policy_versions"]
            ends = {end: versions.get(row["payload"][end]) for end in ("from", "to")}
            row = row | {"payload": row["payload"] | ends}
            self._heads.moved(self._map["runs"][row["run_id"]], row["payload"])
        self._of_run("events", row)

    def _row_matches(self, row: Row) -> None:
        self._of_run("matches", row | {"episode_number": self._map["episodes"].get(row["episode_number"])})

    def _row_ratings(self, row: Row) -> None:
        self._of_run("ratings", row)

    def _of_run(self, table: str, row: Row) -> None:
        row = row | {"run_id": self._map["runs"].get(row["run_id"])}
        columns = TABLES[table].c
        names = (*NATURAL[table], "run_id")
        same = [
            columns[name] == row[name] if row[name] is not None else columns[name].is_(None) for name in names
        ]
        known = self._connection.execute(select(columns.id).where(*same)).scalars().first()
        if known is not None:
            self._map[table][row["id"]] = known
        else:
            self._add(table, [row | {"id": self._id(table, row["id"])}])

    # --- an episode and all that hangs on it -----------------------------------------------------------

    def _episode(self, line: Row) -> None:
        row = line["episode"]
        run = self._map["runs"][row["run_id"]]
        new = episode_id(run, row["task_id"], row["iteration"], row["copy"])
        self._map["episode_ids"][row["id"]] = new
        if row["forked_from_turn_id"] is not None:
            self._later.append(("episodes", new, "forked_from_turn_id", "turns", row["forked_from_turn_id"]))
        if row["parent_id"] is not None:
            self._later.append(("episodes", new, "parent_id", "episode_ids", row["parent_id"]))
        episodes = TABLES["episodes"]
        there = select(episodes.c.number).where(episodes.c.id == new)
        number = self._connection.execute(there).scalar_one_or_none()
        known = number is not None
        if number is None:
            number = self._id("episodes", row["number"])
            fresh = {"number": number, "id": new, "run_id": run}
            self._add("episodes", [row | fresh | {"parent_id": None, "forked_from_turn_id": None}])
        elif row["status"] != "open":
            values = {name: row[name] for name in ("status", "outcome", "error", "finished_at")}
            still_open = update(episodes).where(episodes.c.number == number, episodes.c.status == "open")
            self._connection.execute(still_open.values(values))
        self._map["episodes"][row["number"]] = number
        mine = {"episode_number": number}
        for table in ("messages", "turns", "events"):
            self._hang(table, line.get(table, []), mine if known else None, mine)
        for table in ("recomputed_logprobs", "scores", "rewards"):
            turns = {self._map["turns"][turn["id"]] for turn in line.get("turns", [])}
            self._hang(table, line.get(table, []), {"turn_id": turns} if known else None, {})

    def _hang(self, table: str, rows: list[Row], where: Row | None, fixed: Row) -> None:
        """Add rows under an episode or its turns; `where` says what may be there already."""
        known = self._known(table, where) if rows and where is not None else {}
        new: list[Row] = []
        for packed in rows:
            row = _unpack(table, packed) | fixed
            for name, target in POINTERS.items():
                if row.get(name) is not None and not (name == "parent_id" and row[name] == 0):
                    row[name] = self._map[target][row[name]]
            there = known.get(tuple(row[name] for name in NATURAL[table]))
            if there is None:
                if "id" in row:
                    row["id"] = self._id(table, row["id"])
                if "read_ids" in row:
                    row["read_ids"] = self._read_ids(row["read_ids"])
                new.append(row)
            elif "id" in row:
                self._map[table][row["id"]] = there["id"]
                if table == "turns" and any(there[name] != row[name] for name in SAME):
                    episodes = TABLES["episodes"].c
                    whose = select(episodes.id).where(episodes.number == row["episode_number"])
                    raise UserError(
                        f"import from `{self._source}`: turn `{row['key']}` of episode "
                        f"{self._connection.execute(whose).scalar_one()} "
                        "was played in both journals with different results; import into another journal"
                    )
        self._add(table, new)

    def _known(self, table: str, where: Row) -> dict[tuple[Any, ...], Row]:
        columns = TABLES[table].c
        [(name, value)] = where.items()
        condition = columns[name].in_(value) if isinstance(value, set) else columns[name] == value
        rows = [
            _bytes(table, row) for row in self._connection.execute(select(TABLES[table]).where(condition))
        ]
        return {tuple(row[key] for key in NATURAL[table]): row for row in rows}

    def _read_ids(self, read: Any) -> Any:
        """Ids of the rows a reward was computed from: by table, or a plain list of turns."""
        if isinstance(read, list):
            return [self._map["turns"].get(turn, turn) for turn in read]
        if isinstance(read, dict):
            return {t: [self._map.get(t, {}).get(i, i) for i in ids] for t, ids in read.items()}
        return read

    def _finish(self) -> None:
        for table, key, column, target, old in self._later:
            value = self._map[target].get(old)
            if value is not None:
                rows = TABLES[table]
                unset = update(rows).where(rows.c.id == key, rows.c[column].is_(None))
                self._connection.execute(unset.values({column: value}))
        self._heads.settle(self._connection)

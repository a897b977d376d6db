"""The journal: one store, one truth.

    journal = Journal.open("debates.db")
    run = journal.drive("first", kind="play", protocol="debate", config={}, seed=0)
    episode = run.episode(task, seats=seats)
    [turn] = await episode.turns(["solver/0"], ask, produce)

Resume, rewards, training data, ratings, cost and every report are reads of it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

from sqlalchemy import Executable, select, update
from sqlalchemy.dialects import postgresql, sqlite

from .. import __version__
from ..errors import JournalError, StaleEpoch, UserError, unknown
from .database import Durability, in_memory, open_database, parse_url, transact
from .ids import Ids
from .lock import Lock, acquire, driver_info
from .records import VersionRecord
from .run import JoinedRun, RunHandle
from .schema import Policy, PolicyVersion, Run
from .types import dumps
from .writer import Writer

MAX_NAME = 1000
CONFIGURED = {"evolve": "evolve", "archive": "evolve", "tournament": "tournament"}
"""Kinds of runs that a configuration file names -> the command that alone continues them."""


class Journal:
    """An open journal. Cheap to open, safe to share among coroutines and threads of one process."""

    def __init__(
        self, memory: str | Path = "sqlite://", durability: Durability = "full", read_only: bool = False
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if in_memory(parse_url(memory)):
            # A memory database has one connection, and readers must not see a writer's half commit.
            self._temporary = tempfile.TemporaryDirectory(prefix="sparring-")
            memory = Path(self._temporary.name) / "journal.db"
        self.durability = durability
        self.engine = open_database(memory, durability, read_only)
        self.ids = Ids(self.engine)
        self._locks: WeakSet[Lock] = WeakSet()
        self.writer = Writer(self.engine, self._look_after)

    @classmethod
    def open(cls, memory: str | Path, durability: Durability = "full", read_only: bool = False) -> Journal:
        """Open or create a journal: a file path or a `postgresql://` URL.

        Args:
            read_only: The database itself refuses whatever would write.
        """
        return cls(memory, durability, read_only)

    @classmethod
    @contextmanager
    def at(cls, memory: str | Path | Journal, durability: Durability | None = None) -> Iterator[Journal]:
        """An open journal as it is, or one that is opened here and closed at the end.

        Raises:
            UserError: a journal that is closed, or open with another durability than is asked for.
        """
        if not isinstance(memory, Journal):
            with cls.open(memory, durability or "full") as journal:
                yield journal
            return
        if memory.writer.closed:
            raise UserError("the journal is closed: open it again, or give its file")
        if durability not in (None, memory.durability):
            raise UserError(
                f"the journal is open with durability `{memory.durability}`, not `{durability}`: ask for none"
            )
        yield memory

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is queued and let go of the database."""
        self.writer.close()
        self.engine.dispose()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _look_after(self) -> None:
        """In the writer's thread after each commit."""
        self.ids.refill()
        for lock in list(self._locks):
            lock.keep()

    def execute(self, statement: Executable, rows: Any = None) -> Any:
        """Run one statement in a write transaction of its own, outside the hot path."""
        return transact(self.engine, lambda connection: connection.execute(statement, rows))

    def read(self, query: Executable) -> list[Any]:
        """All rows of a query, asked again where the connection was cut."""
        return transact(self.engine, lambda connection: list(connection.execute(query)), write=False)

    def insert(self, table: Any) -> Any:
        """An insert that leaves existing rows alone."""
        insert = postgresql.insert if self.engine.dialect.name == "postgresql" else sqlite.insert
        return insert(table).on_conflict_do_nothing()

    def runs(self) -> list[str]:
        """Names of all runs, oldest first."""
        return [row.id for row in self.read(select(Run.id).order_by(Run.created_at, Run.id))]

    def run_row(self, run: str) -> Any:
        """The row of a run.

        Raises:
            UserError: there is no such run; the message lists those that exist.
        """
        rows = self.read(select(Run).where(Run.id == run))
        if not rows:
            raise unknown("run", run, self.runs()[-20:])
        return rows[0]

    def has_run(self, run: str) -> bool:
        """Whether the journal holds a run of this name."""
        _check_name(run, 0)
        return bool(self.read(select(Run.id).where(Run.id == run)))

    def drive(
        self,
        run: str,
        *,
        kind: str,
        protocol: str,
        config: Any,
        seed: int,
        parent: str | None = None,
        reread: Callable[[Any], Any] | None = None,
    ) -> RunHandle:
        """Begin a run or take it over; from here on older drivers' writes are refused.

        Args:
            reread: How the configuration of a run that is there is read before it is compared.

        Raises:
            RunLocked: another process drives it.
            UserError: a run of this name exists with another configuration.
        """
        _check_name(run, seed)
        row = {
            "id": run,
            "parent_id": parent,
            "kind": kind,
            "protocol": protocol,
            "config": json.loads(dumps(config)),  # as it will be read, or a tuple would differ from its list
            "seed": seed,
            "status": "open",
            "epoch": 0,
            "driver": None,
            "durability": self.durability,
            "sparring_version": __version__,
            "created_at": time.time(),
            "finished_at": None,
        }
        lock = acquire(self.engine, run)
        try:
            self.execute(self.insert(Run).values(row))
            stored = self.run_row(run)
            _same(run, stored, row, reread)
            epoch = stored.epoch + 1
            taken = update(Run).where(Run.id == run, Run.epoch == stored.epoch)
            values = {
                "epoch": epoch,
                "driver": driver_info(),
                "status": "open",
                "durability": self.durability,
                "finished_at": None,
            }
            if self.execute(taken.values(values)).rowcount != 1 and not self.drives(run, values):
                raise JournalError(f"run `{run}` was taken over by another driver in this instant; try again")
            self._locks.add(lock)
            return RunHandle(self, run, int(stored.seed), epoch, lock)
        except BaseException:
            lock.release()
            raise

    def drives(self, run: str, values: dict[str, Any]) -> bool:
        """Whether a take-over was stored, though the answer that said so was lost."""
        stored = self.run_row(run)
        return bool((stored.epoch, stored.driver) == (values["epoch"], values["driver"]))

    def join(self, run: str, epoch: int) -> JoinedRun:
        """Help the driver of a run, who is at this epoch, to play its episodes.

        Raises:
            StaleEpoch: the run has another driver by now, or the same one at another epoch.
        """
        row = self.run_row(run)
        if row.epoch != epoch:
            raise StaleEpoch(f"run `{run}` is at epoch {row.epoch}, not {epoch}: another driver has it")
        return JoinedRun(self, run, int(row.seed), epoch, None)

    def version(self, record: VersionRecord) -> int:
        """The row id of a policy version; registered under the next number if it is new."""
        self.execute(
            self.insert(Policy).values(
                name=record.policy, live_version_id=None, training_version_id=None, created_at=time.time()
            )
        )
        for _ in range(100):  # another process may take the same number
            query = select(PolicyVersion).where(PolicyVersion.policy == record.policy)
            rows = self.read(query.order_by(PolicyVersion.number))
            for row in rows:
                if (row.base_hash, row.adapter_hash) == (record.base_hash, record.adapter_hash):
                    self._begin_heads(record.policy, rows[0].id)
                    return int(row.id)
            self._register(record, rows[-1].number + 1 if rows else 0)
        raise JournalError(f"policy `{record.policy}` could not be registered")

    def _register(self, record: VersionRecord, number: int) -> None:
        version_id = self.ids.take("policy_versions")
        self.execute(
            self.insert(PolicyVersion).values(
                id=version_id,
                policy=record.policy,
                number=number,
                base_hash=record.base_hash,
                base_spec=record.base_spec,
                adapter_path=record.adapter_path,
                adapter_hash=record.adapter_hash,
                created_at=time.time(),
            )
        )

    def _begin_heads(self, policy: str, version_id: int) -> None:
        """Both heads of a new policy stand at its first version."""
        first = update(Policy).where(Policy.name == policy, Policy.live_version_id.is_(None))
        self.execute(first.values(live_version_id=version_id, training_version_id=version_id))

    def version_row(self, version_id: int) -> Any:
        """The row of a policy version, None if it is gone."""
        return next(iter(self.read(select(PolicyVersion).where(PolicyVersion.id == version_id))), None)


def _check_name(run: str, seed: int) -> None:
    if not run.strip() or not run.isprintable() or len(run) > MAX_NAME:
        shown = run if len(run) <= 80 else run[:80] + "..."
        raise UserError(f"run name {shown!r}: at most {MAX_NAME} visible characters")
    if not -(2**63) <= seed < 2**63:
        raise UserError(f"seed {seed} does not fit 64 bits")


def _same(run: str, stored: Any, wanted: dict[str, Any], reread: Callable[[Any], Any] | None = None) -> None:
    pairs = {"protocol": stored.protocol, "seed": stored.seed, "kind": stored.kind}
    different = [name for name, value in pairs.items() if value != wanted[name]]
    old, new = stored.config or {}, wanted["config"] or {}
    old = reread(old) if reread is not None and stored.kind == wanted["kind"] else old
    different += sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    if different:
        where = "`run` in the configuration" if wanted["kind"] in CONFIGURED else "`--run NAME`"
        how = f"`sparring resume {run}`"
        if stored.kind in CONFIGURED:
            how = f"`sparring {CONFIGURED[stored.kind]}` and the configuration that it was begun with"
        raise UserError(
            f"run `{run}` exists with another {', '.join(different)}: choose another name ({where}), "
            f"or continue the old one with {how}"
        )

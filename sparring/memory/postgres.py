"""What a PostgreSQL session is told, so that nothing there can hang a run.

    postgresql://USER@HOST/NAME?statement_timeout=300&lock_timeout=120

Three settings of PostgreSQL itself, in seconds, 0 for none. A statement or a wait for a lock that takes
longer is cut and tried again; a session that went to sleep within a transaction (its process was stopped)
is ended by the server, so that its locks hold up nobody. A peer that is silent is given up after a minute.
"""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import Connection, Engine, Pool, create_engine, event
from sqlalchemy.engine import URL

from ..errors import UserError

TIMEOUTS_S = {"statement_timeout": 120.0, "lock_timeout": 60.0, "idle_in_transaction_session_timeout": 60.0}
"""Options of the URL and their defaults."""
LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""Of the connection, where the URL does not say otherwise."""


def timeouts(url: URL) -> dict[str, int]:
    """Milliseconds of each setting, as the URL says or by default.

    Raises:
        UserError: an option of the URL is no number of seconds.
    """
    found = {}
    for name, seconds in TIMEOUTS_S.items():
        given = url.query.get(name, seconds)
        try:
            value = float(given) if not isinstance(given, tuple) else math.nan
        except ValueError:
            value = math.nan
        if not 0 <= value < 2**31 / 1000:
            raise UserError(f"memory: `{name}={given}` of the URL is no number of seconds; 0 is none")
        found[name] = math.ceil(1000 * value)
    return found


def connect_postgres(url: URL, settings: dict[str, str], pool: type[Pool] | None = None) -> Engine:
    """An engine all of whose sessions have these settings beside the time-outs of the URL.

    The engine's own `url` keeps the options, so that others can be made from it.
    """
    settings = {**settings, **{name: str(value) for name, value in timeouts(url).items()}}
    arguments = {name: value for name, value in LIBPQ.items() if name not in url.query}
    pooled: dict[str, Any] = {"poolclass": pool} if pool else {"pool_pre_ping": True, "pool_size": 4}
    plain = url.difference_update_query(TIMEOUTS_S)
    engine = create_engine(plain, connect_args=arguments, **pooled)
    engine.url = url
    orders = "; ".join(f"SET {name} = {value}" for name, value in settings.items())

    @event.listens_for(engine, "connect")
    def prepare(dbapi: Any, _: Any) -> None:
        dbapi.execute(orders)
        dbapi.commit()

    return engine


def unhurried(connection: Connection) -> None:
    """Lift the time-out of statements for this transaction: work on a whole journal takes what it takes."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")

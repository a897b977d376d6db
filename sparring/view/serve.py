"""Serve the pages of a journal on loopback until interrupted."""

from __future__ import annotations

import gc
import secrets
import socket
from collections.abc import Callable

from sparring.errors import UserError
from sparring.memory.journal import Journal

HOST = "127.0.0.1"
COLLECT = (100_000, 50, 1000)
"""When Python looks for garbage: seldom, as a report of a million turns holds millions of objects, and to
look through them holds up a page by some tenths of a second."""


def listen(port: int) -> socket.socket:
    """A socket on loopback.

    Raises:
        UserError: the port is taken.
    """
    made = socket.socket(proto=socket.IPPROTO_TCP)  # said, or asyncio leaves delays of 40 ms in its answers
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
        made.listen()  # from here on who comes early waits
    except OSError as error:
        made.close()
        raise UserError(
            f"port {port} cannot be used: {error.strerror}; `--port 0` takes a free one"
        ) from None
    return made


def serve(
    memory: str, port: int, ready: Callable[[str], None], run: str | None = None, own: bool = False
) -> None:
    """Serve until interrupted; `ready` is told the address, which holds a token that is new each time.

    Args:
        run: Whose page the address is of; None: the list of all.
        own: Whether protocols from elsewhere that runs name (`module:Class`) are imported.

    Raises:
        UserError: there is no such run, or the port is taken.
    """
    import uvicorn

    from sparring.view.app import make_app
    from sparring.view.text import link

    with Journal.open(memory, read_only=True) as journal, listen(port) as at:
        token, port = secrets.token_urlsafe(18), at.getsockname()[1]
        page = "/" if run is None else link("/run", name=journal.run_row(run).id)
        name = journal.engine.url.render_as_string(hide_password=True).replace("+psycopg", "")
        config = uvicorn.Config(
            make_app(journal, name, token, port, own),
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        gc.set_threshold(*COLLECT)
        ready(f"http://{HOST}:{port}{page}{'&' if run else '?'}token={token}")
        uvicorn.Server(config).run([at])

"""The tools of MCP servers (Model Context Protocol), over standard input and output or streamable HTTP.

A server is started when a run begins and ended with it. One that dies during a call is an error that the
model reads, since the call may have killed it, and the next call starts it anew; one that cannot be started
again fails the episode. What a server says of its tools, and what they return, is text for the model.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Any

from sparring.errors import ToolFailed, UserError
from sparring.tools.texts import clipped
from sparring.tools.toolbox.base import LONGEST_NAME, Refused, Tool, as_text, untitled

if TYPE_CHECKING:
    from mcp import Client
    from mcp_types import CallToolResult
    from mcp_types import Tool as Listed

log = logging.getLogger("sparring")
MCP = "mcp:"
"""Begins a spec: `mcp:COMMAND ARGUMENT ...`, `mcp:http://HOST/mcp`."""
START_S = 60.0
"""Seconds that a server has to start and list its tools: some are fetched first."""
PAGES = 50
LONGEST_DESCRIPTION = 2000
WORDS = 400
"""Characters of a server's last words that an error quotes."""
_URL = ("http://", "https://")
_NOBODY = logging.NullHandler()
"""Keeps the library's log from standard error where nobody set up logging: a traceback for each line of a
server's standard output that is no message."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


class Unreachable(Exception):
    """A server did not start, or is no MCP server."""


class McpServer:
    """One server: its process or its address, and the connection to it.

    Args:
        spec: A command line, its variables (`$NAME`) taken from the environment, or a URL. The process gets
            HOME, PATH and the like and nothing else of the environment.
    """

    def __init__(self, spec: str) -> None:
        self.spec, self.what = spec, f"MCP server `{spec}`"
        self._leave = asyncio.Event()
        self._kept: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._starting = asyncio.Lock()
        self._said: IO[bytes] | None = None

    @staticmethod
    def check(spec: str) -> None:
        """Raise `UserError` where a server cannot be started or reached as it is written."""
        if find_spec("mcp") is None:
            raise UserError(f"MCP server `{spec}` needs an extra: pip install 'sparring[mcp]'")
        if spec.startswith(_URL):
            if "@" in spec.split("/")[2]:
                raise UserError("the URL of an MCP server must hold no password: the journal would keep it")
            return
        command = _words(spec)[0]
        if shutil.which(command) is None:
            raise UserError(f"MCP server `{spec}`: there is no program `{command}`")

    async def tools(self) -> list[Tool]:
        """Start it and ask what it has, by name.

        Raises:
            UserError: it cannot be started, says nothing in time, or lists what is no tool.
        """
        try:
            async with asyncio.timeout(START_S):
                listed = await self._list(await self._reached())
        except TimeoutError:
            late = f"has listed no tools within {START_S:g} seconds{self._words()}"
            raise UserError(f"{self.what} {late}") from None
        except Unreachable as error:
            raise UserError(str(error)) from None
        except Exception as error:  # whatever the protocol's library makes of its answers
            raise UserError(f"{self.what} cannot list its tools: {_reason(error)}{self._words()}") from None
        names = _plain_names([one.name for one in listed])
        return [self._tool(one, name) for one, name in zip(listed, names, strict=True)]

    async def close(self) -> None:
        """End it."""
        if self._kept is not None:
            self._leave.set()
            if self._client is None:  # it never said hello, and may never do
                self._kept.cancel()
            await asyncio.gather(self._kept, return_exceptions=True)
        self._kept = self._client = None
        if self._said is not None:
            self._said.close()
            self._said = None

    def _tool(self, listed: Listed, name: str) -> Tool:
        description = clipped(listed.description or "", LONGEST_DESCRIPTION)
        try:
            faults, parameters = _validator(listed.input_schema), untitled(listed.input_schema)
        except Exception as error:  # of a schema that is none
            why = f"its schema cannot be used: {_reason(error)}"
            raise UserError(f"{self.what}, tool `{name}`: {why}") from None

        async def call(arguments: dict[str, Any]) -> str:
            if found := list(faults(arguments)):
                raise Refused(f"bad arguments: {'; '.join(found)}")
            return await self._call(listed.name, arguments)

        return Tool(name, description, parameters, call)

    async def _list(self, client: Client) -> list[Listed]:
        found: list[Listed] = []
        cursor: str | None = None
        for _ in range(PAGES):
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return sorted(found, key=lambda one: one.name)
        raise UserError(f"{self.what} lists its tools on more than {PAGES} pages")

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        from mcp import MCPError

        try:
            client = await self._reached()
        except Unreachable as error:
            raise ToolFailed(str(error)) from None
        try:
            given = await client.call_tool(name, arguments)
        except MCPError as error:
            if error.code not in (_NO_SESSION if self.spec.startswith(_URL) else (_CLOSED,)):
                raise Refused(f"{error.message}") from None
            what = "ended" if error.code == _CLOSED else f"said `{clipped(error.message, WORDS)}`"
            log.warning("%s %s during a call of `%s`%s", self.what, what, name, self._words())
            await self._lost(client)
            raise Refused(f"{self.what} {what} during the call; the next one starts it anew") from None
        if given.is_error:
            raise Refused(_text(given))
        return _text(given)

    async def _reached(self) -> Client:
        """The connection; a server that has ended is started anew."""
        async with self._starting:
            if self._client is None:
                await self.close()
                self._leave = asyncio.Event()
                ready: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
                self._kept = asyncio.create_task(self._keep(ready, self._leave))
                self._client = await ready
            return self._client

    async def _lost(self, client: Client) -> None:
        """Forget a connection, unless somebody has a new one already."""
        async with self._starting:
            if self._client is client:
                await self.close()

    async def _keep(self, ready: asyncio.Future[Client], leave: asyncio.Event) -> None:
        """Hold the connection: one task enters and leaves it, as its library asks for."""
        from mcp import Client, StdioServerParameters, stdio_client

        try:
            where: Any = self.spec
            if not where.startswith(_URL):
                command, *rest = _words(self.spec)
                self._said = tempfile.TemporaryFile()  # noqa: SIM115  # `close` closes it
                said: Any = self._said
                where = stdio_client(StdioServerParameters(command=command, args=rest), said)
                logging.getLogger("mcp").addHandler(_NOBODY)
            async with Client(where) as client:
                if not ready.cancelled():
                    ready.set_result(client)
                    await leave.wait()
        except Exception as error:
            if not ready.done():
                why = f"{_reason(error)}{self._words()}"
                ready.set_exception(Unreachable(f"{self.what} cannot be reached: {why}"))
        finally:
            if self._leave is leave:  # whatever ended it, the next call starts anew
                self._client = None

    def _words(self) -> str:
        """The end of what it wrote to standard error."""
        if self._said is None:
            return ""
        with suppress(OSError, ValueError):
            end = self._said.seek(0, os.SEEK_END)
            self._said.seek(max(0, end - 4 * WORDS))  # it may have said gigabytes
            if words := self._said.read().decode(errors="replace").strip():
                return f"; it said last: {words[-WORDS:]}"
        return ""


_CLOSED = -32000
"""The library's code for a connection that has ended (`mcp_types.CONNECTION_CLOSED`)."""
_NO_SESSION = (_CLOSED, -32600, -32603)
"""Its codes for what a server answers over HTTP about a session that it has forgotten (404, mostly): it
would answer every later call so."""


def _words(spec: str) -> list[str]:
    """A command line's words, variables of the environment filled in.

    Raises:
        UserError: quotes that do not close, nothing at all, or a variable that is not set.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in os.environ:
            raise UserError(f"MCP server `{spec}`: the environment has no variable `{name}`")
        return os.environ[name]

    try:
        words = shlex.split(spec)
    except ValueError as error:
        raise UserError(f"MCP server `{spec}`: the command line cannot be read: {error}") from None
    if not words:
        raise UserError("`mcp:` needs a command line or a URL, such as mcp:python server.py")
    return [_VARIABLE.sub(value, word) for word in words]


def _plain_names(names: list[str]) -> list[str]:
    """Names that a model can write and a prompt can hold, each of its own."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:LONGEST_NAME] or "_"
        count, made = 1, plain
        while made in found:
            count += 1
            made = f"{plain}_{count}"
        found.append(made)
    return found


def _validator(schema: dict[str, Any]) -> Callable[[dict[str, Any]], Iterator[str]]:
    """What is wrong with arguments, a few faults at most; nothing that a schema points to is fetched."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    validator = kind(schema, registry=Registry())

    def faults(arguments: dict[str, Any]) -> Iterator[str]:
        for _, fault in zip(range(5), validator.iter_errors(arguments), strict=False):
            yield clipped(f"`{fault.json_path}`: {fault.message}", 300)

    return faults


def _text(given: CallToolResult) -> str:
    """A result as text; what is no text is named with its size."""
    parts: list[str] = []
    for block in given.content:
        if block.type == "text":
            parts.append(block.text)
        elif block.type == "resource":
            inside = block.resource
            parts.append(getattr(inside, "text", None) or f"[resource {inside.uri}, not shown]")
        elif block.type == "resource_link":
            parts.append(f"[resource {block.uri}, not shown]")
        else:
            parts.append(f"[{block.type} {block.mime_type}, {len(block.data)} base64 characters, not shown]")
    if not parts and given.structured_content is not None:
        return as_text(given.structured_content)
    return "\n".join(parts)


def _reason(error: BaseException) -> str:
    """The first single error of what may be a group, on one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return clipped(" ".join(str(error).split()) or type(error).__name__, WORDS)

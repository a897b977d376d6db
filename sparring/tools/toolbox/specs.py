"""Tools by spec, so that a journal can name them and a resumed run find them again.

python                      the interpreter, in the sandbox
package.module:function     a typed function with a docstring, or a `Tool`, in this process
mcp:COMMAND ARGUMENT ...    the tools of an MCP server that is started for the run
mcp:http://HOST:PORT/mcp    those of one that runs already
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import reduce
from typing import Any

from sparring.errors import UserError
from sparring.tools.modules import own_module
from sparring.tools.toolbox.base import SECONDS, SHOWN, Tool, Toolbox
from sparring.tools.toolbox.functions import function_tool
from sparring.tools.toolbox.interpreter import PYTHON, interpreter
from sparring.tools.toolbox.mcp_client import MCP, McpServer

FORMS = "`python`, `package.module:function`, `mcp:COMMAND` or `mcp:URL`"


def tool_specs(given: Any) -> tuple[str, ...]:
    """Specs from what a user gives: one text, separated by commas (quotes hold one together), or a list of
    texts and functions.

    Raises:
        UserError: other forms, nothing, one twice, or a function that cannot be found by its name.
    """
    entries = _split(given) if isinstance(given, str) else given
    if not isinstance(entries, Iterable):
        raise UserError(f"tools: give {FORMS}, or functions, in a list")
    specs = tuple(entry.strip() if isinstance(entry, str) else spec_of(entry) for entry in entries)
    if not specs:
        raise UserError(f"tools: name at least one: {FORMS}")
    for spec, count in Counter(specs).items():
        if spec != PYTHON and ":" not in spec:
            raise UserError(f"unknown tool `{spec}`; give {FORMS}")
        if count > 1:
            raise UserError(f"tool `{spec}` is named twice")
    return specs


_PART = re.compile(r"""(?:[^,"']|"[^"]*"|'[^']*')+""")


def _split(text: str) -> list[str]:
    """The parts between commas; quotes stay, for a command line's own reading."""
    if _PART.sub("", text).strip(","):
        raise UserError(f"tools `{text}`: a quote is never closed")
    return _PART.findall(text)


def spec_of(function: Any) -> str:
    """The name by which another process finds a function.

    Raises:
        UserError: there is none: it is nested, a lambda, or no function at all.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not inspect.isroutine(function) or module is None or name is None:
        raise UserError(f"a tool is a function or a spec ({FORMS}), not {type(function).__name__}")
    found: Any = sys.modules.get(module)
    try:
        found = reduce(getattr, name.split("."), found)
    except AttributeError:
        found = None
    if found is not function:
        raise UserError(
            f"tool `{name}`: a resumed run could not find it by its name `{module}:{name}`; "
            "define it at the top level of a module"
        )
    return f"{module}:{name}"


def _found(spec: str) -> Tool:
    """The function or `Tool` that a spec names."""
    module, _, name = spec.partition(":")
    try:
        given: Any = own_module(module)
    except (ImportError, ValueError) as error:
        where = "its module must be on PYTHONPATH or in the working folder"
        raise UserError(f"tool `{spec}`: {error}; {where}") from None
    except Exception as error:  # of the user's module, whatever it does on import
        raise UserError(f"tool `{spec}`: its module fails: {type(error).__name__}: {error}") from error
    try:
        given = reduce(getattr, name.split("."), given)
    except AttributeError:
        script = "; it was defined in a script: go on with that one" if module == "__main__" else ""
        raise UserError(f"tool `{spec}`: module `{module}` has no `{name}`{script}") from None
    if isinstance(given, Tool):
        return given
    if not inspect.isroutine(given):
        raise UserError(f"tool `{spec}` is neither a function nor a `Tool`")
    return function_tool(given)


def _own(specs: Sequence[str], seconds: float) -> list[Tool]:
    """The tools that need no server."""
    own = [spec for spec in specs if not spec.startswith(MCP)]
    return [interpreter(seconds) if spec == PYTHON else _found(spec) for spec in own]


def check_tools(specs: Sequence[str]) -> None:
    """Raise `UserError` where a tool cannot be had here, as far as can be told without starting it."""
    Toolbox(_own(specs, SECONDS))
    for spec in specs:
        if spec.startswith(MCP):
            McpServer.check(spec.removeprefix(MCP).strip())


@asynccontextmanager
async def open_tools(
    specs: Sequence[str], *, seconds: float = SECONDS, shown: int = SHOWN
) -> AsyncIterator[Toolbox]:
    """The tools of some specs, servers started, until the context is left.

    A server's tool whose name is taken is called `mcpN.NAME`, N counting the servers from 1.

    Raises:
        UserError: one cannot be had.
    """
    check_tools(specs)
    tools = _own(specs, seconds)
    servers = [McpServer(spec.removeprefix(MCP).strip()) for spec in specs if spec.startswith(MCP)]
    async with AsyncExitStack() as stack:
        listed: list[list[Tool]] = []
        for server in servers:
            stack.push_async_callback(server.close)
            listed.append(await server.tools())
        taken = Counter(tool.name for group in (tools, *listed) for tool in group)
        for number, group in enumerate(listed, start=1):
            tools += [replace(t, name=f"mcp{number}.{t.name}") if taken[t.name] > 1 else t for t in group]
        yield Toolbox(tools, seconds=seconds, shown=shown)

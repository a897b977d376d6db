"""A Python function as a tool: its signature is the schema, its docstring the description."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any, NotRequired, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from sparring.errors import UserError
from sparring.tools.toolbox.base import LONGEST_NAME, Refused, Tool, as_text, named, untitled


def function_tool(function: Callable[..., Any], name: str | None = None) -> Tool:
    """A tool of a typed function with a docstring.

    A model's arguments are validated, with pydantic's conversions, before the function is called. A
    coroutine function runs in the event loop, another one in a thread of its own, so that there are several
    calls at a time. One that is given up goes on there, since Python cannot end a thread; it keeps no process
    alive.

    Raises:
        UserError: no types, no docstring, or parameters that JSON cannot name.
    """
    name = name or function.__name__
    what = f"tool `{name}`"
    if not name.isidentifier() or len(name) > LONGEST_NAME:
        raise UserError(f"{what}: give a function with a name of its own, at most {LONGEST_NAME} characters")
    description = inspect.getdoc(function)
    if not description:
        raise UserError(f"{what}: it has no docstring, which is what tells a model what it does")
    if inspect.isasyncgenfunction(function):
        raise UserError(f"{what}: an async generator has no result; return a list")
    arguments = _arguments(function, what)

    async def call(given: dict[str, Any]) -> Any:
        ready = partial(function, **_checked(arguments, given))
        made = ready() if inspect.iscoroutinefunction(function) else await _in_thread(ready)
        return await made if inspect.isawaitable(made) else made

    return Tool(name, description, untitled(arguments.json_schema()), call)


def _arguments(function: Callable[..., Any], what: str) -> TypeAdapter[Any]:
    """The function's parameters as a type; those with a default may be left out."""
    try:
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise UserError(f"{what}: its signature cannot be read: {error}") from None
    fields: dict[str, Any] = {}
    for one in parameters.values():
        if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            raise UserError(f"{what}: parameter `{one.name}` cannot be given by name")
        if one.name not in hints:
            raise UserError(f"{what}: parameter `{one.name}` has no type")
        kind = hints[one.name]
        if one.default is not one.empty:
            plain = isinstance(one.default, bool | int | float | str | None)
            default = one.default if plain else str(one.default)
            kind = NotRequired[Annotated[kind, Field(json_schema_extra={"default": default})]]
        fields[one.name] = kind
    typed: Any = TypedDict
    made = typed("Arguments", fields)
    made.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(made)
        adapter.json_schema()
    except PydanticUserError as error:
        why = error.message.splitlines()[0]
        raise UserError(f"{what}: the type of a parameter has no JSON schema: {why}") from None
    return adapter


def _checked(arguments: TypeAdapter[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        checked: dict[str, Any] = arguments.validate_python(given)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        said = (f"`{'.'.join(map(str, one['loc']))}`: {one['msg']}" for one in faults[:5])
        raise Refused(f"bad arguments: {'; '.join(said)}") from None
    return checked


async def _in_thread(work: Callable[[], Any]) -> Any:
    """The result of a function, as text unless it is to be awaited, from a daemon thread: one that never ends
    keeps nobody from leaving."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()

    def settle(value: Any, error: Exception | None) -> None:
        if not done.done():
            done.set_result((value, error))

    def run() -> None:
        value, error = None, None
        try:
            value = work()
            value = value if inspect.isawaitable(value) else as_text(value)
        except Exception as raised:
            error = raised
        except BaseException as raised:  # which would end the run, were it raised there
            error = RuntimeError(f"it raised {named(raised)}")
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="sparring-tool").start()
    value, error = await done
    if error is not None:
        raise error
    return value

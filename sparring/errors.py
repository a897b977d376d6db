"""Errors by whose fault they are.

The user's faults end a command with exit status 2. The backend's, the sandbox's and the budget's
faults are recorded on the turn or the episode and the run goes on. The model's faults are never
exceptions outside a parser: they are the `status` of a turn. A message says what happened, where,
and what to do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")


class SparringError(Exception):
    """Base of everything Sparring raises on purpose."""

    fault = "internal"


class ToolFailed(SparringError):
    """A tool gave way beneath an episode (sandbox, work tree): it fails, and can be tried again."""

    fault = "sandbox"


class UserError(SparringError):
    """Bad option, missing file, unknown name: the command line prints one line and exits with 2."""

    fault = "user"


class ReplayDiverged(UserError):
    """A journaled turn was asked for again with another request; nothing was written."""


class RunLocked(UserError):
    """Another process drives this run."""


class StaleEpoch(SparringError):
    """This driver lost its run to another one; its writes are refused."""

    fault = "world"


class JournalError(SparringError):
    """The database refused a write for a reason that is not the user's, or holds what cannot be read."""

    fault = "world"


class EngineError(SparringError):
    """The backend failed and retries did not help: the world's fault, status `engine_error`.

    Args:
        retryable: The same call may succeed later (429, 5xx, a lost connection); the engine layer reads it.
        retry_after: Seconds the backend asked to wait first, where it did.
    """

    fault = "world"
    status: Literal["engine_error", "timeout"] = "engine_error"

    def __init__(self, *args: object, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(*args)
        self.retryable = retryable
        self.retry_after = retry_after


class EngineTimeout(EngineError):
    """The backend did not answer in time: the world's fault, status `timeout`; retryable by default."""

    status = "timeout"

    def __init__(self, *args: object, retryable: bool = True, retry_after: float | None = None) -> None:
        super().__init__(*args, retryable=retryable, retry_after=retry_after)


class CapabilityError(UserError):
    """The engine cannot give what the caller needs (token ids, adapters, scores)."""


class BudgetExceeded(SparringError):
    """An episode reached its cap on calls, tokens, time or money."""

    fault = "budget"


class BudgetSpent(SparringError):
    """A whole run reached its budget: what is open stays open, and goes on under a larger one."""

    fault = "budget"


class Pending(SparringError):
    """An episode needs what is known once the others of its run have come as far; then it is played on."""


class SandboxUnavailable(UserError):
    """Model-written code would have to run and no sandbox holds here."""

    fault = "sandbox"


def unknown(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist, listing those that do."""
    return UserError(f"unknown {kind} `{name}`; known: {', '.join(sorted(known)) or 'none'}")


def made(kind: type[M], values: Mapping[str, Any], what: str, fixed: Mapping[str, Any] | None = None) -> M:
    """A model of options from what a user gave.

    Args:
        what: what the options belong to, for the message: "loss `grpo`".
        fixed: fields that are not the user's to give.

    Raises:
        UserError: an option that does not exist (those that do are listed), or a value that does not fit.
    """
    from pydantic import ValidationError

    known = kind.model_fields.keys() - (fixed or {}).keys()
    for name in values:
        if name not in known:
            raise unknown(f"option of {what}", name, known)
    try:
        return kind(**{**(fixed or {}), **values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{what}{f', option `{where}`' if where else ''}: {said}") from None


def place_of(error: Exception, module: str) -> str:
    """Where an error that was raised came from: the innermost line of a module's file, else of any."""
    frames = extract_tb(error.__traceback__)
    file = getattr(sys.modules.get(module), "__file__", None)
    frame = next((one for one in reversed(frames) if one.filename == file), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"


def json_value(data: bytes | str, where: str) -> Any:
    """The value of a JSON text that a user gave.

    Args:
        where: where it stands, for the message: "tasks `a.jsonl`, line 3".

    Raises:
        UserError: it is no JSON, or not UTF-8.
    """
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(f"{where}: malformed JSON, {error.msg} ({line}column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: malformed JSON, {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def kind_of(value: Any) -> str:
    """How a message calls a JSON value."""
    if isinstance(value, str) and not value.strip():
        return "a blank text" if value else "an empty text"
    if isinstance(value, list | dict) and not value:
        return "an empty list" if isinstance(value, list) else "an empty object"
    names: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), type(value).__name__)

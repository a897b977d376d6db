"""Tests a program that a model wrote. Itself a program, not a module of ours to import:

    python -I -S -c SOURCE < job

It is started inside the sandbox and splits in two at once. The child gets the program and nothing else: not
the tests, not what they expect, not the nonce, not the standard output. The parent holds those, calls the
program's functions through a pipe and compares plain values. So what a program prints, how it exits, which
names it patches and how its objects compare are of no use to it: it passes by returning what is expected. The
parent cannot be looked into (`PR_SET_DUMPABLE`), and killed it reports nothing, which is no pass.

The job is JSON: `nonce`, `program` (text), `setup` (text of the task, trusted: helpers that tests use),
`tests` (text), `entry` (name that is handed to the tests' `check`, or null), `names` (functions that the
tests call). The report is one line: the nonce, then JSON `[status, reason]` with status `passed`, `failed`,
`no code` or `tests` (these are not usable: they do not run, or let anything pass).
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import sys
from typing import Any, NoReturn

PR_SET_DUMPABLE = 4
NOT_BEGUN = 75
"""Status where there is no place for the program's process."""
LONGEST = 64 << 20
"""Bytes of one message."""
REASON = 300
"""Characters."""

# --- plain values as JSON ----------------------------------------------------------------------------


def pack(value: Any, depth: int = 0) -> Any:
    """A plain value as JSON that keeps its type; a subclass counts as its base.

    Raises:
        TypeError: it is no plain value.
        ValueError: it is nested too deeply.
    """
    if depth > 200:
        raise ValueError("a value is nested too deeply")
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return ["i", hex(value)]
    if isinstance(value, float):
        return ["f", float.__repr__(value)]
    if isinstance(value, complex):
        return ["c", [value.real.hex(), value.imag.hex()]]
    if isinstance(value, bytes | bytearray):
        return ["b" if isinstance(value, bytes) else "B", bytes(value).hex()]
    for mark, kind in KINDS.items():
        if isinstance(value, kind):
            return [mark, [pack(each, depth + 1) for each in kind(value)]]
    if isinstance(value, dict):
        return ["d", [[pack(key, depth + 1), pack(each, depth + 1)] for key, each in dict(value).items()]]
    raise TypeError(f"a value of type {type(value).__name__}, which cannot be compared")


KINDS: dict[str, type] = {"l": list, "t": tuple, "s": set, "z": frozenset}


def unpack(value: Any) -> Any:
    """The value again; `ValueError`, `TypeError` or `KeyError` for what `pack` did not make."""
    if value is None or isinstance(value, bool | str):
        return value
    mark, held = value
    if mark in KINDS:
        return KINDS[mark](unpack(each) for each in held)
    if mark == "d":
        return {unpack(key): unpack(each) for key, each in held}
    if mark == "c":
        return complex(*map(float.fromhex, held))
    readers: dict[str, Any] = {"i": lambda text: int(text, 16), "f": float}
    readers |= {"b": bytes.fromhex, "B": bytearray.fromhex}
    return readers[mark](held)


class Line:
    """JSON messages, one a line, over two pipes."""

    def __init__(self, source: int, target: int) -> None:
        self._source, self._target = os.fdopen(source, "rb"), target
        self.stopped: Stopped | None = None

    def send(self, message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._target, data) :]

    def read(self) -> Any:
        """The next message; `EOFError` at the end or for what is no message."""
        text = self._source.readline(LONGEST)
        if not text.endswith(b"\n"):
            raise EOFError("the program ended before it answered")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise EOFError("the program sent no answer") from None


# --- the child: the program --------------------------------------------------------------------------


def serve(line: Line) -> NoReturn:
    """Run the program, then its functions as they are asked for."""
    space: dict[str, Any] = {"__name__": "program"}
    try:
        exec(compile(line.read(), "<program>", "exec"), space)
        line.send(["ok", None])
        while True:
            name, arguments, named = line.read()
            line.send(answer(space, name, unpack(arguments), unpack(named)))
    except SyntaxError as error:
        line.send(["syntax", [f"{error.msg}, line {error.lineno}", ""]])
    except BaseException as error:
        line.send(["raised", [type(error).__name__, str(error)[:REASON]]])
    os._exit(0)


def answer(space: dict[str, Any], name: str, arguments: Any, named: Any) -> list[Any]:
    """What a function gives back, or what it raises."""
    if name not in space:
        return ["missing", [name, ""]]
    try:
        return ["ok", pack(space[name](*arguments, **named))]
    except BaseException as error:
        return ["raised", [type(error).__name__, str(error)[:REASON]]]


# --- the parent: the tests ---------------------------------------------------------------------------


BUILT_IN: dict[str, Any] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type)
    and issubclass(kind, Exception)
    and not issubclass(kind, StopIteration | StopAsyncIteration | ExceptionGroup)
}
"""Not what a loop of the tests would take for its end, which leaves the rest untested."""


class Stopped(BaseException):
    """The program cannot go on; tests that catch even this do not pass."""


class Unusable(Exception):
    """The tests do not run, whatever the program is."""


def proxy(line: Line, name: str) -> Any:
    """A function that runs the program's function of this name."""

    def call(*arguments: Any, **named: Any) -> Any:
        if line.stopped:
            raise line.stopped
        message = [name, *packed(arguments, named)]
        try:
            line.send(message)
            return received(line)
        except BrokenPipeError:
            line.stopped = Stopped("failed", "the program ended before it was asked")
        except Stopped as stop:
            line.stopped = stop
        raise line.stopped

    return call


def packed(*values: Any) -> list[Any]:
    """Arguments for the pipe; what it cannot carry is the tests' fault."""
    try:
        return [pack(each) for each in values]
    except TypeError as error:
        raise Unusable(f"an argument is {error}") from None


def received(line: Line) -> Any:
    """The program's next answer: a value, or the exception that it names."""
    try:
        kind, held = line.read()
        if kind == "ok":
            return unpack(held)
        first, text = map(str, held)
    except (EOFError, BrokenPipeError) as error:
        raise Stopped("failed", str(error)) from None
    except Exception:
        raise Stopped("failed", "the program sent no answer") from None
    if kind == "syntax":
        raise Stopped("no code", first)
    if kind == "missing":
        raise Stopped("no code", f"it defines no `{first}`")
    raise raised(first, text)


def raised(name: str, text: str) -> Exception:
    """What the program raised, if it is built in; otherwise a `RuntimeError` that names it."""
    kind: type[Exception] | None = BUILT_IN.get(name)
    if kind is None:
        return RuntimeError(f"{name}: {text}")
    if issubclass(kind, UnicodeError):  # made of more than a text, which does not come through the pipe
        kind = type(name, (kind,), {"__init__": lambda *_: None, "__str__": lambda _: text})
    return kind(text)


def run_tests(job: dict[str, Any], functions: dict[str, Any]) -> None:
    """Run the tests on these functions; raises where one fails."""
    space: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(job["setup"], "<setup>", "exec"), space)
        space.update(functions)  # tests may call the function by its name, too
        tests = compile(job["tests"], "<tests>", "exec")
        if job["entry"] is not None:
            exec(tests, space)
            check: Any = space["check"]
    except Exception as error:
        raise Unusable(said(error)) from None
    if job["entry"] is not None:
        check(functions[job["entry"]])
    else:
        exec(tests, space)


def said(error: BaseException) -> str:
    """Type, line of the tests and text."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            place = f" in line {trace.tb_lineno} of the tests"
        trace = trace.tb_next
    return f"{type(error).__name__}{place}{': ' if str(error) else ''}{error}"[:REASON]


def judged(job: dict[str, Any], line: Line) -> tuple[str, str]:
    """Status and reason. What nothing could be right for, and what anything passes, is the tests' fault."""
    nothing = {name: lambda *_, **__: object() for name in job["names"]}
    try:
        run_tests(job, nothing)
        return "tests", "they pass for a function that returns anything"
    except Unusable as error:
        return "tests", str(error)
    except (Exception, SystemExit):
        pass  # as it should be
    try:
        line.send(job["program"])
        received(line)
        run_tests(job, {name: proxy(line, name) for name in job["names"]})
        if line.stopped:  # and the tests caught it
            raise line.stopped
    except Unusable as error:
        return "tests", str(error)
    except Stopped as stop:
        return str(stop.args[0]), str(stop.args[1])
    except (Exception, SystemExit) as error:
        return "failed", said(error)
    return "passed", ""


def main() -> None:
    """Split, then be one of the two."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    asks, tells = os.pipe(), os.pipe()
    sys.stdout.flush()
    try:
        child = os.fork()
    except OSError:  # another command's processes fill the limit: the program has not been seen yet
        os._exit(NOT_BEGUN)
    if child == 0:
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        os.close(asks[1])
        os.close(tells[0])
        serve(Line(asks[0], tells[1]))
    os.close(asks[0])
    os.close(tells[1])
    job = json.loads(sys.stdin.buffer.read())
    report = judged(job, Line(tells[0], asks[1]))
    os.write(1, f"\n{job['nonce']} {json.dumps(report)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    main()

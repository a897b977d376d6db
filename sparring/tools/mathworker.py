"""Symbolic comparison of answers by math-verify, in a process of its own that may be killed.

math-verify limits its time by signals, so it works in a main thread only, and some inputs
(`10**10**10`) outlast its limit inside one C call. Here it runs in a child process: a fresh
interpreter on this very file, so that it needs no guard in the user's main module, inherits no
threads, and sees no environment variables but those that Python itself needs. The parent kills it
at the time limit and starts another for the next question. The child ends with its parent: it reads
end of file, and its own alarm and memory limit end a computation that nobody waits for.

Requests and replies are JSON lines; nothing is unpickled. Only LaTeX parsing is asked of
math-verify, because its plain-expression parser hands the text to `eval`.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

T = TypeVar("T")

SECONDS = 5.0
"""Time limit of one comparison, parsing included, start-up of the worker excluded."""
START_SECONDS = 60.0
MEMORY_BYTES = 2 << 30
KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What math-verify made of two texts; `first` and `second` are the parsed forms, None if unparsable."""

    equal: bool
    first: str | None = None
    second: str | None = None
    problem: Literal["", "unparsable", "timeout", "crash"] = ""


class MathWorker:
    """One lazily started child process; safe to use from any thread and from coroutines."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._threads: ThreadPoolExecutor | None = None
        atexit.register(self.close)

    def compare(self, first: str, second: str, *, both: bool = False, seconds: float = SECONDS) -> Comparison:
        """Whether `second` equals the gold text `first`; with `both`, or the other way round.

        A time-out and a crash are results, not exceptions: the text did it.

        Raises:
            SparringError: the worker cannot be started at all (math-verify is missing or broken).
        """
        request = json.dumps({"first": first, "second": second, "both": both, "seconds": seconds})
        with self._lock:
            for _ in range(2):  # the worker may have died idle, which is not this text's fault
                reply, late = self._ask(request.encode(), seconds)
                if reply is not None:
                    return Comparison(**reply)
                if late:
                    return Comparison(False, problem="timeout")
        return Comparison(False, problem="crash")

    async def run(self, blocking: Callable[..., T], *args: Any) -> T:
        """Run `blocking`, which calls `compare`, on this worker's thread, off the event loop.

        One thread is enough, since there is one process, and the loop's own pool stays free.
        """
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, thread_name_prefix="sparring-math")
        return await asyncio.get_running_loop().run_in_executor(self._threads, blocking, *args)

    def close(self) -> None:
        """End the child now; the next comparison starts another."""
        process, self._process = self._process, None
        if process is not None and self.pid == os.getpid():
            _end(process)

    def _ask(self, request: bytes, seconds: float) -> tuple[dict[str, Any] | None, bool]:
        """(reply or None, whether the time limit struck)."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            line, late = _exchange(process, request + b"\n", seconds)
        except BaseException:  # an interrupt must not leave an unread reply for the next question
            self.close()
            raise
        if line.endswith(b"\n"):
            return json.loads(line), False
        self.close()
        return None, late

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent; it decides what happens to the child
        )
        line, _ = _exchange(process, b"", START_SECONDS)
        if line != b"ready\n":
            from sparring.errors import SparringError  # not on top: the child has no need of the package

            _end(process)
            raise SparringError(
                "the math-verify worker did not start; "
                f"try `{os.path.basename(sys.executable)} -c 'import math_verify'` to see why"
            )
        self._process = process
        return process


def _exchange(process: subprocess.Popen[bytes], request: bytes, seconds: float) -> tuple[bytes, bool]:
    """Send, and read one line; at the time limit the process is killed, which ends the read."""
    assert process.stdin is not None and process.stdout is not None
    late = threading.Event()

    def strike() -> None:
        late.set()
        process.kill()

    watchdog = threading.Timer(seconds, strike)
    watchdog.daemon = True
    watchdog.start()
    try:
        process.stdin.write(request)
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = b""
    finally:
        watchdog.cancel()
    return line, late.is_set()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # closing flushes what the dead child never read
                pipe.close()


_shared: MathWorker | None = None
_shared_lock = threading.Lock()


def shared() -> MathWorker:
    """The worker of this process; a forked child gets one of its own."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.pid != os.getpid():
            _shared = MathWorker()
        return _shared


# --- the child ---------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests from standard input until it ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    _limit_memory()
    from math_verify import parse  # type: ignore[import-untyped]  # no stubs; slow to import, and only the child needs it

    parse("$1$", parsing_timeout=None)  # builds the grammar now, outside any time limit
    replies.write(b"ready\n")
    replies.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _alarm(request["seconds"] + 5)
        replies.write(json.dumps(_compare(request)).encode() + b"\n")
        replies.flush()
        _alarm(0)


def _compare(request: dict[str, Any]) -> dict[str, Any]:
    from math_verify import verify

    try:
        first, second = _parsed(request["first"]), _parsed(request["second"])
        if not first or not second:
            return {"equal": False, "first": _shown(first), "second": _shown(second), "problem": "unparsable"}
        equal = verify(first, second, timeout_seconds=None) or (
            request["both"] and verify(second, first, timeout_seconds=None)
        )
        return {"equal": bool(equal), "first": _shown(first), "second": _shown(second)}
    except (ArithmeticError, MemoryError, RecursionError, ValueError):
        return {"equal": False, "problem": "unparsable"}


def _parsed(text: str) -> list[Any]:
    """[expression, its text], or [] where no mathematics stands there."""
    from math_verify import LatexExtractionConfig, parse

    found: list[Any] = parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None)
    return found


def _shown(parsed: list[Any]) -> str | None:
    return str(parsed[0])[:200] if parsed else None


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, OSError, ValueError):  # a system without this limit still has the time limit
        pass


def _alarm(seconds: float) -> None:
    """End this process after so long, even in the middle of a C call; 0 cancels."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    serve()

"""The process from which supervisors are forked (`inside.zygote`), as Sparring sees it."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

INSIDE = Path(__file__).parent
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from inside.zygote import main; main()"


def interpreter() -> str:
    """The Python that starts what is inside: this one, as the file that it really is."""
    return os.path.realpath(sys.executable)


class Zygote:
    """One lazily started process; safe to use from any thread."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    def fork(self, files: list[int]) -> None:
        """Start a supervisor with these open files (`inside.zygote`); they stay open here.

        Raises:
            OSError: no process could be started.
        """
        with self._lock:
            for attempt in range(2):
                if self._line is None:
                    self._start()
                assert self._line is not None  # just made
                try:
                    socket.send_fds(self._line, [b"+"], files)
                    return
                except (BrokenPipeError, ConnectionError):  # it was killed
                    self.close()
                    if attempt:
                        raise

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [interpreter(), "-I", "-S", "-c", BOOT, str(INSIDE), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env={},
                start_new_session=True,
            )
        self._line = ours
        held.add(ours.fileno())
        atexit.register(self.close)

    def close(self) -> None:
        """Let it end; commands under way go on, and the next one starts another."""
        line, process = self._line, self._process
        self._line = self._process = None
        atexit.unregister(self.close)
        if line is not None:
            held.discard(line.fileno())
            line.close()
        if process is not None and self.pid == os.getpid():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


_shared: Zygote | None = None
_shared_lock = threading.Lock()
held: set[int] = set()
"""Open files by whose end the zygote and the supervisors know that this process is gone."""


def shared() -> Zygote:
    """The one of this process; a forked child gets one of its own."""
    global _shared
    _watch_forks()
    with _shared_lock:
        if _shared is None or _shared.pid != os.getpid():
            if _shared is not None:
                _shared.close()
            _shared = Zygote()
        return _shared


@cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    """In a child: let go of what is held, or the parent's commands would outlive the parent.

    The numbers stay taken, since objects of the parent that are copied here may close them once more. The
    lock may have been held by a thread that is not here.
    """
    global _shared_lock
    _shared_lock = threading.Lock()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in held:
        os.dup2(nothing, number, inheritable=False)
    held.clear()
    os.close(nothing)

"""The process between Sparring and the command: it starts, watches and ends the command's whole tree.

As a child subreaper it inherits every process whose parent ended, so that nothing escapes by forking twice
or by leaving the session. It ends the tree when the command's first process ends, when a limit is passed,
when Sparring asks (a byte on the control pipe) or is gone (the pipe's end).
"""

from __future__ import annotations

import marshal
import os
import select
import time

from . import confine
from .confine import STARTED
from .linux import PR_SET_CHILD_SUBREAPER, prctl
from .namespaces import Namespaces
from .tree import descendants, kill_all, proportional, resident

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
    from typing import Any, NoReturn
else:
    import _signal as signal

TAKEN = b"+"
"""Said first of all; where it is missing, nothing was begun."""
TICK = 0.1
"""Seconds between two looks at memory and number of processes."""


def read_plan(control: int) -> dict[str, Any]:
    """The plan: 8 bytes of length, then marshalled bytes."""
    wanted, data = 8, b""
    while len(data) < wanted:
        piece = os.read(control, min(wanted - len(data), 1 << 16))
        if not piece:
            os._exit(124)  # Sparring ended before it said what to do
        data += piece
        if wanted == 8 and len(data) == 8:
            wanted += int.from_bytes(data, "little")
    plan: dict[str, Any] = marshal.loads(data[8:])
    return plan


def fork(become: Callable[[int], NoReturn]) -> int:
    """A child, which `become` turns into something else; it gets this one's number."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        become(parent)
    return pid


def begin(plan: dict[str, Any], control: int, start: int) -> int | None:
    """Start the command; the number of its first process, None where the sandbox did not come about.

    Args:
        control: gives up once something comes from there.
        start: the pipe on which the command's process says that it began, or why not.
    """
    if plan["wrap"] is None:
        return fork(lambda parent: confine.direct(plan, parent, start))
    spaces = Namespaces(fork, lambda parent, more: confine.wrapped(plan, parent, more))
    holder = spaces.wait(control)
    if holder is None:
        return None
    hear, tell = os.pipe()
    fork(lambda parent: confine.join(plan, parent, holder, start, tell))
    os.close(tell)
    number = os.read(hear, 8)
    os.close(hear)
    os.close(holder)
    return int.from_bytes(number, "little") if number else None


def release() -> None:
    """Let go of the command's pipes, which must end when the command's tree does."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


class Watch:
    """The tree under way: what was heard of it, and why it was ended."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.first: int | None = None
        self.status: int | None = None
        self.reason: str | None = None
        self.peak = 0

    def reap(self) -> None:
        """Take note of every process that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.first and not os.WIFSTOPPED(status):  # a traced child reports stops too
                self.status = os.waitstatus_to_exitcode(status)

    def look(self) -> None:
        """Compare the whole tree with its limits on memory (bytes) and processes."""
        tree = descendants()
        used = sum(map(resident, tree))
        if used > self.plan["memory"]:  # perhaps only because what forks share is counted for each
            used = sum(map(proportional, tree))
        self.peak = max(self.peak, used)
        if used > self.plan["memory"]:
            self.reason = "memory"
        elif len(tree) > self.plan["processes"] + self.plan["own"]:
            self.reason = "processes"

    def until_over(self, control: int, woken: int) -> None:
        """Return once the first process ended or there is a reason to end it."""
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.register(woken, select.POLLIN)
        end = time.monotonic() + self.plan["wall"]
        look = time.monotonic() + TICK
        while self.status is None and self.reason is None:
            now = time.monotonic()
            if now >= end:
                self.reason = "wall"
                return
            if now >= look:
                self.look()
                look = time.monotonic() + TICK
            ready = dict(poll.poll(max(0.0, min(end, look) - time.monotonic()) * 1000 + 1))
            if woken in ready:
                os.read(woken, 4096)
            if control in ready:
                said = os.read(control, 1)
                self.reason = "output" if said == b"o" else "cancelled"
            self.reap()


def run(control: int, answer: int) -> NoReturn:
    """Run one plan, read from `control`; the result is marshalled onto `answer`, after `TAKEN`."""
    plan = read_plan(control)
    os.write(answer, TAKEN)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    hear, start = os.pipe()
    begun = time.monotonic()
    watch = Watch(plan)
    try:
        watch.first = begin(plan, control, start)
        os.close(start)
        release()
        begun = time.monotonic()
        if watch.first is not None:
            watch.until_over(control, woken)
        seconds = time.monotonic() - begun
    finally:
        survivors = kill_all(watch.reap)
    said = os.read(hear, 4096)
    result = {
        "started": said.startswith(STARTED),
        "said": said.removeprefix(STARTED).decode(errors="replace"),
        "status": watch.status,
        "reason": watch.reason,
        "seconds": seconds,
        "peak": watch.peak,
        "left": max(0, survivors - plan["own"]) if watch.reason is None else 0,
    }
    os.write(answer, marshal.dumps(result))
    os._exit(0)  # without the interpreter's tidying up, which takes milliseconds

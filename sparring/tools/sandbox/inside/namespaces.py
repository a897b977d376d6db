"""Bubblewrap's namespaces, and the way into them.

Landlock has to come after bubblewrap, since whoever it confines may not mount, and an interpreter started
inside to apply it would cost more than all the rest. So bubblewrap starts a shell that only waits, and a
process forked from the supervisor joins its namespaces, by the right that every user has over the user
namespaces that it made. The shell holds them open; with it, with bubblewrap and with the supervisor they end,
and the kernel kills whoever is in them.
"""

from __future__ import annotations

import json
import os
import select

from .linux import CLONE_NEW_ALL, drop_capabilities, setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

SECONDS = 20.0
"""Within which bubblewrap must be ready."""
WAITING = ["/bin/sh", "-c", "echo; read nothing"]


class Namespaces:
    """Those of one command: made by a forked process that becomes bubblewrap, open while this object is."""

    def __init__(
        self,
        fork: Callable[[Callable[[int], NoReturn]], int],
        become: Callable[[int, list[str]], NoReturn],
    ) -> None:
        """Start it.

        Args:
            fork: makes a child, in which it calls a function with the parent's number.
            become: turns the child into bubblewrap with these arguments added.
        """
        told, tell = os.pipe()
        ready, say = os.pipe()
        waits, self.hold = os.pipe()

        def child(parent: int) -> NoReturn:
            os.dup2(waits, 0)
            os.dup2(say, 1)
            os.set_inheritable(tell, True)
            become(parent, ["--info-fd", str(tell), "--", *WAITING])

        fork(child)
        for number in (tell, say, waits):
            os.close(number)
        self.told, self.ready = told, ready

    def wait(self, control: int) -> int | None:
        """A file that stands for the process which holds them, for `join`; None where there are none.

        Args:
            control: gives up once something comes from there.
        """
        poll = select.poll()
        poll.register(control, select.POLLIN)
        info = self._read(poll, self.told, 4096)
        ready = self._read(poll, self.ready, 1) if info else b""
        os.close(self.told)
        os.close(self.ready)
        return os.pidfd_open(json.loads(info)["child-pid"]) if ready else None

    def _read(self, poll: select.poll, source: int, most: int) -> bytes:
        """Up to `most` bytes, less at the end of what comes or where `control` has something."""
        data, control = b"", False
        poll.register(source, select.POLLIN)
        while len(data) < most and not control:
            found = [number for number, _ in poll.poll(SECONDS * 1000)]
            control = source not in found
            piece = b"" if control else os.read(source, most)
            if not piece:
                break
            data += piece
        poll.unregister(source)
        return b"" if control else data


def join(holder: int) -> int:
    """Enter the namespaces and fork there, since a process number's namespace is that of children only.

    Returns:
        0 in the child, its number for the outside in the parent. The child has no capability.

    Raises:
        OSError: not allowed, or they are gone.
    """
    setns(holder, CLONE_NEW_ALL)
    child = os.fork()
    if child == 0:
        drop_capabilities()
    return child

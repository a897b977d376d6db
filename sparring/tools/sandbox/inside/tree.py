"""All processes below this one: finding them, and ending them so that none is left."""

from __future__ import annotations

import os
from time import sleep

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal

BY_CHILDREN = os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", 0) as file:
                found += map(int, file.read().split())
    except OSError:
        pass  # it ended; its children are ours now and are found so
    return found


def _parents() -> dict[int, list[int]]:
    """Parent -> children, of all processes: for kernels without the `children` file."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb", 0) as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue
            below.setdefault(parent, []).append(int(name))
    return below


def descendants() -> list[int]:
    """Process ids of the whole tree below this process, parents first; ended but unreaped ones included."""
    below = None if BY_CHILDREN else _parents()
    found: dict[int, None] = {}
    todo = [os.getpid()]
    while todo:
        pid = todo.pop()
        for each in _children(pid) if below is None else below.get(pid, []):
            if each not in found:
                found[each] = None
                todo.append(each)
    return list(found)


def _fields(path: str, names: tuple[bytes, bytes]) -> int | None:
    """The sum of two fields in bytes, None where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            lines = [line.split() for line in file if line.startswith(names)]
    except OSError:
        return None
    return sum(int(line[1]) << 10 for line in lines)


def resident(pid: int) -> int:
    """Bytes that a process holds in RAM, pages of files aside; what several share counts for each of them."""
    return _fields(f"/proc/{pid}/status", (b"RssAnon:", b"RssShmem:")) or 0


def proportional(pid: int) -> int:
    """The same, what is shared divided by how many share it; takes a walk through the process's pages."""
    found = _fields(f"/proc/{pid}/smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:"))
    return resident(pid) if found is None else found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_all(reap: Callable[[], None]) -> int:
    """End every process below this one; returns how many were still there at first.

    They are stopped first, until a look finds no new one, so that a tree that forks faster than it can be
    killed stands still.

    Args:
        reap: waits without blocking for all children that ended.
    """
    reap()
    stopped: set[int] = set()
    for _ in range(1000):
        new = [pid for pid in descendants() if pid not in stopped]
        if not new:
            break
        _signal(new, signal.SIGSTOP)
        stopped.update(new)
    left, pause = len(stopped), 0.0
    while tree := descendants():
        _signal(tree, signal.SIGKILL)
        sleep(pause)
        pause = min(0.02, pause + 0.0005)
        reap()
    return left

"""The last steps before the command: a process gives up all it must not have, then becomes the command."""

from __future__ import annotations

import os
import resource

from . import landlock, mounts, namespaces, seccomp
from .linux import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any, NoReturn
else:
    import _signal as signal

IGNORED = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
)
STARTED = b"+"
"""Said on the start pipe as the last thing before the command; without it the sandbox did not come about."""


def tasks_of(uid: int) -> int:
    """Processes and threads of a user that `/proc` shows."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += os.stat(f"/proc/{name}/task").st_nlink - 2
            except OSError:
                continue  # ended meanwhile
    return count


def limit(limits: dict[str, int]) -> None:
    """Set resource limits, never above what this process has.

    Args:
        limits: a name of `resource.RLIMIT_*` -> its value; `NPROC` counts from the tasks the user has now,
            since the kernel counts all of a user's.
    """
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        if name == "NPROC":
            value += tasks_of(os.getuid())
        most = resource.getrlimit(kind)[1]
        hard = value + (name == "CPU")  # a second between the signal that names the reason and the kill
        if most != resource.RLIM_INFINITY:
            value, hard = min(value, most), min(hard, most)
        resource.setrlimit(kind, (value, hard))


def become(uid: int) -> None:
    """Drop to an unprivileged user and group, for good."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def lower(plan: dict[str, Any], parent: int) -> None:
    """Give up rights: root's for good, those that a program could bring back, and life without `parent`.

    Args:
        parent: the process that started this one.
    """
    os.umask(0o022)
    if plan["uid"] is not None:
        become(plan["uid"])
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    if parent != os.getppid():
        os._exit(124)  # it died before that
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)  # Python ignores some, and ignoring is inherited


def wrapped(plan: dict[str, Any], parent: int, more: list[str]) -> NoReturn:
    """Become bubblewrap, with `more` arguments; what goes wrong is said on the standard error."""
    try:
        if plan["closed"]:
            mounts.uncover(plan["closed"])
        lower(plan, parent)
        os.execve(plan["wrap"][0], [*plan["wrap"], *more], {})
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
    os._exit(125)


def join(plan: dict[str, Any], parent: int, holder: int, start: int, tell: int) -> NoReturn:
    """Go into bubblewrap's namespaces and become the command there; its process number is said on `tell`."""
    try:
        lower(plan, parent)
        child = namespaces.join(holder)
        if child:
            os.write(tell, child.to_bytes(8, "little"))
            os._exit(0)
    except BaseException as error:
        failed(start, error)
    enter(plan, start)


def direct(plan: dict[str, Any], parent: int, start: int) -> NoReturn:
    """Become the command without bubblewrap."""
    try:
        if plan["closed"]:
            mounts.uncover(plan["closed"])
        lower(plan, parent)
    except BaseException as error:
        failed(start, error)
    enter(plan, start)


def failed(start: int, error: BaseException) -> NoReturn:
    """End before the command began, and say why."""
    os.write(start, f"{type(error).__name__}: {error}".encode())
    os._exit(125)


def enter(plan: dict[str, Any], start: int) -> NoReturn:
    """Become the plan's command, shut in as the plan says; says `STARTED` on the pipe `start`.

    Whatever fails before is said there as text and nothing is run.
    """
    try:
        os.setsid()
        os.chdir(plan["cwd"])
        limit(plan["limits"])
        os.closerange(3, start)
        os.closerange(start + 1, 1024)
        if plan["landlock"]:
            landlock.restrict(**plan["landlock"])
        if plan["seccomp"]:
            seccomp.install(**plan["seccomp"])
        os.set_inheritable(start, False)
        os.write(start, STARTED)
    except BaseException as error:
        failed(start, error)
    try:
        os.execvpe(plan["command"][0], plan["command"], plan["env"])
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        why = error.strerror if isinstance(error, OSError) else str(error)
        os.write(2, f"{plan['command'][0]}: {why}\n".encode(errors="replace"))
        os._exit(127 if missing else 126)

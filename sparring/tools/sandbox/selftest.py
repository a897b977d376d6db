"""What a mechanism is worth on this machine: attempts to break out, made once per process."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

from sparring.errors import SandboxUnavailable, SparringError

from . import bubblewrap
from .base import Description, Limits, Options, Ran
from .container import Containers
from .inside import landlock, seccomp
from .zygotes import interpreter

MEMORY = 512 << 20
ATTEMPTS = """
import ctypes, fcntl, json, mmap, os, sys
work, secret, target, prefix, host = sys.argv[1:6]
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def blocked(name, attempt):
    try:
        attempt()
        found[name] = False
    except (OSError, MemoryError, ImportError, ValueError):
        found[name] = True

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def tcp():
    import _socket
    _socket.socket(2, 1)

def unix():
    import _socket
    _socket.socket(1, 1)

def work_is_writable():
    for folder in (work, os.environ["TMPDIR"]):
        with open(folder + "/probe", "w") as file:
            file.write("x")

blocked("read a file outside", lambda: open(secret).read())
blocked("write a file outside", lambda: open(target, "a").write("x"))
blocked("write the interpreter", lambda: open(prefix + "/sandbox-probe", "w"))
blocked("open an internet socket", tcp)
blocked("open a unix socket", unix)
blocked("signal a process outside", lambda: os.kill(int(host), 0))
blocked("read the memory of a process", lambda: called(libc.process_vm_readv(os.getpid(), 0, 0, 0, 0, 0)))
blocked("make a user namespace", lambda: called(libc.unshare(0x10000000)))
blocked("take memory above the limit", lambda: mmap.mmap(-1, 1 << 30))
given = {"PATH", "HOME", "TMPDIR", "LANG", "GIT_CONFIG_NOSYSTEM", "PWD", "LC_CTYPE"}
found["see the environment"] = set(os.environ) <= given
blocked("work", work_is_writable)
found["work"] = not found["work"]
lock = open(work + "/lock", "w")
fcntl.flock(lock, 2)
os.set_inheritable(lock.fileno(), True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "100"])
    os._exit(0)
os.wait()
print(json.dumps(found))
"""


def _missing(kind: str) -> str | None:
    """Why a mechanism cannot even be tried here."""
    if kind == "container":
        return None
    if platform.system() != "Linux":
        return f"needs Linux, this is {platform.system()}"
    if os.uname().machine not in seccomp.MACHINES:
        return f"knows no system calls of {os.uname().machine}"
    if not landlock.abi():
        return "this kernel has no Landlock"
    if kind == "bwrap" and not bubblewrap.program():
        return "`bwrap` is not installed"
    return None


def _weaker(kind: str) -> tuple[str, ...]:
    """What a mechanism leaves open on this kernel and for this user."""
    version, said = landlock.abi(), []
    if kind == "landlock":
        said.append("names, sizes and times of files outside can be seen")
        if os.geteuid() != 0:
            said.append("modes and times of your own files outside can be changed")
            if version < 6:
                said.append("your other processes can be signalled (Landlock ABI below 6)")
        said.append("the limit on processes is shared with commands that run at the same time")
    return tuple(said)


def _flaws(ran: Ran, found: dict[str, bool], allowed: frozenset[str]) -> str | None:
    bad = [name for name, good in found.items() if not good and name not in allowed]
    if bad:
        return f"the self-test failed at: {', '.join(bad)}"
    return None if found else f"the self-test ended with {ran.returncode}: {ran.stderr.strip()[-300:]}"


@functools.cache
def _tested(kind: str, program: str, image: str | None) -> Description | str:
    """The self-test of a mechanism; text where it does not hold."""
    from .box import Sandbox

    if why := _missing(kind):
        return why
    if kind == "container":
        try:
            return Containers(Options(program=program, image=image)).tested()
        except SparringError as error:
            return str(error)
    box = Sandbox(kind, Options())
    outside = Path(tempfile.mkdtemp(prefix="sandbox-test-"))
    try:
        os.chmod(outside, 0o755)
        secret, target, work = outside / "secret", outside / "target", outside / "work"
        secret.write_text("secret")
        target.touch()
        os.chmod(target, 0o666)  # so that the sandbox and not its mode protects it
        work.mkdir()
        prefix = os.path.dirname(os.__file__)
        # as pid 1 the host's number would be one that exists inside too
        arguments = [str(each) for each in (work, secret, target, prefix, max(os.getpid(), 100))]
        ran = box.run(
            [interpreter(), "-I", "-S", "-c", ATTEMPTS, *arguments],
            work=work,
            limits=Limits(wall=20, cpu=10, memory=MEMORY, processes=16),
        )
        found: dict[str, bool] = {}
        with contextlib.suppress(ValueError):
            found = json.loads(ran.stdout)
        if found:
            # a path that exists only inside may be written there; the file outside decides
            found["write a file outside"] = target.stat().st_size == 0
            found["leave a process behind"] = is_free(work / "lock")
    except SparringError as error:
        return str(error)
    finally:
        shutil.rmtree(outside, ignore_errors=True)
    old = kind == "landlock" and os.geteuid() != 0 and landlock.abi() < 6
    allowed = frozenset(["signal a process outside"] if old else [])
    if flaw := _flaws(ran, found, allowed):
        return flaw
    from .box import MECHANISMS

    return Description(MECHANISMS[kind], landlock.abi(), box.user, found, _weaker(kind))


def is_free(lock: Path) -> bool:
    """Whether nobody holds the lock; a process left behind would."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def tested(kind: str, options: Options) -> Description:
    """The cached self-test of a mechanism.

    Raises:
        SandboxUnavailable: it does not hold here, and why.
    """
    found = _tested(kind, options.program, options.image)
    if isinstance(found, str):
        raise SandboxUnavailable(found)
    return found

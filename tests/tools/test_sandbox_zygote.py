"""The zygote and the way into bubblewrap's namespaces: what they carry, and what their deaths leave."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.tools.sandbox import Sandbox, SandboxFailed, bubblewrap, zygotes
from sparring.tools.sandbox.inside import landlock
from sparring.tools.sandbox.selftest import is_free

LOCK = "import fcntl, os, time; lock = open('lock', 'w'); fcntl.flock(lock, 2); os.set_inheritable(3, True)\n"


@pytest.fixture(params=["landlock", "bwrap"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    if request.param == "bwrap" and not bubblewrap.program():
        pytest.skip("bubblewrap is not installed")
    with Sandbox.open(request.param) as made:
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def zygote() -> int:
    process = zygotes.shared()._process
    assert process is not None
    return process.pid


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(true: object, message: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]  # a function of no arguments
        assert time.monotonic() < end, message
        time.sleep(0.02)


def test_it_carries_nothing_of_the_caller(
    box: Sandbox, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zygotes.shared().close()
    monkeypatch.setenv("API_KEY", "sk-secret-of-the-host")
    with (tmp_path / "open").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        box.run("true", work=work)
        here = Path(f"/proc/{zygote()}")
        assert (here / "environ").read_bytes() == b""
        held_there = {os.readlink(each) for each in (here / "fd").iterdir()}
    assert {each.partition(":")[0] for each in held_there} == {"/dev/null", "socket"}, held_there
    assert len(list((here / "fd").iterdir())) == 4, "standard files and the line"
    assert os.readlink(here / "cwd") == "/"


def test_a_command_sees_three_open_files_and_no_sparring(box: Sandbox, work: Path) -> None:
    code = (
        "import os\n"
        "def open_(n):\n"
        "    try: os.fstat(n); return True\n"
        "    except OSError: return False\n"
        "print([n for n in range(2000) if open_(n)], os.getsid(0) == os.getpid() == os.getpgid(0))"
    )
    ran = box.run([sys.executable, "-I", "-S", "-c", code], work=work)
    assert ran.stdout == "[0, 1, 2] True\n", ran


def test_no_capability_comes_along(box: Sandbox, work: Path) -> None:
    """Whoever joins a user namespace has all of them there; none may reach the command."""
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "data = (ctypes.c_uint32 * 6)(); libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)\n"
        "print(any(data), any(libc.prctl(23, n, 0, 0, 0) == 1 for n in range(40)))"
    )
    ran = box.run([sys.executable, "-I", "-S", "-c", code], work=work)
    bounded = (
        box.kind == "landlock" and os.geteuid() == 0
    )  # `no_new_privs` makes the bounding set empty words
    assert ran.stdout == f"False {bounded}\n", ran


async def test_killed_it_is_replaced_and_commands_go_on(box: Sandbox, work: Path) -> None:
    slow = asyncio.create_task(box.arun("touch up; sleep 0.5; echo done", work=work))
    while not (work / "up").exists():
        await asyncio.sleep(0.02)
    before = zygote()
    os.kill(before, signal.SIGKILL)
    assert (await box.arun("echo again", work=work)).stdout == "again\n"
    assert (await slow).stdout == "done\n"
    assert zygote() != before


async def test_a_killed_supervisor_is_a_failure_and_no_verdict(box: Sandbox, work: Path) -> None:
    """With bubblewrap, what it watched ends too; under Landlock alone a daemon may live on (docs)."""
    running = asyncio.create_task(
        box.arun([sys.executable, "-I", "-S", "-c", LOCK + "open('up', 'w'); time.sleep(60)"], work=work)
    )
    while not (work / "up").exists():
        await asyncio.sleep(0.02)
    (supervisor,) = children(zygote())
    os.kill(supervisor, signal.SIGKILL)
    with pytest.raises(SandboxFailed, match="supervisor ended"):
        await running
    until(lambda: is_free(work / "lock"), "the command survived")


def test_it_ends_with_a_caller_killed_with_9(box: Sandbox, work: Path) -> None:
    code = (
        "import sys, time; from sparring.tools.sandbox import Sandbox, zygotes\n"
        f"Sandbox.open({box.kind!r}).run('true', work=sys.argv[1])\n"
        "print(zygotes.shared()._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(work)], stdout=subprocess.PIPE, text=True
    ) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        caller.kill()
    until(lambda: not alive(pid), "it lives on")


def alive(pid: int) -> bool:
    """Running; an orphan that ended but was not yet reaped does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("victim", [1, 2])
def test_who_kills_what_holds_the_namespaces_kills_himself(work: Path, victim: int) -> None:
    if not landlock.abi() or not bubblewrap.program():
        pytest.skip("needs Landlock and bubblewrap")
    with Sandbox.open("bwrap") as box:
        ran = box.run(f"kill -9 {victim}; sleep 0.3; echo alive", work=work)
    assert (ran.returncode, ran.stdout) in [(137, ""), (0, "alive\n")], ran
    assert ran.left_behind == 0


def test_a_forked_child_has_one_of_its_own(box: Sandbox, work: Path) -> None:
    box.run("true", work=work)
    mine = zygote()
    child = os.fork()
    if child == 0:
        good = box.run("echo child", work=work).stdout == "child\n" and zygote() != mine
        zygotes.shared().close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert box.run("echo parent", work=work).stdout == "parent\n"
    assert zygote() == mine


def test_a_forked_child_does_not_keep_commands_alive(box: Sandbox, work: Path) -> None:
    """Sparring is killed while a process lives that was forked from it in the middle of a command."""
    code = (
        "import asyncio, os, sys, time\nfrom pathlib import Path\n"
        "from sparring.tools.sandbox import Sandbox\n"
        "async def main():\n"
        "    box = Sandbox.open(sys.argv[1])\n"
        "    command = [sys.executable, '-I', '-S', '-c', sys.argv[3]]\n"
        "    call = asyncio.ensure_future(box.arun(command, work=sys.argv[2]))\n"
        "    while not Path(sys.argv[2], 'began').exists(): await asyncio.sleep(0.02)\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(60); os._exit(0)\n"
        "    print(child, flush=True)\n"
        "    await call\n"
        "asyncio.run(main())\n"
    )
    command = LOCK + "open('began', 'w'); time.sleep(60)"
    caller = subprocess.Popen(
        [sys.executable, "-c", code, box.kind, str(work), command], stdout=subprocess.PIPE, text=True
    )
    assert caller.stdout is not None
    child = int(caller.stdout.readline())
    caller.kill()
    caller.wait()
    try:
        until(lambda: is_free(work / "lock"), "the command lives on")
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_forked_while_another_thread_has_the_lock(box: Sandbox, work: Path) -> None:
    box.run("true", work=work)
    with zygotes._shared_lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if box.run("true", work=work).returncode == 0 else 1)
    end = time.monotonic() + 15
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.02)
    if done[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done == (child, 0), "it waits for ever"

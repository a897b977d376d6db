"""Attacks on the sandbox, each of which succeeds when the mechanism against it is switched off."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.errors import SandboxUnavailable, UserError
from sparring.tools.sandbox import Limits, Ran, Sandbox, bubblewrap, folders, selftest
from sparring.tools.sandbox.inside import landlock
from sparring.tools.sandbox.selftest import is_free

PYTHON = [sys.executable, "-I", "-S", "-c"]
LOCK = "import fcntl, os; lock = open('lock', 'w'); fcntl.flock(lock, 2); os.set_inheritable(3, True)\n"
"""A process that lives on holds the lock, whatever its number and session."""


def opened(kind: str) -> Sandbox:
    if not landlock.abi():
        pytest.skip("this kernel has no Landlock")
    if kind == "bwrap" and not bubblewrap.program():
        pytest.skip("bubblewrap is not installed")
    return Sandbox.open(kind)  # type: ignore[arg-type]  # one of the names above


@pytest.fixture(params=["landlock", "bwrap"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(request.param) as made:
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def python(box: Sandbox, work: Path, code: str, *arguments: object, **options: object) -> Ran:
    return box.run([*PYTHON, code, *map(str, arguments)], work=work, **options)  # type: ignore[arg-type]  # options of `run`


# --- files ------------------------------------------------------------------------------------------

WRITES = """
import os, sys
work, *targets = sys.argv[1:]
for number, target in enumerate(targets):
    link = f"{work}/link{number}"
    ways = [
        lambda: open(target, "a").write("x"),
        lambda: open(target, "w").write("x"),
        lambda: os.truncate(target, 0),
        lambda: os.unlink(target),
        lambda: os.rename(target, link),
        lambda: (os.symlink(target, link), open(link, "w").write("x")),
        lambda: (os.link(target, link + "h"), open(link + "h", "w").write("x")),
        lambda: os.replace(f"{work}/mine", target),
        lambda: open(os.path.dirname(target) + "/new", "w"),
        lambda: os.chmod(target, 0o777),
    ]
    for way in ways:
        open(f"{work}/mine", "w").write("mine")
        try:
            way()
        except OSError:
            pass
"""


def test_what_judges_and_what_runs_cannot_be_written(box: Sandbox, work: Path) -> None:
    """Grader and journal, which every user may reach and write by their modes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        outside = Path(folder)
        outside.chmod(0o777)
        targets = [outside / name for name in ("grader.py", "journal.db")]
        for target in targets:
            target.write_text("as it was")
            target.chmod(0o666)
        ran = python(box, work, WRITES, work, *targets)
        assert ran.returncode == 0, ran.stderr
        assert {target.read_text() for target in targets} == {"as it was"}
        assert {target.stat().st_mode & 0o777 for target in targets} == {0o666}
        assert sorted(path.name for path in outside.iterdir()) == ["grader.py", "journal.db"]


def test_the_interpreter_and_its_packages_cannot_be_written(box: Sandbox, work: Path) -> None:
    """As open as on a machine where they belong to the user: the folder's mode lets everybody write."""
    folder = Path(sysconfig.get_path("purelib"))
    probe, mode = folder / "sandbox_probe.py", folder.stat().st_mode
    folder.chmod(0o777)
    try:
        ran = python(box, work, "import sys; open(sys.argv[1], 'w').write('x')", probe)
        assert ran.returncode != 0
        assert not probe.exists()
    finally:
        folder.chmod(mode)
        probe.unlink(missing_ok=True)
    assert box.run([sys.executable, "-c", "import pydantic"], work=work).returncode == 0


def test_secrets_cannot_be_read(
    box: Sandbox, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret-of-the-host")
    secret = tmp_path / "secret.txt"
    secret.write_text("sk-secret-of-the-file")
    secret.chmod(0o644)
    (work / "link").symlink_to(secret)
    open_to_all = Path("/tmp") / f"sandbox-secret-{os.getpid()}"
    open_to_all.write_text("sk-secret-of-all")
    open_to_all.chmod(0o644)
    code = """
import os, sys
def show(path):
    try:
        print(open(path).read())
    except OSError as error:
        print(type(error).__name__)
for path in (*sys.argv[2:], "/etc/shadow", "/proc/self/environ", "link", "/proc/1/environ"):
    show(path)
show(f"/proc/{sys.argv[1]}/environ")
show(f"/proc/{os.getppid()}/environ")
print(dict(os.environ))
"""
    try:
        ran = python(box, work, code, os.getpid(), secret, open_to_all, f"/proc/{os.getpid()}/cwd/README.md")
    finally:
        open_to_all.unlink()
    assert ran.returncode == 0, ran.stderr
    assert "secret" not in ran.stdout.replace("sandbox-secret", "")
    assert "root:" not in ran.stdout
    assert ran.stdout.count("Error") >= 6


def test_work_and_temporary_folder_are_writable_and_the_latter_is_gone_after(
    box: Sandbox, work: Path
) -> None:
    (work / "sub dir é").mkdir()
    ran = box.run('echo a > "f ü"; mktemp; echo $TMPDIR; touch $TMPDIR/x && pwd', work=work, cwd="sub dir é")
    assert ran.returncode == 0, ran.stderr
    made, temporary, where = ran.stdout.splitlines()
    assert (work / "sub dir é" / "f ü").read_text() == "a\n"
    assert where == str(work / "sub dir é")
    assert made.startswith(temporary)
    assert not Path(made).exists()
    assert not list(Path("/tmp").glob(f"sandbox-*/{Path(made).name}"))


def test_git_and_the_packages_of_this_interpreter_work(box: Sandbox, work: Path) -> None:
    line = "git init -q . && echo a > a && git add a"
    line += " && git -c user.name=a -c user.email=a@b commit -qm a && git log"
    ran = box.run(line, work=work)
    assert ran.returncode == 0, ran.stderr
    assert "commit " in ran.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands folders over")
def test_handing_over_follows_no_link_and_takes_no_second_name(work: Path, tmp_path: Path) -> None:
    outside, other = tmp_path / "outside", tmp_path / "other"
    outside.write_text("x")
    other.write_text("x")
    (work / "link").symlink_to(outside)
    (work / "hard").hardlink_to(other)
    (work / "own").write_text("x")
    opened("landlock").run("echo y > own", work=work)
    assert outside.stat().st_uid == other.stat().st_uid == 0
    assert (work / "own").stat().st_uid == 65534
    assert (work / "own").read_text() == "y\n"


# --- network and kernel -----------------------------------------------------------------------------

KNOCK = """
import socket, sys
for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    for family, address in ((2, ("127.0.0.1", int(sys.argv[1]))), (1, sys.argv[2]), (1, "\\0" + sys.argv[3])):
        try:
            with socket.socket(family, kind) as knocking:
                knocking.connect(address)
                knocking.send(b"in")
            print("through")
        except OSError as error:
            print(error.errno)
"""


def test_nothing_is_reached_by_network(box: Sandbox, work: Path, tmp_path: Path) -> None:
    name = f"sandbox-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("\0" + name)
        unix.listen()
        path = work / "s"
        with socket.socket(socket.AF_UNIX) as local:
            local.bind(str(path))
            local.listen()
            path.chmod(0o777)
            knock = [*PYTHON, KNOCK, str(tcp.getsockname()[1]), str(path), name]
            assert subprocess.run(knock, capture_output=True, check=False).stdout.count(b"through") == 4
            ran = box.run(knock, work=work)
    assert ran.stdout.split() == ["1"] * 6, ran  # EPERM


CALLS = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    ctypes.set_errno(0)
    return libc.syscall(*map(ctypes.c_long, arguments)) and ctypes.get_errno()
number = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
calls = {"unshare": (272, 97), "setns": (308, 268), "ptrace": (101, 117), "bpf": (321, 280)}
print(json.dumps({
    **{name: call(numbers[number], 0x10000000, 0, 0, 0, 0) for name, numbers in calls.items()},
    "clone with a user namespace": call((56, 220)[number], 0x10000000 | 17, 0, 0, 0, 0),
    "clone3": call(435, 0, 0),
    "io_uring_setup": call(425, 1, 0),
    "no new privileges": libc.prctl(39, 0, 0, 0, 0),
    "user": [os.getuid(), os.geteuid(), os.getgroups()],
}))
"""


def test_the_ways_around_are_shut(box: Sandbox, work: Path) -> None:
    ran = python(box, work, CALLS)
    said = json.loads(ran.stdout)
    assert said.pop("clone3") == 38, "ENOSYS, so that the C library uses clone"
    assert said.pop("no new privileges") == 1
    user = said.pop("user")
    assert 0 not in user[:2] and 0 not in user[2]
    assert set(said.values()) == {1}, said


def test_processes_outside_are_not_signalled(box: Sandbox, work: Path) -> None:
    """Of the same user as inside, as for anybody who does not work as root."""
    if box.kind == "landlock" and landlock.abi() < 6:
        pytest.skip("Landlock limits signals from ABI 6 on")
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    with subprocess.Popen(["/bin/sleep", "60"], **user) as sleeper:  # type: ignore[call-overload]  # options by name
        try:
            code = "import os, sys\ntry: os.kill(int(sys.argv[1]), 9)\nexcept OSError as e: print(e.errno)"
            ran = python(box, work, code, sleeper.pid)
            assert ran.stdout.strip() in ("1", "3"), "EPERM or ESRCH"
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


REACH = """
import os, resource, time
child = os.fork()
if child == 0:
    time.sleep(20)
ways = {
    "limits": lambda: resource.prlimit(child, resource.RLIMIT_CPU, (1, 1)),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, child, 19),
    "everybody's priority": lambda: os.setpriority(os.PRIO_USER, 0, 19),
    "processors": lambda: os.sched_setaffinity(child, {0}),
    "scheduling": lambda: os.sched_setscheduler(child, os.SCHED_IDLE, os.sched_param(0)),
}
for name, way in ways.items():
    try:
        way()
        print(name)
    except PermissionError:
        pass
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
os.setpriority(os.PRIO_PROCESS, 0, 5)
os.kill(child, 9)
print("own")
"""


def test_limits_and_priority_of_other_processes_stay(box: Sandbox, work: Path) -> None:
    """Its own child's too: the filter cannot tell whose a number is, and all commands have the same user."""
    ran = python(box, work, REACH)
    assert ran.stdout == "own\n", ran


def test_who_makes_files_elsewhere_is_not_told(work: Path) -> None:
    code = (
        "import ctypes, os; libc = ctypes.CDLL(None); found = libc.inotify_init1(0)\n"
        "print(libc.inotify_add_watch(found, os.fsencode(os.path.dirname(os.environ['TMPDIR'])), 0x100))"
    )
    assert python(opened("landlock"), work, code).stdout == "-1\n"


def test_loopback_reaches_the_command_itself_only(work: Path) -> None:
    opened("bwrap")
    box = Sandbox.open("bwrap", net="loopback")
    code = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
    print("inside")
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("outside")
except OSError as error:
    print(error.errno)
try:
    socket.socket(40, 1)
except OSError as error:
    print(error.errno)
"""
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        ran = python(box, work, code, tcp.getsockname()[1])
    assert ran.stdout.split() == ["inside", "111", "1"], ran  # refused; AF_VSOCK knows no namespace


# --- limits and survivors ---------------------------------------------------------------------------

DAEMON = (
    LOCK
    + """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.close(1), os.close(2)
        import signal, time
        for number in (1, 2, 15):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(60)
    os._exit(0)
os.wait()
print("parent done")
"""
)


def test_a_daemon_does_not_survive_its_command(box: Sandbox, work: Path) -> None:
    ran = python(box, work, DAEMON)
    assert (ran.returncode, ran.stdout, ran.killed_by) == (0, "parent done\n", None), ran
    assert is_free(work / "lock")


def test_a_daemon_that_holds_the_output_does_not_hold_the_caller(box: Sandbox, work: Path) -> None:
    ran = box.run("sleep 50 & sleep 50 & echo done", work=work)
    assert (ran.returncode, ran.stdout) == (0, "done\n")
    assert ran.seconds < 20


def test_sleeping_for_ever_ends_with_the_whole_tree(box: Sandbox, work: Path) -> None:
    code = DAEMON + "import time; time.sleep(600)"
    ran = python(box, work, code, limits=Limits(wall=0.6))
    assert (ran.returncode, ran.killed_by, ran.timed_out) == (137, "wall", True)
    assert 0.5 < ran.seconds < 10
    assert is_free(work / "lock")


def test_nothing_survives_a_caller_killed_with_9(box: Sandbox, work: Path) -> None:
    code = (
        "import sys; from sparring.tools.sandbox import Sandbox; "
        f"Sandbox.open({box.kind!r}).run(sys.argv[2:], work=sys.argv[1])"
    )
    line = [
        sys.executable,
        "-c",
        code,
        str(work),
        *PYTHON,
        DAEMON + "open('up', 'w'); import time; time.sleep(60)",
    ]
    with subprocess.Popen(line) as caller:
        until(lambda: (work / "up").exists(), "the command did not start")
        assert not is_free(work / "lock")
        caller.kill()
    until(lambda: is_free(work / "lock"), "something survived")


def until(true: object, message: str, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]  # a function of no arguments
        assert time.monotonic() < end, message
        time.sleep(0.02)


def test_a_fork_bomb_is_contained(box: Sandbox, work: Path) -> None:
    code = (
        LOCK
        + """
count = 0
while True:
    try:
        if os.fork() == 0:
            continue
        open("forks", "a").write("x")
    except BlockingIOError:
        open("refused", "a").write("x")
"""
    )
    ran = python(box, work, code, limits=Limits(wall=1, processes=24))
    assert ran.killed_by in ("wall", "processes"), ran
    assert (work / "refused").exists() or ran.killed_by == "processes"
    assert is_free(work / "lock")
    assert (work / "forks").stat().st_size <= 40
    assert box.run("echo fine", work=work).stdout == "fine\n"


def test_memory_of_one_process_and_of_the_tree(box: Sandbox, work: Path) -> None:
    limits = Limits(memory=256 << 20, wall=10)
    assert "MemoryError" in python(box, work, "x = bytearray(300 << 20)", limits=limits).stderr
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        break
x = bytearray(b"1") * (120 << 20)
time.sleep(20)
"""
    ran = python(box, work, code, limits=limits)
    assert (ran.returncode, ran.killed_by) == (137, "memory"), ran
    assert ran.peak_memory > 256 << 20


SHARED = """
import mmap, os, sys, time
size = 40 << 20
shared = mmap.mmap(-1, size)
for _ in range(4):
    if os.fork() == 0:
        held = mmap.mmap(-1, size) if sys.argv[1] == "each" else shared
        for at in range(0, size, 4096):
            held[at] = 1
        time.sleep(1)
        os._exit(0)
for _ in range(4):
    os.wait()
print("held")
"""


def test_shared_memory_counts_once_for_all_who_share_it(box: Sandbox, work: Path) -> None:
    limits = Limits(memory=128 << 20, wall=15)
    assert python(box, work, SHARED, "each", limits=limits).killed_by == "memory"
    ran = python(box, work, SHARED, "all", limits=limits)
    assert (ran.stdout, ran.killed_by) == ("held\n", None), ran


def test_memory_that_is_mapped_nowhere_is_bounded(box: Sandbox, work: Path) -> None:
    code = (
        "import os\ntry: os.memfd_create('x')\nexcept PermissionError: print('no memfd')\n"
        "for n in range(3):\n  with open(f'/dev/shm/{n}', 'wb') as file: file.write(bytes(30 << 20))"
    )
    ran = python(box, work, code, limits=Limits(memory=64 << 20, address_space=False))
    assert ran.stdout == "no memfd\n" and ran.returncode == 1, ran


DEEP = """
import os, sys
os.chdir(sys.argv[1] if sys.argv[1:] else os.environ["TMPDIR"])
for n in range(1000):
    os.mkdir("deep")
    os.chdir("deep")
os.mkdir("closed")
open("closed/x", "w")
os.chmod("closed", 0)
"""


def test_folders_deeper_than_a_path_or_a_recursion_are_no_obstacle(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    assert python(opened("landlock"), work, DEEP).returncode == 0
    assert not list(tmp.iterdir()), "the temporary folder is removed"
    subprocess.run([*PYTHON, DEEP, str(work)], check=True)
    folders.hand_over(work, os.getuid())
    (tmp / "kept").write_text("")
    (work / "link").symlink_to(tmp)
    folders.remove(work)
    assert not work.exists() and (tmp / "kept").exists()


def test_file_size_and_processor_time(box: Sandbox, work: Path) -> None:
    ran = box.run("head -c 3000000 /dev/zero > big; echo $?", work=work, limits=Limits(file_size=1 << 20))
    assert ran.stdout.strip() == str(128 + 25), ran  # SIGXFSZ
    assert (work / "big").stat().st_size == 1 << 20
    ran = python(box, work, "while True: pass", limits=Limits(cpu=1, wall=30))
    assert (ran.killed_by, ran.timed_out, ran.returncode) == ("cpu", True, 152), ran


def test_head_and_tail_of_long_output_are_kept(box: Sandbox, work: Path) -> None:
    code = "import sys; w = sys.stdout.buffer.write; w(b'first' + b'm' * 3_000_000 + b'\\xff last')"
    ran = python(box, work, code, limits=Limits(output=1000))
    assert ran.stdout.startswith("firstmmm") and ran.stdout.endswith("m\ufffd last")
    assert ran.stdout_bytes == 3_000_011
    assert "[... 2999011 of 3000011 bytes left out ...]" in ran.stdout
    ran = box.run("yes", work=work, limits=Limits(output=1000, flood=2 << 20, wall=30))
    assert (ran.killed_by, ran.returncode) == ("output", 137)
    assert len(ran.stdout) < 1100


def test_standard_input_ends(box: Sandbox, work: Path) -> None:
    assert box.run("cat; echo end", work=work).stdout == "end\n"
    assert box.run(["wc", "-c"], work=work, stdin=b"x" * 200_000).stdout.strip() == "200000"
    assert box.run(["true"], work=work, stdin=b"x" * 2_000_000).returncode == 0


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["no-such-program"], 127),
        (["/etc"], 126),
        ("exit 7", 7),
        ("kill -9 $$", 137),
        (["./missing.py"], 127),
    ],
)
def test_statuses_are_those_of_a_shell(work: Path, command: str | list[str], status: int) -> None:
    (work / "missing.py").write_text("#!/no/such/interpreter\n")
    (work / "missing.py").chmod(0o755)
    ran = opened("landlock").run(command, work=work)
    assert (ran.returncode, ran.killed_by) == (status, None), ran


# --- many, and from a loop --------------------------------------------------------------------------


async def test_many_run_at_once_and_a_cancelled_one_leaves_nothing(box: Sandbox, work: Path) -> None:
    ran = await asyncio.gather(*(box.arun(f"sleep 0.2; echo {n}", work=work) for n in range(6)))
    assert [each.stdout.strip() for each in ran] == [str(n) for n in range(6)]
    task = asyncio.create_task(
        box.arun([*PYTHON, DAEMON + "open('up', 'w'); import signal; signal.pause()"], work=work)
    )
    while not (work / "up").exists():
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_free(work / "lock")
    assert box.run("echo within a loop", work=work).stdout == "within a loop\n"
    assert threading.active_count() < 20


# --- choice and refusal -----------------------------------------------------------------------------


async def test_cancelled_again_it_still_waits_for_the_tree(box: Sandbox, work: Path) -> None:
    code = "import time\n" + LOCK + "open('began', 'w'); time.sleep(60)"
    call = asyncio.create_task(box.arun([*PYTHON, code], work=work))
    while not (work / "began").exists():
        await asyncio.sleep(0.02)
    while not call.done():
        call.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert is_free(work / "lock")


def test_the_description_says_what_was_tried(box: Sandbox) -> None:
    said = box.describe().to_json()
    assert said["landlock_abi"] == landlock.abi()
    assert said["mechanism"].endswith("landlock+seccomp")
    assert len(said["probes"]) >= 10 and all(said["probes"].values())
    assert json.loads(json.dumps(said)) == said
    began = time.monotonic()
    Sandbox.open(box.kind)  # type: ignore[arg-type]  # one of its names
    assert time.monotonic() - began < 0.05, "the self-test is made once"


@pytest.fixture
def afresh() -> Iterator[None]:
    selftest._tested.cache_clear()
    yield
    selftest._tested.cache_clear()


@pytest.mark.usefixtures("afresh")
def test_where_nothing_holds_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    with pytest.raises(SandboxUnavailable, match=r"no sandbox holds here.*no Landlock"):
        Sandbox.open()


@pytest.mark.usefixtures("afresh")
def test_auto_falls_back_only_to_what_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "program", lambda: "/bin/false")
    assert Sandbox.open().kind == "landlock"
    selftest._tested.cache_clear()
    monkeypatch.setattr(bubblewrap, "program", lambda: None)
    with pytest.raises(SandboxUnavailable, match="not installed"):
        Sandbox.open(net="loopback")


@pytest.mark.usefixtures("afresh")
def test_a_filter_that_does_nothing_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Sandbox._plan
    monkeypatch.setattr(Sandbox, "_plan", lambda self, job: {**plan(self, job), "seccomp": None})
    with pytest.raises(SandboxUnavailable, match=r"self-test failed at: .*unix socket"):
        Sandbox.open("landlock")


def test_none_must_be_wanted(work: Path) -> None:
    with pytest.raises(UserError, match="i_understand"):
        Sandbox.open("none")
    box = Sandbox.open("none", i_understand=True)
    assert box.run("echo $HOME", work=work).returncode == 0
    assert box.describe().mechanism == "none"
    with pytest.raises(UserError, match="known: auto, bwrap"):
        Sandbox.open("chroot")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(UserError, match="loopback"):
        Sandbox.open("landlock", net="loopback")


def test_folders_that_must_not_be_handed_over(work: Path, tmp_path: Path) -> None:
    box = opened("landlock")
    (work / "out").symlink_to(tmp_path)
    for folder, cwd, why in (
        ("/", ".", "must not"),
        (work / "no", ".", "no folder"),
        (work, "out", "no folder"),
    ):
        with pytest.raises(UserError, match=why):
            box.run("true", work=folder, cwd=cwd)


# --- without root -----------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run without root already")
@pytest.mark.parametrize("kind", ["landlock", "bwrap"])
def test_an_ordinary_user_has_the_same(kind: str) -> None:
    """This file's mechanisms with another interpreter and no right at all."""
    opened(kind)
    code = f"""
import sys, tempfile
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from sparring.tools.sandbox import Sandbox, Limits
with tempfile.TemporaryDirectory() as work:
    box = Sandbox.open({kind!r})
    print(box.describe().mechanism, box.user, box.run("id -u; cat /etc/shadow", work=work).stdout.strip())
"""
    python3 = "/usr/bin/python3"
    probe = [python3, "-c", f"import sys, os; os.listdir({str(Path(selftest.__file__).parent)!r})"]
    user = {"user": 65533, "group": 65533, "extra_groups": [], "cwd": tempfile.gettempdir()}
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    if not os.path.exists(python3) or subprocess.run([python3, "-c", check], check=False).returncode:
        pytest.skip("no /usr/bin/python3 of version 3.11 or later")
    if subprocess.run(probe, check=False, capture_output=True, **user).returncode:  # type: ignore[call-overload]  # options by name
        pytest.skip("this checkout is closed to other users")
    done = subprocess.run([python3, "-c", code], check=False, capture_output=True, text=True, **user)  # type: ignore[call-overload]  # options by name
    assert done.stdout.split()[1:] == ["None", "65533"], done.stderr

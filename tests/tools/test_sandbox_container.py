"""The container option, against a daemon that `scripts/with_docker.sh` starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparring.errors import SandboxUnavailable
from sparring.tools.sandbox import Limits, Sandbox

IMAGE = os.environ.get("SPARRING_TEST_IMAGE")
SCRIPT = Path(__file__).parents[2] / "scripts" / "with_docker.sh"
needs_daemon = pytest.mark.skipif(not IMAGE, reason="run by scripts/with_docker.sh")


@pytest.mark.slow
@pytest.mark.skipif(bool(IMAGE), reason="the tests below run already")
def test_the_container_holds_under_a_private_daemon() -> None:
    """The rest of this file, in a process of its own that has the daemon's address."""
    line = [str(SCRIPT), sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.open("container", image=IMAGE) as made:
        yield made


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path


@needs_daemon
def test_files_network_and_rights(box: Sandbox, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-secret")
    said = box.describe()
    assert said.mechanism == "docker" and len(said.probes) >= 10 and all(said.probes.values())
    ran = box.run("id -u; echo $API_KEY; echo hi > file; : > /bin/x; cat /proc/net/dev", work=work)
    assert ran.stdout.splitlines()[:2] == [str(65534 if os.geteuid() == 0 else os.getuid()), ""]
    assert "ead-only" in ran.stderr
    assert "eth" not in ran.stdout
    assert (work / "file").read_text() == "hi\n"


@needs_daemon
def test_the_container_stays_and_its_processes_do_not(box: Sandbox, work: Path) -> None:
    assert box.run("echo kept > /tmp/a; sleep 1000 & sleep 1001 & echo done", work=work).stdout == "done\n"
    ran = box.run("cat /tmp/a; cat /proc/[0-9]*/cmdline", work=work)
    assert ran.stdout.startswith("kept")
    assert "1000" not in ran.stdout and "1001" not in ran.stdout


@needs_daemon
def test_limits_and_statuses(box: Sandbox, work: Path) -> None:
    ran = box.run("sleep 1002 & sleep 1003", work=work, limits=Limits(wall=1))
    assert (ran.killed_by, ran.returncode, ran.timed_out) == ("wall", 137, True)
    assert "1003" not in box.run("cat /proc/[0-9]*/cmdline", work=work).stdout
    bomb = box.run("f() { f | f & }; f; sleep 5", work=work, limits=Limits(wall=2, processes=32))
    assert bomb.seconds < 30
    assert box.run("echo fine", work=work).stdout == "fine\n"
    ran = box.run("yes", work=work, limits=Limits(output=1000, flood=1 << 20))
    assert (ran.killed_by, len(ran.stdout) < 1100) == ("output", True)
    assert box.run("exit 7", work=work).returncode == 7
    assert box.run(["no-such"], work=work).returncode == 127
    said = box.run("echo 'Error: No such container: x' >&2; exit 1", work=work)  # the command's own words
    assert (said.returncode, said.stderr) == (1, "Error: No such container: x\n")
    assert box.run("cat; echo end", work=work).stdout == "end\n"
    assert box.run("wc -c", work=work, stdin=b"x" * 100_000).stdout.strip() == "100000"


@needs_daemon
def test_nothing_is_left_after_closing(work: Path) -> None:
    with Sandbox.open("container", image=IMAGE) as box:
        box.run("true", work=work)
        assert subprocess.check_output(["docker", "ps", "-q"]).split()
        mine = len(subprocess.check_output(["docker", "ps", "-q"]).split())
        box.forget(work)
        assert len(subprocess.check_output(["docker", "ps", "-q"]).split()) == mine - 1
        assert box.run("echo another", work=work).stdout == "another\n"
    assert len(subprocess.check_output(["docker", "ps", "-q"]).split()) == mine - 1


def test_without_an_image_or_program_it_is_refused() -> None:
    with pytest.raises(SandboxUnavailable, match="image"):
        Sandbox.open("container")
    with pytest.raises(SandboxUnavailable, match="not installed"):
        Sandbox.open("container", image="any", program="no-such-docker")

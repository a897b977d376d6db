"""Checks: bugs of earlier evaluations, hostile answers, and a worker that is killed and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from typing import Any

import pytest

from sparring.errors import SparringError, UserError
from sparring.tools.checks import CHECKS, MAX_CHARS, acheck, check
from sparring.tools.mathworker import MathWorker, shared

HANGS = r"9^{9^{9^{9}}}"


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        (r"\boxed{-5}", "-5", True),
        (r"\boxed{-5}", "5", False),
        ("1,234", "1234", True),
        ("234", "1,234", False),
        (r"\frac{1}{2}", "2", False),
        (r"\frac{1}{2}", "0.5", True),
        ("**550**", "550", True),
        ("I do not know", "18", False),
        (None, "18", False),
        ("", "18", False),
    ],
)
def test_bugs_of_du_evaluation_are_not_ours(answer: str | None, reference: str, correct: bool) -> None:
    assert check("math", answer, reference).correct is correct


@pytest.mark.parametrize(
    ("answer", "reference", "correct"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)", True),
        ("50%", "0.5", True),
        (r"90^\circ", "90", True),
        ("p - q", "q - p", False),
        ("{" * 50, "5", False),
        ("\ud800\x00", "5", False),
        ("__import__('os').system('exit 3')", "5", False),
        ("1e99999999", "5", False),
        ("nan", "5", False),
        (r"-\infty", r"\infty", False),
        ("18", 18, True),
        ("0.5", 0.5, True),
    ],
)
def test_math(answer: str, reference: Any, correct: bool) -> None:
    verdict = check("math", answer, reference)
    assert verdict.correct is correct, verdict
    json.dumps(asdict(verdict))


@pytest.mark.parametrize(
    ("kind", "answer", "reference", "correct"),
    [
        ("exact", " The Quick  fox. ", "the quick fox", True),
        ("exact", "-5", "5", False),
        ("choice", "(B)", "B", True),
        ("choice", "B.", "(b)", True),
        ("choice", "Because", "B", False),
        ("choice", "C", "B", False),
        ("any_of", "12 km", ["12", "12 km"], True),
        ("any_of", "13", ["12", "12 km"], False),
    ],
)
def test_text_kinds(kind: str, answer: str, reference: Any, correct: bool) -> None:
    verdict = check(kind, answer, reference)
    assert (verdict.correct, verdict.verifier, verdict.reference) == (correct, kind, reference)
    assert verdict == asyncio.run(acheck(kind, answer, reference))


def test_any_of_by_another_kind() -> None:
    assert not check("any_of", "1/2", ["0.5", "1"]).correct
    assert check("any_of", "1/2", ["0.5", "1"], each="math").correct
    assert asyncio.run(acheck("any_of", r"\sqrt{12}", ["4", r"2\sqrt{3}"], each="math")).correct


@pytest.mark.parametrize("kind", ["math", "exact", "choice", "any_of"])
def test_no_answer_and_endless_answers_are_incorrect(kind: str) -> None:
    reference = ["A"] if kind == "any_of" else "A"
    for answer in (None, "", " \n"):
        verdict = check(kind, answer, reference)
        assert (verdict.correct, verdict.reason, verdict.extracted) == (False, "no answer", None)
    assert "too long" in check(kind, "A" * 100_000, reference).reason
    assert "too long" not in check(kind, "A" * MAX_CHARS, reference).reason


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("math", None),
        ("math", True),
        ("math", ["1"]),
        ("exact", ""),
        ("choice", "first"),
        ("any_of", "1"),
        ("any_of", []),
    ],
)
def test_unusable_references_are_the_users_fault(kind: str, reference: Any) -> None:
    with pytest.raises(UserError, match="reference"):
        check(kind, "1", reference)


def test_unknown_kind_and_code() -> None:
    with pytest.raises(UserError, match=r"`maths`; known: any_of, choice, code, exact, math"):
        check("maths", "1", "1")
    with pytest.raises(UserError, match="`maths`"):
        check("any_of", "1", ["1"], each="maths")
    with pytest.raises(UserError, match="reference of a `code` task"):
        check("code", "print(1)", "1")
    assert set(CHECKS) == {"math", "exact", "choice", "any_of", "code"}


# --- the worker --------------------------------------------------------------------------------------


def test_the_time_limit_is_kept_and_the_next_check_works() -> None:
    check("math", r"\sqrt{4}", r"\sqrt{9}")  # start-up is not part of the limit
    started = time.perf_counter()
    verdict = check("math", HANGS, "387420489", seconds=0.5)
    assert not verdict.correct and "time" in verdict.reason
    assert time.perf_counter() - started < 3
    assert check("math", r"\sqrt{12}", r"2\sqrt{3}").correct


def test_a_killed_worker_is_replaced() -> None:
    worker = MathWorker()
    assert worker.compare(r"\sqrt{4}", "2").equal
    process = worker._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    assert worker.compare(r"\sqrt{9}", "3").equal
    worker.close()
    assert worker._process is None and process.poll() is not None


async def test_the_event_loop_runs_while_a_check_hangs() -> None:
    await acheck("math", r"\sqrt{4}", r"\sqrt{9}")
    hanging = asyncio.create_task(acheck("math", HANGS, "387420489", seconds=1.0))
    longest = 0.0
    while not hanging.done():
        started = time.perf_counter()
        await asyncio.sleep(0.02)
        longest = max(longest, time.perf_counter() - started)
    assert not (await hanging).correct
    assert longest < 0.5


async def test_many_checks_at_once() -> None:
    checks = [acheck("math", rf"\sqrt{{{n * n * 2}}}", rf"{n}\sqrt{{2}}") for n in range(2, 22)]
    checks += [acheck("math", rf"\sqrt{{{n}}}", rf"{n}\sqrt{{2}}") for n in range(3, 13)]
    assert [verdict.correct for verdict in await asyncio.gather(*checks)] == [True] * 20 + [False] * 10


def test_threads_get_their_own_replies() -> None:
    results: dict[int, bool] = {}

    def ask(n: int) -> None:
        results[n] = check("math", rf"\sqrt{{{n * n * 3}}}", rf"{n - n % 2}\sqrt{{3}}").correct

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2, 14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: n % 2 == 0 for n in range(2, 14)}


def test_the_worker_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_TEST_SECRET", "hush")
    worker = MathWorker()
    worker.compare("1", "1")
    assert worker._process is not None
    environment = f"/proc/{worker._process.pid}/environ"
    if not os.path.exists(environment):
        pytest.skip("no /proc here")
    with open(environment, "rb") as file:
        assert b"hush" not in file.read()
    worker.close()


def test_a_script_without_a_main_guard_ends_and_leaves_no_process() -> None:
    script = (
        "from sparring.tools.checks import check; from sparring.tools.mathworker import shared\n"
        r"print(check('math', '\\sqrt{12}', '2\\sqrt{3}').correct, shared()._process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    correct, pid = done.stdout.split()
    assert correct == "True"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
def test_a_forked_child_uses_a_worker_of_its_own() -> None:
    mine = shared()
    assert mine.compare(r"\sqrt{4}", "2").equal
    script_pid = os.fork()
    if script_pid == 0:
        theirs = shared()
        good = theirs is not mine and theirs.compare(r"\sqrt{9}", "3").equal
        theirs.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(script_pid, 0)[1]) == 0
    assert mine.compare(r"\sqrt{16}", "4").equal


def test_a_worker_that_cannot_start_is_an_error_and_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SparringError, match="worker did not start"):
        MathWorker().compare("1", "x")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_the_worker_ends_with_a_killed_parent() -> None:
    script = (
        "import time; from sparring.tools.mathworker import shared\n"
        "shared().compare('1', '1'); print(shared()._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Running; an orphan that ended but was not yet reaped does not count."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

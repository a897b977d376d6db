"""Programs of a model: right, wrong, endless and dishonest ones, under tests that they never see."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparring.errors import SandboxUnavailable, UserError
from sparring.tools import programs
from sparring.tools.checks import acheck, check, refuse_code
from sparring.tools.programs import Tests, called, run_program, try_program
from sparring.tools.sandbox import Limits, Sandbox, SandboxFailed, selftest
from sparring.tools.sandbox.inside import landlock
from sparring.tools.tester import pack, unpack


@pytest.fixture(autouse=True)
def _held() -> None:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")


def task(prompt: str, *asserts: str) -> dict[str, str]:
    lines = "\n".join(f"    assert {each}" for each in asserts)
    name = prompt.rpartition("def ")[2].partition("(")[0]
    return {"prompt": prompt, "test": f"def check(candidate):\n{lines}\n", "entry_point": name}


ADD = task('def add(a, b):\n    """The sum."""\n', "candidate(1, 2) == 3", "candidate('a', 'b') == 'ab'")
TASKS: list[tuple[dict[str, Any], str, str]] = [
    (ADD, "    return a + b\n", "    return a - b\n"),
    (
        task(
            'import math\n\n\ndef roots(n):\n    """Square roots of 0..n-1."""\n',
            "[round(x, 3) for x in candidate(3)] == [0.0, 1.0, 1.414]",
            "candidate(0) == []",
        ),
        "    return [math.sqrt(x) for x in range(n)]",
        "    return (math.sqrt(x) for x in range(n))",
    ),
    (
        task(
            'def turned(text):\n    return text[::-1]\n\n\ndef same(text):\n    """A palindrome?"""\n',
            "candidate('abba') is True",
            "candidate(turned('abc')) is False",
        ),
        "def same(text):\n    return text == turned(text)",
        "    return True",
    ),
    (
        task(
            'def counted(words):\n    """How often each is there, as pairs too."""\n',
            "candidate(['a', 'b', 'a']) == ({'a': 2, 'b': 1}, {('a', 2), ('b', 1)}, None)",
            "candidate([])[0] == {}",
        ),
        "    from collections import Counter\n    c = Counter(words)\n    return c, set(c.items()), None",
        "    return {}, set(), None",
    ),
    (
        {
            "setup": "import math\nLIMIT = 10**30",
            "asserts": ["double(LIMIT) == 2 * LIMIT", "math.isnan(double(float('nan')))", "same([1], (2,))"],
        },
        "def double(x):\n    return x + x\ndef same(a, b):\n    return isinstance(a, list) and b == (2,)",
        "def double(x):\n    return x + x\ndef same(a, b):\n    return a == b",
    ),
]
for _row in TASKS:  # asserts are statements
    if "asserts" in _row[0]:
        _row[0]["asserts"] = [f"assert {each}" for each in _row[0]["asserts"]]


@pytest.mark.parametrize("place", range(len(TASKS)))
async def test_right_programs_pass_and_wrong_ones_fail(place: int) -> None:
    reference, right, wrong = TASKS[place]
    found = [await acheck("code", answer, reference) for answer in (right, wrong, "    pass\n")]
    assert [each.correct for each in found] == [True, False, False], found
    assert found[0].reason == "passed" and found[1].reason.startswith("failed: ")
    assert found[0].extracted == right and set(found[0].reference) == {"tests"}
    json.dumps(found[0].reference)


CHEATS = {
    "prints what a pass would print": "    print('passed')\nprint('\\n0 [\"passed\", \"\"]', flush=True)\n",
    "leaves with status 0": "    import os; os._exit(0)\n",
    "leaves when it is loaded": "    return 0\nimport os\nos._exit(0)\n",
    "leaves politely": "    raise SystemExit(0)\n",
    "equals everything": (
        "    class E:\n        def __eq__(self, other): return True\n"
        "        def __bool__(self): return True\n    return E()\n"
    ),
    "is a number that equals everything": (
        "    class E(int):\n        def __eq__(self, other): return True\n"
        "        __hash__ = int.__hash__\n    return E(0)\n"
    ),
    "patches the tests' names": (
        "    return 0\nimport builtins, sys\nbuiltins.AssertionError = type('A', (Exception,), {})\n"
        "builtins.check = check = lambda candidate: None\n"
        "for module in list(sys.modules.values()):\n    vars(module).update(check=check)\n"
        "import inspect\nframe = inspect.currentframe()\nwhile frame:\n"
        "    frame.f_globals['check'] = check; frame.f_globals['judged'] = lambda *a: ('passed', '')\n"
        "    frame.f_globals['run_tests'] = lambda *a: None; frame = frame.f_back\n"
    ),
    "writes to every open file": (
        "    return 0\nimport os\nfor n in range(64):\n"
        '    try: os.write(n, b\'\\n["ok", null]\\n["ok", ["i", "0x3"]]\\n\')\n    except OSError: pass\n'
    ),
    "writes to its parent's output": (
        "    return 0\nimport os, glob\nfor path in glob.glob('/proc/[0-9]*/fd/*'):\n"
        "    try: open(path, 'wb', 0).write(b'\\n0 [\"passed\", \"\"]\\n')\n    except OSError: pass\n"
    ),
    "ends its parent": "    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 3\n",
    "returns itself": "    return add\n",
    "never ends a message": "    x = []\n    x.append(x)\n    return x\n",
    "raises what the tests raise": "    raise AssertionError\n",
}


@pytest.mark.parametrize("name", CHEATS)
async def test_cheats_do_not_pass(name: str) -> None:
    found = await try_program(CHEATS[name], Tests.of(ADD))
    assert found.status == "failed", found


LOOPS = {
    **ADD,
    "test": (
        "def check(candidate):\n"
        "    for found, sum in zip(map(candidate, [1, 2], [3, 4]), [4, 6]):\n        assert found == sum\n"
        "    assert all(map(lambda x: candidate(x, x) == 2 * x, [1, 2]))\n"
    ),
}
CAUGHT = {
    **ADD,
    "test": (
        "def check(candidate):\n    assert candidate(1, 2) == 3\n    try:\n        candidate(1, None)\n"
        "    except:\n        return\n    assert False\n"
    ),
}
DECODED = {
    "prompt": "def text(data):\n    'The text.'\n",
    "test": (
        "def check(candidate):\n    assert candidate(b'a') == 'a'\n    try:\n        candidate(b'\\xff')\n"
        "    except UnicodeDecodeError:\n        return\n    assert False\n"
    ),
    "entry_point": "text",
}


@pytest.mark.parametrize(
    ("reference", "right", "wrong"),
    [
        (LOOPS, "    return a + b", "    raise StopIteration"),
        (LOOPS, "    return a + b", "    raise type('E', (StopIteration,), {})"),
        (CAUGHT, "    return a + b", "    import os\n    return 3 if b else os._exit(0)"),
        (DECODED, "    return data.decode()", "    return 'a'"),
    ],
    ids=[
        "ends the tests' loop",
        "the same, disguised",
        "ends where it should raise",
        "raises what it should",
    ],
)
async def test_exceptions_come_through_as_what_they_are(
    reference: dict[str, Any], right: str, wrong: str
) -> None:
    found = [(await try_program(answer, Tests.of(reference))).status for answer in (right, wrong)]
    assert found == ["passed", "failed"]


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where programs have their folders; beside those of other tests, and of what was killed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as own:
        monkeypatch.setattr(tempfile, "tempdir", own)
        yield Path(own)


async def test_what_is_left_in_the_folder_does_not_matter(folders: Path) -> None:
    code = (
        "    import os\n    for n in range(1000):\n        os.mkdir('d'); os.chdir('d')\n"
        "    os.chmod('.', 0)\n    return a + b\n"
    )
    once = {**ADD, "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}
    assert (await acheck("code", code, once)).correct
    assert not list(folders.iterdir())


async def test_what_judges_cannot_be_read() -> None:
    """The tests hold a secret, and the program looks for it wherever a process can look."""
    code = (
        "    import os, gc\n    found = []\n"
        "    seen = os.listdir('/proc') if os.path.isdir('/proc/1') else []\n"
        "    for pid in ('self', *filter(str.isdigit, seen)):\n"
        "        for name in ('environ', 'cmdline', 'fd/0', 'fd/1'):\n"
        "            try: found.append(open(f'/proc/{pid}/{name}', 'rb').read())\n"
        "            except OSError: pass\n"
        "        try:\n"
        "            maps = open(f'/proc/{pid}/maps').read().splitlines()\n"
        "            memory = open(f'/proc/{pid}/mem', 'rb', 0)\n"
        "        except OSError: continue\n"
        "        for line in maps:\n"
        "            if ' rw' not in line: continue\n"
        "            a, b = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "            try: memory.seek(a); found.append(memory.read(b - a))\n"
        "            except (OSError, ValueError): pass\n"
        "    mark = bytes([115, 101, 99, 114, 101, 116]) + b'-of-the-tests'\n"
        "    return any(mark in each for each in found)\n"
    )
    reference = {
        "prompt": "def add(a, b):\n    'x'\n",
        "test": "S = 'secret-of-the-tests'\ndef check(candidate):\n    assert candidate(1, 2) is False\n",
        "entry_point": "add",
    }
    found = await try_program(code, Tests.of(reference))
    assert found.status == "passed", found


async def test_statuses() -> None:
    limits = Limits(wall=1.0, cpu=5, memory=256 << 20, processes=16)
    tests = Tests.of(ADD)
    tried = {
        "x = = 3": "no code",
        "": "no code",
        "    while True: pass": "timeout",
        "    return 0\nwhile True: pass": "timeout",
        "    return bytearray(1 << 30)": "failed",
    }
    found = {code: (await try_program(code, tests, limits)) for code in tried}
    assert {code: each.status for code, each in found.items()} == tried, found
    other = await try_program("def other():\n    return 1", Tests.of({"asserts": ["assert mine() == 1"]}))
    assert (other.status, other.reason) == ("no code", "it defines no `mine`")
    assert check("code", "x" * 200_000, ADD).reason.startswith("answer too long")
    assert check("code", None, ADD).reason == "no answer"


async def test_tests_that_cannot_judge_are_the_tasks_fault() -> None:
    for asserts, said in (
        (["assert True or f()"], "pass for a function that returns anything"),
        (["assert f() = 1"], "do not parse"),
    ):
        with pytest.raises(UserError, match=said):
            await acheck("code", "def f(): return 1", {"asserts": asserts})
    with pytest.raises(UserError, match="an argument is a value of type function"):
        await acheck("code", "def f(g): return g()", {"asserts": ["assert f(lambda: 1) == 1"]})
    deep = (
        "import os\nDEEP = b'[\"ok\",' + b'[\"l\",[' * 230 + b']]' * 230 + b']\\n'\ndef f(x):\n"
        "    for n in range(3, 12):\n        try: os.write(n, DEEP)\n        except OSError: pass\n"
    )
    found = await try_program(deep, Tests.of({"asserts": ["assert f(f([1])) == [1]"]}))
    assert found.status == "failed", "a program cannot make the tests guilty"
    broken = {"prompt": "", "test": "import nothing_of_that_name\n", "entry_point": "f"}
    with pytest.raises(UserError, match="ModuleNotFoundError"):
        await acheck("code", "def f(): return 1", broken)
    for reference in (
        "18",
        {},
        {"test": "x"},
        {"asserts": "assert f()"},
        {**ADD, "asserts": ["assert f()"]},
        {"a": 1},
    ):
        with pytest.raises(UserError, match="reference of a `code` task"):
            check("code", "x", reference)
    with pytest.raises(UserError, match="by `code`"):
        check("any_of", "x", [ADD], each="code")


async def test_a_failed_sandbox_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []

    async def fails(*_: object, **__: object) -> None:
        times.append(1)
        raise SandboxFailed("it did not come about")

    monkeypatch.setattr(Sandbox, "arun", fails)
    with pytest.raises(SandboxFailed):
        await acheck("code", "    return a + b", ADD)
    assert len(times) == 2, "tried again once"


async def test_no_place_for_the_program_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    source = programs._tester()
    assert source.count("os.fork()") == 1
    monkeypatch.setattr(programs, "_tester", lambda: source.replace("os.fork()", "os.open('', 0)"))
    with pytest.raises(SandboxFailed, match="no place"):
        await acheck("code", "    return a + b", ADD)


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    selftest._tested.cache_clear()
    programs._box.cache_clear()
    try:
        monkeypatch.setattr(landlock, "abi", lambda: 0)
        with pytest.raises(SandboxUnavailable, match="no sandbox holds here"):
            check("code", "    return a + b", ADD)
        with pytest.raises(SandboxUnavailable, match="needs the sandbox: no sandbox holds here"):
            refuse_code([("exact", "1"), ("code", ADD)])
        refuse_code([("exact", "1")])
    finally:
        selftest._tested.cache_clear()
        programs._box.cache_clear()


async def test_many_at_once_are_told_apart() -> None:
    answers = [f"    return {('a + b', 'b + a')[n % 2]}\n" for n in range(12)]
    found = await asyncio.gather(*(acheck("code", answer, ADD) for answer in answers))
    assert [each.correct for each in found] == [n % 2 == 0 for n in range(12)]


async def test_a_bounded_number_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, arun = 0, 0, Sandbox.arun

    async def counted(self: Sandbox, *args: Any, **options: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await arun(self, *args, **options)
        finally:
            running -= 1

    monkeypatch.setattr(Sandbox, "arun", counted)
    monkeypatch.setattr(programs.os, "cpu_count", lambda: 3)
    await asyncio.gather(*(run_program("print(1)") for _ in range(8)))
    assert most == 3


async def test_a_program_and_its_output(folders: Path) -> None:
    ran = await run_program("import sys\nprint(input(), sys.stdin.read().strip(), __name__)", stdin="6\n7\n")
    assert (ran.returncode, ran.stdout) == (0, "6 7 __main__\n")
    ran = await run_program("def f():\n    return 1 / 0\nf()")
    assert ran.returncode == 1 and "ZeroDivisionError" in ran.stderr and "line 2, in f" in ran.stderr
    began = time.monotonic()
    ran = await run_program("while True: pass", limits=Limits(wall=0.5))
    assert ran.timed_out and time.monotonic() - began < 10
    assert not list(folders.iterdir())


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(10**5000),
        0.1,
        float("inf"),
        "é\n\ud800",
        b"\x00\xff",
        1 + 2j,
        [1, (2, {3}), frozenset({4}), {"a": {(1, 2): None}}],
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_keep_their_type_on_the_way(value: object) -> None:
    back = unpack(json.loads(json.dumps(pack(value))))
    assert back == value and type(back) is type(value)


def test_names_that_asserts_take_from_the_program() -> None:
    tests = "assert f(1) == len(g([x for x in range(3)])) + math.pi + LIMIT + h"
    assert called(tests, "import math as m, os.path\nLIMIT = 1\ndef h(): pass") == ["f", "g", "math"]

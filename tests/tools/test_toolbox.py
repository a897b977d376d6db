"""Tools: functions by signature, a box that lets nothing but the world's faults out, specs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tool_functions as given

from sparring.errors import SandboxUnavailable, ToolFailed, UserError
from sparring.tools import programs
from sparring.tools.toolbox.base import Tool, Toolbox, untitled
from sparring.tools.toolbox.functions import function_tool
from sparring.tools.toolbox.interpreter import interpreter
from sparring.tools.toolbox.specs import check_tools, open_tools, tool_specs

HERE = str(Path(__file__).parent)


def box(*functions: Any, seconds: float = 30.0, shown: int = 4000) -> Toolbox:
    return Toolbox([function_tool(one) for one in functions], seconds=seconds, shown=shown)


def test_a_signature_is_a_schema() -> None:
    add = function_tool(given.add)
    assert (add.name, add.description) == ("add", "Add two numbers.")
    assert add.parameters == {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "minimum": 0, "default": 2}},
        "required": ["a"],
        "additionalProperties": False,
    }
    shapes = function_tool(given.shapes).parameters
    assert shapes["properties"]["unit"]["enum"] == ["cm", "m"]
    assert "title" in shapes["properties"], "a parameter of that name stays"
    assert "$defs" in shapes and "title" not in shapes["$defs"]["Point"]


def test_titles_go_and_what_looks_like_one_stays() -> None:
    schema = {
        "title": "T",
        "properties": {"title": {"title": "A", "enum": [{"title": 1}]}},
        "anyOf": [{"title": "B"}],
    }
    assert untitled(schema) == {"properties": {"title": {"enum": [{"title": 1}]}}, "anyOf": [{}]}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (given.untyped, "`a` has no type"),
        (given.undocumented, "no docstring"),
        (given.many, "`a` cannot be given by name"),
        (given.opaque, "no JSON schema"),
        (given.stream, "an async generator has no result"),
        (lambda: None, "a name of its own"),
    ],
)
def test_functions_that_are_no_tools(function: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        function_tool(function)


async def test_calls_and_results() -> None:
    tools = box(given.add, given.shapes)
    made = await tools.call("add", {"a": "40"})
    assert made["result"] == "42" and made["arguments"] == {"a": "40"} and made["seconds"] >= 0
    asked = {"points": [{"x": 3}], "unit": "cm"}
    assert json.loads((await tools.call("shapes", asked))["result"]) == {
        "points": 1,
        "first": 3,
        "unit": "cm",
        "title": None,
    }


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("sub", {}, "there is no tool `sub`; there are: add, fail, afail, odd"),
        ("x" * 10_000, {}, "there is no tool"),
        ("add", {}, "bad arguments: `a`: Field required"),
        (
            "add",
            {"a": "x", "b": -1},
            "`a`: Input should be a valid integer.*; `b`: .*greater than or equal to 0",
        ),
        ("add", {"a": 1, "c": 2}, "`c`: Extra inputs"),
        ("fail", {"why": "oh"}, "ValueError: oh"),
        ("fail", {"why": "stop"}, "StopIteration"),
        ("fail", {"why": "exit"}, "it raised SystemExit: exit"),
        ("fail", {"why": "keyboard"}, "it raised KeyboardInterrupt"),
        ("fail", {"why": "cancelled"}, "it raised CancelledError"),
        ("afail", {"why": "exit"}, "SystemExit: exit"),
        ("afail", {"why": "cancelled"}, "CancelledError"),
        ("fail", {"why": "time"}, "TimeoutError: time"),
        ("odd", {"kind": "none"}, "KeyError"),
    ],
)
async def test_what_goes_wrong_is_text_for_the_model(name: str, arguments: dict[str, Any], said: str) -> None:
    made = await box(given.add, given.fail, given.afail, given.odd).call(name, arguments)
    assert "result" not in made
    assert re.search(said, made["error"]), made["error"]
    assert len(made["error"]) < 500


async def test_a_call_that_is_cancelled_from_outside_is_no_result() -> None:
    calling = asyncio.create_task(box(given.wait).call("wait", {}))
    await asyncio.sleep(0.05)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_function_may_give_a_coroutine() -> None:
    assert (await box(given.later).call("later", {"word": "so"}))["result"] == "so"


async def test_what_was_asked_is_kept_as_it_was_asked() -> None:
    made = await box(given.keep).call("keep", {"anything": ["a"]})
    assert made["result"] == "['a', 'changed']" and made["arguments"] == {"anything": ["a"]}


@pytest.mark.parametrize("kind", ["loop", "half", "nul", "object", "bytes"])
async def test_odd_results_are_text(kind: str) -> None:
    assert isinstance((await box(given.odd).call("odd", {"kind": kind}))["result"], str)


async def test_a_long_result_keeps_head_and_tail() -> None:
    result = (await box(given.long, shown=100).call("long", {"size": 5000}))["result"]
    assert result.startswith("a" * 50) and result.endswith("z" * 50) and "9900 characters left out" in result


async def test_calls_end_in_time_and_go_side_by_side() -> None:
    tools = box(given.sleep, given.wait, seconds=0.5)
    started = time.perf_counter()
    made = await asyncio.gather(
        tools.call("wait", {}), tools.call("sleep", {"seconds": 30}), tools.call("sleep", {"seconds": 0.01})
    )
    assert time.perf_counter() - started < 10
    assert [one.get("error") for one in made[:2]] == ["no result within 0.5 seconds"] * 2
    assert made[2]["result"] == "awake"


def test_a_call_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    code = f"""
import asyncio, sys
sys.path.insert(0, {HERE!r})
from test_toolbox import box, given
print(asyncio.run(box(given.sleep, seconds=0.1).call("sleep", {{"seconds": 600}})))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "no result within 0.1 seconds" in done.stdout


async def test_the_worlds_faults_are_no_results() -> None:
    async def gone(_: dict[str, Any]) -> None:
        raise ToolFailed("the place is gone")

    with pytest.raises(ToolFailed):
        await Toolbox([Tool("gone", "", {}, gone)]).call("gone", {})
    with pytest.raises(UserError, match="two tools are called `add`"):
        box(given.add, given.add)


async def test_the_interpreter_runs_programs_in_the_sandbox() -> None:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")
    tools = Toolbox([interpreter(2.0)], seconds=0.001)  # which is not for what ends its calls itself
    assert (await tools.call("python", {"code": "print(6 * 7)"}))["result"] == "42"
    assert "ZeroDivisionError" in (await tools.call("python", {"code": "1 / 0"}))["result"]
    assert "limit on" in (await tools.call("python", {"code": "while True: pass"}))["result"]
    outside = (
        await tools.call("python", {"code": f"print(open({str(Path(HERE) / 'conftest.py')!r}).read())"})
    )["result"]
    assert "Error" in outside
    assert "bad arguments" in (await tools.call("python", {"program": "print(1)"}))["error"]


# --- specs ------------------------------------------------------------------------------------------


def test_specs_are_texts_or_functions() -> None:
    assert tool_specs("python, tool_functions:add") == ("python", "tool_functions:add")
    assert tool_specs("mcp:server 'a,b' \"c,d\",python") == ("mcp:server 'a,b' \"c,d\"", "python")
    assert tool_specs([given.add, "mcp:http://127.0.0.1:1/mcp"]) == (
        "tool_functions:add",
        "mcp:http://127.0.0.1:1/mcp",
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", "name at least one"),
        ([], "name at least one"),
        (7, "give `python`"),
        ("pyhton", "unknown tool `pyhton`; give `python`"),
        ("python,python", "named twice"),
        ("mcp:server 'a,b", "never closed"),
        ([lambda: None], "define it at the top level"),
        ([given.made], "a tool is a function or a spec"),
        ([7], "a tool is a function or a spec"),
    ],
)
def test_specs_that_are_none(wrong: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tool_specs(wrong)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_module:f", "No module named 'no_such_module'; its module must be"),
        ("tool_functions:no_such", "module `tool_functions` has no `no_such`"),
        ("tool_functions:NOT_A_TOOL", "neither a function nor a `Tool`"),
        ("tool_functions:untyped", "has no type"),
        (":add", "Empty module name"),
        ("mcp:", "needs a command line or a URL"),
        ("mcp:no-such-program-at-all --x", "no program `no-such-program-at-all`"),
        ("mcp:echo 'x", "cannot be read"),
        ("mcp:echo $NO_SUCH_VARIABLE_HERE", "has no variable `NO_SUCH_VARIABLE_HERE`"),
        ("mcp:http://user:word@host/mcp", "must hold no password"),
    ],
)
def test_tools_that_cannot_be_had(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_tools([spec])


def test_a_module_of_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a protocol's is; the installed command has a folder of its own in its place."""
    (tmp_path / "tools_lying_here.py").write_text('def f(a: int) -> int:\n    """One."""\n    return a\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    check_tools(["tools_lying_here:f"])


async def test_a_tool_of_ones_own_is_used_as_it_is() -> None:
    async with open_tools(["tool_functions:made", "tool_functions:add"]) as tools:
        assert [tool.name for tool in tools] == ["say", "add"]
        assert (await tools.call("say", {"b": 1, "a": 2}))["result"] == "said ['a', 'b']"
        lines = tools.text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["say", "add"]

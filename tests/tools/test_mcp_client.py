"""MCP servers as tools, each a real process: what they give, how they fail, that they end."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("mcp")

from sparring.errors import ToolFailed, UserError
from sparring.tools.toolbox import mcp_client
from sparring.tools.toolbox.mcp_client import McpServer
from sparring.tools.toolbox.specs import open_tools

SERVER = Path(__file__).with_name("mcp_tools.py")
COMMAND = f"mcp:{sys.executable} {SERVER}"


def running(mark: str) -> list[int]:
    """Processes whose command line ends with a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().decode(errors="replace").strip("\0").split("\0")
        except OSError:
            continue
        if line[-1] == mark:
            found.append(int(folder.name))
    return found


async def test_what_a_server_gives_and_how_it_fails(monkeypatch: pytest.MonkeyPatch, caplog) -> None:  # type: ignore[no-untyped-def]  # pytest's own
    mark = f"mark-{time.time_ns()}"
    monkeypatch.setenv("SPARRING_TEST_WORD", mark)
    monkeypatch.setenv("SPARRING_TEST_SECRET", "secret")
    async with open_tools([f"{COMMAND} $SPARRING_TEST_WORD"], seconds=20, shown=2000) as box:
        assert len(running(mark)) == 1
        names = [tool.name for tool in box]
        assert len(names) == len(set(names)) == 14 and all(
            re.fullmatch(r"[\w.-]{1,64}", one, re.A) for one in names
        )
        assert len(box.text().splitlines()) == 14, "no description makes a line of its own"
        assert "title" not in next(one for one in box if one.name == "add").parameters["properties"]["a"]

        async def said(tool: str, **arguments: object) -> str:
            made = await box.call(tool, dict(arguments))
            return made.get("result") or f"ERROR {made['error']}"

        assert await said("add", a=2, b=3) == "5"
        assert await said("add", a="2", b=3) == "ERROR bad arguments: `$.a`: '2' is not of type 'integer'"
        assert await said("refuse") == "ERROR not today"
        assert await said("picture") == "[image image/png, 4 base64 characters, not shown]\nbeside it"
        assert await said("resources") == "inside\n[resource file:///b.txt, not shown]"
        assert await said("structured") == '{"a":[1,2]}'
        assert "1998000 characters left out" in await said("huge")
        assert await said("environment", name="SPARRING_TEST_SECRET") == "(not set)"
        assert await said("a_b______") == mark and await said("a_b_______2") == mark, "each by its own name"
        box.seconds = 0.3
        assert await said("hang") == "ERROR no result within 0.3 seconds"
        box.seconds = 20
        assert [await said("count") for _ in range(2)] == ["1", "2"], "it lives on"
        assert "ended during the call" in await said("die") and mark not in await said("refuse")
        assert "these are my last words" in caplog.text
        assert await said("count") == "1", "started anew"
        assert len(running(mark)) == 1
    assert running(mark) == []


async def test_two_servers_have_names_of_their_own(tmp_path: Path) -> None:
    async with open_tools([f"{COMMAND} one", "tool_functions:add", f"{COMMAND} two"]) as box:
        names = {tool.name for tool in box}
        assert {"add", "mcp1.add", "mcp2.add", "mcp1.count", "mcp2.count"} <= names and "count" not in names
        assert (await box.call("mcp2.add", {"a": 1, "b": 1}))["result"] == "2"
        assert (await box.call("mcp2.add.2", {}))["result"] == "two"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("false", "cannot be reached: Connection closed"),
        ("sh -c 'echo hello; echo not found: cheese >&2; exit 1'", "it said last: not found: cheese"),
        ("sh -c 'exec sleep 50'", "has listed no tools within 0.5 seconds"),
    ],
)
async def test_what_is_no_server_is_named(command: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_client, "START_S", 0.5 if "sleep" in command else 60.0)
    with pytest.raises(UserError, match=said):
        async with open_tools([f"mcp:{command}"]):
            pass


def test_what_is_no_message_leaves_no_traceback() -> None:
    """On standard error, where nobody set up logging, as on the command line."""
    code = f"""
import asyncio
from sparring.tools.toolbox.specs import open_tools

async def main():
    async with open_tools([{f"mcp:sh -c 'echo garbage; exec {sys.executable} {SERVER}'"!r}]) as box:
        print((await box.call("add", {{"a": 1, "b": 2}}))["result"])

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("3\n", "")


async def test_a_server_that_cannot_be_started_again_fails_the_episode(tmp_path: Path) -> None:
    """The first start leaves a file, and with the file there is no second one."""
    once = tmp_path / "once"
    script = f"[ -e {once} ] && exit 9; touch {once}; exec {sys.executable} {SERVER}"
    async with open_tools([f'mcp:sh -c "{script}"']) as box:
        assert "ended during the call" in (await box.call("die", {}))["error"]
        with pytest.raises(ToolFailed, match=r"MCP server `sh -c .*` cannot be reached"):
            await box.call("count", {})


async def test_a_server_over_http() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    with pytest.raises(UserError, match=f"MCP server `{url}` cannot be reached: .*connection"):
        await McpServer(url).tools()
    process = subprocess.Popen([sys.executable, str(SERVER), "http", str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.1)
        async with open_tools([f"mcp:{url}"], seconds=20) as box:
            assert (await box.call("add", {"a": 2, "b": 3}))["result"] == "5"
            made = await box.call("die", {})
            assert "ended during the call" in made["error"], made
            with pytest.raises(ToolFailed, match="cannot be reached"):
                await box.call("add", {"a": 2, "b": 3})
    finally:
        process.kill()
        process.wait()


class Sessions(BaseHTTPRequestHandler):
    """A server that keeps sessions, with one tool, which says the session it is called in."""

    known: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        session, method = self.headers.get("Mcp-Session-Id"), asked["method"]
        if method == "initialize":
            session = f"s{time.time_ns()}"
            self.known.append(session)
            server = {"name": "sessions", "version": "1"}
            result: Any = {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": server,
            }
        elif session not in self.known:
            return self.say(404, None, None)
        elif method == "tools/list":
            result = {"tools": [{"name": "which", "description": "", "inputSchema": {"type": "object"}}]}
        else:
            result = {"content": [{"type": "text", "text": session}]}
        if "id" not in asked:
            return self.say(202, None, session)
        self.say(200, {"jsonrpc": "2.0", "id": asked["id"], "result": result}, session)

    def do_GET(self) -> None:
        self.say(405, None, None)

    do_DELETE = do_GET

    def say(self, status: int, body: Any, session: str | None) -> None:
        text = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if text else "text/plain")
        self.send_header("Content-Length", str(len(text)))
        if session is not None:
            self.send_header("Mcp-Session-Id", session)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


async def test_a_server_that_forgot_the_session_is_begun_anew() -> None:
    """As one that was restarted, or lets sessions expire."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Sessions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            async with open_tools([f"mcp:http://127.0.0.1:{server.server_port}/mcp"], seconds=20) as box:
                first = (await box.call("which", {}))["result"]
                Sessions.known.clear()
                assert "the next one starts it anew" in (await box.call("which", {}))["error"]
                again = await box.call("which", {})
                assert again.get("result") == Sessions.known[-1] != first, again
        finally:
            server.shutdown()

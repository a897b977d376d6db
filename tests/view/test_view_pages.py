"""The viewer over HTTP: who is let in, what is answered, and that it only reads."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import hostile
import httpx
import pytest
from sqlalchemy import create_engine, text, update
from view_server import Served, serving

from sparring.errors import JournalError
from sparring.graphs.catalogue import PROTOCOLS
from sparring.memory.journal import Journal
from sparring.memory.schema import Run
from sparring.view.drawing import HEIGHT, draw
from sparring.view.guard import HEADERS
from sparring.view.serve import listen
from sparring.view.text import FILTERS, link

ENTRIES = (
    "/",
    "/run?name=x",
    "/episode?id=x",
    "/blob/aa11",
    "/static/view.js",
    "/static/nothing",
    "/nothing",
)


@pytest.fixture(scope="module")
def served(cruel: str) -> Iterator[Served]:
    with serving(cruel) as made:
        yield made


@pytest.fixture
def reader(served: Served) -> Iterator[httpx.Client]:
    """Somebody who came in by the printed address."""
    with httpx.Client(base_url=served.origin, trust_env=False, timeout=60) as client:
        client.get(f"/?token={served.token}")
        yield client


@pytest.fixture
def stranger(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.origin, trust_env=False, timeout=60) as client:
        yield client


def test_only_who_has_the_token_is_let_in(served: Served, stranger: httpx.Client) -> None:
    for path in ENTRIES:
        assert stranger.get(path).status_code == 403, path
        assert stranger.get(path, params={"token": "wrong"}).status_code == 403
        assert stranger.get(path, headers={"Cookie": f"sparring-view-{served.port}=wrong"}).status_code == 403
        assert raw(served, path, cookie='sparring-view="\xff;;=')[0] == 403
    let_in = stranger.get("/run", params={"name": "a b", "token": served.token})
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/run?name=a+b")
    cookie = let_in.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Domain" not in cookie
    assert stranger.get("/").status_code == 200


def test_the_token_leads_to_no_other_host(served: Served, stranger: httpx.Client) -> None:
    for path in ("//evil.example", "///evil.example/x", "/\\evil.example"):
        answer = raw(served, f"{path}?token={served.token}")
        place = dict(answer[1])["location"]
        assert answer[0] == 303 and place.startswith("/") and place[1:2] not in ("/", "\\")


def raw(
    served: Served, path: str, method: str = "GET", host: str | None = "127.0.0.1", cookie: str = ""
) -> Any:
    """Status, headers and body of a request as it is written here; no Host header where that is None."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.putheader("Cookie", cookie or f"sparring-view-{served.port}={served.token}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, [(name.lower(), value) for name, value in answer.getheaders()], answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:{}", "[::1]:{}", "[::1]", "LocalHost", "127.0.0.1:9"]
)
def test_names_of_loopback(served: Served, host: str) -> None:
    assert raw(served, "/", host=host.format(served.port))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1.evil.example:{}",
            "evil.example:127.0.0.1",
        ),
        *(
            "a:localhost",
            "localhost.",
            "localhost:",
            "127.0.0.1:x",
            "127.0.0.1:{}:{}",
            "0.0.0.0:{}",
            "[::]:{}",
        ),
        *("user@127.0.0.1", "127.0.0.1/", "127.1", "2130706433", "::1", "localhost:²"),
    ],
)
def test_names_of_others(served: Served, host: str) -> None:
    status, headers, _ = raw(
        served, "/", host=host.format(served.port, served.port).encode().decode("latin-1")
    )
    assert status in (400, 421)  # 400: the server itself refuses what is no name
    if status == 421:
        covered(dict(headers))


def covered(headers: Any) -> None:
    for name, value in HEADERS.items():
        assert headers[name.lower()] == value, name


def test_every_answer_has_the_headers(served: Served, reader: httpx.Client, stranger: httpx.Client) -> None:
    for path in ENTRIES:
        covered(reader.get(path).headers)
        covered(stranger.get(path).headers)
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = reader.request(method, "/")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        covered(answer.headers)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_a_fault_of_ours_has_the_headers_too() -> None:
    from starlette.testclient import TestClient

    from sparring.view.app import make_app

    class Broken:
        engine = create_engine("sqlite://")

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("a fault with <b>")

    broken: Any = Broken()
    client = TestClient(
        make_app(broken, "x", "t", 1), base_url="http://127.0.0.1", raise_server_exceptions=False
    )
    client.cookies.set("sparring-view-1", "t")
    answer = client.get("/run?name=x")
    assert answer.status_code == 500 and "<b>" not in answer.text
    assert "a fault with &lt;b&gt;" in answer.text and "All runs" in answer.text
    covered(answer.headers)


@pytest.mark.parametrize(
    "path", ["../app.py", "%2e%2e/app.py", "..%2fapp.py", "..%5capp.py", "/etc/passwd", "%00", ""]
)
def test_static_files_end_at_their_folder(served: Served, path: str) -> None:
    status, _, body = raw(served, f"/static/{path}")
    assert status == 404 and b"Viewer" not in body


def test_every_page_holds(reader: httpx.Client, served: Served, cruel_pages: list[str]) -> None:
    for path in cruel_pages:
        answer = reader.get(path)
        assert answer.status_code in (200, 404), (answer.status_code, path)
        assert served.token not in answer.text
        covered(answer.headers)
        if answer.headers["content-type"].startswith("text/html"):
            assert not inside(answer.text), path
    picture, page, drawing = (reader.get(f"/blob/{name}") for name in ("aa11", "bb22", "cc33"))
    assert picture.headers["content-type"] == "image/png" and picture.content == hostile.PNG
    assert {one.headers["content-type"] for one in (page, drawing)} == {"application/octet-stream"}


def inside(page: str) -> list[str]:
    """Tags of the attacks that a parser finds in a page, attributes that run, addresses that do."""
    from html.parser import HTMLParser

    found = []

    class Look(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            if tag in ("iframe", "base", "style", "textarea") or (tag == "script" and not given.get("src")):
                found.append(tag)
            if tag == "meta" and "http-equiv" in given:
                found.append(tag)
            found.extend(
                name for name in given if name.startswith("on") or name in ("style", "autofocus", "srcdoc")
            )
            links = [given.get(name) or "" for name in ("href", "src", "action")]
            found.extend(
                link for link in links if link and not link.startswith(("/", "#", "data:image/png;"))
            )

    Look().feed(page)
    return found


def test_pages_of_odd_addresses(reader: httpx.Client) -> None:
    for path in (
        "/run",
        "/run?name=%00",
        "/episode?id=%00%ff",
        "/?q=%00%ed%a0%80&page=99999999",
        "/blob/%00",
    ):
        assert reader.get(path).status_code in (200, 404), path
    assert reader.get("/", params={"q": "%_" * 9_000, "page": "²"}).status_code in (200, 414)
    found = reader.get("/run", params={"name": "no such"})
    assert found.status_code == 404 and "no such" in found.text


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 10**400, float("nan"), "x", "", [1], {"a": {}}],
    ids=lambda value: type(value).__name__,
)
def test_filters_take_what_a_payload_may_hold(value: Any) -> None:
    for name in ("count", "number", "signed", "span", "cut", "code", "said", "mark", "chip", "pretty"):
        assert isinstance(FILTERS[name](value), str)


def shown(markup: str) -> str:
    """The words of some markup, as a reader who copies them has them."""
    return unescape(re.sub("<[^>]*>", "", markup))


def test_a_diff_keeps_its_lines_wherever_it_stands() -> None:
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n def f():\n\n-    old<b>\n+    new\n"
    code = str(FILTERS["code"](f"git apply <<E\n{patch}done"))
    assert shown(code).splitlines() == f"git apply <<E\n{patch}done".splitlines()
    assert re.findall('class="(file|hunk|added|removed)"', code) == ["file"] * 3 + [
        "hunk",
        "removed",
        "added",
    ]
    assert "<b>" not in code
    assert "<span" not in FILTERS["code"]("- a list\n+ no diff")


@pytest.mark.parametrize(
    ("words", "blocks"),
    [
        ("no code at all\n", 0),
        ("I look.\n\n````bash\nls\n```\n````\nDone.", 1),
        ("```tool\nnever closed", 1),
        ("``` a ``` in a line", 0),
        ("```\na\n```\nand\n~~~\nb\n~~~", 2),
    ],
)
def test_code_that_an_agent_says_is_set_as_code(words: str, blocks: int) -> None:
    made = str(FILTERS["said"](words))
    assert made.count('<pre class="block') == blocks
    assert "".join(shown(made).split()) == "".join(words.split())


def test_a_machine_is_drawn_whatever_became_of_its_prompts() -> None:
    there, gone = draw("sample", {"n": 3}), draw("sample", {"n": 3, "prompts": {"solver": "gone.md#12ab"}})
    assert there is not None and gone is not None and there.inside == gone.inside


def test_the_journal_stays_as_it_is(cruel: str, reader: httpx.Client, cruel_pages: list[str]) -> None:
    if os.environ.get("SPARRING_TEST_DATABASE"):
        with Journal.open(cruel, read_only=True) as journal:
            assert journal.read(text("SHOW default_transaction_read_only"))[0][0] == "on"
            with pytest.raises(JournalError, match="read-only"):
                journal.execute(text("DELETE FROM rewards"))
        return
    before = hashlib.sha256(Path(cruel).read_bytes()).hexdigest()
    for path in cruel_pages:
        reader.get(path)
    assert hashlib.sha256(Path(cruel).read_bytes()).hexdigest() == before
    with Journal.open(cruel, read_only=True) as journal, pytest.raises(JournalError, match="readonly"):
        journal.execute(text("DELETE FROM rewards"))


def test_the_command_prints_the_address_of_a_run_and_nothing_else(cruel: str) -> None:
    command = [sys.executable, "-m", "sparring", "view", hostile.RUN, "--memory", cruel, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stderr is not None
        address = process.stderr.readline().strip()
        token = address.rpartition("token=")[2]
        with httpx.Client(trust_env=False, timeout=60, follow_redirects=True) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    page = client.get(address)
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert page.status_code == 200 and page.url.path == "/run" and "Episodes" in page.text
    assert len(token) >= 20 and token not in page.text + rest
    assert rest.strip() == "Ctrl-C ends it" and process.returncode == 0
    assert address.startswith("http://127.0.0.1:") and link("/run", name=hostile.RUN) in address


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "refine"])
def test_edges_run_between_the_boxes(protocol: str) -> None:
    import re

    drawn = draw(protocol)
    assert drawn is not None
    numbers = r'x="([-\d.]+)" y="([-\d.]+)" width="([-\d.]+)"'
    boxes = [tuple(map(float, found)) for found in re.findall(numbers, drawn.inside)]
    for path in re.findall(r'class="edge[^"]*" d="([^"]+)"', drawn.inside):
        for x, y in points(path):
            assert -1 <= x <= drawn.width and -1 <= y <= drawn.height
            assert not any(a + 1 < x < a + w - 1 and b + 1 < y < b + HEIGHT - 1 for a, b, w in boxes), (
                protocol,
                path,
            )


def points(path: str) -> Iterator[tuple[float, float]]:
    """Points along a path of our drawings (M, C and V); a loop beside its box is left out."""
    import re

    if "c" in path:
        return
    x = y = 0.0
    for kind, rest in re.findall(r"([MCV])([^MCV]*)", path):
        given = [float(value) for value in rest.split()]
        if kind == "M":
            x, y = given
        elif kind == "V":
            yield from ((x, y + (given[0] - y) * part / 20) for part in range(21))
            y = given[0]
        else:
            a, b, c, d, e, f = given
            for part in range(21):
                t, s = part / 20, 1 - part / 20
                yield (
                    s**3 * x + 3 * s * s * t * a + 3 * s * t * t * c + t**3 * e,
                    s**3 * y + 3 * s * s * t * b + 3 * s * t * t * d + t**3 * f,
                )
            x, y = e, f


def test_a_run_whose_process_was_killed_says_so(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with Journal.open(tmp_path / "j.db") as journal:
        run = journal.drive("r", kind="play", protocol="sample", config={}, seed=0)
        with serving(str(tmp_path / "j.db")) as served:
            told = httpx.get(served.enter("/run?name=r"), follow_redirects=True, trust_env=False).text
            assert f"process {os.getpid()} on" in told and "which has ended" not in told
            driver = {**journal.run_row("r").driver, "pid": ended.pid}
            journal.execute(update(Run).where(Run.id == "r").values(driver=driver))
            told = httpx.get(served.enter("/run?name=r"), follow_redirects=True, trust_env=False).text
            assert "which has ended" in told and "the same command goes on" in told
        run.release()


def test_answers_are_sent_at_once() -> None:
    """asyncio tells the kernel so (TCP_NODELAY) where a socket says that it is TCP."""
    with listen(0) as at:
        assert at.proto == socket.IPPROTO_TCP

"""`sparring memory trace`: to a file, to a collector, to one that is not there, and given wrongly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sparring.cli import main

Capture = pytest.CaptureFixture[str]


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((self.path, body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    kind = type("Kept", (Collector,), {"got": []})
    server = HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind.got  # type: ignore[attr-defined] # made here
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """A run `r` of two questions in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARRING_MEMORY", raising=False)
    play = [
        "play",
        "sample",
        "--tasks",
        "demo",
        "--limit",
        "2",
        "--engine",
        "scripted:hash",
        "-q",
        "--run",
        "r",
    ]
    assert main(play) == 0
    capsys.readouterr()


def test_to_a_file(capsys: Capture) -> None:
    assert main(["memory", "trace", "r"]) == 0
    told = capsys.readouterr().out
    assert main(["memory", "trace", "r", "--out", "spans.jsonl"]) == 0
    assert Path("spans.jsonl").read_text() == told and capsys.readouterr().out == ""
    [request] = [json.loads(line) for line in told.splitlines()]
    assert len(request["resourceSpans"][0]["scopeSpans"][0]["spans"]) == 5
    assert "gen_ai.input.messages" not in told
    assert main(["memory", "trace", "r", "--contents"]) == 0
    assert "gen_ai.input.messages" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_to_a_collector(collector: tuple[str, list[tuple[str, bytes]]], path: str, capsys: Capture) -> None:
    url, got = collector
    assert main(["memory", "trace", "r", "--otlp", url + path]) == 0
    assert capsys.readouterr().err == "5 spans sent to 127.0.0.1\n"
    [(where, body)] = got
    sent = ExportTraceServiceRequest.FromString(body)
    assert where == "/v1/traces" and len(sent.resource_spans[0].scope_spans[0].spans) == 5


def test_a_collector_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert main(["memory", "trace", "r", "--otlp", "http://127.0.0.1:9"]) == 1
    assert "did not take the spans of run `r`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["x"], "unknown run `x`; known: r"),
        (["x", "--out", "o"], "unknown run `x`; known: r"),
        (["r", "--out", "o", "--otlp", "http://h"], "either `--out FILE` or `--otlp URL`"),
        (["r", "--otlp", "localhost:4318"], "give the collector's URL"),
        (["r", "--out", "sparring.db"], "would overwrite"),
        (["r", "--memory", "none.db"], "does not exist"),
    ],
)
def test_a_mistake_is_one_line(more: list[str], said: str, capsys: Capture, tmp_path: Path) -> None:
    assert main(["memory", "trace", *more]) == 2
    out, err = capsys.readouterr()
    assert said in err and out == "" and len(err.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("sparring.db")]

"""A real HTTP server on loopback that answers what a test says: faults on demand."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], Any]
"""Status, headers, and a body: bytes, or what becomes JSON."""
Listed = Answer | Callable[[], Answer] | None
"""What the list of models is: by default the one model `m`, of an unknown server."""


def said(text: str = "hello", **choice: Any) -> Answer:
    """A plain chat completion, as every server gives it."""
    message = {"role": "assistant", "content": text}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, **choice}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
    return 200, {}, body


def failed(status: int, message: str = "broken", code: str | None = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, named, {"error": {"message": message, "code": code, "type": "t", "param": None}}


class FaultServer:
    """A real HTTP server that answers what a test says, and keeps what it was asked."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer], models: Listed = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self
        listed = models or (
            200,
            {},
            {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "me"}]},
        )

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(listed() if callable(listed) else listed)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.bodies.append(body)
                outer.keys.append(self.headers.get("authorization"))
                self._send(answer(body))

            def _send(self, what: Answer) -> None:
                status, headers, body = what
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                with suppress(OSError):  # the client may have stopped waiting
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class FaultServers:
    """Starts fault servers: answers given one by one (the last one stays), or by a function of the body."""

    def __init__(self) -> None:
        self._started: list[FaultServer] = []

    def __call__(
        self,
        *answers: Answer,
        by: Callable[[dict[str, Any]], Answer] | None = None,
        models: Listed = None,
    ) -> FaultServer:
        queue = list(answers)
        server = FaultServer(by or (lambda _: queue.pop(0) if len(queue) > 1 else queue[0]), models)
        self._started.append(server)
        return server

    def close(self) -> None:
        for server in self._started:
            server.close()

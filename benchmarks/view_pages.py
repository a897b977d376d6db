"""How long the viewer's pages take over a journal of 1,000,000 turns (budget: each under 300 ms).

    python -m benchmarks.view_pages [--turns 1000000] [--memory FILE] [--rounds 5] [--out FILE]

The journal is filled as in `journal_million` and one turn of each episode gets a reward; a process of its own
serves it on loopback as `sparring view` does. Every kind of page is asked for over HTTP, one after the other:
first while the viewer still reads the journal, then when it has read it, with every filter and order.
Printed are the median and the worst of each page, and how long the reading took.
"""

from __future__ import annotations

import argparse
import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from sqlalchemy import select

from benchmarks.budgets import finish, judged
from benchmarks.journal_million import LENGTH, play
from sparring.memory.journal import Journal
from sparring.memory.schema import Reward, Turn

RUN = "/run?name=big"
ASKED = (
    *("/", "/?q=big", "/?status=done", "/policies"),
    *(RUN, f"{RUN}&page=400", f"{RUN}&q=q77", f"{RUN}&q=left", f"{RUN}&status=done", f"{RUN}&role=solver"),
    *(f"{RUN}&verdict=wrong", f"{RUN}&verdict=right", f"{RUN}&differ=1", f"{RUN}&said=answer"),
    *(f"{RUN}&sort=reward", f"{RUN}&sort=calls", f"{RUN}&sort=tokens", f"{RUN}&sort=answers"),
)
LINKS = re.compile(r'href="(/[^"#]*)')
READING = "Reading the journal"
PAID = {"span_start": -1, "span_end": -1, "function": "benchmark", "version": "1", "config_hash": ""}
PAID |= {"reason": "", "read_ids": []}
FEW = 3
"""Pages of one kind that are found by following links."""


def fill(path: Path, turns: int) -> None:
    """A journal of one large run and ten small ones, with rewards."""
    with Journal.open(path, durability="normal") as journal:
        for number in range(10):
            play(journal, f"small {number}", 20)
        play(journal, "big", turns // LENGTH)
        ids = [row.id for row in journal.read(select(Turn.id).where(Turn.key == "solver/0"))]
        rows = [
            PAID | {"id": number, "turn_id": turn, "value": turn % 17 / 16 - 0.5}
            for number, turn in enumerate(ids, 1)
        ]
        for start in range(0, len(rows), 10_000):
            journal.execute(journal.insert(Reward), rows[start : start + 10_000])


class Browser:
    """Asks for pages on one connection, as a browser does."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._headers: dict[str, str] = {}
        self._connection.request("GET", f"/?{parts.query}")
        answer = self._connection.getresponse()
        answer.read()
        self._headers["Cookie"] = (answer.getheader("Set-Cookie") or "").split(";")[0]

    def get(self, path: str) -> tuple[float, str]:
        """Seconds, and the page.

        Raises:
            RuntimeError: it is no page.
        """
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {text[:200]}")
        return time.perf_counter() - began, text


def kind(path: str) -> str:
    """What pages have in common: the path and the names of what is asked for."""
    parts = urlsplit(path)
    return "&".join([parts.path, *(name for name, _ in parse_qsl(parts.query))])


def crawl(browser: Browser, asked: list[str]) -> list[str]:
    """Those pages, and a few of each kind that they lead to."""
    seen: dict[str, list[str]] = {}
    waiting = list(asked)
    while waiting:
        path = waiting.pop(0)
        same = seen.setdefault(kind(path), [])
        if path in same or (len(same) >= FEW and path not in asked):
            continue
        same.append(path)
        waiting += [unescape(link) for link in LINKS.findall(browser.get(path)[1])]
    return [path for same in seen.values() for path in same if not path.startswith("/static")]


def measure(memory: Path, rounds: int) -> dict[str, Any]:
    """Times of the pages, in milliseconds."""
    command = [sys.executable, "-m", "sparring", "view", "--memory", str(memory), "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            browser = Browser(next(line.strip() for line in server.stderr or () if line.startswith("http")))
            time.sleep(0.2)  # the thread that reads has begun
            early: list[float] = []
            while READING in (page := browser.get("/"))[1]:
                early += [page[0], browser.get(RUN)[0]]
                time.sleep(0.2)
            read_s = time.perf_counter() - began
            pages = crawl(browser, list(ASKED))
            times = {path: [1000 * browser.get(path)[0] for _ in range(rounds)] for path in pages}
        finally:
            server.terminate()
    return {
        "read_s": round(read_s, 1),
        "early": {"pages": len(early), "median": _ms(statistics.median(early)), "worst": _ms(max(early))},
        "pages": {
            path: [round(statistics.median(row), 1), round(max(row), 1)] for path, row in times.items()
        },
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def main() -> int:
    """Fill, serve, ask, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--turns", type=int, default=1_000_000)
    parser.add_argument(
        "--memory", type=Path, help="a journal filled by an earlier call, or where to make one"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sparring-bench-") as folder:
        memory = options.memory or Path(folder) / "view.db"
        if not memory.exists():
            fill(memory, options.turns)
        found = measure(memory, options.rounds)
    for path, (median, worst) in sorted(found["pages"].items(), key=lambda item: -item[1][0]):
        print(f"{median:8.1f} {worst:8.1f}  {path}")
    print({name: value for name, value in found.items() if name != "pages"})
    slowest = max(median for median, _ in found["pages"].values())
    rows = judged(
        "view_pages",
        {"slowest page, journal read": slowest, "worst page while it is read": found["early"]["worst"]},
    )
    return finish(rows, found, options.out)


if __name__ == "__main__":
    sys.exit(main())

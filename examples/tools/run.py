"""An agent with a calculator (a function), the interpreter in the sandbox, and an MCP server of ours.

    python examples/tools/run.py [ENGINE] [JOURNAL]

By default a script speaks, which shows the machinery offline; any other engine takes its place:
`python examples/tools/run.py http://localhost:8000/v1#MODEL`. The journal is `tools.db`; the same call again
makes no call again. Needs `pip install 'sparring[mcp]'` and a sandbox (`sparring doctor`).
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import sparring

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # where `calculator` is found, by this process and by a resumed one

from calculator import calculate  # noqa: E402  # it needs the line above


def main(engine: str, memory: str) -> None:
    server = f"mcp:{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'server.py'))}"
    tools = [calculate, "python", server]
    result = sparring.play("tool_use", HERE / "tasks.jsonl", tools=tools, engine=engine, memory=memory)
    for line in result:
        used = line.outcome["detail"]["tools"] if line.outcome else {}
        print(line.task_id, line.answer, line.correct, used)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        given[0] if given else f"scripted:{HERE / 'script.jsonl'}", given[1] if len(given) > 1 else "tools.db"
    )

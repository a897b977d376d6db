"""A journal in which models and users wrote what is meant to run, break out or mislead in a browser."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import insert, select, update

from sparring import play
from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.memory.journal import Journal
from sparring.memory.schema import Agent, Blob, Episode, Event, Message, Reward, Run, Score, Task, Turn
from sparring.view.text import link

DATABASE = f"sparring_cruel_{uuid.uuid4().hex[:8]}"
MARK = "window.pwned=1"
ATTACKS = (
    f"<script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f"</pre></script></style><script>{MARK}</script>",
    f'"><svg onload={MARK}>',
    f"' onmouseover='{MARK}' autofocus onfocus='{MARK}' x='",
    f"javascript:{MARK}",
    f'[x](javascript:{MARK}) <a href="javascript:{MARK}">x</a>',
    f'<iframe srcdoc="<script>parent.{MARK}</script>"></iframe>',
    f'<meta http-equiv=refresh content="0;url=javascript:{MARK}"><base href=//evil.example>',
    "{{7*7}}{% raw %} ${7*7} {{ self.__init__.__globals__ }}",
    f"<!--><style>*{{display:none}}</style>\u2028\u2029</textarea><script>{MARK}</script>",
    "\u202eabc\u2066def\u200f",
)
ALL = "\n".join(ATTACKS)
LINE = " ".join(ATTACKS)
JSON = ALL + "\0 nul \x1b[31m \ud800 half"
"""For what is journaled as JSON, which can hold more than a plain column."""
RUN = f"run {ATTACKS[3]}{ATTACKS[0]}"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c626001000000ffff03000006000557bfabd40000000049454e44ae426082"
)
PATCH = f"diff --git a/x b/x\n--- a/{LINE}\n+++ b/x\n@@ -1 +1 @@ {LINE}\n-{LINE}\n+{LINE}\n"


def write(url: str) -> None:
    """Play and add rows; the journal is closed then."""

    def reply(request: Request, seed: int) -> str:
        return f"{JSON}\nAnswer: {LINE} {seed % 2}"

    tasks = [
        {"id": f"task {number}", "question": JSON, "answer": LINE, "check": "exact"} for number in (1, 2)
    ]
    play("du", tasks, engine=ScriptedEngine(reply), memory=url, run=RUN, answer="text")
    with Journal.open(url) as journal:
        _add(journal)


def _add(journal: Journal) -> None:
    episodes = journal.read(select(Episode).order_by(Episode.number))
    turns = journal.read(select(Turn).order_by(Turn.id))
    first = episodes[0].number
    picture, script = _blobs(journal)
    ids = iter(range(10**9, 10**9 + 10_000))
    for kind, payload in PAYLOADS:
        row = {
            "id": next(ids),
            "run_id": None,
            "episode_number": first,
            "kind": kind,
            "key": f"{LINE} {next(ids)}",
        }
        journal.execute(
            insert(Event).values(**row, payload=payload, epoch=1, created_at=turns[-1].created_at)
        )
    for turn in turns:
        for step in (None, 0, 1, 2):
            value = None if step == 2 else 0.25
            score = {
                "id": next(ids),
                "turn_id": turn.id,
                "step": step,
                "scorer": f"{LINE}?n={LINE}",
                "version": LINE,
            }
            journal.execute(insert(Score).values(**score, value=value, evidence={LINE: JSON}))
        row = {
            "id": next(ids),
            "turn_id": turn.id,
            "span_start": -1,
            "span_end": -1,
            "function": LINE,
            "version": LINE,
        }
        journal.execute(insert(Reward).values(**row, config_hash="x", value=1.0, reason=LINE, read_ids=[]))
    journal.execute(
        update(Turn).where(Turn.id == turns[0].id).values(error=ALL, status=LINE, engine=LINE, key=LINE)
    )
    journal.execute(update(Turn).where(Turn.id == turns[1].id).values(parsed={LINE: JSON, "answer": LINE}))
    journal.execute(update(Turn).where(Turn.id == turns[2].id).values(parsed={"steps": [JSON, 1, None]}))
    outcome = {"answer": PATCH, "distribution": {LINE: 0.5, "b": LINE}, LINE: JSON}
    journal.execute(update(Episode).where(Episode.number == first).values(outcome=outcome, error=ALL))
    journal.execute(
        update(Episode)
        .where(Episode.number == episodes[1].number)
        .values(outcome={"answer": None, LINE: [LINE]}, status=LINE)
    )
    parts = [
        {"type": "blob", "hash": picture},
        {"type": "blob", "hash": script},
        {"type": "blob", "hash": f'nowhere"{LINE}\ud800'},
        {"type": "image_url", "image_url": {"url": f"javascript:{MARK}"}},
        {"type": "image_url", "image_url": f"https://evil.example/{LINE}"},
        {"type": "image_url", "image_url": {"url": f"data:text/html,<script>{MARK}</script>"}},
        {"type": "tool_call", "name": LINE, "arguments": {LINE: JSON}},
        {"type": "tool_result", "content": JSON},
    ]
    heard = journal.read(select(Message).where(Message.episode_number == first).order_by(Message.id))
    journal.execute(update(Message).where(Message.id == heard[0].id).values(content=parts, role=LINE))
    journal.execute(update(Task).values(name=Task.name + " " + LINE))  # no task file may name one like this
    journal.execute(update(Agent).values(role=LINE))
    driver = {"pid": LINE, "host": LINE}
    row = {"protocol": LINE, "kind": LINE, "config": {LINE: JSON}, "seed": 0, "status": "open", "epoch": 1}
    row |= {"driver": driver, "durability": "full", "sparring_version": LINE, "created_at": 1.0}
    for name in (f" child {LINE}"[:900], "../../etc/passwd"):
        journal.execute(insert(Run).values(id=name, parent_id=RUN, finished_at=None, **row))


PAYLOADS: list[tuple[str, Any]] = [
    ("gate", {LINE: JSON, "reason": ALL}),
    (LINE, JSON),
    ("x", [JSON, {LINE: 1}]),
    ("zero", 0),
    (
        "step",
        {
            "observation": JSON,
            "action": ALL,
            "returncode": LINE,
            "seconds": LINE,
            "killed_by": LINE,
            "delta": PATCH,
        },
    ),
    ("step", {"observation": {"a": JSON}, "delta": [LINE]}),
    ("tool", {"name": LINE, "arguments": {LINE: JSON}, "result": {LINE: JSON}}),
    ("tool", {}),
    ("verdict", {"correct": LINE, "reason": {LINE: LINE}, "verifier": LINE, "version": LINE}),
    ("grade", {"status": {LINE: 1}, "reason": [LINE]}),
    ("grade", {}),
    ("vote", {"items": LINE, "values": 3, "answer": JSON, "nan": float("nan"), "big": 10**400}),
]


def _blobs(journal: Journal) -> tuple[str, str]:
    made = {"aa11": ("image/png", PNG), "bb22": (f"text/html; {LINE}", f"<script>{MARK}</script>".encode())}
    made["cc33"] = ("image/svg+xml", f"<svg xmlns='http://www.w3.org/2000/svg' onload='{MARK}'/>".encode())
    for name, (kind, data) in made.items():
        journal.execute(insert(Blob).values(hash=name, media_type=kind, data=data))
    return "aa11", "bb22"


def pages(journal: Journal) -> list[str]:
    """The address of every page of a journal, with what a reader can search and filter by."""
    runs = journal.runs()
    episodes = [row.id for row in journal.read(select(Episode.id))]
    found = ["/", link("/", q=LINE, kind=LINE, status=LINE), *(link("/run", name=run) for run in runs)]
    found += [
        link("/run", name=RUN, q=LINE),
        link("/run", name=RUN, role=LINE, status=LINE, verdict="wrong", sort="reward"),
    ]
    found += [link("/episode", id=episode) for episode in episodes]
    found += [
        link("/run", name=LINE),
        link("/episode", id=LINE),
        f"/{LINE.replace('/', '')[:200]}".replace("?", "").replace("#", ""),
    ]
    return [*found, "/blob/aa11", "/blob/bb22", "/blob/cc33", "/blob/none"]

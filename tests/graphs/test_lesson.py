"""Lessons for the seats of any protocol: who is told what, in which words, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.play import aplay, plan
from sparring.memory.journal import Journal
from sparring.memory.queries import transcript
from sparring.memory.schema import Episode, Turn

SOLVE: dict[str, Any] = {
    "role": "solver",
    "occasion": "solve",
    "variables": {"question": "2 + 2?", "discussion": []},
    "text": "Two and two.\nAnswer: 4",
}
SCORE: dict[str, Any] = {
    "role": "scorer",
    "occasion": "score",
    "variables": {"question": "2 + 2?", "solution": "5", "evaluation": "no", "low": 1, "high": 3},
    "text": "It is 4. <score>1</score>",
}


def task(*lessons: Any) -> list[dict[str, Any]]:
    return [{"id": "t", "question": "2 + 2?", "answer": "4", "lessons": list(lessons)}]


async def told(memory: Path, *lessons: Any, **options: Any) -> dict[str, Any]:
    """Key -> the turn with the conversation that was shown."""
    options = {"of": "discuss", "options": {"agents": 2}, **options}
    [result] = await aplay(plan("lesson", task(*lessons), engine="scripted:hash", **options), memory)
    assert (result.status, result.answer, result.correct) == ("done", None, None)
    with Journal.open(memory) as journal:
        [row] = journal.read(select(Episode.id))
        return {said.turn.key: said for said in transcript(journal, row.id)}


async def test_every_seat_of_a_role_is_told_in_the_words_of_the_protocol(tmp_path: Path) -> None:
    said = await told(tmp_path / "j.db", SOLVE, SCORE)
    assert set(said) == {"0/solver.0", "0/solver.1", "1/scorer.0", "1/scorer.1"}
    role = make_protocol("discuss").seats()["solver.0"]
    shown = {"question": "2 + 2?", "discussion": [], "instruction": role.parser("solve").instruction}
    prompt = role.prompt.render("solve", shown)
    for seat in ("0/solver.0", "0/solver.1"):
        assert [message["content"] for message in said[seat].messages] == [prompt]
        assert said[seat].text == SOLVE["text"]
    with Journal.open(tmp_path / "j.db") as journal:
        rows = journal.read(select(Turn.key, Turn.status, Turn.parsed, Turn.logprob_kind))
    assert {(row.status, row.logprob_kind) for row in rows} == {("ok", "given")}
    parsed = {row.key: row.parsed for row in rows}
    assert parsed["1/scorer.0"] == {"score": 1, "low": 1, "high": 3, "reason": "It is 4."}


@pytest.mark.parametrize(
    ("pupils", "seats"),
    [(["scorer"], {"scorer.0", "scorer.1"}), (["solver.1", "scorer.0"], {"solver.1", "scorer.0"})],
)
async def test_pupils(tmp_path: Path, pupils: list[str], seats: set[str]) -> None:
    said = await told(tmp_path / "j.db", SOLVE, SCORE, pupils=pupils)
    assert {key.split("/")[1] for key in said} == seats


async def test_prompts_of_ones_own_and_other_protocols(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("{% block question %}Q: {{ question }}{% endblock %}")
    lesson = {**SOLVE, "occasion": "question", "variables": {"question": "?", "persona": ""}}
    prompts = {"solver": str(tmp_path / "mine.md")}
    said = await told(tmp_path / "j.db", lesson, of="sample", options={"answer": "line"}, prompts=prompts)
    [only] = said.values()
    assert [message["content"] for message in only.messages] == ["Q: ?"]


@pytest.mark.parametrize(
    ("lesson", "said"),
    [
        ({**SCORE, "text": "<score>4</score>"}, "out_of_range"),
        ({**SOLVE, "text": "4"}, "missing"),
        ({**SOLVE, "occasion": "evaluate"}, "occasion"),
        ({**SOLVE, "role": "judge"}, "judge"),
        ({**SOLVE, "variables": {"question": "?"}}, "`discussion`"),
        ({**SOLVE, "variables": "?"}, "`variables`"),
        ({"role": "solver"}, "`occasion`"),
        ("Answer: 4", "`role`"),
    ],
)
async def test_what_cannot_be_told_is_refused_before_any_work(tmp_path: Path, lesson: Any, said: str) -> None:
    with pytest.raises(UserError, match=rf"lesson 1.*{said}|{said}.*lesson 1|occasion"):
        await aplay(plan("lesson", task(SOLVE, lesson), engine="scripted:hash"), tmp_path / "j.db")


@pytest.mark.parametrize(
    ("options", "lessons", "said"),
    [
        ({"pupils": ["teacher"]}, [SOLVE], "teacher"),
        ({"of": "chess"}, [SOLVE], "chess"),
        ({"most": 3}, [SOLVE], "4 demonstrations"),
        ({}, [], "no `lessons`"),
    ],
)
async def test_other_refusals(tmp_path: Path, options: dict[str, Any], lessons: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        await aplay(plan("lesson", task(*lessons), engine="scripted:hash", **options), tmp_path / "j.db")

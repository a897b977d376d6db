"""Lessons: what each side is told, in the words of the game, from tasks that hold what is needed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from stage import Stage

from sparring.agents.engines.base import PolicyVersion, Sampling
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.roles import Agent
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.play import aplay, plan
from sparring.graphs.protocols.sneaky import SneakyGame
from sparring.graphs.protocols.sneaky_lesson import SneakyLesson
from sparring.memory.episode import EpisodeHandle
from sparring.memory.journal import Journal
from sparring.memory.queries import Said, transcript
from sparring.memory.records import TaskRecord, VersionRecord
from sparring.memory.schema import Agent as AgentTable
from sparring.memory.schema import Episode, Turn
from sparring.memory.seeds import episode_id
from sparring.tools.equality import equality

PROBLEM = "Start with 7. Add 5. Subtract 3."
STEPS = ["7 + 5 = 12", "12 - 3 = 9"]
CORRECT, INCORRECT = "Fine. <Answer>Correct</Answer>", "No. <Answer>Incorrect</Answer>"
META = {
    "steps": STEPS, "step": 1, "wrong": "12 - 3 = 8", "error": 2, "thought": "I take one away.",
    "critique_correct": CORRECT, "critique_wrong": INCORRECT,
}  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


class Lesson(Stage):
    """A stage whose engines have token ids, since nothing else can be demonstrated to."""

    def context(self, episode: EpisodeHandle) -> Context:
        version = self.journal.version(VersionRecord("script", "script", "script"))
        engine = ScriptedEngine(self._refuse)
        seats = self.protocol.seats().items()
        agents = {s: Agent(role, engine, PolicyVersion("script"), Sampling(), version) for s, role in seats}
        return Context(episode, agents, equality("exact"), task=self.task)

    def _refuse(self, *asked: Any) -> str:
        raise AssertionError("nobody is asked in a lesson")


def lesson(journal: Journal, name: str = "lesson", meta: Any = META, **options: Any) -> Lesson:
    return Lesson(SneakyLesson(**options), journal, str, name, PROBLEM, "math", "9", meta)


def heard(journal: Journal, stage: Stage) -> dict[str, Said]:
    """Key -> the conversation that was shown, and what was said then."""
    [row] = journal.read(select(Episode.id).where(Episode.run_id == stage.run_name))
    return {said.turn.key: said for said in transcript(journal, row.id)}


def prompts(journal: Journal, stage: Stage) -> dict[str, Any]:
    return {key: said.messages for key, said in heard(journal, stage).items()}


async def test_both_sides_are_taught_under_the_keys_of_the_game(journal: Journal) -> None:
    stage = lesson(journal)
    outcome = await stage.play()
    said = {row.key: row for row in stage.turns()}
    assert said.keys() == {"attack", "judge/correct/0", "judge/sneaky/0"}
    assert said["attack"].parsed == {"error": 2, "thought": "I take one away.", "step": "12 - 3 = 8"}
    assert (
        heard(journal, stage)["attack"].text == "Error Type 2: I take one away.\nIncorrect Step: 12 - 3 = 8"
    )
    assert said["judge/correct/0"].parsed["correct"] is True
    assert said["judge/sneaky/0"].parsed["correct"] is False
    assert {row.logprob_kind for row in said.values()} == {"given"}
    assert outcome["answer"] is None and outcome["detail"] == {"step": 1, "error_type": 2}


@pytest.mark.parametrize("place", [0, 1])
async def test_the_prompts_are_those_of_the_game(journal: Journal, place: int) -> None:
    """Letter by letter, for generator and critic, on the correct and on the sneaky step."""
    wrong = ["7 + 5 = 13", "12 - 3 = 8"][place]
    replies = {
        "sneaky": lambda call: f"Error Type 2: x\nIncorrect Step: {wrong}",
        "critic": lambda call: CORRECT,
        "solver": lambda call: "Answer: 8" if wrong in call.text else "Answer: 9",
    }
    name = next(n for n in map(str, range(50)) if drawn(n) == place)
    game = Stage(
        SneakyGame(), journal, lambda call: replies[call.seat](call), name, PROBLEM, "math", "9",
        {"steps": STEPS},
    )  # fmt: skip
    await game.play()
    taught = lesson(journal, "taught", {**META, "step": place, "wrong": wrong})
    await taught.play()
    theirs, ours = prompts(journal, game), prompts(journal, taught)
    assert len(ours) == 3
    assert ours == {key: theirs[key] for key in ours}
    assert ours["judge/correct/0"] != ours["judge/sneaky/0"]


def drawn(run: str) -> int:
    """Which step the game draws in a run of this name."""
    key = TaskRecord("task", PROBLEM, "9", "math", {"steps": STEPS}).key
    return random.Random(episode_id(Stage.scene + " " + run, key, 0, 0)).randrange(len(STEPS))


async def test_the_solver_is_told_the_rest_where_it_is_a_pupil(journal: Journal) -> None:
    stage = lesson(journal, pupils=("solver",), meta={**META, "step": 0})
    await stage.play()
    turn, whole = stage.turns()
    assert (turn.key, whole.key) == ("continue", "solution")
    assert heard(journal, stage)["continue"].text == "12 - 3 = 9\nAnswer: 9"
    assert heard(journal, stage)["solution"].text == "\n".join([*STEPS, "Answer: 9"])
    assert all(step not in str(prompts(journal, stage)["solution"]) for step in STEPS)
    assert turn.parsed == {"steps": ["12 - 3 = 9"], "answer": "9"}
    shown = str(prompts(journal, stage)["continue"])
    assert STEPS[0] in shown and STEPS[1] not in shown


async def test_only_pupils_have_seats(journal: Journal) -> None:
    stage = lesson(journal, pupils=("critic",))
    assert set(stage.protocol.seats()) == {"critic"}
    await stage.play()
    assert {row.key for row in stage.turns()} == {"judge/correct/0", "judge/sneaky/0"}
    with pytest.raises(UserError, match="unknown pupil `judge`; known: critic, sneaky, solver"):
        SneakyLesson(pupils=("judge",))
    assert SneakyLesson().rivals is None and SneakyLesson.answers is False


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"steps": None}, "has no `steps`"),
        ({"steps": []}, "has no `steps`"),
        ({"step": None}, "`step` must be a number from 0 to 1"),
        ({"step": 2}, "`step` must be a number from 0 to 1"),
        ({"step": -1}, "`step` must be a number from 0 to 1"),
        ({"step": "1"}, "`step` must be a number from 0 to 1"),
        ({"step": True}, "`step` must be a number from 0 to 1"),
        ({"error": 9}, "`error` must be the id of one of the error types"),
        ({"error": None}, "`error` must be the id of one of the error types"),
        ({"error": [2]}, "`error` must be the id of one of the error types"),
        ({"error": True}, "`error` must be the id of one of the error types"),
        ({"error": 2.0}, "`error` must be the id of one of the error types"),
        *(({name: bad}, f"`{name}` must be text") for name in ("wrong", "thought") for bad in (None, " ", 3)),
        ({"critique_correct": ""}, "`critique_correct` must be text"),
        ({"critique_wrong": None}, "`critique_wrong` must be text"),
        ({"critique_correct": INCORRECT}, "verdict of `critique_correct` is the opposite"),
        ({"critique_wrong": CORRECT}, "verdict of `critique_wrong` is the opposite"),
        ({"wrong": " 12 - 3  = 9. "}, "`wrong` is the correct step"),
    ],
)  # fmt: skip
def test_tasks_are_refused_by_name(change: dict[str, Any], why: str) -> None:
    task = TaskRecord("t7", PROBLEM, "9", "math", {**META, **change})
    with pytest.raises(UserError, match=f"task `t7`.*{why}"):
        SneakyLesson().accepts(task)


def test_a_pupil_that_solves_needs_the_answer() -> None:
    task = TaskRecord("t7", PROBLEM, None, "math", META)
    SneakyLesson().accepts(task)
    with pytest.raises(UserError, match="task `t7` has no `answer`"):
        SneakyLesson(pupils=("solver",)).accepts(task)


def lessons(tmp_path: Path, *metas: dict[str, Any]) -> Path:
    file = tmp_path / "lessons.jsonl"
    rows = [{"id": f"t{n}", "question": PROBLEM, "answer": "9", **meta} for n, meta in enumerate(metas)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


async def test_the_loss_is_the_mean_over_all_tokens(journal: Journal, tmp_path: Path) -> None:
    """By hand from the rows: each token counts once, whoever said it."""
    file = lessons(
        tmp_path,
        META,
        {**META, "step": 0, "wrong": "7 + 5 = 13", "critique_wrong": "So: 13? " * 9 + INCORRECT},
    )
    play = plan("sneaky_lesson", file, engine="scripted:hash", score=True)
    await aplay(play, tmp_path / "journal.db", run="r")
    query = select(Turn.logprobs, AgentTable.role).join(AgentTable, AgentTable.id == Turn.agent_id)
    by_role: dict[str, list[Any]] = {"sneaky": [], "critic": []}
    for row in journal.read(query):
        by_role[row.role].append(np.asarray(row.logprobs, float))
    assert [len(rows) for rows in by_role.values()] == [2, 4]
    figures = SneakyLesson(score=True).figures(journal, "r")
    assert next(iter(figures)) == "loss"
    every = np.concatenate([*by_role["sneaky"], *by_role["critic"]])
    assert figures == {
        "loss": pytest.approx(-every.mean(), rel=1e-6),
        "loss_critic": pytest.approx(-np.concatenate(by_role["critic"]).mean(), rel=1e-6),
        "loss_sneaky": pytest.approx(-np.concatenate(by_role["sneaky"]).mean(), rel=1e-6),
    }
    assert SneakyLesson().figures(journal, "r") == {}


async def test_a_text_that_does_not_parse_stops_the_run_by_its_name(tmp_path: Path) -> None:
    file = lessons(tmp_path, {**META, "critique_wrong": "It is wrong."})
    with pytest.raises(UserError, match="a demonstration of role `critic` does not parse"):
        await aplay(plan("sneaky_lesson", file, engine="scripted:hash"), tmp_path / "j.db", run="r")


async def test_a_bad_task_is_refused_before_any_turn(journal: Journal, tmp_path: Path) -> None:
    file = lessons(tmp_path, META, {**META, "error": 8})
    with pytest.raises(UserError, match="task `t1`: `error`"):
        await aplay(plan("sneaky_lesson", file, engine="scripted:hash"), tmp_path / "journal.db", run="r")
    assert journal.read(select(Turn.id)) == []

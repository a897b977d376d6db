"""The sneaky game: what is drawn, validated, judged and decided, and what each side gets to see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import Call, Stage
from typer.testing import CliRunner

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.steps import ErrorType
from sparring.cli import app
from sparring.errors import UserError
from sparring.graphs.play import play
from sparring.graphs.protocols.sneaky import SneakyGame
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord

PROBLEM = "Start with 7. Add 5. Subtract 3."
STEPS = ["7 + 5 = 12", "12 - 3 = 9"]
WRONG = {"7 + 5 = 12": "7 + 5 = 13", "12 - 3 = 9": "12 - 3 = 8"}
CORRECT, INCORRECT = "Fine. <Answer>Correct</Answer>", "No. <Answer>Incorrect</Answer>"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def attacked(call: Call) -> str:
    """The correct step in a generator's prompt."""
    return call.last.split("## Correct Step\n")[1].split("\n")[0]


def is_wrong(call: Call) -> bool:
    return any(wrong in call.text for wrong in WRONG.values())


def cast(
    attack: Callable[[Call], str] | None = None,
    verdict: Callable[[Call], str] | None = None,
    rollout: Callable[[Call], str] | None = None,
) -> Callable[[Call], str]:
    """Replies of a sound solver, a fair attack and a critic that is right, or of those that are given."""
    replies = {
        "sneaky": attack or (lambda c: f"Error Type 2: a slip.\nIncorrect Step: {WRONG[attacked(c)]}"),
        "critic": verdict or (lambda c: INCORRECT if is_wrong(c) else CORRECT),
        "solver": rollout or (lambda c: "Answer: 8" if is_wrong(c) else "Answer: 9"),
    }
    return lambda call: replies[call.seat](call)


def stage(journal: Journal, reply: Callable[[Call], str], name: str = "run", **options: Any) -> Stage:
    meta = {"steps": options.pop("steps", STEPS)}
    return Stage(SneakyGame(**options), journal, reply, name, PROBLEM, "math", "9", meta)


async def test_a_caught_attack_is_the_critics_game(journal: Journal) -> None:
    game = stage(journal, cast())
    outcome = await game.play()
    assert outcome["scores"] == {"sneaky": 0.0, "critic": 1.0} and outcome["fault"] is None
    detail = outcome["detail"]
    assert (detail["error"], detail["error_type"]) == ("calculation error", 2)
    assert detail["validation"] == {
        "by": "solver", "rollouts": 4, "rate_correct": 1.0, "rate_sneaky": 0.0,
        "high": 0.75, "low": 0.0, "valid": True,
    }  # fmt: skip
    assert detail["verdicts"] == {"correct": True, "sneaky": False}
    validating = {f"validate/{which}/{n}" for which in ("correct", "sneaky") for n in range(4)}
    keys = {row.key for row in game.turns()}
    assert keys == {"attack", "judge/correct/0", "judge/sneaky/0", *validating}
    assert len(game.calls) == SneakyGame().max_calls


async def test_a_fooled_critic_loses(journal: Journal) -> None:
    outcome = await stage(journal, cast(verdict=lambda call: CORRECT)).play()
    assert outcome["scores"] == {"sneaky": 1.0, "critic": 0.0}


async def test_the_critic_cannot_tell_which_step_it_sees(journal: Journal) -> None:
    """The two prompts differ in the step alone, and neither holds the other step or the attack."""
    game = stage(
        journal, cast(attack=lambda c: f"Error Type 2: SECRET.\nIncorrect Step: {WRONG[attacked(c)]}")
    )
    await game.play()
    correct, wrong = sorted((c for c in game.calls if c.seat == "critic"), key=is_wrong)
    (step,) = (step for step in STEPS if WRONG[step] in wrong.text)
    assert correct.text.replace(step, WRONG[step]) == wrong.text
    for call in (correct, wrong):
        assert "SECRET" not in call.text and "rror Type" not in call.text
    assert step not in wrong.text


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        ("I will not.", "cannot be read"),
        ("Error Type 2: a slip.", "cannot be read"),
        ("Error Type 9: strange.\nIncorrect Step: 7 + 5 = 1", "not in the table"),
        ("Error Type 2: none.\nIncorrect Step:  {step}. ", "not changed"),
        ("Error Type 2: x.\nIncorrect Step: 7 + 5 = 13\nError Type 4: misread.", "speaks of its error"),
        ("Error Type 2: x.\nIncorrect Step: 7 + 5 = 13. I use error type 2.", "speaks of its error"),
        ("Error Type 2: harmless.\nIncorrect Step: {step} indeed", "not led astray"),
    ],
)
async def test_a_void_attack_is_its_authors_fault(journal: Journal, attack: str, why: str) -> None:
    game = stage(journal, cast(attack=lambda call: attack.format(step=attacked(call))))
    outcome = await game.play()
    assert outcome["scores"] is None and outcome["fault"] == "sneaky"
    assert why in outcome["detail"]["void"]
    assert not any(call.seat == "critic" for call in game.calls)


async def test_where_the_solver_fails_anyway_it_is_nobodys_fault(journal: Journal) -> None:
    outcome = await stage(journal, cast(rollout=lambda call: "I cannot.")).play()
    assert (outcome["scores"], outcome["fault"]) == (None, None)
    assert "fails from the correct step" in outcome["detail"]["void"]
    assert outcome["detail"]["validation"]["rate_correct"] == 0.0


@pytest.mark.parametrize(
    ("right_correct", "right_sneaky", "low", "valid"),
    [(3, 0, 0.0, True), (2, 0, 0.0, False), (4, 1, 0.0, False), (4, 1, 0.25, True), (4, 2, 0.25, False)],
)
async def test_the_thresholds_are_inclusive(
    journal: Journal, right_correct: int, right_sneaky: int, low: float, valid: bool
) -> None:
    left = {False: right_correct, True: right_sneaky}

    def roll(call: Call) -> str:
        left[is_wrong(call)] -= 1
        return "Answer: 9" if left[is_wrong(call)] >= 0 else "Answer: 1"

    outcome = await stage(journal, cast(rollout=roll), low=low).play()
    found = outcome["detail"]["validation"]
    assert (found["rate_correct"], found["rate_sneaky"]) == (right_correct / 4, right_sneaky / 4)
    assert found["valid"] is valid and (outcome["scores"] is not None) is valid


async def test_the_rollouts_of_a_step_are_one_request(journal: Journal) -> None:
    game = stage(journal, cast(), rollouts=3)
    await game.play()
    asked = {row.key: row.input_id for row in game.turns() if row.key.startswith("validate/")}
    assert len(asked) == 6 and len(set(asked.values())) == 2


async def test_an_unreadable_verdict_is_the_critics_fault(journal: Journal) -> None:
    outcome = await stage(journal, cast(verdict=lambda call: "Hm.")).play()
    assert (outcome["scores"], outcome["fault"]) == (None, "critic")


async def test_of_several_verdicts_the_first_decides(journal: Journal) -> None:
    seen: dict[bool, int] = {True: 0, False: 0}

    def judge(call: Call) -> str:
        seen[is_wrong(call)] += 1
        return CORRECT if seen[is_wrong(call)] == 1 else INCORRECT

    game = stage(journal, cast(verdict=judge), verdicts=3)
    assert (await game.play())["scores"] == {"sneaky": 1.0, "critic": 0.0}
    assert sum(call.seat == "critic" for call in game.calls) == 6


async def test_exact_arithmetic_can_stand_in_for_the_solver(journal: Journal) -> None:
    game = stage(journal, cast(), validation="arithmetic")
    assert "solver" not in game.protocol.seats()
    outcome = await game.play()
    assert outcome["detail"]["validation"]["by"] == "arithmetic" and outcome["scores"]["critic"] == 1.0
    same = cast(attack=lambda call: f"Error Type 1: none.\nIncorrect Step: {attacked(call)[::-1][::-1]} ")
    assert (await stage(journal, same, "same", validation="arithmetic").play())["fault"] == "sneaky"


@pytest.mark.parametrize("step", ["{step} indeed", "Step 1: {step}", "banana", "{step}\nThis is wrong."])
async def test_what_is_no_arithmetic_is_no_attack_where_arithmetic_validates(
    journal: Journal, step: str
) -> None:
    """The correct step in other words would count as wrong, and cost a critic that says so."""
    attack = cast(attack=lambda c: f"Error Type 2: x.\nIncorrect Step: {step.format(step=attacked(c))}")
    game = stage(journal, attack, validation="arithmetic")
    outcome = await game.play()
    assert (outcome["scores"], outcome["fault"]) == (None, "sneaky")
    assert outcome["detail"]["void"] == "the step is no arithmetic" and len(game.calls) == 1


async def test_a_step_is_drawn_once_and_all_steps_are(journal: Journal) -> None:
    drawn = set()
    for number in range(12):
        first = await stage(journal, cast(), f"run {number}").play()
        again = stage(journal, cast(), f"run {number}")
        assert await again.play() == first and not again.calls
        drawn.add(first["detail"]["step"])
    assert drawn == {0, 1}


async def test_a_solution_of_one_step_has_an_empty_prefix(journal: Journal) -> None:
    game = stage(journal, cast(), steps=["7 + 5 = 12"])
    await game.play()
    attack = next(call for call in game.calls if call.seat == "sneaky")
    assert "Nothing was written before this step." in attack.text


async def test_the_solver_can_write_the_solution(journal: Journal) -> None:
    def solve(call: Call) -> str:
        if "so far" not in call.text:
            return "Step 1: 7 + 5 = 12\nStep 2: 12 - 3 = 9\nAnswer: 9"
        return "Answer: 8" if "= 13" in call.text else "Answer: 9"

    attack = "Error Type 2: a slip.\nIncorrect Step: Step 1: 7 + 5 = 13"
    game = stage(journal, cast(lambda c: attack, lambda c: INCORRECT, solve), steps=None, solve=True)
    outcome = await game.play()
    assert outcome["scores"] == {"sneaky": 0.0, "critic": 1.0}
    silent = cast(rollout=lambda call: "no")
    outcome = await stage(journal, silent, "silent", steps=None, solve=True).play()
    assert (outcome["scores"], outcome["fault"]) == (None, None)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (TaskRecord("t", PROBLEM, None, meta={"steps": STEPS}), "no `answer`"),
        (TaskRecord("t", PROBLEM, "9"), "steps"),
        (TaskRecord("t", PROBLEM, "9", meta={"steps": []}), "steps"),
        (TaskRecord("t", PROBLEM, "9", meta={"steps": ["  "]}), "step"),
    ],
)
def test_tasks_that_cannot_be_played_are_refused(task: TaskRecord, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        SneakyGame().accepts(task)
    assert "`t`" in str(refused.value)


@pytest.mark.parametrize(
    ("question", "steps", "said"),
    [
        ("What is 7 plus 5?", STEPS, "`What is 7 plus 5\\?` is no arithmetic chain"),
        (PROBLEM, [STEPS[0], "then 12 - 3 = 9"], "step `then 12 - 3 = 9` does not read like"),
    ],
)
def test_exact_arithmetic_needs_chains(question: str, steps: list[str], said: str) -> None:
    task = TaskRecord("t", question, "9", meta={"steps": steps})
    SneakyGame().accepts(task)
    with pytest.raises(UserError, match=f"task `t`, `validation=arithmetic`: {said}"):
        SneakyGame(validation="arithmetic").accepts(task)
    if question != PROBLEM:
        with pytest.raises(UserError, match=said):
            SneakyGame(validation="arithmetic", solve=True).accepts(task)


def test_verdicts_are_read_by_a_parser_of_verdicts() -> None:
    """Another one has no verdict, and every game would be void."""
    with pytest.raises(UserError, match="verdict"):
        SneakyGame.configure({"verdict": "line"})


def test_the_error_table_is_an_option() -> None:
    table = [{"id": 7, "name": "sign", "description": "a sign turned round"}]
    game = SneakyGame.configure({"errors": table})
    assert isinstance(game, SneakyGame)
    assert game.errors == (ErrorType(id=7, name="sign", description="a sign turned round"),)
    with pytest.raises(UserError, match="id of its own"):
        SneakyGame.configure({"errors": [*table, *table]})


# --- the report -------------------------------------------------------------------------------------------


def test_the_report_of_games_shows_their_figures(tmp_path: Path) -> None:
    """Of any protocol that measures its own play; a game has no accuracy."""

    def reply(request: Request, seed: int) -> str:
        text = str(request.messages[-1]["content"])
        if "## Correct Step\n" in text:
            step = text.split("## Correct Step\n")[1].split("\n")[0]
            return f"Error Type 2: a slip.\nIncorrect Step: {WRONG[step]}"
        return INCORRECT if any(wrong in text for wrong in WRONG.values()) else CORRECT

    tasks = [{"id": f"t{n}", "question": PROBLEM, "answer": "9", "steps": STEPS} for n in range(3)]
    memory, engine = tmp_path / "games.db", ScriptedEngine(reply)
    play("sneaky", tasks, memory=memory, run="r", engine=engine, validation="arithmetic")
    arguments = ["report", "r", "--memory", str(memory)]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    with Journal.open(memory) as journal:
        assert found["figures"] == SneakyGame().figures(journal, "r")
    assert found["figures"]["games"] == 3 and found["accuracy"] is None and found["without_reference"] == 0
    printed = CliRunner().invoke(app, arguments).stdout
    lines = {line[:-8].strip(): line[-8:].strip() for line in printed.splitlines()}
    assert (lines["win rate"], lines["valid"], lines["games"], lines["error recall"]) == ("0", "1", "3", "1")
    assert "what is played is no answer to a task, so there is no accuracy" in printed

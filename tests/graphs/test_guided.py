"""Critic-guided search: steps are rejected and written anew, a last attempt stands, paths vote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stage import Call, Stage

from sparring.errors import UserError
from sparring.graphs.protocols.guided import Guided
from sparring.memory.journal import Journal

YES, NO = "<Answer>Correct</Answer>", "<Answer>Incorrect</Answer>"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def stage(
    journal: Journal, solver: Callable[[Call], str], critic: Callable[[Call], str], **options: int
) -> Stage:
    replies = {"solver": solver, "critic": critic}
    return Stage(Guided(**options), journal, lambda call: replies[call.seat](call), check="math")


def script(*lines: str) -> Callable[[Call], str]:
    return lambda call: lines[call.nth]


async def test_a_rejected_step_is_written_anew(journal: Journal) -> None:
    solver = script("7 + 5 = 13", "7 + 5 = 12\n12 - 3 = 9", "12 - 3 = 9", "Answer: 9")
    game = stage(journal, solver, lambda c: NO if "= 13" in c.last else YES)
    outcome = await game.play()
    assert outcome["answer"] == "9"
    # Of a reply with several lines the first is the step.
    assert outcome["detail"]["steps"] == [["7 + 5 = 12", "12 - 3 = 9"]]
    assert (outcome["detail"]["written"], outcome["detail"]["rejected"]) == (4, 1)
    keys = sorted(game.statuses())
    assert keys == [
        "0/0/0/critic", "0/0/0/solver", "0/0/1/critic", "0/0/1/solver",
        "0/1/0/critic", "0/1/0/solver", "0/2/0/solver",
    ]  # fmt: skip
    critic = [call for call in game.calls if call.seat == "critic"]
    assert "7 + 5 = 13" not in critic[1].text and "7 + 5 = 12" in critic[2].text  # the prefix that stands


async def test_the_last_attempt_stands_unjudged(journal: Journal) -> None:
    steps = iter(range(100))
    game = stage(journal, lambda c: f"step {next(steps)}", lambda c: NO, attempts=3, max_steps=2)
    outcome = await game.play()
    assert outcome["answer"] is None and outcome["detail"]["steps"] == [["step 2", "step 5"]]
    assert len(game.calls) == Guided(attempts=3, max_steps=2).max_calls == 10


async def test_what_is_no_step_is_an_attempt_and_an_unreadable_verdict_rejects_nothing(
    journal: Journal,
) -> None:
    game = stage(journal, script("", "7 + 5 = 12", "Answer:", "Answer: 12"), lambda c: "Hm.")
    outcome = await game.play()
    assert outcome["answer"] == "12"
    assert (outcome["detail"]["written"], outcome["detail"]["rejected"]) == (4, 0)
    silent = stage(journal, lambda c: "", lambda c: YES, attempts=2)
    silent.name = "silent"
    assert (await silent.play())["answer"] is None and len(silent.calls) == 2


async def test_a_step_that_states_the_answer_is_judged_like_any_other(journal: Journal) -> None:
    solver = script("7 + 5 = \\boxed{13}", "7 + 5 = \\boxed{12}")
    replies = {"solver": solver, "critic": lambda call: NO if "{13}" in call.last else YES}
    game = Stage(Guided(answer="boxed"), journal, lambda call: replies[call.seat](call), check="math")
    outcome = await game.play()
    assert outcome["answer"] == "12" and outcome["detail"]["rejected"] == 1
    assert outcome["detail"]["steps"] == [["7 + 5 = \\boxed{12}"]]
    assert [call.seat for call in game.calls] == ["solver", "critic"] * 2


def test_verdicts_are_read_by_a_parser_of_verdicts() -> None:
    with pytest.raises(UserError, match="verdict"):
        Guided.configure({"verdict": "line"})


async def test_paths_vote_and_replay_without_calls(journal: Journal) -> None:
    said = {0: "Answer: 1", 1: "Answer: 2", 2: "Answer: 2.0"}
    game = stage(journal, lambda c: said[c.nth], lambda c: YES, paths=3)
    outcome = await game.play()
    assert outcome["answer"] == "2" and outcome["distribution"] == {
        "1": pytest.approx(1 / 3),
        "2": pytest.approx(2 / 3),
    }
    again = stage(journal, lambda c: "Answer: 7", lambda c: NO, paths=3)
    assert await again.play() == outcome and not again.calls


def test_without_a_second_attempt_nobody_is_asked() -> None:
    assert set(Guided(attempts=1).seats()) == {"solver"}
    assert Guided(paths=3, attempts=1, max_steps=4).max_calls == 12

"""Chain of self-correction: programs really run, outputs come back, rounds end as they conclude."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stage import Call, Stage

from sparring.errors import SandboxUnavailable
from sparring.graphs.protocols import cosc
from sparring.graphs.protocols.cosc import ChainOfSelfCorrection
from sparring.memory.journal import Journal
from sparring.tools import programs
from sparring.tools.sandbox import Ran
from sparring.tools.texts import clipped


@pytest.fixture(autouse=True)
def _held() -> None:
    try:
        programs.box()
    except SandboxUnavailable as error:
        pytest.skip(f"no sandbox holds here: {error}")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def program(code: str) -> str:
    return f"So:\n\n```python\n{code}\n```\n"


def conclusion(answer: str | None, program_fits: bool = True, output_fits: bool = True) -> str:
    fits = {"program_fits": program_fits, "output_fits": output_fits}
    return json.dumps({"program": "It adds.", "output": "A number.", **fits, "answer": answer})


def stage(journal: Journal, *lines: str, **options: Any) -> Stage:
    def said(call: Call) -> str:
        return lines[call.nth]

    return Stage(ChainOfSelfCorrection(**options), journal, said, check="math", question="What is 6 times 7?")


async def test_a_round_is_program_output_verification_conclusion(journal: Journal) -> None:
    game = stage(journal, program("x = 6 * 7\nprint('it is', x)"), conclusion("42"))
    outcome = await game.play()
    assert outcome["answer"] == "42" and outcome["detail"]["concluded"] is True
    write, verify = game.calls
    assert [message["role"] for message in verify.messages] == ["user", "assistant", "user"]
    assert "What is 6 times 7?" in write.last and "it is 42" in verify.last
    assert outcome["detail"]["rounds"][0]["output"] == "it is 42"
    assert list(game.statuses()) == ["0/program", "0/verify"]


async def test_another_round_where_one_of_the_two_does_not_fit(journal: Journal) -> None:
    game = stage(
        journal,
        program("print(6 + 7)"),
        conclusion("13", program_fits=False),
        program("print(6 * 7 / 0)"),
        conclusion("42", output_fits=False),
        program("print(6 * 7)"),
        conclusion("42"),
    )
    outcome = await game.play()
    assert outcome["answer"] == "42" and outcome["detail"]["concluded"] is True
    outputs = [each["output"] for each in outcome["detail"]["rounds"]]
    assert outputs[0] == "13" and "ZeroDivisionError" in outputs[1] and outputs[2] == "42"
    assert len(game.calls[-1].messages) == 11, "one conversation"
    assert len(game.calls) == game.protocol.max_calls


async def test_the_cap_ends_it_with_the_last_answer_that_was_stated(journal: Journal) -> None:
    lines = [program("print(1)"), conclusion("1", output_fits=False), program("print(2)"), conclusion(None)]
    outcome = await stage(journal, *lines, rounds=2).play()
    assert outcome["answer"] == "1" and outcome["detail"]["concluded"] is False
    nothing = stage(journal, program("print(1)"), "I cannot say.", rounds=1)
    nothing.name = "nothing"
    assert (await nothing.play())["answer"] is None


async def test_a_reply_without_one_program_runs_nothing_and_cannot_conclude(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    async def run(code: str, **_: object) -> Ran:
        ran.append(code)
        return Ran(0, "42\n", "", 0.0)

    monkeypatch.setattr(cosc, "run_program", run)
    two = program("print(1)") + program("print(2)")
    game = stage(
        journal, two, conclusion("1"), "42.", conclusion("42"), program("print(42)"), conclusion("42")
    )
    outcome = await game.play()
    assert [each["program"] for each in outcome["detail"]["rounds"]] == [False, False, True]
    assert ran == ["print(42)"] and "no single program" in game.calls[1].last


async def test_a_program_is_not_run_again_when_an_episode_is_taken_up(journal: Journal) -> None:
    lines = [program("import random\nprint(random.random())"), conclusion("0.5")]
    first = await stage(journal, *lines).play()
    again = stage(journal)  # says nothing: all of it is in the journal
    assert await again.play() == first and again.calls == []


def test_what_the_model_sees_of_a_run() -> None:
    assert programs.told(Ran(0, "", "", 0.1)) == "(nothing was printed)"
    assert "limit on wall" in programs.told(Ran(137, "so far", "", 0.1, killed_by="wall"))
    long = clipped("a" * 500 + "b" * 500, 100)
    assert long.startswith("a" * 50) and long.endswith("b" * 50) and "900 characters left out" in long

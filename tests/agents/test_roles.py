"""Roles and agents: what is sent, what comes of a reply, who an agent is to the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.agents.engines.base import PolicyVersion, Sampling
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.parsing import stated, statement
from sparring.agents.roles import Agent, Role
from sparring.errors import EngineError, EngineTimeout, UserError

LINE = statement("line")
GIVEN = {"question": "What?", "persona": "", "others": [], "brief": False}
OCCASIONS = {"question": LINE, "others": LINE}


def agent(reply: Any = "Answer: 7", prompt: str | None = None, **sampling: Any) -> Agent:
    role = Role.of("solver", OCCASIONS, GIVEN, prompt)
    engine = ScriptedEngine(lambda request, seed: reply)
    return Agent(role, engine, PolicyVersion("p"), Sampling(**sampling))


def test_the_format_is_asked_for_by_the_parser() -> None:
    [message] = agent().messages("question", GIVEN)
    assert message["role"] == "user"
    assert str(message["content"]).endswith(LINE.instruction)


def test_the_system_message_opens_once_and_only_where_it_says_something() -> None:
    opened = agent().messages("question", {**GIVEN, "persona": "You are a poet."})
    assert [m["role"] for m in opened] == ["system", "user"]
    more = agent().messages("others", GIVEN, [*opened, {"role": "assistant", "content": "x"}])
    assert [m["role"] for m in more] == ["system", "user", "assistant", "user"]
    assert more[:2] == opened


def test_unknown_occasions_prompts_and_variables_are_refused() -> None:
    with pytest.raises(
        UserError, match="unknown occasion of role `solver` `verdict`; known: others, question"
    ):
        agent().messages("verdict", GIVEN)
    with pytest.raises(UserError, match="no block `discuss`"):
        Role.of("solver", {"discuss": stated}, GIVEN)
    with pytest.raises(UserError, match=r"variable in block `system`.*`persona`"):
        Role.of("solver", {"question": LINE}, ["question"])


@pytest.mark.parametrize(
    ("reply", "status", "parsed", "error"),
    [
        ("so\nAnswer: 7", "ok", "7", None),
        ("so it is 7", "parse_error", None, "missing"),
        ("", "parse_error", None, "empty"),
        (("Answer: 7\nbut", "length"), "truncated", "7", "cut off"),
        (("it may be", "length"), "truncated", None, "missing"),
        (("Answer: 7", "refusal"), "refused", None, "refused"),
    ],
)
async def test_a_reply_becomes_a_status(
    reply: Any, status: str, parsed: str | None, error: str | None
) -> None:
    speaker = agent(reply)
    [made] = await speaker.produce("question", speaker.messages("question", GIVEN), [1])
    assert (made.status, made.final) == (status, True)
    assert (made.parsed or {}).get("answer") == parsed
    assert error in made.error if error and made.error else made.error == error
    assert made.text == (reply if isinstance(reply, str) else reply[0])


@pytest.mark.parametrize(("fault", "status"), [(EngineError, "engine_error"), (EngineTimeout, "timeout")])
async def test_the_worlds_fault_is_data_and_may_be_tried_again(fault: Any, status: str) -> None:
    speaker = agent(fault("gone"))
    made = await speaker.produce("question", speaker.messages("question", GIVEN), [1, 2])
    assert [(m.status, m.final, m.text, m.error) for m in made] == [(status, False, None, "gone")] * 2


def test_an_agent_is_its_prompt_with_all_it_extends_its_parser_and_its_sampling(tmp_path: Path) -> None:
    parent, child = tmp_path / "parent.md", tmp_path / "child.md"
    blocks = "{% block question %}one{% endblock %}{% block others %}x{% endblock %}"
    parent.write_text(blocks)
    child.write_text('{% extends "parent.md" %}{% block others %}y{% endblock %}')

    def identity(**sampling: Any) -> tuple[str, str]:
        record = agent(prompt=str(child), **sampling).record("question")
        return record.id, record.prompt_hash

    first = identity()
    assert identity() == first
    assert identity(temperature=0.0)[0] != first[0]
    parent.write_text(blocks.replace("one", "two"))
    assert identity()[1] != first[1]
    parent.write_text(blocks)
    assert identity() == first
    assert str(tmp_path) not in str(agent(prompt=str(child)).record("question").prompt)


def test_an_explicit_zero_is_kept() -> None:
    """MAD read temperature 0 as "not given"."""
    assert agent(temperature=0.0).record("question").sampling["temperature"] == 0.0

"""Prompt files: blocks, extension, what is checked before work, the sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparring.agents.prompts import SHIPPED, load_prompt
from sparring.errors import UserError

GIVEN: dict[str, Any] = {"question": "What?", "instruction": "End so.", "persona": ""}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_extension_overrides_one_block_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "lazy.md",
        '{% extends "solver.md" %}{% block question %}{{ question }} Lazy. {{ instruction }}{% endblock %}',
    )
    prompt, shipped = load_prompt(path), load_prompt("solver")
    assert prompt.render("question", GIVEN) == "What? Lazy. End so."
    assert prompt.occasions() == shipped.occasions() == ["others", "question", "reflect"]
    assert prompt.render("reflect", GIVEN) == shipped.render("reflect", GIVEN)
    assert list(prompt.source) == ["lazy.md", "solver.md (extended)"]


def test_super_is_the_overridden_block(tmp_path: Path) -> None:
    path = write(
        tmp_path, "twice.md", '{% extends "solver.md" %}{% block reflect %}Now. {{ super() }}{% endblock %}'
    )
    inherited = load_prompt("solver").render("reflect", GIVEN)
    assert load_prompt(path).render("reflect", GIVEN).split() == ["Now.", *inherited.split()]


def test_a_file_may_extend_the_shipped_one_of_its_own_name_and_a_neighbour(tmp_path: Path) -> None:
    own = write(tmp_path, "solver.md", '{% extends "solver.md" %}{% block system %}Mine.{% endblock %}')
    other = write(tmp_path, "other.md", '{% extends "solver.md" %}{% block reflect %}Theirs.{% endblock %}')
    assert load_prompt(own).render("system", GIVEN) == "Mine."
    assert load_prompt(own).has("question")
    assert load_prompt(other).render("system", GIVEN) == "Mine."
    assert load_prompt(other).render("reflect", GIVEN) == "Theirs."
    assert len(load_prompt(other).templates) == 3


def test_an_edited_file_or_parent_is_another_prompt(tmp_path: Path) -> None:
    parent = write(tmp_path, "parent.md", "{% block question %}one{% endblock %}")
    child = write(tmp_path, "child.md", '{% extends "parent.md" %}{% block reflect %}x{% endblock %}')
    before = load_prompt(child)
    parent.write_text("{% block question %}two{% endblock %}")
    after = load_prompt(child)
    assert (before.render("question", {}), after.render("question", {})) == ("one", "two")
    assert before.source != after.source


def test_what_is_given_is_text_and_never_a_template() -> None:
    hostile = "{{ 7 * 7 }}{% raw %}{% block system %}{{ ''.__class__ }}{# gone #}"
    shown = load_prompt("solver").render("question", {**GIVEN, "question": hostile})
    assert shown.startswith(hostile)
    others = [{"name": "agent 2", "text": hostile}]
    shown = load_prompt("solver").render("others", {**GIVEN, "brief": False, "others": others})
    assert hostile in shown


@pytest.mark.parametrize(
    "hostile",
    [
        "{{ question.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ question.__class__.__init__.__globals__ }}",
        "{{ others.append(1) }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ '{0.__class__.__mro__}'.format(question) }}",
        "{{ 1 / 0 }}",
        "{{ others[5].text }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_one_clear_line(tmp_path: Path, hostile: str) -> None:
    path = write(tmp_path, "bad.md", "{% block question %}" + hostile + "{% endblock %}")
    prompt = load_prompt(path)
    with pytest.raises(UserError, match=r"bad\.md`, block `question`: ") as caught:
        prompt.render("question", {**GIVEN, "others": []})
    assert "\n" not in str(caught.value)


def test_an_attribute_that_does_not_exist_is_not_silently_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path, "typo.md", "{% block others %}{% for o in others %}{{ o.txet }}{% endfor %}{% endblock %}"
    )
    with pytest.raises(UserError, match="txet"):
        load_prompt(path).render("others", {"others": [{"text": "x"}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{% block question %}{{ question", "is no valid template"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "is no valid template"),
        ("{% block a %}{{ x | nosuchfilter }}{% endblock %}", "is no valid template"),
        ('{% extends "nothing.md" %}', "known: .*solver.md"),
        ('{% extends "../solver.md" %}', "plain name"),
        ('{% extends "/etc/hostname" %}', "plain name"),
        ("{% extends question %}", "plain name"),
        ('{% block a %}{% include "solver.md" %}{% endblock %}', "not include or import"),
        ('{% import "solver.md" as s %}', "not include or import"),
        ('{% extends "circle.md" %}', "in a circle"),
    ],
)
def test_a_file_that_is_no_prompt_is_refused_when_it_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, "circle.md", '{% extends "first.md" %}')
    with pytest.raises(UserError, match=said):
        load_prompt(write(tmp_path, "first.md", text))


def test_unknown_prompts_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown prompt.*`poet`; known: affirmative, .*judge, .*solver"):
        load_prompt("poet")
    with pytest.raises(UserError, match="unknown prompt"):
        load_prompt(tmp_path / "none.md")
    (tmp_path / "latin.md").write_bytes(b"\xff\xfe{% block a %}")
    with pytest.raises(UserError, match="is no valid template"):
        load_prompt(tmp_path / "latin.md")


def test_check_names_the_missing_block_and_the_unknown_variable(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, "p.md", "{% block question %}{{ qestion }}{% endblock %}"))
    with pytest.raises(UserError, match=r"no block `others`; its role speaks on: others, question"):
        prompt.check(["question", "others"], ["question"])
    with pytest.raises(UserError, match=r"variable in block `question`.*`qestion`; known: question"):
        prompt.check(["question"], ["question"])
    body = "{% set n = 1 %}{{ n }}{% for q in question %}{{ q }}{{ loop.index }}{% endfor %}"
    load_prompt(write(tmp_path, "q.md", "{% block question %}" + body + "{% endblock %}")).check(
        ["question"], ["question"]
    )


def test_an_overridden_block_is_not_held_against_the_file(tmp_path: Path) -> None:
    write(tmp_path, "parent.md", "{% block question %}{{ strange }}{% endblock %}")
    child = write(tmp_path, "child.md", '{% extends "parent.md" %}{% block question %}x{% endblock %}')
    load_prompt(child).check(["question"], [])


def test_a_prompt_can_be_given_as_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it stands alone: files beside the process are not looked at."""
    text = '{% extends "solver.md" %}\n{% block system %}Poet.{% endblock %}'
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "solver.md", "{% block question %}not this one{% endblock %}")
    prompt = load_prompt(text)
    assert prompt.render("system", {}) == "Poet." and "question" in prompt.occasions()
    assert list(prompt.source) == ["(text)", "solver.md (extended)"] and prompt.source["(text)"] == text
    assert "not this one" not in str(prompt.source)
    with pytest.raises(UserError, match=r"`\(text\)` is no valid template"):
        load_prompt("{% block system %}")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.md")), ids=lambda path: path.stem)
def test_shipped_prompts_end_with_what_to_do(path: Path) -> None:
    """Small models follow the last line best: the format asked for comes last, once."""
    text = path.read_text(encoding="utf-8")
    assert text.isascii()
    for block in text.split("{% block ")[1:]:
        name, body = block.split(" %}", 1)
        body = body.split("{% endblock %}")[0].replace("{% endif %}", "").strip()
        if name not in ("system", "select"):
            assert body.endswith("{{ instruction }}"), name

"""From episode to episode as the list was filtered, and the words that agents said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from view_support import browser

import sparring
from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.memory.journal import Journal
from sparring.view.beside import beside, said_in
from sparring.view.facts import Facts
from sparring.view.runs import episode_list

TASKS = [{"id": f"t{number}", "question": f"{number} + 1?", "answer": str(number + 1)} for number in range(6)]


def reply(request: Request, seed: int) -> str:
    text = str(request.messages[-1]["content"])
    odd = ' I saw a "zebra",\n50 % of it — /really/' if text.startswith("3 + 1") else ""
    return f"Let me think.{odd} Answer: {seed % 4}"


@pytest.fixture
def facts(memory: str, journal: Journal) -> Iterator[Facts]:
    sparring.play("sample", TASKS, engine=ScriptedEngine(reply), memory=memory, run="a", n=2)
    sparring.play("sample", TASKS[:1], engine=ScriptedEngine(reply), memory=memory, run="other")
    made = Facts(journal)
    made.look()
    yield made
    made.close()


@pytest.mark.parametrize(
    "wanted",
    [{}, {"sort": "tokens"}, {"sort": "calls"}, {"verdict": "wrong"}, {"q": "3 + 1"}, {"sort": "answers"}],
    ids=str,
)
def test_neighbours_are_those_of_the_list(journal: Journal, facts: Facts, wanted: dict[str, str]) -> None:
    rows = [row for row, _ in episode_list(journal, facts, "a", wanted, 1).rows]
    assert rows
    ids = [None, *(row["id"] for row in rows), None]
    for place, row in enumerate(rows, 1):
        found = beside(journal, facts, "a", wanted, row["number"])
        assert found is not None
        assert (found.before, found.after) == (ids[place - 1], ids[place + 1])
        assert (found.place, found.total) == (place, len(rows))
    left = {row["number"] for row in facts.ask("SELECT number FROM facts")} - {row["number"] for row in rows}
    assert left and all(beside(journal, facts, "a", wanted, number) is None for number in left)


def test_words_are_found_where_an_agent_said_them(journal: Journal, facts: Facts) -> None:
    def tasks(words: str) -> set[Any]:
        heard = said_in(journal, facts, "a", words)
        return {row["task"] for row, _ in episode_list(journal, facts, "a", {}, 1, heard).rows}

    everywhere = {task["id"] for task in TASKS}
    assert tasks("let me THINK") == everywhere
    for words in ("zebra", '"zebra",\n50 % of', "% of it —", "/really/"):
        assert tasks(words) == {"t3"}, words
    assert tasks("3 + 1") == set()  # it was asked, not said
    assert tasks("text") == tasks("type") == tasks("zebr_") == tasks("assistant") == set()


def test_the_filter_goes_along(memory: str, facts: Facts) -> None:
    with browser(memory) as seen:
        page = seen.get("/run", name="a", said="zebra", sort="calls")
        (episode,) = (link for link in page.links if link.startswith("/episode"))
        assert "said=zebra" in episode and "sort=calls" in episode and "1 of 6" in page.text
        assert "/run?name=a#played" in page.links  # shows all again
        read = seen.get(episode)
        assert "episode 1 of 1 that fit the filter" in read.text
        assert "/run?name=a&said=zebra&sort=calls" in read.links
        assert "No episode fits" in seen.get("/run", name="a", said="giraffe").text
        seen.follow(page)
        first = seen.get(
            next(link for link in seen.get("/run", name="a").links if link.startswith("/episode"))
        )
        assert "episode 1 of 6" in first.text and "filter" not in first.text

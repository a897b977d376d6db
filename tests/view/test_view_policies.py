"""Policies, versions, lineage and updates: a family that branches, and addresses that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from view_support import HOSTILE, Browser, browser  # isort: skip - it makes the paths
from journal_support import drive, episode, says
from journal_support import version as base
from sqlalchemy import select

from sparring.graphs.policies import told_of
from sparring.memory.journal import Journal
from sparring.memory.policies import by_id, find, lineage, move_head, publish, trained_on
from sparring.memory.schema import Turn
from sparring.memory.updates import open_update
from sparring.view.policies import family

TURNS = 60
"""Of the first update: more than a page holds."""


async def grow(journal: Journal, policy: str, text: str = "I say 4.") -> None:
    """The base, two children of it, and a grandchild of the first that is live."""
    base(journal, policy)
    with drive(journal, "r", protocol="sample") as run:
        said = {f"solver/{n}": says(text=text) for n in range(TURNS + 3)}
        await episode(run, said, policy=policy)
        turns = [row.id for row in journal.read(select(Turn.id).order_by(Turn.id))]
        parts = (turns[:TURNS], turns[TURNS : TURNS + 1], turns[TURNS + 1 :])
        for step, (number, part) in enumerate(zip((0, 0, 1), parts, strict=True)):
            version = find(journal, policy, number)
            update = open_update(run, policy, step, version.id, part, {"learning_rate": 0.1})
            publish(
                journal,
                update_id=update.id,
                adapter_path=f"/nowhere/{step}",
                adapter_hash=f"{step}" * 20,
                metrics={"entropy": 1.5 - step, "kl": 0.25},
                run=run,
            )
        move_head(
            journal, policy, "live", find(journal, policy, 3).id, by="gate", reason=f"better {text}", run=run
        )


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("policies") / "j.db"
    with Journal.open(file) as journal:
        asyncio.run(grow(journal, "learner"))
    return file


@pytest.fixture(scope="module")
def seen(memory: Path) -> Iterator[Browser]:
    with browser(memory) as made:
        yield made


def test_policies_are_listed_with_their_heads(seen: Browser) -> None:
    page = seen.get("/policies")
    assert page.row("learner")[1:4] == ["@3", "@3", "4"]
    seen.follow(page)
    assert "No policy fits" in seen.get("/policies?q=nothing+like+it").text


def test_a_policy_shows_what_the_command_shows(seen: Browser, memory: Path) -> None:
    with Journal.open(memory) as journal:
        told = told_of(journal, "learner")
    page = seen.get("/policy", name="learner")
    assert [row[0] for row in page.rows if row and row[0] in ("@0", "@1", "@2", "@3")] == [
        "@3",
        "@2",
        "@1",
        "@0",
    ]
    for version in told["versions"]:
        row = page.row(f"@{version['number']}")
        parent = "" if version["parent"] is None else f"@{version['parent']}"
        assert row[1:3] == [" ".join(version["heads"]), parent]
        if version["step"] is not None:
            assert row[3] == f"step {version['step'] + 1} of r"
            assert [float(cell) for cell in row[4:6]] == [version["metrics"][n] for n in ("entropy", "kl")]
            assert row[6] == "gone"
    for move in told["moves"]:
        assert any(row[1:] == [move["head"], f"@{move['origin']} → @{move['target']}", move["by"],
                               move["reason"], move["run"]] for row in page.rows)  # fmt: skip
    assert "svg" in page.tags, "it branches"
    seen.follow(page)


def test_a_version_is_traced_up_to_the_base(seen: Browser, memory: Path) -> None:
    with Journal.open(memory) as journal:
        steps = lineage(journal, find(journal, "learner", 3).id)
    page = seen.get("/version", policy="learner", number=3)
    shown = [row for row in page.rows if row[0].startswith("learner@")]
    assert [row[0] for row in shown] == [step.version.label for step in steps] == [
        "learner@3", "learner@1", "learner@0"]  # fmt: skip
    assert [row[3] for row in shown] == ["2 turns", f"{TURNS} turns", ""]
    assert shown[0][4:6] == ["-0.5", "0.25"]
    seen.follow(page)


def test_an_update_shows_the_turns_that_trained_it_part_by_part(seen: Browser, memory: Path) -> None:
    with Journal.open(memory) as journal:
        update = lineage(journal, find(journal, "learner", 1).id)[0].update
        assert update is not None
        turns = trained_on(journal, update["id"])
        assert trained_on(journal, update["id"], limit=5, offset=50) == turns[50:55]
        assert by_id(journal, turns[0].id) is not None
    first, last = (seen.get("/update", id=update["id"], page=n) for n in (1, 2))
    linked = [link for page in (first, last) for link in page.links if link.startswith("/episode")]
    assert linked == [f"/episode?id={turn.episode}#turn-{turn.id}" for turn in turns]
    assert first.text.count("I say 4.") == 50 and last.text.count("I say 4.") == 10
    for page in (first, last):
        seen.follow(page)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("/policy?name=nobody", "nobody"),
        ("/policy", "learner"),
        ("/version?policy=nobody&number=0", "nobody"),
        ("/version?policy=learner&number=7", "it has 0, 1, 2, 3"),
        ("/version?policy=learner&number=x", "whole number"),
        ("/version?policy=learner&number=99999999999999999999", "whole number"),
        ("/version?policy=learner", "whole number"),
        ("/update?id=77", "no update with id 77"),
        ("/update?id=-1", "whole number"),
        ("/update?id=%C2%B2", "whole number"),
        ("/run?name=nobody", "nobody"),
    ],
)
def test_wrong_addresses_are_told_so(seen: Browser, address: str, said: str) -> None:
    page = seen.get(address, status=404)
    assert said in page.text and "Traceback" not in page.html


def test_parts_that_are_not_there_are_the_nearest(seen: Browser) -> None:
    assert "part 2 of 2" in seen.get("/update?id=1&page=99999999").text
    assert "part 1 of 2" in seen.get("/update?id=1&page=-3").text


async def test_hostile_names_and_words_stay_words(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.db") as journal:
        await grow(journal, HOSTILE, HOSTILE)
    with browser(tmp_path / "j.db") as seen:
        for address, query in (
            ("/policies", {}),
            ("/policy", {"name": HOSTILE}),
            ("/version", {"policy": HOSTILE, "number": 3}),
            ("/update", {"id": 1}),
        ):
            page = seen.get(address, **query)
            assert HOSTILE in page.text, address
            assert "img" not in page.tags and page.tags.count("script") == 3, address
            seen.follow(page)


def test_only_a_family_that_branches_is_drawn_and_a_large_one_is_folded() -> None:
    def line(start: int, stop: int, first: int | None) -> list[dict[str, int | None]]:
        numbers = range(start, stop)
        return [{"number": n, "parent": n - 1 if n > start else first} for n in numbers]

    heads = {"live": 150, "training": 299}
    assert family(line(0, 300, None), heads) is None
    drawn = family([*line(0, 200, None), *line(200, 300, 100)], heads)
    assert drawn is not None
    for label in ("@0", "@100", "@150 live", "@199", "@299 training"):
        assert f">{label}</text>" in drawn.inside
    assert drawn.inside.count("<rect") == 5 and drawn.inside.count("edge choice") == 4
    broom = [*line(0, 2, None), *({"number": n, "parent": 1} for n in range(2, 200))]
    assert family(broom, {"live": 0, "training": 0}) is None, "too many to be seen"

"""The pages of `evolve`: a real run of a tiny model, one one with alarms, an archive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from sqlalchemy import select

from view_support import HOSTILE, Browser, Page, browser  # isort: skip - it makes the paths
from evolve_support import save_model, small

from sparring.memory.journal import Journal
from sparring.memory.policies import register
from sparring.memory.schema import Run
from sparring.memory.updates import updates_of
from sparring.training.archive.console import remarks
from sparring.training.archive.record import read_archive
from sparring.training.console import readability
from sparring.training.story import Story, read_story


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps, evaluated and gated after each."""
    import torch

    from sparring.training.evolve import evolve

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several gain nothing on tiny tensors and wait for each other
    folder = tmp_path_factory.mktemp("evolution")
    save_model(folder / "model")
    config = small(folder, f"{folder / 'model'}?dtype=float32", steps=2, plots=str(folder / "plots"))
    evolve(config, folder / "j.db")
    torch.set_num_threads(threads)
    return folder / "j.db"


@pytest.fixture(scope="module")
def story(memory: Path) -> Story:
    with Journal.open(memory) as journal:
        return read_story(journal, "small")


@pytest.fixture(scope="module")
def seen(memory: Path) -> Iterator[Browser]:
    with browser(memory) as made:
        yield made


@pytest.fixture(scope="module")
def page(seen: Browser) -> Page:
    return seen.get("/run", name="small")


def charts(page: Page) -> list[dict[str, Any]]:
    return [json.loads(chart) for chart in page.charts]


def test_the_curves_are_those_of_the_story(page: Page, story: Story) -> None:
    evaluated, *trained = charts(page)
    assert evaluated["rows"][0] == [0, 1, 2] and evaluated["bands"] == [[0, 1, 2]]
    for place, name in enumerate(("mean", "low", "high"), start=1):
        assert evaluated["rows"][place] == [point[name] for point in story.evaluations]
    drawn = [line for chart in trained for line in chart["rows"][1:]]
    for name in ("reward", "entropy", "length", "informative", "parse_rate", "truncation_rate"):
        assert [row[name] for row in story.series] in drawn, name
    assert [row.get("kl_reference", row.get("kl")) for row in story.series] in drawn
    for row in trained:
        assert row["rows"][0] == [1, 2]


def test_the_tables_are_those_of_the_report(page: Page, story: Story) -> None:
    assert readability(story) in page.text
    before, after = story.before, story.after
    assert before and after
    shown = [f"{p['mean']:.3f} [{p['low']:.3f}, {p['high']:.3f}] of 2 its run" for p in (before, after)]
    assert page.row("accuracy")[1:] == shown
    for row in story.decisions:
        gap, found = row["difference"], row["accuracy"]
        cells = page.row(str(row["step"]), f"solver@{row['candidate']}", f"solver@{row['live']}")
        assert cells[1] == f"solver@{row['candidate']} {found['candidate']['mean']:.3f}"
        assert cells[3] == f"{gap['mean']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]"
        assert cells[4:] == [str(row["items"]), row["verdict"], "candidate live"]


def test_a_decision_leads_to_the_runs_it_was_made_of(page: Page, story: Story, memory: Path) -> None:
    reported = {point["run"] for point in story.evaluations}
    with Journal.open(memory) as journal:
        runs = {row.id for row in journal.read(select(Run.id).where(Run.parent_id == "small"))}
    gates = runs - reported
    assert gates and reported
    for run in runs:
        assert f"/run?name={quote_plus(run)}" in page.links


def test_updates_lead_down_to_the_turns_that_trained_them(page: Page, seen: Browser, memory: Path) -> None:
    with Journal.open(memory) as journal:
        updates = updates_of(journal, "small")
    for update in updates:
        row = page.row(f"step {update.step + 1}", "solver")
        assert row[2:6] == [f"solver@{update.step}", f"solver@{update.step + 1}", "done", "8"]
        assert f"/update?id={update.id}" in page.links
    assert len(seen.follow(page)) > 15
    turns = seen.get("/update", id=updates[0].id)
    assert len([link for link in turns.links if link.startswith("/episode")]) == 8
    seen.follow(turns)


def test_a_turn_leads_to_the_version_that_spoke(seen: Browser) -> None:
    turns = seen.get("/update", id=1)
    episode = next(link for link in turns.links if link.startswith("/episode")).partition("#")[0]
    assert "/version?policy=solver&number=0" in seen.get(episode).links


def test_a_turn_leads_back_to_the_update_that_it_trained(seen: Browser) -> None:
    turns = seen.get("/update", id=1)
    episode = next(link for link in turns.links if link.startswith("/episode")).partition("#")[0]
    assert "/update?id=1" in seen.get(episode).links and "trained solver, step 1" in seen.get(episode).text


def told(memory: Path, alarm: str = "entropy fell", policy: str = "red") -> None:
    """The journal of a run with an alarm, a policy that was stopped, opponents and a figure that is none."""
    sides = (policy, "blue")
    with Journal.open(memory) as journal:
        for side in sides:
            register(journal, policy=side, base_hash="hash", base_spec="scripted:x")
        config = {"policies": {side: {} for side in sides}}
        run = journal.drive("game", kind="evolve", protocol="sneaky", config=config, seed=0)
        metrics = {"turns": 4.0, "rewarded": 1.0, "reward": 0.5, "entropy": float("nan")}
        alarms = {policy: [{"monitor": "entropy", "message": alarm, "action": "stop", "value": 0.1}]}
        record = {
            "elapsed": 1.0,
            "policies": {side: metrics for side in sides},
            "alarms": alarms,
            "stopped": {policy: alarm},
            "figures": {"win_rate": 0.25},
        }
        known = [{"versions": [0, 0], "points": 1.0, "games": 4}]
        chosen = {"policies": list(sides), "versions": [0, 0], "candidates": known}

        async def write() -> None:
            await run.event("opponents", "0", chosen)
            await run.event("step", "0", record)

        asyncio.run(write())
        run.release()


def test_alarms_stops_and_opponents_are_told(tmp_path: Path) -> None:
    told(tmp_path / "j.db")
    with browser(tmp_path / "j.db") as seen:
        page = seen.get("/run", name="game")
        assert page.row("1", "red", "entropy")[3:] == ["entropy fell", "stop"]
        assert "Policy red is trained no further: entropy fell" in page.text
        assert page.row("1", "red@0 against blue@0")[2:] == ["1", "4", "0.250", "chosen"]
        lines = {name: line for chart in charts(page) for name, line in named(chart)}
        assert lines["win rate"] == [0.25] and lines["red"] == [0.5]
        assert "NaN" not in "".join(page.charts)
        seen.follow(page)


def named(chart: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(zip(chart["series"], chart["rows"][1:], strict=True))


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    told(tmp_path / "j.db", alarm=HOSTILE, policy=HOSTILE)
    with browser(tmp_path / "j.db") as seen:
        page = seen.get("/run", name="game")
        assert page.text.count(HOSTILE) > 5
        assert "img" not in page.tags and page.tags.count("script") == 3
        assert {HOSTILE, "blue"} <= {name for chart in charts(page) for name, _ in named(chart)}
        seen.follow(page)


def test_an_evolution_that_has_just_begun_is_no_error(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j.db") as journal:
        config = {"policies": {"solver": {}}}
        journal.drive("new", kind="evolve", protocol="sample", config=config, seed=0).release()
    with browser(tmp_path / "j.db") as seen:
        page = seen.get("/run", name="new")
        assert "No step is over" in page.text and "No update has begun" in page.text


def bred(memory: Path) -> None:
    """The journal of an archive: an agent, its better child, another one that stayed out, one that failed."""
    with Journal.open(memory) as journal:
        config = {"engine": "scripted:x.jsonl", "stages": [{"instances": 4}]}
        run = journal.drive("bred", kind="archive", protocol="software", config=config, seed=0)
        agent = {"prompt": HOSTILE, "options": {}, "sampling": {}}
        born = {"agent": "a", "topic": "economy", "instances": [], "why": "to see", "changes": ["system"]}
        lost = {"generation": 2, "parent": "child", "topic": "economy", "member": None, "failure": HOSTILE}
        children = {
            "0.0": {**born, "generation": 0, "parent": None, "member": "first"},
            "1.0": {**born, "generation": 1, "parent": "first", "member": "child"},
            "1.1": {**born, "generation": 1, "parent": "first", "member": "other"},
            "2.0": lost,
        }
        entered = {"first": True, "child": True, "other": False}
        names = [f"task-{n}" for n in range(4)]

        async def write() -> None:
            await run.event("agent", "a", agent)
            for key, child in children.items():
                await run.event("child", key, child)
            for right, (member, inside) in enumerate(entered.items(), start=1):
                child = f"bred.agents/{member}/1"
                stage = {"run": child, "resolved": names[:right], "unresolved": names[right:], "masked": []}
                stage |= {"patched": 4, "passed": True, "threshold": 0.0}
                await run.event("evaluation", f"{member}.0", stage)
                await run.event("entry", member, {"entered": inside, "reason": "too few"})
                given = {"protocol": "software", "config": {}, "seed": 0}
                journal.drive(child, kind="play", parent="bred", **given).release()

        asyncio.run(write())
        run.release()


def test_an_archive_shows_its_agents(tmp_path: Path) -> None:
    bred(tmp_path / "j.db")
    with Journal.open(tmp_path / "j.db") as journal:
        found = read_archive(journal, "bred")
    with browser(tmp_path / "j.db") as seen:
        page = seen.get("/run", name="bred")
        for right, member in enumerate(found.made, start=1):
            share = member.accuracy
            interval = f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}] of 4"
            entry = "yes" if member.entered else "no: too few"
            parent = member.parent or ""
            assert page.row(member.id)[1:] == [
                *(str(member.generation), parent, "system about economy", f"{right}/4", interval, "", entry)
            ]
        for said in remarks(found):
            assert said in page.text
        assert page.row("2", "child", "economy")[3] == HOSTILE and page.text.count(HOSTILE) == 1
        assert page.html.count('class="edge choice"') == 1 == page.html.count('class="edge"')
        assert "scripted agent" in page.text and "img" not in page.tags
        seen.follow(page)

"""The pool of samples beside a run: large enough, drawn once, continued, and never the run's own words."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sparring.agents.engines.base import Request
from sparring.errors import EngineError, UserError
from sparring.graphs.baseline import settings
from sparring.graphs.play import Play, aplay, aresume, plan
from sparring.graphs.results import read_results
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Turn

TASKS = [{"id": f"t{i}", "question": f"{i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(3)]


class Engine:
    """A reply function that counts its calls; long-winded about the first task."""

    def __init__(self, broken: bool = False) -> None:
        self.calls: Counter[int] = Counter()
        self.broken = broken

    def __call__(self, request: Request, seed: int) -> str:
        self.calls[seed] += 1
        if self.broken:
            raise EngineError("the backend is away")
        asked = str(request.messages)
        return "well, " * (40 if "0 + 1?" in asked else 1) + f"\nAnswer: {seed % 3}"


def planned(engine: Any, **options: Any) -> Play:
    return plan("debate", TASKS, engine=engine, **options)


def play(path: Path, todo: Play, **ways: Any) -> Any:
    return asyncio.run(aplay(todo, path, run="r", **ways))


def spent(journal: Journal, run: str) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in read_results(journal, run):
        sums = found.setdefault(row.task_id, [0, 0, 0])
        tokens = row.prompt_tokens + row.completion_tokens
        for place, value in enumerate((row.calls, row.completion_tokens, tokens)):
            sums[place] += value
    return found


@pytest.mark.parametrize("margin", [1, 3])
def test_each_tasks_pool_pays_for_the_margin_in_every_unit(tmp_path: Path, margin: int) -> None:
    play(tmp_path / "j.db", planned(Engine(), **{"baseline.margin": margin}))
    with Journal.open(tmp_path / "j.db") as journal:
        run, pool = spent(journal, "r"), spent(journal, "r.baseline")
        row = journal.run_row("r.baseline")
        assert journal.run_row("r").config["baseline"] == {"margin": margin}
    assert (row.kind, row.parent_id, row.protocol, row.status) == ("baseline", "r", "sample", "done")
    for task, needed in run.items():
        assert all(got >= margin * need for got, need in zip(pool[task], needed, strict=True)), task
        smallest = min(got / (margin * need) for got, need in zip(pool[task], needed, strict=True))
        assert smallest < 2.2, "a pool need not be much larger than asked"


def test_the_pool_is_drawn_once(tmp_path: Path) -> None:
    engine = Engine()
    todo = planned(engine, baseline=True)
    play(tmp_path / "j.db", todo)
    calls = engine.calls.total()
    play(tmp_path / "j.db", todo)
    assert engine.calls.total() == calls
    assert max(engine.calls.values()) == 1, "pool and run have seeds of their own"


def test_a_run_of_samples_is_not_its_own_baseline(tmp_path: Path) -> None:
    engine = Engine()
    asyncio.run(aplay(plan("sample", TASKS, engine=engine, baseline=True, n=4), tmp_path / "j.db", run="r"))
    assert max(engine.calls.values()) == 1


def test_a_pool_can_be_asked_for_later_and_stays_asked_for(tmp_path: Path) -> None:
    path, engine = tmp_path / "j.db", Engine()
    play(path, planned(engine))
    with Journal.open(path) as journal:
        assert not journal.has_run("r.baseline")
    play(path, planned(engine, baseline=True))
    with Journal.open(path) as journal:
        assert journal.has_run("r.baseline")
    assert play(path, planned(engine)).complete, "the same call without it continues the same run"
    assert max(engine.calls.values()) == 1


def test_resume_draws_the_pool_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    todo = plan("debate", TASKS, engine="scripted:hash", baseline=True)

    async def interrupted() -> None:
        seen = asyncio.Event()
        task = asyncio.create_task(aplay(todo, path, run="r", on_progress=lambda state: seen.set()))
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    assert asyncio.run(aresume("r", path)).complete
    with Journal.open(path) as journal:
        assert set(spent(journal, "r.baseline")) == {"t0", "t1", "t2"}


def test_own_prompt_temperature_and_inherited_settings(tmp_path: Path) -> None:
    options = {"max_tokens": 64, "temperature": 0.2, "solver.top_p": 0.9, "answer": "boxed"}
    wanted = {"baseline.temperature": 0.7, "baseline.most": 4}
    play(tmp_path / "j.db", planned(Engine(), **options, **wanted))
    with Journal.open(tmp_path / "j.db") as journal:
        config = journal.run_row("r.baseline").config
        calls = [row[0] for row in spent(journal, "r.baseline").values()]
    assert config["sampling"] == {"max_tokens": 64, "top_p": 0.9, "temperature": 0.7}
    assert config["options"] == {"n": 4, "answer": "boxed"}
    assert calls == [4, 4, 4], "`most` caps what the margin asks for"


def test_the_pool_is_sampled_like_the_method_unless_told_otherwise(tmp_path: Path) -> None:
    """A pool at another temperature would be a better or worse sampler, not the same one asked alone."""
    play(tmp_path / "j.db", planned(Engine(), temperature=0.2, baseline=True))
    with Journal.open(tmp_path / "j.db") as journal:
        assert journal.run_row("r.baseline").config["sampling"] == {"temperature": 0.2}


def test_the_pool_is_drawn_by_whoever_sits_as_the_solver(tmp_path: Path) -> None:
    own, other = Engine(), Engine()
    play(tmp_path / "j.db", planned(other, roles={"solver": own}, baseline=True))
    assert other.calls.total() == 0 and own.calls.total() > 0


def test_a_sample_runs_own_prompt_is_its_pools(tmp_path: Path) -> None:
    prompt = tmp_path / "mine.md"
    prompt.write_text("{% block question %}MINE {{ question }} {{ instruction }}{% endblock %}")
    prompts = {"solver": str(prompt)}
    play(tmp_path / "j.db", plan("sample", TASKS, engine=Engine(), prompts=prompts, baseline=True))
    with Journal.open(tmp_path / "j.db") as journal:
        assert journal.run_row("r.baseline").config["options"]["prompts"] == prompts


def test_copies_of_a_task_share_one_pool_as_large_as_the_dearest_needs(tmp_path: Path) -> None:
    play(tmp_path / "j.db", planned(Engine(), copies=3, **{"baseline.margin": 1}))
    with Journal.open(tmp_path / "j.db") as journal:
        dearest = max(row.calls for row in read_results(journal, "r"))
        assert all(dearest <= row[0] <= 5 * dearest for row in spent(journal, "r.baseline").values())


def test_a_broken_backend_stops_the_pool_and_is_told(tmp_path: Path) -> None:
    engine = Engine()
    play(tmp_path / "j.db", planned(engine))
    engine.broken = True
    result = play(tmp_path / "j.db", planned(engine, baseline=True))
    assert result.complete and result.baseline_failed > 0
    engine.broken = False
    assert play(tmp_path / "j.db", planned(engine)).baseline_failed == 0


def test_the_cost_is_said_before_anything_is_drawn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine()
    with caplog.at_level(logging.INFO, "sparring"):
        play(tmp_path / "j.db", planned(engine, baseline=True))
    [line] = [r.message for r in caplog.records if r.message.startswith("baseline: drawing")]
    assert "3 tasks, at least 36 calls" in line and "tokens" in line


def test_samples_of_one_request_share_its_prompt(tmp_path: Path) -> None:
    play(tmp_path / "j.db", planned(Engine(), baseline=True))
    with Journal.open(tmp_path / "j.db") as journal, journal.engine.connect() as connection:
        query = select(Turn.key).join(Episode).where(Episode.run_id == "r.baseline", Episode.copy == 0)
        assert Counter(connection.execute(query).scalars()) == {f"sample/{i}": 3 for i in range(6)}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"baseline.colour": 1}, "known: .*margin.*temperature"),
        ({"baseline.margin": 0.5}, "baseline.margin: .*greater than or equal to 1"),
        ({"baseline.most": "many"}, "baseline.most: .*integer"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings(dict(given))


def test_settings_are_taken_out_of_the_options() -> None:
    options: dict[str, Any] = {"baseline": True, "baseline.most": 9, "rounds": 3}
    assert settings(options) == {"most": 9}
    assert options == {"rounds": 3}
    assert (
        settings({}) is None and settings({"baseline": False}) is None and settings({"baseline": True}) == {}
    )

"""The story of a run, read from the journal of a real one (a tiny model), and how it is told."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from evolve_support import save_model, small
from rich.console import Console
from sqlalchemy import select

from sparring.errors import UserError
from sparring.graphs.play import play
from sparring.graphs.results import read_results
from sparring.graphs.stats import wilson
from sparring.memory.journal import Journal
from sparring.memory.schema import Run
from sparring.memory.updates import updates_of
from sparring.training.console import Watch, summary
from sparring.training.evolve import EvolveResult, evolve
from sparring.training.story import Story, by_kind, draw, plots_folder, read_story

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def told() -> list[tuple[str, Any]]:
    return []


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, Any]]
) -> Iterator[tuple[Journal, EvolveResult]]:
    """Two steps, evaluated and gated after each, with held-out tasks of two kinds."""
    folder = tmp_path_factory.mktemp("story")
    save_model(folder / "model")
    config = small(folder, f"{folder / 'model'}?dtype=float32", steps=2)
    kinds = [{"id": f"h{n}", "question": f"{n}*2=", "answer": "0", "kind": "ab"[n % 2]} for n in range(3)]
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kinds))
    with Journal.open(folder / "j.db") as journal:
        result = evolve(config, journal, told=lambda kind, numbers: told.append((kind, dict(numbers))))
        yield journal, result


def test_the_story_is_what_the_journal_holds(run: tuple[Journal, EvolveResult]) -> None:
    journal, result = run
    story = read_story(journal, "small")
    assert story == result.story and (story.run, story.status, story.stopped) == ("small", "done", {})
    assert [(row["step"], row["policy"]) for row in story.series] == [(1, "solver"), (2, "solver")]
    updates = updates_of(journal, "small", "solver")
    for point, update in zip(story.series, updates, strict=True):
        assert update.metrics is not None and point["learning_rate"] == update.metrics["learning_rate"]
        assert point["turns"] == 8.0 and 0 <= point["reward"] <= 1
    assert story.series[0]["seconds"] < story.series[1]["seconds"]
    assert [point["step"] for point in story.evaluations] == [0, 1, 2]
    for point in story.evaluations:
        rows = read_results(journal, point["run"])
        found = asdict(wilson(sum(bool(row.correct) for row in rows), 3))
        assert {name: point[name] for name in found} == found
        assert point["lineup"] == {"solver": point["step"]}
    assert story.before == story.evaluations[0] and story.after == story.evaluations[-1]
    assert [(row["step"], row["candidate"]) for row in story.decisions] == [(1, 1), (2, 2)]
    assert set(story.decisions[0]) >= {"verdict", "difference", "items", "failed", "margin", "live"}
    assert (story.first_version("solver", "training"), story.first_version("solver", "live")) == (0, 0)
    assert json.loads(json.dumps(story.to_json()))["run"] == "small"


def test_plots_are_pictures_of_it(run: tuple[Journal, EvolveResult], tmp_path: Path) -> None:
    journal, result = run
    assert [path.name for path in result.plots] == ["training.png", "before_after.png"]
    assert {path.parent.name for path in result.plots} == {"small.plots"}
    drawn = draw(journal, result.story, tmp_path / "new" / "plots")
    assert [path.read_bytes()[:8] for path in (*result.plots, *drawn)] == [PNG] * 4
    nothing = replace(result.story, evaluations=[])
    assert [path.name for path in draw(journal, nothing, tmp_path)] == ["training.png"]
    assert draw(journal, replace(nothing, series=[]), tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    assert plots_folder(journal, "a/b", None).name == "a-b.plots"
    assert plots_folder(journal, "a", str(tmp_path)) == tmp_path


def test_accuracy_by_kind(run: tuple[Journal, EvolveResult]) -> None:
    journal, result = run
    assert result.story.before is not None
    found = by_kind(journal, result.story.before["run"])
    assert {kind: estimate.n for kind, estimate in found.items()} == {"a": 2, "b": 1, "all": 3}
    measured = [point["run"] for point in result.story.evaluations]
    gate = journal.read(select(Run.id).where(Run.kind == "evaluation", Run.id.not_in(measured)))[0].id
    assert list(by_kind(journal, gate)) == ["all"]  # its tasks have no kinds


def test_other_runs_have_no_story(run: tuple[Journal, EvolveResult]) -> None:
    journal, _ = run
    with pytest.raises(UserError, match="nobody"):
        read_story(journal, "nobody")
    with pytest.raises(UserError, match="`evaluation`, not of `evolve`"):
        read_story(journal, next(name for name in journal.runs() if "evaluation" in name))


def test_a_run_that_has_only_begun_has_a_story(tmp_path: Path) -> None:
    task = [{"id": "q", "question": "1?", "answer": "1"}]
    play("sample", task, engine="scripted:hash", memory=tmp_path / "j.db", run="p")
    with Journal.open(tmp_path / "j.db") as journal:
        handle = journal.drive("e", kind="evolve", protocol="sample", config={"a": 1}, seed=0)
        story = read_story(journal, "e")
        handle.release()
    assert story == Story("e", "open", {"a": 1}, [], [], [], [], {})
    assert story.before is story.after is story.first_version("solver", "live") is None


# --- told -----------------------------------------------------------------------------------------------


def test_progress_goes_to_standard_error(
    told: list[tuple[str, Any]], run: tuple[Journal, EvolveResult], capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(quiet=False)
    for kind, numbers in told:
        watch(kind, numbers)
    out, err = capsys.readouterr()
    lines = [line.split() for line in err.splitlines()]
    assert out == "" and sum(line[:2] == ["time", "step"] for line in lines) == 1
    steps = [line for line in lines if line[2:3] == ["solver"] and line[1].isdigit()]
    assert [line[1] for line in steps] == ["1", "2"] and all(len(line) == 10 for line in steps)
    reward = run[1].story.series[0]["reward"]
    assert steps[0][3] == f"{reward:.3f}"
    assert sum("accuracy after" in line for line in err.splitlines()) == 3
    quiet = Watch(quiet=True)
    for kind, numbers in told:
        quiet(kind, numbers)
    quiet("alarm", {"policy": "solver", "message": "entropy fell"})
    quiet("stopped", {"policy": "solver", "why": "the loss is nan"})
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        "policy `solver`: entropy fell",
        "policy `solver`: the loss is nan",
    ]


def test_the_table_at_the_end(run: tuple[Journal, EvolveResult]) -> None:
    story, heads = run[1].story, run[1].heads

    def rows(told: Story) -> list[list[str]]:
        out = io.StringIO()
        Console(file=out, width=120).print(summary(told, heads))
        return [line.split() for line in out.getvalue().splitlines()]

    assert ["solver,", "training", "head", "@0", "@2"] in rows(story)
    later = [{**point, "lineup": {"solver": point["step"] + 7}} for point in story.evaluations]
    moved = replace(story, evaluations=later, decisions=[{**story.decisions[0], "live": 5}])
    assert ["solver,", "training", "head", "@7", "@2"] in rows(moved)
    assert rows(moved)[-1][:4] == ["solver,", "live", "head", "@5"]
    blind = rows(replace(story, evaluations=[], decisions=[]))
    assert blind[1] == ["accuracy", "not", "measured", "not", "measured"]
    assert blind[2] == ["solver,", "training", "head", "@2"]

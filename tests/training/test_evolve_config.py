"""The configuration of `evolve`: every mistake is one line that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring.errors import UserError
from sparring.graphs.compare import load_comparison
from sparring.memory.journal import Journal
from sparring.training.archive.config import load_archive
from sparring.training.config import load_config
from sparring.training.league.config import load_tournament
from sparring.training.preflight import preflight

GOOD: dict[str, Any] = {
    "run": "r",
    "tasks": "demo",
    "policies": {"solver": {"roles": ["solver"]}},
    "steps": 3,
}
SOURCE = {**{name: GOOD[name] for name in ("run", "policies", "steps")}, "source": {}}
SOLVER = "policies.solver"


def put(values: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """The values with another one at `a.b.c`."""
    name, _, rest = place.partition(".")
    return {**values, name: put(values.get(name) or {}, rest, value) if rest else value}


def refusal(values: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_config(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("run", 3),
        ("seed", "x"),
        ("protocol", 1),
        ("options", "n=3"),
        ("engine", {"a": 1}),
        ("roles", ["judge"]),
        ("sampling", 0.7),
        ("policies", "solver"),
        ("policies", {}),
        (f"{SOLVER}.roles", "solver"),
        (f"{SOLVER}.objective", "ppo"),
        (f"{SOLVER}.reward", 7),
        (f"{SOLVER}.loss", ["grpo"]),
        (f"{SOLVER}.advantage", 1.5),
        (f"{SOLVER}.lora", "all"),
        (f"{SOLVER}.train", 1),
        (f"{SOLVER}.reference", 3),
        (f"{SOLVER}.max_staleness", -1),
        (f"{SOLVER}.rolls", ["solver"]),
        ("play", []),
        ("play.tasks", 0),
        ("play.select", "hardest"),
        ("play.floor", 0),
        ("play.copies", 0),
        ("play.copies_unsolved", "many"),
        ("play.copy", 2),
        ("steps", 0),
        ("steps", "ten"),
        ("minutes", 0),
        ("decay", "cosine"),
        ("evaluate", "demo"),
        ("evaluate.tasks", ["demo"]),
        ("evaluate.every", 0),
        ("evaluate.sampling", 1),
        ("evaluate.copies", 0),
        ("gate.margin", -0.1),
        ("gate.half_width", 0),
        ("gate.block", 0),
        ("gate.items", 0),
        ("gate.rejected", "give_up"),
        ("entropy.target", 0),
        ("entropy.rate", 0),
        ("entropy.low", -1),
        ("explore.informative", 1.0),
        ("explore.high", "x"),
        ("keep", 1),
        ("concurrency", 0),
        ("stepz", 3),
    ],
)
def test_a_wrong_field_is_named(place: str, value: Any) -> None:
    started = place.split(".")[0]
    base = {"gate": {"tasks": "demo"}, "evaluate": {"tasks": "demo"}, "entropy": {"target": 1.0}}.get(started)
    if base is not None and "." in place:
        values = put({**GOOD, started: base}, place, value)
    else:
        values = put(GOOD, place, value)
    said = refusal(values)
    assert f"`{place}" in said, said


@pytest.mark.parametrize("missing", ["run", "policies", "steps", f"{SOLVER}.roles"])
def test_a_missing_field_is_named(missing: str) -> None:
    values = put(GOOD, missing, None)
    parent = values
    *above, last = missing.split(".")
    for name in above:
        parent = parent[name]
    del parent[last]
    assert f"`{missing}`" in refusal(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**GOOD, "source": {}}, "either `tasks` to play or a `source`"),
        ({name: value for name, value in GOOD.items() if name != "tasks"}, "give `tasks` to play"),
        ({**GOOD, "every": "8 turns"}, "`every` is for runs that learn from a `source`"),
        ({**SOURCE, "source": {"min_turns": 0}}, "source.min_turns"),
        ({**SOURCE, "source": {"poll_s": 0}}, "source.poll_s"),
        ({**SOURCE, "source": {"runs": "a"}}, "source.runs"),
        ({**SOURCE, "source": {"run": ["a"]}}, "`source.run`: there is no such field"),
    ],
)
def test_what_does_not_go_together(values: dict[str, Any], said: str) -> None:
    assert said in refusal(values)


@pytest.mark.parametrize(
    ("every", "cadence"),
    [
        (None, (5, 0.0)),
        ("256 turns", (256, 0.0)),
        ("1 turn", (1, 0.0)),
        (" 8turns ", (8, 0.0)),
        ("2 hours", (0, 7200.0)),
        ("0.5 hours", (0, 1800.0)),
        ("1hour", (0, 3600.0)),
    ],
)
def test_cadence(every: str | None, cadence: tuple[int, float]) -> None:
    assert load_config({**SOURCE, "source": {"min_turns": 5}, "every": every}).cadence() == cadence


@pytest.mark.parametrize(
    "every", ["0 turns", "turns", "-3 turns", "3 days", "1e3 turns", "0.0 hours", "", "3"]
)
def test_no_cadence(every: str) -> None:
    assert "write it as `256 turns` or `2 hours`" in refusal({**SOURCE, "every": every})


def test_short_names_and_options() -> None:
    long = {"name": "grpo", "beta": 0.04}
    policy = load_config(put(GOOD, f"{SOLVER}.loss", long)).policies["solver"]
    assert (policy.loss.name, policy.loss.options) == ("grpo", {"beta": 0.04})
    assert (policy.reward.name, policy.reward.options) == ("verifier", {})
    assert load_config(put(GOOD, f"{SOLVER}.loss", "gspo")).policies["solver"].loss.name == "gspo"


# --- files ----------------------------------------------------------------------------------------------


def test_files_are_found_beside_the_one_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "held.jsonl", "gate.jsonl", "solver.md"):
        (folder / name).write_text("")
    values = {
        **GOOD,
        "tasks": "train.jsonl",
        "options": {"n": 2, "prompts": {"solver": "solver.md"}},
        "evaluate": {"tasks": "held.jsonl"},
        "gate": {"tasks": "gate.jsonl"},
    }
    (folder / "evolve.yaml").write_text(yaml.safe_dump(values))
    found = load_config("conf/evolve.yaml")
    assert found.evaluate is not None and found.gate is not None
    assert [found.tasks, found.evaluate.tasks, found.gate.tasks, found.options["prompts"]["solver"]] == [
        str(folder / name) for name in ("train.jsonl", "held.jsonl", "gate.jsonl", "solver.md")
    ]
    assert found.options["n"] == 2
    (folder / "evolve.yaml").write_text(yaml.safe_dump(GOOD))
    assert load_config("conf/evolve.yaml").tasks == "demo"  # a shipped set keeps its name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- run: r\n", "expected fields such as `run: NAME`"),
        ("just words\n", "expected fields such as `run: NAME`"),
        ("", "expected fields such as `run: NAME`"),
        ("run: [unclosed\n", "is no YAML"),
        ("run: !!python/object:os.system {}\n", "is no YAML"),
        (b"\xff\xfe\x00run", "is no YAML"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused = refusal(file)
    assert said in refused and str(file) in refused
    assert "cannot be read" in refusal(tmp_path) and "cannot be read" in refusal(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "key", "line"),
    [
        ("run: r\nsteps: 3\nrun: s\n", "run", 3),
        ("run: r\npolicies:\n  a: {roles: [x], 'roles': [y]}\n", "roles", 3),
        ("run: r\nsource: &kept {min_turns: 1}\nroles:\n  - {<<: *kept, a: 1}\n  - a: 1\n    a: 2\n", "a", 6),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, content: str, key: str, line: int) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(content)
    assert f"`{file}`, line {line}: key `{key}` is there already" in refusal(file)


def test_merge_keys_are_merged_and_overridden(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "run: r\ntasks: demo\nsteps: 3\npolicies:\n  a: &a {roles: [x], max_staleness: 1}\n"
        "  b: &b {<<: *a, roles: [y]}\n  c: {<<: *b, roles: [z], max_staleness: 2}\n"
    )
    found = load_config(file).policies
    assert [(found[n].roles, found[n].max_staleness) for n in "abc"] == [
        (("x",), 1),
        (("y",), 1),
        (("z",), 2),
    ]


def test_what_may_change_in_a_run_that_goes_on() -> None:
    first = load_config(GOOD).identity()
    assert load_config({**GOOD, "plots": "elsewhere", "concurrency": 3, "minutes": 2.0}).identity() == first
    assert load_config({**GOOD, "seed": 1}).identity() != first


def test_a_run_goes_on_with_code_that_has_gained_an_option(tmp_path: Path) -> None:
    config = load_config({**GOOD, "evaluate": {"tasks": "demo"}})
    begun: dict[str, Any] = {"kind": "evolve", "protocol": "sample", "seed": 0}
    about = {**begun, "reread": config.reread}
    older = config.identity()
    del older["seed"], older["evaluate"]["options"]  # as if neither had been there yet
    for policy in older["policies"].values():
        del policy["begin"]
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.drive("r", config=older, **begun).release()
        journal.drive("r", config=config.identity(), **about).release()
        changed = load_config({**GOOD, "evaluate": {"tasks": "demo", "options": {"agents": 2}}}).identity()
        with pytest.raises(UserError, match="another evaluate"):
            journal.drive("r", config=changed, **about)
        journal.drive("lost", config={**older, "long_gone": 1}, **begun).release()
        with pytest.raises(UserError, match="another long_gone:"):
            journal.drive("lost", config=config.identity(), **about)


def test_a_run_goes_on_with_an_engine_that_may_hold_more_and_not_with_another() -> None:
    def identity(engine: str) -> dict[str, Any]:
        return load_config({**GOOD, "engine": engine}).identity()

    small = identity("smollm2-135m?max_batch=8&dtype=float32&packed=false")
    assert small == identity("smollm2-135m?dtype=float32&max_batch=64") != identity("smollm2-135m")


def test_a_run_goes_on_wherever_its_files_lie_and_not_with_others(tmp_path: Path) -> None:
    def laid_out(folder: str) -> Path:
        (there := tmp_path / folder).mkdir()
        (there / "tasks.jsonl").write_text('{"id": "a", "question": "?", "answer": "1"}\n')
        (there / "held.jsonl").write_text('{"id": "b", "question": "?", "answer": "2"}\n')
        (there / "solver.md").write_text("words")
        values = {
            **GOOD,
            "tasks": "tasks.jsonl",
            "options": {"prompts": {"solver": "solver.md"}},
            "evaluate": {"tasks": "held.jsonl"},
            "roles": {"judge": f"scripted:{there / 'judge.jsonl'}?ids=off"},
        }
        (there / "judge.jsonl").write_text(folder)  # an engine: another one of the name will do
        (there / "run.yaml").write_text(yaml.safe_dump(values))
        return there

    def identity(folder: Path) -> dict[str, Any]:
        return load_config(folder / "run.yaml").identity()

    here, there = laid_out("here"), laid_out("there")
    first = identity(here)
    assert first == identity(there) and str(tmp_path) not in str(first)
    for file, field in (("tasks.jsonl", "tasks"), ("held.jsonl", "evaluate"), ("solver.md", "options")):
        with (there / file).open("a") as more:
            more.write(" ")
        changed = identity(there)
        assert {name for name in first if first[name] != changed[name]} == {field}
        (there / file).write_bytes((here / file).read_bytes())


def test_a_file_overrides_mapping_by_mapping_and_a_null_takes_away(tmp_path: Path) -> None:
    base = {**GOOD, "options": {"a": 1, "prompts": {"x": "x.md", "y": "y.md"}}, "evaluate": {"tasks": "demo"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    over = {"extends": "base.yaml", "options": {"prompts": {"y": None}, "b": 2}, "evaluate": None}
    (tmp_path / "over.yaml").write_text(yaml.safe_dump(over))
    found = load_config(tmp_path / "over.yaml")
    assert found.options == {"a": 1, "b": 2, "prompts": {"x": "x.md"}}
    assert found.evaluate is None and found.steps == 3
    whole = {"policies": {"solver": {"lora": None}}}  # a field's own null is a value: train all weights
    (tmp_path / "over.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", **whole}))
    assert load_config(tmp_path / "over.yaml").policies["solver"].lora is None
    (tmp_path / "over.yaml").write_text(
        yaml.safe_dump({"extends": "base.yaml", "policies": {"solver": None}})
    )
    assert "policies" in refusal(tmp_path / "over.yaml")


EXAMPLES = Path(__file__).parents[2] / "examples"


CONFIGURATIONS = [
    file
    for file in sorted(EXAMPLES.rglob("*.yaml"))
    if file.name != "repo.yaml" and file.parent.name != "accelerate"
]
"""Of runs; the others describe repositories, and launches of several processes."""


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_every_example_holds_together(file: Path) -> None:
    """Seats, prompts, tasks and options fit each other, as far as can be told without a model."""
    if "policies" in (text := file.read_text()) or "extends" in text:
        preflight(load_config(file))
    elif "methods" in text:
        load_comparison(file).played()
    elif "kind: archive" in text:
        load_archive(file)
    else:
        load_tournament(file)

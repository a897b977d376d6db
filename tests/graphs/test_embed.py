"""`protocol.node` in graphs that are not ours."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from sqlalchemy import func, select

from sparring.agents.engines.base import Request
from sparring.errors import BudgetExceeded, EngineError, UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.context import Limits
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Run, Turn


class State(TypedDict, total=False):
    question: str
    answers: Annotated[list[str], operator.add]
    seen: str
    approved: bool


@dataclass
class Theirs:
    """The caller's own context, which is none of our business and must stay untouched."""

    tenant: str


class Model:
    """A reply function that counts its calls and fails on demand."""

    def __init__(self) -> None:
        self.calls = 0
        self.fail_at: int | None = None

    def __call__(self, request: Request, seed: int) -> str:
        self.calls += 1
        if self.fail_at == self.calls:
            raise EngineError("the backend is down")
        return f"I count {seed % 5}.\nAnswer: {seed % 5}"


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def memory(tmp_path: Any) -> str:
    return str(tmp_path / "app.db")


def node(model: Model, memory: str | Journal, **options: Any) -> Any:
    return make_protocol("debate").node(
        agents=model,
        memory=memory,
        task=lambda state: state["question"],
        result=lambda outcome: {"answers": [outcome["answer"]]},
        **options,
    )


def count(memory: str, table: Any) -> int:
    with Journal.open(memory) as journal, journal.engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


async def test_no_context_no_checkpointer_is_a_fresh_run_each_time(model: Model, memory: str) -> None:
    graph = StateGraph(State).add_node("debate", node(model, memory)).add_edge(START, "debate").compile()
    first = await graph.ainvoke({"question": "1+1?"})
    assert first["answers"][0] in "01234"
    assert model.calls == 6
    await graph.ainvoke({"question": "1+1?"})
    assert model.calls == 12, "without a thread there is nothing to continue"
    assert count(memory, Run) == 2


async def test_another_context_reaches_its_own_nodes_and_not_ours(model: Model, memory: str) -> None:
    async def look(state: State, runtime: Runtime[Theirs]) -> State:
        return {"seen": runtime.context.tenant}

    graph = StateGraph(State, context_schema=Theirs)
    graph.add_node("debate", node(model, memory))
    graph.add_node("look", look)
    graph.add_edge(START, "debate")
    graph.add_edge("debate", "look")
    state = await graph.compile().ainvoke({"question": "1+1?"}, context=Theirs("acme"))
    assert state["seen"] == "acme"
    assert len(state["answers"]) == 1 and model.calls == 6


async def test_twice_in_one_graph_with_an_interrupt_after(model: Model, memory: str) -> None:
    saver = InMemorySaver()
    graph = StateGraph(State)
    graph.add_node("first", node(model, memory))
    graph.add_node("second", node(model, memory))
    graph.add_node("ask", lambda state: {"approved": interrupt("publish?")})
    for edge in ((START, "first"), ("first", "second"), ("second", "ask"), ("ask", END)):
        graph.add_edge(*edge)
    app, thread = graph.compile(checkpointer=saver), {"configurable": {"thread_id": "t1"}}
    paused = await app.ainvoke({"question": "1+1?"}, thread)
    assert paused["__interrupt__"][0].value == "publish?"
    assert model.calls == 12, "two nodes, two episodes"
    done = await app.ainvoke(Command(resume=True), thread)
    assert done["approved"] is True and model.calls == 12
    assert count(memory, Episode) == 2 and count(memory, Turn) == 12
    # The journal is our memory: the caller's checkpointer holds the caller's state and nothing of ours.
    spaces = {found.config["configurable"]["checkpoint_ns"] async for found in saver.alist(thread)}
    assert spaces == {""}


async def test_node_run_again_by_langgraph_pays_for_nothing_twice(model: Model, memory: str) -> None:
    debate = node(model, memory)

    async def cautious(state: State, config: RunnableConfig) -> Any:
        update = await debate(state, config)
        return {**update, "approved": interrupt("the node starts over when this resumes")}

    graph = StateGraph(State).add_node("debate", cautious).add_edge(START, "debate")
    app, thread = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "t2"}}
    await app.ainvoke({"question": "2+2?"}, thread)
    assert model.calls == 6
    done = await app.ainvoke(Command(resume=True), thread)
    assert done["approved"] is True and model.calls == 6 and count(memory, Episode) == 1


async def test_backend_failure_is_raised_and_the_next_try_continues(model: Model, memory: str) -> None:
    graph = StateGraph(State).add_node("debate", node(model, memory)).add_edge(START, "debate")
    app, thread = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "t3"}}
    model.fail_at = 5
    with pytest.raises(EngineError, match="the backend is down"):
        await app.ainvoke({"question": "3+3?"}, thread)
    spent = model.calls
    model.fail_at = None
    done = await app.ainvoke(None, thread)
    assert len(done["answers"]) == 1
    assert model.calls <= spent + 3, "only what had not been committed is asked for again"
    assert count(memory, Episode) == 1


async def test_a_loop_that_comes_back_to_the_node_debates_anew(model: Model, memory: str) -> None:
    graph = StateGraph(State).add_node("debate", node(model, memory)).add_edge(START, "debate")
    graph.add_conditional_edges("debate", lambda state: END if len(state["answers"]) > 1 else "debate")
    app = graph.compile(checkpointer=InMemorySaver())
    done = await app.ainvoke({"question": "4+4?"}, {"configurable": {"thread_id": "t4"}})
    assert len(done["answers"]) == 2 and model.calls == 12 and count(memory, Episode) == 2


async def test_shared_journal_limits_and_wrong_task(model: Model, memory: str) -> None:
    with Journal.open(memory) as journal:
        capped = node(model, journal, limits=Limits(calls=2))
        graph = StateGraph(State).add_node("debate", capped).add_edge(START, "debate").compile()
        with pytest.raises(BudgetExceeded, match="2 calls"):
            await graph.ainvoke({"question": "5+5?"})
        wrong = make_protocol("sample").node(
            agents=model, memory=journal, task=lambda state: 7, result=lambda outcome: {}
        )
        graph = StateGraph(State).add_node("sample", wrong).add_edge(START, "sample").compile()
        with pytest.raises(UserError, match="task="):
            await graph.ainvoke({"question": "?"})
        await capped.aclose()
        await wrong.aclose()
        assert len(journal.runs()) == 1, "the shared journal is the caller's to close"

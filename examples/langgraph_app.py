"""A debate inside a LangGraph app of one's own, which stops for a human and goes on in another process.

The app's node holds a debate and then asks a human whether its answer may be published. LangGraph runs such
a node again from its first line when it resumes. The debate then replays from the journal: no model is asked
twice, nothing is paid twice, though the app's own checkpointer knows no word of it.

    .venv/bin/python examples/langgraph_app.py ask "What is 17 + 25?"
    .venv/bin/python examples/langgraph_app.py answer yes

The first command debates, stops and prints the answer; the second, in a process of its own, publishes it, or
with `no` does not. Both print how many model calls the journal holds: the same number. `--engine
smollm2-135m` debates with a real model; `--folder` is where app.db (the journal) and threads.db (the
checkpoints) lie.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

import sparring
from sparring.memory.queries import usage


class State(TypedDict, total=False):
    question: str
    answer: str | None
    published: bool


def build(engine: str, memory: Path) -> Any:
    """The app, not yet compiled: one node, with a debate and a human in it."""
    debate = sparring.make_protocol("debate", {"agents": 3, "rounds": 2}).node(
        agents=engine,
        memory=memory,
        task=lambda state: state["question"],
        result=lambda outcome: {"answer": outcome["answer"]},
        sampling={"max_tokens": 48},
    )

    async def settle(state: State, config: RunnableConfig) -> State:
        update = await debate(state, config)
        approved = interrupt(f"publish `{update['answer']}`?")
        return {"answer": update["answer"], "published": approved == "yes"}

    return StateGraph(State).add_node("settle", settle).add_edge(START, "settle")


def calls(memory: Path) -> int:
    """Model calls that the journal holds."""
    with sparring.Journal.open(memory, read_only=True) as journal:
        return sum(usage(journal, run).total.turns for run in journal.runs())


async def main(given: argparse.Namespace) -> None:
    thread: RunnableConfig = {"configurable": {"thread_id": given.thread}}
    async with AsyncSqliteSaver.from_conn_string(str(given.folder / "threads.db")) as saver:
        app = build(given.engine, given.folder / "app.db").compile(checkpointer=saver)
        asked = {"question": given.text} if given.what == "ask" else Command(resume=given.text)
        state = await app.ainvoke(asked, thread)
    if "__interrupt__" in state:
        print("waiting:", state["__interrupt__"][0].value)
    else:
        print("published:" if state["published"] else "kept back:", state["answer"])
    print("model calls in the journal:", calls(given.folder / "app.db"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A debate that waits for a human.")
    parser.add_argument("what", choices=["ask", "answer"])
    parser.add_argument("text", help="the question, or `yes` or `no`")
    parser.add_argument("--engine", default="scripted:hash")
    parser.add_argument("--thread", default="first")
    parser.add_argument("--folder", type=Path, default=Path())
    asyncio.run(main(parser.parse_args()))

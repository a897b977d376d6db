"""A protocol of one's own, with a reward of its own, and a model that learns from it.

Quorum: agents answer one after another without reading each other; as soon as two agree, the question is
settled. Easy questions cost few calls. A right answer is paid 1, and as much again for the share of calls
that its episode saved: agreeing soon is worth something, but only on the truth.

    .venv/bin/python examples/quorum.py [MEMORY]            (under a minute on 2 cores; MEMORY: quorum.db)
    .venv/bin/sparring report quorum --memory quorum.db
    .venv/bin/sparring play examples.quorum:Quorum --tasks demo --engine scripted:hash --set most=8
    .venv/bin/sparring rewards quorum --function examples.quorum:Early --memory quorum.db

The script plays four sums on SmolLM2 and prints answers and calls, derives the reward, and lets a policy
learn for one step of eight sums: what its turns earned, and the version it has come to.
"""

import sys
from collections.abc import Iterator
from operator import add
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

import sparring
from sparring.agents.parsing import statement
from sparring.graphs.aggregate import Ballot, aggregator
from sparring.graphs.protocol import voted

PROMPT = "{% block question %}{{ question }}\nReply with the number only.{% endblock %}"


class State(TypedDict, total=False):
    question: str
    said: Annotated[list[dict[str, Any]], add]
    outcome: sparring.Outcome


class Quorum(sparring.Protocol):
    """Ask until enough agree."""

    name: ClassVar[str] = "quorum"
    quorum: int = Field(default=2, ge=1)
    most: int = Field(default=4, ge=1)

    def seats(self) -> dict[str, sparring.Role]:
        return {"solver": self.role("solver", {"question": statement("number")}, ["question"], PROMPT)}

    @property
    def max_calls(self) -> int:
        return self.most

    def graph(self) -> StateGraph[Any, sparring.Context, Any, Any]:
        graph = StateGraph(State, context_schema=sparring.Context)
        graph.add_node("ask", self.ask).add_edge(START, "ask")
        graph.add_conditional_edges("ask", lambda state: END if "outcome" in state else "ask", ["ask", END])
        return graph

    async def ask(self, state: State, runtime: Runtime[sparring.Context]) -> State:
        said = state.get("said", [])
        key = f"ask/{len(said)}"  # a turn's place in the episode: the journal replays by it
        turn = await runtime.context.act("solver", key, "question", {"question": state["question"]})
        new = {"key": key, "answer": (turn.parsed or {}).get("answer")}
        vote = await aggregator("majority")([Ballot(**one) for one in [*said, new]], runtime.context.equal)
        agree = max(vote.detail["totals"].values(), default=0)
        settled = agree >= self.quorum or len(said) + 1 == self.most
        return {"said": [new], "outcome": voted(vote)} if settled else {"said": [new]}


class Early(sparring.RewardFunction):
    """What a turn earns; nothing where it is wrong or cannot be read."""

    name: ClassVar[str] = "early"
    version: ClassVar[str] = "1"
    most: int = 4

    def rewards(self, episode: sparring.EpisodeRow) -> Iterator[sparring.Paid]:
        saved = max(0.0, 1 - len(episode.turns) / self.most)
        for turn in episode.turns:
            right = sparring.check(episode.check, (turn.parsed or {}).get("answer"), episode.answer).correct
            yield sparring.Paid(turn.id, right * (1 + saved), "right" if right else "wrong")


if __name__ == "__main__":
    memory = sys.argv[1] if len(sys.argv) > 1 else "quorum.db"
    tasks = str(Path(__file__).parent / "arithmetic" / "digits.jsonl")
    smol: dict[str, Any] = {"engine": "smollm2-135m?dtype=float32", "tasks": tasks}
    cool: dict[str, Any] = {"temperature": 0.7, "max_tokens": 8}
    for line in sparring.play(Quorum, **smol, limit=4, memory=memory, run="quorum", **cool):
        print(f"{line.question} {line.answer}: {'right' if line.correct else 'wrong'}, {line.calls} calls")
    with sparring.Journal.open(memory) as journal:
        print(sparring.derive(journal, Early(), run="quorum"))
    policies = {"solver": {"roles": ["solver"], "reward": Early}}
    settings = {"play": {"tasks": 8}, "sampling": cool, "steps": 1, "policies": policies}
    learned = sparring.evolve({"run": "quorum-learns", "protocol": Quorum, **smol, **settings}, memory=memory)
    print("mean reward", learned.story.series[-1]["reward"], "heads", learned.heads["solver"])

"""How a software agent could be better: one reads logs of its work, another rewrites its configuration.

    1. `diagnoser` reads the logs and says what goes wrong.
    2. `improver` reads that and the configuration, and says what is to be changed, as JSON.

A task's question holds `topic`, `logs`, `agent`, `space` and `kept`, all of them texts (`training.archive`).
What comes of it is for who asked to take or to refuse; nothing is carried out here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from sparring.agents.improvements import improvement
from sparring.agents.parsing import note
from sparring.agents.roles import Role
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome, Protocol, in_line
from sparring.memory.records import TaskRecord

ASKED = ("topic", "logs", "agent", "space", "kept")


class ImproveState(TypedDict, total=False):
    question: dict[str, str]
    diagnosis: str
    failure: str
    outcome: Outcome


class Improve(Protocol):
    """A diagnosis of a software agent's logs, and a change of its configuration."""

    name: ClassVar[str] = "improve"
    answers: ClassVar[bool] = False

    def seats(self) -> dict[str, Role]:
        return {
            "diagnoser": self.role("diagnoser", {"logs": note}, ["topic", "logs"]),
            "improver": self.role(
                "improver", {"rewrite": improvement}, ["agent", "topic", "diagnosis", "space", "kept"]
            ),
        }

    @property
    def max_calls(self) -> int:
        return 2

    def accepts(self, task: TaskRecord) -> None:
        question = task.question
        for name in ASKED:
            if not isinstance(question, Mapping) or not isinstance(question.get(name), str):
                raise UserError(
                    f"task `{task.id}`: its question holds no text `{name}`; see `protocols.improve`"
                )

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(ImproveState, self.diagnose, self.rewrite)

    async def diagnose(self, state: ImproveState, runtime: Runtime[Context]) -> ImproveState:
        asked = {name: state["question"][name] for name in ("topic", "logs")}
        turn = await runtime.context.act("diagnoser", "diagnosis", "logs", asked)
        if turn.parsed is None:
            return {"failure": f"no diagnosis: {turn.error or turn.status}"}
        return {"diagnosis": turn.parsed["text"]}

    async def rewrite(self, state: ImproveState, runtime: Runtime[Context]) -> ImproveState:
        if "failure" in state:
            return {"outcome": _outcome(None, state["failure"])}
        asked = {name: state["question"][name] for name in ("topic", "agent", "space", "kept")}
        given = {**asked, "diagnosis": state["diagnosis"]}
        turn = await runtime.context.act("improver", "improvement", "rewrite", given)
        failure = None if turn.parsed is not None else turn.error or turn.status
        return {"outcome": _outcome(turn.parsed, failure)}


def _outcome(change: Any, failure: str | None) -> Outcome:
    return Outcome(answer=None, detail={"change": change, "failure": failure})

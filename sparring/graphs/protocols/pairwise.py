"""Pairwise judging: judges say which of two responses is better, and are measured by it.

A task has its two `responses` beside it and, as answer, the one that a person prefers: 1, 2, `tie`, or null
where nobody has said. A judge decides in one way or in several (`how`):

    direct      one call reads both responses, once in each order (Zheng et al. 2306.05685): what is preferred
                in both is the verdict, and a tie where the orders disagree
    likelihood  as `direct`, but the judge does not speak: the probabilities with which it would begin with
                `A` or `B` are read, and their mean over both orders decides (DBG, 2506.02592)
    score       each response is graded alone; the higher grade is the verdict
    checklist   TICK (2410.03608): questions from the task alone, one call a question and response; the
                response that meets more of them is the verdict

`probes` judge the pair again with the worse response in a guise that does not make it better
(`tools.perturb`). `graphs.judges` turns all this into a report on each judge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypedDict

from langgraph.graph import StateGraph
from langgraph.runtime import Runtime
from pydantic import Field, field_validator

from sparring.agents.checklists import checklist, tick
from sparring.agents.parsing import Parser
from sparring.agents.preferences import preference
from sparring.agents.roles import Role
from sparring.agents.scores import score
from sparring.errors import UserError
from sparring.graphs.context import Context
from sparring.graphs.judges import figures, judges
from sparring.graphs.protocol import Outcome, Protocol, in_line
from sparring.graphs.protocols.discuss_seats import Scale, ordered
from sparring.graphs.protocols.pairwise_judging import SHOWN, Judging, pair_of
from sparring.graphs.verdicts import FIRST, SECOND, TIE, settled
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.tools.perturb import PROBES, TONES

How = Literal["direct", "likelihood", "score", "checklist"]
OCCASIONS: dict[str, tuple[str, ...]] = {
    "direct": ("compare",),
    "likelihood": ("compare",),
    "score": ("grade",),
    "checklist": ("list", "tick"),
}
"""What a judge is asked in each way of judging."""


class PairwiseState(TypedDict, total=False):
    question: str
    judges: list[dict[str, Any]]
    """Of the seats in order: `seat`, `model`, `version`, `verdicts` and what they come from."""
    outcome: Outcome


class Pairwise(Protocol):
    """Judges compare two responses."""

    name: ClassVar[str] = "pairwise"

    judges: int = Field(default=1, ge=1)
    """Seats `judge.0`, `judge.1`, ...: engines to be compared, and each other's panel."""
    how: tuple[How, ...] = Field(default=("direct",), min_length=1)
    """Ways of deciding (above); several are compared with each other."""
    both_orders: bool = True
    """Of `direct` and `likelihood`; without it position bias goes unseen into every figure."""
    ties: bool = False
    """Whether `direct` may say that neither is better."""
    scale: Scale = (1, 10)
    """Least and greatest grade, of `score`."""
    items: int = Field(default=6, ge=1, le=20)
    """The most questions of a checklist."""
    probes: tuple[str, ...] = ()
    """`verbosity`, `bandwagon`, `cheerful`, `distressed`; `sentiment` is the last two. Pairs without a worse
    response, by their answer, are not probed."""

    _scale = field_validator("scale")(ordered)

    @field_validator("how", "probes", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Names may come as a text with commas, as the command line has them."""
        return [n.strip() for n in value.split(",") if n.strip()] if isinstance(value, str) else value

    @field_validator("how", "probes")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("probes")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        tones = {"sentiment": TONES}
        found = tuple(dict.fromkeys(probe for name in value for probe in tones.get(name, (name,))))
        if strange := [probe for probe in found if probe not in PROBES]:
            raise ValueError(f"no probe `{strange[0]}`; known: {', '.join((*PROBES, *tones))}")
        return found

    def seats(self) -> dict[str, Role]:
        reads: dict[str, Parser[Any]] = {
            "compare": preference(ties=self.ties),
            "grade": score(*self.scale),
            "list": checklist(self.items),
            "tick": tick,
        }
        asked = {occasion: reads[occasion] for how in self.how for occasion in OCCASIONS[how]}
        seats = (f"judge.{number}" for number in range(self.judges))
        return {seat: self.role(seat, asked, SHOWN, "pair_judge") for seat in seats}

    @property
    def max_calls(self) -> int:
        shown = 2 + len(self.probes) + sum(probe in TONES for probe in self.probes)
        together = (1 + self.both_orders) * (1 + len(self.probes))
        calls = {
            "direct": together,
            "likelihood": together,
            "score": shown,
            "checklist": 1 + self.items * shown,
        }
        return self.judges * sum(calls[how] for how in self.how)

    def accepts(self, task: TaskRecord) -> None:
        pair_of(task)

    def figures(self, journal: Journal, run: str, episodes: Sequence[int] | None = None) -> dict[str, float]:
        return figures(judges(journal, run, episodes))

    def graph(self) -> StateGraph[Any, Context, Any, Any]:
        return in_line(PairwiseState, self.judge, self.decide)

    async def judge(self, state: PairwiseState, runtime: Runtime[Context]) -> PairwiseState:
        """Every judge for itself, in every way, all at once."""
        context = runtime.context
        if context.task is None:
            raise UserError("pairwise judges the `responses` of a task record; it was given a bare question")
        pair = pair_of(context.task)
        seats = [f"judge.{number}" for number in range(self.judges)]
        shared = (state["question"], pair, self.probes, self.scale, self.both_orders)
        found = await asyncio.gather(*(Judging(context, seat, *shared).found(self.how) for seat in seats))
        return {"judges": found}

    async def decide(self, state: PairwiseState, runtime: Runtime[Context]) -> PairwiseState:
        """What most judges say by the first way of judging; none where nobody can be read."""
        assert runtime.context.task is not None
        pair = pair_of(runtime.context.task)
        said = [settled(one, self.how[0]) for one in state["judges"]]
        lead = said.count(FIRST) - said.count(SECOND)
        answer = (FIRST if lead > 0 else SECOND if lead < 0 else TIE) if any(said) else None
        about = {"label": pair.label, "authors": pair.authors, "subset": pair.subset}
        return {"outcome": Outcome(answer=answer, detail={"pair": about, "judges": state["judges"]})}

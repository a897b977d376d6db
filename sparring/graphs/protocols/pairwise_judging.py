"""How one judge judges one pair: in both orders or each response alone, as it is and under probes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sparring.agents.odds import odds
from sparring.errors import UserError
from sparring.graphs.checklists import listed, ticked
from sparring.graphs.context import Context
from sparring.graphs.verdicts import (
    CLEAN,
    FIRST,
    LIKELIHOOD,
    SECOND,
    TIE,
    Verdict,
    higher,
    likelier,
    met_more,
)
from sparring.memory.records import TaskRecord
from sparring.tools.perturb import BANDWAGON, crowd, perturbed

SHOWN = ("question", "a", "b", "solution", "item", "note", "low", "high")
"""What a prompt of a judge may use."""
_LLMBAR = re.compile(r"llmbar-(\w+)-[0-9]+")
"""Ids of LLMBar's rows, which have no field for their subset."""

T = TypeVar("T")
Texts = tuple[str, str]
Alone = Callable[[str, str, str], Awaitable[Any]]
"""Asks about a response alone: its text, the turn's key, a note beside it."""
Together = Callable[[dict[str, str], str, Texts], Awaitable[T]]
"""Asks about both: what the prompt is given, the guise, who is A and who is B."""
ONE_LETTER = "Reply with one letter, A or B, and nothing else."
Found = tuple[dict[str, list[Verdict]], dict[str, Any]]
"""Guise -> verdicts, one an order; and what they come from."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses to one task."""

    texts: Texts
    label: Verdict
    """What a person prefers; None where nobody has said."""
    authors: Sequence[str] | None
    subset: str

    @property
    def worse(self) -> int | None:
        """Place of the worse response; None where there is none."""
        return {FIRST: 1, SECOND: 0}.get(self.label or "")


@dataclass(frozen=True, slots=True)
class Judging:
    """One judge on one pair. Keys of turns: GUISE/direct/ORDER/JUDGE, GUISE/score/RESPONSE/JUDGE,
    clean/list/JUDGE, GUISE/tick/RESPONSE/JUDGE/QUESTION; of events `likelihood`: GUISE/ORDER/JUDGE."""

    context: Context
    seat: str
    question: str
    pair: Pair
    probes: Sequence[str]
    scale: tuple[int, int]
    both_orders: bool

    async def found(self, ways: Sequence[str]) -> dict[str, Any]:
        """Who judges, its verdicts by way and guise, and the grades and checklists behind them."""
        version = self.context.agent(self.seat).version
        methods: dict[str, Callable[[], Awaitable[Found]]] = {
            "direct": self.direct,
            LIKELIHOOD: self.likelihood,
            "score": self.score,
            "checklist": self.checklist,
        }
        said = await asyncio.gather(*(methods[how]() for how in ways))
        verdicts = {how: found for how, (found, _) in zip(ways, said, strict=True)}
        who = {"seat": self.seat, "model": version.policy, "version": version.number, "verdicts": verdicts}
        return who | {name: value for _, behind in said for name, value in behind.items()}

    @property
    def number(self) -> str:
        return self.seat.partition(".")[2]

    def guises(self) -> dict[str, Texts]:
        """What is shown: the pair as it is, then under each probe."""
        (first, second), worse = self.pair.texts, self.pair.worse
        shown = {CLEAN: self.pair.texts}
        for probe in () if worse is None else self.probes:
            shown[probe] = (
                perturbed(probe, first, second) if worse == 0 else perturbed(probe, second, first)[::-1]
            )
        return shown

    async def direct(self) -> Found:
        """Both responses in one prompt, in each order."""

        async def preferred(shown: dict[str, str], guise: str, sides: Texts) -> Verdict:
            key = f"{guise}/direct/{''.join(sides)}/{self.number}"
            turn = await self.context.act(self.seat, key, "compare", shown)
            return {"A": sides[0], "B": sides[1], TIE: TIE}[turn.parsed["better"]] if turn.parsed else None

        return await self._together(preferred), {}

    async def likelihood(self) -> Found:
        """The same prompts; nothing is said, so the event keeps the probability of the first response."""
        agent = self.context.agent(self.seat)

        async def chance(shown: dict[str, str], guise: str, sides: Texts) -> float:
            key = f"{guise}/{''.join(sides)}/{self.number}"
            kept = self.context.episode.event_payload(LIKELIHOOD, key)
            if kept is None:
                messages = agent.messages("compare", {**shown, "instruction": ONE_LETTER})
                share, tokens = await odds(agent, messages, ("A", "B"))
                first = share if sides[0] == FIRST else 1 - share
                kept = await self.context.episode.event(LIKELIHOOD, key, {"first": first, "tokens": tokens})
            found: float = kept["first"]
            return found

        chances = await self._together(chance)
        verdicts = {guise: [likelier([one]) for one in orders] for guise, orders in chances.items()}
        return verdicts, {"chances": chances}

    async def _together(self, ask: Together[T]) -> dict[str, list[T]]:
        """Guise -> what is said of both responses side by side, in each order."""
        orders: list[Texts] = [(FIRST, SECOND), (SECOND, FIRST)][: 1 + self.both_orders]
        shown = self.guises()
        asked = (
            ask(self._sides(guise, texts, sides), guise, sides)
            for guise, texts in shown.items()
            for sides in orders
        )
        said = iter(await asyncio.gather(*asked))
        return {guise: [next(said) for _ in orders] for guise in shown}

    def _sides(self, guise: str, texts: Texts, sides: Texts) -> dict[str, str]:
        """What the prompt of a comparison is given."""
        a, b = texts if sides[0] == FIRST else texts[::-1]
        names, note = ("response A", "response B"), ""
        if guise == BANDWAGON:
            worse_is_a = (self.pair.worse == 0) == (sides[0] == FIRST)
            note = crowd(*names) if worse_is_a else crowd(*names[::-1])
        return {"question": self.question, "a": a, "b": b, "note": note}

    async def score(self) -> Found:
        """Each response graded alone."""
        low, high = self.scale

        async def grade(text: str, key: str, note: str) -> int | None:
            shown = {"question": self.question, "solution": text, "note": note, "low": low, "high": high}
            turn = await self.context.act(self.seat, key, "grade", shown)
            return (turn.parsed or {}).get("score")

        grades = await self._alone("score", grade)
        return {guise: [higher(*pair)] for guise, pair in grades.items()}, {"grades": grades}

    async def checklist(self) -> Found:
        """A list from the task alone, answered for each response."""
        items = await listed(self.context, self.seat, f"{CLEAN}/list/{self.number}", self.question)

        async def ticks(text: str, key: str, note: str) -> list[bool | None]:
            return await ticked(self.context, self.seat, key, self.question, text, items, note)

        met = await self._alone("tick", ticks)
        return {guise: [met_more(*pair)] for guise, pair in met.items()}, {"items": items, "met": met}

    async def _alone(self, kind: str, ask: Alone) -> dict[str, list[Any]]:
        """Guise -> what is said of both responses; of one that is shown as it is in `clean`, said once."""
        shown = self.guises()
        told = {(BANDWAGON, self.pair.worse): crowd("this response", "the other one")}
        places = [
            (guise, place)
            for guise, texts in shown.items()
            for place in (0, 1)
            if guise == CLEAN or texts[place] != shown[CLEAN][place] or (guise, place) in told
        ]
        asked = (
            ask(
                shown[guise][place], f"{guise}/{kind}/{place + 1}/{self.number}", told.get((guise, place), "")
            )
            for guise, place in places
        )
        found = dict(zip(places, await asyncio.gather(*asked), strict=True))
        return {guise: [found.get((guise, at), found[CLEAN, at]) for at in (0, 1)] for guise in shown}


def pair_of(task: TaskRecord) -> Pair:
    """What a task holds.

    Raises:
        UserError: no two texts as `responses`, an answer that is no preference, `authors` that are no names.
    """
    meta = task.meta or {}
    responses, authors = _two_texts(meta.get("responses")), _two_texts(meta.get("authors"))
    if responses is None:
        raise UserError(
            f"task `{task.id}` has no two `responses` to compare: give them as a list of two texts"
        )
    if authors is None and meta.get("authors") is not None:
        raise UserError(f"task `{task.id}`: `authors` are two names, who wrote either response")
    label = None if task.answer is None else str(task.answer)
    if label not in (FIRST, SECOND, TIE, None):
        raise UserError(
            f"task `{task.id}`: answer `{label}` is no preference; it is 1 or 2, the better response, `tie`, "
            "or null where nobody has said"
        )
    subset, known = meta.get("subset"), _LLMBAR.fullmatch(task.id)
    group = subset if isinstance(subset, str) else known[1] if known else ""
    return Pair(responses, label, authors, group)


def _two_texts(value: Any) -> Texts | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    first, second = value
    good = all(isinstance(text, str) and text.strip() for text in value)
    return (first, second) if good else None

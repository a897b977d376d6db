"""Which of several finished patches is the answer: by majority, by value, by a judge, by a debate.

Whoever chooses reads the issue, the patches and what the engineers' commands printed, never the hidden tests.
Each rule's pick is kept, so that a report can compare them; what they are worth, and whether any patch
resolves the issue (the oracle), is known once the choice is made and all of them are graded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypedDict

from pydantic import Field

from sparring.agents.parsing import answer_format
from sparring.agents.roles import Role
from sparring.errors import BudgetExceeded
from sparring.graphs.context import Context
from sparring.graphs.protocol import Outcome
from sparring.graphs.protocols.debate import Debate
from sparring.graphs.protocols.software_evidence import LONGEST_PATCH, clipped
from sparring.graphs.protocols.software_place import Workplace
from sparring.graphs.protocols.software_tasks import graded
from sparring.tools.equality import equality
from sparring.tools.swe.likeness import normal

JUDGE = "patch_judge"
LETTERS = "ABCDE"
"""At most five patches are compared (SWE-Search, 2410.20285)."""
CHOICE = "choice"
"""Kind of the event that says what was chosen; also the answer format of those who choose."""


ONLY = "only"
"""What chose where all made the same change."""


class Candidate(TypedDict):
    """A finished patch."""

    name: str
    """Of its attempt, or its place in the tree."""
    patch: str
    evidence: str
    """The work that led to it, in words."""
    value: float | None
    """What the valuer said of it, or the score that it earned; None where nobody asked or could read it."""


def groups(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Candidates whose patches make the same change, in the order of the first of each."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(normal(one["patch"]), []).append(one)
    return list(found.values())


def by_majority(candidates: Sequence[Candidate]) -> str | None:
    """The first of the change that most submitted; a tie goes to the one submitted first."""
    return max(groups(candidates), key=len)[0]["name"] if candidates else None


def by_value(candidates: Sequence[Candidate]) -> str | None:
    """The one with the highest value, the first of them; None where none has one."""
    known = [one for one in candidates if one["value"] is not None]
    return max(known, key=lambda one: worth(one["value"]))["name"] if known else None


def worth(value: float | None) -> float:
    """To rank by: below all others where there is no value."""
    return float("-inf") if value is None else float(value)


def shortlist(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One of each change, the best valued or else the first, at most as many as there are letters.

    Where there are more, those with the highest value stay, then those that most submitted; their order is
    that of their submission.
    """

    def rank(group: list[Candidate]) -> tuple[float, int]:
        return max(worth(one["value"]) for one in group), len(group)

    found = groups(candidates)
    best = sorted(found, key=rank, reverse=True)[: len(LETTERS)]
    return [max(group, key=lambda one: worth(one["value"])) for group in found if group in best]


def case(question: str, shown: Sequence[Candidate]) -> str:
    """The question that is put to those who choose: issue, patches by letter, and the work behind each."""
    parts = [f"The issue of a repository:\n\n<issue>\n{question}\n</issue>"]
    for letter, one in zip(LETTERS, shown, strict=False):
        parts.append(
            f"Patch ({letter}):\n\n<patch>\n{clipped(one['patch'], LONGEST_PATCH)}\n</patch>\n\n"
            f"The last commands of the engineer who submitted it, and what they printed:\n\n"
            f"<work>\n{one['evidence']}\n</work>"
        )
    parts.append(f"Which of these {len(shown)} patches resolves the issue best? Answer with its letter.")
    return "\n\n".join(parts)


class Choosing(Workplace):
    """The options of a choice."""

    select: Literal["judge", "debate", "value", "majority"] = "judge"
    """Who chooses. Where the rule picks none (unreadable, capped): the highest value, then the majority."""
    debaters: int = Field(default=5, ge=1)
    """Of the debate."""
    rounds: int = Field(default=3, ge=1)
    """Of the debate."""

    @cached_property
    def debate(self) -> Debate:
        """The debate, its votes letters."""
        options: dict[str, Any] = {"agents": self.debaters, "rounds": self.rounds, "answer": CHOICE}
        known = Debate(**options).names
        return Debate(**options, prompts={name: own for name, own in self.prompts.items() if name in known})

    def choosing_seats(self) -> dict[str, Role]:
        if self.select == "debate":
            return self.debate.seats()
        if self.select == "judge":
            return {JUDGE: self.role(JUDGE, {"choose": answer_format(CHOICE)}, ["question"])}
        return {}

    @property
    def choosing_calls(self) -> int:
        return {"debate": self.debaters * self.rounds, "judge": 1}.get(self.select, 0)

    async def decide(
        self, context: Context, question: str, candidates: Sequence[Candidate]
    ) -> dict[str, Any]:
        """The choice, journaled.

        Returns:
            `chosen`, a name (None where there is no candidate), and `by` which rule; what each rule `picks`;
            who was `shown` under which letter; `agreement` of the debate; why it was `capped`.
        """
        known = context.episode.event_payload(CHOICE, "0")
        if known is not None:
            return dict(known)
        picks = {"value": by_value(candidates), "majority": by_majority(candidates)}
        shown = shortlist(candidates)
        made: dict[str, Any] = {"agreement": None, "capped": None}
        letters = {letter: one["name"] for letter, one in zip(LETTERS, shown, strict=False)}
        if self.select in ("judge", "debate"):
            picks[self.select] = shown[0]["name"] if len(shown) == 1 else None
            if len(shown) > 1:
                picks[self.select] = await self._asked(context, case(question, shown), letters, made)
        rules = (rule for rule in (self.select, "value", "majority") if picks[rule] is not None)
        by = ONLY if len(shown) == 1 else next(rules, None)
        chosen = shown[0]["name"] if by == ONLY else by and picks[by]
        made |= {"chosen": chosen, "by": by, "picks": picks, "shown": letters}
        return await context.episode.event(CHOICE, "0", made)

    async def _asked(
        self, context: Context, question: str, letters: Mapping[str, str], made: dict[str, Any]
    ) -> str | None:
        """Whom the judge or the debate names; None: nobody. What else there is goes to `made`."""
        try:
            if self.select == "judge":
                turn = await context.act(JUDGE, "judge", "choose", {"question": question})
                return letters.get(turn.parsed["answer"]) if turn.parsed else None
            outcome = await self.debate.run(question, context.within("debate", equality(CHOICE)))
        except BudgetExceeded as reached:
            made["capped"] = str(reached)
            return None
        votes = {one: share for one, share in outcome["distribution"].items() if one in letters}
        if not votes:
            return None
        won = outcome["answer"] if outcome["answer"] in votes else max(votes, key=lambda one: votes[one])
        made["agreement"] = votes[won]
        return letters[won]

    def outcome(
        self, decision: dict[str, Any], candidates: Sequence[Candidate], detail: dict[str, Any]
    ) -> Outcome:
        """The chosen patch (empty where there is none), and all patches beside it."""
        patches = {one["name"]: one["patch"] for one in candidates}
        values = {one["name"]: one["value"] for one in candidates}
        distinct = len(groups(candidates))
        told = {**decision, "patches": patches, "values": values, "distinct": distinct, **detail}
        made = Outcome(answer=patches.get(decision["chosen"], ""), detail=told)
        if capped := detail.get("capped") or decision["capped"]:
            made["capped"] = capped
        return made

    async def judgement(self, context: Context, outcome: Outcome | None) -> dict[str, Any] | None:
        """The grade of the chosen patch, with `candidates`: of every patch, whether it resolves the issue."""
        verdict = await super().judgement(context, outcome)
        if verdict is None or outcome is None:
            return verdict
        found: dict[str, bool | None] = {}
        for name, patch in outcome["detail"]["patches"].items():
            one = await graded(context, Outcome(answer=patch))
            found[name] = None if one is None else one["correct"]
        return {**verdict, "candidates": found}

"""Who made whom right or wrong: credit over the rounds of a discussion, computed from another reward.

Both functions take the rewards of `of` for the turns of one role, round by round, and give each turn some of
what came before or after it. R_{t,a} is what turn t of agent a earned by itself, 0 to 1; a turn without it
gets NULL and counts nowhere.

    marti    MARTI's shaping by history (TsinghuaC3I/MARTI). Q_t is the mean of all rewards of earlier rounds:
                 margin   R + alpha (R - Q)
                 quality  R + alpha (Q R - (1 - Q) (1 - R))
             and `outcome` times the episode's own verdict is added. In the first round there is no Q, and R
             stays as it is.
    maporl   MAPoRL's discounted scores (2502.18439): what the discussion came to afterwards, shared by all,
                 [R_{t,a} + sum_{t' > t} gamma^(t' - t) mean_b R_{t',b}] / sum_{t' >= t} gamma^(t' - t)
             with share="own" only the agent's own R_{t'}; plus a bonus for listening and for persuading.

The bonus of MAPoRL's code pays for persuading others of something wrong unless its alphas are negative; here
positive ones reward the truth:

    own answer wrong -> right    + heed where the others were right before, + insight where they were not
    own answer right -> wrong    - heed where they were wrong before, - insight where they were right
    another one, next round      turns right: + persuade where I am right, + despite where I am not;
                                 turns wrong: - persuade where I am wrong, - despite where I am not
                                 (each over the number of the others)
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

from pydantic import Field

from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, TurnRow
from sparring.training.rewards.upon import Upon

Table = dict[tuple[int, str], float]
"""(round, agent) -> what the agent's turns of that round earned by themselves, their mean."""
Place = tuple[int, str]
CAST = {"solve": "solvers", "evaluate": "evaluators", "score": "scorers"}
"""Second part of a discussion's key -> who of its roster says such a thing."""


class Credit(Upon):
    """A reward that is made of another one's, over the rounds of an episode."""

    role: str = "solver"

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        inner = {paid.turn_id: paid for paid in self.inner(episode)}
        rosters = {int(event.key): event for event in episode.events if event.kind == "roster"}
        turns = [
            (turn, _place(turn, rosters)) for turn in episode.turns if turn.final and turn.role == self.role
        ]
        earned: defaultdict[Place, list[float]] = defaultdict(list)
        own: dict[int, float] = {}
        for turn, place in turns:
            paid = inner.get(turn.id)
            if place is not None and paid is not None and paid.value is not None:
                own[turn.id] = paid.value
                earned[place].append(paid.value)
        worth = {place: sum(values) / len(values) for place, values in earned.items()}
        verdict = next((event for event in reversed(episode.events) if event.kind == "verdict"), None)
        final = float(verdict.payload["correct"]) if verdict is not None else None
        read = [turn.id for turn, _ in turns]
        events = [roster.id for roster in rosters.values()]
        for turn, place in turns:
            others = [number for number in read if number != turn.id]
            value = self.credit(place, own[turn.id], worth, final) if place and turn.id in own else None
            why = f"{self.name} of {self.of}" if place else "said in no round"
            yield Paid(turn.id, value, why, turns=(turn.id, *others), events=events)

    @abstractmethod
    def credit(self, place: Place, own: float, worth: Table, final: float | None) -> float:
        """What a turn gets.

        Args:
            place: its round and agent.
            own: R, what it earned by itself.
            final: 1 or 0 by the episode's verdict, None without one.
        """


def _place(turn: TurnRow, rosters: Mapping[int, EventRow]) -> Place | None:
    """Round and agent, by the keys of debates, `1/solver.2`, and of discussions, `1/evaluate/2/0`, whose
    slots are dealt by a roster; None where there are no rounds."""
    number, _, agent = turn.key.partition("/")
    if not number.isdigit():
        return None
    kind, *slots = agent.split("/")
    if kind in CAST and int(number) in rosters:
        seat = rosters[int(number)].payload[CAST[kind]]
        for slot in slots:
            seat = seat[int(slot)]
        agent = str(seat)
    return int(number), agent


class MartiShaping(Credit):
    """Shaping by what was earned before."""

    name: ClassVar[str] = "marti"
    version: ClassVar[str] = "2"

    rule: Literal["margin", "quality"] = "margin"
    alpha: float = 0.5
    outcome: float = 0.0
    """beta, of the episode's verdict; MARTI's `with_outcome` has 0.5."""

    def credit(self, place: Place, own: float, worth: Table, final: float | None) -> float:
        before = [value for (number, _), value in worth.items() if number < place[0]]
        shaped = own
        if before:
            history = sum(before) / len(before)
            margin = own - history
            quality = history * own - (1 - history) * (1 - own)
            shaped += self.alpha * (margin if self.rule == "margin" else quality)
        return shaped + self.outcome * (final or 0.0)


class MaporlCredit(Credit):
    """Discounted later scores, and a bonus for changes of mind."""

    name: ClassVar[str] = "maporl"
    version: ClassVar[str] = "2"

    gamma: float = Field(default=0.3, ge=0, le=1)
    share: Literal["all", "own"] = "all"
    right: float = 0.5
    """A turn that earned more is right."""
    heed: float = 0.0
    insight: float = 0.0
    persuade: float = 0.0
    despite: float = 0.0

    def credit(self, place: Place, own: float, worth: Table, final: float | None) -> float:
        number, agent = place
        rounds = _rounds(worth)
        total, weight = own, 1.0
        for later in (r for r in rounds if r > number):
            said = rounds[later] if self.share == "all" else _only(rounds[later], agent)
            if said:
                discount = self.gamma ** (later - number)
                total += discount * sum(said.values()) / len(said)
                weight += discount
        return total / weight + self._bonus(place, rounds)

    def _bonus(self, place: Place, rounds: Mapping[int, Mapping[str, float]]) -> float:
        number, agent = place
        now, before, after = (self._right(rounds.get(number + step, {})) for step in (0, -1, 1))
        bonus = 0.0
        if agent in before and before[agent] != now[agent]:
            others = [right for name, right in before.items() if name != agent]
            helped = bool(others) and sum(others) / len(others) > 0.5
            turned = 1.0 if now[agent] else -1.0
            bonus += turned * (self.heed if helped == now[agent] else self.insight)
        moved = [(now[name], after[name]) for name in after if name != agent and name in now]
        for was, became in moved:
            if was != became:
                agreed = became == now[agent]
                bonus += (1 if became else -1) * (self.persuade if agreed else self.despite) / len(moved)
        return bonus

    def _right(self, said: Mapping[str, float]) -> dict[str, bool]:
        return {name: value > self.right for name, value in said.items()}


def _rounds(worth: Table) -> dict[int, dict[str, float]]:
    found: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for (number, agent), value in worth.items():
        found[number][agent] = value
    return dict(sorted(found.items()))


def _only(said: Mapping[str, float], agent: str) -> dict[str, float]:
    return {agent: said[agent]} if agent in said else {}

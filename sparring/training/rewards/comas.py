"""CoMAS's interaction rewards (2510.08529, eq. 6 to 8): one agent's score pays the solver it judged and, the
other way round, the evaluator it read.

    r(s_i) = (tau - low) / (high - low)      r(e_ij) = 1 - r(s_i)      r(tau_ij) = 0, -1 if unreadable

    tau of 1 to 3    solver    evaluator    scorer
        1              0           1          0
        2              0.5         0.5        0
        3              1           0          0
        unreadable    NULL        NULL       -1        compat="official": 0, 0, -1

The paper leaves open what several evaluations of one solution make: here the mean over the readable scores,
NULL where there is none. What was cut off is masked, as in the code. The game is of constant sum, not zero.

Of the two ablations the paper says what is left out, not how the rest is paid. Ours, so that each has the
incentive that its name warns of: without evaluation a scorer earns what it takes from the solver,
`1 - r(s_i)`; without scoring a solver earns the share of the votes for it, and a voter the share of the other
votes that agree with its own.

`channel: verified` is the same loop with the truth in the score's place, for agents too small to judge: a
solver earns 1 for a right solution and 0 for a wrong one, a scorer how near its score lies to that, an
evaluator what the scorer that read it earns, a voter 1 for a true vote. It is a reward from outside, and no
longer CoMAS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from sparring.agents.scores import share
from sparring.memory.records import WORLD_FAULT
from sparring.training.rewards.base import EpisodeRow, EventRow, Paid, RewardFunction, TurnRow


class InteractionRewards(RewardFunction):
    """Rewards of solvers, evaluators and scorers of a discussion (`protocols.discuss`)."""

    name: ClassVar[str] = "comas"
    version: ClassVar[str] = "2"

    compat: Literal["ours", "official"] = "ours"
    """`official`: where a score cannot be read, solver and evaluator get 0 and are trained on it."""
    channel: Literal["judges", "verified"] = "judges"
    """Whose word pays: the scorers', or that of the task's own check."""
    fault: float = Field(default=-1.0, le=0.0, allow_inf_nan=False)
    """The scorer's, for a score that cannot be read."""
    mask_truncated: bool = True
    """Leave solutions and evaluations that were cut off out of training; False pays them like others."""

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        if episode.protocol != "discuss":
            return
        verdicts = next((event for event in episode.events if event.kind == "vote"), None)
        right = _right(verdicts)
        votes = _voting(episode.events)
        for place, said in _solutions(episode.turns).items():
            if self.channel == "verified":
                yield from self._verified(said, right.get(place), verdicts, votes)
            else:
                yield from self._voted(said) if votes else self._scored(said)

    def _scored(self, said: _Solution) -> Iterable[Paid]:
        shares = {nth: _share(turn) for nth, turn in said.scores.items()}
        valid = [given for given in shares.values() if given is not None]
        read = [turn.id for turn in said.scores.values()]
        unread = {nth: self._unread(turn) for nth, turn in said.scores.items()}
        none = 0.0 if 0.0 in unread.values() else None
        mean = sum(valid) / len(valid) if valid else none
        if said.solution is not None:
            why = f"mean of {len(valid)} of {len(shares)} scores" if valid else "no readable score"
            yield self._paid(said.solution, mean, why, read)
        for nth, turn in said.evaluations.items():
            given, judge = shares.get(nth), said.scores.get(nth)
            value = unread.get(nth) if given is None else 1 - given
            why = "no readable score" if given is None else "the score of its evaluation, the other way round"
            yield self._paid(turn, value, why, [judge.id] if judge else [])
        for nth, turn in said.scores.items():
            given = shares[nth]
            if given is None:
                yield self._paid(turn, self.fault, turn.status)
            elif said.evaluations:
                yield self._paid(turn, 0.0, "a readable score")
            else:
                yield self._paid(turn, 1 - given, "what it took from the solution")

    def _verified(
        self, said: _Solution, right: bool | None, verdicts: EventRow | None, votes: bool
    ) -> Iterable[Paid]:
        """Where the truth is not known, only words that cannot be read are paid."""
        events = [verdicts.id] if verdicts else []
        if said.solution is not None:
            value = None if right is None else float(right)
            yield self._paid(said.solution, value, "the check's verdict", events=events)
        for nth, judge in (said.evaluations if votes else said.scores).items():
            given = _vote(judge) if votes else _share(judge)
            near = None if given is None or right is None else 1 - abs(given - right)
            if given is None:
                yield self._paid(judge, 0.0 if votes else self.fault, judge.status)
            else:
                yield self._paid(judge, near, "how near it lies to the check's verdict", events=events)
            if not votes and nth in said.evaluations:
                yield self._paid(said.evaluations[nth], near, "what its scorer earns", [judge.id], events)

    def _paid(
        self,
        turn: TurnRow,
        value: float | None,
        why: str,
        read: Sequence[int] = (),
        events: Sequence[int] = (),
    ) -> Paid:
        """One reward; of a text that was cut off none, whatever others made of it."""
        if turn.status == "truncated" and (self.mask_truncated or "/score/" in turn.key):
            return Paid(turn.id, None, "truncated, masked", turns=(turn.id,))
        others = (other for other in read if other != turn.id)
        return Paid(turn.id, value, why, turns=(turn.id, *others), events=events)

    def _unread(self, judge: TurnRow) -> float | None:
        """What a score that cannot be read makes of what it is about; an outage never pays."""
        return 0.0 if self.compat == "official" and judge.status not in WORLD_FAULT else None

    def _voted(self, said: _Solution) -> Iterable[Paid]:
        """Without scoring: the more votes agree, the more everybody earns."""
        votes = {nth: _vote(turn) for nth, turn in said.evaluations.items()}
        valid = [vote for vote in votes.values() if vote is not None]
        read = [turn.id for turn in said.evaluations.values()]
        if said.solution is not None:
            mean = sum(valid) / len(valid) if valid else None
            yield self._paid(said.solution, mean, f"share of {len(valid)} votes for it", read)
        for nth, turn in said.evaluations.items():
            vote = votes[nth]
            if vote is None:
                yield self._paid(turn, 0.0, turn.status)
                continue
            others = [other for n, other in votes.items() if n != nth and other is not None]
            agree = sum(other == vote for other in others) / len(others) if others else None
            yield self._paid(turn, agree, f"share of {len(others)} other votes that agree", read)


class _Solution:
    """A solution's turns: itself, and by number its evaluations and scores."""

    def __init__(self) -> None:
        self.solution: TurnRow | None = None
        self.evaluations: dict[int, TurnRow] = {}
        self.scores: dict[int, TurnRow] = {}


def _voting(events: Sequence[EventRow]) -> bool:
    """Whether nothing is scored and evaluations are votes, which the rosters tell."""
    rosters = [event.payload for event in events if event.kind == "roster"]
    return bool(rosters) and not any(row for roster in rosters for row in roster["scorers"])


def _solutions(turns: Sequence[TurnRow]) -> dict[tuple[int, int], _Solution]:
    """(round, slot) -> what was said of it; an attempt that was tried again does not count."""
    found: defaultdict[tuple[int, int], _Solution] = defaultdict(_Solution)
    for turn in turns:
        if not turn.final:
            continue
        number, kind, slot, *nth = turn.key.split("/")
        said = found[int(number), int(slot)]
        if kind == "solve":
            said.solution = turn
        else:
            (said.evaluations if kind == "evaluate" else said.scores)[int(nth[0])] = turn
    return dict(sorted(found.items()))


def _share(turn: TurnRow) -> float | None:
    """Where a score lies on its scale, 0 to 1; None where there is none that counts."""
    if turn.status != "ok" or not isinstance(turn.parsed, dict):
        return None
    return share(turn.parsed["score"], turn.parsed["low"], turn.parsed["high"])


def _vote(turn: TurnRow) -> bool | None:
    return turn.parsed.get("correct") if turn.status == "ok" and isinstance(turn.parsed, dict) else None


def _right(verdicts: EventRow | None) -> dict[tuple[int, int], bool | None]:
    """(round, slot) -> whether its solution is right; None where the task has no answer."""
    said = verdicts.payload["detail"]["solutions"] if verdicts else []
    return {(solution["round"], solution["slot"]): solution["right"] for solution in said}

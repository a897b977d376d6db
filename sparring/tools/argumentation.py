"""Which decision survives its critics: ArgMed's schemes (2403.06294) over Dung's argumentation frameworks.

An argument instantiates a scheme. Where one of its critical questions fails, the argument that says so
attacks it; arguments for different decisions attack each other. What can be accepted together is a matter of
the attack graph alone (Dung 1995). The search is over labels, in, out and undecided (Caminada 2006): what an
argument may be follows from what its attackers may be; it branches where that leaves a choice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import chain, permutations
from operator import or_
from typing import Any

from pydantic import BaseModel, ConfigDict

from sparring.errors import UserError, made, unknown

MOST, STEPS = 1_000, 1_000_000
"""Extensions, and looks at an argument's rule, beyond which a search is given up unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A form of argument, for `str.format`, and its critical questions, which fail where the answer is no."""

    form: str
    questions: Mapping[str, str]
    decides: bool


_OF_DECISION = {
    "side effects": "Can {decision} be done without effects that work against {goal}?",
    "alternative": "Is {decision} at least as good for {goal} as every other decision at hand?",
}
SCHEMES = {
    "decision making": Scheme(
        "In view of {fact}, {decision} promotes {goal}; so {decision} should be done.",
        {"evidence": "Is it shown that {decision} promotes {goal}, in view of {fact}?", **_OF_DECISION},
        decides=True,
    ),
    "side effects": Scheme(
        "{decision} brings about {effect}, which works against {goal}; so {decision} should not be done.",
        {
            "evidence": "Is it shown that {decision} brings about {effect}?",
            "remedy": "Is {effect} beyond what can be prevented or made good?",
            "weight": "Does {effect} outweigh what {decision} does for {goal}?",
        },
        decides=False,
    ),
    "better alternative": Scheme(
        "{decision} promotes {goal} better than {other}; so {decision} should be done and not {other}.",
        {"evidence": "Is it shown that {decision} promotes {goal} better than {other}?", **_OF_DECISION},
        decides=True,
    ),
    "objection": Scheme(  # where a question fails for want of evidence or weight; the paper does not name it
        "It does not hold that {claim}, because {reason}.",
        {"evidence": "Is it shown that {reason}?", "relevance": "Does {reason} speak against {claim}?"},
        decides=False,
    ),
}


class _Plain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Plain):
    """A critical question of an argument, answered with no."""

    argument: str
    question: str


class Argument(_Plain):
    """An instance of a scheme; it attacks every argument of which a critical question fails by it."""

    id: str
    scheme: str
    text: str
    decision: str | None = None
    answers: tuple[Answer, ...] = ()


class Attack(_Plain):
    """One argument against another: by a critical question that fails, or as a rival (None)."""

    attacker: str
    target: str
    question: str | None = None


class Framework(_Plain):
    """Dung's (arguments, attacks). The order of the arguments breaks ties.

    Attacks that follow from answers and rival decisions are added to those given. One may attack itself.

    Raises:
        UserError: an id is empty, there twice or unknown; no such scheme or question; self-contradiction.
    """

    arguments: tuple[Argument, ...]
    attacks: tuple[Attack, ...] = ()

    def model_post_init(self, context: Any) -> None:
        for argument in self.arguments:
            _check_argument(argument)
            if self.by_id[argument.id] is not argument:
                raise UserError(f"two arguments have the id `{argument.id}`; give each its own")
        said = (
            Attack(attacker=argument.id, target=answer.argument, question=answer.question)
            for argument in self.arguments
            for answer in argument.answers
        )
        rivals = (
            Attack(attacker=one.id, target=other.id)
            for one, other in permutations(self.arguments, 2)
            if one.decision and other.decision and one.decision != other.decision
        )
        object.__setattr__(self, "attacks", tuple(dict.fromkeys(chain(said, self.attacks, rivals))))
        for attack in self.attacks:
            _check_attack(attack, self.by_id)

    @cached_property
    def by_id(self) -> dict[str, Argument]:
        return {argument.id: argument for argument in self.arguments}

    @cached_property
    def graph(self) -> Any:
        """A frozen networkx DiGraph: ids in order, `argument` on each node, `questions` on each edge."""
        import networkx  # type: ignore[import-untyped]  # it has no annotations

        graph = networkx.DiGraph()
        graph.add_nodes_from((id, {"argument": argument}) for id, argument in self.by_id.items())
        for attack in self.attacks:
            graph.add_edge(attack.attacker, attack.target)
            questions = graph.edges[attack.attacker, attack.target].setdefault("questions", [])
            questions += [attack.question] if attack.question else []
        return networkx.freeze(graph)

    def labels(self, extension: Collection[str]) -> dict[str, str]:
        """Of each argument: accepted (in the extension), rejected (attacked by it) or undecided."""
        for id in extension:
            if id not in self.by_id:
                raise unknown("argument", id, self.by_id)
        labels = dict.fromkeys(self.by_id, "undecided")
        labels |= {target: "rejected" for id in extension for target in self.graph[id]}
        return labels | dict.fromkeys(extension, "accepted")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with every attack; `from_json` makes an equal framework of it."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Framework:
        return made(cls, data, "argumentation framework")


def _check_argument(argument: Argument) -> None:
    if not argument.id.strip():
        raise UserError("an argument has an empty id; give each its own")
    if argument.scheme not in SCHEMES:
        raise unknown("argumentation scheme", argument.scheme, SCHEMES)
    decides, decision = SCHEMES[argument.scheme].decides, argument.decision
    if decides != (decision is not None) or (decides and not str(decision).strip()):
        needs = "needs a decision" if decides else "speaks for none; leave it out"
        raise UserError(f"argument `{argument.id}` contradicts itself: `{argument.scheme}` {needs}")


def _check_attack(attack: Attack, known: Mapping[str, Argument]) -> None:
    for end in (attack.attacker, attack.target):
        if end not in known:
            raise unknown("argument", end, known)
    attacker, target = known[attack.attacker], known[attack.target]
    questions = SCHEMES[target.scheme].questions
    if attack.question is not None and attack.question not in questions:
        raise unknown(f"critical question of `{target.id}` ({target.scheme})", attack.question, questions)
    if attack.question == "alternative" and attacker.decision in (None, target.decision):
        raise UserError(f"argument `{attacker.id}` contradicts itself: no alternative to `{target.id}`")


# --- semantics ---------------------------------------------------------------------------------------

IN, OUT, UNDEC = _ALL = (0, 1, 2)
_RULES: dict[str, Any] = {
    "conflict_free": (((OUT, UNDEC), None), (_ALL, IN), ((OUT, UNDEC), None)),
    "admissible": (((OUT,), None), (_ALL, IN), ((OUT, UNDEC), None)),
    "complete": (((OUT,), None), (_ALL, IN), ((OUT, UNDEC), UNDEC)),
}
"""For each label of an argument: the labels its attackers may have, and one that some attacker must have.
The labelling of a set is then unique, so that no extension is found twice."""
_RULES["preferred"] = _RULES["stable"] = _RULES["complete"]
SEMANTICS = ("grounded", *_RULES)


def grounded(framework: Framework) -> frozenset[str]:
    """The least fixpoint of F(S) = {what S defends}."""
    accepted: frozenset[str] = frozenset()
    while True:
        rejected = {target for id in accepted for target in framework.graph[id]}
        defended = frozenset(id for id in framework.by_id if rejected.issuperset(framework.graph.pred[id]))
        if defended == accepted:
            return accepted
        accepted = defended


def extensions(
    framework: Framework, semantics: str = "preferred", *, most: int = MOST, steps: int = STEPS
) -> list[frozenset[str]]:
    """All extensions (of `conflict_free` and `admissible`: sets), ordered by the places of their arguments.

    Raises:
        UserError: more than `most` extensions, or more than `steps` looks at an argument's rule.
    """
    if semantics not in SEMANTICS:
        raise unknown("semantics", semantics, SEMANTICS)
    if semantics == "grounded":
        return [grounded(framework)]
    graph, places = framework.graph, {id: place for place, id in enumerate(framework.by_id)}
    ids = sorted(places, key=graph.degree, reverse=True)  # the search branches on low bits first
    bits = {id: 1 << place for place, id in enumerate(ids)}
    attackers, targets = ([sum(bits[n] for n in near[id]) for id in ids] for near in (graph.pred, graph.succ))
    masks = _Search(attackers, targets, semantics, steps).run(most)
    found = [frozenset(id for id in ids if bits[id] & mask) for mask in masks]
    return sorted(found, key=lambda one: sorted(places[id] for id in one))


@dataclass
class _Search:
    """Backtracking over labels. A set is an int of bits; `can[label]` holds what may have the label."""

    attackers: list[int]
    targets: list[int]
    semantics: str
    steps: int

    def run(self, most: int) -> list[int]:
        """What is in, of every labelling that keeps the rules; for preferred of the maximal ones."""
        everyone = (1 << len(self.attackers)) - 1
        stack = [([everyone, everyone, 0 if self.semantics == "stable" else everyone], everyone)]
        found: list[int] = []
        while stack:
            can, changed = stack.pop()
            if not self._propagate(can, changed):
                continue
            # in is tried before not in, so a set comes after all that contain it
            if self.semantics == "preferred" and any(not can[IN] & ~other for other in reversed(found)):
                continue
            open_ = can[IN] & (can[OUT] | can[UNDEC])
            if bit := open_ & -open_:
                changed = bit | self.targets[bit.bit_length() - 1]
                stack.append(([can[IN] & ~bit, can[OUT], can[UNDEC]], changed))
                stack.append(([can[IN], can[OUT] & ~bit, can[UNDEC] & ~bit], changed))
            else:
                found.append(can[IN])
                if len(found) > most:
                    raise self._beyond(f"{most} extensions", "most")
        return found

    def _beyond(self, limit: str, option: str) -> UserError:
        what = f"the {self.semantics} semantics of {len(self.attackers)} arguments"
        return UserError(f"{what} goes beyond {limit}; raise `{option}`, or take grounded, which is cheap")

    def _propagate(self, can: list[int], changed: int) -> bool:
        """Strike in place what the rules of the `changed` exclude, and so on; whether all keep a label."""
        while changed:
            self.steps -= 1
            if self.steps < 0:
                raise self._beyond("its steps", "steps")
            bit = changed & -changed
            changed ^= bit
            attackers = self.attackers[bit.bit_length() - 1]
            supported, struck = [0, 0, 0], 0
            for label, (allowed, needed) in enumerate(_RULES[self.semantics]):
                if not can[label] & bit:
                    continue
                able = attackers & can[needed] if needed is not None else -1
                reach = reduce(or_, (can[other] for other in allowed))
                if not able or attackers & ~reach:
                    can[label] ^= bit
                    struck = bit
                    continue
                only = 0 if able & (able - 1) else able  # the one attacker that can have what is needed
                for other in allowed:
                    supported[other] |= attackers if other == needed else attackers & ~only
            if not bit & (can[IN] | can[OUT] | can[UNDEC]):
                return False
            for label in _ALL:
                lost = attackers & can[label] & ~supported[label]
                can[label] ^= lost
                struck |= lost
            changed |= struck
            while struck:
                low = struck & -struck
                struck ^= low
                changed |= self.targets[low.bit_length() - 1]
        return True

"""Which node of a tree of steps is expanded next: a pure function of places and values.

The rule is SWE-Search's (Antoniades et al. 2410.20285); `software_search` says where it is not.

A place is the root's, `0`, or its parent's with a dot and a number: `0.2.1` is the second child of the third
child of the root. A tree is its nodes by place, in the order in which they were made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from sparring.graphs.protocols.software_evidence import HIGH, LOW

ROOT = "0"
IN_A_ROW = 3
"""Values under the threshold, one after another on the way to a node, that end its branch."""
VALUED = (None, "submitted")
"""Ends of the nodes that are put to the valuer."""


class Node(TypedDict):
    """What selection looks at."""

    place: str
    ends: str | None
    """Why it can never be expanded (`submitted`, `mistake`, `duplicate`, `oversized`); None: it may be."""
    value: int | None
    """-100 to 100; None where nobody was asked, or the reply could not be read."""


Tree = Mapping[str, Node]


@dataclass(frozen=True)
class Rule:
    """UCT(s, a) = V + C sqrt(ln N(parent) / N) + alpha exp(-beta (d - 1)) - gamma sqrt(d), and the caps.

    Values are scaled to 0..1. The terms of depth would be the same for all children of one node: they mean
    something because all nodes that may be expanded are compared, wherever they are.
    """

    exploration: float = 1.41
    alpha: float = 0.25
    beta: float = 1.0
    gamma: float = 0.05
    depth: int = 20
    children: int = 3
    threshold: int = 0


def parent(place: str) -> str | None:
    """The place above; None above the root."""
    return place.rpartition(".")[0] or None


def way(place: str) -> list[str]:
    """The places from the root to this one."""
    parts = place.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def depth(place: str) -> int:
    """Steps from the root."""
    return place.count(".")


def children(tree: Tree, place: str) -> list[str]:
    """The places right below, in the order in which they were made."""
    return [one for one in tree if parent(one) == place]


def scaled(value: int) -> float:
    """A value on the scale from 0 to 1."""
    return (value - LOW) / (HIGH - LOW)


def abandoned(tree: Tree, place: str, threshold: int) -> bool:
    """Whether the last values on the way to a node are all under the threshold; others are left out."""
    known = [value for one in way(place) if (value := tree[one]["value"]) is not None]
    return len(known) >= IN_A_ROW and all(value < threshold for value in known[-IN_A_ROW:])


def expandable(tree: Tree, place: str, rule: Rule) -> bool:
    """Whether another child may be made of a node."""
    return (
        tree[place]["ends"] is None
        and depth(place) < rule.depth
        and len(children(tree, place)) < rule.children
        and not abandoned(tree, place, rule.threshold)
    )


@dataclass(frozen=True)
class Counts:
    """What was backed up: of each node, how many were made at or below it, and their values in 0..1.

    The root was not made by a step and does not count itself.
    """

    visits: Mapping[str, int]
    values: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(cls, tree: Tree) -> Counts:
        visits = dict.fromkeys(tree, 0)
        values: dict[str, tuple[float, ...]] = dict.fromkeys(tree, ())
        for place, node in tree.items():
            for above in way(place) if place != ROOT else ():
                visits[above] += 1
                if node["value"] is not None:
                    values[above] += (scaled(node["value"]),)
        return cls(visits, values)

    def mean(self, place: str) -> float:
        """V: the mean of the values at and below a node; where there is none, of the nearest above with one.

        Without any value in the tree it is the same for all nodes, 0.
        """
        for one in reversed(way(place)):
            if self.values[one]:
                return math.fsum(self.values[one]) / len(self.values[one])
        return 0.0


def uct(counts: Counts, place: str, rule: Rule) -> float:
    """The score by which a node is chosen; infinite for a root without children.

    d counts the step that would be made: 1 at the root. The root is its own parent.
    """
    visits = counts.visits[place]
    if visits == 0:
        return math.inf
    above = counts.visits[parent(place) or place]
    d = depth(place) + 1
    explored = rule.exploration * math.sqrt(math.log(above) / visits)
    return (
        counts.mean(place)
        + explored
        + rule.alpha * math.exp(-rule.beta * (d - 1))
        - rule.gamma * math.sqrt(d)
    )


def selected(tree: Tree, rule: Rule) -> str | None:
    """The node to be expanded next: the highest score, the one made first of equals; None: there is none."""
    counts = Counts.of(tree)
    open_ones = [place for place in tree if expandable(tree, place, rule)]
    return max(open_ones, key=lambda place: uct(counts, place, rule)) if open_ones else None

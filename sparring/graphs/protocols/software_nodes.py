"""The nodes of a search over an engineer's steps, with all that is known of them."""

from __future__ import annotations

from collections.abc import Mapping

from sparring.agents.engines.base import Message
from sparring.graphs.protocols.software_evidence import HIGH, LONGEST_COMMAND, LOW, clipped
from sparring.graphs.protocols.software_place import Made
from sparring.graphs.protocols.software_tree import ROOT, VALUED, Node, abandoned, children, depth, way


class SearchNode(Node):
    """A node of the tree."""

    made: Made
    """Its event; of the root nothing but the tree."""
    why: str
    """The valuer's explanation."""
    patch: str
    """From the base to its tree."""
    said: list[Message]
    """The conversation that led there."""


Nodes = Mapping[str, SearchNode]


def steps_to(nodes: Nodes, place: str) -> list[Made]:
    """What was done on the way from the root to a node, that node's own step included."""
    return [nodes[one]["made"] for one in way(place)[1:]]


def tried(nodes: Nodes, place: str) -> list[str]:
    """What came of a node's children, for who is to make another one."""
    lines = []
    for one in (nodes[child] for child in children(nodes, place)):
        made = one["made"]
        if made["action"] is None:
            lines.append(f"A reply from which nothing could be run: {made['error']}")
        elif one["ends"] != "duplicate":
            judged = f"\nJudged {one['value']} on a scale from {LOW} to {HIGH}: {one['why']}"
            failed = f"\n{made['error']}" if made["error"] else ""
            line = clipped(made["action"].strip(), LONGEST_COMMAND)
            lines.append(f"$ {line}{failed}{'' if one['value'] is None else judged}")
    return lines


def shape(nodes: Nodes, threshold: int) -> dict[str, float | None]:
    """The tree in numbers, for the figures."""
    made = [one for place, one in nodes.items() if place != ROOT]
    asked = [one for one in made if one["ends"] in VALUED]
    left = [one for one in made if not one["ends"] and abandoned(nodes, one["place"], threshold)]
    return {
        "nodes": len(made),
        "depth": max((depth(one["place"]) for one in made), default=0),
        "duplicates": sum(one["ends"] == "duplicate" for one in made),
        "abandoned": len(left),
        "valued": sum(one["value"] is not None for one in asked) / len(asked) if asked else None,
    }

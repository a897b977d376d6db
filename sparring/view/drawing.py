"""A protocol's state machine as an SVG drawing: nodes in layers from start to end, edges as arrows."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.own import kept_out
from sparring.memory.types import dumps

logger = logging.getLogger(__name__)
CHAR, HEIGHT, GAP_X, GAP_Y, MARGIN = 7.6, 30.0, 26.0, 44.0, 14.0
LANE = 12.0
"""How far beside the way down its way back up runs, where two nodes are joined by both."""
Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A picture that a template shows as it is."""

    title: str
    width: float
    height: float
    inside: Markup

    def __html__(self) -> str:
        return self.frame(self.inside)

    def frame(self, inside: Markup) -> Markup:
        """The same picture with something else in it: a reference to where it is drawn already."""
        return Markup(
            '<svg class="graph" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" '
            'height="{:.0f}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
        ).format(self.title, self.width, self.height, self.width, self.height, inside)


def draw(protocol: str, options: Any = None, own: bool = False) -> Drawing | None:
    """The drawing of a protocol with these options; None where it is not at hand, or what a journal says of
    it describes none.

    Args:
        own: Whether a class from elsewhere (`module:Class`) is imported for it.
    """
    if isinstance(options, Mapping):  # prompts shape nothing, and their files may be gone
        options = {name: value for name, value in options.items() if name != "prompts"}
    return _draw(protocol, dumps(options), own)


@lru_cache(maxsize=128)
def _draw(protocol: str, options: str, own: bool) -> Drawing | None:
    try:
        with kept_out(not own):
            graph = make_protocol(protocol, json.loads(options)).compile().get_graph()
    except UserError:
        return None
    except Exception:  # no options of a protocol, but whatever else a journal can hold
        logger.debug("no drawing of `%s`", protocol, exc_info=True)
        return None
    names = {key: str(node.name) for key, node in graph.nodes.items()}
    edges = [(edge.source, edge.target, bool(edge.conditional)) for edge in graph.edges]
    return render(f"state machine of {protocol}", names, edges)


def render(title: str, names: Mapping[str, str], edges: Sequence[tuple[str, str, bool]]) -> Drawing:
    """Nodes (id -> label) and edges (from, to, whether it is a choice) as a drawing."""
    from grandalf.graphs import Edge, Vertex, graph_core
    from networkx import Graph, connected_components  # type: ignore[import-untyped]  # no annotations

    vertices = {key: _vertex(Vertex(key), label) for key, label in names.items()}
    links = {(a, b): _link(Edge(vertices[a], vertices[b])) for a, b, _ in edges if a != b}
    whole = Graph(list(links))
    whole.add_nodes_from(names)
    right = MARGIN
    for part in connected_components(whole):
        # Not grandalf's own `Graph`: it orders edges by their addresses, and no two drawings would be alike.
        nodes = [vertex for key, vertex in vertices.items() if key in part]
        ways = [link for (a, _), link in links.items() if a in part]
        right = _lay_out(graph_core(nodes, ways), right) + GAP_X
    boxes = {key: vertex.view for key, vertex in vertices.items()}
    parts = []
    for a, b, choice in edges:
        path = (
            _loop(boxes[a]) if a == b else _path(boxes[a], boxes[b], links[a, b].view.points, (b, a) in links)
        )
        parts.append(
            Markup('<path class="{}" d="{}" marker-end="url(#tip)"/>').format(
                "edge choice" if choice else "edge", path
            )
        )
    parts += [_node(key, names[key], box) for key, box in boxes.items()]
    points = [point for link in links.values() for point in link.view.points]
    width = max([right - GAP_X, *(x for x, _ in points)]) + MARGIN + LANE
    height = max(box.xy[1] + box.h / 2 for box in boxes.values()) + MARGIN
    tip = Markup(
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
    )
    inside = Markup('<g class="machine">{}{}</g>').format(tip, Markup("").join(parts))
    return Drawing(title, width, height, inside)


def _lay_out(component: Any, shift: float) -> float:
    """Place the nodes of a component right of `shift`, and the ways of its edges; its right end."""
    from grandalf.layouts import SugiyamaLayout

    layout = SugiyamaLayout(component)
    layout.xspace, layout.yspace = GAP_X, GAP_Y
    layout.dw = layout.dh = LANE  # a long edge takes a lane of its own through the layers that it passes
    layout.init_all(roots=[v for v in component.sV if v.data == "__start__"] or None)
    layout.draw(3)
    views, edges = [v.view for v in component.sV], [e.view for e in component.sE]
    points = [point for edge in edges for point in edge.points[1:-1]]
    left = min([view.xy[0] - view.w / 2 for view in views] + [x for x, _ in points])
    top = min(view.xy[1] - view.h / 2 for view in views)
    for view in views:
        view.xy = (view.xy[0] - left + shift, view.xy[1] - top + MARGIN)
    for edge in edges:
        edge.points = [(x - left + shift, y - top + MARGIN) for x, y in edge.points]
    ends = [view.xy[0] + view.w / 2 for view in views] + [x for edge in edges for x, _ in edge.points]
    return float(max(ends))


class _Way:
    """What the layout tells of an edge: the points of the layers that it passes."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def setpath(self, points: list[Point]) -> None:
        self.points = list(points)


def _link(edge: Any) -> Any:
    edge.view = _Way()
    return edge


def _vertex(vertex: Any, label: str) -> Any:
    from grandalf.layouts import VertexViewer

    vertex.view = VertexViewer(w=max(40.0, CHAR * len(label) + 20), h=HEIGHT)
    return vertex


def _node(key: str, label: str, box: Any) -> Markup:
    x, y = box.xy
    end = key in ("__start__", "__end__")
    said = {"__start__": "start", "__end__": "end"}.get(key, label)
    return Markup(
        '<g class="{}"><rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="{}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text></g>'
    ).format(
        "end" if end else "node", x - box.w / 2, y - box.h / 2, box.w, box.h, 15 if end else 6, x, y + 4, said
    )


def _loop(box: Any) -> str:
    x, y = box.xy
    return f"M{x + box.w / 2:.1f} {y - 6:.1f}c30 -14 30 26 0 12"


def _path(a: Any, b: Any, points: Sequence[Point], both: bool) -> str:
    """A curve from layer to layer, upright where it passes one, so that it runs between the boxes there."""
    (ax, ay), (bx, by) = a.xy, b.xy
    down = 1 if by > ay else -1
    aside = LANE if both and down < 0 else 0.0
    half = HEIGHT / 2 * down
    stops = [(ax + aside, ay, ay + half)]
    stops += [(x, y - half, y + half) for x, y in points[1:-1]]
    stops += [(bx + aside, by - half, by)]
    path = f"M{stops[0][0]:.1f} {stops[0][2]:.1f}"
    for (x, _, leave), (to, reach, out) in pairwise(stops):
        middle = (leave + reach) / 2
        path += f"C{x:.1f} {middle:.1f} {to:.1f} {middle:.1f} {to:.1f} {reach:.1f}"
        path += "" if out == stops[-1][2] else f"V{out:.1f}"
    return path

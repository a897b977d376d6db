"""A protocol's state machine as an SVG drawing: nodes in layers from start to end, edges as arrows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.memory.types import dumps

CHAR, HEIGHT, GAP_X, GAP_Y, MARGIN = 7.6, 30.0, 26.0, 44.0, 14.0
Point = tuple[float, float]


def draw(protocol: str, options: Mapping[str, Any] | None = None) -> Markup | None:
    """The drawing of a protocol with these options; None where it is not at hand (a class from elsewhere)."""
    return _draw(protocol, dumps(dict(options or {})))


@lru_cache(maxsize=128)
def _draw(protocol: str, options: str) -> Markup | None:
    try:
        graph = make_protocol(protocol, json.loads(options)).compile().get_graph()
    except UserError:
        return None
    names = {key: str(node.name) for key, node in graph.nodes.items()}
    edges = [(edge.source, edge.target, bool(edge.conditional)) for edge in graph.edges]
    return render(f"state machine of {protocol}", names, edges)


def render(title: str, names: Mapping[str, str], edges: Sequence[tuple[str, str, bool]]) -> Markup:
    """Nodes (id -> label) and edges (from, to, whether it is a choice) as an SVG element."""
    from grandalf.graphs import Edge, Graph, Vertex
    from grandalf.layouts import SugiyamaLayout

    vertices = {key: _vertex(Vertex(key), label) for key, label in names.items()}
    links = [(Edge(vertices[a], vertices[b]), choice) for a, b, choice in edges if a != b]
    graph = Graph(list(vertices.values()), [edge for edge, _ in links])
    shift = MARGIN
    for component in graph.C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = GAP_X, GAP_Y
        layout.init_all(roots=[v for v in component.sV if v.data == "__start__"] or None)
        layout.draw(3)
        left = min(v.view.xy[0] - v.view.w / 2 for v in component.sV)
        top = min(v.view.xy[1] - v.view.h / 2 for v in component.sV)
        for vertex in component.sV:
            x, y = vertex.view.xy
            vertex.view.xy = (x - left + shift, y - top + MARGIN)
        shift = max(v.view.xy[0] + v.view.w / 2 for v in component.sV) + GAP_X
    boxes = {key: vertex.view for key, vertex in vertices.items()}
    width = max(box.xy[0] + box.w / 2 for box in boxes.values()) + MARGIN + 40
    height = max(box.xy[1] + box.h / 2 for box in boxes.values()) + MARGIN
    parts = [_edge(boxes[a], boxes[b], choice) for a, b, choice in edges]
    parts += [_node(key, names[key], box) for key, box in boxes.items()]
    return Markup(
        '<svg class="graph" role="img" aria-label="{}" viewBox="0 0 {:.0f} {:.0f}" width="{:.0f}" '
        'height="{:.0f}" xmlns="http://www.w3.org/2000/svg"><defs><marker id="tip" viewBox="0 0 8 8" '
        'refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker>'
        "</defs>{}</svg>"
    ).format(title, width, height, width, height, Markup("").join(parts))


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


def _edge(a: Any, b: Any, choice: bool) -> Markup:
    """A curve down the layers, or around the right side where it goes back up."""
    (ax, ay), (bx, by) = a.xy, b.xy
    kind = "edge choice" if choice else "edge"
    if a is b:
        path = f"M{ax + a.w / 2:.1f} {ay - 6:.1f}c30 -14 30 26 0 12"
    elif by > ay:
        start, stop = ay + a.h / 2, by - b.h / 2
        middle = (start + stop) / 2
        path = f"M{ax:.1f} {start:.1f}C{ax:.1f} {middle:.1f} {bx:.1f} {middle:.1f} {bx:.1f} {stop:.1f}"
    else:
        out = max(ax + a.w / 2, bx + b.w / 2) + 34
        path = (
            f"M{ax + a.w / 2:.1f} {ay:.1f}C{out:.1f} {ay:.1f} {out:.1f} {by:.1f} {bx + b.w / 2:.1f} {by:.1f}"
        )
    return Markup('<path class="{}" d="{}" marker-end="url(#tip)"/>').format(kind, path)

"""What an argumentation framework decides, why, and its picture.

The explanation follows the attacks: what supports the decision, what attacked that, and what in the same
extension answers each attack. The drawing needs no colours to be read: boxes and lines differ in form too.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BytesIO
from math import cos, pi, sin
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.errors import UserError, unknown
from sparring.tools.argumentation import Framework, extensions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEMANTICS = ("preferred", "grounded", "stable")
MODES = ("credulous", "skeptical")
STYLES: dict[str, dict[str, Any]] = {
    "accepted": {
        "boxstyle": "round,pad=0.55",
        "facecolor": "#CDEBDF",
        "edgecolor": "#009E73",
        "linewidth": 2.6,
    },
    "rejected": {
        "boxstyle": "square,pad=0.55",
        "facecolor": "#F8DCC8",
        "edgecolor": "#D55E00",
        "linestyle": "--",
    },
    "undecided": {
        "boxstyle": "roundtooth,pad=0.55",
        "facecolor": "#EEEEEE",
        "edgecolor": "#666666",
        "linestyle": ":",
    },
}
"""Boxes; the colours are Okabe and Ito's, which the colour-blind can tell apart."""
THROUGH: dict[str, Any] = {"color": "#000000", "linestyle": "-"}
DASHED: dict[str, Any] = {"color": "#777777", "linestyle": (0, (4, 3))}
TEXT: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "parse_math": False}
CROWDED = 16
"""Arguments beyond which a box holds the id alone."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a framework decides, and by which extension (ids in order; None where there is none)."""

    decision: str | None
    extension: tuple[str, ...] | None
    candidates: tuple[str, ...]
    """Decisions accepted in some extension, in the order that breaks ties."""
    support: int
    """Extensions that accept the decision, of `extensions`."""
    extensions: int
    semantics: str
    mode: str

    @property
    def tied(self) -> bool:
        """Whether different extensions accept different decisions."""
        return len(self.candidates) > 1


def decide(
    framework: Framework, semantics: str = "preferred", mode: str = "credulous", **limits: int
) -> Decision:
    """The decision that some extension accepts (credulous), or every one (skeptical); the reasons may differ.

    A tie goes to the decision whose earliest argument has the lowest place. Where no extension exists, as
    may be under stable, nothing is accepted.

    Args:
        limits: `most` and `steps` of `extensions`.
    """
    for kind, name, known in (("semantics", semantics, SEMANTICS), ("mode", mode, MODES)):
        if name not in known:
            raise unknown(kind, name, known)
    found = extensions(framework, semantics, **limits)
    held = [{framework.by_id[id].decision for id in one} for one in found]
    order = dict.fromkeys(argument.decision for argument in framework.arguments if argument.decision)
    candidates = tuple(decision for decision in order if any(decision in one for one in held))
    taken = [one for one in candidates if mode == "credulous" or all(one in those for those in held)]
    decision = taken[0] if taken else None
    fitting = [one for one, those in zip(found, held, strict=True) if decision is None or decision in those]
    extension = tuple(id for id in framework.by_id if id in fitting[0]) if fitting else None
    support = len(fitting) if taken else 0
    return Decision(decision, extension, candidates, support, len(found), semantics, mode)


def explain(framework: Framework, decision: Decision) -> str:
    """Why, in plain words: what supports the decision, what attacked that and how the extension answers each
    attack; where no decision is accepted, what stands against each."""
    kinds = f"{decision.extensions} {decision.semantics} extension{'s' * (decision.extensions != 1)}"
    others = ", ".join(f"`{other}`" for other in decision.candidates if other != decision.decision)
    extension = decision.extension or ()
    if decision.decision is None:
        lines = [f"No decision is accepted ({kinds}, {decision.mode})."]
        lines += [f"Accepted in some of them, but not in all: {others}."] if others else []
        lines += [f"In the extension {{{', '.join(extension)}}}:"] if decision.extensions else []
        return "\n".join([*lines, *(_against(framework, extension) if decision.extensions else ())])
    lines = [f"Accepted: `{decision.decision}`, in {decision.support} of {kinds} ({decision.mode})."]
    lines += [f"Other extensions accept {others}; a tie goes to the earliest argument."] if others else []
    shown = [id for id in extension if framework.by_id[id].decision == decision.decision]
    lines += [f"It is supported by {_quoted(framework, id)}" for id in shown]
    for id in shown:  # grows by what answers the attacks
        attackers = _attackers(framework, id)
        lines += [] if attackers else [f"Nothing attacks `{id}`."]
        for attacker in attackers:
            answers = [other for other in _attackers(framework, attacker) if other in extension]
            words = [f"`{other}`" if other in shown else _quoted(framework, other) for other in answers]
            lines.append(
                f"{_attack(framework, attacker, id)} It is rejected, being attacked by {'; '.join(words)}"
            )
            shown += [other for other in answers if other not in shown]
    return "\n".join(line if line.endswith(".") else f"{line}." for line in lines)


def _against(framework: Framework, extension: Collection[str]) -> Iterator[str]:
    """Of each argument for a decision, what keeps it from being accepted."""
    labels = framework.labels(extension)
    for id, argument in framework.by_id.items():
        if argument.decision is not None:
            yield f"`{id}`, for `{argument.decision}`, is {labels[id]}."
            strong = "accepted" if labels[id] == "rejected" else "undecided"
            yield from (
                f"{_attack(framework, other, id)} That is {strong}."
                for other in _attackers(framework, id)
                if labels[other] == strong and labels[id] != "accepted"
            )


def _attackers(framework: Framework, id: str) -> list[str]:
    return [other for other in framework.by_id if framework.graph.has_edge(other, id)]


def _attack(framework: Framework, attacker: str, target: str) -> str:
    questions = framework.graph.edges[attacker, target]["questions"]
    one, other = framework.by_id[attacker], framework.by_id[target]
    rival = " as a rival" if one.decision and other.decision and one.decision != other.decision else ""
    why = f" ({', '.join(questions)})" if questions else rival
    return f"`{target}` is attacked{why} by {_quoted(framework, attacker)}."


def _quoted(framework: Framework, id: str) -> str:
    """An argument in one line, shortened."""
    argument = framework.by_id[id]
    return (
        f"`{id}` ({argument.scheme}): {textwrap.shorten(argument.text, 200, placeholder=' ...').rstrip('.')}"
    )


def draw(framework: Framework, path: str | Path, extension: Collection[str] = ()) -> Path:
    """The attack graph as a PNG: the arguments on a ring, an arrow for each attack.

    Attacks by what is accepted are drawn through, the others dashed. The user's settings of matplotlib have
    no part in it.
    """
    import matplotlib

    target, image = Path(path).expanduser(), BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        drawn(framework, extension).savefig(image, format="png")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image.getvalue())
    except OSError as error:
        raise UserError(f"drawing {target} cannot be written: {error.strerror or error}") from None
    return target


def drawn(framework: Framework, extension: Collection[str] = ()) -> Figure:
    """The figure of `draw`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = framework.labels(extension)
    size = 4.6 + 0.5 * min(len(labels), CROWDED)
    figure = Figure(figsize=(1.5 * size, size), dpi=100)
    FigureCanvasAgg(figure)
    _draw_ring(figure, framework, labels)
    _add_legend(figure)
    return figure


def _draw_ring(figure: Figure, framework: Framework, labels: dict[str, str]) -> None:
    """Boxes from the top clockwise, in order, and the arrows between their edges."""
    panel = figure.add_axes((0, 0.08, 1, 0.92), xlim=(-1.6, 1.6), ylim=(-1.3, 1.3))
    panel.set_axis_off()
    places = {
        id: (1.2 * sin(2 * pi * place / len(labels)), cos(2 * pi * place / len(labels)))
        for place, id in enumerate(labels)
    }
    boxes: dict[str, Any] = {
        id: panel.text(*places[id], _label(framework, id), bbox=STYLES[labels[id]], zorder=3, **TEXT)
        for id in labels
    }
    figure.canvas.draw()  # the boxes get their sizes, at which the arrows end
    for attacker, target in framework.graph.edges:
        arrow = {"arrowstyle": "-|>,head_width=0.25,head_length=0.5", "shrinkA": 1, "shrinkB": 1, "lw": 1.1}
        arrow |= THROUGH if labels[attacker] == "accepted" else DASHED
        ends = [places[attacker], places[target]]
        if attacker == target:  # a bow over the box, on the side away from the others
            box = boxes[target].get_bbox_patch().get_window_extent().transformed(panel.transData.inverted())
            up = places[target][1] >= 0
            middle, y = places[target][0], box.y1 if up else box.y0
            ends = [(middle - box.width / 5, y), (middle + box.width / 5, y)]
            arrow["connectionstyle"] = f"arc3,rad={-1.2 if up else 1.2}"
        else:
            arrow |= {"patchA": boxes[attacker].get_bbox_patch(), "patchB": boxes[target].get_bbox_patch()}
            second = attacker < target and framework.graph.has_edge(target, attacker)
            arrow["connectionstyle"] = f"arc3,rad={_bend(*ends) * (2.5 if second else 1)}"
        panel.annotate("", xytext=ends[0], xy=ends[1], arrowprops=arrow, zorder=2)


def _add_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    for place, (label, style) in enumerate(STYLES.items()):
        figure.text(0.1 + 0.13 * place, 0.045, label, bbox=style, **TEXT)
    lines = {"attack by an accepted argument": THROUGH, "other attack": DASHED}
    samples = [Line2D([], [], **style) for style in lines.values()]
    figure.legend(
        samples,
        list(lines),
        loc="center right",
        bbox_to_anchor=(0.98, 0.045),
        ncols=2,
        frameon=False,
        handlelength=3,
        fontsize=9,
    )


def _bend(start: tuple[float, float], end: tuple[float, float]) -> float:
    """The curvature that leads an arrow round what lies between its ends on the ring, by the middle."""
    right = (end[0] - start[0]) * start[1] > (end[1] - start[1]) * start[0]
    return 0.12 if right else -0.12


def _label(framework: Framework, id: str) -> str:
    """Id, decision and the beginning of the text, in lines short enough for a box."""
    argument = framework.by_id[id]
    if len(framework.arguments) > CROWDED:
        return textwrap.shorten(id, 12, placeholder="...")
    head = f"{id}: {argument.decision}" if argument.decision else id
    head = textwrap.shorten(head, 26, placeholder="...")
    return "\n".join([head, *textwrap.wrap(argument.text, 26, max_lines=3, placeholder=" ...")])
